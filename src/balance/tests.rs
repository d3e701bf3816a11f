//! Tests each policy against its description, then properties that hold for all of them.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use crate::balance::*;
use crate::base::addr::{BackendSlot, PoolSlot};
use crate::base::prefix::PrefixSet;
use crate::base::rng::ShardRng;
use crate::base::time::Tick;
use crate::base::time::TickDelta;
use crate::model::Ring;
use crate::model::policy::{HashKey, Kind, Policy};
use crate::model::*;
use crate::stats::live::{LiveState, PPM, State};

const POOL: PoolSlot = PoolSlot(0);
const KINDS: [Kind; 9] = [
    Kind::LeastOutstanding,
    Kind::FirstAvailable,
    Kind::RoundRobin,
    Kind::WRandom,
    Kind::WHashed,
    Kind::CHashed,
    Kind::OrderedWRandUntag,
    Kind::P2c,
    Kind::Concentrate,
];

/// Returns a backend with every option at its default.
pub(crate) fn backend(slot: u16) -> Backend {
    let plain = Backend::new(BackendSlot(slot), SocketAddr::from(([127, 0, 0, 1], 5300 + slot)));
    let health = Health { slow_start: TickDelta(0), ..Health::default() };
    Backend { id: format!("backend-{slot}"), name: format!("b{slot}"), health, ..plain }
}

/// Returns backends 0..n, all up, edited by `edit`.
fn backends(n: u16, mut edit: impl FnMut(u16, &mut Backend)) -> Vec<Backend> {
    (0..n)
        .map(|slot| {
            let mut b = backend(slot);
            edit(slot, &mut b);
            b
        })
        .collect()
}

/// Returns a configuration with one pool of these backends.
pub(crate) fn snapshot(policy: Policy, backends: &[Backend]) -> Snapshot {
    let refs: Vec<_> = backends.iter().map(|b| (b.slot, b)).collect();
    let ring = (policy.kind == Kind::CHashed).then(|| Arc::new(Ring::build(&refs)));
    let mut slots = vec![None; 64];
    for b in backends {
        slots[b.slot.index()] = Some(Arc::new(b.clone()));
    }
    Snapshot {
        generation: 1,
        listeners: Vec::new(),
        backends: slots,
        pools: vec![Pool {
            name: String::new(),
            members: backends.iter().map(|b| b.slot).collect(),
            policy,
            ring,
            retry: None,
            panic_ppm: 0,
            eject: None,
            tcp_to_udp: false,
            ..Pool::default()
        }],
        acl: PrefixSet::default(),
        ..Snapshot::default()
    }
}

struct Fixture {
    live_state: Arc<LiveState>,
    snapshot: Snapshot,
    balancer: Balancer,
    rng: ShardRng,
    now: Tick,
}

impl Fixture {
    fn new(policy: Policy, backends: Vec<Backend>) -> Self {
        Self::with_shards(policy, backends, 1)
    }

    fn with_shards(policy: Policy, mut backends: Vec<Backend>, shards: usize) -> Self {
        let live_state = Arc::new(LiveState::new(shards, 64));
        backends.iter().for_each(|b| live_state.set_state(b.slot, State::Up));
        backends.sort_by_key(|b| b.order);
        let snapshot = snapshot(policy, &backends);
        let mut balancer = Balancer::new(Arc::clone(&live_state), 0);
        balancer.begin_batch(Tick(0), &snapshot);
        Self { live_state, snapshot, balancer, rng: ShardRng::from_seed(1), now: Tick(0) }
    }

    /// Advances the time and begins a batch.
    fn pass(&mut self, ms: u64) {
        self.now = self.now + TickDelta::from_ms(ms);
        self.balancer.publish();
        self.balancer.begin_batch(self.now, &self.snapshot);
    }

    fn set(&mut self, slot: u16, state: State) {
        self.live_state.set_state(BackendSlot(slot), state);
        self.pass(1);
    }

    fn reload(&mut self) {
        self.snapshot.generation += 1;
        self.pass(1);
    }

    fn ask(&mut self, name: u32) -> Option<u16> {
        self.ask_but(name, None)
    }

    fn ask_but(&mut self, name: u32, avoid: Option<u16>) -> Option<u16> {
        let qname = qname(name);
        let client = Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 53)));
        let subject = Subject { qname: &qname, client: &client };
        let avoid = avoid.map(BackendSlot);
        self.balancer.select(&self.snapshot, POOL, &subject, avoid.as_slice(), &mut self.rng).map(|s| s.0)
    }

    fn claim(&mut self, slot: u16, times: u32) {
        (0..times).for_each(|_| self.balancer.claimed(BackendSlot(slot)));
    }

    fn settle(&mut self, slot: u16, latency_us: u64) {
        self.balancer.settled(BackendSlot(slot), Some(TickDelta::from_us(latency_us)));
    }

    /// Returns how often each of slots 0..n is selected for `count` names.
    fn shares(&mut self, n: usize, count: u32) -> Vec<u32> {
        let mut chosen = vec![0; n];
        for name in 0..count {
            chosen[usize::from(self.ask(name).expect("a server"))] += 1;
        }
        chosen
    }
}

