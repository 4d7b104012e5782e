//! Memory access, and hiding from LLVM and from the verifier what they must not know.
//!
//! LLVM likes to fold, split and hoist address arithmetic that the verifier then can't
//! follow; the verifier likes to follow every value of a counter as a world of its own.
//! Each function here stops one of these. On the host they all do nothing.

/// Reads a word that may not be aligned.
///
/// # Safety
///
/// `size_of::<T>()` octets at `address` are readable.
#[inline(always)]
pub unsafe fn load<T: Copy>(address: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { (address as *const T).read_unaligned() }
}

/// Writes a word that need not be aligned.
///
/// # Safety
///
/// `size_of::<T>()` octets at `address` are writable.
#[inline(always)]
pub unsafe fn store<T: Copy>(address: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe { (address as *mut T).write_unaligned(value) }
}

/// Reads a word that the agent may store at the same time.
///
/// The record it names is reached through the value read, an address dependency, so no
/// barrier is needed.
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

/// `end - start`. LLVM would fold it into arithmetic of 32 bits, which the verifier refuses
/// on pointers.
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

/// The same value, of which neither LLVM nor the verifier knows anything. `stranger` is any value
/// that the verifier does not know.
#[inline(always)]
#[must_use]
pub fn forget(value: u64, stranger: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: arithmetic on registers; twice the same xor leaves the value as it was.
        unsafe {
            core::arch::asm!(
                "{0} ^= {1}",
                "{0} ^= {1}",
                inout(reg) value,
                in(reg) stranger,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = stranger;
        value
    }
}

/// The same value, of which neither LLVM nor the verifier knows more than that it is at
/// most 255. `stranger` is any value that the verifier does not know.
///
/// Without this the verifier walks the rest of the program once for each value.
#[inline(always)]
#[must_use]
pub fn forget_octet(value: usize, stranger: u64) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: arithmetic on registers; twice the same xor leaves the value as it was.
        unsafe {
            core::arch::asm!(
                "{0} ^= {1}",
                "{0} ^= {1}",
                "{0} &= 255",
                inout(reg) value,
                in(reg) stranger,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = stranger;
        value & 255
    }
}

/// `base + (offset & MASK)`, in one piece: a bound that the verifier learned earlier may be
/// lost by the time the offset is used (before Linux 6.3 when it was spilled to the stack),
/// and LLVM drops a mask that it thinks changes nothing.
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
