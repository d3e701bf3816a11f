//! The shard's part in forwards: which target a connection or flow goes to, and to which one next.
//!
//! A target is a backend like any other: its pool's policy chooses it, by the client alone, its
//! connections and flows count as outstanding, and its health is found out in the same way. Only
//! when all that may be asked have failed are those tried that are known to be down: one of them
//! may be back since its last check.

use std::sync::Arc;

use super::forward::{Attempt, PassageWish, Way};
use super::journal::Passed;
use super::policy::Subject;
use super::streams::{ForwardEnd, TryEnd};
use super::verdict::DropReason;
use super::{DUE_PER_TICK, Shard};
use crate::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PassageSlot, PoolSlot};
use crate::config::snapshot::{Forward, HealthMode, Listener, Service, Snapshot};
use crate::live::State;
use crate::time::TickDelta;

impl Shard {
    /// A client has connected to a forward's listener. None, and counted, when the connection is to
    /// be closed at once; otherwise [`Shard::passage_wish`] says what is to be done with it.
    pub fn on_forward_accept(
        &mut self,
        peer: Endpoint,
        listener: &Arc<Listener>,
        local: LocalSlot,
    ) -> Option<PassageSlot> {
        self.open_passage(Client { peer, listener: listener.slot, local, stream: None }, listener)
    }

    /// A datagram of a client for a forward's listener: the passage that it takes, a new one if
    /// need be, and by which attempt. None, and counted, when it is dropped.
    pub fn on_datagram(
        &mut self,
        client: Client,
        listener: &Arc<Listener>,
    ) -> Option<(PassageSlot, Attempt)> {
        if let Some(slot) = self.passages.flow(&client)
            && self.passages.is_stale(slot, self.board.epoch())
        {
            self.leave_dead_target(slot);
        }
        // One that has just run out of targets has a successor, which may try all of them.
        let slot = match self.passages.flow(&client) {
            Some(slot) => slot,
            None => self.open_passage(client, listener)?,
        };
        Some((slot, self.passages.attempt(slot)?))
    }

    fn open_passage(&mut self, client: Client, listener: &Arc<Listener>) -> Option<PassageSlot> {
        let taken = match forward_in(&self.snapshot, listener) {
            Some((listener, forward)) => {
                let limits = &self.snapshot.globals.streams;
                self.passages.open(client, listener, forward, limits, self.now)
            }
            None => Err(ForwardEnd::Closing),
        };
        let counts = &self.page().forwards;
        match taken {
            Ok(slot) => {
                counts.opened.add(1);
                self.try_next(slot);
                Some(slot)
            }
            Err(why) => {
                counts.ended(why).add(1);
                None
            }
        }
    }

    /// What the engine should do with a passage.
    #[must_use]
    pub fn passage_wish(&self, passage: PassageSlot) -> PassageWish {
        self.passages.wish(passage)
    }

    /// Who is at a passage's one end, and which listener took it.
    #[must_use]
    pub fn passage_client(&self, passage: PassageSlot) -> Option<(Client, &Arc<Listener>)> {
        self.passages.facts(passage)
    }

    /// The target has accepted a passage's connection.
    pub fn on_target_open(&mut self, passage: PassageSlot) {
        if let Some((target, latency)) = self.passages.accepted(passage, self.now) {
            let page = self.page().backend(target);
            page.responses.add(1);
            page.latency.record(latency.0);
        }
    }

    /// The attempt to reach a target has failed: the wish then is to connect to another one, or to
    /// close the passage when none is left.
    pub fn on_target_failed(&mut self, passage: PassageSlot, why: TryEnd) {
        let Some((target, _)) = self.passages.failed(passage, why, self.now) else { return };
        self.selector.settled(target, None);
        let page = self.page().backend(target);
        match why {
            TryEnd::Timeout => page.timeouts.add(1),
            TryEnd::Refused | TryEnd::Unreachable => page.send_errors.add(1),
            // It has nothing to do with the target.
            TryEnd::Local | TryEnd::Down => {}
        }
        if self.try_next(passage) {
            self.page().retries.add(1);
        }
    }

    /// Octets have been passed on.
    pub fn on_passed(&mut self, passage: PassageSlot, way: Way, count: usize) {
        let first = self.passages.passed(passage, way, count as u64, self.now);
        let page = self.page();
        match way {
            Way::Out => page.forwards.octets_out.add(count as u64),
            Way::Back => page.forwards.octets_back.add(count as u64),
        }
        if let Some((target, latency)) = first {
            page.backend(target).responses.add(1);
            page.backend(target).latency.record(latency.0);
        }
    }

    /// A passage's sockets are closed, as was wished or because one of them has ended.
    pub fn on_passage_closed(&mut self, passage: PassageSlot, why: ForwardEnd) {
        let Some(past) = self.passages.forget(passage, self.now) else { return };
        if let Some(attempt) = past.attempt {
            self.selector.settled(attempt.target, None);
        }
        self.page().forwards.ended(why).add(1);
        if self.logs(&past.listener) {
            let passed = Passed {
                tcp: matches!(past.listener.service, Service::TcpForward(_)),
                client: past.client.peer,
                listener: past.listener.address,
                tried: past.tried,
                target: past.target,
                octets: past.octets,
                lasted: past.lasted,
                why,
            };
            if !self.page().journal.file_passed(passed) {
                self.drop(DropReason::LogFull);
            }
        }
    }

