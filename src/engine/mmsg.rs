//! The socket engine: epoll, recvmmsg and sendmmsg, one thread a shard.
//!
//! ```text
//!  epoll_wait ─► listener ready: recvmmsg → on_query   × n → sort by route and length → sendmmsg
//!             ├► backend ready:  recvmmsg → on_response × n → sendmmsg (one call for all backends)
//!             └► mail: a snapshot, a listener, stop
//!  on_tick, then sleep until the next deadline
//! ```
//!
//! It owns sockets and buffers, and decides nothing about a packet: that is the shard's.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::{ArcSwap, Cache};
use crossbeam_channel::Receiver;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use tracing::{error, warn};

use super::doors::{Door, Sockets, resend};
use super::forward::udp::Mouth;
use super::locals::Locals;
use super::outbox::Outbox;
use super::ready::Ready;
use super::socket::Ear;
use super::strays::Strays;
use super::streams::{Connections, Out};
use super::sys::{Arrivals, Note, Parcel};
use super::{Message, Setup, clock, socket, transparent};
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
/// Ready descriptors taken from one epoll_wait.
const EVENTS: usize = 256;
/// Batches read from one listener before the others get their turn, when it is being emptied.
const EMPTYING_ROUNDS: usize = 4096;
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
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Mail.pack()))?;
        let rng = ShardRng::from_entropy(setup.seed);
        let shard = Shard::new(setup.index, board.clone(), feed.load_full(), rng);
        let batch = setup.batch_packets.clamp(1, 1024);
        Ok(Self {
            feed: Cache::new(feed),
            shard,
            sockets: Sockets { epoll, doors: Vec::new(), links: Vec::new(), incomplete: false },
            connections: Connections::new(board.descriptors()),
            locals: Locals::new(),
            queries: Arrivals::new(batch),
            responses: Arrivals::new(batch),
            outbox: Outbox::new(batch),
            received: 0,
            linked: 0,
            tidied: Tick(0),
            stopping: false,
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
            self.sockets.unlink_all_but(self.shard.snapshot(), &self.board.shards()[self.setup.index]);
        }
    }

    fn serve(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut busy_until = Tick(0);
        let mut now = clock::now();
        self.begin(now);
        while !(self.ended || self.stopping && self.is_idle()) {
            let timeout = if now < busy_until { EpollTimeout::ZERO } else { self.sleep(now) };
            let ready = match self.sockets.epoll.wait(&mut events, timeout) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(e) => {
                    error!(shard = self.setup.index, "epoll_wait: {e}");
                    return;
                }
            };
            now = clock::now();
            self.begin(now);
            // Answers first: they free slots, and their deliveries must not mix with our own.
            for event in &events[..ready] {
                if let Ready::Link(route) = Ready::unpack(event.data())
                    && !route.is_line()
                {
                    self.read_link(route);
                }
            }
            self.deliver();
            self.read_flows(&events[..ready]);
            self.serve_connections(&events[..ready]);
            for event in &events[..ready] {
                match Ready::unpack(event.data()) {
                    Ready::Mail => self.read_mail(),
                    Ready::Door(slot) => {
                        self.read_door(slot);
                    }
                    Ready::Link(_) | Ready::Gate(_) | Ready::Stream(_) => {}
                    Ready::Passage(..) | Ready::Flow(_) => {}
                }
            }
            self.tick();
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
        is_idle && self.shard.passages_open() == 0 && !self.connections.lingers()
    }

    /// What targets say to flows.
    fn read_flows(&mut self, events: &[EpollEvent]) {
        let Self { connections, sockets, shard, locals, .. } = self;
        for event in events {
            if let Ready::Flow(passage) = Ready::unpack(event.data()) {
                connections.flows.read_flow(
                    &sockets.epoll,
                    passage,
                    |slot| sockets.door(slot),
                    shard,
                    locals,
                );
            }
        }
        connections.flows.deliver(|slot| sockets.door(slot), shard);
    }

    /// Connections that are ready. Lines first: their answers free what queries wait for.
    fn serve_connections(&mut self, events: &[EpollEvent]) {
        self.with_strays(|connections, epoll, shard, out| {
            for event in events {
                if let Ready::Link(line) = Ready::unpack(event.data())
                    && line.is_line()
                {
                    connections.on_line(epoll, line, event.events(), shard, out);
                }
            }
            for event in events {
                match Ready::unpack(event.data()) {
                    Ready::Stream(stream) => connections.on_stream(epoll, stream, event.events(), shard, out),
                    Ready::Passage(passage, side) => {
                        connections.relays.on_event(epoll, passage, side, event.events(), shard);
                    }
                    Ready::Mail | Ready::Door(_) | Ready::Link(_) | Ready::Gate(_) | Ready::Flow(_) => {}
                }
            }
        });
        for event in events {
            if let Ready::Gate(slot) = Ready::unpack(event.data()) {
                let Self { connections, sockets, shard, locals, .. } = self;
                connections.on_gate(&sockets.epoll, slot, shard, locals);
            }
        }
    }

    /// Does work of which single datagrams come, and sends these.
    fn with_strays(&mut self, work: impl FnOnce(&mut Connections, &Epoll, &mut Shard, Out<'_>)) {
        let Self { shard, sockets, connections, locals, responses, outbox, .. } = self;
        let mut refused: Vec<(Route, Vec<u8>)> = Vec::new();
        let mut strays = Strays::new(outbox, responses, locals);
        work(connections, &sockets.epoll, shard, &mut |verdict, octets| match verdict {
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
    }

    fn sleep(&self, now: Tick) -> EpollTimeout {
        let ms = self.shard.next_deadline().map_or(u64::from(IDLE_MS), |at| at.since(now).as_ms_ceil());
        EpollTimeout::from(u16::try_from(ms).unwrap_or(IDLE_MS).min(IDLE_MS))
    }

    fn begin(&mut self, now: Tick) {
        let snapshot = self.feed.load();
        self.shard.begin_batch(now, snapshot);
        if snapshot.generation != self.linked {
            self.linked = snapshot.generation;
            self.sockets.link_all(snapshot);
        }
    }

    /// Reads one batch from a listener and sends on what comes of it; says how many came.
    fn read_door(&mut self, slot: ListenerSlot) -> usize {
        let Some(Some(door)) = self.sockets.doors.get(slot.index()) else { return 0 };
        let note = door.note;
        if door.listener.service.forward().is_some() {
            let mouth = Mouth { listener: &door.listener, socket: &door.socket, note };
            let (epoll, flows) = (&self.sockets.epoll, &mut self.connections.flows);
            return flows.read_mouth(epoll, mouth, &mut self.shard, &mut self.locals);
        }
        let Ok(count) = self.queries.receive(door.socket.as_fd(), 0, note) else { return 0 };
        for at in 0..count {
            self.query(slot, note, at);
        }
        self.forward();
        // Answers of our own stand in `queries`, so they leave before the next batch arrives.
        self.outbox.deliver(|slot| self.sockets.door(slot), &self.queries, &self.shard);
        count
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
    /// ready sockets have been read, so that one system call serves many backends.
    fn read_link(&mut self, route: Route) {
        let server = self.sockets.server(route);
        if server.is_some() || self.responses.notes_peers() {
            // Those that wait have other things noted of them.
            self.deliver();
        }
        let Some(socket) = self.sockets.link(route) else { return };
        let note = if server.is_some() { Note::Peer } else { Note::Nothing };
        // An error is the ICMP message of an earlier query, reported once; what is behind it is
        // read in the next round.
        let Ok(count) = self.responses.receive(socket.as_fd(), self.received, note) else {
            return;
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

    /// Time-outs, second tries, packets that were held back, published counts; then all that
    /// connections have to write.
    fn tick(&mut self) {
        self.with_strays(|connections, epoll, shard, out| {
            shard.on_tick(out);
            connections.do_chores(epoll, shard, out);
        });
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
            self.sockets.link_all(self.shard.snapshot());
        }
        self.connections.look_after_closed();
        self.connections.retry(&self.sockets.epoll, &mut self.shard, &mut self.locals);
        self.tidied = now;
    }

    fn read_mail(&mut self) {
        // Reading resets the count; nothing to read means that an earlier wake-up saw it all.
        let _ = self.wake.read();
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                // Taken at the top of each round.
                Message::Snapshot => {}
                Message::Listen(listener, ear) => {
                    let Ear { datagram, stream, passed } = ear;
                    let epoll = &self.sockets.epoll;
                    self.shard.close_flows(listener.slot, false);
                    let gate = stream.map_or(Ok(()), |socket| {
                        self.connections.open_gate(epoll, Arc::clone(&listener), socket, passed)
                    });
                    let door =
                        datagram.map_or(Ok(()), |socket| self.sockets.open_door(listener, socket, passed));
                    if let Err(e) = gate.and(door) {
                        error!(shard = self.setup.index, "a listener's socket cannot be watched: {e}");
                    }
                }
                Message::Unlisten(slot) => {
                    self.close_door(slot);
                    self.close_gate(slot);
                }
                Message::Stop => {
                    for at in 0..self.sockets.doors.len() {
                        self.close_door(ListenerSlot(at as u16));
                    }
                    for slot in self.connections.gates() {
                        self.close_gate(slot);
                    }
                    self.connections.hasten();
                    self.stopping = true;
                }
                Message::Abort => self.ended = true,
            }
        }
    }

    /// Takes what waits at a listener and closes its socket; connections that came by it end when
    /// what they asked is answered.
    fn close_gate(&mut self, slot: ListenerSlot) {
        let Self { connections, sockets, shard, locals, .. } = self;
        connections.close_gate(&sockets.epoll, slot, shard, locals);
        // What has arrived by now is answered.
        self.with_strays(|connections, epoll, shard, out| {
            for stream in shard.streams_of(slot) {
                connections.on_stream(epoll, stream, EpollFlags::EPOLLIN, shard, out);
            }
        });
        self.shard.finish_streams(Some(slot));
    }

    /// Takes a listener out of its group, reads what it still holds, and keeps its socket until
    /// every query that came by it is answered or timed out. Where the kernel does not let it
    /// leave its group it is read to the end, so that no query falls between two listeners.
    fn close_door(&mut self, slot: ListenerSlot) {
        let Some(Some(door)) = self.sockets.doors.get_mut(slot.index()) else { return };
        if door.closes_at.is_some() {
            return;
        }
        door.closes_at = Some(clock::now() + self.shard.longest_wait());
        if door.passed {
            // What waits in it, and what comes, is for whoever is started next.
            self.sockets.ignore_door(slot);
            self.shard.close_flows(slot, true);
            return;
        }
        match socket::withdraw(&door.socket) {
            Ok(()) => {
                for _ in 0..EMPTYING_ROUNDS {
                    if self.read_door(slot) == 0 {
                        break;
                    }
                }
            }
            Err(e) => warn!(listener = %door.listener.address, "cannot leave the port's group: {e}"),
        }
        self.shard.close_flows(slot, true);
    }
}
