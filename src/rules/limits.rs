//! The state of limiting rules: token buckets, also per client, and sets of addresses with an
//! expiry.
//!
//! ```text
//!  Snapshot.limits[state] ── StateSpec ──┬─ Rate ────── Arc<Bucket>
//!  (one for the process)                 ├─ Clients ─┐
//!                                        └─ Timed ───┴─ Arc<Deadlines>
//!  Limits (one for each shard) ── [state] ── credit taken from the Bucket, or the Deadlines
//! ```
//!
//! What is limited is the process: whichever shards get a client's queries, they count in one
//! table, whose entries are atomics.
//!
//! Every bucket is one number: the time at which it will be full again (GCRA, ITU-T I.371). A query
//! advances it by the time that one token takes to come back, and passes unless that moves it
//! further ahead than a whole bucket takes. So a bucket needs no refilling, and one whose time is
//! past is full, the same as one without an entry.
//!
//! Nothing here reads a clock; `now` is the batch's time. Memory is bounded whatever clients send:
//! see [`DEADLINES_BYTES_MAX`].

mod bucket;
mod deadlines;

use std::sync::Arc;

use ahash::RandomState;

use crate::base::rng::ShardRng;
use crate::base::time::Tick;
pub use crate::rules::limits::bucket::Bucket;
use crate::rules::limits::bucket::Credit;
pub use crate::rules::limits::deadlines::Deadlines;

/// Bytes of all per-client tables and timed sets. A table for a million clients takes 32 MiB of it.
pub const DEADLINES_BYTES_MAX: usize = 96 << 20;

/// Clients (or addresses) that one table holds at its full size.
pub const CLIENTS_MAX: usize = 1_000_000;

/// A rate for everything that reaches a rule, over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Index of the bucket, in order of appearance in the configuration.
    pub state: u32,
    /// Queries per second.
    pub qps: u32,
    /// Size of the bucket.
    pub burst: u32,
}

/// A rate for each client network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimit {
    /// Index of the table, in order of appearance in the configuration.
    pub state: u32,
    /// Queries per second; with 0 every query exceeds it.
    pub qps: u32,
    /// Size of a bucket, queries.
    pub burst: u32,
    /// Prefix length that counts as one client, IPv4; more than 32 is 32.
    pub v4: u8,
    /// The same for IPv6; more than 128 is 128.
    pub v6: u8,
    /// A bucket unused for this many seconds is forgotten, and so full again.
    pub expiration_s: u32,
}

/// A set of addresses, each with an expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedSet {
    /// Index of the set, in order of appearance in the configuration.
    pub state: u32,
}

/// A limiter of a configuration; its index in `Snapshot::limits` is its `state`.
#[derive(Clone, Debug)]
pub struct StateSpec {
    /// Derived from the limiter (its rule's identity, its kind and its figures): its state survives
    /// a reload under the same identity, and only then.
    pub identity: u64,
    /// Its kind.
    pub kind: StateKind,
}

/// Kinds of limiters, with the state that all shards share.
#[derive(Clone, Debug)]
pub enum StateKind {
    /// For a [`Limit`]: a bucket.
    Rate(Arc<Bucket>),
    /// For a [`ClientLimit`]: buckets by client.
    Clients(Arc<Deadlines>),
    /// For a [`TimedSet`]: addresses.
    Timed(Arc<Deadlines>),
}

impl StateSpec {
    /// Creates the limiter of a [`Limit`], with a full bucket.
    #[must_use]
    pub fn rate(identity: u64, qps: u32, burst: u32) -> Self {
        Self { identity, kind: StateKind::Rate(Arc::new(Bucket::new(qps, burst))) }
    }

    /// Creates the limiter of a [`ClientLimit`], with a table of at most this many bytes. The memory
    /// is not touched before it is used: a few microseconds.
    #[must_use]
    pub fn clients(identity: u64, bytes: usize) -> Self {
        Self { identity, kind: StateKind::Clients(Arc::new(Deadlines::new(bytes))) }
    }

    /// Creates a [`TimedSet`], with a table of at most this many bytes.
    #[must_use]
    pub fn timed(identity: u64, bytes: usize) -> Self {
        Self { identity, kind: StateKind::Timed(Arc::new(Deadlines::new(bytes))) }
    }

