//! SIGINT, SIGTERM and SIGHUP as something that can be waited for.

use std::fs;
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
        // Whoever has asked for it with nohup goes on without a terminal; blocked, it would come all the same.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if !is_ignored(&status, Signal::SIGHUP) {
            signals.add(Signal::SIGHUP);
        }
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

/// Returns whether a process ignores a signal, by its status as proc(5) has it.
fn is_ignored(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_are_ignored_are_known() {
        let status =
            |mask: &str| format!("Name:\tdnslob\nSigBlk:\tffffffffffffffff\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        for (mask, ignored) in
            [("0000000000000001", true), ("0000000000001000", false), ("0000000000001005", true)]
        {
            assert_eq!(is_ignored(&status(mask), Signal::SIGHUP), ignored, "{mask}");
        }
        assert!(is_ignored(&status("0000000000004000"), Signal::SIGTERM));
        assert!(!is_ignored("", Signal::SIGHUP) && !is_ignored("SigIgn:\tx\n", Signal::SIGHUP));
    }
}
