//! The file descriptor budget over the life of the process: at the start, and across reloads.
//!
//! ```text
//!  load: divide for both configurations ─► idle connections are closed ─► commit
//!        └ too few: refused                                               └ refused: as before
//! ```

use std::sync::Arc;

use crate::base::time::{Tick, TickDelta};
use crate::control::limits::{Divided, Resources, Shortage};
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
    /// Descriptors of console and web server: of the current configuration and the pending change.
    pub(super) operators: u32,
    /// For the current configuration, and for the pending change.
    division: Division,
    next: Option<Divided>,
    /// The division is also for the configuration before the current one.
    is_shared: bool,
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
            operators: 0,
            division: descriptors.division(),
            next: None,
            is_shared: false,
            wait_until: Tick(0),
            shortage: Shortage::default(),
        }
    }

    /// Reserves descriptors for a change, whose sockets will be open beside the current ones.
    ///
    /// # Errors
    /// Fails when there are too few descriptors for both; nothing has changed then.
    pub(super) fn begin(&mut self, old: &Snapshot, new: &Snapshot, now: Tick) -> Result<(), String> {
        let divided = self.resources(old).divide(Some(old), new)?;
        self.descriptors.divide(&divided.division);
        (self.next, self.wait_until) = (Some(divided), now + ROOM_TIMEOUT);
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

    /// Returns the resources beside what this configuration and earlier ones hold.
    fn resources(&self, running: &Snapshot) -> Resources {
        let used = Use::ALL.iter().map(|usage| self.descriptors.used(*usage)).sum();
        Resources { operators: self.operators, ..Resources::now(self.shards) }.beside(running, used)
    }

    /// Makes the change's division current. Sockets of the previous configuration may still be
    /// open, so the combined division applies until [`Budget::reclaim`] replaces it.
    pub(super) fn accept(&mut self) {
        if let Some(divided) = self.next.take() {
            divided.warn();
            (self.division, self.is_shared) = (divided.division, true);
        }
        self.log();
    }

    /// Divides for the current configuration alone, once the sockets of the previous one are closed
    /// and no connection or flow would have to end for it: the share of a removed relay is of use
    /// to others.
    pub(super) fn reclaim(&mut self, running: &Snapshot) {
        if !self.is_shared || self.next.is_some() {
            return;
        }
        let Ok(divided) = self.resources(running).divide(None, running) else { return };
        let fits = |usage: &Use| self.descriptors.used(*usage) <= divided.division.pools[usage.index()];
        if Use::ALL.iter().all(fits) {
            self.descriptors.divide(&divided.division);
            let is_change = self.division != divided.division;
            (self.division, self.is_shared) = (divided.division, false);
            if is_change {
                self.log();
            }
        }
    }

    fn log(&self) {
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
        let division = Resources::now(2).divide(None, &old).expect("enough").division;
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

    #[test]
    fn share_of_the_previous_configuration_is_given_back_once_unused() {
        let (mut old, new) = (fixture::snapshot(1, &[0], &[0]), fixture::snapshot(2, &[], &[0]));
        old.globals.client_connections.connections = 64;
        let descriptors = Arc::<Descriptors>::default();
        descriptors.divide(&Resources::now(2).divide(None, &old).expect("enough").division);
        let mut budget = Budget::new(&descriptors, 2);
        let clients = || descriptors.max(Use::Clients);
        budget.reclaim(&old);
        assert_eq!(clients(), 64, "there is no previous configuration");
        budget.begin(&old, &new, Tick(0)).expect("enough");
        budget.reclaim(&old);
        budget.accept();
        let held = descriptors.take(Use::Clients, 1);
        budget.reclaim(&new);
        assert!(held.is_some() && clients() > 0, "a connection of the removed listener is open");
        drop(held);
        budget.reclaim(&new);
        assert_eq!(clients(), 0, "no listener takes connections");
    }
}
