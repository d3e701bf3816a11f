//! The stage of the packet cache: a query is answered from it, or its response is stored in it.

use std::net::IpAddr;

use crate::base::addr::{BackendSlot, PoolSlot};
use crate::base::narrow::{to_u8, to_u16};
use crate::base::packet::Packet;
use crate::base::time::TickDelta;
use crate::cache::entry::{lifetime, shuffle};
use crate::cache::key::{About, Subnet, question};
use crate::cache::{CacheOptions, Hit, Wanted, seconds};
use crate::rules::apply::{Decision, ResponseDecision};
use crate::rules::context::{Answered, Facts};
use crate::rules::query_state::QueryState;
use crate::rules::{apply, query_state};
use crate::shard::Shard;
use crate::shard::dispatch::outstanding::{InFlight, PendingQuery, Waiter};
use crate::shard::dispatch::query_table::EntryId;
use crate::shard::scratch::MESSAGE_MAX;
use crate::stats::drop_reason::DropReason;
use crate::stats::not_cached::NotCached;
use crate::wire::ecs::Ecs;
use crate::wire::header::{Header, rcode};
use crate::wire::{answer, ecs, padding};

use crate::shard::pipeline::coalesce::Share;
use crate::shard::pipeline::judgement::{is_failure, is_failure_to_refresh, share};
use crate::shard::pipeline::{DATAGRAM_MIN, Ending, Outcome, Query, datagram_limit, visible_client};

/// INFO-CODE of an Extended DNS Error: a stale answer (RFC 8914, 4.4).
const STALE_ANSWER: u16 = 3;
/// The same for NXDOMAIN (RFC 8914, 4.20).
const STALE_NXDOMAIN: u16 = 19;
/// Bytes of an Extended DNS Error without a text.
const EDE_BYTES: usize = 6;
/// How long no server is asked again that did not answer in time, while there is a stale answer: one
/// datagram may have been lost (RFC 8767, 5: the failure recheck timer).
const RECHECK_MAX: TickDelta = TickDelta::from_ms(5_000);

impl Shard {
    /// Looks for the answer to a query. Without one the cache-miss rules decide what becomes of it;
    /// none: it goes to a server, and the key at hand tells where its response belongs.
    pub(super) fn look_up(&mut self, query: &mut Query, packet: &mut Packet<'_>) -> Option<Outcome> {
        self.cache.key.clear();
        let slot = query.pending.pool;
        let about = self.about(query, packet)?;
        let cache = self.cx.snapshot.pool(slot).cache.as_deref()?;
        if !self.cache.key.read(packet.bytes(), about, cache) {
            return None;
        }
        if cache.options().prefetch_percent > 0 {
            self.refreshes.query.clear();
            self.refreshes.query.extend_from_slice(packet.bytes());
        }
        self.cache.limit = match &query.state {
            Some(state) => datagram_limit(state, packet),
            None => answer::udp_limit(packet.bytes()).min(MESSAGE_MAX),
        };
        if let Some(outcome) = self.answer_at_hand(query, packet) {
            return Some(outcome);
        }
        if self.cx.snapshot.chains.cache_miss.is_empty() {
            return self.miss(slot, query, packet);
        }
        let decision = self.evaluate_rules(query, packet, apply::cache_miss);
        if query.pending.pool != slot || query.state.as_ref().is_some_and(|state| state.skip_cache) {
            self.cache.key.clear();
        } else if decision == Decision::Forward
            && self.read_key_again(query, packet)
            && let Some(outcome) = self.answer_at_hand(query, packet)
        {
            return Some(outcome);
        }
        match decision {
            Decision::Forward => self.miss(slot, query, packet),
            Decision::Answered => {
                self.count_miss(slot);
                Some(Outcome::Answered)
            }
            Decision::Drop(reason) => {
                self.count_miss(slot);
                Some(Outcome::Dropped(reason))
            }
        }
    }

    /// Answers a query with the key at hand, by a fresh answer, or by an expired one while servers fail.
    fn answer_at_hand(&mut self, query: &mut Query, packet: &mut Packet<'_>) -> Option<Outcome> {
        let fresh = self.answer_cached(Wanted::Fresh, query, packet);
        if fresh.is_some() {
            return fresh;
        }
        let seconds = self.cx.snapshot.globals.stale_cache_seconds;
        if seconds == 0 || !self.has_failed_lately(query.pending.pool) {
            return None;
        }
        self.answer_cached(Wanted::Stale(seconds), query, packet)
    }

