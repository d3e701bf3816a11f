//! The figures of a capture in words and tables.

use std::io;
use std::path::PathBuf;

use crate::base::printable::Printable;
use crate::base::time::TickDelta;
use crate::config::criteria::{Figures, Within};
use crate::config::scope::{From, ScopeOptions};
use crate::config::value;
use crate::tools::capture::{Capture, CaptureError};
use crate::tools::load::spans::Spans;
use crate::tools::load::tally::Counts;
use crate::tools::report::findings::{Findings, Table, TableRow};
use crate::tools::report::text::{grouped, latency, list, percent, rate};
use crate::tools::scope::analysis::{Analysis, PROTOCOLS};
use crate::wire::codes;

/// Rows of tables whose rows are few by nature.
const KINDS_MAX: usize = 16;

/// A capture that was read.
pub(super) struct Run<'c> {
    pub(super) capture: &'c Capture,
    pub(super) analysis: Analysis,
    pub(super) errors: &'c [CaptureError],
    pub(super) interrupted: bool,
    pub(super) timeout: TickDelta,
}

/// The figures that conditions are held against.
struct Whole<'f> {
    counts: &'f Counts,
    latency: &'f Spans,
    seconds: f64,
}

impl Figures for Whole<'_> {
    fn percentile_ns(&self, percentile: f64) -> Option<Within> {
        self.latency.within(percentile)
    }
    fn lag_ns(&self, _: f64) -> Option<Within> {
        None
    }
    fn mean_ns(&self) -> Option<f64> {
        self.latency.average()
    }
    fn max_ns(&self) -> Option<u64> {
        self.latency.most()
    }
    fn sent(&self) -> u64 {
        self.counts.sent
    }
    fn lost(&self) -> u64 {
        self.counts.lost()
    }
    fn wrong(&self) -> u64 {
        self.counts.wrong()
    }
    fn with_code(&self, code: u16) -> u64 {
        self.counts.codes.get(usize::from(code)).copied().unwrap_or(0)
    }
    fn rate(&self) -> f64 {
        frequency(self.counts.answered, self.seconds).unwrap_or(0.0)
    }
}

/// Returns how many of something there are a second, of which the first is at the begin of the time and the last
/// at its end; none where one alone has no frequency.
fn frequency(n: u64, seconds: f64) -> Option<f64> {
    (n != 1 && seconds > 0.0).then(|| n.saturating_sub(1) as f64 / seconds)
}

