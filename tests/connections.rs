//! Tests client and backend connections in the simulator: bytes in pieces of any size, work in any
//! portions, and servers that misbehave. Counters must add up, and no query may be lost that some
//! server would have answered.

#[path = "connections/backends.rs"]
mod backends;
#[path = "connections/evict.rs"]
mod evict;
#[path = "connections/spoofing.rs"]
mod spoofing;
mod support;
#[path = "connections/turns.rs"]
mod turns;
#[path = "connections/unfinished.rs"]
mod unfinished;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dnslob::base::addr::{BackendSlot, Client, ConnectionSlot, ListenerSlot, LocalSlot, Route};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::config::Slots;
use dnslob::engine::sim::{Closed, Connects, Role, Seen, Sim, Stream};
use dnslob::model::{Listener, ProxyHeader, Snapshot};
use dnslob::shard::Shard;
use dnslob::shard::backend::BackendInterest;
use dnslob::shard::verdict::Verdict;
use dnslob::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::live::{LiveState, State};
use dnslob::wire::keepalive;
use support::config::{TestConfig, client, configured};

const CLIENT: &str = "127.0.0.1:4000";

/// Returns a query for `q<number>.example`, type A, or a transfer query for that name.
fn query(id: u16, number: u32, qtype: u16) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    let label = format!("q{number}");
    bytes.push(label.len() as u8);
    bytes.extend(label.bytes());
    bytes.extend(b"\x07example\0");
    bytes.extend(qtype.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// Returns an answer to a query: its header and question, then `count` records.
fn answer(query: &[u8], records: &[u8], count: u8) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes[7] = count;
    bytes.extend(records);
    bytes
}

fn soa() -> Vec<u8> {
    let mut record = vec![0xc0, 0x0c, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0];
    record.extend([0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
    record
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// Splits a byte stream into its messages. Panics on an incomplete message.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some((length, rest)) = bytes.split_at_checked(2) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        all.push(rest[..length].to_vec());
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "whole frames");
    all
}

fn number(message: &[u8]) -> u32 {
    let length = usize::from(message[12]);
    std::str::from_utf8(&message[14..13 + length]).expect("a label").parse().expect("a number")
}

/// The behaviour of a simulated server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Answers,
    Refuses,
    NeverConnects,
    NeverAnswers,
    ClosesAfterEach,
}

/// Clients and servers that play in the simulator, with one shard between them.
struct Harness {
    sim: Sim,
    live_state: Arc<LiveState>,
    snapshot: Arc<Snapshot>,
    rng: ShardRng,
    behaviours: Vec<Behaviour>,
    addresses: Vec<SocketAddr>,
    /// Open connections to servers, and what these have received by them.
    connections: BTreeMap<Stream, Vec<u8>>,
    /// Bytes received by clients, and the close reasons of their connections.
    got: BTreeMap<Stream, Vec<u8>>,
    ended: BTreeMap<Stream, ClientCloseReason>,
    /// Received by servers and clients.
    datagrams: VecDeque<Seen>,
    /// The bytes that a client has room for at a time.
    portion: usize,
}

impl Harness {
    fn new(config: &TestConfig, seed: u64) -> Self {
        let live_state = config.live_state(1, config.backends.len().max(1));
        let snapshot = config.snapshot();
        let mut harness = Self {
            sim: Sim::new(seed, &live_state, snapshot.clone()),
            live_state,
            snapshot,
            rng: ShardRng::from_seed(seed),
            behaviours: vec![Behaviour::Answers; config.backends.len()],
            addresses: config.backends.iter().flatten().map(|b| b.address).collect(),
            connections: BTreeMap::new(),
            got: BTreeMap::new(),
            ended: BTreeMap::new(),
            datagrams: VecDeque::new(),
            portion: usize::MAX,
        };
        harness.run();
        harness
    }

    fn shard(&self) -> &Shard {
        self.sim.shard(0)
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot.clone();
        self.sim.publish(snapshot);
        self.run();
    }

    fn connect(&mut self, address: &str) -> Option<Stream> {
        let stream = self.sim.connect(0, ListenerSlot(0), client(address).peer);
        self.sim.set_room(stream, self.portion);
        self.run();
        if self.sim.closed(stream) == Some(Closed::Refused) {
            return None;
        }
        self.got.insert(stream, Vec::new());
        Some(stream)
    }

    /// Returns the slot that the shard has given to a client connection.
    fn slot(&self, stream: Stream) -> ConnectionSlot {
        let Role::Client(slot) = self.sim.role(stream) else { panic!("{stream:?} is no client's") };
        slot
    }

    /// Returns the route of a backend connection.
    fn route(&self, stream: Stream) -> Route {
        let Role::Backend(route) = self.sim.role(stream) else { panic!("{stream:?} is no backend's") };
        route
    }

    /// Returns whether a client connection may be read, and the engine knows.
    fn is_read(&self, stream: Stream) -> bool {
        self.shard().client_may_read(self.slot(stream)) && self.sim.is_read(stream)
    }

    /// A client sends bytes.
    fn send(&mut self, stream: Stream, bytes: &[u8]) {
        self.sim.send(stream, bytes);
        self.run();
    }

    fn ask(&mut self, stream: Stream, id: u16, number: u32) {
        self.send(stream, &framed(&query(id, number, 1)));
    }

    /// A client has room for a number of bytes.
    fn take(&mut self, stream: Stream, bytes: usize) {
        self.sim.set_room(stream, bytes);
        self.run();
    }

    /// Sets what clients have room for, at each step of the servers or of the time.
    fn set_portion(&mut self, bytes: usize) {
        self.portion = bytes;
        for stream in self.got.keys().filter(|stream| !self.ended.contains_key(stream)) {
            self.sim.set_room(*stream, bytes);
        }
    }

    /// The client has left.
    fn leave(&mut self, stream: Stream) {
        self.sim.reset(stream);
        self.run();
    }

    /// Advances the time.
    fn pass(&mut self, ms: u64) {
        self.set_connects();
        let until = self.sim.now() + TickDelta::from_ms(ms);
        while let Some(seen) = self.sim.next(until) {
            self.see(seen);
        }
        self.run();
    }

    /// Lets the shard do all its work of this instant.
    fn run(&mut self) {
        self.set_connects();
        while let Some(seen) = self.sim.next_at_once() {
            self.see(seen);
        }
        self.note_ends();
    }

