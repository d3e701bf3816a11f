//! Flows of forwards: datagrams of a client's address and port, by a socket of their own, to a
//! target and back.
//!
//! ```text
//!  listener's socket ─ recvmmsg ─► on_datagram ─► by flow ─ sendmmsg ─► the flow's socket, connected
//!  client ◄─ sendmmsg, from the address that was asked ─ recvmmsg ◄─────┘
//! ```
//!
//! A target's refusal (ICMP) moves the flow to the next target. The last datagram of a flow that
//! was never answered is kept, within a bound, so that the next target gets it, too.

use std::io;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;

use super::{failure, greeting};
use crate::addr::{Client, Endpoint, ListenerSlot, PassageSlot};
use crate::engine::locals::Locals;
use crate::engine::outbox::Outbox;
use crate::engine::ready::Ready;
use crate::engine::socket;
use crate::engine::sys::{Arrivals, Note, Parcel, Segment};
use crate::shard::Shard;
use crate::shard::forward::{Attempt, PassageWish, Way};
use crate::shard::streamed::Chore;
use crate::shard::verdict::DropReason;
use crate::wire::proxy::Transport;

/// Octets of the longest datagram: 65,535 less the headers of IPv4 and UDP.
const DATAGRAM_MAX: usize = 65_507;
/// Datagrams read or sent by one system call; each has 64 kB of room.
const BATCH: usize = 32;
/// The longest unanswered datagram that is kept for the next target, octets: what fits in a packet.
const KEPT_MAX: usize = 1_500;
/// Octets kept in a shard.
const KEPT_TOTAL_MAX: usize = 4 << 20;

/// A flow's socket.
#[derive(Debug)]
struct Flow {
    socket: Socket,
    attempt: Attempt,
    /// What stands in front of each datagram: a PROXY header.
    greeting: Vec<u8>,
    /// The last datagram, greeting excluded, as long as none was answered.
    kept: Option<Vec<u8>>,
    answered: bool,
}

/// All flows of a shard's forwards.
#[derive(Debug, Default)]
pub(in crate::engine) struct Flows {
    table: Vec<Option<Flow>>,
    /// Made when the first listener for flows is opened.
    room: Option<Box<Room>>,
    kept_total: usize,
}

/// Buffers of both ways.
#[derive(Debug)]
struct Room {
    queries: Arrivals,
    replies: Arrivals,
    /// Replies that are not delivered yet.
    received: usize,
    outgoing: Vec<(PassageSlot, Parcel)>,
    parcels: Vec<Parcel>,
    failed: Vec<(usize, Option<i32>)>,
    outbox: Outbox,
}

impl Room {
    fn new() -> Box<Self> {
        Box::new(Self {
            queries: Arrivals::with_room(BATCH, DATAGRAM_MAX),
            replies: Arrivals::with_room(BATCH, DATAGRAM_MAX),
            received: 0,
            outgoing: Vec::with_capacity(BATCH),
            parcels: Vec::with_capacity(BATCH),
            failed: Vec::with_capacity(BATCH),
            outbox: Outbox::new(BATCH),
        })
    }
}

/// A listener's socket, as flows need it.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Mouth<'d> {
    pub(in crate::engine) listener: &'d std::sync::Arc<crate::config::snapshot::Listener>,
    pub(in crate::engine) socket: &'d Socket,
    pub(in crate::engine) note: Note,
}

impl Flows {
    /// Reads one batch of a listener's datagrams and sends them on; says how many came.
    pub(in crate::engine) fn read_mouth(
        &mut self,
        epoll: &Epoll,
        mouth: Mouth<'_>,
        shard: &mut Shard,
        locals: &mut Locals,
    ) -> usize {
        let mut room = self.room.take().unwrap_or_else(Room::new);
        let count = room.queries.receive(mouth.socket.as_fd(), 0, mouth.note).unwrap_or(0);
        for at in 0..count {
            let Some(peer) = room.queries.peer(at) else { continue };
            let local = if mouth.note == Note::PeerAndLocal { room.queries.local(at) } else { None };
            let Some(local) = locals.slot_for(local, shard) else { continue };
            let client = Client { peer, listener: mouth.listener.slot, local, stream: None };
            let taken = shard.on_datagram(client, mouth.listener);
            if let Some(Chore::Passage(evicted)) = shard.take_evicted() {
                // What it has sent before leaves by its own socket; its slot may have a new owner.
                self.send(epoll, &mut room, shard, locals);
                self.serve(evicted, shard);
            }
            let Some((passage, attempt)) = taken else { continue };
            if !self.ensure(epoll, passage, attempt, shard, locals) {
                continue;
            }
            let Some(Some(flow)) = self.table.get_mut(passage.index()) else { continue };
            let mut packet = room.queries.packet(at);
            shard.on_passed(passage, Way::Out, packet.len());
            flow.keep(packet.bytes(), &mut self.kept_total);
            if !packet.prepend(&flow.greeting) {
                shard.drop(DropReason::Oversized);
                continue;
            }
            let parcel = Parcel { at, start: packet.start(), len: packet.len(), to: None, from: None };
            room.outgoing.push((passage, parcel));
        }
        self.send(epoll, &mut room, shard, locals);
        self.room = Some(room);
        count
    }

