//! Threads that may do less than root.

use std::io;

/// A capability's bit, from `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Network devices: links, filters, settings.
    NetAdmin = 12,
    /// Nearly everything.
    SysAdmin = 21,
    /// Limits.
    SysResource = 24,
    /// What the verifier else forbids.
    Perfmon = 38,
    /// bpf(2).
    Bpf = 39,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words of each set.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    /// 0: the calling thread.
    thread: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes capabilities from the calling thread, for good.
pub fn drop(dropped: &[Capability]) -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        thread: 0,
    };
    let mut words = [Sets::default(); 2];
    // SAFETY: a header of version 3, and the two words that it makes the kernel write.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut words) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    for capability in dropped {
        let bit = *capability as usize;
        let sets = &mut words[bit / 32];
        let kept = !(1 << (bit % 32));
        sets.effective &= kept;
        sets.permitted &= kept;
        sets.inheritable &= kept;
    }
    // SAFETY: as above, and the kernel only reads.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const words) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
