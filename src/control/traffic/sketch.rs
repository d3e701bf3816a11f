//! Heavy hitters in fixed memory: Space-Saving (Metwally, Agrawal, El Abbadi, 2005) with weights, in
//! sets as a cache has them.
//!
//! ```text
//!  hash of the key ─► set: 16 keys with count and error; floor
//! ```
//!
//! A key that has no place takes that of the smallest count of its set, and begins with that count
//! as its error. The floor is what a key without a place may have had at most. So for every key,
//!
//! - with a place: `count - error <= true <= count`;
//! - without one: `true <= floor` of its set.
//!
//! Sketches of one size and hasher merge set by set, and the errors add up.

use std::cmp::Reverse;

use crate::base::narrow::place;

/// Keys of a set.
const WAYS: usize = 16;
/// No key has this hash.
const FREE: u64 = 0;

#[derive(Clone, Copy, Debug)]
struct Set {
    hashes: [u64; WAYS],
    counts: [u64; WAYS],
    errors: [u64; WAYS],
    floor: u64,
}

const EMPTY: Set = Set { hashes: [FREE; WAYS], counts: [0; WAYS], errors: [0; WAYS], floor: 0 };

/// Heavy hitters among keys, with what is shown for each.
#[derive(Debug)]
pub(crate) struct Sketch<K> {
    /// Allocated with the first key.
    sets: Box<[Set]>,
    keys: Box<[K]>,
    count: usize,
    total: u64,
}

/// A key with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item<K> {
    pub(crate) key: K,
    hash: u64,
    /// It had no more than this.
    pub(crate) count: u64,
    /// It had no less than `count - error`.
    pub(crate) error: u64,
}

impl<K> Item<K> {
    /// What items are ordered by: those that had the most for certain.
    const fn rank(&self) -> (u64, u64) {
        (self.count - self.error, self.count)
    }
}

/// The keys of several sketches.
#[derive(Debug)]
pub(crate) struct Merged<K> {
    /// Those with the highest lower bounds first.
    pub(crate) items: Vec<Item<K>>,
    /// What a key that is not among the items may have had.
    pub(crate) unlisted_max: u64,
    /// What was added.
    pub(crate) total: u64,
}

impl<K: Copy + Default> Sketch<K> {
    /// Creates one with places for this many keys, a multiple of 16.
    pub(crate) fn new(places: usize) -> Self {
        Self { sets: Box::default(), keys: Box::default(), count: places.div_ceil(WAYS).max(1), total: 0 }
    }

