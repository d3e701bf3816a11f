//! GET /api/v2/overview: the figures of this moment, with rates over the last second.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde_json::{Value, json};

use crate::base::addr::RuleSlot;
use crate::base::time::{Tick, TickDelta};
use crate::config::functions::policies;
use crate::control::api::{Dashboard, rounded};
use crate::control::history::{QUANTILES, drops, errors, has_share};
use crate::control::stats::Reading;
use crate::control::stats::figures::Figures;
use crate::control::stats::rules::matches;
use crate::control::stats::text::{rate, state_name};
use crate::control::stats::{caches, latency};
use crate::model::{Backend, Listener, Service};
use crate::rules::{Chain, text};
use crate::stats::drop_reason::DropReason;
use crate::stats::histogram::Latency;
use crate::stats::live::{LiveState, State};
use crate::stats::registry::BackendReading;

/// Rules that are listed, those with the most hits.
const RULES_MAX: usize = 20;
/// How long that list stands: there may be a million rules to look at.
const RULES_STAND: TickDelta = TickDelta::from_ms(5_000);
/// Characters of an action.
const ACTION_CHARS: usize = 200;

/// Latencies that are listed at most.
const LATENCIES_MAX: usize = 200;
/// Bounds of the distribution of latency: half octaves, which are bounds of the histogram's buckets.
const BOUNDS: usize = 48;

/// What an overview says of the process beside its figures.
#[derive(Clone, Copy, Debug)]
pub(in crate::control) struct Standing {
    /// When it started, seconds since 1970.
    pub(in crate::control) started: u64,
    /// Whether queries are welcome.
    pub(in crate::control) ready: bool,
    /// Whether it ends.
    pub(in crate::control) draining: bool,
    /// The generation of the configuration that was read last, without what commands have changed.
    pub(in crate::control) file_generation: u64,
}

impl Dashboard {
    /// GET /api/v2/overview
    pub(in crate::control) fn overview(&mut self, figures: &Figures, standing: Standing) -> Value {
        self.rules.refresh(figures);
        let (second, span) = self.history.second();
        let shards = &figures.total.shards;
        let (recent, recent_span) = self.history.recent();
        let rates = (span.0 > 0).then(|| {
            let per_second = |count| rounded(rate(count, span));
            json!({
                "span_s": rounded(span.0 as f64 / 1e9),
                "queries": per_second(second.shards.queries),
                "answers": per_second(second.answers()),
                "drops": per_second(drops(second)),
                "errors": per_second(errors(second, &figures.snapshot)),
            })
        });
        let events: Value = self
            .events
            .latest()
            .map(|e| json!({"number": e.number, "unix": e.unix, "kind": e.kind, "text": e.text}))
            .collect();
        json!({
            "now": figures.unix,
            "started": standing.started,
            "uptime_s": figures.process.uptime_s,
            "version": env!("CARGO_PKG_VERSION"),
            "generation": figures.snapshot.generation,
            "file_generation": standing.file_generation,
            "ready": standing.ready,
            "draining": standing.draining,
            "shards": figures.live_state.shards().len(),
            "rates": rates,
            "totals": {
                "queries": shards.queries,
                "responses": shards.responses,
                "self_answered": shards.self_answered,
                "cache_hits": shards.cache_hits,
                "cache_misses": shards.cache_misses,
                "retries": shards.retries,
                "drops": drops(&figures.total),
                "outstanding": shards.outstanding_total,
                "script_errors": shards.script_errors,
                "shard_restarts": shards.restarts,
                "client_connections": shards.clients.open,
                "relay_sessions": shards.relays.open,
            },
            "process": {
                "cpu_percent": self.cpu.and_then(|(_, percent)| percent),
                "memory_bytes": figures.process.resident_memory,
                "descriptors_open": figures.descriptors.open,
                "descriptors_limit": figures.descriptors.limit,
            },
            "latency": server_latency(&recent, recent_span),
            "latencies": self.latencies(figures),
            "servers": self.servers(figures, &recent),
            "pools": self.pools(figures),
            "listeners": figures.snapshot.listeners.iter().map(|l| listener(figures, l)).collect::<Value>(),
            "drops": self.drops(figures),
            "rules": self.rules.listed,
            "rules_total": self.rules.total,
            "events": events,
        })
    }

    /// As clients and servers have seen them in the last half to whole minute.
    fn latencies(&self, figures: &Figures) -> Value {
        let (span, rows) = self.latencies.rows(figures);
        let total = rows.len();
        let rows: Value = rows
            .into_iter()
            .take(LATENCIES_MAX)
            .map(|row| {
                let shares = latency::PERCENTILES.map(|(_, share)| share);
                let ms = row.latency.quantiles(shares).unwrap_or_default().map(|ns| rounded(ns as f64 / 1e6));
                json!({"of": row.side.name(), "name": row.name, "answers": row.latency.count(), "ms": ms})
            })
            .collect();
        let percentiles = latency::PERCENTILES.map(|(name, _)| name);
        json!({"span_s": rounded(span.0 as f64 / 1e9), "percentiles": percentiles, "rows": rows, "total": total})
    }

