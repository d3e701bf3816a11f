//! The Lua front end: evaluates a configuration file into a [`Draft`], and keeps the Lua state
//! for the functions that health checks call.
//!
//! Functions, names and units are those of the tables in [`functions`](super::functions) and
//! [`options`](super::options). A wrong argument is *recorded*, with the file and line that the
//! call stands in, and evaluation goes on, so that one run shows every error; only an error of
//! Lua itself ends it. Nothing here opens a socket or starts anything: the only I/O is to read
//! the files that the configuration names.
//!
//! The standard library is whole (LuaJIT's `ffi` and `bit` too): a configuration is as trusted as
//! the program. The JIT compiler is off in this state, since compiled code does not see the hook
//! that keeps an endless loop from hanging the control thread; the shards' states are others.

// The kinds of values and errors are the Lua library's; a new one is as wrong as the rest.
#![allow(clippy::wildcard_enum_match_arm)]

mod actions;
mod answers;
mod argument;
mod arguments;
mod chains;
mod constants;
mod context;
mod forwards;
mod functions;
mod missing;
mod networks;
mod packet;
mod pool;
mod responses;
mod selectors;
mod server;
mod sets;
mod settings;
mod tls;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use mlua::{ChunkMode, Function, HookTriggers, Lua, RegistryKey, Value, VmState};

use self::context::{Context, caller};
use super::draft::Draft;
use super::error::{ConfigError, Fault, Origin, nearest};
use super::functions::FUNCTIONS_MISSING;
use super::options::SETTINGS;
use super::snapshot::LuaFunction;
use super::value;
use crate::script::{self, File};

/// Between looks at the limit and the interruption, instructions: often enough to end a loop
/// within microseconds, seldom enough to cost nothing that shows.
const HOOK_INSTRUCTIONS: u32 = 10_000;

/// What one call of a health check's function may take, in hooks: 20 million instructions, some
/// 0.2 s of a CPU.
const CALL_HOOKS: u32 = 2_000;

/// Ends a running evaluation from another thread.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends the evaluation with an error.
    pub fn interrupt(&self) {
        self.0.store(true, Relaxed);
    }
}

/// The Lua state of the control thread, after evaluation.
#[derive(Debug)]
pub struct LuaHost {
    lua: Lua,
    functions: Vec<RegistryKey>,
    watch: Watch,
}

/// What ends a script that runs too long.
#[derive(Clone, Debug)]
struct Watch {
    /// Hooks left to the running call; none when it may take its time.
    budget: Rc<Cell<Option<u32>>>,
    interrupt: Interrupt,
}

impl Watch {
    /// Looks every so many instructions.
    fn arm(self, lua: &Lua, every: u32) -> mlua::Result<()> {
        let triggers = HookTriggers::new().every_nth_instruction(every);
        lua.set_global_hook(triggers, move |lua, debug| {
            let message = match self.budget.get() {
                _ if self.interrupt.0.load(Relaxed) => "interrupted",
                Some(0) => "the function ran too long",
                left => {
                    self.budget.set(left.map(|n| n - 1));
                    return Ok(VmState::Continue);
                }
            };
            // A script may catch the error: from here on every instruction raises it again, so
            // that one outside of any pcall soon does.
            self.clone().arm(lua, 1)?;
            let place = context::place(debug).map(|origin| format!("{origin}: ")).unwrap_or_default();
            Err(mlua::Error::runtime(place + message))
        })
    }
}

impl LuaHost {
    /// A state without the configuration's functions, to evaluate a file in.
    ///
    /// # Errors
    /// When Lua cannot be set up.
    fn new(interrupt: &Interrupt) -> mlua::Result<Self> {
        let lua = crate::engine::sys::lua_with_ffi();
        lua.load("jit.off()").exec()?;
        let watch = Watch { budget: Rc::default(), interrupt: interrupt.clone() };
        watch.clone().arm(&lua, HOOK_INSTRUCTIONS)?;
        Ok(Self { lua, functions: Vec::new(), watch })
    }

