//! One change of configuration, from a plan to all shards: whole, or not at all.
//!
//! ```text
//!  plan ──► check first what is new ──► open new listeners ──► states on the board ──► publish
//!           (bounded by time-outs)      (last thing to fail)                             │
//!                    removed listeners are told to end ◄── every shard has begun ◄───────┘
//! ```
//! Until the listeners are open nothing of the running configuration has been touched. The start
//! of the process is the same change, from nothing; its sockets are opened before the rights to
//! do so are dropped.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::addr::{BackendSlot, ListenerSlot};
use crate::config::snapshot::{Backend, HealthMode, Listener, Snapshot};
use crate::control::farm::Farm;
use crate::control::feed::Feed;
use crate::control::health::{Checks, Due, Failure};
use crate::control::plan::Plan;
use crate::control::shards::Edge;
use crate::control::stats::Gatherer;
use crate::engine::Message;
use crate::engine::socket::Ear;
use crate::rng::ShardRng;
use crate::time::Tick;

#[cfg(test)]
mod tests;

/// A listener's sockets, one per shard.
pub type Opened = Vec<(Arc<Listener>, Vec<(usize, Ear)>)>;

/// A change under way: its new backends are being checked.
pub struct Reload {
    plan: Plan,
    /// Checks of backends that are new, or that nothing is known of.
    checks: Checks,
    reasons: BTreeMap<BackendSlot, String>,
    /// Sockets that are open already, at the start of the process.
    opened: Opened,
}

/// A change that is in force.
#[derive(Debug, Default)]
pub struct Done {
    /// Listeners that are gone; they hear until every shard uses the new configuration.
    pub removed: Vec<ListenerSlot>,
}

impl Reload {
    /// Begins the change from `old`; none at the start of the process.
    #[must_use]
    pub fn begin(old: Option<&Snapshot>, plan: Plan, opened: Opened, rng: ShardRng, now: Tick) -> Self {
        let mut checks = Checks::new(rng);
        for backend in plan.snapshot.backends.iter().flatten() {
            let before = old.and_then(|o| o.backend(backend.slot));
            if before.is_none_or(|before| !carries_over(before, backend)) {
                // At the start all are cold alike, and none can spare another.
                checks.add(backend.slot, &backend.health, now, old.is_some());
            }
        }
        Self { plan, checks, reasons: BTreeMap::new(), opened }
    }

