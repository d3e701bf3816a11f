//! The compiled rule chains: they route, drop, modify or answer packets.
//!
//! ```text
//!  packet ─► Index (one look-up in each of: names, networks, facts, expressions)
//!              └─► candidates in order ─► Matcher ─► Action ─┬─► decided
//!                                          no ◄──────────────┴─► next candidate
//! ```
//!
//! The semantics are those of a list walked from its top, first match first; the index only skips
//! rules that cannot match and would have counted nothing. A chain is immutable and shared by all
//! shards; the state of a rule (hits, token buckets) is kept by each shard under the rule's slot.

#![cfg_attr(
    not(test),
    warn(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::cast_lossless
    )
)]

pub mod action;
pub mod apply;
pub mod context;
pub mod copies;
pub mod guard;
pub mod index;
pub mod limits;
pub mod matcher;
mod name_table;
pub mod names;
pub mod networks;
pub mod pattern;
mod prefetch;
mod prefix_map;
pub mod query_state;
pub mod script;
pub mod shared_set;
pub mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::addr::RuleSlot;
use crate::rules::action::{Action, ResponseAction};
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::guard::Guard;
use crate::rules::index::{Candidates, Index};
use crate::rules::limits::Limits;
use crate::rules::matcher::Matcher;
use crate::rules::prefetch::PrefetchSet;
use crate::rules::script::FunctionId;
use crate::stats::log_queue::LogTarget;

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule<A> {
    /// Index of its hit counter in each shard; stable over reloads.
    pub slot: RuleSlot,
    /// Its name; may be empty.
    pub name: String,
    /// Its identity: given, or derived from the rule's text, so that the same rule has the same one
    /// after a reload and on every machine.
    pub uuid: [u8; 16],
    /// The group that it belongs to and is replaced with; empty without one.
    pub group: String,
    /// Which packets it applies to.
    pub matcher: Matcher,
    /// What it does to them.
    pub action: A,
}

/// A list of rules and the index over it.
#[derive(Clone, Debug)]
pub struct Chain<A> {
    rules: Arc<[Rule<A>]>,
    index: Arc<Index>,
    prefetch_set: Arc<PrefetchSet>,
}

impl<A> Default for Chain<A> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl<A> Chain<A> {
    /// Compiles a list of rules.
    #[must_use]
    pub fn new(rules: Vec<Rule<A>>) -> Self {
        let index = Index::build(rules.iter().map(|r| Guard::of(&r.matcher)));
        let prefetch_set = PrefetchSet::of(
            index.always().iter().filter_map(|at| rules.get(*at as usize)).map(|r| &r.matcher),
        );
        Self { rules: rules.into(), index: Arc::new(index), prefetch_set: Arc::new(prefetch_set) }
    }

    /// Returns whether [`Chain::prefetch`] is of use: packets access large sets or tables of
    /// clients.
    #[must_use]
    pub fn needs_prefetch(&self) -> bool {
        self.index.needs_prefetch() || !self.prefetch_set.is_empty()
    }

    /// Prefetches the memory that a batch will access, by the names (wire format) and clients of
    /// its packets, so that their cache misses overlap. It decides nothing and counts nothing; a
    /// packet that is left out is only slower.
    pub fn prefetch(&self, names: &[&[u8]], clients: &[[u8; 16]], limits: &Limits) {
        self.index.prefetch(names);
        self.prefetch_set.prefetch(names, clients, limits);
    }

    /// Returns the rules, in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule<A>] {
        &self.rules
    }

    /// Returns whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the next rule that matches, from `walk`'s position on.
    pub fn next<'c>(
        &'c self,
        walk: &mut Walk,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<&'c Rule<A>> {
        loop {
            let at = walk.candidates.next(&self.index, walk.from, context, env)?;
            walk.from = at + 1;
            let rule = self.rules.get(at as usize)?;
            let edits = context.facts.edits;
            let matches = rule.matcher.matches(context, env);
            if context.facts.edits != edits {
                // A function has changed what the index looks up.
                walk.renew();
            }
            if context.query_state.selector_failed {
                context.query_state.selector_failed = false;
                continue;
            }
            if matches {
                return Some(rule);
            }
        }
    }
}

/// The walk of one packet through one chain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    candidates: Candidates,
    from: u32,
}

impl Walk {
    /// Queries the index again: an action has changed the message or the protocol, that is, what
    /// the index looks up. Tags, pools and limits are not looked up.
    pub const fn renew(&mut self) {
        self.candidates.renew();
    }
}

/// What queries are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// Their names.
    Names,
    /// What a function makes of them.
    By(FunctionId),
}

/// All chains of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    /// What queries are counted by, before any rule; none does not count them.
    pub counting: Option<Counting>,
    /// For queries.
    pub query: Chain<Action>,
    /// For queries that the cache did not answer.
    pub cache_miss: Chain<Action>,
    /// For responses of backends.
    pub response: Chain<ResponseAction>,
    /// For answers from the cache.
    pub cache_hit: Chain<ResponseAction>,
    /// For responses that were inserted into the cache.
    pub cache_inserted: Chain<ResponseAction>,
    /// For answers that dnslob made itself.
    pub self_answered: Chain<ResponseAction>,
    /// For queries that no server answered in time.
    pub timeout: Chain<ResponseAction>,
    /// For zone transfers.
    pub xfr: Chain<ResponseAction>,
}

impl Chains {
    /// Returns the files that actions write to, each once: as the first of its actions names it.
    #[must_use]
    pub fn log_files(&self) -> BTreeMap<&str, &Arc<LogTarget>> {
        let queries = [&self.query, &self.cache_miss];
        let responses = [
            &self.response,
            &self.cache_hit,
            &self.cache_inserted,
            &self.self_answered,
            &self.timeout,
            &self.xfr,
        ];
        let queries =
            queries.into_iter().flat_map(|chain| chain.rules()).filter_map(|r| r.action.traits().log);
        let responses =
            responses.into_iter().flat_map(|chain| chain.rules()).filter_map(|r| r.action.traits().log);
        let mut files = BTreeMap::new();
        for log in queries.chain(responses).filter(|log| !log.path.is_empty()) {
            files.entry(log.path.as_str()).or_insert(log);
        }
        files
    }
}
