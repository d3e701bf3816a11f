//! Functions of older versions of dnsdist: each does what it means today, with a warning.

use mlua::{Function, Lua};

use crate::config::functions::older::OLDER;

/// Defines them; each calls `warn` with its number in the table, if there is such a function.
pub(crate) fn define(lua: &Lua, warn: Option<&Function>) -> mlua::Result<()> {
    for (at, older) in OLDER.iter().enumerate() {
        // Names that begin with "=" are no origins of calls.
        let text =
            format!("local warn, at = ... return function(...) if warn then warn(at) end {} end", older.body);
        let warn = warn.filter(|_| !older.is_alias);
        let function: Function = lua.load(text).set_name("=older").call((warn, at))?;
        lua.globals().raw_set(older.name, function)?;
    }
    Ok(())
}
