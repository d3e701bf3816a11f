//! A report as people read it on a terminal.

use std::fmt::Write;

use crate::config::criteria::Figures;
use crate::tls::date::{DAY_SECONDS, Date};
use crate::tools::load::failures::Failures;
use crate::tools::load::spans::Spans;
use crate::tools::load::tally::{CODES, Counts};
use crate::tools::load::totals::Totals;
use crate::tools::report::machine::Machine;
use crate::tools::report::{PERCENTILES, Report};
use crate::wire::codes;

/// Writes a number with a comma before each three digits.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Writes a rate: as a whole number, unless it is so small that its parts matter.
pub(crate) fn rate(rate: f64) -> String {
    let digits = if rate >= 10.0 || rate == 0.0 { 0 } else { (1.0 - rate.log10().floor()) as usize };
    if digits == 0 { grouped(rate.round() as u64) } else { format!("{rate:.digits$}") }
}

/// Writes nanoseconds as milliseconds.
pub(crate) fn milliseconds(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

/// Writes a latency as milliseconds; `-` if there is none.
pub(crate) fn latency(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), milliseconds)
}

/// Writes text of others so that it stays text on a page.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Writes seconds since 1970 as day and time.
pub(crate) fn moment(seconds: u64) -> String {
    let of_day = seconds % DAY_SECONDS;
    let (hours, minutes) = (of_day / 3_600, of_day / 60 % 60);
    format!("{} {hours:02}:{minutes:02}:{:02} UTC", Date(seconds), of_day % 60)
}

/// Writes the number of threads.
pub(crate) fn threads(n: usize) -> String {
    if n == 1 { "1 thread".to_owned() } else { format!("{n} threads") }
}

/// Writes a part of a whole as a percentage.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    format!("{:.3} %", part as f64 / whole.max(1) as f64 * 100.0)
}

/// Writes a percentile as `p99.9`.
pub(crate) fn percentile(p: f64) -> String {
    format!("p{p}")
}

/// Writes the report, with what only one tool has.
pub(crate) fn text(report: &Report, machine: &Machine, more: &str) -> String {
    let totals = &report.totals;
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<12}{text}");
    };
    let second = report
        .second()
        .map_or_else(String::new, |second| format!(", the first; {} is judged", second.target));
    line("target", &format!("{} over {}{second}", report.target, report.transport));
    line("load", &format!("{}, {}", report.load, threads(report.threads)));
    line("machine", &machine.hardware());
    line("command", &machine.command);
    line("version", machine.version);
    line("begun", &moment(report.begun));
    if report.interrupted {
        line("note", "interrupted: the report is of what was done");
    }
    report.notes.iter().for_each(|note| line("note", note));
    figures(&mut out, totals, report.rate_wanted, &report.failures);
    if let Some(ramp) = &report.ramp {
        let _ = writeln!(
            out,
            "\n{:>12}{:>12}{:>12}{:>12}  until {}",
            "rate", "sent", "answered", "p99, ms", ramp.limits
        );
        for step in &ramp.steps {
            let verdict = if step.wrong.is_empty() { "good" } else { &step.wrong };
            let _ = writeln!(
                out,
                "{:>12}{:>12}{:>12}{:>12}  {verdict}",
                grouped(step.rate.into()),
                grouped(step.sent),
                grouped(step.answered),
                latency((step.answered > 0).then_some(step.p99_ns))
            );
        }
        let best = ramp.best.map_or_else(|| "none".to_owned(), |rate| grouped(rate.into()));
        let _ = writeln!(out, "highest good rate: {best} ({})", ramp.end);
    }
    out += more;
    for failed in &report.failed {
        let _ = writeln!(out, "failed: {failed}");
    }
    out
}

/// Writes the figures of a target: what was sent there, what has come of it, and the latencies.
pub(super) fn figures(out: &mut String, totals: &Totals, wanted: Option<u32>, failures: &Failures) {
    let counts = &totals.counts;
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<12}{text}");
    };
    let per_second = |n: u64| if totals.seconds > 0.0 { n as f64 / totals.seconds } else { 0.0 };
    let mut sent = format!(
        "{} in {:.2} s, {} per second",
        grouped(counts.sent),
        totals.seconds,
        rate(per_second(counts.sent))
    );
    if let Some(wanted) = wanted.filter(|wanted| *wanted > 0) {
        let _ = write!(sent, " of {} wanted", grouped(wanted.into()));
    }
    line("sent", &sent);
    unsent(counts).iter().for_each(|(name, text)| line(name, text));
    line(
        "answered",
        &format!(
            "{} ({}), {} per second",
            grouped(counts.answered),
            percent(counts.answered, counts.asked()),
            rate(totals.rate())
        ),
    );
    line("lost", &lost(counts));
    if counts.answered > 0 {
        line("answers", &answers(totals));
    }
    let kinds = [
        ("question", counts.wrong_question),
        ("records", counts.wrong_records),
        ("cookie", counts.wrong_cookie),
        ("malformed", counts.malformed),
        ("unexpected", counts.unexpected),
    ];
    line("wrong", &format!("{}{}", grouped(counts.wrong()), list(&kinds)));
    if counts.late + counts.duplicate > 0 {
        line(
            "too much",
            list(&[("late", counts.late), ("duplicate", counts.duplicate)]).trim_start_matches(": "),
        );
    }
    if counts.connections + counts.connect_errors > 0 {
        let why: Vec<(&str, u64)> = failures.all().iter().map(|(why, n)| (why.as_str(), *n)).collect();
        let (made, failed) = (grouped(counts.connections), grouped(counts.connect_errors));
        line("connections", &format!("{made}, {failed} failed{}", list(&why)));
    }
    latencies(
        out,
        &[
            ("from the intended time", &totals.latency),
            ("from the true time (naive)", &totals.naive),
            ("sent late by", &totals.lag),
        ],
    );
}

