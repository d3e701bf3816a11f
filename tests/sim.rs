//! Runs real shards in a simulated network and compares them with a model of all queries: no query
//! is lost without need, no client receives an answer of another, and everything is accounted for.
//!
//! A failure prints its seed; `SIM_SEED=` with that number replays only that run.

#[path = "sim/mixed.rs"]
mod mixed;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dnslob::base::addr::{BackendSlot, Client};
use dnslob::base::rng::ShardRng;
use dnslob::base::time::TickDelta;
use dnslob::engine::sim::{Path, Port, Seen, Server, Sim, sibling};
use dnslob::model::Retry;
use dnslob::model::policy::{Kind, Policy};
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::live::{LiveState, PPM, State};
use dnslob::wire::header;
use dnslob::wire::header::Header;
use dnslob::wire::query::Question;
use support::config::{TestConfig, backend, client};
use support::message::{message, name};

/// The number of backend slots: few, so that they are reused.
const SLOTS: usize = 8;
const CLIENTS: u32 = 40;
/// A response code that only forged answers have.
const FORGED: u8 = 15;
const KINDS: [Kind; 9] = [
    Kind::LeastOutstanding,
    Kind::FirstAvailable,
    Kind::RoundRobin,
    Kind::WRandom,
    Kind::WHashed,
    Kind::CHashed,
    Kind::OrderedWRandUntag,
    Kind::P2c,
    Kind::Concentrate,
];

