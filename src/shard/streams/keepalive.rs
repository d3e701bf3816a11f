//! How long a connection may stay open without a query, for clients that would know (RFC 7828).

use super::{State, Streams};
use crate::addr::StreamSlot;
use crate::config::snapshot::StreamLimits;
use crate::time::TickDelta;
use crate::wire::keepalive::UNIT;

impl Streams {
    /// The client would know how long the connection may stay open.
    pub(in crate::shard) fn ask_keepalive(&mut self, slot: StreamSlot) {
        if let Some(stream) = self.stream_mut(slot) {
            stream.keepalive = true;
        }
    }

    /// How long the connection may stay open without a query, if its client would know. Zero says
    /// that nothing more should be asked (RFC 7828, 3.4): when no more is read, and in overload,
    /// where the connection is closed after what is in flight. Never zero otherwise.
    pub(in crate::shard) fn keepalive(&self, slot: StreamSlot, limits: &StreamLimits) -> Option<TickDelta> {
        let stream = self.stream(slot).filter(|s| s.keepalive)?;
        if stream.state != State::Open || self.is_overloaded(limits) {
            return Some(TickDelta(0));
        }
        Some(limits.receive_timeout.max(UNIT))
    }
}
