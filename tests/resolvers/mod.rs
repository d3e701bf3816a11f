//! Caching resolvers in virtual time, behind the real selector and the real controller.
//!
//! Each resolver has one CPU with a queue of work, a cache with TTLs, and an authority one round
//! trip away, which it asks once for each missing name and zone. Names are queried with a Zipf
//! distribution (exponent 1.0). The costs were measured on real resolvers (one of four at 10,000
//! queries per second: 25 µs of CPU per query, roundrobin 40; saturated at 15,000 with a cold
//! cache, 43 % busy at 16,000 with a warm one) and doubled, since the rate is halved to save real
//! time; the hit rates are the same with half the names. Not modelled: caches that are too small,
//! retransmissions, several cores.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use dnslob::balance::{Balancer, Subject};
use dnslob::base::addr::{BackendSlot, Endpoint, PoolSlot};
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::control::concentrate::ConcentrateDriver;
use dnslob::model::Snapshot;
use dnslob::model::policy::Policy;
use dnslob::stats::histogram::{BUCKETS, bucket, bucket_ns};
use dnslob::stats::live::{LiveState, State};

use crate::backends;

/// Microseconds and seconds of the virtual clock.
const US: u64 = 1_000;
pub(crate) const S: u64 = 1_000_000_000;
/// The number of names, and of the zones that they belong to.
const NAMES: u32 = 500_000;
const ZONES: u32 = NAMES / 20;
/// CPU time of an answer from the cache, of a query to the authority with its answer, and of a
/// wake-up.
const HIT: u64 = 8 * US;
const ASK: u64 = 50 * US;
const WAKE: u64 = 10 * US;
/// The idle time after which a wake-up costs its full time.
const ASLEEP: u64 = 600 * US;
/// One-way latency to a resolver.
const NET: u64 = 200 * US;
/// The work that fits into a resolver's socket buffer.
const QUEUE_MAX: u64 = 400_000 * US;
const TIMEOUT: u64 = 2 * S;

/// An event for the resolvers during a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// Queries per second, reached linearly over the given seconds.
    Rate(f64, u64),
    /// The round-trip time to the authority.
    Authority(u64),
    /// The authority stops answering for this percentage of the zones.
    DeadZones(u32),
    /// The server stops answering; the health check has not noticed yet.
    Freeze(u16),
    /// The health check has noticed the failure.
    Down(u16),
    /// The server is back with an empty cache.
    Up(u16),
    /// The host delays answers of all servers by up to these microseconds, in this percentage of
    /// spans of three seconds.
    Noise(u64, u32),
    /// The same for one server.
    OwnNoise(u16, u64),
}

/// One second of a run.
#[derive(Clone, Debug)]
pub(crate) struct Second {
    pub queries: u32,
    pub hits: u32,
    pub asked: u32,
    pub lost: u32,
    pub sent: Vec<u32>,
    pub cpu: Vec<u64>,
    latencies: Vec<u32>,
}

/// The seconds of a run.
#[derive(Debug)]
pub(crate) struct Run(pub Vec<Second>);

impl Run {
    /// Sums the seconds `from..to`.
    pub(crate) fn sum(&self, from: usize, to: usize) -> Second {
        let mut sum = Second::new(self.0[0].sent.len());
        for s in &self.0[from..to] {
            sum.queries += s.queries;
            sum.hits += s.hits;
            sum.asked += s.asked;
            sum.lost += s.lost;
            sum.sent.iter_mut().zip(&s.sent).for_each(|(a, b)| *a += b);
            sum.cpu.iter_mut().zip(&s.cpu).for_each(|(a, b)| *a += b);
            sum.latencies.iter_mut().zip(&s.latencies).for_each(|(a, b)| *a += b);
        }
        sum
    }

    /// Returns the worst median of any second in `from..to`, microseconds.
    pub(crate) fn worst_p50_us(&self, from: usize, to: usize) -> u64 {
        self.0[from..to].iter().map(|s| s.quantile_us(0.5)).max().unwrap_or(0)
    }
}

impl Second {
    fn new(servers: usize) -> Self {
        Self {
            queries: 0,
            hits: 0,
            asked: 0,
            lost: 0,
            sent: vec![0; servers],
            cpu: vec![0; servers],
            latencies: vec![0; BUCKETS],
        }
    }

