//! The connections of one thread of `dnslob bench`, over TCP or TLS.
//!
//! ```text
//!  apart ──(time)──► making: TCP, TLS ──► open ──► apart     its queries are lost where it ends
//!    ▲                  └── failed ──┐
//!    └───────────────────────────────┘
//! ```
//! Queries are pipelined (RFC 7766, 6.2.1.1); answers may come in any order. A connection that the
//! server ends is made again: at once if it has answered, after a pause if not. No query is given to a
//! connection before its TLS handshake is complete, so that this is no part of a latency.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::time::{Tick, TickDelta};
use crate::engine::clock;
use crate::tls::client::ClientTls;
use crate::tls::session::Session;
use crate::tools::bench::asker::{Asker, Lane};
use crate::tools::bench::datagrams::BATCH;
use crate::tools::load::failures::{Failures, at_handshake, reason};
use crate::tools::load::outstanding::OF_CONNECTION;
use crate::tools::load::sockets;
use crate::tools::load::stream::{Open, Stream};
use crate::tools::load::waiter::Waiter;

/// The pause before another attempt where a connection has failed.
const PAUSE: TickDelta = TickDelta::from_ms(100);
/// How long making a connection may take.
pub(crate) const MAKING: TickDelta = TickDelta::from_ms(5_000);
/// Connections that are being made at a time, so that a thousand do not overflow the server's queue.
const MAKING_MAX: usize = 64;

/// The state of a connection.
#[derive(Debug)]
enum State {
    /// There is none until then.
    Apart(Tick),
    /// It is being made; it fails unless it is open by then.
    Making {
        stream: Stream,
        is_connected: bool,
        until: Tick,
    },
    Open(Stream),
}

impl State {
    const fn stream(&mut self) -> Option<&mut Stream> {
        match self {
            Self::Apart(_) => None,
            Self::Making { stream, .. } | Self::Open(stream) => Some(stream),
        }
    }
}

#[derive(Debug)]
struct Connection {
    state: State,
    lane: Lane,
    from: Option<IpAddr>,
    /// Whether it is waited until it can be written.
    writable: bool,
    /// Whether it has brought an answer.
    answered: bool,
    /// Whether it has been open, or has failed.
    tried: bool,
    /// Since when a message has come in part.
    partial_since: Option<Tick>,
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Streams {
    target: SocketAddr,
    tls: Option<Arc<ClientTls>>,
    connections: Vec<Connection>,
    next: usize,
    buffer: Vec<u8>,
    /// Connections that are open.
    open: usize,
    /// Connections that are being made.
    making: usize,
    /// Connections that have been open, or have failed.
    tried: usize,
    /// Why connections could not be made.
    pub(crate) failures: Failures,
}

impl Streams {
    /// Prepares a connection from each of these addresses.
    pub(crate) fn new(
        target: SocketAddr,
        from: &[Option<IpAddr>],
        tls: Option<Arc<ClientTls>>,
        asker: &mut Asker,
    ) -> Self {
        let connections = from.iter().map(|from| Connection {
            state: State::Apart(Tick(0)),
            lane: asker.lane(OF_CONNECTION),
            from: *from,
            writable: false,
            answered: false,
            tried: false,
            partial_since: None,
        });
        Self {
            target,
            tls,
            connections: connections.collect(),
            next: 0,
            buffer: Vec::new(),
            open: 0,
            making: 0,
            tried: 0,
            failures: Failures::default(),
        }
    }

    /// Returns whether every connection has been open or has failed.
    pub(crate) const fn is_prepared(&self) -> bool {
        self.tried == self.connections.len()
    }

    /// Returns the number of connections that are open.
    pub(crate) const fn open(&self) -> usize {
        self.open
    }

    /// Returns whether no connection is open.
    pub(crate) const fn is_apart(&self) -> bool {
        self.open == 0
    }

