//! Answers that rules delay. Bounded, and their memory is reused.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::narrow::to_u32;
use crate::base::time::Tick;
use crate::shard::verdict::Verdict;
use crate::stats::traffic_ring::End;

/// Delayed answers, at most: with answers of 4 kB, 32 MB.
const ANSWERS_MAX: usize = 8_192;

/// What becomes of an answer, if there is one, and its bytes.
type Block = (Option<(Verdict, End)>, Vec<u8>);

/// Answers that leave later.
#[derive(Debug, Default)]
pub(crate) struct DelayedAnswers {
    /// Time, sequence number, and index in `blocks`.
    due: BinaryHeap<Reverse<(Tick, u64, u32)>>,
    blocks: Vec<Block>,
    free: Vec<u32>,
    order: u64,
}

impl DelayedAnswers {
    /// Delays an answer, which ends its query so; returns false when there are too many.
    pub(crate) fn hold(&mut self, until: Tick, verdict: Verdict, end: End, bytes: &[u8]) -> bool {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.blocks.len() < ANSWERS_MAX => {
                self.blocks.push((None, Vec::new()));
                to_u32(self.blocks.len() - 1)
            }
            None => return false,
        };
        let (what, block) = &mut self.blocks[at as usize];
        *what = Some((verdict, end));
        block.clear();
        block.extend_from_slice(bytes);
        self.order += 1;
        self.due.push(Reverse((until, self.order, at)));
        true
    }

    /// Emits answers that are due, in the order of their times and no more than `most`.
    pub(crate) fn release(&mut self, now: Tick, most: usize, out: &mut dyn FnMut(Verdict, End, &mut [u8])) {
        for _ in 0..most {
            let Some(Reverse((_, _, block))) =
                self.due.peek().copied().filter(|Reverse((at, _, _))| *at <= now)
            else {
                break;
            };
            self.due.pop();
            self.free.push(block);
            let (verdict, bytes) = &mut self.blocks[block as usize];
            if let Some((verdict, end)) = verdict.take() {
                out(verdict, end, bytes);
            }
        }
    }

    /// Returns when the next one is due.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Returns the number of delayed answers.
    #[must_use]
    pub(crate) fn held(&self) -> u32 {
        to_u32(self.due.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::drop_reason::DropReason;

    const ANY: Verdict = Verdict::Drop(DropReason::Rule);

    fn released(delayed: &mut DelayedAnswers, now: u64) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        delayed.release(Tick(now), usize::MAX, &mut |_, _, bytes| out.push(bytes.to_vec()));
        out
    }

    #[test]
    fn answers_leave_in_order_of_time() {
        let mut delayed = DelayedAnswers::default();
        for (at, byte) in [(30, 3), (10, 1), (20, 2), (10, 9)] {
            assert!(delayed.hold(Tick(at), ANY, End::Response, &[byte]));
        }
        assert_eq!((delayed.next_deadline(), delayed.held()), (Some(Tick(10)), 4));
        assert_eq!(released(&mut delayed, 9), [[0_u8; 0]; 0]);
        assert_eq!(released(&mut delayed, 20), [[1], [9], [2]]);
        assert_eq!(released(&mut delayed, 99), [[3]]);
        assert_eq!((delayed.next_deadline(), delayed.held()), (None, 0));
    }

    #[test]
    fn release_is_bounded() {
        let mut delayed = DelayedAnswers::default();
        assert!((0..5).all(|n| delayed.hold(Tick(n), ANY, End::Response, &[n as u8])));
        let mut left = Vec::new();
        delayed.release(Tick(9), 3, &mut |_, _, bytes| left.push(bytes[0]));
        assert_eq!((left, delayed.held(), delayed.next_deadline()), (vec![0, 1, 2], 2, Some(Tick(3))));
    }

    #[test]
    fn delayed_answers_are_bounded() {
        let mut delayed = DelayedAnswers::default();
        assert!((0..ANSWERS_MAX).all(|_| delayed.hold(Tick(5), ANY, End::Response, &[1])));
        assert!(!delayed.hold(Tick(5), ANY, End::Response, &[1]));
        assert_eq!(released(&mut delayed, 5).len(), ANSWERS_MAX);
        assert!(delayed.hold(Tick(6), ANY, End::Response, &[1]));
    }
}