    fn logs(&self, listener: &Arc<Listener>) -> bool {
        let now = forward_in(&self.snapshot, listener).map(|(_, forward)| &**forward);
        now.or(listener.service.forward().map(|f| &**f)).is_some_and(|f| f.log)
    }

    /// Connections and flows of forwards.
    #[must_use]
    pub const fn passages_open(&self) -> u32 {
        self.passages.open_count()
    }

    /// The same of one listener.
    #[must_use]
    pub fn passages_of(&self, listener: ListenerSlot) -> u32 {
        self.passages.open_of_listener(listener)
    }

    /// A listener was closed, or opened: flows of a closed one end soon, connections go on.
    pub fn close_flows(&mut self, listener: ListenerSlot, closed: bool) {
        self.passages.close_listener(listener, closed.then_some(self.now));
    }

    /// Gives up targets that do not accept, and ends what is idle.
    pub(super) fn sweep_passages(&mut self) {
        let snapshot = &self.snapshot;
        let of = |listener: &Arc<Listener>, span: fn(&Forward) -> TickDelta| {
            let now = forward_in(snapshot, listener).map(|(_, forward)| &**forward);
            now.or(listener.service.forward().map(|f| &**f)).map_or(TickDelta::from_ms(1_000), span)
        };
        let mut overdue = std::mem::take(&mut self.overdue);
        let waits = |listener: &Arc<Listener>| of(listener, |f| f.connect_timeout);
        self.passages.overdue(self.now, waits, DUE_PER_TICK, &mut overdue);
        self.passages.sweep(self.now, |listener| of(listener, |f| f.idle_timeout));
        for slot in overdue.drain(..) {
            self.on_target_failed(slot, TryEnd::Timeout);
        }
        self.overdue = overdue;
    }

    /// Sends a passage to the next target; when there is none it ends, and the answer is false.
    fn try_next(&mut self, slot: PassageSlot) -> bool {
        let Some((target, waits)) = self.next_target(slot) else {
            let lacked = self.passages.lacked_means(slot);
            self.passages.end(slot, if lacked { ForwardEnd::Local } else { ForwardEnd::NoTarget });
            return false;
        };
        let Some(backend) = self.snapshot.backend(target) else { return false };
        self.passages.begin(slot, backend, self.board.epoch(), waits, self.now);
        self.selector.claimed(target);
        self.page().backend(target).queries.add(1);
        true
    }

    fn next_target(&mut self, slot: PassageSlot) -> Option<(BackendSlot, TickDelta)> {
        let (client, listener) = self.passages.facts(slot)?;
        let (_, forward) = forward_in(&self.snapshot, listener)?;
        let (pool, waits) = (forward.pool, forward.connect_timeout);
        let mut avoid = std::mem::take(&mut self.avoided);
        let subject = Subject { qname: &[0], client: &client.peer };
        let mut next = None;
        for troubled in [true, false] {
            if next.is_none() && (!troubled || self.passages.has_troubled()) {
                self.passages.avoided(slot, &mut avoid, troubled, self.now);
                next = self.selector.select(&self.snapshot, pool, &subject, &avoid, &mut self.rng);
                next = next.filter(|target| !avoid.contains(target));
            }
        }
        let next = next.or_else(|| self.untried(pool, &avoid));
        self.avoided = avoid;
        next.map(|target| (target, waits))
    }

    /// A target that was not tried and is thought to be down, unless the operator says so.
    fn untried(&self, pool: PoolSlot, tried: &[BackendSlot]) -> Option<BackendSlot> {
        let mut members = self.snapshot.pool(pool).members.iter().copied();
        members.find(|target| {
            let backend = self.snapshot.backend(*target);
            let wanted =
                backend.is_some_and(|b| !matches!(b.health.mode, HealthMode::Down | HealthMode::Drain));
            wanted && !tried.contains(target) && self.board.backend(*target).state() != State::Draining
        })
    }

    /// A flow whose target is known to be down moves to another one, if that is up.
    fn leave_dead_target(&mut self, slot: PassageSlot) {
        let Some(attempt) = self.passages.attempt(slot) else { return };
        if self.board.backend(attempt.target).state() != State::Down {
            return;
        }
        // Some that failed may have come back since; without answers nothing else would tell so.
        self.passages.forgive(slot, |target| self.board.backend(target).state() == State::Up);
        let next = self.next_target(slot).map(|(target, _)| target);
        if next.is_some_and(|next| self.board.backend(next).state() == State::Up) {
            self.on_target_failed(slot, TryEnd::Down);
        }
    }
}

/// A forward as the configuration in force has it, with its listener; none when that has no such
/// listener, and no targets for it.
///
/// A listener whose sockets must be opened anew has another slot: what still comes by the old one
/// is the new one's.
fn forward_in<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Arc<Listener>,
) -> Option<(&'s Arc<Listener>, &'s Arc<Forward>)> {
    let is_same = |l: &&Arc<Listener>| {
        l.address == listener.address
            && l.interface == listener.interface
            && std::mem::discriminant(&l.service) == std::mem::discriminant(&listener.service)
    };
    let mut places = snapshot.listeners.iter().filter(is_same);
    let found = places.clone().find(|l| l.slot == listener.slot).or_else(|| places.next());
    if let Some(found) = found {
        return found.service.forward().map(|forward| (found, forward));
    }
    let own = listener.service.forward()?;
    let pool = snapshot.pools.get(own.pool.index());
    pool.is_some_and(|p| !p.members.is_empty()).then_some((listener, own))
}
