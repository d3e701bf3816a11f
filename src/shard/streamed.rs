//! The shard's part in clients' connections: octets in, octets out, and what the engine is to do.
//!
//! A message of a stream takes the path of every query: `on_query` here, `on_response` there. What
//! they decide is brought to the stream by `Shard::conclude`, the one place where a query of a
//! stream ends.

use std::sync::atomic::Ordering::Relaxed;

use super::case::Protocol;
use super::streams::{Arrival, LineEnd, StreamEnd, StreamWish};
use super::verdict::{DropReason, Verdict};
use super::{Shard, answer_edns};
use crate::addr::{Client, Endpoint, ListenerSlot, LocalSlot, PassageSlot, Route, StreamSlot};
use crate::config::snapshot::{Listener, ProxyHeader};
use crate::packet::Packet;
use crate::time::TickDelta;
use crate::tls::{Reason, ServerTls, TlsFacts};
use crate::wire::answer::{self, Flags};
use crate::wire::frame::Flow;
use crate::wire::header::rcode;
use crate::wire::keepalive;
use crate::wire::proxy;

/// Octets before a message for what edits put in front.
pub(super) const HEADROOM: usize = 64;
/// And behind it for what they add.
const TAILROOM: usize = 4_096;
/// A message with its room.
const SCRATCH: usize = HEADROOM + MESSAGE_MAX + TAILROOM;
/// A message that a frame can hold, octets.
const MESSAGE_MAX: usize = u16::MAX as usize;
/// Queries of a connection after which the engine is asked whether there is time for more: each costs
/// between a fifth of a microsecond and, with rules in Lua, some tens.
const QUERIES_PER_CHECK: usize = 32;
/// The client of a connection that has been closed may take its last answers in this time.
const LINGER: TickDelta = TickDelta::from_ms(1_000);

/// Something for the engine to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// For a client's connection; see [`Shard::stream_wish`].
    Stream(StreamSlot),
    /// For a line; see [`Shard::line_wish`].
    Line(Route),
    /// For a connection or flow of a forward; see [`Shard::passage_wish`].
    Passage(PassageSlot),
}

/// Asks the engine whether it has to see to something else. The shard knows no time.
pub type IsOver<'o> = &'o mut dyn FnMut() -> bool;

/// A step of the work on one connection: messages, at most so many, as long as there is time.
pub(super) struct Step<'o> {
    done: usize,
    most: usize,
    is_over: IsOver<'o>,
}

/// What became of a step by [`Shard::resume_next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// No connection holds anything that can be looked at.
    Nothing,
    /// The connection whose turn it is has more in its turn.
    GoesOn,
    /// Its turn is over.
    Done,
}

impl<'o> Step<'o> {
    /// One of at most so many messages.
    pub(super) fn of(most: usize, is_over: IsOver<'o>) -> Self {
        Self { done: 0, most, is_over }
    }

    /// After a message: whether another one follows in this step, if it may follow at all.
    pub(super) fn then(&mut self, flow: Flow) -> Flow {
        self.done += 1;
        let stops = self.done >= self.most || self.done.is_multiple_of(QUERIES_PER_CHECK) && (self.is_over)();
        if stops { Flow::Stop } else { flow }
    }
}

impl Shard {
    /// A client has connected to a listener; `local` is the address that it asked, where that is
    /// a wildcard's. None, and counted, when the connection is to be closed at once.
    pub fn on_accept(&mut self, peer: Endpoint, listener: &Listener, local: LocalSlot) -> Option<StreamSlot> {
        let taken = self.accept(peer, listener, local);
        let counts = &self.page().streams;
        counts.opened.add(1);
        if let Err(why) = taken {
            counts.ended(why).add(1);
        }
        counts.open.store(self.streams.open_count(), Relaxed);
        taken.ok()
    }

