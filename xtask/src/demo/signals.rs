//! Signals that end the demo. They are read at points where the demo can clean up.

use std::{io, os::fd::AsFd as _};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// The signals that have arrived and were not read yet.
pub(crate) struct CaughtSignals(SignalFd);

impl CaughtSignals {
    /// Blocks the signals on this thread and on those that it starts later.
    pub(crate) fn catch() -> Result<CaughtSignals> {
        let set = SigSet::from_iter([
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ]);
        set.thread_block().context("cannot block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        Ok(CaughtSignals(signals.context("cannot read signals")?))
    }

    /// Fails if a signal has arrived.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(signal) = self.0.read_signal().context("cannot read signals")? {
            let name = Signal::try_from(signal.ssi_signo.cast_signed())?;
            bail!("stopped by {name}; the demo has removed everything that it made");
        }
        Ok(())
    }

    /// Waits for a signal, or for Enter. At the end of standard input only a signal ends the wait.
    pub(crate) fn wait_or_enter(&self) -> Result<()> {
        let stdin = io::stdin();
        let mut files =
            [self.0.as_fd(), stdin.as_fd()].map(|file| PollFd::new(file, PollFlags::POLLIN));
        wait_for_any(&mut files)?;
        let has_signal = files[0].any().unwrap_or_default();
        if has_signal || stdin.read_line(&mut String::new())? > 0 {
            return Ok(());
        }
        wait_for_any(&mut files[..1])
    }
}

/// Waits until one of the files can be read.
fn wait_for_any(files: &mut [PollFd]) -> Result<()> {
    loop {
        match poll(files, PollTimeout::NONE) {
            // The process was stopped and continued (signal(7)).
            Err(Errno::EINTR) => {}
            result => return result.map(drop).context("cannot wait for a signal"),
        }
    }
}