/// Returns `www.zNNNNNN.test` in wire format.
fn qname(name: u32) -> Vec<u8> {
    let mut wire = vec![3];
    wire.extend(b"www");
    wire.push(7);
    wire.extend(format!("z{name:06}").as_bytes());
    wire.push(4);
    wire.extend(b"test\0");
    wire
}

fn about(count: u32, of: u32, part: f64) {
    let expected = f64::from(of) * part;
    // Five standard deviations of a binomial count: a fair choice fails once in two million.
    let slack = 5.0 * (f64::from(of) * part * (1.0 - part)).sqrt();
    let off = (f64::from(count) - expected).abs();
    assert!(off <= slack, "{count} of {of}, not {expected} within {slack}");
}

#[test]
fn least_outstanding_goes_by_queue_then_order_then_latency() {
    let mut fixture = Fixture::new(
        Policy::new(Kind::LeastOutstanding),
        backends(4, |slot, b| b.order = if slot < 2 { 2 } else { 1 }),
    );
    assert_eq!(fixture.ask(1), Some(2), "all idle: lowest order, first as written");
    for (slot, us) in [(2, 500), (3, 300)] {
        fixture.claim(slot, 1);
        fixture.settle(slot, us);
    }
    assert_eq!(fixture.ask(1), Some(3), "same order: lowest latency");
    fixture.claim(3, 1);
    assert_eq!(fixture.ask(1), Some(2));
    fixture.claim(2, 1);
    assert_eq!(fixture.ask(1), Some(0), "a shorter queue beats order");
    fixture.set(0, State::Down);
    assert_eq!(fixture.ask(1), Some(1));
}

#[test]
fn latency_is_smoothed_and_kept_while_a_server_is_down() {
    let mut fixture = Fixture::new(Policy::new(Kind::LeastOutstanding), backends(2, |_, _| {}));
    for (slot, us) in [(0, 1_000), (1, 900)] {
        fixture.claim(slot, 1);
        fixture.settle(slot, us);
    }
    fixture.claim(1, 1);
    fixture.settle(1, 900 + 12_800);
    fixture.pass(1);
    let stats = &fixture.live_state.shards()[0];
    let latency = stats.latency_us[1].load(std::sync::atomic::Ordering::Relaxed);
    assert!((999..=1_001).contains(&latency), "127/128 × 900 + 13700/128 = 1000, not {latency}");
    fixture.claim(1, 1);
    fixture.settle(1, 5_000);
    fixture.set(1, State::Down);
    fixture.claim(1, 1);
    fixture.balancer.settled(BackendSlot(1), None);
    fixture.set(1, State::Up);
    assert_eq!(fixture.ask(1), Some(0), "the returned server is not the fastest");
}

#[test]
fn a_server_that_froze_is_used_again_within_seconds() {
    /// Between two queries, ms.
    const PACE: u64 = 4;
    for kind in [Kind::P2c, Kind::LeastOutstanding] {
        let mut fixture = Fixture::new(Policy::new(kind), backends(2, |_, _| {}));
        fixture.pass(1_000);
        // Server 1 does not respond between 2 s and 2.3 s, then to all at once.
        let mut waiting = Vec::new();
        let mut served = Vec::new();
        for at in (0..8_000_u64).step_by(PACE as usize) {
            fixture.pass(PACE);
            let frozen = (2_000..2_300).contains(&at);
            if !frozen {
                waiting.drain(..).for_each(|since| fixture.settle(1, (at - since) * 1_000));
            }
            let slot = fixture.ask(1).expect("a server");
            fixture.claim(slot, 1);
            if frozen && slot == 1 {
                waiting.push(at);
            } else {
                // A little faster than the other, so that latency alone selects it.
                fixture.settle(slot, if slot == 1 { 190 } else { 200 });
            }
            served.push(slot);
        }
        let part = |from: u64, to: u64| {
            let of = &served[(from / PACE) as usize..(to / PACE) as usize];
            of.iter().filter(|slot| **slot == 1).count() as f64 / of.len() as f64
        };
        assert!(part(1_000, 2_000) > 0.4, "{kind:?}: {} before", part(1_000, 2_000));
        assert!(part(4_300, 8_000) > 0.4, "{kind:?}: {} from 2 s after", part(4_300, 8_000));
    }
}

