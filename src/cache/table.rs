//! The table of a packet cache: keys and values as bytes, in memory that all shards share.
//!
//! ```text
//!  hash ──► set (a page of 4 KiB) ──► tag ──► slot word ──► entry: key, times, value
//!
//!  ┌────────┬───────┬─────────────────────────────┐
//!  │ header │ queue │ entries in 32-byte granules │  × sets
//!  └────────┴───────┴─────────────────────────────┘
//! ```
//!
//! A look-up takes no lock and writes nothing to shared memory, except that an entry was visited
//! when that is not noted yet. A change locks one set, and gives up if it does not get the lock
//! soon. A full set evicts: see `set`. Large values are distributed: see `parts`.
//!
//! What it does not do: it knows no DNS, no clock and no randomness. Hashes are the caller's, with a
//! random key of the process; sets could be flooded otherwise.
//!
//! The memory is asked for at once and used as it is needed: it is zeroed by the kernel, page by
//! page, when a set gets its first entry.

mod entry;
mod parts;
mod set;
mod slot;
mod visit;

use entry::{Content, FAMILY_WORDS, HEADER_WORDS, Wanted};
use parts::{Family, Removed};
use set::{ENTRY_GRANULES, GRANULE_WORDS, GRANULES, Locked, SET_WORDS, Set, WAYS};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use zerocopy::FromZeros;

/// Bytes of a set.
const SET_BYTES: usize = SET_WORDS * 8;
/// Bytes of the largest entry.
const ENTRY_BYTES: usize = ENTRY_GRANULES * GRANULE_WORDS * 8;
/// The longest key: a name has 255 bytes.
pub(in crate::cache) const KEY_MAX: usize = 512;
/// The largest value, whatever is asked for: what all parts of a value can hold, and more than a
/// message has.
const LARGEST_MAX: usize = 128 << 10;
/// Sets of a table whose memory is not limited, so that the largest values find room in a small one.
const SETS_MIN: usize = 16;
/// Entries of a set from which on a table with too many of them evicts in the set of the new one.
/// The hand that goes over all sets meets new entries wherever they are, not after the old ones, and
/// so lets a flood of names do more harm: with 4 entries in a set, 0.84 of the hits were left where
/// the sets' own hands leave 0.95.
const OWN_SET_MIN: usize = 3;
/// Sets that are looked at for an entry to evict.
const SWEEP_MAX: usize = 64;
/// How many places for the parts of a value are looked at. If each part went to a full set, each
/// would cost another value all of its parts, and half of the memory would be empty.
const STAMPS: u64 = 16;
const PARTS_MAX: usize = u8::MAX as usize;
/// Counters that writers of different sets count in, so that they seldom share one.
const STRIPES: usize = 16;

/// What is known of an entry besides key and value; seconds of the process's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// When it was stored.
    pub stored: u32,
    /// The end of its freshness.
    pub expires: u32,
    /// The end of its use as a stale answer, when it may be removed.
    pub gone: u32,
    /// What the caller wants to know.
    pub extra: u32,
}

/// What became of an entry that was to be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// Its key was not there.
    New,
    /// It has taken the place of the one with its key.
    Replaced,
    /// Another thread was changing the same set.
    Busy,
    /// It is larger than the table's limit, or than the table.
    TooLarge,
    /// Its time is over already.
    Gone,
}

/// The table.
pub struct Table {
    words: Box<[AtomicU64]>,
    /// The first word of the first set, which begins a page.
    first: usize,
    sets: usize,
    /// Sets that have had an entry, one in each bit: the memory of the others is not there yet.
    used: Box<[AtomicU64]>,
    entries: usize,
    largest: usize,
    /// Entries with a key; while entries are inserted, up to one too many for each thread.
    length: AtomicUsize,
    /// The set from which entries are evicted where sets have few.
    sweep: AtomicUsize,
    stamps: AtomicU64,
    stripes: Box<[Stripe]>,
}

/// Counters, in a cache line of their own.
#[derive(Default)]
#[repr(align(64))]
struct Stripe {
    evicted: AtomicU64,
    reclaimed: AtomicU64,
}

/// Where an entry belongs.
#[derive(Clone, Copy)]
struct Place {
    set: usize,
    tag: u16,
    check: u32,
}

