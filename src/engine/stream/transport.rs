//! A stream of bytes over a socket, as plain as the kernel has it or within TLS.
//!
//! What reads and writes connections does so through here, and knows nothing of what is between:
//! the bytes that come out are the messages' own.
//!
//! ```text
//!  socket ─► receive ─► (bytes in front) ─► unwrap ─► bytes      socket ◄── write ◄── bytes
//!                                              └ session                         └ session
//! ```
//!
//! Bytes in front of TLS, a PROXY header outside of it, are for the caller, between
//! `Transport::receive` and `Transport::unwrap`: until they are whole, the session gets nothing.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::tls::{Failure, Session, TlsFacts};

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Socket,
    /// Boxed, so that connections without it do not carry it.
    tls: Option<Box<Tls>>,
    connecting: bool,
    /// By TCP Fast Open: it can be written, but nobody has answered yet.
    early: bool,
    /// What the epoll set reports of it.
    pub(crate) reading: bool,
    pub(crate) writing: bool,
}

/// What TLS needs besides.
#[derive(Debug)]
struct Tls {
    session: Session,
    /// Bytes that the session has taken, and the kernel not yet all of: they are reported as
    /// written when it has, so that nobody takes the connection for idle or closes it meanwhile.
    owed: usize,
}

/// What a read brought.
#[derive(Debug)]
pub(crate) enum Came<'b> {
    /// Bytes, perhaps none when TLS had something for itself; nothing comes after the last ones.
    Bytes {
        /// The bytes.
        bytes: &'b [u8],
        /// The peer has said that these are the last.
        last: bool,
    },
    /// The peer has closed its end.
    End,
    /// TLS does not go on; the connection is to be closed.
    Failed(Failure),
}

impl Transport {
    /// A connection without encryption; it is watched for reading, and for writing when it is not
    /// made yet.
    pub(crate) const fn plain(socket: Socket, connecting: bool) -> Self {
        Self { socket, tls: None, connecting, early: false, reading: true, writing: connecting }
    }

    /// The same within TLS.
    pub(crate) fn tls(socket: Socket, session: Session, connecting: bool) -> Self {
        let tls = Some(Box::new(Tls { session, owed: 0 }));
        Self { socket, tls, connecting, early: false, reading: true, writing: connecting }
    }

    /// Reads without waiting, by one call; none when the peer has closed its end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; others end the connection.
    pub(crate) fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let count = self.socket.read(buffer)?;
        Ok(&buffer[..count])
    }

    /// What bytes that were received are without TLS, for which `plain` is used.
    pub(crate) fn unwrap<'b>(&mut self, bytes: &'b [u8], plain: &'b mut Vec<u8>) -> Came<'b> {
        let Some(tls) = &mut self.tls else {
            return if bytes.is_empty() { Came::End } else { Came::Bytes { bytes, last: false } };
        };
        if bytes.is_empty() {
            // Who has said nothing at all has not failed: somebody looked whether the port is open.
            let failed = if tls.session.has_begun() { tls.session.on_end().err() } else { None };
            return failed.map_or(Came::End, Came::Failed);
        }
        plain.clear();
        match tls.session.on_bytes(bytes, plain) {
            Ok(()) => Came::Bytes { bytes: plain, last: tls.session.peer_closed() },
            Err(failure) => Came::Failed(failure),
        }
    }

    /// The same of a read without anything between.
    ///
    /// # Errors
    /// As [`Transport::receive`].
    pub(crate) fn read<'b>(&mut self, buffer: &'b mut [u8], plain: &'b mut Vec<u8>) -> io::Result<Came<'b>> {
        let bytes = self.receive(buffer)?;
        Ok(self.unwrap(bytes, plain))
    }

    /// Writes without waiting, as much as there is room for. What is given again after
    /// `WouldBlock` must begin with the same bytes.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; others end the connection.
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

    /// Writes what TLS has to say for itself; nothing is counted as written.
    ///
    /// # Errors
    /// As [`Transport::write`].
    pub(crate) fn flush(&mut self) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => flush(tls, &mut self.socket).map(|()| 0),
            None => Ok(0),
        }
    }

    /// Whether TLS has something to write.
    pub(crate) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.wants_write())
    }

    /// Whether bytes may be written: the connection stands, and its handshake is done.
    pub(crate) fn takes_bytes(&self) -> bool {
        !self.connecting && !self.is_handshaking()
    }

    /// Whether the connection has not come about yet.
    pub(crate) const fn is_connecting(&self) -> bool {
        self.connecting
    }

    /// Whether it is within TLS.
    pub(crate) const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether its handshake is not done.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.is_handshaking())
    }

    /// What is known of its TLS once the handshake is done.
    pub(crate) fn facts(&self) -> Option<TlsFacts<'_>> {
        self.tls.as_ref()?.session.facts()
    }

    /// How the attempt to connect ended. With TCP Fast Open it may only begin with the first bytes
    /// that are written: [`Transport::is_early`].
    ///
    /// # Errors
    /// Why it failed.
    pub(crate) fn connected(&mut self) -> io::Result<()> {
        self.connecting = false;
        self.socket.take_error()?.map_or(Ok(()), Err)?;
        self.early = !self.has_peer();
        Ok(())
    }

    /// Whether it can be written although nobody has answered yet.
    pub(crate) const fn is_early(&self) -> bool {
        self.early
    }

    /// Whether somebody has answered now who had not when it was first written.
    pub(crate) fn is_answered(&mut self) -> bool {
        let answered = self.early && self.has_peer();
        self.early &= !answered;
        answered
    }

    /// Whether both ends know of the connection: the kernel names no peer before.
    fn has_peer(&self) -> bool {
        self.socket.peer_addr().is_ok()
    }

    /// Closes it. TLS says goodbye, or what is wrong, if there is room for that.
    pub(crate) fn close(mut self) {
        self.say_goodbye();
    }

    /// Closes our end of it. The socket can still be read; none when there is nobody to hear.
    pub(crate) fn close_writing(mut self) -> Option<Socket> {
        self.say_goodbye();
        self.socket.shutdown(Shutdown::Write).is_ok().then_some(self.socket)
    }

    fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.session.close();
            // The peer sees the connection end anyhow.
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
