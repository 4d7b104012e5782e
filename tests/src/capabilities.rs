//! Drops capabilities of a thread.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Removes the capabilities `dropped` from the calling thread. Threads that it starts later don't
/// have them either.
pub fn drop_capabilities(dropped: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?;
    let left = CapabilitySets {
        effective: held.effective.difference(dropped),
        permitted: held.permitted.difference(dropped),
        inheritable: held.inheritable.difference(dropped),
    };
    Ok(set_capabilities(None, left)?)
}
