//! The page of Prometheus with the names of dnsdist, for `--metrics-prefix dnsdist`.

use std::collections::BTreeMap;

use crate::config::ruleset::uuid_text;
use crate::control::stats::caches::of_pools;
use crate::control::stats::dnsdist::{
    BANDS, FRONTEND_STATISTICS, SERVER_STATISTICS, STATISTICS, Server, Summary, frontends, members,
};
use crate::control::stats::figures::Figures;
use crate::control::web::exposition::{Format, Labels, Page, labelled_servers, listener_name};
use crate::stats::custom_metrics;
use crate::stats::registry::HandshakeReading;

/// The unit of latencies in dnsdist's metrics.
const NS_PER_MS: f64 = 1e6;

/// The page of these figures, for what dnsdist has as well.
#[must_use]
pub(super) fn page(figures: &Figures, format: Format) -> Vec<u8> {
    let mut out = Page::new(format);
    metrics(&mut out, figures);
    out.finish()
}

fn metrics(page: &mut Page, figures: &Figures) {
    let (summary, none) = (Summary::new(figures), Labels::new());
    for statistic in STATISTICS {
        let Some(value) = statistic.value(&summary) else { continue };
        let name = format!("dnsdist_{}", statistic.name.replace('-', "_"));
        page.family(&name, statistic.kind, statistic.help);
        page.sample(&name, &none, value);
    }
    page.family("dnsdist_info", "gauge", "The running version; the value is always 1.");
    page.sample("dnsdist_info", &[("version", format!("dnslob {}", env!("CARGO_PKG_VERSION")))], 1_u64);
    latency(page, &summary);
    let servers = labelled_servers(&figures.snapshot);
    let servers: Vec<_> = servers.into_iter().filter(|(_, b)| !b.target && !b.tee).collect();
    let read: Vec<Server<'_>> = servers.iter().map(|(_, backend)| Server::of(figures, backend)).collect();
    for (name, kind, help, value) in SERVER_STATISTICS {
        let name = format!("dnsdist_server_{name}");
        for ((labels, _), server) in servers.iter().zip(&read) {
            page.family(&name, kind, help);
            page.sample(&name, labels, value(server));
        }
    }
    listeners(page, figures);
    pools(page, figures);
    caches(page, figures);
    rules(page, figures);
    for metric in custom_metrics::all().list() {
        page.custom(&metric, "dnsdist", false);
    }
}

fn latency(page: &mut Page, summary: &Summary<'_>) {
    let latency = summary.latency();
    page.family("dnsdist_latency", "histogram", "Responses by latency, ms.");
    let bounds = ["1", "10", "50", "100", "1000"];
    let bounds = std::array::from_fn::<_, 5, _>(|at| (BANDS[at], bounds[at]));
    page.histogram("dnsdist_latency", &Labels::new(), bounds, latency, NS_PER_MS);
}

fn listeners(page: &mut Page, figures: &Figures) {
    let frontends = frontends(figures);
    let labels = |at: usize| {
        let frontend = &frontends[at];
        vec![
            ("frontend", listener_name(frontend.listener)),
            ("proto", frontend.protocol.to_owned()),
            // Every shard serves every listener, so there is one frontend of each.
            ("thread", "0".to_owned()),
        ]
    };
    for (name, kind, help, by_connection, value) in FRONTEND_STATISTICS {
        let name = format!("dnsdist_frontend_{name}");
        for (at, frontend) in frontends.iter().enumerate().filter(|(_, f)| f.by_connection || !by_connection)
        {
            page.family(&name, kind, help);
            page.sample(&name, &labels(at), value(frontend));
        }
    }
    for (name, help, value) in [
        (
            "dnsdist_frontend_tlsnewsessions",
            "New TLS sessions.",
            (|h| h.full) as fn(&HandshakeReading) -> u64,
        ),
        ("dnsdist_frontend_tlsresumptions", "Resumed TLS sessions.", |h| h.resumed),
    ] {
        for (at, frontend) in frontends.iter().enumerate().filter(|(_, f)| f.listener.service.tls().is_some())
        {
            let sum = figures.live_state.handshakes(frontend.listener.slot);
            page.family(name, "counter", help);
            page.sample(name, &labels(at), value(&sum));
        }
    }
}

