//! dnsdist's actions on queries as Lua functions, except answers of our own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::base::addr::BackendSlot;
use crate::base::time::TickDelta;
use crate::config::error::Fault;
use crate::config::functions::{ACTIONS, RESPONSE_ACTIONS};
use crate::config::ruleset::{FunctionKind, Interface, RuleAction};
use crate::config::value;
use crate::lua::front_end::argument::{parsed, shown, switch, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, bytes};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::missing::is_inert;
use crate::lua::front_end::networks::network;
use crate::lua::front_end::selectors::{DEPTH_MAX, bucket, pool, stand_in, tag_name, tag_part};
use crate::lua::front_end::{answers, functions, missing};
use crate::rules::action::DELAY_MS_MAX;
use crate::rules::action::{Action, ExtendedError, ProxyValue, Tee};
use crate::stats::log_queue::LogTarget;

/// The longest TTL (RFC 2181, 8).
pub(crate) const TTL_MAX: u32 = i32::MAX as u32;
/// Longest EDNS option, bytes: a query with it must still fit into a datagram.
const OPTION_BYTES: usize = 1024;

/// Creates an action from its arguments.
pub(crate) type Make<T> = fn(&mut Call<'_>, Arguments<'_>) -> Result<T, Fault>;

/// Each action with its most arguments.
const MAKERS: [(&str, usize, Make<Action>); 28] = [
    ("AllowAction", 0, |_, _| Ok(Action::Allow)),
    ("DropAction", 0, |_, _| Ok(Action::Drop)),
    ("PoolAction", 2, |_, a| {
        let stop = a.switch_or(1, "the second argument", true)?;
        Ok(Action::Pool(pool("the pool", a.at(0))?, !stop))
    }),
    ("QPSAction", 1, |call, a| {
        let qps = a.whole(0, "", u32::MAX)?;
        Ok(Action::Qps(bucket(call, qps, qps)))
    }),
    ("QPSPoolAction", 3, |call, a| {
        let qps = a.whole(0, "the rate", u32::MAX)?;
        let stop = a.switch_or(2, "the third argument", true)?;
        let pool = pool("the pool", a.at(1))?;
        Ok(Action::QpsPool(bucket(call, qps, qps), pool, !stop))
    }),
    ("DelayAction", 1, |_, a| delay(a).map(Action::Delay)),
    ("TeeAction", 4, tee),
    ("LogAction", 6, |_, a| {
        let binary = a.switch_or(1, "binary", true)?;
        log(a, binary, 2).map(|target| Action::Log(Arc::new(target)))
    }),
    ("NoneAction", 0, |_, _| Ok(Action::None)),
    ("ContinueAction", 1, |_, a| match action("", a.at(0), false)? {
        RuleAction::Query(action) if action.depth() >= DEPTH_MAX.into() => {
            let what = format!("{} actions, each within the next one", action.depth() + 1);
            Err(Fault::Limit { what, limit: DEPTH_MAX.to_string() })
        }
        RuleAction::Query(action) => Ok(Action::Continue(Box::new(action))),
        RuleAction::Response(_) => Err(wrong("", a.at(0), "an action on queries")),
    }),
    ("SetTagAction", 2, |_, a| tag(a).map(|(name, value)| Action::SetTag(name, value))),
    ("UnsetTagAction", 1, |_, a| Ok(Action::UnsetTag(tag_name(a)?.into()))),
    ("SetProxyProtocolValuesAction", 1, |_, a| proxy_values(a).map(Action::SetProxyValues)),
    ("SetAdditionalProxyProtocolValueAction", 2, |_, a| {
        let kind = a.byte(0, "the type", u8::MAX)?;
        let value = a.bytes(1, "the value")?;
        check_proxy_bytes("the value", a.at(1), value.len())?;
        Ok(Action::AddProxyValue(kind, value.into()))
    }),
    ("SetNoRecurseAction", 0, |_, _| Ok(Action::SetNoRecurse)),
    ("SetDisableValidationAction", 0, |_, _| Ok(Action::SetDisableValidation)),
    ("SetDisableECSAction", 0, |_, _| Ok(Action::SetEcs(false))),
    ("SetECSOverrideAction", 1, |_, a| switch("", a.at(0)).map(Action::SetEcsOverride)),
    ("SetECSPrefixLengthAction", 2, |_, a| {
        let v4 = a.byte(0, "the IPv4 prefix length", 32)?;
        Ok(Action::SetEcsPrefixLength(v4, a.byte(1, "the IPv6 prefix length", 128)?))
    }),
    ("SetECSAction", 2, ecs),
    ("SetEDNSOptionAction", 2, |_, a| option(a).map(|(code, data)| Action::SetEdnsOption(code, data))),
    ("SetExtendedDNSErrorAction", 3, |_, a| error(a).map(Action::SetExtendedDnsError)),
    ("SetMaxReturnedTTLAction", 1, |_, a| a.whole(0, "", TTL_MAX).map(Action::SetMaxReturnedTtl)),
    ("SetSkipCacheAction", 0, |_, _| Ok(Action::SetSkipCache)),
    ("SetTempFailureCacheTTLAction", 1, |_, a| a.whole(0, "", TTL_MAX).map(Action::SetTempFailureCacheTtl)),
    ("LuaAction", 1, |call, a| lua_action(call, a, Interface::Objects)),
    ("LuaFFIAction", 1, |call, a| lua_action(call, a, Interface::Ffi)),
    ("LuaFFIPerThreadAction", 1, |call, a| lua_action(call, a, Interface::Text)),
];

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for (name, most, make) in MAKERS.into_iter().chain(answers::MAKERS) {
        define_one(lua, context, name, most, make, RuleAction::Query)?;
    }
    Ok(())
}

