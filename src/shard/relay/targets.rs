//! Selects the target of a connection or flow, and the next one after a failure.
//!
//! A target is a backend like any other: its pool's policy selects it, by the client alone; its
//! connections and flows count as outstanding; its health is determined in the same way. Only when
//! all usable ones have failed, those that are known to be down are tried: one of them may have
//! recovered since its last check.

use std::sync::Arc;

use crate::balance::{Balancer, Subject};
use crate::base::addr::{BackendSlot, Client, Endpoint, LocalSlot, PoolSlot, SessionSlot};
use crate::base::time::TickDelta;
use crate::model::{HealthMode, Listener, RelaySettings, Service, Snapshot};
use crate::shard::DUE_PER_TICK;
use crate::shard::context::Context;
use crate::shard::relay::timeouts::SweepRules;
use crate::shard::relay::{Attempt, Direction, Relay};
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::stats::live::State;
use crate::stats::log_queue::RelayLogEntry;

impl Relay {
    /// A client has connected to a relay's listener. Returns none, and counts it, when the
    /// connection must be closed at once; otherwise [`Relay::interest`] returns what to do with it.
    pub(crate) fn on_accept(
        &mut self,
        cx: &mut Context,
        balancer: &mut Balancer,
        peer: Endpoint,
        listener: &Arc<Listener>,
        local: LocalSlot,
    ) -> Option<SessionSlot> {
        self.open_session(
            cx,
            balancer,
            Client { peer, listener: listener.slot, local, connection: None },
            listener,
        )
    }

    /// A client has sent a datagram to a relay's listener. Returns its session, a new one if
    /// necessary, and the attempt. Returns none, and counts it, when it is dropped.
    pub(crate) fn on_datagram(
        &mut self,
        cx: &mut Context,
        balancer: &mut Balancer,
        client: Client,
        listener: &Arc<Listener>,
    ) -> Option<(SessionSlot, Attempt)> {
        if let Some(slot) = self.flow(&client)
            && self.is_stale(slot, cx.live_state().epoch())
        {
            self.leave_dead_target(cx, balancer, slot);
        }
        // One that has just run out of targets gets a successor, which may try all of them.
        let slot = match self.flow(&client) {
            Some(slot) => slot,
            None => self.open_session(cx, balancer, client, listener)?,
        };
        Some((slot, self.attempt(slot)?))
    }

    fn open_session(
        &mut self,
        cx: &mut Context,
        balancer: &mut Balancer,
        client: Client,
        listener: &Arc<Listener>,
    ) -> Option<SessionSlot> {
        let taken = match relay_in(&cx.snapshot, listener) {
            Some((listener, relay_settings)) => {
                let limits = &cx.snapshot.globals.client_connections;
                self.open(client, listener, relay_settings, limits, cx.now)
            }
            None => Err(RelayCloseReason::Closing),
        };
        let counts = &cx.stats().relays;
        match taken {
            Ok(slot) => {
                counts.opened.add(1);
                self.try_next(cx, balancer, slot);
                Some(slot)
            }
            Err(why) => {
                counts.ended(why).add(1);
                None
            }
        }
    }

    /// The target has accepted a session's connection.
    pub(crate) fn on_target_open(&mut self, cx: &Context, session: SessionSlot) {
        let listener = self.facts(session).map(|(_, listener)| listener);
        let settings = listener.and_then(|listener| settings_of(&cx.snapshot, listener));
        let greeting = settings.map_or(TickDelta::default(), |settings| settings.greeting_timeout);
        let open = self.accepted(session, greeting, cx.now);
        Self::count_open(cx, open);
    }

    /// A connection stays with its target: a side has spoken, or has ended.
    pub(crate) fn on_spoken(&mut self, cx: &Context, session: SessionSlot) {
        let open = self.settle(session, cx.now);
        Self::count_open(cx, open);
    }

    /// Counts a target that has proved to work, and how long that took.
    fn count_open(cx: &Context, open: Option<(BackendSlot, TickDelta)>) {
        if let Some((target, latency)) = open {
            let stats = cx.stats().backend(target);
            stats.responses.add(1);
            stats.latency.record(latency.0);
        }
    }

