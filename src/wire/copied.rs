//! The option of copied queries: which instances have copied a query for a second server. Whoever
//! finds its own mark copies it no further, so that instances which copy to each other do not do so
//! for ever.
//!
//! ```text
//!  | mark of the first instance | ... | mark of the last one |      8 bytes each, at most 8 of them
//! ```
//!
//! A mark is drawn at random by each process: who has not seen its copies cannot keep a query from
//! being copied.

use crate::base::packet::Packet;
use crate::wire::edns;
use crate::wire::edns::Outcome;

/// The option's code, of those for local use (RFC 6891, 9).
pub const CODE: u16 = 65_353;
/// Marks that are kept, the last ones: a loop of more instances is not seen.
const MARKS_MAX: usize = 8;

/// What an instance marks its copies with.
pub type Mark = [u8; 8];

/// Bytes that [`mark`] adds to a message, at most: an OPT record and the option with all its marks.
pub const ROOM: usize = 11 + 4 + MARKS_MAX * size_of::<Mark>();

/// Returns whether an instance has marked a query.
#[must_use]
pub fn has(message: &[u8], own: Mark) -> bool {
    edns::locate(message).is_some_and(|opt| {
        edns::options(message, &opt)
            .filter(|option| option.0 == CODE)
            .any(|option| message[option.1].as_chunks().0.contains(&own))
    })
}

/// Adds a mark to those of a copy; `payload` is the UDP payload size of an added OPT record, bytes.
/// False, and nothing changed, when the copy is malformed or the mark does not fit.
#[must_use]
pub fn mark(packet: &mut Packet<'_>, own: Mark, payload: u16) -> bool {
    let message = packet.bytes();
    let mut marks = [0; MARKS_MAX * size_of::<Mark>()];
    let mut len = 0;
    let before = edns::locate(message)
        .and_then(|opt| edns::options(message, &opt).find(|option| option.0 == CODE))
        .and_then(|option| message.get(option.1));
    if let Some((before, [])) = before.map(<[u8]>::as_chunks::<{ size_of::<Mark>() }>) {
        let kept = &before[before.len().saturating_sub(MARKS_MAX - 1)..];
        for (place, mark) in marks.as_chunks_mut().0.iter_mut().zip(kept) {
            *place = *mark;
        }
        len = size_of_val(kept);
    }
    marks[len..len + own.len()].copy_from_slice(&own);
    edns::set_option(packet, CODE, &marks[..len + own.len()], payload) != Outcome::Failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::edited;

    const PLAIN: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

    fn marked(message: &[u8], by: u8) -> Vec<u8> {
        let (after, done) = edited(message, ROOM, |packet| mark(packet, [by; 8], 1232));
        assert!(done);
        after
    }

    #[test]
    fn the_last_marks_are_kept() {
        let mut message = PLAIN.to_vec();
        for by in 1..=20 {
            message = marked(&message, by);
            let has = |by| has(&message, [by; 8]);
            assert!((by.saturating_sub(7).max(1)..=by).all(has), "{by}");
            assert!(!has(by.saturating_sub(8)) && !has(by + 1), "{by}");
        }
        assert_eq!(message.len(), PLAIN.len() + ROOM);
    }

    #[test]
    fn what_is_not_a_list_of_marks_is_replaced() {
        let (odd, _) = edited(PLAIN, 40, |packet| edns::set_option(packet, CODE, &[1; 15], 512));
        assert!(!has(&odd, [2; 8]));
        let (one, _) = edited(PLAIN, 40, |packet| edns::set_option(packet, CODE, &[2; 8], 512));
        assert_eq!(marked(&odd, 2), one);
        let (none, done) = edited(&PLAIN[..15], ROOM, |packet| mark(packet, [1; 8], 1232));
        assert_eq!((&none[..], done), (&PLAIN[..15], false));
        let (full, done) = edited(PLAIN, 10, |packet| mark(packet, [1; 8], 1232));
        assert_eq!((&full[..], done), (PLAIN, false));
    }
}
