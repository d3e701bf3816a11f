//! A stream of octets over a socket, as plain as the kernel has it or within TLS.
//!
//! What reads and writes connections does so through here, and knows nothing of what is between:
//! the octets that come out are the messages' own.
//!
//! ```text
//!  socket ─► receive ─► (octets in front) ─► unwrap ─► octets      socket ◄── write ◄── octets
//!                                              └ session                         └ session
//! ```
//!
//! Octets in front of TLS, a PROXY header outside of it, are for the caller, between
//! [`Carrier::receive`] and [`Carrier::unwrap`]: until they are whole, the session gets nothing.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::tls::{Failure, Session, TlsFacts};

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Carrier {
    socket: Socket,
    /// Boxed, so that connections without it do not carry it.
    tls: Option<Box<Tls>>,
    connecting: bool,
    /// By TCP Fast Open: it can be written, but nobody has answered yet.
    early: bool,
    /// What the epoll set reports of it.
    pub(super) reading: bool,
    pub(super) writing: bool,
}

/// What TLS needs besides.
#[derive(Debug)]
struct Tls {
    session: Session,
    /// Octets that the session has taken, and the kernel not yet all of: they are reported as
    /// written when it has, so that nobody takes the connection for idle or closes it meanwhile.
    owed: usize,
}

/// What a read brought.
#[derive(Debug)]
pub(super) enum Came<'b> {
    /// Octets, perhaps none when TLS had something for itself; nothing comes after the last ones.
    Octets {
        /// The octets.
        octets: &'b [u8],
        /// The peer has said that these are the last.
        last: bool,
    },
    /// The peer has closed its end.
    End,
    /// TLS does not go on; the connection is to be closed.
    Failed(Failure),
}

impl Carrier {
    /// A connection without encryption; it is watched for reading, and for writing when it is not
    /// made yet.
    pub(super) const fn plain(socket: Socket, connecting: bool) -> Self {
        Self { socket, tls: None, connecting, early: false, reading: true, writing: connecting }
    }

    /// The same within TLS.
    pub(super) fn tls(socket: Socket, session: Session, connecting: bool) -> Self {
        let tls = Some(Box::new(Tls { session, owed: 0 }));
        Self { socket, tls, connecting, early: false, reading: true, writing: connecting }
    }

    /// Reads without waiting, by one call; none when the peer has closed its end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; others end the connection.
    pub(super) fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let count = self.socket.read(buffer)?;
        Ok(&buffer[..count])
    }

    /// What octets that were received are without TLS, for which `plain` is used.
    pub(super) fn unwrap<'b>(&mut self, octets: &'b [u8], plain: &'b mut Vec<u8>) -> Came<'b> {
        let Some(tls) = &mut self.tls else {
            return if octets.is_empty() { Came::End } else { Came::Octets { octets, last: false } };
        };
        if octets.is_empty() {
            // Who has said nothing at all has not failed: somebody looked whether the port is open.
            let failed = if tls.session.has_begun() { tls.session.on_end().err() } else { None };
            return failed.map_or(Came::End, Came::Failed);
        }
        plain.clear();
        match tls.session.on_octets(octets, plain) {
            Ok(()) => Came::Octets { octets: plain, last: tls.session.peer_closed() },
            Err(failure) => Came::Failed(failure),
        }
    }

    /// The same of a read without anything between.
    ///
    /// # Errors
    /// As [`Carrier::receive`].
    pub(super) fn read<'b>(&mut self, buffer: &'b mut [u8], plain: &'b mut Vec<u8>) -> io::Result<Came<'b>> {
        let octets = self.receive(buffer)?;
        Ok(self.unwrap(octets, plain))
    }

    /// Writes without waiting, as much as there is room for. What is given again after
    /// `WouldBlock` must begin with the same octets.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; others end the connection.
    pub(super) fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(octets) };
        if tls.owed == 0 {
            tls.owed = tls.session.send(octets);
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
    /// As [`Carrier::write`].
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => flush(tls, &mut self.socket).map(|()| 0),
            None => Ok(0),
        }
    }

    /// Whether TLS has something to write.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.wants_write())
    }

    /// Whether octets may be written: the connection stands, and its handshake is done.
    pub(super) fn takes_octets(&self) -> bool {
        !self.connecting && !self.is_handshaking()
    }

    /// Whether the connection has not come about yet.
    pub(super) const fn is_connecting(&self) -> bool {
        self.connecting
    }

    /// Whether it is within TLS.
    pub(super) const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether its handshake is not done.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.is_handshaking())
    }

    /// What is known of its TLS once the handshake is done.
    pub(super) fn facts(&self) -> Option<TlsFacts<'_>> {
        self.tls.as_ref()?.session.facts()
    }

    /// How the attempt to connect ended. With TCP Fast Open it may only begin with the first octets
    /// that are written: [`Carrier::is_early`].
    ///
    /// # Errors
    /// Why it failed.
    pub(super) fn connected(&mut self) -> io::Result<()> {
        self.connecting = false;
        self.socket.take_error()?.map_or(Ok(()), Err)?;
        self.early = !self.has_peer();
        Ok(())
    }

    /// Whether it can be written although nobody has answered yet.
    pub(super) const fn is_early(&self) -> bool {
        self.early
    }

    /// Whether somebody has answered now who had not when it was first written.
    pub(super) fn is_answered(&mut self) -> bool {
        let answered = self.early && self.has_peer();
        self.early &= !answered;
        answered
    }

    /// Whether both ends know of the connection: the kernel names no peer before.
    fn has_peer(&self) -> bool {
        self.socket.peer_addr().is_ok()
    }

    /// Closes it. TLS says goodbye, or what is wrong, if there is room for that.
    pub(super) fn close(mut self) {
        self.say_goodbye();
    }

    /// Closes our end of it. The socket can still be read; none when there is nobody to hear.
    pub(super) fn close_writing(mut self) -> Option<Socket> {
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

impl AsFd for Carrier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
