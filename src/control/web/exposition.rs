//! The formats of Prometheus: families, samples, labels. Text is written here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter, Write};

use self::protobuf::Families;

use crate::model::{Backend, Listener, Snapshot};
use crate::stats::custom_metrics::{CustomKind, CustomMetric, HISTOGRAM_ENDS, Observed};
use crate::stats::histogram::Latency;

pub(super) mod protobuf;

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Lines of text.
    Text,
    /// Delimited messages, with native histograms.
    Protobuf,
}

impl Format {
    /// The one that a client wants by its header `Accept`: text, unless it names the other one and
    /// does not like text better.
    pub(super) fn accepted(accept: &str) -> Self {
        let (mut text, mut protobuf) = (0.0_f32, 0.0_f32);
        for clause in accept.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut message, mut encoding) = (1.0, "", "");
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "proto" => message = value.trim(),
                    "encoding" => encoding = value.trim(),
                    _ => {}
                }
            }
            match &*media {
                "text/plain" | "text/*" | "*/*" => text = text.max(quality),
                "application/vnd.google.protobuf"
                    if message == "io.prometheus.client.MetricFamily" && encoding == "delimited" =>
                {
                    protobuf = protobuf.max(quality);
                }
                _ => {}
            }
        }
        if protobuf > 0.0 && protobuf >= text { Self::Protobuf } else { Self::Text }
    }

    /// The type of such a page.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// Labels with their values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A value of a sample.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Count(u64),
    Signed(i64),
    Real(f64),
}

impl Number {
    const fn real(self) -> f64 {
        match self {
            Self::Count(count) => count as f64,
            Self::Signed(level) => level as f64,
            Self::Real(real) => real,
        }
    }
}

impl Display for Number {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(out),
            Self::Signed(level) => level.fmt(out),
            Self::Real(real) => real.fmt(out),
        }
    }
}

impl From<u64> for Number {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<i64> for Number {
    fn from(level: i64) -> Self {
        Self::Signed(level)
    }
}

impl From<f64> for Number {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

/// A page of metrics.
#[derive(Debug)]
pub(super) struct Page {
    out: Out,
    families: BTreeSet<String>,
}

#[derive(Debug)]
enum Out {
    Text(String),
    Protobuf(Families),
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        let out = match format {
            Format::Text => Out::Text(String::new()),
            Format::Protobuf => Out::Protobuf(Families::default()),
        };
        Self { out, families: BTreeSet::new() }
    }

    /// Begins a family; returns whether it is a new one.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) -> bool {
        if !self.families.insert(name.to_owned()) {
            return false;
        }
        match &mut self.out {
            Out::Text(out) => {
                let help = help.replace('\\', r"\\").replace('\n', r"\n");
                let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            }
            Out::Protobuf(families) => families.begin(name, kind, help),
        }
        true
    }

    /// A value of the family that was begun last.
    pub(super) fn sample<L: AsRef<str>>(
        &mut self,
        name: &str,
        labels: &[(L, String)],
        value: impl Into<Number>,
    ) {
        match &mut self.out {
            Out::Text(out) => line(out, [name, ""], labels, None, value.into()),
            Out::Protobuf(families) => families.sample(labels, value.into()),
        }
    }

    /// A histogram of the family that was begun last: how many were at most these bounds,
    /// nanoseconds, and the same as text in the family's unit, which has so many nanoseconds.
    pub(super) fn histogram<L: AsRef<str>, const N: usize>(
        &mut self,
        name: &str,
        labels: &[(L, String)],
        bounds: [(u64, &str); N],
        latency: &Latency,
        unit: f64,
    ) {
        let counts = latency.at_most(bounds.map(|(ns, _)| ns)).into_iter();
        match &mut self.out {
            Out::Text(out) => {
                for ((_, le), count) in bounds.iter().zip(counts) {
                    line(out, [name, "_bucket"], labels, Some(le), count.into());
                }
                line(out, [name, "_bucket"], labels, Some("+Inf"), latency.count().into());
                line(out, [name, "_sum"], labels, None, (latency.sum_ns() as f64 / unit).into());
                line(out, [name, "_count"], labels, None, latency.count().into());
            }
            Out::Protobuf(families) => {
                let bounds = bounds.iter().map(|(ns, _)| *ns as f64 / unit).zip(counts);
                let all = [(f64::INFINITY, latency.count())];
                families.histogram(labels, bounds.chain(all), latency, unit);
            }
        }
    }

    /// What is counted by the configuration itself.
    pub(super) fn custom(&mut self, metric: &CustomMetric, prefix: &str, total: bool) {
        let name = metric.name_with(prefix, total);
        let help = if metric.description.is_empty() { "Of the configuration." } else { &metric.description };
        // One with the name of another metric is left out: it would make the page invalid.
        if metric.kind == CustomKind::Histogram {
            let is_taken = HISTOGRAM_ENDS.iter().any(|end| self.families.contains(&format!("{name}{end}")));
            if !is_taken && self.family(&name, "histogram", help) {
                for (labels, observed) in metric.observed() {
                    self.observed(&name, &labels, &metric.bounds, &observed);
                }
            }
        } else if self.family(&name, metric.kind.label(), help) {
            for (labels, value) in metric.values() {
                self.sample(&name, &labels, value);
            }
        }
    }

