//! Socket set-up by safe calls: REUSEPORT, PKTINFO, buffers, interface, DSCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use libc::{
    BPF_ABS, BPF_ALU, BPF_IMM, BPF_K, BPF_LD, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W,
    BPF_X, BPF_XOR,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::base::addr::Endpoint;
use crate::engine::fast_open::set_fast_open;
use crate::engine::sys;
use crate::model::{Backend, ClientAddress, Listener, SocketOptions, Steer};

/// Milliseconds that bytes to a backend may stay unacknowledged: its connection's queries then move on
/// within two seconds, after the kernel has repeated the bytes three times.
const UNACKNOWLEDGED_MS_MAX: libc::c_int = 1_500;

/// The shard that a listener's socket is for, and how many shards there are.
#[derive(Clone, Copy, Debug)]
pub struct ShardPosition {
    /// The shard's number.
    pub shard: usize,
    /// The number of shards.
    pub shards: usize,
    /// The CPU that the shard is pinned to.
    pub cpu: Option<usize>,
}

/// One shard's sockets of a listener, as its service needs them.
#[derive(Debug)]
pub struct ListenerSockets {
    /// The UDP socket, bound by [`bind`].
    pub udp: Option<Socket>,
    /// The TCP socket, bound by [`bind`] and listening after [`listen`].
    pub tcp: Option<Socket>,
    /// Which of them a service manager passed to us.
    pub inherited: Inherited,
}

/// The sockets of a listener that a service manager passed to us and keeps open: what we leave unread
/// waits for the next process, and their settings must stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The UDP socket.
    pub udp: bool,
    /// The TCP socket.
    pub tcp: bool,
}

impl ListenerSockets {
    /// Keeps only the sockets that the kernel may have queued something on: a bound UDP socket, a
    /// listening TCP socket.
    #[must_use]
    pub fn exposed(self) -> Self {
        let is_bound = |s: &Socket| {
            s.local_addr().is_ok_and(|a| a.as_socket().is_some_and(|address| address.port() != 0))
        };
        Self {
            udp: self.udp.filter(is_bound),
            tcp: self.tcp.filter(|s| s.is_listener().unwrap_or(false)),
            inherited: self.inherited,
        }
    }
}

/// Creates one shard's non-blocking sockets for a listener and sets every option that precedes
/// binding. A UDP socket of a wildcard address gets packet information.
///
/// # Errors
/// The kernel's: no descriptor left, no such interface, no permission to bind to it.
pub fn create(listener: &Listener) -> io::Result<ListenerSockets> {
    create_others(listener, Inherited::default())
}

/// The same for the kinds that were not passed to us.
///
/// # Errors
/// The kernel's.
pub fn create_others(listener: &Listener, inherited: Inherited) -> io::Result<ListenerSockets> {
    let ip = listener.address.ip();
    let on_interface = |socket: &Socket| match &listener.interface {
        Some(interface) => socket.bind_device(Some(interface.as_bytes())),
        None => Ok(()),
    };
    let for_datagrams = || {
        let socket = udp(ip)?;
        set_freebind(&socket, listener)?;
        on_interface(&socket)?;
        prepare_listener(&socket, listener)?;
        Ok::<_, io::Error>(socket)
    };
    let for_clients = || {
        let socket = tcp(ip)?;
        // Connections of an earlier process in TIME_WAIT do not block the port.
        socket.set_reuse_address(true)?;
        set_freebind(&socket, listener)?;
        on_interface(&socket)?;
        prepare_tcp_listener(&socket, listener)?;
        Ok::<_, io::Error>(socket)
    };
    Ok(ListenerSockets {
        udp: (listener.service.takes_datagrams() && !inherited.udp).then(for_datagrams).transpose()?,
        tcp: (listener.service.takes_connections() && !inherited.tcp).then(for_clients).transpose()?,
        inherited,
    })
}

