//! The data plane of one thread: single owner, no locks; no clock, no sockets, no randomness of its
//! own.
//!
//! ```text
//!  engine ─► Shard ─┬─ pipeline    the stages of a query, and its end
//!                   ├─ messages    bytes of connections become messages
//!                   │
//!                   ├─ Context     time, configuration, randomness, counters: passed to the owners
//!                   ├─ Evaluator   the state of rules
//!                   ├─ Dispatcher  queries in flight to backends
//!                   ├─ Connections of clients, and to backends
//!                   └─ Relay       layer-4 sessions
//! ```
//!
//! An engine calls `begin_batch`, then any number of `on_query`, `on_response` and `on_unsent`,
//! then `on_tick` (or, when nothing is due, `publish`), and sleeps until `next_deadline` or a
//! packet. Each call does a bounded amount of work: the remainder is requested by `resume_next`,
//! `next_pending`, or the next tick, so that the engine can serve other sockets meanwhile.

#![cfg_attr(
    not(test),
    warn(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::cast_lossless
    )
)]

pub mod backend;
mod cache;
pub mod client;
mod coalescing;
mod conn_table;
mod context;
pub mod dispatch;
mod evaluator;
pub mod messages;
pub mod pipeline;
mod prefetch;
mod recency;
mod refreshes;
pub mod relay;
mod scratch;
mod shadows;
pub mod verdict;

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use crate::base::addr::{
    BackendSlot, Client, ConnectionSlot, Endpoint, ListenerSlot, LocalSlot, PoolSlot, Route, SessionSlot,
};
use crate::base::narrow::to_u16;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::model::{Listener, Snapshot};
use crate::rules::action::{DELAY_MS_MAX, RESTARTS_MAX};
use crate::rules::copies::Copies;
use crate::shard::backend::{BackendConnections, BackendInterest};
use crate::shard::cache::CacheBuffers;
use crate::shard::client::{ClientConnections, ClientInterest};
use crate::shard::coalescing::Coalescing;
use crate::shard::context::{Context, Needs};
use crate::shard::dispatch::Dispatcher;
use crate::shard::dispatch::outstanding::{InFlight, Key};
use crate::shard::evaluator::Evaluator;
use crate::shard::messages::{PendingWork, WorkKind};
use crate::shard::pipeline::Out;
use crate::shard::prefetch::Prefetch;
use crate::shard::refreshes::Refreshes;
use crate::shard::relay::{Attempt, Direction, Relay, RelayInterest};
use crate::shard::scratch::Scratch;
use crate::shard::shadows::Shadows;
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason, ConnectFailure, RelayCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::stats::live::LiveState;
use crate::tls::{Reason, ServerTls, TlsFacts};
use crate::wire::header::Header;

/// Attempts of a query, at most: the first, the second, and those of its restarts by rules.
pub const ATTEMPTS_MAX: u64 = 2 + RESTARTS_MAX as u64;
/// Timeouts and delayed answers that are handled in one tick. The others are due in the next one,
/// before which packets are read.
const DUE_PER_TICK: usize = 256;
/// How late a timeout may be handled.
const LATE_MAX: TickDelta = TickDelta::from_ms(1_000);

/// One shard: everything that happens to a packet between two system calls.
#[derive(Debug)]
pub struct Shard {
    cx: Context,
    evaluator: Evaluator,
    dispatcher: Dispatcher,
    connections: Connections,
    relay: Relay,
    /// The kind of pending work that was returned last.
    work_kind: WorkKind,
    cache: CacheBuffers,
    coalescing: Coalescing,
    refreshes: Refreshes,
    prefetch: Prefetch,
    shadows: Shadows,
    /// Buffer for messages that are not in a receive buffer.
    scratch: Scratch,
    /// Buffer for the queries of a connection that has ended.
    lost_queries: Vec<(Key, InFlight)>,
}

