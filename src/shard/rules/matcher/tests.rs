use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot};
use crate::config::snapshot::Snapshot;
use crate::live::{Board, State};
use crate::packet::Packet;
use crate::rng::ShardRng;
use crate::shard::case::Case;
use crate::shard::policy::tests::{backend, snapshot};
use crate::shard::policy::{Kind, Policy, Selector};
use crate::shard::rules::limits::{Limits, StateKind, StateSpec};
use crate::shard::rules::pattern::PatternCache;
use crate::shard::rules::scene::Facts;
use crate::shard::script::{Candidate, Said, Script};
use crate::time::{Tick, TickDelta};
use crate::wire::edns;

const SECOND: TickDelta = TickDelta::from_ms(1_000);

/// One shard without sockets, in which matchers are asked.
struct Room {
    now: Tick,
    snapshot: Snapshot,
    limits: Limits,
    rng: ShardRng,
    board: Arc<Board>,
    farm: Selector,
    script: Option<Box<dyn Script>>,
    case: Case,
    client: &'static str,
    local: &'static str,
}

impl Default for Room {
    /// Two servers, one of them up.
    fn default() -> Self {
        let board = Arc::new(Board::new(1, 64));
        board.set_state(BackendSlot(0), State::Up);
        let snapshot = snapshot(Policy::new(Kind::RoundRobin), &[backend(0), backend(1)]);
        let mut farm = Selector::new(Arc::clone(&board), 0);
        farm.begin_batch(Tick(0), &snapshot);
        Self {
            now: Tick(1_000_000_000),
            snapshot,
            limits: Limits::default(),
            rng: ShardRng::from_seed(1),
            board,
            farm,
            script: None,
            case: Case::default(),
            client: "192.0.2.7:4000",
            local: "198.51.100.1:53",
        }
    }
}

fn endpoint(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().expect("an address").into()
}

impl Room {
    fn ask(&mut self, matcher: &Matcher, message: &[u8]) -> bool {
        let mut octets = message.to_vec();
        let mut packet = Packet::new(&mut octets, 0, message.len());
        let peer = endpoint(self.client);
        let mut scene = Scene {
            facts: Facts::of(message),
            packet: &mut packet,
            case: &mut self.case,
            client: Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, stream: None },
            local: endpoint(self.local),
            answered: None,
        };
        let mut env = Env {
            now: self.now,
            snapshot: &self.snapshot,
            limits: &mut self.limits,
            rng: &mut self.rng,
            farm: &self.farm,
            script: self.script.as_deref_mut(),
            patterns: &mut PatternCache::default(),
        };
        let matched = matcher.matches(&mut scene, &mut env);
        assert_eq!(env.script.is_some(), self.script.is_some(), "the script is back in the room");
        matched
    }
}

/// Octets of a message, by its parts.
#[derive(Clone)]
struct Message {
    flags: u16,
    counts: [u16; 4],
    qname: &'static [u8],
    body: Vec<u8>,
}

const WWW: &[u8] = b"\x03wWw\x07example\x03org\x00";

/// A query for the A records of www.example.org, RD set.
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

    /// Octets behind the question, `n` of them counted in a section.
    fn with(mut self, section: usize, n: u16, octets: &[u8]) -> Self {
        self.counts[section] += n;
        self.body.extend(octets);
        self
    }

    fn opt(self, extended: u8, version: u8, options: &[u8]) -> Self {
        let mut record = edns::bare(1232, false).to_vec();
        (record[5], record[6], record[10]) = (extended, version, options.len() as u8);
        record.extend(options);
        self.with(3, 1, &record)
    }

    fn octets(&self) -> Vec<u8> {
        let mut octets = vec![0x12, 0x34];
        octets.extend(self.flags.to_be_bytes());
        self.counts.iter().for_each(|n| octets.extend(n.to_be_bytes()));
        octets.extend(self.qname);
        octets.extend(b"\0\x01\0\x01");
        octets.extend(&self.body);
        octets
    }

    fn cut(&self, octets: usize) -> Vec<u8> {
        let mut message = self.octets();
        message.truncate(message.len().saturating_sub(octets));
        message
    }
}

/// An A record that points to the question's name.
const A: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01";
const NS: &[u8] = b"\xc0\x0c\0\x02\0\x01\0\0\0\x3c\0\x02\xc0\x0c";
/// A header that promises a question.
const NO_QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0";

