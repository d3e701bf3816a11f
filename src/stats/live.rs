//! Live state: what changes while a configuration is in force, shared by control plane and shards.
//!
//! One [`LiveState`] lives as long as the process. Each shard has statistics of its own that only
//! it writes and everyone reads, without a lock or a contended atomic; only the control thread
//! writes health, warmth and shares. The index is always the backend's slot.
//!
//! ```text
//!  shard 0 ──writes──► ShardStats 0 ◄──reads── other shards (once per batch), control (on scrape)
//!  control ──writes──► BackendLive ◄──reads── shards (when `epoch` moved)
//! ```

use std::ops::Deref;
use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};

use crate::base::addr::{BackendSlot, LISTENERS_MAX, ListenerSlot, PoolSlot, RuleSlot};
use crate::stats::check_failure::Failure;
use crate::stats::claims::Claims;
use crate::stats::connection_limits::ConnectionLimits;
use crate::stats::descriptors::Descriptors;
use crate::stats::histogram::bucket;
use crate::stats::latency_average::{LatencyAverages, LatencyAveragesReading};
use crate::stats::log_queue::LogQueue;
use crate::stats::meter::Counter;
use crate::stats::not_cached::NotCached;
use crate::stats::query_counts::{Counted, QueryCounts};
use crate::stats::registry::{
    AnswerReading, AnswerStats, BackendStats, HandshakeReading, HandshakeStats, ListenerReading,
    ListenerStats, PoolReading, PoolStats, RuleStats, ShardCounters,
};
use crate::stats::response_code::ResponseCode;
use crate::stats::shadow_queue::ShadowQueue;
use crate::stats::traffic_ring::TrafficRing;
use crate::wire::copied::Mark;

/// Most rules at a time, in all chains together, including removed ones that shards still count
/// for.
pub const RULES_MAX: usize = 1 << 20;
/// Rules whose hits are allocated together.
const RULES_BLOCK: usize = 1024;

/// Pools whose places are allocated together.
const POOLS_BLOCK: usize = 64;
/// Places of pools, each filled at the pool's first answer.
type Pools = [OnceLock<Box<PoolStats>>; POOLS_BLOCK];

/// Parts per million of the whole.
pub const PPM: u32 = 1_000_000;

/// Whether a backend gets queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not usable.
    Down = 0,
    /// Usable.
    Up = 1,
    /// Finishes outstanding queries; gets no new ones.
    Draining = 2,
    /// Worse than its peers; skipped for a while.
    Ejected = 3,
}

/// The live state of the whole process.
#[derive(Debug)]
pub struct LiveState {
    shards: Box<[Arc<ShardStats>]>,
    backends: Box<[BackendLive]>,
    epoch: AtomicU64,
    connection_limits: Arc<ConnectionLimits>,
    descriptors: Arc<Descriptors>,
    claims: Claims,
    mark: OnceLock<Mark>,
    /// What shards have counted by name, up to the last look.
    query_counts: QueryCounts,
}