/// The connections of a shard that carry DNS.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) clients: ClientConnections,
    pub(crate) backends: BackendConnections,
}

impl Shard {
    /// Creates a shard with a configuration.
    #[must_use]
    pub fn new(index: usize, live_state: Arc<LiveState>, snapshot: Arc<Snapshot>, rng: ShardRng) -> Self {
        let limits = live_state.connection_limits();
        let descriptors = live_state.descriptors();
        let connections = Connections {
            clients: ClientConnections::new(Arc::clone(limits), Arc::clone(descriptors)),
            backends: BackendConnections::new(Arc::clone(descriptors)),
        };
        let shards = live_state.shards().len();
        let mut cx = Context::new(index, Arc::clone(&live_state), Arc::clone(&snapshot), rng);
        let mark = live_state.mark(|| cx.random_state().hash_one(index).to_ne_bytes());
        let dispatcher = Dispatcher::new(&live_state, index, Copies::new(mark, cx.random_state()));
        let relay = Relay::new(cx.random_state(), Arc::clone(limits), Arc::clone(descriptors));
        let mut shard = Self {
            evaluator: Evaluator::new(shards, &mut cx),
            coalescing: Coalescing::default(),
            refreshes: Refreshes::default(),
            prefetch: Prefetch::default(),
            shadows: Shadows::default(),
            cx,
            dispatcher,
            connections,
            relay,
            work_kind: WorkKind::default(),
            cache: CacheBuffers::default(),
            scratch: Scratch::default(),
            lost_queries: Vec::new(),
        };
        shard.adopt(&snapshot);
        shard.cx.forget_connections_of_predecessor();
        shard
    }

    /// Begins a batch: sets its time and configuration.
    pub fn begin_batch(&mut self, now: Tick, snapshot: &Arc<Snapshot>) {
        self.cx.now = now;
        self.cx.batch = self.cx.batch.wrapping_add(1);
        if snapshot.generation != self.cx.snapshot.generation {
            self.adopt(snapshot);
        }
        self.dispatcher.balancer.begin_batch(now, &self.cx.snapshot);
    }

    fn adopt(&mut self, snapshot: &Arc<Snapshot>) {
        let cx = &mut self.cx;
        let before = std::mem::replace(&mut cx.snapshot, Arc::clone(snapshot));
        self.evaluator.adopt(cx, &before, snapshot);
        cx.needs = Needs::of(snapshot);
        snapshot.rules_fresh.iter().for_each(|slot| cx.stats().rule_hits(*slot).reset());
        for (at, (old, new)) in before.pools.iter().zip(&snapshot.pools).enumerate() {
            if old.name != new.name {
                cx.stats().forget_pool(PoolSlot(to_u16(at)));
            }
        }
        self.dispatcher.adopt(cx);
        self.cache.adopt(cx.now);
        self.refreshes.warms_up = cx.needs.warm_up;
        cx.stats().generation.store(snapshot.generation, Release);
    }

    /// Returns the slots that are in no snapshot any more and have no outstanding query: the engine
    /// closes their sockets and calls [`Shard::detach`].
    pub fn retired(&self) -> impl Iterator<Item = BackendSlot> {
        let is_idle =
            |slot: &_| self.connections.backends.open_of(*slot) == 0 && self.relay.open_of(*slot) == 0;
        self.dispatcher.retired().filter(is_idle)
    }

    /// Forgets a backend whose sockets are closed; its slot may be reused.
    pub fn detach(&mut self, slot: BackendSlot) {
        self.dispatcher.detach(&self.cx, slot);
        self.connections.backends.detach(slot);
    }