    fn accept(
        &mut self,
        peer: Endpoint,
        listener: &Listener,
        local: LocalSlot,
    ) -> Result<StreamSlot, StreamEnd> {
        // As the configuration in force has it, unless it has let the listener go.
        let listener = self.listener(listener.slot).unwrap_or(listener);
        let proxy = &self.snapshot.globals.proxy;
        let header_due = listener.proxy != ProxyHeader::Ignored && proxy.peers.contains(&peer.ip);
        let by_header = header_due && proxy.acl_to_client;
        if !by_header && !self.snapshot.acl.contains(&peer.ip) {
            return Err(StreamEnd::Acl);
        }
        let tls = listener.service.tls().is_some();
        let arrival = Arrival {
            client: Client { peer, listener: listener.slot, local, stream: None },
            protocol: if tls { Protocol::DoT } else { Protocol::DoTcp },
            handshake: tls,
            in_flight_max: listener.streams.in_flight,
            header_due,
            header_outside: listener.proxy == ProxyHeader::Outside,
            counts: !by_header,
            listener_max: listener.streams.connections,
        };
        self.streams.open(arrival, &self.snapshot.globals.streams, self.now)
    }

    /// What a listener's connections are encrypted with, as the configuration in force has it.
    #[must_use]
    pub fn tls_of(&self, listener: ListenerSlot) -> Option<&ServerTls> {
        self.snapshot.listeners.iter().find(|l| l.slot == listener)?.service.tls().map(|tls| &**tls)
    }

    /// The TLS handshake of a client's connection is done.
    pub fn on_stream_handshake(&mut self, stream: StreamSlot, facts: TlsFacts<'_>) {
        let Some((client, _)) = self.streams.facts(stream) else { return };
        self.page().handshakes(client.listener).done(facts.resumed);
        let limits = &self.snapshot.globals.streams;
        self.streams.shaken(stream, facts.sni, facts.resumed, limits, self.now);
    }

    /// TLS has failed on a client's connection, which the engine then closes, for this reason.
    pub fn on_stream_failure(&mut self, stream: StreamSlot, why: Reason) -> StreamEnd {
        if !self.streams.is_handshaking(stream) {
            return StreamEnd::Broken;
        }
        if let Some((client, _)) = self.streams.facts(stream) {
            self.page().handshakes(client.listener).failed(why).add(1);
        }
        StreamEnd::Handshake
    }

    /// Octets of a client that brought nothing yet: a part of a handshake, or of a record. They
    /// count as a read all the same.
    pub fn on_stream_fragment(&mut self, stream: StreamSlot) {
        self.streams.on_read(stream, &self.snapshot.globals.streams, self.now);
    }

    /// How a client's query came.
    pub(super) fn protocol(&self, client: Client) -> Protocol {
        client.stream.and_then(|s| self.streams.facts(s)).map_or(Protocol::DoUdp, |(_, protocol)| protocol)
    }

