//! Tests PROXY headers and the client address, over UDP and over connections: what queries carry,
//! what rules see, and what servers receive. Also tests the TCP keepalive option.

use dnslob::base::addr::{ConnectionSlot, Endpoint, LocalSlot, Route};
use dnslob::shard::backend::BackendInterest;
use dnslob::shard::client::ClientInterest;
use dnslob::shard::messages::PendingWork;
use dnslob::stats::close_reason::ClientCloseReason;
use dnslob::wire::proxy;

use crate::bench::{Bench, Row, header, play_all};
use crate::support::config::client;
use crate::support::message::{message, same};

const IN: &[Row] = &[
    (
        "empty PROXY ACL: a header is treated as an invalid query",
        "",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 a/A
         ! query-malformed",
    ),
    (
        "a listed peer: its header is removed; the answer goes to the peer, not to the client",
        "setProxyProtocolACL('127.0.0.1')",
        "via 192.0.2.77:4000 192.0.2.53:53 e0=6162 04=
         q 1234 RD a/A
         > 1 * RD a/A
         a * QR RD a/A A=1.2.3.4
         < 1234 QR RD a/A A=1.2.3.4",
    ),
    (
        "a listed peer: no header, a partial, a version 1 and an invalid header",
        "setProxyProtocolACL('127.0.0.1')",
        "q 1234 a/A
         ! proxy-header
         via 0d0a0d0a000d0a515549540a2111
         q 1234 a/A
         ! proxy-header
         via 50524f585920554e4b4e4f574e0d0a
         q 1234 a/A
         ! proxy-header
         via 0d0a0d0a000d0a515549540a31110000
         q 1234 a/A
         ! proxy-header",
    ),
    (
        "an unlisted peer: a header is refused, a plain query is served",
        "setProxyProtocolACL('127.0.0.9')",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 a/A
         ! proxy-header
         via nothing
         q 1234 a/A
         > 1 * a/A",
    ),
    (
        "a listener without PROXY protocol",
        "setLocal('127.0.0.1:5300', {enableProxyProtocol=false}) setProxyProtocolACL('127.0.0.1')",
        "q 1234 a/A
         > 1 * a/A",
    ),
    (
        "a LOCAL header",
        "setProxyProtocolACL('127.0.0.1') addAction(NotRule(NetmaskGroupRule('127.0.0.1')), DropAction())",
        "via local
         q 1234 a/A
         > 1 * a/A",
    ),
    (
        "a header longer than the maximum",
        "setProxyProtocolACL('127.0.0.1') setProxyProtocolMaximumPayloadSize(40)",
        "via 192.0.2.77:4000 192.0.2.53:53 e0=112233445566778899
         q 1234 a/A
         > 1 * a/A
         via 192.0.2.77:4000 192.0.2.53:53 e0=11223344556677889900
         q 1234 a/A
         ! proxy-header",
    ),
    (
        "a header and an incomplete query",
        "setProxyProtocolACL('127.0.0.1')",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 a/A CUT=11
         ! query-short",
    ),
    (
        "the ACL applies to the peer",
        "setProxyProtocolACL('127.0.0.1') setACL('127.0.0.1')",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 a/A
         > 1 * a/A",
    ),
    (
        "or the ACL applies to the client",
        "setProxyProtocolACL('127.0.0.1') setACL('192.0.2.0/24') setProxyProtocolApplyACLToProxiedClients(true)",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 a/A
         > 1 * a/A
         via 198.51.100.1:4000 192.0.2.53:53
         q 1234 a/A
         ! acl",
    ),
    (
        "rules see the client, its destination address, and the values",
        "setProxyProtocolACL('127.0.0.1')
         addAction(AndRule{NetmaskGroupRule('192.0.2.77'), NetmaskGroupRule('192.0.2.53', false), DSTPortRule(5353),
                           ProxyProtocolValueRule(0xe0, 'ab'), NotRule(ProxyProtocolValueRule(0xe1))},
                   PoolAction('two'))",
        "via 192.0.2.77:4000 192.0.2.53:5353 e0=6162
         q 1234 a/A
         > 2 * a/A
         a * QR a/A
         < 1234 QR a/A
         via 192.0.2.77:4000 192.0.2.53:5353 e0=6163
         q 1234 a/A
         > 1 * a/A
         via 192.0.2.77:4000 192.0.2.54:5353 e0=6162
         q 1234 a/A
         > 1 * a/A",
    ),
    (
        "response rules see the client, too",
        "setProxyProtocolACL('127.0.0.1') addResponseAction(NetmaskGroupRule('192.0.2.77'), DropResponseAction())",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 a/A
         > 1 * a/A
         a * QR a/A
         ! response-rule
         via 192.0.2.78:4000 192.0.2.53:53
         q 1234 a/A
         > 1 * a/A
         a * QR a/A
         < 1234 QR a/A",
    ),
    (
        "self-generated answers go to the peer",
        "setProxyProtocolACL('127.0.0.1') addAction('a', SpoofAction('1.2.3.4'))",
        "via [2001:db8::1]:4000 [2001:db8::53]:53
         q 1234 a/A
         < 1234 QR a/A A=1.2.3.4",
    ),
    (
        "the client subnet is that of the proxied client",
        "newServer{address='127.0.1.3', pool='three', useClientSubnet=true}
         setProxyProtocolACL('127.0.0.1') addAction(AllRule(), PoolAction('three'))",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 RD a/A
         > 3 * RD a/A OPT=1232,8:00011800c00002",
    ),
    (
        "limits apply per proxied client",
        "setProxyProtocolACL('127.0.0.1') addAction(MaxQPSIPRule(1), DropAction())",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 a/A
         > 1 * a/A
         via 192.0.2.78:4000 192.0.2.53:53
         q 1234 a/A
         > 1 * a/A
         via 192.0.2.77:4001 192.0.2.53:53
         q 1234 a/A
         ! rule",
    ),
    (
        "a retried query keeps its client",
        "newServer{address='127.0.1.3', pool='three', useClientSubnet=true}
         setProxyProtocolACL('127.0.0.1') addResponseAction(RCodeRule(DNSRCode.SERVFAIL), LuaResponseAction(function(dr)
           dr.pool = 'three' dr:restart() return DNSResponseAction.None end))",
        "via 192.0.2.77:4000 192.0.2.53:53
         q 1234 a/A
         > 1 * a/A
         a * QR a/A SERVFAIL
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A OPT=1232,8:00011800c00002
         < 1234 QR a/A",
    ),
    (
        "Lua functions see the client, too",
        "setProxyProtocolACL('127.0.0.1') addAction(AllRule(), LuaAction(function(dq)
           assert(dq.remoteaddr:toString() == '192.0.2.77' and dq.localaddr:toString() == '192.0.2.53')
           local values = dq:getProxyProtocolValues()
           assert(values[0xe0] == 'ab' and values[0xe1] == '')
           dq:addProxyProtocolValue(0xe2, 'x')
           assert(dq:getProxyProtocolValues()[0xe2] == 'x')
           return DNSAction.Pool, 'two' end))",
        "via 192.0.2.77:4000 192.0.2.53:53 e0=6162 e1=
         q 1234 a/A
         > 2 * a/A",
    ),
];

