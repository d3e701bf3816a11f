//! Simulated TCP connections: bytes in order, bounded windows, half-close, reset.
//!
//! ```text
//!  peer: send, end, reset ──► path ──► unread ──► read    a shard's engine
//!        Seen::Bytes, End ◄── path ◄── room   ◄── write
//! ```
//!
//! What a peer receives is seen at once, but it makes room for more only as the caller says.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::base::addr::{ConnectionSlot, Endpoint, ListenerSlot, Route, SessionSlot};
use crate::base::time::{Tick, TickDelta};
use crate::engine::sim::network::{Arrival, Network, What};
use crate::engine::sim::{Seen, Sim};
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason, ConnectFailure, RelayCloseReason};

/// The time after which a lost segment is sent again: the least of RFC 6298 in practice.
const RETRANSMISSION: TickDelta = TickDelta::from_ms(200);

/// A simulated TCP connection. Its number is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(pub(super) u32);

/// What a connection is to its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A client has connected, and the shard has not accepted it, or has refused it.
    Unaccepted,
    /// A client connection.
    Client(ConnectionSlot),
    /// A backend connection.
    Backend(Route),
    /// The client's connection of a relay session.
    Relayed(SessionSlot),
    /// The connection of a relay session to its target.
    Target(SessionSlot),
}

/// Why the shard's end of a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// No listener took it, or the shard refused it.
    Refused,
    /// A client connection.
    Client(ClientCloseReason),
    /// A backend connection; none when the shard asked for it.
    Backend(Option<BackendCloseReason>),
    /// A relay session.
    Relay(RelayCloseReason),
    /// An attempt to reach a relay's target was given up.
    Abandoned,
}

/// How a backend or a relay's target takes new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connects {
    /// It accepts them.
    #[default]
    Accepts,
    /// Its kernel refuses them.
    Refuses,
    /// It does not react; [`Sim::accept`] and [`Sim::fail`] may do so for it.
    Hangs,
}

/// One connection, as the kernel of the shard's host sees it.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) shard: usize,
    pub(super) role: Role,
    /// The client, or none for a connection that the shard makes.
    pub(super) client: Option<Endpoint>,
    /// How the attempt to connect ended, once it has.
    pub(super) outcome: Option<Result<(), ConnectFailure>>,
    /// The engine has not handled that outcome yet.
    pub(super) is_connecting: bool,
    unread: VecDeque<u8>,
    ended: bool,
    /// The end was announced, and so is known with the last bytes.
    announced: bool,
    broken: bool,
    /// Bytes that the peer has room for.
    room: usize,
    /// What the engine watches it for.
    pub(super) reading: bool,
    pub(super) writing: bool,
    pub(super) is_watched: bool,
    is_shut_down: bool,
    pub(super) closed: Option<Closed>,
    /// Closed for the shard, but what the peer still sends is read and discarded.
    pub(super) is_draining: bool,
    /// Closed by both sides, or reset: nothing travels any more.
    is_gone: bool,
    /// When the last segment arrives at the shard, and at the peer.
    arrives: [Tick; 2],
}

/// What an engine's event says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Broken, or closed by both sides; reported whatever it is watched for.
    pub(super) hung_up: bool,
}

impl Readiness {
    pub(super) const fn any(self) -> bool {
        self.readable || self.writable || self.hung_up
    }
}

/// The outcome of a read.
#[derive(Debug)]
pub(super) enum Read {
    /// Bytes; if true, they are the last.
    Bytes(Vec<u8>, bool),
    End,
    Broken,
    Nothing,
}

/// The outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Bytes(usize),
    Full,
    Broken,
}

impl Tcp {
    pub(super) fn readiness(&self) -> Readiness {
        let failed = self.broken || matches!(self.outcome, Some(Err(_)));
        let pending = self.closed.is_some() || !self.is_watched || self.outcome.is_none();
        if pending {
            return Readiness { readable: false, writable: false, hung_up: false };
        }
        Readiness {
            readable: self.reading && (failed || self.ended || !self.unread.is_empty()),
            writable: self.writing && (failed || self.room > 0),
            hung_up: failed || self.ended && self.is_shut_down,
        }
    }
}

impl Network {
    pub(super) fn tcp(&mut self, stream: Stream) -> &mut Tcp {
        &mut self.streams[stream.0 as usize]
    }

    /// Opens a connection: a client's, or one that the shard makes.
    pub(super) fn open_stream(&mut self, shard: usize, role: Role, client: Option<Endpoint>) -> Stream {
        let stream = Stream(self.streams.len() as u32);
        self.streams.push(Tcp {
            shard,
            role,
            client,
            outcome: client.map(|_| Ok(())),
            is_connecting: client.is_none(),
            unread: VecDeque::new(),
            ended: false,
            announced: false,
            broken: false,
            room: usize::MAX,
            reading: false,
            writing: false,
            is_watched: false,
            is_shut_down: false,
            closed: None,
            is_draining: false,
            is_gone: false,
            arrives: [self.now; 2],
        });
        stream
    }

