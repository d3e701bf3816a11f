//! Each backend's load: the shard's own part live, the other shards' as last published.
//!
//! The shard's own counts change with every claim and settlement; [`Tally::publish`] stores the
//! changed ones in the shard's statistics, [`Tally::read_others`] sums what the other shards stored
//! in theirs. No atomic is contended: each shard's statistics have one writer.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::stats::live::LiveState;

/// Shortest interval between two readings of the other shards' counts: a batch on a busy shard is
/// shorter.
const LOOK_MIN: TickDelta = TickDelta::from_us(20);
/// Interval per counter that is read, nanoseconds. A cache line of 16 counters costs about 100 ns
/// when another core has written it, so reading takes a few per cent of a core however many there
/// are.
const LOOK_PER_COUNTER: u64 = 100;

/// A latency falls by a sample's full difference after this time without one, and in proportion
/// after less: what was measured during a disturbance does not outlast it.
const LATENCY_LASTS: TickDelta = TickDelta::from_ms(250);
/// A backend that did not respond for this long is unmeasured.
const UNMEASURED: TickDelta = TickDelta::from_ms(1_000);
/// A sample's part of the smoothed latency is at least one of these.
const LATENCY_PARTS: u64 = 128;

/// One backend's counts.
#[derive(Clone, Debug, Default)]
struct Count {
    outstanding: u32,
    sent: u32,
    /// Smoothed, nanoseconds; 0 before the first response.
    latency: u64,
    /// When the last response came.
    measured: Tick,
    others_outstanding: u32,
    /// None before the first reading: the difference to zero would be the whole past.
    others_sent: Option<u32>,
    others_latency_us: u64,
    others_measured: u32,
    bucket: Bucket,
    touched: bool,
}

/// One backend's load over all shards. It orders as leastOutstanding does: fewest outstanding, then
/// lowest latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Load(u64);

impl Load {
    fn new(outstanding: u32, latency_us: u32) -> Self {
        Self(u64::from(outstanding) << 32 | u64::from(latency_us))
    }

    /// Returns the outstanding queries.
    pub(crate) const fn outstanding(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Returns the smoothed latency, microseconds: the mean of the shards that have one; 0 before
    /// any response.
    pub(crate) const fn latency_us(self) -> u32 {
        self.0 as u32
    }
}

impl Count {
    #[inline]
    fn load(&self) -> Load {
        let own = u64::from(micros(self.latency));
        let latency = if self.others_measured == 0 {
            own
        } else {
            let measured = u64::from(self.others_measured) + u64::from(own != 0);
            (self.others_latency_us + own) / measured
        };
        // The mean of 32-bit numbers fits 32 bits.
        Load::new(self.outstanding.saturating_add(self.others_outstanding), latency as u32)
    }
}

/// A token bucket that all shards model alike: it refills with time and is drained by the queries
/// of all shards. It holds one second's worth.
#[derive(Clone, Debug, Default)]
struct Bucket {
    /// Queries per second; 0 is no limit.
    qps: u32,
    /// May be negative: other shards sent queries before this shard read their counts.
    tokens: f64,
    refilled: Tick,
}

/// The counts of one shard.
#[derive(Debug)]
pub(crate) struct Tally {
    live_state: Arc<LiveState>,
    shard: usize,
    counts: Box<[Count]>,
    /// The load that most policies compare for each query, by slot: eight to a cache line.
    loads: Box<[Load]>,
    /// Slots whose counts changed since they were last published.
    touched: Vec<BackendSlot>,
    /// Slots that policies compare.
    watched: Vec<BackendSlot>,
    looked: Option<Tick>,
    now: Tick,
}

impl Tally {
    /// Creates the tally of shard number `shard`. The queries that its predecessor (before a panic)
    /// had outstanding are lost and not counted; what it sent and measured stays.
    pub(crate) fn new(live_state: Arc<LiveState>, shard: usize) -> Self {
        let mut counts = vec![Count::default(); live_state.backends_max()].into_boxed_slice();
        if let Some(stats) = live_state.shards().get(shard) {
            for (at, count) in counts.iter_mut().enumerate() {
                stats.outstanding[at].store(0, Relaxed);
                count.sent = stats.sent[at].load(Relaxed);
                count.latency = u64::from(stats.latency_us[at].load(Relaxed)) * 1_000;
            }
        }
        let touched = Vec::with_capacity(counts.len());
        let loads = counts.iter().map(Count::load).collect();
        Self { live_state, shard, counts, loads, touched, watched: Vec::new(), looked: None, now: Tick(0) }
    }

