//! One direction of a relayed connection: bytes from the sender's socket to the receiver's.
//!
//! ```text
//!  sender ──splice──► pipe ──splice──► receiver      the usual way
//!  sender ──peek──► the shard's buffer ──write──► receiver, then discarded at the sender
//! ```
//!
//! The copy handles what `splice` cannot: urgent bytes, which are passed on in their place as
//! ordinary ones, and the lack of a pipe. It consumes only what the receiver has accepted, so
//! nothing is buffered.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::Socket;

use crate::engine::relay::is_transient;
use crate::engine::relay::pipe::{Pipe, Pipes};

/// Bytes moved in one direction per turn.
pub(crate) const TURN: usize = 256 * 1024;
/// Bytes requested by one call.
const CHUNK: usize = 256 * 1024;
/// A read shorter than this probably drained the socket: another call to find out is saved.
const SMALL: usize = 16 * 1024;

/// One direction of a relayed connection.
#[derive(Debug, Default)]
pub(crate) struct SplicePump {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// The receiver's socket is full while the sender's has unread bytes.
    full: bool,
    /// The sender has shut down its writing end.
    ended: bool,
    /// The shutdown was passed on to the receiver.
    shutdown_sent: bool,
}

/// What is known of the two ends of a direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    /// The sender is readable.
    pub(crate) readable: bool,
    /// One of the ends has reported a close.
    pub(crate) closing: bool,
    /// The sender's connection broke: its end is no orderly shutdown to pass on.
    pub(crate) broken: bool,
}

/// Which end of a direction broke.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    Sender,
    Receiver,
}

/// The outcome of a copy.
enum Copied {
    Some(usize),
    /// The sender has shut down.
    End,
    /// Nothing to read.
    Nothing,
    /// The receiver's socket is full.
    Full,
}

impl SplicePump {
    /// Returns whether bytes wait for space at the receiver.
    pub(crate) const fn waits(&self) -> bool {
        self.held > 0 || self.full
    }

    /// Returns whether the sender has shut down.
    pub(crate) const fn ended(&self) -> bool {
        self.ended
    }

    /// Returns whether it holds something of the sender that cannot be taken back, or its end.
    pub(crate) const fn is_used(&self) -> bool {
        self.waits() || self.ended
    }

    /// Returns whether all bytes and the shutdown were passed on.
    pub(crate) const fn is_over(&self) -> bool {
        self.shutdown_sent
    }

    /// Moves bytes while there are some, the receiver accepts them, and the turn's budget lasts.
    pub(crate) fn pump(
        &mut self,
        from: &Socket,
        to: &Socket,
        pipes: &mut Pipes,
        readiness: Readiness,
        bytes: &mut usize,
    ) -> Result<(), Broken> {
        while *bytes < TURN {
            let mut last = false;
            if self.held == 0 {
                if self.ended {
                    break;
                }
                self.full = false;
                self.pipe = self.pipe.take().or_else(|| pipes.take());
                // To `splice`, urgent bytes look like the end, or like nothing.
                let may_copy = match self.pipe.as_ref().map(|pipe| pipe.fill(from, CHUNK)) {
                    Some(Ok(count)) if count > 0 => {
                        self.held = count;
                        last = count < SMALL && !readiness.closing;
                        false
                    }
                    None | Some(Ok(_)) => true,
                    Some(Err(e)) if is_transient(&e) && readiness.readable && *bytes == 0 => true,
                    Some(Err(e)) if is_transient(&e) => break,
                    Some(Err(_)) => return Err(Broken::Sender),
                };
                if may_copy {
                    match copy(from, to, pipes.buffer())? {
                        Copied::Some(count) => {
                            *bytes += count;
                            if count < SMALL && !readiness.closing {
                                break;
                            }
                            continue;
                        }
                        Copied::End => self.ended = true,
                        Copied::Nothing => {}
                        Copied::Full => self.full = true,
                    }
                    break;
                }
            }
            let Some(pipe) = &self.pipe else { break };
            match pipe.drain(to, self.held) {
                Ok(count) => {
                    self.held -= count;
                    *bytes += count;
                }
                Err(e) if is_transient(&e) => break,
                Err(_) => return Err(Broken::Receiver),
            }
            if last && self.held == 0 {
                break;
            }
        }
        if self.held == 0 {
            if let Some(pipe) = self.pipe.take() {
                pipes.give(pipe);
            }
            if self.ended && !self.shutdown_sent && !readiness.broken {
                self.shutdown_sent = true;
                // A socket that is gone reports it when it is read.
                let _ = to.shutdown(Shutdown::Write);
            }
        }
        Ok(())
    }

