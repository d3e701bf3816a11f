//! Regular expressions over names.
//!
//! The searched text is that of the name: labels with dots between them and none at the end (the
//! root is empty), a dot or backslash within a label escaped with a backslash, and bytes that are
//! not visible ASCII as `\DDD`. Searching takes time linear in the text, whatever the expression.
//! What it builds while it searches is in a [`PatternCache`] of each shard, so that no lock is taken.

mod literals;
mod posix;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex_automata::dfa::{StartKind, dense};
use regex_automata::meta::Regex;
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, PatternSet, hybrid, meta};

use crate::rules::pattern::table::Table;
use crate::wire::name;

/// Bytes of an expression as written: parsing takes some hundred times as much memory.
const TEXT_BYTES: usize = 1 << 20;
/// Bytes that a compiled expression may take.
const SIZE_MAX: usize = 10 << 20;
/// Bytes that all states of an expression may take, beside [`STATES_PER_BYTE`] for each byte of it.
const STATES_LEAST: usize = 4 << 10;
/// Most expressions have a state or two for each of their bytes, of 64 to 128 bytes each. What needs far
/// more is of the kind of `a.{0,30}b`, where the states are too many to be built at all.
const STATES_PER_BYTE: usize = 512;
/// Nodes of an expression, as letters and branches, of which all states are built: that takes time with the
/// product of both, half a second for an alternation of 200 words.
const NODES_MAX: usize = 160;
/// Nodes of a part: a transition takes time with those, 11 us for 2,000.
const PART_NODES_MAX: usize = 4_096;
/// Bytes of the lazily built states of one expression or a part of them, per shard.
const LAZY_STATES_MAX: usize = 256 << 10;
/// Expressions or parts that a shard keeps lazily built states of; above that it starts over.
const CACHES_MAX: usize = 4096;
/// Expressions that are searched for at once. For a name whose states were built before, each of 1,200
/// expressions took 4 instructions if they are anchored and 27 if not, where one by one they took 200 to 340.
const PART_MAX: usize = 64;
/// Transitions that a search in a part may build: each takes 1 to 11 us. A name that needs more is searched
/// for one expression after another, in 0.8 us each if it is of the longest.
const BUILT_MAX: u32 = 8;
/// Transitions that may be built at first; each search allows for one more. So names that always differ, as
/// an attacker's, cost little beside that.
const CREDIT_MAX: u32 = 512;
/// Expressions that need the same literal, at most: each is searched for alone where that is found.
const SHARERS_MAX: usize = 8;
/// Bytes of all lazily built states that a shard keeps; above that it starts over.
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
    states: States,
}

/// The states of one expression.
#[derive(Debug)]
enum States {
    /// All of them, for all shards: a look-up for each byte of a name, whatever the name.
    Complete(Table),
    /// Too many: those that names need are built, by each shard.
    Lazy(Regex, Id),
}

/// The identity of what a shard keeps lazily built states of.
type Id = Arc<()>;

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
        let too_large = || format!("it takes more than {} MiB of memory once it is compiled", SIZE_MAX >> 20);
        let nfa = nfa_compiler().build(&expression).map_err(|e| match e.size_limit() {
            Some(_) => too_large(),
            None => last_line(&e.to_string()),
        })?;
        let states = match complete_states(&nfa, STATES_LEAST + STATES_PER_BYTE * text.len()) {
            Some(states) => States::Complete(states),
            None => States::Lazy(lazy_states(&expression).map_err(|_| too_large())?, Id::default()),
        };
        Ok(Self(Arc::new(Compiled { text: text.into(), expression, states })))
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
        self.is_in(text, cache)
    }

    /// Returns whether it matches a text.
    fn is_in(&self, text: &[u8], cache: &mut PatternCache) -> bool {
        match &self.0.states {
            States::Complete(table) => table.is_in(text),
            States::Lazy(regex, id) => {
                let cache = cache.of_expression(id, regex);
                regex.search_half_with(cache, &Input::new(text).earliest(true)).is_some()
            }
        }
    }
}

fn nfa_compiler() -> thompson::Compiler {
    let mut compiler = thompson::Compiler::new();
    let config = thompson::Config::new().utf8(false).nfa_size_limit(Some(SIZE_MAX));
    compiler.configure(config.which_captures(thompson::WhichCaptures::None)).syntax(syntax_config());
    compiler
}

