//! Memory shared with the kernel: a BPF array, mapped.
//!
//! All of it is seen as 64-bit words that are loaded and stored whole, so everything built
//! on it is safe code, whatever the kernel reads at the same time.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    slice,
    sync::atomic::AtomicU64,
};

/// A mapping, undone when dropped.
#[derive(Debug)]
pub struct Memory {
    address: NonNull<AtomicU64>,
    words: usize,
}

impl Memory {
    /// Maps a BPF array that was made with `BPF_F_MMAPABLE` (Linux 5.5, commit fc9702273e2e).
    ///
    /// `octets` is the array's whole size.
    ///
    /// # Errors
    ///
    /// Those of mmap(2).
    pub fn of_map(map: BorrowedFd<'_>, octets: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                octets,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            address,
            words: octets / 8,
        })
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, as long as that, readable and writable until it is
        // dropped; and words that change under the reader are what atomics are for.
        unsafe { slice::from_raw_parts(self.address.as_ptr(), self.words) }
    }

    /// Octets in the mapping.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.words * 8
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `of_map`, to which no reference is left.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.octets()) };
    }
}

// SAFETY: the mapping belongs to no thread, and is reached through atomics only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}
