//! Layer-4 relay sessions: connections and flows, all state of each but its sockets.
//!
//! ```text
//!  a client connects ─► Trying(target) ─ accepted ─► Open ─ both ends closed, idle, broken ─► closed
//!                          ▲   │ refused, timed out
//!                          └───┘ the next target; none is left ─► closed
//! ```
//!
//! With a greeting time-out, `Awaiting` is between `Trying` and `Open`: until the first byte of
//! either side, a target that closes or is silent is left for the next one, too. A flow is open at
//! once: a datagram needs no acceptance. The bytes are never parsed. The next target is selected in
//! `targets`, the session that makes room in `evict`; `timeouts` ends what takes too long.

mod evict;
mod flows;
pub mod targets;
mod timeouts;

use std::net::SocketAddr;
use std::sync::Arc;

use ahash::RandomState;

use crate::base::addr::{BackendSlot, Client, ListenerSlot, SessionSlot};
use crate::base::narrow::to_u32;
use crate::base::time::{Tick, TickDelta};
use crate::model::{Backend, Listener, RelaySettings, Service};
use crate::shard::conn_table::ConnTable;
use crate::shard::recency::{Class, Recency};
use crate::shard::relay::flows::Flows;
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::stats::connection_limits::{
    ClientIdentity, ClientPermit, ConnectionLimits, ListenerPermit, TooMany,
};
use crate::stats::descriptors::{Descriptors, Permit};
use crate::stats::live;
use crate::stats::live::LiveState;

/// A target that did not accept in time is avoided for this time, if there is another: until a
/// health check can have noticed.
const AVOID_SPAN: TickDelta = TickDelta::from_ms(5_000);
/// Flows of a relay without a limit of its own, in a shard.
const FLOWS_MAX: u32 = 65_536;
/// Failed targets that a session remembers; more only while all of them must still be avoided.
const TRIED_MAX: usize = 16;

/// The direction of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to its target.
    Out,
    /// From the target to the client.
    Back,
}

/// What an engine must do with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayInterest {
    /// Connect to this target, unless this attempt has already begun; abandon an earlier one.
    Connect(Attempt),
    /// Relay bytes in both directions, but report a target that ends or breaks as failed. What
    /// cannot be taken back must be reported with
    /// [`Shard::on_spoken`](crate::shard::Shard::on_spoken).
    Await(Attempt),
    /// Relay bytes in both directions.
    Serve(Attempt),
    /// Close it, and confirm with
    /// [`Shard::on_session_closed`](crate::shard::Shard::on_session_closed).
    Close(RelayCloseReason),
}

/// An attempt of a session to reach a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The target.
    pub target: BackendSlot,
    /// Number of the attempt within the session.
    pub number: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    /// The target has accepted, and neither side has sent a byte; until when the target may be
    /// silent.
    Awaiting(Tick),
    Open,
    Ended(RelayCloseReason),
}

/// One connection or flow.
#[derive(Debug)]
struct RelaySession {
    client: Client,
    /// As it was when the client connected; its address stays.
    listener: Arc<Listener>,
    state: State,
    /// Counts among its listener's connections and flows.
    _listener_permit: ListenerPermit,
    /// Counts among its client's, if these are limited.
    _client_permit: Option<ClientPermit>,
    permit: Option<Permit>,
    /// The target that is tried, or connected.
    attempt: Option<Attempt>,
    attempts: u16,
    /// Targets that have failed.
    tried: Vec<Tried>,
    address: Option<SocketAddr>,
    opened: Tick,
    /// When the attempt began.
    started: Tick,
    /// The target was not down, then or since.
    was_up: bool,
    /// The last traffic in either direction.
    active: Tick,
    bytes: [u64; 2],
    /// Epoch of the live state when the target was last found to be up; flows only.
    epoch: u64,
}

/// A target that has failed.
#[derive(Clone, Copy, Debug)]
struct Tried {
    target: BackendSlot,
    address: SocketAddr,
    why: ConnectFailure,
    /// It may be tried again: another one has worked since, or it has recovered.
    excused: bool,
}

