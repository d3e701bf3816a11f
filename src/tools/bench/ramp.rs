//! The search for the highest rate that a server answers well.
//!
//! ```text
//!  1,000 ► 2,000 ► 4,000 ► 8,000 bad ► 6,000 good ► 7,000 bad ► 6,500 good: within 5 % of a bad one
//! ```
//! Each rate has a second to settle and a second in which it is judged.

use crate::config::criteria::Criteria;
use crate::tools::load::tally::Interval;
use crate::tools::load::totals::Moment;
use crate::tools::report::text::grouped;
use crate::tools::report::{Ramp, Step};

/// The first rate, queries per second.
pub(crate) const FIRST: u32 = 1_000;
/// The search ends when a good rate is so near to a bad one.
const NEAR: f64 = 1.05;
/// Of the queries of a rate, the part that must be sent for the rate to be judged.
const SENT_MIN: f64 = 0.95;
/// Highest rate, queries per second.
const RATE_MAX: u32 = 20_000_000;

/// The search.
#[derive(Debug)]
pub(crate) struct Search {
    limits: Criteria,
    rate: u32,
    /// Whether the current rate has had its second to settle.
    settled: bool,
    good: Option<u32>,
    bad: Option<u32>,
    found: Ramp,
    /// What was measured at the best rate.
    best: Option<Interval>,
}

impl Search {
    /// Begins at [`FIRST`].
    pub(crate) fn new(limits: Criteria) -> Self {
        let found =
            Ramp { limits: limits.to_string(), end: "the time was over".to_owned(), ..Ramp::default() };
        Self { limits, rate: FIRST, settled: false, good: None, bad: None, found, best: None }
    }

    /// Takes what was measured in a second; returns the rate from then on, or `None` if the search is
    /// over.
    pub(crate) fn next(&mut self, interval: &Interval) -> Option<u32> {
        if !self.settled {
            self.settled = true;
            return Some(self.rate);
        }
        self.settled = false;
        let wrong = self.judge(interval);
        let counts = &interval.counts;
        let p99_ns = interval.latency.value_at_quantile(0.99);
        self.found.steps.push(Step {
            rate: self.rate,
            sent: counts.sent,
            answered: counts.answered,
            p99_ns,
            wrong: wrong.clone().unwrap_or_default(),
        });
        if let Some(wrong) = wrong {
            self.bad = Some(self.rate);
            self.found.end = format!("at {}: {wrong}", grouped(self.rate.into()));
        } else {
            (self.good, self.best) = (Some(self.rate), Some(interval.clone()));
        }
        self.rate = match (self.good, self.bad) {
            (Some(good), None) if good < RATE_MAX => good.saturating_mul(2).min(RATE_MAX),
            (Some(good), Some(bad)) if f64::from(bad) > f64::from(good) * NEAR => good.midpoint(bad),
            (None, Some(bad)) if bad > 10 => bad / 2,
            _ => return None,
        };
        Some(self.rate)
    }

    /// Returns what was found, and what was measured at the best rate.
    pub(crate) fn end(mut self) -> (Ramp, Option<Interval>) {
        self.found.best = self.good;
        (self.found, self.best)
    }

    fn judge(&self, interval: &Interval) -> Option<String> {
        let sent = interval.counts.sent;
        if (sent as f64) < f64::from(self.rate) * SENT_MIN {
            return Some(format!(
                "only {} were sent: this machine cannot send more, or nothing listens",
                grouped(sent)
            ));
        }
        let held = self.limits.that_hold(&Moment(interval));
        held.first().map(|(criterion, value)| format!("{criterion} ({value})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers up to `most` queries per second, at a generator that sends up to `sends`.
    fn searched(most: u64, sends: u64) -> (Ramp, Option<Interval>) {
        let mut search = Search::new(Criteria::parse("p99>20ms,loss>1%").expect("limits"));
        let (mut rate, mut turns) = (FIRST, 0);
        loop {
            let mut interval = Interval::new(turns);
            interval.counts.sent = sends.min(rate.into());
            interval.counts.answered = most.min(interval.counts.sent);
            interval.latency.saturating_record_n(1_000_000, interval.counts.answered);
            turns += 1;
            assert!(turns < 100, "no end");
            match search.next(&interval) {
                Some(next) => rate = next,
                None => return search.end(),
            }
        }
    }

    #[test]
    fn the_highest_good_rate_is_found() {
        for most in [300, 1_000, 6_700, 123_456, 1_500_000] {
            let (ramp, best) = searched(most, u64::MAX);
            let rate = u64::from(ramp.best.expect("a rate"));
            assert!(rate <= most * 101 / 100 + 1 && rate * 107 / 100 >= most, "{rate} of {most}");
            assert_eq!(best.map(|i| i.counts.sent), Some(rate));
            assert!(ramp.end.contains("loss>1%"), "{}", ramp.end);
            assert!(ramp.steps.iter().any(|s| s.wrong.is_empty()) && ramp.steps.len() > 3);
        }
    }

    #[test]
    fn a_machine_that_cannot_send_more_is_told() {
        let (ramp, _) = searched(u64::MAX, 50_000);
        assert!(ramp.best.is_some_and(|rate| (48_000..53_000).contains(&rate)), "{:?}", ramp.best);
        assert!(ramp.end.contains("cannot send more"), "{}", ramp.end);
    }

    #[test]
    fn a_dead_server_has_no_good_rate() {
        let (ramp, best) = searched(0, u64::MAX);
        assert!(ramp.best.is_none() && best.is_none());
    }
}
