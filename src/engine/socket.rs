//! Sockets, set up by safe calls: REUSEPORT, PKTINFO, buffers, interface, DSCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use libc::{
    BPF_ABS, BPF_ALU, BPF_IMM, BPF_K, BPF_LD, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W,
    BPF_X, BPF_XOR,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::sys;
use crate::addr::Endpoint;
use crate::config::snapshot::{Backend, ClientAddress, Listener, SocketOptions};

/// How packets are steered to shards (`--steer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steer {
    /// The kernel's hash of addresses and ports: a flow stays on its shard.
    #[default]
    Flow,
    /// The shard on the CPU that received the packet.
    Cpu,
    /// A client's every query on one shard: the hash of its address.
    Client,
}

/// Which of how many shards a listener's socket is for.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// The shard's number.
    pub shard: usize,
    /// Shards there are.
    pub shards: usize,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
}

/// One shard's sockets of a listener: those that its service needs.
#[derive(Debug)]
pub struct Ear {
    /// For datagrams, bound.
    pub datagram: Option<Socket>,
    /// For connections, bound, and listening after [`hear`].
    pub stream: Option<Socket>,
    /// A service manager passed it to us and keeps it: what we leave unread waits for our
    /// successor, and it must stay as it is.
    pub passed: bool,
}

/// Opens one shard's sockets for a listener: one for datagrams, one for connections, as its
/// service needs them. The latter takes connections only after [`hear`].
///
/// # Errors
/// As [`listen`].
pub fn open(listener: &Listener, steer: Steer, seat: Seat) -> io::Result<Ear> {
    let service = &listener.service;
    let datagram = service.takes_datagrams().then(|| listen(listener, steer, seat)).transpose()?;
    let stream = service.takes_streams().then(|| bind_stream(listener)).transpose()?;
    Ok(Ear { datagram, stream, passed: false })
}

/// Opens and binds one shard's socket for connections, otherwise as [`listen`]; the kernel refuses
/// connections still.
fn bind_stream(listener: &Listener) -> io::Result<Socket> {
    let socket = stream(listener.address.ip())?;
    // A connection of an earlier process that still lingers does not hold the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if let Some(interface) = &listener.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    prepare_stream_listener(&socket, listener)?;
    socket.bind(&SockAddr::from(listener.address))?;
    Ok(socket)
}

/// Begins to take connections by what [`open`] has bound: from here on they would be lost with the
/// socket. To be called in the order of the shards.
///
/// # Errors
/// What the kernel says.
pub fn hear(ear: &Ear, listener: &Listener, steer: Steer, seat: Seat) -> io::Result<()> {
    match &ear.stream {
        Some(socket) if !ear.passed => {
            socket.listen(i32::try_from(listener.streams.backlog).unwrap_or(i32::MAX))?;
            steer_group(socket, listener, steer, seat)
        }
        // Whoever passed it listens already.
        Some(_) | None => Ok(()),
    }
}

/// Sets what a listener's socket for connections needs, also one that was opened by somebody else.
///
/// # Errors
/// What the kernel says.
pub fn prepare_stream_listener(socket: &Socket, listener: &Listener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Inherited by the connections: each answer leaves at once (a TLS handshake otherwise waits
    // 40 ms for the peer's acknowledgement).
    socket.set_tcp_nodelay(true)?;
    if listener.service.forward().is_some() {
        prepare_passing(socket)?;
    }
    if listener.streams.fast_open > 0 {
        let backlog = i32::try_from(listener.streams.fast_open).unwrap_or(i32::MAX);
        sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, backlog)?;
        if let Some(key) = &listener.streams.fast_open_key {
            sys::set_octets(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, key)?;
        }
    }
    set_dscp(socket, listener.address.ip(), listener.dscp)
}

/// Sets what a connection needs whose octets are passed on; connections inherit it from their
/// listener.
fn prepare_passing(socket: &Socket) -> io::Result<()> {
    // Urgent octets are passed on in their place: otherwise they are lost, and hold up what
    // follows.
    socket.set_out_of_band_inline(true)?;
    // Who has vanished without a word is found out, also where nothing limits how long a
    // connection may be idle; after the kernel's own time.
    socket.set_keepalive(true)
}

/// Opens one shard's socket of a listener for datagrams, bound with `SO_REUSEPORT`, non-blocking, and with
/// packet information on when the address is a wildcard. The sockets of all shards, opened in
/// the order of the shards, form the group that `steer` chooses in.
///
/// # Errors
/// What the kernel says: address in use, no permission for the port, no such interface.
pub fn listen(listener: &Listener, steer: Steer, seat: Seat) -> io::Result<Socket> {
    let socket = datagram(listener.address.ip())?;
    socket.set_reuse_port(true)?;
    if let Some(interface) = &listener.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    prepare_listener(&socket, listener)?;
    socket.bind(&SockAddr::from(listener.address))?;
    steer_group(&socket, listener, steer, seat)?;
    Ok(socket)
}

