//! The socket engine: epoll, recvmmsg and sendmmsg, one thread a shard.
//!
//! ```text
//!  epoll_wait ─► backend ready:  recvmmsg → on_response × n → sendmmsg (one call for all backends)
//!             ├► listener ready: recvmmsg → on_query   × n → sort by route and length → sendmmsg
//!             ├► mail: a snapshot, a listener, stop
//!             ├► pulse: nothing has happened for a while, or seems so
//!             └► forwards, connections: for a slice of time, what is left in the next turn
//!  on_tick, then sleep until the next deadline, or not at all if something is left
//! ```
//!
//! It owns sockets and buffers, and decides nothing about a packet: that is the shard's.

pub mod mailbox;
mod round;

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
use tracing::error;

use crate::base::addr::{BackendSlot, Client, ListenerSlot, Route};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::engine::datagram::deferred::DeferredAnswers;
use crate::engine::datagram::local_addresses::Locals;
use crate::engine::datagram::send_batch::SendBatch;
use crate::engine::datagram::sockets::{ListenerSocket, Sockets, resend};
use crate::engine::datagram::transparent;
use crate::engine::readiness::{Group, Rank, Ready, ReadySet};
use crate::engine::relay::udp::FlowListener;
use crate::engine::stream::{Connections, Out};
use crate::engine::sys::{Arrivals, Note, OutgoingDatagram};
use crate::engine::turn::{Round, Slice, Stage, Weight};
use crate::engine::{Message, Setup, clock};
use crate::model::Snapshot;
use crate::shard::Shard;
use crate::shard::verdict::Verdict;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::LiveState;

/// An idle shard still wakes this often: to take a new snapshot and to show that it lives.
const IDLE_MS: u16 = 250;
/// Ready sockets of DNS over UDP that are read in one turn, a batch of each.
const DATAGRAM_EVENTS: usize = 64;
/// Ready connections, or flows, of one round.
const EVENTS: usize = 256;
/// A datagram that the kernel had given to a socket when the socket was withdrawn is in it by then.
const LAST_DATAGRAMS: TickDelta = TickDelta::from_ms(10);
/// Room for the PROXY header of another server in front of a query that is offered to it, bytes.
const RESEND_ROOM: usize = 4_608;

/// One shard's loop and all that it owns.
#[derive(Debug)]
pub(crate) struct Engine {
    setup: Setup,
    live_state: Arc<LiveState>,
    feed: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    inbox: Receiver<Message>,
    wake: Arc<EventFd>,
    /// Goes off every [`IDLE_MS`], whatever happens. A wait with a time-out would set up a timer of
    /// its own for each: 0.12 us of the 3 that a packet takes which comes alone.
    pulse: TimerFd,
    shard: Shard,
    /// Sockets for DNS over UDP, the mailbox, and the other two sets.
    datagrams: ReadySet,
    /// Sockets for datagrams of forwards.
    forwarded: ReadySet,
    /// Sockets of connections.
    connected: ReadySet,
    /// The sets of these two that have something ready, and mail.
    forwarded_ready: bool,
    connected_ready: bool,
    has_mail: bool,
    round: Round,
    /// When DNS over UDP came last.
    last_datagram: Tick,
    /// When the shard has something to do, as of the last tick.
    due_at: Option<Tick>,
    sockets: Sockets,
    connections: Connections,
    locals: Locals,
    queries: Arrivals,
    responses: Arrivals,
    send_batch: SendBatch,
    /// Answers in `responses` that are not delivered yet.
    received: usize,
    /// Generation of the snapshot that sockets are open for.
    linked: u64,
    tidied: Tick,
    stopping: bool,
    /// It stops, and takes no more queries; what was on its way then is read by this time.
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
        let (forwarded, connected) = (ReadySet::new(EVENTS)?, ReadySet::new(EVENTS)?);
        datagrams.watch(&forwarded, Group::Forwarded)?;
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
            forwarded,
            connected,
            forwarded_ready: false,
            connected_ready: false,
            has_mail: false,
            round: Round::default(),
            last_datagram: Tick(0),
            due_at: None,
            sockets: Sockets::default(),
            connections: Connections::new(live_state.descriptors()),
            locals: Locals::new(),
            queries: Arrivals::new(batch),
            responses: Arrivals::new(batch),
            send_batch: SendBatch::new(batch),
            received: 0,
            linked: 0,
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

