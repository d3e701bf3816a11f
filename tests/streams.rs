//! Connections without sockets: bytes in any pieces, chores done in any portions, servers of every
//! temper. What is counted must add up, and no query may be lost that some server would have served.

#[path = "streams/evict.rs"]
mod evict;
#[path = "streams/lines.rs"]
mod lines;
mod support;
#[path = "streams/turns.rs"]
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use dnslob::base::addr::{BackendSlot, Client, ConnectionSlot, LocalSlot, Route};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::model::{Listener, ProxyHeader, Snapshot};
use dnslob::shard::Shard;
use dnslob::shard::backend::BackendInterest;
use dnslob::shard::client::ClientInterest;
use dnslob::shard::messages::{PendingWork, Resumed};
use dnslob::shard::verdict::Verdict;
use dnslob::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::live::{LiveState, State};
use dnslob::wire::keepalive;
use support::farm::{Farm, client};

const CLIENT: &str = "127.0.0.1:4000";

/// A query for `q<number>.example`, type A, or a transfer of it.
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

/// An answer to a query: its header and question, then `records`, so many.
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

/// The messages of a stream of bytes; panics if some bytes are left.
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

/// What a server does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    Answers,
    Refuses,
    NeverConnects,
    NeverAnswers,
    ClosesAfterEach,
}

/// The server's end of a line.
#[derive(Debug, Default)]
struct Far {
    heard: Vec<u8>,
    open: bool,
}

/// A shard with simulated connections.
struct World {
    shard: Shard,
    live_state: Arc<LiveState>,
    snapshot: Arc<Snapshot>,
    now: Tick,
    rng: ShardRng,
    tempers: Vec<Temper>,
    lines: BTreeMap<(u16, u16), Far>,
    /// Bytes that clients got, and why their connections ended.
    got: BTreeMap<u32, Vec<u8>>,
    ended: BTreeMap<u32, ClientCloseReason>,
    read_off: BTreeSet<u32>,
    datagrams: VecDeque<(Verdict, Vec<u8>)>,
    /// Bytes that a connection takes at a time.
    portion: usize,
}

impl World {
    fn new(farm: &Farm, seed: u64) -> Self {
        let (shard, live_state, snapshot) = farm.shard(seed);
        let mut world = Self {
            shard,
            live_state,
            snapshot,
            now: Tick(1_000_000_000),
            rng: ShardRng::from_seed(seed),
            tempers: vec![Temper::Answers; farm.backends.len()],
            lines: BTreeMap::new(),
            got: BTreeMap::new(),
            ended: BTreeMap::new(),
            read_off: BTreeSet::new(),
            datagrams: VecDeque::new(),
            portion: usize::MAX,
        };
        world.pass(0);
        world
    }

    fn connect(&mut self, address: &str) -> Option<ConnectionSlot> {
        let listener = self.snapshot.listeners[0].clone();
        let stream = self.shard.on_accept(client(address).peer, &listener, LocalSlot::LISTENER)?;
        self.got.insert(stream.0, Vec::new());
        self.ended.remove(&stream.0);
        self.read_off.remove(&stream.0);
        Some(stream)
    }

    fn send(&mut self, stream: ConnectionSlot, bytes: &[u8]) {
        let Self { shard, datagrams, .. } = self;
        shard.on_client_bytes(stream, bytes, &mut || true, &mut |v, o| datagrams.push_back((v, o.to_vec())));
        self.pending();
    }

    fn ask(&mut self, stream: ConnectionSlot, id: u16, number: u32) {
        self.send(stream, &framed(&query(id, number, 1)));
    }

    /// Lets time pass, in steps that the shard would wake for.
    fn pass(&mut self, ms: u64) {
        let until = self.now + TickDelta::from_ms(ms);
        loop {
            self.shard.begin_batch(self.now, &self.snapshot);
            let Self { shard, datagrams, .. } = self;
            shard.on_tick(&mut |v, o| datagrams.push_back((v, o.to_vec())));
            self.resume();
            self.pending();
            if self.now >= until {
                break;
            }
            self.now = until.min(self.now + TickDelta::from_ms(20));
        }
    }

    /// Connections go on with what they hold, each in its turn.
    fn resume(&mut self) {
        let Self { shard, datagrams, .. } = self;
        while shard.resume_next(&mut || true, &mut |v, o| datagrams.push_back((v, o.to_vec())))
            != Resumed::Nothing
        {}
    }

    /// What the engine would do; a connection takes `portion` bytes, then no more this time.
    fn pending(&mut self) {
        while let Some(chore) = self.shard.next_pending() {
            match chore {
                PendingWork::Client(stream) => self.serve_client(stream),
                PendingWork::Backend(line) => self.serve_backend(line),
                PendingWork::Relay(_) => unreachable!("no forward here"),
            }
        }
    }

    fn serve_client(&mut self, stream: ConnectionSlot) {
        if self.ended.contains_key(&stream.0) {
            return;
        }
        let bytes = self.shard.client_output(stream);
        let taken = bytes[..bytes.len().min(self.portion)].to_vec();
        self.shard.client_written(stream, taken.len());
        self.got.get_mut(&stream.0).expect("an open one").extend(taken);
        match self.shard.client_interest(stream) {
            ClientInterest::Close(why) => self.close(stream, why),
            ClientInterest::Serve { read: false } => {
                self.read_off.insert(stream.0);
            }
            ClientInterest::Serve { read: true } => {
                self.read_off.remove(&stream.0);
            }
        }
    }

