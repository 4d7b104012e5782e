//! Signals that end the demo. They are read at points where the demo can clean up.

use std::{
    io::{self, Read},
    os::fd::AsFd,
};

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
    /// Blocks the signals on this thread and on those that it starts later, so that they can be
    /// read.
    pub(crate) fn catch() -> Result<CaughtSignals> {
        let set = SigSet::from_iter([
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ]);
        set.thread_block().context("cannot block signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let arrived = SignalFd::with_flags(&set, flags).context("cannot wait for signals")?;
        Ok(CaughtSignals(arrived))
    }

    /// Fails if a signal has arrived.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(signal) = self.arrived()? else {
            return Ok(());
        };
        bail!("stopped by {signal}; the demo has removed everything that it made");
    }

    /// Waits for a signal, or for Enter.
    pub(crate) fn wait_or_enter(&self) -> Result<()> {
        let mut stdin = Some(io::stdin());
        while self.arrived()?.is_none() {
            let mut waiting = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            waiting.extend(
                stdin
                    .as_ref()
                    .map(|stdin| PollFd::new(stdin.as_fd(), PollFlags::POLLIN)),
            );
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot wait for Enter"),
            }
            let typed = waiting.get(1).and_then(PollFd::any).unwrap_or_default();
            if !typed {
                continue;
            }
            let mut character = [0];
            match io::stdin().read(&mut character) {
                Ok(1..) => return Ok(()),
                // Standard input has ended, so only a signal can end the wait.
                _ => stdin = None,
            }
        }
        Ok(())
    }

    fn arrived(&self) -> Result<Option<Signal>> {
        let signal = self.0.read_signal().context("cannot read signals")?;
        Ok(signal.and_then(|signal| Signal::try_from(signal.ssi_signo.cast_signed()).ok()))
    }
}
