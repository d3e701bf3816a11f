//! Finds the rules of a chain that can match a packet.
//!
//! ```text
//!  names      ─► table of names ─► node ─► link ─► …   the longest listed suffix, and shorter ones
//!  client     ─► map of networks ─► node ─► link ─► …  the longest network, and wider ones
//!  facts      ─► value ─► list                         types, opcodes, flags, ports
//!  expressions─► one search for all ─► lists
//!  others     ─► list                                  evaluated for every packet
//! ```
//!
//! Each rule is listed under the keys of its guard. A kind of key with few rules is not indexed:
//! evaluating those rules costs less. The index does not decide: a rule that it returns may still
//! not match; a rule that it does not return cannot match.

mod candidates;
mod postings;

use std::collections::BTreeMap;

use crate::base::narrow::to_u32;
use crate::base::prefix::Prefix;
use crate::rules::guard::{Fact, Guard, Key};
use crate::rules::index::postings::{Postings, Span};
use crate::rules::name_table::{Builder, NameTable};
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::pattern::{Pattern, PatternIndex};
use crate::rules::prefix_map::PrefixMap;

pub use crate::rules::index::candidates::Candidates;

/// A node's list includes those of its ancestors while they have at most this many rules.
const MERGED_MAX: usize = 32;
/// No node.
const NOWHERE: u32 = u32::MAX;
/// Fact values below this are looked up in an array, others by search.
const DENSE: u32 = 512;
/// A set with more names or networks than this is not copied into the index, but queried itself…
const BIG: usize = 1 << 16;
/// …for at most this many rules: those with the largest sets.
const BIG_RULES: usize = 4;

/// A kind of key, looked up as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Fact(Fact),
    Names,
    Client,
    Local,
    Patterns,
}

impl Kind {
    const fn of(key: &Key) -> Self {
        match key {
            Key::Name(_) | Key::NameIn(_) | Key::Below(_) => Self::Names,
            Key::Client(_) => Self::Client,
            Key::Local(_) => Self::Local,
            Key::Fact(fact, _) => Self::Fact(*fact),
            Key::Pattern(_) => Self::Patterns,
        }
    }

    /// Returns the number of rules from which on a look-up costs less than evaluating them.
    const fn least(self) -> usize {
        match self {
            Self::Fact(_) => 6,
            Self::Names | Self::Client | Self::Local => 4,
            Self::Patterns => 2,
        }
    }
}

/// A kind that has rules.
#[derive(Clone, Copy, Debug)]
struct Source {
    kind: Kind,
    /// All rules that it can return; never empty.
    rules: Span,
    first: u32,
    last: u32,
}

/// The indexes of a chain; immutable.
#[derive(Clone, Debug, Default)]
pub struct Index {
    lists: Box<[u32]>,
    always: Span,
    sources: Vec<Source>,
    names: NameIndex,
    client: NetworkIndex,
    local: NetworkIndex,
    facts: [FactIndex; Fact::ALL.len()],
    patterns: PatternIndex,
    pattern_lists: Box<[Span]>,
}

impl Index {
    /// Builds an index over rules with these guards, in order.
    #[must_use]
    pub fn build(guards: impl Iterator<Item = Guard>) -> Self {
        Self::with_least(guards, Kind::least)
    }

    /// Returns the rules that are evaluated for every packet.
    pub(crate) fn always(&self) -> &[u32] {
        self.lists.get(self.always.start as usize..self.always.end as usize).unwrap_or_default()
    }

    /// Returns whether [`Self::prefetch`] is of use.
    pub(crate) const fn needs_prefetch(&self) -> bool {
        self.names.table.needs_prefetch()
    }

    /// Prefetches what the look-ups of a batch of names will read.
    pub(crate) fn prefetch(&self, names: &[&[u8]]) {
        self.names.table.prefetch(names.iter().copied());
    }

