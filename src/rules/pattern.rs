//! Regular expressions over names.
//!
//! The searched text is that of the name: labels with dots between them and none at the end (the
//! root is empty), a dot or backslash within a label escaped with a backslash, and bytes that are
//! not visible ASCII as `\DDD`. Searching takes time linear in the text, whatever the expression;
//! its memory is in a [`PatternCache`] of each shard, so that no lock is taken.

mod posix;

use std::sync::Arc;

use regex_automata::meta::{BuildError, Cache, Config, Regex};
use regex_automata::util::syntax;
use regex_automata::{Input, PatternSet};

use crate::wire::name;

/// Bytes of an expression as written: parsing takes some hundred times as much memory.
const TEXT_BYTES: usize = 1 << 20;
/// Bytes that a compiled expression may take.
const SIZE_MAX: usize = 10 << 20;
/// Bytes of the lazily built states of an expression, per shard. Names are short: an expression
/// that needs more would overflow a cache of any size.
const STATES_MAX: usize = 512 << 10;
/// Expressions that a shard keeps memory for; above that it starts over.
const CACHES_MAX: usize = 4096;
/// Expressions that are searched for at once. The memory of a search grows with the square of their
/// number: with 64 it is about a megabyte, with 12,000 it would be 25 GB. One by one, where the engine
/// may look for the literals of an expression first, each of 1,200 expressions took 200 to 340
/// instructions for a name, and in parts, which cannot do that, 4 if they are anchored and 27 if not.
const PART_MAX: usize = 64;
/// Bytes of the longest name's text: at most 4 for each of its bytes.
const TEXT_MAX: usize = 4 * name::LEN_MAX;

/// One expression.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    text: Box<str>,
    /// Translated for the regex engine.
    expression: String,
    search: Search,
}

impl Pattern {
    /// Compiles an expression. `whole`: it must match the whole name, as in `RE2Rule`, in the
    /// letter case it is written in. Otherwise it must match some part of the name, as in
    /// `RegexRule`; letter case is ignored, and brackets are read as POSIX does.
    ///
    /// # Errors
    /// The error in the expression, or that it is longer than 1 MiB, or that it takes more than 10
    /// MiB once it is compiled.
    pub fn new(text: &str, whole: bool) -> Result<Self, String> {
        if text.len() > TEXT_BYTES {
            return Err(format!("it is longer than {} MiB", TEXT_BYTES >> 20));
        }
        let inner = if whole { text.to_owned() } else { posix::translate(text) };
        // Parsed alone first: "a)(b" must not become valid inside the parentheses that are added.
        syntax::parse_with(&inner, &syntax_config()).map_err(|e| last_line(&e.to_string()))?;
        let expression = if whole { format!(r"\A(?:{inner})\z") } else { format!("(?i:{inner})") };
        let search = Search::new(&[&expression]).map_err(|e| match e.size_limit() {
            Some(_) => format!("it takes more than {} MiB of memory once it is compiled", SIZE_MAX >> 20),
            None => last_line(&e.to_string()),
        })?;
        Ok(Self(Arc::new(Compiled { text: text.into(), expression, search })))
    }

    /// Returns it as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Returns it as the regex engine reads it: equal for expressions that mean the same.
    pub(crate) fn expression(&self) -> &str {
        &self.0.expression
    }

    /// Returns whether it matches a name in wire format.
    pub fn matches(&self, qname: &[u8], cache: &mut PatternCache) -> bool {
        let mut text = [0; TEXT_MAX];
        let text = written(qname, &mut text);
        let search = &self.0.search;
        let memory = cache.memory(search);
        search.regex.search_half_with(&mut memory.cache, &Input::new(text).earliest(true)).is_some()
    }
}

/// One or several regular expressions, with an identity for their memory.
#[derive(Clone, Debug)]
struct Search {
    regex: Regex,
    id: Arc<()>,
}

