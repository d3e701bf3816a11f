//! The simulation engine: a seeded network and a virtual clock around real shards.
//!
//! ```text
//!  ask ──────────────► path ──► inbox of a shard ──┐                        ┌─► path ──► Seen::Query
//!  answer ───────────► path ──► inbox ─────────────┤ a turn: the same calls │
//!  connect, send, end, reset ► path ► streams ─────┤ as the reactor's, in   ├─► path ──► Seen::Answer
//!  reply ────────────► path ──► inbox of flows ────┘ the same order         └─► path ──► Seen::Bytes, …
//! ```
//!
//! Nothing happens by itself: [`Sim::next`] advances the time until something is visible from
//! outside: what a client, a backend or a relay's target receives. The caller plays all of these, by
//! hand or with a [`Server`]. Spoofing needs no feature: [`Sim::answer`] takes any bytes for any
//! [`Port`]. The same seed and the same calls give the same run, bit for bit.
//!
//! It models
//! - datagrams: delay, reordering, loss, copies, refusals by the kernel;
//! - connections of clients, to backends and of relays: bytes in order and in segments of any size,
//!   peers with room for few bytes, half-close, reset, connects that are refused or hang, closed
//!   connections that drain;
//! - relayed flows, a socket for each, and the refusals of their targets;
//! - the rounds of the loop and the slices of time in them, reloads, listeners that are opened and
//!   closed.
//!
//! It does not model TLS, TCP Fast Open, source addresses, a kernel without descriptors, full
//! buffers for datagrams, the restart of a shard after a panic, or the end of a process. UDP
//! listeners of DNS receive for as long as the caller sends to them.

mod connections;
mod datagram;
pub mod flow;
pub mod network;
mod node;
mod relay;
pub mod server;
pub mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::addr::{Client, ListenerSlot, Route, SessionSlot};
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
pub use crate::engine::sim::flow::FlowPort;
pub use crate::engine::sim::network::Path;
use crate::engine::sim::network::{Arrival, Network, What};
use crate::engine::sim::node::{Node, TURN};
pub use crate::engine::sim::server::{Server, sibling};
pub use crate::engine::sim::stream::{Closed, Connects, Role, Stream};
use crate::model::Snapshot;
use crate::shard::Shard;
use crate::stats::close_reason::RelayCloseReason;
use crate::stats::live::LiveState;

