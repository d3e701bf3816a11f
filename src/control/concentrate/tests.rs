//! The controller, window by window, with synthetic values; `tests/concentrate.rs` tests the whole
//! in front of simulated resolvers.

use crate::control::concentrate::gauge::Gauge;
use crate::control::concentrate::*;
use crate::stats::histogram::{BUCKETS, bucket};

/// A margin that is small beside these latencies, so that the factor decides.
fn settings() -> Concentrate {
    Concentrate { full_margin: TickDelta::from_us(50), ..Concentrate::default() }
}

const WINDOW: TickDelta = TickDelta::from_ms(200);
const US: u64 = 1_000;

/// Builds a histogram from counts of answers per latency, microseconds.
fn answers(kinds: &[(u32, u64)]) -> Vec<u32> {
    let mut counts = vec![0; BUCKETS];
    kinds.iter().for_each(|(n, us)| counts[bucket(us * US)] += n);
    counts
}

/// Returns a gauge after `windows` of each of these answers.
fn gauge(seen: &[(usize, &[(u32, u64)])]) -> Gauge {
    let (mut gauge, mut now) = (Gauge::new(), Tick(0));
    for (windows, kinds) in seen {
        for _ in 0..*windows {
            now = now + WINDOW;
            gauge.observe(now, &answers(kinds), &settings());
        }
    }
    gauge
}

const WARM: &[(u32, u64)] = &[(700, 100), (300, 20_000)];

#[test]
fn cache_misses_do_not_make_a_server_full() {
    for after in [
        &[(700, 100), (300, 200_000)][..],
        // Cold: first the fastest quarter is still hits, then only the fastest tenth.
        &[(400, 100), (600, 200_000)],
        &[(200, 100), (800, 200_000)],
    ] {
        let gauge = gauge(&[(20, WARM), (20, after)]);
        assert!(!gauge.is_full() && gauge.is_good(), "{after:?}");
    }
}

#[test]
fn slow_cache_hits_make_a_server_full() {
    for (after, full) in [
        (&[(700, 119), (300, 20_000)][..], false),
        (&[(700, 185), (300, 20_000)], false),
        (&[(700, 225), (300, 20_000)], true),
        (&[(1_000, 90_000)], true),
        (&[(400, 225), (600, 20_000)], true),
    ] {
        let gauge = gauge(&[(20, WARM), (3, after)]);
        assert_eq!(gauge.is_full(), full, "{after:?}");
    }
    assert!(!gauge(&[(20, WARM), (2, &[(1_000, 90_000)])]).is_full(), "two of five are not enough");
}

#[test]
fn too_few_answers_are_kept_for_the_next_window() {
    let mut gauge = gauge(&[(20, WARM)]);
    let slow = answers(&[(12, 90_000)]);
    let settings = settings();
    let start = Tick(60_000_000_000);
    for window in 0..8 {
        gauge.observe(start + TickDelta(WINDOW.0 * window), &slow, &settings);
        assert!(!gauge.is_full(), "window {window}: under three windows of 32");
    }
    gauge.observe(start + TickDelta(WINDOW.0 * 8), &slow, &settings);
    assert!(gauge.is_full());
}

#[test]
fn an_old_floor_expires() {
    let mut gauge = gauge(&[(20, WARM)]);
    let settings = settings();
    let slower = answers(&[(1_000, 400)]);
    for second in 1..=599 {
        gauge.observe(Tick(second * 1_000_000_000), &slower, &settings);
    }
    assert!(gauge.is_full() && gauge.floor_ns().is_some_and(|f| f < 110 * US));
    for second in 600..=670 {
        gauge.observe(Tick(second * 1_000_000_000), &slower, &settings);
    }
    assert!(!gauge.is_full() && gauge.floor_ns().is_some_and(|f| f > 380 * US));
}

/// A pool under constant load, whose servers' cache hits take `latency`.
struct Pool {
    controller: Concentrator,
    now: Tick,
    rate: f64,
    usable: Vec<bool>,
    orders: Vec<i32>,
    slots: Vec<u16>,
    shares: Vec<Share>,
}

