//! What several actions do to a message and its query state, those of Lua functions included.

use crate::base::addr::{BackendSlot, PoolSlot};
use crate::rules::apply::{Decision, Effects, OPT_PAYLOAD, Step, restore};
use crate::rules::context::EvaluationContext;
use crate::rules::copies::Filed;
use crate::rules::query_state::EcsSettings;
use crate::stats::drop_reason::DropReason;
use crate::wire::answer::AnswerEdns;
use crate::wire::{answer, copied, ecs, records, signature};

pub(super) fn to_pool(
    pool: PoolSlot,
    continues: bool,
    context: &mut EvaluationContext<'_, '_>,
) -> Step<Decision> {
    context.query_state.pool = pool;
    if continues { Step::Next } else { Step::Done(Decision::Forward) }
}

/// Sets a tag. A message whose tags are full fails: a later rule may block by the one that would be
/// missing.
pub(super) fn set_tag<T>(context: &mut EvaluationContext<'_, '_>, tag: &str, value: &str) -> Step<T> {
    let done = context.query_state.tags.set(tag.as_bytes(), value.as_bytes());
    context.query_state.failed |= !done;
    Step::Next
}

/// Adds a value of the PROXY protocol; as [`set_tag`] where it does not fit.
pub(super) fn add_proxy_value(context: &mut EvaluationContext<'_, '_>, kind: u8, value: &[u8]) {
    let done = context.query_state.proxy.add(kind, value);
    context.query_state.failed |= !done;
}

pub(super) fn set_ecs(
    context: &mut EvaluationContext<'_, '_>,
    change: impl FnOnce(&mut EcsSettings),
) -> Step<Decision> {
    change(&mut context.query_state.ecs);
    Step::Next
}

/// Returns whether the message is signed, so that nothing of it may be edited. Every edit of a
/// message that is passed on asks this first.
pub(super) fn is_fixed(context: &EvaluationContext<'_, '_>) -> bool {
    context.query_state.in_signed_transfer || signature::is_signed(context.packet.bytes())
}

pub(super) fn set_bits(
    context: &mut EvaluationContext<'_, '_>,
    byte: usize,
    bit: u8,
    on: bool,
) -> Step<Decision> {
    if is_fixed(context) {
        return Step::Next;
    }
    if let Some(flags) = context.packet.bytes_mut().get_mut(byte) {
        *flags = if on { *flags | bit } else { *flags & !bit };
    }
    Step::Changed
}

/// Turns the packet into an answer; the client's RD and CD are in it.
pub(super) fn own(
    context: &mut EvaluationContext<'_, '_>,
    effects: &mut Effects<'_>,
    make: impl FnOnce(&mut EvaluationContext<'_, '_>, AnswerEdns) -> bool,
) -> Step<Decision> {
    if !restore(context) {
        return Step::Done(Decision::Drop(DropReason::AnswerNotEdited));
    }
    effects.note_client(context);
    let edns = effects.edns;
    Step::Done(if make(context, edns) {
        Decision::Answered
    } else {
        Decision::Drop(DropReason::AnswerTooLong)
    })
}

pub(super) fn copy_to(
    backend: BackendSlot,
    add_ecs: bool,
    context: &EvaluationContext<'_, '_>,
    effects: &mut Effects<'_>,
) {
    let settings = context.query_state.ecs;
    let address = settings.address(&context.client);
    let filed = effects.copies.file(backend, context.packet.bytes(), |packet, mark| {
        if signature::is_signed(packet.bytes()) {
            return false;
        }
        if add_ecs {
            // If it does not fit, the copy goes without it.
            let _ = ecs::set(packet, address, settings.v4, settings.v6, settings.replace, OPT_PAYLOAD);
        }
        copied::mark(packet, mark, OPT_PAYLOAD)
    });
    let reason = match filed {
        Filed::Yes => return,
        Filed::Full => DropReason::TeeFull,
        Filed::Own => DropReason::TeeLoop,
    };
    effects.stats.dropped(reason).add(1);
}

pub(super) fn edit_ttl(context: &mut EvaluationContext<'_, '_>, change: impl Fn(u16, u32) -> u32) {
    if is_fixed(context) {
        return;
    }
    records::edit_ttls(context.packet.bytes_mut(), |_, _, rtype, ttl| change(rtype, ttl));
}

/// Truncates an answer to TC=1, which has no signature; one that is malformed stays as it is.
pub(super) fn to_tc(context: &mut EvaluationContext<'_, '_>) {
    let _ = answer::to_tc(context.packet);
}

/// Caps the TTL of every record.
pub(super) fn cap_ttl(context: &mut EvaluationContext<'_, '_>, max: u32) {
    edit_ttl(context, |_, ttl| ttl.min(max));
}