    /// Lets the shard take one turn.
    fn turn(&mut self) {
        for seen in self.sim.turn(0) {
            self.see(seen);
        }
        self.note_ends();
    }

    fn set_connects(&mut self) {
        for (address, behaviour) in self.addresses.iter().zip(&self.behaviours) {
            let connects = match behaviour {
                Behaviour::Refuses => Connects::Refuses,
                Behaviour::NeverConnects => Connects::Hangs,
                Behaviour::Answers | Behaviour::NeverAnswers | Behaviour::ClosesAfterEach => {
                    Connects::Accepts
                }
            };
            self.sim.set_connects(*address, connects);
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Connect { stream, .. } => drop(self.connections.insert(stream, Vec::new())),
            Seen::Bytes { stream, bytes } => {
                let received = self.connections.get_mut(&stream).or_else(|| self.got.get_mut(&stream));
                received.expect("an open one").extend(bytes);
            }
            Seen::End { stream } | Seen::Reset { stream } => drop(self.connections.remove(&stream)),
            Seen::Query { .. } | Seen::Answer { .. } => self.datagrams.push_back(seen),
            Seen::Relayed { .. } => panic!("no relay here"),
        }
    }

    fn note_ends(&mut self) {
        let sim = &self.sim;
        self.connections.retain(|stream, _| sim.closed(*stream).is_none());
        for stream in self.got.keys() {
            if let Some(Closed::Client(why)) = sim.closed(*stream) {
                self.ended.insert(*stream, why);
            }
        }
    }

    /// Returns the queries that servers have received over connections.
    fn received(&self) -> Vec<(Stream, Vec<u8>)> {
        let each = |(stream, received): (&Stream, &Vec<u8>)| {
            messages(received).into_iter().map(|m| (*stream, m)).collect::<Vec<_>>()
        };
        self.connections.iter().flat_map(each).collect()
    }

    /// A server sends bytes.
    fn deliver(&mut self, stream: Stream, bytes: &[u8]) {
        self.sim.send(stream, bytes);
        self.run();
    }

    /// A server closes its end, or resets the connection.
    fn break_off(&mut self, stream: Stream, why: BackendCloseReason) {
        self.connections.remove(&stream);
        if why == BackendCloseReason::Closed {
            self.sim.end(stream);
        } else {
            self.sim.reset(stream);
        }
        self.run();
        assert_eq!(self.sim.closed(stream), Some(Closed::Backend(Some(why))));
    }

    /// Each server acts once according to its behaviour.
    fn servers_turn(&mut self) {
        for stream in self.connections.keys().copied().collect::<Vec<_>>() {
            let Some(received) = self.connections.get_mut(&stream) else { continue };
            let received = messages(&std::mem::take(received));
            match self.behaviours[self.route(stream).backend.index()] {
                Behaviour::Answers => {
                    let mut replies: Vec<_> = received.iter().map(|q| framed(&answer(q, &[], 0))).collect();
                    // Out of order, and split at an arbitrary byte.
                    for at in (1..replies.len()).rev() {
                        replies.swap(at, self.rng.below(at as u32 + 1) as usize);
                    }
                    let all = replies.concat();
                    let cut = self.rng.below(all.len() as u32 + 1) as usize;
                    for part in [&all[..cut], &all[cut..]].into_iter().filter(|part| !part.is_empty()) {
                        self.deliver(stream, part);
                    }
                }
                Behaviour::ClosesAfterEach => {
                    if let Some(first) = received.first() {
                        self.deliver(stream, &framed(&answer(first, &[], 0)));
                        if self.connections.contains_key(&stream) {
                            self.break_off(stream, BackendCloseReason::Closed);
                        }
                    }
                }
                Behaviour::NeverAnswers => {}
                Behaviour::Refuses | Behaviour::NeverConnects => {
                    if !received.is_empty() && self.connections.contains_key(&stream) {
                        self.break_off(stream, BackendCloseReason::Broken);
                    }
                }
            }
        }
    }

    /// A client sends a query by UDP. Its server answers over TCP with more bytes than the client
    /// accepts.
    fn answer_at_length(&mut self, from: Client) {
        self.sim.ask(0, from, &query(77, 5, 1));
        self.run();
        assert!(self.datagrams.is_empty(), "it is held");
        let (stream, received) = self.received().remove(0);
        let record = [&[0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60, 2, 88][..], &[0; 600]].concat();
        self.deliver(stream, &framed(&answer(&received, &record, 1)));
    }

    /// Returns the datagram that a client has received.
    fn answered(&mut self) -> (Client, Vec<u8>) {
        let Some(Seen::Answer { client, bytes }) = self.datagrams.pop_front() else { panic!("no answer") };
        (client, bytes)
    }

    fn ends(&self, why: ClientCloseReason) -> u64 {
        self.live_state.shards()[0].clients.ended(why).get()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.live_state.shards()[0].dropped(reason).get()
    }

    fn got(&self, stream: Stream) -> Vec<Vec<u8>> {
        messages(&self.got[&stream])
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            self.servers_turn();
            self.set_portion(self.portion);
            self.pass(0);
        }
    }
}

#[test]
fn queries_split_at_any_byte_are_answered_in_order_of_completion() {
    let mut harness = Harness::new(&TestConfig::new(1), 1);
    let stream = harness.connect(CLIENT).expect("taken");
    let bytes: Vec<u8> = (0..9).flat_map(|n| framed(&query(n, n.into(), 1))).collect();
    for piece in bytes.chunks(5) {
        harness.send(stream, piece);
    }
    assert_eq!(harness.received().len(), 9, "all go by one connection");
    assert_eq!(harness.connections.len(), 1);
    harness.settle();
    let ids: BTreeSet<u16> = harness.got(stream).iter().map(|m| u16::from_be_bytes([m[0], m[1]])).collect();
    assert_eq!(ids, (0..9).collect());
    for message in harness.got(stream) {
        assert_eq!(u32::from(u16::from_be_bytes([message[0], message[1]])), number(&message));
    }
    harness.shard().check_invariants();
}

