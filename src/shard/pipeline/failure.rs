//! Attempts that ended without a response: the query continues on another server, or is lost.

use crate::base::addr::{BackendSlot, Route};
use crate::base::packet::Packet;
use crate::rules::apply;
use crate::rules::apply::ResponseDecision;
use crate::rules::context::Answered;
use crate::shard::Shard;
use crate::shard::dispatch::attempts::AttemptEnd;
use crate::shard::dispatch::outstanding::{InFlight, Key, PendingQuery, Waiter};
use crate::shard::dispatch::query_table::EntryId;
use crate::shard::scratch::Scratch;
use crate::shard::shadows;
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::stats::shadow_queue::{End, Side};

use crate::wire::edit;

use crate::shard::pipeline::{Ending, Out, Outcome, Query, emit};

/// Other servers to which a query is offered that the kernel refuses to send.
const RESENDS_MAX: usize = 4;

impl Shard {
    /// The kernel refused to send this query (its packet is as `on_query` or `on_tick` left it): it
    /// is offered to other servers until `send` returns that it was sent, and dropped when there is
    /// none left, or four have been tried.
    pub fn on_unsent(
        &mut self,
        mut route: Route,
        packet: &mut Packet<'_>,
        mut send: impl FnMut(&Self, Route, &[u8]) -> bool,
    ) {
        let mut refused = [route.backend; RESENDS_MAX];
        for resends in 0..=RESENDS_MAX {
            let Some(pending) = self.unsent(route, packet) else { return };
            let mut sent = None;
            if let Some(place) = refused.get_mut(resends) {
                *place = route.backend;
                let (cx, connections) = (&mut self.cx, &mut self.connections);
                let refused = &refused[..=resends];
                sent = self.dispatcher.resend(cx, connections, route.backend, refused, &pending, packet);
            }
            let outcome = sent.map_or(Outcome::Dropped(DropReason::QuerySendError), Outcome::Sent);
            match self.finish(Ending::of_pending(&pending), outcome, packet) {
                Verdict::Forward(other) if send(self, other, packet.bytes()) => return,
                Verdict::Forward(other) => route = other,
                Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Drop(_) | Verdict::Hold => return,
            }
        }
    }

    /// Returns a query that was not sent, if its client waits for this attempt alone.
    pub(super) fn unsent(&mut self, route: Route, packet: &mut Packet<'_>) -> Option<PendingQuery> {
        let Some((key, in_flight)) = self.dispatcher.unsent(&self.cx, route, packet) else {
            self.cx.drop(DropReason::QuerySendError);
            return None;
        };
        if self.dispatcher.is_unawaited(&self.cx, &in_flight) {
            return None;
        }
        // While another attempt is in flight, the query is not lost.
        let other = self.dispatcher.queries.ended(in_flight.pending.waiter.entry(), key);
        other.is_none().then_some(in_flight.pending)
    }

    /// Handles attempts that have timed out, no more than `most`.
    pub(in crate::shard) fn expire(&mut self, scratch: &mut Scratch, most: usize, out: Out<'_>) {
        for _ in 0..self.dispatcher.due_per_tick(most) {
            let Some((key, in_flight)) = self.dispatcher.outstanding.due(self.cx.now) else { break };
            match in_flight.pending.waiter {
                Waiter::Nobody | Waiter::Copy => self.dispatcher.expire_unawaited(&self.cx, key),
                Waiter::Shadow(id) => {
                    self.dispatcher.expire_unawaited(&self.cx, key);
                    shadows::ended(&self.cx, id, Side::Shadow, End::None);
                }
                Waiter::Client(entry) => {
                    let asks_second = self.dispatcher.queries.take_retry(entry)
                        && self.dispatcher.rearm_first(&self.cx, key, &in_flight);
                    if asks_second {
                        let (cx, connections) = (&mut self.cx, &mut self.connections);
                        let sent = self.dispatcher.send_second(cx, connections, key, &in_flight, scratch);
                        emit(sent, out);
                    } else {
                        self.expire_attempt(key, &in_flight, scratch, out);
                    }
                }
            }
        }
    }

    /// Handles one attempt that has timed out.
    pub(super) fn expire_attempt(
        &mut self,
        key: Key,
        in_flight: &InFlight,
        scratch: &mut Scratch,
        out: Out<'_>,
    ) {
        let (route, now) = (key.route, self.cx.now);
        let backends = &mut self.connections.backends;
        if route.is_connection()
            && backends.is_paused(route)
            && let Some(queue) = self.dispatcher.connection_queue(route.backend)
        {
            // The client is what it waits for, and has a timeout of its own.
            return self.dispatcher.outstanding.rearm(key, now, queue);
        }
        self.dispatcher.expire(&self.cx, key);
        if route.is_connection() {
            backends.missed(route, in_flight.claimed_at);
        }
        // The other attempt may still be answered; it counts the loss if not.
        if self.dispatcher.queries.ended(in_flight.pending.waiter.entry(), key).is_some() {
            return;
        }
        if route.is_connection() && backends.is_transferring(route) {
            // A zone transfer cannot be continued by another one.
            backends.end(route, BackendCloseReason::Silent);
            return self.finish_disconnected(route.backend, in_flight, true);
        }
        if route.is_connection() && backends.is_transfer(route) {
            // Nobody waits for what might still arrive on it.
            backends.end(route, BackendCloseReason::Done);
        }
        if !self.move_on(key, &in_flight.pending, AttemptEnd::Failed, scratch, out) {
            self.on_timeout(key, in_flight, scratch, out);
        }
    }