impl Pool {
    fn new(servers: usize, rate: f64) -> Self {
        let mut pool = Self {
            controller: Concentrator::new(settings()),
            now: Tick(1),
            rate,
            usable: vec![true; servers],
            orders: (0..).take(servers).collect(),
            slots: (0..).take(servers).collect(),
            shares: Vec::new(),
        };
        pool.pass(1, |_, _| 100);
        pool
    }

    /// Simulates `seconds`; `latency` is a function of server and its queries per second,
    /// microseconds.
    fn pass(&mut self, seconds: u64, latency: impl Fn(usize, f64) -> u64) {
        self.pass_with(seconds, latency, |_| 0.0);
    }

    /// The same with a part of a server's queries unanswered.
    fn pass_with(&mut self, seconds: u64, latency: impl Fn(usize, f64) -> u64, lost: impl Fn(usize) -> f64) {
        self.windows(seconds * 5, latency, lost);
    }

    fn windows(&mut self, windows: u64, latency: impl Fn(usize, f64) -> u64, lost: impl Fn(usize) -> f64) {
        for _ in 0..windows {
            self.now = self.now + WINDOW;
            let windows: Vec<_> = (0..self.usable.len())
                .map(|at| {
                    let rate = self.rate * self.part(at);
                    let queries = (rate / 5.0) as u32;
                    let timeouts = (f64::from(queries) * lost(at)) as u32;
                    let hits = (queries - timeouts) * 7 / 10;
                    let misses = queries - timeouts - hits;
                    let us = latency(at, rate);
                    (queries, timeouts, answers(&[(hits, us), (misses, us + 20_000)]))
                })
                .collect();
            let windows: Vec<_> = windows
                .iter()
                .enumerate()
                .map(|(at, (queries, timeouts, latencies))| WindowStats {
                    slot: BackendSlot(self.slots[at]),
                    order: self.orders[at],
                    usable: self.usable[at],
                    queries: u64::from(*queries),
                    responses: u64::from(queries - timeouts),
                    timeouts: u64::from(*timeouts),
                    latencies,
                })
                .collect();
            self.shares = self.controller.tick(self.now, &windows).to_vec();
        }
    }

    /// Returns the part of the pool's queries that a server gets.
    fn part(&self, at: usize) -> f64 {
        let sum: u32 = self.shares.iter().map(|s| s.share_ppm).sum();
        self.shares
            .get(at)
            .map_or(0.0, |s| f64::from(s.share_ppm) / f64::from(sum.max(1)) + f64::from(s.trickle_ppm) / 1e6)
    }

    fn parts(&self) -> Vec<u32> {
        (0..self.usable.len()).map(|at| (self.part(at) * 100.0).round() as u32).collect()
    }
}

fn idle(_: usize, _: f64) -> u64 {
    100
}

/// Returns the latency of a server that queues from `capacity` queries per second on.
fn up_to(capacity: f64) -> impl Fn(usize, f64) -> u64 {
    move |_, rate| {
        if rate > capacity {
            2_000
        } else if rate > 0.7 * capacity {
            130
        } else {
            100
        }
    }
}

#[test]
fn the_first_server_gets_all_from_the_start() {
    let mut pool = Pool::new(4, 10_000.0);
    assert_eq!(pool.parts(), [100, 1, 0, 0], "all, and the trickle of the standby");
    pool.pass(80, idle);
    assert_eq!(pool.parts(), [100, 1, 0, 0]);
    // With all of them lost, no cache is warm any more.
    pool.usable = vec![false; 4];
    pool.pass(60, idle);
    pool.usable = vec![false, true, true, true];
    pool.pass(1, idle);
    assert_eq!(pool.parts(), [0, 100, 1, 0]);
    pool.usable[0] = true;
    pool.pass(1, idle);
    assert!(pool.part(0) < 0.2, "the first joins a warm one: {:?}", pool.parts());
}

#[test]
fn a_pool_without_queries_is_left_alone() {
    let mut pool = Pool::new(3, 0.0);
    pool.pass(100, idle);
    assert_eq!(pool.parts()[0], 100);
    assert!(pool.shares.iter().all(|s| s.share_ppm <= PPM));
}

