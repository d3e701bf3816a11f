//! Rules in their chains: functions that add, remove, move, replace and show them, and groups.

use std::fmt::Write;
use std::net::SocketAddr;

use mlua::{Lua, UserData, UserDataMethods, Value};

use crate::base::addr::{Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot};
use crate::base::packet::Packet;
use crate::base::printable::Printable;
use crate::base::rng::ShardRng;
use crate::base::time::TickDelta;
use crate::config::error::{ConfigError, Fault};
use crate::config::functions::{BENCH_RULE, CHAINS, ChainFunctions, RULE_METHODS};
use crate::config::ruleset::{ChainKey, DraftRule, RuleAction, parse_uuid, uuid_text};
use crate::config::value;
use crate::engine::clock;
use crate::lua::front_end::actions::{ActionObject, action};
use crate::lua::front_end::argument::{named, parsed, shown, switch, text, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, items};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::Methods;
use crate::lua::front_end::missing::is_inert;
use crate::lua::front_end::selectors::{Rule, rule, stand_in};
use crate::rules::context::{Environment, EvaluationContext, Facts, Pools, RuleSettings};
use crate::rules::limits::Limits;
use crate::rules::matcher::Matcher;
use crate::rules::pattern::PatternCache;
use crate::rules::query_state::QueryState;
use crate::rules::{Chains, text as rule_text};
use crate::wire::name;

/// What identifies a rule.
const SELECTOR: &str = "the number, name or UUID of a rule";
/// Longest name of a rule or a group, bytes.
const NAME_BYTES: usize = 255;
/// Widest column of selectors in a list of rules; longer ones exceed it, or a rule with a list
/// would widen every line.
const MATCHER_CHARS: usize = 120;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define_printing(lua, &BENCH_RULE, |call, a| {
        const SUFFIX: &str = "powerdns.com";
        let matcher = rule(call, a.what(0), a.at(0))?;
        if depends_on_shard(&matcher) {
            return Err(
                a.wrong(0, "a rule that depends on the query alone, without limits, pools and functions")
            );
        }
        let iterations = a.whole_from(1, 1, u32::MAX)?;
        let suffix = match a.given(2) {
            Some(suffix) => parsed(a.what(2), suffix, value::QNAME, value::wire_name)?,
            None => value::wire_name(SUFFIX).map_err(|expected| Fault::value("suffix", SUFFIX, expected))?,
        };
        // The length of the longest label that is put in front, and its length byte.
        if suffix.len() + 11 > name::LEN_MAX {
            return Err(a.wrong(2, "a domain name with room for a label of ten bytes"));
        }
        Ok(measured(&matcher, iterations, &suffix))
    })?;
    for (key, functions) in ChainKey::ALL.into_iter().zip(&CHAINS) {
        define_chain(lua, context, key, functions)?;
    }
    for (name, key) in [("getAction", ChainKey::Query), ("getCacheMissAction", ChainKey::CacheMiss)] {
        let own = context.clone();
        context.define(lua, name, move |call, a| {
            a.whole(0, u32::MAX)?;
            found(call, &own, key, a.at(0))
        })?;
    }
    let own = context.clone();
    context.define(lua, "newRuleAction", move |call, a| {
        let made = new_rule(call, a, None).map(|(rule, _)| RuleObject { context: own.clone(), rule });
        stand_in(call, made)
    })?;
    let groups = [
        ("setRuleGroup", "clearRuleGroup", ChainKey::Query),
        ("setResponseRuleGroup", "clearResponseRuleGroup", ChainKey::Response),
    ];
    for (set, clear, key) in groups {
        context.define(lua, set, move |call, a| {
            let group = group(a)?;
            let mut rules = read_rules(call, key, a.at(1))?;
            rules.iter_mut().for_each(|r| r.group.clone_from(&group));
            call.draft.rules.replace_group(key, &group, rules);
            Ok(Value::Nil)
        })?;
        context.define(lua, clear, move |call, a| {
            let group = group(a)?;
            call.draft.rules.replace_group(key, &group, Vec::new());
            Ok(Value::Nil)
        })?;
    }
    Ok(())
}

