//! Names that are resolved when a cache begins, so that their first client finds an answer.
//!
//! Each question is asked as most clients do: without EDNS, and with EDNS and a payload size of 1,232
//! bytes; with RD, by a datagram.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

use ahash::AHashSet;

use crate::wire::codes::type_from_name;
use crate::wire::name::from_text;

/// The most questions of a list: a million names with their addresses of both families.
pub const QUESTIONS_MAX: usize = 2_000_000;
/// The payload size that clients offer since 2020 (DNS flag day).
const PAYLOAD: u16 = 1_232;
/// In how many forms each question is asked.
const FORMS: usize = 2;
/// What some editors write before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// What is in no name that servers have, but in lines of other forms.
const NO_LETTERS: [char; 6] = [',', ':', '"', '=', '@', '|'];
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
    /// Reads a list: a name in each line, and the types that are asked for, by name or number, A and
    /// AAAA if there is none. What follows a `#` is a comment, in any encoding; all else is ASCII.
    ///
    /// # Errors
    /// The number of the line that is wrong, and what is wrong with it.
    pub fn parse(path: &str, text: &(impl AsRef<[u8]> + ?Sized)) -> Result<Self, (usize, String)> {
        Self::parse_within(path, text.as_ref(), QUESTIONS_MAX)
    }

    fn parse_within(path: &str, text: &[u8], most: usize) -> Result<Self, (usize, String)> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let mut questions = Vec::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
            let parsed = parse_line(&String::from_utf8_lossy(line), &mut questions, most);
            parsed.map_err(|why| (number, why))?;
        }
        remove_repeated(&mut questions);
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

/// Leaves each question once, where it is first.
fn remove_repeated(questions: &mut Vec<(Box<[u8]>, u16)>) {
    let mut seen = AHashSet::with_capacity(questions.len());
    let is_first: Vec<bool> =
        questions.iter().map(|(qname, qtype)| seen.insert((qname.as_ref(), *qtype))).collect();
    let mut is_first = is_first.into_iter();
    questions.retain(|_| is_first.next().unwrap_or(true));
}

/// Adds the questions of a line, up to `most` in all.
fn parse_line(line: &str, questions: &mut Vec<(Box<[u8]>, u16)>, most: usize) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let Some(name) = words.next() else { return Ok(()) };
    let is_plain = |(at, _): &(usize, &str)| !line[..*at].ends_with('\\');
    if line.match_indices(';').any(|found| is_plain(&found)) {
        return Err(format!("{name}: a comment begins with #; within a name, ; is written \\;"));
    }
    // Published lists have ranks, addresses, URLs or options beside their names.
    if let Some((_, sign)) = line.match_indices(NO_LETTERS).find(is_plain) {
        return Err(format!(
            "{line:?}: a line is a name, and types; within a name, {sign} is written \\{sign}"
        ));
    }
    let address = name.strip_suffix('.').unwrap_or(name).split('/').next().unwrap_or(name);
    if address.parse::<IpAddr>().is_ok() || name.ends_with('/') {
        return Err(format!("{name} is an address or a part of one; expected a name"));
    }
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{name:?} is no name in ASCII: an international one has a form with \"xn--\" (IDNA), and other \
             bytes are written as \\DDD"
        ));
    }
    let mut wire: Box<[u8]> = from_text(name).map_err(|why| format!("{name}: {why}"))?.into();
    // Lengths of labels are no letters.
    wire.make_ascii_lowercase();
    let mut add = |qtype| {
        if questions.len() == most {
            return Err(format!("more than {most} questions, a name with a type each"));
        }
        questions.push((wire.clone(), qtype));
        Ok(())
    };
    let mut words = words.peekable();
    if words.peek().is_none() {
        return DEFAULT_TYPES.into_iter().try_for_each(add);
    }
    words.try_for_each(|word| match type_from_name(word).or_else(|| word.parse().ok()) {
        None => Err(format!("{word:?} is no type; it is a name, as HTTPS, or a number")),
        Some(0 | 41 | 128..=255) => Err(format!("{word} is no type whose answers are kept")),
        Some(qtype) => add(qtype),
    })
}

/// How far the shards are with a list, which they share.
///
/// Each query is asked once; when all have ended, those that have failed are asked again.
#[derive(Debug)]
pub struct WarmUp {
    /// Its number in this process.
    id: u32,
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
        static BEGUN: AtomicU32 = AtomicU32::new(0);
        let words = (list.len() * FORMS).div_ceil(64);
        Self {
            id: BEGUN.fetch_add(1, Relaxed),
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

    /// Returns its number in this process: [`Self::ended`] wants to know of its own queries only.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
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
            ("a NOTYPE", 1, "\"NOTYPE\" is no type; it is a name"),
            ("a 255", 1, "255 is no type whose answers are kept"),
            ("a 65536", 1, "65536"),
            ("a\nb;c", 2, "b;c: a comment begins with #"),
            ("a ; b", 1, "a comment begins with #"),
            ("a\nm\u{fc}nchen.example", 2, "xn--"),
            ("a\0", 1, "\"a\\0\" is no name in ASCII"),
            ("1,example.com", 1, "within a name, , is written \\,"),
            ("a\nhttps://www.example/", 2, "within a name, : is written \\:"),
            ("\"www.example\"", 1, "a line is a name, and types"),
            ("address=/x.example/192.0.2.1", 1, "a line is a name"),
            ("192.0.2.1", 1, "192.0.2.1 is an address"),
            ("192.0.2.1.", 1, "192.0.2.1. is an address"),
            ("10.0.0.0/8", 1, "10.0.0.0/8 is an address"),
            ("www.example/", 1, "www.example/ is an address"),
        ] {
            let (number, why) = list(text).expect_err(text);
            assert!(number == line && why.contains(what), "{number} {why}");
        }
        assert!(list("").is_ok_and(|list| list.is_empty()));
        let (number, why) = WarmUpList::parse("list", b"a\nb\nm\xfcnchen A\n").expect_err("Latin 1");
        assert!(number == 3 && why.contains("xn--"), "{number} {why}");
    }

    #[test]
    fn types_are_names_or_numbers_and_comments_in_any_encoding() {
        let text = b"\xef\xbb\xbfa 65 TYPE65 https # gr\xfc\xdfe\nb\\;c MX\nd\\,e/f MX\n";
        let read = WarmUpList::parse("list", text).expect("a list");
        let of = |name: &[u8], qtype| (Box::from(name), qtype);
        let https = of(b"\x01a\0", 65);
        assert_eq!(read.questions, [https, of(b"\x03b;c\0", 15), of(b"\x05d,e/f\0", 15)]);
    }

    #[test]
    fn a_question_that_is_repeated_is_asked_once() {
        let read = list("a A\nb A\nA. A AAAA\nb MX\na").expect("a list");
        let of = |name: u8, qtype| (Box::from([1, name, 0]), qtype);
        assert_eq!(read.questions, [of(b'a', 1), of(b'b', 1), of(b'a', 28), of(b'b', 15)]);
    }

    #[test]
    fn the_limit_is_one_of_questions() {
        for (text, line) in
            [("a\nb\n", None), ("a\nb\nc A\n", Some(3)), ("a A A A A\n", None), ("a A A A A A\n", Some(1))]
        {
            let refused = WarmUpList::parse_within("list", text.as_bytes(), 4).err();
            assert_eq!(refused.as_ref().map(|(line, _)| *line), line, "{text}");
            assert!(refused.is_none_or(|(_, why)| why.starts_with("more than 4 questions")), "{text}");
        }
    }
}
