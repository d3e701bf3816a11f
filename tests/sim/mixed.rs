//! Everything in one world: clients and servers over UDP and TCP, relayed connections and flows,
//! loss, resets, servers that refuse or hang, and reloads that replace listeners and servers.

use super::*;

use dnslob::base::addr::{Endpoint, ListenerSlot};
use dnslob::config::Slots;
use dnslob::engine::sim::{Closed, Connects, Role, Stream};
use dnslob::model::{Service, Snapshot};
use dnslob::stats::close_reason::{BackendCloseReason, ClientCloseReason, RelayCloseReason};
use dnslob::stats::descriptors::Use;
use support::config::configured;

const SERVERS: [&str; 4] = ["127.0.1.1:53", "127.0.1.2:53", "127.0.1.3:53", "127.0.1.4:53"];

/// The sender of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Datagram(Client),
    Connection(Stream),
}

/// A query, and how often it was answered.
#[derive(Debug)]
struct Asked {
    sender: Sender,
    bytes: Vec<u8>,
    heard: u32,
}

/// One end of a connection, outside the shards.
#[derive(Debug, Default)]
struct End {
    received: Vec<u8>,
    /// What it has sent, for relayed connections.
    sent: Vec<u8>,
    /// What it wants to send, which may be cut anywhere.
    unsent: Vec<u8>,
    /// It sends no more.
    is_over: bool,
}

/// The world and what is known of it.
struct World {
    sim: Sim,
    live_state: Arc<LiveState>,
    snapshot: Arc<Snapshot>,
    slots: Slots,
    rng: ShardRng,
    server: Server,
    asked: Vec<Asked>,
    clients: BTreeMap<Stream, End>,
    links: BTreeMap<Stream, End>,
    /// Clients of the relay, and the connections to targets by session.
    relayed: BTreeMap<Stream, End>,
    targets: BTreeMap<Stream, End>,
    /// Replies that clients of flows have received.
    replies: u32,
    digest: u64,
}

