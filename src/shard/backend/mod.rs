//! Lines: connections towards backends, all that is known of each but its socket.
//!
//! A query goes by the line of the last one, or another that has room for it, the fullest first, so
//! that few are open; or by a new one. What waits on a line that ends is asked again by the shard, here or elsewhere. How
//! many queries are on a line, the table of [`Outstanding`](crate::shard::dispatch::outstanding) knows.

pub mod choice;
mod overdue;

pub(crate) use crate::shard::backend::choice::{ANYBODY, Need};
use crate::shard::backend::overdue::SWEEP;

use crate::base::addr::{BackendSlot, Generational, Route, SocketSlot};
use crate::base::time::{Tick, TickDelta};
use crate::shard::conn_table::ConnTable;
use crate::shard::dispatch::ConnectionKey;
use crate::stats::close_reason::BackendCloseReason;
use crate::stats::descriptors::{Descriptors, Permit};
use crate::wire::frame::{Frames, Outbound};
use crate::wire::transfer::Transfer;

use std::sync::Arc;

/// A server that refused a connection is passed over for so long, where there is another.
const TROUBLE: TickDelta = TickDelta::from_ms(1_000);
/// A server that closes a connection after so few answers, with queries unanswered, gets no more
/// than these at a time.
const HASTY_MAX: u64 = 4;
/// Queries at a time from which on it is as any other.
const PATIENT: u32 = 256;
/// Queries in a row without an answer that end a line.
const MISSED_MAX: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The engine is to open it, or has begun to.
    Connecting,
    /// Queries go and answers come.
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
    /// The last answer, or the first query after it was idle.
    active: Tick,
    /// Since when its output waits to be taken.
    blocked: Option<Tick>,
    /// Messages that were answers to its queries.
    answered: u64,
    /// The last message.
    heard_at: Tick,
    /// Queries in a row whose time was up, with nothing heard meanwhile.
    missed: u8,
    /// The server has closed it, with messages on it that have not been looked at yet.
    hung_up: bool,
    /// It has had no query yet.
    is_new: bool,
    /// Who it is for does not take more.
    paused: bool,
    frames: Frames,
    output: Outbound,
    /// It is used by a zone transfer, and by nothing else.
    transfer: Option<Transfer>,
    /// A part of that transfer has come.
    begun: bool,
    /// The trust in its server that it was opened with: once that is another, it gets no more
    /// queries, and ends with its last one.
    era: u64,
    /// Only for queries of this client: the server takes its address from the connection.
    key: u64,
    source: Option<[u8; 16]>,
    permit: Option<Permit>,
}

/// A backend's lines.
#[derive(Debug, Default)]
struct PerBackend {
    /// By the number in their routes.
    connections: Vec<Option<TableSlot>>,
    /// By which the last query went.
    last: usize,
    open: u32,
    troubled_until: Tick,
    /// It closes its connections with queries unanswered, and gets so many at a time on each; 0 is
    /// as many as may be. Twice as many when a line has answered more.
    depth: u32,
}

/// Where a connection stands in the table of all backends'.
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

/// All lines of a shard.
#[derive(Debug)]
pub(crate) struct BackendConnections {
    descriptors: Arc<Descriptors>,
    table: ConnTable<TableSlot, BackendConnection>,
    by_backend: Vec<PerBackend>,
    swept: Tick,
    /// Backends that have refused a connection a moment ago, and those of them that have lines
    /// only.
    troubled: Vec<BackendSlot>,
    troubled_for_all: Vec<BackendSlot>,
}

/// What an engine should do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendInterest {
    /// Open it if it is not, write the output; read only if so.
    Serve {
        /// Whether it may be read.
        read: bool,
    },
    /// Close it, and forget it.
    Close,
}

/// What became of a line that is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClosedConnection {
    /// It has brought answers.
    pub(crate) answered: u64,
    /// A transfer was on it, and had begun to arrive.
    pub(crate) transferring: bool,
}

