//! Every call to the operating system that needs `unsafe`, each wrapped safe.
//!
//! It wraps calls and decides nothing: the loops own the order of things.
//!
//! ```text
//!  ReceiveBuffers: one allocation of `n` strides
//!    | headroom 64 | message up to 4096 | tailroom 448 |   × n,   with name and control of each
//! ```

#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::ptr;

use libc::{
    c_int, cmsghdr, in_pktinfo, in6_pktinfo, iovec, mmsghdr, msghdr, sa_family_t, sockaddr_in, sockaddr_in6,
};

use crate::base::addr::Endpoint;
use crate::base::packet::Packet;
pub use crate::engine::sys::options::{bytes_of, set_bytes, set_option, set_reuseport_program};
pub use crate::engine::sys::process::{
    StackBounds, at_exit, can_make_code, duplicate_socket, ignore_signals, inherited_socket, lua_with_ffi,
    map_large_allocations, unblock_signals,
};
pub use crate::engine::sys::raw::wait;
pub use crate::engine::sys::signal_stack::SignalStack;
pub use crate::engine::sys::single::send_from;

mod options;
mod process;
mod raw;
mod signal_stack;
mod single;

/// Stack of every thread that runs Lua, bytes. It is address space: memory is taken only for what
/// was once used. LuaJIT limits recursion by its own stack, whose 65,500 slots can make some 6,000 C
/// frames. Each coroutine has such a stack, and they nest only as long as seven eighths of this are
/// free.
pub const STACK_BYTES: usize = 64 << 20;
/// Longest accepted message, bytes: as dnsdist, and more than any EDNS size in use.
pub const MESSAGE_MAX: usize = 4096;
/// Headroom for what edits prepend, bytes.
const HEADROOM: usize = 64;
/// Tailroom for what edits append, bytes; with the others a multiple of a cache line.
const TAILROOM: usize = 448;
/// Bytes for control messages: one IPV6_PKTINFO, or one UDP_SEGMENT beside it.
const CONTROL: usize = 96;
/// Segments in one UDP_SEGMENT message: what every kernel since 4.18 takes.
const SEGMENTS_MAX: usize = 64;
/// Bytes in one UDP_SEGMENT message: under 65,535 less the IP and UDP headers.
const SEGMENTED_MAX: usize = 60_000;
/// Largest segment sent with UDP_SEGMENT: the kernel refuses segments above the path's MTU, and
/// 1232 bytes fit every path (DNS flag day 2020).
const SEGMENT_MAX: usize = 1232;

/// Control messages must be aligned like their header.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// The local address of a datagram, with its interface's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// The address, IPv4 mapped into IPv6.
    pub ip: [u8; 16],
    /// The receiving interface, for a link-local address, which needs it; else 0, so that an
    /// address is one entry however often its interface changes.
    pub interface: u32,
}

/// Received datagrams, in place, with their addresses.
pub struct ReceiveBuffers {
    bytes: Box<[u8]>,
    /// The longest accepted datagram, bytes; and with headroom and tailroom.
    message_max: usize,
    stride: usize,
    names: Box<[sockaddr_in6]>,
    controls: Box<[Control]>,
    vectors: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
    /// The metadata that the headers are prepared for, and how many of them the kernel may have
    /// changed.
    noted: Option<Note>,
    written: usize,
}

impl std::fmt::Debug for ReceiveBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveBuffers").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// The metadata to record of each datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// None: the socket is connected.
    Nothing,
    /// The sender.
    Peer,
    /// The sender and the local address.
    PeerAndLocal,
}

