//! The simulation engine: a seeded network and a virtual clock around real shards.
//!
//! ```text
//!  ask ──► path (delay, loss, copies) ──► inbox of a shard ──► batch: the same calls as the reactor's
//!  Seen::Answer ◄── path ◄── on_response        on_query ──► path ──► Seen::Query
//!                                               on_response ◄── inbox ◄── path ◄── answer
//! ```
//!
//! Nothing happens by itself: [`Sim::next`] advances the time until something is visible from
//! outside, a query at a backend or an answer at a client. The caller plays both, by hand or with a
//! [`Server`]. Spoofing needs no feature: [`Sim::answer`] takes any bytes for any [`Port`].
//!
//! It does not model closing listeners, the restart of a shard after a panic, or full kernel
//! buffers. The same seed and the same calls give the same run, bit for bit.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::addr::{BackendSlot, Client, Route, SocketSlot};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::model::Snapshot;
use crate::shard::Shard;
use crate::shard::verdict::Verdict;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::LiveState;
use crate::wire::header;
use crate::wire::header::{Header, rcode};
use crate::wire::query::Question;

/// Longest accepted message, bytes, as in the socket engine.
const MESSAGE_MAX: usize = 4096;
/// Tailroom behind a message for an OPT record of our own, bytes.
const TAILROOM: usize = 448;
/// An idle shard wakes this often, as in the socket engine.
const IDLE: TickDelta = TickDelta::from_ms(250);
/// Packets of one batch.
const BATCH: usize = 64;

/// What a network path does to a datagram.
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

/// One of our sockets towards a backend, as the network sees it. The port of a closed socket is
/// never reused: what is sent to it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// The shard that owns it.
    pub shard: usize,
    /// The backend and the socket.
    pub route: Route,
    /// Counts how often the backend's sockets were opened.
    opened: u64,
}

/// What is visible from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A backend receives a query.
    Query {
        /// The backend.
        backend: SocketAddr,
        /// The port to answer to.
        port: Port,
        /// The query.
        bytes: Vec<u8>,
    },
    /// A client receives an answer.
    Answer {
        /// The client.
        client: Client,
        /// The answer.
        bytes: Vec<u8>,
    },
}

#[derive(Debug)]
enum Arrival {
    Query(Client, Vec<u8>),
    Response(Port, Vec<u8>),
}

#[derive(Debug)]
enum What {
    Wake(usize),
    Arrive(usize, Arrival),
    Seen(Seen),
}

/// Ordered by time, then by the order of scheduling.
#[derive(Debug)]
struct Event {
    at: Tick,
    sequence: u64,
    what: What,
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

/// The sockets of one shard towards one backend.
#[derive(Clone, Copy, Debug)]
struct BackendSockets {
    backend: SocketAddr,
    opened: u64,
}

/// A shard and what its engine would own.
#[derive(Debug)]
struct Node {
    shard: Shard,
    backends: Vec<Option<BackendSockets>>,
    queries: VecDeque<(Client, Vec<u8>)>,
    responses: VecDeque<(Port, Vec<u8>)>,
    /// The valid wake-up; all others are stale.
    wakes_at: Tick,
    tidied: Tick,
    opened_generation: u64,
}

/// Everything outside the shards.
#[derive(Debug)]
struct Network {
    now: Tick,
    rng: ShardRng,
    events: BinaryHeap<Reverse<Event>>,
    scheduled: u64,
    opened: u64,
    clients: Path,
    backends: Path,
    refuse_ppm: u32,
    unreachable: BTreeSet<SocketAddr>,
}

/// A simulated process: its shards, their clients and their backends.
#[derive(Debug)]
pub struct Sim {
    network: Network,
    snapshot: Arc<Snapshot>,
    nodes: Vec<Node>,
    wake_lag: TickDelta,
}

impl Sim {
    /// Creates as many shards as `live_state` has, with `snapshot` in force; the network is
    /// perfect.
    #[must_use]
    pub fn new(seed: u64, live_state: &Arc<LiveState>, snapshot: Arc<Snapshot>) -> Self {
        let mut rng = ShardRng::from_seed(seed);
        let nodes: Vec<Node> = (0..live_state.shards().len())
            .map(|index| Node {
                shard: Shard::new(
                    index,
                    live_state.clone(),
                    snapshot.clone(),
                    ShardRng::from_seed(rng.u64()),
                ),
                backends: Vec::new(),
                queries: VecDeque::new(),
                responses: VecDeque::new(),
                wakes_at: Tick(0),
                tidied: Tick(0),
                opened_generation: 0,
            })
            .collect();
        let network = Network {
            now: Tick(1_000_000_000),
            rng,
            events: BinaryHeap::new(),
            scheduled: 0,
            opened: 0,
            clients: Path::default(),
            backends: Path::default(),
            refuse_ppm: 0,
            unreachable: BTreeSet::new(),
        };
        let mut sim = Self { network, snapshot, nodes, wake_lag: TickDelta(0) };
        sim.wake_all();
        sim
    }