    pub(crate) fn hit_rate(&self) -> f64 {
        f64::from(self.hits) / f64::from(self.queries.max(1))
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.iter().sum::<u64>() as f64 / US as f64 / f64::from(self.queries.max(1))
    }

    pub(crate) fn share(&self, server: usize) -> f64 {
        f64::from(self.sent[server]) / f64::from(self.sent.iter().sum::<u32>().max(1))
    }

    pub(crate) fn quantile_us(&self, quantile: f64) -> u64 {
        let rank = f64::from(self.latencies.iter().sum::<u32>()) * quantile;
        let mut below = 0.0;
        let at = self.latencies.iter().position(|n| {
            below += f64::from(*n);
            below > rank
        });
        at.map_or(0, bucket_ns) / US
    }
}

/// The parameters of a run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub policy: Policy,
    pub servers: u16,
    /// The factor by which the CPUs are slower than measured.
    pub slow: u64,
    pub rate: f64,
    pub seconds: u64,
    pub events: Vec<(u64, Event)>,
    pub seed: u64,
}

#[derive(Debug, Default)]
struct Resolver {
    /// When each name and zone expires from the cache.
    names: Vec<u64>,
    zones: Vec<u64>,
    /// Queries that wait for a name.
    waiting: BTreeMap<u32, Vec<u32>>,
    busy_until: u64,
    cpu: u64,
    frozen: bool,
    life: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Arrive,
    Batch,
    Script(usize),
    /// The authority's answer about a zone (first) or a name, for the given incarnation of a
    /// resolver.
    Heard {
        server: u16,
        name: u32,
        life: u32,
        zone: bool,
    },
    Answer(u32),
}

#[derive(Clone, Copy, Debug)]
struct Query {
    slot: BackendSlot,
    sent: u64,
    open: bool,
}

struct Sim {
    scenario: Scenario,
    snapshot: Snapshot,
    live_state: Arc<LiveState>,
    balancer: Balancer,
    driver: ConcentrateDriver,
    rng: ShardRng,
    now: u64,
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    scheduled: u64,
    resolvers: Vec<Resolver>,
    queries: Vec<Query>,
    free: Vec<u32>,
    expiring: VecDeque<(u64, u32)>,
    authority: u64,
    dead_zones: u32,
    noise: (u64, u32),
    own_noise: Option<(u16, u64)>,
    rate: (f64, f64, u64, u64),
    run: Vec<Second>,
    second: Second,
    client: Endpoint,
}

/// Runs a scenario.
pub(crate) fn play(scenario: &Scenario) -> Run {
    let live_state = Arc::new(LiveState::new(1, 16));
    let snapshot = backends::snapshot(scenario.policy.clone(), scenario.servers);
    (0..scenario.servers).for_each(|s| live_state.set_state(BackendSlot(s), State::Up));
    let cold = || Resolver {
        names: vec![0; NAMES as usize + 1],
        zones: vec![0; ZONES as usize],
        ..Resolver::default()
    };
    let servers = usize::from(scenario.servers);
    let mut sim = Sim {
        balancer: Balancer::new(Arc::clone(&live_state), 0),
        driver: ConcentrateDriver::new(),
        rng: ShardRng::from_seed(scenario.seed),
        now: 0,
        due: BinaryHeap::new(),
        scheduled: 0,
        resolvers: (0..servers).map(|_| cold()).collect(),
        queries: Vec::new(),
        free: Vec::new(),
        expiring: VecDeque::new(),
        authority: 20_000 * US,
        dead_zones: 0,
        noise: (0, 0),
        own_noise: None,
        rate: (scenario.rate, scenario.rate, 0, 1),
        run: Vec::new(),
        second: Second::new(servers),
        client: Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 53))),
        scenario: scenario.clone(),
        snapshot,
        live_state,
    };
    sim.play();
    Run(sim.run)
}

impl Sim {
    fn play(&mut self) {
        self.at(1, Due::Batch);
        self.at(2, Due::Arrive);
        for script in 0..self.scenario.events.len() {
            self.at(self.scenario.events[script].0 * S, Due::Script(script));
        }
        while let Some(Reverse((now, _, due))) = self.due.pop() {
            if now >= self.scenario.seconds * S {
                break;
            }
            self.now = now;
            match due {
                Due::Arrive => self.arrive(),
                Due::Batch => self.batch(),
                Due::Script(at) => self.script(self.scenario.events[at].1),
                Due::Heard { server, name, life, zone } => self.heard(server, name, life, zone),
                Due::Answer(query) => self.answer(query),
            }
        }
        let second = std::mem::replace(&mut self.second, Second::new(self.resolvers.len()));
        self.run.push(second);
    }

