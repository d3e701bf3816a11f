//! The shard's part in clients' connections: bytes in, bytes out, and what the engine is to do.
//!
//! A message of a stream takes the path of every query: `on_query` here, `on_response` there. What
//! they decide is brought to the stream by `Shard::conclude`, the one place where a query of a
//! stream ends.

use std::sync::atomic::Ordering::Relaxed;

use crate::base::addr::{Client, ConnectionSlot, Endpoint, ListenerSlot, LocalSlot, Route, SessionSlot};
use crate::base::packet::Packet;
use crate::base::time::TickDelta;
use crate::model::{Listener, ProxyHeader};
use crate::rules::query_state::Protocol;
use crate::shard::client::{Accepted, ClientInterest};
use crate::shard::verdict::Verdict;
use crate::shard::{Shard, answer_edns};
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::tls::{Reason, ServerTls, TlsFacts};
use crate::wire::answer::Flags;
use crate::wire::frame::Flow;
use crate::wire::header::rcode;
use crate::wire::{answer, keepalive, proxy};

/// Bytes before a message for what edits put in front.
pub(crate) const HEADROOM: usize = 64;
/// And behind it for what they add.
const TAILROOM: usize = 4_096;
/// A message with its room.
const SCRATCH: usize = HEADROOM + MESSAGE_MAX + TAILROOM;
/// A message that a frame can hold, bytes.
const MESSAGE_MAX: usize = u16::MAX as usize;
/// Queries of a connection after which the engine is asked whether there is time for more: each costs
/// between a fifth of a microsecond and, with rules in Lua, some tens.
const QUERIES_PER_CHECK: usize = 32;
/// The client of a connection that has been closed may take its last answers in this time.
const LINGER: TickDelta = TickDelta::from_ms(1_000);

/// Something for the engine to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingWork {
    /// For a client's connection; see [`Shard::client_interest`].
    Client(ConnectionSlot),
    /// For a line; see [`Shard::backend_interest`].
    Backend(Route),
    /// For a connection or flow of a forward; see [`Shard::relay_interest`].
    Relay(SessionSlot),
}

/// Asks the engine whether it has to see to something else. The shard knows no time.
pub type IsOver<'o> = &'o mut dyn FnMut() -> bool;

/// A step of the work on one connection: messages, at most so many, as long as there is time.
pub(crate) struct Step<'o> {
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
    pub(crate) fn of(most: usize, is_over: IsOver<'o>) -> Self {
        Self { done: 0, most, is_over }
    }

    /// After a message: whether another one follows in this step, if it may follow at all.
    pub(crate) fn then(&mut self, flow: Flow) -> Flow {
        self.done += 1;
        let stops = self.done >= self.most || self.done.is_multiple_of(QUERIES_PER_CHECK) && (self.is_over)();
        if stops { Flow::Stop } else { flow }
    }
}

impl Shard {
    /// A client has connected to a listener; `local` is the address that it asked, where that is
    /// a wildcard's. None, and counted, when the connection is to be closed at once.
    pub fn on_accept(
        &mut self,
        peer: Endpoint,
        listener: &Listener,
        local: LocalSlot,
    ) -> Option<ConnectionSlot> {
        let taken = self.accept(peer, listener, local);
        let counts = &self.stats().clients;
        counts.opened.add(1);
        if let Err(why) = taken {
            counts.ended(why).add(1);
        }
        counts.open.store(self.clients.open_count(), Relaxed);
        taken.ok()
    }

    fn accept(
        &mut self,
        peer: Endpoint,
        listener: &Listener,
        local: LocalSlot,
    ) -> Result<ConnectionSlot, ClientCloseReason> {
        // As the configuration in force has it, unless it has let the listener go.
        let listener = self.listener(listener.slot).unwrap_or(listener);
        let proxy = &self.snapshot.globals.proxy;
        let header_due = listener.proxy != ProxyHeader::Ignored && proxy.peers.contains(&peer.ip);
        let by_header = header_due && proxy.acl_to_client;
        if !by_header && !self.snapshot.acl.contains(&peer.ip) {
            return Err(ClientCloseReason::Acl);
        }
        let tls = listener.service.tls().is_some();
        let arrival = Accepted {
            client: Client { peer, listener: listener.slot, local, connection: None },
            protocol: if tls { Protocol::DoT } else { Protocol::DoTcp },
            handshake: tls,
            in_flight_max: listener.connection_options.in_flight,
            header_due,
            header_outside: listener.proxy == ProxyHeader::Outside,
            counts: !by_header,
            listener_max: listener.connection_options.connections,
        };
        self.clients.open(arrival, &self.snapshot.globals.client_connections, self.now)
    }

