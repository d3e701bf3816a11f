//! dnsdist's actions on queries as Lua functions, except answers of our own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::base::addr::BackendSlot;
use crate::base::time::TickDelta;
use crate::config::error::Fault;
use crate::config::functions::{ACTION_METHODS, Entry};
use crate::config::ruleset::{FunctionKind, Interface, RuleAction};
use crate::config::value;
use crate::lua::front_end::argument::{parsed, shown, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, bytes};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::{Declared, Methods, declared};
use crate::lua::front_end::missing::is_inert;
use crate::lua::front_end::networks::network;
use crate::lua::front_end::selectors::{DEPTH_MAX, stand_in};
use crate::lua::front_end::values::{bucket, pool, tag_name, tag_part};
use crate::lua::front_end::{every_function, functions, missing, nearest};
use crate::rules::action::DELAY_MS_MAX;
use crate::rules::action::{Action, ExtendedError, ProxyValue, Tee};
use crate::stats::log_queue::LogTarget;

/// The longest TTL (RFC 2181, 8).
pub(crate) const TTL_MAX: u32 = i32::MAX as u32;
/// Longest EDNS option, bytes: a query with it must still fit into a datagram.
const OPTION_BYTES: usize = 1024;

/// The actions on queries, besides those that answer them.
static ACTIONS: &[Declared<Action>] = &[
    declared(
        "AllowAction",
        "",
        "Sends the query to the pool chosen so far; no further rule is evaluated.",
        |_, _| Ok(Action::Allow),
    ),
    declared("DropAction", "", "Drops it.", |_, _| Ok(Action::Drop)),
    declared(
        "PoolAction",
        "pool [, stop=true]",
        "Chooses a pool. Later rules are evaluated only if `stop` is false.",
        |_, a| {
            let stop = a.switch(1)?;
            Ok(Action::Pool(pool(a, 0)?, !stop))
        },
    ),
    declared(
        "QPSAction",
        "qps",
        "Drops queries above this rate; below it, the next rule is evaluated.",
        |call, a| {
            let qps = a.nearest(call, 0, u32::MAX)?;
            Ok(Action::Qps(bucket(call, qps, qps)))
        },
    ),
    declared(
        "QPSPoolAction",
        "qps, pool [, stop=true]",
        "Chooses a pool within this rate; above it, the next rule is evaluated.",
        |call, a| {
            let qps = a.nearest(call, 0, u32::MAX)?;
            let stop = a.switch(2)?;
            let pool = pool(a, 1)?;
            Ok(Action::QpsPool(bucket(call, qps, qps), pool, !stop))
        },
    ),
    declared("DelayAction", "milliseconds", "Delays the answer; UDP only.", |call, a| {
        delay(call, a).map(Action::Delay)
    }),
    declared(
        "TeeAction",
        "\"IP[:PORT]\" [, addECS=false [, source [, addProxyProtocol=false]]]",
        "Sends a copy to another server and ignores its answer. `addProxyProtocol` must be false.",
        tee,
    ),
    declared(
        "ShadowAction",
        "pool",
        "Sends a query that goes to a server to a server of this pool too. The client gets nothing of that; both answers are compared: `showShadows()`.",
        |_, a| Ok(Action::Shadow(pool(a, 0)?)),
    ),
    declared(
        "LogAction",
        "[path [, binary=true [, append=false [, buffered=true [, verboseOnly=true [, includeTimestamp=false [, oneIn=1]]]]]]]",
        "Logs each query to a file, or to the log without a path; with `oneIn`, one of so many, at random.",
        |_, a| {
            let binary = a.switch(1)?;
            log(a, binary, 2).map(|target| Action::Log(Arc::new(target)))
        },
    ),
    declared("NoneAction", "", "No effect; the next rule is evaluated.", |_, _| Ok(Action::None)),
    declared("ContinueAction", "action", "Performs another action, then evaluates the next rule.", |_, a| {
        match action(a.what(0), a.at(0), false)? {
            RuleAction::Query(action) if action.depth() >= DEPTH_MAX.into() => {
                let what = format!("{} actions, each within the next one", action.depth() + 1);
                Err(Fault::Limit { what, limit: DEPTH_MAX.to_string() })
            }
            RuleAction::Query(action) => Ok(Action::Continue(Box::new(action))),
            RuleAction::Response(_) => Err(a.wrong(0, "an action on queries")),
        }
    }),
    declared(
        "SetTagAction",
        "name, value",
        "Sets a tag, which the response has too. A query with more than 64 tags, or 4096 bytes of them, becomes SERVFAIL.",
        |_, a| tag(a).map(|(name, value)| Action::SetTag(name, value)),
    ),
    declared("UnsetTagAction", "name", "Removes a tag.", |_, a| Ok(Action::UnsetTag(tag_name(a)?.into()))),
    declared(
        "SetProxyProtocolValuesAction",
        "{[type]=value, ...}",
        "Sets the values of the PROXY header towards the server, replacing those of the query.",
        |_, a| proxy_values(a).map(Action::SetProxyValues),
    ),
    declared(
        "SetAdditionalProxyProtocolValueAction",
        "type, value",
        "Adds a value to the PROXY header towards the server.",
        |_, a| {
            let kind = a.byte(0, u8::MAX)?;
            let value = a.bytes(1)?;
            check_proxy_bytes(a.what(1), a.at(1), value.len())?;
            Ok(Action::AddProxyValue(kind, value.into()))
        },
    ),
    declared("SetNoRecurseAction", "", "Clears RD towards the server.", |_, _| Ok(Action::SetNoRecurse)),
    declared("SetDisableValidationAction", "", "Sets CD towards the server.", |_, _| {
        Ok(Action::SetDisableValidation)
    }),
    declared("SetDisableECSAction", "", "Adds no client subnet.", |_, _| Ok(Action::SetEcs(false))),
    declared(
        "SetECSOverrideAction",
        "override",
        "Sets whether a query's own client subnet is replaced.",
        |_, a| a.switch(0).map(Action::SetEcsOverride),
    ),
    declared(
        "SetECSPrefixLengthAction",
        "v4, v6",
        "Sets the prefix lengths of the client subnet.",
        |call, a| {
            let v4 = a.nearest_byte(call, 0, 32)?;
            Ok(Action::SetEcsPrefixLength(v4, a.nearest_byte(call, 1, 128)?))
        },
    ),
    declared(
        "SetECSAction",
        "network [, network]",
        "Adds this subnet rather than the client's; of two, one is for IPv4 clients and one for IPv6 \
         clients; one alone is for all.",
        ecs,
    ),
    declared("SetEDNSOptionAction", "code, data", "Sets an EDNS option towards the server.", |_, a| {
        option(a).map(|(code, data)| Action::SetEdnsOption(code, data))
    }),
    declared(
        "SetExtendedDNSErrorAction",
        "code [, text [, clearExisting=true]]",
        "Adds an Extended DNS Error to the answer. `clearExisting` must be true.",
        |_, a| error(a).map(Action::SetExtendedDnsError),
    ),
    declared("SetMaxReturnedTTLAction", "seconds", "Limits the TTLs of the answer to this.", |call, a| {
        a.nearest(call, 0, TTL_MAX).map(Action::SetMaxReturnedTtl)
    }),
    declared("SetSkipCacheAction", "", "Bypasses the cache.", |_, _| Ok(Action::SetSkipCache)),
    declared(
        "SetTempFailureCacheTTLAction",
        "seconds",
        "Sets how long a cache keeps SERVFAIL and REFUSED.",
        |call, a| a.nearest(call, 0, TTL_MAX).map(Action::SetTempFailureCacheTtl),
    ),
    declared(
        "LuaAction",
        "function(dq)",
        "Performs what a Lua function returns, as `DNSAction.Pool, \"abuse\"`; it runs in the shard's \
         own Lua state, without a lock. After an error the query is answered with SERVFAIL \
         (`setLuaErrorAction`).",
        |call, a| lua_action(call, a, Interface::Objects),
    ),
    declared("LuaFFIAction", "function(dq)", "The same through LuaJIT's ffi.", |call, a| {
        lua_action(call, a, Interface::Ffi)
    }),
    declared(
        "LuaFFIPerThreadAction",
        "text",
        "The same, with a text that returns the function.",
        |call, a| lua_action(call, a, Interface::Text),
    ),
];

