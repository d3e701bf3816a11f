//! Arbitrary bytes as events of connections in the simulator: clients, servers and relayed sessions
//! that send, stall, close and reset in any order, time, and reloads. No answer may reach a wrong
//! client or come twice, relayed bytes arrive as they were sent, and each query, connection and
//! session has one end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dnslob::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot};
use dnslob::base::prefix::{Prefix, PrefixSet};
use dnslob::base::time::TickDelta;
use dnslob::engine::sim::{Connects, FlowPort, Path, Port, Role, Seen, Sim, Stream};
use dnslob::model::policy::{Kind, Policy};
use dnslob::model::{
    Backend, BackendConnectionOptions, ClientAddress, ConnectionOptions, Health, HealthMode, Lazy, Listener,
    Pool, Probe, ProxyHeader, RelaySettings, Service, Snapshot, SocketOptions,
};
use dnslob::stats::close_reason::{ClientCloseReason, ConnectFailure, RelayCloseReason};
use dnslob::stats::descriptors::Use;
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::live::{LiveState, State};

/// Servers; the second takes connections only. Behind them in the slots are the relay's targets.
const SERVERS: u16 = 3;
const TARGETS: u16 = 2;
const TIMEOUT: TickDelta = TickDelta::from_ms(300);
/// More events in one input only repeat.
const EVENTS_MAX: usize = 600;
/// The position of the query's number in its name.
const NUMBER: std::ops::Range<usize> = 13..21;
/// How queries end without an answer.
const ENDS: [DropReason; 12] = [
    DropReason::QueryShort,
    DropReason::QueryIsResponse,
    DropReason::QueryTruncated,
    DropReason::QueryMalformed,
    DropReason::QueryEmpty,
    DropReason::NoServer,
    DropReason::OutstandingFull,
    DropReason::QuerySendError,
    DropReason::BackendConnectionFailed,
    DropReason::ClientGone,
    DropReason::Timeout,
    DropReason::QueryTableFull,
];

pub(crate) fn target(data: &[u8]) {
    let mut events = Events { data, at: 0 };
    let mut world = World::new(&mut events);
    for _ in 0..EVENTS_MAX {
        if events.at >= data.len() {
            break;
        }
        world.step(&mut events);
        world.run();
    }
    world.finish();
}

/// The input, read byte by byte, followed by zeros.
struct Events<'d> {
    data: &'d [u8],
    at: usize,
}

impl Events<'_> {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.data.get(self.at - 1).copied().unwrap_or(0)
    }

    /// Returns one of these.
    fn choice<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let at = usize::from(self.byte());
        (!of.is_empty()).then(|| of[at % of.len()])
    }

    /// Returns some bytes in which no number of a query can stand.
    fn bytes(&mut self) -> Vec<u8> {
        (0..self.byte() % 32).map(|_| self.byte() & 0x1f).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Datagram(Client),
    Connection(Stream),
}

/// The peer's end of a connection.
#[derive(Debug, Default)]
struct End {
    sent: Vec<u8>,
    received: Vec<u8>,
    /// Queries that a server has received.
    queries: Vec<Vec<u8>>,
}

struct World {
    sim: Sim,
    live_state: Arc<LiveState>,
    /// By slot: whether the configuration has the server or target.
    present: [bool; (SERVERS + TARGETS) as usize],
    generation: u64,
    /// The first of the listeners: for DNS, relayed connections, relayed flows.
    listeners: u16,
    asked: Vec<(Sender, u16, bool)>,
    clients: BTreeMap<Stream, End>,
    links: BTreeMap<Stream, End>,
    relayed: BTreeMap<Stream, End>,
    targets: BTreeMap<Stream, End>,
    queries: Vec<(Port, Vec<u8>)>,
    flows: Vec<FlowPort>,
}

