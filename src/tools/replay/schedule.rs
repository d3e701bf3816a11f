//! When what was recorded has to be sent.
//!
//! ```text
//!  recorded   0   5   7      4 (reordered: as the one before)   3,600 s back (the clock was set: goes on)
//!  speed 2    0  2.5  3.5   3.5                                  3.5
//! ```

use crate::base::time::TickDelta;
use crate::config::replay::Timing;

/// By how much times go back where packets are reordered, nanoseconds; beyond that the clock was set.
const REORDERED_MAX: u64 = 1_000_000_000;

/// The times of a run.
#[derive(Debug)]
pub(crate) struct Schedule {
    timing: Timing,
    /// The recorded time that was last, nanoseconds since 1970.
    last: Option<u64>,
    /// Time recorded since the first, nanoseconds.
    passed: u64,
    /// Queries so far.
    queries: u64,
    /// How often the clock of the capture was set back.
    pub(crate) steps: u64,
}

impl Schedule {
    pub(crate) const fn new(timing: Timing) -> Self {
        Self { timing, last: None, passed: 0, queries: 0, steps: 0 }
    }

    /// Returns the time that was recorded between the first and the last, nanoseconds.
    pub(crate) const fn recorded(&self) -> u64 {
        self.passed
    }

    /// Returns when something is due that was recorded at this time.
    pub(crate) fn due(&mut self, at: u64, is_query: bool) -> TickDelta {
        let last = *self.last.get_or_insert(at);
        if at >= last {
            self.passed = self.passed.saturating_add(at - last);
            self.last = Some(at);
        } else if last - at > REORDERED_MAX {
            self.steps += 1;
            self.last = Some(at);
        }
        let number = self.queries;
        self.queries += u64::from(is_query);
        TickDelta(match self.timing {
            Timing::Speed(speed) => (self.passed as f64 / speed) as u64,
            Timing::Rate(rate) => {
                let ns = u128::from(number) * 1_000_000_000 / u128::from(rate.max(1));
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
            Timing::Max => 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(timing: Timing, times: &[u64]) -> (Vec<u64>, u64) {
        let mut schedule = Schedule::new(timing);
        let due = times.iter().map(|at| schedule.due(*at, true).0).collect();
        (due, schedule.steps)
    }

    #[test]
    fn times_are_those_of_the_capture() {
        let times = [1_000, 1_500, 1_700, 1_600, 1_800];
        assert_eq!(due(Timing::Speed(1.0), &times), (vec![0, 500, 700, 700, 800], 0));
        assert_eq!(due(Timing::Speed(10.0), &times), (vec![0, 50, 70, 70, 80], 0));
        assert_eq!(due(Timing::Speed(0.5), &times), (vec![0, 1_000, 1_400, 1_400, 1_600], 0));
        assert_eq!(due(Timing::Max, &times), (vec![0; 5], 0));
    }

    #[test]
    fn a_rate_is_even() {
        assert_eq!(due(Timing::Rate(2), &[9, 9, 9]), (vec![0, 500_000_000, 1_000_000_000], 0));
        let mut schedule = Schedule::new(Timing::Rate(1));
        assert_eq!(
            [false, true, false, true].map(|q| schedule.due(5, q).0),
            [0, 0, 1_000_000_000, 1_000_000_000]
        );
    }

    #[test]
    fn a_clock_that_is_set_back_goes_on() {
        let hour = 3_600_000_000_000;
        let times = [hour, hour + 10, 5, 25];
        assert_eq!(due(Timing::Speed(1.0), &times), (vec![0, 10, 10, 30], 1));
        assert_eq!(due(Timing::Speed(1.0), &[0, u64::MAX, 0, u64::MAX]).1, 1, "and does not overflow");
    }
}
