//! dnsdist's selectors as Lua functions.

use std::sync::Arc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::config::error::Fault;
use crate::config::functions::{Entry, SELECTOR_METHODS, TIMED_SET_METHODS, enumerations};
use crate::config::ruleset::{DraftState, FunctionKind, Interface};
use crate::config::value;
use crate::lua::front_end::argument::wrong;
use crate::lua::front_end::arguments::{Arguments, items};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::{Declared, Methods, declared};
use crate::lua::front_end::missing::{Inert, is_inert};
use crate::lua::front_end::networks::{NetworkSet, prefixes};
use crate::lua::front_end::sets::{NameSet, names};
use crate::lua::front_end::values::{bucket, code, low, pool, state, tag_name, tag_part};
use crate::lua::front_end::{functions, nearest, packet};
use crate::rules::limits::{ClientLimit, TimedSet};
use crate::rules::matcher::Matcher;
use crate::rules::pattern::Pattern;
use crate::rules::text;
use crate::rules::text::{COMPARISONS, PROTOCOLS};

/// Deepest nesting of rules, and of actions.
pub(crate) const DEPTH_MAX: u8 = 64;
/// What is accepted as a rule.
const RULE: &str = "a rule, a name or a network, or a list of names or networks";
/// What a rule with an empty list does.
const MATCHES_NOTHING: &str = "it matches nothing";
/// What one without conditions does.
const MATCHES_ALL: &str = "it matches everything";

