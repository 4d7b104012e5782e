//! Grace periods: waiting until no reader can still use what it read before.

use std::{io, os::fd::OwnedFd};

use anyhow::Context as _;

use super::syscall;

/// Waits for readers of the shared memory.
pub trait Grace {
    /// Returns when every reader that started before the call has ended.
    fn wait(&mut self);
}

/// Waits for the kernel's readers: BPF programs, which run under RCU.
///
/// An update of an element in an array of maps makes the kernel wait for all running programs
/// (`maybe_wait_bpf_programs`, commit 1ae80cf31938, which Linux 5.0 and later have). This takes
/// some milliseconds. membarrier(2) is no substitute: its GLOBAL command does nothing with one CPU
/// online, and is refused under nohz_full.
pub struct Rcu {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Rcu {
    /// Creates the outer and the inner map.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map or its update: no CAP_BPF, or no memory.
    pub fn new() -> anyhow::Result<Self> {
        let inner = syscall::create_array().context("creating the inner map for grace periods")?;
        let outer = syscall::create_array_of_maps(&inner)
            .context("creating the outer map for grace periods")?;
        let rcu = Self { outer, inner };
        rcu.update_outer_map()
            .context("waiting for a grace period")?;
        Ok(rcu)
    }

    /// Returns when all running programs have ended.
    fn update_outer_map(&self) -> io::Result<()> {
        syscall::set_inner_map(&self.outer, &self.inner)
    }
}

impl Grace for Rcu {
    fn wait(&mut self) {
        // The same call has succeeded in `new`. Without a grace period no slot may be reused, so
        // the process aborts and the lease expires.
        if let Err(error) = self.update_outer_map() {
            tracing::error!(
                "the kernel refuses to wait for its readers, so the tables can't be changed \
                 safely and the agent aborts; the kernel stops answering when the lease expires: \
                 {error}"
            );
            std::process::abort();
        }
    }
}
