//! The stack of Lua: where the running function of the configuration was called.

use mlua::Lua;

use crate::config::error::Origin;

/// Returns the origin of the nearest Lua code on the stack: where the running function was called.
pub(crate) fn caller(lua: &Lua) -> Origin {
    /// Deeper than any configuration nests its own functions.
    const LEVELS: usize = 64;
    for level in 1..LEVELS {
        let place = lua.inspect_stack(level, place);
        match place {
            Some(Some(origin)) => return origin,
            Some(None) => {}
            None => break,
        }
    }
    Origin::file("(unknown place)")
}

/// Returns the origin of a stack level; `None` for code that is not Lua, or is our own (chunk names
/// with `=`).
fn place(debug: &mlua::Debug<'_>) -> Option<Origin> {
    let line = debug.current_line().and_then(|l| u32::try_from(l).ok())?;
    let source = debug.source().source.filter(|s| !s.starts_with('='))?.into_owned();
    Some(Origin::line(source.strip_prefix('@').unwrap_or("(a string)"), line))
}