/// The selectors.
static SELECTORS: &[Declared<Matcher>] = &[
    declared("AllRule", "", "Every packet.", |_, _| Ok(Matcher::All)),
    declared(
        "AndRule",
        "{rule, ...}",
        "All of these match; evaluated in order up to the first that does not.",
        |call, a| {
            let rules = rules(call, a)?;
            if rules.is_empty() {
                call.warn_empty_list(a.what(0), MATCHES_ALL);
            }
            around(call).map(|()| Matcher::And(rules.into()))
        },
    ),
    declared(
        "OrRule",
        "{rule, ...}",
        "Any of these matches; evaluated in order up to the first that does.",
        |call, a| {
            let rules = rules(call, a)?;
            if rules.is_empty() {
                call.warn_empty_list(a.what(0), MATCHES_NOTHING);
            }
            around(call).map(|()| Matcher::Or(rules.into()))
        },
    ),
    declared("NotRule", "rule", "This one does not match.", |call, a| {
        // What matches nothing would turn into what matches everything.
        if a.at(0).is_table() && items(a.at(0))?.next().is_none() {
            return Err(Fault::value("", "an empty list", RULE));
        }
        let rule = rule(call, "", a.at(0))?;
        around(call).map(|()| Matcher::Not(Arc::new(rule)))
    }),
    declared("QNameRule", "name", "The queried name is this one.", |_, a| {
        Ok(Matcher::QName(packet::wire(a.what(0), a.at(0))?.into()))
    }),
    declared("QNameSetRule", "set", "The queried name is in a set of `newDNSNameSet`.", |_, a| {
        match NameSet::exact(a.at(0)) {
            Some(set) => Ok(Matcher::QNameSet(set)),
            None => Err(a.wrong(0, "a set of newDNSNameSet")),
        }
    }),
    declared(
        "QNameSuffixRule",
        "set | name | {name, ...} [, quiet=false]",
        "The queried name is, or is below, one of these names or those of `newSuffixMatchNode`. A set \
         may be extended after the rule: its state at the end of the file counts. `quiet` omits the \
         names from lists of rules.",
        suffixes,
    ),
    declared(
        "SuffixMatchNodeRule",
        "set | name | {name, ...} [, quiet=false]",
        "The same as QNameSuffixRule.",
        suffixes,
    ),
    declared(
        "RegexRule",
        "expression",
        "A part of the name, without its final dot, matches; case is ignored.",
        |call, a| {
            if nearest::is_empty_text(a.at(0)) {
                call.warn_empty_text("", MATCHES_ALL);
            }
            pattern(a, false)
        },
    ),
    declared(
        "RE2Rule",
        "expression",
        "The whole name, without its final dot, matches in the letter case that it is written in; `(?i)` at \
         the beginning of the expression ignores that.",
        |call, a| {
            if nearest::is_empty_text(a.at(0)) {
                call.warn_empty_text("", "it matches the root only");
            }
            pattern(a, true)
        },
    ),
    declared("QTypeRule", "type", "The queried type, by name or number.", |_, a| {
        code(a.what(0), a.at(0), "a type, as \"AAAA\" or DNSQType.AAAA", enumerations::qtype)
            .map(Matcher::QType)
    }),
    declared("QClassRule", "class", "The queried class, by name or number.", |_, a| {
        code(a.what(0), a.at(0), "a class, as \"IN\" or DNSClass.IN", enumerations::qclass)
            .map(Matcher::QClass)
    }),
    declared("OpcodeRule", "code", "The operation, as `DNSOpcode.Update`.", |call, a| {
        four_bits(call, a).map(Matcher::Opcode)
    }),
    declared("RCodeRule", "code", "The response code, without its extension.", |call, a| {
        four_bits(call, a).map(Matcher::RCode)
    }),
    declared("ERCodeRule", "code", "The response code with the extension of its OPT record.", |_, a| {
        Ok(Matcher::ERCode(low(a.whole(0, 4095)?)))
    }),
    declared("RDRule", "", "Recursion is desired.", |_, _| Ok(Matcher::Rd)),
    declared("DNSSECRule", "", "CD is set, or DNSSEC records are requested (DO).", |_, _| {
        Ok(Matcher::Dnssec)
    }),
    declared("EDNSOptionRule", "code", "There is an EDNS option of this code.", |_, a| {
        a.word(0).map(Matcher::EdnsOption)
    }),
    declared("EDNSVersionRule", "version", "The EDNS version is above this.", |_, a| {
        a.byte(0, u8::MAX).map(Matcher::EdnsVersion)
    }),
    declared(
        "RecordsCountRule",
        "section, min, max",
        "Records in a section, as `DNSSection.Answer`.",
        |call, a| {
            let (min, max) = bounds(call, a, 1)?;
            Ok(Matcher::RecordsCount { section: a.byte(0, 3)?, min, max })
        },
    ),
    declared(
        "RecordsTypeCountRule",
        "section, type, min, max",
        "Records of a type in a section.",
        |call, a| {
            let (min, max) = bounds(call, a, 2)?;
            let rtype = code(a.what(1), a.at(1), "a type, as DNSQType.AAAA", enumerations::qtype)?;
            Ok(Matcher::RecordsTypeCount { section: a.byte(0, 3)?, rtype, min, max })
        },
    ),
    declared("TrailingDataRule", "", "There are bytes after the message.", |_, _| Ok(Matcher::TrailingData)),
    declared(
        "QNameLabelsCountRule",
        "min, max",
        "The name has fewer labels than `min`, or more than `max`.",
        |call, a| bounds(call, a, 0).map(|(min, max)| Matcher::QNameLabels(min, max)),
    ),
    declared(
        "QNameWireLengthRule",
        "min, max",
        "The name has fewer bytes than `min`, or more than `max`.",
        |call, a| bounds(call, a, 0).map(|(min, max)| Matcher::QNameWireLength(min, max)),
    ),
    declared(
        "PayloadSizeRule",
        "comparison, size",
        "The message's bytes; \"equal\", \"greater\", \"greaterOrEqual\", \"smaller\" or \"smallerOrEqual\".",
        |call, a| {
            const SIGNS: &str =
                "\"equal\", \"greater\", \"greaterOrEqual\", \"smaller\" or \"smallerOrEqual\"";
            let name = a.text(0, SIGNS)?;
            let known = COMPARISONS.iter().find(|(n, _, _)| *n == name).map(|(_, c, _)| *c);
            let comparison = known.ok_or_else(|| a.wrong(0, SIGNS))?;
            Ok(Matcher::PayloadSize(comparison, a.nearest_word(call, 1)?))
        },
    ),
    declared(
        "NetmaskGroupRule",
        "networks | network | {network, ...} [, source=true [, quiet=false]]",
        "The client's address is in these networks; with `source` false, the destination address. `quiet` \
         omits the networks from lists of rules.",
        |call, a| {
            let source = a.switch(1)?;
            let quiet = a.switch(2)?;
            let networks = match NetworkSet::of(a.at(0), quiet) {
                Some(networks) => networks,
                None => {
                    let list = prefixes(a.what(0), a.at(0))?;
                    if list.is_empty() {
                        call.warn_empty_list(a.what(0), MATCHES_NOTHING);
                    }
                    call.literal_networks(list, quiet)
                }
            };
            if quiet {
                networks.hide();
            }
            Ok(Matcher::Netmask { networks, source })
        },
    ),
    declared("DSTPortRule", "port", "The destination port.", |_, a| a.word(0).map(Matcher::DstPort)),
    declared(
        "IncomingProtocolRule",
        "protocol",
        "The protocol: \"DoUDP\", \"DoTCP\", \"DNSCryptUDP\", \"DNSCryptTCP\", \"DoT\", \"DoH\", \"DoQ\" or \"DoH3\".",
        |_, a| {
            let names = PROTOCOLS.map(|(name, _)| format!("\"{name}\"")).join(", ");
            let name = a.text(0, &names)?;
            let known = PROTOCOLS.iter().find(|(n, _)| *n == name).map(|(_, protocol)| *protocol);
            known.map(Matcher::Protocol).ok_or_else(|| a.wrong(0, names))
        },
    ),
    declared("TCPRule", "tcp", "It came over TCP; with false, it did not.", |_, a| {
        a.switch(0).map(Matcher::Tcp)
    }),
    declared("TagRule", "name [, value]", "A tag is set, to this value if one is given.", |_, a| {
        let value = a.given(1).map(|v| tag_part(a.what(1), v)).transpose()?;
        Ok(Matcher::Tag(tag_name(a)?.into(), value.map(Into::into)))
    }),
    declared(
        "ProxyProtocolValueRule",
        "type [, value]",
        "The query's PROXY header has a value of this type, with this content if one is given.",
        |_, a| {
            let value = a.given(1).map(|_| a.bytes(1)).transpose()?;
            Ok(Matcher::ProxyValue { kind: a.byte(0, u8::MAX)?, value: value.map(Into::into) })
        },
    ),
    declared("SNIRule", "name", "The client's TLS handshake named this server.", |_, a| {
        let name = a.bytes(0)?;
        // Clients send an international name in that form (RFC 6066, 3).
        if name.is_ascii() { Ok(Matcher::Sni(name.into())) } else { Err(a.wrong(0, value::ASCII_NAME)) }
    }),
    declared(
        "MaxQPSRule",
        "qps [, burst=qps]",
        "No more than this many queries per second reach the rule, over all shards.",
        |call, a| {
            let qps = a.nearest(call, 0, u32::MAX)?;
            let burst = if a.given(1).is_some() { a.nearest(call, 1, u32::MAX)? } else { qps };
            Ok(Matcher::MaxQps(bucket(call, qps, burst)))
        },
    ),
    declared(
        "MaxQPSIPRule",
        "qps [, v4=32 [, v6=64 [, burst=qps [, expiration=300 [, cleanupDelay, scanFraction, shards]]]]]",
        "A client, identified by these prefix lengths, sends more queries than this per second. A \
         client that is silent for `expiration` seconds is forgotten. The last three are accepted \
         without effect.",
        clients,
    ),
    declared("ProbaRule", "probability", "With this probability; 1 is always.", |call, a| {
        let p = nearest::fraction(call, a.what(0), a.at(0), 0.0, 1.0)?;
        // Below 1 this is below 2^32.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Matcher::Probability((p < 1.0).then_some((p * 4_294_967_296.0) as u32)))
    }),
    declared("PoolAvailableRule", "pool", "A pool has a usable server.", |_, a| {
        pool(a, 0).map(Matcher::PoolAvailable)
    }),
    declared(
        "PoolOutstandingRule",
        "pool, limit",
        "The servers of a pool have more outstanding queries than this.",
        |_, a| {
            let limit = a.whole(1, u32::MAX)?;
            Ok(Matcher::PoolOutstanding(pool(a, 0)?, limit.into()))
        },
    ),
    declared(
        "LuaRule",
        "function(dq)",
        "A Lua function returns true, in the shard's own Lua state.",
        |call, a| lua_rule(call, a, Interface::Objects),
    ),
    declared("LuaFFIRule", "function(dq)", "The same through LuaJIT's ffi.", |call, a| {
        lua_rule(call, a, Interface::Ffi)
    }),
    declared("LuaFFIPerThreadRule", "text", "The same, with a text that returns the function.", |call, a| {
        lua_rule(call, a, Interface::Text)
    }),
    declared(
        "makeRule",
        "name | network | {name, ...} | {network, ...}",
        "Returns the rule that a name or network stands for.",
        |call, a| rule(call, "", a.at(0)),
    ),
];

