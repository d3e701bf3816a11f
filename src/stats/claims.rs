//! Which shard asks the servers for what, so that the others wait for its answer in the packet cache
//! instead of asking too.
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
/// Bits of a word for the number of the shard, and above them for the second of the claim.
const FIELD: u32 = 12;
const FIELD_MASK: u64 = (1 << FIELD) - 1;
/// Bits for the hash; the place has other ones.
const TAG_MASK: u64 = !0 << (2 * FIELD);

/// The claims of all shards.
#[derive(Debug)]
pub struct Claims(Box<[AtomicU64]>);

impl Default for Claims {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

/// A claim: tag:40 | second:12 | shard + 1:12.
const fn word(hash: u64, shard: usize, now: Tick) -> u64 {
    let second = (now.0 / 1_000_000_000) & FIELD_MASK;
    hash & TAG_MASK | second << FIELD | (shard as u64 + 1) & FIELD_MASK
}

/// Returns whether a claim is none, or was never released.
const fn is_free(word: u64, now: Tick) -> bool {
    let passed = (now.0 / 1_000_000_000).wrapping_sub(word >> FIELD) & FIELD_MASK;
    word & FIELD_MASK == 0 || passed > SECONDS_MAX
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
        is_free(current, now)
            && place.compare_exchange(current, word(hash, shard, now), AcqRel, Relaxed).is_ok()
    }

    /// Returns whether another shard asks for it. If it no longer does, what it has stored can be
    /// seen.
    #[must_use]
    #[inline]
    pub fn is_held_by_other(&self, hash: u64, shard: usize, now: Tick) -> bool {
        let current = self.place(hash).load(Acquire);
        (current ^ hash) & TAG_MASK == 0
            && current & FIELD_MASK != (shard as u64 + 1) & FIELD_MASK
            && !is_free(current, now)
    }

    /// A shard asks no longer.
    pub fn release(&self, hash: u64, shard: usize) {
        let place = self.place(hash);
        let current = place.load(Relaxed);
        let is_own =
            (current ^ hash) & TAG_MASK == 0 && current & FIELD_MASK == (shard as u64 + 1) & FIELD_MASK;
        if is_own {
            // If it has just ended by itself, the place is another's.
            let _ = place.compare_exchange(current, 0, AcqRel, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shard_asks_and_the_others_wait_until_it_has_ended() {
        let (claims, hash, now) = (Claims::default(), 0x1234_5678_9abc_def0, Tick(5_000_000_000));
        assert!(!claims.is_held_by_other(hash, 0, now));
        assert!(claims.take(hash, 0, now) && !claims.take(hash, 1, now));
        assert!(claims.is_held_by_other(hash, 1, now) && !claims.is_held_by_other(hash, 0, now));
        // Another hash at the same place.
        let other = hash ^ 1 << 60;
        assert!(!claims.is_held_by_other(other, 1, now) && !claims.take(other, 1, now));
        claims.release(hash, 1);
        claims.release(other, 0);
        assert!(claims.is_held_by_other(hash, 1, now), "who has not asked releases nothing");
        claims.release(hash, 0);
        assert!(!claims.is_held_by_other(hash, 1, now) && claims.take(other, 1, now));
    }

    #[test]
    fn a_claim_ends_by_itself() {
        let second = |n: u64| Tick(n * 1_000_000_000);
        for begun in [0, 4_090, 1 << 32] {
            let claims = Claims::default();
            assert!(claims.take(7, 0, second(begun)));
            assert!(claims.is_held_by_other(7, 1, second(begun + SECONDS_MAX)), "{begun}");
            assert!(!claims.is_held_by_other(7, 1, second(begun + SECONDS_MAX + 1)), "{begun}");
            assert!(claims.take(7, 1, second(begun + SECONDS_MAX + 1)));
        }
    }
}
