//! What is kept of outstanding queries besides their slots: a bounded table of records that are
//! reused.
//!
//! Most queries have no entry. One is opened for a query for which rules have decided something, or
//! that may have further attempts; it is closed when the last attempt of the query has ended.
//!
//! ```text
//!  EntryId { index, generation } ─► Entry { state, query as sent, attempts, failed servers }
//! ```
//!
//! An [`EntryId`] outlives its entry: once that is closed, nothing is read, changed or closed by
//! the id.

use crate::base::addr::{BackendSlot, Client, PoolSlot};
use crate::base::narrow::to_u16;
use crate::base::time::Tick;
use crate::cache::key::Key as CacheKey;
use crate::rules::query_state::{ProxiedAddresses, ProxyValues, QueryState};
use crate::shard::dispatch::key::Key;
use crate::stats::shadow_queue::ShadowId;
use crate::wire::transfer::Transfer;

/// Bytes of a query whose memory an entry keeps for the next one. Queries are nearly always shorter:
/// a question and an OPT with client subnet, cookie and padding to 468 fit.
const QUERY_BYTES_SHORT: usize = 512;
/// Bytes of longer queries that are kept for further attempts, in all: the next one is not kept, and
/// has one attempt.
const LONG_BYTES_MAX: usize = 32 << 20;
/// Servers that may fail a query before it is given up.
pub const FAILED_MAX: usize = 5;
/// Times that a query may be moved to another connection: servers that close theirs after each
/// response cause many moves.
const MOVES_MAX: u8 = 64;
/// Entries of a shard: as many as one server can have outstanding queries on one socket.
const ENTRIES_MAX: usize = 65_536;

/// Entries that may be opened for the packet cache alone.
const CACHED_MAX: usize = ENTRIES_MAX / 4 * 3;

/// A query that waits for the response to another one like it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) client: Client,
    pub(crate) client_id: u16,
    pub(crate) question: u64,
    pub(crate) pool: PoolSlot,
    pub(crate) flags: u8,
}

/// What the packet cache needs of an outstanding query.
#[derive(Debug, Default)]
pub(crate) struct CacheTicket {
    /// Its key; empty when its response is not to be stored.
    pub(crate) key: CacheKey,
    /// Its name as the client has written it.
    pub(crate) qname: Vec<u8>,
    /// Bytes that its client can take.
    pub(crate) limit: u16,
    /// Of a query that waits for the response to another one like it: whose it is.
    pub(crate) waiting: Option<Waiting>,
    /// The first query that waits for this one's response; of one that waits, the next one.
    pub(crate) next: Option<EntryId>,
    /// It is the shard's own: its response is stored, and nobody gets it.
    pub(crate) own: Option<Own>,
    /// Its response was stored.
    pub(crate) is_stored: bool,
    /// The pool in whose cache it was looked for.
    pub(crate) pool: PoolSlot,
    /// It was counted as a hit.
    pub(crate) is_hit: bool,
    /// Its server was asked because one that is preferred has failed: its response is stored briefly.
    pub(crate) by_substitute: bool,
}

/// Why a shard asks for something itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// It is popular, and expires soon.
    Popular,
    /// It is of this list with which the cache begins, and has this number there.
    WarmUp(u32, u32),
}

impl CacheTicket {
    fn clear(&mut self) {
        self.key.clear();
        (self.waiting, self.next, self.own) = (None, None, None);
        (self.is_stored, self.is_hit, self.by_substitute) = (false, false, false);
    }
}

/// An entry and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId {
    index: u16,
    generation: u16,
}

impl EntryId {
    /// The first generation of the first entry, for slots without an entry.
    pub(super) const FIRST: Self = Self { index: 0, generation: 0 };

    /// Packs a number into the place of an entry, for a slot that has none.
    pub(super) const fn of_number(number: u32) -> Self {
        let [a, b, c, d] = number.to_le_bytes();
        Self { index: u16::from_le_bytes([a, b]), generation: u16::from_le_bytes([c, d]) }
    }

    /// Returns that number.
    pub(super) const fn number(self) -> u32 {
        let ([a, b], [c, d]) = (self.index.to_le_bytes(), self.generation.to_le_bytes());
        u32::from_le_bytes([a, b, c, d])
    }
}