impl Table {
    /// Makes one for `entries`, with at most `bytes` of memory or as much as average answers need,
    /// for keys and values of together at most `largest` bytes.
    ///
    /// If the machine refuses so much memory, it has less; [`Self::memory`] says how much.
    pub fn new(entries: usize, bytes: Option<usize>, largest: usize) -> Self {
        let (entries, largest) = (entries.max(1), largest.min(LARGEST_MAX));
        let stripes: Box<[Stripe]> = (0..STRIPES).map(|_| Stripe::default()).collect();
        let overhead = size_of::<Self>() + size_of_val(&*stripes) + SET_BYTES;
        let enough = entries.saturating_mul(largest.div_ceil(ENTRY_BYTES) + 1).saturating_add(SETS_MIN);
        let mut sets = match bytes {
            Some(bytes) => (bytes.saturating_sub(overhead) / SET_BYTES).min(enough).max(1),
            None => (entries / average_per_set(entries)).max(SETS_MIN + largest / ENTRY_BYTES),
        };
        let words = loop {
            match <[AtomicU64]>::new_box_zeroed_with_elems((sets + 1) * SET_WORDS) {
                Ok(words) => break words,
                Err(_) if sets == 1 => break Box::default(),
                Err(_) => sets /= 2,
            }
        };
        let sets = if words.is_empty() { 0 } else { sets };
        let first = words.as_ptr().align_offset(SET_BYTES).min(SET_WORDS) % SET_WORDS;
        Self {
            words,
            first,
            sets,
            used: <[AtomicU64]>::new_box_zeroed_with_elems(sets.div_ceil(64)).unwrap_or_default(),
            entries,
            largest,
            length: AtomicUsize::new(0),
            sweep: AtomicUsize::new(0),
            stamps: AtomicU64::new(0),
            stripes,
        }
    }

    /// Reads what a look-up reads first: pass 1 of a batch.
    #[inline]
    pub fn prefetch_set(&self, hash: u64) {
        if let Some(set) = self.set(self.place(hash).set) {
            black_box(set.touch());
        }
    }

