//! Framing of DNS messages in a byte stream: two bytes of length, then the message (RFC 1035,
//! 4.2.2; RFC 7766, 8).
//!
//! ```text
//!  | length (2) | message ...... | length (2) | message ...... | le
//!    read 1 ------------------'  read 2 -----------'  read 3 ---'
//! ```
//!
//! [`Frames`] extracts messages from what a read returned, [`Outbound`] holds pending output.
//! Neither allocates memory while a connection is idle. Both only know bytes: sockets, time-outs
//! and message limits are the connection's.

use std::fmt;

use crate::wire::header;

/// Bytes of a frame's length field.
const LENGTH: usize = 2;
/// Initial buffer for the beginning of a frame, bytes, unless the frame is shorter. More is
/// allocated as bytes arrive: an announced length costs no memory.
const PARTIAL_MIN: usize = 512;
/// Capacity of an emptied [`Outbound`] kept for the next answers, bytes.
const OUTBOUND_KEPT: usize = 4_096;

/// Whether a connection accepts further messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Continue with the next message.
    Go,
    /// Stop for now.
    Stop,
}

/// A frame that cannot contain a DNS message. The next frame cannot be located: the connection must
/// be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Its length is 0.
    Empty,
    /// Its length, bytes, is less than a header's.
    Short(u16),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a frame without a message"),
            Self::Short(length) => write!(f, "a frame of {length} bytes, shorter than a DNS header"),
        }
    }
}

/// Extracts messages from the bytes of one connection. Buffers only what was read and not consumed:
/// the beginning of a frame, or what follows a [`Flow::Stop`].
#[derive(Debug, Default)]
pub struct Frames {
    /// Bytes read; those before `taken` are consumed.
    partial: Vec<u8>,
    taken: usize,
}

impl Frames {
    /// Creates an empty instance.
    #[must_use]
    pub const fn new() -> Self {
        Self { partial: Vec::new(), taken: 0 }
    }

