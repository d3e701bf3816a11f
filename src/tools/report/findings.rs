//! What was found in traffic of others: the report of `dnslob scope`, as text, JSON and page.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::config::bench::ReportOptions;
use crate::tools::load::spans::Spans;
use crate::tools::load::totals::Row;
use crate::tools::report::machine::Machine;
use crate::tools::report::{json as json_report, page, plot, print, text, write};

/// The format of the JSON document. Its members are never renamed or removed; new ones may come.
const FORMAT: u32 = 1;

/// What was found.
#[derive(Debug)]
pub(crate) struct Findings {
    /// The tool, as it is typed.
    pub(crate) tool: &'static str,
    /// Where the traffic is from.
    pub(crate) target: String,
    /// When it began, seconds since 1970.
    pub(crate) begun: u64,
    /// How long it is, seconds.
    pub(crate) seconds: f64,
    /// Whether reading was ended by a signal.
    pub(crate) interrupted: bool,
    /// Lines for people: a word, and what is said.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// The most telling figures, and what they are.
    pub(crate) cards: Vec<(String, &'static str)>,
    /// Numbers by name.
    pub(crate) counts: Vec<(&'static str, u64)>,
    /// What yielded no message: reason and number.
    pub(crate) left_out: Vec<(&'static str, u64)>,
    /// What could not be read.
    pub(crate) errors: Vec<String>,
    /// From queries to their answers, nanoseconds.
    pub(crate) latency: Spans,
    /// What happened over time.
    pub(crate) rows: Vec<Row>,
    /// Seconds of a row.
    pub(crate) row_seconds: u64,
    pub(crate) tables: Vec<Table>,
    /// The conditions of `--fail-if` that hold.
    pub(crate) failed: Vec<String>,
}

/// A list of what is most frequent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its member of the JSON document.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// The sum of all, those without a row included.
    pub(crate) total: u64,
    pub(crate) rows: Vec<TableRow>,
}

/// A row of a list: `count - error <= true <= count`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableRow {
    pub(crate) label: String,
    pub(crate) count: u64,
    pub(crate) error: u64,
}

impl TableRow {
    /// Writes the number, which may be a bound.
    fn number(&self) -> String {
        let least = self.count.saturating_sub(self.error);
        match self.error {
            0 => text::grouped(self.count),
            _ => format!("{}-{}", text::grouped(least), text::grouped(self.count)),
        }
    }
}

/// Prints what was found, and writes its page.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn publish(findings: &Findings, options: &ReportOptions) -> anyhow::Result<()> {
    let machine = Machine::read();
    let printed = if options.json { as_json(findings, &machine) } else { as_text(findings, &machine) };
    // What cannot be written takes nothing of the rest away.
    let shown = print(&printed);
    write(options, || as_page(findings, &machine), || as_picture(findings))?;
    shown
}

fn as_picture(findings: &Findings) -> String {
    let title = format!("{} {}", findings.tool, findings.target);
    plot::picture(&title, &[("from query to answer", "a", &findings.latency)])
}

/// Returns what is told of the run itself, by name.
fn circumstances(findings: &Findings, machine: &Machine) -> [(&'static str, String); 5] {
    [
        ("capture", findings.target.clone()),
        // Without a message there is no time.
        (
            "begun",
            match findings.begun {
                0 => "-".to_owned(),
                begun => format!("{}, {:.3} s", text::moment(begun), findings.seconds),
            },
        ),
        ("machine", machine.hardware()),
        ("command", machine.command.clone()),
        ("version", machine.version.to_owned()),
    ]
}

fn as_text(findings: &Findings, machine: &Machine) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<12}{text}");
    };
    for (name, value) in &circumstances(findings, machine) {
        line(name, value);
    }
    if findings.interrupted {
        line("note", "interrupted: the report is of what was read");
    }
    for error in &findings.errors {
        line("damaged", error);
    }
    for (name, value) in &findings.facts {
        line(name, value);
    }
    text::latencies(&mut out, &[("from query to answer", &findings.latency)]);
    let (mut below, steps) = (0, steps(&findings.latency));
    out += if steps.is_empty() { "" } else { "\n" };
    for (bound, count) in steps {
        below += count;
        let (all, bar) =
            (findings.latency.len(), "#".repeat((count * 36 / findings.latency.len().max(1)) as usize));
        let _ = writeln!(
            out,
            "{:>16}{:>12}{:>12}  {bar}",
            format!("<= {}", plot::span(bound as f64)),
            text::percent(count, all),
            text::percent(below, all)
        );
    }
    for table in findings.tables.iter().filter(|table| !table.rows.is_empty()) {
        let _ = writeln!(out, "\n{} ({})", table.title, text::grouped(table.total));
        for row in &table.rows {
            let share = text::percent(row.count, table.total);
            let _ = writeln!(out, "{:>22}{share:>12}  {}", row.number(), row.label);
        }
    }
    for failed in &findings.failed {
        let _ = writeln!(out, "failed: {failed}");
    }
    out
}

