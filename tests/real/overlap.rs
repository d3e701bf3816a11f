//! Sockets that share an address, within a process and among several: whatever is refused, changed,
//! stopped or started, every query is answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{self, Instance, backend};
use crate::load::{Load, Plan};
use crate::message;
use crate::place::{Directory, port, wait_for};

/// Queries per second of one UDP load. There are two loads with eight sockets each, so that the
/// kernel assigns some of them to each socket of a group.
const RATE: u32 = 2_000;
const LOADS: usize = 2;
/// TCP clients, each with a new connection per query.
const CLIENTS: usize = 4;
/// A lost SYN is retransmitted after 1 s, then after 3 s (RFC 6298).
const PATIENCE: Duration = Duration::from_secs(8);

/// A client that sends one query after the other over TCP, each over its own connection.
struct Connections {
    threads: Vec<JoinHandle<Vec<String>>>,
    finish: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Connections {
    fn start(at: SocketAddr) -> Self {
        let (finish, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..CLIENTS).map(|_| {
            let (finish, asked) = (Arc::clone(&finish), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !finish.load(Ordering::Relaxed) {
                    let number = asked.fetch_add(1, Ordering::Relaxed);
                    if let Err(e) = ask_once(at, number as u16) {
                        failures.push(format!("query {number}: {e}"));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                failures
            })
        });
        Self { threads: threads.collect(), finish, asked }
    }

    /// Stops and returns the number of queries. Panics if any was not answered.
    fn finish(self, context: &dyn Fn() -> String) -> u64 {
        self.finish.store(true, Ordering::Relaxed);
        let failures: Vec<String> =
            self.threads.into_iter().flat_map(|t| t.join().expect("a client")).collect();
        let asked = self.asked.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {asked} lost: {failures:#?}\n{}", failures.len(), context());
        asked
    }
}

fn ask_once(at: SocketAddr, id: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let query = message::query(id, "tcp.test");
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer[2..], id.to_be_bytes(), "the answer to another query");
    Ok(())
}

/// Continuous loads over UDP and TCP.
struct Traffic {
    datagrams: Vec<Load>,
    connections: Connections,
}

impl Traffic {
    fn start(at: SocketAddr) -> Self {
        let plan = Plan { target: at, rate: RATE, count: u64::MAX, patience: Duration::from_secs(4) };
        Self {
            datagrams: (0..LOADS).map(|_| Load::start(plan)).collect(),
            connections: Connections::start(at),
        }
    }

    /// Waits until more queries were sent over each of UDP and TCP.
    fn let_pass(&self) {
        let sent = |load: &Load| load.sent() + u64::from(RATE) / 25;
        let goals: Vec<u64> = self.datagrams.iter().map(sent).collect();
        wait_for(
            || "queries to be sent".into(),
            || self.datagrams.iter().zip(&goals).all(|(load, goal)| load.sent() >= *goal).then_some(()),
        );
    }

    /// Panics unless every query was answered, and every datagram reached the backend once.
    fn finish(self, backend: &Backend, context: &dyn Fn() -> String) {
        let connections = self.connections.finish(context);
        let mut sent = 0;
        for load in self.datagrams {
            let report = load.finish();
            report.assert_nothing_lost(context);
            sent += report.sent;
        }
        assert_eq!(backend.queries(), sent, "queries at the backend and from the clients");
        assert!(connections > 0);
        eprintln!("{sent} datagrams and {connections} connections, none lost");
    }
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

fn any(at: SocketAddr) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], at.port()))
}

/// Datagrams are forwarded to the backend; queries over connections are answered at once.
fn rest(backend_at: SocketAddr) -> String {
    backend(backend_at, "") + "addAction(TCPRule(true), SpoofAction(\"192.0.2.99\"))\n"
}

fn listen(at: SocketAddr, options: &str) -> String {
    format!("addLocal(\"{at}\", {{{options}}})\n")
}

/// Occupies a port for UDP and TCP, as another program would.
fn taken() -> (SocketAddr, UdpSocket, TcpListener) {
    let at = local();
    (at, UdpSocket::bind(at).expect("a port"), TcpListener::bind(at).expect("a port"))
}

/// Waits for the log line with the outcome of the reload.
fn reload(instance: &mut Instance, lua: &str, word: &str) {
    let before = instance.program.output().len();
    instance.reload(lua);
    wait_for(
        || format!("{word}; {}", instance.program.transcript()),
        || (!instance.program.lines_with(before, word).is_empty()).then_some(()),
    );
}