    /// Calls `message` for each message that `bytes` completes, in order, until it returns
    /// [`Flow::Stop`]. A message that is completely in `bytes` is borrowed from there; only the
    /// beginning of a frame is copied.
    ///
    /// Returns how many of the `bytes` were consumed: all of them, or those up to the end of the
    /// message that stopped it. Pass the rest to [`keep`](Self::keep).
    ///
    /// # Errors
    /// A frame of an impossible length, once its length is complete; earlier messages were passed
    /// on. The connection must be closed.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        message: &mut dyn FnMut(&[u8]) -> Flow,
    ) -> Result<usize, FrameError> {
        let mut used = 0;
        while self.pending() > 0 {
            let held = &self.partial[self.taken..];
            let Some(frame) = frame_len(held)? else {
                let Some(second) = bytes.get(used) else { return Ok(used) };
                self.store(&[*second], LENGTH);
                used += 1;
                continue;
            };
            if let Some(missing) = frame.checked_sub(held.len()).filter(|m| *m > 0) {
                let more = &bytes[used..bytes.len().min(used + missing)];
                self.store(more, frame);
                used += more.len();
                if more.len() < missing {
                    return Ok(used);
                }
            }
            let flow = message(&self.partial[self.taken + LENGTH..self.taken + frame]);
            self.take(frame);
            if flow == Flow::Stop {
                return Ok(used);
            }
        }
        loop {
            let rest = &bytes[used..];
            let frame = frame_len(rest)?;
            let Some(frame) = frame.filter(|frame| *frame <= rest.len()) else {
                self.store(rest, frame.unwrap_or(LENGTH));
                return Ok(bytes.len());
            };
            used += frame;
            if message(&rest[LENGTH..frame]) == Flow::Stop {
                return Ok(used);
            }
        }
    }

    /// Keeps bytes that [`feed`](Self::feed) did not consume, for [`resume`](Self::resume). The
    /// connection should not be read before these are consumed: there is no limit here.
    pub fn keep(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.partial.extend_from_slice(rest);
        }
    }

    /// Continues with buffered bytes: [`feed`](Self::feed) without new ones.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn resume(&mut self, message: &mut dyn FnMut(&[u8]) -> Flow) -> Result<(), FrameError> {
        self.feed(&[], message).map(|_| ())
    }

    /// Returns whether a frame is incomplete, with no complete one buffered before it. For the read
    /// time-out.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.pending() > 0 && !self.has_more()
    }

    /// Returns whether [`resume`](Self::resume) has a message or an error to return.
    #[must_use]
    pub fn has_more(&self) -> bool {
        let held = &self.partial[self.taken..];
        frame_len(held).map_or(true, |frame| frame.is_some_and(|frame| frame <= held.len()))
    }

    /// Returns the number of buffered bytes.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.partial.len() - self.taken
    }

    /// Returns the bytes of memory, besides the struct itself.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.partial.capacity()
    }

    /// Buffers bytes; `frame` is how long the frame can become. Memory at most doubles with what
    /// has arrived.
    fn store(&mut self, bytes: &[u8], frame: usize) {
        if bytes.is_empty() {
            return;
        }
        let needed = self.partial.len() + bytes.len();
        if self.partial.capacity() < needed {
            // Until the length field is complete, only its own size is known.
            let most = (self.taken + frame).max(needed);
            let wanted = (2 * needed).max(PARTIAL_MIN).min(most);
            self.partial.reserve_exact(wanted - self.partial.len());
        }
        self.partial.extend_from_slice(bytes);
    }

    /// Marks `count` bytes as consumed. Frees the memory after the last one, and compacts the
    /// buffer when most are consumed: each byte is moved at most once for each consumed one.
    fn take(&mut self, count: usize) {
        self.taken += count;
        let left = self.pending();
        if left == 0 {
            *self = Self::new();
        } else if self.taken >= left {
            self.partial.drain(..self.taken);
            self.taken = 0;
            self.partial.shrink_to(2 * left);
        }
    }
}

/// Returns the length of the frame that begins here, including its length field; `None` when that
/// is incomplete.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(length) = bytes.first_chunk().map(|length| u16::from_be_bytes(*length)) else {
        return Ok(None);
    };
    match usize::from(length) {
        0 => Err(FrameError::Empty),
        1..header::LEN => Err(FrameError::Short(length)),
        message => Ok(Some(LENGTH + message)),
    }
}

/// The pending output of a connection.
#[derive(Debug, Default)]
pub struct Outbound {
    bytes: Vec<u8>,
    /// Offset of the first unwritten byte.
    head: usize,
}

