//! The entries of a cache as bytes that outlive the process: a restart is no cold start.
//!
//! ```text
//!  ┌───────┬─────────┬─────────────────┬────────────────────────┬─────────┬───┬────────┬──────────┐
//!  │ magic │ version │ time of writing │ what keys depend on    │ entries │ 0 │ number │ checksum │
//!  │ 8     │ u32     │ u64             │ its length u16, bytes  │         │u16│ u64    │ u64      │
//!  └───────┴─────────┴─────────────────┴────────────────────────┴─────────┴───┴────────┴──────────┘
//!  entry: | key's length u16 | value's length u16 | age u64 | fresh for u32 | kept for u32 | key | value |
//! ```
//!
//! Numbers are little-endian. The time of writing and ages are milliseconds, so that one restart after
//! the other lengthens no TTL; `fresh for` and `kept for` are seconds from when an entry was stored.
//! Hashes are not in it, as they differ from process to process. The checksum is XXH3 of
//! everything before it.
//!
//! It has no file and no clock: both are handed in. Nothing of a snapshot is inserted before all of
//! it has been checked, and it is read twice rather than kept in memory.

use std::fmt;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};

use xxhash_rust::xxh3::Xxh3;

use crate::base::narrow::to_u16;
use crate::base::time::Tick;
use crate::cache::table::{Insert, KEY_MAX, Meta};
use crate::cache::{CacheOptions, ENTRY_BYTES_MAX, PacketCache, entry, key, milliseconds, seconds};
use crate::stats::not_cached::NotCached;

/// How a snapshot begins; no text does.
pub const MAGIC: [u8; 8] = *b"\x89dnslob\n";
/// The version of the format, and of the form of keys and values: to be raised when any of them
/// changes.
pub const VERSION: u32 = 2;
/// Bytes of what keys depend on, at most: two lists of 258 numbers and two switches.
const KEYED_BY_MAX: usize = 2 * 2 * 258 + 6;
/// Bytes before an entry's key.
const HEAD: usize = 20;
/// Sets that are copied at once; each call takes memory for the largest value.
const SETS: usize = 64;
/// Entries after which it is asked whether to go on: less than a millisecond.
const ENTRIES: u64 = 1_024;
/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Snapshots up to this size are read whatever the size of the cache: one that was made smaller
/// starts with some of its entries.
const BYTES_MIN: u64 = 64 << 20;
/// A snapshot has at most so many times the bytes of the table: twice is more than one has, and
/// another two for a table that was made smaller.
const TABLES_MAX: u64 = 4;
/// Milliseconds by which a snapshot may come from the future: clocks are set by as much while a machine
/// starts. How old the entries of a later one are cannot be known.
const AHEAD_MAX: u64 = 60_000;
/// Milliseconds that are added to what has passed, so that no TTL becomes longer: the clock is cut to
/// milliseconds, for the entries and for the file.
const CUT: u64 = 2;
/// Returns when a snapshot was written, milliseconds since 1970; none of what is no snapshot.
pub fn time_of_writing(mut input: impl Read) -> Option<u64> {
    let mut head = [0; 20];
    input.read_exact(&mut head).ok()?;
    let [rest @ .., a, b, c, d, e, f, g, h] = head;
    rest.starts_with(&MAGIC).then(|| u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

/// How often an entry is inserted whose set another thread is changing.
const TRIES: usize = 8;

/// The time of both clocks when a snapshot is written or read.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// That of entries.
    pub now: Tick,
    /// Milliseconds since 1970: what two processes have in common.
    pub unix_ms: u64,
}

/// What became of a snapshot that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Entries that the cache has got.
    pub entries: u64,
    /// Entries whose time was over.
    pub expired: u64,
    /// Entries that the cache did not take: it had newer ones, its options keep no such answer, or they were
    /// removed while the snapshot was read.
    pub others: u64,
    /// Seconds since it was written; 0 if the clock was set back by less than a minute.
    pub age: u32,
    /// The rest was left out: too many names were removed meanwhile.
    pub is_cut: bool,
}

