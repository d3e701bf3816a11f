//! Ends what takes too long, and what waits for a target that went down.

use std::sync::Arc;

use crate::base::addr::{BackendSlot, SessionSlot};
use crate::base::time::{Tick, TickDelta};
use crate::model::Listener;
use crate::shard::relay::{Relay, State, is_flow};
use crate::stats::close_reason::{ConnectFailure, RelayCloseReason};

/// Time that a flow has for last responses after its listener is closed.
const LAST_REPLIES: TickDelta = TickDelta::from_ms(1_000);

/// What ends the sessions of a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SweepRules {
    /// Longest time without traffic; zero is no limit.
    pub(crate) idle: TickDelta,
    /// Connections end with their target.
    pub(crate) closes_when_down: bool,
}

impl Relay {
    /// Returns when there is something to do, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.table.next_deadline().into_iter().chain(self.trying_until).min()
    }

    /// Something is due at this time.
    pub(crate) fn wake_at(&mut self, at: Tick) {
        self.trying_until = Some(self.trying_until.map_or(at, |until| until.min(at)));
    }

    /// Collects connections whose target has not accepted within `waits`, or has accepted and sent
    /// nothing in its time; no more than `most`, the others are due next time.
    pub(crate) fn overdue(
        &mut self,
        now: Tick,
        waits: impl Fn(&Arc<Listener>) -> TickDelta,
        most: usize,
        overdue: &mut Vec<(SessionSlot, ConnectFailure)>,
    ) {
        if self.trying_until.is_none_or(|at| at > now) {
            return;
        }
        let (table, listed, mut until) = (&self.table, &mut self.listed, None::<Tick>);
        self.trying.retain(|index| {
            let index = *index as usize;
            let waiting = table.at(index).and_then(|(slot, session)| match session.state {
                State::Trying => {
                    Some((slot, session.started + waits(&session.listener), ConnectFailure::Timeout))
                }
                State::Awaiting(until) => Some((slot, until, ConnectFailure::Silent)),
                State::Open | State::Ended(_) => None,
            });
            let Some((slot, end, why)) = waiting else {
                listed[index] = false;
                return false;
            };
            if end <= now && overdue.len() < most {
                overdue.push((slot, why));
            } else {
                until = Some(until.map_or(end, |at| at.min(end)));
            }
            true
        });
        self.trying_until = until;
    }

    /// Looks at a part of the table: ends sessions that were idle for too long, and connections
    /// whose target is down since they chose it, where `rules` says so. Collects connections that
    /// still wait for such a target.
    pub(crate) fn sweep(
        &mut self,
        now: Tick,
        rules: impl Fn(&Arc<Listener>) -> SweepRules,
        is_down: impl Fn(BackendSlot) -> bool,
        waiting: &mut Vec<SessionSlot>,
    ) {
        let count = self.table.begin_sweep(now);
        if count == 0 {
            return;
        }
        self.give_up_excess(now);
        self.silent.retain(|(_, until)| *until > now);
        for _ in 0..count {
            let Some(slot) = self.table.next_in_sweep() else { continue };
            let Some(session) = self.table.value_mut(slot) else { continue };
            if matches!(session.state, State::Ended(_)) {
                continue;
            }
            let is_flow = is_flow(&session.listener);
            let rules = rules(&session.listener);
            // A flow moves with its next datagram. A connection that chose a target although it was
            // down, because no other was left, stays.
            let mut is_lost = false;
            if let Some(attempt) = session.attempt.filter(|_| !is_flow) {
                let is_down = is_down(attempt.target);
                is_lost = is_down && session.was_up && rules.closes_when_down;
                session.was_up |= !is_down;
            }
            if session.state != State::Open {
                if is_lost {
                    waiting.push(slot);
                }
                continue;
            }
            // However much its target still sends: the listener's slot is held until then.
            let closed = self.flows.closed_at(session.client.listener).filter(|_| is_flow);
            let waited = now.since(session.active);
            if closed.is_some_and(|at| now.since(at) >= LAST_REPLIES) {
                self.end(slot, RelayCloseReason::Closing);
            } else if is_lost {
                self.end(slot, RelayCloseReason::TargetDown);
            } else if rules.idle.0 > 0 && waited >= rules.idle {
                self.end(slot, RelayCloseReason::Idle);
            }
        }
    }
}
