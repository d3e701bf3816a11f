use std::sync::Arc;

use proptest::prelude::*;

use crate::balance::Balancer;
use crate::balance::PoolView;
use crate::balance::tests::{backend, snapshot};
use crate::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::model::Snapshot;
use crate::model::policy::{Kind, Policy};
use crate::rules::context::{Facts, Script};
use crate::rules::limits::{DEADLINES_BYTES_MAX, Limits, StateSpec};
use crate::rules::matcher::*;
use crate::rules::pattern::PatternCache;
use crate::rules::query_state::QueryState;
use crate::rules::script::{Candidate, ScriptAction};
use crate::stats::live::{LiveState, State};
use crate::wire::edns;

const SECOND: TickDelta = TickDelta::from_ms(1_000);

/// One shard without sockets, in which matchers are evaluated.
struct Fixture {
    now: Tick,
    snapshot: Snapshot,
    limits: Limits,
    rng: ShardRng,
    live_state: Arc<LiveState>,
    balancer: Balancer,
    script: Option<Box<dyn Script>>,
    query_state: QueryState,
    client: &'static str,
    local: &'static str,
}

impl Default for Fixture {
    /// Two servers, one of them up.
    fn default() -> Self {
        let live_state = Arc::new(LiveState::new(1, 64));
        live_state.set_state(BackendSlot(0), State::Up);
        let snapshot = snapshot(Policy::new(Kind::RoundRobin), &[backend(0), backend(1)]);
        let mut balancer = Balancer::new(Arc::clone(&live_state), 0);
        balancer.begin_batch(Tick(0), &snapshot);
        Self {
            now: Tick(1_000_000_000),
            snapshot,
            limits: Limits::default(),
            rng: ShardRng::from_seed(1),
            live_state,
            balancer,
            script: None,
            query_state: QueryState::default(),
            client: "192.0.2.7:4000",
            local: "198.51.100.1:53",
        }
    }
}

fn endpoint(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().expect("an address").into()
}

impl Fixture {
    fn ask(&mut self, matcher: &Matcher, message: &[u8]) -> bool {
        let mut bytes = message.to_vec();
        let mut packet = Packet::new(&mut bytes, 0, message.len());
        let peer = endpoint(self.client);
        let mut context = EvaluationContext {
            facts: Facts::of(message),
            packet: &mut packet,
            query_state: &mut self.query_state,
            client: Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None },
            local: endpoint(self.local),
            answered: None,
        };
        let mut env = Environment {
            now: self.now,
            chains: &self.snapshot.chains,
            settings: self.snapshot.rule_settings(),
            limits: &mut self.limits,
            rng: &mut self.rng,
            pools: &PoolView { snapshot: &self.snapshot, balancer: &self.balancer },
            script: self.script.as_deref_mut(),
            patterns: &mut PatternCache::default(),
        };
        let matched = matcher.matches(&mut context, &mut env);
        assert_eq!(env.script.is_some(), self.script.is_some(), "the script was put back");
        matched
    }
}

/// The bytes of a message, by its parts.
#[derive(Clone)]
struct Message {
    flags: u16,
    counts: [u16; 4],
    qname: &'static [u8],
    body: Vec<u8>,
}

const WWW: &[u8] = b"\x03wWw\x07example\x03org\x00";

/// Returns a query for the A records of www.example.org, RD set.
fn query() -> Message {
    Message { flags: 0x0100, counts: [1, 0, 0, 0], qname: WWW, body: Vec::new() }
}

impl Message {
    fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    fn name(mut self, qname: &'static [u8]) -> Self {
        self.qname = qname;
        self
    }

    /// Adds bytes behind the question, and `n` to the count of a section.
    fn with(mut self, section: usize, n: u16, bytes: &[u8]) -> Self {
        self.counts[section] += n;
        self.body.extend(bytes);
        self
    }

