//! Clients' connections: all that is known of each but its socket.
//!
//! ```text
//!  octets ─► frames ─► on_query ... conclude ─► output ─► octets
//!              │ in flight: at most so many      │ at most so much
//!              └──── not read meanwhile ◄────────┘
//! ```
//!
//! An engine owns the sockets, and asks for the next [`Chore`](super::streamed::Chore): write what is in the
//! output, read or do not, close. An idle connection has no buffer. A stream's number is given to
//! another connection only when none of its queries is outstanding any more.

mod closing;
mod end;
mod evict;
mod handshake;
mod invariants;
mod keepalive;
mod overdue;
mod preface;
mod turns;

pub use end::{ForwardEnd, LineEnd, StreamEnd, TryEnd};

use crate::addr::{Client, ListenerSlot, Route, StreamSlot};
use crate::config::snapshot::StreamLimits;
use crate::crowd::{Crowd, Place, Visit, Who};
use crate::descriptors::{Descriptors, Permit};
use crate::shard::case::Protocol;
use crate::shard::recency::{Class, Recency};
use crate::time::Tick;
use crate::wire::frame::{Frames, Outbound};

use std::collections::VecDeque;
use std::sync::Arc;

use preface::Preface;

/// A connection whose output holds so many octets is not read, and no transfer is read for it.
const OUTPUT_FULL: usize = 64 * 1024;
/// Octets of all outputs of a shard; beyond it, connections that do not take theirs are closed.
const OUTPUT_TOTAL_MAX: usize = 256 << 20;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Queries come and answers go.
    Open,
    /// No more queries; it ends when all answers are written.
    Finishing(StreamEnd),
    /// The engine is to close it.
    Ended(StreamEnd),
    /// The engine has closed it; queries of it are outstanding.
    Gone,
}

/// One connection.
#[derive(Debug)]
struct Stream {
    client: Client,
    protocol: Protocol,
    state: State,
    /// Its place in `chores` is taken.
    chore: bool,
    /// Its place in `resumable` is taken.
    resuming: bool,
    /// Queries of its present turn.
    turn: u16,
    /// What the engine was last told.
    told: StreamWish,
    /// Among its listener's connections.
    place: Option<Place>,
    /// As whose it was counted, if it was counted among a client's connections.
    visit: Option<Visit>,
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
    preface: Option<Box<Preface>>,
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
pub(super) struct Streams {
    table: Vec<Option<Stream>>,
    free: Vec<u32>,
    open: u32,
    /// Connections with queries in flight, and how many these are.
    busy: u32,
    in_flight: u32,
    /// Queries that each of these may have in flight.
    busy_share: u16,
    crowd: Arc<Crowd>,
    descriptors: Arc<Descriptors>,
    /// Those that are idle.
    idle: Recency,
    /// The one that has just made room, and is to be closed first of all.
    evicted: Option<StreamSlot>,
    /// Both are served in the order of their coming, so that nobody is passed over.
    chores: VecDeque<StreamSlot>,
    /// Connections that hold whole queries and may go on with them.
    resumable: VecDeque<StreamSlot>,
    output_total: usize,
    /// How far the sweep is, and when it goes on.
    sweep_at: usize,
    swept: Tick,
}

/// What an engine should do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamWish {
    /// Write the output; read more only if so.
    Serve {
        /// Whether more may be read.
        read: bool,
    },
    /// Close it, and tell with [`Shard::on_stream_closed`](super::Shard::on_stream_closed).
    Close(StreamEnd),
}

/// A new connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) client: Client,
    pub(super) protocol: Protocol,
    /// It begins with a TLS handshake.
    pub(super) handshake: bool,
    pub(super) in_flight_max: u16,
    /// Connections that its listener may have; 0 is no limit.
    pub(super) listener_max: u32,
    /// It must begin with a PROXY header.
    pub(super) header_due: bool,
    /// That header stands in front of TLS.
    pub(super) header_outside: bool,
    /// It counts as its peer's connection; otherwise as that of the client which the header names.
    pub(super) counts: bool,
}

impl Streams {
    /// None yet, of the whole `crowd`.
    pub(super) fn new(crowd: Arc<Crowd>, descriptors: Arc<Descriptors>) -> Self {
        Self {
            table: Vec::new(),
            free: Vec::new(),
            open: 0,
            busy: 0,
            in_flight: 0,
            busy_share: u16::MAX,
            crowd,
            descriptors,
            idle: Recency::default(),
            evicted: None,
            chores: VecDeque::new(),
            resumable: VecDeque::new(),
            output_total: 0,
            sweep_at: 0,
            swept: Tick(0),
        }
    }