    /// A connection has room for bytes: an engine hears of that only if it has some to write.
    fn on_room(&mut self, stream: ConnectionSlot) {
        if !self.ended.contains_key(&stream.0) && !self.shard.client_output(stream).is_empty() {
            self.serve_client(stream);
        }
    }

    fn close(&mut self, stream: ConnectionSlot, why: ClientCloseReason) {
        self.ended.insert(stream.0, why);
        self.shard.on_client_closed(stream, why);
    }

    fn serve_backend(&mut self, line: Route) {
        let key = (line.backend.0, line.socket.number());
        if self.shard.backend_interest(line) == BackendInterest::Close {
            self.lines.remove(&key);
            return self.close_backend(line, None);
        }
        let temper = self.tempers[line.backend.index()];
        let is_open = self.lines.contains_key(&key);
        if !is_open {
            match temper {
                Temper::Refuses => return self.close_backend(line, Some(BackendCloseReason::Refused)),
                Temper::NeverConnects => {
                    self.lines.insert(key, Far::default());
                }
                Temper::Answers | Temper::NeverAnswers | Temper::ClosesAfterEach => {
                    self.lines.insert(key, Far { open: true, ..Far::default() });
                    self.shard.on_backend_open(line);
                }
            }
        }
        let far = self.lines.get_mut(&key).expect("just made");
        if far.open {
            let bytes = self.shard.backend_output(line).to_vec();
            far.heard.extend(&bytes);
            self.shard.backend_written(line, bytes.len());
        }
    }

    fn close_backend(&mut self, line: Route, why: Option<BackendCloseReason>) {
        let Self { shard, datagrams, .. } = self;
        shard.on_backend_closed(line, why, &mut |v, o| datagrams.push_back((v, o.to_vec())));
    }

    /// The queries that servers have heard by lines.
    fn heard(&self) -> Vec<(Route, Vec<u8>)> {
        let route = |key: &(u16, u16)| Route {
            backend: BackendSlot(key.0),
            socket: dnslob::base::addr::SocketSlot::from_number(key.1),
        };
        let each = |(key, far): (&(u16, u16), &Far)| {
            messages(&far.heard).into_iter().map(|m| (route(key), m)).collect::<Vec<_>>()
        };
        self.lines.iter().flat_map(each).collect()
    }

    fn tell(&mut self, line: Route, bytes: &[u8]) {
        let Self { shard, datagrams, .. } = self;
        shard.on_backend_bytes(line, bytes, &mut || true, &mut |v, o| datagrams.push_back((v, o.to_vec())));
        self.pending();
    }

    /// Every server does once what its temper is.
    fn servers_turn(&mut self) {
        for key in self.lines.keys().copied().collect::<Vec<_>>() {
            let line = Route {
                backend: BackendSlot(key.0),
                socket: dnslob::base::addr::SocketSlot::from_number(key.1),
            };
            let Some(far) = self.lines.get_mut(&key) else { continue };
            let heard = messages(&std::mem::take(&mut far.heard));
            match self.tempers[line.backend.index()] {
                Temper::Answers => {
                    let mut replies: Vec<_> = heard.iter().map(|q| framed(&answer(q, &[], 0))).collect();
                    // Out of order, in any pieces.
                    for at in (1..replies.len()).rev() {
                        replies.swap(at, self.rng.below(at as u32 + 1) as usize);
                    }
                    let all = replies.concat();
                    let cut = self.rng.below(all.len() as u32 + 1) as usize;
                    self.tell(line, &all[..cut]);
                    self.tell(line, &all[cut..]);
                }
                Temper::ClosesAfterEach => {
                    if let Some(first) = heard.first() {
                        self.tell(line, &framed(&answer(first, &[], 0)));
                        if self.lines.remove(&key).is_some() {
                            self.close_backend(line, Some(BackendCloseReason::Closed));
                            self.pending();
                        }
                    }
                }
                Temper::NeverAnswers => {}
                Temper::Refuses | Temper::NeverConnects => {
                    if !heard.is_empty() && self.lines.remove(&key).is_some() {
                        self.close_backend(line, Some(BackendCloseReason::Broken));
                        self.pending();
                    }
                }
            }
        }
    }

    /// A client asks by a datagram, and its server answers by a line, at more length than that
    /// client can take.
    fn answer_at_length(&mut self, from: Client) {
        let mut bytes = query(77, 5, 1);
        let length = bytes.len();
        bytes.resize(600, 0);
        let verdict = self.shard.on_query(from, &mut Packet::new(&mut bytes, 0, length));
        assert_eq!(verdict, Verdict::Hold);
        self.pending();
        let (line, heard) = self.heard().remove(0);
        let record = [&[0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60, 2, 88][..], &[0; 600]].concat();
        self.tell(line, &framed(&answer(&heard, &record, 1)));
    }

    fn ends(&self, why: ClientCloseReason) -> u64 {
        self.live_state.shards()[0].clients.ended(why).get()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.live_state.shards()[0].dropped(reason).get()
    }

    fn got(&self, stream: ConnectionSlot) -> Vec<Vec<u8>> {
        messages(&self.got[&stream.0])
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            self.servers_turn();
            self.pass(0);
        }
    }
}

