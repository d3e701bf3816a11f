//! Arbitrary bytes as events for a shard, compared with a model: queries, true and forged answers,
//! time, and reloads. No answer may reach a wrong client, no query may be answered twice, and
//! nothing is outstanding at the end. In some configurations queries have PROXY headers, and some
//! servers receive them: each must name the right client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use dnslob::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, Route, SocketSlot};
use dnslob::base::packet::Packet;
use dnslob::base::prefix::{Prefix, PrefixSet};
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::model::policy::{Kind, Policy};
use dnslob::model::{
    Backend, ClientAddress, ConnectionOptions, Globals, Health, HealthMode, Listener, Pool, ProxyHeader,
    ProxyLimits, Retry, Service, Snapshot, SocketOptions,
};
use dnslob::shard::Shard;
use dnslob::shard::verdict::Verdict;
use dnslob::stats::live::{LiveState, State};
use dnslob::wire::proxy;
use dnslob::wire::proxy::{Parsed, Transport};
use dnslob::wire::query::Question;

const BACKENDS: u16 = 4;
const TIMEOUT: TickDelta = TickDelta::from_ms(100);
/// More events in one input only repeat.
const EVENTS_MAX: usize = 2_000;
/// The position of the client's number in the name of a query.
const NUMBER: std::ops::Range<usize> = 13..21;

pub(crate) fn target(data: &[u8]) {
    let mut events = Events { data, at: 0 };
    let mut harness = Harness::new(u64::from(events.byte()));
    for _ in 0..EVENTS_MAX {
        if events.at >= data.len() {
            break;
        }
        harness.step(&mut events);
    }
    harness.drain();
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

    /// Returns a number below `count`.
    fn pick(&mut self, count: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % count.max(1)
    }
}

/// A query as sent to a backend, and the client that waits for its answer.
struct Sent {
    route: Route,
    message: Vec<u8>,
    asker: usize,
}

struct Harness {
    shard: Shard,
    snapshots: Vec<Arc<Snapshot>>,
    current: usize,
    generation: u64,
    now: Tick,
    sent: Vec<Sent>,
    /// By number: the client, the id it chose, and whether it was answered.
    askers: Vec<(Client, u16, bool)>,
    /// By number: the client address that servers must receive.
    sources: Vec<Endpoint>,
    /// Attempts by the expected properties of their answers; the number of their query, and of the
    /// attempt.
    by_key: HashMap<(Route, u16), (usize, usize)>,
    live_state: Arc<LiveState>,
}

impl Harness {
    fn new(seed: u64) -> Self {
        let live_state = Arc::new(LiveState::new(1, usize::from(BACKENDS)));
        for slot in 0..BACKENDS {
            live_state.set_state(BackendSlot(slot), State::Up);
        }
        let snapshots: Vec<_> = [
            snapshot(&[0, 1, 2], Kind::RoundRobin, None),
            snapshot(&[1, 3], Kind::LeastOutstanding, Some(TickDelta::from_ms(20))),
            snapshot(&[0], Kind::WRandom, None),
            with_headers(snapshot(&[0, 1, 2, 3], Kind::RoundRobin, Some(TickDelta::from_ms(20)))),
            snapshot(&[], Kind::WHashed, None),
        ]
        .into();
        let first = publish(&snapshots[0], 1);
        let shard = Shard::new(0, live_state.clone(), first.clone(), ShardRng::from_seed(seed));
        Self {
            shard,
            snapshots: snapshots.into_iter().map(Arc::new).collect(),
            current: 0,
            generation: 1,
            now: Tick(1),
            sent: Vec::new(),
            askers: Vec::new(),
            sources: Vec::new(),
            by_key: HashMap::new(),
            live_state,
        }
    }

    fn step(&mut self, events: &mut Events<'_>) {
        match events.byte() % 8 {
            0..=2 => self.query(events),
            3 | 4 => self.response(events),
            5 => self.now = self.now + TickDelta::from_us(u64::from(events.byte()) * 200),
            6 => {
                self.current = events.pick(self.snapshots.len());
                self.generation += 1;
            }
            _ => self.live_state.set_state(
                BackendSlot(u16::from(events.byte()) % BACKENDS),
                match events.byte() % 3 {
                    0 => State::Down,
                    1 => State::Draining,
                    _ => State::Up,
                },
            ),
        }
        self.tick();
        self.shard.check_invariants();
    }

    fn tick(&mut self) {
        let snapshot = publish(&self.snapshots[self.current], self.generation);
        self.shard.begin_batch(self.now, &snapshot);
        let mut again = Vec::new();
        self.shard.on_tick(&mut |verdict, message| again.push((verdict, message.to_vec())));
        for (verdict, message) in again {
            let Verdict::Forward(route) = verdict else { panic!("a tick only asks again, not {verdict:?}") };
            // The same query: found by its question, which contains the client.
            let start = header_len(&message);
            let asker = asker_of(&message[start..]).expect("a query of ours");
            let message = self.unwrapped(route, &message, self.sources[asker]);
            self.forwarded(route, message, asker);
        }
        for slot in self.shard.retired().collect::<Vec<_>>() {
            self.shard.detach(slot);
        }
    }

