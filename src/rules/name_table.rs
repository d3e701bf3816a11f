//! Domain names in one allocation, with a hash table over them: the base of sets of names and of
//! the chain's name index.
//!
//! ```text
//!  arena: | 3 w w w 7 e x a m p l e 0 [number] | 7 e x a m p l e 0 [number] | ...
//!           ^ offset
//!  bucket: | tag 24 bits, offset + 1 40 bits | ... | 0 | 0 |     a cache line: eight slots
//! marks:  | 8 bits of each slot's hash, 0 when it is free | ...
//! ```
//!
//! A name is hashed label by label from its right end, so that one pass gives the hashes of all its
//! suffixes; only suffixes with a number of labels that occurs in the table are looked up. The
//! marks are small enough to stay in the cache: they alone rule out most names that are not in the
//! table, and a name that is in it costs two cache misses, its bucket and its bytes.
//! [`NameTable::prefetch`] overlaps the cache misses of a batch of names before they are looked up.
//!
//! The hash needs no secret: a client can only walk runs of full buckets that the table's own names
//! made, and half of all slots are free.

use crate::base::narrow;
use crate::base::narrow::{to_u8, to_u32};
use crate::wire::name;
use crate::wire::name::LEN_MAX;

/// Labels of the longest name, root not counted: 127 of one byte each.
const LABELS_MAX: usize = 127;
/// Bits of a slot that hold the offset of its name: 2^40 bytes are more than any machine has.
const OFFSET_BITS: u32 = 40;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// Slots of a bucket.
const SLOTS: usize = 8;
/// Bytes of a name's number.
const NUMBER_LEN: usize = 4;
/// A table of fewer bytes is not prefetched. Measured: at 4 MB (100,000 names), twice a core's
/// second-level cache, the pass costs as much as it saves.
const NEAR: usize = 4 << 20;
/// Suffixes that one pass of [`NameTable::prefetch`] reads: four of each name of a batch.
const PROBES: usize = 256;

/// Collects names, in any order, with duplicates.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    arena: Vec<u8>,
    count: usize,
    numbered: bool,
}

impl Builder {
    /// Creates an empty one; `numbered`: each name gets a number, from 0 on without gaps.
    pub(crate) const fn new(numbered: bool) -> Self {
        Self { arena: Vec::new(), count: 0, numbered }
    }

    /// Adds a name in wire format; returns false, and adds nothing, when it is not a complete
    /// uncompressed name.
    pub(crate) fn push(&mut self, wire: &[u8]) -> bool {
        if name::end_plain(wire, 0) != Some(wire.len()) {
            return false;
        }
        let start = self.arena.len();
        self.arena.extend_from_slice(wire);
        self.arena[start..].make_ascii_lowercase();
        if self.numbered {
            self.arena.extend_from_slice(&[0; NUMBER_LEN]);
        }
        self.count += 1;
        true
    }

    /// Builds the table.
    pub(crate) fn finish(self) -> NameTable {
        let extra = if self.numbered { NUMBER_LEN } else { 0 };
        let mut table = NameTable { arena: self.arena, extra, ..NameTable::default() };
        table.fill(self.count);
        // Many duplicates: the table is too large for the names that remain.
        if table.len < self.count / 2 {
            table.fill(table.len);
        }
        table.arena.shrink_to_fit();
        table
    }
}

/// A suffix that was found in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suffix {
    /// Its offset in the searched name.
    pub(crate) start: usize,
    /// Its number; 0 in a table without numbers.
    pub(crate) number: u32,
}

/// A cache line of slots, filled from the first one on. A slot holds the name's offset plus one, so
/// that a free one is 0.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Bucket([u64; SLOTS]);

/// Names and the table over them; immutable.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameTable {
    arena: Vec<u8>,
    buckets: Box<[Bucket]>,
    /// One byte for each slot of each bucket, the first slot's lowest.
    marks: Box<[u64]>,
    /// Bit n: some name has n labels.
    depths: u128,
    /// Bytes stored behind each name.
    extra: usize,
    len: usize,
}

impl NameTable {
    /// Returns the number of names.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes that it has allocated.
    pub(crate) const fn bytes(&self) -> usize {
        self.arena.capacity() + size_of_val(&*self.buckets) + size_of_val(&*self.marks)
    }

