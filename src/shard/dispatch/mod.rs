//! Queries on their way to backends: whom we ask, until when, how often, and what is kept of each.
//!
//! ```text
//!  select ─► dispatch ─► claim (slot, id) ─► put ─► datagram, or a backend connection's output
//!                          │ time-out: a second server, another one, or none
//!                          └ answer: settle
//! ```
//!
//! It does not know clients, rules or the bytes of answers: what becomes of a query that has ended,
//! the pipeline says.

pub(crate) mod attempts;
pub(crate) mod delayed;
pub mod outstanding;
mod proxy_header;
pub mod query_table;

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use crate::balance::{Selector, Subject};
use crate::base::addr::{BackendSlot, Endpoint, PoolSlot, Route};
use crate::base::time::{Tick, TickDelta};
use crate::model::{Backend, Snapshot};
use crate::rules::copies::Copies;
use crate::shard::Connections;
use crate::shard::context::Context;
use crate::shard::dispatch::delayed::DelayedAnswers;
use crate::shard::dispatch::outstanding::{Asked, Key, Known, Outstanding, Queue};
pub(crate) use crate::shard::dispatch::proxy_header::ConnectionKey;
use crate::shard::dispatch::query_table::QueryTable;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::{LiveState, PPM};
use crate::wire::header::rcode;

/// Second attempts that a pool may save up for a bad moment.
const RETRY_TOKENS_MAX: u64 = 1_000 * PPM as u64;

/// Queries on their way to backends.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) balancer: Selector,
    pub(crate) outstanding: Outstanding,
    pub(crate) queries: QueryTable,
    pub(crate) delayed: DelayedAnswers,
    pub(crate) copies: Copies,
    /// By slot: backends this shard has a table (and its engine sockets) for.
    attached: Vec<Option<Attached>>,
    /// Attached slots that the snapshot does not have.
    retiring: Vec<BackendSlot>,
    /// By pool: saved second attempts, parts per million of one.
    retry_tokens: Vec<u64>,
    /// Of the outstanding: attempts whose answer no client waits for.
    unawaited: u32,
    /// Queries that had been sent to servers by the last tick.
    claimed: u64,
    /// Memory for PROXY headers.
    header: Vec<u8>,
}

/// What a shard keeps of a backend over snapshots.
#[derive(Clone, Copy, Debug)]
struct Attached {
    queue: Queue,
    /// For queries that came by connections and go by its connections.
    connection_queue: Queue,
    /// Every query goes by its connections.
    by_connection: bool,
    /// Of the last configuration that had it: its outstanding queries outlive its removal.
    timeout: TickDelta,
}

impl Dispatcher {
    /// None yet, of the shard with this number.
    pub(crate) fn new(live_state: &Arc<LiveState>, shard: usize) -> Self {
        Self {
            balancer: Selector::new(Arc::clone(live_state), shard),
            outstanding: Outstanding::default(),
            queries: QueryTable::default(),
            delayed: DelayedAnswers::default(),
            copies: Copies::default(),
            attached: Vec::new(),
            retiring: Vec::new(),
            retry_tokens: Vec::new(),
            unawaited: 0,
            claimed: 0,
            header: Vec::new(),
        }
    }

    /// Takes a configuration up: its backends get tables, those that it has not are to retire.
    pub(crate) fn adopt(&mut self, cx: &Context) {
        let snapshot: &Snapshot = &cx.snapshot;
        self.outstanding.renew_queues();
        for backend in snapshot.backends.iter().flatten() {
            self.attach(cx, backend);
        }
        self.retiring = (0..self.attached.len())
            .filter(|at| self.attached[*at].is_some())
            .map(|at| BackendSlot(at as u16))
            .filter(|slot| snapshot.backend(*slot).is_none())
            .collect();
        self.retry_tokens.resize(snapshot.pools.len(), RETRY_TOKENS_MAX / 10);
    }

    fn attach(&mut self, cx: &Context, backend: &Backend) {
        let at = backend.slot.index();
        self.outstanding.attach(backend.slot, backend.sockets);
        // 255 spans at once are not reached by any sane configuration; the shortest one in use
        // then serves, which errs on the side of giving up early.
        let queue = self.outstanding.queue(backend.timeout).unwrap_or(Queue::FIRST);
        if self.attached.len() <= at {
            self.attached.resize(at + 1, None);
        }
        let options = &backend.connections;
        let connection_queue = self.outstanding.queue(options.receive_timeout).unwrap_or(queue);
        // No query waits for a relay's target, whatever time that has to accept.
        let timeout = if backend.target { TickDelta(0) } else { backend.timeout };
        self.attached[at] = Some(Attached { queue, connection_queue, by_connection: options.only, timeout });
        cx.stats().attached[at].store(1, Release);
    }

    /// Slots that are in no snapshot any more and have nothing outstanding.
    pub(crate) fn retired(&self) -> impl Iterator<Item = BackendSlot> {
        self.retiring.iter().copied().filter(|slot| self.outstanding.live_of(*slot) == 0)
    }

    /// Forgets a backend whose sockets are closed; its slot may be given to another.
    pub(crate) fn detach(&mut self, cx: &Context, slot: BackendSlot) {
        self.outstanding.detach(slot);
        self.retiring.retain(|s| *s != slot);
        self.attached[slot.index()] = None;
        cx.stats().attached[slot.index()].store(0, Release);
    }

    fn attached(&self, backend: BackendSlot) -> Option<Attached> {
        self.attached.get(backend.index()).copied().flatten()
    }