/// The name of the default pool in dnsdist's labels.
const DEFAULT_POOL: &str = "_default_";

fn pools(page: &mut Page, figures: &Figures) {
    let snapshot = &figures.snapshot;
    for (name, help, up) in [
        ("dnsdist_pool_servers", "Servers of the pool.", false),
        ("dnsdist_pool_active_servers", "Servers of the pool that are up.", true),
    ] {
        for (at, pool) in snapshot.pools.iter().enumerate().filter(|(at, p)| *at == 0 || !p.name.is_empty()) {
            let label = if pool.name.is_empty() { DEFAULT_POOL } else { &pool.name };
            let (all, usable) = members(snapshot, figures, at);
            page.family(name, "gauge", help);
            page.sample(name, &[("pool", label.to_owned())], if up { usable as u64 } else { all as u64 });
        }
    }
}

/// A figure of packet caches: its name, type and help, and its name in Lua.
const CACHE_STATISTICS: [(&str, &str, &str, &str); 10] = [
    ("dnsdist_pool_cache_size", "gauge", "The most entries of the packet cache.", "maxEntries"),
    ("dnsdist_pool_cache_entries", "gauge", "Entries of the packet cache.", "entries"),
    ("dnsdist_pool_cache_hits", "counter", "Queries that it has answered.", "hits"),
    ("dnsdist_pool_cache_misses", "counter", "Queries that it had no answer to.", "misses"),
    (
        "dnsdist_pool_cache_deferred_inserts",
        "counter",
        "Responses that were not kept, as another thread was changing the same part.",
        "deferredInserts",
    ),
    ("dnsdist_pool_cache_deferred_lookups", "counter", "Always 0: no look-up waits.", "deferredLookups"),
    (
        "dnsdist_pool_cache_lookup_collisions",
        "counter",
        "Always 0: whole keys are compared.",
        "lookupCollisions",
    ),
    (
        "dnsdist_pool_cache_insert_collisions",
        "counter",
        "Always 0: whole keys are compared.",
        "insertCollisions",
    ),
    (
        "dnsdist_pool_cache_ttl_too_shorts",
        "counter",
        "Responses that were not kept for their TTL.",
        "ttlTooShorts",
    ),
    ("dnsdist_pool_cache_cleanup_count_total", "counter", "How often it was cleaned.", "cleanupCount"),
];

fn caches(page: &mut Page, figures: &Figures) {
    let all = of_pools(&figures.snapshot, &figures.live_state);
    for (name, kind, help, figure) in CACHE_STATISTICS {
        for cache in &all {
            let value =
                cache.figures().into_iter().find(|(of, _)| *of == figure).map_or(0, |(_, value)| value);
            page.family(name, kind, help);
            page.sample(name, &[("pool", cache.label().to_owned())], value);
        }
    }
}

/// Rules of the query chain with a value of their own.
const RULES_MAX: usize = 1_000;

fn rules(page: &mut Page, figures: &Figures) {
    let shown = || figures.snapshot.chains.query.rules().iter().take(RULES_MAX);
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    shown().for_each(|rule| *named.entry(&rule.name).or_default() += 1);
    for rule in shown() {
        let hits = figures.live_state.rule_hits(rule.slot);
        page.family("dnsdist_rule_hits", "counter", "Queries that a rule matched.");
        // As dnsdist; rules of one name can be told apart by their UUIDs only.
        let is_alone = !rule.name.is_empty() && named.get(&*rule.name) == Some(&1);
        let id = if is_alone { rule.name.clone() } else { uuid_text(&rule.uuid) };
        page.sample("dnsdist_rule_hits", &[("id", id)], hits);
    }
}
