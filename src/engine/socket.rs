//! Sockets, set up by safe calls: REUSEPORT, PKTINFO, buffers, interface, DSCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use libc::{
    BPF_ABS, BPF_ALU, BPF_IMM, BPF_K, BPF_LD, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W,
    BPF_X, BPF_XOR,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::base::addr::Endpoint;
use crate::engine::sys;
use crate::model::{Backend, ClientAddress, Listener, SocketOptions, Steer};

/// Which of how many shards a listener's socket is for.
#[derive(Clone, Copy, Debug)]
pub struct ShardPosition {
    /// The shard's number.
    pub shard: usize,
    /// Shards there are.
    pub shards: usize,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
}

/// One shard's sockets of a listener: those that its service needs.
#[derive(Debug)]
pub struct ListenerSockets {
    /// For datagrams, bound after [`bind`].
    pub udp: Option<Socket>,
    /// For connections, bound after [`bind`], and listening after [`hear`].
    pub tcp: Option<Socket>,
    /// A service manager passed it to us and keeps it: what we leave unread waits for our
    /// successor, and it must stay as it is.
    pub passed: bool,
}

impl ListenerSockets {
    /// The sockets that the kernel may have given something to: a datagram socket that is bound,
    /// and one for connections that listens.
    #[must_use]
    pub fn exposed(self) -> Self {
        let is_bound = |s: &Socket| {
            s.local_addr().is_ok_and(|a| a.as_socket().is_some_and(|address| address.port() != 0))
        };
        Self {
            udp: self.udp.filter(is_bound),
            tcp: self.tcp.filter(|s| s.is_listener().unwrap_or(false)),
            passed: self.passed,
        }
    }
}

/// Makes one shard's sockets for a listener, non-blocking, and sets all that can be set before they
/// are bound: one for datagrams, with packet information on when the address is a wildcard, and one
/// for connections, as its service needs them.
///
/// # Errors
/// What the kernel says: no descriptor left, no such interface, no right to bind to it.
pub fn create(listener: &Listener) -> io::Result<ListenerSockets> {
    let ip = listener.address.ip();
    let on_interface = |socket: &Socket| match &listener.interface {
        Some(interface) => socket.bind_device(Some(interface.as_bytes())),
        None => Ok(()),
    };
    let for_datagrams = || {
        let socket = udp(ip)?;
        on_interface(&socket)?;
        prepare_listener(&socket, listener)?;
        Ok::<_, io::Error>(socket)
    };
    let for_clients = || {
        let socket = tcp(ip)?;
        // A connection of an earlier process that still lingers does not hold the port.
        socket.set_reuse_address(true)?;
        on_interface(&socket)?;
        prepare_tcp_listener(&socket, listener)?;
        Ok::<_, io::Error>(socket)
    };
    Ok(ListenerSockets {
        udp: listener.service.takes_datagrams().then(for_datagrams).transpose()?,
        tcp: listener.service.takes_connections().then(for_clients).transpose()?,
        passed: false,
    })
}

/// Binds what [`create`] has made, with `SO_REUSEPORT`. `alone` fails where any other socket has the
/// address; without it datagrams may come at once that those others got before. Connections come
/// only after [`hear`].
///
/// # Errors
/// What the kernel says: address in use, no such address, no permission for the port.
pub fn bind(sockets: &ListenerSockets, listener: &Listener, alone: bool) -> io::Result<()> {
    if sockets.passed {
        return Ok(());
    }
    let address = SockAddr::from(listener.address);
    for socket in [&sockets.tcp, &sockets.udp].into_iter().flatten() {
        socket.set_reuse_port(!alone)?;
        socket.bind(&address)?;
        // Whoever binds after this one shares the port with it only if it is set on both.
        socket.set_reuse_port(true)?;
    }
    Ok(())
}

/// Begins to take connections by what [`bind`] has bound: from here on they would be lost with the
/// socket. The sockets of all shards, given in the order of the shards, form the group that `steer`
/// chooses in.
///
/// # Errors
/// What the kernel says.
pub fn hear(
    sockets: &ListenerSockets,
    listener: &Listener,
    steer: Steer,
    position: ShardPosition,
) -> io::Result<()> {
    if sockets.passed {
        // Whoever passed it listens already.
        return Ok(());
    }
    if let Some(socket) = &sockets.tcp {
        socket.listen(backlog(listener))?;
        steer_group(socket, listener, steer, position)?;
    }
    match &sockets.udp {
        Some(socket) => steer_group(socket, listener, steer, position),
        None => Ok(()),
    }
}