    /// The attempt to reach a target has failed: the engine must then connect to another one, or
    /// close the session when none is left.
    pub(crate) fn on_target_failed(
        &mut self,
        cx: &mut Context,
        balancer: &mut Balancer,
        session: SessionSlot,
        why: ConnectFailure,
    ) {
        let Some((target, _)) = self.failed(session, why, cx.now) else { return };
        balancer.settled(target, None);
        let stats = cx.stats().backend(target);
        match why {
            ConnectFailure::Timeout | ConnectFailure::Silent => stats.timeouts.add(1),
            ConnectFailure::Refused | ConnectFailure::Unreachable | ConnectFailure::Closed => {
                stats.send_errors.add(1);
            }
            // The target did not cause it.
            ConnectFailure::Local | ConnectFailure::Down => {}
        }
        if self.try_next(cx, balancer, session) {
            cx.stats().retries.add(1);
        }
    }

    /// Traffic was relayed.
    pub(crate) fn on_relayed(
        &mut self,
        cx: &Context,
        session: SessionSlot,
        direction: Direction,
        count: usize,
    ) {
        let first = self.passed(session, direction, count as u64, cx.now);
        let relays = &cx.stats().relays;
        match direction {
            Direction::Out => relays.bytes_out.add(count as u64),
            Direction::Back => relays.bytes_back.add(count as u64),
        }
        Self::count_open(cx, first);
    }

    /// A session's sockets are closed, as requested or because one of them has ended.
    pub(crate) fn on_session_closed(
        &mut self,
        cx: &Context,
        balancer: &mut Balancer,
        session: SessionSlot,
        why: RelayCloseReason,
    ) {
        let Some(past) = self.forget(session, cx.now) else { return };
        if let Some(attempt) = past.attempt {
            balancer.settled(attempt.target, None);
        }
        cx.stats().relays.ended(why).add(1);
        if Self::logs(cx, &past.listener) {
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
            if !cx.stats().log_queue.file_passed(passed) {
                cx.drop(DropReason::LogFull);
            }
        }
    }

    fn logs(cx: &Context, listener: &Arc<Listener>) -> bool {
        settings_of(&cx.snapshot, listener).is_some_and(|settings| settings.log)
    }

    /// Abandons targets that do not accept, are silent or went down, and ends idle sessions.
    pub(crate) fn on_tick(&mut self, cx: &mut Context, balancer: &mut Balancer) {
        let snapshot = &cx.snapshot;
        // Neither allocates while nothing is overdue.
        let (mut overdue, mut waiting) = (Vec::new(), Vec::new());
        let waits = |listener: &Arc<Listener>| {
            settings_of(snapshot, listener).map_or(TickDelta::from_ms(1_000), |s| s.connect_timeout)
        };
        self.overdue(cx.now, waits, DUE_PER_TICK, &mut overdue);
        let rules = |listener: &Arc<Listener>| {
            let settings = settings_of(snapshot, listener);
            SweepRules {
                idle: settings.map_or(TickDelta::from_ms(1_000), |s| s.idle_timeout),
                closes_when_down: settings.is_some_and(|s| s.close_when_down),
            }
        };
        // One that has left the configuration is checked no more.
        let is_down = |target| {
            snapshot.backend(target).is_some() && cx.live_state().backend(target).state() == State::Down
        };
        self.sweep(cx.now, rules, is_down, &mut waiting);
        for (slot, why) in overdue {
            self.on_target_failed(cx, balancer, slot, why);
        }
        for slot in waiting {
            self.move_if_possible(cx, balancer, slot);
        }
    }

    /// Sends a session to the next target; returns false when there is none, and ends it.
    fn try_next(&mut self, cx: &mut Context, balancer: &mut Balancer, slot: SessionSlot) -> bool {
        let Some((target, waits)) = self.next_target(cx, balancer, slot) else {
            let lacked = self.is_short_of_resources(slot);
            self.end(slot, if lacked { RelayCloseReason::Local } else { RelayCloseReason::NoTarget });
            return false;
        };
        let Some(backend) = cx.snapshot.backend(target) else { return false };
        self.begin(slot, backend, cx.live_state(), waits, cx.now);
        balancer.claimed(target);
        cx.stats().backend(target).queries.add(1);
        true
    }

