//! Queries that wait for the response to another one: they join it, and get what it got.

use crate::base::addr::{BackendSlot, PoolSlot};
use crate::base::narrow::to_u16;
use crate::base::packet::Packet;
use crate::cache::Hit;
use crate::cache::entry::{Ttl, pack, unpack};
use crate::cache::key::{COOKIE, question};
use crate::rules::context::Facts;
use crate::rules::query_state::QueryState;
use crate::shard::Shard;
use crate::shard::coalescing::Fate;
use crate::shard::dispatch::outstanding::{PendingQuery, Waiter};
use crate::shard::dispatch::query_table::{EntryId, Waiting};
use crate::shard::scratch::Scratch;
use crate::shard::verdict::Verdict;
use crate::stats::claims;
use crate::stats::drop_reason::DropReason;
use crate::wire::{edit, edns};

use crate::shard::pipeline::{DATAGRAM_MIN, Ending, Out, Outcome, Query};

/// What queries that wait for a response get of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// All of it.
    All,
    /// All but its cookie, which is its client's.
    WithoutCookie,
    /// Nothing: it is for one client alone.
    Nothing,
}

/// An answer that was given to another client at the same moment.
const FRESH: Hit = Hit { is_stale: false, expires: 0, is_due: false };

impl Shard {
    /// Makes a query with the key at hand wait for the response to an outstanding one like it; returns
    /// false when there is none, or the query cannot be kept.
    pub(super) fn join_leader(&mut self, query: &mut Query, packet: &Packet<'_>) -> bool {
        let pool = self.cx.snapshot.pool(query.pending.pool);
        if !pool.cache.as_ref().is_some_and(|cache| cache.options().coalesce) {
            return false;
        }
        let (hash, cx) = (self.cache.key.hash(), &self.cx);
        let leader = self.coalescing.leader(hash);
        let claim = match leader {
            Some(_) if self.dispatcher.queries.ticket(leader).is_none_or(|t| t.key != self.cache.key) => {
                return false;
            }
            Some(_) => None,
            None => match cx.claims().and_then(|claims| claims.of_other(hash, cx.index(), cx.now)) {
                Some(claim) => Some(claim),
                None => return false,
            },
        };
        let qname = query.facts.qname(packet.bytes());
        let Some(entry) = self.open_waiting(&mut query.pending, qname, packet.bytes()) else { return false };
        let queries = &mut self.dispatcher.queries;
        if let Some(claim) = claim {
            self.coalescing.park(hash, entry, claim, self.cx.now);
        } else if let Some(leader) = queries.ticket_mut(leader) {
            let next = leader.next.replace(entry);
            if let Some(ticket) = queries.ticket_mut(Some(entry)) {
                ticket.next = next;
            }
        }
        if let Some(state) = query.state.take() {
            queries.put(Some(entry), state);
        }
        true
    }

    /// Opens an entry for a query with the key at hand that waits, and keeps what is needed to answer
    /// it, or to send it later. None when it cannot be kept.
    pub(super) fn open_waiting(
        &mut self,
        pending: &mut PendingQuery,
        qname: &[u8],
        query: &[u8],
    ) -> Option<EntryId> {
        let queries = &mut self.dispatcher.queries;
        let entry = queries.open_for_cache(self.cx.now)?;
        if !queries.keep_query(Some(entry), query, false) {
            queries.close(Some(entry));
            return None;
        }
        let limit = self.cache.limit;
        pending.waiter = Waiter::Client(Some(entry));
        if pending.client.connection.is_none() {
            queries.set_limit(Some(entry), limit);
        }
        let ticket = queries.ticket_mut(Some(entry))?;
        ticket.key.copy(&self.cache.key);
        ticket.qname.clear();
        ticket.qname.extend_from_slice(qname);
        (ticket.limit, ticket.pool) = (to_u16(limit), pending.pool);
        ticket.waiting = Some(waiting(pending));
        self.coalescing.joined();
        Some(entry)
    }

