//! The shard's part in forwards: which target a connection or flow goes to, and to which one next.
//!
//! A target is a backend like any other: its pool's policy chooses it, by the client alone, its
//! connections and flows count as outstanding, and its health is found out in the same way. Only
//! when all that may be asked have failed are those tried that are known to be down: one of them
//! may be back since its last check.

use std::sync::Arc;

use crate::balance::Subject;
use crate::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot, SessionSlot};
use crate::base::time::TickDelta;
use crate::model::{HealthMode, Listener, RelaySettings, Service, Snapshot};
use crate::shard::relay::{Attempt, Direction, RelayInterest};
use crate::shard::{DUE_PER_TICK, Shard};
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::stats::live::State;
use crate::stats::log_queue::RelayLogEntry;

impl Shard {
    /// A client has connected to a forward's listener. None, and counted, when the connection is to
    /// be closed at once; otherwise [`Shard::relay_interest`] says what is to be done with it.
    pub fn on_relay_accept(
        &mut self,
        peer: Endpoint,
        listener: &Arc<Listener>,
        local: LocalSlot,
    ) -> Option<SessionSlot> {
        self.open_session(Client { peer, listener: listener.slot, local, connection: None }, listener)
    }

    /// A datagram of a client for a forward's listener: the passage that it takes, a new one if
    /// need be, and by which attempt. None, and counted, when it is dropped.
    pub fn on_datagram(
        &mut self,
        client: Client,
        listener: &Arc<Listener>,
    ) -> Option<(SessionSlot, Attempt)> {
        if let Some(slot) = self.relay.flow(&client)
            && self.relay.is_stale(slot, self.live_state.epoch())
        {
            self.leave_dead_target(slot);
        }
        // One that has just run out of targets has a successor, which may try all of them.
        let slot = match self.relay.flow(&client) {
            Some(slot) => slot,
            None => self.open_session(client, listener)?,
        };
        Some((slot, self.relay.attempt(slot)?))
    }

