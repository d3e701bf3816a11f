//! The globals of a configuration, kept aside while something runs that may be refused.

use mlua::{Function, Lua, Table};

/// What makes a copy of the globals.
const SAVE: &str = "dnslob.globals";

/// Prepares [`Saved::new`], before a configuration can replace what that is made of.
pub(crate) fn define(lua: &Lua) -> mlua::Result<()> {
    // Chunk names that begin with "=" are no origins of calls.
    let save: Function = lua.load(include_str!("globals.lua")).set_name("=globals").eval()?;
    lua.set_named_registry_value(SAVE, save)
}

/// The globals as they were, and what was in their tables.
#[derive(Debug)]
pub(crate) struct Saved {
    restore: Function,
    metatable: Option<Table>,
}

impl Saved {
    /// Keeps the globals, and tables in them up to so many entries.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn new(lua: &Lua, entries_max: u32) -> mlua::Result<Self> {
        let (save, globals): (Function, _) = (lua.named_registry_value(SAVE)?, lua.globals());
        let metatable = globals.metatable();
        Ok(Self { restore: save.call((globals, entries_max))?, metatable })
    }

    /// Makes them so again.
    pub(crate) fn restore(self, lua: &Lua) {
        let restored = self.restore.call::<()>(());
        let restored = restored.and_then(|()| lua.globals().set_metatable(self.metatable));
        if let Err(error) = restored {
            tracing::error!("the globals of a refused command are left: {error}");
        }
    }
}
