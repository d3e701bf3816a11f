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

use super::RESTARTS_MAX;
use super::case::{self, EcsWish};
use super::journal::{Line, Name};
use super::later::Later;
use super::rules::action::{Action, ExtendedError, LogTarget, NegativeSoa, ResponseAction};
use super::rules::scene::{Env, Scene};
use super::rules::{Chain, Walk};
use super::script::{FunctionId, Said, Spoofed};
use super::verdict::DropReason;
use crate::addr::{BackendSlot, PoolSlot, mapped};
use crate::live::ShardPage;
use crate::time::TickDelta;
use crate::wire::answer::{self, AnswerEdns, Flags, Soa};
use crate::wire::ecs::{self, Ecs};
use crate::wire::header::{self, Header, rcode};
use crate::wire::records::{self, rtype};
use crate::wire::{edns, rebuild};

/// UDP payload size in an OPT record that an action adds to a query, octets
/// (the DNS flag day's, 2020).
pub(super) const OPT_PAYLOAD: u16 = 1232;

/// What becomes of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// On to the pool in its case.
    Forward,
    /// The packet has been made into the answer.
    Answered,
    /// Nothing more.
    Drop(DropReason),
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// To the client.
    Deliver,
    /// Nothing more.
    Drop(DropReason),
    /// The query is asked again, in this pool.
    Restart(PoolSlot),
}

/// What actions can do besides editing the packet and its case.
#[derive(Debug)]
pub(super) struct Hands<'a> {
    /// The shard's counters.
    pub(super) page: &'a ShardPage,
    /// Packets that leave later.
    pub(super) later: &'a mut Later,
    /// EDNS of answers of our own.
    pub(super) edns: AnswerEdns,
    /// Octets that the client can take; set where an answer of our own begins.
    pub(super) limit: usize,
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
pub(super) fn query(scene: &mut Scene<'_, '_>, env: &mut Env<'_>, hands: &mut Hands<'_>) -> Outcome {
    if env.script.is_some() {
        // A function may make the query into an answer without further notice.
        hands.limit = limit(scene);
    }
    let mut outcome = walk_query(&env.snapshot.chains.query, scene, env, hands);
    if outcome == Outcome::Forward
        && Header::parse(scene.packet.bytes()).is_some_and(|header| header.is_response())
    {
        // A function has made an answer of it.
        outcome = Outcome::Answered;
    }
    if outcome != Outcome::Answered {
        return outcome;
    }
    self_answered(scene, env, hands)
}

/// Octets that the client of a query can take.
pub(super) fn limit(scene: &Scene<'_, '_>) -> usize {
    let stream = scene.case.protocol.is_stream();
    if stream { usize::from(u16::MAX) } else { answer::udp_limit(scene.packet.bytes()) }
}

fn walk_query(
    chain: &Chain<Action>,
    scene: &mut Scene<'_, '_>,
    env: &mut Env<'_>,
    hands: &mut Hands<'_>,
) -> Outcome {
    let mut walk = Walk::default();
    while let Some(rule) = chain.next(&mut walk, scene, env) {
        hands.page.rule_hits(rule.slot).add(1);
        match perform(&rule.action, scene, env, hands) {
            Step::Next => {}
            Step::Changed => walk.renew(),
            Step::Done(outcome) => return outcome,
        }
    }
    Outcome::Forward
}

