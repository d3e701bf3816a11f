//! Queries that wait for the response to another one like them, in place of asking a server too.
//!
//! ```text
//!  query ─► miss ─┬─► no other like it: it leads, and goes to a server
//!                 └─► another one leads: it waits in that one's list
//!  the leader has ended ─► its list is worked off, some queries in each turn
//! ```
//!
//! The lists are in the table of queries: each waiting query has an entry there.

use std::collections::{BTreeMap, VecDeque};

use crate::shard::dispatch::query_table::EntryId;
use crate::stats::drop_reason::DropReason;

/// What becomes of queries whose leader has ended.
#[derive(Debug)]
pub(crate) enum Fate {
    /// They are answered with this, as the packet cache would have stored it.
    Answered(Vec<u8>),
    /// The leader got an expired answer: they do too, if there is one for them.
    Stale,
    /// What has become of the leader concerns it alone: the next one leads.
    Again,
    /// The response is for one client alone: each asks a server by itself.
    Separate,
    /// No server has answered the leader, for this reason.
    Dropped(DropReason),
}

/// The leaders, and the lists of those that have ended.
#[derive(Debug, Default)]
pub(crate) struct Coalescing {
    leaders: BTreeMap<u64, EntryId>,
    ended: VecDeque<(EntryId, Fate)>,
    /// Queries in all lists.
    waiting: u32,
}

impl Coalescing {
    /// Returns the query that leads those with this hash, if any.
    pub(crate) fn leader(&self, hash: u64) -> Option<EntryId> {
        self.leaders.get(&hash).copied()
    }

    /// A query leads those with this hash.
    pub(crate) fn lead(&mut self, hash: u64, entry: EntryId) {
        self.leaders.insert(hash, entry);
    }

    /// A query no longer leads them.
    pub(crate) fn end(&mut self, hash: u64, entry: EntryId) {
        if self.leader(hash) == Some(entry) {
            self.leaders.remove(&hash);
        }
    }

    /// One more query waits.
    pub(crate) const fn joined(&mut self) {
        self.waiting += 1;
    }

    /// One waits no longer.
    pub(crate) const fn left(&mut self) {
        self.waiting -= 1;
    }

    /// The leader of a list has ended.
    pub(crate) fn release(&mut self, first: EntryId, fate: Fate) {
        self.ended.push_back((first, fate));
    }

    /// Takes the list that is worked off next.
    pub(crate) fn take(&mut self) -> Option<(EntryId, Fate)> {
        self.ended.pop_front()
    }

    /// Puts back what is left of it.
    pub(crate) fn put_back(&mut self, first: EntryId, fate: Fate) {
        self.ended.push_front((first, fate));
    }

    /// Returns whether there is something to do.
    pub(crate) fn is_due(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Returns whether no query leads or waits.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.leaders.is_empty() && self.waiting == 0
    }

    /// Returns the number of queries that wait.
    pub(crate) const fn waiting(&self) -> u32 {
        self.waiting
    }
}
