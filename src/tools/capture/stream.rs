//! The bytes of a capture as its formats want them: in one piece, and only consumed when all of a
//! record is there.

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

/// Bytes that are read at once.
pub(super) const READ_BYTES: usize = 1 << 20;
/// How long a pipe may be silent until whoever waits for it looks after other things.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where bytes come from.
pub(super) enum Input {
    /// Something that never waits for long.
    Reader(Box<dyn Read + Send>),
    /// A thread that may wait.
    Thread(Receiver<io::Result<Vec<u8>>>),
}

/// Whether bytes are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// As many as were asked for.
    Enough,
    /// Not yet.
    Idle,
    /// Fewer, and there are no more.
    Ended,
}

/// A stream of bytes.
pub(super) struct Stream {
    input: Input,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// What was consumed.
    offset: u64,
    ended: bool,
}

impl Stream {
    pub(super) fn new(input: Input) -> Self {
        Self { input, buffer: Vec::new(), from: 0, to: 0, offset: 0, ended: false }
    }

    /// Returns what is there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    /// Returns how much was consumed before.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes bytes away, at most those that are there.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.to - self.from);
        self.from += count;
        self.offset += count as u64;
    }

    /// Reads until this many bytes are there. Memory grows with what comes, not with what is announced.
    pub(super) fn fill(&mut self, wanted: usize) -> io::Result<Fill> {
        while self.to - self.from < wanted {
            if self.ended {
                return Ok(Fill::Ended);
            }
            if self.from > 0 {
                self.buffer.copy_within(self.from..self.to, 0);
                (self.from, self.to) = (0, self.to - self.from);
            }
            let room = self.to + READ_BYTES;
            if self.buffer.len() < room {
                self.buffer.resize(room, 0);
            }
            match &mut self.input {
                Input::Reader(reader) => match reader.read(&mut self.buffer[self.to..room]) {
                    Ok(0) => self.ended = true,
                    Ok(count) => self.to += count,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                },
                Input::Thread(chunks) => match chunks.recv_timeout(PATIENCE) {
                    Ok(chunk) => {
                        let chunk = chunk?;
                        // The thread reads no more than this at once.
                        let count = chunk.len().min(room - self.to);
                        self.buffer[self.to..self.to + count].copy_from_slice(&chunk[..count]);
                        self.to += count;
                    }
                    Err(RecvTimeoutError::Timeout) => return Ok(Fill::Idle),
                    Err(RecvTimeoutError::Disconnected) => self.ended = true,
                },
            }
        }
        Ok(Fill::Enough)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives bytes one by one.
    struct Trickle(Vec<u8>);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(byte) = self.0.pop() else { return Ok(0) };
            buffer[0] = byte;
            Ok(1)
        }
    }

    #[test]
    fn bytes_stay_until_they_are_consumed() {
        let mut stream = Stream::new(Input::Reader(Box::new(Trickle(vec![5, 4, 3, 2, 1]))));
        assert_eq!(stream.fill(2).expect("bytes"), Fill::Enough);
        assert_eq!((stream.bytes(), stream.offset()), (&[1, 2][..], 0));
        stream.consume(1);
        assert_eq!(stream.fill(3).expect("bytes"), Fill::Enough);
        assert_eq!((stream.bytes(), stream.offset()), (&[2, 3, 4][..], 1));
        assert_eq!(stream.fill(5).expect("bytes"), Fill::Ended);
        assert_eq!(stream.bytes(), [2, 3, 4, 5]);
        stream.consume(9);
        assert_eq!((stream.bytes(), stream.offset()), (&[][..], 5));
    }

    #[test]
    fn a_silent_thread_is_not_waited_for() {
        let (send, chunks) = crossbeam_channel::bounded(2);
        let mut stream = Stream::new(Input::Thread(chunks));
        send.send(Ok(vec![1, 2])).expect("a receiver");
        assert_eq!(stream.fill(3).expect("bytes"), Fill::Idle);
        assert_eq!(stream.bytes(), [1, 2]);
        send.send(Err(io::Error::other("bad"))).expect("a receiver");
        drop(send);
        stream.fill(3).expect_err("an error of the thread");
        assert_eq!(stream.fill(3).expect("bytes"), Fill::Ended);
    }
}