    /// The query with the key at hand asks a server: those like it wait for its response, if the cache
    /// of its pool says so.
    pub(super) fn lead(&mut self, pool: PoolSlot, entry: EntryId) {
        let cx = &self.cx;
        if cx.snapshot.pool(pool).cache.as_ref().is_some_and(|cache| cache.options().coalesce) {
            self.coalescing.lead(self.cache.key.hash(), entry, cx.claims(), cx.index(), cx.now);
        }
    }

    /// Releases queries that have waited for another shard's, looking at no more than `most` lists.
    pub(in crate::shard) fn look_for_stored(&mut self, most: usize) {
        let cx = &self.cx;
        self.coalescing.look(most, cx.live_state().claims(), cx.index(), cx.now);
        while let Some(leader) = self.coalescing.take_overtaken() {
            let ticket = self.dispatcher.queries.ticket_mut(Some(leader));
            if let Some(first) = ticket.and_then(|ticket| ticket.next.take()) {
                self.coalescing.release(first, Fate::Stored);
            }
        }
    }

    /// A query that may lead others has ended, or its response has come: those go their way.
    /// `outcome`: what the other shards are told.
    pub(super) fn release_waiting(
        &mut self,
        entry: Option<EntryId>,
        outcome: claims::Outcome,
        fate: impl FnOnce() -> Fate,
    ) {
        let Some(leader) = entry else { return };
        let Some(ticket) = self.dispatcher.queries.ticket_mut(entry).filter(|t| t.waiting.is_none()) else {
            return;
        };
        let first = ticket.next.take();
        let hash = ticket.key.hash();
        let claims = (self.cx.live_state().claims(), self.cx.index());
        self.coalescing.end(hash, leader, claims, outcome, self.cx.now);
        if let Some(first) = first {
            self.coalescing.release(first, fate());
        }
    }

    /// The response to a query has come: those that wait for it get it too, unless it is for one client
    /// alone.
    pub(super) fn share_response(
        &mut self,
        entry: Option<EntryId>,
        response: &[u8],
        (is_stored, share): (bool, Share),
    ) {
        let outcome = if is_stored { claims::Outcome::Stored } else { claims::Outcome::Separate };
        self.release_waiting(entry, outcome, || {
            let mut packed = Vec::new();
            let is_packed = match share {
                Share::Nothing => false,
                Share::All => pack(response, &mut packed).is_some(),
                Share::WithoutCookie => {
                    let mut bytes = response.to_vec();
                    let mut bare = Packet::new(&mut bytes, 0, response.len());
                    edns::remove_option(&mut bare, COOKIE);
                    pack(bare.bytes(), &mut packed).is_some()
                }
            };
            if is_packed { Fate::Answered(packed) } else { Fate::Separate }
        });
    }

    /// Works off the lists of queries whose leader has ended, no more than `most` queries.
    pub(in crate::shard) fn release_coalesced(&mut self, scratch: &mut Scratch, most: usize, out: Out<'_>) {
        for _ in 0..most {
            let Some((entry, fate)) = self.coalescing.take() else { break };
            let Some(ticket) = self.dispatcher.queries.ticket_mut(Some(entry)) else { continue };
            let (pending, next) = (ticket.waiting.take(), ticket.next.take());
            self.coalescing.left();
            if let Some(waiting) = pending {
                let pending = pending_query(waiting, entry);
                match &fate {
                    Fate::Answered(stored) => self.answer_waiting(entry, &pending, stored),
                    Fate::Stored | Fate::Stale if self.answer_stored_waiting(entry, &pending) => {}
                    Fate::Stale if self.answer_stale_waiting(entry, &pending) => {}
                    Fate::Stored | Fate::Again if self.rejoin(entry, &pending) => {}
                    Fate::Stored | Fate::Stale | Fate::Again | Fate::Separate => {
                        self.send_waiting(entry, pending, None, scratch, out);
                    }
                    Fate::Dropped(reason, server) => {
                        self.fail_waiting(entry, pending, (*reason, *server), scratch, out);
                    }
                }
            }
            if let Some(next) = next {
                self.coalescing.put_back(next, fate);
            }
        }
    }

