//! A connection over TCP or TLS that carries DNS messages, at either end.
//!
//! It has the socket and the bytes on their way in both directions, and knows nothing of queries.

use std::io::{self, ErrorKind, Read, Write};

use socket2::Socket;

use crate::tls::session::Session;
use crate::wire::frame::{Flow, Frames, Outbound};

/// Bytes taken by one read.
const READ: usize = 16 << 10;
/// Reads of one turn, so that the other connections have theirs.
const READS_MAX: usize = 8;
/// Output that may wait, bytes: a peer that reads nothing gets no more.
pub(crate) const OUTPUT_MAX: usize = 1 << 20;

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    frames: Frames,
    /// The PROXY header: it goes out before everything else, and outside of TLS.
    proxy_header: Outbound,
    out: Outbound,
    tls: Option<Session>,
    plaintext: Vec<u8>,
}

/// What a read has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// The connection goes on.
    Yes,
    /// The peer has closed it in order.
    Closed,
}

impl Stream {
    /// Takes over a socket that does not block; with TLS, its session.
    pub(crate) const fn new(socket: Socket, tls: Option<Session>) -> Self {
        let proxy_header = Outbound::new();
        Self { socket, frames: Frames::new(), proxy_header, out: Outbound::new(), tls, plaintext: Vec::new() }
    }

    /// Returns the socket.
    pub(crate) const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns whether the output is full.
    pub(crate) const fn is_full(&self) -> bool {
        self.out.len() > OUTPUT_MAX
    }

    /// Returns whether the TLS handshake is incomplete.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(Session::is_handshaking)
    }

    /// Returns whether a message has come in part.
    pub(crate) fn is_partial(&self) -> bool {
        self.frames.is_partial()
    }

    /// Begins the connection with a PROXY header.
    pub(crate) fn begin_with(&mut self, proxy_header: &[u8]) {
        self.proxy_header.push_raw(proxy_header);
    }

    /// Adds a message to the output, also when that is full: who does not read from the peer meanwhile
    /// keeps it bounded.
    pub(crate) fn push_anyway(&mut self, message: &[u8]) -> bool {
        self.out.push_frame(message)
    }

    /// Adds a message to the output.
    pub(crate) fn push(&mut self, message: &[u8]) -> bool {
        !self.is_full() && self.out.push_frame(message)
    }

    /// Reads what has come, into a buffer of the caller's, and calls `each` with every message.
    ///
    /// # Errors
    /// Those of the operating system, of TLS and of frames, which are invalid data: the connection is to
    /// be closed.
    pub(crate) fn read(&mut self, buffer: &mut Vec<u8>, each: &mut dyn FnMut(&[u8])) -> io::Result<Open> {
        buffer.resize(READ, 0);
        let mut all = |message: &[u8]| {
            each(message);
            Flow::Go
        };
        for _ in 0..READS_MAX {
            let n = match self.socket.read(buffer) {
                Ok(0) => return Ok(Open::Closed),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let bytes = match &mut self.tls {
                None => &buffer[..n],
                Some(session) => {
                    self.plaintext.clear();
                    session.on_bytes(&buffer[..n], &mut self.plaintext).map_err(io::Error::other)?;
                    &self.plaintext
                }
            };
            let fed = self.frames.feed(bytes, &mut all);
            fed.map_err(|e| io::Error::new(ErrorKind::InvalidData, e.to_string()))?;
            if self.tls.as_ref().is_some_and(Session::peer_closed) {
                return Ok(Open::Closed);
            }
            if n < READ {
                break;
            }
        }
        Ok(Open::Yes)
    }

    /// Writes what the socket takes; returns whether there is more.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn write(&mut self) -> io::Result<bool> {
        loop {
            let begins = !self.proxy_header.is_empty();
            if begins {
                // Below.
            } else if let Some(session) = &mut self.tls {
                let taken = session.send(self.out.pending());
                self.out.advance(taken);
                if !session.wants_write() {
                    return Ok(false);
                }
                match session.write_to(&mut self.socket) {
                    Ok(_) => continue,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                    Err(e) => return Err(e),
                }
            }
            let out = if begins { &mut self.proxy_header } else { &mut self.out };
            if out.is_empty() {
                return Ok(false);
            }
            match self.socket.write(out.pending()) {
                Ok(n) => out.advance(n),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
