//! Relayed UDP flows: the datagrams of one client address and port, through a socket of the flow's
//! own to a target and back.
//!
//! ```text
//!  listener socket ─ recvmmsg ─► on_datagram ─► by flow ─ sendmmsg ─► the flow's connected socket
//!  client ◄─ sendmmsg, from the address the client used ─ recvmmsg ◄─────┘
//! ```
//!
//! A target's refusal (ICMP) moves the flow to the next target. The last datagram of a flow without
//! any reply is kept, within a bound, and sent to the next target too.

use std::io;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;

use crate::base::addr::{Client, Endpoint, ListenerSlot, SessionSlot};
use crate::engine::datagram::local_addresses::Locals;
use crate::engine::datagram::send_batch::SendBatch;
use crate::engine::owned::Owned;
use crate::engine::readiness::{Generation, Ready};
use crate::engine::relay::{failure, proxy_header};
use crate::engine::socket;
use crate::engine::sys::{Note, OutgoingDatagram, ReceiveBuffers, Segment};
use crate::shard::Shard;
use crate::shard::messages::PendingWork;
use crate::shard::relay::{Attempt, Direction, RelayInterest};
use crate::stats::drop_reason::DropReason;
use crate::wire::proxy::Transport;

/// Longest UDP datagram, bytes: 65,535 less the headers of IPv4 and UDP.
const DATAGRAM_MAX: usize = 65_507;
/// Datagrams received or sent by one system call; each has a buffer of 64 kB.
const BATCH: usize = 32;
/// Longest unanswered datagram that is kept for the next target, bytes: what fits in a packet.
const KEPT_MAX: usize = 1_500;
/// Bytes kept per shard.
const KEPT_TOTAL_MAX: usize = 4 << 20;

/// A flow's socket.
#[derive(Debug)]
struct Flow {
    socket: Socket,
    attempt: Attempt,
    /// The PROXY header in front of each datagram.
    proxy_header: Vec<u8>,
    /// The last datagram, without the PROXY header, until the first reply.
    kept: Option<Vec<u8>>,
    answered: bool,
}

/// All relayed UDP flows of a shard.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    table: Owned<SessionSlot, Flow>,
    /// Allocated when the first UDP relay is opened.
    buffers: Option<Box<Buffers>>,
    kept_total: usize,
}

/// Buffers of both directions.
#[derive(Debug)]
struct Buffers {
    queries: ReceiveBuffers,
    replies: ReceiveBuffers,
    /// Replies that are not sent yet.
    received: usize,
    outgoing: Vec<(SessionSlot, OutgoingDatagram)>,
    datagrams: Vec<OutgoingDatagram>,
    failed: Vec<(usize, Option<i32>)>,
    send_batch: SendBatch,
}

impl Buffers {
    fn new() -> Box<Self> {
        Box::new(Self {
            queries: ReceiveBuffers::with_message_max(BATCH, DATAGRAM_MAX),
            replies: ReceiveBuffers::with_message_max(BATCH, DATAGRAM_MAX),
            received: 0,
            outgoing: Vec::with_capacity(BATCH),
            datagrams: Vec::with_capacity(BATCH),
            failed: Vec::with_capacity(BATCH),
            send_batch: SendBatch::new(BATCH),
        })
    }
}

/// A listener's socket, as flows need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowListener<'d> {
    pub(crate) listener: &'d std::sync::Arc<crate::model::Listener>,
    pub(crate) socket: &'d Socket,
    pub(crate) note: Note,
}

impl Flows {
    /// Reads one batch of a listener's datagrams and relays them. Returns the number of datagrams.
    pub(crate) fn read_clients(
        &mut self,
        epoll: &Epoll,
        flow_listener: FlowListener<'_>,
        shard: &mut Shard,
        locals: &mut Locals,
    ) -> usize {
        let mut buffers = self.buffers.take().unwrap_or_else(Buffers::new);
        let count = buffers.queries.receive(flow_listener.socket.as_fd(), 0, flow_listener.note).unwrap_or(0);
        for at in 0..count {
            let Some(peer) = buffers.queries.peer(at) else { continue };
            let local =
                if flow_listener.note == Note::PeerAndLocal { buffers.queries.local(at) } else { None };
            let Some(local) = locals.slot_for(local, shard) else { continue };
            let client = Client { peer, listener: flow_listener.listener.slot, local, connection: None };
            let taken = shard.on_datagram(client, flow_listener.listener);
            if let Some(PendingWork::Relay(evicted)) = shard.take_evicted() {
                // Earlier datagrams leave by the flow's own socket; its slot may be reused.
                self.send(epoll, &mut buffers, shard, locals);
                self.serve(evicted, shard);
            }
            let Some((session, attempt)) = taken else { continue };
            if !self.ensure(epoll, session, attempt, shard, locals) {
                continue;
            }
            let Some(flow) = self.table.get_mut(session) else { continue };
            let mut packet = buffers.queries.packet(at);
            shard.on_relayed(session, Direction::Out, packet.len());
            flow.keep(packet.bytes(), &mut self.kept_total);
            if !packet.prepend(&flow.proxy_header) {
                shard.drop(DropReason::Oversized);
                continue;
            }
            let datagram =
                OutgoingDatagram { at, start: packet.start(), len: packet.len(), to: None, from: None };
            buffers.outgoing.push((session, datagram));
        }
        self.send(epoll, &mut buffers, shard, locals);
        self.buffers = Some(buffers);
        count
    }

