//! The Lua front end: evaluates a configuration file into a [`Draft`], and keeps the Lua state for the functions of
//! health checks.
//!
//! Functions, names and units are those of the tables in [`functions`](crate::config::functions) and
//! [`options`](crate::config::options), and the selectors and actions that are declared here. An invalid argument is
//! *recorded*, with file and line of the call, and evaluation continues, so that one run shows every error; only an
//! error of Lua itself ends it. Nothing here opens a socket or starts anything: the only I/O is to read the files of
//! the configuration.
//!
//! The standard library is complete except for what [`limits`](crate::lua::limits) removes from every state. Each
//! evaluation runs on a thread of its own, with a stack for Lua: the caller waits no longer than the time limit, even
//! for a file that hangs in a C function. The thread stays for the functions of health checks, if there are any.

// The Lua library's kinds of values and errors may grow; a new one is as invalid as the rest.
#![allow(clippy::wildcard_enum_match_arm)]

mod absent;
mod actions;
mod answers;
mod anytime;
mod argument;
mod arguments;
mod bind;
mod cache;
mod callbacks;
mod captured;
mod caught;
mod chains;
mod changes;
pub mod command;
pub mod console;
mod constants;
mod context;
mod declared;
mod functions;
mod globals;
mod inspect;
mod limiter;
mod lookups;
mod lua_error;
mod machine;
mod mark;
mod metrics;
mod missing;
mod names;
mod nearest;
mod needs;
mod networks;
pub mod notice;
pub(crate) mod older;
mod packet;
pub mod page;
mod paste;
mod pool;
mod printing;
mod query_count;
pub mod relays;
mod responses;
mod selectors;
mod server;
mod server_object;
mod sets;
mod setter;
mod settings;
mod stack;
mod tls;
mod traffic;
mod traffic_text;
mod values;
pub mod view;
mod web;

use std::cell::RefCell;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mlua::{ChunkMode, Function, Lua, Value};

use crate::base::files;
use crate::base::files::LIST_BYTES_MAX;
use crate::config::Flags;
use crate::config::caches;
use crate::config::draft::{Draft, DraftConsole};
use crate::config::error::{ConfigError, Errors, Fault, Origin};
use crate::config::functions::Entry;
use crate::config::log_style::LogStyle;
use crate::config::options::Key;
use crate::config::{value, warnings};
use crate::lua::ffi;
pub use crate::lua::ffi::watch::Interrupt;
pub use crate::lua::front_end::actions::query_actions;
pub use crate::lua::front_end::answers::answers;
use crate::lua::front_end::command::{COMMAND, Command, Evaluated, Standing};
use crate::lua::front_end::console::ConsoleWatch;
use crate::lua::front_end::context::{Build, Context};
use crate::lua::front_end::lua_error::{first_line, innermost, message, script_error};
pub use crate::lua::front_end::responses::response_actions;
pub use crate::lua::front_end::selectors::selectors;
use crate::lua::front_end::settings::LogWatch;
use crate::lua::front_end::stack::caller;
pub use crate::lua::limits::thread::NoResult;
use crate::lua::limits::thread::{Failed, Worker};
use crate::lua::limits::{CHECK_TICKS, EVALUATION, Runtime};
use crate::lua::state;
use crate::lua::state::File;
use crate::model::LuaFunction;

/// Returns every function that a configuration can call, besides those of the settings.
pub fn every_function() -> impl Iterator<Item = &'static Entry> {
    let rules = selectors().chain(query_actions()).chain(answers()).chain(response_actions());
    crate::config::functions::functions().chain(rules)
}

/// The result of [`load`].
#[derive(Debug)]
pub struct Loaded {
    /// The configuration as written, with the errors found while writing it.
    pub draft: Draft,
    /// The Lua state, for the functions of health checks.
    pub lua: LuaHost,
}

/// Evaluates the file that the flags name, and the flags.
///
/// # Errors
/// All errors that were found until an error of Lua ended the evaluation. Other errors are in the
/// draft, and [`compile`](crate::config::compile()) reports them with its own.
pub fn load(flags: &Flags) -> Result<Loaded, Vec<ConfigError>> {
    load_unless(flags, &Interrupt::default())
}

/// Like [`load`], but another thread can interrupt it.
///
/// # Errors
/// Those of [`load`], and the interruption.
pub fn load_unless(flags: &Flags, interrupt: &Interrupt) -> Result<Loaded, Vec<ConfigError>> {
    loaded(flags, interrupt, Watches::default())
}