impl World {
    fn new(events: &mut Events<'_>) -> Self {
        let present = [true; (SERVERS + TARGETS) as usize];
        let live_state = Arc::new(LiveState::new(1, present.len()));
        (0..present.len()).for_each(|at| live_state.set_state(BackendSlot(at as u16), State::Up));
        let seed = u64::from(events.byte());
        let mut sim = Sim::new(seed, &live_state, Arc::new(snapshot(&present, 1, 0)));
        let how = events.byte();
        sim.set_segments(how & 1 != 0);
        // A whole round in one turn, or a step in each.
        sim.set_step_cost(TickDelta::from_ms(u64::from(how >> 1 & 1)));
        Self {
            sim,
            live_state,
            present,
            generation: 1,
            listeners: 0,
            asked: Vec::new(),
            clients: BTreeMap::new(),
            links: BTreeMap::new(),
            relayed: BTreeMap::new(),
            targets: BTreeMap::new(),
            queries: Vec::new(),
            flows: Vec::new(),
        }
    }

    fn run(&mut self) {
        while let Some(seen) = self.sim.next_at_once() {
            self.see(seen);
        }
        self.sim.shard(0).check_invariants();
    }

    fn pass(&mut self, ms: u64) {
        let end = self.sim.now() + TickDelta::from_ms(ms);
        while let Some(seen) = self.sim.next(end) {
            self.see(seen);
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Query { port, bytes, .. } => self.queries.push((port, bytes)),
            Seen::Answer { client, bytes } if client.listener.0 % 3 == 0 => {
                self.hear(Sender::Datagram(client), &bytes);
            }
            Seen::Answer { bytes, .. } => assert_eq!(bytes, b"a reply"),
            Seen::Relayed { port, bytes, .. } => {
                assert_eq!(bytes, b"a datagram");
                self.flows.push(port);
            }
            Seen::Connect { stream, .. } => {
                let is_target = matches!(self.sim.role(stream), Role::Target(_));
                let ends = if is_target { &mut self.targets } else { &mut self.links };
                ends.insert(stream, End::default());
            }
            Seen::Bytes { stream, bytes } => self.receive(stream, &bytes),
            Seen::End { .. } | Seen::Reset { .. } => {}
        }
    }

    fn receive(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(end) = self.relayed.get_mut(&stream).or_else(|| self.targets.get_mut(&stream)) {
            end.received.extend(bytes);
        } else if let Some(end) = self.links.get_mut(&stream) {
            end.received.extend(bytes);
            end.queries.extend(frames(&mut end.received));
        } else if let Some(end) = self.clients.get_mut(&stream) {
            end.received.extend(bytes);
            for answer in frames(&mut end.received) {
                self.hear(Sender::Connection(stream), &answer);
            }
        }
    }

