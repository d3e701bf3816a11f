-- What scripts see of Lua's standard library where it could run without end: C code that no hook
-- reaches, finalisers and handlers in which hooks are off, nested C frames.
--
-- core: the functions of `library.rs`; own_pcall, told: those of `pcall.lua`, whose chunk is called
-- pcall_chunk; main: the thread that is no coroutine.
local core, own_pcall, told, pcall_chunk, main = ...

local byte, sub, concat = string.byte, string.sub, table.concat
local error, next, pcall, rawget, select, setmetatable, tonumber, type =
  error, next, pcall, rawget, select, setmetatable, tonumber, type
local ffi = require("ffi")

-- Patterns -------------------------------------------------------------------------------------
-- The library's own functions where they cannot take long: for short subjects. Otherwise `core` has
-- a matcher that can be stopped.

local find, match, gmatch, gsub = string.find, string.match, string.gmatch, string.gsub
local core_find, core_substitute, has_stack = core.find, core.substitute, core.has_stack

-- By pattern: the longest subject that the library's matcher gets.
local REACHES_MAX = 1000
local reaches, plain_reaches, reaches_count = nil, nil, REACHES_MAX
local function remember(is_plain)
  return { __index = function(_, pattern)
    if reaches_count >= REACHES_MAX then
      reaches, plain_reaches, reaches_count =
        setmetatable({}, remember(false)), setmetatable({}, remember(true)), 0
    end
    local reach = core.reach(pattern, is_plain)
    local of = is_plain and plain_reaches or reaches
    of[pattern], reaches_count = reach, reaches_count + 1
    return reach
  end }
end
reaches, plain_reaches = setmetatable({}, remember(false)), setmetatable({}, remember(true))

-- Numbers are text to the library; anything else is an error that the library reports.
local function text(v)
  if type(v) == "number" then return v .. "" end
  return v
end

local function is_number(v) return v == nil or type(v) == "number" or tonumber(v) ~= nil end

-- Returns the result of core.find as `find` does: position, end, captures.
local function found(ok, ...)
  if not ok then error((...), 2) end
  return ...
end

function string.find(s, p, init, plain)
  s, p = text(s), text(p)
  if type(s) ~= "string" or type(p) ~= "string" or not is_number(init)
    or #s <= (plain and plain_reaches or reaches)[p] then
    return find(s, p, init, plain)
  end
  return found(core_find(s, p, tonumber(init), plain and true or false, true))
end

local function captures(ok, from, to, ...)
  if not ok then error(from, 3) end
  return from, to, ...
end

local function matched(s, from, to, ...)
  if not from then return nil end
  if select("#", ...) > 0 then return ... end
  return sub(s, from, to)
end

function string.match(s, p, init)
  s, p = text(s), text(p)
  if type(s) ~= "string" or type(p) ~= "string" or not is_number(init) or #s <= reaches[p] then
    return match(s, p, init)
  end
  return matched(s, captures(core_find(s, p, tonumber(init), nil, true)))
end

function string.gmatch(s, p)
  s, p = text(s), text(p)
  -- In gmatch a ^ is an ordinary character.
  if type(s) ~= "string" or type(p) ~= "string" or byte(p) ~= 94 and #s <= reaches[p] then
    return gmatch(s, p)
  end
  local at = 1
  local function step(from, to, ...)
    if not from then
      at = #s + 2
      return nil
    end
    at = to < from and to + 2 or to + 1
    if select("#", ...) > 0 then return ... end
    return sub(s, from, to)
  end
  return function()
    if at > #s + 1 then return nil end
    return step(captures(core_find(s, p, at, nil, false)))
  end
end
string.gfind = string.gfind and string.gmatch

-- Returns the replacement of one match; nil and false keep the match.
local function replacement(is_function, by, s, from, to, ...)
  local value
  if select("#", ...) == 0 then
    local whole = sub(s, from, to)
    if is_function then value = by(whole) else value = by[whole] end
  elseif is_function then
    value = by(...)
  else
    value = by[(...)]
  end
  if not value then return from, to, sub(s, from, to) end
  if type(value) ~= "string" and type(value) ~= "number" then
    error("invalid replacement value (a " .. type(value) .. ")", 3)
  end
  return from, to, value
