//! The data plane: one thread, one owner, no locks; no clock, no sockets, no randomness of its own.
//!
//! ```text
//!  on_query:    ACL → parse → rules.eval → policy.select → outstanding.claim → Forward
//!  on_response: outstanding.find (socket + id) → question (RFC 5452, 9.1) → settle → Deliver
//!  on_tick:     time-outs, second tries, publishing of counts
//! ```
//!
//! An engine calls `begin_batch`, then any number of `on_query`, `on_response` and `on_unsent`,
//! then `on_tick`, and sleeps until `next_deadline` or a packet.

pub mod case;
pub mod copies;
pub mod outstanding;
pub mod policy;
pub mod rules;
pub mod script;
pub mod verdict;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use ahash::RandomState;

use crate::addr::{BackendSlot, Client, PoolSlot, Route};
use crate::config::snapshot::{Backend, Snapshot};
use crate::live::{Board, PPM, ShardPage};
use crate::packet::Packet;
use crate::rng::ShardRng;
use crate::time::{Tick, TickDelta};
use crate::wire::answer::{self, AnswerEdns, Flags};
use crate::wire::edit;
use crate::wire::header::{Header, rcode};
use crate::wire::name;
use crate::wire::query::Question;

use copies::Copies;
use outstanding::{Asked, DELIVERED, Found, Key, Known, NO_COPY, Outstanding, Queue, Terms};
use policy::{Selector, Subject};
use verdict::{DropReason, Verdict};

/// Second tries that a pool may save up for a bad moment.
const RETRY_SAVINGS_MAX: u64 = 1_000 * PPM as u64;

/// One shard: all that happens to a packet between two system calls.
#[derive(Debug)]
pub struct Shard {
    index: usize,
    board: Arc<Board>,
    snapshot: Arc<Snapshot>,
    now: Tick,
    /// Counts batches; ports are drawn anew with each.
    batch: u64,
    rng: ShardRng,
    /// Keyed by this shard's randomness, so that nobody can aim for a collision.
    hasher: RandomState,
    selector: Selector,
    outstanding: Outstanding,
    copies: Copies,
    /// Of the outstanding: tries whose query was answered by another server.
    delivered: u32,
    /// By slot: backends this shard has a table (and its engine sockets) for.
    attached: Vec<Option<Attached>>,
    /// Attached slots that the snapshot does not have.
    retiring: Vec<BackendSlot>,
    /// By pool: saved second tries, parts per million of one.
    retry_savings: Vec<u64>,
}

/// What a shard keeps of a backend over snapshots.
#[derive(Clone, Copy, Debug)]
struct Attached {
    queue: Queue,
    /// Of the last configuration that had it: its outstanding queries outlive its removal.
    timeout: TickDelta,
}

impl Shard {
    /// A shard that obeys `snapshot`.
    #[must_use]
    pub fn new(index: usize, board: Arc<Board>, snapshot: Arc<Snapshot>, mut rng: ShardRng) -> Self {
        let hasher = RandomState::with_seeds(rng.u64(), rng.u64(), rng.u64(), rng.u64());
        let mut shard = Self {
            index,
            selector: Selector::new(board.clone(), index),
            board,
            snapshot: snapshot.clone(),
            now: Tick(0),
            batch: 0,
            rng,
            hasher,
            outstanding: Outstanding::default(),
            copies: Copies::default(),
            delivered: 0,
            attached: Vec::new(),
            retiring: Vec::new(),
            retry_savings: Vec::new(),
        };
        shard.adopt(&snapshot);
        shard
    }

    fn page(&self) -> &ShardPage {
        &self.board.shards()[self.index]
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
        self.snapshot = snapshot.clone();
        self.outstanding.renew_queues();
        for backend in snapshot.backends.iter().flatten() {
            self.attach(backend);
        }
        self.retiring = (0..self.attached.len())
            .filter(|at| self.attached[*at].is_some())
            .map(|at| BackendSlot(at as u16))
            .filter(|slot| snapshot.backend(*slot).is_none())
            .collect();
        self.retry_savings.resize(snapshot.pools.len(), RETRY_SAVINGS_MAX / 10);
        self.page().generation.store(snapshot.generation, Release);
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
        self.attached[at] = Some(Attached { queue, timeout: backend.timeout });
        self.page().attached[at].store(1, Release);
    }