/// Why a snapshot is not read.
#[derive(Debug)]
pub enum Refused {
    /// It does not begin as a snapshot does.
    Foreign,
    /// It is of another version.
    Version(u32),
    /// Keys were made in another way.
    Options,
    /// It was written so many seconds later than it is.
    Future(u64),
    /// It is larger than a snapshot of this cache: its bytes, and the most that are read.
    Huge(u64, u64),
    /// It ends too early.
    Cut,
    /// Something follows its end.
    Surplus,
    /// Its checksum differs.
    Damaged,
    /// The entry of this number, or what surrounds the entries, is none.
    Malformed(u64),
    /// The caller did not want to go on.
    Stopped,
    /// It cannot be read.
    Unreadable(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("it is not a snapshot of a packet cache"),
            Self::Version(version) => write!(f, "its format is {version}; expected {VERSION}"),
            Self::Options => f.write_str(
                "parseECS, cookieHashing, skipOptions or payloadRanks were others when it was written",
            ),
            Self::Future(seconds) => write!(
                f,
                "it was written {seconds} s later than the clock says it is, so that nobody knows how old its \
                 entries are"
            ),
            Self::Huge(bytes, most) => {
                write!(f, "it has {bytes} bytes; expected at most {most} for a cache of this size")
            }
            Self::Cut => f.write_str("its end is missing"),
            Self::Surplus => f.write_str("something follows its end"),
            Self::Damaged => f.write_str("its checksum is wrong"),
            Self::Malformed(number) => write!(f, "it is malformed after {number} entries"),
            Self::Stopped => f.write_str("the process stops"),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Cut } else { Self::Unreadable(error) }
    }
}

impl PacketCache {
    /// Writes the entries that are of use yet to `out`, in small pieces; returns their number.
    /// `goes_on` is asked about every thousand entries.
    ///
    /// # Errors
    /// Those of `out`; [`ErrorKind::TimedOut`] when `goes_on` said no.
    pub fn write_snapshot(
        &self,
        out: &mut impl Write,
        clocks: Clocks,
        goes_on: &dyn Fn() -> bool,
    ) -> io::Result<u64> {
        let (now, now_ms) = (seconds(clocks.now), milliseconds(clocks.now));
        let keyed_by = keyed_by(&self.options);
        let mut out = Summed { inner: out, sum: Xxh3::new() };
        out.put(&MAGIC)?;
        out.put(&VERSION.to_le_bytes())?;
        out.put(&clocks.unix_ms.to_le_bytes())?;
        out.put(&to_u16(keyed_by.len()).to_le_bytes())?;
        out.put(&keyed_by)?;
        let (mut count, mut outcome) = (0_u64, Ok(()));
        let table = &self.store.table;
        for from in (0..table.sets()).step_by(SETS) {
            if !goes_on() {
                return Err(io::Error::new(ErrorKind::TimedOut, "it was stopped"));
            }
            table.visit(from..from + SETS, |key, value, meta| {
                let is_one = meta.gone > now && is_entry(key.len(), value.len());
                if is_one && outcome.is_ok() {
                    outcome = out.put_entry(key, value, meta, now_ms);
                    count += 1;
                }
                true
            });
            std::mem::replace(&mut outcome, Ok(()))?;
        }
        out.put(&0_u16.to_le_bytes())?;
        out.put(&count.to_le_bytes())?;
        let sum = out.sum.digest();
        out.inner.write_all(&sum.to_le_bytes())?;
        Ok(count)
    }