#[derive(Debug, Default)]
struct Entry {
    generation: u16,
    is_open: bool,
    /// When the query arrived.
    arrived: Tick,
    /// The query state, unless it is empty or taken out.
    state: Option<Box<QueryState>>,
    /// The query as it was sent; empty when it is not kept.
    query: Vec<u8>,
    /// Its attempts in flight.
    attempts: [Option<Key>; 2],
    /// A second server is queried after the pool's delay.
    retry: bool,
    /// Bytes that a client which sent a datagram can take.
    limit: u16,
    /// It must use a connection, even if its pool sends queries as datagrams.
    requires_connection: bool,
    /// The zone transfer that it requests.
    transfer: Option<Transfer>,
    /// The server of its last attempt gets the client's subnet.
    with_subnet: bool,
    /// Servers that have failed it.
    failed: Failed,
    /// What the packet cache needs to store its response, or to answer it in place of one.
    cached: CacheTicket,
}

/// Servers that have failed a query, and how often it was moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failed {
    servers: [BackendSlot; FAILED_MAX],
    count: u8,
    moves: u8,
}

impl Failed {
    /// Returns the servers.
    #[must_use]
    pub fn as_slice(&self) -> &[BackendSlot] {
        &self.servers[..usize::from(self.count)]
    }
}

/// The table; grows with use and never shrinks, except for the memory of long queries.
#[derive(Debug, Default)]
pub struct QueryTable {
    entries: Vec<Entry>,
    free: Vec<u16>,
    /// Query states to be reused. Boxed, as entries have them: a state of 300 bytes is never moved.
    #[expect(clippy::vec_box, reason = "boxes come from entries and go back to them")]
    spare: Vec<Box<QueryState>>,
    /// Bytes of long queries.
    long: usize,
}

impl QueryTable {
    /// Returns a query state that the caller must reset; [`QueryTable::recycle`] takes it back.
    pub fn new_state(&mut self) -> Box<QueryState> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a query state for reuse.
    pub fn recycle(&mut self, state: Box<QueryState>) {
        self.spare.push(state);
    }

