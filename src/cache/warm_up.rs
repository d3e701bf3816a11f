//! Names that are resolved when a cache begins, so that their first client finds an answer.
//!
//! Each question is asked as most clients do: without EDNS, and with EDNS and a payload size of 1,232
//! bytes; with RD, by a datagram.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use crate::wire::codes::type_from_name;
use crate::wire::name::from_text;

/// The most names of a list.
pub const NAMES_MAX: usize = 1_000_000;
/// The payload size that clients offer since 2020 (DNS flag day).
const PAYLOAD: u16 = 1_232;
/// In how many forms each question is asked.
const FORMS: usize = 2;
/// Types of a name without types.
const DEFAULT_TYPES: [u16; 2] = [1, 28];

/// Questions of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct WarmUpList {
    /// The path, as it was written.
    pub path: String,
    questions: Vec<(Box<[u8]>, u16)>,
}

impl WarmUpList {
    /// Reads a list: a name in each line, and the types that are asked for, A and AAAA if there is
    /// none. What follows a `#` is a comment.
    ///
    /// # Errors
    /// The number of the line that is wrong, and what is wrong with it.
    pub fn parse(path: &str, text: &str) -> Result<Self, (usize, String)> {
        let mut questions = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(name) = words.next() else { continue };
            let wire: Box<[u8]> = from_text(name).map_err(|why| (number, format!("{name}: {why}")))?.into();
            let before = questions.len();
            for word in words {
                let qtype = type_from_name(word).filter(|qtype| !matches!(qtype, 0 | 41 | 128..=255));
                let qtype =
                    qtype.ok_or_else(|| (number, format!("{word} is no type whose answers are kept")))?;
                questions.push((wire.clone(), qtype));
            }
            if questions.len() == before {
                questions.extend(DEFAULT_TYPES.map(|qtype| (wire.clone(), qtype)));
            }
            if questions.len() > NAMES_MAX * DEFAULT_TYPES.len() {
                return Err((number, format!("more than {NAMES_MAX} names")));
            }
        }
        Ok(Self { path: path.to_owned(), questions })
    }

    /// Returns how many questions there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.questions.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }
}

/// How far the shards are with a list, which they share.
///
/// Each query is asked once; when all have ended, those that have failed are asked again.
#[derive(Debug)]
pub struct WarmUp {
    list: Arc<WarmUpList>,
    /// The next query, and the next one that is looked at for the second time.
    next: AtomicUsize,
    second: AtomicUsize,
    /// Queries that have ended for the first time.
    ended: AtomicUsize,
    /// Those that have failed and are to be asked again, one in each bit.
    again: Box<[AtomicU64]>,
    /// Of those, how many are outstanding, and how many have failed again.
    outstanding: AtomicUsize,
    failed: AtomicUsize,
    is_reported: AtomicBool,
}

/// Queries that are looked at in one call.
const LOOKED_AT: usize = 4_096;

impl WarmUp {
    /// Begins a list.
    #[must_use]
    pub fn new(list: Arc<WarmUpList>) -> Self {
        let words = (list.len() * FORMS).div_ceil(64);
        Self {
            list,
            next: AtomicUsize::new(0),
            second: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            again: (0..words).map(|_| AtomicU64::new(0)).collect(),
            outstanding: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            is_reported: AtomicBool::new(false),
        }
    }

    fn len(&self) -> usize {
        self.list.len() * FORMS
    }

