//! Compares the index with a linear walk of the list: the same rules match, in the same order, and
//! limits have counted the same.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::balance::Balancer;
use crate::balance::PoolView;
use crate::base::addr::{Client, Endpoint, ListenerSlot, LocalSlot, RuleSlot, mapped};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::Tick;
use crate::model::Snapshot;
use crate::rules::context::{Environment, EvaluationContext, Facts};
use crate::rules::index::*;
use crate::rules::limits::{Limit, Limits, StateSpec};
use crate::rules::matcher::Matcher;
use crate::rules::names::NameSet;
use crate::rules::networks::NetworkSet;
use crate::rules::pattern::PatternCache;
use crate::rules::query_state::{Protocol, QueryState};
use crate::rules::{Chain, Rule, Walk};
use crate::stats::live::LiveState;
use crate::wire::{edns, header};
use proptest::prelude::*;

/// One packet and its addresses.
#[derive(Clone, Debug)]
struct Sample {
    message: Vec<u8>,
    client: [u8; 16],
    local: ([u8; 16], u16),
    protocol: Protocol,
}

/// The environment of packets; the counts of limits stay from one to the next.
struct World {
    snapshot: Snapshot,
    limits: Limits,
    rng: ShardRng,
    balancer: Balancer,
    patterns: PatternCache,
}

impl World {
    fn new() -> Self {
        let mut limits = Limits::default();
        limits.adopt(&[StateSpec::rate(1, 1, 3), StateSpec::rate(2, 1, 9)]);
        Self {
            snapshot: Snapshot::default(),
            limits,
            rng: ShardRng::from_seed(1),
            balancer: Balancer::new(Arc::new(LiveState::new(1, 1)), 0),
            patterns: PatternCache::default(),
        }
    }