    /// Opens an entry without a query state, for a query that has arrived at `now`. Returns none when
    /// the table is full.
    #[inline]
    pub fn open(&mut self, now: Tick) -> Option<EntryId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < ENTRIES_MAX => {
                self.entries.push(Entry::default());
                to_u16(self.entries.len() - 1)
            }
            None => return None,
        };
        let entry = &mut self.entries[usize::from(index)];
        entry.cached.clear();
        debug_assert!(!entry.is_open, "a free entry is closed");
        entry.is_open = true;
        entry.arrived = now;
        entry.query.clear();
        entry.attempts = [None; 2];
        entry.retry = false;
        entry.limit = 0;
        entry.requires_connection = false;
        entry.transfer = None;
        entry.failed = Failed::default();
        Some(EntryId { index, generation: entry.generation })
    }

    /// Opens an entry for a query whose response goes into the packet cache, unless that would take
    /// one of the last, which other queries cannot do without.
    pub(crate) fn open_for_cache(&mut self, now: Tick) -> Option<EntryId> {
        if self.open_count() < CACHED_MAX { self.open(now) } else { None }
    }

    /// Returns what the packet cache needs; it is empty unless it was set. None for an id that is not
    /// open.
    pub(crate) fn ticket_mut(&mut self, id: Option<EntryId>) -> Option<&mut CacheTicket> {
        self.entry_mut(id).map(|entry| &mut entry.cached)
    }

    /// The same, unless it is empty.
    #[inline]
    pub(crate) fn ticket(&self, id: Option<EntryId>) -> Option<&CacheTicket> {
        self.entry(id).map(|entry| &entry.cached).filter(|ticket| !ticket.key.is_empty())
    }

    /// Returns whether the query is the shard's own, so that nobody waits for an answer.
    #[inline]
    pub(crate) fn is_refresh(&self, id: Option<EntryId>) -> bool {
        self.entry(id).is_some_and(|entry| entry.cached.own.is_some())
    }

    /// Returns when the query arrived.
    #[must_use]
    #[inline]
    pub fn arrived(&self, id: Option<EntryId>) -> Option<Tick> {
        self.entry(id).map(|e| e.arrived)
    }

    #[inline]
    fn entry(&self, id: Option<EntryId>) -> Option<&Entry> {
        let id = id?;
        self.entries.get(usize::from(id.index)).filter(|e| e.is_open && e.generation == id.generation)
    }

    #[inline]
    fn entry_mut(&mut self, id: Option<EntryId>) -> Option<&mut Entry> {
        let id = id?;
        self.entries.get_mut(usize::from(id.index)).filter(|e| e.is_open && e.generation == id.generation)
    }

    /// Stores a query state in an open entry.
    pub fn put(&mut self, id: Option<EntryId>, state: Box<QueryState>) {
        let unused = match self.entry_mut(id) {
            Some(entry) => entry.state.replace(state),
            None => Some(state),
        };
        self.spare.extend(unused);
    }

    /// Returns the number of a query that a second pool gets too; once.
    pub(crate) fn take_shadow(&mut self, id: Option<EntryId>) -> Option<ShadowId> {
        self.entry_mut(id)?.state.as_mut()?.take_shadow()
    }

    /// Takes the query state out of an entry until it is put back or recycled.
    pub fn take_state(&mut self, id: Option<EntryId>) -> Option<Box<QueryState>> {
        self.entry_mut(id)?.state.take()
    }

    /// Keeps the query for further attempts; `retry`: a second server is queried when the first one
    /// is slow. Returns false when there is no memory for another long one.
    pub fn keep_query(&mut self, id: Option<EntryId>, query: &[u8], retry: bool) -> bool {
        let long = self.long + long_bytes(query.len());
        let Some(entry) = self.entry_mut(id).filter(|_| long <= LONG_BYTES_MAX) else { return false };
        entry.query.extend_from_slice(query);
        entry.retry = retry;
        self.long = long;
        true
    }

    /// Stores the size that a client which sent a datagram can take.
    pub fn set_limit(&mut self, id: Option<EntryId>, limit: usize) {
        if let Some(entry) = self.entry_mut(id) {
            entry.limit = u16::try_from(limit).unwrap_or(u16::MAX);
        }
    }

    /// Returns the size that the client can take, if it was stored.
    #[must_use]
    pub fn limit(&self, id: Option<EntryId>) -> Option<usize> {
        self.entry(id).map(|e| usize::from(e.limit)).filter(|limit| *limit > 0)
    }

    /// Makes the query use a connection from here on.
    pub fn require_connection(&mut self, id: Option<EntryId>) {
        if let Some(entry) = self.entry_mut(id) {
            entry.requires_connection = true;
        }
    }

    /// Returns whether the query must use a connection.
    #[must_use]
    pub fn requires_connection(&self, id: Option<EntryId>) -> bool {
        self.entry(id).is_some_and(|e| e.requires_connection)
    }

    /// Stores the zone transfer that the query requests.
    pub fn set_transfer(&mut self, id: Option<EntryId>, transfer: Transfer) {
        if let Some(entry) = self.entry_mut(id) {
            entry.transfer = Some(transfer);
        }
    }

    /// Returns a copy of the query's transfer, in its initial state.
    #[must_use]
    pub fn transfer(&self, id: Option<EntryId>) -> Option<Transfer> {
        self.entry(id)?.transfer
    }

    /// Counts a move of the query to another connection; returns false when it had too many.
    pub fn moved(&mut self, id: Option<EntryId>) -> bool {
        let Some(entry) = self.entry_mut(id) else { return false };
        entry.failed.moves = entry.failed.moves.saturating_add(1);
        entry.failed.moves <= MOVES_MAX
    }

    /// Records that a server has failed the query.
    pub fn failed_by(&mut self, id: Option<EntryId>, server: BackendSlot) {
        let Some(failed) = self.entry_mut(id).map(|e| &mut e.failed) else { return };
        if let Some(place) = failed.servers.get_mut(usize::from(failed.count)) {
            *place = server;
            failed.count += 1;
        }
    }

    /// Returns the servers that have failed the query.
    #[must_use]
    pub fn failed(&self, id: Option<EntryId>) -> Failed {
        self.entry(id).map_or_else(Failed::default, |e| e.failed)
    }

    /// Returns whether this server has failed the query.
    #[must_use]
    pub fn has_failed(&self, id: Option<EntryId>, server: BackendSlot) -> bool {
        self.entry(id).is_some_and(|e| e.failed.as_slice().contains(&server))
    }

    /// Replaces the kept query by its current bytes, if one was kept.
    pub fn keep_again(&mut self, id: Option<EntryId>, query: &[u8]) {
        let Some(entry) = self.entry_mut(id).filter(|e| !e.query.is_empty()) else { return };
        let before = entry.query.len();
        entry.query.clear();
        entry.query.extend_from_slice(query);
        self.long = self.long.saturating_sub(long_bytes(before)) + long_bytes(query.len());
    }

    /// Returns the original addresses of the query, if it came with a PROXY header.
    #[must_use]
    pub fn proxied(&self, id: Option<EntryId>) -> Option<ProxiedAddresses> {
        self.entry(id)?.state.as_ref()?.proxied
    }

    /// Returns the values that the query's server gets in its PROXY header; none without a query
    /// state.
    #[must_use]
    pub fn proxy_values(&self, id: Option<EntryId>) -> Option<&ProxyValues> {
        self.entry(id)?.state.as_ref().map(|state| &state.proxy)
    }

    /// Returns whether the entry holds a query state.
    #[must_use]
    #[inline]
    pub fn has_state(&self, id: Option<EntryId>) -> bool {
        self.entry(id).is_some_and(|e| e.state.is_some())
    }

    /// Returns the query that was kept.
    #[must_use]
    #[inline]
    pub fn query(&self, id: Option<EntryId>) -> Option<&[u8]> {
        self.entry(id).map(|e| e.query.as_slice()).filter(|q| !q.is_empty())
    }

    /// Returns whether a second server is to be queried; true once.
    pub fn take_retry(&mut self, id: Option<EntryId>) -> bool {
        self.entry_mut(id).is_some_and(|e| std::mem::take(&mut e.retry))
    }

    /// Records whether the query is as servers get it that get the client's subnet, before it has an
    /// attempt.
    pub fn set_subnet(&mut self, id: Option<EntryId>, with_subnet: bool) {
        if let Some(entry) = self.entry_mut(id) {
            entry.with_subnet = with_subnet;
        }
    }

    /// Records an attempt on a server; `with_subnet`: that gets the client's subnet.
    pub fn attempted(&mut self, id: Option<EntryId>, key: Key, with_subnet: bool) {
        let Some(entry) = self.entry_mut(id) else { return };
        entry.with_subnet = with_subnet;
        if let Some(place) = entry.attempts.iter_mut().find(|a| a.is_none()) {
            *place = Some(key);
        }
    }

    /// Returns whether the server of the last attempt gets the client's subnet; its configuration
    /// may have changed since. Returns none without an entry.
    #[must_use]
    pub fn with_subnet(&self, id: Option<EntryId>) -> Option<bool> {
        self.entry(id).map(|entry| entry.with_subnet)
    }

    /// Removes an attempt that has ended; returns the other one if that is still in flight.
    #[inline]
    pub fn ended(&mut self, id: Option<EntryId>, key: Key) -> Option<Key> {
        let entry = self.entry_mut(id)?;
        for place in &mut entry.attempts {
            if *place == Some(key) {
                *place = None;
            }
        }
        entry.attempts.iter().flatten().next().copied()
    }

    /// Closes an entry; does nothing for an id that is not open.
    #[inline]
    pub fn close(&mut self, id: Option<EntryId>) {
        let Some(entry) = self.entry_mut(id) else { return };
        entry.is_open = false;
        entry.generation = entry.generation.wrapping_add(1);
        let state = entry.state.take();
        let long = entry.query.len();
        if long > QUERY_BYTES_SHORT {
            entry.query = Vec::new();
            self.long = self.long.saturating_sub(long);
        }
        self.spare.extend(state);
        self.free.extend(id.map(|id| id.index));
    }

    /// Returns the number of open entries.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

