//! Attempts that have ended without an answer: the query moves on to another server, or is lost.

use crate::base::addr::{BackendSlot, Route};
use crate::base::packet::Packet;
use crate::rules::apply;
use crate::rules::apply::ResponseDecision;
use crate::rules::context::Answered;
use crate::shard::Shard;
use crate::shard::dispatch::attempts::AttemptEnd;
use crate::shard::dispatch::outstanding::{Asked, Key, Known, Waiter};
use crate::shard::scratch::Scratch;
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::drop_reason::DropReason;

use crate::shard::pipeline::{Ending, Out, Outcome, emit};

impl Shard {
    /// The kernel would not send this query (its packet is as `on_query` or `on_tick` left it):
    /// it goes to another server, none of `refused`, or is dropped.
    pub fn on_unsent(&mut self, route: Route, packet: &mut Packet<'_>, refused: &[BackendSlot]) -> Verdict {
        let Some(asked) = self.unsent(route, packet) else {
            return Verdict::Drop(DropReason::QuerySendError);
        };
        let (cx, connections) = (&mut self.context, &mut self.connections);
        let sent = self.dispatcher.resend(cx, connections, route.backend, refused, &asked, packet);
        let outcome = sent.map_or(Outcome::Dropped(DropReason::QuerySendError), Outcome::Sent);
        self.finish(Ending::of_asked(&asked), outcome, packet)
    }

    /// The kernel would not send this query to any server that could be tried.
    pub fn abandon(&mut self, route: Route, packet: &mut Packet<'_>) {
        if let Some(asked) = self.unsent(route, packet) {
            self.finish(Ending::of_asked(&asked), Outcome::Dropped(DropReason::QuerySendError), packet);
        }
    }

    /// A query that was not sent, if its client waits for this attempt alone.
    pub(super) fn unsent(&mut self, route: Route, packet: &mut Packet<'_>) -> Option<Asked> {
        let Some((key, known)) = self.dispatcher.unsent(&self.context, route, packet) else {
            self.context.drop(DropReason::QuerySendError);
            return None;
        };
        if self.dispatcher.nobody_waits(&self.context, known) {
            return None;
        }
        // While another attempt is out, the query is not lost.
        let other = self.dispatcher.queries.ended(known.asked.waiter.entry(), key);
        other.is_none().then_some(known.asked)
    }

    /// Looks at attempts whose time is up, no more than there is time for in one tick.
    pub(in crate::shard) fn expire(&mut self, scratch: &mut Scratch, most: usize, out: Out<'_>) {
        for _ in 0..self.dispatcher.due_per_tick(most) {
            let Some((key, known)) = self.dispatcher.outstanding.due(self.context.now) else { break };
            match known.asked.waiter {
                Waiter::Nobody | Waiter::Copy => self.dispatcher.expire_unawaited(&self.context, key),
                Waiter::Client(entry) => {
                    let asks_second = self.dispatcher.queries.take_retry(entry)
                        && self.dispatcher.wait_for_rest(&self.context, key, known);
                    if asks_second {
                        let (cx, connections) = (&mut self.context, &mut self.connections);
                        let sent = self.dispatcher.ask_second(cx, connections, key, known, scratch);
                        emit(sent, out);
                    } else {
                        self.give_up(key, known, scratch, out);
                    }
                }
            }
        }
    }

    /// Time is up for an attempt.
    pub(super) fn give_up(&mut self, key: Key, known: Known, scratch: &mut Scratch, out: Out<'_>) {
        let (route, now) = (key.route, self.context.now);
        let backends = &mut self.connections.backends;
        if route.is_connection()
            && backends.is_paused(route)
            && let Some(queue) = self.dispatcher.connection_queue(route.backend)
        {
            // It is the client that keeps it waiting, and has a time-out of its own.
            return self.dispatcher.outstanding.rearm(key, now, queue);
        }
        self.dispatcher.expire(&self.context, key);
        if route.is_connection() {
            backends.missed(route, known.claimed_at);
        }
        // The other attempt may still be answered; it counts the loss if not.
        if self.dispatcher.queries.ended(known.asked.waiter.entry(), key).is_some() {
            return;
        }
        if route.is_connection() && backends.is_transferring(route) {
            // Half of a zone cannot be followed by the beginning of another.
            backends.end(route, BackendCloseReason::Silent);
            return self.lose_by_connection(&known.asked, true);
        }
        if route.is_connection() && backends.is_transfer(route) {
            // What might still come by it is for nobody.
            backends.end(route, BackendCloseReason::Done);
        }
        if !self.move_on(key, &known.asked, AttemptEnd::Failed, scratch, out) {
            self.time_out(key, known, scratch, out);
        }
    }

