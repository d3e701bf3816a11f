//! Removes entries for functions of the packet path: at once as far as a bounded part of the table
//! goes, and the rest a part at a time, by whoever cleans the cache.

#![expect(clippy::disallowed_types, reason = "a removal and an entry that is read are one after the other")]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::time::Tick;
use crate::cache::{PacketCache, expires_ms, key, milliseconds, seconds};
use crate::wire::records::rtype::ANY;

/// Sets with entries that one call looks at: some ten thousand entries, one or two milliseconds.
pub(super) const SETS_AT_ONCE: usize = 1_024;
/// Removals that wait at most.
pub(super) const WAITING_MAX: usize = 64;
/// Places for them: threads that ask at the same time may each be one too many.
pub(super) const PLACES: usize = 2 * WAITING_MAX;

/// What is to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The entries of a name in wire format, or of all names in its zone; of one type, or of all.
    Named {
        /// The name.
        qname: Box<[u8]>,
        /// The type; all without one.
        qtype: Option<u16>,
        /// All names in its zone.
        suffix: bool,
    },
    /// Expired entries, until no more than this number of entries is left.
    Expired(usize),
    /// Entries, until no more than this number is left.
    Any(usize),
}

/// Entries that are to be removed, and where the rest of them begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    what: What,
    /// When that was asked for; what is stored later stays.
    asked: Tick,
    from: usize,
}

/// Names that a snapshot is compared with while it is read.
const UNREAD_MAX: usize = 100_000;
/// Types of each of them; with one more, all types are meant.
const TYPES_MAX: usize = 32;

/// Entries of a snapshot that are not to be read any more: they were removed while it is read.
#[derive(Debug)]
pub(super) struct Unread(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    /// One is being read, or will be.
    is_reading: bool,
    /// All of them.
    all: bool,
    /// More were named than are kept.
    is_full: bool,
    names: Names,
    zones: Names,
}

/// Names in wire format and lower case, each with types, or `ANY`.
#[derive(Debug, Default)]
struct Names(BTreeMap<Box<[u8]>, Vec<u16>>);

impl Names {
    fn contains(&self, name: &[u8], qtype: u16) -> bool {
        self.0.get(name).is_some_and(|types| types.iter().any(|one| *one == qtype || *one == ANY))
    }

    /// Adds a name with a type. Returns false if there are too many.
    fn add(&mut self, name: &[u8], qtype: u16) -> bool {
        let name = name.to_ascii_lowercase();
        if self.contains(&name, qtype) {
            return true;
        }
        let count = self.0.len();
        match self.0.entry(name.into()) {
            Entry::Occupied(mut entry) => {
                let types = entry.get_mut();
                types.push(if types.len() < TYPES_MAX { qtype } else { ANY });
            }
            Entry::Vacant(entry) if count < UNREAD_MAX => {
                entry.insert(vec![qtype]);
            }
            Entry::Vacant(_) => return false,
        }
        true
    }
}

impl Unread {
    /// Begins with a cache, whose snapshot, if it has one, is read soon.
    pub(super) fn new(has_snapshot: bool) -> Self {
        Self(Mutex::new(Left { is_reading: has_snapshot, ..Left::default() }))
    }
}

impl Left {
    fn contains(&self, key: &[u8]) -> bool {
        if self.all {
            return true;
        }
        let Some(asked) = key::question(key).filter(|_| !self.names.0.is_empty() || !self.zones.0.is_empty())
        else {
            return false;
        };
        // The name itself, and all that it is in, down to the root.
        let mut suffixes = std::iter::successors(Some(asked.qname), |name| {
            let label = usize::from(*name.first()?);
            name.get(1 + label..).filter(|_| label > 0)
        });
        self.names.contains(asked.qname, asked.qtype)
            || suffixes.any(|suffix| self.zones.contains(suffix, asked.qtype))
    }

    fn add(&mut self, qname: &[u8], qtype: Option<u16>, suffix: bool) {
        let names = if suffix { &mut self.zones } else { &mut self.names };
        if !names.add(qname, qtype.unwrap_or(ANY)) {
            (self.all, self.is_full) = (true, true);
        }
    }
}

impl PacketCache {
    fn unread(&self) -> MutexGuard<'_, Left> {
        self.store.unread.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot begins to be read.
    pub(super) fn begin_reading(&self) {
        self.unread().is_reading = true;
    }

    /// Its reading has ended, or there is none. Returns whether the rest of it was left out because more
    /// names were removed than are kept.
    pub fn end_reading(&self) -> bool {
        std::mem::take(&mut *self.unread()).is_full
    }

