//! The stages that a query and its response pass, and the one place where a query ends.
//!
//! ```text
//!  on_query:    admit → parse → evaluate → look up → select → dispatch ─┐
//!  on_response: match → restore → evaluate → store ─────────────────────┤
//!  timeouts, failed connections: next server, or give up ───────────────┴─► finish
//! ```
//!
//! Dynamic blocks belong between `admit` and `evaluate`. A stage that a configuration does not need
//! costs the test of one flag.
//!
//! It does no I/O and owns nothing: the shard's owners do the work of each stage.

mod admission;
mod cache;
mod coalesce;
mod failure;
mod judgement;
mod refresh;
mod response;
mod rules;
mod shadow;
mod traffic;
mod transfer;
mod unmatched;

use crate::balance::Subject;
use crate::base::addr::{BackendSlot, Client};
use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::model::policy::Kind;
use crate::rules::apply;
use crate::rules::apply::{Decision, Effects};
use crate::rules::context::{Environment, EvaluationContext, Facts};
use crate::rules::query_state::{QueryState, Shadow};
use crate::rules::script::FunctionId;
use crate::shard::Shard;
use crate::shard::coalescing::Fate;
use crate::shard::context::Context;
use crate::shard::dispatch::attempts::DATAGRAM_MAX;
use crate::shard::dispatch::outstanding::{PendingQuery, Waiter};
use crate::shard::dispatch::query_table::EntryId;
use crate::shard::dispatch::send::Sent;
use crate::shard::pipeline::traffic::Asked;
use crate::shard::scratch::{MESSAGE_MAX, Scratch};
use crate::shard::verdict::Verdict;
use crate::stats::claims;
use crate::stats::drop_reason::DropReason;
use crate::stats::response_code::RuleAnswer;
use crate::stats::traffic_ring::End;
use crate::wire::answer::Flags;
use crate::wire::ecs::Ecs;
use crate::wire::header::rcode;
use crate::wire::padding::Block;
use crate::wire::query::Question;
use crate::wire::{answer, ecs, edns, keepalive, padding, signature};

/// Bytes that a client can take if nothing else is known of it (RFC 1035, 4.2.1).
const DATAGRAM_MIN: usize = 512;

/// Takes packets that are to be sent.
pub type Out<'o> = &'o mut dyn FnMut(Verdict, &mut [u8]);

/// A query between two stages.
#[derive(Debug)]
struct Query {
    pending: PendingQuery,
    facts: Facts,
    /// The query state, if there is one.
    state: Option<Box<QueryState>>,
}

/// The outcome of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is in flight to a server.
    Sent(Sent),
    /// It waits for the response to another one.
    Waits,
    /// The packet is a self-generated answer.
    Answered,
    /// The packet is a server's response.
    Responded,
    /// The packet is an answer of the packet cache.
    Cached,
    /// There is no answer.
    Dropped(DropReason),
}

/// A query that is to be finished.
#[derive(Clone, Debug)]
struct Ending {
    client: Client,
    entry: Option<EntryId>,
    state: Option<Box<QueryState>>,
    /// Bytes of a server's response that the client can take, if it may be longer: the server was
    /// told another size, or rules have seen it.
    limit: Option<usize>,
    /// The block that a server has padded its response to, or that the client wants.
    block: Option<Block>,
    asked: Asked,
    /// A datagram cannot be returned as the verdict: it leaves with those that are delayed.
    is_late: bool,
}

impl Ending {
    /// The end of a query without an entry and a state.
    fn of(client: Client) -> Self {
        Self {
            client,
            entry: None,
            state: None,
            limit: None,
            block: None,
            asked: Asked::default(),
            is_late: false,
        }
    }

    /// The end of a query that a server was asked at a time.
    fn of_attempt(pending: &PendingQuery, backend: BackendSlot, at: Tick) -> Self {
        Self { asked: Asked::of(pending).by(backend, at), ..Self::of_pending(pending) }
    }

    /// The end of a query that has claimed a slot.
    const fn of_pending(pending: &PendingQuery) -> Self {
        let (client, entry, asked) = (pending.client, pending.waiter.entry(), Asked::of(pending));
        let block = if pending.wants_padding() { Some(padding::OF_ANSWERS) } else { None };
        Self { client, entry, state: None, limit: None, block, asked, is_late: false }
    }
}

