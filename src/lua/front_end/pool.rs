//! Policies and pools as Lua objects.

use mlua::{Lua, MetaMethod, UserData, UserDataFields, UserDataMethods, Value};

use crate::base::time::TickDelta;
use crate::config::error::{Fault, Sited};
use crate::config::functions::needs::HASH_NEEDS;
use crate::config::functions::policies::{CONCENTRATE, kind, name};
use crate::config::functions::{POLICIES, POOL_METHODS};
use crate::config::ruleset::{FunctionKind, Interface};
use crate::lua::front_end::argument::{fraction, named, percent, shown, span, switch, whole, wrong};
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::Methods;
use crate::lua::front_end::missing::is_inert;
use crate::lua::front_end::values::{POOL, label};
use crate::lua::front_end::{cache, functions, missing, needs};
use crate::model::policy::{Concentrate, HashKey, Kind, Policy};
use crate::model::{Eject, Retry};

/// An hour, the longest span of any pool setting, milliseconds.
const HOUR_MS: f64 = 3_600_000.0;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for policy in POLICIES {
        if let Some(kind) = kind(policy) {
            lua.globals()
                .raw_set(policy, PolicyObject { policy: Policy::new(kind), context: context.clone() })?;
        }
    }
    define_combinators(lua, context)?;
    define_written(lua, context)?;
    context.define(lua, "setServerPolicy", |call, a| {
        let policy = policy(a.at(0))?;
        call.draft.policy = Some(Sited { value: policy, origin: call.origin.clone() });
        Ok(Value::Nil)
    })?;
    context.define(lua, "setPoolServerPolicy", |call, a| {
        let policy = policy(a.at(0))?;
        let pool = label(a.what(1), a.at(1), POOL)?;
        set_policy(call, &pool, policy);
        Ok(Value::Nil)
    })?;
    let own = context.clone();
    context.define(lua, "getPool", move |call, a| {
        let name = label(a.what(0), a.at(0), POOL)?;
        let origin = call.origin.clone();
        call.draft.pool(&name).origin.get_or_insert(origin);
        Ok(Value::UserData(call.lua.create_userdata(PoolObject { context: own.clone(), name })?))
    })?;
    context.define(lua, "rmPool", |call, a| {
        let name = label(a.what(0), a.at(0), POOL)?;
        Ok(Value::Boolean(call.draft.remove_pool(&name)))
    })?;
    for (name, set) in POOL_SETTERS {
        context.define(lua, name, move |call, a| set(call, "", a.at(0)).map(|()| Value::Nil))?;
    }
    Ok(())
}

/// A policy as a Lua object; `concentrate` can be called with options.
#[derive(Clone, Debug)]
pub(crate) struct PolicyObject {
    policy: Policy,
    context: Context,
}

impl PolicyObject {
    /// Returns whether it is written in Lua.
    pub(crate) fn is_written(&self) -> bool {
        matches!(self.policy.kind, Kind::Lua(_))
    }
}

impl UserData for PolicyObject {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("name", |_, object| Ok(name(object.policy.kind)));
        fields.add_field_method_get("isLua", |_, object| Ok(matches!(object.policy.kind, Kind::Lua(_))));
        // Functions per query call it, in the shards' states.
        fields.add_field_method_get("policy", |lua, object| {
            let name = name(object.policy.kind);
            lua.create_function(move |_, _: ()| -> mlua::Result<Value> {
                let message = format!("{name}.policy can be called only by functions that are run per query");
                Err(mlua::Error::runtime(message))
            })
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, object, ()| Ok(name(object.policy.kind)));
        methods.add_meta_method(MetaMethod::Call, |lua, object, (options, surplus): (Value, Value)| {
            let function = name(object.policy.kind);
            let mut made = object.clone();
            object.context.call(lua, function, |call| {
                if !surplus.is_nil() {
                    call.fail(Fault::Conflict {
                        wrong: "called with more than one argument".to_owned(),
                        expected: "the options alone, as {name=value}".to_owned(),
                    });
                } else if made.policy.kind == Kind::Concentrate {
                    concentrate(call, &mut made.policy.concentrate, &options);
                } else {
                    call.fail(Fault::Conflict {
                        wrong: "the policy takes no options".to_owned(),
                        expected: format!("its name alone: {function}"),
                    });
                }
                Ok(Value::Nil)
            })?;
            Ok(made)
        });
    }
}

