//! Memory access, and functions that hide values from LLVM or from the verifier.
//!
//! LLVM folds, splits and hoists address arithmetic in ways that the verifier can't follow. And the
//! verifier walks the rest of the program once for each value of a loop counter that it can tell
//! apart. The functions with inline assembly prevent this. On the host they are plain arithmetic.

use dns_common::settings::MAX_SUFFIXES;

/// Reads a value that may be unaligned.
///
/// # Safety
///
/// `size_of::<T>()` bytes at `address` are readable.
#[inline(always)]
pub unsafe fn load<T: Copy>(address: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { (address as *const T).read_unaligned() }
}

/// Writes a value that may be unaligned.
///
/// # Safety
///
/// `size_of::<T>()` bytes at `address` are writable.
#[inline(always)]
pub unsafe fn store<T: Copy>(address: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe { (address as *mut T).write_unaligned(value) }
}

/// Reads a word that the agent or another CPU may store at the same time.
///
/// The kernel program needs no barrier: if the word publishes data, the program computes the
/// address of the data from the word.
///
/// # Safety
///
/// `address` is readable and a multiple of eight.
#[inline(always)]
pub unsafe fn load_shared(address: usize) -> u64 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        (address as *const u64).read_volatile()
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        use core::sync::atomic::{AtomicU64, Ordering};
        AtomicU64::from_ptr(address as *mut u64).load(Ordering::Acquire)
    }
}

/// `end - start`. LLVM could make it 32-bit arithmetic, which the verifier rejects for pointers.
#[inline(always)]
#[must_use]
pub fn distance(start: usize, end: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut distance = end;
        // SAFETY: arithmetic on registers.
        unsafe {
            core::arch::asm!(
                "{0} -= {1}",
                inout(reg) distance,
                in(reg) start,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        distance
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        end - start
    }
}

/// Returns `value`, but makes LLVM and the verifier forget what they know about it. `unknown` is
/// any value that the verifier does not know.
#[inline(always)]
#[must_use]
pub fn forget(value: u64, unknown: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: arithmetic on registers. The second xor restores the value.
        unsafe {
            core::arch::asm!(
                "{0} ^= {1}",
                "{0} ^= {1}",
                inout(reg) value,
                in(reg) unknown,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = unknown;
        value
    }
}

/// Returns `value & 255`, but makes LLVM and the verifier forget everything about it, except that
/// it is at most 255. `unknown` is any value that the verifier does not know.
///
/// Otherwise the verifier would walk the rest of the program once for each value.
#[inline(always)]
#[must_use]
pub fn forget_byte(value: usize, unknown: u64) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: arithmetic on registers. The second xor restores the value.
        unsafe {
            core::arch::asm!(
                "{0} ^= {1}",
                "{0} ^= {1}",
                "{0} &= 255",
                inout(reg) value,
                in(reg) unknown,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = unknown;
        value & 255
    }
}

/// The address `base + (offset & MASK)`, with the mask directly before the addition. The mask gives
/// the verifier a bound, because it may forget the bound of an earlier check (before Linux 6.3 when
/// the value was spilled to the stack). LLVM would remove a mask that changes nothing.
#[inline(always)]
#[must_use]
pub fn add_masked<const MASK: usize>(base: usize, offset: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut offset = offset;
        // SAFETY: arithmetic on a register.
        unsafe {
            core::arch::asm!(
                "{0} &= {1}",
                inout(reg) offset,
                const MASK,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        base + offset
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        base + (offset & MASK)
    }
}

/// The element at position `at`, which is masked instead of checked, see [`add_masked`].
#[inline(always)]
pub(crate) fn element<T>(array: &[T; MAX_SUFFIXES], at: usize) -> &T {
    let at = add_masked::<{ MAX_SUFFIXES - 1 }>(0, at) * size_of::<T>();
    // SAFETY: the mask leaves only positions inside the array.
    unsafe { &*((array.as_ptr() as usize + at) as *const T) }
}
