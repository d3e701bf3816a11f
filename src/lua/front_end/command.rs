//! Commands of the console: evaluated in the state of the configuration, with its globals, as if
//! they stood at the end of its file.
//!
//! A command that fails leaves the configuration as it was, and the globals: what a function or a
//! hook of the configuration is, and the handles that commands use. One that calls a function that changes
//! it yields a draft; whoever compiles and publishes that says with `Standing::settle` whether it
//! is in force.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mlua::{ChunkMode, Function, Lua, MultiValue, Value};

use crate::base::printable::Printable;
use crate::config::draft::Draft;
use crate::config::options::Key;
use crate::config::warnings::warn_of_modes;
use crate::engine::clock;
use crate::lua::front_end::changes::{Change, Changes};
use crate::lua::front_end::context::{Build, Context, Sizes};
use crate::lua::front_end::globals::Saved;
pub(crate) use crate::lua::front_end::mark::shorten;
pub use crate::lua::front_end::mark::{Act, Mark};
use crate::lua::front_end::metrics::declarations;
use crate::lua::front_end::names::Code;
use crate::lua::front_end::paste::pasteable;
use crate::lua::front_end::view::{ServerView, View};
use crate::lua::front_end::{first_line, innermost, lookups, message, names, script_error, setter};
use crate::lua::limits::{Interrupt, Runtime};
use crate::lua::state;
use crate::lua::state::File;
use crate::model::LuaFunction;
use crate::stats::custom_metrics;

/// Wall-clock limit of one command, with the calls before it.
pub(crate) const COMMAND: Duration = Duration::from_secs(30);
/// Limit of one command, ticks: 5 s of CPU time. Functions of health checks wait meanwhile.
const COMMAND_TICKS: u32 = 500;
/// Most entries of globals and their tables that a refused command leaves as they were.
const GLOBALS_MAX: u32 = 100_000;
/// The same for a page, which is made more often.
const PAGE_GLOBALS_MAX: u32 = 5_000;
/// Most bytes that a function prints which nobody reads, but for the last line.
const LOOK_OUTPUT: usize = 10_000;
/// How long a command may take that the shards run again, in their states, while their queries wait.
const REPLAY: Duration = Duration::from_millis(250);
/// Memory that a command may leave to be collected some time, bytes.
const GARBAGE_MAX: usize = 1 << 20;

/// What a command asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To read the configuration again.
    Reload,
    /// To stop.
    Stop,
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// As it was typed.
    pub text: String,
    /// When, for `delta`.
    pub at: String,
    /// The running process.
    pub view: Arc<dyn View>,
    /// Longest reply, bytes.
    pub output_max: usize,
    /// What it changes, if a later change of the same takes its place.
    pub mark: Option<Mark>,
    /// Its warnings are errors.
    pub strict: bool,
}

/// The result of a command.
#[derive(Debug)]
pub struct Evaluated {
    /// What it printed and returned; or its error.
    pub reply: Result<Vec<u8>, String>,
    /// The configuration as it shall be, if the command may have changed it.
    pub draft: Option<Box<Draft>>,
    /// What it asks of the process.
    pub wish: Option<Wish>,
    /// It has failed after it had begun to change the configuration.
    pub is_refused: bool,
}

/// A running command.
#[derive(Debug)]
pub(crate) struct Session {
    /// The running process.
    pub(crate) view: Arc<dyn View>,
    /// What the command asks of it.
    pub(crate) wish: Option<Wish>,
    /// Earlier commands that changed something.
    pub(crate) delta: String,
    /// Later ones show none of them.
    pub(crate) forgets: bool,
    /// The servers' states, once they were asked for.
    servers: Option<HashMap<String, ServerView>>,
    output: Vec<u8>,
    /// Longest output, bytes.
    output_max: usize,
}

impl Session {
    /// Returns the state of a server, by its identity. That of all is read once a command, or a
    /// command that asks each of a thousand servers would read a million.
    pub(crate) fn server(&mut self, identity: &str) -> Option<ServerView> {
        self.servers.get_or_insert_with(|| self.view.servers()).get(identity).copied()
    }

