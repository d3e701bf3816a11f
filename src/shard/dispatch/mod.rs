//! Queries in flight to backends: their servers, timeouts and attempts, and what is kept of each.
//!
//! ```text
//!  select ─► send: claim (slot, id), put ─► datagram, or a backend connection's output
//!     ▲              │ timeout, failure: an attempt on a second server, another one, or none
//!     └──────────────┤
//!                    └ response: settle
//! ```
//!
//! It does not evaluate rules or read responses: the pipeline decides what happens to a query that
//! has ended.

mod asked_names;
pub(crate) mod attempts;
pub(crate) mod delayed;
pub mod key;
pub mod outstanding;
mod proxy_header;
pub mod query_table;
pub(crate) mod send;
pub mod spoofing;

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use crate::balance::{Balancer, Subject};
use crate::base::addr::{BackendSlot, Endpoint, PoolSlot, Route};
use crate::base::narrow::to_u16;
use crate::base::time::{Tick, TickDelta};
use crate::model::{Backend, Snapshot};
use crate::rules::copies::Copies;
use crate::shard::context::Context;
use crate::shard::dispatch::asked_names::AskedNames;
use crate::shard::dispatch::delayed::DelayedAnswers;
use crate::shard::dispatch::outstanding::{InFlight, Key, Outstanding, PendingQuery, Queue};
pub(crate) use crate::shard::dispatch::proxy_header::ConnectionKey;
use crate::shard::dispatch::query_table::QueryTable;
use crate::shard::dispatch::spoofing::SpoofingWatch;
use crate::shard::{Connections, LATE_MAX, shadows};
use crate::stats::drop_reason::DropReason;
use crate::stats::histogram::bucket;
use crate::stats::live::{LiveState, PPM};
use crate::stats::shadow_queue::{End, Side};
use crate::wire::header::rcode;

/// Second attempts that a pool may save up.
const RETRY_TOKENS_MAX: u64 = 1_000 * PPM as u64;

/// Queries in flight to backends.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) balancer: Balancer,
    pub(crate) outstanding: Outstanding,
    pub(crate) queries: QueryTable,
    pub(crate) delayed: DelayedAnswers,
    pub(crate) copies: Copies,
    pub(crate) spoofing: SpoofingWatch,
    pub(crate) asked_names: AskedNames,
    /// By slot: backends for which this shard has a table (and its engine has sockets).
    attached: Vec<Option<Attached>>,
    /// The addresses of the snapshot's servers, in order.
    addresses: Vec<[u8; 16]>,
    /// Attached slots that the snapshot does not have.
    retiring: Vec<BackendSlot>,
    /// By pool: saved second attempts, parts per million of one.
    retry_tokens: Vec<u64>,
    /// Outstanding attempts whose response no client waits for.
    unawaited: u32,
    /// Queries that were sent to servers up to the last batch.
    claimed: u64,
    /// Buffer for PROXY headers.
    header: Vec<u8>,
    /// Buffer for the servers that a selection avoids.
    avoided: Vec<BackendSlot>,
}

/// What a shard keeps of a backend over snapshots.
#[derive(Clone, Copy, Debug)]
struct Attached {
    queue: Queue,
    /// The timeout queue of queries that came over connections and use its connections.
    connection_queue: Queue,
    /// Every query uses its connections.
    only_connections: bool,
    /// From the last configuration that had it: its outstanding queries outlive its removal.
    timeout: TickDelta,
    /// Servers that a query which it has failed may try, itself included; from that configuration
    /// too.
    tries: u8,
}

impl Dispatcher {
    /// Creates the dispatcher of the shard with this number.
    pub(crate) fn new(live_state: &Arc<LiveState>, shard: usize, copies: Copies) -> Self {
        Self {
            balancer: Balancer::new(Arc::clone(live_state), shard),
            outstanding: Outstanding::default(),
            queries: QueryTable::default(),
            delayed: DelayedAnswers::default(),
            copies,
            spoofing: SpoofingWatch::default(),
            asked_names: AskedNames::default(),
            attached: Vec::new(),
            addresses: Vec::new(),
            retiring: Vec::new(),
            retry_tokens: Vec::new(),
            unawaited: 0,
            claimed: 0,
            header: Vec::new(),
            avoided: Vec::new(),
        }
    }

    /// Adopts a configuration: its backends get tables; backends that it does not have retire.
    pub(crate) fn adopt(&mut self, cx: &Context) {
        let snapshot: &Snapshot = &cx.snapshot;
        self.outstanding.renew_queues();
        for backend in snapshot.backends.iter().flatten() {
            self.attach(cx, backend);
        }
        self.retiring = (0..self.attached.len())
            .filter(|at| self.attached[*at].is_some())
            .map(|at| BackendSlot(to_u16(at)))
            .filter(|slot| snapshot.backend(*slot).is_none())
            .collect();
        self.retry_tokens.resize(snapshot.pools.len(), RETRY_TOKENS_MAX / 10);
        let servers = snapshot.backends.iter().flatten();
        self.addresses = servers.map(|server| Endpoint::from(server.address).ip).collect();
        self.addresses.sort_unstable();
    }