#[test]
fn queries_in_any_pieces_are_answered_in_the_order_of_their_answers() {
    let mut world = World::new(&Farm::new(1), 1);
    let stream = world.connect(CLIENT).expect("taken");
    let bytes: Vec<u8> = (0..9).flat_map(|n| framed(&query(n, n.into(), 1))).collect();
    for piece in bytes.chunks(5) {
        world.send(stream, piece);
    }
    assert_eq!(world.heard().len(), 9, "all go by one line");
    assert_eq!(world.lines.len(), 1);
    world.settle();
    let ids: BTreeSet<u16> = world.got(stream).iter().map(|m| u16::from_be_bytes([m[0], m[1]])).collect();
    assert_eq!(ids, (0..9).collect());
    for message in world.got(stream) {
        assert_eq!(u32::from(u16::from_be_bytes([message[0], message[1]])), number(&message));
    }
    world.shard.check_invariants();
}

#[test]
fn a_connection_has_so_many_queries_in_flight_and_the_rest_wait_unread() {
    let mut farm = Farm::new(1);
    let mut listener = (*farm.listeners[0]).clone();
    listener.connection_options.in_flight = 2;
    farm.listeners = vec![Arc::new(listener)];
    let mut world = World::new(&farm, 2);
    let stream = world.connect(CLIENT).expect("taken");
    let bytes: Vec<u8> = (0..5).flat_map(|n| framed(&query(n, n.into(), 1))).collect();
    world.send(stream, &bytes);
    world.pass(0);
    assert_eq!(world.heard().len(), 2);
    assert!(world.read_off.contains(&stream.0));
    world.settle();
    assert_eq!(world.got(stream).len(), 5, "each answer lets another query go");
    assert!(!world.read_off.contains(&stream.0));
}

/// One query in flight at a time.
fn one_at_a_time(farm: &mut Farm) {
    let mut listener = (*farm.listeners[0]).clone();
    listener.connection_options.in_flight = 1;
    farm.listeners = vec![Arc::new(listener)];
}

/// What is dropped at once, without an answer: it is no query.
fn no_query(id: u16) -> Vec<u8> {
    framed(&answer(&query(id, id.into(), 1), &[], 0))
}

#[test]
fn a_connection_at_its_limit_is_read_again_when_its_query_is_lost() {
    let mut farm = Farm::new(1);
    one_at_a_time(&mut farm);
    farm.globals.client_connections.receive_timeout = TickDelta::from_ms(60_000);
    farm.backends[0].as_mut().expect("one").connections.receive_timeout = TickDelta::from_ms(600);
    let mut world = World::new(&farm, 21);
    world.tempers = vec![Temper::NeverAnswers];
    let stream = world.connect(CLIENT).expect("taken");
    world.ask(stream, 1, 1);
    world.pass(0);
    assert!(world.read_off.contains(&stream.0));
    world.pass(2_000);
    assert_eq!((world.shard.outstanding(), world.got(stream).len()), (0, 0), "it is lost");
    assert!(!world.read_off.contains(&stream.0), "the next one is read");
    world.shard.check_invariants();
}

#[test]
fn a_connection_is_read_again_when_all_that_it_held_is_dropped() {
    let mut farm = Farm::new(1);
    one_at_a_time(&mut farm);
    let mut world = World::new(&farm, 22);
    let stream = world.connect(CLIENT).expect("taken");
    world.send(stream, &[framed(&query(1, 1, 1)), no_query(2), no_query(3)].concat());
    world.pass(0);
    assert!(world.read_off.contains(&stream.0));
    world.settle();
    assert_eq!((world.got(stream).len(), world.drops(DropReason::QueryIsResponse)), (1, 2));
    assert!(!world.read_off.contains(&stream.0));
    world.shard.check_invariants();
}

#[test]
fn a_query_half_sent_has_its_time_from_when_it_is_read_again() {
    let mut farm = Farm::new(1);
    one_at_a_time(&mut farm);
    let connections = &mut farm.backends[0].as_mut().expect("one").connections;
    (connections.receive_timeout, connections.tries) = (TickDelta::from_ms(15_000), 1);
    let mut world = World::new(&farm, 23);
    world.tempers = vec![Temper::NeverAnswers];
    let stream = world.connect(CLIENT).expect("taken");
    let next = framed(&query(2, 2, 1));
    world.send(stream, &[&framed(&query(1, 1, 1))[..], &next[..9]].concat());
    world.pass(14_000);
    assert_eq!(world.shard.outstanding(), 1);
    world.pass(5_000);
    assert_eq!((world.shard.outstanding(), world.ended.get(&stream.0)), (0, None), "lost, and open");
    world.pass(12_000);
    assert_eq!(
        world.ended.get(&stream.0),
        Some(&ClientCloseReason::ReadTimeout),
        "the second half never comes"
    );
}

#[test]
fn a_little_that_is_taken_now_and_then_makes_no_connection_last_longer() {
    let mut farm = Farm::new(1);
    farm.globals.client_connections.duration = TickDelta::from_ms(30_000);
    let mut world = World::new(&farm, 24);
    let stream = world.connect(CLIENT).expect("taken");
    world.portion = 0;
    world.ask(stream, 1, 1);
    world.settle();
    for second in 0..40 {
        assert!(!world.ended.contains_key(&stream.0), "{second} s");
        world.pass(1_000);
        world.portion = usize::from(second % 5 == 0);
        world.serve_client(stream);
        world.portion = 0;
    }
    world.pass(1_000);
    assert_eq!(
        world.ended.get(&stream.0),
        Some(&ClientCloseReason::Duration),
        "and once more what it may wait"
    );
    assert!(world.got[&stream.0].len() > 5, "it has taken some");
    world.shard.check_invariants();
}