impl ReceiveBuffers {
    /// Allocates space for `capacity` datagrams.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::with_message_max(capacity, MESSAGE_MAX)
    }

    /// Allocates space for `capacity` datagrams of at most `message_max` bytes; the kernel backs
    /// only the pages that are used.
    #[must_use]
    pub fn with_message_max(capacity: usize, message_max: usize) -> Self {
        // SAFETY: these are plain C structures for which all zeros is a valid value.
        let (name, vector, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        let stride = HEADROOM + message_max + TAILROOM;
        Self {
            bytes: vec![0; capacity * stride].into_boxed_slice(),
            message_max,
            stride,
            names: vec![name; capacity].into_boxed_slice(),
            controls: vec![Control([0; CONTROL]); capacity].into_boxed_slice(),
            vectors: vec![vector; capacity].into_boxed_slice(),
            headers: vec![header; capacity].into_boxed_slice(),
            noted: None,
            written: 0,
        }
    }

    /// Returns the number of datagrams that fit.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Receives from `socket` into places `first..` without blocking, and returns how many.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; ICMP errors of a connected socket; errors of the socket
    /// itself.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, first: usize, note: Note) -> io::Result<usize> {
        let capacity = self.capacity();
        // The kernel has written only the headers that it filled.
        let written = if self.noted == Some(note) { self.written } else { capacity };
        for at in first..written {
            self.reset(at, note);
        }
        // Datagrams below `first` are still in use. Only a caller that changes its note between
        // them would leave headers there in the old form, and none does.
        debug_assert!(first == 0 || self.noted == Some(note), "one note until all is delivered");
        self.noted = Some(note);
        // SAFETY: each header from `first` on is initialised, and points at a vector, a name and a
        // control buffer that `self` owns and that live through the call, with their true sizes,
        // and at bytes of which `message_max` lie inside `self.bytes`.
        // JUSTIFICATION: one system call a batch; one a packet costs 2 to 5 % more CPU.
        let n = unsafe { raw::receive(socket, &mut self.headers[first..]) }?;
        self.written = first + n;
        Ok(n)
    }

    fn reset(&mut self, at: usize, note: Note) {
        self.vectors[at] = iovec {
            iov_base: self.bytes[at * self.stride + HEADROOM..].as_mut_ptr().cast(),
            iov_len: self.message_max,
        };
        let header = &mut self.headers[at].msg_hdr;
        header.msg_iov = &raw mut self.vectors[at];
        header.msg_iovlen = 1;
        (header.msg_name, header.msg_namelen) = match note {
            Note::Nothing => (ptr::null_mut(), 0),
            Note::Peer | Note::PeerAndLocal => {
                ((&raw mut self.names[at]).cast(), size_of::<sockaddr_in6>() as u32)
            }
        };
        (header.msg_control, header.msg_controllen) = match note {
            Note::Nothing | Note::Peer => (ptr::null_mut(), 0),
            Note::PeerAndLocal => ((&raw mut self.controls[at].0).cast(), CONTROL as _),
        };
    }

    /// Returns whether the last datagrams came with their sender's address.
    #[must_use]
    pub fn notes_peers(&self) -> bool {
        self.noted == Some(Note::Peer)
    }

    /// Returns whether the datagram at `at` was too long, and has been truncated.
    #[must_use]
    pub fn was_cut(&self, at: usize) -> bool {
        self.headers[at].msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// Returns the datagram at `at`, in place.
    pub fn packet(&mut self, at: usize) -> Packet<'_> {
        let length = self.headers[at].msg_len as usize;
        Packet::new(&mut self.bytes[at * self.stride..(at + 1) * self.stride], HEADROOM, length)
    }

    /// Returns the message of the datagram at `at`, as received.
    #[must_use]
    pub fn message(&self, at: usize) -> &[u8] {
        self.bytes(at, HEADROOM, self.headers[at].msg_len as usize)
    }

    /// Returns it as an edit has left it, which may have moved it.
    pub fn packet_at(&mut self, at: usize, start: usize, length: usize) -> Packet<'_> {
        Packet::new(&mut self.bytes[at * self.stride..(at + 1) * self.stride], start, length)
    }

    /// Returns the bytes that [`ReceiveBuffers::packet`] left at `at`.
    #[must_use]
    pub fn bytes(&self, at: usize, start: usize, len: usize) -> &[u8] {
        &self.bytes[at * self.stride + start..at * self.stride + start + len]
    }

    /// Returns the sender of the datagram at `at`, if recorded.
    #[must_use]
    pub fn peer(&self, at: usize) -> Option<Endpoint> {
        endpoint(&self.names[at])
    }

    /// Returns the local address of the datagram at `at`, if recorded.
    #[must_use]
    pub fn local(&self, at: usize) -> Option<Local> {
        let header = &self.headers[at].msg_hdr;
        if header.msg_control.is_null() {
            return None;
        }
        // SAFETY: the kernel filled `msg_controllen` bytes of our aligned control buffer with
        // whole control messages; the CMSG walk stays inside it, and the payload of these two
        // types is what is read.
        unsafe {
            let mut control = libc::CMSG_FIRSTHDR(header);
            while !control.is_null() {
                let data = libc::CMSG_DATA(control);
                match ((*control).cmsg_level, (*control).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = ptr::read_unaligned(data.cast::<in_pktinfo>());
                        let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                        return Some(Local { ip: ip.to_ipv6_mapped().octets(), interface: 0 });
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = ptr::read_unaligned(data.cast::<in6_pktinfo>());
                        let ip = info.ipi6_addr.s6_addr;
                        let link_local = Ipv6Addr::from(ip).is_unicast_link_local();
                        let interface = if link_local { info.ipi6_ifindex as u32 } else { 0 };
                        return Some(Local { ip, interface });
                    }
                    _ => control = libc::CMSG_NXTHDR(header, control),
                }
            }
        }
        None
    }
}

