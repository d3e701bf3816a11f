use std::sync::mpsc;
use std::time::Instant;

use crate::lua::limits::thread::{Failed, Worker};
use crate::lua::limits::*;

/// Runs a test in a thread with a stack for Lua.
pub(crate) fn in_lua_thread(test: impl FnOnce() + Send + 'static) {
    let done = Worker::<()>::start("test", &Interrupt::default(), Duration::from_secs(600), move || {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        (caught.map_err(|p| p.downcast_ref::<String>().cloned().unwrap_or_default()), None)
    });
    if let (Err(message), _) = done.expect("a thread") {
        panic!("in a thread for Lua: {message}");
    }
}

fn runtime() -> Runtime {
    Runtime::new(&Interrupt::default()).expect("a state")
}

/// Returns the outcome of a script that gets 10 ms.
fn outcome(runtime: &Runtime, script: &str) -> String {
    let (result, _) = runtime.run(1, || runtime.lua().load(script).set_name("@t.lua").exec());
    match result {
        Ok(()) => "ok".to_owned(),
        Err(e) if stopped(&e).is_some() => e.to_string(),
        Err(e) => format!("error: {e}"),
    }
}

#[test]
fn long_call_is_ended_with_its_position() {
    in_lua_thread(|| {
        let runtime = runtime();
        for script in [
            "\nwhile true do end",
            "\nwhile true do pcall(function() while true do end end) end",
            "\nlocal function p() pcall(function() while true do end end) return p() end p()",
            "\nxpcall(function() while true do end end, function() while true do end end)",
            "\nwhile true do xpcall(function() while true do end end, function() while true do end end) end",
            "\ncoroutine.wrap(function() while true do end end)()",
            "\nwhile true do local c = coroutine.create(function() while true do end end) coroutine.resume(c) end",
            "\ngetmetatable('').__tostring = function() while true do end end while true do end",
            "\ngetmetatable('').__tostring = nil jit.on() while true do end",
            "\n(('a'):rep(3000)):find(('.-'):rep(5) .. 'b')",
            "\nlocal s = ('a'):rep(3e5) while true do s:find(s:sub(1, 1e5) .. 'b', 1, true) end",
            "\nlocal t = {} for i = 1, 1e5 do t[i] = i % 7 end while true do table.sort(t) end",
            "\nwhile true do local s = ('x'):rep(1e6):reverse():upper() end",
        ] {
            for _ in 0..2 {
                let error = outcome(&runtime, script);
                assert_eq!(error, "t.lua:2: the function ran too long", "{script}");
            }
        }
        assert_eq!(outcome(&runtime, "return 1"), "ok", "nothing is left of all that");
        assert_eq!(outcome(&runtime, "local s = 0 for i = 1, 1000 do s = s + i end"), "ok");
    });
}

#[test]
fn interruption_ends_a_call_without_limit() {
    in_lua_thread(|| {
        let interrupt = Interrupt::default();
        let runtime = Runtime::new(&interrupt).expect("a state");
        let (started, begin) = mpsc::channel();
        let start = runtime.lua().create_function(move |_, ()| {
            let _ = started.send(());
            Ok(())
        });
        runtime.lua().globals().set("start", start.expect("a function")).expect("set");
        let other = std::thread::spawn(move || {
            begin.recv().expect("the loop");
            interrupt.interrupt();
        });
        let chunk = runtime.lua().load("start()\nwhile true do end").set_name("@t.lua");
        let error = runtime.evaluate(|| chunk.exec()).expect_err("interrupted");
        assert_eq!(error.to_string(), "t.lua:2: interrupted");
        other.join().expect("the other thread");
    });
}

#[test]
fn only_an_evaluation_can_end_the_process() {
    let runtime = runtime();
    let chunk = |text: &'static str| runtime.lua().load(text).set_name("@t.lua");
    let error = runtime.evaluate(|| chunk("pcall(os.exit, 7) os.exit(8)").exec()).expect_err("an end");
    let ended = stopped(&error).expect("an end").0.clone();
    assert_eq!((ended.why, ended.code), (Why::Exit, 7));
    for (text, code) in [("os.exit()", 0), ("os.exit(true)", 0), ("os.exit(false)", 1), ("os.exit(256)", 256)]
    {
        let error = runtime.evaluate(|| chunk(text).exec()).expect_err("an end");
        assert_eq!(stopped(&error).map(|s| s.0.code), Some(code), "{text}");
    }
    let error = outcome(&runtime, "os.exit(3)");
    assert!(error.contains("t.lua:1: os.exit: only the evaluation"), "{error}");
}

#[test]
fn memory_limit_is_an_error() {
    let runtime = runtime();
    runtime.serve(false).expect("a collection");
    for script in [
        "return ('x'):rep(1e9)",
        "local t = {} for i = 1, 60 do t[i] = ('x'):rep(1e7) .. i end",
        "local t = {} for i = 1, 30 do t[i] = ('x'):rep(5e6) .. i end return table.concat(t)",
        "return (('x'):rep(1e5):gsub('x', ('y'):rep(1e5)))",
        "return (('x'):rep(1e5):gsub('x', function() return ('y'):rep(1e5) end))",
        "local a = require('ffi').new('uint8_t[?]', 1e9)",
        "local b = require('string.buffer').new() b:reserve(1e9)",
        "local s = ('x'):rep(1e7) return s:format() .. ('%s%s%s%s%s%s%s'):format(s, s, s, s, s, s, s)",
        "require('table.new')(1e8, 0)",
    ] {
        let chunk = runtime.lua().load(script).set_name("@t.lua");
        let (result, _) = runtime.run(u32::MAX - 1, || chunk.exec());
        let error = result.expect_err(script).to_string();
        assert!(error.contains("not enough memory"), "{script}: {error}");
        runtime.recover();
        assert_eq!(outcome(&runtime, "local t = {} for i = 1, 1000 do t[i] = {} end"), "ok");
    }
    assert_eq!(outcome(&runtime, "collectgarbage('stop') assert(collectgarbage('count') > 0)"), "ok");
    let garbage = "for i = 1, 300 do local s = ('x'):rep(1e6) .. i end";
    let (result, _) = runtime.run(u32::MAX - 1, || runtime.lua().load(garbage).exec());
    assert!(result.is_ok(), "it is collected all the same: {result:?}");
}