    /// Begins to connect to a backend or target.
    pub(super) fn connect(&mut self, shard: usize, role: Role, to: SocketAddr) -> Stream {
        let stream = self.open_stream(shard, role, None);
        self.segment(stream, 1, || What::Seen(Seen::Connect { stream, backend: to }));
        let outcome = match self.connects.get(&to).copied().unwrap_or_default() {
            Connects::Accepts => Ok(()),
            Connects::Refuses => Err(ConnectFailure::Refused),
            Connects::Hangs => return stream,
        };
        // No answer before the question.
        self.tcp(stream).arrives[0] = self.tcp(stream).arrives[1];
        self.segment(stream, 0, || What::Arrive(shard, Arrival::Outcome(stream, outcome)));
        stream
    }

    /// Sends something in its order: to the shard (0) or to the peer (1).
    pub(super) fn segment(&mut self, stream: Stream, to: usize, what: impl FnOnce() -> What) {
        let path = if self.tcp(stream).client.is_some() { self.clients } else { self.backends };
        let mut at = self.now + path.delay + self.jitter(path);
        while self.rng.chance(path.loss_ppm.min(900_000)) {
            at = at + RETRANSMISSION;
        }
        let arrives = &mut self.tcp(stream).arrives[to];
        *arrives = at.max(*arrives);
        let at = *arrives;
        self.schedule(at, what());
    }

    /// Notes that a connection may be ready.
    pub(super) fn touch(&mut self, stream: Stream) {
        let shard = self.tcp(stream).shard;
        self.touched[shard].insert(stream);
    }

    /// Sets what a connection is watched for.
    pub(super) fn watch(&mut self, stream: Stream, reading: bool, writing: bool) {
        let tcp = self.tcp(stream);
        (tcp.reading, tcp.writing, tcp.is_watched) = (reading, writing, true);
        self.touch(stream);
    }

    /// Returns the connections of a shard that are ready.
    pub(super) fn ready(&mut self, shard: usize) -> Vec<(Stream, Readiness)> {
        let (streams, mut ready) = (&self.streams, Vec::new());
        self.touched[shard].retain(|stream| {
            let readiness = streams[stream.0 as usize].readiness();
            if readiness.any() {
                ready.push((*stream, readiness));
            }
            readiness.any()
        });
        ready
    }

    /// Returns whether a connection of a shard is ready.
    pub(super) fn has_ready(&self, shard: usize) -> bool {
        self.touched[shard].iter().any(|stream| self.streams[stream.0 as usize].readiness().any())
    }

    /// Takes in what arrives for a connection.
    pub(super) fn arrive(&mut self, stream: Stream, arrival: Arrival) {
        let tcp = &mut self.streams[stream.0 as usize];
        if tcp.is_gone {
            return;
        }
        match arrival {
            // What is sent to a closed socket is answered with a reset.
            Arrival::Bytes(..) if tcp.closed.is_some() && !tcp.is_draining => return self.break_off(stream),
            // Nothing follows the end.
            Arrival::Bytes(..) if tcp.ended => return,
            Arrival::Bytes(_, bytes) => tcp.unread.extend(bytes),
            Arrival::End(_, announced) => (tcp.ended, tcp.announced) = (true, announced),
            Arrival::Reset(_) => (tcp.broken, tcp.is_gone) = (true, true),
            Arrival::Outcome(_, outcome) => tcp.outcome = tcp.outcome.or(Some(outcome)),
            Arrival::Query(..) | Arrival::Response(..) | Arrival::Reply(..) | Arrival::Connection(..) => {}
        }
        self.touch(stream);
    }

    /// Reads once.
    pub(super) fn read(&mut self, stream: Stream) -> Read {
        let (most, segments) = (self.read_max, self.segments);
        let there = self.tcp(stream).unread.len().min(most);
        let count = if segments && there > 0 { 1 + self.rng.below(there as u32) as usize } else { there };
        let tcp = self.tcp(stream);
        if count > 0 {
            let bytes = tcp.unread.drain(..count).collect();
            return Read::Bytes(bytes, tcp.announced && tcp.unread.is_empty());
        }
        if tcp.broken {
            Read::Broken
        } else if tcp.ended {
            Read::End
        } else {
            Read::Nothing
        }
    }

    /// Shuts down the shard's writing end of a connection that is read until its peer has closed.
    pub(super) fn drain(&mut self, stream: Stream, why: Closed) {
        let tcp = self.tcp(stream);
        (tcp.closed, tcp.is_draining) = (Some(why), true);
        self.shut_down(stream);
    }

    /// Discards what the peer of a draining connection has sent; returns whether it has closed too.
    pub(super) fn is_drained(&mut self, stream: Stream) -> bool {
        let tcp = self.tcp(stream);
        tcp.unread.clear();
        tcp.ended || tcp.broken
    }

    /// Closes a draining connection.
    pub(super) fn end_draining(&mut self, stream: Stream) {
        self.tcp(stream).is_draining = false;
    }

