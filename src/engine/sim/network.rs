//! Everything outside the shards: virtual time, what is under way, and how long it takes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;

use crate::base::addr::{Client, ListenerSlot};
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::engine::sim::flow::FlowPort;
use crate::engine::sim::stream::{Connects, Stream, Tcp};
use crate::engine::sim::{Port, Seen};
use crate::stats::close_reason::ConnectFailure;

/// What a network path does to a datagram, and to the segments of a connection: these arrive in
/// order and once, a lost one later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// The delay of every datagram.
    pub delay: TickDelta,
    /// Additional random delay, at most; datagrams overtake each other.
    pub jitter: TickDelta,
    /// Datagrams lost, parts per million.
    pub loss_ppm: u32,
    /// Datagrams duplicated, parts per million.
    pub twice_ppm: u32,
}

/// What reaches a shard's sockets.
#[derive(Debug)]
pub(super) enum Arrival {
    Query(Client, Vec<u8>),
    Response(Port, Vec<u8>),
    /// A target's datagram, or, if there is none, its kernel's refusal.
    Reply(FlowPort, Option<Vec<u8>>),
    Connection(Stream, ListenerSlot),
    /// How an attempt to connect has ended.
    Outcome(Stream, Result<(), ConnectFailure>),
    Bytes(Stream, Vec<u8>),
    /// The peer has shut down its writing end; if true, it has announced that before.
    End(Stream, bool),
    Reset(Stream),
}

/// What happens.
#[derive(Debug)]
pub(super) enum What {
    Wake(usize),
    Arrive(usize, Arrival),
    Seen(Seen),
}

/// Ordered by time, then by the order of scheduling.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) at: Tick,
    sequence: u64,
    pub(super) what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// Everything outside the shards.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) now: Tick,
    pub(super) rng: ShardRng,
    events: BinaryHeap<Reverse<Event>>,
    scheduled: u64,
    /// Sockets opened so far: their numbers.
    pub(super) opened: u64,
    pub(super) clients: Path,
    pub(super) backends: Path,
    pub(super) refuse_ppm: u32,
    pub(super) unreachable: BTreeSet<SocketAddr>,
    /// How backends take connections; those not listed accept.
    pub(super) connects: BTreeMap<SocketAddr, Connects>,
    /// Bytes of one read, at most, and whether each read takes a random part of them.
    pub(super) read_max: usize,
    pub(super) segments: bool,
    /// All connections, by number.
    pub(super) streams: Vec<Tcp>,
    /// By shard: connections that may be ready.
    pub(super) touched: Vec<BTreeSet<Stream>>,
}

impl Network {
    pub(super) fn new(rng: ShardRng, shards: usize, read_max: usize) -> Self {
        Self {
            now: Tick(1_000_000_000),
            rng,
            events: BinaryHeap::new(),
            scheduled: 0,
            opened: 0,
            clients: Path::default(),
            backends: Path::default(),
            refuse_ppm: 0,
            unreachable: BTreeSet::new(),
            connects: BTreeMap::new(),
            read_max,
            segments: false,
            streams: Vec::new(),
            touched: vec![BTreeSet::new(); shards],
        }
    }

    pub(super) fn schedule(&mut self, at: Tick, what: What) {
        self.scheduled += 1;
        self.events.push(Reverse(Event { at, sequence: self.scheduled, what }));
    }

    /// Returns the next event up to `end`, and sets the time to it, or to `end`.
    pub(super) fn next_event(&mut self, end: Tick) -> Option<Event> {
        if self.events.peek().is_none_or(|e| e.0.at > end) {
            self.now = self.now.max(end);
            return None;
        }
        let Reverse(event) = self.events.pop()?;
        self.now = event.at;
        Some(event)
    }

    /// Sends a datagram.
    pub(super) fn travel(&mut self, path: Path, what: impl Fn() -> What) {
        let copies = 1 + u32::from(self.rng.chance(path.twice_ppm));
        for _ in 0..copies {
            if !self.rng.chance(path.loss_ppm) {
                let jitter = self.jitter(path);
                self.schedule(self.now + path.delay + jitter, what());
            }
        }
    }

    pub(super) fn jitter(&mut self, path: Path) -> TickDelta {
        TickDelta(self.rng.u64() % (path.jitter.0 + 1))
    }

    /// Sends a datagram to a client.
    pub(super) fn deliver(&mut self, client: Client, bytes: &[u8]) {
        let seen = || What::Seen(Seen::Answer { client, bytes: bytes.to_vec() });
        self.travel(self.clients, seen);
    }

    /// Returns whether the kernel refuses to send a datagram to a backend.
    pub(super) fn refuses(&mut self, backend: SocketAddr) -> bool {
        self.unreachable.contains(&backend) || self.rng.chance(self.refuse_ppm)
    }
}

/// Takes at most `count` items off a queue.
pub(super) fn batch<T>(queue: &mut VecDeque<T>, count: usize) -> VecDeque<T> {
    let rest = queue.split_off(count.min(queue.len()));
    std::mem::replace(queue, rest)
}
