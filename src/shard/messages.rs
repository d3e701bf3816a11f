//! Turns bytes of connections into messages for the pipeline, and lists the engine's pending work
//! for connections.
//!
//! ```text
//!  client's bytes ──► frames ─► a query ────► on_query ────► the client's output, or a backend's
//!  backend's bytes ─► frames ─► a response ► on_response ─► the client's output, or a datagram
//! ```
//!
//! A connection gets a limited time per turn; what it has sent beyond that is kept, see
//! [`Shard::resume_next`].

use crate::base::addr::{ConnectionSlot, Route, SessionSlot};
use crate::shard::Shard;
use crate::shard::pipeline::Out;
use crate::shard::verdict::Verdict;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::wire::frame::Flow;
use crate::wire::keepalive;
use crate::wire::proxy;

/// Messages of a connection between two checks of the time: each takes between a fifth of a
/// microsecond and, with Lua rules, some tens.
const MESSAGES_PER_CHECK: usize = 32;

/// Pending work for the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingWork {
    /// For a client connection; see [`Shard::client_interest`].
    Client(ConnectionSlot),
    /// For a backend connection; see [`Shard::backend_interest`].
    Backend(Route),
    /// For a relay session; see [`Shard::relay_interest`].
    Relay(SessionSlot),
}

/// Kinds of pending work, which alternate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WorkKind {
    #[default]
    Relay,
    Backend,
    Client,
}

impl WorkKind {
    const fn next(self) -> Self {
        match self {
            Self::Relay => Self::Backend,
            Self::Backend => Self::Client,
            Self::Client => Self::Relay,
        }
    }
}

/// Asks the engine whether its time is up. The shard reads no clock.
pub type IsOver<'o> = &'o mut dyn FnMut() -> bool;

/// A step of the work on one connection: a bounded number of messages, as long as there is time.
struct Step<'o> {
    done: usize,
    most: usize,
    is_over: IsOver<'o>,
}

/// Outcome of a step by [`Shard::resume_next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// No connection holds a message that can be handled.
    Nothing,
    /// The connection has more to do in its turn.
    HasMore,
    /// Its turn is over.
    Done,
}

impl<'o> Step<'o> {
    /// A step of at most this many messages.
    fn of(most: usize, is_over: IsOver<'o>) -> Self {
        Self { done: 0, most, is_over }
    }

    /// After a message: returns whether another one may follow in this step.
    fn then(&mut self, flow: Flow) -> Flow {
        self.done += 1;
        let stops =
            self.done >= self.most || self.done.is_multiple_of(MESSAGES_PER_CHECK) && (self.is_over)();
        if stops { Flow::Stop } else { flow }
    }
}

impl Shard {
    /// Handles bytes from a client. Datagrams to be sent go to `out`; messages for which there is
    /// no time are kept.
    pub fn on_client_bytes(
        &mut self,
        connection: ConnectionSlot,
        mut bytes: &[u8],
        is_over: IsOver<'_>,
        out: Out<'_>,
    ) {
        let (cx, clients) = (&self.cx, &mut self.connections.clients);
        if !clients.on_read(connection, cx.client_limits(), cx.now) {
            return;
        }
        if clients.header_is_due(connection) {
            let used = clients.on_header_bytes(cx, connection, bytes);
            bytes = &bytes[used.min(bytes.len())..];
            if bytes.is_empty() {
                return;
            }
        } else if cx.needs.proxy_headers && clients.is_fresh(connection) && proxy::is_header(bytes, true) {
            return clients.end(connection, ClientCloseReason::Proxy);
        }
        let Some(mut frames) = clients.take_frames(connection) else { return };
        let parsed = if clients.may_continue(connection) {
            let mut step = Step::of(clients.turn_left(connection), is_over);
            frames.feed(bytes, &mut |message| step.then(self.client_query(connection, message, out)))
        } else {
            Ok(0)
        };
        match parsed {
            Ok(used) => frames.keep(&bytes[used..]),
            Err(_) => self.connections.clients.end(connection, ClientCloseReason::BadFrame),
        }
        self.connections.clients.put_frames(connection, frames, self.cx.now);
    }