/// Lets a socket be bound to an address that the machine does not have, where the listener asks for
/// it.
fn set_freebind(socket: &Socket, listener: &Listener) -> io::Result<()> {
    match (listener.freebind, listener.address) {
        (false, _) => Ok(()),
        (true, SocketAddr::V4(_)) => socket.set_freebind_v4(true),
        (true, SocketAddr::V6(_)) => socket.set_freebind_v6(true),
    }
}

/// Binds what [`create`] has made, with `SO_REUSEPORT`. `alone` fails where any other socket has
/// the address; without it, datagrams that the other sockets would have got may arrive at once.
/// Connections arrive only after [`listen`].
///
/// # Errors
/// The kernel's: address in use, no such address, no permission for the port.
pub fn bind(sockets: &ListenerSockets, listener: &Listener, alone: bool) -> io::Result<()> {
    let ListenerSockets { udp, tcp, inherited } = sockets;
    let address = SockAddr::from(listener.address);
    let of_ours = [tcp.as_ref().filter(|_| !inherited.tcp), udp.as_ref().filter(|_| !inherited.udp)];
    for socket in of_ours.into_iter().flatten() {
        socket.set_reuse_port(!alone)?;
        socket.bind(&address)?;
        // A socket that binds later shares the port only if both have the option.
        socket.set_reuse_port(true)?;
    }
    Ok(())
}

/// Starts listening on the TCP socket that [`bind`] has bound: from here on, closing it loses
/// connections. The sockets of all shards, in the order of the shards, form the group in which
/// `steer` chooses.
///
/// # Errors
/// The kernel's.
pub fn listen(
    sockets: &ListenerSockets,
    listener: &Listener,
    steer: Steer,
    position: ShardPosition,
) -> io::Result<()> {
    // An inherited socket is already listening, and its group is another's.
    if let Some(socket) = sockets.tcp.as_ref().filter(|_| !sockets.inherited.tcp) {
        socket.listen(backlog(listener))?;
        steer_group(socket, listener, steer, position)?;
    }
    match sockets.udp.as_ref().filter(|_| !sockets.inherited.udp) {
        Some(socket) => steer_group(socket, listener, steer, position),
        None => Ok(()),
    }
}

fn backlog(listener: &Listener) -> i32 {
    i32::try_from(listener.connection_options.backlog).unwrap_or(i32::MAX)
}

/// Applies a changed listener's options to its UDP socket.
///
/// # Errors
/// The kernel's.
pub fn revise(socket: &Socket, listener: &Listener) -> io::Result<()> {
    let ip = listener.address.ip();
    let SocketOptions { receive_buffer, send_buffer } = listener.sockets;
    if receive_buffer == 0 || send_buffer == 0 {
        // The default; the kernel doubles the requested size.
        let fresh = udp(ip)?;
        socket.set_recv_buffer_size(fresh.recv_buffer_size()? / 2)?;
        socket.set_send_buffer_size(fresh.send_buffer_size()? / 2)?;
    }
    set_buffers(socket, listener.sockets);
    write_dscp(socket, ip, listener.dscp)
}

/// Applies a changed listener's options to its TCP socket. The backlog of an inherited socket is not
/// ours to set.
///
/// # Errors
/// The kernel's.
pub fn revise_tcp_listener(socket: &Socket, listener: &Listener, inherited: bool) -> io::Result<()> {
    write_dscp(socket, listener.address.ip(), listener.dscp)?;
    set_fast_open(socket, listener.connection_options)?;
    if inherited { Ok(()) } else { socket.listen(backlog(listener)) }
}

