//! Latencies as clients saw them, by listener, pool and response code, and as servers gave them.

use std::collections::BTreeMap;

use crate::base::addr::PoolSlot;
use crate::base::narrow::to_u16;
use crate::base::printable::Printable;
use crate::base::time::{Tick, TickDelta};
use crate::control::stats::figures::Figures;
use crate::control::stats::servers::aligned;
use crate::control::stats::text;
use crate::model::Snapshot;
use crate::stats::histogram::Latency;
use crate::stats::response_code::ResponseCode;

/// The percentiles that are shown.
pub(in crate::control) const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// Half of the time that recent latencies are of, at most.
const HALF: TickDelta = TickDelta::from_ms(30_000);

/// What latencies are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::control) enum Side {
    /// All clients.
    Clients,
    /// The clients of a listener, over one protocol.
    Listener,
    /// Queries for a pool.
    Pool,
    /// Answers with a response code.
    Answer,
    /// All servers.
    Servers,
    /// A server.
    Server,
}

impl Side {
    /// Its name.
    pub(in crate::control) const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Listener => "listener",
            Self::Pool => "pool",
            Self::Answer => "answer",
            Self::Servers => "servers",
            Self::Server => "server",
        }
    }
}

/// The latencies of one of them.
#[derive(Clone, Debug)]
pub(in crate::control) struct Row {
    pub(in crate::control) side: Side,
    /// Which listener, pool, code or server; empty for all.
    pub(in crate::control) name: String,
    pub(in crate::control) latency: Latency,
}

/// The pools with their names.
pub(in crate::control) fn pools(snapshot: &Snapshot) -> impl Iterator<Item = (PoolSlot, &str)> {
    let all = snapshot.pools.iter().enumerate().filter(|(at, pool)| *at == 0 || !pool.name.is_empty());
    all.map(|(at, pool)| {
        (PoolSlot(to_u16(at)), if pool.name.is_empty() { "_default_" } else { pool.name.as_str() })
    })
}

/// Returns what was counted since the start, of all that have answered: clients first.
pub(in crate::control) fn rows(f: &Figures) -> Vec<Row> {
    let (snapshot, live) = (&f.snapshot, &f.live_state);
    let row = |side, name: &str, latency| Row { side, name: name.to_owned(), latency };
    let mut all = Latency::default();
    let mut rows = Vec::new();
    for listener in snapshot.listeners.iter().filter(|l| l.service.relay().is_none()) {
        let stream = if listener.service.tls().is_some() { "tls" } else { "tcp" };
        for (by_connection, protocol) in [(false, "udp"), (true, stream)] {
            let latency = live.listener(listener.slot, by_connection).latency;
            all.add(&latency);
            rows.push(row(Side::Listener, &format!("{} {protocol}", listener.address), latency));
        }
    }
    rows.insert(0, row(Side::Clients, "", all));
    for (slot, name) in pools(snapshot) {
        rows.push(row(Side::Pool, name, live.pool(slot).latency));
    }
    for code in ResponseCode::ALL {
        rows.push(row(Side::Answer, code.label(), live.answers(code).latency));
    }
    rows.push(row(Side::Servers, "", f.total.latency().clone()));
    for backend in snapshot.backends.iter().flatten().filter(|b| !b.target) {
        if let Some(reading) = f.total.backends.get(&backend.slot) {
            rows.push(row(Side::Server, &backend.name, reading.latency.clone()));
        }
    }
    rows.retain(|row| row.latency.count() > 0);
    rows
}

/// Returns what was counted between two readings; what is not in the earlier one began later.
fn since(later: Vec<Row>, earlier: &[Row]) -> Vec<Row> {
    let earlier: BTreeMap<_, _> = earlier.iter().map(|row| ((row.side, &*row.name), &row.latency)).collect();
    let span = |row: Row| match earlier.get(&(row.side, &*row.name)) {
        Some(before) => Row { latency: row.latency.since(before), ..row },
        None => row,
    };
    later.into_iter().map(span).filter(|row| row.latency.count() > 0).collect()
}

/// The latencies of the last half to whole minute.
#[derive(Debug, Default)]
pub(in crate::control) struct RecentLatencies {
    /// What was counted at the beginning of this half of a minute, and of the one before.
    begun: Option<(Tick, Vec<Row>)>,
    before: Option<(Tick, Vec<Row>)>,
}

impl RecentLatencies {
    /// Takes the figures; once a second.
    pub(in crate::control) fn feed(&mut self, figures: &Figures) {
        let now = figures.total.at;
        if self.begun.as_ref().is_none_or(|(at, _)| now.since(*at) >= HALF) {
            self.before = self.begun.take();
            self.begun = Some((now, rows(figures)));
        }
    }

    /// Returns them, and in which time they were counted.
    pub(in crate::control) fn rows(&self, figures: &Figures) -> (TickDelta, Vec<Row>) {
        let now = rows(figures);
        match self.before.as_ref().or(self.begun.as_ref()) {
            Some((at, earlier)) => (figures.total.at.since(*at), since(now, earlier)),
            None => (TickDelta(0), now),
        }
    }
}

/// A line for each: how many, and the percentiles in milliseconds.
pub(in crate::control) fn table(rows: &[Row]) -> String {
    let titles = ["Latency of", "Which", "Answers"].into_iter().chain(PERCENTILES.map(|(name, _)| name));
    let mut lines = vec![titles.map(str::to_owned).collect::<Vec<_>>()];
    for row in rows {
        let percentiles = row.latency.quantiles(PERCENTILES.map(|(_, share)| share)).unwrap_or_default();
        let mut line = vec![
            row.side.name().to_owned(),
            Printable(&row.name).to_string(),
            row.latency.count().to_string(),
        ];
        line.extend(percentiles.map(text::ms));
        lines.push(line);
    }
    aligned(&lines)
}
