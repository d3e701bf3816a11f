//! Responses of servers: matched with their queries, evaluated by rules, stored, delivered; or the
//! query is asked again.

use crate::base::addr::{BackendSlot, PoolSlot, Route};
use crate::base::packet::Packet;
use crate::rules::apply::ResponseDecision;
use crate::rules::context::{Answered, Facts};
use crate::rules::{apply, query_state};
use crate::shard::Shard;
use crate::shard::dispatch::outstanding::{InFlight, Key, Lookup, PendingQuery, Waiter};
use crate::shard::shadows;
use crate::shard::verdict::Verdict;
use crate::stats::drop_reason::DropReason;
use crate::stats::shadow_queue::Side;
use crate::wire::ecs::Ecs;
use crate::wire::header::{Header, rcode};
use crate::wire::query::Question;
use crate::wire::{answer, ecs, edit, edns, keepalive, padding, signature};

use crate::shard::pipeline::{DATAGRAM_MIN, Ending, Outcome, Query, datagram_limit};

impl Shard {
    /// Handles a backend's response. It is edited into the answer for the client.
    pub fn on_response(&mut self, from: Route, packet: &mut Packet<'_>) -> Verdict {
        let cx = &self.cx;
        let message = packet.bytes();
        let Some(header) = Header::parse(message) else {
            return cx.unexpected(from, DropReason::ResponseShort);
        };
        if !header.is_response() {
            return cx.unexpected(from, DropReason::ResponseNotResponse);
        }
        let mut key = Key { route: from, id: header.id() };
        let is_transfer = from.is_connection() && self.connections.backends.is_transfer(from);
        if is_transfer {
            match self.connections.backends.id_in_table(from, key.id) {
                Some(id) => key.id = id,
                None => return self.on_unmatched(key, Lookup::Foreign, packet),
            }
        }
        let in_flight = match self.dispatcher.outstanding.find(key) {
            Lookup::Live(in_flight) => in_flight,
            ended @ (Lookup::Settled(_) | Lookup::Expired(_) | Lookup::Foreign) => {
                return self.on_unmatched(key, ended, packet);
            }
        };
        if !in_flight.pending.has_opcode_of(message) {
            return self.on_unmatched(key, Lookup::Live(in_flight), packet);
        }
        // One that nothing but a rule edits is looked at when there are rules.
        let is_by_connection = from.is_connection() || in_flight.pending.client.connection.is_some();
        let block = if is_by_connection { padding::block(message) } else { None };
        if is_transfer {
            return self.on_transfer(key, &in_flight, block, packet);
        }
        let (code, pending) = (header.rcode(), &in_flight.pending);
        if header.qdcount() == 0 {
            // A server that refuses may not have parsed the question; a header with NOERROR or
            // NXDOMAIN and without a question is of no use to a client.
            let is_empty = matches!(code, rcode::NOERROR | rcode::NXDOMAIN);
            if is_empty && !cx.snapshot.globals.allow_empty_response {
                return cx.unexpected(from, DropReason::ResponseEmpty);
            }
        } else if Question::parse(message).is_none_or(|q| cx.hash(&q) != pending.question) {
            // RFC 5452, 9.1: "the question section of the reply ... matches that of the query".
            return self.on_unmatched(key, Lookup::Live(in_flight), packet);
        }
        let unawaited = match pending.waiter {
            Waiter::Client(_) => None,
            Waiter::Nobody => Some(DropReason::ResponseDuplicate),
            Waiter::Copy => Some(DropReason::TeeResponse),
            Waiter::Shadow(id) => {
                self.dispatcher.settle_unawaited(cx, &self.connections, key, &in_flight, code);
                shadows::responded(cx, id, Side::Shadow, from.backend, in_flight.claimed_at, message);
                return Verdict::Hold;
            }
        };
        if let Some(reason) = unawaited {
            self.dispatcher.settle_unawaited(cx, &self.connections, key, &in_flight, code);
            return cx.drop(reason);
        }
        let bucket = self.dispatcher.settle(cx, &self.connections, key, &in_flight, code);
        let client = pending.client;
        if !self.is_refresh(pending.waiter.entry()) {
            if let Some(bucket) = bucket {
                cx.stats().servers.latency.count_one(bucket);
            }
            let page = cx.stats().listener(client.listener, client.connection.is_some());
            page.latency.record(cx.now.since(in_flight.claimed_at));
        }
        if header.is_truncated() && !from.is_connection() && pending.client.connection.is_some() {
            let (cx, connections) = (&mut self.cx, &mut self.connections);
            let sent = self.dispatcher.repeat_over_connection(cx, connections, from.backend, pending, packet);
            // A query that is not there to be repeated gets the truncated answer.
            if sent != Err(DropReason::QueryNotKept) {
                let outcome = sent.map_or_else(Outcome::Dropped, Outcome::Sent);
                return self.finish(Ending::of_pending(pending), outcome, packet);
            }
        }
        if self.cx.needs.shadows
            && let Some(id) = self.dispatcher.queries.take_shadow(pending.waiter.entry())
        {
            let (cx, message) = (&self.cx, packet.bytes());
            shadows::responded(cx, id, Side::Live, from.backend, in_flight.claimed_at, message);
        }
        restore_header(pending, from, packet);
        // A client that sent a datagram may not be able to take what a connection can carry.
        let limit = (from.is_connection() && pending.client.connection.is_none())
            .then(|| self.dispatcher.queries.limit(pending.waiter.entry()).unwrap_or(DATAGRAM_MIN));
        let attempt = Ending::of_attempt(pending, from.backend, in_flight.claimed_at);
        let ending = Ending { limit, block: block.or(attempt.block), ..attempt };
        self.evaluate_response(key, &in_flight, ending, packet)
    }