/// Sets what a listener's TCP socket needs, including one that a service manager opened.
///
/// # Errors
/// The kernel's.
pub fn prepare_tcp_listener(socket: &Socket, listener: &Listener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Inherited by the connections: each answer leaves at once (otherwise a TLS handshake waits 40
    // ms for the peer's acknowledgement).
    socket.set_tcp_nodelay(true)?;
    if listener.service.relay().is_some() {
        prepare_passing(socket)?;
    }
    if listener.connection_options.fast_open > 0 {
        set_fast_open(socket, listener.connection_options)?;
    }
    set_dscp(socket, listener.address.ip(), listener.dscp)
}

/// Sets what a relayed connection needs; connections inherit it from their listener.
fn prepare_passing(socket: &Socket) -> io::Result<()> {
    // Urgent bytes are relayed in their place: otherwise they are lost and block what follows.
    socket.set_out_of_band_inline(true)?;
    // Detects peers that vanish silently even where no idle limit is set, after the kernel's own
    // time.
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

/// Sets what a listener's UDP socket needs, including one that systemd opened.
///
/// # Errors
/// The kernel's.
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
        // Answers are never fragmented because of a forged ICMP message (as in unbound and knot).
        let _ =
            sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT);
    }
    set_buffers(socket, listener.sockets);
    set_dscp(socket, ip, listener.dscp)
}

/// Opens one connected socket to a backend, from a port of the kernel's choice.
///
/// # Errors
/// The kernel's: no route, no such interface, no descriptors left.
pub fn connect(backend: &Backend) -> io::Result<Socket> {
    let ip = backend.address.ip();
    let socket = udp(ip)?;
    if let Some(interface) = &backend.source_interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    set_buffers(&socket, backend.socket_options);
    set_dscp(&socket, ip, backend.dscp)?;
    if backend.client_address == ClientAddress::Transparent {
        // A socket that is connected, or bound to an address of ours, would not receive responses
        // sent to a client's address.
        let any: IpAddr =
            if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        set_transparent(&socket, ip)?;
        socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
        return Ok(socket);
    }
    if let Some(source) = backend.source {
        bind_source(&socket, source, backend.address)?;
    }
    socket.connect(&SockAddr::from(backend.address))?;
    Ok(socket)
}

/// Lets a socket send from, and receive for, any address.
fn set_transparent(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    let (level, name) = match ip {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    };
    sys::set_option(socket.as_fd(), level, name, 1)
}

/// Takes a UDP socket out of its REUSEPORT group without closing it. The kernel gives a connected
/// socket only its peer's packets, so new queries go to the others of the group (another dnslob on
/// the same port), while this one can still send answers from its port.
///
/// # Errors
/// The kernel's; the socket then stays in the group.
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
    // Some kernels leave it in the group, where a program (`--steer client`) can still choose it.
    // Binding it to no device, which it already has, takes it out.
    if socket.device().is_ok_and(|device| device.is_none()) {
        let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, 0);
    }
    Ok(())
}

/// Stops a listening socket from taking new connections without losing any: pending handshakes
/// complete and can be accepted, then be given to [`accept_last`]. The client of a new connection
/// repeats its SYN, which the kernel then gives to another listening socket, or refuses.
///
/// # Errors
/// The kernel's; the socket then accepts as before.
pub fn withdraw_tcp_listener(socket: &Socket) -> io::Result<()> {
    // A SYN with a lower TTL is dropped (ip(7)), and nearly all hosts start with 64 or 128. The
    // rest of a handshake is not checked. A BPF filter on the socket would do the same, but some
    // kernels require a capability for it.
    set_ttl_min(socket, u8::MAX)
}

/// Sets what a connection needs that was accepted after [`withdraw_tcp_listener`].
///
/// # Errors
/// The kernel's.
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

/// Starts a connection to a backend from a port of the kernel's choice and, where given, from the
/// address `client`. Whether it succeeded is known when the socket becomes writable.
///
/// # Errors
/// The kernel's immediate ones: no route, no such interface, no descriptors left.
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
        // The port is chosen at connect, so that many connections can share it (ip(7)).
        let _ = sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        bind_source(&socket, source, backend.address)?;
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

/// Lets the kernel end a backend connection whose bytes are not acknowledged: its path is broken, or
/// its server has vanished. One that is slow to respond acknowledges them.
pub fn limit_unacknowledged(connection: &Socket) {
    // An old kernel's connection ends when its queries have timed out.
    let _ =
        sys::set_option(connection.as_fd(), libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX);
}

