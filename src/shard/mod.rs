//! The data plane: one thread, one owner, no locks; no clock, no sockets, no randomness of its own.
//!
//! ```text
//!  on_query:    ACL → parse → query rules → policy.select → outstanding.claim → Forward
//!  on_response: outstanding.find (socket + id) → question (RFC 5452, 9.1) → settle → rules → Deliver
//!  on_tick:     time-outs, second tries, what was held back, publishing of counts
//! ```
//!
//! An engine calls `begin_batch`, then any number of `on_query`, `on_response` and `on_unsent`,
//! then `on_tick`, and sleeps until `next_deadline` or a packet. No call does more than a bounded
//! amount of work: what is left over is asked for by `resume_next`, `next_pending`, or the next tick,
//! so that the engine can look at other sockets meanwhile.

pub mod backend;
pub mod client;
pub mod dispatch;
pub mod pipeline;
pub mod proxied;
mod recency;
pub mod relay;
pub mod verdict;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use ahash::RandomState;

use crate::base::addr::{BackendSlot, Client, PoolSlot, Route, SessionSlot};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::model::{Backend, Snapshot};
use crate::stats::live::{LiveState, PPM, ShardStats};
use crate::wire::answer::{AnswerEdns, Flags};
use crate::wire::header::{Header, rcode};
use crate::wire::query::Question;
use crate::wire::{answer, edit, keepalive, name};

use crate::balance::{Selector, Subject};
use crate::rules::action::ResponseAction;
use crate::rules::context::Facts;
use crate::rules::limits::Limits;
use crate::rules::pattern::PatternCache;
use crate::rules::query_state::QueryState;
use crate::rules::script::{Candidate, Script};
use crate::shard::backend::BackendConnections;
use crate::shard::backend::events::DATAGRAM_MIN;
use crate::shard::client::ClientConnections;
use crate::shard::dispatch::delayed::DelayedAnswers;
use crate::shard::dispatch::outstanding::{
    Asked, COPIED, DELIVERED, Found, Key, Known, NO_CASE, Outstanding, Queue,
};
use crate::shard::dispatch::query_table::QueryTable;
use crate::shard::proxied::Proxied;
use crate::shard::relay::Relay;
use crate::shard::verdict::Verdict;
use crate::stats::drop_reason::DropReason;

/// Second tries that a pool may save up for a bad moment.
const RETRY_TOKENS_MAX: u64 = 1_000 * PPM as u64;

/// Tries that a query may have: the first, the second, and as many as rules may restart it.
pub const TRIES_MAX: u64 = 2 + RESTARTS_MAX as u64;
/// Times that a rule may have a query asked again.
pub const RESTARTS_MAX: u8 = 10;
/// Time-outs, and answers that were held back, in one tick. Those beyond are due in the next one,
/// before which packets are read.
const DUE_PER_TICK: usize = 256;
/// How long rules may hold an answer back, milliseconds.
pub const DELAY_MS_MAX: u32 = 60_000;