    /// The plan that is to come into force.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// When its next probe is due.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        self.checks.next()
    }

    /// Begins the probes that are due.
    pub fn probes(&mut self, now: Tick, tickets: &mut u64) -> Vec<Due> {
        self.checks.begin(now, tickets)
    }

    /// Takes the outcome of a probe, if it is one of this change's.
    pub fn settle(&mut self, due: Due, outcome: Result<(), (Failure, &str)>, now: Tick) {
        let Some(check) = self.checks.at_mut(due.slot) else { return };
        let reason = match outcome {
            Ok(()) => "check passed".to_owned(),
            Err((reason, detail)) => format!("{reason}: {detail}"),
        };
        check.settle(due.ticket, outcome.map_err(|(reason, _)| reason), now);
        self.reasons.insert(due.slot, reason);
    }

    /// Whether every new backend has been heard of.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.checks.any_unknown()
    }

    /// Brings the change into force: gives back the plan's remains and what is left to do.
    ///
    /// # Errors
    /// Each listener that could not be opened; then nothing has changed.
    pub fn commit(
        mut self,
        edge: &mut dyn Edge,
        feed: &Feed,
        farm: &mut Farm,
        gatherer: &mut Gatherer,
        now: Tick,
    ) -> Result<(Plan, Done), Vec<String>> {
        let old = feed.current();
        // The first change finds its own snapshot in the feed.
        let starting = old.generation == self.plan.snapshot.generation;
        let old = (!starting).then_some(old);
        self.open(old.as_deref(), edge)?;

        if let Some(old) = &old {
            for gone in old.backends.iter().flatten() {
                if self.plan.snapshot.backend(gone.slot).is_none() {
                    farm.leave(gone.slot);
                }
            }
        }
        let mut fresh: BTreeMap<_, _> = self.checks.drain().collect();
        for backend in self.plan.snapshot.backends.iter().flatten() {
            let Some(check) = fresh.remove(&backend.slot) else {
                farm.revise(backend, now);
                continue;
            };
            let before = old.as_ref().and_then(|o| o.backend(backend.slot));
            if before.is_none_or(|b| b.id != backend.id) {
                gatherer.rebase(feed.board(), backend.slot);
            }
            let reason = self.reasons.get(&backend.slot).map_or("configuration", String::as_str);
            farm.join(backend, check, reason, now);
        }

        let removed = old.as_deref().map(|o| missing(o, &self.plan.snapshot)).unwrap_or_default();
        feed.publish(Arc::clone(&self.plan.snapshot));
        for shard in 0..edge.count() {
            tell(edge, shard, Message::Snapshot);
        }
        for (listener, sockets) in self.opened {
            for (shard, ear) in sockets {
                tell(edge, shard, Message::Listen(Arc::clone(&listener), ear));
            }
        }
        Ok((self.plan, Done { removed }))
    }

    /// Opens the listeners that are new. One that changed has another slot, so it opens beside
    /// what it was and takes over from it.
    ///
    /// What the kernel gives to a socket that is closed again is lost. So those come last that
    /// share the address of one that stands, which hardly fail and get a part of its clients at
    /// once; and connections are taken when all sockets are open.
    fn open(&mut self, old: Option<&Snapshot>, edge: &mut dyn Edge) -> Result<(), Vec<String>> {
        let standing = || old.into_iter().flat_map(|o| &o.listeners);
        let is_open = |l: &Listener| self.opened.iter().any(|(known, _)| known.slot == l.slot);
        let new = |l: &&Arc<Listener>| standing().all(|known| known.slot != l.slot) && !is_open(l);
        let mut listeners: Vec<_> = self.plan.snapshot.listeners.iter().filter(new).cloned().collect();
        listeners.sort_by_key(|l| standing().any(|known| known.address == l.address));
        let (mut errors, mut opened) = (Vec::new(), Vec::with_capacity(listeners.len()));
        let fault =
            |listener: &Listener, e: &io::Error| format!("cannot listen on {}: {e}", listener.address);
        for listener in listeners {
            match edge.open(&listener) {
                Ok(sockets) => opened.push((listener, sockets)),
                Err(e) => errors.push(fault(&listener, &e)),
            }
        }
        if errors.is_empty() {
            let heard = opened.iter().map(|(listener, sockets)| (listener, edge.hear(listener, sockets)));
            errors.extend(heard.filter_map(|(listener, heard)| heard.err().map(|e| fault(listener, &e))));
        }
        self.opened.extend(opened);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// Tells the shards to end the listeners that a change removed.
pub fn retire(removed: &[ListenerSlot], edge: &mut dyn Edge) {
    for slot in removed {
        for shard in 0..edge.count() {
            tell(edge, shard, Message::Unlisten(*slot));
        }
    }
}

/// A shard that cannot be told has ended; whoever watches the threads will find out.
fn tell(edge: &mut dyn Edge, shard: usize, message: Message) {
    if let Err(e) = edge.tell(shard, message) {
        tracing::error!(shard, error = %e, "a shard does not take its messages");
    }
}

fn missing(old: &Snapshot, new: &Snapshot) -> Vec<ListenerSlot> {
    let gone = old.listeners.iter().filter(|l| new.listeners.iter().all(|n| n.slot != l.slot));
    gone.map(|l| l.slot).collect()
}

/// Whether what is known of a backend's health still holds: the same server, asked the same way.
fn carries_over(old: &Backend, new: &Backend) -> bool {
    let probed = |m| matches!(m, HealthMode::Auto | HealthMode::Lazy);
    let known = !probed(new.health.mode) || probed(old.health.mode) || old.health.mode == HealthMode::Up;
    known
        && old.id == new.id
        && old.address == new.address
        && old.source == new.source
        && old.source_interface == new.source_interface
}
