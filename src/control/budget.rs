//! The file descriptor budget over the life of the process: at the start, and across reloads.
//!
//! ```text
//!  load: divide for both configurations ─► idle connections are closed ─► commit
//!        └ too few: refused                                               └ refused: as before
//! ```

use std::sync::Arc;

use crate::base::time::{Tick, TickDelta};
use crate::control::limits::{Resources, Shortage};
use crate::model::Snapshot;
use crate::stats::descriptors::{Descriptors, Division, Use};

/// How long a change waits at most until idle connections are closed for its sockets: shards check
/// for that at least every 250 ms.
const ROOM_TIMEOUT: TickDelta = TickDelta::from_ms(2_000);

/// The division of descriptors.
#[derive(Debug)]
pub(super) struct Budget {
    descriptors: Arc<Descriptors>,
    shards: usize,
    /// For the current configuration, and for the pending change.
    division: Division,
    next: Option<Division>,
    /// The time until which a change waits for descriptors.
    wait_until: Tick,
    shortage: Shortage,
}

impl Budget {
    /// Creates it with the present division.
    pub(super) fn new(descriptors: &Arc<Descriptors>, shards: usize) -> Self {
        Self {
            descriptors: Arc::clone(descriptors),
            shards,
            division: descriptors.division(),
            next: None,
            wait_until: Tick(0),
            shortage: Shortage::default(),
        }
    }

    /// Reserves descriptors for a change, whose sockets will be open beside the current ones.
    ///
    /// # Errors
    /// Fails when there are too few descriptors for both; nothing has changed then.
    pub(super) fn begin(&mut self, old: &Snapshot, new: &Snapshot, now: Tick) -> Result<(), String> {
        let used = Use::ALL.iter().map(|usage| self.descriptors.used(*usage)).sum();
        let division = Resources::now(self.shards).beside(old, used).divide(Some(old), new)?;
        self.descriptors.divide(&division);
        (self.next, self.wait_until) = (Some(division), now + ROOM_TIMEOUT);
        Ok(())
    }

    /// Returns whether the change's descriptors are free, or it has waited long enough.
    pub(super) fn is_ready(&self, now: Tick) -> bool {
        self.descriptors.fits() || now >= self.wait_until
    }

    /// Restores the division: the change was refused.
    pub(super) fn refuse(&mut self) {
        self.next = None;
        self.descriptors.divide(&self.division);
    }

    /// Makes the change's division current. Sockets of the previous configuration may still be
    /// open, so the combined division applies until the next change.
    pub(super) fn accept(&mut self) {
        self.division = self.next.take().unwrap_or(self.division);
        let Division { limit, reserve, pools } = self.division;
        let of = |usage: Use| pools[usage.index()];
        let (clients, servers) = (of(Use::Clients), of(Use::Servers));
        let (relayed, flows) = (of(Use::Relayed) / 2, of(Use::Flows));
        tracing::info!(limit, reserve, clients, servers, relayed, flows, "file descriptor limits");
    }

    /// Warns when connections or flows were evicted or refused, at a bounded rate.
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
    fn a_refused_change_restores_the_division() {
        let (old, new) = (fixture::snapshot(1, &[0], &[0]), fixture::snapshot(2, &[0, 1, 2], &[0]));
        let division = Resources::now(2).divide(None, &old).expect("enough");
        let descriptors = Arc::<Descriptors>::default();
        descriptors.divide(&division);
        let mut budget = Budget::new(&descriptors, 2);
        let at = |ms: u64| Tick(ms * 1_000_000);
        let before = descriptors.limit_and_reserve();
        budget.begin(&old, &new, at(0)).expect("enough");
        assert!(descriptors.limit_and_reserve().1 > before.1, "descriptors are reserved for its sockets");
        budget.refuse();
        assert_eq!(descriptors.limit_and_reserve(), before);
        budget.begin(&old, &new, at(0)).expect("enough");
        let kept: Vec<_> = std::iter::from_fn(|| descriptors.take(Use::DrainingCloses, 1)).collect();
        assert!(budget.is_ready(at(0)), "within the limit: {}", kept.len());
        descriptors.divide(&Division { pools: [0; Use::ALL.len()], ..division });
        assert!(!budget.is_ready(at(1_999)) && budget.is_ready(at(2_000)), "it waits until the time-out");
        budget.accept();
        budget.refuse();
        assert!(descriptors.limit_and_reserve().1 > before.1, "its reserve is current");
    }
}