impl Shard {
    /// Handles a client's query. It is edited into the query for a backend, or into a self-generated
    /// answer.
    pub fn on_query(&mut self, from: Client, packet: &mut Packet<'_>) -> Verdict {
        let stats = self.cx.stats();
        stats.queries.add(1);
        stats.listener(from.listener, from.connection.is_some()).stats.queries.add(1);
        let mut query = match self.admit(from, packet).and_then(|state| self.parse(from, state, packet)) {
            Ok(query) => query,
            Err(outcome) => return self.finish(Ending::of(from), outcome, packet),
        };
        let outcome = match self.evaluate_query(&mut query, packet) {
            Decision::Forward => self.forward(&mut query, packet),
            Decision::Answered => Outcome::Answered,
            Decision::Drop(reason) => Outcome::Dropped(reason),
        };
        if let Outcome::Sent(sent) = outcome {
            // Nothing ends yet, and its state is with its entry.
            return sent.verdict();
        }
        let ending = Ending { state: query.state.take(), ..Ending::of_pending(&query.pending) };
        self.finish(ending, outcome, packet)
    }

    /// Evaluates the query rules, if there are any. What they decided is in the query state.
    fn evaluate_query(&mut self, query: &mut Query, packet: &mut Packet<'_>) -> Decision {
        if !self.cx.needs.rules && query.state.is_none() {
            return Decision::Forward;
        }
        self.evaluate_rules(query, packet, apply::query)
    }

    /// Evaluates rules of queries.
    fn evaluate_rules(
        &mut self,
        query: &mut Query,
        packet: &mut Packet<'_>,
        rules: impl FnOnce(&mut EvaluationContext<'_, '_>, &mut Environment<'_>, &mut Effects<'_>) -> Decision,
    ) -> Decision {
        self.ensure_state(query);
        let (decision, facts) = self.evaluate(query, None, packet, |context, environment, effects| {
            (rules(context, environment, effects), context.facts)
        });
        query.facts = facts;
        if decision == Decision::Answered {
            self.cx.stats().rule_answers[RuleAnswer::of(packet.bytes())].add(1);
        }
        let Some(state) = &query.state else { return decision };
        query.pending.pool = state.pool;
        if decision == Decision::Forward && !state.original.is_empty() {
            // A rule has changed the name.
            match Question::parse(packet.bytes()) {
                Some(question) => query.pending.question = self.cx.hash(&question),
                None => return Decision::Drop(DropReason::QueryMalformed),
            }
        }
        decision
    }

    /// Forwards the query to a server of its pool.
    fn forward(&mut self, query: &mut Query, packet: &mut Packet<'_>) -> Outcome {
        if let Some(state) = &mut query.state
            && (self.cx.needs.options || state.error.is_some())
        {
            note_opt(state, packet);
        }
        if self.cx.needs.cache
            && let Some(outcome) = self.look_up(query, packet)
        {
            return outcome;
        }
        let Some(backend) = self.select(query, packet, &[]) else {
            return match self.answer_stale(query, packet) {
                Some(outcome) => outcome,
                None => {
                    self.count_miss_at_hand(query.pending.pool);
                    self.no_server(query, packet)
                }
            };
        };
        let has_shadow = self.cx.needs.shadows && self.begin_shadow(query, packet);
        let outcome = self.dispatch(backend, query, packet);
        if has_shadow && matches!(outcome, Outcome::Dropped(_)) {
            self.shadows.queue.retract();
        }
        outcome
    }

    /// Sends the query to a server, and keeps what its response will need.
    fn dispatch(&mut self, backend: BackendSlot, query: &mut Query, packet: &mut Packet<'_>) -> Outcome {
        if let Some(mut state) = query.state.take() {
            self.add_subnet(backend, query.pending.client, &mut state, packet);
            query.pending.note_opcode(packet.bytes());
            let needs = self.cx.needs;
            if needs.states || !state.is_plain() || needs.tags && !state.tags.is_empty() {
                let limit = (!query.pending.came_by_connection() && (needs.grows || state.may_grow()))
                    .then(|| datagram_limit(&state, packet));
                match self.dispatcher.open_entry(self.cx.now, state) {
                    Some(entry) => {
                        query.pending.waiter = Waiter::Client(Some(entry));
                        if let Some(limit) = limit {
                            self.dispatcher.queries.set_limit(Some(entry), limit);
                        }
                    }
                    None => {
                        self.count_miss_at_hand(query.pending.pool);
                        return Outcome::Dropped(DropReason::QueryTableFull);
                    }
                }
            } else {
                self.dispatcher.queries.recycle(state);
            }
        }
        self.remember_key(query, packet);
        self.remember_name(query, packet);
        let (cx, connections) = (&mut self.cx, &mut self.connections);
        match self.dispatcher.dispatch(cx, connections, backend, &mut query.pending, packet) {
            Ok(sent) => Outcome::Sent(sent),
            Err(reason) => Outcome::Dropped(reason),
        }
    }

