//! Memory access, and functions that hide values from LLVM or from the verifier.
//!
//! LLVM folds, splits and hoists address arithmetic so that the verifier can't follow it. The
//! verifier follows every value of a counter as a state of its own. Each function here prevents one
//! of these. On the host they have no such effect.

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

/// Reads a word that the agent may store at the same time.
///
/// No barrier is needed: the address of what the word names depends on the value that is read.
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

/// `end - start`. LLVM would fold it into 32-bit arithmetic, which the verifier rejects for
/// pointers.
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

/// `value`, about which LLVM and the verifier then know nothing. `unknown` is any value that the
/// verifier does not know.
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

/// `value & 255`, about which LLVM and the verifier then know only that it is at most 255.
/// `unknown` is any value that the verifier does not know.
///
/// Without it the verifier walks the rest of the program once for each value.
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

/// `base + (offset & MASK)`, with the mask directly before the addition. The verifier may forget a
/// bound from an earlier check (before Linux 6.3 when the value was spilled to the stack), and LLVM
/// removes a mask that it can prove to change nothing.
#[inline(always)]
#[must_use]
pub fn offset<const MASK: usize>(base: usize, offset: usize) -> usize {
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

/// The element at position `at`. The position is masked and not checked, see [`offset`].
#[inline(always)]
pub(crate) fn element<T>(array: &[T; MAX_SUFFIXES], at: usize) -> &T {
    let at = offset::<{ MAX_SUFFIXES - 1 }>(0, at) * size_of::<T>();
    // SAFETY: the mask leaves only positions inside the array.
    unsafe { &*((array.as_ptr() as usize + at) as *const T) }
}
