//! The longer path: of packets that meet rules, a script, or servers that want more of them than
//! their bytes. The scene is set, the chain walked, and the packet goes on as any other.

use crate::balance::{Kind, Subject};
use crate::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot, mapped};
use crate::base::packet::Packet;
use crate::base::time::TickDelta;
use crate::model::Snapshot;
use crate::rules::apply::{Effects, Outcome, Reply};
use crate::rules::context::{Answered, Environment, EvaluationContext, Facts};
use crate::rules::query_state::EcsSettings;
use crate::rules::script::FunctionId;
use crate::rules::{apply, query_state};
use crate::shard::dispatch::outstanding::{Asked, COPIED, Key, Known};
use crate::shard::verdict::Verdict;
use crate::shard::{DUE_PER_TICK, Shard, answer_edns};
use crate::stats::drop_reason::DropReason;
use crate::stats::live::ShardStats;
use crate::wire::answer::Flags;
use crate::wire::ecs::Ecs;
use crate::wire::query::Question;
use crate::wire::{answer, ecs, edit};

/// Between two calls of the script's `maintenance`.
const MAINTENANCE: TickDelta = TickDelta::from_ms(1_000);
/// Bytes of a buffer in which a query that timed out meets its rules; more for a longer one.
const BUFFER: usize = 4_096;
/// Of them, what edits may add.
const ROOM: usize = 512;

impl Shard {
    /// A query that meets rules.
    pub(crate) fn evaluate_query(
        &mut self,
        asked: Asked,
        facts: Facts,
        has_origin: bool,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let from = asked.client;
        self.query_state.reset(self.now, ecs_settings(&self.snapshot), query_state::flags_of(packet.bytes()));
        self.query_state.protocol = self.protocol(from);
        self.name_server(from);
        if has_origin {
            self.take_up_origin();
        }
        let outcome = self.stage(from, facts, None, packet, apply::query);
        match outcome {
            Outcome::Drop(reason) => self.drop(reason),
            Outcome::Answered => self.answered(from, packet),
            Outcome::Forward => self.dispatch(asked, packet),
        }
    }

    /// Tells rules the server name of the client's TLS handshake.
    fn name_server(&mut self, from: Client) {
        if let Some(name) = from.connection.and_then(|connection| self.clients.sni(connection)) {
            self.query_state.sni.extend_from_slice(name.as_bytes());
        }
    }

    /// On to a server of the pool in the case.
    fn dispatch(&mut self, mut asked: Asked, packet: &mut Packet<'_>) -> Verdict {
        asked.pool = self.query_state.pool;
        let Some(question) = Question::parse(packet.bytes()) else {
            return self.drop(DropReason::QueryMalformed);
        };
        if !self.query_state.original.is_empty() {
            asked.question = self.hash(&question);
        }
        let Some(backend) = self.choose(asked, packet) else {
            return self.no_server(asked.client, packet);
        };
        self.add_subnet(backend, asked.client, packet);
        let plain = self.query_state.is_plain();
        if self.wants.query_table || !plain || self.wants.tags && !self.query_state.tags.is_empty() {
            match self.query_table.open(&mut self.query_state) {
                Some(query_state) => asked.query_state = query_state,
                None => return self.drop(DropReason::QueryTableFull),
            }
        }
        self.forward(backend, asked, packet)
    }

    /// A server of the pool for this query.
    fn choose(&mut self, asked: Asked, packet: &mut Packet<'_>) -> Option<BackendSlot> {
        // An unknown pool has no server.
        if asked.pool.index() >= self.snapshot.pools.len() {
            return None;
        }
        if let Kind::Lua(function) = self.snapshot.pool(asked.pool).policy.kind {
            // Without an answer the pool is served all the same.
            if let Some(backend) = self.choose_by_script(function, asked, packet) {
                return Some(backend);
            }
        }
        let question = Question::parse(packet.bytes())?;
        let client = self.seen(asked.client).peer;
        let subject = Subject { qname: question.qname, client: &client };
        self.select(asked.pool, &subject, asked.client.connection.is_some())
    }

    /// A server that a function of the configuration chooses; none after an error.
    fn choose_by_script(
        &mut self,
        function: FunctionId,
        asked: Asked,
        packet: &mut Packet<'_>,
    ) -> Option<BackendSlot> {
        let mut candidates = std::mem::take(&mut self.candidates);
        self.selector.candidates(asked.pool, &mut candidates);
        let facts = Facts::of(packet.bytes());
        let chosen = self.stage(asked.client, facts, None, packet, |context, env, _| {
            env.script.as_deref_mut()?.choose(function, &candidates, context, env.now, env.snapshot)
        });
        let backend = chosen.and_then(|at| candidates.get(at)).map(|c| c.slot);
        self.candidates = candidates;
        backend
    }