    fn with_least(guards: impl Iterator<Item = Guard>, least: impl Fn(Kind) -> usize) -> Self {
        let guards: Vec<Guard> = guards.collect();
        let mut postings = Postings::new(to_u32(guards.len()));
        let (always, keyed) = divide(&guards, least);
        let mut index = Self { always: postings.put(always), ..Self::default() };

        let mut rules: Vec<(Kind, u32)> = keyed.iter().map(|(rule, key)| (Kind::of(key), *rule)).collect();
        rules.sort_unstable();
        for group in rules.chunk_by(|a, b| a.0 == b.0) {
            let (kind, first) = group[0];
            let (_, last) = group[group.len() - 1];
            let rules = postings.put(group.iter().map(|r| r.1).collect());
            index.sources.push(Source { kind, rules, first, last });
        }
        index.names = NameIndex::new(&keyed, &mut postings);
        let networks = |client: bool| {
            keyed.iter().filter_map(move |(rule, key)| {
                let ((Key::Client(networks), true) | (Key::Local(networks), false)) = (key, client) else {
                    return None;
                };
                Some((*rule, networks))
            })
        };
        index.client = NetworkIndex::new(networks(true), &mut postings);
        index.local = NetworkIndex::new(networks(false), &mut postings);
        for fact in Fact::ALL {
            let values = keyed.iter().filter_map(|(rule, key)| {
                let Key::Fact(of, value) = key else { return None };
                (*of == fact).then_some((*value, *rule))
            });
            index.facts[fact as usize] = FactIndex::new(values.collect(), &mut postings);
        }
        let (patterns, lists) = patterns(&keyed, &mut postings);
        (index.patterns, index.pattern_lists) = (PatternIndex::new(&patterns), lists);
        index.lists = postings.finish();
        index
    }
}

/// Returns the rules that are evaluated for every packet, and the keys of all others.
fn divide(guards: &[Guard], least: impl Fn(Kind) -> usize) -> (Vec<u32>, Vec<(u32, &Key)>) {
    let mut big: Vec<(usize, u32)> = Vec::new();
    let mut counts: BTreeMap<Kind, (usize, u32)> = BTreeMap::new();
    for (rule, guard) in (0..).zip(guards) {
        let largest = guard.keys().map(set_len).max().unwrap_or(0);
        if largest > BIG {
            big.push((largest, rule));
        }
        for key in guard.keys() {
            let (count, last) = counts.entry(Kind::of(key)).or_insert((0, NOWHERE));
            *count += usize::from(std::mem::replace(last, rule) != rule);
        }
    }
    big.sort_unstable_by(|a, b| b.cmp(a));
    big.truncate(BIG_RULES);
    let (mut always, mut keyed) = (Vec::new(), Vec::new());
    for (rule, guard) in (0..).zip(guards) {
        let few = |key: &Key| counts.get(&Kind::of(key)).is_none_or(|c| c.0 < least(Kind::of(key)));
        let asked =
            matches!(guard, Guard::Always) || big.iter().any(|b| b.1 == rule) || guard.keys().any(few);
        if asked {
            always.push(rule);
        } else {
            keyed.extend(guard.keys().map(|key| (rule, key)));
        }
    }
    (always, keyed)
}

/// Returns the size of the set that a key refers to.
fn set_len(key: &Key) -> usize {
    match key {
        Key::NameIn(names) | Key::Below(names) => names.len(),
        Key::Client(networks) | Key::Local(networks) => networks.len(),
        Key::Name(_) | Key::Fact(..) | Key::Pattern(_) => 1,
    }
}

/// Nodes that contain each other, as names contain those below them and networks contain longer
/// ones: the rules under each, and the nearest node around it whose rules are not in its own list.
#[derive(Clone, Debug, Default)]
struct Nest {
    lists: Vec<Span>,
    links: Vec<u32>,
}

impl Nest {
    fn new(nodes: usize) -> Self {
        Self { lists: vec![Span::EMPTY; nodes], links: vec![NOWHERE; nodes] }
    }

