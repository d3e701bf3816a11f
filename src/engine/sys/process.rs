//! What the control plane needs of the system and only `unsafe` offers: inherited sockets, ignored
//! signals, exit handlers, a setting of the allocator, and a Lua state with `ffi`.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// Takes over an inherited socket.
///
/// # Errors
/// Fails when the descriptor is below 3, not open, or no socket.
pub fn inherited_socket(descriptor: i32) -> io::Result<socket2::Socket> {
    if descriptor < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only borrowed to ask whether it is open and a socket; nothing is closed here, and a
    // closed descriptor makes the call fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    nix::sys::socket::getsockopt(&borrowed, nix::sys::socket::sockopt::SockType)?;
    nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and the parent passed it to this process as its only owner; the caller
    // asks once per descriptor, before it opens any of its own.
    Ok(unsafe { socket2::Socket::from_raw_fd(descriptor) })
}

/// Returns a duplicate of a descriptor of this process that is a socket.
///
/// # Errors
/// Fails when the descriptor is not open, or no socket.
pub fn duplicate_socket(descriptor: i32) -> io::Result<socket2::Socket> {
    if descriptor < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only borrowed to ask what it is and to duplicate it; nothing is closed here, and a
    // closed descriptor makes the calls fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    nix::sys::socket::getsockopt(&borrowed, nix::sys::socket::sockopt::SockType)?;
    Ok(socket2::Socket::from(borrowed.try_clone_to_owned()?))
}

/// Creates a Lua state with LuaJIT's `ffi`, which configurations rely on.
#[must_use]
pub fn lua_with_ffi() -> mlua::Lua {
    // SAFETY: with `ffi` a script can call any C function. The script is the operator's own
    // configuration and runs with the operator's rights, as a shared library of theirs would.
    // JUSTIFICATION: mlua offers `ffi` in no other way.
    unsafe { mlua::Lua::unsafe_new() }
}

/// Returns whether the process may make memory executable that it has written to, and writable
/// again.
#[must_use]
pub fn can_make_code() -> bool {
    const SIZE: usize = 4096;
    // SAFETY: a page of our own, which nothing runs or refers to, and which is unmapped at the end.
    unsafe {
        let (write, run) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), SIZE, write, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return false;
        }
        page.cast::<u8>().write(0xc3);
        let can = libc::mprotect(page, SIZE, run) == 0 && libc::mprotect(page, SIZE, write) == 0;
        libc::munmap(page, SIZE);
        can
    }
}

/// The bounds of a thread's stack.
#[derive(Clone, Copy, Debug)]
pub struct StackBounds {
    low: usize,
    size: usize,
}

impl StackBounds {
    /// Returns those of the calling thread.
    #[must_use]
    pub fn of_this_thread() -> Self {
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        // SAFETY: a plain C structure that the first call fills and the last one frees; the thread
        // is the calling one.
        unsafe {
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) == 0 {
                libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
                libc::pthread_attr_destroy(&raw mut attributes);
            }
        }
        Self { low: low.addr(), size }
    }

    /// Returns whether more than seven eighths are free. Must be called on that thread.
    #[must_use]
    pub fn is_mostly_left(self) -> bool {
        let here = 0_u8;
        std::ptr::from_ref(&here).addr() - self.low > self.size / 8 * 7
    }
}

/// Ignores the signals that would kill or stop the process for a failed write: SIGPIPE (no reader),
/// SIGXFSZ (file size limit) and SIGTTOU (another process group's terminal). The write then returns
/// the error, or succeeds.
///
/// # Errors
/// The operating system's.
pub fn ignore_signals() -> io::Result<()> {
    for number in [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGTTOU] {
        // SAFETY: no handler is installed, so nothing of ours runs when one comes.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Bytes from which an allocation is a mapping of its own: what the C library begins with.
const LARGE: libc::c_int = 128 << 10;

/// Gives large allocations back to the kernel as soon as they are freed, for good. By itself the C library
/// learns from the first one to keep them in its heaps, where a small one that stays takes a bit of each gap:
/// the next large one does not fit, and a heap that is hardly used grows to many times what it holds.
pub fn map_large_allocations() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator, under its lock; all values are valid.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Lets a program start with no signal blocked, whatever its starter blocks.
pub fn unblock_signals(command: &mut Command) {
    let unblock = || Ok(SigSet::empty().thread_set_mask()?);
    // SAFETY: between fork and exec it only makes a system call that is safe in a signal handler
    // (sigprocmask, signal-safety(7)), and neither allocates nor locks.
    unsafe { command.pre_exec(unblock) };
}

/// Registers `call` to run when the process exits, whether by this program or by a script. A call
/// beyond the system's limit is not registered.
pub fn at_exit(call: extern "C" fn()) {
    // SAFETY: the function takes no arguments and has C linkage, as atexit(3) expects; it lives as
    // long as the program, and a panic in it aborts rather than unwind into C.
    let _ = unsafe { libc::atexit(call) };
}