    /// Inserts the entries of a snapshot, from its beginning to the end of `input`, aged by the time
    /// since it was written. Entries that the cache has already stay. It is read twice; what
    /// happens between is not noticed before the second time. `goes_on` is asked every thousand
    /// entries.
    ///
    /// # Errors
    /// Why it is refused. Nothing was inserted then, unless it was changed or the caller stopped while
    /// it was read. Who reads no other one instead says so by [`Self::end_reading`].
    pub fn read_snapshot(
        &self,
        input: &mut (impl Read + Seek),
        clocks: Clocks,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Loaded, Refused> {
        self.begin_reading();
        let mut read = self.read_aged(input, clocks, goes_on);
        if let Ok(loaded) = &mut read {
            loaded.is_cut = self.end_reading();
        }
        read
    }

    fn read_aged(
        &self,
        input: &mut (impl Read + Seek),
        clocks: Clocks,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Loaded, Refused> {
        let bytes = input.seek(SeekFrom::End(0))?;
        let most = (TABLES_MAX * self.memory() as u64).max(BYTES_MIN);
        input.rewind()?;
        if bytes > most {
            return Err(Refused::Huge(bytes, most));
        }
        let written = self.scan(&mut *input, goes_on, &mut |_| ())?;
        input.rewind()?;
        let ahead = written.saturating_sub(clocks.unix_ms);
        if ahead > AHEAD_MAX {
            return Err(Refused::Future(ahead.div_ceil(1_000)));
        }
        let passed = clocks.unix_ms.saturating_sub(written);
        let mut loaded =
            Loaded { age: u32::try_from(passed / 1_000).unwrap_or(u32::MAX), ..Loaded::default() };
        let mut restore = Restore {
            cache: self,
            passed: passed.saturating_add(CUT),
            now: milliseconds(clocks.now),
            found: vec![0; ENTRY_BYTES_MAX],
        };
        let read = self.scan(input, goes_on, &mut |saved| match restore.insert(saved) {
            Some(true) => loaded.entries += 1,
            Some(false) => loaded.others += 1,
            None => loaded.expired += 1,
        });
        read.map(|_| loaded)
    }

    /// Checks a snapshot, calls `each` with its entries, and returns the time of writing.
    fn scan(
        &self,
        input: impl Read,
        goes_on: &dyn Fn() -> bool,
        each: &mut dyn FnMut(Saved<'_>),
    ) -> Result<u64, Refused> {
        let mut input = Summed { inner: BufReader::with_capacity(BUFFER, input), sum: Xxh3::new() };
        match input.take() {
            Ok(MAGIC) => {}
            Ok(_) | Err(Refused::Cut) => return Err(Refused::Foreign),
            Err(refused) => return Err(refused),
        }
        let version = u32::from_le_bytes(input.take()?);
        if version != VERSION {
            return Err(Refused::Version(version));
        }
        let written = u64::from_le_bytes(input.take()?);
        let mut keyed = [0; KEYED_BY_MAX];
        let length = usize::from(u16::from_le_bytes(input.take()?));
        let keyed = keyed.get_mut(..length).ok_or(Refused::Malformed(0))?;
        input.fill(keyed)?;
        if *keyed != *keyed_by(&self.options) {
            return Err(Refused::Options);
        }
        let (mut key, mut value, mut message) = ([0; KEY_MAX], vec![0; ENTRY_BYTES_MAX], Vec::new());
        let mut count = 0_u64;
        loop {
            let length = usize::from(u16::from_le_bytes(input.take()?));
            if length == 0 {
                break;
            }
            let [a, b, rest @ ..] = input.take::<{ HEAD - 2 }>()?;
            let value_length = usize::from(u16::from_le_bytes([a, b]));
            if !is_entry(length, value_length) {
                return Err(Refused::Malformed(count));
            }
            let (key, value) = (&mut key[..length], &mut value[..value_length]);
            input.fill(key)?;
            input.fill(value)?;
            let length = key::question(key).and_then(|asked| entry::length(&asked, value, &mut message));
            let saved = length.and_then(|_| Saved::of(&rest, key, value, &message));
            each(saved.ok_or(Refused::Malformed(count))?);
            count += 1;
            if count.is_multiple_of(ENTRIES) && !goes_on() {
                return Err(Refused::Stopped);
            }
        }
        let number = u64::from_le_bytes(input.take()?);
        let sum = input.sum.digest();
        if u64::from_le_bytes(input.take()?) != sum {
            return Err(Refused::Damaged);
        }
        if number != count {
            return Err(Refused::Malformed(count));
        }
        match input.take::<1>() {
            Err(Refused::Cut) => Ok(written),
            Err(refused) => Err(refused),
            Ok(_) => Err(Refused::Surplus),
        }
    }
}

/// Returns whether a key and a value of these lengths can be an entry.
const fn is_entry(key: usize, value: usize) -> bool {
    key > 0 && key <= KEY_MAX && key + value <= ENTRY_BYTES_MAX
}

/// Returns what the keys of a cache depend on.
fn keyed_by(options: &CacheOptions) -> Vec<u8> {
    // All of them, so that a new option is thought of here.
    let CacheOptions { parse_ecs, hash_cookies, skip_options, payload_ranks, .. } = options;
    let mut bytes = vec![u8::from(*parse_ecs), u8::from(*hash_cookies)];
    for list in [skip_options, payload_ranks] {
        bytes.extend_from_slice(&to_u16(list.len()).to_le_bytes());
        bytes.extend(list.iter().flat_map(|number| number.to_le_bytes()));
    }
    bytes
}

/// An entry of a snapshot.
struct Saved<'e> {
    key: &'e [u8],
    value: &'e mut [u8],
    /// The response.
    message: &'e [u8],
    /// Milliseconds between its being stored and the snapshot's being written.
    age: u64,
    /// Seconds for which it is fresh, from when it was stored on.
    fresh: u32,
    /// Seconds until it is of no use even as a stale answer, from when it was stored on.
    kept: u32,
}

impl<'e> Saved<'e> {
    /// Reads its times; none when it is kept for less time than it is fresh.
    fn of(times: &[u8; HEAD - 4], key: &'e [u8], value: &'e mut [u8], message: &'e [u8]) -> Option<Self> {
        let (age, spans) = times.split_first_chunk()?;
        let (fresh, kept) = spans.split_first_chunk()?;
        let (fresh, kept) = (u32::from_le_bytes(*fresh), u32::from_le_bytes(*kept.first_chunk()?));
        (fresh <= kept).then_some(Self { key, value, message, age: u64::from_le_bytes(*age), fresh, kept })
    }
}

/// Puts entries of a snapshot into a cache.
struct Restore<'c> {
    cache: &'c PacketCache,
    /// Milliseconds since the snapshot was written.
    passed: u64,
    /// The millisecond of the cache's clock.
    now: u64,
    /// Memory for an entry that the cache has already.
    found: Vec<u8>,
}

impl Restore<'_> {
    /// Inserts an entry; none when its time is over, and false when the cache does not take it.
    fn insert(&mut self, saved: Saved<'_>) -> Option<bool> {
        let Saved { key, value, .. } = saved;
        let options = &self.cache.options;
        let age = saved.age.saturating_add(self.passed);
        if whole(saved.kept) <= age {
            return None;
        }
        // The options may be others than when it was stored.
        if saved.message.len() > options.entry_bytes_max {
            return Some(false);
        }
        let fresh = match entry::lifetime(saved.message, options, None) {
            Ok(most) => saved.fresh.min(most),
            // It has expired before the clock began, and is of use as a stale one.
            Err(NotCached::TtlTooShort) if saved.fresh == 0 => 0,
            Err(_) => return Some(false),
        };
        let kept = saved.kept - (saved.fresh - fresh);
        if whole(kept) <= age {
            return None;
        }
        // The clock begins with the machine. The seconds that lie before that are taken off at once.
        let before = u32::try_from(age.saturating_sub(self.now).div_ceil(1_000)).unwrap_or(u32::MAX);
        if before > 0 && !options.dont_age {
            entry::age(value, before);
        }
        let stored_ms = self.now.saturating_add(whole(before)).saturating_sub(age);
        let stored = u32::try_from(stored_ms / 1_000).unwrap_or(u32::MAX);
        let extra = u32::try_from(stored_ms % 1_000).unwrap_or(0);
        let at = |span: u32| stored.saturating_add(span.saturating_sub(before));
        let gone = at(kept).saturating_add(u32::from(extra > 0));
        // What expired before the clock began has no part of its first second.
        let extra = if fresh < before { 0 } else { extra };
        let meta = Meta { stored, expires: at(fresh), gone, extra };
        let now = u32::try_from(self.now / 1_000).unwrap_or(u32::MAX);
        let (hash, table) = (self.cache.hash(key), &self.cache.store.table);
        // What has come since the start is newer.
        if table.get(hash, key, now, &mut self.found).is_some() {
            return Some(false);
        }
        let mut tries = (0..TRIES).map(|_| table.insert(hash, key, value, meta, now));
        let inserted = self
            .cache
            .read_entry(key, || tries.any(|outcome| matches!(outcome, Insert::New | Insert::Replaced)));
        Some(inserted == Some(true))
    }
}

