//! Names between wire format and text (RFC 1035, 5.1): what is no plain letter, digit or mark is
//! written `\DDD`, a dot or backslash within a label `\.` and `\\`.

use crate::wire::name::{self, LEN_MAX};

/// A wire name as text, with its final dot.
pub(super) fn text(wire: &[u8]) -> String {
    let mut text = String::with_capacity(wire.len());
    for label in name::labels_of(wire) {
        for octet in label {
            match octet {
                b'.' | b'\\' => {
                    text.push('\\');
                    text.push(char::from(*octet));
                }
                0x21..=0x7e => text.push(char::from(*octet)),
                _ => {
                    text.push('\\');
                    text.extend([octet / 100, octet / 10 % 10, octet % 10].map(|d| char::from(b'0' + d)));
                }
            }
        }
        text.push('.');
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

/// A name in wire format; none for what is no name. The final dot may be missing; nothing at all is
/// the root.
pub(super) fn wire(text: &[u8]) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    let mut label: Vec<u8> = Vec::new();
    let mut octets = text.iter().copied();
    if text == b"." || text.is_empty() {
        return Some(vec![0]);
    }
    let end = |wire: &mut Vec<u8>, label: &mut Vec<u8>| {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        wire.push(length);
        wire.append(label);
        Some(())
    };
    while let Some(octet) = octets.next() {
        match octet {
            b'.' => end(&mut wire, &mut label)?,
            b'\\' => {
                let next = octets.next()?;
                if next.is_ascii_digit() {
                    let digits = [next, octets.next()?, octets.next()?];
                    label.push(std::str::from_utf8(&digits).ok()?.parse().ok()?);
                } else {
                    label.push(next);
                }
            }
            _ => label.push(octet),
        }
    }
    if !label.is_empty() {
        end(&mut wire, &mut label)?;
    }
    wire.push(0);
    (wire.len() <= LEN_MAX).then_some(wire)
}

/// Whether these octets are one whole plain name.
pub(super) fn is_wire(octets: &[u8]) -> bool {
    name::end_plain(octets, 0) == Some(octets.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_and_written() {
        assert_eq!(wire(b"www.Example.com").as_deref(), Some(&b"\x03www\x07Example\x03com\0"[..]));
        assert_eq!(wire(b"a\\.b.c.").as_deref(), Some(&b"\x03a.b\x01c\0"[..]));
        assert_eq!(text(b"\x03a.b\x02\x00\xff\0"), "a\\.b.\\000\\255.");
        assert_eq!((text(&[0]), wire(b".")), (".".to_owned(), Some(vec![0])));
        assert_eq!(wire(b"a..b"), None);
        assert_eq!(wire(&[b'a'; 64]), None);
        assert_eq!(wire(b"a.".repeat(128).as_slice()), None);
        assert_eq!(wire(b"\\25"), None);
    }

    proptest! {
        #[test]
        fn text_and_wire_agree(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..64), 0..3)) {
            let mut octets: Vec<u8> = Vec::new();
            for label in &labels {
                octets.push(label.len() as u8);
                octets.extend(label);
            }
            octets.push(0);
            prop_assert!(is_wire(&octets));
            prop_assert_eq!(wire(text(&octets).as_bytes()), Some(octets));
        }
    }
}
