//! Passages: connections and flows of forwards, all that is known of each but its sockets.
//!
//! ```text
//!  a client connects ─► Trying(target) ─ accepted ─► Open ─ both ends closed, idle, broken ─► over
//!                          ▲   │ refused, timed out
//!                          └───┘ the next target; none is left ─► over
//! ```
//!
//! A flow is open at once: datagrams are not accepted by anybody. What the octets say is never
//! looked at. Which target comes next is chosen in `forwarded`, who makes room when there are too many
//! in `evict`.

mod evict;
mod flows;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ahash::RandomState;

use self::flows::Flows;
use super::recency::{Class, Recency};
use super::streams::{ForwardEnd, TryEnd};
use crate::addr::{BackendSlot, Client, ListenerSlot, PassageSlot};
use crate::config::snapshot::{Backend, Forward, Listener, Service, StreamLimits};
use crate::crowd::{Crowd, Place, TooMany, Visit, Who};
use crate::descriptors::{Descriptors, Permit};
use crate::time::{Tick, TickDelta};

/// The whole table is looked through for idle ones in this time.
const SWEEP: TickDelta = TickDelta::from_ms(500);
/// And a part of it this often.
const SWEEP_STEP: TickDelta = TickDelta::from_ms(50);
/// A target that let a connection wait in vain is passed over for so long, where there is another:
/// until a health check has had its say.
const TROUBLE: TickDelta = TickDelta::from_ms(5_000);
/// Flows of a forward without a limit of its own, in a shard.
const FLOWS_MAX: u32 = 65_536;
/// A flow whose listener is closed gets so long to hear what its target still says.
const LAST_WORDS: TickDelta = TickDelta::from_ms(1_000);
/// Targets that a passage names in the log, of those that were not taken; more only while all of
/// them are still to be avoided.
const TRIED_MAX: usize = 16;

/// Which way octets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to its target.
    Out,
    /// From the target to the client.
    Back,
}

/// What an engine should do with a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassageWish {
    /// Connect to this target, unless that is what this attempt has begun; give up what an earlier
    /// one has.
    Connect(Attempt),
    /// Pass octets both ways.
    Serve(Attempt),
    /// Close it, and tell with [`Shard::on_passage_closed`](super::Shard::on_passage_closed).
    Close(ForwardEnd),
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
    Ended(ForwardEnd),
}

/// One connection or flow.
#[derive(Debug)]
struct Passage {
    client: Client,
    /// As it was when the client came; its address stays.
    listener: Arc<Listener>,
    state: State,
    chore: bool,
    /// Among its listener's connections and flows.
    _place: Place,
    /// Among its client's, where these are counted.
    _visit: Option<Visit>,
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
    /// The last octets either way.
    active: Tick,
    octets: [u64; 2],
    /// Of the board, when the target was last found to be up; flows only.
    epoch: u64,
}

/// A target that was not taken.
#[derive(Clone, Copy, Debug)]
struct Tried {
    target: BackendSlot,
    address: SocketAddr,
    why: TryEnd,
    /// It may be tried again: another one has served since, or better is known of it.
    excused: bool,
}

/// All passages of a shard.
#[derive(Debug)]
pub(super) struct Passages {
    table: Vec<Option<Passage>>,
    free: Vec<u32>,
    open: u32,
    flows: Flows,
    by_listener: Vec<u32>,
    /// Those that are not over, by the index of their listener.
    recency: Recency,
    /// By listener: whether it is for flows.
    for_flows: Vec<bool>,
    /// The one that has just made room, and is to be closed first of all.
    evicted: Option<PassageSlot>,
    crowd: Arc<Crowd>,
    descriptors: Arc<Descriptors>,
    /// By backend: passages that try or have it.
    by_target: Vec<u32>,
    /// Served in the order of their coming.
    chores: VecDeque<PassageSlot>,
    /// Connections that wait for their target to accept, and the earliest end of that.
    trying: Vec<PassageSlot>,
    /// By slot: it is among them, perhaps on behalf of a passage that is over.
    listed: Vec<bool>,
    trying_until: Option<Tick>,
    /// Targets that let a connection wait in vain, and until when they are passed over.
    troubled: Vec<(BackendSlot, Tick)>,
    sweep_at: usize,
    swept: Tick,
}

