//! What can be asked of the traffic: lists of the most frequent clients, names and so on, and the
//! last queries. The console and the web server ask; the thread that counts the traffic answers.

use crate::base::prefix::Prefix;
use crate::stats::traffic_ring::Record;

/// The longest window, seconds.
pub const WINDOW_MAX: u32 = 900;
/// Most rows of a list.
pub const ROWS_MAX: usize = 1_000;
/// Most queries of a list of the last ones.
pub const QUERIES_MAX: usize = 10_000;

/// Returns the name that a list shows, without the mark of one whose first labels are cut off.
#[must_use]
pub fn uncut(shown: &str) -> &str {
    shown.strip_prefix("...").filter(|rest| !rest.is_empty()).unwrap_or(shown)
}

/// What a list has a row for, each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Clients by their address.
    Client,
    /// Clients by their network: /24 of IPv4, /48 of IPv6.
    Network,
    /// Names by their last labels, this many; 0 for whole names.
    Name(u8),
    /// Requested types.
    Type,
    /// Response codes.
    Rcode,
}

/// Which queries count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Every finished query.
    All,
    /// Those that were answered with this code.
    Rcode(u8),
    /// Those that no server answered in time.
    Timeouts,
    /// Those that took at least this many milliseconds until a server responded.
    SlowerThan(u32),
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The pool's name; empty for the default pool.
    pub pool: Option<String>,
    /// The server's name or address.
    pub server: Option<String>,
    /// Networks of the client.
    pub networks: Vec<Prefix>,
    /// The requested name is one of these or below, each: wire format in lower case.
    pub names: Vec<Vec<u8>>,
    /// The response code.
    pub rcode: Option<u8>,
    /// The requested type.
    pub qtype: Option<u16>,
    /// The least latency, microseconds.
    pub latency_us_min: Option<u32>,
}

impl Filter {
    /// Returns whether it lets everything pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A list that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopRequest {
    /// What has a row.
    pub by: By,
    /// Which queries count.
    pub only: Only,
    /// The sum is of the answers' bytes, rather than of queries.
    pub bytes: bool,
    /// The last seconds, at most [`WINDOW_MAX`].
    pub window_s: u32,
    /// Further conditions.
    pub filter: Filter,
    /// Most rows, at most [`ROWS_MAX`].
    pub rows: usize,
}

impl TopRequest {
    /// A list of the last minute without conditions.
    #[must_use]
    pub fn new(by: By, only: Only, rows: usize) -> Self {
        Self { by, only, bytes: false, window_s: 60, filter: Filter::default(), rows }
    }

    /// Returns the list of a name that the web server and documents use; none if there is no such.
    #[must_use]
    pub fn named(what: &str, rows: usize) -> Option<Self> {
        let (by, only) = match what {
            "clients" | "bandwidth" => (By::Client, Only::All),
            "networks" => (By::Network, Only::All),
            "names" => (By::Name(0), Only::All),
            "tlds" => (By::Name(1), Only::All),
            "domains" => (By::Name(2), Only::All),
            "types" => (By::Type, Only::All),
            "rcodes" => (By::Rcode, Only::All),
            "slow-names" => (By::Name(0), Only::SlowerThan(SLOW_MS)),
            "slow-domains" => (By::Name(2), Only::SlowerThan(SLOW_MS)),
            "timeout-names" => (By::Name(0), Only::Timeouts),
            "timeout-domains" => (By::Name(2), Only::Timeouts),
            "timeout-clients" => (By::Client, Only::Timeouts),
            "servfail-names" => (By::Name(0), Only::Rcode(SERVFAIL)),
            "servfail-domains" => (By::Name(2), Only::Rcode(SERVFAIL)),
            "servfail-clients" => (By::Client, Only::Rcode(SERVFAIL)),
            "nxdomain-names" => (By::Name(0), Only::Rcode(NXDOMAIN)),
            "nxdomain-domains" => (By::Name(2), Only::Rcode(NXDOMAIN)),
            "nxdomain-clients" => (By::Client, Only::Rcode(NXDOMAIN)),
            _ => return None,
        };
        Some(Self { bytes: what == "bandwidth", ..Self::new(by, only, rows) })
    }
}

/// The names that [`TopRequest::named`] knows.
pub const LISTS: [&str; 19] = [
    "clients",
    "bandwidth",
    "networks",
    "names",
    "tlds",
    "domains",
    "types",
    "rcodes",
    "slow-names",
    "slow-domains",
    "timeout-names",
    "timeout-domains",
    "timeout-clients",
    "servfail-names",
    "servfail-domains",
    "servfail-clients",
    "nxdomain-names",
    "nxdomain-domains",
    "nxdomain-clients",
];

/// From this latency on a response is slow where nothing else is said, milliseconds.
pub const SLOW_MS: u32 = 100;
/// Response codes with lists of their own.
pub const SERVFAIL: u8 = 2;
/// See [`SERVFAIL`].
pub const NXDOMAIN: u8 = 3;

/// A row: `count - error <= true <= count`, unless the list is an estimate; then the true number is
/// within `error` of `count` in 95 of 100 lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopRow {
    /// The client, name, type or code.
    pub label: String,
    /// Queries, or bytes.
    pub count: u64,
    /// How far that may be off.
    pub error: u64,
}

/// A list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopList {
    /// Most first.
    pub rows: Vec<TopRow>,
    /// The sum of all that counted, those without a row included.
    pub total: u64,
    /// What none without a row has more of; none when that is not known.
    pub unlisted_max: Option<u64>,
    /// The seconds that it covers.
    pub window_s: f64,
    /// The part of the queries that was counted: 1 for all.
    pub share: f64,
    /// It is an estimate of a sample, without guaranteed bounds.
    pub is_estimate: bool,
    /// Those of the total whose name is not known: a time-out of a rare name.
    pub unknown: u64,
}

/// The last queries that somebody wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrepRequest {
    /// Which.
    pub filter: Filter,
    /// Most of them, at most [`QUERIES_MAX`]; the last ones.
    pub rows: usize,
}

/// A query that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is known of it.
    pub record: Record,
    /// How long ago it ended, microseconds.
    pub ago_us: u64,
    /// The protocol by which it came, as "DoUDP".
    pub protocol: &'static str,
    /// The server's address; empty without one.
    pub server: String,
    /// The pool's name.
    pub pool: String,
}

/// Queries that were found, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundList {
    /// The queries.
    pub found: Vec<Found>,
    /// The part of the queries of this time that was looked at.
    pub share: f64,
    /// Since when there are records, seconds ago.
    pub window_s: f64,
}
