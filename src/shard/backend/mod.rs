//! Connections to backends: all state of each but its socket.
//!
//! A query uses the connection of the last one, or another with capacity, the fullest first, so
//! that few are open; or a new one. Queries on a connection that ends are sent again by the shard,
//! on this backend or another. The number of queries on a connection is in the table of
//! [`Outstanding`](crate::shard::dispatch::outstanding).

pub mod choice;
mod overdue;
mod transfer;
mod waiting;

pub(crate) use crate::shard::backend::choice::{ANY_CLIENT, Need};
use crate::shard::backend::overdue::SWEEP;
use crate::shard::backend::transfer::TransferIds;

use crate::base::addr::{BackendSlot, Generational, Route, SocketSlot};
use crate::base::narrow::{to_u16, to_u32};
use crate::base::time::{Tick, TickDelta};
use crate::shard::conn_table::ConnTable;
use crate::shard::dispatch::ConnectionKey;
use crate::stats::close_reason::BackendCloseReason;
use crate::stats::descriptors::{Descriptors, Permit};
use crate::wire::frame::{Frames, Outbound};
use crate::wire::transfer::Transfer;

use std::collections::VecDeque;
use std::sync::Arc;

/// A server that refused a connection, or was silent on one, is avoided for this time, if there is
/// another.
const AVOID_SPAN: TickDelta = TickDelta::from_ms(1_000);
/// One that did not accept a connection is avoided this long, and at each further one twice as long, up
/// to [`UNACCEPTED_DOUBLED_MAX`] times: each that is tried costs its queries [`CONNECT_PATIENCE`].
///
/// [`CONNECT_PATIENCE`]: overdue::CONNECT_PATIENCE
const UNACCEPTED_SPAN: TickDelta = TickDelta::from_ms(8_000);
const UNACCEPTED_DOUBLED_MAX: u32 = 3;
/// A server that closes a connection after this few responses, with queries outstanding, gets no
/// more than these at a time.
const EARLY_CLOSER_QUERIES_MAX: u64 = 4;
/// Queries at a time from which on it counts as a normal server.
const NORMAL_QUERIES_MIN: u32 = 256;
/// Queries in a row without a response that end a connection.
const MISSED_MAX: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No descriptor is left for it at present.
    Waiting,
    /// The engine is to open it, or is doing so.
    Connecting,
    /// It carries queries and responses.
    Open,
    /// The engine is to close it.
    Ended(BackendCloseReason),
}

/// One connection to a backend.
#[derive(Debug)]
struct BackendConnection {
    route: Route,
    state: State,
    opened: Tick,
    /// Since when it is established.
    established: Option<Tick>,
    /// Queries that were sent on it.
    queries: u64,
    /// The last response, or the first query after it was idle.
    active: Tick,
    /// Since when its output waits to be written.
    blocked: Option<Tick>,
    /// Messages that were responses to its queries.
    responses: u64,
    /// When the last message arrived.
    last_message: Tick,
    /// Queries in a row that timed out, with no message in between.
    missed: u8,
    /// The server has closed it; messages on it were not handled yet.
    is_closed_by_server: bool,
    /// It has had no query yet.
    is_new: bool,
    /// Its client does not take more.
    paused: bool,
    frames: Frames,
    output: Outbound,
    /// It is used by a zone transfer, and by nothing else.
    transfer: Option<Transfer>,
    /// The ids of its query: on the wire, and in the table of outstanding queries.
    transfer_ids: Option<TransferIds>,
    /// A part of that transfer has arrived.
    transfer_started: bool,
    /// The generation of trusted certificates that it was opened with: once that is outdated, it
    /// gets no more queries, and ends with its last one.
    era: u64,
    /// The client that it serves exclusively: the server takes its address from the connection.
    key: u64,
    source: Option<[u8; 16]>,
    permit: Option<Permit>,
    /// It gets no more queries, and ends with its last one: another one needs its descriptor.
    yields: bool,
}

/// The connections to one backend.
#[derive(Debug, Default)]
struct PerBackend {
    /// By the number in their routes.
    connections: Vec<Option<TableSlot>>,
    /// The connection of the last query.
    last: usize,
    open: u32,
    troubled_until: Tick,
    /// Connections in a row that it did not accept.
    unaccepted: u32,
    /// Queries per connection for a server that closes its connections with queries outstanding; 0
    /// is no limit. Doubled when a connection has answered more.
    depth: u32,
}