/// Returns a configuration.
fn text(rng: &mut ShardRng) -> String {
    let mut text = "setLocal(\"127.0.0.1:5300\")\n\
         setUDPTimeout(1)\n\
         addTCPForward{listen=\"127.0.0.1:2525\", to={\"127.0.2.1:25\", \"127.0.2.2:25\"}, \
         connectTimeout=1, idleTimeout=4}\n\
         addUDPForward{listen=\"127.0.0.1:5353\", to={\"127.0.2.1:54\", \"127.0.2.2:54\"}, \
         maxFlows=12, idleTimeout=2}\n"
        .to_owned();
    let left_out = rng.below(8) as usize;
    for (at, address) in SERVERS.iter().enumerate().filter(|(at, _)| *at != left_out) {
        let only = at % 2 == 1;
        text += &format!(
            "newServer{{address=\"{address}\", tcpOnly={only}, tcpConnectTimeout=1, tcpRecvTimeout=1, \
             healthCheckMode=\"up\"}}\n"
        );
    }
    text
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = ShardRng::from_seed(seed ^ 0x3d);
        let compiled = configured(&text(&mut rng), &Slots::default(), 1);
        let live_state = Arc::new(LiveState::new(1 + rng.below(2) as usize, 128));
        let snapshot = Arc::new(compiled.snapshot);
        let mut world = Self {
            sim: Sim::new(seed, &live_state, snapshot.clone()),
            live_state,
            snapshot,
            slots: compiled.slots,
            server: Server::steady(TickDelta::from_us(200)),
            rng,
            asked: Vec::new(),
            clients: BTreeMap::new(),
            links: BTreeMap::new(),
            relayed: BTreeMap::new(),
            targets: BTreeMap::new(),
            replies: 0,
            digest: 0,
        };
        world.all_up();
        world.sim.set_segments(true);
        world.sim.set_wake_lag(TickDelta::from_us(300));
        // From whole rounds in one turn to a step in each.
        let cost = [0, 10, 1_000][world.rng.below(3) as usize];
        world.sim.set_step_cost(TickDelta::from_us(cost));
        world
    }

    fn all_up(&self) {
        self.snapshot.backends.iter().flatten().for_each(|b| self.live_state.set_state(b.slot, State::Up));
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(u32::try_from(bound).expect("a small bound")) as usize
    }

    fn shard(&mut self) -> usize {
        self.below(self.live_state.shards().len())
    }

    /// Returns the listener of a service, in the current configuration.
    fn listener(&self, service: fn(&Service) -> bool) -> ListenerSlot {
        self.snapshot.listeners.iter().find(|l| service(&l.service)).expect("one of each").slot
    }

    /// Creates a query with its number in its name.
    fn query(&mut self, sender: Sender) -> Vec<u8> {
        let mut bytes = message("* RD");
        bytes[..2].copy_from_slice(&self.rng.id().to_be_bytes());
        bytes[5] = 1;
        bytes.extend(name(&format!("q{}.example", self.asked.len())));
        bytes.extend([0, 1, 0, 1]);
        self.asked.push(Asked { sender, bytes: bytes.clone(), heard: 0 });
        bytes
    }

    fn some(&mut self, of: fn(&Self) -> &BTreeMap<Stream, End>) -> Option<Stream> {
        let count = of(self).len();
        if count == 0 {
            return None;
        }
        let at = self.below(count);
        of(self).keys().nth(at).copied()
    }

    /// Sends a random part of what an end wants to send, or all of it.
    fn push(&mut self, stream: Stream, all: bool) {
        let relayed = self.relayed.get_mut(&stream).or_else(|| self.targets.get_mut(&stream));
        let Some(end) = relayed.or_else(|| self.clients.get_mut(&stream)) else { return };
        if end.is_over {
            return;
        }
        let count = end.unsent.len();
        let count = if all { count } else { self.rng.below(count as u32 + 1) as usize };
        let bytes: Vec<u8> = end.unsent.drain(..count).collect();
        end.sent.extend(&bytes);
        self.sim.send(stream, &bytes);
    }

    fn pass(&mut self, span: TickDelta) {
        let end = self.sim.now() + span;
        while let Some(seen) = self.sim.next(end) {
            self.digest = digest(self.digest, self.sim.now().0);
            self.see(seen);
        }
        self.sim.shards().for_each(dnslob::shard::Shard::check_invariants);
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Query { port, bytes, .. } => {
                if let Some((after, answer)) = self.server.answer(&bytes, &mut self.rng) {
                    self.sim.answer(port, after, &answer);
                }
            }
            Seen::Answer { client, bytes } if client.peer.port < 2_000 => {
                self.hear(Sender::Datagram(client), &bytes);
            }
            Seen::Answer { bytes, .. } => {
                assert_eq!(bytes, b"a reply");
                self.replies += 1;
            }
            Seen::Relayed { port, bytes, .. } => {
                assert_eq!(bytes, b"a datagram");
                match self.rng.below(8) {
                    0 => self.sim.refuse(port),
                    1 => {}
                    _ => self.sim.reply(port, TickDelta::from_us(300), b"a reply"),
                }
            }
            Seen::Connect { stream, .. } => {
                let is_target = matches!(self.sim.role(stream), Role::Target(_));
                let ends = if is_target { &mut self.targets } else { &mut self.links };
                ends.insert(stream, End::default());
            }
            Seen::Bytes { stream, bytes } => self.receive(stream, &bytes),
            // A client or server that learns of the end closes too.
            Seen::End { stream } => self.sim.end(stream),
            Seen::Reset { stream } => {
                self.links.remove(&stream);
            }
        }
    }

    fn receive(&mut self, stream: Stream, bytes: &[u8]) {
        bytes.iter().for_each(|o| self.digest = digest(self.digest, u64::from(*o)));
        if let Some(end) = self.relayed.get_mut(&stream) {
            end.received.extend(bytes);
        } else if let Some(end) = self.targets.get_mut(&stream) {
            end.received.extend(bytes);
            // It echoes what it receives.
            end.unsent.extend(bytes);
            self.push(stream, true);
        } else if let Some(end) = self.clients.get_mut(&stream) {
            end.received.extend(bytes);
            for answer in frames(&mut end.received) {
                self.hear(Sender::Connection(stream), &answer);
            }
        } else if let Some(end) = self.links.get_mut(&stream) {
            end.received.extend(bytes);
            for query in frames(&mut end.received) {
                self.serve(stream, &query);
            }
        }
    }

    /// A server answers a query of a connection, or does something else.
    fn serve(&mut self, stream: Stream, query: &[u8]) {
        match self.rng.below(40) {
            0 => self.sim.reset(stream),
            1 => self.sim.end(stream),
            2 => self.sim.send(stream, &[0, 3, 1, 2, 3]),
            3 => {}
            _ => {
                let Some((_, answer)) = self.server.answer(query, &mut self.rng) else { return };
                self.sim.send(stream, &framed(&answer));
            }
        }
    }

    /// The main check: the sender asked that under this id, and has no other answer to it.
    fn hear(&mut self, sender: Sender, bytes: &[u8]) {
        let question = Question::parse(bytes).unwrap_or_else(|| panic!("no question: {sender:?} {bytes:?}"));
        let label = String::from_utf8_lossy(&question.qname[2..1 + usize::from(question.qname[0])]);
        let asked = &mut self.asked[label.parse::<usize>().expect("a query's number")];
        assert_eq!(sender, asked.sender, "received by another client");
        assert_eq!(bytes[..2], asked.bytes[..2], "under another id");
        assert!(Header::parse(bytes).is_some_and(|head| head.is_response()));
        asked.heard += 1;
        assert_eq!(asked.heard, 1, "{asked:?}");
    }

    fn reload(&mut self) {
        let generation = self.snapshot.generation + 1;
        if self.rng.below(2) == 0 {
            // As if another reload had removed them: their successors are new ones.
            self.slots.assign_listeners(&mut []).expect("none is wanted");
        }
        let compiled = configured(&text(&mut self.rng), &self.slots, generation);
        let before = std::mem::replace(&mut self.snapshot, Arc::new(compiled.snapshot));
        self.slots = compiled.slots;
        self.all_up();
        self.sim.publish(self.snapshot.clone());
        for listener in &before.listeners {
            if self.snapshot.listeners.iter().all(|l| l.slot != listener.slot) {
                self.sim.unlisten(listener.slot);
            }
        }
    }

    /// Does one random action.
    fn step(&mut self) {
        match self.rng.below(100) {
            0..18 => {
                for _ in 0..self.below(12) {
                    let peer = client(&format!("127.0.0.2:{}", 1_024 + self.rng.below(CLIENTS)));
                    let client = Client { listener: self.listener(|s| *s == Service::Dns), ..peer };
                    let bytes = self.query(Sender::Datagram(client));
                    let shard = self.shard();
                    self.sim.ask(shard, client, &bytes);
                }
            }
            18..24 => self.connect(),
            24..46 => {
                let Some(stream) = self.some(|w| &w.clients) else { return };
                for _ in 0..self.below(5) {
                    let bytes = framed(&self.query(Sender::Connection(stream)));
                    self.clients.get_mut(&stream).expect("open").unsent.extend(bytes);
                }
                self.push(stream, false);
            }
            46..49 => {
                let Some(stream) = self.some(|w| &w.clients) else { return };
                let room = [0, 1, 30, usize::MAX][self.below(4)];
                self.sim.set_room(stream, room);
            }
            49..52 => self.leave(),
            52..56 => {
                let slot = self.listener(|s| matches!(s, Service::TcpRelay(_)));
                let (shard, from) = (self.shard(), endpoint(3_000 + self.rng.below(50)));
                let stream = self.sim.connect(shard, slot, from);
                self.relayed.insert(stream, End::default());
            }
            56..66 => {
                let Some(stream) = self.some(|w| &w.relayed) else { return };
                let count = self.below(3_000);
                let bytes: Vec<u8> = (0..count).map(|_| self.rng.u32() as u8).collect();
                self.relayed.get_mut(&stream).expect("open").unsent.extend(bytes);
                self.push(stream, false);
            }
            66..69 => {
                let Some(stream) = self.some(|w| &w.relayed) else { return };
                self.relayed.get_mut(&stream).expect("open").is_over = true;
                if self.rng.below(3) > 0 { self.sim.end(stream) } else { self.sim.reset(stream) }
            }
            69..74 => {
                let slot = self.listener(|s| matches!(s, Service::UdpRelay(_)));
                let from = client(&format!("127.0.0.2:{}", 4_000 + self.rng.below(20)));
                let shard = self.shard();
                self.sim.ask(shard, Client { listener: slot, ..from }, b"a datagram");
            }
            74..79 => {
                let address = [&SERVERS[..], &["127.0.2.1:25", "127.0.2.2:25"]].concat()[self.below(6)];
                let connects =
                    [Connects::Accepts, Connects::Accepts, Connects::Refuses, Connects::Hangs][self.below(4)];
                self.sim.set_connects(address.parse().expect("an address"), connects);
            }
            79..82 => {
                if let Some(stream) = self.some(|w| &w.links) {
                    self.sim.reset(stream);
                    self.links.remove(&stream);
                }
            }
            82..85 => {
                if let Some(stream) = self.some(|w| &w.targets) {
                    self.sim.reset(stream);
                    self.targets.get_mut(&stream).expect("open").is_over = true;
                }
            }
            85..88 => {
                let path = Path {
                    delay: TickDelta::from_us(u64::from(self.rng.below(5_000))),
                    jitter: TickDelta::from_ms(u64::from(self.rng.below(30))),
                    loss_ppm: self.rng.below(100_000),
                    twice_ppm: self.rng.below(100_000),
                };
                self.sim.set_backends(path);
            }
            88..90 => {
                self.server.servfail_ppm = self.rng.below(100_000);
                self.server.wrong_ppm = self.rng.below(100_000);
            }
            90..93 => self.reload(),
            _ => self.pass(TickDelta::from_ms(100)),
        }
        let wait = u64::from(self.rng.below(10_000));
        self.pass(TickDelta::from_us(wait));
    }

    fn connect(&mut self) {
        let slot = self.listener(|s| *s == Service::Dns);
        let (shard, from) = (self.shard(), endpoint(2_000 + self.rng.below(200)));
        let stream = self.sim.connect(shard, slot, from);
        self.clients.insert(stream, End::default());
    }

    /// A client closes its end, or disappears.
    fn leave(&mut self) {
        let Some(stream) = self.some(|w| &w.clients) else { return };
        let end = self.clients.get_mut(&stream).expect("open");
        (end.is_over, end.unsent) = (true, Vec::new());
        if self.rng.below(3) > 0 { self.sim.end(stream) } else { self.sim.reset(stream) }
    }

    /// Lets everything come to its end, then checks the sums.
    fn finish(&mut self) {
        self.sim.set_backends(Path::default());
        for stream in self.clients.keys() {
            self.sim.set_room(*stream, usize::MAX);
            self.sim.end(*stream);
        }
        self.pass(TickDelta::from_ms(20_000));
        for (stream, end) in &self.relayed {
            self.check_relayed(*stream, end);
        }
        for (index, shard) in self.sim.shards().enumerate() {
            shard.check_invariants();
            let stats = &self.live_state.shards()[index];
            assert_eq!((shard.outstanding(), shard.sessions_open(), shard.clients_open()), (0, 0, 0));
            let ended = ended(&|reason| stats.dropped(reason).get())
                + stats.dropped(DropReason::ClientGone).get()
                + stats.dropped(DropReason::BackendConnectionFailed).get();
            assert_eq!(
                stats.queries.get(),
                ended + stats.responses.get() + stats.self_answered.get(),
                "each query of shard {index} has one end: {:?}",
                DropReason::ALL.map(|r| (r.label(), stats.dropped(r).get()))
            );
            let clients: u64 = ClientCloseReason::ALL.iter().map(|why| stats.clients.ended(*why).get()).sum();
            assert!(clients >= stats.clients.opened.get(), "each connection has ended, by name");
            let sessions: u64 = RelayCloseReason::ALL.iter().map(|why| stats.relays.ended(*why).get()).sum();
            assert!(sessions >= stats.relays.opened.get(), "each session has ended, by name");
        }
        for at in 0..128 {
            assert_eq!(self.live_state.outstanding(BackendSlot(at)), 0, "slot {at} is idle");
        }
        let descriptors = self.live_state.descriptors();
        for what in [Use::Clients, Use::Relayed, Use::Flows] {
            assert_eq!(descriptors.used(what), 0, "{what:?}");
        }
        let heard: u64 = self.asked.iter().map(|a| u64::from(a.heard)).sum();
        let answered: u64 =
            self.live_state.shards().iter().map(|s| s.responses.get() + s.self_answered.get()).sum();
        assert!(heard <= answered, "{heard} of {answered}");
    }

    /// The target has received what the client sent, up to some byte, and its echo likewise.
    fn check_relayed(&self, stream: Stream, end: &End) {
        assert!(end.sent.starts_with(&end.received), "the echo of {stream:?}");
        let closed = self.sim.closed(stream);
        assert!(matches!(closed, Some(Closed::Relay(_) | Closed::Refused)), "{stream:?}: {closed:?}");
    }
}

