//! Invariants of connections between calls; for tests.

use crate::shard::client::{ClientConnections, State};

impl ClientConnections {
    /// Checks the invariants between calls; for tests.
    pub(crate) fn check_invariants(&self) {
        let all = || self.table.iter().map(|(_, connection)| connection);
        let open = all().filter(|c| c.state != State::Gone).count();
        assert_eq!(open, self.open as usize, "open connections are counted");
        let busy = all().filter(|c| c.in_flight > 0).count();
        assert_eq!(busy, self.busy as usize, "busy connections are counted");
        let in_flight: u32 = all().map(|c| u32::from(c.in_flight)).sum();
        assert_eq!(in_flight, self.in_flight, "queries in flight are counted");
        let bytes: usize = all().map(|c| c.output.len()).sum();
        assert_eq!(bytes, self.output_total, "bytes to be written are counted");
        self.idle.check_invariants();
        self.check_unfinished();
        for (slot, connection) in self.table.iter() {
            assert!(connection.in_flight <= connection.in_flight_max, "queries in flight are limited");
            let is_gone = connection.state == State::Gone;
            assert!(!is_gone || connection.in_flight > 0, "closed connections are forgotten");
            let is_listed = self.idle.class(slot.index()).is_some();
            assert_eq!(is_listed, connection.is_idle(), "idle connections can make room");
            assert!(!connection.frames_taken, "frames were returned");
            assert!(is_gone || connection.is_finished().is_none(), "a finished connection ends");
        }
        self.table.check_invariants(|connection| {
            let is_there = connection.state != State::Gone;
            let changes = connection.interest() != connection.applied;
            (is_there && changes, is_there && connection.holds_queries())
        });
    }
}
