//! A record of a capture, as each format finds it.

/// What is next in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A record.
    Record(Record),
    /// Something without a packet, of this many bytes.
    Other(usize),
    /// Nothing yet.
    Idle,
    /// Nothing more.
    End,
}

/// A record, which is whole in the stream's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// When it was captured, nanoseconds since 1970.
    pub(super) at: u64,
    /// How its link frames packets, as <https://www.tcpdump.org/linktypes.html> numbers it.
    pub(super) link: u16,
    /// Bytes in front of its packet.
    pub(super) front: usize,
    /// Bytes of its packet that were captured.
    pub(super) captured: usize,
    /// Whether these are not all.
    pub(super) is_cut: bool,
    /// Bytes of the whole record.
    pub(super) whole: usize,
}