/// Returns seconds in milliseconds.
const fn whole(seconds: u32) -> u64 {
    seconds as u64 * 1_000
}

/// What is written or read, and its checksum so far.
struct Summed<T> {
    inner: T,
    sum: Xxh3,
}

impl<T: Write> Summed<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }

    fn put_entry(&mut self, key: &[u8], value: &[u8], meta: Meta, now_ms: u64) -> io::Result<()> {
        let Meta { stored, expires, gone, extra } = meta;
        let age = now_ms.saturating_sub(whole(stored) + u64::from(extra));
        let fresh = expires.saturating_sub(stored);
        // The second in which it is gone is one more if it was stored within a second.
        let kept = gone.saturating_sub(stored).saturating_sub(u32::from(extra > 0)).max(fresh);
        let mut head = [0; HEAD];
        head[..2].copy_from_slice(&to_u16(key.len()).to_le_bytes());
        head[2..4].copy_from_slice(&to_u16(value.len()).to_le_bytes());
        head[4..12].copy_from_slice(&age.to_le_bytes());
        head[12..16].copy_from_slice(&fresh.to_le_bytes());
        head[16..].copy_from_slice(&kept.to_le_bytes());
        self.put(&head)?;
        self.put(key)?;
        self.put(value)
    }
}

impl<T: Read> Summed<T> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Refused> {
        self.inner.read_exact(bytes)?;
        self.sum.update(bytes);
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
