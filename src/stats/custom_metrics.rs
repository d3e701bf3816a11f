//! Metrics that a configuration declares and changes itself.
//!
//! Those that a file or a command declares are part of its draft ([`Declared`]) until that is in force:
//! one that is declared as before keeps its values, as all counters do, and one that is not declared
//! any more is gone. What the file itself counts then counts with it. Functions that are at work declare more of them, at once.
//!
//! Any thread reads and changes them without a lock; a new metric, or a new combination of labels,
//! copies the table that it is added to, of which there are at most [`METRICS_MAX`] and
//! [`COMBINATIONS_MAX`] entries.

mod declared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;

pub use crate::stats::custom_metrics::declared::Declared;
pub use crate::stats::metric_names::HISTOGRAM_ENDS;
use crate::stats::metric_names::{is_label, is_name, is_prometheus_name, is_taken};

/// Metrics that there may be.
pub const METRICS_MAX: usize = 1_000;
/// Combinations of labels that one metric may have.
pub const COMBINATIONS_MAX: usize = 1_000;
/// Labels of one value, and characters of a label's value.
const LABELS_MAX: usize = 10;
const LABEL_CHARS_MAX: usize = 100;
/// Ranges of a histogram, besides that of what is above all bounds.
pub const BOUNDS_MAX: usize = 50;
/// The bounds of a histogram that is declared without any: those of Prometheus' client libraries.
pub const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The label that a histogram's ranges have in Prometheus' format.
const RANGE_LABEL: &str = "le";
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
    /// Observed values are counted by ranges, and summed up.
    Histogram,
}

impl CustomKind {
    /// Its name in a configuration, and in Prometheus' format.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    /// Reads its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Counter, Self::Gauge, Self::Histogram].into_iter().find(|kind| kind.label() == name)
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
    /// The upper bounds of a histogram's ranges, growing; of others none.
    pub bounds: Vec<f64>,
    /// Shared with the same metric as it was declared before.
    values: Arc<ArcSwap<BTreeMap<Labels, Arc<Stored>>>>,
}

/// What is kept for a combination of labels.
#[derive(Debug)]
enum Stored {
    Level(Level),
    Distribution(Distribution),
}

impl Stored {
    /// Returns the level; of a histogram the number of observed values.
    fn value(&self) -> f64 {
        match self {
            Self::Level(level) => level.get(),
            Self::Distribution(distribution) => distribution.read().count() as f64,
        }
    }
}

/// Observed values by ranges.
#[derive(Debug)]
struct Distribution {
    /// For each range, those above all bounds last.
    counts: Box<[AtomicU64]>,
    sum: Level,
}

impl Distribution {
    fn new(bounds: usize) -> Self {
        Self { counts: (0..=bounds).map(|_| AtomicU64::new(0)).collect(), sum: Level::default() }
    }

    /// Counts a value that is in this range.
    fn add(&self, range: usize, value: f64) {
        if let Some(count) = self.counts.get(range) {
            count.fetch_add(1, Relaxed);
            self.sum.change(|sum| sum + value);
        }
    }

    fn read(&self) -> Observed {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        let at_most = counts.scan(0, |all, count| {
            *all += count;
            Some(*all)
        });
        Observed { at_most: at_most.collect(), sum: self.sum.get() }
    }
}

/// What a histogram has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// For each bound, how many values were at most that; then all of them.
    pub at_most: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

