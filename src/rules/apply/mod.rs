//! Does what rules say: walks a chain, and applies the action of each rule that matches.
//!
//! ```text
//!  query ─► chain ─┬─► Forward: to the pool in the query state
//!                  ├─► Answered: the packet is the answer ─► self-answered chain
//!                  └─► Drop
//!  answer ─► chain ─┬─► Deliver
//!                   ├─► Restart: ask again, in another pool
//!                   └─► Drop
//! ```

mod query;
mod response;
mod script;

use crate::rules::apply::query::perform;
use crate::rules::apply::response::{cap_ttl, respond};

use std::sync::Arc;

use crate::base::addr::PoolSlot;
use crate::rules::action::{Action, ExtendedError, ResponseAction};
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::copies::Copies;
use crate::rules::{Chain, Walk, query_state};
use crate::stats::drop_reason::DropReason;
use crate::stats::live::ShardStats;
use crate::stats::log_queue::LogTarget;
use crate::stats::log_queue::{Name, QueryLogEntry};
use crate::wire::answer::{AnswerEdns, Flags};
use crate::wire::ecs::Ecs;
use crate::wire::header::Header;
use crate::wire::{answer, ecs, rebuild};

/// UDP payload size in an OPT record that an action adds to a query, bytes
/// (the DNS flag day's, 2020).
pub(crate) const OPT_PAYLOAD: u16 = 1232;

/// What becomes of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// On to the pool in its case.
    Forward,
    /// The packet has been made into the answer.
    Answered,
    /// Nothing more.
    Drop(DropReason),
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseDecision {
    /// To the client.
    Deliver,
    /// Nothing more.
    Drop(DropReason),
    /// The query is asked again, in this pool.
    Restart(PoolSlot),
}

/// What actions can do besides editing the packet and its case.
#[derive(Debug)]
pub(crate) struct Effects<'a> {
    /// The shard's counters.
    pub(crate) stats: &'a ShardStats,
    /// Copies of queries for second servers.
    pub(crate) copies: &'a mut Copies,
    /// EDNS of answers of our own.
    pub(crate) edns: AnswerEdns,
    /// Bytes that the client can take; set where an answer of our own begins.
    pub(crate) limit: usize,
}

/// Where an action leaves its packet.
enum Step<T> {
    /// At the next rule.
    Next,
    /// At the next rule, which may see another packet than the index was asked about.
    Changed,
    /// At the end.
    Done(T),
}

