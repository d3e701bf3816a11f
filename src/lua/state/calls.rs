//! One shard's Lua state: evaluates the file, calls its functions, limits and counts.
//!
//! # What was measured
//! See `benches/script.rs`. For a function that tests the name and sets a tag callgrind counts 2,600
//! instructions of the machine for the interpreter; twice as many are the way between Rust and Lua and
//! garbage. A call into Rust costs some 900, a call between Lua functions a tenth of that: hence
//! the prelude, and the name goes along with the call.
//!
//! # Invariants
//! - A call takes at most 20 ms of CPU time, and one that took so long is not made again for four
//!   times that: whatever a function does, most of the shard's time is for other packets.
//! - [`Current`] is open exactly while a call runs.

use std::cell::RefCell;
use std::ffi::c_int;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{Either, Function, LightUserData, Lua, Table};

use crate::base::time::{Tick, TickDelta};
use crate::config::error::{ConfigError, Fault, Origin};
use crate::lua::ffi::watch;
use crate::lua::front_end::define_constants;
use crate::lua::limits::{Interrupt, PACKET_TICKS, Runtime};
use crate::lua::state::core::Place;
use crate::lua::state::current::{Current, Timed};
use crate::lua::state::record::{Found, Use};
use crate::lua::state::{Shared, core, files, record};
use crate::lua::{ffi, limits};
use crate::model::Snapshot;
use crate::rules::action::DELAY_MS_MAX;
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::script::{Candidate, FunctionId, Script, ScriptAction};
use crate::wire::header::rcode;

/// A heap this small is not swept often, bytes.
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
pub(crate) struct State {
    runtime: Runtime,
    place: Place,
    calls: Calls,
    /// How each function is called, and whether through C's pointers.
    usage: Vec<(Use, bool)>,
    resting: Resting,
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

/// Functions that took too long, and until when they rest.
#[derive(Debug, Default)]
struct Resting {
    functions: Vec<(FunctionId, Tick)>,
    /// Functions whose last call was not too long.
    trusted: Vec<bool>,
    /// The batch that something took too long in, how many did, and how long, all together.
    batch: Tick,
    late: u32,
    taken: TickDelta,
}

impl Resting {
    /// What one rests for each tick that it took: with this a function gets a fifth of the time.
    const SHARE: u64 = 4;
    /// Functions that may take too long in one batch of packets; beyond that, only those that are
    /// trusted are called in it.
    const LATE_MAX: u32 = 3;

