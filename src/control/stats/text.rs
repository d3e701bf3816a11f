//! How figures look: the line of `--stats`, and metrics as lines.

use std::fmt::Write;

use crate::base::addr::BackendSlot;
use crate::base::printable::Printable;
use crate::base::time::TickDelta;
use crate::control::history::has_share;
use crate::control::stats::Reading;
use crate::model::{Backend, HealthMode, Snapshot};
use crate::stats::check_failure::Failure;
use crate::stats::drop_reason::DropReason;
use crate::stats::histogram::Latency;
use crate::stats::live::{LiveState, State};
use crate::stats::meter::Value;
use crate::stats::registry::{BackendReading, Metric, Set};

const MS: f64 = 1e6;

/// What is known of a backend beside its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Failed probes by reason.
    pub failed: [u64; Failure::ALL.len()],
    /// Times that it came up or went down.
    pub changes: u64,
}

impl Standing {
    /// That of a backend at this moment.
    #[must_use]
    pub fn of(live_state: &LiveState, slot: BackendSlot) -> Self {
        let live = live_state.backend(slot);
        Self { state: live.state(), failed: live.checks_failed(), changes: live.state_changes() }
    }
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
    let shards = &interval.shards;
    let (queries, answers) = (shards.queries, interval.answers());
    let _ = write!(out, "q/s {:.0}  a/s {:.0}", rate(queries, span), rate(answers, span));
    for reason in DropReason::ALL {
        let count = shards.drops[reason];
        if count > 0 {
            let _ = write!(out, "  {} {count}", reason.label());
        }
    }
    if let Some([p50, p90, p99, p999]) = quantiles(interval.latency()) {
        let _ = write!(out, "  p50 {} p90 {} p99 {} p99.9 {} ms", ms(p50), ms(p90), ms(p99), ms(p999));
    }
    let relays = &shards.relays;
    if relays.opened + relays.open > 0 {
        let [there, back] = [relays.bytes_out, relays.bytes_back].map(|bytes| rate(bytes, span) / 1e6);
        let (open, opened) = (relays.open, rate(relays.opened, span));
        let _ = write!(
            out,
            "  relays {open} open {opened:.0}/s {there:.1} MB/s to targets {back:.1} MB/s to clients"
        );
    }
    let shared = with_readings(interval, snapshot).filter(|(backend, _)| has_share(backend));
    let sent: u64 = shared.map(|(_, b)| b.shared()).sum();
    for (backend, reading) in with_readings(interval, snapshot) {
        let state = state_name(standing(backend.slot).state, backend.health.mode);
        if backend.target {
            let _ = write!(out, " | {} {} open", backend.name, reading.outstanding);
        } else {
            let share = if sent == 0 { 0.0 } else { reading.shared() as f64 * 100.0 / sent as f64 };
            let _ = write!(out, " | {} {share:.1}% {} out", backend.name, reading.outstanding);
        }
        if let Some([p50]) = reading.latency.quantiles([0.5]) {
            let _ = write!(out, " {} ms", ms(p50));
        }
        let _ = write!(out, " {state}");
    }
    Printable(out).to_string()
}

/// A line for each metric of a set without labels, and for each reason that one is counted by.
pub(super) fn lines<'r>(out: &mut String, values: impl Iterator<Item = (&'static Metric, Value<'r>)>) {
    for (metric, value) in values {
        let name = metric.name;
        match value {
            Value::Count(count) => _ = writeln!(out, "{name} {count}"),
            Value::Signed(level) => _ = writeln!(out, "{name} {level}"),
            Value::Reasons(counts) => {
                for ((label, _), count) in metric.reasons.iter().zip(counts) {
                    let _ = writeln!(out, "{name}-{label} {count}");
                }
            }
            Value::Latency(latency) => {
                for (quantile, ns) in QUANTILES.iter().zip(quantiles(latency).unwrap_or_default()) {
                    let _ = writeln!(out, "{name}-{quantile}-ms {}", ms(ns));
                }
            }
        }
    }
}

/// One line for a set with labels: the set's name, what it is of, and each metric; reasons only
/// where they were met.
pub(super) fn labelled<'r>(
    out: &mut String,
    set: &Set,
    of: &str,
    values: impl Iterator<Item = (&'static Metric, Value<'r>)>,
) {
    let _ = write!(out, "{} {}", set.name, Printable(of));
    for (metric, value) in values {
        if let Value::Reasons(counts) = value {
            for ((label, _), count) in metric.reasons.iter().zip(counts).filter(|(_, count)| **count > 0) {
                let _ = write!(out, " {label} {count}");
            }
        } else {
            let _ = write!(out, " {} {}", set.short(metric), cell(value));
        }
    }
    out.push('\n');
}

/// A metric of one value, in a line or table with others.
pub(super) fn cell(value: Value<'_>) -> String {
    match value {
        Value::Count(count) => count.to_string(),
        Value::Signed(level) => level.to_string(),
        Value::Reasons(counts) => counts.iter().sum::<u64>().to_string(),
        Value::Latency(latency) => latency.quantiles([0.5]).map_or_else(|| "-".into(), |[p50]| ms(p50)),
    }
}

/// The part of the latencies that is shown of them all.
const QUANTILES: [&str; 4] = ["p50", "p90", "p99", "p99.9"];

fn quantiles(latency: &Latency) -> Option<[u64; QUANTILES.len()]> {
    latency.quantiles([0.5, 0.9, 0.99, 0.999])
}

pub(super) fn with_readings<'a>(
    reading: &'a Reading,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (&'a Backend, &'a BackendReading)> {
    snapshot.listed().filter_map(|b| Some((b, reading.backends.get(&b.slot)?)))
}

pub(in crate::control) fn rate(count: u64, span: TickDelta) -> f64 {
    if span.0 == 0 { 0.0 } else { count as f64 * 1e9 / span.0 as f64 }
}

/// Milliseconds with the digits that mean something (a bucket is 3 % wide).
pub(in crate::control) fn ms(ns: u64) -> String {
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
pub(super) mod tests {
    use super::*;
    use crate::base::time::Tick;
    use crate::control::fixture;
    use crate::control::stats::Gatherer;

    pub(in crate::control::stats) fn standing(slot: BackendSlot) -> Standing {
        match slot.0 {
            0 => Standing { state: State::Up, failed: [0; 6], changes: 0 },
            _ => Standing { state: State::Down, failed: [2, 0, 0, 0, 1, 0], changes: 5 },
        }
    }

    pub(in crate::control::stats) fn context() -> (Snapshot, Reading, Reading) {
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
        stats.responses.add(178);
        stats.cache_hits.add(20);
        stats.self_answered.add(2);
        stats.backend(slots[0]).queries.add(150);
        stats.backend(slots[1]).queries.add(50);
        for _ in 0..150 {
            stats.backend(slots[0]).latency.record(128_000);
            stats.servers.latency.record(128_000);
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
    fn forced_states_are_in_capitals() {
        assert_eq!(state_name(State::Up, HealthMode::Up), "UP");
        assert_eq!(state_name(State::Up, HealthMode::Lazy), "up");
        assert_eq!(state_name(State::Down, HealthMode::Down), "DOWN");
        assert_eq!(state_name(State::Ejected, HealthMode::Auto), "ejected");
    }
}
