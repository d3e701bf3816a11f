//! The actions of query rules.

use crate::base::addr::mapped;
use crate::rules::action::{Action, NegativeSoa};
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::query_state::Shadow;
use crate::stats::drop_reason::DropReason;
use crate::wire::answer::Soa;
use crate::wire::ecs::Ecs;
use crate::wire::records::rtype;
use crate::wire::{answer, edns, header};

use crate::rules::apply::edits::{
    add_proxy_value, copy_to, is_fixed, own, set_bits, set_ecs, set_tag, to_pool,
};
use crate::rules::apply::script::run;
use crate::rules::apply::{Decision, Effects, OPT_PAYLOAD, Step, log, set_error};

pub(super) fn perform(
    action: &Action,
    context: &mut EvaluationContext<'_, '_>,
    env: &mut Environment<'_>,
    effects: &mut Effects<'_>,
) -> Step<Decision> {
    match action {
        Action::Allow => Step::Done(Decision::Forward),
        Action::Drop => Step::Done(Decision::Drop(DropReason::Rule)),
        Action::Pool(pool, continues) => to_pool(pool.slot, *continues, context),
        Action::Qps(limit) if !env.limits.exceeded(limit, env.now) => Step::Next,
        Action::Qps(_) => Step::Done(Decision::Drop(DropReason::Rule)),
        Action::QpsPool(limit, pool, continues) if !env.limits.exceeded(limit, env.now) => {
            to_pool(pool.slot, *continues, context)
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
        // ANY does not say which type the records would have.
        Action::SpoofRaw(raw, _) if context.facts.qtype == rtype::ANY && raw.type_for_any.is_none() => {
            Step::Next
        }
        Action::SpoofRaw(raw, flags) => own(context, effects, |s, e| {
            answer::raw(s.packet, &raw.rdata, raw.type_for_any.unwrap_or(rtype::ANY), *flags, e)
        }),
        // The data are of no other type.
        Action::SpoofSvc(..) if !matches!(context.facts.qtype, rtype::SVCB | rtype::HTTPS) => Step::Next,
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
        Action::Shadow(pool) => {
            context.query_state.shadow = Shadow::Wanted(pool.slot);
            Step::Next
        }
        Action::Log(target) => {
            log(target, context, env, effects);
            Step::Next
        }
        Action::Continue(inner) => match perform(inner, context, env, effects) {
            Step::Next => Step::Next,
            Step::Changed | Step::Done(_) => Step::Changed,
        },
        Action::SetTag(tag, value) => set_tag(context, tag, value),
        Action::UnsetTag(tag) => {
            context.query_state.tags.unset(tag.as_bytes());
            Step::Next
        }
        Action::SetProxyValues(values) => {
            context.query_state.proxy.clear();
            for (kind, value) in values.iter() {
                add_proxy_value(context, *kind, value);
            }
            Step::Next
        }
        Action::AddProxyValue(kind, value) => {
            add_proxy_value(context, *kind, value);
            Step::Next
        }
        Action::SetNoRecurse => set_bits(context, 2, header::RD, false),
        Action::SetDisableValidation => set_bits(context, 3, header::CD, true),
        Action::SetEcs(wanted) => set_ecs(context, |ecs| ecs.wanted = *wanted),
        Action::SetEcsOverride(replace) => set_ecs(context, |ecs| ecs.replace = *replace),
        Action::SetEcsPrefixLength(v4, v6) => set_ecs(context, |ecs| (ecs.v4, ecs.v6) = (*v4, *v6)),
        Action::SetEcsTo(v4, v6) => {
            let ipv4 = context.client.peer.is_ipv4();
            // One alone is for clients of either family.
            set_ecs(context, |ecs| match (v4, v6) {
                (Some((ip, bits)), other) if ipv4 || other.is_none() => {
                    (ecs.instead, ecs.v4) = (Some(mapped((*ip).into())), *bits);
                }
                (_, Some((ip, bits))) => (ecs.instead, ecs.v6) = (Some(mapped((*ip).into())), *bits),
                _ => {}
            })
        }
        Action::SetEdnsOption(..) if is_fixed(context) => Step::Next,
        Action::SetEdnsOption(code, data) => {
            let is_kept = *code == edns::code::CLIENT_SUBNET
                && context.query_state.keep_client_subnet(context.packet.bytes());
            let done = edns::set_option(context.packet, *code, data, OPT_PAYLOAD);
            if is_kept && done != edns::Outcome::Replaced {
                context.query_state.client_subnet.clear();
            }
            match done {
                edns::Outcome::OptAdded => context.query_state.added = Ecs::OptAdded,
                edns::Outcome::Added
                    if *code == edns::code::CLIENT_SUBNET && context.query_state.added == Ecs::Left =>
                {
                    context.query_state.added = Ecs::OptionAdded;
                }
                edns::Outcome::Added | edns::Outcome::Replaced | edns::Outcome::Failed => {}
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
