//! Clients that take all they can get beside clients that ask now and then: hundreds of connections that
//! are written without pause, a flood of datagrams, bulk transfers of forwards. Whoever asks little is
//! answered, every single time, and does not wait much longer than without the others.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::{Backend, Manner};
use crate::instance::{Instance, backend, listen};
use crate::load::{self, Plan, Report};
use crate::message;
use crate::place::port;

/// Connections that are written without pause.
const GREEDY: usize = 300;
/// Queries over UDP beside them, and how many a second.
const COUNT: u64 = 1_500;
const RATE: u32 = 500;
/// A wait beside others is at most so many times that without them. On machines with two cores, which
/// this test and others keep busy, it is three to ten times as long; where connections are served
/// until they have nothing more to say, some thousand times.
const SLOWER_MAX: u32 = 50;

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Answers what the greedy ask without a backend, so that only the balancer is kept busy.
const OWN_ANSWERS: &str = "addAction(QNameSuffixRule(\"greedy.test\"), RCodeAction(DNSRCode.REFUSED))\n";

/// Something that goes on in threads of this process until it is stopped, and what it has counted.
struct Beside {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Beside {
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

/// One connection that is written as fast as it takes bytes, and read.
struct Greedy {
    stream: TcpStream,
    /// How much of the queries is written; they are written over and over.
    written: usize,
    /// Bytes read.
    read: Arc<AtomicU64>,
}

impl Greedy {
    fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).expect("a connection");
        stream.set_nonblocking(true).expect("set");
        Self { stream, written: 0, read: Arc::default() }
    }

    /// Whether something could be done.
    fn go_on(&mut self, queries: &[u8], buffer: &mut [u8]) -> bool {
        let read = done(self.stream.read(buffer));
        self.read.fetch_add(read as u64, Relaxed);
        let written = done(self.stream.write(&queries[self.written..]));
        self.written = (self.written + written) % queries.len();
        read + written > 0
    }
}

/// Bytes that were read or written, perhaps none at this time.
fn done(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(0) => panic!("a connection was closed"),
        Ok(count) => count,
        Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
        Err(e) => panic!("a connection broke: {e}"),
    }
}

