//! One TLS connection over bytes: what came in, what is to go out, and plaintext on the other
//! side. It knows no socket and no time; deadlines are its owner's.
//!
//! ```text
//!  bytes  ── on_bytes ──►  plaintext, appended to the caller's buffer
//!  bytes  ◄── write_to ──   send(plaintext)
//! ```
//!
//! Plaintext is never kept here: it is in the caller's hands when `on_bytes` returns, and is
//! shorter than the bytes that it came in. What is to go out is kept up to
//! [`SEND_BYTES_MAX`], what came in up to one record, or 64 kB of one handshake message.
//!
//! An idle session holds some 8 kB of memory (`tests/tls_memory.rs`), 2 kB before the handshake.
//!
//! After a [`Failure`] there may be an alert for the other side: call [`Session::write_to`] once
//! more, then close.

use std::io::{self, BufRead, Write};

use rustls::{ClientConnection, Connection, HandshakeKind, ProtocolVersion, ServerConnection};

use crate::tls::client::ClientTls;
use crate::tls::expiry::Leaf;
use crate::tls::failure::{Failure, Reason};
use crate::tls::server::ServerTls;
use crate::tls::{Version, ciphers};

/// Bytes that wait to be written before [`Session::send`] takes no more: one full record, and
/// room for the head of the next message.
pub const SEND_BYTES_MAX: usize = 18 * 1024;

/// What is known of an established session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts<'s> {
    /// The version.
    pub version: Version,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The name that the client asked for, in a server's session.
    pub sni: Option<&'s str>,
    /// The cipher, by its OpenSSL name.
    pub cipher: &'static str,
    /// The protocol that ALPN agreed on.
    pub alpn: Option<&'s [u8]>,
}

/// One TLS connection, from either side.
pub struct Session {
    // Some 2 kB, which connections without TLS shall not carry.
    tls: Box<Connection>,
    /// Whether the other side's greeting was understood.
    begun: bool,
    failure: Option<Failure>,
    peer_closed: bool,
}

impl Session {
    /// A client has connected to a listener.
    ///
    /// # Errors
    ///
    /// What rustls refuses of the configuration: nothing, with one that was loaded.
    pub fn server(tls: &ServerTls) -> Result<Self, Failure> {
        let connection = ServerConnection::new(tls.config());
        connection.map(|tls| Self::new(tls.into())).map_err(|e| Failure::of(&e, true))
    }

    /// We have connected to a backend; there is something to write at once.
    ///
    /// # Errors
    ///
    /// What rustls refuses of the configuration: nothing, with one that was loaded.
    pub fn client(tls: &ClientTls) -> Result<Self, Failure> {
        Self::towards(tls, false)
    }

    /// The same, with a backend that has to show its certificate: no session is resumed, and what
    /// comes of it decides whether others are.
    ///
    /// # Errors
    ///
    /// As [`Session::client`].
    pub fn check(tls: &ClientTls) -> Result<Self, Failure> {
        Self::towards(tls, true)
    }

    fn towards(tls: &ClientTls, whole: bool) -> Result<Self, Failure> {
        let connection = ClientConnection::new(tls.config(whole), tls.name());
        connection.map(|tls| Self::new(tls.into())).map_err(|e| Failure::of(&e, true))
    }

    fn new(mut tls: Connection) -> Self {
        tls.set_buffer_limit(Some(SEND_BYTES_MAX));
        Self { tls: Box::new(tls), begun: false, failure: None, peer_closed: false }
    }

    /// Bytes came in; all of them are taken. The plaintext in them is appended.
    ///
    /// Bytes behind the other side's close are forgotten (RFC 8446, section 6.1: "Any data
    /// received after a closure alert has been received MUST be ignored").
    ///
    /// # Errors
    ///
    /// The session has failed; plaintext that came before is appended all the same. Every call
    /// after that says the same.
    pub fn on_bytes(&mut self, mut bytes: &[u8], plaintext: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        while !bytes.is_empty() && !self.peer_closed {
            match self.tls.read_tls(&mut bytes) {
                // It reads nothing more, which is when the other side has closed.
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => return Err(self.fail(Failure::new(Reason::Other, e.to_string()))),
            }
            let state = self.tls.process_new_packets();
            self.take(plaintext);
            match state {
                Ok(state) => self.peer_closed |= state.peer_has_closed(),
                Err(e) => {
                    let failure = Failure::of(&e, self.begun);
                    return Err(self.fail(failure));
                }
            }
            self.begun |= self.tls.protocol_version().is_some();
        }
        Ok(())
    }

    /// The connection has ended without bytes to come.
    ///
    /// # Errors
    ///
    /// In the middle of the handshake. Later it is no error that the other side did not say
    /// goodbye: many do not, and a message that is cut is seen by its length.
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

    /// Takes plaintext to be sent, also before the handshake is done; returns how much, which is
    /// less than all when too much waits to be written.
    pub fn send(&mut self, plaintext: &[u8]) -> usize {
        if self.failure.is_some() {
            return 0;
        }
        self.tls.writer().write(plaintext).unwrap_or(0)
    }

    /// Writes bytes with one call; returns how many. More may wait: [`Session::wants_write`].
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write_to(&mut self, out: &mut dyn Write) -> io::Result<usize> {
        self.tls.write_tls(out)
    }

    /// Whether bytes wait to be written.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Whether a message of the other side was understood.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the handshake is not done.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the other side has said that nothing more will come.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Says that nothing more will be sent; to be written. After a failure the alert has said it.
    pub fn close(&mut self) {
        if self.failure.is_none() {
            self.tls.send_close_notify();
        }
    }

    /// What is known, once the handshake is done.
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

    /// What the other side's certificate says, in a client's session once the handshake is done.
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
