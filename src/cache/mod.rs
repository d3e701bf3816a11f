//! The packet cache: responses of servers, shared by all shards and by the pools that use it.
//!
//! ```text
//!  query ─► key ─► Table::get ─┬─► fresh: header and records behind the client's own question
//!                              └─► none, expired ─► a server ─► response ─► Table::insert
//! ```
//!
//! The [`key`] says which queries are the same, [`entry`] which responses are kept, for how long and
//! in which form, and the [`table`] keeps bytes under bytes. Time is the engine's.

mod cleaning;
pub mod entry;
pub mod figures;
pub mod key;
pub mod options;
pub mod removal;
pub mod snapshot;
pub mod table;
pub mod warm_up;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ahash::RandomState;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::narrow::to_u32;
use crate::base::packet::Packet;
use crate::base::time::Tick;
use crate::cache::key::Key;
pub use crate::cache::options::CacheOptions;
use crate::cache::removal::{Removal, Unread, What};
use crate::cache::table::{Insert, Meta, Table};
use crate::cache::warm_up::WarmUp;
use crate::stats::not_cached::NotCached;
use crate::wire::edns;

/// Bytes that what is stored of a response needs besides its records: header, and the place of each
/// TTL.
pub(crate) const ENTRY_BYTES_MAX: usize = 65_535;

/// Returns the second of a point in time.
#[must_use]
pub fn seconds(now: Tick) -> u32 {
    to_u32(usize::try_from(now.0 / 1_000_000_000).unwrap_or(usize::MAX))
}

/// Returns a point in time in milliseconds.
const fn milliseconds(now: Tick) -> u64 {
    now.0 / 1_000_000
}

/// Returns when an entry expires, milliseconds: as long after a second begins as it was stored.
const fn expires_ms(meta: &Meta) -> u64 {
    meta.expires as u64 * 1_000 + meta.extra as u64
}

/// A packet cache with its options.
#[derive(Clone, Debug)]
pub struct PacketCache {
    options: CacheOptions,
    store: Arc<Store>,
    warm_up: Option<Arc<WarmUp>>,
}

/// The entries of a cache; they outlive a change of its options.
struct Store {
    /// Number of the store in this process.
    id: u64,
    table: Table,
    /// Keyed by randomness, so that nobody can aim at one set.
    hasher: RandomState,
    /// How often it was cleaned of expired entries.
    cleanups: AtomicU64,
    /// Removals that have begun.
    removals: (Sender<Removal>, Receiver<Removal>),
    /// What is left out of a snapshot that is being read.
    unread: Unread,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("id", &self.id).field("len", &self.table.len()).finish_non_exhaustive()
    }
}

/// Seconds for which an answer is kept that is only for those who wait for it: some time-outs.
pub const BRIEF: u32 = 5;

/// An answer that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// It has expired, and is given because nothing better can be had.
    pub is_stale: bool,
    /// When it expires, seconds of the engine's time.
    pub expires: u32,
    /// It is in the last part of its time, in which a popular one is asked for anew.
    pub is_due: bool,
}

/// What becomes of expired entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// They are not wanted.
    #[default]
    Fresh,
    /// Nor are failures and truncated answers, which are no more than there is nothing better.
    Whole,
    /// They are, until so many seconds after they have expired.
    Stale(u32),
}

impl PacketCache {
    /// Creates an empty cache; `seeds` key its table.
    #[must_use]
    pub fn new(options: CacheOptions, seeds: [u64; 4]) -> Self {
        static STORES: AtomicU64 = AtomicU64::new(1);
        let store = Store {
            id: STORES.fetch_add(1, Relaxed),
            table: Table::new(options.entries_max, options.memory_max, ENTRY_BYTES_MAX),
            hasher: {
                let [a, b, c, d] = seeds;
                RandomState::with_seeds(a, b, c, d)
            },
            cleanups: AtomicU64::new(0),
            removals: bounded(removal::PLACES),
            unread: Unread::new(options.snapshot.is_some()),
        };
        let warm_up = options.warm_up.as_ref().map(|list| Arc::new(WarmUp::new(Arc::clone(list))));
        Self { options, store: Arc::new(store), warm_up }
    }