    /// Sends what stands in `outgoing`: one call a flow, the datagrams of each in their order.
    fn send(&mut self, epoll: &Epoll, room: &mut Room, shard: &mut Shard, locals: &Locals) {
        room.outgoing.sort_by_key(|(passage, _)| *passage);
        let mut from = 0;
        while let Some((passage, _)) = room.outgoing.get(from).copied() {
            room.parcels.clear();
            let same = room.outgoing[from..].iter().take_while(|o| o.0 == passage);
            room.parcels.extend(same.map(|o| o.1));
            from += room.parcels.len();
            let Some(Some(flow)) = self.table.get(passage.index()) else { continue };
            let (departures, failed) = (&mut room.outbox.departures, &mut room.failed);
            let socket = flow.socket.as_fd();
            departures.send(socket, &room.queries, &room.parcels, Segment::Never, &mut |range, e| {
                failed.extend(range.map(|at| (at, e.raw_os_error())));
            });
            let attempt = flow.attempt;
            for (at, code) in room.failed.drain(..) {
                let e = code.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
                if is_of_datagram(&e) {
                    shard.drop(DropReason::QuerySendError);
                    continue;
                }
                // An earlier one of the batch may have moved it already.
                let moved = self.table.get(passage.index()).and_then(Option::as_ref).map(|f| f.attempt);
                if moved == Some(attempt) {
                    self.move_on(epoll, passage, &e, shard, locals);
                }
                let parcel = room.parcels[at];
                let octets = room.queries.octets(parcel.at, parcel.start, parcel.len);
                self.send_again(passage, octets, shard);
            }
        }
        room.outgoing.clear();
    }

    /// Reads one batch of what a target says; it is delivered when the buffer is full or all ready
    /// sockets have been read.
    pub(in crate::engine) fn read_flow<'d>(
        &mut self,
        epoll: &Epoll,
        passage: PassageSlot,
        door: impl Fn(ListenerSlot) -> Option<&'d Socket>,
        shard: &mut Shard,
        locals: &Locals,
    ) {
        let Some(mut room) = self.room.take() else { return };
        if let Some(Some(flow)) = self.table.get_mut(passage.index()) {
            let first = room.received;
            match room.replies.receive(flow.socket.as_fd(), first, Note::Nothing) {
                Ok(count) => {
                    flow.forget_kept(&mut self.kept_total);
                    let client = shard.passage_client(passage).map(|(client, _)| client);
                    for at in first..first + count {
                        let Some(client) = client else { break };
                        let packet = room.replies.packet(at);
                        let (start, len) = (packet.start(), packet.len());
                        let from = locals.local(client.local);
                        let parcel = Parcel { at, start, len, to: Some(client.peer), from };
                        room.outbox.deliveries.push((client.listener, parcel));
                        shard.on_passed(passage, Way::Back, len);
                    }
                    room.received += count;
                    if room.received == room.replies.capacity() {
                        deliver(&mut room, &door, shard);
                    }
                }
                Err(e) if super::is_passing(&e) => {}
                // A datagram was too long for the way: the target has said nothing against us.
                Err(e) if is_of_datagram(&e) => {}
                Err(e) => {
                    let kept = flow.let_go(&mut self.kept_total);
                    if self.move_on(epoll, passage, &e, shard, locals)
                        && let Some(kept) = kept
                        && let Some(Some(flow)) = self.table.get_mut(passage.index())
                    {
                        flow.keep(&kept, &mut self.kept_total);
                        let octets = [&flow.greeting[..], &kept].concat();
                        self.send_again(passage, &octets, shard);
                    }
                }
            }
        }
        self.room = Some(room);
    }

    /// Delivers what [`Flows::read_flow`] has gathered.
    pub(in crate::engine) fn deliver<'d>(
        &mut self,
        door: impl Fn(ListenerSlot) -> Option<&'d Socket>,
        shard: &Shard,
    ) {
        if let Some(room) = self.room.as_mut().filter(|r| r.received > 0) {
            deliver(room, &door, shard);
        }
    }

    /// Sends one datagram again after its flow has moved.
    fn send_again(&self, passage: PassageSlot, octets: &[u8], shard: &Shard) {
        let Some(Some(flow)) = self.table.get(passage.index()) else { return };
        if flow.socket.send(octets).is_err() {
            shard.drop(DropReason::QuerySendError);
        }
    }

    /// The flow's target refuses: the next one gets it. False when there is none.
    fn move_on(
        &mut self,
        epoll: &Epoll,
        passage: PassageSlot,
        why: &io::Error,
        shard: &mut Shard,
        locals: &Locals,
    ) -> bool {
        shard.on_target_failed(passage, failure(why));
        match shard.passage_wish(passage) {
            PassageWish::Connect(attempt) | PassageWish::Serve(attempt) => {
                self.ensure(epoll, passage, attempt, shard, locals)
            }
            PassageWish::Close(_) => false,
        }
    }

    /// Opens the socket of an attempt, unless it is; that of a later attempt when that fails.
    fn ensure(
        &mut self,
        epoll: &Epoll,
        passage: PassageSlot,
        mut attempt: Attempt,
        shard: &mut Shard,
        locals: &Locals,
    ) -> bool {
        loop {
            let now = self.table.get(passage.index()).and_then(Option::as_ref);
            if now.is_some_and(|f| f.attempt == attempt) {
                return true;
            }
            // A target that is left behind is heard no more.
            self.drop_flow(passage);
            match open(epoll, passage, attempt, shard, locals) {
                Ok(flow) => {
                    if self.table.len() <= passage.index() {
                        self.table.resize_with(passage.index() + 1, || None);
                    }
                    self.table[passage.index()] = Some(flow);
                    return true;
                }
                Err(e) => shard.on_target_failed(passage, failure(&e)),
            }
            match shard.passage_wish(passage) {
                PassageWish::Connect(next) | PassageWish::Serve(next) => attempt = next,
                PassageWish::Close(_) => return false,
            }
        }
    }

    /// Does what the shard wishes for a flow.
    pub(in crate::engine) fn serve(&mut self, passage: PassageSlot, shard: &mut Shard) {
        if let PassageWish::Close(why) = shard.passage_wish(passage) {
            self.drop_flow(passage);
            shard.on_passage_closed(passage, why);
        }
    }

    fn drop_flow(&mut self, passage: PassageSlot) {
        if let Some(flow) = self.table.get_mut(passage.index()).and_then(Option::take) {
            // Closing takes it out of the epoll set.
            self.kept_total -= flow.kept.map_or(0, |kept| kept.len());
        }
    }

    /// Closes all: whose shard has lost what it knew of them.
    pub(in crate::engine) fn drop_all(&mut self) {
        self.table.clear();
        self.kept_total = 0;
        if let Some(room) = &mut self.room {
            room.received = 0;
            room.outbox.deliveries.clear();
            room.outgoing.clear();
        }
    }
}

