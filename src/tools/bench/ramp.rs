//! The search for the highest rate that a server answers well.
//!
//! ```text
//!  1,000 ► 2,000 ► 4,000 ► 8,000 bad ► 6,000 good ► 7,000 bad ► 6,500 good: within 5 % of a bad one
//! ```
//! Each rate has a second to settle and a second in which it is judged. Behind a rate that was too much
//! nothing is sent until the server has answered all of it, or nothing more comes: the next rate does
//! not wait in the queue of that one.

use crate::config::criteria::Criteria;
use crate::tools::load::tally::{Counts, Interval};
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
/// Seconds without queries at most, for servers that answer for ever.
const DRAIN_MAX: u32 = 30;

/// What is to be done from a second on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// So many queries per second.
    Rate(u32),
    /// None.
    Pause,
    /// The search is over.
    Over,
}

/// What the current second is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Settle,
    Judge,
    /// So many seconds without queries have been before.
    Drain(u32),
}

/// The search.
#[derive(Debug)]
pub(crate) struct Search {
    limits: Criteria,
    rate: u32,
    phase: Phase,
    /// What was counted since the begin.
    sum: Counts,
    good: Option<u32>,
    bad: Option<u32>,
    found: Ramp,
    /// What was measured at the best rate.
    best: Option<Interval>,
}

impl Search {
    /// Begins at [`FIRST`].
    pub(crate) fn new(limits: Criteria) -> Self {
        let found = Ramp { limits: limits.to_string(), ..Ramp::default() };
        Self {
            limits,
            rate: FIRST,
            phase: Phase::Settle,
            sum: Counts::default(),
            good: None,
            bad: None,
            found,
            best: None,
        }
    }

    /// Takes what was measured in a second; returns what is to be done from then on.
    pub(crate) fn next(&mut self, interval: &Interval) -> Next {
        self.sum.add(&interval.counts);
        match self.phase {
            Phase::Settle => {
                self.phase = Phase::Judge;
                Next::Rate(self.rate)
            }
            Phase::Drain(seconds) => {
                let is_over = self.sum.outstanding() == 0 && interval.counts.late == 0;
                if !is_over && seconds < DRAIN_MAX {
                    self.phase = Phase::Drain(seconds + 1);
                    return Next::Pause;
                }
                self.phase = Phase::Settle;
                Next::Rate(self.rate)
            }
            Phase::Judge => self.step(interval),
        }
    }

    /// Judges a rate, and chooses the next.
    fn step(&mut self, interval: &Interval) -> Next {
        let wrong = self.judge(interval);
        let counts = &interval.counts;
        let p99_ns = interval.latency.at(99.0).unwrap_or(0);
        let is_bad = wrong.is_some();
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
            // Where nothing comes back, not even late, a lower rate is of no use.
            (None, Some(bad)) if bad > 10 && counts.answered + counts.late > 0 => bad / 2,
            _ => return Next::Over,
        };
        self.phase = if is_bad { Phase::Drain(0) } else { Phase::Settle };
        if is_bad { Next::Pause } else { Next::Rate(self.rate) }
    }

    /// Returns what was found, and what was measured at the best rate. `cut` says what has ended it
    /// before it was over.
    pub(crate) fn end(mut self, cut: Option<&str>) -> (Ramp, Option<Interval>) {
        if let Some(cut) = cut {
            let semicolon = if self.found.end.is_empty() { "" } else { "; " };
            self.found.end += &format!("{semicolon}{cut}");
        }
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
    use crate::config::criteria::Tool;

    /// A server with a queue that answers up to `most` queries per second, at a generator that sends
    /// up to `sends`. What waits has a latency of its place in the queue.
    fn searched(most: u64, sends: u64) -> (Ramp, Option<Interval>) {
        let mut search = Search::new(Criteria::parse("p99>20ms,loss>1%", Tool::Bench).expect("limits"));
        let (mut rate, mut queue) = (FIRST, 0);
        for turn in 0..200 {
            let mut interval = Interval::new(turn);
            interval.counts.sent = sends.min(rate.into());
            queue += interval.counts.sent;
            interval.counts.answered = most.min(queue);
            queue -= interval.counts.answered;
            let wait_ns = 1_000_000 + queue * 1_000_000_000 / most.max(1);
            interval.latency.record_n(wait_ns, interval.counts.answered);
            match search.next(&interval) {
                Next::Rate(next) => rate = next,
                Next::Pause => rate = 0,
                Next::Over => return search.end(None),
            }
        }
        panic!("no end");
    }

    #[test]
    fn the_highest_good_rate_is_found() {
        for most in [300, 1_000, 6_700, 123_456, 1_500_000] {
            let (ramp, best) = searched(most, u64::MAX);
            let rate = u64::from(ramp.best.expect("a rate"));
            assert!(rate <= most * 101 / 100 + 1 && rate * 107 / 100 >= most, "{rate} of {most}");
            assert_eq!(best.map(|i| i.counts.sent), Some(rate));
            assert!(ramp.end.contains("p99>20ms"), "{}", ramp.end);
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
        assert_eq!(ramp.steps.len(), 1, "one rate is enough");
        assert_eq!(ramp.end, "at 1,000: p99>20ms (no answers)");
    }

    #[test]
    fn a_rate_that_was_too_much_is_answered_before_the_next() {
        let mut search = Search::new(Criteria::parse("loss>1%", Tool::Bench).expect("limits"));
        let second = |sent, answered, timed_out, late| {
            let mut interval = Interval::new(0);
            interval.counts = Counts { sent, answered, timed_out, late, ..Counts::default() };
            interval
        };
        let good = [second(1_000, 1_000, 0, 0), second(1_000, 1_000, 0, 0), second(2_000, 1_500, 0, 0)];
        let done = good.map(|interval| search.next(&interval));
        assert_eq!(done, [Next::Rate(1_000), Next::Rate(2_000), Next::Rate(2_000)]);
        assert_eq!(search.next(&second(2_000, 1_500, 0, 0)), Next::Pause, "1,000 wait");
        assert_eq!(search.next(&second(0, 500, 0, 0)), Next::Pause, "500 wait");
        assert_eq!(search.next(&second(0, 0, 500, 0)), Next::Rate(1_500));
        assert_eq!(search.next(&second(1_500, 500, 0, 0)), Next::Rate(1_500));
        assert_eq!(search.next(&second(1_500, 500, 0, 0)), Next::Pause);
        assert_eq!(search.next(&second(0, 0, 2_000, 300)), Next::Pause, "late ones come");
        assert_eq!(search.next(&second(0, 0, 0, 0)), Next::Rate(1_250));
        let (ramp, _) = search.end(Some("interrupted"));
        assert_eq!((ramp.best, ramp.steps.len()), (Some(1_000), 3));
        assert_eq!(ramp.end, "at 1,500: loss>1% (66.6667%); interrupted");
    }
}
