//! Arbitrary bytes as rules and packets: the first bytes become nested selectors and actions of
//! every kind, which are compiled; the others become queries, answers and time. Every packet has
//! one outcome, and nothing is outstanding at the end.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dnslob::base::addr::{
    BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PoolRef, PoolSlot, Route, RuleSlot,
};
use dnslob::base::packet::Packet;
use dnslob::base::prefix::{Prefix, PrefixSet};
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::model::{Backend, Globals, Health, HealthMode, Pool, Retry, Snapshot};
use dnslob::rules::action::{Action, Addresses, ExtendedError, NegativeSoa, RawRecords, ResponseAction, Tee};
use dnslob::rules::limits::{ClientLimit, Limit, StateSpec, TimedSet};
use dnslob::rules::matcher::{Comparison, Matcher};
use dnslob::rules::names::Names;
use dnslob::rules::networks::Networks;
use dnslob::rules::pattern::Pattern;
use dnslob::rules::query_state::Protocol;
use dnslob::rules::{Chain, Chains, Rule};
use dnslob::shard::Shard;
use dnslob::shard::verdict::Verdict;
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::live::{LiveState, ShardStats, State};
use dnslob::stats::log_queue::LogTarget;
use dnslob::wire::answer::{Flags, SvcParams, SvcRecord};

const TIMEOUT: TickDelta = TickDelta::from_ms(100);
/// The server that receives copies.
const TEE: BackendSlot = BackendSlot(2);
/// Rules per chain, and the nesting depth of selectors.
const RULES_MAX: usize = 12;
/// Of a table of clients: small, so that entries are replaced.
const TABLE_BYTES: usize = 4096;
const DEPTH_MAX: usize = 5;
const EVENTS_MAX: usize = 400;
/// The size of a packet buffer, as in the engines; smaller ones must work, too.
const ROOMS: [usize; 4] = [4096, 4096, 600, 0];

pub(crate) fn target(data: &[u8]) {
    let mut input = Input { data, at: 0, states: Vec::new(), slots: 0 };
    let snapshot = Arc::new(snapshot(&mut input));
    let live_state = Arc::new(LiveState::new(1, 3));
    (0..3).for_each(|slot| live_state.set_state(BackendSlot(slot), State::Up));
    let shard =
        Shard::new(0, live_state.clone(), snapshot.clone(), ShardRng::from_seed(u64::from(input.byte())));
    let mut harness = Harness { shard, snapshot, now: Tick(1_000_000), asked: Vec::new(), answered: 0 };
    harness.tick(0);
    for _ in 0..EVENTS_MAX {
        if input.at >= data.len() {
            break;
        }
        harness.step(&mut input);
    }
    // Each restart takes a timeout, and a delay at most a second.
    for _ in 0..40 {
        harness.tick(150);
    }
    assert_eq!(harness.shard.outstanding(), 0, "everything has an end");
    harness.account(&live_state.shards()[0]);
}

struct Harness {
    shard: Shard,
    snapshot: Arc<Snapshot>,
    now: Tick,
    asked: Vec<(Route, Vec<u8>)>,
    /// Packets to clients.
    answered: u64,
}

impl Harness {
    fn tick(&mut self, ms: u64) {
        self.now = self.now + TickDelta::from_ms(ms);
        self.shard.begin_batch(self.now, &self.snapshot);
        let (asked, answered) = (&mut self.asked, &mut self.answered);
        self.shard.on_tick(&mut |verdict, bytes| match verdict {
            Verdict::Forward(route) => asked.push((route, bytes.to_vec())),
            Verdict::Answer(_) | Verdict::Deliver(_) => *answered += 1,
            Verdict::Drop(_) | Verdict::Hold => panic!("a tick only sends, not {verdict:?}"),
        });
        self.shard.check_invariants();
    }

