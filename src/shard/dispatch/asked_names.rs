//! Names of queries on their way, for those that end without a response: an outstanding query keeps
//! only a hash of its question.
//!
//! A table of fixed size, two places for each hash. Of three questions with the same places it has two:
//! what is asked often is there nearly always, and the name of a rare question may be unknown when it
//! times out.

use crate::base::narrow::{place, to_u8};
use crate::stats::traffic_ring::{NAME_MAX, end_of};

/// Places, 320 kB with the first query: as many as a shard has queries on their way while its
/// servers answer.
const PLACES: usize = 4_096;

/// One question.
#[derive(Clone, Copy, Debug)]
struct Place {
    question: u64,
    qtype: u16,
    stored: u8,
    name: [u8; NAME_MAX],
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct AskedNames {
    /// In pairs.
    places: Box<[Place]>,
    /// Which of a pair makes room next.
    next: usize,
}

impl AskedNames {
    /// Notes the name of a question.
    #[inline]
    pub(crate) fn note(&mut self, question: u64, qtype: u16, qname: &[u8]) {
        if self.places.is_empty() {
            self.places =
                vec![Place { question: 0, qtype: 0, stored: 0, name: [0; NAME_MAX] }; PLACES].into();
        }
        let pair = &mut self.places[pair(question)..][..2];
        if pair[0].question == question || pair[1].question == question {
            return;
        }
        let place = &mut pair[self.next];
        self.next ^= 1;
        let stored = end_of(qname);
        (place.question, place.qtype, place.stored) = (question, qtype, to_u8(stored.len()));
        place.name[..stored.len()].copy_from_slice(stored);
    }

    /// Returns type and name of a question, unless another one has taken its place.
    pub(crate) fn name(&self, question: u64) -> Option<(u16, &[u8])> {
        let mut places = self.places.get(pair(question)..)?.iter().take(2);
        let place = places.find(|place| place.question == question)?;
        Some((place.qtype, &place.name[..usize::from(place.stored)]))
    }
}

const fn pair(question: u64) -> usize {
    2 * place(question, PLACES / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_names_of_a_place_are_known() {
        let (mut names, a, b) = (AskedNames::default(), 1 << 60, 2 << 60);
        assert_eq!(names.name(a), None);
        names.note(a, 1, b"\x01a\0");
        names.note(a, 1, b"\x01a\0");
        names.note(b, 28, b"\x01b\0");
        assert_eq!(names.name(a), Some((1, &b"\x01a\0"[..])));
        // Two that share their places, asked in turn: soon neither takes the other's.
        for _ in 0..3 {
            names.note(a, 1, b"\x01a\0");
            names.note(a + 1, 16, b"\x01c\0");
        }
        assert!(names.name(a).is_some() && names.name(a + 1).is_some());
        names.note(a + 2, 2, b"\x01d\0");
        let known = [a, a + 1, a + 2].map(|question| names.name(question).is_some());
        assert_eq!(known.iter().filter(|known| **known).count(), 2);
        assert_eq!(
            (names.name(a + 2), names.name(b)),
            (Some((2, &b"\x01d\0"[..])), Some((28, &b"\x01b\0"[..])))
        );
    }
}
