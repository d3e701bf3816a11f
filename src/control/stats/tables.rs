//! The tables of the console: each is a text of aligned columns, with their titles in the first
//! line.

use std::fmt::Write;

use crate::base::printable::Printable;
use crate::config::functions::policies;
use crate::control::stats::connections as connection_lines;
use crate::control::stats::figures::Figures;
use crate::control::stats::servers::{self, aligned};
use crate::control::stats::text::{self, lines, state_name, with_readings};
use crate::model::{Backend, Service};
use crate::stats::live::State;
use crate::stats::meter::Value;
use crate::stats::registry::{BackendReading, Metric};

/// Columns of the widest bar.
const BAR: u64 = 60;
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
        "P50",
        "P99",
        "Outstanding",
        "Pools",
    ];
    let nothing = BackendReading::default();
    let mut rows = vec![row(TITLES.map(String::from))];
    let (mut queries, mut lost, mut rate) = (0, 0, 0.0);
    for (at, (backend, all)) in with_readings(&f.total, &f.snapshot).enumerate() {
        let recent = f.recent.backends.get(&backend.slot).unwrap_or(&nothing);
        let qps = text::rate(recent.queries, f.span);
        let times = recent.latency.quantiles([0.5, 0.99]).map(|times| times.map(text::ms));
        // The median stands where dnsdist's clients look for the latency.
        let [median, p99] = times.unwrap_or_else(|| ["-", "-"].map(String::from));
        queries += all.queries;
        lost += all.lost();
        rate += qps;
        rows.push(row([
            at.to_string(),
            backend.name.clone(),
            backend.address.to_string(),
            state_name(f.standing(backend.slot).state, backend.health.mode).to_owned(),
            format!("{qps:.1}"),
            backend.qps.to_string(),
            backend.order.to_string(),
            backend.weight.to_string(),
            all.queries.to_string(),
            all.lost().to_string(),
            format!("{:.1}", text::rate(recent.lost(), f.span)),
            median,
            p99,
            all.outstanding.to_string(),
            servers::pools(&f.snapshot, backend),
        ]));
    }
    let mut all: [String; TITLES.len()] = Default::default();
    (all[0], all[4], all[8], all[9]) =
        ("All".to_owned(), format!("{rate:.1}"), queries.to_string(), lost.to_string());
    rows.push(row(all));
    aligned(&rows)
}

/// The pools, with their policies and their servers.
pub(crate) fn pools(f: &Figures) -> String {
    let mut rows = vec![row(["Name", "Policy", "Up", "Servers"].map(String::from))];
    for pool in &f.snapshot.pools {
        let members: Vec<&Backend> =
            pool.members.iter().filter_map(|slot| f.snapshot.backend(*slot)).map(|b| &**b).collect();
        let up = members.iter().filter(|b| f.standing(b.slot).state == State::Up).count();
        let shown = members.iter().map(|b| {
            let state = state_name(f.standing(b.slot).state, b.health.mode);
            format!("{} ({state})", if b.name.is_empty() { b.address.to_string() } else { b.name.clone() })
        });
        rows.push(row([
            if pool.name.is_empty() { "(default)".to_owned() } else { pool.name.clone() },
            policies::name(pool.policy.kind).to_owned(),
            format!("{up}/{}", members.len()),
            shown.collect::<Vec<_>>().join(", "),
        ]));
    }
    aligned(&rows)
}

/// What a listener serves.
const fn protocol(service: &Service) -> &'static str {
    match service {
        Service::Dns => "Do53 UDP and TCP",
        Service::DnsUdp => "Do53 UDP",
        Service::Dot(_) => "DNS over TLS",
        Service::TcpRelay(_) => "TCP relay",
        Service::UdpRelay(_) => "UDP relay",
    }
}

/// The listeners.
pub(crate) fn listeners(f: &Figures) -> String {
    let mut rows = vec![row(["#", "Address", "Protocol", "Interface", "Connections"].map(String::from))];
    for (at, listener) in f.snapshot.listeners.iter().enumerate() {
        let open = f.live_state.connection_limits().by_listener(listener.slot);
        rows.push(row([
            at.to_string(),
            listener.address.to_string(),
            protocol(&listener.service).to_owned(),
            listener.interface.clone().unwrap_or_else(|| "-".to_owned()),
            open.to_string(),
        ]));
    }
    aligned(&rows)
}

/// Connections of clients and to servers.
pub(crate) fn connections(f: &Figures) -> String {
    let mut out = String::new();
    lines(&mut out, f.total.shards.clients.values());
    lines(&mut out, f.descriptors.values());
    connection_lines::dump(&mut out, &f.total, &f.snapshot, &f.live_state, f.unix);
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

/// A bar for each range of latencies, and the percentiles.
pub(crate) fn latency(f: &Figures) -> String {
    let reading = f.total.latency(&f.snapshot);
    let latency = &reading.latency;
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
    out
}

/// The metrics of the whole process as pairs of name and value, two in a line, as dnsdist's clients
/// read them.
pub(crate) fn metrics(f: &Figures) -> String {
    let mut all = counters(f);
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let half = all.len().div_ceil(2);
    let mut out = String::new();
    for at in 0..half {
        let pair = |(name, value): &(String, f64)| format!("{name:<44} {value:>16}");
        let row: Vec<String> = [at, at + half].iter().filter_map(|at| all.get(*at)).map(pair).collect();
        // Writing into a string does not fail.
        let _ = writeln!(out, "{}", row.join("    "));
    }
    out
}

/// The metrics of the whole process that have one value each, by name.
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
    f.descriptors.values().for_each(&mut add);
    f.total.shards.values().for_each(&mut add);
    f.total.shards.clients.values().for_each(&mut add);
    f.total.shards.relays.values().for_each(&mut add);
    f.total.latency(&f.snapshot).values().for_each(&mut add);
    out
}