impl Flow {
    /// Takes the datagram that is kept.
    fn let_go(&mut self, total: &mut usize) -> Option<Vec<u8>> {
        let kept = self.kept.take()?;
        *total -= kept.len();
        Some(kept)
    }

    /// Keeps a datagram that may have to be sent to another target, if there is room.
    fn keep(&mut self, octets: &[u8], total: &mut usize) {
        if self.answered {
            return;
        }
        let mut kept = self.let_go(total).unwrap_or_default();
        if octets.len() <= KEPT_MAX && *total + octets.len() <= KEPT_TOTAL_MAX {
            kept.clear();
            kept.extend_from_slice(octets);
            *total += octets.len();
            self.kept = Some(kept);
        }
    }

    fn forget_kept(&mut self, total: &mut usize) {
        self.answered = true;
        self.let_go(total);
    }
}

fn open(
    epoll: &Epoll,
    passage: PassageSlot,
    attempt: Attempt,
    shard: &Shard,
    locals: &Locals,
) -> io::Result<Flow> {
    let gone = || io::Error::from(io::ErrorKind::HostUnreachable);
    let target = shard.snapshot().backend(attempt.target).ok_or_else(gone)?;
    let (client, listener) = shard.passage_client(passage).ok_or_else(gone)?;
    let asked = || {
        let port = listener.address.port();
        let at = locals.local(client.local).map(|l| Endpoint { ip: l.ip, scope: l.interface, port });
        Some(at.unwrap_or_else(|| listener.address.into()))
    };
    let mut header = Vec::new();
    greeting(target.client_address, Transport::Datagram, client.peer, asked, &mut header);
    let socket = socket::connect_target(target, client.peer, true, false)?;
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, Ready::Flow(passage).pack()))?;
    Ok(Flow { socket, attempt, greeting: header, kept: None, answered: false })
}

fn deliver<'d>(room: &mut Room, door: &impl Fn(ListenerSlot) -> Option<&'d Socket>, shard: &Shard) {
    room.received = 0;
    room.outbox.deliver(door, &room.replies, shard);
}

/// Whether the datagram itself is what the kernel does not like, or it has no room for it now.
fn is_of_datagram(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EMSGSIZE | libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EPERM)
    )
}
