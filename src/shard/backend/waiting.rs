//! Connections that wait for a descriptor: their queries are in their output already, and none is
//! lost because other connections, or other shards, have all descriptors for a moment.
//!
//! ```text
//!  pick ─► Waiting ─┬► a descriptor is free, or this shard's idle connection ends ─► Connecting
//!     asks the      ├► no query is left on it ─► Ended
//!     other shards  └► nothing within the patience ─► Ended: its queries move on, or are dropped
//! ```
//!
//! Meanwhile each shard ends a connection that is idle, or gives one no more queries so that it
//! becomes idle.

use crate::base::addr::{BackendSlot, Route};
use crate::base::narrow::to_u16;
use crate::base::time::{Tick, TickDelta};
use crate::shard::backend::{BackendConnections, State};
use crate::stats::close_reason::BackendCloseReason;
use crate::stats::descriptors::{Permit, Use};

/// How long a connection waits. The other shards look for idle ones in each sweep.
const PATIENCE: TickDelta = TickDelta::from_ms(500);
/// How often it asks for a descriptor.
const ASKS_EACH: TickDelta = TickDelta::from_ms(2);
/// Connections that wait at a time: each may have a query in a buffer of its own.
pub(super) const WAITING_MAX: usize = 256;
/// A connection is at least this old before it is given up with queries on it: a new one costs a
/// handshake.
pub(super) const HELD_MIN: TickDelta = TickDelta::from_ms(100);

impl BackendConnections {
    /// Returns whether one more connection may wait for a descriptor.
    pub(super) fn may_wait(&self) -> bool {
        self.waiting.len() < WAITING_MAX && self.descriptors.max(Use::Servers) > 0
    }

    /// Gives descriptors to the connections that wait for one, in their order; `live` returns the
    /// number of queries on each.
    pub(super) fn serve_waiting(&mut self, now: Tick, live: impl Fn(Route) -> u32) {
        if self.waiting.is_empty() || now.since(self.asked) < ASKS_EACH {
            return;
        }
        self.asked = now;
        while let Some(route) = self.waiting.front().copied() {
            let since = self.connection(route).filter(|c| c.state == State::Waiting).map(|c| c.opened);
            let Some(since) = since else {
                self.waiting.pop_front();
                continue;
            };
            if live(route) == 0 {
                self.end(route, BackendCloseReason::Done);
            } else if let Some(permit) = self.permit(route.backend, &live, now) {
                if let Some(connection) = self.connection_mut(route) {
                    (connection.permit, connection.state) = (Some(permit), State::Connecting);
                    // The time-out of the connection begins here.
                    connection.opened = now;
                }
                self.mark_pending(route);
            } else if now.since(since) >= PATIENCE {
                self.end(route, BackendCloseReason::Descriptors);
            } else {
                self.descriptors.await_one(Use::Servers, now);
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Returns when [`BackendConnections::serve_waiting`] has something to do.
    pub(super) fn next_ask(&self) -> Option<Tick> {
        (!self.waiting.is_empty()).then(|| self.asked + ASKS_EACH)
    }

    /// Returns a permit for the descriptor of a new connection: a free one, or that of an idle
    /// connection, which ends, of the same backend if there is one.
    pub(super) fn permit(
        &mut self,
        backend: BackendSlot,
        live: impl Fn(Route) -> u32,
        now: Tick,
    ) -> Option<Permit> {
        if let Some(permit) = self.descriptors.take(Use::Servers, 1) {
            return Some(permit);
        }
        let mut idle = self.idle_of(backend, &live);
        // Once in a batch: in a shortage each of its queries may come here.
        if idle.is_none() && self.searched != Some(now) {
            let others = (0..self.by_backend.len()).map(|at| BackendSlot(to_u16(at)));
            idle = others.filter(|other| *other != backend).find_map(|other| self.idle_of(other, &live));
            self.searched = if idle.is_none() { Some(now) } else { None };
        }
        let route = idle?;
        self.descriptors.evicted();
        let permit = self.connection_mut(route)?.permit.take();
        self.end(route, BackendCloseReason::Idle);
        permit
    }
}
