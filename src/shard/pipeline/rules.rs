//! The stage of rules: the query state that they see and change, and their evaluation on a message
//! by the shard's [`Evaluator`](crate::shard::evaluator::Evaluator).

use crate::base::packet::Packet;
use crate::rules::apply;
use crate::rules::context::{Answered, Facts};
use crate::rules::query_state;
use crate::rules::query_state::{EcsSettings, QueryState};
use crate::shard::Shard;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::{InFlight, PendingQuery};
use crate::shard::evaluator::Message;

use crate::shard::pipeline::{Query, visible_client};

impl Shard {
    pub(super) fn new_state(&mut self) -> Box<QueryState> {
        let mut state = self.dispatcher.queries.new_state();
        state.reset(self.cx.now, ecs_settings(&self.cx), [0; 2]);
        state
    }

    /// Gives a query the state that rules see, unless it has a complete one.
    pub(super) fn ensure_state(&mut self, query: &mut Query) {
        if query.state.as_ref().is_some_and(|state| state.is_filled) {
            return;
        }
        let mut state = query.state.take().unwrap_or_else(|| self.new_state());
        self.fill(&mut state, &query.pending);
        query.state = Some(state);
    }

    /// Restores an outstanding query for the response rules: with its kept state, or with a new one
    /// made from its slot.
    pub(super) fn restore_query(&mut self, in_flight: &InFlight, packet: &Packet<'_>) -> Query {
        let kept = self.dispatcher.queries.take_state(in_flight.pending.waiter.entry());
        let state = kept.unwrap_or_else(|| {
            let mut state = self.new_state();
            self.fill(&mut state, &in_flight.pending);
            state.received = in_flight.claimed_at;
            state
        });
        Query { pending: in_flight.pending, facts: Facts::of(packet.bytes()), state: Some(state) }
    }

    pub(super) fn fill(&self, state: &mut QueryState, pending: &PendingQuery) {
        let clients = &self.connections.clients;
        state.is_filled = true;
        state.flags = query_state::unpacked(pending.flags);
        state.protocol = clients.protocol(pending.client);
        state.pool = pending.pool;
        if let Some(name) = pending.client.connection.and_then(|connection| clients.sni(connection)) {
            state.sni.extend_from_slice(name.as_bytes());
        }
    }

    /// Calls `evaluate` with a query's message.
    pub(super) fn evaluate<T>(
        &mut self,
        query: &mut Query,
        answered: Option<Answered>,
        packet: &mut Packet<'_>,
        evaluate: impl FnOnce(
            &mut crate::rules::context::EvaluationContext<'_, '_>,
            &mut crate::rules::context::Environment<'_>,
            &mut apply::Effects<'_>,
        ) -> T,
    ) -> T {
        let state = query.state.get_or_insert_default();
        let local = state.proxied.map_or_else(
            || self.connections.clients.local_of(&self.cx, query.pending.client),
            |proxied| proxied.destination,
        );
        let client = visible_client(query.pending.client, Some(state));
        let message = Message { client, local, facts: query.facts, answered, packet, state };
        let (balancer, copies) = (&self.dispatcher.balancer, &mut self.dispatcher.copies);
        self.evaluator.run(&mut self.cx, balancer, copies, message, evaluate)
    }
}

pub(super) fn ecs_settings(cx: &Context) -> EcsSettings {
    let globals = &cx.snapshot.globals;
    EcsSettings {
        wanted: true,
        replace: globals.ecs_override,
        v4: globals.ecs_v4,
        v6: globals.ecs_v6,
        instead: None,
    }
}
