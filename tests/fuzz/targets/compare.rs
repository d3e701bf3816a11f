//! Two messages out of any bytes, compared: nothing panics, a message is the same as itself, and what
//! one lacks the other has too much.

use dnslob::compare::{Aspects, Class, Comparer, Verdict, describe, judge, question};

/// Longest input.
const INPUT_MAX: usize = 8_192;

/// The input is what is compared, where the second message begins (0 for one that differs from the
/// first in a byte), and the messages.
pub(crate) fn target(data: &[u8]) {
    let Some((&[place, high, low], rest)) = data[..data.len().min(INPUT_MAX)].split_first_chunk::<3>() else {
        return;
    };
    let at = usize::from(u16::from_be_bytes([high, low]));
    let mut changed = rest.to_vec();
    let (first, second) = match rest.split_at_checked(at) {
        Some((first, second)) if at > 0 => (first, second),
        Some(_) | None => {
            if let Some(byte) = changed.get_mut(usize::from(place)) {
                *byte ^= low | 1;
            }
            (rest, changed.as_slice())
        }
    };
    let mut comparer = Comparer::new(Aspects::all());
    for message in [first, second] {
        let found = comparer.compare(message, message);
        assert!(found.is_same() || found.class() == Class::Malformed, "{found:?}");
        assert!(found.is_same() || judge(&found, message, message) == Verdict::Other);
    }
    let (there, back) = (comparer.compare(first, second), comparer.compare(second, first));
    for class in Class::ALL {
        let other = match class {
            Class::Missing => Class::Extra,
            Class::Extra => Class::Missing,
            Class::Same
            | Class::Malformed
            | Class::Rcode
            | Class::Data
            | Class::Flags
            | Class::Ttl
            | Class::Order
            | Class::Edns => class,
        };
        assert_eq!(there.classes.has(class), back.classes.has(other), "{class:?}");
    }
    let swapped = match judge(&back, second, first) {
        Verdict::Better => Verdict::Worse,
        Verdict::Worse => Verdict::Better,
        same @ (Verdict::Same | Verdict::Other) => same,
    };
    assert_eq!(judge(&there, first, second), swapped);
    assert!(describe(&there, first, second).len() < 8_192);
    let _ = question(first);
}
