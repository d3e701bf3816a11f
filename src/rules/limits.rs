//! The state of limiting rules: token buckets, also per client, and sets of addresses with an
//! expiry.
//!
//! ```text
//!  Snapshot.limits[state] ── StateSpec ──┬─ Rate ────── Arc<Bucket>, one for the process
//!                                        ├─ Clients ─┐
//!                                        └─ Timed ───┴─ Deadlines, one for each shard
//!  Limits (one for each shard) ── [state] ── credit taken from the Bucket, or the Deadlines
//! ```
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
use crate::rules::limits::deadlines::Deadlines;

/// Bytes of all per-client tables and timed sets of the process. A table for a million clients takes
/// 32 MiB of it.
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

/// Kinds of limiters.
#[derive(Clone, Debug)]
pub enum StateKind {
    /// For a [`Limit`]: a bucket that all shards share.
    Rate(Arc<Bucket>),
    /// For a [`ClientLimit`]: buckets by client, one table per shard.
    Clients,
    /// For a [`TimedSet`]: addresses, one table per shard.
    Timed,
}

impl StateSpec {
    /// Creates the limiter of a [`Limit`], with a full bucket.
    #[must_use]
    pub fn rate(identity: u64, qps: u32, burst: u32) -> Self {
        Self { identity, kind: StateKind::Rate(Arc::new(Bucket::new(qps, burst))) }
    }

    /// Carries the process-wide state of a configuration's limiters over to a new configuration.
    /// State of each shard is carried over in [`Limits::adopt`].
    pub fn inherit(specs: &mut [Self], before: &[Self]) {
        for spec in specs {
            let StateKind::Rate(bucket) = &mut spec.kind else { continue };
            let old = before.iter().find_map(|b| match &b.kind {
                StateKind::Rate(old) if b.identity == spec.identity && old.same(bucket) => Some(old),
                StateKind::Rate(_) | StateKind::Clients | StateKind::Timed => None,
            });
            if let Some(old) = old {
                *bucket = Arc::clone(old);
            }
        }
    }
}

/// The state of all limiting rules of one shard.
#[derive(Debug)]
pub struct Limits {
    shards: u32,
    hasher: RandomState,
    states: Vec<State>,
}

#[derive(Debug)]
struct State {
    identity: u64,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Rate(Credit),
    Clients(Deadlines),
    Timed(Deadlines),
}

impl Default for Limits {
    /// Creates the limits of a single shard, with a fixed hash key: for tests and tools.
    fn default() -> Self {
        Self::new(1, &mut ShardRng::from_seed(0))
    }
}

impl Limits {
    /// Creates the limits of one of `shards` shards; `rng` makes the key under which addresses are
    /// hashed, so that nobody can choose addresses that collide.
    #[must_use]
    pub fn new(shards: usize, rng: &mut ShardRng) -> Self {
        let [a, b, c, d] = std::array::from_fn(|_| rng.u64());
        Self {
            shards: u32::try_from(shards).unwrap_or(u32::MAX).max(1),
            hasher: RandomState::with_seeds(a, b, c, d),
            states: Vec::new(),
        }
    }

    /// Adopts the limiters of a configuration. Those that existed before, by identity, keep their
    /// state and size; new ones share the remaining memory. This is the only place that allocates,
    /// and the memory is not touched before it is used: a few microseconds per limiter.
    pub fn adopt(&mut self, specs: &[StateSpec]) {
        let mut before = std::mem::take(&mut self.states);
        let mut kept: Vec<Option<State>> = specs.iter().map(|spec| take(&mut before, spec)).collect();
        let used: usize = kept.iter().flatten().map(|s| s.memory.bytes()).sum();
        let fresh = specs.iter().zip(&kept).filter(|(spec, kept)| kept.is_none() && spec.has_table()).count();
        let whole = DEADLINES_BYTES_MAX / self.shards as usize;
        let tables = specs.iter().filter(|spec| spec.has_table()).count();
        // A table that comes with a reload finds the memory used up; it then gets a quarter of its
        // fair share on top, because a smaller table would be of no use.
        let room = (whole.saturating_sub(used) / fresh.max(1)).max(whole / tables.max(1) / 4);
        self.states = specs
            .iter()
            .zip(&mut kept)
            .map(|(spec, kept)| {
                kept.take().unwrap_or_else(|| State {
                    identity: spec.identity,
                    memory: match &spec.kind {
                        StateKind::Rate(bucket) => Memory::Rate(Credit::new(bucket, self.shards)),
                        StateKind::Clients => Memory::Clients(Deadlines::new(room)),
                        StateKind::Timed => Memory::Timed(Deadlines::new(room)),
                    },
                })
            })
            .collect();
    }

    /// Returns whether a query exceeds a rate; if not, it was counted. An unknown state limits
    /// nothing.
    pub fn exceeded(&mut self, limit: &Limit, now: Tick) -> bool {
        match self.memory_mut(limit.state) {
            Some(Memory::Rate(credit)) => !credit.take(now),
            _ => false,
        }
    }