fn backlog(listener: &Listener) -> i32 {
    i32::try_from(listener.connection_options.backlog).unwrap_or(i32::MAX)
}

/// Sets the options of a listener that has changed on its socket for datagrams.
///
/// # Errors
/// What the kernel says.
pub fn revise(socket: &Socket, listener: &Listener) -> io::Result<()> {
    let ip = listener.address.ip();
    let SocketOptions { receive_buffer, send_buffer } = listener.sockets;
    if receive_buffer == 0 || send_buffer == 0 {
        // What a socket begins with; the kernel gives twice what it is asked for.
        let fresh = udp(ip)?;
        socket.set_recv_buffer_size(fresh.recv_buffer_size()? / 2)?;
        socket.set_send_buffer_size(fresh.send_buffer_size()? / 2)?;
    }
    set_buffers(socket, listener.sockets);
    write_dscp(socket, ip, listener.dscp)
}

/// Sets the options of a listener that has changed on its socket for connections; `passed` says
/// that its backlog is another's affair.
///
/// # Errors
/// What the kernel says.
pub fn revise_tcp_listener(socket: &Socket, listener: &Listener, passed: bool) -> io::Result<()> {
    write_dscp(socket, listener.address.ip(), listener.dscp)?;
    let fast_open = i32::try_from(listener.connection_options.fast_open).unwrap_or(i32::MAX);
    sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, fast_open)?;
    if passed { Ok(()) } else { socket.listen(backlog(listener)) }
}

/// Sets what a listener's socket for connections needs, also one that was opened by somebody else.
///
/// # Errors
/// What the kernel says.
pub fn prepare_tcp_listener(socket: &Socket, listener: &Listener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Inherited by the connections: each answer leaves at once (a TLS handshake otherwise waits
    // 40 ms for the peer's acknowledgement).
    socket.set_tcp_nodelay(true)?;
    if listener.service.relay().is_some() {
        prepare_passing(socket)?;
    }
    if listener.connection_options.fast_open > 0 {
        let backlog = i32::try_from(listener.connection_options.fast_open).unwrap_or(i32::MAX);
        sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, backlog)?;
        if let Some(key) = &listener.connection_options.fast_open_key {
            sys::set_bytes(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, key)?;
        }
    }
    set_dscp(socket, listener.address.ip(), listener.dscp)
}

/// Sets what a connection needs whose bytes are passed on; connections inherit it from their
/// listener.
fn prepare_passing(socket: &Socket) -> io::Result<()> {
    // Urgent bytes are passed on in their place: otherwise they are lost, and hold up what
    // follows.
    socket.set_out_of_band_inline(true)?;
    // Who has vanished without a word is found out, also where nothing limits how long a
    // connection may be idle; after the kernel's own time.
    socket.set_keepalive(true)
}

/// Makes a group of sockets choose by `steer`.
fn steer_group(
    socket: &Socket,
    listener: &Listener,
    steer: Steer,
    position: ShardPosition,
) -> io::Result<()> {
    match steer {
        Steer::Flow => {}
        Steer::Cpu => {
            if let Some(cpu) = position.cpu {
                socket.set_cpu_affinity(cpu)?;
            }
        }
        // One program serves the whole group.
        Steer::Client if position.shard == 0 && position.shards > 1 => {
            let mut program = client_hash(listener.address.is_ipv4(), position.shards as u32);
            sys::set_reuseport_program(socket.as_fd(), &mut program)?;
        }
        Steer::Client => {}
    }
    Ok(())
}

/// Sets what a listener's socket needs, also one that was opened by somebody else (systemd).
///
/// # Errors
/// What the kernel says.
pub fn prepare_listener(socket: &Socket, listener: &Listener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let ip = listener.address.ip();
    if ip.is_unspecified() {
        let (level, name) = match ip {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        sys::set_option(socket.as_fd(), level, name, 1)?;
    }
    if ip.is_ipv4() {
        // Answers are never fragmented on the word of a forged ICMP message (as unbound, knot).
        let _ =
            sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT);
    }
    set_buffers(socket, listener.sockets);
    set_dscp(socket, ip, listener.dscp)
}

