//! The functions that say which functions are told of something.

use mlua::{Lua, Value};

use crate::config::error::Fault;
use crate::lua::front_end::argument::function;
use crate::lua::front_end::context::Context;

/// Functions that are told of the same.
const CALLBACKS_MAX: usize = 100;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for name in ["addExitCallback", "addServerStateChangeCallback"] {
        context.define(lua, name, move |call, a| {
            let kept = call.keep(function(a.what(0), a.at(0))?)?;
            let callbacks = &mut call.draft.callbacks;
            let list =
                if name == "addExitCallback" { &mut callbacks.exit } else { &mut callbacks.server_state };
            if list.len() >= CALLBACKS_MAX {
                let what = "the functions that are told of this".to_owned();
                return Err(Fault::Limit { what, limit: CALLBACKS_MAX.to_string() });
            }
            list.push(kept);
            Ok(Value::Nil)
        })?;
    }
    context.define(lua, "setTicketsKeyAddedHook", |call, a| {
        let kept = call.keep(function(a.what(0), a.at(0))?)?;
        call.draft.callbacks.tickets_key = Some(kept);
        Ok(Value::Nil)
    })
}
