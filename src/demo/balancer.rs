//! The balancer under demonstration: the real control plane with real shards, in this process.
//!
//! Nothing here is made easier for it than for a served configuration, except that the
//! configuration is not read from a file and that health is checked ten times a second, so that
//! a short demo shows something.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;

use crate::addr::{BackendSlot, ListenerSlot};
use crate::config::prefix::Prefix;
use crate::config::snapshot::{
    Backend, Globals, Health, HealthMode, Lazy, Listener, LuaFunction, Pool, Probe, Retry, Snapshot,
    SocketOptions,
};
use crate::control::plan::{Fixed, Plan, Settings, Source};
use crate::control::privileges::Identity;
use crate::control::probe::Script;
use crate::control::{self, Hold};
use crate::engine::clock;
use crate::engine::socket::Steer;
use crate::live::{Board, State};
use crate::shard::policy::{Kind, Policy};
use crate::shard::rules::Chain;
use crate::time::TickDelta;

/// How a server is chosen, as the table's head says it.
pub(super) const POLICY: &str = "leastOutstanding";
/// An answer is waited for so long.
pub(super) const TIMEOUT: TickDelta = TickDelta::from_ms(500);
/// A stop waits so long for outstanding queries, each of which may have been asked twice.
const DRAIN: TickDelta = TickDelta::from_ms(1_000);
/// A query unanswered after this goes to a second server: well above the slowest usual answer.
const RETRY_AFTER: TickDelta = TickDelta::from_ms(50);
/// At most this part of all queries is asked twice.
const RETRY_BUDGET_PPM: u32 = 100_000;
/// Between health checks; also their time-out.
const CHECK: TickDelta = TickDelta::from_ms(100);
/// Failed checks in a row that take a server out.
const FALL: u32 = 2;
/// Good checks in a row that bring it back.
const RISE: u32 = 2;
/// How long a returned server is warmed up.
pub(super) const SLOW_START: TickDelta = TickDelta::from_ms(1_000);
/// The balancer is given up as not starting after this.
const START_MAX: TickDelta = TickDelta::from_ms(10_000);
/// Shards, at most: the demo shares the machine with its own load.
const SHARDS_MAX: usize = 4;

/// A running balancer.
#[derive(Debug)]
pub(super) struct Balancer {
    /// Where it is asked.
    pub(super) address: SocketAddr,
    /// Its live state.
    pub(super) board: Arc<Board>,
    /// Threads that serve.
    pub(super) shards: usize,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), String>>,
}

