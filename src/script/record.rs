//! The recording evaluation: the file is run once more, in a shard's own state, only to find the
//! functions that the shard is to run; and the guard that they are the same ones everywhere.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Function, Lua, Table};

use crate::config::draft::{Recorded, RecordedKind};
use crate::config::error::{ConfigError, Fault, Origin};
use crate::config::functions::{FUNCTIONS, FUNCTIONS_MISSING};
use crate::config::options::SETTINGS;

/// The functions found so far.
pub(super) type Found = Rc<RefCell<Vec<Recorded>>>;

/// Configuration functions that record: name, kind, which argument the function is, and whether it
/// is a string of code.
const RECORDING: &[(&str, RecordedKind, u8, bool)] = &[
    ("LuaAction", RecordedKind::Action, 1, false),
    ("LuaResponseAction", RecordedKind::ResponseAction, 1, false),
    ("LuaRule", RecordedKind::Rule, 1, false),
    ("LuaFFIAction", RecordedKind::FfiAction, 1, false),
    ("LuaFFIResponseAction", RecordedKind::FfiResponseAction, 1, false),
    ("LuaFFIRule", RecordedKind::FfiRule, 1, false),
    ("LuaFFIPerThreadAction", RecordedKind::PerThreadFfiAction, 1, true),
    ("LuaFFIPerThreadResponseAction", RecordedKind::PerThreadFfiResponseAction, 1, true),
    ("LuaFFIPerThreadRule", RecordedKind::PerThreadFfiRule, 1, true),
    ("newServerPolicy", RecordedKind::Policy, 2, false),
    ("setServerPolicyLua", RecordedKind::Policy, 2, false),
    ("setServerPolicyLuaFFI", RecordedKind::FfiPolicy, 2, false),
    ("setServerPolicyLuaFFIPerThread", RecordedKind::PerThreadFfiPolicy, 2, true),
    ("setPoolServerPolicyLua", RecordedKind::Policy, 2, false),
    ("setPoolServerPolicyLuaFFI", RecordedKind::FfiPolicy, 2, false),
    ("setPoolServerPolicyLuaFFIPerThread", RecordedKind::PerThreadFfiPolicy, 2, true),
];

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It decides about a query, or an answer.
    Act {
        /// About an answer.
        response: bool,
    },
    /// It says whether a rule matches.
    Match,
    /// It chooses a server.
    Choose,
}

/// How functions of this kind are called, and whether through C's pointers.
pub(super) const fn usage(kind: RecordedKind) -> (Use, bool) {
    use RecordedKind as K;
    match kind {
        K::Action => (Use::Act { response: false }, false),
        K::ResponseAction => (Use::Act { response: true }, false),
        K::Rule => (Use::Match, false),
        K::Policy => (Use::Choose, false),
        K::FfiAction | K::PerThreadFfiAction => (Use::Act { response: false }, true),
        K::FfiResponseAction | K::PerThreadFfiResponseAction => (Use::Act { response: true }, true),
        K::FfiRule | K::PerThreadFfiRule => (Use::Match, true),
        K::FfiPolicy | K::PerThreadFfiPolicy => (Use::Choose, true),
    }
}

/// The names that do nothing in a recording evaluation. The prelude replaces those that do.
pub(super) fn stand_ins() -> Vec<&'static str> {
    let settings = SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name);
    let missing = FUNCTIONS_MISSING.iter().flat_map(|m| m.names.iter().copied());
    FUNCTIONS.iter().map(|e| e.name).chain(settings).chain(missing).collect()
}

/// The table of [`RECORDING`] for the prelude, and the two functions that record.
pub(super) fn define(lua: &Lua, core: &Table, found: &Found) -> mlua::Result<Table> {
    let kinds = lua.create_table()?;
    for (number, (name, _, argument, code)) in RECORDING.iter().enumerate() {
        let entry = lua.create_table()?;
        entry.raw_push(*name)?;
        entry.raw_push(number)?;
        entry.raw_push(*argument)?;
        entry.raw_push(*code)?;
        kinds.raw_push(entry)?;
    }
    let to = Rc::clone(found);
    let record = lua.create_function(move |_, (number, function): (usize, Function)| {
        let info = function.info();
        let source = info.source.unwrap_or_default();
        let line = info.line_defined.and_then(|l| u32::try_from(l).ok()).unwrap_or(0);
        note(&to, number, source.strip_prefix('@').unwrap_or("(a string)").to_owned(), line);
        Ok(())
    })?;
    core.raw_set("record", record)?;
    let to = Rc::clone(found);
    let record = lua.create_function(move |lua, number: usize| {
        let (source, line) = caller(lua);
        note(&to, number, source, line);
        Ok(())
    })?;
    core.raw_set("record_code", record)?;
    Ok(kinds)
}

fn note(found: &Found, number: usize, source: String, line: u32) {
    if let Some((_, kind, ..)) = RECORDING.get(number) {
        found.borrow_mut().push(Recorded { kind: *kind, source, line });
    }
}

/// The place of the nearest line of the configuration on the stack; chunks of ours begin with `=`.
pub(super) fn caller(lua: &Lua) -> (String, u32) {
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

/// Refuses a file that gives other functions here than it gave to the control thread.
pub(super) fn compare(expected: &[Recorded], found: &[Recorded], file: &str) -> Result<(), ConfigError> {
    if expected == found {
        return Ok(());
    }
    let at = expected.iter().zip(found).position(|(e, f)| e != f).unwrap_or(expected.len().min(found.len()));
    let place = |r: Option<&Recorded>| {
        r.map_or("none".to_owned(), |r| format!("{:?} at {}:{}", r.kind, r.source, r.line))
    };
    let origin = expected
        .get(at)
        .or_else(|| found.get(at))
        .map_or_else(|| Origin::file(file), |r| Origin::line(&r.source, r.line));
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
