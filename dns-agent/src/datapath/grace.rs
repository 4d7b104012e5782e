//! Grace periods: waiting until no reader can still hold what it read before.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::Context as _;

/// Something that can wait for readers.
pub trait Grace {
    /// Returns when every reader that started before the call has ended.
    fn wait(&mut self);
}

/// The kernel's readers: programs that run under RCU.
///
/// Updating the element of an array of maps makes the kernel wait for them
/// (`maybe_wait_bpf_programs`, Linux 5.0, commit 1ae80cf31938), which takes some milliseconds.
/// membarrier(2) would not do: its GLOBAL command does nothing with one CPU online and is refused
/// under nohz_full.
pub struct Rcu {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Rcu {
    /// Makes the two maps.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one: no CAP_BPF, or no memory.
    pub fn new() -> anyhow::Result<Self> {
        let inner =
            create(BPF_MAP_TYPE_ARRAY, 0).context("creating the inner map for grace periods")?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd())
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
        // SAFETY: the attributes of BPF_MAP_UPDATE_ELEM; key and value outlive the call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }?;
        Ok(())
    }
}

impl Grace for Rcu {
    fn wait(&mut self) {
        // Nothing in the call can fail that did not fail in `new`; and were it to, a slot must
        // not be used again. Then the process ends, and the lease with it.
        if let Err(error) = self.update() {
            tracing::error!("the kernel refuses to wait for its readers: {error}; giving up");
            std::process::abort();
        }
    }
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// A map of one element of four octets: a number, or a map like `inner`.
fn create(map_type: u32, inner: i32) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: inner as u32,
    };
    // SAFETY: the attributes of BPF_MAP_CREATE.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }?;
    // SAFETY: a descriptor that the kernel just gave us and nobody else has.
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

/// `union bpf_attr` for BPF_MAP_UPDATE_ELEM. `map_fd` is 32 bits and 32 of padding, which on
/// little-endian machines is one number.
#[repr(C)]
struct MapUpdate {
    map_fd: u64,
    key: u64,
    value: u64,
    flags: u64,
}

/// # Safety
///
/// `attributes` is what the command reads, and its pointers are good.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}
