//! Client connections: all state of each but its socket.
//!
//! ```text
//!  bytes ─► frames ─► on_query ... conclude ─► output ─► bytes
//!              │ in flight: limited              │ limited
//!              └── not read while at a limit ◄───┘
//! ```
//!
//! An engine owns the sockets, and takes the next
//! [`PendingWork`](crate::shard::messages::PendingWork): write the output, read or do not, close. An
//! idle connection has no buffer. A connection's slot is reused only when none of its queries is
//! outstanding any more.

mod closing;
pub mod events;
mod evict;
mod handshake;
mod invariants;
mod keepalive;
mod lifecycle;
mod overdue;
pub mod proxy_header;
mod turns;
mod unfinished;

pub use crate::stats::close_reason::{
    BackendCloseReason, ClientCloseReason, ConnectFailure, RelayCloseReason,
};

use crate::base::addr::{Client, ConnectionSlot, ListenerSlot, Route};
use crate::base::time::Tick;
use crate::rules::query_state::Protocol;
use crate::shard::conn_table::ConnTable;
use crate::shard::recency::{Class, Recency};
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::stats::connection_limits::{ClientPermit, ConnectionLimits, ListenerPermit};
use crate::stats::descriptors::{Descriptors, Permit};
use crate::wire::frame::{Frames, Outbound};

use std::sync::Arc;

use crate::shard::client::proxy_header::HeaderReader;
use crate::shard::client::unfinished::{Held, Unfinished};

/// Output of a connection, bytes, above which it is not read, and no transfer is read for it.
const OUTPUT_FULL: usize = 64 * 1024;
/// Bytes of all outputs of a shard; above it, connections that do not take theirs are closed.
const OUTPUT_TOTAL_MAX: usize = 256 << 20;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It carries queries and answers.
    Open,
    /// No more queries; it ends when all answers are written.
    Finishing(ClientCloseReason),
    /// The engine is to close it.
    Ended(ClientCloseReason),
    /// The engine has closed it; queries of it are outstanding.
    Gone,
}

/// One connection.
#[derive(Debug)]
struct ClientConnection {
    client: Client,
    protocol: Protocol,
    state: State,
    /// Queries of its current turn.
    turn: u16,
    /// What the engine last got as its interest.
    applied: ClientInterest,
    /// Counts among its listener's connections.
    listener_permit: Option<ListenerPermit>,
    /// Counts among a client's connections, if these are limited.
    client_permit: Option<ClientPermit>,
    permit: Option<Permit>,
    /// The client has sent the keepalive option (RFC 7828).
    keepalive: bool,
    /// Its TLS handshake has not completed.
    handshaking: bool,
    /// The server name (SNI) of its handshake.
    sni: Option<Box<str>>,
    in_flight: u16,
    in_flight_max: u16,
    /// Queries in flight that it may have at present: its share of all.
    in_flight_share: u16,
    /// Its last query was finished in overload: it is closed as soon as nothing is in flight.
    close_when_idle: bool,
    /// Reads since the last complete query.
    reads: u32,
    queries: u32,
    opened: Tick,
    /// The last complete query or answer, or when the last answer was written.
    active: Tick,
    /// When the start of a partial query arrived.
    partial_since: Option<Tick>,
    /// Since when its output waits to be written.
    blocked: Option<Tick>,
    /// The PROXY header that it begins with, if it does.
    proxy_header: Option<Box<HeaderReader>>,
    /// Its frames are taken out for parsing.
    frames_taken: bool,
    frames: Frames,
    /// What they hold of an unfinished query.
    held: Held,
    output: Outbound,
    /// Backend connections that wait until this connection has written its output.
    waiting_backends: Vec<Route>,
    /// Its listener is closed: until this time it may bring the query that it was opened for, and
    /// no other.
    last_query_by: Option<Tick>,
    /// Since when it has had no answer to a query that was dropped.
    unanswered_since: Option<Tick>,
}

