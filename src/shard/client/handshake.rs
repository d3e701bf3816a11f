//! The TLS handshake that connections begin with: done or not, and what it named.

use crate::base::addr::ConnectionSlot;
use crate::base::time::Tick;
use crate::shard::client::ClientConnections;
use crate::shard::recency::Class;
use crate::stats::connection_limits::ClientConnectionLimits;

impl ClientConnections {
    /// The server name that the connection's TLS handshake named.
    pub(crate) fn sni(&self, slot: ConnectionSlot) -> Option<&str> {
        self.connection(slot)?.sni.as_deref()
    }

    /// Whether the connection's TLS handshake is not done.
    pub(crate) fn is_handshaking(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).is_some_and(|s| s.handshaking)
    }

    /// The connection's TLS handshake is done. It ends at once when the client may not have so
    /// many sessions.
    pub(crate) fn shaken(
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
            // Its first query has the time from here on.
            self.idle.put(slot.index(), 0, Class::New);
        }
        let Some(connection) = self.connection(slot) else { return };
        let identity = connection.identity(limits);
        if let Err(why) = self.connection_limits.admit_session(identity, resumed, limits, now) {
            self.end(slot, why);
        }
    }
}