/// Makes a group of sockets choose by `steer`.
fn steer_group(socket: &Socket, listener: &Listener, steer: Steer, seat: Seat) -> io::Result<()> {
    match steer {
        Steer::Flow => {}
        Steer::Cpu => {
            if let Some(cpu) = seat.cpu {
                socket.set_cpu_affinity(cpu)?;
            }
        }
        // One program serves the whole group.
        Steer::Client if seat.shard == 0 && seat.shards > 1 => {
            let mut program = client_hash(listener.address.is_ipv4(), seat.shards as u32);
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
    let socket = datagram(ip)?;
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
    socket.connect(&SockAddr::from(own))
}

fn datagram(ip: IpAddr) -> io::Result<Socket> {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn stream(ip: IpAddr) -> io::Result<Socket> {
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
pub fn connect_stream(backend: &Backend, client: Option<IpAddr>) -> io::Result<Socket> {
    begin_stream(backend, client, backend.lines.fast_open)
}

fn begin_stream(backend: &Backend, client: Option<IpAddr>, fast_open: bool) -> io::Result<Socket> {
    let ip = backend.address.ip();
    let socket = stream(ip)?;
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
/// once, and the first octets go with the connection's own first packet where that is possible.
///
/// # Errors
/// As [`connect_stream`]; without the right to it, what the kernel says of a foreign address.
pub fn connect_target(
    target: &Backend,
    client: Endpoint,
    datagram: bool,
    fast_open: bool,
) -> io::Result<Socket> {
    let transparent = target.client_address == ClientAddress::Transparent;
    if !datagram {
        let socket = begin_stream(target, transparent.then(|| client.ip()), fast_open)?;
        prepare_passing(&socket)?;
        return Ok(socket);
    }
    if !transparent {
        return connect(target);
    }
    let ip = target.address.ip();
    let socket = self::datagram(ip)?;
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
    if dscp == 0 {
        return Ok(());
    }
    let (level, name) = match ip {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    };
    // DSCP is the upper six bits of the octet (RFC 2474, 3).
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
    use crate::addr::ListenerSlot;
    use crate::config::snapshot::{ProxyHeader, Service, StreamOptions};
    use std::net::UdpSocket;
    use std::time::Duration;

    fn listener(address: &str) -> Listener {
        Listener {
            slot: ListenerSlot(0),
            address: address.parse().expect("an address"),
            interface: None,
            sockets: SocketOptions { receive_buffer: 1 << 20, send_buffer: 0 },
            dscp: 46,
            service: Service::Dns,
            streams: StreamOptions::default(),
            proxy: ProxyHeader::default(),
        }
    }

    fn group(address: &str, steer: Steer, shards: usize) -> Vec<UdpSocket> {
        let mut listener = listener(address);
        (0..shards)
            .map(|shard| {
                let socket = listen(&listener, steer, Seat { shard, shards, cpu: None }).expect("a socket");
                listener.address =
                    socket.local_addr().expect("an address").as_socket().expect("an IP address");
                socket.into()
            })
            .collect()
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
        let socket = datagram(Ipv4Addr::LOCALHOST.into()).expect("a socket");
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
    fn a_withdrawn_socket_hears_no_more_but_can_answer() {
        let group = group("127.0.0.1:0", Steer::Flow, 2);
        let [gone, left] = &group[..] else { panic!("two sockets") };
        withdraw(&Socket::from(gone.try_clone().expect("a copy"))).expect("withdrawn");
        ask_from("127.0.0.1", &group, 64);
        assert_eq!((heard(gone), heard(left)), (0, 64));
        let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
        gone.send_to(b"answer", client.local_addr().expect("an address")).expect("sent");
        let (_, from) = client.recv_from(&mut [0; 16]).expect("an answer");
        assert_eq!(from, gone.local_addr().expect("an address"));
    }

    #[test]
    fn the_key_of_fast_open_is_the_sockets_own() {
        let key = *b"0123456789abcdef";
        let streams = StreamOptions { fast_open: 16, fast_open_key: Some(key), ..StreamOptions::default() };
        let listener = Listener { streams, dscp: 0, ..listener("127.0.0.1:0") };
        let seat = Seat { shard: 0, shards: 1, cpu: None };
        let ear = open(&listener, Steer::Flow, seat).expect("sockets");
        hear(&ear, &listener, Steer::Flow, seat).expect("listening");
        let socket = ear.stream.expect("a socket");
        let mut found = [0; 16];
        sys::octets_of(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, &mut found).expect("a key");
        assert_eq!(found, key);
    }

    #[test]
    fn connections_are_refused_until_all_is_bound() {
        let mut listener = listener("127.0.0.1:0");
        let seat = Seat { shard: 0, shards: 1, cpu: None };
        let ear = open(&listener, Steer::Flow, seat).expect("sockets");
        let socket = ear.stream.as_ref().expect("a socket");
        listener.address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
        let refused = std::net::TcpStream::connect(listener.address).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        hear(&ear, &listener, Steer::Flow, seat).expect("listening");
        std::net::TcpStream::connect(listener.address).expect("a connection");
    }
}