    pub(super) fn move_on(
        &mut self,
        key: Key,
        pending: &PendingQuery,
        how: AttemptEnd,
        scratch: &mut Scratch,
        out: Out<'_>,
    ) -> bool {
        let (cx, connections) = (&mut self.cx, &mut self.connections);
        let sent = self.dispatcher.move_on(cx, connections, key, pending, how, scratch);
        let moves = sent.is_some();
        emit(sent, out);
        moves
    }

    /// No server responded in time: the timeout rules may restart the query.
    pub(super) fn on_timeout(&mut self, key: Key, in_flight: &InFlight, scratch: &mut Scratch, out: Out<'_>) {
        let pending = in_flight.pending;
        let entry = pending.waiter.entry();
        let kept =
            self.dispatcher.queries.query(entry).filter(|_| !self.cx.snapshot.chains.timeout.is_empty());
        let Some(kept) = kept else {
            return self.finish_lost(key.route.backend, in_flight, DropReason::Timeout);
        };
        let mut packet = scratch.load(kept);
        let mut query = self.restore_query(in_flight, &packet);
        let by = Answered { backend: key.route.backend, latency: self.cx.now.since(in_flight.claimed_at) };
        let decision = self.evaluate(&mut query, Some(by), &mut packet, |context, environment, effects| {
            apply::timeout(context, environment, effects)
        });
        let outcome = match decision {
            ResponseDecision::Restart(pool) => self.restart(&mut query, key.route.backend, pool, &mut packet),
            // The rule might have blocked the query.
            ResponseDecision::Fail if self.load_kept(entry, &pending, &mut packet) => {
                self.servfail(&mut query, &mut packet)
            }
            ResponseDecision::Deliver | ResponseDecision::Fail | ResponseDecision::Drop(_) => {
                if let Some(state) = query.state {
                    self.dispatcher.queries.put(entry, state);
                }
                return self.finish_lost(key.route.backend, in_flight, DropReason::Timeout);
            }
        };
        self.finish_into(query, key.route.backend, in_flight, outcome, &mut packet, out);
    }

    /// Loads the query that was kept, with its client's id; returns false if none was.
    fn load_kept(&self, entry: Option<EntryId>, pending: &PendingQuery, packet: &mut Packet<'_>) -> bool {
        let is_loaded = self.dispatcher.queries.query(entry).is_some_and(|query| packet.replace(query));
        edit::set_id(packet.bytes_mut(), pending.client_id);
        is_loaded
    }