    fn at(&mut self, time: u64, due: Due) {
        self.scheduled += 1;
        self.due.push(Reverse((time, self.scheduled, due)));
    }

    /// Runs every millisecond: a batch of the shard, timeouts, and the controller when it is due.
    fn batch(&mut self) {
        while let Some((sent, query)) = self.expiring.front().copied() {
            if sent + TIMEOUT > self.now {
                break;
            }
            self.expiring.pop_front();
            let q = self.queries[query as usize];
            if q.open && q.sent == sent {
                self.second.lost += 1;
                self.live_state.shards()[0].backend(q.slot).timeouts.add(1);
                self.balancer.settled(q.slot, None);
                self.close(query);
            }
        }
        self.balancer.publish();
        self.driver.tick(Tick(self.now), &self.snapshot, &self.live_state);
        self.balancer.begin_batch(Tick(self.now), &self.snapshot);
        if self.now / S > self.run.len() as u64 {
            for (cpu, r) in self.second.cpu.iter_mut().zip(&mut self.resolvers) {
                *cpu = std::mem::take(&mut r.cpu);
            }
            let second = std::mem::replace(&mut self.second, Second::new(self.resolvers.len()));
            self.run.push(second);
        }
        self.at(self.now + 1_000 * US, Due::Batch);
    }

    fn script(&mut self, event: Event) {
        match event {
            Event::Rate(rate, over) => self.rate = (self.rate_now(), rate, self.now, (over * S).max(1)),
            Event::Authority(us) => self.authority = us * US,
            Event::DeadZones(part) => self.dead_zones = part,
            Event::Noise(us, part) => self.noise = (us * US, part),
            Event::OwnNoise(server, us) => self.own_noise = Some((server, us * US)),
            Event::Freeze(s) => self.resolvers[usize::from(s)].frozen = true,
            Event::Down(s) => self.live_state.set_state(BackendSlot(s), State::Down),
            Event::Up(s) => {
                let r = &mut self.resolvers[usize::from(s)];
                r.names.fill(0);
                r.zones.fill(0);
                r.waiting.clear();
                r.life += 1;
                r.frozen = false;
                r.busy_until = self.now;
                self.live_state.set_state(BackendSlot(s), State::Up);
            }
        }
    }

    fn rate_now(&self) -> f64 {
        let (from, to, since, over) = self.rate;
        let part = ((self.now - since) as f64 / over as f64).min(1.0);
        from + (to - from) * part
    }

    fn arrive(&mut self) {
        let gap = -uniform(&mut self.rng).ln() / self.rate_now();
        self.at(self.now + (gap * S as f64) as u64, Due::Arrive);
        // The logarithm of the rank is uniform: Zipf 1.0 except for the first few names.
        let name = (f64::from(NAMES).ln() * uniform(&mut self.rng)).exp() as u32;
        let qname = qname(name);
        let subject = Subject { qname: &qname, client: &self.client };
        self.second.queries += 1;
        let slot = self.balancer.select(&self.snapshot, PoolSlot(0), &subject, &[], &mut self.rng);
        let Some(slot) = slot else {
            self.second.lost += 1;
            return;
        };
        self.balancer.claimed(slot);
        self.live_state.shards()[0].backend(slot).queries.add(1);
        self.second.sent[slot.index()] += 1;
        let query = self.open(slot);
        self.ask(slot.0, name, query);
    }

    fn ask(&mut self, server: u16, name: u32, query: u32) {
        let now = self.now;
        let slow = self.scenario.slow;
        let r = &mut self.resolvers[usize::from(server)];
        if r.frozen || r.busy_until > now + QUEUE_MAX {
            return;
        }
        if r.names[name as usize] > now {
            self.second.hits += 1;
            let done = r.work(now, HIT * slow, slow);
            let delay = self.delay(server);
            self.at(done + NET + delay, Due::Answer(query));
            return;
        }
        let asked = r.waiting.contains_key(&name);
        r.waiting.entry(name).or_default().push(query);
        let done = r.work(now, (HIT + if asked { 0 } else { ASK }) * slow, slow);
        if !asked {
            let (life, zone) = (r.life, r.zones[zone_of(name) as usize] <= now);
            self.second.asked += 1;
            self.at(done + self.authority, Due::Heard { server, name, life, zone });
        }
    }

