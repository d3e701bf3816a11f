//! The actions of response rules.

use crate::rules::action::ResponseAction;
use crate::rules::context::{Environment, EvaluationContext};
use crate::stats::drop_reason::DropReason;
use crate::wire::{edns, rebuild};

use crate::rules::apply::edits::{cap_ttl, edit_ttl, is_fixed, set_tag, to_tc};
use crate::rules::apply::script::run_response;
use crate::rules::apply::{Effects, OPT_PAYLOAD, ResponseDecision, Step, log, set_error, takes_options};

pub(super) fn respond(
    action: &ResponseAction,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Step<ResponseDecision> {
    match action {
        ResponseAction::Allow => Step::Done(ResponseDecision::Deliver),
        ResponseAction::Drop => Step::Done(ResponseDecision::Drop(DropReason::ResponseRule)),
        ResponseAction::Tc if context.query_state.protocol.is_stream() => Step::Next,
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
            log(target, context, env, effects);
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
            let part = |ttl: u32| u64::from(ttl) * u64::from(*percent) / 100;
            edit_ttl(context, |_, ttl| u32::try_from(part(ttl)).unwrap_or(ttl));
            Step::Next
        }
        ResponseAction::SetMaxReturnedTtl(ttl) => {
            context.query_state.ttl_max = Some(*ttl);
            Step::Next
        }
        ResponseAction::ClearRecordTypes(types) => {
            // A signed response is passed on unchanged. Of any other the client must not get what was to
            // be removed.
            if !is_fixed(context) && !rebuild::clear_types(context.packet, |rtype| types.contains(&rtype)) {
                return Step::Done(ResponseDecision::Drop(DropReason::AnswerNotEdited));
            }
            context.reread();
            Step::Changed
        }
        ResponseAction::SetSkipCache => {
            context.query_state.skip_cache = true;
            Step::Next
        }
        ResponseAction::SetTag(tag, value) => set_tag(context, tag, value),
        ResponseAction::UnsetTag(tag) => {
            context.query_state.tags.unset(tag.as_bytes());
            Step::Next
        }
        ResponseAction::SetEdnsOption(code, data) => {
            if takes_options(context, effects) {
                // If it does not fit, the answer goes without it.
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
            Step::Done(ResponseDecision::Restart(pool.slot))
        }
        ResponseAction::Restart(..) => Step::Next,
        ResponseAction::Lua(function) => run_response(*function, context, env, effects),
    }
}