fn group(a: Arguments<'_>) -> Result<String, Fault> {
    let group = label("the group", a.at(0))?;
    if group.is_empty() { Err(wrong("the group", a.at(0), "a name, not empty")) } else { Ok(group) }
}

fn define_chain(
    lua: &Lua,
    context: &Context,
    key: ChainKey,
    functions: &'static ChainFunctions,
) -> mlua::Result<()> {
    let [add, rm, mv, to_top, clear, set, show, top, top_list, one] = &functions.entries;
    let responses = functions.responses;
    context.define_entry(lua, add, move |call, a| {
        let (rule, replaced) = new_rule(call, a, Some(responses))?;
        let Some(replaced) = replaced else {
            call.draft.rules.extend(key, [rule]);
            return Ok(Value::Nil);
        };
        let at = find(call, key, &replaced).ok_or_else(|| {
            Fault::value("replace", shown(&replaced), "the number, name or UUID of a rule of this chain")
        })?;
        call.draft.rules.replace(key, at, rule);
        Ok(Value::Nil)
    })?;
    context.define_entry(lua, rm, move |call, a| {
        match find(call, key, a.at(0)) {
            Some(at) => drop(call.draft.rules.chain_mut(key).remove(at)),
            None => absent(call, no_such_rule(a, 0)?),
        }
        Ok(Value::Nil)
    })?;
    context.define_entry(lua, mv, move |call, a| {
        let chain = call.draft.rules.chain_mut(key);
        let count = chain.len();
        let (from, to) = (a.whole(0, u32::MAX)? as usize, a.whole(1, u32::MAX)? as usize);
        for (n, fits, below) in [(0, from < count, "below"), (1, to <= count, "up to")] {
            if !fits {
                let fault = a.wrong(n, format!("a number {below} that of the rules, which are {count}"));
                absent(call, fault);
                return Ok(Value::Nil);
            }
        }
        let rule = chain.remove(from);
        // Before the rule that had that number.
        let to = if from < to { to - 1 } else { to };
        rule.into_iter().for_each(|rule| chain.insert(to, rule));
        Ok(Value::Nil)
    })?;
    context.define_entry(lua, to_top, move |call, a| {
        let at = match a.given(0) {
            Some(v) => match find(call, key, v) {
                Some(at) => at,
                None => {
                    absent(call, no_such_rule(a, 0)?);
                    return Ok(Value::Nil);
                }
            },
            None => call.draft.rules.chain(key).len().saturating_sub(1),
        };
        let chain = call.draft.rules.chain_mut(key);
        let rule = chain.remove(at);
        rule.into_iter().for_each(|rule| chain.push_front(rule));
        Ok(Value::Nil)
    })?;
    context.define_entry(lua, clear, move |call, _| {
        call.draft.rules.chain_mut(key).clear();
        Ok(Value::Nil)
    })?;
    context.define_entry(lua, set, move |call, a| {
        let rules = read_rules(call, key, a.at(0))?;
        call.draft.rules.chain_mut(key).clear();
        call.draft.rules.extend(key, rules);
        Ok(Value::Nil)
    })?;
    context.define_printing(lua, show, move |call, a| {
        let options = Options::read(call, a.given(0))?;
        let all = call.draft.rules.chain(key).len();
        Ok(listed(call, key, all, &options, false))
    })?;
    context.define_printing(lua, top, move |call, a| {
        let count = a.whole(0, u32::MAX)?;
        Ok(listed(call, key, count as usize, &Options::default(), true))
    })?;
    let own = context.clone();
    context.define_entry(lua, top_list, move |call, a| {
        let count = a.whole(0, u32::MAX)?;
        let list = call.lua.create_table()?;
        for rule in call.draft.rules.chain(key).iter().take(count as usize) {
            list.raw_push(RuleObject { context: own.clone(), rule: rule.clone() })?;
        }
        Ok(Value::Table(list))
    })?;
    let own = context.clone();
    context.define_entry(lua, one, move |call, a| found(call, &own, key, a.at(0)))
}

