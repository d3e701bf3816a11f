//! `concentrate` over a farm of simulated caching resolvers.
mod resolvers;
use dnslob::shard::policy::{Kind, Policy};
use resolvers::{Event, Run, S, Scenario, play};

fn seed() -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

fn scenario(kind: Kind, servers: u16, rate: f64, seconds: u64, events: &[(u64, Event)]) -> Scenario {
    Scenario { policy: Policy::new(kind), servers, slow: 1, rate, seconds, events: events.to_vec(), seed: seed() }
}

fn table(title: &str, run: &Run, step: usize) {
    println!("{title}: seed {}", seed());
    for from in (0..run.0.len()).step_by(step) {
        let s = run.sum(from, (from + step).min(run.0.len()));
        let shares: Vec<_> = (0..s.sent.len()).map(|n| format!("{:3.0}", s.share(n) * 100.0)).collect();
        println!("{from:4} q {:6} hit {:5.2} % asked {:.2} cpu {:5.1} us p50 {:6} p99 {:8} lost {:5} shares {}",
            s.queries, s.hit_rate() * 100.0, f64::from(s.asked)/f64::from(s.queries), s.cpu_us(), s.quantile_us(0.5), s.quantile_us(0.99), s.lost, shares.join(" "));
    }
}

#[test]
fn explore_base() {
    let _ = S;
    for (kind, n) in [(Kind::RoundRobin, 4), (Kind::RoundRobin, 1), (Kind::Concentrate, 4)] {
        let run = play(&scenario(kind, n, 5_000.0, 150, &[]));
        table(&format!("{kind:?} {n}"), &run, 10);
    }
}
#[test]
fn explore_slow() {
    let run = play(&scenario(Kind::Concentrate, 4, 5_000.0, 180, &[(90, Event::Authority(200_000))]));
    table("slow", &run, 10);
}
#[test]
fn explore_overload() {
    let mut s = scenario(Kind::Concentrate, 4, 2_000.0, 330, &[(80, Event::Rate(6_000.0, 60)), (200, Event::Rate(1_500.0, 20))]);
    s.slow = 3;
    let run = play(&s);
    table("overload", &run, 5);
}
#[test]
fn explore_death() {
    let run = play(&scenario(Kind::Concentrate, 4, 5_000.0, 270, &[(90, Event::Freeze(0)), (92, Event::Down(0)), (170, Event::Up(0))]));
    table("death", &run, 5);
}
