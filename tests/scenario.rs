//! Plays the transcripts in `tests/scenario/*.scn` on the simulation and on the socket engine, with
//! the same expectations.
//!
//! ```text
//! config                      the indented lines below are Lua; L is the address of the listener,
//!   newServer("B1")           B1, B2, … are those of the backends. A second config is a reload.
//! c1 sends 1234 RD a/A        client 1 sends a message (the notation of support/message.rs)
//! c1 asks at 127.0.0.9        client 1 sends its later messages to this listener address
//! b1 receives * RD a/A        the next message at backend 1
//! b1 sends * QR a/A           backend 1 answers the last query it received; `*` inserts its id
//! spoofer sends b1 * QR a/A   the same, to the same port, from an address other than the backend's
//! c1 receives 1234 QR a/A     the next message at client 1, from the address that it asked
//! b1 receives nothing         no message arrives for a while
//! after 200                   milliseconds pass
//! counted timeout 1           the total number of drops with this reason
//! outstanding 0               the number of outstanding queries
//! ```

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dnslob::base::addr::{Client, LocalSlot};
use dnslob::base::time::TickDelta;
use dnslob::config::{Compiled, Slots};
use dnslob::engine;
use dnslob::engine::sim::{Port, Seen, Sim};
use dnslob::engine::socket::{Inherited, ListenerSockets};
use dnslob::engine::{Message, Running, Setup, socket};
use dnslob::model::{Listener, Service, Snapshot};
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::live::{LiveState, State};
use support::config::{client, configured, listener};
use support::message::{message, same};

/// The longest wait for an expected packet.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for a packet that must not arrive.
const SILENCE: Duration = Duration::from_millis(60);
const SLOTS: usize = 8;

/// The transport that a scenario is played on.
trait Transport {
    /// Returns the addresses of the listener and of the backends.
    fn addresses(&self) -> (SocketAddr, Vec<SocketAddr>);
    fn start(&mut self, snapshot: Arc<Snapshot>, live_state: &Arc<LiveState>);
    fn reload(&mut self, snapshot: Arc<Snapshot>);
    fn ask(&mut self, client: usize, at: IpAddr, bytes: &[u8]);
    /// Returns the next packet for a client, and the local address it was sent from.
    fn client_receives(&mut self, client: usize, within: Duration) -> Option<(IpAddr, Vec<u8>)>;
    fn backend_receives(&mut self, backend: usize, within: Duration) -> Option<Vec<u8>>;
    /// Sends an answer to the port that the backend last received a query from.
    fn backend_sends(&mut self, backend: usize, bytes: &[u8]);
    /// Sends the same from another address.
    fn spoof(&mut self, backend: usize, bytes: &[u8]);
    fn pass(&mut self, span: Duration);
}

/// The simulation, with a perfect network.
#[derive(Default)]
struct Simulated {
    sim: Option<Sim>,
    at_clients: BTreeMap<u16, VecDeque<(Client, Vec<u8>)>>,
    at_backends: BTreeMap<SocketAddr, VecDeque<(Port, Vec<u8>)>>,
    last: BTreeMap<usize, Port>,
}

impl Simulated {
    fn address(backend: usize) -> SocketAddr {
        support::config::backend(backend).address
    }

    fn sim(&mut self) -> &mut Sim {
        self.sim.as_mut().expect("a configuration comes first")
    }

    /// Advances the time until a packet is seen.
    fn next(&mut self, within: Duration) -> bool {
        let end = self.sim().now() + TickDelta::from(within);
        match self.sim().next(end) {
            Some(Seen::Query { backend, port, bytes }) => {
                self.at_backends.entry(backend).or_default().push_back((port, bytes));
                true
            }
            Some(Seen::Answer { client, bytes }) => {
                self.at_clients.entry(client.peer.port).or_default().push_back((client, bytes));
                true
            }
            Some(
                other @ (Seen::Relayed { .. }
                | Seen::Connect { .. }
                | Seen::Bytes { .. }
                | Seen::End { .. }
                | Seen::Reset { .. }),
            ) => panic!("a transcript has datagrams only: {other:?}"),
            None => false,
        }
    }
}

impl Transport for Simulated {
    fn addresses(&self) -> (SocketAddr, Vec<SocketAddr>) {
        (([127, 0, 0, 1], 5300).into(), (1..=4).map(Self::address).collect())
    }

