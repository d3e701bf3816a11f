//! When queries have to be sent: an even rate, divided among threads.
//!
//! ```text
//!  thread 0: 0     2     4         the k-th query of thread t of T is due (k·T + t) / rate seconds
//!  thread 1:    1     3     5      after the begin, whenever it is in fact sent
//! ```
//! It reads no clock. A query that could not be sent in time keeps its time: who measures from there
//! counts the wait, too.

use crate::base::time::{Tick, TickDelta};

const SECOND_NS: u128 = 1_000_000_000;

/// The times of one thread's queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    begin: Tick,
    /// Of all threads, queries per second.
    rate: u32,
    thread: u32,
    threads: u32,
    /// Queries taken.
    taken: u64,
}

impl Pace {
    /// Creates the times of one of `threads` threads, which together send `rate` queries per second.
    pub(crate) fn new(begin: Tick, rate: u32, thread: usize, threads: usize) -> Self {
        let (thread, threads) = (thread as u32, threads.max(1) as u32);
        Self { begin, rate: rate.max(1), thread, threads, taken: 0 }
    }

    /// Begins at another time, before anything is taken.
    pub(crate) const fn begin_at(&mut self, begin: Tick) {
        self.begin = begin;
    }

    /// Returns the rate of all threads, queries per second.
    pub(crate) const fn rate(&self) -> u32 {
        self.rate
    }

    /// Returns how many queries are due at `now` and not taken yet.
    pub(crate) fn due(&self, now: Tick) -> u64 {
        if now < self.begin {
            return 0;
        }
        let of_all = u128::from(now.since(self.begin).0) * u128::from(self.rate) / SECOND_NS;
        let Some(last) = of_all.checked_sub(self.thread.into()) else { return 0 };
        let due = last / u128::from(self.threads) + 1;
        u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.taken)
    }

    /// Returns the time of the next query.
    pub(crate) fn next(&self) -> Tick {
        let number = u128::from(self.taken) * u128::from(self.threads) + u128::from(self.thread);
        // Rounded up: it is due at its time, and not a nanosecond before.
        let ns = match u64::try_from(number) {
            Ok(number) if number < u64::MAX / 1_000_000_001 => {
                (number * 1_000_000_000).div_ceil(u64::from(self.rate))
            }
            _ => u64::try_from((number * SECOND_NS).div_ceil(self.rate.into())).unwrap_or(u64::MAX),
        };
        self.begin + TickDelta(ns)
    }

    /// Takes the next query, and returns its time.
    pub(crate) fn take(&mut self) -> Tick {
        let at = self.next();
        self.taken += 1;
        at
    }

    /// Gives up so many queries.
    pub(crate) const fn skip(&mut self, count: u64) {
        self.taken += count;
    }

    /// Continues at another rate; what was due before is given up, and returned.
    pub(crate) fn change(&mut self, now: Tick, rate: u32) -> u64 {
        let missed = self.due(now);
        (self.begin, self.rate, self.taken) = (now, rate.max(1), 0);
        missed
    }
}

/// Returns how many queries of all threads are due before this time since the begin.
pub(crate) fn due_before(rate: u32, span: TickDelta) -> u64 {
    // The first is due at once.
    u64::try_from((u128::from(span.0) * u128::from(rate)).div_ceil(SECOND_NS)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::ShardRng;

    #[test]
    fn threads_share_a_rate_evenly() {
        let mut times: Vec<u64> = Vec::new();
        for thread in 0..4 {
            let mut pace = Pace::new(Tick(1_000), 8, thread, 4);
            times.extend((0..5).map(|_| pace.take().0));
        }
        times.sort_unstable();
        let even: Vec<u64> = (0..20).map(|n| 1_000 + n * 125_000_000).collect();
        assert_eq!(times, even);
    }

    #[test]
    fn seconds_have_the_queries_that_are_due_in_them() {
        for (rate, end) in [(100, 3_025_000_000), (7, 2_000_000_000), (1, 1), (333, 1_000_000_001)] {
            let mut pace = Pace::new(Tick(0), rate, 0, 1);
            let mut begin = 0;
            while begin < end {
                let until = (begin + 1_000_000_000).min(end);
                let mut taken = 0;
                while pace.next() < Tick(until) {
                    pace.take();
                    taken += 1;
                }
                let due = due_before(rate, TickDelta(until)) - due_before(rate, TickDelta(begin));
                assert_eq!(due, taken, "{rate} per second, up to {until}");
                begin = until;
            }
        }
    }

    #[test]
    fn nothing_is_due_before_the_begin() {
        let pace = Pace::new(Tick(1_000), 1_000, 0, 1);
        assert_eq!([999, 1_000, 1_001_000].map(|now| pace.due(Tick(now))), [0, 1, 2]);
    }

    #[test]
    fn what_is_due_is_what_can_be_taken() {
        // A clock that advances at random, also by seconds.
        let mut rng = ShardRng::from_seed(11);
        for rate in [1, 7, 1_000, 333_333, 20_000_000] {
            let mut pace = Pace::new(Tick(5), rate, 1, 3);
            let (mut now, mut sent) = (Tick(5), 0_u64);
            for turn in 0..200 {
                let step = if turn % 50 == 49 { 3_000_000_000 } else { rng.below(200_000) };
                now = now + TickDelta(u64::from(step));
                let due = pace.due(now);
                for _ in 0..due.min(10_000) {
                    assert!(pace.take() <= now, "a query before its time");
                    sent += 1;
                }
                if due <= 10_000 {
                    assert!(pace.next() > now, "a query is due");
                    assert_eq!(pace.due(now), 0);
                }
            }
            let of_all = u128::from(now.since(Tick(5)).0) * u128::from(rate) / SECOND_NS;
            let whole = u64::try_from(of_all / 3 + 1).expect("small");
            assert!(sent <= whole && sent + pace.due(now) + 1 >= whole, "{sent} of {whole} at {rate}");
        }
    }

    #[test]
    fn a_query_that_is_late_keeps_its_time() {
        let mut pace = Pace::new(Tick(0), 1_000, 0, 1);
        assert_eq!(pace.due(Tick(1_000_000_000)), 1_001, "after a stall of a second");
        assert_eq!([pace.take(), pace.take()], [Tick(0), Tick(1_000_000)]);
    }

    #[test]
    fn a_change_of_the_rate_begins_anew() {
        let mut pace = Pace::new(Tick(0), 1_000, 0, 1);
        pace.take();
        assert_eq!(pace.change(Tick(10_000_000), 2), 10, "given up");
        assert_eq!((pace.take(), pace.next(), pace.rate()), (Tick(10_000_000), Tick(510_000_000), 2));
    }

    #[test]
    fn numbers_do_not_overflow() {
        let mut pace = Pace::new(Tick(0), u32::MAX, 255, 256);
        pace.taken = 1 << 40;
        let next = pace.next();
        assert!(next > Tick(1 << 36) && pace.due(next) >= 1 && pace.due(next) <= 2);
    }
}
