//! What the report of a replayed capture has besides: the capture, the second server, what comparisons
//! have found.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::base::printable::Printable;
use crate::compare::{Class, Outcomes, Verdict};
use crate::config::criteria::Figures;
use crate::tools::load::failures::Failures;
use crate::tools::load::totals::Totals;
use crate::tools::report::text::escaped;
use crate::tools::report::{Report, json, plot, text};

/// What a replayed capture has besides.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// What was found in the capture.
    pub(crate) capture: Vec<(String, u64)>,
    /// The second server.
    pub(crate) second: Option<Second>,
    pub(crate) compared: Option<Compared>,
}

/// A second server that was asked the same.
#[derive(Debug)]
pub(crate) struct Second {
    pub(crate) target: String,
    pub(crate) totals: Totals,
    /// Why connections to it could not be made.
    pub(crate) failures: Failures,
}

/// Comparisons.
#[derive(Debug)]
pub(crate) struct Compared {
    /// What answers were compared with.
    pub(crate) with: String,
    /// What of them.
    pub(crate) aspects: String,
    pub(crate) outcomes: Outcomes,
}

impl Compared {
    /// Returns every class with its number.
    fn classes(&self) -> Vec<(&'static str, &'static str, u64)> {
        Class::ALL.iter().map(|class| (class.label(), class.doc().trim(), self.outcomes.of(*class))).collect()
    }

    /// Returns what had no two answers.
    const fn unpaired(&self) -> [(&'static str, &'static str, u64); 4] {
        [
            ("only-first", "Only the first has answered.", self.outcomes.only_first),
            ("only-second", "Only the second has answered.", self.outcomes.only_second),
            ("neither", "Neither has answered.", self.outcomes.neither),
            ("skipped", "Not compared: too many answers were waited for.", self.outcomes.skipped),
        ]
    }

    /// Returns all results: the label, what it means, how many, and of how many.
    fn lines(&self) -> impl Iterator<Item = (&'static str, &'static str, u64, u64)> {
        let compared = self.outcomes.compared();
        let unpaired = self.unpaired();
        let all = compared + unpaired.iter().map(|(.., n)| n).sum::<u64>();
        let classes = self.classes().into_iter().map(move |(label, doc, n)| (label, doc, n, compared));
        classes.chain(unpaired.into_iter().map(move |(label, doc, n)| (label, doc, n, all)))
    }

    fn verdicts(&self) -> Vec<(&'static str, u64)> {
        Verdict::ALL.iter().map(|verdict| (verdict.label(), self.outcomes.judged(*verdict))).collect()
    }
}

/// Writes it for a terminal.
pub(super) fn text(replayed: &Replayed) -> String {
    let mut out = String::new();
    if let Some(Second { target, totals, failures }) = &replayed.second {
        let _ = writeln!(out, "\nsecond      {target}, which is judged");
        text::figures(&mut out, totals, None, failures);
    }
    if let Some(compared) = &replayed.compared {
        let outcomes = &compared.outcomes;
        let all = outcomes.compared();
        let _ = writeln!(
            out,
            "\ncompared    {} answers with those of {} ({})",
            text::grouped(all),
            compared.with,
            compared.aspects
        );
        let verdicts = compared.verdicts();
        let _ = writeln!(out, "judged      {}", text::list(&verdicts).trim_start_matches(": "));
        for (label, doc, n, of) in compared.lines() {
            if n > 0 {
                let share = text::percent(n, of);
                let _ = writeln!(out, "{label:<12}{:>10}{share:>10}  {doc}", text::grouped(n));
            }
        }
        for example in &outcomes.examples {
            let label = example.class.label();
            let _ =
                writeln!(out, "  {label}: {}: {}", Printable(&example.question), Printable(&example.words));
        }
    }
    let _ = writeln!(out, "\ncapture");
    for (name, n) in &replayed.capture {
        let _ = writeln!(out, "  {name:<32}{:>14}", text::grouped(*n));
    }
    out
}