    fn attach(&mut self, cx: &Context, backend: &Backend) {
        let at = backend.slot.index();
        self.outstanding.attach(backend.slot, backend.sockets);
        // No sane configuration has 255 different timeouts; the shortest one in use is then used,
        // so that a query may time out early.
        let queue = self.outstanding.queue(backend.timeout).unwrap_or(Queue::FIRST);
        if self.attached.len() <= at {
            self.attached.resize(at + 1, None);
        }
        let options = &backend.connections;
        let connection_queue = self.outstanding.queue(options.receive_timeout).unwrap_or(queue);
        // No query waits for a relay's target, whatever its connect timeout.
        let timeout = if backend.target { TickDelta(0) } else { backend.timeout };
        self.attached[at] = Some(Attached {
            queue,
            connection_queue,
            only_connections: self.needs_connections(backend),
            timeout,
            tries: options.tries,
        });
        cx.stats().attached[at].store(1, Release);
    }

    /// Returns whether every query to a backend uses its connections.
    fn needs_connections(&self, backend: &Backend) -> bool {
        let options = &backend.connections;
        options.only || options.while_spoofed && self.spoofing.is_attacked(backend.slot)
    }

    /// An attack on a backend has begun or ended.
    pub(crate) fn revise_connections(&mut self, cx: &Context, backend: BackendSlot) {
        let only = cx.snapshot.backend(backend).map(|backend| self.needs_connections(backend));
        if let (Some(only), Some(Some(attached))) = (only, self.attached.get_mut(backend.index())) {
            attached.only_connections = only;
        }
    }

    /// Returns when every datagram that is outstanding has timed out.
    pub(crate) fn drained(&self, cx: &Context, backend: BackendSlot) -> Tick {
        let timeout = self.attached(backend).map_or(TickDelta(0), |attached| attached.timeout);
        cx.now + timeout + LATE_MAX
    }

    /// Returns the slots that are in no snapshot any more and have no outstanding query.
    pub(crate) fn retired(&self) -> impl Iterator<Item = BackendSlot> {
        self.retiring.iter().copied().filter(|slot| self.outstanding.live_of(*slot) == 0)
    }

    /// Forgets a backend whose sockets are closed; its slot may be reused.
    pub(crate) fn detach(&mut self, cx: &Context, slot: BackendSlot) {
        self.outstanding.detach(slot);
        self.spoofing.forget(slot);
        self.retiring.retain(|s| *s != slot);
        self.attached[slot.index()] = None;
        cx.stats().forget_connection_latency(slot);
        cx.stats().attached[slot.index()].store(0, Release);
    }

    #[inline]
    fn attached(&self, backend: BackendSlot) -> Option<Attached> {
        self.attached.get(backend.index()).copied().flatten()
    }

    /// Selects a server of a pool by its policy: none of `excluded`, and preferably none that has
    /// just refused a connection. `came_by_connection`: as the query did.
    #[inline]
    pub(crate) fn select(
        &mut self,
        cx: &mut Context,
        connections: &Connections,
        pool: PoolSlot,
        subject: &Subject<'_>,
        came_by_connection: bool,
        excluded: &[BackendSlot],
    ) -> Option<BackendSlot> {
        let avoided = connections.backends.avoided(came_by_connection);
        if avoided.is_empty() {
            return self.balancer.select(&cx.snapshot, pool, subject, excluded, &mut cx.rng);
        }
        self.avoided.clear();
        self.avoided.extend_from_slice(excluded);
        self.avoided.extend_from_slice(avoided);
        let chosen = self.balancer.select(&cx.snapshot, pool, subject, &self.avoided, &mut cx.rng);
        chosen.or_else(|| self.balancer.select(&cx.snapshot, pool, subject, excluded, &mut cx.rng))
    }

    /// Returns the client of a query that has claimed a slot.
    pub(crate) fn client_of(&self, pending: &PendingQuery) -> Endpoint {
        self.queries.proxied(pending.waiter.entry()).map_or(pending.client.peer, |proxied| proxied.source)
    }

    /// Returns how many timed-out attempts may be handled in one tick: as many as began in this
    /// batch, and `more`, so that no backlog grows.
    pub(crate) const fn due_per_tick(&self, more: usize) -> u64 {
        let [claimed, ..] = self.outstanding.totals();
        (claimed - self.claimed).saturating_add(more as u64)
    }

    /// A batch ends.
    pub(crate) const fn end_batch(&mut self) {
        let [claimed, ..] = self.outstanding.totals();
        self.claimed = claimed;
    }

    /// Returns the queue for the next part of a response over a connection.
    pub(crate) fn connection_queue(&self, backend: BackendSlot) -> Option<Queue> {
        self.attached(backend).map(|a| a.connection_queue)
    }

