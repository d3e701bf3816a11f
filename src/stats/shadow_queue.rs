//! The two answers to each query that a shadow pool gets too, queued from a shard to the thread that
//! compares them.

use crate::base::addr::BackendSlot;
use crate::base::time::TickDelta;
use crate::stats::log_queue::Queue;

/// A query that a shadow pool gets too; unique in its shard for as long as that takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShadowId(pub u32);

/// Who has answered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server whose answer the client gets.
    Live,
    /// The server of the shadow pool.
    Shadow,
}

/// What has come of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A response, before rules have changed it.
    Response {
        /// The message.
        message: Box<[u8]>,
        /// Who has sent it.
        backend: BackendSlot,
        /// The time from the attempt to the response.
        latency: TickDelta,
    },
    /// No response, or none in time.
    None,
    /// A response that is too long to be compared.
    TooLong,
}

/// An event in the life of such a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShadowEvent {
    /// It is sent to a shadow pool.
    Asked {
        /// The query.
        id: ShadowId,
        /// The pool's name.
        pool: Box<str>,
        /// Whether its client asked over a connection; the copy goes by a datagram.
        by_stream: bool,
    },
    /// One side has ended.
    Ended {
        /// The query.
        id: ShadowId,
        /// Which side.
        side: Side,
        /// How.
        end: End,
    },
}

/// Bytes of a response that is compared, at most: with them a full queue has 32 MiB.
pub const COMPARED_MAX: usize = 8_192;

/// One shard's queue; neither side ever waits for the other.
#[derive(Debug, Default)]
pub struct ShadowQueue(Queue<ShadowEvent>);

impl ShadowQueue {
    /// Queues an event; false when too many are queued.
    pub fn file(&self, event: ShadowEvent) -> bool {
        self.0.file(event)
    }

    /// Takes queued events, at most so many: the shard may be faster than who compares.
    pub fn events(&self, most: usize) -> impl Iterator<Item = ShadowEvent> {
        self.0.drain().take(most)
    }
}