    /// Slots that are in no snapshot any more and have nothing outstanding: the engine closes
    /// their sockets and calls [`Shard::detach`].
    pub fn retired(&self) -> impl Iterator<Item = BackendSlot> {
        self.retiring.iter().copied().filter(|slot| self.outstanding.live_of(*slot) == 0)
    }

    /// Forgets a backend whose sockets are closed; its slot may be given to another.
    pub fn detach(&mut self, slot: BackendSlot) {
        self.outstanding.detach(slot);
        self.retiring.retain(|s| *s != slot);
        self.attached[slot.index()] = None;
        self.page().attached[slot.index()].store(0, Release);
    }

    /// A client's query. It is edited into the query for a backend, or into our own answer.
    pub fn on_query(&mut self, from: Client, packet: &mut Packet<'_>) -> Verdict {
        self.page().queries.add(1);
        if !self.snapshot.acl.contains(&from.peer.ip) {
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
        let pool = PoolSlot(0);
        let asked =
            Asked { client: from, client_id: header.id(), question: self.hash(&question), copy: NO_COPY };
        let subject = Subject { qname: question.qname, client: &from.peer };
        match self.selector.select(&self.snapshot, pool, &subject, &[], &mut self.rng) {
            Some(backend) => self.lob(backend, pool, asked, packet),
            None if self.snapshot.globals.servfail_when_no_server => {
                self.answer(from, packet, rcode::SERVFAIL)
            }
            None => self.drop(DropReason::NoServer),
        }
    }

    /// Sends a query to the chosen backend.
    fn lob(
        &mut self,
        backend: BackendSlot,
        pool: PoolSlot,
        mut asked: Asked,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let mut queue = None;
        let waits = self.attached.get(backend.index()).copied().flatten().map(|a| a.timeout);
        // A second try after the server's own time-out would only make that longer.
        let retry = self.snapshot.pool(pool).retry.filter(|r| waits.is_some_and(|w| r.after < w));
        if let Some(retry) = retry {
            let savings = &mut self.retry_savings[pool.index()];
            *savings = (*savings + u64::from(retry.budget_ppm)).min(RETRY_SAVINGS_MAX);
            asked.copy = self.copies.keep(packet.bytes(), pool);
            if asked.copy != NO_COPY {
                queue = self.outstanding.queue(retry.after);
            }
        }
        match self.claim(backend, asked, queue) {
            Some(key) => {
                edit::set_id(packet.bytes_mut(), key.id);
                Verdict::Forward(key.route)
            }
            None => {
                self.copies.release(asked.copy);
                self.page().backend(backend).send_errors.add(1);
                self.drop(DropReason::OutstandingFull)
            }
        }
    }

    fn claim(&mut self, backend: BackendSlot, asked: Asked, queue: Option<Queue>) -> Option<Key> {
        let max = self.snapshot.backend(backend)?.outstanding_max;
        let queue = match queue {
            Some(queue) => queue,
            None => self.attached.get(backend.index()).copied().flatten()?.queue,
        };
        let terms = Terms { max, now: self.now, batch: self.batch, queue };
        let key = self.outstanding.claim(backend, asked, terms, &mut self.rng)?;
        self.selector.claimed(backend);
        self.page().backend(backend).queries.add(1);
        Some(key)
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
        if known.asked.copy == DELIVERED {
            return self.came_second(key, known, code);
        }
        self.settle(key, known, code);
        edit::set_id(packet.bytes_mut(), known.asked.client_id);
        Verdict::Deliver(known.asked.client)
    }

    fn settle(&mut self, key: Key, known: Known, code: u8) {
        self.count_answer(key, known, code);
        self.page().responses.add(1);
        self.copies.release(known.asked.copy);
        if let Some(twin) = known.twin {
            self.let_go(twin);
        }
    }

    fn count_answer(&mut self, key: Key, known: Known, code: u8) {
        let backend = key.route.backend;
        let latency = self.now.since(known.claimed_at);
        self.outstanding.settle(key);
        self.selector.settled(backend, Some(latency));
        let counts = self.page().backend(backend);
        counts.responses.add(1);
        counts.latency.record(latency.0);
        if code == rcode::SERVFAIL {
            counts.servfails.add(1);
        }
    }

    /// The other try of a query that is answered: its server still owes an answer, which tells of
    /// its health. Were it let go, a server that never answers would look idle and fast.
    fn let_go(&mut self, twin: Key) {
        if self.outstanding.deliver(twin) {
            self.delivered += 1;
        }
    }

    /// The answer of a try that lost the race.
    fn came_second(&mut self, key: Key, known: Known, code: u8) -> Verdict {
        self.delivered -= 1;
        self.count_answer(key, known, code);
        self.drop(DropReason::ResponseDuplicate)
    }

    /// A try that lost the race and whose server never answered: its loss, not the client's.
    fn never_came(&mut self, key: Key) {
        self.delivered -= 1;
        self.outstanding.expire(key);
        self.selector.settled(key.route.backend, None);
        self.page().backend(key.route.backend).timeouts.add(1);
    }

    /// The kernel would not send this query (its packet is as `on_query` or `on_tick` left it):
    /// it goes to another server, none of `refused`, or is dropped.
    pub fn on_unsent(&mut self, route: Route, packet: &mut Packet<'_>, refused: &[BackendSlot]) -> Verdict {
        let Some(header) = Header::parse(packet.bytes()) else {
            return self.drop(DropReason::QuerySendError);
        };
        let key = Key { route, id: header.id() };
        let Found::Live(known) = self.outstanding.find(key) else {
            return self.drop(DropReason::QuerySendError);
        };
        self.page().backend(route.backend).send_errors.add(1);
        self.outstanding.release(key);
        self.selector.settled(route.backend, None);
        if let Some(twin) = known.twin {
            // The first try is still out: it goes on alone.
            self.outstanding.unpair(twin);
            return Verdict::Drop(DropReason::QuerySendError);
        }
        let pool = match self.copies.kept(known.asked.copy) {
            Some((_, pool)) => pool,
            None => self.pool_of(route.backend),
        };
        self.copies.release(known.asked.copy);
        let other = Question::parse(packet.bytes()).and_then(|question| {
            let subject = Subject { qname: question.qname, client: &known.asked.client.peer };
            self.selector.select(&self.snapshot, pool, &subject, refused, &mut self.rng)
        });
        let asked = Asked { copy: NO_COPY, ..known.asked };
        match other.and_then(|backend| self.claim(backend, asked, None)) {
            Some(second) => {
                edit::set_id(packet.bytes_mut(), second.id);
                Verdict::Forward(second.route)
            }
            None => self.drop(DropReason::QuerySendError),
        }
    }

    /// The kernel would not send this query to any server that could be tried.
    pub fn abandon(&mut self, route: Route, packet: &Packet<'_>) {
        let Some(header) = Header::parse(packet.bytes()) else { return };
        let key = Key { route, id: header.id() };
        if matches!(self.outstanding.find(key), Found::Live(_)) {
            self.page().backend(route.backend).send_errors.add(1);
            self.outstanding.release(key);
            self.selector.settled(route.backend, None);
            self.drop(DropReason::QuerySendError);
        }
    }

    /// A pool that has this backend. Cold: only asked when the kernel refused a packet.
    fn pool_of(&self, backend: BackendSlot) -> PoolSlot {
        let at = self.snapshot.pools.iter().position(|p| p.members.contains(&backend)).unwrap_or(0);
        PoolSlot(at as u16)
    }

    /// Does what is due, publishes this shard's counts, and emits the packets that come of it.
    pub fn on_tick(&mut self, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        while let Some((key, known)) = self.outstanding.due(self.now) {
            match known.asked.copy {
                NO_COPY => self.give_up(key, known),
                DELIVERED => self.never_came(key),
                _ => self.try_second(key, known, out),
            }
        }
        self.selector.publish();
        let page = self.page();
        page.outstanding_total.store(self.outstanding(), Relaxed);
        page.heartbeat.store(self.batch, Relaxed);
    }

    fn give_up(&mut self, key: Key, known: Known) {
        let backend = key.route.backend;
        self.outstanding.expire(key);
        self.selector.settled(backend, None);
        self.page().backend(backend).timeouts.add(1);
        match known.twin {
            // The other try may still be answered; it counts the loss if not.
            Some(twin) => self.outstanding.unpair(twin),
            None => {
                self.drop(DropReason::Timeout);
            }
        }
    }

    /// The first server is slow: asks a second one too, and takes whichever answers first.
    fn try_second(&mut self, first: Key, known: Known, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let copy = known.asked.copy;
        self.outstanding.unpair(first);
        let pool = self.copies.kept(copy).map_or(PoolSlot(0), |k| k.1);
        let after = self.snapshot.pool(pool).retry.map_or(TickDelta(0), |r| r.after);
        let attached = self.attached.get(first.route.backend.index()).copied().flatten();
        let timeout = attached.map_or(after, |a| a.timeout);
        let left = TickDelta(timeout.0.saturating_sub(after.0).max(1_000_000));
        match self.outstanding.queue(left) {
            Some(queue) => self.outstanding.rearm(first, self.now, queue),
            None => {
                self.copies.release(copy);
                return self.give_up(first, known);
            }
        }
        if let Some(second) = self.claim_second(first, known) {
            self.outstanding.pair(first, second);
            self.page().retries.add(1);
            if let Some((query, _)) = self.copies.kept(copy) {
                edit::set_id(query, second.id);
                out(Verdict::Forward(second.route), query);
            }
        }
        self.copies.release(copy);
    }

    fn claim_second(&mut self, first: Key, known: Known) -> Option<Key> {
        let (query, pool) = self.copies.kept(known.asked.copy)?;
        let savings = self.retry_savings.get(pool.index())?.checked_sub(u64::from(PPM))?;
        let question = Question::parse(query)?;
        let subject = Subject { qname: question.qname, client: &known.asked.client.peer };
        let avoid = [first.route.backend];
        let backend = self.selector.select(&self.snapshot, pool, &subject, &avoid, &mut self.rng)?;
        let second = self.claim(backend, Asked { copy: NO_COPY, ..known.asked }, None)?;
        self.retry_savings[pool.index()] = savings;
        Some(second)
    }

    /// When [`Shard::on_tick`] has something to do, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.outstanding.next_deadline()
    }

