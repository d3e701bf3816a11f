//! UDP relays: datagrams in both directions, whichever target they reach.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use super::{figure, local, logged, relay, until};
use crate::instance::Instance;
use crate::place::{PATIENCE, port};

const UDP: &str = "addUDPForward";

/// Echoes every datagram with a mark of the target in front.
struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Echo {
    fn start(mark: u8) -> Self {
        let address = local();
        let socket = UdpSocket::bind(address).expect("a target");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !ends.load(SeqCst) {
                if let Ok((count, from)) = socket.recv_from(&mut buffer) {
                    let answer = [&[mark], &buffer[..count]].concat();
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, stop }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a client");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

/// All clients exist at once: the port of a closed one could be reused, which would be the same
/// flow.
fn clients(count: usize) -> Vec<UdpSocket> {
    (0..count).map(|_| client()).collect()
}

/// Sends a datagram and reads the next one.
fn ask(socket: &UdpSocket, at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    socket.send_to(bytes, at).expect("sent");
    let mut buffer = vec![0; 70_000];
    let (count, from) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, at, "from the address that was asked");
    buffer.truncate(count);
    buffer
}

#[test]
fn datagrams_of_every_size_are_relayed_in_both_directions() {
    let echo = Echo::start(b'e');
    let at = local();
    let instance = Instance::start(&relay(UDP, at, &[echo.address], ", idleTimeoutMs=1000"));
    let clients = clients(20);
    let (mut there, mut back) = (0, 0);
    for size in [0, 1, 2, 511, 1_232, 1_472, 4_096, 4_097, 9_000, 60_000, 65_506] {
        for (n, client) in clients.iter().enumerate() {
            let bytes = vec![n as u8; size];
            let answer = ask(client, at, &bytes);
            assert!(answer[0] == b'e' && answer[1..] == bytes, "{size} bytes of client {n}");
            (there, back) = (there + size as u64, back + 1 + size as u64);
        }
    }
    assert_eq!(figure(&instance, "relay-opened"), 20, "one flow for each client");
    assert_eq!(figure(&instance, "relay-bytes-to-targets"), there);
    assert_eq!(figure(&instance, "relay-bytes-to-clients"), back);
    until(&instance, "relay-end-idle", 20);
    logged(&instance, &["flow 127.0.0.1:", &format!("-> {at}, to {}", echo.address), "ended by idle"]);
}

#[test]
fn a_refusal_moves_the_flow_and_its_datagram() {
    let (dead, echo) = (local(), Echo::start(b'2'));
    let at = local();
    let instance = Instance::start(&relay(UDP, at, &[dead, echo.address], ", idleTimeoutMs=1000"));
    for (n, client) in clients(20).iter().enumerate() {
        // The first datagram of each flow meets a dead target, and is answered by the next.
        let bytes = vec![n as u8; n % 3];
        assert_eq!(ask(client, at, &bytes), [&b"2"[..], &bytes].concat());
    }
    assert_eq!(figure(&instance, "relay-opened"), 20);
    assert_eq!(figure(&instance, "retries"), 20);
    logged(&instance, &[&format!("refused {dead}, to {}", echo.address), "ended by idle"]);
}

#[test]
fn flows_of_a_dead_target_move_to_the_next() {
    let (one, two) = (Echo::start(b'1'), Echo::start(b'2'));
    let at = local();
    let _instance = Instance::start(&relay(UDP, at, &[one.address, two.address], ""));
    let client = client();
    assert_eq!(ask(&client, at, b"a"), b"1a");
    drop(one);
    client.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    // The first refused datagram reports the failure; the client retransmits.
    let mut buffer = [0; 16];
    let answered = (0..40).find_map(|_| {
        client.send_to(b"b", at).expect("sent");
        let count = client.recv(&mut buffer).ok()?;
        (buffer[..count] == *b"2b").then_some(())
    });
    assert_eq!(answered, Some(()), "the second one answers");
}

/// Sends an ICMP message "fragmentation needed", as a router does for a datagram between two
/// addresses; returns false without the privilege.
fn cannot_pass(from: SocketAddr, to: SocketAddr) -> bool {
    let (SocketAddr::V4(source), SocketAddr::V4(target)) = (from, to) else { panic!("{from} {to}") };
    let raw =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4));
    let Ok(raw) = raw else { return false };
    // Destination unreachable, fragmentation needed, MTU 1,400 (RFC 1191, 4); then the IPv4 and UDP
    // headers of the rejected datagram.
    let mut message = vec![3, 4, 0, 0, 0, 0, 0x05, 0x78];
    message.extend([0x45, 0, 0x07, 0xd0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    message.extend(source.ip().octets().into_iter().chain(target.ip().octets()));
    message.extend([source.port().to_be_bytes(), target.port().to_be_bytes(), [0x07, 0xbc], [0, 0]].concat());
    let words = message.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    raw.send_to(&message, &SocketAddr::from((*source.ip(), 0)).into()).expect("sent");
    true
}

#[test]
fn an_error_for_an_oversized_datagram_does_not_move_the_flow() {
    // A separate address: the kernel caches the path MTU per destination.
    let target = UdpSocket::bind(("127.0.77.9", port())).expect("a target");
    target.set_read_timeout(Some(PATIENCE)).expect("set");
    let other = Echo::start(b'o');
    let (at, to) = (local(), target.local_addr().expect("an address"));
    let instance = Instance::start(&relay(UDP, at, &[to, other.address], ""));
    let client = client();
    let mut buffer = [0; 16];
    let mut exchange = |text: &[u8]| {
        client.send_to(text, at).expect("sent");
        let (count, from) = target.recv_from(&mut buffer).expect("the first target receives it");
        assert_eq!(&buffer[..count], text);
        target.send_to(text, from).expect("sent");
        let (count, _) = client.recv_from(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..count], text);
        from
    };
    let flow = exchange(b"before");
    if !cannot_pass(flow, to) {
        eprintln!("SKIPPED: no right to send ICMP messages");
        return;
    }
    for text in [&b"one"[..], b"two", b"three"] {
        assert_eq!(exchange(text), flow, "the same socket");
    }
    assert_eq!(figure(&instance, "retries"), 0);
}

#[test]
fn flows_of_a_closed_listener_end_while_their_target_sends() {
    let target = UdpSocket::bind(local()).expect("a target");
    let (at, other) = (local(), local());
    let to = target.local_addr().expect("an address");
    let mut instance = Instance::start(&relay(UDP, at, &[to], ""));
    let client = client();
    client.send_to(b"begin", at).expect("sent");
    let (_, flow) = target.recv_from(&mut [0; 16]).expect("a datagram");
    let stop = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&stop);
    std::thread::spawn(move || {
        while !ends.load(SeqCst) {
            // The port of a closed flow refuses datagrams.
            let _ = target.send_to(b"on and on", flow);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    client.recv(&mut [0; 16]).expect("the target answers");
    instance.reload(&relay(UDP, other, &[to], ""));
    until(&instance, "relay-end-closing", 1);
    stop.store(true, SeqCst);
    until(&instance, "relay-open", 0);
}

#[test]
fn a_wildcard_listener_answers_from_the_queried_address() {
    let echo = Echo::start(b'w');
    let at = SocketAddr::from(([0, 0, 0, 0], port()));
    let _instance = Instance::start(&relay(UDP, at, &[echo.address], ""));
    let client = client();
    for last in [1, 5, 9] {
        let asked = SocketAddr::from(([127, 0, 0, last], at.port()));
        assert_eq!(ask(&client, asked, &[last]), [b'w', last]);
    }
}

#[test]
fn the_table_is_bounded() {
    let echo = Echo::start(b't');
    let at = local();
    let instance =
        Instance::start_with(&relay(UDP, at, &[echo.address], ", maxFlows=10"), &["--shards", "1"]);
    for (n, client) in clients(51).iter().enumerate() {
        assert_eq!(ask(client, at, &[n as u8]), [b't', n as u8], "a new one is always served");
    }
    assert_eq!(figure(&instance, "relay-end-evicted-at-limit"), 41);
    assert!(figure(&instance, "relay-open") <= 10);
}

#[test]
fn each_datagram_carries_a_proxy_header_if_configured() {
    let echo = Echo::start(b'p');
    let at = local();
    let _instance = Instance::start(&relay(UDP, at, &[echo.address], ", useProxyProtocol=true"));
    let client = client();
    let own = client.local_addr().expect("an address");
    for text in [&b"one"[..], b"two"] {
        let answer = ask(&client, at, text);
        // The signature, version 2 and PROXY, UDP over IPv4, twelve bytes of addresses.
        let mut wanted = b"p\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
        wanted.extend([own.port().to_be_bytes(), at.port().to_be_bytes()].concat());
        wanted.extend(text);
        assert_eq!(answer, wanted);
    }
}
