//! The recording evaluation: the file is evaluated again, in a shard's own state, only to find the
//! functions that the shard is to run; and the check that they are the same in every shard.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Function, Lua, Table};

use crate::config::error::{ConfigError, Fault, Origin};
use crate::config::functions::{FUNCTIONS_MISSING, WITHOUT_EFFECT};
use crate::config::options::SETTINGS;
use crate::config::ruleset::{FunctionKind, Interface, Recorded};
use crate::lua::front_end::every_function;
use crate::lua::state::files::Files;

/// The functions found so far.
pub(crate) type Found = Rc<RefCell<Vec<Recorded>>>;

/// Configuration functions that record: name, what the function is for, its interface, and which
/// argument it is.
const RECORDING: &[(&str, FunctionKind, Interface, u8)] = &[
    ("LuaAction", FunctionKind::Action, Interface::Objects, 1),
    ("LuaResponseAction", FunctionKind::ResponseAction, Interface::Objects, 1),
    ("LuaRule", FunctionKind::Rule, Interface::Objects, 1),
    ("LuaFFIAction", FunctionKind::Action, Interface::Ffi, 1),
    ("LuaFFIResponseAction", FunctionKind::ResponseAction, Interface::Ffi, 1),
    ("LuaFFIRule", FunctionKind::Rule, Interface::Ffi, 1),
    ("LuaFFIPerThreadAction", FunctionKind::Action, Interface::Text, 1),
    ("LuaFFIPerThreadResponseAction", FunctionKind::ResponseAction, Interface::Text, 1),
    ("LuaFFIPerThreadRule", FunctionKind::Rule, Interface::Text, 1),
    ("newServerPolicy", FunctionKind::Policy, Interface::Objects, 2),
    ("setServerPolicyLua", FunctionKind::Policy, Interface::Objects, 2),
    ("setServerPolicyLuaFFI", FunctionKind::Policy, Interface::Ffi, 2),
    ("setServerPolicyLuaFFIPerThread", FunctionKind::Policy, Interface::Text, 2),
    ("setQueryCountFilter", FunctionKind::Action, Interface::Objects, 1),
    ("setPoolServerPolicyLua", FunctionKind::Policy, Interface::Objects, 2),
    ("setPoolServerPolicyLuaFFI", FunctionKind::Policy, Interface::Ffi, 2),
    ("setPoolServerPolicyLuaFFIPerThread", FunctionKind::Policy, Interface::Text, 2),
];

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It decides about a query or an answer.
    Act {
        /// It is about an answer.
        response: bool,
    },
    /// It returns whether a rule matches.
    Match,
    /// It selects a server.
    Choose,
}

/// Returns what a function is called for.
pub(crate) const fn usage(recorded: &Recorded) -> Use {
    match recorded.kind {
        FunctionKind::Action => Use::Act { response: false },
        FunctionKind::ResponseAction => Use::Act { response: true },
        FunctionKind::Rule => Use::Match,
        FunctionKind::Policy => Use::Choose,
    }
}

/// Returns the prelude's name for how a function is called.
const fn wrapper(kind: FunctionKind, interface: Interface) -> &'static str {
    let through_c = !matches!(interface, Interface::Objects);
    match (kind, through_c) {
        (FunctionKind::Action, false) => "act",
        (FunctionKind::ResponseAction, false) => "act_response",
        (FunctionKind::Action | FunctionKind::ResponseAction, true) => "act_ffi",
        (FunctionKind::Rule, false) => "matches",
        (FunctionKind::Rule, true) => "matches_ffi",
        (FunctionKind::Policy, false) => "choose",
        (FunctionKind::Policy, true) => "choose_ffi",
    }
}

/// Returns the names that do nothing in a recording evaluation. The prelude replaces those that do
/// something.
pub(crate) fn stand_ins() -> Vec<&'static str> {
    let settings = SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name);
    let idle = WITHOUT_EFFECT.iter().flat_map(|m| m.names.iter().copied());
    every_function().map(|e| e.name).chain(settings).chain(idle).collect()
}

/// Returns the names of functions that are missing, each with what to do meanwhile.
pub(crate) fn missing(lua: &Lua) -> mlua::Result<Table> {
    let families = FUNCTIONS_MISSING.iter().flat_map(|m| m.names.iter().map(|name| (*name, m.meanwhile)));
    lua.create_table_from(families)
}

