//! The question of a query: parsed once, borrowed from the packet.

use crate::wire::{header, name};

/// The first question of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'p> {
    /// The name in wire format, uncompressed, in its original case.
    pub qname: &'p [u8],
    /// The queried type.
    pub qtype: u16,
    /// The queried class.
    pub qclass: u16,
    /// Where the first entry of the section ends.
    pub end: usize,
}

impl<'p> Question<'p> {
    /// Parses the question after the header. `None` when it is incomplete or its name is not plain:
    /// nothing before a question could be a pointer's target.
    #[must_use]
    #[inline]
    pub fn parse(message: &'p [u8]) -> Option<Self> {
        let name_end = name::end_plain(message, header::LEN)?;
        let &[t0, t1, c0, c1] = message.get(name_end..name_end + 4)?.first_chunk()?;
        Some(Self {
            qname: &message[header::LEN..name_end],
            qtype: u16::from_be_bytes([t0, t1]),
            qclass: u16::from_be_bytes([c0, c1]),
            end: name_end + 4,
        })
    }

    /// Returns whether both are the same question, ignoring case (RFC 4343).
    #[must_use]
    pub fn matches(&self, other: &Question<'_>) -> bool {
        self.qtype == other.qtype
            && self.qclass == other.qclass
            && self.qname.eq_ignore_ascii_case(other.qname)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_question_is_read() {
        let message = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03WwW\x07example\0\0\x1c\0\x01tail";
        let q = Question::parse(message).expect("a question");
        assert_eq!((q.qname, q.qtype, q.qclass, q.end), (&b"\x03WwW\x07example\0"[..], 28, 1, 29));
        let lower = Question { qname: b"\x03www\x07example\0", ..q };
        assert!(q.matches(&lower));
        assert!(!q.matches(&Question { qtype: 1, ..q }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(message in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(q) = Question::parse(&message) {
                prop_assert!(q.end <= message.len());
            }
        }
    }
}