fn endpoint(port: u32) -> Endpoint {
    client(&format!("127.0.0.2:{port}")).peer
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
        all.push(message.to_vec());
        bytes.drain(..2 + all.last().map_or(0, Vec::len));
    }
    all
}

/// Returns a digest of all that was seen, and the number of answered queries.
fn run(seed: u64) -> (u64, u32) {
    let mut world = World::new(seed);
    for _ in 0..250 {
        world.step();
    }
    world.finish();
    (world.digest, world.asked.iter().map(|a| a.heard).sum())
}

#[test]
fn every_query_over_any_transport_has_exactly_one_outcome() {
    seeds(60, |seed| {
        let (_, answered) = run(seed);
        assert!(answered > 20, "there was something to see: {answered}");
    });
}

#[test]
fn the_same_seed_gives_the_same_connections() {
    for seed in [3, 4] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(3), run(4), "the digest sees something");
}

/// Every way in which connections end must occur, or the test proves nothing about it.
#[test]
fn the_world_has_every_fault() {
    let mut missing: Vec<String> = Vec::new();
    let worlds: Vec<World> = (1..=12)
        .map(|seed| {
            let mut world = World::new(seed);
            (0..250).for_each(|_| world.step());
            world.finish();
            world
        })
        .collect();
    let stats: Vec<_> = worlds.iter().flat_map(|world| world.live_state.shards()).collect();
    for why in [ClientCloseReason::Broken, ClientCloseReason::Client, ClientCloseReason::Closing] {
        if stats.iter().all(|s| s.clients.ended(why).get() == 0) {
            missing.push(format!("{why:?} of a client"));
        }
    }
    for why in [
        BackendCloseReason::BadFrame,
        BackendCloseReason::Broken,
        BackendCloseReason::Closed,
        BackendCloseReason::ConnectTimeout,
        BackendCloseReason::Done,
        BackendCloseReason::Refused,
        BackendCloseReason::Silent,
    ] {
        let of = |at| stats.iter().map(move |s| s.backend(BackendSlot(at)).connections.ended(why).get());
        if (0..128).flat_map(of).sum::<u64>() == 0 {
            missing.push(format!("{why:?} of a backend"));
        }
    }
    for why in [
        RelayCloseReason::Client,
        RelayCloseReason::ClientBroken,
        RelayCloseReason::Closing,
        RelayCloseReason::Idle,
        RelayCloseReason::NoTarget,
        RelayCloseReason::TargetBroken,
    ] {
        if stats.iter().all(|s| s.relays.ended(why).get() == 0) {
            missing.push(format!("{why:?} of a relay"));
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
    let echoed: usize = worlds.iter().flat_map(|w| w.relayed.values()).map(|end| end.received.len()).sum();
    let replies: u32 = worlds.iter().map(|world| world.replies).sum();
    let retries: u64 = stats.iter().map(|s| s.retries.get()).sum();
    assert!(echoed > 10_000 && replies > 50 && retries > 100, "{echoed}, {replies}, {retries}");
}