    fn heard(&mut self, server: u16, name: u32, life: u32, zone: bool) {
        let (now, slow, authority) = (self.now, self.scenario.slow, self.authority);
        let dead = zone_of(name) % 100 < self.dead_zones;
        let r = &mut self.resolvers[usize::from(server)];
        if r.frozen || r.life != life {
            return;
        }
        if dead {
            // The next query for the name asks again.
            r.waiting.remove(&name);
            return;
        }
        if zone {
            r.zones[zone_of(name) as usize] = now + 60 * S;
            // Receives the delegation and asks for the name.
            let done = r.work(now, ASK * slow, slow);
            self.second.asked += 1;
            self.at(done + authority, Due::Heard { server, name, life, zone: false });
            return;
        }
        r.names[name as usize] = now + (10 + u64::from(mix(name) % 21)) * S;
        let mut done = r.work(now, ASK * slow, slow);
        for query in r.waiting.remove(&name).unwrap_or_default() {
            let r = &mut self.resolvers[usize::from(server)];
            done = done.max(r.work(now, HIT * slow / 4, slow));
            let delay = self.delay(server);
            self.at(done + NET + delay, Due::Answer(query));
        }
    }

    /// Returns how long the host delays an answer.
    fn delay(&mut self, server: u16) -> u64 {
        let (most, part) = self.noise;
        let span = u32::try_from(self.now / (3 * S)).unwrap_or(0);
        let common = if mix(span) % 100 < part { most } else { 0 };
        let own = self.own_noise.filter(|(noisy, _)| *noisy == server).map_or(0, |(_, most)| most);
        ((common + own) as f64 * uniform(&mut self.rng)) as u64
    }

    fn answer(&mut self, query: u32) {
        let q = self.queries[query as usize];
        // The query of a late answer is gone; its number may be in use again.
        if !q.open || self.now - q.sent > TIMEOUT || self.now < q.sent + NET {
            return;
        }
        let latency = self.now - q.sent;
        let stats = self.live_state.shards()[0].backend(q.slot);
        stats.responses.add(1);
        stats.latency.record(latency);
        self.second.latencies[bucket(latency)] += 1;
        self.balancer.settled(q.slot, Some(TickDelta(latency)));
        self.close(query);
    }

    fn open(&mut self, slot: BackendSlot) -> u32 {
        let query = Query { slot, sent: self.now, open: true };
        let at = self.free.pop().unwrap_or_else(|| {
            self.queries.push(query);
            u32::try_from(self.queries.len() - 1).expect("few queries at once")
        });
        self.queries[at as usize] = query;
        self.expiring.push_back((self.now, at));
        at
    }

    fn close(&mut self, query: u32) {
        self.queries[query as usize].open = false;
        self.free.push(query);
    }
}

impl Resolver {
    /// Queues work and returns when it is finished.
    fn work(&mut self, now: u64, cost: u64, slow: u64) -> u64 {
        let asleep = now.saturating_sub(self.busy_until).min(ASLEEP);
        let wake = WAKE * slow * asleep / ASLEEP;
        self.busy_until = self.busy_until.max(now) + wake + cost;
        self.cpu += wake + cost;
        self.busy_until
    }
}

fn uniform(rng: &mut ShardRng) -> f64 {
    (f64::from(rng.u32()) + 0.5) / 4_294_967_296.0
}

fn mix(n: u32) -> u32 {
    let n = (n ^ (n >> 16)).wrapping_mul(0x7feb_352d);
    let n = (n ^ (n >> 15)).wrapping_mul(0x846c_a68b);
    n ^ (n >> 16)
}

fn zone_of(name: u32) -> u32 {
    mix(name ^ 0x5a5a) % ZONES
}

/// Encodes `nNNNNNNN.zNNNNNN.test` in wire format.
fn qname(name: u32) -> [u8; 22] {
    let mut wire = *b"\x08n0000000\x07z000000\x04test\0"[..].first_chunk().expect("22 bytes");
    let digits = |field: &mut [u8], mut n: u32| {
        for d in field.iter_mut().rev() {
            *d = b'0' + (n % 10) as u8;
            n /= 10;
        }
    };
    digits(&mut wire[2..9], name);
    digits(&mut wire[11..17], zone_of(name));
    wire
}
