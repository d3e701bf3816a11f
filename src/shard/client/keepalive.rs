//! How long a connection may stay open without a query, for clients that would know (RFC 7828).

use crate::base::addr::ConnectionSlot;
use crate::base::time::TickDelta;
use crate::shard::client::{ClientConnections, State};
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::wire::keepalive::UNIT;

impl ClientConnections {
    /// The client would know how long the connection may stay open.
    pub(crate) fn ask_keepalive(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.connection_mut(slot) {
            connection.keepalive = true;
        }
    }

    /// How long the connection may stay open without a query, if its client would know. Zero says
    /// that nothing more should be asked (RFC 7828, 3.4): when no more is read, and in overload,
    /// where the connection is closed after what is in flight. Never zero otherwise.
    pub(crate) fn keepalive(
        &self,
        slot: ConnectionSlot,
        limits: &ClientConnectionLimits,
    ) -> Option<TickDelta> {
        let connection = self.connection(slot).filter(|s| s.keepalive)?;
        if connection.state != State::Open || self.is_overloaded(limits) {
            return Some(TickDelta(0));
        }
        Some(limits.receive_timeout.max(UNIT))
    }
}
