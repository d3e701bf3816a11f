//! Whose turn it is among connections that have sent more than can be looked at, and how many queries
//! each may have in flight.
//!
//! ```text
//!  read ─► a step of queries ─► the rest is held ─► at the end of `resumable` ─► ... ─► a turn ─┐
//!                                     ▲                                                         │
//!                                     └──────────────── holds more ◄────────────────────────────┘
//! ```

use crate::base::addr::ConnectionSlot;
use crate::shard::client::{ClientConnection, ClientConnections};

/// Queries of a connection in its turn: as many as its answers then need one write for. What it has sent
/// beyond waits until all others have had theirs.
const QUERIES_PER_TURN: u16 = 256;
/// Queries in flight of all connections of a shard, about: half of what a server may be asked at a time
/// by default. Connections that have some share it, so that those who ask without pause leave room
/// for whoever asks now and then.
const IN_FLIGHT_TOTAL: u32 = 32_768;

impl ClientConnections {
    /// A connection that holds whole queries and may go on with them.
    /// It keeps its turn until [`ClientConnections::end_step`] says otherwise.
    pub(crate) fn next_resumable(&mut self) -> Option<ConnectionSlot> {
        while let Some(slot) = self.table.resumable() {
            if self.connection(slot).is_some_and(ClientConnection::holds_queries) {
                return Some(slot);
            }
            self.end_step(slot);
        }
        None
    }

    /// Queries that are left of the connection's turn.
    pub(crate) fn turn_left(&self, slot: ConnectionSlot) -> usize {
        self.connection(slot).map_or(1, |s| QUERIES_PER_TURN.saturating_sub(s.turn).max(1).into())
    }

    /// The connection whose turn it is has done a step of it: whether it goes on. Whoever still holds
    /// queries at the end of a turn has another one when all others have had theirs.
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

    /// Connections that hold whole queries and may go on with them; perhaps some more.
    pub(crate) fn resumable_count(&self) -> usize {
        self.table.resumable_count()
    }

    /// Queries that each connection which has some may have in flight: one at any rate.
    pub(crate) const fn share(&self) -> u16 {
        if self.in_flight >= IN_FLIGHT_TOTAL { 1 } else { self.busy_share }
    }

    /// So many connections have queries in flight. Their share is found out here, not for each query:
    /// a connection that pipelines has always some.
    pub(crate) fn set_busy(&mut self, busy: u32) {
        self.busy = busy;
        self.busy_share = u16::try_from(IN_FLIGHT_TOTAL / busy.max(1)).unwrap_or(u16::MAX).max(1);
    }
}
