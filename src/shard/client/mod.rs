//! Clients' connections: all that is known of each but its socket.
//!
//! ```text
//!  bytes ─► frames ─► on_query ... conclude ─► output ─► bytes
//!              │ in flight: at most so many      │ at most so much
//!              └──── not read meanwhile ◄────────┘
//! ```
//!
//! An engine owns the sockets, and asks for the next [`PendingWork`](crate::shard::messages::PendingWork): write what is in the
//! output, read or do not, close. An idle connection has no buffer. A stream's number is given to
//! another connection only when none of its queries is outstanding any more.

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

/// A connection whose output holds so many bytes is not read, and no transfer is read for it.
const OUTPUT_FULL: usize = 64 * 1024;
/// Bytes of all outputs of a shard; beyond it, connections that do not take theirs are closed.
const OUTPUT_TOTAL_MAX: usize = 256 << 20;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Queries come and answers go.
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
    /// Queries of its present turn.
    turn: u16,
    /// What the engine was last told.
    applied: ClientInterest,
    /// Among its listener's connections.
    listener_permit: Option<ListenerPermit>,
    /// As whose it was counted, if it was counted among a client's connections.
    client_permit: Option<ClientPermit>,
    permit: Option<Permit>,
    /// The client would know how long the connection may stay open (RFC 7828).
    keepalive: bool,
    /// Its TLS handshake is not done.
    handshaking: bool,
    /// The server name that its handshake named.
    sni: Option<Box<str>>,
    in_flight: u16,
    in_flight_max: u16,
    /// As many as it may have at present: its share of all.
    in_flight_share: u16,
    /// Its last query that ended did so in overload: it goes as soon as nothing is in flight.
    leaving: bool,
    /// Reads since the last whole query.
    reads: u32,
    queries: u32,
    opened: Tick,
    /// The last whole query, or answer, or when the last answer was taken.
    active: Tick,
    /// When the beginning of the query came that is not whole.
    begun: Option<Tick>,
    /// Since when its output waits to be taken.
    blocked: Option<Tick>,
    /// The PROXY header that it begins with, if it does.
    proxy_header: Option<Box<HeaderReader>>,
    /// Its frames are being looked at.
    feeding: bool,
    frames: Frames,
    output: Outbound,
    /// Lines that wait for this connection to take what it has.
    feeders: Vec<Route>,
    /// Its listener is closed: it may bring the query that it was made for by then, and no other.
    last_query_by: Option<Tick>,
}

/// All connections of a shard.
#[derive(Debug)]
pub(crate) struct ClientConnections {
    table: ConnTable<ConnectionSlot, ClientConnection>,
    open: u32,
    /// Connections with queries in flight, and how many these are.
    busy: u32,
    in_flight: u32,
    /// Queries that each of these may have in flight.
    busy_share: u16,
    connection_limits: Arc<ConnectionLimits>,
    descriptors: Arc<Descriptors>,
    /// Those that are idle.
    idle: Recency,
    /// The one that has just made room, and is to be closed first of all.
    evicted: Option<ConnectionSlot>,
    output_total: usize,
}

/// What an engine should do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientInterest {
    /// Write the output; read more only if so.
    Serve {
        /// Whether more may be read.
        read: bool,
    },
    /// Close it, and tell with [`Shard::on_client_closed`](crate::shard::Shard::on_client_closed).
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
    /// That header stands in front of TLS.
    pub(crate) header_outside: bool,
    /// It counts as its peer's connection; otherwise as that of the client which the header names.
    pub(crate) counts: bool,
}

impl ClientConnections {
    /// None yet, of the whole `connection_limits`.
    pub(crate) fn new(connection_limits: Arc<ConnectionLimits>, descriptors: Arc<Descriptors>) -> Self {
        Self {
            table: ConnTable::default(),
            open: 0,
            busy: 0,
            in_flight: 0,
            busy_share: u16::MAX,
            connection_limits,
            descriptors,
            idle: Recency::default(),
            evicted: None,
            output_total: 0,
        }
    }

    /// Takes a connection in, within the limits.
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
            // Engines watch a new connection for bytes.
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
            leaving: false,
            reads: 0,
            queries: 0,
            opened: now,
            active: now,
            begun: None,
            blocked: None,
            proxy_header: arrival.header_due.then(|| HeaderReader::due(arrival.header_outside)),
            feeding: false,
            frames: Frames::new(),
            output: Outbound::new(),
            feeders: Vec::new(),
            last_query_by: None,
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

    /// Who is at the other end, and how the connection came.
    pub(crate) fn facts(&self, slot: ConnectionSlot) -> Option<(Client, Protocol)> {
        self.connection(slot).map(|s| (s.client, s.protocol))
    }

    /// Open connections.
    pub(crate) const fn open_count(&self) -> u32 {
        self.open
    }

