//! Pipes, through which the kernel moves bytes from one socket to another without a copy.
//!
//! ```text
//!  client's socket ──splice──► pipe ──splice──► target's socket
//! ```
//!
//! A pipe belongs to a connection only while it holds bytes, otherwise to the shard's stock; an
//! idle connection has none. Pipes are bounded, so that clients who send much to targets that do
//! not read exhaust neither descriptors nor memory. Without a pipe, bytes are copied.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use socket2::Socket;

use crate::stats::descriptors::{Descriptors, Permit, Use};

/// Empty pipes kept for reuse; others are closed.
const EMPTY_MAX: usize = 64;
/// Pipes per shard: with the size below, 128 MB and 1,024 descriptors.
const PIPES_MAX: usize = 512;
/// Bytes copied at a time without a pipe.
const BUFFER_BYTES: usize = 64 * 1024;
/// Requested capacity of a pipe, bytes: 64 kernel buffers. A buffer filled by a network card holds
/// one packet, so the default of 16 holds only 23 kB. Beyond fs.pipe-user-pages-soft a pipe keeps
/// its default size.
const PIPE_BYTES: i32 = 256 * 1024;

/// One pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    _permit: Permit,
}

/// The shard's stock of empty pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    empty: Vec<Pipe>,
    /// Pipes in use.
    taken: usize,
    most: usize,
    descriptors: Arc<Descriptors>,
    /// For copied bytes; allocated on first use.
    buffer: Vec<u8>,
}

impl Pipes {
    /// Creates an empty stock.
    pub(crate) const fn new(descriptors: Arc<Descriptors>) -> Self {
        Self::with_max(PIPES_MAX, descriptors)
    }

    /// Creates an empty stock of at most `most` pipes.
    pub(crate) const fn with_max(most: usize, descriptors: Arc<Descriptors>) -> Self {
        Self { empty: Vec::new(), taken: 0, most, descriptors, buffer: Vec::new() }
    }

    /// Takes an empty pipe; `None` when all are in use, or no descriptors are left.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        if self.taken >= self.most {
            return None;
        }
        let pipe = match self.empty.pop() {
            Some(pipe) => pipe,
            None => Pipe::new(self.descriptors.take(Use::Pipes, 2)?).ok()?,
        };
        self.taken += 1;
        Some(pipe)
    }

    /// Returns an empty pipe to the stock.
    pub(crate) fn give(&mut self, pipe: Pipe) {
        self.taken -= 1;
        if self.empty.len() < EMPTY_MAX {
            self.empty.push(pipe);
        }
    }

    /// Closes a pipe that may hold bytes.
    pub(crate) fn discard(&mut self, pipe: Pipe) {
        self.taken -= 1;
        drop(pipe);
    }

    /// Resets the count after all connections were dropped with their pipes.
    pub(crate) const fn forget_taken(&mut self) {
        self.taken = 0;
    }

    /// Returns the buffer for copied bytes.
    pub(crate) fn buffer(&mut self) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer.resize(BUFFER_BYTES, 0);
        }
        &mut self.buffer
    }
}

impl Pipe {
    fn new(permit: Permit) -> io::Result<Self> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok(Self { reader, writer, _permit: permit })
    }

    /// Moves at most `most` bytes from a socket into the pipe; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is empty or the pipe is full; other errors end the connection.
    pub(crate) fn fill(&self, from: &Socket, most: usize) -> io::Result<usize> {
        splice(from, &self.writer, most)
    }

    /// Moves at most `most` bytes from the pipe into a socket.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is full; other errors end the connection.
    pub(crate) fn drain(&self, to: &Socket, most: usize) -> io::Result<usize> {
        splice(&self.reader, to, most)
    }
}

fn splice(from: &impl AsFd, to: &impl AsFd, most: usize) -> io::Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both descriptors are open for as long as the borrows last; no offsets are given, and
    // no memory of ours is read or written.
    // JUSTIFICATION: relayed bytes need no copy to user space and back.
    let n = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), most, flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let one = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        (one, listener.accept().expect("accepted").0)
    }

    #[test]
    fn a_drained_pipe_is_reused() {
        let ((mut client, ours), (theirs, mut target)) = (pair(), pair());
        let (ours, theirs) = (Socket::from(ours), Socket::from(theirs));
        ours.set_nonblocking(true).expect("set");
        let mut pipes = Pipes::new(Arc::default());
        for text in [&b"first"[..], b"second"] {
            let pipe = pipes.take().expect("a pipe");
            let empty = pipe.fill(&ours, 100).expect_err("nothing is there");
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
            client.write_all(text).expect("written");
            assert_eq!(pipe.fill(&ours, 100).expect("there"), text.len());
            assert_eq!(pipe.drain(&theirs, text.len()).expect("room"), text.len());
            let mut got = vec![0; text.len()];
            target.read_exact(&mut got).expect("read");
            assert_eq!(got, text);
            pipes.give(pipe);
        }
        assert_eq!(pipes.empty.len(), 1, "one pipe served both");
        drop(client);
        let pipe = pipes.take().expect("a pipe");
        assert_eq!(pipe.fill(&ours, 100).expect("the end"), 0);
    }
    #[test]
    fn pipes_are_bounded() {
        let mut pipes = Pipes::with_max(2, Arc::default());
        let (one, _two) = (pipes.take().expect("a pipe"), pipes.take().expect("a pipe"));
        assert!(pipes.take().is_none());
        pipes.discard(one);
        let again = pipes.take().expect("one is free again");
        assert!(pipes.empty.is_empty(), "a pipe that may hold bytes is not reused");
        pipes.give(again);
        assert!(pipes.take().is_some());
    }
}