    /// Checks that every query was answered once or dropped for one reason.
    fn account(&self, stats: &ShardStats) {
        let about_another = |r: &DropReason| {
            *r != DropReason::ResponseRule
                && ["response-", "tee-", "log-"].iter().any(|p| r.label().starts_with(p))
        };
        let ends = DropReason::ALL.into_iter().filter(|r| !about_another(r));
        let dropped: u64 = ends.map(|r| stats.dropped(r).get()).sum();
        let answered = stats.responses.get() + stats.self_answered.get();
        assert_eq!(answered, self.answered, "answers are counted as sent");
        assert_eq!(stats.queries.get(), answered + dropped, "every query has one end");
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0..=3 => self.query(input),
            4..=6 => self.response(input),
            _ => self.tick(u64::from(input.byte()) / 4),
        }
        self.shard.check_invariants();
    }

    fn query(&mut self, input: &mut Input<'_>) {
        let bytes = match input.byte() % 4 {
            0 => input.bytes(64),
            _ => input.query(),
        };
        let client = input.client();
        let (verdict, out) = packet(&bytes, input.pick(ROOMS.len()), |p| self.shard.on_query(client, p));
        match verdict {
            Verdict::Answer(to) => {
                assert_eq!(to, client, "our own answer goes to who asked");
                assert_eq!(out[..2], bytes[..2], "under its id");
                assert!(out[2] & 0x80 != 0);
                self.answered += 1;
            }
            Verdict::Forward(route) => self.asked.push((route, out)),
            Verdict::Drop(_) | Verdict::Hold => {}
            Verdict::Deliver(to) => panic!("a query was delivered to {to:?}"),
        }
    }

    fn response(&mut self, input: &mut Input<'_>) {
        let Some((route, mut bytes)) = self.asked.get(input.pick(self.asked.len())).cloned() else { return };
        if let Some(flags) = bytes.get_mut(2) {
            *flags |= 0x80;
        }
        match input.byte() % 8 {
            0 => bytes.extend(input.bytes(200)),
            1 => {
                let (at, with) = (input.pick(bytes.len()), input.byte());
                bytes[at] ^= with;
            }
            2 => bytes.truncate(input.pick(bytes.len())),
            3 => bytes[3] |= input.byte() & 15,
            4 => {
                bytes[7] = input.byte() % 3;
                bytes.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04");
            }
            _ => {}
        }
        let (verdict, out) = packet(&bytes, input.pick(ROOMS.len()), |p| self.shard.on_response(route, p));
        match verdict {
            Verdict::Forward(route) => self.asked.push((route, out)),
            Verdict::Answer(_) | Verdict::Deliver(_) => self.answered += 1,
            Verdict::Drop(_) | Verdict::Hold => {}
        }
    }
}

