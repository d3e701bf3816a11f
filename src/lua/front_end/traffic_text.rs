//! Lists and queries as the console prints them, in dnsdist's columns.

use std::fmt::Write;

use crate::stats::top::{Found, FoundList, TopList};
use crate::stats::traffic_ring::End;
use crate::wire::codes::{rcode_name, type_name};
use crate::wire::header;

/// Prints a list: rank, name, count and percentage; in the last line the rest, and what it is worth:
/// clients of dnsdist's console leave out one line at the end.
pub(crate) fn top(list: &TopList, unit: &str) -> String {
    let mut out = String::new();
    // Columns of dnsdist.
    let width = list.rows.iter().map(|row| row.label.len()).max().unwrap_or(0).max(40);
    let percent = |count: u64| 100.0 * (count as f64 / list.total.max(1) as f64).min(1.0);
    let mut listed = 0;
    for (at, row) in list.rows.iter().enumerate() {
        listed += row.count;
        let (rank, error) = (at + 1, if row.error > 0 { error(list, row.error) } else { String::new() });
        let (label, count) = (&row.label, row.count);
        // Writing into a string does not fail.
        let _ = writeln!(out, "{rank:>4}  {label:<width$} {count:>4} {:>4.1}%{error}", percent(count));
    }
    let (rank, rest) = (list.rows.len() + 1, list.total.saturating_sub(listed));
    let share = percent(rest);
    let _ = writeln!(out, "{rank:>4}  {:<width$} {rest:>4} {share:>4.1}%  {}", "Rest", worth(list, unit));
    out
}

fn error(list: &TopList, error: u64) -> String {
    if list.is_estimate { format!("  +-{error}") } else { format!("  -{error}") }
}

/// Says what a list covers and how far it can be trusted.
pub(crate) fn worth(list: &TopList, unit: &str) -> String {
    let mut out = format!("# last {:.0} s, {} {unit}", list.window_s, list.total);
    let percent = list.share * 100.0;
    if list.is_estimate {
        let _ = write!(out, ", estimated from {percent:.2}% of the queries; +- is two standard errors");
    } else {
        out.push_str(", all counted");
        match list.rows.iter().map(|row| row.error).max().unwrap_or(0) {
            0 if list.unknown == 0 => out.push_str("; the counts are exact"),
            0 => {}
            error => {
                let _ = write!(out, "; a count is too high by {error} at most");
            }
        }
    }
    if let Some(most) = list.unlisted_max.filter(|most| *most > 0) {
        let _ = write!(out, "; what is not listed has {most} at most");
    }
    if list.unknown > 0 {
        let _ = write!(
            out,
            "; the question of {} that timed out is not known: a count is too low by as many at most",
            list.unknown
        );
    }
    out
}

/// Prints queries as dnsdist's grepq does, with the answer in the line of its query.
pub(crate) fn grep(list: &FoundList) -> String {
    let mut out = format!(
        "{:<7} {:<47} {:<12} {:<12} {:<5} {:<25} {:<5} {:<6} {:<2} {:<2} {:<2} {}\n",
        "Time", "Client", "Protocol", "Server", "ID", "Name", "Type", "Lat.", "TC", "RD", "AA", "Rcode"
    );
    for found in &list.found {
        // Writing into a string does not fail.
        let _ = writeln!(out, "{}", line(found));
    }
    let _ = writeln!(
        out,
        "# the last {:.0} s, {:.2}% of their queries; {} shown",
        list.window_s,
        list.share * 100.0,
        list.found.len()
    );
    out
}

fn line(found: &Found) -> String {
    let f = &found.record.finished;
    let mark = |byte: usize, bit: u8, text: &'static str| if f.flags[byte] & bit > 0 { text } else { "" };
    let latency = match f.end {
        End::Response => format!("{:.1}", f64::from(f.latency_us) / 1e3),
        End::Cached => "Cache".to_owned(),
        End::OwnAnswer | End::Dropped(_) => String::new(),
    };
    format!(
        "{:<7} {:<47} {:<12} {:<12} {:<5} {:<25} {:<5} {latency:<6} {:<2} {:<2} {:<2} {}",
        format!("-{:.1}", found.ago_us as f64 / 1e6),
        f.client().to_string(),
        found.protocol,
        found.server,
        f.id,
        found.record.qname.dotted(),
        type_name(f.qtype),
        mark(0, header::TC, "TC"),
        mark(0, header::RD, "RD"),
        mark(0, header::AA, "AA"),
        ended(found),
    )
}

/// How a query ended: the answer's code, `T.O` for a time-out, or why it was dropped.
pub(crate) fn ended(found: &Found) -> String {
    let f = &found.record.finished;
    match f.end {
        End::Response => rcode_name(f.rcode().unwrap_or_default().into()),
        End::Cached => format!("{} (cached)", rcode_name(f.rcode().unwrap_or_default().into())),
        End::OwnAnswer => format!("{} (self-answered)", rcode_name(f.rcode().unwrap_or_default().into())),
        _ if f.end.is_timeout() => "T.O".to_owned(),
        End::Dropped(reason) => format!("dropped: {}", reason.label()),
    }
}