    /// What a listener's connections are encrypted with, as the configuration in force has it.
    #[must_use]
    pub fn tls_of(&self, listener: ListenerSlot) -> Option<&ServerTls> {
        self.snapshot.listeners.iter().find(|l| l.slot == listener)?.service.tls().map(|tls| &**tls)
    }

    /// The TLS handshake of a client's connection is done.
    pub fn on_client_handshake(&mut self, connection: ConnectionSlot, facts: TlsFacts<'_>) {
        let Some((client, _)) = self.clients.facts(connection) else { return };
        self.stats().handshakes(client.listener).done(facts.resumed);
        let limits = &self.snapshot.globals.client_connections;
        self.clients.shaken(connection, facts.sni, facts.resumed, limits, self.now);
    }

    /// TLS has failed on a client's connection, which the engine then closes, for this reason.
    pub fn on_client_failure(&mut self, connection: ConnectionSlot, why: Reason) -> ClientCloseReason {
        if !self.clients.is_handshaking(connection) {
            return ClientCloseReason::Broken;
        }
        if let Some((client, _)) = self.clients.facts(connection) {
            self.stats().handshakes(client.listener).failed(why).add(1);
        }
        ClientCloseReason::Handshake
    }

    /// Bytes of a client that brought nothing yet: a part of a handshake, or of a record. They
    /// count as a read all the same.
    pub fn on_client_fragment(&mut self, connection: ConnectionSlot) {
        self.clients.on_read(connection, &self.snapshot.globals.client_connections, self.now);
    }

    /// How a client's query came.
    pub(crate) fn protocol(&self, client: Client) -> Protocol {
        client
            .connection
            .and_then(|s| self.clients.facts(s))
            .map_or(Protocol::DoUdp, |(_, protocol)| protocol)
    }