const OUT: &[Row] = &[
    (
        "a server gets a header before the query, and answers without one",
        "newServer{address='127.0.1.3', pool='three', useProxyProtocol=true} addAction(AllRule(), PoolAction('three'))
         setLocal('127.0.0.1:5300')",
        "q 1234 RD a/A
         header 127.0.0.1:4000 127.0.0.1:5300
         > 3 * RD a/A
         a * QR RD a/A A=1.2.3.4
         < 1234 QR RD a/A A=1.2.3.4",
    ),
    (
        "a received header is passed on with its values",
        "newServer{address='127.0.1.3', pool='three', useProxyProtocol=true} addAction(AllRule(), PoolAction('three'))
         setProxyProtocolACL('127.0.0.1')",
        "via [2001:db8::1]:4000 [2001:db8::53]:53 e0=6162 05=31
         q 1234 RD a/A OPT=1232
         header [2001:db8::1]:4000 [2001:db8::53]:53 e0=6162 05=31
         > 3 * RD a/A OPT=1232
         a * QR RD a/A A=1.2.3.4
         < 1234 QR RD a/A A=1.2.3.4",
    ),
    (
        "rules replace or add values; other servers get no header",
        "newServer{address='127.0.1.3', pool='three', useProxyProtocol=true} setProxyProtocolACL('127.0.0.1')
         addAction('set', SetProxyProtocolValuesAction({[0xe1]='b', [0xe0]='a'}))
         addAction('add', SetAdditionalProxyProtocolValueAction(0xe1, 'b'))
         addAction('none', SetProxyProtocolValuesAction({}))
         addAction(NotRule(QNameRule('other')), PoolAction('three'))",
        "via 192.0.2.77:4000 192.0.2.53:53 e7=77
         q 1234 set/A
         header 192.0.2.77:4000 192.0.2.53:53 e0=61 e1=62
         > 3 * set/A
         q 1234 add/A
         header 192.0.2.77:4000 192.0.2.53:53 e7=77 e1=62
         > 3 * add/A
         q 1234 none/A
         header 192.0.2.77:4000 192.0.2.53:53
         > 3 * none/A
         q 1234 other/A
         > 1 * other/A",
    ),
    (
        "a Lua function sets values",
        "newServer{address='127.0.1.3', pool='three', useProxyProtocol=true} setLocal('127.0.0.1:5300')
         addAction(AllRule(), LuaAction(function(dq)
           dq:setProxyProtocolValues({[2]='foo', [3]='bar'}) dq:addProxyProtocolValue(0xee, '')
           return DNSAction.Pool, 'three' end))",
        "q 1234 a/A
         header 127.0.0.1:4000 127.0.0.1:5300 02=666f6f 03=00000000 ee=
         > 3 * a/A",
    ),
    (
        "a retry gets the same header",
        "newServer{address='127.0.1.3', pool='three', order=1, useProxyProtocol=true}
         newServer{address='127.0.1.4', pool='three', order=2, useProxyProtocol=true}
         setPoolServerPolicy(firstAvailable, 'three') getPool('three'):setRetry{after=50, budget=100}
         addAction(AllRule(), PoolAction('three')) setProxyProtocolACL('127.0.0.1')",
        "via 192.0.2.77:4000 192.0.2.53:53 e7=77
         q 1234 a/A
         header 192.0.2.77:4000 192.0.2.53:53 e7=77
         > 3 * a/A
         wait 60
         header 192.0.2.77:4000 192.0.2.53:53 e7=77
         > 4 * a/A
         a4 * QR a/A
         < 1234 QR a/A",
    ),
];

