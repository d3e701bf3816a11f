//! Selects the connection of a query: that of the last query until it is full, then the fullest one
//! with capacity, or a new one.

use crate::base::addr::{BackendSlot, Route};
use crate::base::narrow::to_u32;
use crate::base::time::Tick;
use crate::model::{BACKEND_CONNECTIONS_MAX, BackendConnectionOptions};
use crate::shard::backend::{BackendConnection, BackendConnections, PerBackend, State, TableSlot, number};
use crate::shard::conn_table::ConnTable;
use crate::stats::close_reason::BackendCloseReason;
use crate::stats::descriptors::{Permit, Use};
use crate::stats::drop_reason::DropReason;
use crate::wire::frame::{Frames, Outbound};
use crate::wire::transfer::Transfer;

/// The connection key of connections that may serve any client.
pub(crate) const ANY_CLIENT: u64 = 0;
/// Connections to a server that closes them early, at most: above it, queries wait behind others.
const EARLY_CLOSER_CONNECTIONS_MAX: u32 = 512;
/// Bytes of a connection's output above which it gets no more queries.
const OUTPUT_FULL: usize = 256 * 1024;

/// What a query requires of its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'o> {
    pub(crate) options: &'o BackendConnectionOptions,
    pub(crate) transfer: Option<Transfer>,
    /// The client that the connection must serve: [`ANY_CLIENT`], or a value that identifies one
    /// client.
    pub(crate) key: u64,
    /// The source address of the connection, if that is the client's own.
    pub(crate) source: Option<[u8; 16]>,
    /// The query may wait until a descriptor is free.
    pub(crate) waits: bool,
}

impl BackendConnections {
    /// Selects a connection for a query; `live` returns the number of queries on each.
    ///
    /// # Errors
    /// [`DropReason::OutstandingFull`] when the limit is reached and all are full,
    /// [`DropReason::Descriptors`] when all are full and there is no descriptor for a new one.
    pub(crate) fn pick(
        &mut self,
        backend: BackendSlot,
        need: Need<'_>,
        live: impl Fn(Route) -> u32,
        now: Tick,
    ) -> Result<Route, DropReason> {
        if self.by_backend.len() <= backend.index() {
            self.by_backend.resize_with(backend.index() + 1, PerBackend::default);
        }
        let backend_state = &self.by_backend[backend.index()];
        let route = |at: usize| Route { backend, socket: number(at) };
        let live_on = live;
        let live = |at: usize| live_on(route(at));
        let max = match need.options.connections {
            0 => BACKEND_CONNECTIONS_MAX,
            max => max.min(BACKEND_CONNECTIONS_MAX),
        };
        if need.transfer.is_none()
            && let Some(at) = backend_state
                .last_with_room(&self.table, &need, live)
                .or_else(|| backend_state.with_space(&self.table, &need, max, live))
        {
            self.by_backend[backend.index()].last = at;
            return Ok(route(at));
        }
        if backend_state.open >= max {
            // Those that are about to be closed, or of another era, do not count; idle ones that
            // this query cannot use make room.
            let ending =
                to_u32(backend_state.iter(&self.table).filter(|(_, c)| c.takes_no_more(&need)).count());
            if backend_state.open >= 2 * BACKEND_CONNECTIONS_MAX {
                return Err(DropReason::OutstandingFull);
            }
            if backend_state.open - ending >= max {
                let idle = backend_state.iter(&self.table).find_map(|(at, connection)| {
                    if connection.state != State::Open || connection.transfer.is_some() {
                        return None;
                    }
                    // Those that could have taken the query are full, but a transfer takes none.
                    let is_of_no_use = connection.key != need.key || need.transfer.is_some();
                    (is_of_no_use && !connection.takes_no_more(&need) && live(at) == 0).then_some(at)
                });
                self.end(route(idle.ok_or(DropReason::OutstandingFull)?), BackendCloseReason::Idle);
            }
        }
        let permit = self.permit(backend, &live_on, now);
        if permit.is_none() {
            // Behind more queries than a connection should have is better than not at all.
            let emptiest = need
                .transfer
                .is_none()
                .then(|| self.by_backend[backend.index()].with_space(&self.table, &need, 0, live))
                .flatten();
            if emptiest.is_some() || !need.waits || !self.may_wait() {
                self.descriptors.want(Use::Servers, now);
                return emptiest.map(route).ok_or(DropReason::Descriptors);
            }
        }
        let backend_state = &mut self.by_backend[backend.index()];
        let at = backend_state.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            backend_state.connections.push(None);
            backend_state.connections.len() - 1
        });
        let route = route(at);
        let slot = self.table.insert(|_| BackendConnection::new(route, &need, permit, now));
        backend_state.connections[at] = Some(slot);
        backend_state.last = at;
        backend_state.open += 1;
        if self.connection(route).is_some_and(|c| c.state == State::Waiting) {
            self.waiting.push_back(route);
        }
        Ok(route)
    }

    /// Returns an open connection to a backend that has no query.
    pub(super) fn idle_of(&self, backend: BackendSlot, live: impl Fn(Route) -> u32) -> Option<Route> {
        self.by_backend.get(backend.index())?.iter(&self.table).find_map(|(at, connection)| {
            let route = Route { backend, socket: number(at) };
            let is_open = connection.state == State::Open && connection.permit.is_some();
            (is_open && connection.transfer.is_none() && live(route) == 0).then_some(route)
        })
    }
}

