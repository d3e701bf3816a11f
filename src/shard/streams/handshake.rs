//! The TLS handshake that connections begin with: done or not, and what it named.

use super::Streams;
use crate::addr::StreamSlot;
use crate::config::snapshot::StreamLimits;
use crate::shard::recency::Class;
use crate::time::Tick;

impl Streams {
    /// The server name that the connection's TLS handshake named.
    pub(in crate::shard) fn sni(&self, slot: StreamSlot) -> Option<&str> {
        self.stream(slot)?.sni.as_deref()
    }

    /// Whether the connection's TLS handshake is not done.
    pub(in crate::shard) fn is_handshaking(&self, slot: StreamSlot) -> bool {
        self.stream(slot).is_some_and(|s| s.handshaking)
    }

    /// The connection's TLS handshake is done. It ends at once when the client may not have so
    /// many sessions.
    pub(in crate::shard) fn shaken(
        &mut self,
        slot: StreamSlot,
        sni: Option<&str>,
        resumed: bool,
        limits: &StreamLimits,
        now: Tick,
    ) {
        let Some(stream) = self.stream_mut(slot) else { return };
        stream.handshaking = false;
        stream.sni = sni.map(Box::from);
        stream.active = now;
        stream.reads = 0;
        if self.idle.class(slot.index()).is_some() {
            // Its first query has the time from here on.
            self.idle.put(slot.index(), 0, Class::New);
        }
        let Some(stream) = self.stream(slot) else { return };
        let who = stream.who(limits);
        if let Err(why) = self.crowd.admit_session(who, resumed, limits, now) {
            self.end(slot, why);
        }
    }
}