/// What there is to say of a passage that is over.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) client: Client,
    pub(super) listener: Arc<Listener>,
    pub(super) tried: Vec<(SocketAddr, TryEnd)>,
    /// The target that it had at its end, and whether that had been taken.
    pub(super) attempt: Option<Attempt>,
    pub(super) target: Option<SocketAddr>,
    pub(super) octets: [u64; 2],
    pub(super) lasted: TickDelta,
}

impl Passages {
    /// None yet, of the whole `crowd`; `hasher` tells flows apart.
    pub(super) fn new(hasher: RandomState, crowd: Arc<Crowd>, descriptors: Arc<Descriptors>) -> Self {
        Self {
            table: Vec::new(),
            free: Vec::new(),
            open: 0,
            flows: Flows::new(hasher),
            by_listener: Vec::new(),
            recency: Recency::default(),
            for_flows: Vec::new(),
            evicted: None,
            crowd,
            descriptors,
            by_target: Vec::new(),
            chores: VecDeque::new(),
            trying: Vec::new(),
            listed: Vec::new(),
            trying_until: None,
            troubled: Vec::new(),
            sweep_at: 0,
            swept: Tick(0),
        }
    }

    fn passage(&self, slot: PassageSlot) -> Option<&Passage> {
        self.table.get(slot.index())?.as_ref()
    }

    fn passage_mut(&mut self, slot: PassageSlot) -> Option<&mut Passage> {
        self.table.get_mut(slot.index())?.as_mut()
    }