#[test]
fn a_full_server_is_capped_and_the_next_one_opens() {
    let mut pool = Pool::new(4, 10_000.0);
    pool.pass(80, up_to(20_000.0));
    pool.rate = 24_000.0;
    pool.pass(3, up_to(20_000.0));
    assert!(pool.part(0) < 20_000.0 / 24_000.0, "{:?}", pool.parts());
    pool.pass(60, up_to(20_000.0));
    let first = pool.part(0) * pool.rate;
    assert!((14_000.0..20_000.0).contains(&first), "{first}");
    assert!(pool.part(1) > 0.15 && pool.part(2) < 0.02, "{:?}", pool.parts());
}

#[test]
fn a_server_closes_only_after_a_minute_well_below_the_cap() {
    let mut pool = Pool::new(4, 10_000.0);
    pool.pass(80, up_to(20_000.0));
    pool.rate = 24_000.0;
    pool.pass(60, up_to(20_000.0));
    // Under the cap of the first, but not under 70 % of it.
    pool.rate = 14_000.0;
    pool.pass(300, up_to(20_000.0));
    assert!(pool.part(1) > 0.03, "{:?}", pool.parts());
    pool.rate = 8_000.0;
    pool.pass(50, up_to(20_000.0));
    assert!(pool.part(1) > 0.03, "not yet: {:?}", pool.parts());
    pool.pass(30, up_to(20_000.0));
    assert_eq!(pool.parts()[..2], [100, 1]);
}

#[test]
fn a_cap_rises_slowly_while_latency_is_good() {
    let mut pool = Pool::new(2, 10_000.0);
    pool.pass(80, up_to(20_000.0));
    pool.rate = 24_000.0;
    pool.pass(20, up_to(20_000.0));
    let capped = pool.part(0) * pool.rate;
    pool.pass(60, idle);
    let raised = pool.part(0) * pool.rate;
    // Six raises at most; fewer steps are published.
    assert!(raised > capped * 1.1 && raised < capped * 1.35, "{capped} became {raised}");
}

#[test]
fn latency_unrelated_to_load_becomes_the_floor() {
    let mut pool = Pool::new(3, 10_000.0);
    pool.pass(80, idle);
    // The path to the first is longer by a millisecond at any rate.
    let longer = |at, _| if at == 0 { 1_100 } else { 100 };
    pool.pass(3, longer);
    assert!((0.7..0.85).contains(&pool.part(0)), "an experiment: {:?}", pool.parts());
    pool.pass(6, longer);
    assert!(pool.part(0) > 0.97, "it has failed: {:?}", pool.parts());
    pool.pass(590, longer);
    assert!(pool.part(0) > 0.97, "{:?}", pool.parts());
}

#[test]
fn latency_that_the_standby_sees_too_is_not_load() {
    let mut pool = Pool::new(3, 10_000.0);
    pool.pass(80, idle);
    for _ in 0..60 {
        pool.pass(1, |_, _| 5_000);
        assert_eq!(pool.parts()[0], 100);
    }
}

#[test]
fn a_lost_server_spreads_the_load_and_returns_with_a_small_share() {
    let mut pool = Pool::new(4, 10_000.0);
    pool.pass(80, idle);
    pool.usable[0] = false;
    pool.pass(1, idle);
    assert_eq!(pool.parts(), [0, 33, 33, 33]);
    pool.pass(80, idle);
    assert_eq!(pool.parts(), [0, 100, 1, 0]);
    pool.usable[0] = true;
    pool.pass(2, idle);
    assert!((0.05..0.2).contains(&pool.part(0)), "{:?}", pool.parts());
    pool.pass(80, idle);
    assert_eq!(pool.parts(), [100, 1, 0, 0]);
}

#[test]
fn the_loss_of_an_idle_server_changes_nothing() {
    let mut pool = Pool::new(3, 10_000.0);
    pool.pass(80, idle);
    pool.usable[1] = false;
    pool.pass(5, idle);
    assert_eq!(pool.parts(), [100, 0, 1], "the trickle goes to the next");
}

