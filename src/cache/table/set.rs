//! A set: one page of memory with its entries, and all that is needed to find and replace them.
//!
//! ```text
//!  words   0..7    28 tags of 16 bits, 0: free              ┐ one cache line: all that a miss reads
//!          7       lock:1 | refreshed:28 | … | visited:28   ┘
//!          8..36   28 slot words
//!          36..40  queue: ways from the oldest to the newest, hand, length; only under the lock
//!          40..512 118 granules of 32 bytes: the entries
//! ```
//!
//! Readers take no lock; `slot` says how. Writers have the lock of the set, which is held for less
//! than a microsecond. Entries are evicted by SIEVE: a hand goes from old ones to new ones, passes
//! those that were visited since it last came, and takes the first one that was not. A name that is
//! asked once is soon met by the hand; one that is asked often stays.

use super::Meta;
use super::entry::{Content, Entry, HEADER_WORDS, Wanted};
use super::parts::{Broken, Family, Removed};
use super::slot::{self, Kind, Read, Slot};
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a set: 4 KiB, a page, so that a look-up needs one translation of addresses.
pub(super) const SET_WORDS: usize = 512;
/// Entries of a set. Their tags and the word of the lock fill a cache line.
pub(super) const WAYS: usize = 28;
/// Words of a granule.
pub(super) const GRANULE_WORDS: usize = 4;
/// Granules that entries can take.
pub(super) const GRANULES: usize = (SET_WORDS - DATA) / GRANULE_WORDS;
/// The largest entry: three of them fill a set. An answer of 1,232 bytes is about that large.
pub(super) const ENTRY_GRANULES: usize = GRANULES / 3;

/// Bytes of a part besides its piece of the value.
const ENTRY_OVERHEAD: usize = (HEADER_WORDS + 1) * 8;
const STATE: usize = 7;
const SLOTS: usize = 8;
const QUEUE: usize = SLOTS + WAYS;
const DATA: usize = 40;
/// Words of a cache line.
const LINE_WORDS: usize = 8;
/// Lines of an entry that are prefetched. What follows is read in order, which the processor sees.
const PREFETCHED_LINES: usize = 4;

const LOCK: u64 = 1 << 63;
/// Where the bits begin that say which entries are being refreshed.
const REFRESHED: usize = 32;
/// How often a reader tries again that meets writers. A writer takes some 100 ns; one that the
/// scheduler has stopped meanwhile makes a miss, never a hang.
const READS_MAX: usize = 32;
/// How often a writer looks whether the lock is free. The holder may be stopped by the scheduler;
/// an answer that is not stored costs less than a thread that waits.
const LOCK_TRIES: usize = 64;

/// One set.
#[derive(Clone, Copy)]
pub(super) struct Set<'t>(pub(super) &'t [AtomicU64; SET_WORDS]);

/// What a reader found.
pub(super) struct Found {
    pub(super) length: usize,
    pub(super) meta: Meta,
    pub(super) family: Option<Family>,
}

/// Ways of a set.
#[derive(Clone, Copy)]
struct Ways(u64);

impl Iterator for Ways {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        // Bit 15 of each lane, moved down by the number of its word.
        Some((15 - bit % 16) * 4 + bit / 16)
    }
}

impl<'t> Set<'t> {
    /// Returns the ways that may have a tag: all of those that do, seldom another one.
    #[inline]
    fn ways_of(self, tag: u16) -> Ways {
        const ONES: u64 = 0x0001_0001_0001_0001;
        const HIGH: u64 = ONES << 15;
        let wanted = u64::from(tag) * ONES;
        let mut ways = 0;
        for (index, word) in self.0[..STATE].iter().enumerate() {
            let lanes = word.load(Ordering::Relaxed) ^ wanted;
            ways |= (lanes.wrapping_sub(ONES) & !lanes & HIGH) >> index;
        }
        Ways(ways)
    }

    /// Returns whether an entry may have a tag, without the lock.
    pub(super) fn may_have(self, tag: u16) -> bool {
        self.ways_of(tag).next().is_some()
    }