    /// Evaluates a packet with `walk`.
    fn show<R>(
        &mut self,
        sample: &Sample,
        walk: impl FnOnce(&mut EvaluationContext<'_, '_>, &mut Environment<'_>) -> R,
    ) -> R {
        let mut buffer = sample.message.clone();
        let len = buffer.len();
        let mut packet = Packet::new(&mut buffer, 0, len);
        let mut query_state = QueryState { protocol: sample.protocol, ..QueryState::default() };
        let facts = Facts::of(packet.bytes());
        let mut context = EvaluationContext {
            packet: &mut packet,
            facts,
            query_state: &mut query_state,
            client: Client {
                peer: Endpoint { ip: sample.client, scope: 0, port: 4000 },
                listener: ListenerSlot(0),
                local: LocalSlot::LISTENER,
                connection: None,
            },
            local: Endpoint { ip: sample.local.0, scope: 0, port: sample.local.1 },
            answered: None,
        };
        let mut env = Environment {
            now: Tick(1_000_000_000),
            chains: &self.snapshot.chains,
            settings: self.snapshot.rule_settings(),
            limits: &mut self.limits,
            patterns: &mut self.patterns,
            rng: &mut self.rng,
            pools: &PoolView { snapshot: &self.snapshot, balancer: &self.balancer },
            script: None,
        };
        walk(&mut context, &mut env)
    }

    /// Returns the rules that match, by a linear walk. Every `edit`-th match changes the message.
    fn by_list(&mut self, rules: &[Matcher], sample: &Sample, edit: usize) -> Vec<u32> {
        self.show(sample, |context, env| {
            let mut found = Vec::new();
            for (at, matcher) in (0..).zip(rules) {
                if matcher.matches(context, env) {
                    found.push(at);
                    if found.len().is_multiple_of(edit) {
                        change(context);
                    }
                }
            }
            found
        })
    }

    /// Returns the rules that match, by the index.
    fn by_index(&mut self, chain: &Chain<()>, sample: &Sample, edit: usize) -> Vec<u32> {
        self.show(sample, |context, env| {
            let (mut found, mut walk) = (Vec::new(), Walk::default());
            while let Some(rule) = chain.next(&mut walk, context, env) {
                found.push(rule.slot.0);
                if found.len().is_multiple_of(edit) {
                    change(context);
                    walk.renew();
                }
            }
            found
        })
    }
}

/// Changes what an action may change: the type, RD, and the first letter of the name.
fn change(context: &mut EvaluationContext<'_, '_>) {
    let end = usize::from(context.facts.question_end);
    let message = context.packet.bytes_mut();
    if end > header::LEN + 4 && message.len() >= end {
        message[2] ^= header::RD;
        message[end - 3] ^= 1;
        if message[header::LEN] > 0 {
            message[header::LEN + 1] ^= 1;
        }
    }
    context.reread();
}

fn chain(matchers: &[Matcher], least: Option<usize>) -> Chain<()> {
    let rule = |(at, matcher): (u32, &Matcher)| Rule {
        slot: RuleSlot(at),
        name: String::new(),
        uuid: [0; 16],
        group: String::new(),
        matcher: matcher.clone(),
        action: (),
    };
    let rules: Vec<Rule<()>> = (0..).zip(matchers).map(rule).collect();
    let guards = rules.iter().map(|r| Guard::of(&r.matcher));
    match least {
        Some(least) => {
            let index = Arc::new(Index::with_least(guards, |_| least));
            Chain { index, rules: rules.into(), prefetch_set: Arc::default() }
        }
        None => Chain::new(rules),
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let label = prop::sample::select(vec!["a", "b", "A", "cc"]);
    prop::collection::vec(label, 0..5).prop_map(|labels| {
        let mut wire = Vec::new();
        for label in labels {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        wire
    })
}

/// Few addresses, so that networks contain them.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => any::<u32>().prop_map(|a| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | (a & 0x0103_0007)))),
        1 => (0_u16..3).prop_map(|a| IpAddr::V6([0x2001, 0xdb8, a, 0, 0, 0, 0, 1].into())),
    ]
}

fn networks() -> impl Strategy<Value = Networks> {
    let length = prop::sample::select(vec![0_u8, 7, 8, 15, 16, 24, 30, 32]);
    let network = (address(), length, prop::bool::weighted(0.8)).prop_map(|(ip, length, is_in)| {
        let length = if ip.is_ipv4() { length } else { length * 2 };
        (format!("{ip}/{length}").parse::<Prefix>().expect("a network"), is_in)
    });
    prop::collection::vec(network, 0..5).prop_map(|n| Networks::from(n.into_iter().collect::<NetworkSet>()))
}

fn names() -> impl Strategy<Value = Names> {
    prop::collection::vec(name(), 0..5).prop_map(|n| Names::from(n.into_iter().collect::<NameSet>()))
}

const PROTOCOLS: [Protocol; 3] = [Protocol::DoUdp, Protocol::DoTcp, Protocol::DoT];
const TYPES: [u16; 6] = [1, 2, 28, 255, 256, 700];

fn leaf() -> impl Strategy<Value = Matcher> {
    let one_of = |values: &'static [u16]| prop::sample::select(values);
    let texts: &'static [&str] = &["a", "^a[.]", "cc$", "^$", "b.*b", "nowhere"];
    prop_oneof![
        4 => name().prop_map(|n| Matcher::QName(n.into())),
        4 => names().prop_map(Matcher::QNameSet),
        6 => names().prop_map(Matcher::QNameSuffix),
        5 => (networks(), any::<bool>()).prop_map(|(networks, source)| Matcher::Netmask { networks, source }),
        4 => one_of(&TYPES).prop_map(Matcher::QType),
        1 => one_of(&[1, 3, 255]).prop_map(Matcher::QClass),
        1 => (0_u8..3).prop_map(Matcher::Opcode),
        1 => (0_u8..4).prop_map(Matcher::RCode),
        1 => one_of(&[0, 3, 16, 19]).prop_map(Matcher::ERCode),
        1 => one_of(&[53, 5353]).prop_map(Matcher::DstPort),
        1 => prop::sample::select(&PROTOCOLS[..]).prop_map(Matcher::Protocol),
        1 => any::<bool>().prop_map(Matcher::Tcp),
        1 => Just(Matcher::Rd),
        1 => Just(Matcher::Dnssec),
        1 => Just(Matcher::All),
        1 => (0_u16..3, 2_u16..6).prop_map(|(low, high)| Matcher::QNameLabels(low, high)),
        2 => (prop::sample::select(texts), any::<bool>())
            .prop_map(|(t, whole)| Matcher::Regex(Pattern::new(t, whole).expect("an expression"))),
        2 => (0_u32..2).prop_map(|state| Matcher::MaxQps(Limit { state, qps: 1, burst: 3 })),
        1 => Just(Matcher::QNameSet(Names::default())),
    ]
}

fn matcher() -> impl Strategy<Value = Matcher> {
    leaf().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 0..4).prop_map(|list| Matcher::And(list.into())),
            3 => prop::collection::vec(inner.clone(), 0..4).prop_map(|list| Matcher::Or(list.into())),
            1 => inner.prop_map(|m| Matcher::Not(Arc::new(m))),
        ]
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    let question = (name(), prop::sample::select(&TYPES[..]), prop::sample::select(vec![1_u16, 3, 255]));
    let opt = prop_oneof![Just(None), (any::<bool>(), 0_u8..2).prop_map(Some)];
    let message =
        (question, any::<u8>(), 0_u8..4, opt).prop_map(|((qname, qtype, qclass), flags, rcode, opt)| {
            let mut message = vec![
                0,
                0,
                flags & 0x11,
                rcode | flags >> 1 & 0x10,
                0,
                1,
                0,
                0,
                0,
                0,
                0,
                u8::from(opt.is_some()),
            ];
            message.extend(qname);
            message.extend(qtype.to_be_bytes());
            message.extend(qclass.to_be_bytes());
            if let Some((dnssec_ok, extended)) = opt {
                let mut bare = edns::bare(1232, dnssec_ok);
                bare[5] = extended;
                message.extend(bare);
            }
            message
        });
    let bytes = prop_oneof![20 => message, 1 => prop::collection::vec(any::<u8>(), 0..40)];
    let local = (address().prop_map(mapped), prop::sample::select(vec![53_u16, 5353]));
    (bytes, address().prop_map(mapped), local, prop::sample::select(&PROTOCOLS[..]))
        .prop_map(|(message, client, local, protocol)| Sample { message, client, local, protocol })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn index_finds_what_the_list_finds(
        matchers in prop::collection::vec(matcher(), 0..80),
        packets in prop::collection::vec(sample(), 1..12),
        edit in prop::sample::select(vec![usize::MAX, 1, 3]),
    ) {
        for least in [Some(0), Some(3), None] {
            let chain = chain(&matchers, least);
            let (mut list, mut index) = (World::new(), World::new());
            for packet in &packets {
                prop_assert_eq!(
                    index.by_index(&chain, packet, edit),
                    list.by_list(&matchers, packet, edit),
                    "{:?} with {:?}", packet, least
                );
            }
        }
    }
}

