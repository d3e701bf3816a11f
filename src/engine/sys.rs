//! Every call that needs `unsafe`, each wrapped safe.
#![allow(unsafe_code)]

// ---- for the control plane ----

/// Takes over a socket that the process was started with.
///
/// # Errors
/// When the descriptor is below 3, is not open or is no socket.
pub fn inherited_socket(descriptor: i32) -> std::io::Result<socket2::Socket> {
    use std::os::fd::{BorrowedFd, FromRawFd};
    if descriptor < 3 {
        return Err(std::io::ErrorKind::InvalidInput.into());
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