    /// Carries the state of a configuration's limiters over to a new configuration. Those that
    /// existed before, by identity, keep their state and size; new ones share the remaining memory.
    pub fn inherit(specs: &mut [Self], before: &[Self]) {
        let (mut used, mut fresh) = (0, Vec::new());
        let tables = specs.iter().filter(|spec| spec.table().is_some()).count();
        for spec in specs {
            let old = before.iter().find(|old| old.identity == spec.identity && old.kind.same(&spec.kind));
            if let Some(old) = old {
                spec.kind = old.kind.clone();
                used += spec.table().map_or(0, |table| table.bytes());
            } else if let StateKind::Clients(table) | StateKind::Timed(table) = &mut spec.kind {
                fresh.push(table);
            }
        }
        // A table that comes with a reload finds the memory used up; it then gets a quarter of its
        // fair share on top, because a smaller table would be of no use.
        let room = (DEADLINES_BYTES_MAX.saturating_sub(used) / fresh.len().max(1))
            .max(DEADLINES_BYTES_MAX / tables.max(1) / 4);
        for table in fresh {
            *table = Arc::new(Deadlines::new(room));
        }
    }

    const fn table(&self) -> Option<&Arc<Deadlines>> {
        match &self.kind {
            StateKind::Rate(_) => None,
            StateKind::Clients(table) | StateKind::Timed(table) => Some(table),
        }
    }
}

impl StateKind {
    /// Returns whether both are limiters of the same kind and figures.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rate(one), Self::Rate(two)) => one.same(two),
            (Self::Clients(_), Self::Clients(_)) | (Self::Timed(_), Self::Timed(_)) => true,
            _ => false,
        }
    }
}

/// What one shard has of all limiting rules.
#[derive(Debug)]
pub struct Limits {
    shards: u32,
    hasher: RandomState,
    states: Vec<State>,
}

#[derive(Debug)]
enum State {
    Rate(Credit),
    Clients(Table),
    Timed(Table),
}

/// A table, with the key of its hashes close at hand.
#[derive(Debug)]
struct Table {
    hasher: RandomState,
    deadlines: Arc<Deadlines>,
}

impl Default for Limits {
    /// Creates the limits of a single shard, with a fixed hash key: for tests and tools.
    fn default() -> Self {
        Self::new(1, &mut ShardRng::from_seed(0))
    }
}

impl Limits {
    /// Creates the limits of one of `shards` shards; `rng` makes the key under which addresses are
    /// hashed in the tables that this shard is the first to adopt, so that nobody can choose
    /// addresses that collide.
    #[must_use]
    pub fn new(shards: usize, rng: &mut ShardRng) -> Self {
        let [a, b, c, d] = std::array::from_fn(|_| rng.u64());
        Self {
            shards: u32::try_from(shards).unwrap_or(u32::MAX).max(1),
            hasher: RandomState::with_seeds(a, b, c, d),
            states: Vec::new(),
        }
    }

    /// Adopts the limiters of a configuration. Tokens that the shard holds of a bucket that was
    /// there before stay with it.
    pub fn adopt(&mut self, specs: &[StateSpec]) {
        let mut before = std::mem::take(&mut self.states);
        let mut credit = |bucket: &Arc<Bucket>| {
            let is_of = |state: &State| matches!(state, State::Rate(credit) if credit.is_of(bucket));
            before.iter().position(is_of).map(|at| before.swap_remove(at))
        };
        let table = |deadlines: &Arc<Deadlines>| {
            let hasher = deadlines.hasher(&self.hasher);
            Table { hasher, deadlines: Arc::clone(deadlines) }
        };
        let state = |spec: &StateSpec| match &spec.kind {
            StateKind::Rate(bucket) => {
                credit(bucket).unwrap_or_else(|| State::Rate(Credit::new(bucket, self.shards)))
            }
            StateKind::Clients(deadlines) => State::Clients(table(deadlines)),
            StateKind::Timed(deadlines) => State::Timed(table(deadlines)),
        };
        self.states = specs.iter().map(state).collect();
    }