    /// Adds a line to the output; what is too much is left out.
    pub(crate) fn print(&mut self, line: &[u8]) {
        if self.output.len() <= self.output_max {
            self.output.extend_from_slice(line);
            self.output.push(b'\n');
        }
    }

    /// Returns the whole reply.
    fn reply(mut self, returned: &[u8]) -> Vec<u8> {
        self.output.extend_from_slice(returned);
        if self.output.len() > self.output_max {
            let note = format!("\n(cut after {} bytes: setConsoleOutputMaxMsgSize)\n", self.output_max);
            self.output.truncate(self.output_max.saturating_sub(note.len()));
            self.output.extend_from_slice(note.as_bytes());
        }
        self.output
    }
}

/// The configuration that commands add to.
#[derive(Debug)]
pub(crate) struct Standing {
    context: Context,
    build: Build,
    /// Number of commands so far, for their names in messages.
    count: u32,
    /// What is undone if the last command's change is refused.
    undo: Option<Undo>,
    /// Commands that changed something or defined globals.
    changes: Changes,
    interrupt: Interrupt,
}

#[derive(Debug)]
struct Undo {
    draft: Draft,
    sizes: Sizes,
    changes: usize,
    globals: Saved,
}

impl Standing {
    /// Creates it of a configuration that has been evaluated.
    pub(crate) fn new(context: Context, build: Build, interrupt: &Interrupt) -> Self {
        let interrupt = interrupt.clone();
        Self { context, build, count: 0, undo: None, changes: Changes::default(), interrupt }
    }

    /// Returns what was built.
    pub(crate) const fn build(&self) -> &Build {
        &self.build
    }

    /// Keeps the change of the last command, or forgets it.
    pub(crate) fn settle(&mut self, lua: &Lua, accepted: bool) {
        let Some(undo) = self.undo.take() else { return };
        if accepted {
            self.changes.settle();
        } else {
            self.undo(lua, undo);
        }
    }

    /// Makes everything as it was before the last command.
    fn undo(&mut self, lua: &Lua, undo: Undo) {
        self.build.restore(undo.draft, undo.sizes);
        self.changes.truncate(undo.changes);
        undo.globals.restore(lua);
    }