    /// An answer must have been asked for by this sender under this id, and come once.
    fn hear(&mut self, sender: Sender, bytes: &[u8]) {
        // Others are our own answers to invalid queries.
        let number = bytes.get(NUMBER).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) else { return };
        let (by, id, answered) = &mut self.asked[number];
        assert_eq!((sender, &bytes[..2]), (*by, &id.to_be_bytes()[..]), "delivered to the client that asked");
        assert!(!std::mem::replace(answered, true), "delivered once");
    }

    fn query(&mut self, sender: Sender, id: u8) -> Vec<u8> {
        let mut message = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8];
        message.extend(format!("{:08}", self.asked.len()).as_bytes());
        message.extend([4, b't', b'e', b's', b't', 0, 0, 1, 0, 1]);
        self.asked.push((sender, u16::from(id), false));
        message
    }

    fn listener(&self, service: u16) -> ListenerSlot {
        ListenerSlot(self.listeners + service)
    }

    fn step(&mut self, events: &mut Events<'_>) {
        let kind = events.byte() % 24;
        let clients: Vec<_> = self.clients.keys().copied().collect();
        let links: Vec<_> = self.links.keys().copied().collect();
        let relayed: Vec<_> = self.relayed.keys().copied().collect();
        let targets: Vec<_> = self.targets.keys().copied().collect();
        let ends = [&clients[..], &links, &relayed, &targets].concat();
        match kind {
            0 | 1 => {
                let stream = self.sim.connect(0, self.listener(u16::from(kind)), peer(events.byte()));
                let ends = if kind == 0 { &mut self.clients } else { &mut self.relayed };
                ends.insert(stream, End::default());
            }
            2..=6 => {
                let Some(stream) = events.choice(&clients) else { return };
                let mut bytes = Vec::new();
                for _ in 0..events.byte() % 6 {
                    bytes.extend(framed(&self.query(Sender::Connection(stream), events.byte())));
                }
                // In two parts, with time between them or not.
                let (first, second) = bytes.split_at(bytes.len() * usize::from(events.byte()) / 256);
                self.sim.send(stream, first);
                if events.byte().is_multiple_of(2) {
                    self.run();
                }
                self.sim.send(stream, second);
            }
            7 => {
                let Some(stream) = events.choice(&clients) else { return };
                self.sim.send(stream, &events.bytes());
            }
            8 => {
                let client = Client {
                    peer: peer(events.byte()),
                    listener: self.listener(0),
                    local: LocalSlot::LISTENER,
                    connection: None,
                };
                let query = self.query(Sender::Datagram(client), events.byte());
                self.sim.ask(0, client, &query);
            }
            9..=12 => self.answer(events, &links),
            13 => {
                let (Some((port, query)), how) = (self.queries.pop(), events.byte()) else { return };
                self.sim.answer(port, TickDelta(0), &spoiled(&query, how));
            }
            14 | 15 => {
                let ends = if kind == 14 { &relayed } else { &targets };
                let Some(stream) = events.choice(ends) else { return };
                let bytes = events.bytes();
                let end = self.relayed.get_mut(&stream).or_else(|| self.targets.get_mut(&stream));
                end.expect("known").sent.extend(&bytes);
                self.sim.send(stream, &bytes);
            }
            16 => {
                let client = Client {
                    peer: peer(events.byte()),
                    listener: self.listener(2),
                    local: LocalSlot::LISTENER,
                    connection: None,
                };
                self.sim.ask(0, client, b"a datagram");
            }
            17 => {
                let Some(port) = self.flows.pop() else { return };
                if events.byte().is_multiple_of(4) {
                    self.sim.refuse(port);
                } else {
                    self.sim.reply(port, TickDelta(0), b"a reply");
                }
            }
            18 | 19 => self.close(events, &ends),
            20 => {
                let Some(stream) = events.choice(&ends) else { return };
                let room = [0, 1, 20, usize::MAX][usize::from(events.byte() % 4)];
                self.sim.set_room(stream, room);
            }
            21 => self.change_servers(events),
            22 => self.reload(events),
            _ => {
                let ms = [1, 20, 310, 2_500][usize::from(events.byte() % 4)];
                self.pass(ms);
            }
        }
    }

    /// A server answers one of the queries of a connection, or sends something else.
    fn answer(&mut self, events: &mut Events<'_>, links: &[Stream]) {
        let Some(stream) = events.choice(links) else { return };
        let how = events.byte();
        let queries = &mut self.links.get_mut(&stream).expect("known").queries;
        if queries.is_empty() || how % 16 == 15 {
            return self.sim.send(stream, &events.bytes());
        }
        let query = queries.remove(usize::from(events.byte()) % queries.len());
        let reply = framed(&spoiled(&query, how));
        let part = if how % 16 == 14 { reply.len() / 2 } else { reply.len() };
        self.sim.send(stream, &reply[..part]);
    }

    /// A peer closes or resets, or a connection that is being made is accepted or fails.
    fn close(&mut self, events: &mut Events<'_>, ends: &[Stream]) {
        let Some(stream) = events.choice(ends) else { return };
        match events.byte() % 5 {
            0 => self.sim.end(stream),
            1 => self.sim.end_announced(stream),
            2 => self.sim.reset(stream),
            3 => self.sim.accept(stream),
            _ => {
                let why = [ConnectFailure::Refused, ConnectFailure::Local][usize::from(events.byte() % 2)];
                self.sim.fail(stream, why);
            }
        }
    }

    fn change_servers(&mut self, events: &mut Events<'_>) {
        let slot = u16::from(events.byte()) % (SERVERS + TARGETS);
        match events.byte() % 8 {
            0 => self.sim.set_connects(address(slot), Connects::Refuses),
            1 => self.sim.set_connects(address(slot), Connects::Hangs),
            // What a relay cannot send counts like a query that was not sent.
            2 => self.sim.set_reachable(address(slot % SERVERS), false),
            3 => self.live_state.set_state(BackendSlot(slot), State::Down),
            4 => self.sim.set_backends(Path {
                delay: TickDelta::from_ms(u64::from(events.byte() % 8)),
                jitter: TickDelta::from_ms(u64::from(events.byte() % 8)),
                loss_ppm: 50_000,
                twice_ppm: 50_000,
            }),
            _ => {
                self.sim.set_connects(address(slot), Connects::Accepts);
                self.sim.set_reachable(address(slot), true);
                self.live_state.set_state(BackendSlot(slot), State::Up);
            }
        }
    }

    /// Adds or removes a server, or replaces the listeners.
    fn reload(&mut self, events: &mut Events<'_>) {
        let at = usize::from(events.byte()) % (self.present.len() + 1);
        let before = self.listeners;
        if let Some(present) = self.present.get_mut(at) {
            // The slot of a removed one is free when no shard uses it.
            if *present || self.live_state.shards()[0].attached[at].load(Relaxed) == 0 {
                *present = !*present;
            }
        } else {
            self.listeners += 3;
        }
        self.generation += 1;
        self.sim.publish(Arc::new(snapshot(&self.present, self.generation, self.listeners)));
        if self.listeners != before {
            (before..before + 3).for_each(|slot| self.sim.unlisten(ListenerSlot(slot)));
        }
    }

    /// All clients close, and whatever is outstanding ends: the sums must be right.
    fn finish(&mut self) {
        self.sim.set_backends(Path::default());
        for stream in self.clients.keys().chain(self.relayed.keys()) {
            self.sim.set_room(*stream, usize::MAX);
            self.sim.end(*stream);
        }
        self.pass(30_000);
        self.run();
        let shard = self.sim.shard(0);
        assert_eq!((shard.outstanding(), shard.clients_open(), shard.sessions_open()), (0, 0, 0));
        let stats = &self.live_state.shards()[0];
        let lost: u64 = ENDS.iter().map(|reason| stats.dropped(*reason).get()).sum();
        assert_eq!(
            stats.queries.get(),
            lost + stats.responses.get() + stats.self_answered.get(),
            "each query has one end: {:?}",
            DropReason::ALL.map(|r| (r.label(), stats.dropped(r).get()))
        );
        let clients: u64 = ClientCloseReason::ALL.iter().map(|why| stats.clients.ended(*why).get()).sum();
        assert!(clients >= stats.clients.opened.get(), "each connection has ended, by name");
        let sessions: u64 = RelayCloseReason::ALL.iter().map(|why| stats.relays.ended(*why).get()).sum();
        assert!(sessions >= stats.relays.opened.get(), "each session has ended, by name");
        for what in [Use::Clients, Use::Relayed, Use::Flows] {
            assert_eq!(self.live_state.descriptors().used(what), 0, "{what:?}");
        }
        self.check_relayed();
    }

    /// What one end of a relayed connection has received, the other has sent.
    fn check_relayed(&self) {
        let sent = |ends: &BTreeMap<Stream, End>| ends.values().map(|e| e.sent.clone()).collect::<Vec<_>>();
        for (ends, others) in [(&self.relayed, sent(&self.targets)), (&self.targets, sent(&self.relayed))] {
            for (stream, end) in ends.iter().filter(|(_, end)| !end.received.is_empty()) {
                assert!(others.iter().any(|sent| sent.starts_with(&end.received)), "{stream:?}");
            }
        }
    }
}

