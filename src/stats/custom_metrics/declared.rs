//! The metrics that a configuration declares, until they are in force with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::stats::custom_metrics::{
    By, CustomKind, CustomMetric, CustomMetrics, FULL, METRICS_MAX, OTHERWISE, SHOWN, default_bounds,
};

/// The metrics that a configuration declares, while it is a draft.
#[derive(Clone, Debug, Default)]
pub struct Declared(pub(super) BTreeMap<String, Arc<CustomMetric>>);

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

    /// Returns those that an earlier state of it does not have.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let new = self.0.iter().filter(|(name, _)| !earlier.0.contains_key(*name));
        Self(new.map(|(name, metric)| (name.clone(), Arc::clone(metric))).collect())
    }
}
