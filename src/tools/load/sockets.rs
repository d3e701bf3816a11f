//! Sockets of the tools, and how many there may be.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::base::prefix::Prefix;
use crate::engine::sys;

/// Buffers of UDP sockets, bytes: a tool that is not scheduled for 50 ms at 300,000 queries per second
/// loses nothing. The kernel may give less.
const BUFFER: usize = 4 << 20;
/// Connections that wait to be accepted; the kernel may allow less.
const BACKLOG: i32 = 4_096;
/// Descriptors of the process besides sockets.
const OTHERS: u64 = 64;

fn of(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))
}

fn widen(socket: &Socket) {
    // Smaller buffers are no error: what they lose is counted as lost.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
}

/// Opens a UDP socket towards a server, from this address if one is given.
///
/// # Errors
/// The operating system's.
pub(crate) fn ask(target: SocketAddr, from: Option<IpAddr>) -> io::Result<Socket> {
    let socket = of(target, Type::DGRAM, Protocol::UDP)?;
    widen(&socket);
    if let Some(ip) = from {
        socket.bind(&SockAddr::from(SocketAddr::new(ip, 0)))?;
    }
    socket.connect(&SockAddr::from(target))?;
    Ok(socket)
}

/// Opens a UDP socket whose datagrams may have any source address. They name it and their
/// destination.
///
/// # Errors
/// The operating system's: without CAP_NET_ADMIN, that it is not permitted.
pub(crate) fn ask_transparently(target: SocketAddr) -> io::Result<Socket> {
    let socket = of(target, Type::DGRAM, Protocol::UDP)?;
    widen(&socket);
    be_transparent(&socket, target)?;
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
    Ok(socket)
}

fn be_transparent(socket: &Socket, target: SocketAddr) -> io::Result<()> {
    let (level, name) = if target.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_TRANSPARENT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT)
    };
    sys::set_option(socket.as_fd(), level, name, 1)
}

/// Starts a connection to a server, from this address, which need not be ours.
///
/// # Errors
/// As [`ask_transparently`] and [`connect`].
pub(crate) fn connect_transparently(target: SocketAddr, from: IpAddr) -> io::Result<Socket> {
    let socket = of(target, Type::STREAM, Protocol::TCP)?;
    be_transparent(&socket, target)?;
    begin(socket, target, Some(from))
}

/// Starts a connection to a server, from this address if one is given.
///
/// # Errors
/// The operating system's; that of the connection itself comes when the socket is writable.
pub(crate) fn connect(target: SocketAddr, from: Option<IpAddr>) -> io::Result<Socket> {
    begin(of(target, Type::STREAM, Protocol::TCP)?, target, from)
}

fn begin(socket: Socket, target: SocketAddr, from: Option<IpAddr>) -> io::Result<Socket> {
    // A query leaves at once, and does not wait for the acknowledgement of the one before.
    socket.set_tcp_nodelay(true)?;
    if let Some(ip) = from {
        // The port is chosen by connect, so that each pair of addresses has all ports.
        let _ = sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        socket.bind(&SockAddr::from(SocketAddr::new(ip, 0)))?;
    }
    match socket.connect(&SockAddr::from(target)) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        Ok(()) | Err(_) => Ok(socket),
    }
}

/// Makes sure that this machine has an address.
///
/// # Errors
/// The operating system's.
pub(crate) fn own(ip: IpAddr) -> io::Result<()> {
    let address = SocketAddr::new(ip, 0);
    of(address, Type::DGRAM, Protocol::UDP)?.bind(&SockAddr::from(address))
}

/// Makes sure that no other socket has an address, which would share what comes with ours.
///
/// # Errors
/// The operating system's.
pub(crate) fn vacant(address: SocketAddr, kind: Type) -> io::Result<()> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = of(address, kind, protocol)?;
    if kind == Type::STREAM {
        // As in `accept`; of sockets that listen this excludes each other.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SockAddr::from(address))
}