#[test]
fn two_equal_servers_share_each_second() {
    let mut fixture = Fixture::new(Policy::new(Kind::P2c), backends(2, |_, _| {}));
    let mut noise = ShardRng::from_seed(7);
    let mut in_flight: Vec<(u64, u16, u64)> = Vec::new();
    for second in 0..30_u64 {
        let mut served = [0_u32; 2];
        // 400 queries per second, each answered after 0.9 to 1.1 ms; time in steps of half a
        // millisecond.
        for step in 0..2_000_u64 {
            fixture.now = Tick((second * 2_000 + step) * 500_000);
            fixture.balancer.publish();
            fixture.balancer.begin_batch(fixture.now, &fixture.snapshot);
            let now = fixture.now.0;
            in_flight.retain(|(due, slot, us)| {
                let is_due = *due <= now;
                if is_due {
                    fixture.balancer.settled(BackendSlot(*slot), Some(TickDelta::from_us(*us)));
                }
                !is_due
            });
            if step % 5 == 0 {
                let slot = fixture.ask(1).expect("a server");
                fixture.claim(slot, 1);
                let us = 900 + u64::from(noise.below(200));
                in_flight.push((now + us * 1_000, slot, us));
                served[usize::from(slot)] += 1;
            }
        }
        // Five standard deviations, and a twentieth for latencies that differ by chance.
        assert!(served.iter().all(|n| (130..=270).contains(n)), "second {second}: {served:?}");
    }
}

#[test]
fn a_slow_server_is_asked_seldom() {
    for kind in [Kind::P2c, Kind::LeastOutstanding] {
        let mut fixture = Fixture::new(Policy::new(kind), backends(2, |_, _| {}));
        let mut slow = 0;
        for _ in 0..10_000 {
            fixture.pass(1);
            let slot = fixture.ask(1).expect("a server");
            fixture.claim(slot, 1);
            fixture.settle(slot, if slot == 1 { 50_000 } else { 200 });
            slow += u32::from(slot == 1);
        }
        assert!((5..=30).contains(&slow), "{kind:?}: {slow} queries in 10 s: about one in a second");
    }
}

#[test]
fn first_available_fills_by_order_within_qps() {
    let mut fixture = Fixture::new(
        Policy::new(Kind::FirstAvailable),
        backends(3, |slot, b| b.qps = [2, 3, 0][usize::from(slot)]),
    );
    let mut taken = Vec::new();
    for _ in 0..8 {
        let slot = fixture.ask(1).expect("a server");
        fixture.claim(slot, 1);
        taken.push(slot);
    }
    assert_eq!(taken, [0, 0, 1, 1, 1, 2, 2, 2]);
    fixture.pass(500);
    assert_eq!(fixture.ask(1), Some(0), "half a second: one token of two");
}

#[test]
fn first_available_above_every_limit_is_least_outstanding() {
    let mut fixture = Fixture::new(Policy::new(Kind::FirstAvailable), backends(2, |_, b| b.qps = 1));
    fixture.claim(0, 3);
    fixture.claim(1, 2);
    assert_eq!(fixture.ask(1), Some(1));
    // However long the overload, the debt is one burst: two seconds later the first server is used
    // again.
    fixture.claim(0, 1_000);
    fixture.claim(1, 5_000);
    fixture.pass(2_100);
    assert_eq!(fixture.ask(1), Some(0));
}

#[test]
fn two_shards_keep_one_qps_limit() {
    let policy = Policy::new(Kind::FirstAvailable);
    let mut fixture =
        Fixture::with_shards(policy, backends(2, |slot, b| b.qps = u32::from(slot == 0) * 1_000), 2);
    let mut other = Balancer::new(Arc::clone(&fixture.live_state), 1);
    let client = Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 53)));
    let subject = Subject { qname: &qname(1), client: &client };
    const BATCH: u32 = 16;
    let mut sent = 0;
    // 5 s in batches of 16, one per millisecond on each shard: 32 times the limit.
    for ms in 0..5_000_u64 {
        for shard in [&mut fixture.balancer, &mut other] {
            shard.begin_batch(Tick(0) + TickDelta::from_ms(ms), &fixture.snapshot);
            for _ in 0..BATCH {
                let slot = shard.select(&fixture.snapshot, POOL, &subject, &[], &mut fixture.rng);
                let slot = slot.expect("a server");
                shard.claimed(slot);
                shard.settled(slot, Some(TickDelta::from_us(100)));
                sent += u32::from(slot.0 == 0);
            }
            shard.publish();
        }
    }
    // The burst, five seconds' worth, and the overshoot: a batch of the other shard.
    assert!((5_900..=6_000 + BATCH).contains(&sent), "{sent}");
}

#[test]
fn shards_see_each_others_outstanding() {
    let policy = Policy::new(Kind::LeastOutstanding);
    let mut fixture = Fixture::with_shards(policy, backends(2, |_, _| {}), 2);
    let mut other = Balancer::new(Arc::clone(&fixture.live_state), 1);
    other.begin_batch(Tick(0), &fixture.snapshot);
    other.claimed(BackendSlot(0));
    assert_eq!(fixture.ask(1), Some(0), "not yet published");
    other.publish();
    fixture.pass(1);
    assert_eq!(fixture.ask(1), Some(1));
    other.settled(BackendSlot(0), Some(TickDelta::from_us(100)));
    other.publish();
    fixture.pass(1);
    fixture.claim(1, 1);
    assert_eq!(fixture.ask(1), Some(0));
}