    fn start(&mut self, snapshot: Arc<Snapshot>, live_state: &Arc<LiveState>) {
        self.sim = Some(Sim::new(1, live_state, snapshot));
    }

    fn reload(&mut self, snapshot: Arc<Snapshot>) {
        self.sim().publish(snapshot);
    }

    fn ask(&mut self, number: usize, at: IpAddr, bytes: &[u8]) {
        // The engine has its own table of local addresses; here the last byte is the slot.
        let local = match at {
            IpAddr::V4(v4) if v4.octets()[3] != 1 => LocalSlot(u16::from(v4.octets()[3])),
            IpAddr::V4(_) | IpAddr::V6(_) => LocalSlot::LISTENER,
        };
        let from = Client { local, ..client(&format!("127.0.0.1:{}", 4000 + number)) };
        self.sim().ask(0, from, bytes);
    }

    fn client_receives(&mut self, number: usize, within: Duration) -> Option<(IpAddr, Vec<u8>)> {
        let port = 4000 + number as u16;
        loop {
            if let Some((client, bytes)) = self.at_clients.entry(port).or_default().pop_front() {
                let last = client.local.0.max(1) as u8;
                return Some((IpAddr::from([127, 0, 0, last]), bytes));
            }
            if !self.next(within) {
                return None;
            }
        }
    }

    fn backend_receives(&mut self, number: usize, within: Duration) -> Option<Vec<u8>> {
        loop {
            let received = self.at_backends.entry(Self::address(number)).or_default().pop_front();
            if let Some((port, bytes)) = received {
                self.last.insert(number, port);
                return Some(bytes);
            }
            if !self.next(within) {
                return None;
            }
        }
    }

    fn backend_sends(&mut self, number: usize, bytes: &[u8]) {
        let port = self.last[&number];
        self.sim().answer(port, TickDelta(0), bytes);
    }

    /// Connected sockets receive only from their peer: nothing arrives.
    fn spoof(&mut self, _: usize, _: &[u8]) {}

    fn pass(&mut self, span: Duration) {
        let end = self.sim().now() + TickDelta::from(span);
        loop {
            let left = end.since(self.sim().now());
            if left.0 == 0 || !self.next(left.into()) {
                return;
            }
        }
    }
}

/// The socket engine on loopback addresses.
struct Sockets {
    wildcard: bool,
    listen: SocketAddr,
    listener_socket: Option<socket2::Socket>,
    backends: Vec<UdpSocket>,
    spoofer: UdpSocket,
    last: BTreeMap<usize, SocketAddr>,
    clients: BTreeMap<usize, UdpSocket>,
    running: Option<(Running, Arc<ArcSwap<Snapshot>>)>,
}

impl Sockets {
    fn new(wildcard: bool) -> io::Result<Self> {
        let wanted = if wildcard { "0.0.0.0:0" } else { "127.0.0.1:0" };
        let listener = Listener { service: Service::DnsUdp, ..listener(wanted) };
        let sockets = socket::create(&listener)?;
        socket::bind(&sockets, &listener, true)?;
        let listener_socket = sockets.udp.expect("for datagrams");
        let port = listener_socket.local_addr()?.as_socket().expect("an IP address").port();
        Ok(Self {
            wildcard,
            listen: ([127, 0, 0, 1], port).into(),
            listener_socket: Some(listener_socket),
            backends: (1..=4).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<io::Result<_>>()?,
            spoofer: UdpSocket::bind("127.0.0.1:0")?,
            last: BTreeMap::new(),
            clients: BTreeMap::new(),
            running: None,
        })
    }

    fn receive(socket: &UdpSocket, within: Duration) -> Option<(SocketAddr, Vec<u8>)> {
        socket.set_read_timeout(Some(within)).expect("a time-out");
        let mut bytes = vec![0; 65_536];
        let (length, from) = socket.recv_from(&mut bytes).ok()?;
        bytes.truncate(length);
        Some((from, bytes))
    }

    fn client(&mut self, number: usize) -> &UdpSocket {
        self.clients.entry(number).or_insert_with(|| UdpSocket::bind("127.0.0.1:0").expect("a client"))
    }
}