    /// Returns the virtual time.
    #[must_use]
    pub const fn now(&self) -> Tick {
        self.network.now
    }

    /// Sets the path between clients and shards, for both directions.
    pub const fn set_clients(&mut self, path: Path) {
        self.network.clients = path;
    }

    /// Sets the path between shards and backends, for both directions.
    pub const fn set_backends(&mut self, path: Path) {
        self.network.backends = path;
    }

    /// Sets how many queries the kernel refuses to send, parts per million.
    pub const fn set_refusals(&mut self, ppm: u32) {
        self.network.refuse_ppm = ppm;
    }

    /// Sets whether the kernel has a route to a backend; without one it refuses every query.
    pub fn set_reachable(&mut self, backend: SocketAddr, reachable: bool) {
        if reachable {
            self.network.unreachable.remove(&backend);
        } else {
            self.network.unreachable.insert(backend);
        }
    }

    /// Sets how long after an arrival a shard wakes, at most; later arrivals join its batch.
    pub const fn set_wake_lag(&mut self, lag: TickDelta) {
        self.wake_lag = lag;
    }

    /// Publishes a snapshot; every shard takes it with its next batch, which begins at once.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        self.wake_all();
    }

    /// Returns the shards, for inspection.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.nodes.iter().map(|n| &n.shard)
    }

    /// Sends a client's query to the shard that the kernel's steering chose.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn ask(&mut self, shard: usize, client: Client, bytes: &[u8]) {
        assert!(shard < self.nodes.len(), "shard {shard} does not exist");
        let network = &mut self.network;
        network.travel(network.clients, || What::Arrive(shard, Arrival::Query(client, bytes.to_vec())));
    }

    /// Sends bytes to one of our backend ports, after a delay. (The sockets are connected:
    /// datagrams of other addresses are not modelled, because the kernel drops them.)
    pub fn answer(&mut self, port: Port, after: TickDelta, bytes: &[u8]) {
        let network = &mut self.network;
        let path = network.backends;
        let path = Path { delay: TickDelta(path.delay.0.saturating_add(after.0)), ..path };
        network.travel(path, || What::Arrive(port.shard, Arrival::Response(port, bytes.to_vec())));
    }

    /// Advances the time until something is visible; `None` at `end`.
    pub fn next(&mut self, end: Tick) -> Option<Seen> {
        loop {
            if self.network.events.peek().is_none_or(|e| e.0.at > end) {
                self.network.now = self.network.now.max(end);
                return None;
            }
            let Reverse(event) = self.network.events.pop()?;
            self.network.now = event.at;
            match event.what {
                What::Seen(seen) => return Some(seen),
                What::Wake(at) if self.nodes[at].wakes_at == event.at => self.batch(at),
                What::Wake(_) => {}
                What::Arrive(at, arrival) => self.arrive(at, arrival),
            }
        }
    }

    fn arrive(&mut self, at: usize, arrival: Arrival) {
        let node = &mut self.nodes[at];
        match arrival {
            Arrival::Query(client, bytes) => node.queries.push_back((client, bytes)),
            Arrival::Response(port, bytes) => node.responses.push_back((port, bytes)),
        }
        let lag = TickDelta(self.network.rng.u64() % (self.wake_lag.0 + 1));
        let wake = self.network.now + lag;
        if wake < node.wakes_at || node.wakes_at <= self.network.now {
            self.wake(at, wake);
        }
    }

    fn wake(&mut self, at: usize, when: Tick) {
        self.nodes[at].wakes_at = when;
        self.network.schedule(when, What::Wake(at));
    }

    fn wake_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.wake(at, self.network.now);
        }
    }

    /// Runs one round of a shard's loop, in the order of the socket engine.
    fn batch(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let now = self.network.now;
        node.begin(&self.snapshot, &mut self.network);
        for _ in 0..BATCH {
            let Some((port, bytes)) = node.responses.pop_front() else { break };
            if let Some((route, bytes)) = node.read_response(port, bytes, &mut self.network) {
                node.send(at, route, bytes, &mut self.network);
            }
        }
        let mut outgoing = Vec::new();
        for _ in 0..BATCH {
            let Some((client, bytes)) = node.queries.pop_front() else { break };
            node.read_query(client, bytes, &mut outgoing, &mut self.network);
        }
        for (route, bytes) in outgoing {
            node.send(at, route, bytes, &mut self.network);
        }
        let mut due = Vec::new();
        let network = &mut self.network;
        node.shard.on_tick(&mut |verdict, bytes| match verdict {
            Verdict::Forward(route) => due.push((route, bytes.to_vec())),
            Verdict::Answer(to) | Verdict::Deliver(to) => network.deliver(to, bytes),
            Verdict::Drop(_) | Verdict::Hold => {}
        });
        for (route, bytes) in due {
            node.send(at, route, bytes, &mut self.network);
        }
        if now.since(node.tidied) >= IDLE {
            node.tidy(now);
        }
        let busy = !(node.queries.is_empty() && node.responses.is_empty());
        let sleep = if busy { TickDelta(1_000) } else { node.sleep(now) };
        self.wake(at, now + sleep);
    }
}