    /// Removes the header that a server receives, which must contain the client of the query.
    fn unwrapped(&self, route: Route, message: &[u8], asker: Endpoint) -> Vec<u8> {
        if !reads_headers(route.backend) {
            return message.to_vec();
        }
        let Parsed::Header { header, len } = proxy::parse(message, proxy::PAYLOAD_MAX) else {
            panic!("no header for {route:?}")
        };
        assert_eq!(header.source, Some(asker), "the server receives the client address");
        message[len..].to_vec()
    }

    fn query(&mut self, events: &mut Events<'_>) {
        let number = self.askers.len();
        let client = client(number as u16);
        let id = u16::from_le_bytes([events.byte(), events.byte()]);
        let mut message = query(id, number);
        let spoiled = events.byte();
        if spoiled < 64 {
            // An invalid query.
            let at = events.pick(message.len());
            if !NUMBER.contains(&at) {
                message[at] ^= spoiled | 1;
            }
            message.truncate(message.len() - events.pick(8));
        }
        let (mut buffer, mut asker) = (Vec::new(), client.peer);
        let due = !self.snapshots[self.current].globals.proxy.peers.is_empty();
        let mut proper = !due;
        if events.byte() % 4 == u8::from(!due) {
            let source = SocketAddr::from(([192, 0, 2, number as u8], 1 + number as u16 % 60_000));
            let values = [(0xe0, &b"v"[..])];
            assert!(proxy::write_v2(
                &mut buffer,
                Transport::Datagram,
                source.into(),
                client.peer,
                values.into_iter().take(number % 2)
            ));
            (asker, proper) = (source.into(), due);
        }
        buffer.extend(&message);
        let length = buffer.len();
        buffer.resize(length + 64, 0);
        let mut packet = Packet::new(&mut buffer, 0, length);
        match self.shard.on_query(client, &mut packet) {
            Verdict::Forward(route) => {
                assert!(proper, "with a header where it is due, and nowhere else");
                let forwarded = self.unwrapped(route, packet.bytes(), asker);
                assert_eq!(forwarded[2..], message[2..], "only the id is changed");
                let asked = u16::from_be_bytes([message[0], message[1]]);
                self.askers.push((client, asked, false));
                self.sources.push(asker);
                self.forwarded(route, forwarded, number);
            }
            Verdict::Answer(to) => {
                assert_eq!(to, client, "our own answer goes to who asked");
                assert_eq!(packet.bytes()[..2], message[..2]);
                assert!(packet.bytes()[2] & 0x80 != 0);
            }
            Verdict::Drop(_) | Verdict::Hold => {}
            Verdict::Deliver(to) => panic!("a query was delivered to {to:?}"),
        }
    }

    fn forwarded(&mut self, route: Route, message: Vec<u8>, asker: usize) {
        let key = (route, u16::from_be_bytes([message[0], message[1]]));
        self.by_key.insert(key, (asker, self.sent.len()));
        self.sent.push(Sent { route, message, asker });
    }

    fn response(&mut self, events: &mut Events<'_>) {
        let Some(which) = self.sent.len().checked_sub(1).map(|last| last - events.pick(last + 1).min(last))
        else {
            return;
        };
        let mut route = self.sent[which].route;
        let mut message = self.sent[which].message.clone();
        message[2] |= 0x80;
        let spoiled = events.byte();
        match spoiled % 16 {
            0 => route.socket = SocketSlot::from_number(events.byte().into()),
            1 => route.backend = BackendSlot(u16::from(events.byte()) % BACKENDS),
            2 => message[0] ^= events.byte(),
            3 => message[2] &= 0x7f,
            4 => message.truncate(events.pick(message.len())),
            5 => {
                let at = events.pick(message.len());
                message[at] ^= events.byte();
            }
            _ => {}
        }
        let key = message.first_chunk().map(|id| (route, u16::from_be_bytes(*id)));
        let expected = key.and_then(|k| self.by_key.get(&k).copied());
        let mut buffer = message.clone();
        let mut packet = Packet::new(&mut buffer, 0, message.len());
        match self.shard.on_response(route, &mut packet) {
            Verdict::Deliver(to) => {
                let (number, sending) = expected.expect("an answer that fits no query was delivered");
                if message[4..6] != [0, 0] {
                    let (asked, echoed) =
                        (Question::parse(&self.sent[sending].message), Question::parse(&message));
                    let same = asked.zip(echoed).is_some_and(|(asked, echoed)| echoed.matches(&asked));
                    assert!(same, "an answer to another question was delivered");
                }
                let (client, id, answered) = &mut self.askers[number];
                assert_eq!(to, *client, "delivered to the client that asked");
                assert!(!*answered, "delivered once");
                *answered = true;
                assert_eq!(packet.bytes()[..2], id.to_be_bytes(), "with the client's own id");
                // The RD and CD bits of the client are restored whatever the server sends.
                let asked = &self.sent[sending].message;
                message[2] = message[2] & !0x01 | asked[2] & 0x01;
                message[3] = message[3] & !0x10 | asked[3] & 0x10;
                assert_eq!(packet.bytes()[2..], message[2..], "otherwise as it came");
            }
            Verdict::Drop(_) | Verdict::Hold => {}
            other @ (Verdict::Answer(_) | Verdict::Forward(_)) => panic!("an answer became {other:?}"),
        }
    }

