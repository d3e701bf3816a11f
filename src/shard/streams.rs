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

mod end;
mod handshake;
mod keepalive;
mod preface;

pub use end::{ForwardEnd, LineEnd, StreamEnd, TryEnd};

use crate::addr::{Client, ListenerSlot, Route, StreamSlot};
use crate::config::snapshot::StreamLimits;
use crate::crowd::{Crowd, Place, Visit, Who};
use crate::shard::case::Protocol;
use crate::time::{Tick, TickDelta};
use crate::wire::frame::{Frames, Outbound};

use std::sync::Arc;

use preface::Preface;

/// A connection whose output holds so many octets is not read, and no transfer is read for it.
const OUTPUT_FULL: usize = 64 * 1024;
/// Octets of all outputs of a shard; beyond it, connections that do not take theirs are closed.
const OUTPUT_TOTAL_MAX: usize = 256 << 20;
/// The whole table is looked through for time-outs in this time.
const SWEEP: TickDelta = TickDelta::from_ms(500);
/// And a part of it this often.
const SWEEP_STEP: TickDelta = TickDelta::from_ms(50);
/// In overload, idle connections are kept for this part of their time.
const OVERLOAD_HASTE: u64 = 10;

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
    /// Among its listener's connections.
    place: Option<Place>,
    /// As whose it was counted, if it was counted among a client's connections.
    visit: Option<Visit>,
    /// The client would know how long the connection may stay open (RFC 7828).
    keepalive: bool,
    /// Its TLS handshake is not done.
    handshaking: bool,
    /// The server name that its handshake named.
    sni: Option<Box<str>>,
    in_flight: u16,
    in_flight_max: u16,
    /// Reads since the last whole query.
    reads: u32,
    queries: u32,
    opened: Tick,
    /// The last whole query, or answer.
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
}

