//! A datagram where it arrived: bytes in place, with room in front and behind for edits.
//!
//! ```text
//!  buf: | headroom | the message ............ | tailroom |
//!                  ^ start                    ^ end
//! ```

/// A view of one message inside an engine's buffer.
#[derive(Debug)]
pub struct Packet<'b> {
    buf: &'b mut [u8],
    start: usize,
    end: usize,
}

impl<'b> Packet<'b> {
    /// A message of `len` bytes at `start` in `buf`; both are cut to what `buf` holds.
    #[must_use]
    pub fn new(buf: &'b mut [u8], start: usize, len: usize) -> Self {
        let start = start.min(buf.len());
        let end = start.saturating_add(len).min(buf.len());
        Self { buf, start, end }
    }

    /// The message.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// The message, to be edited.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.start..self.end]
    }

    /// Bytes of the message.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the message has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Where the message begins in its buffer.
    #[must_use]
    pub const fn start(&self) -> usize {
        self.start
    }

    /// Bytes that can be added behind.
    #[must_use]
    pub const fn tailroom(&self) -> usize {
        self.buf.len() - self.end
    }

    /// Cuts the message to `len` bytes; longer than it is changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Writes `bytes` behind the message; false, and nothing written, when there is no room.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if self.tailroom() < bytes.len() {
            return false;
        }
        self.buf[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
        true
    }

    /// Takes `count` bytes off the front of the message, all of it at most: they become room.
    pub fn advance(&mut self, count: usize) {
        self.start = self.end.min(self.start.saturating_add(count));
    }

    /// Writes `bytes` in front of the message; a message without so much room in front moves back
    /// in its buffer. False, and nothing changed, when there is no room at all.
    #[must_use]
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        if let Some(start) = self.start.checked_sub(bytes.len()) {
            self.start = start;
        } else {
            let length = self.len();
            if self.buf.len() - length < bytes.len() {
                return false;
            }
            self.buf.copy_within(self.start..self.end, bytes.len());
            (self.start, self.end) = (0, bytes.len() + length);
        }
        self.buf[self.start..self.start + bytes.len()].copy_from_slice(bytes);
        true
    }

    /// Replaces the whole message; false, and nothing changed, when there is no room.
    #[must_use]
    pub fn replace(&mut self, bytes: &[u8]) -> bool {
        if self.buf.len() - self.start < bytes.len() {
            return false;
        }
        self.end = self.start + bytes.len();
        self.bytes_mut().copy_from_slice(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_front_and_come_off_again() {
        for (start, room) in [(8, 0), (3, 5), (0, 8), (2, 6)] {
            let mut buf = vec![0; start + 4 + room];
            buf[start..start + 4].copy_from_slice(b"pack");
            let mut packet = Packet::new(&mut buf, start, 4);
            assert!(packet.prepend(b"headers:"), "{start} in front, {room} behind");
            assert_eq!(packet.bytes(), b"headers:pack");
            assert!(!packet.prepend(b"!"), "all room is used");
            packet.advance(8);
            assert_eq!(packet.bytes(), b"pack");
            assert!(packet.append(b"") && packet.prepend(b"again:"));
            assert_eq!(packet.bytes(), b"again:pack");
            packet.advance(99);
            assert!(packet.is_empty());
        }
    }
}
