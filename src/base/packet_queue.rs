//! Packets that wait for the next tick, each with what is known of it. Bounded; their memory is reused.

use crate::base::packet::Packet;

/// The queue. It is filled between two ticks and emptied by the next one.
#[derive(Debug)]
pub struct PacketQueue<T> {
    waiting: Vec<Waiting<T>>,
    /// Packets queued, and how many of them were handed out.
    queued: usize,
    taken: usize,
    most: usize,
    /// Spare bytes behind each, for edits.
    room: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    about: T,
    bytes: Vec<u8>,
    len: usize,
}

impl<T: Copy> PacketQueue<T> {
    /// Creates an empty queue of at most `most` packets, with `room` spare bytes behind each.
    #[must_use]
    pub const fn new(most: usize, room: usize) -> Self {
        Self { waiting: Vec::new(), queued: 0, taken: 0, most, room }
    }

    /// Queues a copy of a message, which `edit` may change; not if that returns false. The queue must
    /// not be full.
    pub fn push(&mut self, about: T, message: &[u8], edit: impl FnOnce(&mut Packet<'_>) -> bool) {
        debug_assert!(!self.is_full(), "whoever queues has asked");
        if self.queued == self.waiting.len() {
            self.waiting.push(Waiting { about, bytes: Vec::new(), len: 0 });
        }
        let waiting = &mut self.waiting[self.queued];
        waiting.about = about;
        waiting.bytes.clear();
        waiting.bytes.extend_from_slice(message);
        waiting.bytes.resize(message.len() + self.room, 0);
        let mut packet = Packet::new(&mut waiting.bytes, 0, message.len());
        let is_queued = edit(&mut packet);
        waiting.len = packet.len();
        self.queued += usize::from(is_queued);
    }

    /// Takes back the packet that was queued last, unless that was handed out.
    pub fn retract(&mut self) {
        self.queued = self.queued.saturating_sub(1).max(self.taken);
    }

    /// Hands out the next packet; none when all were handed out, after which the queue is empty.
    pub fn take(&mut self) -> Option<(T, &[u8])> {
        if self.taken == self.queued {
            (self.taken, self.queued) = (0, 0);
            return None;
        }
        let waiting = &self.waiting[self.taken];
        self.taken += 1;
        Some((waiting.about, &waiting.bytes[..waiting.len]))
    }

    /// Returns whether no more may be queued.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.queued == self.most
    }

    /// Returns whether there is nothing to hand out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.queued == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_as_edited_and_in_order() {
        let mut queue = PacketQueue::new(3, 4);
        for round in 0..2 {
            for at in 0..3_u8 {
                assert!(!queue.is_full());
                queue.push(at, &[at], |packet| packet.append(b"d"));
            }
            assert!(queue.is_full() && !queue.is_empty());
            for at in 0..3 {
                assert_eq!(queue.take(), Some((at, &[at, b'd'][..])), "round {round}");
            }
            assert!(queue.take().is_none() && queue.is_empty());
        }
    }

    #[test]
    fn the_last_can_be_taken_back() {
        let mut queue = PacketQueue::new(2, 0);
        queue.push(1, b"a", |_| true);
        queue.push(2, b"b", |_| true);
        queue.retract();
        queue.push(3, b"c", |_| true);
        assert_eq!(queue.take(), Some((1, &b"a"[..])));
        assert_eq!(queue.take(), Some((3, &b"c"[..])));
        queue.retract();
        assert_eq!(queue.take(), None, "both were handed out");
    }

    #[test]
    fn what_an_edit_refuses_is_not_queued() {
        let mut queue = PacketQueue::new(2, 0);
        queue.push(1, b"a", |_| false);
        queue.push(2, b"b", |_| true);
        assert_eq!(queue.take(), Some((2, &b"b"[..])));
        assert!(queue.take().is_none());
    }
}