end

local function replaced(is_function, by, s, ok, from, ...)
  if not ok then error(from, 3) end
  if not from then return nil end
  return replacement(is_function, by, s, from, ...)
end

function string.gsub(s, p, by, max)
  s, p, by = text(s), text(p), text(by)
  local kind = type(by)
  local by_call = kind == "function" or kind == "table"
  if type(s) ~= "string" or type(p) ~= "string" or not by_call and kind ~= "string"
    or not is_number(max) or #s <= reaches[p] and (kind == "string" or has_stack()) then
    return gsub(s, p, by, max)
  end
  max = max == nil and #s + 1 or tonumber(max)
  max = max - max % 1
  if not by_call then return found(core_substitute(s, p, by, max)) end
  -- In Lua: a function that is called from here adds no C frame; gsub's are the largest.
  local anchored, parts, count, made, at = byte(p) == 94, {}, 0, 0, 1
  -- A table is indexed by the first capture; errors in others are not reported.
  local wanted = kind == "table" and 1 or nil
  while made < max do
    local from, to, value = replaced(kind == "function", by, s, core_find(s, p, at, nil, true, wanted))
    if not from then break end
    made = made + 1
    parts[count + 1], parts[count + 2] = sub(s, at, from - 1), value
    count, at = count + 2, to + 1
    if to < from then
      -- After an empty match the next byte stays as it is.
      if from > #s then break end
      parts[count + 1], count, at = sub(s, from, from), count + 1, from + 1
    end
    if anchored then break end
  end
  parts[count + 1] = sub(s, at)
  return concat(parts), made
end

-- Sorting: C code unless it compares with a Lua function, which long lists must do.
local SORTED_MAX = 1000
local sort, getinfo = table.sort, debug.getinfo
local function is_less(a, b) return a < b end
function table.sort(list, less)
  if type(list) == "table" and #list > SORTED_MAX then
    if less == nil then
      less = is_less
    elseif type(less) == "function" and getinfo(less, "S").what == "C" then
      local compare = less
      less = function(a, b) return (compare(a, b)) end
    end
  end
  return sort(list, less)
end

-- Code: text only, because nothing verifies bytecode. ---------------------------------------

local load_text, load_file = load, loadfile

local function pieces(reader)
  local parts, count = {}, 0
  while true do
    local piece = reader()
    if piece == nil or piece == "" then return concat(parts) end
    if type(piece) ~= "string" then error("reader function must return a string", 0) end
    count = count + 1
    parts[count] = piece
  end
end

function load(chunk, name, _, ...)
  if type(chunk) == "function" then
    local ok, code = pcall(pieces, chunk)
    if not ok then return nil, code end
    chunk, name = code, name or "=(load)"
  end
  return load_text(chunk, name, "t", ...)
end
function loadstring(chunk, name) return load_text(chunk, name, "t") end
function loadfile(name, _, ...) return load_file(name, "t", ...) end
function dofile(name)
  local chunk, wrong = load_file(name, "t")
  if not chunk then error(wrong, 0) end
  return chunk()
end

-- Handlers and finalisers run where hooks are off. ----------------------------------------------

local function handled(handler, ok, ...)
  if ok then return true, ... end
  local _, value = pcall(handler, (...))
  return false, value
end
function xpcall(f, handler, ...) return handled(handler, own_pcall(f, ...)) end
_G.pcall = own_pcall

newproxy = nil
getmetatable(io.stdout).__metatable = "FILE*"

-- Only a C function by its name is sure not to call Lua: a pointer may be to a callback, and
-- anything else has __call.
local typeof, tostring = ffi.typeof, tostring
local function check_finaliser(finaliser, name)
  local is_known = finaliser == nil or type(finaliser) == "cdata"
    and tostring(typeof(finaliser)):find("^ctype<[%w_ *]+%(%)>$") ~= nil
  if not is_known then
    error(name .. ": only a C function such as ffi.C.free can be a finaliser here", 3)
  end
end
local gc, metatype = ffi.gc, ffi.metatype
function ffi.gc(cdata, finaliser)
  check_finaliser(finaliser, "ffi.gc")
  return gc(cdata, finaliser)