/// All client connections of a shard.
#[derive(Debug)]
pub(crate) struct ClientConnections {
    table: ConnTable<ConnectionSlot, ClientConnection>,
    open: u32,
    /// Connections with queries in flight, and the number of these queries.
    busy: u32,
    in_flight: u32,
    /// Queries that each of these may have in flight.
    busy_share: u16,
    connection_limits: Arc<ConnectionLimits>,
    descriptors: Arc<Descriptors>,
    /// Since when there is neither a free descriptor nor an idle connection.
    short_since: Option<Tick>,
    /// The idle ones.
    idle: Recency,
    /// The one that has just made room, to be closed first.
    evicted: Option<ConnectionSlot>,
    output_total: usize,
    unfinished: Unfinished,
}

/// What an engine must do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientInterest {
    /// Write the output; read more only if `read` is set.
    Serve {
        /// Whether more may be read.
        read: bool,
    },
    /// Close it, and confirm with
    /// [`Shard::on_client_closed`](crate::shard::Shard::on_client_closed).
    Close(ClientCloseReason),
}

/// A new connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) client: Client,
    pub(crate) protocol: Protocol,
    /// It begins with a TLS handshake.
    pub(crate) handshake: bool,
    pub(crate) in_flight_max: u16,
    /// Connections that its listener may have; 0 is no limit.
    pub(crate) listener_max: u32,
    /// It must begin with a PROXY header.
    pub(crate) header_due: bool,
    /// That header is before TLS.
    pub(crate) header_outside: bool,
    /// It counts as its peer's connection; otherwise as that of the client in the header.
    pub(crate) counts: bool,
}

impl ClientConnections {
    /// Creates an empty set of connections; `connection_limits` are the process's.
    pub(crate) fn new(connection_limits: Arc<ConnectionLimits>, descriptors: Arc<Descriptors>) -> Self {
        Self {
            table: ConnTable::default(),
            open: 0,
            busy: 0,
            in_flight: 0,
            busy_share: u16::MAX,
            connection_limits,
            descriptors,
            short_since: None,
            idle: Recency::default(),
            evicted: None,
            output_total: 0,
            unfinished: Unfinished::default(),
        }
    }

    /// Adds a connection, within the limits.
    pub(crate) fn open(
        &mut self,
        arrival: Accepted,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) -> Result<ConnectionSlot, ClientCloseReason> {
        let listener = arrival.client.listener;
        let listener_permit = self.connection_limits.enter(listener, arrival.listener_max, limits)?;
        let client_permit = if arrival.counts {
            self.connection_limits.admit(arrival.client.peer, limits, now)?
        } else {
            None
        };
        let permit = self.permit(now).ok_or(ClientCloseReason::Descriptors)?;
        let slot = self.table.insert(|slot| ClientConnection {
            client: Client { connection: Some(slot), ..arrival.client },
            protocol: arrival.protocol,
            state: State::Open,
            turn: 0,
            // Engines watch a new connection for reading.
            applied: ClientInterest::Serve { read: true },
            listener_permit: Some(listener_permit),
            client_permit,
            permit: Some(permit),
            keepalive: false,
            handshaking: arrival.handshake,
            sni: None,
            in_flight: 0,
            in_flight_max: arrival.in_flight_max.max(1),
            in_flight_share: arrival.in_flight_max.max(1),
            close_when_idle: false,
            reads: 0,
            queries: 0,
            opened: now,
            active: now,
            partial_since: None,
            blocked: None,
            proxy_header: arrival.header_due.then(|| HeaderReader::due(arrival.header_outside)),
            frames_taken: false,
            frames: Frames::new(),
            held: Held::default(),
            output: Outbound::new(),
            waiting_backends: Vec::new(),
            last_query_by: None,
            unanswered_since: None,
        });
        self.open += 1;
        self.idle.put(slot.index(), 0, Class::New);
        Ok(slot)
    }

    fn connection(&self, slot: ConnectionSlot) -> Option<&ClientConnection> {
        self.table.value(slot)
    }

