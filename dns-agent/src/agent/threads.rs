//! Which threads may do what.
//!
//! The threads of the runtime read what strangers send: queries, upstreams' answers, objects. They need
//! no capability and have none. What speaks to the kernel, and to the operator's files, runs on threads of its
//! own, which have those of the thread that starts them: `CAP_BPF`, `CAP_NET_ADMIN` and so on.

use std::{io, thread};

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// Gives up every capability of the calling thread; those that it starts have none either.
///
/// # Errors
/// What the kernel says, which has no reason to refuse.
pub fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, none)?)
}

/// Does something on a thread that has the caller's capabilities, beside the runtime.
///
/// # Errors
/// When there can be no more threads. Waiting fails when the thread panicked.
pub(super) fn privileged<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, result) = oneshot::channel();
    let runtime = Handle::current();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _inside = runtime.enter();
            // Nobody may wait for it any more.
            let _ = done.send(work());
        })?;
    Ok(result)
}

/// Runs a task on a thread that has the caller's capabilities. It ends when what is returned is dropped,
/// which waits for its end.
///
/// # Errors
/// When there can be no more threads, or the kernel has no more of what a runtime needs.
pub(super) fn privileged_task(
    name: &str,
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
            runtime.block_on(async {
                tokio::select! {
                    () = task => {}
                    () = alive.closed() => {}
                }
            });
        })?;
    Ok(async {
        // An error: nothing is ever sent.
        let _ = ended.await;
    })
}