/// Some queries for the greedy, in their frames.
fn queries() -> Vec<u8> {
    let each = (0..500_u16).flat_map(|n| framed(&message::query(n, &format!("n{n}.greedy.test"))));
    each.collect()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// Keeps `count` connections busy without pause; the bytes that each has read.
fn greedy(beside: &mut Beside, at: SocketAddr, count: usize) -> Vec<Arc<AtomicU64>> {
    let mut all: Vec<Greedy> = (0..count).map(|_| Greedy::connect(at)).collect();
    let read = all.iter().map(|one| Arc::clone(&one.read)).collect();
    beside.run(move |stop| {
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

/// Asks over UDP while something else goes on: every query is answered, and within a while that is
/// measured by what it is without, and by what the machine has left for the test itself.
fn assert_served_beside(
    instance: &Instance,
    server: SocketAddr,
    at: SocketAddr,
    begin: impl FnOnce(&mut Beside),
) {
    let alone = ask(at);
    let mut beside = Beside::new();
    begin(&mut beside);
    let direct = ask(server);
    let through = ask(at);
    beside.finish();
    for report in [&alone, &direct, &through] {
        report.assert_nothing_lost(&|| format!("{:#?}", instance.dump()));
    }
    let [alone, direct, through] = [alone, direct, through].map(|report| report.percentile(90));
    let most = (alone + direct) * SLOWER_MAX;
    assert!(through <= most, "{through:?} beside others, {alone:?} alone, {direct:?} without a balancer");
    println!("{through:?} beside others, {alone:?} alone, {direct:?} without a balancer");
}

#[test]
fn datagrams_are_answered_beside_hundreds_of_connections_that_are_written_without_pause() {
    let (server, at) = (Backend::start(61, Manner::Prompt), local());
    let instance =
        Instance::start_with(&(listen(at) + &backend(server.address, "") + OWN_ANSWERS), &["--shards", "1"]);
    assert_served_beside(&instance, server.address, at, |beside| {
        greedy(beside, at, GREEDY);
    });
}

#[test]
fn a_connection_that_asks_one_by_one_is_answered_beside_hundreds_that_ask_without_pause() {
    const QUERIES: u16 = 20;
    let at = local();
    let instance = Instance::start_with(&(listen(at) + OWN_ANSWERS), &["--shards", "1"]);
    let mut beside = Beside::new();
    let read = greedy(&mut beside, at, GREEDY);
    let bytes = || read.iter().map(|one| one.load(Relaxed)).collect::<Vec<_>>();
    // All have begun.
    crate::place::wait_for(
        || format!("answers for all: {:?}", bytes()),
        || bytes().iter().all(|bytes| *bytes > 0).then_some(()),
    );
    let mut quiet = TcpStream::connect(at).expect("a connection");
    quiet.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let before = bytes();
    let query = framed(&message::query(7, "quiet.greedy.test"));
    for _ in 0..QUERIES {
        quiet.write_all(&query).expect("sent");
        let mut answer = vec![0; query.len()];
        quiet.read_exact(&mut answer).unwrap_or_else(|e| panic!("{e}: {:#?}", instance.dump()));
    }
    let more = |(after, before): (u64, &u64)| (after - before) / query.len() as u64;
    let answers: Vec<u64> = bytes().into_iter().zip(&before).map(more).collect();
    beside.finish();
    // Each had as many turns as the quiet one, or a few more, and some tens of queries in each.
    let most = answers.iter().max().expect("some");
    assert!(*most < u64::from(QUERIES) * 500, "{most} answers for {QUERIES}");
    let all: u64 = answers.iter().sum();
    let fair = all / answers.len() as u64;
    assert!(*most < 4 * fair + 500, "{most} answers for one, {fair} on average");
}

#[test]
fn a_connection_is_answered_beside_a_flood_of_datagrams() {
    let at = local();
    let _instance = Instance::start_with(&(listen(at) + OWN_ANSWERS), &["--shards", "1"]);
    let mut beside = Beside::new();
    beside.run(move |stop| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let query = message::query(9, "flood.greedy.test");
        while !stop.load(Relaxed) {
            let _ = socket.send_to(&query, at);
        }
    });
    let mut stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let query = framed(&message::query(7, "one.greedy.test"));
    for n in 0..500 {
        stream.write_all(&query).expect("sent");
        let mut answer = vec![0; query.len()];
        stream.read_exact(&mut answer).unwrap_or_else(|e| panic!("query {n}: {e}"));
    }
    beside.finish();
}

#[test]
fn datagrams_are_answered_beside_bulk_transfers_of_a_forward() {
    const TRANSFERS: usize = 20;
    let (server, at, forward) = (Backend::start(62, Manner::Prompt), local(), local());
    let target = TcpListener::bind("127.0.0.1:0").expect("a target");
    let address = target.local_addr().expect("its address");
    let lua = listen(at)
        + &backend(server.address, "")
        + &format!("addTCPForward {{listen=\"{forward}\", to={{\"{address}\"}}}}\n");
    let instance = Instance::start_with(&lua, &["--shards", "1"]);
    let passed = Arc::<AtomicU64>::default();
    let count = Arc::clone(&passed);
    assert_served_beside(&instance, server.address, at, move |beside| {
        target.set_nonblocking(true).expect("set");
        let mut senders: Vec<_> =
            (0..TRANSFERS).map(|_| TcpStream::connect(forward).expect("a connection")).collect();
        senders.iter().for_each(|stream| stream.set_nonblocking(true).expect("set"));
        beside.run(move |stop| {
            let (bytes, mut buffer) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
            let mut receivers = Vec::new();
            while !stop.load(Relaxed) {
                if let Ok((stream, _)) = target.accept() {
                    stream.set_nonblocking(true).expect("set");
                    receivers.push(stream);
                }
                // Health checks connect, too, and close at once.
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