    fn opt(self, extended: u8, version: u8, options: &[u8]) -> Self {
        let mut record = edns::bare(1232, false).to_vec();
        (record[5], record[6], record[10]) = (extended, version, options.len() as u8);
        record.extend(options);
        self.with(3, 1, &record)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34];
        bytes.extend(self.flags.to_be_bytes());
        self.counts.iter().for_each(|n| bytes.extend(n.to_be_bytes()));
        bytes.extend(self.qname);
        bytes.extend(b"\0\x01\0\x01");
        bytes.extend(&self.body);
        bytes
    }

    fn cut(&self, bytes: usize) -> Vec<u8> {
        let mut message = self.bytes();
        message.truncate(message.len().saturating_sub(bytes));
        message
    }
}

/// An A record whose owner is a pointer to the question's name.
const A: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01";
const NS: &[u8] = b"\xc0\x0c\0\x02\0\x01\0\0\0\x3c\0\x02\xc0\x0c";
/// A header that counts a question.
const NO_QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0";

fn check(table: &[(&str, Matcher, Vec<u8>, bool)]) {
    for (what, matcher, message, expected) in table {
        assert_eq!(
            Fixture::default().ask(matcher, message),
            *expected,
            "{what}: {matcher:?} of {message:02x?}"
        );
        let not = Matcher::Not(Arc::new(matcher.clone()));
        assert_eq!(Fixture::default().ask(&not, message), !*expected, "not: {what}");
    }
}

#[test]
fn junctions_stop_at_the_first_that_decides() {
    let (yes, no) = (|| Matcher::All, || Matcher::Not(Arc::new(Matcher::All)));
    let m = query().bytes();
    check(&[
        ("all", yes(), m.clone(), true),
        ("and", Matcher::And([yes(), yes()].into()), m.clone(), true),
        ("and with a no", Matcher::And([yes(), no()].into()), m.clone(), false),
        ("and of none", Matcher::And([].into()), m.clone(), true),
        ("or", Matcher::Or([no(), yes()].into()), m.clone(), true),
        ("or without a yes", Matcher::Or([no(), no()].into()), m.clone(), false),
        ("or of none", Matcher::Or([].into()), m, false),
    ]);
    // A limit counts only where it was evaluated.
    let mut fixture = Fixture::default();
    fixture.limits.adopt(&[StateSpec::rate(1, 1, 1)]);
    let limit = || Matcher::MaxQps(Limit { state: 0, qps: 1, burst: 1 });
    let m = query().bytes();
    assert!(!fixture.ask(&Matcher::And([no(), limit()].into()), &m));
    assert!(fixture.ask(&Matcher::Or([yes(), limit()].into()), &m));
    assert!(fixture.ask(&limit(), &m), "the one token is not taken yet");
    assert!(!fixture.ask(&limit(), &m));
}

#[test]
fn questions_are_distinguished() {
    let www = || Matcher::QName(Arc::from(&b"\x03www\x07EXAMPLE\x03org\x00"[..]));
    let m = query().bytes();
    check(&[
        ("letter case", www(), m.clone(), true),
        ("another name", www(), query().name(b"\x02ww\x07example\x03org\x00").bytes(), false),
        ("below it", www(), query().name(b"\x01a\x03www\x07example\x03org\x00").bytes(), false),
        ("no question", www(), NO_QUESTION.to_vec(), false),
        ("type", Matcher::QType(1), m.clone(), true),
        ("another type", Matcher::QType(28), m.clone(), false),
        ("no question's type", Matcher::QType(1), NO_QUESTION.to_vec(), false),
        ("class", Matcher::QClass(1), m.clone(), true),
        ("another class", Matcher::QClass(3), m.clone(), false),
        ("as many labels", Matcher::QNameLabels(3, 3), m.clone(), false),
        ("fewer labels", Matcher::QNameLabels(4, 9), m.clone(), true),
        ("more labels", Matcher::QNameLabels(0, 2), m.clone(), true),
        ("the root's labels", Matcher::QNameLabels(0, 0), query().name(b"\0").bytes(), false),
        ("as long", Matcher::QNameWireLength(17, 17), m.clone(), false),
        ("shorter", Matcher::QNameWireLength(18, 99), m.clone(), true),
        ("longer", Matcher::QNameWireLength(1, 16), m, true),
        ("the root's length", Matcher::QNameWireLength(1, 1), query().name(b"\0").bytes(), false),
    ]);
}

