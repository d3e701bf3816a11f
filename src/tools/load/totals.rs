//! What all threads have measured, and how it went over time.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::config::criteria::Figures;
use crate::tools::load::tally::{Counts, INTERVAL, Interval, histogram};

/// A second of a run, of all threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its number, from 0.
    pub(crate) second: u64,
    /// The queries that were due, if there is a rate.
    pub(crate) wanted: Option<u64>,
    /// Messages of clients, those that came again included: only a capture has more of them than were sent.
    pub(crate) queries: u64,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    /// Percentiles of the latency, nanoseconds; 0 if nothing was answered.
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
}

/// The sum of a run.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    pub(crate) counts: Counts,
    pub(crate) latency: Histogram<u64>,
    pub(crate) naive: Histogram<u64>,
    pub(crate) lag: Histogram<u64>,
    pub(crate) rows: Vec<Row>,
    /// How long queries were sent, seconds.
    pub(crate) seconds: f64,
    /// From the begin to the last answer, seconds.
    pub(crate) answered_until: f64,
}

impl Totals {
    /// Creates an empty sum.
    pub(crate) fn new() -> Self {
        Self {
            counts: Counts::default(),
            latency: histogram(),
            naive: histogram(),
            lag: histogram(),
            rows: Vec::new(),
            seconds: 0.0,
            answered_until: 0.0,
        }
    }

    /// Adds an interval of all threads; returns its row.
    pub(crate) fn add(&mut self, interval: &Interval, wanted: Option<u64>) -> &Row {
        self.counts.add(&interval.counts);
        self.answered_until = self.answered_until.max(interval.answered_until.0 as f64 / 1e9);
        for (here, there) in [
            (&mut self.latency, &interval.latency),
            (&mut self.naive, &interval.naive),
            (&mut self.lag, &interval.lag),
        ] {
            // Both have the same bounds.
            let _ = here.add(there);
        }
        self.rows.push(Row {
            second: interval.number,
            wanted,
            queries: interval.counts.sent,
            sent: interval.counts.sent,
            answered: interval.counts.answered,
            lost: interval.counts.lost(),
            wrong: interval.counts.wrong(),
            p50_ns: at(&interval.latency, 50.0).unwrap_or(0),
            p99_ns: at(&interval.latency, 99.0).unwrap_or(0),
            max_ns: at(&interval.latency, 100.0).unwrap_or(0),
        });
        &self.rows[self.rows.len() - 1]
    }
}

impl Figures for Totals {
    fn percentile_ns(&self, percentile: f64) -> Option<u64> {
        at(&self.latency, percentile)
    }
    fn lag_ns(&self, percentile: f64) -> Option<u64> {
        at(&self.lag, percentile)
    }
    fn mean_ns(&self) -> Option<f64> {
        mean(&self.latency)
    }
    fn max_ns(&self) -> Option<u64> {
        at(&self.latency, 100.0)
    }
    fn sent(&self) -> u64 {
        self.counts.asked()
    }
    fn unsent(&self) -> u64 {
        self.counts.unsent()
    }
    fn due(&self) -> u64 {
        self.counts.due()
    }
    fn lost(&self) -> u64 {
        self.counts.lost()
    }
    fn wrong(&self) -> u64 {
        self.counts.wrong()
    }
    fn with_code(&self, code: u16) -> u64 {
        self.counts.codes.get(usize::from(code)).copied().unwrap_or(0)
    }
    fn rate(&self) -> f64 {
        // Answers that come after the last query count with the time that they took.
        let seconds = self.seconds.max(self.answered_until);
        if seconds > 0.0 { self.counts.answered as f64 / seconds } else { 0.0 }
    }
}

/// Returns a percentile of a histogram, unless that is empty: the least value that its bucket stands for, so
/// that no bound is exceeded by what does not exceed it.
pub(crate) fn at(histogram: &Histogram<u64>, percentile: f64) -> Option<u64> {
    let value = || histogram.lowest_equivalent(histogram.value_at_quantile(percentile / 100.0));
    (!histogram.is_empty()).then(value)
}

/// Returns the mean of a histogram, unless that is empty. It is made of the middles of buckets.
pub(crate) fn mean(histogram: &Histogram<u64>) -> Option<f64> {
    at(histogram, 100.0).map(|max| histogram.mean().min(max as f64))
}

/// One interval as the figures of a run. A query that was not answered within it counts as lost: its
/// time-out would come only in a later one.
#[derive(Debug)]
pub(crate) struct Moment<'i>(pub(crate) &'i Interval);

impl Figures for Moment<'_> {
    fn percentile_ns(&self, percentile: f64) -> Option<u64> {
        at(&self.0.latency, percentile)
    }
    fn lag_ns(&self, percentile: f64) -> Option<u64> {
        at(&self.0.lag, percentile)
    }
    fn mean_ns(&self) -> Option<f64> {
        mean(&self.0.latency)
    }
    fn max_ns(&self) -> Option<u64> {
        at(&self.0.latency, 100.0)
    }
    fn sent(&self) -> u64 {
        self.0.counts.asked()
    }
    fn unsent(&self) -> u64 {
        self.0.counts.unsent()
    }
    fn due(&self) -> u64 {
        self.0.counts.due()
    }
    fn lost(&self) -> u64 {
        self.0.counts.asked().saturating_sub(self.0.counts.answered)
    }
    fn wrong(&self) -> u64 {
        self.0.counts.wrong()
    }
    fn with_code(&self, code: u16) -> u64 {
        self.0.counts.codes.get(usize::from(code)).copied().unwrap_or(0)
    }
    fn rate(&self) -> f64 {
        self.0.counts.answered as f64 * 1e9 / INTERVAL.0 as f64
    }
}