    /// Returns the names, in the order they were given, in lower case.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let end = name::end_plain(&self.arena, at)?;
            let name = &self.arena[at..end];
            at = end + self.extra;
            Some(name)
        })
    }

    /// Returns the number of exactly this name.
    pub(crate) fn find(&self, wire: &[u8]) -> Option<u32> {
        let labels = Labels::of(wire)?;
        if self.depths & 1 << labels.count == 0 {
            return None;
        }
        let mut hash = ROOT;
        for start in labels.starts().rev() {
            hash = add_label(hash, wire, start);
        }
        self.probe(hash, wire).map(|offset| self.number(offset))
    }

    /// Returns the longest name of the table that `wire` is equal to or below.
    pub(crate) fn longest(&self, wire: &[u8]) -> Option<Suffix> {
        let mut found = None;
        self.suffixes(wire, |hash, start| {
            found = self.probe(hash, &wire[start..]).map(|offset| (start, offset)).or(found);
        });
        found.map(|(start, offset)| Suffix { start, number: self.number(offset) })
    }

    /// Reads what the searches for these names, and for the longest suffix of each, will read. Each
    /// step is a series of loads that do not wait for each other, so that a batch waits about as
    /// long as one name would. It changes only the time of the searches; names that it leaves out
    /// (very many suffixes, full buckets) are found all the same.
    pub(crate) fn prefetch<'n>(&self, names: impl IntoIterator<Item = &'n [u8]>) {
        if self.needs_prefetch() {
            self.touch(names);
        }
    }

    /// Returns whether it is so large that a search waits for memory.
    pub(crate) const fn needs_prefetch(&self) -> bool {
        self.bytes() >= NEAR
    }

    /// Reads without checking the size of the table.
    pub(crate) fn touch<'n>(&self, names: impl IntoIterator<Item = &'n [u8]>) {
        let mut hashes = [0; PROBES];
        let mut count = 0;
        for name in names {
            self.suffixes(name, |hash, _| {
                if count == PROBES {
                    self.read(&hashes);
                    count = 0;
                }
                hashes[count] = hash;
                count += 1;
            });
        }
        self.read(&hashes[..count]);
    }

    /// Reads the marks, the slots and the names of these hashes.
    fn read(&self, hashes: &[u64]) {
        let mut slots = [(0, 0, 0); PROBES];
        let mut matching = 0;
        for hash in hashes {
            let at = self.place(*hash);
            let same = self.marks.get(at).map_or(0, |marks| same(*marks, *hash));
            slots[matching] = (at, same.trailing_zeros() as usize / 8 % SLOTS, tag(*hash));
            matching += usize::from(same != 0);
        }
        let mut offsets = [0; PROBES];
        let mut found = 0;
        for (at, slot, tag) in &slots[..matching] {
            let slot = self.buckets[*at].0[*slot];
            offsets[found] = (slot & OFFSET_MASK) as usize;
            found += usize::from(slot >> OFFSET_BITS == *tag);
        }
        // A name rarely reaches beyond its second cache line.
        let bytes = |offset: &usize| {
            let byte = |at| self.arena.get(at).copied().map_or(0, usize::from);
            byte(offset.wrapping_sub(1)) + byte(*offset + 31)
        };
        std::hint::black_box(offsets[..found].iter().map(bytes).sum::<usize>());
    }

    /// Calls `each` with the hash of each suffix of a name that has as many labels as some name of
    /// the table, from the shortest on, and its offset. Not called for what is not a complete
    /// uncompressed name.
    fn suffixes(&self, wire: &[u8], mut each: impl FnMut(u64, usize)) {
        let Some(labels) = Labels::of(wire) else { return };
        let mut wanted = self.depths;
        let mut hash = ROOT;
        if wanted & 1 != 0 {
            each(hash, wire.len() - 1);
        }
        for start in labels.starts().rev() {
            wanted >>= 1;
            if wanted == 0 {
                break;
            }
            hash = add_label(hash, wire, start);
            if wanted & 1 != 0 {
                each(hash, start);
            }
        }
    }

    /// Returns the offset of the name with this hash.
    fn probe(&self, hash: u64, wire: &[u8]) -> Option<usize> {
        let mut at = self.place(hash);
        loop {
            let marks = *self.marks.get(at)?;
            let mut same = same(marks, hash);
            while same != 0 {
                let slot = self.buckets.get(at)?.0[same.trailing_zeros() as usize / 8];
                if slot >> OFFSET_BITS == tag(hash) {
                    let offset = (slot & OFFSET_MASK) as usize - 1;
                    // Equal bytes mean equal names: a wire name contains its own end.
                    let name = self.arena.get(offset..offset + wire.len());
                    if name.is_some_and(|small| is_name(small, wire)) {
                        return Some(offset);
                    }
                }
                same &= same - 1;
            }
            if marks >> (8 * (SLOTS - 1)) == 0 {
                return None;
            }
            at = self.behind(at);
        }
    }

    fn number(&self, offset: usize) -> u32 {
        if self.extra == 0 {
            return 0;
        }
        name::end_plain(&self.arena, offset)
            .and_then(|end| self.arena.get(end..)?.first_chunk())
            .map_or(0, |number| u32::from_le_bytes(*number))
    }

    /// Returns the bucket at which the search for a hash begins.
    const fn place(&self, hash: u64) -> usize {
        narrow::place(hash, self.buckets.len())
    }

    /// Returns the bucket after a full one.
    const fn behind(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }

    /// Builds the table for at most `count` names of the arena, and removes duplicates from it.
    fn fill(&mut self, count: usize) {
        // Half of the slots stay free: few buckets are full, and at least one is not.
        self.buckets = vec![Bucket::default(); 2 * count / SLOTS + 1].into();
        self.marks = vec![0; self.buckets.len()].into();
        (self.depths, self.len) = (0, 0);
        let (mut from, mut to) = (0, 0);
        while let Some(end) = name::end_plain(&self.arena, from) {
            let length = end - from;
            self.arena.copy_within(from..end, to);
            from = end + self.extra;
            let mut wire = [0; LEN_MAX];
            wire[..length].copy_from_slice(&self.arena[to..to + length]);
            if self.insert(&wire[..length], to) {
                if self.extra > 0 {
                    let number = to_u32(self.len - 1);
                    self.arena[to + length..to + length + self.extra].copy_from_slice(&number.to_le_bytes());
                }
                to += length + self.extra;
            }
        }
        self.arena.truncate(to);
    }

    /// Inserts the name at `offset` into the table, unless it is there already.
    fn insert(&mut self, wire: &[u8], offset: usize) -> bool {
        let Some(labels) = Labels::of(wire) else { return false };
        let hash = labels.starts().rev().fold(ROOT, |hash, start| add_label(hash, wire, start));
        if self.probe(hash, wire).is_some() {
            return false;
        }
        let mut at = self.place(hash);
        let free = loop {
            if let Some(free) = self.buckets[at].0.iter().position(|slot| *slot == 0) {
                break free;
            }
            at = self.behind(at);
        };
        self.buckets[at].0[free] = tag(hash) << OFFSET_BITS | (offset as u64 + 1);
        self.marks[at] |= mark(hash) << (8 * free);
        self.depths |= 1 << labels.count;
        self.len += 1;
        true
    }
}

