//! What a name server is made to do wrong: delays, losses, truncation, response codes.

use crate::base::rng::ShardRng;
use crate::base::time::TickDelta;
use crate::config::reflect::{LATENCY_MAX, Latency, ReflectOptions};
use crate::tools::load::random::{normal, unit};
use crate::tools::reflect::answer::Wanted;

/// Decides on each query, by its own random numbers.
#[derive(Debug)]
pub(crate) struct Impairment {
    latency: Latency,
    loss: f64,
    truncate: f64,
    /// Response codes with the sums of the shares up to them.
    codes: Vec<(u8, f64)>,
    rng: ShardRng,
}

impl Impairment {
    /// Takes the options.
    pub(crate) fn new(options: &ReflectOptions, rng: ShardRng) -> Self {
        let mut sum = 0.0;
        let codes = options.codes.iter().map(|(code, share)| {
            sum += share;
            ((*code & 0x0f) as u8, sum)
        });
        Self {
            latency: options.latency,
            loss: options.loss,
            truncate: options.truncate,
            codes: codes.collect(),
            rng,
        }
    }

    /// Returns what the answer to a query is to be; `None` if there is none. Nothing is lost or
    /// truncated on connections.
    pub(crate) fn decide(&mut self, datagram: bool) -> Option<Wanted> {
        if datagram && self.hits(self.loss) {
            return None;
        }
        let code = if self.codes.is_empty() {
            0
        } else {
            let point = unit(&mut self.rng);
            self.codes.iter().find(|(_, until)| point < *until).map_or(0, |(code, _)| *code)
        };
        let truncate = datagram && self.hits(self.truncate);
        Some(Wanted { code, truncate, datagram })
    }

    /// Returns how long an answer is held back.
    pub(crate) fn delay(&mut self) -> TickDelta {
        delay(self.latency, &mut self.rng)
    }

    fn hits(&mut self, share: f64) -> bool {
        share > 0.0 && unit(&mut self.rng) < share
    }
}

/// Draws a delay.
fn delay(latency: Latency, rng: &mut ShardRng) -> TickDelta {
    let ns = match latency {
        Latency::None => return TickDelta(0),
        Latency::Fixed(span) => return span,
        Latency::Uniform(from, to) => from.0 as f64 + (to.0 - from.0) as f64 * unit(rng),
        Latency::LogNormal(median, sigma) => median.0 as f64 * (sigma * normal(rng)).exp(),
    };
    // A cast of what is too large gives the largest number.
    TickDelta(ns as u64).min(LATENCY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(latency: Latency) -> Vec<u64> {
        let mut rng = ShardRng::from_seed(2);
        let mut all: Vec<u64> = (0..100_000).map(|_| delay(latency, &mut rng).0).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn delays_follow_their_distribution() {
        let ms = TickDelta::from_ms;
        assert_eq!(drawn(Latency::None).last(), Some(&0));
        let fixed = drawn(Latency::Fixed(ms(2)));
        assert_eq!((fixed[0], fixed[99_999]), (2_000_000, 2_000_000));
        let even = drawn(Latency::Uniform(ms(1), ms(5)));
        for (rank, want) in [(0, 1.0), (25_000, 2.0), (50_000, 3.0), (99_999, 5.0)] {
            assert!((even[rank] as f64 / 1e6 - want).abs() < 0.05, "{rank}: {}", even[rank]);
        }
        // The quantiles of the log-normal: median times e to the sigma times the normal's quantile.
        let skewed = drawn(Latency::LogNormal(ms(2), 0.5));
        for (rank, normal) in [(50_000, 0.0), (84_134, 1.0), (97_725, 2.0), (2_275, -2.0)] {
            let want = 2e6 * (0.5_f64 * normal).exp();
            assert!((skewed[rank] as f64 / want - 1.0).abs() < 0.03, "{rank}: {} {want}", skewed[rank]);
        }
        assert_eq!(drawn(Latency::LogNormal(ms(60_000), 10.0)).last(), Some(&LATENCY_MAX.0));
    }

    #[test]
    fn shares_are_kept() {
        let options = ReflectOptions {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            threads: 1,
            cpus: Vec::new(),
            latency: Latency::None,
            loss: 0.1,
            truncate: 0.2,
            codes: vec![(2, 0.3), (3, 0.1)],
            ttl: 1..=1,
            records: 1..=1,
            tls: None,
            shared: false,
            seed: None,
        };
        let mut impairment = Impairment::new(&options, ShardRng::from_seed(8));
        let all: Vec<Option<Wanted>> = (0..100_000).map(|_| impairment.decide(true)).collect();
        let share = |what: &dyn Fn(&Wanted) -> bool| {
            all.iter().flatten().filter(|w| what(w)).count() as f64 / 90_000.0
        };
        let lost = all.iter().filter(|w| w.is_none()).count();
        assert!(lost.abs_diff(10_000) < 400, "{lost}");
        assert!((share(&|w| w.truncate) - 0.2).abs() < 0.01);
        assert!((share(&|w| w.code == 2) - 0.3).abs() < 0.01);
        assert!((share(&|w| w.code == 3) - 0.1).abs() < 0.01);
        let connections = (0..10_000).map(|_| impairment.decide(false));
        assert!(connections.into_iter().all(|w| w.is_some_and(|w| !w.truncate)), "nothing is lost there");
    }
}
