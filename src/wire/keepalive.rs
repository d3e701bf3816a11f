//! The TCP keepalive option (RFC 7828): how long a connection may be idle.
//!
//! ```text
//!  | code (11) | length | time-out, units of 100 ms |
//!    2           0 or 2   2, in answers only
//! ```
//!
//! It concerns the two ends of one connection and must not be passed on; over UDP it is
//! meaningless. The caller ensures both.

use crate::base::packet::Packet;
use crate::base::time::TickDelta;
use crate::wire::edns;
use crate::wire::header::Header;

/// The option's code.
pub const CODE: u16 = 11;

/// The unit of the time-out.
pub const UNIT: TickDelta = TickDelta::from_ms(100);

/// Bytes of the option in an answer.
const BYTES: usize = 6;
/// Longest message of a frame, bytes.
const MESSAGE_MAX: usize = u16::MAX as usize;

/// Returns whether a message may have the option, from its last bytes: a message that ends with an
/// OPT record without options, or has no additional records, need not be parsed.
#[must_use]
pub fn may_be_there(message: &[u8]) -> bool {
    let ends_bare = matches!(message.last_chunk::<11>(), Some([0, 0, 41, .., 0, 0]));
    !ends_bare && Header::parse(message).is_some_and(|header| header.arcount() > 0)
}

/// Returns whether a query has the option, which asks for the time-out. Its data are ignored; a
/// query should have none (RFC 7828, 3.2.1).
#[must_use]
pub fn is_asked(query: &[u8]) -> bool {
    data(query).is_some()
}

/// Returns the time-out of an answer; zero asks to close the connection. `None` without the option,
/// or without data.
#[must_use]
pub fn timeout(answer: &[u8]) -> Option<TickDelta> {
    let units = data(answer)?.try_into().ok().map(u16::from_be_bytes)?;
    Some(TickDelta(u64::from(units) * UNIT.0))
}

/// Returns the data of the first option of a message.
fn data(message: &[u8]) -> Option<&[u8]> {
    let opt = edns::locate(message)?;
    let (_, place) = edns::options(message, &opt).find(|option| option.0 == CODE)?;
    message.get(place)
}

/// Sets the time-out of an answer, replacing any: whole units, rounded down, at most 6,553.5 s.
/// False, and nothing changed, when the answer has no OPT record (the client has sent none), cannot
/// be parsed, or has no space for six more bytes in its buffer or frame.
pub fn set(packet: &mut Packet<'_>, timeout: TickDelta) -> bool {
    if packet.len() + BYTES > MESSAGE_MAX {
        return false;
    }
    let units = u16::try_from(timeout.0 / UNIT.0).unwrap_or(u16::MAX);
    // Without an OPT record `set_option` would add one.
    let Some(opt) = edns::locate(packet.bytes()) else { return false };
    edns::set_option(packet, CODE, &units.to_be_bytes(), opt.payload) != edns::Outcome::Failed
}

/// Removes the option. False when there was none, or the message cannot be parsed.
pub fn remove(packet: &mut Packet<'_>) -> bool {
    edns::remove_option(packet, CODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::edited;

    /// Builds a message with an OPT record that has these options.
    fn with(options: &[u8]) -> Vec<u8> {
        let length = (options.len() as u16).to_be_bytes();
        let head = b"\0\x01\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0";
        [&head[..], &length, options].concat()
    }

    const PLAIN: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

    #[test]
    fn the_option_is_found() {
        for (message, asked, value) in [
            (with(b"\0\x0b\0\0"), true, None),
            (with(b"\0\x0a\0\x01c\0\x0b\0\x02\0\x64"), true, Some(TickDelta::from_ms(10_000))),
            (with(b"\0\x0b\0\x02\0\0"), true, Some(TickDelta(0))),
            (with(b"\0\x0b\0\x01\0"), true, None),
            (with(b"\0\x0a\0\x02\0\x64"), false, None),
            (with(b"\0\x0b\0\x02\0"), false, None),
            (with(b""), false, None),
            (PLAIN.to_vec(), false, None),
            (Vec::new(), false, None),
        ] {
            assert_eq!((is_asked(&message), timeout(&message)), (asked, value), "{message:?}");
            assert!(may_be_there(&message) || !asked, "{message:?}");
        }
    }

    #[test]
    fn most_messages_need_no_parsing() {
        assert!(!may_be_there(PLAIN) && !may_be_there(&with(b"")) && !may_be_there(b""));
        assert!(may_be_there(&with(b"\0\x0a\0\x01c")));
    }

    #[test]
    fn a_timeout_is_in_units_of_100_ms() {
        for (ms, units) in [(0, 0), (99, 0), (100, 1), (30_000, 300), (6_553_500, 65_535), (u64::MAX, 65_535)]
        {
            let (after, done) = edited(&with(b""), 6, |p| set(p, TickDelta::from_ms(ms)));
            assert!(done);
            assert_eq!(after, with(&[&b"\0\x0b\0\x02"[..], &u16::to_be_bytes(units)].concat()));
            assert_eq!(timeout(&after), Some(TickDelta::from_ms(u64::from(units) * 100)));
        }
        let (after, done) =
            edited(&with(b"\0\x0b\0\x02\0\x01\0\x0a\0\x01c"), 0, |p| set(p, TickDelta::from_ms(200)));
        assert_eq!((after, done), (with(b"\0\x0a\0\x01c\0\x0b\0\x02\0\x02"), true));
    }

    #[test]
    fn an_answer_that_cannot_have_the_option_is_unchanged() {
        for (message, room) in
            [(PLAIN.to_vec(), 50), (with(b""), 5), (with(b"\0\x0a\0\x09"), 50), (vec![0; 5], 50)]
        {
            let (after, done) = edited(&message, room, |p| set(p, TickDelta::from_ms(1_000)));
            assert_eq!((after, done), (message, false));
        }
    }

    #[test]
    fn an_answer_that_fills_its_frame_does_not_grow() {
        for (padding, fits) in [(65_495_u16, true), (65_496, false), (65_500, false)] {
            let option = [&[0, 12], &padding.to_be_bytes()[..], &vec![0; padding.into()]].concat();
            let message = with(&option);
            assert_eq!(message.len() + 6 <= 65_535, fits, "{}", message.len());
            let (after, done) = edited(&message, 50, |p| set(p, TickDelta::from_ms(1_000)));
            assert_eq!((after.len(), done), (message.len() + if fits { 6 } else { 0 }, fits));
        }
    }

    #[test]
    fn the_option_can_be_removed() {
        let (after, done) = edited(&with(b"\0\x0b\0\0\0\x0a\0\x01c"), 0, remove);
        assert_eq!((after, done), (with(b"\0\x0a\0\x01c"), true));
        assert_eq!(edited(&with(b""), 0, remove), (with(b""), false));
    }
}
