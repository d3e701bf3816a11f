//! The padding option (RFC 7830): answers end at a multiple of a block, so that their length tells
//! little of an encrypted message.
//!
//! ```text
//!  | records | OPT: options, padding (12) 0 0 0 0 |
//!  '---------------- n blocks --------------------'
//! ```
//!
//! A server pads, and only if its client asks for it. Whoever edits the answer pads it anew.

use crate::base::packet::Packet;
use crate::wire::{edns, signature};

/// The option's code.
const CODE: u16 = 12;
/// Blocks in use, bytes: that of answers and that of queries (RFC 8467, 4.1), which some servers
/// use for answers too.
const BLOCKS: [u16; 2] = [468, 128];
/// Bytes of an option's code and length.
const HEAD: usize = 4;
/// What is appended, at most.
const ZEROS: [u8; BLOCKS[0] as usize] = [0; BLOCKS[0] as usize];

/// The block that an answer is padded to, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(u16);

/// The block of answers to a client that pads its queries and whose server does not pad answers.
pub const OF_ANSWERS: Block = Block(BLOCKS[0]);

/// Returns the block that a message was padded to; none for one that was not padded, or otherwise.
#[must_use]
#[inline]
pub fn block(message: &[u8]) -> Option<Block> {
    let block = BLOCKS.into_iter().find(|block| message.len().is_multiple_of(usize::from(*block)))?;
    is_padded(message).then_some(Block(block))
}

/// Returns whether a message has the option: a client that pads its queries wants padded answers.
#[must_use]
#[cold]
pub fn is_padded(message: &[u8]) -> bool {
    edns::locate(message).is_some_and(|opt| edns::options(message, &opt).any(|option| option.0 == CODE))
}

/// Pads an answer to a multiple of its block, which it had before it was edited, but to no more than
/// `limit` bytes. One without an OPT record, or with a signature, or without space stays as it is.
#[inline]
pub fn restore(packet: &mut Packet<'_>, block: Option<Block>, limit: usize) {
    if let Some(Block(block)) = block
        && !packet.len().is_multiple_of(usize::from(block))
    {
        pad(packet, usize::from(block), limit);
    }
}

#[cold]
fn pad(packet: &mut Packet<'_>, block: usize, limit: usize) {
    let message = packet.bytes();
    let Some(opt) = edns::locate(message).filter(|_| !signature::is_signed(message)) else { return };
    let padding = edns::options(message, &opt).filter(|option| option.0 == CODE);
    let without = message.len() - padding.map(|option| HEAD + option.1.len()).sum::<usize>() + HEAD;
    let missing = without.next_multiple_of(block).min(limit).saturating_sub(without);
    if let Some(zeros) = ZEROS.get(..missing) {
        let _ = edns::set_option(packet, CODE, zeros, opt.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::edited;

    /// Builds an answer of this length with this option and padding.
    fn padded(option: &[u8], len: usize) -> Vec<u8> {
        let mut message =
            b"\0\x01\x80\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0".to_vec();
        let padding = len - message.len() - 2 - option.len() - HEAD;
        message.extend(((option.len() + HEAD + padding) as u16).to_be_bytes());
        message.extend(option);
        message.extend([0, 12]);
        message.extend((padding as u16).to_be_bytes());
        message.resize(len, 0);
        message
    }

    const ERROR: &[u8] = b"\0\x0f\0\x02\0\x0f";

    #[test]
    fn an_edited_answer_ends_at_its_block() {
        for (before, limit, after) in [
            (468, 65_535, 468),
            (936, 65_535, 468),
            (128, 65_535, 128),
            (256, 65_535, 128),
            (468, 400, 400),
            (468, 41, 41),
            // The option alone is longer.
            (468, 20, 40),
            (100, 65_535, 106),
        ] {
            let message = padded(b"", before);
            let block = block(&message);
            assert_eq!(block.is_some(), before != 100);
            let (edited, ()) = edited(&message, 500, |p| {
                assert_eq!(edns::set_option(p, 15, b"\0\x0f", 1232), edns::Outcome::Added);
                restore(p, block, limit);
            });
            assert_eq!(edited.len(), after, "{before} {limit}");
            if before != 100 {
                assert_eq!(edited, padded(ERROR, after));
            }
        }
    }

    #[test]
    fn other_answers_stay() {
        let mut bare = padded(b"", 468);
        bare.truncate(19);
        bare[11] = 0;
        assert_eq!((block(&bare), block(b""), block(&[0; 468])), (None, None, None));
        let block = block(&padded(b"", 468));
        for message in [padded(b"", 936), bare] {
            assert_eq!(edited(&message, 500, |p| restore(p, block, 65_535)).0, message);
            assert_eq!(edited(&message, 500, |p| restore(p, None, 65_535)).0, message);
        }
    }

    #[test]
    fn an_answer_whose_padding_went_gets_it_back() {
        let block = block(&padded(b"", 128));
        let mut own = padded(b"", 128);
        own.truncate(30);
        own[28..30].fill(0);
        assert_eq!(edited(&own, 500, |p| restore(p, block, 65_535)).0, padded(b"", 128));
        assert_eq!(edited(&own, 10, |p| restore(p, block, 65_535)).0, own, "no space");
    }
}