    /// Takes a connection in, within the limits.
    pub(super) fn open(
        &mut self,
        arrival: Arrival,
        limits: &StreamLimits,
        now: Tick,
    ) -> Result<StreamSlot, StreamEnd> {
        let listener = arrival.client.listener;
        let place = self.crowd.enter(listener, arrival.listener_max, limits)?;
        let visit = if arrival.counts { self.crowd.admit(arrival.client.peer, limits, now)? } else { None };
        let permit = self.permit(now).ok_or(StreamEnd::Descriptors)?;
        let at = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() as u32 - 1
        });
        let slot = StreamSlot(at);
        self.table[slot.index()] = Some(Stream {
            client: Client { stream: Some(slot), ..arrival.client },
            protocol: arrival.protocol,
            state: State::Open,
            chore: false,
            resuming: false,
            turn: 0,
            // Engines watch a new connection for octets.
            told: StreamWish::Serve { read: true },
            place: Some(place),
            visit,
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
            preface: arrival.header_due.then(|| Preface::due(arrival.header_outside)),
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

    fn stream(&self, slot: StreamSlot) -> Option<&Stream> {
        self.table.get(slot.index())?.as_ref()
    }

    fn stream_mut(&mut self, slot: StreamSlot) -> Option<&mut Stream> {
        self.table.get_mut(slot.index())?.as_mut()
    }

    /// Who is at the other end, and how the connection came.
    pub(super) fn facts(&self, slot: StreamSlot) -> Option<(Client, Protocol)> {
        self.stream(slot).map(|s| (s.client, s.protocol))
    }

    /// Open connections.
    pub(super) const fn open_count(&self) -> u32 {
        self.open
    }

    /// Octets were read: whether the connection may go on. Counts reads that bring no query.
    pub(super) fn on_read(&mut self, slot: StreamSlot, limits: &StreamLimits, now: Tick) -> bool {
        let Some(stream) = self.stream_mut(slot).filter(|s| s.state == State::Open) else { return false };
        stream.turn = 0;
        stream.reads += 1;
        if limits.reads_per_query > 0 && stream.reads > limits.reads_per_query {
            // A proxy is not its client: it is not turned away for one of them.
            if stream.visit.is_some() || stream.preface.is_none() {
                let who = stream.who(limits);
                self.crowd.ban(who, now + limits.reads_ban);
            }
            self.end(slot, StreamEnd::Reads);
            return false;
        }
        true
    }

    /// The connection's frames, to be fed; to be given back with [`Streams::put_frames`].
    pub(super) fn take_frames(&mut self, slot: StreamSlot) -> Option<Frames> {
        let stream = self.stream_mut(slot).filter(|s| s.state == State::Open || s.may_go_on())?;
        stream.feeding = true;
        Some(std::mem::take(&mut stream.frames))
    }

    /// Gives the frames back.
    pub(super) fn put_frames(&mut self, slot: StreamSlot, frames: Frames, now: Tick) {
        if let Some(stream) = self.stream_mut(slot) {
            stream.begun = frames.is_partial().then(|| stream.begun.unwrap_or(now));
            stream.frames = frames;
            stream.feeding = false;
            self.review(slot, now);
        }
    }

    /// A whole query has been read: it is in flight. Whether another may follow.
    pub(super) fn begin(&mut self, slot: StreamSlot, limits: &StreamLimits, now: Tick) -> Option<Client> {
        if self.stream(slot)?.in_flight == 0 {
            self.idle.remove(slot.index());
            self.set_busy(self.busy + 1);
        }
        self.in_flight += 1;
        let share = self.share();
        let stream = self.stream_mut(slot)?;
        stream.in_flight += 1;
        stream.in_flight_share = stream.in_flight_max.min(share);
        stream.turn = stream.turn.saturating_add(1);
        stream.queries = stream.queries.wrapping_add(1);
        stream.reads = 0;
        stream.active = now;
        stream.begun = None;
        if limits.queries > 0 && stream.queries >= limits.queries {
            stream.state = State::Finishing(StreamEnd::Queries);
        } else if stream.last_query_by.is_some() && stream.state == State::Open {
            stream.state = State::Finishing(StreamEnd::Closing);
        }
        Some(stream.client)
    }

    /// Whether the connection may bring another query at once.
    pub(super) fn may_go_on(&self, slot: StreamSlot) -> bool {
        self.stream(slot).is_some_and(Stream::may_go_on)
    }

    /// A query of the connection is over; with its answer, if there is one, no longer than a frame
    /// can hold.
    pub(super) fn conclude(
        &mut self,
        slot: StreamSlot,
        answer: Option<&[u8]>,
        limits: &StreamLimits,
        now: Tick,
    ) {
        let overload = self.is_overloaded(limits);
        let Some(stream) = self.stream_mut(slot) else { return };
        stream.in_flight -= 1;
        stream.leaving = overload;
        let (is_idle, is_gone) = (stream.in_flight == 0, stream.state == State::Gone);
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
        if let Some(octets) = answer {
            self.write(slot, octets, now);
        }
        self.review(slot, now);
    }

    /// Writes an answer; by itself, one that is not the query's last: a part of a transfer. One
    /// that is too long for a frame cannot be left out of that.
    pub(super) fn write(&mut self, slot: StreamSlot, answer: &[u8], now: Tick) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if matches!(stream.state, State::Ended(_) | State::Gone) {
            return;
        }
        if !stream.output.push_frame(answer) {
            return self.end(slot, StreamEnd::Transfer);
        }
        stream.blocked = stream.blocked.or(Some(now));
        stream.active = now;
        let full = stream.output.len() > OUTPUT_FULL;
        self.output_total += answer.len() + 2;
        if full && self.output_total > OUTPUT_TOTAL_MAX {
            self.end(slot, StreamEnd::WriteBacklog);
        } else {
            self.chore(slot);
        }
    }

    /// Octets to be written.
    pub(super) fn output(&self, slot: StreamSlot) -> &[u8] {
        self.stream(slot).map_or(&[], |s| s.output.pending())
    }

    /// So many of them were written.
    pub(super) fn written(&mut self, slot: StreamSlot, count: usize, now: Tick) {
        let Some(stream) = self.stream_mut(slot) else { return };
        let count = count.min(stream.output.len());
        stream.output.advance(count);
        if count > 0 {
            stream.blocked = (!stream.output.is_empty()).then_some(now);
            stream.active = now;
        }
        self.output_total -= count;
        self.review(slot, now);
    }

    /// What follows from a change, whichever it was: the connection ends, goes on with what it
    /// holds, or the engine is to do something else than it was last told. Only while its frames
    /// are away nothing follows: [`Streams::put_frames`] sees to it.
    fn review(&mut self, slot: StreamSlot, now: Tick) {
        let share = self.share();
        let Some(stream) = self.stream_mut(slot).filter(|s| !s.feeding) else { return };
        stream.in_flight_share = stream.in_flight_max.min(share);
        if stream.leaving && stream.in_flight == 0 && !stream.frames.has_more() {
            stream.stop(StreamEnd::Overload);
        }
        if let Some(why) = stream.is_finished() {
            return self.end(slot, why);
        }
        let resumes = stream.holds_queries() && !std::mem::replace(&mut stream.resuming, true);
        let changes = stream.wish() != stream.told;
        if changes && stream.may_read() && stream.begun.is_some() {
            // The time that we did not read is not the client's.
            stream.begun = Some(now);
        }
        if resumes {
            self.resumable.push_back(slot);
        }
        if changes {
            self.chore(slot);
        }
        self.note_idle(slot);
    }

    /// Whether the engine may read: the connection is open, and nothing that was read waits.
    pub(super) fn may_read(&self, slot: StreamSlot) -> bool {
        self.stream(slot).is_some_and(Stream::may_read)
    }

    /// No more queries come: it ends when all answers are written.
    pub(super) fn finish(&mut self, slot: StreamSlot, why: StreamEnd, now: Tick) {
        let Some(stream) = self.stream_mut(slot) else { return };
        stream.stop(why);
        self.review(slot, now);
    }

    /// It ends at once.
    pub(super) fn end(&mut self, slot: StreamSlot, why: StreamEnd) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if !matches!(stream.state, State::Ended(_) | State::Gone) {
            stream.state = State::Ended(why);
            self.idle.remove(slot.index());
            self.chore(slot);
        }
    }

    /// The engine has closed it.
    pub(super) fn closed(&mut self, slot: StreamSlot) {
        let Some(stream) = self.stream_mut(slot).filter(|s| s.state != State::Gone) else { return };
        stream.state = State::Gone;
        (stream.place, stream.visit, stream.permit) = (None, None, None);
        let octets = stream.output.len();
        stream.output = Outbound::new();
        stream.frames = Frames::new();
        let idle = stream.in_flight == 0;
        self.output_total -= octets;
        self.open -= 1;
        self.idle.remove(slot.index());
        if idle {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: StreamSlot) {
        self.table[slot.index()] = None;
        self.free.push(slot.0);
    }

    fn chore(&mut self, slot: StreamSlot) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if !std::mem::replace(&mut stream.chore, true) {
            self.chores.push_back(slot);
        }
    }

    /// A connection that the engine has something to do for.
    pub(super) fn next_chore(&mut self) -> Option<StreamSlot> {
        while let Some(slot) = self.chores.pop_front() {
            if let Some(stream) = self.stream_mut(slot) {
                stream.chore = false;
                if stream.state != State::Gone {
                    return Some(slot);
                }
            }
        }
        None
    }

    /// Connections that the engine has something to do for; perhaps some more.
    pub(super) fn chores_count(&self) -> usize {
        self.chores.len()
    }

    /// What the engine should do with it, which from then on it has been told.
    pub(super) fn wish(&mut self, slot: StreamSlot) -> StreamWish {
        let Some(stream) = self.stream_mut(slot) else { return StreamWish::Close(StreamEnd::Closing) };
        stream.told = stream.wish();
        stream.told
    }

    /// Whether a transfer may go on to fill the connection's output; if not, `feeder` is woken
    /// when it may.
    pub(super) fn takes_more(&mut self, slot: StreamSlot, feeder: Route) -> bool {
        let Some(stream) = self.stream_mut(slot) else { return true };
        let takes = stream.output.len() <= OUTPUT_FULL;
        stream.feeders.retain(|f| *f != feeder);
        if !takes {
            stream.feeders.push(feeder);
        }
        takes
    }

    /// A line that has ended waits no more.
    pub(super) fn unfeed(&mut self, slot: StreamSlot, feeder: Route) {
        if let Some(stream) = self.stream_mut(slot) {
            stream.feeders.retain(|f| *f != feeder);
        }
    }

    /// A line that waited for this connection, if it may go on; to be asked until there is none.
    pub(super) fn fed(&mut self, slot: StreamSlot) -> Option<Route> {
        let stream = self.stream_mut(slot)?;
        if stream.output.len() > OUTPUT_FULL / 2 && !matches!(stream.state, State::Ended(_) | State::Gone) {
            return None;
        }
        stream.feeders.pop()
    }

    /// Whether nobody is there any more to take what comes.
    pub(super) fn is_over(&self, slot: StreamSlot) -> bool {
        self.stream(slot).is_none_or(|s| matches!(s.state, State::Ended(_) | State::Gone))
    }

    /// The connections that came by a listener.
    pub(super) fn of(&self, listener: ListenerSlot) -> Vec<StreamSlot> {
        let open = self.table.iter().flatten().filter(|s| s.state == State::Open);
        open.filter(|s| s.client.listener == listener).filter_map(|s| s.client.stream).collect()
    }

    /// Queries in flight, of all connections.
    pub(super) const fn in_flight(&self) -> u32 {
        self.in_flight
    }
}