/// All relay sessions of a shard.
#[derive(Debug)]
pub(crate) struct Relay {
    table: ConnTable<SessionSlot, RelaySession>,
    flows: Flows,
    by_listener: Vec<u32>,
    /// Those that have not ended, by the index of their listener.
    recency: Recency,
    /// By listener: whether it is for flows.
    for_flows: Vec<bool>,
    /// The one that has just made room, to be closed first.
    evicted: Option<SessionSlot>,
    connection_limits: Arc<ConnectionLimits>,
    descriptors: Arc<Descriptors>,
    /// By backend: sessions that try it or are connected to it.
    by_target: Vec<u32>,
    /// Indexes of connections that wait for their target to accept or to send its first byte, and
    /// the earliest deadline.
    trying: Vec<u32>,
    /// By index: it is among them, perhaps for a session that has ended.
    listed: Vec<bool>,
    trying_until: Option<Tick>,
    /// Targets that did not accept in time, and until when they are avoided.
    silent: Vec<(BackendSlot, Tick)>,
}

/// The state of a session at its end.
#[derive(Debug)]
pub(crate) struct ClosedSession {
    pub(crate) client: Client,
    pub(crate) listener: Arc<Listener>,
    pub(crate) tried: Vec<(SocketAddr, ConnectFailure)>,
    /// The target that it had at its end, and whether that had accepted.
    pub(crate) attempt: Option<Attempt>,
    pub(crate) target: Option<SocketAddr>,
    pub(crate) bytes: [u64; 2],
    pub(crate) lasted: TickDelta,
}

impl Relay {
    /// Creates an empty set of sessions; `connection_limits` are the process's, `hasher` hashes
    /// flows.
    pub(crate) fn new(
        hasher: RandomState,
        connection_limits: Arc<ConnectionLimits>,
        descriptors: Arc<Descriptors>,
    ) -> Self {
        Self {
            table: ConnTable::default(),
            flows: Flows::new(hasher),
            by_listener: Vec::new(),
            recency: Recency::default(),
            for_flows: Vec::new(),
            evicted: None,
            connection_limits,
            descriptors,
            by_target: Vec::new(),
            trying: Vec::new(),
            listed: Vec::new(),
            trying_until: None,
            silent: Vec::new(),
        }
    }

    fn session(&self, slot: SessionSlot) -> Option<&RelaySession> {
        self.table.value(slot)
    }

    fn session_mut(&mut self, slot: SessionSlot) -> Option<&mut RelaySession> {
        self.table.value_mut(slot)
    }

    /// Adds a connection or flow, within the limits. A new flow replaces an old one at the limit:
    /// that one must be closed, too.
    pub(crate) fn open(
        &mut self,
        client: Client,
        listener: &Arc<Listener>,
        relay_settings: &RelaySettings,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) -> Result<SessionSlot, RelayCloseReason> {
        let is_flow = is_flow(listener);
        if is_flow && self.flows.closed_at(client.listener).is_some() {
            return Err(RelayCloseReason::Closing);
        }
        if !relay_settings.acl.contains(&client.peer.ip) {
            return Err(RelayCloseReason::Acl);
        }
        let identity = ClientIdentity::calls(client.peer, client.listener, limits);
        let client_permit =
            self.connection_limits.admit_call(identity, relay_settings.connections_per_client);
        let client_permit = client_permit.map_err(|TooMany| RelayCloseReason::PerClient)?;
        // The limit of flows is per shard, and one of them makes room.
        let max = if is_flow { 0 } else { relay_settings.connections };
        let listener_permit = self
            .connection_limits
            .enter_forward(client.listener, max)
            .ok_or(RelayCloseReason::Connections)?;
        let flows_max = if relay_settings.connections > 0 { relay_settings.connections } else { FLOWS_MAX };
        let permit = if is_flow && self.open_of_listener(client.listener) >= flows_max {
            self.replace(client.listener)
        } else {
            self.permit(is_flow, now)
        };
        let permit = permit?;
        let slot = self.table.insert(|_| RelaySession {
            client,
            listener: Arc::clone(listener),
            state: State::Trying,
            _listener_permit: listener_permit,
            _client_permit: client_permit,
            permit: Some(permit),
            attempt: None,
            attempts: 0,
            tried: Vec::new(),
            address: None,
            opened: now,
            started: now,
            was_up: false,
            active: now,
            bytes: [0; 2],
            epoch: 0,
        });
        if self.by_listener.len() <= client.listener.index() {
            self.by_listener.resize(client.listener.index() + 1, 0);
            self.for_flows.resize(client.listener.index() + 1, false);
        }
        self.by_listener[client.listener.index()] += 1;
        self.for_flows[client.listener.index()] = is_flow;
        self.recency.put(slot.index(), client.listener.index(), Class::New);
        if is_flow {
            self.flows.insert(client, slot);
        }
        Ok(slot)
    }

