//! Compiles a draft's rules into chains: resolves pools and copies to slots, gives each rule its
//! identity and slot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::base::addr::{BackendSlot, PoolRef, PoolSlot, RuleSlot};
use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Errors, Fault, Origin};
use crate::config::functions::CHAINS;
use crate::config::ruleset::{ChainKey, DraftRule, DraftState, RuleAction, Ruleset, uuid_text};
use crate::config::slots::RuleIdentity;
use crate::model::Pool;
use crate::rules::action::{Action, ResponseAction, Tee};
use crate::rules::limits::{DEADLINES_BYTES_MAX, StateSpec};
use crate::rules::matcher::Matcher;
use crate::rules::text::Sets;
use crate::rules::{Chain, Chains, Counting, Rule, text};

/// Calls `found` with every pool that a rule names; the default pool's name is empty.
pub(super) fn pool_names<'d>(draft: &'d Draft, found: &mut dyn FnMut(&'d str)) {
    for (_, rule) in draft.rules.iter() {
        rule.matcher.pools(&mut |pool| found(&pool.name));
        if let Some(pool) = rule.action.traits().pool {
            found(&pool.name);
        }
    }
}

/// Returns the first rule that names a pool: its place, and the function there.
pub(super) fn pool_origin<'d>(draft: &'d Draft, name: &str) -> Option<(&'d Origin, &'static str)> {
    let (key, rule) = draft.rules.iter().find(|(_, rule)| rule.names_pool(name))?;
    Some((&rule.origin, CHAINS[key as usize].entries[0].name))
}

/// Returns the targets of query copies, each once, in the order of the rules.
pub(super) fn copies(draft: &Draft) -> Vec<Tee> {
    let (mut copies, mut known) = (Vec::new(), HashSet::new());
    for (_, rule) in draft.rules.iter() {
        if let Some(tee) = rule.action.traits().tee
            && known.insert(tee)
        {
            copies.push(Tee::clone(tee));
        }
    }
    copies
}

/// Returns the identity of every rule, chain by chain: its UUID as given, or one derived from its
/// text, which is stable across reloads and machines. A UUID twice in a chain is an error.
pub(super) fn identities(draft: &Draft, errors: &mut Errors) -> Vec<(ChainKey, [u8; 16])> {
    let mut given: HashMap<(ChainKey, [u8; 16]), &Origin> = HashMap::new();
    for (key, rule) in draft.rules.iter() {
        let Some(uuid) = rule.uuid else { continue };
        if let Some(first) = given.insert((key, uuid), &rule.origin) {
            let what = format!("a rule with the UUID {}", uuid_text(&uuid));
            let fault = Fault::Duplicate { what, first: first.clone() };
            errors.push(ConfigError::new(&rule.origin, CHAINS[key as usize].entries[0].name, fault));
        }
    }
    uuids(&draft.rules, &draft.rules.texts.identities())
}

/// Returns the UUID of every rule, chain by chain; `sets` are the texts of sets in identities.
pub fn uuids(rules: &Ruleset, sets: &impl Sets) -> Vec<(ChainKey, [u8; 16])> {
    let mut same: HashMap<(ChainKey, u128), u32> = HashMap::new();
    let made = |key: ChainKey, rule: &DraftRule, same: &mut HashMap<(ChainKey, u128), u32>| {
        // The name too: of two rules with the same text, each keeps its own hits when they swap
        // places.
        let description =
            format!("{key:?}\0{}\0{}\0{}", rule.name, text::matcher(&rule.matcher, sets), rule.action.text());
        let nth = same.entry((key, xxh3_128(description.as_bytes()))).and_modify(|n| *n += 1).or_insert(1);
        let uuid = xxh3_128(format!("{description}\0{nth}").as_bytes()).to_be_bytes();
        versioned(uuid)
    };
    rules.iter().map(|(key, rule)| (key, rule.uuid.unwrap_or_else(|| made(key, rule, &mut same)))).collect()
}

/// Sets the bits that say how a UUID was made: version 8, custom (RFC 9562, 5.8).
const fn versioned(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Returns the keys by which rules keep their slots.
pub(super) fn slot_identities(identities: &[(ChainKey, [u8; 16])]) -> Vec<RuleIdentity> {
    identities.iter().map(|(key, uuid)| (*key as u8, *uuid)).collect()
}

/// Slots of the pools and copies that rules name.
pub(super) struct Targets<'p> {
    pools: HashMap<&'p str, PoolSlot>,
    copies: HashMap<Tee, BackendSlot>,
}

impl<'p> Targets<'p> {
    pub(super) fn new(pools: &'p [Pool], copies: impl Iterator<Item = (Tee, BackendSlot)>) -> Self {
        let slot = |at: usize| PoolSlot(u16::try_from(at).unwrap_or(0));
        // The default pool is the first without a name; behind it are slots without a pool.
        let pools = pools.iter().enumerate().rev().map(|(at, pool)| (pool.name.as_str(), slot(at))).collect();
        Self { pools, copies: copies.collect() }
    }

    fn pool(&self, pool: &mut PoolRef) {
        pool.slot = self.pools.get(&*pool.name).copied().unwrap_or_default();
    }

    fn placed(&self, pool: &PoolRef) -> PoolRef {
        let mut placed = pool.clone();
        self.pool(&mut placed);
        placed
    }