/// Slot of a connection in the table of all backends' connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TableSlot(u32);

impl Generational for TableSlot {
    fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    fn bits(self) -> u32 {
        self.0
    }
}

/// All backend connections of a shard.
#[derive(Debug)]
pub(crate) struct BackendConnections {
    descriptors: Arc<Descriptors>,
    table: ConnTable<TableSlot, BackendConnection>,
    by_backend: Vec<PerBackend>,
    swept: Tick,
    /// When no idle connection was found that could make room for another one.
    searched: Option<Tick>,
    /// Connections that wait for a descriptor, oldest first, and when they last asked for one.
    waiting: VecDeque<Route>,
    asked: Tick,
    /// Backends that have recently refused a connection or were silent on one, and those of them
    /// that use connections only.
    refused: Vec<BackendSlot>,
    troubled_for_all: Vec<BackendSlot>,
}

/// What an engine must do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendInterest {
    /// Open it if it is not open, write the output; read only if `read` is set.
    Serve {
        /// Whether it may be read.
        read: bool,
    },
    /// Close it, and forget it.
    Close,
}

/// The state of a connection at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClosedConnection {
    /// Responses that it has brought.
    pub(crate) responses: u64,
    /// A transfer was on it, and had begun to arrive.
    pub(crate) transferring: bool,
    /// Queries that were sent on it.
    pub(crate) queries: u64,
    /// Since when it was established.
    pub(crate) established: Option<Tick>,
}

impl BackendConnections {
    /// Creates an empty set of connections.
    pub(crate) fn new(descriptors: Arc<Descriptors>) -> Self {
        Self {
            descriptors,
            table: ConnTable::default(),
            by_backend: Vec::new(),
            swept: Tick(0),
            searched: None,
            waiting: VecDeque::new(),
            asked: Tick(0),
            refused: Vec::new(),
            troubled_for_all: Vec::new(),
        }
    }

    fn slot(&self, route: Route) -> Option<TableSlot> {
        let SocketSlot::Connection(number) = route.socket else { return None };
        *self.by_backend.get(route.backend.index())?.connections.get(usize::from(number))?
    }

    fn connection(&self, route: Route) -> Option<&BackendConnection> {
        self.table.value(self.slot(route)?)
    }

    fn connection_mut(&mut self, route: Route) -> Option<&mut BackendConnection> {
        self.table.value_mut(self.slot(route)?)
    }