impl Outbound {
    /// Creates an empty instance.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), head: 0 }
    }

    /// Appends a message with its length. False, and nothing appended, when it is longer than the
    /// 65,535 bytes of a frame.
    #[must_use]
    pub fn push_frame(&mut self, message: &[u8]) -> bool {
        let Ok(length) = u16::try_from(message.len()) else { return false };
        self.make_room(LENGTH + message.len());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(message);
        true
    }

    /// Appends raw bytes: a PROXY header.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the unwritten bytes, in order.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// Notes that the first `count` bytes of [`pending`](Self::pending) were written; a larger
    /// number means all of them. An emptied queue keeps 4 kB of memory.
    pub fn advance(&mut self, count: usize) {
        self.head += count.min(self.len());
        if self.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(OUTBOUND_KEPT);
            self.head = 0;
        }
    }

    /// Returns the number of unwritten bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Returns whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of memory, besides the struct itself.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Frees all memory if there is nothing to write, because the connection is idle.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::new();
        }
    }

    /// Compacts the buffer rather than grow it, when that moves fewer bytes than were written.
    fn make_room(&mut self, count: usize) {
        if self.bytes.capacity() - self.bytes.len() < count && self.head >= self.len() {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Builds a frame of a message of `length` bytes, each `byte`.
    fn frame(length: u16, byte: u8) -> Vec<u8> {
        [&length.to_be_bytes()[..], &vec![byte; usize::from(length)]].concat()
    }

    /// Returns the messages extracted from `reads`, and the error that ends them.
    fn taken(reads: &[&[u8]]) -> (Vec<Vec<u8>>, Option<FrameError>, Frames) {
        let (mut frames, mut messages) = (Frames::new(), Vec::new());
        for read in reads {
            let fed = frames.feed(read, &mut |message| {
                messages.push(message.to_vec());
                Flow::Go
            });
            match fed {
                Ok(used) => assert_eq!(used, read.len()),
                Err(error) => return (messages, Some(error), frames),
            }
        }
        (messages, None, frames)
    }

    #[test]
    fn messages_in_one_read_are_borrowed_from_it() {
        let read = [frame(12, 1), frame(300, 2), frame(65_535, 3)].concat();
        let within = read.as_ptr_range();
        let (mut frames, mut lengths) = (Frames::new(), Vec::new());
        let fed = frames.feed(&read, &mut |message| {
            assert!(within.contains(&message.as_ptr()));
            lengths.push(message.len());
            Flow::Go
        });
        assert_eq!((fed, lengths), (Ok(read.len()), vec![12, 300, 65_535]));
        assert_eq!((frames.pending(), frames.capacity(), frames.is_partial()), (0, 0, false));
    }

    #[test]
    fn impossible_lengths_are_errors_at_any_segmentation() {
        for (length, error) in
            [(0, FrameError::Empty), (1, FrameError::Short(1)), (11, FrameError::Short(11))]
        {
            let stream = [frame(13, 7), frame(length, 8)].concat();
            for cut in 0..stream.len() {
                let (messages, ended, _) = taken(&[&stream[..cut], &stream[cut..]]);
                assert_eq!((messages, ended), (vec![vec![7; 13]], Some(error)), "split at {cut}");
            }
        }
    }

    #[test]
    fn an_incomplete_frame_is_partial() {
        let stream = frame(12, 5);
        let mut frames = Frames::new();
        let mut seen = 0;
        for (at, byte) in stream.iter().enumerate() {
            assert_eq!((frames.is_partial(), frames.pending()), (at > 0, at));
            let fed = frames.feed(&[*byte], &mut |_| {
                seen += 1;
                Flow::Go
            });
            assert_eq!(fed, Ok(1));
        }
        assert_eq!((seen, frames.is_partial(), frames.capacity()), (1, false, 0));
    }

    #[test]
    fn an_announced_length_costs_no_memory() {
        let (_, _, mut frames) = taken(&[&frame(65_535, 1)[..3]]);
        assert!(frames.capacity() <= PARTIAL_MIN);
        let mut sent = 3;
        for _ in 0..300 {
            sent += frames.feed(&[1; 100], &mut |_| Flow::Go).expect("no error");
            assert!(frames.capacity() <= (2 * sent).max(PARTIAL_MIN));
        }
        let (_, _, frames) = taken(&[&frame(40, 1)[..3]]);
        assert_eq!(frames.capacity(), 42, "a short frame gets what it needs");
    }

    #[test]
    fn bytes_after_a_stop_are_kept() {
        let stream: Vec<u8> = (1..=5).flat_map(|n| frame(20, n)).collect();
        let read = &stream[..stream.len() - 3];
        let (mut frames, mut seen) = (Frames::new(), Vec::new());
        let mut one = |message: &[u8]| {
            seen.push(message[0]);
            Flow::Stop
        };
        assert_eq!(frames.feed(read, &mut one), Ok(22));
        frames.keep(&read[22..]);
        assert_eq!((frames.pending(), frames.has_more(), frames.is_partial()), (85, true, false));
        for left in [63, 41, 19, 19] {
            assert_eq!(frames.resume(&mut one), Ok(()));
            assert_eq!(frames.pending(), left);
        }
        assert!(frames.is_partial() && !frames.has_more());
        assert_eq!(frames.feed(&stream[read.len()..], &mut one), Ok(3));
        assert_eq!((seen, frames.capacity()), (vec![1, 2, 3, 4, 5], 0));
    }

    #[test]
    fn a_stop_within_buffered_bytes_leaves_the_new_ones() {
        let stream = [frame(12, 1), frame(12, 2)].concat();
        let (mut frames, mut seen) = (Frames::new(), Vec::new());
        frames.keep(&stream);
        let more = frame(12, 3);
        let mut one = |message: &[u8]| {
            seen.push(message[0]);
            Flow::Stop
        };
        assert_eq!(frames.feed(&more, &mut one), Ok(0));
        frames.keep(&more);
        assert_eq!((frames.resume(&mut one), frames.resume(&mut one)), (Ok(()), Ok(())));
        assert_eq!((seen, frames.pending()), (vec![1, 2, 3], 0));
    }

    #[test]
    fn output_is_written_in_order_and_frees_memory() {
        let mut out = Outbound::new();
        out.push_raw(b"PROXY");
        assert!(out.push_frame(b"one") && out.push_frame(b"") && out.push_frame(b"two"));
        assert_eq!(out.pending(), b"PROXY\0\x03one\0\0\0\x03two");
        out.advance(6);
        assert_eq!((out.pending(), out.len()), (&b"\x03one\0\0\0\x03two"[..], 11));
        out.release();
        assert_eq!(out.len(), 11, "unwritten bytes stay");
        out.advance(usize::MAX);
        assert!(out.is_empty() && out.capacity() > 0);
        out.release();
        assert_eq!(out.capacity(), 0);
        assert!(out.push_frame(&[0; 65_535]));
        assert!(!out.push_frame(&[0; 65_536]));
        assert_eq!(out.len(), 65_537);
        out.advance(65_537);
        assert!(out.capacity() <= OUTBOUND_KEPT);
    }

    #[test]
    fn output_that_is_written_at_once_does_not_grow() {
        let mut out = Outbound::new();
        for _ in 0..10_000 {
            assert!(out.push_frame(&[9; 98]));
            out.advance(if out.len() > 500 { 200 } else { 50 });
        }
        assert!(out.capacity() <= 2_048, "{}", out.capacity());
    }

    /// Generates messages, and the segmentation of their stream.
    fn streams() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<usize>)> {
        let message = prop_oneof![9 => 12_usize..60, 1 => 60_usize..2_000]
            .prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
        prop::collection::vec(message, 0..12).prop_flat_map(|messages| {
            let length = messages.iter().map(|m| m.len() + 2).sum::<usize>();
            (Just(messages), prop::collection::vec(0..=length, 0..40))
        })
    }

    proptest! {
        #[test]
        fn any_segmentation_gives_the_same_messages(
            (messages, mut cuts) in streams(),
            stop_each in 1_usize..5,
        ) {
            let mut out = Outbound::new();
            for message in &messages {
                prop_assert!(out.push_frame(message));
            }
            let stream = out.pending().to_vec();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let (mut frames, mut seen) = (Frames::new(), Vec::new());
            for cut in cuts.windows(2) {
                let read = &stream[cut[0]..cut[1]];
                let mut some = |message: &[u8]| {
                    seen.push(message.to_vec());
                    if seen.len() % stop_each == 0 { Flow::Stop } else { Flow::Go }
                };
                let used = frames.feed(read, &mut some);
                prop_assert!(used.is_ok_and(|used| used <= read.len()));
                frames.keep(&read[used.unwrap_or(0)..]);
                while frames.has_more() {
                    prop_assert_eq!(frames.resume(&mut some), Ok(()));
                }
                prop_assert_eq!(frames.pending() > 0, frames.is_partial());
            }
            prop_assert_eq!(seen, messages);
            prop_assert_eq!((frames.pending(), frames.capacity()), (0, 0));
        }
    }
}
