//! Runs a thread with fewer capabilities than root has.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Permanently removes the capabilities `dropped` from the calling thread.
pub fn drop_capabilities(dropped: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?;
    let left = CapabilitySets {
        effective: held.effective.difference(dropped),
        permitted: held.permitted.difference(dropped),
        inheritable: held.inheritable.difference(dropped),
    };
    Ok(set_capabilities(None, left)?)
}
