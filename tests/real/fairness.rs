//! Busy clients beside clients with few queries: hundreds of connections that send continuously, a
//! flood of datagrams, bulk transfers of relays. Each query of a quiet client is answered, and does
//! not wait much longer than without the others.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{self, Plan, Report};
use crate::message;
use crate::place::port;

/// Connections that send continuously.
const BUSY: usize = 300;
/// Queries over UDP at the same time, and their rate per second.
const COUNT: u64 = 1_500;
const RATE: u32 = 500;
/// The most a wait may grow under load, as a factor. On machines with two cores that also run other
/// tests, it is three to ten; without fair turns between connections it is some thousand.
const SLOWER_MAX: u32 = 50;

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Answers the queries of busy clients without a backend, so that only the balancer is loaded.
const OWN_ANSWERS: &str = "addAction(QNameSuffixRule(\"busy.test\"), RCodeAction(DNSRCode.REFUSED))\n";

/// A background load in threads of this process, and its counters.
struct Background {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    fn new() -> Self {
        Self { stop: Arc::default(), threads: Vec::new() }
    }

    fn run(&mut self, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || work(&stop)));
    }

    fn finish(self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("it ended well");
        }
    }
}

/// A connection that sends as fast as it can, and reads.
struct BusyClient {
    stream: TcpStream,
    /// How much of the queries has been written; they are sent repeatedly.
    written: usize,
    /// Bytes read.
    read: Arc<AtomicU64>,
}

impl BusyClient {
    fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).expect("a connection");
        stream.set_nonblocking(true).expect("set");
        Self { stream, written: 0, read: Arc::default() }
    }

    /// Whether there was progress.
    fn go_on(&mut self, queries: &[u8], buffer: &mut [u8]) -> bool {
        let read = done(self.stream.read(buffer));
        self.read.fetch_add(read as u64, Relaxed);
        let written = done(self.stream.write(&queries[self.written..]));
        self.written = (self.written + written) % queries.len();
        read + written > 0
    }
}

/// Returns the number of bytes read or written; 0 if the socket would block.
fn done(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(0) => panic!("a connection was closed"),
        Ok(count) => count,
        Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
        Err(e) => panic!("a connection broke: {e}"),
    }
}

