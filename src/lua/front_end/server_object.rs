//! The server object.

use mlua::{Lua, MetaMethod, UserData, UserDataFields, UserDataMethods, Value};

use crate::config::compile::DEFAULT_POOL;
use crate::config::draft::{Draft, DraftServer, Handle};
use crate::config::error::Fault;
use crate::config::functions::SERVER_METHODS;
use crate::lua::front_end::argument::{number, shown, text, wrong};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::Methods;
use crate::lua::front_end::server::WEIGHT_MAX;
use crate::lua::front_end::values::{POOL, label};
use crate::lua::front_end::view::ServerView;
use crate::lua::front_end::{missing, nearest};
use crate::model::HealthMode;

/// A server as a Lua object: its index in the draft, if that is still the same server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    context: Context,
    at: usize,
    handle: Handle,
}

/// Creates the object of the server with this index.
pub(crate) fn object(call: &Call<'_>, context: &Context, at: usize) -> Result<Value, Fault> {
    let (context, handle) = (context.clone(), call.draft.servers[at].handle.clone());
    Ok(Value::UserData(call.lua.create_userdata(Server { context, at, handle })?))
}

impl Server {
    /// Returns its index in the draft.
    ///
    /// # Errors
    /// The command that made it was refused.
    pub(crate) fn at(&self, draft: &Draft) -> Result<usize, Fault> {
        let there = draft.servers.get(self.at).filter(|server| server.handle.is(&self.handle));
        there.map(|_| self.at).ok_or_else(|| gone("what made it was refused"))
    }

    /// Returns the index of a server that a method is to change.
    fn to_change(&self, call: &Call<'_>) -> Result<usize, Fault> {
        let at = self.at(call.draft)?;
        // In a file, as in dnsdist, it changes nothing.
        if call.session.is_some() && call.draft.servers[at].removed {
            return Err(gone("it was removed"));
        }
        Ok(at)
    }

    /// Calls a getter.
    fn get(&self, lua: &Lua, name: &str, get: Get) -> mlua::Result<Value> {
        self.context.look(lua, name, |call| {
            let server = &call.draft.servers[self.at(call.draft)?];
            let running = call.session.as_mut().and_then(|s| s.server(&server.identity()));
            get(call.lua, server, running)
        })
    }
}

fn gone(why: &str) -> Fault {
    let expected = "one of getServers()".to_owned();
    Fault::Conflict { wrong: format!("the server does not exist: {why}"), expected }
}

/// A getter, of what is configured and what runs.
type Get = fn(&Lua, &DraftServer, Option<ServerView>) -> Result<Value, Fault>;
/// A method with at most one argument, of the server with this index.
type Method = fn(&mut Call<'_>, usize, &Value) -> Result<(), Fault>;

fn string(lua: &Lua, text: &str) -> Result<Value, Fault> {
    Ok(Value::String(lua.create_string(text)?))
}

const FIELDS: [(&str, Get); 7] = [
    ("order", |_, s, _| Ok(Value::Number(s.order.into()))),
    ("weight", |_, s, _| Ok(Value::Number(s.weight.into()))),
    ("qps", |_, s, _| Ok(Value::Number(s.qps.into()))),
    ("name", |lua, s, _| string(lua, s.name.as_deref().unwrap_or_default())),
    ("id", |lua, s, _| string(lua, &s.identity())),
    ("pools", |lua, s, _| Ok(Value::Table(lua.create_sequence_from(s.pools.iter())?))),
    ("upStatus", |_, s, v| Ok(Value::Boolean(is_up(s, v)))),
];

const GETTERS: [(&str, Get); 7] = [
    ("getName", |lua, s, _| string(lua, s.name.as_deref().unwrap_or_default())),
    ("getNameWithAddr", |lua, s, _| match s.name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => string(lua, &format!("{name} ({})", s.address)),
        None => string(lua, &s.address.to_string()),
    }),
    ("isUp", |_, s, v| Ok(Value::Boolean(is_up(s, v)))),
    ("canAcceptQueries", |_, s, v| Ok(Value::Boolean(is_up(s, v)))),
    ("getOutstanding", |_, _, v| {
        Ok(Value::Number(f64::from(u32::try_from(v.unwrap_or_default().outstanding).unwrap_or(u32::MAX))))
    }),
    ("getLatency", |_, _, v| Ok(Value::Number(v.unwrap_or_default().latency_ms))),
    ("getHealthCheckMode", |lua, s, _| string(lua, s.mode_name())),
];

