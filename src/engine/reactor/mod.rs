//! The socket engine: epoll, recvmmsg and sendmmsg, one thread a shard.
//!
//! ```text
//!  epoll_wait ─► backend ready:  recvmmsg → on_response × n → sendmmsg (one call for all backends)
//!             ├► listener ready: recvmmsg → on_query   × n → sort by route and length → sendmmsg
//!             ├► mailbox: a snapshot, a listener, stop
//!             ├► pulse: a timer that limits each sleep
//!             └► relays, connections: for a slice of time; the rest waits for the next turn
//!  on_tick, then sleep until the next deadline, or not at all if work is left
//! ```
//!
//! It owns sockets and buffers. It decides nothing about a packet: the shard does.

pub mod mailbox;
mod serve;

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use crossbeam_channel::Receiver;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tracing::{error, warn};

use crate::base::addr::{BackendSlot, Client, ListenerSlot, Route};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::engine::datagram::deferred::DeferredAnswers;
use crate::engine::datagram::local_addresses::Locals;
use crate::engine::datagram::send_batch::SendBatch;
use crate::engine::datagram::sockets::{ListenerSocket, Sockets};
use crate::engine::datagram::transparent;
use crate::engine::readiness::{Group, Priority, Ready, ReadySet};
use crate::engine::relay::udp::FlowListener;
use crate::engine::schedule::{Round, Slice, Stage, Weight};
use crate::engine::stream::{Connections, Out};
use crate::engine::sys::{Note, OutgoingDatagram, ReceiveBuffers};
use crate::engine::{Message, Setup, clock};
use crate::model::Snapshot;
use crate::shard::Shard;
use crate::shard::verdict::Verdict;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::LiveState;

/// An idle shard wakes this often, milliseconds, to take a new snapshot and to show that it is
/// alive.
const IDLE_MS: u16 = 250;
/// Ready UDP sockets that are read in one turn, a batch of each.
const DATAGRAM_EVENTS: usize = 64;
/// Ready connections or flows of one round.
const EVENTS: usize = 256;
/// How long a withdrawn socket may still receive datagrams that the kernel had already steered to
/// it.
const LAST_DATAGRAMS: TickDelta = TickDelta::from_ms(10);
/// Headroom for another backend's PROXY header when a refused query is offered to it, bytes.
const RESEND_ROOM: usize = 4_608;

/// One shard's event loop and everything it owns.
#[derive(Debug)]
pub(crate) struct Engine {
    setup: Setup,
    live_state: Arc<LiveState>,
    feed: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    inbox: Receiver<Message>,
    wake: Arc<EventFd>,
    /// Expires every [`IDLE_MS`], whatever happens. A wait with a time-out would set up a timer each
    /// time: 0.12 us of the 3 us that a single packet takes.
    pulse: TimerFd,
    shard: Shard,
    /// DNS over UDP, the mailbox, and the two sets below.
    datagrams: ReadySet,
    /// Datagrams of relays.
    relay_datagrams: ReadySet,
    /// Connections.
    connected: ReadySet,
    /// Which of these sets have ready sockets, and whether there are messages.
    relay_ready: bool,
    connected_ready: bool,
    has_mail: bool,
    round: Round,
    /// When DNS over UDP was last received.
    last_datagram: Tick,
    /// The next deadline of the shard, as of the last tick.
    due_at: Option<Tick>,
    sockets: Sockets,
    connections: Connections,
    locals: Locals,
    queries: ReceiveBuffers,
    responses: ReceiveBuffers,
    send_batch: SendBatch,
    /// Answers in `responses` that are not sent yet.
    received: usize,
    /// The generation of the snapshot that sockets are open for.
    opened_generation: u64,
    tidied: Tick,
    stopping: bool,
    /// Set when the shard stops and accepts no more queries: when the last datagrams have been
    /// read.
    ends_at: Option<Tick>,
    ended: bool,
}