#[test]
fn restarted_shard_has_nothing_outstanding() {
    let mut fixture = Fixture::new(Policy::new(Kind::LeastOutstanding), backends(2, |_, _| {}));
    fixture.claim(0, 7);
    fixture.pass(1);
    assert_eq!(fixture.live_state.outstanding(BackendSlot(0)), 7);
    fixture.balancer = Balancer::new(Arc::clone(&fixture.live_state), 0);
    assert_eq!(fixture.live_state.outstanding(BackendSlot(0)), 0);
    fixture.pass(1);
    fixture.claim(0, 1);
    fixture.pass(1);
    let sent = fixture.live_state.shards()[0].sent[0].load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(sent, 8, "what was sent stays sent");
}

#[test]
fn round_robin_takes_turns_and_skips_dead_servers() {
    let mut fixture = Fixture::new(Policy::new(Kind::RoundRobin), backends(4, |_, _| {}));
    let turns = |fixture: &mut Fixture, n| (0..n).map(|_| fixture.ask(1)).collect::<Vec<_>>();
    assert_eq!(turns(&mut fixture, 5), [0, 1, 2, 3, 0].map(Some));
    fixture.set(0, State::Down);
    fixture.set(2, State::Down);
    assert_eq!(fixture.shares(4, 400), [0, 200, 0, 200]);
}

#[test]
fn round_robin_without_a_usable_server_still_sends() {
    let mut fixture = Fixture::new(Policy::new(Kind::RoundRobin), backends(3, |_, _| {}));
    fixture.set(0, State::Down);
    fixture.set(1, State::Down);
    fixture.set(2, State::Draining);
    assert_eq!(fixture.shares(3, 10), [5, 5, 0], "except to one that drains");
    assert_eq!(fixture.ask_but(1, Some(0)), Some(1));
    fixture.snapshot.globals.round_robin_fail_on_no_server = true;
    assert_eq!(fixture.ask(1), None);
}

#[test]
fn wrandom_goes_by_weight() {
    let mut fixture = Fixture::new(
        Policy::new(Kind::WRandom),
        backends(3, |slot, b| b.weight = [1, 2, 5][usize::from(slot)]),
    );
    let shares = fixture.shares(3, 80_000);
    shares.iter().zip([0.125, 0.25, 0.625]).for_each(|(n, part)| about(*n, 80_000, part));
    fixture.set(2, State::Down);
    let shares = fixture.shares(3, 30_000);
    about(shares[0], 30_000, 1.0 / 3.0);
    assert_eq!(shares[2], 0);
}

#[test]
fn ordered_wrand_takes_the_lowest_group() {
    let mut fixture = Fixture::new(
        Policy::new(Kind::OrderedWRandUntag),
        backends(4, |slot, b| {
            b.order = i32::from(slot / 2);
            b.weight = u32::from(slot % 2) * 2 + 1;
        }),
    );
    let shares = fixture.shares(4, 40_000);
    about(shares[0], 40_000, 0.25);
    assert_eq!(shares[2..], [0, 0]);
    fixture.set(0, State::Down);
    assert_eq!(fixture.shares(4, 100), [0, 100, 0, 0]);
    fixture.set(1, State::Down);
    about(fixture.shares(4, 40_000)[2], 40_000, 0.25);
}

#[test]
fn hashed_policies_are_stable_and_share_by_weight() {
    for kind in [Kind::WHashed, Kind::CHashed] {
        let mut fixture = Fixture::new(
            Policy::new(kind),
            backends(3, |slot, b| b.weight = [100, 200, 500][usize::from(slot)]),
        );
        let first: Vec<_> = (0..1_000).map(|name| fixture.ask(name)).collect();
        let again: Vec<_> = (0..1_000).map(|name| fixture.ask(name)).collect();
        assert_eq!(first, again);
        let shares = fixture.shares(3, 80_000);
        for (n, part) in shares.iter().zip([0.125, 0.25, 0.625]) {
            let off = f64::from(*n) / 80_000.0 / part;
            assert!((0.85..1.15).contains(&off), "{kind:?}: {shares:?}");
        }
    }
}

/// The same on every machine and in every release: changing these numbers moves every operator's
/// names to other servers.
#[test]
fn chashed_chooses_the_same_everywhere() {
    let mut fixture = Fixture::new(Policy::new(Kind::CHashed), backends(5, |_, _| {}));
    let chosen: Vec<_> = (0..16).filter_map(|name| fixture.ask(name)).collect();
    assert_eq!(chosen, CHASHED_EXPECTED);
    // In whichever order and slots the servers are given.
    let mut turned = Fixture::new(Policy::new(Kind::CHashed), {
        let mut b = backends(5, |slot, b| b.id = format!("backend-{}", 4 - slot));
        b.reverse();
        b
    });
    let chosen: Vec<_> = (0..16).filter_map(|name| turned.ask(name)).map(|s| 4 - s).collect();
    assert_eq!(chosen, CHASHED_EXPECTED);
}

