//! /jsonstat and /api/v1 in the shape that dnsdist's clients read.

use serde_json::{Map, Value, json};

use crate::base::time::TickDelta;
use crate::config::functions::policies::name as policy_name;
use crate::config::ruleset::uuid_text;
use crate::control::stats::caches::{self, CacheOfPool};
use crate::control::stats::dnsdist::{self, SERVER_STATISTICS, STATISTICS, Server, Summary, frontends};
use crate::control::stats::figures::Figures;
use crate::control::stats::rules::matches;
use crate::control::stats::text::state_name;
use crate::model::{Backend, Pool, Snapshot};
use crate::rules::text;
use crate::rules::{Chain, Rule};
use crate::stats::custom_metrics;
use crate::stats::live::LiveState;
use crate::stats::top::Found;
use crate::wire::{codes, header};

/// Rules of a chain that are listed.
const RULES_MAX: usize = 1_000;
/// A number without a fraction where it has none.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

/// The policy's name of the default pool.
fn policy(snapshot: &Snapshot) -> String {
    snapshot.pools.first().map_or_else(String::new, |pool| policy_name(pool.policy.kind).to_owned())
}

/// /jsonstat?command=stats
pub(super) fn statistics(figures: &Figures) -> Value {
    let summary = Summary::new(figures);
    let mut all: Map<String, Value> =
        STATISTICS.iter().filter_map(|s| Some((s.name.to_owned(), number(s.value(&summary)?)))).collect();
    all.extend(summary.latency_sums().map(|(name, value)| (name.to_owned(), number(value))));
    all.insert("server-policy".to_owned(), json!(policy(&figures.snapshot)));
    for (name, value) in custom_metrics::all().plain() {
        all.entry(name).or_insert_with(|| number(value));
    }
    Value::Object(all)
}

/// /api/v1/servers/localhost/statistics
pub(super) fn statistic_items(figures: &Figures) -> Value {
    let Value::Object(all) = statistics(figures) else { return Value::Null };
    let item =
        |(name, value): (String, Value)| json!({"name": name, "type": "StatisticItem", "value": value});
    all.into_iter().map(item).collect()
}

/// /api/v1/servers/localhost
pub(super) fn localhost(figures: &Figures) -> Value {
    let snapshot = &figures.snapshot;
    let live = &figures.live_state;
    let servers = snapshot.listed().filter(|b| is_shown(b));
    let servers: Value = servers.enumerate().map(|(id, backend)| server(figures, backend, id)).collect();
    let pools = snapshot.pools.iter().enumerate().filter(|(at, pool)| *at == 0 || !pool.name.is_empty());
    let caches = caches::of_pools(snapshot, live);
    let pools: Value = pools.map(|(at, one)| pool(figures, &caches, at, one)).collect();
    let listeners = snapshot.listeners.iter().filter(|l| l.service.relay().is_none());
    let frontends: Value = frontends(figures)
        .iter()
        .enumerate()
        .map(|(id, frontend)| {
            let tls = frontend.listener.service.tls().is_some().then_some(frontend.listener.slot);
            let handshakes = tls.map(|slot| live.handshakes(slot)).unwrap_or_default();
            json!({
                "id": id,
                "address": frontend.listener.address.to_string(),
                "udp": !frontend.by_connection,
                "tcp": frontend.by_connection,
                "type": frontend.protocol,
                "protocol": frontend.protocol,
                "queries": frontend.queries(),
                "responses": frontend.responses(),
                "nonCompliantQueries": frontend.reading.noncompliant,
                "tcpCurrentConnections": if frontend.by_connection { frontend.connections.0 } else { 0 },
                "tcpMaxConcurrentConnections": if frontend.by_connection { frontend.connections.1 } else { 0 },
                "tlsNewSessions": handshakes.full,
                "tlsResumptions": handshakes.resumed,
            })
        })
        .collect();
    let local: Vec<String> = listeners.map(|l| l.address.to_string()).collect();
    let chains = &snapshot.chains;
    let answers = |chain| rules(chain, text::response_action, live);
    json!({
        "daemon_type": "dnsdist",
        "version": format!("dnslob {}", env!("CARGO_PKG_VERSION")),
        "acl": snapshot.shown.acl.join(", "),
        "local": local.join(", "),
        "servers": servers,
        "frontends": frontends,
        "dohFrontends": [],
        "pools": pools,
        "rules": rules(&chains.query, text::action, live),
        "cache-miss-rules": rules(&chains.cache_miss, text::action, live),
        "response-rules": answers(&chains.response),
        "cache-hit-response-rules": answers(&chains.cache_hit),
        "cache-inserted-response-rules": answers(&chains.cache_inserted),
        "self-answered-response-rules": answers(&chains.self_answered),
        "timeout-response-rules": answers(&chains.timeout),
        "xfr-response-rules": answers(&chains.xfr),
        "statistics": statistics(figures),
    })
}