#[test]
fn proxy_headers_of_queries_are_read() {
    play_all(IN);
}

#[test]
fn proxy_headers_are_sent_to_servers() {
    play_all(OUT);
}

#[test]
fn a_query_refused_by_the_kernel_is_resent_with_the_header_of_the_next_server() {
    let mut bench = Bench::new(
        "newServer{address='127.0.1.1', useProxyProtocol=true, order=1} newServer{address='127.0.1.2', order=2}
         newServer{address='127.0.1.3', useProxyProtocol=true, order=3} setServerPolicy(firstAvailable)
         setLocal('127.0.0.1:5300')",
    );
    let prefix = header("127.0.0.1:4000 127.0.0.1:5300");
    let mut bytes = vec![0; 4096];
    let query = message("1234 a/A");
    bytes[64..64 + query.len()].copy_from_slice(&query);
    let mut packet = dnslob::base::packet::Packet::new(&mut bytes, 64, query.len());
    let verdict = bench.shard.on_query(client("127.0.0.1:4000"), &mut packet);
    let dnslob::shard::verdict::Verdict::Forward(first) = verdict else { panic!("{verdict:?}") };
    let mut sent = vec![(first, packet.bytes().to_vec())];
    bench.shard.on_unsent(first, &mut packet, |_, route, bytes| {
        sent.push((route, bytes.to_vec()));
        false
    });
    assert_eq!(sent.iter().map(|(route, _)| bench.number(*route)).collect::<Vec<_>>(), [1, 2, 3]);
    for (number, (_, bytes)) in (1..).zip(&sent) {
        let front = if number == 2 { &[][..] } else { &prefix };
        assert_eq!(&bytes[..front.len()], front, "server {number}");
        same(&bytes[front.len()..], "* a/A").expect("the query");
    }
    assert_eq!(bench.shard.outstanding(), 0);
    bench.shard.check_invariants();
}

