//! Nanoseconds per query of a rule chain, by its length, and what sets of names cost.
//!
//! Targets: 100,000 rules at most 1.5 times what 10 cost; a million names in at most 64 bytes
//! each, loaded in under 2 s, asked in under 250 ns. Rules are of mixed kinds: exact names,
//! suffixes, networks, types, and types with suffixes.

// criterion_group! makes a public function without documentation; an allocator is unsafe.
#![allow(missing_docs, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dnslob::balance::Balancer;
use dnslob::balance::PoolView;
use dnslob::base::addr::{Client, Endpoint, ListenerSlot, LocalSlot, RuleSlot, mapped};
use dnslob::base::packet::Packet;
use dnslob::base::prefix::Prefix;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::Tick;
use dnslob::model::Snapshot;
use dnslob::rules::context::{Environment, EvaluationContext, Facts};
use dnslob::rules::limits::Limits;
use dnslob::rules::matcher::Matcher;
use dnslob::rules::names::{NameSet, Names};
use dnslob::rules::networks::{NetworkSet, Networks};
use dnslob::rules::pattern::{Pattern, PatternCache};
use dnslob::rules::query_state::QueryState;
use dnslob::rules::{Chain, Rule, Walk};
use dnslob::stats::live::LiveState;

/// Queries that take turns, so that neither caches nor branches know the next one. A power of two.
const QUERIES: usize = 4096;

/// The same for sets of names; a power of two.
const ASKED: usize = 1 << 16;

/// Packets of a batch: what one recvmmsg brings under load.
const BATCH: usize = 64;

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size, Ordering::Relaxed);
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether `cargo test` only wants to see it run.
fn smoke() -> bool {
    !std::env::args().any(|a| a == "--bench")
}