#[test]
fn header_fields_match() {
    let m = query().bytes();
    let short = m[..11].to_vec();
    check(&[
        ("query", Matcher::Opcode(0), m.clone(), true),
        ("notify", Matcher::Opcode(4), query().flags(4 << 11).bytes(), true),
        ("not notify", Matcher::Opcode(4), m.clone(), false),
        ("all opcode bits", Matcher::Opcode(15), query().flags(0xffff).bytes(), true),
        ("opcode of nothing", Matcher::Opcode(0), short.clone(), false),
        ("noerror", Matcher::RCode(0), m.clone(), true),
        ("nxdomain", Matcher::RCode(3), query().flags(0x8183).bytes(), true),
        ("not nxdomain", Matcher::RCode(3), query().flags(0x8180).bytes(), false),
        ("rcode without its extension", Matcher::RCode(0), query().opt(1, 0, b"").bytes(), true),
        ("rcode of nothing", Matcher::RCode(0), short.clone(), false),
        ("rd", Matcher::Rd, m, true),
        ("no rd", Matcher::Rd, query().flags(0xfeff).bytes(), false),
        ("rd of nothing", Matcher::Rd, short, false),
    ]);
}

#[test]
fn edns_fields_match() {
    let dnssec_ok = query().with(3, 1, &edns::bare(1232, true));
    let plain = query().opt(0, 0, b"");
    // Options: 10 with two bytes, 3 with none.
    let options = query().opt(0, 0, b"\0\x0a\0\x02ab\0\x03\0\0");
    check(&[
        ("do", Matcher::Dnssec, dnssec_ok.bytes(), true),
        (
            "do behind records",
            Matcher::Dnssec,
            query().with(1, 1, A).with(3, 1, &edns::bare(0, true)).bytes(),
            true,
        ),
        ("no do", Matcher::Dnssec, plain.bytes(), false),
        ("do without edns", Matcher::Dnssec, query().bytes(), false),
        ("cd without edns", Matcher::Dnssec, query().flags(0x0110).bytes(), true),
        ("ad without edns", Matcher::Dnssec, query().flags(0x0120).bytes(), false),
        ("cd of nothing", Matcher::Dnssec, query().flags(0x0110).bytes()[..11].to_vec(), false),
        ("do of a cut opt", Matcher::Dnssec, dnssec_ok.cut(1), false),
        ("do of no question", Matcher::Dnssec, NO_QUESTION.to_vec(), false),
        ("version above", Matcher::EdnsVersion(0), query().opt(0, 1, b"").bytes(), true),
        ("version itself", Matcher::EdnsVersion(1), query().opt(0, 1, b"").bytes(), false),
        ("version without edns", Matcher::EdnsVersion(0), query().bytes(), false),
        ("first option", Matcher::EdnsOption(10), options.bytes(), true),
        ("second option", Matcher::EdnsOption(3), options.bytes(), true),
        ("option that is not there", Matcher::EdnsOption(8), options.bytes(), false),
        ("no option", Matcher::EdnsOption(3), plain.bytes(), false),
        ("option without edns", Matcher::EdnsOption(3), query().bytes(), false),
        ("option of a cut opt", Matcher::EdnsOption(10), options.cut(1), false),
        (
            "option longer than the record",
            Matcher::EdnsOption(3),
            query().opt(0, 0, b"\0\x03\0\x05x").bytes(),
            false,
        ),
        (
            "option behind one that is too long",
            Matcher::EdnsOption(3),
            query().opt(0, 0, b"\0\x0a\0\x09\0\x03\0\0").bytes(),
            false,
        ),
        ("half an option", Matcher::EdnsOption(3), query().opt(0, 0, b"\0\x03").bytes(), false),
        ("extended code", Matcher::ERCode(16), query().opt(1, 0, b"").bytes(), true),
        ("both parts", Matcher::ERCode(23), query().flags(0x8187).opt(1, 0, b"").bytes(), true),
        ("low part alone", Matcher::ERCode(16), query().flags(0x8180).bytes(), false),
        ("without edns", Matcher::ERCode(3), query().flags(0x8183).bytes(), true),
        ("another extension", Matcher::ERCode(3), query().flags(0x8183).opt(1, 0, b"").bytes(), false),
        ("code of nothing", Matcher::ERCode(0), vec![0; 11], false),
    ]);
}