/// A client connection, and the backend connections of the shard.
struct Wires {
    bench: Bench,
}

impl Wires {
    fn new(config: &str) -> Self {
        Self { bench: Bench::new(&format!("setLocal('127.0.0.1:5300') {config}")) }
    }

    fn connect(&mut self, peer: &str) -> Option<ConnectionSlot> {
        let peer: Endpoint = client(peer).peer;
        let listener = self.bench.snapshot.listeners[0].clone();
        self.bench.shard.on_accept(peer, &listener, LocalSlot::LISTENER)
    }

    fn send(&mut self, stream: ConnectionSlot, bytes: &[u8]) {
        self.bench
            .shard
            .on_client_bytes(stream, bytes, &mut || true, &mut |verdict, _| panic!("{verdict:?}"));
    }

    fn ask(&mut self, stream: ConnectionSlot, text: &str) {
        self.send(stream, &framed(&message(text)));
    }

    /// Returns the output to servers; opens the connections it needs.
    fn backend_output(&mut self) -> Vec<(Route, Vec<u8>)> {
        let mut output = Vec::new();
        while let Some(work) = self.bench.shard.next_pending() {
            let PendingWork::Backend(route) = work else { continue };
            if self.bench.shard.backend_interest(route) == BackendInterest::Close {
                self.bench.shard.on_backend_closed(route, None, &mut |_, _| {});
                continue;
            }
            if self.bench.shard.backend_is_connecting(route) {
                self.bench.shard.on_backend_open(route);
            }
            let bytes = self.bench.shard.backend_output(route).to_vec();
            self.bench.shard.backend_written(route, bytes.len());
            output.push((route, bytes));
        }
        output
    }

    /// Returns the output to a server if it is a single query.
    fn next_output(&mut self) -> (Route, Vec<u8>) {
        let mut output = self.backend_output();
        assert_eq!(output.len(), 1, "{output:02x?}");
        output.remove(0)
    }

    /// Answers the last query of a server's input.
    fn answer(&mut self, route: Route, asked: &[u8], text: &str) {
        let query = &asked[asked.len() - message("1234 a/A").len()..];
        let mut bytes = message(text);
        bytes[..2].copy_from_slice(&query[..2]);
        self.bench.shard.on_backend_bytes(route, &framed(&bytes), &mut || true, &mut |_, _| {});
    }

    fn sent_to(&mut self, stream: ConnectionSlot) -> Vec<u8> {
        let bytes = self.bench.shard.client_output(stream).to_vec();
        self.bench.shard.client_written(stream, bytes.len());
        bytes
    }

    fn end(&mut self, stream: ConnectionSlot) -> Option<ClientCloseReason> {
        match self.bench.shard.client_interest(stream) {
            ClientInterest::Close(why) => Some(why),
            ClientInterest::Serve { .. } => None,
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).expect("a message").to_be_bytes()[..], message].concat()
}

const TCP: &str = "newServer{address='127.0.1.1', useProxyProtocol=true} setProxyProtocolACL('127.0.0.9') \
                   setMaxTCPReadIOsPerQuery(200) ";

#[test]
fn a_proxy_header_may_be_split_at_any_byte() {
    let prefix = header("tcp 192.0.2.77:4000 192.0.2.53:53 e0=6162");
    for piece in [1, 2, 15, 16, 17, 27, 28, 31, 32, 33, 34, 1000] {
        let mut wires = Wires::new(TCP);
        let stream = wires.connect("127.0.0.9:1").expect("taken");
        let bytes = [&prefix[..], &framed(&message("1234 a/A")), &framed(&message("1235 a/A"))].concat();
        bytes.chunks(piece).for_each(|chunk| wires.send(stream, chunk));
        let (route, asked) = wires.next_output();
        assert_eq!(&asked[..prefix.len()], prefix, "in pieces of {piece}");
        assert_eq!(asked.len(), bytes.len(), "one header, two queries");
        wires.answer(route, &asked, "0000 QR a/A A=1.2.3.4");
        same(&wires.sent_to(stream)[2..], "1235 QR a/A A=1.2.3.4").expect("the answer");
        wires.bench.shard.check_invariants();
    }
}