    /// A histogram of the family that was begun last, with its bounds in the family's own unit.
    fn observed(&mut self, name: &str, labels: &[(String, String)], bounds: &[f64], observed: &Observed) {
        let counts = observed.at_most.iter().copied();
        match &mut self.out {
            Out::Text(out) => {
                for (bound, count) in bounds.iter().zip(counts) {
                    line(out, [name, "_bucket"], labels, Some(&bound.to_string()), count.into());
                }
                line(out, [name, "_bucket"], labels, Some("+Inf"), observed.count().into());
                line(out, [name, "_sum"], labels, None, observed.sum.into());
                line(out, [name, "_count"], labels, None, observed.count().into());
            }
            Out::Protobuf(families) => {
                let buckets = bounds.iter().copied().chain([f64::INFINITY]).zip(counts);
                families.classic_histogram(labels, buckets, (observed.count(), observed.sum));
            }
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        match self.out {
            Out::Text(out) => out.into_bytes(),
            Out::Protobuf(families) => families.finish(),
        }
    }
}

/// A line of text.
fn line<L: AsRef<str>>(
    out: &mut String,
    [name, end]: [&str; 2],
    labels: &[(L, String)],
    le: Option<&str>,
    value: Number,
) {
    out.push_str(name);
    out.push_str(end);
    let mut before = '{';
    let labels = labels.iter().map(|(label, value)| (label.as_ref(), value.as_str()));
    for (label, value) in labels.chain(le.map(|le| ("le", le))) {
        out.push(before);
        out.push_str(label);
        out.push_str("=\"");
        for piece in value.split_inclusive(['\\', '\n', '"']) {
            match piece.char_indices().next_back() {
                Some((at, '\n')) => out.extend([&piece[..at], r"\n"]),
                Some((at, special @ ('\\' | '"'))) => {
                    out.extend([&piece[..at], r"\"]);
                    out.push(special);
                }
                Some(_) | None => out.push_str(piece),
            }
        }
        out.push('"');
        before = ',';
    }
    let _ = writeln!(out, "{} {value}", if before == ',' { "}" } else { "" });
}

/// A listener in labels: several of one address have an interface each.
pub(super) fn listener_name(listener: &Listener) -> String {
    match &listener.interface {
        Some(interface) => format!("{}%{interface}", listener.address),
        None => listener.address.to_string(),
    }
}

/// The servers with their labels: two of the same name and address are told apart by a number.
pub(super) fn labelled_servers(snapshot: &Snapshot) -> Vec<(Labels, &Backend)> {
    let mut seen: BTreeMap<(String, String), u32> = BTreeMap::new();
    let servers = snapshot.backends.iter().flatten().map(|backend| {
        let (mut name, address) = (backend.name.clone(), backend.address.to_string());
        let nth = seen.entry((name.clone(), address.clone())).and_modify(|n| *n += 1).or_insert(0);
        if *nth > 0 {
            let _ = write!(name, "-{nth}");
        }
        (vec![("server", name), ("address", address)], &**backend)
    });
    servers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::custom_metrics::CustomMetrics;

    #[test]
    fn a_histogram_of_the_configuration_has_its_ranges() {
        let metrics = CustomMetrics::default();
        let declare = |name, shown| {
            let kind = CustomKind::Histogram;
            metrics.declare_with(&[0.5, 20.0], name, kind, "Sizes.", shown, true).expect("declared");
        };
        declare("sizes", None);
        declare("taken", Some("x"));
        let labels = vec![("pool".to_owned(), "a \"b\"".to_owned())];
        for value in [0.25, 20.0, 21.0] {
            metrics.observe("sizes", &labels, value).expect("counted");
        }
        let list = metrics.list();
        let expected = "# HELP dnslob_sizes Sizes.\n# TYPE dnslob_sizes histogram\n\
                        dnslob_sizes_bucket{pool=\"a \\\"b\\\"\",le=\"0.5\"} 1\n\
                        dnslob_sizes_bucket{pool=\"a \\\"b\\\"\",le=\"20\"} 2\n\
                        dnslob_sizes_bucket{pool=\"a \\\"b\\\"\",le=\"+Inf\"} 3\n\
                        dnslob_sizes_sum{pool=\"a \\\"b\\\"\"} 41.25\n\
                        dnslob_sizes_count{pool=\"a \\\"b\\\"\"} 3\n";
        let mut page = Page::new(Format::Text);
        page.custom(&list[0], "dnslob", true);
        // A second one would make the page invalid, as would one whose values have the name of another.
        page.custom(&list[0], "dnslob", true);
        page.family("x_count", "gauge", "Of others.");
        page.custom(&list[1], "dnslob", true);
        let text = String::from_utf8(page.finish()).expect("UTF-8");
        assert_eq!(text, format!("{expected}# HELP x_count Of others.\n# TYPE x_count gauge\n"));
        let mut page = Page::new(Format::Protobuf);
        page.custom(&list[0], "dnslob", true);
        assert_eq!(protobuf::tests::as_text(&page.finish()), (expected.to_owned(), 0));
    }

    #[test]
    fn text_is_the_default() {
        let protobuf = Format::Protobuf.content_type();
        let (is_text, is_protobuf) = (
            [
                String::new(),
                "*/*".to_owned(),
                "text/html,application/xhtml+xml,*/*;q=0.8".to_owned(),
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3".to_owned(),
                format!("{protobuf};q=0.3,text/plain;q=0.5"),
                format!("{protobuf};q=0"),
                format!("{protobuf};q=x"),
                protobuf.replace("delimited", "compact-text"),
                protobuf.replace("MetricFamily", "Metric"),
                "application/vnd.google.protobuf".to_owned(),
            ],
            [
                protobuf.to_owned(),
                protobuf.replace(' ', ""),
                // What versions 2.42 and 3.0 ask with when they want native histograms.
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
                 application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;\
                 q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
                    .to_owned(),
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;\
                 q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
                    .to_owned(),
            ],
        );
        for accept in is_text {
            assert_eq!(Format::accepted(&accept), Format::Text, "{accept}");
        }
        for accept in is_protobuf {
            assert_eq!(Format::accepted(&accept), Format::Protobuf, "{accept}");
        }
    }
}
