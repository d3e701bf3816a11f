//! Waits for sockets or for a point in time, whichever is first, more exactly than epoll does.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;

use crate::base::time::TickDelta;
use crate::engine::sys;

/// Events taken by one call.
const EVENTS: usize = 256;
/// Below this it is faster not to sleep: what the kernel takes to sleep and to wake.
const SLEEP_MIN: TickDelta = TickDelta::from_us(15);
/// By how much a timer may be late, nanoseconds; the kernel's default is 50,000.
const SLACK_NS: u64 = 1_000;

/// What a socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// A set of sockets of one thread.
#[derive(Debug)]
pub(crate) struct Waiter {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    ready: usize,
}

impl Waiter {
    /// Creates an empty set.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); EVENTS], ready: 0 })
    }

    /// Makes the timers of the calling thread exact.
    pub(crate) fn be_exact() {
        // Where that is not allowed, timers are 50 us late.
        let _ = prctl::set_timerslack(SLACK_NS);
    }

    /// Adds a socket; `data` comes back with its events.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn add(&self, socket: &impl AsFd, data: u64, writable: bool) -> io::Result<()> {
        Ok(self.epoll.add(socket, EpollEvent::new(interest(writable), data))?)
    }

    /// Changes whether it is also waited until a socket is writable.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn modify(&self, socket: &impl AsFd, data: u64, writable: bool) -> io::Result<()> {
        Ok(self.epoll.modify(socket, &mut EpollEvent::new(interest(writable), data))?)
    }

    /// Changes what a socket is waited for.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn change(&self, socket: &impl AsFd, data: u64, interest: Interest) -> io::Result<()> {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, interest.readable);
        flags.set(EpollFlags::EPOLLOUT, interest.writable);
        Ok(self.epoll.modify(socket, &mut EpollEvent::new(flags, data))?)
    }

    /// Waits at most so long; returns the number of events.
    pub(crate) fn wait(&mut self, at_most: TickDelta) -> usize {
        if at_most > SLEEP_MIN {
            let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
            // A signal or an error wakes it, which is harmless.
            let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(Duration::from(at_most))), None);
        }
        self.ready = sys::wait(&self.epoll, &mut self.events, EpollTimeout::ZERO).unwrap_or(0);
        self.ready
    }

    /// Returns an event of the last wait: its data, whether there is something to read or an error,
    /// and whether the socket is writable.
    pub(crate) fn event(&self, at: usize) -> (u64, bool, bool) {
        let event = &self.events[at];
        let flags = event.events();
        (event.data(), flags != EpollFlags::EPOLLOUT, flags.contains(EpollFlags::EPOLLOUT))
    }
}

fn interest(writable: bool) -> EpollFlags {
    if writable { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN }
}
