//! Descriptor exhaustion by idle connections, flows from spoofed addresses, a reload, and check
//! programs. DNS service continues, servers stay up, and new clients are served.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Behaviour};
use crate::connections::{framed, read_message};
use crate::instance::{Instance, binary, listen};
use crate::load::{Load, Plan};
use crate::pki::Authority;
use crate::place::{Directory, port, wait_for};
use crate::servers::{Kind, Server};

/// The descriptor limit in these tests.
const LIMIT: u64 = 300;
/// Longer than the detection of a failed server: one failed check is enough, and checks run every
/// second.
const CHECKS: Duration = Duration::from_millis(2_500);

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Starts a balancer with at most [`LIMIT`] descriptors.
fn start(directory: Directory, lua: &str) -> Instance {
    let config = directory.write("dnslob.lua", lua);
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={LIMIT}:{LIMIT}")).arg(binary());
    command.args(["--shards", "2", "-C"]).arg(config);
    Instance::launch(command, directory)
}

/// Returns Lua for a server with a health check per second.
fn checked(server: SocketAddr) -> String {
    // A long timeout: on a busy machine only a lack of descriptors may fail a check.
    format!(
        "newServer {{address=\"{server}\", checkInterval=1, checkTimeout=5000, maxCheckFailures=1, udpTimeout=8}}\n"
    )
}

/// Sends queries and expects every one to be answered.
fn steady(target: SocketAddr) -> Load {
    Load::start(Plan { target, rate: 500, count: u64::MAX, patience: Duration::from_secs(10) })
}

fn figure(instance: &Instance, name: &str) -> u64 {
    let dump = instance.dump();
    let found = dump.iter().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|w| *w != name);
        words.nth(1)?.parse().ok()
    });
    found.unwrap_or_else(|| panic!("no {name} in {dump:#?}"))
}

/// Idle connections, more than the balancer may have, opened by a few threads.
fn idle(at: SocketAddr, count: usize) -> Vec<TcpStream> {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let open = |_| TcpStream::connect_timeout(&at, Duration::from_secs(10)).ok();
                (0..count / 4).filter_map(open).collect::<Vec<_>>()
            })
        })
        .collect();
    threads.into_iter().flat_map(|t| t.join().expect("a thread")).collect()
}

/// Sends a query over a new connection; retries a few times if it is refused, as clients do.
fn ask_by_tcp(at: SocketAddr, number: u16) -> bool {
    (0..3).any(|_| {
        let Ok(mut stream) = TcpStream::connect_timeout(&at, Duration::from_secs(5)) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        stream.write_all(&framed(number, "tcp.test")).is_ok()
            && read_message(&mut stream).is_some_and(|answer| answer[..2] == number.to_be_bytes())
    })
}

fn nobody_is_down(instance: &Instance) {
    let down = instance.program.lines_with(0, "server is down");
    assert!(down.is_empty(), "{}", instance.program.transcript());
}

