//! How many instructions a packet costs on its way through the shard, counted by valgrind and
//! compared with `perf/instructions.txt`: the same on a quiet machine and on a busy one.
//!
//! Each case runs twice, with few batches and with many; the difference is the cost of the batches
//! without the start. Cachegrind counts. Callgrind could tell functions apart, but fails when Lua's
//! watchdog is tested, because the watchdog leaves a signal handler in a way that it does not know.
//!
//! ```text
//! scripts/test instructions                       count and compare
//! cargo bench --bench instructions -- --update    write the counts into the file
//! ```
//!
//! Without `--bench`, as under `cargo test`, each case only runs once. The counts are of the
//! profile `bench`, that is `release`.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;

use dnslob::base::addr::{Client, ConnectionSlot, LocalSlot, Route};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::config::Slots;
use dnslob::model::Snapshot;
use dnslob::shard::Shard;
use dnslob::shard::messages::{PendingWork, Resumed};
use dnslob::shard::verdict::Verdict;
use dnslob::stats::close_reason::ClientCloseReason;
use dnslob::stats::live::{LiveState, State};
use dnslob::stats::traffic_ring::SLOTS;
use dnslob::wire::header;
use support::config::{client, configured};
use support::message::message;

/// Packets of a batch.
const BATCH: usize = 64;
/// Batches of the two runs.
const FEW: usize = 20;
const MANY: usize = 620;
/// Percent that a count may be above or below the one in the file.
const TOLERANCE: f64 = 2.0;
const NAMES: usize = 100_000;

const SERVERS: &str = "for n = 1, 4 do newServer('127.0.1.' .. n) end\n";
/// The rules that perf/side-by-side measures: sets, limits, types, an expression, a tag.
const RULES: &str = r#"
    local blocked = newSuffixMatchNode()
    for i = 1, 10000 do blocked:add('blocked' .. i .. '.example.net') end
    addAction(QNameSuffixRule(blocked), DropAction())
    addAction(MaxQPSIPRule(100000000, 32, 48), DropAction())
    addAction(QTypeRule(DNSQType.ANY), TCAction())
    addAction(OpcodeRule(DNSOpcode.Update), RCodeAction(DNSRCode.REFUSED))
    addAction(RegexRule('^ads[0-9]+\\.example\\.org'), DropAction())
    addAction(NetmaskGroupRule('192.0.2.0/24'), PoolAction('abuse'))
    addAction(QNameRule('health.example.'), RCodeAction(0))
    addAction(RDRule(), SetTagAction('rd', '1'))
"#;
const LUA: &str = r#"
    addAction(AllRule(), LuaAction(function(dq)
        if dq.qtype == DNSQType.A then dq:setTag('zone', 'example') end
        return DNSAction.None, ''
    end))
"#;

/// A case: its name, its configuration after the servers, the query, and its transport.
struct Case {
    name: &'static str,
    text: fn() -> String,
    query: &'static str,
    transport: Transport,
}

/// How queries arrive and leave.
#[derive(Clone, Copy)]
enum Transport {
    /// Over UDP on both sides.
    Udp,
    /// A TCP connection for each query, to backends over UDP.
    TcpEach,
    /// All over one TCP connection, to backends over their connections.
    TcpPipelined,
}

/// The case without records of finished queries.
const UNWATCHED: &str = "udp-unwatched";

/// The case in which LuaJIT decides what it compiles, by counters that addresses hash to and that so differ between
/// runs: now and then a function stays interpreted, which takes twice as many. The least of some counts is compared.
const LUA_ACTION: &str = "udp-lua-action";
const LUA_COUNTS: usize = 3;

/// The case in which all answers are in the packet cache, after the first.
const CACHE_HIT: &str = "udp-cache-hit";

const CASES: &[Case] = &[
    Case {
        name: "udp",
        text: String::new,
        query: "1234 RD www.example.com/A OPT=1232",
        transport: Transport::Udp,
    },
    Case {
        name: UNWATCHED,
        text: String::new,
        query: "1234 RD www.example.com/A OPT=1232",
        transport: Transport::Udp,
    },
    Case {
        name: "udp-rules",
        text: || RULES.to_owned(),
        query: "1234 RD www.example.com/A OPT=1232",
        transport: Transport::Udp,
    },
    Case {
        name: "udp-among-names",
        text: among_names,
        query: "1234 RD www.name77777.example.net/A",
        transport: Transport::Udp,
    },
    Case {
        name: "udp-own-answer",
        text: own_answer,
        query: "1234 RD www.example.com/A OPT=1232",
        transport: Transport::Udp,
    },
    Case {
        name: CACHE_HIT,
        text: || "getPool(''):setCache(newPacketCache(1000))\n".to_owned(),
        query: "1234 RD www.example.com/A OPT=1232",
        transport: Transport::Udp,
    },
    Case {
        name: "tcp",
        text: || "setTCPToUDP(true)\n".to_owned(),
        query: "1234 RD www.example.com/A",
        transport: Transport::TcpEach,
    },
    Case {
        name: "tcp-pipelined",
        text: String::new,
        query: "1234 RD www.example.com/A",
        transport: Transport::TcpPipelined,
    },
    Case {
        name: LUA_ACTION,
        text: || LUA.to_owned(),
        query: "1234 RD www.example.com/A OPT=1232",
        transport: Transport::Udp,
    },
];