/// Defines the constructor of one action.
pub(crate) fn define_one<T: 'static>(
    lua: &Lua,
    context: &Context,
    name: &'static str,
    most: usize,
    make: Make<T>,
    action: fn(T) -> RuleAction,
) -> mlua::Result<()> {
    context.define(lua, name, move |call, values| {
        let arguments = Arguments(values);
        let made = arguments.at_most(most).and_then(|()| make(call, arguments));
        let made = made.map(|made| ActionObject { name, action: action(made) });
        stand_in(call, made)
    })
}

/// Most bytes of PROXY header values set by rules: a query with them must still fit into a
/// datagram.
const PROXY_BYTES: usize = 1024;

fn check_proxy_bytes(what: &str, v: &Value, bytes: usize) -> Result<(), Fault> {
    if bytes <= PROXY_BYTES {
        return Ok(());
    }
    Err(wrong(what, v, format!("at most {PROXY_BYTES} bytes in all")))
}

/// Reads values of a PROXY header by type, as `{[42]="text"}`, in the order of the types.
fn proxy_values(a: Arguments<'_>) -> Result<Arc<[ProxyValue]>, Fault> {
    const VALUES: &str = "a table of values by type, as {[42]=\"text\"}";
    let table = a.at(0).as_table().ok_or_else(|| wrong("", a.at(0), VALUES))?;
    let mut values = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (kind, value) = pair?;
        let kind = u8::try_from(whole("the type", &kind, 0, u8::MAX.into())?).unwrap_or(u8::MAX);
        values.push((kind, bytes(&format!("the value of type {kind}"), &value)?.into_boxed_slice()));
    }
    values.sort_by_key(|(kind, _)| *kind);
    check_proxy_bytes("", a.at(0), values.iter().map(|(_, v)| v.len()).sum())?;
    Ok(values.into())
}

/// An action as a Lua object.
#[derive(Clone, Debug)]
pub(crate) struct ActionObject {
    /// Its constructor.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) action: RuleAction,
}

impl UserData for ActionObject {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("getStats", |lua, _, ()| lua.create_table());
        // Log files are opened by the control plane, and again at each reload.
        methods.add_method("reload", |_, _, ()| Ok(()));
        methods.add_method("toString", |_, object, ()| Ok(object.action.text()));
        methods.add_meta_method(MetaMethod::ToString, |_, object, ()| Ok(object.action.text()));
    }
}

/// Reads an action of the kind that the caller expects.
pub(crate) fn action(what: &str, value: &Value, responses: bool) -> Result<RuleAction, Fault> {
    // A missing or invalid action was reported already.
    if is_inert(value) {
        let stand_in = crate::rules::action::ResponseAction::None;
        return Ok(if responses { RuleAction::Response(stand_in) } else { RuleAction::Query(Action::None) });
    }
    let (expected, table) = if responses {
        ("a response action, as DropResponseAction()", RESPONSE_ACTIONS)
    } else {
        ("an action, as DropAction()", ACTIONS)
    };
    let object = value.as_userdata().and_then(|u| u.borrow::<ActionObject>().ok().map(|d| (*d).clone()));
    let Some(object) = object else { return Err(wrong(what, value, expected)) };
    if matches!(object.action, RuleAction::Response(_)) == responses {
        return Ok(object.action);
    }
    let stem = object.name.trim_end_matches("Action").trim_end_matches("Response");
    let near = format!("{stem}{}", if responses { "ResponseAction" } else { "Action" });
    let known = table.iter().any(|e| e.name == near);
    let (has, hint) = (
        if responses { "for queries" } else { "for answers" },
        if known { format!("{near}()") } else { expected.to_owned() },
    );
    Err(Fault::Conflict { wrong: format!("{}() is an action {has}", object.name), expected: hint })
}