    /// Queries whose client waits for an answer.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.outstanding.live() - self.delivered
    }

    /// Longer than any query can be outstanding: two tries, and what time-outs may be late.
    #[must_use]
    pub fn longest_wait(&self) -> TickDelta {
        let longest = self.attached.iter().flatten().map(|a| a.timeout).max().unwrap_or_default();
        TickDelta(longest.0.saturating_mul(2).saturating_add(1_000_000_000))
    }

    /// The configuration this shard obeys.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Counts a packet that the engine itself had to drop, or one that it could not deliver.
    pub fn drop(&self, reason: DropReason) -> Verdict {
        self.page().dropped(reason).add(1);
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
        if self.outstanding.live() == 0 {
            assert_eq!(self.copies.in_use(), 0, "no copy outlives its query");
        }
    }

    fn unexpected(&self, from: Route, reason: DropReason) -> Verdict {
        self.page().backend(from.backend).unexpected.add(1);
        self.drop(reason)
    }

    fn answer(&self, to: Client, packet: &mut Packet<'_>, code: u8) -> Verdict {
        let globals = &self.snapshot.globals;
        let own = AnswerEdns { wanted: globals.self_answer_edns, payload: globals.self_answer_payload };
        let flags = Flags { ra: Some(false), ..Flags::default() };
        if !answer::rcode(packet, u16::from(code), flags, own) {
            return self.drop(DropReason::QueryShort);
        }
        self.page().self_answered.add(1);
        Verdict::Answer(to)
    }

    /// A keyed hash of a question, its name folded to lower case. Eight octets at a time: this
    /// runs for each query and each answer, and by octets it took a third of the whole path.
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