#[test]
fn a_connection_at_its_in_flight_limit_is_not_read() {
    let mut config = TestConfig::new(1);
    let mut listener = (*config.listeners[0]).clone();
    listener.connection_options.in_flight = 2;
    config.listeners = vec![Arc::new(listener)];
    let mut harness = Harness::new(&config, 2);
    let stream = harness.connect(CLIENT).expect("taken");
    let bytes: Vec<u8> = (0..5).flat_map(|n| framed(&query(n, n.into(), 1))).collect();
    harness.send(stream, &bytes);
    harness.pass(0);
    assert_eq!(harness.received().len(), 2);
    assert!(!harness.is_read(stream));
    harness.settle();
    assert_eq!(harness.got(stream).len(), 5, "each answer lets another query go");
    assert!(harness.is_read(stream));
}

/// Limits connections to one query in flight.
fn one_at_a_time(config: &mut TestConfig) {
    let mut listener = (*config.listeners[0]).clone();
    listener.connection_options.in_flight = 1;
    config.listeners = vec![Arc::new(listener)];
}

/// Returns a message that is dropped at once, without an answer, since it is not a query.
fn no_query(id: u16) -> Vec<u8> {
    framed(&answer(&query(id, id.into(), 1), &[], 0))
}

#[test]
fn a_connection_at_its_limit_is_read_again_after_a_lost_query() {
    let mut config = TestConfig::new(1);
    one_at_a_time(&mut config);
    config.globals.client_connections.receive_timeout = TickDelta::from_ms(60_000);
    config.backends[0].as_mut().expect("one").connections.receive_timeout = TickDelta::from_ms(600);
    let mut harness = Harness::new(&config, 21);
    harness.behaviours = vec![Behaviour::NeverAnswers];
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 1, 1);
    harness.pass(0);
    assert!(!harness.is_read(stream));
    harness.pass(750);
    assert_eq!((harness.shard().outstanding(), harness.got(stream).len()), (0, 0), "it is lost");
    assert!(harness.is_read(stream), "the next one is read");
    harness.shard().check_invariants();
}

#[test]
fn a_connection_is_read_again_after_all_its_queries_are_dropped() {
    let mut config = TestConfig::new(1);
    one_at_a_time(&mut config);
    let mut harness = Harness::new(&config, 22);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &[framed(&query(1, 1, 1)), no_query(2), no_query(3)].concat());
    harness.pass(0);
    assert!(!harness.is_read(stream));
    harness.settle();
    assert_eq!((harness.got(stream).len(), harness.drops(DropReason::QueryIsResponse)), (1, 2));
    assert!(harness.is_read(stream));
    harness.shard().check_invariants();
}

#[test]
fn the_receive_timeout_restarts_when_reading_resumes() {
    let mut config = TestConfig::new(1);
    one_at_a_time(&mut config);
    let connections = &mut config.backends[0].as_mut().expect("one").connections;
    (connections.receive_timeout, connections.tries) = (TickDelta::from_ms(15_000), 1);
    let mut harness = Harness::new(&config, 23);
    harness.behaviours = vec![Behaviour::NeverAnswers];
    let stream = harness.connect(CLIENT).expect("taken");
    let next = framed(&query(2, 2, 1));
    harness.send(stream, &[&framed(&query(1, 1, 1))[..], &next[..9]].concat());
    harness.pass(14_000);
    assert_eq!(harness.shard().outstanding(), 1);
    harness.pass(5_000);
    assert_eq!((harness.shard().outstanding(), harness.ended.get(&stream)), (0, None), "lost, and open");
    harness.pass(12_000);
    assert_eq!(
        harness.ended.get(&stream),
        Some(&ClientCloseReason::ReadTimeout),
        "the second half never comes"
    );
}

#[test]
fn reading_slowly_does_not_extend_a_connection() {
    let mut config = TestConfig::new(1);
    config.globals.client_connections.duration = TickDelta::from_ms(30_000);
    let mut harness = Harness::new(&config, 24);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.set_portion(0);
    harness.ask(stream, 1, 1);
    harness.settle();
    for second in 0..40 {
        assert!(!harness.ended.contains_key(&stream), "{second} s");
        harness.pass(1_000);
        harness.take(stream, usize::from(second % 5 == 0));
    }
    harness.pass(1_000);
    assert_eq!(
        harness.ended.get(&stream),
        Some(&ClientCloseReason::Duration),
        "after another receive timeout"
    );
    assert!(harness.got[&stream].len() > 5, "it has taken some");
    harness.shard().check_invariants();
}

#[test]
fn queries_read_before_the_deadline_are_answered() {
    let mut config = TestConfig::new(1);
    one_at_a_time(&mut config);
    config.globals.client_connections.duration = TickDelta::from_ms(5_000);
    let mut harness = Harness::new(&config, 25);
    let stream = harness.connect(CLIENT).expect("taken");
    let bytes: Vec<u8> = (0..3).flat_map(|n| framed(&query(n, n.into(), 1))).collect();
    harness.send(stream, &bytes);
    harness.pass(6_000);
    assert!(harness.ended.is_empty(), "its first query is still asked");
    harness.settle();
    assert_eq!((harness.got(stream).len(), harness.ended[&stream]), (3, ClientCloseReason::Duration));
}

/// Returns a harness with nine of ten allowed connections open: above the overload threshold.
fn near_the_limit(seed: u64) -> (Harness, Vec<Stream>) {
    let mut config = TestConfig::new(1);
    config.globals.client_connections.connections = 10;
    config.globals.client_connections.overload_percent = 10;
    let mut harness = Harness::new(&config, seed);
    let streams = (0..9).map(|_| harness.connect(CLIENT).expect("taken")).collect();
    (harness, streams)
}

#[test]
fn near_the_limit_partial_queries_and_unread_answers_do_not_extend_a_connection() {
    let (mut harness, streams) = near_the_limit(26);
    harness.send(streams[0], &[0]);
    harness.set_portion(0);
    harness.ask(streams[1], 1, 1);
    harness.servers_turn();
    harness.pass(2_000);
    assert_eq!(harness.ended.get(&streams[0]), Some(&ClientCloseReason::ReadTimeout));
    assert_eq!(harness.ended.get(&streams[1]), Some(&ClientCloseReason::WriteTimeout));
    harness.shard().check_invariants();
}

#[test]
fn near_the_limit_a_connection_is_closed_after_its_answers() {
    let (mut harness, streams) = near_the_limit(27);
    for n in 0..3 {
        harness.ask(streams[0], n, n.into());
    }
    harness.pass(0);
    assert!(harness.ended.is_empty());
    harness.settle();
    assert_eq!(harness.got(streams[0]).len(), 3, "each is answered");
    assert_eq!(harness.ended, BTreeMap::from([(streams[0], ClientCloseReason::Overload)]));
    // A dropped message counts as finished, too; a query after it in the same read does not.
    harness.send(streams[1], &[no_query(1), framed(&query(2, 2, 1))].concat());
    harness.settle();
    assert_eq!((harness.got(streams[1]).len(), harness.ended[&streams[1]]), (1, ClientCloseReason::Overload));
    harness.shard().check_invariants();
}

