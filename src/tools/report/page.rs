//! A report as one page of HTML, which needs nothing else: no script, no font, no picture.

use std::fmt::Write;

use crate::config::criteria::Figures;
use crate::tools::load::totals::Totals;
use crate::tools::report::machine::Machine;
use crate::tools::report::text::escaped;
use crate::tools::report::{Report, Second, plot, text};

const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#fff;--text:#1c2126;--faint:#5d6771;--grid:#dde2e7;--a:#0b66c3;--b:#c2590a;\
--c:#b3261e;--w:#7a828a;--card:#f5f7f9}\
@media(prefers-color-scheme:dark){:root{--ground:#14181c;--text:#e6eaee;--faint:#9aa5b0;--grid:#323a42;--a:#5aa9f7;\
--b:#f0a35e;--c:#ff8a80;--w:#8b949d;--card:#1d2329}}\
body{background:var(--ground);color:var(--text);font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem}\
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
h3{font-size:1rem;margin:1.2rem 0 .3rem}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:0}dt{color:var(--faint)}dd{margin:0;\
overflow-wrap:anywhere}\
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.8rem;margin:1.2rem 0}\
.cards div{background:var(--card);border-radius:.5rem;padding:.7rem .9rem}.cards b{display:block;font-size:1.35rem}\
.cards span{color:var(--faint);font-size:.85rem}\
pre{background:var(--card);border-radius:.5rem;padding:1rem;overflow-x:auto;font-size:.85rem}\
svg{width:100%;height:auto}svg text{fill:var(--faint);font:12px system-ui,sans-serif}\
@media(max-width:40rem){svg text{font-size:20px}svg .fine{display:none}}\
.grid{stroke:var(--grid)}polyline{fill:none;stroke-width:2;stroke-linejoin:round}\
.a{stroke:var(--a)}.b{stroke:var(--b);stroke-dasharray:7 4}.c{stroke:var(--c)}\
.w{stroke:var(--w);stroke-dasharray:2 4}\
.failed{color:var(--c);font-weight:600}\
.lists{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1.5rem;align-items:start}\
table{border-collapse:collapse;font-size:.9rem}caption{text-align:left;font-weight:600;padding:.3rem 0}\
th{text-align:left;font-weight:400;overflow-wrap:anywhere}td{text-align:right;padding-left:1rem;white-space:nowrap}\
tr{border-top:1px solid var(--grid)}td.t{text-align:left;white-space:normal;overflow-wrap:anywhere}\
th.n{text-align:right;padding-left:1rem}th.n,th.k{white-space:nowrap}th.t{padding-left:1rem}\
@media(max-width:40rem){table{font-size:.8rem}td,th.n,th.t{padding-left:.6rem}td.t{min-width:5.5rem}}";

/// Writes the page.
pub(crate) fn page(report: &Report, machine: &Machine, text: &str, more: &str) -> String {
    let second = report.second().map_or_else(String::new, |second| format!(" and {}", second.target));
    let mut out = head(&format!("{} {}{second}", report.tool, report.target));
    out += "<dl>\n";
    for (name, value) in [
        ("Load", format!("{} over {}, {}", report.load, report.transport, text::threads(report.threads))),
        ("Command", machine.command.clone()),
        ("Machine", machine.hardware()),
        ("Version", machine.version.to_owned()),
        ("Begun", text::moment(report.begun)),
    ] {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
    }
    out += "</dl>\n";
    for failed in &report.failed {
        let _ = writeln!(out, "<p class=\"failed\">Failed: {}</p>", escaped(failed));
    }
    if report.interrupted {
        out += "<p class=\"failed\">Interrupted: the report is of what was done.</p>\n";
    }
    for note in &report.notes {
        let _ = writeln!(out, "<p class=\"failed\">{}</p>", escaped(note));
    }
    // What is shown of a target stands below its name where there are two.
    let level = if report.second().is_some() { "h3" } else { "h2" };
    let of_target = |out: &mut String, totals: &Totals| {
        *out += &cards(&[
            (text::rate(totals.rate()), "answers per second"),
            (text::percent(totals.counts.lost(), totals.counts.asked()), "lost"),
            (format!("{} ms", text::latency(totals.latency.at(50.0))), "p50"),
            (format!("{} ms", text::latency(totals.latency.at(99.0))), "p99"),
            (format!("{} ms", text::latency(totals.latency.at(99.9))), "p99.9"),
        ]);
        let _ = writeln!(out, "<{level}>Latency by percentile</{level}>");
        *out += &plot::percentiles(&[
            ("from the intended time", "a", &totals.latency),
            ("from the true time of sending", "b", &totals.naive),
        ]);
    };
    let rates = |out: &mut String, totals: &Totals| {
        let _ = writeln!(out, "<{level}>Rate over time</{level}>");
        *out += &plot::rates(&totals.rows);
    };
    match report.second() {
        None => {
            of_target(&mut out, &report.totals);
            out += more;
            rates(&mut out, &report.totals);
        }
        Some(Second { target, totals, .. }) => {
            let both =
                [("First", &report.target, &report.totals), ("Second, which is judged", target, totals)];
            for (which, target, totals) in both {
                let _ = writeln!(out, "<h2>{which}: {}</h2>", escaped(target));
                of_target(&mut out, totals);
                rates(&mut out, totals);
            }
            out += more;
        }
    }
    out += &all_figures(text);
    out
}

/// Writes the text of the report, and the end of a page. Who has no mouse can scroll it.
pub(super) fn all_figures(text: &str) -> String {
    format!(
        "<h2 id=\"all\">All figures</h2>\n<pre tabindex=\"0\" role=\"region\" aria-labelledby=\"all\">{}</pre>\n\
         </main>\n</body>\n</html>\n",
        escaped(text)
    )
}

/// Writes the begin of a page, up to its heading.
pub(super) fn head(title: &str) -> String {
    let title = escaped(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    )
}

/// Writes the figures that are seen first, each with what it is.
pub(super) fn cards(of: &[(String, &str)]) -> String {
    let mut out = "<div class=\"cards\">\n".to_owned();
    for (figure, what) in of {
        let _ = writeln!(out, "<div><b>{figure}</b><span>{what}</span></div>");
    }
    out += "</div>\n";
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::report::example;

    #[test]
    fn a_page_needs_nothing_else() {
        let (report, machine) = example();
        let page = page(&report, &machine, &machine.command, "<p>more</p>");
        assert!(page.contains("<svg") && page.contains("prefers-color-scheme:dark"));
        for foreign in ["http://", "https://", "<script", "<img", "<link", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("dnslob bench '&lt;b&gt;'") && !page.contains("<b>'"), "escaped");
        assert!(page.contains("A &lt;CPU&gt; &amp; more") && page.contains("<p>more</p>"));
    }
}