    fn connection_mut(&mut self, slot: ConnectionSlot) -> Option<&mut ClientConnection> {
        self.table.value_mut(slot)
    }

    /// Returns the client and the protocol of a connection.
    pub(crate) fn facts(&self, slot: ConnectionSlot) -> Option<(Client, Protocol)> {
        self.connection(slot).map(|s| (s.client, s.protocol))
    }

    /// Returns the number of open connections.
    pub(crate) const fn open_count(&self) -> u32 {
        self.open
    }

    /// Bytes were read; returns whether the connection may continue. Counts reads without a query.
    pub(crate) fn on_read(
        &mut self,
        slot: ConnectionSlot,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) -> bool {
        let Some(connection) = self.connection_mut(slot).filter(|s| s.state == State::Open) else {
            return false;
        };
        connection.turn = 0;
        connection.reads += 1;
        if limits.reads_per_query > 0 && connection.reads > limits.reads_per_query {
            // A proxy stands for many clients: it is not refused because of one of them.
            if connection.client_permit.is_some() || connection.proxy_header.is_none() {
                let identity = connection.identity(limits);
                self.connection_limits.ban(identity, now + limits.reads_ban);
            }
            self.end(slot, ClientCloseReason::Reads);
            return false;
        }
        true
    }

    /// Takes the connection's frames, to be parsed; to be returned with
    /// [`ClientConnections::put_frames`].
    pub(crate) fn take_frames(&mut self, slot: ConnectionSlot) -> Option<Frames> {
        let connection = self.connection_mut(slot).filter(|s| s.state == State::Open || s.may_continue())?;
        connection.frames_taken = true;
        Some(std::mem::take(&mut connection.frames))
    }

    /// Returns the frames.
    pub(crate) fn put_frames(&mut self, slot: ConnectionSlot, mut frames: Frames, now: Tick) {
        if let Some(connection) = self.connection_mut(slot) {
            if connection.state != State::Open && frames.is_partial() {
                // The rest is not read.
                frames = Frames::new();
            }
            connection.partial_since = frames.is_partial().then(|| connection.partial_since.unwrap_or(now));
            connection.frames = frames;
            connection.frames_taken = false;
            self.count_unfinished(slot);
            self.review(slot, now);
        }
    }

    /// A complete query was read and is in flight. Returns whether another may follow.
    pub(crate) fn begin(
        &mut self,
        slot: ConnectionSlot,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) -> Option<Client> {
        if self.connection(slot)?.in_flight == 0 {
            self.idle.remove(slot.index());
            self.set_busy(self.busy + 1);
        }
        self.in_flight += 1;
        let share = self.share();
        let connection = self.connection_mut(slot)?;
        connection.in_flight += 1;
        connection.in_flight_share = connection.in_flight_max.min(share);
        connection.turn = connection.turn.saturating_add(1);
        connection.queries = connection.queries.wrapping_add(1);
        connection.reads = 0;
        connection.active = now;
        connection.partial_since = None;
        if limits.queries > 0 && connection.queries >= limits.queries {
            connection.state = State::Finishing(ClientCloseReason::Queries);
        } else if connection.last_query_by.is_some() && connection.state == State::Open {
            connection.state = State::Finishing(ClientCloseReason::Closing);
        }
        Some(connection.client)
    }

