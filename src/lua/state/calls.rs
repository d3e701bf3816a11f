//! One shard's Lua state: evaluates the file, calls its functions, limits and counts.
//!
//! # What was measured
//! See `benches/script.rs`. Compiled, a function that tests the name and sets a tag takes less time
//! than one call from Lua into a function made by the Lua library (some 200 ns), which compiled
//! code cannot call either. Hence functions are entered through the C API (`ffi::call`), each
//! function has a wrapper of its own in Lua, and the members that are used most are C functions,
//! called by pointer (`ffi::objects`).
//!
//! # Invariants
//! - A call takes at most 20 ms of CPU time, and a function that took too long is suspended for
//!   four times that: whatever a function does, most of the shard's time is for other packets.
//! - A packet is accessible exactly while a call about it runs; an error undoes what the call did
//!   to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{Function, Lua, Table};

use crate::base::addr::BackendSlot;
use crate::base::narrow::to_u32;
use crate::base::time::{Tick, TickDelta};
use crate::config::error::{ConfigError, Fault, Origin};
use crate::lua::code::flow::{LIBRARIES, Standing};
use crate::lua::ffi::call::{Caller, Entry, Results};
use crate::lua::ffi::running_call::RunningCall;
use crate::lua::ffi::watch;
use crate::lua::front_end::{define_constants, older};
use crate::lua::limits::{Interrupt, PACKET_TICKS, Runtime};
use crate::lua::state::call_state::{CallState, TimedChange};
use crate::lua::state::decision::{ACTIONS, decision};
use crate::lua::state::record::{Found, Use};
use crate::lua::state::{Shared, core, files, place, record};
use crate::lua::{ffi, limits};
use crate::model::{ConfiguredScript, Snapshot};
use crate::rules::context::{Environment, EvaluationContext, Script};
use crate::rules::script::{Candidate, FunctionId, ScriptAction};
use crate::stats::live::LiveState;

/// A heap below this is swept rarely, bytes.
const HEAP_IDLE: usize = 8 << 20;
/// At most one error of a function is logged in this time.
const LOG_INTERVAL: TickDelta = TickDelta::from_ms(1_000);
/// Most lines about errors in an interval: a configuration may have thousands of functions.
const LOG_LINES_MAX: usize = 20;

/// The registry's name for the functions that only configure, by name.
const CONFIGURING: &str = "dnslob.configuring";
/// That for the members of its objects.
const MEMBERS: &str = "dnslob.members";

/// One shard's script.
pub(crate) struct State {
    // Dropped in this order: ticks end before the state does, and the place outlives it.
    runtime: Runtime,
    caller: Caller,
    /// `maintenance` and the functions given to `addMaintenanceCallback`.
    upkeep: Vec<Function>,
    /// Which of them begins.
    upkeep_next: usize,
    call: Rc<RunningCall>,
    /// The use of each function, and its entry.
    functions: Vec<(Use, Entry)>,
    /// Where each begins, and each of `upkeep`.
    places: Vec<Option<String>>,
    suspended: Suspended,
    errors: u64,
    log: ErrorLog,
    argument: Vec<u8>,
    reads_files: bool,
}

/// The parts of the prelude, in their order: each gets the table that they share.
const PRELUDE: [&str; 12] = [
    include_str!("prelude/common.lua"),
    include_str!("prelude/names.lua"),
    include_str!("prelude/addresses.lua"),
    include_str!("prelude/sets.lua"),
    include_str!("prelude/servers.lua"),
    include_str!("prelude/query.lua"),
    include_str!("prelude/overlay.lua"),
    include_str!("prelude/caches.lua"),
    include_str!("prelude/policies.lua"),
    include_str!("prelude/metrics.lua"),
    include_str!("prelude/configuration.lua"),
    include_str!("prelude/calls.lua"),
];

/// Which errors are logged: one of each function in an interval, so that none hides another's.
#[derive(Debug, Default)]
struct ErrorLog {
    /// For each function, then for `maintenance` and its like: the errors since the last line, and its time.
    functions: Vec<(u64, Option<Tick>)>,
    /// When the interval began, and the lines in it.
    begun: Option<Tick>,
    lines: usize,
}

impl ErrorLog {
    /// Adds an error; returns how many of its function there are to be logged, if it may be.
    fn add(&mut self, function: FunctionId, now: Tick) -> Option<u64> {
        let at = function.0 as usize;
        if self.functions.len() <= at {
            self.functions.resize(at + 1, (0, None));
        }
        if self.begun.is_none_or(|then| now.since(then) >= LOG_INTERVAL) {
            (self.begun, self.lines) = (Some(now), 0);
        }
        let (errors, logged) = &mut self.functions[at];
        *errors += 1;
        let is_due = logged.is_none_or(|then| now.since(then) >= LOG_INTERVAL);
        (is_due && self.lines < LOG_LINES_MAX).then(|| {
            self.lines += 1;
            *logged = Some(now);
            std::mem::take(errors)
        })
    }
}

