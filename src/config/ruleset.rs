//! The rules of a [`Draft`](crate::config::draft::Draft): as written, in order, each with its
//! origin.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::config::error::Origin;
use crate::rules::action::{Action, ActionTraits, ResponseAction};
use crate::rules::matcher::Matcher;
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::text;
use crate::rules::text::Sets;

/// The chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainKey {
    /// Queries.
    Query,
    /// Queries that the cache did not answer.
    CacheMiss,
    /// Backends' responses.
    Response,
    /// Answers from the cache.
    CacheHit,
    /// Responses that were inserted into the cache.
    CacheInserted,
    /// Answers of our own.
    SelfAnswered,
    /// Queries that no server answered in time.
    Timeout,
    /// Messages of zone transfers (AXFR, IXFR).
    Xfr,
}

impl ChainKey {
    /// Every chain, in the order of [`CHAINS`](crate::config::functions::CHAINS).
    pub const ALL: [Self; 8] = [
        Self::Query,
        Self::CacheMiss,
        Self::Response,
        Self::CacheHit,
        Self::CacheInserted,
        Self::SelfAnswered,
        Self::Timeout,
        Self::Xfr,
    ];
}

/// The action of a rule.
#[derive(Clone, Debug)]
pub enum RuleAction {
    /// On queries.
    Query(Action),
    /// On responses.
    Response(ResponseAction),
}

impl RuleAction {
    /// Returns what must be known of it besides its effect.
    #[must_use]
    pub fn traits(&self) -> ActionTraits<'_> {
        match self {
            Self::Query(action) => action.traits(),
            Self::Response(action) => action.traits(),
        }
    }

    /// Returns its text form.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Query(action) => text::action(action),
            Self::Response(action) => text::response_action(action),
        }
    }
}

/// A rule as written.
#[derive(Clone, Debug)]
pub struct DraftRule {
    /// Where it was written.
    pub origin: Origin,
    /// `name`; empty when it has none.
    pub name: String,
    /// `uuid`, if it was given.
    pub uuid: Option<[u8; 16]>,
    /// `group`; empty when it is in none.
    pub group: String,
    /// Which packets match; its pools have no slots yet.
    pub matcher: Matcher,
    /// The action; its pools and copies have no slots yet.
    pub action: RuleAction,
}

impl DraftRule {
    /// Returns whether its selector or its action names a pool.
    #[must_use]
    pub fn names_pool(&self, name: &str) -> bool {
        let mut found = self.action.traits().pool.is_some_and(|pool| *pool.name == *name);
        self.matcher.pools(&mut |pool| found |= *pool.name == *name);
        found
    }
}

/// The purpose of a Lua function, which decides its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// A query; returns a `DNSAction`.
    Action,
    /// An answer; returns a `DNSResponseAction`.
    ResponseAction,
    /// A query or an answer; returns whether it matches.
    Rule,
    /// Servers and a query; returns one of them.
    Policy,
}

/// How a Lua function sees what it is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// As Lua objects.
    Objects,
    /// As pointers, through LuaJIT's ffi.
    Ffi,
    /// The same; the function is what [`Recorded::source`] returns.
    Text,
}

/// A Lua function of a rule or policy, to be found again in the shards' own states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its purpose.
    pub kind: FunctionKind,
    /// How it receives its arguments.
    pub interface: Interface,
    /// The file in which it is defined, as Lua names it (`@FILE`); or the text itself.
    pub source: String,
    /// The line where it begins; 0 for a text.
    pub line: u32,
}

/// The state of a limiting rule, one for each constructor's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DraftState {
    /// A bucket: queries per second and its size.
    Bucket(u32, u32),
    /// A table of buckets by client: queries per second, size, IPv4 and IPv6 prefix lengths, and
    /// the expiration, seconds.
    Clients(u32, u32, u8, u8, u32),
    /// A set of addresses, each with its expiry.
    Timed,
}

/// The text of sets in lists of rules, and in the identities of rules.
#[derive(Clone, Debug, Default)]
pub struct SetTexts(HashMap<usize, SetText>);

/// The text of one set.
#[derive(Clone, Debug)]
pub(crate) struct SetText {
    /// Stable across evaluations of the file, whatever is in the set: for an object, its number.
    pub(crate) identity: String,
    /// The contents; `None` when the identity says it all.
    pub(crate) content: Option<String>,
}

impl SetTexts {
    pub(crate) fn insert(&mut self, key: usize, text: SetText) {
        self.0.insert(key, text);
    }

    /// Returns the texts for display, with the contents of sets.
    #[must_use]
    pub fn shown(&self) -> impl Sets {
        Shown { texts: self, content: true }
    }

