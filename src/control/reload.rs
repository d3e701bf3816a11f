//! One change of configuration, from a plan to all shards, atomically.
//!
//! ```text
//! plan ──► open listeners ──► check new backends ──► bind shared ──► write live ──► publish
//!          of its own         (bounded by            addresses,      states           │
//!                              time-outs)            listen (last thing to fail)      │
//!                  removed listeners end ◄── every shard uses the configuration ◄─────┘
//! ```
//! Until everything is bound, the running configuration is untouched. The start of the process is
//! the same change, from nothing; its sockets are created before privileges are dropped.
//!
//! A socket bound to an address that others have gets a part of their datagrams at once, and all of
//! them if its address is more specific. They must not be lost if the change fails: such sockets
//! are bound last, when only another of their kind can fail, and then the shards take the others
//! over and end them like removed listeners, read to the end. A listener that keeps its address,
//! interface and service keeps its sockets, which get their new options when its shards begin to
//! use the snapshot.
//! their new options when its shards begin to use the snapshot.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::base::rng::ShardRng;
use crate::base::time::Tick;
use crate::control::backend_health::BackendHealth;
use crate::control::health::{Checks, Due};
use crate::control::plan::Plan;
use crate::control::publisher::Feed;
use crate::control::shards::{Edge, Open};
use crate::control::stats::Gatherer;
use crate::engine::Message;
use crate::engine::socket::ListenerSockets;
use crate::model::{Backend, HealthMode, Listener, Snapshot};
use crate::stats::check_failure::Failure;
use crate::stats::custom_metrics;

/// A listener's sockets, one set per shard.
pub type Opened = Vec<(Arc<Listener>, Vec<(usize, ListenerSockets)>)>;

/// A pending change, whose new backends are being checked.
pub struct Reload {
    plan: Plan,
    /// Checks of backends that are new or unknown.
    checks: Checks,
    reasons: BTreeMap<BackendSlot, String>,
    /// Already bound: no other socket has their addresses.
    opened: Opened,
    /// To be bound last: other sockets have their addresses.
    shared: Opened,
}

/// A committed change.
#[derive(Debug, Default)]
pub struct Done {
    /// Removed listeners; they receive until every shard uses the new configuration.
    pub removed: Vec<Arc<Listener>>,
}

/// A change that failed when its sockets were bound.
#[derive(Debug)]
pub struct Refused {
    /// The reason, human-readable.
    pub error: String,
    /// Its listeners that the shards end.
    pub ending: Vec<Arc<Listener>>,
}

impl Reload {
    /// Begins the change from `old`; `None` at the start of the process. `ending` are listeners of
    /// earlier changes whose sockets may still be open.
    ///
    /// # Errors
    /// Each listener that cannot be opened; nothing has changed then.
    pub fn begin(
        old: Option<&Snapshot>,
        plan: Plan,
        ending: &[Arc<Listener>],
        edge: &mut dyn Open,
        rng: ShardRng,
        now: Tick,
    ) -> Result<Self, Vec<String>> {
        let (opened, shared) = open(old, &plan.snapshot, ending, edge)?;
        let mut checks = Checks::new(rng);
        for backend in plan.snapshot.backends.iter().flatten() {
            let before = old.and_then(|o| o.backend(backend.slot));
            if before.is_none_or(|before| !carries_over(before, backend)) {
                // At the start all caches are cold, and none can take over for another.
                checks.add(backend.slot, &backend.health, now, old.is_some());
            }
        }
        Ok(Self { plan, checks, reasons: BTreeMap::new(), opened, shared })
    }