fn own_answer() -> String {
    "addAction('example.com', SpoofAction({'192.0.2.80', '192.0.2.81'}))\n".to_owned()
}

fn among_names() -> String {
    let mut names = String::new();
    for number in 0..NAMES {
        writeln!(names, "name{number}.example.net").expect("formatting a string");
    }
    let file = temporary("names");
    std::fs::write(&file, names).expect("a list of names");
    format!(
        "local listed = newSuffixMatchNode() listed:addFile('{}')\n\
         addAction(QNameSuffixRule(listed), SetTagAction('listed', '1'))\n",
        file.display()
    )
}

fn temporary(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("instructions-{name}-{}", std::process::id()))
}

/// A shard, its clients and their packets.
struct World {
    shard: Shard,
    snapshot: Arc<Snapshot>,
    now: Tick,
    query: Vec<u8>,
    clients: Vec<Client>,
    buffers: Vec<[u8; 1024]>,
    routes: Vec<Option<(Route, usize)>>,
    /// The connection of pipelined queries.
    pipelined: Option<ConnectionSlot>,
}

impl World {
    fn new(case: &Case) -> Self {
        let text = format!("{SERVERS}{}", (case.text)());
        let snapshot = Arc::new(configured(&text, &Slots::default(), 1).snapshot);
        let live_state = Arc::new(LiveState::new(1, 16));
        snapshot.backends.iter().flatten().for_each(|b| live_state.set_state(b.slot, State::Up));
        if case.name != UNWATCHED {
            live_state.shards()[0].traffic.open(SLOTS);
        }
        let shard = Shard::new(0, live_state, snapshot.clone(), ShardRng::from_seed(1));
        let mut query = message(case.query);
        if !matches!(case.transport, Transport::Udp) {
            query.splice(..0, (query.len() as u16).to_be_bytes());
        }
        let mut world = Self {
            shard,
            snapshot,
            now: Tick(0),
            query,
            clients: (0..BATCH).map(|at| client(&format!("127.0.0.1:{}", 4_000 + at))).collect(),
            buffers: vec![[0; 1024]; BATCH],
            routes: vec![None; BATCH],
            pipelined: None,
        };
        world.pass();
        if case.name == CACHE_HIT {
            world.fill_cache();
        }
        world
    }

    /// Puts the response to the query into the packet cache.
    fn fill_cache(&mut self) {
        let buffer = &mut self.buffers[0];
        buffer[..self.query.len()].copy_from_slice(&self.query);
        let mut packet = Packet::new(buffer, 0, self.query.len());
        let Verdict::Forward(route) = self.shard.on_query(self.clients[0], &mut packet) else {
            panic!("a query for a server");
        };
        let id = header::Header::parse(packet.bytes()).expect("a query").id();
        let mut response = message("0 QR RD RA www.example.com/A A=192.0.2.1,3600 OPT=1232");
        response[..2].copy_from_slice(&id.to_be_bytes());
        self.buffers[0][..response.len()].copy_from_slice(&response);
        let mut packet = Packet::new(&mut self.buffers[0], 0, response.len());
        let verdict = self.shard.on_response(route, &mut packet);
        assert!(matches!(verdict, Verdict::Deliver(_)), "the response is delivered");
    }

    fn pass(&mut self) {
        self.now = self.now + TickDelta::from_us(160);
        self.shard.begin_batch(self.now, &self.snapshot);
    }

