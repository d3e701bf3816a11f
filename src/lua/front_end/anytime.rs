//! Functions that work at any time: while the file is evaluated, on the console, and in functions that
//! the control thread calls.

use mlua::{Lua, Value};

use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::{Context, bounded, entry};
use crate::lua::front_end::declared::raised;

/// Defines a global function of the tables that works at any time. Its errors, surplus arguments
/// too, are errors that Lua sees.
pub(crate) fn define_anytime<F>(lua: &Lua, context: &Context, name: &'static str, body: F) -> mlua::Result<()>
where
    F: Fn(&Lua, Arguments<'_>) -> mlua::Result<Value> + 'static,
{
    let (entry, own) = (entry(name)?, context.clone());
    let function = bounded(lua, name, move |lua, values| {
        let number = own.called(name);
        let arguments = Arguments::new(entry.signature(), values);
        let done = match arguments.surplus(entry.arguments) {
            Some(fault) => Err(raised(lua, name, &fault)),
            None => body(lua, arguments),
        };
        if let (Err(error), Some(number)) = (&done, number) {
            own.has_raised(lua, name, number, error);
        }
        done
    })?;
    lua.globals().raw_set(name, function)
}