/// A number that looks like chance, the same in each run.
const fn scatter(n: usize) -> usize {
    (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        as usize
        >> 8
}

fn wire(text: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// Names as block lists have them: two or three labels, some twenty bytes.
fn listed(n: usize) -> String {
    let tld = ["com", "net", "org", "info", "de", "co.uk"][scatter(n) % 6];
    match n % 4 {
        0 => format!("ads.tracker{n:x}.{tld}"),
        1 => format!("{:x}.example.{tld}", scatter(n) & 0xffff_ffff),
        _ => format!("shop-{:x}-{n}.{tld}", scatter(n) % 10_000),
    }
}

fn suffix(name: &str) -> Matcher {
    Matcher::QNameSuffix(Names::from([wire(name)].iter().collect::<NameSet>()))
}

fn network(n: usize) -> Matcher {
    let at = Ipv4Addr::from(0x0a00_0000 | (n as u32) << 8);
    let prefix: Prefix = format!("{at}/24").parse().expect("a network");
    Matcher::Netmask {
        networks: Networks::from([(prefix, true)].into_iter().collect::<NetworkSet>()),
        source: true,
    }
}

/// The `n`-th rule.
fn matcher(n: usize) -> Matcher {
    let qtype = 1000 + (scatter(n) % 60_000) as u16;
    match n % 5 {
        0 => suffix(&listed(n)),
        1 => Matcher::QName(wire(&listed(n)).into()),
        2 => network(n / 5),
        3 => Matcher::QType(qtype),
        _ => Matcher::And([Matcher::QType(28), suffix(&listed(n))].into()),
    }
}

fn rule(at: usize, matcher: Matcher) -> Rule<()> {
    Rule {
        slot: RuleSlot(at as u32),
        name: String::new(),
        uuid: [0; 16],
        group: String::new(),
        matcher,
        action: (),
    }
}

fn rules(count: usize, last: Matcher) -> Vec<Rule<()>> {
    let rules = (0..count - 1).map(|n| rule(n, matcher(n)));
    rules.chain([rule(count - 1, last)]).collect()
}

/// A query with its client.
struct Query {
    bytes: Vec<u8>,
    client: Client,
}

fn query(n: usize) -> Query {
    let mut bytes = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    bytes.extend(wire(&format!(
        "{}.host{}.example.com",
        ["www", "mail", "api"][n % 3],
        scatter(n) % 100_000
    )));
    bytes.extend([0, if n.is_multiple_of(3) { 28 } else { 1 }, 0, 1]);
    let ip = mapped(Ipv4Addr::from(0xc0a8_0000 | (scatter(n) as u32 & 0xffff)).into());
    let peer = Endpoint { ip, scope: 0, port: 4000 };
    Query {
        bytes,
        client: Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None },
    }
}

/// What is around packets.
struct Harness {
    snapshot: Snapshot,
    limits: Limits,
    patterns: PatternCache,
    rng: ShardRng,
    balancer: Balancer,
    query_state: QueryState,
}

impl Harness {
    fn new() -> Self {
        Self {
            snapshot: Snapshot::default(),
            limits: Limits::default(),
            patterns: PatternCache::default(),
            rng: ShardRng::from_seed(1),
            balancer: Balancer::new(Arc::new(LiveState::new(1, 1)), 0),
            query_state: QueryState::default(),
        }
    }

    /// The first rule that matches.
    fn first(&mut self, chain: &Chain<()>, query: &mut Query) -> Option<u32> {
        let len = query.bytes.len();
        let mut packet = Packet::new(&mut query.bytes, 0, len);
        let facts = Facts::of(packet.bytes());
        let local = Endpoint { ip: query.client.peer.ip, scope: 0, port: 53 };
        let mut context = EvaluationContext {
            packet: &mut packet,
            facts,
            query_state: &mut self.query_state,
            client: query.client,
            local,
            answered: None,
        };
        let mut env = Environment {
            now: Tick(1),
            chains: &self.snapshot.chains,
            settings: self.snapshot.rule_settings(),
            limits: &mut self.limits,
            patterns: &mut self.patterns,
            rng: &mut self.rng,
            pools: &PoolView { snapshot: &self.snapshot, balancer: &self.balancer },
            script: None,
        };
        chain.next(&mut Walk::default(), &mut context, &mut env).map(|r| r.slot.0)
    }
}

fn chains(c: &mut Criterion) {
    let sizes: &[usize] = if smoke() { &[10, 1_000] } else { &[10, 1_000, 100_000] };
    let mut queries: Vec<Query> = (0..QUERIES).map(query).collect();
    let pattern = |text: &str| Matcher::Regex(Pattern::new(text, false).expect("an expression"));
    let query_table = [("none", suffix("example.invalid")), ("last", suffix("example.com"))];
    let mut group = c.benchmark_group("chain");
    let mut measure = |name: String, chain: &Chain<()>, expected: Option<u32>| {
        let (mut harness, mut at) = (Harness::new(), 0);
        assert!(queries.iter_mut().all(|q| harness.first(chain, q) == expected), "{name}");
        group.bench_function(name, |b| {
            b.iter(|| {
                at = (at + 1) % QUERIES;
                harness.first(black_box(chain), &mut queries[at])
            });
        });
    };
    measure("empty".to_owned(), &Chain::default(), None);
    for count in sizes {
        for (query_state, last) in &query_table {
            let rules = rules(*count, last.clone());
            let before = (Instant::now(), ALLOCATED.load(Ordering::Relaxed));
            let chain = Chain::new(rules);
            let bytes = ALLOCATED.load(Ordering::Relaxed).saturating_sub(before.1) / count;
            println!(
                "{count} rules compiled in {:?}; their index takes {bytes} bytes a rule",
                before.0.elapsed()
            );
            let expected = (*query_state == "last").then_some(*count as u32 - 1);
            measure(format!("{query_state}/{count}"), &chain, expected);
        }
    }
    let expressions = (0..100).map(|n| rule(n, pattern(&format!("^ads?[0-9]+\\.track{n}\\.")))).collect();
    measure("expressions/100".to_owned(), &Chain::new(expressions), None);
    group.finish();
}

/// Names that sets are asked about, each in a cache line of its own.
struct Asked(Vec<[u8; 64]>);

impl Asked {
    fn new(names: &[Vec<u8>]) -> Self {
        let line = |name: &Vec<u8>| {
            let mut line = [0; 64];
            line[0] = name.len() as u8;
            line[1..=name.len()].copy_from_slice(name);
            line
        };
        Self(names.iter().map(line).collect())
    }

    fn name(&self, at: usize) -> &[u8] {
        let line = &self.0[at];
        &line[1..=usize::from(line[0])]
    }
}

fn names(c: &mut Criterion) {
    let count = if smoke() { 1_000 } else { 1_000_000 };
    let names: Vec<Vec<u8>> = (0..count).map(|n| wire(&listed(n))).collect();
    let bytes: usize = names.iter().map(Vec::len).sum();
    let before = (Instant::now(), ALLOCATED.load(Ordering::Relaxed));
    let set: NameSet = names.iter().collect();
    let (took, allocated) = (before.0.elapsed(), ALLOCATED.load(Ordering::Relaxed) - before.1);
    println!(
        "{} names of {:.1} bytes: {:.1} allocated for each (they say {:.1}), loaded in {took:?}",
        set.len(),
        bytes as f64 / count as f64,
        allocated as f64 / count as f64,
        set.bytes() as f64 / count as f64
    );
    let turn = |n: usize| scatter(n) % count;
    let hits: Vec<Vec<u8>> = (0..ASKED).map(|n| names[turn(n)].clone()).collect();
    let below: Vec<Vec<u8>> = hits.iter().map(|n| [b"\x03www", &n[..]].concat()).collect();
    let misses: Vec<Vec<u8>> =
        (0..ASKED).map(|n| wire(&format!("www.none{:x}.example.com", scatter(n) & 0xff_ffff))).collect();
    let mut group = c.benchmark_group("names");
    for (name, asked) in [("listed", &hits), ("below", &below), ("none", &misses)] {
        // One behind the other: a query's name has just been read, unlike those of the set.
        let asked = Asked::new(asked);
        let mut at = 0;
        group.bench_function(format!("contains/{name}"), |b| {
            b.iter(|| {
                at = (at + 1) % ASKED;
                set.contains(black_box(asked.name(at)))
            });
        });
        let mut at = 0;
        group.bench_function(format!("suffix_of/{name}"), |b| {
            b.iter(|| {
                at = (at + 1) % ASKED;
                set.suffix_of(black_box(asked.name(at)))
            });
        });
        let mut at = 0;
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(format!("suffix_of/{name}/batches of {BATCH}"), |b| {
            b.iter(|| {
                at = (at + BATCH) % ASKED;
                let batch: [&[u8]; BATCH] = std::array::from_fn(|n| black_box(asked.name(at + n)));
                set.prefetch(batch);
                batch.iter().filter(|name| set.suffix_of(name).is_some()).count()
            });
        });
        group.throughput(Throughput::Elements(1));
    }
    group.sample_size(10);
    group.bench_function("load", |b| b.iter(|| names.iter().collect::<NameSet>()));
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = benches;
    config = settings();
    targets = chains, names
}
criterion_main!(benches);
