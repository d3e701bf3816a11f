//! Reports to Carbon servers, on a thread of their own.
//!
//! ```text
//!  control loop ──adopt──► carbon thread: a task for each server
//!                            every interval: figures ─► connect ─► report ─► close
//! ```
//!
//! A report is sent on a connection of its own, and given up after a few seconds; nothing is kept for
//! a server that is away. A server that is slow or gone delays no other, and nothing but its own
//! task waits for it.

mod report;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, timeout};

use crate::base::time::{Tick, TickDelta};
use crate::config::carbon::CarbonServer;
use crate::control::monitor::Monitor;
use crate::engine::clock;
use crate::stats::carbon_failure::CarbonFailure;

/// How long a report may take, with its connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// The least time between two lines of the log on the same server.
const QUIET: TickDelta = TickDelta::from_ms(60_000);

/// The control loop's hold on the reports.
#[derive(Debug, Default)]
pub(super) struct Carbon {
    /// The running thread; it ends when this is dropped.
    orders: Option<mpsc::UnboundedSender<Vec<CarbonServer>>>,
    /// Whom it reports to.
    servers: Vec<CarbonServer>,
}

impl Carbon {
    /// The configuration with these servers is in force.
    pub(super) fn adopt(&mut self, servers: &[CarbonServer], monitor: &Arc<Monitor>) {
        if self.servers == servers {
            return;
        }
        if self.orders.is_none() {
            match start(Arc::clone(monitor)) {
                Ok(orders) => self.orders = Some(orders),
                Err(error) => return tracing::error!(%error, "reports to Carbon cannot start"),
            }
        }
        servers.clone_into(&mut self.servers);
        if self.orders.as_ref().is_some_and(|orders| orders.send(servers.to_vec()).is_err()) {
            tracing::error!("reports to Carbon have ended unexpectedly");
            (self.orders, self.servers) = (None, Vec::new());
        }
    }
}

fn start(monitor: Arc<Monitor>) -> io::Result<mpsc::UnboundedSender<Vec<CarbonServer>>> {
    let (orders, queue) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("carbon".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, serve(queue, monitor));
    })?;
    Ok(orders)
}

async fn serve(mut orders: mpsc::UnboundedReceiver<Vec<CarbonServer>>, monitor: Arc<Monitor>) {
    let mut tasks = JoinSet::new();
    while let Some(servers) = orders.recv().await {
        // Those of the configuration before end where they are.
        tasks = JoinSet::new();
        for server in servers {
            tasks.spawn_local(report_to(server, Arc::clone(&monitor)));
        }
    }
    drop(tasks);
}

/// Sends a report every interval.
async fn report_to(server: CarbonServer, monitor: Arc<Monitor>) {
    let mut interval = tokio::time::interval(Duration::from_secs(server.interval_s.into()));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut standing = Standing::default();
    loop {
        interval.tick().await;
        let report = report::text(&monitor.figures(), &server);
        let sent = send(server.address, report.as_bytes()).await;
        let stats = monitor.carbon();
        match &sent {
            Ok(()) => stats.sent.add(1),
            Err((why, _)) => stats.failed[*why].add(1),
        }
        standing.note(server.address, sent.map_err(|(_, error)| error), clock::now());
    }
}

/// Sends a report.
///
/// # Errors
/// Why it is lost, and the system's word.
async fn send(address: SocketAddr, report: &[u8]) -> Result<(), (CarbonFailure, String)> {
    let exchange = async {
        let mut stream =
            TcpStream::connect(address).await.map_err(|e| (CarbonFailure::Connect, e.to_string()))?;
        let written = async {
            stream.write_all(report).await?;
            stream.shutdown().await
        };
        written.await.map_err(|e| (CarbonFailure::Broken, e.to_string()))
    };
    let late = || (CarbonFailure::Timeout, format!("not taken within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(late()))
}

/// Whether a server takes reports, and when that was last said.
#[derive(Debug, Default)]
struct Standing {
    works: Option<bool>,
    said: Option<Tick>,
}

impl Standing {
    /// Says when a server begins or ceases to take reports, no more often than every [`QUIET`].
    fn note(&mut self, address: SocketAddr, sent: Result<(), String>, now: Tick) {
        if self.works == Some(sent.is_ok()) || self.said.is_some_and(|said| now.since(said) < QUIET) {
            return;
        }
        match &sent {
            Ok(()) => tracing::info!(server = %address, "Carbon takes reports"),
            Err(error) => tracing::warn!(server = %address, %error, "Carbon does not take reports"),
        }
        (self.works, self.said) = (Some(sent.is_ok()), Some(now));
    }
}