impl Transport for Sockets {
    fn addresses(&self) -> (SocketAddr, Vec<SocketAddr>) {
        let own = |s: &UdpSocket| s.local_addr().expect("a bound socket");
        let any = SocketAddr::from(([0, 0, 0, 0], self.listen.port()));
        (if self.wildcard { any } else { self.listen }, self.backends.iter().map(own).collect())
    }

    fn start(&mut self, snapshot: Arc<Snapshot>, live_state: &Arc<LiveState>) {
        let feed = Arc::new(ArcSwap::new(snapshot.clone()));
        let setup = Setup { index: 0, cpu: None, seed: [7; 32], busy_poll_us: 0, batch_packets: 64 };
        let running = engine::spawn(setup, feed.clone(), live_state.clone()).expect("a shard");
        let listener_socket = self.listener_socket.take().expect("started once");
        let listen = Message::Listen(
            snapshot.listeners[0].clone(),
            ListenerSockets { udp: Some(listener_socket), tcp: None, inherited: Inherited::default() },
        );
        running.mailbox.send(listen).expect("the shard runs");
        self.running = Some((running, feed));
    }

    fn reload(&mut self, snapshot: Arc<Snapshot>) {
        let (running, feed) = self.running.as_ref().expect("started");
        feed.store(snapshot);
        running.mailbox.send(Message::Snapshot).expect("the shard runs");
    }

    fn ask(&mut self, number: usize, at: IpAddr, bytes: &[u8]) {
        let to = SocketAddr::new(at, self.listen.port());
        self.client(number).send_to(bytes, to).expect("sent");
    }

    fn client_receives(&mut self, number: usize, within: Duration) -> Option<(IpAddr, Vec<u8>)> {
        let port = self.listen.port();
        let (from, bytes) = Self::receive(self.client(number), within)?;
        assert_eq!(from.port(), port, "answers come from the listener's port");
        Some((from.ip(), bytes))
    }

    fn backend_receives(&mut self, number: usize, within: Duration) -> Option<Vec<u8>> {
        let (from, bytes) = Self::receive(&self.backends[number - 1], within)?;
        self.last.insert(number, from);
        Some(bytes)
    }

    fn backend_sends(&mut self, number: usize, bytes: &[u8]) {
        self.backends[number - 1].send_to(bytes, self.last[&number]).expect("sent");
    }

    fn spoof(&mut self, number: usize, bytes: &[u8]) {
        self.spoofer.send_to(bytes, self.last[&number]).expect("sent");
    }

    fn pass(&mut self, span: Duration) {
        std::thread::sleep(span);
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if let Some((running, _)) = self.running.take() {
            // The thread may have panicked; that panic is already being reported.
            let _ = running.mailbox.send(Message::Abort);
            let _ = running.thread.join();
        }
    }
}

/// A running scenario.
struct Play<'w> {
    transport: &'w mut dyn Transport,
    live_state: Arc<LiveState>,
    slots: Slots,
    generation: u64,
    asked_at: BTreeMap<usize, IpAddr>,
    received: BTreeMap<usize, Vec<u8>>,
}

