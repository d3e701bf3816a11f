//! The cases of outstanding queries: a bounded table of records that are used again.
//!
//! Most queries have none. One is opened for a query that rules have decided something about, or
//! that may be asked again; it lives until the last try of the query has ended.

use super::case::Case;
use super::outstanding::Key;

/// Octets of a query that is kept to be asked again. Queries are nearly always shorter (a
/// question and an OPT with client subnet, cookie and padding to 468 fit); a longer one is not
/// kept, so it is asked once.
pub const QUERY_OCTETS_MAX: usize = 512;
/// Cases of a shard: as many as one server can have outstanding queries by one socket.
const CASES_MAX: usize = 65_536;

#[derive(Debug, Default)]
struct Kept {
    case: Case,
    /// The query as it was sent; empty when it is not kept.
    query: Vec<u8>,
    /// Where it is being asked.
    tries: [Option<Key>; 2],
    /// A second server is asked when its time comes.
    retry: bool,
    /// Nothing is known of the query but its octets.
    bare: bool,
}

/// The table; grows with use and never shrinks.
#[derive(Debug, Default)]
pub struct Cases {
    kept: Vec<Kept>,
    free: Vec<u32>,
}

impl Cases {
    /// Opens a case: what `case` holds goes into the table, and it gets the memory of an older
    /// one. None when the table is full; `case` is then as it was.
    pub fn open(&mut self, case: &mut Case) -> Option<u32> {
        let at = self.open_bare()?;
        self.put(at, case);
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
        Some(at)
    }

    /// Puts what `case` holds into an open case, and the memory that was there into `case`.
    pub fn put(&mut self, at: u32, case: &mut Case) {
        if let Some(kept) = self.kept.get_mut(at as usize) {
            std::mem::swap(&mut kept.case, case);
            kept.bare = false;
        }
    }

    /// Keeps the query, to be asked again; false when it is too long. `retry`: a second server is
    /// to be asked when the first one is slow.
    pub fn keep_query(&mut self, at: u32, query: &[u8], retry: bool) -> bool {
        let Some(kept) = self.kept.get_mut(at as usize) else { return false };
        let fits = query.len() <= QUERY_OCTETS_MAX;
        if fits {
            kept.query.extend_from_slice(query);
            kept.retry = retry;
        }
        fits
    }

    /// Keeps the query as it stands by now, if one was kept.
    pub fn keep_again(&mut self, at: u32, query: &[u8]) {
        let Some(kept) = self.kept.get_mut(at as usize).filter(|k| !k.query.is_empty()) else { return };
        kept.query.clear();
        kept.query.extend_from_slice(query);
    }

    /// The case's facts; none of a bare one.
    pub fn case(&mut self, at: u32) -> Option<&mut Case> {
        self.kept.get_mut(at as usize).filter(|k| !k.bare).map(|k| &mut k.case)
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
        if (at as usize) < self.kept.len() {
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
    use crate::addr::{BackendSlot, Route, SocketSlot};

    fn key(id: u16) -> Key {
        Key { route: Route { backend: BackendSlot(1), socket: SocketSlot(0) }, id }
    }

    #[test]
    fn a_case_lives_until_it_is_closed_and_its_memory_serves_again() {
        let (mut cases, mut case) = (Cases::default(), Case::default());
        assert!(case.tags.set(b"a", b"1"));
        let first = cases.open(&mut case).expect("room");
        assert!(case.tags.is_empty(), "the caller has an empty one");
        assert_eq!(cases.case(first).and_then(|c| c.tags.value(b"a")), Some(&b"1"[..]));
        cases.close(first);
        assert_eq!(cases.open_count(), 0);
        assert_eq!(cases.open_bare(), Some(first));
        assert!(cases.is_bare(first) && cases.case(first).is_none(), "another's facts are not shown");
        cases.put(first, &mut case);
        assert!(!cases.is_bare(first) && case.tags.value(b"a").is_some(), "to be reset by who uses it next");
    }

    #[test]
    fn tries_know_each_other_until_they_end() {
        let (mut cases, mut case) = (Cases::default(), Case::default());
        let at = cases.open(&mut case).expect("room");
        cases.tried(at, key(1));
        cases.tried(at, key(2));
        assert_eq!(cases.ended(at, key(1)), Some(key(2)));
        assert_eq!(cases.ended(at, key(2)), None);
    }

    #[test]
    fn a_query_is_kept_if_it_is_short_and_retried_once() {
        let (mut cases, mut case) = (Cases::default(), Case::default());
        let at = cases.open(&mut case).expect("room");
        assert!(!cases.keep_query(at, &[0; QUERY_OCTETS_MAX + 1], true));
        assert!(cases.query(at).is_none() && !cases.take_retry(at));
        assert!(cases.keep_query(at, &[7; 40], true));
        assert_eq!(cases.query(at).map(|q| q.len()), Some(40));
        assert!(cases.take_retry(at) && !cases.take_retry(at));
    }

    #[test]
    fn there_are_no_more_than_so_many() {
        let (mut cases, mut case) = (Cases::default(), Case::default());
        assert!((0..CASES_MAX).all(|_| cases.open(&mut case).is_some()));
        assert_eq!(cases.open(&mut case), None);
    }
}