    /// Returns the plan of the change.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns when its next probe is due.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        self.checks.next()
    }

    /// Begins the probes that are due.
    pub fn probes(&mut self, now: Tick, tickets: &mut u64) -> Vec<Due> {
        self.checks.begin(now, tickets)
    }

    /// Takes the outcome of a probe, if it belongs to this change.
    pub fn settle(&mut self, due: Due, outcome: Result<(), (Failure, &str)>, now: Tick) {
        let Some(check) = self.checks.at_mut(due.slot) else { return };
        let reason = match outcome {
            Ok(()) => "check passed".to_owned(),
            Err((reason, detail)) => format!("{reason}: {detail}"),
        };
        check.settle(due.ticket, outcome.map_err(|(reason, _)| reason), now);
        self.reasons.insert(due.slot, reason);
    }

    /// Returns whether every new backend has been checked.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.checks.any_unknown()
    }

    /// Commits the change: returns the plan and what is left to do.
    ///
    /// # Errors
    /// A listener that could not be opened; nothing has changed then. Only at the start of the
    /// process everything is published regardless, so that received queries are answered before
    /// it ends.
    pub fn commit(
        mut self,
        edge: &mut dyn Edge,
        feed: &Feed,
        backend_health: &mut BackendHealth,
        gatherer: &mut Gatherer,
        now: Tick,
    ) -> Result<(Plan, Done), Refused> {
        let old = feed.current();
        // The first change finds its own snapshot in the feed.
        let starting = old.generation == self.plan.snapshot.generation;
        let old = (!starting).then_some(old);
        let exposed = self.expose(edge);
        if let (Err(error), false) = (&exposed, starting) {
            let opened = std::mem::take(&mut self.opened);
            let ending = opened.iter().map(|(listener, _)| Arc::clone(listener)).collect::<Vec<_>>();
            hand_over(opened, edge);
            retire(&ending, edge);
            return Err(Refused { error: error.clone(), ending });
        }

        if let Some(old) = &old {
            for gone in old.backends.iter().flatten() {
                if self.plan.snapshot.backend(gone.slot).is_none() {
                    backend_health.leave(gone.slot);
                }
            }
        }
        let mut fresh: BTreeMap<_, _> = self.checks.drain().collect();
        for backend in self.plan.snapshot.backends.iter().flatten() {
            let Some(check) = fresh.remove(&backend.slot) else {
                backend_health.revise(backend, now);
                continue;
            };
            let before = old.as_ref().and_then(|o| o.backend(backend.slot));
            if before.is_none_or(|b| b.id != backend.id) {
                gatherer.rebase(feed.live_state(), backend.slot);
                backend_health.leave(backend.slot);
            }
            let reason = self.reasons.get(&backend.slot).map_or("configuration", String::as_str);
            backend_health.join(backend, check, reason, now);
        }

        let removed = old.as_deref().map(|o| missing(o, &self.plan.snapshot)).unwrap_or_default();
        // Before any shard may count with them.
        custom_metrics::all().publish(&self.plan.metrics);
        feed.publish(Arc::clone(&self.plan.snapshot));
        for shard in 0..edge.count() {
            send(edge, shard, Message::Snapshot);
        }
        hand_over(self.opened, edge);
        match exposed {
            Ok(()) => Ok((self.plan, Done { removed })),
            Err(error) => Err(Refused { error, ending: Vec::new() }),
        }
    }

    /// Binds sockets that share an address, then listens on all. It stops at the first failure:
    /// each further socket would take traffic from others.
    fn expose(&mut self, edge: &mut dyn Edge) -> Result<(), String> {
        for (listener, sockets) in self.shared.drain(..) {
            let bound = edge.bind(&listener, &sockets, false);
            let fault = bound.map_err(|e| fault(&listener, &e));
            // Some of its shards' sockets may be bound even if not all are.
            self.opened.push((listener, sockets));
            fault?;
        }
        let mut opened = self.opened.iter();
        opened.try_for_each(|(listener, sockets)| {
            edge.listen(listener, sockets).map_err(|e| fault(listener, &e))
        })
    }
}

