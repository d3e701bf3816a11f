//! Queries of the shard's own that keep a packet cache warm: for popular entries that are about to
//! expire, and for the names that a cache begins with.

use crate::base::time::{Tick, TickDelta};

/// Entries that are watched at a time: those that are hit in the last part of their time.
const WATCHED: usize = 1_024;
/// Own queries that are outstanding at a time.
const OUTSTANDING_MAX: u32 = 1_024;
/// Of those, while names are resolved that nobody waits for.
pub(crate) const WARM_UP_MAX: u32 = 32;
/// How long a cache waits for a server.
const SERVER_PAUSE: TickDelta = TickDelta::from_ms(1_000);

/// The hits on an entry in the last part of its time.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    hash: u64,
    expires: u32,
    hits: u32,
}

/// What a shard knows of them.
#[derive(Debug, Default)]
pub(crate) struct Refreshes {
    /// By hash. Two entries at one place begin anew in turns: such a pair is rare, and refreshed by
    /// its clients.
    watched: Vec<Watched>,
    /// The query at hand, before the answer takes its place.
    pub(crate) query: Vec<u8>,
    outstanding: u32,
    /// Some cache may have names left to resolve.
    pub(crate) warms_up: bool,
    /// Not before.
    resume: Tick,
}

impl Refreshes {
    /// Counts a hit in the last part of an entry's time; returns whether it is the one that makes the
    /// entry popular.
    pub(crate) fn is_popular(&mut self, hash: u64, expires: u32, hits: u32) -> bool {
        self.watched.resize(WATCHED, Watched::default());
        let place =
            hash.to_le_bytes().first_chunk().map_or(0, |low| usize::from(u16::from_le_bytes(*low))) % WATCHED;
        let watched = &mut self.watched[place];
        if (watched.hash, watched.expires) != (hash, expires) {
            *watched = Watched { hash, expires, hits: 0 };
        }
        watched.hits = watched.hits.saturating_add(1);
        watched.hits == hits
    }

    /// Returns whether one more may be outstanding.
    pub(crate) const fn may_begin(&self) -> bool {
        self.outstanding < OUTSTANDING_MAX
    }

    /// Returns whether one more name may be resolved that nobody has asked for.
    pub(crate) fn may_warm_up(&self, now: Tick) -> bool {
        self.warms_up && self.outstanding < WARM_UP_MAX && self.resume <= now
    }

    /// Returns whether none is outstanding.
    #[inline]
    pub(crate) const fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// One more is outstanding.
    pub(crate) const fn begun(&mut self) {
        self.outstanding += 1;
    }

    /// One has ended.
    pub(crate) const fn ended(&mut self) {
        self.outstanding -= 1;
    }

    /// No server can be asked.
    pub(crate) fn pause(&mut self, now: Tick) {
        self.resume = now + SERVER_PAUSE;
    }

    /// Returns when names are to be resolved.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        (self.warms_up && self.outstanding < WARM_UP_MAX).then_some(self.resume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_becomes_popular_once_in_its_time() {
        let mut refreshes = Refreshes::default();
        let popular: Vec<bool> = (0..4).map(|_| refreshes.is_popular(5, 100, 2)).collect();
        assert_eq!(popular, [false, true, false, false]);
        assert!(!refreshes.is_popular(5, 200, 2) && refreshes.is_popular(5, 200, 2), "its next time");
        assert!(refreshes.is_popular(6, 100, 1), "one hit is enough");
    }
}