/// Opens one connected socket towards a backend, on a port of the kernel's choice.
///
/// # Errors
/// What the kernel says: no route, no such interface, no descriptors left.
pub fn connect(backend: &Backend) -> io::Result<Socket> {
    let ip = backend.address.ip();
    let socket = udp(ip)?;
    if let Some(interface) = &backend.source_interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    set_buffers(&socket, backend.socket_options);
    set_dscp(&socket, ip, backend.dscp)?;
    if backend.client_address == ClientAddress::Transparent {
        // One that is connected, or bound to an address of ours, would hear nothing that is sent
        // to a client's.
        let any: IpAddr =
            if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        set_transparent(&socket, ip)?;
        socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
        return Ok(socket);
    }
    if let Some(source) = backend.source {
        bind_source(&socket, source)?;
    }
    socket.connect(&SockAddr::from(backend.address))?;
    Ok(socket)
}

/// Lets a socket send from any address, and hear what is sent to any.
fn set_transparent(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    let (level, name) = match ip {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    };
    sys::set_option(socket.as_fd(), level, name, 1)
}

/// Takes a listening socket out of its REUSEPORT group without closing it: the kernel gives a
/// connected socket only its own peer's packets, so new queries go to the others of the group
/// (another dnslob on the same port), while this one can still send answers from its port.
///
/// # Errors
/// What the kernel says; the socket then stays in the group.
pub fn withdraw(socket: &Socket) -> io::Result<()> {
    // The socket's own address is a peer that nobody else can be.
    let mut own = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    if own.ip().is_unspecified() {
        own.set_ip(if own.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    socket.connect(&SockAddr::from(own))?;
    // Some kernels leave it in the group, where a program that chooses (`--steer client`) can still
    // choose it. To bind it to no interface, which it is not bound to, takes it out.
    if socket.device().is_ok_and(|device| device.is_none()) {
        let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, 0);
    }
    Ok(())
}

/// Has a listening socket take no new connections, and lose none: those that are being made, or wait
/// to be accepted, still come, to be given to [`accept_last`]. The client of a new one repeats its
/// SYN, which the kernel then gives to whoever listens there without this socket, or refuses.
///
/// # Errors
/// What the kernel says; the socket then takes connections as before.
pub fn withdraw_tcp_listener(socket: &Socket) -> io::Result<()> {
    // A SYN with a lower TTL is dropped (ip(7)), and nearly all hosts begin with 64 or 128. The rest of
    // a handshake is not looked at. A filter of the socket (BPF) would do the same, but some kernels
    // want a capability for it.
    set_ttl_min(socket, u8::MAX)
}

/// Sets what a connection needs that was accepted after [`withdraw_tcp_listener`].
///
/// # Errors
/// What the kernel says.
pub fn accept_last(connection: &Socket) -> io::Result<()> {
    set_ttl_min(connection, 0)
}

fn set_ttl_min(socket: &Socket, ttl: u8) -> io::Result<()> {
    let ipv4 = socket.local_addr()?.is_ipv4();
    let (level, name) =
        if ipv4 { (libc::IPPROTO_IP, libc::IP_MINTTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT) };
    sys::set_option(socket.as_fd(), level, name, ttl.into())
}

fn udp(ip: IpAddr) -> io::Result<Socket> {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn tcp(ip: IpAddr) -> io::Result<Socket> {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Begins a connection to a backend, from a port of the kernel's choice and, where `client` is
/// given, from that address; whether it came about is known when the socket can be written.
///
/// # Errors
/// What the kernel says at once: no route, no such interface, no descriptors left.
pub fn connect_client(backend: &Backend, client: Option<IpAddr>) -> io::Result<Socket> {
    begin_client(backend, client, backend.connections.fast_open)
}

fn begin_client(backend: &Backend, client: Option<IpAddr>, fast_open: bool) -> io::Result<Socket> {
    let ip = backend.address.ip();
    let socket = tcp(ip)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(interface) = &backend.source_interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if client.is_some() {
        set_transparent(&socket, ip)?;
    }
    if let Some(source) = client.or(backend.source) {
        // The port is chosen at the connect, so that many connections can share it (ip(7)).
        let _ = sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        bind_source(&socket, source)?;
    }
    if fast_open {
        // Without support the connection is made in the ordinary way.
        let _ = sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
    }
    set_dscp(&socket, ip, backend.dscp)?;
    match socket.connect(&SockAddr::from(backend.address)) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket),
    }
}

/// Begins a connection, or opens a connected datagram socket, to a forward's target; `client` is
/// whose address it comes from, where the target is to see that. `fast_open`: the caller writes at
/// once, and the first bytes go with the connection's own first packet where that is possible.
///
/// # Errors
/// As [`connect_client`]; without the right to it, what the kernel says of a foreign address.
pub fn connect_target(target: &Backend, client: Endpoint, udp: bool, fast_open: bool) -> io::Result<Socket> {
    let transparent = target.client_address == ClientAddress::Transparent;
    if !udp {
        let socket = begin_client(target, transparent.then(|| client.ip()), fast_open)?;
        prepare_passing(&socket)?;
        return Ok(socket);
    }
    if !transparent {
        return connect(target);
    }
    let ip = target.address.ip();
    let socket = self::udp(ip)?;
    set_transparent(&socket, ip)?;
    if let Some(interface) = &target.source_interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    let mut source = SocketAddr::from(client);
    // From the client's own port, unless another flow of it has that.
    if socket.bind(&SockAddr::from(source)).is_err() {
        source.set_port(0);
        socket.bind(&SockAddr::from(source))?;
    }
    set_buffers(&socket, target.socket_options);
    set_dscp(&socket, ip, target.dscp)?;
    socket.connect(&SockAddr::from(target.address))?;
    Ok(socket)
}

/// Binds a socket to the address that a server is to be asked from, and to any port.
///
/// # Errors
/// What the kernel says. That the address is not this machine's is `HostUnreachable`: there is no
/// way to the server from there, whatever else this machine has.
pub fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0))).map_err(|e| {
        if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) {
            return io::Error::new(io::ErrorKind::HostUnreachable, format!("from {source}: {e}"));
        }
        e
    })
}