/// /api/v1/servers/localhost/pool?name=; none without such a pool.
pub(super) fn pool_named(figures: &Figures, name: &str) -> Option<Value> {
    let snapshot = &figures.snapshot;
    let at = snapshot.pools.iter().position(|pool| pool.name == name)?;
    let members: Value = snapshot.pools[at]
        .members
        .iter()
        .filter_map(|slot| snapshot.backend(*slot))
        .enumerate()
        .map(|(id, backend)| server(figures, backend, id))
        .collect();
    let (servers, active) = dnsdist::members(snapshot, figures, at);
    let mut stats = json!({
        "name": name,
        "serversCount": servers,
        "activeServersCount": active,
        "servers": servers,
        "activeServers": active,
    });
    add_cache(&mut stats, &caches::of_pools(snapshot, &figures.live_state), &snapshot.pools[at]);
    Some(json!({"stats": stats, "servers": members}))
}

/// /api/v1/servers/localhost/rings: the last queries, and the last responses.
pub(super) fn rings(found: &[Found], queries: usize, responses: usize) -> Value {
    let entry = |one: &Found, age_us: u64| {
        let f = &one.record.finished;
        json!({
            "age": number(age_us as f64 / 1e6),
            "id": f.id,
            "name": one.record.qname.dotted(),
            "requestor": f.client().to_string(),
            "qtype": codes::type_name(f.qtype).to_string(),
            "protocol": one.protocol,
            "rd": f.flags[0] & header::RD != 0,
        })
    };
    let last =
        |list: Vec<Value>, most: usize| Value::Array(list.into_iter().rev().take(most).rev().collect());
    let asked = found.iter().map(|one| {
        let waited = u64::from(one.record.finished.latency_us);
        entry(one, one.ago_us + waited)
    });
    let answered = found.iter().filter(|one| one.record.finished.rcode().is_some()).map(|one| {
        let f = &one.record.finished;
        let mut entry = entry(one, one.ago_us);
        entry["latency"] = number(f64::from(f.latency_us) / 1e3);
        entry["rcode"] = json!(f.rcode().map(|code| codes::rcode_name(code.into()).to_string()));
        entry["size"] = json!(f.answer_bytes);
        entry["tc"] = json!(f.flags[0] & header::TC != 0);
        entry["aa"] = json!(f.flags[0] & header::AA != 0);
        entry["backend"] = json!(one.server);
        entry
    });
    json!({"queries": last(asked.collect(), queries), "responses": last(answered.collect(), responses)})
}

/// /api/v1/servers/localhost/config
pub(super) fn settings(figures: &Figures) -> Value {
    let snapshot = &figures.snapshot;
    let (globals, shown) = (&snapshot.globals, &snapshot.shown);
    // A whole number, as in dnsdist, unless there is a fraction.
    let seconds = |span: TickDelta| number(span.0 as f64 / 1e9);
    let setting = |name: &str, value: Value| json!({"name": name, "type": "ConfigSetting", "value": value});
    let longest = snapshot.backends.iter().flatten().filter(|b| is_shown(b)).map(|b| b.timeout.0).max();
    json!([
        setting("acl", json!(snapshot.shown.acl.join(", "))),
        setting("control-socket", json!(shown.console.map(|at| at.to_string()).unwrap_or_default())),
        setting("generation", json!(snapshot.generation)),
        setting("server-policy", json!(policy(snapshot))),
        setting("ecs-override", json!(globals.ecs_override)),
        setting("ecs-source-prefix-v4", json!(globals.ecs_v4)),
        setting("ecs-source-prefix-v6", json!(globals.ecs_v6)),
        setting("fixup-case", json!(globals.fixup_case)),
        setting("max-outstanding", json!(shown.outstanding_max)),
        setting("stale-cache-entries-ttl", json!(globals.stale_cache_seconds)),
        setting("tcp-recv-timeout", seconds(globals.client_connections.receive_timeout)),
        setting("tcp-send-timeout", seconds(globals.client_connections.send_timeout)),
        setting("truncate-tc", json!(globals.truncate_tc)),
        setting("servfail-on-no-policy", json!(globals.servfail_when_no_server)),
        setting("udp-timeout", json!(longest.unwrap_or_default() / 1_000_000_000)),
        setting("verbose", json!(shown.verbose)),
        setting("verbose-health-checks", json!(shown.verbose_checks)),
    ])
}