/// Functions that took too long, and until when they are suspended.
#[derive(Debug, Default)]
struct Suspended {
    functions: Vec<(FunctionId, Tick)>,
    /// Functions whose last call did not take too long.
    trusted: Vec<bool>,
    /// The batch in which calls took too long, how many did, and their total time.
    batch: Tick,
    late: u32,
    taken: TickDelta,
}

impl Suspended {
    /// Suspension for each tick that a call took: with this a function gets a fifth of the time.
    const SHARE: u64 = 4;
    /// Calls that may take too long in one batch of packets; after that, only trusted functions are
    /// called in it.
    const LATE_MAX: u32 = 3;

    /// Suspends a function that took this many ticks; the more functions are suspended, the longer,
    /// so that all of them together get no more than one would.
    fn add(&mut self, function: FunctionId, ticks: u32, now: Tick) {
        self.functions.retain(|(other, until)| *other != function && *until > now);
        let functions = self.functions.len() as u64 + 1;
        let taken = TickDelta::from(watch::TICK * ticks.max(1));
        if self.batch != now {
            (self.batch, self.late, self.taken) = (now, 0, TickDelta(0));
        }
        self.late += 1;
        self.taken = TickDelta(self.taken.0.saturating_add(taken.0));
        // The batch's time does not advance while functions run.
        let span = taken.0.saturating_mul(Self::SHARE * functions).saturating_add(self.taken.0);
        self.functions.push((function, now + TickDelta(span)));
        self.set_trusted(function, false);
    }

    fn set_trusted(&mut self, function: FunctionId, trusted: bool) {
        let at = function.0 as usize;
        if self.trusted.len() <= at {
            self.trusted.resize(at + 1, false);
        }
        self.trusted[at] = trusted;
    }

    fn holds(&self, function: FunctionId, now: Tick) -> bool {
        if self.functions.is_empty() {
            return false;
        }
        let is_late = self.batch == now && self.late >= Self::LATE_MAX;
        let is_trusted = self.trusted.get(function.0 as usize).is_some_and(|t| *t);
        is_late && !is_trusted
            || self.functions.iter().any(|(other, until)| *other == function && *until > now)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("functions", &self.functions.len())
            .field("errors", &self.errors)
            .finish()
    }
}