    /// Sends the datagrams in `outgoing`, with one call per flow, in their order.
    fn send(&mut self, epoll: &Epoll, buffers: &mut Buffers, shard: &mut Shard, locals: &Locals) {
        buffers.outgoing.sort_by_key(|(session, _)| *session);
        let mut from = 0;
        while let Some((session, _)) = buffers.outgoing.get(from).copied() {
            buffers.datagrams.clear();
            let same = buffers.outgoing[from..].iter().take_while(|o| o.0 == session);
            buffers.datagrams.extend(same.map(|o| o.1));
            from += buffers.datagrams.len();
            let Some(flow) = self.table.get(session) else { continue };
            let (send_buffers, failed) = (&mut buffers.send_batch.send_buffers, &mut buffers.failed);
            let socket = flow.socket.as_fd();
            send_buffers.send(
                socket,
                &buffers.queries,
                &buffers.datagrams,
                Segment::Never,
                &mut |range, e| {
                    failed.extend(range.map(|at| (at, e.raw_os_error())));
                },
            );
            let attempt = flow.attempt;
            for (at, code) in buffers.failed.drain(..) {
                let e = code.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
                if is_of_datagram(&e) {
                    shard.drop(DropReason::QuerySendError);
                    continue;
                }
                // An earlier datagram of the batch may have moved the flow already.
                let moved = self.table.get(session).map(|f| f.attempt);
                if moved == Some(attempt) {
                    self.move_on(epoll, session, &e, shard, locals);
                }
                let datagram = buffers.datagrams[at];
                let bytes = buffers.queries.bytes(datagram.at, datagram.start, datagram.len);
                self.send_again(session, bytes, shard);
            }
        }
        buffers.outgoing.clear();
    }

    /// Reads one batch of a target's replies. They are sent when the buffer is full or all ready
    /// sockets have been read.
    pub(crate) fn read_flow<'d>(
        &mut self,
        epoll: &Epoll,
        (session, generation): (SessionSlot, Generation),
        listener_socket: impl Fn(ListenerSlot) -> Option<&'d Socket>,
        shard: &mut Shard,
        locals: &Locals,
    ) {
        let Some(mut buffers) = self.buffers.take() else { return };
        if let Some(flow) = self.table.get_mut(session).filter(|f| Generation(f.attempt.number) == generation)
        {
            let first = buffers.received;
            match buffers.replies.receive(flow.socket.as_fd(), first, Note::Nothing) {
                Ok(count) => {
                    flow.forget_kept(&mut self.kept_total);
                    let client = shard.relay_client(session).map(|(client, _)| client);
                    for at in first..first + count {
                        let Some(client) = client else { break };
                        let packet = buffers.replies.packet(at);
                        let (start, len) = (packet.start(), packet.len());
                        let from = locals.local(client.local);
                        let datagram = OutgoingDatagram { at, start, len, to: Some(client.peer), from };
                        buffers.send_batch.deliveries.push((client.listener, datagram));
                        shard.on_relayed(session, Direction::Back, len);
                    }
                    buffers.received += count;
                    if buffers.received == buffers.replies.capacity() {
                        deliver(&mut buffers, &listener_socket, shard);
                    }
                }
                Err(e) if crate::engine::relay::is_transient(&e) => {}
                // A datagram was too long for the path: this is no refusal by the target.
                Err(e) if is_of_datagram(&e) => {}
                Err(e) => {
                    let kept = flow.take_kept(&mut self.kept_total);
                    if self.move_on(epoll, session, &e, shard, locals)
                        && let Some(kept) = kept
                        && let Some(flow) = self.table.get_mut(session)
                    {
                        flow.keep(&kept, &mut self.kept_total);
                        let bytes = [&flow.proxy_header[..], &kept].concat();
                        self.send_again(session, &bytes, shard);
                    }
                }
            }
        }
        self.buffers = Some(buffers);
    }

    /// Sends the replies that [`Flows::read_flow`] has gathered.
    pub(crate) fn deliver<'d>(
        &mut self,
        listener_socket: impl Fn(ListenerSlot) -> Option<&'d Socket>,
        shard: &Shard,
    ) {
        if let Some(buffers) = self.buffers.as_mut().filter(|r| r.received > 0) {
            deliver(buffers, &listener_socket, shard);
        }
    }

    /// Sends one datagram again after its flow has moved.
    fn send_again(&self, session: SessionSlot, bytes: &[u8], shard: &Shard) {
        let Some(flow) = self.table.get(session) else { return };
        if flow.socket.send(bytes).is_err() {
            shard.drop(DropReason::QuerySendError);
        }
    }

    /// Moves a flow to the next target after a refusal; false when there is none.
    fn move_on(
        &mut self,
        epoll: &Epoll,
        session: SessionSlot,
        why: &io::Error,
        shard: &mut Shard,
        locals: &Locals,
    ) -> bool {
        shard.on_target_failed(session, failure(why));
        match shard.relay_interest(session) {
            RelayInterest::Connect(attempt)
            | RelayInterest::Await(attempt)
            | RelayInterest::Serve(attempt) => self.ensure(epoll, session, attempt, shard, locals),
            RelayInterest::Close(_) => false,
        }
    }

    /// Opens the socket of an attempt if needed, and moves on to later attempts when that fails.
    fn ensure(
        &mut self,
        epoll: &Epoll,
        session: SessionSlot,
        mut attempt: Attempt,
        shard: &mut Shard,
        locals: &Locals,
    ) -> bool {
        loop {
            let now = self.table.get(session);
            if now.is_some_and(|f| f.attempt == attempt) {
                return true;
            }
            // Replies of the previous target are not accepted any more.
            self.drop_flow(session);
            match open(epoll, session, attempt, shard, locals) {
                Ok(flow) => {
                    self.table.insert(session, flow);
                    return true;
                }
                Err(e) => shard.on_target_failed(session, failure(&e)),
            }
            match shard.relay_interest(session) {
                RelayInterest::Connect(next) | RelayInterest::Await(next) | RelayInterest::Serve(next) => {
                    attempt = next;
                }
                RelayInterest::Close(_) => return false,
            }
        }
    }

    /// Does the shard's pending work for a flow.
    pub(crate) fn serve(&mut self, session: SessionSlot, shard: &mut Shard) {
        if let RelayInterest::Close(why) = shard.relay_interest(session) {
            self.drop_flow(session);
            shard.on_session_closed(session, why);
        }
    }

    fn drop_flow(&mut self, session: SessionSlot) {
        if let Some(flow) = self.table.take(session) {
            // Closing removes it from the epoll set.
            self.kept_total -= flow.kept.map_or(0, |kept| kept.len());
        }
    }

    /// Closes all flows: the shard has lost its state of them.
    pub(crate) fn drop_all(&mut self) {
        self.table.clear();
        self.kept_total = 0;
        if let Some(buffers) = &mut self.buffers {
            buffers.received = 0;
            buffers.send_batch.deliveries.clear();
            buffers.outgoing.clear();
        }
    }
}