    /// Makes the key at hand that of what rules have made of a query. Returns whether it is another one.
    fn read_key_again(&mut self, query: &Query, packet: &Packet<'_>) -> bool {
        let about = self.about(query, packet);
        let Some(cache) = self.cx.snapshot.pool(query.pending.pool).cache.as_deref() else { return false };
        let is_other = self.cache.read_again(packet.bytes(), about, cache);
        if is_other && cache.options().prefetch_percent > 0 {
            self.refreshes.query.clear();
            self.refreshes.query.extend_from_slice(packet.bytes());
        }
        is_other
    }

    /// Returns whether servers have failed to answer the query with the key at hand so lately that they
    /// are not asked again, as far as any shard knows. A failure before the answer that is there, or with
    /// another configuration, says nothing.
    fn has_failed_lately(&mut self, pool: PoolSlot) -> bool {
        let (hash, cx) = (self.cache.key.hash(), &self.cx);
        let pool = cx.snapshot.pool(pool);
        let Some(cache) = pool.cache.as_deref() else { return false };
        let pause = u64::from(cache.options().failure_ttl).min(RECHECK_MAX.0 / 1_000_000_000);
        let has_failed = |pause| cx.claims().is_some_and(|claims| claims.has_failed(hash, pause, cx.now));
        if !self.cache.may_have_failed(cache, pool.zero_scope, cx.now) && !has_failed(pause) {
            return false;
        }
        let Some((failed_at, stored_ms)) = self.cache.failed_at(cache, pool.zero_scope, cx.now) else {
            return false;
        };
        let from = (stored_ms / 1_000).max(u64::from(seconds(self.cache.failing.since())));
        failed_at.is_some_and(|at| stored_ms < at.0 / 1_000_000)
            || has_failed(pause.min(u64::from(seconds(cx.now)).saturating_sub(from)))
    }

    /// The cache has no answer to a query: it waits for another one like it, or asks a server.
    fn miss(&mut self, slot: PoolSlot, query: &mut Query, packet: &Packet<'_>) -> Option<Outcome> {
        if self.cache.key.is_empty() {
            self.count_miss(slot);
            return None;
        }
        self.join_leader(query, packet).then_some(Outcome::Waits)
    }

    /// Counts a query whose key is at hand, and which ends without having kept it.
    pub(super) fn count_miss_at_hand(&self, pool: PoolSlot) {
        if self.cx.needs.cache && !self.cache.key.is_empty() {
            self.count_miss(pool);
        }
    }

    /// Counts a query that ends and has kept its key: it is a miss unless it was answered from the cache
    /// after all, by a stale answer or by what another one has got.
    pub(super) fn count_end(&self, entry: Option<EntryId>) {
        if let Some(ticket) = self.dispatcher.queries.ticket(entry)
            && ticket.own.is_none()
            && !ticket.is_hit
        {
            self.count_miss(ticket.pool);
        }
    }

    /// Counts a query that its cache had no answer to.
    pub(super) fn count_miss(&self, pool: PoolSlot) {
        self.cx.stats().cache_misses.add(1);
        self.cx.stats().pool(pool).cache_misses.add(1);
    }

    /// Returns what the key of a query needs to know besides its bytes; none when it bypasses the
    /// cache.
    fn about(&self, query: &Query, packet: &Packet<'_>) -> Option<About> {
        let pool = self.cx.snapshot.pools.get(query.pending.pool.index()).filter(|p| p.cache.is_some())?;
        let (state, client) = (query.state.as_deref(), query.pending.client);
        // The answer to a query with another name, or another client subnet, is changed for its client.
        let bypasses = |s: &QueryState| s.skip_cache || !s.original.is_empty() || !s.client_subnet.is_empty();
        if state.is_some_and(bypasses) {
            return None;
        }
        let mut about = About {
            by_stream: client.connection.is_some(),
            added: state.map_or(Ecs::Left, |state| state.added),
            subnet: None,
        };
        if pool.sends_subnet
            && let Some(state) = state.filter(|state| state.ecs.wanted)
            && (state.ecs.replace || ecs::parse(packet.bytes()).is_none())
        {
            let settings = state.ecs;
            let address = settings.address(&visible_client(client, Some(state)));
            about.subnet = Some(subnet(address, settings.v4, settings.v6));
        }
        Some(about)
    }

