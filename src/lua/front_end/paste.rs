//! Commands as they can stand in a file, one behind the other: each was a chunk of its own, whose
//! `return` ends itself only, and whose local variables and labels are nobody else's.

use mlua::{ChunkMode, Lua};

use crate::lua::code::{dump, flow};

/// Returns a command as it can stand in a file.
pub(crate) fn pasteable(lua: &Lua, text: &str, is_expression: bool) -> String {
    let text = text.trim();
    let compiles = |text: &str| lua.load(text).set_mode(ChunkMode::Text).into_function().is_ok();
    if is_expression && !compiles(text) {
        return format!("do local _ = {text}\nend");
    }
    if returns(lua, text) {
        return format!("do local _ = (function(...)\n{text}\nend)(...) end");
    }
    // A word in a text or a comment does no harm. A parenthesis at the beginning would call what the
    // line above ends with.
    let has_own = ["local", "goto", "::"].iter().any(|word| text.contains(word));
    if has_own || !compiles(&format!("local _ = _\n{text}")) {
        format!("do {text}\nend")
    } else {
        text.to_owned()
    }
}

/// Whether a chunk can end before its last line.
fn returns(lua: &Lua, text: &str) -> bool {
    let chunk = lua.load(format!("{text}\nlocal _")).set_name("@command").set_mode(ChunkMode::Text);
    // Nothing may follow a `return`.
    let Ok(function) = chunk.into_function() else { return true };
    dump::read(&function.dump(false)).is_none_or(|chunk| flow::ends(&chunk.root) > 1)
}