    /// With latencies from `recent`.
    fn servers(&self, figures: &Figures, recent: &Reading) -> Value {
        let snapshot = &figures.snapshot;
        let (second, span) = self.history.second();
        let (nothing, none) = Default::default();
        let queries = |b: &Backend| second.backends.get(&b.slot).map_or(0, BackendReading::shared);
        let shared = || snapshot.backends.iter().flatten().filter(|b| has_share(b));
        let sent: u64 = shared().map(|b| queries(b)).sum();
        let server = |backend: &Backend| {
            let slot = backend.slot;
            let total = figures.total.backends.get(&slot).unwrap_or(&nothing);
            let last = second.backends.get(&slot).unwrap_or(&nothing);
            let [p50, p90, p99, _] = quantiles(recent.backends.get(&slot).map_or(&none, |r| &r.latency));
            let standing = figures.standing(slot);
            let share = has_share(backend)
                .then(|| if sent == 0 { 0.0 } else { queries(backend) as f64 / sent as f64 })
                .map(|share| (share * 1e6).round() / 1e6);
            let role = match (backend.target, backend.tee) {
                (true, _) => "target",
                (_, true) => "copy",
                _ => "server",
            };
            let pools: Vec<&str> =
                snapshot.pools.iter().filter(|p| p.members.contains(&slot)).map(|p| &*p.name).collect();
            json!({
                "slot": slot.0,
                "name": backend.name,
                "address": backend.address.to_string(),
                "state": state_name(standing.state, backend.health.mode),
                "role": role,
                "pools": pools,
                "share": share,
                "qps": rounded(rate(last.queries, span)),
                "p50_ms": p50, "p90_ms": p90, "p99_ms": p99,
                "outstanding": total.outstanding,
                "queries": total.queries,
                "responses": total.responses,
                "lost": total.lost(),
                "lost_per_s": rounded(rate(last.lost(), span)),
                "servfails": total.servfails,
                "servfails_per_s": rounded(rate(last.servfails, span)),
                "checks_failed": standing.failed.iter().sum::<u64>(),
                "weight": backend.weight,
                "order": backend.order,
            })
        };
        snapshot.listed().map(server).collect()
    }

    fn pools(&self, figures: &Figures) -> Value {
        let (second, span) = self.history.second();
        let caches = caches::of_pools(&figures.snapshot, &figures.live_state);
        let pools = figures.snapshot.standing_pools().map(|pool| {
            let cache = caches.iter().find(|cache| cache.pool.name == pool.name).map(|cache| {
                json!({
                    "entries": cache.reading.entries,
                    "size": cache.reading.size,
                    "hits": cache.counts.hits,
                    "misses": cache.counts.misses,
                })
            });
            let members = pool.members.iter();
            let queries = |slot| second.backends.get(slot).map_or(0, |reading| reading.queries);
            json!({
                "name": pool.name,
                "policy": policies::name(pool.policy.kind),
                "servers": pool.members.len(),
                "up": members.clone().filter(|slot| figures.standing(**slot).state == State::Up).count(),
                "qps": rounded(rate(members.map(queries).sum(), span)),
                "cache": cache,
            })
        });
        pools.collect()
    }

    /// By reason, the most frequent first; only those that were met.
    fn drops(&self, figures: &Figures) -> Value {
        let (second, span) = self.history.second();
        let count = |reason: &DropReason| figures.total.shards.drops[*reason];
        let mut met: Vec<_> = DropReason::ALL.into_iter().filter(|reason| count(reason) > 0).collect();
        met.sort_by_key(|reason| Reverse(count(reason)));
        met.into_iter()
            .map(|reason| {
                json!({
                    "reason": reason.label(),
                    "help": reason.doc().trim(),
                    "total": count(&reason),
                    "per_s": rounded(rate(second.shards.drops[reason], span)),
                })
            })
            .collect()
    }
}

/// Of the responses of `recent`, which took `span`.
fn server_latency(recent: &Reading, span: TickDelta) -> Value {
    let latency = recent.latency();
    let [p50, p90, p99, p999] = quantiles(latency);
    json!({
        "span_s": rounded(span.0 as f64 / 1e9),
        "responses": latency.count(),
        "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "p999_ms": p999,
        "buckets": distribution(latency),
    })
}