#[test]
fn connections_without_an_expected_header_or_with_an_unexpected_one_are_closed() {
    let prefix = header("tcp 192.0.2.77:4000 192.0.2.53:53");
    let mut wires = Wires::new(TCP);
    for (peer, bytes, end) in [
        ("127.0.0.9:1", &framed(&message("1234 a/A"))[..], Some(ClientCloseReason::Proxy)),
        ("127.0.0.9:1", &[&prefix[..12], b"\x31"].concat(), Some(ClientCloseReason::Proxy)),
        ("127.0.0.9:1", b"PROXY TCP4 1.2.3.4\r\n", Some(ClientCloseReason::Proxy)),
        ("127.0.0.9:1", b"PROXY UNKNOWN\r\n", None),
        ("127.0.0.9:1", &header("local"), None),
        ("127.0.0.9:1", &prefix, None),
        ("127.0.0.1:1", &prefix, Some(ClientCloseReason::Proxy)),
        ("127.0.0.1:1", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Some(ClientCloseReason::Proxy)),
        ("127.0.0.1:1", &framed(&message("1234 a/A")), None),
    ] {
        let stream = wires.connect(peer).expect("taken");
        wires.send(stream, bytes);
        assert_eq!(wires.end(stream), end, "{peer}: {bytes:02x?}");
    }
}

#[test]
fn a_missing_proxy_header_closes_the_connection_in_time() {
    let mut wires = Wires::new(&format!("{TCP} setTCPRecvTimeout(2)"));
    let stream = wires.connect("127.0.0.9:1").expect("taken");
    wires.send(stream, b"\r\n\r\n");
    for _ in 0..30 {
        wires.bench.tick(100);
    }
    assert_eq!(wires.end(stream), Some(ClientCloseReason::ReadTimeout));
}

#[test]
fn the_acl_and_limits_apply_to_the_proxied_client_if_configured() {
    let config = "newServer('127.0.1.1') setProxyProtocolACL('127.0.0.9') setACL('192.0.2.0/24') \
                  setMaxTCPConnectionsPerClient(1) setProxyProtocolApplyACLToProxiedClients(true)";
    let mut wires = Wires::new(config);
    assert_eq!(wires.connect("127.0.0.1:1"), None, "who is not listed is no proxy");
    for (prefix, end) in [
        ("tcp 192.0.2.77:4000 192.0.2.53:53", None),
        ("tcp 192.0.2.78:4000 192.0.2.53:53", None),
        ("tcp 192.0.2.77:4001 192.0.2.53:53", Some(ClientCloseReason::PerClient)),
        ("tcp 198.51.100.1:4000 192.0.2.53:53", Some(ClientCloseReason::Acl)),
        ("local", Some(ClientCloseReason::Acl)),
    ] {
        let stream = wires.connect("127.0.0.9:1").expect("taken");
        wires.send(stream, &header(prefix));
        assert_eq!(wires.end(stream), end, "{prefix}");
    }
    wires.bench.shard.check_invariants();
}

#[test]
fn a_backend_connection_serves_one_client_and_one_set_of_values() {
    let mut wires = Wires::new(TCP);
    let mut ask = |prefix: &str| {
        let stream = wires.connect("127.0.0.9:1").expect("taken");
        wires.send(stream, &[&header(prefix)[..], &framed(&message("1234 a/A"))].concat());
        let (route, asked) = wires.next_output();
        wires.answer(route, &asked, "0000 QR a/A");
        assert!(!wires.sent_to(stream).is_empty());
        (route, asked.len() > framed(&message("1234 a/A")).len())
    };
    let (first, is_new) = ask("tcp 192.0.2.77:4000 192.0.2.53:53 e0=61");
    assert!(is_new);
    assert_eq!(ask("tcp 192.0.2.77:4000 192.0.2.53:53 e0=61"), (first, false), "the same again");
    for other in [
        "tcp 192.0.2.77:4001 192.0.2.53:53 e0=61",
        "tcp 192.0.2.77:4000 192.0.2.54:53 e0=61",
        "tcp 192.0.2.77:4000 192.0.2.53:53 e0=62",
        "tcp 192.0.2.77:4000 192.0.2.53:53",
    ] {
        let (route, is_new) = ask(other);
        assert!(route != first && is_new, "{other}");
    }
}