    /// A server of a pool, by its policy: rather none of those that have just refused a connection.
    /// `by_connection`: the query came by a connection.
    pub(crate) fn select(
        &mut self,
        cx: &mut Context,
        connections: &Connections,
        pool: PoolSlot,
        subject: &Subject<'_>,
        by_connection: bool,
    ) -> Option<BackendSlot> {
        let avoid = connections.backends.avoided(by_connection);
        let chosen = self.balancer.select(&cx.snapshot, pool, subject, avoid, &mut cx.rng);
        if chosen.is_some() || avoid.is_empty() {
            return chosen;
        }
        self.balancer.select(&cx.snapshot, pool, subject, &[], &mut cx.rng)
    }

    /// Who asked, of a query that has its claim.
    pub(crate) fn asker(&self, asked: &Asked) -> Endpoint {
        self.queries.proxied(asked.waiter.entry()).map_or(asked.client.peer, |proxied| proxied.source)
    }

    /// How many attempts may be looked at in one tick for their time-out: as many as have begun to
    /// wait since the last one, and `more`, so that no backlog grows.
    pub(crate) fn due_per_tick(&mut self, more: usize) -> u64 {
        let [claimed, ..] = self.outstanding.totals();
        let begun = claimed - std::mem::replace(&mut self.claimed, claimed);
        begun.saturating_add(more as u64)
    }

    /// How long to wait for the next part of an answer that comes by a connection.
    pub(crate) fn connection_queue(&self, backend: BackendSlot) -> Option<Queue> {
        self.attached(backend).map(|a| a.connection_queue)
    }

    /// Queries whose client waits for an answer.
    pub(crate) fn awaited(&self) -> u32 {
        self.outstanding.live() - self.unawaited + self.delayed.held()
    }

    /// The longest time-out of any backend.
    pub(crate) fn longest_timeout(&self) -> TickDelta {
        self.attached.iter().flatten().map(|a| a.timeout).max().unwrap_or_default()
    }

    /// When something is due, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        if !self.copies.is_empty() {
            return Some(Tick(0));
        }
        self.outstanding.next_deadline().into_iter().chain(self.delayed.next_deadline()).min()
    }

    /// An attempt is answered: the other one, if there is one, is not waited for any more.
    pub(crate) fn settle(
        &mut self,
        cx: &Context,
        connections: &Connections,
        key: Key,
        known: Known,
        code: u8,
    ) {
        self.count_answer(cx, connections, key, known, code);
        let entry = known.asked.waiter.entry();
        if let Some(twin) = self.queries.ended(entry, key) {
            self.let_go(twin);
            // A restart goes on with the entry, and the other attempt is no part of that.
            self.queries.ended(entry, twin);
        }
    }

    fn count_answer(&mut self, cx: &Context, connections: &Connections, key: Key, known: Known, code: u8) {
        let backend = key.route.backend;
        // How long a whole zone takes says nothing of how fast its server answers.
        let is_zone = key.route.is_connection() && connections.backends.is_transferring(key.route);
        let latency = (!is_zone).then(|| cx.now.since(known.claimed_at));
        self.outstanding.settle(key);
        self.balancer.settled(backend, latency);
        let stats = cx.stats().backend(backend);
        stats.responses.add(1);
        if let Some(latency) = latency {
            stats.latency.record(latency.0);
        }
        if code == rcode::SERVFAIL {
            stats.servfails.add(1);
        }
    }

    /// The other attempt of a query that is answered: its server still owes an answer, which tells of
    /// its health. Were it let go, a server that never answers would look idle and fast.
    fn let_go(&mut self, twin: Key) {
        if self.outstanding.deliver(twin) {
            self.unawaited += 1;
        }
    }

    /// An answer that no client waits for: of an attempt that lost the race, or to a copy.
    pub(crate) fn settle_unawaited(
        &mut self,
        cx: &Context,
        connections: &Connections,
        key: Key,
        known: Known,
        code: u8,
    ) {
        self.unawaited -= 1;
        self.count_answer(cx, connections, key, known, code);
    }

    /// An attempt that no client waits for, and whose server never answered: its loss.
    pub(crate) fn expire_unawaited(&mut self, cx: &Context, key: Key) {
        self.unawaited -= 1;
        self.expire(cx, key);
    }

    /// Time is up for an attempt.
    pub(crate) fn expire(&mut self, cx: &Context, key: Key) {
        self.outstanding.expire(key);
        self.balancer.settled(key.route.backend, None);
        cx.stats().backend(key.route.backend).timeouts.add(1);
    }

    /// Takes the claim of an attempt back that was not sent, or whose connection has ended.
    pub(crate) fn release(&mut self, cx: &Context, key: Key) {
        self.outstanding.release(key);
        self.balancer.settled(key.route.backend, None);
        cx.stats().backend(key.route.backend).send_errors.add(1);
    }

    /// Whether no client waits for an attempt that was not sent; a copy is counted.
    pub(crate) fn nobody_waits(&mut self, cx: &Context, known: Known) -> bool {
        use outstanding::Waiter;
        match known.asked.waiter {
            Waiter::Client(_) => return false,
            Waiter::Copy => {
                cx.drop(DropReason::TeeFull);
            }
            Waiter::Nobody => {}
        }
        self.unawaited -= 1;
        true
    }

    /// One attempt fewer that no client waits for: its connection has ended.
    pub(crate) const fn forget_unawaited(&mut self) {
        self.unawaited -= 1;
    }

    /// What waits on a route that a query would go by, for whom: none when there is no such query.
    pub(crate) fn source_of(&self, route: Route, id: u16) -> Option<Endpoint> {
        let outstanding::Found::Live(known) = self.outstanding.find(Key { route, id }) else { return None };
        Some(self.asker(&known.asked)).filter(|client| client.port != 0)
    }
}