fn wire(text: &str) -> Arc<[u8]> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|l| !l.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire.into()
}

fn query(name: &str) -> Sample {
    let mut message = b"\0\0\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    message.extend_from_slice(&wire(name));
    message.extend_from_slice(b"\0\x01\0\x01");
    let ip = mapped(Ipv4Addr::LOCALHOST.into());
    Sample { message, client: ip, local: (ip, 53), protocol: Protocol::DoUdp }
}

fn suffix(names: &[&str]) -> Matcher {
    Matcher::QNameSuffix(Names::from(names.iter().map(|n| wire(n)).collect::<NameSet>()))
}

/// Returns the number of rules that the index returns for a packet.
fn candidates(matchers: &[Matcher], sample: &Sample) -> usize {
    let chain = chain(matchers, None);
    World::new().show(sample, |context, env| {
        let (mut candidates, mut from, mut count) = (Candidates::default(), 0, 0);
        while let Some(at) = candidates.next(&chain.index, from, context, env) {
            (from, count) = (at + 1, count + 1);
        }
        count
    })
}

#[test]
fn rules_about_other_names_are_not_evaluated() {
    let mut matchers: Vec<Matcher> = (0..1000).map(|n| suffix(&[&format!("n{n}.example")])).collect();
    matchers.extend((0..1000).map(|n| Matcher::QType(1000 + n)));
    matchers.push(suffix(&["example"]));
    assert_eq!(candidates(&matchers, &query("www.n7.example")), 2);
    assert_eq!(candidates(&matchers, &query("www.example.org")), 0);
}

#[test]
fn nests_deeper_than_the_cursors_return_all_rules() {
    // At each of 100 levels there are more rules than are merged: more lists than cursors.
    let deep = "a.".repeat(100);
    let matchers: Vec<Matcher> =
        (0..100 * (MERGED_MAX + 1)).map(|n| suffix(&[&deep[..2 * (1 + n % 100)]])).collect();
    let chain = chain(&matchers, None);
    for (name, expected) in [(&deep[..], matchers.len()), (&deep[..20], 10 * (MERGED_MAX + 1))] {
        let sample = query(name);
        let found = World::new().by_index(&chain, &sample, usize::MAX);
        assert_eq!(found, World::new().by_list(&matchers, &sample, usize::MAX));
        assert_eq!(found.len(), expected);
    }
}

#[test]
fn kinds_below_the_first_match_are_not_queried() {
    let pattern = |text: &str| Matcher::Regex(Pattern::new(text, false).expect("an expression"));
    let mut matchers = vec![Matcher::QType(1)];
    matchers.extend((0..20).map(|n| pattern(&format!("^x{n}$"))));
    let chain = chain(&matchers, None);
    let mut world = World::new();
    let sample = query("x7");
    let first =
        world.show(&sample, |context, env| chain.next(&mut Walk::default(), context, env).map(|r| r.slot.0));
    assert_eq!(first, Some(0));
    assert!(world.patterns.is_empty(), "no expression was searched for");
    assert_eq!(world.by_index(&chain, &sample, usize::MAX), [0, 8]);
    assert!(!world.patterns.is_empty());
}

#[test]
fn big_sets_are_queried_themselves() {
    let names: Vec<Arc<[u8]>> = (0..=BIG).map(|n| wire(&format!("n{n}.example"))).collect();
    let big = Names::from(names.iter().collect::<NameSet>());
    let matchers: Vec<Matcher> = (0..BIG_RULES + 2).map(|_| Matcher::QNameSuffix(big.clone())).collect();
    let (always, _) = divide(&matchers.iter().map(Guard::of).collect::<Vec<_>>(), |_| 0);
    assert_eq!(always.len(), BIG_RULES);
    let chain = chain(&matchers, None);
    let all: Vec<u32> = (0..matchers.len() as u32).collect();
    assert_eq!(World::new().by_index(&chain, &query("www.n77.example"), usize::MAX), all);
    assert!(World::new().by_index(&chain, &query("m77.example"), usize::MAX).is_empty());
}