fn packet(bytes: &[u8], room: usize, call: impl FnOnce(&mut Packet<'_>) -> Verdict) -> (Verdict, Vec<u8>) {
    let mut buffer = bytes.to_vec();
    buffer.resize(bytes.len().max(ROOMS[room]), 0xee);
    let mut packet = Packet::new(&mut buffer, 0, bytes.len());
    let verdict = call(&mut packet);
    (verdict, packet.bytes().to_vec())
}

/// The input, read byte by byte, followed by zeros.
struct Input<'d> {
    data: &'d [u8],
    at: usize,
    /// The number of limiters in the rules so far.
    states: Vec<StateSpec>,
    slots: u32,
}

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.data.get(self.at - 1).copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Returns a number below `count`.
    fn pick(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    /// Returns up to `most` bytes of the input.
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.pick(most + 1);
        (0..count).map(|_| self.byte()).collect()
    }

    /// Returns a name of few labels and letters, so that rules match queries.
    fn name(&mut self) -> Vec<u8> {
        let mut name = Vec::new();
        for _ in 0..self.pick(5) {
            let letter = b"abcABC-0"[self.pick(8)];
            let length = [1, 1, 2, 63][self.pick(4)];
            name.push(length);
            name.extend(vec![letter; usize::from(length)]);
        }
        name.push(0);
        name
    }

    fn qtype(&mut self) -> u16 {
        [1, 28, 255, 16, 65, 41][self.pick(6)]
    }

    fn client(&mut self) -> Client {
        let ip: std::net::IpAddr = match self.pick(3) {
            0 => Ipv4Addr::new(127, 0, 0, self.byte()).into(),
            1 => Ipv4Addr::new(10, self.byte(), 0, 1).into(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, self.word(), 0, 0, 0, 0, 1).into(),
        };
        let peer = Endpoint::from(std::net::SocketAddr::new(ip, 4000));
        Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None }
    }

    /// Returns a valid query, with or without EDNS and trailing bytes.
    fn query(&mut self) -> Vec<u8> {
        let mut bytes = vec![self.byte(), self.byte(), self.byte() & 0x79, self.byte() & 0x30];
        let edns = self.pick(3);
        bytes.extend([0, 1, 0, 0, 0, 0, 0, u8::from(edns > 0)]);
        bytes.extend(self.name());
        bytes.extend(self.qtype().to_be_bytes());
        bytes.extend([0, if self.pick(8) == 0 { 3 } else { 1 }]);
        match edns {
            1 => bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, self.byte() & 0x80, 0, 0, 0]),
            2 => bytes.extend(b"\0\0\x29\x10\0\0\0\0\0\0\x0b\0\x08\0\x07\0\x01\x18\0\xc0\0\x02"),
            _ => {}
        }
        if self.pick(8) == 0 {
            bytes.extend(self.bytes(9));
        }
        bytes
    }

    /// Adds the limiter that is made of its identity, its number.
    fn state(&mut self, spec: impl FnOnce(u64) -> StateSpec) -> u32 {
        let state = self.states.len() as u32;
        self.states.push(spec(state.into()));
        state
    }

    fn limit(&mut self) -> Limit {
        let (qps, burst) = (u32::from(self.byte()), u32::from(self.byte()));
        Limit { state: self.state(|identity| StateSpec::rate(identity, qps, burst)), qps, burst }
    }

    fn pool(&mut self) -> PoolRef {
        // The last one is invalid.
        let slot = [PoolSlot(0), PoolSlot(1), PoolSlot(2), PoolSlot::NONE][self.pick(4)];
        PoolRef { name: "p".into(), slot }
    }

    fn names(&mut self) -> Names {
        let names: Vec<Vec<u8>> = (0..self.pick(4)).map(|_| self.name().to_ascii_lowercase()).collect();
        let set = Names::default();
        set.fill(names.into_iter().collect());
        set
    }

    fn matcher(&mut self, depth: usize) -> Matcher {
        let nested = |input: &mut Self| -> Vec<Matcher> {
            (0..input.pick(4)).map(|_| input.matcher(depth + 1)).collect()
        };
        match self.pick(if depth < DEPTH_MAX { 34 } else { 31 }) {
            0 => Matcher::All,
            1 => Matcher::QName(self.name().into()),
            2 => Matcher::QNameSet(self.names()),
            3 | 4 => Matcher::QNameSuffix(self.names()),
            5 => Matcher::Regex(self.pattern()),
            6 => Matcher::QType(self.qtype()),
            7 => Matcher::QClass(self.byte().into()),
            8 => Matcher::Opcode(self.byte() & 15),
            9 => Matcher::RCode(self.byte() & 15),
            10 => Matcher::ERCode(self.word() & 0xfff),
            11 => Matcher::Rd,
            12 => Matcher::Dnssec,
            13 => Matcher::EdnsVersion(self.byte()),
            14 => Matcher::EdnsOption(self.byte().into()),
            15 => {
                Matcher::RecordsCount { section: self.byte() & 3, min: self.byte().into(), max: self.word() }
            }
            16 => Matcher::RecordsTypeCount {
                section: self.byte() & 3,
                rtype: self.qtype(),
                min: self.byte().into(),
                max: self.word(),
            },
            17 => Matcher::TrailingData,
            18 => Matcher::QNameLabels(self.byte().into(), self.byte().into()),
            19 => Matcher::QNameWireLength(self.byte().into(), self.byte().into()),
            20 => {
                let comparison = [
                    Comparison::Equal,
                    Comparison::Greater,
                    Comparison::GreaterOrEqual,
                    Comparison::Smaller,
                    Comparison::SmallerOrEqual,
                ][self.pick(5)];
                Matcher::PayloadSize(comparison, self.byte().into())
            }
            21 => Matcher::Netmask { networks: self.networks(), source: self.bit() },
            22 => Matcher::DstPort(self.word()),
            23 => Matcher::Protocol([Protocol::DoUdp, Protocol::DoTcp, Protocol::DoH][self.pick(3)]),
            24 => Matcher::Tcp(self.bit()),
            25 => Matcher::Tag("t".into(), self.bit().then(|| "x".into())),
            26 => Matcher::MaxQps(self.limit()),
            27 => {
                let (qps, burst) = (u32::from(self.byte()), u32::from(self.byte()));
                let state = self.state(|identity| StateSpec::clients(identity, TABLE_BYTES));
                let (v4, v6) = (self.byte(), self.byte());
                Matcher::MaxQpsIp(ClientLimit { state, qps, burst, v4, v6, expiration_s: self.byte().into() })
            }
            28 => Matcher::Probability(self.bit().then(|| u32::from(self.word()) << 16)),
            29 => match self.bit() {
                true => Matcher::PoolAvailable(self.pool()),
                false => Matcher::PoolOutstanding(self.pool(), self.byte().into()),
            },
            30 => Matcher::TimedSet(TimedSet {
                state: self.state(|identity| StateSpec::timed(identity, TABLE_BYTES)),
            }),
            31 => Matcher::Not(Arc::new(self.matcher(depth + 1))),
            32 => Matcher::And(nested(self).into()),
            _ => Matcher::Or(nested(self).into()),
        }
    }

    fn pattern(&mut self) -> Pattern {
        let text = ["^a", "a.*b$", "(ab|c)+", "[[:alpha:]]{2}", "", ".*"][self.pick(6)];
        Pattern::new(text, self.bit()).expect("an expression")
    }

    fn networks(&mut self) -> Networks {
        let texts = ["127.0.0.0/8", "10.0.0.0/9", "2001:db8::/33", "0.0.0.0/0", "::/0"];
        let networks: Vec<(Prefix, bool)> = (0..self.pick(4))
            .map(|_| (texts[self.pick(5)].parse().expect("a network"), self.bit()))
            .collect();
        let set = Networks::default();
        set.fill(networks.into_iter().collect());
        set
    }

    fn flags(&mut self) -> Flags {
        let ra = [None, Some(true), Some(false)][self.pick(3)];
        Flags { aa: self.bit(), ad: self.bit(), ra, ttl: self.word().into() }
    }

    fn action(&mut self, depth: usize) -> Action {
        match self.pick(if depth < 3 { 31 } else { 30 }) {
            0 => Action::Allow,
            1 => Action::Drop,
            2 => Action::Pool(self.pool(), self.bit()),
            3 => Action::Qps(self.limit()),
            4 => Action::QpsPool(self.limit(), self.pool(), self.bit()),
            5 => Action::RCode(self.word() & 0xfff, self.flags()),
            6 => Action::NegativeAndSoa(Arc::new(NegativeSoa {
                nxdomain: self.bit(),
                zone: self.name(),
                mname: self.name(),
                rname: self.name(),
                numbers: [1, 2, 3, 4, 5],
                in_authority: self.bit(),
                flags: self.flags(),
            })),
            7 => Action::Tc(self.flags()),
            8 => {
                let v4 = (0..self.pick(60)).map(|n| [192, 0, 2, n as u8]).collect();
                let v6 = (0..self.pick(60)).map(|n| [n as u8; 16]).collect();
                Action::Spoof(Arc::new(Addresses { v4, v6 }), self.flags())
            }
            9 => Action::SpoofCname(self.name().into(), self.flags()),
            10 => {
                let rdata = (0..self.pick(4)).map(|_| self.bytes(255)).collect();
                let type_for_any = self.bit().then(|| self.word());
                Action::SpoofRaw(Arc::new(RawRecords { rdata, type_for_any }), self.flags())
            }
            11 => {
                let params =
                    SvcParams { v4: vec![[192, 0, 2, 1]], v6: vec![[1; 16]], ..SvcParams::default() };
                let made = SvcRecord::new(1, self.name(), &params);
                Action::SpoofSvc(made.into_iter().collect(), self.flags())
            }
            12 => Action::SpoofPacket(if self.bit() { self.query().into() } else { self.bytes(200).into() }),
            13 => Action::Delay(TickDelta::from_ms(self.byte().into())),
            14 => {
                let address = "127.0.2.1:53".parse().expect("an address");
                Action::Tee(Arc::new(Tee { address, add_ecs: self.bit(), source: None }), TEE)
            }
            15 => Action::Log(log()),
            16 => Action::None,
            17 => Action::SetTag("t".into(), ["", "x"][self.pick(2)].into()),
            18 => Action::UnsetTag("t".into()),
            19 => Action::SetNoRecurse,
            20 => Action::SetDisableValidation,
            21 => Action::SetEcs(self.bit()),
            22 => Action::SetEcsOverride(self.bit()),
            23 => Action::SetEcsPrefixLength(self.byte() % 33, self.byte() % 129),
            24 => Action::SetEcsTo(
                self.bit().then_some((Ipv4Addr::new(198, 51, 100, 1), 24)),
                self.bit().then_some((Ipv6Addr::LOCALHOST, 48)),
            ),
            25 => Action::SetEdnsOption(self.byte().into(), self.bytes(255).into()),
            26 => Action::SetExtendedDnsError(self.error()),
            27 => Action::SetMaxReturnedTtl(self.word().into()),
            28 => Action::SetSkipCache,
            29 => Action::SetTempFailureCacheTtl(self.byte().into()),
            _ => Action::Continue(Box::new(self.action(depth + 1))),
        }
    }

    fn error(&mut self) -> Arc<ExtendedError> {
        let text = "x".repeat(self.pick(200));
        Arc::new(ExtendedError { code: self.word(), text })
    }

    fn response_action(&mut self) -> ResponseAction {
        match self.pick(17) {
            0 => ResponseAction::Allow,
            1 => ResponseAction::Drop,
            2 => ResponseAction::Tc,
            3 => ResponseAction::Delay(TickDelta::from_ms(self.byte().into())),
            4 => ResponseAction::None,
            5 => ResponseAction::Log(log()),
            6 => {
                let min = u32::from(self.byte());
                ResponseAction::LimitTtl(
                    min,
                    min + u32::from(self.word()),
                    [self.qtype()][self.pick(2)..].into(),
                )
            }
            7 => ResponseAction::SetMinTtl(self.word().into()),
            8 => ResponseAction::SetMaxTtl(self.word().into()),
            9 => ResponseAction::SetReducedTtl(self.byte() % 101),
            10 => ResponseAction::SetMaxReturnedTtl(self.word().into()),
            11 => ResponseAction::ClearRecordTypes([self.qtype()].into()),
            12 => ResponseAction::SetTag("t".into(), "x".into()),
            13 => ResponseAction::UnsetTag("t".into()),
            14 => ResponseAction::SetEdnsOption(self.byte().into(), self.bytes(255).into()),
            15 => ResponseAction::SetExtendedDnsError(self.error()),
            _ => ResponseAction::Restart(self.pool(), self.byte() % 4),
        }
    }

    fn chain<A>(&mut self, make: impl Fn(&mut Self) -> A) -> Chain<A> {
        let rules = (0..self.pick(RULES_MAX + 1)).map(|_| {
            self.slots += 1;
            let slot = RuleSlot(self.slots);
            let (matcher, action) = (self.matcher(0), make(self));
            Rule { slot, name: String::new(), uuid: [0; 16], group: String::new(), matcher, action }
        });
        Chain::new(rules.collect())
    }
}

