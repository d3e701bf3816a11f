//! Latencies, in buckets whose width grows with the latency.
//!
//! A shard counts in a [`Histogram`]; what is read of the shards' histograms is a [`Latency`].
//!
//! ```text
//!  48.8 ms            50.3 ms                     an even bucket, 1/32 of its octave
//!     ├────────┬─────────┤
//!            50 ms                                a latency of [`EDGES`]: it is two buckets
//! ```
//! So the counters that are shown up to 50 ms, 100 ms or 1 s are exact, and percentiles are within
//! the width of a bucket.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Sub-buckets per octave: a bucket is at most 1/32 = 3.1 % wide.
const SUB_BITS: u32 = 5;
/// Values from 2^10 ns (about 1 us) to 2^34 ns (17 s); outside they count at the ends.
const OCTAVE_MIN: u32 = 10;
const OCTAVES: usize = 24;
/// Buckets of equal width within an octave.
const EVEN: usize = OCTAVES << SUB_BITS;
/// The latencies that counters are shown up to, nanoseconds: a bucket ends at each.
pub const EDGES: [u64; 16] = [
    500_000,
    1_000_000,
    2_000_000,
    3_000_000,
    5_000_000,
    7_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = EVEN + EDGES.len();

/// Returns whether counters up to these bounds are exact.
#[must_use]
pub const fn are_edges(bounds: &[u64]) -> bool {
    let mut at = 0;
    while at < bounds.len() {
        let mut edge = 0;
        while edge < EDGES.len() && EDGES[edge] != bounds[at] {
            edge += 1;
        }
        if edge == EDGES.len() {
            return false;
        }
        at += 1;
    }
    true
}

/// An even bucket.
#[derive(Clone, Copy, Debug)]
struct Even {
    /// The last latency below the edge within it; the largest number if there is none.
    last: u64,
    /// The bucket below the edge; the next one is above.
    first: usize,
}

static EVENS: [Even; EVEN] = evens();
static MIDDLES: [u64; BUCKETS] = middles();

/// Where an even bucket begins, and how wide it is, nanoseconds.
const fn extent(even: usize) -> (u64, u64) {
    let octave = OCTAVE_MIN + (even >> SUB_BITS) as u32;
    let sub = (even & ((1 << SUB_BITS) - 1)) as u64;
    ((1 << octave) + (sub << (octave - SUB_BITS)), 1 << (octave - SUB_BITS))
}

const fn evens() -> [Even; EVEN] {
    let mut evens = [Even { last: u64::MAX, first: 0 }; EVEN];
    let (mut at, mut edge) = (0, 0);
    while at < EVEN {
        evens[at].first = at + edge;
        let (start, width) = extent(at);
        if edge < EDGES.len() && EDGES[edge] < start + width {
            assert!(EDGES[edge] > start, "an edge splits its bucket");
            evens[at].last = EDGES[edge] - 1;
            edge += 1;
        }
        at += 1;
    }
    assert!(edge == EDGES.len(), "no two edges are in one bucket");
    evens
}

const fn middles() -> [u64; BUCKETS] {
    let (evens, mut middles) = (evens(), [0; BUCKETS]);
    let mut at = 0;
    while at < EVEN {
        let (start, width) = extent(at);
        let Even { last, first } = evens[at];
        if last == u64::MAX {
            middles[first] = start + width / 2;
        } else {
            middles[first] = start.midpoint(last + 1);
            middles[first + 1] = (last + 1).midpoint(start + width);
        }
        at += 1;
    }
    middles
}

/// A log-linear latency histogram with one writer: relative width at most 3.1 %.
#[derive(Debug)]
pub struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Histogram {
    /// Counts one latency, nanoseconds. Only the owning shard calls this.
    pub fn record(&self, ns: u64) {
        self.count_one(bucket(ns));
    }

    /// Counts one in a bucket, as [`bucket`] has it. Only the owning shard calls this.
    #[inline]
    pub fn count_one(&self, bucket: usize) {
        let c = &self.0[bucket];
        c.store(c.load(Relaxed) + 1, Relaxed);
    }

    /// Begins again. Only the owning shard calls this.
    pub fn reset(&self) {
        self.0.iter().for_each(|count| count.store(0, Relaxed));
    }

    /// The count in a bucket.
    #[must_use]
    pub fn count(&self, bucket: usize) -> u64 {
        self.0[bucket].load(Relaxed)
    }
}

/// The bucket of a latency.
#[must_use]
#[inline]
pub fn bucket(ns: u64) -> usize {
    if ns < 1 << OCTAVE_MIN {
        return 0;
    }
    let octave = ns.ilog2();
    let sub = (ns >> (octave - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    let at = (((octave - OCTAVE_MIN) as usize) << SUB_BITS) + sub;
    let Even { last, first } = EVENS[at.min(EVEN - 1)];
    first + usize::from(ns > last)
}

/// The middle of a bucket, nanoseconds.
#[must_use]
pub fn bucket_ns(bucket: usize) -> u64 {
    MIDDLES[bucket]
}

/// Responses by latency bucket (see [`Histogram`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Box<[u64; BUCKETS]>);

impl Default for Latency {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Latency {
    /// The latency that `share` (0 to 1) of the answers did not exceed, nanoseconds, for each of
    /// `shares`; none when there was no answer.
    #[must_use]
    pub fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[u64; N]> {
        // From one nanosecond, since the lower bound is also the resolution; three digits are
        // finer than the buckets.
        let (low, high) = (1, bucket_ns(BUCKETS - 1) + 1);
        let mut merged = hdrhistogram::Histogram::<u64>::new_with_bounds(low, high, 3).ok()?;
        self.counts().for_each(|(ns, count)| merged.saturating_record_n(ns, count));
        (!merged.is_empty()).then(|| shares.map(|s| merged.value_at_quantile(s)))
    }

    /// Returns how many answers took less than each of these bounds, nanoseconds and ascending, and
    /// not less than the one before; then how many took longer. Exact for bounds of [`EDGES`].
    #[must_use]
    pub fn between(&self, bounds: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len() + 1];
        for (bucket, count) in self.0.iter().enumerate() {
            counts[bounds.partition_point(|bound| *bound <= bucket_ns(bucket))] += count;
        }
        counts
    }

    /// The latencies that were counted, each as the middle of its bucket, nanoseconds, and how often.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(|(bucket, count)| (bucket_ns(bucket), *count))
    }

    /// How many answers there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// All latencies together, nanoseconds, each taken as the middle of its bucket.
    #[must_use]
    pub fn sum_ns(&self) -> u128 {
        self.counts().map(|(ns, count)| u128::from(ns) * u128::from(count)).sum()
    }

    /// How many took less than each of these latencies, which ascend, nanoseconds: exact for those
    /// of [`EDGES`].
    #[must_use]
    pub fn at_most<const N: usize>(&self, bounds: [u64; N]) -> [u64; N] {
        let (mut bucket, mut sum) = (0, 0);
        bounds.map(|ns| {
            while bucket < BUCKETS && bucket_ns(bucket) <= ns {
                sum += self.0[bucket];
                bucket += 1;
            }
            sum
        })
    }

    /// Adds what a shard has counted.
    pub(crate) fn read(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.0.iter_mut().zip(&histogram.0) {
            *sum += bucket.load(Relaxed);
        }
    }

    /// Adds other latencies.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in self.0.iter_mut().zip(other.0.iter()) {
            *sum += part;
        }
    }

    /// What was counted after `earlier`; nothing where it has begun again.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let growth = |n: usize| self.0[n].saturating_sub(earlier.0[n]);
        Self(Box::new(std::array::from_fn(growth)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_own_middle() {
        for b in 0..BUCKETS {
            assert_eq!(bucket(bucket_ns(b)), b, "bucket {b}");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_bucket_is_narrow() {
        for ns in [2_000_u64, 12_345, 1_000_000, 999_999_999] {
            let middle = bucket_ns(bucket(ns));
            assert!(middle.abs_diff(ns) * 60 <= ns, "{ns} became {middle}");
        }
    }

    #[test]
    fn counters_up_to_an_edge_are_exact() {
        for (at, edge) in EDGES.into_iter().enumerate() {
            let histogram = Histogram::default();
            (0..3).for_each(|_| histogram.record(edge - 1));
            (0..5).for_each(|_| histogram.record(edge));
            (0..7).for_each(|_| histogram.record(edge + edge / 100));
            let mut latency = Latency::default();
            latency.read(&histogram);
            assert_eq!(latency.at_most(EDGES)[at], 3, "{edge}");
            assert_eq!(latency.between(&EDGES)[at], 3, "{edge}");
            assert_eq!(latency.between(&EDGES)[at + 1], 12, "{edge}");
        }
    }

    #[test]
    fn buckets_ascend() {
        let mut before = 0;
        for b in 1..BUCKETS {
            assert!(bucket_ns(b) > before, "bucket {b}");
            before = bucket_ns(b);
        }
        let mut last = 0;
        for ns in (0..40_000).map(|n| n * 500_000) {
            assert!(bucket(ns) >= last, "{ns}");
            last = bucket(ns);
        }
    }

    #[test]
    fn what_happened_in_a_span_is_the_difference() {
        let histogram = Histogram::default();
        (0..7).for_each(|_| histogram.record(5_000_000));
        let (mut earlier, mut later) = (Latency::default(), Latency::default());
        earlier.read(&histogram);
        (0..3).for_each(|_| histogram.record(5_000_000));
        later.read(&histogram);
        let mut span = Latency::default();
        span.0[bucket(5_000_000)] = 3;
        assert_eq!(later.since(&earlier), span);
        histogram.reset();
        let mut again = Latency::default();
        again.read(&histogram);
        assert_eq!(again.since(&later), Latency::default(), "not less than nothing");
    }
}