/// Writes it as JSON.
pub(super) fn json(replayed: &Replayed) -> Value {
    let capture: Map<String, Value> = replayed
        .capture
        .iter()
        .map(|(name, n)| (name.replace([' ', '-'], "_").replace(':', ""), (*n).into()))
        .collect();
    let second = replayed.second.as_ref().map(|Second { target, totals, failures }| {
        serde_json::json!({
            "target": target,
            "rate_answered": totals.rate(),
            "counts": json::counts(totals),
            "lost": totals.counts.lost(),
            "wrong": totals.counts.wrong(),
            "rcodes": json::codes(totals),
            "latency_ns": json::histogram(&totals.latency),
            "latency_naive_ns": json::histogram(&totals.naive),
            "lag_ns": json::histogram(&totals.lag),
            "unsent": totals.counts.unsent(),
            "seconds": json::seconds(totals),
            "connect_failures": json::failures(failures),
        })
    });
    let compared = replayed.compared.as_ref().map(|compared| {
        let classes: Map<String, Value> =
            compared.classes().into_iter().map(|(label, _, n)| (label.to_owned(), n.into())).collect();
        let verdicts: Map<String, Value> =
            compared.verdicts().into_iter().map(|(label, n)| (label.to_owned(), n.into())).collect();
        let unpaired: Map<String, Value> =
            compared.unpaired().into_iter().map(|(label, _, n)| (label.replace('-', "_"), n.into())).collect();
        let outcomes = &compared.outcomes;
        let examples: Vec<Value> = outcomes
            .examples
            .iter()
            .map(|e| serde_json::json!({ "class": e.class.label(), "question": e.question, "difference": e.words }))
            .collect();
        serde_json::json!({
            "with": compared.with,
            "parts": compared.aspects,
            "answers": outcomes.compared(),
            "different": outcomes.different(),
            "worse": outcomes.worse(),
            "classes": classes,
            "verdicts": verdicts,
            "unpaired": unpaired,
            "examples": examples,
        })
    });
    serde_json::json!({ "capture": capture, "second": second, "compared": compared })
}

