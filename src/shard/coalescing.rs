//! Queries that wait for the response to another one like them, in place of asking a server too.
//!
//! ```text
//!  query ─► miss ─┬─► no other like it: it leads, and goes to a server
//!                 ├─► another one leads: it waits in that one's list
//!                 └─► another shard asks: it leads those that wait for the cache to have the answer
//!  the leader has ended ─► its list is worked off, some queries in each turn
//! ```
//!
//! The lists are in the table of queries: each waiting query has an entry there.

use std::collections::{BTreeMap, VecDeque};

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::shard::dispatch::query_table::EntryId;
use crate::stats::claims::{self, Claim, Claims};
use crate::stats::drop_reason::DropReason;

/// How long it takes to notice that another shard's query has ended, at most.
const LOOK_EVERY: TickDelta = TickDelta::from_ms(1);

/// What becomes of queries whose leader has ended.
#[derive(Debug)]
pub(crate) enum Fate {
    /// They are answered with this, as the packet cache would have stored it.
    Answered(Vec<u8>),
    /// Another shard's query has ended: its response is in the packet cache, if it could be stored.
    Stored,
    /// The leader got an expired answer: they do too, if there is one for them.
    Stale,
    /// What has become of the leader concerns it alone: the next one leads.
    Again,
    /// They ask a server: the response is for one client alone, or no client waits for it.
    Separate,
    /// No server has answered the leader, for this reason; the one that was asked, where that is known.
    Dropped(DropReason, Option<BackendSlot>),
}

/// A query that leads others.
#[derive(Debug)]
struct Leader {
    entry: EntryId,
    /// Other shards know that it asks.
    has_claim: bool,
}

/// A query that waits for one of another shard.
#[derive(Debug)]
struct Parked {
    hash: u64,
    entry: EntryId,
    /// What it waits for.
    claim: Claim,
    /// It asks a server too: only those behind it wait.
    asks: bool,
    /// When it is looked at.
    at: Tick,
}

/// The leaders, and the lists of those that have ended.
#[derive(Debug, Default)]
pub(crate) struct Coalescing {
    leaders: BTreeMap<u64, Leader>,
    /// The leaders that wait for another shard, by the time when they are looked at.
    parked: VecDeque<Parked>,
    ended: VecDeque<(EntryId, Fate)>,
    /// Leaders that still ask what another shard has got.
    overtaken: Vec<EntryId>,
    /// Queries in all lists.
    waiting: u32,
}

impl Coalescing {
    /// Returns the query that leads those with this hash, if any.
    pub(crate) fn leader(&self, hash: u64) -> Option<EntryId> {
        self.leaders.get(&hash).map(|leader| leader.entry)
    }

    /// A query of this shard leads those with this hash. `claims`: of all shards, if there are others.
    pub(crate) fn lead(
        &mut self,
        hash: u64,
        entry: EntryId,
        claims: Option<&Claims>,
        shard: usize,
        now: Tick,
    ) {
        let had_claim = self.leaders.get(&hash).is_some_and(|leader| leader.has_claim);
        let has_claim = had_claim || claims.is_some_and(|claims| claims.take(hash, shard, now));
        self.leaders.insert(hash, Leader { entry, has_claim });
        // Two shards ask: those that wait get what comes first.
        let claim = claims.filter(|_| !has_claim).and_then(|claims| claims.of_other(hash, shard, now));
        if let Some(claim) = claim {
            self.parked.push_back(Parked { hash, entry, claim, asks: true, at: now + LOOK_EVERY });
        }
    }

    /// A query no longer leads them.
    pub(crate) fn end(
        &mut self,
        hash: u64,
        entry: EntryId,
        (claims, shard): (&Claims, usize),
        outcome: claims::Outcome,
        now: Tick,
    ) {
        if self.leader(hash) == Some(entry)
            && let Some(leader) = self.leaders.remove(&hash)
            && leader.has_claim
        {
            claims.release(hash, shard, outcome, now);
        }
    }

    /// A query leads those that wait for a query of another shard, and is one that waits.
    pub(crate) fn park(&mut self, hash: u64, entry: EntryId, claim: Claim, now: Tick) {
        self.leaders.insert(hash, Leader { entry, has_claim: false });
        self.parked.push_back(Parked { hash, entry, claim, asks: false, at: now + LOOK_EVERY });
    }

    /// Releases the lists whose query another shard has ended, looking at no more than `most`.
    pub(crate) fn look(&mut self, most: usize, claims: &Claims, shard: usize, now: Tick) {
        for _ in 0..most.min(self.parked.len()) {
            if self.parked.front().is_none_or(|parked| parked.at > now) {
                break;
            }
            let Some(parked) = self.parked.pop_front() else { break };
            if parked.asks && self.leader(parked.hash) != Some(parked.entry) {
                continue;
            }
            let Some(outcome) = claims.outcome(parked.hash, parked.claim, now) else {
                self.parked.push_back(Parked { at: now + LOOK_EVERY, ..parked });
                continue;
            };
            if parked.asks {
                if outcome == claims::Outcome::Stored {
                    self.overtaken.push(parked.entry);
                }
                continue;
            }
            // A list waits for one claim only: if another shard asks by this time, its turn might never
            // come.
            self.end(parked.hash, parked.entry, (claims, shard), outcome, now);
            self.release(
                parked.entry,
                match outcome {
                    claims::Outcome::Stored => Fate::Stored,
                    claims::Outcome::Separate => Fate::Again,
                    claims::Outcome::Stale => Fate::Stale,
                    claims::Outcome::Failed => Fate::Dropped(DropReason::Timeout, None),
                },
            );
        }
    }

    /// Takes a leader that still asks what another shard has got.
    pub(crate) fn take_overtaken(&mut self) -> Option<EntryId> {
        self.overtaken.pop()
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

    /// Returns when there is something to do.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        if self.ended.is_empty() { self.parked.front().map(|parked| parked.at) } else { Some(Tick(0)) }
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