/// Returns the answer to a query, which may be wrong in one detail.
fn spoiled(query: &[u8], how: u8) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    match how % 16 {
        8 => bytes[1] ^= 0x55,
        9 => bytes[2] &= 0x7f,
        10 => bytes.truncate(5),
        // The type.
        11 => {
            let at = bytes.len() - 3;
            bytes[at] ^= 0x11;
        }
        // SERVFAIL, TC.
        12 => bytes[3] |= 2,
        13 => bytes[2] |= 2,
        _ => {}
    }
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// Takes the complete messages off a byte stream.
fn frames(bytes: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>()
        && let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length)))
    {
        let used = 2 + message.len();
        all.push(message.to_vec());
        bytes.drain(..used);
    }
    all
}

fn peer(number: u8) -> Endpoint {
    SocketAddr::from(([127, 0, 0, 2], 1_024 + u16::from(number))).into()
}

fn address(slot: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + slot as u8], 53))
}

fn snapshot(present: &[bool], generation: u64, listeners: u16) -> Snapshot {
    let present: Vec<BackendSlot> =
        (0..present.len()).filter(|at| present[*at]).map(|at| BackendSlot(at as u16)).collect();
    let acl = ["127.0.0.0/8"].iter().map(|p| p.parse::<Prefix>().expect("a network")).collect::<PrefixSet>();
    let relay = Arc::new(RelaySettings {
        pool: PoolSlot(1),
        acl: acl.clone(),
        connect_timeout: TickDelta::from_ms(200),
        greeting_timeout: TickDelta::from_ms(300),
        close_when_down: true,
        idle_timeout: TickDelta::from_ms(2_000),
        connections: 6,
        connections_per_client: 0,
        log: false,
    });
    let services = [Service::Dns, Service::TcpRelay(relay.clone()), Service::UdpRelay(relay)];
    let pool = |name: &str, kind, targets: bool| Pool {
        name: name.to_owned(),
        members: present.iter().copied().filter(|slot| (slot.0 >= SERVERS) == targets).collect(),
        policy: Policy::new(kind),
        ring: None,
        retry: None,
        panic_ppm: 0,
        eject: None,
        ..Pool::default()
    };
    let mut backends: Vec<Option<Arc<Backend>>> = vec![None; (SERVERS + TARGETS) as usize];
    present.iter().for_each(|slot| backends[slot.index()] = Some(Arc::new(backend(*slot))));
    let listeners =
        services.into_iter().zip(listeners..).map(|(service, slot)| Arc::new(listener(slot, service)));
    Snapshot {
        generation,
        listeners: listeners.collect(),
        backends,
        pools: vec![pool("", Kind::LeastOutstanding, false), pool("targets", Kind::FirstAvailable, true)],
        acl,
        ..Snapshot::default()
    }
}