impl LiveState {
    /// Creates the state of `shards` shards and slots `0..backends_max`.
    #[must_use]
    pub fn new(shards: usize, backends_max: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Arc::new(ShardStats::new(backends_max))).collect(),
            backends: (0..backends_max).map(|_| BackendLive::default()).collect(),
            epoch: AtomicU64::new(1),
            connection_limits: Arc::default(),
            descriptors: Arc::default(),
            claims: Claims::default(),
            mark: OnceLock::new(),
            query_counts: QueryCounts::default(),
        }
    }

    /// Returns the names with the most queries, of those that are counted.
    #[must_use]
    pub fn query_counts(&self, rows: usize) -> Counted {
        self.query_counts.collect(self.shards.iter().map(|shard| &shard.query_counts), rows)
    }

    /// Forgets the queries that were counted by name.
    pub fn clear_query_counts(&self) {
        self.shards.iter().for_each(|shard| shard.query_counts.clear());
        self.query_counts.clear();
    }

    /// Returns the mark of this process's copies of queries. The first shard draws it.
    pub fn mark(&self, draw: impl FnOnce() -> Mark) -> Mark {
        *self.mark.get_or_init(draw)
    }

    /// Returns the connection limits of all shards.
    #[must_use]
    pub const fn connection_limits(&self) -> &Arc<ConnectionLimits> {
        &self.connection_limits
    }

    /// Returns the file descriptors of all shards.
    #[must_use]
    pub const fn descriptors(&self) -> &Arc<Descriptors> {
        &self.descriptors
    }

    /// Returns which shard asks the servers for what.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Returns the shards' statistics.
    #[must_use]
    #[inline]
    pub fn shards(&self) -> &[Arc<ShardStats>] {
        &self.shards
    }

    /// Returns the number of backend slots.
    #[must_use]
    pub fn backends_max(&self) -> usize {
        self.backends.len()
    }

    /// Returns the live state of a backend.
    ///
    /// # Panics
    /// When the slot is not below [`LiveState::backends_max`]; compile assigns slots, and refuses
    /// more.
    #[must_use]
    #[inline]
    pub fn backend(&self, slot: BackendSlot) -> &BackendLive {
        &self.backends[slot.index()]
    }

    /// Returns the hits of a rule in all shards.
    #[must_use]
    pub fn rule_hits(&self, slot: RuleSlot) -> u64 {
        self.shards.iter().filter_map(|shard| shard.rule_if_any(slot)).map(|rule| rule.hits.get()).sum()
    }

    /// Returns the TLS handshakes of a listener in all shards.
    #[must_use]
    pub fn handshakes(&self, slot: ListenerSlot) -> HandshakeReading {
        let mut sum = HandshakeReading::default();
        self.shards.iter().filter_map(|s| s.handshakes_if_any(slot)).for_each(|stats| stats.read(&mut sum));
        sum
    }

    /// Returns what came by a listener in all shards, by UDP or over connections.
    #[must_use]
    pub fn listener(&self, slot: ListenerSlot, by_connection: bool) -> ListenerReading {
        let mut sum = ListenerReading::default();
        let pages = self.shards.iter().filter_map(|shard| shard.listener_if_any(slot));
        pages.for_each(|pages| pages[usize::from(by_connection)].stats.read(&mut sum));
        sum
    }

    /// Returns what was answered for a pool in all shards.
    #[must_use]
    pub fn pool(&self, slot: PoolSlot) -> PoolReading {
        let mut sum = PoolReading::default();
        self.shards.iter().filter_map(|shard| shard.pool_if_any(slot)).for_each(|pool| pool.read(&mut sum));
        sum
    }

    /// Returns the answers with a response code in all shards.
    #[must_use]
    pub fn answers(&self, code: ResponseCode) -> AnswerReading {
        let mut sum = AnswerReading::default();
        self.shards.iter().for_each(|shard| shard.answers[code.index()].read(&mut sum));
        sum
    }

    /// Adds the latency averages of a listener in all shards.
    pub fn latency_averages(
        &self,
        slot: ListenerSlot,
        by_connection: bool,
        sum: &mut LatencyAveragesReading,
    ) {
        let pages = self.shards.iter().filter_map(|shard| shard.listener_if_any(slot));
        pages.for_each(|pages| pages[usize::from(by_connection)].latency.read(sum));
    }

    /// Returns the averages of a backend's latency over connections in all shards.
    #[must_use]
    pub fn connection_latency(&self, slot: BackendSlot) -> LatencyAveragesReading {
        let mut sum = LatencyAveragesReading::default();
        let all = self.shards.iter().filter_map(|shard| shard.connection_latency.get(slot.index())?.get());
        all.for_each(|latency| latency.read(&mut sum));
        sum
    }

    /// Returns a number that changes whenever a state, warmth or share is set: shards then rebuild
    /// their tables.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        // Pairs with the setters' Release: a reader of the new epoch sees what was set before it.
        self.epoch.load(Acquire)
    }

    /// Sets a backend's state.
    pub fn set_state(&self, slot: BackendSlot, state: State) {
        self.backend(slot).state.store(state as u8, Relaxed);
        self.epoch.fetch_add(1, Release);
    }

    /// Sets the part of its usual share that a warming backend gets, parts per million.
    pub fn set_warmth(&self, slot: BackendSlot, ppm: u32) {
        self.backend(slot).warmth_ppm.store(ppm.min(PPM), Relaxed);
        self.epoch.fetch_add(1, Release);
    }

    /// Sets the part of its pool's queries that a backend gets from `concentrate`, and the random
    /// trickle that keeps it warm, parts per million.
    pub fn set_share(&self, slot: BackendSlot, share_ppm: u32, trickle_ppm: u32) {
        let b = self.backend(slot);
        b.share_ppm.store(share_ppm, Relaxed);
        b.trickle_ppm.store(trickle_ppm, Relaxed);
        self.epoch.fetch_add(1, Release);
    }

    /// Returns the outstanding queries of a backend over all shards, as last published.
    #[must_use]
    pub fn outstanding(&self, slot: BackendSlot) -> u32 {
        self.shards.iter().map(|s| s.outstanding[slot.index()].load(Relaxed)).sum()
    }
}

