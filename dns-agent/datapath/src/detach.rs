//! `dns-agent detach`: removes the hooks that agents have left on a node.

use std::path::Path;

use anyhow::{Context as _, bail};

use super::{
    hooks::remove_filters,
    interfaces::Device,
    pins::{Claim, Pins, folder_exists},
};

/// Removes all hooks and pins of agents from this network namespace. Returns a description of each.
/// A link without a pin is not removed, because it ends with its agent. A running agent is
/// recognised by its lock on the folder of pins. One that could not claim the folder loses its
/// filters.
///
/// # Errors
///
/// When a running agent owns the hooks, when the folder of pins belongs to another user or can't be
/// opened, or when a pin or a filter can't be removed.
pub fn detach(bpffs: &Path, devices: &[Device]) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    if folder_exists(bpffs) {
        let pins = match Pins::claim(bpffs)? {
            Claim::Claimed(pins) => pins,
            Claim::Untrusted(reason) => bail!(reason),
            Claim::HeldByAnotherAgent => bail!(
                "a running agent owns the hooks of this node: stop that agent first; without \
                 --persist it removes its hooks itself"
            ),
        };
        let unpinned = pins.remove_all().context("removing pins")?;
        removed.extend(unpinned.iter().map(|path| path.display().to_string()));
    }
    removed.extend(detach_filters(devices)?);
    Ok(removed)
}

/// Removes the filters that an agent has left, on kernels without tcx. Returns a description of
/// each.
///
/// # Errors
///
/// When a filter can't be removed.
pub fn detach_filters(devices: &[Device]) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for device in devices {
        let names = remove_filters(device)?;
        let names = names.iter();
        removed.extend(names.map(|name| format!("{}: the filter {name}", device.name)));
    }
    Ok(removed)
}
