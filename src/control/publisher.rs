//! Publishes configurations to the shards, and knows how far each has got.
//!
//! ```text
//!  control ──store──► ArcSwap<Snapshot> ◄──load── shard, on Message::Snapshot
//!  control ◄──reads── ShardStats.generation ◄──stores── shard, once it uses it
//! ```
//! One cell, so topology and selectors can never disagree. What a shard still holds of a removed
//! backend shows in its page's `attached`; only when no shard does may the slot be given away.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use arc_swap::ArcSwap;

use crate::base::addr::{BackendSlot, ListenerSlot};
use crate::control::plan::Vacancies;
use crate::model::{Listener, Snapshot};
use crate::stats::live::LiveState;

/// The cell that all shards read, and the board they answer on.
#[derive(Debug)]
pub struct Feed {
    cell: Arc<ArcSwap<Snapshot>>,
    live_state: Arc<LiveState>,
    /// Configurations that stood there, until no shard has them: who lets go of one last takes it
    /// apart, which takes long for one of a million names.
    former: RefCell<Vec<Arc<Snapshot>>>,
}

impl Feed {
    /// A feed that begins with `first`.
    #[must_use]
    pub fn new(first: Arc<Snapshot>, live_state: Arc<LiveState>) -> Self {
        Self { cell: Arc::new(ArcSwap::new(first)), live_state, former: RefCell::default() }
    }

    /// The cell, for a shard to read.
    #[must_use]
    pub fn cell(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.cell)
    }

    /// The board that the shards write on.
    #[must_use]
    pub const fn live_state(&self) -> &Arc<LiveState> {
        &self.live_state
    }

    /// The configuration that stands.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.cell.load_full()
    }

    /// Puts `next` into the cell and gives back what stood there. The shards are to be told.
    pub fn publish(&self, next: Arc<Snapshot>) -> Arc<Snapshot> {
        let former = self.cell.swap(next);
        self.former.borrow_mut().push(Arc::clone(&former));
        former
    }

    /// Drops the former configurations that nobody else has.
    pub fn drop_former(&self) {
        self.former.borrow_mut().retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// The shards that have not yet begun to use the current configuration.
    #[must_use]
    pub fn behind(&self) -> Vec<usize> {
        let generation = self.cell.load().generation;
        let pages = self.live_state.shards().iter().enumerate();
        pages.filter(|(_, stats)| stats.generation.load(Acquire) < generation).map(|(n, _)| n).collect()
    }

    /// Whether a slot can be given to another backend: the current configuration does not have
    /// it, every shard uses that configuration, and none has a socket left for it.
    #[must_use]
    pub fn is_free(&self, slot: BackendSlot) -> bool {
        slot.index() < self.live_state.backends_max()
            && self.cell.load().backend(slot).is_none()
            && self.behind().is_empty()
            && self.live_state.shards().iter().all(|stats| stats.attached[slot.index()].load(Acquire) == 0)
    }

    /// Whether a listener's slot can be given to another, as far as connections and flows go: the
    /// current configuration does not have it, and none that came by it is left in any shard.
    #[must_use]
    pub fn is_free_listener(&self, slot: ListenerSlot) -> bool {
        self.cell.load().listeners.iter().all(|l| l.slot != slot)
            && self.live_state.connection_limits().by_listener(slot) == 0
    }
}

/// What was removed and is really gone.
#[derive(Debug)]
pub(crate) struct Vacant<'a> {
    pub(crate) feed: &'a Feed,
    /// Listeners whose sockets may not be closed yet.
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
    fn a_generation_counts_once_every_shard_has_it() {
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
        assert!(shards.upgrade().is_some(), "not while somebody has it");
        feed.drop_former();
        assert!(shards.upgrade().is_none());
        live_state.shards()[1].generation.store(2, Release);
        assert_eq!(feed.behind(), [0]);
    }

    #[test]
    fn a_slot_is_free_only_when_nobody_holds_it() {
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
    fn a_listeners_slot_is_free_when_nothing_that_came_by_it_is_left() {
        let live_state = Arc::new(LiveState::new(2, 4));
        let feed = Feed::new(Arc::new(fixture::snapshot(1, &[0], &[])), Arc::clone(&live_state));
        assert!(!feed.is_free_listener(ListenerSlot(0)), "in use");
        let place = live_state.connection_limits().enter_forward(ListenerSlot(1), 0).expect("a place");
        assert!(!feed.is_free_listener(ListenerSlot(1)), "a connection goes on");
        drop(place);
        assert!(feed.is_free_listener(ListenerSlot(1)));
    }
}
