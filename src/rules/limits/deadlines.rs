//! A bounded table, one for all shards, from hashed addresses to times: when a client's bucket will
//! be full again, or when an address leaves its set.
//!
//! ```text
//!  hash ─► tag (48 bits) ─┬─► group 1   | entry | entry | entry | entry |  one cache line each
//!                         └─► group 2   | entry | entry | entry | entry |
//!  entry: | tag 48 | mark 16 | time 64 |     two atomics; tag 0: empty
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
//!
//! No shard waits for another. What an entry counts is its time, and a query counts by exchanging it
//! (compare-and-swap), so that no two queries take the same token; a query above the rate writes
//! nothing. An entry is replaced in steps, each an exchange that fails, and is begun again, if another
//! shard was faster: its time is set to the present unless it is past, then its tag is replaced, then
//! its time is set to the present unless it was empty, then the new client counts as on any entry. So a
//! new client never finds what the old one has counted, and two shards that meet the same new client
//! agree on one entry: one that finds another beside its own gives that up. What remains: when a query
//! meets, within a few instructions, the replacement of its own entry or of another one in its groups,
//! one token may be lost or taken from the entry's new client.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use ahash::RandomState;
use zerocopy::FromZeros;

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
/// Attempts to get an entry. Each fails only if another shard replaced an entry of the same groups
/// meanwhile; after the last one the query passes uncounted, or the address is not added.
const ATTEMPTS: usize = 64;

/// The table.
pub struct Deadlines {
    /// The groups, behind `first` words that align them. Zeroed by the allocator, so that the
    /// kernel provides the pages of a large table when they are first touched.
    words: Vec<AtomicU64>,
    first: usize,
    groups: usize,
    /// The key under which addresses are hashed: that of the shard which came first.
    hasher: OnceLock<RandomState>,
    /// How often a set was cleared; entries of a set bear the last 16 bits of it as their mark.
    cleared: AtomicU64,
}

/// An entry as it was read: its position, the word of its tag, and then its time.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    word: u64,
    time: u64,
}

