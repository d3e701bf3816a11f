//! The dump of SIGUSR1: every metric since the start, the servers and the rules as tables.

use std::fmt::Write;

use crate::base::printable::Printable;
use crate::control::stats::figures::Figures;
use crate::control::stats::text::lines;
use crate::control::stats::{connections, rules, servers};
use crate::stats::custom_metrics::{self, CustomKind, Labels};

/// The dump of these figures.
#[must_use]
pub fn text(figures: &Figures) -> String {
    let Figures { process, total, snapshot, live_state, .. } = figures;
    let shards = &total.shards;
    let mut out = String::new();
    lines(&mut out, process.values());
    figures.network.iter().for_each(|network| lines(&mut out, network.values()));
    figures.machine.iter().for_each(|machine| lines(&mut out, machine.values()));
    lines(&mut out, shards.clients.values());
    lines(&mut out, figures.descriptors.values());
    lines(&mut out, figures.web.values());
    lines(&mut out, figures.traffic.values());
    lines(&mut out, figures.carbon.values());
    connections::dump(&mut out, total, snapshot, live_state, &figures.shadows, figures.unix);
    lines(&mut out, shards.values());
    lines(&mut out, total.shards.servers.values());
    if snapshot.listeners.iter().any(|l| l.service.relay().is_some()) || shards.relays.opened > 0 {
        lines(&mut out, shards.relays.values());
    }
    out.push_str(&servers::table(total, &figures.recent, figures.span, snapshot, &|slot| {
        figures.standing(slot)
    }));
    out.push_str(&rules::table(snapshot, live_state));
    custom(&mut out);
    out
}

