//! Averages over the last 100, 1,000, 10,000 and 1,000,000 latencies, as dnsdist has them.
//!
//! ```text
//!  a response ─► sum, count ─ every 32nd ─► averages
//!                   └────── what is not in them yet ──┴─► a reader
//! ```
//!
//! An average over the last N forgets exponentially: each new latency has the weight 1/N. Before there
//! were N, it is the mean of all. One shard writes; any thread reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::time::TickDelta;
use crate::stats::meter::Counter;

/// Over how many of the last latencies the averages are.
pub const DEPTHS: [u64; 4] = [100, 1_000, 10_000, 1_000_000];
/// Latencies that are added to the averages together, so that most cost two additions.
const BATCH: u64 = 32;

/// What a shard keeps.
#[derive(Debug, Default)]
pub struct LatencyAverages {
    count: Counter,
    sum_ns: Counter,
    /// The sum and count up to which latencies are in the averages.
    folded: [AtomicU64; 2],
    /// Microseconds, as the bits of an `f64`.
    averages: [AtomicU64; DEPTHS.len()],
}

impl LatencyAverages {
    /// Adds a latency. Only the owning shard calls this.
    #[inline]
    pub fn record(&self, latency: TickDelta) {
        self.sum_ns.add(latency.0);
        self.count.add(1);
        if self.count.get().is_multiple_of(BATCH) {
            self.fold();
        }
    }

    /// Begins again. Only the owning shard calls this.
    pub fn reset(&self) {
        self.count.reset();
        self.sum_ns.reset();
        self.folded.iter().chain(&self.averages).for_each(|value| value.store(0, Relaxed));
    }

    #[cold]
    fn fold(&self) {
        let averages = self.present();
        for (average, present) in self.averages.iter().zip(averages) {
            average.store(present.to_bits(), Relaxed);
        }
        self.folded[0].store(self.sum_ns.get(), Relaxed);
        self.folded[1].store(self.count.get(), Relaxed);
    }

    /// The averages with what is not in them yet, microseconds.
    fn present(&self) -> [f64; DEPTHS.len()] {
        let (sum, count) = (self.sum_ns.get(), self.count.get());
        let new = count.saturating_sub(self.folded[1].load(Relaxed));
        let averages: [f64; DEPTHS.len()] =
            std::array::from_fn(|at| f64::from_bits(self.averages[at].load(Relaxed)));
        if new == 0 {
            return averages;
        }
        let mean = sum.saturating_sub(self.folded[0].load(Relaxed)) as f64 / new as f64 / 1e3;
        std::array::from_fn(|at| {
            let forgotten = 1.0 - (1.0 - 1.0 / DEPTHS[at] as f64).powf(new as f64);
            // As long as there were fewer than its depth, all have the same weight.
            let weight = forgotten.max(if count <= DEPTHS[at] { new as f64 / count as f64 } else { 0.0 });
            averages[at] + (mean - averages[at]) * weight
        })
    }

    /// Adds what this shard knows.
    pub fn read(&self, sum: &mut LatencyAveragesReading) {
        let (averages, count) = (self.present(), self.count.get());
        for (at, average) in averages.iter().enumerate() {
            let weight = count.min(DEPTHS[at]) as f64;
            sum.weighted[at] += average * weight;
            sum.weights[at] += weight;
        }
    }
}

/// The averages of several shards.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LatencyAveragesReading {
    weighted: [f64; DEPTHS.len()],
    weights: [f64; DEPTHS.len()],
}

impl LatencyAveragesReading {
    /// The average over the last latencies, microseconds, by its place in [`DEPTHS`]; 0 before there
    /// was one.
    #[must_use]
    pub fn us(&self, depth: usize) -> f64 {
        if self.weights[depth] > 0.0 { self.weighted[depth] / self.weights[depth] } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn averages(latencies: &LatencyAverages) -> [f64; 4] {
        let mut sum = LatencyAveragesReading::default();
        latencies.read(&mut sum);
        std::array::from_fn(|depth| sum.us(depth))
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < b / 100.0 + 1e-9
    }

    #[test]
    fn the_first_are_averaged_as_they_are() {
        let latencies = LatencyAverages::default();
        assert_eq!(averages(&latencies), [0.0; 4]);
        latencies.record(TickDelta(5_000_000));
        assert!(averages(&latencies).iter().all(|us| near(*us, 5_000.0)), "{:?}", averages(&latencies));
        (0..39).for_each(|_| latencies.record(TickDelta(1_000_000)));
        assert!(averages(&latencies).iter().all(|us| near(*us, 1_100.0)), "{:?}", averages(&latencies));
    }

    #[test]
    fn a_change_is_seen_first_by_the_shortest() {
        let latencies = LatencyAverages::default();
        (0..20_000).for_each(|_| latencies.record(TickDelta(1_000_000)));
        (0..500).for_each(|_| latencies.record(TickDelta(9_000_000)));
        let [hundred, thousand, ten_thousand, million] = averages(&latencies);
        assert!(hundred > 8_900.0 && (3_500.0..5_000.0).contains(&thousand), "{hundred} {thousand}");
        assert!((1_300.0..1_500.0).contains(&ten_thousand), "{ten_thousand}");
        assert!(near(million, 1_000.0 + 8_000.0 * 500.0 / 20_500.0), "{million}");
    }

    #[test]
    fn shards_count_by_how_much_they_have_seen() {
        let (busy, idle) = (LatencyAverages::default(), LatencyAverages::default());
        (0..90).for_each(|_| busy.record(TickDelta(1_000_000)));
        (0..10).for_each(|_| idle.record(TickDelta(11_000_000)));
        let mut sum = LatencyAveragesReading::default();
        busy.read(&mut sum);
        idle.read(&mut sum);
        assert!(near(sum.us(0), 2_000.0), "{sum:?}");
        idle.reset();
        assert_eq!(averages(&idle), [0.0; 4]);
    }
}
