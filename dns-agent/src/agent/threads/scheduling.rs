//! How the kernel divides a CPU among threads.

use std::io;

/// Lets the calling thread wait, when it wakes up, until other threads sleep or have used their
/// time slices (`SCHED_BATCH`, sched(7)). It has the same share of the CPU as before.
///
/// # Errors
/// When sched_setscheduler(2) fails, for example because a seccomp filter forbids it.
pub fn let_others_finish() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // The C library of the image, musl, has no such function: its scheduling is by process.
    // SAFETY: 0 is the calling thread, and the kernel only reads `parameters`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_BATCH,
            &raw const parameters,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