/// Returns a query with the edns-tcp-keepalive option (RFC 7828).
fn query_with_keepalive(id: u16) -> Vec<u8> {
    let mut bytes = query(id, 1, 1);
    bytes[11] = 1;
    bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
    bytes
}

fn answer_with_opt(asked: &[u8], length: u16) -> Vec<u8> {
    let mut bytes = asked[..asked.len() - 11].to_vec();
    bytes[2] |= 0x80;
    bytes[7] = 1;
    bytes.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
    bytes.extend(length.to_be_bytes());
    bytes.resize(bytes.len() + usize::from(length), 0);
    bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

#[test]
fn the_keepalive_option_is_the_idle_timeout_and_0_when_the_connection_ends() {
    type Set = fn(&mut dnslob::stats::connection_limits::ClientConnectionLimits);
    let query_table: [(Set, u64); 5] = [
        (|_| {}, 10_000),
        (|l| l.receive_timeout = TickDelta::from_ms(50), 100),
        (|l| l.queries = 1, 0),
        (|l| l.connections = 1, 0),
        (|l| (l.connections, l.overload_percent) = (1, 0), 10_000),
    ];
    for (at, (set, timeout_ms)) in query_table.into_iter().enumerate() {
        let mut config = TestConfig::new(1);
        set(&mut config.globals.client_connections);
        let mut harness = Harness::new(&config, 28);
        let stream = harness.connect(CLIENT).expect("taken");
        harness.send(stream, &framed(&query_with_keepalive(1)));
        let (route, asked) = harness.received().remove(0);
        harness.deliver(route, &framed(&answer_with_opt(&asked, 10)));
        let got = harness.got(stream);
        assert_eq!(keepalive::timeout(&got[0]), Some(TickDelta::from_ms(timeout_ms)), "case {at}");
    }
    // The option is 0, too, if the connection is about to close because its listener is closed.
    let mut harness = Harness::new(&TestConfig::new(1), 28);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query_with_keepalive(1)));
    harness.sim.unlisten(ListenerSlot(0));
    harness.run();
    let (route, asked) = harness.received().remove(0);
    harness.deliver(route, &framed(&answer_with_opt(&asked, 10)));
    assert_eq!(keepalive::timeout(&harness.got(stream)[0]), Some(TickDelta(0)));
}

#[test]
fn a_connection_of_a_closed_listener_answers_its_first_query() {
    let mut harness = Harness::new(&TestConfig::new(1), 30);
    let connected: Vec<Stream> =
        (1..=4).map(|n| harness.connect(&format!("10.0.0.{n}:1")).expect("taken")).collect();
    let [fresh, begun, idle, silent] = connected[..] else { panic!("four connections") };
    for stream in [begun, idle] {
        harness.ask(stream, 1, 1);
        harness.settle();
        assert_eq!(harness.got(stream).len(), 1);
    }
    let second = framed(&query(2, 2, 1));
    harness.send(begun, &second[..7]);
    harness.sim.unlisten(ListenerSlot(0));
    harness.pass(0);
    let ended = |harness: &Harness| harness.ended.clone().into_iter().collect::<Vec<_>>();
    assert_eq!(
        ended(&harness),
        [(idle, ClientCloseReason::Closing)],
        "a client may ask where it was answered before"
    );
    harness.pass(500);
    harness.send(begun, &second[7..]);
    // Two queries in one read: both are forwarded.
    harness.send(fresh, &[framed(&query(3, 3, 1)), framed(&query(4, 4, 1))].concat());
    harness.settle();
    assert_eq!((harness.got(begun).len(), harness.got(fresh).len()), (2, 2));
    assert_eq!(harness.ended.get(&silent), None, "its query may be on its way");
    harness.pass(1_100);
    assert!(
        connected.iter().all(|s| harness.ended.get(s) == Some(&ClientCloseReason::Closing)),
        "{:?}",
        harness.ended
    );
}

#[test]
fn the_longest_answer_is_delivered_to_a_client_with_the_keepalive_option() {
    for spare in [0, 1, 5, 6, 7] {
        let mut harness = Harness::new(&TestConfig::new(1), 29);
        let stream = harness.connect(CLIENT).expect("taken");
        harness.send(stream, &framed(&query_with_keepalive(1)));
        let (route, asked) = harness.received().remove(0);
        let around = answer_with_opt(&asked, 0).len() as u16;
        let answer = answer_with_opt(&asked, u16::MAX - spare - around);
        assert_eq!(answer.len(), usize::from(u16::MAX - spare));
        harness.deliver(route, &framed(&answer));
        let got = harness.got(stream);
        assert_eq!(got.len(), 1, "{spare} bytes to spare");
        assert_eq!(keepalive::timeout(&got[0]).is_some(), spare >= 6, "{spare} bytes to spare");
        harness.shard().check_invariants();
    }
}

#[test]
fn an_invalid_frame_closes_the_connection_with_its_reason() {
    for (bytes, why) in [
        (&[0_u8, 0][..], ClientCloseReason::BadFrame),
        (&[0, 11], ClientCloseReason::BadFrame),
        (b"GET / HTTP/1.1\r\n\r\n", ClientCloseReason::ReadTimeout),
    ] {
        let mut harness = Harness::new(&TestConfig::new(1), 3);
        let stream = harness.connect(CLIENT).expect("taken");
        harness.send(stream, bytes);
        harness.pass(11_000);
        assert_eq!(harness.ended.get(&stream), Some(&why), "{bytes:?}");
        assert_eq!((harness.ends(why), harness.shard().clients_open()), (1, 0));
    }
}

