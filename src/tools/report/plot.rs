//! Plots as SVG, whose colours are the page's.

use std::fmt::Write;

use crate::tools::load::spans::Spans;
use crate::tools::load::totals::Row;
use crate::tools::report::text::{escaped, grouped};

/// The size of a plot and its margins, in units of SVG.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 100.0;
const RIGHT: f64 = 56.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;
/// Room for a letter. On a narrow page they are larger than the plot, by this at most.
const LETTER: f64 = 11.5;
/// Points of a line.
const POINTS: usize = 240;

/// A line of a plot: its name, its class, and its points in units of SVG.
struct Line<'n> {
    name: &'n str,
    class: &'n str,
    points: Vec<(f64, f64)>,
}

/// The style of a picture that stands alone, on a page of either colour.
const STYLE: &str = "text{fill:#5d6771;font:12px system-ui,sans-serif}.grid{stroke:#8b949d;stroke-opacity:.35}\
polyline{fill:none;stroke-width:2;stroke-linejoin:round}.a{stroke:#0b66c3}.b{stroke:#c2590a;stroke-dasharray:7 4}\
rect{fill:#fff}";

/// Plots latencies by percentile as a file of its own.
pub(crate) fn picture(title: &str, of: &[(&str, &str, &Spans)]) -> String {
    let title = escaped(title);
    let head = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\" viewBox=\"0 -24 {WIDTH} \
         {}\">\n<style>{STYLE}</style>\n<rect x=\"0\" y=\"-24\" width=\"100%\" height=\"100%\"/>\n\
         <text x=\"{LEFT}\" y=\"-6\">{title}</text>\n",
        HEIGHT + 24.0,
        HEIGHT + 24.0
    );
    let names: Vec<String> = of.iter().map(|(name, _, _)| escaped(name)).collect();
    let of: Vec<(&str, &str, &Spans)> = names
        .iter()
        .zip(of)
        .map(|(name, (_, class, histogram))| (name.as_str(), *class, *histogram))
        .collect();
    if of.iter().all(|(_, _, histogram)| histogram.is_empty()) {
        return format!("{head}<text x=\"{LEFT}\" y=\"{TOP}\">no answers</text>\n</svg>\n");
    }
    let plot = percentiles(&of).replacen("<svg ", &format!("<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" "), 1);
    format!("{head}{plot}</svg>\n")
}

/// Plots latencies by percentile, both on logarithmic axes: each step to the right is a tenth of the
/// queries before.
pub(crate) fn percentiles(of: &[(&str, &str, &Spans)]) -> String {
    let count = of.iter().map(|(_, _, h)| h.len()).max().unwrap_or(0);
    if count == 0 {
        return empty("no answers");
    }
    let decades = (count as f64).log10().ceil().clamp(1.0, 7.0);
    let low = of.iter().map(|(_, _, h)| h.min_nz()).min().unwrap_or(1_000).max(1_000) as f64;
    let high = of.iter().map(|(_, _, h)| h.max()).max().unwrap_or(0) as f64;
    let (low, high) = (low.log10().floor(), high.max(low * 1.01).log10().ceil());
    let x = |decade: f64| LEFT + decade / decades * (WIDTH - LEFT - RIGHT);
    let y = |ns: f64| {
        let part = (ns.max(1.0).log10().clamp(low, high) - low) / (high - low).max(1.0);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    };
    let mut out = open("Latency by percentile");
    let mut decade = low;
    while decade <= high {
        for step in [1.0, 2.0, 5.0] {
            let ns = step * 10_f64.powf(decade);
            if ns.log10() <= high + 1e-9 {
                horizontal(&mut out, y(ns), &span(ns), step > 1.0);
            }
        }
        decade += 1.0;
    }
    for n in 0..=decades as u32 {
        let label = match n {
            0 => "0 %".to_owned(),
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            n => format!("99.{} %", "9".repeat(n as usize - 2)),
        };
        vertical(&mut out, x(f64::from(n)), &label);
    }
    let lines = of.iter().map(|(name, class, histogram)| {
        let points = (0..=POINTS).map(|n| {
            let decade = decades * n as f64 / POINTS as f64;
            (x(decade), y(histogram.value_at_quantile(1.0 - 10_f64.powf(-decade)) as f64))
        });
        Line { name, class, points: points.collect() }
    });
    close(out, &lines.collect::<Vec<_>>(), "percentile of the answers")
}

/// Plots what was sent and answered in each second.
pub(crate) fn rates(rows: &[Row]) -> String {
    rates_of(rows, 1, ["sent", "answered", "lost or wrong"])
}

/// Plots the same of rows of several seconds, with these names for what was sent, answered, and lost or
/// wrong.
pub(crate) fn rates_of(rows: &[Row], row_seconds: u64, names: [&'static str; 3]) -> String {
    let highest = rows.iter().map(|r| r.sent.max(r.answered).max(r.wanted.unwrap_or(0))).max().unwrap_or(0);
    let (Some(last), 1..) = (rows.last(), highest) else { return empty("nothing was sent") };
    let width = row_seconds as f64;
    let highest = highest as f64 / width;
    let step = nice(highest / 5.0);
    let top = (highest / step).ceil() * step;
    let seconds = (last.second + row_seconds) as f64;
    let x = |second: f64| LEFT + second / seconds * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| HEIGHT - BOTTOM - rate / top * (HEIGHT - TOP - BOTTOM);
    let mut out = open("Queries per second over time");
    let mut at = 0.0;
    while at <= top {
        horizontal(&mut out, y(at), &number(at, step), false);
        at += step;
    }
    let step = nice(seconds / 8.0).max(1.0);
    at = 0.0;
    while at <= seconds {
        vertical(&mut out, x(at), &format!("{} s", grouped(at as u64)));
        at += step;
    }
    // Steps: a figure is that of its whole row.
    let line = |name: &'static str, class: &'static str, of: &dyn Fn(&Row) -> Option<u64>| {
        let (mut points, mut end) = (Vec::new(), 0);
        for row in rows {
            let Some(n) = of(row) else { continue };
            if row.second > end {
                // Nothing happened in between.
                points.extend([(x(end as f64), y(0.0)), (x(row.second as f64), y(0.0))]);
            }
            end = row.second + row_seconds;
            let rate = y(n as f64 / width);
            points.extend([(x(row.second as f64), rate), (x(end as f64), rate)]);
        }
        Line { name, class, points }
    };
    let mut lines = vec![
        line(names[0], "b", &|r| Some(r.sent)),
        line(names[1], "a", &|r| Some(r.answered)),
        line(names[2], "c", &|r| Some(r.lost + r.wrong)),
    ];
    if rows.iter().any(|r| r.wanted.is_some()) {
        lines.insert(0, line("wanted", "w", &|r| r.wanted));
    }
    close(out, &lines, "time")
}

/// Returns the next of 1, 2, 5, 10, 20 ...
fn nice(step: f64) -> f64 {
    let decade = 10_f64.powf(step.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * decade).into_iter().find(|n| *n >= step).unwrap_or(decade)
}

/// Writes a time in its unit.
pub(super) fn span(ns: f64) -> String {
    if ns < 999_500.0 {
        format!("{:.0} us", ns / 1e3)
    } else if ns < 999_500_000.0 {
        format!("{:.0} ms", ns / 1e6)
    } else {
        format!("{:.0} s", ns / 1e9)
    }
}

fn open(title: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>\n"
    )
}

fn empty(why: &str) -> String {
    format!("<p>No plot: {why}.</p>\n")
}

/// Writes a number of an axis with such steps.
fn number(at: f64, step: f64) -> String {
    let digits = (-step.log10()).ceil().max(0.0) as usize;
    if digits == 0 { grouped(at.round() as u64) } else { format!("{at:.digits$}") }
}

/// Draws a line of the grid; a fine one is left out where there is no room.
fn horizontal(out: &mut String, y: f64, label: &str, is_fine: bool) {
    let (right, class) = (WIDTH - RIGHT, if is_fine { " fine" } else { "" });
    let _ = writeln!(
        out,
        "<line class=\"grid{class}\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
         <text class=\"label{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
        LEFT - 8.0,
        y + 4.0
    );
}

fn vertical(out: &mut String, x: f64, label: &str) {
    let bottom = HEIGHT - BOTTOM;
    // The first stands beside the lowest label of the other axis.
    let anchor = if x > LEFT { "middle" } else { "start" };
    let _ = writeln!(
        out,
        "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
         <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{label}</text>",
        bottom + 18.0
    );
}

fn close(mut out: String, lines: &[Line<'_>], axis: &str) -> String {
    for line in lines {
        let points: Vec<String> = line.points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(out, "<polyline class=\"{}\" points=\"{}\"/>", line.class, points.join(" "));
    }
    let mut x = LEFT;
    for line in lines {
        let _ = writeln!(
            out,
            "<polyline class=\"{}\" points=\"{x:.1},{y:.1} {:.1},{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            line.class,
            x + 22.0,
            x + 28.0,
            TOP - 14.0,
            line.name,
            y = TOP - 18.0,
        );
        x += 40.0 + LETTER * line.name.len() as f64;
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{axis}</text>\n</svg>",
        WIDTH - RIGHT,
        HEIGHT - 8.0
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::report::example;

    #[test]
    fn plots_stay_within_their_frame() {
        let (report, _) = example();
        let (t, rows) = (&report.totals, &report.totals.rows);
        let plots = [percentiles(&[("intended", "a", &t.latency), ("naive", "b", &t.naive)]), rates(rows)];
        let picture = picture("a <title>", &[("intended", "a", &t.latency)]);
        assert!(picture.contains("<text x=\"100\" y=\"-6\">a &lt;title&gt;</text>"), "{picture}");
        assert_eq!([picture.matches("<svg").count(), picture.matches("</svg>").count()], [2, 2]);
        assert_eq!(picture.matches("http").count(), 1, "the name space, and nothing to be loaded");
        for plot in &plots {
            assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n") && !plot.contains("NaN"));
            for points in plot.split("points=\"").skip(1).filter_map(|p| p.split('"').next()) {
                for point in points.split(' ') {
                    let (x, y) = point.split_once(',').expect("a point");
                    let [x, y]: [f64; 2] = [x, y].map(|n| n.parse().expect("a number"));
                    assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{point}");
                }
            }
        }
        assert!(plots[0].contains("99.9 %") && plots[1].contains("wanted"));
    }

    /// The height of a letter of such a page.
    const LINE: f64 = 20.0;

    #[test]
    fn labels_have_room_on_a_narrow_page() {
        let (report, _) = example();
        let (t, rows) = (&report.totals, &report.totals.rows);
        let rare: Vec<Row> = rows
            .iter()
            .map(|row| Row { sent: 1, answered: 1, lost: 0, wanted: None, ..row.clone() })
            .collect();
        let names =
            [("from the intended time", "a", &t.latency), ("from the true time of sending", "b", &t.naive)];
        for plot in [percentiles(&names), rates(rows), rates(&rare)] {
            // The line of each label, its begin and its end.
            let mut labels: Vec<(f64, f64, f64, String)> = Vec::new();
            for text in plot.split("<text ").skip(1).filter(|text| !text.contains("label fine")) {
                let of = |name: &str| {
                    text.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next())
                };
                let (x, y) = (of(" x").or(of("x")).expect("x"), of(" y").expect("y"));
                let label = text.split('>').nth(1).and_then(|rest| rest.split('<').next()).expect("a label");
                let (x, width): (f64, f64) = (x.parse().expect("a number"), LETTER * label.len() as f64);
                let begin = match of("text-anchor") {
                    Some("end") => x - width,
                    Some("middle") => x - width / 2.0,
                    Some(_) | None => x,
                };
                assert!(begin >= 0.0 && begin + width <= WIDTH, "{label}");
                labels.push((y.parse().expect("a number"), begin, begin + width, label.to_owned()));
            }
            for (number, one) in labels.iter().enumerate() {
                for other in &labels[number + 1..] {
                    let is_apart = one.2 <= other.1 || other.2 <= one.1;
                    assert!((one.0 - other.0).abs() >= LINE || is_apart, "{one:?}, {other:?}");
                }
            }
        }
    }

    #[test]
    fn axes_of_low_rates_have_their_numbers() {
        assert_eq!([0.0, 0.2, 0.4].map(|at| number(at, 0.2)), ["0.0", "0.2", "0.4"]);
        assert_eq!([number(0.02, 0.01), number(20.0, 10.0), number(3.0, 1.0)], ["0.02", "20", "3"]);
    }

    #[test]
    fn nothing_to_plot_is_said() {
        let none = Spans::new();
        assert!(percentiles(&[("intended", "a", &none)]).contains("no answers"));
        assert!(rates(&[]).contains("nothing was sent"));
        assert!(picture("x", &[("intended", "a", &none)]).contains("no answers"));
        let mut one = Spans::new();
        one.record(5_000);
        assert!(!percentiles(&[("intended", "a", &one)]).contains("NaN"));
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.3, 1.0, 1.1, 4_999.0, 70_000.0].map(nice), [0.5, 1.0, 2.0, 5_000.0, 100_000.0]);
    }
}