impl BackendConnections {
    /// None yet.
    pub(crate) fn new(descriptors: Arc<Descriptors>) -> Self {
        Self {
            descriptors,
            table: ConnTable::default(),
            by_backend: Vec::new(),
            swept: Tick(0),
            troubled: Vec::new(),
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

    /// Whether the connection has not come about yet.
    pub(crate) fn is_connecting(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.state == State::Connecting)
    }

    /// Puts a query on a line, behind what is there; `alone`: no other one waits on it. False when
    /// it is longer than a frame can hold, as rules may have made it.
    pub(crate) fn ask(&mut self, route: Route, query: &[u8], alone: bool, now: Tick) -> bool {
        let Some(connection) = self.connection_mut(route) else { return false };
        if !connection.output.push_frame(query) {
            return false;
        }
        if alone {
            connection.active = now;
        }
        connection.is_new = false;
        connection.blocked = connection.blocked.or(Some(now));
        self.mark_pending(route);
        true
    }

    /// A transfer's client does not take what there is: the line waits.
    pub(crate) fn pause(&mut self, route: Route, paused: bool) {
        let Some(connection) = self.connection_mut(route) else { return };
        if std::mem::replace(&mut connection.paused, paused) != paused {
            // The engine is to read, or not.
            self.mark_pending(route);
        }
    }

    /// Whether who it is for does not take more.
    pub(crate) fn is_paused(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.paused)
    }

