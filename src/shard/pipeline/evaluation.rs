//! The state that rules see and change, and their evaluation on a message.

use crate::base::packet::Packet;
use crate::rules::apply;
use crate::rules::context::{Answered, Facts};
use crate::rules::query_state;
use crate::rules::query_state::{EcsSettings, QueryState};
use crate::shard::Shard;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::{Asked, Known};
use crate::shard::evaluator::Message;

use crate::shard::pipeline::{Query, seen};

impl Shard {
    pub(super) fn new_state(&mut self) -> Box<QueryState> {
        let mut state = self.dispatcher.queries.new_state();
        state.reset(self.context.now, ecs_settings(&self.context), [0; 2]);
        state
    }

    /// Gives a query the state that rules see, unless it has one whose fields are filled in.
    pub(super) fn give_state(&mut self, query: &mut Query) {
        if query.state.as_ref().is_some_and(|state| state.is_filled) {
            return;
        }
        let mut state = query.state.take().unwrap_or_else(|| self.new_state());
        self.fill(&mut state, &query.asked);
        query.state = Some(state);
    }

    /// Takes up an outstanding query for the rules of answers: its state is the one that is kept, or
    /// what can be said without one.
    pub(super) fn take_up(&mut self, known: Known, packet: &Packet<'_>) -> Query {
        let kept = self.dispatcher.queries.take_state(known.asked.waiter.entry());
        let state = kept.unwrap_or_else(|| {
            let mut state = self.new_state();
            self.fill(&mut state, &known.asked);
            state.received = known.claimed_at;
            state
        });
        Query { asked: known.asked, facts: Facts::of(packet.bytes()), state: Some(state) }
    }

    pub(super) fn fill(&self, state: &mut QueryState, asked: &Asked) {
        let clients = &self.connections.clients;
        state.is_filled = true;
        state.flags = query_state::unpacked(asked.flags);
        state.protocol = clients.protocol(asked.client);
        state.pool = asked.pool;
        if let Some(name) = asked.client.connection.and_then(|connection| clients.sni(connection)) {
            state.sni.extend_from_slice(name.as_bytes());
        }
    }

    /// Has `evaluate` happen on a query's message.
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
            || self.connections.clients.local_of(&self.context, query.asked.client),
            |proxied| proxied.destination,
        );
        let client = seen(query.asked.client, Some(state));
        let message = Message { client, local, facts: query.facts, answered, packet, state };
        let (balancer, copies) = (&self.dispatcher.balancer, &mut self.dispatcher.copies);
        self.evaluator.run(&mut self.context, balancer, copies, message, evaluate)
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