/// Like [`load`], for a process that starts: `style` takes how the log is to look as soon as the
/// file says it.
///
/// # Errors
/// Those of [`load`].
pub fn load_first(flags: &Flags, style: fn(&LogStyle)) -> Result<Loaded, Vec<ConfigError>> {
    let given = flags.settings.clone();
    let watch: LogWatch = Arc::new(move |settings| {
        let mut all = settings.clone();
        all.overlay(&given);
        style(&LogStyle::of(&all));
    });
    loaded(flags, &Interrupt::default(), Watches { log: Some(watch), ..Watches::default() })
}

fn loaded(flags: &Flags, interrupt: &Interrupt, watches: Watches) -> Result<Loaded, Vec<ConfigError>> {
    let evaluated = evaluate_within(flags.file.as_deref(), interrupt, EVALUATION, watches);
    let (mut draft, lua) = evaluated.map_err(|broken| {
        if flags.settings.switch(Key::Strict) {
            return broken.strict();
        }
        broken.warnings.iter().for_each(|odd| tracing::warn!("{odd}"));
        broken.errors
    })?;
    complete(&mut draft, flags);
    for odd in draft.warnings.clone().into_list() {
        tracing::warn!("{odd}");
    }
    Ok(Loaded { draft, lua })
}

/// Adds the command line to what was evaluated.
pub fn complete(draft: &mut Draft, flags: &Flags) {
    flags.apply(draft);
    draft.join_shared_listeners();
    warnings::add(draft);
    caches::warn(draft);
    draft.apply_strictness();
}

/// The functions of health checks and the commands of console and API, on the thread that evaluated the configuration.
#[derive(Debug)]
pub struct LuaHost {
    worker: Worker<Host>,
}

/// The part that stays on that thread.
#[derive(Debug)]
struct Host {
    runtime: Runtime,
    standing: RefCell<Standing>,
    /// Commands of the console or of the API may come.
    takes_commands: bool,
}

impl Host {
    /// Calls a function of the configuration within the time limit.
    fn call<R: mlua::FromLuaMulti>(
        &self,
        function: LuaFunction,
        arguments: impl mlua::IntoLuaMulti,
    ) -> Result<R, String> {
        let function: Function = {
            let standing = self.standing.borrow();
            let function = standing.build().functions.get(function.0 as usize).ok_or("no such function")?;
            self.runtime.lua().registry_value(function).map_err(|e| e.to_string())?
        };
        let (result, _) = self.runtime.run(CHECK_TICKS, || function.call::<R>(arguments));
        result.map_err(|e| {
            if matches!(innermost(&e), mlua::Error::MemoryError(_)) {
                self.runtime.recover();
            }
            first_line(&message(innermost(&e))).to_owned()
        })
    }
}

/// The result of a `checkFunction`: name, type and class.
pub type Question = (String, u16, u16);

impl Host {
    fn choose(
        &self,
        function: LuaFunction,
        (qname, qtype, qclass): Question,
        header: [u8; 12],
    ) -> Result<(Question, [u8; 12]), String> {
        let shared = packet::Header::new(header);
        let chosen: (Value, Value, Value) =
            self.call(function, (packet::Name::new(&qname), qtype, qclass, shared.clone()))?;
        let name = packet::name(&chosen.0).ok_or("returned no name; expected qname, qtype, qclass")?;
        let name = value::qname(&name).map_err(|e| format!("returned \"{name}\"; expected {e}"))?;
        let number = |v: &Value, what: &str| {
            argument::whole(what, v, 0, 65535)
                .ok()
                .and_then(|n| u16::try_from(n).ok())
                .ok_or_else(|| format!("returned {} as {what}; expected a number", argument::shown(v)))
        };
        Ok(((name, number(&chosen.1, "qtype")?, number(&chosen.2, "qclass")?), shared.bytes()))
    }

    fn judge(&self, function: LuaFunction, server_name: String, response: &[u8]) -> Result<bool, String> {
        let lua = self.runtime.lua();
        let described = packet::describe(lua, response).map_err(|e| e.to_string())?;
        let content = lua.create_string(response).map_err(|e| e.to_string())?;
        match self.call(function, (server_name, described, content))? {
            Value::Boolean(healthy) => Ok(healthy),
            other => Err(format!("returned {}; expected true or false", argument::shown(&other))),
        }
    }
}

impl Host {
    /// Returns whether anything may be called after the evaluation.
    fn stays(&self) -> bool {
        self.takes_commands || !self.standing.borrow().build().functions.is_empty()
    }

    fn run(&self, command: &Command) -> Evaluated {
        let mut standing = self.standing.borrow_mut();
        standing.run(&self.runtime, command)
    }
}

