use crate::base::rng::ShardRng;
use crate::lua::ffi::watch::{Interrupt, Watch};
use crate::lua::limits::library::*;

/// A state in which every pattern is matched by our matcher, whatever the subject's length; `own`
/// holds LuaJIT's functions.
fn compared() -> (Lua, Watch) {
    let lua = crate::engine::sys::lua_with_ffi();
    lua.load("own = {} for name, f in pairs(string) do own[name] = f end").exec().expect("a table");
    let watch = Watch::new(&lua, &Interrupt::default()).expect("a timer");
    let core = core(&lua, watch.alarm()).expect("functions");
    core.raw_set("reach", lua.create_function(|_, ()| Ok(-1)).expect("a function")).expect("set");
    install(&lua, core).expect("the library");
    (lua, watch)
}

const COMPARE: &str = r##"
local rounds, calls = 0, {}
local function both(name, ...)
  local a = { pcall(own[name], ...) }
  local b = { pcall(string[name], ...) }
  -- Places are of the caller, names of functions are not ours.
  if not a[1] then
    a[2] = a[2]:gsub("^.-:%d+: ", ""):gsub("bad argument.*", "bad argument")
    b[2] = tostring(b[2]):gsub("^.-:%d+: ", ""):gsub("bad argument.*", "bad argument")
  end
  local same = #a == #b
  for i = 1, #a do same = same and a[i] == b[i] end
  if not same then
    local text = {}
    for _, list in ipairs({ { ... }, a, b }) do
      for i, v in ipairs(list) do list[i] = type(v) == "string" and ("%q"):format(v) or tostring(v) end
      text[#text + 1] = table.concat(list, ", ")
    end
    error(name .. "(" .. text[1] .. ")\nLuaJIT: " .. text[2] .. "\nours:   " .. text[3], 0)
  end
end
local function walk(gmatch, s, p)
  local all = {}
  for a, b, c in gmatch(s, p) do
    all[#all + 1] = tostring(a) .. "/" .. tostring(b) .. "/" .. tostring(c)
    if #all > 50 then break end
  end
  return table.concat(all, " ")
end
own.walk = function(s, p) return walk(own.gmatch, s, p) end
string.walk = function(s, p) return walk(string.gmatch, s, p) end
return function(s, p, by, init)
  both("find", s, p, init)
  both("find", s, p, init, true)
  both("match", s, p, init)
  both("walk", s, p)
  both("gsub", s, p, by)
  both("gsub", s, p, by, init)
  both("gsub", s, p, { a = "<>", b = false, [1] = "one", [""] = "-" })
  both("gsub", s, p, function(a, b) if b then return a .. b end if a == "a" then return 7 end end)
end
"##;

/// Returns a text of at most this many pieces.
fn text(rng: &mut ShardRng, pieces: &[&str], most: u64) -> Vec<u8> {
    let count = rng.u64() % (most + 1);
    (0..count).flat_map(|_| pieces[(rng.u64() % pieces.len() as u64) as usize].bytes()).collect()
}

#[test]
fn patterns_match_as_in_luajit() {
    let (lua, _watch) = compared();
    let compare: mlua::Function = lua.load(COMPARE).set_name("=compare").eval().expect("a function");
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut rng = ShardRng::from_seed(seed);
    let patterns = [
        "a", "b", ".", "%a", "%d", "%W", "%%", "*", "+", "-", "?", "(", ")", "()", "(a*)", "(.-)", "%1",
        "%2", "%0", "%bab", "%b()", "%f[a]", "%f[%W]", "[ab]", "[^a]", "[a-c]", "[%a-]", "[]]", "[^]", "^",
        "$", "[", "]", "%", "%b", "%f", "\0", "%z", "\u{e9}", "-]", "%s*", "%S", "x", "()a", "\u{b}",
    ];
    let subjects =
        ["a", "b", "c", "ab", "x", "1", ".", "(", ")", "%", "", " ", "\0", "\u{e9}", "-", "]", "\u{b}"];
    let replacements = ["a", "%0", "%1", "%2", "%%", "%", "\0", "<", "%z"];
    let inits: [Option<f64>; 9] =
        [None, None, None, Some(1.0), Some(2.5), Some(-1.0), Some(-3.0), Some(0.0), Some(9.0)];
    for round in 0..6_000 {
        let pattern = text(&mut rng, &patterns, 6);
        let subject = text(&mut rng, &subjects, 9);
        let by = text(&mut rng, &replacements, 3);
        let init = inits[(rng.u64() % inits.len() as u64) as usize];
        let arguments =
            (mlua::BString::from(subject), mlua::BString::from(pattern), mlua::BString::from(by), init);
        compare.call::<()>(arguments).unwrap_or_else(|e| panic!("FUZZ_SEED={seed}, round {round}: {e}"));
    }
    for (s, p) in [
        ("a".repeat(300), "(".repeat(33)),
        ("a".repeat(300), "a?".repeat(250)),
        ("x".repeat(50), "(x)".repeat(32)),
        ("THE (quick) fox".to_owned(), "%f[%a]%a+%f[%A]".to_owned()),
        ("key = value".to_owned(), "^(%w+)%s*=%s*(%w+)$".to_owned()),
    ] {
        compare.call::<()>((s, p, "%1", Option::<f64>::None)).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn arguments_are_read_as_in_luajit() {
    let (lua, _watch) = compared();
    lua.load(
        r##"
        local function same(name, ...)
          local a, b = { pcall(own[name], ...) }, { pcall(string[name], ...) }
          assert(a[1] == b[1], name)
          if a[1] then for i = 1, #a do assert(a[i] == b[i], name) end end
        end
        same("find", 1234, 3) same("find", "a1b", "%d", "2") same("find", "a.b", ".", 1, true)
        same("find", {}, "a") same("find", "a") same("find", "a", {}) same("find", "a", "a", {})
        same("match", 1234, "%d(%d)") same("match", "a", nil) same("gsub", 121, 1, 3)
        same("gsub", "abc", "%w", "%0%0", 2) same("gsub", "abc", "%w") same("gsub", "abc", "%w", true)
        same("gsub", "abc", "", "-") same("gsub", "abc", "^a", "x") same("gsub", "abc", "b*", "<%0>", "2")
        same("gsub", "abc", "b", function() return {} end) same("gsub", "abc", "b", { b = true })
        same("gsub", "abc", "%w", "x", -1) same("gsub", "abc", "%w", "x", 1.9) same("gsub", "", "^", "x")
        assert(select(2, pcall(string.find, "a", "[a")):find("malformed pattern (missing ']')", 1, true))
        "##,
    )
    .set_name("=test")
    .exec()
    .unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn bytecode_is_refused_and_limits_cannot_be_lifted() {
    let (lua, _watch) = compared();
    lua.load(
        r##"
        local code = string.dump(function() return 1 end)
        for _, read in ipairs({ load, loadstring }) do
          local chunk, wrong = read(code)
          assert(chunk == nil and wrong:find("wrong mode"), wrong)
        end
        assert(load(code, "x", "b") == nil)
        local sent = false
        assert(load(function() if not sent then sent = true return code end end) == nil)
        local pieces = { "return ", "4", "2" }
        assert(load(function() return table.remove(pieces, 1) end)() == 42)
        assert(load(function() error("no") end) == nil and load(function() return 5 end) == nil)
        assert(load("return x", "=x", "t", { x = 3 })() == 3 and loadstring("return ...")(8) == 8)
        assert(select(2, load("x = = 1", "=name")):find("^name:1:"))

        assert(newproxy == nil and getmetatable(io.stdout) == "FILE*" and tostring(io.stdout):find("^file"))
        assert(package.loaded.jit == jit and package.loaded["jit.util"] == nil and package.preload["jit.util"] == nil)
        assert(not pcall(require, "jit.profile") and jit.version and jit.arch and not jit.status() and not jit.attach)
        jit.on() jit.off() jit.flush() jit.opt.start("hotloop=1")
        assert(debug.traceback("x"):find("stack traceback") and debug.getinfo(1).currentline)
        assert(package.loaded.debug == debug and debug.sethook == nil and debug.getregistry == nil)

        local ffi = require("ffi")
        assert(not pcall(ffi.gc, ffi.new("int[1]"), function() end))
        ffi.cdef("void free(void *); typedef struct { int x; } kept_t;")
        assert(ffi.gc(ffi.gc(ffi.new("int[1]"), ffi.C.free), nil))
        assert(not pcall(ffi.metatype, "kept_t", { __gc = function() end }))
        local methods = { double = function(self) return self.x * 2 end }
        local kept = ffi.metatype("kept_t", { __index = methods })
        assert(kept(21):double() == 42)

        local ok, value = xpcall(function(a) error(a) end, function(e) return e .. "!" end, "x")
        assert(not ok and value:find("x!$"))
        assert(select("#", xpcall(function() return 1, nil, nil end, print)) == 4)
        assert(xpcall(error, function() error("again") end) == false)

        local wrapped = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return a + b, nil end)
        assert(wrapped(1) == 2 and select("#", wrapped(5)) == 2 and not pcall(wrapped))
        local co = coroutine.create(function() error({}) end)
        local ok, e = coroutine.resume(co)
        assert(not ok and type(e) == "table" and coroutine.status(co) == "dead")
        -- A yield may pass a function that gsub calls.
        local co = coroutine.wrap(function() return (("ab"):rep(2000):gsub("a", coroutine.yield)) end)
        assert(co() == "a" and co("c") == "a")

        local list = {}
        for i = 1, 5000 do list[i] = (i * 7919) % 5003 end
        table.sort(list)
        for i = 2, #list do assert(list[i - 1] <= list[i]) end
        local ok, wrong = pcall(os.exit, 3)
        assert(not ok and wrong:find("only the evaluation"), wrong)
        "##,
    )
    .set_name("=test")
    .exec()
    .unwrap_or_else(|e| panic!("{e}"));
}
