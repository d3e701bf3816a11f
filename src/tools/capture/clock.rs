//! Which times of a capture are to be believed: those that the next packets confirm.
//!
//! ```text
//!  10.0  10.1  86,410.2  10.3  10.4      one that is alone: it was captured when the one before it was
//!  10.0  10.1   3,600.0  3,600.1         silence, or a clock that was set: time goes on from there
//! ```
//! A packet whose time is far from the one before it is held back until it is known which of both it is.
//! While times are near each other, none is.

use std::collections::VecDeque;

/// Times that are no further apart need no confirmation, nanoseconds: packets may be reordered.
const NEAR: u64 = 1_000_000_000;
/// One packet behind a silence of up to this, nanoseconds, is the end of a capture.
const SILENCE: u64 = 3_600_000_000_000;
/// Packets that confirm a silence, or a clock that was set back, with the first of them.
const CONFIRMED_BY: usize = 4;

/// A packet to be passed on, with the time that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Timed<P> {
    pub(super) at: u64,
    /// Whether that is not its own.
    pub(super) is_odd: bool,
    pub(super) packet: P,
}

/// The clock of a capture.
#[derive(Clone, Debug)]
pub(super) struct Clock<P> {
    /// The last time that was believed.
    last: Option<u64>,
    held: VecDeque<(u64, P)>,
}

impl<P> Default for Clock<P> {
    fn default() -> Self {
        Self { last: None, held: VecDeque::new() }
    }
}

impl<P> Clock<P> {
    /// Returns whether a packet of this time need not be held: it can be passed on as it is.
    #[inline]
    pub(super) fn passes(&mut self, at: u64) -> bool {
        let passes = self.held.is_empty() && self.last.is_some_and(|last| last.abs_diff(at) <= NEAR);
        if passes {
            self.last = Some(at);
        }
        passes
    }

    /// Takes a packet that does not pass; returns those that are to be passed on, in their order.
    #[cold]
    pub(super) fn hold(&mut self, at: u64, packet: P) -> Vec<Timed<P>> {
        let mut out = Vec::new();
        self.held.push_back((at, packet));
        if self.last.is_none() {
            self.begin(&mut out);
        }
        if self.last.is_some() {
            self.settle(&mut out);
        }
        out
    }

    /// Finds the first time that is to be believed.
    fn begin(&mut self, out: &mut Vec<Timed<P>>) {
        let (Some(first), Some(second)) = (self.held.front(), self.held.get(1)) else { return };
        let (first, second) = (first.0, second.0);
        if first.abs_diff(second) <= NEAR {
            self.last = Some(first);
            return;
        }
        // Two are far from each other: the next ones tell which of them is odd.
        let mut others = self.held.iter().skip(2).map(|(at, _)| *at);
        let Some(third) = others.clone().next() else { return };
        let is_silence = (first..=first.saturating_add(SILENCE)).contains(&second);
        let is_near_first = others.any(|at| first.abs_diff(at) < second.abs_diff(at));
        if is_near_first || is_silence || second.abs_diff(third) > SILENCE {
            self.last = Some(first);
            return;
        }
        if self.held.len() < CONFIRMED_BY {
            return;
        }
        self.last = Some(second);
        if let Some((_, packet)) = self.held.pop_front() {
            out.push(Timed { at: second, is_odd: true, packet });
        }
    }

    /// Releases what is known to be odd, or not to be, behind the last time that was believed.
    fn settle(&mut self, out: &mut Vec<Timed<P>>) {
        while let (Some(last), Some((first, _))) = (self.last, self.held.front()) {
            let first = *first;
            let is_near = last.abs_diff(first) <= NEAR;
            // Time that comes back shows that it was odd.
            let is_back = |at: u64| last.abs_diff(at) < first.abs_diff(at) && at.saturating_add(NEAR) >= last;
            let is_odd = !is_near && self.held.iter().skip(1).any(|(at, _)| is_back(*at));
            if !is_near && !is_odd && self.held.len() < CONFIRMED_BY {
                return;
            }
            let at = if is_odd { last } else { first };
            if let Some((_, packet)) = self.held.pop_front() {
                out.push(Timed { at, is_odd, packet });
            }
            self.last = Some(at);
        }
    }

    /// Returns what is held: nothing comes for a while, or nothing more.
    pub(super) fn end(&mut self) -> Vec<Timed<P>> {
        let mut out = Vec::new();
        match (self.last, self.held.front()) {
            // One alone, of long after or before: nothing confirms it.
            (Some(last), Some((at, _)))
                if self.held.len() == 1 && !(last..=last.saturating_add(SILENCE)).contains(at) =>
            {
                self.release_as(last, &mut out);
            }
            (Some(_) | None, Some(_)) => self.release(&mut out),
            (Some(_) | None, None) => {}
        }
        out
    }

    /// Releases all with their own times.
    fn release(&mut self, out: &mut Vec<Timed<P>>) {
        self.last = self.held.back().map(|(at, _)| *at).or(self.last);
        out.extend(self.held.drain(..).map(|(at, packet)| Timed { at, is_odd: false, packet }));
    }