impl Deadlines {
    /// Creates a table of at most this many bytes, but of at least 4 KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let groups = (bytes / LINE).clamp(GROUPS_MIN, GROUPS_MAX);
        // A table for which there is no memory is empty, and limits nothing.
        let words = AtomicU64::new_vec_zeroed((groups + 1) * WORDS).unwrap_or_default();
        // At most WORDS - 1: a vector of u64 is aligned to 8 bytes.
        let first = words.as_ptr().align_offset(LINE).min(WORDS);
        Self { words, first, groups, hasher: OnceLock::new(), cleared: AtomicU64::new(0) }
    }

    /// Returns its size; untouched pages are only reserved.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.groups * LINE
    }

    /// Returns the key of the table; `own` becomes it if it has none yet.
    pub(super) fn hasher(&self, own: &RandomState) -> RandomState {
        self.hasher.get_or_init(|| own.clone()).clone()
    }

    /// Takes one token out of the bucket of `hash`; returns true when there is none. `expiry_ns`: a
    /// bucket that was unused for this long is full; with 0 it is when it has filled.
    pub(super) fn take(&self, hash: u64, rate: Rate, expiry_ns: u64, now: u64) -> bool {
        let expiry_ns = if expiry_ns == 0 { rate.full_ns } else { expiry_ns };
        let used = (now / (expiry_ns / AGES).max(1)) & MARK;
        let word = tag(hash) | used;
        for _ in 0..ATTEMPTS {
            let Some(entry) = self.place(word, now, |_| false) else { continue };
            let is_forgotten = (used.wrapping_sub(entry.word) & MARK) > AGES;
            let Some(exceeded) = self.count(&entry, is_forgotten, rate, now) else { continue };
            if entry.word != word {
                // If this fails, another shard has written the same, or replaced the entry.
                let _ = self.exchange(entry.at, entry.word, word);
            }
            return exceeded;
        }
        false
    }

    /// Takes one token out of the bucket of an entry; `None` if the entry was replaced.
    fn count(&self, entry: &Entry, is_forgotten: bool, rate: Rate, now: u64) -> Option<bool> {
        let mut time = entry.time;
        // Full only for the query that exchanges the forgotten time.
        let mut full_at = if is_forgotten { now } else { time };
        loop {
            // The tag stands after the time was read, so the time is the client's.
            if (self.word(entry.at) ^ entry.word) & TAG != 0 {
                return None;
            }
            let next = full_at.max(now) + rate.token_ns;
            if next - now > rate.full_ns {
                return Some(true);
            }
            match self.exchange(entry.at + 1, time, next) {
                Ok(()) => return Some(false),
                Err(is) => (time, full_at) = (is, is),
            }
        }
    }

    /// Reads the cache lines of these hashes before they are accessed: loads that do not wait for
    /// each other.
    pub(super) fn prefetch(&self, hashes: impl IntoIterator<Item = u64>) {
        let lines = hashes.into_iter().flat_map(|hash| self.bases(tag(hash)));
        let word = |base: usize| self.words.get(base).map_or(0, |word| word.load(Relaxed));
        std::hint::black_box(lines.fold(0, |read, base| read ^ word(base)));
    }

    /// Adds `hash` to a set until a time, unless it is in it until later.
    pub(super) fn raise(&self, hash: u64, until: u64, now: u64) {
        let mark = self.mark();
        let word = tag(hash) | mark;
        let is_cleared = |word: u64| word & MARK != mark;
        for _ in 0..ATTEMPTS {
            let Some(entry) = self.place(word, now, is_cleared) else { continue };
            if (is_cleared(entry.word) && self.replace(&entry, word, now).is_none())
                || (self.word(entry.at) ^ word) & TAG != 0
            {
                continue;
            }
            if let Some(time) = self.words.get(entry.at + 1) {
                time.fetch_max(until, AcqRel);
            }
            return;
        }
    }

    /// Returns until when `hash` is in a set.
    pub(super) fn value(&self, hash: u64) -> Option<u64> {
        let word = tag(hash) | self.mark();
        self.bases(word & TAG).into_iter().find_map(|base| {
            let entry = entries(base, &self.line(base)).find(|entry| entry.word == word)?;
            // The entry may have been replaced before its time was read.
            (self.word(entry.at) == word).then_some(entry.time)
        })
    }

    /// Removes all addresses from a set: what was added before bears another mark.
    pub(super) fn clear(&self) {
        let cleared = self.cleared.load(Acquire);
        let next = cleared.wrapping_add(1);
        if next & MARK == 0 {
            // Marks repeat: what bears the next one is from 65,536 sets ago.
            for at in (self.first..self.words.len()).step_by(2) {
                let word = self.word(at);
                if word != 0 && word & MARK == 0 && self.exchange(at, word, 0).is_ok() {
                    let _ = self.exchange(at + 1, self.word(at + 1), 0);
                }
            }
        }
        // If this fails, another shard has cleared the set.
        let _ = self.cleared.compare_exchange(cleared, next, AcqRel, Acquire);
    }

    fn mark(&self) -> u64 {
        self.cleared.load(Acquire) & MARK
    }

    /// Returns the entry with the tag of `word`, after replacing another one if there is none;
    /// `None` if another shard was faster. `is_void`: whether an entry with this word can be
    /// replaced whatever its time.
    fn place(&self, word: u64, now: u64, is_void: impl Fn(u64) -> bool) -> Option<Entry> {
        let tag = word & TAG;
        let [one, two] = self.bases(tag);
        // Both lines are read at once, so that the second cache miss does not wait for the first.
        let (line_one, line_two) = (self.line(one), self.line(two));
        let find = |base, line| entries(base, line).find(|entry| entry.word & TAG == tag);
        if let Some(entry) = find(one, &line_one).or_else(|| find(two, &line_two)) {
            return Some(entry);
        }
        let (free_one, time_one, entry_one) = oldest(one, &line_one, now, &is_void);
        let (free_two, time_two, entry_two) = oldest(two, &line_two, now, &is_void);
        // The emptier group; when both are full, the entry that expires first.
        let in_one = (free_one, std::cmp::Reverse(time_one)) >= (free_two, std::cmp::Reverse(time_two));
        let entry = self.replace(if in_one { &entry_one } else { &entry_two }, word, now)?;
        self.is_alone(&entry, [one, two]).then_some(entry)
    }

    /// Returns whether a new entry is the only one of its tag. Another shard may have met the same address, and
    /// found the other group emptier: then both begin again, and before either has counted.
    #[cold]
    fn is_alone(&self, entry: &Entry, bases: [usize; 2]) -> bool {
        // Of two shards that look after their exchanges, one sees the other's entry at least, where an exchange
        // comes before what is read after it, as on x86-64.
        let is_twin = |other: Entry| other.at != entry.at && (other.word ^ entry.word) & TAG == 0;
        let has_twin = bases.into_iter().any(|base| entries(base, &self.line(base)).any(is_twin));
        if has_twin {
            // If this fails, another shard has replaced it.
            let _ = self.exchange(entry.at, entry.word, 0);
        }
        !has_twin
    }

    /// Gives an entry another word, and a time that is past; `None` if another shard was faster.
    fn replace(&self, entry: &Entry, word: u64, now: u64) -> Option<Entry> {
        if entry.time > now {
            // Not a time that is already that of a new client.
            if self.word(entry.at) != entry.word {
                return None;
            }
            self.exchange(entry.at + 1, entry.time, now).ok()?;
        }
        self.exchange(entry.at, entry.word, word).ok()?;
        let was_empty = entry.word & TAG == 0;
        let time = if was_empty { entry.time.min(now) } else { self.forgive(entry.at + 1, now) };
        Some(Entry { at: entry.at, word, time })
    }

    /// Sets a time to the present, and returns it: what the old client has counted since its entry was
    /// read is not the new one's, however long this thread did not run meanwhile; and what the old
    /// one is about to count fails.
    fn forgive(&self, at: usize, now: u64) -> u64 {
        let mut time = self.word(at);
        for _ in 0..ATTEMPTS {
            match self.exchange(at, time, now) {
                Ok(()) => return now,
                Err(is) => time = is,
            }
        }
        time
    }

    fn word(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Acquire))
    }

    fn exchange(&self, at: usize, from: u64, to: u64) -> Result<(), u64> {
        let Some(word) = self.words.get(at) else { return Ok(()) };
        word.compare_exchange(from, to, AcqRel, Acquire).map(|_| ())
    }

    /// Reads a group; each entry's time after its tag.
    fn line(&self, base: usize) -> [u64; WORDS] {
        let Some(line) = self.words.get(base..).and_then(<[_]>::first_chunk::<WORDS>) else {
            return [0; WORDS];
        };
        std::array::from_fn(|at| line[at].load(Acquire))
    }

    /// Returns where the two groups of a tag begin.
    fn bases(&self, tag: u64) -> [usize; 2] {
        // The second group by other bits of the tag: an odd factor spreads them over the upper
        // ones.
        [tag, tag.wrapping_mul(0x9e37_79b9_7f4a_7c15)]
            .map(|hash| self.first + place(hash, self.groups) * WORDS)
    }
}