impl Node {
    fn begin(&mut self, snapshot: &Arc<Snapshot>, network: &mut Network) {
        self.shard.begin_batch(network.now, snapshot);
        if self.opened_generation == snapshot.generation {
            return;
        }
        self.opened_generation = snapshot.generation;
        for backend in snapshot.backends.iter().flatten() {
            let at = backend.slot.index();
            if self.backends.len() <= at {
                self.backends.resize(at + 1, None);
            }
            if self.backends[at].is_none() {
                network.opened += 1;
                self.backends[at] = Some(BackendSockets { backend: backend.address, opened: network.opened });
            }
        }
    }

    fn backend_sockets(&self, slot: BackendSlot) -> Option<BackendSockets> {
        self.backends.get(slot.index()).copied().flatten()
    }

    fn read_query(
        &mut self,
        client: Client,
        mut bytes: Vec<u8>,
        outgoing: &mut Vec<(Route, Vec<u8>)>,
        network: &mut Network,
    ) {
        if bytes.len() > MESSAGE_MAX {
            self.shard.drop(DropReason::Oversized);
            return;
        }
        let mut packet = roomy(&mut bytes);
        match self.shard.on_query(client, &mut packet) {
            Verdict::Forward(route) => outgoing.push((route, packet.bytes().to_vec())),
            Verdict::Answer(to) | Verdict::Deliver(to) => network.deliver(to, packet.bytes()),
            Verdict::Drop(_) | Verdict::Hold => {}
        }
    }

    /// Reads a response. Returns the query that must be resent because of it, if any.
    fn read_response(
        &mut self,
        port: Port,
        mut bytes: Vec<u8>,
        network: &mut Network,
    ) -> Option<(Route, Vec<u8>)> {
        if self.backend_sockets(port.route.backend).is_none_or(|l| l.opened != port.opened) {
            // The socket is closed.
            return None;
        }
        if bytes.len() > MESSAGE_MAX {
            self.shard.drop(DropReason::Oversized);
            return None;
        }
        let mut packet = roomy(&mut bytes);
        match self.shard.on_response(port.route, &mut packet) {
            Verdict::Answer(to) | Verdict::Deliver(to) => network.deliver(to, packet.bytes()),
            Verdict::Forward(route) => return Some((route, packet.bytes().to_vec())),
            Verdict::Drop(_) | Verdict::Hold => {}
        }
        None
    }

    /// Sends a query, or offers it to other backends when the kernel refuses.
    fn send(&mut self, shard: usize, route: Route, mut bytes: Vec<u8>, network: &mut Network) {
        let backends = &self.backends;
        let mut send = |route: Route, bytes: &[u8]| {
            let backend_sockets = backends.get(route.backend.index()).copied().flatten();
            let Some(BackendSockets { backend, opened }) = backend_sockets else { return false };
            if network.refuses(backend) {
                return false;
            }
            let port = Port { shard, route, opened };
            let seen = || What::Seen(Seen::Query { backend, port, bytes: bytes.to_vec() });
            network.travel(network.backends, seen);
            true
        };
        if !send(route, &bytes) {
            let mut packet = roomy(&mut bytes);
            self.shard.on_unsent(route, &mut packet, |_, route, bytes| send(route, bytes));
        }
    }

