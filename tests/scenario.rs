//! Transcripts, `tests/scenario/*.scn`, played on the simulation and on the socket engine: the
//! same text, the same expectations.
//!
//! ```text
//! config                      the lines indented below it are Lua; L is the listener's address,
//!   newServer("B1")           B1, B2, ... are those of the backends. A later one is a reload.
//! c1 sends 1234 RD a/A        client 1 sends a message (the notation of support/message.rs)
//! c1 asks at 127.0.0.9        from here on client 1 asks the listener at this address
//! b1 hears * RD a/A           backend 1 hears it next
//! b1 says * QR a/A            backend 1 answers what it heard last; `*` puts the id in place
//! stranger says b1 * QR a/A   the same, to the same port, from an address that is not the backend's
//! c1 hears 1234 QR a/A        client 1 hears it next, from the address that it asked
//! b1 hears nothing            nothing comes for a while
//! after 200                   milliseconds pass
//! counted timeout 1           so many drops of this reason there have been in all
//! outstanding 0               so many queries wait for an answer
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
use dnslob::engine::socket::ListenerSockets;
use dnslob::engine::{Message, Running, Setup, socket};
use dnslob::model::{Listener, Service, Snapshot};
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::live::{LiveState, State};
use support::farm::{client, configured, listener};
use support::message::{message, same};

/// What is expected comes within this, or the scenario fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// What must not come has so long to do so.
const SILENCE: Duration = Duration::from_millis(60);
const SLOTS: usize = 8;

/// Where a scenario is played.
trait World {
    /// The listener's address, and the backends'.
    fn addresses(&self) -> (SocketAddr, Vec<SocketAddr>);
    fn start(&mut self, snapshot: Arc<Snapshot>, live_state: &Arc<LiveState>);
    fn reload(&mut self, snapshot: Arc<Snapshot>);
    fn ask(&mut self, client: usize, at: IpAddr, bytes: &[u8]);
    /// What a client hears, and from which of our addresses.
    fn client_hears(&mut self, client: usize, within: Duration) -> Option<(IpAddr, Vec<u8>)>;
    fn backend_hears(&mut self, backend: usize, within: Duration) -> Option<Vec<u8>>;
    /// Sends to the port of ours that a backend last heard from.
    fn backend_says(&mut self, backend: usize, bytes: &[u8]);
    /// The same from another address.
    fn stranger_says(&mut self, backend: usize, bytes: &[u8]);
    fn pass(&mut self, span: Duration);
}

/// The simulation; its network is perfect.
#[derive(Default)]
struct Simulated {
    sim: Option<Sim>,
    at_clients: BTreeMap<u16, VecDeque<(Client, Vec<u8>)>>,
    at_backends: BTreeMap<SocketAddr, VecDeque<(Port, Vec<u8>)>>,
    last: BTreeMap<usize, Port>,
}

impl Simulated {
    fn address(backend: usize) -> SocketAddr {
        support::farm::backend(backend).address
    }

    fn sim(&mut self) -> &mut Sim {
        self.sim.as_mut().expect("a configuration comes first")
    }

    /// Lets time pass until something was seen.
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
            None => false,
        }
    }
}