    fn next_target(
        &mut self,
        cx: &mut Context,
        balancer: &mut Balancer,
        slot: SessionSlot,
    ) -> Option<(BackendSlot, TickDelta)> {
        let (client, listener) = self.facts(slot)?;
        let (_, relay_settings) = relay_in(&cx.snapshot, listener)?;
        let (pool, waits) = (relay_settings.pool, relay_settings.connect_timeout);
        // Does not allocate while nothing is to be avoided.
        let mut avoid = Vec::new();
        let subject = Subject { qname: &[0], client: &client.peer };
        let mut next = None;
        for silent in [true, false] {
            if next.is_none() && (!silent || self.has_silent()) {
                self.avoided(slot, &mut avoid, silent, cx.now);
                next = balancer.select(&cx.snapshot, pool, &subject, &avoid, &mut cx.rng);
                next = next.filter(|target| !avoid.contains(target));
            }
        }
        let next = next.or_else(|| Self::untried(cx, pool, &avoid));
        next.map(|target| (target, waits))
    }

    /// Returns a target that was not tried and counts as down, unless the operator set it down.
    fn untried(cx: &Context, pool: PoolSlot, tried: &[BackendSlot]) -> Option<BackendSlot> {
        let mut members = cx.snapshot.pool(pool).members.iter().copied();
        members.find(|target| {
            let backend = cx.snapshot.backend(*target);
            let wanted =
                backend.is_some_and(|b| !matches!(b.health.mode, HealthMode::Down | HealthMode::Drain));
            wanted && !tried.contains(target) && cx.live_state().backend(*target).state() != State::Draining
        })
    }

    /// Moves a flow whose target is down to another one that is up.
    fn leave_dead_target(&mut self, cx: &mut Context, balancer: &mut Balancer, slot: SessionSlot) {
        let Some(attempt) = self.attempt(slot) else { return };
        if cx.live_state().backend(attempt.target).state() != State::Down {
            return;
        }
        // Failed ones may have recovered since; without responses nothing else would tell.
        self.forgive(slot, |target| cx.live_state().backend(target).state() == State::Up);
        self.move_if_possible(cx, balancer, slot);
    }

    /// Moves a session whose target is down to another one, if one is up.
    fn move_if_possible(&mut self, cx: &mut Context, balancer: &mut Balancer, slot: SessionSlot) {
        let Some(attempt) = self.attempt(slot) else { return };
        if cx.live_state().backend(attempt.target).state() != State::Down {
            return;
        }
        let next = self.next_target(cx, balancer, slot).map(|(target, _)| target);
        if next.is_some_and(|next| cx.live_state().backend(next).state() == State::Up) {
            self.on_target_failed(cx, balancer, slot, ConnectFailure::Down);
        }
    }
}

/// Returns the settings of a listener's sessions: those of the current configuration, or those that
/// it had last.
fn settings_of<'s>(snapshot: &'s Snapshot, listener: &'s Arc<Listener>) -> Option<&'s RelaySettings> {
    let now = relay_in(snapshot, listener).map(|(_, settings)| settings);
    now.or(listener.service.relay()).map(|settings| &**settings)
}

/// Returns a relay in the current configuration, with its listener; none when that has no such
/// listener, and no targets for it.
///
/// A listener whose sockets must be opened anew has another slot, and may have another interface or
/// be part of another address: what still arrives on the old one belongs to the new one.
fn relay_in<'s>(
    snapshot: &'s Snapshot,
    listener: &'s Arc<Listener>,
) -> Option<(&'s Arc<Listener>, &'s Arc<RelaySettings>)> {
    let is_kind =
        |l: &Listener| std::mem::discriminant(&l.service) == std::mem::discriminant(&listener.service);
    let is_same =
        |l: &&Arc<Listener>| l.address == listener.address && l.interface == listener.interface && is_kind(l);
    let is_instead =
        |l: &&Arc<Listener>| (l.address == listener.address || l.overlaps(listener)) && is_kind(l);
    let mut places = snapshot.listeners.iter().filter(is_same);
    let found = places.clone().find(|l| l.slot == listener.slot).or_else(|| places.next());
    if let Some(found) = found.or_else(|| snapshot.listeners.iter().find(is_instead)) {
        return found.service.relay().map(|relay_settings| (found, relay_settings));
    }
    let own = listener.service.relay()?;
    let pool = snapshot.pools.get(own.pool.index());
    pool.is_some_and(|p| !p.members.is_empty()).then_some((listener, own))
}
