//! Packets that leave later than they came: answers that are held back, and copies of queries.
//! The only owned octets of the data path; bounded, and their memory is used again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::verdict::Verdict;
use crate::addr::BackendSlot;
use crate::packet::Packet;
use crate::time::Tick;

/// Answers held back at a time: with answers of 4 kB, 32 MB.
const HELD_MAX: usize = 8_192;
/// Copies of queries between two ticks: those of a batch, many times over.
const COPIES_MAX: usize = 4_096;
/// Room behind a copy, for a client subnet and the OPT record around it.
const COPY_ROOM: usize = 64;

/// Packets that leave later.
#[derive(Debug, Default)]
pub(super) struct Later {
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

impl Later {
    /// Holds a packet back; false when too many are held.
    pub(super) fn hold(&mut self, until: Tick, verdict: Verdict, octets: &[u8]) -> bool {
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
        block.extend_from_slice(octets);
        self.order += 1;
        self.due.push(Reverse((until, self.order, at)));
        true
    }

    /// Hands out packets whose time has come, in the order of their times and no more than `most`.
    pub(super) fn release(&mut self, now: Tick, most: usize, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        for _ in 0..most {
            let Some(Reverse((_, _, block))) =
                self.due.peek().copied().filter(|Reverse((at, _, _))| *at <= now)
            else {
                break;
            };
            self.due.pop();
            self.free.push(block);
            let (verdict, octets) = &mut self.blocks[block as usize];
            if let Some(verdict) = verdict.take() {
                out(verdict, octets);
            }
        }
    }

    /// When the next one is due.
    #[must_use]
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        if self.used > 0 {
            return Some(Tick(0));
        }
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Answers held back.
    #[must_use]
    pub(super) fn held(&self) -> u32 {
        self.due.len() as u32
    }

    /// Files a copy of a query for a server; `edit` may change it. False when there are too many.
    pub(super) fn copy(&mut self, to: BackendSlot, query: &[u8], edit: impl FnOnce(&mut Packet<'_>)) -> bool {
        if self.used == COPIES_MAX {
            return false;
        }
        if self.used == self.copies.len() {
            self.copies.push((to, Vec::new(), 0));
        }
        let (backend, octets, len) = &mut self.copies[self.used];
        *backend = to;
        octets.clear();
        octets.extend_from_slice(query);
        octets.resize(query.len() + COPY_ROOM, 0);
        let mut packet = Packet::new(octets, 0, query.len());
        edit(&mut packet);
        *len = packet.len();
        self.used += 1;
        true
    }

    /// Hands out a copy; none when all are handed out. The caller gives its memory back with
    /// [`Later::put_back`].
    pub(super) fn take_copy(&mut self) -> Option<(BackendSlot, Vec<u8>, usize)> {
        if self.sent == self.used {
            (self.sent, self.used) = (0, 0);
            return None;
        }
        let (backend, octets, len) = &mut self.copies[self.sent];
        self.sent += 1;
        Some((*backend, std::mem::take(octets), *len))
    }

    /// Takes the memory of the copy handed out last back.
    pub(super) fn put_back(&mut self, octets: Vec<u8>) {
        if let Some(place) = self.sent.checked_sub(1).and_then(|at| self.copies.get_mut(at)) {
            place.1 = octets;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::verdict::DropReason;

    const ANY: Verdict = Verdict::Drop(DropReason::Rule);

    fn released(later: &mut Later, now: u64) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        later.release(Tick(now), usize::MAX, &mut |_, octets| out.push(octets.to_vec()));
        out
    }

    #[test]
    fn packets_leave_in_the_order_of_their_times() {
        let mut later = Later::default();
        for (at, octet) in [(30, 3), (10, 1), (20, 2), (10, 9)] {
            assert!(later.hold(Tick(at), ANY, &[octet]));
        }
        assert_eq!((later.next_deadline(), later.held()), (Some(Tick(10)), 4));
        assert_eq!(released(&mut later, 9), [[0_u8; 0]; 0]);
        assert_eq!(released(&mut later, 20), [[1], [9], [2]]);
        assert_eq!(released(&mut later, 99), [[3]]);
        assert_eq!((later.next_deadline(), later.held()), (None, 0));
    }

    #[test]
    fn no_more_than_asked_for_leave_at_a_time() {
        let mut later = Later::default();
        assert!((0..5).all(|n| later.hold(Tick(n), ANY, &[n as u8])));
        let mut left = Vec::new();
        later.release(Tick(9), 3, &mut |_, octets| left.push(octets[0]));
        assert_eq!((left, later.held(), later.next_deadline()), (vec![0, 1, 2], 2, Some(Tick(3))));
    }

    #[test]
    fn no_more_than_so_many_are_held_or_copied() {
        let mut later = Later::default();
        assert!((0..HELD_MAX).all(|_| later.hold(Tick(5), ANY, &[1])));
        assert!(!later.hold(Tick(5), ANY, &[1]));
        assert_eq!(released(&mut later, 5).len(), HELD_MAX);
        assert!(later.hold(Tick(6), ANY, &[1]));
        assert!((0..COPIES_MAX).all(|_| later.copy(BackendSlot(1), &[1], |_| {})));
        assert!(!later.copy(BackendSlot(1), &[1], |_| {}));
    }

    #[test]
    fn copies_leave_in_the_order_they_came() {
        let mut later = Later::default();
        for round in 0..2 {
            for at in 0..3 {
                assert!(later.copy(BackendSlot(at), &[at as u8], |_| {}));
            }
            for at in 0..3 {
                let (to, octets, len) = later.take_copy().expect("a copy");
                assert_eq!((to, &octets[..len]), (BackendSlot(at), &[at as u8][..]), "round {round}");
                later.put_back(octets);
            }
            assert!(later.take_copy().is_none());
        }
    }

    #[test]
    fn a_copy_is_edited_and_its_memory_comes_back() {
        let mut later = Later::default();
        assert!(later.copy(BackendSlot(4), b"abc", |p| assert!(p.append(b"d"))));
        assert_eq!(later.next_deadline(), Some(Tick(0)), "at the next tick");
        let (to, octets, len) = later.take_copy().expect("a copy");
        assert_eq!((to, &octets[..len]), (BackendSlot(4), &b"abcd"[..]));
        later.put_back(octets);
        assert!(later.take_copy().is_none() && later.next_deadline().is_none());
    }
}
