//! config
#![allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub hook: Hook,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Auto,
    Xdp,
    XdpGeneric,
    Tc,
}
