//! Makes room for new connections and flows: selects which one ends when the limit is reached.

use crate::base::addr::{ListenerSlot, SessionSlot};
use crate::base::time::{Tick, TickDelta};
use crate::shard::relay::{Class, Direction, Relay, RelayCloseReason, State};
use crate::stats::descriptors::{Permit, Use};

/// A connection with traffic within this time is in use.
const BUSY: TickDelta = TickDelta::from_ms(1_000);

const fn usage(flows: bool) -> (Use, u32) {
    // A connection has a socket at each end.
    if flows { (Use::Flows, 1) } else { (Use::Relayed, 2) }
}

impl Relay {
    /// Traffic was relayed in one direction: a response, or more from a client that was answered,
    /// proves more than a client that sends alone.
    pub(crate) fn refresh(&mut self, slot: SessionSlot, direction: Direction) {
        let Some(class) = self.recency.class(slot.index()) else { return };
        let class = match (class, direction) {
            (Class::New, Direction::Back) => Class::Answered,
            (Class::Answered, Direction::Out) => Class::Established,
            (Class::New, Direction::Out) | (Class::Answered, Direction::Back) | (Class::Established, _) => {
                class
            }
        };
        let Some(listener) = self.session(slot).map(|p| p.client.listener.index()) else { return };
        self.recency.put(slot.index(), listener, class);
    }

    /// Returns a permit for the descriptors of a new flow of a listener at its limit: that of
    /// another flow, which ends.
    pub(crate) fn replace(&mut self, listener: ListenerSlot) -> Result<Permit, RelayCloseReason> {
        let victim = self.recency.victim(listener.index(), |_| false).and_then(|at| self.table.at(at));
        let (slot, _) = victim.ok_or(RelayCloseReason::Connections)?;
        let permit = self.give_up(slot, RelayCloseReason::EvictedAtLimit);
        self.evicted = Some(slot);
        permit.ok_or(RelayCloseReason::Local)
    }

    /// Returns a permit for the descriptors of a new connection or flow: a free one, or that of
    /// another one, which ends.
    pub(crate) fn permit(&mut self, flows: bool, now: Tick) -> Result<Permit, RelayCloseReason> {
        let (usage, count) = usage(flows);
        if let Some(permit) = self.descriptors.take(usage, count) {
            return Ok(permit);
        }
        let Some(slot) = self.victim(flows, now) else {
            self.descriptors.want(usage, now);
            return Err(RelayCloseReason::Local);
        };
        let permit = self.give_up(slot, RelayCloseReason::Evicted);
        self.descriptors.evicted();
        self.evicted = Some(slot);
        permit.ok_or(RelayCloseReason::Local)
    }

    /// Returns the one that makes room: of the listener that has the most.
    fn victim(&self, flows: bool, now: Tick) -> Option<SessionSlot> {
        let listeners = (0..self.by_listener.len()).filter(|at| self.for_flows[*at] == flows);
        let group = listeners.max_by_key(|at| self.recency.len(*at))?;
        let table = &self.table;
        // A flow is done with a datagram when it was relayed.
        let is_busy =
            |at: usize| !flows && table.at(at).is_some_and(|(_, session)| now.since(session.active) < BUSY);
        let victim = self.recency.victim(group, is_busy)?;
        table.at(victim).map(|(slot, _)| slot)
    }

    /// Ends one; returns its permit.
    fn give_up(&mut self, slot: SessionSlot, why: RelayCloseReason) -> Option<Permit> {
        let permit = self.session_mut(slot)?.permit.take();
        self.end(slot, why);
        permit
    }

    /// Ends the least recently used connection because the kernel has no descriptors left, or a
    /// flow when there is none; returns whether there was one.
    pub(crate) fn make_room(&mut self, now: Tick) -> bool {
        let Some(slot) = self.victim(true, now).or_else(|| self.victim(false, now)) else { return false };
        self.give_up(slot, RelayCloseReason::Evicted);
        self.descriptors.evicted();
        self.evicted = Some(slot);
        true
    }

    /// Returns the one that has just made room for another, and is not closed yet.
    pub(crate) fn take_evicted(&mut self) -> Option<SessionSlot> {
        let slot = self.evicted.take()?;
        self.session(slot).is_some_and(|p| matches!(p.state, State::Ended(_))).then_some(slot)
    }

    /// Ends the least recently used ones while there are more than allowed, or other shards need
    /// one.
    pub(crate) fn give_up_excess(&mut self, now: Tick) {
        for flows in [true, false] {
            let (usage, _) = usage(flows);
            while self.descriptors.excess(usage, now) > 0
                && let Some(slot) = self.victim(flows, now)
            {
                self.give_up(slot, RelayCloseReason::Evicted);
                self.descriptors.met(usage);
            }
        }
    }

    /// Returns whether only a local shortage kept a connection or flow from its targets.
    pub(crate) fn is_short_of_resources(&self, slot: SessionSlot) -> bool {
        let tried = self.session(slot).map(|p| &p.tried);
        tried.is_some_and(|tried| {
            !tried.is_empty() && tried.iter().all(|t| t.why == crate::shard::relay::ConnectFailure::Local)
        })
    }
}
