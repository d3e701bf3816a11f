//! How figures look: the line of `--stats` and the dump on SIGUSR1.

use std::fmt::Write;

use crate::base::addr::BackendSlot;
use crate::base::time::TickDelta;
use crate::control::health::Failure;
use crate::control::stats::{BackendReading, ForwardReading, Reading};
use crate::model::{Backend, HealthMode, Snapshot};
use crate::stats::close_reason::RelayCloseReason;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::State;

const MS: f64 = 1e6;

/// What is known of a backend beside its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Failed probes by reason.
    pub failed: [u64; Failure::ALL.len()],
}

/// The name of a state as tables and logs have it; in capitals where the operator forced it.
#[must_use]
pub const fn state_name(state: State, mode: HealthMode) -> &'static str {
    match (state, mode) {
        (State::Up, HealthMode::Up) => "UP",
        (State::Up, _) => "up",
        (State::Down, HealthMode::Down) => "DOWN",
        (State::Down, _) => "down",
        (State::Draining, _) => "DRAIN",
        (State::Ejected, _) => "ejected",
    }
}

/// One line over what happened in the last `span`.
#[must_use]
pub fn line(
    interval: &Reading,
    span: TickDelta,
    snapshot: &Snapshot,
    standing: &dyn Fn(BackendSlot) -> Standing,
) -> String {
    let mut out = String::new();
    let answers = interval.responses + interval.self_answered;
    let _ = write!(out, "q/s {:.0}  a/s {:.0}", rate(interval.queries, span), rate(answers, span));
    for reason in DropReason::ALL {
        let count = interval.drops[reason];
        if count > 0 {
            let _ = write!(out, "  {} {count}", reason.label());
        }
    }
    if let Some([p50, p90, p99, p999]) = interval.latency(snapshot).quantiles([0.5, 0.9, 0.99, 0.999]) {
        let _ = write!(out, "  p50 {} p90 {} p99 {} p99.9 {} ms", ms(p50), ms(p90), ms(p99), ms(p999));
    }
    if interval.relays.opened + interval.relays.open > 0 {
        let ForwardReading { opened, open, bytes, .. } = &interval.relays;
        let [there, back] = bytes.map(|bytes| rate(bytes, span) / 1e6);
        let opened = rate(*opened, span);
        let _ = write!(
            out,
            "  relays {open} open {opened:.0}/s {there:.1} MB/s to targets {back:.1} MB/s to clients"
        );
    }
    let queries = with_readings(interval, snapshot).filter(|(backend, _)| !backend.target);
    let sent: u64 = queries.map(|(_, b)| b.queries).sum();
    for (backend, reading) in with_readings(interval, snapshot) {
        let state = state_name(standing(backend.slot).state, backend.health.mode);
        if backend.target {
            let _ = write!(out, " | {} {} open", backend.name, reading.outstanding);
        } else {
            let share = if sent == 0 { 0.0 } else { reading.queries as f64 * 100.0 / sent as f64 };
            let _ = write!(out, " | {} {share:.1}% {} out", backend.name, reading.outstanding);
        }
        if let Some([p50]) = reading.latency.quantiles([0.5]) {
            let _ = write!(out, " {} ms", ms(p50));
        }
        let _ = write!(out, " {state}");
    }
    out
}

/// Lines that were to be written somewhere, and were not.
#[must_use]
pub fn lost(lines: &[(&str, u64)]) -> String {
    lines.iter().fold(String::new(), |mut out, (place, count)| {
        let _ = writeln!(out, "{place}-lines-lost {count}");
        out
    })
}

/// Every counter since the start, and a table of the servers with rates over `recent`'s `span`.
#[must_use]
pub fn dump(
    total: &Reading,
    recent: &Reading,
    span: TickDelta,
    snapshot: &Snapshot,
    standing: &dyn Fn(BackendSlot) -> Standing,
) -> String {
    let mut out = String::new();
    for (name, value) in [
        ("generation", snapshot.generation),
        ("queries", total.queries),
        ("responses", total.responses),
        ("self-answered", total.self_answered),
        ("retries", total.retries),
        ("outstanding", total.outstanding),
        ("shard-restarts", total.restarts),
        ("script-errors", total.script_errors),
    ] {
        let _ = writeln!(out, "{name} {value}");
    }
    for reason in DropReason::ALL {
        let _ = writeln!(out, "drop-{} {}", reason.label(), total.drops[reason]);
    }
    for (name, value) in quantile_names()
        .into_iter()
        .zip(total.latency(snapshot).quantiles([0.5, 0.9, 0.99, 0.999]).unwrap_or_default())
    {
        let _ = writeln!(out, "{name} {}", ms(value));
    }
    if snapshot.listeners.iter().any(|l| l.service.relay().is_some()) || total.relays.opened > 0 {
        out.push_str(&relays(&total.relays));
    }
    out.push_str(&servers(total, recent, span, snapshot, standing));
    out
}

