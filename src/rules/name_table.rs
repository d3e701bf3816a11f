//! Domain names in one piece of memory, with a hash table over them: what sets of names and the
//! chain's name index are made of.
//!
//! ```text
//!  arena: | 3 w w w 7 e x a m p l e 0 [number] | 7 e x a m p l e 0 [number] | ...
//!           ^ offset
//!  bucket: | tag 24 bits, offset + 1 40 bits | ... | 0 | 0 |     a cache line: eight slots
//! marks:  | 8 bits of each slot's hash, 0 when it is free | ...
//! ```
//!
//! A name is hashed label by label from its right end, so that one pass gives the hashes of all
//! its suffixes; only those are looked for that have as many labels as some name of the table.
//! The marks are small enough to stay near the processor: what is not in the table is mostly told
//! by them alone, and what is costs two lines of far memory, the bucket's and the name's.
//! The hash needs no secret: who asks can only walk runs of full buckets that the table's own
//! names made, and half of all slots are free.

use crate::wire::name;
use crate::wire::name::LEN_MAX;

/// Labels of the longest name, root not counted: 127 of one byte each.
const LABELS_MAX: usize = 127;
/// Bits of a slot that say where its name begins: 2^40 bytes are more than any machine has.
const OFFSET_BITS: u32 = 40;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// Slots of a bucket.
const SLOTS: usize = 8;
/// Bytes of a name's number.
const NUMBER_LEN: usize = 4;

/// Names under collection: any order, duplicates welcome.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    arena: Vec<u8>,
    count: usize,
    numbered: bool,
}

impl Builder {
    /// An empty one; `numbered`: each name gets a number, from 0 on without gaps.
    pub(crate) const fn new(numbered: bool) -> Self {
        Self { arena: Vec::new(), count: 0, numbered }
    }

    /// Adds a name in wire format; false, and nothing added, when it is no whole plain name.
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

    /// The table.
    pub(crate) fn finish(self) -> NameTable {
        let extra = if self.numbered { NUMBER_LEN } else { 0 };
        let mut table = NameTable { arena: self.arena, extra, ..NameTable::default() };
        table.fill(self.count);
        // Many duplicates: the table was made for names that are not there.
        if table.len < self.count / 2 {
            table.fill(table.len);
        }
        table.arena.shrink_to_fit();
        table
    }
}

/// A name that was found as a suffix of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suffix {
    /// Where it begins in the name asked about.
    pub(crate) start: usize,
    /// Its number; 0 in a table without numbers.
    pub(crate) number: u32,
}

/// A cache line of slots, filled from the first one on. The offset in a slot is one more than the
/// name's, so that a free one is 0.
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
    /// Bytes behind each name.
    extra: usize,
    len: usize,
}

impl NameTable {
    /// Names in it.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it has allocated.
    pub(crate) const fn bytes(&self) -> usize {
        self.arena.capacity() + size_of_val(&*self.buckets) + size_of_val(&*self.marks)
    }