#[test]
fn clients_beyond_the_backend_connections_reuse_idle_ones() {
    let mut wires = Wires::new(
        "newServer{address='127.0.1.1', useProxyProtocol=true, maxConcurrentTCPConnections=2} setACL('0.0.0.0/0')",
    );
    for client in 1..=20 {
        let stream = wires.connect(&format!("192.0.2.{client}:4000")).expect("taken");
        wires.ask(stream, "1234 a/A");
        let (route, asked) = wires.next_output();
        let prefix = header(&format!("tcp 192.0.2.{client}:4000 127.0.0.1:5300"));
        assert_eq!(&asked[..prefix.len()], prefix);
        wires.answer(route, &asked, "0000 QR a/A");
        same(&wires.sent_to(stream)[2..], "1234 QR a/A").expect("an answer");
        assert!(wires.bench.shard.backend_connections_open() <= 3, "and no more connections stand");
        wires.bench.shard.check_invariants();
    }
}

#[test]
fn version_1_headers_are_read() {
    let mut wires = Wires::new("newServer{address='127.0.1.1', useProxyProtocol='v1'}");
    let stream = wires.connect("127.0.0.1:4000").expect("taken");
    wires.ask(stream, "1234 a/A");
    let (_, asked) = wires.next_output();
    let prefix = b"PROXY TCP4 127.0.0.1 127.0.0.1 4000 5300\r\n";
    assert_eq!(&asked[..prefix.len()], prefix);
    same(&asked[prefix.len() + 2..], "* a/A").expect("the query");
}

#[test]
fn a_backend_connection_may_use_the_client_address_as_source() {
    let mut wires =
        Wires::new("newServer{address='127.0.1.1', transparent=true} setACL({'0.0.0.0/0', '::/0'})");
    let mut routes = Vec::new();
    for (peer, source) in [
        ("192.0.2.1:4000", Some("192.0.2.1:0")),
        ("192.0.2.1:4001", Some("192.0.2.1:0")),
        ("192.0.2.2:4000", Some("192.0.2.2:0")),
        ("[2001:db8::1]:4000", None),
    ] {
        let stream = wires.connect(peer).expect("taken");
        wires.ask(stream, "1234 a/A");
        let (route, asked) = wires.next_output();
        same(&asked[2..], "* a/A").expect("the query alone");
        assert_eq!(wires.bench.shard.backend_source(route), source.map(|s| client(s).peer.ip), "{peer}");
        assert_eq!(wires.bench.shard.source_of(route, &asked[2..]), Some(client(peer).peer));
        routes.push(route);
    }
    assert!(routes[0] == routes[1] && routes[1] != routes[2] && routes[2] != routes[3]);
}

#[test]
fn the_keepalive_option_is_only_sent_to_clients_that_sent_it() {
    let mut wires =
        Wires::new("newServer('127.0.1.1') setTCPRecvTimeout(30) addAction('own', SpoofAction('1.2.3.4'))");
    let keepalive = "11:012c";
    for (query, forwarded, answer, delivered) in [
        ("1234 a/A OPT=1232", "* a/A OPT=1232", "0000 QR a/A OPT=1232,11:0001", "1234 QR a/A OPT=1232"),
        ("1234 a/A OPT=1232,11:", "* a/A OPT=1232", "0000 QR a/A OPT=1232", "1234 QR a/A OPT=1232,"),
        ("1234 a/A OPT=1232,11:", "* a/A OPT=1232", "0000 QR a/A OPT=1232,11:0001", "1234 QR a/A OPT=1232,"),
        ("1234 a/A OPT=1232,11:", "* a/A OPT=1232", "0000 QR a/A", "1234 QR a/A"),
    ] {
        let stream = wires.connect("127.0.0.1:1").expect("taken");
        wires.ask(stream, query);
        let (route, asked) = wires.next_output();
        same(&asked[2..], forwarded).expect("what the server gets");
        let mut bytes = message(answer);
        bytes[..2].copy_from_slice(&asked[2..4]);
        wires.bench.shard.on_backend_bytes(route, &framed(&bytes), &mut || true, &mut |_, _| {});
        let wanted =
            if delivered.ends_with(',') { format!("{delivered}{keepalive}") } else { delivered.to_owned() };
        same(&wires.sent_to(stream)[2..], &wanted).expect("what the client gets");
    }
    let stream = wires.connect("127.0.0.1:1").expect("taken");
    wires.ask(stream, "1234 own/A OPT=1232,11:");
    same(&wires.sent_to(stream)[2..], &format!("1234 QR own/A A=1.2.3.4 OPT=1232,{keepalive}"))
        .expect("ours");
}