    fn no_server(&mut self, to: Client, packet: &mut Packet<'_>) -> Verdict {
        if !self.snapshot.globals.servfail_when_no_server {
            return self.drop(DropReason::NoServer);
        }
        let facts = Facts::of(packet.bytes());
        let outcome = self.stage(to, facts, None, packet, |context, env, effects| {
            apply::restore(context);
            effects.limit = apply::limit(context);
            let flags = Flags { ra: Some(false), ..Flags::default() };
            if answer::rcode(context.packet, apply::NO_SERVER, flags, effects.edns) {
                apply::self_answered(context, env, effects)
            } else {
                Outcome::Drop(DropReason::AnswerTooLong)
            }
        });
        match outcome {
            Outcome::Drop(reason) => self.drop(reason),
            Outcome::Answered | Outcome::Forward => self.answered(to, packet),
        }
    }

    /// An answer of our own leaves, at once or later.
    fn answered(&mut self, to: Client, packet: &mut Packet<'_>) -> Verdict {
        self.hold(Verdict::Answer(to), packet)
    }

    /// Hands out what was held back and is due.
    pub(crate) fn release(&mut self, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let stats = &self.live_state.shards()[self.index];
        self.delayed.release(self.now, DUE_PER_TICK, &mut |verdict, bytes| {
            leaves(stats, verdict);
            out(verdict, bytes);
        });
    }

    fn hold(&mut self, verdict: Verdict, packet: &Packet<'_>) -> Verdict {
        if self.query_state.delay == TickDelta::default() || self.query_state.protocol.is_stream() {
            leaves(self.stats(), verdict);
            return verdict;
        }
        if self.delayed.hold(self.now + self.query_state.delay, verdict, packet.bytes()) {
            return Verdict::Hold;
        }
        self.drop(DropReason::DelayFull)
    }

    /// Whether a server's queries carry the client's subnet.
    pub(crate) fn sends_subnet(&self, backend: BackendSlot) -> bool {
        self.snapshot.backend(backend).is_some_and(|b| b.use_client_subnet)
    }

    /// Adds the client's subnet for a server that wants it.
    fn add_subnet(&mut self, backend: BackendSlot, client: Client, packet: &mut Packet<'_>) {
        let interest = self.query_state.ecs;
        if !self.sends_subnet(backend) || !interest.wanted {
            return;
        }
        let done = ecs::set(
            packet,
            interest.address(&self.seen(client)),
            interest.v4,
            interest.v6,
            interest.replace,
            apply::OPT_PAYLOAD,
        );
        // An option beside one that a rule added goes with its record.
        if done == Ecs::OptAdded || done == Ecs::OptionAdded && self.query_state.added == Ecs::Left {
            self.query_state.added = done;
        }
    }

    /// An answer that meets rules, or whose query had a case. The try is settled already.
    pub(crate) fn evaluate_response(
        &mut self,
        key: Key,
        known: Known,
        limit: Option<usize>,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let asked = known.asked;
        let had_state = !self.query_table.is_bare(asked.query_state);
        self.resume(asked.query_state, known);
        if self.snapshot.globals.fixup_case
            && let Some(question) = self.query_table.query(asked.query_state).and_then(|q| Question::parse(q))
        {
            answer::fixup_case(packet.bytes_mut(), question.qname);
        }
        let by = Answered { backend: key.route.backend, latency: self.now.since(known.claimed_at) };
        let facts = Facts::of(packet.bytes());
        let kept = self.query_table.query(asked.query_state).is_some();
        let reply = self.stage(asked.client, facts, Some(by), packet, |context, env, effects| {
            if had_state {
                apply::restore(context);
            }
            let reply = match apply::walk_response(&env.snapshot.chains.response, context, env, effects) {
                // A query too long to be kept is asked once; its answer is better than none.
                Reply::Restart(_) if !kept => Reply::Deliver,
                reply @ (Reply::Deliver | Reply::Drop(_) | Reply::Restart(_)) => reply,
            };
            if reply == Reply::Deliver {
                apply::finish(context, env);
            }
            reply
        });
        if let Reply::Restart(pool) = reply {
            return self.restart(asked, key.route.backend, pool, packet);
        }
        self.query_table.close(asked.query_state);
        match reply {
            Reply::Drop(reason) => self.drop(reason),
            Reply::Deliver | Reply::Restart(_) if limit.is_some_and(|limit| !answer::fit(packet, limit)) => {
                self.drop(DropReason::AnswerTooLong)
            }
            Reply::Deliver | Reply::Restart(_) => self.hold(Verdict::Deliver(asked.client), packet),
        }
    }