#[test]
fn what_was_read_before_a_connections_time_was_up_is_answered() {
    let mut farm = Farm::new(1);
    one_at_a_time(&mut farm);
    farm.globals.client_connections.duration = TickDelta::from_ms(5_000);
    let mut world = World::new(&farm, 25);
    let stream = world.connect(CLIENT).expect("taken");
    let bytes: Vec<u8> = (0..3).flat_map(|n| framed(&query(n, n.into(), 1))).collect();
    world.send(stream, &bytes);
    world.pass(6_000);
    assert!(world.ended.is_empty(), "its first query is still asked");
    world.settle();
    assert_eq!((world.got(stream).len(), world.ended[&stream.0]), (3, ClientCloseReason::Duration));
}

/// A farm with so many connections, beyond the limit from which on they must go sooner.
fn crowded(seed: u64) -> (World, Vec<ConnectionSlot>) {
    let mut farm = Farm::new(1);
    farm.globals.client_connections.connections = 10;
    farm.globals.client_connections.overload_percent = 50;
    let mut world = World::new(&farm, seed);
    let streams = (0..9).map(|_| world.connect(CLIENT).expect("taken")).collect();
    (world, streams)
}

#[test]
fn near_the_limit_nobody_wins_time_by_half_a_query_or_by_taking_no_answer() {
    let (mut world, streams) = crowded(26);
    world.send(streams[0], &[0]);
    world.portion = 0;
    world.ask(streams[1], 1, 1);
    world.servers_turn();
    world.pass(0);
    world.portion = usize::MAX;
    world.pass(2_000);
    assert_eq!(world.ended.get(&streams[0].0), Some(&ClientCloseReason::ReadTimeout));
    assert_eq!(world.ended.get(&streams[1].0), Some(&ClientCloseReason::WriteTimeout));
    world.shard.check_invariants();
}

#[test]
fn near_the_limit_a_connection_is_closed_after_its_answers() {
    let (mut world, streams) = crowded(27);
    for n in 0..3 {
        world.ask(streams[0], n, n.into());
    }
    world.pass(0);
    assert!(world.ended.is_empty());
    world.settle();
    assert_eq!(world.got(streams[0]).len(), 3, "each is answered");
    assert_eq!(world.ended, BTreeMap::from([(streams[0].0, ClientCloseReason::Overload)]));
    // What is dropped is over, too; what follows in the same read is not.
    world.send(streams[1], &[no_query(1), framed(&query(2, 2, 1))].concat());
    world.settle();
    assert_eq!((world.got(streams[1]).len(), world.ended[&streams[1].0]), (1, ClientCloseReason::Overload));
    world.shard.check_invariants();
}

/// A query whose sender would know how long its connection may stay, and its answer with a record
/// of so many bytes.
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
fn a_client_is_told_how_long_its_connection_stays_which_is_no_time_when_it_ends() {
    type Set = fn(&mut dnslob::stats::connection_limits::ClientConnectionLimits);
    let query_table: [(Set, u64); 5] = [
        (|_| {}, 10_000),
        (|l| l.receive_timeout = TickDelta::from_ms(50), 100),
        (|l| l.queries = 1, 0),
        (|l| l.connections = 1, 0),
        (|l| (l.connections, l.overload_percent) = (1, 0), 10_000),
    ];
    for (at, (set, told)) in query_table.into_iter().enumerate() {
        let mut farm = Farm::new(1);
        set(&mut farm.globals.client_connections);
        let mut world = World::new(&farm, 28);
        let stream = world.connect(CLIENT).expect("taken");
        world.send(stream, &framed(&query_with_keepalive(1)));
        let (line, asked) = world.heard().remove(0);
        world.tell(line, &framed(&answer_with_opt(&asked, 10)));
        let got = world.got(stream);
        assert_eq!(keepalive::timeout(&got[0]), Some(TickDelta::from_ms(told)), "case {at}");
    }
    // And with its end in sight because its listener is closed.
    let mut world = World::new(&Farm::new(1), 28);
    let stream = world.connect(CLIENT).expect("taken");
    world.send(stream, &framed(&query_with_keepalive(1)));
    world.shard.finish_clients(None);
    let (line, asked) = world.heard().remove(0);
    world.tell(line, &framed(&answer_with_opt(&asked, 10)));
    assert_eq!(keepalive::timeout(&world.got(stream)[0]), Some(TickDelta(0)));
}

#[test]
fn a_connection_of_a_closed_listener_brings_the_query_that_it_was_made_for() {
    let mut world = World::new(&Farm::new(1), 30);
    let connected: Vec<ConnectionSlot> =
        (1..=4).map(|n| world.connect(&format!("10.0.0.{n}:1")).expect("taken")).collect();
    let [fresh, begun, idle, silent] = connected[..] else { panic!("four connections") };
    for stream in [begun, idle] {
        world.ask(stream, 1, 1);
        world.settle();
        assert_eq!(world.got(stream).len(), 1);
    }
    let second = framed(&query(2, 2, 1));
    world.send(begun, &second[..7]);
    world.shard.finish_clients(None);
    world.pass(0);
    let ended = |world: &World| world.ended.clone().into_iter().collect::<Vec<_>>();
    assert_eq!(
        ended(&world),
        [(idle.0, ClientCloseReason::Closing)],
        "a client may ask where it was answered before"
    );
    world.pass(500);
    world.send(begun, &second[7..]);
    // Two at once: what has come with the first is asked, too.
    world.send(fresh, &[framed(&query(3, 3, 1)), framed(&query(4, 4, 1))].concat());
    world.settle();
    assert_eq!((world.got(begun).len(), world.got(fresh).len()), (2, 2));
    assert_eq!(world.ended.get(&silent.0), None, "its query may be on its way");
    world.pass(1_100);
    assert!(
        connected.iter().all(|s| world.ended.get(&s.0) == Some(&ClientCloseReason::Closing)),
        "{:?}",
        world.ended
    );
}

