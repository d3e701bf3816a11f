//! Zone transfers: many messages for one query, by a connection of their own.

use crate::base::packet::Packet;
use crate::rules::apply;
use crate::rules::apply::ResponseDecision;
use crate::rules::context::Answered;
use crate::shard::Shard;
use crate::shard::dispatch::outstanding::{Asked, Key, Known};
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::transfer::Progress;

use crate::shard::pipeline::{Ending, Outcome, restore_header};

impl Shard {
    /// A message of a zone transfer.
    pub(super) fn on_transfer(&mut self, key: Key, known: Known, packet: &mut Packet<'_>) -> Verdict {
        let (asked, route) = (known.asked, key.route);
        let message = packet.bytes();
        let header = Header::parse(message);
        let code = header.map_or(0, |h| h.rcode());
        // Messages after the first need no question (RFC 5936, 2.2.1).
        let has_question = header.is_some_and(|h| h.qdcount() > 0);
        let same = Question::parse(message).is_some_and(|q| self.context.hash(&q) == asked.question);
        let progress = match self.connections.backends.transfer(route) {
            Some(transfer) if same || !has_question => transfer.on_message(message),
            Some(_) | None => Progress::Broken,
        };
        if progress == Progress::Broken {
            self.connections.backends.end(route, BackendCloseReason::BadFrame);
            return self.context.unexpected(route, DropReason::ResponseMismatch);
        }
        restore_header(&asked, route, packet);
        let passes = self.evaluate_transfer(key, known, packet);
        if passes && progress == Progress::More {
            return self.pass_transfer_on(key, &asked, packet);
        }
        self.dispatcher.settle(&self.context, &self.connections, key, known, code);
        self.connections.backends.end(route, BackendCloseReason::Done);
        if passes {
            return self.finish(Ending::of_asked(&asked), Outcome::Responded, packet);
        }
        // A zone with a hole is none.
        if let Some(connection) = asked.client.connection {
            self.connections.clients.end(connection, ClientCloseReason::Transfer);
        }
        self.finish(Ending::of_asked(&asked), Outcome::Dropped(DropReason::ResponseRule), packet)
    }

    /// A message of a zone transfer meets its rules; whether the client gets it.
    pub(super) fn evaluate_transfer(&mut self, key: Key, known: Known, packet: &mut Packet<'_>) -> bool {
        if self.context.snapshot.chains.xfr.is_empty() {
            return true;
        }
        let entry = known.asked.waiter.entry();
        let had_state = self.dispatcher.queries.has_state(entry);
        let mut query = self.take_up(known, packet);
        let by = Answered { backend: key.route.backend, latency: self.context.now.since(known.claimed_at) };
        let decision = self.evaluate(&mut query, Some(by), packet, |context, environment, effects| {
            apply::transfer(context, environment, effects)
        });
        if let Some(state) = query.state {
            // More messages follow.
            self.dispatcher.queries.put(entry.filter(|_| had_state), state);
        }
        // What is half transferred cannot be asked for again.
        !matches!(decision, ResponseDecision::Drop(_))
    }

    /// A message of a transfer goes to its client, with more to come.
    pub(super) fn pass_transfer_on(&mut self, key: Key, asked: &Asked, packet: &Packet<'_>) -> Verdict {
        let (route, now) = (key.route, self.context.now);
        let connections = &mut self.connections;
        connections.backends.has_begun(route);
        if let Some(queue) = self.dispatcher.connection_queue(route.backend) {
            self.dispatcher.outstanding.rearm(key, now, queue);
        }
        match asked.client.connection.filter(|c| !connections.clients.is_over(*c)) {
            Some(connection) => {
                connections.clients.write(connection, packet.bytes(), now);
                let takes = connections.clients.takes_more(connection, route);
                connections.backends.pause(route, !takes);
            }
            // Nobody is there to take it.
            None => connections.backends.end(route, BackendCloseReason::Done),
        }
        Verdict::Hold
    }
}