    /// Answers a query with the key at hand.
    fn answer_cached(
        &mut self,
        wanted: Wanted,
        query: &mut Query,
        packet: &mut Packet<'_>,
    ) -> Option<Outcome> {
        let limit = query.pending.client.connection.is_none().then_some(self.cache.limit);
        let end = usize::from(query.facts.question_end);
        let hit = self.find(query.pending.pool, wanted, packet, end)?;
        if hit.is_due {
            self.prefetch_popular(hit, query);
        }
        Some(self.deliver_hit(hit, limit, query, packet))
    }

    /// Finds the answer to a query with the key at hand, whose question ends at `question_end`.
    fn find(
        &mut self,
        pool: PoolSlot,
        wanted: Wanted,
        packet: &mut Packet<'_>,
        question_end: usize,
    ) -> Option<Hit> {
        let pool = self.cx.snapshot.pool(pool);
        let cache = pool.cache.as_deref()?;
        self.cache.answer(cache, packet, question_end, (wanted, pool.zero_scope), self.cx.now)
    }

    /// Turns an answer that was found into the one for this client, which can take `limit` bytes.
    pub(super) fn deliver_hit(
        &mut self,
        hit: Hit,
        limit: Option<usize>,
        query: &mut Query,
        packet: &mut Packet<'_>,
    ) -> Outcome {
        self.cache.key.clear();
        if let Some(ticket) = self.dispatcher.queries.ticket_mut(query.pending.waiter.entry()) {
            ticket.is_hit = true;
        }
        query_state::set_flags(packet.bytes_mut(), query_state::unpacked(query.pending.flags));
        if self.cx.snapshot.pool(query.pending.pool).cache.as_ref().is_some_and(|c| c.options().shuffle) {
            shuffle(packet.bytes_mut(), &mut self.cx.rng);
        }
        let block = if limit.is_none() { padding::block(packet.bytes()) } else { None };
        let has_room = limit.is_none_or(|limit| packet.len() + EDE_BYTES <= limit);
        if hit.is_stale && has_room {
            let is_nxdomain = Header::parse(packet.bytes()).is_some_and(|h| h.rcode() == rcode::NXDOMAIN);
            // A client without EDNS goes without.
            let _ = answer::ede(packet, if is_nxdomain { STALE_NXDOMAIN } else { STALE_ANSWER }, b"");
        }
        if query.state.is_some() || !self.cx.snapshot.chains.cache_hit.is_empty() {
            self.ensure_state(query);
            query.state.iter_mut().for_each(|state| state.is_stale = hit.is_stale);
            query.facts = Facts::of(packet.bytes());
            let decision = self.evaluate(query, None, packet, apply::cache_hit);
            if let ResponseDecision::Drop(reason) = decision {
                return Outcome::Dropped(reason);
            }
        }
        padding::restore(packet, block, MESSAGE_MAX);
        if limit.is_some_and(|limit| !answer::fit(packet, limit)) {
            return Outcome::Dropped(DropReason::AnswerTooLong);
        }
        // What a rule has dropped counts as that, here and among the hits of the whole.
        let page = self.cx.stats().pool(query.pending.pool);
        page.cache_hits.add(1);
        page.cache_stale_hits.add(u64::from(hit.is_stale));
        Outcome::Cached
    }

    /// Answers a query that no server can get with an expired answer, if there is one.
    pub(super) fn answer_stale(&mut self, query: &mut Query, packet: &mut Packet<'_>) -> Option<Outcome> {
        let seconds = self.cx.snapshot.globals.stale_cache_seconds;
        if seconds == 0 || self.cache.key.is_empty() {
            return None;
        }
        self.answer_cached(Wanted::Stale(seconds), query, packet)
    }

    /// The same for a query that has waited.
    pub(super) fn answer_stale_kept(
        &mut self,
        entry: EntryId,
        query: &mut Query,
        packet: &mut Packet<'_>,
    ) -> Option<Outcome> {
        self.cache.limit = self.dispatcher.queries.ticket(Some(entry)).map(|t| usize::from(t.limit))?;
        self.answer_stale(query, packet)
    }

