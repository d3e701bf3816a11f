//! Regular expressions over names.
//!
//! The searched text is that of the name: labels with dots between them and none at the end (the
//! root is empty), a dot or backslash within a label escaped with a backslash, and bytes that are
//! not visible ASCII as `\DDD`. Searching takes time linear in the text, whatever the expression;
//! its memory is in a [`PatternCache`] of each shard, so that no lock is taken.

mod literals;
mod posix;

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
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
/// Expressions that need the same literal, at most: each is searched for alone where that is found.
const SHARERS_MAX: usize = 8;
/// Bytes of all memory for searches that a shard keeps; above that it starts over.
const MEMORY_MAX: usize = 64 << 20;
/// Searches between two looks at that.
const SEARCHES: u32 = 1 << 16;
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

    /// Returns the literals that it needs, if each text that it matches has one of them.
    fn literals(&self) -> Option<Vec<Vec<u8>>> {
        literals::required(&syntax::parse_with(&self.0.expression, &syntax_config()).ok()?)
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

/// Many expressions, searched for at once: those without a literal of their own in parts, the others
/// one by one where their literal is found.
#[derive(Clone, Debug, Default)]
pub(crate) struct PatternIndex {
    parts: Vec<Part>,
    literals: Option<Literals>,
}

/// Expressions that are searched for at once.
#[derive(Clone, Debug)]
struct Part {
    /// Their numbers.
    numbers: Vec<u32>,
    search: Search,
}

/// Expressions that each need one of some literals.
#[derive(Clone, Debug)]
struct Literals {
    automaton: Arc<AhoCorasick>,
    /// By literal, where its expressions are.
    sharers: Vec<Vec<u16>>,
    /// Their numbers, and searches for them.
    expressions: Vec<(u32, Search)>,
}

impl PatternIndex {
    /// Creates an index of expressions that are numbered from 0 on.
    pub(crate) fn new(patterns: &[Pattern]) -> Self {
        let mut index = Self::default();
        let numbered: Vec<_> = (0_u32..).zip(patterns).collect();
        let (literals, others) = Literals::new(&numbered);
        index.literals = literals;
        others.chunks(PART_MAX).for_each(|part| index.add(part));
        index
    }

    /// Adds as few parts as the size limit allows.
    fn add(&mut self, patterns: &[(u32, &Pattern)]) {
        let numbers = patterns.iter().map(|(number, _)| *number).collect();
        if let [(_, one)] = patterns {
            self.parts.push(Part { numbers, search: one.0.search.clone() });
            return;
        }
        let expressions: Vec<&str> = patterns.iter().map(|(_, p)| &*p.0.expression).collect();
        if expressions.is_empty() {
            return;
        }
        if let Ok(search) = Search::new(&expressions) {
            self.parts.push(Part { numbers, search });
            return;
        }
        let (low, high) = patterns.split_at(patterns.len() / 2);
        self.add(low);
        self.add(high);
    }

    /// Calls `found` with the number of each expression that matches a name in wire format.
    pub(crate) fn each(&self, qname: &[u8], cache: &mut PatternCache, mut found: impl FnMut(usize)) {
        let mut text = [0; TEXT_MAX];
        let text = written(qname, &mut text);
        for Part { numbers, search } in &self.parts {
            let memory = cache.memory(search);
            memory.found.clear();
            search.regex.which_overlapping_matches_with(
                &mut memory.cache,
                &Input::new(text),
                &mut memory.found,
            );
            for number in memory.found.iter().filter_map(|at| numbers.get(at.as_usize())) {
                found(*number as usize);
            }
        }
        if let Some(literals) = &self.literals {
            literals.each(text, cache, found);
        }
    }
}

impl Literals {
    /// Returns what needs a literal that few need, and the others.
    fn new<'p>(patterns: &[(u32, &'p Pattern)]) -> (Option<Self>, Vec<(u32, &'p Pattern)>) {
        let required: Vec<_> = patterns.iter().map(|(_, pattern)| pattern.literals()).collect();
        let mut count = BTreeMap::<&[u8], usize>::new();
        for literal in required.iter().flatten().flatten() {
            *count.entry(literal).or_default() += 1;
        }
        let mut sharers = BTreeMap::<&[u8], Vec<u16>>::new();
        let (mut expressions, mut others) = (Vec::new(), Vec::new());
        for ((number, pattern), required) in patterns.iter().zip(&required) {
            let is_rare = |literal: &Vec<u8>| count.get(&**literal).is_some_and(|n| *n <= SHARERS_MAX);
            match (required, u16::try_from(expressions.len())) {
                (Some(literals), Ok(at)) if literals.iter().all(is_rare) => {
                    expressions.push((*number, pattern.0.search.clone()));
                    literals.iter().for_each(|literal| sharers.entry(literal).or_default().push(at));
                }
                _ => others.push((*number, *pattern)),
            }
        }
        let (literals, sharers): (Vec<_>, Vec<_>) = sharers.into_iter().unzip();
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(literals);
        match automaton {
            Ok(automaton) if !expressions.is_empty() => {
                (Some(Self { automaton: Arc::new(automaton), sharers, expressions }), others)
            }
            // Too many for an automaton, or none.
            _ => (None, patterns.to_vec()),
        }
    }

    fn each(&self, text: &[u8], cache: &mut PatternCache, mut found: impl FnMut(usize)) {
        let mut candidates = std::mem::take(&mut cache.candidates);
        candidates.clear();
        for literal in self.automaton.find_overlapping_iter(text) {
            candidates.extend(self.sharers.get(literal.pattern().as_usize()).into_iter().flatten());
        }
        candidates.sort_unstable();
        candidates.dedup();
        for (number, search) in candidates.iter().filter_map(|at| self.expressions.get(usize::from(*at))) {
            let memory = cache.memory(search);
            if search.regex.search_half_with(&mut memory.cache, &Input::new(text).earliest(true)).is_some() {
                found(*number as usize);
            }
        }
        cache.candidates = candidates;
    }
}