    /// Writes what the peer has room for.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) -> Written {
        let tcp = self.tcp(stream);
        if tcp.broken || tcp.is_gone {
            return Written::Broken;
        }
        let count = bytes.len().min(tcp.room);
        if count == 0 {
            return Written::Full;
        }
        if tcp.room != usize::MAX {
            tcp.room -= count;
        }
        let bytes = bytes[..count].to_vec();
        self.segment(stream, 1, || What::Seen(Seen::Bytes { stream, bytes }));
        Written::Bytes(count)
    }

    /// Returns whether the peer has reset a connection.
    pub(super) fn is_broken(&mut self, stream: Stream) -> bool {
        self.tcp(stream).broken
    }

    /// Returns whether the peer has closed or reset a connection, with nothing left to read.
    pub(super) fn has_ended(&mut self, stream: Stream) -> bool {
        let tcp = self.tcp(stream);
        tcp.unread.is_empty() && (tcp.ended || tcp.broken)
    }

    /// Shuts down the shard's writing end.
    pub(super) fn shut_down(&mut self, stream: Stream) {
        let tcp = self.tcp(stream);
        if !std::mem::replace(&mut tcp.is_shut_down, true) && !tcp.is_gone && tcp.outcome == Some(Ok(())) {
            self.segment(stream, 1, || What::Seen(Seen::End { stream }));
        }
        self.touch(stream);
    }

    /// Closes the shard's end: orderly, unless bytes of the peer are unread.
    pub(super) fn close(&mut self, stream: Stream, why: Closed) {
        let tcp = self.tcp(stream);
        tcp.closed = tcp.closed.or(Some(why));
        if tcp.unread.is_empty() {
            self.shut_down(stream);
        } else {
            self.break_off(stream);
        }
    }

    /// Resets a connection.
    pub(super) fn break_off(&mut self, stream: Stream) {
        let tcp = self.tcp(stream);
        if !std::mem::replace(&mut tcp.is_gone, true) && tcp.outcome == Some(Ok(())) {
            self.segment(stream, 1, || What::Seen(Seen::Reset { stream }));
        }
    }
}

/// The peers of connections: clients, backends and targets.
impl Sim {
    /// A client connects to a listener of the shard that the kernel's steering chose.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn connect(&mut self, shard: usize, listener: ListenerSlot, client: Endpoint) -> Stream {
        assert!(shard < self.nodes.len(), "shard {shard} does not exist");
        let stream = self.network.open_stream(shard, Role::Unaccepted, Some(client));
        self.network.segment(stream, 0, || What::Arrive(shard, Arrival::Connection(stream, listener)));
        stream
    }

    /// A peer sends bytes.
    pub fn send(&mut self, stream: Stream, bytes: &[u8]) {
        self.act(stream, Arrival::Bytes(stream, bytes.to_vec()));
    }

    /// A peer closes its writing end.
    pub fn end(&mut self, stream: Stream) {
        self.act(stream, Arrival::End(stream, false));
    }

    /// A peer closes its writing end so that this is known with the last bytes, as within TLS.
    pub fn end_announced(&mut self, stream: Stream) {
        self.act(stream, Arrival::End(stream, true));
    }

    /// A peer resets the connection.
    pub fn reset(&mut self, stream: Stream) {
        self.act(stream, Arrival::Reset(stream));
    }

    /// A backend that hangs accepts a connection.
    pub fn accept(&mut self, stream: Stream) {
        self.act(stream, Arrival::Outcome(stream, Ok(())));
    }

    /// The attempt to connect to a backend that hangs fails.
    pub fn fail(&mut self, stream: Stream, why: ConnectFailure) {
        self.act(stream, Arrival::Outcome(stream, Err(why)));
    }

    fn act(&mut self, stream: Stream, arrival: Arrival) {
        let shard = self.network.tcp(stream).shard;
        self.network.segment(stream, 0, || What::Arrive(shard, arrival));
    }

    /// Sets how many bytes a peer has room for; `usize::MAX` is no limit.
    pub fn set_room(&mut self, stream: Stream, bytes: usize) {
        self.network.tcp(stream).room = bytes;
        self.network.touch(stream);
        let shard = self.network.tcp(stream).shard;
        self.wake(shard, self.network.now);
    }

    /// Returns what a connection is to its shard.
    #[must_use]
    pub fn role(&self, stream: Stream) -> Role {
        self.network.streams[stream.0 as usize].role
    }

    /// Returns why the shard's end of a connection is closed, if it is.
    #[must_use]
    pub fn closed(&self, stream: Stream) -> Option<Closed> {
        self.network.streams[stream.0 as usize].closed
    }

    /// Returns how many bytes have arrived at the shard that its engine has not read.
    #[must_use]
    pub fn unread(&self, stream: Stream) -> usize {
        self.network.streams[stream.0 as usize].unread.len()
    }

    /// Returns whether the shard's engine reads a connection.
    #[must_use]
    pub fn is_read(&self, stream: Stream) -> bool {
        self.network.streams[stream.0 as usize].reading
    }
}
