-- ComboAddress and networks
local P = ...

local core, c, answered, wrong = P.core, P.c, P.answered, P.wrong
local sub, floor = string.sub, math.floor
local error, getmetatable, setmetatable, ipairs, tonumber, type =
  error, getmetatable, setmetatable, ipairs, tonumber, type
local address_text, running = c.address_text, c.running

local function text_of(bytes) return answered(address_text(running, bytes, #bytes)) end

-- [o]: 16 bytes, IPv4 mapped; [p]: port.
local ADDRESS, addresses = {}, {}
ADDRESS.__index = addresses

local function address_of(bytes, port) return setmetatable({ o = bytes, p = port or 0 }, ADDRESS) end

local function is_address(v) return getmetatable(v) == ADDRESS end

local MAPPED = ("\0"):rep(10) .. "\255\255"

function addresses:isIPv4() return sub(self.o, 1, 12) == MAPPED end
function addresses:isIPv6() return sub(self.o, 1, 12) ~= MAPPED end
-- Addresses of both families are stored alike: a mapped one is an IPv4 address.
function addresses:isMappedIPv4() return false end
function addresses:mapToIPv4() return address_of(self.o, self.p) end
function addresses:getPort() return self.p end
function addresses:getRaw() return self:isIPv4() and sub(self.o, 13) or self.o end
function addresses:toString() return text_of(self.o) end
addresses.tostring = addresses.toString

function addresses:toStringWithPort()
  local text = text_of(self.o)
  if self:isIPv6() then text = "[" .. text .. "]" end
  return text .. ":" .. self.p
end
addresses.tostringWithPort = addresses.toStringWithPort

function addresses:truncate(bits)
  bits = tonumber(bits) or wrong("truncate", bits, "a number of bits")
  self.o = core.truncate(self.o, self:isIPv4() and bits + 96 or bits)
end

function ADDRESS.__eq(a, b) return a.o == b.o and a.p == b.p end
function ADDRESS.__lt(a, b) return a.o < b.o or a.o == b.o and a.p < b.p end
function ADDRESS.__tostring(a) return a:toString() end
for _, name in ipairs({ "ipencrypt", "ipdecrypt" }) do
  addresses[name] = function() error(name .. " is not available", 2) end
end

-- [o]: the first address, 16 bytes; [b]: bits of the prefix, counted from the start of the mapped
-- address.
local NETMASK, netmasks = {}, {}
NETMASK.__index = netmasks

local function netmask_of(text, what, level)
  if getmetatable(text) == NETMASK then return text end
  if is_address(text) then return setmetatable({ o = text.o, b = 128 }, NETMASK) end
  local bytes, bits
  if type(text) == "string" then bytes, bits = core.network(text) end
  if not bytes then wrong(what, text, "a network, as \"192.0.2.0/24\"", (level or 2) + 1) end
  return setmetatable({ o = bytes, b = bits }, NETMASK)
end

local function address_in(v, what, level)
  if is_address(v) then return v.o end
  local bytes = type(v) == "string" and core.address(v)
  if not bytes then wrong(what, v, "an address, as \"192.0.2.1\" or newCA(\"192.0.2.1\")", (level or 2) + 1) end
  return bytes
end

-- Families are separate: ::/0 contains no IPv4 address.
local function holds(mask, bytes)
  return core.truncate(bytes, mask.b) == mask.o and (mask.b >= 96 or sub(bytes, 1, 12) ~= MAPPED)
end

function netmasks:match(address) return holds(self, address_in(address, "match")) end
function netmasks:isIPv4() return sub(self.o, 1, 12) == MAPPED and self.b >= 96 end
function netmasks:isIPv6() return not self:isIPv4() end
function netmasks:getBits() return self:isIPv4() and self.b - 96 or self.b end
function netmasks:getNetwork() return address_of(self.o) end
netmasks.getMaskedNetwork = netmasks.getNetwork
function netmasks:empty() return false end
function netmasks:toString() return text_of(self.o) .. "/" .. self:getBits() end
NETMASK.__tostring = netmasks.toString
function NETMASK.__eq(a, b) return a.o == b.o and a.b == b.b end

P.NETMASK, P.MAPPED, P.ADDRESS = NETMASK, MAPPED, ADDRESS
P.address_of, P.is_address, P.netmask_of, P.address_in, P.holds = address_of, is_address, netmask_of, address_in, holds

function newCA(v)
  if is_address(v) then return v end
  local bytes, port
  if type(v) == "string" then bytes, port = core.address(v) end
  if not bytes then wrong("newCA", v, "IP[:PORT], as \"192.0.2.1\", \"192.0.2.1:5353\", \"2001:db8::1\" or \"[2001:db8::1]:5353\"") end
  return address_of(bytes, port)
end
ComboAddress = newCA
function newCAFromRaw(v, port)
  if type(v) ~= "string" or (#v ~= 4 and #v ~= 16) then wrong("newCAFromRaw", v, "4 or 16 bytes") end
  return address_of(#v == 4 and MAPPED .. v or v, port)
end
function newNetmask(v, length)
  if length == nil then return netmask_of(v, "newNetmask") end
  local bytes = address_in(v, "newNetmask")
  local inner, most = sub(bytes, 1, 12) == MAPPED, 128
  if inner then most = 32 end
  local bits = tonumber(length)
  if not bits or bits < 0 or bits > most or bits ~= floor(bits) then
    wrong("newNetmask", length, "a prefix length from 0 to " .. most)
  end
  bits = inner and bits + 96 or bits
  return setmetatable({ o = core.truncate(bytes, bits), b = bits }, NETMASK)
end
