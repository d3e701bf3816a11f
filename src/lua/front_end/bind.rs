//! The listeners as Lua objects: `getBind`.

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::config::compile::written_listeners;
use crate::config::draft::Draft;
use crate::config::functions::BIND_METHODS;
use crate::lua::front_end::context::Context;
use crate::lua::front_end::declared::Methods;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "getBindCount", |call, _| {
        Ok(Value::Integer(i64::try_from(all(call.draft).len()).unwrap_or(i64::MAX)))
    })?;
    context.define(lua, "getBind", |call, a| {
        let at = usize::from(a.word(0)?);
        match all(call.draft).into_iter().nth(at) {
            Some(bind) => Ok(Value::UserData(call.lua.create_userdata(bind)?)),
            None => Ok(Value::Nil),
        }
    })
}

/// A listener with one of its protocols.
#[derive(Clone, Debug)]
struct Bind {
    address: String,
    protocol: &'static str,
    is_tls: bool,
}

impl UserData for Bind {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, bind, ()| Ok(bind.address.clone()));
        let mut all = Methods::new(methods, BIND_METHODS);
        all.add("toString", |_, bind: &Self, _| Ok(bind.address.clone()));
        all.add("getType", |_, bind: &Self, _| Ok(bind.protocol));
        for name in ["getEffectiveTLSProvider", "getRequestedTLSProvider"] {
            all.add(name, |_, bind: &Self, _| Ok(if bind.is_tls { "rustls" } else { "" }));
        }
    }
}

/// Returns the listeners as `showBinds()` numbers them: each protocol by itself, relays last.
fn all(draft: &Draft) -> Vec<Bind> {
    let mut joined = Draft::default();
    joined.listeners.clone_from(&written_listeners(draft).into_owned());
    joined.join_shared_listeners();
    let mut binds = Vec::new();
    for listener in &joined.listeners {
        let (service, address) = (&listener.service, listener.address.to_string());
        let is_tls = service.tls().is_some();
        let stream = if is_tls { "TCP (DNS over TLS)" } else { "TCP" };
        let both = [("UDP", service.takes_datagrams()), (stream, service.takes_connections())];
        for (protocol, _) in both.into_iter().filter(|(_, is_there)| *is_there) {
            binds.push(Bind { address: address.clone(), protocol, is_tls });
        }
    }
    binds.extend(draft.relays.iter().map(|relay| {
        let protocol = if relay.tcp { "TCP relay" } else { "UDP relay" };
        Bind { address: relay.listen.to_string(), protocol, is_tls: false }
    }));
    binds
}