fn perform(
    action: &Action,
    scene: &mut Scene<'_, '_>,
    env: &mut Env<'_>,
    hands: &mut Hands<'_>,
) -> Step<Outcome> {
    match action {
        Action::Allow => Step::Done(Outcome::Forward),
        Action::Drop => Step::Done(Outcome::Drop(DropReason::Rule)),
        Action::Pool(pool, goes_on) => to_pool(pool.slot, *goes_on, scene),
        Action::Qps(limit) if !env.limits.exceeded(limit, env.now) => Step::Next,
        Action::Qps(_) => Step::Done(Outcome::Drop(DropReason::Rule)),
        Action::QpsPool(limit, pool, goes_on) if !env.limits.exceeded(limit, env.now) => {
            to_pool(pool.slot, *goes_on, scene)
        }
        Action::QpsPool(..) | Action::None => Step::Next,
        Action::RCode(code, flags) => own(scene, hands, |s, e| answer::rcode(s.packet, *code, *flags, e)),
        Action::NegativeAndSoa(negative) => own(scene, hands, |s, e| {
            let NegativeSoa { nxdomain, zone, mname, rname, numbers, in_authority, flags } = &**negative;
            let soa = Soa { zone, mname, rname, numbers: *numbers };
            answer::negative_soa(s.packet, *nxdomain, &soa, *in_authority, *flags, e)
        }),
        Action::Tc(_) if scene.case.protocol.is_stream() => Step::Next,
        Action::Tc(flags) => own(scene, hands, |s, e| answer::truncated(s.packet, *flags, e)),
        Action::Spoof(addresses, flags) => {
            let (v4, v6) = (!addresses.v4.is_empty(), !addresses.v6.is_empty());
            if !answer::addresses_match(scene.facts.qtype, v4, v6) {
                return Step::Next;
            }
            own(scene, hands, |s, e| answer::addresses(s.packet, &addresses.v4, &addresses.v6, *flags, e))
        }
        Action::SpoofCname(target, flags) => {
            own(scene, hands, |s, e| answer::cname(s.packet, target, *flags, e))
        }
        // Of which type would they be?
        Action::SpoofRaw(raw, _) if scene.facts.qtype == rtype::ANY && raw.type_for_any.is_none() => {
            Step::Next
        }
        Action::SpoofRaw(raw, flags) => own(scene, hands, |s, e| {
            answer::raw(s.packet, &raw.rdata, raw.type_for_any.unwrap_or(rtype::ANY), *flags, e)
        }),
        Action::SpoofSvc(svc, flags) => own(scene, hands, |s, e| answer::svc(s.packet, svc, *flags, e)),
        Action::SpoofPacket(template) => own(scene, hands, |s, _| answer::message(s.packet, template)),
        Action::Delay(span) => {
            scene.case.delay = *span;
            Step::Next
        }
        Action::Tee(tee, backend) => {
            copy_to(*backend, tee.add_ecs, scene, hands);
            Step::Next
        }
        Action::Log(target) => {
            log(target, scene, hands);
            Step::Next
        }
        Action::Continue(inner) => match perform(inner, scene, env, hands) {
            Step::Next => Step::Next,
            Step::Changed | Step::Done(_) => Step::Changed,
        },
        Action::SetTag(tag, value) => {
            scene.case.tags.set(tag.as_bytes(), value.as_bytes());
            Step::Next
        }
        Action::UnsetTag(tag) => {
            scene.case.tags.unset(tag.as_bytes());
            Step::Next
        }
        Action::SetProxyValues(values) => {
            scene.case.proxy.clear();
            for (kind, value) in values.iter() {
                scene.case.proxy.add(*kind, value);
            }
            Step::Next
        }
        Action::AddProxyValue(kind, value) => {
            scene.case.proxy.add(*kind, value);
            Step::Next
        }
        Action::SetNoRecurse => set_bits(scene, 2, header::RD, false),
        Action::SetDisableValidation => set_bits(scene, 3, header::CD, true),
        Action::SetEcs(wanted) => wish(scene, |ecs| ecs.wanted = *wanted),
        Action::SetEcsOverride(replace) => wish(scene, |ecs| ecs.replace = *replace),
        Action::SetEcsPrefixLength(v4, v6) => wish(scene, |ecs| (ecs.v4, ecs.v6) = (*v4, *v6)),
        Action::SetEcsTo(v4, v6) => {
            let ipv4 = scene.client.peer.is_ipv4();
            wish(scene, |ecs| match (v4, v6) {
                (Some((ip, bits)), _) if ipv4 => (ecs.instead, ecs.v4) = (Some(mapped((*ip).into())), *bits),
                (_, Some((ip, bits))) if !ipv4 => (ecs.instead, ecs.v6) = (Some(mapped((*ip).into())), *bits),
                _ => {}
            })
        }
        Action::SetEdnsOption(code, data) => {
            if edns::set_option(scene.packet, *code, data, OPT_PAYLOAD) == edns::Outcome::OptAdded {
                scene.case.added = Ecs::OptAdded;
            }
            scene.reread();
            Step::Changed
        }
        Action::SetExtendedDnsError(error) => {
            set_error(error, scene);
            Step::Next
        }
        Action::SetMaxReturnedTtl(ttl) => {
            scene.case.ttl_max = Some(*ttl);
            Step::Next
        }
        Action::SetSkipCache => {
            scene.case.skip_cache = true;
            Step::Next
        }
        Action::SetTempFailureCacheTtl(ttl) => {
            scene.case.temporary_failure_ttl = Some(*ttl);
            Step::Next
        }
        Action::Lua(function) => run(*function, scene, env, hands),
    }
}

fn to_pool(pool: PoolSlot, goes_on: bool, scene: &mut Scene<'_, '_>) -> Step<Outcome> {
    scene.case.pool = pool;
    if goes_on { Step::Next } else { Step::Done(Outcome::Forward) }
}