impl Play<'_> {
    fn configure(&mut self, text: &str) {
        let (listen, backends) = self.transport.addresses();
        let mut text = text.replace("\"L\"", &format!("\"{listen}\""));
        for (at, backend) in backends.iter().enumerate() {
            text = text.replace(&format!("\"B{}\"", at + 1), &format!("\"{backend}\""));
        }
        self.generation += 1;
        let Compiled { snapshot, slots, .. } = configured(&text, &self.slots, self.generation);
        self.slots = slots;
        for backend in snapshot.backends.iter().flatten() {
            self.live_state.set_state(backend.slot, State::Up);
        }
        let snapshot = Arc::new(snapshot);
        if self.generation == 1 {
            self.transport.start(snapshot, &self.live_state);
        } else {
            self.transport.reload(snapshot);
            let generation = self.generation;
            self.wait("the shard's word", |stats| stats.generation.load(Relaxed) == generation);
        }
    }

    /// Waits until the statistics of the shard fulfil a condition.
    fn wait(&mut self, what: &str, shown: impl Fn(&dnslob::stats::live::ShardStats) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !shown(&self.live_state.shards()[0]) {
            assert!(Instant::now() < end, "{what} does not come");
            self.transport.pass(Duration::from_millis(1));
        }
    }

    fn line(&mut self, line: &str) {
        let (who, rest) = line.split_once(' ').expect("two words");
        let (verb, what) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = || who[1..].parse::<usize>().expect("a number behind c or b");
        match (&who[..1], verb) {
            ("c", "sends") => {
                let at = self.asked_at(number());
                self.transport.ask(number(), at, &message(what));
            }
            ("c", "asks") => {
                let at = what.strip_prefix("at ").expect("at").parse().expect("an address");
                self.asked_at.insert(number(), at);
            }
            ("c", "receives") if what == "nothing" => {
                assert_eq!(self.transport.client_receives(number(), SILENCE), None);
            }
            ("c", "receives") => {
                let (from, bytes) = self.transport.client_receives(number(), PATIENCE).expect("an answer");
                assert_eq!(from, self.asked_at(number()), "from the queried address");
                same(&bytes, what).unwrap_or_else(|difference| panic!("{difference}"));
            }
            ("b", "receives") if what == "nothing" => {
                assert_eq!(self.transport.backend_receives(number(), SILENCE), None);
            }
            ("b", "receives") => {
                let bytes = self.transport.backend_receives(number(), PATIENCE).expect("a query");
                same(&bytes, what).unwrap_or_else(|difference| panic!("{difference}"));
                self.received.insert(number(), bytes);
            }
            ("b", "sends") => {
                let bytes = self.answer(number(), what);
                self.transport.backend_sends(number(), &bytes);
            }
            ("s", "sends") => {
                let (to, what) = what.split_once(' ').expect("a backend and a message");
                let to = to[1..].parse().expect("a number");
                let bytes = self.answer(to, what);
                self.transport.spoof(to, &bytes);
            }
            ("a", span) => self.transport.pass(Duration::from_millis(span.parse().expect("milliseconds"))),
            ("c", label) => {
                let reason = DropReason::ALL.into_iter().find(|r| r.label() == label).expect("a reason");
                let count: u64 = what.parse().expect("a count");
                self.wait(line, |stats| stats.dropped(reason).get() == count);
            }
            ("o", count) => {
                let count: u32 = count.parse().expect("a count");
                self.wait(line, |stats| stats.outstanding_total.get() == count);
            }
            _ => panic!("unknown line \"{line}\""),
        }
    }

    fn asked_at(&self, client: usize) -> IpAddr {
        self.asked_at.get(&client).copied().unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }

    /// Parses an answer. Without an id in the text, it gets the id of the last query to the
    /// backend.
    fn answer(&self, backend: usize, text: &str) -> Vec<u8> {
        let mut bytes = message(text);
        if text.starts_with('*') {
            bytes[..2].copy_from_slice(&self.received[&backend][..2]);
        }
        bytes
    }
}

fn play(text: &str, transport: &mut dyn Transport) {
    let live_state = Arc::new(LiveState::new(1, SLOTS));
    let mut play = Play {
        transport,
        live_state,
        slots: Slots::default(),
        generation: 0,
        asked_at: BTreeMap::new(),
        received: BTreeMap::new(),
    };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The output of a failed test then ends with the line that failed.
        println!("{}: {line}", at + 1);
        if line == "config" {
            let mut config = String::new();
            while let Some((_, line)) = lines.next_if(|l| l.1.starts_with(' ')) {
                config += line;
                config += "\n";
            }
            play.configure(&config);
        } else {
            play.line(line);
        }
    }
}

/// Returns every scenario by name.
fn scenarios() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenario");
    let mut found: Vec<(String, String)> = std::fs::read_dir(directory)
        .expect("the scenarios")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "scn"))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("a scenario")))
        .collect();
    found.sort();
    assert!(found.len() >= 7, "only {} scenarios", found.len());
    found
}

#[test]
fn scenarios_on_the_simulation() {
    for (name, text) in scenarios() {
        println!("{name}");
        play(&text, &mut Simulated::default());
    }
}

#[test]
fn scenarios_on_sockets() {
    for (name, text) in scenarios() {
        println!("{name}");
        let mut transport = Sockets::new(text.contains("asks at")).expect("sockets on loopback");
        play(&text, &mut transport);
    }
}
