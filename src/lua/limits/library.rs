//! The Rust functions under `library.lua`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::rc::Rc;

use mlua::{Function, IntoLuaMulti, Lua, MultiValue, Table, Value};

use crate::lua::ffi::watch::Alarm;
use crate::lua::limits::pattern;
use crate::lua::limits::pattern::{Capture, Matcher, Wrong};

/// Characters that make a text a pattern.
const SPECIAL: &[u8] = b"^$*+?.([%-";

/// Replaces what could run without end, and returns the function that is called once the state
/// serves.
pub(crate) fn define(lua: &Lua, alarm: &Rc<Alarm>) -> mlua::Result<Function> {
    install(lua, core(lua, alarm)?)
}

fn install(lua: &Lua, core: Table) -> mlua::Result<Function> {
    let text = lua.create_function(|lua, raised| match raised {
        Value::Error(error) => lua.create_string(text(&error)).map(Value::String),
        other => Ok(other),
    })?;
    let (pcall, told): (Function, Function) =
        lua.load(include_str!("pcall.lua")).set_name(PCALL).call(text)?;
    let library = lua.load(include_str!("library.lua")).set_name("=library");
    let (serves, caught): (Function, Function) =
        library.call((core, pcall, told, PCALL, lua.current_thread()))?;
    lua.set_named_registry_value(CAUGHT, caught)?;
    Ok(serves)
}

/// The name of the chunk of `pcall`.
const PCALL: &str = "=pcall";
/// The registry's name for what tells whether an error is caught.
const CAUGHT: &str = "dnslob.caught";

/// Returns whether the script gets an error that the running function raises.
pub(crate) fn is_caught(lua: &Lua) -> bool {
    let caught = lua.named_registry_value::<Function>(CAUGHT);
    caught.and_then(|caught| caught.call(())).unwrap_or(false)
}

/// Returns what a script sees of an error that Rust has raised: its text, without what the Lua library
/// adds.
fn text(error: &mlua::Error) -> String {
    match error {
        mlua::Error::CallbackError { cause, .. } => text(cause),
        mlua::Error::RuntimeError(message) | mlua::Error::SyntaxError { message, .. } => {
            let own = message.split("\nstack traceback:").next();
            own.unwrap_or_default().to_owned()
        }
        other => other.to_string(),
    }
}

fn core(lua: &Lua, alarm: &Rc<Alarm>) -> mlua::Result<Table> {
    let core = lua.create_table()?;
    patterns(lua, &core, alarm)?;
    let stack = crate::engine::sys::StackBounds::of_this_thread();
    core.raw_set("has_stack", lua.create_function(move |_, ()| Ok(stack.is_mostly_left()))?)?;
    let ender = Rc::clone(alarm);
    let exit = move |_: &Lua, code: f64| {
        // The range of exit codes; the kernel keeps the low eight bits.
        #[allow(clippy::cast_possible_truncation)]
        let code = code as i32;
        Ok(if ender.exit(code) { "ends the process" } else { NO_EXIT })
    };
    core.raw_set("exit", lua.create_function(exit)?)?;
    core.raw_set("execute", lua.create_function(|_, command| Ok(execute(command)))?)?;
    Ok(core)
}

/// Runs a command by the shell, and returns its status as `wait` has it; 1 without a command: there is
/// a shell. The C library's `system` ignores SIGINT in the whole process meanwhile, which would be
/// lost.
fn execute(command: Option<mlua::BString>) -> i32 {
    let Some(command) = command else { return 1 };
    let command = OsStr::from_bytes(&command);
    Command::new("/bin/sh").arg("-c").arg(command).status().map_or(-1, ExitStatusExt::into_raw)
}

/// Why `os.exit` does nothing.
const NO_EXIT: &str = "only the evaluation of the configuration can end the process";

fn patterns(lua: &Lua, core: &Table, alarm: &Rc<Alarm>) -> mlua::Result<()> {
    let reach = |_: &Lua, (p, is_plain): (mlua::String, bool)| Ok(pattern::reach(&p.as_bytes(), is_plain));
    core.raw_set("reach", lua.create_function(reach)?)?;
    let over = Rc::clone(alarm);
    let find = move |lua: &Lua,
                     (s, p, init, plain, anchors, most): (
        mlua::String,
        mlua::String,
        Option<f64>,
        Option<bool>,
        bool,
        Option<usize>,
    )| {
        answer(lua, find(lua, &s.as_bytes(), &p.as_bytes(), (init, plain, anchors, most), &|| over.is_over()))
    };
    core.raw_set("find", lua.create_function(find)?)?;
    let over = Rc::clone(alarm);
    let substitute = move |lua: &Lua, (s, p, by, max): (mlua::String, mlua::String, mlua::String, f64)| {
        let made = substitute(&s.as_bytes(), &p.as_bytes(), &by.as_bytes(), max, &|| over.is_over());
        answer(lua, made.map(|(text, count)| lua.create_string(text).map(|t| (t, count))))
    };
    core.raw_set("substitute", lua.create_function(substitute)?)
}