    /// Handles what is due, publishes this shard's counts, and emits the packets that result.
    pub fn on_tick(&mut self, out: Out<'_>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.expire(&mut scratch, DUE_PER_TICK, out);
        self.send_copies(&mut scratch, out);
        self.send_shadows(&mut scratch, out);
        self.warm_up();
        self.look_for_stored(DUE_PER_TICK);
        self.release_coalesced(&mut scratch, DUE_PER_TICK, out);
        self.scratch = scratch;
        self.release_delayed(DUE_PER_TICK, out);
        let (cx, connections) = (&mut self.cx, &mut self.connections);
        connections.clients.sweep(cx.client_limits(), cx.now);
        let (outstanding, balancer) = (&self.dispatcher.outstanding, &self.dispatcher.balancer);
        connections.backends.sweep(
            cx.now,
            |route| outstanding.live_on(route),
            |backend| balancer.has_other(&cx.snapshot, backend),
            |backend| cx.snapshot.backend(backend).map(|b| &b.connections),
        );
        self.relay.on_tick(cx, &mut self.dispatcher.balancer);
        self.publish();
    }

    /// The part of [`Shard::on_tick`] that each batch needs when nothing is due: publishes this
    /// shard's counts.
    pub fn publish(&mut self) {
        self.dispatcher.end_batch();
        let cx = &self.cx;
        self.dispatcher.balancer.publish();
        let stats = cx.stats();
        stats.outstanding_total.set(self.outstanding());
        stats.clients.open.set(self.connections.clients.open_count());
        stats.relays.open.set(self.relay.open_count());
        stats.heartbeat.store(cx.batch, Relaxed);
        self.evaluator.maintain(cx);
    }