    /// Reads the entry that a look-up will find: pass 2 of a batch.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let place = self.place(hash);
        if let Some(set) = self.set(place.set) {
            black_box(set.touch_entry(place.tag));
        }
    }

    /// Copies the value of a key into `out`, and returns its length and what is known of it. One that
    /// has expired is found until it is gone; at second 0 nothing is. What does not fit into `out` is not found.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8], now: u32, out: &mut [u8]) -> Option<(usize, Meta)> {
        let place = self.place(hash);
        let wanted = Wanted { key, check: place.check, is_part: false };
        let found = self.set(place.set)?.get(place.tag, wanted, now, out)?;
        let length = match found.family {
            None => found.length,
            Some(family) => self.copy_parts(family, found.length, now, out)?,
        };
        Some((length, found.meta))
    }

    /// Copies what follows the head of a value.
    #[cold]
    fn copy_parts(&self, family: Family, mut length: usize, now: u32, out: &mut [u8]) -> Option<usize> {
        for index in 1..=family.parts {
            let place = self.place_of_part(family, index);
            let key = family.key_of(index).to_le_bytes();
            let wanted = Wanted { key: &key, check: place.check, is_part: true };
            length += self.set(place.set)?.get(place.tag, wanted, now, out.get_mut(length..)?)?.length;
        }
        (length == family.length as usize).then_some(length)
    }

    /// Inserts an entry, or replaces the one with its key.
    pub fn insert(&self, hash: u64, key: &[u8], value: &[u8], meta: Meta, now: u32) -> Insert {
        if key.len() > KEY_MAX || key.len() + value.len() > self.largest || self.sets == 0 {
            return Insert::TooLarge;
        }
        if meta.gone <= now {
            return Insert::Gone;
        }
        let place = self.place(hash);
        let wanted = Wanted { key, check: place.check, is_part: false };
        let content = Content { wanted, meta, family: None, value };
        if content.words() <= ENTRY_GRANULES * GRANULE_WORDS {
            self.put(place, &content, now)
        } else {
            self.insert_family(hash, &content, now)
        }
    }

    /// Inserts a value in pieces of about the same size.
    #[cold]
    fn insert_family(&self, hash: u64, content: &Content, now: u32) -> Insert {
        let room =
            ENTRY_BYTES - (HEADER_WORDS + FAMILY_WORDS) * 8 - content.wanted.key.len().next_multiple_of(8);
        let value = content.value;
        let pieces = value.len().div_ceil(room);
        let piece = value.len().div_ceil(pieces).next_multiple_of(8);
        let Ok(parts) = u8::try_from(value.len().div_ceil(piece) - 1) else { return Insert::TooLarge };
        if usize::from(parts) >= self.sets {
            return Insert::TooLarge;
        }
        let family = self.new_family(self.place(hash).set, parts, piece, value.len() as u32);
        // A part has its head's hash in the place of the first two times.
        let meta = Meta { stored: hash as u32, expires: (hash >> 32) as u32, extra: 0, ..content.meta };
        let mut pieces = value.chunks(piece);
        let head = pieces.next().unwrap_or_default();
        for (index, value) in (1..).zip(pieces) {
            let place = self.place_of_part(family, index);
            let key = family.key_of(index).to_le_bytes();
            let wanted = Wanted { key: &key, check: place.check, is_part: true };
            if self.put(place, &Content { wanted, meta, family: None, value }, now) == Insert::Busy {
                self.remove_parts(family);
                return Insert::Busy;
            }
        }
        let content =
            Content { wanted: content.wanted, meta: content.meta, family: Some(family), value: head };
        let outcome = self.put(self.place(hash), &content, now);
        if outcome == Insert::Busy {
            self.remove_parts(family);
        }
        outcome
    }

    /// Returns a family whose parts belong where there is room, and none in the set of its head,
    /// which might evict it.
    fn new_family(&self, head: usize, parts: u8, piece: usize, length: u32) -> Family {
        let stamp = self.stamps.fetch_add(STAMPS, Ordering::Relaxed);
        let crowded = |family: &Family| {
            let sets = (1..=family.parts).map(|index| self.place_of_part(*family, index).set);
            sets.map(|set| match self.set(set) {
                _ if set == head => PARTS_MAX,
                Some(set) => usize::from(!set.has_room(piece)),
                None => PARTS_MAX,
            })
            .sum::<usize>()
        };
        let families =
            (stamp..stamp + STAMPS).map(|stamp| Family { stamp: stamp & ((1 << 48) - 1), parts, length });
        let mut best = (usize::MAX, Family { stamp, parts, length });
        for family in families {
            let crowded = crowded(&family);
            if crowded < best.0 {
                best = (crowded, family);
            }
            if crowded == 0 {
                break;
            }
        }
        best.1
    }

    /// Inserts one entry.
    fn put(&self, place: Place, content: &Content, now: u32) -> Insert {
        let Some(set) = self.set(place.set) else { return Insert::TooLarge };
        // All lines of the header at once, before the lock lets through one after the other.
        black_box(set.touch());
        let Some(mut locked) = set.try_lock() else { return Insert::Busy };
        if locked.len() == 0 {
            self.mark_used(place.set);
        }
        let mut removed = Removed::default();
        let mut outcome = Insert::New;
        let mut taken = 0;
        if let Some(old) = locked.find(place.tag, content.wanted) {
            if locked.entry(old).is_some_and(|(_, old)| old.meta().gone > now) {
                outcome = Insert::Replaced;
            }
            locked.replace(old, place.tag, content, now, &mut removed);
        } else {
            let spot = locked.make_room(content.words().div_ceil(GRANULE_WORDS), now, &mut removed);
            if content.wanted.is_part {
                locked.write(spot, place.tag, content, now);
            } else if self.admit(place.set, &mut locked, now, &mut removed) {
                taken = usize::from(removed.keys() > 0);
                locked.write(spot, place.tag, content, now);
            } else {
                outcome = Insert::Busy;
            }
        }
        drop(locked);
        self.settle(place.set, removed, taken);
        outcome
    }

    /// Returns whether there may be one more entry. Whoever has removed one hands on its place; so a
    /// full table does not change what all threads share.
    fn admit(&self, set: usize, locked: &mut Locked, now: u32, removed: &mut Removed) -> bool {
        if removed.keys() > 0 {
            return true;
        }
        if self.length.fetch_add(1, Ordering::Relaxed) < self.entries {
            return true;
        }
        self.length.fetch_sub(1, Ordering::Relaxed);
        if locked.len() < OWN_SET_MIN {
            self.evict_anywhere(set, locked, now, removed);
        }
        while removed.keys() == 0 && locked.len() > 0 {
            locked.evict(now, removed);
            if removed.keys() == 0 {
                self.evict_head(set, locked, removed);
            }
        }
        removed.keys() > 0
    }

    /// Evicts an entry from the set whose turn it is: the hand goes from set to set.
    fn evict_anywhere(&self, own: usize, locked: &mut Locked, now: u32, removed: &mut Removed) {
        for _ in 0..SWEEP_MAX.min(2 * self.sets + 1) {
            let turn = self.sweep.load(Ordering::Relaxed);
            let at = turn % self.sets;
            let evicted = if at == own {
                locked.evict_before_end(now, removed)
            } else {
                let other = self.set(at).filter(|_| self.is_used(at)).and_then(Set::try_lock_once);
                other.is_some_and(|mut other| other.evict_before_end(now, removed))
            };
            if removed.keys() == 0 && evicted {
                self.evict_head(own, locked, removed);
            }
            if removed.keys() > 0 {
                return;
            }
            if !evicted {
                // If another thread has moved it on already, that does as well.
                let _ = self.sweep.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Evicts the head of a value that has just lost a part, if the lock of its set is free.
    #[cold]
    fn evict_head(&self, own: usize, locked: &mut Locked, removed: &mut Removed) {
        let Some((family, hash)) = removed.last_head() else { return };
        let place = self.place(hash);
        let found = if place.set == own {
            locked.remove_head(place.tag, family)
        } else {
            let other = self.set(place.set).and_then(Set::try_lock_once);
            other.is_some_and(|mut other| other.remove_head(place.tag, family))
        };
        if found {
            removed.alive += 1;
            removed.forget_head(family);
        }
    }

    /// Counts what a change has removed, `taken` of which others have taken the place of, and removes
    /// the rest of the families that have lost an entry.
    fn settle(&self, set: usize, mut removed: Removed, taken: usize) {
        let stripe = &self.stripes[set % STRIPES];
        let mut freed = removed.keys() - taken;
        let mut evicted = removed.alive;
        for broken in removed.take_broken() {
            self.remove_parts(broken.family);
            let Some(hash) = broken.head else { continue };
            let place = self.place(hash);
            let Some(mut locked) = self.set(place.set).and_then(Set::try_lock) else { continue };
            if locked.remove_head(place.tag, broken.family) {
                freed += 1;
                evicted += 1;
            }
        }
        if freed > 0 {
            self.length.fetch_sub(freed, Ordering::Relaxed);
        }
        if evicted > 0 {
            stripe.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
        }
        if removed.gone > 0 {
            stripe.reclaimed.fetch_add(removed.gone as u64, Ordering::Relaxed);
        }
    }

    /// Removes the parts of a value, as far as locks are free.
    #[cold]
    fn remove_parts(&self, family: Family) {
        for index in 1..=family.parts {
            let place = self.place_of_part(family, index);
            let key = family.key_of(index).to_le_bytes();
            let wanted = Wanted { key: &key, check: place.check, is_part: true };
            let Some(mut locked) = self.set(place.set).and_then(Set::try_lock) else { continue };
            if let Some(way) = locked.find(place.tag, wanted) {
                locked.remove(way);
            }
        }
    }

    /// Notes that the entry of a key is being refreshed, until another one takes its place. False if
    /// that was noted before, or there is none; none if another thread is changing its set.
    pub fn claim_refresh(&self, hash: u64, key: &[u8]) -> Option<bool> {
        let place = self.place(hash);
        let wanted = Wanted { key, check: place.check, is_part: false };
        let locked = self.set(place.set).and_then(Set::try_lock)?;
        Some(locked.find(place.tag, wanted).is_some_and(|way| locked.mark_refreshed(way, true)))
    }

    /// Notes that nobody refreshes the entry of a key.
    pub fn release_refresh(&self, hash: u64, key: &[u8]) {
        let place = self.place(hash);
        let wanted = Wanted { key, check: place.check, is_part: false };
        let Some(locked) = self.set(place.set).and_then(Set::try_lock) else { return };
        if let Some(way) = locked.find(place.tag, wanted) {
            locked.mark_refreshed(way, false);
        }
    }

    /// Removes the entry of a key, unless another thread is changing its set. Where there is none, no lock
    /// is taken.
    pub fn forget(&self, hash: u64, key: &[u8]) {
        let place = self.place(hash);
        let Some(set) = self.set(place.set).filter(|set| set.may_have(place.tag)) else { return };
        if let Some(locked) = set.try_lock() {
            self.remove_within(&place, locked, key);
        }
    }

    /// Removes the entry of a key; returns whether there was one.
    pub fn remove(&self, hash: u64, key: &[u8]) -> bool {
        let place = self.place(hash);
        self.set(place.set).is_some_and(|set| self.remove_within(&place, set.lock(), key))
    }

    /// Removes the entry of a key from its set; returns whether there was one.
    fn remove_within(&self, place: &Place, mut locked: Locked<'_>, key: &[u8]) -> bool {
        let wanted = Wanted { key, check: place.check, is_part: false };
        let Some(way) = locked.find(place.tag, wanted) else { return false };
        let mut removed = Removed::default();
        locked.note_family(way, &mut removed);
        locked.remove(way);
        drop(locked);
        removed.gone = 1;
        self.settle_quietly(place.set, removed);
        true
    }

    /// Like [`Self::settle`], for entries that were not evicted.
    fn settle_quietly(&self, set: usize, mut removed: Removed) {
        self.length.fetch_sub(removed.keys(), Ordering::Relaxed);
        (removed.alive, removed.gone) = (0, 0);
        self.settle(set, removed, 0);
    }

    /// Returns how many sets there are to be visited.
    pub const fn sets(&self) -> usize {
        self.sets
    }

    /// Returns how many entries it has.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Returns whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the most entries that it may have; values decide whether there is memory for them.
    pub const fn capacity(&self) -> usize {
        self.entries
    }

    /// Returns the bytes that it takes when it is full.
    pub fn memory(&self) -> usize {
        let (words, used, stripes) = (&*self.words, &*self.used, &*self.stripes);
        size_of::<Self>() + size_of_val(words) + size_of_val(used) + size_of_val(stripes)
    }

    /// Returns whether new entries take the place of others, by what some of the sets say.
    pub fn is_full(&self) -> bool {
        if self.len() >= self.entries || self.sets == 0 {
            return true;
        }
        let step = self.sets.div_ceil(SWEEP_MAX);
        let sets = (0..self.sets).step_by(step).filter_map(|index| self.set(index).map(Set::usage));
        let (ways, granules, sets) =
            sets.fold((0, 0, 0), |(w, g, sets), usage| (w + usage.0, g + usage.1, sets + 1));
        // The last third is what entries of different sizes leave between them.
        ways * 10 >= sets * WAYS * 9 || granules * 3 >= sets * GRANULES * 2
    }

    /// Returns how many entries were evicted before their time was over.
    pub fn evicted(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.evicted.load(Ordering::Relaxed)).sum()
    }

    /// Returns how many entries made room for others when their time was over.
    pub fn reclaimed(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.reclaimed.load(Ordering::Relaxed)).sum()
    }

    /// Notes that a set has had an entry.
    fn mark_used(&self, set: usize) {
        let (Some(word), bit) = (self.used.get(set / 64), 1 << (set % 64)) else { return };
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Returns whether a set has had an entry.
    fn is_used(&self, set: usize) -> bool {
        self.used.get(set / 64).is_none_or(|word| word.load(Ordering::Relaxed) >> (set % 64) & 1 != 0)
    }

    #[inline]
    fn set(&self, index: usize) -> Option<Set<'_>> {
        let (sets, _) = self.words.get(self.first..)?.as_chunks::<SET_WORDS>();
        sets.get(index).map(Set)
    }

    /// Returns where a key belongs. Set, tag and check use different bits of the hash.
    #[inline]
    fn place(&self, hash: u64) -> Place {
        let set = ((u128::from(hash) * self.sets as u128) >> 64) as usize;
        Place { set, tag: (hash as u16).max(1), check: (hash >> 8) as u32 }
    }

    /// Returns where a part belongs: in the sets after that of the stamp, so that no two parts of a
    /// value are in one set.
    fn place_of_part(&self, family: Family, index: u8) -> Place {
        let first = self.place(family.spread(0)).set;
        let place = self.place(family.spread(index));
        Place { set: (first + usize::from(index)) % self.sets, ..place }
    }
}

/// Returns how many entries a set has on average when all are there, if memory follows from their
/// number. An average answer takes 6 granules with its key, so a set has room for 19. Large tables
/// come close to that, at some sets that have too many; small ones have all their entries for sure.
const fn average_per_set(entries: usize) -> usize {
    match entries {
        0..=1_000 => 4,
        1_001..=10_000 => 8,
        10_001..=100_000 => 12,
        100_001..=1_000_000 => 16,
        _ => 18,
    }
}

#[cfg(test)]
mod tests;