/// The selectors whose object is a set, which is none itself.
static TIMED_SETS: &[Entry] = &[
    Entry {
        name: "TimedIPSetRule",
        arguments: "",
        doc: "A set of addresses, each with its expiry, which functions of rules add to; `slice()` is the rule.",
    },
    Entry { name: "newTimedIPSetRule", arguments: "", doc: "The same as TimedIPSetRule." },
];

/// Returns every selector.
pub fn selectors() -> impl Iterator<Item = &'static Entry> {
    SELECTORS.iter().map(|selector| &selector.entry).chain(TIMED_SETS)
}

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for selector in SELECTORS {
        let own = context.clone();
        context.define_entry(lua, &selector.entry, move |call, a| {
            let made = (selector.make)(call, a);
            let made = made.map(|matcher| Rule { context: own.clone(), matcher, depth: call.depth });
            stand_in(call, made)
        })?;
    }
    for entry in TIMED_SETS {
        let own = context.clone();
        context.define_entry(lua, entry, move |call, _| {
            let set = TimedSet { state: state(call, DraftState::Timed) };
            stand_in(
                call,
                Ok(Timed(Rule { context: own.clone(), matcher: Matcher::TimedSet(set), depth: 0 })),
            )
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
        let mut all = Methods::new(methods, SELECTOR_METHODS);
        // Only the shards count matches, and not while a file is evaluated.
        all.add("getMatches", |_, _, _| Ok(0));
        all.add_recorded("toString", |rule| &rule.context, |call, rule, _| rule.shown(call));
        methods.add_meta_method(MetaMethod::ToString, |lua, rule, ()| {
            rule.context.call(lua, "toString", |call| rule.shown(call))
        });
    }
}

impl Rule {
    fn shown(&self, call: &Call<'_>) -> Result<Value, Fault> {
        Ok(Value::String(call.lua.create_string(text::matcher(&self.matcher, &call.sets()))?))
    }
}

/// A set of addresses, each with its expiry. The shards, which evaluate the file too, keep the
/// additions; nothing is kept here.
#[derive(Clone, Debug)]
struct Timed(Rule);

impl UserData for Timed {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, TIMED_SET_METHODS);
        all.add("slice", |_, timed, _| Ok(timed.0.clone()));
        for name in ["add", "cleanup", "clear"] {
            all.add(name, move |lua, timed, _| {
                timed.0.context.call(lua, name, |call| {
                    call.warn(Fault::Note(format!(
                        "{name}() has an effect in functions of rules only: addresses that are known beforehand belong \
                         into NetmaskGroupRule"
                    )));
                    Ok(Value::Nil)
                })
            });
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
        call.warn_empty_list(what, MATCHES_NOTHING);
    }
    if count == all && all > 0 {
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
        return Err(a.wrong(0, RULES));
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
    let quiet = a.switch(1)?;
    let set = match NameSet::suffixes(a.at(0), quiet) {
        Some(set) => set,
        None => {
            let list = names(a.what(0), a.at(0))?;
            if list.is_empty() {
                call.warn_empty_list(a.what(0), MATCHES_NOTHING);
            }
            call.literal_names(list, quiet)
        }
    };
    if quiet {
        set.hide();
    }
    Ok(Matcher::QNameSuffix(set))
}

fn pattern(a: Arguments<'_>, whole: bool) -> Result<Matcher, Fault> {
    let text = a.text(0, "a regular expression")?;
    if !text.is_ascii() {
        // It would match no name: those that it is compared with are ASCII.
        return Err(a.wrong(0, format!("an expression for {}", value::ASCII_NAME)));
    }
    let pattern = Pattern::new(&text, whole);
    pattern.map(Matcher::Regex).map_err(|e| {
        a.wrong(0, format!("a regular expression ({})", e.lines().last().unwrap_or_default().trim()))
    })
}

/// Reads a code that has four bits in the header; dnsdist takes eight.
fn four_bits(call: &mut Call<'_>, a: Arguments<'_>) -> Result<u8, Fault> {
    let code = a.byte(0, u8::MAX)?;
    if code > 0x0f {
        call.warn(Fault::Note(format!("{code} has more than four bits: nothing will match")));
    }
    Ok(code)
}

fn bounds(call: &mut Call<'_>, a: Arguments<'_>, from: usize) -> Result<(u16, u16), Fault> {
    let (min, max) = (a.nearest_word(call, from)?, a.nearest_word(call, from + 1)?);
    if min > max {
        let (low, high) = (a.what(from), a.what(from + 1));
        call.warn(Fault::Note(format!("{low} ({min}) is above {high} ({max}): nothing will match")));
    }
    Ok((min, max))
}

/// Reads a prefix length; a longer one than addresses have stands for the whole address.
fn mask(call: &mut Call<'_>, a: Arguments<'_>, n: usize, width: u8) -> Result<u8, Fault> {
    a.nearest_byte(call, n, width)
}

fn clients(call: &mut Call<'_>, a: Arguments<'_>) -> Result<Matcher, Fault> {
    let qps = a.nearest(call, 0, u32::MAX)?;
    let v4 = mask(call, a, 1, 32)?;
    let v6 = mask(call, a, 2, 128)?;
    let burst = if a.given(3).is_some() { a.nearest(call, 3, u32::MAX)? } else { qps };
    let expiration_s = a.nearest(call, 4, 86_400)?;
    for at in (5..8).filter(|at| a.given(*at).is_some()) {
        a.whole(at, u32::MAX)?;
    }
    let state = state(call, DraftState::Clients(qps, burst, v4, v6, expiration_s));
    Ok(Matcher::MaxQpsIp(ClientLimit { state, qps, burst, v4, v6, expiration_s }))
}

fn lua_rule(call: &mut Call<'_>, a: Arguments<'_>, interface: Interface) -> Result<Matcher, Fault> {
    functions::record(call, FunctionKind::Rule, interface, "", a.at(0)).map(Matcher::Lua)
}
