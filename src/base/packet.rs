//! A message in its receive buffer, with headroom and tailroom for edits.
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
    /// Creates a view of `len` bytes at `start` in `buf`; both are limited to `buf`.
    #[must_use]
    #[inline]
    pub fn new(buf: &'b mut [u8], start: usize, len: usize) -> Self {
        let start = start.min(buf.len());
        let end = start.saturating_add(len).min(buf.len());
        Self { buf, start, end }
    }

    /// Returns the message.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Returns the message, mutable.
    #[must_use]
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.start..self.end]
    }

    /// Returns the length of the message.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Returns whether the message is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Returns the offset of the message in its buffer.
    #[must_use]
    pub const fn start(&self) -> usize {
        self.start
    }

    /// Returns the number of bytes that can be appended.
    #[must_use]
    pub const fn tailroom(&self) -> usize {
        self.buf.len() - self.end
    }

    /// Truncates the message to `len` bytes; no effect if it is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Appends `bytes`; false, and nothing written, when there is no space.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if self.tailroom() < bytes.len() {
            return false;
        }
        self.buf[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
        true
    }

    /// Replaces what follows the first `keep` bytes, of which there must be so many; false, and nothing
    /// changed, when there is no space.
    #[must_use]
    pub fn resume(&mut self, keep: usize, bytes: &[u8]) -> bool {
        let from = self.start + keep;
        let Some(place) = self.buf.get_mut(from..from + bytes.len()).filter(|_| from <= self.end) else {
            return false;
        };
        place.copy_from_slice(bytes);
        self.end = from + bytes.len();
        true
    }

    /// Removes up to `count` bytes from the front of the message, which become headroom.
    pub fn advance(&mut self, count: usize) {
        self.start = self.end.min(self.start.saturating_add(count));
    }

    /// Prepends `bytes`; without enough headroom the message moves back in its buffer. False, and
    /// nothing changed, when there is no space at all.
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

    /// Replaces the whole message; false, and nothing changed, when there is no space.
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
    fn bytes_can_be_prepended_and_removed() {
        for (start, room) in [(8, 0), (3, 5), (0, 8), (2, 6)] {
            let mut buf = vec![0; start + 4 + room];
            buf[start..start + 4].copy_from_slice(b"pack");
            let mut packet = Packet::new(&mut buf, start, 4);
            assert!(packet.prepend(b"headers:"), "headroom {start}, tailroom {room}");
            assert_eq!(packet.bytes(), b"headers:pack");
            assert!(!packet.prepend(b"!"), "no space is left");
            packet.advance(8);
            assert_eq!(packet.bytes(), b"pack");
            assert!(packet.append(b"") && packet.prepend(b"again:"));
            assert_eq!(packet.bytes(), b"again:pack");
            packet.advance(99);
            assert!(packet.is_empty());
        }
    }
}