    /// The names, in the order they were given, in small letters.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let end = name::end_plain(&self.arena, at)?;
            let name = &self.arena[at..end];
            at = end + self.extra;
            Some(name)
        })
    }

    /// The number of this very name.
    pub(crate) fn find(&self, wire: &[u8]) -> Option<u32> {
        let labels = Labels::of(wire)?;
        if self.depths & 1 << labels.count == 0 {
            return None;
        }
        let mut hash = ROOT;
        for start in labels.starts().rev() {
            hash = add_label(hash, label_at(wire, start));
        }
        self.probe(hash, wire).map(|offset| self.number(offset))
    }

    /// The longest name of the table that `wire` is, or is below of.
    pub(crate) fn longest(&self, wire: &[u8]) -> Option<Suffix> {
        let labels = Labels::of(wire)?;
        let mut found = None;
        let mut wanted = self.depths;
        let mut hash = ROOT;
        if wanted & 1 != 0 {
            let start = wire.len() - 1;
            found = self.probe(hash, &wire[start..]).map(|offset| (start, offset));
        }
        for start in labels.starts().rev() {
            wanted >>= 1;
            if wanted == 0 {
                break;
            }
            hash = add_label(hash, label_at(wire, start));
            if wanted & 1 != 0 {
                found = self.probe(hash, &wire[start..]).map(|offset| (start, offset)).or(found);
            }
        }
        found.map(|(start, offset)| Suffix { start, number: self.number(offset) })
    }

    /// Where the name of this hash begins.
    fn probe(&self, hash: u64, wire: &[u8]) -> Option<usize> {
        let mut at = self.place(hash);
        loop {
            let marks = *self.marks.get(at)?;
            // The top bit of each byte that is the mark; rarely of one above it that is not.
            let other = marks ^ (EACH * mark(hash));
            let mut same = other.wrapping_sub(EACH) & !other & (0x80 * EACH);
            while same != 0 {
                let slot = self.buckets.get(at)?.0[same.trailing_zeros() as usize / 8];
                if slot >> OFFSET_BITS == tag(hash) {
                    let offset = (slot & OFFSET_MASK) as usize - 1;
                    // Same bytes means same name: a wire name holds its own end.
                    let name = self.arena.get(offset..offset + wire.len());
                    if name.is_some_and(|n| n.eq_ignore_ascii_case(wire)) {
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

    /// The bucket that the search for a hash begins with.
    const fn place(&self, hash: u64) -> usize {
        ((hash as u128 * self.buckets.len() as u128) >> 64) as usize
    }

    /// The bucket behind a full one.
    const fn behind(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }

    /// Makes the table for at most `count` names of the arena, and takes duplicates out of it.
    fn fill(&mut self, count: usize) {
        // Half of the slots stay free: few buckets are full, and there is always one that is not.
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
                    let number = self.len as u32 - 1;
                    self.arena[to + length..to + length + self.extra].copy_from_slice(&number.to_le_bytes());
                }
                to += length + self.extra;
            }
        }
        self.arena.truncate(to);
    }

    /// Puts a name that stands at `offset` into the table, unless it is there already.
    fn insert(&mut self, wire: &[u8], offset: usize) -> bool {
        let Some(labels) = Labels::of(wire) else { return false };
        let hash = labels.starts().rev().fold(ROOT, |hash, start| add_label(hash, label_at(wire, start)));
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

/// Where the labels of a name begin, root not counted.
struct Labels {
    starts: [u8; LABELS_MAX],
    count: usize,
}

impl Labels {
    /// None when it is no whole plain name.
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
            *labels.starts.get_mut(labels.count)? = at as u8;
            labels.count += 1;
            at += 1 + usize::from(length);
        }
    }

    fn starts(&self) -> impl DoubleEndedIterator<Item = usize> {
        self.starts[..self.count].iter().map(|s| usize::from(*s))
    }
}

/// The label that begins at `start`, with its length byte.
fn label_at(wire: &[u8], start: usize) -> &[u8] {
    &wire[start..start + 1 + usize::from(wire[start])]
}

/// The hash of the root, and two odd numbers of random bits (digits of pi), that mixing needs.
const ROOT: u64 = 0x2436_a885_a308_d313;
const MIX: [u64; 2] = [0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

/// The hash of a name with one more label in front, small letters and capitals alike.
fn add_label(mut hash: u64, label: &[u8]) -> u64 {
    let (chunks, rest) = label.as_chunks::<8>();
    for chunk in chunks {
        hash = mix(hash, u64::from_le_bytes(*chunk));
    }
    match rest {
        [] => hash,
        [a] => mix(hash, u64::from(*a)),
        [a, b] => mix(hash, u64::from(u16::from_le_bytes([*a, *b]))),
        [a, b, c] => mix(hash, u64::from(u32::from_le_bytes([*a, *b, *c, 0]))),
        [a, b, c, d, ..] => {
            let low = u32::from_le_bytes([*a, *b, *c, *d]);
            let high = rest.last_chunk().map_or(0, |last| u32::from_le_bytes(*last));
            mix(hash, u64::from(low) | u64::from(high) << 32)
        }
    }
}

/// Folded 128-bit multiplication: each bit of the input reaches all of the output.
const fn mix(hash: u64, bytes: u64) -> u64 {
    let product = (hash ^ MIX[0]) as u128 * (name::fold(bytes) ^ MIX[1]) as u128;
    product as u64 ^ (product >> 64) as u64
}

/// What a slot keeps of a hash: bits that its place hardly depends on. Never that of a free slot.
const fn tag(hash: u64) -> u64 {
    hash & 0x00ff_ffff | 1
}

/// One in each byte.
const EACH: u64 = 0x0101_0101_0101_0101;

/// A slot's mark: other bits of the hash, and never 0.
const fn mark(hash: u64) -> u64 {
    hash >> 24 & 0xff | 0x80
}
