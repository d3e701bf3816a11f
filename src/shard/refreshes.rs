//! Queries of the shard's own that keep a packet cache warm: for popular entries that are about to
//! expire, and for the names that a cache begins with.

use crate::base::narrow::to_u32;
use crate::base::time::{Tick, TickDelta};
use crate::cache::seconds;

/// Entries that are watched at a time: those that are hit in the last part of their time.
const WATCHED: usize = 1 << 16;
/// Places that an entry may have.
const WAYS: usize = 8;
/// Own queries that are outstanding at a time.
const OUTSTANDING_MAX: u32 = 1_024;
/// The same when one more entry is asked for that was asked for in vain: servers that are silent for some
/// names leave places for the others.
const OUTSTANDING_AGAIN_MAX: u32 = OUTSTANDING_MAX / 2;
/// Of those of all shards, how many while names are resolved that nobody waits for.
const WARM_UP_MAX: u32 = 32;
/// How long a cache waits for a server.
const SERVER_PAUSE: TickDelta = TickDelta::from_ms(1_000);
/// Seconds until an entry is counted again that was asked for in vain.
const RETRY_SECONDS: u32 = 1;

/// The hits on an entry in the last part of its time.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    hash: u64,
    expires: u32,
    hits: u32,
    /// Second from which on they count.
    from: u32,
    /// It was asked for: nothing is to be done until that has ended.
    is_asked: bool,
    /// It was asked for in vain.
    has_failed: bool,
}

/// What a shard knows of them.
#[derive(Debug, Default)]
pub(crate) struct Refreshes {
    /// By hash.
    watched: Vec<Watched>,
    /// The query at hand, before the answer takes its place.
    pub(crate) query: Vec<u8>,
    outstanding: u32,
    /// Some cache may have names left to resolve.
    pub(crate) warms_up: bool,
    /// The shard is to end: nothing is asked for any more.
    is_stopping: bool,
    /// Not before.
    resume: Tick,
}

impl Refreshes {
    fn place(hash: u64) -> usize {
        // The lower bits have chosen the place among claims, too.
        (hash >> 20) as usize % (WATCHED / WAYS) * WAYS
    }

    /// Counts a hit in the last part of an entry's time; returns whether the entry is popular and to be
    /// asked for, if there is room for one more. [`Self::asked`] says that it was.
    pub(crate) fn is_popular(&mut self, hash: u64, expires: u32, hits: u32, now: Tick) -> bool {
        self.watched.resize(WATCHED, Watched::default());
        let (now, place) = (seconds(now), Self::place(hash));
        let places = &mut self.watched[place..place + WAYS];
        // One that has expired makes room, or else the one with the fewest hits.
        let known = places.iter().position(|w| w.hash == hash);
        let at = known.or_else(|| {
            let worth = |w: &Watched| if w.expires <= now { 0 } else { w.hits.saturating_add(1) };
            (0..WAYS).min_by_key(|at| worth(&places[*at]))
        });
        let Some(watched) = at.and_then(|at| places.get_mut(at)) else { return false };
        if (watched.hash, watched.expires) != (hash, expires) {
            *watched = Watched { hash, expires, ..Watched::default() };
        }
        if now < watched.from || watched.is_asked {
            return false;
        }
        watched.hits = watched.hits.saturating_add(1);
        let most = if watched.has_failed { OUTSTANDING_AGAIN_MAX } else { OUTSTANDING_MAX };
        watched.hits >= hits && self.outstanding < most && !self.is_stopping
    }

    fn known(&mut self, hash: u64) -> Option<&mut Watched> {
        self.watched.iter_mut().skip(Self::place(hash)).take(WAYS).find(|watched| watched.hash == hash)
    }

    /// An entry is asked for.
    pub(crate) fn asked(&mut self, hash: u64) {
        self.known(hash).into_iter().for_each(|watched| watched.is_asked = true);
    }

    /// An entry is asked for by another shard, which may get nothing: it is looked at again after a while.
    pub(crate) fn postpone(&mut self, hash: u64, now: Tick) {
        self.known(hash).into_iter().for_each(|watched| watched.from = seconds(now) + RETRY_SECONDS);
    }

    /// An entry was asked for in vain: its hits count anew, after a while.
    pub(crate) fn failed(&mut self, hash: u64, now: Tick) {
        if let Some(watched) = self.known(hash) {
            (watched.hits, watched.from) = (0, seconds(now) + RETRY_SECONDS);
            (watched.is_asked, watched.has_failed) = (false, true);
        }
    }