impl PerBackend {
    /// Returns its connections, by the number in their routes.
    fn iter<'t>(
        &'t self,
        table: &'t ConnTable<TableSlot, BackendConnection>,
    ) -> impl Iterator<Item = (usize, &'t BackendConnection)> + Clone {
        let slots = self.connections.iter().enumerate();
        slots.filter_map(move |(at, slot)| Some((at, table.value((*slot)?)?)))
    }

    /// Returns the connection of the last query while it has capacity: searching the fullest takes
    /// longer the more connections there are.
    fn last_with_room(
        &self,
        table: &ConnTable<TableSlot, BackendConnection>,
        need: &Need<'_>,
        live: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let connection = table.value((*self.connections.get(self.last)?)?)?;
        let fits = self.depth == 0 && connection.takes(need) && connection.output.len() <= OUTPUT_FULL;
        (fits && live(self.last) < u32::from(need.options.in_flight.max(1))).then_some(self.last)
    }

    /// Returns the fullest connection with capacity for a query: the others become idle and are
    /// closed.
    fn with_space(
        &self,
        table: &ConnTable<TableSlot, BackendConnection>,
        need: &Need<'_>,
        max: u32,
        live: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let in_flight = u32::from(need.options.in_flight.max(1));
        let depth = if self.depth == 0 { in_flight } else { self.depth.min(in_flight) };
        let usable = self.iter(table).filter(|(_, c)| c.takes(need)).filter_map(|(at, connection)| {
            let fits = connection.output.len() <= OUTPUT_FULL;
            Some((live(at), at)).filter(|(live, _)| fits && *live < in_flight)
        });
        let within = usable.clone().filter(|(live, _)| *live < depth);
        let fullest = within.max_by_key(|(live, at)| (*live, usize::MAX - at));
        // All are as full as they should be, and no more may be opened: the emptiest.
        let is_full = self.open >= max.min(EARLY_CLOSER_CONNECTIONS_MAX);
        fullest.or_else(|| usable.min().filter(|_| is_full)).map(|(_, at)| at)
    }
}

impl BackendConnection {
    fn new(route: Route, need: &Need<'_>, permit: Option<Permit>, now: Tick) -> Self {
        Self {
            route,
            state: if permit.is_some() { State::Connecting } else { State::Waiting },
            opened: now,
            established: None,
            queries: 0,
            active: now,
            blocked: None,
            responses: 0,
            last_message: now,
            missed: 0,
            is_closed_by_server: false,
            is_new: true,
            paused: false,
            frames: Frames::new(),
            output: Outbound::new(),
            transfer: need.transfer,
            transfer_ids: None,
            transfer_started: false,
            era: need.options.era(),
            key: need.key,
            source: need.source,
            permit,
            yields: false,
        }
    }

    /// Returns whether it may take queries of this kind.
    fn takes(&self, need: &Need<'_>) -> bool {
        self.transfer.is_none() && self.key == need.key && !self.takes_no_more(need)
    }

    /// Returns whether it ends without another query.
    fn takes_no_more(&self, need: &Need<'_>) -> bool {
        self.is_closed_by_server
            || self.yields
            || matches!(self.state, State::Ended(_))
            || self.era != need.options.era()
    }
}