#[test]
fn the_longest_answer_reaches_a_client_that_would_know_how_long_its_connection_stays() {
    for spare in [0, 1, 5, 6, 7] {
        let mut world = World::new(&Farm::new(1), 29);
        let stream = world.connect(CLIENT).expect("taken");
        world.send(stream, &framed(&query_with_keepalive(1)));
        let (line, asked) = world.heard().remove(0);
        let around = answer_with_opt(&asked, 0).len() as u16;
        let answer = answer_with_opt(&asked, u16::MAX - spare - around);
        assert_eq!(answer.len(), usize::from(u16::MAX - spare));
        world.tell(line, &framed(&answer));
        let got = world.got(stream);
        assert_eq!(got.len(), 1, "{spare} bytes to spare");
        assert_eq!(keepalive::timeout(&got[0]).is_some(), spare >= 6, "{spare} bytes to spare");
        world.shard.check_invariants();
    }
}

#[test]
fn what_is_no_frame_ends_the_connection_by_name() {
    for (bytes, why) in [
        (&[0_u8, 0][..], ClientCloseReason::BadFrame),
        (&[0, 11], ClientCloseReason::BadFrame),
        (b"GET / HTTP/1.1\r\n\r\n", ClientCloseReason::ReadTimeout),
    ] {
        let mut world = World::new(&Farm::new(1), 3);
        let stream = world.connect(CLIENT).expect("taken");
        world.send(stream, bytes);
        world.pass(11_000);
        assert_eq!(world.ended.get(&stream.0), Some(&why), "{bytes:?}");
        assert_eq!((world.ends(why), world.shard.clients_open()), (1, 0));
    }
}

#[test]
fn each_limit_ends_a_connection_by_its_name() {
    type Set = fn(&mut dnslob::stats::connection_limits::ClientConnectionLimits);
    type Act = fn(&mut World, ConnectionSlot);
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
        (
            ClientCloseReason::Reads,
            |l| l.reads_per_query = 10,
            |w, s| (0..12).for_each(|_| w.send(s, if s.0 == 0 { &[0] } else { &[] })),
        ),
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
                    if !w.ended.contains_key(&s.0) {
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
                w.portion = 0;
                w.ask(s, 1, 1);
                w.settle();
                w.pass(11_000);
            },
        ),
    ];
    for (why, set, act) in query_table {
        let mut farm = Farm::new(1);
        set(&mut farm.globals.client_connections);
        let mut world = World::new(&farm, 4);
        let stream = world.connect(CLIENT).expect("taken");
        // The reads case wants a frame that never ends.
        if why == ClientCloseReason::Reads {
            world.send(stream, &[1]);
        }
        act(&mut world, stream);
        assert_eq!(world.ended.get(&stream.0), Some(&why), "{why:?}");
        assert_eq!(world.ends(why), 1, "{why:?}");
        world.shard.check_invariants();
    }
}

#[test]
fn connections_beyond_the_limits_are_turned_away_by_name() {
    let mut farm = Farm::new(1);
    farm.globals.client_connections.connections = 3;
    farm.globals.client_connections.overload_percent = 0;
    farm.globals.client_connections.connections_per_client = 2;
    let mut world = World::new(&farm, 5);
    assert!(world.connect(CLIENT).is_some() && world.connect(CLIENT).is_some());
    assert!(world.connect(CLIENT).is_none());
    assert_eq!(world.ends(ClientCloseReason::PerClient), 1);
    assert!(world.connect("127.0.0.2:1").is_some());
    assert!(world.connect("127.0.0.3:1").is_none());
    assert_eq!(world.ends(ClientCloseReason::Connections), 1);
    assert!(world.connect("192.0.2.1:1").is_none());
    assert_eq!(world.ends(ClientCloseReason::Acl), 1);
    world.pass(11_000);
    assert!(world.connect(CLIENT).is_some(), "those that ended make room");
}

#[test]
fn near_the_limit_idle_connections_go_ten_times_sooner() {
    let mut farm = Farm::new(1);
    farm.globals.client_connections.connections = 10;
    let mut world = World::new(&farm, 6);
    let streams: Vec<_> = (0..9).map(|_| world.connect(CLIENT).expect("taken")).collect();
    world.pass(2_000);
    assert!(streams.iter().any(|s| world.ended.get(&s.0) == Some(&ClientCloseReason::Overload)));
}

#[test]
fn a_client_that_has_closed_its_end_is_still_answered() {
    let mut world = World::new(&Farm::new(1), 7);
    let stream = world.connect(CLIENT).expect("taken");
    world.ask(stream, 1, 1);
    world.shard.on_client_end(stream);
    world.pending();
    assert!(world.ended.is_empty());
    world.settle();
    assert_eq!(world.got(stream).len(), 1);
    assert_eq!(world.ended[&stream.0], ClientCloseReason::Client);
}