    /// Selects a server of the pool for this query, none of `excluded`.
    fn select(
        &mut self,
        query: &mut Query,
        packet: &mut Packet<'_>,
        excluded: &[BackendSlot],
    ) -> Option<BackendSlot> {
        let pool = query.pending.pool;
        // An unknown pool has no server.
        let kind = self.cx.snapshot.pools.get(pool.index())?.policy.kind;
        if let Kind::Lua(function) = kind
            // When the function selects none, the pool's fallback policy does.
            && let Some(backend) = self.select_by_script(function, query, packet, excluded)
        {
            return Some(backend);
        }
        let client = visible_client(query.pending.client, query.state.as_deref()).peer;
        let subject = Subject { qname: query.facts.qname(packet.bytes()), client: &client };
        let came_by_connection = query.pending.came_by_connection();
        let (cx, connections) = (&mut self.cx, &self.connections);
        self.dispatcher.select(cx, connections, pool, &subject, came_by_connection, excluded)
    }

    /// Selects a server by a Lua function; returns none after an error.
    fn select_by_script(
        &mut self,
        function: FunctionId,
        query: &mut Query,
        packet: &mut Packet<'_>,
        excluded: &[BackendSlot],
    ) -> Option<BackendSlot> {
        let mut candidates = std::mem::take(&mut self.evaluator.candidates);
        self.dispatcher.balancer.candidates(query.pending.pool, &mut candidates);
        candidates.retain(|candidate| !excluded.contains(&candidate.slot));
        self.ensure_state(query);
        let chosen = self.evaluate(query, None, packet, |context, environment, _| {
            let now = environment.now;
            environment.script.as_deref_mut()?.choose(function, &candidates, context, now)
        });
        self.evaluator.candidates = candidates;
        chosen
    }

    fn no_server(&mut self, query: &mut Query, packet: &mut Packet<'_>) -> Outcome {
        if self.cx.snapshot.globals.servfail_when_no_server {
            self.servfail(query, packet)
        } else {
            Outcome::Dropped(DropReason::NoServer)
        }
    }

    /// Turns a query into SERVFAIL, as rules would.
    fn servfail(&mut self, query: &mut Query, packet: &mut Packet<'_>) -> Outcome {
        self.ensure_state(query);
        query.facts = Facts::of(packet.bytes());
        let decision = self.evaluate(query, None, packet, |context, environment, effects| {
            apply::answer_rcode(context, environment, effects, rcode::SERVFAIL)
        });
        match decision {
            Decision::Drop(reason) => Outcome::Dropped(reason),
            Decision::Answered | Decision::Forward => Outcome::Answered,
        }
    }

    /// Adds the client's subnet for a server that gets it.
    fn add_subnet(
        &self,
        backend: BackendSlot,
        client: Client,
        state: &mut QueryState,
        packet: &mut Packet<'_>,
    ) {
        let settings = state.ecs;
        if !self.cx.sends_subnet(backend) || !settings.wanted || signature::is_signed(packet.bytes()) {
            return;
        }
        let address = settings.address(&visible_client(client, Some(state)));
        let (v4, v6, replace) = (settings.v4, settings.v6, settings.replace);
        let is_kept = replace && state.keep_client_subnet(packet.bytes());
        let done = ecs::set(packet, address, v4, v6, replace, apply::OPT_PAYLOAD);
        if is_kept && done != Ecs::Replaced {
            state.client_subnet.clear();
        }
        // An option beside one that a rule added is removed with its record.
        if done == Ecs::OptAdded || done == Ecs::OptionAdded && state.added == Ecs::Left {
            state.added = done;
        }
    }

