//! dnsdist's functions that dnslob does not have yet: each exists and records an error that says
//! what to do meanwhile. What they return takes any further use, so that evaluation goes on and
//! the rest of the file is checked too.

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::config::error::Fault;
use crate::config::functions::FUNCTIONS_MISSING;
use crate::lua::front_end::context::Context;

/// Stands in for whatever a missing function would have returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inert;

impl UserData for Inert {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::Index, |_, _, _: Value| Ok(Self));
        methods.add_meta_method_mut(MetaMethod::NewIndex, |_, _, _: (Value, Value)| Ok(()));
        methods.add_meta_method(MetaMethod::Call, |_, _, ()| Ok(Self));
        methods.add_meta_method(MetaMethod::ToString, |_, _, ()| Ok("(not implemented)"));
        methods.add_meta_function(MetaMethod::Concat, |_, ()| Ok("(not implemented)"));
    }
}

/// The error of a missing function, method or argument.
pub(crate) fn fault(what: &str, meanwhile: &str) -> Fault {
    Fault::Missing { what: what.to_owned(), meanwhile: meanwhile.to_owned() }
}

/// Whether a value is what a missing function returned: its error stands already.
pub(crate) fn is_inert(value: &Value) -> bool {
    value.as_userdata().is_some_and(mlua::AnyUserData::is::<Inert>)
}

/// Defines them all.
pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for family in FUNCTIONS_MISSING {
        for name in family.names {
            context.define(lua, name, move |call, _| {
                call.fail(Fault::Missing {
                    what: format!("the function ({})", family.family),
                    meanwhile: family.meanwhile.to_owned(),
                });
                Ok(Value::UserData(call.lua.create_userdata(Inert)?))
            })?;
        }
    }
    Ok(())
}