#[test]
fn a_query_goes_to_the_next_server_whatever_is_wrong_with_the_first() {
    for temper in [Temper::Refuses, Temper::NeverConnects, Temper::NeverAnswers, Temper::ClosesAfterEach] {
        let mut farm = Farm::new(3);
        for backend in farm.backends.iter_mut().flatten() {
            backend.order = if backend.slot.0 < 2 { 1 } else { 2 };
            backend.connections.connect_timeout = TickDelta::from_ms(500);
            backend.connections.receive_timeout = TickDelta::from_ms(1_000);
        }
        let mut world = World::new(&farm, 8);
        world.tempers = vec![temper, temper, Temper::Answers];
        let stream = world.connect(CLIENT).expect("taken");
        for n in 0..50 {
            world.ask(stream, n, n.into());
        }
        for _ in 0..100 {
            world.settle();
            world.pass(100);
        }
        let answered: BTreeSet<u32> = world.got(stream).iter().map(|m| number(m)).collect();
        assert_eq!(answered.len(), 50, "{temper:?}");
        assert_eq!(world.got(stream).len(), 50, "{temper:?}: each once");
        assert_eq!(
            (world.drops(DropReason::BackendConnectionFailed), world.drops(DropReason::Timeout)),
            (0, 0)
        );
        assert_eq!(world.shard.outstanding(), 0);
        world.shard.check_invariants();
    }
}

#[test]
fn with_no_server_left_a_query_is_lost_by_name() {
    let mut world = World::new(&Farm::new(2), 9);
    world.tempers = vec![Temper::Refuses; 2];
    let stream = world.connect(CLIENT).expect("taken");
    world.ask(stream, 1, 1);
    world.settle();
    assert_eq!((world.drops(DropReason::BackendConnectionFailed), world.shard.outstanding()), (1, 0));
    world.shard.check_invariants();
}

#[test]
fn a_datagram_goes_by_a_line_where_its_server_wants_that_and_is_cut_to_fit() {
    let mut farm = Farm::new(1);
    farm.backends[0].as_mut().expect("one").connections.only = true;
    let mut world = World::new(&farm, 10);
    let from: Client = client(CLIENT);
    world.answer_at_length(from);
    let (verdict, answer) = world.datagrams.pop_front().expect("an answer");
    assert_eq!(verdict, Verdict::Deliver(from));
    assert_eq!((answer[2] & 2, answer[7], &answer[..2]), (2, 0, &[0, 77][..]), "TC, no records, own id");
}

#[test]
fn a_truncated_answer_is_asked_for_again_by_a_line() {
    let farm = Farm::new(1);
    let mut world = World::new(&farm, 11);
    let mut snapshot = (*farm.snapshot()).clone();
    snapshot.pools[0].tcp_to_udp = true;
    snapshot.generation = 2;
    world.snapshot = Arc::new(snapshot);
    world.pass(0);
    let stream = world.connect(CLIENT).expect("taken");
    world.ask(stream, 9, 9);
    let (verdict, asked) = world.datagrams.pop_front().expect("a datagram");
    let Verdict::Forward(route) = verdict else { panic!("{verdict:?}") };
    let mut truncated = answer(&asked, &[], 0);
    truncated[2] |= 2;
    let length = truncated.len();
    let verdict = world.shard.on_response(route, &mut Packet::new(&mut truncated, 0, length));
    assert_eq!(verdict, Verdict::Hold);
    world.pending();
    assert_eq!(world.heard().len(), 1, "by a line");
    world.settle();
    assert_eq!(world.got(stream).len(), 1);
    assert_eq!(world.got(stream)[0][2] & 2, 0, "whole");
    // A transfer goes by a line at once.
    world.send(stream, &framed(&query(10, 10, 252)));
    assert!(world.datagrams.is_empty());
    world.shard.check_invariants();
}

#[test]
fn a_transfer_passes_whole_at_the_speed_of_its_client() {
    let mut world = World::new(&Farm::new(1), 12);
    let stream = world.connect(CLIENT).expect("taken");
    world.portion = 0;
    world.send(stream, &framed(&query(3, 3, 252)));
    let (line, heard) = world.heard().remove(0);
    let filler = [&[0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60, 0x75, 0x30][..], &[0; 30_000]].concat();
    world.tell(line, &framed(&answer(&heard, &soa(), 1)));
    for _ in 0..10 {
        world.tell(line, &framed(&answer(&heard, &filler, 1)));
    }
    assert!(matches!(world.shard.backend_interest(line), BackendInterest::Serve { read: false }));
    assert!(world.shard.client_output(stream).len() < 200_000, "no more is taken than the client takes");
    world.tell(line, &framed(&answer(&heard, &soa(), 1)));
    world.portion = usize::MAX;
    for _ in 0..20 {
        world.serve_client(stream);
        world.pass(0);
    }
    assert_eq!(world.got(stream).len(), 12);
    assert!(world.got(stream).iter().all(|m| m[..2] == [0, 3]));
    assert!(world.lines.is_empty(), "its line is used for nothing else");
    assert_eq!(world.shard.outstanding(), 0);
    world.shard.check_invariants();
}

#[test]
fn a_transfer_that_breaks_in_the_middle_ends_its_connection() {
    let mut world = World::new(&Farm::new(2), 13);
    let stream = world.connect(CLIENT).expect("taken");
    world.send(stream, &framed(&query(3, 3, 252)));
    let (line, heard) = world.heard().remove(0);
    world.tell(line, &framed(&answer(&heard, &soa(), 1)));
    world.lines.clear();
    world.close_backend(line, Some(BackendCloseReason::Closed));
    world.pending();
    assert_eq!(world.ended[&stream.0], ClientCloseReason::Transfer);
    assert_eq!(world.drops(DropReason::BackendConnectionFailed), 1);
    world.shard.check_invariants();
}

