//! What rules see and may change: one packet with all that is known of it, and the room around.

use std::fmt::Debug;

use crate::base::addr::{BackendSlot, Client, Endpoint, PoolSlot};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::rules::Chains;
use crate::rules::query_state::QueryState;
use crate::rules::script::Script;
use crate::wire::edns::Opt;
use crate::wire::query::Question;
use crate::wire::{edns, header};

use crate::rules::limits::Limits;
use crate::rules::pattern::PatternCache;

/// One packet as rules see it.
#[derive(Debug)]
pub struct EvaluationContext<'a, 'p> {
    /// The message, in the buffer where it arrived.
    pub packet: &'a mut Packet<'p>,
    /// What has been read of it. An edit of the message must be followed by [`EvaluationContext::reread`].
    pub facts: Facts,
    /// What is known of the query besides its bytes, and what rules decided about it.
    pub query_state: &'a mut QueryState,
    /// Who asked.
    pub client: Client,
    /// The address and port that were asked.
    pub local: Endpoint,
    /// In response chains, who answered, if anybody did.
    pub answered: Option<Answered>,
}

/// Who answered, and when.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The backend.
    pub backend: BackendSlot,
    /// From the query's departure to its answer.
    pub latency: TickDelta,
}

/// What has been read of a message: places and numbers, no borrow.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Bytes of the question's name, which begins behind the header.
    pub qname_len: u16,
    /// The type asked for.
    pub qtype: u16,
    /// The class asked for.
    pub qclass: u16,
    /// Where the first question ends.
    pub question_end: u16,
    /// How often the message has been read anew.
    pub edits: u32,
    opt: Option<Option<Opt>>,
}

impl Facts {
    /// Reads a message's question; that of a message without one is the root, type 0, class 0.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        Question::parse(message).map_or_else(Self::none, |q| Self::from_question(&q))
    }

    /// The facts of a question that has been parsed already.
    #[must_use]
    pub const fn from_question(question: &Question<'_>) -> Self {
        Self {
            qname_len: question.qname.len() as u16,
            qtype: question.qtype,
            qclass: question.qclass,
            question_end: question.end as u16,
            edits: 0,
            opt: None,
        }
    }

    /// The name asked for in wire format, in the case it came in; the root when there is none.
    #[must_use]
    pub fn qname<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        let end = header::LEN + usize::from(self.qname_len);
        match message.get(header::LEN..end) {
            Some(name) if !name.is_empty() => name,
            _ => &[0],
        }
    }

    const fn none() -> Self {
        Self { qname_len: 0, qtype: 0, qclass: 0, question_end: header::LEN as u16, edits: 0, opt: None }
    }
}

impl EvaluationContext<'_, '_> {
    /// The name asked for in wire format, in the case it came in; the root when there is none.
    #[must_use]
    pub fn qname(&self) -> &[u8] {
        self.facts.qname(self.packet.bytes())
    }

    /// The message's OPT record, looked for at the first time.
    pub fn opt(&mut self) -> Option<Opt> {
        let (message, end) = (self.packet.bytes(), usize::from(self.facts.question_end));
        *self.facts.opt.get_or_insert_with(|| edns::find(message, end))
    }

    /// Reads the message anew, after an edit.
    pub fn reread(&mut self) {
        let edits = self.facts.edits.wrapping_add(1);
        self.facts = Facts { edits, ..Facts::of(self.packet.bytes()) };
    }
}

/// What is around a packet: the shard's own state, and the configuration.
#[derive(Debug)]
pub struct Environment<'a> {
    /// The time of this batch.
    pub now: Tick,
    /// The rules.
    pub chains: &'a Chains,
    /// Settings that concern rules.
    pub settings: RuleSettings,
    /// Token buckets and timed sets of this shard.
    pub limits: &'a mut Limits,
    /// What regular expressions need to be searched for.
    pub patterns: &'a mut PatternCache,
    /// Randomness.
    pub rng: &'a mut ShardRng,
    /// The pools.
    pub pools: &'a dyn Pools,
    /// Lua, when the configuration has functions to be run per query.
    pub script: Option<&'a mut (dyn Script + 'static)>,
}

/// Settings that concern rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuleSettings {
    /// A server's answer with TC=1 loses its records (`setTruncateTC`).
    pub truncate_tc: bool,
    /// All queries of a client come to the same shard, so that its limits need not be divided.
    pub clients_stay: bool,
}

/// The pools, as rules see them.
pub trait Pools: Debug {
    /// The pool of this name.
    fn named(&self, name: &str) -> Option<PoolSlot>;

    /// Whether a pool has a server that may get queries.
    fn is_available(&self, pool: PoolSlot) -> bool;

    /// Outstanding queries of a pool's servers, of the whole process.
    fn outstanding(&self, pool: PoolSlot) -> u64;
}