#[test]
fn records_are_counted() {
    let count = |section, min, max| Matcher::RecordsCount { section, min, max };
    let of = |section, rtype, min, max| Matcher::RecordsTypeCount { section, rtype, min, max };
    let two = || query().with(1, 2, &[A, A].concat()).with(2, 1, NS).opt(0, 0, b"");
    check(&[
        ("questions", count(0, 1, 1), two().bytes(), true),
        ("answers", count(1, 1, 2), two().bytes(), true),
        ("too few", count(1, 3, 9), two().bytes(), false),
        ("too many", count(1, 0, 1), two().bytes(), false),
        ("additional", count(3, 1, 1), two().bytes(), true),
        ("as the header says", count(3, 9, 9), query().with(3, 9, b"").bytes(), true),
        ("no such section", count(4, 0, 9), two().bytes(), false),
        ("of nothing", count(0, 0, 9), vec![0; 5], false),
        ("the question's type", of(0, 1, 1, 1), two().bytes(), true),
        ("answers of a type", of(1, 1, 2, 2), two().bytes(), true),
        ("of another type", of(1, 2, 1, 9), two().bytes(), false),
        ("only of that section", of(1, 2, 0, 0), two().bytes(), true),
        ("authority", of(2, 2, 1, 1), two().bytes(), true),
        ("opt", of(3, 41, 1, 1), two().bytes(), true),
        ("no opt", of(3, 41, 1, 1), query().bytes(), false),
        ("none wanted", of(3, 41, 0, 0), query().bytes(), true),
        (
            "up to what cannot be read",
            of(1, 1, 1, 1),
            query().with(1, 2, &[A, b"\x80"].concat()).bytes(),
            true,
        ),
        ("not one that runs out of the message", of(1, 1, 0, 0), query().with(1, 1, A).cut(1), true),
        ("a forged count", of(3, 41, 0, 0), query().with(1, u16::MAX, A).bytes(), true),
    ]);
}

#[test]
fn trailing_data_matches() {
    let tail = || Matcher::TrailingData;
    let opt = query().opt(0, 0, b"");
    check(&[
        ("none", tail(), query().bytes(), false),
        ("one", tail(), query().with(3, 0, b"x").bytes(), true),
        ("none behind an opt", tail(), opt.bytes(), false),
        ("one behind an opt", tail(), opt.clone().with(3, 0, b"x").bytes(), true),
        ("an opt that is not counted", tail(), query().with(3, 0, &edns::bare(1232, false)).bytes(), true),
        ("behind two questions", tail(), query().with(0, 1, &[WWW, b"\0\x01\0\x01x"].concat()).bytes(), true),
        ("two questions", tail(), query().with(0, 1, &[WWW, b"\0\x01\0\x01"].concat()).bytes(), false),
        ("a record that is missing", tail(), query().with(1, 1, b"").bytes(), false),
        ("a record that cannot be read", tail(), query().with(1, 1, b"\x80zz").bytes(), false),
        ("a record that is cut", tail(), opt.cut(1), false),
        ("a header alone", tail(), vec![0; 12], false),
        ("a header with a tail", tail(), vec![0; 13], true),
        ("less than a header", tail(), vec![0; 11], false),
    ]);
}

