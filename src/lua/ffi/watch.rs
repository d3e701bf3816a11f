//! Ends Lua that runs too long, by a timer of the thread's CPU time.
//!
//! ```text
//!  CPU clock of the thread ──every 10 ms──► signal, in that thread ──► Alarm::tick
//!    a call is running, and its time is up, or it is interrupted ──► a hook before the next instruction
//!  hook ──► error, again and again until no code of the script is left that could catch it
//! ```
//!
//! CPU time counts, not wall-clock time: a call is not ended because the kernel did not run its
//! thread. A call costs three plain stores. No instructions are counted, and C functions of the
//! library count with the time that they take.
//!
//! It does not end C code. A function that stays in one C call is ended when that returns;
//! `lua::limits::library` keeps those calls short.
//!
//! # Invariants
//! - The signal goes to the thread that made the timer, which is the one that runs the state: the
//!   handler and the interpreter never run at the same time.
//! - The hook is set only while a call runs, and removed at its end.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::zeroed;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::atomic::{AtomicPtr, compiler_fence};
use std::time::Duration;

use mlua::Lua;
use mlua::ffi::{
    LUA_MASKCOUNT, LUA_REGISTRYINDEX, lua_Debug, lua_State, lua_error, lua_getinfo, lua_getstack,
    lua_rawgeti, lua_sethook, luaL_ref,
};

/// CPU time between two ticks: the resolution of a call's time. The kernel checks CPU clocks only
/// at its own ticks, every 1 to 10 ms.
pub const TICK: Duration = Duration::from_millis(10);

/// Ends a running evaluation from another thread.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicU8>);

impl Interrupt {
    /// Ends the evaluation with an error.
    pub fn interrupt(&self) {
        self.0.store(Why::Interrupted as u8, Relaxed);
    }

    /// Lets what begins from then on run.
    pub(crate) fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    /// Returns whether the evaluation is to end.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Ends the evaluation because of its time limit.
    pub(crate) fn time_out(&self) {
        // The first reason counts.
        let _ = self.0.compare_exchange(0, Why::Late as u8, Relaxed, Relaxed);
    }
}

/// The reason why a call was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// It took more CPU time than it may.
    TooLong = 1,
    /// It was interrupted.
    Interrupted = 2,
    /// It exceeded its time limit.
    Late = 3,
    /// It asked for the end of the process.
    Exit = 4,
}

impl Why {
    const ALL: [Self; 4] = [Self::TooLong, Self::Interrupted, Self::Late, Self::Exit];
}

/// A call that was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The reason.
    pub why: Why,
    /// The line of the script that was running, if known.
    pub place: Option<(String, u32)>,
    /// The requested exit code.
    pub code: i32,
}

/// State of the running call that the handler, the hook and the library share.
#[derive(Debug)]
pub struct Alarm {
    state: AtomicPtr<lua_State>,
    interrupt: Interrupt,
    running: AtomicBool,
    /// Ticks until the call's time is up.
    left: AtomicU32,
    /// Ticks since it began, including those while it is being ended.
    taken: AtomicU32,
    /// Why the call is to end; 0 while it may run.
    ended: AtomicU8,
    /// The call may end the process.
    may_exit: Cell<bool>,
    code: AtomicI32,
    /// The error that the hook raises, in the registry.
    error: Cell<c_int>,
    place: RefCell<Option<(String, u32)>>,
}

thread_local! {
    /// The alarm of the call that runs in this thread.
    static RUNNING: Cell<*const Alarm> = const { Cell::new(ptr::null()) };
}

impl Alarm {
    /// Returns whether the running call is to end.
    pub fn is_over(&self) -> bool {
        self.ended.load(Relaxed) != 0
    }

    /// Ends the running call, and the process with this code, if the call may do that.
    pub fn exit(&self, code: i32) -> bool {
        if self.may_exit.get() && self.running.load(Relaxed) {
            self.code.store(code, Relaxed);
            self.end(Why::Exit as u8);
            return true;
        }
        false
    }