    /// Runs a command.
    pub(crate) fn run(&mut self, runtime: &Runtime, command: &Command) -> Evaluated {
        let wrong = |error, is_refused| Evaluated { reply: Err(error), draft: None, wish: None, is_refused };
        let failed = |error: String| wrong(error, false);
        let lua = runtime.lua();
        // Nobody has put the last one's change in force.
        self.settle(lua, false);
        self.count = self.count.wrapping_add(1);
        let name = format!("command#{}", self.count);
        let saved = match Saved::new(lua, GLOBALS_MAX) {
            Ok(saved) => saved,
            Err(e) => return failed(first_line(&message(innermost(&e))).to_owned()),
        };
        let mut build = std::mem::take(&mut self.build);
        let (chunk, file, is_expression) = match compile(lua, &name, &command.text) {
            Ok(compiled) => compiled,
            Err(e) => {
                self.build = build;
                return failed(first_line(&message(innermost(&e))).to_owned());
            }
        };
        let (draft, sizes) = (build.draft.clone(), build.sizes());
        let undo = Undo { draft, sizes, changes: self.changes.len(), globals: saved };
        let (functions, before) = (build.draft.functions.len(), globals(lua));
        let numbered = |d: &Draft| (d.functions.len(), d.name_sets.len(), d.networks.len(), d.caches.len());
        let numbered_before = numbered(&build.draft);
        let declared = declarations(lua);
        build.touched = false;
        build.code = Code::default();
        build.calls.enter(&name);
        let session = Session {
            view: Arc::clone(&command.view),
            wish: None,
            delta: self.changes.delta(),
            forgets: false,
            servers: None,
            output: Vec::new(),
            output_max: command.output_max,
        };
        self.context.begin(build, Some(session));
        self.context.has_code(&chunk);
        let (memory, begun) = (lua.used_memory(), clock::now());
        lookups::forget(lua);
        let (ended, _) = runtime.run(COMMAND_TICKS, || {
            let returned = chunk.call::<MultiValue>(())?;
            lookups::finish(lua, &self.context)?;
            // Flushes what was written without a line end.
            lua.load("io.stdout:flush() io.stderr:flush()").exec()?;
            shown(&returned)
        });
        let took = Duration::from(clock::now().since(begun));
        // LuaJIT does not collect when memory is short, so that the next command would fail.
        if lua.used_memory() > memory + GARBAGE_MAX {
            runtime.recover();
        }
        let session = self.context.take_session();
        self.build = self.context.finish();
        let Some(session) = session else { return failed("internal error: no session".to_owned()) };
        let wish = session.wish;
        let returned = match ended {
            Ok(returned) => returned,
            Err(e) => {
                let is_refused = self.build.touched;
                let errors = std::mem::take(&mut self.build.draft.errors).into_list();
                self.undo(lua, undo);
                // What a call that has failed returned may have led to it.
                let first = errors
                    .first()
                    .map_or_else(|| script_error(&e, &[&name]).to_string(), ToString::to_string);
                return wrong(first, is_refused);
            }
        };
        let draft = &self.build.draft;
        // A setter that says what was said before is no change; more than a draft may tell others apart.
        let is_harmless = setter::is_literal(lua, &command.text)
            || is_expression && setter::is_measurement(lua, &command.text);
        let is_change = !draft.errors.is_empty() || !is_harmless || !draft.says_the_same(&undo.draft);
        let has_failed = draft.errors.is_empty() && draft.misses() && draft.says_the_same(&undo.draft);
        let touched = self.build.touched && is_change;
        let (redefines, declares) = (before != globals(lua), declared != declarations(lua));
        // The shards' functions see the globals as they are after the file and all commands.
        let in_shards = draft.functions.len() > functions
            || redefines && (!draft.functions.is_empty() || draft.maintenance || has_maintenance(lua));
        if has_failed && !redefines && !declares && !in_shards {
            let warnings = std::mem::take(&mut self.build.draft.warnings).into_list();
            self.undo(lua, undo);
            let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            return wrong(warnings.join("\n"), false);
        }
        if wish == Some(Wish::Reload) && (touched || in_shards) {
            self.undo(lua, undo);
            return wrong("reload() forgets what the command changes: one or the other".to_owned(), true);
        }
        if touched || redefines || in_shards || declares {
            let (typed, at) = (pasteable(lua, &command.text, is_expression), command.at.clone());
            let mark = command.mark.clone().filter(|_| !redefines && !in_shards);
            // What it makes has numbers, by which the states of the shards find it.
            let is_replayed = redefines || in_shards || declares || numbered(draft) != numbered_before;
            let (by_api, is_shown) = (command.mark.is_some(), true);
            let adds = redefines || declares || draft.has_more_than(&undo.draft);
            self.changes.push(Change { file, typed, is_replayed, took, at, by_api, mark, is_shown });
            let too_long = if adds { self.changes.too_long() } else { None };
            if let Err(error) = too_long.map_or_else(|| self.check(lua, in_shards), Err) {
                self.undo(lua, undo);
                return wrong(error, touched || in_shards);
            }
        }
        warn_of_modes(&mut self.build.draft, undo.draft.servers.len());
        if command.strict || self.build.draft.settings.switch(Key::Strict) {
            let draft = &mut self.build.draft;
            draft.errors.append(std::mem::take(&mut draft.warnings));
        }
        let errors = std::mem::take(&mut self.build.draft.errors).into_list();
        if !errors.is_empty() {
            self.undo(lua, undo);
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return wrong(errors.join("\n"), touched || in_shards);
        }
        let mut session = session;
        for warning in std::mem::take(&mut self.build.draft.warnings).into_list() {
            session.print(format!("Warning: {warning}").as_bytes());
        }
        if session.forgets {
            self.changes.forget();
        }
        let reply = Ok(session.reply(&returned));
        if !touched && !in_shards {
            // What only looks leaves nothing that a later change would put in force.
            let metrics = std::mem::take(&mut self.build.draft.metrics);
            self.build.restore(undo.draft, undo.sizes);
            self.build.draft.metrics = metrics;
            if declares {
                custom_metrics::all().publish(&self.build.draft.metrics);
            }
            return Evaluated { reply, draft: None, wish, is_refused: false };
        }
        self.undo = Some(undo);
        let draft = Some(Box::new(self.build.draft.clone()));
        Evaluated { reply, draft, wish, is_refused: false }
    }