    /// Keeps the key of a query that goes to a server, where it is needed for the response.
    pub(super) fn remember_key(&mut self, query: &mut Query, packet: &Packet<'_>) {
        if self.cache.key.is_empty() {
            return;
        }
        if query.pending.waiter == Waiter::Client(None) {
            query.pending.waiter = Waiter::Client(self.dispatcher.queries.open_for_cache(self.cx.now));
        }
        let entry = query.pending.waiter.entry();
        let Some((entry, ticket)) = entry.zip(self.dispatcher.queries.ticket_mut(entry)) else {
            self.count_miss(query.pending.pool);
            return self.cx.stats().pool(query.pending.pool).cache_not_stored[NotCached::TableFull].add(1);
        };
        ticket.key.copy(&self.cache.key);
        ticket.qname.clear();
        ticket.qname.extend_from_slice(query.facts.qname(packet.bytes()));
        (ticket.limit, ticket.pool) = (to_u16(self.cache.limit), query.pending.pool);
        self.lead(query.pending.pool, entry);
        self.cache.key.clear();
    }

    /// Returns whether a server's response belongs into the cache of its pool, and makes its key the
    /// one at hand.
    pub(super) fn is_to_be_stored(
        &mut self,
        entry: Option<EntryId>,
        pool: PoolSlot,
        response: &Packet<'_>,
    ) -> bool {
        if !self.cx.needs.cache {
            return false;
        }
        let pool = self.cx.snapshot.pool(pool);
        let ticket = self.dispatcher.queries.ticket(entry);
        // After a reload it may be another cache, with other keys.
        let id = pool.cache.as_ref().map(|cache| cache.id());
        let Some(ticket) = ticket.filter(|ticket| id == Some(ticket.key.store())) else { return false };
        // What is there is better than a failure.
        if ticket.own.is_some() && is_failure(response.bytes()) {
            return false;
        }
        self.cache.take(&ticket.key, response.bytes(), pool.zero_scope);
        true
    }

    /// Stores a response under the key at hand, and gives it to the queries that wait for it; returns
    /// whether it was stored.
    pub(super) fn store(
        &mut self,
        entry: Option<EntryId>,
        pool: PoolSlot,
        failure_ttl: Option<u32>,
        response: &[u8],
    ) -> bool {
        let renews = self.dispatcher.queries.is_refresh(entry);
        let (snapshot, page) = (&self.cx.snapshot, self.cx.stats().pool(pool));
        let Some(cache) = snapshot.pool(pool).cache.as_deref() else { return false };
        let seconds = snapshot.globals.stale_cache_seconds;
        let ticket = self.dispatcher.queries.ticket(entry);
        let stored = if ticket.is_some_and(|ticket| ticket.by_substitute) {
            self.cache.store_briefly(cache, response, self.cx.now)
        } else {
            self.cache.store(cache, response, (failure_ttl, seconds), renews, self.cx.now)
        };
        match stored {
            Ok(_) => {
                page.cache_inserted.add(1);
                if let Some(ticket) = self.dispatcher.queries.ticket_mut(entry) {
                    ticket.is_stored = true;
                    page.cache_refreshed.add(u64::from(ticket.own.is_some()));
                }
            }
            Err(reason) => page.cache_not_stored[reason].add(1),
        }
        self.share_response(entry, response, (stored.is_ok(), share(stored.err(), response)));
        stored.is_ok()
    }

    /// Gives a response that is not stored to the queries that wait for it, as when a reload has
    /// replaced the cache, or a rule has restarted the query in another pool.
    #[inline]
    pub(super) fn share_unstored(&mut self, entry: Option<EntryId>, response: &[u8]) {
        let queries = &self.dispatcher.queries;
        if queries.ticket(entry).is_some_and(|ticket| ticket.next.is_some() && ticket.own.is_none()) {
            let reason = lifetime(response, &CacheOptions::new(1), None).err();
            self.share_response(entry, response, (false, share(reason, response)));
        }
    }