/// Bytes of one read, as in the socket engine.
const READ: usize = 64 * 1024;

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
    /// A backend receives a query as a datagram.
    Query {
        /// The backend.
        backend: SocketAddr,
        /// The port to answer to.
        port: Port,
        /// The query.
        bytes: Vec<u8>,
    },
    /// A client receives a datagram.
    Answer {
        /// The client.
        client: Client,
        /// The answer.
        bytes: Vec<u8>,
    },
    /// A relay's target receives a datagram.
    Relayed {
        /// The target.
        target: SocketAddr,
        /// The port to reply to.
        port: FlowPort,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// The shard begins to connect to a backend or a target.
    Connect {
        /// The connection.
        stream: Stream,
        /// Where it goes.
        backend: SocketAddr,
    },
    /// The peer of a connection receives bytes.
    Bytes {
        /// The connection.
        stream: Stream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The shard's end of a connection sends no more.
    End {
        /// The connection.
        stream: Stream,
    },
    /// The shard's end of a connection was reset.
    Reset {
        /// The connection.
        stream: Stream,
    },
}

/// A simulated process: its shards, their clients and their backends.
#[derive(Debug)]
pub struct Sim {
    network: Network,
    snapshot: Arc<Snapshot>,
    nodes: Vec<Node>,
    wake_lag: TickDelta,
    step_cost: TickDelta,
}

impl Sim {
    /// Creates as many shards as `live_state` has, with `snapshot` in force; the network is
    /// perfect.
    #[must_use]
    pub fn new(seed: u64, live_state: &Arc<LiveState>, snapshot: Arc<Snapshot>) -> Self {
        let mut rng = ShardRng::from_seed(seed);
        let nodes: Vec<Node> = (0..live_state.shards().len())
            .map(|index| {
                let rng = ShardRng::from_seed(rng.u64());
                Node::new(index, Shard::new(index, live_state.clone(), snapshot.clone(), rng))
            })
            .collect();
        let network = Network::new(rng, nodes.len(), READ);
        let (wake_lag, step_cost) = (TickDelta(0), TickDelta(0));
        let mut sim = Self { network, snapshot, nodes, wake_lag, step_cost };
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

    /// Sets how many datagrams to backends the kernel refuses to send, parts per million.
    pub const fn set_refusals(&mut self, ppm: u32) {
        self.network.refuse_ppm = ppm;
    }

    /// Sets whether the kernel has a route to a backend; without one it refuses every query and
    /// connection.
    pub fn set_reachable(&mut self, backend: SocketAddr, reachable: bool) {
        if reachable {
            self.network.unreachable.remove(&backend);
        } else {
            self.network.unreachable.insert(backend);
        }
    }

    /// Sets how a backend or target takes connections.
    pub fn set_connects(&mut self, backend: SocketAddr, connects: Connects) {
        self.network.connects.insert(backend, connects);
    }

    /// Sets whether each read takes a random part of what has arrived.
    pub const fn set_segments(&mut self, random: bool) {
        self.network.segments = random;
    }

    /// Sets how many bytes one read takes at most.
    pub const fn set_read_max(&mut self, bytes: usize) {
        self.network.read_max = bytes;
    }

    /// Sets how long after an arrival a shard wakes, at most; later arrivals join its batch.
    pub const fn set_wake_lag(&mut self, lag: TickDelta) {
        self.wake_lag = lag;
    }

    /// Sets the time that a step of the work on connections takes in the reckoning of slices: 0
    /// does everything in one turn, a millisecond one step in each.
    pub const fn set_step_cost(&mut self, cost: TickDelta) {
        self.step_cost = cost;
    }

    /// Publishes a snapshot; every shard takes it with its next turn, which begins at once. New
    /// listeners are opened; others stay open until [`Sim::unlisten`].
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        self.wake_all();
    }

    /// Stops accepting at a listener of each shard, as the control thread does when a configuration
    /// drops it. Its UDP flows end soon, its connections when they are answered.
    pub fn unlisten(&mut self, listener: ListenerSlot) {
        self.nodes.iter_mut().for_each(|node| node.unlisten.push_back(listener));
        self.wake_all();
    }

    /// Returns whether a listener of a shard takes connections or flows.
    #[must_use]
    pub fn is_listening(&self, shard: usize, listener: ListenerSlot) -> bool {
        self.nodes[shard].listener(listener).is_some()
    }

    /// Returns the relay sessions of a shard that have ended since the last call, and why.
    pub fn ended_sessions(&mut self, shard: usize) -> Vec<(SessionSlot, RelayCloseReason)> {
        std::mem::take(&mut self.nodes[shard].ended_sessions)
    }

    /// Returns the shards, for inspection.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.nodes.iter().map(|n| &n.shard)
    }

    /// Returns a shard, for inspection.
    #[must_use]
    pub fn shard(&self, shard: usize) -> &Shard {
        &self.nodes[shard].shard
    }

    /// Returns the turns that a shard has taken.
    #[must_use]
    pub fn turns(&self, shard: usize) -> u64 {
        self.nodes[shard].turns_total
    }

    /// Returns a shard for single calls that no event of the network leads to. Its next turn begins
    /// at once.
    pub fn shard_mut(&mut self, shard: usize) -> &mut Shard {
        self.wake(shard, self.network.now);
        &mut self.nodes[shard].shard
    }

    /// Sends a client's datagram to the shard that the kernel's steering chose.
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
        while let Some(event) = self.network.next_event(end) {
            match event.what {
                What::Seen(seen) => return Some(seen),
                What::Wake(at) if self.nodes[at].wakes_at == event.at => self.run_turn(at),
                What::Wake(_) => {}
                What::Arrive(at, arrival) => self.arrive(at, arrival),
            }
        }
        None
    }

    /// Does the same as long as a shard has work, or something arrives at this instant; the time
    /// hardly advances.
    pub fn next_at_once(&mut self) -> Option<Seen> {
        loop {
            let seen = self.next(self.network.now);
            if seen.is_some() || !self.nodes.iter().any(|node| node.has_work(&self.network)) {
                return seen;
            }
            let seen = self.next(self.network.now + TURN);
            if seen.is_some() {
                return seen;
            }
        }
    }

    /// Lets everything of this instant arrive, and runs one turn of a shard and none of others.
    /// Returns what is visible at this instant.
    pub fn turn(&mut self, shard: usize) -> Vec<Seen> {
        let mut seen = self.arrivals();
        self.run_turn(shard);
        seen.extend(self.arrivals());
        seen
    }

    /// Handles the events of this instant but the wake-ups, which stay.
    fn arrivals(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Some(event) = self.network.next_event(self.network.now) {
            match event.what {
                What::Seen(what) => seen.push(what),
                What::Arrive(at, arrival) => self.nodes[at].arrive(arrival, &mut self.network),
                What::Wake(_) => {}
            }
        }
        self.wake_all();
        seen
    }

    fn arrive(&mut self, at: usize, arrival: Arrival) {
        self.nodes[at].arrive(arrival, &mut self.network);
        let lag = TickDelta(self.network.rng.u64() % (self.wake_lag.0 + 1));
        let wake = self.network.now + lag;
        if wake < self.nodes[at].wakes_at || self.nodes[at].wakes_at <= self.network.now {
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

    /// Runs one turn of a shard's loop.
    fn run_turn(&mut self, at: usize) {
        let next = self.nodes[at].turn(&self.snapshot, self.step_cost, &mut self.network);
        self.wake(at, next);
    }
}
