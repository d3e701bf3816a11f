//! The idle timeout that clients request by EDNS TCP keepalive (RFC 7828).

use crate::base::addr::ConnectionSlot;
use crate::base::time::TickDelta;
use crate::shard::client::{ClientConnections, State};
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::wire::keepalive::UNIT;

impl ClientConnections {
    /// Records that the client has sent the keepalive option.
    pub(crate) fn ask_keepalive(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.connection_mut(slot) {
            connection.keepalive = true;
        }
    }

    /// Returns how long the connection may stay idle, if its client has sent the option. Zero tells
    /// the client to send no more queries (RFC 7828, 3.4): when no more is read, and in overload,
    /// where the connection is closed after its queries in flight. Never zero otherwise.
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