/// Reads a rule: selector, action, options. Without `responses`, both kinds of action are accepted,
/// and it takes the place of no other. Returns the one that it replaces, too.
fn new_rule(
    call: &mut Call<'_>,
    a: Arguments<'_>,
    responses: Option<bool>,
) -> Result<(DraftRule, Option<Value>), Fault> {
    let is_response = || {
        let done =
            a.at(1).as_userdata().and_then(|u| u.borrow::<ActionObject>().ok().map(|d| d.action.clone()));
        matches!(done, Some(RuleAction::Response(_)))
    };
    let mut made = DraftRule {
        origin: call.origin.clone(),
        name: String::new(),
        uuid: None,
        group: String::new(),
        matcher: rule(call, "the rule", a.at(0))?,
        action: action("the action", a.at(1), responses.unwrap_or_else(is_response))?,
    };
    let mut replaced = None;
    let Some(options) = a.given(2) else { return Ok((made, replaced)) };
    for (name, v) in named("the table of options", options)? {
        match name.as_str() {
            "name" => made.name = label(&name, &v)?,
            "group" => made.group = label(&name, &v)?,
            "uuid" => {
                const UUID: &str = "a UUID, as \"123e4567-e89b-12d3-a456-426655440000\"";
                let written = text(&name, &v, UUID)?;
                if !written.is_empty() {
                    made.uuid = Some(parse_uuid(&written).ok_or_else(|| wrong(&name, &v, UUID))?);
                }
            }
            "replace" if responses.is_some() => replaced = Some(v),
            _ if responses.is_some() => call.unknown("option", &name, ["name", "uuid", "group", "replace"]),
            _ => call.unknown("option", &name, ["name", "uuid", "group"]),
        }
    }
    Ok((made, replaced))
}

fn label(what: &str, v: &Value) -> Result<String, Fault> {
    const LABEL: &str = "a name of at most 255 bytes";
    let label = match v {
        Value::Integer(_) | Value::Number(_) => shown(v),
        _ => text(what, v, LABEL)?,
    };
    if label.len() > NAME_BYTES { Err(wrong(what, v, LABEL)) } else { Ok(label) }
}

/// Says that there is no such rule and goes on, as dnsdist does: once for each line, as configurations
/// remove what there may be in a loop.
fn absent(call: &mut Call<'_>, fault: Fault) {
    let warning = ConfigError::new(&call.origin, call.function, Fault::Absent(Box::new(fault)));
    call.draft.warnings.push_once(warning);
}

/// Returns the warning that there is no such rule: dnsdist says so and goes on.
///
/// # Errors
/// When the argument is not what identifies a rule.
fn no_such_rule(a: Arguments<'_>, n: usize) -> Result<Fault, Fault> {
    if matches!(a.at(n), Value::String(_)) || a.whole(n, u32::MAX).is_ok() {
        return Ok(Fault::Note(format!("there is no rule {}", shown(a.at(n)))));
    }
    Err(a.wrong(n, SELECTOR))
}

/// Returns the index of the rule that a value identifies: a number, a UUID, or the first rule of a
/// name.
fn find(call: &Call<'_>, key: ChainKey, value: &Value) -> Option<usize> {
    let chain = call.draft.rules.chain(key);
    if let Value::String(s) = value {
        let wanted = s.to_string_lossy();
        let uuid = parse_uuid(&wanted);
        let by_uuid = chain.iter().position(|r| r.uuid.is_some() && r.uuid == uuid);
        let by_name = || chain.iter().position(|r| !r.name.is_empty() && r.name == wanted);
        // Those that follow from the text of rules take long.
        let derived = || uuid.and_then(|uuid| call.uuids(key).iter().position(|of| *of == uuid));
        return by_uuid.or_else(by_name).or_else(derived);
    }
    let at = whole("", value, 0, u32::MAX).ok()? as usize;
    (at < chain.len()).then_some(at)
}

fn found(call: &Call<'_>, context: &Context, key: ChainKey, value: &Value) -> Result<Value, Fault> {
    let Some(at) = find(call, key, value) else { return Ok(Value::Nil) };
    let chain = call.draft.rules.chain(key);
    let read_rules = RuleObject { context: context.clone(), rule: chain[at].clone() };
    Ok(Value::UserData(call.lua.create_userdata(read_rules)?))
}

