//! Queries that a second pool gets too: those that wait to be sent there, and what has come of either
//! side.

use crate::base::addr::BackendSlot;
use crate::base::packet_queue::PacketQueue;
use crate::base::time::Tick;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::PendingQuery;
use crate::stats::shadow_queue::{COMPARED_MAX, End, ShadowEvent, ShadowId, Side};
use crate::wire::copied;

/// Queries that wait for the next tick, at most.
const WAITING_MAX: usize = 256;
/// Spare bytes behind one, for a client subnet and the mark of copies.
const ROOM: usize = 32 + copied::ROOM;

/// Those that wait for the next tick, each for a server, and the number of the last one.
#[derive(Debug)]
pub(crate) struct Shadows {
    /// With whether the client asked over a connection.
    pub(crate) queue: PacketQueue<(BackendSlot, PendingQuery, bool)>,
    last: u32,
}

impl Default for Shadows {
    fn default() -> Self {
        Self { queue: PacketQueue::new(WAITING_MAX, ROOM), last: 0 }
    }
}

impl Shadows {
    /// Returns the number of the next one; none when too many wait.
    pub(crate) const fn next(&mut self) -> Option<ShadowId> {
        if self.queue.is_full() {
            return None;
        }
        self.last = self.last.wrapping_add(1);
        Some(ShadowId(self.last))
    }

    /// Returns when there is something to send.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        (!self.queue.is_empty()).then_some(Tick(0))
    }
}

/// One side has responded to an attempt that was sent at a time.
pub(crate) fn responded(
    cx: &Context,
    id: ShadowId,
    side: Side,
    backend: BackendSlot,
    sent: Tick,
    message: &[u8],
) {
    let end = if message.len() > COMPARED_MAX {
        End::TooLong
    } else {
        End::Response { message: message.into(), backend, latency: cx.now.since(sent) }
    };
    ended(cx, id, side, end);
}

/// One side has ended. When the queue is full, who compares notices that it is missing.
pub(crate) fn ended(cx: &Context, id: ShadowId, side: Side, end: End) {
    let _ = cx.stats().shadow_queue.file(ShadowEvent::Ended { id, side, end });
}