impl State {
    /// Evaluates the configuration.
    ///
    /// Returns the ticks that it took, too; it may take `ticks`.
    ///
    /// # Errors
    /// The error of Lua; or that it defines other functions than the control thread found.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        interrupt: &Interrupt,
        ticks: u32,
    ) -> Result<(Self, u32), ConfigError> {
        let found = Found::default();
        let state = Self::evaluate(shared, &found, interrupt, ticks);
        let state = state.map_err(|e| {
            let origin = Origin::file(shared.name());
            let what = format!("evaluated as in a shard: {}", action(&e));
            ConfigError::new(&origin, "", Fault::Script(what))
        })?;
        record::compare(&shared.recorded, &found.borrow(), shared.name())?;
        Ok(state)
    }

    fn evaluate(
        shared: &Arc<Shared>,
        found: &Found,
        interrupt: &Interrupt,
        ticks: u32,
    ) -> mlua::Result<(Self, u32)> {
        let runtime = Runtime::new(interrupt)?;
        let lua = runtime.lua();
        let call = RunningCall::new(shared);
        let core = core::table(lua, &call, shared)?;
        let actions = ACTIONS.iter().enumerate().map(|(number, (name, _))| (*name, number));
        core.raw_set("actions", lua.create_table_from(actions)?)?;
        define_constants(lua)?;
        let prelude = lua.create_table()?;
        prelude.raw_set("kinds", record::define(lua, &core, found)?)?;
        prelude.raw_set("stand_ins", record::stand_ins())?;
        prelude.raw_set("missing", record::missing(lua)?)?;
        prelude.raw_set("core", core)?;
        prelude.raw_set("c", ffi::define(lua, &call)?)?;
        for part in PRELUDE {
            lua.load(part).set_name("=prelude").call::<()>(&prelude)?;
        }
        older::define(lua, None)?;
        prelude.raw_get::<Function>("own")?.call::<()>(())?;
        let mut taken = 0;
        let enter: Function = prelude.raw_get("enter")?;
        for file in shared.files.main.iter().chain(&shared.files.commands) {
            let chunk = lua.load(files::runnable(file)).set_name(format!("@{}", file.name));
            let chunk = chunk.set_mode(mlua::ChunkMode::Text);
            enter.call::<()>(record::raised(lua, &shared.files, &file.name)?)?;
            let (evaluated, ticks) = runtime.run(ticks, || chunk.exec());
            evaluated?;
            taken += ticks;
        }
        enter.call::<()>(lua.create_table()?)?;
        lua.set_named_registry_value(CONFIGURING, prelude.raw_get::<Table>("configuring")?)?;
        lua.set_named_registry_value(MEMBERS, prelude.raw_get::<Table>("members")?)?;
        runtime.serve(limits::is_compiled())?;
        pace(lua);
        let caller = Caller::new(lua)?;
        let (calls, upkeep, reads_files): (Table, Vec<Function>, _) =
            prelude.raw_get::<Function>("ready")?.call(())?;
        let calls = calls.sequence_values::<Function>();
        let entries = calls.map(|f| caller.entry(&f?)).collect::<mlua::Result<Vec<_>>>()?;
        let functions = found.borrow().iter().map(record::usage).zip(entries).collect();
        let places =
            found.borrow().iter().map(place::of).chain(upkeep.iter().map(place::of_function)).collect();
        let state = Self {
            runtime,
            caller,
            upkeep,
            upkeep_next: 0,
            call,
            functions,
            places,
            suspended: Suspended::default(),
            errors: 0,
            log: ErrorLog::default(),
            argument: Vec::new(),
            reads_files,
        };
        Ok((state, taken))
    }

    /// Returns how a global name stands for functions that run from here on.
    pub(crate) fn standing(&self, name: &str) -> Standing {
        let lua = self.runtime.lua();
        match lua.globals().raw_get::<mlua::Value>(name) {
            Ok(mlua::Value::Nil) | Err(_) => Standing::Lacking,
            Ok(value) => {
                let configuring = lua.named_registry_value::<Table>(CONFIGURING);
                match configuring.and_then(|names| names.raw_get::<mlua::Value>(name)) {
                    Ok(configures) if configures == value => Standing::Configures,
                    _ => Standing::There,
                }
            }
        }
    }

    /// Returns the members of the objects that functions get, and the decisions that they return.
    pub(crate) fn members(&self) -> BTreeMap<String, BTreeSet<String>> {
        let all = self.runtime.lua().named_registry_value::<BTreeMap<String, Vec<String>>>(MEMBERS);
        let all = all.unwrap_or_default().into_iter().map(|(of, list)| (of, list.into_iter().collect()));
        let decisions = ACTIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let globals = self.runtime.lua().globals();
        let libraries = LIBRARIES.iter().filter_map(|name| {
            let table = globals.raw_get::<Table>(*name).ok()?;
            let keys = table.pairs::<String, mlua::Value>().map_while(|pair| Some(pair.ok()?.0));
            Some(((*name).to_owned(), keys.collect()))
        });
        all.chain([("decision".to_owned(), decisions)]).chain(libraries).collect()
    }

    /// Returns whether the configuration itself read files while it was evaluated.
    pub(crate) const fn reads_files(&self) -> bool {
        self.reads_files
    }

    /// Calls a function about a packet; returns none after an error, which may come from `read` of
    /// its results.
    fn run<R>(
        &mut self,
        (function, entry): (FunctionId, Entry),
        context: &mut EvaluationContext<'_, '_>,
        (response, now): (bool, Tick),
        servers: Option<&[Candidate]>,
        read: impl Fn(&Results<'_>, &mut CallState) -> mlua::Result<R>,
    ) -> Option<R> {
        if self.suspended.holds(function, now) {
            self.failed(function, now, &"not called: it, or others for this batch of packets, took too long");
            return None;
        }
        let around = (response, now, servers);
        let (mut result, mut ticks) = self.attempt(entry, context, around, &read);
        if matches!(&result, Err(e) if is_short(e)) {
            // The collector knows no limit, so this may be garbage of others: without it the call
            // may well fit.
            self.recover();
            let (again, more) = self.attempt(entry, context, around, &read);
            (result, ticks) = (again, ticks.saturating_add(more));
        }
        match result {
            Ok(value) => {
                self.suspended.set_trusted(function, true);
                Some(value)
            }
            Err(e) => {
                self.ended(&e, function, ticks, now);
                None
            }
        }
    }

    /// Calls a function about a packet once, and returns how many ticks it took. After an error the
    /// call has had no effect on the packet.
    fn attempt<R>(
        &self,
        entry: Entry,
        context: &mut EvaluationContext<'_, '_>,
        (response, now, servers): (bool, Tick, Option<&[Candidate]>),
        read: &impl Fn(&Results<'_>, &mut CallState) -> mlua::Result<R>,
    ) -> (mlua::Result<R>, u32) {
        let in_use = || mlua::Error::runtime("the packet is in use");
        {
            let Ok(mut current) = self.call.current().try_borrow_mut() else { return (Err(in_use()), 0) };
            current.enter(response, now);
            current.choosing = servers.is_some();
            current.candidates.extend_from_slice(servers.unwrap_or_default());
        }
        let call = || {
            // Within the call, so that the effects of a call with an invalid decision are undone,
            // too.
            let read = |results: &Results<'_>| match self.call.current().try_borrow_mut() {
                Ok(mut current) => match current.failure {
                    Some(what) => Err(mlua::Error::runtime(what)),
                    None => read(results, &mut current),
                },
                Err(_) => Err(in_use()),
            };
            self.caller.call(entry, read)?
        };
        let (result, ticks) = self.call.during(context, || self.runtime.run(PACKET_TICKS, call));
        self.call.leave(context, result.is_ok());
        (result, ticks)
    }

    /// Collects all garbage after memory was short.
    #[cold]
    fn recover(&self) {
        self.runtime.recover();
        pace(self.runtime.lua());
    }

    /// Handles the error of a call.
    #[cold]
    fn ended(&mut self, error: &mlua::Error, function: FunctionId, ticks: u32, now: Tick) {
        let is_short = is_short(error);
        if is_short {
            self.recover();
        }
        if is_short || limits::stopped(error).is_some() {
            self.suspended.add(function, ticks, now);
        }
        self.failed(function, now, &action(error));
    }

    /// Counts an error of a function, or of `maintenance`, and logs it unless one of the same
    /// function was logged in the last second.
    #[cold]
    fn failed(&mut self, function: FunctionId, now: Tick, what: &dyn fmt::Display) {
        self.errors += 1;
        if let Some(errors) = self.log.add(function, now) {
            let place = self.places.get(function.0 as usize).and_then(Option::as_deref);
            tracing::warn!(errors, "Lua: {}", place::placed(&what.to_string(), place));
        }
    }

    /// Changes timed sets as the last call requested.
    fn change_timed(&self, env: &mut Environment<'_>) {
        let Ok(mut current) = self.call.current().try_borrow_mut() else { return };
        if current.timed_changes.is_empty() {
            return;
        }
        for change in current.timed_changes.drain(..) {
            match change {
                TimedChange::Add(state, ip, span) => {
                    env.limits.timed_add(state, &ip, env.now + span, env.now);
                }
                TimedChange::Clear(state) => env.limits.timed_clear(state),
            }
        }
    }

    fn function(&mut self, function: FunctionId, now: Tick) -> Option<(Use, Entry)> {
        let known = self.functions.get(function.0 as usize).copied();
        if known.is_none() {
            self.failed(function, now, &"a rule names a function that this file does not have");
        }
        known
    }
}