    /// Runs until told to stop. A panic loses what this shard had outstanding, is counted, and
    /// the shard goes on with the same sockets.
    pub(crate) fn run(mut self) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.serve())) {
            drop(panic);
            let lost = u64::from(self.shard.outstanding());
            let stats = &self.live_state.shards()[self.setup.index];
            stats.restarts.add(1);
            let restarts = stats.restarts.get();
            stats.dropped(DropReason::ShardRestart).add(lost);
            error!(shard = self.setup.index, lost, restarts, "shard panicked; starting it again");
            // Another key, so that no id sequence is ever repeated.
            let mut seed = self.setup.seed;
            for (byte, mix) in seed.iter_mut().zip(restarts.to_le_bytes()) {
                *byte ^= mix;
            }
            let snapshot = self.feed.load().clone();
            let rng = ShardRng::from_entropy(seed);
            self.shard = Shard::new(self.setup.index, self.live_state.clone(), snapshot, rng);
            self.locals.iter().for_each(|(slot, local)| self.shard.on_local(slot, local.ip));
            // What was on its way belonged to the old shard's claims, and so did the sockets
            // towards servers that it was about to forget.
            self.send_batch.queries.clear();
            self.send_batch.deliveries.clear();
            self.send_batch.refused.clear();
            self.received = 0;
            self.connections.drop_all();
            self.forwarded.forget();
            self.connected.forget();
            self.round.abandon();
            self.sockets.unlink_all_but(self.shard.snapshot(), &self.live_state.shards()[self.setup.index]);
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
            if self.forwarded_ready {
                self.serve_forwarded(Slice::begin(clock::now(), datagrams, self.last_datagram));
            }
            if self.has_round() {
                self.serve_connections(Slice::begin(clock::now(), datagrams, self.last_datagram));
            }
            self.tick(now);
            self.close_due(now);
            if ready > 0 && self.setup.busy_poll_us > 0 {
                busy_until = now + TickDelta::from_us(u64::from(self.setup.busy_poll_us));
            }
            if now.since(self.tidied) >= TickDelta::from_ms(u64::from(IDLE_MS)) {
                self.tidy(now);
            }
        }
    }

    /// Whether nothing is owed to anybody.
    fn is_idle(&self) -> bool {
        let is_idle = self.shard.outstanding() == 0 && self.shard.clients_open() == 0;
        is_idle && self.shard.sessions_open() == 0 && !self.connections.lingers() && self.round.is_free()
    }

    /// Whether something is left to do that no socket will tell of.
    fn has_work(&self) -> bool {
        self.round.stage() != Stage::Idle
            || !self.round.is_free()
            || self.has_mail
            || self.forwarded_ready
            || self.shard.pending() > 0
            || self.shard.resumable() > 0
            || self.connections.closed_count() > 0
    }

    /// Reads one batch of each socket for DNS over UDP that is ready, and notes what else is; says
    /// how many datagrams came.
    fn serve_datagrams(&mut self) -> usize {
        let mut count = 0;
        // Answers first: they free slots, and their deliveries must not mix with our own.
        for rank in [Rank::Answers, Rank::Clients, Rank::Others] {
            while let Some((ready, _)) = self.datagrams.next(rank) {
                match ready {
                    Ready::BackendSockets(route) => count += self.read_backend(route),
                    Ready::ListenerSocket(slot) => count += self.read_listener(slot),
                    Ready::Mail => self.has_mail = true,
                    // To be ready again, it only has to be read.
                    Ready::Pulse => drop(self.pulse.wait()),
                    Ready::Set(Group::Forwarded) => self.forwarded_ready = true,
                    Ready::Set(Group::Connections) => self.connected_ready = true,
                    Ready::TcpListenerSocket(_)
                    | Ready::Stream(_)
                    | Ready::RelaySession(..)
                    | Ready::Flow(_) => {}
                }
            }
            self.deliver();
        }
        count
    }

    /// Datagrams of forwards, both ways: a batch of each socket that is ready. Those that the slice has
    /// no time for are left for the next turn.
    fn serve_forwarded(&mut self, mut slice: Slice) {
        if self.forwarded.is_served() && !self.forwarded.wait(EpollTimeout::ZERO).is_ok_and(|count| count > 0)
        {
            self.forwarded_ready = false;
            return;
        }
        let mut is_over = false;
        for rank in [Rank::Answers, Rank::Clients] {
            while !is_over && let Some((ready, _)) = self.forwarded.next(rank) {
                match ready {
                    Ready::Flow(session) => {
                        let Self { connections, sockets, shard, locals, forwarded, .. } = self;
                        let listener_socket = |slot| sockets.listener_socket(slot);
                        connections.flows.read_flow(
                            forwarded.epoll(),
                            session,
                            listener_socket,
                            shard,
                            locals,
                        );
                    }
                    Ready::ListenerSocket(slot) => {
                        self.read_clients(slot);
                    }
                    Ready::Mail | Ready::Pulse | Ready::Set(_) | Ready::BackendSockets(_) => {}
                    Ready::TcpListenerSocket(_) | Ready::Stream(_) | Ready::RelaySession(..) => {}
                }
                is_over = slice.ends_with(Weight::Heavy, clock::now);
            }
        }
        let Self { connections, sockets, shard, .. } = self;
        connections.flows.deliver(|slot| sockets.listener_socket(slot), shard);
        self.forwarded_ready = !self.forwarded.is_served();
    }

    /// Does work of which single datagrams come, and sends these.
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
            Verdict::Deliver(to) | Verdict::Answer(to) => deferred.file(to, bytes),
            Verdict::Forward(_) | Verdict::Drop(_) | Verdict::Hold => {}
        });
        deferred.deliver(|slot| sockets.listener_socket(slot), shard);
        for (route, mut bytes) in refused {
            if self.sockets.server(route).is_some() && self.sockets.send_one(&self.shard, route, &bytes) {
                continue;
            }
            let length = bytes.len();
            bytes.resize(length + RESEND_ROOM, 0);
            resend(&mut self.shard, &self.sockets, route, &mut Packet::new(&mut bytes, 0, length));
        }
        done
    }

    fn sleep(&self, now: Tick) -> EpollTimeout {
        let ends_at = self.ends_at.filter(|at| *at > now);
        let due = [self.due_at, self.connections.next_close(), ends_at];
        let ms = due.into_iter().flatten().map(|at| at.since(now).as_ms_ceil()).min();
        // A longer wait is the pulse's to end.
        let ms = ms.and_then(|ms| u16::try_from(ms).ok()).filter(|ms| *ms < IDLE_MS);
        ms.map_or(EpollTimeout::NONE, EpollTimeout::from)
    }

    fn begin(&mut self, now: Tick) {
        let snapshot = self.feed.load();
        self.shard.begin_batch(now, snapshot);
        if snapshot.generation != self.linked {
            self.linked = snapshot.generation;
            self.sockets.open_backends(self.datagrams.epoll(), snapshot);
            self.sockets.revise(snapshot);
            self.connections.revise(snapshot);
        }
    }

    /// Reads one batch from a listener and sends on what comes of it; says how many came.
    fn read_listener(&mut self, slot: ListenerSlot) -> usize {
        let Some(Some(listener_socket)) = self.sockets.listener_sockets.get(slot.index()) else { return 0 };
        let note = listener_socket.note;
        let Ok(count) = self.queries.receive(listener_socket.socket.as_fd(), 0, note) else { return 0 };
        if self.shard.needs_prefetch() {
            let queries = &self.queries;
            let batch = (0..count).filter_map(|at| Some((queries.peer(at)?.ip, queries.message(at))));
            self.shard.prefetch(batch);
        }
        for at in 0..count {
            self.query(slot, note, at);
        }
        self.send_queries();
        // Answers of our own stand in `queries`, so they leave before the next batch arrives.
        self.send_batch.deliver(|slot| self.sockets.listener_socket(slot), &self.queries, &self.shard);
        count
    }

    /// The same of a forward's listener.
    fn read_clients(&mut self, slot: ListenerSlot) -> usize {
        let Some(Some(listener_socket)) = self.sockets.listener_sockets.get(slot.index()) else { return 0 };
        let flow_listener = FlowListener {
            listener: &listener_socket.listener,
            socket: &listener_socket.socket,
            note: listener_socket.note,
        };
        let (epoll, flows) = (self.forwarded.epoll(), &mut self.connections.flows);
        flows.read_clients(epoll, flow_listener, &mut self.shard, &mut self.locals)
    }

    /// Asks the shard about one query and files what is to be sent.
    fn query(&mut self, listener: ListenerSlot, note: Note, at: usize) {
        if self.queries.was_cut(at) {
            self.shard.drop(DropReason::Oversized);
            return;
        }
        // A datagram socket of these families has no other kind of peer.
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

    /// Reads one batch of a backend's answers; they are delivered when the buffer is full or all
    /// ready sockets have been read, so that one system call serves many backends. Says how many came.
    fn read_backend(&mut self, route: Route) -> usize {
        let server = self.sockets.server(route);
        if server.is_some() || self.responses.notes_peers() {
            // Those that wait have other things noted of them.
            self.deliver();
        }
        let Some(socket) = self.sockets.backend_sockets(route) else { return 0 };
        let note = if server.is_some() { Note::Peer } else { Note::Nothing };
        // An error is the ICMP message of an earlier query, reported once; what is behind it is
        // read in the next round.
        let Ok(count) = self.responses.receive(socket.as_fd(), self.received, note) else {
            return 0;
        };
        for at in self.received..self.received + count {
            if self.responses.was_cut(at) {
                self.shard.drop(DropReason::Oversized);
                continue;
            }
            if server.is_some() && self.responses.peer(at) != server {
                self.shard.drop(DropReason::ResponseForeign);
                continue;
            }
            let mut packet = self.responses.packet(at);
            match self.shard.on_response(route, &mut packet) {
                Verdict::Deliver(to) | Verdict::Answer(to) => {
                    let from = self.locals.local(to.local);
                    let (start, len) = (packet.start(), packet.len());
                    self.send_batch
                        .deliveries
                        .push((to.listener, OutgoingDatagram { at, start, len, to: Some(to.peer), from }));
                }
                // Asked again, because of the answer.
                Verdict::Forward(again) if self.sockets.send_one(&self.shard, again, packet.bytes()) => {}
                Verdict::Forward(again) => resend(&mut self.shard, &self.sockets, again, &mut packet),
                Verdict::Drop(_) | Verdict::Hold => {}
            }
        }
        self.received += count;
        if self.received == self.responses.capacity() {
            self.deliver();
        }
        count
    }

    /// Sends the answers that [`Engine::read_backend`] has gathered.
    fn deliver(&mut self) {
        self.received = 0;
        self.send_batch.deliver(|slot| self.sockets.listener_socket(slot), &self.responses, &self.shard);
    }

    /// Sends one listener's queries on to their backends.
    fn send_queries(&mut self) {
        let send_batch = &mut self.send_batch;
        // Equal routes and lengths become neighbours, the shorter behind the longer, as
        // UDP_SEGMENT wants them. Datagrams promise no order.
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
                &mut send_batch.departures,
                &mut send_batch.refused,
            );
            for at in send_batch.refused.drain(..) {
                let datagram = send_batch.datagrams[at];
                let mut packet = self.queries.packet_at(datagram.at, datagram.start, datagram.len);
                resend(&mut self.shard, &self.sockets, route, &mut packet);
            }
        }
        send_batch.queries.clear();
    }

    /// Time-outs, second tries, packets that were held back, published counts.
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

    /// Closes what is finished and opens what could not be opened before.
    fn tidy(&mut self, now: Tick) {
        let gone: Vec<BackendSlot> = self.shard.retired().collect();
        for slot in gone {
            self.sockets.unlink(slot);
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
        if self.sockets.incomplete {
            self.sockets.open_backends(self.datagrams.epoll(), self.shard.snapshot());
        }
        self.connections.look_after_closed();
        self.connections.retry(self.connected.epoll());
        self.due_at = self.shard.next_deadline();
        self.tidied = now;
    }
}