#[test]
fn recursion_ends_with_an_error() {
    in_lua_thread(|| {
        let runtime = runtime();
        for script in [
            "local function f(s) return (s:gsub('.', f)) end f('x')",
            "local function f(s) return (s:gsub('.', setmetatable({}, {__index = function(_, k) return f(k) end}))) end f('x')",
            "local f f = function() return 1 + f() end f()",
            "local f f = function() assert(load(f)) end f()",
            "f = function() loadstring('f()')() end f()",
            "f = function() assert(loadstring('return 1 + f()'))() end f()",
            "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] .. '' end}) local x = t[1]",
            "local mt = {} mt.__lt = function(a, b) return not (a < b) end local a = setmetatable({}, mt) return a < setmetatable({}, mt)",
            "local f f = function(a, b) table.sort({3, 2, 1}, f) return a < b end table.sort({1, 2, 3}, f)",
            "local mt = {} mt.__tostring = function(x) return tostring(x) .. '' end tostring(setmetatable({}, mt))",
            "local mt = {} mt.__tostring = function(x) return ('%s'):format(x) end tostring(setmetatable({}, mt))",
            "local mt = {} mt.__tostring = function(x) print(x) return '' end print(setmetatable({}, mt))",
            "local mt = {} mt.__concat = function(a, b) return 'x' .. b end return 'y' .. setmetatable({}, mt)",
            "local mt = {} mt.__call = function(self) return 1 + self() end setmetatable({}, mt)()",
            "local f f = function() require('ffi').cast('int (*)(int)', f) return f() + 1 end f()",
            "local a = {} for i = 1, 300 do a = setmetatable({}, {__index = a}) end return a.x",
            "package.loaders[1] = function(name) require(name .. 'x') end require('y')",
            "error(setmetatable({}, {__tostring = function(x) return tostring(x) .. '' end}))",
            "return loadstring(('('):rep(1e5))()",
            "return loadstring('return ' .. ('{'):rep(1e5) .. ('}'):rep(1e5))()",
            "local f f = function() coroutine.wrap(f)() end f()",
            "local f f = function() assert(coroutine.resume(coroutine.create(f))) end f()",
            "local f f = function(s) return (s:gsub('.', function(c) local r = {pcall(coroutine.wrap(f), c)} assert(unpack(r)) return r[2] end)) end f('x')",
            // Deep C frames in each of many coroutines.
            "local deep deep = function(n, f) if n == 0 then return f() end
               local m = {} table.sort({1, 2}, function() if not m[1] then m[1] = true deep(n - 1, f) end return false end) end
             local f f = function() deep(1500, function() coroutine.wrap(f)() end) end f()",
        ] {
            let chunk = runtime.lua().load(script).set_name("@t.lua");
            let (result, _) = runtime.run(30, || chunk.exec());
            assert!(result.is_err(), "{script}");
            runtime.recover();
        }
        assert_eq!(outcome(&runtime, "return 1"), "ok");
    });
}

#[test]
fn hanging_thread_is_abandoned() {
    let (go_on, wait) = mpsc::channel::<()>();
    let begun = Instant::now();
    let interrupt = Interrupt::default();
    let result = Worker::<()>::start("test", &interrupt, Duration::from_millis(10), move || {
        let _ = wait.recv();
        ((), None)
    });
    assert!(matches!(result, Err(Failed::Late)), "{result:?}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    drop(go_on);
    let (first, worker) =
        Worker::start("test", &Interrupt::default(), EVALUATION, || (1, Some(41))).expect("a thread");
    let wait = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    assert_eq!((first, wait.block_on(worker.call(|kept| kept + 1))), (1, Ok(42)));
    let none =
        Worker::<()>::start("test", &Interrupt::default(), EVALUATION, || (1, None)).expect("a thread");
    assert!(wait.block_on(none.1.call(|()| ())).is_err());
}

#[test]
fn a_command_of_the_shell_does_not_take_signals_from_the_process() {
    let runtime = Runtime::new(&Interrupt::default()).expect("a state");
    let lua = runtime.lua();
    let status: i32 = lua.load("return os.execute('exit 3')").eval().expect("a status");
    assert_eq!(status, 3 << 8, "as wait has it");
    let status: i32 = lua.load("return os.execute()").eval().expect("a status");
    assert_eq!(status, 1, "there is a shell");
    let own = std::fs::read_to_string("/proc/self/status").expect("a status");
    let ignored = own.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("signals").trim();
    let compare = format!("[ \"$(sed -n 's/^SigIgn:\\t*//p' /proc/$PPID/status)\" = {ignored} ]");
    lua.globals().set("compare", compare).expect("a global");
    let status: i32 = lua.load("return os.execute(compare)").eval().expect("a status");
    assert_eq!(status, 0, "other signals are ignored meanwhile");
}