/// Returns every action on queries, besides those that answer them.
pub fn query_actions() -> impl Iterator<Item = &'static Entry> {
    ACTIONS.iter().map(|action| &action.entry)
}

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    define_actions(lua, context, ACTIONS, RuleAction::Query)
}

/// Defines the constructors of actions.
pub(crate) fn define_actions<T: 'static>(
    lua: &Lua,
    context: &Context,
    actions: &'static [Declared<T>],
    action: fn(T) -> RuleAction,
) -> mlua::Result<()> {
    for Declared { entry, make } in actions {
        context.define_entry(lua, entry, move |call, a| {
            let made = make(call, a).map(|made| ActionObject { name: entry.name, action: action(made) });
            stand_in(call, made)
        })?;
    }
    Ok(())
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
    let table = a.at(0).as_table().ok_or_else(|| a.wrong(0, VALUES))?;
    let mut values = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (kind, value) = pair?;
        let kind = u8::try_from(whole("the type", &kind, 0, u8::MAX.into())?).unwrap_or(u8::MAX);
        values.push((kind, bytes(&format!("the value of type {kind}"), &value)?.into_boxed_slice()));
    }
    values.sort_by_key(|(kind, _)| *kind);
    check_proxy_bytes(a.what(0), a.at(0), values.iter().map(|(_, v)| v.len()).sum())?;
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
        let mut all = Methods::new(methods, ACTION_METHODS);
        all.add("getStats", |lua, _, _| lua.create_table());
        all.add("printStats", |_, _, _| Ok(Value::Nil));
        // Log files are opened by the control plane, and again at each reload.
        all.add("reload", |_, _, _| Ok(Value::Nil));
        all.add("toString", |_, object, _| Ok(object.action.text()));
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
    let expected =
        if responses { "a response action, as DropResponseAction()" } else { "an action, as DropAction()" };
    let object = value.as_userdata().and_then(|u| u.borrow::<ActionObject>().ok().map(|d| (*d).clone()));
    let Some(object) = object else { return Err(wrong(what, value, expected)) };
    if matches!(object.action, RuleAction::Response(_)) == responses {
        return Ok(object.action);
    }
    let stem = object.name.trim_end_matches("Action").trim_end_matches("Response");
    let near = format!("{stem}{}", if responses { "ResponseAction" } else { "Action" });
    let known = every_function().any(|e| e.name == near);
    let (has, hint) = (
        if responses { "for queries" } else { "for answers" },
        if known { format!("{near}()") } else { expected.to_owned() },
    );
    Err(Fault::Conflict { wrong: format!("{}() is an action {has}", object.name), expected: hint })
}