/// Reads a policy.
fn policy(value: &Value) -> Result<Policy, Fault> {
    if is_inert(value) {
        return Ok(Policy::new(Kind::LeastOutstanding));
    }
    if value.is_function() {
        return Err(wrong("", value, "a policy, as newServerPolicy(\"name\", function)"));
    }
    let object = value.as_userdata().and_then(|u| u.borrow::<PolicyObject>().ok().map(|c| c.policy.clone()));
    object.ok_or_else(|| {
        let hint = match value {
            Value::String(_) => " by its name without quotes",
            Value::Nil => " (is its name misspelt?)",
            _ => "",
        };
        wrong("", value, format!("a policy{hint}: {}", POLICIES.join(", ")))
    })
}

fn define_combinators(lua: &Lua, context: &Context) -> mlua::Result<()> {
    type Change = fn(&mut Call<'_>, &mut Policy, Arguments<'_>) -> Result<(), Fault>;
    let changes: [(&'static str, Change); 3] = [
        ("ordered", |_, policy, _| {
            policy.ordered = true;
            Ok(())
        }),
        ("hashBy", hash_by),
        ("bounded", |_, policy, a| {
            use Kind::{CHashed, Concentrate, OrderedWRandUntag, WHashed, WRandom};
            if !matches!(policy.kind, WRandom | WHashed | CHashed | OrderedWRandUntag | Concentrate) {
                return Err(unsupported(
                    policy,
                    "wrandom, whashed, chashed, orderedWrandUntag or concentrate",
                ));
            }
            let factor = fraction(a.what(1), a.at(1), 1.0, 1000.0)?;
            policy.bounded = Some(factor);
            Ok(())
        }),
    ];
    for (name, change) in changes {
        let own = context.clone();
        context.define(lua, name, move |call, a| {
            let mut made = policy(a.at(0)).unwrap_or_else(|fault| {
                call.fail(fault);
                Policy::new(Kind::WHashed)
            });
            if let Err(fault) = change(call, &mut made, a) {
                call.fail(fault);
            }
            Ok(Value::UserData(
                call.lua.create_userdata(PolicyObject { policy: made, context: own.clone() })?,
            ))
        })?;
    }
    Ok(())
}

/// The functions that create or set a policy written in Lua: its interface, and whether for one
/// pool.
const WRITTEN: [(&str, Interface, bool); 6] = [
    ("setServerPolicyLua", Interface::Objects, false),
    ("setServerPolicyLuaFFI", Interface::Ffi, false),
    ("setServerPolicyLuaFFIPerThread", Interface::Text, false),
    ("setPoolServerPolicyLua", Interface::Objects, true),
    ("setPoolServerPolicyLuaFFI", Interface::Ffi, true),
    ("setPoolServerPolicyLuaFFIPerThread", Interface::Text, true),
];

fn define_written(lua: &Lua, context: &Context) -> mlua::Result<()> {
    let own = context.clone();
    context.define(lua, "newServerPolicy", move |call, a| {
        let made = written(call, a, Interface::Objects).unwrap_or_else(|fault| {
            call.fail(fault);
            Policy::new(Kind::LeastOutstanding)
        });
        Ok(Value::UserData(call.lua.create_userdata(PolicyObject { policy: made, context: own.clone() })?))
    })?;
    for (name, interface, pooled) in WRITTEN {
        context.define(lua, name, move |call, a| {
            let policy = written(call, a, interface)?;
            if pooled {
                set_policy(call, &label(a.what(2), a.at(2), POOL)?, policy);
            } else {
                call.draft.policy = Some(Sited { value: policy, origin: call.origin.clone() });
            }
            Ok(Value::Nil)
        })?;
    }
    Ok(())
}

/// Reads a name and a function.
fn written(call: &mut Call<'_>, a: Arguments<'_>, interface: Interface) -> Result<Policy, Fault> {
    a.text(0, "a name")?;
    let function = functions::record(call, FunctionKind::Policy, interface, a.what(1), a.at(1))?;
    Ok(Policy::new(Kind::Lua(function)))
}

fn unsupported(policy: &Policy, expected: &str) -> Fault {
    Fault::Conflict {
        wrong: format!("{} does not take this", name(policy.kind)),
        expected: expected.to_owned(),
    }
}

fn hash_by(call: &mut Call<'_>, policy: &mut Policy, a: Arguments<'_>) -> Result<(), Fault> {
    const KEYS: &str = "\"qname\", \"zone\", \"client\" or \"clientPrefix\"";
    if !matches!(policy.kind, Kind::WHashed | Kind::CHashed | Kind::Concentrate) {
        return Err(unsupported(policy, "whashed, chashed or concentrate"));
    }
    let (mut labels, mut v4, mut v6) = (2_u32, 24_u32, 56_u32);
    if let Some(options) = a.given(2) {
        let mut entries = named(a.what(2), options)?;
        for (name, v) in &entries {
            match name.as_str() {
                "labels" => labels = whole(name, v, 1, 127)?,
                "v4" => v4 = whole(name, v, 0, 32)?,
                "v6" => v6 = whole(name, v, 0, 128)?,
                _ => call.unknown("option", name, ["labels", "v4", "v6"]),
            }
        }
        entries.push(("key".to_owned(), a.at(1).clone()));
        needs::check(call, &entries, HASH_NEEDS.iter());
    }
    // The ranges above bound these.
    let byte = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
    policy.hash_key = match a.text(1, KEYS)?.as_str() {
        "qname" => HashKey::QName,
        "zone" => HashKey::Zone(byte(labels)),
        "client" => HashKey::Client,
        "clientPrefix" => HashKey::ClientPrefix(byte(v4), byte(v6)),
        _ => return Err(a.wrong(1, KEYS)),
    };
    Ok(())
}

fn concentrate(call: &mut Call<'_>, to: &mut Concentrate, options: &Value) {
    let entries = named("the argument", options).unwrap_or_else(|fault| {
        call.fail(fault);
        Vec::new()
    });
    for (name, v) in entries {
        if let Err(fault) = concentrate_option(call, to, &name, &v) {
            call.fail(fault);
        }
    }
    if to.good_factor > to.full_factor {
        call.fail(Fault::Conflict {
            wrong: format!("goodFactor ({}) is above fullFactor ({})", to.good_factor, to.full_factor),
            expected: "a server that is full not to be good".to_owned(),
        });
    }
}

fn concentrate_option(call: &mut Call<'_>, to: &mut Concentrate, name: &str, v: &Value) -> Result<(), Fault> {
    let time = |min_ms: f64, max_ms: f64| -> Result<TickDelta, Fault> { span(name, v, 1, min_ms, max_ms) };
    match name {
        "fullFactor" => to.full_factor = fraction(name, v, 1.0, 1000.0)?,
        "fullMargin" => to.full_margin = time(0.0, 10_000.0)?,
        "fullTimeouts" => to.full_timeouts_ppm = percent(name, v)?,
        "capFactor" => to.cap_factor = fraction(name, v, 0.01, 1.0)?,
        "raiseFactor" => to.raise_factor = fraction(name, v, 1.0, 10.0)?,
        "raiseInterval" => to.raise_interval = time(100.0, HOUR_MS)?,
        "goodFactor" => to.good_factor = fraction(name, v, 1.0, 1000.0)?,
        "shrinkLoad" => to.shrink_load = fraction(name, v, 0.01, 1.0)?,
        "shrinkAfter" => to.shrink_after = time(0.0, 24.0 * HOUR_MS)?,
        "joinShare" => to.join_share = fraction(name, v, 0.001, 1.0)?,
        "joinDouble" => to.join_double = time(100.0, HOUR_MS)?,
        "standbyShare" => to.standby_share = fraction(name, v, 0.0, 0.5)?,
        "spreadAfterDeath" => to.spread_after_death = time(0.0, HOUR_MS)?,
        "window" => to.window = time(10.0, 60_000.0)?,
        "floorSpan" => to.floor_span = time(1000.0, 24.0 * HOUR_MS)?,
        _ => call.unknown("option", name, CONCENTRATE.iter().map(|(n, _)| *n)),
    }
    Ok(())
}

/// A setter of a pool, given the pool's name.
type SetPool = fn(&mut Call<'_>, &str, &Value) -> Result<(), Fault>;

/// Methods of pools, and functions for the default pool.
const POOL_SETTERS: [(&str, SetPool); 4] = [
    ("setRetry", |call, pool, v| {
        let retry = retry(call, v)?;
        call.draft.pool(pool).retry = Some(retry);
        Ok(())
    }),
    ("setPanicThreshold", |call, pool, v| {
        let ppm = percent("", v)?;
        call.draft.pool(pool).panic_ppm = ppm;
        Ok(())
    }),
    ("setEjection", |call, pool, v| {
        let eject = eject(call, v)?;
        call.draft.pool(pool).eject = Some(eject);
        Ok(())
    }),
    ("setTCPToUDP", |call, pool, v| {
        call.draft.pool(pool).tcp_to_udp = switch("", v)?;
        Ok(())
    }),
];

fn retry(call: &mut Call<'_>, v: &Value) -> Result<Retry, Fault> {
    let (mut after, mut budget_ppm) = (None, 100_000);
    for (name, v) in named("the argument", v)? {
        match name.as_str() {
            "after" => after = Some(span(&name, &v, 1, 1.0, 300_000.0)?),
            "budget" => budget_ppm = percent(&name, &v)?,
            _ => call.unknown("option", &name, ["after", "budget"]),
        }
    }
    let after = after.ok_or_else(|| Fault::value("after", "missing", "a number of milliseconds"))?;
    Ok(Retry { after, budget_ppm })
}

fn eject(call: &mut Call<'_>, v: &Value) -> Result<Eject, Fault> {
    let mut eject = Eject {
        excess_ppm: 200_000,
        span: TickDelta::from_ms(30_000),
        share_max_ppm: 500_000,
        queries_min: 100,
    };
    for (name, v) in named("the argument", v)? {
        match name.as_str() {
            "excess" => eject.excess_ppm = percent(&name, &v)?,
            "time" => eject.span = span(&name, &v, 1, 1000.0, 24.0 * HOUR_MS)?,
            "share" => eject.share_max_ppm = percent(&name, &v)?,
            "queries" => eject.queries_min = whole(&name, &v, 1, 1_000_000)?,
            _ => call.unknown("option", &name, ["excess", "time", "share", "queries"]),
        }
    }
    Ok(eject)
}

fn set_policy(call: &mut Call<'_>, pool: &str, policy: Policy) {
    let sited = Sited { value: policy, origin: call.origin.clone() };
    call.draft.pool(pool).policy = Some(sited);
}

/// A pool as a Lua object: its name.
#[derive(Clone, Debug)]
pub(crate) struct PoolObject {
    context: Context,
    name: String,
}

impl UserData for PoolObject {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, POOL_METHODS);
        let context: fn(&Self) -> &Context = |pool| &pool.context;
        for (name, set) in POOL_SETTERS {
            all.add_recorded(name, context, move |call, pool, a| {
                set(call, &pool.name, a.at(0)).map(|()| Value::Nil)
            });
        }
        all.add_recorded("setServerPolicy", context, |call, pool, a| {
            set_policy(call, &pool.name, policy(a.at(0))?);
            Ok(Value::Nil)
        });
        all.add_recorded("setDisableZeroScope", context, |call, pool, a| {
            call.draft.pool(&pool.name).disable_zero_scope = switch("", a.at(0))?;
            Ok(Value::Nil)
        });
        all.add("getName", |_, pool, _| Ok(pool.name.clone()));
        all.add_recorded("setCache", context, |call, pool, a| {
            cache::set(call, &pool.name, a.at(0)).map(|()| Value::Nil)
        });
        all.add_recorded("unsetCache", context, |call, pool, _| {
            call.draft.pool(&pool.name).cache = None;
            Ok(Value::Nil)
        });
        all.add_recorded("getCache", context, |call, pool, _| {
            cache::of_pool(call, &pool.context, &pool.name)
        });
        for name in ["setECS", "getECS"] {
            methods.add_method(name, move |lua, pool, v: Value| {
                pool.context.call(lua, name, |_| {
                    let what = if v.is_nil() {
                        "the method".to_owned()
                    } else {
                        format!("the method (with {})", shown(&v))
                    };
                    Err(missing::fault(&what, "remove it: pools change no client subnet"))
                })
            });
        }
        methods.add_meta_method(MetaMethod::ToString, |_, pool, ()| Ok(pool.name.clone()));
    }
}