/// Opens a UDP socket that answers at this address, beside those of other threads.
///
/// # Errors
/// The operating system's.
pub(crate) fn answer(address: SocketAddr) -> io::Result<Socket> {
    let socket = of(address, Type::DGRAM, Protocol::UDP)?;
    widen(&socket);
    if address.ip().is_unspecified() {
        let (level, name) = if address.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_PKTINFO)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
        };
        sys::set_option(socket.as_fd(), level, name, 1)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Opens a TCP socket that accepts at this address, beside those of other threads.
///
/// # Errors
/// The operating system's.
pub(crate) fn accept(address: SocketAddr) -> io::Result<Socket> {
    let socket = of(address, Type::STREAM, Protocol::TCP)?;
    // Connections of an earlier process in TIME_WAIT do not block the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Inherited by the connections.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Returns the address that a socket is bound to.
///
/// # Errors
/// The operating system's.
pub(crate) fn bound(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Makes sure that the process may open so many sockets.
///
/// # Errors
/// When it may not, with what to do.
pub(crate) fn allow(sockets: u64) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files")?;
    let need = sockets + OTHERS;
    if need <= soft {
        return Ok(());
    }
    if need > hard {
        bail!(
            "{sockets} {} needed, and the process may open {hard} files: allow {need}, for a user in \
             /etc/security/limits.conf (nofile), for a unit of systemd by LimitNOFILE=",
            if sockets == 1 { "socket is" } else { "sockets are" }
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, need, hard).context("the limit of open files")
}

/// Returns how many sockets the process may open at most.
///
/// # Errors
/// The operating system's.
pub(crate) fn limit() -> anyhow::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files")?;
    Ok(hard.saturating_sub(OTHERS))
}

/// Returns how many ports the system has for sockets without one of their own.
pub(crate) fn ports() -> u64 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ends: Vec<u64> = range.split_whitespace().filter_map(|end| end.parse().ok()).collect();
    match ends.as_slice() {
        [first, last] if first <= last => last - first + 1,
        // The kernel's default, if it does not say it.
        _ => 28_232,
    }
}

/// Addresses of a network, in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    first: u128,
    count: u128,
}

impl Addresses {
    /// Takes the addresses of a network; those of IPv4 without its first and last where it has more
    /// than two.
    pub(crate) const fn of(network: &Prefix) -> Self {
        let (first, last) = network.bounds();
        if network.is_ipv4() && last - first > 1 {
            return Self { first: first + 1, count: last - first - 1 };
        }
        Self { first, count: (last - first).saturating_add(1) }
    }

    /// Returns how many there are.
    pub(crate) const fn count(&self) -> u128 {
        self.count
    }

    /// Returns one of them by its number; behind the last the first one comes again.
    pub(crate) fn at(&self, number: usize) -> IpAddr {
        Ipv6Addr::from(self.first + number as u128 % self.count).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_network_come_in_turn() {
        let of = |text: &str| Addresses::of(&text.parse().expect("a network"));
        let shown = |a: Addresses, n: usize| (0..n).map(|n| a.at(n).to_string()).collect::<Vec<_>>();
        assert_eq!(shown(of("127.1.0.0/30"), 3), ["127.1.0.1", "127.1.0.2", "127.1.0.1"]);
        assert_eq!(shown(of("127.1.0.7"), 2), ["127.1.0.7", "127.1.0.7"]);
        assert_eq!(shown(of("::1/128"), 1), ["::1"]);
        assert_eq!(of("127.0.0.0/8").count(), (1 << 24) - 2);
        assert_eq!(of("::/0").count(), u128::MAX, "one less than there are");
    }

    #[test]
    fn an_address_that_is_taken_is_noticed() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (udp, tcp) = (answer(any).expect("a socket"), accept(any).expect("a socket"));
        for (socket, kind) in [(&udp, Type::DGRAM), (&tcp, Type::STREAM)] {
            let error = vacant(bound(socket).expect("an address"), kind).expect_err("taken");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        vacant(any, Type::STREAM).expect("any port is free");
    }
}