    /// Returns when [`Shard::on_tick`] has something to do, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let connections = &self.connections;
        let of_cache = [self.coalescing.next_deadline(), self.refreshes.next_deadline(self.warm_up_max())];
        let of_dispatcher = self.dispatcher.next_deadline();
        let of_connections = [connections.clients.next_deadline(), connections.backends.next_deadline()];
        of_connections
            .into_iter()
            .chain(of_cache)
            .chain([of_dispatcher, self.relay.next_deadline(), self.shadows.next_deadline()])
            .flatten()
            .min()
    }

    /// The shard is to end: it asks for nothing itself.
    pub fn stop_own_queries(&mut self) {
        self.refreshes.stop();
    }

    /// Returns the number of queries whose client waits for an answer.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        // Nobody waits for the shard's own.
        (self.dispatcher.awaited() + self.coalescing.waiting()).saturating_sub(self.refreshes.outstanding())
    }

    /// Returns an upper bound of how long a query can be outstanding: two attempts, and the
    /// lateness of timeouts; with rules that restart or delay, the most that these may add.
    #[must_use]
    pub fn longest_wait(&self) -> TickDelta {
        let (attempts, held) = if self.cx.needs.late_answers {
            (ATTEMPTS_MAX, TickDelta::from_ms(DELAY_MS_MAX.into()))
        } else {
            (2, TickDelta(0))
        };
        // A query that has waited for another one in vain has as many attempts of its own.
        let attempts = attempts * (1 + u64::from(self.cx.needs.cache));
        let longest = self.dispatcher.longest_timeout();
        TickDelta(longest.0.saturating_mul(attempts).saturating_add(held.0).saturating_add(LATE_MAX.0))
    }

    /// Returns the current configuration.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.cx.snapshot
    }

    /// Counts a packet that the engine itself had to drop, or could not deliver.
    pub fn drop(&self, reason: DropReason) -> Verdict {
        self.cx.drop(reason)
    }

    /// Returns the numbers of claims, settlements, expiries and releases since the start; for tests
    /// and for accounting at the end.
    #[must_use]
    pub const fn totals(&self) -> [u64; 4] {
        self.dispatcher.outstanding.totals()
    }

    /// Checks the invariants between batches; for tests.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub fn check_invariants(&self) {
        self.dispatcher.outstanding.check_invariants();
        self.connections.clients.check_invariants();
        self.connections.backends.check_invariants();
        self.relay.check_invariants();
        if self.dispatcher.outstanding.live() == 0 && self.coalescing.waiting() == 0 {
            assert_eq!(self.dispatcher.queries.open_count(), 0, "no entry outlives its query");
            assert_eq!(self.connections.clients.in_flight(), 0, "no connection waits for nothing");
        }
    }

    /// A wildcard listener has received the first packet for a local address, which gets this slot.
    pub fn on_local(&mut self, slot: LocalSlot, ip: [u8; 16]) {
        self.cx.set_local_address(slot, ip);
    }

    /// Returns the client of a query on one of a server's sockets, whose address is the source
    /// address to use. Returns none when there is no such query, or nobody waits for it.
    #[must_use]
    pub fn source_of(&self, route: Route, query: &[u8]) -> Option<Endpoint> {
        self.dispatcher.source_of(route, Header::parse(query)?.id())
    }

    /// Returns the connection or flow that has just made room for a new one: it must be closed
    /// before that is opened, so that the process never exceeds its descriptors.
    pub fn take_evicted(&mut self) -> Option<PendingWork> {
        let client = self.connections.clients.take_evicted().map(PendingWork::Client);
        client.or_else(|| self.relay.take_evicted().map(PendingWork::Relay))
    }

    /// Ends the least recently used connection because the kernel has no descriptor or memory for a
    /// new one; [`Shard::take_evicted`] then returns it. Returns false when none could end.
    pub fn make_room(&mut self) -> bool {
        self.connections.clients.make_room(self.cx.now) || self.relay.make_room(self.cx.now)
    }

    // Client connections.

    /// A client has connected to a listener; `local` is its destination address if the listener is
    /// a wildcard. Returns none, and counts it, when the connection must be closed at once.
    pub fn on_accept(
        &mut self,
        peer: Endpoint,
        listener: &Listener,
        local: LocalSlot,
    ) -> Option<ConnectionSlot> {
        self.connections.clients.on_accept(&self.cx, peer, listener, local)
    }

    /// Returns whether a new client connection needs the descriptor of another one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.connections.clients.is_full()
    }

    /// Returns until when a client connection that waits is not to be accepted; none if it may be at
    /// this time, which may be so earlier, when another one closes. Other shards are asked to make
    /// room for it.
    #[must_use]
    pub fn accepts_from(&mut self) -> Option<Tick> {
        self.connections.clients.accepts_from(self.cx.now)
    }

    /// Returns the TLS of a listener's connections, in the current configuration.
    #[must_use]
    pub fn tls_of(&self, listener: ListenerSlot) -> Option<&ServerTls> {
        self.cx.listener(listener)?.service.tls().map(|tls| &**tls)
    }

    /// The TLS handshake of a client connection has completed.
    pub fn on_client_handshake(&mut self, connection: ConnectionSlot, facts: TlsFacts<'_>) {
        self.connections.clients.on_handshake(&self.cx, connection, facts);
    }

    /// TLS has failed on a client connection, which the engine then closes for the returned reason.
    pub fn on_client_failure(&mut self, connection: ConnectionSlot, why: Reason) -> ClientCloseReason {
        self.connections.clients.on_failure(&self.cx, connection, why)
    }

    /// Bytes from a client contained no data yet: a part of a handshake, or of a record. They count
    /// as a read all the same.
    pub fn on_client_fragment(&mut self, connection: ConnectionSlot) {
        let (limits, now) = (self.cx.client_limits(), self.cx.now);
        self.connections.clients.on_read(connection, limits, now);
    }

    /// Returns whether a connection begins with a PROXY header before its TLS, and that has not
    /// arrived yet: its raw bytes then go to [`Shard::on_header_bytes`].
    #[must_use]
    pub fn header_comes_first(&self, connection: ConnectionSlot) -> bool {
        // Its listener may be gone, or have changed its setting.
        self.connections.clients.header_is_outside(connection)
    }

    /// Handles bytes at the start of a connection whose PROXY header is due; returns how many of
    /// them belong to it. The rest is the client's. The connection ends when they are no header, or
    /// name a client outside the ACL.
    pub fn on_header_bytes(&mut self, connection: ConnectionSlot, bytes: &[u8]) -> usize {
        self.connections.clients.on_header_bytes(&self.cx, connection, bytes)
    }

    /// The client has closed its end; its queries are still answered.
    pub fn on_client_end(&mut self, connection: ConnectionSlot) {
        self.connections.clients.finish(connection, ClientCloseReason::Client, self.cx.now);
    }

    /// Returns the connections of a listener that may still bring queries.
    #[must_use]
    pub fn clients_of(&self, listener: ListenerSlot) -> Vec<ConnectionSlot> {
        self.connections.clients.of(listener)
    }

    /// Ends the connections of one listener, or of all, when their queries are answered. They
    /// accept no more queries, except one that a new connection was opened for or that has begun to
    /// arrive.
    pub fn finish_clients(&mut self, listener: Option<ListenerSlot>) {
        self.connections.clients.finish_listener(listener, self.cx.now);
    }

    /// Does the same for one connection, whose listener is closed.
    pub fn finish_client(&mut self, connection: ConnectionSlot) {
        self.connections.clients.finish_closing(connection, self.cx.now);
    }

    /// Returns the number of open client connections.
    #[must_use]
    pub const fn clients_open(&self) -> u32 {
        self.connections.clients.open_count()
    }

    /// Returns the bytes to be written to a client.
    #[must_use]
    pub fn client_output(&self, connection: ConnectionSlot) -> &[u8] {
        self.connections.clients.output(connection)
    }

    /// Returns what the engine must do with a client connection. The engine gets it again only when
    /// it changes.
    #[must_use]
    pub fn client_interest(&mut self, connection: ConnectionSlot) -> ClientInterest {
        self.connections.clients.interest(connection)
    }

    /// Returns whether a connection that is to be closed was answered a moment ago, while its
    /// client may still be sending: unread bytes would cause a reset, and the client's kernel would
    /// discard answers that were not read yet.
    #[must_use]
    pub fn client_close_drains(&self, connection: ConnectionSlot) -> bool {
        self.connections.clients.close_drains(connection, self.cx.now)
    }

    /// Returns whether the engine may read a client connection at this time: bytes that were read
    /// before come first.
    #[must_use]
    pub fn client_may_read(&self, connection: ConnectionSlot) -> bool {
        self.connections.clients.may_read(connection)
    }

    // Backend connections.

    /// A backend connection is established.
    pub fn on_backend_open(&mut self, route: Route) {
        if self.connections.backends.opened(route, self.cx.now) {
            self.cx.stats().backend(route.backend).connections.opened.add(1);
            self.cx.live_state().backend(route.backend).connected();
        }
    }

    /// Its TLS handshake has completed, so it is established.
    pub fn on_backend_handshake(&mut self, route: Route, resumed: bool) {
        self.cx.stats().backend(route.backend).connections.handshakes.done(resumed);
        self.on_backend_open(route);
    }

    /// TLS has failed on it; the engine then closes it for the returned reason.
    pub fn on_backend_failure(&mut self, route: Route, why: Reason) -> BackendCloseReason {
        if !self.connections.backends.is_connecting(route) {
            return BackendCloseReason::Broken;
        }
        self.cx.stats().backend(route.backend).connections.handshakes.failed(why).add(1);
        BackendCloseReason::Handshake
    }

    /// Returns the number of open connections to all backends.
    #[must_use]
    pub fn backend_connections_open(&self) -> u32 {
        self.connections.backends.open_count()
    }

    /// Returns the bytes to be written to a server.
    #[must_use]
    pub fn backend_output(&self, route: Route) -> &[u8] {
        self.connections.backends.output(route)
    }

    /// The engine has written this many of them.
    pub fn backend_written(&mut self, route: Route, count: usize) {
        self.connections.backends.written(route, count, self.cx.now);
    }

    /// Returns whether the engine may read such a connection at this time: bytes that were read
    /// before come first.
    #[must_use]
    pub fn backend_may_read(&self, route: Route) -> bool {
        self.connections.backends.may_read(route)
    }

    /// Returns whether it is not established yet.
    #[must_use]
    pub fn backend_is_connecting(&self, route: Route) -> bool {
        self.connections.backends.is_connecting(route)
    }

    /// Returns its source address, if that is its client's own.
    #[must_use]
    pub fn backend_source(&self, route: Route) -> Option<[u8; 16]> {
        self.connections.backends.source(route)
    }

    /// Returns what the engine must do with it.
    #[must_use]
    pub fn backend_interest(&self, route: Route) -> BackendInterest {
        self.connections.backends.interest(route)
    }

    // Relay sessions.

    /// A client has connected to a relay's listener. Returns none, and counts it, when the
    /// connection must be closed at once; otherwise [`Shard::relay_interest`] returns what to do
    /// with it.
    pub fn on_relay_accept(
        &mut self,
        peer: Endpoint,
        listener: &Arc<Listener>,
        local: LocalSlot,
    ) -> Option<SessionSlot> {
        self.relay.on_accept(&mut self.cx, &mut self.dispatcher.balancer, peer, listener, local)
    }

    /// A client has sent a datagram to a relay's listener. Returns its session, a new one if
    /// necessary, and the attempt. Returns none, and counts it, when it is dropped.
    pub fn on_datagram(
        &mut self,
        client: Client,
        listener: &Arc<Listener>,
    ) -> Option<(SessionSlot, Attempt)> {
        self.relay.on_datagram(&mut self.cx, &mut self.dispatcher.balancer, client, listener)
    }

    /// Returns what the engine must do with a session.
    #[must_use]
    pub fn relay_interest(&self, session: SessionSlot) -> RelayInterest {
        self.relay.interest(session)
    }

    /// Returns a session's client and its listener.
    #[must_use]
    pub fn relay_client(&self, session: SessionSlot) -> Option<(Client, &Arc<Listener>)> {
        self.relay.facts(session)
    }

    /// The target has accepted a session's connection.
    pub fn on_target_open(&mut self, session: SessionSlot) {
        self.relay.on_target_open(&self.cx, session);
    }

    /// The attempt to reach a target has failed: the engine must then connect to another one, or
    /// close the session when none is left.
    pub fn on_target_failed(&mut self, session: SessionSlot, why: ConnectFailure) {
        self.relay.on_target_failed(&mut self.cx, &mut self.dispatcher.balancer, session, why);
    }

    /// A side of a relayed connection has spoken or ended, so that it stays with its target.
    pub fn on_spoken(&mut self, session: SessionSlot) {
        self.relay.on_spoken(&self.cx, session);
    }

    /// Bytes were relayed.
    pub fn on_relayed(&mut self, session: SessionSlot, direction: Direction, count: usize) {
        self.relay.on_relayed(&self.cx, session, direction, count);
    }

    /// A session's sockets are closed, as requested or because one of them has ended.
    pub fn on_session_closed(&mut self, session: SessionSlot, why: RelayCloseReason) {
        self.relay.on_session_closed(&self.cx, &mut self.dispatcher.balancer, session, why);
    }

    /// Returns the number of relay sessions.
    #[must_use]
    pub fn sessions_open(&self) -> u32 {
        self.relay.open_count()
    }

    /// Returns the number of relay sessions of one listener.
    #[must_use]
    pub fn sessions_of(&self, listener: ListenerSlot) -> u32 {
        self.relay.open_of_listener(listener)
    }

    /// A relay's listener was closed or opened: flows of a closed one end soon, connections
    /// continue.
    pub fn close_flows(&mut self, listener: ListenerSlot, closed: bool) {
        self.relay.close_listener(listener, closed.then_some(self.cx.now));
    }
}
