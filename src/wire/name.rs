//! Domain names as they stand in a message (RFC 1035, 3.1 and 4.1.4).

/// Octets of the longest name, root label included (RFC 1035, 2.3.4).
pub const LEN_MAX: usize = 255;

/// The end of the uncompressed name at `at`, behind its root label. None when the name runs out
/// of the message, is longer than 255 octets, or holds a compression pointer or another label
/// type than the plain one.
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

/// The end of the name at `at` within its record: behind its root label or its first compression
/// pointer. The pointer is not followed, so this cannot loop.
#[must_use]
pub fn end(message: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    loop {
        let length = *message.get(next)?;
        match length {
            0 => return Some(next + 1),
            1..=63 => next += 1 + usize::from(length),
            0xc0.. => return (next + 2 <= message.len()).then_some(next + 2),
            _ => return None,
        }
        if next - at >= LEN_MAX {
            return None;
        }
    }
}

/// Eight octets with their ASCII capitals made small (RFC 4343). Length octets are at most 63,
/// below 'A': a whole wire name may be folded.
#[must_use]
pub const fn fold(octets: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = octets & (0x7f * EACH);
    // The top bit of each octet: at least 'A', and more than 'Z'. No sum reaches the next octet.
    let from_a = low + (0x80 - b'A' as u64) * EACH;
    let behind_z = low + (0x7f - b'Z' as u64) * EACH;
    let capital = (from_a & !behind_z) & !octets & (0x80 * EACH);
    octets | capital >> 2
}

/// The last `labels` labels of a plain wire name, root included: its zone. The whole name when it
/// has no more labels than that.
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

/// The labels of a plain wire name, first to last, without the root.
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
    fn plain_names_end_behind_their_root() {
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
    fn a_zone_is_the_last_labels() {
        let name = b"\x03www\x07example\x03org\x00";
        assert_eq!(zone(name, 2), b"\x07example\x03org\x00");
        assert_eq!(zone(name, 9), name);
        assert_eq!(zone(name, 0), b"\x00");
    }

    #[test]
    fn folding_is_that_of_ascii() {
        for octet in 0..=u8::MAX {
            for place in 0..8 {
                let mut octets = *b"Zz[@A`{\xc1";
                octets[place] = octet;
                let folded = fold(u64::from_le_bytes(octets)).to_le_bytes();
                assert_eq!(folded, octets.map(|o| o.to_ascii_lowercase()));
            }
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(message in prop::collection::vec(any::<u8>(), 0..600), at in 0_usize..700) {
            for found in [end_plain(&message, at), end(&message, at)].into_iter().flatten() {
                prop_assert!(found <= message.len() && found > at);
            }
            if let Some(found) = end_plain(&message, at) {
                prop_assert!(!zone(&message[at..found], 2).is_empty());
            }
        }
    }
}