/// One shard: all that happens to a packet between two system calls.
#[derive(Debug)]
pub struct Shard {
    index: usize,
    live_state: Arc<LiveState>,
    snapshot: Arc<Snapshot>,
    now: Tick,
    /// Counts batches; ports are drawn anew with each.
    batch: u64,
    rng: ShardRng,
    /// Keyed by this shard's randomness, so that nobody can aim for a collision.
    hasher: RandomState,
    selector: Selector,
    outstanding: Outstanding,
    query_table: QueryTable,
    delayed: DelayedAnswers,
    clients: ClientConnections,
    backends: BackendConnections,
    relay: Relay,
    /// Targets that a passage is not to be sent to, and passages whose target does not accept,
    /// while they are looked at.
    avoided: Vec<BackendSlot>,
    overdue: Vec<SessionSlot>,
    /// The kind of the chore that was handed out last.
    pending_kind: u8,
    /// A message of a stream or a line, while it is looked at.
    scratch: Vec<u8>,
    /// Whence the query at hand comes.
    proxied_query: Proxied,
    /// The PROXY header that a server gets.
    header: Vec<u8>,
    /// Queries of a line that has ended.
    orphans: Vec<(Key, Known)>,
    /// The case of the packet at hand.
    query_state: QueryState,
    limits: Limits,
    patterns: PatternCache,
    /// What a policy in Lua chooses from.
    candidates: Vec<Candidate>,
    script: Option<Box<dyn Script>>,
    /// By local slot: addresses that wildcard listeners were asked on.
    locals: Vec<[u8; 16]>,
    /// What the configuration wants done that a plain query need not pay for.
    wants: Needs,
    /// A query that timed out meets its rules in here.
    buffer: Vec<u8>,
    /// Errors of the script that have been counted.
    script_errors: u64,
    /// Queries that had been sent to servers by the last tick.
    claimed: u64,
    /// When the script was last let do what it does every second.
    maintained: Tick,
    /// Of the outstanding: tries whose answer no client waits for.
    unawaited: u32,
    /// By slot: backends this shard has a table (and its engine sockets) for.
    attached: Vec<Option<Attached>>,
    /// Attached slots that the snapshot does not have.
    retiring: Vec<BackendSlot>,
    /// By pool: saved second tries, parts per million of one.
    retry_tokens: Vec<u64>,
}

/// What a configuration wants of queries and answers; found out once, when it is adopted.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    /// Queries meet rules, a script, or servers that want the client's subnet.
    rules: bool,
    /// Answers are looked at.
    answers: bool,
    /// Rules of answers, in Lua, see all that was known of the query.
    query_table: bool,
    /// Rules behind the query's own may ask for its tags.
    tags: bool,
    /// Queries are kept, to be asked again or for their letter case.
    queries: bool,
    /// What there is about clients' addresses.
    proxied: proxied::Needs,
    /// Answers may come long after a server's time-out: they are held back, or asked for again.
    late: bool,
}

impl Needs {
    fn of(snapshot: &Snapshot) -> Self {
        let chains = &snapshot.chains;
        let restarts = |r: &crate::rules::Rule<ResponseAction>| {
            matches!(r.action, ResponseAction::Restart(..) | ResponseAction::Lua(_))
        };
        let late = |r: &crate::rules::Rule<ResponseAction>| {
            restarts(r) || matches!(r.action, ResponseAction::Delay(_))
        };
        let subnets = snapshot.backends.iter().flatten().any(|b| b.use_client_subnet);
        let answers = !chains.response.is_empty();
        Self {
            // The SERVFAIL of a pool without a server meets the self-answered rules.
            rules: !chains.query.is_empty()
                || !chains.self_answered.is_empty()
                || subnets
                || snapshot.script.is_some(),
            answers: answers || snapshot.globals.truncate_tc || snapshot.globals.fixup_case,
            query_table: snapshot.script.is_some() && answers,
            tags: answers || !chains.timeout.is_empty(),
            queries: !chains.timeout.is_empty()
                || snapshot.globals.fixup_case
                || chains.response.rules().iter().any(restarts),
            proxied: proxied::Needs::of(snapshot),
            late: snapshot.script.is_some()
                || !chains.timeout.is_empty()
                || chains.query.rules().iter().any(|r| r.action.delays())
                || chains.response.rules().iter().chain(chains.self_answered.rules()).any(late),
        }
    }
}

/// What a shard keeps of a backend over snapshots.
#[derive(Clone, Copy, Debug)]
struct Attached {
    queue: Queue,
    /// For queries that came by connections and go by its lines.
    connection_queue: Queue,
    /// Every query goes by its lines.
    by_connection: bool,
    /// Of the last configuration that had it: its outstanding queries outlive its removal.
    timeout: TickDelta,
}