    /// Returns a function of the configuration.
    pub(crate) fn function(&self, lua: &Lua, function: LuaFunction) -> Result<Function, String> {
        let function = self.build.functions.get(function.0 as usize).ok_or("no such function")?;
        lua.registry_value(function).map_err(|e| e.to_string())
    }

    /// Runs something that may look at the configuration, and changes nothing: what it has changed
    /// is an error, and forgotten.
    pub(crate) fn look<R>(
        &mut self,
        runtime: &Runtime,
        view: &Arc<dyn View>,
        call: impl FnOnce(&Lua) -> mlua::Result<R>,
    ) -> Result<R, String> {
        let lua = runtime.lua();
        let saved = Saved::new(lua, PAGE_GLOBALS_MAX);
        let saved = saved.map_err(|e| first_line(&message(innermost(&e))).to_owned())?;
        let mut build = std::mem::take(&mut self.build);
        let (draft, sizes) = (build.draft.clone(), build.sizes());
        build.touched = false;
        let session = Session {
            view: Arc::clone(view),
            wish: None,
            delta: self.changes.delta(),
            forgets: false,
            servers: None,
            output: Vec::new(),
            output_max: LOOK_OUTPUT,
        };
        self.context.begin(build, Some(session));
        lookups::forget(lua);
        let (ended, _) = runtime.run(COMMAND_TICKS, || call(lua));
        if lookups::forget(lua) {
            tracing::warn!("getAddressInfo works in the file and at the console only");
        }
        let session = self.context.take_session();
        // Nobody reads it, so that it is for the log, as elsewhere.
        let printed = session.as_ref().map(|session| String::from_utf8_lossy(&session.output));
        printed.iter().flat_map(|text| text.lines()).for_each(|line| tracing::info!("{}", Printable(line)));
        self.build = self.context.finish();
        let touched = self.build.touched;
        // A function at work declares metrics for itself.
        custom_metrics::all().add_all(&self.build.draft.metrics.since(&draft.metrics));
        self.build.restore(draft, sizes);
        if matches!(&ended, Err(e) if matches!(innermost(e), mlua::Error::MemoryError(_))) {
            runtime.recover();
        }
        if touched {
            saved.restore(lua);
        }
        let result = ended.map_err(|e| first_line(&message(innermost(&e))).to_owned())?;
        if touched || session.is_none_or(|session| session.wish.is_some()) {
            return Err(
                "it changes the configuration, which only the file, the console and the API may".to_owned()
            );
        }
        Ok(result)
    }

    /// Checks the last change, and makes the shards' states anew if they need its code.
    fn check(&mut self, lua: &Lua, in_shards: bool) -> Result<(), String> {
        let code = std::mem::take(&mut self.build.code);
        names::check(lua, code, &mut self.build.draft, &self.interrupt).map_err(|e| e.to_string())?;
        if !in_shards || !self.build.draft.errors.is_empty() {
            return Ok(());
        }
        let replayed = || self.changes.iter().filter(|change| change.is_replayed);
        if let Some(slow) = replayed().find(|change| change.took > REPLAY) {
            let is_last = self.changes.iter().next_back().is_some_and(|last| std::ptr::eq(last, slow));
            let which =
                if is_last { "the command".to_owned() } else { format!("the command of {}", slow.at) };
            return Err(format!(
                "{which} took {:.1} s, and each shard would run it again while its queries wait: do without \
                 what takes long, or put the output of delta() into the file without that, and reload",
                slow.took.as_secs_f64()
            ));
        }
        let draft = &mut self.build.draft;
        draft.maintenance |= has_maintenance(lua);
        let mut files = self.build.texts.clone();
        let again = self.changes.iter().filter(|change| change.is_replayed);
        files.commands.extend(again.map(|change| change.file.clone()));
        let sets = (draft.name_sets.clone(), draft.networks.clone());
        let source = state::check_unless(files, draft.functions.clone(), sets.0, sets.1, &self.interrupt);
        draft.script = Some(source.map_err(|e| e.to_string())?);
        Ok(())
    }
}