    /// Stores a response that the rules have seen, if it belongs into a cache, and finishes it.
    pub(super) fn store_evaluated(
        &mut self,
        mut decision: ResponseDecision,
        stores: bool,
        query: &mut Query,
        by: Answered,
        packet: &mut Packet<'_>,
    ) -> ResponseDecision {
        if decision == ResponseDecision::Deliver {
            let state = query.state.as_deref();
            let (skips, failure_ttl) =
                state.map_or((false, None), |state| (state.skip_cache, state.temporary_failure_ttl));
            let pool = query.pending.pool;
            if skips {
                self.cx.stats().pool(pool).cache_not_stored[NotCached::Rule].add(u64::from(stores));
                let supersedes = stores && !self.is_refresh(query.pending.waiter.entry());
                if supersedes && let Some(cache) = self.cx.snapshot.pool(pool).cache.as_deref() {
                    self.cache.supersede(cache, packet.bytes());
                }
                let nothing = (false, Share::Nothing);
                self.share_response(query.pending.waiter.entry(), packet.bytes(), nothing);
            } else if !stores {
                self.share_unstored(query.pending.waiter.entry(), packet.bytes());
            } else if self.store(query.pending.waiter.entry(), pool, failure_ttl, packet.bytes())
                && !self.cx.snapshot.chains.cache_inserted.is_empty()
            {
                decision = self.evaluate(query, Some(by), packet, apply::cache_inserted);
            }
        }
        if matches!(decision, ResponseDecision::Deliver | ResponseDecision::Fail) {
            self.evaluate(query, Some(by), packet, |context, environment, effects| {
                apply::finish(context, environment, effects);
            });
        }
        decision
    }

    /// Returns whether a server's response is a failure in whose place an expired answer may be given:
    /// every code but NOERROR and NXDOMAIN (RFC 8767, 5), as no other one says anything of the name.
    pub(super) fn is_stale_wanted(&mut self, in_flight: &InFlight, packet: &Packet<'_>) -> bool {
        self.cx.needs.cache
            && is_failure_to_refresh(packet.bytes())
            && self.wanted_stale(in_flight, in_flight.pending.waiter.entry()).is_some()
    }

    /// Puts an expired answer in the place of a server's failure, if there is one.
    pub(super) fn answer_stale_instead(
        &mut self,
        in_flight: &InFlight,
        query: &mut Query,
        packet: &mut Packet<'_>,
    ) -> Option<Outcome> {
        let pending = &in_flight.pending;
        let entry = pending.waiter.entry();
        let wanted = self.wanted_stale(in_flight, entry)?;
        let ticket = self.dispatcher.queries.ticket(entry)?;
        let limit = usize::from(ticket.limit).max(DATAGRAM_MIN);
        // The response may have no question, or another letter case.
        let asked = question(ticket.key.bytes())?;
        let (mut message, question_end) = self.cache.message(pending.client_id, &ticket.qname, asked.qtype);
        let mut stale = Packet::new(&mut message, 0, question_end);
        let hit = self.find(pending.pool, wanted, &mut stale, question_end);
        let hit = hit.filter(|_| packet.replace(stale.bytes()));
        self.cache.give(message);
        let hit = hit?;
        let own_ttl = query.state.as_ref().and_then(|state| state.temporary_failure_ttl);
        let seconds = match own_ttl {
            Some(seconds) => seconds,
            None => self.cx.snapshot.pool(pending.pool).cache.as_ref()?.options().failure_ttl,
        };
        let pause = TickDelta::from_ms(u64::from(seconds) * 1_000);
        let pool = self.cx.snapshot.pool(pending.pool);
        self.cache.note_failure(pool.cache.as_deref()?, pool.zero_scope, self.cx.now, pause);
        let limit = pending.client.connection.is_none().then_some(limit);
        Some(self.deliver_hit(hit, limit, query, packet))
    }

    /// Answers a query that no server has answered with what another one has got meanwhile, or else with an
    /// expired answer; returns false if there is neither.
    pub(super) fn answer_cached_late(&mut self, backend: BackendSlot, in_flight: &InFlight) -> bool {
        let attempt = Ending::of_attempt(&in_flight.pending, backend, in_flight.claimed_at);
        let (pool, entry) = (in_flight.pending.pool, in_flight.pending.waiter.entry());
        if self.cx.needs.cache
            && !self.is_refresh(entry)
            && self.take_key(pool, entry)
            && self.answer_late(Wanted::Fresh, in_flight, attempt.clone()).is_some()
        {
            return true;
        }
        self.answer_stale_for(in_flight, attempt)
    }

    /// The same for a query that has waited for another one.
    pub(super) fn answer_stale_waiting(&mut self, entry: EntryId, pending: &PendingQuery) -> bool {
        let in_flight = self.waiting_in_flight(entry, pending);
        self.answer_stale_for(&in_flight, Ending::of_pending(pending))
    }

    /// Answers a query that has waited for another shard's with what that has stored; returns false if
    /// there is nothing.
    pub(super) fn answer_stored_waiting(&mut self, entry: EntryId, pending: &PendingQuery) -> bool {
        let in_flight = self.waiting_in_flight(entry, pending);
        let ending = Ending::of_pending(pending);
        let is_known = self.take_key(pending.pool, Some(entry));
        let outcome = if is_known { self.answer_late(Wanted::Fresh, &in_flight, ending) } else { None };
        outcome.is_some_and(|outcome| {
            self.count_coalesced(pending, outcome);
            true
        })
    }