impl Balancer {
    /// Starts a balancer before `backends`; all of them are up when this returns.
    ///
    /// # Errors
    /// When it does not start, or a backend fails its first check.
    pub(super) fn start(backends: &[SocketAddr]) -> anyhow::Result<Self> {
        let (address, placeholder) = free_port().context("a port on loopback")?;
        let shards = std::thread::available_parallelism().map_or(1, |n| n.get().min(SHARDS_MAX));
        let fixed = Fixed {
            shards: vec![None; shards],
            steer: Steer::Flow,
            busy_poll_us: 0,
            batch_packets: 64,
            backends_max: backends.len(),
            identity: Identity::default(),
        };
        let snapshot = Arc::new(snapshot(address, backends));
        let (boards, board) = crossbeam_channel::bounded(1);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            // Made here, since a plan holds functions that belong to one thread.
            let plan = Plan {
                snapshot,
                settings: Settings { drain: DRAIN, stats: None, verbose_checks: false },
                script: Rc::new(NoScript),
                changes: Vec::new(),
            };
            control::run_held(Unwritten, &fixed, plan, Some(Hold { board: boards, stop: stopped }))
        })?;
        let Ok(board) = board.recv() else { bail!("the balancer did not start: {}", outcome(thread)) };
        let balancer = Self { address, board, shards, stop, thread };
        balancer.wait(backends.len())?;
        // Every shard has bound its socket: the port is held without this one, which nobody reads.
        drop(placeholder);
        Ok(balancer)
    }

    /// Whether it ended by itself, or by a signal.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops it as SIGTERM does.
    ///
    /// # Errors
    /// What the control thread ended with.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        // It may have been ended by a signal already.
        let _ = self.stop.send(());
        match self.thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => bail!("the balancer: {error}"),
            Err(_) => bail!("the balancer's control thread panicked"),
        }
    }

    /// Waits until every backend has passed its first check.
    fn wait(&self, backends: usize) -> anyhow::Result<()> {
        let begin = clock::now();
        let all_up = || (0..backends).all(|n| self.board.backend(slot(n)).state() == State::Up);
        while !all_up() {
            if self.has_ended() || clock::now().since(begin) > START_MAX {
                bail!("the balancer did not start serving");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

fn outcome(thread: JoinHandle<Result<(), String>>) -> String {
    match thread.join() {
        Ok(Ok(())) => "it stopped at once".to_owned(),
        Ok(Err(error)) => error,
        Err(_) => "its thread panicked".to_owned(),
    }
}

/// The slot of the n-th backend.
pub(super) fn slot(n: usize) -> BackendSlot {
    // There are at most 64 of them.
    BackendSlot(n as u16)
}

/// The name of the n-th backend.
pub(super) fn name(n: usize) -> String {
    format!("b{}", n + 1)
}

/// A port that nobody has, and the socket that keeps it so: shards bind beside it (REUSEPORT).
fn free_port() -> std::io::Result<(SocketAddr, Socket)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    Ok((address, socket))
}

/// Reloads nothing: the demo's configuration stands in no file.
struct Unwritten;

impl Source for Unwritten {
    fn load(&mut self, _: &dyn Fn(BackendSlot) -> bool) -> Result<Plan, Vec<String>> {
        Err(vec!["the demo has no configuration file".to_owned()])
    }

    fn accept(&mut self) {}
}

/// The demo's health checks call no functions.
struct NoScript;

impl Script for NoScript {
    fn choose(
        &self,
        _: LuaFunction,
        _: &str,
        _: u16,
        _: u16,
        _: &mut [u8; 12],
    ) -> Result<(String, u16, u16), String> {
        Err("the demo has no functions".to_owned())
    }

    fn judge(&self, _: LuaFunction, _: &Backend, _: &[u8]) -> Result<bool, String> {
        Err("the demo has no functions".to_owned())
    }
}

fn snapshot(address: SocketAddr, backends: &[SocketAddr]) -> Snapshot {
    let listener = Listener {
        slot: ListenerSlot(0),
        address,
        interface: None,
        sockets: SocketOptions { receive_buffer: 4 << 20, send_buffer: 0 },
        dscp: 0,
    };
    Snapshot {
        generation: 1,
        listeners: vec![Arc::new(listener)],
        backends: backends.iter().enumerate().map(|(n, a)| Some(Arc::new(backend(n, *a)))).collect(),
        pools: vec![Pool {
            name: String::new(),
            members: (0..backends.len()).map(slot).collect(),
            policy: Policy::new(Kind::LeastOutstanding),
            ring: None,
            retry: Some(Retry { after: RETRY_AFTER, budget_ppm: RETRY_BUDGET_PPM }),
            panic_ppm: 0,
            eject: None,
        }],
        acl: "127.0.0.0/8".parse::<Prefix>().into_iter().collect(),
        chain: Chain::default(),
        globals: Globals {
            servfail_when_no_server: false,
            round_robin_fail_on_no_server: false,
            allow_empty_response: false,
            drop_empty_queries: false,
            self_answer_payload: 1232,
            self_answer_edns: true,
        },
    }
}

fn backend(n: usize, address: SocketAddr) -> Backend {
    Backend {
        slot: slot(n),
        id: address.to_string(),
        name: name(n),
        address,
        order: 1,
        weight: 1,
        qps: 0,
        timeout: TIMEOUT,
        sockets: 4,
        outstanding_max: 65_535,
        outstanding_soft_max: 0,
        source: None,
        source_interface: None,
        dscp: 0,
        socket_options: SocketOptions::default(),
        health: Health {
            mode: HealthMode::Auto,
            probe: Probe::Udp,
            qname: "a.root-servers.net.".to_owned(),
            qtype: 1,
            qclass: 1,
            set_cd: false,
            must_resolve: false,
            interval: CHECK,
            timeout: CHECK,
            rise: RISE,
            fall: FALL,
            choose: None,
            judge: None,
            slow_start: SLOW_START,
            lazy: Lazy {
                threshold_percent: 20,
                sample: 100,
                sample_min: 1,
                failed_interval: CHECK,
                backoff_max: None,
                servfail_counts: true,
            },
        },
    }
}
