//! dnsdist's selectors as Lua functions.

use std::sync::Arc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::base::addr::PoolRef;
use crate::config::error::Fault;
use crate::config::functions::enumerations;
use crate::config::ruleset::{DraftState, FunctionKind, Interface};
use crate::lua::front_end::argument::{fraction, shown, text, wrong};
use crate::lua::front_end::arguments::{Arguments, items};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::missing::{Inert, is_inert};
use crate::lua::front_end::networks::{NetworkSet, prefixes};
use crate::lua::front_end::sets::{NameSet, names};
use crate::lua::front_end::{functions, packet};
use crate::rules::limits::{ClientLimit, Limit, TimedSet};
use crate::rules::matcher::Matcher;
use crate::rules::pattern::Pattern;
use crate::rules::text;
use crate::rules::text::{COMPARISONS, PROTOCOLS};

/// Deepest nesting of rules, and of actions.
pub(crate) const DEPTH_MAX: u8 = 64;
/// What is accepted as a rule.
const RULE: &str = "a rule, a name or a network, or a list of names or networks";
/// The name of a pool.
pub(crate) const POOL: &str = "the name of a pool";

type Make = fn(&mut Call<'_>, Arguments<'_>) -> Result<Matcher, Fault>;

/// Each selector with its most arguments.
const SELECTORS: [(&str, usize, Make); 41] = [
    ("AllRule", 0, |_, _| Ok(Matcher::All)),
    ("AndRule", 1, |call, a| {
        let rules = rules(call, a)?;
        around(call).map(|()| Matcher::And(rules.into()))
    }),
    ("OrRule", 1, |call, a| {
        let rules = rules(call, a)?;
        around(call).map(|()| Matcher::Or(rules.into()))
    }),
    ("NotRule", 1, |call, a| {
        let rule = rule(call, "", a.at(0))?;
        around(call).map(|()| Matcher::Not(Arc::new(rule)))
    }),
    ("QNameRule", 1, |_, a| Ok(Matcher::QName(packet::wire("", a.at(0))?.into()))),
    ("QNameSetRule", 1, |_, a| match NameSet::exact(a.at(0)) {
        Some(set) => Ok(Matcher::QNameSet(set)),
        None => Err(wrong("", a.at(0), "a set of newDNSNameSet")),
    }),
    ("QNameSuffixRule", 2, suffixes),
    ("SuffixMatchNodeRule", 2, suffixes),
    ("RegexRule", 1, |_, a| pattern(a, false)),
    ("RE2Rule", 1, |_, a| pattern(a, true)),
    ("QTypeRule", 1, |_, a| {
        code("", a.at(0), "a type, as \"AAAA\" or DNSQType.AAAA", enumerations::qtype).map(Matcher::QType)
    }),
    ("QClassRule", 1, |_, a| {
        code("", a.at(0), "a class, as \"IN\" or DNSClass.IN", enumerations::qclass).map(Matcher::QClass)
    }),
    ("OpcodeRule", 1, |_, a| a.byte(0, "", 15).map(Matcher::Opcode)),
    ("RCodeRule", 1, |_, a| a.byte(0, "", 15).map(Matcher::RCode)),
    ("ERCodeRule", 1, |_, a| Ok(Matcher::ERCode(low(a.whole(0, "", 4095)?)))),
    ("RDRule", 0, |_, _| Ok(Matcher::Rd)),
    ("DNSSECRule", 0, |_, _| Ok(Matcher::Dnssec)),
    ("EDNSOptionRule", 1, |_, a| a.word(0, "").map(Matcher::EdnsOption)),
    ("EDNSVersionRule", 1, |_, a| a.byte(0, "", u8::MAX).map(Matcher::EdnsVersion)),
    ("RecordsCountRule", 3, |_, a| {
        let (min, max) = bounds(a, 1)?;
        Ok(Matcher::RecordsCount { section: a.byte(0, "the section", 3)?, min, max })
    }),
    ("RecordsTypeCountRule", 4, |_, a| {
        let (min, max) = bounds(a, 2)?;
        let rtype = code("the type", a.at(1), "a type, as DNSQType.AAAA", enumerations::qtype)?;
        Ok(Matcher::RecordsTypeCount { section: a.byte(0, "the section", 3)?, rtype, min, max })
    }),
    ("TrailingDataRule", 0, |_, _| Ok(Matcher::TrailingData)),
    ("QNameLabelsCountRule", 2, |_, a| bounds(a, 0).map(|(min, max)| Matcher::QNameLabels(min, max))),
    ("QNameWireLengthRule", 2, |_, a| bounds(a, 0).map(|(min, max)| Matcher::QNameWireLength(min, max))),
    ("PayloadSizeRule", 2, |_, a| {
        const SIGNS: &str = "\"equal\", \"greater\", \"greaterOrEqual\", \"smaller\" or \"smallerOrEqual\"";
        let name = a.text(0, "the comparison", SIGNS)?;
        let known = COMPARISONS.iter().find(|(n, _, _)| *n == name).map(|(_, c, _)| *c);
        let comparison = known.ok_or_else(|| wrong("the comparison", a.at(0), SIGNS))?;
        Ok(Matcher::PayloadSize(comparison, a.word(1, "the size")?))
    }),
    ("NetmaskGroupRule", 3, |call, a| {
        let source = a.switch_or(1, "the second argument", true)?;
        let quiet = a.switch_or(2, "the third argument", false)?;
        let networks = match NetworkSet::of(a.at(0), quiet) {
            Some(networks) => networks,
            None => call.literal_networks(prefixes("", a.at(0))?, quiet),
        };
        Ok(Matcher::Netmask { networks, source })
    }),
    ("DSTPortRule", 1, |_, a| a.word(0, "").map(Matcher::DstPort)),
    ("IncomingProtocolRule", 1, |_, a| {
        let names = PROTOCOLS.map(|(name, _)| format!("\"{name}\"")).join(", ");
        let name = a.text(0, "", &names)?;
        let known = PROTOCOLS.iter().find(|(n, _)| *n == name).map(|(_, protocol)| *protocol);
        known.map(Matcher::Protocol).ok_or_else(|| wrong("", a.at(0), names))
    }),
    ("TCPRule", 1, |_, a| crate::lua::front_end::argument::switch("", a.at(0)).map(Matcher::Tcp)),
    ("TagRule", 2, |_, a| {
        let value = a.given(1).map(|v| tag_part("the value", v)).transpose()?;
        Ok(Matcher::Tag(tag_name(a)?.into(), value.map(Into::into)))
    }),
    ("ProxyProtocolValueRule", 2, |_, a| {
        let value = a.given(1).map(|_| a.bytes(1, "the value")).transpose()?;
        Ok(Matcher::ProxyValue { kind: a.byte(0, "the type", u8::MAX)?, value: value.map(Into::into) })
    }),
    ("SNIRule", 1, |_, a| a.bytes(0, "").map(|name| Matcher::Sni(name.into()))),
    ("MaxQPSRule", 2, |call, a| {
        let qps = a.whole(0, "the rate", u32::MAX)?;
        let burst = a.whole_or(1, "the burst", qps, u32::MAX)?;
        Ok(Matcher::MaxQps(bucket(call, qps, burst)))
    }),
    ("MaxQPSIPRule", 8, clients),
    ("ProbaRule", 1, |_, a| {
        let p = fraction("", a.at(0), 0.0, 1.0)?;
        // Below 1 this is below 2^32.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Matcher::Probability((p < 1.0).then_some((p * 4_294_967_296.0) as u32)))
    }),
    ("PoolAvailableRule", 1, |_, a| pool("", a.at(0)).map(Matcher::PoolAvailable)),
    ("PoolOutstandingRule", 2, |_, a| {
        let limit = a.whole(1, "the limit", u32::MAX)?;
        Ok(Matcher::PoolOutstanding(pool("the pool", a.at(0))?, limit.into()))
    }),
    ("LuaRule", 1, |call, a| lua_rule(call, a, Interface::Objects)),
    ("LuaFFIRule", 1, |call, a| lua_rule(call, a, Interface::Ffi)),
    ("LuaFFIPerThreadRule", 1, |call, a| lua_rule(call, a, Interface::Text)),
    ("makeRule", 1, |call, a| rule(call, "", a.at(0))),
];

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for (name, most, make) in SELECTORS {
        let own = context.clone();
        context.define(lua, name, move |call, values| {
            let arguments = Arguments(values);
            let made = arguments.at_most(most).and_then(|()| make(call, arguments));
            let made = made.map(|matcher| Rule { context: own.clone(), matcher, depth: call.depth });
            stand_in(call, made)
        })?;
    }
    for name in ["TimedIPSetRule", "newTimedIPSetRule"] {
        let own = context.clone();
        context.define(lua, name, move |call, values| {
            let made = Arguments(values).at_most(0).map(|()| {
                let set = TimedSet { state: state(call, DraftState::Timed) };
                Timed(Rule { context: own.clone(), matcher: Matcher::TimedSet(set), depth: 0 })
            });
            stand_in(call, made)
        })?;
    }
    Ok(())
}

