//! What must hold of connections between any two calls; for tests.

use super::{State, Streams};
use crate::addr::StreamSlot;

impl Streams {
    /// Checks what must hold between calls; for tests.
    pub(in crate::shard) fn check_invariants(&self) {
        let open = self.table.iter().flatten().filter(|s| s.state != State::Gone).count();
        assert_eq!(open, self.open as usize, "open connections are counted");
        let busy = self.table.iter().flatten().filter(|s| s.in_flight > 0).count();
        assert_eq!(busy, self.busy as usize, "busy connections are counted");
        let in_flight: u32 = self.table.iter().flatten().map(|s| u32::from(s.in_flight)).sum();
        assert_eq!(in_flight, self.in_flight, "queries in flight are counted");
        let octets: usize = self.table.iter().flatten().map(|s| s.output.len()).sum();
        assert_eq!(octets, self.output_total, "octets to be written are counted");
        self.idle.check_invariants();
        for (at, stream) in self.table.iter().enumerate() {
            let (slot, Some(stream)) = (StreamSlot(at as u32), stream) else { continue };
            assert!(stream.in_flight <= stream.in_flight_max, "no more in flight than may be");
            assert!(stream.state != State::Gone || stream.in_flight > 0, "what is over is forgotten");
            let listed = self.idle.class(at).is_some();
            assert_eq!(listed, stream.is_idle(), "those that are idle can make room");
            assert!(!stream.feeding, "frames are given back");
            if stream.state == State::Gone {
                continue;
            }
            assert!(!stream.chore || self.chores.contains(&slot), "a chore has its place");
            assert!(stream.wish() == stream.told || stream.chore, "the engine is told what has changed");
            assert!(stream.is_finished().is_none(), "what has finished ends");
            assert!(!stream.holds_queries() || self.resumable.contains(&slot), "what may go on does");
        }
    }
}
