//! What must hold between calls; for tests.

use crate::shard::dispatch::outstanding::{Outstanding, State};

impl Outstanding {
    /// Checks the invariants between calls; for tests.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub fn check_invariants(&self) {
        let counted: usize = self
            .tables
            .iter()
            .flatten()
            .map(|t| {
                let live = t.slots.iter().filter(|s| s.state == State::Live).count();
                assert_eq!(live, t.live as usize, "a table's live slots are counted");
                let on_connections: u32 = t.connections.iter().sum();
                assert_eq!(on_connections, t.on_connections, "those on connections are counted");
                live
            })
            .sum();
        let repeats = self.tables.iter().flatten().flat_map(|t| &t.slots);
        let repeats = repeats.filter(|s| s.state == State::Live && s.counter().is_some()).count();
        assert_eq!(repeats as u64, self.repeats.total(), "queries are counted by question and client");
        assert_eq!(counted, self.live as usize, "live slots are counted");
        assert_eq!(self.timers.live(), u64::from(self.live), "each live slot has one timer");
        let ended = self.settled + self.expired + self.released;
        assert_eq!(self.claimed, ended + u64::from(self.live), "claimed = ended + live");
    }
}
