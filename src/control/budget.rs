//! The division of file descriptors over the life of the process: at the start, and over reloads.
//!
//! ```text
//!  load: divide for both configurations ─► idle connections make room ─► commit
//!        └ too few: refused                                              └ refused: as before
//! ```

use std::sync::Arc;

use crate::base::time::{Tick, TickDelta};
use crate::control::limits::{Means, Shortage};
use crate::model::Snapshot;
use crate::stats::descriptors::{Descriptors, Division, Use};

/// A change waits so long at most until idle connections have made room for its sockets: shards look at
/// them every 250 ms or more often.
const ROOM: TickDelta = TickDelta::from_ms(2_000);

/// How descriptors are divided.
#[derive(Debug)]
pub(super) struct Budget {
    descriptors: Arc<Descriptors>,
    shards: usize,
    /// For the configuration in force, and for the change under way.
    division: Division,
    next: Option<Division>,
    /// Until then a change waits for descriptors that it needs.
    room_by: Tick,
    shortage: Shortage,
}

impl Budget {
    /// As they are divided at present.
    pub(super) fn new(descriptors: &Arc<Descriptors>, shards: usize) -> Self {
        Self {
            descriptors: Arc::clone(descriptors),
            shards,
            division: descriptors.division(),
            next: None,
            room_by: Tick(0),
            shortage: Shortage::default(),
        }
    }

    /// A change is under way: its sockets will be open beside those that are.
    ///
    /// # Errors
    /// When there are too few descriptors for both; then nothing has changed.
    pub(super) fn begin(&mut self, old: &Snapshot, new: &Snapshot, now: Tick) -> Result<(), String> {
        let used = Use::ALL.iter().map(|usage| self.descriptors.used(*usage)).sum();
        let division = Means::now(self.shards).beside(old, used).divide(Some(old), new)?;
        self.descriptors.divide(&division);
        (self.next, self.room_by) = (Some(division), now + ROOM);
        Ok(())
    }

    /// Whether connections have made room for the change under way, or have had the time to.
    pub(super) fn has_room(&self, now: Tick) -> bool {
        self.descriptors.fits() || now >= self.room_by
    }

    /// The change under way was refused.
    pub(super) fn refuse(&mut self) {
        self.next = None;
        self.descriptors.divide(&self.division);
    }

    /// The change under way is in force. Sockets of the configuration before it may still be open,
    /// so that its division holds until the next change.
    pub(super) fn accept(&mut self) {
        self.division = self.next.take().unwrap_or(self.division);
        let Division { limit, reserve, pools } = self.division;
        let of = |usage: Use| pools[usage.index()];
        let (clients, servers) = (of(Use::Clients), of(Use::Servers));
        let (relayed, flows) = (of(Use::Relayed) / 2, of(Use::Flows));
        tracing::info!(
            limit,
            reserve,
            clients,
            servers,
            relayed,
            flows,
            "file descriptors, and who may have them"
        );
    }

    /// Warns when connections or flows have made room or were refused, once in a while.
    pub(super) fn warn(&mut self, now: Tick) {
        if let Some(text) = self.shortage.turn(&self.descriptors, now) {
            tracing::warn!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    #[test]
    fn a_change_that_is_refused_leaves_the_division_as_it_was() {
        let (old, new) = (fixture::snapshot(1, &[0], &[0]), fixture::snapshot(2, &[0, 1, 2], &[0]));
        let division = Means::now(2).divide(None, &old).expect("enough");
        let descriptors = Arc::<Descriptors>::default();
        descriptors.divide(&division);
        let mut budget = Budget::new(&descriptors, 2);
        let at = |ms: u64| Tick(ms * 1_000_000);
        let before = descriptors.limit_and_reserve();
        budget.begin(&old, &new, at(0)).expect("enough");
        assert!(descriptors.limit_and_reserve().1 > before.1, "its sockets are kept free");
        budget.refuse();
        assert_eq!(descriptors.limit_and_reserve(), before);
        budget.begin(&old, &new, at(0)).expect("enough");
        let kept: Vec<_> = std::iter::from_fn(|| descriptors.take(Use::DrainingCloses, 1)).collect();
        assert!(budget.has_room(at(0)), "no more than may be: {}", kept.len());
        descriptors.divide(&Division { pools: [0; Use::ALL.len()], ..division });
        assert!(!budget.has_room(at(1_999)) && budget.has_room(at(2_000)), "it waits, but not for ever");
        budget.accept();
        budget.refuse();
        assert!(descriptors.limit_and_reserve().1 > before.1, "it is in force");
    }
}