    /// A backend connection is closed: by the server, because it failed, or as requested (`why` is
    /// then none). Its queries continue on other ones.
    pub fn on_backend_closed(&mut self, route: Route, why: Option<BackendCloseReason>, out: Out<'_>) {
        let backends = &mut self.connections.backends;
        if why == Some(BackendCloseReason::Closed) && backends.holds_back(route) {
            return backends.hang_up(route);
        }
        let why = why.unwrap_or_else(|| backends.why(route));
        let only = self.cx.snapshot.backend(route.backend).is_some_and(|b| b.connections.only);
        let mut lost_queries = std::mem::take(&mut self.lost_queries);
        if self.dispatcher.outstanding.live_on(route) > 0 {
            self.dispatcher
                .outstanding
                .on_route(route, &mut |key, in_flight| lost_queries.push((key, in_flight)));
        }
        let owing = lost_queries.iter().map(|(_, in_flight)| in_flight.claimed_at).min();
        let Some(past) = backends.forget(route, why, only, owing, self.cx.now) else {
            lost_queries.clear();
            self.lost_queries = lost_queries;
            return;
        };
        let stats = &self.cx.stats().backend(route.backend).connections;
        stats.ended(why).add(1);
        if let Some(since) = past.established {
            stats.ended.add(1);
            stats.ended_queries.add(past.queries);
            stats.ended_ms.add(self.cx.now.since(since).0 / 1_000_000);
            self.cx.live_state().backend(route.backend).disconnected(1);
        }
        if matches!(why, BackendCloseReason::Closed | BackendCloseReason::Broken) && !lost_queries.is_empty()
        {
            stats.died.add(1);
        }
        let had_served =
            past.responses > 0 && matches!(why, BackendCloseReason::Closed | BackendCloseReason::Broken);
        let how = if had_served || matches!(why, BackendCloseReason::Done | BackendCloseReason::Idle) {
            AttemptEnd::Closed
        } else if matches!(
            why,
            BackendCloseReason::Closed | BackendCloseReason::Broken | BackendCloseReason::BadFrame
        ) {
            AttemptEnd::Unanswered
        } else if why == BackendCloseReason::Silent {
            AttemptEnd::Silent
        } else if why == BackendCloseReason::Descriptors {
            AttemptEnd::Unserved
        } else {
            AttemptEnd::Failed
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        for (key, in_flight) in lost_queries.drain(..) {
            let pending = in_flight.pending;
            self.dispatcher.release(&self.cx, key);
            if let Some(connection) = pending.client.connection {
                self.connections.clients.stop_waiting(connection, route);
            }
            match pending.waiter {
                Waiter::Nobody | Waiter::Copy => self.dispatcher.forget_unawaited(),
                Waiter::Shadow(id) => {
                    self.dispatcher.forget_unawaited();
                    shadows::ended(&self.cx, id, Side::Shadow, End::None);
                }
                Waiter::Client(entry) => {
                    // In the middle of a zone transfer, which cannot be repeated.
                    let is_cut = past.transferring;
                    if self.dispatcher.queries.ended(entry, key).is_some() {
                        continue;
                    }
                    if is_cut || self.has_left(&pending) {
                        self.finish_disconnected(route.backend, &in_flight, is_cut);
                    } else if !self.move_on(key, &pending, how, &mut scratch, out) {
                        match how {
                            // It is lost as those are whose own time was up.
                            AttemptEnd::Silent => self.on_timeout(key, &in_flight, &mut scratch, out),
                            AttemptEnd::Failed
                            | AttemptEnd::Closed
                            | AttemptEnd::Unanswered
                            | AttemptEnd::Unserved => {
                                self.finish_failed(route.backend, &in_flight, why, &mut scratch, out);
                            }
                        }
                    }
                }
            }
        }
        (self.scratch, self.lost_queries) = (scratch, lost_queries);
    }

    /// Ends a query whose connections have failed at every server that could be tried: with SERVFAIL
    /// if that is configured for a pool without a server.
    fn finish_failed(
        &mut self,
        backend: BackendSlot,
        in_flight: &InFlight,
        why: BackendCloseReason,
        scratch: &mut Scratch,
        out: Out<'_>,
    ) {
        let pending = in_flight.pending;
        if why == BackendCloseReason::Descriptors {
            return self.finish_lost(backend, in_flight, DropReason::Descriptors);
        }
        if self.answer_cached_late(backend, in_flight) {
            return;
        }
        let wanted = self.cx.snapshot.globals.servfail_when_no_server;
        let kept = self.dispatcher.queries.query(pending.waiter.entry()).filter(|_| wanted);
        let Some(kept) = kept else { return self.finish_disconnected(backend, in_flight, false) };
        let mut packet = scratch.load(kept);
        edit::set_id(packet.bytes_mut(), pending.client_id);
        let mut query = self.restore_query(in_flight, &packet);
        let outcome = self.no_server(&mut query, &mut packet);
        self.finish_into(query, backend, in_flight, outcome, &mut packet, out);
    }

    /// Finishes a query whose last attempt was on `backend`, and emits what has become of its packet.
    fn finish_into(
        &mut self,
        query: Query,
        backend: BackendSlot,
        in_flight: &InFlight,
        outcome: Outcome,
        packet: &mut Packet<'_>,
        out: Out<'_>,
    ) {
        let attempt = Ending::of_attempt(&query.pending, backend, in_flight.claimed_at);
        let ending = Ending { state: query.state, ..attempt };
        match self.finish(ending, outcome, packet) {
            Verdict::Drop(_) | Verdict::Hold => {}
            verdict @ (Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Forward(_)) => {
                out(verdict, packet.bytes_mut());
            }
        }
    }

    /// Ends a query whose connection has ended; `is_cut`: in the middle of a zone transfer, with
    /// which the client connection ends.
    pub(super) fn finish_disconnected(&mut self, backend: BackendSlot, in_flight: &InFlight, is_cut: bool) {
        let pending = &in_flight.pending;
        let has_left = self.has_left(pending);
        if let Some(connection) = pending.client.connection.filter(|_| is_cut) {
            self.connections.clients.end(connection, ClientCloseReason::Transfer);
        }
        let reason = if has_left { DropReason::ClientGone } else { DropReason::BackendConnectionFailed };
        self.finish_lost(backend, in_flight, reason);
    }

    /// Returns whether the query's client has closed its connection.
    fn has_left(&self, pending: &PendingQuery) -> bool {
        pending.client.connection.is_some_and(|c| self.connections.clients.is_over(c))
    }

    /// Ends a query without an answer and without a packet.
    fn finish_lost(&mut self, backend: BackendSlot, in_flight: &InFlight, reason: DropReason) {
        if reason != DropReason::ClientGone && self.answer_cached_late(backend, in_flight) {
            return;
        }
        let ending = Ending::of_attempt(&in_flight.pending, backend, in_flight.claimed_at);
        self.finish(ending, Outcome::Dropped(reason), &mut Packet::new(&mut [], 0, 0));
    }
}