const CHASHED_EXPECTED: [u16; 16] = [1, 0, 2, 3, 1, 2, 4, 1, 3, 1, 4, 4, 0, 3, 3, 1];

#[test]
fn chashed_pool_without_a_ring_builds_one() {
    let mut fixture = Fixture::new(Policy::new(Kind::CHashed), backends(5, |_, _| {}));
    fixture.snapshot.pools[0].ring = None;
    fixture.reload();
    let chosen: Vec<_> = (0..16).filter_map(|name| fixture.ask(name)).collect();
    assert_eq!(chosen, CHASHED_EXPECTED);
}

#[test]
fn ring_is_bounded_and_proportional() {
    let of = |weights: [u32; 2]| {
        let all = backends(2, |slot, b| b.weight = weights[usize::from(slot)]);
        Ring::build(&all.iter().map(|b| (b.slot, b)).collect::<Vec<_>>()).len()
    };
    assert_eq!(of([1, 1]), 200);
    assert_eq!(of([1, 9]), 1_000);
    assert_eq!(of([100, 1_000]), 1_100);
    assert!(of([1, u32::MAX]) <= (1 << 18) + 1);
    assert!(Ring::build(&[]).is_empty());
}

#[test]
fn hash_key_is_configurable() {
    let mut policy = Policy::new(Kind::CHashed);
    policy.hash_key = HashKey::Zone(1);
    let mut fixture = Fixture::new(policy.clone(), backends(5, |_, _| {}));
    let all = fixture.ask(0);
    assert!((0..100).all(|name| fixture.ask(name) == all), "one zone, one server");
    policy.hash_key = HashKey::Client;
    let mut fixture = Fixture::new(policy.clone(), backends(5, |_, _| {}));
    let all = fixture.ask(0);
    assert!((0..100).all(|name| fixture.ask(name) == all), "one client, one server");
    policy.hash_key = HashKey::QName;
    policy.seed = 1;
    let mut fixture = Fixture::new(policy, backends(5, |_, _| {}));
    let chosen: Vec<_> = (0..16).filter_map(|name| fixture.ask(name)).collect();
    assert_ne!(chosen, CHASHED_EXPECTED, "another seed, another layout");
}

#[test]
fn p2c_prefers_the_shorter_wait() {
    let mut fixture = Fixture::new(Policy::new(Kind::P2c), backends(2, |_, _| {}));
    fixture.claim(0, 3);
    assert_eq!(fixture.shares(2, 50), [0, 50], "unmeasured: the shorter queue");
    for (slot, us) in [(0, 100), (1, 1_000)] {
        fixture.claim(slot, 1);
        fixture.settle(slot, us);
    }
    assert_eq!(fixture.shares(2, 50), [50, 0], "3 + 1 at 100 us before 0 + 1 at 1000 us");
    fixture.claim(0, 18);
    assert_eq!(fixture.shares(2, 50), [0, 50], "22 at 100 us are more than twice the wait");
    let mut even = Fixture::new(Policy::new(Kind::P2c), backends(5, |_, _| {}));
    even.shares(5, 50_000).iter().for_each(|n| about(*n, 50_000, 0.2));
}

#[test]
fn order_groups_work_with_every_policy() {
    for kind in KINDS {
        let mut policy = Policy::new(kind);
        policy.ordered = true;
        let mut fixture = Fixture::new(policy, backends(6, |slot, b| b.order = i32::from(slot / 2)));
        // Queues that would mislead leastOutstanding and p2c.
        fixture.claim(0, 9);
        fixture.claim(1, 9);
        let shares = fixture.shares(6, 200);
        assert_eq!(shares[2..].iter().sum::<u32>(), 0, "{kind:?}");
        fixture.set(0, State::Down);
        assert_eq!(fixture.shares(6, 50)[1], 50, "{kind:?}");
        fixture.set(1, State::Ejected);
        assert_eq!(fixture.shares(6, 50)[2..4].iter().sum::<u32>(), 50, "{kind:?}");
    }
}

#[test]
fn soft_maximum_skips_a_server() {
    for kind in KINDS {
        let mut fixture = Fixture::new(Policy::new(kind), backends(3, |_, b| b.outstanding_soft_max = 4));
        fixture.claim(0, 4);
        fixture.claim(1, 3);
        assert!((0..200).all(|name| fixture.ask(name) != Some(0)), "{kind:?}");
        fixture.claim(1, 1);
        fixture.claim(2, 4);
        assert_eq!(fixture.ask(1), None, "{kind:?}");
    }
}