    fn waiting_in_flight(&self, entry: EntryId, pending: &PendingQuery) -> InFlight {
        let claimed_at = self.dispatcher.queries.arrived(Some(entry)).unwrap_or(self.cx.now);
        InFlight { pending: *pending, claimed_at }
    }

    fn answer_stale_for(&mut self, in_flight: &InFlight, ending: Ending) -> bool {
        self.wanted_stale(in_flight, in_flight.pending.waiter.entry())
            .is_some_and(|wanted| self.answer_late(wanted, in_flight, ending).is_some())
    }

    /// Answers an outstanding query with the key at hand, whose packet is gone.
    fn answer_late(&mut self, wanted: Wanted, in_flight: &InFlight, ending: Ending) -> Option<Outcome> {
        let pending = &in_flight.pending;
        let entry = pending.waiter.entry();
        let ticket = self.dispatcher.queries.ticket(entry)?;
        let asked = question(ticket.key.bytes())?;
        let limit = usize::from(ticket.limit).max(DATAGRAM_MIN);
        let (mut message, question_end) = self.cache.message(pending.client_id, &ticket.qname, asked.qtype);
        let mut packet = Packet::new(&mut message, 0, question_end);
        let hit = self.find(pending.pool, wanted, &mut packet, question_end);
        let mut given = None;
        if let Some(hit) = hit {
            if hit.is_stale {
                self.note_timeout(pending.pool);
            }
            let mut query = self.restore_query(in_flight, &packet);
            let limit = pending.client.connection.is_none().then_some(limit);
            let outcome = self.deliver_hit(hit, limit, &mut query, &mut packet);
            given = Some(outcome);
            self.finish(Ending { state: query.state, is_late: true, ..ending }, outcome, &mut packet);
        }
        self.cache.give(message);
        given
    }

    /// The servers of a pool have not answered the query with the key at hand.
    fn note_timeout(&mut self, pool: PoolSlot) {
        let pool = self.cx.snapshot.pool(pool);
        let Some(cache) = pool.cache.as_deref() else { return };
        let pause = TickDelta::from_ms(u64::from(cache.options().failure_ttl) * 1_000).min(RECHECK_MAX);
        self.cache.note_failure(cache, pool.zero_scope, self.cx.now, pause);
    }

    /// Returns which answers are good enough for an outstanding query that servers have failed, if the
    /// cache may have one, and makes a copy of its key the one at hand.
    fn wanted_stale(&mut self, in_flight: &InFlight, entry: Option<EntryId>) -> Option<Wanted> {
        let snapshot = &self.cx.snapshot;
        let seconds = snapshot.globals.stale_cache_seconds;
        if !self.cx.needs.cache || seconds == 0 {
            return None;
        }
        let cache = snapshot.pool(in_flight.pending.pool).cache.as_ref()?;
        // Nobody waits for a stale answer to the shard's own query.
        let is_wanted = cache.options().stale_on_failure && !self.dispatcher.queries.is_refresh(entry);
        (is_wanted && self.take_key(in_flight.pending.pool, entry)).then_some(Wanted::Stale(seconds))
    }

    /// Makes a copy of an outstanding query's key the one at hand; false if it has none for the cache
    /// of its pool.
    fn take_key(&mut self, pool: PoolSlot, entry: Option<EntryId>) -> bool {
        let Some(ticket) = self.dispatcher.queries.ticket(entry) else { return false };
        let Some(cache) = self.cx.snapshot.pool(pool).cache.as_ref() else { return false };
        let is_its_own = cache.id() == ticket.key.store();
        if is_its_own {
            self.cache.key.copy(&ticket.key);
        }
        is_its_own
    }
}

/// Returns the subnet that a server gets of an address.
fn subnet(address: IpAddr, v4: u8, v6: u8) -> Subnet {
    let (family, prefix, mut bytes) = match address {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            (1, v4.min(32), bytes)
        }
        IpAddr::V6(ip) => (2, v6.min(128), ip.octets()),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    bytes = (u128::from_be_bytes(bytes) & mask).to_be_bytes();
    Subnet { family: to_u8(family), prefix, address: bytes }
}