/// Returns the object, or, with the error recorded, one that accepts any further use.
pub(crate) fn stand_in<T: UserData + 'static>(
    call: &mut Call<'_>,
    made: Result<T, Fault>,
) -> Result<Value, Fault> {
    let object = match made {
        Ok(made) => call.lua.create_userdata(made)?,
        Err(fault) => {
            call.fail(fault);
            call.lua.create_userdata(Inert)?
        }
    };
    Ok(Value::UserData(object))
}

/// A rule's selector as a Lua object.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) context: Context,
    pub(crate) matcher: Matcher,
    /// Its nesting depth.
    pub(crate) depth: u8,
}

impl UserData for Rule {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        // Only the shards count matches, and not while a file is evaluated.
        methods.add_method("getMatches", |_, _, ()| Ok(0));
        let show = |lua: &Lua, rule: &Self, (): ()| {
            let matcher = &rule.matcher;
            rule.context.call(lua, "toString", |call| {
                let text = text::matcher(matcher, &call.sets());
                Ok(Value::String(call.lua.create_string(text)?))
            })
        };
        methods.add_method("toString", show);
        methods.add_meta_method(MetaMethod::ToString, show);
    }
}

/// A set of addresses, each with its expiry. The shards, which evaluate the file too, keep the
/// additions; nothing is kept here.
#[derive(Clone, Debug)]
struct Timed(Rule);

