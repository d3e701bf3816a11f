//! How many instructions a packet costs on its way through the shard, counted by valgrind and
//! compared with `perf/instructions.txt`: the same on a quiet machine and on a busy one.
//!
//! Each case runs twice, for a few batches and for many; the difference is what the batches cost
//! without the start. Cachegrind counts: callgrind could tell functions apart, but ends where Lua's
//! watchdog is tried out, which leaves a signal's handler in a way that it does not know.
//!
//! ```text
//! scripts/test instructions                       count and compare
//! cargo bench --bench instructions -- --update    write what is counted into the file
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
use std::sync::Arc;

use dnslob::base::addr::{Client, LocalSlot, Route};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::config::Slots;
use dnslob::model::Snapshot;
use dnslob::shard::Shard;
use dnslob::shard::messages::PendingWork;
use dnslob::shard::verdict::Verdict;
use dnslob::stats::close_reason::ClientCloseReason;
use dnslob::stats::live::{LiveState, State};
use dnslob::wire::header;
use support::farm::{client, configured};
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
/// Those that perf/side-by-side measures: sets, limits, types, an expression, a tag.
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

/// What is counted: its name, its configuration behind the servers, what is asked, and how.
struct QueryState {
    name: &'static str,
    text: fn() -> String,
    asked: &'static str,
    tcp: bool,
}

const CASES: &[QueryState] = &[
    QueryState { name: "udp", text: String::new, asked: "1234 RD www.example.com/A OPT=1232", tcp: false },
    QueryState {
        name: "udp-rules",
        text: || RULES.to_owned(),
        asked: "1234 RD www.example.com/A OPT=1232",
        tcp: false,
    },
    QueryState {
        name: "udp-among-names",
        text: among_names,
        asked: "1234 RD www.name77777.example.net/A",
        tcp: false,
    },
    QueryState {
        name: "udp-own-answer",
        text: own_answer,
        asked: "1234 RD www.example.com/A OPT=1232",
        tcp: false,
    },
    QueryState {
        name: "tcp",
        text: || "setTCPToUDP(true)\n".to_owned(),
        asked: "1234 RD www.example.com/A",
        tcp: true,
    },
    QueryState {
        name: "udp-lua-action",
        text: || LUA.to_owned(),
        asked: "1234 RD www.example.com/A OPT=1232",
        tcp: false,
    },
];

fn own_answer() -> String {
    "addAction('example.com', SpoofAction({'192.0.2.80', '192.0.2.81'}))\n".to_owned()
}

