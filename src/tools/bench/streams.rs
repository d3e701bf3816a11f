//! The connections of one thread of `dnslob bench`, over TCP or TLS.
//!
//! ```text
//!  apart ──(time)──► connecting ──► open ──► apart       its queries are lost where it ends
//! ```
//! Queries are pipelined (RFC 7766, 6.2.1.1); answers may come in any order. A connection that the
//! server ends is made again: at once if it has answered, after a pause if not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::time::{Tick, TickDelta};
use crate::engine::clock;
use crate::tls::client::ClientTls;
use crate::tls::session::Session;
use crate::tools::bench::asker::{Asker, Lane};
use crate::tools::bench::datagrams::BATCH;
use crate::tools::load::sockets;
use crate::tools::load::stream::{Open, Stream};
use crate::tools::load::waiter::Waiter;

/// The pause before another attempt where a connection has failed.
const PAUSE: TickDelta = TickDelta::from_ms(100);
/// Connections that are begun in one turn, so that a thousand do not overflow the server's queue.
const BEGUN_MAX: usize = 64;

/// The state of a connection.
#[derive(Debug)]
enum State {
    /// There is none until then.
    Apart(Tick),
    /// It is being made.
    Connecting(Stream),
    Open(Stream),
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
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Streams {
    target: SocketAddr,
    tls: Option<Arc<ClientTls>>,
    connections: Vec<Connection>,
    next: usize,
    buffer: Vec<u8>,
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
            lane: asker.lane(),
            from: *from,
            writable: false,
            answered: false,
        });
        Self { target, tls, connections: connections.collect(), next: 0, buffer: Vec::new() }
    }

    /// Begins connections whose time it is.
    pub(crate) fn connect(&mut self, asker: &mut Asker, waiter: &Waiter, now: Tick) {
        let mut begun = 0;
        for (number, connection) in self.connections.iter_mut().enumerate() {
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
                    (connection.state, connection.writable) = (State::Connecting(stream), true);
                    begun += 1;
                }
                Err(_) => {
                    asker.tally.counts().connect_errors += 1;
                    connection.state = State::Apart(now + PAUSE);
                }
            }
            if begun == BEGUN_MAX {
                return;
            }
        }
    }

    /// Returns whether no connection is open.
    pub(crate) fn is_apart(&self) -> bool {
        !self.connections.iter().any(|connection| matches!(connection.state, State::Open(_)))
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
        let Some(Connection { state, lane, answered, .. }) = self.connections.get_mut(number) else { return };
        if let State::Connecting(stream) = state {
            match stream.socket().take_error() {
                Ok(None) if writable => {
                    if let State::Connecting(stream) = std::mem::replace(state, State::Apart(Tick(0))) {
                        *state = State::Open(stream);
                        asker.tally.counts().connections += 1;
                    }
                }
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => {
                    asker.tally.counts().connect_errors += 1;
                    self.end(asker, number);
                    return;
                }
            }
        }
        let State::Open(stream) = state else { return };
        if readable {
            let before = asker.tally.counts().answered;
            let outcome = stream.read(&mut self.buffer, &mut |message| {
                asker.take(lane, message, clock::now());
            });
            *answered |= asker.tally.counts().answered > before;
            match outcome {
                Ok(Open::Yes) => {}
                Ok(Open::Closed) => return self.end(asker, number),
                Err(_) => {
                    if stream.is_handshaking() {
                        asker.tally.counts().connect_errors += 1;
                    }
                    return self.end(asker, number);
                }
            }
        }
        self.write(asker, waiter, number);
    }

    /// Writes what a connection takes, and waits for the rest.
    fn write(&mut self, asker: &mut Asker, waiter: &Waiter, number: usize) {
        let connection = &mut self.connections[number];
        let State::Open(stream) = &mut connection.state else { return };
        let Ok(pending) = stream.write() else { return self.end(asker, number) };
        if pending != connection.writable {
            connection.writable = pending;
            if waiter.modify(stream.socket(), number as u64, pending).is_err() {
                self.end(asker, number);
            }
        }
    }

    fn end(&mut self, asker: &mut Asker, number: usize) {
        let connection = &mut self.connections[number];
        asker.lose_all(&mut connection.lane, |counts| &mut counts.closed);
        let pause = if std::mem::take(&mut connection.answered) { TickDelta(0) } else { PAUSE };
        connection.state = State::Apart(clock::now() + pause);
    }

    /// Gives up what was sent too long ago.
    pub(crate) fn expire(&mut self, asker: &mut Asker, now: Tick, timeout: TickDelta) {
        for connection in &mut self.connections {
            asker.expire(&mut connection.lane, now, timeout);
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