/// Returns how much a query of this length counts as a long one.
const fn long_bytes(len: usize) -> usize {
    if len > QUERY_BYTES_SHORT { len } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::{Route, SocketSlot};

    fn key(id: u16) -> Key {
        Key { route: Route { backend: BackendSlot(1), socket: SocketSlot::Datagram(0) }, id }
    }

    #[test]
    fn memory_of_a_closed_entry_is_reused() {
        let mut table = QueryTable::default();
        let mut state = table.new_state();
        assert!(state.tags.set(b"a", b"1"));
        let first = table.open(Tick(0));
        assert!(first.is_some() && !table.has_state(first));
        table.put(first, state);
        assert!(table.has_state(first));
        let state = table.take_state(first).expect("the state");
        assert_eq!((state.tags.value(b"a"), table.has_state(first)), (Some(&b"1"[..]), false));
        table.put(first, state);
        table.close(first);
        assert_eq!((table.open_count(), table.spare.len()), (0, 1));
        let second = table.open(Tick(0));
        assert_eq!(second.map(|id| id.index), first.map(|id| id.index), "the memory is reused");
        assert!(!table.has_state(second), "another's state is not shown");
        let state = table.new_state();
        assert!(state.tags.value(b"a").is_some() && table.spare.is_empty(), "the caller must reset it");
        table.put(None, state);
        assert_eq!(table.spare.len(), 1, "no state is lost");
    }

    #[test]
    fn id_of_a_closed_entry_is_invalid() {
        let mut table = QueryTable::default();
        let stale = table.open(Tick(0));
        table.close(stale);
        let live = table.open(Tick(0));
        table.put(live, Box::default());
        table.keep_query(live, b"kept", true);
        assert!(!table.has_state(stale) && table.query(stale).is_none() && !table.take_retry(stale));
        table.keep_again(stale, b"another");
        table.failed_by(stale, BackendSlot(1));
        table.close(stale);
        assert_eq!(
            (table.open_count(), table.query(live), table.failed(live).as_slice()),
            (1, Some(&b"kept"[..]), &[][..])
        );
        table.close(live);
        table.close(live);
        assert_eq!((table.open_count(), table.free.len()), (0, 1), "an entry is free once");
    }

    #[test]
    fn attempts_are_linked_until_they_end() {
        let mut table = QueryTable::default();
        let id = table.open(Tick(0));
        table.attempted(id, key(1), false);
        table.attempted(id, key(2), false);
        assert_eq!(table.ended(id, key(1)), Some(key(2)));
        assert_eq!(table.ended(id, key(2)), None);
    }

    #[test]
    fn a_query_of_any_length_is_kept_and_retried_once() {
        let mut table = QueryTable::default();
        for len in [40, QUERY_BYTES_SHORT + 1, 4_096] {
            let id = table.open(Tick(0));
            assert!(table.keep_query(id, &vec![7; len], true));
            assert_eq!(table.query(id).map(<[u8]>::len), Some(len));
            assert!(table.take_retry(id) && !table.take_retry(id));
            table.close(id);
            assert_eq!(table.long, 0);
        }
    }

    #[test]
    fn memory_of_long_queries_is_bounded() {
        let mut table = QueryTable::default();
        let long = vec![7; 65_535];
        let kept = (0..1_000)
            .filter(|_| {
                let id = table.open(Tick(0));
                table.keep_query(id, &long, true)
            })
            .count();
        assert_eq!(kept, LONG_BYTES_MAX / 65_535);
        let id = table.open(Tick(0));
        assert!(!table.keep_query(id, &[7; QUERY_BYTES_SHORT + 1], true));
        assert!(table.query(id).is_none() && !table.take_retry(id));
        assert!(table.keep_query(id, &[7; QUERY_BYTES_SHORT], true), "short ones are not counted");
    }

    #[test]
    fn table_is_bounded() {
        let mut table = QueryTable::default();
        assert!((0..ENTRIES_MAX).all(|_| table.open(Tick(0)).is_some()));
        assert_eq!(table.open(Tick(0)), None);
    }
}