/// Reads an address that the kernel wrote.
fn endpoint(name: &sockaddr_in6) -> Option<Endpoint> {
    match i32::from(name.sin6_family) {
        libc::AF_INET6 => Some(Endpoint {
            ip: name.sin6_addr.s6_addr,
            scope: name.sin6_scope_id,
            port: u16::from_be(name.sin6_port),
        }),
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in, which is shorter and no stricter aligned.
            let name = unsafe { &*(&raw const *name).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            let port = u16::from_be(name.sin_port);
            Some(Endpoint { ip: ip.to_ipv6_mapped().octets(), scope: 0, port })
        }
        _ => None,
    }
}

/// Accepts a pending connection: non-blocking, closed on exec.
///
/// # Errors
/// `WouldBlock` when none is pending; the kernel's otherwise.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(socket2::Socket, Endpoint)> {
    // SAFETY: a plain C structure for which all zeros is a valid value.
    let mut name: sockaddr_in6 = unsafe { zeroed() };
    let mut length = size_of::<sockaddr_in6>() as u32;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `name` has the size that `length` says, and both live through the call.
    // JUSTIFICATION: one system call for socket, peer and flags; socket2 takes three.
    let n = unsafe { libc::accept4(listener.as_raw_fd(), (&raw mut name).cast(), &raw mut length, flags) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    let socket = unsafe { socket2::Socket::from_raw_fd(n) };
    let peer = endpoint(&name).ok_or(io::ErrorKind::Unsupported)?;
    Ok((socket, peer))
}

/// One datagram to send: bytes of a received one.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingDatagram {
    /// The index of the received datagram.
    pub at: usize,
    /// Offset of its bytes in that datagram's buffer.
    pub start: usize,
    /// Number of bytes.
    pub len: usize,
    /// The destination; `None` for a connected socket.
    pub to: Option<Endpoint>,
    /// The source address, where the socket is bound to a wildcard.
    pub from: Option<Local>,
}

/// Scratch space for sending; empty between calls.
pub struct SendBuffers {
    names: Box<[sockaddr_in6]>,
    controls: Box<[Control]>,
    vectors: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
    /// The first datagram of each message.
    firsts: Vec<usize>,
}

impl std::fmt::Debug for SendBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendBuffers").field("capacity", &self.headers.len()).finish_non_exhaustive()
    }
}

/// How a run of datagrams of equal length is passed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// One message per datagram.
    Never,
    /// Neighbours of equal length to one peer as one message (UDP_SEGMENT); the last of a run may
    /// be shorter.
    Runs,
}