impl Shard {
    /// A shard that obeys `snapshot`.
    #[must_use]
    pub fn new(index: usize, live_state: Arc<LiveState>, snapshot: Arc<Snapshot>, mut rng: ShardRng) -> Self {
        let hasher = RandomState::with_seeds(rng.u64(), rng.u64(), rng.u64(), rng.u64());
        let descriptors = live_state.descriptors();
        let clients =
            ClientConnections::new(Arc::clone(live_state.connection_limits()), Arc::clone(descriptors));
        let relay =
            Relay::new(hasher.clone(), Arc::clone(live_state.connection_limits()), Arc::clone(descriptors));
        let backends = BackendConnections::new(Arc::clone(descriptors));
        let limits = Limits::new(live_state.shards().len(), &mut rng);
        let mut shard = Self {
            index,
            selector: Selector::new(live_state.clone(), index),
            live_state,
            snapshot: snapshot.clone(),
            now: Tick(0),
            batch: 0,
            rng,
            hasher,
            outstanding: Outstanding::default(),
            query_table: QueryTable::default(),
            delayed: DelayedAnswers::default(),
            clients,
            backends,
            relay,
            avoided: Vec::new(),
            overdue: Vec::new(),
            pending_kind: 0,
            scratch: Vec::new(),
            proxied_query: Proxied::default(),
            header: Vec::new(),
            orphans: Vec::new(),
            query_state: QueryState::default(),
            limits,
            patterns: PatternCache::default(),
            candidates: Vec::new(),
            script: None,
            locals: Vec::new(),
            wants: Needs::default(),
            buffer: Vec::new(),
            script_errors: 0,
            claimed: 0,
            maintained: Tick(0),
            unawaited: 0,
            attached: Vec::new(),
            retiring: Vec::new(),
            retry_tokens: Vec::new(),
        };
        shard.adopt(&snapshot);
        shard
    }

    fn stats(&self) -> &ShardStats {
        &self.live_state.shards()[self.index]
    }

    /// Begins a batch: the time it all happens at, and the configuration it obeys.
    pub fn begin_batch(&mut self, now: Tick, snapshot: &Arc<Snapshot>) {
        self.now = now;
        self.batch = self.batch.wrapping_add(1);
        if snapshot.generation != self.snapshot.generation {
            self.adopt(snapshot);
        }
        self.selector.begin_batch(now, &self.snapshot);
    }

    fn adopt(&mut self, snapshot: &Arc<Snapshot>) {
        let running = self.snapshot.script.as_ref().map(|s| s.identity());
        if self.script.is_none() || snapshot.script.as_ref().map(|s| s.identity()) != running {
            self.script = snapshot.script.as_ref().and_then(|s| s.start(self.index));
            self.script_errors = 0;
        }
        self.limits.adopt(&snapshot.limits);
        self.patterns.clear();
        self.snapshot = snapshot.clone();
        self.wants = Needs::of(snapshot);
        snapshot.rules_fresh.iter().for_each(|slot| self.stats().rule_hits(*slot).reset());
        self.outstanding.renew_queues();
        for backend in snapshot.backends.iter().flatten() {
            self.attach(backend);
        }
        self.retiring = (0..self.attached.len())
            .filter(|at| self.attached[*at].is_some())
            .map(|at| BackendSlot(at as u16))
            .filter(|slot| snapshot.backend(*slot).is_none())
            .collect();
        self.retry_tokens.resize(snapshot.pools.len(), RETRY_TOKENS_MAX / 10);
        self.stats().generation.store(snapshot.generation, Release);
    }

    fn attach(&mut self, backend: &Backend) {
        let at = backend.slot.index();
        self.outstanding.attach(backend.slot, backend.sockets);
        // 255 spans at once are not reached by any sane configuration; the shortest one in use
        // then serves, which errs on the side of giving up early.
        let queue = self.outstanding.queue(backend.timeout).unwrap_or(Queue::FIRST);
        if self.attached.len() <= at {
            self.attached.resize(at + 1, None);
        }
        let backends = &backend.connections;
        let connection_queue = self.outstanding.queue(backends.receive_timeout).unwrap_or(queue);
        // No query waits for a forward's target, whatever time that has to accept.
        let timeout = if backend.target { TickDelta(0) } else { backend.timeout };
        self.attached[at] = Some(Attached { queue, connection_queue, by_connection: backends.only, timeout });
        self.stats().attached[at].store(1, Release);
    }

