//! The last queries, in fixed memory at any rate: a bucket for each second, of which the largest one
//! is halved, at random, whenever there are too many records in all. Older buckets have a right to
//! fewer records than younger ones.
//!
//! A bucket knows how many queries it stands for, so that a record of it counts as `seen / kept`.

use std::collections::VecDeque;

use crate::stats::top::WINDOW_MAX;
use crate::stats::traffic_ring::Record;

/// A bucket of age `a` seconds has a right to a part in proportion to `1 / (a + SOFTENING)`: a
/// thirtieth of all for the present second, which is a sixth part of all for the last six.
const SOFTENING: u64 = 6;
/// Records that a bucket's memory grows by at least, unless there is memory for few.
const GROWTH: usize = 32;

/// The queries of one second.
#[derive(Debug)]
struct Bucket {
    second: u64,
    seen: u64,
    /// One in 2^level is kept.
    level: u32,
    kept: Vec<Record>,
}

/// The last queries.
#[derive(Debug)]
pub(super) struct Recent {
    buckets: VecDeque<Bucket>,
    capacity: usize,
    /// Records for which there is memory.
    held: usize,
    /// Seconds before this one were forgotten too early.
    cut: u64,
    random: u64,
}

fn bucket_len(buckets: &VecDeque<Bucket>) -> usize {
    buckets.back().map_or(0, |b| b.kept.len())
}

/// A part of a window: records that stand for as many queries each.
pub(super) struct Stratum<'a> {
    pub(super) second: u64,
    pub(super) records: &'a [Record],
    pub(super) weight: f64,
    pub(super) seen: u64,
}

impl Recent {
    /// Creates an empty one for so many records.
    pub(super) const fn new(capacity: usize, seed: u64) -> Self {
        Self { buckets: VecDeque::new(), capacity, held: 0, cut: 0, random: seed }
    }

    /// Adds a query that ended in a second.
    pub(super) fn add(&mut self, record: &Record, second: u64) {
        if self.buckets.back().is_none_or(|b| b.second < second) {
            self.forget(second);
            if let Some(last) = self.buckets.back_mut() {
                self.held -= last.kept.capacity();
                last.kept.shrink_to_fit();
                self.held += last.kept.capacity();
            }
            self.buckets.push_back(Bucket { second, seen: 0, level: 0, kept: Vec::new() });
        }
        let random = self.next_random();
        let Some(bucket) = self.buckets.back_mut() else { return };
        bucket.seen += 1;
        if random & ((1 << bucket.level) - 1) != 0 {
            return;
        }
        if bucket.kept.len() == bucket.kept.capacity() {
            if self.held + self.growth(bucket_len(&self.buckets)) > self.capacity {
                self.thin(second);
            }
            // The bucket may have been halved.
            let growth = self.growth(bucket_len(&self.buckets));
            let Some(bucket) = self.buckets.back_mut() else { return };
            if bucket.kept.len() == bucket.kept.capacity() {
                if self.held + growth > self.capacity {
                    return;
                }
                bucket.kept.reserve_exact(growth);
                self.held += growth;
            }
        }
        if let Some(bucket) = self.buckets.back_mut() {
            bucket.kept.push(*record);
        }
    }

    /// Returns by how much a bucket of this length grows.
    fn growth(&self, len: usize) -> usize {
        (len / 4).max(GROWTH).min(self.capacity / 32).max(1)
    }

    /// Forgets what is older than the longest window.
    pub(super) fn forget(&mut self, second: u64) {
        while let Some(first) = self.buckets.front()
            && first.second + u64::from(WINDOW_MAX) < second
        {
            self.held -= first.kept.capacity();
            self.buckets.pop_front();
        }
    }