    /// Sets a node; the nodes around it must have been set before.
    fn set(&mut self, node: u32, around: Option<u32>, mut own: Vec<u32>, postings: &mut Postings) {
        if let Some(around) = around {
            let list = self.lists[around as usize];
            self.links[node as usize] = if list.len() <= MERGED_MAX {
                own.extend_from_slice(postings.list(list));
                self.links[around as usize]
            } else {
                around
            };
        }
        self.lists[node as usize] = postings.put(own);
    }

    /// Returns a node's list and those of the nodes around it.
    fn lists(&self, node: u32) -> impl Iterator<Item = Span> {
        let mut next = node;
        std::iter::from_fn(move || {
            let list = *self.lists.get(next as usize)?;
            next = *self.links.get(next as usize)?;
            Some(list)
        })
    }
}

/// Exact names and suffixes in one table.
#[derive(Clone, Debug, Default)]
struct NameIndex {
    table: NameTable,
    /// The rules about names in or below each name.
    below: Nest,
    /// The same rules merged with the rules about the name itself.
    exact: Box<[Span]>,
}

impl NameIndex {
    fn new(keyed: &[(u32, &Key)], postings: &mut Postings) -> Self {
        let mut builder = Builder::new(true);
        for_names(keyed, |name, _, _| {
            builder.push(name);
        });
        let table = builder.finish();
        // Node, whether the rule is about the name itself, rule.
        let mut rules: Vec<(u32, bool, u32)> = Vec::new();
        for_names(keyed, |name, rule, exact| rules.extend(table.find(name).map(|node| (node, exact, rule))));
        rules.sort_unstable();
        rules.dedup();

        // Shortest first: a name is longer than the names above it.
        let mut order: Vec<(usize, u32, &[u8])> =
            (0..).zip(table.iter()).map(|(node, name)| (name.len(), node, name)).collect();
        order.sort_unstable_by_key(|o| o.0);
        let mut below = Nest::new(table.len());
        let mut exact = vec![Span::EMPTY; table.len()];
        for (_, node, name) in order {
            let from = rules.partition_point(|r| r.0 < node);
            let own = &rules[from..];
            let own = &own[..own.partition_point(|r| r.0 == node)];
            let (suffix, very) = own.split_at(own.partition_point(|r| !r.1));
            let numbers = |rules: &[(u32, bool, u32)]| rules.iter().map(|r| r.2).collect::<Vec<u32>>();
            let around = name.get(1 + usize::from(name[0])..).and_then(|zone| table.longest(zone));
            below.set(node, around.map(|a| a.number), numbers(suffix), postings);
            let mut at = numbers(very);
            at.extend_from_slice(postings.list(below.lists[node as usize]));
            exact[node as usize] = postings.put(at);
        }
        Self { table, below, exact: exact.into() }
    }

    /// Returns the lists of all names that `qname` is equal to or below.
    fn lists(&self, qname: &[u8]) -> impl Iterator<Item = Span> {
        let suffix = self.table.longest(qname);
        let node = suffix.map_or(NOWHERE, |s| s.number);
        let very = suffix.filter(|s| s.start == 0).and_then(|s| self.exact.get(s.number as usize));
        let skipped = usize::from(very.is_some());
        very.copied().into_iter().chain(self.below.lists(node).skip(skipped))
    }
}

/// Calls `each` with every name, its rule, and whether the rule is about the name itself.
fn for_names(keyed: &[(u32, &Key)], mut each: impl FnMut(&[u8], u32, bool)) {
    let names = |names: &Names, rule, exact, each: &mut dyn FnMut(&[u8], u32, bool)| {
        for name in names.set().into_iter().flat_map(|set| set.iter()) {
            each(name, rule, exact);
        }
    };
    for (rule, key) in keyed {
        match key {
            Key::Name(name) => each(name, *rule, true),
            Key::NameIn(set) => names(set, *rule, true, &mut each),
            Key::Below(set) => names(set, *rule, false, &mut each),
            Key::Client(_) | Key::Local(_) | Key::Fact(..) | Key::Pattern(_) => {}
        }
    }
}

