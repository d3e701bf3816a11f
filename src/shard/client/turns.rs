//! The order in which connections that hold many queries are served, and how many queries each may
//! have in flight.
//!
//! ```text
//!  read ─► a step of queries ─► others are held ──► at the end of `resumable` ─► ... ─► a turn ─┐
//!                                     ▲                                                         │
//!                                     └──────────────── holds more ◄────────────────────────────┘
//! ```

use crate::base::addr::ConnectionSlot;
use crate::shard::client::{ClientConnection, ClientConnections};

/// Queries of a connection per turn: as many as one write of their answers takes. The others wait
/// until all other connections have had their turn.
const QUERIES_PER_TURN: u16 = 256;
/// Queries in flight of all connections of a shard, approximately: half of the default limit of
/// outstanding queries of a server. Busy connections share it, so that clients that send
/// continuously leave capacity for those that send now and then.
const IN_FLIGHT_TOTAL: u32 = 32_768;

impl ClientConnections {
    /// Returns a connection that holds complete queries and may continue with them. It keeps its
    /// turn until [`ClientConnections::end_step`] returns false.
    pub(crate) fn next_resumable(&mut self) -> Option<ConnectionSlot> {
        while let Some(slot) = self.table.resumable() {
            if self.connection(slot).is_some_and(ClientConnection::holds_queries) {
                return Some(slot);
            }
            self.end_step(slot);
        }
        None
    }

    /// Returns the queries that are left of the connection's turn.
    pub(crate) fn turn_left(&self, slot: ConnectionSlot) -> usize {
        self.connection(slot).map_or(1, |s| QUERIES_PER_TURN.saturating_sub(s.turn).max(1).into())
    }

    /// Ends a step of the connection's turn; returns whether it continues. If it still holds
    /// queries at the end of a turn, it gets another one after all others have had theirs.
    pub(crate) fn end_step(&mut self, slot: ConnectionSlot) -> bool {
        let mut holds = false;
        if let Some(connection) = self.connection_mut(slot) {
            holds = connection.holds_queries();
            if holds && connection.turn < QUERIES_PER_TURN {
                return true;
            }
            connection.turn = 0;
        }
        self.table.end_turn(holds);
        false
    }

    /// Returns the number of connections that hold complete queries and may continue with them; an
    /// upper bound.
    pub(crate) fn resumable_count(&self) -> usize {
        self.table.resumable_count()
    }

    /// Returns the queries that each busy connection may have in flight: at least one.
    pub(crate) const fn share(&self) -> u16 {
        if self.in_flight >= IN_FLIGHT_TOTAL { 1 } else { self.busy_share }
    }

    /// Sets the number of connections with queries in flight. Their share is computed here, not for
    /// each query: a connection that pipelines always has some.
    pub(crate) fn set_busy(&mut self, busy: u32) {
        self.busy = busy;
        self.busy_share = u16::try_from(IN_FLIGHT_TOTAL / busy.max(1)).unwrap_or(u16::MAX).max(1);
    }
}
