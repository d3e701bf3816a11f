//! The socket engine: epoll, recvmmsg and sendmmsg, one thread a shard.
//!
//! ```text
//!  epoll_wait ─► backend ready:  recvmmsg → on_response × n → sendmmsg (one call for all backends)
//!             ├► listener ready: recvmmsg → on_query   × n → sort by route and length → sendmmsg
//!             ├► mail: a snapshot, a listener, stop
//!             └► forwards, connections: for a slice of time, what is left in the next turn
//!  on_tick, then sleep until the next deadline, or not at all if something is left
//! ```
//!
//! It owns sockets and buffers, and decides nothing about a packet: that is the shard's.

mod mail;
mod round;

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::{ArcSwap, Cache};
use crossbeam_channel::Receiver;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use tracing::error;

use super::doors::{Door, Sockets, resend};
use super::forward::udp::Mouth;
use super::locals::Locals;
use super::outbox::Outbox;
use super::ready::{Group, Rank, Ready, ReadySet};
use super::strays::Strays;
use super::streams::{Connections, Out};
use super::sys::{Arrivals, Note, Parcel};
use super::turn::{Round, Slice, Stage, Weight};
use super::{Message, Setup, clock, transparent};
use crate::addr::{BackendSlot, Client, ListenerSlot, Route};
use crate::config::snapshot::Snapshot;
use crate::live::Board;
use crate::packet::Packet;
use crate::rng::ShardRng;
use crate::shard::Shard;
use crate::shard::verdict::{DropReason, Verdict};
use crate::time::{Tick, TickDelta};

/// An idle shard still wakes this often: to take a new snapshot and to show that it lives.
const IDLE_MS: u16 = 250;
/// Ready sockets of DNS over UDP that are read in one turn, a batch of each.
const DATAGRAM_EVENTS: usize = 64;
/// Ready connections, or flows, of one round.
const EVENTS: usize = 256;
/// A datagram that the kernel had given to a socket when the socket was withdrawn is in it by then.
const LAST_DATAGRAMS: TickDelta = TickDelta::from_ms(10);
/// Room for the PROXY header of another server in front of a query that is offered to it, octets.
const RESEND_ROOM: usize = 4_608;