    /// Handles the beginning of a datagram that is longer than a buffer: it is as if the server had
    /// truncated its response.
    pub fn on_cut_response(&mut self, from: Route, packet: &mut Packet<'_>) -> Verdict {
        if answer::to_tc(packet) {
            // Its OPT record was in the part that is lost, and who answers so much was asked with one. A
            // truncated response has one, too (RFC 6891, 7).
            let _ = edns::add(packet, self.cx.answer_edns().payload, false);
            self.on_response(from, packet)
        } else {
            self.cx.unexpected(from, DropReason::Oversized)
        }
    }

    /// Evaluates the response rules, if there are any, and finishes the query.
    fn evaluate_response(
        &mut self,
        key: Key,
        in_flight: &InFlight,
        mut ending: Ending,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let pool = in_flight.pending.pool;
        let wanted = Ending::of_pending(&in_flight.pending).block;
        let stores = self.is_to_be_stored(ending.entry, pool, packet);
        if !self.cx.needs.responses && !self.dispatcher.queries.has_state(ending.entry) {
            if self.is_stale_wanted(in_flight, packet) {
                let mut query = self.restore_query(in_flight, packet);
                if let Some(outcome) = self.answer_stale_instead(in_flight, &mut query, packet) {
                    let ending = Ending { state: query.state, limit: None, block: wanted, ..ending };
                    return self.finish(ending, outcome, packet);
                }
                query.state.into_iter().for_each(|state| self.dispatcher.queries.recycle(state));
            }
            if stores {
                self.store(ending.entry, pool, None, packet.bytes());
            } else {
                self.share_unstored(ending.entry, packet.bytes());
            }
            return self.finish(ending, Outcome::Responded, packet);
        }
        ending.block = ending.block.or_else(|| padding::block(packet.bytes()));
        let had_state = self.dispatcher.queries.has_state(ending.entry);
        let mut query = self.restore_query(in_flight, packet);
        if self.cx.snapshot.globals.fixup_case
            && let Some(question) = self.dispatcher.queries.query(ending.entry).and_then(Question::parse)
        {
            let is_same = Question::parse(packet.bytes()).is_some_and(|q| q.qname == question.qname);
            if !is_same && !signature::is_signed(packet.bytes()) {
                answer::fixup_case(packet.bytes_mut(), question.qname);
            }
        }
        // A query that is too long to be kept has one attempt; its response is better than none.
        let can_restart = self.dispatcher.queries.query(ending.entry).is_some();
        let by = Answered { backend: key.route.backend, latency: self.cx.now.since(in_flight.claimed_at) };
        let is_cached = stores || self.dispatcher.queries.ticket(ending.entry).is_some();
        let mut decision = self.evaluate(&mut query, Some(by), packet, |context, environment, effects| {
            let decision = apply::response(context, environment, effects, had_state, can_restart);
            if !is_cached && matches!(decision, ResponseDecision::Deliver | ResponseDecision::Fail) {
                apply::finish(context, environment, effects);
            }
            decision
        });
        if is_cached
            && decision == ResponseDecision::Deliver
            && self.is_stale_wanted(in_flight, packet)
            && let Some(outcome) = self.answer_stale_instead(in_flight, &mut query, packet)
        {
            let ending = Ending { state: query.state, limit: None, block: wanted, ..ending };
            return self.finish(ending, outcome, packet);
        }
        if is_cached {
            decision = self.store_evaluated(decision, stores, &mut query, by, packet);
        }
        let outcome = match decision {
            ResponseDecision::Deliver | ResponseDecision::Fail => Outcome::Responded,
            ResponseDecision::Drop(reason) => Outcome::Dropped(reason),
            ResponseDecision::Restart(pool) => self.restart(&mut query, key.route.backend, pool, packet),
        };
        ending.state = query.state;
        if in_flight.pending.client.connection.is_none() {
            // What cannot grow has no entry with a limit.
            ending.limit = ending.limit.or_else(|| self.dispatcher.queries.limit(ending.entry));
        }
        self.finish(ending, outcome, packet)
    }

