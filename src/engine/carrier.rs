//! A stream of octets over a socket, as plain as the kernel has it.
//!
//! What reads and writes connections does so through here, and knows nothing of what is between:
//! the octets that come out are the messages' own.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Carrier {
    socket: Socket,
    /// What the epoll set reports of it.
    pub(super) reading: bool,
    pub(super) writing: bool,
}

impl Carrier {
    /// A connection without encryption; it is watched for reading, and for writing if so.
    pub(super) const fn plain(socket: Socket, writing: bool) -> Self {
        Self { socket, reading: true, writing }
    }

    /// Reads without waiting; 0 when the peer has closed its end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; others end the connection.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }

    /// Writes without waiting, as much as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; others end the connection.
    pub(super) fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.socket.write(octets)
    }

    /// How the attempt to connect ended.
    ///
    /// # Errors
    /// Why it failed.
    pub(super) fn connected(&self) -> io::Result<()> {
        self.socket.take_error()?.map_or(Ok(()), Err)
    }
}

impl AsFd for Carrier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