impl Search {
    fn new(expressions: &[&str]) -> Result<Self, Box<BuildError>> {
        let config = Config::new()
            .nfa_size_limit(Some(SIZE_MAX))
            .hybrid_cache_capacity(STATES_MAX)
            .match_kind(if expressions.len() > 1 {
                regex_automata::MatchKind::All
            } else {
                regex_automata::MatchKind::LeftmostFirst
            })
            .utf8_empty(false);
        let regex = Regex::builder()
            .configure(config)
            .syntax(syntax_config())
            .build_many(expressions)
            .map_err(Box::new)?;
        Ok(Self { regex, id: Arc::default() })
    }
}

/// The text of names is ASCII: no Unicode tables are needed.
fn syntax_config() -> syntax::Config {
    syntax::Config::new().unicode(false).utf8(false)
}

/// The parser's errors quote the expression above the line with the message.
fn last_line(error: &str) -> String {
    error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
}

/// Many expressions, searched for at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct PatternIndex {
    /// Each with the number of its first expression.
    parts: Vec<(usize, Search)>,
}

impl PatternIndex {
    /// Creates an index of expressions that are numbered from 0 on.
    pub(crate) fn new(patterns: &[Pattern]) -> Self {
        let mut index = Self::default();
        for (part, patterns) in patterns.chunks(PART_MAX).enumerate() {
            index.add(part * PART_MAX, patterns);
        }
        index
    }

    /// Adds as few parts as the size limit allows.
    fn add(&mut self, first: usize, patterns: &[Pattern]) {
        if let [one] = patterns {
            self.parts.push((first, one.0.search.clone()));
            return;
        }
        let expressions: Vec<&str> = patterns.iter().map(|p| &*p.0.expression).collect();
        if expressions.is_empty() {
            return;
        }
        if let Ok(search) = Search::new(&expressions) {
            self.parts.push((first, search));
            return;
        }
        let (low, high) = patterns.split_at(patterns.len() / 2);
        self.add(first, low);
        self.add(first + low.len(), high);
    }

    /// Calls `found` with the number of each expression that matches a name in wire format.
    pub(crate) fn each(&self, qname: &[u8], cache: &mut PatternCache, mut found: impl FnMut(usize)) {
        let mut text = [0; TEXT_MAX];
        let text = written(qname, &mut text);
        for (first, search) in &self.parts {
            let memory = cache.memory(search);
            memory.found.clear();
            search.regex.which_overlapping_matches_with(
                &mut memory.cache,
                &Input::new(text),
                &mut memory.found,
            );
            for number in memory.found.iter() {
                found(first + number.as_usize());
            }
        }
    }
}

/// The memory that searching needs: one per shard, filled as expressions are first searched for.
#[derive(Debug, Default)]
pub struct PatternCache {
    /// By ascending address of the expression's id.
    entries: Vec<(usize, Box<Memory>)>,
}

#[derive(Debug)]
struct Memory {
    /// Keeps the id alive, so that no other expression can get its address.
    _id: Arc<()>,
    cache: Cache,
    found: PatternSet,
}

impl PatternCache {
    /// Forgets everything: another configuration has other expressions.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Returns whether nothing was searched for since it was created or cleared.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn memory(&mut self, search: &Search) -> &mut Memory {
        let key = Arc::as_ptr(&search.id).addr();
        let at = match self.entries.binary_search_by_key(&key, |r| r.0) {
            Ok(at) => at,
            Err(at) => {
                let at = if self.entries.len() < CACHES_MAX {
                    at
                } else {
                    self.entries.clear();
                    0
                };
                let cache = search.regex.create_cache();
                let found = PatternSet::new(search.regex.pattern_len());
                let memory = Memory { _id: Arc::clone(&search.id), cache, found };
                self.entries.insert(at, (key, Box::new(memory)));
                at
            }
        };
        &mut self.entries[at].1
    }
}