fn relays(reading: &ForwardReading) -> String {
    let mut out = String::new();
    for (name, value) in [
        ("relay-opened", reading.opened),
        ("relay-open", reading.open),
        ("relay-bytes-to-targets", reading.bytes[0]),
        ("relay-bytes-to-clients", reading.bytes[1]),
    ] {
        let _ = writeln!(out, "{name} {value}");
    }
    for why in RelayCloseReason::ALL {
        let _ = writeln!(out, "relay-end-{} {}", why.label(), reading.ends[why.index()]);
    }
    out
}

const fn quantile_names() -> [&'static str; 4] {
    ["latency-p50-ms", "latency-p90-ms", "latency-p99-ms", "latency-p99.9-ms"]
}

const COLUMNS: [&str; 17] = [
    "#",
    "Name",
    "Address",
    "State",
    "Qps",
    "Limit",
    "Order",
    "Weight",
    "Queries",
    "Drops",
    "Drate",
    "Servfails",
    "Unexpected",
    "P50",
    "Outstanding",
    "Failed checks",
    "Pools",
];

/// Columns of words, which stand at their left edge; numbers stand at their right.
const WORDS: [usize; 5] = [1, 2, 3, 15, 16];

fn servers(
    total: &Reading,
    recent: &Reading,
    span: TickDelta,
    snapshot: &Snapshot,
    standing: &dyn Fn(BackendSlot) -> Standing,
) -> String {
    let mut rows = vec![COLUMNS.map(String::from)];
    let nothing = BackendReading::default();
    let mut sum = BackendReading::default();
    let mut sum_recent = BackendReading::default();
    for (n, (backend, all)) in with_readings(total, snapshot).enumerate() {
        let last = recent.backends.get(&backend.slot).unwrap_or(&nothing);
        let standing = standing(backend.slot);
        for (sum, part) in [(&mut sum, all), (&mut sum_recent, last)] {
            sum.queries += part.queries;
            sum.timeouts += part.timeouts;
            sum.send_errors += part.send_errors;
            sum.servfails += part.servfails;
            sum.unexpected += part.unexpected;
            sum.outstanding += part.outstanding;
        }
        rows.push([
            n.to_string(),
            backend.name.clone(),
            backend.address.to_string(),
            state_name(standing.state, backend.health.mode).into(),
            format!("{:.1}", rate(last.queries, span)),
            backend.qps.to_string(),
            backend.order.to_string(),
            backend.weight.to_string(),
            all.queries.to_string(),
            all.lost().to_string(),
            format!("{:.1}", rate(last.lost(), span)),
            all.servfails.to_string(),
            all.unexpected.to_string(),
            all.latency.quantiles([0.5]).map_or_else(|| "-".into(), |[p50]| ms(p50)),
            all.outstanding.to_string(),
            failures(&standing.failed),
            pools(snapshot, backend),
        ]);
    }
    let mut last: [String; COLUMNS.len()] = Default::default();
    for (at, text) in [
        (0, "All".to_owned()),
        (4, format!("{:.1}", rate(sum_recent.queries, span))),
        (8, sum.queries.to_string()),
        (9, sum.lost().to_string()),
        (10, format!("{:.1}", rate(sum_recent.lost(), span))),
        (11, sum.servfails.to_string()),
        (12, sum.unexpected.to_string()),
        (14, sum.outstanding.to_string()),
    ] {
        last[at] = text;
    }
    rows.push(last);
    aligned(&rows)
}

/// The widest column; longer cells, as the pools of a server in thousands of them, stand out of it.
const CELL_CHARS: usize = 64;

/// Columns as wide as their widest cell, two spaces apart, nothing behind the last.
fn aligned(rows: &[[String; COLUMNS.len()]]) -> String {
    let widths: Vec<usize> =
        (0..COLUMNS.len()).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column].min(CELL_CHARS);
            // The first column begins the line: showServers' header starts with its "#".
            if column == 0 || WORDS.contains(&column) {
                let _ = write!(text, "{cell:<width$}  ");
            } else {
                let _ = write!(text, "{cell:>width$}  ");
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

fn failures(failed: &[u64; Failure::ALL.len()]) -> String {
    let parts: Vec<String> = Failure::ALL
        .iter()
        .zip(failed)
        .filter(|(_, n)| **n > 0)
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    if parts.is_empty() { "-".into() } else { parts.join(", ") }
}

/// Names of the pools it is in; the default pool, which has no name, is not said.
fn pools(snapshot: &Snapshot, backend: &Backend) -> String {
    let names: Vec<&str> = snapshot
        .pools
        .iter()
        .filter(|p| !p.name.is_empty() && p.members.contains(&backend.slot))
        .map(|p| p.name.as_str())
        .collect();
    names.join(" ")
}

fn with_readings<'a>(
    reading: &'a Reading,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (&'a Backend, &'a BackendReading)> {
    snapshot.backends.iter().flatten().filter_map(|b| Some((&**b, reading.backends.get(&b.slot)?)))
}

