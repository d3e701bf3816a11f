//! Publishes configurations to the shards, and tracks which one each shard uses.
//!
//! ```text
//!  control ──store──► ArcSwap<Snapshot> ◄──load── shard, on Message::Snapshot
//!  control ◄──reads── ShardStats.generation ◄──stores── shard, once it uses it
//! ```
//! All parts of a configuration are in one cell, so they cannot disagree. A shard's statistics show
//! in `attached` what it still holds of a removed backend; the slot can be reused only when no
//! shard does.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use arc_swap::ArcSwap;

use crate::base::addr::{BackendSlot, ListenerSlot};
use crate::control::plan::Vacancies;
use crate::model::{Listener, Snapshot};
use crate::stats::custom_metrics;
use crate::stats::live::LiveState;

/// The cell that all shards read, and the live state that they acknowledge in.
#[derive(Debug)]
pub struct Feed {
    cell: Arc<ArcSwap<Snapshot>>,
    live_state: Arc<LiveState>,
    /// Former configurations that shards still use: the last owner frees one, which takes long for
    /// a million names, so this is the last owner.
    former: RefCell<Vec<Arc<Snapshot>>>,
}

impl Feed {
    /// Creates a feed with `first` as current configuration.
    #[must_use]
    pub fn new(first: Arc<Snapshot>, live_state: Arc<LiveState>) -> Self {
        Self { cell: Arc::new(ArcSwap::new(first)), live_state, former: RefCell::default() }
    }

    /// Returns the cell, for a shard to read.
    #[must_use]
    pub fn cell(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.cell)
    }

    /// Returns the live state that the shards write.
    #[must_use]
    pub const fn live_state(&self) -> &Arc<LiveState> {
        &self.live_state
    }

    /// Returns the current configuration.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.cell.load_full()
    }

    /// Publishes `next` and returns its predecessor. The caller notifies the shards.
    pub fn publish(&self, next: Arc<Snapshot>) -> Arc<Snapshot> {
        let former = self.cell.swap(next);
        self.former.borrow_mut().push(Arc::clone(&former));
        former
    }

    /// Drops former configurations that no shard uses, and their metrics.
    pub fn drop_former(&self) {
        self.former.borrow_mut().retain(|snapshot| Arc::strong_count(snapshot) > 1);
        if self.behind().is_empty() {
            custom_metrics::all().drop_gone();
        }
    }

    /// Returns the shards that do not use the current configuration yet.
    #[must_use]
    pub fn behind(&self) -> Vec<usize> {
        let generation = self.cell.load().generation;
        let shards = self.live_state.shards().iter().enumerate();
        shards.filter(|(_, stats)| stats.generation.load(Acquire) < generation).map(|(n, _)| n).collect()
    }

    /// Returns whether a backend slot can be reused: the current configuration does not have it,
    /// every shard uses that configuration, and none has a socket for it.
    #[must_use]
    pub fn is_free(&self, slot: BackendSlot) -> bool {
        slot.index() < self.live_state.backends_max()
            && self.cell.load().backend(slot).is_none()
            && self.behind().is_empty()
            && self.live_state.shards().iter().all(|stats| stats.attached[slot.index()].load(Acquire) == 0)
    }

    /// Returns whether a listener slot can be reused, as far as connections and flows go: the
    /// current configuration does not have it, and no shard has any that came by it.
    #[must_use]
    pub fn is_free_listener(&self, slot: ListenerSlot) -> bool {
        self.cell.load().listeners.iter().all(|l| l.slot != slot)
            && self.live_state.connection_limits().by_listener(slot) == 0
    }
}

/// Slots of removed objects that can be reused.
#[derive(Debug)]
pub(crate) struct Vacant<'a> {
    pub(crate) feed: &'a Feed,
    /// Listeners whose sockets may still be open.
    pub(crate) ending: &'a [Arc<Listener>],
}

impl Vacancies for Vacant<'_> {
    fn backend(&self, slot: BackendSlot) -> bool {
        self.feed.is_free(slot)
    }

    fn listener(&self, slot: ListenerSlot) -> bool {
        self.ending.iter().all(|l| l.slot != slot) && self.feed.is_free_listener(slot)
    }

    fn rules(&self) -> bool {
        self.feed.behind().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Release;

    use super::*;
    use crate::control::fixture;

    #[test]
    fn a_generation_counts_when_every_shard_uses_it() {
        let live_state = Arc::new(LiveState::new(2, 4));
        let feed = Feed::new(Arc::new(fixture::snapshot(1, &[], &[0])), Arc::clone(&live_state));
        assert_eq!(feed.behind(), [0, 1]);
        live_state.shards()[0].generation.store(1, Release);
        live_state.shards()[1].generation.store(1, Release);
        assert!(feed.behind().is_empty());
        let old = feed.publish(Arc::new(fixture::snapshot(2, &[], &[0])));
        assert_eq!((old.generation, feed.current().generation), (1, 2));
        let shards = Arc::downgrade(&old);
        feed.drop_former();
        drop(old);
        assert!(shards.upgrade().is_some(), "kept while a shard uses it");
        feed.drop_former();
        assert!(shards.upgrade().is_none());
        live_state.shards()[1].generation.store(2, Release);
        assert_eq!(feed.behind(), [0]);
    }

    #[test]
    fn a_slot_is_free_only_when_no_shard_holds_it() {
        let live_state = Arc::new(LiveState::new(2, 4));
        let feed = Feed::new(Arc::new(fixture::snapshot(1, &[], &[0])), Arc::clone(&live_state));
        live_state.shards()[0].generation.store(1, Release);
        assert!(!feed.is_free(BackendSlot(1)), "shard 1 is behind");
        live_state.shards()[1].generation.store(1, Release);
        assert!(feed.is_free(BackendSlot(1)));
        assert!(!feed.is_free(BackendSlot(0)), "in use");
        assert!(!feed.is_free(BackendSlot(4)), "there is no such slot");
        live_state.shards()[1].attached[1].store(1, Release);
        assert!(!feed.is_free(BackendSlot(1)), "shard 1 still has sockets");
    }

    #[test]
    fn a_listener_slot_is_free_when_no_connection_is_left() {
        let live_state = Arc::new(LiveState::new(2, 4));
        let feed = Feed::new(Arc::new(fixture::snapshot(1, &[0], &[])), Arc::clone(&live_state));
        assert!(!feed.is_free_listener(ListenerSlot(0)), "in use");
        let place = live_state.connection_limits().enter_forward(ListenerSlot(1), 0).expect("a permit");
        assert!(!feed.is_free_listener(ListenerSlot(1)), "a connection is open");
        drop(place);
        assert!(feed.is_free_listener(ListenerSlot(1)));
    }
}