    /// Answers a query that has waited.
    fn answer_waiting(&mut self, entry: EntryId, pending: &PendingQuery, stored: &[u8]) {
        let Some(ticket) = self.dispatcher.queries.ticket(Some(entry)) else { return };
        let Some(asked) = question(ticket.key.bytes()) else { return };
        let limit = usize::from(ticket.limit).max(DATAGRAM_MIN);
        let (mut message, question_end) = self.cache.message(pending.client_id, &ticket.qname, asked.qtype);
        let mut packet = Packet::new(&mut message, 0, question_end);
        if unpack(stored, &mut packet, question_end, Ttl::Unchanged) {
            let state = self.dispatcher.queries.take_state(Some(entry));
            let mut query = Query { pending: *pending, facts: Facts::of(packet.bytes()), state };
            let limit = pending.client.connection.is_none().then_some(limit);
            let outcome = self.deliver_hit(FRESH, limit, &mut query, &mut packet);
            self.finish_waiting(pending, query.state, outcome, &mut packet);
        } else {
            self.finish_waiting(pending, None, Outcome::Dropped(DropReason::AnswerTooLong), &mut packet);
        }
        self.cache.give(message);
    }

    fn finish_waiting(
        &mut self,
        pending: &PendingQuery,
        state: Option<Box<QueryState>>,
        outcome: Outcome,
        packet: &mut Packet<'_>,
    ) {
        self.count_coalesced(pending, outcome);
        let ending = Ending { state, is_late: true, ..Ending::of_pending(pending) };
        self.finish(ending, outcome, packet);
    }

    /// Counts a query that has waited if that has answered it.
    pub(super) fn count_coalesced(&self, pending: &PendingQuery, outcome: Outcome) {
        if outcome == Outcome::Cached {
            self.cx.stats().pool(pending.pool).cache_coalesced.add(1);
        }
    }

    /// Returns whether one server is asked only because another one, which the policy prefers, has failed.
    fn is_substitute(&self, pool: PoolSlot, one: BackendSlot, other: BackendSlot) -> bool {
        let snapshot = &self.cx.snapshot;
        let order = |slot| snapshot.backend(slot).map(|backend| backend.order);
        snapshot.pool(pool).policy.prefers_by_order() && order(one) > order(other)
    }

    /// Sends a query that has waited in vain to a server; another one than `failed`, if there is one. What
    /// one of last resort says, because a datagram was lost, is for those who wait, whichever shard has them.
    fn send_waiting(
        &mut self,
        entry: EntryId,
        pending: PendingQuery,
        failed: Option<BackendSlot>,
        scratch: &mut Scratch,
        out: Out<'_>,
    ) {
        let Some(kept) = self.dispatcher.queries.query(Some(entry)) else { return };
        let mut packet = scratch.load(kept);
        edit::set_id(packet.bytes_mut(), pending.client_id);
        let state = self.dispatcher.queries.take_state(Some(entry));
        let mut query = Query { pending, facts: Facts::of(packet.bytes()), state };
        if let Some(ticket) = self.dispatcher.queries.ticket(Some(entry)) {
            self.cache.key.copy(&ticket.key);
            self.lead(query.pending.pool, entry);
        }
        let other = failed.and_then(|failed| self.select(&mut query, &mut packet, &[failed]));
        let by_substitute = failed
            .zip(other)
            .is_some_and(|(failed, other)| self.is_substitute(query.pending.pool, other, failed));
        if let Some(ticket) = self.dispatcher.queries.ticket_mut(Some(entry)) {
            ticket.by_substitute = by_substitute;
        }
        let outcome = match other.or_else(|| self.select(&mut query, &mut packet, &[])) {
            Some(backend) => self.send_kept(backend, &mut query, &mut packet),
            None if self.dispatcher.queries.is_refresh(Some(entry)) => Outcome::Dropped(DropReason::NoServer),
            None => match self.answer_stale_kept(entry, &mut query, &mut packet) {
                Some(outcome) => outcome,
                None => self.no_server(&mut query, &mut packet),
            },
        };
        let ending = Ending { state: query.state, ..Ending::of_pending(&query.pending) };
        match self.finish(ending, outcome, &mut packet) {
            Verdict::Drop(_) | Verdict::Hold => {}
            verdict @ (Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Forward(_)) => {
                out(verdict, packet.bytes_mut());
            }
        }
    }