    /// Returns the connections and flows of a listener.
    pub(crate) fn open_of_listener(&self, listener: ListenerSlot) -> u32 {
        self.by_listener.get(listener.index()).copied().unwrap_or(0)
    }

    /// Returns those that try a target or are connected to it.
    pub(crate) fn open_of(&self, target: BackendSlot) -> u32 {
        self.by_target.get(target.index()).copied().unwrap_or(0)
    }

    /// Returns the number of all connections and flows.
    pub(crate) fn open_count(&self) -> u32 {
        to_u32(self.table.len())
    }

    /// Returns the flow of a client.
    pub(crate) fn flow(&self, client: &Client) -> Option<SessionSlot> {
        let slot = self.flows.of(client)?;
        (!matches!(self.session(slot)?.state, State::Ended(_))).then_some(slot)
    }

    /// Returns a session's client and its listener.
    pub(crate) fn facts(&self, slot: SessionSlot) -> Option<(Client, &Arc<Listener>)> {
        self.session(slot).map(|p| (p.client, &p.listener))
    }

    /// Returns the target that is tried or connected.
    pub(crate) fn attempt(&self, slot: SessionSlot) -> Option<Attempt> {
        self.session(slot)?.attempt
    }

    /// Collects the targets to avoid: those that were tried, and, unless no other is left, those
    /// that did not accept others in time.
    pub(crate) fn avoided(&self, slot: SessionSlot, avoid: &mut Vec<BackendSlot>, silent: bool, now: Tick) {
        avoid.clear();
        if let Some(session) = self.session(slot) {
            avoid.extend(session.tried.iter().filter(|t| !t.excused).map(|t| t.target));
        }
        if silent {
            avoid.extend(self.silent.iter().filter(|(_, until)| *until > now).map(|(target, _)| *target));
        }
    }

    /// Returns whether some target is avoided at present.
    pub(crate) fn has_silent(&self) -> bool {
        !self.silent.is_empty()
    }

    /// Allows targets that failed some time ago, and have recovered, to be tried again.
    pub(crate) fn forgive(&mut self, slot: SessionSlot, is_good: impl Fn(BackendSlot) -> bool) {
        if let Some(session) = self.session_mut(slot) {
            session.tried.iter_mut().for_each(|t| t.excused |= is_good(t.target));
        }
    }

    /// Begins an attempt; `waits` is how long the target has to accept, for connections.
    pub(crate) fn begin(
        &mut self,
        slot: SessionSlot,
        target: &Backend,
        live_state: &LiveState,
        waits: TickDelta,
        now: Tick,
    ) {
        let Some(session) = self.session_mut(slot) else { return };
        debug_assert!(session.attempt.is_none(), "one attempt at a time");
        session.attempts = session.attempts.wrapping_add(1);
        session.attempt = Some(Attempt { target: target.slot, number: session.attempts });
        session.address = Some(target.address);
        session.started = now;
        session.was_up = live_state.backend(target.slot).state() != live::State::Down;
        session.epoch = live_state.epoch();
        if is_flow(&session.listener) {
            session.state = State::Open;
        } else {
            session.state = State::Trying;
            if self.listed.len() <= slot.index() {
                self.listed.resize(slot.index() + 1, false);
            }
            if !std::mem::replace(&mut self.listed[slot.index()], true) {
                self.trying.push(to_u32(slot.index()));
            }
            self.wake_at(now + waits);
        }
        let at = target.slot.index();
        if self.by_target.len() <= at {
            self.by_target.resize(at + 1, 0);
        }
        self.by_target[at] += 1;
        self.mark_pending(slot);
    }

