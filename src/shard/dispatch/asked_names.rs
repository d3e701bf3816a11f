//! Names of queries on their way, for those that end without a response: an outstanding query keeps
//! only a hash of its question.
//!
//! A table of fixed size, one place for each hash. Of two questions with the same place it has the
//! one that was asked last: what is asked often is there nearly always, and the name of a rare
//! question may be unknown when it times out.

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
pub(crate) struct AskedNames(Box<[Place]>);

impl AskedNames {
    /// Notes the name of a question.
    #[inline]
    pub(crate) fn note(&mut self, question: u64, qtype: u16, qname: &[u8]) {
        if self.0.is_empty() {
            self.0 = vec![Place { question: 0, qtype: 0, stored: 0, name: [0; NAME_MAX] }; PLACES].into();
        }
        let place = &mut self.0[at(question)];
        if place.question == question {
            return;
        }
        let stored = end_of(qname);
        (place.question, place.qtype, place.stored) = (question, qtype, to_u8(stored.len()));
        place.name[..stored.len()].copy_from_slice(stored);
    }

    /// Returns type and name of a question, unless another one has taken its place.
    pub(crate) fn name(&self, question: u64) -> Option<(u16, &[u8])> {
        let place = self.0.get(at(question)).filter(|place| place.question == question)?;
        Some((place.qtype, &place.name[..usize::from(place.stored)]))
    }
}

const fn at(question: u64) -> usize {
    place(question, PLACES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_of_a_place_is_known() {
        let (mut names, a, b) = (AskedNames::default(), 1 << 60, 2 << 60);
        assert_eq!(names.name(a), None);
        names.note(a, 1, b"\x01a\0");
        names.note(a, 1, b"\x01a\0");
        names.note(b, 28, b"\x01b\0");
        assert_eq!(names.name(a), Some((1, &b"\x01a\0"[..])));
        names.note(a + 1, 16, b"\x01c\0");
        assert_eq!((names.name(a), names.name(b)), (None, Some((28, &b"\x01b\0"[..]))));
    }
}