    /// Bytes were read: whether the connection may go on. Counts reads that bring no query.
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
            // A proxy is not its client: it is not turned away for one of them.
            if connection.client_permit.is_some() || connection.proxy_header.is_none() {
                let identity = connection.identity(limits);
                self.connection_limits.ban(identity, now + limits.reads_ban);
            }
            self.end(slot, ClientCloseReason::Reads);
            return false;
        }
        true
    }

    /// The connection's frames, to be fed; to be given back with [`ClientConnections::put_frames`].
    pub(crate) fn take_frames(&mut self, slot: ConnectionSlot) -> Option<Frames> {
        let connection = self.connection_mut(slot).filter(|s| s.state == State::Open || s.may_go_on())?;
        connection.feeding = true;
        Some(std::mem::take(&mut connection.frames))
    }

    /// Gives the frames back.
    pub(crate) fn put_frames(&mut self, slot: ConnectionSlot, frames: Frames, now: Tick) {
        if let Some(connection) = self.connection_mut(slot) {
            connection.begun = frames.is_partial().then(|| connection.begun.unwrap_or(now));
            connection.frames = frames;
            connection.feeding = false;
            self.review(slot, now);
        }
    }

    /// A whole query has been read: it is in flight. Whether another may follow.
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
        connection.begun = None;
        if limits.queries > 0 && connection.queries >= limits.queries {
            connection.state = State::Finishing(ClientCloseReason::Queries);
        } else if connection.last_query_by.is_some() && connection.state == State::Open {
            connection.state = State::Finishing(ClientCloseReason::Closing);
        }
        Some(connection.client)
    }

    /// Whether the connection may bring another query at once.
    pub(crate) fn may_go_on(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).is_some_and(ClientConnection::may_go_on)
    }

    /// A query of the connection is over; with its answer, if there is one, no longer than a frame
    /// can hold.
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
        connection.leaving = overload;
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

    /// Writes an answer; by itself, one that is not the query's last: a part of a transfer. One
    /// that is too long for a frame cannot be left out of that.
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

    /// Bytes to be written.
    pub(crate) fn output(&self, slot: ConnectionSlot) -> &[u8] {
        self.connection(slot).map_or(&[], |s| s.output.pending())
    }

    /// So many of them were written.
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

    /// What follows from a change, whichever it was: the connection ends, goes on with what it
    /// holds, or the engine is to do something else than it was last told. Only while its frames
    /// are away nothing follows: [`ClientConnections::put_frames`] sees to it.
    fn review(&mut self, slot: ConnectionSlot, now: Tick) {
        let share = self.share();
        let Some(connection) = self.connection_mut(slot).filter(|s| !s.feeding) else { return };
        connection.in_flight_share = connection.in_flight_max.min(share);
        if connection.leaving && connection.in_flight == 0 && !connection.frames.has_more() {
            connection.stop(ClientCloseReason::Overload);
        }
        if let Some(why) = connection.is_finished() {
            return self.end(slot, why);
        }
        let resumes = connection.holds_queries();
        let changes = connection.interest() != connection.applied;
        if changes && connection.may_read() && connection.begun.is_some() {
            // The time that we did not read is not the client's.
            connection.begun = Some(now);
        }
        if resumes {
            self.table.mark_resumable(slot);
        }
        if changes {
            self.mark_pending(slot);
        }
        self.note_idle(slot);
    }

    /// Whether the engine may read: the connection is open, and nothing that was read waits.
    pub(crate) fn may_read(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).is_some_and(ClientConnection::may_read)
    }

    /// No more queries come: it ends when all answers are written.
    pub(crate) fn finish(&mut self, slot: ConnectionSlot, why: ClientCloseReason, now: Tick) {
        let Some(connection) = self.connection_mut(slot) else { return };
        connection.stop(why);
        self.review(slot, now);
    }

    /// It ends at once.
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
        connection.frames = Frames::new();
        let idle = connection.in_flight == 0;
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

    /// A connection that the engine has something to do for.
    pub(crate) fn next_pending(&mut self) -> Option<ConnectionSlot> {
        while let Some(slot) = self.table.next_pending() {
            if self.connection(slot).is_some_and(|c| c.state != State::Gone) {
                return Some(slot);
            }
        }
        None
    }

    /// Connections that the engine has something to do for; perhaps some more.
    pub(crate) fn pending_count(&self) -> usize {
        self.table.pending_count()
    }

    /// What the engine should do with it, which from then on it has been told.
    pub(crate) fn interest(&mut self, slot: ConnectionSlot) -> ClientInterest {
        let Some(connection) = self.connection_mut(slot) else {
            return ClientInterest::Close(ClientCloseReason::Closing);
        };
        connection.applied = connection.interest();
        connection.applied
    }

    /// Whether a transfer may go on to fill the connection's output; if not, `feeder` is woken
    /// when it may.
    pub(crate) fn takes_more(&mut self, slot: ConnectionSlot, feeder: Route) -> bool {
        let Some(connection) = self.connection_mut(slot) else { return true };
        let takes = connection.output.len() <= OUTPUT_FULL;
        connection.feeders.retain(|f| *f != feeder);
        if !takes {
            connection.feeders.push(feeder);
        }
        takes
    }

    /// A line that has ended waits no more.
    pub(crate) fn unfeed(&mut self, slot: ConnectionSlot, feeder: Route) {
        if let Some(connection) = self.connection_mut(slot) {
            connection.feeders.retain(|f| *f != feeder);
        }
    }

    /// A line that waited for this connection, if it may go on; to be asked until there is none.
    pub(crate) fn fed(&mut self, slot: ConnectionSlot) -> Option<Route> {
        let connection = self.connection_mut(slot)?;
        if connection.output.len() > OUTPUT_FULL / 2
            && !matches!(connection.state, State::Ended(_) | State::Gone)
        {
            return None;
        }
        connection.feeders.pop()
    }

    /// Whether nobody is there any more to take what comes.
    pub(crate) fn is_over(&self, slot: ConnectionSlot) -> bool {
        self.connection(slot).is_none_or(|s| matches!(s.state, State::Ended(_) | State::Gone))
    }

    /// The connections that came by a listener.
    pub(crate) fn of(&self, listener: ListenerSlot) -> Vec<ConnectionSlot> {
        let open = self.table.iter().map(|(_, c)| c).filter(|s| s.state == State::Open);
        open.filter(|s| s.client.listener == listener).filter_map(|s| s.client.connection).collect()
    }

    /// Queries in flight, of all connections.
    pub(crate) const fn in_flight(&self) -> u32 {
        self.in_flight
    }
}
