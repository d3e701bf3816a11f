//! Which shard asks the servers for what, so that the others wait for its answer in the packet cache
//! instead of asking too.
//!
//! ```text
//!  free ─► a shard asks ─┬─► free: the answer is in the cache
//!                        └─► an outcome that the others should know, for some seconds
//! ```
//!
//! A claim is a word in a table that all shards share, at the place that a hash says. It is a hint: a
//! name whose place is taken is asked for by each shard, and a claim that was never released ends by
//! itself.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use crate::base::time::Tick;

/// Words of the table: 128 KiB.
const PLACES: usize = 1 << 14;
/// The longest time of a claim, seconds: several attempts with the usual timeout.
const SECONDS_MAX: u64 = 10;
/// Bits of a word for the number of the shard.
const FIELD: u32 = 12;
const FIELD_MASK: u64 = (1 << FIELD) - 1;
/// Bits above them for the second of the claim: half a year, after which an old word counts again for as
/// long as a new one.
const SECONDS: u32 = 24;
const SECONDS_MASK: u64 = (1 << SECONDS) - 1;
/// Bits for the hash; the place has other ones.
const TAG_MASK: u64 = !0 << (FIELD + SECONDS);
/// In place of a shard: outcomes.
const SEPARATE: u64 = FIELD_MASK;
const STALE: u64 = FIELD_MASK - 1;
const FAILED: u64 = FIELD_MASK - 2;

/// What has come of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was stored, if anything, is in the cache.
    Stored,
    /// The answer could not be kept: each shard asks for itself, for as long as a claim may last.
    Separate,
    /// Servers have failed, and an expired answer was good enough.
    Stale,
    /// Servers have failed.
    Failed,
}

/// A claim of another shard, which a query waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim(u64);

/// The claims of all shards.
#[derive(Debug)]
pub struct Claims(Box<[AtomicU64]>);

impl Default for Claims {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

/// A claim: tag:28 | second:24 | shard + 1:12.
const fn word(hash: u64, shard: usize, now: Tick) -> u64 {
    let second = (now.0 / 1_000_000_000) & SECONDS_MASK;
    hash & TAG_MASK | second << FIELD | (shard as u64 + 1) & FIELD_MASK
}

/// Returns the seconds since a claim, or since its outcome.
const fn age(word: u64, now: Tick) -> u64 {
    (now.0 / 1_000_000_000).wrapping_sub(word >> FIELD) & SECONDS_MASK
}

/// Returns whether a word says nothing: it never did, or not for this long.
const fn is_over(word: u64, now: Tick) -> bool {
    word & FIELD_MASK == 0 || age(word, now) > SECONDS_MAX
}

/// Returns whether it is a claim of a shard.
const fn is_claim(word: u64) -> bool {
    matches!(word & FIELD_MASK, 1..FAILED)
}

/// Returns whether both are of one hash.
const fn is_of(word: u64, hash: u64) -> bool {
    (word ^ hash) & TAG_MASK == 0
}

impl Claims {
    #[inline]
    fn place(&self, hash: u64) -> &AtomicU64 {
        &self.0[hash as usize % PLACES]
    }

    /// A shard asks for what has this hash; returns whether the others know.
    #[must_use]
    pub fn take(&self, hash: u64, shard: usize, now: Tick) -> bool {
        let place = self.place(hash);
        let current = place.load(Relaxed);
        let is_separate = current & FIELD_MASK == SEPARATE && is_of(current, hash);
        let is_free = is_over(current, now) || !is_claim(current) && !is_separate;
        is_free && place.compare_exchange(current, word(hash, shard, now), AcqRel, Relaxed).is_ok()
    }

    /// Returns the claim of another shard that asks for it.
    #[must_use]
    #[inline]
    pub fn of_other(&self, hash: u64, shard: usize, now: Tick) -> Option<Claim> {
        let current = self.place(hash).load(Acquire);
        let is_other = current & FIELD_MASK != (shard as u64 + 1) & FIELD_MASK;
        (is_of(current, hash) && is_claim(current) && is_other && !is_over(current, now))
            .then_some(Claim(current))
    }

    /// Returns what has come of a claim; none while its shard still asks. What it has stored can be
    /// seen then. When another claim has followed, only the cache can tell.
    #[must_use]
    pub fn outcome(&self, hash: u64, claim: Claim, now: Tick) -> Option<Outcome> {
        let current = self.place(hash).load(Acquire);
        if current == claim.0 && !is_over(current, now) {
            return None;
        }
        Some(match current & FIELD_MASK {
            _ if !is_of(current, hash) || is_over(current, now) => Outcome::Stored,
            SEPARATE => Outcome::Separate,
            STALE => Outcome::Stale,
            FAILED => Outcome::Failed,
            _ => Outcome::Stored,
        })
    }

