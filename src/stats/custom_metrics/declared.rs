//! The metrics that a configuration declares, until they are in force with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;

use crate::stats::custom_metrics::{
    By, CustomKind, CustomMetric, CustomMetrics, Distribution, FULL, Labels, Level, METRICS_MAX, OTHERWISE,
    SHOWN, Standing, Stored, default_bounds,
};

/// The metrics that a configuration declares, while it is a draft; and what its file has changed of those that are in
/// force.
#[derive(Clone, Debug, Default)]
pub struct Declared(pub(super) BTreeMap<String, Arc<CustomMetric>>, BTreeMap<String, Changed>);

/// What a file has changed of a metric that is in force, until the file is, too.
#[derive(Clone, Debug)]
struct Changed {
    /// A copy, which the file changes.
    metric: Arc<CustomMetric>,
    /// What it was a copy of.
    base: BTreeMap<Labels, Arc<Stored>>,
    /// The gauges that the file has set, whatever they were.
    set: BTreeSet<Labels>,
    /// Whether it is in force.
    applied: Arc<AtomicBool>,
}

impl Changed {
    fn of(metric: &CustomMetric) -> Self {
        let values = metric.values.load();
        let copy =
            || values.iter().map(|(labels, stored)| (labels.clone(), Arc::new(copied(stored)))).collect();
        let own = CustomMetric {
            name: metric.name.clone(),
            kind: metric.kind,
            description: metric.description.clone(),
            prometheus_name: metric.prometheus_name.clone(),
            labelled: metric.labelled,
            bounds: metric.bounds.clone(),
            values: Arc::new(ArcSwap::from_pointee(copy())),
        };
        Self { metric: Arc::new(own), base: copy(), set: BTreeSet::new(), applied: Arc::default() }
    }

    /// Changes the metric that is in force by as much, once.
    fn apply(&self, metric: &CustomMetric) {
        if self.applied.swap(true, Relaxed) {
            return;
        }
        for (labels, changed) in self.metric.values.load().iter() {
            let Ok(stored) = metric.stored(labels) else { continue };
            let base = self.base.get(labels).map(|base| &**base);
            match (&*stored, &**changed, base) {
                (Stored::Level(level), Stored::Level(changed), _) if self.set.contains(labels) => {
                    level.change(|_| changed.get());
                }
                (Stored::Level(level), Stored::Level(changed), base) => {
                    let step = changed.get() - base.map_or(0.0, Stored::value);
                    level.change(|value| value + step);
                }
                (Stored::Distribution(all), Stored::Distribution(changed), base) => {
                    let (counts, sum) = match base {
                        Some(Stored::Distribution(base)) => (Some(&base.counts), base.sum.get()),
                        Some(Stored::Level(_)) | None => (None, 0.0),
                    };
                    for (at, (count, changed)) in all.counts.iter().zip(&changed.counts).enumerate() {
                        let before = counts.and_then(|counts| counts.get(at)).map_or(0, |n| n.load(Relaxed));
                        count.fetch_add(changed.load(Relaxed) - before, Relaxed);
                    }
                    let step = changed.sum.get() - sum;
                    all.sum.change(|sum| sum + step);
                }
                // Both are of one kind.
                (Stored::Level(_), Stored::Distribution(_), _)
                | (Stored::Distribution(_), Stored::Level(_), _) => {}
            }
        }
    }
}

fn copied(stored: &Stored) -> Stored {
    let number = |of: &AtomicU64| AtomicU64::new(of.load(Relaxed));
    match stored {
        Stored::Level(level) => Stored::Level(Level(number(&level.0))),
        Stored::Distribution(of) => Stored::Distribution(Distribution {
            counts: of.counts.iter().map(number).collect(),
            sum: Level(number(&of.sum.0)),
        }),
    }
}