    /// Finishes a query, or its forwarding to a server: counts it, adapts the answer to the client,
    /// closes its entry. An answer for a client connection is written to it; any other one leaves
    /// by the verdict, at once or delayed.
    fn finish(&mut self, mut ending: Ending, outcome: Outcome, packet: &mut Packet<'_>) -> Verdict {
        let (mut delay, mut proxied) = (TickDelta(0), None);
        let mut shadow = Shadow::No;
        if let Some(state) = ending.state.take() {
            (delay, proxied, shadow) = (state.delay, state.proxied.map(|p| p.source), state.shadow);
            self.dispatcher.queries.recycle(state);
        }
        let mut end = match outcome {
            Outcome::Sent(sent) => return sent.verdict(),
            Outcome::Waits => return Verdict::Hold,
            Outcome::Dropped(reason) => End::Dropped(reason),
            Outcome::Responded => End::Response,
            Outcome::Answered => End::OwnAnswer,
            Outcome::Cached => End::Cached,
        };
        // It is not taken apart as a whole, which would copy it for each query.
        let (client, entry) = (ending.client, ending.entry);
        if self.cx.needs.shadows {
            self.end_live_side(entry, shadow);
        }
        // The caches may have gone by a reload while queries wait.
        if !self.coalescing.is_idle() {
            let is_own = self.is_refresh(entry);
            let (told, fate) = match end {
                End::Dropped(
                    reason @ (DropReason::Timeout
                    | DropReason::BackendConnectionFailed
                    | DropReason::NoServer
                    | DropReason::OutstandingFull
                    | DropReason::Descriptors
                    | DropReason::QuerySendError),
                ) => (claims::Outcome::Failed, Fate::Dropped(reason, ending.asked.server())),
                End::Cached => (claims::Outcome::Stale, Fate::Stale),
                End::Dropped(DropReason::ClientGone) => (claims::Outcome::Stored, Fate::Again),
                End::Response if is_own => (claims::Outcome::Stored, Fate::Again),
                // One after the other they would wait too long.
                End::Dropped(_) | End::OwnAnswer | End::Response => {
                    (claims::Outcome::Separate, Fate::Separate)
                }
            };
            self.release_waiting(entry, told, || fate);
        }
        if entry.is_some() {
            self.count_end(entry);
        }
        if self.is_refresh(entry) {
            return self.finish_refresh(entry, ending.asked.pool);
        }
        let (limit, block) = (ending.limit, ending.block);
        if end == End::Response && (limit.is_some() || block.is_some()) && !fit(packet, limit, block) {
            end = End::Dropped(DropReason::AnswerTooLong);
        }
        self.record(&ending, proxied, end, packet);
        let (verdict, counter) = match end {
            End::Dropped(reason) => return self.finish_dropped(client, entry, reason),
            End::Response => (Verdict::Deliver(client), &self.cx.stats().responses),
            End::OwnAnswer => (Verdict::Answer(client), &self.cx.stats().self_answered),
            End::Cached => (Verdict::Answer(client), &self.cx.stats().cache_hits),
        };
        let (asked, is_late) = (&ending.asked, ending.is_late);
        let latency = self.cx.now.since(asked.arrived(&self.cx, &self.dispatcher.queries, entry));
        let is_transfer = entry.is_some() && self.dispatcher.queries.transfer(entry).is_some();
        self.dispatcher.queries.close(entry);
        let Some(connection) = client.connection else {
            if delay == TickDelta(0) && !is_late {
                counter.add(1);
                self.cx.count_timed_answer(client, asked.pool(), latency, packet.bytes());
                return verdict;
            }
            if self.dispatcher.delayed.hold(self.cx.now + delay, verdict, end, packet.bytes()) {
                let waited = TickDelta(latency.0 + delay.0);
                self.cx.count_delayed(client, asked.pool(), waited, packet.bytes());
                return Verdict::Hold;
            }
            return self.cx.drop(DropReason::DelayFull);
        };
        if self.connections.clients.is_over(connection) {
            return self.finish_dropped(client, None, DropReason::ClientGone);
        }
        counter.add(1);
        if is_transfer {
            // Its duration tells of the zone's size.
            self.cx.count_answer(client, packet.bytes());
        } else {
            self.cx.count_timed_answer(client, asked.pool(), latency, packet.bytes());
        }
        // An answer that rules have made longer than a frame can hold becomes TC=1; that fails when
        // its question is malformed.
        let fits = packet.len() <= MESSAGE_MAX || {
            self.cx.drop(DropReason::AnswerTooLong);
            own_answer(&self.cx, packet, rcode::SERVFAIL) == Outcome::Answered
        };
        let limits = self.cx.client_limits();
        if let Some(timeout) = self.connections.clients.keepalive(connection, limits)
            && !signature::is_signed(packet.bytes())
        {
            // An answer without EDNS, or without space for the option, goes without it.
            let _ = keepalive::set(packet, timeout);
        }
        padding::restore(packet, block, MESSAGE_MAX);
        let answer = fits.then_some(packet.bytes());
        self.connections.clients.conclude(connection, answer, limits, self.cx.now);
        Verdict::Hold
    }