impl World for Simulated {
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
        // The engine's table of local addresses is its own; here the last byte is the slot.
        let local = match at {
            IpAddr::V4(v4) if v4.octets()[3] != 1 => LocalSlot(u16::from(v4.octets()[3])),
            IpAddr::V4(_) | IpAddr::V6(_) => LocalSlot::LISTENER,
        };
        let from = Client { local, ..client(&format!("127.0.0.1:{}", 4000 + number)) };
        self.sim().ask(0, from, bytes);
    }

    fn client_hears(&mut self, number: usize, within: Duration) -> Option<(IpAddr, Vec<u8>)> {
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

    fn backend_hears(&mut self, number: usize, within: Duration) -> Option<Vec<u8>> {
        loop {
            let heard = self.at_backends.entry(Self::address(number)).or_default().pop_front();
            if let Some((port, bytes)) = heard {
                self.last.insert(number, port);
                return Some(bytes);
            }
            if !self.next(within) {
                return None;
            }
        }
    }

    fn backend_says(&mut self, number: usize, bytes: &[u8]) {
        let port = self.last[&number];
        self.sim().answer(port, TickDelta(0), bytes);
    }

    /// Connected sockets hear their own peer only: nothing arrives.
    fn stranger_says(&mut self, _: usize, _: &[u8]) {}

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

/// The socket engine on loopback.
struct Sockets {
    wildcard: bool,
    listen: SocketAddr,
    listener_socket: Option<socket2::Socket>,
    backends: Vec<UdpSocket>,
    stranger: UdpSocket,
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
            stranger: UdpSocket::bind("127.0.0.1:0")?,
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

impl World for Sockets {
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
            ListenerSockets { udp: Some(listener_socket), tcp: None, passed: false },
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

    fn client_hears(&mut self, number: usize, within: Duration) -> Option<(IpAddr, Vec<u8>)> {
        let port = self.listen.port();
        let (from, bytes) = Self::receive(self.client(number), within)?;
        assert_eq!(from.port(), port, "answers come from the listener's port");
        Some((from.ip(), bytes))
    }

    fn backend_hears(&mut self, number: usize, within: Duration) -> Option<Vec<u8>> {
        let (from, bytes) = Self::receive(&self.backends[number - 1], within)?;
        self.last.insert(number, from);
        Some(bytes)
    }

    fn backend_says(&mut self, number: usize, bytes: &[u8]) {
        self.backends[number - 1].send_to(bytes, self.last[&number]).expect("sent");
    }

    fn stranger_says(&mut self, number: usize, bytes: &[u8]) {
        self.stranger.send_to(bytes, self.last[&number]).expect("sent");
    }

    fn pass(&mut self, span: Duration) {
        std::thread::sleep(span);
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if let Some((running, _)) = self.running.take() {
            // It may have ended by a panic that is being reported already.
            let _ = running.mailbox.send(Message::Abort);
            let _ = running.thread.join();
        }
    }
}

/// One scenario under way.
struct Play<'w> {
    world: &'w mut dyn World,
    live_state: Arc<LiveState>,
    slots: Slots,
    generation: u64,
    asked_at: BTreeMap<usize, IpAddr>,
    heard: BTreeMap<usize, Vec<u8>>,
}

impl Play<'_> {
    fn configure(&mut self, text: &str) {
        let (listen, backends) = self.world.addresses();
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
            self.world.start(snapshot, &self.live_state);
        } else {
            self.world.reload(snapshot);
            let generation = self.generation;
            self.wait("the shard's word", |stats| stats.generation.load(Relaxed) == generation);
        }
    }

    /// Waits until the shard's page shows something.
    fn wait(&mut self, what: &str, shown: impl Fn(&dnslob::stats::live::ShardStats) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !shown(&self.live_state.shards()[0]) {
            assert!(Instant::now() < end, "{what} does not come");
            self.world.pass(Duration::from_millis(1));
        }
    }

    fn line(&mut self, line: &str) {
        let (who, rest) = line.split_once(' ').expect("two words");
        let (verb, what) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = || who[1..].parse::<usize>().expect("a number behind c or b");
        match (&who[..1], verb) {
            ("c", "sends") => {
                let at = self.asked_at(number());
                self.world.ask(number(), at, &message(what));
            }
            ("c", "asks") => {
                let at = what.strip_prefix("at ").expect("at").parse().expect("an address");
                self.asked_at.insert(number(), at);
            }
            ("c", "hears") if what == "nothing" => {
                assert_eq!(self.world.client_hears(number(), SILENCE), None);
            }
            ("c", "hears") => {
                let (from, bytes) = self.world.client_hears(number(), PATIENCE).expect("an answer");
                assert_eq!(from, self.asked_at(number()), "from the address that was asked");
                same(&bytes, what).unwrap_or_else(|difference| panic!("{difference}"));
            }
            ("b", "hears") if what == "nothing" => {
                assert_eq!(self.world.backend_hears(number(), SILENCE), None);
            }
            ("b", "hears") => {
                let bytes = self.world.backend_hears(number(), PATIENCE).expect("a query");
                same(&bytes, what).unwrap_or_else(|difference| panic!("{difference}"));
                self.heard.insert(number(), bytes);
            }
            ("b", "says") => {
                let bytes = self.answer(number(), what);
                self.world.backend_says(number(), &bytes);
            }
            ("s", "says") => {
                let (to, what) = what.split_once(' ').expect("a backend and a message");
                let to = to[1..].parse().expect("a number");
                let bytes = self.answer(to, what);
                self.world.stranger_says(to, &bytes);
            }
            ("a", span) => self.world.pass(Duration::from_millis(span.parse().expect("milliseconds"))),
            ("c", label) => {
                let reason = DropReason::ALL.into_iter().find(|r| r.label() == label).expect("a reason");
                let count: u64 = what.parse().expect("a count");
                self.wait(line, |stats| stats.dropped(reason).get() == count);
            }
            ("o", count) => {
                let count: u32 = count.parse().expect("a count");
                self.wait(line, |stats| stats.outstanding_total.get() == count);
            }
            _ => panic!("what is \"{line}\"?"),
        }
    }

    fn asked_at(&self, client: usize) -> IpAddr {
        self.asked_at.get(&client).copied().unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }

    /// An answer, under the id of the query that a backend heard last if the text leaves it open.
    fn answer(&self, backend: usize, text: &str) -> Vec<u8> {
        let mut bytes = message(text);
        if text.starts_with('*') {
            bytes[..2].copy_from_slice(&self.heard[&backend][..2]);
        }
        bytes
    }
}

fn play(text: &str, world: &mut dyn World) {
    let live_state = Arc::new(LiveState::new(1, SLOTS));
    let mut play = Play {
        world,
        live_state,
        slots: Slots::default(),
        generation: 0,
        asked_at: BTreeMap::new(),
        heard: BTreeMap::new(),
    };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The test's output then ends with the line that failed.
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

/// Every scenario, by name.
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
fn on_the_simulation() {
    for (name, text) in scenarios() {
        println!("{name}");
        play(&text, &mut Simulated::default());
    }
}

#[test]
fn on_sockets() {
    for (name, text) in scenarios() {
        println!("{name}");
        let mut world = Sockets::new(text.contains("asks at")).expect("sockets on loopback");
        play(&text, &mut world);
    }
}