    /// Returns the text of one set for display, by its key.
    pub(crate) fn shown_by_key(&self, key: usize) -> String {
        Shown { texts: self, content: true }.of(key)
    }

    /// Returns the texts for identities: objects by their numbers.
    #[must_use]
    pub fn identities(&self) -> impl Sets {
        Shown { texts: self, content: false }
    }
}

struct Shown<'t> {
    texts: &'t SetTexts,
    content: bool,
}

impl Shown<'_> {
    fn of(&self, key: usize) -> String {
        let Some(text) = self.texts.0.get(&key) else { return "a set".to_owned() };
        match &text.content {
            Some(content) if self.content => content.clone(),
            _ => text.identity.clone(),
        }
    }
}

impl Sets for Shown<'_> {
    fn names(&self, names: &Names) -> String {
        self.of(names.key())
    }

    fn networks(&self, networks: &Networks) -> String {
        self.of(networks.key())
    }
}

/// The rules of a draft.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    chains: [VecDeque<DraftRule>; ChainKey::ALL.len()],
    /// The groups that rules of each chain have had.
    groups: HashSet<(ChainKey, String)>,
    /// The texts of its sets.
    pub texts: SetTexts,
}

impl Ruleset {
    /// Returns the rules of a chain, in order.
    #[must_use]
    pub fn chain(&self, key: ChainKey) -> &VecDeque<DraftRule> {
        &self.chains[key as usize]
    }

    /// Returns the rules of a chain, to remove or move some.
    pub fn chain_mut(&mut self, key: ChainKey) -> &mut VecDeque<DraftRule> {
        &mut self.chains[key as usize]
    }

    /// Adds rules at the end of a chain.
    pub fn extend(&mut self, key: ChainKey, rules: impl IntoIterator<Item = DraftRule>) {
        for rule in rules {
            if !rule.group.is_empty() {
                self.groups.insert((key, rule.group.clone()));
            }
            self.chains[key as usize].push_back(rule);
        }
    }

    /// Puts a rule in the place of the one with this number, which is there.
    pub fn replace(&mut self, key: ChainKey, at: usize, rule: DraftRule) {
        if !rule.group.is_empty() {
            self.groups.insert((key, rule.group.clone()));
        }
        if let Some(place) = self.chains[key as usize].get_mut(at) {
            *place = rule;
        }
    }

    /// Returns every rule, chain by chain.
    pub fn iter(&self) -> impl Iterator<Item = (ChainKey, &DraftRule)> {
        ChainKey::ALL.into_iter().flat_map(|key| self.chain(key).iter().map(move |rule| (key, rule)))
    }

    /// Returns the origin of the last rule.
    #[must_use]
    pub fn last_origin(&self) -> Option<&Origin> {
        self.iter().last().map(|(_, rule)| &rule.origin)
    }

    /// Replaces the rules of a group, at the place of its first one, or at the end.
    pub fn replace_group(&mut self, key: ChainKey, group: &str, rules: Vec<DraftRule>) {
        if self.groups.insert((key, group.to_owned())) {
            // A file may define each of many groups once.
            return self.extend(key, rules);
        }
        let chain = self.chain_mut(key);
        let at = chain.iter().position(|r| r.group == group).unwrap_or(chain.len());
        chain.retain(|r| r.group != group);
        let mut behind = chain.split_off(at);
        chain.extend(rules);
        chain.append(&mut behind);
    }
}

/// Parses a UUID, with or without hyphens.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hyphens = [8, 13, 18, 23];
    let plain = match text.len() {
        36 if hyphens.iter().all(|at| text.as_bytes()[*at] == b'-') => text.replace('-', ""),
        32 => text.to_owned(),
        _ => return None,
    };
    let fine = plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit());
    fine.then(|| u128::from_str_radix(&plain, 16).ok().map(u128::to_be_bytes)).flatten()
}

/// Formats a UUID with hyphens.
#[must_use]
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(*uuid));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_round_trip() {
        let text = "0a4bfe80-922e-4e2c-accb-ca92a4021f06";
        let uuid = parse_uuid(text).expect("a UUID");
        assert_eq!(uuid_text(&uuid), text);
        assert_eq!(parse_uuid(&text.replace('-', "").to_uppercase()), Some(uuid));
        for bad in [
            "",
            "zzz",
            "0a4bfe80-922e-4e2c-accb-ca92a4021f0",
            "0a4bfe80_922e_4e2c_accb_ca92a4021f06",
            "+a4bfe80922e4e2caccbca92a4021f06",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }
}