#[test]
fn panic_uses_the_whole_pool() {
    let mut fixture = Fixture::new(
        Policy::new(Kind::WRandom),
        backends(5, |slot, b| {
            if slot == 4 {
                b.health.mode = HealthMode::Down;
            }
        }),
    );
    fixture.snapshot.pools[0].panic_ppm = PPM / 2;
    fixture.reload();
    fixture.set(4, State::Down);
    fixture.set(0, State::Down);
    fixture.set(1, State::Ejected);
    assert_eq!(fixture.shares(5, 100)[..2], [0, 0], "half of four are up: not under half");
    fixture.set(2, State::Down);
    let shares = fixture.shares(5, 40_000);
    shares[..4].iter().for_each(|n| about(*n, 40_000, 0.25));
    assert_eq!(shares[4], 0, "forced down stays down");
    fixture.set(1, State::Draining);
    fixture.set(3, State::Down);
    let shares = fixture.shares(5, 30_000);
    assert_eq!((shares[1], shares[4]), (0, 0));
    about(shares[0], 30_000, 1.0 / 3.0);
}

#[test]
fn cold_server_takes_part_of_its_share() {
    for kind in [Kind::WRandom, Kind::RoundRobin, Kind::CHashed, Kind::LeastOutstanding] {
        let mut fixture = Fixture::new(Policy::new(kind), backends(2, |_, b| b.weight = 1_000));
        let usual = f64::from(fixture.shares(2, 20_000)[0]) / 20_000.0;
        fixture.live_state.set_warmth(BackendSlot(0), PPM / 10);
        fixture.pass(1);
        let share = fixture.shares(2, 20_000)[0];
        let part = f64::from(share) / 20_000.0;
        assert!((part - usual / 10.0).abs() < 0.012, "{kind:?}: {part} of {usual}");
        fixture.set(1, State::Down);
        assert_eq!(fixture.shares(2, 100), [100, 0], "{kind:?}: no other, so it takes all");
    }
}

#[test]
fn equally_cold_servers_share_equally() {
    let mut fixture = Fixture::new(Policy::new(Kind::WRandom), backends(4, |_, _| {}));
    (0..4).for_each(|slot| fixture.live_state.set_warmth(BackendSlot(slot), PPM / 100));
    fixture.pass(1);
    fixture.shares(4, 40_000).iter().for_each(|n| about(*n, 40_000, 0.25));
}

#[test]
fn bounded_load_skips_the_overloaded() {
    for kind in [Kind::WRandom, Kind::WHashed, Kind::CHashed, Kind::OrderedWRandUntag] {
        let mut policy = Policy::new(kind);
        policy.bounded = Some(1.5);
        let mut fixture = Fixture::new(policy, backends(4, |_, b| b.weight = 100));
        fixture.claim(0, 20);
        fixture.claim(1, 3);
        assert!((0..300).all(|name| fixture.ask(name) != Some(0)), "{kind:?}");
        fixture.snapshot.pools[0].policy.bounded = Some(0.01);
        fixture.reload();
        fixture.claim(2, 3);
        fixture.claim(3, 3);
        assert!(
            (0..300).all(|name| fixture.ask(name).is_some()),
            "{kind:?}: when all are excluded, all are used"
        );
    }
}

#[test]
fn empty_pool_has_no_server() {
    for kind in KINDS {
        assert_eq!(Fixture::new(Policy::new(kind), Vec::new()).ask(1), None, "{kind:?}");
    }
}

#[test]
fn new_owner_of_a_slot_starts_unmeasured() {
    let mut fixture = Fixture::new(Policy::new(Kind::LeastOutstanding), backends(2, |_, _| {}));
    for (slot, us) in [(0, 900), (1, 500)] {
        fixture.claim(slot, 1);
        fixture.settle(slot, us);
    }
    assert_eq!(fixture.ask(1), Some(1));
    let mut another = backend(0);
    another.id = String::from("another");
    fixture.snapshot.backends[0] = Some(Arc::new(another));
    fixture.reload();
    assert_eq!(fixture.ask(1), Some(0));
}

mod concentrate {
    use super::*;

    fn fixture(n: u16, shares: &[u32]) -> Fixture {
        let mut fixture =
            Fixture::new(Policy::new(Kind::Concentrate), backends(n, |slot, b| b.order = slot.into()));
        set(&mut fixture, shares);
        fixture
    }

    fn set(fixture: &mut Fixture, shares: &[u32]) {
        for (slot, share) in (0..).zip(shares) {
            fixture.live_state.set_share(BackendSlot(slot), share * 10_000, 0);
        }
        fixture.pass(1);
    }

    #[test]
    fn first_server_takes_all_until_shares_are_published() {
        let mut fixture = fixture(3, &[]);
        assert_eq!(fixture.shares(3, 100), [100, 0, 0]);
        fixture.set(0, State::Down);
        assert_eq!(fixture.shares(3, 100), [0, 100, 0]);
    }

    #[test]
    fn names_follow_the_shares() {
        let mut fixture = fixture(4, &[60, 30, 10, 0]);
        let shares = fixture.shares(4, 50_000);
        shares.iter().zip([0.6, 0.3, 0.1, 0.0]).for_each(|(n, part)| {
            let got = f64::from(*n) / 50_000.0;
            assert!((got - part).abs() < 0.01, "{shares:?}");
        });
    }