/// Creates the sockets of new listeners, and binds those with exclusive addresses. Returns these, and
/// those to be bound last.
fn open(
    old: Option<&Snapshot>,
    snapshot: &Snapshot,
    ending: &[Arc<Listener>],
    edge: &mut dyn Open,
) -> Result<(Opened, Opened), Vec<String>> {
    let standing: Vec<&Arc<Listener>> = old.into_iter().flat_map(|o| &o.listeners).collect();
    let new = snapshot.listeners.iter().filter(|l| standing.iter().all(|known| known.slot != l.slot));
    let mut errors = Vec::new();
    let mut made: Opened = Vec::new();
    for listener in new {
        if let Some(passed) = edge.unread(listener, &snapshot.listeners) {
            errors.push(format!(
                "cannot listen on {}: the service manager has passed a socket of {passed}, which takes what comes \
                 for that address; it needs a listener too, or a restart without it",
                listener.address
            ));
            continue;
        }
        match edge.create(listener) {
            Ok(sockets) => made.push((Arc::clone(listener), sockets)),
            Err(e) => errors.push(fault(listener, &e)),
        }
    }
    let (mut opened, mut shared) = (Opened::new(), Opened::new());
    for (listener, sockets) in made {
        let beside = standing.iter().copied().chain(ending).chain(opened.iter().map(|(l, _)| l));
        if listener.reuse_port || beside.into_iter().any(|other| other.overlaps(&listener)) {
            shared.push((listener, sockets));
            continue;
        }
        match edge.bind(&listener, &sockets, true) {
            Ok(()) => opened.push((listener, sockets)),
            Err(e) => errors.push(fault(&listener, &e)),
        }
    }
    if errors.is_empty() { Ok((opened, shared)) } else { Err(errors) }
}

fn fault(listener: &Listener, e: &io::Error) -> String {
    let shared = !listener.reuse_port;
    let advice = if shared && e.kind() == io::ErrorKind::AddrInUse {
        "; another socket has it: of another program, or passed by the service manager for what is no listener; \
         another dnslob of this user can share it by reusePort=true"
    } else if e.kind() == io::ErrorKind::AddrNotAvailable {
        // As keepalived's, on the machine that does not have it at present.
        "; freebind=true listens on an address that comes later"
    } else {
        ""
    };
    format!("cannot listen on {}: {e}{advice}", listener.address)
}

/// Hands the shards their sockets that may have received something.
fn hand_over(opened: Opened, edge: &mut dyn Edge) {
    for (listener, sockets) in opened {
        for (shard, sockets) in sockets {
            send(edge, shard, Message::Listen(Arc::clone(&listener), sockets.exposed()));
        }
    }
}

/// Makes the shards end the listeners that a change removed.
pub fn retire(removed: &[Arc<Listener>], edge: &mut dyn Edge) {
    for listener in removed {
        for shard in 0..edge.count() {
            send(edge, shard, Message::Unlisten(listener.slot));
        }
    }
}

/// Sends a message. A shard that cannot receive it has ended, which the control loop detects.
fn send(edge: &mut dyn Edge, shard: usize, message: Message) {
    if let Err(e) = edge.send(shard, message) {
        tracing::error!(shard, error = %e, "cannot send a message to a shard");
    }
}

fn missing(old: &Snapshot, new: &Snapshot) -> Vec<Arc<Listener>> {
    old.listeners.iter().filter(|l| new.listener(l.slot).is_none()).cloned().collect()
}

/// Returns whether a backend's health state is still valid: the same server, checked the same way.
fn carries_over(old: &Backend, new: &Backend) -> bool {
    let probed = |m| matches!(m, HealthMode::Auto | HealthMode::Lazy);
    let known = !probed(new.health.mode) || probed(old.health.mode) || old.health.mode == HealthMode::Up;
    known
        && old.id == new.id
        && old.address == new.address
        && old.source == new.source
        && old.source_interface == new.source_interface
}

#[cfg(test)]
mod tests;
