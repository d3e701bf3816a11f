//! Lines whose time is up.

use super::{Line, Lines, State, number};
use crate::addr::{BackendSlot, Route};
use crate::config::snapshot::LineOptions;
use crate::descriptors::Use;
use crate::shard::streams::LineEnd;
use crate::time::{Tick, TickDelta};

/// Lines are looked at this often.
pub(super) const SWEEP: TickDelta = TickDelta::from_ms(50);

impl Lines {
    /// Ends lines whose time is up; `live` says how many queries are on each. `options` are those
    /// of a backend, none of one that was taken out: its lines end when their last query does.
    pub(in crate::shard) fn sweep<'o>(
        &mut self,
        now: Tick,
        live: impl Fn(Route) -> u32,
        options: impl Fn(BackendSlot) -> Option<&'o LineOptions>,
    ) {
        if now.since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let farms = &self.farms;
        let is_troubled = |b: &BackendSlot| farms.get(b.index()).is_some_and(|f| f.troubled_until > now);
        self.troubled.retain(is_troubled);
        self.troubled_for_all.retain(is_troubled);
        for at in 0..self.farms.len() {
            let backend = BackendSlot(at as u16);
            let options = options(backend);
            let mut idle = 0;
            for place in 0..self.farms[at].lines.len() {
                let route = Route { backend, socket: number(place) };
                let Some(line) = &mut self.farms[at].lines[place] else { continue };
                let live = live(route);
                let why = match options {
                    Some(options) => line.overdue(options, live, &mut idle, now),
                    None => (live == 0).then_some(LineEnd::Done),
                };
                if live == 0 {
                    line.output.release();
                    // Whoever has queries for another line needs its descriptor more.
                    if line.state == State::Open && self.descriptors.excess(Use::Servers) > 0 {
                        line.permit = None;
                        self.descriptors.met(Use::Servers);
                        self.end(route, LineEnd::Idle);
                        continue;
                    }
                }
                if let Some(why) = why {
                    self.end(route, why);
                }
            }
        }
    }
}

impl Line {
    fn overdue(&mut self, options: &LineOptions, live: u32, idle: &mut u32, now: Tick) -> Option<LineEnd> {
        let over = |since: Tick, span: TickDelta| now.since(since) >= span;
        match self.state {
            State::Connecting if over(self.opened, options.connect_timeout) => Some(LineEnd::ConnectTimeout),
            State::Connecting | State::Ended(_) => None,
            State::Open => {
                if self.blocked.is_some_and(|since| over(since, options.send_timeout)) {
                    return Some(LineEnd::WriteTimeout);
                }
                if self.paused {
                    return None;
                }
                if live > 0 {
                    // Queries time out one by one; a line that brings nothing at all is no good.
                    return over(self.active, options.receive_timeout).then_some(LineEnd::Silent);
                }
                if self.era != options.era() {
                    return Some(LineEnd::Done);
                }
                *idle += 1;
                (*idle > options.kept || over(self.active, options.idle)).then_some(LineEnd::Idle)
            }
        }
    }
}
