//! Adds up what the shards count, over shards and between two moments.
//!
//! Reads the pages relaxed: each figure is true by itself, a sum of several may be a packet off.
//! How it looks is [`text`]'s business. Backend counters only grow, also when a slot gets a new
//! backend, so a baseline per slot hides what an earlier owner counted.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::sync::atomic::Ordering::Relaxed;

use hdrhistogram::Histogram;

use crate::base::addr::BackendSlot;
use crate::base::time::Tick;
use crate::control::health::Live;
use crate::model::Snapshot;
use crate::stats::close_reason::RelayCloseReason;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::{BUCKETS, LiveState, RelayStats, bucket_ns};

pub mod connections;
pub mod rules;
pub mod text;

/// Every counter of the process at one moment, or (see [`Reading::since`]) over a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// When it was taken.
    pub at: Tick,
    /// Queries read from clients.
    pub queries: u64,
    /// Backends' answers delivered.
    pub responses: u64,
    /// Answers of our own.
    pub self_answered: u64,
    /// Queries asked a second time elsewhere.
    pub retries: u64,
    /// Outstanding queries; not a count but a level.
    pub outstanding: u64,
    /// Times a shard was started again.
    pub restarts: u64,
    /// Calls of Lua functions that ended in an error.
    pub script_errors: u64,
    /// Packets dropped.
    pub drops: Drops,
    /// Connections and flows of forwards.
    pub relays: ForwardReading,
    /// The backends that were asked for.
    pub backends: BTreeMap<BackendSlot, BackendReading>,
}

/// Packets dropped, by reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Index<DropReason> for Drops {
    type Output = u64;

    fn index(&self, reason: DropReason) -> &u64 {
        &self.0[reason.index()]
    }
}

impl IndexMut<DropReason> for Drops {
    fn index_mut(&mut self, reason: DropReason) -> &mut u64 {
        &mut self.0[reason.index()]
    }
}

/// What forwards have passed on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForwardReading {
    /// Connections and flows taken.
    pub opened: u64,
    /// Those at that time; a level.
    pub open: u64,
    /// Bytes to targets, and back.
    pub bytes: [u64; 2],
    /// How they ended, or why they were not taken, in the order of [`RelayCloseReason::ALL`].
    pub ends: [u64; RelayCloseReason::ALL.len()],
}

impl ForwardReading {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            opened: self.opened.saturating_sub(earlier.opened),
            open: self.open,
            bytes: std::array::from_fn(|n| self.bytes[n].saturating_sub(earlier.bytes[n])),
            ends: std::array::from_fn(|n| self.ends[n].saturating_sub(earlier.ends[n])),
        }
    }

    fn add(&mut self, stats: &RelayStats) {
        self.opened += stats.opened.get();
        self.open += u64::from(stats.open.load(Relaxed));
        self.bytes[0] += stats.bytes_out.get();
        self.bytes[1] += stats.bytes_back.get();
        for why in RelayCloseReason::ALL {
            self.ends[why.index()] += stats.ended(why).get();
        }
    }
}

/// One backend's counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendReading {
    /// Queries sent to it.
    pub queries: u64,
    /// Its answers.
    pub responses: u64,
    /// Queries it did not answer in time.
    pub timeouts: u64,
    /// Queries that could not be sent.
    pub send_errors: u64,
    /// Answers with SERVFAIL.
    pub servfails: u64,
    /// Answers that matched nothing.
    pub unexpected: u64,
    /// Outstanding queries; a level.
    pub outstanding: u64,
    /// Latency of its answers.
    pub latency: Latency,
}

impl Reading {
    /// What was counted after `earlier`; levels stay as they are.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let nothing = BackendReading::default();
        Self {
            at: self.at,
            queries: self.queries.saturating_sub(earlier.queries),
            responses: self.responses.saturating_sub(earlier.responses),
            self_answered: self.self_answered.saturating_sub(earlier.self_answered),
            retries: self.retries.saturating_sub(earlier.retries),
            outstanding: self.outstanding,
            restarts: self.restarts.saturating_sub(earlier.restarts),
            script_errors: self.script_errors.saturating_sub(earlier.script_errors),
            drops: Drops(DropReason::ALL.map(|r| self.drops[r].saturating_sub(earlier.drops[r]))),
            relays: self.relays.since(&earlier.relays),
            backends: self
                .backends
                .iter()
                .map(|(slot, b)| (*slot, b.since(earlier.backends.get(slot).unwrap_or(&nothing))))
                .collect(),
        }
    }

    /// Latency of the answers of all backends together that are not a forward's targets, which
    /// answer to other things than queries.
    #[must_use]
    pub fn latency(&self, snapshot: &Snapshot) -> Latency {
        let mut all = Latency::default();
        for (slot, reading) in &self.backends {
            if snapshot.backend(*slot).is_none_or(|b| !b.target) {
                all.add(&reading.latency);
            }
        }
        all
    }
}

