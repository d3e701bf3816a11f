-- What a configuration's functions see of a query, an answer, a name, an address, a server: these
-- files, in the order of `calls.rs`.
--
-- The objects are plain tables over C functions (`c`, called by pointer through ffi), which
-- compiled code calls directly, and over Rust functions (`core`), which interrupt compiled code and
-- are for rare members. An object of a query is valid for one call: [1] is the call's number,
-- `live.generation` that of the running call, and using an object of another call is an error.
-- Names and addresses are copies and can be kept.
--
-- While the file is evaluated (`P.recording`), configuration functions only record the functions
-- that they get.
--
-- P: what the parts share.
local P = ...

local sub, error, ipairs, pairs, rawget, tonumber, tostring, type =
  string.sub, error, ipairs, pairs, rawget, tonumber, tostring, type
local floor = math.floor
local ffi = require("ffi")
local live, bytes = P.c.live, ffi.string

P.recording = true

-- The errors that the control thread's evaluation of the running file has given to pcall: by function,
-- the text by the number of the call. The same calls raise them here.
local raised, calls = {}, {}
function P.raises(name) return raised[name] ~= nil end
local function called(name)
  local errors = raised[name]
  if not errors then return end
  local number = (calls[name] or 0) + 1
  calls[name] = number
  if errors[number] then error(errors[number], 0) end
end
P.called = called

-- Tables whose functions are ours; and those of them that ask `called` themselves.
P.owners, P.counting = { _G }, {}
local own, counted = {}, {}
-- The prelude is complete.
function P.own()
  for _, owner in ipairs(P.owners) do
    for _, f in pairs(owner) do
      if type(f) == "function" and not P.counting[f] then own[f] = true end
    end
  end
end
-- Begins with the calls of a file. Only functions that have raised errors in it are asked for them.
function P.enter(errors)
  for _, it in ipairs(counted) do
    if rawget(it.owner, it.name) == it.counts then it.owner[it.name] = it.f end
  end
  raised, calls, counted = errors, {}, {}
  for name in pairs(errors) do
    for _, owner in ipairs(P.owners) do
      local f = rawget(owner, name)
      if own[f] then
        local function counts(...)
          called(name)
          return f(...)
        end
        owner[name] = counts
        counted[#counted + 1] = { owner = owner, name = name, f = f, counts = counts }
      end
    end
  end
end

local function shown(v)
  if type(v) == "string" then return '"' .. sub(v, 1, 80) .. '"' end
  if type(v) == "table" or type(v) == "function" or type(v) == "userdata" then return "a " .. type(v) end
  return tostring(v)
end
P.shown = shown

local function wrong(what, v, expected, level)
  error(what .. ": " .. shown(v) .. " is not allowed; expected " .. expected, (level or 2) + 1)
end
P.wrong = wrong

function P.stale()
  error("this query is over: an object of a query can be used only during the call that it was given to", 3)
end

-- The bytes that the last C function returned.
function P.answered(pointer) return bytes(pointer, live.size) end

function P.whole(what, v, max)
  local n = tonumber(v)
  if not n or n < 0 or n > max or n ~= floor(n) then
    wrong(what, v, "a whole number from 0 to " .. max, 3)
  end
  return n
end