#[test]
fn each_limit_closes_a_connection_with_its_own_reason() {
    type Set = fn(&mut dnslob::stats::connection_limits::ClientConnectionLimits);
    type Act = fn(&mut Harness, Stream);
    let query_table: [(ClientCloseReason, Set, Act); 6] = [
        (ClientCloseReason::Idle, |_| {}, |w, _| w.pass(11_000)),
        (
            ClientCloseReason::ReadTimeout,
            |_| {},
            |w, s| {
                w.send(s, &[0]);
                w.pass(11_000);
            },
        ),
        (ClientCloseReason::Reads, |l| l.reads_per_query = 10, |w, s| (0..12).for_each(|_| w.send(s, &[0]))),
        (
            ClientCloseReason::Queries,
            |l| l.queries = 2,
            |w, s| {
                w.ask(s, 1, 1);
                w.ask(s, 2, 2);
                w.ask(s, 3, 3);
                w.settle();
                assert_eq!(w.got(s).len(), 2);
            },
        ),
        (
            ClientCloseReason::Duration,
            |l| l.duration = TickDelta::from_ms(30_000),
            |w, s| {
                for n in 0..40 {
                    if !w.ended.contains_key(&s) {
                        w.ask(s, n, n.into());
                        w.settle();
                        w.pass(1_000);
                    }
                }
            },
        ),
        (
            ClientCloseReason::WriteTimeout,
            |_| {},
            |w, s| {
                w.set_portion(0);
                w.ask(s, 1, 1);
                w.settle();
                w.pass(11_000);
            },
        ),
    ];
    for (why, set, act) in query_table {
        let mut config = TestConfig::new(1);
        set(&mut config.globals.client_connections);
        let mut harness = Harness::new(&config, 4);
        let stream = harness.connect(CLIENT).expect("taken");
        // The test of the read limit needs a frame that never ends.
        if why == ClientCloseReason::Reads {
            harness.send(stream, &[1]);
        }
        act(&mut harness, stream);
        assert_eq!(harness.ended.get(&stream), Some(&why), "{why:?}");
        assert_eq!(harness.ends(why), 1, "{why:?}");
        harness.shard().check_invariants();
    }
}

#[test]
fn connections_beyond_a_limit_are_refused_and_counted() {
    let mut config = TestConfig::new(1);
    config.globals.client_connections.connections = 3;
    config.globals.client_connections.overload_percent = 0;
    config.globals.client_connections.connections_per_client = 2;
    let mut harness = Harness::new(&config, 5);
    assert!(harness.connect(CLIENT).is_some() && harness.connect(CLIENT).is_some());
    assert!(harness.connect(CLIENT).is_none());
    assert_eq!(harness.ends(ClientCloseReason::PerClient), 1);
    assert!(harness.connect("127.0.0.2:1").is_some());
    assert!(harness.connect("127.0.0.3:1").is_none());
    assert_eq!(harness.ends(ClientCloseReason::Connections), 1);
    assert!(harness.connect("192.0.2.1:1").is_none());
    assert_eq!(harness.ends(ClientCloseReason::Acl), 1);
    harness.pass(11_000);
    assert!(harness.connect(CLIENT).is_some(), "those that ended make room");
}

#[test]
fn near_the_limit_idle_connections_close_ten_times_sooner() {
    let mut config = TestConfig::new(1);
    config.globals.client_connections.connections = 10;
    let mut harness = Harness::new(&config, 6);
    let streams: Vec<_> = (0..9).map(|_| harness.connect(CLIENT).expect("taken")).collect();
    harness.pass(2_000);
    assert!(streams.iter().any(|s| harness.ended.get(s) == Some(&ClientCloseReason::Overload)));
}

#[test]
fn a_client_that_has_closed_its_end_is_still_answered() {
    let mut harness = Harness::new(&TestConfig::new(1), 7);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 1, 1);
    harness.sim.end(stream);
    harness.run();
    assert!(harness.ended.is_empty());
    harness.settle();
    assert_eq!(harness.got(stream).len(), 1);
    assert_eq!(harness.ended[&stream], ClientCloseReason::Client);
}

#[test]
fn a_query_goes_to_the_next_server_after_any_failure_of_the_first() {
    for behaviour in
        [Behaviour::Refuses, Behaviour::NeverConnects, Behaviour::NeverAnswers, Behaviour::ClosesAfterEach]
    {
        let mut config = TestConfig::new(3);
        for backend in config.backends.iter_mut().flatten() {
            backend.order = if backend.slot.0 < 2 { 1 } else { 2 };
            backend.connections.connect_timeout = TickDelta::from_ms(500);
            backend.connections.receive_timeout = TickDelta::from_ms(1_000);
        }
        let mut harness = Harness::new(&config, 8);
        harness.behaviours = vec![behaviour, behaviour, Behaviour::Answers];
        let stream = harness.connect(CLIENT).expect("taken");
        for n in 0..50 {
            harness.ask(stream, n, n.into());
        }
        for _ in 0..100 {
            harness.settle();
            harness.pass(100);
        }
        let answered: BTreeSet<u32> = harness.got(stream).iter().map(|m| number(m)).collect();
        assert_eq!(answered.len(), 50, "{behaviour:?}");
        assert_eq!(harness.got(stream).len(), 50, "{behaviour:?}: each once");
        assert_eq!(
            (harness.drops(DropReason::BackendConnectionFailed), harness.drops(DropReason::Timeout)),
            (0, 0)
        );
        assert_eq!(harness.shard().outstanding(), 0);
        harness.shard().check_invariants();
    }
}

#[test]
fn a_query_without_a_server_is_dropped_with_its_reason() {
    let mut harness = Harness::new(&TestConfig::new(2), 9);
    harness.behaviours = vec![Behaviour::Refuses; 2];
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 1, 1);
    harness.settle();
    assert_eq!((harness.drops(DropReason::BackendConnectionFailed), harness.shard().outstanding()), (1, 0));
    harness.shard().check_invariants();
}

#[test]
fn a_datagram_to_a_tcp_only_server_gets_a_truncated_answer() {
    let mut config = TestConfig::new(1);
    config.backends[0].as_mut().expect("one").connections.only = true;
    let mut harness = Harness::new(&config, 10);
    let from: Client = client(CLIENT);
    harness.answer_at_length(from);
    let (to, answer) = harness.answered();
    assert_eq!(to, from);
    assert_eq!((answer[2] & 2, answer[7], &answer[..2]), (2, 0, &[0, 77][..]), "TC, no records, own id");
}

/// Returns a harness whose servers get queries that came over TCP over UDP first.
fn tcp_to_udp(seed: u64) -> Harness {
    let config = TestConfig::new(1);
    let mut harness = Harness::new(&config, seed);
    let mut snapshot = (*config.snapshot()).clone();
    snapshot.pools[0].tcp_to_udp = true;
    snapshot.generation = 2;
    harness.publish(Arc::new(snapshot));
    harness
}