/// Returns all states of an expression, if they take no more than so many bytes.
fn complete_states(nfa: &thompson::NFA, size_max: usize) -> Option<Table> {
    if nfa.states().len() > NODES_MAX {
        return None;
    }
    let config = dense::Config::new()
        .accelerate(false)
        .match_kind(MatchKind::All)
        .start_kind(StartKind::Unanchored)
        .dfa_size_limit(Some(size_max))
        .determinize_size_limit(Some(4 * size_max));
    Table::new(&dense::Builder::new().configure(config).build_from_nfa(nfa).ok()?)
}

fn lazy_states(expression: &str) -> Result<Regex, Box<meta::BuildError>> {
    let config = meta::Config::new()
        .nfa_size_limit(Some(SIZE_MAX))
        .hybrid_cache_capacity(LAZY_STATES_MAX)
        .utf8_empty(false);
    Regex::builder().configure(config).syntax(syntax_config()).build(expression).map_err(Box::new)
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
    expressions: Vec<(u32, Pattern)>,
    /// Of all of them, if there are several.
    states: Option<Arc<hybrid::dfa::DFA>>,
    id: Id,
}

/// Expressions that each need one of some literals.
#[derive(Clone, Debug)]
struct Literals {
    automaton: Arc<AhoCorasick>,
    /// By literal, where its expressions are.
    sharers: Vec<Vec<u16>>,
    /// They and their numbers.
    expressions: Vec<(u32, Pattern)>,
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
        let states = match patterns {
            [] => return,
            [_] => None,
            _ => {
                let Some(states) = Part::states(patterns) else {
                    let (low, high) = patterns.split_at(patterns.len() / 2);
                    self.add(low);
                    return self.add(high);
                };
                Some(Arc::new(states))
            }
        };
        let expressions = patterns.iter().map(|(number, pattern)| (*number, (*pattern).clone())).collect();
        self.parts.push(Part { expressions, states, id: Id::default() });
    }

    /// Calls `found` with the number of each expression that matches a name in wire format.
    pub(crate) fn each(&self, qname: &[u8], cache: &mut PatternCache, mut found: impl FnMut(usize)) {
        let mut text = [0; TEXT_MAX];
        let text = written(qname, &mut text);
        self.parts.iter().for_each(|part| part.each(text, cache, &mut found));
        if let Some(literals) = &self.literals {
            literals.each(text, cache, found);
        }
    }
}

impl Part {
    /// Returns the states of expressions together, if they fit.
    fn states(patterns: &[(u32, &Pattern)]) -> Option<hybrid::dfa::DFA> {
        let expressions: Vec<&str> = patterns.iter().map(|(_, p)| &*p.0.expression).collect();
        let nfa = nfa_compiler()
            .build_many(&expressions)
            .ok()
            .filter(|nfa| nfa.states().len() <= PART_NODES_MAX)?;
        let config = hybrid::dfa::Config::new().match_kind(MatchKind::All).cache_capacity(LAZY_STATES_MAX);
        hybrid::dfa::Builder::new().configure(config).build_from_nfa(nfa).ok()
    }

    /// Calls `found` with the number of each expression that matches a text.
    fn each(&self, text: &[u8], cache: &mut PatternCache, mut found: impl FnMut(usize)) {
        if let Some(states) = &self.states {
            let cache = cache.of_part(&self.id, states);
            if cache.search(states, text).is_some() {
                let numbers = cache.found.iter().filter_map(|at| self.expressions.get(at.as_usize()));
                return numbers.for_each(|(number, _)| found(*number as usize));
            }
        }
        for (number, pattern) in &self.expressions {
            if pattern.is_in(text, cache) {
                found(*number as usize);
            }
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
                    expressions.push((*number, (*pattern).clone()));
                    literals.iter().for_each(|literal| sharers.entry(literal).or_default().push(at));
                }
                _ => others.push((*number, *pattern)),
            }
        }
        let (literals, sharers): (Vec<_>, Vec<_>) = sharers.into_iter().unzip();
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(aho_corasick::MatchKind::Standard)
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
        for (number, pattern) in candidates.iter().filter_map(|at| self.expressions.get(usize::from(*at))) {
            if pattern.is_in(text, cache) {
                found(*number as usize);
            }
        }
        cache.candidates = candidates;
    }
}

