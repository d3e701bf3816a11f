//! What changes while a configuration stands: the wall between the planes, with its windows.
//!
//! One [`LiveState`] lives as long as the process. Each shard has a page of its own that it alone
//! writes and everybody reads, without a lock or a contended atomic; the control thread alone
//! writes health, warmth and shares. Index is the backend's slot everywhere.
//!
//! ```text
//!  shard 0 ──writes──► ShardStats 0 ◄──reads── other shards (once per batch), control (on scrape)
//!  control ──writes──► BackendLive ◄──reads── shards (when `epoch` moved)
//! ```

use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};

use crate::base::addr::{BackendSlot, ListenerSlot, RuleSlot};
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason, RelayCloseReason};
use crate::stats::connection_limits::ConnectionLimits;
use crate::stats::descriptors::Descriptors;
use crate::stats::drop_reason::DropReason;
use crate::stats::log_queue::LogQueue;
use crate::tls::Reason;

/// Rules there can be at a time, in all chains together, removed ones included that shards still
/// count for.
pub const RULES_MAX: usize = 1 << 20;
/// Listeners there can be at a time, removed ones included that shards still serve.
pub const LISTENERS_MAX: usize = 1024;
/// Rules whose hits stand together.
const RULES_BLOCK: usize = 1024;

/// Parts per million of "all".
pub const PPM: u32 = 1_000_000;

/// Whether queries may go to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not usable.
    Down = 0,
    /// Usable.
    Up = 1,
    /// Finishes what it has; no new queries.
    Draining = 2,
    /// Worse than its peers; passed over for a while.
    Ejected = 3,
}

/// The whole process's live state.
#[derive(Debug)]
pub struct LiveState {
    shards: Box<[ShardStats]>,
    backends: Box<[BackendLive]>,
    epoch: AtomicU64,
    connection_limits: Arc<ConnectionLimits>,
    descriptors: Arc<Descriptors>,
}

impl LiveState {
    /// A board for `shards` shards and slots `0..backends_max`.
    #[must_use]
    pub fn new(shards: usize, backends_max: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| ShardStats::new(backends_max)).collect(),
            backends: (0..backends_max).map(|_| BackendLive::default()).collect(),
            epoch: AtomicU64::new(1),
            connection_limits: Arc::default(),
            descriptors: Arc::default(),
        }
    }

    /// Connections of all shards.
    #[must_use]
    pub const fn connection_limits(&self) -> &Arc<ConnectionLimits> {
        &self.connection_limits
    }

    /// File descriptors of all shards.
    #[must_use]
    pub const fn descriptors(&self) -> &Arc<Descriptors> {
        &self.descriptors
    }

    /// The shards' pages.
    #[must_use]
    pub fn shards(&self) -> &[ShardStats] {
        &self.shards
    }

    /// Slots there are.
    #[must_use]
    pub fn backends_max(&self) -> usize {
        self.backends.len()
    }

    /// Live state of a backend.
    ///
    /// # Panics
    /// When the slot is not below [`LiveState::backends_max`]; slots are given out by compile, which
    /// refuses more.
    #[must_use]
    pub fn backend(&self, slot: BackendSlot) -> &BackendLive {
        &self.backends[slot.index()]
    }

    /// Changes whenever a state, warmth or share was set: shards then rebuild what they derive.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        // Pairs with the setters' Release: who sees the new epoch sees what it stands for.
        self.epoch.load(Acquire)
    }

    /// Sets a backend's state.
    pub fn set_state(&self, slot: BackendSlot, state: State) {
        self.backend(slot).state.store(state as u8, Relaxed);
        self.epoch.fetch_add(1, Release);
    }

    /// Sets which part of its usual share a warming backend takes, parts per million.
    pub fn set_warmth(&self, slot: BackendSlot, ppm: u32) {
        self.backend(slot).warmth_ppm.store(ppm.min(PPM), Relaxed);
        self.epoch.fetch_add(1, Release);
    }

    /// Sets the part of its pool's queries that `concentrate` gives a backend, and the random
    /// trickle that keeps it warm, parts per million.
    pub fn set_share(&self, slot: BackendSlot, share_ppm: u32, trickle_ppm: u32) {
        let b = self.backend(slot);
        b.share_ppm.store(share_ppm, Relaxed);
        b.trickle_ppm.store(trickle_ppm, Relaxed);
        self.epoch.fetch_add(1, Release);
    }

    /// Outstanding queries of a backend over all shards, as last published.
    #[must_use]
    pub fn outstanding(&self, slot: BackendSlot) -> u32 {
        self.shards.iter().map(|s| s.outstanding[slot.index()].load(Relaxed)).sum()
    }
}

