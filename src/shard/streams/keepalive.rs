//! How long a connection may stay open without a query, for clients that would know (RFC 7828).

use super::{OVERLOAD_HASTE, Streams};
use crate::addr::StreamSlot;
use crate::config::snapshot::StreamLimits;
use crate::time::TickDelta;

impl Streams {
    /// The client would know how long the connection may stay open.
    pub(in crate::shard) fn ask_keepalive(&mut self, slot: StreamSlot) {
        if let Some(stream) = self.stream_mut(slot) {
            stream.keepalive = true;
        }
    }

    /// How long the connection may stay open without a query, if its client would know.
    pub(in crate::shard) fn keepalive(&self, slot: StreamSlot, limits: &StreamLimits) -> Option<TickDelta> {
        self.stream(slot).filter(|s| s.keepalive)?;
        let haste = if self.is_overloaded(limits) { OVERLOAD_HASTE } else { 1 };
        Some(TickDelta(limits.receive_timeout.0 / haste))
    }

    /// Whether so many connections are open that idle ones must go sooner.
    pub(in crate::shard) fn is_overloaded(&self, limits: &StreamLimits) -> bool {
        let percent = u64::from(limits.overload_percent);
        percent > 0
            && limits.connections > 0
            && u64::from(self.crowd.dns()) * 100 >= u64::from(limits.connections) * percent
    }
}
