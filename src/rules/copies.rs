//! Copies of queries for second servers, from the rule that makes them to the next tick, which
//! sends them. Bounded; their memory is reused.
//!
//! Instances that copy to each other would copy one query for ever. So each copy gets a mark, and a
//! query with our own mark is not copied. One that cannot get it, because it is signed or malformed, is
//! known by its bytes behind the id: they come back as they were.

use ahash::RandomState;

use crate::base::addr::BackendSlot;
use crate::base::narrow::place;
use crate::base::packet::Packet;
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

/// Copies that wait for the next tick.
#[derive(Debug)]
pub struct Copies {
    copies: Vec<Copy>,
    /// Number of copies queued, and how many of them were handed out.
    filed: usize,
    sent: usize,
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

#[derive(Debug)]
struct Copy {
    to: BackendSlot,
    bytes: Vec<u8>,
    len: usize,
}

impl Copies {
    /// Creates the queue of a process whose copies have this mark.
    #[must_use]
    pub fn new(mark: Mark, hasher: RandomState) -> Self {
        Self { copies: Vec::new(), filed: 0, sent: 0, mark, unmarked: Box::default(), hasher }
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
        if self.filed == COPIES_MAX {
            return Filed::Full;
        }
        if self.filed == self.copies.len() {
            self.copies.push(Copy { to, bytes: Vec::new(), len: 0 });
        }
        let copy = &mut self.copies[self.filed];
        copy.to = to;
        copy.bytes.clear();
        copy.bytes.extend_from_slice(query);
        copy.bytes.resize(query.len() + COPY_ROOM, 0);
        let mut packet = Packet::new(&mut copy.bytes, 0, query.len());
        let is_marked = edit(&mut packet, self.mark);
        copy.len = packet.len();
        if !is_marked && self.has_come_back(query) {
            return Filed::Own;
        }
        self.filed += 1;
        Filed::Yes
    }

    /// Returns whether a query without a mark was copied before, and notes it.
    #[cold]
    fn has_come_back(&mut self, query: &[u8]) -> bool {
        if self.unmarked.is_empty() {
            self.unmarked = vec![0; UNMARKED].into();
        }
        let hash = self.hasher.hash_one(edit::behind_id(query));
        let before = std::mem::replace(&mut self.unmarked[place(hash, UNMARKED)], hash);
        before == hash
    }

    /// Hands out a copy: its server, its buffer, and how many bytes of the buffer are the query.
    /// Returns none when all were handed out. The caller returns the buffer with
    /// [`Copies::put_back`].
    pub fn take(&mut self) -> Option<(BackendSlot, Vec<u8>, usize)> {
        if self.sent == self.filed {
            (self.sent, self.filed) = (0, 0);
            return None;
        }
        let copy = &mut self.copies[self.sent];
        self.sent += 1;
        Some((copy.to, std::mem::take(&mut copy.bytes), copy.len))
    }

    /// Takes back the buffer of the copy handed out last.
    pub fn put_back(&mut self, bytes: Vec<u8>) {
        if let Some(copy) = self.sent.checked_sub(1).and_then(|at| self.copies.get_mut(at)) {
            copy.bytes = bytes;
        }
    }

    /// Returns whether there is nothing to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.filed == 0
    }
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
    fn copies_leave_in_order() {
        let mut copies = copies();
        for round in 0..2 {
            for at in 0..3 {
                assert_eq!(copies.file(BackendSlot(at), &[at as u8], |_, _| true), Filed::Yes);
            }
            for at in 0..3 {
                let (to, bytes, len) = copies.take().expect("a copy");
                assert_eq!((to, &bytes[..len]), (BackendSlot(at), &[at as u8][..]), "round {round}");
                copies.put_back(bytes);
            }
            assert!(copies.take().is_none());
        }
    }

    #[test]
    fn copy_is_edited_and_its_buffer_reused() {
        let mut copies = copies();
        assert_eq!(copies.file(BackendSlot(4), b"abc", |p, _| p.append(b"d")), Filed::Yes);
        assert!(!copies.is_empty(), "at the next tick");
        let (to, bytes, len) = copies.take().expect("a copy");
        assert_eq!((to, &bytes[..len]), (BackendSlot(4), &b"abcd"[..]));
        copies.put_back(bytes);
        assert!(copies.take().is_none() && copies.is_empty());
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