/// One shard's loop and all that it owns.
#[derive(Debug)]
pub(super) struct Engine {
    setup: Setup,
    board: Arc<Board>,
    feed: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    inbox: Receiver<Message>,
    wake: Arc<EventFd>,
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
    sockets: Sockets,
    connections: Connections,
    locals: Locals,
    queries: Arrivals,
    responses: Arrivals,
    outbox: Outbox,
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
    pub(super) fn new(
        setup: Setup,
        feed: Arc<ArcSwap<Snapshot>>,
        board: Arc<Board>,
        inbox: Receiver<Message>,
        wake: Arc<EventFd>,
    ) -> io::Result<Self> {
        let datagrams = ReadySet::new(DATAGRAM_EVENTS)?;
        let (forwarded, connected) = (ReadySet::new(EVENTS)?, ReadySet::new(EVENTS)?);
        datagrams.watch(&forwarded, Group::Forwarded)?;
        datagrams.watch(&connected, Group::Connections)?;
        datagrams.epoll().add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Mail.pack()))?;
        let rng = ShardRng::from_entropy(setup.seed);
        let shard = Shard::new(setup.index, board.clone(), feed.load_full(), rng);
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
            sockets: Sockets::default(),
            connections: Connections::new(board.descriptors()),
            locals: Locals::new(),
            queries: Arrivals::new(batch),
            responses: Arrivals::new(batch),
            outbox: Outbox::new(batch),
            received: 0,
            linked: 0,
            tidied: Tick(0),
            stopping: false,
            ends_at: None,
            ended: false,
            setup,
            board,
            inbox,
            wake,
        })
    }

    /// Runs until told to stop. A panic loses what this shard had outstanding, is counted, and
    /// the shard goes on with the same sockets.
    pub(super) fn run(mut self) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.serve())) {
            drop(panic);
            let lost = u64::from(self.shard.outstanding());
            let page = &self.board.shards()[self.setup.index];
            let restarts = page.restarts.fetch_add(1, Relaxed) + 1;
            page.dropped(DropReason::ShardRestart).add(lost);
            error!(shard = self.setup.index, lost, restarts, "shard panicked; starting it again");
            // Another key, so that no id sequence is ever repeated.
            let mut seed = self.setup.seed;
            for (octet, mix) in seed.iter_mut().zip(u64::from(restarts).to_le_bytes()) {
                *octet ^= mix;
            }
            let snapshot = self.feed.load().clone();
            let rng = ShardRng::from_entropy(seed);
            self.shard = Shard::new(self.setup.index, self.board.clone(), snapshot, rng);
            self.locals.iter().for_each(|(slot, local)| self.shard.on_local(slot, local.ip));
            // What was on its way belonged to the old shard's claims, and so did the sockets
            // towards servers that it was about to forget.
            self.outbox.forwards.clear();
            self.outbox.deliveries.clear();
            self.outbox.refused.clear();
            self.received = 0;
            self.connections.drop_all();
            self.forwarded.forget();
            self.connected.forget();
            self.round.abandon();
            self.sockets.unlink_all_but(self.shard.snapshot(), &self.board.shards()[self.setup.index]);
        }
    }

    fn serve(&mut self) {
        let mut busy_until = Tick(0);
        let mut now = clock::now();
        self.begin(now);
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
            self.serve_connections(Slice::begin(clock::now(), datagrams, self.last_datagram));
            self.tick();
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
        let is_idle = self.shard.outstanding() == 0 && self.shard.streams_open() == 0;
        is_idle && self.shard.passages_open() == 0 && !self.connections.lingers() && self.round.is_free()
    }

    /// Whether something is left to do that no socket will tell of.
    fn has_work(&self) -> bool {
        self.round.stage() != Stage::Idle
            || !self.round.is_free()
            || self.has_mail
            || self.forwarded_ready
            || self.shard.chores() > 0
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
                    Ready::Link(route) => count += self.read_link(route),
                    Ready::Door(slot) => count += self.read_door(slot),
                    Ready::Mail => self.has_mail = true,
                    Ready::Set(Group::Forwarded) => self.forwarded_ready = true,
                    Ready::Set(Group::Connections) => self.connected_ready = true,
                    Ready::Gate(_) | Ready::Stream(_) | Ready::Passage(..) | Ready::Flow(_) => {}
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
                    Ready::Flow(passage) => {
                        let Self { connections, sockets, shard, locals, forwarded, .. } = self;
                        let door = |slot| sockets.door(slot);
                        connections.flows.read_flow(forwarded.epoll(), passage, door, shard, locals);
                    }
                    Ready::Door(slot) => {
                        self.read_mouth(slot);
                    }
                    Ready::Mail | Ready::Set(_) | Ready::Link(_) => {}
                    Ready::Gate(_) | Ready::Stream(_) | Ready::Passage(..) => {}
                }
                is_over = slice.ends_with(Weight::Heavy, clock::now);
            }
        }
        let Self { connections, sockets, shard, .. } = self;
        connections.flows.deliver(|slot| sockets.door(slot), shard);
        self.forwarded_ready = !self.forwarded.is_served();
    }

    /// Does work of which single datagrams come, and sends these.
    fn with_strays<T>(
        &mut self,
        work: impl FnOnce(&mut Connections, &mut ReadySet, &mut Shard, Out<'_>) -> T,
    ) -> T {
        let Self { shard, sockets, connections, locals, responses, outbox, connected, .. } = self;
        let mut refused: Vec<(Route, Vec<u8>)> = Vec::new();
        let mut strays = Strays::new(outbox, responses, locals);
        let done = work(connections, connected, shard, &mut |verdict, octets| match verdict {
            Verdict::Forward(route) if !sockets.send_connected(route, octets) => {
                refused.push((route, octets.to_vec()));
            }
            Verdict::Deliver(to) | Verdict::Answer(to) => strays.file(to, octets),
            Verdict::Forward(_) | Verdict::Drop(_) | Verdict::Hold => {}
        });
        strays.deliver(|slot| sockets.door(slot), shard);
        for (route, mut octets) in refused {
            if self.sockets.server(route).is_some() && self.sockets.send_one(&self.shard, route, &octets) {
                continue;
            }
            let length = octets.len();
            octets.resize(length + RESEND_ROOM, 0);
            resend(&mut self.shard, &self.sockets, route, &mut Packet::new(&mut octets, 0, length));
        }
        done
    }

    fn sleep(&self, now: Tick) -> EpollTimeout {
        let ends_at = self.ends_at.filter(|at| *at > now);
        let due = [self.shard.next_deadline(), self.connections.next_close(), ends_at];
        let ms = due.into_iter().flatten().map(|at| at.since(now).as_ms_ceil()).min();
        let ms = ms.unwrap_or(u64::from(IDLE_MS));
        EpollTimeout::from(u16::try_from(ms).unwrap_or(IDLE_MS).min(IDLE_MS))
    }

    fn begin(&mut self, now: Tick) {
        let snapshot = self.feed.load();
        self.shard.begin_batch(now, snapshot);
        if snapshot.generation != self.linked {
            self.linked = snapshot.generation;
            self.sockets.link_all(self.datagrams.epoll(), snapshot);
            self.sockets.revise(snapshot);
            self.connections.revise(snapshot);
        }
    }

    /// Reads one batch from a listener and sends on what comes of it; says how many came.
    fn read_door(&mut self, slot: ListenerSlot) -> usize {
        let Some(Some(door)) = self.sockets.doors.get(slot.index()) else { return 0 };
        let note = door.note;
        let Ok(count) = self.queries.receive(door.socket.as_fd(), 0, note) else { return 0 };
        for at in 0..count {
            self.query(slot, note, at);
        }
        self.forward();
        // Answers of our own stand in `queries`, so they leave before the next batch arrives.
        self.outbox.deliver(|slot| self.sockets.door(slot), &self.queries, &self.shard);
        count
    }

    /// The same of a forward's listener.
    fn read_mouth(&mut self, slot: ListenerSlot) -> usize {
        let Some(Some(door)) = self.sockets.doors.get(slot.index()) else { return 0 };
        let mouth = Mouth { listener: &door.listener, socket: &door.socket, note: door.note };
        let (epoll, flows) = (self.forwarded.epoll(), &mut self.connections.flows);
        flows.read_mouth(epoll, mouth, &mut self.shard, &mut self.locals)
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
        let verdict = self.shard.on_query(Client { peer, listener, local, stream: None }, &mut packet);
        let parcel = Parcel { at, start: packet.start(), len: packet.len(), to: None, from: None };
        match verdict {
            Verdict::Forward(route) => self.outbox.forwards.push((route, parcel)),
            Verdict::Answer(to) | Verdict::Deliver(to) => {
                let from = self.locals.local(to.local);
                let parcel = Parcel { to: Some(to.peer), from, ..parcel };
                self.outbox.deliveries.push((to.listener, parcel));
            }
            Verdict::Drop(_) | Verdict::Hold => {}
        }
    }

    /// Reads one batch of a backend's answers; they are delivered when the buffer is full or all
    /// ready sockets have been read, so that one system call serves many backends. Says how many came.
    fn read_link(&mut self, route: Route) -> usize {
        let server = self.sockets.server(route);
        if server.is_some() || self.responses.notes_peers() {
            // Those that wait have other things noted of them.
            self.deliver();
        }
        let Some(socket) = self.sockets.link(route) else { return 0 };
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
                    self.outbox
                        .deliveries
                        .push((to.listener, Parcel { at, start, len, to: Some(to.peer), from }));
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

    /// Sends the answers that [`Engine::read_link`] has gathered.
    fn deliver(&mut self) {
        self.received = 0;
        self.outbox.deliver(|slot| self.sockets.door(slot), &self.responses, &self.shard);
    }

    /// Sends one listener's queries on to their backends.
    fn forward(&mut self) {
        let outbox = &mut self.outbox;
        // Equal routes and lengths become neighbours, the shorter behind the longer, as
        // UDP_SEGMENT wants them. Datagrams promise no order.
        outbox.forwards.sort_unstable_by_key(|(route, parcel)| {
            (route.backend.0, route.socket.0, std::cmp::Reverse(parcel.len))
        });
        let mut from = 0;
        while let Some((route, _)) = outbox.forwards.get(from).copied() {
            outbox.parcels.clear();
            outbox.parcels.extend(outbox.forwards[from..].iter().take_while(|f| f.0 == route).map(|f| f.1));
            from += outbox.parcels.len();
            if let Some(server) = self.sockets.server(route) {
                transparent::address(&mut outbox.parcels, server, route, &self.queries, &self.shard);
            }
            self.sockets.send(
                route,
                &self.queries,
                &outbox.parcels,
                &mut outbox.departures,
                &mut outbox.refused,
            );
            for at in outbox.refused.drain(..) {
                let parcel = outbox.parcels[at];
                let mut packet = self.queries.packet_at(parcel.at, parcel.start, parcel.len);
                resend(&mut self.shard, &self.sockets, route, &mut packet);
            }
        }
        outbox.forwards.clear();
    }

    /// Time-outs, second tries, packets that were held back, published counts.
    fn tick(&mut self) {
        self.with_strays(|_, _, shard, out| shard.on_tick(out));
    }

    /// Closes what is finished and opens what could not be opened before.
    fn tidy(&mut self, now: Tick) {
        let gone: Vec<BackendSlot> = self.shard.retired().collect();
        for slot in gone {
            self.sockets.unlink(slot);
            self.shard.detach(slot);
        }
        for door in &mut self.sockets.doors {
            let owed = |d: &Door| {
                d.closes_at.is_none_or(|at| at > now) || self.shard.passages_of(d.listener.slot) > 0
            };
            if door.as_ref().is_some_and(|d| !owed(d)) {
                *door = None;
            }
        }
        if self.sockets.incomplete {
            self.sockets.link_all(self.datagrams.epoll(), self.shard.snapshot());
        }
        self.connections.look_after_closed();
        self.connections.retry(self.connected.epoll());
        self.tidied = now;
    }
}
