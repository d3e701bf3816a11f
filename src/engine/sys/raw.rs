//! The three system calls of a turn, without the wrappers of the C library.
//!
//! The wrappers are cancellation points: in a process with several threads, glibc (2.36) sets and
//! clears a flag of the thread around each call. That is some thirty instructions, two of them
//! locked, and at low rates each packet has three calls of its own. Nothing cancels a shard's thread.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, c_long, mmsghdr, timespec};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};

/// Converts the result of a system call into a count, or its error.
fn number(n: c_long) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Calls `recvmmsg` without blocking; returns the number of datagrams.
///
/// # Errors
/// The error of the system call.
///
/// # Safety
/// As recvmmsg(2): what `headers` point to, vectors, names and control buffers, is writable and as
/// large as they say.
pub(super) unsafe fn receive(socket: BorrowedFd<'_>, headers: &mut [mmsghdr]) -> io::Result<usize> {
    let (socket, count) = (c_long::from(socket.as_raw_fd()), headers.len() as c_long);
    let flags = c_long::from(libc::MSG_DONTWAIT);
    // SAFETY: the slice has `count` headers, and the caller guarantees what they point to.
    // JUSTIFICATION: one system call a batch; one a packet costs 2 to 5 % more CPU.
    number(unsafe {
        let none = ptr::null_mut::<timespec>();
        libc::syscall(libc::SYS_recvmmsg, socket, headers.as_mut_ptr(), count, flags, none)
    })
}

/// Calls `sendmmsg` without blocking; returns the number of messages sent.
///
/// # Errors
/// The error of the system call.
///
/// # Safety
/// As sendmmsg(2): what `headers` point to, vectors, names and control buffers, is readable and as
/// large as they say.
pub(super) unsafe fn send(socket: BorrowedFd<'_>, headers: &mut [mmsghdr]) -> io::Result<usize> {
    let (socket, count) = (c_long::from(socket.as_raw_fd()), headers.len() as c_long);
    let flags = c_long::from(libc::MSG_DONTWAIT);
    // SAFETY: the slice has `count` headers, and the caller guarantees what they point to.
    // JUSTIFICATION: as for recvmmsg, and UDP_SEGMENT saves another 14 to 23 %.
    number(unsafe { libc::syscall(libc::SYS_sendmmsg, socket, headers.as_mut_ptr(), count, flags) })
}

/// Calls `epoll_pwait` with the signal mask unchanged; returns the number of events.
///
/// # Errors
/// The error of the system call.
pub fn wait(epoll: &Epoll, events: &mut [EpollEvent], timeout: EpollTimeout) -> nix::Result<usize> {
    let (set, count) = (c_long::from(epoll.0.as_fd().as_raw_fd()), events.len() as c_long);
    let timeout = c_long::from(c_int::from(timeout));
    // SAFETY: nix's event has the kernel's layout (`repr(transparent)`), and the slice has `count`.
    // Without a signal mask its size is ignored.
    // JUSTIFICATION: see above.
    let n = unsafe {
        let none = ptr::null::<libc::sigset_t>();
        libc::syscall(libc::SYS_epoll_pwait, set, events.as_mut_ptr(), count, timeout, none, 0 as c_long)
    };
    usize::try_from(n).map_err(|_| Errno::last())
}

#[cfg(test)]
mod tests {
    use nix::sys::epoll::{EpollCreateFlags, EpollFlags};
    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn a_wait_says_what_is_ready_and_what_is_wrong() {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("a set");
        let mut events = [EpollEvent::empty(); 3];
        assert_eq!(wait(&set, &mut events, EpollTimeout::ZERO), Ok(0));
        let begun = std::time::Instant::now();
        assert_eq!(wait(&set, &mut events, EpollTimeout::from(20_u8)), Ok(0));
        assert!(begun.elapsed().as_millis() >= 20);
        let ready = EventFd::from_value(1).expect("a descriptor");
        set.add(&ready, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX)).expect("added");
        assert_eq!(wait(&set, &mut events, EpollTimeout::NONE), Ok(1));
        assert_eq!((events[0].data(), events[0].events()), (u64::MAX, EpollFlags::EPOLLIN));
        assert_eq!(wait(&set, &mut [], EpollTimeout::ZERO), Err(Errno::EINVAL));
        // No set at all: the reading end of nothing.
        let file = std::fs::File::open("/dev/null").expect("open");
        let wrong = Epoll(file.into());
        assert_eq!(wait(&wrong, &mut events, EpollTimeout::ZERO), Err(Errno::EINVAL));
    }
}