    /// Returns whether a query exceeds a rate; if not, it was counted. An unknown state limits
    /// nothing.
    pub fn exceeded(&mut self, limit: &Limit, now: Tick) -> bool {
        match self.states.get_mut(limit.state as usize) {
            Some(State::Rate(credit)) => !credit.take(now),
            _ => false,
        }
    }

    /// Returns whether a query exceeds the rate of its client (16 bytes, IPv4 mapped); if not, it
    /// was counted.
    #[must_use]
    pub fn client_exceeded(&self, limit: &ClientLimit, ip: &[u8; 16], now: Tick) -> bool {
        let Some(State::Clients(table)) = self.states.get(limit.state as usize) else { return false };
        if limit.qps == 0 || limit.burst == 0 {
            return true;
        }
        let hash = table.hasher.hash_one(masked(ip, limit.v4, limit.v6));
        let expiry_ns = u64::from(limit.expiration_s).saturating_mul(1_000_000_000);
        table.deadlines.take(hash, Rate::new(limit.qps, limit.burst), expiry_ns, now.0)
    }

    /// Prefetches what [`Self::client_exceeded`] will read for a batch of clients, so that their
    /// cache misses overlap. It counts nothing.
    pub fn prefetch_clients(&self, limit: &ClientLimit, clients: &[[u8; 16]]) {
        if let Some(State::Clients(table)) = self.states.get(limit.state as usize) {
            let hash = |ip| table.hasher.hash_one(masked(ip, limit.v4, limit.v6));
            table.deadlines.prefetch(clients.iter().map(hash));
        }
    }

    /// Prefetches what [`Self::timed_contains`] will read for a batch of clients.
    pub fn prefetch_timed(&self, state: u32, clients: &[[u8; 16]]) {
        if let Some(table) = self.timed(state) {
            table.deadlines.prefetch(clients.iter().map(|ip| table.address(ip)));
        }
    }

    /// Adds an address (16 bytes, IPv4 mapped) to a set until a time; a later expiry replaces an
    /// earlier one. Above a million addresses, those that expire first (approximately) are
    /// replaced.
    pub fn timed_add(&self, state: u32, ip: &[u8; 16], until: Tick, now: Tick) {
        if let Some(table) = self.timed(state) {
            table.deadlines.raise(table.address(ip), until.0, now.0);
        }
    }

    /// Returns whether an address is in a set.
    #[must_use]
    pub fn timed_contains(&self, state: u32, ip: &[u8; 16], now: Tick) -> bool {
        let until = self.timed(state).and_then(|table| table.deadlines.value(table.address(ip)));
        until.is_some_and(|until| until > now.0)
    }

    /// Empties a set.
    pub fn timed_clear(&self, state: u32) {
        if let Some(table) = self.timed(state) {
            table.deadlines.clear();
        }
    }

    fn timed(&self, state: u32) -> Option<&Table> {
        match self.states.get(state as usize) {
            Some(State::Timed(table)) => Some(table),
            _ => None,
        }
    }
}

impl Table {
    fn address(&self, ip: &[u8; 16]) -> u64 {
        self.hasher.hash_one(u128::from_be_bytes(*ip))
    }
}

/// Returns the network of an address that counts as one client.
const fn masked(ip: &[u8; 16], v4: u8, v6: u8) -> u128 {
    let is_v4 = matches!(ip, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]);
    let bits = if !is_v4 {
        v6
    } else if v4 < 32 {
        96 + v4
    } else {
        128
    };
    let address = u128::from_be_bytes(*ip);
    match bits {
        0 => 0,
        128.. => address,
        _ => address & u128::MAX << (128 - bits),
    }
}

/// A rate and a burst as time spans, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    /// Time for one token to come back.
    token_ns: u64,
    /// Time for an empty bucket to become full; at least one token.
    full_ns: u64,
}

impl Rate {
    /// Returns the spans of a rate. A token's is rounded up: above a million queries per second the
    /// rate may be a thousandth too low, and the highest one is a thousand million.
    fn new(qps: u32, burst: u32) -> Self {
        let token_ns = 1_000_000_000_u64.div_ceil(u64::from(qps.max(1)));
        Self { token_ns, full_ns: u64::from(burst).saturating_mul(token_ns).max(token_ns) }
    }
}

#[cfg(test)]
mod tests;
