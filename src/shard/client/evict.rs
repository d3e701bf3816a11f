//! Makes room for new connections when descriptors are used up: an idle one ends.

use crate::base::addr::ConnectionSlot;
use crate::base::time::{Tick, TickDelta};
use crate::shard::client::{ClientConnection, ClientConnections, State};
use crate::shard::recency::Class;
use crate::stats::close_reason::ClientCloseReason;
use crate::stats::descriptors::{Permit, Use};

/// A client that sent a query within this time will probably send another soon, or its next query
/// is in flight.
const BUSY: TickDelta = TickDelta::from_ms(1_000);

/// A client's first query is read within this time of the accept, unless the shard is overloaded.
const UNREAD: TickDelta = TickDelta::from_ms(20);

/// How long a shard without an idle connection waits for one of another shard to end, before it
/// refuses new connections, and how often it asks for one.
const PATIENCE: TickDelta = TickDelta::from_ms(500);
const ASKS_EACH: TickDelta = TickDelta::from_ms(10);

impl ClientConnections {
    /// Returns whether a new connection needs the descriptor of another one.
    pub(crate) fn is_full(&self) -> bool {
        self.descriptors.used(Use::Clients) >= self.descriptors.max(Use::Clients)
    }

    /// Returns until when a connection that waits cannot be accepted; none if it can: not while the one that
    /// would make room was just accepted itself, and its query is not read, and not while another
    /// shard is asked for room. The kernel keeps the new one meanwhile.
    pub(crate) fn accepts_from(&mut self, now: Tick) -> Option<Tick> {
        if !self.is_full() {
            self.short_since = None;
            return None;
        }
        if let Some(victim) = self.victim(now) {
            self.short_since = None;
            return self.unread_until(victim).filter(|at| *at > now);
        }
        let since = *self.short_since.get_or_insert(now);
        if self.descriptors.max(Use::Clients) == 0 || now.since(since) >= PATIENCE {
            return None;
        }
        self.descriptors.await_one(Use::Clients, now);
        Some(now + ASKS_EACH)
    }

    /// Returns the index of the connection that must make room.
    fn victim(&self, now: Tick) -> Option<usize> {
        self.idle.victim(0, |at| self.table.at(at).is_some_and(|(_, c)| now.since(c.active) < BUSY))
    }

    /// Returns when the first query of a connection will have been read; none if it has sent one.
    fn unread_until(&self, at: usize) -> Option<Tick> {
        let (_, connection) = self.table.at(at)?;
        (self.idle.class(at) == Some(Class::New)).then_some(connection.active + UNREAD)
    }

    /// Returns a permit for the descriptor of a new connection: a free one, or that of another
    /// connection, which ends.
    pub(crate) fn permit(&mut self, now: Tick) -> Option<Permit> {
        if let Some(permit) = self.descriptors.take(Use::Clients, 1) {
            return Some(permit);
        }
        let Some((slot, permit)) = self.evict(now) else {
            self.descriptors.want(Use::Clients, now);
            return None;
        };
        self.descriptors.evicted();
        self.evicted = Some(slot);
        permit
    }

    /// Records that a connection is idle and can make room.
    pub(crate) fn note_idle(&mut self, slot: ConnectionSlot) {
        let rests = self.connection(slot).is_some_and(ClientConnection::is_idle);
        if rests && self.idle.class(slot.index()).is_none() {
            self.idle.put(slot.index(), 0, Class::Established);
        }
    }

    /// Ends the connection that must make room; returns its permit.
    fn evict(&mut self, now: Tick) -> Option<(ConnectionSlot, Option<Permit>)> {
        let (slot, _) = self.table.at(self.victim(now)?)?;
        let permit = self.connection_mut(slot)?.permit.take();
        self.end(slot, ClientCloseReason::Evicted);
        Some((slot, permit))
    }

    /// Ends an idle connection because the kernel has no descriptors left; returns whether there
    /// was one.
    pub(crate) fn make_room(&mut self, now: Tick) -> bool {
        let Some((slot, _)) = self.evict(now) else { return false };
        self.descriptors.evicted();
        self.evicted = Some(slot);
        true
    }

    /// Returns the connection that has just made room for another, and is not closed yet.
    pub(crate) fn take_evicted(&mut self) -> Option<ConnectionSlot> {
        let slot = self.evicted.take()?;
        self.connection(slot).is_some_and(|s| matches!(s.state, State::Ended(_))).then_some(slot)
    }

    /// Ends idle connections while there are more than allowed, or other shards need one; not those
    /// whose first query is not read.
    pub(crate) fn give_up_excess(&mut self, now: Tick) {
        if !self.is_full() {
            self.short_since = None;
        }
        let is_unread = |this: &Self| {
            this.victim(now).and_then(|at| this.unread_until(at)).is_some_and(|until| until > now)
        };
        while self.descriptors.excess(Use::Clients, now) > 0 && !is_unread(self) && self.evict(now).is_some()
        {
            self.descriptors.met(Use::Clients);
        }
    }
}

impl ClientConnection {
    /// Returns whether its client waits for nothing: it can make room for another.
    pub(crate) fn is_idle(&self) -> bool {
        self.state == State::Open && self.in_flight == 0 && self.output.is_empty() && !self.frames.has_more()
    }
}
