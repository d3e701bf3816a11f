//! Tests `concentrate` with the real selector and controller and simulated caching resolvers. The
//! results are compared with roundrobin and with the optimum: one server that gets every query.
//! `SIM_SEED=` replays a seed; `--nocapture` prints the course of each run.

mod backends;
mod resolvers;

use std::sync::OnceLock;

use dnslob::model::policy::{Kind, Policy};
use resolvers::{Event, Run, Scenario, play};

const RATE: f64 = 5_000.0;

fn scenario(kind: Kind, servers: u16, seconds: u64, events: &[(u64, Event)]) -> Scenario {
    let seed = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    Scenario {
        policy: Policy::new(kind),
        servers,
        slow: 1,
        rate: RATE,
        seconds,
        events: events.to_vec(),
        seed,
    }
}

/// Runs a scenario and prints one line per five seconds.
fn run(title: &str, scenario: &Scenario) -> Run {
    let run = play(scenario);
    println!("{title}: {:?}, SIM_SEED={}", scenario.policy.kind, scenario.seed);
    for from in (0..run.0.len()).step_by(5) {
        let s = run.sum(from, (from + 5).min(run.0.len()));
        let shares: Vec<_> = (0..s.sent.len()).map(|n| format!("{:3.0}", s.share(n) * 100.0)).collect();
        println!(
            "{from:4} s: {:6} queries, hit {:5.2} %, cpu {:5.1} us, p50 {:6} us, p99 {:7} us, \
             lost {:5}, shares {}",
            s.queries,
            s.hit_rate() * 100.0,
            s.cpu_us(),
            s.quantile_us(0.5),
            s.quantile_us(0.99),
            s.lost,
            shares.join(" ")
        );
    }
    run
}

/// The roundrobin run with four servers, shared by all tests.
fn roundrobin() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| run("roundrobin", &scenario(Kind::RoundRobin, 4, 150, &[])))
}

#[test]
fn has_the_hit_rate_of_one_server_and_costs_less_than_roundrobin() {
    let best = run("one of four", &scenario(Kind::RoundRobin, 1, 150, &[])).sum(90, 150);
    let even = roundrobin().sum(90, 150);
    let ours = run("concentrate", &scenario(Kind::Concentrate, 4, 150, &[])).sum(90, 150);
    println!(
        "hit rate: one {:.2} %, concentrate {:.2} %, roundrobin {:.2} %; total CPU {:.3} of \
         roundrobin's",
        best.hit_rate() * 100.0,
        ours.hit_rate() * 100.0,
        even.hit_rate() * 100.0,
        ours.cpu_us() / even.cpu_us()
    );
    assert!(ours.hit_rate() > best.hit_rate() - 0.01);
    assert!(ours.hit_rate() > even.hit_rate() + 0.08);
    assert!(ours.cpu_us() <= 0.70 * even.cpu_us());
    assert!(ours.share(0) > 0.98 && ours.lost == 0);
}

#[test]
fn the_first_server_serves_from_the_start() {
    let run = run("from the start", &scenario(Kind::Concentrate, 4, 20, &[]));
    assert!(run.sum(0, 1).share(0) > 0.95 && run.sum(1, 20).share(0) > 0.98);
    assert_eq!(run.sum(0, 20).lost, 0);
}

#[test]
fn noise_of_the_host_is_not_taken_for_load() {
    let quiet = scenario(Kind::RoundRobin, 1, 150, &[]);
    let best = run("one of four", &quiet).sum(60, 150);
    let even = roundrobin().sum(60, 150);
    for (title, noise) in [
        ("always", Event::Noise(8_000, 100)),
        ("in bursts", Event::Noise(8_000, 33)),
        ("before the first only", Event::OwnNoise(0, 8_000)),
    ] {
        let ours = run(title, &scenario(Kind::Concentrate, 4, 150, &[(40, noise)])).sum(60, 150);
        let hit = ours.hit_rate() - best.hit_rate();
        let (cpu, least) = (ours.cpu_us() / even.cpu_us(), best.cpu_us() / even.cpu_us());
        println!(
            "{title}: hit rate {:+.2} points of one server's, CPU {cpu:.3} of roundrobin's (one server: {least:.3})",
            hit * 100.0
        );
        assert!(hit > -0.01 && cpu <= 1.03 * least, "{title}: {hit} {cpu} {least}");
    }
}