/// What searches have built: one per shard, filled as expressions are first searched for.
#[derive(Debug, Default)]
pub struct PatternCache {
    expressions: Caches<meta::Cache>,
    parts: Caches<PartCache>,
    /// Expressions whose literal is in the name.
    candidates: Vec<u16>,
    searches: u32,
}

/// What searches in a part have built.
#[derive(Debug)]
struct PartCache {
    states: hybrid::dfa::Cache,
    /// What matches the last text.
    found: PatternSet,
    /// Transitions that may be built.
    credit: u32,
}

impl PartCache {
    /// Finds all expressions that match a text; returns none if too much would have to be built for that.
    fn search(&mut self, dfa: &hybrid::dfa::DFA, text: &[u8]) -> Option<()> {
        self.found.clear();
        self.credit = (self.credit + 1).min(CREDIT_MAX);
        let floor = self.credit.saturating_sub(BUILT_MAX);
        let mut state = dfa.start_state_forward(&mut self.states, &Input::new(text)).ok()?;
        for byte in text {
            // Tagged are states where expressions match, and the one from which none can.
            let known = (!state.is_tagged()).then(|| dfa.next_state_untagged(&self.states, state, *byte));
            state = match known.filter(|next| !next.is_unknown()) {
                Some(next) => next,
                None if state.is_dead() => return Some(()),
                None if self.credit == floor => return None,
                None => {
                    let before = self.states.memory_usage();
                    let next = dfa.next_state(&mut self.states, state, *byte).ok()?;
                    self.credit -= u32::from(known.is_some() || self.states.memory_usage() != before);
                    next
                }
            };
            self.add(dfa, state);
        }
        // Matches come a byte late.
        state = dfa.next_eoi_state(&mut self.states, state).ok()?;
        self.add(dfa, state);
        Some(())
    }

    /// Adds the expressions that match in a state.
    fn add(&mut self, dfa: &hybrid::dfa::DFA, state: hybrid::LazyStateID) {
        if state.is_match() {
            for at in 0..dfa.match_len(&self.states, state) {
                self.found.insert(dfa.match_pattern(&self.states, state, at));
            }
        }
    }
}

/// By ascending address of an id, which is kept, so that no other can get its address.
#[derive(Debug)]
struct Caches<C>(Vec<(Id, Box<C>)>);

impl<C> Default for Caches<C> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<C> Caches<C> {
    fn get(&mut self, id: &Id, create: impl FnOnce() -> C) -> &mut C {
        let at = match self.0.binary_search_by_key(&Arc::as_ptr(id), |(id, _)| Arc::as_ptr(id)) {
            Ok(at) => at,
            Err(mut at) => {
                if self.0.len() >= CACHES_MAX {
                    self.0.clear();
                    at = 0;
                }
                self.0.insert(at, (Arc::clone(id), Box::new(create())));
                at
            }
        };
        &mut self.0[at].1
    }
}

impl PatternCache {
    /// Forgets everything: another configuration has other expressions.
    pub fn clear(&mut self) {
        self.expressions.0.clear();
        self.parts.0.clear();
    }

    /// Returns whether nothing was built since it was created or cleared.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.expressions.0.is_empty() && self.parts.0.is_empty()
    }

    fn of_expression(&mut self, id: &Id, regex: &Regex) -> &mut meta::Cache {
        self.bound();
        self.expressions.get(id, || regex.create_cache())
    }

    fn of_part(&mut self, id: &Id, states: &hybrid::dfa::DFA) -> &mut PartCache {
        self.bound();
        self.parts.get(id, || PartCache {
            states: states.create_cache(),
            found: PatternSet::new(states.pattern_len()),
            credit: CREDIT_MAX,
        })
    }

    /// Starts over if too much was built.
    fn bound(&mut self) {
        self.searches = (self.searches + 1) % SEARCHES;
        if self.searches == 0 && self.built() > MEMORY_MAX {
            self.clear();
        }
    }

    /// Returns the bytes of all states.
    fn built(&self) -> usize {
        let of_expressions = self.expressions.0.iter().map(|(_, cache)| cache.memory_usage());
        of_expressions.chain(self.parts.0.iter().map(|(_, part)| part.states.memory_usage())).sum()
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
mod tests;
