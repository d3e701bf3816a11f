//! Metrics that a configuration declares and changes itself.
//!
//! They belong to the process: a reload keeps them, as it keeps all counters. Any thread reads and
//! changes them without a lock; a new metric, or a new combination of labels, copies the table that
//! it is added to, of which there are at most [`METRICS_MAX`] and [`COMBINATIONS_MAX`] entries.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;

use crate::stats::registry::METRIC_SETS;

/// Metrics that there may be.
pub const METRICS_MAX: usize = 1_000;
/// Combinations of labels that one metric may have.
pub const COMBINATIONS_MAX: usize = 1_000;
/// Labels of one value, and characters of a label's value.
const LABELS_MAX: usize = 10;
const LABEL_CHARS_MAX: usize = 100;
const NAME_CHARS_MAX: usize = 100;
/// How the names of other metrics begin in Prometheus' format.
const TAKEN: [&str; 3] = ["dnslob_", "dnsdist_", "process_"];

/// Those of this process.
static METRICS: LazyLock<CustomMetrics> = LazyLock::new(CustomMetrics::default);

/// Returns the metrics of this process.
#[must_use]
pub fn all() -> &'static CustomMetrics {
    &METRICS
}

/// What a metric's value does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CustomKind {
    /// It only grows.
    Counter,
    /// It is a level.
    Gauge,
}

impl CustomKind {
    /// Its name in a configuration, and in Prometheus' format.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }

    /// Reads its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Counter, Self::Gauge].into_iter().find(|kind| kind.label() == name)
    }
}

/// Labels with their values, sorted by label.
pub type Labels = Vec<(String, String)>;

/// A metric as it was declared, with its values.
#[derive(Debug)]
pub struct CustomMetric {
    /// Lower-case letters, digits and hyphens.
    pub name: String,
    /// What its value does over time.
    pub kind: CustomKind,
    /// What people read about it.
    pub description: String,
    /// Its name in Prometheus' format, if it is not derived from `name`.
    pub prometheus_name: Option<String>,
    /// Whether it has a value for each combination of labels.
    pub labelled: bool,
    values: ArcSwap<BTreeMap<Labels, Arc<Level>>>,
}

/// A value: the bits of a number with a fraction.
#[derive(Debug, Default)]
struct Level(AtomicU64);

impl Level {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    fn change(&self, change: impl Fn(f64) -> f64) -> f64 {
        let bits = |bits| Some(change(f64::from_bits(bits)).to_bits());
        let before = self.0.fetch_update(Relaxed, Relaxed, bits).unwrap_or_else(|bits| bits);
        change(f64::from_bits(before))
    }
}

impl CustomMetric {
    /// Returns its name in Prometheus' format; with `total`, that of a counter ends so.
    #[must_use]
    pub fn name_with(&self, prefix: &str, total: bool) -> String {
        if let Some(given) = &self.prometheus_name {
            return given.clone();
        }
        let name = format!("{prefix}_{}", self.name.replace('-', "_"));
        let needs = total && self.kind == CustomKind::Counter && !name.ends_with("_total");
        if needs { name + "_total" } else { name }
    }

    /// Returns whether both would be the same in Prometheus' format.
    fn is_shown_as(&self, other: &Self) -> bool {
        self.name != other.name && self.name_with("dnslob", true) == other.name_with("dnslob", true)
    }

    /// Returns each combination of labels with its value; one without labels where there are none.
    #[must_use]
    pub fn values(&self) -> Vec<(Labels, f64)> {
        self.values.load().iter().map(|(labels, level)| (labels.clone(), level.get())).collect()
    }

    /// Returns the value of these labels, made if there is room for one more.
    fn level(&self, labels: &Labels) -> Result<Arc<Level>, &'static str> {
        if let Some(level) = self.values.load().get(labels) {
            return Ok(Arc::clone(level));
        }
        if !labels.is_empty() && !self.labelled {
            return Err("the metric was declared without withLabels=true");
        }
        if labels.len() > LABELS_MAX {
            return Err("more than ten labels");
        }
        let is_long = |(_, value): &(String, String)| value.chars().count() > LABEL_CHARS_MAX;
        if labels.iter().any(|label| !is_label(&label.0) || is_long(label)) {
            return Err("a label is letters, digits and underscores, and its value at most 100 characters");
        }
        self.values.rcu(|values| {
            let mut values = BTreeMap::clone(values);
            if values.len() < COMBINATIONS_MAX {
                values.entry(labels.clone()).or_default();
            }
            values
        });
        let found = self.values.load().get(labels).map(Arc::clone);
        found.ok_or("the metric has a thousand combinations of labels already")
    }
}