#[test]
fn sizes_are_compared() {
    use Comparison::{Equal, Greater, GreaterOrEqual, Smaller, SmallerOrEqual};
    let m = query().bytes();
    let size = m.len() as u16;
    for (comparison, below, same, above) in [
        (Equal, false, true, false),
        (Greater, true, false, false),
        (GreaterOrEqual, true, true, false),
        (Smaller, false, false, true),
        (SmallerOrEqual, false, true, true),
    ] {
        check(&[
            ("one less", Matcher::PayloadSize(comparison, size - 1), m.clone(), below),
            ("the same", Matcher::PayloadSize(comparison, size), m.clone(), same),
            ("one more", Matcher::PayloadSize(comparison, size + 1), m.clone(), above),
        ]);
    }
}

#[test]
fn protocol_and_addresses_match() {
    let m = query().bytes();
    let mut fixture = Fixture::default();
    assert!(fixture.ask(&Matcher::DstPort(53), &m));
    assert!(!fixture.ask(&Matcher::DstPort(4000), &m), "the client's port");
    for (protocol, stream) in [
        (Protocol::DoUdp, false),
        (Protocol::DoTcp, true),
        (Protocol::DnsCryptUdp, false),
        (Protocol::DnsCryptTcp, true),
        (Protocol::DoT, true),
        (Protocol::DoH, true),
        (Protocol::DoQ, true),
        (Protocol::DoH3, true),
    ] {
        fixture.query_state.protocol = protocol;
        assert!(fixture.ask(&Matcher::Protocol(protocol), &m));
        assert_eq!(fixture.ask(&Matcher::Protocol(Protocol::DoT), &m), protocol == Protocol::DoT);
        assert_eq!(fixture.ask(&Matcher::Tcp(true), &m), stream, "{protocol:?}");
        assert_eq!(fixture.ask(&Matcher::Tcp(false), &m), !stream, "{protocol:?}");
    }
}

#[test]
fn tags_match() {
    let m = query().bytes();
    let mut fixture = Fixture::default();
    let tag = |name: &str, value: Option<&str>| Matcher::Tag(name.into(), value.map(Into::into));
    assert!(!fixture.ask(&tag("x", None), &m));
    assert!(!fixture.ask(&tag("x", Some("")), &m));
    assert!(fixture.query_state.tags.set(b"x", b"1"));
    assert!(fixture.ask(&tag("x", None), &m));
    assert!(fixture.ask(&tag("x", Some("1")), &m));
    assert!(!fixture.ask(&tag("x", Some("")), &m));
    assert!(!fixture.ask(&tag("X", None), &m));
}

#[test]
fn rates_match() {
    let m = query().bytes();
    let mut fixture = Fixture::default();
    fixture.limits.adopt(&[
        StateSpec::rate(1, 3, 3),
        StateSpec::clients(2, DEADLINES_BYTES_MAX),
        StateSpec::timed(3, DEADLINES_BYTES_MAX),
    ]);
    let max = Matcher::MaxQps(Limit { state: 0, qps: 3, burst: 3 });
    let matched: Vec<bool> = (0..5).map(|_| fixture.ask(&max, &m)).collect();
    assert_eq!(matched, [true, true, true, false, false], "matches up to the rate");
    fixture.now = fixture.now + SECOND;
    assert!(fixture.ask(&max, &m));

    let by_client =
        Matcher::MaxQpsIp(ClientLimit { state: 1, qps: 3, burst: 5, v4: 24, v6: 64, expiration_s: 300 });
    let matched = |fixture: &mut Fixture| (0..7).map(|_| fixture.ask(&by_client, &m)).collect::<Vec<bool>>();
    assert_eq!(
        matched(&mut fixture),
        [false, false, false, false, false, true, true],
        "matches above the rate"
    );
    fixture.client = "192.0.2.8:4000";
    assert!(fixture.ask(&by_client, &m), "of the same network");
    fixture.client = "192.0.3.7:4000";
    assert!(!fixture.ask(&by_client, &m), "of another network");
    // A token's span is rounded up to whole nanoseconds: three take a little more than a second.
    fixture.now = fixture.now + SECOND + TickDelta(3);
    fixture.client = "192.0.2.7:4000";
    assert_eq!(matched(&mut fixture), [false, false, false, true, true, true, true]);

    let set = Matcher::TimedSet(TimedSet { state: 2 });
    assert!(!fixture.ask(&set, &m));
    fixture.limits.timed_add(2, &endpoint(fixture.client).ip, fixture.now + SECOND, fixture.now);
    assert!(fixture.ask(&set, &m));
    fixture.now = fixture.now + SECOND;
    assert!(!fixture.ask(&set, &m), "expired");
}