    /// Returns the number of queries whose client waits for an answer.
    pub(crate) fn awaited(&self) -> u32 {
        self.outstanding.live() - self.unawaited + self.delayed.held()
    }

    /// Returns the longest timeout of any backend.
    pub(crate) fn longest_timeout(&self) -> TickDelta {
        self.attached.iter().flatten().map(|a| a.timeout).max().unwrap_or_default()
    }

    /// Returns when something is due, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        if !self.copies.is_empty() {
            return Some(Tick(0));
        }
        self.outstanding.next_deadline().into_iter().chain(self.delayed.next_deadline()).min()
    }

    /// Settles an attempt; no client waits for the query's other attempt any more. Returns the
    /// [`bucket`] of its latency; none of a zone transfer.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        cx: &Context,
        connections: &Connections,
        key: Key,
        in_flight: &InFlight,
        code: u8,
    ) -> Option<usize> {
        let latency = self.count_response(cx, connections, key, in_flight, code);
        let entry = in_flight.pending.waiter.entry();
        if let Some(twin) = self.queries.ended(entry, key) {
            self.mark_unawaited(twin);
            // A restart keeps the entry, and the other attempt is no part of it.
            self.queries.ended(entry, twin);
        }
        latency
    }

    #[inline]
    fn count_response(
        &mut self,
        cx: &Context,
        connections: &Connections,
        key: Key,
        in_flight: &InFlight,
        code: u8,
    ) -> Option<usize> {
        let backend = key.route.backend;
        // The duration of a zone transfer does not tell how fast its server responds.
        let is_zone = key.route.is_connection() && connections.backends.is_transferring(key.route);
        let latency = (!is_zone).then(|| cx.now.since(in_flight.claimed_at));
        self.outstanding.settle(key);
        self.balancer.settled(backend, latency);
        let stats = cx.stats().backend(backend);
        stats.responses.add(1);
        let latency = latency.map(|latency| (latency, bucket(latency.0)));
        if let Some((latency, bucket)) = latency {
            stats.latency.count_one(bucket);
            if key.route.is_connection() {
                cx.stats().connection_latency(backend).record(latency);
            }
        }
        if code == rcode::SERVFAIL {
            stats.servfails.add(1);
        }
        latency.map(|(_, bucket)| bucket)
    }

    /// Marks the other attempt of an answered query as unawaited: its server still owes a response,
    /// which counts for its health. If it were released, a server that never responds would look
    /// idle and fast.
    fn mark_unawaited(&mut self, twin: Key) {
        if self.outstanding.deliver(twin) {
            self.unawaited += 1;
        }
    }

    /// Settles a response that no client waits for: of the slower attempt, or to a copy.
    pub(crate) fn settle_unawaited(
        &mut self,
        cx: &Context,
        connections: &Connections,
        key: Key,
        in_flight: &InFlight,
        code: u8,
    ) {
        self.unawaited -= 1;
        self.count_response(cx, connections, key, in_flight, code);
    }

    /// Expires an attempt that no client waits for, as its server's loss.
    pub(crate) fn expire_unawaited(&mut self, cx: &Context, key: Key) {
        self.unawaited -= 1;
        self.expire(cx, key);
    }

    /// Expires an attempt.
    pub(crate) fn expire(&mut self, cx: &Context, key: Key) {
        if !key.route.is_connection()
            && let outstanding::Lookup::Live(in_flight) = self.outstanding.find(key)
        {
            self.spoofing.timed_out(key, in_flight.pending.question, cx.now);
        }
        self.outstanding.expire(key);
        self.balancer.settled(key.route.backend, None);
        cx.stats().backend(key.route.backend).timeouts.add(1);
    }

    /// Releases an attempt that was not sent, or whose connection has ended.
    pub(crate) fn release(&mut self, cx: &Context, key: Key) {
        self.outstanding.release(key);
        self.balancer.settled(key.route.backend, None);
        cx.stats().backend(key.route.backend).send_errors.add(1);
    }

    /// Returns whether no client waits for an attempt that was not sent; a copy is counted.
    pub(crate) fn is_unawaited(&mut self, cx: &Context, in_flight: &InFlight) -> bool {
        use outstanding::Waiter;
        match in_flight.pending.waiter {
            Waiter::Client(_) => return false,
            Waiter::Copy => {
                cx.drop(DropReason::TeeFull);
            }
            Waiter::Shadow(id) => shadows::ended(cx, id, Side::Shadow, End::None),
            Waiter::Nobody => {}
        }
        self.unawaited -= 1;
        true
    }

    /// Counts one unawaited attempt less: its connection has ended.
    pub(crate) const fn forget_unawaited(&mut self) {
        self.unawaited -= 1;
    }

    /// Returns the client of a query on a route; none when there is no such query.
    pub(crate) fn source_of(&self, route: Route, id: u16) -> Option<Endpoint> {
        let outstanding::Lookup::Live(in_flight) = self.outstanding.find(Key { route, id }) else {
            return None;
        };
        Some(self.client_of(&in_flight.pending)).filter(|client| client.port != 0)
    }
}
