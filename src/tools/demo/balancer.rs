//! The balancer of the demo: a Lua configuration, the real control plane and real shards, in this
//! process.
//!
//! Nothing is simplified compared to a served configuration. Only its times are short (ten health
//! checks per second), so that a short demo shows something.

#![expect(clippy::disallowed_methods, reason = "waits for the balancer to be up")]

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;

use crate::base::addr::BackendSlot;
use crate::base::time::TickDelta;
use crate::config;
use crate::config::{ConfigError, Flags, Slots};
use crate::control;
use crate::control::ShutdownHandle;
use crate::control::configured::Configured;
use crate::control::signals::Signals;
use crate::engine::clock;
use crate::lua::front_end;
use crate::stats::live::{LiveState, State};

/// The policy, as in the table's title.
pub(crate) const POLICY: &str = "leastOutstanding";
/// Time-out of queries, milliseconds.
pub(crate) const TIMEOUT_MS: u64 = 500;
/// A query unanswered after this is sent to a second server: well above the slowest usual answer.
const RETRY_AFTER_MS: u64 = 50;
/// Longest time of a query with a retry.
pub(crate) const QUERY_MAX: TickDelta = TickDelta::from_ms(TIMEOUT_MS + RETRY_AFTER_MS);
/// Slow start of a returned server, seconds.
pub(crate) const SLOW_START_S: u64 = 1;
/// Time-out of the start.
const START_MAX: TickDelta = TickDelta::from_ms(10_000);
/// Most shards: the demo shares the machine with its own load.
const SHARDS_MAX: usize = 4;

/// The configuration, without listener and servers.
const CONFIGURATION: &str = "\
setUDPTimeoutMs(500)
setUDPSocketBufferSizes(4194304, 0)
setServerPolicy(leastOutstanding)
setRetry{after=50, budget=10}
local function server(name, address)
  newServer{name=name, address=address, checkIntervalMs=100, checkTimeout=100, maxCheckFailures=2,
            rise=2, slowStart=1}
end
";

/// What a packet cache adds to it: room for all names.
const CACHE: &str = "getPool(''):setCache(newPacketCache(100000))\n";

/// A running balancer.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Its live state.
    pub(crate) live_state: Arc<LiveState>,
    /// Its number of shards.
    pub(crate) shards: usize,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), String>>,
}

impl Balancer {
    /// Starts a balancer in front of `backends`; all of them are up when this returns.
    ///
    /// # Errors
    /// When it does not start, or a backend fails its first check.
    pub(crate) fn start(backends: &[SocketAddr], cache: bool) -> anyhow::Result<Self> {
        let (address, placeholder) = free_port().context("a port on loopback")?;
        let shards = std::thread::available_parallelism().map_or(1, |n| n.get().min(SHARDS_MAX));
        let file =
            File::write(&configuration(address, shards, backends, cache)).context("the configuration")?;
        let (live_states, live_state) = crossbeam_channel::bounded(1);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || serve(file, ShutdownHandle { live_state: live_states, stop: stopped }))?;
        let Ok(live_state) = live_state.recv() else {
            bail!("the balancer did not start: {}", outcome(thread))
        };
        let balancer = Self { address, live_state, shards, stop, thread };
        balancer.wait(backends.len())?;
        // Every shard has bound its socket: the port stays in use without this one, which is never
        // read.
        drop(placeholder);
        Ok(balancer)
    }

    /// Returns whether it ended unexpectedly, or by a signal.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops it as SIGTERM does.
    ///
    /// # Errors
    /// The error of the control thread.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        // A signal may have ended it already.
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
        let all_up = || (0..backends).all(|n| self.live_state.backend(slot(n)).state() == State::Up);
        while !all_up() {
            if self.has_ended() || clock::now().since(begin) > START_MAX {
                bail!("the balancer did not start serving");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Does what `dnslob -C FILE` does, with a shutdown handle and without a log.
fn serve(file: File, shutdown_handle: ShutdownHandle) -> Result<(), String> {
    let messages = |errors: Vec<ConfigError>| errors.iter().map(|e| format!("{e}\n")).collect::<String>();
    let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
    let loaded = front_end::load(&flags).map_err(messages)?;
    drop(file);
    let compiled = config::compile(&loaded.draft, &Slots::default(), 1).map_err(messages)?;
    let (source, first) = Configured::new(flags, loaded, compiled);
    let fixed = source.fixed();
    let signals = Signals::start().map_err(|e| format!("signals: {e}"))?;
    control::run_held(source, &fixed, first, signals, Some(shutdown_handle))
}

fn outcome(thread: JoinHandle<Result<(), String>>) -> String {
    match thread.join() {
        Ok(Ok(())) => "it stopped at once".to_owned(),
        Ok(Err(error)) => error,
        Err(_) => "its thread panicked".to_owned(),
    }
}

/// Returns the slot of the n-th backend: the first configuration assigns them in order.
pub(crate) fn slot(n: usize) -> BackendSlot {
    // There are at most 64 of them.
    BackendSlot(n as u16)
}

/// Returns the name of the n-th backend.
pub(crate) fn name(n: usize) -> String {
    format!("b{}", n + 1)
}

fn configuration(listen: SocketAddr, shards: usize, backends: &[SocketAddr], cache: bool) -> String {
    let mut text =
        format!("setLocal(\"{listen}\", {{reusePort=true}})\nsetShards({shards})\n{CONFIGURATION}");
    for (n, address) in backends.iter().enumerate() {
        let _ = writeln!(text, "server(\"{}\", \"{address}\")", name(n));
    }
    if cache {
        text.push_str(CACHE);
    }
    text
}

/// A file that is removed when dropped.
struct File(PathBuf);

impl File {
    fn write(text: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("dnslob-demo-{}.lua", std::process::id()));
        // An existing file must not be written or followed.
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let written = Self(path);
        file.write_all(text.as_bytes())?;
        Ok(written)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Returns a free port, and the socket that keeps it: shards bind beside it (REUSEPORT).
fn free_port() -> io::Result<(SocketAddr, Socket)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((address, socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_and_constants_agree() {
        let file = File::write(&configuration(
            SocketAddr::from(([127, 0, 0, 1], 5300)),
            2,
            &[SocketAddr::from(([127, 0, 0, 1], 5301)), SocketAddr::from(([127, 0, 0, 1], 5302))],
            true,
        ))
        .expect("a file");
        let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
        let loaded = front_end::load(&flags).expect("valid Lua");
        let compiled = config::compile(&loaded.draft, &Slots::default(), 1).expect("a valid configuration");
        let backends: Vec<_> = compiled.snapshot.backends.iter().flatten().collect();
        assert_eq!(backends.len(), 2);
        for (n, backend) in backends.iter().enumerate() {
            assert_eq!((backend.slot, &backend.name), (slot(n), &name(n)));
            assert_eq!(backend.timeout, TickDelta::from_ms(TIMEOUT_MS));
            assert_eq!(backend.health.slow_start, TickDelta::from_ms(SLOW_START_S * 1_000));
        }
        assert!(compiled.snapshot.pools[0].cache.is_some());
        let retry = compiled.snapshot.pools[0].retry.expect("retries");
        assert_eq!(retry.after, TickDelta::from_ms(RETRY_AFTER_MS));
        assert!(CONFIGURATION.contains(&format!("setServerPolicy({POLICY})")));
    }
}
