//! The TLS handshake of connections: its completion and its server name.

use crate::base::addr::ConnectionSlot;
use crate::base::time::Tick;
use crate::shard::client::ClientConnections;
use crate::shard::recency::Class;
use crate::stats::connection_limits::ClientConnectionLimits;

impl ClientConnections {
    /// Returns the server name (SNI) of the connection's TLS handshake.
    pub(crate) fn sni(&self, slot: ConnectionSlot) -> Option<&str> {
        self.connection(slot)?.sni.as_deref()
    }

    /// Returns whether the connection's TLS handshake has not completed.
    pub(crate) fn is_handshaking(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).is_some_and(|s| s.handshaking)
    }

    /// The connection's TLS handshake has completed. The connection ends at once when the client
    /// exceeds its limit of TLS sessions.
    pub(crate) fn handshake_done(
        &mut self,
        slot: ConnectionSlot,
        sni: Option<&str>,
        resumed: bool,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) {
        let Some(connection) = self.connection_mut(slot) else { return };
        connection.handshaking = false;
        connection.sni = sni.map(Box::from);
        connection.active = now;
        connection.reads = 0;
        if self.idle.class(slot.index()).is_some() {
            // The timeout of its first query begins here.
            self.idle.put(slot.index(), 0, Class::New);
        }
        let Some(connection) = self.connection(slot) else { return };
        let identity = connection.identity(limits);
        if let Err(why) = self.connection_limits.admit_session(identity, resumed, limits, now) {
            self.end(slot, why);
        }
    }
}
