//! Signals that end the demo. They are read at points where the demo can clean up.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// The signals that have arrived and were not read yet.
pub(crate) struct CaughtSignals {
    arrived: Receiver<&'static str>,
    sender: Sender<&'static str>,
}

impl CaughtSignals {
    /// Blocks the signals on this thread and on those that it starts later, and starts a thread
    /// that waits for them.
    pub(crate) fn catch() -> Result<CaughtSignals> {
        let set = SigSet::from_iter([
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ]);
        set.thread_block().context("cannot block signals")?;
        let (sender, arrived) = mpsc::channel();
        let signals = sender.clone();
        thread::spawn(move || {
            while let Ok(signal) = set.wait() {
                let _ = signals.send(signal.as_str());
            }
        });
        Ok(CaughtSignals { arrived, sender })
    }

    /// Fails if a signal has arrived.
    pub(crate) fn check(&self) -> Result<()> {
        if let Ok(signal) = self.arrived.try_recv() {
            bail!("stopped by {signal}; the demo has removed everything that it made");
        }
        Ok(())
    }

    /// Waits for a signal, or for Enter.
    pub(crate) fn wait_or_enter(&self) {
        let sender = self.sender.clone();
        thread::spawn(move || {
            // At the end of standard input only a signal can end the wait.
            if io::stdin()
                .read_line(&mut String::new())
                .is_ok_and(|read| read > 0)
            {
                let _ = sender.send("Enter");
            }
        });
        let _ = self.arrived.recv();
    }
}