    /// Waits for all timeouts: nothing is outstanding.
    fn drain(&mut self) {
        for _ in 0..4 {
            self.now = self.now + TIMEOUT + TIMEOUT;
            self.tick();
        }
        assert_eq!(self.shard.outstanding(), 0, "nothing stays outstanding");
        self.shard.check_invariants();
        let [claimed, settled, expired, released] = self.shard.totals();
        assert_eq!(claimed, settled + expired + released);
        let answered = self.askers.iter().filter(|a| a.2).count();
        let delivered = self.live_state.shards()[0].responses.get();
        assert_eq!(delivered, answered as u64);
        assert!(settled >= delivered, "and what lost the race to a second try");
        assert!(self.sent.iter().all(|s| s.asker < self.askers.len()));
    }
}

fn client(number: u16) -> Client {
    let [high, low] = number.to_be_bytes();
    let peer = SocketAddr::from(([127, 0, high, low], 1024 + number % 60_000));
    Client {
        peer: Endpoint::from(peer),
        listener: ListenerSlot(0),
        local: LocalSlot::LISTENER,
        connection: None,
    }
}

/// Returns a query whose name contains the number of its client.
fn query(id: u16, number: usize) -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message.extend(format!("{number:08}").as_bytes());
    message.extend([4, b't', b'e', b's', b't', 0, 0, 1, 0, 1]);
    message
}

fn asker_of(message: &[u8]) -> Option<usize> {
    std::str::from_utf8(message.get(NUMBER)?).ok()?.parse().ok()
}

/// Returns the length of the PROXY header before a query.
fn header_len(message: &[u8]) -> usize {
    match proxy::parse(message, proxy::PAYLOAD_MAX) {
        Parsed::Header { len, .. } => len,
        Parsed::Incomplete | Parsed::Invalid(_) => 0,
    }
}

/// Returns whether a server receives PROXY headers.
const fn reads_headers(backend: BackendSlot) -> bool {
    backend.0 >= 2
}

/// Makes all clients proxies whose headers are parsed.
fn with_headers(mut snapshot: Snapshot) -> Snapshot {
    let peers = ["127.0.0.0/8"].iter().map(|p| p.parse::<Prefix>().expect("a network")).collect();
    snapshot.globals.proxy = ProxyLimits { peers, ..ProxyLimits::default() };
    snapshot
}

/// Returns the same configuration with another generation.
fn publish(snapshot: &Snapshot, generation: u64) -> Arc<Snapshot> {
    Arc::new(Snapshot { generation, ..snapshot.clone() })
}

fn snapshot(slots: &[u16], kind: Kind, retry_after: Option<TickDelta>) -> Snapshot {
    let retry = retry_after.map(|after| Retry { after, budget_ppm: 1_000_000 });
    let members: Vec<_> = slots.iter().map(|s| BackendSlot(*s)).collect();
    let backends = (0..BACKENDS).map(|s| slots.contains(&s).then(|| Arc::new(backend(s)))).collect();
    let listener = Listener {
        slot: ListenerSlot(0),
        address: SocketAddr::from(([127, 0, 0, 1], 53)),
        interface: None,
        reuse_port: false,
        freebind: false,
        sockets: SocketOptions::default(),
        dscp: 0,
        service: Service::Dns,
        connection_options: ConnectionOptions::default(),
        proxy: ProxyHeader::Inside,
    };
    Snapshot {
        listeners: vec![Arc::new(listener)],
        backends,
        pools: vec![Pool {
            name: String::new(),
            members,
            policy: Policy::new(kind),
            ring: None,
            retry,
            panic_ppm: 0,
            eject: None,
            ..Pool::default()
        }],
        acl: ["127.0.0.0/8"].iter().map(|p| p.parse::<Prefix>().expect("a network")).collect::<PrefixSet>(),
        globals: Globals { servfail_when_no_server: true, ..Globals::default() },
        ..Snapshot::default()
    }
}

fn backend(slot: u16) -> Backend {
    let address = SocketAddr::from(([192, 0, 2, 1 + slot as u8], 53));
    let client_address = if reads_headers(BackendSlot(slot)) {
        ClientAddress::Proxy { v1: false, advertise_tls: false }
    } else {
        ClientAddress::Hidden
    };
    Backend {
        timeout: TIMEOUT,
        sockets: 2,
        outstanding_max: 64,
        health: Health { mode: HealthMode::Up, ..Health::default() },
        client_address,
        ..Backend::new(BackendSlot(slot), address)
    }
}