/// Whether a call failed for want of something that this machine or process has used up: then it
/// says nothing of the server that it was made for.
#[must_use]
pub fn is_shortage(e: &io::Error) -> bool {
    const ERRORS: [i32; 8] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        // Ports: of connections when they are made, of datagrams when they are bound or connected;
        // processes, when one is started.
        libc::EADDRNOTAVAIL,
        libc::EADDRINUSE,
        libc::EAGAIN,
        // What an epoll set may watch (fs.epoll.max_user_watches).
        libc::ENOSPC,
    ];
    e.raw_os_error().is_some_and(|number| ERRORS.contains(&number))
}

/// Whether [`accept`] failed for the one connection that was taken, so that the next may do well: it
/// was aborted, a firewall forbids it, or the network has had an error for it (accept(2)).
#[must_use]
pub fn concerns_one(e: &io::Error) -> bool {
    const ERRORS: [i32; 11] = [
        libc::EINTR,
        libc::ECONNABORTED,
        libc::EPERM,
        libc::EPROTO,
        libc::ENOPROTOOPT,
        libc::EOPNOTSUPP,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENONET,
    ];
    e.raw_os_error().is_some_and(|number| ERRORS.contains(&number))
}

/// Takes a connection that waits at a listening socket: its socket, non-blocking, and who is at
/// the other end.
///
/// # Errors
/// `WouldBlock` when nobody waits; what the kernel says otherwise.
pub fn accept(listener: &Socket) -> io::Result<(Socket, Endpoint)> {
    sys::accept(listener.as_fd())
}

/// Asks for the sizes past the system's limit first (needs CAP_NET_ADMIN), then up to it.
fn set_buffers(socket: &Socket, options: SocketOptions) {
    let sizes = [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer),
    ];
    for (force, plain, size) in sizes {
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        if size > 0 && sys::set_option(socket.as_fd(), libc::SOL_SOCKET, force, size).is_err() {
            // The kernel cuts a plain request to its limit rather than refuse it.
            let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, plain, size);
        }
    }
}

fn set_dscp(socket: &Socket, ip: IpAddr, dscp: u8) -> io::Result<()> {
    if dscp == 0 { Ok(()) } else { write_dscp(socket, ip, dscp) }
}

fn write_dscp(socket: &Socket, ip: IpAddr, dscp: u8) -> io::Result<()> {
    let (level, name) = match ip {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    };
    // DSCP is the upper six bits of the byte (RFC 2474, 3).
    sys::set_option(socket.as_fd(), level, name, i32::from(dscp) << 2)
}