    /// Begins connections whose time it is.
    pub(crate) fn connect(&mut self, asker: &mut Asker, waiter: &Waiter, now: Tick) {
        if self.open + self.making == self.connections.len() {
            return;
        }
        for number in 0..self.connections.len() {
            if self.making == MAKING_MAX {
                return;
            }
            let connection = &mut self.connections[number];
            if !matches!(connection.state, State::Apart(until) if until <= now) {
                continue;
            }
            let opened = open(self.target, connection.from, self.tls.as_deref());
            let added = opened.and_then(|stream| {
                waiter.add(stream.socket(), number as u64, true)?;
                Ok(stream)
            });
            match added {
                Ok(stream) => {
                    connection.state = State::Making { stream, is_connected: false, until: now + MAKING };
                    connection.writable = true;
                    self.making += 1;
                }
                Err(error) => self.fail(asker, number, &reason(&error)),
            }
        }
    }

    /// Gives up connections that take too long to be made.
    pub(crate) fn give_up(&mut self, asker: &mut Asker, now: Tick) {
        if self.making == 0 {
            return;
        }
        for number in 0..self.connections.len() {
            if let State::Making { is_connected, until, .. } = self.connections[number].state
                && until <= now
            {
                self.fail(asker, number, &at_handshake(is_connected, "timed out"));
            }
        }
    }

    /// Sends up to so many queries by the connections that are open; returns whether any could be sent.
    pub(crate) fn send(&mut self, asker: &mut Asker, waiter: &Waiter, count: usize) -> bool {
        let all = self.connections.len();
        let each = count.div_ceil(all.max(1)).min(BATCH);
        let mut left = count;
        for _ in 0..all {
            if left == 0 {
                break;
            }
            self.next = if self.next + 1 < all { self.next + 1 } else { 0 };
            left -= self.send_batch(asker, waiter, self.next, each.min(left));
        }
        left < count
    }

    fn send_batch(&mut self, asker: &mut Asker, waiter: &Waiter, number: usize, count: usize) -> usize {
        let Connection { state, lane, .. } = &mut self.connections[number];
        let State::Open(stream) = state else { return 0 };
        let now = clock::now();
        let mut sent = 0;
        while sent < count && !stream.is_full() {
            let Some((id, query)) = asker.ask(lane, now) else { break };
            if stream.push(&asker.message) {
                asker.tally.sent(query.intended, query.sent);
            } else {
                asker.unsent(lane, id);
            }
            sent += 1;
        }
        if sent > 0 {
            self.write(asker, waiter, number);
        }
        sent
    }

    /// Looks after a connection that has something to read or can be written.
    pub(crate) fn on_event(
        &mut self,
        asker: &mut Asker,
        waiter: &Waiter,
        number: usize,
        readable: bool,
        writable: bool,
    ) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let Connection { state, lane, answered, partial_since, .. } = connection;
        if let State::Making { stream, is_connected, .. } = state {
            let was_connected = std::mem::replace(is_connected, true);
            match stream.socket().take_error() {
                Ok(None) if writable || was_connected => {}
                Ok(None) => {
                    *is_connected = false;
                    return;
                }
                Ok(Some(error)) | Err(error) => {
                    return self.fail(asker, number, &at_handshake(was_connected, &reason(&error)));
                }
            }
            if readable && stream.is_handshaking() {
                // There are no messages before the first query.
                let why = match stream.read(&mut self.buffer, &mut |_| {}) {
                    Ok(Open::Yes) => None,
                    Ok(Open::Closed) => Some("closed".to_owned()),
                    Err(error) => Some(reason(&error)),
                };
                if let Some(why) = why {
                    return self.fail(asker, number, &at_handshake(true, &why));
                }
            }
            if !stream.is_handshaking() {
                self.opened(asker, number);
            }
            return self.write(asker, waiter, number);
        }
        let State::Open(stream) = state else { return };
        if readable {
            let before = asker.tally.counts().answered;
            let mut is_whole = false;
            let outcome = stream.read(&mut self.buffer, &mut |message| {
                is_whole = true;
                asker.take(lane, message, clock::now());
            });
            *answered |= asker.tally.counts().answered > before;
            if is_whole || !stream.is_partial() {
                *partial_since = None;
            }
            if stream.is_partial() {
                partial_since.get_or_insert_with(clock::now);
            }
            match outcome {
                Ok(Open::Yes) => {}
                Ok(Open::Closed) => {
                    // It is no DNS that ends so.
                    asker.tally.counts().malformed += u64::from(stream.is_partial());
                    return self.end(asker, number);
                }
                Err(error) => {
                    let is_nonsense = error.kind() == ErrorKind::InvalidData;
                    asker.tally.counts().malformed += u64::from(is_nonsense);
                    return self.end(asker, number);
                }
            }
        }
        self.write(asker, waiter, number);
    }

