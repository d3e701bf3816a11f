//! Walks a chain and applies the action of each rule that matches.
//!
//! ```text
//!  query ─► chain ─┬─► Forward: to the pool in the query state
//!                  ├─► Answered: the packet is the answer ─► self-answered chain
//!                  └─► Drop
//!  response ─► chain ─┬─► Deliver
//!                     ├─► Restart: query again, in another pool
//!                     └─► Drop
//! ```

mod edits;
mod query;
mod response;
mod script;

use crate::rules::apply::edits::{cap_ttl, is_fixed};
use crate::rules::apply::query::perform;
use crate::rules::apply::response::respond;

use std::sync::Arc;

use crate::base::addr::PoolSlot;
use crate::rules::action::{Action, ExtendedError, ResponseAction};
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::copies::Copies;
use crate::rules::{Chain, Counting, Walk, query_state};
use crate::stats::drop_reason::DropReason;
use crate::stats::live::ShardStats;
use crate::stats::log_queue::LogTarget;
use crate::stats::log_queue::{Name, QueryLogEntry};
use crate::wire::answer::{AnswerEdns, Flags};
use crate::wire::ecs::Ecs;
use crate::wire::header::{Header, rcode};
use crate::wire::name::Text;
use crate::wire::query::Question;
use crate::wire::{answer, ecs, edns, rebuild, signature};

/// UDP payload size in an OPT record that an action adds to a query, bytes (DNS flag day 2020).
pub(crate) const OPT_PAYLOAD: u16 = 1232;

/// Outcome of the query rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Goes to the pool in the query state.
    Forward,
    /// The packet holds the answer.
    Answered,
    /// Ends here.
    Drop(DropReason),
}

/// Outcome of the response rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseDecision {
    /// Goes to the client.
    Deliver,
    /// It became SERVFAIL, because a function failed on it, and goes to the client.
    Fail,
    /// Ends here.
    Drop(DropReason),
    /// Restarts the query in this pool.
    Restart(PoolSlot),
}

/// What actions can do besides editing the packet and its query state.
#[derive(Debug)]
pub(crate) struct Effects<'a> {
    /// The shard's counters.
    pub(crate) stats: &'a ShardStats,
    /// Copies of queries for second servers.
    pub(crate) copies: &'a mut Copies,
    /// EDNS of answers that dnslob makes itself.
    pub(crate) edns: AnswerEdns,
    /// Bytes that the client can take; set before a query is answered by rules.
    pub(crate) limit: usize,
    /// An answer of our own without an OPT record may get one, with this DO: its client uses EDNS.
    /// Set with `limit`.
    pub(crate) opt_to_add: Option<bool>,
}

impl Effects<'_> {
    /// Notes what the client of a query can take, before that becomes its answer.
    fn note_client(&mut self, context: &EvaluationContext<'_, '_>) {
        let opt = edns::locate(context.packet.bytes());
        let stream = context.query_state.protocol.is_stream();
        self.limit = if stream { usize::from(u16::MAX) } else { answer::udp_limit_of(opt) };
        self.opt_to_add = opt.filter(|_| self.edns.wanted).map(|opt| opt.dnssec_ok);
    }
}

/// How the walk continues after an action.
enum Step<T> {
    /// With the next rule.
    Next,
    /// With the next rule, after an edit that may change what the index returns.
    Changed,
    /// Not at all.
    Done(T),
}

