//! Room for new connections and flows: which one ends when there are as many as may be.

use super::{Class, ForwardEnd, Passages, State, Way};
use crate::addr::{ListenerSlot, PassageSlot};
use crate::descriptors::{Permit, Use};
use crate::time::{Tick, TickDelta};

/// A connection over which octets went within this time is in use.
const BUSY: TickDelta = TickDelta::from_ms(1_000);

const fn usage(flows: bool) -> (Use, u32) {
    // A connection has a socket at each end.
    if flows { (Use::Flows, 1) } else { (Use::Relayed, 2) }
}

impl Passages {
    /// Octets have gone one way: an answer, or more of a client that was answered, says more of a
    /// connection or flow than who sends alone.
    pub(super) fn refresh(&mut self, slot: PassageSlot, way: Way) {
        let Some(class) = self.recency.class(slot.index()) else { return };
        let class = match (class, way) {
            (Class::New, Way::Back) => Class::Answered,
            (Class::Answered, Way::Out) => Class::Established,
            (Class::New, Way::Out) | (Class::Answered, Way::Back) | (Class::Established, _) => class,
        };
        let Some(listener) = self.passage(slot).map(|p| p.client.listener.index()) else { return };
        self.recency.put(slot.index(), listener, class);
    }

    /// The right to descriptors for a new flow of a listener that has as many as it may: that of
    /// another one, which ends.
    pub(super) fn replace(&mut self, listener: ListenerSlot) -> Result<Permit, ForwardEnd> {
        let victim = self.recency.victim(listener.index(), |_| false);
        let slot = PassageSlot(victim.ok_or(ForwardEnd::Connections)? as u32);
        let permit = self.give_up(slot, ForwardEnd::Crowded);
        self.evicted = Some(slot);
        permit.ok_or(ForwardEnd::Local)
    }

    /// The right to descriptors for a new connection or flow: what is left, or that of another
    /// one, which ends.
    pub(super) fn permit(&mut self, flows: bool, now: Tick) -> Result<Permit, ForwardEnd> {
        let (usage, count) = usage(flows);
        if let Some(permit) = self.descriptors.take(usage, count) {
            return Ok(permit);
        }
        let Some(slot) = self.victim(flows, now) else {
            self.descriptors.want(usage);
            return Err(ForwardEnd::Local);
        };
        let permit = self.give_up(slot, ForwardEnd::Evicted);
        self.descriptors.evicted();
        self.evicted = Some(slot);
        permit.ok_or(ForwardEnd::Local)
    }

    /// The one that makes room: of the listener that has the most.
    fn victim(&self, flows: bool, now: Tick) -> Option<PassageSlot> {
        let listeners = (0..self.by_listener.len()).filter(|at| self.for_flows[*at] == flows);
        let group = listeners.max_by_key(|at| self.recency.len(*at))?;
        let table = &self.table;
        // What a datagram of a flow was for is over when it has been passed on.
        let is_busy = |at: usize| {
            let passage = table.get(at).and_then(Option::as_ref);
            !flows && passage.is_some_and(|p| now.since(p.active) < BUSY)
        };
        self.recency.victim(group, is_busy).map(|at| PassageSlot(at as u32))
    }

    /// Ends one; gives its right to descriptors.
    fn give_up(&mut self, slot: PassageSlot, why: ForwardEnd) -> Option<Permit> {
        let permit = self.passage_mut(slot)?.permit.take();
        self.end(slot, why);
        permit
    }

    /// Ends the least used connection because the kernel has no descriptors left, or a flow where
    /// there is none; whether there was one.
    pub(in crate::shard) fn make_room(&mut self, now: Tick) -> bool {
        let Some(slot) = self.victim(true, now).or_else(|| self.victim(false, now)) else { return false };
        self.give_up(slot, ForwardEnd::Evicted);
        self.descriptors.evicted();
        self.evicted = Some(slot);
        true
    }

    /// The one that has just made room for another, and has not been closed.
    pub(in crate::shard) fn take_evicted(&mut self) -> Option<PassageSlot> {
        let slot = self.evicted.take()?;
        self.passage(slot).is_some_and(|p| matches!(p.state, State::Ended(_))).then_some(slot)
    }

    /// Ends the least used ones as long as there are more than may be, or other shards want one.
    pub(super) fn give_up_excess(&mut self, now: Tick) {
        for flows in [true, false] {
            let (usage, _) = usage(flows);
            while self.descriptors.excess(usage) > 0
                && let Some(slot) = self.victim(flows, now)
            {
                self.give_up(slot, ForwardEnd::Evicted);
                self.descriptors.met(usage);
            }
        }
    }

    /// Whether nothing but a shortage here kept a connection or flow from its targets.
    pub(in crate::shard) fn lacked_means(&self, slot: PassageSlot) -> bool {
        let tried = self.passage(slot).map(|p| &p.tried);
        tried.is_some_and(|tried| !tried.is_empty() && tried.iter().all(|t| t.why == super::TryEnd::Local))
    }
}