/// Offsets of the labels of a name, root not counted.
struct Labels {
    starts: [u8; LABELS_MAX],
    count: usize,
}

impl Labels {
    /// Returns none when it is not a complete uncompressed name.
    fn of(wire: &[u8]) -> Option<Self> {
        let mut labels = Self { starts: [0; LABELS_MAX], count: 0 };
        let mut at = 0;
        if wire.len() > LEN_MAX {
            return None;
        }
        loop {
            let length = *wire.get(at)?;
            match length {
                0 => return (at + 1 == wire.len()).then_some(labels),
                1..=63 => {}
                64.. => return None,
            }
            *labels.starts.get_mut(labels.count)? = to_u8(at);
            labels.count += 1;
            at += 1 + usize::from(length);
        }
    }

    fn starts(&self) -> impl DoubleEndedIterator<Item = usize> {
        self.starts[..self.count].iter().map(|s| usize::from(*s))
    }
}

/// Returns bytes `from..to` of a name, between one and eight, as a number. One load: a loop over
/// varying lengths, which no branch predictor can learn, would cost more than the rest of a search.
fn word(wire: &[u8], from: usize, to: usize) -> u64 {
    let mask = u64::MAX >> (64 - 8 * (to - from));
    // The eight bytes that end there, or the first eight of the name.
    let at = to.saturating_sub(8);
    if let Some(chunk) = wire.get(at..).and_then(<[u8]>::first_chunk) {
        return u64::from_le_bytes(*chunk) >> (8 * (from - at)) & mask;
    }
    // A name of fewer than eight bytes.
    wire[from..to].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Returns whether a name in lower case and one of the same length in any case are equal.
fn is_name(small: &[u8], wire: &[u8]) -> bool {
    (0..wire.len()).step_by(8).all(|from| {
        let to = wire.len().min(from + 8);
        word(small, from, to) == name::fold(word(wire, from, to))
    })
}

/// The hash of the root, and two odd numbers of random bits (digits of pi) for mixing.
const ROOT: u64 = 0x2436_a885_a308_d313;
const MIX: [u64; 2] = [0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

/// Returns the hash of a name with one more label in front, which begins at `start` with its length
/// byte; letter case is ignored.
fn add_label(mut hash: u64, wire: &[u8], start: usize) -> u64 {
    let end = start + 1 + usize::from(wire[start]);
    let mut from = start;
    while from < end {
        let to = end.min(from + 8);
        hash = mix(hash, word(wire, from, to));
        from = to;
    }
    hash
}

/// The lower half of a product.
const LOW: u128 = 0xffff_ffff_ffff_ffff;

/// Folded 128-bit multiplication: each bit of the input affects all of the output.
const fn mix(hash: u64, bytes: u64) -> u64 {
    let product = (hash ^ MIX[0]) as u128 * (name::fold(bytes) ^ MIX[1]) as u128;
    (product & LOW) as u64 ^ (product >> 64) as u64
}

/// Returns the bits of a hash that a slot keeps: bits that its bucket hardly depends on. Never
/// equal to a free slot.
const fn tag(hash: u64) -> u64 {
    hash & 0x00ff_ffff | 1
}

/// 1 in each byte.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Returns a slot's mark: other bits of the hash, and never 0.
const fn mark(hash: u64) -> u64 {
    hash >> 24 & 0xff | 0x80
}

/// Returns the top bit of each of a bucket's marks that equals the hash's; rarely also that of the
/// next higher one.
const fn same(marks: u64, hash: u64) -> u64 {
    let other = marks ^ (EACH * mark(hash));
    other.wrapping_sub(EACH) & !other & (0x80 * EACH)
}