#[test]
fn a_removed_server_spreads_the_load_like_a_lost_one() {
    let mut pool = Pool::new(4, 10_000.0);
    pool.pass(80, idle);
    // The next configuration lacks the first.
    (pool.usable, pool.orders) = (vec![true; 3], vec![1, 2, 3]);
    pool.slots = vec![1, 2, 3];
    pool.pass(1, idle);
    assert_eq!(pool.parts(), [33, 33, 33]);
    pool.pass(80, idle);
    assert_eq!(pool.parts(), [100, 1, 0]);
}

#[test]
fn among_equals_a_returned_server_does_not_take_over() {
    let mut pool = Pool::new(3, 10_000.0);
    pool.orders = vec![1; 3];
    pool.pass(80, idle);
    pool.usable[0] = false;
    pool.pass(80, idle);
    assert_eq!(pool.parts()[..2], [0, 100]);
    pool.usable[0] = true;
    pool.pass(80, idle);
    assert_eq!(pool.parts(), [1, 100, 0]);
}

#[test]
fn timeouts_alone_do_not_make_a_server_full() {
    let mut pool = Pool::new(3, 10_000.0);
    pool.pass(80, idle);
    pool.pass_with(20, idle, |at| if at == 0 { 0.05 } else { 0.0 });
    assert_eq!(pool.parts()[0], 100, "the fast answers are as fast as before");
    pool.pass_with(5, idle, |at| if at == 0 { 1.0 } else { 0.0 });
    assert!(pool.part(0) < 0.1, "a silent server is passed over: {:?}", pool.parts());
}

#[test]
fn a_server_that_returns_while_the_load_is_spread_begins_small() {
    let mut pool = Pool::new(3, 3_000.0);
    pool.pass(80, idle);
    pool.usable[0] = false;
    pool.pass(5, idle);
    assert_eq!(pool.parts(), [0, 50, 50]);
    pool.usable[0] = true;
    pool.pass(1, idle);
    assert!((0.05..0.12).contains(&pool.part(0)), "{:?}", pool.parts());
    pool.pass(40, idle);
    assert!(pool.part(0) > 0.25, "it warms up: {:?}", pool.parts());
}

#[test]
fn a_silent_server_is_passed_over_after_one_window() {
    let mut pool = Pool::new(3, 10_000.0);
    pool.pass(80, idle);
    assert_eq!(pool.parts(), [100, 1, 0]);
    let silent = |at: usize| if at == 0 { 1.0 } else { 0.0 };
    pool.windows(1, idle, silent);
    assert_eq!(pool.parts(), [0, 50, 50], "spread: their capacity is not known");
    assert!((0.0005..0.002).contains(&pool.part(0)), "it is asked whether it is back: {}", pool.part(0));
    pool.pass_with(10, idle, silent);
    assert_eq!(pool.parts(), [0, 50, 50]);
    pool.windows(1, idle, |_| 0.0);
    assert_eq!(pool.parts(), [89, 11, 1], "its cache has cooled down by a tenth in ten seconds");
    // A health check that finds it down later begins as ever.
    pool.windows(1, idle, silent);
    pool.usable[0] = false;
    pool.pass(80, idle);
    assert_eq!(pool.parts(), [0, 100, 1]);
    pool.usable[0] = true;
    pool.windows(1, idle, |_| 0.0);
    assert!(pool.part(0) < 0.1, "its cache is cold: {:?}", pool.parts());
}

#[test]
fn silence_of_all_or_of_few_queries_moves_nothing() {
    let mut pool = Pool::new(3, 10_000.0);
    pool.pass(80, idle);
    pool.windows(2, idle, |_| 1.0);
    assert_eq!(pool.parts(), [100, 1, 0], "the balancer or its network has paused");
    let mut slow = Pool::new(3, 150.0);
    slow.pass(80, idle);
    slow.windows(1, idle, |at| if at == 0 { 1.0 } else { 0.0 });
    assert_eq!(slow.parts()[0], 100, "30 queries of a window say nothing");
}

#[test]
fn a_server_recovers_faster_from_an_incident_than_from_overload() {
    let mut pool = Pool::new(3, 10_000.0);
    pool.pass(80, idle);
    pool.pass_with(5, idle, |at| if at == 0 { 1.0 } else { 0.0 });
    assert!(pool.part(0) < 0.1);
    pool.pass(120, idle);
    assert!(pool.part(0) > 0.75, "{:?}", pool.parts());
}

