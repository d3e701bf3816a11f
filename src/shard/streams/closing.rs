//! Connections whose listener is closed: how they end, and which may bring one more query.

use super::{State, StreamEnd, Streams};
use crate::addr::{ListenerSlot, StreamSlot};
use crate::time::{Tick, TickDelta};

/// A client whose connection is made has sent its query by then, also behind a TLS handshake.
const LAST_QUERY: TickDelta = TickDelta::from_ms(1_000);

impl Streams {
    /// Ends what came by a listener that is closed: idle ones at once, others when answered.
    pub(in crate::shard) fn finish_listener(&mut self, listener: Option<ListenerSlot>, now: Tick) {
        for at in 0..self.table.len() {
            let slot = StreamSlot(at as u32);
            if self.stream(slot).is_some_and(|s| listener.is_none_or(|l| s.client.listener == l)) {
                self.finish_closing(slot, now);
            }
        }
    }

    /// The same for one connection. One whose query is on its way, as far as can be known, may bring
    /// it: it has brought none yet, or a part of one.
    pub(in crate::shard) fn finish_closing(&mut self, slot: StreamSlot, now: Tick) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if stream.state == State::Open && (stream.queries == 0 || stream.frames.is_partial()) {
            stream.last_query_by.get_or_insert(now + LAST_QUERY);
        } else {
            self.finish(slot, StreamEnd::Closing, now);
        }
    }
}