    /// Slots that are in no snapshot any more and have nothing outstanding: the engine closes
    /// their sockets and calls [`Shard::detach`].
    pub fn retired(&self) -> impl Iterator<Item = BackendSlot> {
        let is_idle = |slot| {
            self.outstanding.live_of(slot) == 0
                && self.backends.open_of(slot) == 0
                && self.relay.open_of(slot) == 0
        };
        self.retiring.iter().copied().filter(move |slot| is_idle(*slot))
    }

    /// Forgets a backend whose sockets are closed; its slot may be given to another.
    pub fn detach(&mut self, slot: BackendSlot) {
        self.outstanding.detach(slot);
        self.backends.detach(slot);
        self.retiring.retain(|s| *s != slot);
        self.attached[slot.index()] = None;
        self.stats().attached[slot.index()].store(0, Release);
    }

    /// A client's query. It is edited into the query for a backend, or into our own answer.
    pub fn on_query(&mut self, from: Client, packet: &mut Packet<'_>) -> Verdict {
        self.stats().queries.add(1);
        let mut has_origin = false;
        if self.wants.proxied.headers {
            match self.arrive(from, packet) {
                Ok(has) => has_origin = has,
                Err(reason) => return self.drop(reason),
            }
        } else if !self.snapshot.acl.contains(&from.peer.ip) {
            return self.drop(DropReason::Acl);
        }
        let message = packet.bytes();
        let Some(header) = Header::parse(message) else { return self.drop(DropReason::QueryShort) };
        if header.is_response() {
            return self.drop(DropReason::QueryIsResponse);
        }
        if header.is_truncated() {
            return self.drop(DropReason::QueryTruncated);
        }
        if header.qdcount() == 0 {
            if self.snapshot.globals.drop_empty_queries {
                return self.drop(DropReason::QueryEmpty);
            }
            return self.answer(from, packet, rcode::NOTIMP);
        }
        let Some(question) = Question::parse(message) else {
            return self.drop(DropReason::QueryMalformed);
        };
        let asked = Asked {
            client: from,
            client_id: header.id(),
            question: self.hash(&question),
            query_state: NO_CASE,
            pool: PoolSlot(0),
            flags: crate::rules::query_state::packed(crate::rules::query_state::flags_of(message)),
        };
        if self.wants.rules || has_origin {
            let facts = Facts::from_question(&question);
            return self.evaluate_query(asked, facts, has_origin, packet);
        }
        let subject = Subject { qname: question.qname, client: &from.peer };
        match self.select(asked.pool, &subject, from.connection.is_some()) {
            Some(backend) => self.forward(backend, asked, packet),
            None if self.snapshot.globals.servfail_when_no_server => {
                self.answer(from, packet, rcode::SERVFAIL)
            }
            None => self.drop(DropReason::NoServer),
        }
    }

    /// A server of a pool, by its policy: rather none of those that have just refused a connection.
    /// `clients`: the query came by a connection.
    fn select(&mut self, pool: PoolSlot, subject: &Subject<'_>, clients: bool) -> Option<BackendSlot> {
        let avoid = self.backends.avoided(clients);
        let (snapshot, rng) = (&self.snapshot, &mut self.rng);
        let chosen = self.selector.select(snapshot, pool, subject, avoid, rng);
        if chosen.is_some() || avoid.is_empty() {
            return chosen;
        }
        self.selector.select(snapshot, pool, subject, &[], rng)
    }