/// Returns how many latencies there are up to 10, 20, 50, 100 us and so on, each with those behind the
/// step before; nanoseconds.
fn steps(latency: &Spans) -> Vec<(u64, u64)> {
    let bounds = (1..=10_u32).flat_map(|decade| [1, 2, 5].map(|part| part * 1_000 * 10_u64.pow(decade)));
    let mut steps: Vec<(u64, u64)> = bounds.map(|bound| (bound, 0)).collect();
    for recorded in latency.iter_recorded() {
        // What is as long as a bound is not longer.
        let least = latency.lowest_equivalent(recorded.value_iterated_to());
        let at = steps.partition_point(|(bound, _)| *bound < least);
        if let Some((_, count)) = steps.get_mut(at) {
            *count += recorded.count_since_last_iteration();
        }
    }
    let last = steps.iter().rposition(|(_, count)| *count > 0).map_or(0, |at| at + 1);
    steps.truncate(last);
    let first = steps.iter().position(|(_, count)| *count > 0).unwrap_or(steps.len());
    steps.split_off(first)
}

fn as_json(findings: &Findings, machine: &Machine) -> String {
    let numbers = |of: &[(&'static str, u64)]| -> Map<String, Value> {
        of.iter().map(|(name, n)| (name.replace('-', "_"), (*n).into())).collect()
    };
    let rows: Vec<Value> = findings
        .rows
        .iter()
        .map(|row| {
            json!({
                "second": row.second, "queries": row.queries, "sent": row.sent, "answered": row.answered, "unanswered": row.lost,
                "p50_ns": row.p50_ns, "p99_ns": row.p99_ns, "max_ns": row.max_ns,
            })
        })
        .collect();
    let table = |table: &Table| {
        let row = |row: &TableRow| json!({ "label": row.label, "count": row.count, "error": row.error });
        let rows: Vec<Value> = table.rows.iter().map(row).collect();
        (table.id.to_owned(), json!({ "total": table.total, "rows": rows }))
    };
    let tables: Map<String, Value> = findings.tables.iter().map(table).collect();
    let mut below = 0;
    let distribution: Vec<Value> = steps(&findings.latency)
        .into_iter()
        .map(|(bound, count)| {
            below += count;
            json!({ "below_ns": bound, "count": count, "total": below })
        })
        .collect();
    let document = json!({
        "format": FORMAT,
        "tool": findings.tool,
        "version": machine.version,
        "command": machine.command,
        "machine": {
            "cpu": machine.cpu, "cpus": machine.cpus, "kernel": machine.kernel, "memory_mb": machine.memory_mb,
        },
        "target": findings.target,
        "begun": findings.begun,
        "seconds": findings.seconds,
        "interrupted": findings.interrupted,
        "counts": numbers(&findings.counts),
        "left_out": numbers(&findings.left_out),
        "errors": findings.errors,
        "latency_ns": json_report::histogram(&findings.latency),
        "distribution": distribution,
        "row_seconds": findings.row_seconds,
        "rows": rows,
        "tables": tables,
        "failed": findings.failed,
    });
    format!("{document:#}\n")
}

fn as_page(findings: &Findings, machine: &Machine) -> String {
    let mut out = page::head(&format!("{} {}", findings.tool, findings.target));
    out += "<dl>\n";
    for (name, value) in circumstances(findings, machine).iter().chain(&findings.facts) {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", text::escaped(value));
    }
    out += "</dl>\n";
    for (word, lines) in [("Damaged", &findings.errors), ("Failed", &findings.failed)] {
        for line in lines {
            let _ = writeln!(out, "<p class=\"failed\">{word}: {}</p>", text::escaped(line));
        }
    }
    out += &page::cards(&findings.cards);
    out += "<h2>Latency by percentile</h2>\n";
    out += &plot::percentiles(&[("from query to answer", "a", &findings.latency)]);
    out += "<h2>Rate over time</h2>\n";
    let rows: Vec<Row> = findings.rows.iter().map(|row| Row { sent: row.queries, ..row.clone() }).collect();
    out += &plot::rates_of(&rows, findings.row_seconds, ["queries", "answered", "unanswered"]);
    out += "<div class=\"lists\">\n";
    for table in findings.tables.iter().filter(|table| !table.rows.is_empty()) {
        let (title, total) = (text::escaped(table.title), text::grouped(table.total));
        let _ = writeln!(out, "<table><caption>{title} ({total})</caption>");
        for row in &table.rows {
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
                text::escaped(&row.label),
                row.number(),
                text::percent(row.count, table.total)
            );
        }
        out += "</table>\n";
    }
    out += "</div>\n";
    out += &page::all_figures(&as_text(findings, machine));
    out
}

/// Writes it as text, JSON and page, for tests.
#[cfg(test)]
pub(crate) fn forms(findings: &Findings) -> [String; 3] {
    let (_, machine) = crate::tools::report::example();
    [as_text(findings, &machine), as_json(findings, &machine), as_page(findings, &machine)]
}