fn rate(count: u64, span: TickDelta) -> f64 {
    if span.0 == 0 { 0.0 } else { count as f64 * 1e9 / span.0 as f64 }
}

/// Milliseconds with the digits that mean something (a bucket is 3 % wide).
fn ms(ns: u64) -> String {
    let ms = ns as f64 / MS;
    if ms < 1.0 {
        format!("{ms:.3}")
    } else if ms < 100.0 {
        format!("{ms:.2}")
    } else {
        format!("{ms:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Tick;
    use crate::control::fixture;
    use crate::control::stats::Gatherer;
    use crate::stats::live::LiveState;

    fn standing(slot: BackendSlot) -> Standing {
        match slot.0 {
            0 => Standing { state: State::Up, failed: [0; 6] },
            _ => Standing { state: State::Down, failed: [2, 0, 0, 0, 1, 0] },
        }
    }

    fn context() -> (Snapshot, Reading, Reading) {
        let snapshot = fixture::snapshot(3, &[], &[0, 1]);
        let live_state = LiveState::new(1, 2);
        let mut gatherer = Gatherer::default();
        let slots = [BackendSlot(0), BackendSlot(1)];
        let stats = &live_state.shards()[0];
        stats.queries.add(1000);
        stats.responses.add(990);
        stats.backend(slots[0]).queries.add(750);
        stats.backend(slots[1]).queries.add(250);
        stats.backend(slots[1]).timeouts.add(10);
        stats.dropped(DropReason::Timeout).add(10);
        let first = gatherer.gather(&live_state, slots.into_iter(), Tick(0));
        stats.queries.add(200);
        stats.responses.add(198);
        stats.self_answered.add(2);
        stats.backend(slots[0]).queries.add(150);
        stats.backend(slots[1]).queries.add(50);
        for _ in 0..150 {
            stats.backend(slots[0]).latency.record(128_000);
        }
        stats.dropped(DropReason::NoServer).add(7);
        let second = gatherer.gather(&live_state, slots.into_iter(), Tick(2_000_000_000));
        let recent = second.since(&first);
        (snapshot, second, recent)
    }

    #[test]
    fn the_line_of_an_interval() {
        let (snapshot, _, recent) = context();
        assert_eq!(
            line(&recent, TickDelta::from_ms(2000), &snapshot, &standing),
            "q/s 100  a/s 100  no-server 7  p50 0.128 p90 0.128 p99 0.128 p99.9 0.128 ms \
             | ns0 75.0% 0 out 0.128 ms up | ns1 25.0% 0 out down"
        );
    }

    #[test]
    fn a_silent_interval_divides_by_nothing() {
        let snapshot = fixture::snapshot(1, &[], &[]);
        assert_eq!(line(&Reading::default(), TickDelta(0), &snapshot, &standing), "q/s 0  a/s 0");
    }

    #[test]
    fn the_dump_has_every_counter_and_the_table_of_servers() {
        let (snapshot, total, recent) = context();
        let text = dump(&total, &recent, TickDelta::from_ms(2000), &snapshot, &standing);
        let (counters, table) = text.split_once('#').expect("a table");
        assert!(
            counters.starts_with("generation 3\nqueries 1200\nresponses 1188\nself-answered 2\n"),
            "{counters}"
        );
        for reason in DropReason::ALL {
            assert!(counters.contains(&format!("\ndrop-{} ", reason.label())), "{reason:?}");
        }
        assert!(counters.contains("\ndrop-timeout 10\n") && counters.contains("\ndrop-acl 0\n"));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "    Name  Address       State    Qps  Limit  Order  Weight  Queries  Drops  Drate  Servfails  Unexpected    P50  Outstanding  Failed checks         Pools",
                "0    ns0   192.0.2.0:53  up      75.0      0      1       1      900      0    0.0          0           0  0.128            0  -",
                "1    ns1   192.0.2.1:53  down    25.0      0      1       1      300     10    0.0          0           0      -            0  timeout 2, invalid 1",
                "All                             100.0                           1200     10    0.0          0           0                   0",
            ]
        );
    }

    #[test]
    fn forced_states_are_in_capitals() {
        assert_eq!(state_name(State::Up, HealthMode::Up), "UP");
        assert_eq!(state_name(State::Up, HealthMode::Lazy), "up");
        assert_eq!(state_name(State::Down, HealthMode::Down), "DOWN");
        assert_eq!(state_name(State::Ejected, HealthMode::Auto), "ejected");
    }
}