/// A line for each value of the metrics that the configuration declared.
fn custom(out: &mut String) {
    for metric in custom_metrics::all().list() {
        let title = |labels: &Labels| {
            let labels = labels.iter().map(|(label, value)| format!(" {label}={}", Printable(value)));
            format!("custom {}{}", metric.name, labels.collect::<String>())
        };
        if metric.kind != CustomKind::Histogram {
            metric.values().iter().for_each(|(labels, value)| {
                let _ = writeln!(out, "{} {value}", title(labels));
            });
        }
        for (labels, observed) in metric.observed() {
            let ranges = metric.bounds.iter().zip(&observed.at_most);
            let ranges: String = ranges.map(|(bound, count)| format!(" le-{bound} {count}")).collect();
            let (count, sum) = (observed.count(), observed.sum);
            let _ = writeln!(out, "{} count {count} sum {sum}{ranges}", title(&labels));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot, RuleSlot};
    use crate::base::time::{Tick, TickDelta};
    use crate::cache::{CacheOptions, PacketCache};
    use crate::control::fixture;
    use crate::control::stats::figures::descriptors;
    use crate::control::stats::{Gatherer, Reading};
    use crate::model::{Listener, ListenerTls, Service, Snapshot};
    use crate::rules::action::Action;
    use crate::rules::matcher::Matcher;
    use crate::rules::{Chain, Rule};
    use crate::stats::check_failure::Failure;
    use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
    use crate::stats::drop_reason::DropReason;
    use crate::stats::live::{LiveState, State};
    use crate::stats::meter::Counts;
    use crate::stats::meter::Kind;
    use crate::stats::not_cached::NotCached;
    use crate::stats::registry::{
        CarbonReading, METRIC_SETS, MachineReading, NetworkReading, ProcessReading, ShadowReading,
        TrafficReading, WebReading,
    };
    use crate::stats::response_code::ResponseCode;
    use crate::tls::fixture::{Authority, Directory};
    use crate::tls::{Reason, ServerSpec, ServerTls};

    const BACKEND: BackendSlot = BackendSlot(0);
    const LISTENER: ListenerSlot = ListenerSlot(7);
    /// When the listener's certificate expires.
    const UNTIL: u64 = 1_767_312_000;

    /// A server, a listener with TLS, a rule.
    fn snapshot() -> Snapshot {
        let directory = Directory::new();
        let pair = directory.pair(&Authority::new("Root").issue_until(&["dns.example"], 2026, 1, 2));
        let spec = ServerSpec { certificates: vec![pair], ..ServerSpec::default() };
        let tls = ServerTls::load(&spec).expect("a listener");
        let mut snapshot = fixture::snapshot(3, &[], &[0]);
        let tls = ListenerTls(Arc::new(tls));
        snapshot.shown.web_tls = Some((([192, 0, 2, 8], 8083).into(), tls.clone()));
        let service = Service::Dot(tls);
        snapshot.listeners.push(Arc::new(Listener { slot: LISTENER, service, ..fixture::listener(7) }));
        snapshot.chains.query = Chain::new(vec![Rule {
            slot: RuleSlot(1),
            name: "blocked".to_owned(),
            uuid: [0; 16],
            group: String::new(),
            matcher: Matcher::All,
            action: Action::Drop,
        }]);
        snapshot
    }

    fn dump(snapshot: &Snapshot, live_state: &Arc<LiveState>) -> String {
        live_state.set_state(BACKEND, State::Up);
        live_state.backend(BACKEND).set_checks_failed(&[1; Failure::ALL.len()]);
        text(&Figures {
            process: ProcessReading { generation: 3, query_log_lines_lost: 4, ..ProcessReading::default() },
            descriptors: descriptors(live_state.descriptors(), 12),
            total: Gatherer::default().gather(live_state, [BACKEND].into_iter(), Tick(0)),
            recent: Reading::default(),
            span: TickDelta::from_ms(2_000),
            snapshot: Arc::new(snapshot.clone()),
            live_state: Arc::clone(live_state),
            web: WebReading::default(),
            carbon: CarbonReading::default(),
            network: Some(NetworkReading { udp_recvbuf_errors: 6, ..NetworkReading::default() }),
            machine: Some(MachineReading { cpu_steal: 5, ..MachineReading::default() }),
            traffic: TrafficReading::default(),
            shadows: vec![(
                "candidate".to_owned(),
                ShadowReading { answers: Counts::of(|_| 1), ..ShadowReading::default() },
            )],
            unix: UNTIL - 60,
        })
    }

    #[test]
    fn it_has_every_metric_of_the_registry() {
        let (mut snapshot, live_state) = (snapshot(), Arc::new(LiveState::new(1, 1)));
        let stats = &live_state.shards()[0];
        stats.relays.opened.add(1);
        stats.backend(BACKEND).connections.opened.add(1);
        BackendCloseReason::ALL.iter().for_each(|r| stats.backend(BACKEND).connections.ended(*r).add(1));
        Reason::ALL.iter().for_each(|r| stats.handshakes(LISTENER).failed(*r).add(1));
        let listener = &stats.listener(LISTENER, true).stats;
        listener.queries.add(1);
        ResponseCode::ALL.iter().for_each(|code| listener.answers[*code].add(1));
        stats.answered(stats.listener(LISTENER, true), PoolSlot(0), ResponseCode::NoError, 1_000_000);
        NotCached::ALL.iter().for_each(|why| stats.pool(PoolSlot(0)).cache_not_stored[*why].add(1));
        let cache = PacketCache::new(CacheOptions::new(100), [1, 2, 3, 4]);
        snapshot.pools[0].cache = Some(Arc::new(cache));
        let text = dump(&snapshot, &live_state);
        // The line that shows a set with labels, or the heads of a table's columns.
        let line =
            |begin: &str| text.lines().find(|l| l.starts_with(begin)).unwrap_or_else(|| panic!("{text}"));
        let mut shown = 0;
        for (set, metric) in METRIC_SETS.iter().flat_map(|set| set.metrics.iter().map(move |m| (*set, m))) {
            let labels = metric.reasons.iter().map(|(label, _)| *label);
            let (place, expected): (&str, Vec<String>) = match (set.name, metric.kind) {
                (_, Kind::Histogram) if set.labels.is_empty() => (
                    &text,
                    vec![format!("\n{}-p50-ms ", metric.name), format!("\n{}-p99.9-ms ", metric.name)],
                ),
                _ if set.labels.is_empty() && metric.reasons.is_empty() => {
                    (&text, vec![format!("\n{} ", metric.name)])
                }
                _ if set.labels.is_empty() => {
                    (&text, labels.map(|label| format!("\n{}-{label} ", metric.name)).collect())
                }
                ("backend", _) => (line("#"), vec![format!("  {}  ", servers::title(metric))]),
                ("checks", _) => (line("0  "), labels.map(|label| format!("{label} 1")).collect()),
                ("rule", _) => (line("query rules"), vec!["query rules: 1".to_owned()]),
                (name, _) if metric.reasons.is_empty() => {
                    (line(&format!("{name} ")), vec![format!(" {} ", set.short(metric))])
                }
                (name, _) => (line(&format!("{name} ")), labels.map(|label| format!(" {label} 1")).collect()),
            };
            for expected in expected {
                // The first line has none in front of it.
                let found = place.contains(&expected) || place.starts_with(expected.trim_start());
                assert!(found, "{}: no {expected:?} in {place}", metric.name);
                shown += 1;
            }
        }
        assert!(shown > 100, "{shown}");
    }

    #[test]
    fn texts_of_the_configuration_stay_within_their_lines() {
        let mut snapshot = snapshot();
        let dump_lines =
            |snapshot: &Snapshot| dump(snapshot, &Arc::new(LiveState::new(1, 1))).lines().count();
        let before = dump_lines(&snapshot);
        let hostile = "x\ndrop-timeout 999\r\u{1b}[2J\u{2028}";
        snapshot.pools.iter_mut().for_each(|p| p.name = hostile.to_owned());
        snapshot.chains.query = Chain::new(vec![Rule {
            slot: RuleSlot(1),
            name: hostile.to_owned(),
            uuid: [0; 16],
            group: hostile.to_owned(),
            matcher: Matcher::Tag(hostile.into(), Some(hostile.into())),
            action: Action::SetTag(hostile.into(), hostile.into()),
        }]);
        let text = dump(&snapshot, &Arc::new(LiveState::new(1, 1)));
        assert_eq!(text.lines().count(), before, "{text}");
        assert!(!text.contains(['\r', '\u{1b}', '\u{2028}']), "{text}");
        let shown = r"x\ndrop-timeout 999\r\u{1b}[2J\u{2028}";
        // The pool of the server, and the six of the rule.
        assert_eq!(text.matches(shown).count(), 7, "{text}");
    }

    #[test]
    fn counts_are_of_all_shards() {
        let (snapshot, live_state) = (snapshot(), Arc::new(LiveState::new(2, 1)));
        for shard in live_state.shards() {
            shard.queries.add(600);
            shard.dropped(DropReason::Timeout).add(5);
            shard.handshakes(LISTENER).done(false);
            shard.handshakes(LISTENER).failed(Reason::NotTls).add(2);
            shard.clients.ended(ClientCloseReason::Handshake).add(2);
            shard.backend(BACKEND).connections.opened.add(1);
            shard.backend(BACKEND).connections.ended(BackendCloseReason::Idle).add(1);
            shard.rule_hits(RuleSlot(1)).add(4);
            let listener = &shard.listener(LISTENER, true).stats;
            listener.queries.add(4);
            listener.answers[ResponseCode::NoError].add(2);
        }
        live_state.shards()[1].handshakes(LISTENER).done(true);
        let text = dump(&snapshot, &live_state);
        let address = snapshot.listeners.last().expect("a listener").address;
        for line in [
            "query-log-lines-lost 4".to_owned(),
            "network-udp-recvbuf-errors 6".to_owned(),
            "machine-cpu-steal 5".to_owned(),
            format!("listener {address} over connections queries 8 noncompliant-queries 0 refused 0 noerror 4 latency -"),
            "generation 3".to_owned(),
            "queries 1200".to_owned(),
            "drop-timeout 10".to_owned(),
            "drop-acl 0".to_owned(),
            "latency-p99.9-ms 0.000".to_owned(),
            "client-connection-end-handshake 4".to_owned(),
            "descriptors-open 12".to_owned(),
            "descriptors-clients 0".to_owned(),
            "backend-connections \"ns0\" opened 2 ended 0 ended-queries 0 ended-ms 0 reused 0 died 0 open 0 open-max 0 idle 2".to_owned(),
            format!("tls listener {address} full 2 resumed 1 not-tls 4"),
            format!("certificate listener {address} dns.example expires-in-s 60"),
            "certificate webserver 192.0.2.8:8083 dns.example expires-in-s 60".to_owned(),
            "       0            8  blocked: All -> drop".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
        assert!(!text.contains("\nrelay-"), "no relays: {text}");
    }
}
