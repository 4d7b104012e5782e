//! Threads that may do less than root.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Takes capabilities from the calling thread, for good.
pub fn drop(dropped: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?;
    let left = CapabilitySets {
        effective: held.effective.difference(dropped),
        permitted: held.permitted.difference(dropped),
        inheritable: held.inheritable.difference(dropped),
    };
    Ok(set_capabilities(None, left)?)
}
