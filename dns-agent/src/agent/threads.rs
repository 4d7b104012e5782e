//! Capabilities of the agent's threads.
//!
//! The runtime's worker threads and those that receive queries over UDP read untrusted input:
//! queries, upstreams' answers, objects. They drop all capabilities. Threads that load programs,
//! write tables, serve the admin endpoints or read the operator's files are started by the first
//! thread before it drops its capabilities, or by such a thread. So they inherit the first thread's
//! capabilities, such as `CAP_BPF` and `CAP_NET_ADMIN`.

use std::{io, thread};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};
use tracing::warn;

/// Drops every capability of the calling thread. Threads that it starts later have none either.
///
/// # Errors
/// When capset(2) fails. This is not expected, because a thread may always drop capabilities.
pub fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, none)?)
}

/// Drops CAP_SYS_ADMIN of the calling thread, and keeps the other capabilities.
///
/// # Errors
/// As for [`drop_capabilities`].
pub fn drop_administrator() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    for set in [
        &mut sets.effective,
        &mut sets.permitted,
        &mut sets.inheritable,
    ] {
        set.remove(CapabilitySet::SYS_ADMIN);
    }
    Ok(set_capabilities(None, sets)?)
}

/// Runs a closure on a new thread that has the caller's capabilities. The closure may block.
///
/// # Errors
/// When no thread can be started. The receiver returns an error if the closure panics.
pub(super) fn run_privileged<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, result) = oneshot::channel();
    let runtime = Handle::current();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Lets `work` get the runtime from `Handle::current`.
            let _inside = runtime.enter();
            // Fails when the caller no longer waits.
            let _ = done.send(work());
        })?;
    Ok(result)
}

/// Runs a task on a new thread that has the caller's capabilities. The returned future completes
/// when the task ends; dropping the future ends the task.
///
/// # Errors
/// When no thread can be started, or no runtime can be created for it.
pub(super) fn spawn_privileged_task(
    name: &str,
    task: impl Future<Output = ()> + Send + 'static,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    spawn_task(name, || {}, task)
}

/// As [`spawn_privileged_task`], but the thread has no capabilities.
///
/// # Errors
/// As for [`spawn_privileged_task`].
pub(super) fn spawn_unprivileged_task(
    name: &str,
    task: impl Future<Output = ()> + Send + 'static,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    spawn_task(name, drop_unneeded_capabilities, task)
}

/// Drops every capability of the calling thread, or logs that it can't.
pub fn drop_unneeded_capabilities() {
    if let Err(error) = drop_capabilities() {
        warn!(
            "a thread can't drop its capabilities, so it runs with more rights than it needs: \
             {error}"
        );
    }
}

/// Runs a task on a new thread, after `prepare` ran there.
fn spawn_task(
    name: &str,
    prepare: impl FnOnce() + Send + 'static,
    task: impl Future<Output = ()> + Send + 'static,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut alive, ended) = oneshot::channel::<()>();
    let runtime = Builder::new_current_thread()
        .thread_name(name)
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            prepare();
            runtime.block_on(async {
                tokio::select! {
                    // Polled first: when the main runtime shuts down, it closes this channel before
                    // the sockets that the task uses begin to fail.
                    biased;
                    () = alive.closed() => {}
                    () = task => {}
                }
            });
        })?;
    Ok(async {
        // Always an error, because nothing is ever sent.
        let _ = ended.await;
    })
}