    /// Lets a function rest that took so many ticks; the longer the more functions rest, so that
    /// all of them together get no more than one.
    fn add(&mut self, function: FunctionId, ticks: u32, now: Tick) {
        self.functions.retain(|(other, until)| *other != function && *until > now);
        let functions = self.functions.len() as u64 + 1;
        let taken = TickDelta::from(watch::TICK * ticks.max(1));
        if self.batch != now {
            (self.batch, self.late, self.taken) = (now, 0, TickDelta(0));
        }
        self.late += 1;
        self.taken = TickDelta(self.taken.0.saturating_add(taken.0));
        // The batch's time stands still while functions run.
        let rest = taken.0.saturating_mul(Self::SHARE * functions).saturating_add(self.taken.0);
        self.functions.push((function, now + TickDelta(rest)));
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
        f.debug_struct("State").field("functions", &self.usage.len()).field("errors", &self.errors).finish()
    }
}

impl State {
    /// Evaluates the configuration.
    ///
    /// Gives the ticks that it took, too; it may take `ticks`.
    ///
    /// # Errors
    /// What Lua says of the file; or that it gives other functions than the control thread found.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        interrupt: &Interrupt,
        ticks: u32,
    ) -> Result<(Self, u32), ConfigError> {
        let found = Found::default();
        let state = Self::evaluate(shared, &found, interrupt, ticks);
        let state = state.map_err(|e| {
            let origin = Origin::file(shared.name());
            let what = format!("evaluated as a shard does: {}", action(&e));
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
        let place: Place = Rc::new(RefCell::new(Current::default()));
        let core = core::table(lua, &place, shared)?;
        let actions = ACTIONS.iter().enumerate().map(|(number, name)| (*name, number));
        core.raw_set("actions", lua.create_table_from(actions)?)?;
        define_constants(lua)?;
        let kinds = record::define(lua, &core, found)?;
        ffi::define(lua)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=prelude");
        let calls: Table = prelude.call((core, record::stand_ins(), kinds))?;
        let mut taken = 0;
        if let Some(file) = &shared.files.main {
            let chunk = lua.load(files::runnable(file)).set_name(format!("@{}", file.name));
            let chunk = chunk.set_mode(mlua::ChunkMode::Text);
            let (evaluated, ticks) = runtime.run(ticks, || chunk.exec());
            evaluated?;
            taken = ticks;
        }
        runtime.serve()?;
        pace(lua);
        let (maintains, reads_files) = calls.raw_get::<Function>("ready")?.call(())?;
        let calls = Calls::of(&calls)?;
        let usage = found.borrow().iter().map(record::usage).collect();
        let state = Self {
            runtime,
            place,
            calls,
            usage,
            resting: Resting::default(),
            errors: 0,
            unsaid: 0,
            logged: None,
            argument: Vec::new(),
            name: Vec::new(),
            maintains,
            reads_files,
        };
        Ok((state, taken))
    }

    /// Whether the configuration read files of its own accord while it was evaluated.
    pub(crate) const fn reads_files(&self) -> bool {
        self.reads_files
    }

    /// Runs a call about a packet; none after an error.
    fn run<R>(
        &mut self,
        function: FunctionId,
        context: &mut EvaluationContext<'_, '_>,
        around: (bool, Tick, &Snapshot),
        servers: Option<&[Candidate]>,
        through_c: bool,
        call: impl FnOnce(&Calls, Either<&str, mlua::String>, Handed) -> mlua::Result<R>,
    ) -> Option<R> {
        let (response, now, snapshot) = around;
        if self.resting.holds(function, now) {
            self.failed(now, &"not called: it, or others for this batch of packets, took too long");
            return None;
        }
        let handed = {
            let Ok(mut current) = self.place.try_borrow_mut() else { return None };
            current.enter(context, response, now, snapshot);
            current.choosing = servers.is_some();
            current.candidates.extend_from_slice(servers.unwrap_or_default());
            self.name.clear();
            self.name.extend_from_slice(current.qname());
            Handed { token: ffi::pointer(current.token), qtype: current.facts.qtype }
        };
        let lua = self.runtime.lua();
        let (result, ticks) = self.runtime.run(PACKET_TICKS, || {
            // Text goes to Lua without a detour, and most names are text.
            let name = match std::str::from_utf8(&self.name) {
                Ok(text) => Either::Left(text),
                Err(_) => Either::Right(lua.create_string(&self.name)?),
            };
            if through_c {
                ffi::during(&self.place, || call(&self.calls, name, handed))
            } else {
                call(&self.calls, name, handed)
            }
        });
        let fits = self.place.try_borrow_mut().is_ok_and(|mut c| c.leave(context, result.is_ok()));
        match result {
            Ok(_) if !fits => {
                self.failed(now, &"the changed message does not fit the packet");
                None
            }
            Ok(value) => {
                self.resting.set_trusted(function, true);
                Some(value)
            }
            Err(e) => {
                self.ended(&e, Some((function, ticks)), now);
                None
            }
        }
    }

    /// Takes note of a call's error.
    #[cold]
    fn ended(&mut self, error: &mlua::Error, called: Option<(FunctionId, u32)>, now: Tick) {
        let is_short = matches!(innermost(error), mlua::Error::MemoryError(_));
        if is_short {
            self.runtime.recover();
            pace(self.runtime.lua());
        }
        if let Some((function, ticks)) = called
            && (is_short || limits::stopped(error).is_some())
        {
            self.resting.add(function, ticks, now);
        }
        self.failed(now, &action(error));
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
    fn change_timed(&self, env: &mut Environment<'_>) {
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
fn decision(number: usize, argument: &[u8]) -> mlua::Result<ScriptAction> {
    let name = ACTIONS.get(number).copied().unwrap_or_default();
    Ok(match name {
        "None" | "NoOp" => ScriptAction::None,
        "Allow" => ScriptAction::Allow,
        "Drop" => ScriptAction::Drop,
        "Nxdomain" => ScriptAction::RCode(rcode::NXDOMAIN),
        "Refused" => ScriptAction::RCode(rcode::REFUSED),
        "ServFail" => ScriptAction::RCode(rcode::SERVFAIL),
        "Spoof" | "SpoofCNAME" => ScriptAction::Spoof,
        "SpoofRaw" => ScriptAction::SpoofRaw,
        "HeaderModify" => ScriptAction::HeaderModify,
        "Pool" => ScriptAction::Pool,
        "Truncate" => ScriptAction::Truncate,
        "NoRecurse" => ScriptAction::NoRecurse,
        "Delay" => {
            let ms = std::str::from_utf8(argument).ok().and_then(|t| t.trim().parse::<u32>().ok());
            let ms = ms.ok_or_else(|| {
                mlua::Error::runtime("DNSAction.Delay needs a number of milliseconds as its argument")
            })?;
            // As long as DelayAction may hold an answer back.
            ScriptAction::Delay(ms.min(DELAY_MS_MAX))
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
    fn act(
        &mut self,
        function: FunctionId,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<ScriptAction> {
        let (Use::Act { response }, through_c) = self.usage(function, env.now)? else {
            self.failed(env.now, &"a rule names a function of another kind");
            return None;
        };
        self.argument.clear();
        let at = function.0 + 1;
        let around = (response, env.now, env.snapshot);
        let place = Rc::clone(&self.place);
        let action = self.run(function, context, around, None, through_c, |calls, name, handed| {
            let number = if through_c {
                calls.act_ffi.call::<usize>((at, handed.token))?
            } else if response {
                calls.act_response.call((at, name, handed.qtype))?
            } else {
                calls.act.call((at, name, handed.qtype))?
            };
            // Within the call: what a wrong decision came with is undone, too.
            let current = place.borrow();
            if current.restart { Ok(ScriptAction::Restart) } else { decision(number, &current.argument) }
        })?;
        if let Ok(mut current) = self.place.try_borrow_mut() {
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
        let (Use::Match, through_c) = self.usage(function, env.now)? else {
            self.failed(env.now, &"a rule names a function of another kind");
            return None;
        };
        let at = function.0 + 1;
        // Rules stand in both kinds of chains; their functions see a query either way.
        let around = (false, env.now, env.snapshot);
        let matched = self.run(function, context, around, None, through_c, |calls, name, handed| {
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
        context: &mut EvaluationContext<'_, '_>,
        now: Tick,
        snapshot: &Snapshot,
    ) -> Option<usize> {
        let (Use::Choose, through_c) = self.usage(function, now)? else {
            self.failed(now, &"a pool names a function of another kind");
            return None;
        };
        let at = function.0 + 1;
        let around = (false, now, snapshot);
        let place: f64 =
            self.run(function, context, around, Some(servers), through_c, |calls, name, handed| {
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
        pace(self.runtime.lua());
        if !self.maintains {
            return;
        }
        let (result, _) = self.runtime.run(PACKET_TICKS, || self.calls.maintain.call::<()>(()));
        if let Err(e) = result {
            self.ended(&e, None, now);
        }
    }

    fn errors(&self) -> u64 {
        self.errors
    }
}

/// Lets the heap grow to [`HEAP_IDLE`] before it is swept: of a small heap each sweep would find
/// little garbage and look at everything that stays. A heap beyond that doubles between sweeps, which is
/// Lua's own pace.
fn pace(lua: &Lua) {
    let used = lua.used_memory().max(1);
    let percent = (HEAP_IDLE / used * 100).clamp(200, 1_000);
    lua.gc_set_pause(c_int::try_from(percent).unwrap_or(200));
}

/// An error without what was called around it.
fn innermost(error: &mlua::Error) -> &mlua::Error {
    match error {
        mlua::Error::CallbackError { cause, .. } | mlua::Error::BadArgument { cause, .. } => innermost(cause),
        other => other,
    }
}

/// An error in Lua's own words: place and message, without the stack.
fn action(error: &mlua::Error) -> String {
    let text = match innermost(error) {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        mlua::Error::MemoryError(_) => "not enough memory".to_owned(),
        other => other.to_string(),
    };
    // Deep recursion may put its places in front of each other.
    text.lines().next().unwrap_or_default().chars().take(SAID_MAX).collect()
}

/// Characters of an error in the log.
const SAID_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Tick {
        Tick(n * 1_000_000)
    }

    #[test]
    fn a_function_rests_for_four_times_what_it_really_took() {
        let mut resting = Resting::default();
        resting.add(FunctionId(0), 100, ms(0));
        assert!(resting.holds(FunctionId(0), ms(4_999)), "a second, and four of rest");
        assert!(!resting.holds(FunctionId(0), ms(5_000)));
        assert!(!resting.holds(FunctionId(1), ms(1)));
    }

    #[test]
    fn many_that_take_too_long_share_one_batch_and_leave_room_for_those_that_do_not() {
        let mut resting = Resting::default();
        resting.set_trusted(FunctionId(1_000), true);
        let called = (0..100).filter(|n| {
            let called = !resting.holds(FunctionId(*n), ms(1));
            if called {
                resting.add(FunctionId(*n), 2, ms(1));
            }
            called
        });
        assert_eq!(called.count(), 3, "of 20 ms each");
        assert!(!resting.holds(FunctionId(1_000), ms(1)), "it has not taken too long before");
        assert!(
            resting.holds(FunctionId(50), ms(1)) && !resting.holds(FunctionId(50), ms(2)),
            "in the next batch"
        );
    }
}
