//! Nanoseconds per query of the limiting rules, and their memory. The target for `MaxQPSIPRule`
//! with a million clients is 150 ns a query and 100 MB in all.

// criterion_group! makes a public function without documentation.
#![allow(missing_docs)]
#![allow(clippy::print_stderr)]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dnslob::base::addr::mapped;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::rules::limits::{
    CLIENTS_MAX, ClientLimit, DEADLINES_BYTES_MAX, Limit, Limits, StateKind, StateSpec,
};

/// Packets of a batch: what one recvmmsg brings under load.
const BATCH: usize = 64;
/// Between two queries, nanoseconds: a million queries per second.
const PACE: TickDelta = TickDelta::from_us(1);

fn adopted(specs: &[StateSpec]) -> Limits {
    let mut limits = Limits::new(1, &mut ShardRng::from_seed(1));
    limits.adopt(specs);
    limits
}

/// Clients in an order that no cache and no prefetcher can foresee: a full-period generator.
fn client(order: &mut u32) -> [u8; 16] {
    *order = order.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let number = (u64::from(*order) * CLIENTS_MAX as u64) >> 32;
    mapped(Ipv4Addr::from(number as u32).into())
}

fn by_client(c: &mut Criterion) {
    let mut group = c.benchmark_group("MaxQPSIP");
    group.throughput(Throughput::Elements(1));
    let limit = ClientLimit { state: 0, qps: 10, burst: 10, v4: 32, v6: 64, expiration_s: 300 };
    for clients in [1_000, CLIENTS_MAX as u32] {
        let spec = StateSpec::clients(1, DEADLINES_BYTES_MAX);
        let limits = adopted(std::slice::from_ref(&spec));
        let mut now = Tick(1 << 40);
        for n in 0..clients {
            let _ = limits.client_exceeded(&limit, &mapped(Ipv4Addr::from(n).into()), now);
        }
        if let StateKind::Clients(table) = &spec.kind {
            eprintln!("{clients} clients: {:.1} MB", table.bytes() as f64 / 1e6);
        }
        let mut order = 1;
        group.bench_function(format!("{clients} clients"), |b| {
            b.iter(|| {
                now = now + PACE;
                let mut ip = client(&mut order);
                if clients < CLIENTS_MAX as u32 {
                    ip[12..14].fill(0);
                    ip[14] &= 3;
                }
                limits.client_exceeded(&limit, black_box(&ip), now)
            });
        });
    }
    let spec = [StateSpec::clients(1, DEADLINES_BYTES_MAX)];
    let limits = adopted(&spec);
    let mut now = Tick(1 << 40);
    for n in 0..CLIENTS_MAX as u32 {
        let _ = limits.client_exceeded(&limit, &mapped(Ipv4Addr::from(n).into()), now);
    }
    let mut order = 1;
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(format!("{CLIENTS_MAX} clients, batches of {BATCH}"), |b| {
        b.iter(|| {
            now = now + PACE;
            let batch: [_; BATCH] = std::array::from_fn(|_| client(&mut order));
            limits.prefetch_clients(&limit, black_box(&batch));
            batch.iter().filter(|ip| limits.client_exceeded(&limit, ip, now)).count()
        });
    });
    // Another shard asks for the same clients meanwhile.
    let (other, is_done) = (adopted(&spec), AtomicBool::new(false));
    let begin = now;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut now, mut order) = (begin, 7);
            while !is_done.load(Ordering::Relaxed) {
                now = now + PACE;
                let batch: [_; BATCH] = std::array::from_fn(|_| client(&mut order));
                other.prefetch_clients(&limit, &batch);
                black_box(batch.iter().filter(|ip| other.client_exceeded(&limit, ip, now)).count());
            }
        });
        group.bench_function(format!("{CLIENTS_MAX} clients, batches of {BATCH}, two threads"), |b| {
            b.iter(|| {
                now = now + PACE;
                let batch: [_; BATCH] = std::array::from_fn(|_| client(&mut order));
                limits.prefetch_clients(&limit, black_box(&batch));
                batch.iter().filter(|ip| limits.client_exceeded(&limit, ip, now)).count()
            });
        });
        is_done.store(true, Ordering::Relaxed);
    });
    group.throughput(Throughput::Elements(1));
    // Every query from an address that was never seen.
    let flooded = adopted(&[StateSpec::clients(1, DEADLINES_BYTES_MAX)]);
    let (mut now, mut number) = (Tick(1 << 40), 0_u32);
    group.bench_function("forged sources", |b| {
        b.iter(|| {
            (now, number) = (now + PACE, number.wrapping_add(1));
            flooded.client_exceeded(&limit, &mapped(Ipv4Addr::from(number).into()), now)
        });
    });
    group.finish();
}

fn for_all(c: &mut Criterion) {
    let mut group = c.benchmark_group("MaxQPS");
    group.throughput(Throughput::Elements(1));
    for (name, qps) in [("below", 2_000_000), ("above", 100_000)] {
        let mut limits = adopted(&[StateSpec::rate(1, qps, qps)]);
        let limit = Limit { state: 0, qps, burst: qps };
        let mut now = Tick(1 << 40);
        group.bench_function(name, |b| {
            b.iter(|| {
                now = now + PACE;
                limits.exceeded(&limit, now)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, by_client, for_all);
criterion_main!(benches);
