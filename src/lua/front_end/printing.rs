//! Where functions and methods print: the running command's output, or the global function `print`.

use mlua::{Function, Lua, Value};

use crate::lua::front_end::context::Context;

/// Prints a text; nothing if it is none, or empty. To be called outside of the draft, because a
/// configuration may replace `print`.
pub(crate) fn print(context: &Context, lua: &Lua, text: Value) -> mlua::Result<Value> {
    let Some(line) = text.as_string().filter(|text| !text.as_bytes().is_empty()) else {
        return Ok(Value::Nil);
    };
    // A console shows it whatever became of `print`.
    if context.prints(&line.as_bytes()) {
        return Ok(Value::Nil);
    }
    match lua.globals().raw_get::<Option<Function>>("print")? {
        Some(print) => print.call::<Value>(text),
        None => Ok(Value::Nil),
    }
}
