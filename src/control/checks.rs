//! Health checks of the control loop: starts those that are due, and takes their outcomes.

use std::rc::Rc;
use std::sync::Arc;

use crate::base::time::Tick;
use crate::control::Control;
use crate::control::health::Due;
use crate::control::plan::Source;
use crate::control::probe::{self, Script};
use crate::control::report::{Outcome, Report};
use crate::engine::clock;
use crate::model::Snapshot;

impl<S: Source> Control<S> {
    /// Starts all due probes, each as its own task.
    pub(super) fn probe(&mut self, now: Tick) {
        let current = self.feed.current();
        for due in self.backend_health.begin(now, &mut self.tickets) {
            let script = Rc::clone(&self.script);
            self.spawn(due, &current, script);
        }
        let Some(reload) = &mut self.reload else { return };
        let due = reload.probes(now, &mut self.tickets);
        let (snapshot, script) = (Arc::clone(&reload.plan().snapshot), Rc::clone(&reload.plan().script));
        for due in due {
            self.spawn(due, &snapshot, Rc::clone(&script));
        }
    }

    fn spawn(&mut self, due: Due, snapshot: &Snapshot, script: Rc<dyn Script>) {
        let Some(backend) = snapshot.backend(due.slot).map(Arc::clone) else { return };
        let (id, runner, outcomes) = (self.rng.id(), self.runner.clone(), self.outcomes.clone());
        let report = Report::new(due, Arc::clone(&backend), outcomes);
        tokio::task::spawn_local(async move {
            report.send(probe::run(&backend, id, &script, runner).await);
        });
    }

    pub(super) fn settle(&mut self, Outcome { due, backend, result }: Outcome) {
        let now = clock::now();
        if let (true, Err(failed)) = (self.settings.verbose_checks, &result) {
            let (server, address) = (&backend.name, backend.address);
            tracing::info!(server, %address, reason = %failed.reason, detail = failed.detail, "check failed");
        }
        let result = result.as_ref().copied().map_err(|f| (f.reason, f.detail.as_str()));
        if let Some(reload) = &mut self.reload {
            reload.settle(due, result, now);
        }
        // Tickets of a reload's checks are ignored here, and vice versa.
        if let Some(backend) = self.feed.current().backend(due.slot) {
            self.backend_health.settle(backend, due.ticket, result, now);
        }
    }
}
