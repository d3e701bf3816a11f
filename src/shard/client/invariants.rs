//! What must hold of connections between any two calls; for tests.

use crate::base::addr::ConnectionSlot;
use crate::shard::client::{ClientConnections, State};

impl ClientConnections {
    /// Checks what must hold between calls; for tests.
    pub(crate) fn check_invariants(&self) {
        let open = self.table.iter().flatten().filter(|s| s.state != State::Gone).count();
        assert_eq!(open, self.open as usize, "open connections are counted");
        let busy = self.table.iter().flatten().filter(|s| s.in_flight > 0).count();
        assert_eq!(busy, self.busy as usize, "busy connections are counted");
        let in_flight: u32 = self.table.iter().flatten().map(|s| u32::from(s.in_flight)).sum();
        assert_eq!(in_flight, self.in_flight, "queries in flight are counted");
        let bytes: usize = self.table.iter().flatten().map(|s| s.output.len()).sum();
        assert_eq!(bytes, self.output_total, "bytes to be written are counted");
        self.idle.check_invariants();
        for (at, connection) in self.table.iter().enumerate() {
            let (slot, Some(connection)) = (ConnectionSlot(at as u32), connection) else { continue };
            assert!(connection.in_flight <= connection.in_flight_max, "no more in flight than may be");
            assert!(connection.state != State::Gone || connection.in_flight > 0, "what is over is forgotten");
            let listed = self.idle.class(at).is_some();
            assert_eq!(listed, connection.is_idle(), "those that are idle can make room");
            assert!(!connection.feeding, "frames are given back");
            if connection.state == State::Gone {
                continue;
            }
            assert!(!connection.mark_pending || self.pending.contains(&slot), "a chore has its place");
            assert!(
                connection.interest() == connection.applied || connection.mark_pending,
                "the engine is told what has changed"
            );
            assert!(connection.is_finished().is_none(), "what has finished ends");
            assert!(!connection.holds_queries() || self.resumable.contains(&slot), "what may go on does");
        }
    }
}
