//! An entry in the words of its granules.
//!
//! ```text
//!  word 0   key length:16 | value length:16 | extra:32
//!  word 1   stored:32 | expires:32
//!  word 2   gone:32 | check:32        bits of the hash that neither set nor tag have
//!  key      filled up with zeros to whole words
//!  value    likewise; that of a head begins with the two words of its `Family`
//! ```

use super::slot::Kind;
use super::{Meta, parts::Family};
use std::sync::atomic::{AtomicU64, Ordering};

/// Words before the key.
pub(super) const HEADER_WORDS: usize = 3;
/// Words of a head between key and value.
pub(super) const FAMILY_WORDS: usize = 2;

/// What an entry is looked for by, besides its set and tag.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'k> {
    pub(super) key: &'k [u8],
    pub(super) check: u32,
    /// Pieces of values have keys of their own, which may look like those of others.
    pub(super) is_part: bool,
}

impl Wanted<'_> {
    #[inline]
    const fn includes(self, kind: Kind) -> bool {
        self.is_part == matches!(kind, Kind::Part)
    }
}

/// What is written.
pub(super) struct Content<'c> {
    pub(super) wanted: Wanted<'c>,
    pub(super) meta: Meta,
    pub(super) family: Option<Family>,
    pub(super) value: &'c [u8],
}

impl Content<'_> {
    /// Returns how many words it takes.
    pub(super) const fn words(&self) -> usize {
        let family = if self.family.is_some() { FAMILY_WORDS } else { 0 };
        HEADER_WORDS + self.wanted.key.len().div_ceil(8) + family + self.value.len().div_ceil(8)
    }

    /// Returns what it is.
    pub(super) const fn kind(&self) -> Kind {
        match (self.wanted.is_part, self.family.is_some()) {
            (true, _) => Kind::Part,
            (false, true) => Kind::Head,
            (false, false) => Kind::Whole,
        }
    }

    /// Writes it.
    pub(super) fn store(&self, words: &[AtomicU64]) {
        let Meta { stored, expires, gone, extra } = self.meta;
        let family = if self.family.is_some() { FAMILY_WORDS * 8 } else { 0 };
        let lengths = self.wanted.key.len() | (self.value.len() + family) << 16;
        let header = [
            lengths as u64 | u64::from(extra) << 32,
            u64::from(stored) | u64::from(expires) << 32,
            u64::from(gone) | u64::from(self.wanted.check) << 32,
        ];
        let family = self.family.map(Family::to_words);
        let values = header.into_iter().chain(bytes_to_words(self.wanted.key));
        let values = values.chain(family.into_iter().flatten()).chain(bytes_to_words(self.value));
        words.iter().zip(values).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    }
}

/// An entry as read: lengths that fit its size, whether or not they are the right ones.
#[derive(Clone, Copy)]
pub(super) struct Entry<'w> {
    words: &'w [AtomicU64],
    key_length: usize,
    value_length: usize,
}

impl<'w> Entry<'w> {
    /// Reads the lengths; `None` if they cannot be right, as only a torn read has them.
    #[inline]
    pub(super) fn of(words: &'w [AtomicU64]) -> Option<Self> {
        let lengths = words.first()?.load(Ordering::Relaxed);
        let (key_length, value_length) = ((lengths & 0xffff) as usize, (lengths >> 16 & 0xffff) as usize);
        let needed = HEADER_WORDS + key_length.div_ceil(8) + value_length.div_ceil(8);
        (needed <= words.len()).then_some(Self { words, key_length, value_length })
    }

    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Returns whether it is what is looked for.
    #[inline]
    pub(super) fn is(&self, wanted: Wanted, kind: Kind) -> bool {
        (self.word(2) >> 32) as u32 == wanted.check
            && self.key_length == wanted.key.len()
            && wanted.includes(kind)
            && self
                .key_words()
                .iter()
                .zip(bytes_to_words(wanted.key))
                .all(|(a, b)| a.load(Ordering::Relaxed) == b)
    }

    #[inline]
    fn key_words(&self) -> &'w [AtomicU64] {
        self.words.get(HEADER_WORDS..HEADER_WORDS + self.key_length.div_ceil(8)).unwrap_or_default()
    }

    #[inline]
    fn value_words(&self) -> &'w [AtomicU64] {
        self.words.get(HEADER_WORDS + self.key_length.div_ceil(8)..).unwrap_or_default()
    }

    /// Returns what is known of it.
    #[inline]
    pub(super) fn meta(&self) -> Meta {
        let times = self.word(1);
        Meta {
            stored: times as u32,
            expires: (times >> 32) as u32,
            gone: self.word(2) as u32,
            extra: (self.word(0) >> 32) as u32,
        }
    }

    /// Copies the key.
    pub(super) fn copy_key<'o>(&self, out: &'o mut [u8]) -> Option<&'o mut [u8]> {
        let out = out.get_mut(..self.key_length)?;
        copy(self.key_words(), out);
        Some(out)
    }

    /// Returns a part's family, without the length.
    pub(super) fn part_family(&self) -> Family {
        Family::from_words([self.word(HEADER_WORDS), 0])
    }

    /// Returns the hash of a part's head, which stands in the place of two times.
    pub(super) fn part_head(&self) -> u64 {
        self.word(1)
    }

    /// Returns whether another one is the same, wherever it stands.
    pub(super) fn is_same(&self, other: &Entry) -> bool {
        let words = |entry: &Entry| HEADER_WORDS + entry.key_length.div_ceil(8) + FAMILY_WORDS;
        (0..words(self)).all(|index| self.word(index) == other.word(index))
    }

    /// Returns a head's family.
    #[inline]
    pub(super) fn family(&self) -> Family {
        let word = |at: usize| self.value_words().get(at).map_or(0, |word| word.load(Ordering::Relaxed));
        Family::from_words([word(0), word(1)])
    }

    /// Copies the value, of a head what follows the family; returns its length, or `None` if `out`
    /// is too small.
    #[inline]
    pub(super) fn copy_value(&self, kind: Kind, out: &mut [u8]) -> Option<usize> {
        let skipped = if matches!(kind, Kind::Head) { FAMILY_WORDS } else { 0 };
        let length = self.value_length.saturating_sub(skipped * 8);
        copy(self.value_words().get(skipped..)?, out.get_mut(..length)?);
        Some(length)
    }
}

/// Returns the words of bytes, the last one filled up with zeros.
#[inline]
fn bytes_to_words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(u64::from_le_bytes(last));
    whole.iter().map(|chunk| u64::from_le_bytes(*chunk)).chain(last)
}

/// Copies words to bytes, as many as there is room for.
#[inline]
fn copy(words: &[AtomicU64], out: &mut [u8]) {
    let (whole, rest) = out.as_chunks_mut::<8>();
    let count = whole.len();
    for (chunk, word) in whole.iter_mut().zip(words) {
        *chunk = word.load(Ordering::Relaxed).to_le_bytes();
    }
    if !rest.is_empty()
        && let Some(word) = words.get(count)
    {
        let bytes = word.load(Ordering::Relaxed).to_le_bytes();
        rest.copy_from_slice(&bytes[..rest.len()]);
    }
}
