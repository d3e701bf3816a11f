//! The data plane: one thread, one owner, no locks; no clock, no sockets, no randomness of its own.
//!
//! ```text
//!  engine ─► Shard ─┬─ pipeline    the stages of a query, and its end
//!                   ├─ messages    bytes of connections become messages
//!                   │
//!                   ├─ Context     time, configuration, randomness, counters: handed to the owners
//!                   ├─ Evaluator   rules' own state
//!                   ├─ Dispatcher  queries on their way to backends
//!                   ├─ Connections of clients, and to backends
//!                   └─ Relay       layer-4 sessions
//! ```
//!
//! An engine calls `begin_batch`, then any number of `on_query`, `on_response` and `on_unsent`,
//! then `on_tick` (or, when nothing is due, `publish`), and sleeps until `next_deadline` or a
//! packet. No call does more than a bounded amount of work: what is left over is asked for by
//! `resume_next`, `next_pending`, or the next tick, so that the engine can look at other sockets
//! meanwhile.

pub mod backend;
pub mod client;
mod conn_table;
mod context;
pub mod dispatch;
mod evaluator;
pub mod messages;
pub mod pipeline;
mod recency;
pub mod relay;
mod scratch;
pub mod verdict;

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use crate::base::addr::{
    BackendSlot, Client, ConnectionSlot, Endpoint, ListenerSlot, LocalSlot, Route, SessionSlot,
};
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::model::{Listener, Snapshot};
use crate::rules::action::{DELAY_MS_MAX, RESTARTS_MAX};
use crate::shard::backend::{BackendConnections, BackendInterest};
use crate::shard::client::{ClientConnections, ClientInterest};
use crate::shard::context::{Context, Needs};
use crate::shard::dispatch::Dispatcher;
use crate::shard::dispatch::outstanding::{Key, Known};
use crate::shard::evaluator::Evaluator;
use crate::shard::messages::{PendingWork, WorkKind};
use crate::shard::pipeline::Out;
use crate::shard::relay::{Attempt, Direction, Relay, RelayInterest};
use crate::shard::scratch::Scratch;
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason, ConnectFailure, RelayCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::stats::live::LiveState;
use crate::tls::{Reason, ServerTls, TlsFacts};
use crate::wire::header::Header;
use crate::wire::query::Question;

/// Attempts that a query may have: the first, the second, and as many as rules may restart it.
pub const ATTEMPTS_MAX: u64 = 2 + RESTARTS_MAX as u64;
/// Time-outs, and answers that were held back, in one tick. Those beyond are due in the next one,
/// before which packets are read.
const DUE_PER_TICK: usize = 256;
/// Queries whose far memory is asked for together: what the nearest cache holds beside all else.
const PREFETCH_MAX: usize = 64;
/// What a time-out may be late by.
const LATE_MAX: TickDelta = TickDelta::from_ms(1_000);

/// One shard: all that happens to a packet between two system calls.
#[derive(Debug)]
pub struct Shard {
    context: Context,
    evaluator: Evaluator,
    dispatcher: Dispatcher,
    connections: Connections,
    relay: Relay,
    /// The kind of the pending work that was handed out last.
    work_kind: WorkKind,
    /// Memory for messages that stand elsewhere.
    scratch: Scratch,
    /// Memory for the queries of a connection that has ended.
    orphans: Vec<(Key, Known)>,
}

/// The connections of a shard that carry DNS.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) clients: ClientConnections,
    pub(crate) backends: BackendConnections,
}

impl Shard {
    /// A shard that obeys `snapshot`.
    #[must_use]
    pub fn new(index: usize, live_state: Arc<LiveState>, snapshot: Arc<Snapshot>, rng: ShardRng) -> Self {
        let limits = live_state.connection_limits();
        let descriptors = live_state.descriptors();
        let connections = Connections {
            clients: ClientConnections::new(Arc::clone(limits), Arc::clone(descriptors)),
            backends: BackendConnections::new(Arc::clone(descriptors)),
        };
        let dispatcher = Dispatcher::new(&live_state, index);
        let shards = live_state.shards().len();
        let mut context = Context::new(index, Arc::clone(&live_state), Arc::clone(&snapshot), rng);
        let relay = Relay::new(context.random_state(), Arc::clone(limits), Arc::clone(descriptors));
        let mut shard = Self {
            evaluator: Evaluator::new(shards, &mut context),
            context,
            dispatcher,
            connections,
            relay,
            work_kind: WorkKind::default(),
            scratch: Scratch::default(),
            orphans: Vec::new(),
        };
        shard.adopt(&snapshot);
        shard
    }