/// All connections of a shard.
#[derive(Debug)]
pub(super) struct Streams {
    table: Vec<Option<Stream>>,
    free: Vec<u32>,
    open: u32,
    crowd: Arc<Crowd>,
    chores: Vec<StreamSlot>,
    /// Connections that hold whole queries and may go on with them.
    resumable: Vec<StreamSlot>,
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
    pub(super) fn new(crowd: Arc<Crowd>) -> Self {
        Self {
            table: Vec::new(),
            free: Vec::new(),
            open: 0,
            crowd,
            chores: Vec::new(),
            resumable: Vec::new(),
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
            place: Some(place),
            visit,
            keepalive: false,
            handshaking: arrival.handshake,
            sni: None,
            in_flight: 0,
            in_flight_max: arrival.in_flight_max.max(1),
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
        });
        self.open += 1;
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
            if stream.state == State::Open && !stream.may_read() {
                // The engine is to read no more for now.
                self.chore(slot);
            }
            self.after(slot, true, now);
        }
    }

    /// A whole query has been read: it is in flight. Whether another may follow.
    pub(super) fn begin(&mut self, slot: StreamSlot, limits: &StreamLimits, now: Tick) -> Option<Client> {
        let stream = self.stream_mut(slot)?;
        stream.in_flight += 1;
        stream.queries = stream.queries.wrapping_add(1);
        stream.reads = 0;
        stream.active = now;
        stream.begun = None;
        if limits.queries > 0 && stream.queries >= limits.queries {
            stream.state = State::Finishing(StreamEnd::Queries);
        }
        Some(stream.client)
    }

    /// Whether the connection may bring another query at once.
    pub(super) fn may_go_on(&self, slot: StreamSlot) -> bool {
        self.stream(slot).is_some_and(Stream::may_go_on)
    }

    /// A query of the connection is over; with its answer, if there is one.
    pub(super) fn conclude(&mut self, slot: StreamSlot, answer: Option<&[u8]>, now: Tick) {
        let Some(stream) = self.stream_mut(slot) else { return };
        stream.in_flight -= 1;
        if stream.state == State::Gone {
            if stream.in_flight == 0 {
                self.forget(slot);
            }
            return;
        }
        let before = stream.may_read();
        if let Some(octets) = answer {
            self.write(slot, octets, now);
        }
        self.after(slot, before, now);
    }

    /// Writes an answer that is not the query's last.
    pub(super) fn write(&mut self, slot: StreamSlot, answer: &[u8], now: Tick) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if matches!(stream.state, State::Ended(_) | State::Gone) {
            return;
        }
        // Only an answer that was made longer than a frame can hold is not taken.
        if !stream.output.push_frame(answer) {
            return;
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
        let before = stream.may_read();
        let count = count.min(stream.output.len());
        stream.output.advance(count);
        stream.blocked = (!stream.output.is_empty()).then_some(now);
        self.output_total -= count;
        self.after(slot, before, now);
    }

    /// What follows when a query is over or octets were written.
    fn after(&mut self, slot: StreamSlot, could_go_on: bool, now: Tick) {
        let Some(stream) = self.stream_mut(slot) else { return };
        let resumes = stream.may_go_on() && stream.frames.has_more();
        let finished = stream.in_flight == 0 && stream.output.is_empty() && !resumes && !stream.feeding;
        let reads_again = stream.may_read() && !could_go_on;
        if reads_again && stream.begun.is_some() {
            // The time that we did not read is not the client's.
            stream.begun = Some(now);
        }
        if let State::Finishing(why) = stream.state
            && finished
        {
            self.end(slot, why);
        } else if resumes && !stream.feeding {
            self.resumable.push(slot);
        } else if reads_again {
            self.chore(slot);
        }
    }

    /// A connection that holds whole queries and may go on with them.
    pub(super) fn next_resumable(&mut self) -> Option<StreamSlot> {
        self.resumable.pop()
    }

    /// No more queries come: it ends when all answers are written.
    pub(super) fn finish(&mut self, slot: StreamSlot, why: StreamEnd, now: Tick) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if stream.state == State::Open {
            stream.state = State::Finishing(why);
            if stream.frames.is_partial() {
                stream.frames = Frames::new();
            }
            stream.begun = None;
        }
        self.after(slot, true, now);
        // The engine is to read no more.
        self.chore(slot);
    }

    /// It ends at once.
    pub(super) fn end(&mut self, slot: StreamSlot, why: StreamEnd) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if !matches!(stream.state, State::Ended(_) | State::Gone) {
            stream.state = State::Ended(why);
            self.chore(slot);
        }
    }

    /// The engine has closed it.
    pub(super) fn closed(&mut self, slot: StreamSlot) {
        let Some(stream) = self.stream_mut(slot).filter(|s| s.state != State::Gone) else { return };
        stream.state = State::Gone;
        (stream.place, stream.visit) = (None, None);
        let octets = stream.output.len();
        stream.output = Outbound::new();
        stream.frames = Frames::new();
        let idle = stream.in_flight == 0;
        self.output_total -= octets;
        self.open -= 1;
        if idle {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: StreamSlot) {
        self.table[slot.index()] = None;
        self.free.push(slot.0);
    }

    /// Ends what came by a listener that is closed: idle ones at once, others when answered.
    pub(super) fn finish_listener(&mut self, listener: Option<ListenerSlot>, now: Tick) {
        for at in 0..self.table.len() {
            let slot = StreamSlot(at as u32);
            if self.stream(slot).is_some_and(|s| listener.is_none_or(|l| s.client.listener == l)) {
                self.finish(slot, StreamEnd::Closing, now);
            }
        }
    }

    fn chore(&mut self, slot: StreamSlot) {
        let Some(stream) = self.stream_mut(slot) else { return };
        if !std::mem::replace(&mut stream.chore, true) {
            self.chores.push(slot);
        }
    }

    /// A connection that the engine has something to do for.
    pub(super) fn next_chore(&mut self) -> Option<StreamSlot> {
        while let Some(slot) = self.chores.pop() {
            if let Some(stream) = self.stream_mut(slot) {
                stream.chore = false;
                if stream.state != State::Gone {
                    return Some(slot);
                }
            }
        }
        None
    }

    /// What the engine should do with it.
    pub(super) fn wish(&self, slot: StreamSlot) -> StreamWish {
        match self.stream(slot).map(|s| s.state) {
            Some(State::Ended(why)) => StreamWish::Close(why),
            Some(State::Open | State::Finishing(_)) => {
                StreamWish::Serve { read: self.stream(slot).is_some_and(Stream::may_read) }
            }
            Some(State::Gone) | None => StreamWish::Close(StreamEnd::Closing),
        }
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

    /// When [`Streams::sweep`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        if !self.resumable.is_empty() {
            return Some(Tick(0));
        }
        (self.open > 0).then(|| self.swept + SWEEP_STEP)
    }

    /// Ends connections whose time is up; looks at a part of the table at a time.
    pub(super) fn sweep(&mut self, limits: &StreamLimits, now: Tick) {
        let since = now.since(self.swept);
        if since < SWEEP_STEP || self.table.is_empty() {
            return;
        }
        self.swept = now;
        let overload = self.is_overloaded(limits);
        let share = self.table.len() as u64 * since.0.min(SWEEP.0) / SWEEP.0;
        for _ in 0..(share as usize + 1).min(self.table.len()) {
            self.sweep_at = (self.sweep_at + 1) % self.table.len();
            let Some(stream) = &mut self.table[self.sweep_at] else { continue };
            stream.rest();
            let due = stream.overdue(limits, overload, now);
            let slot = StreamSlot(self.sweep_at as u32);
            match due {
                None => {}
                // What it has asked is still answered.
                Some(StreamEnd::Duration) => self.finish(slot, StreamEnd::Duration, now),
                Some(why) => self.end(slot, why),
            }
        }
        self.crowd.tidy(limits, now);
    }

    /// Queries in flight, of all connections; for tests.
    pub(super) fn in_flight(&self) -> u64 {
        self.table.iter().flatten().map(|s| u64::from(s.in_flight)).sum()
    }

    /// Checks what must hold between calls; for tests.
    pub(super) fn check_invariants(&self) {
        let open = self.table.iter().flatten().filter(|s| s.state != State::Gone).count();
        assert_eq!(open, self.open as usize, "open connections are counted");
        let octets: usize = self.table.iter().flatten().map(|s| s.output.len()).sum();
        assert_eq!(octets, self.output_total, "octets to be written are counted");
        for stream in self.table.iter().flatten() {
            assert!(stream.in_flight <= stream.in_flight_max, "no more in flight than may be");
            assert!(stream.state != State::Gone || stream.in_flight > 0, "what is over is forgotten");
        }
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
            State::Open | State::Finishing(StreamEnd::Client | StreamEnd::Closing) => true,
            State::Finishing(_) | State::Ended(_) | State::Gone => false,
        };
        state && self.in_flight < self.in_flight_max && self.output.len() <= OUTPUT_FULL
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

    fn overdue(&self, limits: &StreamLimits, overload: bool, now: Tick) -> Option<StreamEnd> {
        let over = |since: Tick, span: TickDelta| span.0 > 0 && now.since(since) >= span;
        if matches!(self.state, State::Ended(_) | State::Gone) {
            return None;
        }
        if let Some(since) = self.blocked {
            return over(since, limits.send_timeout).then_some(StreamEnd::WriteTimeout);
        }
        if limits.duration.0 > 0 && self.state == State::Open && over(self.opened, limits.duration) {
            return Some(StreamEnd::Duration);
        }
        if self.state != State::Open {
            return None;
        }
        if self.handshaking {
            let haste = if overload { OVERLOAD_HASTE } else { 1 };
            let span = TickDelta(limits.receive_timeout.0 / haste);
            return over(self.opened, span).then_some(StreamEnd::HandshakeTimeout);
        }
        if let Some(since) = self.begun.filter(|_| self.may_go_on()) {
            return over(since, limits.receive_timeout).then_some(StreamEnd::ReadTimeout);
        }
        if self.in_flight > 0 {
            return None;
        }
        if overload {
            let span = TickDelta(limits.receive_timeout.0 / OVERLOAD_HASTE);
            return over(self.active, span).then_some(StreamEnd::Overload);
        }
        over(self.active, limits.receive_timeout).then_some(StreamEnd::Idle)
    }
}
