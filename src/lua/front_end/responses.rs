//! dnsdist's response actions as Lua functions.

use std::sync::Arc;

use mlua::Lua;

use crate::config::error::Fault;
use crate::config::ruleset::{FunctionKind, Interface, RuleAction};
use crate::lua::front_end::actions::{Make, TTL_MAX, define_one, delay, error, log, option, tag};
use crate::lua::front_end::argument::whole;
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::functions;
use crate::lua::front_end::selectors::{pool, tag_name, types};
use crate::rules::action::RESTARTS_MAX;
use crate::rules::action::ResponseAction;

/// Each response action with its most arguments.
const MAKERS: [(&str, usize, Make<ResponseAction>); 20] = [
    ("AllowResponseAction", 0, |_, _| Ok(ResponseAction::Allow)),
    ("DropResponseAction", 0, |_, _| Ok(ResponseAction::Drop)),
    ("TCResponseAction", 0, |_, _| Ok(ResponseAction::Tc)),
    ("DelayResponseAction", 1, |_, a| delay(a).map(ResponseAction::Delay)),
    ("LogResponseAction", 5, |_, a| log(a, false, 1).map(|target| ResponseAction::Log(Arc::new(target)))),
    ("LimitTTLResponseAction", 3, |_, a| {
        let min = a.whole(0, "the minimum", TTL_MAX)?;
        let max = a.whole_or(1, "the maximum", u32::MAX, u32::MAX)?;
        if min > max {
            let wrong = format!("the minimum ({min}) is above the maximum ({max})");
            return Err(Fault::Conflict { wrong, expected: "bounds that a TTL is within".to_owned() });
        }
        let types = a.given(2).map_or(Ok(Vec::new()), |v| types("the types", v))?;
        Ok(ResponseAction::LimitTtl(min, max, types.into()))
    }),
    ("SetMinTTLResponseAction", 1, |_, a| a.whole(0, "", TTL_MAX).map(ResponseAction::SetMinTtl)),
    ("SetMaxTTLResponseAction", 1, |_, a| a.whole(0, "", TTL_MAX).map(ResponseAction::SetMaxTtl)),
    ("SetReducedTTLResponseAction", 1, |_, a| a.byte(0, "", 100).map(ResponseAction::SetReducedTtl)),
    ("SetMaxReturnedTTLResponseAction", 1, |_, a| {
        a.whole(0, "", TTL_MAX).map(ResponseAction::SetMaxReturnedTtl)
    }),
    ("ClearRecordTypesResponseAction", 1, |_, a| {
        let types = types("", a.at(0))?;
        if types.is_empty() {
            return Err(Fault::value("", "an empty list", "a type, as DNSQType.AAAA, or a list of them"));
        }
        Ok(ResponseAction::ClearRecordTypes(types.into()))
    }),
    ("SetSkipCacheResponseAction", 0, |_, _| Ok(ResponseAction::SetSkipCache)),
    ("SetTagResponseAction", 2, |_, a| tag(a).map(|(name, value)| ResponseAction::SetTag(name, value))),
    ("UnsetTagResponseAction", 1, |_, a| Ok(ResponseAction::UnsetTag(tag_name(a)?.into()))),
    ("SetEDNSOptionResponseAction", 2, |_, a| {
        option(a).map(|(code, data)| ResponseAction::SetEdnsOption(code, data))
    }),
    ("SetExtendedDNSErrorResponseAction", 3, |_, a| error(a).map(ResponseAction::SetExtendedDnsError)),
    ("RestartResponseAction", 2, |_, a| {
        let times = a.given(1).map_or(Ok(1), |v| whole("the times", v, 1, RESTARTS_MAX.into()))?;
        // The range bounds it.
        Ok(ResponseAction::Restart(pool("the pool", a.at(0))?, u8::try_from(times).unwrap_or(1)))
    }),
    ("LuaResponseAction", 1, |call, a| lua_action(call, a, Interface::Objects)),
    ("LuaFFIResponseAction", 1, |call, a| lua_action(call, a, Interface::Ffi)),
    ("LuaFFIPerThreadResponseAction", 1, |call, a| lua_action(call, a, Interface::Text)),
];

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for (name, most, make) in MAKERS {
        define_one(lua, context, name, most, make, RuleAction::Response)?;
    }
    Ok(())
}

fn lua_action(call: &mut Call<'_>, a: Arguments<'_>, interface: Interface) -> Result<ResponseAction, Fault> {
    let id = functions::record(call, FunctionKind::ResponseAction, interface, "", a.at(0));
    id.map(ResponseAction::Lua)
}