impl UserData for Timed {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("slice", |_, timed, ()| Ok(timed.0.clone()));
        for name in ["add", "cleanup", "clear"] {
            methods.add_method(name, |_, _, ()| Ok(()));
        }
    }
}

/// Reads a selector: a rule, or names or networks that stand for one.
pub(crate) fn rule(call: &mut Call<'_>, what: &str, value: &Value) -> Result<Matcher, Fault> {
    // A missing or invalid rule was reported already.
    if is_inert(value) {
        return Ok(Matcher::All);
    }
    if let Some(object) = value.as_userdata() {
        if let Ok(rule) = object.borrow::<Rule>() {
            call.depth = call.depth.max(rule.depth);
            return Ok(rule.matcher.clone());
        }
        let hint = if object.is::<Timed>() {
            Some("its slice(), as set:slice()")
        } else if object.is::<NetworkSet>() {
            Some("NetmaskGroupRule(networks)")
        } else if object.is::<NameSet>() {
            Some("QNameSuffixRule(set) or QNameSetRule(set)")
        } else {
            None
        };
        if let Some(hint) = hint {
            return Err(wrong(what, value, hint));
        }
    }
    let is_network = |v: &Value| {
        let text = v.as_string().map(|s| s.to_string_lossy());
        text.is_some_and(|t| t.trim_start_matches('!').parse::<crate::base::prefix::Prefix>().is_ok())
    };
    let (mut all, mut count, mut odd) = (0, 0, None);
    for item in items(value).map_err(|_| wrong(what, value, RULE))? {
        let item = item?;
        all += 1;
        if is_network(&item) {
            count += 1;
        } else if odd.is_none() && packet::name(&item).is_none() {
            odd = Some(wrong(what, &item, RULE));
        }
    }
    if all == 0 {
        return Err(Fault::value(what, "an empty list", RULE));
    }
    if count == all {
        let networks = call.literal_networks(prefixes(what, value)?, false);
        return Ok(Matcher::Netmask { networks, source: true });
    }
    if count > 0 {
        return Err(Fault::Conflict {
            wrong: "the list holds both names and networks".to_owned(),
            expected: "two rules, in an OrRule".to_owned(),
        });
    }
    if let Some(odd) = odd {
        return Err(odd);
    }
    Ok(Matcher::QNameSuffix(call.literal_names(names(what, value)?, false)))
}