/// Metrics by name.
#[derive(Debug, Default)]
pub struct CustomMetrics(ArcSwap<BTreeMap<String, Arc<CustomMetric>>>);

impl CustomMetrics {
    /// Declares a metric; one that is there already keeps its values.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn declare(
        &self,
        name: &str,
        kind: CustomKind,
        description: &str,
        prometheus_name: Option<&str>,
        labelled: bool,
    ) -> Result<(), &'static str> {
        if !is_name(name) {
            return Err("a name is at most a hundred lower-case letters, digits and hyphens");
        }
        if prometheus_name.is_some_and(|name| !is_prometheus_name(name)) {
            return Err(
                "a name for Prometheus is letters, digits and underscores, not beginning with a digit",
            );
        }
        if METRIC_SETS.iter().flat_map(|set| set.metrics).any(|metric| metric.name == name) {
            return Err("there is a metric of this name already");
        }
        if prometheus_name.is_some_and(|name| TAKEN.iter().any(|taken| name.starts_with(taken))) {
            return Err("names for Prometheus that begin with dnslob_, dnsdist_ or process_ are taken");
        }
        let values =
            if labelled { BTreeMap::new() } else { BTreeMap::from([(Labels::new(), Arc::default())]) };
        let metric = Arc::new(CustomMetric {
            name: name.to_owned(),
            kind,
            description: description.chars().take(1_000).collect(),
            prometheus_name: prometheus_name.map(str::to_owned),
            labelled,
            values: ArcSwap::from_pointee(values),
        });
        self.0.rcu(|metrics| {
            let mut metrics = BTreeMap::clone(metrics);
            if metrics.len() < METRICS_MAX && !metrics.values().any(|other| other.is_shown_as(&metric)) {
                metrics.entry(name.to_owned()).or_insert_with(|| Arc::clone(&metric));
            }
            metrics
        });
        let metrics = self.0.load();
        match metrics.get(name) {
            None if metrics.values().any(|other| other.is_shown_as(&metric)) => {
                Err("another metric has this name for Prometheus")
            }
            None => Err("there are a thousand metrics already"),
            Some(found) if found.kind != kind || found.labelled != labelled => {
                Err("a metric of this name was declared otherwise; a restart forgets it")
            }
            Some(_) => Ok(()),
        }
    }

    /// Adds to a counter or a gauge; returns the new value.
    ///
    /// # Errors
    /// Why there is no such value.
    pub fn add(&self, name: &str, labels: &Labels, step: f64) -> Result<f64, &'static str> {
        let metric = self.metric(name)?;
        if !step.is_finite() {
            return Err("the step is no finite number");
        }
        if metric.kind == CustomKind::Counter && step < 0.0 {
            return Err("a counter only grows");
        }
        Ok(metric.level(labels)?.change(|value| value + step))
    }

    /// Sets a gauge; returns the value.
    ///
    /// # Errors
    /// Why there is no such value.
    pub fn set(&self, name: &str, labels: &Labels, value: f64) -> Result<f64, &'static str> {
        let metric = self.metric(name)?;
        if metric.kind == CustomKind::Counter {
            return Err("a counter cannot be set");
        }
        Ok(metric.level(labels)?.change(|_| value))
    }

    /// Returns a value; 0 for labels that were never counted.
    ///
    /// # Errors
    /// There is no such metric.
    pub fn value(&self, name: &str, labels: &Labels) -> Result<f64, &'static str> {
        Ok(self.metric(name)?.values.load().get(labels).map_or(0.0, |level| level.get()))
    }

    /// Returns the metrics in order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<CustomMetric>> {
        self.0.load().values().cloned().collect()
    }

    /// Returns the values of those without labels, by name.
    #[must_use]
    pub fn plain(&self) -> Vec<(String, f64)> {
        let metrics = self.0.load();
        let plain = metrics.values().filter(|metric| !metric.labelled);
        plain.map(|m| (m.name.clone(), m.values().first().map_or(0.0, |(_, value)| *value))).collect()
    }

    fn metric(&self, name: &str) -> Result<Arc<CustomMetric>, &'static str> {
        self.0.load().get(name).map(Arc::clone).ok_or("the metric is not declared")
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.bytes().all(allowed)
}

