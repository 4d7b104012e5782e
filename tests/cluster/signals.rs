//! SIGINT and SIGTERM end a run early. The run still deletes its objects and namespaces.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Whether SIGINT or SIGTERM has arrived.
#[derive(Clone)]
pub(crate) struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    /// Starts a thread that waits for the signals.
    pub(crate) fn new() -> Result<StopRequest> {
        let arrived = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        let set = arrived.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            set.store(true, Ordering::Relaxed);
        });
        Ok(StopRequest(arrived))
    }

    /// Fails if SIGINT or SIGTERM has arrived.
    pub(crate) fn fail_if_stopped(&self) -> Result<()> {
        ensure!(
            !self.0.load(Ordering::Relaxed),
            "stopped by SIGINT or SIGTERM"
        );
        Ok(())
    }
}