    #[inline]
    fn slot(self, way: usize) -> &'t AtomicU64 {
        &self.0[SLOTS + way % WAYS]
    }

    /// Returns the words of an entry.
    #[inline]
    fn words(self, slot: Slot) -> &'t [AtomicU64] {
        let start = slot.start() * GRANULE_WORDS;
        self.0.get(start..start + slot.size() * GRANULE_WORDS).unwrap_or_default()
    }

    /// Reads the lines that a look-up reads first; returns something, so that it is not left out.
    #[inline]
    pub(super) fn touch(self) -> u64 {
        let word = |line: usize| self.0[line * LINE_WORDS].load(Ordering::Relaxed);
        word(0) ^ word(1) ^ word(2) ^ word(3) ^ word(4)
    }

    /// Reads the lines of the entry that a look-up will find.
    #[inline]
    pub(super) fn touch_entry(self, tag: u16) -> u64 {
        let Some(way) = self.ways_of(tag).next() else { return 0 };
        let words = self.words(slot::peek(self.slot(way)));
        let lines = words.iter().step_by(LINE_WORDS).take(PREFETCHED_LINES);
        lines.fold(0, |read, word| read ^ word.load(Ordering::Relaxed))
    }

    /// Finds an entry and copies its value.
    #[inline]
    pub(super) fn get(self, tag: u16, wanted: Wanted, now: u32, out: &mut [u8]) -> Option<Found> {
        for _ in 0..READS_MAX {
            let mut torn = false;
            for way in self.ways_of(tag) {
                match slot::read(self.slot(way), |slot| self.copy(slot, wanted, out)) {
                    Read::Whole(Some(found)) => {
                        if found.meta.gone <= now {
                            return None;
                        }
                        self.mark_visited(way);
                        return Some(found);
                    }
                    Read::Whole(None) => {}
                    Read::Torn => torn = true,
                }
            }
            // A tag whose slot changes may be a copy that has just moved to another way.
            if !torn {
                return None;
            }
            std::hint::spin_loop();
        }
        None
    }

    #[inline]
    fn copy(self, slot: Slot, wanted: Wanted, out: &mut [u8]) -> Option<Found> {
        let (entry, kind) = (Entry::of(self.words(slot))?, slot.kind());
        if !entry.is(wanted, kind) {
            return None;
        }
        let length = entry.copy_value(kind, out)?;
        let family = matches!(kind, Kind::Head).then(|| entry.family());
        Some(Found { length, meta: entry.meta(), family })
    }

    #[inline]
    fn mark_visited(self, way: usize) {
        let state = &self.0[STATE];
        if state.load(Ordering::Relaxed) >> way & 1 == 0 {
            state.fetch_or(1 << way, Ordering::Relaxed);
        }
    }

    /// Takes the lock if it becomes free soon.
    pub(super) fn try_lock(self) -> Option<Locked<'t>> {
        (0..LOCK_TRIES).find_map(|_| {
            let locked = self.try_lock_once();
            if locked.is_none() {
                std::hint::spin_loop();
            }
            locked
        })
    }

    /// Takes the lock if it is free.
    pub(super) fn try_lock_once(self) -> Option<Locked<'t>> {
        let state = &self.0[STATE];
        let free = state.load(Ordering::Relaxed) & LOCK == 0;
        (free && state.fetch_or(LOCK, Ordering::Acquire) & LOCK == 0)
            .then(|| Locked { set: self, queue: Queue::load(self) })
    }

    /// Takes the lock, for threads that may wait.
    pub(super) fn lock(self) -> Locked<'t> {
        loop {
            if let Some(locked) = self.try_lock() {
                return locked;
            }
        }
    }

    /// Returns what is in a way, for who has the lock or a copy.
    pub(super) fn entry(self, way: usize) -> Option<(Kind, Entry<'t>)> {
        let slot = slot::peek(self.slot(way));
        Some((slot.kind(), Entry::of(self.words(slot))?))
    }

    /// Returns what is in some ways, likewise.
    pub(super) fn entries(self, ways: u32) -> impl Iterator<Item = (usize, Kind, Entry<'t>)> {
        let ways = (0..WAYS).filter(move |way| ways >> way & 1 != 0);
        ways.filter_map(move |way| self.entry(way).map(|(kind, entry)| (way, kind, entry)))
    }

    /// Returns whether an entry of `bytes` and a short key finds room, without the lock.
    pub(super) fn has_room(self, bytes: usize) -> bool {
        let (ways, granules) = self.usage();
        ways < WAYS && granules + (bytes + ENTRY_OVERHEAD).div_ceil(GRANULE_WORDS * 8) <= GRANULES
    }

    /// Returns how many entries it has, and how many granules they take, without the lock.
    pub(super) fn usage(self) -> (usize, usize) {
        let sizes = (0..WAYS).map(|way| slot::peek(self.slot(way)).size());
        sizes.fold((0, 0), |(ways, sum), size| (ways + usize::from(size > 0), sum + size))
    }
}

/// The ways in use, from the oldest entry to the newest.
#[derive(Clone, Copy)]
struct Queue {
    order: [u8; WAYS],
    hand: u8,
    length: u8,
}

