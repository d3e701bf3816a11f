//! The tables of the console: each is a text of aligned columns, with their titles in the first
//! line.

use std::fmt::Write;

use crate::base::printable::Printable;
use crate::config::functions::policies;
use crate::control::stats::connections as connection_lines;
use crate::control::stats::dnsdist;
use crate::control::stats::figures::Figures;
use crate::control::stats::latency;
use crate::control::stats::servers::{self, aligned};
use crate::control::stats::text::{self, lines, state_name, with_readings};
use crate::model::{Backend, Listener, Service};
use crate::stats::close_reason::BackendCloseReason;
use crate::stats::custom_metrics;
use crate::stats::live::State;
use crate::stats::meter::Value;
use crate::stats::registry::{BackendReading, Metric};
use crate::tls::date::Date;

/// Columns of the widest bar.
const BAR: u64 = 60;
/// Most characters of a server's name in a table; whole names are in `getServer(0).name` and the API.
const NAME_CHARS: usize = 20;
/// Bounds between the bars of latencies, milliseconds.
const BOUNDS_MS: [u64; 14] = [1, 2, 3, 5, 7, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

fn row<const N: usize>(cells: [String; N]) -> Vec<String> {
    cells.into_iter().map(|cell| Printable(cell).to_string()).collect()
}

/// The servers, as dnsdist's showServers lists them.
pub(crate) fn servers(f: &Figures) -> String {
    const TITLES: [&str; 15] = [
        "#",
        "Name",
        "Address",
        "State",
        "Qps",
        "Qlim",
        "Ord",
        "Wt",
        "Queries",
        "Drops",
        "Drate",
        "Lat",
        "TCP",
        "Outstanding",
        "Pools",
    ];
    let nothing = BackendReading::default();
    let mut rows = vec![row(TITLES.map(String::from))];
    let (mut queries, mut lost, mut rate) = (0, 0, 0.0);
    for (at, (backend, all)) in with_readings(&f.total, &f.snapshot).enumerate() {
        let recent = f.recent.backends.get(&backend.slot).unwrap_or(&nothing);
        let qps = text::rate(recent.queries, f.span);
        let smoothed = dnsdist::Server::of(f, backend);
        let ms = |time: f64| if time > 0.0 { format!("{time:.1}") } else { "-".to_owned() };
        queries += all.queries;
        lost += all.lost();
        rate += qps;
        rows.push(row([
            at.to_string(),
            // dnsdist cuts them, and its clients count on that.
            backend.name.chars().take(NAME_CHARS).collect(),
            backend.address.to_string(),
            state_name(f.standing(backend.slot).state, backend.health.mode).to_owned(),
            format!("{qps:.1}"),
            backend.qps.to_string(),
            backend.order.to_string(),
            backend.weight.to_string(),
            all.queries.to_string(),
            all.lost().to_string(),
            format!("{:.1}", text::rate(recent.lost(), f.span)),
            ms(smoothed.latency_ms),
            ms(smoothed.tcp_latency_ms),
            all.outstanding.to_string(),
            servers::pools(&f.snapshot, backend),
        ]));
    }
    let mut all: [String; TITLES.len()] = Default::default();
    (all[0], all[4], all[8], all[9]) =
        ("All".to_owned(), format!("{rate:.1}"), queries.to_string(), lost.to_string());
    rows.push(row(all));
    // Who splits dnsdist's lines at blanks finds a last field in each, were it empty.
    aligned(&rows).lines().zip(&rows).fold(String::new(), |mut out, (line, row)| {
        let blank = if row.last().is_some_and(String::is_empty) { " " } else { "" };
        // Writing into a string does not fail.
        let _ = writeln!(out, "{line}{blank}");
        out
    })
}

/// The pools, with their policies and their servers.
pub(crate) fn pools(f: &Figures) -> String {
    let mut rows = vec![row(["Name", "Cache", "Policy", "Up", "Servers"].map(String::from))];
    for pool in f.snapshot.standing_pools() {
        let members: Vec<&Backend> =
            pool.members.iter().filter_map(|slot| f.snapshot.backend(*slot)).map(|b| &**b).collect();
        let up = members.iter().filter(|b| f.standing(b.slot).state == State::Up).count();
        let shown = members.iter().map(|b| {
            let state = state_name(f.standing(b.slot).state, b.health.mode);
            format!("{} ({state})", if b.name.is_empty() { b.address.to_string() } else { b.name.clone() })
        });
        rows.push(row([
            if pool.name.is_empty() { "(default)".to_owned() } else { pool.name.clone() },
            pool.cache
                .as_ref()
                .map_or_else(String::new, |cache| format!("{}/{}", cache.len(), cache.capacity())),
            policies::name(pool.policy.kind).to_owned(),
            format!("{up}/{}", members.len()),
            shown.collect::<Vec<_>>().join(", "),
        ]));
    }
    aligned(&rows)
}

/// The listeners, as dnsdist's showBinds lists them: each protocol by itself. Relays follow.
pub(crate) fn listeners(f: &Figures) -> String {
    let titles = ["#", "Address", "Protocol", "Queries", "Interface", "Connections"];
    let mut rows = vec![row(titles.map(String::from))];
    let mut add = |listener: &Listener, protocol: &str, queries: String, connections: String| {
        let interface = listener.interface.clone().unwrap_or_else(|| "-".to_owned());
        let number = (rows.len() - 1).to_string();
        rows.push(row([
            number,
            listener.address.to_string(),
            protocol.to_owned(),
            queries,
            interface,
            connections,
        ]));
    };
    for one in dnsdist::frontends(f) {
        let connections = if one.by_connection { one.connections.0.to_string() } else { "-".to_owned() };
        add(one.listener, one.protocol, one.reading.queries.to_string(), connections);
    }
    for relay in &f.snapshot.listeners {
        let protocol = match relay.service {
            Service::Dns | Service::DnsUdp | Service::Dot(_) => continue,
            Service::TcpRelay(_) => "TCP relay",
            Service::UdpRelay(_) => "UDP relay",
        };
        let open = f.live_state.connection_limits().by_listener(relay.slot);
        add(relay, protocol, "-".to_owned(), open.to_string());
    }
    aligned(&rows)
}

/// Connections of clients and to servers: of each listener, of each server, and why they ended.
pub(crate) fn connections(f: &Figures) -> String {
    let titles = ["Frontend", "Protocol", "Queries", "Answers", "Cur/conn", "Max/conn"];
    let mut rows = vec![row(titles.map(String::from))];
    for frontend in dnsdist::frontends(f).iter().filter(|frontend| frontend.by_connection) {
        rows.push(row([
            frontend.listener.address.to_string(),
            frontend.protocol.to_owned(),
            frontend.reading.queries.to_string(),
            frontend.responses().to_string(),
            frontend.connections.0.to_string(),
            frontend.connections.1.to_string(),
        ]));
    }
    let mut out = aligned(&rows) + "\n";
    let titles = [
        "Name",
        "Address",
        "Cur/conn",
        "Max/conn",
        "New",
        "Reused",
        "Refused",
        "Timeouts",
        "Died",
        "AvgQs/conn",
        "AvgDur",
        "Latency",
    ];
    rows = vec![row(titles.map(String::from))];
    for (backend, reading) in with_readings(&f.total, &f.snapshot).filter(|(b, _)| !b.target) {
        let connections = &reading.connections;
        let ended = connections.ended.max(1) as f64;
        let timeouts = [
            BackendCloseReason::ConnectTimeout,
            BackendCloseReason::Silent,
            BackendCloseReason::WriteTimeout,
        ];
        rows.push(row([
            backend.name.clone(),
            backend.address.to_string(),
            connections.open.to_string(),
            connections.open_max.to_string(),
            connections.opened.to_string(),
            connections.reused.to_string(),
            connections.ends[BackendCloseReason::Refused].to_string(),
            timeouts.iter().map(|why| connections.ends[*why]).sum::<u64>().to_string(),
            connections.died.to_string(),
            format!("{:.1}", connections.ended_queries as f64 / ended),
            format!("{:.1}", connections.ended_ms as f64 / ended / 1e3),
            format!("{:.2}", f.live_state.connection_latency(backend.slot).us(0) / 1e3),
        ]));
    }
    out += &aligned(&rows);
    out.push('\n');
    lines(&mut out, f.total.shards.clients.values());
    lines(&mut out, f.descriptors.values());
    connection_lines::dump(&mut out, &f.total, &f.snapshot, &f.live_state, &f.shadows, f.unix);
    out
}

/// Failed TLS handshakes of the listeners, by reason.
pub(crate) fn tls_errors(f: &Figures) -> String {
    let mut rows = vec![row(["#", "Address", "Failed", "Reasons"].map(String::from))];
    for (at, listener) in f.snapshot.listeners.iter().filter(|l| l.service.tls().is_some()).enumerate() {
        let reading = f.live_state.handshakes(listener.slot);
        let (mut all, mut reasons) = (0, Vec::new());
        for (metric, value) in reading.values() {
            let Value::Reasons(counts) = value else { continue };
            for ((label, _), count) in metric.reasons.iter().zip(counts).filter(|(_, count)| **count > 0) {
                all += count;
                reasons.push(format!("{label} {count}"));
            }
        }
        rows.push(row([at.to_string(), listener.address.to_string(), all.to_string(), reasons.join(", ")]));
    }
    aligned(&rows)
}

/// The listeners with TLS: their sessions and certificates.
pub(crate) fn tls_listeners(f: &Figures) -> String {
    let titles = ["#", "Address", "Full", "Resumed", "Days", "Certificates"];
    let mut rows = vec![row(titles.map(String::from))];
    let with_tls = f.snapshot.listeners.iter().filter_map(|l| Some((l, l.service.tls()?)));
    for (at, (listener, tls)) in with_tls.enumerate() {
        let reading = f.live_state.handshakes(listener.slot);
        let leaves = tls.certificates();
        let first = leaves.iter().map(|leaf| leaf.not_after as i64 - f.unix as i64).min().unwrap_or(0);
        let names = leaves.iter().map(|leaf| leaf.names.first().map_or("-", String::as_str));
        rows.push(row([
            at.to_string(),
            listener.address.to_string(),
            reading.full.to_string(),
            reading.resumed.to_string(),
            (first / 86_400).to_string(),
            names.collect::<Vec<_>>().join(", "),
        ]));
    }
    aligned(&rows)
}

/// The certificates of the listeners with TLS.
pub(crate) fn certificates(f: &Figures) -> String {
    let titles = ["#", "Address", "File", "From", "Until", "Days", "Names"];
    let mut rows = vec![row(titles.map(String::from))];
    let with_tls = f.snapshot.listeners.iter().filter_map(|l| Some((l, l.service.tls()?)));
    for (at, (listener, tls)) in with_tls.enumerate() {
        for (leaf, files) in tls.certificates().iter().zip(&tls.spec().certificates) {
            rows.push(row([
                at.to_string(),
                listener.address.to_string(),
                files.certificate.display().to_string(),
                Date(leaf.not_before).to_string(),
                Date(leaf.not_after).to_string(),
                leaf.days_left(f.unix).to_string(),
                leaf.names.join(", "),
            ]));
        }
    }
    aligned(&rows)
}

/// A bar for each range of the servers' latencies, and the percentiles of all sides.
pub(crate) fn latencies(f: &Figures) -> String {
    let latency = f.total.latency();
    let Some([p50, p90, p99, p999]) = latency.quantiles([0.5, 0.9, 0.99, 0.999]) else {
        return "no responses yet\n".to_owned();
    };
    let counts = latency.between(&BOUNDS_MS.map(|ms| ms * 1_000_000));
    let (all, most) = (counts.iter().sum::<u64>().max(1), counts.iter().copied().max().unwrap_or(0).max(1));
    let mut out = String::new();
    let ms = |ns: u64| ns as f64 / 1e6;
    // Writing into a string does not fail.
    let _ =
        writeln!(out, "p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2} ms", ms(p50), ms(p90), ms(p99), ms(p999));
    for (at, count) in counts.iter().enumerate() {
        let range = match BOUNDS_MS.get(at) {
            Some(bound) => format!("< {bound} ms"),
            None => ">= 5000 ms".to_owned(),
        };
        let bar = "*".repeat(usize::try_from((count * BAR).div_ceil(most)).unwrap_or(0));
        let _ = writeln!(out, "{range:>10} {:>6.2} % {bar}", *count as f64 * 100.0 / all as f64);
    }
    let _ =
        writeln!(out, "\nSince the start, milliseconds; clients wait for all attempts, servers answer one:");
    out += &latency::table(&latency::rows(f));
    out
}

/// The metrics of the whole process as pairs of name and value, two in a line, as dnsdist's clients
/// read them.
pub(crate) fn metrics(f: &Figures) -> String {
    let mut all = counters(f);
    all.extend(NOT_THERE.map(|name| (name.to_owned(), 0.0)));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let half = all.len().div_ceil(2);
    let mut out = String::new();
    for at in 0..half {
        let pair = |(name, value): &(String, f64)| format!("{name:<44} {:>16}", (value * 1e3).round() / 1e3);
        let row: Vec<String> = [at, at + half].iter().filter_map(|at| all.get(*at)).map(pair).collect();
        // Writing into a string does not fail.
        let _ = writeln!(out, "{}", row.join("    "));
    }
    out
}

/// What dnsdist's clients cannot do without, and dnslob has no part that could count.
const NOT_THERE: [&str; 1] = ["dyn-blocked"];

/// The metrics of the whole process that have one value each, by name, and dnsdist's statistics.
pub(crate) fn counters(f: &Figures) -> Vec<(String, f64)> {
    let mut out = Vec::new();
    let mut add = |(metric, value): (&'static Metric, Value<'_>)| match value {
        Value::Count(count) => out.push((metric.name.to_owned(), count as f64)),
        Value::Signed(level) => out.push((metric.name.to_owned(), level as f64)),
        Value::Reasons(counts) => {
            let counts = metric.reasons.iter().zip(counts);
            out.extend(counts.map(|((label, _), n)| (format!("{}-{label}", metric.name), *n as f64)));
        }
        Value::Latency(latency) => {
            if let Some([median, p99]) = latency.quantiles([0.5, 0.99]) {
                out.push((format!("{}-p50", metric.name), median as f64 / 1e6));
                out.push((format!("{}-p99", metric.name), p99 as f64 / 1e6));
            }
        }
    };
    f.process.values().for_each(&mut add);
    f.network.iter().for_each(|network| network.values().for_each(&mut add));
    f.machine.iter().for_each(|machine| machine.values().for_each(&mut add));
    f.descriptors.values().for_each(&mut add);
    f.web.values().for_each(&mut add);
    f.carbon.values().for_each(&mut add);
    f.total.shards.values().for_each(&mut add);
    f.total.shards.clients.values().for_each(&mut add);
    f.total.shards.relays.values().for_each(&mut add);
    f.total.shards.servers.values().for_each(&mut add);
    let summary = dnsdist::Summary::new(f);
    for statistic in dnsdist::STATISTICS {
        let Some(value) = statistic.value(&summary) else { continue };
        // Of one name there is what dnsdist means by it, which its clients read.
        match out.iter_mut().find(|(name, _)| name == statistic.name) {
            Some(of_the_name) => of_the_name.1 = value,
            None => out.push((statistic.name.to_owned(), value)),
        }
    }
    out.extend(summary.latency_sums().map(|(name, value)| (name.to_owned(), value)));
    for (name, value) in custom_metrics::all().plain() {
        if out.iter().all(|(of, _)| *of != name) {
            out.push((name, value));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::stats::drop_reason::DropReason;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::base::addr::{BackendSlot, ListenerSlot};
    use crate::cache::{CacheOptions, PacketCache};
    use crate::control::fixture;
    use crate::control::monitor::Monitor;
    use crate::control::publisher::Feed;
    use crate::model::ListenerTls;
    use crate::stats::histogram::are_edges;
    use crate::stats::live::LiveState;
    use crate::tls::fixture::{Authority, Directory};
    use crate::tls::{ServerSpec, ServerTls};

    #[test]
    fn metrics_of_the_configuration_are_among_them() {
        let gauge = custom_metrics::CustomKind::Gauge;
        custom_metrics::all().declare("of-tables", gauge, "", None, false).expect("declared");
        custom_metrics::all().set("of-tables", &Vec::new(), 1.5).expect("set");
        assert!(counters(&figures()).contains(&("of-tables".to_owned(), 1.5)));
        assert!(metrics(&figures()).contains("of-tables "));
    }

    #[test]
    fn ranges_of_latencies_are_exact() {
        assert!(are_edges(&BOUNDS_MS.map(|ms| ms * 1_000_000)));
    }

    fn figures() -> Figures {
        let live_state = Arc::new(LiveState::new(2, 1));
        for shard in live_state.shards() {
            shard.queries.add(5);
            shard.dropped(DropReason::Acl).add(1);
            shard.recursive_queries.add(4);
            shard.listener(ListenerSlot(0), true).stats.queries.add(3);
            let connections = &shard.backend(BackendSlot(0)).connections;
            connections.opened.add(2);
            connections.ended.add(1);
            connections.ended_queries.add(6);
            connections.ended_ms.add(2_500);
            live_state.backend(BackendSlot(0)).connected();
        }
        let feed = Feed::new(Arc::new(fixture::snapshot(7, &[0], &[0])), live_state);
        Monitor::new(&feed, Arc::default()).figures()
    }

    #[test]
    fn metrics_are_pairs_with_our_names_and_dnsdists() {
        let text = metrics(&figures());
        let words: Vec<&str> = text.split_whitespace().collect();
        let pairs: BTreeMap<&str, f64> =
            words.chunks_exact(2).map(|pair| (pair[0], pair[1].parse().expect("a number"))).collect();
        assert_eq!(words.len(), 2 * pairs.len(), "each name is there once");
        for (name, value) in [("queries", 8.0), ("recursive-queries", 8.0), ("rdqueries", 8.0)] {
            assert!((pairs[name] - value).abs() < 0.1, "{name}");
        }
        // What the dashboard of the package dnsdist_console reads.
        for name in [
            "queries",
            "cpu-sys-msec",
            "cpu-user-msec",
            "uptime",
            "acl-drops",
            "rule-drop",
            "cache-hits",
            "dyn-blocked",
        ] {
            assert!(pairs.contains_key(name), "{name}");
        }
    }

    #[test]
    fn pools_are_shown_with_their_caches() {
        let mut figures = figures();
        let mut snapshot = (*figures.snapshot).clone();
        snapshot.pools[0].cache = Some(Arc::new(PacketCache::new(CacheOptions::new(100), [1, 2, 3, 4])));
        // The slot of one that a reload has removed is none.
        snapshot.pools.push(crate::model::Pool::default());
        snapshot.pools.push(crate::model::Pool { name: "bare".to_owned(), ..crate::model::Pool::default() });
        figures.snapshot = Arc::new(snapshot);
        let text = pools(&figures);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["Name", "Cache", "Policy", "Up", "Servers"]);
        assert_eq!(words[1][..3], ["(default)", "0/100", "roundrobin"], "{text}");
        assert_eq!(words[2][..2], ["bare", "leastOutstanding"], "{text}");
    }

    #[test]
    fn certificates_are_shown_with_their_files_and_names() {
        let mut figures = figures();
        let mut snapshot = (*figures.snapshot).clone();
        let directory = Directory::new();
        let pair =
            directory.pair(&Authority::new("Root").issue_until(&["dns.example", "b.example"], 2026, 1, 2));
        let spec = ServerSpec { certificates: vec![pair.clone()], ..ServerSpec::default() };
        let tls = ServerTls::load(&spec).expect("a listener");
        let service = Service::Dot(ListenerTls(Arc::new(tls)));
        snapshot.listeners.push(Arc::new(Listener { service, ..fixture::listener(9) }));
        figures.snapshot = Arc::new(snapshot);
        let text = certificates(&figures);
        assert_eq!(text.lines().count(), 2, "{text}");
        let line = text.lines().nth(1).expect("a line");
        for part in ["0 ", &pair.certificate.display().to_string(), " 2026-01-02 ", "dns.example, b.example"]
        {
            assert!(line.contains(part), "{part} in {text}");
        }
    }

    /// The columns that dnsdist's users and their scripts know.
    #[test]
    fn servers_and_listeners_have_the_columns_of_dnsdist() {
        let figures = figures();
        let cells = |text: &str, line: usize| -> Vec<String> {
            text.lines().nth(line).expect("a line").split_whitespace().map(str::to_owned).collect()
        };
        let text = servers(&figures);
        let titles = "# Name Address State Qps Qlim Ord Wt Queries Drops Drate Lat TCP Outstanding Pools";
        assert_eq!(cells(&text, 0).join(" "), titles);
        assert_eq!(cells(&text, 1).join(" "), "0 ns0 192.0.2.0:53 down 0.0 0 1 1 0 0 0.0 - - 0");
        assert_eq!(text.lines().last().map(|all| all.starts_with("All ")), Some(true));
        // A server of the default pool, whose name is empty.
        let fields = |line: usize| text.lines().nth(line).map(|line| line.split(' ').next_back());
        assert_eq!((fields(0), fields(1)), (Some(Some("Pools")), Some(Some(""))));
        let text = listeners(&figures);
        assert_eq!(cells(&text, 0)[..4].join(" "), "# Address Protocol Queries");
        assert_eq!(cells(&text, 1), ["0", "127.0.0.1:5300", "UDP", "0", "-", "-"]);
        assert_eq!(cells(&text, 2), ["1", "127.0.0.1:5300", "TCP", "6", "-", "0"]);
    }

    #[test]
    fn connections_are_shown_by_listener_and_by_server() {
        let text = connections(&figures());
        let cells = |begin: &str| -> Vec<&str> {
            let line = text.lines().find(|l| l.starts_with(begin)).unwrap_or_else(|| panic!("{text}"));
            line.split_whitespace().collect()
        };
        assert_eq!(cells("127.0.0.1:5300"), ["127.0.0.1:5300", "TCP", "6", "0", "0", "0"]);
        let server = cells("ns0");
        assert_eq!(server[2..], ["2", "2", "4", "0", "0", "0", "0", "6.0", "2.5", "0.00"], "{server:?}");
        assert!(text.contains("\nclient-connections-opened 0\n"), "{text}");
    }
}
