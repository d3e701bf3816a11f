//! The shard's part in forwards: which target a connection or flow goes to, and to which one next.
//!
//! A target is a backend like any other: its pool's policy chooses it, by the client alone, its
//! connections and flows count as outstanding, and its health is found out in the same way. Only
//! when all that may be asked have failed are those tried that are known to be down: one of them
//! may be back since its last check.

use std::sync::Arc;

use crate::balance::{Selector, Subject};
use crate::base::addr::{BackendSlot, Client, Endpoint, LocalSlot, PoolSlot, SessionSlot};
use crate::base::time::TickDelta;
use crate::model::{HealthMode, Listener, RelaySettings, Service, Snapshot};
use crate::shard::DUE_PER_TICK;
use crate::shard::context::Context;
use crate::shard::relay::{Attempt, Direction, Relay};
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::stats::live::State;
use crate::stats::log_queue::RelayLogEntry;

impl Relay {
    /// A client has connected to a forward's listener. None, and counted, when the connection is to
    /// be closed at once; otherwise [`Relay::interest`] says what is to be done with it.
    pub(crate) fn on_accept(
        &mut self,
        cx: &mut Context,
        balancer: &mut Selector,
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

    /// A datagram of a client for a forward's listener: the passage that it takes, a new one if
    /// need be, and by which attempt. None, and counted, when it is dropped.
    pub(crate) fn on_datagram(
        &mut self,
        cx: &mut Context,
        balancer: &mut Selector,
        client: Client,
        listener: &Arc<Listener>,
    ) -> Option<(SessionSlot, Attempt)> {
        if let Some(slot) = self.flow(&client)
            && self.is_stale(slot, cx.live_state().epoch())
        {
            self.leave_dead_target(cx, balancer, slot);
        }
        // One that has just run out of targets has a successor, which may try all of them.
        let slot = match self.flow(&client) {
            Some(slot) => slot,
            None => self.open_session(cx, balancer, client, listener)?,
        };
        Some((slot, self.attempt(slot)?))
    }

    fn open_session(
        &mut self,
        cx: &mut Context,
        balancer: &mut Selector,
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

    /// The target has accepted a passage's connection.
    pub(crate) fn on_target_open(&mut self, cx: &Context, session: SessionSlot) {
        if let Some((target, latency)) = self.accepted(session, cx.now) {
            let stats = cx.stats().backend(target);
            stats.responses.add(1);
            stats.latency.record(latency.0);
        }
    }

    /// The attempt to reach a target has failed: the wish then is to connect to another one, or to
    /// close the passage when none is left.
    pub(crate) fn on_target_failed(
        &mut self,
        cx: &mut Context,
        balancer: &mut Selector,
        session: SessionSlot,
        why: ConnectFailure,
    ) {
        let Some((target, _)) = self.failed(session, why, cx.now) else { return };
        balancer.settled(target, None);
        let stats = cx.stats().backend(target);
        match why {
            ConnectFailure::Timeout => stats.timeouts.add(1),
            ConnectFailure::Refused | ConnectFailure::Unreachable => stats.send_errors.add(1),
            // It has nothing to do with the target.
            ConnectFailure::Local | ConnectFailure::Down => {}
        }
        if self.try_next(cx, balancer, session) {
            cx.stats().retries.add(1);
        }
    }

    /// Bytes have been passed on.
    pub(crate) fn on_relayed(
        &mut self,
        cx: &Context,
        session: SessionSlot,
        direction: Direction,
        count: usize,
    ) {
        let first = self.passed(session, direction, count as u64, cx.now);
        let stats = cx.stats();
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
    pub(crate) fn on_session_closed(
        &mut self,
        cx: &Context,
        balancer: &mut Selector,
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
        let now = relay_in(&cx.snapshot, listener).map(|(_, relay_settings)| &**relay_settings);
        now.or(listener.service.relay().map(|f| &**f)).is_some_and(|f| f.log)
    }

    /// Gives up targets that do not accept, and ends what is idle.
    pub(crate) fn on_tick(&mut self, cx: &mut Context, balancer: &mut Selector) {
        let snapshot = &cx.snapshot;
        let of = |listener: &Arc<Listener>, span: fn(&RelaySettings) -> TickDelta| {
            let now = relay_in(snapshot, listener).map(|(_, relay_settings)| &**relay_settings);
            now.or(listener.service.relay().map(|f| &**f)).map_or(TickDelta::from_ms(1_000), span)
        };
        // Without memory while nothing is overdue.
        let mut overdue = Vec::new();
        let waits = |listener: &Arc<Listener>| of(listener, |f| f.connect_timeout);
        self.overdue(cx.now, waits, DUE_PER_TICK, &mut overdue);
        self.sweep(cx.now, |listener| of(listener, |f| f.idle_timeout));
        for slot in overdue {
            self.on_target_failed(cx, balancer, slot, ConnectFailure::Timeout);
        }
    }

    /// Sends a passage to the next target; when there is none it ends, and the answer is false.
    fn try_next(&mut self, cx: &mut Context, balancer: &mut Selector, slot: SessionSlot) -> bool {
        let Some((target, waits)) = self.next_target(cx, balancer, slot) else {
            let lacked = self.lacked_means(slot);
            self.end(slot, if lacked { RelayCloseReason::Local } else { RelayCloseReason::NoTarget });
            return false;
        };
        let Some(backend) = cx.snapshot.backend(target) else { return false };
        self.begin(slot, backend, cx.live_state().epoch(), waits, cx.now);
        balancer.claimed(target);
        cx.stats().backend(target).queries.add(1);
        true
    }

    fn next_target(
        &mut self,
        cx: &mut Context,
        balancer: &mut Selector,
        slot: SessionSlot,
    ) -> Option<(BackendSlot, TickDelta)> {
        let (client, listener) = self.facts(slot)?;
        let (_, relay_settings) = relay_in(&cx.snapshot, listener)?;
        let (pool, waits) = (relay_settings.pool, relay_settings.connect_timeout);
        // Without memory while nothing is to be avoided.
        let mut avoid = Vec::new();
        let subject = Subject { qname: &[0], client: &client.peer };
        let mut next = None;
        for troubled in [true, false] {
            if next.is_none() && (!troubled || self.has_troubled()) {
                self.avoided(slot, &mut avoid, troubled, cx.now);
                next = balancer.select(&cx.snapshot, pool, &subject, &avoid, &mut cx.rng);
                next = next.filter(|target| !avoid.contains(target));
            }
        }
        let next = next.or_else(|| Self::untried(cx, pool, &avoid));
        next.map(|target| (target, waits))
    }

    /// A target that was not tried and is thought to be down, unless the operator says so.
    fn untried(cx: &Context, pool: PoolSlot, tried: &[BackendSlot]) -> Option<BackendSlot> {
        let mut members = cx.snapshot.pool(pool).members.iter().copied();
        members.find(|target| {
            let backend = cx.snapshot.backend(*target);
            let wanted =
                backend.is_some_and(|b| !matches!(b.health.mode, HealthMode::Down | HealthMode::Drain));
            wanted && !tried.contains(target) && cx.live_state().backend(*target).state() != State::Draining
        })
    }

    /// A flow whose target is known to be down moves to another one, if that is up.
    fn leave_dead_target(&mut self, cx: &mut Context, balancer: &mut Selector, slot: SessionSlot) {
        let Some(attempt) = self.attempt(slot) else { return };
        if cx.live_state().backend(attempt.target).state() != State::Down {
            return;
        }
        // Some that failed may have come back since; without answers nothing else would tell so.
        self.forgive(slot, |target| cx.live_state().backend(target).state() == State::Up);
        let next = self.next_target(cx, balancer, slot).map(|(target, _)| target);
        if next.is_some_and(|next| cx.live_state().backend(next).state() == State::Up) {
            self.on_target_failed(cx, balancer, slot, ConnectFailure::Down);
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