impl CustomMetrics {
    /// Puts what a configuration declares in force, in the place of what the one before it has declared.
    pub fn publish(&self, declared: &Declared) {
        let before = self.standing.rcu(|standing| {
            let is_left =
                |of: &Standing| of.by != By::Configuration && !declared.0.contains_key(&of.metric.name);
            let is_free = |of: &Standing| declared.0.values().all(|metric| !metric.is_shown_as(&of.metric));
            let left = standing.iter().filter(|(_, of)| is_left(of) && is_free(of));
            let left = left.map(|(name, of)| {
                (name.clone(), Standing { metric: Arc::clone(&of.metric), by: By::Former })
            });
            let own = declared.0.iter().map(|(name, metric)| {
                (name.clone(), Standing { metric: Arc::clone(metric), by: By::Configuration })
            });
            left.chain(own).collect::<BTreeMap<_, _>>()
        });
        let all = self.standing.load();
        let gone = before.iter().filter(|(name, _)| !all.contains_key(*name));
        let gone = gone.map(|(name, of)| (name.clone(), Arc::clone(&of.metric)));
        self.gone.store(Arc::new(gone.collect()));
        for (name, changed) in &declared.1 {
            if let Some(metric) = declared.0.get(name) {
                changed.apply(metric);
            }
        }
    }
}

impl Declared {
    /// Declares a metric, a histogram with these upper bounds or with [`BOUNDS`](super::BOUNDS). It goes
    /// on with the values that it has in `running`, unless it counts otherwise.
    ///
    /// # Errors
    /// What is wrong with it.
    #[expect(clippy::too_many_arguments, reason = "each is an argument of the function in Lua")]
    pub fn declare(
        &mut self,
        running: &CustomMetrics,
        bounds: Option<&[f64]>,
        name: &str,
        kind: CustomKind,
        description: &str,
        prometheus_name: Option<&str>,
        labelled: bool,
    ) -> Result<(), &'static str> {
        let bounds = bounds.unwrap_or(default_bounds(kind));
        let mut metric = CustomMetric::new(bounds, name, kind, description, prometheus_name, labelled)?;
        let standing = running.standing.load();
        if let Some(before) = self.0.get(name) {
            return if before.counts_as(&metric) { Ok(()) } else { Err(OTHERWISE) };
        }
        let others = standing.values().filter(|of| of.by != By::Configuration).map(|of| &of.metric);
        let others = others.filter(|of| !self.0.contains_key(&of.name) && of.name != name);
        if self.0.values().any(|other| other.is_shown_as(&metric)) {
            return Err(SHOWN);
        }
        if self.0.len() + others.count() >= METRICS_MAX {
            return Err(FULL);
        }
        if let Some(before) = standing.get(name).filter(|before| before.metric.counts_as(&metric)) {
            metric.values = Arc::clone(&before.metric.values);
        }
        self.0.insert(name.to_owned(), Arc::new(metric));
        Ok(())
    }

    /// Returns a metric that it declares.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<Arc<CustomMetric>> {
        self.0.get(name).map(Arc::clone)
    }

    /// Returns a metric that it declares, as its file changes it: one that is in force already as a copy, whose
    /// changes come into force with the file.
    pub fn to_change(&mut self, running: &CustomMetrics, name: &str) -> Option<Arc<CustomMetric>> {
        let metric = self.0.get(name)?;
        let standing = running.standing.load();
        let standing = standing.get(name).map(|of| &of.metric.values);
        if standing.is_none_or(|values| !Arc::ptr_eq(values, &metric.values)) {
            return Some(Arc::clone(metric));
        }
        let changed = self.1.entry(name.to_owned()).or_insert_with(|| Changed::of(metric));
        Some(Arc::clone(&changed.metric))
    }

    /// Notes that the file has set a gauge.
    pub fn note_set(&mut self, name: &str, labels: &Labels) {
        if let Some(changed) = self.1.get_mut(name) {
            changed.set.insert(labels.clone());
        }
    }

    /// Returns the names of those that it declares.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns those that an earlier state of it does not have.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let new = self.0.iter().filter(|(name, _)| !earlier.0.contains_key(*name));
        Self(new.map(|(name, metric)| (name.clone(), Arc::clone(metric))).collect(), BTreeMap::new())
    }
}