    /// Handles a batch of queries over UDP, and the batch of their responses.
    fn udp(&mut self) -> usize {
        let mut answered = 0;
        self.pass();
        for at in 0..BATCH {
            let buffer = &mut self.buffers[at];
            buffer[..self.query.len()].copy_from_slice(&self.query);
            let mut packet = Packet::new(buffer, 0, self.query.len());
            let verdict = self.shard.on_query(self.clients[at], &mut packet);
            self.routes[at] = match verdict {
                Verdict::Forward(route) => Some((route, packet.bytes().len())),
                Verdict::Answer(_) => {
                    answered += 1;
                    None
                }
                Verdict::Deliver(_) | Verdict::Drop(_) | Verdict::Hold => None,
            };
        }
        self.shard.on_tick(&mut |_, _| {});
        self.pass();
        for (buffer, route) in self.buffers.iter_mut().zip(&self.routes) {
            let Some((route, length)) = *route else { continue };
            let mut packet = Packet::new(buffer, 0, length);
            packet.bytes_mut()[2] |= header::QR;
            answered +=
                usize::from(matches!(self.shard.on_response(route, &mut packet), Verdict::Deliver(_)));
        }
        self.shard.on_tick(&mut |_, _| {});
        answered
    }

    /// The same with a TCP connection for each query, which is closed at the end; the servers use UDP.
    fn tcp_each(&mut self) -> usize {
        let Self { shard, snapshot, buffers, routes, .. } = self;
        let mut connections = [None; BATCH];
        for at in 0..BATCH {
            let connection =
                shard.on_accept(self.clients[at].peer, &snapshot.listeners[0], LocalSlot::LISTENER);
            let connection = connection.expect("an accepted connection");
            connections[at] = Some(connection);
            shard.on_client_bytes(connection, &self.query, &mut || true, &mut |verdict, bytes| {
                if let Verdict::Forward(route) = verdict {
                    buffers[at][..bytes.len()].copy_from_slice(bytes);
                    routes[at] = Some((route, bytes.len()));
                }
            });
        }
        shard.on_tick(&mut |_, _| {});
        self.pass();
        let Self { shard, buffers, routes, .. } = self;
        for (buffer, route) in buffers.iter_mut().zip(routes) {
            let (route, length) = route.take().expect("a dispatched query");
            let mut packet = Packet::new(buffer, 0, length);
            packet.bytes_mut()[2] |= header::QR;
            shard.on_response(route, &mut packet);
        }
        shard.on_tick(&mut |_, _| {});
        let mut answered = 0;
        while let Some(work) = shard.next_pending() {
            if let PendingWork::Client(connection) = work {
                let written = shard.client_output(connection).len();
                answered += usize::from(written > 0);
                shard.client_written(connection, written);
            }
        }
        for connection in connections.into_iter().flatten() {
            shard.on_client_closed(connection, ClientCloseReason::Client);
        }
        while shard.next_pending().is_some() {}
        answered
    }

    /// A batch of queries in one read of a connection that stays open, and of their responses in one
    /// read of each backend connection.
    fn tcp_pipelined(&mut self) -> usize {
        let Self { shard, snapshot, query, .. } = self;
        let client = *self.pipelined.get_or_insert_with(|| {
            let accepted = shard.on_accept(self.clients[0].peer, &snapshot.listeners[0], LocalSlot::LISTENER);
            accepted.expect("an accepted connection")
        });
        let queries = query.repeat(BATCH);
        shard.on_client_bytes(client, &queries, &mut || true, &mut |_, _| {});
        while shard.resume_next(&mut || true, &mut |_, _| {}) != Resumed::Nothing {}
        let mut read = Vec::new();
        while let Some(work) = shard.next_pending() {
            let PendingWork::Backend(route) = work else { continue };
            if shard.backend_is_connecting(route) {
                shard.on_backend_open(route);
            }
            let output = shard.backend_output(route).to_vec();
            shard.backend_written(route, output.len());
            read.push((route, output));
        }
        shard.on_tick(&mut |_, _| {});
        self.pass();
        let shard = &mut self.shard;
        let frame = self.query.len();
        for (route, mut bytes) in read {
            bytes.chunks_mut(frame).for_each(|message| message[4] |= header::QR);
            shard.on_backend_bytes(route, &bytes, &mut || true, &mut |_, _| {});
        }
        while shard.resume_next(&mut || true, &mut |_, _| {}) != Resumed::Nothing {}
        shard.on_tick(&mut |_, _| {});
        let answered = shard.client_output(client).len() / frame;
        while let Some(work) = shard.next_pending() {
            if let PendingWork::Client(connection) = work {
                let written = shard.client_output(connection).len();
                shard.client_written(connection, written);
            }
        }
        answered
    }

    fn batches(&mut self, case: &Case, count: usize) {
        for _ in 0..count {
            let answered = match case.transport {
                Transport::Udp => self.udp(),
                Transport::TcpEach => self.tcp_each(),
                Transport::TcpPipelined => self.tcp_pipelined(),
            };
            assert_eq!(answered, BATCH, "{}: every query is answered", case.name);
        }
    }
}

