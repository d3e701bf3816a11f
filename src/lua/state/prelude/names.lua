-- DNSName
local P = ...

local core, c, answered, wrong = P.core, P.c, P.answered, P.wrong
local byte, sub, lower = string.byte, string.sub, string.lower
local getmetatable, setmetatable, tostring, type = getmetatable, setmetatable, tostring, type
local part_of, text, running = c.part_of, c.text, c.running

-- [1]: wire format; [2]: the same in lower case; [3]: text; one allocation in all.
local NAME, names = {}, {}
NAME.__index = names

local function name_of(wire) return setmetatable({ wire, false, false }, NAME) end

local function is_name(v) return getmetatable(v) == NAME end

-- The wire format of a name or of text.
local function wire_of(v, what, level)
  if is_name(v) then return v[1] end
  local wire, expected
  if type(v) == "string" then wire, expected = core.wire(v) end
  if not wire then
    wrong(what, v, expected or "a domain name of at most 255 bytes with labels of 1 to 63", (level or 2) + 1)
  end
  return wire
end

-- Length bytes are below 'A', so a whole wire name can be folded.
local function folded(name)
  local f = name[2]
  if not f then f = lower(name[1]); name[2] = f end
  return f
end

function names:toString()
  local t = self[3]
  if not t then t = P.text(self[1]); self[3] = t end
  return t
end

names.tostring = names.toString

function names:toStringNoDot()
  local t = self:toString()
  return t == "." and "" or sub(t, 1, -2)
end

function names:toStringRootDot() return self:toString() end
function names:toDNSString() return self[1] end
function names:toDNSStringLC() return folded(self) end
function names:wirelength() return #self[1] end

function names:countLabels()
  local w, at, count = self[1], 1, 0
  local length = byte(w, 1)
  while length and length > 0 do
    at, count = at + length + 1, count + 1
    length = byte(w, at)
  end
  return count
end

function names:getRawLabels()
  local w, at, labels = self[1], 1, {}
  local length = byte(w, 1)
  while length and length > 0 do
    labels[#labels + 1] = sub(w, at + 1, at + length)
    at = at + length + 1
    length = byte(w, at)
  end
  return labels
end

function names:isRoot() return #self[1] == 1 end

function names:isPartOf(other)
  if not is_name(other) then wrong("isPartOf", other, "a DNSName") end
  local wire, suffix = self[1], other[1]
  return part_of(wire, #wire, suffix, #suffix) ~= 0
end

function names:makeRelative(other)
  if not self:isPartOf(other) then return nil end
  return name_of(sub(self[1], 1, #self[1] - #other[1]) .. "\0")
end

function names:chopOff()
  local length = byte(self[1], 1)
  if length == 0 then return false end
  self[1], self[2], self[3] = sub(self[1], length + 2), false, false
  return true
end

function NAME.__eq(a, b) return a[1] == b[1] or folded(a) == folded(b) end
function NAME.__lt(a, b) return folded(a) < folded(b) end
function NAME.__le(a, b) return folded(a) <= folded(b) end
function NAME.__tostring(name) return name:toString() end
function NAME.__concat(a, b) return tostring(a) .. tostring(b) end

function P.text(wire) return answered(text(running, wire, #wire)) end
P.NAME, P.name_of, P.is_name, P.wire_of = NAME, name_of, is_name, wire_of

function newDNSName(v) return name_of(wire_of(v, "newDNSName")) end
function newDNSNameFromRaw(v)
  if type(v) ~= "string" or not core.is_wire(v) then wrong("newDNSNameFromRaw", v, "a name in wire format") end
  return name_of(v)
end