impl Queue {
    fn load(set: Set) -> Self {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&set.0[QUEUE..DATA]) {
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
        let mut order = [0; WAYS];
        order.copy_from_slice(&bytes[..WAYS]);
        Self { order, hand: bytes[WAYS], length: bytes[WAYS + 1] }
    }

    fn store(&self, set: Set) {
        let mut bytes = [0; 32];
        bytes[..WAYS].copy_from_slice(&self.order);
        (bytes[WAYS], bytes[WAYS + 1]) = (self.hand, self.length);
        for (chunk, word) in bytes.as_chunks::<8>().0.iter().zip(&set.0[QUEUE..DATA]) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
    }

    fn ways(&self) -> &[u8] {
        &self.order[..usize::from(self.length)]
    }

    fn push(&mut self, way: usize) {
        self.order[usize::from(self.length)] = way as u8;
        self.length += 1;
    }

    fn remove(&mut self, at: usize) -> usize {
        let way = self.order[at];
        self.order.copy_within(at + 1..usize::from(self.length), at);
        self.length -= 1;
        self.hand -= u8::from(usize::from(self.hand) > at);
        usize::from(way)
    }
}

/// Where an entry is to be written.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    way: usize,
    start: usize,
}

/// A set under its lock.
pub(super) struct Locked<'t> {
    set: Set<'t>,
    queue: Queue,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.queue.store(self.set);
        self.set.0[STATE].fetch_and(!LOCK, Ordering::Release);
    }
}

impl<'t> Locked<'t> {
    /// Returns how many entries it has, parts included.
    pub(super) fn len(&self) -> usize {
        usize::from(self.queue.length)
    }