    /// Handles one query of a client connection; returns whether another may follow.
    fn client_query(&mut self, connection: ConnectionSlot, message: &[u8], out: Out<'_>) -> Flow {
        let (cx, clients) = (&self.cx, &mut self.connections.clients);
        let Some(client) = clients.begin(connection, cx.client_limits(), cx.now) else { return Flow::Stop };
        if keepalive::may_be_there(message) && keepalive::is_asked(message) {
            clients.ask_keepalive(connection);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut packet = scratch.load(message);
        if let verdict @ Verdict::Forward(_) = self.on_query(client, &mut packet) {
            out(verdict, packet.bytes_mut());
        }
        self.scratch = scratch;
        if self.connections.clients.may_continue(connection) { Flow::Go } else { Flow::Stop }
    }

    /// The engine has closed the connection, as requested or because it failed.
    pub fn on_client_closed(&mut self, connection: ConnectionSlot, why: ClientCloseReason) {
        let connections = &mut self.connections;
        connections.clients.on_closed(&self.cx, connection, why);
        while let Some(route) = connections.clients.next_waiting(connection) {
            // The client of its transfer is gone.
            connections.backends.end(route, BackendCloseReason::Done);
        }
    }

    /// The engine has written this many bytes of a client's output.
    pub fn client_written(&mut self, connection: ConnectionSlot, count: usize) {
        let (connections, now) = (&mut self.connections, self.cx.now);
        connections.clients.written(connection, count, now);
        while let Some(route) = connections.clients.next_waiting(connection) {
            connections.backends.resume(route, now);
        }
    }

    /// Handles bytes from a server. Answers that leave as datagrams go to `out`; messages for which
    /// there is no time are kept.
    pub fn on_backend_bytes(&mut self, route: Route, bytes: &[u8], is_over: IsOver<'_>, out: Out<'_>) {
        let Some(mut frames) = self.connections.backends.take_frames(route) else { return };
        let parsed = if self.connections.backends.may_continue(route) {
            let mut step = Step::of(usize::MAX, is_over);
            frames.feed(bytes, &mut |message| step.then(self.backend_message(route, message, out)))
        } else {
            Ok(0)
        };
        match parsed {
            Ok(used) => frames.keep(&bytes[used..]),
            Err(_) => self.connections.backends.end(route, BackendCloseReason::BadFrame),
        }
        self.connections.backends.put_frames(route, frames);
    }

    /// Handles one message of a backend connection; returns whether the next may follow.
    fn backend_message(&mut self, route: Route, message: &[u8], out: Out<'_>) -> Flow {
        let owed = self.dispatcher.outstanding.live_on(route);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut packet = scratch.load(message);
        let verdict = self.on_response(route, &mut packet);
        match verdict {
            Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Forward(_) => {
                out(verdict, packet.bytes_mut());
            }
            Verdict::Drop(_) | Verdict::Hold => {}
        }
        self.scratch = scratch;
        let backends = &mut self.connections.backends;
        let flow =
            if verdict == Verdict::Hold && !backends.may_continue(route) { Flow::Stop } else { Flow::Go };
        let answers = self.dispatcher.outstanding.live_on(route) < owed || backends.is_transferring(route);
        backends.on_message(route, answers, self.cx.now);
        flow
    }

    /// Continues with the messages that a backend connection holds.
    fn resume_backend(&mut self, route: Route, is_over: IsOver<'_>, out: Out<'_>) {
        let Some(mut frames) = self.connections.backends.take_frames(route) else { return };
        let mut step = Step::of(usize::MAX, is_over);
        if self.connections.backends.may_continue(route)
            && frames.resume(&mut |message| step.then(self.backend_message(route, message, out))).is_err()
        {
            self.connections.backends.end(route, BackendCloseReason::BadFrame);
        }
        self.connections.backends.put_frames(route, frames);
        if self.connections.backends.is_drained(route) {
            return self.on_backend_closed(route, Some(BackendCloseReason::Closed), out);
        }
        // It may be read again.
        self.connections.backends.mark_pending(route);
    }

    /// Continues, by one step, with what the next connection in turn holds.
    pub fn resume_next(&mut self, is_over: IsOver<'_>, out: Out<'_>) -> Resumed {
        // Backends first: their messages free what queries wait for.
        if let Some(route) = self.connections.backends.next_resumable() {
            self.resume_backend(route, is_over, out);
            let has_more = self.connections.backends.end_step(route);
            return if has_more { Resumed::HasMore } else { Resumed::Done };
        }
        let Some(connection) = self.connections.clients.next_resumable() else { return Resumed::Nothing };
        if let Some(mut frames) = self.connections.clients.take_frames(connection) {
            let mut step = Step::of(self.connections.clients.turn_left(connection), is_over);
            let parsed = frames.resume(&mut |message| step.then(self.client_query(connection, message, out)));
            if parsed.is_err() {
                self.connections.clients.end(connection, ClientCloseReason::BadFrame);
            }
            self.connections.clients.put_frames(connection, frames, self.cx.now);
        }
        if self.connections.clients.end_step(connection) { Resumed::HasMore } else { Resumed::Done }
    }

    /// Returns the number of connections that hold messages which can be handled; an upper bound.
    #[must_use]
    pub fn resumable(&self) -> usize {
        self.connections.backends.resumable_count() + self.connections.clients.resumable_count()
    }

    /// Returns the next pending work. The kinds alternate, so that none waits for another that
    /// always has some.
    pub fn next_pending(&mut self) -> Option<PendingWork> {
        let connections = &mut self.connections;
        for _ in 0..3 {
            self.work_kind = self.work_kind.next();
            let work = match self.work_kind {
                WorkKind::Relay => self.relay.next_pending().map(PendingWork::Relay),
                WorkKind::Backend => connections.backends.next_pending().map(PendingWork::Backend),
                WorkKind::Client => connections.clients.next_pending().map(PendingWork::Client),
            };
            if work.is_some() {
                return work;
            }
        }
        None
    }

    /// Returns the number of items of pending work; an upper bound.
    #[must_use]
    pub fn pending(&self) -> usize {
        let connections = &self.connections;
        connections.backends.pending_count()
            + connections.clients.pending_count()
            + self.relay.pending_count()
    }
}
