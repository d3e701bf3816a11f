use crate::base::time::TickDelta;
use crate::rules::limits::*;

const SECOND: u64 = 1_000_000_000;
/// Not the clock's origin, where a bucket's time cannot be past.
const BEGIN: u64 = 1_000 * SECOND;

fn shards(n: usize, specs: &[StateSpec]) -> Vec<Limits> {
    let mut rng = ShardRng::from_seed(7);
    (0..n)
        .map(|_| {
            let mut limits = Limits::new(n, &mut rng);
            limits.adopt(specs);
            limits
        })
        .collect()
}

fn clients() -> StateSpec {
    StateSpec::clients(2, DEADLINES_BYTES_MAX)
}

fn timed() -> StateSpec {
    StateSpec::timed(3, DEADLINES_BYTES_MAX)
}

fn bytes(specs: &[StateSpec]) -> usize {
    specs.iter().filter_map(|spec| spec.table()).map(|table| table.bytes()).sum()
}

fn client_limit(qps: u32, burst: u32) -> ClientLimit {
    ClientLimit { state: 0, qps, burst, v4: 32, v6: 64, expiration_s: 300 }
}

/// Returns the n-th of many IPv4 clients.
fn ip(n: u32) -> [u8; 16] {
    crate::base::addr::mapped(std::net::Ipv4Addr::from(n).into())
}

/// Returns how many of `demand` queries per second pass the shards from `begin` on for ten seconds;
/// `turn` selects the shard of the next query. Checks that never more pass than the bucket can have
/// given.
fn passed(
    per_shard: &mut [Limits],
    limit: &Limit,
    demand: u64,
    begin: u64,
    mut turn: impl FnMut(u64) -> usize,
) -> u64 {
    let mut passed = 0;
    for n in 0..demand * 10 {
        let elapsed = n * SECOND / demand;
        let limits = &mut per_shard[turn(n)];
        passed += u64::from(!limits.exceeded(limit, Tick(begin + elapsed)));
        let given = u64::from(limit.burst) + u64::from(limit.qps) * elapsed / SECOND;
        assert!(passed <= given + 1, "{passed} of {given} after {elapsed} ns");
    }
    passed
}

#[test]
fn rate_holds_over_all_shards() {
    for n in [1, 2, 7] {
        for (qps, burst) in
            [(5, 1), (50, 50), (1_000, 100), (1_000, 1_000), (30_000, 600), (100_000, 100_000)]
        {
            let limit = Limit { state: 0, qps, burst };
            for skewed in [false, true] {
                let mut per_shard = shards(n, &[StateSpec::rate(1, qps, burst)]);
                let mut rng = ShardRng::from_seed(3);
                // In turns, or nine of ten queries to the first shard.
                let turn = |at: u64| match skewed {
                    false => (at % n as u64) as usize,
                    true if rng.below(10) > 0 => 0,
                    true => rng.below(n as u32) as usize,
                };
                let passed = passed(&mut per_shard, &limit, u64::from(qps) * 2 + 20, BEGIN, turn);
                let expected = u64::from(qps) * 10 + u64::from(burst);
                let off = passed.abs_diff(expected);
                assert!(
                    off <= u64::from(qps) / 10 + 1,
                    "{n} shards, {qps}/{burst}, skewed {skewed}: {passed} of {expected}"
                );
            }
        }
    }
}

#[test]
fn below_the_rate_everything_passes() {
    for n in [1, 2, 7] {
        for qps in [50, 1_000, 50_000] {
            let limit = Limit { state: 0, qps, burst: qps };
            let mut per_shard = shards(n, &[StateSpec::rate(1, qps, qps)]);
            let mut rng = ShardRng::from_seed(4);
            let demand = u64::from(qps) * 95 / 100;
            let passed = passed(&mut per_shard, &limit, demand, BEGIN, |_| rng.below(n as u32) as usize);
            assert_eq!(passed, demand * 10, "{n} shards, {qps}");
        }
    }
}