fn listener(slot: u16, service: Service) -> Listener {
    Listener {
        slot: ListenerSlot(slot),
        address: SocketAddr::from(([127, 0, 0, 1], 1_024 + slot)),
        interface: None,
        reuse_port: false,
        freebind: false,
        sockets: SocketOptions::default(),
        dscp: 0,
        service,
        connection_options: ConnectionOptions { in_flight: 5, ..ConnectionOptions::default() },
        proxy: ProxyHeader::Ignored,
    }
}

fn backend(slot: BackendSlot) -> Backend {
    let address = address(slot.0);
    Backend {
        slot,
        id: address.to_string(),
        name: address.to_string(),
        address,
        order: 1 + i32::from(slot.0),
        weight: 1,
        qps: 0,
        timeout: TIMEOUT,
        sockets: 2,
        outstanding_max: 64,
        outstanding_soft_max: 0,
        source: None,
        source_interface: None,
        dscp: 0,
        socket_options: SocketOptions::default(),
        use_client_subnet: false,
        tee: false,
        target: slot.0 >= SERVERS,
        connections: BackendConnectionOptions {
            only: slot.0 == 1,
            connect_timeout: TIMEOUT,
            receive_timeout: TIMEOUT,
            in_flight: 4,
            connections: 3,
            ..BackendConnectionOptions::default()
        },
        client_address: ClientAddress::Hidden,
        health: Health {
            mode: HealthMode::Up,
            probe: Probe::Udp,
            qname: "a.root-servers.net.".into(),
            qtype: 1,
            qclass: 1,
            set_cd: false,
            must_resolve: false,
            relayd_exit: false,
            interval: TickDelta::from_ms(1000),
            timeout: TickDelta::from_ms(1000),
            rise: 1,
            fall: 1,
            choose: None,
            judge: None,
            slow_start: TickDelta(0),
            lazy: Lazy {
                threshold_percent: 20,
                sample: 100,
                sample_min: 1,
                failed_interval: TickDelta::from_ms(30_000),
                backoff_max: None,
                servfail_counts: true,
            },
        },
    }
}
