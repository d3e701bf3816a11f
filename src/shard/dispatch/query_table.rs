//! The cases of outstanding queries: a bounded table of records that are used again.
//!
//! Most queries have none. One is opened for a query that rules have decided something about, or
//! that may be asked again; it lives until the last try of the query has ended.

use crate::base::addr::BackendSlot;
use crate::rules::query_state::{ProxiedAddresses, ProxyValues, QueryState};
use crate::shard::dispatch::outstanding::Key;
use crate::wire::transfer::Transfer;

/// Bytes of a query that is kept to be asked again. Queries are nearly always shorter (a
/// question and an OPT with client subnet, cookie and padding to 468 fit); a longer one is not
/// kept, so it is asked once.
pub const QUERY_BYTES_MAX: usize = 512;
/// Bytes of long queries that are kept for other tries, in all: those that came by connections.
const LONG_BYTES_MAX: usize = 32 << 20;
/// Servers that may fail a query before it is given up.
pub const FAILED_MAX: usize = 5;
/// Times that a query may be moved to another connection: servers that close theirs after each
/// answer make many of them.
const MOVES_MAX: u8 = 64;
/// Cases of a shard: as many as one server can have outstanding queries by one socket.
const CASES_MAX: usize = 65_536;

#[derive(Debug, Default)]
struct Kept {
    query_state: QueryState,
    /// The query as it was sent; empty when it is not kept.
    query: Vec<u8>,
    /// Where it is being asked.
    tries: [Option<Key>; 2],
    /// A second server is asked when its time comes.
    retry: bool,
    /// Nothing is known of the query but its bytes.
    bare: bool,
    /// Bytes that a client which asked by a datagram can take.
    limit: u16,
    /// It is to go by a line, though its pool would have it go as a datagram.
    by_connection: bool,
    /// The zone transfer that it asks for.
    transfer: Option<Transfer>,
    /// Servers that have failed it.
    failed: Failed,
}

/// Servers that have failed a query, and how often it has been moved.
#[derive(Clone, Copy, Debug, Default)]
struct Failed {
    servers: [BackendSlot; FAILED_MAX],
    count: u8,
    moves: u8,
}

/// The table; grows with use and never shrinks, the memory of long queries apart.
#[derive(Debug, Default)]
pub struct QueryTable {
    kept: Vec<Kept>,
    free: Vec<u32>,
    /// Bytes of long queries.
    long: usize,
}

impl QueryTable {
    /// Opens a case: what `query_state` holds goes into the table, and it gets the memory of an older
    /// one. None when the table is full; `query_state` is then as it was.
    pub fn open(&mut self, query_state: &mut QueryState) -> Option<u32> {
        let at = self.open_bare()?;
        self.put(at, query_state);
        Some(at)
    }