/// Reads a list of `newRuleAction`, of the kind that a chain accepts.
fn read_rules(call: &mut Call<'_>, key: ChainKey, value: &Value) -> Result<Vec<DraftRule>, Fault> {
    const RULES: &str = "a list of newRuleAction(...)";
    let responses = CHAINS[key as usize].responses;
    let (mut rules, mut wrong_ones) = (Vec::new(), Vec::new());
    if !value.is_table() && !is_inert(value) {
        return Err(wrong("the list", value, RULES));
    }
    for (at, item) in items(value)?.enumerate() {
        let (what, item) = (format!("rule {}", at + 1), item?);
        let read_rules =
            item.as_userdata().and_then(|u| u.borrow::<RuleObject>().ok().map(|p| p.rule.clone()));
        match read_rules {
            Some(rule) if matches!(rule.action, RuleAction::Response(_)) == responses => rules.push(rule),
            Some(_) => {
                let expected = if responses { "a response action" } else { "an action on queries" };
                wrong_ones.push(Fault::value(&what, "of the other kind", expected));
            }
            None if is_inert(&item) => {}
            None => wrong_ones.push(wrong(&what, &item, RULES)),
        }
    }
    call.unless_wrong(wrong_ones, rules)
}

/// The options of listing rules.
#[derive(Debug, Default)]
struct Options {
    uuids: bool,
    width: Option<usize>,
}

impl Options {
    fn read(call: &mut Call<'_>, value: Option<&Value>) -> Result<Self, Fault> {
        let mut options = Self::default();
        let Some(value) = value else { return Ok(options) };
        for (name, v) in named("the table of options", value)? {
            match name.as_str() {
                "showUUIDs" => options.uuids = switch(&name, &v)?,
                "truncateRuleWidth" => {
                    options.width = usize::try_from(crate::lua::front_end::argument::signed(&name, &v)?).ok();
                }
                _ => call.unknown("option", &name, ["showUUIDs", "truncateRuleWidth"]),
            }
        }
        Ok(options)
    }
}

/// Formats the first rules of a chain as a table; with `top` those that matched most. While the file
/// is evaluated all counters are 0, so the order is that of the chain.
fn listed(call: &Call<'_>, key: ChainKey, count: usize, options: &Options, top: bool) -> String {
    let sets = call.sets();
    let chain = call.draft.rules.chain(key);
    let running = call.session.as_ref().map(|s| s.view.rules(key)).unwrap_or_default();
    let hits = |at: usize| running.get(at).map_or(0, |(_, hits)| *hits);
    let mut order: Vec<usize> = (0..chain.len()).collect();
    if top {
        order.sort_by_key(|at| std::cmp::Reverse(hits(*at)));
    }
    order.truncate(count);
    let rules = order.iter().map(|at| &chain[*at]);
    let cut = |text: String| match options.width {
        Some(width) => text.chars().take(width).collect(),
        None => text,
    };
    let mut rows: Vec<(String, String)> =
        rules.clone().map(|r| (cut(rule_text::matcher(&r.matcher, &sets)), r.action.text())).collect();
    rows.insert(0, ("Rule".to_owned(), "Action".to_owned()));
    let width = rows.iter().map(|(m, _)| m.chars().count()).max().unwrap_or(0).min(MATCHER_CHARS);
    let heads = std::iter::once(("#".to_owned(), "Name".to_owned(), "UUID".to_owned(), "Matches".to_owned()));
    let lines = order.iter().map(|at| {
        let (r, running) = (&chain[*at], running.get(*at).map(|(uuid, _)| uuid));
        let uuid = r.uuid.as_ref().or(running).map(uuid_text).unwrap_or_default();
        (at.to_string(), r.name.clone(), uuid, hits(*at).to_string())
    });
    let mut out = String::new();
    for ((number, name, uuid, matches), (matcher, action)) in heads.chain(lines).zip(rows) {
        let uuid = if options.uuids { format!("{uuid:<38} ") } else { String::new() };
        // Writing into a string does not fail.
        let row = format!("{number:<3} {name:<30} {uuid}{matches:>9} {matcher:<width$} {action}");
        let _ = writeln!(out, "{}", Printable(row));
    }
    out
}