mod driver {
    use super::*;
    use crate::balance::tests::{backend, snapshot};
    use crate::model::Snapshot;
    use crate::model::policy::{Kind, Policy};
    use crate::stats::live::{LiveState, State};

    /// Returns three servers, one per order.
    fn pool(ordered: bool) -> Snapshot {
        let mut policy = Policy::new(Kind::Concentrate);
        policy.ordered = ordered;
        let backends: Vec<_> = (0..3).map(backend).collect();
        let ordered = backends.into_iter().map(|mut b| {
            b.order = b.slot.0.into();
            b
        });
        snapshot(policy, &ordered.collect::<Vec<_>>())
    }

    fn shares(live_state: &LiveState) -> Vec<u32> {
        (0..3).map(|s| live_state.backend(BackendSlot(s)).share_ppm() / 10_000).collect()
    }

    #[test]
    fn shares_are_set_for_the_usable_and_only_when_they_change() {
        let (live_state, snapshot) = (LiveState::new(2, 64), pool(false));
        live_state.set_state(BackendSlot(1), State::Up);
        live_state.set_state(BackendSlot(2), State::Up);
        let mut driver = ConcentrateDriver::new();
        driver.tick(Tick(0), &snapshot, &live_state);
        assert_eq!(shares(&live_state), [0, 100, 0]);
        let epoch = live_state.epoch();
        for window in 1..20 {
            driver.tick(Tick(window * WINDOW.0), &snapshot, &live_state);
        }
        assert_eq!(live_state.epoch(), epoch, "nothing to rebuild");
    }

    #[test]
    fn with_order_groups_other_groups_get_no_share() {
        let (live_state, snapshot) = (LiveState::new(1, 64), pool(true));
        (0..3).for_each(|s| live_state.set_state(BackendSlot(s), State::Up));
        let mut driver = ConcentrateDriver::new();
        driver.tick(Tick(0), &snapshot, &live_state);
        assert_eq!(shares(&live_state), [100, 0, 0]);
        live_state.set_state(BackendSlot(0), State::Down);
        driver.tick(Tick(WINDOW.0), &snapshot, &live_state);
        assert_eq!(shares(&live_state), [0, 100, 0]);
    }

    #[test]
    fn windows_are_summed_over_shards_and_start_at_zero() {
        let (live_state, snapshot) = (LiveState::new(2, 64), pool(false));
        (0..3).for_each(|s| live_state.set_state(BackendSlot(s), State::Up));
        let count = |n: u64, us: u64| {
            for shard in live_state.shards() {
                let stats = shard.backend(BackendSlot(0));
                stats.queries.add(n);
                stats.responses.add(n);
                (0..n).for_each(|_| stats.latency.record(us * US));
            }
        };
        // Before the first read, possibly of another server: slow, and many.
        count(10_000, 900_000);
        let mut driver = ConcentrateDriver::new();
        driver.tick(Tick(0), &snapshot, &live_state);
        for window in 1..100 {
            // Were the first counts a window's, the floor would be theirs, and nothing ever full.
            count(100, if window < 50 { 100 } else { 100_000 });
            driver.tick(Tick(window * WINDOW.0), &snapshot, &live_state);
            assert!(window >= 50 || shares(&live_state) == [100, 0, 0], "window {window}");
        }
        assert!(shares(&live_state)[0] < 90, "{:?}", shares(&live_state));
    }

    #[test]
    fn a_reused_slot_inherits_no_share() {
        let (live_state, mut snapshot) = (LiveState::new(1, 64), pool(false));
        (0..3).for_each(|s| live_state.set_state(BackendSlot(s), State::Up));
        let mut driver = ConcentrateDriver::new();
        for window in 0..500 {
            driver.tick(Tick(window * WINDOW.0), &snapshot, &live_state);
        }
        assert_eq!(shares(&live_state), [100, 0, 0]);
        let mut another = backend(0);
        another.id = String::from("another");
        another.order = 0;
        snapshot.backends[0] = Some(std::sync::Arc::new(another));
        driver.tick(Tick(500 * WINDOW.0), &snapshot, &live_state);
        assert_eq!(shares(&live_state), [33, 33, 33], "as after a loss: no cache is warm");
    }
}