impl fmt::Debug for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadlines").field("groups", &self.groups).finish_non_exhaustive()
    }
}

/// Bits of an entry's first word that hold its tag.
const TAG: u64 = !MARK;
/// Bits of an entry's first word that hold, in a table of clients, when it was last used, in parts
/// of the span, modulo their number; in a set, how often the set had been cleared.
const MARK: u64 = 0xffff;

/// Returns the tag of a hash: its upper 48 bits, never 0.
const fn tag(hash: u64) -> u64 {
    let tag = hash & TAG;
    if tag == 0 { 1 << 16 } else { tag }
}

/// Returns the entries of a group that begins at `base`.
fn entries(base: usize, line: &[u64; WORDS]) -> impl Iterator<Item = Entry> {
    let entry = move |at: usize| Entry { at: base + at, word: line[at], time: line[at + 1] };
    (0..WORDS).step_by(2).map(entry)
}

/// Returns the number of expired or void entries of a group, the time of the one that expires
/// first, 0 for one that is void, and that entry.
fn oldest(base: usize, line: &[u64; WORDS], now: u64, is_void: impl Fn(u64) -> bool) -> (usize, u64, Entry) {
    let mut found = (0, u64::MAX, Entry { at: base, word: line[0], time: line[1] });
    for entry in entries(base, line) {
        let time = if is_void(entry.word) { 0 } else { entry.time };
        found.0 += usize::from(time <= now);
        if time < found.1 {
            (found.1, found.2) = (time, entry);
        }
    }
    found
}