/// Reads milliseconds, the first argument.
pub(crate) fn delay(call: &mut Call<'_>, a: Arguments<'_>) -> Result<TickDelta, Fault> {
    a.nearest(call, 0, DELAY_MS_MAX).map(|ms| TickDelta::from_ms(ms.into()))
}

/// Reads a tag's name and value.
pub(crate) fn tag(a: Arguments<'_>) -> Result<(Arc<str>, Arc<str>), Fault> {
    Ok((tag_name(a)?.into(), tag_part(a.what(1), a.at(1))?.into()))
}

/// Reads an EDNS option's code and data.
pub(crate) fn option(a: Arguments<'_>) -> Result<(u16, Arc<[u8]>), Fault> {
    let (code, data) = (a.word(0)?, a.bytes(1)?);
    if data.len() > OPTION_BYTES {
        return Err(Fault::value(a.what(1), format!("{} bytes", data.len()), "at most 1024"));
    }
    Ok((code, data.into()))
}

/// Reads an Extended DNS Error.
pub(crate) fn error(a: Arguments<'_>) -> Result<Arc<ExtendedError>, Fault> {
    /// What fits beside any question into the smallest datagram.
    const TEXT_BYTES: usize = 200;
    let text = a.given(1).map_or(Ok(String::new()), |_| a.text(1, "a text"))?;
    if text.len() > TEXT_BYTES {
        return Err(Fault::value(a.what(1), format!("{} bytes", text.len()), "at most 200"));
    }
    if !a.switch(2)? {
        return Err(missing::fault("keeping other Extended DNS Errors", "leave clearExisting out"));
    }
    Ok(Arc::new(ExtendedError { code: a.word(0)?, text }))
}

/// Reads the target of a log action; the switches begin at argument `from`.
pub(crate) fn log(a: Arguments<'_>, binary: bool, from: usize) -> Result<LogTarget, Fault> {
    let path = a.given(0).map_or(Ok(String::new()), |_| a.text(0, "the path of a file"))?;
    if path.contains('\0') {
        return Err(a.wrong(0, "the path of a file"));
    }
    Ok(LogTarget {
        // The program's own log has no binary form.
        binary: binary && !path.is_empty(),
        path,
        append: a.switch(from)?,
        buffered: a.switch(from + 1)?,
        verbose_only: a.switch(from + 2)?,
        timestamp: a.switch(from + 3)?,
        one_in: a.given(from + 4).map_or(Ok(1), |v| whole(a.what(from + 4), v, 1, u32::MAX))?,
    })
}

fn tee(_: &mut Call<'_>, a: Arguments<'_>) -> Result<Action, Fault> {
    const SOURCE: &str = "an address to send from, of the same family";
    let address: SocketAddr = parsed("the server", a.at(0), value::ADDRESS, value::address)?;
    let add_ecs = a.switch(1)?;
    let read =
        |text: &str| text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == address.is_ipv4()).ok_or(SOURCE);
    let source = a.given(2).map(|v| parsed(a.what(2), v, SOURCE, read)).transpose()?;
    if a.switch(3)? {
        return Err(missing::fault("the PROXY protocol towards a server", "leave addProxyProtocol out"));
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
pub(crate) fn ttl(call: &mut Call<'_>, what: &str, value: &Value) -> Result<u32, Fault> {
    nearest::whole(call, what, value, 0, TTL_MAX)
}