/// Walks the query rules, and an answer that comes of them through the self-answered rules.
pub(crate) fn query(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Decision {
    if env.script.is_some() {
        // A function may make the query into an answer without further notice.
        effects.limit = limit(context);
    }
    let mut outcome = walk_query(&env.chains.query, context, env, effects);
    if outcome == Decision::Forward
        && Header::parse(context.packet.bytes()).is_some_and(|header| header.is_response())
    {
        // A function has made an answer of it.
        outcome = Decision::Answered;
    }
    if outcome != Decision::Answered {
        return outcome;
    }
    self_answered(context, env, effects)
}

/// Bytes that the client of a query can take.
fn limit(context: &EvaluationContext<'_, '_>) -> usize {
    let stream = context.query_state.protocol.is_stream();
    if stream { usize::from(u16::MAX) } else { answer::udp_limit(context.packet.bytes()) }
}

fn walk_query(
    chain: &Chain<Action>,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Decision {
    let mut walk = Walk::default();
    while let Some(rule) = chain.next(&mut walk, context, env) {
        effects.stats.rule_hits(rule.slot).add(1);
        match perform(&rule.action, context, env, effects) {
            Step::Next => {}
            Step::Changed => walk.renew(),
            Step::Done(outcome) => return outcome,
        }
    }
    Decision::Forward
}

/// The end of an answer of our own: an Extended DNS Error, the self-answered rules, and no more
/// bytes than the client can take.
fn self_answered(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Decision {
    context.reread();
    add_error(context);
    let chain = &env.chains.self_answered;
    if !chain.is_empty() {
        match walk_response(chain, context, env, effects) {
            ResponseDecision::Deliver => {}
            // There is nobody else to ask: the answer was ours.
            ResponseDecision::Restart(_) => {}
            ResponseDecision::Drop(reason) => return Decision::Drop(reason),
        }
    }
    if let Some(ttl) = context.query_state.ttl_max {
        cap_ttl(context, ttl);
    }
    if answer::fit(context.packet, effects.limit) {
        Decision::Answered
    } else {
        Decision::Drop(DropReason::AnswerTooLong)
    }
}

/// Makes the query an answer of our own with a response code, and ends it as one that rules made.
pub(crate) fn answer_rcode(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
    code: u8,
) -> Decision {
    restore(context);
    effects.limit = limit(context);
    let flags = Flags { ra: Some(false), ..Flags::default() };
    if answer::rcode(context.packet, u16::from(code), flags, effects.edns) {
        self_answered(context, env, effects)
    } else {
        Decision::Drop(DropReason::AnswerTooLong)
    }
}

/// Walks the rules of a server's answer, and gives the client what they decided. `had_state`: its
/// query had one; `can_restart`: its query was kept.
pub(crate) fn response(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
    had_state: bool,
    can_restart: bool,
) -> ResponseDecision {
    if had_state {
        restore(context);
    }
    let decision = match walk_response(&env.chains.response, context, env, effects) {
        ResponseDecision::Restart(_) if !can_restart => ResponseDecision::Deliver,
        decision @ (ResponseDecision::Deliver | ResponseDecision::Drop(_) | ResponseDecision::Restart(_)) => {
            decision
        }
    };
    if decision == ResponseDecision::Deliver {
        finish(context, env);
    }
    decision
}

/// Walks the rules of a message of a zone transfer.
pub(crate) fn transfer(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> ResponseDecision {
    walk_response(&env.chains.xfr, context, env, effects)
}

/// Walks the rules of a query that no server answered in time.
pub(crate) fn timeout(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> ResponseDecision {
    walk_response(&env.chains.timeout, context, env, effects)
}

/// Walks the rules of answers.
fn walk_response(
    chain: &Chain<ResponseAction>,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> ResponseDecision {
    let mut walk = Walk::default();
    while let Some(rule) = chain.next(&mut walk, context, env) {
        effects.stats.rule_hits(rule.slot).add(1);
        match respond(&rule.action, context, env, effects) {
            Step::Next => {}
            Step::Changed => walk.renew(),
            Step::Done(reply) => return reply,
        }
    }
    ResponseDecision::Deliver
}

fn set_error(error: &ExtendedError, context: &mut EvaluationContext<'_, '_>) {
    context.query_state.set_error(error.code, error.text.as_bytes());
}

/// Adds the case's Extended DNS Error to an answer whose client knows EDNS.
fn add_error(context: &mut EvaluationContext<'_, '_>) {
    let Some(code) = context.query_state.error else { return };
    if context.opt().is_some() {
        // Without room for it the answer goes as it is.
        let _ = answer::ede(context.packet, code, &context.query_state.error_text);
        context.reread();
    }
}

fn log(target: &Arc<LogTarget>, context: &EvaluationContext<'_, '_>, effects: &Effects<'_>) {
    let message = context.packet.bytes();
    let id = Header::parse(message).map_or(0, |h| h.id());
    let line = QueryLogEntry {
        id,
        qtype: context.facts.qtype,
        qclass: context.facts.qclass,
        flags: message.get(2..4).map_or([0; 2], |f| [f[0], f[1]]),
        size: message.len() as u16,
        latency: context.answered.map(|a| a.latency),
        target: target.clone(),
        client: context.client.peer,
        qname: Name::new(context.qname()),
    };
    if !effects.stats.log_queue.file(line) {
        effects.stats.dropped(DropReason::LogFull).add(1);
    }
}

/// Gives a message what its client knows, before the rules of answers or the making of one: the
/// client's own flags and question, and nothing that was only added for the server.
fn restore(context: &mut EvaluationContext<'_, '_>) {
    let flags = context.query_state.flags;
    query_state::set_flags(context.packet.bytes_mut(), flags);
    if context.query_state.added == Ecs::Left && context.query_state.original.is_empty() {
        return;
    }
    // An answer that cannot be read goes as it came.
    let _ = ecs::undo(context.packet, context.query_state.added);
    // A type and a class follow the name.
    if let Some(qname) =
        context.query_state.original.len().checked_sub(4).map(|end| &context.query_state.original[..end])
    {
        // An answer that cannot be read goes as it came: its client asks again.
        let _ = rebuild::rename(context.packet, qname);
    }
    context.reread();
}

/// The end of a backend's answer: what the case and the configuration want of every answer.
fn finish(context: &mut EvaluationContext<'_, '_>, env: &Environment<'_>) {
    if context.query_state.added == Ecs::OptAdded && !context.query_state.protocol.is_stream() {
        // Our OPT record has told the server of room that a client without EDNS does not have. An
        // answer that cannot be cut goes as it is.
        let _ = answer::fit(context.packet, 512);
    }
    add_error(context);
    if let Some(ttl) = context.query_state.ttl_max {
        cap_ttl(context, ttl);
    }
    if env.settings.truncate_tc && Header::parse(context.packet.bytes()).is_some_and(|h| h.is_truncated()) {
        // What cannot be read is passed on as it came.
        let _ = answer::truncate_tc(context.packet);
    }
}