impl Run<'_> {
    /// Says what was found, and what has become of the log of histograms.
    pub(super) fn findings(self, options: &ScopeOptions) -> (Findings, io::Result<()>) {
        let Analysis { seconds, counts, seen, lists, types, pending, .. } = self.analysis;
        let (time, logged) = seconds.end();
        let span = time.span as f64 / 1e9;
        let whole = Whole { counts: &counts, latency: &time.latency, seconds: span };
        let held = options.report.fail_if.that_hold(&whole);
        let failed = held.iter().map(|(criterion, value)| format!("{criterion}: {value}")).collect();
        let read = self.capture.counts();
        let per_second = |n: u64| frequency(n, span).map_or_else(|| "-".to_owned(), rate);
        let left_out: Vec<(&'static str, u64)> =
            read.reasons().map(|(label, _, n)| (label, n)).filter(|(_, n)| *n > 0).collect();
        let codes: Vec<(String, u64)> =
            (0..).zip(counts.codes).map(|(code, n)| (codes::rcode_name(code), n)).collect();
        let protocols: Vec<(&str, u64)> = PROTOCOLS.iter().map(|p| p.label()).zip(seen.protocols).collect();

        let mut facts = vec![(
            "read",
            format!(
                "{} packets, {} messages, {} connections",
                grouped(read.packets),
                grouped(read.queries + read.responses),
                grouped(read.connections)
            ),
        )];
        let mut fact = |name: &'static str, text: String| facts.push((name, text));
        let said = |of: &[(&str, u64)]| list(of).trim_start_matches(": ").to_owned();
        if !left_out.is_empty() {
            fact("left out", said(&left_out));
        }
        let oddities = [
            ("datagrams of fragments", read.reassembled),
            ("segments again", read.repeated_segments),
            ("segments early", read.early_segments),
            ("times that step back", read.backwards),
            ("odd times", read.odd_times),
            ("dropped by the kernel", read.dropped),
        ];
        if oddities.iter().any(|(_, n)| *n > 0) {
            fact("noted", said(&oddities));
        }
        if seen.filtered > 0 {
            fact("not looked at", format!("{} messages", grouped(seen.filtered)));
        }
        fact(
            "queries",
            format!("{}, {} per second{}", grouped(seen.queries), per_second(seen.queries), list(&protocols)),
        );
        if seen.told > 0 {
            fact(
                "told",
                format!("{} of them by the times that their answers have alone", grouped(seen.told)),
            );
        }
        if pending.twins > 0 && pending.twins * 5 >= seen.queries * 2 {
            fact(
                "twice",
                format!(
                    "{} queries came again at once: the packets seem to be captured twice",
                    grouped(pending.twins)
                ),
            );
        }
        if seen.retransmitted > 0 {
            let share = percent(seen.retransmitted, seen.queries);
            fact("again", format!("{} ({share}) before there was an answer", grouped(seen.retransmitted)));
        }
        fact(
            "answered",
            format!(
                "{} ({}), {} per second",
                grouped(counts.answered),
                percent(counts.answered, counts.sent),
                per_second(counts.answered)
            ),
        );
        let timeout = value::span_text(self.timeout);
        fact(
            "unanswered",
            format!(
                "{} ({}) within {timeout}",
                grouped(counts.timed_out),
                percent(counts.timed_out, counts.sent)
            ),
        );
        let undecided = [("waited at the end", seen.open), ("not followed", seen.forgotten)];
        if seen.open + seen.forgotten > 0 {
            fact("undecided", said(&undecided));
        }
        let extra = [
            ("late", counts.late),
            ("duplicate", counts.duplicate),
            ("without their query", seen.unmatched),
            ("before their query", seen.backwards),
        ];
        if extra.iter().any(|(_, n)| *n > 0) {
            fact("odd answers", said(&extra));
        }
        if seen.without_question > 0 {
            fact("no question", format!("{} messages", grouped(seen.without_question)));
        }
        let mean = |bytes: u64, n: u64| bytes.checked_div(n).unwrap_or(0);
        fact(
            "size",
            format!(
                "{} bytes of a query, {} of a response; truncated {}",
                mean(seen.query_bytes, seen.queries - seen.told),
                mean(seen.response_bytes, seen.responses),
                grouped(counts.truncated)
            ),
        );

        let mut numbers = vec![
            ("packets", read.packets),
            ("queries", seen.queries),
            ("responses", seen.responses),
            ("sent", counts.sent),
            ("answered", counts.answered),
            ("unanswered", counts.timed_out),
            ("open", seen.open),
            ("forgotten", seen.forgotten),
            ("told", seen.told),
            ("twice", pending.twins),
            ("retransmitted", seen.retransmitted),
            ("late", counts.late),
            ("duplicate", counts.duplicate),
            ("unmatched", seen.unmatched),
            ("backwards", seen.backwards),
            ("without-question", seen.without_question),
            ("filtered", seen.filtered),
            ("truncated", counts.truncated),
            ("query-bytes", seen.query_bytes),
            ("response-bytes", seen.response_bytes),
            ("connections", read.connections),
            ("reassembled", read.reassembled),
            ("repeated-segments", read.repeated_segments),
            ("early-segments", read.early_segments),
            ("steps-back", read.backwards),
            ("odd-times", read.odd_times),
            ("dropped", read.dropped),
        ];
        numbers.extend(protocols);
        let top = options.top;
        let types = (0..=u16::MAX).zip(types.iter().copied()).filter(|(_, n)| *n > 0);
        let types = types.map(|(number, n)| (codes::type_name(number), n));
        let tables = vec![
            kinds("rcodes", "Response codes", codes),
            kinds("types", "Types of queries", types),
            lists.names.table("names", "Names", top),
            lists.domains.table("domains", "Domains", top),
            lists.clients.table("clients", "Clients", top),
            lists.servfail_names.table("servfail_names", "SERVFAIL: names", top),
            lists.servfail_domains.table("servfail_domains", "SERVFAIL: domains", top),
            lists.servfail_clients.table("servfail_clients", "SERVFAIL: clients", top),
            lists.nxdomain_names.table("nxdomain_names", "NXDOMAIN: names", top),
            lists.unanswered_names.table("unanswered_names", "Unanswered: names", top),
            lists.unanswered_clients.table("unanswered_clients", "Unanswered: clients", top),
            lists.retransmitting_clients.table("retransmitting_clients", "Asked again: clients", top),
        ];
        let quantile = |p: f64| format!("{} ms", latency(time.latency.at(p)));
        let cards = vec![
            (per_second(seen.queries), "queries per second"),
            (percent(counts.timed_out, counts.sent), "unanswered"),
            (quantile(50.0), "p50"),
            (quantile(99.0), "p99"),
            (quantile(99.9), "p99.9"),
        ];
        let findings = Findings {
            tool: "dnslob scope",
            target: target(&options.from),
            begun: time.begin / 1_000_000_000,
            seconds: span,
            interrupted: self.interrupted,
            facts,
            cards,
            counts: numbers,
            left_out,
            errors: self.errors.iter().map(ToString::to_string).collect(),
            latency: time.latency,
            rows: time.rows,
            row_seconds: time.width,
            tables,
            failed,
        };
        (findings, logged)
    }
}

fn target(from: &From) -> String {
    match from {
        From::Interface { name, .. } => format!("interface {name}"),
        From::Captures(paths) => {
            let name = |path: &PathBuf| {
                let is_input = path.as_os_str() == "-";
                if is_input {
                    "standard input".to_owned()
                } else {
                    Printable(path.to_string_lossy()).to_string()
                }
            };
            let names: Vec<String> = paths.iter().map(name).collect();
            match names.as_slice() {
                [first, _, _, _, ..] => format!("{first} and {} others", names.len() - 1),
                _ => names.join(", "),
            }
        }
    }
}

/// Returns the most frequent of what has a counter of its own.
fn kinds(id: &'static str, title: &'static str, of: impl IntoIterator<Item = (String, u64)>) -> Table {
    let mut rows: Vec<TableRow> = of
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(label, count)| TableRow { label, count, error: 0 })
        .collect();
    let total = rows.iter().map(|row| row.count).sum();
    rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.label.cmp(&b.label)));
    rows.truncate(KINDS_MAX);
    Table { id, title, total, rows }
}
