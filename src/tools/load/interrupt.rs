//! SIGINT and SIGTERM as something that can be waited for.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

/// The requests to stop, which do not end the process from here on.
#[derive(Debug)]
pub(crate) struct Interrupt(SignalFd);

impl Interrupt {
    /// Takes the signals over. Threads that are started later leave them to it.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn take() -> nix::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Waits for a signal at most so long; returns whether one came.
    pub(crate) fn wait(&mut self, at_most: Duration) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // What wakes it early is harmless.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(at_most)), None);
        self.0.read_signal().is_ok_and(|signal| signal.is_some())
    }
}
