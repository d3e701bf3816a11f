//! Nanoseconds per packet through the sans-IO core: its steps, and the whole path of a query and
//! its answer. The target for the whole path with 4 backends is 250 ns.

// criterion_group! makes a public function without documentation.
#![allow(missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dnslob::balance::{Balancer, Subject};
use dnslob::base::addr::{BackendSlot, Client, PoolSlot, Route};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::model::policy::{HashKey, Kind, Policy};
use dnslob::shard::dispatch::outstanding::{Lookup, Outstanding, PendingQuery, Terms, Waiter};
use dnslob::shard::verdict::Verdict;
use dnslob::stats::traffic_ring::SLOTS;
use dnslob::wire::header;
use dnslob::wire::header::Header;
use dnslob::wire::query::Question;
use support::config::{TestConfig, client};
use support::message::message;

/// Packets of a batch: what one recvmmsg brings under load.
const BATCH: usize = 64;

fn query() -> Vec<u8> {
    message("1234 RD www.example.com/A OPT=1232")
}

fn wire(c: &mut Criterion) {
    let bytes = query();
    c.bench_function("parse", |b| {
        b.iter(|| {
            let bytes = black_box(&bytes[..]);
            let id = Header::parse(bytes).map(|h| (h.id(), h.is_response(), h.qdcount()));
            (id, Question::parse(bytes).map(|q| (q.qtype, q.end)))
        });
    });
    let snapshot = TestConfig::new(1).snapshot();
    let from = client("192.168.7.7:4000");
    c.bench_function("acl", |b| b.iter(|| snapshot.acl.contains(&black_box(from).peer.ip)));
}

fn select(c: &mut Criterion) {
    let mut group = c.benchmark_group("select");
    let bounded = |kind| Policy { bounded: Some(1.25), ..Policy::new(kind) };
    let policies = [
        ("leastOutstanding", Policy::new(Kind::LeastOutstanding)),
        ("firstAvailable", Policy::new(Kind::FirstAvailable)),
        ("roundrobin", Policy::new(Kind::RoundRobin)),
        ("wrandom", Policy::new(Kind::WRandom)),
        ("whashed", Policy::new(Kind::WHashed)),
        ("whashed-zone", Policy { hash_key: HashKey::Zone(2), ..Policy::new(Kind::WHashed) }),
        ("whashed-bounded", bounded(Kind::WHashed)),
        ("chashed", Policy::new(Kind::CHashed)),
        ("orderedWrandUntag", Policy::new(Kind::OrderedWRandUntag)),
        ("p2c", Policy::new(Kind::P2c)),
        ("concentrate", Policy::new(Kind::Concentrate)),
    ];
    for (name, policy) in policies {
        for backends in [4, 100] {
            let config = TestConfig { policy: policy.clone(), ..TestConfig::new(backends) };
            let live_state = config.live_state(1, backends);
            let snapshot = config.snapshot();
            let mut balancer = Balancer::new(live_state, 0);
            balancer.begin_batch(Tick(1), &snapshot);
            let mut rng = ShardRng::from_seed(1);
            let from = client("127.0.0.1:4000");
            let subject = Subject { qname: b"\x03www\x07example\x03com\0", client: &from.peer };
            group.bench_function(format!("{name}/{backends}"), |b| {
                b.iter(|| balancer.select(&snapshot, PoolSlot(0), black_box(&subject), &[], &mut rng));
            });
        }
    }
    group.finish();
}

fn outstanding(c: &mut Criterion) {
    let mut rng = ShardRng::from_seed(1);
    let pending = PendingQuery {
        client: client("127.0.0.1:4000"),
        client_id: 1,
        question: 7,
        waiter: Waiter::Client(None),
        pool: PoolSlot(0),
        flags: 0,
    };
    for (name, waiting) in [("claim+settle", 0_u32), ("claim+settle/50000-waiting", 50_000)] {
        let mut table = Outstanding::default();
        table.attach(BackendSlot(0), 4);
        let queue = table.queue(TickDelta::from_ms(2_000)).expect("a queue");
        let mut terms = Terms { max: u32::MAX, now: Tick(0), batch: 0, queue, connection: None };
        for number in 0..waiting {
            terms.batch = u64::from(number);
            table.claim(BackendSlot(0), &pending, terms, &mut rng).expect("a slot");
        }
        c.bench_function(name, |b| {
            b.iter(|| {
                terms.batch += 1;
                let key = table.claim(BackendSlot(0), &pending, terms, &mut rng).expect("a slot");
                assert!(matches!(table.find(key), Lookup::Live(_)));
                table.settle(key);
            });
        });
    }
}

/// A batch of queries and then the batch of their answers, at 200,000 a second.
fn path(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    group.throughput(Throughput::Elements(BATCH as u64));
    let query_table = [
        (1, Kind::LeastOutstanding, false),
        (4, Kind::LeastOutstanding, false),
        (4, Kind::LeastOutstanding, true),
        (10, Kind::LeastOutstanding, false),
        (100, Kind::LeastOutstanding, false),
        (4, Kind::RoundRobin, false),
        (4, Kind::WHashed, false),
        (4, Kind::P2c, false),
        (4, Kind::Concentrate, false),
    ];
    for (backends, kind, watched) in query_table {
        let config = TestConfig { policy: Policy::new(kind), ..TestConfig::new(backends) };
        let (mut shard, live_state, snapshot) = config.shard(1);
        if watched {
            live_state.shards()[0].traffic.open(SLOTS);
        }
        let bytes = query();
        let mut buffers = vec![[0_u8; 512]; BATCH];
        let mut routes: Vec<Option<Route>> = vec![None; BATCH];
        let clients: Vec<Client> =
            (0..BATCH).map(|at| client(&format!("127.0.0.1:{}", 4_000 + at))).collect();
        let mut now = Tick(0);
        let with = if watched { "/watched" } else { "" };
        group.bench_function(format!("{kind:?}/{backends}{with}"), |b| {
            b.iter(|| {
                now = now + TickDelta::from_us(160);
                shard.begin_batch(now, &snapshot);
                for ((buffer, route), from) in buffers.iter_mut().zip(&mut routes).zip(&clients) {
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    let mut packet = Packet::new(buffer, 0, bytes.len());
                    *route = match shard.on_query(*from, &mut packet) {
                        Verdict::Forward(route) => Some(route),
                        Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Drop(_) | Verdict::Hold => None,
                    };
                }
                shard.on_tick(&mut |_, _| {});
                now = now + TickDelta::from_us(160);
                shard.begin_batch(now, &snapshot);
                for (buffer, route) in buffers.iter_mut().zip(&routes) {
                    let mut packet = Packet::new(buffer, 0, bytes.len());
                    packet.bytes_mut()[2] |= header::QR;
                    let verdict = shard.on_response(route.expect("forwarded"), &mut packet);
                    assert!(matches!(verdict, Verdict::Deliver(_)));
                }
                shard.on_tick(&mut |_, _| {});
            });
        });
    }
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = benches;
    config = settings();
    targets = wire, select, outstanding, path
}
criterion_main!(benches);
