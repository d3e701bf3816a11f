//! What rules see and may change: one packet with its query state, and the environment of the
//! evaluation.

use std::fmt::Debug;

use crate::base::addr::{BackendSlot, Client, Endpoint, PoolSlot};
use crate::base::narrow::to_u16;
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::rules::Chains;
use crate::rules::query_state::QueryState;
use crate::rules::script::{Candidate, FunctionId, ScriptAction};
use crate::wire::edns::Opt;
use crate::wire::query::Question;
use crate::wire::{edns, header};

use crate::rules::limits::Limits;
use crate::rules::pattern::PatternCache;

/// One packet as rules see it.
#[derive(Debug)]
pub struct EvaluationContext<'a, 'p> {
    /// The message, in its receive buffer.
    pub packet: &'a mut Packet<'p>,
    /// What was parsed from it. An edit of the message must be followed by
    /// [`EvaluationContext::reread`].
    pub facts: Facts,
    /// What is known of the query besides its bytes, and what rules decided about it.
    pub query_state: &'a mut QueryState,
    /// The client.
    pub client: Client,
    /// The address and port that the query was sent to.
    pub local: Endpoint,
    /// In response chains, the server that responded, if any.
    pub answered: Option<Answered>,
}

/// The server that responded, and its latency.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The backend.
    pub backend: BackendSlot,
    /// From sending the query to receiving the response.
    pub latency: TickDelta,
}

/// What was parsed from a message: offsets and numbers, no borrow.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Bytes of the question's name, which follows the header.
    pub qname_len: u16,
    /// The requested type.
    pub qtype: u16,
    /// The requested class.
    pub qclass: u16,
    /// Offset of the end of the first question.
    pub question_end: u16,
    /// How often the message was parsed again.
    pub edits: u32,
    opt: Option<Option<Opt>>,
}

impl Facts {
    /// Parses a message's question; that of a message without one is the root, type 0, class 0.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        Question::parse(message).map_or_else(Self::none, |q| Self::from_question(&q))
    }

    /// Returns the facts of a question that was parsed before.
    #[must_use]
    pub const fn from_question(question: &Question<'_>) -> Self {
        Self {
            qname_len: to_u16(question.qname.len()),
            qtype: question.qtype,
            qclass: question.qclass,
            question_end: to_u16(question.end),
            edits: 0,
            opt: None,
        }
    }

    /// Returns the requested name in wire format, in the letter case of the message; the root when
    /// there is none.
    #[must_use]
    pub fn qname<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        let end = header::LEN + usize::from(self.qname_len);
        match message.get(header::LEN..end) {
            Some(name) if !name.is_empty() => name,
            _ => &[0],
        }
    }

    const fn none() -> Self {
        Self { qname_len: 0, qtype: 0, qclass: 0, question_end: to_u16(header::LEN), edits: 0, opt: None }
    }
}

impl EvaluationContext<'_, '_> {
    /// Returns the requested name in wire format, in the letter case of the message; the root when
    /// there is none.
    #[must_use]
    pub fn qname(&self) -> &[u8] {
        self.facts.qname(self.packet.bytes())
    }

    /// Returns the message's OPT record, which is searched for once.
    pub fn opt(&mut self) -> Option<Opt> {
        let (message, end) = (self.packet.bytes(), usize::from(self.facts.question_end));
        *self.facts.opt.get_or_insert_with(|| edns::find(message, end))
    }

    /// Records that a function has failed on the message, or cannot be called.
    pub(crate) fn fail(&mut self, env: &Environment<'_>) {
        self.query_state.failed |= env.settings.lua_errors_fail;
    }

    /// Records the same of a function that selects: its rule does not match, whatever stands around the
    /// function. Returns false.
    pub(crate) fn fail_selector(&mut self, env: &Environment<'_>) -> bool {
        self.fail(env);
        self.query_state.selector_failed = true;
        false
    }

    /// Parses the message again after an edit.
    pub fn reread(&mut self) {
        let edits = self.facts.edits.wrapping_add(1);
        self.facts = Facts { edits, ..Facts::of(self.packet.bytes()) };
    }
}

/// The environment of an evaluation: the shard's own state, and the configuration.
#[derive(Debug)]
pub struct Environment<'a> {
    /// The time of this batch.
    pub now: Tick,
    /// The rules.
    pub chains: &'a Chains,
    /// Settings that concern rules.
    pub settings: RuleSettings,
    /// Token buckets and timed sets.
    pub limits: &'a mut Limits,
    /// Caches of regular expressions.
    pub patterns: &'a mut PatternCache,
    /// Randomness.
    pub rng: &'a mut ShardRng,
    /// The pools.
    pub pools: &'a dyn Pools,
    /// Lua, when the configuration has functions to be called per query.
    pub script: Option<&'a mut (dyn Script + 'static)>,
}

/// Settings that concern rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuleSettings {
    /// A server's response with TC=1 loses its records (`setTruncateTC`).
    pub truncate_tc: bool,
    /// A message on which a function fails becomes SERVFAIL (`setLuaErrorAction`).
    pub lua_errors_fail: bool,
}

/// The pools, as rules see them.
pub trait Pools: Debug {
    /// Returns the pool with this name.
    fn named(&self, name: &str) -> Option<PoolSlot>;

    /// Returns whether a pool has a server that may get queries.
    fn is_available(&self, pool: PoolSlot) -> bool;

    /// Returns the outstanding queries of a pool's servers, over the whole process.
    fn outstanding(&self, pool: PoolSlot) -> u64;
}

/// One shard's script, without Lua: `lua::state` implements it. It and the context that its functions
/// work on know each other.
pub trait Script: Debug {
    /// Calls the function of an action; returns none after an error, which was counted.
    fn act(
        &mut self,
        function: FunctionId,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<ScriptAction>;

    /// Returns the argument of the last [`Script::act`].
    fn argument(&self) -> &[u8];

    /// Calls the function of a selector; returns none after an error.
    fn matches(
        &mut self,
        function: FunctionId,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<bool>;

    /// Calls the function of a policy with the servers; returns the server that it chose, which may be
    /// one of another pool. A number outside of the list, or an error, is none.
    fn choose(
        &mut self,
        function: FunctionId,
        servers: &[Candidate],
        context: &mut EvaluationContext<'_, '_>,
        now: Tick,
    ) -> Option<BackendSlot>;

    /// Calls `maintenance`, once a second.
    fn maintain(&mut self, now: Tick);

    /// Returns the number of calls that ended in an error.
    fn errors(&self) -> u64;
}
