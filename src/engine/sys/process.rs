//! What the control plane needs of the system that cannot be had without `unsafe`: sockets that were
//! passed to us, signals that are ignored, the end of the process, and a Lua state with `ffi`.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd};

use nix::sys::signal::{SigHandler, Signal, signal};

/// Takes over a socket that the process was started with.
///
/// # Errors
/// When the descriptor is below 3, is not open or is no socket.
pub fn inherited_socket(descriptor: i32) -> io::Result<socket2::Socket> {
    if descriptor < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only borrowed to be asked whether it is open and a socket; nothing is closed here,
    // and a closed descriptor makes the call fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    nix::sys::socket::getsockopt(&borrowed, nix::sys::socket::sockopt::SockType)?;
    nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and was passed to this process by its parent for it alone to own; the
    // caller asks once per descriptor, before it opens any of its own.
    Ok(unsafe { socket2::Socket::from_raw_fd(descriptor) })
}

/// A Lua state with LuaJIT's `ffi`, which configurations rely on.
#[must_use]
pub fn lua_with_ffi() -> mlua::Lua {
    // SAFETY: with `ffi` a script can call any C function. The script is the operator's own
    // configuration and runs with the operator's rights, as a shared library of theirs would.
    // JUSTIFICATION: mlua offers `ffi` in no other way.
    unsafe { mlua::Lua::unsafe_new() }
}

/// Whether the process may make memory executable that it has written to, and writable again.
#[must_use]
pub fn can_make_code() -> bool {
    const SIZE: usize = 4096;
    // SAFETY: a page of our own, which nothing runs or refers to, and which is given back.
    unsafe {
        let (write, run) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let stats = libc::mmap(std::ptr::null_mut(), SIZE, write, flags, -1, 0);
        if stats == libc::MAP_FAILED {
            return false;
        }
        stats.cast::<u8>().write(0xc3);
        let can = libc::mprotect(stats, SIZE, run) == 0 && libc::mprotect(stats, SIZE, write) == 0;
        libc::munmap(stats, SIZE);
        can
    }
}

/// Where a thread's stack is.
#[derive(Clone, Copy, Debug)]
pub struct StackBounds {
    low: usize,
    size: usize,
}

impl StackBounds {
    /// Those of the calling thread.
    #[must_use]
    pub fn of_this_thread() -> Self {
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        // SAFETY: a plain C structure that the first call fills and the last one frees; the thread is
        // this one, which runs.
        unsafe {
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) == 0 {
                libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
                libc::pthread_attr_destroy(&raw mut attributes);
            }
        }
        Self { low: low.addr(), size }
    }

    /// Whether more than seven eighths of it are free. Asked within that thread.
    #[must_use]
    pub fn is_mostly_left(self) -> bool {
        let here = 0_u8;
        std::ptr::from_ref(&here).addr() - self.low > self.size / 8 * 7
    }
}

/// Ignores what would end or stop the process for a write that fails: SIGPIPE (nobody reads), SIGXFSZ
/// (a limit of the file's size) and SIGTTOU (a terminal that is another process group's). The write
/// then says so itself, or is done.
///
/// # Errors
/// What the operating system says.
pub fn ignore_signals() -> io::Result<()> {
    for number in [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGTTOU] {
        // SAFETY: no handler is installed, so nothing of ours runs when one comes.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Has `call` run when the process ends by `exit`, whoever calls it: this program, or a script. A call
/// for which there is no room is left out.
pub fn at_exit(call: extern "C" fn()) {
    // SAFETY: it is a function for C without arguments, which is what is called; it lives as long as
    // the program does, and a panic in it aborts instead of unwinding into C.
    let _ = unsafe { libc::atexit(call) };
}
