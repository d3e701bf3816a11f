//! A buffer in which a message is edited that stands elsewhere: in a connection's frames, or kept to
//! be asked again.

use crate::base::packet::Packet;

/// Bytes before a message for what edits put in front.
const HEADROOM: usize = 64;
/// And behind it for what they add.
const TAILROOM: usize = 4_096;
/// A message that a frame can hold, bytes.
pub(crate) const MESSAGE_MAX: usize = u16::MAX as usize;

/// The buffer; it takes no memory before its first use.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    /// A packet with a copy of a message, which a frame can hold, and room for edits.
    pub(crate) fn load(&mut self, message: &[u8]) -> Packet<'_> {
        self.0.resize(HEADROOM + MESSAGE_MAX + TAILROOM, 0);
        self.0[HEADROOM..HEADROOM + message.len()].copy_from_slice(message);
        Packet::new(&mut self.0, HEADROOM, message.len())
    }
}
