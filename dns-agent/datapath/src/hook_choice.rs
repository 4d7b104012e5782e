//! The values of `--interface`: interfaces, and the hook for each.

use std::str::FromStr;

/// A value of `--interface`: the interfaces that it matches, and the hook for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// A name, a shell pattern with `*` and `?`, or [`PODS`](crate::hooks::PODS).
    pub name: String,
    /// The requested hook.
    pub hook: HookChoice,
}

/// The hook requested for an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookChoice {
    /// tc on a veth; on other devices as [`HookChoice::Xdp`].
    Auto,
    /// XDP in the driver (native), or in the network stack (generic) if the driver refuses. On a
    /// veth only generic.
    Xdp,
    /// XDP in the network stack (generic), which needs no support by the driver.
    XdpGeneric,
    /// tc ingress.
    Tc,
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, hook) = match text.split_once('=') {
            None => (text, HookChoice::Auto),
            Some((name, "auto")) => (name, HookChoice::Auto),
            Some((name, "xdp")) => (name, HookChoice::Xdp),
            Some((name, "xdp-generic")) => (name, HookChoice::XdpGeneric),
            Some((name, "tc")) => (name, HookChoice::Tc),
            Some((_, hook)) => {
                return Err(format!(
                    "no hook is called {hook:?}: use auto, xdp, xdp-generic or tc"
                ));
            }
        };
        if name.is_empty() {
            return Err("the interface's name is missing: give NAME or NAME=HOOK".to_owned());
        }
        Ok(Interface {
            name: name.to_owned(),
            hook,
        })
    }
}