    /// Bytes of a client. What is to be sent at once as a datagram goes to `out`; what there is no time
    /// for is kept, see [`Shard::resume_next`].
    pub fn on_client_bytes(
        &mut self,
        connection: ConnectionSlot,
        mut bytes: &[u8],
        is_over: IsOver<'_>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        if !self.clients.on_read(connection, &self.snapshot.globals.client_connections, self.now) {
            return;
        }
        if self.clients.header_is_due(connection) {
            let used = self.on_header_bytes(connection, bytes);
            bytes = &bytes[used.min(bytes.len())..];
            if bytes.is_empty() {
                return;
            }
        } else if self.wants.proxied.headers
            && self.clients.is_fresh(connection)
            && proxy::is_header(bytes, true)
        {
            self.clients.end(connection, ClientCloseReason::Proxy);
            return;
        }
        let Some(mut frames) = self.clients.take_frames(connection) else { return };
        let fed = if self.clients.may_go_on(connection) {
            let mut step = Step::of(self.clients.turn_left(connection), is_over);
            frames.feed(bytes, &mut |message| step.then(self.client_query(connection, message, out)))
        } else {
            Ok(0)
        };
        match fed {
            Ok(used) => frames.keep(&bytes[used..]),
            Err(_) => self.clients.end(connection, ClientCloseReason::BadFrame),
        }
        self.clients.put_frames(connection, frames, self.now);
    }

    /// One query of a stream; whether another may follow.
    fn client_query(
        &mut self,
        connection: ConnectionSlot,
        message: &[u8],
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) -> Flow {
        let limits = &self.snapshot.globals.client_connections;
        let Some(client) = self.clients.begin(connection, limits, self.now) else { return Flow::Stop };
        if keepalive::may_be_there(message) && keepalive::is_asked(message) {
            self.clients.ask_keepalive(connection);
        }
        self.with_scratch(message, |shard, packet| {
            let verdict = shard.on_query(client, packet);
            if let verdict @ Verdict::Forward(_) = shard.conclude(client, verdict, packet) {
                out(verdict, packet.bytes_mut());
            }
        });
        if self.clients.may_go_on(connection) { Flow::Go } else { Flow::Stop }
    }

    /// Has a message looked at in a buffer with room for edits.
    pub(crate) fn with_scratch(&mut self, message: &[u8], look: impl FnOnce(&mut Self, &mut Packet<'_>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(SCRATCH, 0);
        scratch[HEADROOM..HEADROOM + message.len()].copy_from_slice(message);
        look(self, &mut Packet::new(&mut scratch, HEADROOM, message.len()));
        self.scratch = scratch;
    }

    /// What a verdict on a query or its answer means for the client's connection: an answer is
    /// written to it, and a query that is answered or dropped is over. For a datagram's client the
    /// verdict stays.
    pub(crate) fn conclude(&mut self, client: Client, verdict: Verdict, packet: &mut Packet<'_>) -> Verdict {
        let Some(connection) = client.connection else { return verdict };
        match verdict {
            Verdict::Answer(_) | Verdict::Deliver(_) => {
                let fits = packet.len() <= MESSAGE_MAX || self.shorten(packet);
                let limits = &self.snapshot.globals.client_connections;
                if let Some(timeout) = self.clients.keepalive(connection, limits) {
                    // An answer without EDNS, or without room for it, goes without.
                    let _ = keepalive::set(packet, timeout);
                }
                self.clients.conclude(connection, fits.then_some(packet.bytes()), limits, self.now);
                Verdict::Hold
            }
            Verdict::Drop(_) => {
                self.clients.conclude(connection, None, &self.snapshot.globals.client_connections, self.now);
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
    pub(crate) fn lose(&mut self, client: Client, reason: DropReason) {
        self.drop(reason);
        if let Some(connection) = client.connection {
            self.clients.conclude(connection, None, &self.snapshot.globals.client_connections, self.now);
        }
    }

    /// The client sends no more; what it has asked is still answered.
    pub fn on_client_end(&mut self, connection: ConnectionSlot) {
        self.clients.finish(connection, ClientCloseReason::Client, self.now);
    }

    /// The engine has closed the connection, as it was asked to or because it broke.
    pub fn on_client_closed(&mut self, connection: ConnectionSlot, why: ClientCloseReason) {
        self.clients.closed(connection);
        let counts = &self.stats().clients;
        counts.ended(why).add(1);
        counts.open.store(self.clients.open_count(), Relaxed);
        while let Some(route) = self.clients.fed(connection) {
            // The transfer that fed it has nobody to go to.
            self.backends.end(route, BackendCloseReason::Done);
        }
    }

    /// The connections that came by a listener, of those that may bring queries.
    #[must_use]
    pub fn clients_of(&self, listener: ListenerSlot) -> Vec<ConnectionSlot> {
        self.clients.of(listener)
    }

    /// Connections of one listener, or of all, take no more queries, apart from one that they were
    /// made for or have begun to send; they end when all that they asked is answered.
    pub fn finish_clients(&mut self, listener: Option<ListenerSlot>) {
        self.clients.finish_listener(listener, self.now);
    }

    /// The same for one connection, whose listener is closed.
    pub fn finish_client(&mut self, connection: ConnectionSlot) {
        self.clients.finish_closing(connection, self.now);
    }

    /// Open connections of clients.
    #[must_use]
    pub const fn clients_open(&self) -> u32 {
        self.clients.open_count()
    }

    /// Bytes to be written to a client.
    #[must_use]
    pub fn client_output(&self, connection: ConnectionSlot) -> &[u8] {
        self.clients.output(connection)
    }

    /// So many of them were written.
    pub fn client_written(&mut self, connection: ConnectionSlot, count: usize) {
        self.clients.written(connection, count, self.now);
        while let Some(route) = self.clients.fed(connection) {
            self.backends.resume(route, self.now);
        }
    }

    /// What the engine should do with a client's connection, and does: it is told again only when
    /// it is to do something else.
    #[must_use]
    pub fn client_interest(&mut self, connection: ConnectionSlot) -> ClientInterest {
        self.clients.interest(connection)
    }

    /// Whether a connection that is to be closed was answered a moment ago, while its client may
    /// still be sending: bytes that nobody reads would have it reset, and the client's kernel
    /// throw away answers that were not read yet.
    #[must_use]
    pub fn client_close_drains(&self, connection: ConnectionSlot) -> bool {
        self.clients.lingers(connection, LINGER, self.now)
    }

    /// Whether the engine may read a client's connection at this time: whatever it was told to watch
    /// for, what was read before comes first.
    #[must_use]
    pub fn client_may_read(&self, connection: ConnectionSlot) -> bool {
        self.clients.may_read(connection)
    }

    /// What has just made room for a new connection or flow: to be closed before that is opened, so
    /// that the process never has more descriptors than it may.
    pub fn take_evicted(&mut self) -> Option<PendingWork> {
        let connection = self.clients.take_evicted().map(PendingWork::Client);
        connection.or_else(|| self.relay.take_evicted().map(PendingWork::Relay))
    }

    /// Whether a client's connection can be accepted at this time.
    #[must_use]
    pub fn may_accept(&self) -> bool {
        self.clients.may_accept(self.now)
    }

    /// The kernel has no descriptor or memory for a new connection: the least used one ends, which
    /// [`Shard::take_evicted`] then names. False when there is none that could.
    pub fn make_room(&mut self) -> bool {
        self.clients.make_room(self.now) || self.relay.make_room(self.now)
    }

    /// The next thing for the engine to do. The kinds take turns: none waits for another that always
    /// has something.
    pub fn next_pending(&mut self) -> Option<PendingWork> {
        for _ in 0..3 {
            self.pending_kind = (self.pending_kind + 1) % 3;
            let mark_pending = match self.pending_kind {
                0 => self.backends.next_pending().map(PendingWork::Backend),
                1 => self.clients.next_pending().map(PendingWork::Client),
                _ => self.relay.next_pending().map(PendingWork::Relay),
            };
            if mark_pending.is_some() {
                return mark_pending;
            }
        }
        None
    }

    /// Things for the engine to do; perhaps fewer.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.backends.pending_count() + self.clients.pending_count() + self.relay.pending_count()
    }

    /// Connections that hold messages which can be looked at; perhaps fewer.
    #[must_use]
    pub fn resumable(&self) -> usize {
        self.backends.resumable_count() + self.clients.resumable_count()
    }

    /// Goes on, by one step, with what the connection holds whose turn it is.
    pub fn resume_next(&mut self, is_over: IsOver<'_>, out: &mut dyn FnMut(Verdict, &mut [u8])) -> Resumed {
        // Lines first: what they hold frees what queries wait for.
        if let Some(route) = self.backends.next_resumable() {
            self.resume_backend(route, is_over, out);
            return if self.backends.end_step(route) { Resumed::GoesOn } else { Resumed::Done };
        }
        let Some(connection) = self.clients.next_resumable() else { return Resumed::Nothing };
        if let Some(mut frames) = self.clients.take_frames(connection) {
            let mut step = Step::of(self.clients.turn_left(connection), is_over);
            let fed = frames.resume(&mut |message| step.then(self.client_query(connection, message, out)));
            if fed.is_err() {
                self.clients.end(connection, ClientCloseReason::BadFrame);
            }
            self.clients.put_frames(connection, frames, self.now);
        }
        if self.clients.end_step(connection) { Resumed::GoesOn } else { Resumed::Done }
    }

    /// Ends connections whose time is up.
    pub(crate) fn sweep(&mut self) {
        self.clients.sweep(&self.snapshot.globals.client_connections, self.now);
        let (outstanding, snapshot) = (&self.outstanding, &self.snapshot);
        self.backends.sweep(
            self.now,
            |route| outstanding.live_on(route),
            |backend| snapshot.backend(backend).map(|b| &b.connections),
        );
    }
}
