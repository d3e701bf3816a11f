//! Does what rules say: walks a chain, and applies the action of each rule that matches.
//!
//! ```text
//!  query ─► chain ─┬─► Forward: to the pool in the case
//!                  ├─► Answered: the packet is the answer ─► self-answered chain
//!                  └─► Drop
//!  answer ─► chain ─┬─► Deliver
//!                   ├─► Restart: ask again, in another pool
//!                   └─► Drop
//! ```

use std::sync::Arc;

use crate::base::addr::{BackendSlot, PoolSlot, mapped};
use crate::base::time::TickDelta;
use crate::rules::action::{Action, ExtendedError, LogTarget, NegativeSoa, ResponseAction};
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::query_state::EcsSettings;
use crate::rules::script::{FunctionId, ScriptAction, Spoofed};
use crate::rules::{Chain, Walk, query_state};
use crate::shard::RESTARTS_MAX;
use crate::shard::dispatch::delayed::DelayedAnswers;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::ShardStats;
use crate::stats::log_queue::{Name, QueryLogEntry};
use crate::wire::answer::{AnswerEdns, Flags, Soa};
use crate::wire::ecs::Ecs;
use crate::wire::header::{Header, rcode};
use crate::wire::records::rtype;
use crate::wire::{answer, ecs, edns, header, rebuild, records};

/// UDP payload size in an OPT record that an action adds to a query, bytes
/// (the DNS flag day's, 2020).
pub(crate) const OPT_PAYLOAD: u16 = 1232;

/// What becomes of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// On to the pool in its case.
    Forward,
    /// The packet has been made into the answer.
    Answered,
    /// Nothing more.
    Drop(DropReason),
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
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
    /// Packets that leave later.
    pub(crate) delayed: &'a mut DelayedAnswers,
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
) -> Outcome {
    if env.script.is_some() {
        // A function may make the query into an answer without further notice.
        effects.limit = limit(context);
    }
    let mut outcome = walk_query(&env.snapshot.chains.query, context, env, effects);
    if outcome == Outcome::Forward
        && Header::parse(context.packet.bytes()).is_some_and(|header| header.is_response())
    {
        // A function has made an answer of it.
        outcome = Outcome::Answered;
    }
    if outcome != Outcome::Answered {
        return outcome;
    }
    self_answered(context, env, effects)
}

/// Bytes that the client of a query can take.
pub(crate) fn limit(context: &EvaluationContext<'_, '_>) -> usize {
    let stream = context.query_state.protocol.is_stream();
    if stream { usize::from(u16::MAX) } else { answer::udp_limit(context.packet.bytes()) }
}