    /// Runs in the signal handler: only atomics and the hook are allowed.
    fn tick(&self) {
        if !self.running.load(Relaxed) {
            return;
        }
        self.taken.store(self.taken.load(Relaxed).saturating_add(1), Relaxed);
        let left = self.left.load(Relaxed).saturating_sub(1);
        self.left.store(left, Relaxed);
        let interrupted = self.interrupt.0.load(Relaxed);
        if interrupted != 0 {
            self.end(interrupted);
        } else if left == 0 || self.is_over() {
            // Again: the previous tick may have come while the interpreter was changing what a hook
            // changes too.
            self.end(Why::TooLong as u8);
        }
    }

    fn end(&self, why: u8) {
        if self.ended.load(Relaxed) == 0 {
            self.ended.store(why, Relaxed);
        }
        let state = self.state.load(Relaxed);
        // SAFETY: the state lives longer than the watch, whose drop ends the ticks. LuaJIT allows
        // to set a hook in a signal handler of the thread that runs the state. Off and on, so that
        // the dispatch table is rewritten.
        unsafe {
            lua_sethook(state, None, 0, 0);
            lua_sethook(state, Some(on_hook), LUA_MASKCOUNT, 1);
        }
    }
}

/// Runs calls of one state and ends those that take too long.
#[derive(Debug)]
pub struct Watch {
    alarm: Rc<Alarm>,
    timer: libc::timer_t,
}

impl Watch {
    /// Watches a state, in the thread that created it and runs it.
    ///
    /// # Errors
    /// The system has no timer left (`RLIMIT_SIGPENDING`).
    pub fn new(lua: &Lua, interrupt: &Interrupt) -> mlua::Result<Self> {
        let alarm = Rc::new(Alarm {
            state: AtomicPtr::default(),
            interrupt: interrupt.clone(),
            running: AtomicBool::default(),
            left: AtomicU32::default(),
            taken: AtomicU32::default(),
            ended: AtomicU8::default(),
            may_exit: Cell::default(),
            code: AtomicI32::default(),
            error: Cell::default(),
            place: RefCell::default(),
        });
        // Made in advance, because memory may be short when it is needed, and of a type that no
        // handler of a script can inspect by calling functions of the script.
        let error = mlua::Value::Error(Box::new(mlua::Error::runtime("the function ran too long")));
        let own = Rc::clone(&alarm);
        // SAFETY: takes its one argument from the stack, as `exec_raw` requires; the state that is
        // kept is the main one, because nothing runs yet.
        unsafe {
            lua.exec_raw::<()>(error, move |state| {
                own.error.set(luaL_ref(state, LUA_REGISTRYINDEX));
                own.state.store(state, Relaxed);
            })?;
        }
        let timer = start(&alarm).map_err(|e| mlua::Error::runtime(format!("no timer: {e}")))?;
        Ok(Self { alarm, timer })
    }

    /// Returns the part that is shared with the library.
    #[must_use]
    pub const fn alarm(&self) -> &Rc<Alarm> {
        &self.alarm
    }

    /// Runs a call for at most `ticks` + 1 ticks; returns why it was ended, if it was, and how many
    /// ticks it took.
    pub fn run<R>(&self, ticks: u32, may_exit: bool, call: impl FnOnce() -> R) -> (R, Option<Ended>, u32) {
        if self.alarm.running.load(Relaxed) {
            // Part of a call that is running already.
            return (call(), None, 0);
        }
        let ticks = ticks.saturating_add(1);
        self.alarm.may_exit.set(may_exit);
        let running = Running::begin(&self.alarm, ticks);
        let result = call();
        drop(running);
        let taken = self.alarm.taken.load(Relaxed);
        // No tick interferes: a tick changes nothing while no call runs. A swap would cost as much
        // as everything else here.
        let ended = if self.alarm.is_over() { self.ended() } else { None };
        (result, ended, taken)
    }