/// Reads milliseconds, the first argument.
pub(crate) fn delay(a: Arguments<'_>) -> Result<TickDelta, Fault> {
    a.whole(0, "", DELAY_MS_MAX).map(|ms| TickDelta::from_ms(ms.into()))
}

/// Reads a tag's name and value.
pub(crate) fn tag(a: Arguments<'_>) -> Result<(Arc<str>, Arc<str>), Fault> {
    Ok((tag_name(a)?.into(), tag_part("the value", a.at(1))?.into()))
}

/// Reads an EDNS option's code and data.
pub(crate) fn option(a: Arguments<'_>) -> Result<(u16, Arc<[u8]>), Fault> {
    let (code, data) = (a.word(0, "the code")?, a.bytes(1, "the data")?);
    if data.len() > OPTION_BYTES {
        return Err(Fault::value("the data", format!("{} bytes", data.len()), "at most 1024"));
    }
    Ok((code, data.into()))
}

/// Reads an Extended DNS Error.
pub(crate) fn error(a: Arguments<'_>) -> Result<Arc<ExtendedError>, Fault> {
    /// What fits beside any question into the smallest datagram.
    const TEXT_BYTES: usize = 200;
    let text = a.given(1).map_or(Ok(String::new()), |_| a.text(1, "the text", "a text"))?;
    if text.len() > TEXT_BYTES {
        return Err(Fault::value("the text", format!("{} bytes", text.len()), "at most 200"));
    }
    if !a.switch_or(2, "the third argument", true)? {
        return Err(missing::fault("keeping other Extended DNS Errors", "leave the third argument out"));
    }
    Ok(Arc::new(ExtendedError { code: a.word(0, "the code")?, text }))
}

/// Reads the target of a log action; the switches begin at argument `from`.
pub(crate) fn log(a: Arguments<'_>, binary: bool, from: usize) -> Result<LogTarget, Fault> {
    let path = a.given(0).map_or(Ok(String::new()), |_| a.text(0, "the path", "the path of a file"))?;
    if path.contains('\0') {
        return Err(wrong("the path", a.at(0), "the path of a file"));
    }
    Ok(LogTarget {
        // The program's own log has no binary form.
        binary: binary && !path.is_empty(),
        path,
        append: a.switch_or(from, "append", false)?,
        buffered: a.switch_or(from + 1, "buffered", true)?,
        verbose_only: a.switch_or(from + 2, "verboseOnly", true)?,
        timestamp: a.switch_or(from + 3, "includeTimestamp", false)?,
    })
}

fn tee(_: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    const SOURCE: &str = "an address to send from, of the same family";
    let address: SocketAddr = parsed("the server", a.at(0), value::ADDRESS, value::address)?;
    let add_ecs = a.switch_or(1, "addECS", false)?;
    let read =
        |text: &str| text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == address.is_ipv4()).ok_or(SOURCE);
    let source = a.given(2).map(|v| parsed("the source", v, SOURCE, read)).transpose()?;
    if a.switch_or(3, "addProxyProtocol", false)? {
        return Err(missing::fault("the PROXY protocol towards a server", "leave the fourth argument out"));
    }
    Ok(Action::Tee(Arc::new(Tee { address, add_ecs, source }), BackendSlot(0)))
}

fn ecs(_: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    let (mut v4, mut v6) = (None, None);
    for (at, what) in [(0, "the first network"), (1, "the second network")] {
        let Some(value) = a.given(at).or_else(|| (at == 0).then(|| a.at(0))) else { continue };
        let network = network(what, value)?;
        let length = network.length();
        let again = match network.ip() {
            IpAddr::V4(ip) => v4.replace((ip, length)).is_some(),
            IpAddr::V6(ip) => v6.replace((ip, length)).is_some(),
        };
        if again {
            let wrong = format!("{what} is of the same family as the first: {}", shown(value));
            return Err(Fault::Conflict { wrong, expected: "one IPv4 and one IPv6 network".to_owned() });
        }
    }
    Ok(Action::SetEcsTo(v4, v6))
}

fn lua_action(call: &mut Call<'_>, a: Arguments<'_>, interface: Interface) -> Result<Action, Fault> {
    functions::record(call, FunctionKind::Action, interface, "", a.at(0)).map(Action::Lua)
}

/// Reads an optional whole number of seconds.
pub(crate) fn ttl(what: &str, value: &Value) -> Result<u32, Fault> {
    whole(what, value, 0, TTL_MAX)
}