fn check(table: &[(&str, Matcher, Vec<u8>, bool)]) {
    for (what, matcher, message, expected) in table {
        assert_eq!(Room::default().ask(matcher, message), *expected, "{what}: {matcher:?} of {message:02x?}");
        let not = Matcher::Not(Arc::new(matcher.clone()));
        assert_eq!(Room::default().ask(&not, message), !*expected, "not: {what}");
    }
}

#[test]
fn junctions_ask_up_to_the_first_that_decides() {
    let (yes, no) = (|| Matcher::All, || Matcher::Not(Arc::new(Matcher::All)));
    let m = query().octets();
    check(&[
        ("all", yes(), m.clone(), true),
        ("and", Matcher::And([yes(), yes()].into()), m.clone(), true),
        ("and with a no", Matcher::And([yes(), no()].into()), m.clone(), false),
        ("and of none", Matcher::And([].into()), m.clone(), true),
        ("or", Matcher::Or([no(), yes()].into()), m.clone(), true),
        ("or without a yes", Matcher::Or([no(), no()].into()), m.clone(), false),
        ("or of none", Matcher::Or([].into()), m, false),
    ]);
    // What a limit lets pass is counted only where it was asked.
    let mut room = Room::default();
    room.limits.adopt(&[StateSpec::rate(1, 1, 1)]);
    let limit = || Matcher::MaxQps(Limit { state: 0, qps: 1, burst: 1 });
    let m = query().octets();
    assert!(!room.ask(&Matcher::And([no(), limit()].into()), &m));
    assert!(room.ask(&Matcher::Or([yes(), limit()].into()), &m));
    assert!(room.ask(&limit(), &m), "nobody has taken the one token yet");
    assert!(!room.ask(&limit(), &m));
}

#[test]
fn questions_are_told_apart() {
    let www = || Matcher::QName(Arc::from(&b"\x03www\x07EXAMPLE\x03org\x00"[..]));
    let m = query().octets();
    check(&[
        ("letter case", www(), m.clone(), true),
        ("another name", www(), query().name(b"\x02ww\x07example\x03org\x00").octets(), false),
        ("below it", www(), query().name(b"\x01a\x03www\x07example\x03org\x00").octets(), false),
        ("no question", www(), NO_QUESTION.to_vec(), false),
        ("type", Matcher::QType(1), m.clone(), true),
        ("another type", Matcher::QType(28), m.clone(), false),
        ("no question's type", Matcher::QType(1), NO_QUESTION.to_vec(), false),
        ("class", Matcher::QClass(1), m.clone(), true),
        ("another class", Matcher::QClass(3), m.clone(), false),
        ("as many labels", Matcher::QNameLabels(3, 3), m.clone(), false),
        ("fewer labels", Matcher::QNameLabels(4, 9), m.clone(), true),
        ("more labels", Matcher::QNameLabels(0, 2), m.clone(), true),
        ("the root's labels", Matcher::QNameLabels(0, 0), query().name(b"\0").octets(), false),
        ("as long", Matcher::QNameWireLength(17, 17), m.clone(), false),
        ("shorter", Matcher::QNameWireLength(18, 99), m.clone(), true),
        ("longer", Matcher::QNameWireLength(1, 16), m, true),
        ("the root's length", Matcher::QNameWireLength(1, 1), query().name(b"\0").octets(), false),
    ]);
}

#[test]
fn the_header_is_read() {
    let m = query().octets();
    let short = m[..11].to_vec();
    check(&[
        ("query", Matcher::Opcode(0), m.clone(), true),
        ("notify", Matcher::Opcode(4), query().flags(4 << 11).octets(), true),
        ("not notify", Matcher::Opcode(4), m.clone(), false),
        ("all opcode bits", Matcher::Opcode(15), query().flags(0xffff).octets(), true),
        ("opcode of nothing", Matcher::Opcode(0), short.clone(), false),
        ("noerror", Matcher::RCode(0), m.clone(), true),
        ("nxdomain", Matcher::RCode(3), query().flags(0x8183).octets(), true),
        ("not nxdomain", Matcher::RCode(3), query().flags(0x8180).octets(), false),
        ("rcode without its extension", Matcher::RCode(0), query().opt(1, 0, b"").octets(), true),
        ("rcode of nothing", Matcher::RCode(0), short.clone(), false),
        ("rd", Matcher::Rd, m, true),
        ("no rd", Matcher::Rd, query().flags(0xfeff).octets(), false),
        ("rd of nothing", Matcher::Rd, short, false),
    ]);
}