    /// Bytes of memory that it takes when it is in use.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.count * (size_of::<Set>() + WAYS * size_of::<K>())
    }

    /// Makes it empty. It keeps its memory.
    pub(crate) fn clear(&mut self) {
        if self.total > 0 {
            self.sets.fill(EMPTY);
            self.total = 0;
        }
    }

    fn allocate(&mut self) {
        if self.sets.is_empty() {
            self.sets = vec![EMPTY; self.count].into();
            self.keys = vec![K::default(); self.count * WAYS].into();
        }
    }

    /// Adds a weight to a key, which is made if it gets a place.
    pub(crate) fn add(&mut self, hash: u64, weight: u64, key: impl FnOnce() -> K) {
        let hash = hash.max(FREE + 1);
        self.total += weight;
        self.allocate();
        let at = place(hash, self.count);
        let set = &mut self.sets[at];
        if let Some(way) = set.hashes.iter().position(|h| *h == hash) {
            set.counts[way] += weight;
            return;
        }
        // Free places have the count 0 and come first.
        let mut way = 0;
        for other in 1..WAYS {
            if set.counts[other] < set.counts[way] {
                way = other;
            }
        }
        if set.hashes[way] != FREE {
            set.floor = set.floor.max(set.counts[way]);
        }
        set.hashes[way] = hash;
        set.counts[way] = set.floor + weight;
        set.errors[way] = set.floor;
        self.keys[at * WAYS + way] = key();
    }

    /// Returns the keys of all sketches, which are of one size.
    pub(crate) fn merge<'s>(sketches: impl Iterator<Item = &'s Self> + Clone) -> Merged<K>
    where
        K: 's,
    {
        let (mut items, mut unlisted_max) = (Vec::new(), 0);
        let count = sketches.clone().map(|s| s.count).max().unwrap_or(0);
        for at in 0..count {
            unlisted_max = unlisted_max.max(Self::merge_set(sketches.clone(), at, &mut items));
        }
        items.sort_by_key(|item| Reverse(item.rank()));
        Merged { items, unlisted_max, total: sketches.map(|s| s.total).sum() }
    }

    /// Returns the key with the highest lower bound of all sketches, which are of one size. `items` is
    /// overwritten.
    pub(crate) fn first<'s>(
        sketches: impl Iterator<Item = &'s Self> + Clone,
        items: &mut Vec<Item<K>>,
    ) -> Option<Item<K>>
    where
        K: 's,
    {
        let count = sketches.clone().map(|s| s.count).max().unwrap_or(0);
        let mut first = None;
        for at in 0..count {
            items.clear();
            Self::merge_set(sketches.clone(), at, items);
            first = first.into_iter().chain(items.iter().copied()).max_by_key(Item::rank);
        }
        first
    }

    /// Appends the keys of one set of all sketches; returns its floor.
    fn merge_set<'s>(sketches: impl Iterator<Item = &'s Self>, at: usize, items: &mut Vec<Item<K>>) -> u64
    where
        K: 's,
    {
        let (first, mut floors) = (items.len(), 0);
        for sketch in sketches {
            let Some(set) = sketch.sets.get(at) else { continue };
            floors += set.floor;
            for way in (0..WAYS).filter(|way| set.hashes[*way] != FREE) {
                let (count, error) = (set.counts[way], set.errors[way]);
                debug_assert!(count >= set.floor && count >= error, "no count is below its bounds");
                // The floors of all sketches are added below, and this one's is not that of the key.
                let (count, error) = (count - set.floor, error.wrapping_sub(set.floor));
                items.push(Item { key: sketch.keys[at * WAYS + way], hash: set.hashes[way], count, error });
            }
        }
        items[first..].sort_unstable_by_key(|item| item.hash);
        let mut write = first;
        for read in first..items.len() {
            let item = items[read];
            if write > first && items[write - 1].hash == item.hash {
                let sum = &mut items[write - 1];
                sum.count += item.count;
                sum.error = sum.error.wrapping_add(item.error);
            } else {
                items[write] = item;
                write += 1;
            }
        }
        items.truncate(write);
        for item in &mut items[first..] {
            item.count += floors;
            item.error = item.error.wrapping_add(floors);
        }
        floors
    }

    /// Fills an empty one with what several have: in each set the keys with the highest lower bounds stay.
    pub(crate) fn condense<'s>(&mut self, sketches: impl Iterator<Item = &'s Self> + Clone)
    where
        K: 's,
    {
        self.total = sketches.clone().map(|s| s.total).sum();
        if self.total == 0 {
            return;
        }
        self.allocate();
        let mut items = Vec::new();
        for (at, set) in self.sets.iter_mut().enumerate() {
            items.clear();
            set.floor = Self::merge_set(sketches.clone(), at, &mut items);
            items.sort_by_key(|item| Reverse(item.rank()));
            for (way, item) in items.iter().enumerate() {
                if way < WAYS {
                    (set.hashes[way], set.counts[way], set.errors[way]) = (item.hash, item.count, item.error);
                    self.keys[at * WAYS + way] = item.key;
                } else {
                    set.floor = set.floor.max(item.count);
                }
            }
            // A count below the floor says less than the floor does.
            for way in 0..WAYS {
                if set.hashes[way] != FREE && set.counts[way] < set.floor {
                    set.errors[way] += set.floor - set.counts[way];
                    set.counts[way] = set.floor;
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Condenses sketches into one that was in use before.
    fn condensed<'s>(sketches: impl Iterator<Item = &'s Sketch<u64>> + Clone, places: usize) -> Sketch<u64> {
        let mut condensed = Sketch::new(places);
        (0..100).for_each(|key| condensed.add(key, 1_000, || key));
        condensed.clear();
        condensed.condense(sketches);
        condensed
    }

    /// Spreads small numbers.
    pub(crate) fn hash(key: u64) -> u64 {
        let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number from 1 to `n` by Zipf's law (s = 1), of a uniform one below 1.
    pub(crate) fn zipf(uniform: f64, n: f64) -> u64 {
        ((n + 1.0).powf(uniform)).min(n) as u64
    }

    fn check(exact: &HashMap<u64, u64>, merged: &Merged<u64>) {
        assert_eq!(merged.total, exact.values().sum::<u64>());
        let listed: HashMap<u64, &Item<u64>> = merged.items.iter().map(|item| (item.key, item)).collect();
        assert_eq!(listed.len(), merged.items.len(), "a key is listed once");
        for (key, count) in exact {
            match listed.get(key) {
                Some(item) => {
                    assert!(item.count - item.error <= *count && *count <= item.count, "{item:?} {count}");
                }
                None => assert!(*count <= merged.unlisted_max, "{key} {count} {}", merged.unlisted_max),
            }
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_for_every_key(
            parts in prop::collection::vec(prop::collection::vec((0_u64..200, 1_u64..9), 0..400), 1..5),
            places in 16_usize..100,
        ) {
            let (mut exact, mut sketches) = (HashMap::<u64, u64>::new(), Vec::new());
            for part in &parts {
                let mut sketch = Sketch::new(places);
                for (key, weight) in part {
                    sketch.add(hash(*key), *weight, || *key);
                    *exact.entry(*key).or_default() += weight;
                }
                sketches.push(sketch);
            }
            check(&exact, &Sketch::merge(sketches.iter()));
            let condensed = condensed(sketches.iter(), places);
            check(&exact, &Sketch::merge([&condensed].into_iter()));
            let more = self::condensed([&condensed, &sketches[0]].into_iter(), places);
            for (key, weight) in &parts[0] {
                *exact.entry(*key).or_default() += weight;
            }
            check(&exact, &Sketch::merge([&more].into_iter()));
        }
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut sketch = Sketch::new(64);
        assert!(Sketch::<u64>::merge([&sketch].into_iter()).items.is_empty());
        (0..10_u64).for_each(|key| (0..=key).for_each(|_| sketch.add(hash(key), 1, || key)));
        let merged = Sketch::merge([&sketch].into_iter());
        let found: Vec<_> = merged.items.iter().map(|item| (item.key, item.count, item.error)).collect();
        let expected: Vec<_> = (0..10).rev().map(|key| (key, key + 1, 0)).collect();
        assert_eq!((found, merged.unlisted_max, merged.total), (expected, 0, 55));
    }

    /// The twenty most frequent of a million keys are found, and in fixed memory.
    fn find_the_most_frequent(queries: u64, seconds: u64) {
        let (mut exact, mut sketches) = (HashMap::<u64, u64>::new(), Vec::new());
        let mut state = 1_u64;
        for _ in 0..seconds {
            let mut sketch = Sketch::new(512);
            for _ in 0..queries / seconds {
                state = hash(state);
                let key = zipf((state >> 11) as f64 / (1_u64 << 53) as f64, 1e6);
                sketch.add(hash(key), 1, || key);
                *exact.entry(key).or_default() += 1;
            }
            sketches.push(sketch);
        }
        assert!(sketches.iter().map(Sketch::bytes).sum::<usize>() <= 20_000 * seconds as usize);
        let condensed = condensed(sketches.iter(), 512);
        for merged in [Sketch::merge(sketches.iter()), Sketch::merge([&condensed].into_iter())] {
            check(&exact, &merged);
            let mut most: Vec<_> = exact.iter().map(|(key, count)| (*count, *key)).collect();
            most.sort_unstable_by(|a, b| b.cmp(a));
            let found: Vec<u64> = merged.items.iter().take(25).map(|item| item.key).collect();
            for (count, key) in &most[..20] {
                assert!(found.contains(key), "{key} with {count} is not in {found:?}");
            }
            assert!(merged.unlisted_max <= queries / 250, "{} of {queries}", merged.unlisted_max);
        }
    }

    #[test]
    fn the_most_frequent_of_a_million_are_found() {
        find_the_most_frequent(200_000, 4);
    }

    #[test]
    fn the_most_frequent_of_a_million_are_found_in_ten_million() {
        find_the_most_frequent(10_000_000, 15);
    }
}
