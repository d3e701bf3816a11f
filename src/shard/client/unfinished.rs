//! The memory of queries that have arrived in part, of all connections together.
//!
//! ```text
//!  the longest without progress ◄── order ──► just went on
//!        │ ends, while all together hold more than UNFINISHED_TOTAL_MAX
//! ```
//!
//! Most queries are whole in one read and are not counted. The first bytes of a query are not
//! counted either, as many as most queries have: their memory is bounded by the number of
//! connections, and a slow client with such a query never makes room for others. Of longer ones,
//! the slowest makes room: that of the client that has sent nothing worth mentioning for the longest
//! time.

use crate::base::addr::ConnectionSlot;
use crate::shard::client::{ClientConnections, State};
use crate::shard::recency::{Class, Recency};
use crate::stats::close_reason::ClientCloseReason;
use crate::wire::frame::Frames;

/// Bytes of all unfinished queries of a shard, but for the first ones of each.
const UNFINISHED_TOTAL_MAX: usize = 32 << 20;
/// First bytes of a query that are not counted: what a connection allocates at first.
const UNCOUNTED: usize = 512;
/// Bytes that count as progress: a client that sends byte by byte makes none.
const PROGRESS: usize = 512;

/// The unfinished queries of a shard that are counted.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    total: usize,
    /// Those who hold one, in the order of their last progress.
    order: Recency,
}

/// What a connection holds of an unfinished query.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// Bytes of memory that are counted.
    counted: usize,
    /// Bytes that had arrived when it last made progress.
    progress: usize,
}

impl ClientConnections {
    /// Counts what a connection holds after a change. The slowest connections end while all hold
    /// too much.
    pub(super) fn count_unfinished(&mut self, slot: ConnectionSlot) {
        let Some(connection) = self.connection_mut(slot) else { return };
        let frames = &connection.frames;
        let more = frames.capacity().saturating_sub(UNCOUNTED);
        if more == 0 && connection.held.counted == 0 {
            return;
        }
        let counted = if connection.state == State::Open && frames.is_partial() { more } else { 0 };
        let (before, arrived) = (connection.held, frames.pending());
        // Fewer bytes than before are those of another query.
        let moves = before.counted == 0 || arrived < before.progress || arrived - before.progress >= PROGRESS;
        let progress = if moves { arrived } else { before.progress };
        connection.held = Held { counted, progress };
        self.unfinished.total = self.unfinished.total + counted - before.counted;
        if counted == 0 {
            self.unfinished.order.remove(slot.index());
            return;
        }
        if moves {
            self.unfinished.order.put(slot.index(), 0, Class::New);
        }
        while self.unfinished.total > UNFINISHED_TOTAL_MAX && self.end_slowest() {}
    }

    /// Ends the connection that has made no progress for the longest time; returns whether there
    /// was one.
    fn end_slowest(&mut self) -> bool {
        let slowest = self.unfinished.order.victim(0, |_| false);
        let Some((slot, _)) = slowest.and_then(|at| self.table.at(at)) else { return false };
        self.end(slot, ClientCloseReason::ReadBacklog);
        self.forget_unfinished(slot);
        true
    }

    /// Frees the memory of a connection that is not read any more.
    pub(super) fn forget_unfinished(&mut self, slot: ConnectionSlot) {
        let Some(connection) = self.connection_mut(slot) else { return };
        connection.frames = Frames::new();
        self.unfinished.total -= std::mem::take(&mut connection.held).counted;
        self.unfinished.order.remove(slot.index());
    }

    /// Checks the invariants between calls; for tests.
    pub(super) fn check_unfinished(&self) {
        let held = || self.table.iter().map(|(_, connection)| connection.held.counted);
        assert_eq!(held().sum::<usize>(), self.unfinished.total, "bytes of unfinished queries are counted");
        assert!(self.unfinished.total <= UNFINISHED_TOTAL_MAX, "and bounded");
        let members = self.unfinished.order.check_invariants();
        assert_eq!(held().filter(|counted| *counted > 0).count(), members, "each can make room");
    }
}