/// Opens idle connections to `busy` and sends queries over UDP and over new connections to `at`.
fn idle_connections_harm_nobody(instance: &mut Instance, busy: SocketAddr, at: SocketAddr) {
    let load = steady(at);
    let connections = idle(busy, 3 * LIMIT as usize);
    let until = Instant::now() + CHECKS;
    let mut asked = 0;
    while Instant::now() < until {
        assert!(
            ask_by_tcp(at, asked),
            "query {asked}; {}\n{:#?}",
            instance.program.transcript(),
            instance.dump()
        );
        asked += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    nobody_is_down(instance);
    assert!(figure(instance, "descriptors-open") <= LIMIT);
    assert!(figure(instance, "client-connection-end-evicted") > 0, "{:#?}", instance.dump());
    let warnings = instance.program.lines_with(0, "out of file descriptors");
    assert!((1..=4).contains(&warnings.len()), "logged, and not too often: {warnings:#?}");
    drop(connections);
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}

#[test]
fn idle_connections_are_closed_for_new_ones_without_server_failures() {
    let servers = [Server::start(Kind::Unbound, 21), Server::start(Kind::Nsd, 22)];
    let at = local();
    let all: String = servers.iter().map(|s| checked(s.address)).collect();
    let mut instance = start(Directory::new(), &(listen(at) + &all));
    idle_connections_harm_nobody(&mut instance, at, at);
}

#[test]
fn connections_without_a_handshake_are_closed_for_new_ones() {
    let server = Server::start(Kind::Unbound, 23);
    let (at, tls) = (local(), local());
    let authority = Authority::new();
    let pair = authority.issue("listener", &["dns.test"]);
    let secure = crate::tls::listen_tls(tls, &[&pair], "");
    let mut instance = start(Directory::new(), &(listen(at) + &secure + &checked(server.address)));
    idle_connections_harm_nobody(&mut instance, tls, at);
}

/// A target that answers only to `hello`.
struct Target {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Target {
    fn start() -> Self {
        let address = local();
        let socket = UdpSocket::bind(address).expect("a target");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !ends.load(SeqCst) {
                if let Ok((count, from)) = socket.recv_from(&mut buffer)
                    && buffer[..count].starts_with(b"hello")
                {
                    // The answer contains the source port: another port is another flow.
                    let _ = socket.send_to(from.port().to_string().as_bytes(), from);
                }
            }
        });
        Self { address, stop }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

/// Sends a datagram from one of many addresses, each used once.
fn spoof(number: u32, at: SocketAddr) {
    let source = IpAddr::from(Ipv4Addr::from(0x7f10_0000 + number));
    // The kernel chooses the port.
    if let Ok(socket) = UdpSocket::bind((source, 0)) {
        let _ = socket.send_to(b"made up", at);
    }
}

#[test]
fn flows_from_spoofed_addresses_evict_only_unanswered_flows() {
    let servers = [Backend::start(1, Behaviour::Prompt), Backend::start(2, Behaviour::Prompt)];
    let target = Target::start();
    let (at, forward) = (local(), local());
    let mut lua = listen(at) + &servers.iter().map(|s| checked(s.address)).collect::<String>();
    lua += &format!(
        "addUDPForward{{listen=\"{forward}\", to={{\"{}\"}}, check=\"none\", idleTimeout=60}}\n",
        target.address
    );
    let mut instance = start(Directory::new(), &lua);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    client.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
    let mut buffer = [0; 16];
    let mut hello = || {
        // During the flood, on two cores, a datagram may meet a full receive buffer.
        (0..3).find_map(|_| {
            client.send_to(b"hello", forward).ok()?;
            let count = client.recv(&mut buffer).ok()?;
            String::from_utf8(buffer[..count].to_vec()).ok()
        })
    };
    let flow = hello().expect("an answer");
    assert_eq!(hello(), Some(flow.clone()));
    let load = steady(at);
    let until = Instant::now() + CHECKS;
    let mut sent = 0;
    while Instant::now() < until || sent < 20 * LIMIT as u32 {
        for _ in 0..40 {
            spoof(sent, forward);
            sent += 1;
        }
        if sent % 1_000 == 0 {
            assert_eq!(
                hello(),
                Some(flow.clone()),
                "after {sent}: it is the same flow; {:#?}",
                instance.dump()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(hello(), Some(flow), "{:#?}", instance.dump());
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    nobody_is_down(&instance);
    assert!(figure(&instance, "relay-end-evicted") > 0, "{:#?}", instance.dump());
    assert!(figure(&instance, "descriptors-open") <= LIMIT);
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}

#[test]
fn a_reload_closes_idle_connections_or_changes_nothing() {
    let servers: Vec<_> = (1..=8).map(|who| Backend::start(who, Behaviour::Prompt)).collect();
    let at = local();
    let with = |count: usize, listeners: usize| {
        let more: String = (0..listeners).map(|_| listen(local())).collect();
        listen(at) + &more + &servers[..count].iter().map(|s| checked(s.address)).collect::<String>()
    };
    let mut instance = start(Directory::new(), &with(2, 0));
    let load = steady(at);
    let connections = idle(at, 2 * LIMIT as usize);
    // 6 more servers with 4 sockets in each of 2 shards, and 10 listeners with 2: enough
    // descriptors can be freed.
    instance.reload(&with(8, 10));
    assert!(instance.program.lines_with(0, "reload refused").is_empty(), "{}", instance.program.transcript());
    wait_for(
        || format!("room for every socket; {:#?}", instance.dump()),
        || (figure(&instance, "descriptors-open") <= LIMIT).then_some(()),
    );
    // 100 listeners with 2 sockets in each of 2 shards: too many.
    instance.reload(&with(8, 100));
    let refused = instance.program.lines_with(0, "too few file descriptors: the configuration needs");
    assert_eq!(refused.len(), 1, "{}", instance.program.transcript());
    let until = Instant::now() + CHECKS;
    let mut asked = 0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
        asked += 1;
    }
    let report = load.finish();
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert!(report.by_backend.len() == 8 && asked > 0, "all of them serve: {:?}", report.by_backend);
    nobody_is_down(&instance);
    drop(connections);
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}

#[test]
fn a_limit_too_low_for_the_configuration_is_logged_at_startup() {
    let directory = Directory::new();
    let listeners: String = (0..100).map(|_| listen(local())).collect();
    let config = directory.write("dnslob.lua", &(listeners + "newServer(\"127.0.0.1:5\")\n"));
    let mut command = Command::new("prlimit");
    command.arg("--nofile=300:300").arg(binary()).args(["--shards", "2", "-C"]).arg(config);
    let mut program = crate::process::Program::start(&mut command);
    assert!(!program.wait().success());
    wait_for(
        || program.transcript(),
        || program.output().iter().any(|l| l.contains("too few file descriptors")).then_some(()),
    );
}

#[test]
fn a_limit_that_leaves_nothing_for_connections_is_warned_of() {
    let directory = Directory::new();
    let server = local();
    let config = directory.write("dnslob.lua", &(listen(local()) + &format!("newServer(\"{server}\")\n")));
    let mut command = Command::new("prlimit");
    // 43 are needed: 24, a shard's 11, 2 listener sockets, 4 to the server, a check, and one left.
    command.arg("--nofile=43:43").arg(binary()).args(["--shards", "1", "-C"]).arg(config);
    let mut instance = Instance::launch(command, directory);
    let warned = instance.program.lines_with(0, "none left for these connections");
    assert!(
        warned.iter().any(|line| line.contains("usage=\"clients\"")),
        "{}",
        instance.program.transcript()
    );
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}

/// Sets the soft limit of a running program; its hard limit stays.
fn lower(instance: &Instance, limit: u64) {
    let (limit, pid) = (format!("--nofile={limit}:{LIMIT}"), instance.program.pid().to_string());
    let (status, text) = crate::process::run("prlimit", &[&limit, "--pid", &pid]);
    assert!(status.success(), "{text}");
}

/// With no free descriptor at all, whatever the balancer has computed, sockets are opened later,
/// and no server counts as failed.
#[test]
fn without_free_descriptors_open_connections_continue_and_new_ones_wait() {
    let server = Server::start(Kind::Unbound, 24);
    let at = local();
    let mut instance = start(Directory::new(), &(listen(at) + &checked(server.address)));
    assert!(ask_by_tcp(at, 1));
    let load = steady(at);
    lower(&instance, 10);
    let waiting: Vec<_> = (0..20).map(|_| TcpStream::connect(at).expect("in the queue")).collect();
    wait_for(
        || instance.program.transcript(),
        || instance.program.output().iter().any(|l| l.contains("cannot make health checks")).then_some(()),
    );
    std::thread::sleep(CHECKS);
    nobody_is_down(&instance);
    lower(&instance, LIMIT);
    for (n, mut stream) in waiting.into_iter().enumerate() {
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        stream.write_all(&framed(n as u16, "tcp.test")).expect("sent");
        assert!(read_message(&mut stream).is_some(), "{n}: {}", instance.program.transcript());
    }
    assert!(ask_by_tcp(at, 2));
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    nobody_is_down(&instance);
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}

/// With a limited number of processes, check programs cannot be started. That must not count as a
/// failed check.
#[test]
fn a_check_program_that_cannot_be_started_is_no_result() {
    /// A user id without other processes.
    const NOBODY: u32 = 64_901;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let server = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let directory = Directory::new();
    let lua = listen(at)
        + &format!(
            "newServer {{address=\"{}\", checkScript={{\"/bin/true\"}}, checkInterval=1, maxCheckFailures=1}}\n",
            server.address
        );
    let config = directory.write("dnslob.lua", &lua);
    let mut command = Command::new(binary());
    command.args(["--shards", "2", "-u", &NOBODY.to_string(), "-g", &NOBODY.to_string(), "-C"]).arg(config);
    let mut instance = Instance::launch(command, directory);
    wait_for(
        || instance.program.transcript(),
        || instance.program.output().iter().any(|l| l.contains("server is up")).then_some(()),
    );
    // As many as its current threads.
    let pid = instance.program.pid().to_string();
    let user = NOBODY.to_string();
    let become_it = ["--reuid", &user, "--regid", &user, "--clear-groups"];
    let lower = ["prlimit", "--nproc=1:1", "--pid", &pid];
    let (status, text) = crate::process::run("setpriv", &[&become_it[..], &lower].concat());
    assert!(status.success(), "{text}");
    let load = steady(at);
    wait_for(
        || instance.program.transcript(),
        || instance.program.output().iter().any(|l| l.contains("cannot make health checks")).then_some(()),
    );
    std::thread::sleep(CHECKS);
    nobody_is_down(&instance);
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}
