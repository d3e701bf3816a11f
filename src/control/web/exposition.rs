//! Prometheus' text format: families, samples, labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};

use crate::model::{Backend, Listener, Snapshot};
use crate::stats::custom_metrics::CustomMetric;

/// The type of the page.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels with their values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct Page {
    out: String,
    families: BTreeSet<String>,
}

impl Page {
    /// Begins a family; returns whether it is a new one.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) -> bool {
        if !self.families.insert(name.to_owned()) {
            return false;
        }
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        true
    }

    /// A value of the family that was begun last.
    pub(super) fn sample<L: AsRef<str>>(&mut self, name: &str, labels: &[(L, String)], value: impl Display) {
        self.out.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{before}{}=\"{value}\"", label.as_ref());
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{end} {value}");
    }

    /// What is counted by the configuration itself.
    pub(super) fn custom(&mut self, metric: &CustomMetric, prefix: &str, total: bool) {
        let name = metric.name_with(prefix, total);
        let help = if metric.description.is_empty() { "Of the configuration." } else { &metric.description };
        // One with the name of another metric is left out: it would make the page invalid.
        if self.family(&name, metric.kind.label(), help) {
            for (labels, value) in metric.values() {
                self.sample(&name, &labels, value);
            }
        }
    }

    pub(super) fn finish(self) -> String {
        self.out
    }
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
