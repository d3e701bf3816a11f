//! Queries that a second pool gets too: those that wait to be sent there, and what has come of either
//! side.

use crate::base::addr::BackendSlot;
use crate::base::packet::Packet;
use crate::base::time::Tick;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::PendingQuery;
use crate::stats::shadow_queue::{COMPARED_MAX, End, ShadowEvent, ShadowId, Side};
use crate::wire::copied;

/// Queries that wait for the next tick, at most.
const WAITING_MAX: usize = 256;
/// Spare bytes behind one, for a client subnet and the mark of copies.
const ROOM: usize = 32 + copied::ROOM;

/// Those that wait for the next tick, which sends them; their memory is reused.
#[derive(Debug, Default)]
pub(crate) struct Shadows {
    waiting: Vec<Waiting>,
    /// How many of them there are, and how many were handed out.
    filed: usize,
    sent: usize,
    /// The number of the last one.
    last: u32,
}

#[derive(Debug)]
struct Waiting {
    backend: BackendSlot,
    pending: PendingQuery,
    bytes: Vec<u8>,
    len: usize,
}

impl Shadows {
    /// Returns the number of the next one; none when too many wait.
    pub(crate) const fn next(&mut self) -> Option<ShadowId> {
        if self.filed == WAITING_MAX {
            return None;
        }
        self.last = self.last.wrapping_add(1);
        Some(ShadowId(self.last))
    }

    /// Keeps a query for a server; `edit` may change it.
    pub(crate) fn file(
        &mut self,
        backend: BackendSlot,
        pending: PendingQuery,
        query: &[u8],
        edit: impl FnOnce(&mut Packet<'_>),
    ) {
        if self.filed == self.waiting.len() {
            self.waiting.push(Waiting { backend, pending, bytes: Vec::new(), len: 0 });
        }
        let waiting = &mut self.waiting[self.filed];
        (waiting.backend, waiting.pending) = (backend, pending);
        waiting.bytes.clear();
        waiting.bytes.extend_from_slice(query);
        waiting.bytes.resize(query.len() + ROOM, 0);
        let mut packet = Packet::new(&mut waiting.bytes, 0, query.len());
        edit(&mut packet);
        waiting.len = packet.len();
        self.filed += 1;
    }

    /// Hands out the next one.
    pub(crate) fn take(&mut self) -> Option<(BackendSlot, PendingQuery, &[u8])> {
        if self.sent == self.filed {
            (self.sent, self.filed) = (0, 0);
            return None;
        }
        let waiting = &self.waiting[self.sent];
        self.sent += 1;
        Some((waiting.backend, waiting.pending, &waiting.bytes[..waiting.len]))
    }

    /// Returns when there is something to send.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        (self.filed > 0).then_some(Tick(0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_leave_in_order_and_are_bounded() {
        let mut shadows = Shadows::default();
        for round in 0..2 {
            for at in 0..WAITING_MAX {
                assert!(shadows.next().is_some(), "round {round}, {at}");
                let pending = PendingQuery::copy(at as u64);
                shadows.file(BackendSlot(1), pending, b"abc", |p| assert!(p.append(b"d")));
            }
            assert_eq!(shadows.next(), None);
            for at in 0..WAITING_MAX {
                let (backend, pending, bytes) = shadows.take().expect("one more");
                assert_eq!((backend, pending.question, bytes), (BackendSlot(1), at as u64, &b"abcd"[..]));
            }
            assert!(shadows.take().is_none() && shadows.next_deadline().is_none());
        }
    }
}
