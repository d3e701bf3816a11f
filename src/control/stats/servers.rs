//! The table of the servers in the dump of SIGUSR1: what is configured, and a column for each metric.

use std::fmt::Write;

use crate::base::addr::BackendSlot;
use crate::base::printable::Printable;
use crate::base::time::TickDelta;
use crate::control::stats::Reading;
use crate::control::stats::text::{Standing, cell, rate, state_name, with_readings};
use crate::model::{Backend, Snapshot};
use crate::stats::check_failure::Failure;
use crate::stats::meter::{Counts, Kind, Value};
use crate::stats::registry::{BackendReading, CheckReading, Metric};

/// Columns in front of the metrics.
const FRONT: [&str; 8] = ["#", "Name", "Address", "State", "Qps", "Limit", "Order", "Weight"];
/// Columns that are worked out of metrics: queries that were lost, and in a second.
const LOST: [&str; 2] = ["Drops", "Drate"];
/// Columns behind the metrics.
const BACK: [&str; 2] = ["Failed checks", "Pools"];

/// Columns of words, which stand at their left edge; numbers stand at their right.
const WORDS: [&str; 12] = [
    "Name",
    "Address",
    "State",
    "Failed checks",
    "Pools",
    "Policy",
    "Servers",
    "Protocol",
    "Interface",
    "Reasons",
    "Certificates",
    "Up",
];

/// A row for each server, with rates over `recent`'s `span`, and one for all of them.
pub(super) fn table(
    total: &Reading,
    recent: &Reading,
    span: TickDelta,
    snapshot: &Snapshot,
    standing: &dyn Fn(BackendSlot) -> Standing,
) -> String {
    let nothing = BackendReading::default();
    let titles = nothing.values().map(|(metric, _)| title(metric)).collect();
    let mut rows = vec![row(FRONT.map(String::from), titles, LOST.map(String::from), BACK.map(String::from))];
    let (mut sum, mut sum_recent) = (BackendReading::default(), BackendReading::default());
    for (n, (backend, all)) in with_readings(total, snapshot).enumerate() {
        let last = recent.backends.get(&backend.slot).unwrap_or(&nothing);
        let standing = standing(backend.slot);
        sum.add(all);
        sum_recent.add(last);
        let front = [
            n.to_string(),
            backend.name.clone(),
            backend.address.to_string(),
            state_name(standing.state, backend.health.mode).into(),
            per_second(last.queries, span),
            backend.qps.to_string(),
            backend.order.to_string(),
            backend.weight.to_string(),
        ];
        let metrics = all.values().map(|(_, value)| cell(value)).collect();
        let lost = [all.lost().to_string(), per_second(last.lost(), span)];
        rows.push(row(front, metrics, lost, [failures(&standing), pools(snapshot, backend)]));
    }
    let mut front: [String; FRONT.len()] = Default::default();
    (front[0], front[4]) = ("All".into(), per_second(sum_recent.queries, span));
    // Targets of relays answer to other things than queries: there is no latency of all.
    let metrics = sum
        .values()
        .map(|(_, value)| if matches!(value, Value::Latency(_)) { String::new() } else { cell(value) })
        .collect();
    let lost = [sum.lost().to_string(), per_second(sum_recent.lost(), span)];
    rows.push(row(front, metrics, lost, Default::default()));
    aligned(&rows)
}

/// The cells of a row. As in `showServers()`, what was lost stands behind the queries, which are the
/// first metric.
fn row(
    front: [String; FRONT.len()],
    mut metrics: Vec<String>,
    lost: [String; LOST.len()],
    back: [String; BACK.len()],
) -> Vec<String> {
    metrics.splice(1..1, lost);
    let cells = front.into_iter().chain(metrics).chain(back);
    cells.map(|cell| Printable(cell).to_string()).collect()
}

/// A column's title: `backend-send-errors` is "Send errors".
pub(super) fn title(metric: &Metric) -> String {
    if metric.kind == Kind::Histogram {
        return "P50".into();
    }
    let name = BackendReading::SET.short(metric).replace('-', " ");
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}

fn per_second(count: u64, span: TickDelta) -> String {
    format!("{:.1}", rate(count, span))
}

/// The widest column; longer cells, as the pools of a server in thousands of them, stand out of it.
const CELL_CHARS: usize = 64;

/// Columns as wide as their widest cell, two spaces apart, nothing behind the last.
pub(in crate::control) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column].min(CELL_CHARS);
            // The first column begins the line: showServers' header starts with its "#".
            if column == 0 || WORDS.contains(&rows[0][column].as_str()) {
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

fn failures(standing: &Standing) -> String {
    let failed = Counts::of(|why: Failure| standing.failed[why.index()]);
    let reading = CheckReading { failed, changes: standing.changes };
    let mut parts = Vec::new();
    for (metric, value) in reading.values() {
        let Value::Reasons(counts) = value else { continue };
        let met = metric.reasons.iter().zip(counts).filter(|(_, count)| **count > 0);
        parts.extend(met.map(|((label, _), count)| format!("{label} {count}")));
    }
    if parts.is_empty() { "-".into() } else { parts.join(", ") }
}

/// Names of the pools it is in; the default pool, which has no name, is not said.
pub(super) fn pools(snapshot: &Snapshot, backend: &Backend) -> String {
    let names: Vec<&str> = snapshot
        .pools
        .iter()
        .filter(|p| !p.name.is_empty() && p.members.contains(&backend.slot))
        .map(|p| p.name.as_str())
        .collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::stats::text::tests::{context, standing};

    #[test]
    fn each_server_has_a_row_and_all_together_one() {
        let (snapshot, total, recent) = context();
        let table = table(&total, &recent, TickDelta::from_ms(2000), &snapshot, &standing);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "#    Name  Address       State    Qps  Limit  Order  Weight  Queries  Drops  Drate  Copies  Responses  Timeouts  Send errors  Servfails  Unexpected  Foreign  Foreign bursts  Redraws    P50  Outstanding  Failed checks         Pools",
                "0    ns0   192.0.2.0:53  up      75.0      0      1       1      900      0    0.0       0          0         0            0          0           0        0               0        0  0.128            0  -",
                "1    ns1   192.0.2.1:53  down    25.0      0      1       1      300     10    0.0       0          0        10            0          0           0        0               0        0      -            0  timeout 2, invalid 1",
                "All                             100.0                           1200     10    0.0       0          0        10            0          0           0        0               0        0                   0",
            ]
        );
    }
}