impl Engine {
    pub(crate) fn new(
        setup: Setup,
        feed: Arc<ArcSwap<Snapshot>>,
        live_state: Arc<LiveState>,
        inbox: Receiver<Message>,
        wake: Arc<EventFd>,
    ) -> io::Result<Self> {
        let datagrams = ReadySet::new(DATAGRAM_EVENTS)?;
        let (relay_datagrams, connected) = (ReadySet::new(EVENTS)?, ReadySet::new(EVENTS)?);
        datagrams.watch(&relay_datagrams, Group::RelayDatagrams)?;
        datagrams.watch(&connected, Group::Connections)?;
        datagrams.epoll().add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Mail.pack()))?;
        let pulse =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let idle = TimeSpec::from_duration(Duration::from_millis(IDLE_MS.into()));
        pulse.set(Expiration::Interval(idle), TimerSetTimeFlags::empty())?;
        datagrams.epoll().add(&pulse, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Pulse.pack()))?;
        let rng = ShardRng::from_entropy(setup.seed);
        let shard = Shard::new(setup.index, live_state.clone(), feed.load_full(), rng);
        let batch = setup.batch_packets.clamp(1, 1024);
        Ok(Self {
            feed: Cache::new(feed),
            shard,
            datagrams,
            relay_datagrams,
            connected,
            relay_ready: false,
            connected_ready: false,
            has_mail: false,
            round: Round::default(),
            last_datagram: Tick(0),
            due_at: None,
            sockets: Sockets::default(),
            connections: Connections::new(live_state.descriptors()),
            locals: Locals::new(),
            queries: ReceiveBuffers::new(batch),
            responses: ReceiveBuffers::new(batch),
            send_batch: SendBatch::new(batch),
            received: 0,
            opened_generation: 0,
            tidied: Tick(0),
            stopping: false,
            ends_at: None,
            ended: false,
            setup,
            live_state,
            inbox,
            wake,
            pulse,
        })
    }

    /// Runs until stopped. A panic loses the outstanding queries, is counted, and the shard
    /// continues with the same sockets of listeners. Those towards servers are replaced: what they
    /// still receive would be foreign to the new shard.
    pub(crate) fn run(mut self) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.serve())) {
            drop(panic);
            let lost = u64::from(self.shard.outstanding());
            let stats = &self.live_state.shards()[self.setup.index];
            stats.restarts.add(1);
            let restarts = stats.restarts.get();
            stats.dropped(DropReason::ShardRestart).add(lost);
            error!(shard = self.setup.index, lost, restarts, "shard panicked; restarting it");
            // Another seed, so that no sequence of ids is repeated.
            let mut seed = self.setup.seed;
            for (byte, mix) in seed.iter_mut().zip(restarts.to_le_bytes()) {
                *byte ^= mix;
            }
            let snapshot = self.feed.load().clone();
            let rng = ShardRng::from_entropy(seed);
            self.shard = Shard::new(self.setup.index, self.live_state.clone(), snapshot, rng);
            self.locals.iter().for_each(|(slot, local)| self.shard.on_local(slot, local.ip));
            // Both refer to slots of the lost shard, and its pending closes are lost as well.
            self.send_batch.queries.clear();
            self.send_batch.deliveries.clear();
            self.send_batch.refused.clear();
            self.received = 0;
            self.connections.drop_all();
            // Which of them were read to their end is not known.
            self.sockets.each(|ready| self.datagrams.keep(ready));
            self.relay_datagrams.forget();
            self.connected.forget();
            self.round.abandon();
            self.sockets
                .close_removed_backends(self.shard.snapshot(), &self.live_state.shards()[self.setup.index]);
            self.sockets.close_backends();
            self.opened_generation = 0;
        }
    }

    fn serve(&mut self) {
        let mut busy_until = Tick(0);
        let mut now = clock::now();
        self.begin(now);
        self.due_at = self.shard.next_deadline();
        while !(self.ended || self.ends_at.is_some_and(|at| now >= at) && self.is_idle()) {
            let timeout =
                if now < busy_until || self.has_work() { EpollTimeout::ZERO } else { self.sleep(now) };
            let ready = match self.datagrams.wait(timeout) {
                Ok(ready) => ready,
                Err(e) => {
                    error!(shard = self.setup.index, "epoll_wait: {e}");
                    return;
                }
            };
            now = clock::now();
            self.begin(now);
            let datagrams = self.serve_datagrams();
            if datagrams > 0 {
                self.last_datagram = now;
            }
            if self.relay_ready {
                self.serve_relay_datagrams(Slice::begin(clock::now(), datagrams, self.last_datagram));
            }
            if self.has_round() {
                self.serve_connections(Slice::begin(clock::now(), datagrams, self.last_datagram));
            }
            self.tick(now);
            self.connections.resume_tcp_listeners(self.connected.epoll(), &mut self.shard);
            self.close_due(now);
            if ready > 0 && self.setup.busy_poll_us > 0 {
                busy_until = now + TickDelta::from_us(u64::from(self.setup.busy_poll_us));
            }
            if now.since(self.tidied) >= TickDelta::from_ms(u64::from(IDLE_MS)) {
                self.tidy(now);
            }
        }
    }

    /// Returns whether nothing is outstanding.
    fn is_idle(&self) -> bool {
        let is_idle = self.shard.outstanding() == 0 && self.shard.clients_open() == 0;
        is_idle && self.shard.sessions_open() == 0 && !self.connections.is_draining() && self.round.is_free()
    }

    /// Returns whether work is left that no socket event announces.
    fn has_work(&self) -> bool {
        self.round.stage() != Stage::Idle
            || !self.round.is_free()
            || self.has_mail
            || self.relay_ready
            || self.shard.pending() > 0
            || self.shard.resumable() > 0
            || self.connections.closed_count() > 0
    }

    /// Reads one batch of each ready UDP socket, and notes which other sets are ready. Returns the
    /// number of datagrams.
    fn serve_datagrams(&mut self) -> usize {
        let mut count = 0;
        // Responses first: they free slots, and their answers must not mix with the listeners'.
        for priority in [Priority::Responses, Priority::Clients, Priority::Others] {
            while let Some((ready, _)) = self.datagrams.next(priority) {
                match ready {
                    Ready::BackendSockets(route) => count += self.read_backend(route),
                    Ready::ListenerSocket(slot) => count += self.read_listener(slot),
                    Ready::Mail => self.has_mail = true,
                    // To be ready again, it only has to be read.
                    Ready::Pulse => drop(self.pulse.wait()),
                    Ready::Set(Group::RelayDatagrams) => self.relay_ready = true,
                    Ready::Set(Group::Connections) => self.connected_ready = true,
                    Ready::TcpListenerSocket(_)
                    | Ready::ClientConnection(_)
                    | Ready::BackendConnection(..)
                    | Ready::RelaySession(..)
                    | Ready::Flow(..) => {}
                }
            }
            self.deliver();
        }
        count
    }

    /// Reads a batch of each ready relay socket, in both directions. What does not fit the slice
    /// waits for the next turn.
    fn serve_relay_datagrams(&mut self, mut slice: Slice) {
        if self.relay_datagrams.is_served()
            && !self.relay_datagrams.wait(EpollTimeout::ZERO).is_ok_and(|count| count > 0)
        {
            self.relay_ready = false;
            return;
        }
        let mut is_over = false;
        for priority in [Priority::Responses, Priority::Clients] {
            while !is_over && let Some((ready, _)) = self.relay_datagrams.next(priority) {
                match ready {
                    Ready::Flow(session, attempt) => {
                        let Self { connections, sockets, shard, locals, relay_datagrams, .. } = self;
                        let listener_socket = |slot| sockets.listener_socket(slot);
                        connections.flows.read_flow(
                            relay_datagrams.epoll(),
                            (session, attempt),
                            listener_socket,
                            shard,
                            locals,
                        );
                    }
                    Ready::ListenerSocket(slot) => {
                        self.read_clients(slot);
                    }
                    Ready::Mail | Ready::Pulse | Ready::Set(_) | Ready::BackendSockets(_) => {}
                    Ready::TcpListenerSocket(_) | Ready::ClientConnection(_) => {}
                    Ready::BackendConnection(..) | Ready::RelaySession(..) => {}
                }
                is_over = slice.ends_with(Weight::Heavy, clock::now);
            }
        }
        let Self { connections, sockets, shard, .. } = self;
        connections.flows.deliver(|slot| sockets.listener_socket(slot), shard);
        self.relay_ready = !self.relay_datagrams.is_served();
    }

    /// Does work that produces single datagrams, and sends these.
    fn with_deferred<T>(
        &mut self,
        work: impl FnOnce(&mut Connections, &mut ReadySet, &mut Shard, Out<'_>) -> T,
    ) -> T {
        let Self { shard, sockets, connections, locals, responses, send_batch, connected, .. } = self;
        let mut refused: Vec<(Route, Vec<u8>)> = Vec::new();
        let mut deferred = DeferredAnswers::new(send_batch, responses, locals);
        let done = work(connections, connected, shard, &mut |verdict, bytes| match verdict {
            Verdict::Forward(route) if !sockets.send_connected(route, bytes) => {
                refused.push((route, bytes.to_vec()));
            }
            Verdict::Deliver(to) | Verdict::Answer(to) => deferred.push(to, bytes),
            Verdict::Forward(_) | Verdict::Drop(_) | Verdict::Hold => {}
        });
        deferred.deliver(|slot| sockets.listener_socket(slot), shard);
        for (route, mut bytes) in refused {
            if self.sockets.server(route).is_some() && self.sockets.send_one(&self.shard, route, &bytes) {
                continue;
            }
            let length = bytes.len();
            bytes.resize(length + RESEND_ROOM, 0);
            let mut packet = Packet::new(&mut bytes, 0, length);
            self.shard.on_unsent(route, &mut packet, |shard, route, bytes| {
                self.sockets.send_one(shard, route, bytes)
            });
        }
        done
    }

    fn sleep(&self, now: Tick) -> EpollTimeout {
        let ends_at = self.ends_at.filter(|at| *at > now);
        let due = [self.due_at, self.connections.next_close(), self.connections.next_accept(), ends_at];
        let ms = due.into_iter().flatten().map(|at| at.since(now).as_ms_ceil()).min();
        // A longer wait is the pulse's to end.
        let ms = ms.and_then(|ms| u16::try_from(ms).ok()).filter(|ms| *ms < IDLE_MS);
        ms.map_or(EpollTimeout::NONE, EpollTimeout::from)
    }

    fn begin(&mut self, now: Tick) {
        let snapshot = self.feed.load();
        self.shard.begin_batch(now, snapshot);
        self.locals.begin_batch(now);
        if snapshot.generation != self.opened_generation {
            self.opened_generation = snapshot.generation;
            self.sockets.open_backends(self.datagrams.epoll(), snapshot);
            self.sockets.revise(snapshot);
            self.connections.revise(snapshot);
        }
    }

    /// Reads one batch of a listener and sends the outcome. Returns the number of datagrams.
    fn read_listener(&mut self, slot: ListenerSlot) -> usize {
        let Some(Some(listener_socket)) = self.sockets.listener_sockets.get(slot.index()) else { return 0 };
        let note = listener_socket.note;
        let received = self.queries.receive(listener_socket.socket.as_fd(), 0, note);
        if has_more(&received, self.queries.capacity()) && listener_socket.listener.service.relay().is_none()
        {
            self.datagrams.keep(Ready::ListenerSocket(slot));
        }
        let Ok(count) = received else { return 0 };
        if self.shard.needs_prefetch() {
            let queries = &self.queries;
            let batch = (0..count).filter_map(|at| Some((queries.peer(at)?.ip, queries.message(at))));
            self.shard.prefetch(batch);
        }
        for at in 0..count {
            self.query(slot, note, at);
        }
        self.send_queries();
        // Our own answers lie in `queries`, so they leave before the next batch arrives.
        self.send_batch.deliver(|slot| self.sockets.listener_socket(slot), &self.queries, &self.shard);
        count
    }

    /// Does the same for a relay's listener.
    fn read_clients(&mut self, slot: ListenerSlot) -> usize {
        let Some(Some(listener_socket)) = self.sockets.listener_sockets.get(slot.index()) else { return 0 };
        let flow_listener = FlowListener {
            listener: &listener_socket.listener,
            socket: &listener_socket.socket,
            note: listener_socket.note,
        };
        let (epoll, flows) = (self.relay_datagrams.epoll(), &mut self.connections.flows);
        flows.read_clients(epoll, flow_listener, &mut self.shard, &mut self.locals)
    }

    /// Passes one query to the shard and queues the result.
    fn query(&mut self, listener: ListenerSlot, note: Note, at: usize) {
        if self.queries.was_cut(at) {
            self.shard.drop(DropReason::Oversized);
            return;
        }
        // Sockets of these families have no other kind of peer.
        let Some(peer) = self.queries.peer(at) else { return };
        let local = if note == Note::PeerAndLocal { self.queries.local(at) } else { None };
        let Some(local) = self.locals.slot_for(local, &mut self.shard) else { return };
        let mut packet = self.queries.packet(at);
        let verdict = self.shard.on_query(Client { peer, listener, local, connection: None }, &mut packet);
        let datagram =
            OutgoingDatagram { at, start: packet.start(), len: packet.len(), to: None, from: None };
        match verdict {
            Verdict::Forward(route) => self.send_batch.queries.push((route, datagram)),
            Verdict::Answer(to) | Verdict::Deliver(to) => {
                let from = self.locals.local(to.local);
                let datagram = OutgoingDatagram { to: Some(to.peer), from, ..datagram };
                self.send_batch.deliveries.push((to.listener, datagram));
            }
            Verdict::Drop(_) | Verdict::Hold => {}
        }
    }

    /// Reads one batch of a backend's responses. The answers are sent when the buffer is full or
    /// all ready sockets are read, so that one call serves many backends. Returns the number of
    /// datagrams.
    fn read_backend(&mut self, route: Route) -> usize {
        let server = self.sockets.server(route);
        if server.is_some() || self.responses.notes_peers() {
            // The pending ones were received with other metadata.
            self.deliver();
        }
        let Some(socket) = self.sockets.backend_sockets(route) else { return 0 };
        let note = if server.is_some() { Note::Peer } else { Note::Nothing };
        let received = self.responses.receive(socket.as_fd(), self.received, note);
        if has_more(&received, self.responses.capacity() - self.received) {
            self.datagrams.keep(Ready::BackendSockets(route));
        }
        let Ok(count) = received else { return 0 };
        let mut may_redraw = false;
        for at in self.received..self.received + count {
            if server.is_some() && self.responses.peer(at) != server {
                self.shard.on_stranger(route);
                may_redraw = true;
                continue;
            }
            let was_cut = self.responses.was_cut(at);
            let mut packet = self.responses.packet(at);
            let verdict = if was_cut {
                self.shard.on_cut_response(route, &mut packet)
            } else {
                self.shard.on_response(route, &mut packet)
            };
            match verdict {
                Verdict::Deliver(to) | Verdict::Answer(to) => {
                    let from = self.locals.local(to.local);
                    let (start, len) = (packet.start(), packet.len());
                    self.send_batch
                        .deliveries
                        .push((to.listener, OutgoingDatagram { at, start, len, to: Some(to.peer), from }));
                }
                // Sent again, to another backend.
                Verdict::Forward(again) if self.sockets.send_one(&self.shard, again, packet.bytes()) => {}
                Verdict::Forward(again) => {
                    self.shard.on_unsent(again, &mut packet, |shard, route, bytes| {
                        self.sockets.send_one(shard, route, bytes)
                    });
                }
                Verdict::Drop(DropReason::ResponseForeign | DropReason::ResponseMismatch) => {
                    may_redraw = true;
                }
                Verdict::Drop(_) | Verdict::Hold => {}
            }
        }
        if may_redraw {
            self.redraw();
        }
        self.received += count;
        if self.received == self.responses.capacity() {
            self.deliver();
        }
        count
    }

    /// Opens new sockets for backends whose answers somebody seems to guess.
    #[cold]
    fn redraw(&mut self) {
        while let Some(redraw) = self.shard.next_redraw() {
            let snapshot = Arc::clone(self.shard.snapshot());
            let Some(backend) = snapshot.backend(redraw.backend) else { continue };
            match self.sockets.redraw(self.datagrams.epoll(), backend, &redraw) {
                Ok(()) => self.shard.redrawn(&redraw),
                // Tried again with the next burst.
                Err(e) => warn!(server = backend.name, "cannot open new sockets: {e}"),
            }
        }
    }

    /// Sends the answers that [`Engine::read_backend`] has gathered.
    fn deliver(&mut self) {
        self.received = 0;
        self.send_batch.deliver(|slot| self.sockets.listener_socket(slot), &self.responses, &self.shard);
    }

    /// Sends one listener's queries to their backends.
    fn send_queries(&mut self) {
        let send_batch = &mut self.send_batch;
        // Equal routes and lengths become neighbours, shorter after longer, as UDP_SEGMENT needs
        // them. UDP promises no order.
        send_batch.queries.sort_unstable_by_key(|(route, datagram)| {
            (route.backend.0, route.socket.number(), std::cmp::Reverse(datagram.len))
        });
        let mut from = 0;
        while let Some((route, _)) = send_batch.queries.get(from).copied() {
            send_batch.datagrams.clear();
            send_batch
                .datagrams
                .extend(send_batch.queries[from..].iter().take_while(|f| f.0 == route).map(|f| f.1));
            from += send_batch.datagrams.len();
            if let Some(server) = self.sockets.server(route) {
                transparent::address(&mut send_batch.datagrams, server, route, &self.queries, &self.shard);
            }
            self.sockets.send(
                route,
                &self.queries,
                &send_batch.datagrams,
                &mut send_batch.send_buffers,
                &mut send_batch.refused,
            );
            for at in send_batch.refused.drain(..) {
                let datagram = send_batch.datagrams[at];
                let mut packet = self.queries.packet_at(datagram.at, datagram.start, datagram.len);
                self.shard.on_unsent(route, &mut packet, |shard, route, bytes| {
                    self.sockets.send_one(shard, route, bytes)
                });
            }
        }
        send_batch.queries.clear();
    }

    /// Handles time-outs, retries and delayed packets, and publishes counters.
    fn tick(&mut self, now: Tick) {
        self.due_at = self.shard.next_deadline();
        if self.due_at.is_some_and(|at| at <= now) {
            self.with_deferred(|_, _, shard, out| shard.on_tick(out));
            self.due_at = self.shard.next_deadline();
        } else {
            // Most turns: nothing is due.
            self.shard.publish();
        }
    }

    /// Closes what is finished, and opens what could not be opened before.
    fn tidy(&mut self, now: Tick) {
        let gone: Vec<BackendSlot> = self.shard.retired().collect();
        for slot in gone {
            self.sockets.close_backend(slot);
            self.shard.detach(slot);
        }
        for listener_socket in &mut self.sockets.listener_sockets {
            let owed = |d: &ListenerSocket| {
                d.closes_at.is_none_or(|at| at > now) || self.shard.sessions_of(d.listener.slot) > 0
            };
            if listener_socket.as_ref().is_some_and(|d| !owed(d)) {
                *listener_socket = None;
            }
        }
        self.shard.calm_spoofing();
        self.sockets.close_drained(now);
        if self.sockets.incomplete {
            self.sockets.open_backends(self.datagrams.epoll(), self.shard.snapshot());
        }
        self.connections.begin_draining_checks();
        self.connections.retry(self.connected.epoll());
        self.due_at = self.shard.next_deadline();
        self.tidied = now;
    }
}

/// Returns whether a socket may hold more than was received: the batch was full, or there was an
/// error in front of the datagrams. That is the ICMP message for an earlier query, reported once.
fn has_more(received: &io::Result<usize>, room: usize) -> bool {
    received.as_ref().map_or_else(|e| e.kind() != io::ErrorKind::WouldBlock, |count| *count == room)
}
