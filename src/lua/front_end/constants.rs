//! DNSQType, DNSRCode and the like, as global tables.

use mlua::Lua;

use crate::config::functions::enumerations::ENUMERATIONS;

/// Defines the tables.
pub(crate) fn define(lua: &Lua) -> mlua::Result<()> {
    for (name, entries) in ENUMERATIONS {
        lua.globals().raw_set(name, lua.create_table_from(entries.iter().copied())?)?;
    }
    Ok(())
}
