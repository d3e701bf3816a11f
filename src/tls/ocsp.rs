//! Parses the parts of an OCSP response (RFC 6960, section 4.2.1) that stapling needs. Its
//! signature is verified by clients.
//!
//! ```text
//!  OCSPResponse ─► ResponseBytes ─► BasicOCSPResponse ─► ResponseData ─► SingleResponse, ...
//! ```

use crate::tls::der;
use crate::tls::der::{BYTES, ENUMERATED, Elements, INTEGER, OID, SEQUENCE};

/// `[0] EXPLICIT`.
const TAGGED: u8 = 0xa0;
/// The certificate's status: `[0] IMPLICIT NULL`.
const GOOD: u8 = 0x80;
/// RFC 6960, section 4.2.1: id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// Returns until when a response is valid for the certificate with this serial number, unix
/// seconds; `u64::MAX` without an end.
///
/// # Errors
///
/// Why it cannot be stapled, human-readable.
pub(super) fn valid_until(response: &[u8], serial: &[u8]) -> Result<u64, &'static str> {
    let about = read(response).ok_or("cannot be parsed, or has an error status")?;
    let own = about
        .into_iter()
        .find(|single| without_leading_zeros(single.serial) == without_leading_zeros(serial));
    match own {
        None => Err("is about another certificate"),
        Some(single) if !single.good => Err("does not have the status good"),
        Some(single) => Ok(single.until),
    }
}

struct Single<'r> {
    serial: &'r [u8],
    good: bool,
    until: u64,
}

fn read(response: &[u8]) -> Option<Vec<Single<'_>>> {
    let mut response = Elements(Elements(response).expect(SEQUENCE)?);
    // 0 is success; other statuses come without a response.
    if response.expect(ENUMERATED)? != [0] {
        return None;
    }
    let mut bytes = Elements(Elements(response.expect(TAGGED)?).expect(SEQUENCE)?);
    if bytes.expect(OID)? != BASIC {
        return None;
    }
    let basic = Elements(bytes.expect(BYTES)?).expect(SEQUENCE)?;
    let mut data = Elements(Elements(basic).expect(SEQUENCE)?);
    let _version = data.optional(TAGGED);
    let (_responder, _produced) = (data.next()?, data.next()?);
    let mut all = Elements(data.expect(SEQUENCE)?);
    let mut singles = Vec::new();
    while !all.0.is_empty() {
        singles.push(single(all.expect(SEQUENCE)?)?);
    }
    Some(singles)
}

fn single(bytes: &[u8]) -> Option<Single<'_>> {
    let mut single = Elements(bytes);
    let mut id = Elements(single.expect(SEQUENCE)?);
    let (_algorithm, _name, _key) = (id.next()?, id.next()?, id.next()?);
    let serial = id.expect(INTEGER)?;
    let (status, ..) = single.next()?;
    let _this_update = single.next()?;
    let until = match single.optional(TAGGED) {
        None => u64::MAX,
        Some(time) => der::time(&mut Elements(time))?,
    };
    Some(Single { serial, good: status == GOOD, until })
}

/// Returns a number without leading zeros.
fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::ocsp_response;

    /// 2026-01-02.
    const END: u64 = 1_767_312_000;

    #[test]
    fn a_response_is_valid_for_its_certificate_until_its_end() {
        let response = ocsp_response(&[0x7a, 1], true, Some("20260102000000Z"));
        assert_eq!(valid_until(&response, &[0x7a, 1]), Ok(END));
        assert_eq!(valid_until(&response, &[0, 0x7a, 1]), Ok(END));
        assert_eq!(valid_until(&response, &[0x7a, 2]), Err("is about another certificate"));
        assert_eq!(valid_until(&ocsp_response(&[1], true, None), &[1]), Ok(u64::MAX));
        let revoked = ocsp_response(&[1], false, Some("20260102000000Z"));
        assert_eq!(valid_until(&revoked, &[1]), Err("does not have the status good"));
    }

    #[test]
    fn truncated_modified_or_error_responses_are_refused() {
        let response = ocsp_response(&[0x7a, 1], true, Some("20260102000000Z"));
        let none = Err("cannot be parsed, or has an error status");
        for length in 0..response.len() {
            assert_eq!(valid_until(&response[..length], &[0x7a, 1]), none, "{length} bytes");
        }
        assert_eq!(valid_until(b"\x30\x03\x0a\x01\x06", &[1]), none, "unauthorized");
        // Any other byte may parse, but must not panic.
        for at in 0..response.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = response.clone();
                changed[at] ^= change;
                let _ = valid_until(&changed, &[0x7a, 1]);
            }
        }
    }
}