/// Walks the query rules, and passes an answer that they made through the self-answered rules.
pub(crate) fn query(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Decision {
    if let Some(counting) = env.chains.counting {
        count(counting, context, env, effects);
    }
    query_rules(&env.chains.query, context, env, effects)
}

/// Counts a query.
#[cold]
fn count(
    counting: Counting,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &Effects<'_>,
) {
    match counting {
        Counting::Names => {
            if let Some(question) = Question::parse(context.packet.bytes()) {
                effects.stats.query_counts.add_name(Text(question.qname));
            }
        }
        Counting::By(function) => script::count(function, context, env, effects),
    }
}

fn query_rules(
    chain: &Chain<Action>,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Decision {
    if env.script.is_some() {
        // A function may turn the query into an answer without returning a spoofing action.
        effects.note_client(context);
    }
    let mut outcome = walk_query(chain, context, env, effects);
    if outcome == Decision::Forward
        && Header::parse(context.packet.bytes()).is_some_and(|header| header.is_response())
    {
        // A function turned the query into an answer. One that cannot be parsed is left to it.
        signature::remove(context.packet);
        let _ = answer::own_opt(context.packet, effects.edns);
        if let Some(dnssec_ok) = effects.opt_to_add
            && edns::locate(context.packet.bytes()).is_none()
        {
            // To a client with EDNS an answer has it (RFC 6891, 7), also one of the function's own content.
            let _ = edns::add(context.packet, effects.edns.payload, dnssec_ok);
        }
        outcome = Decision::Answered;
    }
    if outcome != Decision::Answered {
        return outcome;
    }
    self_answered(context, env, effects)
}

fn walk_query(
    chain: &Chain<Action>,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Decision {
    let mut walk = Walk::default();
    loop {
        let rule = chain.next(&mut walk, context, env);
        if std::mem::take(&mut context.query_state.failed) {
            return fail_query(context, effects);
        }
        let Some(rule) = rule else { return Decision::Forward };
        effects.stats.rule_hits(rule.slot).add(1);
        let step = perform(&rule.action, context, env, effects);
        if std::mem::take(&mut context.query_state.failed) {
            return fail_query(context, effects);
        }
        match step {
            Step::Next => {}
            Step::Changed => walk.renew(),
            Step::Done(outcome) => return outcome,
        }
    }
}

/// Answers a query on which a function failed: a rule that might have blocked it must not let it
/// pass.
#[cold]
fn fail_query(context: &mut EvaluationContext<'_, '_>, effects: &mut Effects<'_>) -> Decision {
    if !restore(context) {
        return Decision::Drop(DropReason::AnswerNotEdited);
    }
    effects.note_client(context);
    if to_rcode(context, rcode::SERVFAIL, effects.edns) {
        Decision::Answered
    } else {
        Decision::Drop(DropReason::AnswerTooLong)
    }
}

/// Turns the response on which a function failed into SERVFAIL: a rule that might have removed
/// something from it must not let it pass.
#[cold]
fn fail_response(context: &mut EvaluationContext<'_, '_>, effects: &Effects<'_>) -> ResponseDecision {
    if !to_rcode(context, rcode::SERVFAIL, effects.edns) {
        return ResponseDecision::Drop(DropReason::AnswerTooLong);
    }
    context.reread();
    ResponseDecision::Fail
}

/// Turns the message into an answer with this RCODE and no records, with its RA.
fn to_rcode(context: &mut EvaluationContext<'_, '_>, code: u8, edns: AnswerEdns) -> bool {
    let ra = Header::parse(context.packet.bytes()).is_some_and(|h| h.recursion_available());
    let flags = Flags { ra: Some(ra), ..Flags::default() };
    answer::rcode(context.packet, u16::from(code), flags, edns)
}

/// Finishes a self-generated answer: applies the self-answered rules, adds the Extended DNS Error, and
/// truncates it to what the client can take.
fn self_answered(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Decision {
    context.reread();
    let chain = &env.chains.self_answered;
    if !chain.is_empty() {
        match walk_response(chain, context, env, effects) {
            ResponseDecision::Deliver | ResponseDecision::Fail => {}
            // The answer is self-generated: there is no query to restart.
            ResponseDecision::Restart(_) => {}
            ResponseDecision::Drop(reason) => return Decision::Drop(reason),
        }
    }
    add_error(context, effects);
    if let Some(ttl) = context.query_state.ttl_max {
        cap_ttl(context, ttl);
    }
    if answer::fit(context.packet, effects.limit) {
        Decision::Answered
    } else {
        Decision::Drop(DropReason::AnswerTooLong)
    }
}

/// Turns the query into an answer with a response code, and finishes it like an answer that rules
/// made.
pub(crate) fn answer_rcode(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
    code: u8,
) -> Decision {
    if !restore(context) {
        return Decision::Drop(DropReason::AnswerNotEdited);
    }
    effects.note_client(context);
    let flags = Flags { ra: Some(false), ..Flags::default() };
    if answer::rcode(context.packet, u16::from(code), flags, effects.edns) {
        self_answered(context, env, effects)
    } else {
        Decision::Drop(DropReason::AnswerTooLong)
    }
}

/// Walks the rules of a server's response. What they decided is applied by [`finish`] to an answer
/// that is delivered. `had_state`: the query has a query state; `can_restart`: the query's bytes were kept.
pub(crate) fn response(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
    had_state: bool,
    can_restart: bool,
) -> ResponseDecision {
    if had_state && !restore(context) {
        return ResponseDecision::Drop(DropReason::AnswerNotEdited);
    }
    match walk_response(&env.chains.response, context, env, effects) {
        ResponseDecision::Restart(_) if !can_restart => ResponseDecision::Deliver,
        decision @ (ResponseDecision::Deliver
        | ResponseDecision::Fail
        | ResponseDecision::Drop(_)
        | ResponseDecision::Restart(_)) => decision,
    }
}

/// Walks the rules of a response that was put into the packet cache.
pub(crate) fn cache_inserted(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> ResponseDecision {
    without_restart(walk_response(&env.chains.cache_inserted, context, env, effects))
}

/// Walks the rules of an answer of the packet cache, and applies to it what they decided.
pub(crate) fn cache_hit(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> ResponseDecision {
    context.reread();
    let decision = without_restart(walk_response(&env.chains.cache_hit, context, env, effects));
    if matches!(decision, ResponseDecision::Deliver | ResponseDecision::Fail) {
        finish(context, env, effects);
    }
    decision
}

/// Where a query cannot be restarted, a rule that wants it lets the answer pass.
const fn without_restart(decision: ResponseDecision) -> ResponseDecision {
    match decision {
        ResponseDecision::Restart(_) => ResponseDecision::Deliver,
        ResponseDecision::Deliver | ResponseDecision::Fail | ResponseDecision::Drop(_) => decision,
    }
}

/// Walks the rules of a query that the packet cache could not answer.
pub(crate) fn cache_miss(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Decision {
    query_rules(&env.chains.cache_miss, context, env, effects)
}

/// Walks the rules of a message of a zone transfer. `had_state`: the query has a query state.
pub(crate) fn transfer(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
    had_state: bool,
) -> ResponseDecision {
    let state = &mut *context.query_state;
    if !state.original.is_empty()
        && state.transferred.is_empty()
        && let Some(question) = Question::parse(context.packet.bytes())
    {
        state.transferred.extend_from_slice(question.qname);
    }
    if had_state && !restore(context) {
        return ResponseDecision::Drop(DropReason::AnswerNotEdited);
    }
    let decision = walk_response(&env.chains.xfr, context, env, effects);
    match decision {
        // A transfer that has begun cannot be restarted.
        ResponseDecision::Deliver | ResponseDecision::Restart(_) => {
            finish(context, env, effects);
            ResponseDecision::Deliver
        }
        ResponseDecision::Fail | ResponseDecision::Drop(_) => decision,
    }
}

/// Walks the rules of a query that timed out.
pub(crate) fn timeout(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> ResponseDecision {
    walk_response(&env.chains.timeout, context, env, effects)
}

/// Walks a chain of response rules.
fn walk_response(
    chain: &Chain<ResponseAction>,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> ResponseDecision {
    let mut walk = Walk::default();
    loop {
        let rule = chain.next(&mut walk, context, env);
        if let Some(decision) = undelivered(context, effects) {
            return decision;
        }
        let Some(rule) = rule else { return ResponseDecision::Deliver };
        effects.stats.rule_hits(rule.slot).add(1);
        let step = respond(&rule.action, context, env, effects);
        if let Some(decision) = undelivered(context, effects) {
            return decision;
        }
        match step {
            Step::Next => {}
            Step::Changed => walk.renew(),
            Step::Done(reply) => return reply,
        }
    }
}

/// Decides about an answer that a function has made one that must not be delivered.
fn undelivered(context: &mut EvaluationContext<'_, '_>, effects: &Effects<'_>) -> Option<ResponseDecision> {
    let not_renamed = std::mem::take(&mut context.query_state.not_renamed);
    if std::mem::take(&mut context.query_state.failed) {
        return Some(fail_response(context, effects));
    }
    not_renamed.then_some(ResponseDecision::Drop(DropReason::AnswerNotEdited))
}

fn set_error(error: &ExtendedError, context: &mut EvaluationContext<'_, '_>) {
    context.query_state.set_error(error.code, error.text.as_bytes());
}

/// Adds the Extended DNS Error of the query state to an answer whose client uses EDNS.
fn add_error(context: &mut EvaluationContext<'_, '_>, effects: &Effects<'_>) {
    let Some(code) = context.query_state.error else { return };
    if takes_options(context, effects) {
        // If it does not fit, the answer goes without it.
        let state = &context.query_state;
        let _ = answer::edes(context.packet, code, &state.error_text, &state.errors_more);
        context.reread();
    }
}

/// Returns whether an answer can get EDNS options. One without an OPT record, as of a server without
/// EDNS or a packet of the configuration, gets one here if its client uses EDNS.
fn takes_options(context: &mut EvaluationContext<'_, '_>, effects: &Effects<'_>) -> bool {
    if is_fixed(context) {
        return false;
    }
    if context.opt().is_some() {
        return true;
    }
    let by_server = context.query_state.client_opt.filter(|_| effects.edns.wanted && !lacks_edns(context));
    let Some(dnssec_ok) = effects.opt_to_add.or(by_server) else { return false };
    let added = edns::add(context.packet, effects.edns.payload, dnssec_ok);
    context.reread();
    added
}

/// Returns whether an answer without an OPT record says that its server lacks EDNS (RFC 6891, 7): its
/// client is to ask again without.
fn lacks_edns(context: &EvaluationContext<'_, '_>) -> bool {
    Header::parse(context.packet.bytes())
        .is_none_or(|header| matches!(header.rcode(), rcode::FORMERR | rcode::NOTIMP))
}

fn log(
    target: &Arc<LogTarget>,
    context: &EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &Effects<'_>,
) {
    if target.one_in > 1 && env.rng.below(target.one_in) != 0 {
        return;
    }
    let message = context.packet.bytes();
    let id = Header::parse(message).map_or(0, |h| h.id());
    let line = QueryLogEntry {
        id,
        qtype: context.facts.qtype,
        qclass: context.facts.qclass,
        flags: message.get(2..4).map_or([0; 2], |f| [f[0], f[1]]),
        size: u16::try_from(message.len()).unwrap_or(u16::MAX),
        latency: context.answered.map(|a| a.latency),
        target: target.clone(),
        at: env.now,
        client: context.client.peer,
        qname: Name::new(context.qname()),
    };
    if !effects.stats.log_queue.file(line) {
        effects.stats.dropped(DropReason::LogFull).add(1);
    }
}

/// Restores the client's view of a message before response rules or a self-generated answer: the
/// client's own flags and question, without what was added for the server. Returns false when the
/// question cannot be restored: its name is not the client's.
#[must_use]
fn restore(context: &mut EvaluationContext<'_, '_>) -> bool {
    let flags = context.query_state.flags;
    query_state::set_flags(context.packet.bytes_mut(), flags);
    let state = &context.query_state;
    let is_changed =
        state.added != Ecs::Left || !state.client_subnet.is_empty() || !state.original.is_empty();
    if !is_changed || is_fixed(context) {
        return true;
    }
    // A malformed response is passed on unchanged.
    let _ = ecs::undo(context.packet, state.added);
    let _ = ecs::give_back(context.packet, &state.client_subnet);
    let mut restored = true;
    // A type and a class follow the name.
    if let Some(qname) =
        context.query_state.original.len().checked_sub(4).map(|end| &context.query_state.original[..end])
    {
        let sent = &context.query_state.transferred;
        let is_later = Header::parse(context.packet.bytes()).is_some_and(|h| h.qdcount() == 0);
        restored = if is_later && !sent.is_empty() {
            rebuild::rename_records(context.packet, sent, qname)
        } else {
            rebuild::rename(context.packet, qname)
        };
    }
    context.reread();
    restored
}

/// Finishes a response: applies what the query state and the configuration require of every answer.
pub(crate) fn finish(context: &mut EvaluationContext<'_, '_>, env: &Environment<'_>, effects: &Effects<'_>) {
    add_error(context, effects);
    if let Some(ttl) = context.query_state.ttl_max {
        cap_ttl(context, ttl);
    }
    if env.settings.truncate_tc
        && Header::parse(context.packet.bytes()).is_some_and(|h| h.is_truncated())
        && !is_fixed(context)
    {
        // A malformed response is passed on unchanged.
        let _ = answer::truncate_tc(context.packet);
    }
}
