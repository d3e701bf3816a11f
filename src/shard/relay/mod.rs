//! Passages: connections and flows of forwards, all that is known of each but its sockets.
//!
//! ```text
//!  a client connects ─► Trying(target) ─ accepted ─► Open ─ both ends closed, idle, broken ─► over
//!                          ▲   │ refused, timed out
//!                          └───┘ the next target; none is left ─► over
//! ```
//!
//! A flow is open at once: datagrams are not accepted by anybody. What the bytes say is never
//! looked at. Which target comes next is chosen in `forwarded`, who makes room when there are too many
//! in `evict`.

mod evict;
mod flows;
pub mod targets;

use std::net::SocketAddr;
use std::sync::Arc;

use ahash::RandomState;

use crate::base::addr::{BackendSlot, Client, ListenerSlot, SessionSlot};
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

/// A target that let a connection wait in vain is passed over for so long, where there is another:
/// until a health check has had its say.
const TROUBLE: TickDelta = TickDelta::from_ms(5_000);
/// Flows of a forward without a limit of its own, in a shard.
const FLOWS_MAX: u32 = 65_536;
/// A flow whose listener is closed gets so long to hear what its target still says.
const LAST_REPLIES: TickDelta = TickDelta::from_ms(1_000);
/// Targets that a passage names in the log, of those that were not taken; more only while all of
/// them are still to be avoided.
const TRIED_MAX: usize = 16;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to its target.
    Out,
    /// From the target to the client.
    Back,
}

/// What an engine should do with a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayInterest {
    /// Connect to this target, unless that is what this attempt has begun; give up what an earlier
    /// one has.
    Connect(Attempt),
    /// Pass bytes both ways.
    Serve(Attempt),
    /// Close it, and tell with [`Shard::on_session_closed`](crate::shard::Shard::on_session_closed).
    Close(RelayCloseReason),
}

/// A try of a passage to reach a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which target.
    pub target: BackendSlot,
    /// Tells it from the passage's other attempts.
    pub number: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Open,
    Ended(RelayCloseReason),
}

/// One connection or flow.
#[derive(Debug)]
struct RelaySession {
    client: Client,
    /// As it was when the client came; its address stays.
    listener: Arc<Listener>,
    state: State,
    /// Among its listener's connections and flows.
    _listener_permit: ListenerPermit,
    /// Among its client's, where these are counted.
    _client_permit: Option<ClientPermit>,
    permit: Option<Permit>,
    /// The target that is tried, or taken.
    attempt: Option<Attempt>,
    attempts: u16,
    /// Those that were not taken.
    tried: Vec<Tried>,
    address: Option<SocketAddr>,
    opened: Tick,
    /// When the attempt began.
    begun: Tick,
    /// The last bytes either way.
    active: Tick,
    bytes: [u64; 2],
    /// Of the board, when the target was last found to be up; flows only.
    epoch: u64,
}

/// A target that was not taken.
#[derive(Clone, Copy, Debug)]
struct Tried {
    target: BackendSlot,
    address: SocketAddr,
    why: ConnectFailure,
    /// It may be tried again: another one has served since, or better is known of it.
    excused: bool,
}

/// All passages of a shard.
#[derive(Debug)]
pub(crate) struct Relay {
    table: ConnTable<SessionSlot, RelaySession>,
    flows: Flows,
    by_listener: Vec<u32>,
    /// Those that are not over, by the index of their listener.
    recency: Recency,
    /// By listener: whether it is for flows.
    for_flows: Vec<bool>,
    /// The one that has just made room, and is to be closed first of all.
    evicted: Option<SessionSlot>,
    connection_limits: Arc<ConnectionLimits>,
    descriptors: Arc<Descriptors>,
    /// By backend: passages that try or have it.
    by_target: Vec<u32>,
    /// Indexes of connections that wait for their target to accept, and the earliest end of that.
    trying: Vec<u32>,
    /// By index: it is among them, perhaps on behalf of a passage that is over.
    listed: Vec<bool>,
    trying_until: Option<Tick>,
    /// Targets that let a connection wait in vain, and until when they are passed over.
    troubled: Vec<(BackendSlot, Tick)>,
}

/// What there is to say of a passage that is over.
#[derive(Debug)]
pub(crate) struct ClosedSession {
    pub(crate) client: Client,
    pub(crate) listener: Arc<Listener>,
    pub(crate) tried: Vec<(SocketAddr, ConnectFailure)>,
    /// The target that it had at its end, and whether that had been taken.
    pub(crate) attempt: Option<Attempt>,
    pub(crate) target: Option<SocketAddr>,
    pub(crate) bytes: [u64; 2],
    pub(crate) lasted: TickDelta,
}

