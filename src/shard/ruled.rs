//! The longer path: of packets that meet rules, a script, or servers that want more of them than
//! their octets. The scene is set, the chain walked, and the packet goes on as any other.

use super::act::{self, Hands, Outcome, Reply};
use super::case::{self, EcsWish};
use super::outstanding::{Asked, Key, Known, TEED};
use super::policy::{Kind, Subject};
use super::rules::scene::{Answered, Env, Facts, Scene};
use super::script::FunctionId;
use super::verdict::{DropReason, Verdict};
use super::{DUE_PER_TICK, Shard, answer_edns};
use crate::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot, mapped};
use crate::config::snapshot::Snapshot;
use crate::live::ShardPage;
use crate::packet::Packet;
use crate::time::TickDelta;
use crate::wire::answer::{self, Flags};
use crate::wire::ecs::{self, Ecs};
use crate::wire::edit;
use crate::wire::query::Question;

/// Between two calls of the script's `maintenance`.
const MAINTENANCE: TickDelta = TickDelta::from_ms(1_000);
/// Octets of a buffer in which a query that timed out meets its rules; more for a longer one.
const BUFFER: usize = 4_096;
/// Of them, what edits may add.
const ROOM: usize = 512;

impl Shard {
    /// A query that meets rules.
    pub(super) fn rule_query(
        &mut self,
        asked: Asked,
        facts: Facts,
        has_origin: bool,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let from = asked.client;
        self.case.reset(self.now, ecs_wish(&self.snapshot), case::flags_of(packet.bytes()));
        self.case.protocol = self.protocol(from);
        self.name_server(from);
        if has_origin {
            self.take_up_origin();
        }
        let outcome = self.stage(from, facts, None, packet, act::query);
        match outcome {
            Outcome::Drop(reason) => self.drop(reason),
            Outcome::Answered => self.answered(from, packet),
            Outcome::Forward => self.forward(asked, packet),
        }
    }

    /// Tells rules the server name of the client's TLS handshake.
    fn name_server(&mut self, from: Client) {
        if let Some(name) = from.stream.and_then(|stream| self.streams.sni(stream)) {
            self.case.sni.extend_from_slice(name.as_bytes());
        }
    }

