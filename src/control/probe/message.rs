//! The wire format of a health check: builds one query, judges one response.
//!
//! It is separate from the data path's wire code because it is the client side: the message is
//! built from text and judged as a client would, on the control thread, with allocation. It follows
//! no compression pointers: a question that echoes ours needs none.

use crate::config::error::counted;
use crate::stats::check_failure::Failure;
use crate::wire::query::Question;

/// Bytes of a DNS header (RFC 1035, 4.1.1).
pub const HEADER: usize = 12;
const QR: u16 = 1 << 15;
/// Recursion desired.
pub const RD: u16 = 1 << 8;
/// Checking disabled.
pub const CD: u16 = 1 << 4;

const NOERROR: u16 = 0;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
const REFUSED: u16 = 5;

/// Builds a query with one question.
///
/// # Errors
/// When `qname` is no domain name in presentation format.
pub fn query(id: u16, flags: u16, qname: &str, qtype: u16, qclass: u16) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(HEADER + qname.len() + 6);
    for field in [id, flags, 1, 0, 0, 0] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    push_name(&mut out, qname).map_err(|why| format!("{qname:?} is no domain name: {why}"))?;
    out.extend_from_slice(&qtype.to_be_bytes());
    out.extend_from_slice(&qclass.to_be_bytes());
    Ok(out)
}

/// Appends a name (RFC 1035, 3.1) written as text, with `\.` and `\DDD` (5.1).
fn push_name(out: &mut Vec<u8>, text: &str) -> Result<(), &'static str> {
    let start = out.len();
    let mut label = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'.' => {
                if label.is_empty() && text != "." {
                    return Err("an empty label");
                }
                push_label(out, &mut label)?;
            }
            b'\\' => label.push(escaped(&mut bytes)?),
            _ => label.push(byte),
        }
    }
    push_label(out, &mut label)?;
    out.push(0);
    if out.len() - start > 255 { Err("longer than 255 bytes") } else { Ok(()) }
}

fn push_label(out: &mut Vec<u8>, label: &mut Vec<u8>) -> Result<(), &'static str> {
    if label.is_empty() {
        return Ok(());
    }
    let len = u8::try_from(label.len()).ok().filter(|n| *n <= 63).ok_or("a label above 63 bytes")?;
    out.push(len);
    out.append(label);
    Ok(())
}

fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, &'static str> {
    let first = bytes.next().ok_or("a lone backslash")?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut value = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit).ok_or("an escape without three digits")?;
        value = value * 10 + u16::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| "an escape above 255")
}

/// Judges a response to `query`.
///
/// # Errors
/// What is wrong with it, for counters and log.
pub fn judge(query: &[u8], response: &[u8], must_resolve: bool) -> Result<(), (Failure, String)> {
    let fields = (field(response, 0), field(response, 2), field(response, 4));
    let (Some(id), Some(flags), Some(questions), HEADER..) = (fields.0, fields.1, fields.2, response.len())
    else {
        let what = format!("the response is {}, too few for a DNS message", counted(response.len(), "byte"));
        return Err((Failure::Parsing, what));
    };
    if Some(id) != field(query, 0) {
        return Err((Failure::Mismatch, "the response has another id".into()));
    }
    if flags & QR == 0 {
        return Err((Failure::Mismatch, "the response is a query".into()));
    }
    let rcode = flags & 0xf;
    // A server that refuses may omit the question.
    let bare = questions == 0 && rcode != NOERROR && rcode != NXDOMAIN;
    if !bare {
        if questions == 0 {
            return Err((Failure::Mismatch, "the response has no question".into()));
        }
        let question = &query[HEADER..];
        let echo = response.get(HEADER..HEADER + question.len());
        if questions != 1 || echo.is_none_or(|echo| !echo.eq_ignore_ascii_case(question)) {
            // One whose own question is whole asks for something else.
            return Err(match Question::parse(response) {
                None => (Failure::Parsing, "the response ends within its question".into()),
                Some(_) => (Failure::Mismatch, "the response has another question".into()),
            });
        }
    }
    match rcode {
        SERVFAIL => Err((Failure::Invalid, "SERVFAIL".into())),
        NXDOMAIN if must_resolve => Err((Failure::Invalid, "NXDOMAIN".into())),
        REFUSED if must_resolve => Err((Failure::Invalid, "REFUSED".into())),
        _ => Ok(()),
    }
}