impl ConfiguredScript for State {
    fn adopt(&mut self, snapshot: &Snapshot, live_state: &Arc<LiveState>) {
        // No call is running.
        if let Ok(mut current) = self.call.current().try_borrow_mut() {
            current.adopt(snapshot, live_state);
        }
        self.call.show_configuration();
    }
}

impl Script for State {
    fn act(
        &mut self,
        function: FunctionId,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<ScriptAction> {
        let (Use::Act { response }, entry) = self.function(function, env.now)? else {
            self.failed(function, env.now, &"a rule names a function of another kind");
            return None;
        };
        self.argument.clear();
        let around = (response, env.now);
        let action = self.run((function, entry), context, around, None, |results, current| {
            let argument = results.text(2);
            if !argument.is_empty() {
                current.argument.clear();
                current.argument.extend_from_slice(argument);
            }
            if current.restart {
                return Ok(ScriptAction::Restart);
            }
            decision(results.number(1).unwrap_or(f64::NAN), &current.argument, current.answered)
        })?;
        if let Ok(mut current) = self.call.current().try_borrow_mut() {
            std::mem::swap(&mut self.argument, &mut current.argument);
        }
        self.change_timed(env);
        Some(action)
    }

    fn argument(&self) -> &[u8] {
        &self.argument
    }

    fn matches(
        &mut self,
        function: FunctionId,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<bool> {
        let (Use::Match, entry) = self.function(function, env.now)? else {
            self.failed(function, env.now, &"a rule names a function of another kind");
            return None;
        };
        // Rules are in both kinds of chains; their functions see a query in either.
        let around = (false, env.now);
        let matched = self.run((function, entry), context, around, None, |results, _| Ok(results.truth(1)));
        self.change_timed(env);
        matched
    }

    fn choose(
        &mut self,
        function: FunctionId,
        servers: &[Candidate],
        context: &mut EvaluationContext<'_, '_>,
        now: Tick,
    ) -> Option<BackendSlot> {
        let (Use::Choose, entry) = self.function(function, now)? else {
            self.failed(function, now, &"a pool names a function of another kind");
            return None;
        };
        let around = (false, now);
        let place = self.run((function, entry), context, around, Some(servers), |results, _| {
            Ok(results.number(1).unwrap_or(0.0))
        })?;
        // From 1; a server that is not in the list: its slot, from -1 downwards. A fraction is
        // truncated, and NaN selects none.
        #[allow(clippy::cast_possible_truncation)]
        let place = place as i64;
        if place < 0 {
            return u16::try_from(-1 - place).ok().map(BackendSlot);
        }
        servers.get(usize::try_from(place - 1).ok()?).map(|server| server.slot)
    }

    fn maintain(&mut self, now: Tick) {
        pace(self.runtime.lua());
        // Each by itself, so that the error of one does not end the others; those for which there is no
        // time begin the next time.
        let mut taken = 0;
        for _ in 0..self.upkeep.len() {
            let number = self.upkeep_next;
            self.upkeep_next = (number + 1) % self.upkeep.len();
            let run = || self.runtime.run(PACKET_TICKS, || self.upkeep[number].call::<()>(()));
            let (result, ticks) = self.call.without_packet(run);
            if let Err(e) = result {
                // Numbered behind the functions of rules, for which the log has places of their own.
                let id = FunctionId(to_u32(self.functions.len() + number));
                if is_short(&e) {
                    self.recover();
                }
                self.failed(id, now, &action(&e));
            }
            taken += ticks;
            if taken > PACKET_TICKS {
                break;
            }
        }
    }

    fn errors(&self) -> u64 {
        self.errors + self.call.failed.get()
    }
}

/// Lets the heap grow to [`HEAP_IDLE`] before it is swept: sweeping a small heap finds little
/// garbage and visits everything that stays. A larger heap doubles between sweeps, which is Lua's
/// default.
fn pace(lua: &Lua) {
    let used = lua.used_memory().max(1);
    let percent = (HEAP_IDLE / used * 100).clamp(200, 1_000);
    lua.gc_set_pause(c_int::try_from(percent).unwrap_or(200));
}

/// Returns whether memory was short.
fn is_short(error: &mlua::Error) -> bool {
    matches!(innermost(error), mlua::Error::MemoryError(_))
}

/// Returns the innermost error.
fn innermost(error: &mlua::Error) -> &mlua::Error {
    match error {
        mlua::Error::CallbackError { cause, .. } | mlua::Error::BadArgument { cause, .. } => innermost(cause),
        other => other,
    }
}

/// Returns an error in Lua's own words: position and message, without the stack.
fn action(error: &mlua::Error) -> String {
    let text = match innermost(error) {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        mlua::Error::MemoryError(_) => "not enough memory".to_owned(),
        other => other.to_string(),
    };
    // Deep recursion may prepend many positions.
    text.lines().next().unwrap_or_default().chars().take(LOGGED_CHARS_MAX).collect()
}

/// Characters of an error in the log, at most.
const LOGGED_CHARS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Tick {
        Tick(n * 1_000_000)
    }

    #[test]
    fn function_is_suspended_for_four_times_what_it_took() {
        let mut suspended = Suspended::default();
        suspended.add(FunctionId(0), 100, ms(0));
        assert!(suspended.holds(FunctionId(0), ms(4_999)), "a second, and four of suspension");
        assert!(!suspended.holds(FunctionId(0), ms(5_000)));
        assert!(!suspended.holds(FunctionId(1), ms(1)));
    }

    #[test]
    fn slow_functions_share_one_batch_and_do_not_delay_others() {
        let mut suspended = Suspended::default();
        suspended.set_trusted(FunctionId(1_000), true);
        let called = (0..100).filter(|n| {
            let called = !suspended.holds(FunctionId(*n), ms(1));
            if called {
                suspended.add(FunctionId(*n), 2, ms(1));
            }
            called
        });
        assert_eq!(called.count(), 3, "of 20 ms each");
        assert!(!suspended.holds(FunctionId(1_000), ms(1)), "it has not taken too long before");
        assert!(
            suspended.holds(FunctionId(50), ms(1)) && !suspended.holds(FunctionId(50), ms(2)),
            "in the next batch"
        );
    }
}
