//! The UDP sockets of one thread of `dnslob bench`.
//!
//! Sockets take turns: each sends a batch by one system call, as segments of one message where the
//! queries have one length.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::Socket;

use crate::base::time::{Tick, TickDelta};
use crate::engine::clock;
use crate::engine::sys::{MESSAGE_MAX, Note, OutgoingDatagram, ReceiveBuffers, Segment, SendBuffers};
use crate::tools::bench::asker::{Asker, Lane};
use crate::tools::load::outstanding::{OF_SOCKET, Query};
use crate::tools::load::sockets;
use crate::tools::load::waiter::Waiter;

/// Queries of one system call: what perf/src/load.c sends, too.
pub(crate) const BATCH: usize = 16;
/// Answers of one system call.
const RECEIVE_BATCH: usize = 64;
/// Batches of answers of one socket in a turn.
const BATCHES_MAX: usize = 4;
/// Bytes of a query at most: the longest name, a cookie, padding.
const QUERY_MAX: usize = 768;

/// A socket.
#[derive(Debug)]
struct Flow {
    socket: Socket,
    lane: Lane,
}

/// The sockets, before they have buffers.
#[derive(Debug)]
pub(crate) struct Flows(Vec<Flow>);

impl Flows {
    /// Opens a socket for each of these addresses; `None` leaves the address to the kernel.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn open(
        target: SocketAddr,
        from: &[Option<IpAddr>],
        asker: &mut Asker,
        waiter: &Waiter,
    ) -> io::Result<Self> {
        let mut flows = Vec::with_capacity(from.len());
        for (number, from) in (0..).zip(from) {
            let socket = sockets::ask(target, *from)?;
            waiter.add(&socket, number, false)?;
            flows.push(Flow { socket, lane: asker.lane(OF_SOCKET) });
        }
        Ok(Self(flows))
    }
}

/// The sockets, and the buffers that they share.
#[derive(Debug)]
pub(crate) struct Datagrams {
    flows: Vec<Flow>,
    /// Whose turn it is.
    next: usize,
    received: ReceiveBuffers,
    /// The queries of a batch.
    staged: ReceiveBuffers,
    outgoing: Vec<OutgoingDatagram>,
    asked: Vec<(u16, Query)>,
    failed: Vec<usize>,
    send: SendBuffers,
    segment: Segment,
}

impl Datagrams {
    /// Allocates the buffers, on the thread that uses them, for answers of at least `payload` bytes.
    pub(crate) fn new(flows: Flows, payload: u16) -> Self {
        Self {
            flows: flows.0,
            next: 0,
            received: ReceiveBuffers::with_message_max(RECEIVE_BATCH, MESSAGE_MAX.max(payload.into())),
            staged: ReceiveBuffers::with_message_max(BATCH, QUERY_MAX),
            outgoing: Vec::with_capacity(BATCH),
            asked: Vec::with_capacity(BATCH),
            failed: Vec::new(),
            send: SendBuffers::new(BATCH),
            segment: Segment::Runs,
        }
    }

    /// Sends up to so many queries; returns whether any could be sent.
    pub(crate) fn send(&mut self, asker: &mut Asker, count: usize) -> bool {
        let (mut left, mut idle) = (count, 0);
        while left > 0 && idle < self.flows.len() {
            let sent = self.send_batch(asker, left.min(BATCH));
            left -= sent;
            idle = if sent == 0 { idle + 1 } else { 0 };
        }
        left < count
    }

    /// Sends a batch by the socket whose turn it is.
    fn send_batch(&mut self, asker: &mut Asker, count: usize) -> usize {
        let Self { flows, next, staged, outgoing, asked, failed, send, segment, .. } = self;
        *next = if *next + 1 < flows.len() { *next + 1 } else { 0 };
        let Flow { socket, lane } = &mut flows[*next];
        let now = clock::now();
        outgoing.clear();
        asked.clear();
        failed.clear();
        for at in 0..count {
            let Some(made) = asker.ask(lane, now) else { break };
            let mut packet = staged.packet_at(at, 0, 0);
            let len = asker.message.len();
            if packet.append(&asker.message) {
                outgoing.push(OutgoingDatagram { at, start: 0, len, to: None, from: None });
                asked.push(made);
            } else {
                // Queries are shorter than the room for them.
                asker.unsent(lane, made.0);
            }
        }
        let (mut again, mut refused, with) = (Vec::new(), false, *segment);
        send.send(socket.as_fd(), staged, outgoing, with, &mut |range, error| {
            // An earlier datagram was refused by its port; or the device cannot send segments (udp(7)).
            let was_refused = error.kind() == io::ErrorKind::ConnectionRefused;
            refused |= was_refused;
            if range.len() > 1 && !was_refused {
                *segment = Segment::Never;
            }
            if range.len() > 1 || was_refused { again.extend(range) } else { failed.extend(range) }
        });
        if refused {
            asker.refused(lane, now - TickDelta(1));
        }
        if !again.is_empty() {
            let datagrams: Vec<OutgoingDatagram> = again.iter().map(|at| outgoing[*at]).collect();
            send.send(socket.as_fd(), staged, &datagrams, Segment::Never, &mut |range, _| {
                failed.extend(again[range].iter().copied());
            });
        }
        for (at, (id, query)) in asked.iter().enumerate() {
            if failed.contains(&at) {
                asker.unsent(lane, *id);
            } else {
                asker.tally.sent(query.intended, query.sent);
            }
        }
        asked.len()
    }

    /// Takes the answers that a socket has.
    pub(crate) fn receive(&mut self, asker: &mut Asker, flow: usize) {
        let Some(Flow { socket, lane }) = self.flows.get_mut(flow) else { return };
        for _ in 0..BATCHES_MAX {
            let count = match self.received.receive(socket.as_fd(), 0, Note::Nothing) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    asker.refused(lane, clock::now());
                    continue;
                }
                Err(_) => return,
            };
            let now = clock::now();
            for at in 0..count {
                asker.take(lane, self.received.message(at), now);
            }
            if count < RECEIVE_BATCH {
                return;
            }
        }
    }

    /// Gives up what was sent too long ago.
    pub(crate) fn expire(&mut self, asker: &mut Asker, now: Tick, timeout: TickDelta) {
        for flow in &mut self.flows {
            asker.expire(&mut flow.lane, now, timeout);
        }
    }

    /// Gives up everything.
    pub(crate) fn cut_short(&mut self, asker: &mut Asker) {
        for flow in &mut self.flows {
            asker.lose_all(&mut flow.lane, |counts| &mut counts.cut_short);
        }
    }
}
