//! Nanoseconds per query of the functions that a shard runs in Lua. The target for one that tests
//! the name and sets a tag is 300 ns,
//! for one of the LuaFFI family 150 ns; two shards should do 1.9 times the calls of one.

// criterion_group! makes a public function without documentation.
#![allow(missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dnslob::balance::Balancer;
use dnslob::balance::PoolView;
use dnslob::base::addr::{BackendSlot, Client, Endpoint};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::Tick;
use dnslob::config::ruleset::{FunctionKind, Interface, Recorded};
use dnslob::lua::state;
use dnslob::lua::state::Files;
use dnslob::model::Snapshot;
use dnslob::model::Source;
use dnslob::rules::context::{Environment, EvaluationContext, Facts, Script};
use dnslob::rules::limits::Limits;
use dnslob::rules::pattern::PatternCache;
use dnslob::rules::query_state::{EcsSettings, QueryState};
use dnslob::rules::script::{Candidate, FunctionId, ScriptAction};
use dnslob::stats::live::LiveState;
use support::config::{TestConfig, client};
use support::message::message;

const TAG: &str = "local suffix = newDNSName('example.com.')\n\
    addAction(AllRule(), LuaAction(function(dq)\n\
      if dq.qname:isPartOf(suffix) then dq:setTag('zone', 'example') end\n\
      return DNSAction.None, ''\n\
    end))";
const TEXT: &str = "LuaAction(function(dq)\n\
      if dq.qname:toString() == 'www.example.com.' then dq:setTag('zone', 'example') end\n\
      return DNSAction.None\nend)";
const NOTHING: &str = "LuaAction(function(dq) return DNSAction.None end)";
const POOL: &str = "LuaAction(function(dq)\n\
      if dq.qtype == DNSQType.A then return DNSAction.Pool, 'abuse' end\n\
      return DNSAction.None\nend)";
const RULE: &str = "LuaRule(function(dq) return dq.qtype == DNSQType.A and dq.remoteaddr:isIPv4() end)";
const FFI: &str = "local ffi = require('ffi') local C = ffi.C\n\
    LuaFFIAction(function(dq)\n\
      if C.dnsdist_ffi_dnsquestion_get_qtype(dq) == DNSQType.A then\n\
        C.dnsdist_ffi_dnsquestion_set_tag(dq, 'zone', 'example')\n\
      end\n\
      return DNSAction.None\nend)";
const POLICY: &str = "local turn = 0\n\
    setServerPolicyLua('turn', function(servers, dq)\n\
      turn = turn + 1\n\
      return servers[turn % #servers + 1]\nend)";
const FFI_POLICY: &str = "local C = require('ffi').C local turn = 0\n\
    setServerPolicyLuaFFI('turn', function(servers, dq)\n\
      turn = turn + 1\n\
      return turn % tonumber(C.dnsdist_ffi_servers_list_get_count(servers))\nend)";

/// What a shard has for evaluating rules on a packet.
struct World {
    snapshot: Arc<Snapshot>,
    limits: Limits,
    patterns: PatternCache,
    rng: ShardRng,
    balancer: Balancer,
    script: Box<dyn dnslob::model::ConfiguredScript>,
    query_state: QueryState,
    client: Client,
    query: Vec<u8>,
    buffer: Vec<u8>,
}

impl World {
    fn new(source: &Arc<dyn Source>) -> Self {
        let balancer = TestConfig::new(4);
        let snapshot = balancer.snapshot();
        let mut script = source.start(0).expect("a state");
        script.adopt(&snapshot, &Arc::new(LiveState::new(1, 1)));
        Self {
            snapshot,
            limits: Limits::default(),
            patterns: PatternCache::default(),
            rng: ShardRng::from_seed(1),
            balancer: Balancer::new(balancer.live_state(1, 4), 0),
            script,
            query_state: QueryState::default(),
            client: client("192.168.7.7:4000"),
            query: message("1234 RD www.example.com/A OPT=1232"),
            buffer: vec![0; 512],
        }
    }

