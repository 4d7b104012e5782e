//! What the kernel was built with, as far as that can be read.

use std::{collections::BTreeMap, fs, io::Read as _};

use flate2::read::GzDecoder;

use super::{Finding, Tcx, kernel::Kernel};

/// A kernel's configuration.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// The file that it is in.
    place: String,
    /// The options that are set, without `CONFIG_`.
    options: BTreeMap<String, String>,
}

const RUNNING: &str = "/proc/config.gz";

/// The configuration of the running kernel: what it tells of itself, else the file beside it.
pub(super) fn read(kernel: &Kernel) -> Option<Config> {
    let running = fs::read(RUNNING).ok().and_then(|packed| {
        let mut text = String::new();
        GzDecoder::new(&packed[..]).read_to_string(&mut text).ok()?;
        Some(Config::parse(RUNNING, &text))
    });
    running.or_else(|| {
        let place = beside(kernel);
        let text = fs::read_to_string(&place).ok()?;
        Some(Config::parse(&place, &text))
    })
}

fn beside(kernel: &Kernel) -> String {
    format!("/boot/config-{}", kernel.release)
}

impl Config {
    pub(super) fn parse(place: &str, text: &str) -> Config {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Config {
            place: place.to_owned(),
            options: options.collect(),
        }
    }
}

pub(super) fn config(config: Option<&Config>, tcx: &Tcx) -> Finding {
    let has_tcx = matches!(tcx, Ok(true));
    let needed: &[(&str, &str)] = match has_tcx {
        true => &[("BPF_SYSCALL", "bpf(2)")],
        false => &[
            ("BPF_SYSCALL", "bpf(2)"),
            ("NET_SCH_INGRESS", "clsact"),
            ("NET_CLS_BPF", "filters that are BPF programs"),
        ],
    };
    let Some(Config { place, options }) = config else {
        let rest = match has_tcx {
            true => "what matters was tried instead",
            false => {
                "whether it has clsact filters (NET_SCH_INGRESS, NET_CLS_BPF), as distributions' kernels do, shows at the \
                 first interface"
            }
        };
        return Finding::works("config", format!("can't be read here; {rest}"));
    };
    let missing = needed
        .iter()
        .filter(|(option, _)| !options.contains_key(*option));
    let missing: Vec<String> = missing
        .map(|(option, what)| format!("CONFIG_{option} ({what})"))
        .collect();
    if !missing.is_empty() {
        return Finding::fails(
            "config",
            format!(
                "this kernel was built without {} ({place}): another kernel is needed",
                missing.join(", ")
            ),
        );
    }
    let modules: Vec<&str> = needed
        .iter()
        .map(|(option, _)| *option)
        .filter(|option| options.get(*option).is_some_and(|value| value == "m"))
        .collect();
    let loaded = match modules.is_empty() {
        true => String::new(),
        false => format!(
            "; {} as modules, which the kernel loads when they are first used",
            modules.join(" and ")
        ),
    };
    Finding::works("config", format!("{place} has what is needed{loaded}"))
}
