//! One shard's Lua state: evaluates the file, calls its functions, limits and counts.
//!
//! # What was measured
//! See `benches/script.rs`. For a function that tests the name and sets a tag callgrind counts 9,500
//! instructions of the machine a call: 2,600 are the interpreter's, 1,400 the hook's (9 for each of
//! Lua's own instructions, of which such a function takes 155), the rest the way between Rust and Lua
//! and garbage. A call into Rust costs some 900, a call between Lua functions a tenth of that: hence
//! the prelude, and the name goes along with the call. The JIT compiler is off, since compiled code
//! does not see the hook that ends an endless loop.
//!
//! # Invariants
//! - A call gets at most [`CALL_HOOKS`] times [`HOOK_INSTRUCTIONS`] instructions of Lua.
//! - [`Current`] is open exactly while a call runs.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{Either, Function, HookTriggers, LightUserData, Lua, Table, VmState};

use super::core::Place;
use super::current::{Current, Timed};
use super::record::{self, Found, Use};
use super::{Shared, core, files};
use crate::config::error::{ConfigError, Fault, Origin};
use crate::config::lua::define_constants;
use crate::config::snapshot::Snapshot;
use crate::engine::luaffi;
use crate::panics;
use crate::shard::DELAY_MS_MAX;
use crate::shard::rules::scene::{Env, Scene};
use crate::shard::script::{Candidate, FunctionId, Said, Script};
use crate::time::{Tick, TickDelta};
use crate::wire::header::rcode;

/// Between two looks at the limit, instructions.
const HOOK_INSTRUCTIONS: u32 = 10_000;
/// What one call may take, in hooks: a million instructions, some 5 ms of a CPU.
const CALL_HOOKS: u32 = 100;
/// What the evaluation of the file may take, in hooks: ten thousand million instructions.
const START_HOOKS: u32 = 1_000_000;
/// A heap this small is not swept often, octets.
const HEAP_IDLE: usize = 8 << 20;
/// At most one line in the log so often.
const LOG_INTERVAL: TickDelta = TickDelta::from_ms(1_000);

/// `DNSAction` and `DNSResponseAction`, one list for both: their numbers are the places here.
const ACTIONS: [&str; 17] = [
    "None",
    "Allow",
    "Drop",
    "Nxdomain",
    "Refused",
    "ServFail",
    "Spoof",
    "SpoofRaw",
    "SpoofPacket",
    "HeaderModify",
    "Pool",
    "Delay",
    "Truncate",
    "NoRecurse",
    "NoOp",
    "SetTag",
    "SpoofCNAME",
];

/// One shard's script.
pub(super) struct State {
    lua: Lua,
    place: Place,
    calls: Calls,
    /// How each function is called, and whether through C's pointers.
    usage: Vec<(Use, bool)>,
    watch: Watch,
    errors: u64,
    /// Errors since the last line in the log, and when that was.
    unsaid: u64,
    logged: Option<Tick>,
    argument: Vec<u8>,
    /// The name asked for by the running call's packet, on its way to Lua.
    name: Vec<u8>,
    maintains: bool,
    reads_files: bool,
}

/// The prelude's ways in.
struct Calls {
    act: Function,
    act_response: Function,
    act_ffi: Function,
    matches: Function,
    matches_ffi: Function,
    choose: Function,
    choose_ffi: Function,
    maintain: Function,
}

impl Calls {
    fn of(table: &Table) -> mlua::Result<Self> {
        Ok(Self {
            act: table.raw_get("act")?,
            act_response: table.raw_get("act_response")?,
            act_ffi: table.raw_get("act_ffi")?,
            matches: table.raw_get("matches")?,
            matches_ffi: table.raw_get("matches_ffi")?,
            choose: table.raw_get("choose")?,
            choose_ffi: table.raw_get("choose_ffi")?,
            maintain: table.raw_get("maintain")?,
        })
    }
}

/// What ends a call that runs too long.
#[derive(Clone, Debug, Default)]
struct Watch {
    /// Hooks left to the running call.
    budget: Rc<Cell<u32>>,
    /// The last call used its budget up: the hook sees every instruction.
    spent: Rc<Cell<bool>>,
}

