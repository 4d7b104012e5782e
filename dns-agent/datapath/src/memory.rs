//! Memory shared with the kernel: a mapped BPF array.
//!
//! [`Memory`] gives access to it as atomic 64-bit words, so code can read and write it without
//! `unsafe`, even while the kernel reads it.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    slice,
    sync::atomic::AtomicU64,
};

/// A mapping, which is unmapped when dropped.
#[derive(Debug)]
pub struct Memory {
    address: NonNull<AtomicU64>,
    words: usize,
}

impl Memory {
    /// Maps a BPF array created with `BPF_F_MMAPABLE` (Linux 5.5, commit fc9702273e2e).
    ///
    /// `bytes` is the size of the whole array, a multiple of 8.
    ///
    /// # Errors
    ///
    /// Errors of mmap(2), such as ENOMEM.
    pub fn map(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: the mapping is new, at an address that the kernel chooses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // The kernel never chooses the address 0.
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            address,
            words: bytes / 8,
        })
    }

    /// All words of the memory.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, has this many words, and is readable and writable
        // until `self` is dropped. The words are atomics, so the kernel may access them
        // concurrently.
        unsafe { slice::from_raw_parts(self.address.as_ptr(), self.words) }
    }

    /// The size of the mapping in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.words * 8
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `map`, and no reference to it is left.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes()) };
    }
}

// SAFETY: the mapping belongs to no thread, and is accessed only through atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}