fn wish(scene: &mut Scene<'_, '_>, change: impl FnOnce(&mut EcsWish)) -> Step<Outcome> {
    change(&mut scene.case.ecs);
    Step::Next
}

fn set_bits(scene: &mut Scene<'_, '_>, octet: usize, bit: u8, on: bool) -> Step<Outcome> {
    if let Some(flags) = scene.packet.bytes_mut().get_mut(octet) {
        *flags = if on { *flags | bit } else { *flags & !bit };
    }
    Step::Changed
}

/// Makes the packet into an answer; the client's own RD and CD are in it.
fn own(
    scene: &mut Scene<'_, '_>,
    hands: &mut Hands<'_>,
    make: impl FnOnce(&mut Scene<'_, '_>, AnswerEdns) -> bool,
) -> Step<Outcome> {
    restore(scene);
    hands.limit = limit(scene);
    let edns = hands.edns;
    Step::Done(if make(scene, edns) { Outcome::Answered } else { Outcome::Drop(DropReason::AnswerTooLong) })
}

/// The end of an answer of our own: an Extended DNS Error, the self-answered rules, and no more
/// octets than the client can take.
pub(super) fn self_answered(scene: &mut Scene<'_, '_>, env: &mut Env<'_>, hands: &mut Hands<'_>) -> Outcome {
    scene.reread();
    add_error(scene);
    let chain = &env.snapshot.chains.self_answered;
    if !chain.is_empty() {
        match walk_response(chain, scene, env, hands) {
            Reply::Deliver => {}
            // There is nobody else to ask: the answer was ours.
            Reply::Restart(_) => {}
            Reply::Drop(reason) => return Outcome::Drop(reason),
        }
    }
    if let Some(ttl) = scene.case.ttl_max {
        cap_ttl(scene, ttl);
    }
    if answer::fit(scene.packet, hands.limit) {
        Outcome::Answered
    } else {
        Outcome::Drop(DropReason::AnswerTooLong)
    }
}

/// Walks the rules of answers.
pub(super) fn walk_response(
    chain: &Chain<ResponseAction>,
    scene: &mut Scene<'_, '_>,
    env: &mut Env<'_>,
    hands: &mut Hands<'_>,
) -> Reply {
    let mut walk = Walk::default();
    while let Some(rule) = chain.next(&mut walk, scene, env) {
        hands.page.rule_hits(rule.slot).add(1);
        match respond(&rule.action, scene, env, hands) {
            Step::Next => {}
            Step::Changed => walk.renew(),
            Step::Done(reply) => return reply,
        }
    }
    Reply::Deliver
}

fn respond(
    action: &ResponseAction,
    scene: &mut Scene<'_, '_>,
    env: &mut Env<'_>,
    hands: &mut Hands<'_>,
) -> Step<Reply> {
    match action {
        ResponseAction::Allow => Step::Done(Reply::Deliver),
        ResponseAction::Drop => Step::Done(Reply::Drop(DropReason::ResponseRule)),
        ResponseAction::Tc => {
            to_tc(scene);
            scene.reread();
            Step::Changed
        }
        ResponseAction::Delay(span) => {
            scene.case.delay = *span;
            Step::Next
        }
        ResponseAction::None => Step::Next,
        ResponseAction::Log(target) => {
            log(target, scene, hands);
            Step::Next
        }
        ResponseAction::LimitTtl(min, max, types) => {
            edit_ttl(scene, |rtype, ttl| {
                if types.is_empty() || types.contains(&rtype) { ttl.max(*min).min(*max) } else { ttl }
            });
            Step::Next
        }
        ResponseAction::SetMinTtl(min) => {
            edit_ttl(scene, |_, ttl| ttl.max(*min));
            Step::Next
        }
        ResponseAction::SetMaxTtl(max) => {
            cap_ttl(scene, *max);
            Step::Next
        }
        ResponseAction::SetReducedTtl(percent) => {
            edit_ttl(scene, |_, ttl| (u64::from(ttl) * u64::from(*percent) / 100) as u32);
            Step::Next
        }
        ResponseAction::SetMaxReturnedTtl(ttl) => {
            scene.case.ttl_max = Some(*ttl);
            Step::Next
        }
        ResponseAction::ClearRecordTypes(types) => {
            // What cannot be read is passed on as it came.
            let _ = rebuild::clear_types(scene.packet, |rtype| types.contains(&rtype));
            scene.reread();
            Step::Changed
        }
        ResponseAction::SetSkipCache => {
            scene.case.skip_cache = true;
            Step::Next
        }
        ResponseAction::SetTag(tag, value) => {
            scene.case.tags.set(tag.as_bytes(), value.as_bytes());
            Step::Next
        }
        ResponseAction::UnsetTag(tag) => {
            scene.case.tags.unset(tag.as_bytes());
            Step::Next
        }
        ResponseAction::SetEdnsOption(code, data) => {
            // An answer without EDNS is for a client without EDNS.
            if scene.opt().is_some() {
                // Without room for it the answer goes as it is.
                let _ = edns::set_option(scene.packet, *code, data, OPT_PAYLOAD);
                scene.reread();
            }
            Step::Changed
        }
        ResponseAction::SetExtendedDnsError(error) => {
            set_error(error, scene);
            Step::Next
        }
        ResponseAction::Restart(pool, times) if scene.case.restarts < *times => {
            Step::Done(Reply::Restart(pool.slot))
        }
        ResponseAction::Restart(..) => Step::Next,
        ResponseAction::Lua(function) => run_response(*function, scene, env),
    }
}