/// The memory that searching needs: one per shard, filled as expressions are first searched for.
#[derive(Debug, Default)]
pub struct PatternCache {
    /// By ascending address of the expression's id.
    entries: Vec<(usize, Box<Memory>)>,
    /// Expressions whose literal is in the name.
    candidates: Vec<u16>,
    searches: u32,
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
        self.searches = (self.searches + 1) % SEARCHES;
        if self.searches == 0 {
            let used: usize = self.entries.iter().map(|(_, memory)| memory.cache.memory_usage()).sum();
            if used > MEMORY_MAX {
                self.entries.clear();
            }
        }
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
        // No digit is next to another one: there are no literals.
        let expression = |n: u32| {
            let digits: Vec<_> = n.to_string().chars().map(String::from).collect();
            format!("^a{}b*$", digits.join("x*"))
        };
        let patterns: Vec<_> =
            (0..4_000).map(|n| Pattern::new(&expression(n), false).expect("an expression")).collect();
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
    fn expressions_with_a_literal_of_their_own_are_searched_for_where_it_is_found() {
        let texts: Vec<_> = (0..2_000)
            .map(|n| match n % 4 {
                0 => format!("^x[0-9]+[.]site{n:04}[.]test$"),
                1 => format!("(ads{n:04}|track{n:04})er"),
                2 => format!("[0-9]a{}$", n % 10),
                _ => "shared".to_owned() + "x?".repeat(n % 3).as_str(),
            })
            .collect();
        let patterns: Vec<_> = texts.iter().map(|t| Pattern::new(t, false).expect("an expression")).collect();
        let index = PatternIndex::new(&patterns);
        let literals = index.literals.as_ref().expect("there are literals");
        assert_eq!(literals.expressions.len(), 1_000, "common literals and expressions without are in parts");
        assert_eq!(index.parts.iter().map(|p| p.numbers.len()).sum::<usize>(), 1_000);
        let mut cache = PatternCache::default();
        for name in
            ["x12.SITE0004.test", "track0001er", "ads0005", "sharedxx.example", "7a6", "x.site0008.test"]
        {
            let labels = name.split('.').flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat());
            let qname: Vec<u8> = labels.chain([0]).collect();
            let mut found = Vec::new();
            index.each(&qname, &mut cache, |n| found.push(n));
            found.sort_unstable();
            let expected: Vec<_> =
                (0..patterns.len()).filter(|n| patterns[*n].matches(&qname, &mut cache)).collect();
            assert_eq!(found, expected, "{name}");
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
