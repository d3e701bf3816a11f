//! Recent counter totals, kept to compute rates.

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::control::plan::Settings;
use crate::control::stats::{Gatherer, Reading};
use crate::model::Snapshot;
use crate::stats::live::LiveState;

/// Interval of the totals when no statistics line asks for a shorter one.
const INTERVAL: TickDelta = TickDelta::from_ms(10_000);

/// The totals that rates are computed from.
#[derive(Debug)]
pub(super) struct Rates {
    pub(super) gatherer: Gatherer,
    last: Reading,
    /// The one before, for rates asked for right after the last.
    before: Reading,
}

impl Rates {
    /// Starts with the present.
    pub(super) fn new(now: Tick) -> Self {
        let nothing = Reading { at: now, ..Reading::default() };
        Self { gatherer: Gatherer::default(), last: nothing.clone(), before: nothing }
    }

    /// Returns when the next totals are due.
    pub(super) fn at(&self, settings: &Settings) -> Tick {
        self.last.at + settings.stats.unwrap_or(INTERVAL)
    }

    /// Takes totals: the difference from the last ones, and the time between.
    pub(super) fn take(
        &mut self,
        live_state: &LiveState,
        snapshot: &Snapshot,
        now: Tick,
    ) -> (Reading, TickDelta) {
        let totals = self.gatherer.gather(live_state, slots(snapshot), now);
        self.before = std::mem::replace(&mut self.last, totals);
        (self.last.since(&self.before), now.since(self.before.at))
    }

    /// Takes totals beside the regular ones: all, the recent difference, and its time.
    pub(super) fn peek(
        &mut self,
        live_state: &LiveState,
        snapshot: &Snapshot,
        now: Tick,
    ) -> (Reading, Reading, TickDelta) {
        let total = self.gatherer.gather(live_state, slots(snapshot), now);
        let young = now.since(self.last.at) < TickDelta::from_ms(1_000);
        let base = if young { &self.before } else { &self.last };
        let recent = total.since(base);
        let span = now.since(base.at);
        (total, recent, span)
    }
}

fn slots(snapshot: &Snapshot) -> impl Iterator<Item = BackendSlot> {
    snapshot.backends.iter().flatten().map(|b| b.slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    #[test]
    fn rates_right_after_a_reading_use_the_one_before() {
        let live_state = LiveState::new(1, 1);
        let snapshot = fixture::snapshot(1, &[], &[]);
        let mut rates = Rates::new(Tick(0));
        live_state.shards()[0].queries.add(100);
        let (interval, span) = rates.take(&live_state, &snapshot, Tick(10_000_000_000));
        assert_eq!((interval.shards.queries, span), (100, TickDelta::from_ms(10_000)));
        live_state.shards()[0].queries.add(1);
        let (total, recent, span) = rates.peek(&live_state, &snapshot, Tick(10_500_000_000));
        assert_eq!(
            (total.shards.queries, recent.shards.queries, span),
            (101, 101, TickDelta::from_ms(10_500))
        );
        let (_, recent, span) = rates.peek(&live_state, &snapshot, Tick(12_000_000_000));
        assert_eq!((recent.shards.queries, span), (1, TickDelta::from_ms(2_000)));
    }
}