fn run(case: &Case, batches: usize) {
    let mut world = World::new(case);
    black_box(&mut world).batches(case, batches);
}

/// Returns the instructions per query.
fn count(case: &Case) -> Result<u64, String> {
    let counts = if case.name == LUA_ACTION { LUA_COUNTS } else { 1 };
    let counts: Vec<u64> = (0..counts).map(|_| difference(case)).collect::<Result<_, _>>()?;
    counts.into_iter().min().ok_or_else(|| format!("{}: no count", case.name))
}

/// Returns the instructions per query, from the difference of a long and a short run.
fn difference(case: &Case) -> Result<u64, String> {
    let [few, many] = [FEW, MANY].map(|batches| counted(case, batches));
    let (few, many) = (few?, many?);
    many.checked_sub(few)
        .map(|more| more / ((MANY - FEW) * BATCH) as u64)
        .ok_or_else(|| format!("{}: {few} instructions for few queries, {many} for many", case.name))
}

/// Counts every case, as many at a time as there are CPUs: what else runs changes no count.
fn counts() -> Result<Vec<u64>, String> {
    let next = AtomicUsize::new(0);
    let counts: Vec<OnceLock<Result<u64, String>>> = CASES.iter().map(|_| OnceLock::new()).collect();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((case, place)) = CASES.iter().zip(&counts).nth(next.fetch_add(1, Relaxed)) {
                    place.set(count(case)).expect("a case is counted once");
                }
            });
        }
    });
    counts.into_iter().map(|count| count.into_inner().expect("every case is counted")).collect()
}

/// Returns the instructions of a process, as cachegrind counts them.
fn counted(case: &Case, batches: usize) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let out = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args(["--run", case.name, &batches.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("valgrind does not start: {e} (scripts/setup installs it)"))?;
    let output = String::from_utf8_lossy(&out.stderr);
    let counted = output.lines().find_map(|l| l.split_once("refs:")?.1.trim().replace(',', "").parse().ok());
    counted
        .filter(|_| out.status.success())
        .ok_or_else(|| format!("valgrind fails for {}:\n{output}", case.name))
}

/// Returns what the counts depend on besides this code.
fn compiler() -> String {
    let rustc = Command::new("rustc").arg("--version").output();
    let version = rustc.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    format!("{version}, {}", std::env::consts::ARCH)
}

fn baseline() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("perf/instructions.txt")
}

fn compare(update: bool) -> Result<bool, String> {
    let file = baseline();
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let before = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok());
    let compiler = compiler();
    let comparable = text.lines().any(|l| l.strip_prefix("# counted with ") == Some(&compiler));
    if !comparable && !update {
        println!("NOT COMPARED: {} was counted with another compiler than {compiler}", file.display());
    }
    let mut new = format!(
        "# Instructions per query and its response: scripts/test instructions\n# counted with {compiler}\n"
    );
    let mut good = true;
    for (case, now) in CASES.iter().zip(counts()?) {
        writeln!(new, "{} {now}", case.name).expect("formatting a string");
        let change = before(case.name).map(|before| (now as f64 / before as f64 - 1.0) * 100.0);
        let within = change.is_some_and(|change| change.abs() <= TOLERANCE);
        good &= within;
        let difference = change.map_or("not in the file".to_owned(), |change| format!("{change:+.1} %"));
        let mark = if within || update || !comparable { "" } else { "  <-- more than 2 %" };
        println!("{:<18}{now:>8} instructions per query, {difference}{mark}", case.name);
    }
    if update {
        std::fs::write(&file, new).map_err(|e| format!("{}: {e}", file.display()))?;
        return Ok(true);
    }
    if comparable && !good {
        println!(
            "If this is intended: cargo bench --bench instructions -- --update, and give the reason in the commit."
        );
    }
    Ok(good || !comparable)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|a| a == name);
    if let Some(at) = arguments.iter().position(|a| a == "--run") {
        let name = arguments.get(at + 1).map_or("", String::as_str);
        let case = CASES.iter().find(|c| c.name == name).expect("a case of this name");
        let batches = arguments.get(at + 2).and_then(|b| b.parse().ok()).unwrap_or(FEW);
        run(case, batches);
        return ExitCode::SUCCESS;
    }
    if !has("--bench") {
        CASES.iter().for_each(|case| run(case, 1));
        return ExitCode::SUCCESS;
    }
    match compare(has("--update")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