impl Observed {
    /// Returns how many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.at_most.last().copied().unwrap_or_default()
    }
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

    /// Creates a metric that has counted nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    fn new(
        bounds: &[f64],
        name: &str,
        kind: CustomKind,
        description: &str,
        prometheus_name: Option<&str>,
        labelled: bool,
    ) -> Result<Self, &'static str> {
        if kind != CustomKind::Histogram && !bounds.is_empty() {
            return Err("only a histogram has buckets");
        }
        let is_growing = bounds.iter().all(|bound| bound.is_finite()) && bounds.is_sorted_by(|a, b| a < b);
        let has_bounds = kind != CustomKind::Histogram || !bounds.is_empty();
        if !has_bounds || !is_growing || bounds.len() > BOUNDS_MAX {
            return Err("the buckets of a histogram are 1 to 50 growing numbers");
        }
        if !is_name(name) {
            return Err("a name is at most a hundred lower-case letters, digits and hyphens");
        }
        if prometheus_name.is_some_and(|name| !is_prometheus_name(name)) {
            return Err(
                "a name for Prometheus is letters, digits and underscores, not beginning with a digit",
            );
        }
        if prometheus_name.is_some_and(|name| TAKEN.iter().any(|taken| name.starts_with(taken))) {
            return Err("names for Prometheus that begin with dnslob_, dnsdist_ or process_ are taken");
        }
        let metric = Self {
            name: name.to_owned(),
            kind,
            description: description.chars().take(1_000).collect(),
            prometheus_name: prometheus_name.map(str::to_owned),
            labelled,
            bounds: bounds.to_vec(),
            values: Arc::default(),
        };
        if metric.shown_names().iter().any(|name| is_taken(name)) {
            return Err("there is a metric of this name already");
        }
        if !labelled {
            metric.values.store(Arc::new(BTreeMap::from([(Labels::new(), metric.nothing())])));
        }
        Ok(metric)
    }

    /// Returns whether both count the same, so that one can go on with the values of the other.
    fn counts_as(&self, other: &Self) -> bool {
        (self.kind, self.labelled, &self.bounds) == (other.kind, other.labelled, &other.bounds)
    }

    /// Returns whether both are of different names and would have one in common where they are shown.
    fn is_shown_as(&self, other: &Self) -> bool {
        let taken = other.shown_names();
        self.name != other.name && self.shown_names().iter().any(|name| taken.contains(name))
    }

    /// Returns the names of its values: without a prefix and with underscores, as lists of all counters
    /// and Prometheus' format with either prefix have them, and a name for Prometheus as that is given.
    fn shown_names(&self) -> BTreeSet<String> {
        let is_histogram = self.kind == CustomKind::Histogram;
        let name = self.name.replace('-', "_");
        let given = self.prometheus_name.as_ref().map(|given| format!("={given}"));
        let total = (self.kind == CustomKind::Counter && given.is_none() && !name.ends_with("_total"))
            .then(|| format!("{name}_total"));
        let mut names: BTreeSet<String> = BTreeSet::new();
        for name in given.into_iter().chain([name]) {
            let ends = HISTOGRAM_ENDS.iter().filter(|_| is_histogram);
            names.extend(ends.map(|end| format!("{name}{end}")));
            names.insert(name);
        }
        names.extend(total);
        names
    }

    /// Adds to a counter or a gauge; returns the new value.
    ///
    /// # Errors
    /// Why there is no such value.
    pub fn add(&self, labels: &Labels, step: f64) -> Result<f64, &'static str> {
        if !step.is_finite() {
            return Err("the step is no finite number");
        }
        if self.kind == CustomKind::Counter && step < 0.0 {
            return Err("a counter only grows");
        }
        self.change(labels, |value| value + step)
    }

    /// Sets a gauge; returns the value.
    ///
    /// # Errors
    /// Why there is no such value.
    pub fn set(&self, labels: &Labels, value: f64) -> Result<f64, &'static str> {
        if self.kind == CustomKind::Counter {
            return Err("a counter cannot be set");
        }
        self.change(labels, |_| value)
    }

    /// Counts a value of a histogram; returns how many there are.
    ///
    /// # Errors
    /// Why it is not counted.
    pub fn observe(&self, labels: &Labels, value: f64) -> Result<f64, &'static str> {
        if !value.is_finite() {
            return Err("the value is no finite number");
        }
        if self.kind != CustomKind::Histogram {
            return Err("it is no histogram: use incMetric or setMetric");
        }
        let stored = self.stored(labels)?;
        if let Stored::Distribution(distribution) = &*stored {
            distribution.add(self.bounds.partition_point(|bound| *bound < value), value);
        }
        Ok(stored.value())
    }

    /// Returns a value, of a histogram how many were observed; 0 for labels that were never counted.
    #[must_use]
    pub fn value(&self, labels: &Labels) -> f64 {
        self.values.load().get(labels).map_or(0.0, |stored| stored.value())
    }

    /// Returns each combination of labels with its value; one without labels where there are none.
    /// The value of a histogram is the number of observed ones.
    #[must_use]
    pub fn values(&self) -> Vec<(Labels, f64)> {
        self.values.load().iter().map(|(labels, stored)| (labels.clone(), stored.value())).collect()
    }

    /// Returns what a histogram has counted for each combination of labels; of others nothing.
    #[must_use]
    pub fn observed(&self) -> Vec<(Labels, Observed)> {
        let read = |stored: &Stored| match stored {
            Stored::Level(_) => None,
            Stored::Distribution(distribution) => Some(distribution.read()),
        };
        let values = self.values.load();
        values.iter().filter_map(|(labels, stored)| Some((labels.clone(), read(stored)?))).collect()
    }

    /// Returns what is kept before anything was counted.
    fn nothing(&self) -> Arc<Stored> {
        Arc::new(match self.kind {
            CustomKind::Counter | CustomKind::Gauge => Stored::Level(Level::default()),
            CustomKind::Histogram => Stored::Distribution(Distribution::new(self.bounds.len())),
        })
    }

    /// Changes the level of these labels; returns the new one.
    fn change(&self, labels: &Labels, change: impl Fn(f64) -> f64) -> Result<f64, &'static str> {
        match &*self.stored(labels)? {
            Stored::Level(level) => Ok(level.change(change)),
            Stored::Distribution(_) => Err(OBSERVED),
        }
    }

    /// Returns what is kept of these labels, made if there is room for one more.
    fn stored(&self, labels: &Labels) -> Result<Arc<Stored>, &'static str> {
        if let Some(stored) = self.values.load().get(labels) {
            return Ok(Arc::clone(stored));
        }
        if !labels.is_empty() && !self.labelled {
            return Err("the metric was declared without withLabels=true");
        }
        if labels.is_empty() && self.labelled {
            return Err("the metric was declared with withLabels=true: it is counted by labels");
        }
        if labels.len() > LABELS_MAX {
            return Err("more than ten labels");
        }
        let is_long = |(_, value): &(String, String)| value.chars().count() > LABEL_CHARS_MAX;
        if labels.iter().any(|label| !is_label(&label.0) || is_long(label)) {
            return Err("a label is letters, digits and underscores, and its value at most 100 characters");
        }
        if labels.iter().any(|(label, _)| label == RANGE_LABEL) {
            return Err("the label \"le\" is that of histograms' ranges");
        }
        self.values.rcu(|values| {
            let mut values = BTreeMap::clone(values);
            if values.len() < COMBINATIONS_MAX {
                values.entry(labels.clone()).or_insert_with(|| self.nothing());
            }
            values
        });
        let found = self.values.load().get(labels).map(Arc::clone);
        found.ok_or("the metric has a thousand combinations of labels already")
    }
}