    /// Takes a connection or flow in, within the limits. A new flow takes the place of an old one
    /// where there are as many as may be: that one has to be closed, too.
    pub(super) fn open(
        &mut self,
        client: Client,
        listener: &Arc<Listener>,
        forward: &Forward,
        limits: &StreamLimits,
        now: Tick,
    ) -> Result<PassageSlot, ForwardEnd> {
        let is_flow = is_flow(listener);
        if is_flow && self.flows.closed_at(client.listener).is_some() {
            return Err(ForwardEnd::Closing);
        }
        if !forward.acl.contains(&client.peer.ip) {
            return Err(ForwardEnd::Acl);
        }
        let who = Who::calls(client.peer, client.listener, limits);
        let visit = self.crowd.admit_call(who, forward.connections_per_client);
        let visit = visit.map_err(|TooMany| ForwardEnd::PerClient)?;
        // That of flows is a limit of the shard's, and one of them makes room.
        let max = if is_flow { 0 } else { forward.connections };
        let place = self.crowd.enter_forward(client.listener, max).ok_or(ForwardEnd::Connections)?;
        let flows_max = if forward.connections > 0 { forward.connections } else { FLOWS_MAX };
        let permit = if is_flow && self.of_listener(client.listener) >= flows_max {
            self.replace(client.listener)
        } else {
            self.permit(is_flow, now)
        };
        let permit = permit?;
        let at = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() as u32 - 1
        });
        let slot = PassageSlot(at);
        self.table[slot.index()] = Some(Passage {
            client,
            listener: Arc::clone(listener),
            state: State::Trying,
            chore: false,
            _place: place,
            _visit: visit,
            permit: Some(permit),
            attempt: None,
            attempts: 0,
            tried: Vec::new(),
            address: None,
            opened: now,
            begun: now,
            active: now,
            octets: [0; 2],
            epoch: 0,
        });
        self.open += 1;
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

    fn of_listener(&self, listener: ListenerSlot) -> u32 {
        self.by_listener.get(listener.index()).copied().unwrap_or(0)
    }

    /// Connections and flows of a listener.
    pub(super) fn open_of_listener(&self, listener: ListenerSlot) -> u32 {
        self.of_listener(listener)
    }

    /// Those that try or have a target.
    pub(super) fn open_of(&self, target: BackendSlot) -> u32 {
        self.by_target.get(target.index()).copied().unwrap_or(0)
    }

    /// All connections and flows.
    pub(super) const fn open_count(&self) -> u32 {
        self.open
    }

    /// The flow of a client.
    pub(super) fn flow(&self, client: &Client) -> Option<PassageSlot> {
        let slot = self.flows.of(client)?;
        (!matches!(self.passage(slot)?.state, State::Ended(_))).then_some(slot)
    }

    /// Who is at its one end, by which listener.
    pub(super) fn facts(&self, slot: PassageSlot) -> Option<(Client, &Arc<Listener>)> {
        self.passage(slot).map(|p| (p.client, &p.listener))
    }

    /// The target that is tried or taken.
    pub(super) fn attempt(&self, slot: PassageSlot) -> Option<Attempt> {
        self.passage(slot)?.attempt
    }

    /// Targets that are not to be tried: those that were, and, unless nobody else is left, those
    /// that have let others wait in vain.
    pub(super) fn avoided(&self, slot: PassageSlot, avoid: &mut Vec<BackendSlot>, troubled: bool, now: Tick) {
        avoid.clear();
        if let Some(passage) = self.passage(slot) {
            avoid.extend(passage.tried.iter().filter(|t| !t.excused).map(|t| t.target));
        }
        if troubled {
            avoid.extend(self.troubled.iter().filter(|(_, until)| *until > now).map(|(target, _)| *target));
        }
    }

    /// Whether some target is passed over at present.
    pub(super) fn has_troubled(&self) -> bool {
        !self.troubled.is_empty()
    }

    /// Targets that failed some time ago, and of which better is known, may be tried again.
    pub(super) fn forgive(&mut self, slot: PassageSlot, is_good: impl Fn(BackendSlot) -> bool) {
        if let Some(passage) = self.passage_mut(slot) {
            passage.tried.iter_mut().for_each(|t| t.excused |= is_good(t.target));
        }
    }

    /// Begins an attempt; `waits` is how long the target has to accept, for connections.
    pub(super) fn begin(
        &mut self,
        slot: PassageSlot,
        target: &Backend,
        epoch: u64,
        waits: TickDelta,
        now: Tick,
    ) {
        let Some(passage) = self.passage_mut(slot) else { return };
        debug_assert!(passage.attempt.is_none(), "one attempt at a time");
        passage.attempts = passage.attempts.wrapping_add(1);
        passage.attempt = Some(Attempt { target: target.slot, number: passage.attempts });
        passage.address = Some(target.address);
        passage.begun = now;
        passage.epoch = epoch;
        if is_flow(&passage.listener) {
            passage.state = State::Open;
        } else {
            passage.state = State::Trying;
            if self.listed.len() <= slot.index() {
                self.listed.resize(slot.index() + 1, false);
            }
            if !std::mem::replace(&mut self.listed[slot.index()], true) {
                self.trying.push(slot);
            }
            let until = now + waits;
            self.trying_until = Some(self.trying_until.map_or(until, |at| at.min(until)));
        }
        let at = target.slot.index();
        if self.by_target.len() <= at {
            self.by_target.resize(at + 1, 0);
        }
        self.by_target[at] += 1;
        self.chore(slot);
    }

    /// The attempt has failed; says at which target, and how long it took.
    pub(super) fn failed(
        &mut self,
        slot: PassageSlot,
        why: TryEnd,
        now: Tick,
    ) -> Option<(BackendSlot, TickDelta)> {
        let passage = self.passage_mut(slot)?;
        let attempt = passage.attempt.take()?;
        let address = passage.address.take()?;
        if passage.tried.len() >= TRIED_MAX
            && let Some(at) = passage.tried.iter().position(|t| t.excused)
        {
            passage.tried.remove(at);
        }
        passage.tried.push(Tried { target: attempt.target, address, why, excused: false });
        let lasted = now.since(passage.begun);
        self.by_target[attempt.target.index()] -= 1;
        if why == TryEnd::Timeout {
            self.troubled.retain(|(target, _)| *target != attempt.target);
            self.troubled.push((attempt.target, now + TROUBLE));
        }
        Some((attempt.target, lasted))
    }

    /// The target has accepted; says which, and how long it took.
    pub(super) fn accepted(&mut self, slot: PassageSlot, now: Tick) -> Option<(BackendSlot, TickDelta)> {
        let passage = self.passage_mut(slot).filter(|p| p.state == State::Trying)?;
        let attempt = passage.attempt?;
        passage.state = State::Open;
        passage.active = now;
        let lasted = now.since(passage.begun);
        self.troubled.retain(|(target, _)| *target != attempt.target);
        Some((attempt.target, lasted))
    }

    /// Octets have gone one way; the first ones back of a flow say whose, and how long it took.
    pub(super) fn passed(
        &mut self,
        slot: PassageSlot,
        way: Way,
        count: u64,
        now: Tick,
    ) -> Option<(BackendSlot, TickDelta)> {
        self.refresh(slot, way);
        let passage = self.passage_mut(slot)?;
        let first = way == Way::Back && passage.octets[1] == 0 && is_flow(&passage.listener);
        passage.active = now;
        passage.octets[way as usize] += count;
        if way == Way::Back && is_flow(&passage.listener) {
            // It serves: should it refuse later on, all others may be asked again.
            passage.tried.iter_mut().for_each(|t| t.excused = true);
        }
        let attempt = passage.attempt?;
        (first && count > 0).then(|| (attempt.target, now.since(passage.begun)))
    }

    /// Whether a flow's target is to be looked at: the board has changed since it last was.
    pub(super) fn is_stale(&mut self, slot: PassageSlot, epoch: u64) -> bool {
        self.passage_mut(slot).is_some_and(|p| std::mem::replace(&mut p.epoch, epoch) != epoch)
    }

    /// It ends.
    pub(super) fn end(&mut self, slot: PassageSlot, why: ForwardEnd) {
        let Some(passage) = self.passage_mut(slot) else { return };
        if !matches!(passage.state, State::Ended(_)) {
            passage.state = State::Ended(why);
            self.recency.remove(slot.index());
            self.chore(slot);
        }
    }

    /// Forgets one whose sockets are closed.
    pub(super) fn forget(&mut self, slot: PassageSlot, now: Tick) -> Option<Past> {
        let passage = self.table.get_mut(slot.index())?.take()?;
        self.free.push(slot.0);
        self.open -= 1;
        self.recency.remove(slot.index());
        let client = passage.client;
        self.by_listener[client.listener.index()] -= 1;
        if is_flow(&passage.listener) {
            self.flows.remove(&client, slot);
        }
        if let Some(attempt) = passage.attempt {
            self.by_target[attempt.target.index()] -= 1;
        }
        Some(Past {
            client,
            listener: passage.listener,
            tried: passage.tried.into_iter().map(|t| (t.address, t.why)).collect(),
            attempt: passage.attempt,
            target: passage.address,
            octets: passage.octets,
            lasted: now.since(passage.opened),
        })
    }

    /// A listener was closed at that time, or is open again: its flows, whose clients it cannot hear
    /// any more, wait only a little for what their targets still say. Connections go on.
    pub(super) fn close_listener(&mut self, listener: ListenerSlot, at: Option<Tick>) {
        self.flows.close_listener(listener, at);
    }

    fn chore(&mut self, slot: PassageSlot) {
        let Some(passage) = self.passage_mut(slot) else { return };
        if !std::mem::replace(&mut passage.chore, true) {
            self.chores.push_back(slot);
        }
    }

    /// One that the engine has something to do for.
    pub(super) fn next_chore(&mut self) -> Option<PassageSlot> {
        while let Some(slot) = self.chores.pop_front() {
            if let Some(passage) = self.passage_mut(slot)
                && std::mem::take(&mut passage.chore)
            {
                return Some(slot);
            }
        }
        None
    }

    /// Those that the engine has something to do for; perhaps some more.
    pub(super) fn chores_count(&self) -> usize {
        self.chores.len()
    }

    /// What the engine should do with it.
    pub(super) fn wish(&self, slot: PassageSlot) -> PassageWish {
        let Some(passage) = self.passage(slot) else { return PassageWish::Close(ForwardEnd::Closing) };
        match (passage.state, passage.attempt) {
            (State::Ended(why), _) => PassageWish::Close(why),
            (State::Trying, Some(attempt)) => PassageWish::Connect(attempt),
            (State::Open, Some(attempt)) => PassageWish::Serve(attempt),
            (State::Trying | State::Open, None) => PassageWish::Close(ForwardEnd::NoTarget),
        }
    }

    /// When there is something to do, if nothing else happens.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        let sweep = (self.open > 0).then(|| self.swept + SWEEP_STEP);
        sweep.into_iter().chain(self.trying_until).min()
    }

    /// Connections whose target has not accepted in time, as `waits` has it for each; no more than
    /// `most`, the others are due next time.
    pub(super) fn overdue(
        &mut self,
        now: Tick,
        waits: impl Fn(&Arc<Listener>) -> TickDelta,
        most: usize,
        overdue: &mut Vec<PassageSlot>,
    ) {
        overdue.clear();
        if self.trying_until.is_none_or(|at| at > now) {
            return;
        }
        let (table, listed, mut until) = (&self.table, &mut self.listed, None::<Tick>);
        self.trying.retain(|slot| {
            let passage = table.get(slot.index()).and_then(Option::as_ref);
            let Some(passage) = passage.filter(|p| p.state == State::Trying) else {
                listed[slot.index()] = false;
                return false;
            };
            let end = passage.begun + waits(&passage.listener);
            if end <= now && overdue.len() < most {
                overdue.push(*slot);
            } else {
                until = Some(until.map_or(end, |at| at.min(end)));
            }
            true
        });
        self.trying_until = until;
    }

    /// Ends what was idle for too long; looks at a part of the table at a time.
    pub(super) fn sweep(&mut self, now: Tick, idle: impl Fn(&Arc<Listener>) -> TickDelta) {
        let since = now.since(self.swept);
        if since < SWEEP_STEP || self.table.is_empty() {
            return;
        }
        self.swept = now;
        self.give_up_excess(now);
        self.troubled.retain(|(_, until)| *until > now);
        let share = self.table.len() as u64 * since.0.min(SWEEP.0) / SWEEP.0;
        for _ in 0..(share as usize + 1).min(self.table.len()) {
            self.sweep_at = (self.sweep_at + 1) % self.table.len();
            let Some(passage) = &self.table[self.sweep_at] else { continue };
            if passage.state != State::Open {
                continue;
            }
            // However much its target has to say: the listener's place waits for it.
            let closed = self.flows.closed_at(passage.client.listener).filter(|_| is_flow(&passage.listener));
            let waited = now.since(passage.active);
            let span = idle(&passage.listener);
            let slot = PassageSlot(self.sweep_at as u32);
            if closed.is_some_and(|at| now.since(at) >= LAST_WORDS) {
                self.end(slot, ForwardEnd::Closing);
            } else if span.0 > 0 && waited >= span {
                self.end(slot, ForwardEnd::Idle);
            }
        }
    }

    /// Checks what must hold between calls; for tests.
    pub(super) fn check_invariants(&self) {
        let all = || self.table.iter().flatten();
        assert_eq!(all().count(), self.open as usize, "open passages are counted");
        assert_eq!(self.by_listener.iter().sum::<u32>(), self.open, "passages are counted by listener");
        let attempts = all().filter(|p| p.attempt.is_some()).count();
        assert_eq!(self.by_target.iter().sum::<u32>() as usize, attempts, "attempts are counted by target");
        let flows = all().filter(|p| is_flow(&p.listener)).count();
        assert!(self.flows.count() <= flows, "who has a flow is known by one");
        let alive = all().filter(|p| !matches!(p.state, State::Ended(_))).count();
        assert_eq!(self.recency.check_invariants(), alive, "each that is not over can make room");
        self.flows.check_invariants(|slot| self.passage(slot).map(|p| p.client));
        for (at, passage) in self.table.iter().enumerate() {
            let trying = passage.as_ref().is_some_and(|p| p.state == State::Trying);
            let slot = PassageSlot(at as u32);
            let entries = self.trying.iter().filter(|s| **s == slot).count();
            assert!(entries <= 1 && (!trying || entries == 1), "who waits to be accepted has one deadline");
        }
    }
}

fn is_flow(listener: &Listener) -> bool {
    matches!(listener.service, Service::UdpForward(_))
}