    /// Begins a batch: the time it all happens at, and the configuration it obeys.
    pub fn begin_batch(&mut self, now: Tick, snapshot: &Arc<Snapshot>) {
        self.context.now = now;
        self.context.batch = self.context.batch.wrapping_add(1);
        if snapshot.generation != self.context.snapshot.generation {
            self.adopt(snapshot);
        }
        self.dispatcher.balancer.begin_batch(now, &self.context.snapshot);
    }

    fn adopt(&mut self, snapshot: &Arc<Snapshot>) {
        let cx = &mut self.context;
        let before = std::mem::replace(&mut cx.snapshot, Arc::clone(snapshot));
        self.evaluator.adopt(cx.index(), &before, snapshot);
        cx.needs = Needs::of(snapshot);
        snapshot.rules_fresh.iter().for_each(|slot| cx.stats().rule_hits(*slot).reset());
        self.dispatcher.adopt(cx);
        cx.stats().generation.store(snapshot.generation, Release);
    }

    /// Whether [`Shard::prefetch`] is of use: queries meet large sets of names or tables of clients.
    #[must_use]
    pub fn needs_prefetch(&self) -> bool {
        self.context.snapshot.chains.query.is_far()
    }

    /// Brings near what the queries of a batch will need of far memory, so that they wait for it
    /// together and not each by itself. It decides nothing and counts nothing: a query that is left
    /// out is only slower.
    pub fn prefetch<'q>(&self, batch: impl Iterator<Item = ([u8; 16], &'q [u8])>) {
        let (mut names, mut clients) = ([&[][..]; PREFETCH_MAX], [[0; 16]; PREFETCH_MAX]);
        let mut count = 0;
        for (client, message) in batch {
            let Some(question) = Question::parse(message) else { continue };
            (names[count], clients[count]) = (question.qname, client);
            count += 1;
            if count == PREFETCH_MAX {
                self.evaluator.prefetch(&self.context, &names, &clients);
                count = 0;
            }
        }
        self.evaluator.prefetch(&self.context, &names[..count], &clients[..count]);
    }

    /// Slots that are in no snapshot any more and have nothing outstanding: the engine closes
    /// their sockets and calls [`Shard::detach`].
    pub fn retired(&self) -> impl Iterator<Item = BackendSlot> {
        let is_idle =
            |slot: &_| self.connections.backends.open_of(*slot) == 0 && self.relay.open_of(*slot) == 0;
        self.dispatcher.retired().filter(is_idle)
    }

    /// Forgets a backend whose sockets are closed; its slot may be given to another.
    pub fn detach(&mut self, slot: BackendSlot) {
        self.dispatcher.detach(&self.context, slot);
        self.connections.backends.detach(slot);
    }

    /// Does what is due, publishes this shard's counts, and emits the packets that come of it.
    pub fn on_tick(&mut self, out: Out<'_>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.expire(&mut scratch, DUE_PER_TICK, out);
        self.send_copies(&mut scratch, out);
        self.scratch = scratch;
        self.release_delayed(DUE_PER_TICK, out);
        let (cx, connections) = (&mut self.context, &mut self.connections);
        connections.clients.sweep(cx.client_limits(), cx.now);
        let outstanding = &self.dispatcher.outstanding;
        connections.backends.sweep(
            cx.now,
            |route| outstanding.live_on(route),
            |backend| cx.snapshot.backend(backend).map(|b| &b.connections),
        );
        self.relay.on_tick(cx, &mut self.dispatcher.balancer);
        self.publish();
    }

    /// The part of [`Shard::on_tick`] that each batch needs when nothing is due: publishes this
    /// shard's counts.
    pub fn publish(&mut self) {
        let cx = &self.context;
        self.dispatcher.balancer.publish();
        let stats = cx.stats();
        stats.outstanding_total.store(self.dispatcher.awaited(), Relaxed);
        stats.clients.open.store(self.connections.clients.open_count(), Relaxed);
        stats.relays.open.store(self.relay.open_count(), Relaxed);
        stats.heartbeat.store(cx.batch, Relaxed);
        self.evaluator.maintain(cx);
    }

    /// When [`Shard::on_tick`] has something to do, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let connections = &self.connections;
        let all = [
            self.dispatcher.next_deadline(),
            connections.clients.next_deadline(),
            connections.backends.next_deadline(),
            self.relay.next_deadline(),
        ];
        all.into_iter().flatten().min()
    }

    /// Queries whose client waits for an answer.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.dispatcher.awaited()
    }

    /// Longer than any query can be outstanding: two attempts, and what time-outs may be late; with
    /// rules that ask again or hold back, as often and as long as these may.
    #[must_use]
    pub fn longest_wait(&self) -> TickDelta {
        let (attempts, held) = if self.context.needs.late_answers {
            (ATTEMPTS_MAX, TickDelta::from_ms(DELAY_MS_MAX.into()))
        } else {
            (2, TickDelta(0))
        };
        let longest = self.dispatcher.longest_timeout();
        TickDelta(longest.0.saturating_mul(attempts).saturating_add(held.0).saturating_add(LATE_MAX.0))
    }

    /// The configuration this shard obeys.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.context.snapshot
    }

    /// Counts a packet that the engine itself had to drop, or one that it could not deliver.
    pub fn drop(&self, reason: DropReason) -> Verdict {
        self.context.drop(reason)
    }

    /// Claims, settlements, expiries and releases ever; for tests and for accounting at the end.
    #[must_use]
    pub const fn totals(&self) -> [u64; 4] {
        self.dispatcher.outstanding.totals()
    }

    /// Checks what must hold between batches; for tests.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn check_invariants(&self) {
        self.dispatcher.outstanding.check_invariants();
        self.connections.clients.check_invariants();
        self.connections.backends.check_invariants();
        self.relay.check_invariants();
        if self.dispatcher.outstanding.live() == 0 {
            assert_eq!(self.dispatcher.queries.open_count(), 0, "no entry outlives its query");
            assert_eq!(self.connections.clients.in_flight(), 0, "no connection waits for nothing");
        }
    }

    /// A wildcard listener was asked on a local address, for the first time: which one it is.
    pub fn on_local(&mut self, slot: LocalSlot, ip: [u8; 16]) {
        self.context.set_local_address(slot, ip);
    }

    /// The client whose query is on its way by one of a server's sockets: whose address it is to
    /// carry. None when there is no such query, or nobody waits for it.
    #[must_use]
    pub fn source_of(&self, route: Route, query: &[u8]) -> Option<Endpoint> {
        self.dispatcher.source_of(route, Header::parse(query)?.id())
    }

    /// What has just made room for a new connection or flow: to be closed before that is opened, so
    /// that the process never has more descriptors than it may.
    pub fn take_evicted(&mut self) -> Option<PendingWork> {
        let client = self.connections.clients.take_evicted().map(PendingWork::Client);
        client.or_else(|| self.relay.take_evicted().map(PendingWork::Relay))
    }

    /// The kernel has no descriptor or memory for a new connection: the least used one ends, which
    /// [`Shard::take_evicted`] then names. False when there is none that could.
    pub fn make_room(&mut self) -> bool {
        self.connections.clients.make_room(self.context.now) || self.relay.make_room(self.context.now)
    }

    // Connections of clients.

    /// A client has connected to a listener; `local` is the address that it asked, where that is
    /// a wildcard's. None, and counted, when the connection is to be closed at once.
    pub fn on_accept(
        &mut self,
        peer: Endpoint,
        listener: &Listener,
        local: LocalSlot,
    ) -> Option<ConnectionSlot> {
        self.connections.clients.on_accept(&self.context, peer, listener, local)
    }

    /// Whether a client's connection can be accepted at this time.
    #[must_use]
    pub fn may_accept(&self) -> bool {
        self.connections.clients.may_accept(self.context.now)
    }

    /// What a listener's connections are encrypted with, as the configuration in force has it.
    #[must_use]
    pub fn tls_of(&self, listener: ListenerSlot) -> Option<&ServerTls> {
        self.context.listener(listener)?.service.tls().map(|tls| &**tls)
    }

    /// The TLS handshake of a client's connection is done.
    pub fn on_client_handshake(&mut self, connection: ConnectionSlot, facts: TlsFacts<'_>) {
        self.connections.clients.on_handshake(&self.context, connection, facts);
    }

    /// TLS has failed on a client's connection, which the engine then closes, for this reason.
    pub fn on_client_failure(&mut self, connection: ConnectionSlot, why: Reason) -> ClientCloseReason {
        self.connections.clients.on_failure(&self.context, connection, why)
    }

    /// Bytes of a client that brought nothing yet: a part of a handshake, or of a record. They
    /// count as a read all the same.
    pub fn on_client_fragment(&mut self, connection: ConnectionSlot) {
        let (limits, now) = (self.context.client_limits(), self.context.now);
        self.connections.clients.on_read(connection, limits, now);
    }

    /// Whether a connection begins with a PROXY header in front of its TLS, and that has not come
    /// yet: its bytes are then for [`Shard::on_header_bytes`] as they are read.
    #[must_use]
    pub fn header_comes_first(&self, connection: ConnectionSlot) -> bool {
        // Its listener may be gone, or have changed its mind.
        self.connections.clients.header_is_outside(connection)
    }

    /// Bytes at the beginning of a connection whose PROXY header is due; says how many of them
    /// belong to it. What is behind them is the client's. The connection ends when they are no
    /// header, or name a client that may not ask.
    pub fn on_header_bytes(&mut self, connection: ConnectionSlot, bytes: &[u8]) -> usize {
        self.connections.clients.on_header_bytes(&self.context, connection, bytes)
    }

    /// The client sends no more; what it has asked is still answered.
    pub fn on_client_end(&mut self, connection: ConnectionSlot) {
        self.connections.clients.finish(connection, ClientCloseReason::Client, self.context.now);
    }

    /// The connections that came by a listener, of those that may bring queries.
    #[must_use]
    pub fn clients_of(&self, listener: ListenerSlot) -> Vec<ConnectionSlot> {
        self.connections.clients.of(listener)
    }

    /// Connections of one listener, or of all, take no more queries, apart from one that they were
    /// made for or have begun to send; they end when all that they asked is answered.
    pub fn finish_clients(&mut self, listener: Option<ListenerSlot>) {
        self.connections.clients.finish_listener(listener, self.context.now);
    }

    /// The same for one connection, whose listener is closed.
    pub fn finish_client(&mut self, connection: ConnectionSlot) {
        self.connections.clients.finish_closing(connection, self.context.now);
    }

    /// Open connections of clients.
    #[must_use]
    pub const fn clients_open(&self) -> u32 {
        self.connections.clients.open_count()
    }

    /// Bytes to be written to a client.
    #[must_use]
    pub fn client_output(&self, connection: ConnectionSlot) -> &[u8] {
        self.connections.clients.output(connection)
    }

    /// What the engine should do with a client's connection, and does: it is told again only when
    /// it is to do something else.
    #[must_use]
    pub fn client_interest(&mut self, connection: ConnectionSlot) -> ClientInterest {
        self.connections.clients.interest(connection)
    }

    /// Whether a connection that is to be closed was answered a moment ago, while its client may
    /// still be sending: bytes that nobody reads would have it reset, and the client's kernel
    /// throw away answers that were not read yet.
    #[must_use]
    pub fn client_close_drains(&self, connection: ConnectionSlot) -> bool {
        self.connections.clients.close_drains(connection, self.context.now)
    }

    /// Whether the engine may read a client's connection at this time: whatever it was told to watch
    /// for, what was read before comes first.
    #[must_use]
    pub fn client_may_read(&self, connection: ConnectionSlot) -> bool {
        self.connections.clients.may_read(connection)
    }

    // Connections to backends.

    /// A connection to a backend stands.
    pub fn on_backend_open(&mut self, route: Route) {
        self.connections.backends.opened(route, self.context.now);
        self.context.stats().backend(route.backend).connections.opened.add(1);
    }

    /// Its TLS handshake is done, and with it the connection stands.
    pub fn on_backend_handshake(&mut self, route: Route, resumed: bool) {
        self.context.stats().backend(route.backend).connections.handshakes.done(resumed);
        self.on_backend_open(route);
    }

    /// TLS has failed on it; the engine then closes it, for this reason.
    pub fn on_backend_failure(&mut self, route: Route, why: Reason) -> BackendCloseReason {
        if !self.connections.backends.is_connecting(route) {
            return BackendCloseReason::Broken;
        }
        self.context.stats().backend(route.backend).connections.handshakes.failed(why).add(1);
        BackendCloseReason::Handshake
    }

    /// Open connections to all backends.
    #[must_use]
    pub fn backend_connections_open(&self) -> u32 {
        self.connections.backends.open_count()
    }

    /// Bytes to be written to a server.
    #[must_use]
    pub fn backend_output(&self, route: Route) -> &[u8] {
        self.connections.backends.output(route)
    }

    /// So many of them were written.
    pub fn backend_written(&mut self, route: Route, count: usize) {
        self.connections.backends.written(route, count, self.context.now);
    }

    /// Whether the engine may read such a connection at this time: what was read before comes first.
    #[must_use]
    pub fn backend_may_read(&self, route: Route) -> bool {
        self.connections.backends.may_read(route)
    }

    /// Whether it has not come about yet.
    #[must_use]
    pub fn backend_is_connecting(&self, route: Route) -> bool {
        self.connections.backends.is_connecting(route)
    }

    /// The address that it is to come from, where that is its client's own.
    #[must_use]
    pub fn backend_source(&self, route: Route) -> Option<[u8; 16]> {
        self.connections.backends.source(route)
    }

    /// What the engine should do with it.
    #[must_use]
    pub fn backend_interest(&self, route: Route) -> BackendInterest {
        self.connections.backends.interest(route)
    }

    // Relay sessions.

    /// A client has connected to a relay's listener. None, and counted, when the connection is to
    /// be closed at once; otherwise [`Shard::relay_interest`] says what is to be done with it.
    pub fn on_relay_accept(
        &mut self,
        peer: Endpoint,
        listener: &Arc<Listener>,
        local: LocalSlot,
    ) -> Option<SessionSlot> {
        self.relay.on_accept(&mut self.context, &mut self.dispatcher.balancer, peer, listener, local)
    }

    /// A datagram of a client for a relay's listener: the session that it takes, a new one if
    /// need be, and by which attempt. None, and counted, when it is dropped.
    pub fn on_datagram(
        &mut self,
        client: Client,
        listener: &Arc<Listener>,
    ) -> Option<(SessionSlot, Attempt)> {
        self.relay.on_datagram(&mut self.context, &mut self.dispatcher.balancer, client, listener)
    }

    /// What the engine should do with a session.
    #[must_use]
    pub fn relay_interest(&self, session: SessionSlot) -> RelayInterest {
        self.relay.interest(session)
    }

    /// Who is at a session's one end, and which listener took it.
    #[must_use]
    pub fn relay_client(&self, session: SessionSlot) -> Option<(Client, &Arc<Listener>)> {
        self.relay.facts(session)
    }

    /// The target has accepted a session's connection.
    pub fn on_target_open(&mut self, session: SessionSlot) {
        self.relay.on_target_open(&self.context, session);
    }

    /// The attempt to reach a target has failed: the engine is then to connect to another one, or to
    /// close the session when none is left.
    pub fn on_target_failed(&mut self, session: SessionSlot, why: ConnectFailure) {
        self.relay.on_target_failed(&mut self.context, &mut self.dispatcher.balancer, session, why);
    }

    /// Bytes have been relayed.
    pub fn on_relayed(&mut self, session: SessionSlot, direction: Direction, count: usize) {
        self.relay.on_relayed(&self.context, session, direction, count);
    }

    /// A session's sockets are closed, as was asked for or because one of them has ended.
    pub fn on_session_closed(&mut self, session: SessionSlot, why: RelayCloseReason) {
        self.relay.on_session_closed(&self.context, &mut self.dispatcher.balancer, session, why);
    }

    /// Relay sessions.
    #[must_use]
    pub fn sessions_open(&self) -> u32 {
        self.relay.open_count()
    }

    /// Relay sessions of one listener.
    #[must_use]
    pub fn sessions_of(&self, listener: ListenerSlot) -> u32 {
        self.relay.open_of_listener(listener)
    }

    /// A relay's listener was closed, or opened: flows of a closed one end soon, connections go on.
    pub fn close_flows(&mut self, listener: ListenerSlot, closed: bool) {
        self.relay.close_listener(listener, closed.then_some(self.context.now));
    }
}