impl LuaHost {
    /// Runs a command of the console. What it changes is kept once it is
    /// [settled](LuaHost::settle).
    ///
    /// # Errors
    /// It did not run.
    pub fn run(&self, command: Command) -> impl Future<Output = Result<Evaluated, NoResult>> + use<> {
        self.worker.call_within(COMMAND, move |host| host.run(&command))
    }

    /// Keeps the change of the last command, or forgets it; before any later command.
    pub fn settle(&self, accepted: bool) {
        self.worker.tell(move |host| host.standing.borrow_mut().settle(host.runtime.lua(), accepted));
    }

    /// Lets a `checkFunction` choose the query of a probe; it may also change the header. Returns
    /// name, type, class and header.
    ///
    /// # Errors
    /// What is wrong with the function or its result, for the log.
    pub fn choose(
        &self,
        function: LuaFunction,
        qname: &str,
        qtype: u16,
        qclass: u16,
        header: [u8; 12],
    ) -> impl Future<Output = Result<(Question, [u8; 12]), NoResult>> + use<> {
        let question = (qname.to_owned(), qtype, qclass);
        let chosen = self.worker.call(move |host| host.choose(function, question, header));
        async { chosen.await?.map_err(NoResult::Failed) }
    }

    /// Lets a function judge the answer to a probe of the server called `server_name`.
    ///
    /// # Errors
    /// What is wrong with the function, for the log; the probe has failed then.
    pub fn judge(
        &self,
        function: LuaFunction,
        server_name: &str,
        response: &[u8],
    ) -> impl Future<Output = Result<bool, NoResult>> + use<> {
        let (server_name, response) = (server_name.to_owned(), response.to_vec());
        let judged = self.worker.call(move |host| host.judge(function, server_name, &response));
        async { judged.await?.map_err(NoResult::Failed) }
    }

    /// Runs something on the thread of these functions, if there is one: capabilities belong to
    /// threads.
    ///
    /// # Errors
    /// When the thread cannot run it.
    pub fn within(
        &self,
        work: Box<dyn FnOnce() + Send>,
    ) -> impl Future<Output = Result<(), NoResult>> + use<> {
        let done = self.worker.stays().then(|| self.worker.call(|_| work()));
        async {
            match done {
                Some(done) => done.await,
                None => Ok(()),
            }
        }
    }
}

/// Evaluates a file, or nothing, into a draft, for at most 30 seconds.
///
/// # Errors
/// All errors found until an error of Lua ended the evaluation.
pub fn evaluate(file: Option<&Path>, interrupt: &Interrupt) -> Result<(Draft, LuaHost), Vec<ConfigError>> {
    evaluate_within(file, interrupt, EVALUATION, Watches::default()).map_err(|broken| broken.errors)
}

/// What is said of a file that an error of Lua ended.
#[derive(Debug)]
struct Broken {
    errors: Vec<ConfigError>,
    /// Those of the lines before.
    warnings: Vec<ConfigError>,
}

impl Broken {
    /// Returns both as errors.
    fn strict(mut self) -> Vec<ConfigError> {
        // The error that ended it comes last.
        self.warnings.append(&mut self.errors);
        self.warnings
    }
}

impl From<Vec<ConfigError>> for Broken {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self { errors, warnings: Vec::new() }
    }
}

/// Returns what a file says of the console until its end, or until an error ends it, which is returned
/// too. Of a file that is no Lua, the part above the error is evaluated.
#[must_use]
pub fn console_of(file: &Path) -> (DraftConsole, Vec<ConfigError>) {
    let (watch, found) = mpsc::channel();
    let watches = Watches { console: Some(watch), ..Watches::default() };
    let errors = evaluate_within(Some(file), &Interrupt::default(), EVALUATION, watches).err();
    (found.try_iter().last().unwrap_or_default(), errors.map_or_else(Vec::new, |broken| broken.errors))
}

/// Who is told of what a file says while it is evaluated.
#[derive(Clone, Default)]
struct Watches {
    log: Option<LogWatch>,
    console: Option<ConsoleWatch>,
}