#[test]
fn probability_is_exact() {
    let m = query().bytes();
    let mut fixture = Fixture::default();
    let mut hits = |bound| (0..10_000).filter(|_| fixture.ask(&Matcher::Probability(bound), &m)).count();
    assert_eq!(hits(None), 10_000);
    assert_eq!(hits(Some(0)), 0);
    // 30 %: the seed is fixed, four standard deviations are 183.
    let some = hits(Some((0.3 * 4_294_967_296.0) as u32));
    assert!(some.abs_diff(3_000) < 183, "{some}");
}

#[test]
fn pools_match() {
    let m = query().bytes();
    let mut fixture = Fixture::default();
    let pool = |slot| PoolRef { name: "".into(), slot: PoolSlot(slot) };
    assert!(fixture.ask(&Matcher::PoolAvailable(pool(0)), &m));
    assert!(!fixture.ask(&Matcher::PoolAvailable(pool(7)), &m), "there is no such pool");
    assert!(!fixture.ask(&Matcher::PoolOutstanding(pool(0), 0), &m));
    for _ in 0..3 {
        fixture.balancer.claimed(BackendSlot(0));
    }
    fixture.balancer.publish();
    assert!(fixture.ask(&Matcher::PoolOutstanding(pool(0), 2), &m));
    assert!(!fixture.ask(&Matcher::PoolOutstanding(pool(0), 3), &m), "not above it");
    fixture.live_state.set_state(BackendSlot(0), State::Down);
    fixture.balancer.begin_batch(fixture.now, &fixture.snapshot);
    assert!(!fixture.ask(&Matcher::PoolAvailable(pool(0)), &m));
}

/// A script whose functions are numbers: 0 false, 1 true, any other an error.
#[derive(Debug)]
struct Numbers;

impl Script for Numbers {
    fn act(
        &mut self,
        _: FunctionId,
        _: &mut EvaluationContext<'_, '_>,
        _: &mut Environment<'_>,
    ) -> Option<ScriptAction> {
        None
    }

    fn argument(&self) -> &[u8] {
        b""
    }