fn listener(figures: &Figures, listener: &Listener) -> Value {
    let protocol = match &listener.service {
        Service::Dns => "UDP and TCP",
        Service::DnsUdp => "UDP",
        Service::Dot(_) => "DNS over TLS",
        Service::TcpRelay(_) => "relay, TCP",
        Service::UdpRelay(_) => "relay, UDP",
    };
    let connections = listener
        .service
        .takes_connections()
        .then(|| figures.live_state.connection_limits().by_listener(listener.slot));
    json!({"address": listener.address.to_string(), "protocol": protocol, "connections": connections})
}

/// In milliseconds; none without a response.
fn quantiles(latency: &Latency) -> [Option<f64>; QUANTILES.len()] {
    if latency.count() == 0 {
        return [None; QUANTILES.len()];
    }
    latency
        .quantiles(QUANTILES)
        .map_or([None; QUANTILES.len()], |q| q.map(|ns| Some(rounded(ns as f64 / 1e6))))
}

/// `[from, to, responses]` in milliseconds, from the first that has some to the last.
fn distribution(latency: &Latency) -> Value {
    let bound = |at: usize| -> u64 {
        let octave = 1 << (10 + at / 2);
        if at.is_multiple_of(2) { octave } else { octave + octave / 2 }
    };
    let below = latency.at_most(std::array::from_fn::<u64, { BOUNDS + 1 }, _>(bound));
    let counts: Vec<u64> = below.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let first = counts.iter().position(|n| *n > 0).unwrap_or(counts.len());
    let last = counts.iter().rposition(|n| *n > 0).map_or(first, |last| last + 1);
    let ms = |at: usize| rounded(bound(at) as f64 / 1e6);
    (first..last).map(|at| json!([ms(at), ms(at + 1), counts[at]])).collect()
}

/// The rules that were hit the most, as of some seconds ago.
#[derive(Debug, Default)]
pub(super) struct RuleHits {
    /// When that was, and in which generation.
    at: Option<(Tick, u64)>,
    listed: Vec<Value>,
    total: usize,
    /// The hits of those that are listed.
    hits: BTreeMap<RuleSlot, u64>,
}

/// A rule that may be listed.
struct Candidate {
    hits: u64,
    slot: RuleSlot,
    described: Value,
}

impl RuleHits {
    fn refresh(&mut self, figures: &Figures) {
        let (now, generation) = (figures.total.at, figures.snapshot.generation);
        // Only within a generation is a slot the same rule for sure.
        let age = self.at.filter(|(_, of)| *of == generation).map(|(at, _)| now.since(at));
        if age.is_some_and(|age| age < RULES_STAND) {
            return;
        }
        let (chains, live_state) = (&figures.snapshot.chains, &figures.live_state);
        let mut found = Vec::new();
        self.total = 0;
        for (name, chain) in [("query", &chains.query), ("cache-miss", &chains.cache_miss)] {
            self.total += chain.rules().len();
            found.extend(most_hit(name, chain, text::action, live_state));
        }
        for (name, chain) in [
            ("response", &chains.response),
            ("cache-hit", &chains.cache_hit),
            ("cache-inserted", &chains.cache_inserted),
            ("self-answered", &chains.self_answered),
            ("timeout", &chains.timeout),
            ("xfr", &chains.xfr),
        ] {
            self.total += chain.rules().len();
            found.extend(most_hit(name, chain, text::response_action, live_state));
        }
        found.sort_by_key(|rule| Reverse(rule.hits));
        found.truncate(RULES_MAX);
        let before = std::mem::take(&mut self.hits);
        self.listed.clear();
        for mut rule in found {
            let grown = before.get(&rule.slot).map(|earlier| rule.hits.saturating_sub(*earlier));
            rule.described["per_s"] = json!(grown.zip(age).map(|(grown, age)| rounded(rate(grown, age))));
            self.hits.insert(rule.slot, rule.hits);
            self.listed.push(rule.described);
        }
        self.at = Some((now, generation));
    }
}

/// The rules of a chain that were hit the most, in the order of their hits.
fn most_hit<A>(
    name: &str,
    chain: &Chain<A>,
    act: fn(&A) -> String,
    live_state: &LiveState,
) -> Vec<Candidate> {
    // The fewest hits on top, and of as many the later rule.
    let mut most = BinaryHeap::with_capacity(RULES_MAX + 1);
    for (number, rule) in chain.rules().iter().enumerate() {
        let hits = live_state.rule_hits(rule.slot);
        most.push((Reverse(hits), number));
        if most.len() > RULES_MAX {
            most.pop();
        }
    }
    let candidate = |(Reverse(hits), number): (Reverse<u64>, usize)| {
        let rule = &chain.rules()[number];
        let action: String = act(&rule.action).chars().take(ACTION_CHARS).collect();
        let described = json!({
            "chain": name,
            "number": number,
            "name": rule.name,
            "matches": matches(rule),
            "action": action,
            "hits": hits,
        });
        Candidate { hits, slot: rule.slot, described }
    };
    most.into_sorted_vec().into_iter().map(candidate).collect()
}
