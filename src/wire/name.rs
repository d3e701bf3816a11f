//! Domain names in wire format (RFC 1035, 3.1 and 4.1.4) and in presentation format (RFC 1035, 5.1;
//! RFC 4343, 2.1).

use std::fmt;

/// Bytes of the longest name, including the root label (RFC 1035, 2.3.4).
pub const LEN_MAX: usize = 255;

/// Most pointers in one name: more than one per label is useless.
const JUMPS_MAX: usize = 127;

/// Returns the end of the uncompressed name at `at`, after its root label. `None` when the name
/// exceeds the message or 255 bytes, or has a compression pointer or another label type.
#[must_use]
pub fn end_plain(message: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    loop {
        let length = usize::from(*message.get(next)?);
        if length > 63 {
            return None;
        }
        next += 1 + length;
        if next - at > LEN_MAX {
            return None;
        }
        if length == 0 {
            return Some(next);
        }
    }
}

/// Returns the end of the name at `at` within its record: after its root label or its first
/// compression pointer. The pointer is not followed, so this cannot loop.
#[must_use]
pub fn end(message: &[u8], at: usize) -> Option<usize> {
    extent(message, at).map(|e| e.0)
}

/// Returns the end of the name at `at` as [`end`] does, and where its compression pointer is, if it
/// ends with one.
#[must_use]
pub fn extent(message: &[u8], at: usize) -> Option<(usize, Option<usize>)> {
    let mut next = at;
    loop {
        let length = *message.get(next)?;
        match length {
            0 => return Some((next + 1, None)),
            1..=63 => next += 1 + usize::from(length),
            0xc0.. => return (next + 2 <= message.len()).then_some((next + 2, Some(next))),
            _ => return None,
        }
        if next - at >= LEN_MAX {
            return None;
        }
    }
}

/// Returns the target of the compression pointer at `at`; `None` without one.
#[must_use]
pub fn pointer(message: &[u8], at: usize) -> Option<usize> {
    let &bytes = message.get(at..)?.first_chunk()?;
    let pointer = u16::from_be_bytes(bytes);
    (pointer >= 0xc000).then_some(usize::from(pointer & 0x3fff))
}

/// Reads the name at `at` into `out`, following pointers; returns its length, and its end in the
/// record. `None` when it is invalid or too long, when a pointer does not point before everything
/// read so far, or there are more than 127 of them.
#[must_use]
pub fn read(message: &[u8], at: usize, out: &mut [u8; LEN_MAX]) -> Option<(usize, usize)> {
    let (mut next, mut first, mut length) = (at, at, 0);
    let (mut ends, mut jumps) = (None, 0);
    loop {
        let label = usize::from(*message.get(next)?);
        match label {
            0..=63 => {
                let bytes = message.get(next..=next + label)?;
                out.get_mut(length..length + bytes.len())?.copy_from_slice(bytes);
                length += bytes.len();
                next += bytes.len();
                if label == 0 {
                    return Some((length, ends.unwrap_or(next)));
                }
            }
            0xc0.. => {
                let target = pointer(message, next)?;
                ends.get_or_insert(next + 2);
                jumps += 1;
                if target >= first || jumps > JUMPS_MAX {
                    return None;
                }
                (next, first) = (target, target);
            }
            _ => return None,
        }
    }
}

/// Returns whether the name at `at`, read as by [`read`], equals the plain wire name `plain`, byte
/// by byte.
#[must_use]
pub fn is_at(message: &[u8], at: usize, plain: &[u8]) -> bool {
    let (mut next, mut first, mut rest, mut jumps) = (at, at, plain, 0);
    loop {
        let Some(&length) = message.get(next) else { return false };
        if length >= 0xc0 {
            jumps += 1;
            match pointer(message, next) {
                Some(target) if target < first && jumps <= JUMPS_MAX => (next, first) = (target, target),
                _ => return false,
            }
            continue;
        }
        let label = 1 + usize::from(length);
        match (message.get(next..next + label), rest.get(..label)) {
            (Some(here), Some(there)) if length < 64 && here == there => {}
            _ => return false,
        }
        rest = &rest[label..];
        next += label;
        if length == 0 {
            return rest.is_empty();
        }
    }
}

/// Converts a name to wire format: `\.` is a dot within a label, `\DDD` the byte of that decimal
/// number, `\` before any other character stands for it. A name is absolute with or without a final
/// dot; `.` and the empty text are the root.
///
/// # Errors
/// What is wrong, in words that continue "the name …".
pub fn from_text(text: &str) -> Result<Vec<u8>, &'static str> {
    let text = text.as_bytes();
    if text.is_empty() || text == b"." {
        return Ok(vec![0]);
    }
    let mut wire = vec![0];
    let mut label_at = 0;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'.' => {
                close(&mut wire, label_at)?;
                label_at = wire.len();
                wire.push(0);
                continue;
            }
            b'\\' => escaped(&mut bytes)?,
            plain => plain,
        };
        wire.push(byte);
    }
    // Without a final dot the last label is still open; with it, its length is the root's.
    if wire.len() > label_at + 1 {
        close(&mut wire, label_at)?;
        wire.push(0);
    }
    if wire.len() > LEN_MAX {
        return Err("is longer than 255 bytes");
    }
    Ok(wire)
}