    /// Takes the entries of a cache of the configuration before, if this one has the same size and
    /// the same keys; returns whether it has.
    pub fn inherit(&mut self, before: &Self) -> bool {
        let is_same = self.options.has_store_of(&before.options);
        if is_same {
            self.store = Arc::clone(&before.store);
            if self.options.warm_up == before.options.warm_up {
                self.warm_up.clone_from(&before.warm_up);
            }
        }
        is_same
    }

    /// Returns whether both have the same entries.
    #[must_use]
    pub fn shares_entries(&self, other: &Self) -> bool {
        self.store.id == other.store.id
    }

    /// Returns the number of its entries' store in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.store.id
    }

    /// Returns the names that it begins with.
    #[must_use]
    pub fn warm_up(&self) -> Option<&Arc<WarmUp>> {
        self.warm_up.as_ref()
    }

    /// Returns whether nobody else asks anew for the entry of a key, and nobody else will; none if
    /// another thread is changing entries beside it, so that nobody knows.
    #[must_use]
    pub fn claim_refresh(&self, key: &Key) -> Option<bool> {
        self.store.table.claim_refresh(key.hash(), key.bytes())
    }

    /// The entry of a key was asked for anew in vain: somebody may ask again.
    pub fn release_refresh(&self, key: &Key) {
        self.store.table.release_refresh(key.hash(), key.bytes());
    }

    /// Returns its options.
    #[must_use]
    pub const fn options(&self) -> &CacheOptions {
        &self.options
    }

    /// Returns the hash of a key.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.store.hasher.hash_one(key)
    }

    /// Puts the answer to a query in its place: behind the question of `packet`, which ends at
    /// `question_end`, with the records' remaining TTLs. `scratch`: a buffer for one message. Without
    /// an answer, or space for it, `packet` stays as it is.
    #[inline]
    pub fn answer(
        &self,
        key: &Key,
        packet: &mut Packet<'_>,
        question_end: usize,
        wanted: Wanted,
        now: Tick,
        scratch: &mut [u8],
    ) -> Option<Hit> {
        // How long an entry is good enough as a stale answer can be longer than when it was stored.
        let at = if matches!(wanted, Wanted::Fresh | Wanted::Whole) { seconds(now) } else { 0 };
        let (len, meta) = self.store.table.get(key.hash(), key.bytes(), at, scratch)?;
        let (now, expires) = (milliseconds(now), expires_ms(&meta));
        let is_stale = now >= expires;
        match wanted {
            Wanted::Fresh | Wanted::Whole if is_stale => return None,
            Wanted::Stale(most) if now.saturating_sub(expires) > u64::from(most) * 1_000 => return None,
            // It expired before this clock began: nothing else says when.
            Wanted::Stale(_) if meta.expires == 0 && u64::from(meta.gone) * 1_000 <= now => {
                return None;
            }
            Wanted::Fresh | Wanted::Whole | Wanted::Stale(_) => {}
        }
        let options = &self.options;
        let lifetime = meta.expires.saturating_sub(meta.stored);
        let remaining = expires.saturating_sub(now);
        // Whole seconds that have passed.
        let age = lifetime - to_u32(usize::try_from(remaining.div_ceil(1_000)).unwrap_or(0)).min(lifetime);
        let ttl = match (is_stale, options.dont_age) {
            (_, true) => entry::Ttl::Unchanged,
            (true, false) => entry::Ttl::Fixed(options.stale_ttl),
            (false, false) => entry::Ttl::Aged(age),
        };
        let stored = scratch.get_mut(..len)?;
        if (is_stale || wanted == Wanted::Whole) && !entry::is_stored_worth_keeping(stored) {
            return None;
        }
        // Percent of seconds are hundredths of ten milliseconds.
        let is_due = !is_stale && remaining < u64::from(lifetime) * u64::from(options.prefetch_percent) * 10;
        entry::unpack(stored, packet, question_end, ttl).then_some(Hit {
            is_stale,
            expires: meta.expires,
            is_due,
        })
    }

    /// Returns whether the entry of a key has not expired.
    pub fn has_fresh(&self, key: &Key, now: Tick, scratch: &mut [u8]) -> bool {
        let found = self.store.table.get(key.hash(), key.bytes(), seconds(now), scratch);
        found.is_some_and(|(_, meta)| milliseconds(now) < expires_ms(&meta))
    }

    /// Returns when the entry of a key was stored, milliseconds; whether it is fresh or not.
    pub fn stored_ms(&self, key: &Key, scratch: &mut [u8]) -> Option<u64> {
        let (_, meta) = self.store.table.get(key.hash(), key.bytes(), 0, scratch)?;
        Some(u64::from(meta.stored) * 1_000 + u64::from(meta.extra))
    }

    /// Removes what is there under a key because of a newer response that is not stored for a reason, or
    /// keeps that for when no server answers.
    pub(crate) fn give_way(
        &self,
        key: &Key,
        response: &[u8],
        reason: NotCached,
        stale_seconds: u32,
        now: Tick,
        buffer: &mut Vec<u8>,
    ) {
        let stays = matches!(reason, NotCached::Malformed | NotCached::Class)
            || reason == NotCached::Cookie
                && self.keep_for_failures(key, response, stale_seconds, now, buffer);
        if !stays {
            self.supersede(key, response);
        }
    }

    /// Keeps an answer with a client's cookie without that, for when no server answers the others. Returns
    /// false if it is of no use for this.
    fn keep_for_failures(
        &self,
        key: &Key,
        response: &[u8],
        stale_seconds: u32,
        now: Tick,
        buffer: &mut Vec<u8>,
    ) -> bool {
        if stale_seconds == 0 || self.options.keys_have_cookies() || !entry::is_worth_keeping(response) {
            return false;
        }
        // Nearly all responses are as short as this.
        let (mut short, mut long) = ([0; 4_096], Vec::new());
        let bytes = match short.get_mut(..response.len()) {
            Some(bytes) => bytes,
            None => {
                long.resize(response.len(), 0);
                &mut long[..]
            }
        };
        bytes.copy_from_slice(response);
        let mut bare = Packet::new(bytes, 0, response.len());
        edns::remove_option(&mut bare, key::COOKIE);
        entry::lifetime(bare.bytes(), &self.options, None).is_ok()
            && self.insert(key, bare.bytes(), (0, stale_seconds), now, buffer).is_ok()
    }

    /// A server has answered the query with a key: if that refreshes what is there (RFC 8767, 5), that is
    /// given to nobody any more, fresh or stale.
    pub fn supersede(&self, key: &Key, response: &[u8]) {
        if entry::is_worth_keeping(response) {
            self.store.table.forget(key.hash(), key.bytes());
        }
    }

    /// Stores a response under the key of its query. `failure_ttl`: in place of the cache's own
    /// temporaryFailureTTL. `stale_seconds`: how long it is kept after it has expired. `buffer` is
    /// overwritten. Returns whether it is a new entry. For one that is not stored, what is there stays until
    /// its own end, or gives way (`give_way`).
    ///
    /// # Errors
    /// Why it is not stored.
    pub fn store(
        &self,
        key: &Key,
        response: &[u8],
        failure_ttl: Option<u32>,
        stale_seconds: u32,
        now: Tick,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, NotCached> {
        let lifetime = entry::lifetime(response, &self.options, failure_ttl)?;
        let stale_seconds = if entry::is_worth_keeping(response) { stale_seconds } else { 0 };
        self.insert(key, response, (lifetime, stale_seconds), now, buffer)
    }

    /// Stores a response as [`Self::store`] does, but for [`BRIEF`] at most, and for no time as a stale answer.
    ///
    /// # Errors
    /// Why it is not stored.
    pub fn store_briefly(
        &self,
        key: &Key,
        response: &[u8],
        now: Tick,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, NotCached> {
        let lifetime = entry::lifetime(response, &self.options, None)?;
        self.insert(key, response, (lifetime.min(BRIEF), 0), now, buffer)
    }

    /// Inserts a response that is fresh and then of use as a stale one for so many seconds.
    fn insert(
        &self,
        key: &Key,
        response: &[u8],
        (lifetime, stale_seconds): (u32, u32),
        now: Tick,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, NotCached> {
        if response.len() > self.options.entry_bytes_max {
            return Err(NotCached::TooLarge);
        }
        entry::pack(response, buffer).ok_or(NotCached::Malformed)?;
        let past = u32::try_from(milliseconds(now) % 1_000).unwrap_or(0);
        let now = seconds(now);
        let expires = now.saturating_add(lifetime);
        let gone = expires.saturating_add(stale_seconds).saturating_add(u32::from(past > 0));
        let meta = Meta { stored: now, expires, gone, extra: past };
        match self.store.table.insert(key.hash(), key.bytes(), buffer, meta, now) {
            Insert::New => Ok(true),
            Insert::Replaced => Ok(false),
            Insert::Gone => Err(NotCached::TtlTooShort),
            Insert::Busy => Err(NotCached::Busy),
            Insert::TooLarge => Err(NotCached::TooLarge),
        }
    }

    /// Touches what looking up these hashes will read, so that the waits for far memory overlap.
    pub fn prefetch(&self, hashes: &[u64]) {
        hashes.iter().for_each(|hash| self.store.table.prefetch_set(*hash));
        hashes.iter().for_each(|hash| self.store.table.prefetch_entry(*hash));
    }

    /// Removes entries of which `keep` is not true.
    fn retain(&self, mut keep: impl FnMut(&[u8], &[u8], Meta) -> bool) -> usize {
        self.store.table.visit(0..self.store.table.sets(), &mut keep)
    }

    /// Removes expired entries until no more than `most` are left, expired ones that are kept as
    /// stale included if `with_stale`. Returns how many it has removed.
    pub fn purge_expired(&self, most: usize, with_stale: bool, now: Tick) -> usize {
        let mut left = self.len();
        self.retain(|_, _, meta| {
            let has_ended =
                if with_stale { expires_ms(&meta) <= milliseconds(now) } else { meta.gone <= seconds(now) };
            let goes = left > most && has_ended;
            left -= usize::from(goes);
            !goes
        })
    }

    /// Removes entries, expired or not, until no more than `most` are left. Returns how many it has
    /// removed.
    pub fn expunge(&self, most: usize) -> usize {
        self.remove_unread(&What::Any(most));
        let mut left = self.len();
        self.retain(|_, _, _| {
            let goes = left > most;
            left -= usize::from(goes);
            !goes
        })
    }

    /// Removes the entries of a name (wire format, any case), or of all names in its zone if
    /// `suffix`; of one type, or of all. Returns how many it has removed.
    pub fn expunge_by_name(&self, qname: &[u8], qtype: Option<u16>, suffix: bool) -> usize {
        self.remove_unread(&What::Named { qname: qname.into(), qtype, suffix });
        self.retain(|bytes, _, _| !key::is_about(bytes, qname, qtype, suffix))
    }

    /// Calls `each` with every entry.
    pub fn for_each(&self, now: Tick, mut each: impl FnMut(&entry::Seen<'_>)) {
        let now = seconds(now);
        self.retain(|bytes, value, meta| {
            if let Some(seen) = entry::Seen::of(bytes, value, meta, now) {
                each(&seen);
            }
            true
        });
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.table.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the most entries that it holds.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.options.entries_max
    }

    /// Returns the memory of its table, bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.store.table.memory()
    }

    /// Returns whether a new entry replaces another one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.store.table.is_full()
    }

    /// Returns how many entries have made room for others.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.store.table.evicted()
    }
}

#[cfg(test)]
mod tests;
