-- What a configuration's functions see of a query, an answer, a name, an address, a server: these files,
-- in the order of `state.rs`.
--
-- The objects are plain tables over C functions (`c`, called by pointer through ffi), which compiled code
-- calls without a detour, and over functions of Rust (`core`), which end it: they are for what is rare.
-- An object of a query is valid for one call: [1] is the call's number, `live.generation` that of the
-- running call, and whoever holds another object gets an error. Names and addresses are copies and can
-- be kept.
--
-- While the file is evaluated (`P.recording`), functions of the configuration do nothing but note the
-- functions given to them.
--
-- P: what the parts share.
local P = ...

local sub, error, tonumber, tostring, type = string.sub, error, tonumber, tostring, type
local floor = math.floor
local ffi = require("ffi")
local live, bytes = P.c.live, ffi.string

P.recording = true

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

-- What a C function has just answered with.
function P.answered(pointer) return bytes(pointer, live.size) end

function P.whole(what, v, max)
  local n = tonumber(v)
  if not n or n < 0 or n > max or n ~= floor(n) then
    wrong(what, v, "a whole number from 0 to " .. max, 3)
  end
  return n
end
