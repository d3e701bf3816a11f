//! Timeouts of queries: a queue per span, a bucket per slice of time.
//!
//! ```text
//!  queue of 2 s:  | bucket 7: 12 live | bucket 8: 0 live | bucket 9: 40 live, open |
//!  keys, in order:  k k k k k k k k ...
//! ```
//!
//! Settling decrements a bucket; a bucket without a live query is skipped as a whole, so an
//! answered query costs its timer one decrement. Within a queue timers fall due in the order in
//! which they were armed, so the next deadline is the front's.

use std::collections::VecDeque;

use crate::base::time::{Tick, TickDelta};
use crate::shard::dispatch::key::Key;

/// The queue of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue(u8);

impl Queue {
    /// The queue that was created first.
    pub const FIRST: Self = Self(0);

    pub(crate) const fn number(self) -> u8 {
        self.0
    }
}

/// Returns how late a timer of this span may fire: 1/512 of it, so a timeout of 2 s fires within
/// 4 ms; never finer than 50 us, which limits a span to 512 buckets.
pub(crate) const fn slice(span: TickDelta) -> TickDelta {
    let slice = span.0 / 512;
    TickDelta(if slice < 50_000 { 50_000 } else { slice })
}

/// Queues, one per span; within one, timers fall due in the order in which they were armed.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queues: Vec<Spans>,
}

#[derive(Debug)]
struct Spans {
    span: TickDelta,
    /// The current configuration has requested it, so it may be in use.
    wanted: bool,
    /// Width of a bucket: a timeout fires at most this late, never early.
    slice: TickDelta,
    buckets: VecDeque<Bucket>,
    /// Number of the first bucket in `buckets`; wraps.
    first: u32,
    /// Number of the last one, which is open; one less than `first` if there is none.
    last: u32,
    /// Keys of all buckets, in order.
    armed: VecDeque<Key>,
}

#[derive(Debug)]
struct Bucket {
    /// A timer armed after this opens the next bucket.
    closes: Tick,
    live: u32,
    armed: u32,
}

impl Timers {
    pub(crate) fn queue(&mut self, span: TickDelta) -> Option<Queue> {
        let at = self.queues.iter().position(|q| q.span == span).or_else(|| {
            let fresh = Spans::new(span);
            if self.queues.len() < usize::from(u8::MAX) {
                self.queues.push(fresh);
                return Some(self.queues.len() - 1);
            }
            // Spans of former configurations are replaced.
            let idle = self.queues.iter().position(|q| !q.wanted && q.buckets.iter().all(|b| b.live == 0))?;
            self.queues[idle] = fresh;
            Some(idle)
        })?;
        self.queues[at].wanted = true;
        u8::try_from(at).ok().map(Queue)
    }

    /// Begins a new configuration, which requests its spans anew: those of the old one may be
    /// replaced.
    pub(crate) fn renew(&mut self) {
        self.queues.iter_mut().for_each(|q| q.wanted = false);
    }

    #[inline]
    pub(crate) fn arm(&mut self, queue: Queue, now: Tick, key: Key) -> u32 {
        self.queues[usize::from(queue.0)].arm(now, key)
    }

    #[inline]
    pub(crate) fn cancel(&mut self, queue: u8, bucket: u32) {
        if let Some(q) = self.queues.get_mut(usize::from(queue)) {
            q.cancel(bucket);
        }
    }

    pub(crate) fn due(&mut self, now: Tick) -> Option<(u8, u32, Key)> {
        self.queues.iter_mut().zip(0_u8..).find_map(|(q, at)| {
            let (bucket, key) = q.due(now)?;
            Some((at, bucket, key))
        })
    }

    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.queues.iter().filter_map(Spans::next_deadline).min()
    }

    pub(crate) fn live(&self) -> u64 {
        self.queues.iter().flat_map(|q| &q.buckets).map(|b| u64::from(b.live)).sum()
    }
}

impl Spans {
    const fn new(span: TickDelta) -> Self {
        Self {
            span,
            wanted: false,
            slice: slice(span),
            buckets: VecDeque::new(),
            first: 0,
            last: u32::MAX,
            armed: VecDeque::new(),
        }
    }

    #[inline]
    fn arm(&mut self, now: Tick, key: Key) -> u32 {
        match self.buckets.back_mut() {
            Some(open) if now <= open.closes => {
                open.live += 1;
                open.armed += 1;
            }
            _ => {
                let closes = now + self.slice;
                self.buckets.push_back(Bucket { closes, live: 1, armed: 1 });
                self.last = self.last.wrapping_add(1);
                self.drop_dead();
            }
        }
        self.armed.push_back(key);
        self.last
    }

    #[inline]
    fn cancel(&mut self, bucket: u32) {
        let at = bucket.wrapping_sub(self.first) as usize;
        if let Some(b) = self.buckets.get_mut(at) {
            debug_assert!(b.live > 0, "a bucket is cancelled once per arming");
            b.live = b.live.saturating_sub(1);
        }
        self.drop_dead();
    }

    /// Drops dead buckets at the front, because `next_deadline` reads the front. The open bucket
    /// stays.
    fn drop_dead(&mut self) {
        while self.buckets.len() > 1 && self.buckets[0].live == 0 {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(b) = self.buckets.pop_front() {
            self.armed.drain(..b.armed as usize);
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Takes the next key of a bucket that is due, with the bucket's number.
    fn due(&mut self, now: Tick) -> Option<(u32, Key)> {
        while let Some(front) = self.buckets.front_mut() {
            if front.live == 0 || front.closes + self.span > now {
                return None;
            }
            match self.armed.pop_front() {
                Some(key) if front.armed > 0 => {
                    front.armed -= 1;
                    return Some((self.first, key));
                }
                _ => self.drop_front(),
            }
        }
        None
    }

    fn next_deadline(&self) -> Option<Tick> {
        self.buckets.front().filter(|b| b.live > 0).map(|b| b.closes + self.span)
    }
}