/// Why a histogram has no level.
const OBSERVED: &str = "it is a histogram, whose values come by observeMetric";

/// What is wrong with a second declaration of a name.
const OTHERWISE: &str = "a metric of this name was declared otherwise";
/// What is wrong with a name for Prometheus, or one that becomes such a name.
const SHOWN: &str = "another metric has this name for Prometheus, or in lists of all counters";
const FULL: &str = "there are a thousand metrics already";
const UNKNOWN: &str = "the metric is not declared";

/// Who has declared a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The configuration that is in force, with the commands since then.
    Configuration,
    /// A function that was at work.
    Function,
    /// A function of an earlier configuration: others may declare it otherwise.
    Former,
}

/// A metric that is in force.
#[derive(Clone, Debug)]
struct Standing {
    metric: Arc<CustomMetric>,
    by: By,
}

/// Metrics by name.
#[derive(Debug, Default)]
pub struct CustomMetrics {
    standing: ArcSwap<BTreeMap<String, Standing>>,
    /// Those that have gone lately: functions that still run may count with them.
    gone: ArcSwap<BTreeMap<String, Arc<CustomMetric>>>,
}

impl CustomMetrics {
    /// Declares a metric at once; one that is there already keeps its values. A histogram has the ranges
    /// of [`BOUNDS`].
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
        self.declare_with(default_bounds(kind), name, kind, description, prometheus_name, labelled)
    }

    /// Declares a metric with these upper bounds of its ranges: none, unless it is a histogram.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn declare_with(
        &self,
        bounds: &[f64],
        name: &str,
        kind: CustomKind,
        description: &str,
        prometheus_name: Option<&str>,
        labelled: bool,
    ) -> Result<(), &'static str> {
        let metric = CustomMetric::new(bounds, name, kind, description, prometheus_name, labelled)?;
        let metric = Arc::new(metric);
        let is_shown = |all: &BTreeMap<_, Standing>| all.values().any(|of| of.metric.is_shown_as(&metric));
        self.standing.rcu(|standing| {
            let mut all = BTreeMap::clone(standing);
            let (by, is_free, is_full) = (By::Function, !is_shown(standing), standing.len() >= METRICS_MAX);
            match all.get_mut(name) {
                Some(found) if found.by == By::Former => {
                    let is_same = found.metric.counts_as(&metric);
                    if is_same || is_free {
                        let metric = if is_same { &found.metric } else { &metric };
                        *found = Standing { metric: Arc::clone(metric), by };
                    }
                }
                Some(_) => {}
                None if is_free && !is_full => {
                    all.insert(name.to_owned(), Standing { metric: Arc::clone(&metric), by });
                }
                None => {}
            }
            all
        });
        let all = self.standing.load();
        match all.get(name) {
            None if is_shown(&all) => Err(SHOWN),
            None => Err(FULL),
            Some(found) if !found.metric.counts_as(&metric) => Err(OTHERWISE),
            Some(_) => Ok(()),
        }
    }

    /// Adds metrics to those of functions, where their names are free.
    pub fn add_all(&self, more: &Declared) {
        self.standing.rcu(|standing| {
            let mut all = BTreeMap::clone(standing);
            for (name, metric) in &more.0 {
                if all.len() < METRICS_MAX && !all.values().any(|of| of.metric.is_shown_as(metric)) {
                    let own = Standing { metric: Arc::clone(metric), by: By::Function };
                    all.entry(name.clone()).or_insert(own);
                }
            }
            all
        });
    }

    /// Forgets those that have gone: whatever runs belongs to the present configuration.
    pub fn drop_gone(&self) {
        if !self.gone.load().is_empty() {
            self.gone.store(Arc::default());
        }
    }

    /// Adds to a counter or a gauge; returns the new value.
    ///
    /// # Errors
    /// Why there is no such value.
    pub fn add(&self, name: &str, labels: &Labels, step: f64) -> Result<f64, &'static str> {
        self.metric(name)?.add(labels, step)
    }

    /// Sets a gauge; returns the value.
    ///
    /// # Errors
    /// Why there is no such value.
    pub fn set(&self, name: &str, labels: &Labels, value: f64) -> Result<f64, &'static str> {
        self.metric(name)?.set(labels, value)
    }

    /// Counts a value of a histogram; returns how many there are.
    ///
    /// # Errors
    /// Why it is not counted.
    pub fn observe(&self, name: &str, labels: &Labels, value: f64) -> Result<f64, &'static str> {
        self.metric(name)?.observe(labels, value)
    }

    /// Returns a value, of a histogram how many were observed; 0 for labels that were never counted.
    ///
    /// # Errors
    /// There is no such metric.
    pub fn value(&self, name: &str, labels: &Labels) -> Result<f64, &'static str> {
        Ok(self.metric(name)?.value(labels))
    }

    /// Returns the metrics in order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<CustomMetric>> {
        self.standing.load().values().map(|of| Arc::clone(&of.metric)).collect()
    }

    /// Returns the values of those without labels, by name; of a histogram NAME-count and NAME-sum.
    #[must_use]
    pub fn plain(&self) -> Vec<(String, f64)> {
        let standing = self.standing.load();
        let mut out = Vec::new();
        for metric in standing.values().map(|of| &of.metric).filter(|metric| !metric.labelled) {
            let name = &metric.name;
            if metric.kind == CustomKind::Histogram {
                let observed = metric.observed().into_iter().next().map(|(_, observed)| observed);
                let observed = observed.unwrap_or_default();
                out.push((format!("{name}-count"), observed.count() as f64));
                out.push((format!("{name}-sum"), observed.sum));
            } else {
                out.push((name.clone(), metric.values().first().map_or(0.0, |(_, value)| *value)));
            }
        }
        out
    }

    /// Returns a metric.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn metric(&self, name: &str) -> Result<Arc<CustomMetric>, &'static str> {
        let standing = self.standing.load().get(name).map(|of| Arc::clone(&of.metric));
        standing.or_else(|| self.gone.load().get(name).map(Arc::clone)).ok_or(UNKNOWN)
    }
}