    #[test]
    fn changed_share_moves_only_names_at_its_border() {
        let mut fixture = fixture(3, &[60, 40, 0]);
        let before: Vec<_> = (0..10_000).map(|name| fixture.ask(name)).collect();
        set(&mut fixture, &[55, 45, 0]);
        let after: Vec<_> = (0..10_000).map(|name| fixture.ask(name)).collect();
        let moved: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
        assert!((400..600).contains(&moved.len()), "5 % of the names, not {}", moved.len());
        assert!(moved.iter().all(|(b, a)| (**b, **a) == (Some(0), Some(1))));
    }

    #[test]
    fn lost_server_is_spread_over_all_survivors() {
        let mut fixture = fixture(4, &[50, 50, 0, 0]);
        let before: Vec<_> = (0..30_000).map(|name| fixture.ask(name)).collect();
        fixture.set(0, State::Down);
        let after: Vec<_> = (0..30_000).map(|name| fixture.ask(name)).collect();
        let stayed = before.iter().zip(&after).all(|(b, a)| *b != Some(1) || *a == Some(1));
        assert!(stayed, "a survivor keeps its own names");
        let taken = |slot| after.iter().filter(|a| **a == Some(slot)).count() as f64 / 30_000.0;
        assert!((taken(1) - 4.0 / 6.0).abs() < 0.01 && (taken(2) - 1.0 / 6.0).abs() < 0.01);
    }

    #[test]
    fn hot_zone_spills_over_the_bound() {
        let mut fixture = fixture(4, &[25, 25, 25, 25]);
        let hot = fixture.ask(7);
        let elsewhere = (0..10_000).filter(|_| fixture.ask(7) != hot).count();
        // One name alone: all of it above 1.25 × 25 % spills.
        assert!((6_500..7_000).contains(&elsewhere), "{elsewhere}");
    }

    #[test]
    fn standby_share_is_random_and_small() {
        let mut fixture = fixture(3, &[100, 0, 0]);
        fixture.live_state.set_share(BackendSlot(1), 0, PPM / 50);
        fixture.pass(1);
        let chosen = (0..50_000).filter(|_| fixture.ask(7) == Some(1)).count();
        about(u32::try_from(chosen).expect("small"), 50_000, 0.02);
    }

    #[test]
    fn retry_selects_another_server() {
        let mut fixture = fixture(3, &[100, 0, 0]);
        assert!((0..100).all(|name| matches!(fixture.ask_but(name, Some(0)), Some(1 | 2))));
    }