    /// Releases all with this time.
    fn release_as(&mut self, at: u64, out: &mut Vec<Timed<P>>) {
        out.extend(self.held.drain(..).map(|(_, packet)| Timed { at, is_odd: true, packet }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;
    /// Any day.
    const BEGIN: u64 = 20_000 * DAY;

    /// Returns the times that packets of these times get.
    fn believed(times: &[u64]) -> Vec<u64> {
        let (mut clock, mut out) = (Clock::default(), Vec::new());
        for (number, at) in times.iter().enumerate() {
            if clock.passes(*at) {
                out.push(Timed { at: *at, is_odd: false, packet: number });
            } else {
                out.extend(clock.hold(*at, number));
            }
            assert!(clock.held.len() < CONFIRMED_BY, "few are held");
        }
        out.extend(clock.end());
        let numbers: Vec<usize> = out.iter().map(|timed| timed.packet).collect();
        assert_eq!(numbers, (0..times.len()).collect::<Vec<_>>(), "each once, in their order");
        for timed in &out {
            assert_eq!(timed.is_odd, timed.at != times[timed.packet], "{timed:?} of {times:?}");
        }
        out.iter().map(|timed| timed.at).collect()
    }

    /// Times a tenth of a second from each other.
    fn even() -> Vec<u64> {
        (0..10).map(|n| BEGIN + n * SECOND / 10).collect()
    }

    #[test]
    fn one_odd_time_is_that_of_its_neighbour() {
        let wrong = |at: u64| {
            [at + 10 * SECOND, at + DAY / 24, at + DAY, at - 10 * SECOND, at - DAY / 24, 0, u64::MAX]
        };
        for place in 1..10 {
            for (kind, odd) in wrong(even()[place]).into_iter().enumerate() {
                // Ten seconds of silence before the last one are nothing that could be told.
                if (place, kind) == (9, 0) {
                    continue;
                }
                let (mut times, mut expected) = (even(), even());
                times[place] = odd;
                expected[place] = expected[place - 1];
                assert_eq!(believed(&times), expected, "{place}: {odd}");
            }
        }
    }

    #[test]
    fn the_first_may_be_the_odd_one() {
        for odd in [0, BEGIN - 2 * DAY / 24, BEGIN + 10 * SECOND, BEGIN + DAY, u64::MAX] {
            let (mut times, mut expected) = (even(), even());
            times[0] = odd;
            expected[0] = expected[1];
            assert_eq!(believed(&times), expected, "{odd}");
        }
    }

    #[test]
    fn several_odd_times_are_each_by_itself() {
        let mut times = even();
        (times[3], times[4], times[7]) = (BEGIN + DAY, BEGIN - DAY, 5);
        let mut expected = even();
        (expected[3], expected[4], expected[7]) = (expected[2], expected[2], expected[6]);
        assert_eq!(believed(&times), expected);
    }

    #[test]
    fn two_or_three_odd_times_are_those_of_their_neighbour() {
        let hour = DAY / 24;
        for count in [2, 3] {
            for place in 1..10 - count {
                for ahead in [2 * SECOND, 9 * SECOND, hour, DAY] {
                    // Of the first four packets three would have to be wrong.
                    if (place, count) == (1, 3) && ahead >= hour {
                        continue;
                    }
                    let (mut times, mut expected) = (even(), even());
                    for at in place..place + count {
                        times[at] += ahead;
                        expected[at] = expected[place - 1];
                    }
                    assert_eq!(believed(&times), expected, "{place}: {count} by {ahead}");
                }
            }
        }
        // Among packets that are far from each other, each is by itself.
        let mut times: Vec<u64> = (0..10).map(|n| BEGIN + n * 60 * SECOND).collect();
        let mut expected = times.clone();
        (times[4], times[7]) = (BEGIN + 30 * DAY, 5);
        (expected[4], expected[7]) = (expected[3], expected[6]);
        assert_eq!(believed(&times), expected);
    }

    #[test]
    fn silence_and_clocks_that_are_set_are_believed() {
        // A query and its answer each minute; a query each minute; two days of traffic, one behind the other.
        let pairs: Vec<u64> =
            (0..10).flat_map(|n| [0, 20_000].map(|ns| BEGIN + n * 60 * SECOND + ns)).collect();
        let sparse: Vec<u64> = (0..10).map(|n| BEGIN + n * 60 * SECOND).collect();
        let rare: Vec<u64> = (0..10).map(|n| BEGIN + n * DAY / 12).collect();
        let days: Vec<u64> = even().into_iter().chain(even().iter().map(|at| at + DAY)).collect();
        let back: Vec<u64> = even().into_iter().chain(even().iter().map(|at| at - DAY)).collect();
        let few: Vec<u64> = even().into_iter().chain([BEGIN + DAY, BEGIN + DAY + 1]).collect();
        for times in [pairs, sparse, rare, days, back, few, vec![BEGIN], vec![BEGIN, BEGIN + DAY], vec![]] {
            assert_eq!(believed(&times), times);
        }
    }

    #[test]
    fn what_is_near_is_not_held() {
        let mut clock: Clock<()> = Clock::default();
        assert!(!clock.passes(BEGIN), "the first may be odd");
        assert_eq!(clock.hold(BEGIN, ()).len() + clock.hold(BEGIN + 1, ()).len(), 2);
        assert!([BEGIN + SECOND, BEGIN + SECOND / 2, BEGIN].into_iter().all(|at| clock.passes(at)));
        assert!(clock.end().is_empty());
    }
}
