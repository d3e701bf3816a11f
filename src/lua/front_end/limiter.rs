//! Rates that functions ask for: `newQPSLimiter`. Those of functions of rules are in `lua::state`.

use std::sync::Arc;

use mlua::{Lua, UserData, UserDataMethods, Value};

use crate::config::functions::LIMITER_METHODS;
use crate::engine::clock;
use crate::lua::front_end::context::Context;
use crate::lua::front_end::declared::Methods;
use crate::rules::limits::Bucket;

/// A rate as a Lua object.
#[derive(Clone, Debug)]
struct Limiter(Arc<Bucket>);

impl UserData for Limiter {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, LIMITER_METHODS);
        all.add("check", |_, limiter: &Self, _| Ok(limiter.0.take(clock::now())));
    }
}

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "newQPSLimiter", |call, a| {
        let qps = a.whole(0, u32::MAX)?;
        let burst = if a.given(1).is_some() { a.whole(1, u32::MAX)? } else { qps };
        let limiter = Limiter(Arc::new(Bucket::new(qps, burst)));
        Ok(Value::UserData(call.lua.create_userdata(limiter)?))
    })
}