    /// Closes the pipe with whatever it holds: the connection is over.
    pub(crate) fn close(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.discard(pipe);
        }
    }
}

/// Copies what fits into `buffer` and is accepted.
fn copy(from: &Socket, mut to: &Socket, buffer: &mut [u8]) -> Result<Copied, Broken> {
    let there = match recv(from.as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(0) => return Ok(Copied::End),
        Ok(count) => count,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Copied::Nothing),
        Err(_) => return Err(Broken::Sender),
    };
    let taken = match to.write(&buffer[..there]) {
        Ok(count) => count,
        Err(e) if is_transient(&e) => return Ok(Copied::Full),
        Err(_) => return Err(Broken::Receiver),
    };
    discard(from, &mut buffer[..taken]).map_err(|_| Broken::Sender)?;
    Ok(Copied::Some(taken))
}

/// Discards the bytes that `buffers` has room for, which are known to be in the socket.
pub(crate) fn discard(from: &Socket, mut buffers: &mut [u8]) -> io::Result<()> {
    while !buffers.is_empty() {
        // One call stops in front of an urgent byte. With MSG_TRUNC nothing is copied (tcp(7)).
        match recv(from.as_raw_fd(), buffers, MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffers = &mut buffers[count..],
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use super::*;

    const READABLE: Readiness = Readiness { readable: true, closing: false, broken: false };

    /// Returns both ends of a connection; the second one is ours and non-blocking.
    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let theirs = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let ours = Socket::from(listener.accept().expect("accepted").0);
        ours.set_nonblocking(true).expect("set");
        ours.set_out_of_band_inline(true).expect("set");
        (theirs, ours)
    }

    /// Pumps until nothing more arrives; returns the bytes moved.
    fn pump_all(pump: &mut SplicePump, from: &Socket, to: &Socket, pipes: &mut Pipes) -> usize {
        let mut all = 0;
        loop {
            let mut bytes = 0;
            pump.pump(from, to, pipes, READABLE, &mut bytes).expect("nothing breaks");
            all += bytes;
            if bytes == 0 {
                return all;
            }
        }
    }

    #[test]
    fn urgent_bytes_keep_their_place() {
        for stock in [Pipes::new(Arc::default()), Pipes::with_max(0, Arc::default())] {
            let ((client, ours), (mut target, theirs)) = (pair(), pair());
            let (mut pump, mut pipes) = (SplicePump::default(), stock);
            let client = Socket::from(client);
            client.send(b"abc").expect("sent");
            client.send_out_of_band(b"!").expect("sent");
            client.send(b"defghij").expect("sent");
            client.shutdown(Shutdown::Write).expect("closed");
            assert_eq!(pump_all(&mut pump, &ours, &theirs, &mut pipes), 11);
            assert!(pump.is_over());
            let mut got = Vec::new();
            target.read_to_end(&mut got).expect("read");
            assert_eq!(got, b"abc!defghij");
        }
    }

    #[test]
    fn without_a_pipe_only_accepted_bytes_are_consumed() {
        let ((mut client, ours), (mut target, theirs)) = (pair(), pair());
        let (mut pump, mut pipes) = (SplicePump::default(), Pipes::with_max(0, Arc::default()));
        // More than all socket buffers on the way hold.
        let sent: Vec<u8> = (0..32_000_000_u32).map(|n| (n % 251) as u8).collect();
        let bytes = sent.clone();
        let sender = std::thread::spawn(move || client.write_all(&bytes).expect("written"));
        let mut got = Vec::new();
        let mut piece = vec![0; 1 << 20];
        let mut was_full = false;
        while !pump.is_over() {
            pump.pump(&ours, &theirs, &mut pipes, READABLE, &mut 0).expect("nothing breaks");
            if pump.waits() {
                was_full = true;
                let count = target.read(&mut piece).expect("read");
                got.extend_from_slice(&piece[..count]);
            }
        }
        sender.join().expect("all was sent");
        target.read_to_end(&mut got).expect("read");
        assert!(was_full, "the receiver does not read at first");
        assert!(got == sent, "{} of {}", got.len(), sent.len());
    }
}