    /// Returns how many names a shard resolves at a time that nobody has asked for.
    pub(crate) fn warm_up_max(shards: usize) -> u32 {
        (WARM_UP_MAX / to_u32(shards.max(1))).max(1)
    }

    /// Returns whether one more name may be resolved that nobody has asked for.
    pub(crate) fn may_warm_up(&self, most: u32, now: Tick) -> bool {
        self.warms_up && !self.is_stopping && self.outstanding < most && self.resume <= now
    }

    /// Returns whether none is outstanding.
    #[inline]
    pub(crate) const fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Returns how many are outstanding.
    pub(crate) const fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// One more is outstanding.
    pub(crate) const fn begun(&mut self) {
        self.outstanding += 1;
    }

    /// One has ended.
    pub(crate) const fn ended(&mut self) {
        self.outstanding -= 1;
    }

    /// No more are begun.
    pub(crate) const fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Nothing can be asked for at this moment.
    pub(crate) fn pause(&mut self, now: Tick) {
        self.resume = now + SERVER_PAUSE;
    }

    /// Returns when names are to be resolved.
    pub(crate) fn next_deadline(&self, most: u32) -> Option<Tick> {
        (self.warms_up && !self.is_stopping && self.outstanding < most).then_some(self.resume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(n: u64) -> Tick {
        Tick(n * 1_000_000_000)
    }

    #[test]
    fn an_entry_becomes_popular_once_in_its_time() {
        let (mut refreshes, now) = (Refreshes::default(), second(50));
        let mut hit = |hash, expires, hits| {
            let is_popular = refreshes.is_popular(hash, expires, hits, now);
            if is_popular {
                refreshes.asked(hash);
            }
            is_popular
        };
        assert_eq!([0; 4].map(|_| hit(5, 100, 2)), [false, true, false, false]);
        assert!(!hit(5, 200, 2) && hit(5, 200, 2), "its next time");
        assert!(hit(6, 100, 1), "one hit is enough");
    }

    #[test]
    fn an_entry_that_found_no_room_is_asked_for_by_its_next_hit_with_room() {
        let (mut refreshes, now) = (Refreshes::default(), second(50));
        (0..OUTSTANDING_MAX).for_each(|_| refreshes.begun());
        assert_eq!([0; 3].map(|_| refreshes.is_popular(5, 100, 2, now)), [false; 3], "no room");
        refreshes.ended();
        assert!(refreshes.is_popular(5, 100, 2, now));
        assert!(refreshes.is_popular(5, 100, 2, now), "it could not be claimed");
        refreshes.postpone(5, now);
        assert!(!refreshes.is_popular(5, 100, 2, now), "another shard asks");
        assert!(refreshes.is_popular(5, 100, 2, second(51)));
        refreshes.asked(5);
        assert!(!refreshes.is_popular(5, 100, 2, second(52)), "once");
    }

    #[test]
    fn entries_that_were_asked_for_in_vain_leave_room_for_others() {
        let (mut refreshes, now) = (Refreshes::default(), second(50));
        assert!(refreshes.is_popular(5, 100, 1, now));
        refreshes.asked(5);
        refreshes.failed(5, now);
        (0..OUTSTANDING_AGAIN_MAX).for_each(|_| refreshes.begun());
        assert!(!refreshes.is_popular(5, 100, 1, second(52)), "one more of them");
        assert!(refreshes.is_popular(6, 100, 1, second(52)), "another one");
        refreshes.ended();
        assert!(refreshes.is_popular(5, 100, 1, second(52)));
    }

    #[test]
    fn one_that_was_asked_for_in_vain_becomes_popular_again() {
        let mut refreshes = Refreshes::default();
        assert!(refreshes.is_popular(5, 100, 1, second(50)));
        refreshes.asked(5);
        refreshes.failed(5, second(52));
        assert!(!refreshes.is_popular(5, 100, 1, second(52)), "not at once");
        assert!(refreshes.is_popular(5, 100, 1, second(53)));
    }

    #[test]
    fn thousands_of_entries_are_watched_at_a_time() {
        let (mut refreshes, now) = (Refreshes::default(), second(50));
        let mut popular = 0;
        for _ in 0..2 {
            for n in 0..20_000_u64 {
                let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                popular += usize::from(refreshes.is_popular(hash, 100, 2, now));
            }
        }
        assert!(popular > 19_000, "{popular}");
    }
}