#[test]
fn burst_is_bounded() {
    for n in [1, 2, 7] {
        for (qps, burst) in [(10, 10), (1_000, 50), (100_000, 100_000), (100_000, 1_000)] {
            let limit = Limit { state: 0, qps, burst };
            let mut per_shard = shards(n, &[StateSpec::rate(1, qps, burst)]);
            // Every shard holds tokens, and the bucket refills.
            for limits in &mut per_shard {
                assert!(!limits.exceeded(&limit, Tick(BEGIN)));
            }
            for delayed in [SECOND / 100, SECOND * 100] {
                let now = Tick(BEGIN + delayed * 2);
                let passed: u64 = per_shard
                    .iter_mut()
                    .map(|limits| (0..burst * 2).filter(|_| !limits.exceeded(&limit, now)).count() as u64)
                    .sum();
                let held = u64::from((qps / 100).min(burst / 16));
                assert!(passed <= u64::from(burst) + held, "{n} shards, {qps}/{burst}: {passed} at once");
                assert!(
                    delayed < SECOND || passed >= u64::from(burst),
                    "{n} shards, {qps}/{burst}: {passed}"
                );
            }
        }
    }
}

#[test]
fn shared_bucket_is_written_rarely() {
    let limit = Limit { state: 0, qps: 100_000, burst: 100_000 };
    for (n, demand) in [(1, 50_000), (4, 50_000), (4, 300_000)] {
        let spec = StateSpec::rate(1, limit.qps, limit.burst);
        let StateKind::Rate(bucket) = &spec.kind else { unreachable!() };
        let mut per_shard = shards(n, std::slice::from_ref(&spec));
        let mut writes = 0;
        let mut before = bucket.full_at();
        for query in 0..demand * 2 {
            per_shard[(query % n as u64) as usize].exceeded(&limit, Tick(BEGIN + query * SECOND / demand));
            writes += usize::from(std::mem::replace(&mut before, bucket.full_at()) != before);
        }
        // Two seconds, twice that under overload, and the burst in the first of them.
        assert!(writes <= n * 100 * 5, "{n} shards, {demand}/s: {writes} writes");
        assert!(writes > 0);
    }
}

#[test]
fn closed_bucket_lets_nothing_pass() {
    for (qps, burst) in [(0, 0), (0, 5), (5, 0)] {
        let mut per_shard = shards(1, &[StateSpec::rate(1, qps, burst), clients()]);
        let limit = Limit { state: 0, qps, burst };
        let by_client = ClientLimit { state: 1, ..client_limit(qps, burst) };
        for second in 0..5 {
            let now = Tick(BEGIN + second * SECOND);
            assert!(per_shard[0].exceeded(&limit, now));
            assert!(per_shard[0].client_exceeded(&by_client, &ip(1), now));
        }
    }
}

#[test]
fn client_gets_its_rate_and_burst() {
    for (qps, burst) in [(1, 1), (10, 10), (5, 50), (3_000, 300)] {
        let per_shard = shards(1, &[clients()]);
        let limit = client_limit(qps, burst);
        let at_once = (0..burst * 2).filter(|_| !per_shard[0].client_exceeded(&limit, &ip(1), Tick(BEGIN)));
        assert_eq!(at_once.count() as u32, burst);
        let demand = u64::from(qps) * 3;
        let passes =
            |n: &u64| !per_shard[0].client_exceeded(&limit, &ip(1), Tick(BEGIN + (n + 1) * SECOND / demand));
        let passed = (0..demand * 10).filter(passes).count() as u64;
        assert!(passed.abs_diff(u64::from(qps) * 10) * 100 <= u64::from(qps) * 10, "{qps}/{burst}: {passed}");
    }
}

#[test]
fn client_gets_its_rate_at_any_steering() {
    let limit = client_limit(70, 70);
    for n in [1, 2, 7, 16] {
        let turns: [fn(u64, u64) -> u64; 4] =
            [|_, _| 0, |q, n| q % n, |q, n| q / 40 % n, |q, n| if q % 9 == 0 { q % n } else { 0 }];
        for (at, turn) in turns.into_iter().enumerate() {
            let per_shard = shards(n, &[clients()]);
            let ask = |query: u64, demand: u64| {
                let now = Tick(BEGIN + query * SECOND / demand);
                !per_shard[turn(query, n as u64) as usize].client_exceeded(&limit, &ip(9), now)
            };
            // Ten seconds at twice the rate, then, when it is full again, at a little below it.
            let passed = (0..1_400).filter(|q| ask(*q, 140)).count() as u64;
            assert!((769..=770).contains(&passed), "{n} shards, steering {at}: {passed}");
            assert!((63 * 20..63 * 30).all(|q| ask(q, 63)), "{n} shards, steering {at}: below the rate");
        }
    }
}