    /// Returns the matcher with its pools' slots; `None` for one that names no pool, which can be
    /// shared.
    fn matcher(&self, matcher: &Matcher) -> Option<Matcher> {
        if let Matcher::And(list) = matcher {
            self.matchers(list).map(Matcher::And)
        } else if let Matcher::Or(list) = matcher {
            self.matchers(list).map(Matcher::Or)
        } else if let Matcher::Not(not) = matcher {
            self.matcher(not).map(|not| Matcher::Not(Arc::new(not)))
        } else if let Matcher::PoolAvailable(pool) = matcher {
            Some(Matcher::PoolAvailable(self.placed(pool)))
        } else if let Matcher::PoolOutstanding(pool, most) = matcher {
            Some(Matcher::PoolOutstanding(self.placed(pool), *most))
        } else {
            None
        }
    }

    fn matchers(&self, list: &[Matcher]) -> Option<Arc<[Matcher]>> {
        let placed: Vec<Option<Matcher>> = list.iter().map(|m| self.matcher(m)).collect();
        if placed.iter().all(Option::is_none) {
            return None;
        }
        Some(placed.into_iter().zip(list).map(|(placed, m)| placed.unwrap_or_else(|| m.clone())).collect())
    }

    fn action(&self, action: &mut Action) {
        if let Action::Pool(pool, _) | Action::QpsPool(_, pool, _) | Action::Shadow(pool) = action {
            self.pool(pool);
        } else if let Action::Tee(tee, slot) = action {
            *slot = self.copies.get(&**tee).copied().unwrap_or(*slot);
        } else if let Action::Continue(inner) = action {
            self.action(inner);
        }
    }

    fn response_action(&self, action: &mut ResponseAction) {
        if let ResponseAction::Restart(pool, _) = action {
            self.pool(pool);
        }
    }
}

/// Compiles the chains; `identities` and `slots` are those of every rule in order.
pub(super) fn compile(
    draft: &Draft,
    identities: &[(ChainKey, [u8; 16])],
    slots: &[RuleSlot],
    targets: &Targets<'_>,
) -> Chains {
    let mut queries: [Vec<Rule<Action>>; ChainKey::ALL.len()] = Default::default();
    let mut responses: [Vec<Rule<ResponseAction>>; ChainKey::ALL.len()] = Default::default();
    for (((key, rule), (_, uuid)), slot) in draft.rules.iter().zip(identities).zip(slots) {
        match &rule.action {
            RuleAction::Query(action) => {
                let mut action = action.clone();
                targets.action(&mut action);
                queries[key as usize].push(placed(rule, *uuid, *slot, action, targets));
            }
            RuleAction::Response(action) => {
                let mut action = action.clone();
                targets.response_action(&mut action);
                responses[key as usize].push(placed(rule, *uuid, *slot, action, targets));
            }
        }
    }
    let mut query = |key: ChainKey| Chain::new(std::mem::take(&mut queries[key as usize]));
    let mut response = |key: ChainKey| Chain::new(std::mem::take(&mut responses[key as usize]));
    let (counts, filter) = draft.query_count;
    let counting = counts.then(|| filter.map_or(Counting::Names, Counting::By));
    Chains {
        counting,
        query: query(ChainKey::Query),
        cache_miss: query(ChainKey::CacheMiss),
        response: response(ChainKey::Response),
        cache_hit: response(ChainKey::CacheHit),
        cache_inserted: response(ChainKey::CacheInserted),
        self_answered: response(ChainKey::SelfAnswered),
        timeout: response(ChainKey::Timeout),
        xfr: response(ChainKey::Xfr),
    }
}

fn placed<A>(rule: &DraftRule, uuid: [u8; 16], slot: RuleSlot, action: A, targets: &Targets<'_>) -> Rule<A> {
    let matcher = targets.matcher(&rule.matcher).unwrap_or_else(|| rule.matcher.clone());
    Rule { slot, name: rule.name.clone(), uuid, group: rule.group.clone(), matcher, action }
}

/// Returns the state that limiting rules need. Each keeps it across a reload by its kind, its
/// parameters and its number among equals.
pub(super) fn limits(draft: &Draft) -> Vec<StateSpec> {
    let mut same: HashMap<DraftState, u32> = HashMap::new();
    let tables = draft.states.iter().filter(|state| !matches!(state, DraftState::Bucket(..))).count();
    let bytes = DEADLINES_BYTES_MAX / tables.max(1);
    let spec = |state: &DraftState| {
        let nth = same.entry(*state).and_modify(|n| *n += 1).or_insert(1);
        let identity = xxh3_64(format!("{state:?}\0{nth}").as_bytes());
        match *state {
            DraftState::Bucket(qps, burst) => StateSpec::rate(identity, qps, burst),
            DraftState::Clients(..) => StateSpec::clients(identity, bytes),
            DraftState::Timed => StateSpec::timed(identity, bytes),
        }
    };
    draft.states.iter().map(spec).collect()
}

/// Returns a rule's name, or its UUID, for messages.
pub(super) fn rule_name<A>(rule: &Rule<A>) -> String {
    if rule.name.is_empty() { uuid_text(&rule.uuid) } else { format!("\"{}\"", rule.name) }
}