    /// A backend's answer. It is edited into the answer for the client.
    pub fn on_response(&mut self, from: Route, packet: &mut Packet<'_>) -> Verdict {
        let message = packet.bytes();
        let Some(header) = Header::parse(message) else {
            return self.unexpected(from, DropReason::ResponseShort);
        };
        if !header.is_response() {
            return self.unexpected(from, DropReason::ResponseNotResponse);
        }
        let key = Key { route: from, id: header.id() };
        let known = match self.outstanding.find(key) {
            Found::Live(known) => known,
            Found::Settled => return self.unexpected(from, DropReason::ResponseDuplicate),
            Found::Expired => return self.unexpected(from, DropReason::ResponseLate),
            Found::Foreign => return self.unexpected(from, DropReason::ResponseForeign),
        };
        let code = header.rcode();
        if from.is_connection() && self.backends.is_transfer(from) {
            return self.on_transfer(key, known, packet);
        }
        if header.qdcount() == 0 {
            // A server that refuses may not have read the question; a header that says NOERROR
            // or NXDOMAIN without one says nothing that a client could use.
            let says_nothing = matches!(code, rcode::NOERROR | rcode::NXDOMAIN);
            if says_nothing && !self.snapshot.globals.allow_empty_response {
                return self.unexpected(from, DropReason::ResponseEmpty);
            }
        } else {
            // RFC 5452, 9.1: "the question section of the reply ... matches that of the query".
            let same = Question::parse(message).is_some_and(|q| self.hash(&q) == known.asked.question);
            if !same {
                return self.unexpected(from, DropReason::ResponseMismatch);
            }
        }
        match known.asked.query_state {
            DELIVERED => return self.came_unawaited(key, known, code, DropReason::ResponseDuplicate),
            COPIED => return self.came_unawaited(key, known, code, DropReason::TeeAnswer),
            _ => {}
        }
        if header.is_truncated() && !from.is_connection() && known.asked.client.connection.is_some() {
            return self.ask_by_connection(key, known, packet);
        }
        self.settle(key, known, code);
        if from.is_connection() && keepalive::may_be_there(packet.bytes()) {
            // The server's word to us, not ours to the client (RFC 7828).
            keepalive::remove(packet);
        }
        edit::set_id(packet.bytes_mut(), known.asked.client_id);
        crate::rules::query_state::set_flags(
            packet.bytes_mut(),
            crate::rules::query_state::unpacked(known.asked.flags),
        );
        let client = known.asked.client;
        // A client that asked by a datagram may not have room for what a line can carry.
        let limit = (from.is_connection() && client.connection.is_none())
            .then(|| self.query_table.limit(known.asked.query_state).unwrap_or(DATAGRAM_MIN));
        let verdict = if self.wants.answers || !self.query_table.is_bare(known.asked.query_state) {
            self.evaluate_response(key, known, limit, packet)
        } else {
            self.query_table.close(known.asked.query_state);
            if limit.is_some_and(|limit| !answer::fit(packet, limit)) {
                return self.drop(DropReason::AnswerTooLong);
            }
            self.stats().responses.add(1);
            Verdict::Deliver(client)
        };
        self.conclude(client, verdict, packet)
    }

    /// Does what is due, publishes this shard's counts, and emits the packets that come of it.
    pub fn on_tick(&mut self, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        // As many as have begun to wait meanwhile, and more: no backlog grows.
        let [claimed, ..] = self.outstanding.totals();
        let begun = claimed - std::mem::replace(&mut self.claimed, claimed);
        for _ in 0..begun.saturating_add(DUE_PER_TICK as u64) {
            let Some((key, known)) = self.outstanding.due(self.now) else { break };
            match known.asked.query_state {
                DELIVERED | COPIED => self.never_came(key),
                NO_CASE => self.give_up(key, known, out),
                query_state if self.query_table.take_retry(query_state) => self.try_second(key, known, out),
                _ => self.give_up(key, known, out),
            }
        }
        self.send_copies(out);
        self.release(out);
        self.sweep();
        self.sweep_relay();
        self.selector.publish();
        let stats = self.stats();
        stats.outstanding_total.store(self.outstanding(), Relaxed);
        stats.clients.open.store(self.clients.open_count(), Relaxed);
        stats.relays.open.store(self.relay.open_count(), Relaxed);
        stats.heartbeat.store(self.batch, Relaxed);
        self.maintain();
    }

