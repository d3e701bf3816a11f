//! How a pool selects among its servers: settings only; `balance` selects.

use crate::base::time::TickDelta;
use crate::rules::script::FunctionId;

/// How a pool selects a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The policy.
    pub kind: Kind,
    /// Apply it only to the servers of the lowest `order` that has a usable one.
    pub ordered: bool,
    /// What the hashed policies hash.
    pub hash_key: HashKey,
    /// Skip a server with more than this times its fair share of the outstanding queries.
    pub bounded: Option<f64>,
    /// Mixed into every hash (`setWHashedPerturbation`).
    pub seed: u32,
    /// Settings of [`Kind::Concentrate`].
    pub concentrate: Concentrate,
}

/// The policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fewest outstanding; then lowest order; then lowest latency.
    LeastOutstanding,
    /// The first by order within its `qps`; when all exceed theirs: leastOutstanding.
    FirstAvailable,
    /// In turn.
    RoundRobin,
    /// Random by weight.
    WRandom,
    /// By hash, in proportion to the weights.
    WHashed,
    /// By consistent hash: the loss of a server moves only its own share.
    CHashed,
    /// Lowest order group, random by weight, without servers that a tag of the query names.
    OrderedWRandUntag,
    /// The better of two random servers.
    P2c,
    /// As few servers as can take the load.
    Concentrate,
    /// A function of the configuration; when it selects none: leastOutstanding.
    Lua(FunctionId),
}

/// What the hashed policies hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The whole name, case-folded.
    QName,
    /// Its last labels, so that a zone's names share a server's cached delegation.
    Zone(u8),
    /// The client's address.
    Client,
    /// The client's network: prefix lengths for IPv4 and IPv6.
    ClientPrefix(u8, u8),
}

/// Settings of `concentrate`; tuning.md has the measured effect of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Concentrate {
    /// A server is full when the latency of its fast responses is above this times its own floor
    /// ...
    pub full_factor: f64,
    /// ... plus this.
    pub full_margin: TickDelta,
    /// Or when this share of queries times out in a second, parts per million.
    pub full_timeouts_ppm: u32,
    /// Cap on a full server, as a factor of its current rate.
    pub cap_factor: f64,
    /// The cap grows by this factor every `raise_interval` while latency is good.
    pub raise_factor: f64,
    /// Interval of raises.
    pub raise_interval: TickDelta,
    /// Latency is good below this times its floor.
    pub good_factor: f64,
    /// A server is closed only if the others stay under this part of their proven rate.
    pub shrink_load: f64,
    /// And only after that has been so for this time.
    pub shrink_after: TickDelta,
    /// First share of a joining server.
    pub join_share: f64,
    /// Interval in which that share doubles.
    pub join_double: TickDelta,
    /// Random share of queries that keeps the next server warm.
    pub standby_share: f64,
    /// How long the load spreads over all survivors after a death.
    pub spread_after_death: TickDelta,
    /// Window of one latency reading.
    pub window: TickDelta,
    /// The floor is the lowest reading of this span.
    pub floor_span: TickDelta,
}

/// The source of each value: (m) measurements with real resolvers, (s) what the simulation of
/// `tests/concentrate.rs` shows at this value. Only `standby_share` was compared with another value
/// there; the others are starting values that held.
impl Default for Concentrate {
    fn default() -> Self {
        Self {
            // (m) The median of the hits stayed within 1.3 of its floor up to 65 % of a CPU, and
            // 10 % more load took p90 from 2 to 100 ms. (s) The second server opens when the first
            // is about 70 % busy, and its median never doubles.
            full_factor: 1.5,
            // Before four unbound on a shared host, a margin of 50 us mistook the host's own
            // scheduling for a full server and spread the load; a server that is really full leaves
            // its floor by tens of milliseconds within a second.
            full_margin: TickDelta::from_us(1_000),
            // Its own only: timeouts that its peers have too are caused by the authority.
            full_timeouts_ppm: 10_000,
            // By arithmetic: 70 % busy becomes 56 %, where (m) the median is near its floor.
            cap_factor: 0.8,
            // (s) Far slower than a cut: under an even load the first's share moves by 0.15 in all
            // within 140 s.
            raise_factor: 1.05,
            raise_interval: TickDelta::from_ms(10_000),
            // (m) What a server shows at about half of its CPU: raises end there.
            good_factor: 1.2,
            // Unproven: meant to keep servers over a load that swings by 30 % within a minute.
            shrink_load: 0.7,
            shrink_after: TickDelta::from_ms(60_000),
            // (m) A cold server is full at under half of what a warm one bears. (s) From 8 %, doubling
            // per 15 s (a quarter of a one-minute TTL), a server returns to a load that
            // would have melted it cold, and the median stays under twice what it was.
            join_share: 0.08,
            join_double: TickDelta::from_ms(15_000),
            // (s) 2 % costs 0.6 points of the pool's hit rate, 1 % half of it. (m) 1 % already
            // brings the misses after a death from 38 to 28 %.
            standby_share: 0.01,
            // (s) The caches of an even spread are warm after 20 s.
            spread_after_death: TickDelta::from_ms(30_000),
            window: TickDelta::from_ms(200),
            floor_span: TickDelta::from_ms(600_000),
        }
    }
}

impl Policy {
    /// Returns a policy with every option at its default. `concentrate` hashes the zone (the last
    /// two labels), so that the names of one delegation stay together; the others hash the qname.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let hash_key = if kind == Kind::Concentrate { HashKey::Zone(2) } else { HashKey::QName };
        Self { kind, ordered: false, hash_key, bounded: None, seed: 0, concentrate: Concentrate::default() }
    }

    /// Returns whether a server gets queries only when those of a lower order cannot take them, as they are
    /// better. `concentrate` takes all for equally good.
    #[must_use]
    pub const fn prefers_by_order(&self) -> bool {
        match self.kind {
            Kind::FirstAvailable | Kind::OrderedWRandUntag => true,
            Kind::Concentrate
            | Kind::LeastOutstanding
            | Kind::RoundRobin
            | Kind::WRandom
            | Kind::WHashed
            | Kind::CHashed
            | Kind::P2c
            | Kind::Lua(_) => self.ordered,
        }
    }
}