    /// Returns whether every query was taken as often as it is asked.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.second.load(Acquire) >= self.len()
    }

    /// Writes the next query, with the id 0, to `query`, and returns its number, which
    /// [`Self::ended`] wants; none at the end, or if there is none to be asked at this moment.
    pub fn next(&self, query: &mut Vec<u8>) -> Option<u32> {
        if self.next.load(Relaxed) < self.len() {
            let at = self.next.fetch_add(1, Relaxed);
            if at < self.len() {
                return self.write(at, query);
            }
        }
        if self.ended.load(Acquire) < self.len() {
            return None;
        }
        for _ in 0..LOOKED_AT {
            let at = self.second.fetch_add(1, AcqRel);
            let word = self.again.get(at / 64).filter(|_| at < self.len())?;
            if word.load(Relaxed) >> (at % 64) & 1 != 0 {
                self.outstanding.fetch_add(1, Relaxed);
                return self.write(at, query);
            }
        }
        None
    }

    /// A query has ended.
    pub fn ended(&self, number: u32, has_failed: bool) {
        let at = number as usize;
        let Some(word) = self.again.get(at / 64) else { return };
        if self.second.load(Acquire) > at {
            self.failed.fetch_add(usize::from(has_failed), Relaxed);
            self.outstanding.fetch_sub(1, Release);
            return;
        }
        if has_failed {
            word.fetch_or(1 << (at % 64), Relaxed);
        }
        self.ended.fetch_add(1, AcqRel);
    }

    /// Returns how many queries there were, and how many have failed twice; once, when all have ended.
    #[must_use]
    pub fn report(&self) -> Option<(usize, usize)> {
        let has_ended = self.is_over() && self.outstanding.load(Acquire) == 0;
        (has_ended && !self.is_reported.swap(true, Relaxed)).then(|| (self.len(), self.failed.load(Relaxed)))
    }

    fn write(&self, at: usize, query: &mut Vec<u8>) -> Option<u32> {
        let (qname, qtype) = self.list.questions.get(at / FORMS)?;
        let has_edns = !at.is_multiple_of(FORMS);
        query.clear();
        query.extend_from_slice(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(has_edns)]);
        query.extend_from_slice(qname);
        query.extend_from_slice(&qtype.to_be_bytes());
        query.extend_from_slice(&1_u16.to_be_bytes());
        if has_edns {
            query.extend_from_slice(&[0, 0, 41]);
            query.extend_from_slice(&PAYLOAD.to_be_bytes());
            query.extend_from_slice(&[0; 6]);
        }
        u32::try_from(at).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::query::Question;

    fn list(text: &str) -> Result<WarmUpList, (usize, String)> {
        WarmUpList::parse("list", text)
    }

    #[test]
    fn names_are_asked_for_in_two_forms() {
        let list = list("# popular\n\nexample.com\r\n b.example. MX txt # both\n").expect("a list");
        assert_eq!(list.len(), 4);
        let warm_up = WarmUp::new(Arc::new(list));
        let (mut query, mut seen) = (Vec::new(), Vec::new());
        while let Some(number) = warm_up.next(&mut query) {
            let end = Question::parse(&query).expect("a query").end - 4;
            seen.push((query[12..end].to_vec(), query[end + 1], query.len() - end - 4));
            warm_up.ended(number, false);
        }
        let example = b"\x07example\x03com\0".to_vec();
        let other = b"\x01b\x07example\0".to_vec();
        let of = |name: &Vec<u8>, qtype| [(name.clone(), qtype, 0), (name.clone(), qtype, 11)];
        assert_eq!(seen, [of(&example, 1), of(&example, 28), of(&other, 15), of(&other, 16)].concat());
        assert!(warm_up.is_over());
        assert_eq!((warm_up.report(), warm_up.report()), (Some((8, 0)), None));
    }

    #[test]
    fn what_has_failed_is_asked_once_more() {
        let warm_up = WarmUp::new(Arc::new(list("a A\nb A\nc A").expect("a list")));
        let mut query = Vec::new();
        let first: Vec<u32> = std::iter::from_fn(|| warm_up.next(&mut query)).collect();
        assert_eq!(first, [0, 1, 2, 3, 4, 5]);
        first[..5].iter().for_each(|&number| warm_up.ended(number, number == 1 || number == 4));
        assert!(warm_up.next(&mut query).is_none() && !warm_up.is_over(), "one is outstanding");
        warm_up.ended(5, false);
        assert_eq!(warm_up.next(&mut query), Some(1));
        assert_eq!(warm_up.next(&mut query), Some(4));
        assert_eq!(warm_up.next(&mut query), None);
        assert!(warm_up.is_over() && warm_up.report().is_none());
        warm_up.ended(1, false);
        warm_up.ended(4, true);
        assert_eq!(warm_up.report(), Some((6, 1)));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, what) in [
            ("a\nb..c", 2, "b..c"),
            ("a A\n\na ANY", 3, "ANY"),
            ("a AXFR", 1, "AXFR"),
            ("a NOTYPE", 1, "NOTYPE"),
        ] {
            let (number, why) = list(text).expect_err(text);
            assert!(number == line && why.contains(what), "{number} {why}");
        }
        assert!(list("").is_ok_and(|list| list.is_empty()));
    }
}