#[test]
fn a_server_that_is_really_full_opens_the_next_within_two_seconds() {
    let mut jump = scenario(Kind::Concentrate, 4, 100, &[(80, Event::Rate(9_000.0, 0))]);
    (jump.slow, jump.rate) = (3, 2_000.0);
    let run = run("jump", &jump);
    assert!(run.sum(75, 80).share(0) > 0.98);
    let shares: Vec<_> = (80..86).map(|second| run.sum(second, second + 1).share(1)).collect();
    println!("share of the second, by seconds: {shares:.2?}");
    assert!(shares[2] > 0.1, "{shares:?}");
}

#[test]
fn a_slow_authority_does_not_spread_the_load() {
    let slow = scenario(Kind::Concentrate, 4, 180, &[(90, Event::Authority(200_000))]);
    let run = run("slow authority", &slow);
    let (before, after) = (run.sum(75, 90), run.sum(92, 180));
    assert!(after.share(0) > 0.98, "{}", after.share(0));
    // Misses take ten times longer, which raises the outstanding count. Hits are not affected.
    assert!(after.quantile_us(0.99) > 5 * before.quantile_us(0.99));
    assert!(after.hit_rate() > before.hit_rate() - 0.02);
}

#[test]
fn a_slow_authority_from_the_start_does_not_spread_the_load() {
    let slow = scenario(Kind::Concentrate, 4, 120, &[(0, Event::Authority(200_000))]);
    let run = run("slow authority from the start", &slow).sum(90, 120);
    assert!(run.share(0) > 0.98, "{}", run.share(0));
}

#[test]
fn a_dead_authority_does_not_spread_the_load() {
    let dead = scenario(Kind::Concentrate, 4, 150, &[(90, Event::DeadZones(10))]);
    let run = run("dead zones", &dead).sum(95, 150);
    assert!(f64::from(run.lost) > 0.05 * f64::from(run.queries), "far more than 1 % of timeouts");
    assert!(run.share(0) > 0.98, "{}", run.share(0));
}

#[test]
fn a_full_server_opens_the_next_and_closes_it_again() {
    let mut overload = scenario(
        Kind::Concentrate,
        4,
        330,
        &[(80, Event::Rate(9_000.0, 60)), (200, Event::Rate(1_500.0, 20))],
    );
    overload.slow = 3;
    overload.rate = 2_000.0;
    let run = run("overload", &overload);
    assert!(run.sum(70, 80).share(0) > 0.98);
    let busy = run.sum(150, 200);
    assert!((0.5..0.85).contains(&busy.share(0)), "{}", busy.share(0));
    assert!(busy.share(1) > 0.14 && busy.share(2) < 0.02, "one more is enough: {}", busy.share(1));
    // An overloaded server queues seconds of queries.
    assert!(run.worst_p50_us(80, 200) < 5_000, "no server is overloaded: {}", run.worst_p50_us(80, 200));
    assert_eq!(run.sum(60, 330).lost, 0);
    assert!(run.sum(222, 255).share(1) > 0.02, "kept for a minute");
    assert!(run.sum(300, 330).share(0) > 0.98, "closed");
}

#[test]
fn an_even_load_does_not_move_the_shares() {
    let mut steady = scenario(Kind::Concentrate, 4, 300, &[(80, Event::Rate(6_000.0, 60))]);
    steady.slow = 3;
    steady.rate = 2_000.0;
    let run = run("steady", &steady);
    let shares: Vec<_> = (160..300).step_by(5).map(|s| run.sum(s, s + 5).share(0)).collect();
    let moved: f64 = shares.windows(2).map(|w| (w[1] - w[0]).abs()).sum();
    println!("share of the first moved by {moved:.2} in 140 s");
    // Allows raises of 5 % per 10 s, one cut, and the sampling error of five seconds.
    assert!(moved < 0.8, "{moved}");
}

