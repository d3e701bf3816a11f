//! One TLS connection over bytes: TLS records on one side, plaintext on the other. It knows no
//! socket and no time; deadlines are its owner's.
//!
//! ```text
//!  bytes  ── on_bytes ──►  plaintext, appended to the caller's buffer
//!  bytes  ◄── write_to ──   send(plaintext)
//! ```
//!
//! Plaintext is never kept here: it is in the caller's buffer when `on_bytes` returns, and is
//! shorter than the bytes that contained it. Output is kept up to [`SEND_BYTES_MAX`], input up to
//! one record, or 64 kB of one handshake message.
//!
//! An idle session takes some 8 kB of memory (`tests/tls_memory.rs`), 2 kB before the handshake.
//!
//! After a [`Failure`] there may be an alert for the peer: call [`Session::write_to`] once more,
//! then close.
//! more, then close.

use std::io::{self, BufRead, Write};

use rustls::{ClientConnection, Connection, HandshakeKind, ProtocolVersion, ServerConnection};

use crate::tls::ciphers;
use crate::tls::client::ClientTls;
use crate::tls::failure::{Failure, Reason};
use crate::tls::leaf::Leaf;
use crate::tls::server::ServerTls;
use crate::tls::version::Version;

/// Unwritten bytes above which [`Session::send`] accepts no more: one full record, and space for
/// the head of the next message.
pub const SEND_BYTES_MAX: usize = 18 * 1024;

/// The parameters of an established session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts<'s> {
    /// The version.
    pub version: Version,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The name in the client's hello, in a server's session.
    pub sni: Option<&'s str>,
    /// The cipher, by its OpenSSL name.
    pub cipher: &'static str,
    /// The negotiated ALPN protocol.
    pub alpn: Option<&'s [u8]>,
}

/// One TLS connection, as client or server.
pub struct Session {
    // Some 2 kB, which plain connections should not pay for.
    tls: Box<Connection>,
    /// Whether the peer's hello was understood.
    handshake_started: bool,
    failure: Option<Failure>,
    peer_closed: bool,
}

impl Session {
    /// Creates the session of a client that has connected to a listener.
    ///
    /// # Errors
    ///
    /// What rustls refuses of the configuration: nothing, once it was loaded.
    pub fn server(tls: &ServerTls) -> Result<Self, Failure> {
        let connection = ServerConnection::new(tls.config());
        connection.map(|tls| Self::new(tls.into())).map_err(|e| Failure::of(&e, true))
    }

    /// Creates the session of a connection to a backend; it has output at once.
    ///
    /// # Errors
    ///
    /// What rustls refuses of the configuration: nothing, once it was loaded.
    pub fn client(tls: &ClientTls) -> Result<Self, Failure> {
        Self::towards(tls, false)
    }

    /// The same with a full handshake, in which the backend presents its certificate; the result
    /// decides whether sessions are resumed.
    ///
    /// # Errors
    ///
    /// As [`Session::client`].
    pub fn check(tls: &ClientTls) -> Result<Self, Failure> {
        Self::towards(tls, true)
    }

    fn towards(tls: &ClientTls, full: bool) -> Result<Self, Failure> {
        let connection = ClientConnection::new(tls.config(full), tls.name());
        connection.map(|tls| Self::new(tls.into())).map_err(|e| Failure::of(&e, true))
    }

    fn new(mut tls: Connection) -> Self {
        tls.set_buffer_limit(Some(SEND_BYTES_MAX));
        Self { tls: Box::new(tls), handshake_started: false, failure: None, peer_closed: false }
    }

    /// Takes received bytes, all of them, and appends the plaintext in them.
    ///
    /// Bytes after the peer's close are ignored (RFC 8446, section 6.1: "Any data received after a
    /// closure alert has been received MUST be ignored").
    ///
    /// # Errors
    ///
    /// The session has failed; plaintext before the error is appended. Every later call returns the
    /// same error.
    pub fn on_bytes(&mut self, mut bytes: &[u8], plaintext: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        while !bytes.is_empty() && !self.peer_closed {
            match self.tls.read_tls(&mut bytes) {
                // It reads no more after the peer's close.
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => return Err(self.fail(Failure::new(Reason::Other, e.to_string()))),
            }
            let state = self.tls.process_new_packets();
            self.take(plaintext);
            match state {
                Ok(state) => self.peer_closed |= state.peer_has_closed(),
                Err(e) => {
                    let failure = Failure::of(&e, self.handshake_started);
                    return Err(self.fail(failure));
                }
            }
            self.handshake_started |= self.tls.protocol_version().is_some();
        }
        Ok(())
    }

    /// Takes the end of the connection.
    ///
    /// # Errors
    ///
    /// During the handshake. Later, a missing close alert is no error: many peers send none, and a
    /// truncated message is detected by its length.
    pub fn on_end(&mut self) -> Result<(), Failure> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None if self.tls.is_handshaking() => {
                let text = "the connection ended in the middle of the handshake";
                Err(self.fail(Failure::new(Reason::UnexpectedEof, text)))
            }
            None => Ok(()),
        }
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.failure = Some(failure.clone());
        failure
    }

    fn take(&mut self, plaintext: &mut Vec<u8>) {
        let mut reader = self.tls.reader();
        while let Ok(chunk) = reader.fill_buf() {
            let length = chunk.len();
            if length == 0 {
                break;
            }
            plaintext.extend_from_slice(chunk);
            reader.consume(length);
        }
    }

    /// Accepts plaintext to send, also before the handshake is complete; returns how much, which is
    /// less than all when too much output is pending.
    pub fn send(&mut self, plaintext: &[u8]) -> usize {
        if self.failure.is_some() {
            return 0;
        }
        self.tls.writer().write(plaintext).unwrap_or(0)
    }

    /// Writes output with one call; returns the number of bytes. More may be pending:
    /// [`Session::wants_write`].
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write_to(&mut self, out: &mut dyn Write) -> io::Result<usize> {
        self.tls.write_tls(out)
    }

    /// Returns whether output is pending.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Returns whether a message of the peer was understood.
    #[must_use]
    pub fn handshake_started(&self) -> bool {
        self.handshake_started
    }

    /// Returns whether the handshake is incomplete.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Returns whether the peer has sent its close alert.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Queues the close alert. After a failure its alert takes that place.
    pub fn close(&mut self) {
        if self.failure.is_none() {
            self.tls.send_close_notify();
        }
    }

    /// Returns the session's parameters once the handshake is complete.
    #[must_use]
    pub fn facts(&self) -> Option<TlsFacts<'_>> {
        if self.tls.is_handshaking() {
            return None;
        }
        let tls13 = self.tls.protocol_version()? == ProtocolVersion::TLSv1_3;
        let sni = match &*self.tls {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        };
        Some(TlsFacts {
            version: if tls13 { Version::Tls13 } else { Version::Tls12 },
            resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
            sni,
            cipher: ciphers::name(self.tls.negotiated_cipher_suite()?.suite()),
            alpn: self.tls.alpn_protocol(),
        })
    }

    /// Returns the peer's certificate, in a client's session once the handshake is complete.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Leaf> {
        Leaf::parse(self.tls.peer_certificates()?.first()?).ok()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("facts", &self.facts()).field("failure", &self.failure).finish()
    }
}

#[cfg(test)]
mod tests;