    /// Calls a function of the configuration within the instruction limit.
    fn call<R: mlua::FromLuaMulti>(
        &self,
        function: LuaFunction,
        arguments: impl mlua::IntoLuaMulti,
    ) -> Result<R, String> {
        let function = self.functions.get(function.0 as usize).ok_or("no such function")?;
        let function: Function = self.lua.registry_value(function).map_err(|e| e.to_string())?;
        self.watch.budget.set(Some(CALL_HOOKS));
        let result = function.call::<R>(arguments);
        self.watch.budget.set(None);
        self.watch.clone().arm(&self.lua, HOOK_INSTRUCTIONS).map_err(|e| e.to_string())?;
        result.map_err(|e| first_line(&message(innermost(&e))).to_owned())
    }

    /// Lets a `checkFunction` choose the query of a probe; it may also change the header.
    ///
    /// # Errors
    /// What is wrong with the function or with what it returned, for the log.
    pub fn choose(
        &self,
        function: LuaFunction,
        qname: &str,
        qtype: u16,
        qclass: u16,
        header: &mut [u8; 12],
    ) -> Result<(String, u16, u16), String> {
        let shared = packet::Header::new(*header);
        let chosen: (Value, Value, Value) =
            self.call(function, (packet::Name::new(qname), qtype, qclass, shared.clone()))?;
        *header = shared.octets();
        let name = packet::name(&chosen.0).ok_or("returned no name; expected qname, qtype, qclass")?;
        let name = value::qname(&name).map_err(|e| format!("returned \"{name}\"; expected {e}"))?;
        let number = |v: &Value, what: &str| {
            argument::whole(what, v, 0, 65535)
                .ok()
                .and_then(|n| u16::try_from(n).ok())
                .ok_or_else(|| format!("returned {} as {what}; expected a number", argument::shown(v)))
        };
        Ok((name, number(&chosen.1, "qtype")?, number(&chosen.2, "qclass")?))
    }

    /// Lets a function judge the answer to a probe of the server called `server_name`.
    ///
    /// # Errors
    /// What is wrong with the function, for the log; the probe has then failed.
    pub fn judge(&self, function: LuaFunction, server_name: &str, response: &[u8]) -> Result<bool, String> {
        let described = packet::describe(&self.lua, response).map_err(|e| e.to_string())?;
        let content = self.lua.create_string(response).map_err(|e| e.to_string())?;
        match self.call(function, (server_name, described, content))? {
            Value::Boolean(healthy) => Ok(healthy),
            other => Err(format!("returned {}; expected true or false", argument::shown(&other))),
        }
    }
}

/// Evaluates a file, or nothing, into a draft.
///
/// # Errors
/// Everything found wrong until an error of Lua itself ended the evaluation.
pub fn evaluate(file: Option<&Path>, interrupt: &Interrupt) -> Result<(Draft, LuaHost), Vec<ConfigError>> {
    let name = file.map_or_else(|| "command line".to_owned(), |f| f.display().to_string());
    let fatal = |e: &mlua::Error| script_error(e, &[&name]);
    let mut host = LuaHost::new(interrupt).map_err(|e| vec![fatal(&e)])?;
    let context = Context::default();
    define(&host.lua, &context).map_err(|e| vec![fatal(&e)])?;
    let ended = file.map_or(Ok(()), |f| run(&host.lua, &context, None, f));
    let (mut draft, functions, files) = context.finish();
    if let Err(e) = ended {
        let all = files.main.iter().chain(files.directories.iter().flat_map(|d| &d.1));
        let files: Vec<&str> = all.map(|f| f.name.as_str()).collect();
        let mut errors = draft.errors.into_list();
        errors.push(script_error(&e, &files));
        return Err(errors);
    }
    draft.maintenance = matches!(host.lua.globals().raw_get("maintenance"), Ok(Value::Function(_)));
    host.functions = functions;
    if draft.errors.is_empty() && (draft.maintenance || !draft.functions.is_empty()) {
        let (functions, names, networks) =
            (draft.functions.clone(), draft.name_sets.clone(), draft.networks.clone());
        match script::check(files, functions, names, networks) {
            Ok(source) => draft.script = Some(source),
            Err(e) => draft.errors.push(e),
        }
    }
    Ok((draft, host))
}

/// Defines every function and constant.
fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    constants::define(lua)?;
    packet::define(lua, context)?;
    settings::define(lua, context)?;
    forwards::define(lua, context)?;
    tls::define(lua, context)?;
    server::define(lua, context)?;
    pool::define(lua, context)?;
    networks::define(lua, context)?;
    sets::define(lua, context)?;
    selectors::define(lua, context)?;
    actions::define(lua, context)?;
    answers::define(lua, context)?;
    responses::define(lua, context)?;
    chains::define(lua, context)?;
    missing::define(lua, context)
}

