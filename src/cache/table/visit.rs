//! All entries of a table, one set after the other.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::parts::Removed;
use super::set::{SET_WORDS, Set, WAYS};
use super::slot::Kind;
use super::{ENTRY_BYTES, KEY_MAX, Meta, Table};

impl Table {
    /// Returns the first set from here on that has had an entry.
    pub fn next_used(&self, from: usize) -> Option<usize> {
        let mut at = from;
        while at < self.sets {
            let word = self.used.get(at / 64).map_or(0, |word| word.load(Ordering::Relaxed)) >> (at % 64);
            if word != 0 {
                return Some(at + word.trailing_zeros() as usize).filter(|set| *set < self.sets);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// Shows `keep` the entries of some sets, and removes those that it does not want to keep; returns
    /// how many. Each set is copied under its lock, so entries are seen once, and `keep` may take its
    /// time. What others replace meanwhile stays.
    pub fn visit(&self, sets: Range<usize>, mut keep: impl FnMut(&[u8], &[u8], Meta) -> bool) -> usize {
        let words = [const { AtomicU64::new(0) }; SET_WORDS];
        let copied = Set(&words);
        let (mut key, mut value) = ([0; KEY_MAX], vec![0; ENTRY_BYTES]);
        let mut count = 0;
        for index in sets.start..sets.end.min(self.sets) {
            if !self.is_used(index) {
                continue;
            }
            let Some(set) = self.set(index) else { break };
            let locked = set.lock();
            locked.copy_to(&words);
            let ways = locked.ways();
            drop(locked);
            let mut unwanted = 0u32;
            for (way, kind, entry) in copied.entries(ways) {
                let (Some(key), Some(length)) =
                    (entry.copy_key(&mut key), entry.copy_value(kind, &mut value))
                else {
                    continue;
                };
                let length = match kind {
                    Kind::Whole => Some(length),
                    Kind::Head if value.len() < self.largest => {
                        value.resize(self.largest, 0);
                        self.copy_parts(entry.family(), length, 0, &mut value)
                    }
                    Kind::Head => self.copy_parts(entry.family(), length, 0, &mut value),
                    Kind::Part => continue,
                };
                // A value that has lost a part is of no use.
                let keeps = length.is_some_and(|length| keep(key, &value[..length], entry.meta()));
                unwanted |= u32::from(!keeps) << way;
            }
            if unwanted != 0 {
                count += self.remove_unwanted(index, unwanted, copied);
            }
        }
        count
    }

    /// Removes entries that are still as they were copied.
    fn remove_unwanted(&self, index: usize, unwanted: u32, copied: Set) -> usize {
        let Some(mut locked) = self.set(index).map(Set::lock) else { return 0 };
        let mut removed = Removed::default();
        for way in (0..WAYS).filter(|way| unwanted >> way & 1 != 0) {
            let same = locked.entry(way).zip(copied.entry(way));
            if same.is_some_and(|((_, a), (_, b))| a.is_same(&b)) {
                locked.note_family(way, &mut removed);
                locked.remove(way);
                removed.gone += 1;
            }
        }
        drop(locked);
        let count = removed.gone;
        self.settle_quietly(index, removed);
        count
    }
}