/// Writes the length of the label that ends `wire`.
fn close(wire: &mut [u8], label_at: usize) -> Result<(), &'static str> {
    match u8::try_from(wire.len() - label_at - 1) {
        Ok(0) => Err("has an empty label"),
        Ok(length @ 1..=63) => {
            wire[label_at] = length;
            Ok(())
        }
        _ => Err("has a label longer than 63 bytes"),
    }
}

/// Returns the byte after a backslash.
fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, &'static str> {
    const INCOMPLETE: &str = "ends within an escape";
    let first = bytes.next().ok_or(INCOMPLETE)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut number = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().ok_or(INCOMPLETE)?;
        if !digit.is_ascii_digit() {
            return Err("has an escape of less than three digits");
        }
        number = number * 10 + u16::from(digit - b'0');
    }
    u8::try_from(number).map_err(|_| "has an escape above \\255")
}

/// Formats a plain wire name, with a final dot.
#[derive(Clone, Copy, Debug)]
pub struct Text<'n>(pub &'n [u8]);

/// Formats a plain wire name without a final dot; the root is empty.
#[derive(Clone, Copy, Debug)]
pub struct Undotted<'n>(pub &'n [u8]);

impl<'n> Text<'n> {
    /// Returns the form without a final dot.
    #[must_use]
    pub const fn undotted(self) -> Undotted<'n> {
        Undotted(self.0)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.undotted())
    }
}

impl fmt::Display for Undotted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, label) in labels_of(self.0).enumerate() {
            if number > 0 {
                f.write_str(".")?;
            }
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
        }
        Ok(())
    }
}

/// Returns the number of labels of a plain wire name, without the root.
#[must_use]
pub fn label_count(name: &[u8]) -> usize {
    labels_of(name).count()
}

/// Converts eight bytes to lower-case ASCII (RFC 4343). Length bytes are at most 63, below 'A', so
/// a whole wire name may be converted.
#[must_use]
pub const fn fold(bytes: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = bytes & (0x7f * EACH);
    // The top bit of each byte: at least 'A', and more than 'Z'. No sum carries into the next byte.
    let from_a = low + (0x80 - b'A' as u64) * EACH;
    let behind_z = low + (0x7f - b'Z' as u64) * EACH;
    let capital = (from_a & !behind_z) & !bytes & (0x80 * EACH);
    bytes | capital >> 2
}

/// Returns the last `labels` labels of a plain wire name, including the root: its zone. The whole
/// name when it has no more labels.
#[must_use]
pub fn zone(name: &[u8], labels: u8) -> &[u8] {
    let mut surplus = labels_of(name).count().saturating_sub(usize::from(labels));
    let mut rest = name;
    while surplus > 0 {
        let Some(next) = rest.first().and_then(|length| rest.get(1 + usize::from(*length)..)) else { break };
        rest = next;
        surplus -= 1;
    }
    rest
}