impl BackendReading {
    /// Queries that never got an answer: timed out or not sent.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.timeouts + self.send_errors
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            queries: self.queries.saturating_sub(earlier.queries),
            responses: self.responses.saturating_sub(earlier.responses),
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
            send_errors: self.send_errors.saturating_sub(earlier.send_errors),
            servfails: self.servfails.saturating_sub(earlier.servfails),
            unexpected: self.unexpected.saturating_sub(earlier.unexpected),
            outstanding: self.outstanding,
            latency: self.latency.since(&earlier.latency),
        }
    }
}

/// Answers by latency bucket (see [`crate::stats::live::Histogram`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Box<[u64; BUCKETS]>);

impl Default for Latency {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Latency {
    /// The latency that `share` (0 to 1) of the answers did not exceed, nanoseconds, for each of
    /// `shares`; none when there was no answer.
    #[must_use]
    pub fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[u64; N]> {
        // From one nanosecond, since the lower bound is also the resolution; three digits are
        // finer than the buckets.
        let (low, high) = (1, bucket_ns(BUCKETS - 1) + 1);
        let mut merged = Histogram::<u64>::new_with_bounds(low, high, 3).ok()?;
        for (bucket, count) in self.0.iter().enumerate().filter(|(_, c)| **c > 0) {
            merged.saturating_record_n(bucket_ns(bucket), *count);
        }
        (!merged.is_empty()).then(|| shares.map(|s| merged.value_at_quantile(s)))
    }

    fn add(&mut self, other: &Self) {
        for (a, b) in self.0.iter_mut().zip(other.0.iter()) {
            *a += b;
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self(Box::new(std::array::from_fn(|n| self.0[n].saturating_sub(earlier.0[n]))))
    }
}

/// Takes readings, and remembers what makes them whole.
#[derive(Debug, Default)]
pub struct Gatherer {
    slots: BTreeMap<BackendSlot, Seen>,
}

/// The pages' histogram counters wrap at 2^32, so their growth is added up here; a busy bucket
/// needs seven minutes at ten million answers a second, and a reading is taken far more often.
#[derive(Debug)]
struct Seen {
    last: Box<[u32; BUCKETS]>,
    grown: Latency,
    baseline: BackendReading,
}

impl Gatherer {
    /// Reads the pages, and the backends in `slots`.
    pub fn gather(
        &mut self,
        live_state: &LiveState,
        slots: impl Iterator<Item = BackendSlot>,
        now: Tick,
    ) -> Reading {
        let mut sum = Reading { at: now, ..Reading::default() };
        for stats in live_state.shards() {
            sum.queries += stats.queries.get();
            sum.responses += stats.responses.get();
            sum.self_answered += stats.self_answered.get();
            sum.retries += stats.retries.get();
            sum.outstanding += u64::from(stats.outstanding_total.load(Relaxed));
            sum.restarts += u64::from(stats.restarts.load(Relaxed));
            sum.script_errors += stats.script_errors.get();
            sum.relays.add(&stats.relays);
            for reason in DropReason::ALL {
                sum.drops[reason] += stats.dropped(reason).get();
            }
        }
        sum.backends = slots.map(|slot| (slot, self.gather_backend(live_state, slot))).collect();
        sum
    }

    /// From here on a slot belongs to another backend: counts it from nothing.
    pub fn rebase(&mut self, live_state: &LiveState, slot: BackendSlot) {
        let last = wrapping_counts(live_state, slot);
        let baseline = counters(live_state, slot);
        self.slots.insert(slot, Seen { last, grown: Latency::default(), baseline });
    }

