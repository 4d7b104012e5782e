//! Taking off by hand what agents have left on a node.

use std::path::Path;

use anyhow::{Context as _, bail};

use super::{
    hooks::remove_filters,
    interfaces::Device,
    pins::{Claim, Pins, are_there},
};

/// Takes every hook and pin of ours off this network namespace; says what was taken off.
///
/// # Errors
///
/// When an agent is running, which has them, or when something can't be taken off.
pub fn detach(bpffs: &Path, devices: &[Device]) -> anyhow::Result<Vec<String>> {
    let mut taken_off = Vec::new();
    if are_there(bpffs) {
        let pins = match Pins::claim(bpffs)? {
            Claim::Ours(pins) => pins,
            Claim::Untrusted(reason) => bail!(reason),
            Claim::Others => bail!(
                "an agent is running on this node and has the hooks: end it first, it takes them off itself unless it runs with --persist"
            ),
        };
        let removed = pins.remove_all().context("removing pins")?;
        taken_off.extend(removed.iter().map(|path| path.display().to_string()));
    }
    taken_off.extend(detach_filters(devices)?);
    Ok(taken_off)
}

/// Takes off the filters that an agent has left, on kernels before tcx; says which.
///
/// # Errors
///
/// When one can't be taken off.
pub fn detach_filters(devices: &[Device]) -> anyhow::Result<Vec<String>> {
    let mut taken_off = Vec::new();
    for device in devices {
        let names = remove_filters(device)?;
        let names = names.iter();
        taken_off.extend(names.map(|name| format!("{}: the filter {name}", device.name)));
    }
    Ok(taken_off)
}
