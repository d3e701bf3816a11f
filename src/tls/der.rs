//! DER (X.690), as far as certificates and OCSP responses need it: elements one behind the other,
//! and points in time.

use crate::tls::date::days_to;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BYTES: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The elements of one level, in order.
pub(super) struct Elements<'d>(pub(super) &'d [u8]);

impl<'d> Elements<'d> {
    /// Returns the next one: its tag, its contents, and the whole of it.
    pub(super) fn next(&mut self) -> Option<(u8, &'d [u8], &'d [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (long, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (inner, behind) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - behind.len()];
        self.0 = behind;
        Some((tag, inner, whole))
    }

    /// Returns the contents of the next one, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|(found, ..)| *found == tag).map(|(_, inner, _)| inner)
    }

    /// Returns the contents of the next one if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Option<&'d [u8]> {
        if self.0.first() == Some(&tag) { self.expect(tag) } else { None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Parses the next element, a time, into Unix seconds; a time before 1970 becomes 0. Only the forms
/// of RFC 5280, section 4.1.2.5, are valid: with seconds, in UTC.
pub(super) fn time(elements: &mut Elements<'_>) -> Option<u64> {
    let (tag, text, _) = elements.next()?;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year);
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year), rest)
        }
        _ => return None,
    };
    let (pairs, []) = rest.as_chunks::<2>() else { return None };
    let &[month, day, hour, minute, second] = pairs else { return None };
    let [month, day, hour, minute, second] = [month, day, hour, minute, second].map(|pair| number(&pair));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let Some(days) = days_to(year, month, day) else { return Some(0) };
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// Parses digits.
fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, inner: &[u8]) -> Vec<u8> {
        [&[tag, inner.len() as u8], inner].concat()
    }

    #[test]
    fn elements_end_at_their_length() {
        let bytes = [element(INTEGER, &[1]), element(BYTES, &[0x30; 0x7f])].concat();
        let mut elements = Elements(&bytes);
        assert_eq!(elements.optional(BOOLEAN), None);
        assert_eq!(elements.expect(INTEGER), Some(&[1][..]));
        assert_eq!(elements.next(), Some((BYTES, &[0x30; 0x7f][..], &bytes[3..])));
        assert!(elements.is_empty() && elements.next().is_none());
        let long = [&[BYTES, 0x82, 1, 0][..], &[7; 256]].concat();
        assert_eq!(Elements(&long).expect(BYTES), Some(&[7; 256][..]));
        for wrong in [&b"\x04"[..], b"\x04\x01", b"\x04\x80\0", b"\x04\x81", b"\x04\x84\0\0\0\0", b"\x04\xff"]
        {
            assert_eq!(Elements(wrong).next(), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_times_of_rfc_5280_are_parsed() {
        for (tag, text, expected) in [
            (UTC_TIME, "260102000000Z", Some(1_767_312_000)),
            (GENERALIZED_TIME, "20260102000000Z", Some(1_767_312_000)),
            (GENERALIZED_TIME, "20000229235959Z", Some(951_868_799)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(0)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (GENERALIZED_TIME, "00000101000000Z", Some(0)),
            (UTC_TIME, "2601020000Z", None),
            (UTC_TIME, "260102000000+0100", None),
            (UTC_TIME, "261302000000Z", None),
            (UTC_TIME, "260100000000Z", None),
            (UTC_TIME, "260102240000Z", None),
            (GENERALIZED_TIME, "20260102000000.5Z", None),
            (UTC_TIME, "2601020000-1Z", None),
            (UTC_TIME, "", None),
            (BYTES, "260102000000Z", None),
        ] {
            let bytes = element(tag, text.as_bytes());
            assert_eq!(time(&mut Elements(&bytes)), expected, "{text}");
        }
    }
}