/// Defines the table of [`RECORDING`] for the prelude (name, number, argument, whether it is given
/// as code, how it is called), and the two functions that record.
pub(crate) fn define(lua: &Lua, core: &Table, found: &Found) -> mlua::Result<Table> {
    let kinds = lua.create_table()?;
    for (number, (name, kind, interface, argument)) in RECORDING.iter().enumerate() {
        let entry = lua.create_table()?;
        entry.raw_push(*name)?;
        entry.raw_push(number)?;
        entry.raw_push(*argument)?;
        entry.raw_push(*interface == Interface::Text)?;
        // It returns no decision.
        let is_count = *name == "setQueryCountFilter";
        entry.raw_push(if is_count { "count" } else { wrapper(*kind, *interface) })?;
        kinds.raw_push(entry)?;
    }
    let to = Rc::clone(found);
    let record = lua.create_function(move |_, (number, function): (usize, Function)| {
        let info = function.info();
        let line = info.line_defined.and_then(|l| u32::try_from(l).ok()).unwrap_or(0);
        note(&to, number, info.source.unwrap_or_default(), line);
        Ok(())
    })?;
    core.raw_set("record", record)?;
    let to = Rc::clone(found);
    let record = lua.create_function(move |_, (number, text): (usize, String)| {
        note(&to, number, text, 0);
        Ok(())
    })?;
    core.raw_set("record_code", record)?;
    Ok(kinds)
}

/// Returns the errors that functions raise while a file is evaluated: by function, the text by the
/// number of the call.
pub(crate) fn raised(lua: &Lua, files: &Files, file: &str) -> mlua::Result<Table> {
    let by_function = lua.create_table()?;
    for raised in files.raised.iter().filter(|raised| raised.file == file) {
        let known: Option<Table> = by_function.raw_get(raised.function.as_str())?;
        let errors = known.map_or_else(|| lua.create_table(), Ok)?;
        errors.raw_set(raised.number, raised.error.as_str())?;
        by_function.raw_set(raised.function.as_str(), errors)?;
    }
    Ok(by_function)
}

fn note(found: &Found, number: usize, source: String, line: u32) {
    if let Some((_, kind, interface, _)) = RECORDING.get(number) {
        found.borrow_mut().push(Recorded { kind: *kind, interface: *interface, source, line });
    }
}

/// Returns the position of the nearest line of the configuration on the stack; names of our own
/// chunks begin with `=`.
pub(crate) fn caller(lua: &Lua) -> (String, u32) {
    /// Deeper than any configuration nests its own functions.
    const LEVELS: usize = 64;
    for level in 1..LEVELS {
        let place = lua.inspect_stack(level, |debug| {
            let line = debug.current_line().and_then(|l| u32::try_from(l).ok())?;
            let source = debug.source().source.filter(|s| !s.starts_with('='))?.into_owned();
            Some((source.strip_prefix('@').unwrap_or("(a string)").to_owned(), line))
        });
        match place {
            Some(Some(place)) => return place,
            Some(None) => {}
            None => break,
        }
    }
    ("(unknown place)".to_owned(), 0)
}

/// Returns the file that a function is in.
fn file_of(recorded: &Recorded) -> &str {
    recorded.source.strip_prefix('@').unwrap_or("(a string)")
}

/// Refuses a file that defines other functions here than in the control thread.
pub(crate) fn compare(expected: &[Recorded], found: &[Recorded], file: &str) -> Result<(), ConfigError> {
    if expected == found {
        return Ok(());
    }
    let at = expected.iter().zip(found).position(|(e, f)| e != f).unwrap_or(expected.len().min(found.len()));
    let place = |r: Option<&Recorded>| {
        r.map_or("none".to_owned(), |r| match r.interface {
            Interface::Text => format!("a text for {:?}", r.kind),
            Interface::Objects | Interface::Ffi => format!("{:?} at {}:{}", r.kind, file_of(r), r.line),
        })
    };
    let origin = expected
        .get(at)
        .or_else(|| found.get(at))
        .map_or_else(|| Origin::file(file), |r| Origin::line(file_of(r), r.line));
    let wrong = format!(
        "the file evaluates differently each time: function {} of those that shards run was {} first, and {} \
         the second time",
        at + 1,
        place(expected.get(at)),
        place(found.get(at)),
    );
    let expected = "a file whose functions depend on neither time, chance nor values of the running process";
    Err(ConfigError::new(&origin, "", Fault::Conflict { wrong, expected: expected.to_owned() }))
}