/// What the control thread publishes about a backend.
#[derive(Debug)]
pub struct BackendLive {
    state: AtomicU8,
    warmth_ppm: AtomicU32,
    share_ppm: AtomicU32,
    trickle_ppm: AtomicU32,
    checks_failed: [AtomicU64; Failure::ALL.len()],
    state_changes: AtomicU64,
    connections: AtomicU32,
    connections_max: AtomicU32,
}

impl Default for BackendLive {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(State::Down as u8),
            warmth_ppm: AtomicU32::new(PPM),
            share_ppm: AtomicU32::new(0),
            trickle_ppm: AtomicU32::new(0),
            checks_failed: Default::default(),
            state_changes: AtomicU64::new(0),
            connections: AtomicU32::new(0),
            connections_max: AtomicU32::new(0),
        }
    }
}

impl BackendLive {
    /// Returns its state.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Relaxed) {
            1 => State::Up,
            2 => State::Draining,
            3 => State::Ejected,
            _ => State::Down,
        }
    }

    /// Returns the part of its usual share that it gets, parts per million; [`PPM`] unless warming
    /// up.
    #[must_use]
    pub fn warmth_ppm(&self) -> u32 {
        self.warmth_ppm.load(Relaxed)
    }

    /// Returns its part of the pool's queries under `concentrate`, parts per million.
    #[must_use]
    pub fn share_ppm(&self) -> u32 {
        self.share_ppm.load(Relaxed)
    }

    /// Returns the random part of the pool's queries that keeps it warm under `concentrate`.
    #[must_use]
    pub fn trickle_ppm(&self) -> u32 {
        self.trickle_ppm.load(Relaxed)
    }

    /// Returns its failed health checks by reason, in the order of [`Failure::ALL`].
    #[must_use]
    pub fn checks_failed(&self) -> [u64; Failure::ALL.len()] {
        std::array::from_fn(|reason| self.checks_failed[reason].load(Relaxed))
    }

    /// Returns how many times it came up or went down.
    #[must_use]
    pub fn state_changes(&self) -> u64 {
        self.state_changes.load(Relaxed)
    }

    /// Sets how many times it came up or went down. Only the control thread calls this.
    pub fn set_state_changes(&self, count: u64) {
        self.state_changes.store(count, Relaxed);
    }

    /// Returns its connections at this time, and the most that there were.
    #[must_use]
    pub fn connections(&self) -> (u32, u32) {
        (self.connections.load(Relaxed), self.connections_max.load(Relaxed))
    }

    /// A shard has made a connection. Once for each connection, so all shards may share the counter.
    pub fn connected(&self) {
        let open = self.connections.fetch_add(1, Relaxed).saturating_add(1);
        self.connections_max.fetch_max(open, Relaxed);
    }

    /// So many connections of a shard have ended.
    pub fn disconnected(&self, count: u32) {
        self.connections.fetch_sub(count, Relaxed);
    }

    /// From here on it is another backend, whose most connections are those that there are.
    pub fn reset_connections_max(&self) {
        self.connections_max.store(self.connections.load(Relaxed), Relaxed);
    }

    /// Sets them; shards do not read them. Only the control thread calls this.
    pub fn set_checks_failed(&self, counts: &[u64; Failure::ALL.len()]) {
        for (failed, count) in self.checks_failed.iter().zip(counts) {
            failed.store(*count, Relaxed);
        }
    }
}

/// What a shard counts of a listener, by UDP or over connections.
#[derive(Debug, Default)]
pub struct ListenerPage {
    /// Its queries and answers.
    pub stats: ListenerStats,
    /// The latency of servers' responses to them.
    pub latency: LatencyAverages,
}

