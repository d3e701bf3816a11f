//! One datagram with an explicit source address.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{iovec, msghdr, sockaddr_in6};

use crate::base::addr::Endpoint;
use crate::engine::sys::{CONTROL, Control, Local, write_name, write_pktinfo};

/// Sends one datagram by an unconnected socket. If the socket is transparent, the source address
/// need not be ours.
///
/// # Errors
/// The kernel's.
pub fn send_from(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: &Endpoint,
    from: Option<&Local>,
) -> io::Result<()> {
    // SAFETY: plain C structures for which all zeros is a valid value.
    let (mut name, mut header): (sockaddr_in6, msghdr) = unsafe { (zeroed(), zeroed()) };
    let mut control = Control([0; CONTROL]);
    let mut vector = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    header.msg_namelen = write_name(&mut name, to);
    header.msg_name = (&raw mut name).cast();
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if let Some(local) = from {
        header.msg_control = (&raw mut control.0).cast();
        header.msg_controllen = CONTROL as _;
        // SAFETY: the control buffer is CONTROL bytes, aligned, and ours; one of these control
        // messages takes at most 40 of them.
        header.msg_controllen = unsafe { write_pktinfo(libc::CMSG_FIRSTHDR(&raw const header), local) } as _;
    }
    // SAFETY: name, vector, control and bytes live through the call, with their true sizes.
    // JUSTIFICATION: no safe call sets the source address.
    let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
