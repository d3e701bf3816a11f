//! By which line a query goes: the one of the last query until it is full, then the fullest that has
//! room, or a new one.

use super::{Farm, Line, Lines, State, number};
use crate::addr::{BackendSlot, Route};
use crate::config::snapshot::{LINES_MAX, LineOptions};
use crate::descriptors::{Permit, Use};
use crate::shard::streams::LineEnd;
use crate::time::Tick;
use crate::wire::frame::{Frames, Outbound};
use crate::wire::transfer::Transfer;

/// For whom a line is: nobody in particular.
pub(in crate::shard) const ANYBODY: u64 = 0;
/// A server that closes connections early has no more lines than so many: beyond, queries stand
/// behind others.
const HASTY_LINES: u32 = 512;
/// Octets of a line's output above which it gets no more queries.
const OUTPUT_FULL: usize = 256 * 1024;

/// What a query needs of its line.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Need<'o> {
    pub(in crate::shard) options: &'o LineOptions,
    pub(in crate::shard) transfer: Option<Transfer>,
    /// For whom the line is to be: [`ANYBODY`], or what tells one client from others.
    pub(in crate::shard) key: u64,
    /// The address that it is to come from, where that is the client's own.
    pub(in crate::shard) source: Option<[u8; 16]>,
}

impl Lines {
    /// A line for a query; `live` says how many queries are on each. None when there are as many
    /// as may be, and all are full.
    pub(in crate::shard) fn pick(
        &mut self,
        backend: BackendSlot,
        need: Need<'_>,
        live: impl Fn(Route) -> u32,
        now: Tick,
    ) -> Option<Route> {
        if self.farms.len() <= backend.index() {
            self.farms.resize_with(backend.index() + 1, Farm::default);
        }
        let farm = &self.farms[backend.index()];
        let route = |at: usize| Route { backend, socket: number(at) };
        let live = |at: usize| live(route(at));
        let max = match need.options.connections {
            0 => LINES_MAX,
            max => max.min(LINES_MAX),
        };
        if need.transfer.is_none()
            && let Some(at) = farm.last_with_room(&need, live).or_else(|| farm.with_room(&need, max, live))
        {
            self.farms[backend.index()].last = at;
            return Some(route(at));
        }
        if farm.open >= max {
            // Those that are about to be closed, or of another era, do not count; idle ones that
            // are of no use to this query make room.
            let leaving = farm.lines.iter().flatten().filter(|l| l.is_leaving(&need)).count() as u32;
            if farm.open >= 2 * LINES_MAX {
                return None;
            }
            if farm.open - leaving >= max {
                let idle = farm.lines.iter().enumerate().find_map(|(at, line)| {
                    let line = line.as_ref().filter(|l| l.state == State::Open && l.transfer.is_none())?;
                    // Those that could have taken the query are full, but a transfer takes none.
                    let is_spare = line.key != need.key || need.transfer.is_some();
                    (is_spare && !line.is_leaving(&need) && live(at) == 0).then_some(at)
                });
                self.end(route(idle?), LineEnd::Idle);
            }
        }
        let permit = self.permit(backend, live)?;
        let farm = &mut self.farms[backend.index()];
        let at = farm.lines.iter().position(Option::is_none).unwrap_or_else(|| {
            farm.lines.push(None);
            farm.lines.len() - 1
        });
        farm.lines[at] = Some(Line::new(&need, permit, now));
        farm.last = at;
        farm.open += 1;
        self.open += 1;
        Some(route(at))
    }

    /// The right to a descriptor for a new line: one that is left, or that of an idle line of the
    /// same backend, which ends.
    fn permit(&mut self, backend: BackendSlot, live: impl Fn(usize) -> u32) -> Option<Permit> {
        if let Some(permit) = self.descriptors.take(Use::Servers, 1) {
            return Some(permit);
        }
        let lines = &self.farms[backend.index()].lines;
        let idle = lines.iter().enumerate().find_map(|(at, line)| {
            let line = line.as_ref().filter(|l| l.state == State::Open && l.permit.is_some())?;
            (line.transfer.is_none() && live(at) == 0).then_some(at)
        });
        let Some(at) = idle else {
            self.descriptors.want(Use::Servers);
            return None;
        };
        self.descriptors.evicted();
        let permit = self.farms[backend.index()].lines[at].as_mut()?.permit.take();
        self.end(Route { backend, socket: number(at) }, LineEnd::Idle);
        permit
    }
}

impl Farm {
    /// The line that the last query went by, while it has room: to look for the fullest takes longer the
    /// more lines there are.
    fn last_with_room(&self, need: &Need<'_>, live: impl Fn(usize) -> u32) -> Option<usize> {
        let line = self.lines.get(self.last)?.as_ref()?;
        let fits = self.depth == 0 && line.takes(need) && line.output.len() <= OUTPUT_FULL;
        (fits && live(self.last) < u32::from(need.options.in_flight.max(1))).then_some(self.last)
    }

    /// The fullest line that has room for a query: the others become idle, and go.
    fn with_room(&self, need: &Need<'_>, max: u32, live: impl Fn(usize) -> u32) -> Option<usize> {
        let in_flight = u32::from(need.options.in_flight.max(1));
        let depth = if self.depth == 0 { in_flight } else { self.depth.min(in_flight) };
        let usable = self.lines.iter().enumerate().filter_map(|(at, line)| {
            let line = line.as_ref().filter(|line| line.takes(need))?;
            let fits = line.output.len() <= OUTPUT_FULL;
            Some((live(at), at)).filter(|(live, _)| fits && *live < in_flight)
        });
        let within = usable.clone().filter(|(live, _)| *live < depth);
        let fullest = within.max_by_key(|(live, at)| (*live, usize::MAX - at));
        // All are as deep as they should be, and there may be no more: the emptiest.
        let is_full = self.open >= max.min(HASTY_LINES);
        fullest.or_else(|| usable.min().filter(|_| is_full)).map(|(_, at)| at)
    }
}

impl Line {
    fn new(need: &Need<'_>, permit: Permit, now: Tick) -> Self {
        Self {
            state: State::Connecting,
            chore: false,
            opened: now,
            active: now,
            blocked: None,
            answered: 0,
            heard_at: now,
            missed: 0,
            hung_up: false,
            is_new: true,
            paused: false,
            resuming: false,
            frames: Frames::new(),
            output: Outbound::new(),
            transfer: need.transfer,
            begun: false,
            era: need.options.era(),
            key: need.key,
            source: need.source,
            permit: Some(permit),
        }
    }

    /// Whether it may take queries of this kind.
    fn takes(&self, need: &Need<'_>) -> bool {
        self.transfer.is_none() && self.key == need.key && !self.is_leaving(need)
    }

    /// Whether it ends without another query.
    fn is_leaving(&self, need: &Need<'_>) -> bool {
        self.hung_up || matches!(self.state, State::Ended(_)) || self.era != need.options.era()
    }
}