    /// Sets the time of the batch.
    pub(crate) const fn begin_batch(&mut self, now: Tick) {
        self.now = now;
    }

    /// Forgets the measurements of a slot: another backend has it.
    pub(crate) fn reset(&mut self, slot: BackendSlot) {
        let count = &mut self.counts[slot.index()];
        count.latency = 0;
        count.measured = Tick(0);
        count.bucket = Bucket::default();
        self.loads[slot.index()] = count.load();
        self.touch(slot);
    }

    /// Sets the slots that a policy compares; only those are read from the other shards.
    pub(crate) fn watch(&mut self, slots: Vec<BackendSlot>) {
        for gone in self.watched.iter().filter(|s| !slots.contains(s)) {
            let count = &mut self.counts[gone.index()];
            count.others_outstanding = 0;
            count.others_sent = None;
            self.loads[gone.index()] = count.load();
        }
        self.watched = slots;
        self.looked = None;
    }

    /// Sets a backend's limit; a new bucket starts full.
    pub(crate) fn limit(&mut self, slot: BackendSlot, qps: u32) {
        let bucket = &mut self.counts[slot.index()].bucket;
        if bucket.qps != qps {
            *bucket = Bucket { qps, tokens: f64::from(qps), refilled: self.now };
        }
    }

    /// Reads the other shards' counts, unless the last reading is recent or there are no other
    /// shards.
    pub(crate) fn read_others(&mut self) {
        let others = self.live_state.shards().len().saturating_sub(1);
        let counters = (others * self.watched.len()) as u64;
        let wait = TickDelta(LOOK_MIN.0.max(counters * LOOK_PER_COUNTER));
        if counters == 0 || self.looked.is_some_and(|at| self.now.since(at) < wait) {
            return;
        }
        self.looked = Some(self.now);
        for slot in &self.watched {
            let (at, count) = (slot.index(), &mut self.counts[slot.index()]);
            let mut sent = 0_u32;
            count.others_outstanding = 0;
            count.others_latency_us = 0;
            count.others_measured = 0;
            for (shard, stats) in self.live_state.shards().iter().enumerate() {
                if shard == self.shard {
                    continue;
                }
                let latency = stats.latency_us[at].load(Relaxed);
                count.others_outstanding += stats.outstanding[at].load(Relaxed);
                sent = sent.wrapping_add(stats.sent[at].load(Relaxed));
                count.others_latency_us += u64::from(latency);
                count.others_measured += u32::from(latency != 0);
            }
            self.loads[at] = count.load();
            let before = count.others_sent.replace(sent).unwrap_or(sent);
            if count.bucket.qps != 0 {
                count.bucket.refill(self.now);
                count.bucket.take(f64::from(sent.wrapping_sub(before)), others + 1);
            }
        }
    }

    /// Counts a query that was sent.
    #[inline]
    pub(crate) fn claimed(&mut self, slot: BackendSlot) {
        let (shards, now) = (self.live_state.shards().len(), self.now);
        let Some(count) = self.counts.get_mut(slot.index()) else { return };
        count.outstanding += 1;
        count.sent = count.sent.wrapping_add(1);
        if count.bucket.qps != 0 {
            count.bucket.refill(now);
            count.bucket.take(1.0, shards);
        }
        self.loads[slot.index()] = count.load();
        self.touch(slot);
    }