    /// When [`Shard::on_tick`] has something to do, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let own = [self.outstanding.next_deadline(), self.delayed.next_deadline()];
        let connections =
            [self.clients.next_deadline(), self.backends.next_deadline(), self.relay.next_deadline()];
        own.into_iter().chain(connections).flatten().min()
    }

    /// Queries whose client waits for an answer.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.outstanding.live() - self.unawaited + self.delayed.held()
    }

    /// Longer than any query can be outstanding: two tries, and what time-outs may be late; with
    /// rules that ask again or hold back, as often and as long as these may.
    #[must_use]
    pub fn longest_wait(&self) -> TickDelta {
        let longest = self.attached.iter().flatten().map(|a| a.timeout).max().unwrap_or_default();
        let (tries, held) = if self.wants.late {
            (TRIES_MAX, TickDelta::from_ms(DELAY_MS_MAX.into()))
        } else {
            (2, TickDelta(0))
        };
        TickDelta(longest.0.saturating_mul(tries).saturating_add(held.0).saturating_add(1_000_000_000))
    }

    /// The configuration this shard obeys.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Counts a packet that the engine itself had to drop, or one that it could not deliver.
    pub fn drop(&self, reason: DropReason) -> Verdict {
        self.stats().dropped(reason).add(1);
        Verdict::Drop(reason)
    }

    /// Claims, settlements, expiries and releases ever; for tests and for accounting at the end.
    #[must_use]
    pub const fn totals(&self) -> [u64; 4] {
        self.outstanding.totals()
    }

    /// Checks what must hold between batches; for tests.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn check_invariants(&self) {
        self.outstanding.check_invariants();
        self.clients.check_invariants();
        self.backends.check_invariants();
        self.relay.check_invariants();
        if self.outstanding.live() == 0 {
            assert_eq!(self.query_table.open_count(), 0, "no case outlives its query");
            assert_eq!(self.clients.in_flight(), 0, "no connection waits for nothing");
        }
    }

    fn unexpected(&self, from: Route, reason: DropReason) -> Verdict {
        self.stats().backend(from.backend).unexpected.add(1);
        self.drop(reason)
    }

    fn answer(&self, to: Client, packet: &mut Packet<'_>, code: u8) -> Verdict {
        let flags = Flags { ra: Some(false), ..Flags::default() };
        if !answer::rcode(packet, u16::from(code), flags, answer_edns(&self.snapshot)) {
            return self.drop(DropReason::QueryShort);
        }
        self.stats().self_answered.add(1);
        Verdict::Answer(to)
    }

    /// A keyed hash of a question, its name folded to lower case. Eight bytes at a time: this
    /// runs for each query and each answer, and by bytes it took a third of the whole path.
    fn hash(&self, question: &Question<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        let (words, rest) = question.qname.as_chunks::<8>();
        for word in words {
            hasher.write_u64(name::fold(u64::from_le_bytes(*word)));
        }
        let mut last = [0_u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        hasher.write_u64(name::fold(u64::from_le_bytes(last)));
        // The length tells a name from one with zeros behind.
        let length = (question.qname.len() as u64) << 32;
        hasher.write_u64(length | u64::from(question.qtype) << 16 | u64::from(question.qclass));
        hasher.finish()
    }
}

/// EDNS of answers of our own.
const fn answer_edns(snapshot: &Snapshot) -> AnswerEdns {
    let globals = &snapshot.globals;
    AnswerEdns { wanted: globals.self_answer_edns, payload: globals.self_answer_payload }
}
