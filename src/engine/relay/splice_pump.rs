//! One way of a connection: bytes from the sender's socket to the receiver's.
//!
//! ```text
//!  sender ──splice──► pipe ──splice──► receiver      what is usual
//!  sender ──peek──► the shard's buffer ──write──► receiver, then it is taken from the sender
//! ```
//!
//! The copy does what `splice` does not: it passes bytes that are marked urgent (as ordinary ones,
//! in their place), and needs no pipe, when there is none left. It reads nothing that the receiver
//! does not take, so nothing is kept for it.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::Socket;

use crate::engine::relay::is_passing;
use crate::engine::relay::pipe::{Pipe, Pipes};

/// Bytes moved one way in one turn.
pub(crate) const TURN: usize = 256 * 1024;
/// Bytes asked for by one call.
const CHUNK: usize = 256 * 1024;
/// Fewer than this, and there is probably no more at this time: the call that would tell so is
/// saved.
const SMALL: usize = 16 * 1024;

/// One way of a connection.
#[derive(Debug, Default)]
pub(crate) struct SplicePump {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// The receiver had no room for bytes that still stand in the sender's socket.
    full: bool,
    /// The sender has closed it.
    ended: bool,
    /// And the receiver was told.
    told: bool,
}

/// What is known of the two ends of a stretch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    /// There is something to be read from the sender.
    pub(crate) came: bool,
    /// One of them says that it has closed an end.
    pub(crate) ends: bool,
    /// The sender has broken: that it has nothing more to say is not an end to be passed on.
    pub(crate) broke: bool,
}

/// Which end of a stretch broke.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    Sender,
    Receiver,
}

/// What became of an attempt to move bytes by a copy.
enum Copied {
    Some(usize),
    /// The sender has sent all.
    End,
    /// Nothing is there.
    Nothing,
    /// The receiver has no room.
    Full,
}

impl SplicePump {
    /// Something waits for room at the receiver.
    pub(crate) const fn waits(&self) -> bool {
        self.held > 0 || self.full
    }

    /// The sender has closed it.
    pub(crate) const fn ended(&self) -> bool {
        self.ended
    }

    /// All was said, and the receiver knows.
    pub(crate) const fn is_over(&self) -> bool {
        self.told
    }

    /// Moves bytes from one socket to the other, as long as there are some, there is room, and it
    /// is this connection's turn.
    pub(crate) fn carry(
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
                // Urgent bytes are the end, or nothing, to splice.
                let may_copy = match self.pipe.as_ref().map(|pipe| pipe.fill(from, CHUNK)) {
                    Some(Ok(count)) if count > 0 => {
                        self.held = count;
                        last = count < SMALL && !readiness.ends;
                        false
                    }
                    None | Some(Ok(_)) => true,
                    Some(Err(e)) if is_passing(&e) && readiness.came && *bytes == 0 => true,
                    Some(Err(e)) if is_passing(&e) => break,
                    Some(Err(_)) => return Err(Broken::Sender),
                };
                if may_copy {
                    match copy(from, to, pipes.buffer())? {
                        Copied::Some(count) => {
                            *bytes += count;
                            if count < SMALL && !readiness.ends {
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
                Err(e) if is_passing(&e) => break,
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
            if self.ended && !self.told && !readiness.broke {
                self.told = true;
                // A socket that is gone tells so when it is read.
                let _ = to.shutdown(Shutdown::Write);
            }
        }
        Ok(())
    }

    /// The connection is over: its pipe goes, with what it holds.
    pub(crate) fn give_up(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.scrap(pipe);
        }
    }
}

/// Moves what fits in `buffer` and is taken.
fn copy(from: &Socket, mut to: &Socket, buffer: &mut [u8]) -> Result<Copied, Broken> {
    let there = match recv(from.as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(0) => return Ok(Copied::End),
        Ok(count) => count,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Copied::Nothing),
        Err(_) => return Err(Broken::Sender),
    };
    let taken = match to.write(&buffer[..there]) {
        Ok(count) => count,
        Err(e) if is_passing(&e) => return Ok(Copied::Full),
        Err(_) => return Err(Broken::Receiver),
    };
    discard(from, &mut buffer[..taken]).map_err(|_| Broken::Sender)?;
    Ok(Copied::Some(taken))
}

/// Takes as many bytes as `buffers` has from a socket in which they are known to stand.
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

    const CAME: Readiness = Readiness { came: true, ends: false, broke: false };

    /// Two ends of a connection; the second one is ours, and does not wait.
    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let theirs = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let ours = Socket::from(listener.accept().expect("accepted").0);
        ours.set_nonblocking(true).expect("set");
        ours.set_out_of_band_inline(true).expect("set");
        (theirs, ours)
    }

    /// Carries what has been sent until nothing more comes; the bytes that were moved.
    fn carry_all(pump: &mut SplicePump, from: &Socket, to: &Socket, pipes: &mut Pipes) -> usize {
        let mut all = 0;
        loop {
            let mut bytes = 0;
            pump.carry(from, to, pipes, CAME, &mut bytes).expect("nothing breaks");
            all += bytes;
            if bytes == 0 {
                return all;
            }
        }
    }

    #[test]
    fn urgent_bytes_pass_in_their_place() {
        for stock in [Pipes::new(Arc::default()), Pipes::with_most(0, Arc::default())] {
            let ((client, ours), (mut target, theirs)) = (pair(), pair());
            let (mut pump, mut pipes) = (SplicePump::default(), stock);
            let client = Socket::from(client);
            client.send(b"abc").expect("sent");
            client.send_out_of_band(b"!").expect("sent");
            client.send(b"defghij").expect("sent");
            client.shutdown(Shutdown::Write).expect("closed");
            assert_eq!(carry_all(&mut pump, &ours, &theirs, &mut pipes), 11);
            assert!(pump.is_over());
            let mut got = Vec::new();
            target.read_to_end(&mut got).expect("read");
            assert_eq!(got, b"abc!defghij");
        }
    }

    #[test]
    fn without_a_pipe_bytes_are_copied_and_none_is_read_that_is_not_taken() {
        let ((mut client, ours), (mut target, theirs)) = (pair(), pair());
        let (mut pump, mut pipes) = (SplicePump::default(), Pipes::with_most(0, Arc::default()));
        // More than all socket buffers on the way may hold.
        let sent: Vec<u8> = (0..32_000_000_u32).map(|n| (n % 251) as u8).collect();
        let bytes = sent.clone();
        let sender = std::thread::spawn(move || client.write_all(&bytes).expect("written"));
        let mut got = Vec::new();
        let mut piece = vec![0; 1 << 20];
        let mut was_full = false;
        while !pump.is_over() {
            pump.carry(&ours, &theirs, &mut pipes, CAME, &mut 0).expect("nothing breaks");
            if pump.waits() {
                was_full = true;
                let count = target.read(&mut piece).expect("read");
                got.extend_from_slice(&piece[..count]);
            }
        }
        sender.join().expect("all was sent");
        target.read_to_end(&mut got).expect("read");
        assert!(was_full, "the receiver did not read at first");
        assert!(got == sent, "{} of {}", got.len(), sent.len());
    }
}