#[test]
fn edns_is_read() {
    let dnssec_ok = query().with(3, 1, &edns::bare(1232, true));
    let plain = query().opt(0, 0, b"");
    // Options: 10 with two octets, 3 with none.
    let options = query().opt(0, 0, b"\0\x0a\0\x02ab\0\x03\0\0");
    check(&[
        ("do", Matcher::Dnssec, dnssec_ok.octets(), true),
        (
            "do behind records",
            Matcher::Dnssec,
            query().with(1, 1, A).with(3, 1, &edns::bare(0, true)).octets(),
            true,
        ),
        ("no do", Matcher::Dnssec, plain.octets(), false),
        ("do without edns", Matcher::Dnssec, query().octets(), false),
        ("do of a cut opt", Matcher::Dnssec, dnssec_ok.cut(1), false),
        ("do of no question", Matcher::Dnssec, NO_QUESTION.to_vec(), false),
        ("version above", Matcher::EdnsVersion(0), query().opt(0, 1, b"").octets(), true),
        ("version itself", Matcher::EdnsVersion(1), query().opt(0, 1, b"").octets(), false),
        ("version without edns", Matcher::EdnsVersion(0), query().octets(), false),
        ("first option", Matcher::EdnsOption(10), options.octets(), true),
        ("second option", Matcher::EdnsOption(3), options.octets(), true),
        ("option that is not there", Matcher::EdnsOption(8), options.octets(), false),
        ("no option", Matcher::EdnsOption(3), plain.octets(), false),
        ("option without edns", Matcher::EdnsOption(3), query().octets(), false),
        ("option of a cut opt", Matcher::EdnsOption(10), options.cut(1), false),
        (
            "option longer than the record",
            Matcher::EdnsOption(3),
            query().opt(0, 0, b"\0\x03\0\x05x").octets(),
            false,
        ),
        (
            "option behind one that is too long",
            Matcher::EdnsOption(3),
            query().opt(0, 0, b"\0\x0a\0\x09\0\x03\0\0").octets(),
            false,
        ),
        ("half an option", Matcher::EdnsOption(3), query().opt(0, 0, b"\0\x03").octets(), false),
        ("extended code", Matcher::ERCode(16), query().opt(1, 0, b"").octets(), true),
        ("both parts", Matcher::ERCode(23), query().flags(0x8187).opt(1, 0, b"").octets(), true),
        ("low part alone", Matcher::ERCode(16), query().flags(0x8180).octets(), false),
        ("without edns", Matcher::ERCode(3), query().flags(0x8183).octets(), true),
        ("another extension", Matcher::ERCode(3), query().flags(0x8183).opt(1, 0, b"").octets(), false),
        ("code of nothing", Matcher::ERCode(0), vec![0; 11], false),
    ]);
}

#[test]
fn records_are_counted() {
    let count = |section, min, max| Matcher::RecordsCount { section, min, max };
    let of = |section, rtype, min, max| Matcher::RecordsTypeCount { section, rtype, min, max };
    let two = || query().with(1, 2, &[A, A].concat()).with(2, 1, NS).opt(0, 0, b"");
    check(&[
        ("questions", count(0, 1, 1), two().octets(), true),
        ("answers", count(1, 1, 2), two().octets(), true),
        ("too few", count(1, 3, 9), two().octets(), false),
        ("too many", count(1, 0, 1), two().octets(), false),
        ("additional", count(3, 1, 1), two().octets(), true),
        ("as the header says", count(3, 9, 9), query().with(3, 9, b"").octets(), true),
        ("no such section", count(4, 0, 9), two().octets(), false),
        ("of nothing", count(0, 0, 9), vec![0; 5], false),
        ("the question's type", of(0, 1, 1, 1), two().octets(), true),
        ("answers of a type", of(1, 1, 2, 2), two().octets(), true),
        ("of another type", of(1, 2, 1, 9), two().octets(), false),
        ("only of that section", of(1, 2, 0, 0), two().octets(), true),
        ("authority", of(2, 2, 1, 1), two().octets(), true),
        ("opt", of(3, 41, 1, 1), two().octets(), true),
        ("no opt", of(3, 41, 1, 1), query().octets(), false),
        ("none wanted", of(3, 41, 0, 0), query().octets(), true),
        (
            "up to what cannot be read",
            of(1, 1, 1, 1),
            query().with(1, 2, &[A, b"\x80"].concat()).octets(),
            true,
        ),
        ("not one that runs out of the message", of(1, 1, 0, 0), query().with(1, 1, A).cut(1), true),
        ("a forged count", of(3, 41, 0, 0), query().with(1, u16::MAX, A).octets(), true),
    ]);
}