fn log() -> Arc<LogTarget> {
    let (path, binary, append) = (String::new(), false, false);
    Arc::new(LogTarget {
        path,
        binary,
        append,
        buffered: true,
        verbose_only: false,
        timestamp: false,
        one_in: 1,
    })
}

fn snapshot(input: &mut Input<'_>) -> Snapshot {
    let chains = Chains {
        counting: None,
        query: input.chain(|i| i.action(0)),
        response: input.chain(Input::response_action),
        self_answered: input.chain(Input::response_action),
        timeout: input.chain(Input::response_action),
        ..Chains::default()
    };
    let globals = Globals {
        servfail_when_no_server: input.bit(),
        truncate_tc: input.bit(),
        fixup_case: input.bit(),
        allow_empty_response: input.bit(),
        ecs_override: input.bit(),
        ..Globals::default()
    };
    let retry = input.bit().then_some(Retry { after: TickDelta::from_ms(20), budget_ppm: 1_000_000 });
    let pool = |name: &str, members: &[u16]| Pool {
        name: name.to_owned(),
        members: members.iter().map(|m| BackendSlot(*m)).collect(),
        retry,
        ..Pool::default()
    };
    let everyone: PrefixSet =
        ["0.0.0.0/0", "::/0"].iter().map(|p| p.parse::<Prefix>().expect("a network")).collect();
    Snapshot {
        generation: 1,
        backends: (0..3).map(|slot| Some(Arc::new(backend(slot)))).collect(),
        pools: vec![pool("", &[0]), pool("p", &[0, 1]), pool("empty", &[])],
        acl: everyone,
        chains,
        limits: std::mem::take(&mut input.states),
        globals,
        ..Snapshot::default()
    }
}

/// Server 1 requests the client subnet; server 2 receives copies.
fn backend(slot: u16) -> Backend {
    let address = std::net::SocketAddr::from(([127, 0, 2, slot as u8], 53));
    Backend {
        timeout: TIMEOUT,
        sockets: 1,
        outstanding_max: 20,
        use_client_subnet: slot == 1,
        tee: slot == 2,
        health: Health { mode: HealthMode::Up, ..Health::default() },
        ..Backend::new(BackendSlot(slot), address)
    }
}