    /// Removes a query from the outstanding ones.
    #[inline]
    pub(crate) fn settled(&mut self, slot: BackendSlot, latency: Option<TickDelta>) {
        let Some(count) = self.counts.get_mut(slot.index()) else { return };
        debug_assert!(count.outstanding > 0, "settled without a claim");
        count.outstanding = count.outstanding.saturating_sub(1);
        // A server that stops responding keeps its last latency: without it, it would look like the
        // fastest of all when it returns.
        if let Some(TickDelta(sample)) = latency {
            count.latency = if count.latency == 0 {
                sample.max(1)
            } else {
                // 127/128 old + 1/128 new; more of a lower one that comes after a pause. A higher
                // one may be a single miss of the server's cache.
                let parts = if sample < count.latency {
                    let pause = self.now.since(count.measured).0.min(LATENCY_LASTS.0);
                    (pause * LATENCY_PARTS / LATENCY_LASTS.0).max(1)
                } else {
                    1
                };
                let kept = count.latency / LATENCY_PARTS * parts;
                (count.latency.saturating_sub(kept) + sample / LATENCY_PARTS * parts).max(1)
            };
            count.measured = self.now;
        }
        self.loads[slot.index()] = count.load();
        self.touch(slot);
    }

    /// Publishes the changed counts in the shard's statistics.
    pub(crate) fn publish(&mut self) {
        let Some(stats) = self.live_state.shards().get(self.shard) else { return };
        for slot in self.touched.drain(..) {
            let (at, count) = (slot.index(), &mut self.counts[slot.index()]);
            count.touched = false;
            stats.outstanding[at].store(count.outstanding, Relaxed);
            stats.sent[at].store(count.sent, Relaxed);
            stats.latency_us[at].store(micros(count.latency), Relaxed);
        }
    }

    /// Returns a backend's load, over all shards.
    #[inline]
    pub(crate) fn load(&self, slot: BackendSlot) -> Load {
        self.loads[slot.index()]
    }

    /// Returns a backend's outstanding queries, over all shards.
    pub(crate) fn outstanding(&self, slot: BackendSlot) -> u32 {
        self.load(slot).outstanding()
    }

    /// Returns the smoothed latency, microseconds: the mean of the shards that have one; 0 before
    /// any response.
    pub(crate) fn latency_us(&self, slot: BackendSlot) -> u32 {
        self.load(slot).latency_us()
    }

    /// Returns how long ago this shard last measured a backend, if that is so long that its latency
    /// may not be true any more.
    pub(crate) fn unmeasured_for(&self, slot: BackendSlot) -> Option<TickDelta> {
        let pause = self.now.since(self.counts.get(slot.index())?.measured);
        (pause >= UNMEASURED).then_some(pause)
    }

    /// Returns whether one more query is within the backend's `qps`.
    pub(crate) fn within_qps(&self, slot: BackendSlot) -> bool {
        let bucket = &self.counts[slot.index()].bucket;
        bucket.qps == 0 || bucket.at(self.now) >= 1.0
    }

    #[inline]
    fn touch(&mut self, slot: BackendSlot) {
        let count = &mut self.counts[slot.index()];
        if !count.touched {
            count.touched = true;
            self.touched.push(slot);
        }
    }
}

impl Bucket {
    /// Returns the tokens it holds at `now`.
    fn at(&self, now: Tick) -> f64 {
        let burst = f64::from(self.qps);
        let seconds = now.since(self.refilled).0 as f64 / 1e9;
        (self.tokens + seconds * burst).min(burst)
    }

    fn refill(&mut self, now: Tick) {
        self.tokens = self.at(now);
        self.refilled = self.refilled.max(now);
    }

    /// Takes tokens. The debt is bounded by one burst per shard, the most that they can overshoot
    /// at once: after a long overload (when all servers exceed their limits and are used all the
    /// same) it is soon repaid.
    fn take(&mut self, tokens: f64, shards: usize) {
        let debt_max = f64::from(self.qps) * shards as f64;
        self.tokens = (self.tokens - tokens).max(-debt_max);
    }
}

/// Converts nanoseconds to microseconds; only 0 becomes 0.
fn micros(ns: u64) -> u32 {
    u32::try_from(ns.div_ceil(1_000)).unwrap_or(u32::MAX)
}