/// Evaluates one file.
fn run(lua: &Lua, context: &Context, directory: Option<&str>, path: &Path) -> mlua::Result<()> {
    let name = path.display().to_string();
    let text = std::fs::read(path).map_err(|e| mlua::Error::external(unreadable(&name, &e)));
    context.reads(directory, File { name: name.clone(), text: text.as_ref().cloned().unwrap_or_default() });
    let mut text = text?;
    if text.starts_with(b"#") {
        // A first line for the shell, as in any Lua script; a comment keeps the line count.
        text.splice(0..1, *b"--");
    }
    lua.load(text).set_name(format!("@{name}")).set_mode(ChunkMode::Text).exec()
}

fn unreadable(path: &str, error: &std::io::Error) -> ConfigError {
    let fault = Fault::Unreadable { path: path.to_owned(), reason: error.to_string() };
    ConfigError::new(&Origin::file(path), "", fault)
}

/// An error of Lua itself with its place, which Lua puts before the message.
fn script_error(error: &mlua::Error, files: &[&str]) -> ConfigError {
    let mut at = error;
    let mut traceback = "";
    loop {
        match at {
            mlua::Error::CallbackError { traceback: t, cause } => (at, traceback) = (cause, t),
            mlua::Error::BadArgument { cause, .. } => at = cause,
            _ => break,
        }
    }
    if let mlua::Error::ExternalError(e) = at
        && let Some(known) = e.downcast_ref::<ConfigError>()
    {
        return known.clone();
    }
    let text = message(at);
    let (origin, message) = located(&text, files)
        .or_else(|| {
            let places = traceback.lines().chain(text.lines().skip(1)).map(str::trim_start);
            let place = places.filter_map(|l| located(l, files)).next()?;
            Some((place.0, first_line(&text).to_owned()))
        })
        .unwrap_or_else(|| {
            (Origin::file(files.first().copied().unwrap_or("command line")), first_line(&text).to_owned())
        });
    let hint = misspelt(&message).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
    // error("") says nothing at all.
    let message = if message.trim().is_empty() { "an error without a message".to_owned() } else { message };
    ConfigError::new(&origin, "", Fault::Script(message + &hint))
}

/// Takes `FILE:LINE: ` off a message. Lua cuts long names to `...` and their end.
fn located(text: &str, files: &[&str]) -> Option<(Origin, String)> {
    let text = first_line(text);
    let (at, line, message) = text.match_indices(':').find_map(|(at, _)| {
        let (number, message) = text[at + 1..].split_once(':')?;
        Some((at, number.parse::<u32>().ok()?, message))
    })?;
    let short = &text[..at];
    if short.is_empty() || short.starts_with('[') || short.starts_with("__mlua") {
        return None;
    }
    let file = match short.strip_prefix("...") {
        Some(end) => files.iter().find(|f| f.ends_with(end)).copied().unwrap_or(short),
        None => short,
    };
    Some((Origin::line(file, line), message.trim_start().to_owned()))
}

/// The function that was meant in "attempt to call global 'x' (a nil value)".
fn misspelt(message: &str) -> Option<&'static str> {
    let name = message.strip_prefix("attempt to call global '")?.split('\'').next()?;
    let known = super::functions::functions().map(|e| e.name);
    let known = known.chain(SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name));
    nearest(name, known.chain(FUNCTIONS_MISSING.iter().flat_map(|m| m.names.iter().copied())))
}

fn innermost(error: &mlua::Error) -> &mlua::Error {
    match error {
        mlua::Error::CallbackError { cause, .. } | mlua::Error::BadArgument { cause, .. } => innermost(cause),
        other => other,
    }
}

/// Lua's own words, without those of the library around them.
fn message(error: &mlua::Error) -> String {
    match error {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        other => other.to_string(),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The enumerations, for the reference.
pub(super) use self::constants::ENUMERATIONS;
/// The enumerations, for the shards' states.
pub(crate) use self::constants::define as define_constants;
/// The options of `concentrate`, for the reference.
pub(super) use self::pool::CONCENTRATE;
/// The policy of a name, and the name of a policy.
pub(super) use self::pool::{kind as policy_kind, name as policy_name};

#[cfg(test)]
mod tests;