const ACTIONS: [(&str, Method); 11] = [
    ("setUp", |call, at, _| force(call, at, HealthMode::Up)),
    ("setDown", |call, at, _| force(call, at, HealthMode::Down)),
    ("setAuto", |call, at, _| match call.draft.servers[at].health.mode {
        HealthMode::Lazy => Ok(()),
        HealthMode::Auto | HealthMode::Up | HealthMode::Down | HealthMode::Drain => {
            force(call, at, HealthMode::Auto)
        }
    }),
    ("setActiveAuto", |call, at, _| force(call, at, HealthMode::Auto)),
    ("setLazyAuto", |call, at, _| force(call, at, HealthMode::Lazy)),
    ("drain", |call, at, _| force(call, at, HealthMode::Drain)),
    ("setQPS", |call, at, v| {
        let qps = nearest::whole(call, "", v, 0, WEIGHT_MAX)?;
        call.draft.servers[at].qps = qps;
        Ok(())
    }),
    ("setOrder", |call, at, v| nearest::signed(call, "", v).map(|n| call.draft.set_order(at, n))),
    ("setWeight", |call, at, v| {
        let kept = call.draft.servers[at].weight;
        if number(v).is_some_and(|n| n < 1.0) {
            call.warn(Fault::Note(format!("{} is ignored: the weight stays {kept}", shown(v))));
            return Ok(());
        }
        let weight = nearest::whole(call, "", v, 1, WEIGHT_MAX)?;
        call.draft.servers[at].weight = weight;
        Ok(())
    }),
    ("addPool", |call, at, v| {
        let pool = label("", v, POOL)?;
        if pool == DEFAULT_POOL {
            // The API's name for the default pool.
            return Err(wrong("", v, "\"\" for the default pool, or another name"));
        }
        call.draft.servers[at].pools.add(pool);
        Ok(())
    }),
    ("rmPool", |call, at, v| {
        let pool = text("", v, "the name of a pool that the server is in")?;
        match call.draft.servers[at].pools.remove(&pool) {
            true => Ok(()),
            false => Err(wrong("", v, "the name of a pool that the server is in")),
        }
    }),
];

/// Returns whether a server is up; without a running one, whether it is not forced down.
fn is_up(server: &DraftServer, running: Option<ServerView>) -> bool {
    running.is_none_or(|view| view.up) && !matches!(server.health.mode, HealthMode::Down | HealthMode::Drain)
}

fn force(call: &mut Call<'_>, at: usize, mode: HealthMode) -> Result<(), Fault> {
    call.draft.servers[at].health.mode = mode;
    Ok(())
}

impl UserData for Server {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        for (name, get) in FIELDS {
            fields.add_field_method_get(name, move |lua, server| server.get(lua, name, get));
        }
        for (field, method) in [("order", "setOrder"), ("weight", "setWeight"), ("qps", "setQPS")] {
            fields.add_field_method_set(field, move |lua, server, v: Value| {
                let act = ACTIONS.iter().find(|(name, _)| *name == method).map(|(_, act)| act);
                let set = |call: &mut Call<'_>| {
                    let at = server.to_change(call)?;
                    act.map_or(Ok(()), |act| act(call, at, &v))
                };
                server.context.call(lua, field, |call| set(call).map(|()| Value::Nil)).map(|_| ())
            });
        }
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, SERVER_METHODS);
        let context: fn(&Self) -> &Context = |server| &server.context;
        for (name, get) in GETTERS {
            all.add(name, move |lua, server, _| server.get(lua, name, get));
        }
        for (name, act) in ACTIONS {
            all.add_recorded(name, context, move |call, server, a| {
                let at = server.to_change(call)?;
                act(call, at, a.at(0)).map(|()| Value::Nil)
            });
        }
        methods.add_method("setHealthCheckParams", |lua, server, _: Value| {
            let fault =
                missing::fault("the method", "give checkInterval, checkTimeout and the like to newServer");
            server.context.call(lua, "setHealthCheckParams", |_| Err(fault))
        });
        methods.add_meta_method(MetaMethod::ToString, |lua, server, ()| {
            server.get(lua, "tostring", |lua, s, _| string(lua, &s.display_name()))
        });
    }
}