    /// Restarts the query in another pool, with the query that was kept as `from` got it.
    pub(super) fn restart(
        &mut self,
        query: &mut Query,
        from: BackendSlot,
        pool: PoolSlot,
        packet: &mut Packet<'_>,
    ) -> Outcome {
        let entry = query.pending.waiter.entry();
        query.pending.pool = pool;
        let Some(state) = &mut query.state else { return Outcome::Dropped(DropReason::QueryNotKept) };
        state.restarts = state.restarts.saturating_add(1);
        state.pool = pool;
        let mut kept = self.dispatcher.queries.query(entry).is_some_and(|query| packet.replace(query));
        // A second attempt has left its own id in the query that was kept.
        edit::set_id(packet.bytes_mut(), query.pending.client_id);
        let has_subnet = self.dispatcher.has_subnet(&self.cx, from, &query.pending);
        if kept && has_subnet && (state.added != Ecs::Left || !state.client_subnet.is_empty()) {
            // Only servers that get the client's subnet may see it. A malformed query is not
            // restarted.
            kept = ecs::undo(packet, state.added) && ecs::give_back(packet, &state.client_subnet);
            state.added = Ecs::Left;
            state.client_subnet.clear();
        }
        if !kept {
            return Outcome::Dropped(DropReason::QueryNotKept);
        }
        query.facts = Facts::of(packet.bytes());
        let Some(backend) = self.select(query, packet, &[]) else { return self.no_server(query, packet) };
        if let Some(mut state) = query.state.take() {
            self.add_subnet(backend, query.pending.client, &mut state, packet);
            if !query.pending.came_by_connection()
                && state.may_grow()
                && self.dispatcher.queries.limit(entry).is_none()
            {
                self.dispatcher.queries.set_limit(entry, datagram_limit(&state, packet));
            }
            self.dispatcher.queries.put(entry, state);
        }
        let (cx, connections) = (&mut self.cx, &mut self.connections);
        let sent = self.dispatcher.restart(cx, connections, backend, &query.pending, packet);
        sent.map_or_else(Outcome::Dropped, Outcome::Sent)
    }
}

/// Restores the client's id and flags in an answer, and removes the server's hop-by-hop option.
#[inline]
pub(super) fn restore_header(pending: &PendingQuery, from: Route, packet: &mut Packet<'_>) {
    if from.is_connection()
        && keepalive::may_be_there(packet.bytes())
        && !signature::is_signed(packet.bytes())
    {
        // It is between the server and us (RFC 7828).
        keepalive::remove(packet);
    }
    edit::set_id(packet.bytes_mut(), pending.client_id);
    query_state::set_flags(packet.bytes_mut(), query_state::unpacked(pending.flags));
}
