//! Timeouts of backend connections.

use crate::base::addr::{BackendSlot, Route};
use crate::base::narrow::to_u16;
use crate::base::time::{Tick, TickDelta};
use crate::model::BackendConnectionOptions;
use crate::shard::backend::waiting::HELD_MIN;
use crate::shard::backend::{BackendConnection, BackendConnections, State, number};
use crate::shard::dispatch::outstanding::timers::slice;
use crate::stats::close_reason::BackendCloseReason;
use crate::stats::descriptors::Use;

/// Interval of the sweep.
pub(crate) const SWEEP: TickDelta = TickDelta::from_ms(50);
/// How long a query waits for a connection to be accepted if there is another server: two SYNs, of
/// which the kernel sends the second one after a second.
pub(super) const CONNECT_PATIENCE: TickDelta = TickDelta::from_ms(1_500);

impl BackendConnections {
    /// Ends connections that have timed out; `live` returns the number of queries on each, and
    /// `has_other` whether another server can take those of a backend.
    /// `options` returns those of a backend, none for a removed one, whose connections end with
    /// their last query.
    pub(crate) fn sweep<'o>(
        &mut self,
        now: Tick,
        live: impl Fn(Route) -> u32,
        has_other: impl Fn(BackendSlot) -> bool,
        options: impl Fn(BackendSlot) -> Option<&'o BackendConnectionOptions>,
    ) {
        self.serve_waiting(now, &live);
        if now.since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let by_backend = &self.by_backend;
        let is_troubled = |b: &BackendSlot| by_backend.get(b.index()).is_some_and(|f| f.troubled_until > now);
        self.refused.retain(is_troubled);
        self.troubled_for_all.retain(is_troubled);
        let is_awaited = self.descriptors.is_awaited(Use::Servers, now);
        let mut yields = false;
        for at in 0..self.by_backend.len() {
            let backend = BackendSlot(to_u16(at));
            let options = options(backend);
            let (mut idle, mut patience) = (0, None);
            for place in 0..self.by_backend[at].connections.len() {
                let route = Route { backend, socket: number(place) };
                let Some(slot) = self.by_backend[at].connections[place] else { continue };
                let Some(connection) = self.table.value_mut(slot) else { continue };
                let live = live(route);
                let why = match options {
                    Some(options) if connection.tries_patience(live, now) => {
                        let has_other = *patience.get_or_insert_with(|| has_other(backend));
                        let is_over = has_other.then_some(BackendCloseReason::ConnectTimeout);
                        is_over.or_else(|| connection.overdue(options, live, &mut idle, now))
                    }
                    Some(options) => connection.overdue(options, live, &mut idle, now),
                    None => (live == 0).then_some(BackendCloseReason::Done),
                };
                if live == 0 {
                    connection.output.release();
                    // Connections with queries need the descriptor more.
                    let is_wanted = connection.yields || self.descriptors.excess(Use::Servers, now) > 0;
                    if connection.state == State::Open && is_wanted {
                        connection.permit = None;
                        self.descriptors.met(Use::Servers);
                        self.end(route, BackendCloseReason::Idle);
                        continue;
                    }
                } else if is_awaited && !yields && connection.may_yield(now) {
                    // One in each sweep becomes idle for a query that waits.
                    (connection.yields, yields) = (true, true);
                }
                if let Some(why) = why {
                    self.end(route, why);
                }
            }
        }
    }
}

impl BackendConnection {
    /// Returns whether its descriptor may go to another connection once its queries are answered.
    fn may_yield(&self, now: Tick) -> bool {
        let is_old = now.since(self.opened) >= HELD_MIN;
        self.state == State::Open && is_old && self.transfer.is_none() && !self.yields
    }

    /// Returns whether its queries have waited long enough for it to be accepted.
    fn tries_patience(&self, live: u32, now: Tick) -> bool {
        self.state == State::Connecting && live > 0 && now.since(self.opened) >= CONNECT_PATIENCE
    }

    fn overdue(
        &mut self,
        options: &BackendConnectionOptions,
        live: u32,
        idle: &mut u32,
        now: Tick,
    ) -> Option<BackendCloseReason> {
        let over = |since: Tick, span: TickDelta| now.since(since) >= span;
        match self.state {
            State::Connecting if over(self.opened, options.connect_timeout) => {
                Some(BackendCloseReason::ConnectTimeout)
            }
            State::Waiting | State::Connecting | State::Ended(_) => None,
            State::Open => {
                if self.blocked.is_some_and(|since| over(since, options.send_timeout)) {
                    return Some(BackendCloseReason::WriteTimeout);
                }
                if self.paused {
                    return None;
                }
                if live > 0 {
                    // Queries time out one by one; a connection that brings nothing at all is dead.
                    // A timer may fire a little late, and must come first: what a timeout does to
                    // its query does not depend on which of the two is looked at earlier.
                    let active = self.active + slice(options.receive_timeout) + SWEEP;
                    let is_dead = over(active, options.receive_timeout);
                    return is_dead.then_some(BackendCloseReason::Silent);
                }
                if self.era != options.era() {
                    return Some(BackendCloseReason::Done);
                }
                *idle += 1;
                (*idle > options.kept || over(self.active, options.idle)).then_some(BackendCloseReason::Idle)
            }
        }
    }
}
