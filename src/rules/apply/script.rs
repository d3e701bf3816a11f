//! Rules whose action is a Lua function.

use crate::base::addr::PoolSlot;
use crate::base::time::TickDelta;
use crate::rules::action::RESTARTS_MAX;
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::script::{FunctionId, ScriptAction, Spoofed};
use crate::stats::drop_reason::DropReason;
use crate::wire::answer::Flags;
use crate::wire::header::Header;
use crate::wire::records::rtype;
use crate::wire::{answer, header};

use crate::rules::apply::edits::{is_fixed, own, set_bits, to_pool, to_tc};
use crate::rules::apply::{Decision, Effects, ResponseDecision, Step, to_rcode};

/// Calls the function and applies what it returned. After an error the rule has not matched, and the
/// message has failed.
pub(super) fn run(
    function: FunctionId,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Step<Decision> {
    let Some(script) = env.script.take() else {
        context.fail(env);
        return Step::Next;
    };
    let had_ad = header::is_authentic(context.packet.bytes());
    let action = script.act(function, context, env);
    let step = match action {
        None => {
            context.fail(env);
            Step::Next
        }
        Some(ScriptAction::None) => Step::Changed,
        Some(ScriptAction::Allow) => Step::Done(Decision::Forward),
        Some(ScriptAction::Drop) => Step::Done(Decision::Drop(DropReason::Rule)),
        Some(ScriptAction::RCode(code)) => {
            let flags = Flags {
                // A client that sets AD asks for it (RFC 6840, 5.7).
                ad: !had_ad && header::is_authentic(context.packet.bytes()),
                ra: Some(Header::parse(context.packet.bytes()).is_some_and(|h| h.recursion_available())),
                ..left_flags(context)
            };
            own(context, effects, |s, e| answer::rcode(s.packet, u16::from(code), flags, e))
        }
        Some(ScriptAction::Spoof) => match Spoofed::read(script.argument()) {
            Some(spoofed) => {
                let flags = left_flags(context);
                own(context, effects, |s, e| spoofed.answer(s.packet, flags, e))
            }
            None => Step::Changed,
        },
        Some(ScriptAction::SpoofRaw) => {
            let flags = left_flags(context);
            // ANY does not say which type the record would have.
            let known = context.facts.qtype != rtype::ANY;
            let data: &[&[u8]] = if known { &[script.argument()] } else { &[] };
            own(context, effects, |s, e| answer::raw(s.packet, data, rtype::ANY, flags, e))
        }
        Some(ScriptAction::SpoofPacket) => {
            own(context, effects, |s, _| answer::message(s.packet, script.argument()))
        }
        // The QR bit tells whether the function turned the query into an answer.
        Some(ScriptAction::HeaderModify) => Step::Done(Decision::Forward),
        Some(ScriptAction::Pool) => {
            // An unknown pool has no server; the last slot is never assigned.
            let named = std::str::from_utf8(script.argument()).ok().and_then(|n| env.pools.named(n));
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
            Step::Done(Decision::Forward)
        }
        // Only responses can be followed by a restart.
        Some(ScriptAction::Restart) => Step::Changed,
    };
    env.script = Some(script);
    step
}

/// Counts a query by what a function makes of it. An error is the function's alone: the query is not
/// counted, and goes on.
pub(super) fn count(
    function: FunctionId,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &Effects<'_>,
) {
    let Some(script) = env.script.take() else { return };
    let is_counted = script.act(function, context, env) == Some(ScriptAction::None);
    if is_counted && !script.argument().is_empty() {
        effects.stats.query_counts.add(script.argument());
    }
    env.script = Some(script);
}

/// Returns the flags of a spoofed answer: AA as the function left it in the header.
fn left_flags(context: &EvaluationContext<'_, '_>) -> Flags {
    Flags { aa: header::is_authoritative(context.packet.bytes()), ..Flags::default() }
}

pub(super) fn run_response(
    function: FunctionId,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &Effects<'_>,
) -> Step<ResponseDecision> {
    let action = env.script.take().and_then(|script| {
        let action = script.act(function, context, env);
        env.script = Some(script);
        action
    });
    match action {
        None => {
            context.fail(env);
            Step::Next
        }
        Some(ScriptAction::Allow | ScriptAction::HeaderModify) => Step::Done(ResponseDecision::Deliver),
        Some(ScriptAction::Drop) => Step::Done(ResponseDecision::Drop(DropReason::ResponseRule)),
        Some(ScriptAction::RCode(code)) => {
            if is_fixed(context) {
                // A signed response cannot get another code: the client gets an answer of our own.
                if !to_rcode(context, code & 0x0f, effects.edns) {
                    return Step::Done(ResponseDecision::Drop(DropReason::AnswerNotEdited));
                }
                context.reread();
            } else if let Some(byte) = context.packet.bytes_mut().get_mut(3) {
                *byte = *byte & 0xf0 | code & 0x0f;
            }
            Step::Done(ResponseDecision::Deliver)
        }
        Some(ScriptAction::Delay(ms)) => {
            context.query_state.delay = TickDelta::from_ms(u64::from(ms));
            Step::Changed
        }
        Some(ScriptAction::Truncate) if context.query_state.protocol.is_stream() => Step::Changed,
        Some(ScriptAction::Truncate) => {
            to_tc(context);
            Step::Done(ResponseDecision::Deliver)
        }
        Some(ScriptAction::Restart) if context.query_state.restarts < RESTARTS_MAX => {
            Step::Done(ResponseDecision::Restart(context.query_state.pool))
        }
        // The restarts of a function that always restarts are used up.
        Some(ScriptAction::Restart) => Step::Changed,
        Some(
            ScriptAction::None
            | ScriptAction::Spoof
            | ScriptAction::SpoofRaw
            | ScriptAction::SpoofPacket
            | ScriptAction::Pool
            | ScriptAction::NoRecurse,
        ) => Step::Changed,
    }
}