/// Writes how many queries did not leave this machine, by the reason.
fn unsent(counts: &Counts) -> Vec<(&'static str, String)> {
    let all = [
        ("not sent", counts.not_sent, "due and could not be sent in time"),
        ("refused", counts.send_errors, "not taken by the kernel"),
    ];
    let said = all.into_iter().filter(|(_, n, _)| *n > 0);
    said.map(|(name, n, what)| {
        (name, format!("{} {} {what}", grouped(n), if n == 1 { "was" } else { "were" }))
    })
    .collect()
}

/// Writes how many queries had no answer, and why.
fn lost(counts: &Counts) -> String {
    let kinds = [
        ("timed out", counts.timed_out),
        ("port refused", counts.refused),
        ("connection closed", counts.closed),
        ("cut short", counts.cut_short),
        ("no connection", counts.unconnected),
    ];
    format!("{} ({}){}", grouped(counts.lost()), percent(counts.lost(), counts.asked()), list(&kinds))
}

/// Writes how many answers had which response code.
fn answers(totals: &Totals) -> String {
    let codes: Vec<(String, u64)> =
        (0..CODES as u16).map(|code| (codes::rcode_name(code), totals.with_code(code))).collect();
    let mut answers: Vec<(&str, u64)> = codes.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    answers.push(("other codes", totals.counts.other_codes));
    answers.push(("truncated", totals.counts.truncated));
    list(&answers).trim_start_matches(": ").to_owned()
}

/// Writes a table of latencies, milliseconds: a column for each of these. It fits a terminal of 80 columns.
pub(super) fn latencies(out: &mut String, of: &[(&str, &Spans)]) {
    let mut row = |head: &str, cell: &dyn Fn(&str, &Spans) -> String| {
        let cells: String = of
            .iter()
            .map(|(name, all)| format!("{:>width$}", cell(name, all), width = name.len() + 2))
            .collect();
        let _ = writeln!(out, "{head:<12}{cells}");
    };
    row("\nlatency, ms", &|name, _| name.to_owned());
    for p in PERCENTILES {
        row(&percentile(p), &|_, all| latency(all.at(p)));
    }
    row("max", &|_, all| latency(all.most()));
    row("mean", &|_, all| latency(all.average().map(|ns| ns.round() as u64)));
}

/// Writes what is not 0, behind a colon.
pub(crate) fn list(kinds: &[(&str, u64)]) -> String {
    let said: Vec<String> =
        kinds.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {}", grouped(*n))).collect();
    if said.is_empty() { String::new() } else { format!(": {}", said.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::report::example;

    #[test]
    fn small_rates_are_not_nothing() {
        let written = [0.0, 1.0 / 60.0, 0.5, 1.5, 9.96, 10.0, 12.4, 1_234.5].map(rate);
        assert_eq!(written, ["0", "0.017", "0.50", "1.5", "10.0", "10", "12", "1,235"]);
    }

    #[test]
    fn a_report_has_everything() {
        let (mut report, machine) = example();
        report.failed.push("p99>1ms: 2.000ms".to_owned());
        let text = text(&report, &machine, "\nmore\n");
        for part in [
            "target      127.0.0.1:5300 over udp",
            "5,015 in 5.00 s, 1,003 per second of 1,003 wanted",
            "lost        15 (0.299 %): timed out 15",
            "answers     NOERROR 5,000",
            "from the intended time",
            "from the true time (naive)",
            "dnslob bench '<b>'",
            "begun       2023-11-14 22:13:20 UTC",
            "2 CPUs, A <CPU> & more, 4096 MB, Linux 6.1",
            "\nmore\nfailed: p99>1ms: 2.000ms",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        let table = text.split("\nlatency, ms").nth(1).expect("a table");
        assert!(table.lines().all(|line| line.len() <= 80), "it fits a terminal: {table}");
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let (mut report, machine) = example();
        report.totals = crate::tools::load::totals::Totals::new();
        (report.totals.counts.not_sent, report.totals.counts.connect_errors) = (1, 3);
        ["refused", "certificate expired", "refused"].iter().for_each(|why| report.failures.add(why));
        let text = text(&report, &machine, "");
        for part in [
            "not sent    1 was due",
            "connections 0, 3 failed: refused 2, certificate expired 1",
            &format!("p50{}\n", [33, 28, 14].map(|width| format!("{:>width$}", "-")).concat()),
            &format!("mean{}\n", [32, 28, 14].map(|width| format!("{:>width$}", "-")).concat()),
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        let error = report.ensure_answers().expect_err("no answers").to_string();
        assert_eq!(error, "no answer from 127.0.0.1:5300: refused");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
    }
}
