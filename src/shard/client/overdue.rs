//! Timeouts of client connections: idle, in total, and for taking their answers.
//!
//! The table is swept in steps, so that a connection ends up to half a second late. In overload all
//! timeouts except the total duration are a tenth of the configured ones.

use crate::base::addr::ConnectionSlot;
use crate::base::time::{Tick, TickDelta};
use crate::shard::client::{ClientConnection, ClientConnections, State};
use crate::stats::close_reason::ClientCloseReason;
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::stats::descriptors::Use;

/// In overload, timeouts are divided by this.
const OVERLOAD_HASTE: u64 = 10;

/// A connection that has had no answer to a query is closed after this time, when it is idle: queries
/// may be on their way.
const UNANSWERED_SPAN: TickDelta = TickDelta::from_ms(200);

/// What happens to a connection that has timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Its queries are still answered.
    Finish(ClientCloseReason),
    /// It ends at once.
    End(ClientCloseReason),
}

impl ClientConnections {
    /// Returns whether so many connections are open that idle ones must end sooner.
    pub(crate) fn is_overloaded(&self, limits: &ClientConnectionLimits) -> bool {
        let percent = u64::from(limits.overload_percent);
        let most = match limits.connections {
            0 => self.descriptors.max(Use::Clients),
            connections => connections.min(self.descriptors.max(Use::Clients)),
        };
        percent > 0 && u64::from(self.connection_limits.dns()) * 100 >= u64::from(most) * percent
    }

    /// Returns when [`ClientConnections::sweep`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.table.next_deadline()
    }

    /// Returns whether the connection's last answers may still be in flight to its client: it was
    /// answered recently, and has ended because it must bring no more queries.
    pub(crate) fn was_just_answered(&self, slot: ConnectionSlot, span: TickDelta, now: Tick) -> bool {
        self.connection(slot).is_some_and(|s| match s.state {
            State::Ended(why) => why.follows_answers() && s.queries > 0 && now.since(s.active) < span,
            State::Open | State::Finishing(_) | State::Gone => false,
        })
    }

    /// Ends connections that have timed out; sweeps a part of the table.
    pub(crate) fn sweep(&mut self, limits: &ClientConnectionLimits, now: Tick) {
        let count = self.table.begin_sweep(now);
        if count == 0 {
            return;
        }
        let overload = self.is_overloaded(limits);
        for _ in 0..count {
            let Some(slot) = self.table.next_in_sweep() else { continue };
            let Some(connection) = self.connection_mut(slot) else { continue };
            connection.free_buffers();
            let due = connection.overdue(limits, overload, now);
            match due {
                None => {}
                Some(Due::Finish(why)) => self.finish(slot, why, now),
                Some(Due::End(why)) => self.end(slot, why),
            }
        }
        self.give_up_excess(now);
        self.connection_limits.tidy(limits, now);
    }
}

impl ClientConnection {
    fn overdue(&self, limits: &ClientConnectionLimits, overload: bool, now: Tick) -> Option<Due> {
        let haste = if overload { OVERLOAD_HASTE } else { 1 };
        let over = |since: Tick, span: TickDelta| span.0 > 0 && now.since(since) >= span;
        let hastily = |since: Tick, span: TickDelta| over(since, TickDelta(span.0 / haste));
        if matches!(self.state, State::Ended(_) | State::Gone) {
            return None;
        }
        // First: a client cannot stay longer by taking a little of its output now and then.
        if over(self.opened, limits.duration) {
            let last = TickDelta(limits.duration.0.saturating_add(limits.send_timeout.0));
            if self.blocked.is_some() && over(self.opened, last) {
                return Some(Due::End(ClientCloseReason::Duration));
            }
            if self.state == State::Open {
                return Some(Due::Finish(ClientCloseReason::Duration));
            }
        }
        if self.blocked.is_some_and(|since| hastily(since, limits.send_timeout)) {
            return Some(Due::End(ClientCloseReason::WriteTimeout));
        }
        if self.state != State::Open {
            return None;
        }
        if self.last_query_by.is_some_and(|at| now >= at) {
            return Some(Due::Finish(ClientCloseReason::Closing));
        }
        if self.handshaking {
            let due = hastily(self.opened, limits.receive_timeout);
            return due.then_some(Due::End(ClientCloseReason::HandshakeTimeout));
        }
        if let Some(since) = self.partial_since.filter(|_| self.may_continue()) {
            return hastily(since, limits.receive_timeout)
                .then_some(Due::End(ClientCloseReason::ReadTimeout));
        }
        if self.in_flight > 0 || self.blocked.is_some() {
            return None;
        }
        if self.unanswered_since.is_some_and(|since| now.since(since) >= UNANSWERED_SPAN) {
            return Some(Due::Finish(ClientCloseReason::Unanswered));
        }
        let why = if overload { ClientCloseReason::Overload } else { ClientCloseReason::Idle };
        hastily(self.active, limits.receive_timeout).then_some(Due::End(why))
    }
}
