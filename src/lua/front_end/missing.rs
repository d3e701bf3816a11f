//! dnsdist's functions that dnslob does not implement yet: each exists and records an error that
//! says what to do meanwhile. Their results accept any further use, so that evaluation continues
//! and the rest of the file is checked too. Functions without effect, and those of older
//! versions, only cause a warning.

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::config::error::Fault;
use crate::config::functions::older::OLDER;
use crate::config::functions::{FOR_FUNCTIONS, FUNCTIONS_MISSING, WITHOUT_EFFECT};
use crate::lua::front_end::context::Context;
use crate::lua::front_end::older;

/// The result of a missing function.
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

/// Creates the error of a missing function, method or argument.
pub(crate) fn fault(what: &str, meanwhile: &str) -> Fault {
    Fault::Missing { what: what.to_owned(), meanwhile: meanwhile.to_owned() }
}

/// Creates the error of a function that is called where only functions of rules and policies can call
/// it.
pub(crate) fn only_for_functions() -> Fault {
    Fault::Conflict {
        wrong: "works only in functions of rules and policies".to_owned(),
        expected: "its call there".to_owned(),
    }
}

/// Returns whether a value is the result of a missing function, whose error was recorded.
pub(crate) fn is_inert(value: &Value) -> bool {
    value.as_userdata().is_some_and(mlua::AnyUserData::is::<Inert>)
}

/// Removes them after the evaluation, so that functions can ask whether one is there.
pub(crate) fn forget(lua: &Lua) -> mlua::Result<()> {
    let globals = lua.globals();
    for name in FUNCTIONS_MISSING.iter().flat_map(|m| m.names).chain(FOR_FUNCTIONS) {
        let value: Value = globals.raw_get(*name)?;
        if value.as_function().and_then(|f| f.info().source).is_some_and(|source| source.starts_with('=')) {
            globals.raw_set(*name, Value::Nil)?;
        }
    }
    Ok(())
}

/// Defines all of them.
pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for family in FUNCTIONS_MISSING {
        for name in family.names {
            context.define_any(lua, name, move |call, arguments| {
                // What is disabled need not exist.
                if let [Value::Boolean(false)] = arguments {
                    return Ok(Value::UserData(call.lua.create_userdata(Inert)?));
                }
                call.fail(Fault::Missing {
                    what: format!("the function ({})", family.family),
                    meanwhile: family.meanwhile.to_owned(),
                });
                Ok(Value::UserData(call.lua.create_userdata(Inert)?))
            })?;
        }
    }
    for name in FOR_FUNCTIONS {
        context.define_any(lua, name, |call, _| {
            call.fail(only_for_functions());
            Ok(Value::UserData(call.lua.create_userdata(Inert)?))
        })?;
    }
    for family in WITHOUT_EFFECT {
        for name in family.names {
            context.define_any(lua, name, move |call, arguments| {
                // What is disabled is as it is anyway.
                if !matches!(arguments, [Value::Boolean(false)]) {
                    call.warn(Fault::Note(format!("has no effect: {}", family.meanwhile)));
                }
                Ok(Value::Nil)
            })?;
        }
    }
    let own = context.clone();
    let warn = lua.create_function(move |lua, at: usize| {
        let Some(older) = OLDER.get(at) else { return Ok(()) };
        let note = Fault::Note(format!("is of an older version of dnsdist; write {}", older.today));
        own.call(lua, older.name, |call| {
            call.warn(note);
            Ok(Value::Nil)
        })?;
        Ok(())
    })?;
    older::define(lua, Some(&warn))
}