/// What the control thread tells the shards about a backend.
#[derive(Debug)]
pub struct BackendLive {
    state: AtomicU8,
    warmth_ppm: AtomicU32,
    share_ppm: AtomicU32,
    trickle_ppm: AtomicU32,
}

impl Default for BackendLive {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(State::Down as u8),
            warmth_ppm: AtomicU32::new(PPM),
            share_ppm: AtomicU32::new(0),
            trickle_ppm: AtomicU32::new(0),
        }
    }
}

impl BackendLive {
    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Relaxed) {
            1 => State::Up,
            2 => State::Draining,
            3 => State::Ejected,
            _ => State::Down,
        }
    }

    /// Part of its usual share that it takes, parts per million; [`PPM`] unless warming up.
    #[must_use]
    pub fn warmth_ppm(&self) -> u32 {
        self.warmth_ppm.load(Relaxed)
    }

    /// Part of the pool's queries under `concentrate`, parts per million.
    #[must_use]
    pub fn share_ppm(&self) -> u32 {
        self.share_ppm.load(Relaxed)
    }

    /// Random part of the pool's queries that keeps it warm under `concentrate`.
    #[must_use]
    pub fn trickle_ppm(&self) -> u32 {
        self.trickle_ppm.load(Relaxed)
    }
}