    fn finish_dropped(&mut self, client: Client, entry: Option<EntryId>, reason: DropReason) -> Verdict {
        self.dispatcher.queries.close(entry);
        if let Some(connection) = client.connection {
            let (limits, now) = (self.cx.client_limits(), self.cx.now);
            self.connections.clients.leave_unanswered(connection, limits, now);
        }
        self.cx.drop(reason)
    }

    /// Emits delayed answers that are due.
    pub(super) fn release_delayed(&mut self, most: usize, out: Out<'_>) {
        let (cx, stats) = (&self.cx, self.cx.stats());
        self.dispatcher.delayed.release(self.cx.now, most, &mut |verdict, end, bytes| {
            match end {
                End::OwnAnswer => stats.self_answered.add(1),
                End::Response => stats.responses.add(1),
                End::Cached => stats.cache_hits.add(1),
                End::Dropped(_) => {}
            }
            if let Verdict::Answer(client) | Verdict::Deliver(client) = verdict {
                cx.count_answer(client, bytes);
            }
            out(verdict, bytes);
        });
    }

    /// Sends the copies that rules have made.
    pub(super) fn send_copies(&mut self, scratch: &mut Scratch, out: Out<'_>) {
        let (cx, connections) = (&mut self.cx, &mut self.connections);
        while let Some((sent, packet)) = self.dispatcher.send_copy(cx, connections, scratch) {
            emit(sent.map(|sent| (sent, packet)), out);
        }
    }
}

/// Returns the client as rules and policies see it.
#[inline]
fn visible_client(client: Client, state: Option<&QueryState>) -> Client {
    let proxied = state.and_then(|state| state.proxied);
    proxied.map_or(client, |proxied| Client { peer: proxied.source, ..client })
}

/// Returns how many bytes the client of a datagram can take: what becomes of its answer is only known
/// when that leaves.
fn datagram_limit(state: &QueryState, packet: &Packet<'_>) -> usize {
    // Our own OPT record says nothing of the client.
    let has_edns = state.added != Ecs::OptAdded;
    if has_edns { answer::udp_limit(packet.bytes()).min(DATAGRAM_MAX) } else { DATAGRAM_MIN }
}

/// Notes the OPT record of a query's client, before that of another one is added.
fn note_opt(state: &mut QueryState, packet: &Packet<'_>) {
    let opt = edns::locate(packet.bytes()).filter(|_| state.added != Ecs::OptAdded);
    state.client_opt = opt.map(|opt| opt.dnssec_ok);
}

/// Pads a server's response anew where rules have edited it, and truncates it to what the client can
/// take. Returns false when that is impossible.
fn fit(packet: &mut Packet<'_>, limit: Option<usize>, block: Option<Block>) -> bool {
    let most = limit.unwrap_or(MESSAGE_MAX);
    padding::restore(packet, block, most);
    let fits = limit.is_none_or(|limit| answer::fit(packet, limit));
    // It may have lost its records.
    padding::restore(packet, block, most);
    fits
}

/// Turns a query into a self-generated answer with a response code, without rules.
fn own_answer(cx: &Context, packet: &mut Packet<'_>, code: u8) -> Outcome {
    let flags = Flags { ra: Some(false), ..Flags::default() };
    if answer::rcode(packet, u16::from(code), flags, cx.answer_edns()) {
        Outcome::Answered
    } else {
        Outcome::Dropped(DropReason::QueryShort)
    }
}

/// Emits a datagram that an attempt has made.
fn emit(sent: Option<(Sent, Packet<'_>)>, out: Out<'_>) {
    if let Some((Sent::Datagram(route), mut packet)) = sent {
        out(Verdict::Forward(route), packet.bytes_mut());
    }
}