/// Returns whether a selector needs what only a shard has.
fn depends_on_shard(matcher: &Matcher) -> bool {
    let traits = matcher.traits();
    let is_set = matches!(matcher, Matcher::TimedSet(_));
    is_set || traits.has_effects || traits.pool.is_some() || traits.parts.iter().any(depends_on_shard)
}

/// Pools of a configuration that has none.
#[derive(Debug)]
struct NoPools;

impl Pools for NoPools {
    fn named(&self, _: &str) -> Option<PoolSlot> {
        None
    }

    fn is_available(&self, _: PoolSlot) -> bool {
        false
    }

    fn outstanding(&self, _: PoolSlot) -> u64 {
        0
    }
}

/// Evaluates a selector on queries for other names each time, and says how long that took.
fn measured(matcher: &Matcher, iterations: u32, suffix: &[u8]) -> String {
    /// Nothing else is done meanwhile that needs the configuration.
    const LONGEST: TickDelta = TickDelta::from_ms(2_000);
    /// Evaluations between two looks at the clock.
    const BATCH: u32 = 1_000;
    /// Names, a power of two: enough to be different, few enough to be made before.
    const NAMES: u32 = 1 << 10;
    let mut rng = ShardRng::from_seed(1);
    let mut messages: Vec<Vec<u8>> = (0..NAMES).map(|_| query(rng.u32(), suffix)).collect();
    let peer = Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 53_000)));
    let local = Endpoint::from(SocketAddr::from(([192, 0, 2, 2], 53)));
    let client = Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None };
    let (chains, mut limits) = (Chains::default(), Limits::default());
    let (mut patterns, mut state) = (PatternCache::default(), QueryState::default());
    let (begun, mut done, mut matched) = (clock::now(), 0, 0_u32);
    let mut took = TickDelta(0);
    while done < iterations && took < LONGEST {
        let end = done.saturating_add(BATCH).min(iterations);
        for at in done..end {
            let Some(message) = messages.get_mut((at % NAMES) as usize) else { break };
            let len = message.len();
            let mut packet = Packet::new(message, 0, len);
            let facts = Facts::of(packet.bytes());
            let mut context = EvaluationContext {
                packet: &mut packet,
                facts,
                query_state: &mut state,
                client,
                local,
                answered: None,
            };
            let mut env = Environment {
                now: begun,
                chains: &chains,
                settings: RuleSettings::default(),
                limits: &mut limits,
                patterns: &mut patterns,
                rng: &mut rng,
                pools: &NoPools,
                script: None,
            };
            matched += u32::from(matcher.matches(&mut context, &mut env));
        }
        done = end;
        took = clock::now().since(begun);
    }
    let us = took.0.max(1) as f64 / 1_000.0;
    format!("Had {matched} matches out of {done}, {:.1} qps, in {us:.1} us", f64::from(done) * 1e6 / us)
}

/// A query for an address of a name below a suffix.
fn query(number: u32, suffix: &[u8]) -> Vec<u8> {
    let label = number.to_string();
    // An id, RD, one question.
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(u8::try_from(label.len()));
    message.extend_from_slice(label.as_bytes());
    message.extend_from_slice(suffix);
    // A, IN.
    message.extend_from_slice(&[0, 1, 0, 1]);
    message
}

/// A rule with its action as a Lua object.
#[derive(Clone, Debug)]
pub(crate) struct RuleObject {
    context: Context,
    rule: DraftRule,
}

impl UserData for RuleObject {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, RULE_METHODS);
        all.add("getAction", |_, read_rules, _| {
            let name = if matches!(read_rules.rule.action, RuleAction::Response(_)) {
                "response action"
            } else {
                "action"
            };
            Ok(ActionObject { name, action: read_rules.rule.action.clone() })
        });
        all.add("getSelector", |_, read_rules, _| {
            let (context, matcher) = (read_rules.context.clone(), read_rules.rule.matcher.clone());
            Ok(Rule { context, depth: matcher.depth(), matcher })
        });
        all.add("getName", |_, read_rules, _| Ok(read_rules.rule.name.clone()));
        all.add("getUUID", |_, read_rules, _| {
            Ok(read_rules.rule.uuid.as_ref().map(uuid_text).unwrap_or_default())
        });
        all.add("getGroup", |_, read_rules, _| Ok(read_rules.rule.group.clone()));
    }
}