#[test]
fn a_reload_and_a_removed_server_lose_no_query() {
    let mut farm = Farm::new(2);
    let mut world = World::new(&farm, 14);
    let stream = world.connect(CLIENT).expect("taken");
    for n in 0..20 {
        world.ask(stream, n, n.into());
    }
    farm.backends[0] = None;
    farm.generation = 2;
    world.snapshot = farm.snapshot();
    world.pass(0);
    world.settle();
    assert_eq!(world.got(stream).len(), 20);
    world.pass(1_000);
    assert!(world.shard.retired().any(|s| s == BackendSlot(0)), "its lines are closed");
    world.shard.check_invariants();
}

#[test]
fn a_header_in_front_of_tls_is_looked_for_whatever_becomes_of_its_listener() {
    let mut world = World::new(&Farm::new(1), 15);
    let change = |world: &mut World, change: &dyn Fn(&mut Snapshot)| {
        let mut next = Snapshot::clone(&world.snapshot);
        next.generation += 1;
        change(&mut next);
        world.snapshot = Arc::new(next);
        world.pass(0);
    };
    change(&mut world, &|next| {
        let outside = Listener { proxy: ProxyHeader::Outside, ..Listener::clone(&next.listeners[0]) };
        next.listeners[0] = Arc::new(outside);
        next.globals.proxy.peers = "127.0.0.0/8".parse().into_iter().collect();
    });
    let stream = world.connect(CLIENT).expect("taken");
    assert!(world.shard.header_comes_first(stream));
    // A reload has opened others in its place.
    change(&mut world, &|next| next.listeners.clear());
    assert!(world.shard.header_comes_first(stream));
    let header = b"PROXY TCP4 127.0.0.7 127.0.0.1 4711 853\r\n";
    assert_eq!(world.shard.on_header_bytes(stream, &[&header[..], b"\x16\x03\x01"].concat()), header.len());
    assert!(!world.shard.header_comes_first(stream));
}

/// Anything at all, in any order: what is counted adds up, and what a good server could serve is
/// answered exactly once.
fn play(seed: u64) {
    let mut farm = Farm::new(4);
    for backend in farm.backends.iter_mut().flatten() {
        backend.connections.connect_timeout = TickDelta::from_ms(300);
        backend.connections.receive_timeout = TickDelta::from_ms(600);
        backend.connections.in_flight = 8;
        backend.connections.only = backend.slot.0 == 1;
    }
    farm.globals.client_connections.receive_timeout = TickDelta::from_ms(60_000);
    farm.globals.client_connections.send_timeout = TickDelta::from_ms(60_000);
    let mut world = World::new(&farm, seed);
    let tempers = [Temper::Refuses, Temper::NeverConnects, Temper::NeverAnswers, Temper::ClosesAfterEach];
    // Server 3 always answers.
    world.live_state.set_state(BackendSlot(3), State::Up);
    let (mut streams, mut waiting) = (Vec::new(), BTreeMap::<u32, Vec<u8>>::new());
    let mut asked = BTreeMap::<u32, Vec<u32>>::new();
    let mut next = 0;
    for _ in 0..400 {
        match world.rng.below(12) {
            0 => {
                if let Some(stream) = world.connect(CLIENT) {
                    assert!(!streams.contains(&stream), "a number is not in use twice");
                    streams.push(stream);
                    asked.insert(stream.0, Vec::new());
                    waiting.insert(stream.0, Vec::new());
                }
            }
            1..=5 if !streams.is_empty() => {
                let stream = streams[world.rng.below(streams.len() as u32) as usize];
                let bytes = waiting.get_mut(&stream.0).expect("open");
                for _ in 0..world.rng.below(4) {
                    bytes.extend(framed(&query(world.rng.id(), next, 1)));
                    asked.get_mut(&stream.0).expect("open").push(next);
                    next += 1;
                }
                if !world.read_off.contains(&stream.0) {
                    let count = world.rng.below(bytes.len() as u32 + 1) as usize;
                    let piece: Vec<u8> = bytes.drain(..count).collect();
                    world.send(stream, &piece);
                }
            }
            6 => {
                let at = world.rng.below(3) as usize;
                world.tempers[at] = tempers[world.rng.below(4) as usize];
            }
            7 => world.tempers[world.rng.below(3) as usize] = Temper::Answers,
            8 => world.portion = [0, 1, 7, usize::MAX][world.rng.below(4) as usize],
            9 => {
                // The good server is never slow.
                let ms = world.rng.below(200).into();
                world.servers_turn();
                world.pass(ms);
                world.servers_turn();
            }
            10 if streams.len() > 3 && world.rng.below(8) == 0 => {
                // The client is gone, whatever it has asked.
                let stream = streams.swap_remove(0);
                world.close(stream, ClientCloseReason::Broken);
                asked.remove(&stream.0);
                waiting.remove(&stream.0);
            }
            _ => world.servers_turn(),
        }
        world.shard.check_invariants();
    }
    world.portion = usize::MAX;
    for round in 0..400 {
        for stream in streams.clone() {
            world.on_room(stream);
            let bytes = waiting.get_mut(&stream.0).expect("open");
            if !world.read_off.contains(&stream.0) && !bytes.is_empty() {
                let rest = std::mem::take(bytes);
                world.send(stream, &rest);
            }
        }
        world.servers_turn();
        world.pass(if round % 4 == 0 { 50 } else { 0 });
    }
    assert_eq!(world.shard.outstanding(), 0);
    let drops = DropReason::ALL.map(|r| (r.label(), world.drops(r)));
    let drops: Vec<_> = drops.iter().filter(|(_, n)| *n > 0).collect();
    for stream in streams {
        assert!(!world.ended.contains_key(&stream.0), "{:?}", world.ended.get(&stream.0));
        let mut got: Vec<u32> = world.got(stream).iter().map(|m| number(m)).collect();
        got.sort_unstable();
        assert_eq!(got, asked[&stream.0], "{drops:?}");
    }
    let stats = &world.live_state.shards()[0];
    let left = world.drops(DropReason::ClientGone) + world.drops(DropReason::Timeout);
    assert_eq!(
        stats.queries.get(),
        stats.responses.get() + left,
        "only who has left gets none, but {drops:?}"
    );
    world.shard.check_invariants();
}