    #[cold]
    fn ended(&self) -> Option<Ended> {
        let ended = self.alarm.ended.swap(0, Relaxed);
        let place = self.alarm.place.borrow_mut().take();
        let why = Why::ALL.into_iter().find(|w| *w as u8 == ended);
        let code = self.alarm.code.load(Relaxed);
        why.map(|why| Ended { why, place, code })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the timer is ours, and is deleted once. Its signal goes to this thread, so a
        // pending one is handled before the call returns, while the alarm still exists.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// A running call; ended on drop, also after a panic.
struct Running<'a>(&'a Alarm, *const Alarm);

impl<'a> Running<'a> {
    fn begin(alarm: &'a Alarm, ticks: u32) -> Self {
        let outer = RUNNING.replace(alarm);
        alarm.left.store(ticks, Relaxed);
        alarm.taken.store(0, Relaxed);
        compiler_fence(SeqCst);
        alarm.running.store(true, Relaxed);
        compiler_fence(SeqCst);
        Self(alarm, outer)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        compiler_fence(SeqCst);
        self.0.running.store(false, Relaxed);
        compiler_fence(SeqCst);
        if self.0.is_over() {
            // SAFETY: the state lives; no tick sets the hook any more.
            unsafe { lua_sethook(self.0.state.load(Relaxed), None, 0, 0) };
        }
        RUNNING.set(self.1);
    }
}

/// Returns the signal of the ticks. Real-time signals are queued once per timer, and nobody else
/// sends them.
fn signal() -> c_int {
    libc::SIGRTMIN() + 3
}

/// Starts the ticks of the calling thread's CPU time.
fn start(alarm: &Rc<Alarm>) -> io::Result<libc::timer_t> {
    static HANDLER: Once = Once::new();
    let checked = |result: c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let mut installed = Ok(());
    HANDLER.call_once(|| {
        // SAFETY: a plain C structure, for which zeros are a valid value; the handler has the
        // signature that SA_SIGINFO requires, and does only what a handler may.
        installed = unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = on_tick as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            // Other signals wait: the handler is short, and the stack of handlers is small.
            libc::sigfillset(&raw mut action.sa_mask);
            checked(libc::sigaction(signal(), &raw const action, ptr::null_mut()))
        };
    });
    installed?;
    // SAFETY: plain C structures, for which zeros are valid; the pointer that the signal carries is
    // to an alarm that lives until the timer is deleted.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        // The thread that started this one may have blocked all signals.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
        let mut event: libc::sigevent = zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = libc::gettid();
        event.sigev_value.sival_ptr = Rc::as_ptr(alarm).cast_mut().cast();
        let mut timer = zeroed();
        checked(libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut event, &raw mut timer))?;
        let nanoseconds = libc::c_long::try_from(TICK.as_nanos()).unwrap_or(libc::c_long::MAX);
        let every = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let every = libc::itimerspec { it_interval: every, it_value: every };
        if let Err(e) = checked(libc::timer_settime(timer, 0, &raw const every, ptr::null_mut())) {
            libc::timer_delete(timer);
            return Err(e);
        }
        Ok(timer)
    }
}

extern "C" fn on_tick(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid structure.
    let info = unsafe { &*info };
    if info.si_code != libc::SI_TIMER {
        // Not from one of our timers: it carries no pointer.
        return;
    }
    // SAFETY: a timer's signal carries the pointer that the timer was made with, and comes only
    // before its deletion, in the thread that owns the alarm.
    unsafe { (*info.si_value().sival_ptr.cast::<Alarm>()).tick() };
}

/// Raises the error that ends the call.
///
/// # Safety
/// Called by LuaJIT, as a hook.
unsafe extern "C-unwind" fn on_hook(state: *mut lua_State, _: *mut lua_Debug) {
    let alarm = RUNNING.get();
    // SAFETY: set only while that alarm's call runs, which this hook is part of; LuaJIT passes the
    // hook a valid state with free stack space. Nothing that must be dropped is alive when the
    // error leaves.
    unsafe {
        if alarm.is_null() || !(*alarm).is_over() {
            lua_sethook(state, None, 0, 0);
            return;
        }
        if let Ok(mut place) = (*alarm).place.try_borrow_mut()
            && place.is_none()
        {
            *place = running_line(state);
        }
        lua_rawgeti(state, LUA_REGISTRYINDEX, (*alarm).error.get().into());
        lua_error(state);
    }
}