#[test]
fn an_answer_without_space_for_an_option_goes_without_it() {
    let mut wires = Wires::new(
        "newServer('127.0.1.1') addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, 'because'))",
    );
    let stream = wires.connect("127.0.0.1:1").expect("taken");
    for (bytes, delivered) in [(65_500, 65_500 + 6 + 7), (65_535, 65_535)] {
        wires.ask(stream, "1234 a/A OPT=1232");
        let (route, asked) = wires.next_output();
        let mut answer = message("0000 QR a/A OPT=1232");
        answer[..2].copy_from_slice(&asked[2..4]);
        // Padding, which must be in the last record, the OPT record.
        let padding = bytes - answer.len();
        let at = answer.len() - 2;
        answer[at..].copy_from_slice(&(padding as u16).to_be_bytes());
        answer.extend([0, 12]);
        answer.extend((padding as u16 - 4).to_be_bytes());
        answer.resize(bytes, 0);
        wires.bench.shard.on_backend_bytes(route, &framed(&answer), &mut || true, &mut |_, _| {});
        assert_eq!(wires.sent_to(stream).len(), 2 + delivered);
        wires.bench.shard.check_invariants();
    }
    let stats = &wires.bench.live_state.shards()[0];
    assert_eq!(stats.dropped(dnslob::stats::drop_reason::DropReason::AnswerTooLong).get(), 0);
}

#[test]
fn any_header_is_forwarded_unchanged() {
    let mut rng = dnslob::base::rng::ShardRng::from_seed(11);
    let mut bench = Bench::new(
        "newServer{address='127.0.1.1', useProxyProtocol=true} setProxyProtocolACL('127.0.0.1')
         setProxyProtocolMaximumPayloadSize(2000)",
    );
    for round in 0..300 {
        let mut endpoint = |v6: bool| {
            let mut ip = dnslob::base::addr::mapped(std::net::Ipv4Addr::from(rng.u32()).into());
            if v6 {
                ip = [0x20; 16];
                ip[12..].copy_from_slice(&rng.u32().to_be_bytes());
            }
            Endpoint { ip, scope: 0, port: rng.u32() as u16 }
        };
        let v6 = round % 2 == 1;
        let (source, destination) = (endpoint(v6), endpoint(v6));
        let values: Vec<(u8, Vec<u8>)> = (0..rng.below(6))
            .map(|_| (rng.u32() as u8 | 0x80, vec![rng.u32() as u8; rng.below(300) as usize]))
            .collect();
        let mut bytes = Vec::new();
        let tlvs = values.iter().map(|(kind, value)| (*kind, &value[..]));
        assert!(proxy::write_v2(&mut bytes, proxy::Transport::Datagram, source, destination, tlvs));
        let header_length = bytes.len();
        bytes.extend(message("1234 a/A"));
        let out = bench.query(client("127.0.0.1:1"), &bytes);
        let [crate::bench::Out::Forward(route, sent)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(sent[..header_length], bytes[..header_length], "round {round}");
        same(&sent[header_length..], "* a/A").expect("the query");
        let mut answer = message("1234 QR a/A");
        answer[..2].copy_from_slice(&sent[header_length..header_length + 2]);
        let out = bench.response(*route, &answer);
        let [crate::bench::Out::ToClient(to, _)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(to.peer, client("127.0.0.1:1").peer);
    }
}