/// Starts a connection to a relay's target, or opens a connected UDP socket to it. `client` is the
/// source address, where the target is to see it. With `fast_open` the caller writes at once, and
/// the first bytes go with the connection's first packet where possible.
/// # Errors
/// As [`connect_client`]; without the capability, what the kernel says of a foreign address.
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
    // From the client's own port, unless another flow of that client has it.
    if socket.bind(&SockAddr::from(source)).is_err() {
        source.set_port(0);
        socket.bind(&SockAddr::from(source))?;
    }
    set_buffers(&socket, target.socket_options);
    set_dscp(&socket, ip, target.dscp)?;
    socket.connect(&SockAddr::from(target.address))?;
    Ok(socket)
}

/// Returns a source address with any port; a link-local one is of the zone of the address it is for.
#[must_use]
pub fn towards(source: IpAddr, to: SocketAddr) -> SocketAddr {
    let mut from = SocketAddr::new(source, 0);
    if let (SocketAddr::V6(from), SocketAddr::V6(to)) = (&mut from, to)
        && from.ip().is_unicast_link_local()
    {
        from.set_scope_id(to.scope_id());
    }
    from
}

/// Binds a socket to a backend's source address, and to any port.
///
/// # Errors
/// The kernel's. An address that this machine does not have is `HostUnreachable`: the backend
/// cannot be reached from there.
pub fn bind_source(socket: &Socket, source: IpAddr, to: SocketAddr) -> io::Result<()> {
    socket.bind(&SockAddr::from(towards(source, to))).map_err(|e| {
        if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) {
            return io::Error::new(io::ErrorKind::HostUnreachable, format!("from {source}: {e}"));
        }
        e
    })
}

/// Returns whether a call failed because this machine or process has run out of a resource, which
/// says nothing about the backend.
#[must_use]
pub fn is_shortage(e: &io::Error) -> bool {
    const ERRORS: [i32; 8] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        // Ports: of connections when they are made, of UDP sockets when they are bound or
        // connected; processes, when one is started.
        libc::EADDRNOTAVAIL,
        libc::EADDRINUSE,
        libc::EAGAIN,
        // Watches of an epoll set (fs.epoll.max_user_watches).
        libc::ENOSPC,
    ];
    e.raw_os_error().is_some_and(|number| ERRORS.contains(&number))
}

/// Returns whether [`accept`] failed for one connection only, so that the next may succeed: it was
/// aborted, a firewall forbids it, or the network reported an error for it (accept(2)).
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

/// Accepts a pending connection: its socket, non-blocking, and the peer's address.
///
/// # Errors
/// `WouldBlock` when none is pending; the kernel's otherwise.
pub fn accept(listener: &Socket) -> io::Result<(Socket, Endpoint)> {
    sys::accept(listener.as_fd())
}

