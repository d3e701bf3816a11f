//! Tests the data path as tables of packets in, verdicts and packets out, one row per rule. New
//! behaviour of the data path is tested here first.

mod support;

use std::sync::Arc;

use dnslob::base::addr::{BackendSlot, Client, ListenerSlot, PoolSlot, Route, SocketSlot};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::config::Slots;
use dnslob::model::{Retry, Snapshot};
use dnslob::shard::Shard;
use dnslob::shard::messages::PendingWork;
use dnslob::shard::verdict::Verdict;
use dnslob::stats::close_reason::BackendCloseReason;
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::histogram::Latency;
use dnslob::stats::live::{LiveState, State};
use dnslob::stats::registry::BackendReading;
use dnslob::stats::response_code::ResponseCode;
use support::config::{TestConfig, client, configured};
use support::message::{message, same};

const CLIENT: &str = "127.0.0.1:4000";
/// Free bytes behind a packet, as the engines provide.
const TAILROOM: usize = 64;

/// The expected outcome of a packet.
#[derive(Clone, Copy, Debug)]
enum Out {
    /// Forwarded to a backend with this content.
    Forward(&'static str),
    /// Answered by dnslob with this content.
    Answer(&'static str),
    /// Delivered to the client with this content.
    Deliver(&'static str),
    /// Dropped and counted.
    Drop(DropReason),
}

/// A shard and its surroundings.
struct Bench {
    shard: Shard,
    live_state: Arc<LiveState>,
    snapshot: Arc<Snapshot>,
    now: Tick,
}

impl Bench {
    fn new(config: &TestConfig) -> Self {
        let (shard, live_state, snapshot) = config.shard(7);
        let mut bench = Self { shard, live_state, snapshot, now: Tick(1_000_000_000) };
        bench.pass(0);
        bench
    }

    /// Creates a shard from a configuration, with all servers up.
    fn configured(text: &str) -> Self {
        let snapshot = Arc::new(configured(text, &Slots::default(), 1).snapshot);
        let live_state = Arc::new(LiveState::new(1, 8));
        snapshot.backends.iter().flatten().for_each(|b| live_state.set_state(b.slot, State::Up));
        let shard = Shard::new(0, live_state.clone(), snapshot.clone(), ShardRng::from_seed(7));
        let mut bench = Self { shard, live_state, snapshot, now: Tick(1_000_000_000) };
        bench.pass(0);
        bench
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now + TickDelta::from_ms(ms);
        self.shard.begin_batch(self.now, &self.snapshot);
    }

    fn query(&mut self, from: Client, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        self.packet(bytes, |shard, packet| shard.on_query(from, packet))
    }

    fn response(&mut self, from: Route, bytes: &[u8]) -> (Verdict, Vec<u8>) {
        self.packet(bytes, |shard, packet| shard.on_response(from, packet))
    }

    fn packet(
        &mut self,
        bytes: &[u8],
        call: impl Fn(&mut Shard, &mut Packet<'_>) -> Verdict,
    ) -> (Verdict, Vec<u8>) {
        let mut buf = bytes.to_vec();
        buf.resize(bytes.len() + TAILROOM, 0xee);
        let mut packet = Packet::new(&mut buf, 0, bytes.len());
        let verdict = call(&mut self.shard, &mut packet);
        let out = packet.bytes().to_vec();
        self.shard.check_invariants();
        (verdict, out)
    }

    /// Sends a query and returns what was forwarded. Panics if it is not forwarded.
    fn forwarded(&mut self, text: &str) -> (Route, Vec<u8>) {
        let (verdict, bytes) = self.query(client(CLIENT), &message(text));
        let Verdict::Forward(route) = verdict else { panic!("{text} became {verdict:?}") };
        (route, bytes)
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.live_state.shards()[0].dropped(reason).get()
    }

    fn drops(&self) -> u64 {
        DropReason::ALL.into_iter().map(|r| self.dropped(r)).sum()
    }

    /// Compares a verdict and its packet with the expected outcome. A drop must be counted once,
    /// under its reason only.
    fn check(&self, name: &str, got: (Verdict, Vec<u8>), want: Out) {
        let (verdict, bytes) = got;
        let text = match (verdict, want) {
            (Verdict::Forward(_), Out::Forward(text)) | (Verdict::Deliver(_), Out::Deliver(text)) => text,
            (Verdict::Answer(_), Out::Answer(text)) => {
                assert_eq!(self.live_state.shards()[0].self_answered.get(), 1, "{name}: counted");
                text
            }
            (Verdict::Drop(reason), Out::Drop(wanted)) => {
                assert_eq!(reason, wanted, "{name}");
                assert_eq!((self.dropped(reason), self.drops()), (1, 1), "{name}: counted once");
                let refused = self.live_state.listener(ListenerSlot(0), false).refused;
                let is_refused = matches!(reason, DropReason::Acl | DropReason::QueryShort);
                assert_eq!(refused, u64::from(is_refused), "{name}: for its listener");
                return;
            }
            (
                Verdict::Forward(_)
                | Verdict::Deliver(_)
                | Verdict::Answer(_)
                | Verdict::Drop(_)
                | Verdict::Hold,
                Out::Forward(_) | Out::Answer(_) | Out::Deliver(_) | Out::Drop(_),
            ) => panic!("{name}: wanted {want:?}, got {verdict:?}"),
        };
        assert_eq!(self.drops(), 0, "{name}: nothing is counted as dropped");
        if let Err(difference) = same(&bytes, text) {
            panic!("{name}:\n{difference}");
        }
    }
}

/// Name, configuration, client, query, expected outcome.
type QueryRow = (&'static str, &'static str, &'static str, &'static str, Out);

const PLAIN: &str = r#"newServer("127.0.1.1") newServer("127.0.1.2")"#;
const NOBODY: &str = "";
const SERVFAIL: &str = "setServFailWhenNoServer(true)";

const QUERIES: &[QueryRow] = &[
    ("a query is forwarded", PLAIN, CLIENT, "1234 RD a.example/A", Out::Forward("* RD a.example/A")),
    (
        "a query is forwarded unchanged: flags, case, EDNS",
        PLAIN,
        CLIENT,
        "1234 RD AD CD wWw.ExAmPle/TXT OPT=4096,DO",
        Out::Forward("* RD AD CD wWw.ExAmPle/TXT OPT=4096,DO"),
    ),
    (
        "bytes behind the message are forwarded",
        PLAIN,
        CLIENT,
        "1234 a.example/A TAIL=c0ffee",
        Out::Forward("* a.example/A TAIL=c0ffee"),
    ),
    ("the root is a name", PLAIN, CLIENT, "1234 ./NS", Out::Forward("* ./NS")),
    ("opcodes are left to the backend", PLAIN, CLIENT, "1 NOTIFY a/A", Out::Forward("* NOTIFY a/A")),
    ("outside the ACL", PLAIN, "192.0.2.1:53", "1234 a.example/A", Out::Drop(DropReason::Acl)),
    ("outside the ACL, IPv6", PLAIN, "[2001:db8::1]:53", "1234 a.example/A", Out::Drop(DropReason::Acl)),
    ("inside the ACL, IPv6", PLAIN, "[fd00::1]:53", "1234 a.example/A", Out::Forward("* a.example/A")),
    (
        "a configured ACL replaces the default",
        r#"newServer("127.0.1.1") setACL({"192.0.2.0/24"})"#,
        "192.0.2.1:53",
        "1234 a.example/A",
        Out::Forward("* a.example/A"),
    ),
    ("the ACL is checked first", PLAIN, "192.0.2.1:53", "1234 CUT=3", Out::Drop(DropReason::Acl)),
    ("no bytes", PLAIN, CLIENT, "1234 CUT=0", Out::Drop(DropReason::QueryShort)),
    ("eleven bytes", PLAIN, CLIENT, "1234 a.example/A CUT=11", Out::Drop(DropReason::QueryShort)),
    ("QR=1", PLAIN, CLIENT, "1234 QR a.example/A", Out::Drop(DropReason::QueryIsResponse)),
    ("TC=1", PLAIN, CLIENT, "1234 TC a.example/A", Out::Drop(DropReason::QueryTruncated)),
    ("cut in the name", PLAIN, CLIENT, "1234 a.example/A CUT=16", Out::Drop(DropReason::QueryMalformed)),
    ("cut in the type", PLAIN, CLIENT, "1234 a.example/A CUT=23", Out::Drop(DropReason::QueryMalformed)),
    ("a header with a larger count", PLAIN, CLIENT, "1234 QD=1", Out::Drop(DropReason::QueryMalformed)),
    (
        "a pointer instead of a name",
        PLAIN,
        CLIENT,
        "1234 QD=1 TAIL=c00c00010001",
        Out::Drop(DropReason::QueryMalformed),
    ),
    ("no question", PLAIN, CLIENT, "1234", Out::Answer("1234 QR NOTIMP")),
    ("no question: RD and CD are returned", PLAIN, CLIENT, "1234 RD CD", Out::Answer("1234 QR RD CD NOTIMP")),
    (
        "no question, configured to drop",
        r#"newServer("127.0.1.1") setDropEmptyQueries(true)"#,
        CLIENT,
        "1234 RD",
        Out::Drop(DropReason::QueryEmpty),
    ),
    (
        "no question but EDNS",
        PLAIN,
        CLIENT,
        "1234 RD OPT=4096,DO",
        Out::Answer("1234 QR RD NOTIMP OPT=1232,DO"),
    ),
    ("no server", NOBODY, CLIENT, "1234 RD a.example/A", Out::Drop(DropReason::NoServer)),
    (
        "no server, SERVFAIL configured: RD kept, RA unchanged",
        SERVFAIL,
        CLIENT,
        "1234 RD a.example/A",
        Out::Answer("1234 QR RD SERVFAIL a.example/A"),
    ),
    (
        "AD and AA are cleared, CD is returned",
        SERVFAIL,
        CLIENT,
        "1234 RD AD CD AA a.example/A",
        Out::Answer("1234 QR RD CD SERVFAIL a.example/A"),
    ),
    (
        "EDNS in, EDNS out: our payload size, no DO",
        SERVFAIL,
        CLIENT,
        "1234 a.example/A OPT=4096",
        Out::Answer("1234 QR SERVFAIL a.example/A OPT=1232"),
    ),
    (
        "the DO bit of the client is returned",
        SERVFAIL,
        CLIENT,
        "1234 a.example/A OPT=512,DO",
        Out::Answer("1234 QR SERVFAIL a.example/A OPT=1232,DO"),
    ),
    (
        "a configured payload size",
        "setServFailWhenNoServer(true) setPayloadSizeOnSelfGeneratedAnswers(512)",
        CLIENT,
        "1234 a.example/A OPT=4096",
        Out::Answer("1234 QR SERVFAIL a.example/A OPT=512"),
    ),
    (
        "EDNS in self-generated answers disabled",
        "setServFailWhenNoServer(true) setAddEDNSToSelfGeneratedResponses(false)",
        CLIENT,
        "1234 a.example/A OPT=4096",
        Out::Answer("1234 QR SERVFAIL a.example/A"),
    ),
    (
        "trailing bytes are not echoed",
        SERVFAIL,
        CLIENT,
        "1234 a.example/A TAIL=c0ffee",
        Out::Answer("1234 QR SERVFAIL a.example/A"),
    ),
];

#[test]
fn queries() {
    for (name, config, from, query, want) in QUERIES {
        let mut bench = Bench::configured(config);
        let from = client(from);
        let got = bench.query(from, &message(query));
        match got.0 {
            Verdict::Answer(to) | Verdict::Deliver(to) => assert_eq!(to, from, "{name}: to who asked"),
            Verdict::Forward(_) | Verdict::Drop(_) | Verdict::Hold => {}
        }
        bench.check(name, got, *want);
        assert_eq!(bench.live_state.shards()[0].queries.get(), 1, "{name}: a query is counted");
    }
}

/// The query that all answers belong to.
const QUERY: &str = "1234 RD wWw.ExAmPle/A OPT=1232";

/// Name, configuration, answer of the backend (its id is filled in), expected outcome.
type AnswerRow = (&'static str, &'static str, &'static str, Out);

const ANSWERS: &[AnswerRow] = &[
    (
        "an answer is delivered with the id of the client",
        PLAIN,
        "* QR RD RA wWw.ExAmPle/A A=192.0.2.7 OPT=4096",
        Out::Deliver("1234 QR RD RA wWw.ExAmPle/A A=192.0.2.7 OPT=4096"),
    ),
    (
        "names match case-insensitively, and keep the case of the server",
        PLAIN,
        "* QR RD www.example/A A=192.0.2.7",
        Out::Deliver("1234 QR RD www.example/A A=192.0.2.7"),
    ),
    (
        "any response code",
        PLAIN,
        "* QR NXDOMAIN wWw.ExAmPle/A",
        Out::Deliver("1234 QR RD NXDOMAIN wWw.ExAmPle/A"),
    ),
    ("truncated", PLAIN, "* QR TC wWw.ExAmPle/A", Out::Deliver("1234 QR RD TC wWw.ExAmPle/A")),
    (
        "bytes behind the message are delivered",
        PLAIN,
        "* QR wWw.ExAmPle/A TAIL=00ff",
        Out::Deliver("1234 QR RD wWw.ExAmPle/A TAIL=00ff"),
    ),
    ("eleven bytes", PLAIN, "* QR CUT=11", Out::Drop(DropReason::ResponseShort)),
    ("no bytes", PLAIN, "* CUT=0", Out::Drop(DropReason::ResponseShort)),
    ("QR=0", PLAIN, "* wWw.ExAmPle/A", Out::Drop(DropReason::ResponseNotResponse)),
    ("another name", PLAIN, "* QR www.example.org/A", Out::Drop(DropReason::ResponseMismatch)),
    ("another type", PLAIN, "* QR wWw.ExAmPle/AAAA", Out::Drop(DropReason::ResponseMismatch)),
    ("cut in the question", PLAIN, "* QR wWw.ExAmPle/A CUT=20", Out::Drop(DropReason::ResponseMismatch)),
    ("header only, REFUSED", PLAIN, "* QR REFUSED", Out::Deliver("1234 QR RD REFUSED")),
    ("header only, SERVFAIL", PLAIN, "* QR SERVFAIL", Out::Deliver("1234 QR RD SERVFAIL")),
    ("header only, NOERROR", PLAIN, "* QR", Out::Drop(DropReason::ResponseEmpty)),
    ("header only, NXDOMAIN", PLAIN, "* QR NXDOMAIN", Out::Drop(DropReason::ResponseEmpty)),
    (
        "header only, NOERROR, allowed",
        r#"newServer("127.0.1.1") setAllowEmptyResponse(true)"#,
        "* QR",
        Out::Deliver("1234 QR RD"),
    ),
];

#[test]
fn answers() {
    for (name, config, answer, want) in ANSWERS {
        let mut bench = Bench::configured(config);
        let (route, forwarded) = bench.forwarded(QUERY);
        bench.pass(3);
        let got = bench.response(route, &with_id_of(&forwarded, answer));
        if let Verdict::Deliver(to) = got.0 {
            assert_eq!(to, client(CLIENT), "{name}: to who asked");
        }
        bench.check(name, got, *want);
        let stats = bench.live_state.shards()[0].backend(route.backend);
        let delivered = matches!(want, Out::Deliver(_));
        assert_eq!(
            (stats.queries.get(), stats.responses.get(), stats.unexpected.get()),
            (1, u64::from(delivered), u64::from(!delivered)),
            "{name}: the server's counts"
        );
        let waits = u32::from(!delivered);
        assert_eq!(bench.shard.outstanding(), waits, "{name}: a bad answer ends nothing");
    }
}

/// Replaces the id in `answer` by the id of a forwarded query.
fn with_id_of(forwarded: &[u8], answer: &str) -> Vec<u8> {
    let mut bytes = message(answer);
    if let (Some(id), Some(place)) = (forwarded.first_chunk::<2>(), bytes.first_chunk_mut::<2>()) {
        *place = *id;
    }
    bytes
}

const GOOD: &str = "* QR wWw.ExAmPle/A A=192.0.2.7";

#[test]
fn an_answer_with_a_wrong_id_or_socket_is_dropped() {
    let mut bench = Bench::new(&TestConfig::new(2));
    let (route, forwarded) = bench.forwarded(QUERY);
    let good = with_id_of(&forwarded, GOOD);
    let mut wrong_id = good.clone();
    wrong_id[0] ^= 0x80;
    let socket = SocketSlot::from_number((route.socket.number() + 1) % 4);
    let backend = BackendSlot(1 - route.backend.0);
    let foreign = [
        (route, &wrong_id),
        (Route { socket, ..route }, &good),
        (Route { backend, ..route }, &good),
        (Route { backend: BackendSlot(1), socket: SocketSlot::from_number(200) }, &good),
    ];
    for (number, (from, bytes)) in foreign.into_iter().enumerate() {
        let (verdict, _) = bench.response(from, bytes);
        assert_eq!(verdict, Verdict::Drop(DropReason::ResponseForeign), "{from:?}");
        assert_eq!(bench.dropped(DropReason::ResponseForeign), number as u64 + 1);
    }
    assert_eq!(bench.response(route, &good).0, Verdict::Deliver(client(CLIENT)), "the true one still counts");
}

#[test]
fn a_second_answer_is_a_duplicate() {
    let mut bench = Bench::new(&TestConfig::new(1));
    let (route, forwarded) = bench.forwarded(QUERY);
    let good = with_id_of(&forwarded, GOOD);
    assert_eq!(bench.response(route, &good).0, Verdict::Deliver(client(CLIENT)));
    let got = bench.response(route, &good);
    bench.check("the same again", got, Out::Drop(DropReason::ResponseDuplicate));
}

#[test]
fn an_answer_after_the_timeout_is_late() {
    let mut bench = Bench::new(&TestConfig::new(1));
    let (route, forwarded) = bench.forwarded(QUERY);
    bench.pass(1_999);
    bench.shard.on_tick(&mut |verdict, _| panic!("nothing is due: {verdict:?}"));
    assert_eq!((bench.shard.outstanding(), bench.dropped(DropReason::Timeout)), (1, 0), "never early");
    bench.pass(6);
    bench.shard.on_tick(&mut |verdict, _| panic!("nothing is sent: {verdict:?}"));
    assert_eq!((bench.shard.outstanding(), bench.dropped(DropReason::Timeout)), (0, 1), "hardly late");
    assert_eq!(bench.live_state.shards()[0].backend(route.backend).timeouts.get(), 1);
    let got = bench.response(route, &with_id_of(&forwarded, GOOD));
    assert_eq!(got.0, Verdict::Drop(DropReason::ResponseLate));
    assert_eq!(bench.dropped(DropReason::ResponseLate), 1);
}

#[test]
fn a_client_has_a_bounded_number_of_outstanding_queries_with_one_question() {
    let mut bench = Bench::configured("newServer(\"127.0.0.1:5454\") setMaxRepeatedQueries(3)");
    let ask = |bench: &mut Bench, from: &str, text: &str| bench.query(client(from), &message(text));
    // A forwarder may use a new port for each.
    let mut sent: Vec<_> =
        (0..3).map(|n| ask(&mut bench, &format!("127.0.0.1:{}", 4_000 + n), QUERY)).collect();
    let (verdict, _) = ask(&mut bench, "127.0.0.1:4000", QUERY);
    assert_eq!(verdict, Verdict::Drop(DropReason::QueryRepeated));
    assert_eq!(bench.dropped(DropReason::QueryRepeated), 1);
    let others = [("127.0.0.1:4000", "1234 RD other.example/A"), ("127.0.0.2:4000", QUERY)];
    for other in others.into_iter().chain([others[1]; 29]) {
        let (verdict, _) = ask(&mut bench, other.0, other.1);
        assert!(matches!(verdict, Verdict::Forward(_)), "{other:?} is not alike: {verdict:?}");
    }
    let (verdict, _) = ask(&mut bench, "127.0.0.2:4000", QUERY);
    assert_eq!(verdict, Verdict::Drop(DropReason::QueryRepeated), "ten times as many of others than servers");
    let (verdict, bytes) = sent.remove(0);
    let Verdict::Forward(route) = verdict else { panic!("{verdict:?}") };
    let (verdict, _) = bench.response(route, &with_id_of(&bytes, GOOD));
    assert!(matches!(verdict, Verdict::Deliver(_)), "{verdict:?}");
    let (verdict, _) = ask(&mut bench, "127.0.0.1:4000", QUERY);
    assert!(matches!(verdict, Verdict::Forward(_)), "one was answered: {verdict:?}");
    let (verdict, _) = ask(&mut bench, "127.0.0.1:4000", QUERY);
    assert!(matches!(verdict, Verdict::Forward(_)), "an answer allows one more: {verdict:?}");
    let (verdict, _) = ask(&mut bench, "127.0.0.1:4000", QUERY);
    assert_eq!(verdict, Verdict::Drop(DropReason::QueryRepeated));
    bench.pass(3_000);
    // As many time-outs are handled in a tick as there may be.
    (0..64).for_each(|_| bench.shard.on_tick(&mut |verdict, _| panic!("nothing is sent: {verdict:?}")));
    let (verdict, _) = ask(&mut bench, "127.0.0.1:4000", QUERY);
    assert!(matches!(verdict, Verdict::Forward(_)), "the others have timed out: {verdict:?}");
}

#[test]
fn equal_ids_of_two_clients_are_kept_apart() {
    let mut bench = Bench::new(&TestConfig::new(1));
    let clients = [client("127.0.0.1:4000"), client("127.0.0.1:4001")];
    let sent = clients.map(|from| {
        let (verdict, bytes) = bench.query(from, &message(QUERY));
        let Verdict::Forward(route) = verdict else { panic!("{verdict:?}") };
        (route, bytes)
    });
    assert_ne!(sent[0].1[..2], sent[1].1[..2], "ids are ours");
    for at in [1, 0] {
        let (route, bytes) = &sent[at];
        let got = bench.response(*route, &with_id_of(bytes, GOOD));
        assert_eq!(got.0, Verdict::Deliver(clients[at]));
        same(&got.1, "1234 QR RD wWw.ExAmPle/A A=192.0.2.7").expect("the client's id");
    }
}

#[test]
fn a_query_that_cannot_be_sent_goes_to_another_server_then_is_dropped() {
    let mut bench = Bench::new(&TestConfig::new(2));
    let (first, mut bytes) = bench.forwarded(QUERY);
    let length = bytes.len();
    let mut packet = Packet::new(&mut bytes, 0, length);
    let mut offered = Vec::new();
    bench.shard.on_unsent(first, &mut packet, |_, route, _| {
        offered.push(route.backend);
        false
    });
    assert_eq!(offered.len(), 1, "there is one other server");
    assert_ne!(offered[0], first.backend);
    assert_eq!(bench.dropped(DropReason::QuerySendError), 1);
    assert_eq!(bench.shard.totals(), [2, 0, 0, 2], "claimed twice, released twice");
    bench.shard.check_invariants();
}

/// Returns the servers to which the engine is to open a connection.
fn opened(bench: &mut Bench) -> Vec<Route> {
    let work = std::iter::from_fn(|| bench.shard.next_pending());
    let routes: Vec<Route> = work
        .filter_map(|work| if let PendingWork::Backend(route) = work { Some(route) } else { None })
        .collect();
    routes.into_iter().filter(|route| bench.shard.backend_is_connecting(*route)).collect()
}

#[test]
fn a_query_that_moves_on_avoids_a_server_that_has_just_refused_a_connection() {
    let mut bench = Bench::configured(
        "newServer{address='127.0.1.1', tcpOnly=true, order=1} newServer{address='127.0.1.2', tcpOnly=true, order=2}
         newServer{address='127.0.1.3', tcpOnly=true, order=3} setServerPolicy(firstAvailable)",
    );
    let ask = |bench: &mut Bench| {
        let (verdict, _) = bench.query(client(CLIENT), &message(QUERY));
        assert_eq!(verdict, Verdict::Hold);
    };
    let close = |bench: &mut Bench, route: Route, why: BackendCloseReason| {
        bench.shard.on_backend_closed(route, Some(why), &mut |verdict, _| panic!("{verdict:?}"));
    };
    let backends = |routes: &[Route]| routes.iter().map(|route| route.backend.0).collect::<Vec<_>>();
    ask(&mut bench);
    let first = opened(&mut bench);
    assert_eq!(backends(&first), [0]);
    close(&mut bench, first[0], BackendCloseReason::Refused);
    let second = opened(&mut bench);
    assert_eq!(backends(&second), [1]);
    // Another query, which the first server has not failed.
    ask(&mut bench);
    close(&mut bench, second[0], BackendCloseReason::Broken);
    assert_eq!(backends(&opened(&mut bench)), [2], "both queries");
    assert_eq!((bench.shard.outstanding(), bench.live_state.shards()[0].retries.get()), (2, 3));
    bench.shard.check_invariants();
}

#[test]
fn a_query_to_a_slow_server_is_retried_at_a_second_one() {
    let mut config = TestConfig::new(2);
    config.retry = Some(Retry { after: TickDelta::from_ms(100), budget_ppm: 100_000 });
    let mut bench = Bench::new(&config);
    let (first, forwarded) = bench.forwarded(QUERY);
    bench.pass(102);
    let mut tries = Vec::new();
    bench.shard.on_tick(&mut |verdict, bytes| tries.push((verdict, bytes.to_vec())));
    let [(Verdict::Forward(second), again)] = &tries[..] else { panic!("one second try, not {tries:?}") };
    assert_ne!(first.backend, second.backend);
    same(again, "* RD wWw.ExAmPle/A OPT=1232").expect("the same query");
    assert_eq!(bench.live_state.shards()[0].retries.get(), 1);
    // The first answer is delivered, the other one is a duplicate.
    let got = bench.response(first, &with_id_of(&forwarded, GOOD));
    assert_eq!(got.0, Verdict::Deliver(client(CLIENT)));
    same(&got.1, "1234 QR RD wWw.ExAmPle/A A=192.0.2.7").expect("the client's id");
    let got = bench.response(*second, &with_id_of(again, GOOD));
    assert_eq!(got.0, Verdict::Drop(DropReason::ResponseDuplicate));
    assert_eq!(bench.shard.totals(), [2, 2, 0, 0], "the loser's latency counts too");
    let stats = &bench.live_state.shards()[0];
    assert_eq!((stats.responses.get(), stats.backend(second.backend).responses.get()), (1, 1));
    bench.shard.check_invariants();
}

/// Returns the number of latencies and their median, milliseconds.
fn median_ms(latency: &Latency) -> (u64, u64) {
    (latency.count(), latency.quantiles([0.5]).map_or(0, |[ns]| (ns + 500_000) / 1_000_000))
}

#[test]
fn clients_wait_for_all_attempts_and_servers_answer_one() {
    let mut config = TestConfig::new(2);
    config.retry = Some(Retry { after: TickDelta::from_ms(100), budget_ppm: 100_000 });
    let mut bench = Bench::new(&config);
    let (first, _) = bench.forwarded(QUERY);
    bench.pass(102);
    let mut tries = Vec::new();
    bench.shard.on_tick(&mut |verdict, bytes| tries.push((verdict, bytes.to_vec())));
    let [(Verdict::Forward(second), again)] = &tries[..] else { panic!("one second try, not {tries:?}") };
    bench.pass(20);
    let got = bench.response(*second, &with_id_of(again, GOOD));
    assert_eq!(got.0, Verdict::Deliver(client(CLIENT)));
    let live = bench.live_state.clone();
    let (waited, answered) = ((1, 122), (1, 20));
    let listener = client(CLIENT).listener;
    let near = |(count, ms): (u64, u64), (n, expected): (u64, u64)| count == n && ms.abs_diff(expected) <= 3;
    let by_udp = live.listener(listener, false).latency;
    assert!(near(median_ms(&by_udp), waited), "{:?}", median_ms(&by_udp));
    assert_eq!(live.listener(listener, true).latency.count(), 0, "it came by UDP");
    assert!(near(median_ms(&live.pool(PoolSlot(0)).latency), waited));
    assert!(near(median_ms(&live.answers(ResponseCode::NoError).latency), waited));
    let of_server = |route: Route| {
        let mut reading = BackendReading::default();
        live.shards()[0].backend(route.backend).read(&mut reading);
        median_ms(&reading.latency)
    };
    assert!(near(of_server(*second), answered), "{:?}", of_server(*second));
    assert_eq!(of_server(first).0, 0, "it has not answered yet");

    // An answer of our own is at once, and of no pool.
    let (verdict, _) = bench.query(client(CLIENT), &message("1234"));
    assert!(matches!(verdict, Verdict::Answer(_)), "{verdict:?}");
    assert_eq!(live.listener(listener, false).latency.count(), 2);
    assert_eq!(live.pool(PoolSlot(0)).latency.count(), 1);
}

/// A server's datagram that is longer than a buffer is as good as a truncated response.
#[test]
fn the_beginning_of_a_response_that_is_too_long_becomes_a_truncated_answer() {
    let cases = [
        (
            "* QR RA wWw.ExAmPle/A A=192.0.2.7 A=192.0.2.8 OPT=4096 CUT=50",
            Out::Deliver("1234 QR TC RD RA wWw.ExAmPle/A OPT=1232"),
        ),
        ("* QR www.example.org/A A=192.0.2.7 CUT=40", Out::Drop(DropReason::ResponseMismatch)),
        ("* QR wWw.ExAmPle/A CUT=20", Out::Drop(DropReason::Oversized)),
        ("* wWw.ExAmPle/A A=192.0.2.7", Out::Drop(DropReason::ResponseNotResponse)),
    ];
    for (response, want) in cases {
        let mut bench = Bench::configured(PLAIN);
        let (route, forwarded) = bench.forwarded("1234 RD wWw.ExAmPle/A OPT=65535");
        let bytes = with_id_of(&forwarded, response);
        let got = bench.packet(&bytes, |shard, packet| shard.on_cut_response(route, packet));
        bench.check(response, got, want);
    }
}

/// A retry must not hide that the first server never answers.
#[test]
fn a_frozen_server_is_detected_despite_retries() {
    let mut config = TestConfig::new(2);
    config.retry = Some(Retry { after: TickDelta::from_ms(100), budget_ppm: 100_000 });
    let mut bench = Bench::new(&config);
    let (frozen, _) = bench.forwarded(QUERY);
    bench.pass(102);
    let mut tries = Vec::new();
    bench.shard.on_tick(&mut |verdict, bytes| tries.push((verdict, bytes.to_vec())));
    let [(Verdict::Forward(second), again)] = &tries[..] else { panic!("one second try, not {tries:?}") };
    let got = bench.response(*second, &with_id_of(again, GOOD));
    assert_eq!(got.0, Verdict::Deliver(client(CLIENT)));
    assert_eq!(bench.shard.outstanding(), 0, "no client waits");
    for _ in 0..25 {
        bench.pass(100);
        bench.shard.on_tick(&mut |verdict, _| panic!("nothing to send: {verdict:?}"));
    }
    let stats = &bench.live_state.shards()[0];
    assert_eq!(stats.backend(frozen.backend).timeouts.get(), 1, "the server's loss");
    assert_eq!(bench.dropped(DropReason::Timeout), 0, "not the client's");
    assert_eq!(bench.shard.totals(), [2, 1, 1, 0]);
    bench.shard.check_invariants();
}

#[test]
fn a_removed_server_may_still_answer_until_the_timeout() {
    let mut config = TestConfig::new(1);
    // The retry budget is empty: only the first server is tried.
    config.retry = Some(Retry { after: TickDelta::from_ms(100), budget_ppm: 0 });
    let mut bench = Bench::new(&config);
    let (route, forwarded) = bench.forwarded(QUERY);
    config.generation += 1;
    config.backends.clear();
    bench.snapshot = config.snapshot();
    for _ in 0..18 {
        bench.pass(100);
        bench.shard.on_tick(&mut |verdict, _| panic!("no other server is left: {verdict:?}"));
    }
    assert_eq!(bench.shard.retired().count(), 0, "it is not finished");
    let got = bench.response(route, &with_id_of(&forwarded, GOOD));
    assert_eq!(got.0, Verdict::Deliver(client(CLIENT)));
    assert_eq!(bench.shard.retired().collect::<Vec<_>>(), [route.backend]);
}

#[test]
fn a_full_table_drops_the_new_query() {
    let mut bench = Bench::configured(r#"newServer{address="127.0.1.1", maxOutstanding=1}"#);
    bench.forwarded(QUERY);
    let got = bench.query(client(CLIENT), &message(QUERY));
    bench.check("one too many", got, Out::Drop(DropReason::OutstandingFull));
    assert_eq!(bench.shard.outstanding(), 1, "the old one stays");
}