    /// Closes what is finished.
    fn tidy(&mut self, now: Tick) {
        let gone: Vec<BackendSlot> = self.shard.retired().collect();
        for slot in gone {
            self.backends[slot.index()] = None;
            self.shard.detach(slot);
        }
        self.tidied = now;
    }

    fn sleep(&self, now: Tick) -> TickDelta {
        let wait =
            self.shard.next_deadline().map_or(IDLE, |at| TickDelta::from_ms(at.since(now).as_ms_ceil()));
        TickDelta(wait.0.clamp(1_000, IDLE.0))
    }
}

fn roomy(bytes: &mut Vec<u8>) -> Packet<'_> {
    let length = bytes.len();
    bytes.resize(length + TAILROOM, 0);
    Packet::new(bytes, 0, length)
}

impl Network {
    fn schedule(&mut self, at: Tick, what: What) {
        self.scheduled += 1;
        self.events.push(Reverse(Event { at, sequence: self.scheduled, what }));
    }

    fn travel(&mut self, path: Path, what: impl Fn() -> What) {
        let copies = 1 + u32::from(self.rng.chance(path.twice_ppm));
        for _ in 0..copies {
            if !self.rng.chance(path.loss_ppm) {
                let jitter = TickDelta(self.rng.u64() % (path.jitter.0 + 1));
                self.schedule(self.now + path.delay + jitter, what());
            }
        }
    }

    fn deliver(&mut self, client: Client, bytes: &[u8]) {
        let seen = || What::Seen(Seen::Answer { client, bytes: bytes.to_vec() });
        self.travel(self.clients, seen);
    }

    fn refuses(&mut self, backend: SocketAddr) -> bool {
        self.unreachable.contains(&backend) || self.rng.chance(self.refuse_ppm)
    }
}

/// The statistical behaviour of a name server.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Whether it answers at all.
    pub alive: bool,
    /// Its least latency.
    pub latency: TickDelta,
    /// Mean of the additional latency, exponentially distributed.
    pub latency_tail: TickDelta,
    /// SERVFAIL responses, parts per million.
    pub servfail_ppm: u32,
    /// Invalid responses, which no client must get, parts per million.
    pub wrong_ppm: u32,
}

impl Server {
    /// Creates a server that answers everything after `latency`.
    #[must_use]
    pub const fn steady(latency: TickDelta) -> Self {
        Self { alive: true, latency, latency_tail: TickDelta(0), servfail_ppm: 0, wrong_ppm: 0 }
    }

    /// Returns its response to a query and the delay; `None` when it does not answer.
    #[must_use]
    pub fn answer(&self, query: &[u8], rng: &mut ShardRng) -> Option<(TickDelta, Vec<u8>)> {
        if !self.alive {
            return None;
        }
        let head = Header::parse(query)?;
        let end = if head.qdcount() == 0 { header::LEN } else { Question::parse(query)?.end };
        let mut bytes = query[..end].to_vec();
        bytes[2] |= header::QR;
        bytes[3] = header::RA | (bytes[3] & header::CD);
        bytes[6..header::LEN].fill(0);
        if rng.chance(self.wrong_ppm) {
            spoil(&mut bytes, rng);
        } else if rng.chance(self.servfail_ppm) {
            bytes[3] |= rcode::SERVFAIL;
        }
        // The inverse of the exponential distribution, from a uniform number in (0, 1].
        let uniform = (f64::from(rng.u32()) + 1.0) / 4_294_967_296.0;
        let tail = -uniform.ln() * self.latency_tail.0 as f64;
        Some((TickDelta(self.latency.0 + tail as u64), bytes))
    }
}

/// Makes a response invalid.
fn spoil(bytes: &mut Vec<u8>, rng: &mut ShardRng) {
    match rng.below(5) {
        0 => bytes[0] ^= 0x55,
        1 => bytes[2] &= !header::QR,
        2 => bytes.truncate(rng.below(header::LEN as u32) as usize),
        3 => {
            // Another type; the third byte from the end is its low half.
            let at = bytes.len() - 3;
            bytes[at] ^= 0x11;
        }
        _ => {
            bytes.truncate(header::LEN);
            bytes[5] = 0;
        }
    }
}

/// Returns the port of another socket of the same backend: a spoofer has to guess among them.
#[must_use]
pub const fn sibling(port: Port, socket: u16) -> Port {
    Port { route: Route { socket: SocketSlot::from_number(socket), ..port.route }, ..port }
}
