//! DNSQType, DNSRCode and the like, as global tables; and `dnslob`, by which a file that is shared
//! with dnsdist knows who reads it.

use mlua::Lua;

use crate::config::functions::enumerations::ENUMERATIONS;

/// Defines the tables.
pub(crate) fn define(lua: &Lua) -> mlua::Result<()> {
    for (name, entries) in ENUMERATIONS {
        lua.globals().raw_set(name, lua.create_table_from(entries.iter().copied())?)?;
    }
    lua.globals().raw_set("dnslob", lua.create_table_from([("version", env!("CARGO_PKG_VERSION"))])?)
}