impl Watch {
    fn arm(&self, lua: &Lua, every: u32) -> mlua::Result<()> {
        let watch = self.clone();
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(every), move |lua, _| {
            let left = watch.budget.get();
            if left > 0 {
                watch.budget.set(left - 1);
                return Ok(VmState::Continue);
            }
            // A script may catch the error: from here on every instruction raises it again, so
            // that one outside of any pcall soon does.
            if !watch.spent.replace(true) {
                watch.arm(lua, 1)?;
            }
            Err(mlua::Error::runtime("the function ran too long"))
        })
    }

    /// Gives the next call its budget.
    fn begin(&self, lua: &Lua, hooks: u32) -> mlua::Result<()> {
        self.budget.set(hooks);
        if self.spent.replace(false) {
            self.arm(lua, HOOK_INSTRUCTIONS)?;
        }
        Ok(())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("functions", &self.usage.len()).field("errors", &self.errors).finish()
    }
}

impl State {
    /// Evaluates the configuration.
    ///
    /// # Errors
    /// What Lua says of the file; or that it gives other functions than the control thread found.
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Self, ConfigError> {
        let found = Found::default();
        let state = Self::evaluate(shared, &found);
        let state = state.map_err(|e| {
            let origin = Origin::file(shared.name());
            let what = format!("evaluated as a shard does: {}", said(&e));
            ConfigError::new(&origin, "", Fault::Script(what))
        })?;
        record::compare(&shared.recorded, &found.borrow(), shared.name())?;
        Ok(state)
    }

    fn evaluate(shared: &Arc<Shared>, found: &Found) -> mlua::Result<Self> {
        let lua = crate::engine::sys::lua_with_ffi();
        lua.load("jit.off()").exec()?;
        let watch = Watch::default();
        watch.budget.set(START_HOOKS);
        watch.arm(&lua, HOOK_INSTRUCTIONS)?;
        let place: Place = Rc::new(RefCell::new(Current::default()));
        let core = core::table(&lua, &place, shared)?;
        let actions = ACTIONS.iter().enumerate().map(|(number, name)| (*name, number));
        core.raw_set("actions", lua.create_table_from(actions)?)?;
        define_constants(&lua)?;
        let kinds = record::define(&lua, &core, found)?;
        luaffi::define(&lua)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=prelude");
        let calls: Table = prelude.call((core, record::stand_ins(), kinds))?;
        if let Some(file) = &shared.files.main {
            let name = format!("@{}", file.name);
            lua.load(files::runnable(file)).set_name(name).set_mode(mlua::ChunkMode::Text).exec()?;
        }
        lua.gc_collect()?;
        pace(&lua);
        let (maintains, reads_files) = calls.raw_get::<Function>("ready")?.call(())?;
        let calls = Calls::of(&calls)?;
        let usage = found.borrow().iter().map(record::usage).collect();
        Ok(Self {
            lua,
            place,
            calls,
            usage,
            watch,
            errors: 0,
            unsaid: 0,
            logged: None,
            argument: Vec::new(),
            name: Vec::new(),
            maintains,
            reads_files,
        })
    }

    /// Whether the configuration read files of its own accord while it was evaluated.
    pub(super) const fn reads_files(&self) -> bool {
        self.reads_files
    }