/// Reads a list of rules.
fn rules(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Vec<Matcher>, Fault> {
    const RULES: &str = "a list of rules, as {QTypeRule(\"ANY\"), TCPRule(false)}";
    if is_inert(a.at(0)) {
        return Ok(Vec::new());
    }
    if !a.at(0).is_table() {
        return Err(wrong("", a.at(0), RULES));
    }
    let mut list = Vec::new();
    for (at, item) in items(a.at(0))?.enumerate() {
        list.push(rule(call, &format!("rule {}", at + 1), &item?)?);
    }
    Ok(list)
}

/// Increments the depth of the rule under construction. Evaluation recurses for each level, per
/// query too: hence the limit.
fn around(call: &mut Call<'_>) -> Result<(), Fault> {
    if call.depth == DEPTH_MAX {
        let what = format!("{} rules, each within the next one", u32::from(DEPTH_MAX) + 1);
        return Err(Fault::Limit { what, limit: DEPTH_MAX.to_string() });
    }
    call.depth += 1;
    Ok(())
}

fn suffixes(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Matcher, Fault> {
    let quiet = a.switch_or(1, "the second argument", false)?;
    let set = match NameSet::suffixes(a.at(0), quiet) {
        Some(set) => set,
        None => {
            let list = names("", a.at(0))?;
            call.literal_names(list, quiet)
        }
    };
    Ok(Matcher::QNameSuffix(set))
}

fn pattern(a: Arguments<'_>, whole: bool) -> Result<Matcher, Fault> {
    let text = a.text(0, "", "a regular expression")?;
    let pattern = Pattern::new(&text, whole);
    pattern.map(Matcher::Regex).map_err(|e| {
        wrong("", a.at(0), format!("a regular expression ({})", e.lines().last().unwrap_or_default().trim()))
    })
}

/// Reads a number from 0, or a name of one.
pub(crate) fn code(
    what: &str,
    v: &Value,
    expected: &str,
    by_name: fn(&str) -> Option<u16>,
) -> Result<u16, Fault> {
    let number = crate::lua::front_end::argument::number(v)
        .map(|_| crate::lua::front_end::argument::whole(what, v, 0, u16::MAX.into()));
    match number {
        Some(number) => number.map(low),
        None => {
            v.as_string().and_then(|s| by_name(&s.to_string_lossy())).ok_or_else(|| wrong(what, v, expected))
        }
    }
}

/// Reads one type or a list.
pub(crate) fn types(what: &str, v: &Value) -> Result<Vec<u16>, Fault> {
    const TYPES: &str = "a type, as DNSQType.AAAA, or a list of them";
    items(v)?.map(|item| code(what, &item?, TYPES, enumerations::qtype)).collect()
}

/// The caller bounds it to sixteen bits.
pub(crate) fn low(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

fn bounds(a: Arguments<'_>, from: usize) -> Result<(u16, u16), Fault> {
    let (min, max) = (a.word(from, "the minimum")?, a.word(from + 1, "the maximum")?);
    if min > max {
        let wrong = format!("the minimum ({min}) is above the maximum ({max})");
        return Err(Fault::Conflict { wrong, expected: "bounds that something is within".to_owned() });
    }
    Ok((min, max))
}

/// Reads the name of a tag, the first argument.
pub(crate) fn tag_name(a: Arguments<'_>) -> Result<String, Fault> {
    let name = tag_part("the name", a.at(0))?;
    if name.is_empty() { Err(wrong("the name", a.at(0), "the name of a tag, not empty")) } else { Ok(name) }
}

/// Reads the name or value of a tag.
pub(crate) fn tag_part(what: &str, v: &Value) -> Result<String, Fault> {
    /// Fewer than a query's tags may have in total.
    const TAG_BYTES: usize = 1024;
    let part = match v {
        Value::Integer(_) | Value::Number(_) => shown(v),
        _ => text(what, v, "a text")?,
    };
    if part.len() > TAG_BYTES { Err(wrong(what, v, "at most 1024 bytes")) } else { Ok(part) }
}

/// Reads a pool name; `compile` resolves its slot.
pub(crate) fn pool(what: &str, v: &Value) -> Result<PoolRef, Fault> {
    let name = match v {
        Value::Integer(_) | Value::Number(_) => shown(v),
        _ => text(what, v, POOL)?,
    };
    Ok(PoolRef { name: name.into(), slot: Default::default() })
}

/// Records the state of a limiting rule, and returns its number.
fn state(call: &mut Call<'_>, state: DraftState) -> u32 {
    call.draft.states.push(state);
    u32::try_from(call.draft.states.len() - 1).unwrap_or(u32::MAX)
}

/// Records a bucket.
pub(crate) fn bucket(call: &mut Call<'_>, qps: u32, burst: u32) -> Limit {
    Limit { state: state(call, DraftState::Bucket(qps, burst)), qps, burst }
}

fn clients(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Matcher, Fault> {
    let qps = a.whole(0, "the rate", u32::MAX)?;
    let v4 = a.byte_or(1, "the IPv4 prefix length", 32, 32)?;
    let v6 = a.byte_or(2, "the IPv6 prefix length", 64, 128)?;
    let burst = a.whole_or(3, "the burst", qps, u32::MAX)?;
    let expiration_s = a.whole_or(4, "the expiration", 300, 86_400)?;
    for (at, what) in [(5, "the clean-up delay"), (6, "the scan fraction"), (7, "the shards")] {
        a.whole_or(at, what, 0, u32::MAX)?;
    }
    let state = state(call, DraftState::Clients(qps, burst, v4, v6, expiration_s));
    Ok(Matcher::MaxQpsIp(ClientLimit { state, qps, burst, v4, v6, expiration_s }))
}

fn lua_rule(call: &mut Call<'_>, a: Arguments<'_>, interface: Interface) -> Result<Matcher, Fault> {
    functions::record(call, FunctionKind::Rule, interface, "", a.at(0)).map(Matcher::Lua)
}