    fn gather_backend(&mut self, live_state: &LiveState, slot: BackendSlot) -> BackendReading {
        let seen = self.slots.entry(slot).or_insert_with(|| Seen {
            last: Box::new([0; BUCKETS]),
            grown: Latency::default(),
            baseline: BackendReading::default(),
        });
        let counts = wrapping_counts(live_state, slot);
        for ((grown, last), count) in seen.grown.0.iter_mut().zip(seen.last.iter()).zip(counts.iter()) {
            *grown += u64::from(count.wrapping_sub(*last));
        }
        seen.last = counts;
        let mut reading = counters(live_state, slot).since(&seen.baseline);
        reading.latency = seen.grown.clone();
        reading
    }
}

/// Live results of a backend since the process began; differences of two are what counts.
#[must_use]
pub fn live(live_state: &LiveState, slot: BackendSlot) -> Live {
    let mut sum = Live::default();
    for backend in live_state.shards().iter().filter_map(|stats| stats.backend_if_used(slot)) {
        sum.responses += backend.responses.get();
        sum.timeouts += backend.timeouts.get();
        sum.servfails += backend.servfails.get();
    }
    sum
}

/// All counters but the latency.
fn counters(live_state: &LiveState, slot: BackendSlot) -> BackendReading {
    let mut sum =
        BackendReading { outstanding: u64::from(live_state.outstanding(slot)), ..Default::default() };
    for backend in live_state.shards().iter().filter_map(|stats| stats.backend_if_used(slot)) {
        sum.queries += backend.queries.get();
        sum.responses += backend.responses.get();
        sum.timeouts += backend.timeouts.get();
        sum.send_errors += backend.send_errors.get();
        sum.servfails += backend.servfails.get();
        sum.unexpected += backend.unexpected.get();
    }
    sum
}

/// Sums of all shards' buckets, modulo 2^32 like each of them.
fn wrapping_counts(live_state: &LiveState, slot: BackendSlot) -> Box<[u32; BUCKETS]> {
    let mut sum = Box::new([0_u32; BUCKETS]);
    for backend in live_state.shards().iter().filter_map(|stats| stats.backend_if_used(slot)) {
        for (bucket, count) in sum.iter_mut().enumerate() {
            *count = count.wrapping_add(backend.latency.count(bucket));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendSlot = BackendSlot(0);
    const B: BackendSlot = BackendSlot(3);

    #[test]
    fn shards_are_added_up_and_spans_subtracted() {
        let live_state = LiveState::new(2, 4);
        let mut gatherer = Gatherer::default();
        live_state.shards()[0].queries.add(10);
        live_state.shards()[1].queries.add(5);
        live_state.shards()[1].dropped(DropReason::Acl).add(2);
        live_state.shards()[0].backend(A).responses.add(7);
        live_state.shards()[1].backend(A).responses.add(1);
        let first = gatherer.gather(&live_state, [A, B].into_iter(), Tick(1));
        assert_eq!((first.queries, first.backends[&A].responses), (15, 8));
        assert_eq!(first.drops[DropReason::Acl], 2);
        assert_eq!(first.backends[&B], BackendReading::default());

        live_state.shards()[1].queries.add(3);
        live_state.shards()[0].outstanding[A.index()].store(4, Relaxed);
        let second = gatherer.gather(&live_state, [A].into_iter(), Tick(2));
        let span = second.since(&first);
        assert_eq!((span.queries, span.drops[DropReason::Acl]), (3, 0));
        assert_eq!(span.backends[&A].outstanding, 4);
    }

    #[test]
    fn quantiles_come_from_all_shards() {
        let live_state = LiveState::new(2, 1);
        for ms in 1..=50 {
            live_state.shards()[0].backend(A).latency.record(ms * 1_000_000);
            live_state.shards()[1].backend(A).latency.record((50 + ms) * 1_000_000);
        }
        let reading = Gatherer::default().gather(&live_state, [A].into_iter(), Tick(0));
        let [p50, p99] = reading.latency(&Snapshot::default()).quantiles([0.5, 0.99]).expect("answers");
        assert!(p50.abs_diff(50_000_000) < 2_000_000, "{p50}");
        assert!(p99.abs_diff(99_000_000) < 4_000_000, "{p99}");
        assert_eq!(Latency::default().quantiles([0.5]), None);
    }

    #[test]
    fn a_slots_new_owner_begins_at_nothing() {
        let live_state = LiveState::new(1, 1);
        let mut gatherer = Gatherer::default();
        live_state.shards()[0].backend(A).queries.add(100);
        live_state.shards()[0].backend(A).latency.record(1_000_000);
        gatherer.rebase(&live_state, A);
        live_state.shards()[0].backend(A).queries.add(3);
        live_state.shards()[0].backend(A).latency.record(8_000_000);
        let reading = gatherer.gather(&live_state, [A].into_iter(), Tick(0));
        assert_eq!(reading.backends[&A].queries, 3);
        let [p50] = reading.latency(&Snapshot::default()).quantiles([0.5]).expect("one answer");
        assert!(p50.abs_diff(8_000_000) < 300_000, "{p50}");
        // Live results are only ever used as differences.
        assert_eq!(live(&live_state, A), Live::default());
    }
}
