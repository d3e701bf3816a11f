//! Names that are resolved when a cache begins, so that their first client finds an answer.
//!
//! Each question is asked as most clients do: without EDNS, and with EDNS and a payload size of 1,232
//! bytes; with RD, by a datagram.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::wire::codes::type_from_name;
use crate::wire::name::{LEN_MAX, from_text};

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
#[derive(Debug)]
pub struct WarmUp {
    list: Arc<WarmUpList>,
    next: AtomicUsize,
}

impl WarmUp {
    /// Begins a list.
    #[must_use]
    pub const fn new(list: Arc<WarmUpList>) -> Self {
        Self { list, next: AtomicUsize::new(0) }
    }

    /// Returns whether every query was taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.next.load(Relaxed) >= self.list.len() * FORMS
    }

    /// Writes the next query, with the id 0, to `query`, and returns the length of its name; none at
    /// the end.
    pub fn next(&self, query: &mut Vec<u8>) -> Option<usize> {
        if self.is_over() {
            return None;
        }
        let at = self.next.fetch_add(1, Relaxed);
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
        Some(qname.len().min(LEN_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<WarmUpList, (usize, String)> {
        WarmUpList::parse("list", text)
    }

    #[test]
    fn names_are_asked_for_in_two_forms() {
        let list = list("# popular\n\nexample.com\r\n b.example. MX txt # both\n").expect("a list");
        assert_eq!(list.len(), 4);
        let warm_up = WarmUp::new(Arc::new(list));
        let (mut query, mut seen) = (Vec::new(), Vec::new());
        while let Some(len) = warm_up.next(&mut query) {
            let end = 12 + len;
            seen.push((query[12..end].to_vec(), query[end + 1], query.len() - end - 4));
        }
        let example = b"\x07example\x03com\0".to_vec();
        let other = b"\x01b\x07example\0".to_vec();
        let of = |name: &Vec<u8>, qtype| [(name.clone(), qtype, 0), (name.clone(), qtype, 11)];
        assert_eq!(seen, [of(&example, 1), of(&example, 28), of(&other, 15), of(&other, 16)].concat());
        assert!(warm_up.is_over());
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