fn edit_ttl(scene: &mut Scene<'_, '_>, change: impl Fn(u16, u32) -> u32) {
    records::edit_ttls(scene.packet.bytes_mut(), |_, _, rtype, ttl| change(rtype, ttl));
}

/// Cuts an answer down to TC=1; one that cannot be read becomes no worse by staying as it is.
fn to_tc(scene: &mut Scene<'_, '_>) {
    let _ = answer::to_tc(scene.packet);
}

/// Caps the TTL of every record.
pub(super) fn cap_ttl(scene: &mut Scene<'_, '_>, max: u32) {
    edit_ttl(scene, |_, ttl| ttl.min(max));
}

fn set_error(error: &ExtendedError, scene: &mut Scene<'_, '_>) {
    scene.case.set_error(error.code, error.text.as_bytes());
}

/// Adds the case's Extended DNS Error to an answer whose client knows EDNS.
pub(super) fn add_error(scene: &mut Scene<'_, '_>) {
    let Some(code) = scene.case.error else { return };
    if scene.opt().is_some() {
        // Without room for it the answer goes as it is.
        let _ = answer::ede(scene.packet, code, &scene.case.error_text);
        scene.reread();
    }
}

fn log(target: &Arc<LogTarget>, scene: &Scene<'_, '_>, hands: &Hands<'_>) {
    let message = scene.packet.bytes();
    let id = Header::parse(message).map_or(0, |h| h.id());
    let line = Line {
        id,
        qtype: scene.facts.qtype,
        qclass: scene.facts.qclass,
        flags: message.get(2..4).map_or([0; 2], |f| [f[0], f[1]]),
        size: message.len() as u16,
        latency: scene.answered.map(|a| a.latency),
        target: target.clone(),
        client: scene.client.peer,
        qname: Name::new(scene.qname()),
    };
    if !hands.page.journal.file(line) {
        hands.page.dropped(DropReason::LogFull).add(1);
    }
}

fn copy_to(backend: BackendSlot, add_ecs: bool, scene: &Scene<'_, '_>, hands: &mut Hands<'_>) {
    let wish = scene.case.ecs;
    let address = wish.address(&scene.client);
    let filed = hands.later.copy(backend, scene.packet.bytes(), |packet| {
        if add_ecs {
            // Without room for it the copy goes as it is.
            let _ = ecs::set(packet, address, wish.v4, wish.v6, true, OPT_PAYLOAD);
        }
    });
    if !filed {
        hands.page.dropped(DropReason::TeeFull).add(1);
    }
}