    /// Returns whether a query exceeds the rate of its client (16 bytes, IPv4 mapped); if not, it
    /// was counted.
    ///
    /// Exact when all queries of a client come to one shard. Otherwise (`shared`) each shard allows
    /// its part, the rate and the burst divided by the number of shards, but always one query: a
    /// client whose queries spread evenly gets the whole rate, one whose queries all reach the same
    /// shard gets that part of it.
    pub fn client_exceeded(&mut self, limit: &ClientLimit, ip: &[u8; 16], shared: bool, now: Tick) -> bool {
        let hash = self.hasher.hash_one(masked(ip, limit.v4, limit.v6));
        let parts = if shared { u64::from(self.shards) } else { 1 };
        let Some(Memory::Clients(clients)) = self.memory_mut(limit.state) else { return false };
        if limit.qps == 0 || limit.burst == 0 {
            return true;
        }
        let rate = Rate::part(limit.qps, limit.burst, parts);
        clients.take(hash, rate, u64::from(limit.expiration_s).saturating_mul(1_000_000_000), now.0)
    }

    /// Prefetches what [`Self::client_exceeded`] will read for a batch of clients, so that their
    /// cache misses overlap. It counts nothing.
    pub fn prefetch_clients(&self, limit: &ClientLimit, clients: &[[u8; 16]]) {
        if let Some(Memory::Clients(table)) = self.memory(limit.state) {
            table.prefetch(clients.iter().map(|ip| self.hasher.hash_one(masked(ip, limit.v4, limit.v6))));
        }
    }

    /// Prefetches what [`Self::timed_contains`] will read for a batch of clients.
    pub fn prefetch_timed(&self, state: u32, clients: &[[u8; 16]]) {
        if let Some(Memory::Timed(table)) = self.memory(state) {
            table.prefetch(clients.iter().map(|ip| self.hasher.hash_one(u128::from_be_bytes(*ip))));
        }
    }

    /// Adds an address (16 bytes, IPv4 mapped) to a set until a time; a later expiry replaces an
    /// earlier one. Above a million addresses, those that expire first (approximately) are
    /// replaced.
    pub fn timed_add(&mut self, state: u32, ip: &[u8; 16], until: Tick, now: Tick) {
        let hash = self.hasher.hash_one(u128::from_be_bytes(*ip));
        if let Some(Memory::Timed(set)) = self.memory_mut(state) {
            set.raise(hash, until.0, now.0);
        }
    }

    /// Returns whether an address is in a set.
    #[must_use]
    pub fn timed_contains(&self, state: u32, ip: &[u8; 16], now: Tick) -> bool {
        let hash = self.hasher.hash_one(u128::from_be_bytes(*ip));
        match self.memory(state) {
            Some(Memory::Timed(set)) => set.value(hash).is_some_and(|until| until > now.0),
            _ => false,
        }
    }

    /// Empties a set.
    pub fn timed_clear(&mut self, state: u32) {
        if let Some(Memory::Timed(set)) = self.memory_mut(state) {
            set.clear();
        }
    }

    /// Returns the bytes that this shard's limiters may use; untouched pages are only reserved.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.states.iter().map(|s| s.memory.bytes()).sum()
    }

    fn memory(&self, state: u32) -> Option<&Memory> {
        self.states.get(state as usize).map(|s| &s.memory)
    }

    fn memory_mut(&mut self, state: u32) -> Option<&mut Memory> {
        self.states.get_mut(state as usize).map(|s| &mut s.memory)
    }
}

impl StateSpec {
    const fn has_table(&self) -> bool {
        matches!(self.kind, StateKind::Clients | StateKind::Timed)
    }
}

impl Memory {
    fn bytes(&self) -> usize {
        match self {
            Self::Rate(_) => 0,
            Self::Clients(table) | Self::Timed(table) => table.bytes(),
        }
    }

    fn is_of(&self, spec: &StateKind) -> bool {
        match (self, spec) {
            (Self::Rate(credit), StateKind::Rate(bucket)) => credit.is_of(bucket),
            (Self::Clients(_), StateKind::Clients) | (Self::Timed(_), StateKind::Timed) => true,
            _ => false,
        }
    }
}

/// Removes from `states` the one that a specification continues.
fn take(states: &mut Vec<State>, spec: &StateSpec) -> Option<State> {
    let at = states.iter().position(|s| s.identity == spec.identity && s.memory.is_of(&spec.kind))?;
    Some(states.swap_remove(at))
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
    /// Returns one of `parts` equal parts of a rate. A token's span is rounded up: above a million
    /// queries per second a part may be a thousandth too low, and the highest rate is a thousand
    /// million.
    fn part(qps: u32, burst: u32, parts: u64) -> Self {
        let token_ns = (parts * 1_000_000_000).div_ceil(u64::from(qps.max(1)));
        Self { token_ns, full_ns: (u64::from(burst).saturating_mul(token_ns) / parts).max(token_ns) }
    }
}

#[cfg(test)]
mod tests;