/// Requests sizes beyond the system's limit first (needs CAP_NET_ADMIN), then up to it.
fn set_buffers(socket: &Socket, options: SocketOptions) {
    let sizes = [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer),
    ];
    for (force, plain, size) in sizes {
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        if size > 0 && sys::set_option(socket.as_fd(), libc::SOL_SOCKET, force, size).is_err() {
            // The kernel caps a plain request rather than refuse it.
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

/// Builds a classic BPF program that hashes the source address to a number below `shards`.
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
    use crate::engine::fast_open::{fast_open_key, own_fast_open_key};
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
            freebind: false,
            sockets: SocketOptions { receive_buffer: 1 << 20, send_buffer: 0 },
            dscp: 46,
            service: Service::Dns,
            connection_options: ConnectionOptions::default(),
            proxy: ProxyHeader::default(),
        }
    }

    /// Opens bound and listening sockets, for one shard after the other, on a free port.
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
            listen(sockets, listener, steer, ShardPosition { shard, shards, cpu: None }).expect("listening");
        }
        all_sockets
    }

    #[test]
    fn a_listener_may_precede_its_address() {
        // Addresses for documentation, which no machine has.
        for address in ["192.0.2.55:0", "[2001:db8::55]:0"] {
            let plain = listener(address);
            let refused = bind(&create(&plain).expect("sockets"), &plain, true).expect_err(address);
            assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable, "{address}");
            let early = Listener { freebind: true, ..plain };
            bind(&create(&early).expect("sockets"), &early, true).expect(address);
        }
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

    /// The sender waits until the kernel has queued everything: loopback delivers inside the send
    /// call.
    fn ask_from(source: &str, group: &[UdpSocket], times: usize) {
        for _ in 0..times {
            let client = UdpSocket::bind(format!("{source}:0")).expect("a client");
            let to = group[0].local_addr().expect("an address");
            client.send_to(b"x", to).expect("sent");
        }
    }

    #[test]
    fn all_queries_of_a_client_reach_one_shard() {
        let group = group("127.0.0.1:0", Steer::Client, 4);
        let mut used = std::collections::HashSet::new();
        for last in 1..40 {
            ask_from(&format!("127.0.0.{last}"), &group, 8);
            let counts: Vec<usize> = group.iter().map(heard).collect();
            let shard = counts.iter().position(|n| *n > 0).expect("one shard received it");
            assert_eq!(counts[shard], 8, "{counts:?}");
            used.insert(shard);
        }
        assert_eq!(used.len(), 4, "clients are spread over all shards");
    }

    #[test]
    fn only_exhausted_resources_stop_accepting() {
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EBADF, libc::EINVAL] {
            assert!(!concerns_one(&io::Error::from_raw_os_error(number)), "{number}");
        }
        for number in [libc::ECONNABORTED, libc::EPROTO, libc::EHOSTUNREACH, libc::EPERM, libc::ENETDOWN] {
            assert!(concerns_one(&io::Error::from_raw_os_error(number)), "{number}");
        }
    }

    #[test]
    fn local_shortages_are_recognised() {
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
    fn a_source_address_that_is_gone_makes_a_backend_unreachable() {
        let socket = udp(Ipv4Addr::LOCALHOST.into()).expect("a socket");
        let to = SocketAddr::from(([127, 0, 0, 1], 53));
        let e = bind_source(&socket, Ipv4Addr::new(192, 0, 2, 99).into(), to).expect_err("not ours");
        assert_eq!((e.kind(), is_shortage(&e)), (io::ErrorKind::HostUnreachable, false), "{e}");
        bind_source(&socket, Ipv4Addr::LOCALHOST.into(), to).expect("ours");
        // Of a link-local one, the zone is that of the other end.
        let to = "[fe80::2%1]:53".parse().expect("an address");
        let from = |text: &str| towards(text.parse().expect("an address"), to).to_string();
        assert_eq!([from("fe80::3"), from("2001:db8::3")], ["[fe80::3%1]:0", "[2001:db8::3]:0"]);
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
    fn withdrawn_sockets_receive_nothing_but_can_answer() {
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
    fn unacknowledged_bytes_end_a_connection_within_two_seconds() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let connection = Socket::from(
            std::net::TcpStream::connect(listener.local_addr().expect("its address")).expect("open"),
        );
        limit_unacknowledged(&connection);
        let mut value = [0; 4];
        sys::bytes_of(connection.as_fd(), libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &mut value)
            .expect("read");
        assert_eq!(i32::from_ne_bytes(value), UNACKNOWLEDGED_MS_MAX);
    }

    #[test]
    fn a_withdrawn_tcp_listener_loses_no_connection() {
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
        listen(&fresh, &listener, Steer::Flow, ShardPosition { shard: 0, shards: 1, cpu: None })
            .expect("listening");
        // Either of the two may get the first SYN.
        let to = listener.address;
        let clients: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(move || std::net::TcpStream::connect(to).expect("a connection")))
            .collect();
        let (accepted, peer) = accept(&old).expect("it is pending");
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
    fn an_address_is_exclusive_unless_shared() {
        let mut first = listener("127.0.0.1:0");
        let _all_sockets = open(&mut first, Steer::Flow, 2);
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), first.address.port());
        for service in [Service::DnsUdp, Service::Dns] {
            for address in [first.address, any] {
                let second = Listener { address, service: service.clone(), ..first.clone() };
                let sockets = create(&second).expect("sockets");
                let refused = bind(&sockets, &second, true).expect_err("it is in use");
                assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{address}");
                let sockets = create(&second).expect("sockets");
                bind(&sockets, &second, false).expect("both share it");
            }
        }
    }

    #[test]
    fn only_sockets_with_a_queue_are_exposed() {
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
    fn changed_options_apply_to_open_sockets() {
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
    fn a_socket_has_its_own_fast_open_key() {
        let key = *b"0123456789abcdef";
        let connection_options =
            ConnectionOptions { fast_open: 16, fast_open_key: Some(key), ..ConnectionOptions::default() };
        let mut listener = Listener { connection_options, dscp: 0, ..listener("127.0.0.1:0") };
        let socket = open(&mut listener, Steer::Flow, 1).remove(0).tcp.expect("a socket");
        let mut found = [0; 16];
        sys::bytes_of(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, &mut found).expect("a key");
        assert_eq!(found, key);
        // Another one, while it listens.
        let key = *b"fedcba9876543210";
        let connection_options = ConnectionOptions { fast_open_key: Some(key), ..connection_options };
        revise_tcp_listener(&socket, &Listener { connection_options, ..listener }, false).expect("set");
        sys::bytes_of(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, &mut found).expect("a key");
        assert_eq!(found, key);
    }

    #[test]
    fn a_key_that_is_removed_gives_way_to_a_fresh_one() {
        type Step = (u32, Option<[u8; 16]>);
        let (own, other) = (Some(*b"0123456789abcdef"), Some(*b"fedcba9876543210"));
        let at = |(fast_open, fast_open_key)| ConnectionOptions {
            fast_open,
            fast_open_key,
            ..ConnectionOptions::default()
        };
        let steps: [&[Step]; 7] = [
            &[(5, None), (5, None)],
            &[(5, own), (5, None)],
            &[(5, own), (0, own), (5, None)],
            &[(5, own), (0, None), (5, None)],
            &[(5, own), (0, other), (9, None)],
            &[(0, own), (5, None)],
            &[(5, own), (5, other), (5, None), (7, None)],
        ];
        for steps in steps {
            let mut listener =
                Listener { connection_options: at(steps[0]), dscp: 0, ..listener("127.0.0.1:0") };
            let socket = open(&mut listener, Steer::Flow, 1).remove(0).tcp.expect("a socket");
            let fresh = own_fast_open_key().expect("randomness");
            let mut had_key = false;
            for step in steps {
                let listener = Listener { connection_options: at(*step), ..listener.clone() };
                revise_tcp_listener(&socket, &listener, false).expect("set");
                let found = fast_open_key(&socket).expect("a key");
                match step {
                    (0, _) => {}
                    (_, Some(key)) => assert_eq!(found, key, "{steps:?}"),
                    (_, None) if had_key => assert_eq!(found, fresh, "{steps:?}"),
                    (_, None) => assert!(found.is_empty(), "{steps:?}"),
                }
                had_key |= matches!(step, (1.., Some(_)));
            }
            // One that was inherited.
            socket.set_nonblocking(true).expect("set");
            set_fast_open(&socket, at((5, own))).expect("set");
            prepare_tcp_listener(&socket, &Listener { connection_options: at((5, None)), ..listener })
                .expect("set");
            assert_eq!(fast_open_key(&socket).expect("a key"), fresh, "{steps:?}");
        }
    }

    #[test]
    fn connections_are_refused_before_listen() {
        let mut listener = listener("127.0.0.1:0");
        let position = ShardPosition { shard: 0, shards: 1, cpu: None };
        let sockets = create(&listener).expect("sockets");
        bind(&sockets, &listener, true).expect("a port");
        let socket = sockets.tcp.as_ref().expect("a socket");
        listener.address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
        let refused = std::net::TcpStream::connect(listener.address).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        listen(&sockets, &listener, Steer::Flow, position).expect("listening");
        std::net::TcpStream::connect(listener.address).expect("a connection");
    }
}