/// A counter with one writer; any thread may read it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard calls this: a load and a store, no locked instruction.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Begins again at 0. Only the owning shard calls this.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One shard's page. Aligned so that no two shards write the same cache line (two lines, since
/// the adjacent one is prefetched with it).
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardStats {
    /// Outstanding queries by backend, published once per batch.
    pub outstanding: Box<[AtomicU32]>,
    /// Queries ever sent by backend (wrapping), published once per batch; for `qps`.
    pub sent: Box<[AtomicU32]>,
    /// Smoothed latency by backend, microseconds, 0 before the first answer.
    pub latency_us: Box<[AtomicU32]>,
    /// Sockets are open for this slot: it may not be given to another backend yet.
    pub attached: Box<[AtomicU8]>,
    /// Generation of the snapshot this shard has begun to use.
    pub generation: AtomicU64,
    /// Ticks of the shard's loop; stands still when the shard hangs.
    pub heartbeat: AtomicU64,
    /// Times this shard panicked and was started again.
    pub restarts: AtomicU32,
    /// Queries read from clients.
    pub queries: Counter,
    /// Backends' answers delivered to clients.
    pub responses: Counter,
    /// Answers of our own.
    pub self_answered: Counter,
    /// Queries asked a second time elsewhere.
    pub retries: Counter,
    /// Answers of the script's that were errors.
    pub script_errors: Counter,
    /// Clients' connections.
    pub clients: ClientConnectionStats,
    /// Connections and flows of forwards.
    pub relays: RelayStats,
    /// What log actions have to say.
    pub log_queue: LogQueue,
    /// Queries in this shard whose client waits for an answer.
    pub outstanding_total: AtomicU32,
    rule_hits: Box<[OnceLock<Box<[Counter]>>]>,
    drops: [Counter; DropReason::ALL.len()],
    backends: Box<[OnceLock<Box<BackendStats>>]>,
    handshakes: Box<[OnceLock<Box<HandshakeStats>>]>,
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
            restarts: AtomicU32::new(0),
            queries: Counter::default(),
            responses: Counter::default(),
            self_answered: Counter::default(),
            retries: Counter::default(),
            script_errors: Counter::default(),
            clients: ClientConnectionStats::default(),
            relays: RelayStats::default(),
            log_queue: LogQueue::default(),
            rule_hits: (0..RULES_MAX / RULES_BLOCK).map(|_| OnceLock::new()).collect(),
            outstanding_total: AtomicU32::new(0),
            drops: std::array::from_fn(|_| Counter::default()),
            backends: (0..backends_max).map(|_| OnceLock::new()).collect(),
            handshakes: (0..LISTENERS_MAX).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The shard's counters of the handshakes of a listener, made at its first one.
    #[must_use]
    pub fn handshakes(&self, slot: ListenerSlot) -> &HandshakeStats {
        self.handshakes[slot.index().min(LISTENERS_MAX - 1)].get_or_init(Box::default)
    }

    /// The same, if the shard has ever seen one there.
    #[must_use]
    pub fn handshakes_if_any(&self, slot: ListenerSlot) -> Option<&HandshakeStats> {
        self.handshakes.get(slot.index())?.get().map(|h| &**h)
    }

    /// The counter of a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.drops[reason.index()]
    }

    /// The hits of a rule, made room for at its first one; 8 kB for each thousand rules.
    #[must_use]
    pub fn rule_hits(&self, slot: RuleSlot) -> &Counter {
        let block = &self.rule_hits[(slot.index() / RULES_BLOCK).min(self.rule_hits.len() - 1)];
        let counters = block.get_or_init(|| (0..RULES_BLOCK).map(|_| Counter::default()).collect());
        &counters[slot.index() % RULES_BLOCK]
    }

    /// The hits of a rule so far.
    #[must_use]
    pub fn rule_hits_so_far(&self, slot: RuleSlot) -> u64 {
        let block = self.rule_hits.get(slot.index() / RULES_BLOCK).and_then(OnceLock::get);
        block.map_or(0, |counters| counters[slot.index() % RULES_BLOCK].get())
    }

    /// The shard's counters of a backend, made at its first use (3.2 kB).
    #[must_use]
    pub fn backend(&self, slot: BackendSlot) -> &BackendStats {
        self.backends[slot.index()].get_or_init(Box::default)
    }

    /// The same, if the shard has ever used that slot.
    #[must_use]
    pub fn backend_if_used(&self, slot: BackendSlot) -> Option<&BackendStats> {
        self.backends.get(slot.index())?.get().map(|b| &**b)
    }
}

/// One shard's counters of one backend; they only grow, also over the slot's reuse.
#[derive(Debug, Default)]
pub struct BackendStats {
    /// Queries sent to it.
    pub queries: Counter,
    /// Its answers that matched a query.
    pub responses: Counter,
    /// Queries it did not answer in time.
    pub timeouts: Counter,
    /// Queries the kernel refused to send, or a full table.
    pub send_errors: Counter,
    /// Answers with SERVFAIL.
    pub servfails: Counter,
    /// Answers that matched nothing (late, duplicate, foreign) or not the question.
    pub unexpected: Counter,
    /// Latency of its answers.
    pub latency: Histogram,
    /// Its connections.
    pub connections: BackendConnectionStats,
}

/// One shard's counters of its clients' connections.
#[derive(Debug)]
pub struct ClientConnectionStats {
    /// Connections that came, those among them that were closed at once.
    pub opened: Counter,
    /// Connections at this time.
    pub open: AtomicU32,
    ends: [Counter; ClientCloseReason::ALL.len()],
}