/// The same with another time limit.
fn evaluate_within(
    file: Option<&Path>,
    interrupt: &Interrupt,
    limit: Duration,
    watches: Watches,
) -> Result<(Draft, LuaHost), Broken> {
    let (path, own) = (file.map(Path::to_owned), interrupt.clone());
    let started = Worker::start("config", interrupt, limit, move || {
        match evaluate_here(path.as_deref(), &own, watches) {
            Ok((draft, host)) => (Ok(draft), host.stays().then_some(host)),
            Err(errors) => (Err(errors), None),
        }
    });
    match started {
        Ok((Ok(draft), worker)) => Ok((draft, LuaHost { worker })),
        Ok((Err(errors), _)) => Err(errors),
        Err(failed) => {
            let what = match failed {
                Failed::Start(e) => format!("cannot start a thread to evaluate it: {e}"),
                Failed::Left => "earlier evaluations hang: a restart is needed".to_owned(),
                Failed::Interrupted => "interrupted".to_owned(),
                Failed::Late => format!("not evaluated within {} s", limit.as_secs()),
                Failed::Panicked(panic) => panic,
            };
            Err(vec![ConfigError::new(&Origin::file(&shown_name(file)), "", Fault::Script(what))].into())
        }
    }
}

fn shown_name(file: Option<&Path>) -> String {
    file.map_or_else(|| "command line".to_owned(), |f| f.display().to_string())
}

/// Evaluates a file on the calling thread, whose time it takes.
#[cfg(test)]
pub(crate) fn evaluated_here(file: &Path) -> Result<Draft, Vec<ConfigError>> {
    let evaluated = evaluate_here(Some(file), &Interrupt::default(), Watches::default());
    evaluated.map(|(draft, _)| draft).map_err(|broken| broken.errors)
}

fn evaluate_here(
    file: Option<&Path>,
    interrupt: &Interrupt,
    watches: Watches,
) -> Result<(Draft, Host), Broken> {
    let name = shown_name(file);
    let fatal = |e: &mlua::Error| Broken::from(vec![script_error(e, &[&name])]);
    let runtime = Runtime::new(interrupt).map_err(|e| fatal(&e))?;
    let context = Context::default();
    context.begin(Build::default(), None);
    define(runtime.lua(), &context).map_err(|e| fatal(&e))?;
    watches.log.map(|watch| runtime.lua().set_app_data(watch));
    watches.console.map(|watch| runtime.lua().set_app_data(watch));
    let ended = runtime.evaluate(|| {
        let ran = file.map_or(Ok(()), |f| run(runtime.lua(), &context, Role::Main, f));
        let ran = ran.and_then(|()| {
            // Before what the API has changed of the servers that they add.
            lookups::finish(runtime.lua(), &context)?;
            let kept = context.kept_files();
            kept.iter().try_for_each(|f| run(runtime.lua(), &context, Role::Kept, f))
        });
        // Flushes what the file wrote without a line end. A file may have replaced these functions.
        let _ = runtime.lua().load("io.stdout:flush() io.stderr:flush()").exec();
        ran
    });
    let mut build = context.finish();
    let mut draft = std::mem::take(&mut build.draft);
    if let Err(e) = ended {
        let files = build.texts;
        let all = files.main.iter().chain(files.directories.iter().flat_map(|d| &d.1));
        let files: Vec<&str> = all.map(|f| f.name.as_str()).collect();
        let mut errors = draft.errors.into_list();
        let mut error = script_error(&e, &files);
        if let (Fault::Script(_), true) = (&error.fault, error.origin.is_whole_file())
            && let Some(line) = build.code.tail_call()
        {
            error.origin = Origin::line(&name, line);
        }
        errors.push(error);
        let broken = Broken { errors, warnings: std::mem::take(&mut draft.warnings).into_list() };
        // As the file has said until then.
        return Err(if draft.settings.switch(Key::Strict) { broken.strict().into() } else { broken });
    }
    let code = std::mem::take(&mut build.code);
    draft.is_blank = build.texts.main.as_ref().is_some_and(|f| f.text.trim_ascii().is_empty());
    draft.maintenance |= command::has_maintenance(runtime.lua());
    names::check(runtime.lua(), code, &mut draft, interrupt).map_err(|e| Broken::from(vec![e]))?;
    if draft.errors.is_empty() && (draft.maintenance || !draft.functions.is_empty()) {
        let (functions, names, networks) =
            (draft.functions.clone(), draft.name_sets.clone(), draft.networks.clone());
        match state::check_unless(build.texts.clone(), functions, names, networks, interrupt) {
            Ok(source) => draft.script = Some(source),
            Err(e) => draft.errors.push(e),
        }
    }
    let takes_commands = draft.takes_commands();
    // Callbacks and pages look at what commands change.
    if takes_commands || !build.functions.is_empty() {
        build.draft = draft.clone();
        build.draft.warnings = Errors::default();
    }
    let host =
        Host { runtime, standing: RefCell::new(Standing::new(context, build, interrupt)), takes_commands };
    if host.stays() {
        missing::forget(host.runtime.lua()).map_err(|e| fatal(&e))?;
        host.runtime.serve(false).map_err(|e| fatal(&e))?;
    }
    Ok((draft, host))
}

