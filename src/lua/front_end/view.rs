//! What functions of the console show of the running process.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::base::time::Tick;
use crate::cache::PacketCache;
use crate::config::ruleset::ChainKey;
use crate::stats::query_counts::Counted;
use crate::stats::top::{FoundList, GrepRequest, TopList, TopRequest};

/// A table or text of the running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The servers.
    Servers,
    /// The pools.
    Pools,
    /// The listeners.
    Listeners,
    /// Connections of clients and to servers.
    Connections,
    /// Failed TLS handshakes.
    TlsErrors,
    /// The listeners with TLS.
    TlsListeners,
    /// The certificates of listeners.
    Certificates,
    /// How many responses took how long.
    Latency,
    /// Queries that shadow pools get too.
    Shadows,
    /// Every metric.
    Metrics,
}

/// What is known of a running server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServerView {
    /// It gets queries.
    pub up: bool,
    /// Queries that are sent and not answered yet.
    pub outstanding: u64,
    /// The mean latency of its recent responses, milliseconds.
    pub latency_ms: f64,
}

/// A running packet cache.
#[derive(Clone, Debug)]
pub struct RunningCache {
    /// The cache.
    pub cache: Arc<PacketCache>,
    /// Its figures by their names, in the order in which they are shown.
    pub figures: Vec<(&'static str, u64)>,
    /// The time of its entries.
    pub now: Tick,
}

/// The running process, as commands see it. Nothing here waits for it.
pub trait View: fmt::Debug + Send + Sync {
    /// Returns a table as text.
    fn table(&self, table: Table) -> String;

    /// Returns a list of the most frequent clients, names and so on.
    ///
    /// # Errors
    /// Why there is none.
    fn top(&self, request: TopRequest) -> Result<TopList, String>;

    /// Returns the last queries.
    ///
    /// # Errors
    /// Why there is none.
    fn grep(&self, request: GrepRequest) -> Result<FoundList, String>;

    /// Returns the metrics of the whole process that have one value each, by name.
    fn counters(&self) -> Vec<(String, f64)>;

    /// Returns the state of all servers, by their identities
    /// ([`crate::config::draft::DraftServer::identity`]).
    fn servers(&self) -> HashMap<String, ServerView>;

    /// Returns the packet cache of a pool, if it has one.
    fn cache(&self, pool: &str) -> Option<RunningCache>;

    /// Returns the names with the most queries, where queries are counted by name.
    fn query_counts(&self, rows: usize) -> Counted;

    /// Forgets what was counted by name.
    fn clear_query_counts(&self);

    /// Returns how many TLS sessions with servers are kept that may be resumed.
    fn tls_sessions(&self) -> usize;

    /// Returns UUID and hits of each rule of a chain, in its order.
    fn rules(&self, chain: ChainKey) -> Vec<([u8; 16], u64)>;
}