#[test]
fn octets_behind_the_message_are_seen() {
    let tail = || Matcher::TrailingData;
    let opt = query().opt(0, 0, b"");
    check(&[
        ("none", tail(), query().octets(), false),
        ("one", tail(), query().with(3, 0, b"x").octets(), true),
        ("none behind an opt", tail(), opt.octets(), false),
        ("one behind an opt", tail(), opt.clone().with(3, 0, b"x").octets(), true),
        ("an opt that is not counted", tail(), query().with(3, 0, &edns::bare(1232, false)).octets(), true),
        (
            "behind two questions",
            tail(),
            query().with(0, 1, &[WWW, b"\0\x01\0\x01x"].concat()).octets(),
            true,
        ),
        ("two questions", tail(), query().with(0, 1, &[WWW, b"\0\x01\0\x01"].concat()).octets(), false),
        ("a record that is missing", tail(), query().with(1, 1, b"").octets(), false),
        ("a record that cannot be read", tail(), query().with(1, 1, b"\x80zz").octets(), false),
        ("a record that is cut", tail(), opt.cut(1), false),
        ("a header alone", tail(), vec![0; 12], false),
        ("a header with a tail", tail(), vec![0; 13], true),
        ("less than a header", tail(), vec![0; 11], false),
    ]);
}

#[test]
fn sizes_are_compared() {
    use Comparison::{Equal, Greater, GreaterOrEqual, Smaller, SmallerOrEqual};
    let m = query().octets();
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
fn the_way_it_came_is_seen() {
    let m = query().octets();
    let mut room = Room::default();
    assert!(room.ask(&Matcher::DstPort(53), &m));
    assert!(!room.ask(&Matcher::DstPort(4000), &m), "that is the client's");
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
        room.case.protocol = protocol;
        assert!(room.ask(&Matcher::Protocol(protocol), &m));
        assert_eq!(room.ask(&Matcher::Protocol(Protocol::DoT), &m), protocol == Protocol::DoT);
        assert_eq!(room.ask(&Matcher::Tcp(true), &m), stream, "{protocol:?}");
        assert_eq!(room.ask(&Matcher::Tcp(false), &m), !stream, "{protocol:?}");
    }
}

#[test]
fn tags_are_seen() {
    let m = query().octets();
    let mut room = Room::default();
    let tag = |name: &str, value: Option<&str>| Matcher::Tag(name.into(), value.map(Into::into));
    assert!(!room.ask(&tag("x", None), &m));
    assert!(!room.ask(&tag("x", Some("")), &m));
    assert!(room.case.tags.set(b"x", b"1"));
    assert!(room.ask(&tag("x", None), &m));
    assert!(room.ask(&tag("x", Some("1")), &m));
    assert!(!room.ask(&tag("x", Some("")), &m));
    assert!(!room.ask(&tag("X", None), &m));
}

#[test]
fn rates_are_kept() {
    let m = query().octets();
    let mut room = Room::default();
    room.limits.adopt(&[
        StateSpec::rate(1, 3, 3),
        StateSpec { identity: 2, kind: StateKind::Clients },
        StateSpec { identity: 3, kind: StateKind::Timed },
    ]);
    let max = Matcher::MaxQps(Limit { state: 0, qps: 3, burst: 3 });
    let matched: Vec<bool> = (0..5).map(|_| room.ask(&max, &m)).collect();
    assert_eq!(matched, [true, true, true, false, false], "matches up to the rate");
    room.now = room.now + SECOND;
    assert!(room.ask(&max, &m));

    let by_client =
        Matcher::MaxQpsIp(ClientLimit { state: 1, qps: 3, burst: 5, v4: 24, v6: 64, expiration_s: 300 });
    let matched = |room: &mut Room| (0..7).map(|_| room.ask(&by_client, &m)).collect::<Vec<bool>>();
    assert_eq!(matched(&mut room), [false, false, false, false, false, true, true], "matches above the rate");
    room.client = "192.0.2.8:4000";
    assert!(room.ask(&by_client, &m), "of the same network");
    room.client = "192.0.3.7:4000";
    assert!(!room.ask(&by_client, &m), "of another network");
    // A token's span is rounded up to whole nanoseconds: three take a little more than a second.
    room.now = room.now + SECOND + TickDelta(3);
    room.client = "192.0.2.7:4000";
    assert_eq!(matched(&mut room), [false, false, false, true, true, true, true]);

    let set = Matcher::TimedSet(TimedSet { state: 2 });
    assert!(!room.ask(&set, &m));
    room.limits.timed_add(2, &endpoint(room.client).ip, room.now + SECOND, room.now);
    assert!(room.ask(&set, &m));
    room.now = room.now + SECOND;
    assert!(!room.ask(&set, &m), "its time is over");
}

