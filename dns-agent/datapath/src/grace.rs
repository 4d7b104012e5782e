//! Grace periods: waiting until no reader can still use what it read before.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::Context as _;

/// Waits for readers of the shared memory.
pub trait Grace {
    /// Returns when every reader that started before the call has ended.
    fn wait(&mut self);
}

/// Waits for the kernel's readers: BPF programs, which run under RCU.
///
/// An update of an element in an array of maps makes the kernel wait for all running programs
/// (`maybe_wait_bpf_programs`, Linux 5.0, commit 1ae80cf31938), which takes some milliseconds.
/// membarrier(2) is no substitute: its GLOBAL command does nothing with one CPU online, and is
/// refused under nohz_full.
pub struct Rcu {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Rcu {
    /// Creates the outer and the inner map.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map: no CAP_BPF, or no memory.
    pub fn new() -> anyhow::Result<Self> {
        let inner = create_map(BPF_MAP_TYPE_ARRAY, 0)
            .context("creating the inner map for grace periods")?;
        let outer = create_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd())
            .context("creating the outer map for grace periods")?;
        let mut rcu = Self { outer, inner };
        rcu.update().context("waiting for a grace period")?;
        Ok(rcu)
    }

    fn update(&mut self) -> io::Result<()> {
        let key = 0u32;
        let value = self.inner.as_raw_fd();
        let mut attributes = MapUpdate {
            map_fd: self.outer.as_raw_fd() as u64,
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
        };
        // SAFETY: the attributes are those of BPF_MAP_UPDATE_ELEM, and key and value outlive the
        // call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }?;
        Ok(())
    }
}

impl Grace for Rcu {
    fn wait(&mut self) {
        // The same call has succeeded in `new`. Without a grace period no slot may be reused, so
        // the process aborts and the lease expires.
        if let Err(error) = self.update() {
            tracing::error!(
                "the kernel refuses to wait for its readers, so the tables can't be changed safely and the agent aborts; \
                 the kernel stops answering when the lease expires: {error}"
            );
            std::process::abort();
        }
    }
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// Creates a map of one four-byte element: a number, or a map like `inner`.
fn create_map(map_type: u32, inner: i32) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: inner as u32,
    };
    // SAFETY: the attributes are those of BPF_MAP_CREATE and contain no pointers.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }?;
    // SAFETY: the kernel has just opened the descriptor, so it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The head of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// `union bpf_attr` for BPF_MAP_UPDATE_ELEM. The kernel's `map_fd` is 32 bits followed by 32 bits
/// of padding, which on little-endian machines equals one 64-bit number.
#[repr(C)]
struct MapUpdate {
    map_fd: u64,
    key: u64,
    value: u64,
    flags: u64,
}

/// # Safety
///
/// `attributes` must have the layout that the command reads, and its pointers must be valid.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: guaranteed by the caller.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}