    /// Copies the whole set, so that its entries can be looked at without the lock.
    pub(super) fn copy_to(&self, words: &[AtomicU64; SET_WORDS]) {
        // The queue stands in the set only when the lock is not held.
        for (to, from) in words.iter().zip(self.set.0) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Returns the ways in use.
    pub(super) fn ways(&self) -> u32 {
        self.queue.ways().iter().fold(0, |ways, way| ways | 1 << way)
    }

    /// Finds an entry.
    pub(super) fn find(&self, tag: u16, wanted: Wanted) -> Option<usize> {
        self.set.ways_of(tag).find(|&way| self.entry(way).is_some_and(|(kind, entry)| entry.is(wanted, kind)))
    }

    /// Notes whether an entry is being refreshed; returns false if that was noted before.
    pub(super) fn mark_refreshed(&self, way: usize, is: bool) -> bool {
        let (state, bit) = (&self.set.0[STATE], 1 << (REFRESHED + way));
        let before = if is {
            state.fetch_or(bit, Ordering::Relaxed)
        } else {
            state.fetch_and(!bit, Ordering::Relaxed)
        };
        (before & bit != 0) != is
    }

    /// Removes the head of a family; returns whether it was there.
    pub(super) fn remove_head(&mut self, tag: u16, family: Family) -> bool {
        let is_head =
            |(kind, entry): (Kind, Entry)| matches!(kind, Kind::Head) && entry.family().stamp == family.stamp;
        let head = self.set.ways_of(tag).find(|&way| self.entry(way).is_some_and(is_head));
        head.inspect(|&way| self.remove(way)).is_some()
    }

    /// Returns what is in a way.
    pub(super) fn entry(&self, way: usize) -> Option<(Kind, Entry<'t>)> {
        self.set.entry(way)
    }

    /// Writes a new entry where room has been made.
    pub(super) fn write(&mut self, spot: Spot, tag: u16, content: &Content, now: u32) {
        self.write_at(spot, content, now);
        self.set_tag(spot.way, tag);
        self.queue.push(spot.way);
        self.check();
    }

    /// Writes an entry in the place of another one of the same key, which keeps its place in the
    /// queue and that it was visited.
    pub(super) fn replace(
        &mut self,
        old: usize,
        tag: u16,
        content: &Content,
        now: u32,
        removed: &mut Removed,
    ) {
        let size = content.words().div_ceil(GRANULE_WORDS);
        let old_slot = slot::peek(self.set.slot(old));
        self.note_family(old, removed);
        let visited = self.set.0[STATE].load(Ordering::Relaxed) >> old & 1 != 0;
        if let Some(spot) = self.free_spot(size) {
            // The new one can be seen before the old one goes: nobody misses it meanwhile.
            self.write_at(spot, content, now);
            self.set_tag(spot.way, tag);
            if visited {
                self.set.mark_visited(spot.way);
            }
            let at = self.queue.ways().iter().position(|&way| usize::from(way) == old);
            if let Some(at) = at {
                self.queue.order[at] = spot.way as u8;
            }
            self.clear(old);
        } else if old_slot.size() >= size {
            // Readers wait for the moment that the copy takes.
            slot::hide(self.set.slot(old));
            self.set.0[STATE].fetch_and(!(1 << (REFRESHED + old)), Ordering::Relaxed);
            self.write_at(Spot { way: old, start: old_slot.start() }, content, now);
        } else {
            self.remove(old);
            let spot = self.make_room(size, now, removed);
            self.write(spot, tag, content, now);
            if visited {
                self.set.mark_visited(spot.way);
            }
        }
        self.check();
    }

    fn write_at(&self, spot: Spot, content: &Content, now: u32) {
        let size = content.words().div_ceil(GRANULE_WORDS);
        let slot = Slot::new(spot.start, size, content.kind(), slot::Gone::of(content.meta.gone, now));
        slot::before_payload::<AtomicU64>();
        content.store(self.set.words(slot));
        slot::publish(self.set.slot(spot.way), slot);
    }

    /// Makes room for an entry, at the cost of others if it must.
    pub(super) fn make_room(&mut self, size: usize, now: u32, removed: &mut Removed) -> Spot {
        debug_assert!(size <= GRANULES);
        loop {
            if let Some(spot) = self.free_spot(size) {
                return spot;
            }
            let free = (!self.used()).count_ones() as usize;
            if self.len() < WAYS && free >= size {
                self.compact();
            } else {
                self.evict(now, removed);
            }
        }
    }

    /// Evicts one entry: one whose time is over, else the one that SIEVE takes.
    pub(super) fn evict(&mut self, now: u32, removed: &mut Removed) {
        if let Some(at) = self.gone_entry(now).or_else(|| self.sieve(usize::MAX)) {
            self.remove_at(at, now, removed);
        }
    }

    /// Evicts one entry if the hand finds one before it is through with this set.
    pub(super) fn evict_before_end(&mut self, now: u32, removed: &mut Removed) -> bool {
        let found = self.gone_entry(now).or_else(|| self.sieve(self.len()));
        if let Some(at) = found {
            self.remove_at(at, now, removed);
        }
        found.is_some()
    }

    fn gone_entry(&self, now: u32) -> Option<usize> {
        self.queue
            .ways()
            .iter()
            .position(|&way| slot::peek(self.set.slot(usize::from(way))).gone().has_come(now))
    }

    /// Moves the hand to the next entry that was not visited, at most to place `end`.
    fn sieve(&mut self, end: usize) -> Option<usize> {
        let length = self.len();
        if length == 0 {
            return None;
        }
        let visited = self.set.0[STATE].load(Ordering::Relaxed);
        let (mut passed, mut at) = (0, usize::from(self.queue.hand));
        let found = loop {
            if at >= end {
                break None;
            }
            at = if at >= length { 0 } else { at };
            let bit = 1 << self.queue.order[at];
            if visited & !passed & bit == 0 {
                break Some(at);
            }
            passed |= bit;
            at += 1;
        };
        if passed != 0 {
            self.set.0[STATE].fetch_and(!passed, Ordering::Relaxed);
        }
        self.queue.hand = found.unwrap_or(0) as u8;
        found
    }

    fn remove_at(&mut self, at: usize, now: u32, removed: &mut Removed) {
        let way = usize::from(self.queue.order[at]);
        let slot = slot::peek(self.set.slot(way));
        self.note_family(way, removed);
        if !matches!(slot.kind(), Kind::Part) {
            let gone = slot.gone().has_come(now);
            removed.gone += usize::from(gone);
            removed.alive += usize::from(!gone);
        }
        self.queue.remove(at);
        self.clear(way);
    }

    /// Notes the family of an entry that goes.
    pub(super) fn note_family(&self, way: usize, removed: &mut Removed) {
        let slot = slot::peek(self.set.slot(way));
        // Most entries have none, and need not be read for that.
        if matches!(slot.kind(), Kind::Whole) {
            return;
        }
        let Some(entry) = Entry::of(self.set.words(slot)) else { return };
        let is_head = matches!(slot.kind(), Kind::Head);
        removed.add_broken(match is_head {
            true => Broken { family: entry.family(), head: None },
            false => Broken { family: entry.part_family(), head: Some(entry.part_head()) },
        });
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, way: usize) {
        if let Some(at) = self.queue.ways().iter().position(|&w| usize::from(w) == way) {
            self.queue.remove(at);
            self.clear(way);
        }
    }

    fn clear(&self, way: usize) {
        slot::hide(self.set.slot(way));
        self.set_tag(way, 0);
        let (state, bits) = (&self.set.0[STATE], 1 << way | 1 << (REFRESHED + way));
        if state.load(Ordering::Relaxed) & bits != 0 {
            state.fetch_and(!bits, Ordering::Relaxed);
        }
    }

    fn set_tag(&self, way: usize, tag: u16) {
        let (word, shift) = (&self.set.0[way / 4 % STATE], way % 4 * 16);
        let others = word.load(Ordering::Relaxed) & !(0xffff << shift);
        word.store(others | u64::from(tag) << shift, Ordering::Release);
    }

    /// Returns a map of the granules in use.
    fn used(&self) -> u128 {
        let ways = self.queue.ways().iter().map(|&way| slot::peek(self.set.slot(usize::from(way))));
        ways.fold((1 << (DATA / GRANULE_WORDS)) - 1, |used, slot| {
            used | ((1 << slot.size()) - 1) << slot.start()
        })
    }

    fn free_spot(&self, size: usize) -> Option<Spot> {
        let way = (!self.ways()).trailing_zeros() as usize;
        let start = first_run(!self.used(), size)?;
        (way < WAYS).then_some(Spot { way, start })
    }

    /// Moves all entries together. Readers of one that moves see its slot change.
    #[cold]
    fn compact(&self) {
        let mut ways = self.queue.order;
        let ways = &mut ways[..usize::from(self.queue.length)];
        ways.sort_unstable_by_key(|&way| slot::peek(self.set.slot(usize::from(way))).start());
        let mut start = DATA / GRANULE_WORDS;
        for cell in ways.iter().map(|&way| self.set.slot(usize::from(way))) {
            let old = slot::peek(cell);
            if old.start() != start {
                let new = old.moved(start);
                slot::hide(cell);
                slot::before_payload::<AtomicU64>();
                for (to, from) in self.set.words(new).iter().zip(self.set.words(old)) {
                    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                slot::publish(cell, new);
            }
            start += old.size();
        }
    }

    /// What must hold between changes.
    fn check(&self) {
        if cfg!(debug_assertions) {
            let ways = self.queue.ways();
            let used: u32 =
                ways.iter().map(|&way| slot::peek(self.set.slot(usize::from(way))).size() as u32).sum();
            debug_assert_eq!(
                used + (DATA / GRANULE_WORDS) as u32,
                self.used().count_ones(),
                "entries overlap"
            );
            let free_tags = (0..WAYS)
                .filter(|way| self.set.0[way / 4].load(Ordering::Relaxed) >> (way % 4 * 16) & 0xffff == 0);
            debug_assert_eq!(free_tags.count() + ways.len(), WAYS, "each way in use has a tag");
        }
    }
}

/// Returns where the first run of `length` ones begins.
const fn first_run(mut ones: u128, length: usize) -> Option<usize> {
    let mut seen = 1;
    while seen < length {
        let step = if seen < length - seen { seen } else { length - seen };
        ones &= ones >> step;
        seen += step;
    }
    if ones == 0 { None } else { Some(ones.trailing_zeros() as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found() {
        assert_eq!(first_run(0b1011_0111_0110, 1), Some(1));
        assert_eq!(first_run(0b1011_0111_0110, 2), Some(1));
        assert_eq!(first_run(0b1011_0111_0110, 3), Some(4));
        assert_eq!(first_run(0b1011_0111_0110, 4), None);
        assert_eq!(first_run(!0 << 11, 117), Some(11));
        assert_eq!(first_run(!0 << 11, 118), None);
    }

    #[test]
    fn ways_with_a_tag_are_found() {
        let words = [const { AtomicU64::new(0) }; SET_WORDS];
        let set = Set(&words);
        let locked = set.lock();
        for way in 0..WAYS {
            assert_eq!(
                set.ways_of(0).next().map(|w| w / 4),
                (way < WAYS).then_some(set.ways_of(0).next().unwrap_or(0) / 4)
            );
            locked.set_tag(way, 0x8000 + way as u16);
            assert!(set.ways_of(0x8000 + way as u16).any(|w| w == way));
            assert!(set.ways_of(0x1234).next().is_none());
        }
        assert!(set.ways_of(0).next().is_none(), "no way is free");
        locked.set_tag(13, 0x8003);
        let both: Vec<_> = set.ways_of(0x8003).collect();
        assert!(both.contains(&3) && both.contains(&13) && both.len() < 5, "{both:?}");
    }
}