/// One shard's page. Aligned so that no two shards write the same cache line (two lines, since
/// the adjacent one is prefetched with it).
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardStats {
    /// Outstanding queries by backend, published once per batch.
    pub outstanding: Box<[AtomicU32]>,
    /// Queries sent by backend (wrapping), published once per batch; for `qps`.
    pub sent: Box<[AtomicU32]>,
    /// Smoothed latency by backend, microseconds, 0 before the first answer.
    pub latency_us: Box<[AtomicU32]>,
    /// Whether sockets are open for a slot, which cannot be reused yet.
    pub attached: Box<[AtomicU8]>,
    /// The generation of the snapshot that the shard uses.
    pub generation: AtomicU64,
    /// Turns of the shard's loop; constant while the shard hangs.
    pub heartbeat: AtomicU64,
    /// Lines of log actions and of relays that wait to be written.
    pub log_queue: LogQueue,
    /// The answers to queries that shadow pools get too.
    pub shadow_queue: ShadowQueue,
    /// Records of finished queries.
    pub traffic: TrafficRing,
    /// Queries by name, where the configuration wants that.
    pub query_counts: QueryCounts,
    counters: ShardCounters,
    rules: Box<[OnceLock<Box<[RuleStats]>>]>,
    backends: Box<[OnceLock<Box<BackendStats>>]>,
    handshakes: Box<[OnceLock<Box<HandshakeStats>>]>,
    listeners: Box<[OnceLock<Box<[ListenerPage; 2]>>]>,
    pools: Box<[OnceLock<Box<Pools>>]>,
    answers: [AnswerStats; ResponseCode::ALL.len()],
    connection_latency: Box<[OnceLock<Box<LatencyAverages>>]>,
}