    /// Notes that a connection can take queries.
    fn opened(&mut self, asker: &mut Asker, number: usize) {
        let connection = &mut self.connections[number];
        let state = std::mem::replace(&mut connection.state, State::Apart(Tick(0)));
        if let State::Making { stream, .. } = state {
            connection.state = State::Open(stream);
            asker.tally.counts().connections += 1;
            self.tried += usize::from(!std::mem::replace(&mut connection.tried, true));
            (self.making, self.open) = (self.making - 1, self.open + 1);
        }
    }

    /// Notes that a connection could not be made.
    fn fail(&mut self, asker: &mut Asker, number: usize, why: &str) {
        let connection = &mut self.connections[number];
        self.making -= usize::from(matches!(connection.state, State::Making { .. }));
        self.tried += usize::from(!std::mem::replace(&mut connection.tried, true));
        connection.state = State::Apart(clock::now() + PAUSE);
        asker.tally.counts().connect_errors += 1;
        self.failures.add(why);
    }

    /// Writes what a connection takes, and waits for the rest.
    fn write(&mut self, asker: &mut Asker, waiter: &Waiter, number: usize) {
        let connection = &mut self.connections[number];
        let Some(stream) = connection.state.stream() else { return };
        let written = stream.write().and_then(|pending| {
            if pending != connection.writable {
                connection.writable = pending;
                waiter.modify(stream.socket(), number as u64, pending)?;
            }
            Ok(())
        });
        if let Err(error) = written {
            match &connection.state {
                State::Making { .. } => self.fail(asker, number, &at_handshake(true, &reason(&error))),
                State::Apart(_) | State::Open(_) => self.end(asker, number),
            }
        }
    }

    /// Notes that an open connection has ended.
    fn end(&mut self, asker: &mut Asker, number: usize) {
        let connection = &mut self.connections[number];
        asker.lose_all(&mut connection.lane, |counts| &mut counts.closed);
        connection.partial_since = None;
        let pause = if std::mem::take(&mut connection.answered) { TickDelta(0) } else { PAUSE };
        connection.state = State::Apart(clock::now() + pause);
        self.open -= 1;
    }

    /// Gives up what was sent too long ago, and connections whose message does not come to its end: it
    /// may be none of DNS, and its length not one.
    pub(crate) fn expire(&mut self, asker: &mut Asker, now: Tick, timeout: TickDelta) {
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            asker.expire(&mut connection.lane, now, timeout);
            if connection.partial_since.is_some_and(|since| since + timeout < now) {
                asker.tally.counts().malformed += 1;
                self.end(asker, number);
            }
        }
    }

    /// Gives up everything.
    pub(crate) fn cut_short(&mut self, asker: &mut Asker) {
        for connection in &mut self.connections {
            asker.lose_all(&mut connection.lane, |counts| &mut counts.cut_short);
        }
    }
}

fn open(target: SocketAddr, from: Option<IpAddr>, tls: Option<&ClientTls>) -> io::Result<Stream> {
    let session = tls.map(|tls| Session::client(tls).map_err(|e| io::Error::other(e.to_string())));
    Ok(Stream::new(sockets::connect(target, from)?, session.transpose()?))
}