impl Flow {
    /// Takes the kept datagram.
    fn take_kept(&mut self, total: &mut usize) -> Option<Vec<u8>> {
        let kept = self.kept.take()?;
        *total -= kept.len();
        Some(kept)
    }

    /// Keeps a datagram that may have to be sent to another target, if there is space.
    fn keep(&mut self, bytes: &[u8], total: &mut usize) {
        if self.answered {
            return;
        }
        let mut kept = self.take_kept(total).unwrap_or_default();
        if bytes.len() <= KEPT_MAX && *total + bytes.len() <= KEPT_TOTAL_MAX {
            kept.clear();
            kept.extend_from_slice(bytes);
            *total += bytes.len();
            self.kept = Some(kept);
        }
    }

    fn forget_kept(&mut self, total: &mut usize) {
        self.answered = true;
        self.take_kept(total);
    }
}

fn open(
    epoll: &Epoll,
    session: SessionSlot,
    attempt: Attempt,
    shard: &Shard,
    locals: &Locals,
) -> io::Result<Flow> {
    let gone = || io::Error::from(io::ErrorKind::HostUnreachable);
    let target = shard.snapshot().backend(attempt.target).ok_or_else(gone)?;
    let (client, listener) = shard.relay_client(session).ok_or_else(gone)?;
    let asked = || {
        let port = listener.address.port();
        let at = locals.local(client.local).map(|l| Endpoint { ip: l.ip, scope: l.interface, port });
        Some(at.unwrap_or_else(|| listener.address.into()))
    };
    let mut header = Vec::new();
    proxy_header(target.client_address, Transport::Datagram, client.peer, asked, &mut header);
    let socket = socket::connect_target(target, client.peer, true, false)?;
    epoll.add(
        &socket,
        EpollEvent::new(EpollFlags::EPOLLIN, Ready::Flow(session, Generation(attempt.number)).pack()),
    )?;
    Ok(Flow { socket, attempt, proxy_header: header, kept: None, answered: false })
}

fn deliver<'d>(
    buffers: &mut Buffers,
    listener_socket: &impl Fn(ListenerSlot) -> Option<&'d Socket>,
    shard: &Shard,
) {
    buffers.received = 0;
    buffers.send_batch.deliver(listener_socket, &buffers.replies, shard);
}

/// Returns whether the error concerns this datagram only, or a momentary lack of buffers.
fn is_of_datagram(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EMSGSIZE | libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EPERM)
    )
}