/// Defines every function and constant.
fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    ffi::define_family(lua)?;
    globals::define(lua)?;
    constants::define(lua)?;
    packet::define(lua, context)?;
    console::define(lua, context)?;
    inspect::define(lua, context)?;
    absent::define(lua, context)?;
    bind::define(lua, context)?;
    traffic::define(lua, context)?;
    query_count::define(lua, context)?;
    settings::define(lua, context)?;
    relays::define(lua, context)?;
    tls::define(lua, context)?;
    server::define(lua, context)?;
    cache::define(lua, context)?;
    pool::define(lua, context)?;
    networks::define(lua, context)?;
    sets::define(lua, context)?;
    limiter::define(lua, context)?;
    selectors::define(lua, context)?;
    actions::define(lua, context)?;
    answers::define(lua, context)?;
    responses::define(lua, context)?;
    chains::define(lua, context)?;
    web::define(lua, context)?;
    callbacks::define(lua, context)?;
    metrics::define(lua, context)?;
    lookups::define(lua, context)?;
    machine::define(lua, context)?;
    missing::define(lua, context)
}

/// What a file is.
#[derive(Clone, Copy, Debug)]
enum Role<'a> {
    /// The configuration.
    Main,
    /// One of the directory that is included as this.
    Included(&'a str),
    /// One that the API has written.
    Kept,
}

/// Evaluates one file.
fn run(lua: &Lua, context: &Context, role: Role<'_>, path: &Path) -> mlua::Result<()> {
    let name = path.display().to_string();
    let text = files::read(path, LIST_BYTES_MAX).map_err(|e| mlua::Error::external(unreadable(&name, &e)));
    let file = File { name: name.clone(), text: text.as_ref().cloned().unwrap_or_default() };
    match role {
        Role::Main => context.reads(None, file),
        Role::Included(directory) => context.reads(Some(directory), file),
        Role::Kept => context.reads_kept(file),
    }
    let mut text = text?;
    if text.starts_with(b"#") {
        // A shebang line, as in any Lua script; a comment keeps the line numbers.
        text.splice(0..1, *b"--");
    }
    let load =
        |text: &[u8]| lua.load(text).set_name(format!("@{name}")).set_mode(ChunkMode::Text).into_function();
    let chunk = match load(&text) {
        Ok(chunk) => chunk,
        Err(error) => {
            let looks_for_the_console = lua.app_data_ref::<ConsoleWatch>().is_some();
            if let Some(above) = looks_for_the_console.then(|| above(&text, &error, load)).flatten() {
                above.call::<()>(())?;
            }
            return Err(error);
        }
    };
    context.has_code(&chunk);
    chunk.call(())
}

/// Returns what stands above the statement with an error, if that is Lua.
fn above(
    text: &[u8],
    error: &mlua::Error,
    load: impl Fn(&[u8]) -> mlua::Result<Function>,
) -> Option<Function> {
    /// Longer than any statement that somebody is writing.
    const LINES_MAX: usize = 200;
    let message = message(innermost(error));
    let line = message.split(':').find_map(|part| part.parse::<usize>().ok())?;
    let ends: Vec<usize> =
        text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
    let above = ends.get(..line.saturating_sub(1).min(ends.len()))?;
    above.iter().rev().take(LINES_MAX).find_map(|end| load(text.get(..*end)?).ok())
}

/// Reads a file of names or networks. An empty one is a fault: most often it is half written, and an
/// ACL or a list of blocked names that is gone without a word does harm.
fn read_list(path: &str) -> Result<Vec<u8>, Fault> {
    let content = files::read(Path::new(path), LIST_BYTES_MAX).map_err(|e| unreadable(path, &e).fault)?;
    if content.trim_ascii().is_empty() {
        let reason = "it is empty; expected a list, or a comment if there is to be none".to_owned();
        return Err(Fault::Unreadable { path: path.to_owned(), reason });
    }
    Ok(content)
}

fn unreadable(path: &str, error: &std::io::Error) -> ConfigError {
    let fault = Fault::Unreadable { path: path.to_owned(), reason: error.to_string() };
    ConfigError::new(&Origin::file(path), "", fault)
}

/// The enumerations, for the shards' states.
pub(crate) use crate::lua::front_end::constants::define as define_constants;

#[cfg(test)]
mod tests;