    /// Returns whether a snapshot is being read, or will be: what is not there may yet come.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.unread().is_reading
    }

    /// Inserts an entry of a snapshot by `insert`, unless that was removed meanwhile; none then.
    pub(super) fn read_entry<T>(&self, key: &[u8], insert: impl FnOnce() -> T) -> Option<T> {
        // Until it is inserted no removal begins, or it might come too late for both.
        let unread = self.unread();
        (!unread.contains(key)).then(insert)
    }

    /// Entries are about to be removed: what is left to be read of a snapshot goes too. More removals than
    /// can be kept end the reading.
    pub(super) fn remove_unread(&self, what: &What) {
        let mut unread = self.unread();
        if !unread.is_reading {
            return;
        }
        match what {
            What::Expired(_) => {}
            What::Any(most) => unread.all |= *most == 0,
            What::Named { qname, qtype, suffix } => unread.add(qname, *qtype, *suffix),
        }
    }

    /// Removes entries in a first part of the table, and leaves the rest to [`Self::remove_waiting`].
    /// Returns how many it has removed.
    ///
    /// # Errors
    /// Too many removals wait already; this one has ended with its first part.
    pub fn remove_soon(&self, what: What, now: Tick) -> Result<usize, &'static str> {
        self.remove_unread(&what);
        let mut removal = Removal { what, asked: now, from: 0 };
        let removed = self.remove_part(&mut removal, SETS_AT_ONCE);
        if removal.from < self.store.table.sets() {
            let full = "too many removals of entries wait for their end";
            let waiting = &self.store.removals.0;
            if waiting.len() >= WAITING_MAX {
                return Err(full);
            }
            waiting.try_send(removal).map_err(|_| full)?;
        }
        Ok(removed)
    }

    /// Returns whether a removal waits.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.store.removals.1.is_empty()
    }

    /// Removes entries of the removal that waits for longest, in so many sets.
    pub fn remove_waiting(&self, sets: usize) {
        let Ok(mut removal) = self.store.removals.1.try_recv() else { return };
        self.remove_part(&mut removal, sets);
        if removal.from < self.store.table.sets() {
            // There are places beyond those of new ones.
            let _ = self.store.removals.0.try_send(removal);
        }
    }

    /// Removes entries in the next sets that have some. Returns how many.
    fn remove_part(&self, removal: &mut Removal, sets: usize) -> usize {
        let table = &self.store.table;
        let (mut left, now) = (table.len(), removal.asked);
        let mut removed = 0;
        for _ in 0..sets {
            let most = match removal.what {
                What::Named { .. } => 0,
                What::Expired(most) | What::Any(most) => most,
            };
            let Some(set) = table.next_used(removal.from).filter(|_| left > most) else {
                removal.from = table.sets();
                return removed;
            };
            let gone = table.visit(set..set + 1, |bytes, _, meta| {
                let goes = meta.stored <= seconds(now)
                    && match &removal.what {
                        What::Named { qname, qtype, suffix } => key::is_about(bytes, qname, *qtype, *suffix),
                        What::Expired(most) => left > *most && expires_ms(&meta) <= milliseconds(now),
                        What::Any(most) => left > *most,
                    };
                left = left.saturating_sub(usize::from(goes));
                !goes
            });
            removed += gone;
            removal.from = set + 1;
        }
        if table.next_used(removal.from).is_none() {
            removal.from = table.sets();
        }
        removed
    }

    /// Calls `each` with the entries of the first sets that have some, so many of them. Returns
    /// whether these were all entries.
    pub fn for_some(&self, sets: usize, now: Tick, mut each: impl FnMut(&super::entry::Seen<'_>)) -> bool {
        let (table, now) = (&self.store.table, seconds(now));
        let mut from = 0;
        for _ in 0..sets {
            let Some(set) = table.next_used(from) else { return true };
            table.visit(set..set + 1, |bytes, value, meta| {
                if let Some(seen) = super::entry::Seen::of(bytes, value, meta, now) {
                    each(&seen);
                }
                true
            });
            from = set + 1;
        }
        table.next_used(from).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheOptions;
    use crate::control::fixture;

    const SECOND: u64 = 1_000_000_000;

    /// A cache with many names, in more sets than one call looks at.
    fn large() -> PacketCache {
        let cache = PacketCache::new(CacheOptions::new(200_000), [1, 2, 3, 4]);
        for n in 0..30_000 {
            fixture::store_name(&cache, &format!("n{n}.a.test"), 500, Tick(0));
        }
        assert!(cache.len() > 29_000, "{}", cache.len());
        cache
    }

    fn named(name: &str, suffix: bool) -> What {
        let qname = crate::wire::name::from_text(name).expect("a name").into();
        What::Named { qname, qtype: None, suffix }
    }

    #[test]
    fn more_types_of_a_name_than_are_kept_are_all_of_them() {
        let mut left = Left::default();
        (1..=32).for_each(|qtype| left.add(b"\x01a\0", Some(qtype), false));
        assert!(left.names.contains(b"\x01a\0", 32) && !left.names.contains(b"\x01a\0", 99));
        (33..1_000).for_each(|qtype| left.add(b"\x01a\0", Some(qtype), false));
        assert!(left.names.contains(b"\x01a\0", 9_999) && !left.names.contains(b"\x01b\0", 32));
        assert_eq!((left.names.0[&b"\x01a\0"[..]].len(), left.all), (33, false));
    }

    #[test]
    fn a_small_cache_is_done_at_once() {
        let cache = PacketCache::new(CacheOptions::new(100), [1, 2, 3, 4]);
        for name in ["a.test", "b.a.test", "c.test"] {
            fixture::store_name(&cache, name, 500, Tick(0));
        }
        assert_eq!(cache.remove_soon(named("A.TEST", false), Tick(SECOND)), Ok(1));
        assert_eq!(cache.remove_soon(named("a.test", true), Tick(SECOND)), Ok(1));
        assert_eq!((cache.len(), cache.has_waiting()), (1, false));
        assert_eq!(cache.remove_soon(What::Any(0), Tick(SECOND)), Ok(1));
    }

    #[test]
    fn one_call_is_bounded_and_the_rest_follows() {
        let cache = large();
        let all = cache.len();
        let first = cache.remove_soon(named("a.test", true), Tick(SECOND)).expect("it is free");
        assert!(first > 0 && first < all, "{first} of {all}");
        // What is stored meanwhile stays.
        fixture::store_name(&cache, "new.a.test", 500, Tick(2 * SECOND));
        for _ in 0..1_000 {
            cache.remove_waiting(SETS_AT_ONCE);
        }
        assert_eq!((cache.len(), cache.has_waiting()), (1, false));
    }

    #[test]
    fn what_is_removed_is_not_read_any_more() {
        let cache = PacketCache::new(CacheOptions::new(100), [1, 2, 3, 4]);
        let key = |name: &str, qtype| {
            let query = crate::cache::tests::query(name, qtype);
            crate::cache::tests::key_of(&cache, &query, key::About::default()).expect("a key")
        };
        let is_read = |name, qtype| cache.read_entry(key(name, qtype).bytes(), || ()).is_some();
        let remove = |name: &str, qtype, suffix| {
            let qname = crate::wire::name::from_text(name).expect("a name").into();
            cache.remove_unread(&What::Named { qname, qtype, suffix });
        };
        remove("a", None, false);
        assert!(is_read("a", 1), "nothing is being read");
        cache.begin_reading();
        remove("A", None, false);
        remove("b", Some(28), false);
        remove("c", None, true);
        assert_eq!([("a", 1), ("a", 28), ("b", 28), ("c", 1)].map(|(name, t)| is_read(name, t)), [false; 4]);
        assert_eq!([("b", 1), ("aa", 1), ("d", 1)].map(|(name, t)| is_read(name, t)), [true; 3]);
        let mut below = b"\x01x\x01c\0".to_vec();
        below.splice(..0, crate::cache::tests::query("x", 1)[..12].iter().copied());
        below.extend_from_slice(&[0, 1, 0, 1]);
        let below = crate::cache::tests::key_of(&cache, &below, key::About::default()).expect("a key");
        assert!(cache.read_entry(below.bytes(), || ()).is_none(), "a name of the zone");
        remove(".", Some(1), true);
        assert_eq!([("d", 1), ("d", 28)].map(|(name, t)| is_read(name, t)), [false, true]);
        assert!(!cache.end_reading() && is_read("a", 1));
        cache.begin_reading();
        (0..UNREAD_MAX).for_each(|n| remove(&format!("n{n}"), None, false));
        assert!(is_read("d", 1) && !is_read("n7", 1));
        remove("n", None, false);
        assert!(!is_read("d", 1), "too many: all are left out");
        assert!(cache.end_reading());
    }

    #[test]
    fn what_waits_has_a_bound() {
        let cache = large();
        let ask = |n: usize| cache.remove_soon(named(&format!("n{n}.x.test"), false), Tick(SECOND));
        assert!((0..WAITING_MAX).all(|n| ask(n).is_ok()));
        assert!(ask(WAITING_MAX).is_err());
    }

    #[test]
    fn numbers_of_entries_are_kept() {
        let cache = large();
        let all = cache.len();
        let first = cache.remove_soon(What::Any(all - 10), Tick(SECOND));
        assert_eq!((first, cache.len(), cache.has_waiting()), (Ok(10), all - 10, false));
        assert_eq!(cache.remove_soon(What::Expired(0), Tick(SECOND)), Ok(0), "none has expired");
        assert_eq!(cache.remove_soon(What::Expired(all - 20), Tick(501 * SECOND)), Ok(10));
    }
}
