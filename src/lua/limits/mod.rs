//! A Lua state with limits, for every thread that runs a configuration's code: the control plane's
//! evaluation and health checks, and the shards' functions.
//!
//! ```text
//!  time     Watch: a tick of the thread's CPU clock ends the call       (lua::ffi::watch)
//!  C code   library.lua: patterns, sorting, handlers, finalisers        library.rs, pattern.rs
//!  stack    a thread of its own, large enough for the deepest recursion thread.rs
//!  memory   the allocator's limit: "not enough memory", an error like others
//! ```
//!
//! Files are evaluated by the interpreter. What a shard calls per packet is compiled, once it is
//! proved that a compiled loop can be ended here: see `is_compiled`.
//!
//! A configuration is trusted: it may call any C function through `ffi`, start programs and read
//! files. The limits keep it from stopping service by mistake. The standard library is complete
//! except for what would lift the limits: see `library.lua`.

// The kinds of errors belong to the Lua library; a new one is handled like the others.
#![allow(clippy::wildcard_enum_match_arm)]

mod library;
pub mod pattern;
pub(crate) mod thread;

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use mlua::{Function, Lua};

use crate::base::panics;
pub use crate::lua::ffi::watch::Interrupt;
use crate::lua::ffi::watch::{Ended, TICK, Watch, Why, prove_compiler};
pub(crate) use crate::lua::limits::library::is_caught;

/// Limit of one call per packet, ticks: 10 to 20 ms of CPU time. A shard does nothing else
/// meanwhile, and the slowest useful functions take a hundredth of that.
pub(crate) const PACKET_TICKS: u32 = 1;
/// Limit of one call of a health check's function, ticks: 100 ms of CPU time.
pub(crate) const CHECK_TICKS: u32 = 10;
/// Limit of the evaluation of a configuration file. A million names take about a second.
pub(crate) const EVALUATION: Duration = Duration::from_secs(30);
/// Memory limit of a state while the file is evaluated, bytes.
const EVALUATION_BYTES: usize = 1 << 30;
/// Memory limit beyond twice what the file left, bytes: for what functions keep and for their
/// garbage. Garbage is collected when memory in use has doubled.
const CALLS_BYTES: usize = 64 << 20;

/// A state and its watch.
#[derive(Debug)]
pub(crate) struct Runtime {
    // Dropped in this order: ticks end before the state does.
    watch: Watch,
    lua: Lua,
    serve: Function,
}

/// The Lua error of a call that was ended.
#[derive(Clone, Debug)]
pub(crate) struct Stopped(pub(crate) Ended);

impl Stopped {
    /// Returns the reason, without the position.
    pub(crate) fn what(&self) -> String {
        match self.0.why {
            Why::TooLong => "the function ran too long".to_owned(),
            Why::Interrupted => "interrupted".to_owned(),
            Why::Late => "the evaluation took too long".to_owned(),
            Why::Exit => format!("os.exit({})", self.0.code),
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.0.place {
            write!(f, "{file}:{line}: ")?;
        }
        f.write_str(&self.what())
    }
}

impl std::error::Error for Stopped {}

impl Runtime {
    /// Creates a state for the calling thread only.
    pub(crate) fn new(interrupt: &Interrupt) -> mlua::Result<Self> {
        let lua = crate::engine::sys::lua_with_ffi();
        lua.set_memory_limit(EVALUATION_BYTES)?;
        // A file is evaluated once: compiling it would cost more than it gains.
        lua.load("jit.off()").exec()?;
        // Scripts cannot have it: it reaches into functions of others.
        let debug: mlua::Table = lua.globals().raw_get("debug")?;
        lua.set_named_registry_value(UPVALUES, debug.raw_get::<mlua::Function>("getupvalue")?)?;
        let watch = Watch::new(&lua, interrupt)?;
        let serve = library::define(&lua, watch.alarm())?;
        Ok(Self { watch, lua, serve })
    }

    /// Returns the state.
    pub(crate) const fn lua(&self) -> &Lua {
        &self.lua
    }

    /// Runs a call for at most `ticks` + 1 ticks, and returns how many it took.
    ///
    /// # Errors
    /// Those of the call; [`Stopped`] when it was ended, even if it caught the error.
    pub(crate) fn run<R>(
        &self,
        ticks: u32,
        call: impl FnOnce() -> mlua::Result<R>,
    ) -> (mlua::Result<R>, u32) {
        self.watched(ticks, false, call)
    }

    /// Runs the evaluation of a file, which may ask for the end of the process.
    pub(crate) fn evaluate<R>(&self, call: impl FnOnce() -> mlua::Result<R>) -> mlua::Result<R> {
        self.watched(u32::MAX, true, call).0
    }

    fn watched<R>(
        &self,
        ticks: u32,
        may_exit: bool,
        call: impl FnOnce() -> mlua::Result<R>,
    ) -> (mlua::Result<R>, u32) {
        // Written in place: moving the result through return values costs as much as the call.
        let mut result = None;
        let call = || panics::caught(|| result = Some(call())).err();
        let (panic, ended, taken) = self.watch.run(ticks, may_exit, call);
        // A panic of the Lua library becomes an error of the call. The library has restored its
        // stack by then, and the effects of the call are undone as after any error.
        let result = result.unwrap_or_else(|| Err(mlua::Error::runtime(panic.unwrap_or_default())));
        match ended {
            // It may have returned just before the hook came.
            Some(ended) if result.is_err() || ended.place.is_some() => {
                (Err(mlua::Error::external(Stopped(ended))), taken)
            }
            _ => (result, taken),
        }
    }

    /// Ends the evaluation: collects its garbage and limits the memory that functions may add.
    /// After it, functions that run often can be compiled.
    pub(crate) fn serve(&self, compiled: bool) -> mlua::Result<()> {
        self.lua.gc_collect()?;
        self.lua.set_memory_limit(2 * self.lua.used_memory() + CALLS_BYTES)?;
        self.serve.call(compiled)
    }

    /// Frees memory after an error, or what has used much: it may be full of garbage.
    #[cold]
    pub(crate) fn recover(&self) {
        self.lua.gc_restart();
        // An error in a collection comes from a finaliser, and no finaliser is in Lua.
        let _ = self.lua.gc_collect();
    }
}

/// The registry's name for the function that reads what a function shares with others.
const UPVALUES: &str = "dnslob.upvalues";

/// Returns the function that, given a function and a number from 1, returns the name and the value of
/// what that function shares with others under this number.
///
/// # Errors
/// The state was not made by [`Runtime::new`].
pub(crate) fn upvalues(lua: &Lua) -> mlua::Result<mlua::Function> {
    lua.named_registry_value(UPVALUES)
}

/// Returns the ended call that caused an error, if one did.
pub(crate) fn stopped(error: &mlua::Error) -> Option<&Stopped> {
    match error {
        mlua::Error::CallbackError { cause, .. } | mlua::Error::BadArgument { cause, .. } => stopped(cause),
        mlua::Error::ExternalError(e) => e.downcast_ref(),
        _ => None,
    }
}

/// Returns whether functions that run per packet are compiled: when it is proved that this process
/// can end a compiled loop. The first call runs the proof, and logs a warning when it fails.
pub(crate) fn is_compiled() -> bool {
    static PROVED: OnceLock<bool> = OnceLock::new();
    *PROVED.get_or_init(|| match prove_compiler() {
        Ok(()) => true,
        Err(why) => {
            tracing::warn!("Lua functions are interpreted and take several times as long: {why}");
            false
        }
    })
}

/// Converts CPU time to ticks.
pub(crate) fn ticks(of: Duration) -> u32 {
    u32::try_from(of.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