/// Runs `trial` for every seed, or for the seed in `SIM_SEED`.
fn seeds(count: u64, trial: impl Fn(u64)) {
    let range = match std::env::var("SIM_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("SIM_SEED is a number");
            seed..=seed
        }
        Err(_) => 1..=count,
    };
    for seed in range {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| trial(seed))) {
            eprintln!("replay with SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

/// A query of the model, perhaps retransmitted by its client.
#[derive(Debug)]
struct Ask {
    client: Client,
    bytes: Vec<u8>,
    sent: u32,
    heard: u32,
}

struct Model {
    config: TestConfig,
    live_state: Arc<LiveState>,
    sim: Sim,
    rng: ShardRng,
    servers: BTreeMap<SocketAddr, Server>,
    asks: Vec<Ask>,
    /// Messages that are not queries; they count as received, too.
    noise: u64,
    /// Oversized datagrams, which are dropped before they count as queries.
    oversized: u64,
    /// The last query that a backend received.
    last: Option<(Port, Vec<u8>)>,
    made: usize,
    digest: u64,
}

impl Model {
    fn new(seed: u64, shards: usize, backends: usize, configure: impl Fn(&mut TestConfig)) -> Self {
        let mut config = TestConfig::new(backends);
        configure(&mut config);
        let live_state = config.live_state(shards, SLOTS);
        let sim = Sim::new(seed, &live_state, config.snapshot());
        let servers = config
            .backends
            .iter()
            .flatten()
            .map(|b| (b.address, Server::steady(TickDelta::from_us(200))))
            .collect();
        Self {
            config,
            live_state,
            sim,
            rng: ShardRng::from_seed(seed ^ 0x5eed),
            servers,
            asks: Vec::new(),
            noise: 0,
            oversized: 0,
            last: None,
            made: backends,
            digest: 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(u32::try_from(bound).expect("a small bound")) as usize
    }

    /// Sends a new query from a random client, with its own name in random case.
    fn ask(&mut self) {
        let client = client(&format!("127.0.0.2:{}", 1_024 + self.rng.below(CLIENTS)));
        let mut bytes = message("* RD");
        bytes[..2].copy_from_slice(&self.rng.id().to_be_bytes());
        bytes[5] = 1;
        bytes.extend(name(&format!("q{}.zone{}.example", self.asks.len(), self.rng.below(20))));
        for byte in &mut bytes[header::LEN..] {
            if byte.is_ascii_lowercase() && self.rng.chance(PPM / 2) {
                byte.make_ascii_uppercase();
            }
        }
        bytes.extend([0, 1, 0, 1]);
        self.asks.push(Ask { client, bytes, sent: 0, heard: 0 });
        self.send(self.asks.len() - 1);
    }

    /// Sends a query for the first time or again.
    fn send(&mut self, at: usize) {
        let shard = self.below(self.live_state.shards().len());
        let ask = &mut self.asks[at];
        ask.sent += 1;
        self.sim.ask(shard, ask.client, &ask.bytes);
    }

    /// Advances the time. The backends answer their queries, and the answers to clients are
    /// checked.
    fn pass(&mut self, span: TickDelta) {
        let end = self.sim.now() + span;
        while let Some(seen) = self.sim.next(end) {
            self.digest = digest(self.digest, self.sim.now().0);
            match seen {
                Seen::Query { backend, port, bytes } => self.at_backend(backend, port, bytes),
                Seen::Answer { client, bytes } => self.at_client(client, &bytes),
                Seen::Relayed { .. } | Seen::Connect { .. } | Seen::Bytes { .. } => panic!("{seen:?}"),
                Seen::End { .. } | Seen::Reset { .. } => panic!("{seen:?}"),
            }
        }
    }

    fn at_backend(&mut self, backend: SocketAddr, port: Port, bytes: Vec<u8>) {
        bytes.iter().for_each(|o| self.digest = digest(self.digest, u64::from(*o)));
        if let Some((after, answer)) = self.servers[&backend].answer(&bytes, &mut self.rng) {
            self.sim.answer(port, after, &answer);
        }
        self.last = Some((port, bytes));
    }

    /// The main check: this client sent that query under this id, and has received no more answers
    /// than it sent queries.
    fn at_client(&mut self, client: Client, bytes: &[u8]) {
        bytes.iter().for_each(|o| self.digest = digest(self.digest, u64::from(*o)));
        let head = Header::parse(bytes).expect("a header");
        assert!(head.is_response());
        assert_ne!(head.rcode(), FORGED, "a forged answer got through");
        let question = Question::parse(bytes).expect("a question");
        let label = String::from_utf8_lossy(&question.qname[2..1 + usize::from(question.qname[0])]);
        let ask = &mut self.asks[label.parse::<usize>().expect("a query's number")];
        assert_eq!(client, ask.client, "received by another client");
        assert_eq!(bytes[..2], ask.bytes[..2], "under another id");
        assert_eq!(bytes[header::LEN..question.end], ask.bytes[header::LEN..question.end]);
        ask.heard += 1;
        assert!(ask.heard <= ask.sent, "answered {} times, asked {}", ask.heard, ask.sent);
    }

    fn publish(&mut self) {
        self.config.generation += 1;
        self.sim.publish(self.config.snapshot());
    }

    /// Adds a backend if a slot is free: in no configuration and used by no shard.
    fn add(&mut self) {
        let free = (0..SLOTS).find(|at| {
            self.config.backends.get(*at).is_none_or(Option::is_none)
                && self.live_state.shards().iter().all(|s| s.attached[*at].load(Relaxed) == 0)
        });
        let Some(at) = free else { return };
        let mut fresh = backend(self.made);
        self.made += 1;
        fresh.slot = BackendSlot(at as u16);
        fresh.sockets = 1 + self.rng.below(4) as u8;
        self.servers.insert(fresh.address, Server::steady(TickDelta::from_us(200)));
        if self.config.backends.len() <= at {
            self.config.backends.resize(at + 1, None);
        }
        self.config.backends[at] = Some(fresh);
        self.live_state.set_state(BackendSlot(at as u16), State::Up);
    }

    /// Removes a backend, but never the last one.
    fn remove(&mut self) {
        let present = self.config.backends.iter().flatten().count();
        let at = self.below(self.config.backends.len());
        if present > 1 {
            self.config.backends[at] = None;
        }
    }

    /// Makes a random change to the configuration.
    fn reload(&mut self) {
        match self.rng.below(5) {
            0 => self.add(),
            1 => self.remove(),
            2 => {
                self.remove();
                self.add();
            }
            3 => self.config.policy = Policy::new(KINDS[self.below(KINDS.len())]),
            _ => {
                for b in self.config.backends.iter_mut().flatten() {
                    b.weight = 1 + self.rng.below(10);
                    b.order = self.rng.below(3) as i32;
                    b.timeout = TickDelta::from_ms(1_500 + u64::from(self.rng.below(1_000)));
                }
            }
        }
        self.publish();
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.live_state.shards().iter().map(|s| s.dropped(reason).get()).sum()
    }

    fn heard(&self) -> u64 {
        self.asks.iter().map(|a| u64::from(a.heard)).sum()
    }

    fn sent(&self) -> u64 {
        self.asks.iter().map(|a| u64::from(a.sent)).sum()
    }

    /// Waits until every query is finished, then checks the sums.
    fn finish(&mut self) {
        // Twice the longest timeout, plus the idle wake-ups of the shards.
        self.pass(TickDelta::from_ms(7_000));
        for (index, shard) in self.sim.shards().enumerate() {
            shard.check_invariants();
            let stats = &self.live_state.shards()[index];
            let [claimed, settled, expired, released] = shard.totals();
            assert_eq!(shard.outstanding(), 0, "shard {index} drains");
            assert_eq!(shard.next_deadline(), None, "shard {index} waits for nothing");
            assert_eq!(claimed, settled + expired + released);
            let lost_the_race = settled - stats.responses.get();
            assert!(
                lost_the_race <= stats.retries.get(),
                "what is settled is delivered, or had a second try"
            );
            assert_eq!(stats.outstanding_total.get(), 0);
            let sent: u64 = (0..SLOTS).map(|at| u64::from(stats.sent[at].load(Relaxed))).sum();
            assert_eq!(sent, claimed, "the qps count equals the claimed queries");
            let queries = ended(&|reason| stats.dropped(reason).get())
                + stats.responses.get()
                + stats.self_answered.get();
            assert_eq!(stats.queries.get(), queries, "each query of shard {index} has one end");
        }
        for at in 0..SLOTS {
            assert_eq!(self.live_state.outstanding(BackendSlot(at as u16)), 0, "slot {at} is idle");
        }
        let arrived: u64 = self.live_state.shards().iter().map(|s| s.queries.get()).sum();
        assert_eq!(arrived + self.oversized, self.sent() + self.noise, "all that was sent arrived");
        let answered: u64 =
            self.live_state.shards().iter().map(|s| s.responses.get() + s.self_answered.get()).sum();
        assert!(self.heard() <= answered && answered <= self.heard() + self.noise);
    }

    /// Checks that every query was answered and none was dropped.
    fn expect_all_answered(&self) {
        for ask in &self.asks {
            assert_eq!(ask.heard, ask.sent, "{ask:?}");
        }
        assert_eq!(ended(&|reason| self.dropped(reason)), 0, "no query is dropped");
    }
}

/// Returns the number of dropped queries.
fn ended(dropped: &dyn Fn(DropReason) -> u64) -> u64 {
    [
        DropReason::Acl,
        DropReason::QueryShort,
        DropReason::QueryIsResponse,
        DropReason::QueryTruncated,
        DropReason::QueryMalformed,
        DropReason::QueryEmpty,
        DropReason::NoServer,
        DropReason::OutstandingFull,
        DropReason::QuerySendError,
        DropReason::Timeout,
    ]
    .into_iter()
    .map(dropped)
    .sum()
}

fn digest(before: u64, value: u64) -> u64 {
    (before ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
}

/// A perfect network with slow but correct servers, reloaded continuously.
#[test]
fn reloads_lose_no_query() {
    seeds(60, |seed| {
        let mut rng = ShardRng::from_seed(seed);
        let (shards, backends) = (1 + rng.below(3) as usize, 1 + rng.below(5) as usize);
        let kind = KINDS[rng.below(9) as usize];
        let retry = rng.chance(PPM / 2).then(|| Retry {
            after: TickDelta::from_ms(20 + u64::from(rng.below(300))),
            budget_ppm: rng.below(PPM),
        });
        let mut model = Model::new(seed, shards, backends, |config| {
            config.policy = Policy::new(kind);
            config.retry = retry;
        });
        model.sim.set_wake_lag(TickDelta::from_us(300));
        model.sim.set_backends(Path {
            delay: TickDelta::from_us(100),
            jitter: TickDelta::from_ms(700),
            ..Path::default()
        });
        for _ in 0..200 {
            for _ in 0..model.below(20) {
                model.ask();
            }
            let wait = u64::from(model.rng.below(40_000));
            model.pass(TickDelta::from_us(wait));
            if model.rng.chance(PPM / 8) {
                model.reload();
            }
            model.sim.shards().for_each(dnslob::shard::Shard::check_invariants);
        }
        model.finish();
        model.expect_all_answered();
    });
}

/// One server is silent but not yet down; each of its queries is retried at another server.
#[test]
fn retry_saves_the_queries_of_a_dead_server() {
    seeds(30, |seed| {
        let kind = KINDS[seed as usize % KINDS.len()];
        let mut model = Model::new(seed, 2, 3, |config| {
            config.policy = Policy::new(kind);
            config.retry = Some(Retry { after: TickDelta::from_ms(50), budget_ppm: PPM });
        });
        // The first server in order gets queries from every policy.
        let dead = model.config.backends[0].as_ref().expect("a backend").address;
        model.servers.get_mut(&dead).expect("a server").alive = false;
        for _ in 0..100 {
            for _ in 0..model.below(20) {
                model.ask();
            }
            model.pass(TickDelta::from_ms(10));
        }
        model.finish();
        model.expect_all_answered();
        let retries: u64 = model.live_state.shards().iter().map(|s| s.retries.get()).sum();
        assert!(retries > 0, "{kind:?}: some queries met the dead one");
    });
}

/// The retry budget limits the additional load on servers that do not answer.
#[test]
fn retry_stays_within_its_budget() {
    let mut model = Model::new(1, 1, 3, |config| {
        config.retry = Some(Retry { after: TickDelta::from_ms(50), budget_ppm: PPM / 10 });
    });
    model.servers.values_mut().for_each(|s| s.alive = false);
    for _ in 0..400 {
        for _ in 0..20 {
            model.ask();
        }
        model.pass(TickDelta::from_ms(5));
    }
    model.finish();
    let retries = model.live_state.shards()[0].retries.get();
    // A tenth of 8000, and the initial budget of one hundred.
    assert!((700..=900).contains(&retries), "{retries} second tries");
    assert_eq!(model.dropped(DropReason::Timeout), 8_000, "each query times out once");
}

/// All faults together.
fn storm(seed: u64) -> u64 {
    let mut rng = ShardRng::from_seed(seed);
    let (shards, backends) = (1 + rng.below(3) as usize, 1 + rng.below(5) as usize);
    let kind = KINDS[rng.below(9) as usize];
    let retry = rng
        .chance(PPM / 2)
        .then(|| Retry { after: TickDelta::from_ms(20 + u64::from(rng.below(300))), budget_ppm: 300_000 });
    let full = rng.chance(PPM / 4);
    let servfail = rng.chance(PPM / 2);
    let mut model = Model::new(seed, shards, backends, |config| {
        config.policy = Policy::new(kind);
        config.retry = retry;
        config.globals.servfail_when_no_server = servfail;
        if full {
            config.backends.iter_mut().flatten().for_each(|b| b.outstanding_max = 30);
        }
    });
    model.sim.set_wake_lag(TickDelta::from_us(300));
    model.sim.set_clients(Path {
        delay: TickDelta::from_us(50),
        jitter: TickDelta::from_ms(5),
        ..Path::default()
    });
    for _ in 0..250 {
        step(&mut model);
        model.sim.shards().for_each(dnslob::shard::Shard::check_invariants);
    }
    model.finish();
    model.digest
}

/// Does one random action.
fn step(model: &mut Model) {
    match model.rng.below(100) {
        0..50 => {
            for _ in 0..model.below(30) {
                model.ask();
            }
            let wait = u64::from(model.rng.below(20_000));
            model.pass(TickDelta::from_us(wait));
        }
        50..56 if !model.asks.is_empty() => {
            let at = model.below(model.asks.len());
            model.send(at);
        }
        50..66 => {
            let wait = u64::from(model.rng.below(400));
            model.pass(TickDelta::from_ms(wait));
        }
        66..71 => model.reload(),
        71..76 => {
            let (at, state) = (model.below(SLOTS), model.rng.below(4));
            let state = [State::Up, State::Up, State::Down, State::Draining][state as usize];
            model.live_state.set_state(BackendSlot(at as u16), state);
            if model.rng.chance(PPM / 8) {
                (0..SLOTS as u16).for_each(|at| model.live_state.set_state(BackendSlot(at), State::Down));
            }
        }
        76..82 => {
            let server = Server {
                alive: !model.rng.chance(PPM / 4),
                latency: TickDelta::from_us(u64::from(model.rng.below(2_000))),
                latency_tail: TickDelta::from_ms(u64::from(model.rng.below(1_000))),
                servfail_ppm: 100_000,
                wrong_ppm: model.rng.below(200_000),
            };
            let which = model.below(model.servers.len());
            *model.servers.values_mut().nth(which).expect("a server") = server;
        }
        82..86 => {
            let path = Path {
                delay: TickDelta::from_us(u64::from(model.rng.below(10_000))),
                jitter: TickDelta::from_ms(u64::from(model.rng.below(100))),
                loss_ppm: model.rng.below(200_000),
                twice_ppm: model.rng.below(200_000),
            };
            model.sim.set_backends(path);
        }
        86..90 => {
            let ppm = model.rng.below(2) * model.rng.below(PPM);
            model.sim.set_refusals(ppm);
            let which = model.below(model.servers.len());
            let address = *model.servers.keys().nth(which).expect("a server");
            let reachable = model.rng.chance(PPM / 2);
            model.sim.set_reachable(address, reachable);
        }
        90..96 => forge(model),
        _ => noise(model),
    }
}

/// Sends a forged answer that is wrong in one detail only.
fn forge(model: &mut Model) {
    let Some((port, mut bytes)) = model.last.clone() else { return };
    bytes[2] |= header::QR;
    bytes[3] |= FORGED;
    let mut port = port;
    match model.rng.below(3) {
        0 => bytes[1] = bytes[1].wrapping_add(1 + model.rng.below(255) as u8),
        1 => port = sibling(port, (port.route.socket.number() + 1 + model.rng.below(3) as u16) % 4),
        _ => {
            // The first digit behind the q becomes a letter.
            bytes[header::LEN + 2] = b'x';
        }
    }
    model.sim.answer(port, TickDelta(0), &bytes);
}

/// Sends bytes that are not a query from an allowed address.
fn noise(model: &mut Model) {
    let length = [0, 5, 12, 40, 5_000][model.below(5)];
    let mut bytes: Vec<u8> = (0..length).map(|_| model.rng.u32() as u8).collect();
    // Bytes as long as a query have QR set.
    if let Some(flags) = bytes.get_mut(2) {
        *flags |= header::QR;
    }
    if bytes.len() > 4_096 {
        model.oversized += 1;
    }
    model.noise += 1;
    let shard = model.below(model.live_state.shards().len());
    model.sim.ask(shard, client("127.0.0.3:53"), &bytes);
}

#[test]
fn each_query_has_exactly_one_outcome() {
    seeds(120, |seed| {
        storm(seed);
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 4] {
        assert_eq!(storm(seed), storm(seed), "seed {seed}");
    }
    assert_ne!(storm(3), storm(4), "the digest sees something");
}

#[test]
fn the_simulation_injects_every_fault() {
    // Every drop reason must occur, or the test proves nothing about it.
    let mut seen = [0_u64; DropReason::ALL.len()];
    for seed in 1..=12 {
        let mut model = Model::new(seed, 2, 4, |config| {
            config.backends.iter_mut().flatten().for_each(|b| b.outstanding_max = 40);
        });
        for _ in 0..250 {
            step(&mut model);
        }
        model.finish();
        for reason in DropReason::ALL {
            seen[reason.index()] += model.dropped(reason);
        }
    }
    for reason in [
        DropReason::QueryShort,
        DropReason::QueryIsResponse,
        DropReason::Oversized,
        DropReason::NoServer,
        DropReason::OutstandingFull,
        DropReason::QuerySendError,
        DropReason::Timeout,
        DropReason::ResponseShort,
        DropReason::ResponseNotResponse,
        DropReason::ResponseLate,
        DropReason::ResponseDuplicate,
        DropReason::ResponseForeign,
        DropReason::ResponseMismatch,
        DropReason::ResponseEmpty,
    ] {
        assert!(seen[reason.index()] > 0, "{reason:?} never happened");
    }
}

/// Two shards that share only the live state keep to one server's limit together.
#[test]
fn shards_share_the_qps_limit_of_a_server() {
    const QPS: u64 = 200;
    let mut model = Model::new(5, 2, 2, |config| {
        config.policy = Policy::new(Kind::FirstAvailable);
        config.backends[0].as_mut().expect("a backend").qps = QPS as u32;
        config.backends[1].as_mut().expect("a backend").order = 2;
    });
    let first = |model: &Model| -> u64 {
        model.live_state.shards().iter().map(|s| s.backend(BackendSlot(0)).queries.get()).sum()
    };
    let mut before = 0;
    for second in 0..8 {
        // 1000 queries per second at each shard.
        for _ in 0..1_000 {
            model.ask();
            model.pass(TickDelta::from_ms(1));
        }
        let sent = first(&model) - before;
        before += sent;
        // The first second includes the burst of the bucket; the tolerance is one batch per shard.
        let most = if second == 0 { 2 * QPS } else { QPS };
        assert!((most * 97 / 100..=most + 4).contains(&sent), "{sent} in second {second}");
    }
    model.finish();
    model.expect_all_answered();
}