    /// Returns whether the connection is not established yet.
    pub(crate) fn is_connecting(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.state == State::Connecting)
    }

    /// Appends a query to a connection's output; `alone`: no other query is on it. Returns false
    /// when it does not fit a frame, as rules may have made it.
    pub(crate) fn ask(&mut self, route: Route, query: &[u8], alone: bool, now: Tick) -> bool {
        let Some(connection) = self.connection_mut(route) else { return false };
        if !connection.output.push_frame(query) {
            return false;
        }
        if alone {
            connection.active = now;
        }
        connection.is_new = false;
        connection.queries += 1;
        connection.blocked = connection.blocked.or(Some(now));
        self.mark_pending(route);
        true
    }

    /// Pauses a connection while the client of its transfer does not take more.
    pub(crate) fn pause(&mut self, route: Route, paused: bool) {
        let Some(connection) = self.connection_mut(route) else { return };
        if std::mem::replace(&mut connection.paused, paused) != paused {
            // The engine's interest in reading changes.
            self.mark_pending(route);
        }
    }

    /// Returns whether its client does not take more.
    pub(crate) fn is_paused(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.paused)
    }

    /// Returns whether the connection's next message may be handled.
    pub(crate) fn may_continue(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| !l.paused)
    }

    /// Resumes a paused connection.
    pub(crate) fn resume(&mut self, route: Route, now: Tick) {
        if let Some(connection) = self.connection_mut(route)
            && std::mem::take(&mut connection.paused)
        {
            // The time that it was not read does not count against its server.
            connection.active = now;
            self.mark_resumable(route);
        }
    }

    /// Queues the connection to be served again: it may hold messages, or its server may have
    /// closed it.
    fn mark_resumable(&mut self, route: Route) {
        if let Some(slot) = self.slot(route) {
            self.table.mark_resumable(slot);
        }
    }

    /// Returns a connection that may continue with what it holds. It keeps its turn until
    /// [`BackendConnections::end_step`] returns false.
    pub(crate) fn next_resumable(&mut self) -> Option<Route> {
        let slot = self.table.resumable()?;
        self.table.value(slot).map(|connection| connection.route)
    }

    /// Ends a step of the connection's turn; returns whether it continues. It does as long as it
    /// holds messages: they came with one read, and it is not read before they are handled.
    pub(crate) fn end_step(&mut self, route: Route) -> bool {
        let holds = self.connection(route).is_some_and(BackendConnection::holds_messages);
        if !holds {
            self.table.end_turn(false);
        }
        holds
    }

    /// Returns the number of connections that may continue with what they hold; an upper bound.
    pub(crate) fn resumable_count(&self) -> usize {
        self.table.resumable_count()
    }

    /// Begins a new connection with the server's PROXY header.
    pub(crate) fn begin(&mut self, route: Route, found: ConnectionKey, header: &[u8]) {
        if found.key == ANY_CLIENT || found.source.is_some() {
            return;
        }
        if let Some(connection) = self.connection_mut(route).filter(|c| c.is_new && c.output.is_empty()) {
            connection.output.push_raw(header);
        }
    }

    /// Returns the source address of a connection, if that is its client's own.
    pub(crate) fn source(&self, route: Route) -> Option<[u8; 16]> {
        self.connection(route)?.source
    }

    /// Returns whether a connection has had no query yet.
    pub(crate) fn is_new(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.is_new)
    }

    /// The connection is established. Returns false when it is not there, or was so before.
    pub(crate) fn opened(&mut self, route: Route, now: Tick) -> bool {
        let Some(connection) = self.connection_mut(route) else { return false };
        let is_first = connection.established.is_none();
        connection.established.get_or_insert(now);
        if connection.state == State::Connecting {
            connection.state = State::Open;
            // Its queries could not be written before.
            connection.blocked = connection.blocked.map(|_| now);
            connection.active = now;
            if let Some(backend_state) = self.by_backend.get_mut(route.backend.index()) {
                backend_state.unaccepted = 0;
            }
        }
        is_first
    }

    /// Takes the connection's frames, to be parsed; to be returned with
    /// [`BackendConnections::put_frames`].
    pub(crate) fn take_frames(&mut self, route: Route) -> Option<Frames> {
        let connection = self.connection_mut(route).filter(|l| !matches!(l.state, State::Ended(_)))?;
        Some(std::mem::take(&mut connection.frames))
    }

    /// Returns the frames. A connection that still holds messages continues with them in its turn.
    pub(crate) fn put_frames(&mut self, route: Route, frames: Frames) {
        let Some(connection) = self.connection_mut(route) else { return };
        connection.frames = frames;
        if connection.holds_messages() {
            self.mark_resumable(route);
        }
    }

    /// Returns whether the engine may read: nothing that was read waits.
    pub(crate) fn may_read(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| !l.holds_messages())
    }

    /// A message has arrived; `is_response`: to one of its queries.
    pub(crate) fn on_message(&mut self, route: Route, is_response: bool, now: Tick) {
        let Some(connection) = self.connection_mut(route) else { return };
        connection.responses += u64::from(is_response);
        connection.missed = 0;
        connection.last_message = now;
        connection.active = now;
        let responses = connection.responses;
        let depth = &mut self.by_backend[route.backend.index()].depth;
        if *depth > 0 && responses > u64::from(*depth) {
            *depth = if *depth < NORMAL_QUERIES_MIN { *depth * 2 } else { 0 };
        }
    }

    /// Returns the bytes to be written.
    pub(crate) fn output(&self, route: Route) -> &[u8] {
        self.connection(route).map_or(&[], |l| l.output.pending())
    }

    /// The engine has written this many of them.
    pub(crate) fn written(&mut self, route: Route, count: usize, now: Tick) {
        let Some(connection) = self.connection_mut(route) else { return };
        connection.output.advance(count);
        connection.blocked = (!connection.output.is_empty()).then_some(now);
    }

    /// Ends a connection: the engine is to close it.
    pub(crate) fn end(&mut self, route: Route, why: BackendCloseReason) {
        let Some(connection) = self.connection_mut(route) else { return };
        if !matches!(connection.state, State::Ended(_)) {
            connection.state = State::Ended(why);
            self.mark_pending(route);
        }
    }

    /// Forgets a connection that is closed; its slot may be reused. `only`: its backend is queried
    /// over connections only. `owing`: since when queries are outstanding on it.
    pub(crate) fn forget(
        &mut self,
        route: Route,
        why: BackendCloseReason,
        only: bool,
        owing: Option<Tick>,
        now: Tick,
    ) -> Option<ClosedConnection> {
        let backend_state = self.by_backend.get_mut(route.backend.index())?;
        let SocketSlot::Connection(number) = route.socket else { return None };
        let slot = backend_state.connections.get_mut(usize::from(number))?.take()?;
        backend_state.open -= 1;
        let connection = self.table.remove(slot)?;
        if matches!(
            why,
            BackendCloseReason::Refused
                | BackendCloseReason::ConnectTimeout
                | BackendCloseReason::Handshake
                | BackendCloseReason::Silent
        ) {
            let span = if why == BackendCloseReason::ConnectTimeout {
                let doubled = backend_state.unaccepted.min(UNACCEPTED_DOUBLED_MAX);
                backend_state.unaccepted = backend_state.unaccepted.saturating_add(1);
                TickDelta(UNACCEPTED_SPAN.0 << doubled)
            } else {
                AVOID_SPAN
            };
            backend_state.troubled_until = now + span;
            if !self.refused.contains(&route.backend) {
                self.refused.push(route.backend);
                if only {
                    self.troubled_for_all.push(route.backend);
                }
            }
        }
        // Not an idle one that was closed just as a query was sent.
        let was_served = owing.is_some_and(|since| connection.last_message > since);
        let is_hasty = was_served && (1..=EARLY_CLOSER_QUERIES_MAX).contains(&connection.responses);
        if is_hasty
            && matches!(why, BackendCloseReason::Closed | BackendCloseReason::Broken)
            && connection.transfer.is_none()
        {
            backend_state.depth = u32::try_from(connection.responses).unwrap_or(u32::MAX);
        }
        Some(ClosedConnection {
            responses: connection.responses,
            transferring: connection.transfer_started,
            queries: connection.queries,
            established: connection.established,
        })
    }

    /// Returns backends to avoid: those that have recently refused a connection, or were silent on
    /// one.
    /// `came_by_connection`: the query did, so that it may use one at any server.
    pub(crate) fn avoided(&self, came_by_connection: bool) -> &[BackendSlot] {
        if came_by_connection { &self.refused } else { &self.troubled_for_all }
    }

    /// A query has timed out without any message since it was sent: after a few of these in a row
    /// the connection counts as dead. Whether that is its server's fault is not known; other servers
    /// come first for a while.
    pub(crate) fn missed(&mut self, route: Route, asked: Tick) {
        let Some(connection) = self.connection_mut(route) else { return };
        if connection.last_message <= asked && connection.state != State::Waiting {
            connection.missed = connection.missed.saturating_add(1);
            if connection.missed >= MISSED_MAX {
                self.end(route, BackendCloseReason::Silent);
            }
        }
    }

    /// Returns whether messages wait on the connection, for their turn or for their client.
    pub(crate) fn holds_back(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| !matches!(l.state, State::Ended(_)) && l.frames.has_more())
    }

    /// The server has closed a connection that holds messages back.
    pub(crate) fn hang_up(&mut self, route: Route) {
        if let Some(connection) = self.connection_mut(route) {
            connection.is_closed_by_server = true;
        }
    }

    /// Returns whether a connection that its server has closed is completely handled.
    pub(crate) fn is_drained(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| {
            l.is_closed_by_server && !l.paused && !l.holds_messages() && !matches!(l.state, State::Ended(_))
        })
    }

    /// Forgets a backend: the next one in its slot starts without state.
    pub(crate) fn detach(&mut self, backend: BackendSlot) {
        if let Some(backend_state) = self.by_backend.get_mut(backend.index()) {
            backend_state.depth = 0;
            (backend_state.troubled_until, backend_state.unaccepted) = (Tick(0), 0);
        }
    }

    /// Releases a selected connection that gets no query: a new one is not needed.
    pub(crate) fn close_if_new(&mut self, route: Route) {
        if self.is_new(route) {
            self.end(route, BackendCloseReason::Done);
        }
    }

    /// Returns the number of connections that are open or opening.
    pub(crate) fn open_count(&self) -> u32 {
        to_u32(self.table.len())
    }

    /// Returns the same for one backend.
    pub(crate) fn open_of(&self, backend: BackendSlot) -> u32 {
        self.by_backend.get(backend.index()).map_or(0, |f| f.open)
    }

    pub(crate) fn mark_pending(&mut self, route: Route) {
        // A connection without a socket can only be closed.
        if let Some(slot) = self.slot(route)
            && self.table.value(slot).is_some_and(BackendConnection::has_work)
        {
            self.table.mark_pending(slot);
        }
    }

    /// Returns a connection with pending work for the engine.
    pub(crate) fn next_pending(&mut self) -> Option<Route> {
        while let Some(slot) = self.table.next_pending() {
            // Its pending work became void when its server closed it.
            if let Some(connection) = self.table.value(slot).filter(|c| c.has_work()) {
                return Some(connection.route);
            }
        }
        None
    }

    /// Returns the number of connections with pending work; an upper bound.
    pub(crate) fn pending_count(&self) -> usize {
        self.table.pending_count()
    }

    /// Returns what the engine must do with it.
    pub(crate) fn interest(&self, route: Route) -> BackendInterest {
        match self.connection(route) {
            Some(BackendConnection {
                state: State::Waiting | State::Connecting | State::Open,
                paused,
                ..
            }) => BackendInterest::Serve { read: !paused },
            Some(BackendConnection { state: State::Ended(_), .. }) | None => BackendInterest::Close,
        }
    }

    /// Returns why the connection is to be closed.
    pub(crate) fn why(&self, route: Route) -> BackendCloseReason {
        match self.connection(route).map(|l| l.state) {
            Some(State::Ended(why)) => why,
            Some(State::Waiting | State::Connecting | State::Open) | None => BackendCloseReason::Done,
        }
    }

    /// Returns when [`BackendConnections::sweep`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        if self.table.resumable_count() > 0 {
            return Some(Tick(0));
        }
        let sweep = (self.table.len() > 0 || !self.refused.is_empty()).then(|| self.swept + SWEEP);
        sweep.into_iter().chain(self.next_ask()).min()
    }

    /// Checks the invariants between calls; for tests.
    pub(crate) fn check_invariants(&self) {
        for (at, backend) in self.by_backend.iter().enumerate() {
            let slots = || backend.connections.iter().enumerate().filter_map(|(n, slot)| Some((n, (*slot)?)));
            assert_eq!(slots().count(), backend.open as usize, "connections are counted");
            for (place, slot) in slots() {
                let route = Route { backend: BackendSlot(to_u16(at)), socket: number(place) };
                assert_eq!(
                    self.table.value(slot).map(|c| c.route),
                    Some(route),
                    "routes lead to connections"
                );
            }
        }
        let listed: u32 = self.by_backend.iter().map(|b| b.open).sum();
        assert_eq!(listed as usize, self.table.len(), "each connection is one of its backend's");
        self.table.check_invariants(|connection| (false, connection.holds_messages()));
    }
}

impl BackendConnection {
    /// Returns whether the engine can have work for it: its socket may be open, or must be closed.
    const fn has_work(&self) -> bool {
        match self.state {
            State::Waiting => false,
            State::Connecting | State::Open => !self.is_closed_by_server,
            State::Ended(_) => true,
        }
    }

    /// Returns whether it holds messages that may be handled now.
    fn holds_messages(&self) -> bool {
        !self.paused && !matches!(self.state, State::Ended(_)) && self.frames.has_more()
    }
}

fn number(at: usize) -> SocketSlot {
    SocketSlot::Connection(to_u16(at))
}
