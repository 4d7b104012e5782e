//! The wish to end, so that what was made is taken away again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Knows whether SIGINT or SIGTERM came.
#[derive(Clone)]
pub(crate) struct Signals(Arc<AtomicBool>);

impl Signals {
    /// Listens from now on.
    pub(crate) fn new() -> Result<Signals> {
        let came = Arc::new(AtomicBool::new(false));
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
        let set = came.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            set.store(true, Ordering::Relaxed);
        });
        Ok(Signals(came))
    }

    /// Fails when it is time to end.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
