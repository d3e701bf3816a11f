//! Connections whose listener is closed: how they end, and which may bring one more query.

use crate::base::addr::{ConnectionSlot, ListenerSlot};
use crate::base::time::{Tick, TickDelta};
use crate::shard::client::{ClientConnections, State};
use crate::stats::close_reason::ClientCloseReason;

/// Time for the last query: a client whose connection is established has sent its query by then,
/// even behind a TLS handshake.
const LAST_QUERY: TickDelta = TickDelta::from_ms(1_000);

impl ClientConnections {
    /// Ends the connections of a closed listener: idle ones at once, others when answered.
    pub(crate) fn finish_listener(&mut self, listener: Option<ListenerSlot>, now: Tick) {
        let slots: Vec<_> = self.table.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            if self.connection(slot).is_some_and(|s| listener.is_none_or(|l| s.client.listener == l)) {
                self.finish_closing(slot, now);
            }
        }
    }

    /// Does the same for one connection. A connection that has brought no query yet, or a part of
    /// one, may bring it.
    pub(crate) fn finish_closing(&mut self, slot: ConnectionSlot, now: Tick) {
        let Some(connection) = self.connection_mut(slot) else { return };
        if connection.state == State::Open && (connection.queries == 0 || connection.frames.is_partial()) {
            connection.last_query_by.get_or_insert(now + LAST_QUERY);
        } else {
            self.finish(slot, ClientCloseReason::Closing, now);
        }
    }
}