    /// Runs a call about a packet; none after an error.
    fn run<R>(
        &mut self,
        scene: &mut Scene<'_, '_>,
        around: (bool, Tick, &Snapshot),
        servers: Option<&[Candidate]>,
        through_c: bool,
        call: impl FnOnce(&Calls, Either<&str, mlua::String>, Handed) -> mlua::Result<R>,
    ) -> Option<R> {
        let (response, now, snapshot) = around;
        let handed = {
            let Ok(mut current) = self.place.try_borrow_mut() else { return None };
            current.enter(scene, response, now, snapshot);
            current.choosing = servers.is_some();
            current.candidates.extend_from_slice(servers.unwrap_or_default());
            self.name.clear();
            self.name.extend_from_slice(current.qname());
            Handed { token: luaffi::pointer(current.token), qtype: current.facts.qtype }
        };
        let result = contained(|| {
            self.watch.begin(&self.lua, CALL_HOOKS)?;
            // Text goes to Lua without a detour, and most names are text.
            let name = match std::str::from_utf8(&self.name) {
                Ok(text) => Either::Left(text),
                Err(_) => Either::Right(self.lua.create_string(&self.name)?),
            };
            if through_c {
                luaffi::during(&self.place, || call(&self.calls, name, handed))
            } else {
                call(&self.calls, name, handed)
            }
        });
        let fits = self.place.try_borrow_mut().is_ok_and(|mut c| c.leave(scene, result.is_ok()));
        match result {
            Ok(_) if !fits => {
                self.failed(now, &"the changed message does not fit the packet");
                None
            }
            Ok(value) => Some(value),
            Err(e) => {
                self.failed(now, &said(&e));
                None
            }
        }
    }

    /// Counts an error, and says it if none was said in the last second.
    #[cold]
    fn failed(&mut self, now: Tick, what: &dyn fmt::Display) {
        self.errors += 1;
        self.unsaid += 1;
        if self.logged.is_none_or(|then| now.since(then) >= LOG_INTERVAL) {
            let errors = self.unsaid;
            tracing::warn!(errors, "Lua: {what}");
            self.unsaid = 0;
            self.logged = Some(now);
        }
    }

    /// Changes timed sets as the call that has just ended asked for.
    fn change_timed(&self, env: &mut Env<'_>) {
        let Ok(mut current) = self.place.try_borrow_mut() else { return };
        for change in current.timed.drain(..) {
            match change {
                Timed::Add(state, ip, span) => env.limits.timed_add(state, &ip, env.now + span, env.now),
                Timed::Clear(state) => env.limits.timed_clear(state),
            }
        }
    }

    fn usage(&mut self, function: FunctionId, now: Tick) -> Option<(Use, bool)> {
        let usage = self.usage.get(function.0 as usize).copied();
        if usage.is_none() {
            self.failed(now, &"a rule names a function that this file does not have");
        }
        usage
    }
}

/// What a number of [`ACTIONS`] means, with its argument.
fn decision(number: usize, argument: &[u8]) -> mlua::Result<Said> {
    let name = ACTIONS.get(number).copied().unwrap_or_default();
    Ok(match name {
        "None" | "NoOp" => Said::None,
        "Allow" => Said::Allow,
        "Drop" => Said::Drop,
        "Nxdomain" => Said::RCode(rcode::NXDOMAIN),
        "Refused" => Said::RCode(rcode::REFUSED),
        "ServFail" => Said::RCode(rcode::SERVFAIL),
        "Spoof" | "SpoofCNAME" => Said::Spoof,
        "SpoofRaw" => Said::SpoofRaw,
        "HeaderModify" => Said::HeaderModify,
        "Pool" => Said::Pool,
        "Truncate" => Said::Truncate,
        "NoRecurse" => Said::NoRecurse,
        "Delay" => {
            let ms = std::str::from_utf8(argument).ok().and_then(|t| t.trim().parse::<u32>().ok());
            let ms = ms.ok_or_else(|| {
                mlua::Error::runtime("DNSAction.Delay needs a number of milliseconds as its argument")
            })?;
            // As long as DelayAction may hold an answer back.
            Said::Delay(ms.min(DELAY_MS_MAX))
        }
        _ => {
            let what = format!("a function returned {number} ({name}), which is no decision here");
            return Err(mlua::Error::runtime(what));
        }
    })
}

/// What every call is given.
struct Handed {
    token: LightUserData,
    qtype: u16,
}

