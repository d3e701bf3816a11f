//! Packets that leave later than they came: answers that are held back, and copies of queries.
//! The only owned bytes of the data path; bounded, and their memory is used again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::addr::BackendSlot;
use crate::base::packet::Packet;
use crate::base::time::Tick;
use crate::shard::verdict::Verdict;

/// Answers held back at a time: with answers of 4 kB, 32 MB.
const HELD_MAX: usize = 8_192;
/// Copies of queries between two ticks: those of a batch, many times over.
const COPIES_MAX: usize = 4_096;
/// Room behind a copy, for a client subnet and the OPT record around it.
const COPY_ROOM: usize = 64;

/// Packets that leave later.
#[derive(Debug, Default)]
pub(crate) struct DelayedAnswers {
    /// When, in which order, and where in `blocks`.
    due: BinaryHeap<Reverse<(Tick, u64, u32)>>,
    blocks: Vec<(Option<Verdict>, Vec<u8>)>,
    free: Vec<u32>,
    order: u64,
    copies: Vec<(BackendSlot, Vec<u8>, usize)>,
    /// Copies that are filed, and how many of them have been handed out.
    used: usize,
    sent: usize,
}

impl DelayedAnswers {
    /// Holds a packet back; false when too many are held.
    pub(crate) fn hold(&mut self, until: Tick, verdict: Verdict, bytes: &[u8]) -> bool {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.blocks.len() < HELD_MAX => {
                self.blocks.push((None, Vec::new()));
                self.blocks.len() as u32 - 1
            }
            None => return false,
        };
        let (what, block) = &mut self.blocks[at as usize];
        *what = Some(verdict);
        block.clear();
        block.extend_from_slice(bytes);
        self.order += 1;
        self.due.push(Reverse((until, self.order, at)));
        true
    }

    /// Hands out packets whose time has come, in the order of their times and no more than `most`.
    pub(crate) fn release(&mut self, now: Tick, most: usize, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        for _ in 0..most {
            let Some(Reverse((_, _, block))) =
                self.due.peek().copied().filter(|Reverse((at, _, _))| *at <= now)
            else {
                break;
            };
            self.due.pop();
            self.free.push(block);
            let (verdict, bytes) = &mut self.blocks[block as usize];
            if let Some(verdict) = verdict.take() {
                out(verdict, bytes);
            }
        }
    }

    /// When the next one is due.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        if self.used > 0 {
            return Some(Tick(0));
        }
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Answers held back.
    #[must_use]
    pub(crate) fn held(&self) -> u32 {
        self.due.len() as u32
    }

    /// Files a copy of a query for a server; `edit` may change it. False when there are too many.
    pub(crate) fn copy(&mut self, to: BackendSlot, query: &[u8], edit: impl FnOnce(&mut Packet<'_>)) -> bool {
        if self.used == COPIES_MAX {
            return false;
        }
        if self.used == self.copies.len() {
            self.copies.push((to, Vec::new(), 0));
        }
        let (backend, bytes, len) = &mut self.copies[self.used];
        *backend = to;
        bytes.clear();
        bytes.extend_from_slice(query);
        bytes.resize(query.len() + COPY_ROOM, 0);
        let mut packet = Packet::new(bytes, 0, query.len());
        edit(&mut packet);
        *len = packet.len();
        self.used += 1;
        true
    }

    /// Hands out a copy; none when all are handed out. The caller gives its memory back with
    /// [`DelayedAnswers::put_back`].
    pub(crate) fn take_copy(&mut self) -> Option<(BackendSlot, Vec<u8>, usize)> {
        if self.sent == self.used {
            (self.sent, self.used) = (0, 0);
            return None;
        }
        let (backend, bytes, len) = &mut self.copies[self.sent];
        self.sent += 1;
        Some((*backend, std::mem::take(bytes), *len))
    }

    /// Takes the memory of the copy handed out last back.
    pub(crate) fn put_back(&mut self, bytes: Vec<u8>) {
        if let Some(place) = self.sent.checked_sub(1).and_then(|at| self.copies.get_mut(at)) {
            place.1 = bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::drop_reason::DropReason;

    const ANY: Verdict = Verdict::Drop(DropReason::Rule);

    fn released(delayed: &mut DelayedAnswers, now: u64) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        delayed.release(Tick(now), usize::MAX, &mut |_, bytes| out.push(bytes.to_vec()));
        out
    }

    #[test]
    fn packets_leave_in_the_order_of_their_times() {
        let mut delayed = DelayedAnswers::default();
        for (at, byte) in [(30, 3), (10, 1), (20, 2), (10, 9)] {
            assert!(delayed.hold(Tick(at), ANY, &[byte]));
        }
        assert_eq!((delayed.next_deadline(), delayed.held()), (Some(Tick(10)), 4));
        assert_eq!(released(&mut delayed, 9), [[0_u8; 0]; 0]);
        assert_eq!(released(&mut delayed, 20), [[1], [9], [2]]);
        assert_eq!(released(&mut delayed, 99), [[3]]);
        assert_eq!((delayed.next_deadline(), delayed.held()), (None, 0));
    }

    #[test]
    fn no_more_than_asked_for_leave_at_a_time() {
        let mut delayed = DelayedAnswers::default();
        assert!((0..5).all(|n| delayed.hold(Tick(n), ANY, &[n as u8])));
        let mut left = Vec::new();
        delayed.release(Tick(9), 3, &mut |_, bytes| left.push(bytes[0]));
        assert_eq!((left, delayed.held(), delayed.next_deadline()), (vec![0, 1, 2], 2, Some(Tick(3))));
    }

    #[test]
    fn no_more_than_so_many_are_held_or_copied() {
        let mut delayed = DelayedAnswers::default();
        assert!((0..HELD_MAX).all(|_| delayed.hold(Tick(5), ANY, &[1])));
        assert!(!delayed.hold(Tick(5), ANY, &[1]));
        assert_eq!(released(&mut delayed, 5).len(), HELD_MAX);
        assert!(delayed.hold(Tick(6), ANY, &[1]));
        assert!((0..COPIES_MAX).all(|_| delayed.copy(BackendSlot(1), &[1], |_| {})));
        assert!(!delayed.copy(BackendSlot(1), &[1], |_| {}));
    }

    #[test]
    fn copies_leave_in_the_order_they_came() {
        let mut delayed = DelayedAnswers::default();
        for round in 0..2 {
            for at in 0..3 {
                assert!(delayed.copy(BackendSlot(at), &[at as u8], |_| {}));
            }
            for at in 0..3 {
                let (to, bytes, len) = delayed.take_copy().expect("a copy");
                assert_eq!((to, &bytes[..len]), (BackendSlot(at), &[at as u8][..]), "round {round}");
                delayed.put_back(bytes);
            }
            assert!(delayed.take_copy().is_none());
        }
    }

    #[test]
    fn a_copy_is_edited_and_its_memory_comes_back() {
        let mut delayed = DelayedAnswers::default();
        assert!(delayed.copy(BackendSlot(4), b"abc", |p| assert!(p.append(b"d"))));
        assert_eq!(delayed.next_deadline(), Some(Tick(0)), "at the next tick");
        let (to, bytes, len) = delayed.take_copy().expect("a copy");
        assert_eq!((to, &bytes[..len]), (BackendSlot(4), &b"abcd"[..]));
        delayed.put_back(bytes);
        assert!(delayed.take_copy().is_none() && delayed.next_deadline().is_none());
    }
}