    #[test]
    fn zone_is_hashed_by_default() {
        assert_eq!(Policy::new(Kind::Concentrate).hash_key, HashKey::Zone(2));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the state of the backends: never an unusable server, never the avoided one, and
    /// always one if there is one.
    #[test]
    fn selected_server_is_usable(
        kind in 0..KINDS.len(),
        ordered: bool,
        bounded in proptest::option::of(0.1..3.0_f64),
        members in proptest::collection::vec((0..4_u8, 1..300_u32, 0..3_i32, 0..4_u32, 0..=PPM, 0..500_000_u32), 1..12),
        avoid in proptest::option::of(0..12_u16),
        seed: u64,
    ) {
        let mut policy = Policy::new(KINDS[kind]);
        (policy.ordered, policy.bounded) = (ordered, bounded);
        let all = backends(u16::try_from(members.len()).expect("small"), |slot, b| {
            let (_, weight, order, soft_max, _, _) = members[usize::from(slot)];
            (b.weight, b.order, b.outstanding_soft_max) = (weight, order, soft_max);
        });
        let mut fixture = Fixture::new(policy, all);
        fixture.snapshot.globals.round_robin_fail_on_no_server = true;
        fixture.rng = ShardRng::from_seed(seed);
        let states = [State::Down, State::Up, State::Draining, State::Ejected];
        for (slot, (state, _, _, _, warmth, share)) in (0..).map(BackendSlot).zip(&members) {
            fixture.live_state.set_state(slot, states[usize::from(*state)]);
            fixture.live_state.set_warmth(slot, *warmth);
            fixture.live_state.set_share(slot, *share, share / 10);
        }
        fixture.pass(1);
        let mut outstanding = vec![0; members.len()];
        for name in 0..60 {
            let able = |slot: usize| {
                let (state, _, _, soft_max, _, _) = members[slot];
                state == 1
                    && Some(slot) != avoid.map(usize::from)
                    && (soft_max == 0 || outstanding[slot] < soft_max)
            };
            match fixture.ask_but(name, avoid) {
                Some(slot) => {
                    prop_assert!(able(usize::from(slot)), "chose {slot}");
                    fixture.claim(slot, 1);
                    outstanding[usize::from(slot)] += 1;
                }
                None => prop_assert!(!(0..members.len()).any(able), "chose none"),
            }
        }
    }

    /// leastOutstanding selects the least loaded of a list that is searched anew each time, by what
    /// both shards have published and this one has done since.
    #[test]
    fn least_outstanding_is_the_least_of_all(
        orders in proptest::collection::vec(0..3_i32, 1..10),
        steps in proptest::collection::vec((0..5_u8, 0..10_usize, 0..3_000_u64), 0..120),
    ) {
        let n = orders.len();
        let all = backends(u16::try_from(n).expect("small"), |slot, b| b.order = orders[usize::from(slot)]);
        let mut fixture = Fixture::with_shards(Policy::new(Kind::LeastOutstanding), all, 2);
        let mut other = Balancer::new(Arc::clone(&fixture.live_state), 1);
        other.begin_batch(Tick(0), &fixture.snapshot);
        // For each shard: outstanding, nanoseconds; what the first has last read of the second.
        let mut counts = [vec![(0_u32, 0_u64); n], vec![(0, 0); n]];
        let mut seen = vec![(0, 0); n];
        // When the first shard last measured each; the time of the second stands still.
        let mut measured = vec![Tick(0); n];
        for (what, at, us) in steps {
            let (at, shard) = (at % n, usize::from(what & 1));
            let slot = BackendSlot(u16::try_from(at).expect("small"));
            let balancer = if shard == 0 { &mut fixture.balancer } else { &mut other };
            let count = &mut counts[shard][at];
            match what {
                0 | 1 => {
                    balancer.claimed(slot);
                    count.0 += 1;
                }
                2 | 3 if count.0 > 0 => {
                    balancer.settled(slot, Some(TickDelta::from_us(us)));
                    let sample = us * 1_000;
                    let mut parts = 1;
                    if shard == 0 {
                        let pause = fixture.now.since(std::mem::replace(&mut measured[at], fixture.now));
                        if sample < count.1 {
                            parts = (pause.0 * 128 / TickDelta::from_ms(250).0).clamp(1, 128);
                        }
                    }
                    let smooth = match count.1 {
                        0 => sample,
                        before => before - before / 128 * parts + sample / 128 * parts,
                    };
                    *count = (count.0 - 1, smooth.max(1));
                }
                2 | 3 => {}
                _ => {
                    other.publish();
                    fixture.pass(1);
                    seen.clone_from(&counts[1]);
                }
            }
            let rank = |at: &usize| {
                let (own, others) = (counts[0][*at], seen[*at]);
                let measured: Vec<u64> = [own.1, others.1].into_iter().filter(|l| *l > 0).collect();
                let sum: u64 = measured.iter().map(|ns| ns.div_ceil(1_000)).sum();
                (own.0 + others.0, orders[*at], sum.checked_div(measured.len() as u64).unwrap_or(0), *at)
            };
            let least = (0..n).min_by_key(rank).expect("a server");
            prop_assert_eq!(fixture.ask(1).map(usize::from), Some(least));
        }
    }

    /// The loss of a server moves its own names and no other.
    #[test]
    fn chashed_remaps_only_the_lost_share(
        weights in proptest::collection::vec(1..1_000_u32, 2..8),
        lost in 0..8_usize,
    ) {
        let lost = u16::try_from(lost % weights.len()).expect("small");
        let n = u16::try_from(weights.len()).expect("small");
        let mut fixture = Fixture::new(Policy::new(Kind::CHashed), backends(n, |slot, b| b.weight = weights[usize::from(slot)]));
        let before: Vec<_> = (0..500).map(|name| fixture.ask(name)).collect();
        fixture.set(lost, State::Down);
        for (name, before) in (0..).zip(before) {
            let after = fixture.ask(name);
            prop_assert!(after != Some(lost));
            prop_assert!(before == Some(lost) || before == after);
        }
    }

    /// With bounded load no queue grows beyond its bound, except by rounding.
    #[test]
    fn bounded_load_holds(
        kind in 0..4_usize,
        factor in 1.0..3.0_f64,
        weights in proptest::collection::vec(1..20_u32, 2..8),
        names in 1..50_u32,
    ) {
        let kind = [Kind::WRandom, Kind::WHashed, Kind::CHashed, Kind::OrderedWRandUntag][kind];
        let mut policy = Policy::new(kind);
        policy.bounded = Some(factor);
        let n = u16::try_from(weights.len()).expect("small");
        let mut fixture = Fixture::new(policy, backends(n, |slot, b| b.weight = weights[usize::from(slot)]));
        let sum = f64::from(weights.iter().sum::<u32>());
        let mut queues = vec![0_u32; weights.len()];
        for total in 0..400_u32 {
            let slot = fixture.ask(total % names).expect("a server");
            let at = usize::from(slot);
            let bound = factor * f64::from(weights[at]) * f64::from(total + 1) / sum;
            prop_assert!(f64::from(queues[at]) <= bound + 1e-9, "{} above {bound}", queues[at]);
            fixture.claim(slot, 1);
            queues[at] += 1;
        }
    }
}
