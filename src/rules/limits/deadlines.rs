//! A bounded table from hashed addresses to times: when a client's bucket will be full again, or
//! when an address leaves its set.
//!
//! ```text
//!  hash ─► tag (48 bits) ─┬─► group 1   | entry | entry | entry | entry |  one cache line each
//!                         └─► group 2   | entry | entry | entry | entry |
//!  entry: | tag 48 | used 16 | time 64 |     16 bytes; tag 0: empty
//! ```
//!
//! An entry is in one of the two groups that its tag selects, so that every access touches two
//! cache lines, whatever the table holds: no chain that an attacker could lengthen, no growth, no
//! scan. An entry whose time is past means the same as none and may be overwritten. When all eight
//! entries are in use, the one that expires first is replaced: a flood of forged sources, each with
//! one query, replaces such sources, not clients at their limit.
//!
//! With two entries per client (a million clients in 32 MiB) fewer than one client in a hundred
//! thousand finds both groups full. Addresses are distinguished by 48 bits of a keyed hash: among a
//! million clients the chance that any two share a bucket is one in five hundred.

use crate::base::narrow::place;
use crate::rules::limits::Rate;

const LINE: usize = 64;
/// Words of a cache line, two for each entry.
const WORDS: usize = LINE / 8;
/// Groups of a table of the full size: two entries for each of a million clients, rounded up.
const GROUPS_MAX: usize = 1 << 19;
const GROUPS_MIN: usize = 64;
/// The age of an entry is counted in this part of the span after which it is forgotten.
const AGES: u64 = 64;

/// The table.
#[derive(Debug)]
pub(crate) struct Deadlines {
    /// The groups, behind `first` words that align them. Zeroed by the allocator, so that the
    /// kernel provides the pages of a large table when they are first touched.
    words: Vec<u64>,
    first: usize,
    groups: usize,
}

impl Deadlines {
    /// Creates a table of at most this many bytes, but of at least 4 KiB.
    pub(crate) fn new(bytes: usize) -> Self {
        Self::with_groups((bytes / LINE).clamp(GROUPS_MIN, GROUPS_MAX))
    }

    fn with_groups(groups: usize) -> Self {
        let words = vec![0_u64; (groups + 1) * WORDS];
        // At most WORDS - 1: a vector of u64 is aligned to 8 bytes.
        let first = words.as_ptr().align_offset(LINE).min(WORDS);
        Self { words, first, groups }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.groups * LINE
    }

    /// Forgets all entries. A new table costs less than writing over a large one.
    pub(crate) fn clear(&mut self) {
        *self = Self::with_groups(self.groups);
    }

    /// Takes one token out of the bucket of `hash`; returns true when there is none. `expiry_ns`: a
    /// bucket that was unused for this long is full.
    pub(crate) fn take(&mut self, hash: u64, rate: Rate, expiry_ns: u64, now: u64) -> bool {
        let used = ((now / (expiry_ns / AGES).max(1)) & USED) as u16;
        let tag = tag(hash);
        let (at, known) = self.place(tag, now);
        let mut full_at = now;
        if known {
            let age = u64::from(used.wrapping_sub((self.words[at] & USED) as u16));
            if age <= AGES {
                full_at = full_at.max(self.words[at + 1]);
            }
        }
        self.words[at] = tag | u64::from(used);
        let next = full_at + rate.token_ns;
        let exceeded = next - now > rate.full_ns;
        self.words[at + 1] = if exceeded { full_at } else { next };
        exceeded
    }

    /// Reads the cache lines of these hashes before they are accessed: loads that do not wait for
    /// each other.
    pub(crate) fn prefetch(&self, hashes: impl IntoIterator<Item = u64>) {
        let lines = hashes.into_iter().flat_map(|hash| self.bases(tag(hash)));
        std::hint::black_box(lines.fold(0, |read, base| read ^ self.words[base]));
    }

    /// Sets the time of `hash`, unless its time is later.
    pub(crate) fn raise(&mut self, hash: u64, until: u64, now: u64) {
        let tag = tag(hash);
        let (at, known) = self.place(tag, now);
        self.words[at + 1] = if known { self.words[at + 1].max(until) } else { until };
        self.words[at] = tag;
    }

    /// Returns the time of `hash`.
    pub(crate) fn value(&self, hash: u64) -> Option<u64> {
        let tag = tag(hash);
        let entries = self.bases(tag).into_iter().flat_map(|base| (base..base + WORDS).step_by(2));
        let mut found = entries.filter(|at| self.words[*at] & TAG == tag);
        found.next().map(|at| self.words[at + 1])
    }

    /// Returns the entry of a tag and true, or the entry to replace and false.
    fn place(&self, tag: u64, now: u64) -> (usize, bool) {
        let [one, two] = self.bases(tag);
        // Both lines are read at once, so that the second cache miss does not wait for the first.
        let (line_one, line_two) = (self.line(one), self.line(two));
        match (find(line_one, tag), find(line_two, tag)) {
            (Some(at), _) => return (one + at, true),
            (None, Some(at)) => return (two + at, true),
            (None, None) => {}
        }
        let (free_one, at_one, time_one) = oldest(line_one, now);
        let (free_two, at_two, time_two) = oldest(line_two, now);
        // The emptier group; when both are full, the entry that expires first.
        if (free_one, std::cmp::Reverse(time_one)) >= (free_two, std::cmp::Reverse(time_two)) {
            (one + at_one, false)
        } else {
            (two + at_two, false)
        }
    }

    fn line(&self, base: usize) -> &[u64; WORDS] {
        self.words.get(base..).and_then(<[u64]>::first_chunk).unwrap_or(&[0; WORDS])
    }

    /// Returns where the two groups of a tag begin.
    fn bases(&self, tag: u64) -> [usize; 2] {
        // The second group by other bits of the tag: an odd factor spreads them over the upper
        // ones.
        [tag, tag.wrapping_mul(0x9e37_79b9_7f4a_7c15)]
            .map(|hash| self.first + place(hash, self.groups) * WORDS)
    }
}

/// Bits of an entry's first word that hold its tag.
const TAG: u64 = !USED;
/// Bits of an entry's first word that hold when it was last used, in parts of the span, modulo
/// their number.
const USED: u64 = 0xffff;

/// Returns the tag of a hash: its upper 48 bits, never 0.
const fn tag(hash: u64) -> u64 {
    let tag = hash & TAG;
    if tag == 0 { 1 << 16 } else { tag }
}

/// Returns the position of a tag's entry in its line.
fn find(line: &[u64; WORDS], tag: u64) -> Option<usize> {
    (0..WORDS).step_by(2).find(|at| line[*at] & TAG == tag)
}

/// Returns the number of expired entries of a line, the one that expires first, and its time.
fn oldest(line: &[u64; WORDS], now: u64) -> (usize, usize, u64) {
    let mut found = (0, 0, u64::MAX);
    for at in (0..WORDS).step_by(2) {
        let time = line[at + 1];
        found.0 += usize::from(time <= now);
        if time < found.2 {
            (found.1, found.2) = (at, time);
        }
    }
    found
}