    fn send_kept(&mut self, backend: BackendSlot, query: &mut Query, packet: &mut Packet<'_>) -> Outcome {
        if let Some(mut state) = query.state.take() {
            self.add_subnet(backend, query.pending.client, &mut state, packet);
            self.dispatcher.queries.put(query.pending.waiter.entry(), state);
        }
        let (cx, connections) = (&mut self.cx, &mut self.connections);
        let sent = self.dispatcher.restart(cx, connections, backend, &query.pending, packet);
        sent.map_or_else(Outcome::Dropped, Outcome::Sent)
    }

    /// The leader of a query has failed: one that has not waited for two of them asks for itself, and
    /// leads those behind it; another one waits for such a query, if there is one, and fails with the third.
    fn fail_waiting(
        &mut self,
        entry: EntryId,
        pending: PendingQuery,
        (reason, server): (DropReason, Option<BackendSlot>),
        scratch: &mut Scratch,
        out: Out<'_>,
    ) {
        // Another query like it may have had more luck, here or in another shard.
        if self.answer_stored_waiting(entry, &pending) {
            return;
        }
        let arrived = self.dispatcher.queries.arrived(Some(entry)).unwrap_or(self.cx.now);
        let (waited, timeout) = (self.cx.now.since(arrived), self.dispatcher.longest_timeout());
        // One more attempt for all of them, as a datagram may have been lost.
        if waited.0 < timeout.0 / 2 * 3 {
            if self.rejoin(entry, &pending) {
                return;
            }
            return self.send_waiting(entry, pending, server, scratch, out);
        }
        if self.answer_stale_waiting(entry, &pending) {
            return;
        }
        // A server is being asked for one that came later.
        if waited.0 < timeout.0 * 3 && self.rejoin(entry, &pending) {
            return;
        }
        self.finish_waiting(&pending, None, Outcome::Dropped(reason), &mut Packet::new(&mut [], 0, 0));
    }

    /// Makes a query that has waited wait for the one that leads by this time; false when none does.
    fn rejoin(&mut self, entry: EntryId, pending: &PendingQuery) -> bool {
        let queries = &mut self.dispatcher.queries;
        let Some(hash) = queries.ticket(Some(entry)).map(|ticket| ticket.key.hash()) else { return false };
        let Some(leader) = self.coalescing.leader(hash).filter(|leader| *leader != entry) else {
            return false;
        };
        let Some(ticket) = queries.ticket_mut(Some(leader)).filter(|t| t.key.hash() == hash) else {
            return false;
        };
        let next = ticket.next.replace(entry);
        if let Some(ticket) = queries.ticket_mut(Some(entry)) {
            ticket.waiting = Some(waiting(pending));
            ticket.next = next;
        }
        self.coalescing.joined();
        true
    }
}

/// Returns what is kept of a query that waits.
const fn waiting(pending: &PendingQuery) -> Waiting {
    let PendingQuery { client, client_id, question, pool, flags, waiter: _ } = *pending;
    Waiting { client, client_id, question, pool, flags }
}

/// Returns the query that waits in an entry.
const fn pending_query(waiting: Waiting, entry: EntryId) -> PendingQuery {
    let Waiting { client, client_id, question, pool, flags } = waiting;
    PendingQuery { client, client_id, question, pool, flags, waiter: Waiter::Client(Some(entry)) }
}