fn among_names() -> String {
    let mut names = String::new();
    for number in 0..NAMES {
        writeln!(names, "name{number}.example.net").expect("a string takes all");
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
}

impl World {
    fn new(query_state: &QueryState) -> Self {
        let text = format!("{SERVERS}{}", (query_state.text)());
        let snapshot = Arc::new(configured(&text, &Slots::default(), 1).snapshot);
        let live_state = Arc::new(LiveState::new(1, 16));
        snapshot.backends.iter().flatten().for_each(|b| live_state.set_state(b.slot, State::Up));
        let shard = Shard::new(0, live_state, snapshot.clone(), ShardRng::from_seed(1));
        let mut query = message(query_state.asked);
        if query_state.tcp {
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
        };
        world.pass();
        world
    }

    fn pass(&mut self) {
        self.now = self.now + TickDelta::from_us(160);
        self.shard.begin_batch(self.now, &self.snapshot);
    }

    /// A batch of queries by UDP, and the batch of their answers.
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

    /// The same by a connection each, asked by UDP at the servers, which is closed in the end.
    fn tcp(&mut self) -> usize {
        let Self { shard, snapshot, buffers, routes, .. } = self;
        let mut streams = [None; BATCH];
        for at in 0..BATCH {
            let stream = shard.on_accept(self.clients[at].peer, &snapshot.listeners[0], LocalSlot::LISTENER);
            let stream = stream.expect("there is room for it");
            streams[at] = Some(stream);
            shard.on_client_bytes(stream, &self.query, &mut || true, &mut |verdict, bytes| {
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
            let (route, length) = route.take().expect("it has been asked");
            let mut packet = Packet::new(buffer, 0, length);
            packet.bytes_mut()[2] |= header::QR;
            shard.on_response(route, &mut packet);
        }
        shard.on_tick(&mut |_, _| {});
        let mut answered = 0;
        while let Some(chore) = shard.next_pending() {
            if let PendingWork::Client(stream) = chore {
                let written = shard.client_output(stream).len();
                answered += usize::from(written > 0);
                shard.client_written(stream, written);
            }
        }
        for stream in streams.into_iter().flatten() {
            shard.on_client_closed(stream, ClientCloseReason::Client);
        }
        while shard.next_pending().is_some() {}
        answered
    }

    fn batches(&mut self, query_state: &QueryState, count: usize) {
        for _ in 0..count {
            let answered = if query_state.tcp { self.tcp() } else { self.udp() };
            assert_eq!(answered, BATCH, "{}: every query is answered", query_state.name);
        }
    }
}

fn run(query_state: &QueryState, batches: usize) {
    let mut world = World::new(query_state);
    black_box(&mut world).batches(query_state, batches);
}

/// Instructions for each query: the difference of a long and a short run.
fn count(query_state: &QueryState) -> Result<u64, String> {
    let [few, many] = [FEW, MANY].map(|batches| counted(query_state, batches));
    let (few, many) = (few?, many?);
    many.checked_sub(few)
        .map(|more| more / ((MANY - FEW) * BATCH) as u64)
        .ok_or_else(|| format!("{}: {few} instructions for few queries, {many} for many", query_state.name))
}

/// Instructions of a process, as cachegrind counts them.
fn counted(query_state: &QueryState, batches: usize) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let out = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args(["--run", query_state.name, &batches.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("valgrind does not start: {e} (scripts/setup installs it)"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let counted = said.lines().find_map(|l| l.split_once("refs:")?.1.trim().replace(',', "").parse().ok());
    counted
        .filter(|_| out.status.success())
        .ok_or_else(|| format!("valgrind fails for {}:\n{said}", query_state.name))
}

/// What counts depend on besides this code.
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
        "# Instructions for each query and its answer: scripts/test instructions\n# counted with {compiler}\n"
    );
    let mut good = true;
    for query_state in CASES {
        let now = count(query_state)?;
        writeln!(new, "{} {now}", query_state.name).expect("a string takes all");
        let change = before(query_state.name).map(|before| (now as f64 / before as f64 - 1.0) * 100.0);
        let within = change.is_some_and(|change| change.abs() <= TOLERANCE);
        good &= within;
        let said = change.map_or("not in the file".to_owned(), |change| format!("{change:+.1} %"));
        let mark = if within || update || !comparable { "" } else { "  <-- more than 2 %" };
        println!("{:<18}{now:>8} instructions a query, {said}{mark}", query_state.name);
    }
    if update {
        std::fs::write(&file, new).map_err(|e| format!("{}: {e}", file.display()))?;
        return Ok(true);
    }
    if comparable && !good {
        println!(
            "If that is meant: cargo bench --bench instructions -- --update, and say why in the commit."
        );
    }
    Ok(good || !comparable)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|a| a == name);
    if let Some(at) = arguments.iter().position(|a| a == "--run") {
        let name = arguments.get(at + 1).map_or("", String::as_str);
        let query_state = CASES.iter().find(|c| c.name == name).expect("a case of this name");
        let batches = arguments.get(at + 2).and_then(|b| b.parse().ok()).unwrap_or(FEW);
        run(query_state, batches);
        return ExitCode::SUCCESS;
    }
    if !has("--bench") {
        CASES.iter().for_each(|query_state| run(query_state, 1));
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