impl Script for State {
    fn act(&mut self, function: FunctionId, scene: &mut Scene<'_, '_>, env: &mut Env<'_>) -> Option<Said> {
        let (Use::Act { response }, through_c) = self.usage(function, env.now)? else {
            self.failed(env.now, &"a rule names a function of another kind");
            return None;
        };
        self.argument.clear();
        let at = function.0 + 1;
        let around = (response, env.now, env.snapshot);
        let place = Rc::clone(&self.place);
        let said = self.run(scene, around, None, through_c, |calls, name, handed| {
            let number = if through_c {
                calls.act_ffi.call::<usize>((at, handed.token))?
            } else if response {
                calls.act_response.call((at, name, handed.qtype))?
            } else {
                calls.act.call((at, name, handed.qtype))?
            };
            // Within the call: what a wrong decision came with is undone, too.
            let current = place.borrow();
            if current.restart { Ok(Said::Restart) } else { decision(number, &current.argument) }
        })?;
        if let Ok(mut current) = self.place.try_borrow_mut() {
            std::mem::swap(&mut self.argument, &mut current.argument);
        }
        self.change_timed(env);
        Some(said)
    }

    fn argument(&self) -> &[u8] {
        &self.argument
    }

    fn matches(
        &mut self,
        function: FunctionId,
        scene: &mut Scene<'_, '_>,
        env: &mut Env<'_>,
    ) -> Option<bool> {
        let (Use::Match, through_c) = self.usage(function, env.now)? else {
            self.failed(env.now, &"a rule names a function of another kind");
            return None;
        };
        let at = function.0 + 1;
        // Rules stand in both kinds of chains; their functions see a query either way.
        let matched =
            self.run(scene, (false, env.now, env.snapshot), None, through_c, |calls, name, handed| {
                if through_c {
                    calls.matches_ffi.call((at, handed.token))
                } else {
                    calls.matches.call((at, name, handed.qtype))
                }
            });
        self.change_timed(env);
        matched
    }

    fn choose(
        &mut self,
        function: FunctionId,
        servers: &[Candidate],
        scene: &mut Scene<'_, '_>,
        now: Tick,
        snapshot: &Snapshot,
    ) -> Option<usize> {
        let (Use::Choose, through_c) = self.usage(function, now)? else {
            self.failed(now, &"a pool names a function of another kind");
            return None;
        };
        let at = function.0 + 1;
        let place: f64 =
            self.run(scene, (false, now, snapshot), Some(servers), through_c, |calls, name, handed| {
                if through_c {
                    calls.choose_ffi.call((at, handed.token))
                } else {
                    calls.choose.call((at, name, handed.qtype, servers.len()))
                }
            })?;
        // From 1; a fraction is cut, and what is no number is nobody's place.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (1..=servers.len()).contains(&(place as usize)).then(|| place as usize - 1)
    }

    fn maintain(&mut self, now: Tick) {
        pace(&self.lua);
        if !self.maintains {
            return;
        }
        let result = contained(|| {
            self.watch.begin(&self.lua, CALL_HOOKS)?;
            self.calls.maintain.call::<()>(())
        });
        if let Err(e) = result {
            self.failed(now, &said(&e));
        }
    }

    fn errors(&self) -> u64 {
        self.errors
    }
}

/// A call; a panic of the Lua library becomes its error. The library has put its stack in order by
/// then, and what the call did to the packet is undone as after any error.
fn contained<R>(call: impl FnOnce() -> mlua::Result<R>) -> mlua::Result<R> {
    panics::caught(call).unwrap_or_else(|panic| Err(mlua::Error::runtime(panic)))
}

/// Lets the heap grow to [`HEAP_IDLE`] before it is swept: of a small heap each sweep would find
/// little garbage and look at everything that stays. A heap beyond that doubles between sweeps, which is
/// Lua's own pace.
fn pace(lua: &Lua) {
    let used = lua.used_memory().max(1);
    let percent = (HEAP_IDLE / used * 100).clamp(200, 1_000);
    lua.gc_set_pause(c_int::try_from(percent).unwrap_or(200));
}

/// An error in Lua's own words: place and message, without the stack.
fn said(error: &mlua::Error) -> String {
    let mut at = error;
    while let mlua::Error::CallbackError { cause, .. } | mlua::Error::BadArgument { cause, .. } = at {
        at = cause;
    }
    let text = match at {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().to_owned()
}