/// Returns queries with length prefixes for busy clients.
fn queries() -> Vec<u8> {
    let each = (0..500_u16).flat_map(|n| framed(&message::query(n, &format!("n{n}.busy.test"))));
    each.collect()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// Keeps `count` connections busy; counts the bytes that each has read.
fn busy_clients(background: &mut Background, at: SocketAddr, count: usize) -> Vec<Arc<AtomicU64>> {
    let mut all: Vec<BusyClient> = (0..count).map(|_| BusyClient::connect(at)).collect();
    let read = all.iter().map(|one| Arc::clone(&one.read)).collect();
    background.run(move |stop| {
        let (queries, mut buffer) = (queries(), vec![0; 256 * 1024]);
        while !stop.load(Relaxed) {
            let mut any = false;
            for one in &mut all {
                any |= one.go_on(&queries, &mut buffer);
            }
            if !any {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    });
    read
}

fn ask(target: SocketAddr) -> Report {
    load::run(Plan { target, rate: RATE, count: COUNT, patience: Duration::from_secs(5) })
}

/// Sends queries over UDP under a background load. Every query must be answered, within a time
/// relative to the unloaded latency and to the CPU time left for the test itself.
fn assert_served_under(
    instance: &Instance,
    server: SocketAddr,
    at: SocketAddr,
    begin: impl FnOnce(&mut Background),
) {
    let alone = ask(at);
    let mut background = Background::new();
    begin(&mut background);
    let direct = ask(server);
    let through = ask(at);
    background.finish();
    for report in [&alone, &direct, &through] {
        report.assert_nothing_lost(&|| format!("{:#?}", instance.dump()));
    }
    let [alone, direct, through] = [alone, direct, through].map(|report| report.percentile(90));
    let most = (alone + direct) * SLOWER_MAX;
    assert!(through <= most, "{through:?} under load, {alone:?} alone, {direct:?} without a balancer");
    println!("{through:?} under load, {alone:?} alone, {direct:?} without a balancer");
}

#[test]
fn datagrams_are_answered_beside_hundreds_of_busy_connections() {
    let (server, at) = (Backend::start(61, Behaviour::Prompt), local());
    let instance =
        Instance::start_with(&(listen(at) + &backend(server.address, "") + OWN_ANSWERS), &["--shards", "1"]);
    assert_served_under(&instance, server.address, at, |background| {
        busy_clients(background, at, BUSY);
    });
}

#[test]
fn a_slow_connection_is_answered_beside_hundreds_of_busy_ones() {
    const QUERIES: u16 = 20;
    let at = local();
    let instance = Instance::start_with(&(listen(at) + OWN_ANSWERS), &["--shards", "1"]);
    let mut background = Background::new();
    let read = busy_clients(&mut background, at, BUSY);
    let bytes = || read.iter().map(|one| one.load(Relaxed)).collect::<Vec<_>>();
    // All connections are active.
    crate::place::wait_for(
        || format!("answers for all: {:?}", bytes()),
        || bytes().iter().all(|bytes| *bytes > 0).then_some(()),
    );
    let mut quiet = TcpStream::connect(at).expect("a connection");
    quiet.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let before = bytes();
    let query = framed(&message::query(7, "quiet.busy.test"));
    for _ in 0..QUERIES {
        quiet.write_all(&query).expect("sent");
        let mut answer = vec![0; query.len()];
        quiet.read_exact(&mut answer).unwrap_or_else(|e| panic!("{e}: {:#?}", instance.dump()));
    }
    let more = |(after, before): (u64, &u64)| (after - before) / query.len() as u64;
    let answers: Vec<u64> = bytes().into_iter().zip(&before).map(more).collect();
    background.finish();
    // Each had about as many turns as the quiet connection, with some tens of queries per turn.
    let most = answers.iter().max().expect("some");
    assert!(*most < u64::from(QUERIES) * 500, "{most} answers for {QUERIES}");
    let all: u64 = answers.iter().sum();
    let fair = all / answers.len() as u64;
    assert!(*most < 4 * fair + 500, "{most} answers for one, {fair} on average");
}

#[test]
fn a_connection_is_answered_during_a_flood_of_datagrams() {
    let at = local();
    let _instance = Instance::start_with(&(listen(at) + OWN_ANSWERS), &["--shards", "1"]);
    let mut background = Background::new();
    background.run(move |stop| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let query = message::query(9, "flood.busy.test");
        while !stop.load(Relaxed) {
            let _ = socket.send_to(&query, at);
        }
    });
    let mut stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let query = framed(&message::query(7, "one.busy.test"));
    for n in 0..500 {
        stream.write_all(&query).expect("sent");
        let mut answer = vec![0; query.len()];
        stream.read_exact(&mut answer).unwrap_or_else(|e| panic!("query {n}: {e}"));
    }
    background.finish();
}

#[test]
fn datagrams_are_answered_during_bulk_transfers_of_a_relay() {
    const TRANSFERS: usize = 20;
    let (server, at, forward) = (Backend::start(62, Behaviour::Prompt), local(), local());
    let target = TcpListener::bind("127.0.0.1:0").expect("a target");
    let address = target.local_addr().expect("its address");
    let lua = listen(at)
        + &backend(server.address, "")
        + &format!("addTCPForward {{listen=\"{forward}\", to={{\"{address}\"}}}}\n");
    let instance = Instance::start_with(&lua, &["--shards", "1"]);
    let passed = Arc::<AtomicU64>::default();
    let count = Arc::clone(&passed);
    assert_served_under(&instance, server.address, at, move |background| {
        target.set_nonblocking(true).expect("set");
        let mut senders: Vec<_> =
            (0..TRANSFERS).map(|_| TcpStream::connect(forward).expect("a connection")).collect();
        senders.iter().for_each(|stream| stream.set_nonblocking(true).expect("set"));
        background.run(move |stop| {
            let (bytes, mut buffer) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
            let mut receivers = Vec::new();
            while !stop.load(Relaxed) {
                if let Ok((stream, _)) = target.accept() {
                    stream.set_nonblocking(true).expect("set");
                    receivers.push(stream);
                }
                // Health checks also connect, and close at once.
                receivers.retain_mut(|receiver| match receiver.read(&mut buffer) {
                    Ok(0) => false,
                    read => {
                        count.fetch_add(done(read) as u64, Relaxed);
                        true
                    }
                });
                for sender in &mut senders {
                    done(sender.write(&bytes));
                }
            }
        });
    });
    assert!(passed.load(Relaxed) > 100 << 20, "{passed:?} bytes");
}
