//! Copies of queries for second servers, from the rule that makes them to the next tick, which
//! sends them.
//!
//! Instances that copy to each other would copy one query for ever. So each copy gets a mark, and a
//! query with our own mark is not copied. One that cannot get it, because it is signed or malformed, is
//! known by its bytes behind the id: they come back as they were.

use ahash::RandomState;

use crate::base::addr::BackendSlot;
use crate::base::narrow::place;
use crate::base::packet::Packet;
use crate::base::packet_queue::PacketQueue;
use crate::wire::copied;
use crate::wire::copied::Mark;
use crate::wire::edit;

/// Copies between two ticks, at most: many batches of 64.
const COPIES_MAX: usize = 4_096;
/// Spare bytes behind a copy, for a client subnet and its marks.
const COPY_ROOM: usize = 32 + copied::ROOM;
/// Places of copies without a mark, 8 kB with the first one. As many others must come in between for
/// a copy to come back unnoticed; and then it makes one more turn.
const UNMARKED: usize = 1_024;

/// Copies that wait for the next tick, each for a server.
#[derive(Debug)]
pub struct Copies {
    queue: PacketQueue<BackendSlot>,
    mark: Mark,
    /// What copies without a mark say, hashed.
    unmarked: Box<[u64]>,
    hasher: RandomState,
}

/// What has become of a query to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filed {
    /// It waits for the next tick.
    Yes,
    /// The queue is full.
    Full,
    /// It is a copy of this process, which has come back.
    Own,
}

impl Copies {
    /// Creates the queue of a process whose copies have this mark.
    #[must_use]
    pub fn new(mark: Mark, hasher: RandomState) -> Self {
        Self { queue: PacketQueue::new(COPIES_MAX, COPY_ROOM), mark, unmarked: Box::default(), hasher }
    }

    /// Returns the mark of this process's copies.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        self.mark
    }

    /// Queues a copy of a query for a server; `edit` may change it, and marks it with what it is given,
    /// unless it returns false.
    pub fn file(
        &mut self,
        to: BackendSlot,
        query: &[u8],
        edit: impl FnOnce(&mut Packet<'_>, Mark) -> bool,
    ) -> Filed {
        if copied::has(query, self.mark) {
            return Filed::Own;
        }
        if self.queue.is_full() {
            return Filed::Full;
        }
        let Self { queue, mark, unmarked, hasher } = self;
        let mut filed = Filed::Yes;
        queue.push(to, query, |packet| {
            if !edit(packet, *mark) && has_come_back(unmarked, hasher, query) {
                filed = Filed::Own;
            }
            filed == Filed::Yes
        });
        filed
    }

    /// Hands out a copy and its server; none when all were handed out.
    pub fn take(&mut self) -> Option<(BackendSlot, &[u8])> {
        self.queue.take()
    }

    /// Returns whether there is nothing to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Returns whether a query without a mark was copied before, and notes it.
#[cold]
fn has_come_back(unmarked: &mut Box<[u64]>, hasher: &RandomState, query: &[u8]) -> bool {
    if unmarked.is_empty() {
        *unmarked = vec![0; UNMARKED].into();
    }
    let hash = hasher.hash_one(edit::behind_id(query));
    let before = std::mem::replace(&mut unmarked[place(hash, UNMARKED)], hash);
    before == hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies() -> Copies {
        Copies::new([7; 8], RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn queue_is_bounded() {
        let mut copies = copies();
        assert!((0..COPIES_MAX).all(|_| copies.file(BackendSlot(1), &[1], |_, _| true) == Filed::Yes));
        assert_eq!(copies.file(BackendSlot(1), &[1], |_, _| true), Filed::Full);
    }

    #[test]
    fn a_copy_without_a_mark_is_known_by_what_it_says() {
        let mut copies = copies();
        let mut file = |query: &[u8]| copies.file(BackendSlot(4), query, |_, _| false);
        assert_eq!([file(b"idone"), file(b"idtwo"), file(b"dione"), file(b"id")], {
            use Filed::{Own, Yes};
            [Yes, Yes, Own, Yes]
        });
    }
}