    /// On to a server of the pool in the case.
    fn forward(&mut self, mut asked: Asked, packet: &mut Packet<'_>) -> Verdict {
        asked.pool = self.case.pool;
        let Some(question) = Question::parse(packet.bytes()) else {
            return self.drop(DropReason::QueryMalformed);
        };
        if !self.case.original.is_empty() {
            asked.question = self.hash(&question);
        }
        let Some(backend) = self.choose(asked, packet) else {
            return self.no_server(asked.client, packet);
        };
        self.add_subnet(backend, asked.client, packet);
        let plain = self.case.is_plain();
        if self.wants.cases || !plain || self.wants.tags && !self.case.tags.is_empty() {
            match self.cases.open(&mut self.case) {
                Some(case) => asked.case = case,
                None => return self.drop(DropReason::CasesFull),
            }
        }
        self.lob(backend, asked, packet)
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
        self.select(asked.pool, &subject, asked.client.stream.is_some())
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
        let chosen = self.stage(asked.client, facts, None, packet, |scene, env, _| {
            env.script.as_deref_mut()?.choose(function, &candidates, scene, env.now, env.snapshot)
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
        let outcome = self.stage(to, facts, None, packet, |scene, env, hands| {
            act::restore(scene);
            hands.limit = act::limit(scene);
            let flags = Flags { ra: Some(false), ..Flags::default() };
            if answer::rcode(scene.packet, act::NO_SERVER, flags, hands.edns) {
                act::self_answered(scene, env, hands)
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
    pub(super) fn release(&mut self, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let page = &self.board.shards()[self.index];
        self.later.release(self.now, DUE_PER_TICK, &mut |verdict, octets| {
            leaves(page, verdict);
            out(verdict, octets);
        });
    }

    fn hold(&mut self, verdict: Verdict, packet: &Packet<'_>) -> Verdict {
        if self.case.delay == TickDelta::default() || self.case.protocol.is_stream() {
            leaves(self.page(), verdict);
            return verdict;
        }
        if self.later.hold(self.now + self.case.delay, verdict, packet.bytes()) {
            return Verdict::Hold;
        }
        self.drop(DropReason::DelayFull)
    }

    /// Whether a server's queries carry the client's subnet.
    pub(super) fn wants_subnet(&self, backend: BackendSlot) -> bool {
        self.snapshot.backend(backend).is_some_and(|b| b.use_client_subnet)
    }

    /// Adds the client's subnet for a server that wants it.
    fn add_subnet(&mut self, backend: BackendSlot, client: Client, packet: &mut Packet<'_>) {
        let wish = self.case.ecs;
        if !self.wants_subnet(backend) || !wish.wanted {
            return;
        }
        let done = ecs::set(
            packet,
            wish.address(&self.seen(client)),
            wish.v4,
            wish.v6,
            wish.replace,
            act::OPT_PAYLOAD,
        );
        // An option beside one that a rule added goes with its record.
        if done == Ecs::OptAdded || done == Ecs::OptionAdded && self.case.added == Ecs::Left {
            self.case.added = done;
        }
    }

    /// An answer that meets rules, or whose query had a case. The try is settled already.
    pub(super) fn rule_response(
        &mut self,
        key: Key,
        known: Known,
        limit: Option<usize>,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let asked = known.asked;
        let had_case = !self.cases.is_bare(asked.case);
        self.resume(asked.case, known);
        if self.snapshot.globals.fixup_case
            && let Some(question) = self.cases.query(asked.case).and_then(|q| Question::parse(q))
        {
            answer::fixup_case(packet.bytes_mut(), question.qname);
        }
        let by = Answered { backend: key.route.backend, latency: self.now.since(known.claimed_at) };
        let facts = Facts::of(packet.bytes());
        let kept = self.cases.query(asked.case).is_some();
        let reply = self.stage(asked.client, facts, Some(by), packet, |scene, env, hands| {
            if had_case {
                act::restore(scene);
            }
            let reply = match act::walk_response(&env.snapshot.chains.response, scene, env, hands) {
                // A query too long to be kept is asked once; its answer is better than none.
                Reply::Restart(_) if !kept => Reply::Deliver,
                reply @ (Reply::Deliver | Reply::Drop(_) | Reply::Restart(_)) => reply,
            };
            if reply == Reply::Deliver {
                act::finish(scene, env);
            }
            reply
        });
        if let Reply::Restart(pool) = reply {
            return self.restart(asked, key.route.backend, pool, packet);
        }
        self.cases.close(asked.case);
        match reply {
            Reply::Drop(reason) => self.drop(reason),
            Reply::Deliver | Reply::Restart(_) if limit.is_some_and(|limit| !answer::fit(packet, limit)) => {
                self.drop(DropReason::AnswerTooLong)
            }
            Reply::Deliver | Reply::Restart(_) => self.hold(Verdict::Deliver(asked.client), packet),
        }
    }

    /// A message of a zone transfer meets its rules; whether the client gets it.
    pub(super) fn rule_transfer(&mut self, key: Key, known: Known, packet: &mut Packet<'_>) -> bool {
        if self.snapshot.chains.xfr.is_empty() {
            return true;
        }
        let case = known.asked.case;
        let had_case = !self.cases.is_bare(case);
        self.resume(case, known);
        let by = Answered { backend: key.route.backend, latency: self.now.since(known.claimed_at) };
        let facts = Facts::of(packet.bytes());
        let reply = self.stage(known.asked.client, facts, Some(by), packet, |scene, env, hands| {
            act::walk_response(&env.snapshot.chains.xfr, scene, env, hands)
        });
        if had_case {
            // More messages follow.
            self.cases.put(case, &mut self.case);
        }
        // What is half transferred cannot be asked for again.
        !matches!(reply, Reply::Drop(_))
    }

    /// Takes up a query's case again: what is in the table, or what can be said without one.
    fn resume(&mut self, at: u32, known: Known) {
        if let Some(case) = self.cases.case(at) {
            std::mem::swap(&mut self.case, case);
        } else {
            let flags = case::unpacked(known.asked.flags);
            self.case.reset(known.claimed_at, ecs_wish(&self.snapshot), flags);
            self.case.protocol = self.protocol(known.asked.client);
            self.name_server(known.asked.client);
            self.case.pool = known.asked.pool;
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
        self.case.restarts = self.case.restarts.saturating_add(1);
        self.case.pool = pool;
        asked.pool = pool;
        let mut kept = self.cases.query(asked.case).is_some_and(|query| packet.replace(query));
        // A second try has left its own id in the query that was kept.
        edit::set_id(packet.bytes_mut(), asked.client_id);
        if kept && self.wants_subnet(from) && self.case.added != Ecs::Left {
            // Only servers that want the client's subnet may see it.
            // A query that cannot be read again is not asked again.
            kept = ecs::undo(packet, self.case.added);
            self.case.added = Ecs::Left;
            self.cases.keep_again(asked.case, packet.bytes());
        }
        let backend = if kept { self.choose(asked, packet) } else { None };
        let Some(backend) = backend else {
            self.cases.close(asked.case);
            return if kept { self.no_server(asked.client, packet) } else { self.drop(DropReason::NoServer) };
        };
        self.add_subnet(backend, asked.client, packet);
        self.cases.keep_again(asked.case, packet.bytes());
        // The case goes on; what is in the table is the memory of another.
        self.cases.put(asked.case, &mut self.case);
        // This is the second try.
        self.cases.take_retry(asked.case);
        match self.claim(backend, asked, None) {
            Some(key) => self.send(key, &asked, packet),
            None => {
                self.cases.close(asked.case);
                self.drop(DropReason::OutstandingFull)
            }
        }
    }

    /// No server answered in time: the rules for that may ask again, or let the query go.
    pub(super) fn timed_out(&mut self, key: Key, known: Known, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let asked = known.asked;
        if self.snapshot.chains.timeout.is_empty() || self.cases.query(asked.case).is_none() {
            self.cases.close(asked.case);
            self.lose(asked.client, DropReason::Timeout);
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let kept = self.cases.query(asked.case).map_or(0, |query| query.len());
        buffer.resize(BUFFER.max(kept + ROOM), 0);
        let mut packet = Packet::new(&mut buffer, 0, 0);
        if let Some(query) = self.cases.query(asked.case) {
            // There is room for it.
            let _ = packet.replace(query);
        }
        self.resume(asked.case, known);
        let by = Answered { backend: key.route.backend, latency: self.now.since(known.claimed_at) };
        let facts = Facts::of(packet.bytes());
        let reply = self.stage(asked.client, facts, Some(by), &mut packet, |scene, env, hands| {
            act::walk_response(&env.snapshot.chains.timeout, scene, env, hands)
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
                self.cases.close(asked.case);
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
        play: impl FnOnce(&mut Scene<'_, '_>, &mut Env<'_>, &mut Hands<'_>) -> T,
    ) -> T {
        let local = self.case.via.map_or_else(|| self.local(client), |via| via.destination);
        let client = self.seen(client);
        let mut scene = Scene { packet, facts, case: &mut self.case, client, local, answered };
        let mut env = Env {
            now: self.now,
            snapshot: &self.snapshot,
            limits: &mut self.limits,
            rng: &mut self.rng,
            farm: &self.selector,
            script: self.script.as_deref_mut(),
            patterns: &mut self.patterns,
        };
        let mut hands = Hands {
            page: &self.board.shards()[self.index],
            later: &mut self.later,
            edns: answer_edns(&self.snapshot),
            limit: 0,
        };
        play(&mut scene, &mut env, &mut hands)
    }

    /// A wildcard listener was asked on a local address, for the first time: which one it is.
    pub fn on_local(&mut self, slot: LocalSlot, ip: [u8; 16]) {
        if self.locals.len() <= slot.index() {
            self.locals.resize(slot.index() + 1, mapped(std::net::Ipv4Addr::UNSPECIFIED.into()));
        }
        self.locals[slot.index()] = ip;
    }

    /// Sends the copies that rules have made.
    pub(super) fn send_copies(&mut self, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        const NOBODY: Client = Client {
            peer: Endpoint { ip: [0; 16], scope: 0, port: 0 },
            listener: ListenerSlot(0),
            local: LocalSlot::LISTENER,
            stream: None,
        };
        while let Some((backend, mut octets, len)) = self.later.take_copy() {
            let question = Question::parse(&octets[..len]).map_or(0, |q| self.hash(&q));
            let asked =
                Asked { client: NOBODY, client_id: 0, question, case: TEED, pool: PoolSlot(0), flags: 0 };
            match self.claim(backend, asked, None) {
                Some(key) => {
                    self.unawaited += 1;
                    if !self.send_copy(key, &asked, &mut octets[..len], out) {
                        self.unawaited -= 1;
                        self.drop(DropReason::TeeFull);
                    }
                }
                None => {
                    self.drop(DropReason::TeeFull);
                }
            }
            self.later.put_back(octets);
        }
    }

    /// Lets the script do what it does every second.
    pub(super) fn maintain(&mut self) {
        let Some(script) = &mut self.script else { return };
        if self.now.since(self.maintained) < MAINTENANCE {
            return;
        }
        self.maintained = self.now;
        script.maintain(self.now);
        let errors = script.errors();
        let new = errors - std::mem::replace(&mut self.script_errors, errors);
        self.page().script_errors.add(new);
    }
}

/// Counts an answer that leaves.
fn leaves(page: &ShardPage, verdict: Verdict) {
    match verdict {
        Verdict::Answer(_) => page.self_answered.add(1),
        Verdict::Deliver(_) => page.responses.add(1),
        Verdict::Drop(_) | Verdict::Forward(_) | Verdict::Hold => {}
    }
}

const fn ecs_wish(snapshot: &Snapshot) -> EcsWish {
    let globals = &snapshot.globals;
    EcsWish {
        wanted: true,
        replace: globals.ecs_override,
        v4: globals.ecs_v4,
        v6: globals.ecs_v6,
        instead: None,
    }
}