    /// Whether the line's next message may be looked at.
    pub(crate) fn goes_on(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| !l.paused)
    }

    /// A paused line may go on.
    pub(crate) fn resume(&mut self, route: Route, now: Tick) {
        if let Some(connection) = self.connection_mut(route)
            && std::mem::take(&mut connection.paused)
        {
            // The time that it was not read is not its server's.
            connection.active = now;
            self.go_on(route);
        }
    }

    /// The line is to be looked at again: it may hold messages, or its server may have closed it.
    fn go_on(&mut self, route: Route) {
        if let Some(slot) = self.slot(route) {
            self.table.mark_resumable(slot);
        }
    }

    /// A line that may go on with what it holds.
    /// It keeps its turn until [`BackendConnections::end_step`] says otherwise.
    pub(crate) fn next_resumable(&mut self) -> Option<Route> {
        let slot = self.table.resumable()?;
        self.table.value(slot).map(|connection| connection.route)
    }

    /// The line whose turn it is has done a step of it: whether it goes on. It does as long as it
    /// holds messages: they came by one read, and it is not read before they are used.
    pub(crate) fn end_step(&mut self, route: Route) -> bool {
        let holds = self.connection(route).is_some_and(BackendConnection::holds_messages);
        if !holds {
            self.table.end_turn(false);
        }
        holds
    }

    /// Lines that may go on with what they hold; perhaps some more.
    pub(crate) fn resumable_count(&self) -> usize {
        self.table.resumable_count()
    }

    /// Begins a new connection with the PROXY header that its server wants.
    pub(crate) fn begin(&mut self, route: Route, found: ConnectionKey, header: &[u8]) {
        if found.key == ANYBODY || found.source.is_some() {
            return;
        }
        if let Some(connection) = self.connection_mut(route).filter(|c| c.is_new && c.output.is_empty()) {
            connection.output.push_raw(header);
        }
    }

    /// The address that a line is to come from, where that is its client's own.
    pub(crate) fn source(&self, route: Route) -> Option<[u8; 16]> {
        self.connection(route)?.source
    }

    /// Whether a line has had no query yet.
    pub(crate) fn is_new(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.is_new)
    }

    /// The connection stands.
    pub(crate) fn opened(&mut self, route: Route, now: Tick) {
        if let Some(connection) = self.connection_mut(route).filter(|l| l.state == State::Connecting) {
            connection.state = State::Open;
            // Its queries could not be taken before.
            connection.blocked = connection.blocked.map(|_| now);
            connection.active = now;
        }
    }

    /// The line's frames, to be fed; to be given back with [`BackendConnections::put_frames`].
    pub(crate) fn take_frames(&mut self, route: Route) -> Option<Frames> {
        let connection = self.connection_mut(route).filter(|l| !matches!(l.state, State::Ended(_)))?;
        Some(std::mem::take(&mut connection.frames))
    }

    /// Gives the frames back. A line that still holds messages goes on with them in its turn.
    pub(crate) fn put_frames(&mut self, route: Route, frames: Frames) {
        let Some(connection) = self.connection_mut(route) else { return };
        connection.frames = frames;
        if connection.holds_messages() {
            self.go_on(route);
        }
    }

    /// Whether the engine may read: nothing that was read waits.
    pub(crate) fn may_read(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| !l.holds_messages())
    }

    /// A message has arrived; `answers`: to one of its queries.
    pub(crate) fn heard(&mut self, route: Route, answers: bool, now: Tick) {
        let Some(connection) = self.connection_mut(route) else { return };
        connection.answered += u64::from(answers);
        connection.missed = 0;
        connection.heard_at = now;
        connection.active = now;
        let answered = connection.answered;
        let depth = &mut self.by_backend[route.backend.index()].depth;
        if *depth > 0 && answered > u64::from(*depth) {
            *depth = if *depth < PATIENT { *depth * 2 } else { 0 };
        }
    }

    /// The transfer on a line.
    pub(crate) fn transfer(&mut self, route: Route) -> Option<&mut Transfer> {
        self.connection_mut(route)?.transfer.as_mut()
    }

    /// Bytes to be written.
    pub(crate) fn output(&self, route: Route) -> &[u8] {
        self.connection(route).map_or(&[], |l| l.output.pending())
    }

    /// So many of them were written.
    pub(crate) fn written(&mut self, route: Route, count: usize, now: Tick) {
        let Some(connection) = self.connection_mut(route) else { return };
        connection.output.advance(count);
        connection.blocked = (!connection.output.is_empty()).then_some(now);
    }

    /// The line has served its purpose, or failed: the engine is to close it.
    pub(crate) fn end(&mut self, route: Route, why: BackendCloseReason) {
        let Some(connection) = self.connection_mut(route) else { return };
        if !matches!(connection.state, State::Ended(_)) {
            connection.state = State::Ended(why);
            self.mark_pending(route);
        }
    }

    /// Forgets a line that is closed; its number may be given to another. `only`: its backend is
    /// asked by lines alone. `owing`: since when queries wait on it.
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
            backend_state.troubled_until = now + TROUBLE;
            if !self.troubled.contains(&route.backend) {
                self.troubled.push(route.backend);
                if only {
                    self.troubled_for_all.push(route.backend);
                }
            }
        }
        // Not one that was idle and closed just as it was asked.
        let was_served = owing.is_some_and(|since| connection.heard_at > since);
        let is_hasty = was_served && (1..=HASTY_MAX).contains(&connection.answered);
        if is_hasty
            && matches!(why, BackendCloseReason::Closed | BackendCloseReason::Broken)
            && connection.transfer.is_none()
        {
            backend_state.depth = connection.answered as u32;
        }
        Some(ClosedConnection { answered: connection.answered, transferring: connection.begun })
    }

    /// Backends that a query is better not sent to: those that have refused a connection a moment
    /// ago. `clients`: the query came by a connection, and goes by one.
    pub(crate) fn avoided(&self, clients: bool) -> &[BackendSlot] {
        if clients { &self.troubled } else { &self.troubled_for_all }
    }

    /// Whether a zone transfer is on the line.
    pub(crate) fn is_transfer(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.transfer.is_some())
    }

    /// A message of a zone transfer has arrived by the line, with more to come.
    pub(crate) fn has_begun(&mut self, route: Route) {
        if let Some(connection) = self.connection_mut(route) {
            connection.begun = true;
        }
    }

    /// Whether messages of a zone transfer have arrived by the line.
    pub(crate) fn is_transferring(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| l.begun)
    }

    /// A query's time was up, with nothing heard since it was asked: a line of which that can be
    /// said a few times in a row is taken for dead.
    pub(crate) fn missed(&mut self, route: Route, asked: Tick) {
        let Some(connection) = self.connection_mut(route) else { return };
        if connection.heard_at <= asked {
            connection.missed = connection.missed.saturating_add(1);
            if connection.missed >= MISSED_MAX {
                // Not its server's fault as far as we know: it may have a new one at once.
                self.end(route, BackendCloseReason::Idle);
            }
        }
    }

    /// Whether messages wait on the line, for their turn or for its client to take them.
    pub(crate) fn holds_back(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| !matches!(l.state, State::Ended(_)) && l.frames.has_more())
    }

    /// The server has closed a line that holds messages back.
    pub(crate) fn hang_up(&mut self, route: Route) {
        if let Some(connection) = self.connection_mut(route) {
            connection.hung_up = true;
        }
    }

    /// Whether a line whose server has closed it has nothing more to tell.
    pub(crate) fn is_told(&self, route: Route) -> bool {
        self.connection(route).is_some_and(|l| {
            l.hung_up && !l.paused && !l.holds_messages() && !matches!(l.state, State::Ended(_))
        })
    }

    /// A backend is no more: the next one in its slot begins anew.
    pub(crate) fn detach(&mut self, backend: BackendSlot) {
        if let Some(backend_state) = self.by_backend.get_mut(backend.index()) {
            backend_state.depth = 0;
            backend_state.troubled_until = Tick(0);
        }
    }

    /// A line that was picked gets no query: a new one is not needed.
    pub(crate) fn spare(&mut self, route: Route) {
        if self.is_new(route) {
            self.end(route, BackendCloseReason::Done);
        }
    }

    /// Lines that are open or about to be.
    pub(crate) fn open_count(&self) -> u32 {
        self.table.len() as u32
    }

    /// The same of one backend.
    pub(crate) fn open_of(&self, backend: BackendSlot) -> u32 {
        self.by_backend.get(backend.index()).map_or(0, |f| f.open)
    }

    pub(crate) fn mark_pending(&mut self, route: Route) {
        // Without a socket there is nothing to be done but to close it.
        if let Some(slot) = self.slot(route)
            && self.table.value(slot).is_some_and(BackendConnection::has_work)
        {
            self.table.mark_pending(slot);
        }
    }

    /// A line that the engine has something to do for.
    pub(crate) fn next_pending(&mut self) -> Option<Route> {
        while let Some(slot) = self.table.next_pending() {
            // What it was for, before its server closed it, may be no more.
            if let Some(connection) = self.table.value(slot).filter(|c| c.has_work()) {
                return Some(connection.route);
            }
        }
        None
    }

    /// Lines that the engine has something to do for; perhaps some more.
    pub(crate) fn pending_count(&self) -> usize {
        self.table.pending_count()
    }

    /// What the engine should do with it.
    pub(crate) fn interest(&self, route: Route) -> BackendInterest {
        match self.connection(route) {
            Some(BackendConnection { state: State::Connecting | State::Open, paused, .. }) => {
                BackendInterest::Serve { read: !paused }
            }
            Some(BackendConnection { state: State::Ended(_), .. }) | None => BackendInterest::Close,
        }
    }

    /// Why the line is to be closed.
    pub(crate) fn why(&self, route: Route) -> BackendCloseReason {
        match self.connection(route).map(|l| l.state) {
            Some(State::Ended(why)) => why,
            Some(State::Connecting | State::Open) | None => BackendCloseReason::Done,
        }
    }

    /// When [`BackendConnections::sweep`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        if self.table.resumable_count() > 0 {
            return Some(Tick(0));
        }
        (self.table.len() > 0 || !self.troubled.is_empty()).then(|| self.swept + SWEEP)
    }

    /// Checks what must hold between calls; for tests.
    pub(crate) fn check_invariants(&self) {
        for (at, backend) in self.by_backend.iter().enumerate() {
            let slots = || backend.connections.iter().enumerate().filter_map(|(n, slot)| Some((n, (*slot)?)));
            assert_eq!(slots().count(), backend.open as usize, "connections are counted");
            for (place, slot) in slots() {
                let route = Route { backend: BackendSlot(at as u16), socket: number(place) };
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
    /// Whether there can be work for the engine: its socket is open, or to be closed.
    const fn has_work(&self) -> bool {
        !self.hung_up || matches!(self.state, State::Ended(_))
    }

    /// Whether it holds messages that may be looked at now.
    fn holds_messages(&self) -> bool {
        !self.paused && !matches!(self.state, State::Ended(_)) && self.frames.has_more()
    }
}

const fn number(at: usize) -> SocketSlot {
    SocketSlot::Connection(at as u16)
}
