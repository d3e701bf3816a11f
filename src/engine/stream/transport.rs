//! A byte stream over a socket, plain or within TLS.
//!
//! Everything that reads and writes connections does so through this type and does not see the
//! layers between: the bytes that come out are those of the messages.
//!
//! ```text
//!  socket ─► receive ─► (bytes in front) ─► unwrap ─► bytes      socket ◄── write ◄── bytes
//!                                              └ session                         └ session
//! ```
//!
//! Bytes in front of TLS, namely a PROXY header, are the caller's between `Transport::receive` and
//! `Transport::unwrap`: until the header is complete, the session gets nothing.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::engine::socket;
use crate::tls::{Failure, Session, TlsFacts};

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Socket,
    /// Boxed, so that plain connections do not pay for it.
    tls: Option<Box<Tls>>,
    connecting: bool,
    /// TCP Fast Open: it can be written, but the peer has not answered yet.
    early: bool,
    /// What the epoll set reports of it.
    pub(crate) reading: bool,
    pub(crate) writing: bool,
}

/// The state of TLS.
#[derive(Debug)]
struct Tls {
    session: Session,
    /// Bytes that the session has accepted and the kernel has not all: they are reported as written
    /// when it has, so that the connection is not taken for idle or closed meanwhile.
    owed: usize,
}

/// The outcome of a read.
#[derive(Debug)]
pub(crate) enum Received<'b> {
    /// Bytes, perhaps none when TLS consumed them; nothing follows the last ones.
    Bytes {
        /// The bytes.
        bytes: &'b [u8],
        /// The peer has announced that these are the last.
        last: bool,
    },
    /// The peer has closed its end.
    End,
    /// TLS has failed; the connection must be closed.
    Failed(Failure),
}

impl Transport {
    /// Wraps a plain socket. It is watched for reading, and for writing while it is connecting.
    pub(crate) const fn plain(socket: Socket, connecting: bool) -> Self {
        Self { socket, tls: None, connecting, early: false, reading: true, writing: connecting }
    }

    /// Wraps a socket within TLS.
    pub(crate) fn tls(socket: Socket, session: Session, connecting: bool) -> Self {
        let tls = Some(Box::new(Tls { session, owed: 0 }));
        Self { socket, tls, connecting, early: false, reading: true, writing: connecting }
    }

    /// Reads by one non-blocking call; empty when the peer has closed its end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; other errors end the connection.
    pub(crate) fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let count = self.socket.read(buffer)?;
        Ok(&buffer[..count])
    }

    /// Removes TLS from received bytes, using `plain` as the buffer.
    pub(crate) fn unwrap<'b>(&mut self, bytes: &'b [u8], plain: &'b mut Vec<u8>) -> Received<'b> {
        let Some(tls) = &mut self.tls else {
            return if bytes.is_empty() { Received::End } else { Received::Bytes { bytes, last: false } };
        };
        if bytes.is_empty() {
            // A client that sends nothing at all has not failed: it is a port check.
            let failed = if tls.session.handshake_started() { tls.session.on_end().err() } else { None };
            return failed.map_or(Received::End, Received::Failed);
        }
        plain.clear();
        match tls.session.on_bytes(bytes, plain) {
            Ok(()) => Received::Bytes { bytes: plain, last: tls.session.peer_closed() },
            Err(failure) => Received::Failed(failure),
        }
    }

    /// Receives and unwraps.
    ///
    /// # Errors
    /// As [`Transport::receive`].
    pub(crate) fn read<'b>(
        &mut self,
        buffer: &'b mut [u8],
        plain: &'b mut Vec<u8>,
    ) -> io::Result<Received<'b>> {
        let bytes = self.receive(buffer)?;
        Ok(self.unwrap(bytes, plain))
    }

    /// Writes as much as there is space for, without blocking. After `WouldBlock`, the next call
    /// must begin with the same bytes.
    ///
    /// # Errors
    /// `WouldBlock` when there is no space; other errors end the connection.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        if tls.owed == 0 {
            tls.owed = tls.session.send(bytes);
        }
        if tls.owed == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        flush(tls, &mut self.socket)?;
        Ok(std::mem::take(&mut tls.owed))
    }

    /// Writes what TLS has to send of its own; these bytes are not counted as written.
    ///
    /// # Errors
    /// As [`Transport::write`].
    pub(crate) fn flush(&mut self) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => flush(tls, &mut self.socket).map(|()| 0),
            None => Ok(0),
        }
    }

    /// Returns whether TLS has something to write.
    pub(crate) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.wants_write())
    }

    /// Returns whether bytes may be written: it is connected, and the handshake is complete.
    pub(crate) fn takes_bytes(&self) -> bool {
        !self.connecting && !self.is_handshaking()
    }

    /// Returns whether the connection is still being made.
    pub(crate) const fn is_connecting(&self) -> bool {
        self.connecting
    }

    /// Returns whether it is within TLS.
    pub(crate) const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns whether its TLS handshake is incomplete.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.is_handshaking())
    }

    /// Returns what is known of its TLS session once the handshake is complete.
    pub(crate) fn facts(&self) -> Option<TlsFacts<'_>> {
        self.tls.as_ref()?.session.facts()
    }

    /// Returns how the attempt to connect ended. With TCP Fast Open it may only begin with the
    /// first bytes that are written: [`Transport::is_early`].
    ///
    /// # Errors
    /// Why it failed.
    pub(crate) fn connected(&mut self) -> io::Result<()> {
        self.connecting = false;
        self.socket.take_error()?.map_or(Ok(()), Err)?;
        self.early = !self.has_peer();
        if !self.early {
            socket::limit_unacknowledged(&self.socket);
        }
        Ok(())
    }

    /// Returns whether it can be written although the peer has not answered yet.
    pub(crate) const fn is_early(&self) -> bool {
        self.early
    }

    /// Returns whether the peer of an early connection has answered, which it had not at the last
    /// call.
    pub(crate) fn is_answered(&mut self) -> bool {
        let answered = self.early && self.has_peer();
        self.early &= !answered;
        if answered {
            socket::limit_unacknowledged(&self.socket);
        }
        answered
    }

    /// Returns whether both ends know of the connection: before that, the kernel names no peer.
    fn has_peer(&self) -> bool {
        self.socket.peer_addr().is_ok()
    }

    /// Closes it. TLS sends its close or alert if there is space.
    pub(crate) fn close(mut self) {
        self.say_goodbye();
    }

    /// Shuts down our end. Returns the socket, which can still be read; `None` when the peer is
    /// gone.
    pub(crate) fn close_writing(mut self) -> Option<Socket> {
        self.say_goodbye();
        self.socket.shutdown(Shutdown::Write).is_ok().then_some(self.socket)
    }

    fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.session.close();
            // The peer sees the connection end in any case.
            let _ = flush(tls, &mut self.socket);
        }
    }
}

fn flush(tls: &mut Tls, socket: &mut Socket) -> io::Result<()> {
    while tls.session.wants_write() {
        tls.session.write_to(socket)?;
    }
    Ok(())
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