    /// A message of a zone transfer meets its rules; whether the client gets it.
    pub(crate) fn evaluate_transfer(&mut self, key: Key, known: Known, packet: &mut Packet<'_>) -> bool {
        if self.snapshot.chains.xfr.is_empty() {
            return true;
        }
        let query_state = known.asked.query_state;
        let had_state = !self.query_table.is_bare(query_state);
        self.resume(query_state, known);
        let by = Answered { backend: key.route.backend, latency: self.now.since(known.claimed_at) };
        let facts = Facts::of(packet.bytes());
        let reply = self.stage(known.asked.client, facts, Some(by), packet, |context, env, effects| {
            apply::walk_response(&env.snapshot.chains.xfr, context, env, effects)
        });
        if had_state {
            // More messages follow.
            self.query_table.put(query_state, &mut self.query_state);
        }
        // What is half transferred cannot be asked for again.
        !matches!(reply, Reply::Drop(_))
    }

    /// Takes up a query's case again: what is in the table, or what can be said without one.
    fn resume(&mut self, at: u32, known: Known) {
        if let Some(query_state) = self.query_table.query_state(at) {
            std::mem::swap(&mut self.query_state, query_state);
        } else {
            let flags = query_state::unpacked(known.asked.flags);
            self.query_state.reset(known.claimed_at, ecs_settings(&self.snapshot), flags);
            self.query_state.protocol = self.protocol(known.asked.client);
            self.name_server(known.asked.client);
            self.query_state.pool = known.asked.pool;
        }
    }

    /// Asks again, in another pool, with the query that was kept as `from` had got it.
    fn restart(
        &mut self,
        mut asked: Asked,
        from: BackendSlot,
        pool: PoolSlot,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        self.query_state.restarts = self.query_state.restarts.saturating_add(1);
        self.query_state.pool = pool;
        asked.pool = pool;
        let mut kept = self.query_table.query(asked.query_state).is_some_and(|query| packet.replace(query));
        // A second try has left its own id in the query that was kept.
        edit::set_id(packet.bytes_mut(), asked.client_id);
        if kept && self.sends_subnet(from) && self.query_state.added != Ecs::Left {
            // Only servers that want the client's subnet may see it.
            // A query that cannot be read again is not asked again.
            kept = ecs::undo(packet, self.query_state.added);
            self.query_state.added = Ecs::Left;
            self.query_table.keep_again(asked.query_state, packet.bytes());
        }
        let backend = if kept { self.choose(asked, packet) } else { None };
        let Some(backend) = backend else {
            self.query_table.close(asked.query_state);
            return if kept { self.no_server(asked.client, packet) } else { self.drop(DropReason::NoServer) };
        };
        self.add_subnet(backend, asked.client, packet);
        self.query_table.keep_again(asked.query_state, packet.bytes());
        // The case goes on; what is in the table is the memory of another.
        self.query_table.put(asked.query_state, &mut self.query_state);
        // This is the second try.
        self.query_table.take_retry(asked.query_state);
        match self.claim(backend, asked, None) {
            Some(key) => self.send(key, &asked, packet),
            None => {
                self.query_table.close(asked.query_state);
                self.drop(DropReason::OutstandingFull)
            }
        }
    }