    /// Returns whether the connection may bring another query at once.
    pub(crate) fn may_continue(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).is_some_and(ClientConnection::may_continue)
    }

    /// Ends a query of the connection, with its answer if there is one, which must fit a frame.
    pub(crate) fn conclude(
        &mut self,
        slot: ConnectionSlot,
        answer: Option<&[u8]>,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) {
        let overload = self.is_overloaded(limits);
        let Some(connection) = self.connection_mut(slot) else { return };
        connection.in_flight -= 1;
        connection.close_when_idle = overload;
        let (is_idle, is_gone) = (connection.in_flight == 0, connection.state == State::Gone);
        self.in_flight -= 1;
        if is_idle {
            self.set_busy(self.busy - 1);
        }
        if is_gone {
            if is_idle {
                self.forget(slot);
            }
            return;
        }
        if let Some(bytes) = answer {
            self.write(slot, bytes, now);
        }
        self.review(slot, now);
    }

    /// A query has ended without an answer: its client would wait for that as long as the connection
    /// is open, which is soon closed unless it is used for others.
    pub(crate) fn leave_unanswered(
        &mut self,
        slot: ConnectionSlot,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) {
        if let Some(connection) = self.connection_mut(slot) {
            connection.unanswered_since = Some(now);
        }
        self.conclude(slot, None, limits, now);
    }

    /// Writes an answer; alone, one that is not the query's last: a part of a transfer. The
    /// connection ends with one that does not fit a frame, because a transfer cannot skip it.
    pub(crate) fn write(&mut self, slot: ConnectionSlot, answer: &[u8], now: Tick) {
        let Some(connection) = self.connection_mut(slot) else { return };
        if matches!(connection.state, State::Ended(_) | State::Gone) {
            return;
        }
        if !connection.output.push_frame(answer) {
            return self.end(slot, ClientCloseReason::Transfer);
        }
        connection.blocked = connection.blocked.or(Some(now));
        connection.active = now;
        let full = connection.output.len() > OUTPUT_FULL;
        self.output_total += answer.len() + 2;
        if full && self.output_total > OUTPUT_TOTAL_MAX {
            self.end(slot, ClientCloseReason::WriteBacklog);
        } else {
            self.mark_pending(slot);
        }
    }

    /// Returns the bytes to be written.
    pub(crate) fn output(&self, slot: ConnectionSlot) -> &[u8] {
        self.connection(slot).map_or(&[], |s| s.output.pending())
    }

    /// The engine has written this many of them.
    pub(crate) fn written(&mut self, slot: ConnectionSlot, count: usize, now: Tick) {
        let Some(connection) = self.connection_mut(slot) else { return };
        let count = count.min(connection.output.len());
        connection.output.advance(count);
        if count > 0 {
            connection.blocked = (!connection.output.is_empty()).then_some(now);
            connection.active = now;
        }
        self.output_total -= count;
        self.review(slot, now);
    }

    /// Applies what follows from any change: the connection ends, continues with what it holds, or
    /// the engine's interest changes. While its frames are taken out nothing follows:
    /// [`ClientConnections::put_frames`] calls this again.
    fn review(&mut self, slot: ConnectionSlot, now: Tick) {
        let share = self.share();
        let Some(connection) = self.connection_mut(slot).filter(|s| !s.frames_taken) else { return };
        connection.in_flight_share = connection.in_flight_max.min(share);
        if connection.close_when_idle && connection.in_flight == 0 && !connection.frames.has_more() {
            connection.stop(ClientCloseReason::Overload);
            self.count_unfinished(slot);
        }
        let Some(connection) = self.connection_mut(slot) else { return };
        if let Some(why) = connection.is_finished() {
            return self.end(slot, why);
        }
        let resumes = connection.holds_queries();
        let changes = connection.interest() != connection.applied;
        if changes && connection.may_read() && connection.partial_since.is_some() {
            // The time that we did not read does not count against the client.
            connection.partial_since = Some(now);
        }
        if resumes {
            self.table.mark_resumable(slot);
        }
        if changes {
            self.mark_pending(slot);
        }
        self.note_idle(slot);
    }

    /// Returns whether the engine may read: the connection is open, and nothing that was read
    /// waits.
    pub(crate) fn may_read(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).is_some_and(ClientConnection::may_read)
    }

    /// Stops queries: it ends when all answers are written.
    pub(crate) fn finish(&mut self, slot: ConnectionSlot, why: ClientCloseReason, now: Tick) {
        let Some(connection) = self.connection_mut(slot) else { return };
        connection.stop(why);
        self.count_unfinished(slot);
        self.review(slot, now);
    }

    /// Ends it at once.
    pub(crate) fn end(&mut self, slot: ConnectionSlot, why: ClientCloseReason) {
        let Some(connection) = self.connection_mut(slot) else { return };
        if !matches!(connection.state, State::Ended(_) | State::Gone) {
            connection.state = State::Ended(why);
            self.idle.remove(slot.index());
            self.mark_pending(slot);
        }
    }

    /// The engine has closed it.
    pub(crate) fn closed(&mut self, slot: ConnectionSlot) {
        let Some(connection) = self.connection_mut(slot).filter(|s| s.state != State::Gone) else { return };
        connection.state = State::Gone;
        (connection.listener_permit, connection.client_permit, connection.permit) = (None, None, None);
        let bytes = connection.output.len();
        connection.output = Outbound::new();
        let idle = connection.in_flight == 0;
        self.forget_unfinished(slot);
        self.output_total -= bytes;
        self.open -= 1;
        self.idle.remove(slot.index());
        if idle {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: ConnectionSlot) {
        self.table.remove(slot);
    }

    fn mark_pending(&mut self, slot: ConnectionSlot) {
        self.table.mark_pending(slot);
    }

    /// Returns a connection with pending work for the engine.
    pub(crate) fn next_pending(&mut self) -> Option<ConnectionSlot> {
        while let Some(slot) = self.table.next_pending() {
            if self.connection(slot).is_some_and(|c| c.state != State::Gone) {
                return Some(slot);
            }
        }
        None
    }

    /// Returns the number of connections with pending work; an upper bound.
    pub(crate) fn pending_count(&self) -> usize {
        self.table.pending_count()
    }

    /// Returns what the engine must do with it, and records that it knows.
    pub(crate) fn interest(&mut self, slot: ConnectionSlot) -> ClientInterest {
        let Some(connection) = self.connection_mut(slot) else {
            return ClientInterest::Close(ClientCloseReason::Closing);
        };
        connection.applied = connection.interest();
        connection.applied
    }

    /// Returns whether a transfer may add to the connection's output; if not, `waiting` is resumed
    /// when it may.
    pub(crate) fn takes_more(&mut self, slot: ConnectionSlot, waiting: Route) -> bool {
        let Some(connection) = self.connection_mut(slot) else { return true };
        let takes = connection.output.len() <= OUTPUT_FULL;
        connection.waiting_backends.retain(|f| *f != waiting);
        if !takes {
            connection.waiting_backends.push(waiting);
        }
        takes
    }

    /// Removes a backend connection that has ended from those that wait.
    pub(crate) fn stop_waiting(&mut self, slot: ConnectionSlot, waiting: Route) {
        if let Some(connection) = self.connection_mut(slot) {
            connection.waiting_backends.retain(|f| *f != waiting);
        }
    }

    /// Returns a backend connection that waited for this one, if it may continue; to be called
    /// until there is none.
    pub(crate) fn next_waiting(&mut self, slot: ConnectionSlot) -> Option<Route> {
        let connection = self.connection_mut(slot)?;
        if connection.output.len() > OUTPUT_FULL / 2
            && !matches!(connection.state, State::Ended(_) | State::Gone)
        {
            return None;
        }
        connection.waiting_backends.pop()
    }

    /// Returns whether the connection is closed for answers.
    pub(crate) fn is_over(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).is_none_or(|s| matches!(s.state, State::Ended(_) | State::Gone))
    }

    /// Returns the connections of a listener.
    pub(crate) fn of(&self, listener: ListenerSlot) -> Vec<ConnectionSlot> {
        let open = self.table.iter().map(|(_, c)| c).filter(|s| s.state == State::Open);
        open.filter(|s| s.client.listener == listener).filter_map(|s| s.client.connection).collect()
    }

    /// Returns the queries in flight, of all connections.
    pub(crate) const fn in_flight(&self) -> u32 {
        self.in_flight
    }
}