/// Calls `work` in four threads at once, each with its shard, and returns the sum of what they
/// return.
fn at_once(specs: &[StateSpec], work: impl Fn(usize, &Limits) -> usize + Sync) -> usize {
    let per_shard = shards(4, specs);
    let begin = std::sync::Barrier::new(per_shard.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = per_shard
            .iter()
            .enumerate()
            .map(|(shard, limits)| {
                let (work, begin) = (&work, &begin);
                scope.spawn(move || {
                    begin.wait();
                    work(shard, limits)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread's count")).sum()
    })
}

#[test]
fn tokens_are_taken_once_by_threads() {
    // All threads ask for the same clients, which all are new.
    let limit = client_limit(1, 50);
    for count in [1, 3, 400] {
        let passed = at_once(&[clients()], |shard, limits| {
            let queries = (0..40).flat_map(|_| 0..count).map(|n| (n + shard as u32 * count / 4) % count);
            queries.filter(|n| !limits.client_exceeded(&limit, &ip(*n), Tick(BEGIN))).count()
        });
        assert_eq!(passed, 50 * count as usize, "{count} clients");
    }
}

#[test]
fn threads_that_replace_entries_never_refuse_a_new_client() {
    // A hundred times as many clients as a table holds, each with two queries at once of four: one
    // token may be taken by a client whose entry is being replaced, and the shards' clocks differ.
    let limit = client_limit(1, 4);
    let specs = [StateSpec::clients(2, 0), StateSpec::timed(3, 0)];
    let refused = at_once(&specs, |shard, limits| {
        let clients = (0..25_000).map(|n| shard as u32 * 25_000 + n);
        clients
            .filter(|n| {
                let now = Tick(BEGIN + u64::from(*n));
                limits.timed_add(1, &ip(*n), now + TickDelta(SECOND), now);
                assert!(!limits.timed_contains(1, &ip(n | 1 << 30), now), "never added");
                (0..2).any(|_| limits.client_exceeded(&limit, &ip(*n), now))
            })
            .count()
    });
    assert_eq!(refused, 0);
}

#[test]
fn set_is_that_of_all_shards() {
    let per_shard = shards(3, &[timed()]);
    let now = Tick(BEGIN);
    let end = now + TickDelta(SECOND);
    per_shard[0].timed_add(0, &ip(1), end, now);
    assert!(per_shard.iter().all(|limits| limits.timed_contains(0, &ip(1), now)));
    per_shard[1].timed_add(0, &ip(1), end + TickDelta(SECOND), now);
    assert!(per_shard[0].timed_contains(0, &ip(1), end), "the later end holds");
    per_shard[2].timed_clear(0);
    assert!(!per_shard.iter().any(|limits| limits.timed_contains(0, &ip(1), now)));
    per_shard[1].timed_add(0, &ip(1), end, now);
    assert!(per_shard[0].timed_contains(0, &ip(1), now) && !per_shard[0].timed_contains(0, &ip(1), end));
    // Whatever number of times it is cleared, nothing of an earlier set returns.
    let (small, far) = (shards(1, &[StateSpec::timed(3, 0)]).remove(0), now + TickDelta(SECOND << 20));
    for round in 0..70_000 {
        if round % 1_000 == 0 {
            (0..100).for_each(|n| small.timed_add(0, &ip(round + n), far, now));
            assert!(small.timed_contains(0, &ip(round + 99), now));
        }
        small.timed_clear(0);
        assert!(!small.timed_contains(0, &ip(round / 1_000 * 1_000), now), "{round}");
        assert!(!small.timed_contains(0, &ip(0), now), "{round}");
    }
}

#[test]
fn client_is_a_network() {
    let limits = shards(1, &[clients()]).remove(0);
    let passes = |v4, v6, a: &str| {
        let limit = ClientLimit { v4, v6, ..client_limit(1, 1) };
        let ip = crate::base::addr::mapped(a.parse().expect("an address"));
        !limits.client_exceeded(&limit, &ip, Tick(BEGIN))
    };
    assert!(passes(24, 64, "192.0.2.1") && !passes(24, 64, "192.0.2.200"));
    assert!(passes(24, 64, "192.0.3.1"));
    assert!(passes(24, 64, "2001:db8::1") && !passes(24, 64, "2001:db8::2"));
    assert!(passes(24, 64, "2001:db8:0:1::1"));
    assert!(passes(32, 128, "192.0.2.1") && passes(99, 255, "192.0.2.2"), "longer prefixes are clamped");
    assert!(passes(0, 0, "203.0.113.1") && !passes(0, 0, "198.51.100.1"));
}

#[test]
fn million_clients_are_distinguished() {
    let specs = [clients()];
    let limits = shards(1, &specs).remove(0);
    assert!(bytes(&specs) <= 40 * CLIENTS_MAX, "{} bytes", bytes(&specs));
    let limit = client_limit(1, 2);
    let round =
        || (0..CLIENTS_MAX as u32).filter(|n| limits.client_exceeded(&limit, &ip(*n), Tick(BEGIN))).count();
    assert_eq!(round(), 0);
    // A client whose entry was replaced starts with a full bucket: fewer than one in a hundred
    // thousand.
    assert!(round() == 0);
    let kept = round();
    assert!(kept >= CLIENTS_MAX - 10, "{kept}");
}

#[test]
fn idle_client_is_forgotten() {
    let limit = client_limit(1, 1_000);
    for (silent, expected) in [(100, 100), (299, 299), (306, 1_000), (100_000, 1_000)] {
        let limits = shards(1, &[clients()]).remove(0);
        let passed = |at| (0..2_000).filter(|_| !limits.client_exceeded(&limit, &ip(1), Tick(at))).count();
        assert_eq!(passed(BEGIN), 1_000);
        assert_eq!(passed(BEGIN + silent * SECOND), expected, "after {silent} s");
    }
    // A client that continues to send is not forgotten, though every query is refused.
    let limits = shards(1, &[clients()]).remove(0);
    let passed = |at| (0..2_000).filter(|_| !limits.client_exceeded(&limit, &ip(1), Tick(at))).count();
    assert_eq!((0..500).map(|s| passed(BEGIN + s * SECOND)).sum::<usize>(), 1_499);
}

#[test]
fn flood_of_forged_sources_does_not_evict_offenders() {
    let limits = shards(1, &[clients()]).remove(0);
    let limit = client_limit(1, 20);
    let mut rng = ShardRng::from_seed(5);
    let mut passed = [0; 100];
    // Five million sources in a second; among them each offender sends a thousand queries.
    for n in 0..5_000_000_u64 {
        let now = Tick(BEGIN + n * 200);
        let _ = limits.client_exceeded(&limit, &ip(rng.u32() | 1 << 31), now);
        if n % 50 == 0 {
            let offender = (n / 50 % 100) as usize;
            passed[offender] += u32::from(!limits.client_exceeded(&limit, &ip(offender as u32), now));
        }
    }
    assert!(passed.iter().all(|n| (20..=21).contains(n)), "{passed:?}");
}

#[test]
fn client_bucket_that_expires_at_once_still_limits() {
    for expiration_s in [0, 1] {
        // Filled in twelve seconds.
        let limit = ClientLimit { qps: 1, burst: 12, expiration_s, ..client_limit(1, 12) };
        let limits = shards(1, &[clients()]).remove(0);
        let mut passed = 0;
        for n in 0..120 {
            let now = Tick(SECOND + n * SECOND / 10);
            passed += u64::from(!limits.client_exceeded(&limit, &ip(1), now));
        }
        assert!((23..=24).contains(&passed), "{expiration_s} s: {passed} in twelve seconds");
    }
}

#[test]
fn timed_set_expires_each_address() {
    let limits = shards(1, &[timed()]).remove(0);
    let now = Tick(BEGIN);
    let at = |s| now + TickDelta(s * SECOND);
    limits.timed_add(0, &ip(1), at(10), now);
    limits.timed_add(0, &ip(2), at(20), now);
    limits.timed_add(0, &ip(2), at(5), now);
    assert!(limits.timed_contains(0, &ip(1), at(9)) && !limits.timed_contains(0, &ip(1), at(10)));
    assert!(limits.timed_contains(0, &ip(2), at(19)), "the later end holds");
    assert!(!limits.timed_contains(0, &ip(3), now));
    limits.timed_clear(0);
    assert!(!limits.timed_contains(0, &ip(2), now));
    for n in 0..2 * CLIENTS_MAX as u32 {
        limits.timed_add(0, &ip(n), at(10 + u64::from(n)), now);
    }
    let last = (CLIENTS_MAX as u32..2 * CLIENTS_MAX as u32)
        .filter(|n| limits.timed_contains(0, &ip(*n), now))
        .count();
    assert!(last >= CLIENTS_MAX / 1_000 * 999, "{last} of those with the latest ends");
}

#[test]
fn reload_forgets_only_removed_limiters() {
    let old = [StateSpec::rate(1, 5, 5), clients(), timed()];
    let mut limits = shards(1, &old).remove(0);
    let rate = |state| Limit { state, qps: 5, burst: 5 };
    let by_client = |state| ClientLimit { state, ..client_limit(1, 1) };
    let now = Tick(BEGIN);
    while !limits.exceeded(&rate(0), now) {}
    assert!(!limits.client_exceeded(&by_client(1), &ip(1), now));
    limits.timed_add(2, &ip(1), now + TickDelta(SECOND), now);

    // Other indices, and one more of each.
    let mut new = [
        StateSpec::timed(30, DEADLINES_BYTES_MAX),
        timed(),
        StateSpec::clients(20, DEADLINES_BYTES_MAX),
        clients(),
        StateSpec::rate(10, 5, 5),
        StateSpec::rate(1, 5, 5),
    ];
    StateSpec::inherit(&mut new, &old);
    limits.adopt(&new);
    assert!(!limits.timed_contains(0, &ip(1), now) && limits.timed_contains(1, &ip(1), now));
    assert!(!limits.client_exceeded(&by_client(2), &ip(1), now));
    assert!(limits.client_exceeded(&by_client(3), &ip(1), now));
    assert!(!limits.exceeded(&rate(4), now));
    assert!(limits.exceeded(&rate(5), now));

    // The same identity with other figures is another bucket.
    let mut changed = [StateSpec::rate(1, 6, 6)];
    StateSpec::inherit(&mut changed, &new);
    limits.adopt(&changed);
    assert!(!limits.exceeded(&rate(0), now));
    // A limiter of another kind, or none, limits nothing.
    assert!(!limits.client_exceeded(&by_client(0), &ip(1), now));
    assert!(!limits.exceeded(&rate(9), now));
}

#[test]
fn tables_share_the_memory_limit() {
    for rules in [1, 3, 10, 100] {
        let share = DEADLINES_BYTES_MAX / rules as usize;
        let tables = |n: u64| (0..n).map(|n| StateSpec::clients(n, share)).collect::<Vec<_>>();
        let old = tables(rules);
        // 4 KiB is the least that a table has.
        assert!(bytes(&old) <= DEADLINES_BYTES_MAX + rules as usize * 4096, "{rules} rules");
        let mut new = tables(rules + 1);
        StateSpec::inherit(&mut new, &old);
        let (kept, fresh) = new.split_at(rules as usize);
        assert_eq!(bytes(kept), bytes(&old), "{rules} rules: they keep their size");
        let fair = DEADLINES_BYTES_MAX / (rules as usize + 1);
        assert!((fair / 4 - 64..=DEADLINES_BYTES_MAX).contains(&bytes(fresh)), "a new one has some memory");
        assert!(bytes(&new) <= DEADLINES_BYTES_MAX + fair / 4 + 64, "{rules} rules");
        let mut others = [StateSpec::clients(1_000, share), StateSpec::timed(0, share)];
        StateSpec::inherit(&mut others, &new);
        assert_eq!(bytes(&others), 2 * (32 << 20), "what is removed gives its memory back");
    }
}