fn is_shown(backend: &Backend) -> bool {
    !backend.target && !backend.tee
}

fn pool(figures: &Figures, caches: &[CacheOfPool<'_>], at: usize, pool: &Pool) -> Value {
    let (servers, active) = dnsdist::members(&figures.snapshot, figures, at);
    let mut value = json!({
        "id": at,
        "name": pool.name,
        "serversCount": servers,
        "activeServersCount": active,
        "policy": policy_name(pool.policy.kind),
    });
    add_cache(&mut value, caches, pool);
    value
}

/// The names of a packet cache's figures, each with that in Lua.
const CACHE_NAMES: [(&str, &str); 10] = [
    ("cacheSize", "maxEntries"),
    ("cacheEntries", "entries"),
    ("cacheHits", "hits"),
    ("cacheMisses", "misses"),
    ("cacheDeferredInserts", "deferredInserts"),
    ("cacheDeferredLookups", "deferredLookups"),
    ("cacheLookupCollisions", "lookupCollisions"),
    ("cacheInsertCollisions", "insertCollisions"),
    ("cacheTTLTooShorts", "ttlTooShorts"),
    ("cacheCleanupCount", "cleanupCount"),
];

/// Adds the figures of a pool's packet cache; without one, they are 0.
fn add_cache(to: &mut Value, caches: &[CacheOfPool<'_>], pool: &Pool) {
    let figures = caches.iter().find(|cache| cache.pool.name == pool.name).map(CacheOfPool::figures);
    for (name, of) in CACHE_NAMES {
        let value = figures.iter().flatten().find(|(figure, _)| *figure == of).map_or(0, |(_, value)| *value);
        to[name] = json!(value);
    }
}

fn server(figures: &Figures, backend: &Backend, id: usize) -> Value {
    let s = Server::of(figures, backend);
    let mut pools: Vec<&str> = figures
        .snapshot
        .pools
        .iter()
        .filter(|p| p.members.contains(&backend.slot))
        .map(|p| p.name.as_str())
        .collect();
    // As in dnsdist, the default pool is named only beside another one.
    if pools == [""] {
        pools.clear();
    }
    let protocol = match (&backend.connections.tls, backend.connections.only) {
        (Some(_), _) => "DoT",
        (None, true) => "TCP",
        (None, false) => "Do53",
    };
    let mut all = json!({
        "id": id,
        "uuid": backend.id,
        "name": backend.name,
        "address": backend.address.to_string(),
        "state": state_name(s.standing.state, backend.health.mode),
        "protocol": protocol,
        "order": backend.order,
        "weight": backend.weight,
        "pools": pools,
        "qpsLimit": backend.qps,
        "qps": number(s.qps.round()),
        "outstanding": s.reading.outstanding,
        "queries": s.reading.queries,
        "responses": s.reading.responses,
        "nonCompliantResponses": s.reading.unexpected,
        "sendErrors": s.reading.send_errors,
        "reuseds": 0,
        "dropRate": number(s.drop_rate),
        "latency": s.latency_ms,
        "tcpLatency": s.tcp_latency_ms,
        "tcpCurrentConnections": s.reading.connections.open,
        "tcpMaxConcurrentConnections": s.reading.connections.open_max,
        "tcpNewConnections": s.reading.connections.opened,
        "tcpReusedConnections": s.reading.connections.reused,
        "tcpDiedReadingResponse": s.reading.connections.died,
        "tlsResumptions": s.reading.connections.handshakes.resumed,
        "healthCheckFailures": s.standing.failed[..5].iter().sum::<u64>(),
        "healthCheckFailuresTimeout": s.standing.failed[0],
        "healthCheckFailuresNetwork": s.standing.failed[1],
        "healthCheckFailuresParsing": s.standing.failed[2],
        "healthCheckFailuresMismatch": s.standing.failed[3],
        "healthCheckFailuresInvalid": s.standing.failed[4],
    });
    for (key, name) in OF_CONNECTIONS {
        let value = SERVER_STATISTICS.iter().find(|of| of.0 == name).map_or(0.0, |of| of.3(&s));
        all[key] = number(value);
    }
    all
}

/// What is here too of connections to servers: the key, and the statistic.
const OF_CONNECTIONS: [(&str, &str); 6] = [
    ("tcpDiedSendingQuery", "tcpdiedsendingquery"),
    ("tcpConnectTimeouts", "tcpconnecttimeouts"),
    ("tcpReadTimeouts", "tcpreadtimeouts"),
    ("tcpWriteTimeouts", "tcpwritetimeouts"),
    ("tcpAvgQueriesPerConnection", "tcpavgqueriesperconn"),
    ("tcpAvgConnectionDuration", "tcpavgconnduration"),
];

fn rules<A>(chain: &Chain<A>, act: fn(&A) -> String, live_state: &LiveState) -> Value {
    let item = |(at, rule): (usize, &Rule<A>)| {
        json!({
            "id": at,
            "creationOrder": at,
            "uuid": uuid_text(&rule.uuid),
            "name": rule.name,
            "rule": matches(rule),
            "action": act(&rule.action),
            "matches": live_state.rule_hits(rule.slot),
        })
    };
    chain.rules().iter().enumerate().take(RULES_MAX).map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::traffic::fixture::record;
    use crate::control::web::prometheus::tests::figures;
    use crate::stats::drop_reason::DropReason;
    use crate::stats::traffic_ring::End;

    #[test]
    fn rings_have_the_last_queries_and_responses() {
        let found = |end, qname: &str, ago_us| {
            let mut record = record(qname, 5);
            record.finished.end = end;
            Found {
                record,
                ago_us,
                protocol: "DoUDP",
                server: "192.0.2.9:53".to_owned(),
                pool: String::new(),
            }
        };
        let list = [
            found(End::Response, "a.example", 3_000_000),
            found(End::Dropped(DropReason::Timeout), "b.example", 2_000_000),
            found(End::OwnAnswer, "c.example", 999_000),
        ];
        let rings = |queries, responses| rings(&list, queries, responses);
        let names = |ring: &Value| -> Vec<String> {
            ring.as_array().expect("a list").iter().map(|one| one["name"].to_string()).collect()
        };
        let all = rings(9, 9);
        assert_eq!(names(&all["queries"]), ["\"a.example.\"", "\"b.example.\"", "\"c.example.\""]);
        assert_eq!(names(&all["responses"]), ["\"a.example.\"", "\"c.example.\""]);
        assert_eq!((&all["queries"][2]["age"], &all["responses"][1]["age"]), (&json!(1), &json!(0.999)));
        let first = &all["responses"][0];
        assert_eq!(
            (&first["rcode"], &first["qtype"], &first["rd"]),
            (&json!("NOERROR"), &json!("A"), &json!(true))
        );
        assert_eq!((&first["size"], &first["requestor"]), (&json!(100), &json!("192.0.2.1:4000")));
        let few = rings(1, 0);
        assert_eq!(
            (names(&few["queries"]), names(&few["responses"])),
            (vec!["\"c.example.\"".to_owned()], vec![])
        );
    }

    /// What dnsdist's clients look for.
    #[test]
    fn settings_have_the_names_of_dnsdist() {
        let Value::Array(all) = settings(&figures()) else { panic!("a list") };
        let value =
            |name: &str| all.iter().find(|item| item["name"] == name).map(|item| item["value"].clone());
        for name in [
            "acl",
            "control-socket",
            "ecs-override",
            "ecs-source-prefix-v4",
            "ecs-source-prefix-v6",
            "fixup-case",
            "max-outstanding",
            "server-policy",
            "stale-cache-entries-ttl",
            "tcp-recv-timeout",
            "tcp-send-timeout",
            "truncate-tc",
            "verbose",
            "verbose-health-checks",
        ] {
            assert!(value(name).is_some(), "{name}");
        }
        assert_eq!(value("tcp-recv-timeout"), Some(json!(10)));
    }

    #[test]
    fn statistics_of_connections_are_there() {
        for (key, name) in OF_CONNECTIONS {
            assert!(SERVER_STATISTICS.iter().any(|of| of.0 == name), "{key}");
        }
    }
}