/// Returns a query of this length, by an EDNS option.
fn padded(id: u16, length: usize) -> Vec<u8> {
    let mut bytes = query(id, id.into(), 1);
    bytes[11] = 1;
    let data = length - bytes.len() - 11;
    bytes.extend([0, 0, 41, 16, 0, 0, 0, 0, 0]);
    bytes.extend((data as u16).to_be_bytes());
    bytes.extend([0, 12]);
    bytes.extend(((data - 4) as u16).to_be_bytes());
    bytes.resize(length, 0);
    bytes
}

#[test]
fn a_query_is_sent_by_a_datagram_only_if_it_could_be_repeated() {
    let mut harness = tcp_to_udp(25);
    let stream = harness.connect(CLIENT).expect("taken");
    for (id, length) in [100, 513, 4_096].into_iter().enumerate() {
        harness.send(stream, &framed(&padded(id as u16, length)));
        let Some(Seen::Query { port, bytes: asked, .. }) = harness.datagrams.pop_front() else {
            panic!("no datagram of {length} bytes")
        };
        let mut truncated = answer(&asked[..asked.len() - (length - 28)], &[], 0);
        (truncated[2], truncated[11]) = (truncated[2] | 2, 0);
        harness.sim.answer(port, TickDelta(0), &truncated);
        harness.run();
        harness.settle();
        assert_eq!(harness.got(stream).len(), id + 1, "{length} bytes");
    }
    for (id, length) in [4_097, 9_000, 65_507, 65_508, 65_535].into_iter().enumerate() {
        harness.send(stream, &framed(&padded(id as u16, length)));
        assert!(harness.datagrams.is_empty(), "{length} bytes");
        harness.settle();
        assert_eq!(harness.got(stream).len(), id + 4, "{length} bytes");
    }
    harness.shard().check_invariants();
}

#[test]
fn a_truncated_answer_is_delivered_if_its_query_cannot_be_repeated() {
    let mut config = TestConfig::new(1);
    config.globals.client_connections.receive_timeout = TickDelta::from_ms(60_000);
    let (mut shard, _, snapshot) = config.shard(26);
    let mut snapshot = (*snapshot).clone();
    (snapshot.pools[0].tcp_to_udp, snapshot.generation) = (true, 2);
    shard.begin_batch(Tick(1), &Arc::new(snapshot));
    let taken = shard.on_accept(client(CLIENT).peer, &config.listeners[0], LocalSlot::LISTENER);
    let (stream, mut sent) = (taken.expect("taken"), Vec::new());
    shard.on_client_bytes(stream, &framed(&padded(1, 4_000)), &mut || false, &mut |verdict, bytes| {
        sent.push((verdict, bytes.to_vec()));
    });
    let [(Verdict::Forward(route), asked)] = &sent[..] else { panic!("{sent:?}") };
    // A buffer without space for the query.
    let mut truncated = answer(&asked[..28], &[], 0);
    (truncated[2], truncated[11]) = (truncated[2] | 2, 0);
    let length = truncated.len();
    shard.on_response(*route, &mut Packet::new(&mut truncated, 0, length));
    let got = messages(shard.client_output(stream));
    assert_eq!((got.len(), &got[0][..2], got[0][2] & 2), (1, &[0, 1][..], 2), "with TC");
    assert_eq!(shard.outstanding(), 0);
    shard.check_invariants();
}

#[test]
fn a_truncated_answer_is_retried_over_tcp() {
    let mut harness = tcp_to_udp(11);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.ask(stream, 9, 9);
    let Some(Seen::Query { port, bytes: asked, .. }) = harness.datagrams.pop_front() else {
        panic!("no datagram")
    };
    let mut truncated = answer(&asked, &[], 0);
    truncated[2] |= 2;
    harness.sim.answer(port, TickDelta(0), &truncated);
    harness.run();
    assert!(harness.got(stream).is_empty(), "it is held");
    assert_eq!(harness.received().len(), 1, "by a connection");
    harness.settle();
    assert_eq!(harness.got(stream).len(), 1);
    assert_eq!(harness.got(stream)[0][2] & 2, 0, "whole");
    // A transfer uses TCP at once.
    harness.send(stream, &framed(&query(10, 10, 252)));
    assert!(harness.datagrams.is_empty());
    harness.shard().check_invariants();
}

#[test]
fn a_transfer_is_complete_and_waits_for_a_slow_client() {
    let mut harness = Harness::new(&TestConfig::new(1), 12);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.set_portion(0);
    harness.send(stream, &framed(&query(3, 3, 252)));
    let (route, received) = harness.received().remove(0);
    let filler = [&[0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60, 0x75, 0x30][..], &[0; 30_000]].concat();
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    for _ in 0..10 {
        harness.deliver(route, &framed(&answer(&received, &filler, 1)));
    }
    assert!(matches!(
        harness.shard().backend_interest(harness.route(route)),
        BackendInterest::Serve { read: false }
    ));
    assert!(!harness.sim.is_read(route));
    assert!(
        harness.shard().client_output(harness.slot(stream)).len() < 200_000,
        "no more is taken than the client takes"
    );
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    harness.take(stream, usize::MAX);
    harness.pass(0);
    assert_eq!(harness.got(stream).len(), 12);
    assert!(harness.got(stream).iter().all(|m| m[..2] == [0, 3]));
    assert!(harness.connections.is_empty(), "its connection is used for nothing else");
    assert_eq!(harness.shard().outstanding(), 0);
    harness.shard().check_invariants();
}

#[test]
fn later_messages_of_a_renamed_transfer_need_no_question() {
    let mut harness = Harness::new(&TestConfig::new(1), 13);
    let text = "addLocal('127.0.0.1:53') newServer('127.0.1.0') addAction(AllRule(), LuaAction(function(dq) \
                dq:changeName(newDNSName('inside')) return DNSAction.None end))";
    harness.publish(Arc::new(configured(text, &Slots::default(), 2).snapshot));
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query(3, 3, 252)));
    let (route, received) = harness.received().remove(0);
    assert_eq!(&received[12..20], b"\x06inside\0");
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    // Without a question, and the owner's name in the place where it would be.
    let mut unasked = answer(&received[..12], b"", 1);
    unasked[5] = 0;
    let soa = [b"\x06inside\0", &soa()[2..]].concat();
    let address = [b"\x06inside\0", &b"\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01"[..]].concat();
    for record in [address, soa] {
        harness.deliver(route, &framed(&[&unasked[..], &record].concat()));
    }
    harness.pass(0);
    let got = harness.got(stream);
    assert_eq!(got.len(), 3);
    for message in &got {
        assert_eq!(&message[12..24], b"\x02q3\x07example\0", "{message:x?}");
        assert!(!message.windows(6).any(|part| part == b"inside"), "{message:x?}");
    }
    assert!(got[1..].iter().all(|message| message[5] == 0));
    assert_eq!(harness.drops(DropReason::AnswerNotEdited), 0);
    harness.shard().check_invariants();
}

