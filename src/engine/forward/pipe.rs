//! Pipes, through which the kernel moves octets from one socket to another without a copy.
//!
//! ```text
//!  client's socket ──splice──► pipe ──splice──► target's socket
//! ```
//!
//! A pipe belongs to a connection only while it holds octets; otherwise to the shard's stock. An
//! idle connection has none.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use socket2::Socket;

/// Pipes kept for the next connections; the others are closed.
const KEPT: usize = 64;
/// What a pipe is asked to hold, octets: 64 of the kernel's buffers. From a network card a buffer
/// holds one packet, so that the usual 16 are 23 kB. Without the right to so much (fs.pipe-user-pages-soft)
/// a pipe stays as it comes.
const SIZE: i32 = 256 * 1024;

/// One pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// The shard's stock of empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    empty: Vec<Pipe>,
}

impl Pipes {
    /// An empty pipe.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.empty.pop() {
            return Ok(pipe);
        }
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SIZE));
        Ok(Pipe { reader, writer })
    }

    /// Takes an empty pipe back.
    pub(super) fn give(&mut self, pipe: Pipe) {
        if self.empty.len() < KEPT {
            self.empty.push(pipe);
        }
    }
}

impl Pipe {
    /// Moves at most `most` octets from a socket into the pipe; 0 at the end of what it sends.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, or the pipe is full; others end the connection.
    pub(super) fn fill(&self, from: &Socket, most: usize) -> io::Result<usize> {
        splice(from, &self.writer, most)
    }

    /// Moves at most `most` octets from the pipe into a socket.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; others end the connection.
    pub(super) fn drain(&self, to: &Socket, most: usize) -> io::Result<usize> {
        splice(&self.reader, to, most)
    }
}

fn splice(from: &impl AsFd, to: &impl AsFd, most: usize) -> io::Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both descriptors are open for as long as the borrows last; no offsets are given, and
    // no memory of ours is read or written.
    // JUSTIFICATION: octets that nobody reads need not come to user space and go back.
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
    fn octets_go_through_a_pipe_and_it_is_used_again() {
        let ((mut client, ours), (theirs, mut target)) = (pair(), pair());
        let (ours, theirs) = (Socket::from(ours), Socket::from(theirs));
        ours.set_nonblocking(true).expect("set");
        let mut pipes = Pipes::default();
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
}