    pub(super) fn move_on(
        &mut self,
        key: Key,
        asked: &Asked,
        how: AttemptEnd,
        scratch: &mut Scratch,
        out: Out<'_>,
    ) -> bool {
        let (cx, connections) = (&mut self.context, &mut self.connections);
        let sent = self.dispatcher.move_on(cx, connections, key, asked, how, scratch);
        let moves = sent.is_some();
        emit(sent, out);
        moves
    }

    /// No server answered in time: the rules for that may ask again, or let the query go.
    pub(super) fn time_out(&mut self, key: Key, known: Known, scratch: &mut Scratch, out: Out<'_>) {
        let asked = known.asked;
        let entry = asked.waiter.entry();
        let kept =
            self.dispatcher.queries.query(entry).filter(|_| !self.context.snapshot.chains.timeout.is_empty());
        let Some(kept) = kept else { return self.lose(&asked, DropReason::Timeout) };
        let mut packet = scratch.load(kept);
        let mut query = self.take_up(known, &packet);
        let by = Answered { backend: key.route.backend, latency: self.context.now.since(known.claimed_at) };
        let decision = self.evaluate(&mut query, Some(by), &mut packet, |context, environment, effects| {
            apply::timeout(context, environment, effects)
        });
        let outcome = match decision {
            ResponseDecision::Restart(pool) => self.restart(&mut query, key.route.backend, pool, &mut packet),
            ResponseDecision::Deliver | ResponseDecision::Drop(_) => Outcome::Dropped(DropReason::Timeout),
        };
        let ending = Ending { state: query.state, ..Ending::of_asked(&asked) };
        match self.finish(ending, outcome, &mut packet) {
            Verdict::Drop(_) | Verdict::Hold => {}
            verdict @ (Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Forward(_)) => {
                out(verdict, packet.bytes_mut());
            }
        }
    }

    /// A backend's connection is closed: by the server, because it failed, or as the engine was asked
    /// to (`why` is then none). Its queries go by other ones.
    pub fn on_backend_closed(&mut self, route: Route, why: Option<BackendCloseReason>, out: Out<'_>) {
        let backends = &mut self.connections.backends;
        if why == Some(BackendCloseReason::Closed) && backends.holds_back(route) {
            return backends.hang_up(route);
        }
        let why = why.unwrap_or_else(|| backends.why(route));
        let only = self.context.snapshot.backend(route.backend).is_some_and(|b| b.connections.only);
        let mut orphans = std::mem::take(&mut self.orphans);
        if self.dispatcher.outstanding.live_on(route) > 0 {
            self.dispatcher.outstanding.on_route(route, &mut |key, known| orphans.push((key, known)));
        }
        let owing = orphans.iter().map(|(_, known)| known.claimed_at).min();
        let Some(past) = backends.forget(route, why, only, owing, self.context.now) else {
            orphans.clear();
            self.orphans = orphans;
            return;
        };
        self.context.stats().backend(route.backend).connections.ended(why).add(1);
        let had_served =
            past.answered > 0 && matches!(why, BackendCloseReason::Closed | BackendCloseReason::Broken);
        let how = if had_served || matches!(why, BackendCloseReason::Done | BackendCloseReason::Idle) {
            AttemptEnd::Closed
        } else {
            AttemptEnd::Failed
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        for (key, known) in orphans.drain(..) {
            let asked = known.asked;
            self.dispatcher.release(&self.context, key);
            if let Some(connection) = asked.client.connection {
                self.connections.clients.unfeed(connection, route);
            }
            match asked.waiter {
                Waiter::Nobody | Waiter::Copy => self.dispatcher.forget_unawaited(),
                Waiter::Client(entry) => {
                    // In the midst of a zone transfer, which cannot be begun again.
                    let is_cut = past.transferring;
                    if self.dispatcher.queries.ended(entry, key).is_none()
                        && (is_cut || !self.move_on(key, &asked, how, &mut scratch, out))
                    {
                        self.lose_by_connection(&asked, is_cut);
                    }
                }
            }
        }
        (self.scratch, self.orphans) = (scratch, orphans);
    }

    /// A query whose connection has ended is lost; `is_cut`: in the midst of a zone transfer, with
    /// which the client's connection ends.
    pub(super) fn lose_by_connection(&mut self, asked: &Asked, is_cut: bool) {
        let clients = &mut self.connections.clients;
        let has_left = asked.client.connection.is_some_and(|c| clients.is_over(c));
        if let Some(connection) = asked.client.connection.filter(|_| is_cut) {
            clients.end(connection, ClientCloseReason::Transfer);
        }
        let reason = if has_left { DropReason::ClientGone } else { DropReason::BackendConnectionFailed };
        self.lose(asked, reason);
    }

    /// A query ends without an answer, and without a packet at hand.
    pub(super) fn lose(&mut self, asked: &Asked, reason: DropReason) {
        self.finish(Ending::of_asked(asked), Outcome::Dropped(reason), &mut Packet::new(&mut [], 0, 0));
    }
}
