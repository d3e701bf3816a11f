//! The OPT record (RFC 6891): where it is, and what it says.

use super::header::Header;
use super::name;

/// TYPE of the OPT record.
const OPT: u16 = 41;

/// What an OPT record says in its fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// Where the record begins in the message.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// UDP payload size that the sender can take, octets.
    pub payload: u16,
    /// EDNS version.
    pub version: u8,
    /// Whether DNSSEC records are wanted (DO; RFC 3225).
    pub dnssec_ok: bool,
}

/// Finds the OPT record of a message whose question section ends at `question_end`. None when
/// there is none, or the records before it cannot be read.
#[must_use]
pub fn find(message: &[u8], question_end: usize) -> Option<Opt> {
    let header = Header::parse(message)?;
    let before = u32::from(header.ancount()) + u32::from(header.nscount());
    let mut at = question_end;
    for _ in 1..header.qdcount() {
        at = name::end(message, at)? + 4;
    }
    for number in 0..before + u32::from(header.arcount()) {
        let fixed = name::end(message, at)?;
        let &[t0, t1, c0, c1, _, version, flags, _, l0, l1] = message.get(fixed..)?.first_chunk()?;
        let end = fixed + 10 + usize::from(u16::from_be_bytes([l0, l1]));
        if end > message.len() {
            return None;
        }
        if number >= before && u16::from_be_bytes([t0, t1]) == OPT {
            return Some(Opt {
                start: at,
                end,
                payload: u16::from_be_bytes([c0, c1]),
                version,
                dnssec_ok: flags & 0x80 != 0,
            });
        }
        at = end;
    }
    None
}

/// An OPT record without options.
#[must_use]
pub const fn bare(payload: u16, dnssec_ok: bool) -> [u8; 11] {
    let [p0, p1] = payload.to_be_bytes();
    let [t0, t1] = OPT.to_be_bytes();
    [0, t0, t1, p0, p1, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_opt_is_found_behind_other_records() {
        let mut message = b"\0\0\x01\0\0\x01\0\0\0\0\0\x02\x01a\0\0\x01\0\x01".to_vec();
        let question_end = message.len();
        message.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x7f\0\0\x01");
        message.extend(bare(1400, true));
        let opt = find(&message, question_end).expect("an OPT");
        assert_eq!((opt.payload, opt.version, opt.dnssec_ok), (1400, 0, true));
        assert_eq!(opt.end, message.len());
        message.pop();
        assert_eq!(find(&message, question_end), None);
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(message in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..220) {
            if let Some(opt) = find(&message, at) {
                prop_assert!(opt.start < opt.end && opt.end <= message.len());
            }
        }
    }
}