/// Returns the labels of a plain wire name, first to last, without the root.
pub fn labels_of(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = usize::from(*name.get(at)?);
        let label = name.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        (length > 0).then_some(label)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names_end_after_the_root_label() {
        assert_eq!(end_plain(b"\x03www\x07example\x00tail", 0), Some(13));
        assert_eq!(end_plain(b"\x00", 0), Some(1));
        assert_eq!(end_plain(b"\x03www\xc0\x0c", 0), None, "pointers are not plain");
        assert_eq!(end_plain(b"\x03ww", 0), None);
        assert_eq!(end_plain(&[1_u8; 300], 0), None, "too long");
    }

    #[test]
    fn names_in_records_end_at_a_pointer() {
        assert_eq!(end(b"\x03www\xc0\x0crest", 0), Some(6));
        assert_eq!(end(b"\x03www\xc0", 0), None);
        assert_eq!(end(b"\x80abc", 0), None, "reserved label type");
    }

    #[test]
    fn names_are_read_through_their_pointers() {
        let message = b"\x03org\0\x07example\xc0\0\x03www\xc0\x05tail";
        let mut out = [0; LEN_MAX];
        assert_eq!(read(message, 15, &mut out), Some((17, 21)));
        assert_eq!(&out[..17], b"\x03www\x07example\x03org\0");
        assert!(is_at(message, 15, b"\x03www\x07example\x03org\0"));
        assert!(!is_at(message, 15, b"\x03www\x07example\x03com\0"));
        assert!(!is_at(message, 15, b"\x03www\x07example\0"));
        assert_eq!(read(b"\x01a\xc0\0", 0, &mut out), None, "to itself");
        assert_eq!(read(b"\xc0\x02\x01a\0", 0, &mut out), None, "forward");
        assert_eq!(read(b"\x01a\0\xc0\x05\xc0\x03", 5, &mut out), None, "a loop");
        // A label, and pointers each to the one before.
        let mut chain = b"\x01a\0".to_vec();
        let mut last = 0_u16;
        for _ in 0..=JUMPS_MAX {
            let at = chain.len();
            chain.extend((0xc000 | last).to_be_bytes());
            last = at as u16;
        }
        let at = chain.len() - 2;
        assert_eq!(read(&chain, at - 2, &mut out), Some((3, at)));
        assert!(is_at(&chain, at - 2, b"\x01a\0") && !is_at(&chain, at, b"\x01a\0"));
        assert_eq!(read(&chain, at, &mut out), None, "one pointer too many");
        let long = [[63; 64]; 4].concat();
        assert_eq!(read(&[long, vec![0]].concat(), 0, &mut out), None, "256 bytes and the root");
    }

    #[test]
    fn names_round_trip_between_text_and_wire() {
        for (text, wire) in [
            (".", &b"\0"[..]),
            ("www.Example.org.", b"\x03www\x07Example\x03org\0"),
            (r"a\.b.c.", b"\x03a.b\x01c\0"),
            (r"a\\b.", b"\x03a\\b\0"),
            (r"\000\255\032.x.", b"\x03\0\xff \x01x\0"),
            ("*._x.", b"\x01*\x02_x\0"),
        ] {
            assert_eq!(from_text(text).as_deref(), Ok(wire), "{text}");
            assert_eq!(Text(wire).to_string(), text);
            assert_eq!(Text(wire).undotted().to_string(), text.strip_suffix('.').unwrap());
            assert_eq!(label_count(wire), labels_of(wire).count());
        }
        assert_eq!(from_text("").as_deref(), Ok(&b"\0"[..]));
        assert_eq!(from_text("a.b").as_deref(), Ok(&b"\x01a\x01b\0"[..]), "the final dot is optional");
        assert_eq!(from_text(r"\065\x").as_deref(), Ok(&b"\x02Ax\0"[..]));
        assert_eq!((label_count(b"\0"), label_count(b"\x01a\x01b\0")), (0, 2));
    }

    #[test]
    fn invalid_names_are_refused() {
        let long = format!("{}.", "a".repeat(63)).repeat(4);
        for wrong in ["a..b", ".a", "..", r"a\", r"a\06", r"a\0x1", r"a\256", &"a".repeat(64), &long] {
            assert!(from_text(wrong).is_err(), "{wrong}");
        }
        let longest = format!("{}.", "a".repeat(63)).repeat(3) + &"b".repeat(61);
        assert_eq!(from_text(&longest).map(|wire| wire.len()), Ok(LEN_MAX));
    }

    #[test]
    fn a_zone_is_the_last_labels() {
        let name = b"\x03www\x07example\x03org\x00";
        assert_eq!(zone(name, 2), b"\x07example\x03org\x00");
        assert_eq!(zone(name, 9), name);
        assert_eq!(zone(name, 0), b"\x00");
    }

    #[test]
    fn folding_matches_ascii_lower_case() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut bytes = *b"Zz[@A`{\xc1";
                bytes[place] = byte;
                let folded = fold(u64::from_le_bytes(bytes)).to_le_bytes();
                assert_eq!(folded, bytes.map(|o| o.to_ascii_lowercase()));
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(message in prop::collection::vec(any::<u8>(), 0..600), at in 0_usize..700) {
            for found in [end_plain(&message, at), end(&message, at)].into_iter().flatten() {
                prop_assert!(found <= message.len() && found > at);
            }
            if let Some(found) = end_plain(&message, at) {
                prop_assert!(!zone(&message[at..found], 2).is_empty());
            }
            let mut out = [0; LEN_MAX];
            if let Some((length, ends)) = read(&message, at, &mut out) {
                let plain = &out[..length];
                prop_assert_eq!(end_plain(plain, 0), Some(length));
                prop_assert_eq!(end(&message, at), Some(ends));
                prop_assert!(is_at(&message, at, plain));
                prop_assert_eq!(from_text(&Text(plain).to_string()), Ok(plain.to_vec()));
            }
        }

        #[test]
        fn pointers_never_loop(message in prop::collection::vec(prop_oneof![Just(0xc0_u8), 0..40_u8], 0..60), at in 0_usize..60) {
            let mut out = [0; LEN_MAX];
            if let Some((length, _)) = read(&message, at, &mut out) {
                prop_assert!(is_at(&message, at, &out[..length]));
            }
        }

        #[test]
        fn no_text_panics(text in r"[a-z.\\0-9]{0,40}|.{0,40}") {
            if let Ok(wire) = from_text(&text) {
                prop_assert_eq!(end_plain(&wire, 0), Some(wire.len()));
                prop_assert_eq!(from_text(&Text(&wire).to_string()), Ok(wire));
            }
        }
    }
}
