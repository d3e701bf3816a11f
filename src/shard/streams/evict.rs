//! Room for new connections when descriptors are used up: an idle one ends.

use super::{State, Stream, StreamEnd, Streams};
use crate::addr::StreamSlot;
use crate::descriptors::{Permit, Use};
use crate::shard::recency::Class;
use crate::time::{Tick, TickDelta};

/// A client that asked within this time is about to ask again, or its next query is on its way.
const BUSY: TickDelta = TickDelta::from_ms(1_000);

/// A client's first query is read within this time of the accept, unless the shard is overloaded.
const UNREAD: TickDelta = TickDelta::from_ms(20);

impl Streams {
    /// Whether a connection can be accepted now: not while the one that would make room has just been
    /// accepted itself, and its query is not read. The kernel keeps the new one meanwhile.
    pub(in crate::shard) fn may_accept(&self, now: Tick) -> bool {
        if self.descriptors.used(Use::Clients) < self.descriptors.max(Use::Clients) {
            return true;
        }
        let victim = self.idle.victim(0, |_| false).filter(|at| self.idle.class(*at) == Some(Class::New));
        let victim = victim.and_then(|at| self.stream(StreamSlot(at as u32)));
        victim.is_none_or(|stream| now.since(stream.active) >= UNREAD)
    }

    /// The right to a descriptor for a new connection: one that is left, or that of another
    /// connection, which ends.
    pub(super) fn permit(&mut self, now: Tick) -> Option<Permit> {
        if let Some(permit) = self.descriptors.take(Use::Clients, 1) {
            return Some(permit);
        }
        let Some((slot, permit)) = self.evict(now) else {
            self.descriptors.want(Use::Clients);
            return None;
        };
        self.descriptors.evicted();
        self.evicted = Some(slot);
        permit
    }

    /// A connection that nothing is owed to any more can make room.
    pub(super) fn note_idle(&mut self, slot: StreamSlot) {
        let rests = self.stream(slot).is_some_and(Stream::is_idle);
        if rests && self.idle.class(slot.index()).is_none() {
            self.idle.put(slot.index(), 0, Class::Established);
        }
    }

    /// Ends the connection that is to make room; gives its right to a descriptor.
    fn evict(&mut self, now: Tick) -> Option<(StreamSlot, Option<Permit>)> {
        let table = &self.table;
        let is_busy =
            |at: usize| table.get(at).and_then(Option::as_ref).is_some_and(|s| now.since(s.active) < BUSY);
        let slot = StreamSlot(self.idle.victim(0, is_busy)? as u32);
        let permit = self.stream_mut(slot)?.permit.take();
        self.end(slot, StreamEnd::Evicted);
        Some((slot, permit))
    }

    /// Ends an idle connection because the kernel has no descriptors left; whether there was one.
    pub(in crate::shard) fn make_room(&mut self, now: Tick) -> bool {
        let Some((slot, _)) = self.evict(now) else { return false };
        self.descriptors.evicted();
        self.evicted = Some(slot);
        true
    }

    /// The connection that has just made room for another, and has not been closed.
    pub(in crate::shard) fn take_evicted(&mut self) -> Option<StreamSlot> {
        let slot = self.evicted.take()?;
        self.stream(slot).is_some_and(|s| matches!(s.state, State::Ended(_))).then_some(slot)
    }

    /// Ends idle connections as long as there are more than may be, or other shards want one.
    pub(super) fn give_up_excess(&mut self, now: Tick) {
        while self.descriptors.excess(Use::Clients) > 0 && self.evict(now).is_some() {
            self.descriptors.met(Use::Clients);
        }
    }
}

impl Stream {
    /// Whether nothing is owed to its client: it can make room for another.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Open && self.in_flight == 0 && self.output.is_empty() && !self.frames.has_more()
    }
}