    /// The attempt has failed; returns its target, and how long it took.
    pub(crate) fn failed(
        &mut self,
        slot: SessionSlot,
        why: ConnectFailure,
        now: Tick,
    ) -> Option<(BackendSlot, TickDelta)> {
        let session = self.session_mut(slot)?;
        let attempt = session.attempt.take()?;
        let address = session.address.take()?;
        if session.tried.len() >= TRIED_MAX
            && let Some(at) = session.tried.iter().position(|t| t.excused)
        {
            session.tried.remove(at);
        }
        session.tried.push(Tried { target: attempt.target, address, why, excused: false });
        let lasted = now.since(session.started);
        self.by_target[attempt.target.index()] -= 1;
        if matches!(why, ConnectFailure::Timeout | ConnectFailure::Silent) {
            self.silent.retain(|(target, _)| *target != attempt.target);
            self.silent.push((attempt.target, now + AVOID_SPAN));
        }
        Some((attempt.target, lasted))
    }

    /// The target has accepted; `greeting` is how long it may be silent, zero when it need not
    /// speak first. Returns which one is open, and how long it took.
    pub(crate) fn accepted(
        &mut self,
        slot: SessionSlot,
        greeting: TickDelta,
        now: Tick,
    ) -> Option<(BackendSlot, TickDelta)> {
        let session = self.session_mut(slot).filter(|p| p.state == State::Trying)?;
        session.active = now;
        if greeting.0 > 0 {
            session.state = State::Awaiting(now + greeting);
            self.wake_at(now + greeting);
            return None;
        }
        self.settle(slot, now)
    }

    /// A connection stays with its target; returns which one, and how long it took.
    pub(crate) fn settle(&mut self, slot: SessionSlot, now: Tick) -> Option<(BackendSlot, TickDelta)> {
        let session = self.session_mut(slot)?;
        if !matches!(session.state, State::Trying | State::Awaiting(_)) {
            return None;
        }
        let attempt = session.attempt?;
        session.state = State::Open;
        let lasted = now.since(session.started);
        self.silent.retain(|(target, _)| *target != attempt.target);
        Some((attempt.target, lasted))
    }

    /// Traffic was relayed in one direction; the first response of a flow, and the first byte of a
    /// connection whose target was awaited, return the target, and how long it took.
    pub(crate) fn passed(
        &mut self,
        slot: SessionSlot,
        direction: Direction,
        count: u64,
        now: Tick,
    ) -> Option<(BackendSlot, TickDelta)> {
        self.refresh(slot, direction);
        let session = self.session_mut(slot)?;
        let first = direction == Direction::Back && session.bytes[1] == 0 && is_flow(&session.listener);
        session.active = now;
        session.bytes[direction as usize] += count;
        if direction == Direction::Back && is_flow(&session.listener) {
            // It works: if it refuses later, all others may be tried again.
            session.tried.iter_mut().for_each(|t| t.excused = true);
        }
        if count > 0 && matches!(session.state, State::Awaiting(_)) {
            return self.settle(slot, now);
        }
        let attempt = session.attempt?;
        (first && count > 0).then(|| (attempt.target, now.since(session.started)))
    }

    /// Returns whether a flow's target must be checked: the live state has changed since the last
    /// check.
    pub(crate) fn is_stale(&mut self, slot: SessionSlot, epoch: u64) -> bool {
        self.session_mut(slot).is_some_and(|p| std::mem::replace(&mut p.epoch, epoch) != epoch)
    }