/// Returns the text of a name in wire format.
fn written<'t>(qname: &[u8], text: &'t mut [u8; TEXT_MAX]) -> &'t [u8] {
    let mut end = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(place) = text.get_mut(end..end + bytes.len()) {
            place.copy_from_slice(bytes);
            end += bytes.len();
        }
    };
    for (number, label) in name::labels_of(qname).enumerate() {
        if number > 0 {
            put(b".");
        }
        for byte in label {
            match byte {
                b'.' | b'\\' => put(&[b'\\', *byte]),
                0x21..=0x7e => put(&[*byte]),
                _ => put(&[b'\\', b'0' + byte / 100, b'0' + byte / 10 % 10, b'0' + byte % 10]),
            }
        }
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str, whole: bool, qname: &[u8]) -> bool {
        let mut cache = PatternCache::default();
        let pattern = Pattern::new(text, whole).expect("an expression");
        let first = pattern.matches(qname, &mut cache);
        assert_eq!(pattern.matches(qname, &mut cache), first, "the same with a warm cache");
        first
    }

    #[test]
    fn many_expressions_are_split_into_parts() {
        let patterns: Vec<_> =
            (0..4_000).map(|n| Pattern::new(&format!("^a{n}b*$"), false).expect("an expression")).collect();
        let index = PatternIndex::new(&patterns);
        assert_eq!(index.parts.len(), 4_000_usize.div_ceil(PART_MAX));
        let mut cache = PatternCache::default();
        for number in [0, 63, 64, 3_999] {
            let label = format!("a{number}bb");
            let qname = [&[label.len() as u8][..], label.as_bytes(), &[0]].concat();
            let mut found = Vec::new();
            index.each(&qname, &mut cache, |n| found.push(n));
            assert_eq!(found, [number]);
        }
    }

    #[test]
    fn text_of_the_name_is_searched() {
        for (text, whole, qname, expected) in [
            ("^$", false, &b"\0"[..], true),
            ("^re[.]Example$", false, b"\x02RE\x07examplE\0", true),
            ("part", false, b"\x01a\x04PaRt\0", true),
            ("^part", false, b"\x01a\x04part\0", false),
            (r"^a\\032b$", false, b"\x03a b\0", true),
            (r"^z\\\.z$", false, b"\x03z.z\0", true),
            (r"^z\.z$", false, b"\x03z.z\0", false),
            (r"^x[\d]x$", false, b"\x03xdx\0", true),
            (r"^x[\d]x$", false, b"\x03x1x\0", false),
            ("[[:digit:]]{3}", false, b"\x05ab123\0", true),
            ("piece", true, b"\x05piece\0", true),
            ("piece", true, b"\x01a\x05piece\0", false),
            (".*piece", true, b"\x01a\x05piece\0", true),
            ("piece", true, b"\x05PIECE\0", false),
            ("a|ab", true, b"\x02ab\0", true),
            (r"[\d]+", true, b"\x0242\0", true),
        ] {
            assert_eq!(matches(text, whole, qname), expected, "{text} {qname:?}");
        }
    }

    #[test]
    fn invalid_and_oversized_expressions_are_refused() {
        for text in ["(", "a)(b", "[a", "a{2,1}", r"(a)\1"] {
            for whole in [false, true] {
                let error = Pattern::new(text, whole).expect_err(text);
                assert!(!error.is_empty() && !error.contains('\n'), "{error}");
            }
        }
        let monster = Pattern::new("((a{100}){100}){100}", false).expect_err("a monster");
        assert!(monster.contains("10 MiB"), "{monster}");
        let long = Pattern::new(&"a".repeat((1 << 20) + 1), true).expect_err("too long");
        assert_eq!(long, "it is longer than 1 MiB");
    }

    #[test]
    fn many_expressions_are_searched_at_once() {
        let texts = ["^www", "com$", "nowhere", "^$", "WWW[.]"];
        let patterns: Vec<Pattern> =
            texts.iter().map(|t| Pattern::new(t, false).expect("an expression")).collect();
        let index = PatternIndex::new(&patterns);
        let mut cache = PatternCache::default();
        for (qname, expected) in
            [(&b"\x03www\x03com\0"[..], vec![0, 1, 4]), (b"\0", vec![3]), (b"\x01x\x03net\0", vec![])]
        {
            let mut found = Vec::new();
            index.each(qname, &mut cache, |number| found.push(number));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn longest_text_fits() {
        let label = [&b"\x3f"[..], &[0xff; 63]].concat();
        let qname = [&label[..], &label, &label, b"\x3d", &[0; 61], &[0]].concat();
        assert_eq!(qname.len(), name::LEN_MAX);
        assert!(matches(r"^(\\255){63}\.(.*)(\\000){61}$", false, &qname));
    }
}