/// Asks the script, and does what it says. After an error the rule has not matched.
fn run(
    function: FunctionId,
    scene: &mut Scene<'_, '_>,
    env: &mut Env<'_>,
    hands: &mut Hands<'_>,
) -> Step<Outcome> {
    let Some(script) = env.script.take() else { return Step::Next };
    let said = script.act(function, scene, env);
    let step = match said {
        None => Step::Next,
        Some(Said::None) => Step::Changed,
        Some(Said::Allow) => Step::Done(Outcome::Forward),
        Some(Said::Drop) => Step::Done(Outcome::Drop(DropReason::Rule)),
        Some(Said::RCode(code)) => {
            let flags = Flags {
                ra: Some(Header::parse(scene.packet.bytes()).is_some_and(|h| h.recursion_available())),
                ..Flags::default()
            };
            own(scene, hands, |s, e| answer::rcode(s.packet, u16::from(code), flags, e))
        }
        Some(Said::Spoof) => match Spoofed::read(script.argument(), scene.facts.qtype) {
            Some(spoofed) => own(scene, hands, |s, e| spoofed.answer(s, e)),
            None => Step::Changed,
        },
        Some(Said::SpoofRaw) => own(scene, hands, |s, e| {
            answer::raw(s.packet, &[script.argument()], rtype::ANY, Flags::default(), e)
        }),
        // Its QR bit says what the function has made of it.
        Some(Said::HeaderModify) => Step::Done(Outcome::Forward),
        Some(Said::Pool) => {
            // An unknown pool has no server; the last slot is never given to one.
            let named = std::str::from_utf8(script.argument()).ok().and_then(|n| env.snapshot.pool_named(n));
            to_pool(named.unwrap_or(PoolSlot::NONE), false, scene)
        }
        Some(Said::Delay(ms)) => {
            scene.case.delay = TickDelta::from_ms(u64::from(ms));
            Step::Changed
        }
        Some(Said::Truncate) if scene.case.protocol.is_stream() => Step::Changed,
        Some(Said::Truncate) => own(scene, hands, |s, e| answer::truncated(s.packet, Flags::default(), e)),
        Some(Said::NoRecurse) => {
            set_bits(scene, 2, header::RD, false);
            Step::Done(Outcome::Forward)
        }
        // Only answers can be asked for again.
        Some(Said::Restart) => Step::Changed,
    };
    env.script = Some(script);
    step
}

fn run_response(function: FunctionId, scene: &mut Scene<'_, '_>, env: &mut Env<'_>) -> Step<Reply> {
    let Some(script) = env.script.take() else { return Step::Next };
    let said = script.act(function, scene, env);
    env.script = Some(script);
    match said {
        None => Step::Next,
        Some(Said::Allow | Said::HeaderModify) => Step::Done(Reply::Deliver),
        Some(Said::Drop) => Step::Done(Reply::Drop(DropReason::ResponseRule)),
        Some(Said::RCode(code)) => {
            if let Some(octet) = scene.packet.bytes_mut().get_mut(3) {
                *octet = *octet & 0xf0 | code & 0x0f;
            }
            Step::Done(Reply::Deliver)
        }
        Some(Said::Delay(ms)) => {
            scene.case.delay = TickDelta::from_ms(u64::from(ms));
            Step::Changed
        }
        Some(Said::Truncate) => {
            to_tc(scene);
            Step::Done(Reply::Deliver)
        }
        Some(Said::Restart) if scene.case.restarts < RESTARTS_MAX => {
            Step::Done(Reply::Restart(scene.case.pool))
        }
        // A function that always asks again has had its tries.
        Some(Said::Restart) => Step::Changed,
        Some(Said::None | Said::Spoof | Said::SpoofRaw | Said::Pool | Said::NoRecurse) => Step::Changed,
    }
}

/// Gives a message what its client knows, before the rules of answers or the making of one: the
/// client's own flags and question, and nothing that was only added for the server.
pub(super) fn restore(scene: &mut Scene<'_, '_>) {
    let flags = scene.case.flags;
    case::set_flags(scene.packet.bytes_mut(), flags);
    if scene.case.added == Ecs::Left && scene.case.original.is_empty() {
        return;
    }
    // An answer that cannot be read goes as it came.
    let _ = ecs::undo(scene.packet, scene.case.added);
    // A type and a class follow the name.
    if let Some(qname) = scene.case.original.len().checked_sub(4).map(|end| &scene.case.original[..end]) {
        // An answer that cannot be read goes as it came: its client asks again.
        let _ = rebuild::rename(scene.packet, qname);
    }
    scene.reread();
}

/// The end of a backend's answer: what the case and the configuration want of every answer.
pub(super) fn finish(scene: &mut Scene<'_, '_>, env: &Env<'_>) {
    if scene.case.added == Ecs::OptAdded && !scene.case.protocol.is_stream() {
        // Our OPT record has told the server of room that a client without EDNS does not have. An
        // answer that cannot be cut goes as it is.
        let _ = answer::fit(scene.packet, 512);
    }
    add_error(scene);
    if let Some(ttl) = scene.case.ttl_max {
        cap_ttl(scene, ttl);
    }
    if env.snapshot.globals.truncate_tc
        && Header::parse(scene.packet.bytes()).is_some_and(|h| h.is_truncated())
    {
        // What cannot be read is passed on as it came.
        let _ = answer::truncate_tc(scene.packet);
    }
}

/// The code of an answer that says that no server could be asked.
pub(super) const NO_SERVER: u16 = rcode::SERVFAIL as u16;
