//! Zone transfers: many messages for one query, on a connection of their own.

use crate::base::packet::Packet;
use crate::rules::apply;
use crate::rules::apply::ResponseDecision;
use crate::rules::context::Answered;
use crate::shard::Shard;
use crate::shard::dispatch::outstanding::{InFlight, Key, PendingQuery};
use crate::shard::scratch::MESSAGE_MAX;
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::wire::header::Header;
use crate::wire::padding::Block;
use crate::wire::query::Question;
use crate::wire::transfer::Progress;
use crate::wire::{padding, signature};

use crate::shard::pipeline::response::restore_header;
use crate::shard::pipeline::{Ending, Outcome};

impl Shard {
    /// Handles a message of a zone transfer.
    pub(super) fn on_transfer(
        &mut self,
        key: Key,
        in_flight: &InFlight,
        block: Option<Block>,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let (pending, route) = (in_flight.pending, key.route);
        let message = packet.bytes();
        let header = Header::parse(message);
        let code = header.map_or(0, |h| h.rcode());
        // Messages after the first need no question (RFC 5936, 2.2.1).
        let has_question = header.is_some_and(|h| h.qdcount() > 0);
        let same = Question::parse(message).is_some_and(|q| self.cx.hash(&q) == pending.question);
        let progress = match self.connections.backends.transfer(route) {
            Some(transfer) if same || !has_question => transfer.on_message(message),
            Some(_) | None => Progress::Broken,
        };
        if progress == Progress::Broken {
            self.connections.backends.end(route, BackendCloseReason::BadFrame);
            return self.cx.unexpected(route, DropReason::ResponseMismatch);
        }
        let query = self.dispatcher.queries.query(pending.waiter.entry());
        let is_signed = query.is_some_and(signature::is_signed);
        if !is_signed {
            // What has no signature of its own is covered by a later one.
            restore_header(&pending, route, packet);
        }
        let decision = self.evaluate_transfer(key, in_flight, is_signed, packet);
        if !is_signed {
            padding::restore(packet, block, MESSAGE_MAX);
        }
        if decision == ResponseDecision::Deliver && progress == Progress::More {
            return self.forward_transfer(key, &pending, packet);
        }
        self.dispatcher.settle(&self.cx, &self.connections, key, in_flight, code);
        self.connections.backends.end(route, BackendCloseReason::Done);
        let ResponseDecision::Drop(reason) = decision else {
            // With all messages, or with SERVFAIL in place of one: a zone without it is useless.
            let attempt = Ending::of_attempt(&pending, route.backend, in_flight.claimed_at);
            let ending = Ending { block: block.or(attempt.block), ..attempt };
            return self.finish(ending, Outcome::Responded, packet);
        };
        // A zone with a missing message is useless.
        if let Some(connection) = pending.client.connection {
            self.connections.clients.end(connection, ClientCloseReason::Transfer);
        }
        let ending = Ending::of_attempt(&pending, route.backend, in_flight.claimed_at);
        self.finish(ending, Outcome::Dropped(reason), packet)
    }

    /// Evaluates the rules on a message of a zone transfer, and undoes what they have done to its
    /// query.
    pub(super) fn evaluate_transfer(
        &mut self,
        key: Key,
        in_flight: &InFlight,
        is_signed: bool,
        packet: &mut Packet<'_>,
    ) -> ResponseDecision {
        let entry = in_flight.pending.waiter.entry();
        let had_state = self.dispatcher.queries.has_state(entry);
        if self.cx.snapshot.chains.xfr.is_empty() && !had_state {
            return ResponseDecision::Deliver;
        }
        let mut query = self.restore_query(in_flight, packet);
        if let Some(state) = &mut query.state {
            state.in_signed_transfer = is_signed;
        }
        let by = Answered { backend: key.route.backend, latency: self.cx.now.since(in_flight.claimed_at) };
        let decision = self.evaluate(&mut query, Some(by), packet, |context, environment, effects| {
            apply::transfer(context, environment, effects, had_state)
        });
        if let Some(state) = query.state {
            // More messages follow.
            self.dispatcher.queries.put(entry.filter(|_| had_state), state);
        }
        decision
    }

    /// Passes a message of a transfer to its client, with more to come.
    pub(super) fn forward_transfer(
        &mut self,
        key: Key,
        pending: &PendingQuery,
        packet: &Packet<'_>,
    ) -> Verdict {
        let (route, now) = (key.route, self.cx.now);
        let connections = &mut self.connections;
        connections.backends.on_transfer_started(route);
        if let Some(queue) = self.dispatcher.connection_queue(route.backend) {
            self.dispatcher.outstanding.rearm(key, now, queue);
        }
        match pending.client.connection.filter(|c| !connections.clients.is_over(*c)) {
            Some(connection) => {
                connections.clients.write(connection, packet.bytes(), now);
                let takes = connections.clients.takes_more(connection, route);
                connections.backends.pause(route, !takes);
            }
            // The client is gone.
            None => connections.backends.end(route, BackendCloseReason::Done),
        }
        Verdict::Hold
    }
}