/// Servers that serve badly or not at all, clients at their limits, messages that are dropped: in
/// whatever order it happens, no connection is left that nobody reads or writes any more.
fn strain(seed: u64) {
    let mut rng = ShardRng::from_seed(seed ^ 0x5eed);
    let mut farm = Farm::new(2);
    for backend in farm.backends.iter_mut().flatten() {
        backend.connections.connect_timeout = TickDelta::from_ms(200);
        backend.connections.receive_timeout = TickDelta::from_ms(400);
    }
    let mut listener = (*farm.listeners[0]).clone();
    listener.connection_options.in_flight = rng.below(3) as u16 + 1;
    farm.listeners = vec![Arc::new(listener)];
    let limits = &mut farm.globals.client_connections;
    limits.receive_timeout = TickDelta::from_ms(60_000);
    limits.send_timeout = TickDelta::from_ms(60_000);
    // Some with limits of their own.
    match rng.below(4) {
        0 => limits.queries = 7,
        1 => limits.duration = TickDelta::from_ms(1_500),
        2 => (limits.connections, limits.overload_percent) = (10, 40),
        _ => {}
    }
    let mut world = World::new(&farm, seed);
    let tempers = [
        Temper::Refuses,
        Temper::NeverConnects,
        Temper::NeverAnswers,
        Temper::ClosesAfterEach,
        Temper::Answers,
    ];
    let mut streams: Vec<(ConnectionSlot, Vec<u8>)> = Vec::new();
    let mut next = 0;
    for _ in 0..200 {
        match world.rng.below(10) {
            0 if streams.len() < 6 => streams.extend(world.connect(CLIENT).map(|s| (s, Vec::new()))),
            1..=4 if !streams.is_empty() => {
                let at = world.rng.below(streams.len() as u32) as usize;
                let (stream, bytes) = &mut streams[at];
                for _ in 0..world.rng.below(5) {
                    next += 1;
                    if world.rng.below(3) == 0 {
                        bytes.extend(no_query(next));
                    } else {
                        bytes.extend(framed(&query(next, next.into(), 1)));
                    }
                }
                if !world.read_off.contains(&stream.0) {
                    let count = world.rng.below(bytes.len() as u32 + 1) as usize;
                    let piece: Vec<u8> = bytes.drain(..count).collect();
                    let stream = *stream;
                    world.send(stream, &piece);
                }
            }
            5 => world.tempers[world.rng.below(2) as usize] = tempers[world.rng.below(5) as usize],
            6 => world.portion = [0, 1, 40, usize::MAX][world.rng.below(4) as usize],
            7 => {
                let ms = world.rng.below(300).into();
                world.pass(ms);
            }
            8 if !streams.is_empty() && world.rng.below(6) == 0 => {
                let at = world.rng.below(streams.len() as u32) as usize;
                let (stream, bytes) = &mut streams[at];
                // Some close their end, some are gone, and some listeners.
                bytes.clear();
                let stream = *stream;
                match world.rng.below(8) {
                    0 => world.shard.finish_clients(None),
                    1..=4 => world.shard.on_client_end(stream),
                    _ => world.close(stream, ClientCloseReason::Broken),
                }
            }
            _ => world.servers_turn(),
        }
        world.shard.check_invariants();
        streams.retain(|(stream, _)| !world.ended.contains_key(&stream.0));
    }
    world.portion = usize::MAX;
    world.tempers = vec![Temper::NeverAnswers, Temper::Answers];
    for _ in 0..400 {
        for (stream, bytes) in &mut streams {
            world.on_room(*stream);
            if !world.ended.contains_key(&stream.0) && !world.read_off.contains(&stream.0) {
                let rest = std::mem::take(bytes);
                world.send(*stream, &rest);
            }
        }
        world.servers_turn();
        world.pass(50);
        world.shard.check_invariants();
    }
    assert_eq!(world.shard.outstanding(), 0);
    for (stream, bytes) in streams.iter().filter(|(s, _)| !world.ended.contains_key(&s.0)) {
        assert!(bytes.is_empty(), "all of {stream:?} is read");
        assert!(!world.read_off.contains(&stream.0), "{stream:?} is read");
    }
}

#[test]
fn whatever_happens_no_connection_hangs() {
    for seed in 0..300 {
        if let Err(panic) = std::panic::catch_unwind(|| strain(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn whatever_happens_every_query_is_answered_that_some_server_serves() {
    for seed in 0..150 {
        if let Err(panic) = std::panic::catch_unwind(|| play(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