    /// Opens a case without facts, for a query that is only kept.
    pub fn open_bare(&mut self) -> Option<u32> {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.kept.len() < CASES_MAX => {
                self.kept.push(Kept::default());
                self.kept.len() as u32 - 1
            }
            None => return None,
        };
        let kept = &mut self.kept[at as usize];
        kept.query.clear();
        kept.tries = [None; 2];
        kept.retry = false;
        kept.bare = true;
        kept.limit = 0;
        kept.by_connection = false;
        kept.transfer = None;
        kept.failed = Failed::default();
        Some(at)
    }

    /// Puts what `query_state` holds into an open case, and the memory that was there into `query_state`.
    pub fn put(&mut self, at: u32, query_state: &mut QueryState) {
        if let Some(kept) = self.kept.get_mut(at as usize) {
            std::mem::swap(&mut kept.query_state, query_state);
            kept.bare = false;
        }
    }

    /// Keeps the query, to be asked again; false when it is too long. `retry`: a second server is
    /// to be asked when the first one is slow.
    pub fn keep_query(&mut self, at: u32, query: &[u8], retry: bool) -> bool {
        let Some(kept) = self.kept.get_mut(at as usize) else { return false };
        let fits = query.len() <= QUERY_BYTES_MAX;
        if fits {
            kept.query.extend_from_slice(query);
            kept.retry = retry;
        }
        fits
    }

    /// Keeps a query that goes by a line, or came by one: however long, while there is memory for
    /// long ones. False when it is not kept.
    pub fn keep_long(&mut self, at: u32, query: &[u8]) -> bool {
        if query.len() <= QUERY_BYTES_MAX {
            return self.keep_query(at, query, false);
        }
        let Some(kept) = self.kept.get_mut(at as usize) else { return false };
        if self.long + query.len() > LONG_BYTES_MAX {
            return false;
        }
        self.long += query.len();
        kept.query.extend_from_slice(query);
        true
    }

    /// Notes how much a client that asked by a datagram can take.
    pub fn set_limit(&mut self, at: u32, limit: usize) {
        if let Some(kept) = self.kept.get_mut(at as usize) {
            kept.limit = u16::try_from(limit).unwrap_or(u16::MAX);
        }
    }

    /// Bytes that the client can take, if that was noted.
    #[must_use]
    pub fn limit(&self, at: u32) -> Option<usize> {
        self.kept.get(at as usize).map(|k| usize::from(k.limit)).filter(|limit| *limit > 0)
    }

    /// From here on the query goes by a line.
    pub fn force_connection(&mut self, at: u32) {
        if let Some(kept) = self.kept.get_mut(at as usize) {
            kept.by_connection = true;
        }
    }

    /// Whether the query must go by a line.
    #[must_use]
    pub fn goes_by_connection(&self, at: u32) -> bool {
        self.kept.get(at as usize).is_some_and(|k| k.by_connection)
    }

    /// Notes that the query asks for a zone transfer.
    pub fn set_transfer(&mut self, at: u32, transfer: Transfer) {
        if let Some(kept) = self.kept.get_mut(at as usize) {
            kept.transfer = Some(transfer);
        }
    }

    /// The transfer that the query asks for, at its beginning.
    #[must_use]
    pub fn transfer(&self, at: u32) -> Option<Transfer> {
        self.kept.get(at as usize)?.transfer
    }

    /// Counts a move of the query to another connection: false when it has had enough of them.
    pub fn moved(&mut self, at: u32) -> bool {
        let Some(kept) = self.kept.get_mut(at as usize) else { return false };
        kept.failed.moves = kept.failed.moves.saturating_add(1);
        kept.failed.moves <= MOVES_MAX
    }

    /// Notes that a server has failed the query.
    pub fn failed_by(&mut self, at: u32, server: BackendSlot) {
        let Some(failed) = self.kept.get_mut(at as usize).map(|k| &mut k.failed) else { return };
        if let Some(place) = failed.servers.get_mut(usize::from(failed.count)) {
            *place = server;
            failed.count += 1;
        }
    }

    /// The servers that have failed the query.
    #[must_use]
    pub fn failed(&self, at: u32) -> &[BackendSlot] {
        self.kept.get(at as usize).map_or(&[], |k| &k.failed.servers[..usize::from(k.failed.count)])
    }

    /// Keeps the query as it stands by now, if one was kept.
    pub fn keep_again(&mut self, at: u32, query: &[u8]) {
        let Some(kept) = self.kept.get_mut(at as usize).filter(|k| !k.query.is_empty()) else { return };
        if kept.query.len() > QUERY_BYTES_MAX {
            self.long = self.long.saturating_sub(kept.query.len());
        }
        kept.query.clear();
        kept.query.extend_from_slice(query);
        if query.len() > QUERY_BYTES_MAX {
            self.long += query.len();
        }
    }

    /// The case's facts; none of a bare one.
    pub fn query_state(&mut self, at: u32) -> Option<&mut QueryState> {
        self.kept.get_mut(at as usize).filter(|k| !k.bare).map(|k| &mut k.query_state)
    }

    /// Between whom the query was sent at first, if not by its peer.
    #[must_use]
    pub fn proxied(&self, at: u32) -> Option<ProxiedAddresses> {
        self.kept.get(at as usize).filter(|k| !k.bare)?.query_state.proxied
    }

    /// Values that the query's server gets in its PROXY header; none of a bare case.
    #[must_use]
    pub fn proxy_values(&self, at: u32) -> Option<&ProxyValues> {
        self.kept.get(at as usize).filter(|k| !k.bare).map(|k| &k.query_state.proxy)
    }

    /// Whether there is nothing that concerns the query's answer.
    #[must_use]
    pub fn is_bare(&self, at: u32) -> bool {
        self.kept.get(at as usize).is_none_or(|k| k.bare)
    }

    /// The query that was kept, to be edited.
    pub fn query(&mut self, at: u32) -> Option<&mut [u8]> {
        self.kept.get_mut(at as usize).map(|k| k.query.as_mut_slice()).filter(|q| !q.is_empty())
    }

    /// Whether a second server is to be asked; true once.
    pub fn take_retry(&mut self, at: u32) -> bool {
        self.kept.get_mut(at as usize).is_some_and(|k| std::mem::take(&mut k.retry))
    }

    /// Notes a try.
    pub fn tried(&mut self, at: u32, key: Key) {
        let Some(kept) = self.kept.get_mut(at as usize) else { return };
        if let Some(place) = kept.tries.iter_mut().find(|t| t.is_none()) {
            *place = Some(key);
        }
    }

    /// Forgets a try that has ended; says which other one goes on.
    pub fn ended(&mut self, at: u32, key: Key) -> Option<Key> {
        let kept = self.kept.get_mut(at as usize)?;
        for place in &mut kept.tries {
            if *place == Some(key) {
                *place = None;
            }
        }
        kept.tries.iter().flatten().next().copied()
    }

    /// Closes a case; a number that is none does nothing.
    pub fn close(&mut self, at: u32) {
        if let Some(kept) = self.kept.get_mut(at as usize) {
            if kept.query.len() > QUERY_BYTES_MAX {
                self.long = self.long.saturating_sub(kept.query.len());
                kept.query = Vec::new();
            }
            self.free.push(at);
        }
    }

    /// Cases that are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.kept.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::{Route, SocketSlot};

    fn key(id: u16) -> Key {
        Key { route: Route { backend: BackendSlot(1), socket: SocketSlot(0) }, id }
    }

    #[test]
    fn a_case_lives_until_it_is_closed_and_its_memory_serves_again() {
        let (mut query_table, mut query_state) = (QueryTable::default(), QueryState::default());
        assert!(query_state.tags.set(b"a", b"1"));
        let first = query_table.open(&mut query_state).expect("room");
        assert!(query_state.tags.is_empty(), "the caller has an empty one");
        assert_eq!(query_table.query_state(first).and_then(|c| c.tags.value(b"a")), Some(&b"1"[..]));
        query_table.close(first);
        assert_eq!(query_table.open_count(), 0);
        assert_eq!(query_table.open_bare(), Some(first));
        assert!(
            query_table.is_bare(first) && query_table.query_state(first).is_none(),
            "another's facts are not shown"
        );
        query_table.put(first, &mut query_state);
        assert!(
            !query_table.is_bare(first) && query_state.tags.value(b"a").is_some(),
            "to be reset by who uses it next"
        );
    }

    #[test]
    fn tries_know_each_other_until_they_end() {
        let (mut query_table, mut query_state) = (QueryTable::default(), QueryState::default());
        let at = query_table.open(&mut query_state).expect("room");
        query_table.tried(at, key(1));
        query_table.tried(at, key(2));
        assert_eq!(query_table.ended(at, key(1)), Some(key(2)));
        assert_eq!(query_table.ended(at, key(2)), None);
    }

    #[test]
    fn a_query_is_kept_if_it_is_short_and_retried_once() {
        let (mut query_table, mut query_state) = (QueryTable::default(), QueryState::default());
        let at = query_table.open(&mut query_state).expect("room");
        assert!(!query_table.keep_query(at, &[0; QUERY_BYTES_MAX + 1], true));
        assert!(query_table.query(at).is_none() && !query_table.take_retry(at));
        assert!(query_table.keep_query(at, &[7; 40], true));
        assert_eq!(query_table.query(at).map(|q| q.len()), Some(40));
        assert!(query_table.take_retry(at) && !query_table.take_retry(at));
    }

    #[test]
    fn there_are_no_more_than_so_many() {
        let (mut query_table, mut query_state) = (QueryTable::default(), QueryState::default());
        assert!((0..CASES_MAX).all(|_| query_table.open(&mut query_state).is_some()));
        assert_eq!(query_table.open(&mut query_state), None);
    }
}
