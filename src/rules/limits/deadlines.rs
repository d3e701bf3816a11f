//! A bounded table from hashed addresses to points in time: when a client's bucket will be full
//! again, or when an address leaves its set.
//!
//! ```text
//!  hash ─► tag (48 bits) ─┬─► group 1   | entry | entry | entry | entry |  one cache line each
//!                         └─► group 2   | entry | entry | entry | entry |
//!  entry: | tag 48 | used 16 | time 64 |     16 bytes; tag 0: empty
//! ```
//!
//! An entry is in one of the two groups that its tag says, so that every question touches two
//! cache lines, whatever the table holds: there is no longest chain to be found by an attacker,
//! no growth, no scan. An entry whose time is past means the same as none, and is free to be
//! overwritten. When all eight entries are in use, the one whose time ends first makes room: a
//! flood of forged sources, each with one query, takes the places of such sources, not those of
//! clients at their limit.
//!
//! At two entries for a client (a million clients in 32 MiB) less than one client in a hundred
//! thousand finds both groups full. Addresses are told apart by 48 bits of a keyed hash: among a
//! million clients the chance that any two share a bucket is one in five hundred.

use crate::rules::limits::Rate;

const LINE: usize = 64;
/// Words of a cache line, two for each entry.
const WORDS: usize = LINE / 8;
/// Groups of a table of the full size: two entries for each of a million clients, rounded up.
const GROUPS_MAX: usize = 1 << 19;
const GROUPS_MIN: usize = 64;
/// An entry's age is counted in this part of the span after which it is forgotten.
const AGES: u64 = 64;

/// The table.
#[derive(Debug)]
pub(crate) struct Deadlines {
    /// The groups, behind `first` words that align them. Zeroed by the allocator, which for a
    /// large table means: pages that the kernel hands out when they are first touched.
    words: Vec<u64>,
    first: usize,
    groups: usize,
}

impl Deadlines {
    /// A table of at most so many bytes, but not of less than 4 KiB.
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

    /// Forgets all. A new table, since that costs less than writing over a large one.
    pub(crate) fn clear(&mut self) {
        *self = Self::with_groups(self.groups);
    }

    /// Takes one token out of the bucket of `hash`; true when there is none. `expiry_ns`: a
    /// bucket that was not asked for so long is full.
    pub(crate) fn take(&mut self, hash: u64, rate: Rate, expiry_ns: u64, now: u64) -> bool {
        let used = (now / (expiry_ns / AGES).max(1)) as u16;
        let tag = tag(hash);
        let (at, known) = self.place(tag, now);
        let mut full_at = now;
        if known {
            let age = u64::from(used.wrapping_sub(self.words[at] as u16));
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

    /// Reads the lines of some hashes, for those who are about to ask for them: loads that do not
    /// wait for each other.
    pub(crate) fn prefetch(&self, hashes: impl IntoIterator<Item = u64>) {
        let lines = hashes.into_iter().flat_map(|hash| self.bases(tag(hash)));
        std::hint::black_box(lines.fold(0, |read, base| read ^ self.words[base]));
    }

    /// Sets the time of `hash`, unless it has a later one.
    pub(crate) fn raise(&mut self, hash: u64, until: u64, now: u64) {
        let tag = tag(hash);
        let (at, known) = self.place(tag, now);
        self.words[at + 1] = if known { self.words[at + 1].max(until) } else { until };
        self.words[at] = tag;
    }

    /// The time of `hash`.
    pub(crate) fn value(&self, hash: u64) -> Option<u64> {
        let tag = tag(hash);
        let entries = self.bases(tag).into_iter().flat_map(|base| (base..base + WORDS).step_by(2));
        let mut found = entries.filter(|at| self.words[*at] & TAG == tag);
        found.next().map(|at| self.words[at + 1])
    }

    /// The entry of a tag and true; or else the one that it may have.
    fn place(&self, tag: u64, now: u64) -> (usize, bool) {
        let [one, two] = self.bases(tag);
        // Both lines are read in one go, so that the second trip to memory does not wait for the
        // first.
        let (line_one, line_two) = (self.line(one), self.line(two));
        match (find(line_one, tag), find(line_two, tag)) {
            (Some(at), _) => return (one + at, true),
            (None, Some(at)) => return (two + at, true),
            (None, None) => {}
        }
        let (free_one, at_one, time_one) = oldest(line_one, now);
        let (free_two, at_two, time_two) = oldest(line_two, now);
        // To the emptier group; when neither has room, where the time ends first.
        if (free_one, std::cmp::Reverse(time_one)) >= (free_two, std::cmp::Reverse(time_two)) {
            (one + at_one, false)
        } else {
            (two + at_two, false)
        }
    }

    fn line(&self, base: usize) -> &[u64; WORDS] {
        self.words.get(base..).and_then(<[u64]>::first_chunk).unwrap_or(&[0; WORDS])
    }

    /// Where the two groups of a tag begin.
    fn bases(&self, tag: u64) -> [usize; 2] {
        let scale = |hash: u64| ((u128::from(hash) * self.groups as u128) >> 64) as usize;
        // The second by other bits of the tag: an odd factor spreads them over the upper ones.
        [tag, tag.wrapping_mul(0x9e37_79b9_7f4a_7c15)].map(|hash| self.first + scale(hash) * WORDS)
    }
}

/// Bits of an entry's first word that are its tag.
const TAG: u64 = !0xffff;

/// The tag of a hash: its upper 48 bits, never 0.
const fn tag(hash: u64) -> u64 {
    let tag = hash & TAG;
    if tag == 0 { 1 << 16 } else { tag }
}

/// Where the entry of a tag is in its line.
fn find(line: &[u64; WORDS], tag: u64) -> Option<usize> {
    (0..WORDS).step_by(2).find(|at| line[*at] & TAG == tag)
}

/// Entries of a line whose time is past, the one that ends first, and its time.
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
