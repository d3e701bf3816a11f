//! Signatures of whole messages: TSIG (RFC 8945) and SIG(0) (RFC 2931).
//!
//! ```text
//!  | header | questions | records ............ | TSIG or SIG(0) |
//!    '----------- what is signed, but the id -'   last additional record
//! ```
//!
//! A signature covers everything but the id (RFC 8945, 5.5 and 4.3.2): who forwards the message may
//! change nothing else of it. Whoever edits a message that is passed on asks [`is_signed`] first. It is
//! asked when an edit is due: most messages have none.

use crate::base::packet::Packet;
use crate::wire::header::Header;
use crate::wire::records;
use crate::wire::records::{Record, Records, Section, rtype};

/// Returns whether the last additional record of a message is a signature of the message.
#[must_use]
pub fn is_signed(message: &[u8]) -> bool {
    find(message).is_some()
}

/// Removes the signature from a message that is to be one of our own. False when there is none, or
/// it cannot be removed.
pub fn remove(packet: &mut Packet<'_>) -> bool {
    let Some(signature) = find(packet.bytes()) else { return false };
    let removed = records::splice(packet, signature.start..signature.end, &[], false);
    if removed {
        records::count(packet.bytes_mut(), Section::Additional, -1);
    }
    removed
}

fn find(message: &[u8]) -> Option<Record> {
    if Header::parse(message)?.arcount() == 0 {
        return None;
    }
    let mut records = Records::of(message);
    let last = records.by_ref().last().filter(|_| records.whole())?;
    Some(last).filter(|record| record.section == Section::Additional && covers_message(message, record))
}

/// Returns whether a record of a message is a signature of a whole message, wherever it stands.
#[must_use]
pub fn covers_message(message: &[u8], record: &Record) -> bool {
    match record.rtype {
        rtype::TSIG => true,
        // SIG(0) covers no type.
        rtype::SIG => message.get(record.rdata.clone()).is_some_and(|data| data.starts_with(&[0, 0])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::edited;

    /// Builds a query with this many additional records.
    fn with(count: u8, records: &[u8]) -> Vec<u8> {
        [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, count][..], b"\x01a\0\0\x01\0\x01", records].concat()
    }

    const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
    const TSIG: &[u8] = b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x03mac";
    const SIG_0: &[u8] = b"\0\0\x18\0\xff\0\0\0\0\0\x04\0\0\x05\x01";
    /// A signature of records of type A.
    const SIG_A: &[u8] = b"\0\0\x18\0\xff\0\0\0\0\0\x04\0\x01\x05\x01";

    #[test]
    fn a_signature_is_the_last_additional_record() {
        for (count, records, signed) in [
            (0, [&[][..], &[]].concat(), false),
            (1, OPT.to_vec(), false),
            (1, TSIG.to_vec(), true),
            (2, [OPT, TSIG].concat(), true),
            (2, [OPT, TSIG, b"trailing"].concat(), true),
            (2, [TSIG, OPT].concat(), false),
            (1, SIG_0.to_vec(), true),
            (2, [OPT, SIG_0].concat(), true),
            (1, SIG_A.to_vec(), false),
            (3, [OPT, TSIG].concat(), false),
        ] {
            let message = with(count, &records);
            assert_eq!(is_signed(&message), signed, "{message:?}");
            let (after, removed) = edited(&message, 0, remove);
            assert_eq!(removed, signed);
            assert!(!is_signed(&after));
        }
        assert_eq!(edited(&with(2, &[OPT, TSIG].concat()), 0, remove).0, with(1, OPT));
        let mut answer = with(0, TSIG);
        answer[7] = 1;
        assert!(!is_signed(&answer), "in the answer section");
        assert!(!is_signed(b"short"));
    }
}