#[test]
fn chance_is_fair() {
    let m = query().octets();
    let mut room = Room::default();
    let mut hits = |bound| (0..10_000).filter(|_| room.ask(&Matcher::Probability(bound), &m)).count();
    assert_eq!(hits(None), 10_000);
    assert_eq!(hits(Some(0)), 0);
    // 30 %: the seed is fixed, four standard deviations are 183.
    let some = hits(Some((0.3 * 4_294_967_296.0) as u32));
    assert!(some.abs_diff(3_000) < 183, "{some}");
}

#[test]
fn the_farm_is_seen() {
    let m = query().octets();
    let mut room = Room::default();
    let pool = |slot| PoolRef { name: "".into(), slot: PoolSlot(slot) };
    assert!(room.ask(&Matcher::PoolAvailable(pool(0)), &m));
    assert!(!room.ask(&Matcher::PoolAvailable(pool(7)), &m), "there is no such pool");
    assert!(!room.ask(&Matcher::PoolOutstanding(pool(0), 0), &m));
    for _ in 0..3 {
        room.farm.claimed(BackendSlot(0));
    }
    room.farm.publish();
    assert!(room.ask(&Matcher::PoolOutstanding(pool(0), 2), &m));
    assert!(!room.ask(&Matcher::PoolOutstanding(pool(0), 3), &m), "not above it");
    room.board.set_state(BackendSlot(0), State::Down);
    room.farm.begin_batch(room.now, &room.snapshot);
    assert!(!room.ask(&Matcher::PoolAvailable(pool(0)), &m));
}

/// A script whose functions have numbers: 0 no, 1 yes, any other an error.
#[derive(Debug)]
struct Numbers;

impl Script for Numbers {
    fn act(&mut self, _: FunctionId, _: &mut Scene<'_, '_>, _: &mut Env<'_>) -> Option<Said> {
        None
    }

    fn argument(&self) -> &[u8] {
        b""
    }

    fn matches(&mut self, function: FunctionId, _: &mut Scene<'_, '_>, env: &mut Env<'_>) -> Option<bool> {
        assert!(env.script.is_none(), "a function cannot call itself through a rule");
        [false, true].get(function.0 as usize).copied()
    }

    fn choose(
        &mut self,
        _: FunctionId,
        _: &[Candidate],
        _: &mut Scene<'_, '_>,
        _: Tick,
        _: &Snapshot,
    ) -> Option<usize> {
        None
    }

    fn maintain(&mut self, _: Tick) {}

    fn errors(&self) -> u64 {
        0
    }
}

#[test]
fn a_script_is_asked() {
    let m = query().octets();
    let mut room = Room::default();
    assert!(!room.ask(&Matcher::Lua(FunctionId(1)), &m), "no script");
    room.script = Some(Box::new(Numbers));
    for (function, said) in [(0, false), (1, true), (2, false)] {
        assert_eq!(room.ask(&Matcher::Lua(FunctionId(function)), &m), said);
    }
}

/// One of every kind, with figures by chance.
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

/// Octets without any sense, and messages that are almost right.
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
    fn any_octets_are_survived(matcher in any_matcher(), message in any_message(), now in 0..1_u64 << 62) {
        let mut room = Room { now: Tick(now), script: Some(Box::new(Numbers)), ..Room::default() };
        let clients = StateSpec { identity: 2, kind: StateKind::Clients };
        let timed = StateSpec { identity: 3, kind: StateKind::Timed };
        room.limits.adopt(&[StateSpec::rate(1, 5, 5), clients, timed]);
        let not = Matcher::Not(Arc::new(matcher.clone()));
        // The same room again, since limits count and chance moves on.
        let matched = room.ask(&matcher, &message);
        let mut again = Room { now: Tick(now), script: Some(Box::new(Numbers)), ..Room::default() };
        again.limits.adopt(&[StateSpec::rate(1, 5, 5), StateSpec { identity: 2, kind: StateKind::Clients }, StateSpec { identity: 3, kind: StateKind::Timed }]);
        prop_assert_eq!(again.ask(&not, &message), !matched);
    }
}
