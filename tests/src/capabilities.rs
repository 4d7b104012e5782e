//! Threads with fewer capabilities than root.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Drops capabilities of the calling thread permanently.
pub fn drop_capabilities(dropped: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?;
    let left = CapabilitySets {
        effective: held.effective.difference(dropped),
        permitted: held.permitted.difference(dropped),
        inheritable: held.inheritable.difference(dropped),
    };
    Ok(set_capabilities(None, left)?)
}