impl Default for ClientConnectionStats {
    fn default() -> Self {
        Self {
            opened: Counter::default(),
            open: AtomicU32::new(0),
            ends: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl ClientConnectionStats {
    /// The counter of a reason.
    #[must_use]
    pub fn ended(&self, why: ClientCloseReason) -> &Counter {
        &self.ends[why.index()]
    }
}

/// One shard's counters of the connections and flows of its forwards.
#[derive(Debug)]
pub struct RelayStats {
    /// Connections and flows taken.
    pub opened: Counter,
    /// Those at this time.
    pub open: AtomicU32,
    /// Bytes passed on to targets.
    pub bytes_out: Counter,
    /// Bytes passed back to clients.
    pub bytes_back: Counter,
    ends: [Counter; RelayCloseReason::ALL.len()],
}

impl Default for RelayStats {
    fn default() -> Self {
        Self {
            opened: Counter::default(),
            open: AtomicU32::new(0),
            bytes_out: Counter::default(),
            bytes_back: Counter::default(),
            ends: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl RelayStats {
    /// The counter of a reason.
    #[must_use]
    pub fn ended(&self, why: RelayCloseReason) -> &Counter {
        &self.ends[why.index()]
    }
}

/// One shard's counters of TLS handshakes, with the clients of a listener or with a backend.
#[derive(Debug)]
pub struct HandshakeStats {
    /// Whole ones.
    pub full: Counter,
    /// Those that resumed an earlier session.
    pub resumed: Counter,
    failures: [Counter; Reason::ALL.len()],
}

impl Default for HandshakeStats {
    fn default() -> Self {
        Self {
            full: Counter::default(),
            resumed: Counter::default(),
            failures: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl HandshakeStats {
    /// The counter of those that failed for a reason.
    #[must_use]
    pub fn failed(&self, why: Reason) -> &Counter {
        &self.failures[why.index()]
    }

    /// Counts one that is done.
    pub fn done(&self, resumed: bool) {
        if resumed { &self.resumed } else { &self.full }.add(1);
    }
}

/// One shard's counters of its connections to a backend.
#[derive(Debug)]
pub struct BackendConnectionStats {
    /// Connections that came about.
    pub opened: Counter,
    /// Their TLS handshakes.
    pub handshakes: HandshakeStats,
    ends: [Counter; BackendCloseReason::ALL.len()],
}

impl Default for BackendConnectionStats {
    fn default() -> Self {
        Self {
            opened: Counter::default(),
            handshakes: HandshakeStats::default(),
            ends: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl BackendConnectionStats {
    /// The counter of a reason.
    #[must_use]
    pub fn ended(&self, why: BackendCloseReason) -> &Counter {
        &self.ends[why.index()]
    }
}

/// Sub-buckets per octave: a bucket is at most 1/32 = 3.1 % wide.
const SUB_BITS: u32 = 5;
/// Values from 2^10 ns (about 1 us) to 2^34 ns (17 s); outside they count at the ends.
const OCTAVE_MIN: u32 = 10;
const OCTAVES: usize = 24;
/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = OCTAVES << SUB_BITS;

/// A log-linear latency histogram with one writer: 768 counters, relative width 3.1 %.
#[derive(Debug)]
pub struct Histogram([AtomicU32; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Histogram {
    /// Counts one latency, nanoseconds. Only the owning shard calls this.
    pub fn record(&self, ns: u64) {
        let c = &self.0[bucket(ns)];
        c.store(c.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// The count in a bucket; wraps at 2^32, so readers take wrapping differences.
    #[must_use]
    pub fn count(&self, bucket: usize) -> u32 {
        self.0[bucket].load(Relaxed)
    }
}

/// The bucket of a latency.
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    if ns < 1 << OCTAVE_MIN {
        return 0;
    }
    let octave = ns.ilog2();
    let sub = (ns >> (octave - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    let at = (((octave - OCTAVE_MIN) as usize) << SUB_BITS) + sub;
    if at < BUCKETS { at } else { BUCKETS - 1 }
}

/// The middle of a bucket, nanoseconds.
#[must_use]
pub const fn bucket_ns(bucket: usize) -> u64 {
    let octave = OCTAVE_MIN + (bucket >> SUB_BITS) as u32;
    let sub = (bucket & ((1 << SUB_BITS) - 1)) as u64;
    (1 << octave) + (sub << (octave - SUB_BITS)) + (1 << (octave - SUB_BITS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_own_middle() {
        for b in 0..BUCKETS {
            assert_eq!(bucket(bucket_ns(b)), b, "bucket {b}");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_bucket_is_narrow() {
        for ns in [2_000_u64, 12_345, 1_000_000, 999_999_999] {
            let middle = bucket_ns(bucket(ns));
            assert!(middle.abs_diff(ns) * 60 <= ns, "{ns} became {middle}");
        }
    }
}
