//! The metrics for Prometheus: every set of the registry, under dnslob's own names.

use std::collections::BTreeMap;

use crate::control::stats::figures::Figures;
use crate::control::stats::{caches, latency};
use crate::control::web::exposition::{Format, Labels, Page, labelled_servers, listener_name};
use crate::model::{Backend, Snapshot};
use crate::rules::Chain;
use crate::stats::check_failure::Failure;
use crate::stats::custom_metrics;
use crate::stats::histogram::are_edges;
use crate::stats::live::{LiveState, State};
use crate::stats::meter::{Counts, Value};
use crate::stats::metric_names::of_prometheus;
use crate::stats::registry::{
    AnswerReading, BackendConnectionReading, BackendReading, CacheReading, CarbonReading, CertificateReading,
    CheckReading, ClientConnectionReading, DescriptorReading, HandshakeReading, LatencyReading,
    ListenerReading, MachineReading, Metric, NetworkReading, PoolReading, ProcessReading, RelayReading,
    RuleReading, Set, ShadowReading, ShardReading, TrafficReading, WebReading,
};
use crate::stats::response_code::ResponseCode;

/// Rules of a chain with a value of their own; the others are added up.
const RULES_MAX: usize = 1_000;

/// Upper bounds of the buckets of a latency, with their text in seconds.
const BUCKETS: [(u64, &str); 14] = [
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_000_000, "0.002"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (20_000_000, "0.02"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (200_000_000, "0.2"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_000_000_000, "2"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
];
/// Their bounds alone.
const BOUNDS: [u64; BUCKETS.len()] = {
    let (mut bounds, mut at) = ([0; BUCKETS.len()], 0);
    while at < bounds.len() {
        bounds[at] = BUCKETS[at].0;
        at += 1;
    }
    bounds
};
const _: () = assert!(are_edges(&BOUNDS));

/// The unit of latencies here.
const NS_PER_SECOND: f64 = 1e9;

/// A reading of a set with its labels.
type Row<'r> = (Labels, Vec<(&'static Metric, Value<'r>)>);

/// The page of these figures.
#[must_use]
pub(super) fn page(figures: &Figures, format: Format) -> Vec<u8> {
    let mut out = Page::new(format);
    own(&mut out, figures);
    out.finish()
}

fn own(page: &mut Page, figures: &Figures) {
    let Figures { process, total, snapshot, live_state, .. } = figures;
    let none = Labels::new;
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    page.family("dnslob_build_info", "gauge", "The running version; the value is always 1.");
    page.sample("dnslob_build_info", &version, 1_u64);
    standard(page, figures);
    rows(page, &ProcessReading::SET, &[(none(), process.values().collect())]);
    let network: Vec<_> = figures.network.iter().map(|n| (none(), n.values().collect())).collect();
    rows(page, &NetworkReading::SET, &network);
    let machine: Vec<_> = figures.machine.iter().map(|m| (none(), m.values().collect())).collect();
    rows(page, &MachineReading::SET, &machine);
    rows(page, &DescriptorReading::SET, &[(none(), figures.descriptors.values().collect())]);
    rows(page, &WebReading::SET, &[(none(), figures.web.values().collect())]);
    rows(page, &TrafficReading::SET, &[(none(), figures.traffic.values().collect())]);
    rows(page, &CarbonReading::SET, &[(none(), figures.carbon.values().collect())]);
    rows(page, &ShardReading::SET, &[(none(), total.shards.values().collect())]);
    rows(page, &ClientConnectionReading::SET, &[(none(), total.shards.clients.values().collect())]);
    rows(page, &RelayReading::SET, &[(none(), total.shards.relays.values().collect())]);
    rows(page, &LatencyReading::SET, &[(none(), total.shards.servers.values().collect())]);
    servers(page, figures);
    listeners(page, figures);
    latencies(page, figures);
    connections(page, figures);
    rows(page, &RuleReading::SET, &rules(snapshot, live_state));
    for metric in custom_metrics::all().list() {
        page.custom(&metric, "dnslob", true);
    }
}

/// The metrics of a set, each with its values of all these readings.
fn rows(page: &mut Page, set: &Set, rows: &[Row<'_>]) {
    for (at, metric) in set.metrics.iter().enumerate() {
        let (name, per) = name(metric);
        for (labels, values) in rows {
            let Some((_, value)) = values.get(at) else { continue };
            page.family(&name, metric.kind.label(), metric.help);
            match value {
                Value::Count(count) if per == 1.0 => page.sample(&name, labels, *count),
                Value::Count(count) => page.sample(&name, labels, *count as f64 / per),
                Value::Signed(level) => page.sample(&name, labels, *level),
                Value::Reasons(counts) => {
                    for ((reason, _), count) in metric.reasons.iter().zip(*counts) {
                        let mut labels = labels.clone();
                        labels.push((metric.label, (*reason).to_owned()));
                        page.sample(&name, &labels, *count);
                    }
                }
                Value::Latency(latency) => page.histogram(&name, labels, BUCKETS, latency, NS_PER_SECOND),
            }
        }
    }
}

/// What every exporter says of its process, under the names that all of them have.
fn standard(page: &mut Page, figures: &Figures) {
    let process = &figures.process;
    let none = Labels::new();
    page.family("process_cpu_seconds_total", "counter", "CPU time, in user mode and in the kernel.");
    let cpu = (process.cpu_user_ms + process.cpu_system_ms) as f64 / 1e3;
    page.sample("process_cpu_seconds_total", &none, cpu);
    page.family("process_resident_memory_bytes", "gauge", "Resident memory.");
    page.sample("process_resident_memory_bytes", &none, process.resident_memory);
    page.family("process_open_fds", "gauge", "Open file descriptors.");
    page.sample("process_open_fds", &none, figures.descriptors.open);
    page.family("process_max_fds", "gauge", "File descriptors that there may be.");
    page.sample("process_max_fds", &none, figures.descriptors.limit);
    page.family("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970.");
    page.sample("process_start_time_seconds", &none, figures.unix.saturating_sub(process.uptime_s));
}

fn servers(page: &mut Page, figures: &Figures) {
    let servers = labelled_servers(&figures.snapshot);
    page.family("dnslob_backend_up", "gauge", "Whether a server gets queries.");
    for (labels, backend) in &servers {
        let up = figures.standing(backend.slot).state == State::Up;
        page.sample("dnslob_backend_up", labels, u64::from(up));
    }
    let nothing = BackendReading::default();
    let reading = |backend: &Backend| figures.total.backends.get(&backend.slot).unwrap_or(&nothing);
    let readings: Vec<Row<'_>> =
        servers.iter().map(|(labels, b)| (labels.clone(), reading(b).values().collect())).collect();
    rows(page, &BackendReading::SET, &readings);
    let readings: Vec<Row<'_>> = servers
        .iter()
        .map(|(labels, b)| (labels.clone(), reading(b).connections.values().collect()))
        .collect();
    rows(page, &BackendConnectionReading::SET, &readings);
    let checks: Vec<(Labels, CheckReading)> = servers
        .iter()
        .map(|(labels, b)| {
            let standing = figures.standing(b.slot);
            let failed = Counts::of(|why: Failure| standing.failed[why.index()]);
            (labels.clone(), CheckReading { failed, changes: standing.changes })
        })
        .collect();
    let readings: Vec<Row<'_>> =
        checks.iter().map(|(labels, c)| (labels.clone(), c.values().collect())).collect();
    rows(page, &CheckReading::SET, &readings);
}

/// The listeners for queries, each by its protocols.
fn listeners(page: &mut Page, figures: &Figures) {
    let mut readings = Vec::new();
    for listener in figures.snapshot.listeners.iter().filter(|l| l.service.relay().is_none()) {
        let service = &listener.service;
        let stream = if service.tls().is_some() { "tls" } else { "tcp" };
        let ways = [("udp", service.takes_datagrams()), (stream, service.takes_connections())];
        for (at, (protocol, _)) in ways.into_iter().enumerate().filter(|(_, (_, is_there))| *is_there) {
            let labels = vec![("listener", listener_name(listener)), ("protocol", protocol.to_owned())];
            readings.push((labels, figures.live_state.listener(listener.slot, at == 1)));
        }
    }
    let readings: Vec<Row<'_>> = readings.iter().map(|(l, r)| (l.clone(), r.values().collect())).collect();
    rows(page, &ListenerReading::SET, &readings);
}

/// Latencies by pool and by response code.
fn latencies(page: &mut Page, figures: &Figures) {
    let live = &figures.live_state;
    let pools: Vec<_> =
        latency::pools(&figures.snapshot).map(|(slot, name)| (name, live.pool(slot))).collect();
    let answers: Vec<_> = ResponseCode::ALL.iter().map(|code| (code.label(), live.answers(*code))).collect();
    let labels = |label, name: &str| vec![(label, name.to_owned())];
    let of_pools: Vec<Row<'_>> =
        pools.iter().map(|(name, r)| (labels("pool", name), r.values().collect())).collect();
    let of_answers: Vec<Row<'_>> =
        answers.iter().map(|(name, r)| (labels("rcode", name), r.values().collect())).collect();
    rows(page, &PoolReading::SET, &of_pools);
    let caches = caches::of_pools(&figures.snapshot, live);
    let of_caches: Vec<Row<'_>> = caches
        .iter()
        .map(|cache| (labels("pool", cache.label()), cache.reading.values().collect()))
        .collect();
    rows(page, &CacheReading::SET, &of_caches);
    rows(page, &AnswerReading::SET, &of_answers);
    let of_shadows: Vec<Row<'_>> =
        figures.shadows.iter().map(|(name, r)| (labels("pool", name), r.values().collect())).collect();
    rows(page, &ShadowReading::SET, &of_shadows);
}

/// Handshakes and certificates, of listeners, servers and the web server.
fn connections(page: &mut Page, figures: &Figures) {
    let (mut handshakes, mut certificates) = (Vec::new(), BTreeMap::new());
    let expires = |until: u64| CertificateReading { expires_in_s: until as i64 - figures.unix as i64 };
    let mut certified = Vec::new();
    for (listener, tls) in figures.snapshot.listeners.iter().filter_map(|l| Some((l, l.service.tls()?))) {
        let labels = vec![("listener", listener_name(listener))];
        handshakes.push((labels.clone(), figures.live_state.handshakes(listener.slot)));
        certified.push((labels, tls.certificates()));
    }
    if let Some((address, tls)) = &figures.snapshot.shown.web_tls {
        certified.push((vec![("webserver", address.to_string())], tls.0.certificates()));
    }
    for (labels, leaf) in certified.iter().flat_map(|(l, leaves)| leaves.iter().map(move |leaf| (l, leaf))) {
        let subject = leaf.names.first().map_or("-", String::as_str);
        let labels = [labels.clone(), vec![("subject", subject.to_owned())]].concat();
        // The first to expire of those of one name.
        let reading = expires(leaf.not_after);
        let kept: &mut CertificateReading = certificates.entry(labels).or_insert_with(|| reading.clone());
        kept.expires_in_s = kept.expires_in_s.min(reading.expires_in_s);
    }
    for (labels, backend) in labelled_servers(&figures.snapshot) {
        let Some(tls) = &backend.connections.tls else { continue };
        if let Some(reading) = figures.total.backends.get(&backend.slot) {
            handshakes.push((labels.clone(), reading.connections.handshakes.clone()));
        }
        if let Some(until) = tls.tls.certificate_until() {
            let subject = vec![("subject", tls.tls.subject().to_string())];
            certificates.insert([labels, subject].concat(), expires(until));
        }
    }
    let readings: Vec<Row<'_>> = handshakes.iter().map(|(l, h)| (l.clone(), h.values().collect())).collect();
    rows(page, &HandshakeReading::SET, &readings);
    let readings: Vec<Row<'_>> =
        certificates.iter().map(|(l, c)| (l.clone(), c.values().collect())).collect();
    rows(page, &CertificateReading::SET, &readings);
}

/// The rules of every chain with their hits.
fn rules<'r>(snapshot: &Snapshot, live_state: &LiveState) -> Vec<Row<'r>> {
    let mut rows = Vec::new();
    let chains = &snapshot.chains;
    chain(&mut rows, "query", &chains.query, live_state);
    chain(&mut rows, "cache-miss", &chains.cache_miss, live_state);
    for (name, rules) in [
        ("response", &chains.response),
        ("cache-hit", &chains.cache_hit),
        ("cache-inserted", &chains.cache_inserted),
        ("self-answered", &chains.self_answered),
        ("timeout", &chains.timeout),
        ("xfr", &chains.xfr),
    ] {
        chain(&mut rows, name, rules, live_state);
    }
    rows
}

fn chain<A>(rows: &mut Vec<Row<'_>>, name: &str, chain: &Chain<A>, live_state: &LiveState) {
    let [metric] = RuleReading::SET.metrics else { return };
    let mut others = 0;
    for (at, rule) in chain.rules().iter().enumerate() {
        let hits = live_state.rule_hits(rule.slot);
        if at >= RULES_MAX {
            others += hits;
            continue;
        }
        let labels = vec![("chain", name.to_owned()), ("rule", at.to_string()), ("name", rule.name.clone())];
        rows.push((labels, vec![(metric, Value::Count(hits))]));
    }
    if chain.rules().len() > RULES_MAX {
        let labels = vec![("chain", name.to_owned()), ("rule", "others".to_owned()), ("name", String::new())];
        rows.push((labels, vec![(metric, Value::Count(others))]));
    }
}

/// A metric's name in this format, and by what its value is divided.
fn name(metric: &Metric) -> (String, f64) {
    let (name, per) = of_prometheus(metric);
    (format!("dnslob_{name}"), per)
}

#[cfg(test)]
pub(super) mod tests {
    use crate::model::ListenerTls;
    use crate::tls::fixture::{Authority, Directory};
    use crate::tls::{ServerSpec, ServerTls};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot, RuleSlot};
    use crate::base::time::{Tick, TickDelta};
    use crate::cache::{CacheOptions, PacketCache};
    use crate::control::fixture;
    use crate::control::monitor::Monitor;
    use crate::control::publisher::Feed;
    use crate::control::web::exposition::protobuf;
    use crate::control::web::{dnsdist, json};
    use crate::model::Pool;
    use crate::rules::Rule;
    use crate::rules::action::Action;
    use crate::rules::matcher::Matcher;
    use crate::stats::drop_reason::DropReason;
    use crate::stats::meter::Kind;
    use crate::stats::metric_names::is_taken;
    use crate::stats::not_cached::NotCached;
    use crate::stats::registry::METRIC_SETS;
    use crate::stats::response_code::{ResponseCode, RuleAnswer};

    pub(crate) fn figures() -> Figures {
        let mut snapshot = fixture::snapshot(3, &[0], &[0, 1]);
        let mut twin = fixture::backend(1);
        (twin.name, twin.address) = ("ns0".to_owned(), fixture::backend(0).address);
        snapshot.backends[1] = Some(Arc::new(twin));
        let rule = |slot: usize, name: &str| Rule {
            slot: RuleSlot(slot as u32),
            name: name.to_owned(),
            uuid: (slot as u128).to_be_bytes(),
            group: String::new(),
            matcher: Matcher::All,
            action: Action::Drop,
        };
        let cache = PacketCache::new(CacheOptions::new(100), [1, 2, 3, 4]);
        fixture::store(&cache, 1, 60, Tick(0));
        snapshot.pools[0].cache = Some(Arc::new(cache));
        snapshot.pools.push(Pool {
            name: "two".to_owned(),
            cache: snapshot.pools[0].cache.clone(),
            ..Pool::default()
        });
        let rules: Vec<_> = (0..RULES_MAX + 5).map(|n| rule(n, "a \"name\"\n")).collect();
        snapshot.chains.query = Chain::new(rules);
        let live_state = Arc::new(LiveState::new(2, 2));
        for shard in live_state.shards() {
            shard.queries.add(21);
            shard.dropped(DropReason::Timeout).add(2);
            shard.dropped(DropReason::Acl).add(3);
            shard.dropped(DropReason::QueryShort).add(1);
            shard.backend(BackendSlot(0)).responses.add(4);
            shard.rule_hits(RuleSlot(RULES_MAX as u32)).add(3);
            shard.recursive_queries.add(9);
            shard.cache_hits.add(5);
            shard.cache_misses.add(6);
            shard.pool(PoolSlot(0)).cache_hits.add(2);
            shard.pool(PoolSlot(1)).cache_hits.add(3);
            shard.pool(PoolSlot(1)).cache_misses.add(6);
            shard.pool(PoolSlot(0)).cache_not_stored[NotCached::Busy].add(1);
            shard.rule_answers[RuleAnswer::Refused].add(2);
            let connections = &shard.backend(BackendSlot(0)).connections;
            connections.opened.add(3);
            connections.ended.add(2);
            connections.ended_queries.add(8);
            connections.ended_ms.add(3_000);
            shard.connection_latency(BackendSlot(0)).record(TickDelta::from_ms(7));
            let [udp, tcp] = [false, true].map(|by| shard.listener(ListenerSlot(0), by));
            udp.stats.queries.add(5);
            udp.stats.refused.add(1);
            udp.stats.answers[ResponseCode::NxDomain].add(4);
            tcp.stats.queries.add(2);
            tcp.stats.answers[ResponseCode::NoError].add(1);
            udp.latency.record(TickDelta::from_ms(2));
            for ms in [1, 3, 30, 20_000] {
                shard.backend(BackendSlot(0)).latency.record(ms * 990_000);
                shard.servers.latency.record(ms * 990_000);
            }
        }
        live_state.set_state(BackendSlot(0), State::Up);
        let feed = Feed::new(Arc::new(snapshot), live_state);
        let shadows = vec![("candidate".to_owned(), ShadowReading::default())];
        Figures { shadows, ..Monitor::new(&feed, Arc::default()).figures() }
    }

    fn own_text(figures: &Figures) -> String {
        String::from_utf8(page(figures, Format::Text)).expect("text")
    }

    fn dnsdist_text(figures: &Figures) -> String {
        String::from_utf8(dnsdist::page(figures, Format::Text)).expect("text")
    }

    #[test]
    fn names_of_both_pages_are_taken() {
        let pages = [("dnslob_", own_text(&figures())), ("dnsdist_", dnsdist_text(&figures()))];
        let json = json::statistics(&figures());
        let listed = json.as_object().expect("an object").keys().map(|name| name.replace('-', "_"));
        let families = pages.iter().flat_map(|(prefix, text)| {
            text.lines().filter_map(move |line| {
                line.strip_prefix("# TYPE ")?.strip_prefix(prefix)?.split(' ').next().map(str::to_owned)
            })
        });
        let families: BTreeSet<String> = families.chain(listed).collect();
        let free: Vec<_> = families.iter().filter(|name| !is_taken(name)).collect();
        // Those of the configuration are not.
        let own: Vec<String> =
            custom_metrics::all().list().iter().map(|m| m.name.replace('-', "_")).collect();
        let is_own = |name: &str| own.iter().any(|own| name.starts_with(&**own));
        assert!(free.iter().all(|name| is_own(name)) && families.len() > 100, "{free:?}");
        assert!(is_taken("latency_sum") && is_taken("latency_seconds_bucket") && !is_taken("my_queries"));
    }

    #[test]
    fn the_certificate_of_the_web_server_is_among_them() {
        let directory = Directory::new();
        let pair = directory.pair(&Authority::new("Root").issue_until(&["web.example"], 2026, 1, 2));
        let spec = ServerSpec { certificates: vec![pair], ..ServerSpec::default() };
        let tls = ListenerTls(Arc::new(ServerTls::load(&spec).expect("a listener")));
        let mut figures = figures();
        let mut snapshot = (*figures.snapshot).clone();
        snapshot.shown.web_tls = Some((([192, 0, 2, 8], 8083).into(), tls));
        (figures.snapshot, figures.unix) = (Arc::new(snapshot), 1_767_312_000 - 60);
        let line =
            "dnslob_certificate_expires_in_seconds{webserver=\"192.0.2.8:8083\",subject=\"web.example\"} 60";
        assert!(own_text(&figures).contains(line));
    }

    #[test]
    fn it_has_every_metric_of_the_registry() {
        let text = own_text(&figures());
        // Those of listeners and servers with TLS are there with one only.
        for metric in
            METRIC_SETS.iter().filter(|s| s.name != "tls" && s.name != "certificate").flat_map(|s| s.metrics)
        {
            let (name, _) = name(metric);
            let kind = format!("\n# TYPE {name} {}\n", metric.kind.label());
            assert_eq!(text.matches(&kind).count(), 1, "{kind}");
            for (reason, _) in metric.reasons {
                assert!(text.contains(&format!("{}=\"{reason}\"", metric.label)), "{name} {reason}");
            }
        }
    }

    #[test]
    fn values_have_labels_and_units() {
        let text = own_text(&figures());
        let address = fixture::backend(0).address;
        for line in [
            "dnslob_queries_total 42".to_owned(),
            "dnslob_drop_total{reason=\"timeout\"} 4".to_owned(),
            "dnslob_generation 3".to_owned(),
            format!("dnslob_backend_up{{server=\"ns0\",address=\"{address}\"}} 1"),
            format!("dnslob_backend_up{{server=\"ns0-1\",address=\"{address}\"}} 0"),
            "dnslob_cache_hits_total 10".to_owned(),
            "dnslob_pool_cache_hits_total{pool=\"_default_\"} 4".to_owned(),
            "dnslob_pool_cache_size{pool=\"two\"} 100".to_owned(),
            "dnslob_pool_cache_entries{pool=\"_default_\"} 1".to_owned(),
            "dnslob_latency_seconds_bucket{le=\"0.0005\"} 0".to_owned(),
            "dnslob_latency_seconds_bucket{le=\"0.001\"} 2".to_owned(),
            "dnslob_latency_seconds_bucket{le=\"0.05\"} 6".to_owned(),
            "dnslob_latency_seconds_bucket{le=\"10\"} 6".to_owned(),
            "dnslob_latency_seconds_bucket{le=\"+Inf\"} 8".to_owned(),
            "dnslob_latency_seconds_count 8".to_owned(),
            "dnslob_rule_hits_total{chain=\"query\",rule=\"others\",name=\"\"} 6".to_owned(),
            "dnslob_rule_hits_total{chain=\"query\",rule=\"999\",name=\"a \\\"name\\\"\\n\"} 0".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
    }

    #[test]
    fn alerts_and_dashboard_know_the_metrics() {
        let mut known: BTreeSet<String> =
            ["dnslob_build_info", "dnslob_backend_up"].map(str::to_owned).into();
        for metric in METRIC_SETS.iter().flat_map(|set| set.metrics) {
            let (name, _) = name(metric);
            if metric.kind == Kind::Histogram {
                known.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
            } else {
                known.insert(name);
            }
        }
        for file in ["grafana/dnslob.json", "prometheus/dnslob.rules.yml"] {
            let path = format!("{}/deploy/{file}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).expect("the file");
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
            let named: BTreeSet<&str> =
                words.filter(|word| word.starts_with("dnslob_") && !word.contains(':')).collect();
            assert!(named.len() > 10, "{named:?}");
            for name in named {
                assert!(known.contains(name), "{file}: no {name}");
            }
        }
    }

    #[test]
    fn dnsdists_names_have_our_figures() {
        let figures = figures();
        let text = dnsdist_text(&figures);
        let server = format!("{{server=\"ns0\",address=\"{}\"}}", fixture::backend(0).address);
        let frontend = |protocol: &str| {
            let address = fixture::listener(0).address;
            format!("{{frontend=\"{address}\",proto=\"{protocol}\",thread=\"0\"}}")
        };
        for line in [
            "dnsdist_queries 34".to_owned(),
            "dnsdist_rdqueries 18".to_owned(),
            "dnsdist_rule_refused 4".to_owned(),
            "dnsdist_frontend_nxdomain 8".to_owned(),
            "dnsdist_cache_hits 10".to_owned(),
            "dnsdist_cache_misses 12".to_owned(),
            "dnsdist_pool_cache_size{pool=\"_default_\"} 100".to_owned(),
            "dnsdist_pool_cache_entries{pool=\"two\"} 1".to_owned(),
            "dnsdist_pool_cache_hits{pool=\"_default_\"} 10".to_owned(),
            "dnsdist_pool_cache_hits{pool=\"two\"} 10".to_owned(),
            "dnsdist_pool_cache_misses{pool=\"two\"} 12".to_owned(),
            "dnsdist_pool_cache_deferred_inserts{pool=\"two\"} 2".to_owned(),
            "dnsdist_latency_avg100 2000".to_owned(),
            "dnsdist_latency_tcp_avg100 0".to_owned(),
            // Without 8 of clients outside the ACL or without a header.
            "dnsdist_acl_drops 6".to_owned(),
            format!("dnsdist_frontend_queries{} 8", frontend("UDP")),
            format!("dnsdist_frontend_responses{} 8", frontend("UDP")),
            format!("dnsdist_frontend_queries{} 4", frontend("TCP")),
            format!("dnsdist_frontend_responses{} 2", frontend("TCP")),
            format!("dnsdist_frontend_tcpcurrentconnections{} 0", frontend("TCP")),
            format!("dnsdist_server_tcpnewconnections{server} 6"),
            format!("dnsdist_server_tcpavgqueriesperconn{server} 4"),
            format!("dnsdist_server_tcpavgconnduration{server} 1500"),
            format!("dnsdist_server_tcplatency{server} 7"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(!text.contains("frontend_tcpcurrentconnections{frontend=\"127.0.0.1:0\",proto=\"UDP\""));
        // What the kernel does not say is left out.
        assert!(text.contains("\ndnsdist_udp_noport_errors ") && text.contains("\ndnsdist_cpu_steal "));
        let silent = dnsdist_text(&Figures { network: None, machine: None, ..figures.clone() });
        assert!(!silent.contains("_udp_") && !silent.contains("_udp6_") && !silent.contains("cpu_steal"));
        assert!(!own_text(&Figures { network: None, machine: None, ..figures }).contains("dnslob_network"));
    }

    #[test]
    fn both_formats_say_the_same() {
        let figures = figures();
        for (text, protobuf) in [
            (own_text(&figures), page(&figures, Format::Protobuf)),
            (dnsdist_text(&figures), dnsdist::page(&figures, Format::Protobuf)),
        ] {
            let (decoded, native_buckets) = protobuf::tests::as_text(&protobuf);
            for (decoded, line) in decoded.lines().zip(text.lines()) {
                assert_eq!(decoded, line);
            }
            assert_eq!(decoded.lines().count(), text.lines().count());
            assert!(native_buckets >= 4, "{native_buckets}");
        }
    }

    #[test]
    fn packet_caches_are_in_json() {
        let all = json::localhost(&figures());
        let pool = &all["pools"][1];
        assert_eq!(
            (&pool["name"], &pool["cacheSize"], &pool["cacheEntries"]),
            (&"two".into(), &100.into(), &1.into())
        );
        assert_eq!((&pool["cacheHits"], &pool["cacheMisses"]), (&10.into(), &12.into()));
        let one = json::pool_named(&figures(), "two").expect("a pool");
        assert_eq!(
            (&one["stats"]["cacheHits"], &one["stats"]["cacheDeferredInserts"]),
            (&10.into(), &2.into())
        );
        let statistics = json::statistics(&figures());
        assert_eq!((&statistics["cache-hits"], &statistics["cache-misses"]), (&10.into(), &12.into()));
    }

    #[test]
    fn a_family_is_begun_once_and_its_samples_are_distinct() {
        for text in [own_text(&figures()), dnsdist_text(&figures())] {
            let (mut samples, mut families) = (BTreeSet::new(), BTreeSet::new());
            for line in text.lines() {
                if let Some(family) = line.strip_prefix("# TYPE ") {
                    assert!(families.insert(family.split(' ').next().expect("a name")), "{line}");
                } else if !line.starts_with('#') {
                    let (sample, value) = line.rsplit_once(' ').expect("a value");
                    assert!(value.parse::<f64>().is_ok() && samples.insert(sample), "{line}");
                }
            }
            assert!(families.len() > 30, "{families:?}");
        }
    }
}