    fn context<R>(
        &mut self,
        body: impl FnOnce(&mut dyn Script, &mut EvaluationContext<'_, '_>, &mut Environment<'_>) -> R,
    ) -> R {
        self.buffer[..self.query.len()].copy_from_slice(&self.query);
        self.query_state.reset(Tick(1), EcsSettings::default(), [1, 0]);
        let mut packet = Packet::new(&mut self.buffer, 0, self.query.len());
        let mut context = EvaluationContext {
            facts: Facts::of(packet.bytes()),
            packet: &mut packet,
            query_state: &mut self.query_state,
            client: self.client,
            local: Endpoint::from(std::net::SocketAddr::from(([127, 0, 0, 1], 53))),
            answered: None,
        };
        let mut env = Environment {
            now: Tick(1),
            chains: &self.snapshot.chains,
            settings: self.snapshot.rule_settings(),
            limits: &mut self.limits,
            rng: &mut self.rng,
            pools: &PoolView { snapshot: &self.snapshot, balancer: &self.balancer },
            script: None,
            patterns: &mut self.patterns,
        };
        body(&mut *self.script, &mut context, &mut env)
    }

    fn act(&mut self) -> Option<ScriptAction> {
        self.context(|script, context, env| script.act(FunctionId(0), context, env))
    }
}

fn source(text: &str, (kind, interface): (FunctionKind, Interface)) -> Arc<dyn Source> {
    let line = text.lines().position(|l| l.contains("function(")).unwrap_or(0) as u32 + 1;
    let recorded = Recorded { kind, interface, source: "@bench.lua".to_owned(), line };
    state::check(Files::one("bench.lua", text.as_bytes()), vec![recorded], vec![], vec![]).expect("a source")
}

fn calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("script");
    group.bench_function("(the context alone)", |b| {
        let mut world = World::new(&source(NOTHING, (FunctionKind::Action, Interface::Objects)));
        b.iter(|| world.context(|_, context, _| black_box(context.facts.qtype)));
    });
    for (name, text, kind) in ACTIONS {
        let mut world = World::new(&source(text, kind));
        group.bench_function(name, |b| b.iter(|| world.act().expect("no error")));
    }
    group.bench_function("LuaRule: type, client", |b| {
        let mut world = World::new(&source(RULE, (FunctionKind::Rule, Interface::Objects)));
        b.iter(|| {
            world.context(|script, context, env| {
                script.matches(FunctionId(0), context, env).expect("no error")
            })
        });
    });
    let servers: Vec<Candidate> = (0..4)
        .map(|at| Candidate { slot: BackendSlot(at), outstanding: 3, latency_us: 900, within_qps: true })
        .collect();
    for (name, text, kind) in [
        ("policy: in turn of 4", POLICY, (FunctionKind::Policy, Interface::Objects)),
        ("FFI policy: in turn of 4", FFI_POLICY, (FunctionKind::Policy, Interface::Ffi)),
    ] {
        let mut world = World::new(&source(text, kind));
        group.bench_function(name, |b| {
            b.iter(|| {
                world.context(|script, context, env| {
                    script.choose(FunctionId(0), &servers, context, env.now).expect("no error")
                })
            });
        });
    }
    group.finish();
}

/// Prints the least time of a call over many short runs, without the context's: this leaves out the
/// time that other processes take.
fn least(_: &mut Criterion) {
    let is_bench = std::env::args().any(|a| a == "--bench");
    let (runs, calls) = if is_bench { (2_000, 500) } else { (2, 5) };
    let least = |body: &mut dyn FnMut()| {
        let run = |_| {
            let begun = Instant::now();
            (0..calls).for_each(|_| body());
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
        };
        (0..runs).map(run).fold(f64::INFINITY, f64::min)
    };
    let mut world = World::new(&source(NOTHING, (FunctionKind::Action, Interface::Objects)));
    let context = least(&mut || {
        black_box(world.context(|_, context, _| context.facts.qtype));
    });
    println!("script/least: the context {context:.0} ns");
    for (name, text, kind) in ACTIONS {
        let mut world = World::new(&source(text, kind));
        let call = least(&mut || {
            black_box(world.act());
        });
        println!("script/least: {name} {:.0} ns", call - context);
    }
    // Each name is a string of Lua: one that is queried repeatedly is in the caches.
    let mut world = World::new(&source(TAG, (FunctionKind::Action, Interface::Objects)));
    world.query = message("1234 RD n00000.example.com/A OPT=1232");
    let mut random = 1_u32;
    let call = least(&mut || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut number = random >> 8;
        for digit in &mut world.query[14..19] {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        black_box(world.act());
    });
    println!("script/least: LuaAction: name part of, tag, of 100,000 names {:.0} ns", call - context);
}

const ACTIONS: [(&str, &str, (FunctionKind, Interface)); 5] = [
    ("LuaAction: nothing", NOTHING, (FunctionKind::Action, Interface::Objects)),
    ("LuaAction: name part of, tag", TAG, (FunctionKind::Action, Interface::Objects)),
    ("LuaAction: name as text, tag", TEXT, (FunctionKind::Action, Interface::Objects)),
    ("LuaAction: type, pool", POOL, (FunctionKind::Action, Interface::Objects)),
    ("LuaFFIAction: type, tag", FFI, (FunctionKind::Action, Interface::Ffi)),
];

/// Returns the calls per second of some shards, each in a thread with its own state.
fn throughput(source: &Arc<dyn Source>, shards: usize, calls: u32) -> f64 {
    let start = Barrier::new(shards);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shards)
            .map(|_| {
                scope.spawn(|| {
                    let mut world = World::new(source);
                    start.wait();
                    let begun = Instant::now();
                    for _ in 0..calls {
                        black_box(world.act());
                    }
                    f64::from(calls) / begun.elapsed().as_secs_f64()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a thread")).sum::<f64>()
    })
}

fn shards(_: &mut Criterion) {
    let source = source(TAG, (FunctionKind::Action, Interface::Objects));
    // `cargo test` runs this too, only to see that it works.
    let calls = if std::env::args().any(|a| a == "--bench") { 1_000_000 } else { 100 };
    let mut best = (0.0_f64, 0.0_f64);
    // The best of a few: whatever else runs on the machine only takes away.
    for _ in 0..5 {
        best.0 = best.0.max(throughput(&source, 1, calls));
        best.1 = best.1.max(throughput(&source, 2, calls));
    }
    println!("script/two shards: {:.0} calls/s, one: {:.0}, factor {:.2}", best.1, best.0, best.1 / best.0);
}

fn settings() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = benches;
    config = settings();
    targets = calls, least, shards
}
criterion_main!(benches);