    fn open_session(&mut self, client: Client, listener: &Arc<Listener>) -> Option<SessionSlot> {
        let taken = match relay_in(&self.snapshot, listener) {
            Some((listener, relay_settings)) => {
                let limits = &self.snapshot.globals.client_connections;
                self.relay.open(client, listener, relay_settings, limits, self.now)
            }
            None => Err(RelayCloseReason::Closing),
        };
        let counts = &self.stats().relays;
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
    pub fn relay_interest(&self, session: SessionSlot) -> RelayInterest {
        self.relay.wish(session)
    }

    /// Who is at a passage's one end, and which listener took it.
    #[must_use]
    pub fn relay_client(&self, session: SessionSlot) -> Option<(Client, &Arc<Listener>)> {
        self.relay.facts(session)
    }

    /// The target has accepted a passage's connection.
    pub fn on_target_open(&mut self, session: SessionSlot) {
        if let Some((target, latency)) = self.relay.accepted(session, self.now) {
            let stats = self.stats().backend(target);
            stats.responses.add(1);
            stats.latency.record(latency.0);
        }
    }

    /// The attempt to reach a target has failed: the wish then is to connect to another one, or to
    /// close the passage when none is left.
    pub fn on_target_failed(&mut self, session: SessionSlot, why: ConnectFailure) {
        let Some((target, _)) = self.relay.failed(session, why, self.now) else { return };
        self.selector.settled(target, None);
        let stats = self.stats().backend(target);
        match why {
            ConnectFailure::Timeout => stats.timeouts.add(1),
            ConnectFailure::Refused | ConnectFailure::Unreachable => stats.send_errors.add(1),
            // It has nothing to do with the target.
            ConnectFailure::Local | ConnectFailure::Down => {}
        }
        if self.try_next(session) {
            self.stats().retries.add(1);
        }
    }

    /// Bytes have been passed on.
    pub fn on_relayed(&mut self, session: SessionSlot, direction: Direction, count: usize) {
        let first = self.relay.passed(session, direction, count as u64, self.now);
        let stats = self.stats();
        match direction {
            Direction::Out => stats.relays.bytes_out.add(count as u64),
            Direction::Back => stats.relays.bytes_back.add(count as u64),
        }
        if let Some((target, latency)) = first {
            stats.backend(target).responses.add(1);
            stats.backend(target).latency.record(latency.0);
        }
    }

    /// A passage's sockets are closed, as was wished or because one of them has ended.
    pub fn on_session_closed(&mut self, session: SessionSlot, why: RelayCloseReason) {
        let Some(past) = self.relay.forget(session, self.now) else { return };
        if let Some(attempt) = past.attempt {
            self.selector.settled(attempt.target, None);
        }
        self.stats().relays.ended(why).add(1);
        if self.logs(&past.listener) {
            let passed = RelayLogEntry {
                tcp: matches!(past.listener.service, Service::TcpRelay(_)),
                client: past.client.peer,
                listener: past.listener.address,
                tried: past.tried,
                target: past.target,
                bytes: past.bytes,
                lasted: past.lasted,
                why,
            };
            if !self.stats().log_queue.file_passed(passed) {
                self.drop(DropReason::LogFull);
            }
        }
    }

    fn logs(&self, listener: &Arc<Listener>) -> bool {
        let now = relay_in(&self.snapshot, listener).map(|(_, relay_settings)| &**relay_settings);
        now.or(listener.service.relay().map(|f| &**f)).is_some_and(|f| f.log)
    }

    /// Connections and flows of forwards.
    #[must_use]
    pub const fn sessions_open(&self) -> u32 {
        self.relay.open_count()
    }

    /// The same of one listener.
    #[must_use]
    pub fn sessions_of(&self, listener: ListenerSlot) -> u32 {
        self.relay.open_of_listener(listener)
    }

    /// A listener was closed, or opened: flows of a closed one end soon, connections go on.
    pub fn close_flows(&mut self, listener: ListenerSlot, closed: bool) {
        self.relay.close_listener(listener, closed.then_some(self.now));
    }

    /// Gives up targets that do not accept, and ends what is idle.
    pub(crate) fn sweep_relay(&mut self) {
        let snapshot = &self.snapshot;
        let of = |listener: &Arc<Listener>, span: fn(&RelaySettings) -> TickDelta| {
            let now = relay_in(snapshot, listener).map(|(_, relay_settings)| &**relay_settings);
            now.or(listener.service.relay().map(|f| &**f)).map_or(TickDelta::from_ms(1_000), span)
        };
        let mut overdue = std::mem::take(&mut self.overdue);
        let waits = |listener: &Arc<Listener>| of(listener, |f| f.connect_timeout);
        self.relay.overdue(self.now, waits, DUE_PER_TICK, &mut overdue);
        self.relay.sweep(self.now, |listener| of(listener, |f| f.idle_timeout));
        for slot in overdue.drain(..) {
            self.on_target_failed(slot, ConnectFailure::Timeout);
        }
        self.overdue = overdue;
    }

    /// Sends a passage to the next target; when there is none it ends, and the answer is false.
    fn try_next(&mut self, slot: SessionSlot) -> bool {
        let Some((target, waits)) = self.next_target(slot) else {
            let lacked = self.relay.lacked_means(slot);
            self.relay.end(slot, if lacked { RelayCloseReason::Local } else { RelayCloseReason::NoTarget });
            return false;
        };
        let Some(backend) = self.snapshot.backend(target) else { return false };
        self.relay.begin(slot, backend, self.live_state.epoch(), waits, self.now);
        self.selector.claimed(target);
        self.stats().backend(target).queries.add(1);
        true
    }

    fn next_target(&mut self, slot: SessionSlot) -> Option<(BackendSlot, TickDelta)> {
        let (client, listener) = self.relay.facts(slot)?;
        let (_, relay_settings) = relay_in(&self.snapshot, listener)?;
        let (pool, waits) = (relay_settings.pool, relay_settings.connect_timeout);
        let mut avoid = std::mem::take(&mut self.avoided);
        let subject = Subject { qname: &[0], client: &client.peer };
        let mut next = None;
        for troubled in [true, false] {
            if next.is_none() && (!troubled || self.relay.has_troubled()) {
                self.relay.avoided(slot, &mut avoid, troubled, self.now);
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
            wanted && !tried.contains(target) && self.live_state.backend(*target).state() != State::Draining
        })
    }

    /// A flow whose target is known to be down moves to another one, if that is up.
    fn leave_dead_target(&mut self, slot: SessionSlot) {
        let Some(attempt) = self.relay.attempt(slot) else { return };
        if self.live_state.backend(attempt.target).state() != State::Down {
            return;
        }
        // Some that failed may have come back since; without answers nothing else would tell so.
        self.relay.forgive(slot, |target| self.live_state.backend(target).state() == State::Up);
        let next = self.next_target(slot).map(|(target, _)| target);
        if next.is_some_and(|next| self.live_state.backend(next).state() == State::Up) {
            self.on_target_failed(slot, ConnectFailure::Down);
        }
    }
}

/// A forward as the configuration in force has it, with its listener; none when that has no such
/// listener, and no targets for it.
///
/// A listener whose sockets must be opened anew has another slot: what still comes by the old one
/// is the new one's.
fn relay_in<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Arc<Listener>,
) -> Option<(&'s Arc<Listener>, &'s Arc<RelaySettings>)> {
    let is_same = |l: &&Arc<Listener>| {
        l.address == listener.address
            && l.interface == listener.interface
            && std::mem::discriminant(&l.service) == std::mem::discriminant(&listener.service)
    };
    let mut places = snapshot.listeners.iter().filter(is_same);
    let found = places.clone().find(|l| l.slot == listener.slot).or_else(|| places.next());
    if let Some(found) = found {
        return found.service.relay().map(|relay_settings| (found, relay_settings));
    }
    let own = listener.service.relay()?;
    let pool = snapshot.pools.get(own.pool.index());
    pool.is_some_and(|p| !p.members.is_empty()).then_some((listener, own))
}