    /// Halves buckets that have more than their part until there is memory for a few more.
    fn thin(&mut self, second: u64) {
        while self.held + self.capacity / 16 + 1 > self.capacity {
            let excess = |b: &Bucket| b.kept.len() as u64 * (second.saturating_sub(b.second) + SOFTENING);
            let largest = (0..self.buckets.len()).max_by_key(|at| excess(&self.buckets[*at]));
            let Some(at) = largest else { return };
            if self.buckets[at].kept.len() < 2 {
                if self.buckets.len() < 2 {
                    return;
                }
                // As many seconds as there is memory for.
                if let Some(first) = self.buckets.pop_front() {
                    self.held -= first.kept.capacity();
                    self.cut = first.second + 1;
                }
                continue;
            }
            let mut kept = std::mem::take(&mut self.buckets[at].kept);
            self.held -= kept.capacity();
            kept.retain(|_| self.next_random() & 1 == 0);
            kept.shrink_to_fit();
            self.held += kept.capacity();
            self.buckets[at].kept = kept;
            self.buckets[at].level = (self.buckets[at].level + 1).min(60);
        }
    }

    const fn next_random(&mut self) -> u64 {
        // Splitmix; nobody sees it.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Returns the first second that is not forgotten, of those from `second` on.
    pub(super) fn begin(&self, second: u64) -> u64 {
        second.max(self.cut)
    }

    /// Returns what there is from a second on, youngest last.
    pub(super) fn since(&self, second: u64) -> impl DoubleEndedIterator<Item = Stratum<'_>> {
        self.buckets.iter().filter(move |b| b.second >= second).map(|b| Stratum {
            second: b.second,
            records: &b.kept,
            weight: if b.kept.is_empty() { 0.0 } else { b.seen as f64 / b.kept.len() as f64 },
            seen: b.seen,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::traffic::fixture::record;

    #[test]
    fn few_queries_are_kept_for_the_longest_window() {
        let mut recent = Recent::new(1_024, 1);
        (0..1_000).for_each(|second| recent.add(&record("a.example", second), second));
        let strata: Vec<_> = recent.since(0).map(|s| (s.second, s.records.len(), s.weight)).collect();
        let expected: Vec<_> = (99..1_000).map(|second| (second, 1, 1.0)).collect();
        assert_eq!(strata, expected);
        assert_eq!(recent.since(990).count(), 10);
    }

    #[test]
    fn memory_for_few_has_the_last() {
        for capacity in [1, 2, 10, 100] {
            let mut recent = Recent::new(capacity, 5);
            for second in 0..1_000 {
                (0..3).for_each(|_| recent.add(&record("a.example", second), second));
                assert!(recent.held <= capacity, "{} of {capacity}", recent.held);
            }
            let last = recent.since(998).map(|s| s.records.len()).sum::<usize>();
            assert!(last >= 1, "{capacity}");
        }
    }

    #[test]
    fn memory_is_bounded_and_estimates_are_fair() {
        const CAPACITY: usize = 8_192;
        let mut recent = Recent::new(CAPACITY, 7);
        for second in 0..100 {
            for n in 0..5_000 {
                let name = if n % 10 == 0 { "tenth.example" } else { "other.example" };
                recent.add(&record(name, second), second);
                assert!(recent.held <= CAPACITY, "{} records", recent.held);
            }
        }
        let held: usize = recent.buckets.iter().map(|b| b.kept.capacity()).sum();
        assert_eq!(held, recent.held);
        let tenth = record("tenth.example", 0).qname;
        let estimate = |since: u64| -> f64 {
            let of = |s: Stratum<'_>| s.weight * s.records.iter().filter(|r| r.qname == tenth).count() as f64;
            recent.since(since).map(of).sum()
        };
        // Five standard errors of a sample of a few hundred, or of thousands.
        assert!((estimate(90) - 5_000.0).abs() < 1_500.0, "{}", estimate(90));
        assert!((estimate(0) - 50_000.0).abs() < 10_000.0, "{}", estimate(0));
        let young = recent.buckets.back().map(|b| b.kept.len());
        assert!(young > recent.buckets.front().map(|b| b.kept.len()), "the young ones have more");
        assert!(recent.buckets.iter().all(|b| b.seen == 5_000 && !b.kept.is_empty()));
    }
}