    /// Octets of a client. What is to be sent at once as a datagram goes to `out`; what there is no time
    /// for is kept, see [`Shard::resume_next`].
    pub fn on_stream_octets(
        &mut self,
        stream: StreamSlot,
        mut octets: &[u8],
        is_over: IsOver<'_>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        if !self.streams.on_read(stream, &self.snapshot.globals.streams, self.now) {
            return;
        }
        if self.streams.header_is_due(stream) {
            let used = self.on_header_octets(stream, octets);
            octets = &octets[used.min(octets.len())..];
            if octets.is_empty() {
                return;
            }
        } else if self.wants.origin.headers && self.streams.is_fresh(stream) && proxy::is_header(octets, true)
        {
            self.streams.end(stream, StreamEnd::Proxy);
            return;
        }
        let Some(mut frames) = self.streams.take_frames(stream) else { return };
        let fed = if self.streams.may_go_on(stream) {
            let mut step = Step::of(self.streams.turn_left(stream), is_over);
            frames.feed(octets, &mut |message| step.then(self.stream_query(stream, message, out)))
        } else {
            Ok(0)
        };
        match fed {
            Ok(used) => frames.keep(&octets[used..]),
            Err(_) => self.streams.end(stream, StreamEnd::BadFrame),
        }
        self.streams.put_frames(stream, frames, self.now);
    }

    /// One query of a stream; whether another may follow.
    fn stream_query(
        &mut self,
        stream: StreamSlot,
        message: &[u8],
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) -> Flow {
        let limits = &self.snapshot.globals.streams;
        let Some(client) = self.streams.begin(stream, limits, self.now) else { return Flow::Stop };
        if keepalive::may_be_there(message) && keepalive::is_asked(message) {
            self.streams.ask_keepalive(stream);
        }
        self.with_scratch(message, |shard, packet| {
            let verdict = shard.on_query(client, packet);
            if let verdict @ Verdict::Forward(_) = shard.conclude(client, verdict, packet) {
                out(verdict, packet.bytes_mut());
            }
        });
        if self.streams.may_go_on(stream) { Flow::Go } else { Flow::Stop }
    }

    /// Has a message looked at in a buffer with room for edits.
    pub(super) fn with_scratch(&mut self, message: &[u8], look: impl FnOnce(&mut Self, &mut Packet<'_>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(SCRATCH, 0);
        scratch[HEADROOM..HEADROOM + message.len()].copy_from_slice(message);
        look(self, &mut Packet::new(&mut scratch, HEADROOM, message.len()));
        self.scratch = scratch;
    }

    /// What a verdict on a query or its answer means for the client's connection: an answer is
    /// written to it, and a query that is answered or dropped is over. For a datagram's client the
    /// verdict stays.
    pub(super) fn conclude(&mut self, client: Client, verdict: Verdict, packet: &mut Packet<'_>) -> Verdict {
        let Some(stream) = client.stream else { return verdict };
        match verdict {
            Verdict::Answer(_) | Verdict::Deliver(_) => {
                let fits = packet.len() <= MESSAGE_MAX || self.shorten(packet);
                let limits = &self.snapshot.globals.streams;
                if let Some(timeout) = self.streams.keepalive(stream, limits) {
                    // An answer without EDNS, or without room for it, goes without.
                    let _ = keepalive::set(packet, timeout);
                }
                self.streams.conclude(stream, fits.then_some(packet.bytes()), limits, self.now);
                Verdict::Hold
            }
            Verdict::Drop(_) => {
                self.streams.conclude(stream, None, &self.snapshot.globals.streams, self.now);
                verdict
            }
            Verdict::Forward(_) | Verdict::Hold => verdict,
        }
    }

    /// Makes an answer that rules have made longer than a frame can hold one that says so. False
    /// when its question cannot be read.
    fn shorten(&self, packet: &mut Packet<'_>) -> bool {
        self.drop(DropReason::AnswerTooLong);
        let flags = Flags { ra: Some(false), ..Flags::default() };
        answer::rcode(packet, u16::from(rcode::SERVFAIL), flags, answer_edns(&self.snapshot))
    }

    /// A client's query ends without an answer.
    pub(super) fn lose(&mut self, client: Client, reason: DropReason) {
        self.drop(reason);
        if let Some(stream) = client.stream {
            self.streams.conclude(stream, None, &self.snapshot.globals.streams, self.now);
        }
    }

    /// The client sends no more; what it has asked is still answered.
    pub fn on_stream_end(&mut self, stream: StreamSlot) {
        self.streams.finish(stream, StreamEnd::Client, self.now);
    }

    /// The engine has closed the connection, as it was asked to or because it broke.
    pub fn on_stream_closed(&mut self, stream: StreamSlot, why: StreamEnd) {
        self.streams.closed(stream);
        let counts = &self.page().streams;
        counts.ended(why).add(1);
        counts.open.store(self.streams.open_count(), Relaxed);
        while let Some(line) = self.streams.fed(stream) {
            // The transfer that fed it has nobody to go to.
            self.lines.end(line, LineEnd::Done);
        }
    }

    /// The connections that came by a listener, of those that may bring queries.
    #[must_use]
    pub fn streams_of(&self, listener: ListenerSlot) -> Vec<StreamSlot> {
        self.streams.of(listener)
    }

    /// Connections of one listener, or of all, take no more queries, apart from one that they were
    /// made for or have begun to send; they end when all that they asked is answered.
    pub fn finish_streams(&mut self, listener: Option<ListenerSlot>) {
        self.streams.finish_listener(listener, self.now);
    }

    /// The same for one connection, whose listener is closed.
    pub fn finish_stream(&mut self, stream: StreamSlot) {
        self.streams.finish_closing(stream, self.now);
    }

    /// Open connections of clients.
    #[must_use]
    pub const fn streams_open(&self) -> u32 {
        self.streams.open_count()
    }

    /// Octets to be written to a client.
    #[must_use]
    pub fn stream_output(&self, stream: StreamSlot) -> &[u8] {
        self.streams.output(stream)
    }

    /// So many of them were written.
    pub fn stream_written(&mut self, stream: StreamSlot, count: usize) {
        self.streams.written(stream, count, self.now);
        while let Some(line) = self.streams.fed(stream) {
            self.lines.resume(line, self.now);
        }
    }

    /// What the engine should do with a client's connection, and does: it is told again only when
    /// it is to do something else.
    #[must_use]
    pub fn stream_wish(&mut self, stream: StreamSlot) -> StreamWish {
        self.streams.wish(stream)
    }

    /// Whether a connection that is to be closed was answered a moment ago, while its client may
    /// still be sending: octets that nobody reads would have it reset, and the client's kernel
    /// throw away answers that were not read yet.
    #[must_use]
    pub fn stream_lingers(&self, stream: StreamSlot) -> bool {
        self.streams.lingers(stream, LINGER, self.now)
    }

    /// Whether the engine may read a client's connection at this time: whatever it was told to watch
    /// for, what was read before comes first.
    #[must_use]
    pub fn stream_may_read(&self, stream: StreamSlot) -> bool {
        self.streams.may_read(stream)
    }

    /// What has just made room for a new connection or flow: to be closed before that is opened, so
    /// that the process never has more descriptors than it may.
    pub fn take_evicted(&mut self) -> Option<Chore> {
        let stream = self.streams.take_evicted().map(Chore::Stream);
        stream.or_else(|| self.passages.take_evicted().map(Chore::Passage))
    }

    /// Whether a client's connection can be accepted at this time.
    #[must_use]
    pub fn may_accept(&self) -> bool {
        self.streams.may_accept(self.now)
    }

    /// The kernel has no descriptor or memory for a new connection: the least used one ends, which
    /// [`Shard::take_evicted`] then names. False when there is none that could.
    pub fn make_room(&mut self) -> bool {
        self.streams.make_room(self.now) || self.passages.make_room(self.now)
    }

    /// The next thing for the engine to do. The kinds take turns: none waits for another that always
    /// has something.
    pub fn next_chore(&mut self) -> Option<Chore> {
        for _ in 0..3 {
            self.chore_kind = (self.chore_kind + 1) % 3;
            let chore = match self.chore_kind {
                0 => self.lines.next_chore().map(Chore::Line),
                1 => self.streams.next_chore().map(Chore::Stream),
                _ => self.passages.next_chore().map(Chore::Passage),
            };
            if chore.is_some() {
                return chore;
            }
        }
        None
    }

    /// Things for the engine to do; perhaps fewer.
    #[must_use]
    pub fn chores(&self) -> usize {
        self.lines.chores_count() + self.streams.chores_count() + self.passages.chores_count()
    }

    /// Connections that hold messages which can be looked at; perhaps fewer.
    #[must_use]
    pub fn resumable(&self) -> usize {
        self.lines.resumable_count() + self.streams.resumable_count()
    }

    /// Goes on, by one step, with what the connection holds whose turn it is.
    pub fn resume_next(&mut self, is_over: IsOver<'_>, out: &mut dyn FnMut(Verdict, &mut [u8])) -> Resumed {
        // Lines first: what they hold frees what queries wait for.
        if let Some(line) = self.lines.next_resumable() {
            self.resume_line(line, is_over, out);
            return if self.lines.end_step(line) { Resumed::GoesOn } else { Resumed::Done };
        }
        let Some(stream) = self.streams.next_resumable() else { return Resumed::Nothing };
        if let Some(mut frames) = self.streams.take_frames(stream) {
            let mut step = Step::of(self.streams.turn_left(stream), is_over);
            let fed = frames.resume(&mut |message| step.then(self.stream_query(stream, message, out)));
            if fed.is_err() {
                self.streams.end(stream, StreamEnd::BadFrame);
            }
            self.streams.put_frames(stream, frames, self.now);
        }
        if self.streams.end_step(stream) { Resumed::GoesOn } else { Resumed::Done }
    }

    /// Ends connections whose time is up.
    pub(super) fn sweep(&mut self) {
        self.streams.sweep(&self.snapshot.globals.streams, self.now);
        let (outstanding, snapshot) = (&self.outstanding, &self.snapshot);
        self.lines.sweep(
            self.now,
            |route| outstanding.live_on(route),
            |backend| snapshot.backend(backend).map(|b| &b.lines),
        );
    }
}
