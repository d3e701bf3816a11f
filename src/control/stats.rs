//! Adds up what the shards count, over shards and between two moments.
//!
//! What there is to read, [`registry`](crate::stats::registry) says; how it looks is [`dump`]'s and
//! [`text`]'s business. Backend counters only grow, also when a slot gets a new backend, so what is
//! read of a slot is put together from spans: what an earlier owner counted is in none of them.

use std::collections::BTreeMap;

use crate::base::addr::BackendSlot;
use crate::base::time::Tick;
use crate::control::health::Live;
use crate::stats::histogram::Latency;
use crate::stats::live::LiveState;
use crate::stats::registry::{BackendReading, ShardReading};

pub(in crate::control) mod caches;
mod connections;
pub(in crate::control) mod dnsdist;
pub mod dump;
pub mod figures;
pub(in crate::control) mod latency;
pub(in crate::control) mod rules;
pub(in crate::control) mod servers;
pub(crate) mod tables;
pub mod text;

/// Every counter of the shards at one moment, or (see [`Reading::since`]) over a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// When it was taken.
    pub at: Tick,
    /// What is counted for whole shards, over all of them.
    pub shards: ShardReading,
    /// The backends that were asked for.
    pub backends: BTreeMap<BackendSlot, BackendReading>,
}

impl Reading {
    /// Returns how many answers clients got: of servers, of dnslob itself, of packet caches.
    #[must_use]
    pub const fn answers(&self) -> u64 {
        self.shards.responses + self.shards.self_answered + self.shards.cache_hits
    }

    /// What was counted after `earlier`; levels stay as they are.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let nothing = BackendReading::default();
        Self {
            at: self.at,
            shards: self.shards.since(&earlier.shards),
            backends: self
                .backends
                .iter()
                .map(|(slot, b)| (*slot, b.since(earlier.backends.get(slot).unwrap_or(&nothing))))
                .collect(),
        }
    }

    /// Returns the latency of the responses of servers for which clients waited.
    #[must_use]
    pub const fn latency(&self) -> &Latency {
        &self.shards.servers.latency
    }
}

/// Takes readings, and remembers what makes them whole.
#[derive(Debug, Default)]
pub struct Gatherer {
    slots: BTreeMap<BackendSlot, Seen>,
}

/// What has been read of a slot.
#[derive(Debug, Default)]
struct Seen {
    /// What its shards had counted at the last reading, for all owners.
    last: BackendReading,
    /// What has been counted for its present owner.
    total: BackendReading,
}

impl Gatherer {
    /// Reads what the shards have counted, and the backends in `slots`.
    pub fn gather(
        &mut self,
        live_state: &LiveState,
        slots: impl Iterator<Item = BackendSlot>,
        now: Tick,
    ) -> Reading {
        let mut shards = ShardReading::default();
        live_state.shards().iter().for_each(|shard| shard.read(&mut shards));
        let backends = slots.map(|slot| (slot, self.gather_backend(live_state, slot))).collect();
        Reading { at: now, shards, backends }
    }

    /// From here on a slot belongs to another backend: counts it from nothing.
    pub fn rebase(&mut self, live_state: &LiveState, slot: BackendSlot) {
        live_state.backend(slot).reset_connections_max();
        let seen = Seen { last: counted(live_state, slot), total: BackendReading::default() };
        self.slots.insert(slot, seen);
    }

    fn gather_backend(&mut self, live_state: &LiveState, slot: BackendSlot) -> BackendReading {
        let seen = self.slots.entry(slot).or_default();
        let counted = counted(live_state, slot);
        seen.total.grow(&counted.since(&seen.last));
        seen.last = counted;
        seen.total.clone()
    }
}

/// What the shards have counted for a slot since the process began.
fn counted(live_state: &LiveState, slot: BackendSlot) -> BackendReading {
    let mut sum = BackendReading::default();
    for backend in live_state.shards().iter().filter_map(|shard| shard.backend_if_used(slot)) {
        backend.read(&mut sum);
    }
    sum.outstanding = u64::from(live_state.outstanding(slot));
    let (open, open_max) = live_state.backend(slot).connections();
    (sum.connections.open, sum.connections.open_max) = (open.into(), open_max.into());
    sum
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::stats::drop_reason::DropReason;
    use crate::stats::histogram::Latency;

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
        assert_eq!((first.shards.queries, first.backends[&A].responses), (15, 8));
        assert_eq!(first.shards.drops[DropReason::Acl], 2);
        assert_eq!(first.backends[&B], BackendReading::default());

        live_state.shards()[1].queries.add(3);
        live_state.shards()[0].outstanding[A.index()].store(4, Relaxed);
        let second = gatherer.gather(&live_state, [A].into_iter(), Tick(2));
        let span = second.since(&first);
        assert_eq!((span.shards.queries, span.shards.drops[DropReason::Acl]), (3, 0));
        assert_eq!(span.backends[&A].outstanding, 4);
    }

    #[test]
    fn quantiles_come_from_all_shards() {
        let live_state = LiveState::new(2, 1);
        for ms in 1..=50 {
            live_state.shards()[0].servers.latency.record(ms * 1_000_000);
            live_state.shards()[1].servers.latency.record((50 + ms) * 1_000_000);
        }
        let reading = Gatherer::default().gather(&live_state, [A].into_iter(), Tick(0));
        let [p50, p99] = reading.latency().quantiles([0.5, 0.99]).expect("answers");
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
        let [p50] = reading.backends[&A].latency.quantiles([0.5]).expect("one answer");
        assert!(p50.abs_diff(8_000_000) < 300_000, "{p50}");
        // Live results are only ever used as differences.
        assert_eq!(live(&live_state, A), Live::default());
    }
}
