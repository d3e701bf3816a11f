//! Spans of time, counted: their percentiles within three digits, and their ends and mean exactly.

use std::ops::Deref;

use hdrhistogram::Histogram;

use crate::config::criteria::Within;

/// Histograms tell nanoseconds apart,
const LOW_NS: u64 = 1;
/// count up to an hour, nanoseconds,
const HIGH_NS: u64 = 3_600_000_000_000;
/// and have three exact digits.
const DIGITS: u8 = 3;

/// Spans of time, nanoseconds. What a histogram rounds, its ends and its mean, stands beside it.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    histogram: Histogram<u64>,
    /// The least and the greatest; in the wrong order where there is none.
    least: u64,
    most: u64,
    sum: u128,
}

impl Spans {
    /// Creates an empty one.
    pub(crate) fn new() -> Self {
        let bounded = Histogram::new_with_bounds(LOW_NS, HIGH_NS, DIGITS);
        // These bounds are valid.
        let histogram = bounded.unwrap_or_else(|_| unreachable!("constants"));
        Self { histogram, least: u64::MAX, most: 0, sum: 0 }
    }

    /// Counts one.
    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.record_n(ns, 1);
    }

    /// Counts several that are equal.
    #[inline]
    pub(crate) fn record_n(&mut self, ns: u64, n: u64) {
        if n > 0 {
            self.histogram.saturating_record_n(ns, n);
            self.least = self.least.min(ns);
            self.most = self.most.max(ns);
            self.sum += u128::from(ns) * u128::from(n);
        }
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so that nothing is out of them.
        let _ = self.histogram.add(&other.histogram);
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
        self.sum += other.sum;
    }

    /// Forgets them.
    pub(crate) fn reset(&mut self) {
        self.histogram.reset();
        (self.least, self.most, self.sum) = (u64::MAX, 0, 0);
    }

    /// Returns the bounds of a percentile, 0 to 100, unless there is no span.
    pub(crate) fn within(&self, percentile: f64) -> Option<Within> {
        if self.histogram.is_empty() {
            return None;
        }
        let value = self.histogram.value_at_quantile(percentile / 100.0);
        let (low, high) = (self.histogram.lowest_equivalent(value), self.histogram.highest_equivalent(value));
        // The ends are known: of many equal spans every percentile is.
        let bounds = match percentile {
            p if p >= 100.0 => [self.most; 2],
            p if p <= 0.0 => [self.least; 2],
            _ => [low, high].map(|ns| ns.clamp(self.least, self.most)),
        };
        Some(Within { least: bounds[0], most: bounds[1] })
    }

    /// Returns a percentile, unless there is no span: the least that it can be, so that no bound is exceeded
    /// by what does not exceed it.
    pub(crate) fn at(&self, percentile: f64) -> Option<u64> {
        self.within(percentile).map(|within| within.least)
    }

    /// Returns the greatest, unless there is none.
    pub(crate) fn most(&self) -> Option<u64> {
        (!self.histogram.is_empty()).then_some(self.most)
    }

    /// Returns the mean, unless there is no span.
    pub(crate) fn average(&self) -> Option<f64> {
        (!self.histogram.is_empty()).then(|| self.sum as f64 / self.histogram.len() as f64)
    }
}

impl Deref for Spans {
    type Target = Histogram<u64>;

    fn deref(&self) -> &Histogram<u64> {
        &self.histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_mean_are_exact() {
        let (mut spans, mut others) = (Spans::new(), Spans::new());
        assert_eq!((spans.at(50.0), spans.most(), spans.average()), (None, None, None));
        spans.record(1_000_000);
        // One value is known whatever the range that it counts in.
        for percentile in [0.0, 50.0, 99.9, 100.0] {
            assert_eq!(spans.within(percentile), Some(Within { least: 1_000_000, most: 1_000_000 }));
        }
        others.record_n(9_500_001, 2);
        others.record_n(7, 0);
        spans.add(&others);
        assert_eq!(
            (spans.at(0.0), spans.at(100.0), spans.most()),
            (Some(1_000_000), Some(9_500_001), Some(9_500_001))
        );
        assert_eq!(spans.average(), Some(20_000_002.0 / 3.0));
        let p50 = spans.within(50.0).expect("spans");
        assert!(p50.least < 9_500_001 && p50.most == 9_500_001, "{p50:?}");
        spans.reset();
        assert_eq!((spans.len(), spans.most()), (0, None));
        spans.record(5);
        assert_eq!((spans.at(0.0), spans.most()), (Some(5), Some(5)));
    }
}
