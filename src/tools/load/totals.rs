//! What all threads have measured, and how it went over time.

use std::collections::BTreeMap;

use crate::config::criteria::{Figures, Within};
use crate::tools::load::spans::Spans;
use crate::tools::load::tally::{Counts, INTERVAL, Interval};

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
    pub(crate) latency: Spans,
    pub(crate) naive: Spans,
    pub(crate) lag: Spans,
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
            latency: Spans::new(),
            naive: Spans::new(),
            lag: Spans::new(),
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
            here.add(there);
        }
        self.rows.push(Row {
            second: interval.number,
            wanted,
            queries: interval.counts.sent,
            sent: interval.counts.sent,
            answered: interval.counts.answered,
            lost: interval.counts.lost(),
            wrong: interval.counts.wrong(),
            p50_ns: interval.latency.at(50.0).unwrap_or(0),
            p99_ns: interval.latency.at(99.0).unwrap_or(0),
            max_ns: interval.latency.most().unwrap_or(0),
        });
        &self.rows[self.rows.len() - 1]
    }
}

impl Figures for Totals {
    fn percentile_ns(&self, percentile: f64) -> Option<Within> {
        self.latency.within(percentile)
    }
    fn lag_ns(&self, percentile: f64) -> Option<Within> {
        self.lag.within(percentile)
    }
    fn mean_ns(&self) -> Option<f64> {
        self.latency.average()
    }
    fn max_ns(&self) -> Option<u64> {
        self.latency.most()
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

/// One interval as the figures of a run. A query that was not answered within it counts as lost: its
/// time-out would come only in a later one.
#[derive(Debug)]
pub(crate) struct Moment<'i>(pub(crate) &'i Interval);

impl Figures for Moment<'_> {
    fn percentile_ns(&self, percentile: f64) -> Option<Within> {
        self.0.latency.within(percentile)
    }
    fn lag_ns(&self, percentile: f64) -> Option<Within> {
        self.0.lag.within(percentile)
    }
    fn mean_ns(&self) -> Option<f64> {
        self.0.latency.average()
    }
    fn max_ns(&self) -> Option<u64> {
        self.0.latency.most()
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
            interval.latency.record(*ns);
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
            let (exact, told) = (all[rank - 1], totals.latency.at(percentile).expect("answers"));
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
            for told in [totals.latency.at(50.0), totals.max_ns(), totals.mean_ns().map(|ns| ns as u64)] {
                assert_eq!(told, Some(ns));
            }
            // Nor shorter.
            if ns % 1_000 > 0 {
                continue;
            }
            let us = ns / 1_000;
            let holds = |condition: &str, totals: &Totals| {
                Criteria::parse(condition, Tool::Bench).expect("conditions").any_holds(totals)
            };
            for (order, is_true) in [("<", false), (">", false), ("<=", true), (">=", true)] {
                let conditions = ["p50", "max", "mean"].map(|measure| format!("{measure}{order}{us}us"));
                assert!(conditions.iter().all(|c| holds(c, &totals) == is_true), "{order} {ns}");
            }
            assert!(holds(&format!("p50<{}us", us + 1), &totals), "{ns}");
            // Among others it is known within its range: no condition holds that may not be true, but where
            // equality is enough.
            totals.add(&interval(1, &[1, ns * 2]), None);
            for (order, is_true) in [("<", false), (">", false), ("<=", true), (">=", true)] {
                assert_eq!(holds(&format!("p50{order}{us}us"), &totals), is_true, "{order} {ns}");
            }
        }
    }

    #[test]
    fn what_was_not_measured_has_no_figure() {
        let mut totals = Totals::new();
        totals.add(&interval(0, &[]), None);
        assert_eq!((totals.latency.at(50.0), totals.max_ns(), totals.mean_ns()), (None, None, None));
        // No percentile and no mean is above the highest value.
        totals.lag.record_n(0, 3);
        assert_eq!((totals.lag.at(50.0), totals.lag.average()), (Some(0), Some(0.0)));
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
