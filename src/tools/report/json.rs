//! A report as JSON. Its members are never renamed or removed; new ones may come.

use serde_json::{Map, Value, json};

use crate::config::criteria::Figures;
use crate::tools::load::failures::Failures;
use crate::tools::load::spans::Spans;
use crate::tools::load::tally::CODES;
use crate::tools::load::totals::{Row, Totals};
use crate::tools::report::machine::Machine;
use crate::tools::report::{PERCENTILES, Report, text};
use crate::wire::codes;

/// The format of the document.
const FORMAT: u32 = 1;

/// Writes the report.
pub(crate) fn json(report: &Report, machine: &Machine, replay: Option<Value>) -> String {
    let totals = &report.totals;
    let (counts, codes) = (counts(totals), codes(totals));
    let ramp = report.ramp.as_ref().map(|ramp| {
        let steps: Vec<Value> = ramp
            .steps
            .iter()
            .map(|step| {
                json!({
                    "rate": step.rate, "sent": step.sent, "answered": step.answered,
                    "p99_ns": known(step.answered, step.p99_ns), "good": step.wrong.is_empty(),
                    "wrong": step.wrong,
                })
            })
            .collect();
        json!({ "limits": ramp.limits, "rate": ramp.best, "end": ramp.end, "steps": steps })
    });
    let mut document = json!({
        "format": FORMAT,
        "tool": report.tool,
        "version": machine.version,
        "command": machine.command,
        "machine": {
            "cpu": machine.cpu, "cpus": machine.cpus, "kernel": machine.kernel, "memory_mb": machine.memory_mb,
        },
        "begun": report.begun,
        "target": report.target,
        "transport": report.transport,
        "load": report.load,
        "threads": report.threads,
        "interrupted": report.interrupted,
        "seconds_sending": totals.seconds,
        "rate_wanted": report.rate_wanted,
        "rate_sent": if totals.seconds > 0.0 { totals.counts.sent as f64 / totals.seconds } else { 0.0 },
        "rate_answered": totals.rate(),
        "counts": counts,
        "lost": totals.counts.lost(),
        "wrong": totals.counts.wrong(),
        "unsent": totals.counts.unsent(),
        "rcodes": codes,
        "latency_ns": histogram(&totals.latency),
        "latency_naive_ns": histogram(&totals.naive),
        "lag_ns": histogram(&totals.lag),
        "seconds": seconds(totals),
        "ramp": ramp,
        "connect_failures": failures(&report.failures),
        "failed": report.failed,
        "notes": report.notes,
    });
    if let Some(replay) = replay {
        document["replay"] = replay;
    }
    format!("{document:#}\n")
}

/// Returns a latency, unless nothing was answered.
fn known(answered: u64, ns: u64) -> Option<u64> {
    (answered > 0).then_some(ns)
}

/// Writes what happened in each second.
pub(super) fn seconds(totals: &Totals) -> Vec<Value> {
    let row = |row: &Row| {
        json!({
            "second": row.second, "wanted": row.wanted, "sent": row.sent, "answered": row.answered,
            "lost": row.lost, "wrong": row.wrong, "p50_ns": known(row.answered, row.p50_ns),
            "p99_ns": known(row.answered, row.p99_ns), "max_ns": known(row.answered, row.max_ns),
        })
    };
    totals.rows.iter().map(row).collect()
}

/// Writes why connections could not be made.
pub(super) fn failures(of: &Failures) -> Map<String, Value> {
    of.all().iter().map(|(why, n)| (why.clone(), (*n).into())).collect()
}

/// Writes what was counted.
pub(super) fn counts(totals: &Totals) -> Map<String, Value> {
    totals.counts.named().into_iter().map(|(name, n)| (name.replace('-', "_"), n.into())).collect()
}

/// Writes the answers by their response codes.
pub(super) fn codes(totals: &Totals) -> Map<String, Value> {
    let all = (0..CODES as u16).filter(|code| totals.with_code(*code) > 0);
    all.map(|code| (codes::rcode_name(code), totals.with_code(code).into())).collect()
}

/// Writes the percentiles of a histogram.
pub(super) fn histogram(of: &Spans) -> Value {
    let mut figures = Map::new();
    figures.insert("count".to_owned(), of.len().into());
    figures.insert("mean".to_owned(), of.average().into());
    figures.insert("max".to_owned(), of.most().into());
    for p in PERCENTILES {
        figures.insert(text::percentile(p), of.at(p).into());
    }
    figures.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::report::example;

    #[test]
    fn the_document_has_its_members() {
        let (report, machine) = example();
        let document: Value = serde_json::from_str(&json(&report, &machine, None)).expect("JSON");
        assert_eq!(document["format"], 1);
        assert_eq!(document["counts"]["sent"], 5_015);
        assert_eq!(document["counts"]["timed_out"], 15);
        assert_eq!(document["rcodes"]["NOERROR"], 5_000);
        assert_eq!(document["seconds"].as_array().map(Vec::len), Some(5));
        assert_eq!(document["command"], "dnslob bench '<b>'");
        assert!(document["latency_ns"]["p99.9"].as_u64() > document["latency_naive_ns"]["p99.9"].as_u64());
        assert!(document["ramp"].is_null());
        let nothing = histogram(&crate::tools::load::spans::Spans::new());
        assert_eq!((&nothing["count"], &nothing["p50"]), (&0.into(), &Value::Null));
        assert_eq!((&nothing["max"], &nothing["mean"]), (&Value::Null, &Value::Null));
    }
}