    /// No server answered in time: the rules for that may ask again, or let the query go.
    pub(crate) fn timed_out(&mut self, key: Key, known: Known, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let asked = known.asked;
        if self.snapshot.chains.timeout.is_empty() || self.query_table.query(asked.query_state).is_none() {
            self.query_table.close(asked.query_state);
            self.lose(asked.client, DropReason::Timeout);
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let kept = self.query_table.query(asked.query_state).map_or(0, |query| query.len());
        buffer.resize(BUFFER.max(kept + ROOM), 0);
        let mut packet = Packet::new(&mut buffer, 0, 0);
        if let Some(query) = self.query_table.query(asked.query_state) {
            // There is room for it.
            let _ = packet.replace(query);
        }
        self.resume(asked.query_state, known);
        let by = Answered { backend: key.route.backend, latency: self.now.since(known.claimed_at) };
        let facts = Facts::of(packet.bytes());
        let reply = self.stage(asked.client, facts, Some(by), &mut packet, |context, env, effects| {
            apply::walk_response(&env.snapshot.chains.timeout, context, env, effects)
        });
        match reply {
            Reply::Restart(pool) => {
                let verdict = self.restart(asked, key.route.backend, pool, &mut packet);
                match self.conclude(asked.client, verdict, &mut packet) {
                    Verdict::Drop(_) | Verdict::Hold => {}
                    verdict @ (Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Forward(_)) => {
                        out(verdict, packet.bytes_mut());
                    }
                }
            }
            Reply::Deliver | Reply::Drop(_) => {
                self.query_table.close(asked.query_state);
                self.lose(asked.client, DropReason::Timeout);
            }
        }
        self.buffer = buffer;
    }

    /// Sets the scene for a packet and lets `play` happen on it.
    fn stage<T>(
        &mut self,
        client: Client,
        facts: Facts,
        answered: Option<Answered>,
        packet: &mut Packet<'_>,
        play: impl FnOnce(&mut EvaluationContext<'_, '_>, &mut Environment<'_>, &mut Effects<'_>) -> T,
    ) -> T {
        let local =
            self.query_state.proxied.map_or_else(|| self.local(client), |proxied| proxied.destination);
        let client = self.seen(client);
        let mut context =
            EvaluationContext { packet, facts, query_state: &mut self.query_state, client, local, answered };
        let mut env = Environment {
            now: self.now,
            snapshot: &self.snapshot,
            limits: &mut self.limits,
            rng: &mut self.rng,
            balancer: &self.selector,
            script: self.script.as_deref_mut(),
            patterns: &mut self.patterns,
        };
        let mut effects = Effects {
            stats: &self.live_state.shards()[self.index],
            delayed: &mut self.delayed,
            edns: answer_edns(&self.snapshot),
            limit: 0,
        };
        play(&mut context, &mut env, &mut effects)
    }

    /// A wildcard listener was asked on a local address, for the first time: which one it is.
    pub fn on_local(&mut self, slot: LocalSlot, ip: [u8; 16]) {
        if self.locals.len() <= slot.index() {
            self.locals.resize(slot.index() + 1, mapped(std::net::Ipv4Addr::UNSPECIFIED.into()));
        }
        self.locals[slot.index()] = ip;
    }

    /// Sends the copies that rules have made.
    pub(crate) fn send_copies(&mut self, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        const NOBODY: Client = Client {
            peer: Endpoint { ip: [0; 16], scope: 0, port: 0 },
            listener: ListenerSlot(0),
            local: LocalSlot::LISTENER,
            connection: None,
        };
        while let Some((backend, mut bytes, len)) = self.delayed.take_copy() {
            let question = Question::parse(&bytes[..len]).map_or(0, |q| self.hash(&q));
            let asked = Asked {
                client: NOBODY,
                client_id: 0,
                question,
                query_state: COPIED,
                pool: PoolSlot(0),
                flags: 0,
            };
            match self.claim(backend, asked, None) {
                Some(key) => {
                    self.unawaited += 1;
                    if !self.send_copy(key, &asked, &mut bytes[..len], out) {
                        self.unawaited -= 1;
                        self.drop(DropReason::TeeFull);
                    }
                }
                None => {
                    self.drop(DropReason::TeeFull);
                }
            }
            self.delayed.put_back(bytes);
        }
    }

    /// Lets the script do what it does every second.
    pub(crate) fn maintain(&mut self) {
        let Some(script) = &mut self.script else { return };
        if self.now.since(self.maintained) < MAINTENANCE {
            return;
        }
        self.maintained = self.now;
        script.maintain(self.now);
        let errors = script.errors();
        let new = errors - std::mem::replace(&mut self.script_errors, errors);
        self.stats().script_errors.add(new);
    }
}

/// Counts an answer that leaves.
fn leaves(stats: &ShardStats, verdict: Verdict) {
    match verdict {
        Verdict::Answer(_) => stats.self_answered.add(1),
        Verdict::Deliver(_) => stats.responses.add(1),
        Verdict::Drop(_) | Verdict::Forward(_) | Verdict::Hold => {}
    }
}

const fn ecs_settings(snapshot: &Snapshot) -> EcsSettings {
    let globals = &snapshot.globals;
    EcsSettings {
        wanted: true,
        replace: globals.ecs_override,
        v4: globals.ecs_v4,
        v6: globals.ecs_v6,
        instead: None,
    }
}
