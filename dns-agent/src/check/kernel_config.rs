//! The finding about the kernel's build configuration.

use std::{collections::BTreeMap, fs, io::Read as _};

use flate2::read::GzDecoder;

use super::{Finding, Tcx, kernel::KernelVersion};

/// A kernel's build configuration.
#[derive(Clone, Debug)]
pub(super) struct KernelConfig {
    /// The path of the file.
    path: String,
    /// The options that are set, without `CONFIG_`, and their values.
    options: BTreeMap<String, String>,
}

const PROC_CONFIG: &str = "/proc/config.gz";

/// The configuration of the running kernel: /proc/config.gz, or else the file in /boot. `None` if
/// neither can be read.
pub(super) fn read(kernel: &KernelVersion) -> Option<KernelConfig> {
    let running = fs::read(PROC_CONFIG).ok().and_then(|packed| {
        let mut text = String::new();
        GzDecoder::new(&packed[..]).read_to_string(&mut text).ok()?;
        Some(KernelConfig::parse(PROC_CONFIG, &text))
    });
    running.or_else(|| {
        let path = boot_config(kernel);
        let text = fs::read_to_string(&path).ok()?;
        Some(KernelConfig::parse(&path, &text))
    })
}

fn boot_config(kernel: &KernelVersion) -> String {
    format!("/boot/config-{}", kernel.release)
}

impl KernelConfig {
    pub(super) fn parse(path: &str, text: &str) -> KernelConfig {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        KernelConfig {
            path: path.to_owned(),
            options: options.collect(),
        }
    }
}

pub(super) fn config(config: Option<&KernelConfig>, tcx: &Tcx) -> Finding {
    let has_tcx = matches!(tcx, Ok(true));
    let needed: &[(&str, &str)] = if has_tcx {
        &[("BPF_SYSCALL", "bpf(2)")]
    } else {
        &[
            ("BPF_SYSCALL", "bpf(2)"),
            ("NET_SCH_INGRESS", "clsact"),
            ("NET_CLS_BPF", "filters that are BPF programs"),
        ]
    };
    let Some(KernelConfig { path, options }) = config else {
        let consequence = if has_tcx {
            "the features were tried instead"
        } else {
            "attaching to the first interface shows whether the kernel has clsact filters \
             (NET_SCH_INGRESS, NET_CLS_BPF); the kernels of distributions have them"
        };
        return Finding::works(
            "config",
            format!("the kernel's configuration can't be read here; {consequence}"),
        );
    };
    let missing = needed
        .iter()
        .filter(|(option, _)| !options.contains_key(*option));
    let missing: Vec<String> = missing
        .map(|(option, purpose)| format!("CONFIG_{option} ({purpose})"))
        .collect();
    if !missing.is_empty() {
        return Finding::fails(
            "config",
            format!(
                "this kernel was built without {} ({path}): use another kernel",
                missing.join(", ")
            ),
        );
    }
    let modules: Vec<&str> = needed
        .iter()
        .map(|(option, _)| *option)
        .filter(|option| options.get(*option).is_some_and(|value| value == "m"))
        .collect();
    let loaded = if modules.is_empty() {
        String::new()
    } else {
        format!(
            "; {} as modules, which the kernel loads at the first use",
            modules.join(" and ")
        )
    };
    Finding::works("config", format!("{path} has all needed options{loaded}"))
}
