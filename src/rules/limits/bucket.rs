//! One bucket for all shards, and the tokens that each shard holds of it.
//!
//! A shard takes tokens in chunks of what comes back in about 10 ms at its part of the rate (1 at
//! low rates), so that each shard writes the atomic about a hundred times per second, twice that
//! under overload, however many queries there are. When the bucket is empty, the shard does not
//! look again before the next chunk can have come back.
//!
//! Tokens come only from the bucket, and a shard returns what it has not used within 20 ms with its
//! next access. So over any span t, all shards together let pass at most `burst + qps × t + held`,
//! where `held` (the tokens that they held at its start) is at most the smaller of 10 ms of the
//! rate and a sixteenth of the burst; it is 0 while a chunk is one token. Under a lasting overload
//! the rate is exact; tokens held by a shard without queries are late, not lost.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::time::Tick;

/// Held tokens are returned after this time, nanoseconds: two chunks' time.
const HELD_NS_MAX: u64 = 20_000_000;
/// Chunks per second and shard.
const CHUNKS_PER_S: u32 = 100;
/// Tokens held by all shards are at most this part of the burst.
const BURST_PART: u32 = 16;

/// A token bucket that all shards share.
#[derive(Debug)]
pub struct Bucket {
    qps: u32,
    burst: u32,
    /// Time for an empty bucket to become full.
    full_ns: u64,
    /// When it will be full again. Alone on its two cache lines (the adjacent one is prefetched
    /// with it), because it is the only field that several shards write.
    full_at: Padded,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Bucket {
    /// Creates a full bucket: `qps` queries per second, `burst` at once. If either is 0, it never
    /// gives a token.
    #[must_use]
    pub fn new(qps: u32, burst: u32) -> Self {
        let mut bucket = Self { qps, burst, full_ns: 0, full_at: Padded::default() };
        let full_ns = bucket.span_ns(u64::from(burst));
        // Each step is rounded up: without this allowance a full bucket would be empty one token
        // early. At most a millionth of the bucket.
        bucket.full_ns = full_ns + u64::from(burst).min(full_ns / 1_000_000 + u64::from(BURST_PART));
        bucket
    }

    /// Returns whether both have the same limits.
    pub(crate) const fn same(&self, other: &Self) -> bool {
        self.qps == other.qps && self.burst == other.burst
    }

    /// Returns when it will be full again.
    #[cfg(test)]
    pub(crate) fn full_at(&self) -> u64 {
        self.full_at.0.load(Relaxed)
    }

    /// Takes a token, if there is one, without a credit: for what asks now and then.
    #[must_use]
    pub fn take(&self, now: Tick) -> bool {
        !self.is_closed() && self.exchange(0, 1, 1, now.0).0 == 1
    }

    const fn is_closed(&self) -> bool {
        self.qps == 0 || self.burst == 0
    }

    /// Returns the span in which this many tokens come back, rounded up, so that the rate is never
    /// exceeded.
    fn span_ns(&self, tokens: u64) -> u64 {
        tokens.saturating_mul(1_000_000_000).div_ceil(u64::from(self.qps.max(1)))
    }

    /// Returns `back` tokens to the bucket and takes up to `wanted` out, in one step; if it has
    /// fewer than `least`, none is taken. Returns how many were taken, and when `wanted` of them
    /// will be available again.
    fn exchange(&self, back: u64, least: u64, wanted: u64, now: u64) -> (u64, u64) {
        let mut full_at = self.full_at.0.load(Relaxed);
        loop {
            let begin = full_at.saturating_sub(self.span_ns(back)).max(now);
            let room = self.full_ns.saturating_sub(begin - now);
            let there = if self.span_ns(wanted) <= room {
                wanted
            } else {
                let tokens = u128::from(room) * u128::from(self.qps) / 1_000_000_000;
                u64::try_from(tokens).unwrap_or(u64::MAX)
            };
            let taken = if there < least { 0 } else { there };
            let next = begin + self.span_ns(taken);
            let then = (next + self.span_ns(wanted)).saturating_sub(self.full_ns);
            if taken == 0 && back == 0 {
                return (0, then);
            }
            match self.full_at.0.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return (taken, then),
                Err(is) => full_at = is,
            }
        }
    }
}

/// The tokens that one shard holds of a bucket.
#[derive(Debug)]
pub(crate) struct Credit {
    bucket: Arc<Bucket>,
    /// Tokens taken at once.
    chunk: u64,
    /// Tokens held.
    held: u64,
    /// When they were taken out.
    taken_at: u64,
    /// The bucket was empty and is not accessed before this time; 0: it was not empty.
    ask_at: u64,
}

impl Credit {
    /// Holds no token, for one of `shards` shards.
    pub(crate) fn new(bucket: &Arc<Bucket>, shards: u32) -> Self {
        let all = (bucket.qps / CHUNKS_PER_S).min(bucket.burst / BURST_PART);
        let chunk = u64::from(all / shards.max(1)).max(1);
        Self { bucket: Arc::clone(bucket), chunk, held: 0, taken_at: 0, ask_at: 0 }
    }

    pub(crate) fn is_of(&self, bucket: &Arc<Bucket>) -> bool {
        Arc::ptr_eq(&self.bucket, bucket)
    }

    /// Takes one token; returns false when there is none.
    pub(crate) fn take(&mut self, now: Tick) -> bool {
        let now = now.0;
        let stale = now.saturating_sub(self.taken_at) > HELD_NS_MAX;
        if self.held > 0 && !stale {
            self.held -= 1;
            return true;
        }
        if now < self.ask_at || self.bucket.is_closed() {
            return false;
        }
        let back = self.held;
        // After it was empty, only whole chunks are worth a write: under overload shards would
        // otherwise fetch every single token.
        let least = if self.ask_at > 0 { self.chunk } else { 1 };
        let (taken, then) = self.bucket.exchange(back, least, self.chunk, now);
        (self.held, self.taken_at) = (taken.saturating_sub(1), now);
        self.ask_at = if taken < self.chunk { then } else { 0 };
        taken > 0
    }
}