/// The bounds of a metric that is declared without any.
const fn default_bounds(kind: CustomKind) -> &'static [f64] {
    match kind {
        CustomKind::Histogram => &BOUNDS,
        CustomKind::Counter | CustomKind::Gauge => &[],
    }
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
        // What has labels has none beside them, which would be counted twice in sums.
        assert!(metrics.add("by", &Labels::new(), 1.0).is_err());
        for (name, value) in [("a b", "x"), ("__a", "x"), ("", "x"), ("a", &*"x".repeat(101)), ("le", "1")] {
            assert!(metrics.add("by", &labels(&[(name, value)]), 1.0).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_histogram_counts_by_ranges() {
        let metrics = CustomMetrics::default();
        let declare =
            |bounds: &[f64]| metrics.declare_with(bounds, "size", CustomKind::Histogram, "", None, false);
        assert_eq!(declare(&[1.0, 10.0]), Ok(()));
        let none = Labels::new();
        for (value, count) in [(0.0, 1.0), (1.0, 2.0), (1.5, 3.0), (10.0, 4.0), (11.0, 5.0), (-3.0, 6.0)] {
            assert_eq!(metrics.observe("size", &none, value), Ok(count));
        }
        let observed = Observed { at_most: vec![3, 5, 6], sum: 20.5 };
        assert_eq!(metrics.list()[0].observed(), [(none.clone(), observed)]);
        assert_eq!(metrics.value("size", &none), Ok(6.0));
        assert_eq!(metrics.plain(), [("size-count".to_owned(), 6.0), ("size-sum".to_owned(), 20.5)]);
        assert_eq!(declare(&[1.0, 10.0]), Ok(()), "as a reload does");
        assert_eq!(metrics.value("size", &none), Ok(6.0));
        assert_eq!(declare(&[1.0]), Err(OTHERWISE));
        for wrong in [f64::NAN, f64::INFINITY] {
            assert!(metrics.observe("size", &none, wrong).is_err());
        }
        assert!(metrics.add("size", &none, 1.0).is_err() && metrics.set("size", &none, 1.0).is_err());
        metrics.declare("level", CustomKind::Gauge, "", None, false).expect("declared");
        assert!(metrics.observe("level", &none, 1.0).is_err() && metrics.list()[0].observed().is_empty());
        metrics.declare("by", CustomKind::Histogram, "", None, true).expect("declared");
        assert!(metrics.observe("by", &labels(&[("le", "1")]), 1.0).is_err());
        assert_eq!(metrics.observe("by", &labels(&[("pool", "a")]), 1.0), Ok(1.0));
    }

    #[test]
    fn buckets_are_some_growing_numbers_of_a_histogram() {
        let metrics = CustomMetrics::default();
        let declare = |bounds: &[f64], kind| metrics.declare_with(bounds, "x", kind, "", None, false).is_ok();
        let many: Vec<f64> = (0..=BOUNDS_MAX).map(|n| n as f64).collect();
        for wrong in [&[][..], &[1.0, 1.0], &[2.0, 1.0], &[f64::NAN], &[1.0, f64::INFINITY], &many[..]] {
            assert!(!declare(wrong, CustomKind::Histogram), "{wrong:?}");
        }
        assert!(!declare(&[1.0], CustomKind::Gauge) && metrics.list().is_empty());
        assert!(declare(&many[1..], CustomKind::Histogram));
        let named = |name, shown| metrics.declare(name, CustomKind::Gauge, "", shown, false).is_ok();
        for taken in ["x-count", "x-sum", "x-bucket"] {
            assert!(!named(taken, None), "{taken}");
        }
        assert!(!named("y", Some("dnslob_x_sum")) && named("x-counts", None));
    }

    #[test]
    fn names_that_are_shown_already_are_refused() {
        let metrics = CustomMetrics::default();
        let declare = |name, kind| metrics.declare(name, kind, "", None, false);
        for name in [
            "queries",
            "queries-total",
            "latency-count",
            "latency-seconds",
            "rule-drop",
            "acl-drops",
            "uptime",
            "backend-up",
            "build-info",
            "info",
            "certificate-expires-in-seconds",
            "server-policy",
            "server-status",
            "pool-cache-hits",
        ] {
            for kind in [CustomKind::Counter, CustomKind::Gauge, CustomKind::Histogram] {
                assert_eq!(declare(name, kind), Err("there is a metric of this name already"), "{name}");
            }
        }
        assert!(declare("cpu-user-seconds", CustomKind::Counter).is_err());
        // The sum of a histogram would be that of another one.
        assert!(declare("latency", CustomKind::Histogram).is_err());
        assert_eq!(declare("my-queries", CustomKind::Counter), Ok(()));
    }

    fn declared(running: &CustomMetrics, all: &[(&str, CustomKind)]) -> Declared {
        let mut declared = Declared::default();
        for (name, kind) in all {
            declared.declare(running, None, name, *kind, "", None, false).expect("declared");
        }
        declared
    }

    fn names(metrics: &CustomMetrics) -> Vec<String> {
        metrics.list().iter().map(|metric| metric.name.clone()).collect()
    }

    #[test]
    fn what_is_declared_counts_once_it_is_in_force() {
        let (metrics, none) = (CustomMetrics::default(), Labels::new());
        let first = declared(&metrics, &[("hits", CustomKind::Counter), ("load", CustomKind::Gauge)]);
        assert!(metrics.list().is_empty() && metrics.add("hits", &none, 1.0).is_err());
        metrics.publish(&first);
        assert_eq!((metrics.add("hits", &none, 3.0), metrics.set("load", &none, 7.0)), (Ok(3.0), Ok(7.0)));
        // A file that is refused leaves nothing.
        drop(declared(&metrics, &[("hits", CustomKind::Gauge), ("odd", CustomKind::Counter)]));
        assert_eq!(
            (names(&metrics), metrics.value("hits", &none)),
            (vec!["hits".into(), "load".into()], Ok(3.0))
        );
        // The next one keeps what is declared as before, begins anew what is not, and drops the rest.
        let mut next = Declared::default();
        next.declare(&metrics, None, "hits", CustomKind::Counter, "New words.", None, false)
            .expect("declared");
        metrics.publish(&next);
        assert_eq!((names(&metrics), metrics.value("hits", &none)), (vec!["hits".to_owned()], Ok(3.0)));
        assert_eq!(metrics.list()[0].description, "New words.");
        assert_eq!(metrics.add("load", &none, 1.0), Ok(8.0), "by what still runs");
        metrics.drop_gone();
        assert!(metrics.add("load", &none, 1.0).is_err());
        metrics.publish(&declared(&metrics, &[("hits", CustomKind::Gauge)]));
        assert_eq!((metrics.list()[0].kind, metrics.value("hits", &none)), (CustomKind::Gauge, Ok(0.0)));
        let mut odd = declared(&metrics, &[("hits", CustomKind::Gauge)]);
        assert_eq!(odd.declare(&metrics, None, "hits", CustomKind::Counter, "", None, false), Err(OTHERWISE));
        let more = [("hits-total", CustomKind::Gauge)].map(|(name, kind)| (name.to_owned(), kind));
        for (name, kind) in more {
            assert_eq!(odd.declare(&metrics, None, &name, kind, "", None, false), Ok(()));
        }
        assert_eq!(odd.since(&next).0.len(), 1);
    }

    #[test]
    fn what_a_file_counts_counts_with_it() {
        let (metrics, none, x) = (CustomMetrics::default(), Labels::new(), labels(&[("pool", "x")]));
        let file = || {
            let all = [("hits", CustomKind::Counter), ("load", CustomKind::Gauge)];
            let mut declared = declared(&metrics, &all);
            for (name, kind) in [("sizes", CustomKind::Histogram), ("by", CustomKind::Gauge)] {
                let labelled = name == "by";
                declared.declare(&metrics, None, name, kind, "", None, labelled).expect("declared");
            }
            let change =
                |declared: &mut Declared, name| declared.to_change(&metrics, name).expect("declared");
            let values = [
                change(&mut declared, "hits").add(&none, 2.0),
                change(&mut declared, "load").set(&none, 5.0),
                change(&mut declared, "by").add(&x, 1.0),
                change(&mut declared, "sizes").observe(&none, 0.3),
            ];
            declared.note_set("load", &none);
            (declared, values.map(|value| value.expect("counted")))
        };
        let read = || {
            let value = |name, labels| metrics.value(name, labels).expect("declared");
            [value("hits", &none), value("load", &none), value("by", &x), value("sizes", &none)]
        };
        let (first, values) = file();
        assert_eq!(values, [2.0, 5.0, 1.0, 1.0]);
        metrics.publish(&first);
        assert_eq!(read(), [2.0, 5.0, 1.0, 1.0]);
        // One that is refused counts nothing.
        let (refused, values) = file();
        assert_eq!((values, read()), ([4.0, 5.0, 2.0, 2.0], [2.0, 5.0, 1.0, 1.0]));
        drop(refused);
        assert_eq!(read(), [2.0, 5.0, 1.0, 1.0]);
        // What others count meanwhile stays, but for what the file sets.
        let (second, _) = file();
        let others = [metrics.add("hits", &none, 10.0), metrics.set("load", &none, 1.0)];
        assert!(others.iter().all(Result::is_ok) && metrics.observe("sizes", &none, 7.0).is_ok());
        let again = second.clone();
        metrics.publish(&second);
        assert_eq!(read(), [14.0, 5.0, 2.0, 3.0]);
        assert!((metrics.metric("sizes").expect("declared").observed()[0].1.sum - 7.6).abs() < 1e-9);
        metrics.publish(&again);
        assert_eq!(read(), [14.0, 5.0, 2.0, 3.0], "it counts once");
    }

    #[test]
    fn places_of_metrics_that_are_gone_are_free() {
        let metrics = CustomMetrics::default();
        let all = |begin: &str| {
            let mut declared = Declared::default();
            for n in 0..=METRICS_MAX {
                let name = format!("{begin}{n}");
                let made = declared.declare(&metrics, None, &name, CustomKind::Gauge, "", None, false);
                assert_eq!(made, if n < METRICS_MAX { Ok(()) } else { Err(FULL) });
            }
            declared
        };
        metrics.publish(&all("a"));
        assert_eq!(metrics.declare("b", CustomKind::Gauge, "", None, false), Err(FULL));
        metrics.publish(&all("b"));
        assert_eq!(metrics.list().len(), METRICS_MAX);
        metrics.publish(&Declared::default());
        assert_eq!(metrics.declare("b", CustomKind::Gauge, "", None, false), Ok(()));
    }

    #[test]
    fn metrics_of_functions_outlive_a_configuration() {
        let (metrics, none) = (CustomMetrics::default(), Labels::new());
        metrics.declare("own", CustomKind::Counter, "", None, false).expect("declared");
        assert_eq!(metrics.add("own", &none, 2.0), Ok(2.0));
        assert_eq!(metrics.declare("own", CustomKind::Gauge, "", None, false), Err(OTHERWISE));
        metrics.publish(&Declared::default());
        assert_eq!(metrics.declare("own", CustomKind::Counter, "", None, false), Ok(()));
        assert_eq!(metrics.value("own", &none), Ok(2.0));
        metrics.publish(&Declared::default());
        assert_eq!(
            metrics.declare("own", CustomKind::Gauge, "", None, false),
            Ok(()),
            "its functions are others"
        );
        assert_eq!(metrics.value("own", &none), Ok(0.0));
        metrics.publish(&declared(&metrics, &[("own", CustomKind::Counter)]));
        assert_eq!((metrics.list().len(), metrics.list()[0].kind), (1, CustomKind::Counter));
        metrics.add_all(&declared(&metrics, &[("own", CustomKind::Gauge), ("more", CustomKind::Gauge)]));
        assert_eq!(
            (names(&metrics), metrics.list()[1].kind),
            (vec!["more".into(), "own".into()], CustomKind::Counter)
        );
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