impl SendBuffers {
    /// Allocates space for `capacity` datagrams per call.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        // SAFETY: these are plain C structures for which all zeros is a valid value.
        let (name, vector, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            names: vec![name; capacity].into_boxed_slice(),
            controls: vec![Control([0; CONTROL]); capacity].into_boxed_slice(),
            vectors: vec![vector; capacity].into_boxed_slice(),
            headers: vec![header; capacity].into_boxed_slice(),
            firsts: Vec::with_capacity(capacity + 1),
        }
    }

    /// Sends `datagrams` by `socket` without blocking. `failed` is called with each range of
    /// datagrams that the kernel refused, and the error; the others were sent.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        received_datagrams: &ReceiveBuffers,
        datagrams: &[OutgoingDatagram],
        segment: Segment,
        failed: &mut dyn FnMut(std::ops::Range<usize>, &io::Error),
    ) {
        let most = self.headers.len();
        for (number, chunk) in datagrams.chunks(most).enumerate() {
            let done = number * most;
            self.fill(received_datagrams, chunk, segment);
            self.hand_over(socket, &mut |range, error| {
                failed(done + range.start..done + range.end, error);
            });
        }
    }

    fn fill(
        &mut self,
        received_datagrams: &ReceiveBuffers,
        datagrams: &[OutgoingDatagram],
        segment: Segment,
    ) {
        self.firsts.clear();
        let mut at = 0;
        while at < datagrams.len() {
            let run = match segment {
                Segment::Never => 1,
                Segment::Runs => run_length(&datagrams[at..]),
            };
            self.message(received_datagrams, &datagrams[at..at + run], at);
            at += run;
        }
        self.firsts.push(datagrams.len());
    }

    /// Prepares one message of the datagrams `first..first + run.len()`.
    fn message(&mut self, received_datagrams: &ReceiveBuffers, run: &[OutgoingDatagram], first: usize) {
        for (vector, datagram) in self.vectors[first..].iter_mut().zip(run) {
            let bytes = received_datagrams.bytes(datagram.at, datagram.start, datagram.len);
            *vector = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        }
        let number = self.firsts.len();
        self.firsts.push(first);
        let header: &mut msghdr = &mut self.headers[number].msg_hdr;
        header.msg_iov = self.vectors[first..].as_mut_ptr();
        header.msg_iovlen = run.len() as _;
        header.msg_flags = 0;
        (header.msg_name, header.msg_namelen) = match run[0].to {
            None => (ptr::null_mut(), 0),
            Some(to) => {
                let length = write_name(&mut self.names[number], &to);
                ((&raw mut self.names[number]).cast(), length)
            }
        };
        (header.msg_control, header.msg_controllen) = (ptr::null_mut(), 0);
        if run.len() > 1 || run[0].from.is_some() {
            self.control(number, run);
        }
    }

    /// Prepares a message's control messages.
    fn control(&mut self, number: usize, run: &[OutgoingDatagram]) {
        let header: &mut msghdr = &mut self.headers[number].msg_hdr;
        header.msg_control = (&raw mut self.controls[number].0).cast();
        header.msg_controllen = CONTROL as _;
        let mut used = 0;
        // SAFETY: the control buffer is CONTROL bytes, aligned, and ours; two control messages
        // of these types take at most 64 of them.
        unsafe {
            let mut control = libc::CMSG_FIRSTHDR(header);
            if let Some(local) = run[0].from {
                used += write_pktinfo(control, &local);
                control = control.byte_add(used);
            }
            if run.len() > 1 {
                let segment = run[0].len as u16;
                used += write_control(control, libc::SOL_UDP, libc::UDP_SEGMENT, &segment);
            }
        }
        header.msg_controllen = used as _;
    }

    fn hand_over(
        &mut self,
        socket: BorrowedFd<'_>,
        failed: &mut dyn FnMut(std::ops::Range<usize>, &io::Error),
    ) {
        let messages = self.firsts.len() - 1;
        let mut sent = 0;
        let mut retried = usize::MAX;
        while sent < messages {
            // SAFETY: headers `sent..messages` were filled by `message` from datagrams that the
            // caller's borrow keeps alive; vectors, names and controls are owned by `self`.
            // JUSTIFICATION: as for recvmmsg, and UDP_SEGMENT saves another 14 to 23 %.
            let error = match unsafe { raw::send(socket, &mut self.headers[sent..messages]) } {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(n) => {
                    sent += n;
                    continue;
                }
                Err(error) => error,
            };
            // A connected socket reports an earlier packet's ICMP error before it sends this one:
            // the second call sends it.
            let earlier = error.kind() == io::ErrorKind::ConnectionRefused
                || error.kind() == io::ErrorKind::Interrupted;
            // The kernel lacks memory for the moment.
            let short = matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM));
            if (earlier || short) && retried != sent {
                retried = sent;
                continue;
            }
            failed(self.firsts[sent]..self.firsts[sent + 1], &error);
            sent += 1;
        }
    }
}