    /// Returns whether servers have failed to answer it within so many seconds.
    #[must_use]
    #[inline]
    pub fn has_failed(&self, hash: u64, seconds: u64, now: Tick) -> bool {
        let current = self.place(hash).load(Acquire);
        current & FIELD_MASK == STALE && is_of(current, hash) && age(current, now) < seconds.min(SECONDS_MAX)
    }

    /// A shard asks no longer.
    pub fn release(&self, hash: u64, shard: usize, outcome: Outcome, now: Tick) {
        let place = self.place(hash);
        let current = place.load(Relaxed);
        if is_of(current, hash) && current & FIELD_MASK == (shard as u64 + 1) & FIELD_MASK {
            let code = match outcome {
                Outcome::Stored => 0,
                Outcome::Separate => SEPARATE,
                Outcome::Stale => STALE,
                Outcome::Failed => FAILED,
            };
            let next = if code == 0 { 0 } else { word(hash, 0, now) & !FIELD_MASK | code };
            // If it has just ended by itself, the place is another's.
            let _ = place.compare_exchange(current, next, AcqRel, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u64 = 0x1234_5678_9abc_def0;

    const fn second(n: u64) -> Tick {
        Tick(n * 1_000_000_000)
    }

    #[test]
    fn one_shard_asks_and_the_others_wait_until_it_has_ended() {
        let (claims, now) = (Claims::default(), second(5));
        assert_eq!(claims.of_other(HASH, 0, now), None);
        assert!(claims.take(HASH, 0, now) && !claims.take(HASH, 1, now));
        let claim = claims.of_other(HASH, 1, now).expect("a claim of the first shard");
        assert_eq!(claims.of_other(HASH, 0, now), None, "it is its own");
        // Another hash at the same place.
        let other = HASH ^ 1 << 60;
        assert!(claims.of_other(other, 1, now).is_none() && !claims.take(other, 1, now));
        claims.release(HASH, 1, Outcome::Stored, now);
        claims.release(other, 0, Outcome::Stored, now);
        assert_eq!(claims.outcome(HASH, claim, now), None, "who has not asked releases nothing");
        claims.release(HASH, 0, Outcome::Stored, now);
        assert_eq!(claims.outcome(HASH, claim, now), Some(Outcome::Stored));
        assert!(claims.take(other, 1, now));
    }

    #[test]
    fn who_waits_for_one_claim_does_not_wait_for_the_next_one() {
        let (claims, now) = (Claims::default(), second(5));
        assert!(claims.take(HASH, 0, now));
        let claim = claims.of_other(HASH, 1, now).expect("a claim");
        claims.release(HASH, 0, Outcome::Stored, now);
        assert!(claims.take(HASH, 2, now));
        assert_eq!(claims.outcome(HASH, claim, now), Some(Outcome::Stored));
    }

    #[test]
    fn an_outcome_is_known_for_some_seconds() {
        for (outcome, may_be_taken) in
            [(Outcome::Separate, false), (Outcome::Stale, true), (Outcome::Failed, true)]
        {
            let claims = Claims::default();
            assert!(claims.take(HASH, 0, second(5)));
            let claim = claims.of_other(HASH, 1, second(5)).expect("a claim");
            claims.release(HASH, 0, outcome, second(6));
            assert_eq!(claims.outcome(HASH, claim, second(7)), Some(outcome));
            assert_eq!(claims.of_other(HASH, 1, second(7)), None);
            let has_failed = outcome == Outcome::Stale;
            assert_eq!(claims.has_failed(HASH, 3, second(8)), has_failed);
            assert!(!claims.has_failed(HASH, 3, second(9)));
            let later = second(6 + SECONDS_MAX + 1);
            assert_eq!(claims.outcome(HASH, claim, later), Some(Outcome::Stored));
            assert_eq!(claims.take(HASH, 1, second(7)), may_be_taken, "{outcome:?}");
            if !may_be_taken {
                assert!(claims.take(HASH ^ 1 << 60, 1, second(7)), "another one has the place");
            }
        }
    }

    #[test]
    fn an_outcome_does_not_come_back_after_an_hour() {
        let claims = Claims::default();
        assert!(claims.take(HASH, 0, second(5)));
        claims.release(HASH, 0, Outcome::Stale, second(5));
        assert!((5 + SECONDS_MAX + 1..100_000).all(|at| !claims.has_failed(HASH, 5, second(at))));
    }

    #[test]
    fn a_claim_ends_by_itself() {
        for begun in [0, 4_090, (1 << SECONDS) - 2, 1 << 32] {
            let claims = Claims::default();
            assert!(claims.take(7, 0, second(begun)));
            assert!(claims.of_other(7, 1, second(begun + SECONDS_MAX)).is_some(), "{begun}");
            assert!(claims.of_other(7, 1, second(begun + SECONDS_MAX + 1)).is_none(), "{begun}");
            assert!(claims.take(7, 1, second(begun + SECONDS_MAX + 1)));
        }
    }
}