/// Returns `true` and the result, or `false` and the error, which the library raises with its
/// position.
fn answer<R: IntoLuaMulti>(lua: &Lua, found: Result<mlua::Result<R>, Wrong>) -> mlua::Result<MultiValue> {
    match found {
        Ok(result) => {
            let mut values = result?.into_lua_multi(lua)?;
            values.push_front(Value::Boolean(true));
            Ok(values)
        }
        Err(wrong) => (false, wrong.to_string()).into_lua_multi(lua),
    }
}

/// Where to begin, whether the text is plain (only `find` may treat one without special characters
/// so), whether a `^` is an anchor, and how many captures are requested.
type How = (Option<f64>, Option<bool>, bool, Option<usize>);

/// Returns position, end and captures of the first match; nil when there is none.
fn find(
    lua: &Lua,
    s: &[u8],
    p: &[u8],
    (init, plain, anchors, most): How,
    is_over: &dyn Fn() -> bool,
) -> Result<mlua::Result<MultiValue>, Wrong> {
    let from = start(init, s.len());
    let mut values = MultiValue::new();
    let place = |at: usize| Value::Number(u32::try_from(at).map_or(f64::INFINITY, f64::from));
    if plain.is_some_and(|plain| plain || !p.iter().any(|c| SPECIAL.contains(c))) {
        let Some(at) = find_plain(&s[from..], p, is_over)? else { return Ok(Ok(values)) };
        values.push_back(place(from + at + 1));
        values.push_back(place(from + at + p.len()));
        return Ok(Ok(values));
    }
    let mut matcher = Matcher::new(s, p, is_over);
    let Some((start, end)) = matcher.search(from, anchors)? else { return Ok(Ok(values)) };
    values.push_back(place(start + 1));
    values.push_back(place(end));
    for at in 0..matcher.count().min(most.unwrap_or(usize::MAX)) {
        values.push_back(match matcher.capture(at, start, end)? {
            Capture::Position(at) => place(at),
            Capture::Text(from, to) => match lua.create_string(&s[from..to]) {
                Ok(text) => Value::String(text),
                Err(e) => return Ok(Err(e)),
            },
        });
    }
    Ok(Ok(values))
}

/// Returns where a search begins, from 0; a negative number counts from the end.
fn start(init: Option<f64>, length: usize) -> usize {
    // Saturates; no string is longer.
    #[allow(clippy::cast_possible_truncation)]
    let init = init.unwrap_or(1.0) as i32;
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let from = if init < 0 { i64::from(init) + length } else { i64::from(init) - 1 };
    usize::try_from(from.clamp(0, length)).unwrap_or(0)
}

/// Returns the first position of a text.
fn find_plain(s: &[u8], p: &[u8], is_over: &dyn Fn() -> bool) -> Result<Option<usize>, Wrong> {
    /// Bytes compared between two checks of the time.
    const BYTES: usize = 1 << 16;
    if p.is_empty() {
        return Ok(Some(0));
    }
    let mut left = BYTES;
    for (at, part) in s.windows(p.len()).enumerate() {
        let same = part.iter().zip(p).take_while(|(a, b)| a == b).count();
        if same == p.len() {
            return Ok(Some(at));
        }
        left = left.saturating_sub(same + 1);
        if left == 0 {
            if is_over() {
                return Err(Wrong::Over);
            }
            left = BYTES;
        }
    }
    Ok(None)
}

/// `gsub` with a text: returns the result and the number of matches.
fn substitute(
    s: &[u8],
    p: &[u8],
    by: &[u8],
    max: f64,
    is_over: &dyn Fn() -> bool,
) -> Result<(Vec<u8>, f64), Wrong> {
    let anchored = p.first() == Some(&b'^');
    let mut matcher = Matcher::new(s, p, is_over);
    let (mut made, mut at, mut out) = (0.0, 0, Vec::with_capacity(s.len()));
    while made < max {
        let found = matcher.match_at(at, usize::from(anchored))?;
        if let Some(end) = found {
            made += 1.0;
            expand(&matcher, s, by, (at, end), &mut out)?;
        }
        match found {
            Some(end) if end > at => at = end,
            _ => match s.get(at) {
                Some(byte) => {
                    out.push(*byte);
                    at += 1;
                }
                None => break,
            },
        }
        if out.len() > OUTPUT_MAX {
            return Err(Wrong::TooLong);
        }
        if anchored {
            break;
        }
    }
    out.extend_from_slice(&s[at..]);
    Ok((out, made))
}

/// The longest result, bytes: far more than any message; the parts of a text need as much memory
/// again.
const OUTPUT_MAX: usize = 64 << 20;

/// Expands `%1` and the like in a replacement text.
fn expand(
    matcher: &Matcher<'_>,
    s: &[u8],
    by: &[u8],
    (start, end): (usize, usize),
    out: &mut Vec<u8>,
) -> Result<(), Wrong> {
    let mut rest = by;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        // As in C, a zero follows the last byte.
        let (digit, behind) = rest.split_first().unwrap_or((&0, &[]));
        rest = behind;
        match digit {
            b'0' => out.extend_from_slice(&s[start..end]),
            b'1'..=b'9' => match matcher.capture(usize::from(digit - b'1'), start, end)? {
                Capture::Text(from, to) => out.extend_from_slice(&s[from..to]),
                Capture::Position(at) => out.extend_from_slice(at.to_string().as_bytes()),
            },
            other => out.push(*other),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