/// A classic BPF program that hashes the source address to a number below `shards`.
fn client_hash(ipv4: bool, shards: u32) -> Vec<libc::sock_filter> {
    let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // SKF_NET_OFF: offsets count from the IP header. The source address is at 12 (RFC 791) or at
    // 8 to 23 (RFC 8200).
    let network = libc::SKF_NET_OFF as u32;
    let load = |offset: u32| op(BPF_LD | BPF_W | BPF_ABS, network.wrapping_add(offset));
    let to_x = op(BPF_MISC | BPF_TAX, 0);
    let xor_x = op(BPF_ALU | BPF_XOR | BPF_X, 0);
    let mut program = Vec::with_capacity(16);
    if ipv4 {
        program.push(load(12));
    } else {
        program.extend([load(8), to_x, load(12), xor_x, to_x, load(16), xor_x, to_x, load(20), xor_x]);
    }
    // Fibonacci hashing: the upper bits of the product depend on all bits of the address.
    program.extend([
        op(BPF_ALU | BPF_MUL | BPF_K, 0x9e37_79b1),
        op(BPF_ALU | BPF_RSH | BPF_K, 16),
        op(BPF_ALU | BPF_MOD | BPF_K, shards),
        op(BPF_RET | 0x10, 0), // BPF_RET | BPF_A
    ]);
    debug_assert_eq!(BPF_IMM, 0);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::ListenerSlot;
    use crate::model::{ConnectionOptions, ProxyHeader, Service};
    use std::io::{Read, Write};
    use std::net::UdpSocket;
    use std::time::Duration;

    fn listener(address: &str) -> Listener {
        Listener {
            slot: ListenerSlot(0),
            address: address.parse().expect("an address"),
            interface: None,
            reuse_port: false,
            sockets: SocketOptions { receive_buffer: 1 << 20, send_buffer: 0 },
            dscp: 46,
            service: Service::Dns,
            connection_options: ConnectionOptions::default(),
            proxy: ProxyHeader::default(),
        }
    }

    /// Bound and listening, for one shard after the other, at a port that nobody has.
    fn open(listener: &mut Listener, steer: Steer, shards: usize) -> Vec<ListenerSockets> {
        if listener.address.port() == 0 {
            let free = std::net::TcpListener::bind(listener.address).expect("a port");
            listener.address = free.local_addr().expect("an address");
        }
        let all_sockets: Vec<ListenerSockets> = (0..shards)
            .map(|shard| {
                let sockets = create(listener).expect("sockets");
                bind(&sockets, listener, shard == 0).expect("a port");
                sockets
            })
            .collect();
        for (shard, sockets) in all_sockets.iter().enumerate() {
            hear(sockets, listener, steer, ShardPosition { shard, shards, cpu: None }).expect("listening");
        }
        all_sockets
    }

    fn group(address: &str, steer: Steer, shards: usize) -> Vec<UdpSocket> {
        let mut listener = Listener { service: Service::DnsUdp, ..listener(address) };
        let all_sockets = open(&mut listener, steer, shards).into_iter();
        all_sockets.map(|sockets| sockets.udp.expect("a socket").into()).collect()
    }

    fn heard(socket: &UdpSocket) -> usize {
        let mut buf = [0; 64];
        std::iter::from_fn(|| socket.recv(&mut buf).ok()).count()
    }

    /// The sender waits until the kernel has queued all: loopback delivers inside the send call.
    fn ask_from(source: &str, group: &[UdpSocket], times: usize) {
        for _ in 0..times {
            let client = UdpSocket::bind(format!("{source}:0")).expect("a client");
            let to = group[0].local_addr().expect("an address");
            client.send_to(b"x", to).expect("sent");
        }
    }

    #[test]
    fn a_clients_every_query_reaches_one_shard() {
        let group = group("127.0.0.1:0", Steer::Client, 4);
        let mut used = std::collections::HashSet::new();
        for last in 1..40 {
            ask_from(&format!("127.0.0.{last}"), &group, 8);
            let counts: Vec<usize> = group.iter().map(heard).collect();
            let shard = counts.iter().position(|n| *n > 0).expect("somebody heard");
            assert_eq!(counts[shard], 8, "{counts:?}");
            used.insert(shard);
        }
        assert_eq!(used.len(), 4, "clients are spread over all shards");
    }

    #[test]
    fn only_the_want_of_something_keeps_a_listener_from_accepting() {
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EBADF, libc::EINVAL] {
            assert!(!concerns_one(&io::Error::from_raw_os_error(number)), "{number}");
        }
        for number in [libc::ECONNABORTED, libc::EPROTO, libc::EHOSTUNREACH, libc::EPERM, libc::ENETDOWN] {
            assert!(concerns_one(&io::Error::from_raw_os_error(number)), "{number}");
        }
    }

    #[test]
    fn a_shortage_here_says_nothing_of_a_server() {
        for (number, is_ours) in [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::ENOBUFS, true),
            (libc::ENOMEM, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::EADDRINUSE, true),
            (libc::EAGAIN, true),
            (libc::ENOSPC, true),
            (libc::ECONNREFUSED, false),
            (libc::ETIMEDOUT, false),
            (libc::ECONNRESET, false),
            (libc::ENETUNREACH, false),
            (libc::EHOSTUNREACH, false),
            (libc::EPERM, false),
            (libc::ENOENT, false),
        ] {
            assert_eq!(is_shortage(&io::Error::from_raw_os_error(number)), is_ours, "{number}");
        }
        assert!(!is_shortage(&io::ErrorKind::TimedOut.into()));
    }

    #[test]
    fn a_source_address_that_is_gone_is_no_way_to_a_server() {
        let socket = udp(Ipv4Addr::LOCALHOST.into()).expect("a socket");
        let e = bind_source(&socket, Ipv4Addr::new(192, 0, 2, 99).into()).expect_err("not ours");
        assert_eq!((e.kind(), is_shortage(&e)), (io::ErrorKind::HostUnreachable, false), "{e}");
        bind_source(&socket, Ipv4Addr::LOCALHOST.into()).expect("ours");
    }

    #[test]
    fn ipv6_clients_are_steered_too() {
        let group = group("[::1]:0", Steer::Client, 2);
        for _ in 0..8 {
            let client = UdpSocket::bind("[::1]:0").expect("a client");
            client.send_to(b"x", group[0].local_addr().expect("an address")).expect("sent");
        }
        let counts: Vec<usize> = group.iter().map(heard).collect();
        assert!(counts.contains(&8), "{counts:?}");
    }

    #[test]
    fn withdrawn_sockets_hear_no_more_but_can_answer() {
        for (address, source) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::1]:0", "[::1]"),
            ("[::]:0", "[::1]"),
        ] {
            for steer in [Steer::Flow, Steer::Client] {
                let group = group(address, steer, 3);
                let [gone, left @ ..] = &group[..] else { panic!("three sockets") };
                withdraw(&Socket::from(gone.try_clone().expect("a copy"))).expect("withdrawn");
                let to = format!("{source}:{}", group[0].local_addr().expect("an address").port());
                for _ in 0..64 {
                    let client = UdpSocket::bind(format!("{source}:0")).expect("a client");
                    client.send_to(b"x", &to).expect("sent");
                }
                let counts = (heard(gone), left.iter().map(heard).sum());
                assert_eq!(counts, (0, 64), "{address} {steer:?}");
                let client = UdpSocket::bind(format!("{source}:0")).expect("a client");
                client.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
                gone.send_to(b"answer", client.local_addr().expect("an address")).expect("sent");
                let (_, from) = client.recv_from(&mut [0; 16]).expect("an answer");
                assert_eq!(from.to_string(), to);
            }
        }
    }

    #[test]
    fn a_withdrawn_socket_for_connections_loses_none_and_new_ones_go_to_others() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            withdraw_beside(listener(address));
        }
    }

    fn withdraw_beside(mut listener: Listener) {
        let mut all_sockets = open(&mut listener, Steer::Flow, 1);
        let old = all_sockets.remove(0).tcp.expect("a socket");
        let waiting = std::net::TcpStream::connect(listener.address).expect("a connection");
        withdraw_tcp_listener(&old).expect("withdrawn");
        let fresh = create(&listener).expect("sockets");
        bind(&fresh, &listener, false).expect("beside the other");
        hear(&fresh, &listener, Steer::Flow, ShardPosition { shard: 0, shards: 1, cpu: None })
            .expect("listening");
        // Whichever of the two the kernel chooses for its first SYN.
        let to = listener.address;
        let clients: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(move || std::net::TcpStream::connect(to).expect("a connection")))
            .collect();
        let (accepted, peer) = accept(&old).expect("it waited");
        accept_last(&accepted).expect("set");
        assert_eq!(SocketAddr::from(peer), waiting.local_addr().expect("an address"));
        (&waiting).write_all(b"x").expect("sent");
        accepted.set_nonblocking(false).expect("set");
        (&accepted).read_exact(&mut [0]).expect("it goes on");
        assert_eq!(accept(&old).expect_err("no other").kind(), io::ErrorKind::WouldBlock);
        drop(old);
        let connected: Vec<_> = clients.into_iter().map(|c| c.join().expect("a client")).collect();
        let fresh = fresh.tcp.expect("a socket");
        assert_eq!(std::iter::from_fn(|| accept(&fresh).ok()).count(), connected.len());
    }

    #[test]
    fn an_address_is_had_alone_unless_it_is_to_be_shared() {
        let mut first = listener("127.0.0.1:0");
        let _all_sockets = open(&mut first, Steer::Flow, 2);
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), first.address.port());
        for service in [Service::DnsUdp, Service::Dns] {
            for address in [first.address, any] {
                let second = Listener { address, service: service.clone(), ..first.clone() };
                let sockets = create(&second).expect("sockets");
                let refused = bind(&sockets, &second, true).expect_err("somebody has it");
                assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{address}");
                let sockets = create(&second).expect("sockets");
                bind(&sockets, &second, false).expect("both share it");
            }
        }
    }

    #[test]
    fn only_what_may_hold_something_is_exposed() {
        let mut listener = listener("127.0.0.1:0");
        let sockets = create(&listener).expect("sockets").exposed();
        assert!(sockets.udp.is_none() && sockets.tcp.is_none(), "nothing is bound");
        let sockets = create(&listener).expect("sockets");
        bind(&sockets, &listener, true).expect("a port");
        let sockets = sockets.exposed();
        assert!(sockets.udp.is_some() && sockets.tcp.is_none(), "it does not listen yet");
        let sockets = open(&mut listener, Steer::Flow, 1).remove(0).exposed();
        assert!(sockets.udp.is_some() && sockets.tcp.is_some());
    }

    #[test]
    fn a_changed_listener_has_its_options_on_the_same_sockets() {
        let mut before = listener("127.0.0.1:0");
        before.sockets = SocketOptions { receive_buffer: 65_536, send_buffer: 65_536 };
        let sockets = open(&mut before, Steer::Flow, 1).remove(0);
        let (udp, tcp) = (sockets.udp.expect("a socket"), sockets.tcp.expect("a socket"));
        let fresh = datagram_size();
        assert_ne!(udp.recv_buffer_size().expect("a size"), fresh);
        let connection_options = ConnectionOptions { fast_open: 7, backlog: 5, ..before.connection_options };
        let after = Listener { dscp: 0, sockets: SocketOptions::default(), connection_options, ..before };
        revise(&udp, &after).expect("set");
        revise_tcp_listener(&tcp, &after, false).expect("set");
        assert_eq!(udp.recv_buffer_size().expect("a size"), fresh);
        for socket in [&udp, &tcp] {
            assert_eq!(socket.tos_v4().expect("a class"), 0);
        }
    }

    fn datagram_size() -> usize {
        super::udp(IpAddr::V4(Ipv4Addr::LOCALHOST)).and_then(|s| s.recv_buffer_size()).expect("a size")
    }

    #[test]
    fn the_key_of_fast_open_is_the_sockets_own() {
        let key = *b"0123456789abcdef";
        let connection_options =
            ConnectionOptions { fast_open: 16, fast_open_key: Some(key), ..ConnectionOptions::default() };
        let mut listener = Listener { connection_options, dscp: 0, ..listener("127.0.0.1:0") };
        let socket = open(&mut listener, Steer::Flow, 1).remove(0).tcp.expect("a socket");
        let mut found = [0; 16];
        sys::bytes_of(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, &mut found).expect("a key");
        assert_eq!(found, key);
    }

    #[test]
    fn connections_are_refused_until_all_is_bound() {
        let mut listener = listener("127.0.0.1:0");
        let position = ShardPosition { shard: 0, shards: 1, cpu: None };
        let sockets = create(&listener).expect("sockets");
        bind(&sockets, &listener, true).expect("a port");
        let socket = sockets.tcp.as_ref().expect("a socket");
        listener.address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
        let refused = std::net::TcpStream::connect(listener.address).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        hear(&sockets, &listener, Steer::Flow, position).expect("listening");
        std::net::TcpStream::connect(listener.address).expect("a connection");
    }
}