/// Returns the nearest line of a script on the stack; names of our own chunks begin with `=`.
///
/// # Safety
/// The state runs in this thread.
unsafe fn running_line(state: *mut lua_State) -> Option<(String, u32)> {
    /// Deeper than our own functions nest.
    const LEVELS: c_int = 16;
    for level in 0..LEVELS {
        // SAFETY: a plain C structure, which `lua_getstack` and `lua_getinfo` fill; `source` points
        // to text of the running function, which lives.
        unsafe {
            let mut about: lua_Debug = zeroed();
            if lua_getstack(state, level, &raw mut about) == 0 {
                break;
            }
            lua_getinfo(state, c"Sl".as_ptr(), &raw mut about);
            let Ok(line @ 1..) = u32::try_from(about.currentline) else { continue };
            let source = CStr::from_ptr(about.source).to_string_lossy();
            if !source.starts_with('=') {
                return Some((source.strip_prefix('@').unwrap_or("(a string)").to_owned(), line));
            }
        }
    }
    None
}

/// Proves, in a state of its own, that Lua can be compiled here and that a compiled loop is ended
/// when its time is up. Takes two ticks of CPU time if so, about a second if not.
///
/// # Errors
/// Why Lua must not be compiled.
pub fn prove_compiler() -> Result<(), String> {
    // LuaJIT ends the process when it may not make its code executable.
    if !crate::engine::sys::can_make_code() {
        return Err("the system does not allow code to be generated at run time".to_owned());
    }
    let lua = crate::engine::sys::lua_with_ffi();
    let failed = |e: mlua::Error| e.to_string();
    lua.load("jit.on()").exec().map_err(failed)?;
    let watch = Watch::new(&lua, &Interrupt::default()).map_err(failed)?;
    let chunk = lua.load("local x = 0 for i = 1, 1e9 do x = x + i end");
    let (result, ended, _) = watch.run(0, false, || chunk.exec());
    let compiled: bool = lua.load("return require('jit.util').traceinfo(1) ~= nil").eval().map_err(failed)?;
    if !compiled {
        return Err("LuaJIT does not compile a loop".to_owned());
    }
    if result.is_ok() || ended.is_none_or(|e| e.why != Why::TooLong) {
        return Err("a compiled loop does not end (LuaJIT without LUAJIT_ENABLE_CHECKHOOK)".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.cargo/config.toml` requires it: compiled loops check the hook.
    #[test]
    fn luajit_is_built_with_a_hook_in_compiled_loops() {
        assert_eq!(prove_compiler(), Ok(()), "cargo clean -p mlua-sys");
    }

    /// Also required there: no C frame skips a page of the stack without touching it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn luajit_is_built_with_probed_frames() {
        let lua = crate::engine::sys::lua_with_ffi();
        let gsub: mlua::Function = lua.load("return string.gsub").eval().expect("a function");
        let found = Cell::new(false);
        // SAFETY: the function is part of the C library, and its code is longer than what is read
        // of it.
        unsafe {
            lua.exec_raw::<()>(gsub, |state| {
                let code = mlua::ffi::lua_tocfunction(state, -1).map_or(ptr::null(), |f| f as *const u8);
                let code = std::slice::from_raw_parts(code, 256);
                // orq $0, (%rsp), once a page.
                found.set(code.windows(5).any(|w| w == [0x48, 0x83, 0x0c, 0x24, 0x00]));
            })
            .expect("no error");
        }
        assert!(found.get(), "cargo clean -p mlua-sys");
    }

    #[test]
    fn call_within_its_time_is_not_ended() {
        let lua = crate::engine::sys::lua_with_ffi();
        let watch = Watch::new(&lua, &Interrupt::default()).expect("a timer");
        // Most of them end within a tick, and none affects the next.
        for _ in 0..2_000 {
            let (result, ended, _) =
                watch.run(1, false, || lua.load("local t = {} for i = 1, 50 do t[i] = i end").exec());
            assert!(result.is_ok() && ended.is_none(), "{result:?} {ended:?}");
        }
        let others: Vec<_> =
            (0..3).map(|_| Watch::new(&lua, &Interrupt::default()).expect("a timer")).collect();
        drop(others);
        let spoofed = signal();
        // SAFETY: a signal to ourselves that carries nothing.
        unsafe { libc::raise(spoofed) };
        assert!(watch.run(1, false, || lua.load("return 1").exec()).1.is_none());
    }
}