/// Returns how many datagrams from the front fit one UDP_SEGMENT message.
fn run_length(datagrams: &[OutgoingDatagram]) -> usize {
    let first = datagrams[0];
    if first.len > SEGMENT_MAX {
        return 1;
    }
    let most = SEGMENTS_MAX.min(SEGMENTED_MAX / first.len.max(1));
    let mut run = 1;
    for datagram in datagrams.iter().take(most).skip(1) {
        if datagram.len > first.len
            || datagram.len == 0
            || datagram.to != first.to
            || datagram.from != first.from
        {
            break;
        }
        run += 1;
        if datagram.len < first.len {
            break;
        }
    }
    run
}

fn write_name(name: &mut sockaddr_in6, to: &Endpoint) -> u32 {
    if to.is_ipv4() {
        let [.., a, b, c, d] = to.ip;
        let v4 = sockaddr_in {
            sin_family: libc::AF_INET as sa_family_t,
            sin_port: to.port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([a, b, c, d]) },
            sin_zero: [0; 8],
        };
        // SAFETY: a sockaddr_in6 has room for a sockaddr_in and at least its alignment.
        unsafe { (&raw mut *name).cast::<sockaddr_in>().write(v4) };
        size_of::<sockaddr_in>() as u32
    } else {
        name.sin6_family = libc::AF_INET6 as sa_family_t;
        name.sin6_port = to.port.to_be();
        name.sin6_flowinfo = 0;
        name.sin6_addr.s6_addr = to.ip;
        name.sin6_scope_id = to.scope;
        size_of::<sockaddr_in6>() as u32
    }
}

/// Writes one control message and returns its length.
///
/// # Safety
/// `control` must point at `CMSG_SPACE(size_of::<T>())` writable bytes, aligned for `cmsghdr`.
unsafe fn write_control<T: Copy>(control: *mut cmsghdr, level: c_int, kind: c_int, value: &T) -> usize {
    let size = size_of::<T>() as u32;
    // SAFETY: the caller vouches for the room; CMSG_DATA lies inside it.
    unsafe {
        (*control).cmsg_level = level;
        (*control).cmsg_type = kind;
        (*control).cmsg_len = libc::CMSG_LEN(size) as _;
        ptr::copy_nonoverlapping((&raw const *value).cast::<u8>(), libc::CMSG_DATA(control), size as usize);
        libc::CMSG_SPACE(size) as usize
    }
}

/// # Safety
/// As [`write_control`], for the larger of the two structures.
unsafe fn write_pktinfo(control: *mut cmsghdr, local: &Local) -> usize {
    let v6 = Ipv6Addr::from(local.ip);
    match v6.to_ipv4_mapped() {
        Some(v4) => {
            // Routing decides the interface; only the source address is ours to set.
            let info = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(v4).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            // SAFETY: the caller's promise.
            unsafe { write_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, &info) }
        }
        None => {
            let info = in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: local.ip },
                ipi6_ifindex: local.interface,
            };
            // SAFETY: the caller's promise.
            unsafe { write_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info) }
        }
    }
}