impl Relay {
    /// None yet, of the whole `connection_limits`; `hasher` tells flows apart.
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
            troubled: Vec::new(),
        }
    }

    fn session(&self, slot: SessionSlot) -> Option<&RelaySession> {
        self.table.value(slot)
    }

    fn session_mut(&mut self, slot: SessionSlot) -> Option<&mut RelaySession> {
        self.table.value_mut(slot)
    }

    /// Takes a connection or flow in, within the limits. A new flow takes the place of an old one
    /// where there are as many as may be: that one has to be closed, too.
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
        // That of flows is a limit of the shard's, and one of them makes room.
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
            begun: now,
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

    /// Connections and flows of a listener.
    pub(crate) fn open_of_listener(&self, listener: ListenerSlot) -> u32 {
        self.by_listener.get(listener.index()).copied().unwrap_or(0)
    }

    /// Those that try or have a target.
    pub(crate) fn open_of(&self, target: BackendSlot) -> u32 {
        self.by_target.get(target.index()).copied().unwrap_or(0)
    }

    /// All connections and flows.
    pub(crate) fn open_count(&self) -> u32 {
        self.table.len() as u32
    }

    /// The flow of a client.
    pub(crate) fn flow(&self, client: &Client) -> Option<SessionSlot> {
        let slot = self.flows.of(client)?;
        (!matches!(self.session(slot)?.state, State::Ended(_))).then_some(slot)
    }

    /// Who is at its one end, by which listener.
    pub(crate) fn facts(&self, slot: SessionSlot) -> Option<(Client, &Arc<Listener>)> {
        self.session(slot).map(|p| (p.client, &p.listener))
    }

    /// The target that is tried or taken.
    pub(crate) fn attempt(&self, slot: SessionSlot) -> Option<Attempt> {
        self.session(slot)?.attempt
    }

    /// Targets that are not to be tried: those that were, and, unless nobody else is left, those
    /// that have let others wait in vain.
    pub(crate) fn avoided(&self, slot: SessionSlot, avoid: &mut Vec<BackendSlot>, troubled: bool, now: Tick) {
        avoid.clear();
        if let Some(session) = self.session(slot) {
            avoid.extend(session.tried.iter().filter(|t| !t.excused).map(|t| t.target));
        }
        if troubled {
            avoid.extend(self.troubled.iter().filter(|(_, until)| *until > now).map(|(target, _)| *target));
        }
    }

    /// Whether some target is passed over at present.
    pub(crate) fn has_troubled(&self) -> bool {
        !self.troubled.is_empty()
    }

    /// Targets that failed some time ago, and of which better is known, may be tried again.
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
        epoch: u64,
        waits: TickDelta,
        now: Tick,
    ) {
        let Some(session) = self.session_mut(slot) else { return };
        debug_assert!(session.attempt.is_none(), "one attempt at a time");
        session.attempts = session.attempts.wrapping_add(1);
        session.attempt = Some(Attempt { target: target.slot, number: session.attempts });
        session.address = Some(target.address);
        session.begun = now;
        session.epoch = epoch;
        if is_flow(&session.listener) {
            session.state = State::Open;
        } else {
            session.state = State::Trying;
            if self.listed.len() <= slot.index() {
                self.listed.resize(slot.index() + 1, false);
            }
            if !std::mem::replace(&mut self.listed[slot.index()], true) {
                self.trying.push(slot.index() as u32);
            }
            let until = now + waits;
            self.trying_until = Some(self.trying_until.map_or(until, |at| at.min(until)));
        }
        let at = target.slot.index();
        if self.by_target.len() <= at {
            self.by_target.resize(at + 1, 0);
        }
        self.by_target[at] += 1;
        self.mark_pending(slot);
    }

    /// The attempt has failed; says at which target, and how long it took.
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
        let lasted = now.since(session.begun);
        self.by_target[attempt.target.index()] -= 1;
        if why == ConnectFailure::Timeout {
            self.troubled.retain(|(target, _)| *target != attempt.target);
            self.troubled.push((attempt.target, now + TROUBLE));
        }
        Some((attempt.target, lasted))
    }

    /// The target has accepted; says which, and how long it took.
    pub(crate) fn accepted(&mut self, slot: SessionSlot, now: Tick) -> Option<(BackendSlot, TickDelta)> {
        let session = self.session_mut(slot).filter(|p| p.state == State::Trying)?;
        let attempt = session.attempt?;
        session.state = State::Open;
        session.active = now;
        let lasted = now.since(session.begun);
        self.troubled.retain(|(target, _)| *target != attempt.target);
        Some((attempt.target, lasted))
    }

    /// Bytes have gone one way; the first ones back of a flow say whose, and how long it took.
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
            // It serves: should it refuse later on, all others may be asked again.
            session.tried.iter_mut().for_each(|t| t.excused = true);
        }
        let attempt = session.attempt?;
        (first && count > 0).then(|| (attempt.target, now.since(session.begun)))
    }

    /// Whether a flow's target is to be looked at: the board has changed since it last was.
    pub(crate) fn is_stale(&mut self, slot: SessionSlot, epoch: u64) -> bool {
        self.session_mut(slot).is_some_and(|p| std::mem::replace(&mut p.epoch, epoch) != epoch)
    }

    /// It ends.
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

    /// A listener was closed at that time, or is open again: its flows, whose clients it cannot hear
    /// any more, wait only a little for what their targets still say. Connections go on.
    pub(crate) fn close_listener(&mut self, listener: ListenerSlot, at: Option<Tick>) {
        self.flows.close_listener(listener, at);
    }

    fn mark_pending(&mut self, slot: SessionSlot) {
        self.table.mark_pending(slot);
    }

    /// One that the engine has something to do for.
    pub(crate) fn next_pending(&mut self) -> Option<SessionSlot> {
        self.table.next_pending()
    }

    /// Those that the engine has something to do for; perhaps some more.
    pub(crate) fn pending_count(&self) -> usize {
        self.table.pending_count()
    }

    /// What the engine should do with it.
    pub(crate) fn interest(&self, slot: SessionSlot) -> RelayInterest {
        let Some(session) = self.session(slot) else {
            return RelayInterest::Close(RelayCloseReason::Closing);
        };
        match (session.state, session.attempt) {
            (State::Ended(why), _) => RelayInterest::Close(why),
            (State::Trying, Some(attempt)) => RelayInterest::Connect(attempt),
            (State::Open, Some(attempt)) => RelayInterest::Serve(attempt),
            (State::Trying | State::Open, None) => RelayInterest::Close(RelayCloseReason::NoTarget),
        }
    }

    /// When there is something to do, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.table.next_deadline().into_iter().chain(self.trying_until).min()
    }

    /// Connections whose target has not accepted in time, as `waits` has it for each; no more than
    /// `most`, the others are due next time.
    pub(crate) fn overdue(
        &mut self,
        now: Tick,
        waits: impl Fn(&Arc<Listener>) -> TickDelta,
        most: usize,
        overdue: &mut Vec<SessionSlot>,
    ) {
        overdue.clear();
        if self.trying_until.is_none_or(|at| at > now) {
            return;
        }
        let (table, listed, mut until) = (&self.table, &mut self.listed, None::<Tick>);
        self.trying.retain(|index| {
            let index = *index as usize;
            let Some((slot, session)) = table.at(index).filter(|(_, s)| s.state == State::Trying) else {
                listed[index] = false;
                return false;
            };
            let end = session.begun + waits(&session.listener);
            if end <= now && overdue.len() < most {
                overdue.push(slot);
            } else {
                until = Some(until.map_or(end, |at| at.min(end)));
            }
            true
        });
        self.trying_until = until;
    }

    /// Ends what was idle for too long; looks at a part of the table at a time.
    pub(crate) fn sweep(&mut self, now: Tick, idle: impl Fn(&Arc<Listener>) -> TickDelta) {
        let count = self.table.begin_sweep(now);
        if count == 0 {
            return;
        }
        self.give_up_excess(now);
        self.troubled.retain(|(_, until)| *until > now);
        for _ in 0..count {
            let Some(slot) = self.table.next_in_sweep() else { continue };
            let Some(session) = self.table.value(slot) else { continue };
            if session.state != State::Open {
                continue;
            }
            // However much its target has to say: the listener's place waits for it.
            let closed = self.flows.closed_at(session.client.listener).filter(|_| is_flow(&session.listener));
            let waited = now.since(session.active);
            let span = idle(&session.listener);
            if closed.is_some_and(|at| now.since(at) >= LAST_REPLIES) {
                self.end(slot, RelayCloseReason::Closing);
            } else if span.0 > 0 && waited >= span {
                self.end(slot, RelayCloseReason::Idle);
            }
        }
    }

    /// Checks what must hold between calls; for tests.
    pub(crate) fn check_invariants(&self) {
        let all = || self.table.iter().map(|(_, session)| session);
        assert_eq!(
            self.by_listener.iter().sum::<u32>(),
            self.open_count(),
            "passages are counted by listener"
        );
        let attempts = all().filter(|p| p.attempt.is_some()).count();
        assert_eq!(self.by_target.iter().sum::<u32>() as usize, attempts, "attempts are counted by target");
        let flows = all().filter(|p| is_flow(&p.listener)).count();
        assert!(self.flows.count() <= flows, "who has a flow is known by one");
        let alive = all().filter(|p| !matches!(p.state, State::Ended(_))).count();
        assert_eq!(self.recency.check_invariants(), alive, "each that is not over can make room");
        self.flows.check_invariants(|slot| self.session(slot).map(|p| p.client));
        for (slot, session) in self.table.iter() {
            let trying = session.state == State::Trying;
            let entries = self.trying.iter().filter(|index| **index as usize == slot.index()).count();
            assert!(entries <= 1 && (!trying || entries == 1), "who waits to be accepted has one deadline");
        }
    }
}

fn is_flow(listener: &Listener) -> bool {
    matches!(listener.service, Service::UdpRelay(_))
}