    /// Ends it.
    pub(crate) fn end(&mut self, slot: SessionSlot, why: RelayCloseReason) {
        let Some(session) = self.session_mut(slot) else { return };
        if !matches!(session.state, State::Ended(_)) {
            session.state = State::Ended(why);
            self.recency.remove(slot.index());
            self.mark_pending(slot);
        }
    }

    /// Forgets one whose sockets are closed.
    pub(crate) fn forget(&mut self, slot: SessionSlot, now: Tick) -> Option<ClosedSession> {
        let session = self.table.remove(slot)?;
        self.recency.remove(slot.index());
        let client = session.client;
        self.by_listener[client.listener.index()] -= 1;
        if is_flow(&session.listener) {
            self.flows.remove(&client, slot);
        }
        if let Some(attempt) = session.attempt {
            self.by_target[attempt.target.index()] -= 1;
        }
        Some(ClosedSession {
            client,
            listener: session.listener,
            tried: session.tried.into_iter().map(|t| (t.address, t.why)).collect(),
            attempt: session.attempt,
            target: session.address,
            bytes: session.bytes,
            lasted: now.since(session.opened),
        })
    }

    /// A listener was closed at that time, or is open again. Its flows, which get no more from
    /// their clients, wait only a short time for last responses. Connections continue.
    pub(crate) fn close_listener(&mut self, listener: ListenerSlot, at: Option<Tick>) {
        self.flows.close_listener(listener, at);
    }

    fn mark_pending(&mut self, slot: SessionSlot) {
        self.table.mark_pending(slot);
    }

    /// Returns one with pending work for the engine.
    pub(crate) fn next_pending(&mut self) -> Option<SessionSlot> {
        self.table.next_pending()
    }

    /// Returns the number with pending work; an upper bound.
    pub(crate) fn pending_count(&self) -> usize {
        self.table.pending_count()
    }

    /// Returns what the engine must do with it.
    pub(crate) fn interest(&self, slot: SessionSlot) -> RelayInterest {
        let Some(session) = self.session(slot) else {
            return RelayInterest::Close(RelayCloseReason::Closing);
        };
        match (session.state, session.attempt) {
            (State::Ended(why), _) => RelayInterest::Close(why),
            (State::Trying, Some(attempt)) => RelayInterest::Connect(attempt),
            (State::Awaiting(_), Some(attempt)) => RelayInterest::Await(attempt),
            (State::Open, Some(attempt)) => RelayInterest::Serve(attempt),
            (State::Trying | State::Awaiting(_) | State::Open, None) => {
                RelayInterest::Close(RelayCloseReason::NoTarget)
            }
        }
    }

    /// Checks the invariants between calls; for tests.
    pub(crate) fn check_invariants(&self) {
        let all = || self.table.iter().map(|(_, session)| session);
        assert_eq!(
            self.by_listener.iter().sum::<u32>(),
            self.open_count(),
            "sessions are counted by listener"
        );
        let attempts = all().filter(|p| p.attempt.is_some()).count();
        assert_eq!(self.by_target.iter().sum::<u32>() as usize, attempts, "attempts are counted by target");
        let flows = all().filter(|p| is_flow(&p.listener)).count();
        assert!(self.flows.count() <= flows, "a client has one flow");
        let alive = all().filter(|p| !matches!(p.state, State::Ended(_))).count();
        assert_eq!(self.recency.check_invariants(), alive, "each session that has not ended can make room");
        self.flows.check_invariants(|slot| self.session(slot).map(|p| p.client));
        for (slot, session) in self.table.iter() {
            let trying = matches!(session.state, State::Trying | State::Awaiting(_));
            let entries = self.trying.iter().filter(|index| **index as usize == slot.index()).count();
            assert!(entries <= 1 && (!trying || entries == 1), "a session that waits has one deadline");
        }
    }
}

fn is_flow(listener: &Listener) -> bool {
    matches!(listener.service, Service::UdpRelay(_))
}