fn is_prometheus_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
    name.len() <= NAME_CHARS_MAX
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

fn is_label(name: &str) -> bool {
    is_prometheus_name(name) && !name.contains(':') && !name.starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn counters_grow_and_gauges_are_set() {
        let metrics = CustomMetrics::default();
        metrics.declare("hits", CustomKind::Counter, "Hits.", None, false).expect("declared");
        metrics.declare("level", CustomKind::Gauge, "A level.", Some("my_level"), false).expect("declared");
        let none = Labels::new();
        assert_eq!(metrics.add("hits", &none, 1.0), Ok(1.0));
        assert_eq!(metrics.add("hits", &none, 41.0), Ok(42.0));
        assert!(metrics.add("hits", &none, -1.0).is_err() && metrics.set("hits", &none, 7.0).is_err());
        assert!(metrics.add("hits", &none, f64::NAN).is_err());
        assert_eq!((metrics.set("level", &none, 2.5), metrics.add("level", &none, -1.0)), (Ok(2.5), Ok(1.5)));
        assert_eq!((metrics.value("hits", &none), metrics.value("level", &none)), (Ok(42.0), Ok(1.5)));
        assert!(metrics.value("other", &none).is_err());
        metrics.declare("hits", CustomKind::Counter, "Again.", None, false).expect("kept");
        assert_eq!(metrics.value("hits", &none), Ok(42.0));
        assert!(metrics.declare("hits", CustomKind::Gauge, "Otherwise.", None, false).is_err());
        for wrong in ["", "Upper", "under_score", "sp ace", &"x".repeat(101)] {
            assert!(metrics.declare(wrong, CustomKind::Gauge, "", None, false).is_err(), "{wrong:?}");
        }
        assert!(metrics.declare("x", CustomKind::Gauge, "", Some("1st"), false).is_err());
    }

    #[test]
    fn a_name_for_prometheus_is_of_one_metric() {
        let metrics = CustomMetrics::default();
        let declare =
            |name, shown| metrics.declare(name, CustomKind::Counter, "", shown, false).map_err(str::len);
        assert_eq!(declare("a", Some("lab_total")), Ok(()));
        assert_eq!(declare("a", Some("lab_total")), Ok(()), "as a reload does");
        assert!(declare("b", Some("lab_total")).is_err() && metrics.value("b", &Labels::new()).is_err());
        assert_eq!(declare("c", None), Ok(()));
        assert!(declare("c-total", None).is_err(), "both are dnslob_c_total");
        for taken in ["process_cpu_seconds_total", "dnslob_x", "dnsdist_x"] {
            assert!(declare("d", Some(taken)).is_err(), "{taken}");
        }
    }

    #[test]
    fn combinations_of_labels_have_an_end() {
        let metrics = CustomMetrics::default();
        metrics.declare("by", CustomKind::Counter, "By label.", None, true).expect("declared");
        for n in 0..COMBINATIONS_MAX + 10 {
            let added = metrics.add("by", &labels(&[("client", &n.to_string())]), 2.0);
            assert_eq!(added.is_ok(), n < COMBINATIONS_MAX, "{n}");
        }
        assert_eq!(metrics.list()[0].values().len(), COMBINATIONS_MAX);
        assert_eq!(metrics.value("by", &labels(&[("client", "5")])), Ok(2.0));
        assert_eq!(metrics.value("by", &labels(&[("client", "none")])), Ok(0.0));
        metrics.declare("plain", CustomKind::Counter, "Without.", None, false).expect("declared");
        assert!(metrics.add("plain", &labels(&[("a", "b")]), 1.0).is_err());
        for (name, value) in [("a b", "x"), ("__a", "x"), ("", "x"), ("a", &*"x".repeat(101))] {
            assert!(metrics.add("by", &labels(&[(name, value)]), 1.0).is_err(), "{name:?}");
        }
    }

    #[test]
    fn no_change_of_any_thread_is_lost() {
        let metrics = CustomMetrics::default();
        metrics.declare("by", CustomKind::Counter, "By label.", None, true).expect("declared");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..1_000 {
                        let added = metrics.add("by", &labels(&[("n", &(n % 7).to_string())]), 1.0);
                        added.expect("counted");
                    }
                });
            }
        });
        let values = metrics.list()[0].values();
        assert_eq!((values.len(), values.iter().map(|(_, value)| *value).sum::<f64>()), (7, 4_000.0));
    }
}