fn field(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Vec<u8> {
        query(0x1234, RD | CD, "Www.Example.", 28, 1).expect("a query")
    }

    fn response(rcode: u8) -> Vec<u8> {
        let mut a = asked();
        a[2] |= 0x80;
        a[3] = rcode;
        a
    }

    #[test]
    fn a_query_is_built_byte_by_byte() {
        let expected = b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\0\x03Www\x07Example\0\0\x1c\0\x01";
        assert_eq!(asked(), expected);
        assert_eq!(query(0, 0, ".", 2, 1).expect("the root")[HEADER..], [0, 0, 2, 0, 1]);
        assert_eq!(query(0, 0, r"a\.b\065", 2, 1).expect("escapes")[HEADER..][..6], *b"\x04a.bA\0");
    }

    #[test]
    fn invalid_names_are_refused_with_a_reason() {
        let long = "a".repeat(64);
        let longest = "abcdefg.".repeat(32);
        for (name, why) in [
            ("a..b", "an empty label"),
            (".a", "an empty label"),
            (long.as_str(), "a label above 63 bytes"),
            (longest.as_str(), "longer than 255 bytes"),
            ("a\\", "a lone backslash"),
            ("a\\12", "an escape without three digits"),
            ("a\\256", "an escape above 255"),
        ] {
            let e = query(0, 0, name, 1, 1).expect_err(name);
            assert!(e.ends_with(why), "{name}: {e}");
        }
    }

    #[test]
    fn responses_are_judged() {
        let mut other_id = response(0);
        other_id[0] = 0;
        let mut other_name = response(0);
        other_name[13] = b'x';
        let mut bare = response(REFUSED as u8)[..HEADER].to_vec();
        bare[5] = 0;
        let mut empty = response(0)[..HEADER].to_vec();
        empty[5] = 0;
        let folded = response(0).to_ascii_lowercase();
        let shorter = [&response(0)[..HEADER], b"\x05other\x00\x00\x1c\x00\x01"].concat();
        let other_cut = [&response(0)[..HEADER], b"\x05oth"].concat();
        for (what, bytes, must_resolve, expected) in [
            ("good", response(0), true, None),
            ("folded", folded, true, None),
            ("nxdomain", response(3), false, None),
            ("nxdomain, must resolve", response(3), true, Some(Failure::Invalid)),
            ("refused", response(5), false, None),
            ("refused, must resolve", response(5), true, Some(Failure::Invalid)),
            ("servfail", response(2), false, Some(Failure::Invalid)),
            ("short", vec![1, 2, 3], false, Some(Failure::Parsing)),
            ("cut header", response(0)[..11].to_vec(), false, Some(Failure::Parsing)),
            ("cut", response(0)[..20].to_vec(), false, Some(Failure::Parsing)),
            ("other id", other_id, false, Some(Failure::Mismatch)),
            ("other name", other_name, false, Some(Failure::Mismatch)),
            ("echo", asked(), false, Some(Failure::Mismatch)),
            ("bare refusal", bare, false, None),
            ("empty", empty, false, Some(Failure::Mismatch)),
            ("shorter name", shorter, false, Some(Failure::Mismatch)),
            ("cut within another name", other_cut, false, Some(Failure::Parsing)),
        ] {
            let outcome = judge(&asked(), &bytes, must_resolve).err().map(|(f, _)| f);
            assert_eq!(outcome, expected, "{what}");
        }
    }
}