end
function ffi.metatype(kind, methods)
  if type(methods) ~= "table" then return metatype(kind, methods) end
  check_finaliser(rawget(methods, "__gc"), "ffi.metatype")
  -- A copy, to which no finaliser can be added.
  local copy = {}
  for event, method in next, methods do copy[event] = method end
  return metatype(kind, copy)
end

-- Nested coroutines are nested C frames: a coroutine is created only while there is stack for
-- everything it may use.

local create, resume, running = coroutine.create, coroutine.resume, coroutine.running
local NO_STACK = "too many nested coroutines"
-- By coroutine: which one resumed it last, and whether that one gets its errors as values.
local resumed_by, catches = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })
function coroutine.resume(co, ...)
  if not has_stack() then return false, NO_STACK end
  if type(co) == "thread" then resumed_by[co], catches[co] = running() or main, true end
  return told(resume(co, ...))
end
-- Without adding a position: nested coroutines would build a message of megabytes.
local function unwrapped(ok, ...)
  if not ok then error((...), 0) end
  return ...
end
function coroutine.wrap(f)
  local co = create(f)
  return function(...)
    if not has_stack() then error(NO_STACK, 2) end
    resumed_by[co], catches[co] = running() or main, false
    return unwrapped(resume(co, ...))
  end
end

-- Whether the script gets an error that is raised here: by pcall or xpcall, or from coroutine.resume.
-- Below so many levels nobody looks for it: the configuration is refused, as without them.
local LEVELS_MAX = 200
local function is_caught()
  local thread, levels = running() or main, LEVELS_MAX
  while thread do
    local level = 0
    local at = getinfo(thread, level, "S")
    while at and levels > 0 do
      if at.source == pcall_chunk then return true end
      level, levels = level + 1, levels - 1
      at = getinfo(thread, level, "S")
    end
    if catches[thread] then return true end
    thread = resumed_by[thread]
  end
  return false
end

-- What could lift the limits. --------------------------------------------------------------------

-- Single functions can be kept from being compiled, which is required of those that call a C
-- function that calls back; the compiler as a whole is not under the script's control.
local function nothing() end
local about = jit
local function of_function(set)
  return function(f, deep)
    if f == true then f = getinfo(2, "f").func end
    if type(f) == "function" then set(f, deep) end
  end
end
local compiling, calls_back = false, false
local function interpret()
  calls_back, compiling = true, false
  about.off()
  about.flush()
end
local cast = ffi.cast
function ffi.cast(kind, value)
  if type(value) == "function" then interpret() end
  return cast(kind, value)
end
jit = { version = about.version, version_num = about.version_num, os = about.os, arch = about.arch,
        on = of_function(about.on), off = of_function(about.off), flush = nothing,
        status = function() return compiling end, opt = { start = nothing } }
debug = { traceback = debug.traceback, getinfo = debug.getinfo }
for _, modules in ipairs({ package.loaded, package.preload }) do
  for name in pairs(modules) do
    if type(name) == "string" and name:sub(1, 4) == "jit." then modules[name] = nil end
  end
end
package.loaded.jit, package.loaded["jit.opt"], package.loaded.debug = jit, jit.opt, debug

os.execute = core.execute

function os.exit(code)
  if code == nil or code == true then code = 0 end
  local wrong = core.exit(code == false and 1 or tonumber(code) or 1)
  error("os.exit: " .. wrong, 2)
end

-- Collects garbage in steps that suit a server: a full collection takes time in proportion to the
-- file's tables.
local collect = collectgarbage
local serving = false
function collectgarbage(what, ...)
  if serving and what ~= "count" then return 0 end
  return collect(what, ...)
end
gcinfo = function() return collect("count") end

-- A function that a shard runs needs a few traces: with LuaJIT's default limit, thousands of
-- functions would evict each other's. A state with callbacks is interpreted: LuaJIT ends the
-- process when compiled code calls a C function that calls back.
return function(compiled)
  serving = true
  if not compiled or calls_back then return end
  about.opt.start("maxtrace=8000", "maxmcode=8192")
  about.on()
  compiling = true
end, is_caught