/// Joins the intervals of several threads. A thread that has nothing to say of an interval leaves it
/// out, so one is complete when every thread has gone beyond it or has ended.
#[derive(Debug)]
pub(crate) struct Join {
    open: BTreeMap<u64, Interval>,
    /// By thread: the first interval that it can still speak of.
    reached: Vec<u64>,
}

impl Join {
    /// Waits for so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self { open: BTreeMap::new(), reached: vec![0; threads] }
    }

    /// Returns the number of threads.
    pub(crate) const fn threads(&self) -> usize {
        self.reached.len()
    }

    /// Takes an interval of a thread.
    pub(crate) fn take(&mut self, interval: &Interval) {
        self.open.entry(interval.number).or_insert_with(|| Interval::new(interval.number)).add(interval);
        self.reached[interval.thread] = if interval.last { u64::MAX } else { interval.number + 1 };
    }

    /// Notes that no thread says anything more.
    pub(crate) fn end(&mut self) {
        self.reached.fill(u64::MAX);
    }

    /// Returns the next interval that is complete, in order.
    pub(crate) fn complete(&mut self) -> Option<Interval> {
        let number = *self.open.keys().next()?;
        let is_complete = self.reached.iter().all(|reached| *reached > number);
        if is_complete { self.open.remove(&number) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::criteria::{Criteria, Tool};

    fn interval(number: u64, latencies_ns: &[u64]) -> Interval {
        let mut interval = Interval::new(number);
        for ns in latencies_ns {
            interval.counts.answered += 1;
            interval.latency.saturating_record(*ns);
        }
        interval
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut rng = crate::base::rng::ShardRng::from_seed(9);
        // From 20 us to 200 ms, as latencies are spread.
        let mut draw = || {
            let ns = 20_000_u64 << rng.below(14);
            ns + ns * u64::from(rng.below(1_000)) / 1_000
        };
        let mut all: Vec<u64> = (0..50_000).map(|_| draw()).collect();
        let mut totals = Totals::new();
        for (number, part) in (0..).zip(all.chunks(5_000)) {
            totals.add(&interval(number, part), None);
        }
        all.sort_unstable();
        for percentile in [0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0] {
            let rank = (percentile / 100.0 * all.len() as f64).ceil().max(1.0) as usize;
            let (exact, told) = (all[rank - 1], totals.percentile_ns(percentile).expect("answers"));
            // Three digits: within a thousandth.
            assert!((exact - exact / 1_000..=exact).contains(&told), "p{percentile}: {told}, not {exact}");
        }
        assert_eq!((totals.counts.answered, totals.rows.len()), (50_000, 10));
    }

    #[test]
    fn what_is_as_long_as_a_bound_is_not_longer() {
        for ns in [1, 1_233, 100_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 1_000_000_000] {
            let mut totals = Totals::new();
            totals.add(&interval(0, &[ns; 3]), None);
            for told in [totals.percentile_ns(50.0), totals.max_ns(), totals.mean_ns().map(|ns| ns as u64)] {
                let told = told.expect("answers");
                assert!(told <= ns && ns - told <= ns / 1_000, "{told}, not {ns}");
            }
            // Nor shorter.
            if ns % 1_000 > 0 {
                continue;
            }
            let us = ns / 1_000;
            let conditions = |order: &str| format!("p50{order}{us}us,max{order}{us}us");
            for order in ["<", ">"] {
                let conditions = Criteria::parse(&conditions(order), Tool::Bench).expect("conditions");
                assert!(!conditions.any_holds(&totals), "{order} {ns}");
            }
            let criteria =
                Criteria::parse(&format!("p50<{}us", us + us / 500 + 1), Tool::Bench).expect("a condition");
            assert!(criteria.any_holds(&totals), "{ns}");
        }
    }

    #[test]
    fn what_was_not_measured_has_no_figure() {
        let mut totals = Totals::new();
        totals.add(&interval(0, &[]), None);
        assert_eq!((totals.percentile_ns(50.0), totals.max_ns(), totals.mean_ns()), (None, None, None));
        // No percentile and no mean is above the highest value.
        totals.lag.saturating_record_n(0, 3);
        assert_eq!((totals.lag_ns(50.0), mean(&totals.lag)), (Some(0), Some(0.0)));
    }

    #[test]
    fn intervals_of_threads_are_joined_in_order() {
        let mut join = Join::new(2);
        let of = |thread: usize, interval: Interval| Interval { thread, ..interval };
        join.take(&of(0, interval(0, &[5_000])));
        join.take(&of(0, interval(1, &[])));
        assert!(join.complete().is_none(), "the other thread is not there yet");
        join.take(&of(1, interval(1, &[7_000])));
        let first = join.complete().expect("nothing of the other thread");
        assert_eq!((first.number, first.counts.answered), (0, 1));
        assert_eq!(join.complete().map(|i| (i.number, i.counts.answered)), Some((1, 1)));
        assert!(join.complete().is_none());
        join.take(&Interval { last: true, ..of(0, interval(2, &[9_000])) });
        assert!(join.complete().is_none(), "the other thread may have more");
        join.end();
        assert_eq!(join.complete().map(|i| (i.number, i.counts.answered)), Some((2, 1)));
        assert!(join.complete().is_none());
    }
}
