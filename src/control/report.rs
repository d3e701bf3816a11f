//! Reports a health check's outcome to the control loop.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::control::health::Due;
use crate::control::probe::Failed;
use crate::model::Backend;

/// The outcome of a probe.
pub(super) struct Outcome {
    pub(super) due: Due,
    pub(super) backend: Arc<Backend>,
    pub(super) result: Result<(), Failed>,
}

/// Reports the outcome when the probe ends, including by a panic: otherwise the loop would wait
/// forever.
pub(super) struct Report {
    due: Due,
    backend: Arc<Backend>,
    result: Option<Result<(), Failed>>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Report {
    pub(super) const fn new(
        due: Due,
        backend: Arc<Backend>,
        outcomes: mpsc::UnboundedSender<Outcome>,
    ) -> Self {
        Self { due, backend, result: None, outcomes }
    }

    pub(super) fn send(mut self, result: Result<(), Failed>) {
        self.result = Some(result);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(Failed::unfinished()));
        // The loop may have ended.
        let _ = self.outcomes.send(Outcome { due: self.due, backend: Arc::clone(&self.backend), result });
    }
}