/// Networks of one kind of address.
#[derive(Clone, Debug, Default)]
struct NetworkIndex {
    map: PrefixMap,
    nodes: Nest,
}

impl NetworkIndex {
    fn new<'n>(sets: impl Iterator<Item = (u32, &'n Networks)>, postings: &mut Postings) -> Self {
        let mut rules: Vec<(Prefix, u32)> = Vec::new();
        for (rule, networks) in sets {
            let included = networks.set().into_iter().flat_map(|set| set.iter()).filter(|n| n.1);
            rules.extend(included.map(|(prefix, _)| (prefix, rule)));
        }
        // Each family by itself, and a network before those that it contains.
        let order = |p: &Prefix| (p.is_ipv4(), p.bounds().0, p.bits());
        rules.sort_unstable_by_key(|(prefix, rule)| (order(prefix), *rule));
        let groups: Vec<&[(Prefix, u32)]> = rules.chunk_by(|a, b| a.0 == b.0).collect();
        let mut nodes = Nest::new(groups.len());
        let mut open: Vec<(u32, Prefix)> = Vec::new();
        for (node, group) in (0..).zip(&groups) {
            let prefix = group[0].0;
            let holds = |o: &Prefix| o.is_ipv4() == prefix.is_ipv4() && o.bounds().1 >= prefix.bounds().1;
            while open.last().is_some_and(|(_, o)| !holds(o)) {
                open.pop();
            }
            let own = group.iter().map(|r| r.1).collect();
            nodes.set(node, open.last().map(|o| o.0), own, postings);
            open.push((node, prefix));
        }
        let map = (0..).zip(&groups).map(|(node, group)| (group[0].0, node)).collect();
        Self { map, nodes }
    }

    /// Returns the lists of all networks that contain the address.
    fn lists(&self, ip: &[u8; 16]) -> impl Iterator<Item = Span> {
        self.nodes.lists(self.map.find(ip).unwrap_or(NOWHERE))
    }
}

/// The values of one fact.
#[derive(Clone, Debug, Default)]
struct FactIndex {
    dense: Box<[Span]>,
    sparse: Box<[(u32, Span)]>,
}

impl FactIndex {
    fn new(mut rules: Vec<(u32, u32)>, postings: &mut Postings) -> Self {
        rules.sort_unstable();
        let lists: Vec<(u32, Span)> = rules
            .chunk_by(|a, b| a.0 == b.0)
            .map(|group| (group[0].0, postings.put(group.iter().map(|r| r.1).collect())))
            .collect();
        let (low, high) = lists.split_at(lists.partition_point(|l| l.0 < DENSE));
        let mut dense = vec![Span::EMPTY; low.last().map_or(0, |l| l.0 as usize + 1)];
        for (value, list) in low {
            dense[*value as usize] = *list;
        }
        Self { dense: dense.into(), sparse: high.into() }
    }

    fn list(&self, value: u32) -> Span {
        if value < DENSE {
            return self.dense.get(value as usize).copied().unwrap_or(Span::EMPTY);
        }
        let found = self.sparse.binary_search_by_key(&value, |s| s.0);
        found.map_or(Span::EMPTY, |at| self.sparse[at].1)
    }
}

/// Returns the expressions, each once, and the rules under each.
fn patterns(keyed: &[(u32, &Key)], postings: &mut Postings) -> (Vec<Pattern>, Box<[Span]>) {
    let (mut patterns, mut rules): (Vec<Pattern>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for (rule, key) in keyed {
        let Key::Pattern(pattern) = key else { continue };
        let at = *known.entry(pattern.expression()).or_insert(patterns.len());
        if at == patterns.len() {
            patterns.push(pattern.clone());
            rules.push(Vec::new());
        }
        rules[at].push(*rule);
    }
    (patterns, rules.into_iter().map(|list| postings.put(list)).collect())
}

#[cfg(test)]
mod tests;