impl ShardStats {
    fn new(backends_max: usize) -> Self {
        let u32s = || (0..backends_max).map(|_| AtomicU32::new(0)).collect();
        Self {
            outstanding: u32s(),
            sent: u32s(),
            latency_us: u32s(),
            attached: (0..backends_max).map(|_| AtomicU8::new(0)).collect(),
            generation: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            log_queue: LogQueue::default(),
            shadow_queue: ShadowQueue::default(),
            traffic: TrafficRing::default(),
            query_counts: QueryCounts::default(),
            counters: ShardCounters::default(),
            rules: (0..RULES_MAX / RULES_BLOCK).map(|_| OnceLock::new()).collect(),
            backends: (0..backends_max).map(|_| OnceLock::new()).collect(),
            handshakes: (0..LISTENERS_MAX).map(|_| OnceLock::new()).collect(),
            listeners: (0..LISTENERS_MAX).map(|_| OnceLock::new()).collect(),
            pools: (0..=usize::from(u16::MAX) / POOLS_BLOCK).map(|_| OnceLock::new()).collect(),
            answers: Default::default(),
            connection_latency: (0..backends_max).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Returns the counters of a listener's handshakes, allocated at the first one.
    #[must_use]
    pub fn handshakes(&self, slot: ListenerSlot) -> &HandshakeStats {
        self.handshakes[slot.index().min(LISTENERS_MAX - 1)].get_or_init(Box::default)
    }

    /// The same, if they were allocated.
    #[must_use]
    pub fn handshakes_if_any(&self, slot: ListenerSlot) -> Option<&HandshakeStats> {
        self.handshakes.get(slot.index())?.get().map(|h| &**h)
    }

    /// Returns what is counted of a listener's clients, allocated at the first one.
    #[must_use]
    #[inline]
    pub fn listener(&self, slot: ListenerSlot, by_connection: bool) -> &ListenerPage {
        let pages = self.listeners[slot.index().min(LISTENERS_MAX - 1)].get_or_init(Box::default);
        &pages[usize::from(by_connection)]
    }

    /// The same by UDP and over connections, if they were allocated.
    #[must_use]
    pub fn listener_if_any(&self, slot: ListenerSlot) -> Option<&[ListenerPage; 2]> {
        self.listeners.get(slot.index())?.get().map(|pages| &**pages)
    }

    /// Counts the answer to a query after this time, nanoseconds. Only the owning shard calls this.
    #[inline]
    pub fn answered(&self, listener: &ListenerPage, pool: PoolSlot, code: ResponseCode, latency_ns: u64) {
        let bucket = bucket(latency_ns);
        listener.stats.latency.count_one(bucket);
        self.answers[code.index()].latency.count_one(bucket);
        if pool != PoolSlot::NONE {
            self.pool(pool).latency.count_one(bucket);
        }
    }

    /// Returns the figures of a pool, allocated at its first answer.
    #[must_use]
    pub fn pool(&self, slot: PoolSlot) -> &PoolStats {
        let block = self.pools[(slot.index() / POOLS_BLOCK).min(self.pools.len() - 1)]
            .get_or_init(|| Box::new([const { OnceLock::new() }; POOLS_BLOCK]));
        block[slot.index() % POOLS_BLOCK].get_or_init(Box::default)
    }

    /// The same, if they were allocated.
    #[must_use]
    pub fn pool_if_any(&self, slot: PoolSlot) -> Option<&PoolStats> {
        let block = self.pools.get(slot.index() / POOLS_BLOCK)?.get()?;
        block[slot.index() % POOLS_BLOCK].get().map(|pool| &**pool)
    }

    /// Forgets the figures of a pool: its place has another one.
    pub fn forget_pool(&self, slot: PoolSlot) {
        let Some(stats) = self.pool_if_any(slot) else { return };
        stats.latency.reset();
        let counters = [
            &stats.cache_hits,
            &stats.cache_misses,
            &stats.cache_stale_hits,
            &stats.cache_coalesced,
            &stats.cache_refreshed,
            &stats.cache_inserted,
        ];
        counters.into_iter().for_each(Counter::reset);
        NotCached::ALL.iter().for_each(|reason| stats.cache_not_stored[*reason].reset());
    }

    /// Returns the averages of a backend's latency over connections, allocated at the first response.
    #[must_use]
    pub fn connection_latency(&self, slot: BackendSlot) -> &LatencyAverages {
        self.connection_latency[slot.index()].get_or_init(Box::default)
    }

    /// Forgets them: the slot gets another backend.
    pub fn forget_connection_latency(&self, slot: BackendSlot) {
        self.connection_latency.get(slot.index()).and_then(OnceLock::get).into_iter().for_each(|l| l.reset());
    }

    /// The hits of a rule, made room for at its first one; 8 kB for each thousand rules.
    #[must_use]
    pub fn rule_hits(&self, slot: RuleSlot) -> &Counter {
        let block = &self.rules[(slot.index() / RULES_BLOCK).min(self.rules.len() - 1)];
        let rules = block.get_or_init(|| (0..RULES_BLOCK).map(|_| RuleStats::default()).collect());
        &rules[slot.index() % RULES_BLOCK].hits
    }

    /// The shard's counters of a rule, if it has ever counted one nearby.
    #[must_use]
    pub fn rule_if_any(&self, slot: RuleSlot) -> Option<&RuleStats> {
        let block = self.rules.get(slot.index() / RULES_BLOCK)?.get()?;
        block.get(slot.index() % RULES_BLOCK)
    }

    /// Returns the counters of a backend, allocated at its first use (6.4 kB).
    #[must_use]
    #[inline]
    pub fn backend(&self, slot: BackendSlot) -> &BackendStats {
        self.backends[slot.index()].get_or_init(Box::default)
    }

    /// The same, if they were allocated.
    #[must_use]
    pub fn backend_if_used(&self, slot: BackendSlot) -> Option<&BackendStats> {
        self.backends.get(slot.index())?.get().map(|b| &**b)
    }
}

/// What is counted for the whole shard is counted as `stats.queries`.
impl Deref for ShardStats {
    type Target = ShardCounters;

    #[inline]
    fn deref(&self) -> &ShardCounters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn counters_share_no_cache_line_with_what_other_shards_read() {
        const LINE: usize = 64;
        let counters = offset_of!(ShardStats, counters);
        let counted = counters / LINE..=(counters + size_of::<ShardCounters>() - 1) / LINE;
        let read_by_others = [
            offset_of!(ShardStats, outstanding),
            offset_of!(ShardStats, sent),
            offset_of!(ShardStats, latency_us),
            offset_of!(ShardStats, attached),
        ];
        assert!(
            read_by_others.iter().all(|at| !counted.contains(&(at / LINE))),
            "{read_by_others:?} {counters}"
        );
    }
}