impl Stream {
    /// As whose it counts where clients are told apart.
    fn who(&self, limits: &StreamLimits) -> Who {
        self.visit.as_ref().map_or_else(|| Who::asks(self.client.peer, limits), Visit::who)
    }

    /// Whether another query that was read may be asked: of a client that has closed its end, too.
    fn may_go_on(&self) -> bool {
        let state = match self.state {
            State::Open | State::Finishing(StreamEnd::Client | StreamEnd::Closing | StreamEnd::Duration) => {
                true
            }
            State::Finishing(_) | State::Ended(_) | State::Gone => false,
        };
        state && self.in_flight < self.in_flight_share && self.output.len() <= OUTPUT_FULL
    }

    /// Whether whole queries that it holds may be asked now.
    fn holds_queries(&self) -> bool {
        self.may_go_on() && self.frames.has_more()
    }

    /// Whether the engine may read.
    fn may_read(&self) -> bool {
        self.state == State::Open && self.may_go_on() && !self.frames.has_more()
    }

    /// Gives the memory of an idle connection back.
    fn rest(&mut self) {
        if self.in_flight == 0 {
            self.output.release();
        }
    }

    /// What the engine should do.
    fn wish(&self) -> StreamWish {
        match self.state {
            State::Open | State::Finishing(_) => StreamWish::Serve { read: self.may_read() },
            State::Ended(why) => StreamWish::Close(why),
            State::Gone => StreamWish::Close(StreamEnd::Closing),
        }
    }

    /// Takes no more octets; what it holds of a query is forgotten.
    fn stop(&mut self, why: StreamEnd) {
        if self.state == State::Open {
            self.state = State::Finishing(why);
            if self.frames.is_partial() {
                self.frames = Frames::new();
            }
            self.begun = None;
        }
    }

    /// Why it is to end now that all it has asked is answered, if that is so.
    fn is_finished(&self) -> Option<StreamEnd> {
        let State::Finishing(why) = self.state else { return None };
        (self.in_flight == 0 && self.output.is_empty() && !self.holds_queries()).then_some(why)
    }
}