/// Writes it for the page.
pub(super) fn page(report: &Report, replayed: &Replayed) -> String {
    let mut out = String::new();
    if let Some(Second { target, totals, .. }) = &replayed.second {
        let _ = writeln!(out, "<h2>Latency of both, from the intended time</h2>");
        out +=
            &plot::percentiles(&[("first", "a", &report.totals.latency), ("second", "b", &totals.latency)]);
        let _ = writeln!(out, "<p>first: {}, second: {}</p>", escaped(&report.target), escaped(target));
        let head = "<table>\n<tr><td></td><th class=\"n\">first</th><th class=\"n\">second</th></tr>\n";
        out += head;
        let (a, b) = (&report.totals, totals);
        let ms = |of: &Totals, p: f64| text::latency(of.latency.at(p));
        let mut line = |what: &str, first: String, second: String| {
            let _ = writeln!(out, "<tr><th scope=\"row\">{what}</th><td>{first}</td><td>{second}</td></tr>");
        };
        for p in [50.0, 90.0, 99.0, 99.9] {
            line(&format!("{}, ms", text::percentile(p)), ms(a, p), ms(b, p));
        }
        let lost = |of: &Totals| text::percent(of.counts.lost(), of.counts.asked());
        line("lost", lost(a), lost(b));
        line("answered", text::grouped(a.counts.answered), text::grouped(b.counts.answered));
        out += "</table>\n";
    }
    if let Some(compared) = &replayed.compared {
        let all = compared.outcomes.compared();
        let _ = writeln!(
            out,
            "<h2>Answers compared with those of {}</h2>\n<p>{} answers: {}</p>\n<table>\n<tr><th class=\"k\">Result</th><th \
             class=\"n\">Answers</th><th class=\"n\">Share</th><th class=\"t\">Meaning</th></tr>",
            escaped(&compared.with),
            text::grouped(all),
            escaped(&compared.aspects)
        );
        for (label, doc, n, of) in compared.lines() {
            if n > 0 {
                let (number, share) = (text::grouped(n), text::percent(n, of));
                let _ = writeln!(
                    out,
                    "<tr><th scope=\"row\" class=\"k\">{label}</th><td>{number}</td><td>{share}</td><td class=\"t\">{doc}</td></tr>"
                );
            }
        }
        out += "</table>\n";
        if !compared.outcomes.examples.is_empty() {
            out += "<h2>Examples of differences</h2>\n<table>\n<tr><th class=\"k\">Class</th><th class=\"t\">Question</th><th class=\"t\">Difference</th></tr>\n";
            for example in &compared.outcomes.examples {
                let _ = writeln!(
                    out,
                    "<tr><th scope=\"row\" class=\"k\">{}</th><td class=\"t\">{}</td><td class=\"t\">{}</td></tr>",
                    example.class.label(),
                    escaped(&example.question),
                    escaped(&example.words)
                );
            }
            out += "</table>\n";
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Aspects, Comparer};
    use crate::tools::report::example;

    fn replayed() -> Replayed {
        let good = b"\0\0\x81\x80\0\x01\0\0\0\0\0\0\x03<b>\0\0\x01\0\x01".to_vec();
        let mut failed = good.clone();
        failed[3] = 0x82;
        let mut outcomes = Outcomes::default();
        let mut comparer = Comparer::new(Aspects::default());
        for second in [&good, &failed] {
            outcomes.add(&comparer.compare(&good, second), &good, second);
        }
        outcomes.only_first = 3;
        let mut second = example().0.totals;
        (second.counts.codes[2], second.counts.malformed, second.counts.closed) = (7, 4, 9);
        second.rows[4].answered = 1_777;
        Replayed {
            capture: vec![("left out: opcode".to_owned(), 5)],
            second: Some(Second {
                target: "192.0.2.1:53".to_owned(),
                totals: second,
                failures: Failures::default(),
            }),
            compared: Some(Compared {
                with: "127.0.0.1:53".to_owned(),
                aspects: "rcode".to_owned(),
                outcomes,
            }),
        }
    }

    #[test]
    fn every_form_has_the_comparison() {
        let (mut report, machine) = example();
        report.replayed = Some(replayed());
        report.notes.push("too <slow>".to_owned());
        let text = super::super::as_text(&report, &machine);
        for part in [
            "note        too <slow>",
            "target      127.0.0.1:5300 over udp, the first; 192.0.2.1:53 is judged",
            "second      192.0.2.1:53, which is judged",
            "timed out 15, connection closed 9",
            "NOERROR 5,000, SERVFAIL 7",
            "wrong       4: malformed 4",
            "compared    2 answers with those of 127.0.0.1:53 (rcode)",
            "judged      same 1, worse 1",
            "only-first           3",
            "rcode: <b>. A: NOERROR, then SERVFAIL",
            "left out: opcode",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        let document: Value = serde_json::from_str(&super::super::as_json(&report, &machine)).expect("JSON");
        let compared = &document["replay"]["compared"];
        assert_eq!((&compared["classes"]["rcode"], &compared["different"]), (&1.into(), &4.into()));
        assert_eq!(compared["unpaired"]["only_first"], 3);
        assert_eq!(document["replay"]["capture"]["left_out_opcode"], 5);
        assert!(document["replay"]["second"]["latency_ns"]["p99"].as_u64() > Some(0));
        let page = super::super::as_page(&report, &machine);
        assert!(page.contains("&lt;b&gt;. A") && !page.contains("<b>.") && page.contains("too &lt;slow&gt;"));
        assert_eq!(text.matches("from the true time (naive)").count(), 2);
        assert_eq!(document["replay"]["second"]["seconds"][4]["answered"], 1_777);
        // Cards and plots are of each, and say of which.
        for part in ["<div class=\"cards\">", "Queries per second over time</title>"] {
            assert_eq!(page.matches(part).count(), 2, "{part}");
        }
        assert_eq!(page.matches("Latency by percentile</title>").count(), 3, "of each, and of both");
        for head in [
            "<h1>dnslob bench 127.0.0.1:5300 and 192.0.2.1:53</h1>",
            "<h2>First: 127.0.0.1:5300</h2>",
            "<h2>Second, which is judged: 192.0.2.1:53</h2>",
        ] {
            assert!(page.contains(head), "{head}");
        }
        assert!(page.contains("Latency of both") && page.contains("Only the first has answered."));
    }
}