#[test]
fn a_broken_transfer_closes_the_client_connection() {
    let mut harness = Harness::new(&TestConfig::new(2), 13);
    let stream = harness.connect(CLIENT).expect("taken");
    harness.send(stream, &framed(&query(3, 3, 252)));
    let (route, received) = harness.received().remove(0);
    harness.deliver(route, &framed(&answer(&received, &soa(), 1)));
    harness.break_off(route, BackendCloseReason::Closed);
    assert_eq!(harness.ended[&stream], ClientCloseReason::Transfer);
    assert_eq!(harness.drops(DropReason::BackendConnectionFailed), 1);
    harness.shard().check_invariants();
}

#[test]
fn a_reload_and_a_removed_server_lose_no_query() {
    let mut config = TestConfig::new(2);
    let mut harness = Harness::new(&config, 14);
    let stream = harness.connect(CLIENT).expect("taken");
    for n in 0..20 {
        harness.ask(stream, n, n.into());
    }
    config.backends[0] = None;
    config.generation = 2;
    harness.publish(config.snapshot());
    harness.settle();
    assert_eq!(harness.got(stream).len(), 20);
    harness.pass(1_000);
    assert_eq!(harness.shard().retired().count(), 0, "it is detached");
    let attached = &harness.live_state.shards()[0].attached[0];
    assert_eq!(attached.load(Relaxed), 0, "its connections are closed");
    harness.shard().check_invariants();
}

#[test]
fn a_proxy_header_before_tls_is_expected_after_the_listener_has_changed() {
    let mut harness = Harness::new(&TestConfig::new(1), 15);
    let change = |harness: &mut Harness, change: &dyn Fn(&mut Snapshot)| {
        let mut next = Snapshot::clone(&harness.snapshot);
        next.generation += 1;
        change(&mut next);
        harness.publish(Arc::new(next));
    };
    change(&mut harness, &|next| {
        let outside = Listener { proxy: ProxyHeader::Outside, ..Listener::clone(&next.listeners[0]) };
        next.listeners[0] = Arc::new(outside);
        next.globals.proxy.peers =
            "127.0.0.0/8".parse::<dnslob::base::prefix::Prefix>().into_iter().collect();
    });
    let stream = harness.connect(CLIENT).expect("taken");
    assert!(harness.shard().header_comes_first(harness.slot(stream)));
    // A reload has opened other listeners in its place.
    change(&mut harness, &|next| next.listeners.clear());
    assert!(harness.shard().header_comes_first(harness.slot(stream)));
    let header = b"PROXY TCP4 127.0.0.7 127.0.0.1 4711 853\r\n";
    let slot = harness.slot(stream);
    // What comes behind it is TLS, which is not simulated.
    let bytes = [&header[..], b"\x16\x03\x01"].concat();
    assert_eq!(harness.sim.shard_mut(0).on_header_bytes(slot, &bytes), header.len());
    assert!(!harness.shard().header_comes_first(harness.slot(stream)));
}

/// Runs random events in random order. Counters must add up, and each query that a good server
/// could answer is answered exactly once.
fn play(seed: u64) {
    let mut config = TestConfig::new(4);
    for backend in config.backends.iter_mut().flatten() {
        backend.connections.connect_timeout = TickDelta::from_ms(300);
        backend.connections.receive_timeout = TickDelta::from_ms(600);
        backend.connections.in_flight = 8;
        backend.connections.only = backend.slot.0 == 1;
    }
    config.globals.client_connections.receive_timeout = TickDelta::from_ms(60_000);
    config.globals.client_connections.send_timeout = TickDelta::from_ms(60_000);
    let mut harness = Harness::new(&config, seed);
    let behaviours =
        [Behaviour::Refuses, Behaviour::NeverConnects, Behaviour::NeverAnswers, Behaviour::ClosesAfterEach];
    // Server 3 always answers.
    harness.live_state.set_state(BackendSlot(3), State::Up);
    let (mut streams, mut waiting) = (Vec::<Stream>::new(), BTreeMap::<Stream, Vec<u8>>::new());
    let mut asked = BTreeMap::<Stream, Vec<u32>>::new();
    let mut next = 0;
    for _ in 0..400 {
        match harness.rng.below(12) {
            0 => {
                if let Some(stream) = harness.connect(CLIENT) {
                    let slot = harness.slot(stream);
                    assert!(
                        streams.iter().all(|open| harness.slot(*open) != slot),
                        "a number is not in use twice"
                    );
                    streams.push(stream);
                    asked.insert(stream, Vec::new());
                    waiting.insert(stream, Vec::new());
                }
            }
            1..=5 if !streams.is_empty() => {
                let stream = streams[harness.rng.below(streams.len() as u32) as usize];
                let bytes = waiting.get_mut(&stream).expect("open");
                for _ in 0..harness.rng.below(4) {
                    bytes.extend(framed(&query(harness.rng.id(), next, 1)));
                    asked.get_mut(&stream).expect("open").push(next);
                    next += 1;
                }
                let count = harness.rng.below(bytes.len() as u32 + 1) as usize;
                let piece: Vec<u8> = bytes.drain(..count).collect();
                harness.send(stream, &piece);
            }
            6 => {
                let at = harness.rng.below(3) as usize;
                harness.behaviours[at] = behaviours[harness.rng.below(4) as usize];
            }
            7 => harness.behaviours[harness.rng.below(3) as usize] = Behaviour::Answers,
            8 => {
                let portion = [0, 1, 7, usize::MAX][harness.rng.below(4) as usize];
                harness.set_portion(portion);
            }
            9 => {
                // The good server is never slow.
                let ms = harness.rng.below(200).into();
                harness.servers_turn();
                harness.pass(ms);
                harness.servers_turn();
            }
            10 if streams.len() > 3 && harness.rng.below(8) == 0 => {
                // The client has left.
                let stream = streams.swap_remove(0);
                harness.leave(stream);
                asked.remove(&stream);
                waiting.remove(&stream);
            }
            _ => harness.servers_turn(),
        }
        if harness.rng.below(2) == 0 {
            harness.set_portion(harness.portion);
        }
        harness.shard().check_invariants();
    }
    harness.set_portion(usize::MAX);
    for round in 0..400 {
        for stream in streams.clone() {
            let bytes = waiting.get_mut(&stream).expect("open");
            if !bytes.is_empty() {
                let rest = std::mem::take(bytes);
                harness.send(stream, &rest);
            }
        }
        harness.servers_turn();
        harness.pass(if round % 4 == 0 { 50 } else { 0 });
    }
    assert_eq!(harness.shard().outstanding(), 0);
    let drops = DropReason::ALL.map(|r| (r.label(), harness.drops(r)));
    let drops: Vec<_> = drops.iter().filter(|(_, n)| *n > 0).collect();
    for stream in streams {
        assert!(!harness.ended.contains_key(&stream), "{:?}", harness.ended.get(&stream));
        let mut got: Vec<u32> = harness.got(stream).iter().map(|m| number(m)).collect();
        got.sort_unstable();
        assert_eq!(got, asked[&stream], "{drops:?}");
    }
    let stats = &harness.live_state.shards()[0];
    let left = harness.drops(DropReason::ClientGone) + harness.drops(DropReason::Timeout);
    assert_eq!(
        stats.queries.get(),
        stats.responses.get() + left,
        "only who has left gets none, but {drops:?}"
    );
    harness.shard().check_invariants();
}