    fn matches(
        &mut self,
        function: FunctionId,
        _: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<bool> {
        assert!(env.script.is_none(), "a function cannot call itself through a rule");
        [false, true].get(function.0 as usize).copied()
    }

    fn choose(
        &mut self,
        _: FunctionId,
        _: &[Candidate],
        _: &mut EvaluationContext<'_, '_>,
        _: Tick,
    ) -> Option<BackendSlot> {
        None
    }

    fn maintain(&mut self, _: Tick) {}

    fn errors(&self) -> u64 {
        0
    }
}

#[test]
fn script_matches() {
    let m = query().bytes();
    let mut fixture = Fixture::default();
    assert!(!fixture.ask(&Matcher::Lua(FunctionId(1)), &m), "no script");
    fixture.script = Some(Box::new(Numbers));
    for (function, said) in [(0, false), (1, true), (2, false)] {
        assert_eq!(fixture.ask(&Matcher::Lua(FunctionId(function)), &m), said);
    }
}

/// One of every kind, with random figures.
fn any_matcher() -> impl Strategy<Value = Matcher> {
    let pool = |slot: u8| PoolRef { name: "".into(), slot: PoolSlot(slot.into()) };
    let limit = |state| Limit { state, qps: 5, burst: 5 };
    let client_limit = |state, v4, v6| ClientLimit { state, qps: 5, burst: 5, v4, v6, expiration_s: 300 };
    let leaf = (0..36_u8, any::<u8>(), any::<u8>(), any::<u16>(), any::<u16>()).prop_map(
        move |(kind, a, b, c, d)| match kind {
            0 => Matcher::QName(Arc::from(&[a.min(63), b][..])),
            1 => Matcher::QNameSet(Names::default()),
            2 => Matcher::QNameSuffix(Names::default()),
            3 => Matcher::QType(c),
            4 => Matcher::QClass(c),
            5 => Matcher::Opcode(a),
            6 => Matcher::RCode(a),
            7 => Matcher::ERCode(c),
            8 => Matcher::Rd,
            9 => Matcher::Dnssec,
            10 => Matcher::EdnsVersion(a),
            11 => Matcher::EdnsOption(c),
            12 => Matcher::RecordsCount { section: a % 5, min: c, max: d },
            13 => Matcher::RecordsTypeCount { section: a % 5, rtype: c, min: 0, max: d },
            14 => Matcher::TrailingData,
            15 => Matcher::QNameLabels(c, d),
            16 => Matcher::QNameWireLength(c, d),
            17 => Matcher::PayloadSize(Comparison::SmallerOrEqual, c),
            18 => Matcher::Netmask { networks: Networks::default(), source: a > b },
            19 => Matcher::DstPort(c),
            20 => Matcher::Protocol(Protocol::DoQ),
            21 => Matcher::Tcp(a > b),
            22 => Matcher::Tag("t".into(), None),
            23 => Matcher::MaxQps(limit(u32::from(a))),
            24 => Matcher::MaxQpsIp(client_limit(u32::from(a % 4), a, b)),
            25 => Matcher::Probability(Some(u32::from(c) << 16)),
            26 => Matcher::PoolAvailable(pool(a)),
            27 => Matcher::PoolOutstanding(pool(a), u64::from(b)),
            28 => Matcher::TimedSet(TimedSet { state: u32::from(a % 4) }),
            29 => Matcher::Lua(FunctionId(u32::from(c))),
            _ => Matcher::All,
        },
    );
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| Matcher::And(list.into())),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| Matcher::Or(list.into())),
            inner.prop_map(|m| Matcher::Not(Arc::new(m))),
        ]
    })
}

/// Random bytes, and messages that are almost valid.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let almost = (any::<[u16; 4]>(), prop::collection::vec(any::<u8>(), 0..80), 0..60_usize).prop_map(
        |(counts, body, cut)| {
            let mut message = query().opt(1, 1, b"\0\x03\0\0");
            message.counts = counts.map(|n| n % 4);
            message.body.extend(body);
            message.cut(cut)
        },
    );
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), almost]
}

proptest! {
    #[test]
    fn any_bytes_are_handled(matcher in any_matcher(), message in any_message(), now in 0..1_u64 << 62) {
        let mut fixture = Fixture { now: Tick(now), script: Some(Box::new(Numbers)), ..Fixture::default() };
        let clients = StateSpec::clients(2, DEADLINES_BYTES_MAX);
        let timed = StateSpec::timed(3, DEADLINES_BYTES_MAX);
        fixture.limits.adopt(&[StateSpec::rate(1, 5, 5), clients, timed]);
        let not = Matcher::Not(Arc::new(matcher.clone()));
        // The same fixture again, because limits count and the random state advances.
        let matched = fixture.ask(&matcher, &message);
        let mut again = Fixture { now: Tick(now), script: Some(Box::new(Numbers)), ..Fixture::default() };
        again.limits.adopt(&[StateSpec::rate(1, 5, 5), StateSpec::clients(2, DEADLINES_BYTES_MAX), StateSpec::timed(3, DEADLINES_BYTES_MAX)]);
        prop_assert_eq!(again.ask(&not, &message), !matched);
    }
}
