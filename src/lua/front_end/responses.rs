//! dnsdist's response actions as Lua functions.

use std::sync::Arc;

use mlua::Lua;

use crate::config::error::Fault;
use crate::config::functions::Entry;
use crate::config::ruleset::{FunctionKind, Interface, RuleAction};
use crate::lua::front_end::actions::{TTL_MAX, define_actions, delay, error, log, option, tag};
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::{Declared, declared};
use crate::lua::front_end::functions;
use crate::lua::front_end::values::{pool, tag_name, types};
use crate::rules::action::RESTARTS_MAX;
use crate::rules::action::ResponseAction;

/// The actions on answers.
static RESPONSE_ACTIONS: &[Declared<ResponseAction>] = &[
    declared(
        "AllowResponseAction",
        "",
        "Sends the answer to the client; no further rule is evaluated.",
        |_, _| Ok(ResponseAction::Allow),
    ),
    declared("DropResponseAction", "", "Drops it.", |_, _| Ok(ResponseAction::Drop)),
    declared(
        "TCResponseAction",
        "",
        "Turns the answer into TC=1 without records; no effect over TCP.",
        |_, _| Ok(ResponseAction::Tc),
    ),
    declared("DelayResponseAction", "milliseconds", "Delays the answer; UDP only.", |call, a| {
        delay(call, a).map(ResponseAction::Delay)
    }),
    declared(
        "LogResponseAction",
        "[path [, append=false [, buffered=true [, verboseOnly=true [, includeTimestamp=false [, oneIn=1]]]]]]",
        "Logs each answer to a file, or to the log without a path; with `oneIn`, one of so many, at random.",
        |_, a| log(a, false, 1).map(|target| ResponseAction::Log(Arc::new(target))),
    ),
    declared(
        "LimitTTLResponseAction",
        "min [, max [, {type, ...}]]",
        "Limits the TTLs of these types, or of all, to this range.",
        |call, a| {
            let min = a.nearest(call, 0, TTL_MAX)?;
            let max = a.given(1).map_or(Ok(u32::MAX), |_| a.nearest(call, 1, u32::MAX))?;
            if min > max {
                // The upper bound is applied last.
                call.warn(Fault::Note(format!("min ({min}) is above max ({max}): every TTL will be {max}")));
            }
            let types = a.given(2).map_or(Ok(Vec::new()), |v| types("the type", v))?;
            Ok(ResponseAction::LimitTtl(min, max, types.into()))
        },
    ),
    declared("SetMinTTLResponseAction", "seconds", "Raises TTLs to at least this.", |call, a| {
        a.nearest(call, 0, TTL_MAX).map(ResponseAction::SetMinTtl)
    }),
    declared("SetMaxTTLResponseAction", "seconds", "Limits TTLs to at most this.", |call, a| {
        a.nearest(call, 0, TTL_MAX).map(ResponseAction::SetMaxTtl)
    }),
    declared("SetReducedTTLResponseAction", "percent", "Reduces TTLs to this percentage.", |_, a| {
        a.byte(0, 100).map(ResponseAction::SetReducedTtl)
    }),
    declared(
        "SetMaxReturnedTTLResponseAction",
        "seconds",
        "Limits TTLs towards the client; a cache keeps the original ones.",
        |call, a| a.nearest(call, 0, TTL_MAX).map(ResponseAction::SetMaxReturnedTtl),
    ),
    declared(
        "ClearRecordTypesResponseAction",
        "type | {type, ...}",
        "Removes records of these types.",
        |call, a| {
            let types = types(a.what(0), a.at(0))?;
            if types.is_empty() {
                call.warn_empty_list("", "nothing is removed");
            }
            Ok(ResponseAction::ClearRecordTypes(types.into()))
        },
    ),
    declared("SetSkipCacheResponseAction", "", "Keeps it out of the cache.", |_, _| {
        Ok(ResponseAction::SetSkipCache)
    }),
    declared("SetTagResponseAction", "name, value", "Sets a tag.", |_, a| {
        tag(a).map(|(name, value)| ResponseAction::SetTag(name, value))
    }),
    declared("UnsetTagResponseAction", "name", "Removes a tag.", |_, a| {
        Ok(ResponseAction::UnsetTag(tag_name(a)?.into()))
    }),
    declared("SetEDNSOptionResponseAction", "code, data", "Sets an EDNS option.", |_, a| {
        option(a).map(|(code, data)| ResponseAction::SetEdnsOption(code, data))
    }),
    declared(
        "SetExtendedDNSErrorResponseAction",
        "code [, text [, clearExisting=true]]",
        "Adds an Extended DNS Error. `clearExisting` must be true.",
        |_, a| error(a).map(ResponseAction::SetExtendedDnsError),
    ),
    declared(
        "RestartResponseAction",
        "pool [, times=1]",
        "Sends the query again, to another pool, at most this many times per query (1 to 10); no effect on \
         zone transfers and self-answered rules. Not in dnsdist.",
        |_, a| {
            let times = a.whole_from(1, 1, RESTARTS_MAX.into())?;
            // The range bounds it.
            Ok(ResponseAction::Restart(pool(a, 0)?, u8::try_from(times).unwrap_or(1)))
        },
    ),
    declared(
        "LuaResponseAction",
        "function(dr)",
        "Performs what a Lua function returns, as `DNSResponseAction.Drop`.",
        |call, a| lua_action(call, a, Interface::Objects),
    ),
    declared("LuaFFIResponseAction", "function(dr)", "The same through LuaJIT's ffi.", |call, a| {
        lua_action(call, a, Interface::Ffi)
    }),
    declared(
        "LuaFFIPerThreadResponseAction",
        "text",
        "The same, with a text that returns the function.",
        |call, a| lua_action(call, a, Interface::Text),
    ),
];

/// Returns every action on answers.
pub fn response_actions() -> impl Iterator<Item = &'static Entry> {
    RESPONSE_ACTIONS.iter().map(|action| &action.entry)
}

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    define_actions(lua, context, RESPONSE_ACTIONS, RuleAction::Response)
}

fn lua_action(call: &mut Call<'_>, a: Arguments<'_>, interface: Interface) -> Result<ResponseAction, Fault> {
    let id = functions::record(call, FunctionKind::ResponseAction, interface, "", a.at(0));
    id.map(ResponseAction::Lua)
}