#[test]
fn a_load_that_needs_all_servers_uses_all_servers() {
    let mut overload =
        scenario(Kind::Concentrate, 3, 270, &[(70, Event::Rate(5_500.0, 20)), (130, Event::Rate(500.0, 5))]);
    (overload.slow, overload.rate) = (8, 1_000.0);
    let run = run("all needed", &overload);
    let full = run.sum(90, 130);
    let shares: Vec<_> = (0..3).map(|n| full.share(n)).collect();
    assert!(shares.iter().all(|s| (0.25..0.45).contains(s)), "{shares:?}");
    // The load grows tenfold in twenty seconds, on two cold servers.
    assert_eq!(run.sum(60, 270).lost, 0);
    assert!(run.worst_p50_us(85, 130) < 3_000);
    assert!(run.sum(250, 270).share(0) > 0.9, "it contracts again");
}

#[test]
fn an_overload_of_all_servers_is_spread_evenly() {
    let mut overload =
        scenario(Kind::Concentrate, 3, 220, &[(70, Event::Rate(9_000.0, 20)), (110, Event::Rate(500.0, 5))]);
    (overload.slow, overload.rate) = (10, 800.0);
    let run = run("everything full", &overload);
    let full = run.sum(95, 110);
    assert!(full.lost > 1_000, "it is too much");
    let shares: Vec<_> = (0..3).map(|n| full.share(n)).collect();
    assert!(shares.iter().all(|s| (0.25..0.45).contains(s)), "{shares:?}");
    assert_eq!(run.sum(120, 220).lost, 0, "no query is lost once the load falls");
    assert!(run.sum(200, 220).share(0) > 0.85);
}

#[test]
fn a_failed_server_spreads_the_load_until_it_contracts_again() {
    let script = [(90, Event::Freeze(0)), (92, Event::Down(0)), (170, Event::Up(0))];
    let run = run("death and return", &scenario(Kind::Concentrate, 4, 270, &script));
    let lost = run.sum(90, 96).lost;
    println!("lost {lost} queries: those of two windows at most, long before the check");
    assert!((100..=2_100).contains(&lost), "{lost}");
    assert_eq!(run.sum(96, 270).lost, 0);
    let spread = run.sum(95, 120);
    assert_eq!(spread.sent[0], 0);
    assert!((1..4).all(|n| spread.share(n) > 0.2), "over all survivors");
    assert!(run.worst_p50_us(93, 270) < 2 * run.sum(60, 90).quantile_us(0.5), "no server is overloaded");
    let contracted = run.sum(155, 170);
    assert!(contracted.share(1) > 0.98, "{}", contracted.share(1));
    assert!(run.sum(171, 176).share(0) < 0.2, "a cold server begins small");
    assert!(run.sum(250, 270).share(0) > 0.98, "and is the first again");
}

#[test]
fn a_cold_server_joins_under_a_load_that_would_overload_it() {
    let script = [(80, Event::Freeze(0)), (82, Event::Down(0)), (150, Event::Up(0))];
    let mut join = scenario(Kind::Concentrate, 4, 260, &script);
    (join.slow, join.rate) = (3, 4_000.0);
    let ours = run("cold server", &join);
    assert!(ours.worst_p50_us(151, 260) < 2 * ours.sum(130, 150).quantile_us(0.5));
    assert_eq!(ours.sum(86, 260).lost, 0);
    assert!(ours.sum(240, 260).share(0) > 0.6, "{}", ours.sum(240, 260).share(0));
    // Cross-check: the whole load at once overloads a cold server.
    let mut at_once = scenario(Kind::FirstAvailable, 4, 90, &[(80, Event::Up(0))]);
    (at_once.slow, at_once.rate) = (3, 4_000.0);
    let melted = run("all at once", &at_once);
    assert!(melted.worst_p50_us(81, 90) > 10 * melted.sum(60, 80).quantile_us(0.5));
}

#[test]
fn a_frozen_server_loses_its_share_without_a_health_check() {
    let frozen = scenario(Kind::Concentrate, 4, 120, &[(90, Event::Freeze(0))]);
    let run = run("unnoticed", &frozen);
    assert!(run.sum(100, 120).share(0) < 0.05, "{}", run.sum(100, 120).share(0));
    assert!(run.sum(100, 120).lost < 200, "one in a thousand asks whether it is back");
}
