//! A buffer for editing a message that is in a connection's frames, or was kept for another
//! attempt.

use crate::base::packet::Packet;

/// Bytes before a message for what edits prepend.
const HEADROOM: usize = 64;
/// Bytes behind it for what they append.
const TAILROOM: usize = 4_096;
/// Bytes of the longest message in a frame.
pub(crate) const MESSAGE_MAX: usize = u16::MAX as usize;

/// The buffer; it allocates at its first use.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    /// Returns a packet with a copy of a message, which must fit a frame, and space for edits.
    pub(crate) fn load(&mut self, message: &[u8]) -> Packet<'_> {
        self.0.resize(HEADROOM + MESSAGE_MAX + TAILROOM, 0);
        self.0[HEADROOM..HEADROOM + message.len()].copy_from_slice(message);
        Packet::new(&mut self.0, HEADROOM, message.len())
    }
}