/// Returns whether there is a function `maintenance`.
pub(crate) fn has_maintenance(lua: &Lua) -> bool {
    matches!(lua.globals().raw_get("maintenance"), Ok(Value::Function(_)))
}

/// Returns what identifies the values of all globals; not what is in their tables.
fn globals(lua: &Lua) -> u64 {
    let mut sum = 0_u64;
    for pair in lua.globals().pairs::<Value, Value>() {
        let Ok((name, value)) = pair else { continue };
        let value = match &value {
            // Numbers and the like have no address.
            Value::Nil | Value::Boolean(_) | Value::Integer(_) | Value::Number(_) | Value::String(_) => {
                value.to_string().unwrap_or_default()
            }
            other => format!("{:p}", other.to_pointer()),
        };
        let text = format!("{} = {value}", name.to_string().unwrap_or_default());
        // Tables have no order.
        sum = sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
    }
    sum
}

/// Compiles a command: as an expression if it is one, or else as statements.
fn compile(lua: &Lua, name: &str, text: &str) -> mlua::Result<(Function, File, bool)> {
    let load = |text: &str| {
        let chunk = lua.load(text.as_bytes()).set_name(format!("@{name}")).set_mode(ChunkMode::Text);
        let file = File { name: name.to_owned(), text: text.as_bytes().to_vec() };
        chunk.into_function().map(|chunk| (chunk, file))
    };
    // In parentheses, or it would be a tail call, which has no line. A comment may end it.
    match load(&format!("return ({text}\n)")) {
        Ok((chunk, file)) => Ok((chunk, file, true)),
        Err(_) => load(text).map(|(chunk, file)| (chunk, file, false)),
    }
}

/// Formats what a command returned: texts and numbers as they are, a list line by line, other tables,
/// and those within, as JSON, objects by their names.
fn shown(returned: &MultiValue) -> mlua::Result<Vec<u8>> {
    let Some(value) = returned.front() else { return Ok(Vec::new()) };
    let mut out = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Table(table) => listed(table)?,
        other => other.to_string()?.into_bytes(),
    };
    if out.last().is_some_and(|last| *last != b'\n') {
        out.push(b'\n');
    }
    Ok(out)
}

/// Formats a table: a list line by line, others as an object of JSON, by name.
fn listed(table: &mlua::Table) -> mlua::Result<Vec<u8>> {
    if table.raw_len() == 0 {
        return Ok(json(&Value::Table(table.clone()), 0)?.into_bytes());
    }
    let mut out = Vec::new();
    for item in table.sequence_values::<Value>() {
        let line = match item? {
            table @ Value::Table(_) => json(&table, 0)?,
            other => other.to_string()?,
        };
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    Ok(out)
}

/// Returns a value as JSON; tables beyond a depth, as of one that contains itself, as texts.
fn json(value: &Value, depth: usize) -> mlua::Result<String> {
    /// Deeper than anything that functions return.
    const DEPTH_MAX: usize = 8;
    let quoted = |text: String| serde_json::Value::String(text).to_string();
    let table = match value {
        Value::Integer(_) | Value::Boolean(_) => return value.to_string(),
        Value::Number(n) if n.is_finite() => return value.to_string(),
        Value::Nil => return Ok("null".to_owned()),
        Value::Table(table) if depth < DEPTH_MAX => table,
        other => return Ok(quoted(other.to_string()?)),
    };
    if table.raw_len() > 0 {
        let items = table.sequence_values::<Value>().map(|item| json(&item?, depth + 1));
        return Ok(format!("[{}]", items.collect::<mlua::Result<Vec<_>>>()?.join(", ")));
    }
    let mut pairs = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (name, value) = pair?;
        pairs.push(format!("{}: {}", quoted(name.to_string()?), json(&value, depth + 1)?));
    }
    pairs.sort();
    Ok(format!("{{{}}}", pairs.join(", ")))
}

#[cfg(test)]
mod tests;
