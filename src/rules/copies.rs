//! Copies of queries for second servers, from the rule that makes them to the next tick, which
//! sends them. Bounded; their memory is reused.

use crate::base::addr::BackendSlot;
use crate::base::packet::Packet;

/// Copies between two ticks, at most: many batches of 64.
const COPIES_MAX: usize = 4_096;
/// Spare bytes behind a copy, for a client subnet and the OPT record around it.
const COPY_ROOM: usize = 64;

/// Copies that wait for the next tick.
#[derive(Debug, Default)]
pub struct Copies {
    copies: Vec<Copy>,
    /// Number of copies queued, and how many of them were handed out.
    filed: usize,
    sent: usize,
}

#[derive(Debug)]
struct Copy {
    to: BackendSlot,
    bytes: Vec<u8>,
    len: usize,
}

impl Copies {
    /// Queues a copy of a query for a server; `edit` may change it. Returns false when the queue is
    /// full.
    pub fn file(&mut self, to: BackendSlot, query: &[u8], edit: impl FnOnce(&mut Packet<'_>)) -> bool {
        if self.filed == COPIES_MAX {
            return false;
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
        edit(&mut packet);
        copy.len = packet.len();
        self.filed += 1;
        true
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

    #[test]
    fn queue_is_bounded() {
        let mut copies = Copies::default();
        assert!((0..COPIES_MAX).all(|_| copies.file(BackendSlot(1), &[1], |_| {})));
        assert!(!copies.file(BackendSlot(1), &[1], |_| {}));
    }

    #[test]
    fn copies_leave_in_order() {
        let mut copies = Copies::default();
        for round in 0..2 {
            for at in 0..3 {
                assert!(copies.file(BackendSlot(at), &[at as u8], |_| {}));
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
        let mut copies = Copies::default();
        assert!(copies.file(BackendSlot(4), b"abc", |p| assert!(p.append(b"d"))));
        assert!(!copies.is_empty(), "at the next tick");
        let (to, bytes, len) = copies.take().expect("a copy");
        assert_eq!((to, &bytes[..len]), (BackendSlot(4), &b"abcd"[..]));
        copies.put_back(bytes);
        assert!(copies.take().is_none() && copies.is_empty());
    }
}