/// Runs servers that fail, clients at their limits and dropped messages in random order. Afterwards
/// no connection may be left that is neither read nor written.
fn strain(seed: u64) {
    let mut rng = ShardRng::from_seed(seed ^ 0x5eed);
    let mut config = TestConfig::new(2);
    for backend in config.backends.iter_mut().flatten() {
        backend.connections.connect_timeout = TickDelta::from_ms(200);
        backend.connections.receive_timeout = TickDelta::from_ms(400);
    }
    let mut listener = (*config.listeners[0]).clone();
    listener.connection_options.in_flight = rng.below(3) as u16 + 1;
    config.listeners = vec![Arc::new(listener)];
    let limits = &mut config.globals.client_connections;
    limits.receive_timeout = TickDelta::from_ms(60_000);
    limits.send_timeout = TickDelta::from_ms(60_000);
    // Some listeners have their own limits.
    match rng.below(4) {
        0 => limits.queries = 7,
        1 => limits.duration = TickDelta::from_ms(1_500),
        2 => (limits.connections, limits.overload_percent) = (10, 40),
        _ => {}
    }
    let mut harness = Harness::new(&config, seed);
    let behaviours = [
        Behaviour::Refuses,
        Behaviour::NeverConnects,
        Behaviour::NeverAnswers,
        Behaviour::ClosesAfterEach,
        Behaviour::Answers,
    ];
    let mut streams: Vec<(Stream, Vec<u8>)> = Vec::new();
    let mut next = 0;
    for _ in 0..200 {
        match harness.rng.below(10) {
            0 if streams.len() < 6 => streams.extend(harness.connect(CLIENT).map(|s| (s, Vec::new()))),
            1..=4 if !streams.is_empty() => {
                let at = harness.rng.below(streams.len() as u32) as usize;
                let (stream, bytes) = &mut streams[at];
                for _ in 0..harness.rng.below(5) {
                    next += 1;
                    if harness.rng.below(3) == 0 {
                        bytes.extend(no_query(next));
                    } else {
                        bytes.extend(framed(&query(next, next.into(), 1)));
                    }
                }
                let count = harness.rng.below(bytes.len() as u32 + 1) as usize;
                let piece: Vec<u8> = bytes.drain(..count).collect();
                let stream = *stream;
                harness.send(stream, &piece);
            }
            5 => {
                harness.behaviours[harness.rng.below(2) as usize] = behaviours[harness.rng.below(5) as usize];
            }
            6 => {
                let portion = [0, 1, 40, usize::MAX][harness.rng.below(4) as usize];
                harness.set_portion(portion);
            }
            7 => {
                let ms = harness.rng.below(300).into();
                harness.pass(ms);
            }
            8 if !streams.is_empty() && harness.rng.below(6) == 0 => {
                let at = harness.rng.below(streams.len() as u32) as usize;
                let (stream, bytes) = &mut streams[at];
                // Some clients close their side, some disappear, and some listeners are closed.
                bytes.clear();
                let stream = *stream;
                match harness.rng.below(8) {
                    // Without closing the listener: others connect to it later.
                    0 => harness.sim.shard_mut(0).finish_clients(None),
                    1..=4 => harness.sim.end(stream),
                    _ => harness.leave(stream),
                }
                harness.run();
            }
            _ => harness.servers_turn(),
        }
        harness.shard().check_invariants();
        streams.retain(|(stream, _)| !harness.ended.contains_key(stream));
    }
    harness.set_portion(usize::MAX);
    harness.behaviours = vec![Behaviour::NeverAnswers, Behaviour::Answers];
    for _ in 0..400 {
        for (stream, bytes) in &mut streams {
            if !harness.ended.contains_key(stream) {
                let rest = std::mem::take(bytes);
                harness.send(*stream, &rest);
            }
        }
        harness.servers_turn();
        harness.pass(50);
        harness.shard().check_invariants();
    }
    assert_eq!(harness.shard().outstanding(), 0);
    for (stream, bytes) in streams.iter().filter(|(s, _)| !harness.ended.contains_key(s)) {
        assert!(bytes.is_empty() && harness.sim.unread(*stream) == 0, "all of {stream:?} is read");
        assert!(harness.is_read(*stream), "{stream:?} is read");
    }
}

/// Runs `trial` for every seed, or for the seed in `SIM_SEED`.
fn seeds(count: u64, trial: impl Fn(u64)) {
    let range = match std::env::var("SIM_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("SIM_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    };
    for seed in range {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| trial(seed))) {
            eprintln!("replay with SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn no_connection_hangs() {
    seeds(300, strain);
}

#[test]
fn every_query_that_a_server_can_answer_is_answered() {
    seeds(150, play);
}