#[test]
fn refused_reloads_whose_listeners_share_an_address_lose_nothing() {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let (foreign, _udp, _tcp) = taken();
    let nowhere = SocketAddr::from(([192, 0, 2, 1], at.port()));
    let wildcard = listen(any(at), "") + &rest(a.address);
    let specific = listen(at, "");
    let broken = [
        // More specific addresses than the present one, before and after one that cannot be opened.
        specific.clone() + &listen(foreign, "") + &wildcard,
        listen(nowhere, "") + &specific + &wildcard,
        // The same address with other options.
        listen(any(at), "dscp=10") + &listen(foreign, "") + &rest(a.address),
        // In place of the present one.
        specific.clone() + &listen(foreign, "") + &rest(a.address),
        // An address that looks shareable but is not: only bind(2) finds out.
        specific.clone() + &listen(foreign, "reusePort=true") + &wildcard,
        // Another service on the same port.
        listen(any(at), "doTCP=false") + &listen(foreign, "reusePort=true") + &rest(a.address),
    ];
    let mut instance = Instance::start(&wildcard);
    let traffic = Traffic::start(at);
    for n in 0..50 {
        traffic.let_pass();
        reload(&mut instance, &broken[n % broken.len()], "reload refused");
    }
    traffic.let_pass();
    traffic.finish(&a, &|| instance.program.transcript());
    assert!(instance.stop().success());
}

#[test]
fn reloads_that_change_listeners_lose_nothing() {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let rest = rest(a.address);
    let configs = [
        listen(any(at), "dscp=10, tcpListenQueueSize=100") + &rest,
        // A more specific listener in addition, which is removed again.
        listen(any(at), "") + &listen(at, "") + &rest,
        listen(any(at), "tcpFastOpenQueueSize=5") + &rest,
        // One listener in place of the other.
        listen(at, "dscp=4") + &rest,
        listen(any(at), "") + "setUDPSocketBufferSizes(100000, 100000)\n" + &rest,
    ];
    let mut instance = Instance::start_with(&configs[0], &["--shards", "4"]);
    let traffic = Traffic::start(at);
    for n in 1..=50 {
        traffic.let_pass();
        reload(&mut instance, &configs[n % configs.len()], "serving");
    }
    traffic.let_pass();
    traffic.finish(&a, &|| instance.program.transcript());
    assert!(instance.stop().success());
}

#[test]
fn second_starts_that_fail_lose_nothing() {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let (foreign, _udp, _tcp) = taken();
    let rest = rest(a.address);
    let shared = listen(at, "reusePort=true") + &rest;
    let broken = [
        // Two processes are not configured to share the address.
        (listen(at, "") + &rest, "reusePort=true"),
        (listen(any(at), "") + &rest, "reusePort=true"),
        (shared.clone() + &listen(foreign, ""), "cannot listen on"),
        (listen(foreign, "reusePort=true") + &shared, "cannot listen on"),
        (shared.clone() + &listen(foreign, "reusePort=true"), "cannot listen on"),
        (
            shared.clone() + "addTLSLocal(\"127.0.0.1:1\", \"/nonexistent\", \"/nonexistent\")\n",
            "nonexistent",
        ),
        (shared.clone(), "no such user"),
    ];
    let mut instance = Instance::start(&shared);
    let traffic = Traffic::start(at);
    let directory = Directory::new();
    for n in 0..21 {
        traffic.let_pass();
        let (lua, word) = &broken[n % broken.len()];
        let config = directory.write("second.lua", lua);
        let config = config.to_str().expect("a path in UTF-8");
        let user: &[&str] = if *word == "no such user" { &["-u", word] } else { &[] };
        let (status, text) = instance::run(&[&["--shards", "2", "-C", config], user].concat());
        assert!(!status.success() && text.contains(word), "{n}: {text}");
    }
    traffic.let_pass();
    traffic.finish(&a, &|| instance.program.transcript());
    assert!(instance.stop().success());
}

fn take_overs(flags: &[&str]) {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let lua = [at, any(at)].map(|at| listen(at, "reusePort=true") + &rest(a.address));
    let mut instance = Instance::start_with(&lua[0], flags);
    let traffic = Traffic::start(at);
    for n in 0..6 {
        traffic.let_pass();
        // Every third listener changes from the address to the wildcard or back.
        let mut next = Instance::start_with(&lua[n / 3], flags);
        traffic.let_pass();
        std::mem::swap(&mut instance, &mut next);
        assert!(next.stop().success(), "{}", next.program.transcript());
    }
    traffic.let_pass();
    traffic.finish(&a, &|| instance.program.transcript());
    assert!(instance.stop().success());
}

#[test]
fn a_takeover_by_a_second_process_loses_nothing() {
    take_overs(&["--shards", "2"]);
}

#[test]
fn a_takeover_with_shard_affinity_loses_nothing() {
    take_overs(&["--shards", "3", "--steer", "client"]);
}