fn walk_query(
    chain: &Chain<Action>,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Outcome {
    let mut walk = Walk::default();
    while let Some(rule) = chain.next(&mut walk, context, env) {
        effects.stats.rule_hits(rule.slot).add(1);
        match perform(&rule.action, context, env, effects) {
            Step::Next => {}
            Step::Changed => walk.renew(),
            Step::Done(outcome) => return outcome,
        }
    }
    Outcome::Forward
}

fn perform(
    action: &Action,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Step<Outcome> {
    match action {
        Action::Allow => Step::Done(Outcome::Forward),
        Action::Drop => Step::Done(Outcome::Drop(DropReason::Rule)),
        Action::Pool(pool, goes_on) => to_pool(pool.slot, *goes_on, context),
        Action::Qps(limit) if !env.limits.exceeded(limit, env.now) => Step::Next,
        Action::Qps(_) => Step::Done(Outcome::Drop(DropReason::Rule)),
        Action::QpsPool(limit, pool, goes_on) if !env.limits.exceeded(limit, env.now) => {
            to_pool(pool.slot, *goes_on, context)
        }
        Action::QpsPool(..) | Action::None => Step::Next,
        Action::RCode(code, flags) => own(context, effects, |s, e| answer::rcode(s.packet, *code, *flags, e)),
        Action::NegativeAndSoa(negative) => own(context, effects, |s, e| {
            let NegativeSoa { nxdomain, zone, mname, rname, numbers, in_authority, flags } = &**negative;
            let soa = Soa { zone, mname, rname, numbers: *numbers };
            answer::negative_soa(s.packet, *nxdomain, &soa, *in_authority, *flags, e)
        }),
        Action::Tc(_) if context.query_state.protocol.is_stream() => Step::Next,
        Action::Tc(flags) => own(context, effects, |s, e| answer::truncated(s.packet, *flags, e)),
        Action::Spoof(addresses, flags) => {
            let (v4, v6) = (!addresses.v4.is_empty(), !addresses.v6.is_empty());
            if !answer::addresses_match(context.facts.qtype, v4, v6) {
                return Step::Next;
            }
            own(context, effects, |s, e| answer::addresses(s.packet, &addresses.v4, &addresses.v6, *flags, e))
        }
        Action::SpoofCname(target, flags) => {
            own(context, effects, |s, e| answer::cname(s.packet, target, *flags, e))
        }
        // Of which type would they be?
        Action::SpoofRaw(raw, _) if context.facts.qtype == rtype::ANY && raw.type_for_any.is_none() => {
            Step::Next
        }
        Action::SpoofRaw(raw, flags) => own(context, effects, |s, e| {
            answer::raw(s.packet, &raw.rdata, raw.type_for_any.unwrap_or(rtype::ANY), *flags, e)
        }),
        Action::SpoofSvc(svc, flags) => own(context, effects, |s, e| answer::svc(s.packet, svc, *flags, e)),
        Action::SpoofPacket(template) => own(context, effects, |s, _| answer::message(s.packet, template)),
        Action::Delay(span) => {
            context.query_state.delay = *span;
            Step::Next
        }
        Action::Tee(tee, backend) => {
            copy_to(*backend, tee.add_ecs, context, effects);
            Step::Next
        }
        Action::Log(target) => {
            log(target, context, effects);
            Step::Next
        }
        Action::Continue(inner) => match perform(inner, context, env, effects) {
            Step::Next => Step::Next,
            Step::Changed | Step::Done(_) => Step::Changed,
        },
        Action::SetTag(tag, value) => {
            context.query_state.tags.set(tag.as_bytes(), value.as_bytes());
            Step::Next
        }
        Action::UnsetTag(tag) => {
            context.query_state.tags.unset(tag.as_bytes());
            Step::Next
        }
        Action::SetProxyValues(values) => {
            context.query_state.proxy.clear();
            for (kind, value) in values.iter() {
                context.query_state.proxy.add(*kind, value);
            }
            Step::Next
        }
        Action::AddProxyValue(kind, value) => {
            context.query_state.proxy.add(*kind, value);
            Step::Next
        }
        Action::SetNoRecurse => set_bits(context, 2, header::RD, false),
        Action::SetDisableValidation => set_bits(context, 3, header::CD, true),
        Action::SetEcs(wanted) => wish(context, |ecs| ecs.wanted = *wanted),
        Action::SetEcsOverride(replace) => wish(context, |ecs| ecs.replace = *replace),
        Action::SetEcsPrefixLength(v4, v6) => wish(context, |ecs| (ecs.v4, ecs.v6) = (*v4, *v6)),
        Action::SetEcsTo(v4, v6) => {
            let ipv4 = context.client.peer.is_ipv4();
            wish(context, |ecs| match (v4, v6) {
                (Some((ip, bits)), _) if ipv4 => (ecs.instead, ecs.v4) = (Some(mapped((*ip).into())), *bits),
                (_, Some((ip, bits))) if !ipv4 => (ecs.instead, ecs.v6) = (Some(mapped((*ip).into())), *bits),
                _ => {}
            })
        }
        Action::SetEdnsOption(code, data) => {
            if edns::set_option(context.packet, *code, data, OPT_PAYLOAD) == edns::Outcome::OptAdded {
                context.query_state.added = Ecs::OptAdded;
            }
            context.reread();
            Step::Changed
        }
        Action::SetExtendedDnsError(error) => {
            set_error(error, context);
            Step::Next
        }
        Action::SetMaxReturnedTtl(ttl) => {
            context.query_state.ttl_max = Some(*ttl);
            Step::Next
        }
        Action::SetSkipCache => {
            context.query_state.skip_cache = true;
            Step::Next
        }
        Action::SetTempFailureCacheTtl(ttl) => {
            context.query_state.temporary_failure_ttl = Some(*ttl);
            Step::Next
        }
        Action::Lua(function) => run(*function, context, env, effects),
    }
}

fn to_pool(pool: PoolSlot, goes_on: bool, context: &mut EvaluationContext<'_, '_>) -> Step<Outcome> {
    context.query_state.pool = pool;
    if goes_on { Step::Next } else { Step::Done(Outcome::Forward) }
}

fn wish(context: &mut EvaluationContext<'_, '_>, change: impl FnOnce(&mut EcsSettings)) -> Step<Outcome> {
    change(&mut context.query_state.ecs);
    Step::Next
}

fn set_bits(context: &mut EvaluationContext<'_, '_>, byte: usize, bit: u8, on: bool) -> Step<Outcome> {
    if let Some(flags) = context.packet.bytes_mut().get_mut(byte) {
        *flags = if on { *flags | bit } else { *flags & !bit };
    }
    Step::Changed
}

/// Makes the packet into an answer; the client's own RD and CD are in it.
fn own(
    context: &mut EvaluationContext<'_, '_>,
    effects: &mut Effects<'_>,
    make: impl FnOnce(&mut EvaluationContext<'_, '_>, AnswerEdns) -> bool,
) -> Step<Outcome> {
    restore(context);
    effects.limit = limit(context);
    let edns = effects.edns;
    Step::Done(if make(context, edns) { Outcome::Answered } else { Outcome::Drop(DropReason::AnswerTooLong) })
}

/// The end of an answer of our own: an Extended DNS Error, the self-answered rules, and no more
/// bytes than the client can take.
pub(crate) fn self_answered(
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Outcome {
    context.reread();
    add_error(context);
    let chain = &env.snapshot.chains.self_answered;
    if !chain.is_empty() {
        match walk_response(chain, context, env, effects) {
            Reply::Deliver => {}
            // There is nobody else to ask: the answer was ours.
            Reply::Restart(_) => {}
            Reply::Drop(reason) => return Outcome::Drop(reason),
        }
    }
    if let Some(ttl) = context.query_state.ttl_max {
        cap_ttl(context, ttl);
    }
    if answer::fit(context.packet, effects.limit) {
        Outcome::Answered
    } else {
        Outcome::Drop(DropReason::AnswerTooLong)
    }
}

/// Walks the rules of answers.
pub(crate) fn walk_response(
    chain: &Chain<ResponseAction>,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Reply {
    let mut walk = Walk::default();
    while let Some(rule) = chain.next(&mut walk, context, env) {
        effects.stats.rule_hits(rule.slot).add(1);
        match respond(&rule.action, context, env, effects) {
            Step::Next => {}
            Step::Changed => walk.renew(),
            Step::Done(reply) => return reply,
        }
    }
    Reply::Deliver
}

fn respond(
    action: &ResponseAction,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Step<Reply> {
    match action {
        ResponseAction::Allow => Step::Done(Reply::Deliver),
        ResponseAction::Drop => Step::Done(Reply::Drop(DropReason::ResponseRule)),
        ResponseAction::Tc => {
            to_tc(context);
            context.reread();
            Step::Changed
        }
        ResponseAction::Delay(span) => {
            context.query_state.delay = *span;
            Step::Next
        }
        ResponseAction::None => Step::Next,
        ResponseAction::Log(target) => {
            log(target, context, effects);
            Step::Next
        }
        ResponseAction::LimitTtl(min, max, types) => {
            edit_ttl(context, |rtype, ttl| {
                if types.is_empty() || types.contains(&rtype) { ttl.max(*min).min(*max) } else { ttl }
            });
            Step::Next
        }
        ResponseAction::SetMinTtl(min) => {
            edit_ttl(context, |_, ttl| ttl.max(*min));
            Step::Next
        }
        ResponseAction::SetMaxTtl(max) => {
            cap_ttl(context, *max);
            Step::Next
        }
        ResponseAction::SetReducedTtl(percent) => {
            edit_ttl(context, |_, ttl| (u64::from(ttl) * u64::from(*percent) / 100) as u32);
            Step::Next
        }
        ResponseAction::SetMaxReturnedTtl(ttl) => {
            context.query_state.ttl_max = Some(*ttl);
            Step::Next
        }
        ResponseAction::ClearRecordTypes(types) => {
            // What cannot be read is passed on as it came.
            let _ = rebuild::clear_types(context.packet, |rtype| types.contains(&rtype));
            context.reread();
            Step::Changed
        }
        ResponseAction::SetSkipCache => {
            context.query_state.skip_cache = true;
            Step::Next
        }
        ResponseAction::SetTag(tag, value) => {
            context.query_state.tags.set(tag.as_bytes(), value.as_bytes());
            Step::Next
        }
        ResponseAction::UnsetTag(tag) => {
            context.query_state.tags.unset(tag.as_bytes());
            Step::Next
        }
        ResponseAction::SetEdnsOption(code, data) => {
            // An answer without EDNS is for a client without EDNS.
            if context.opt().is_some() {
                // Without room for it the answer goes as it is.
                let _ = edns::set_option(context.packet, *code, data, OPT_PAYLOAD);
                context.reread();
            }
            Step::Changed
        }
        ResponseAction::SetExtendedDnsError(error) => {
            set_error(error, context);
            Step::Next
        }
        ResponseAction::Restart(pool, times) if context.query_state.restarts < *times => {
            Step::Done(Reply::Restart(pool.slot))
        }
        ResponseAction::Restart(..) => Step::Next,
        ResponseAction::Lua(function) => run_response(*function, context, env),
    }
}

fn edit_ttl(context: &mut EvaluationContext<'_, '_>, change: impl Fn(u16, u32) -> u32) {
    records::edit_ttls(context.packet.bytes_mut(), |_, _, rtype, ttl| change(rtype, ttl));
}

/// Cuts an answer down to TC=1; one that cannot be read becomes no worse by staying as it is.
fn to_tc(context: &mut EvaluationContext<'_, '_>) {
    let _ = answer::to_tc(context.packet);
}

/// Caps the TTL of every record.
pub(crate) fn cap_ttl(context: &mut EvaluationContext<'_, '_>, max: u32) {
    edit_ttl(context, |_, ttl| ttl.min(max));
}

fn set_error(error: &ExtendedError, context: &mut EvaluationContext<'_, '_>) {
    context.query_state.set_error(error.code, error.text.as_bytes());
}

/// Adds the case's Extended DNS Error to an answer whose client knows EDNS.
pub(crate) fn add_error(context: &mut EvaluationContext<'_, '_>) {
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

fn copy_to(
    backend: BackendSlot,
    add_ecs: bool,
    context: &EvaluationContext<'_, '_>,
    effects: &mut Effects<'_>,
) {
    let wish = context.query_state.ecs;
    let address = wish.address(&context.client);
    let filed = effects.delayed.copy(backend, context.packet.bytes(), |packet| {
        if add_ecs {
            // Without room for it the copy goes as it is.
            let _ = ecs::set(packet, address, wish.v4, wish.v6, true, OPT_PAYLOAD);
        }
    });
    if !filed {
        effects.stats.dropped(DropReason::TeeFull).add(1);
    }
}

/// Asks the script, and does what it says. After an error the rule has not matched.
fn run(
    function: FunctionId,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Step<Outcome> {
    let Some(script) = env.script.take() else { return Step::Next };
    let action = script.act(function, context, env);
    let step = match action {
        None => Step::Next,
        Some(ScriptAction::None) => Step::Changed,
        Some(ScriptAction::Allow) => Step::Done(Outcome::Forward),
        Some(ScriptAction::Drop) => Step::Done(Outcome::Drop(DropReason::Rule)),
        Some(ScriptAction::RCode(code)) => {
            let flags = Flags {
                ra: Some(Header::parse(context.packet.bytes()).is_some_and(|h| h.recursion_available())),
                ..Flags::default()
            };
            own(context, effects, |s, e| answer::rcode(s.packet, u16::from(code), flags, e))
        }
        Some(ScriptAction::Spoof) => match Spoofed::read(script.argument(), context.facts.qtype) {
            Some(spoofed) => own(context, effects, |s, e| spoofed.answer(s, e)),
            None => Step::Changed,
        },
        Some(ScriptAction::SpoofRaw) => own(context, effects, |s, e| {
            answer::raw(s.packet, &[script.argument()], rtype::ANY, Flags::default(), e)
        }),
        // Its QR bit says what the function has made of it.
        Some(ScriptAction::HeaderModify) => Step::Done(Outcome::Forward),
        Some(ScriptAction::Pool) => {
            // An unknown pool has no server; the last slot is never given to one.
            let named = std::str::from_utf8(script.argument()).ok().and_then(|n| env.snapshot.pool_named(n));
            to_pool(named.unwrap_or(PoolSlot::NONE), false, context)
        }
        Some(ScriptAction::Delay(ms)) => {
            context.query_state.delay = TickDelta::from_ms(u64::from(ms));
            Step::Changed
        }
        Some(ScriptAction::Truncate) if context.query_state.protocol.is_stream() => Step::Changed,
        Some(ScriptAction::Truncate) => {
            own(context, effects, |s, e| answer::truncated(s.packet, Flags::default(), e))
        }
        Some(ScriptAction::NoRecurse) => {
            set_bits(context, 2, header::RD, false);
            Step::Done(Outcome::Forward)
        }
        // Only answers can be asked for again.
        Some(ScriptAction::Restart) => Step::Changed,
    };
    env.script = Some(script);
    step
}

fn run_response(
    function: FunctionId,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
) -> Step<Reply> {
    let Some(script) = env.script.take() else { return Step::Next };
    let action = script.act(function, context, env);
    env.script = Some(script);
    match action {
        None => Step::Next,
        Some(ScriptAction::Allow | ScriptAction::HeaderModify) => Step::Done(Reply::Deliver),
        Some(ScriptAction::Drop) => Step::Done(Reply::Drop(DropReason::ResponseRule)),
        Some(ScriptAction::RCode(code)) => {
            if let Some(byte) = context.packet.bytes_mut().get_mut(3) {
                *byte = *byte & 0xf0 | code & 0x0f;
            }
            Step::Done(Reply::Deliver)
        }
        Some(ScriptAction::Delay(ms)) => {
            context.query_state.delay = TickDelta::from_ms(u64::from(ms));
            Step::Changed
        }
        Some(ScriptAction::Truncate) => {
            to_tc(context);
            Step::Done(Reply::Deliver)
        }
        Some(ScriptAction::Restart) if context.query_state.restarts < RESTARTS_MAX => {
            Step::Done(Reply::Restart(context.query_state.pool))
        }
        // A function that always asks again has had its tries.
        Some(ScriptAction::Restart) => Step::Changed,
        Some(
            ScriptAction::None
            | ScriptAction::Spoof
            | ScriptAction::SpoofRaw
            | ScriptAction::Pool
            | ScriptAction::NoRecurse,
        ) => Step::Changed,
    }
}

/// Gives a message what its client knows, before the rules of answers or the making of one: the
/// client's own flags and question, and nothing that was only added for the server.
pub(crate) fn restore(context: &mut EvaluationContext<'_, '_>) {
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
pub(crate) fn finish(context: &mut EvaluationContext<'_, '_>, env: &Environment<'_>) {
    if context.query_state.added == Ecs::OptAdded && !context.query_state.protocol.is_stream() {
        // Our OPT record has told the server of room that a client without EDNS does not have. An
        // answer that cannot be cut goes as it is.
        let _ = answer::fit(context.packet, 512);
    }
    add_error(context);
    if let Some(ttl) = context.query_state.ttl_max {
        cap_ttl(context, ttl);
    }
    if env.snapshot.globals.truncate_tc
        && Header::parse(context.packet.bytes()).is_some_and(|h| h.is_truncated())
    {
        // What cannot be read is passed on as it came.
        let _ = answer::truncate_tc(context.packet);
    }
}

/// The code of an answer that says that no server could be asked.
pub(crate) const NO_SERVER: u16 = rcode::SERVFAIL as u16;
