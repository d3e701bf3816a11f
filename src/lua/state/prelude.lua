-- What a configuration's functions see of a query, an answer, a name, an address, a server.
--
-- The objects are plain tables over a few functions of Rust (`core`): a field of a table and a call
-- between Lua functions cost the interpreter a tenth of what a call into Rust costs. An object of a
-- query is valid for one call: `live` is the one of the running call, whoever holds another gets an
-- error. Names and addresses are copies and can be kept.
--
-- While the file is evaluated (`recording`), functions of the configuration do nothing but note the
-- functions given to them.
local core, stand_ins, kinds = ...

local band, bor, bnot = bit.band, bit.bor, bit.bnot
local byte, sub, lower, char = string.byte, string.sub, string.lower, string.char
local error, getmetatable, rawequal, setmetatable, type = error, getmetatable, rawequal, setmetatable, type
local ipairs, pairs, tonumber, tostring, pcall = ipairs, pairs, tonumber, tostring, pcall
local floor = math.floor

local recording = true
-- The functions to be run, in the order in which they were given; and those called every second.
local functions, callbacks = {}, {}
-- The object of the running call, and what of it has been read already.
local live, live_name, live_wire, live_qtype

local function shown(v)
  if type(v) == "string" then return '"' .. sub(v, 1, 80) .. '"' end
  if type(v) == "table" or type(v) == "function" or type(v) == "userdata" then return "a " .. type(v) end
  return tostring(v)
end

local function wrong(what, v, expected, level)
  error(what .. ": " .. shown(v) .. " is not allowed; expected " .. expected, (level or 2) + 1)
end

local function stale()
  error("this query is over: an object of a query can be used only during the call that it was given to", 3)
end

-- DNSName --------------------------------------------------------------------------------------

-- 1: wire format; 2: the same with capitals made small; 3: text; one piece of memory in all.
local NAME, names = {}, {}
NAME.__index = names

local function name_of(wire) return setmetatable({ wire, false, false }, NAME) end

local function is_name(v) return getmetatable(v) == NAME end

-- The wire format of a name or of text.
local function wire_of(v, what, level)
  if is_name(v) then return v[1] end
  local wire = type(v) == "string" and core.wire(v)
  if not wire then wrong(what, v, "a domain name of at most 255 bytes with labels of 1 to 63", (level or 2) + 1) end
  return wire
end

-- Length bytes are below 'A': a whole wire name may be folded.
local function folded(name)
  local f = name[2]
  if not f then f = lower(name[1]); name[2] = f end
  return f
end

function names:toString()
  local t = self[3]
  if not t then t = core.text(self[1]); self[3] = t end
  return t
end

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
  local w, suffix = self[1], folded(other)
  local surplus = #w - #suffix
  local at = 0
  while at < surplus do at = at + byte(w, at + 1) + 1 end
  if at ~= surplus then return false end
  return lower(sub(w, at + 1)) == suffix
end

function names:makeRelative(other)
  if not self:isPartOf(other) then return nil end
  return name_of(sub(self[1], 1, #self[1] - #other[1]) .. "\0")
end

function names:chopOff()
  local length = byte(self[1], 1)
  if length == 0 then return false end
  -- A name that is changed is no longer that of the query.
  if rawequal(self, live_name) then live_name = nil end
  self[1], self[2], self[3] = sub(self[1], length + 2), false, false
  return true
end

function NAME.__eq(a, b) return a[1] == b[1] or folded(a) == folded(b) end
function NAME.__lt(a, b) return folded(a) < folded(b) end
function NAME.__le(a, b) return folded(a) <= folded(b) end
function NAME.__tostring(name) return name:toString() end
function NAME.__concat(a, b) return tostring(a) .. tostring(b) end

-- ComboAddress and networks --------------------------------------------------------------------

-- o: 16 bytes, IPv4 mapped; p: port.
local ADDRESS, addresses = {}, {}
ADDRESS.__index = addresses

local function address_of(bytes, port) return setmetatable({ o = bytes, p = port or 0 }, ADDRESS) end

local function is_address(v) return getmetatable(v) == ADDRESS end

local MAPPED = ("\0"):rep(10) .. "\255\255"

function addresses:isIPv4() return sub(self.o, 1, 12) == MAPPED end
function addresses:isIPv6() return sub(self.o, 1, 12) ~= MAPPED end
-- Addresses of both families are held alike: a mapped one is an IPv4 address.
function addresses:isMappedIPv4() return false end
function addresses:mapToIPv4() return address_of(self.o, self.p) end
function addresses:getPort() return self.p end
function addresses:getRaw() return self:isIPv4() and sub(self.o, 13) or self.o end
function addresses:toString() return core.address_text(self.o) end
addresses.tostring = addresses.toString

function addresses:toStringWithPort()
  local text = core.address_text(self.o)
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

-- o: the first address, 16 bytes; b: bits of the prefix, from the mapped address's start.
local NETMASK, netmasks = {}, {}
NETMASK.__index = netmasks

local function netmask_of(text, what, level)
  if getmetatable(text) == NETMASK then return text end
  if is_address(text) then return setmetatable({ o = text.o, b = 128 }, NETMASK) end
  local bytes, bits
  if type(text) == "string" then bytes, bits = core.network(text) end
  if not bytes then wrong(what, text, "ADDRESS or ADDRESS/LENGTH", (level or 2) + 1) end
  return setmetatable({ o = bytes, b = bits }, NETMASK)
end

local function address_in(v, what, level)
  if is_address(v) then return v.o end
  local bytes = type(v) == "string" and core.address(v)
  if not bytes then wrong(what, v, "an address", (level or 2) + 1) end
  return bytes
end

-- Families are apart: ::/0 holds no IPv4 address.
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
function netmasks:toString() return core.address_text(self.o) .. "/" .. self:getBits() end
NETMASK.__tostring = netmasks.toString
function NETMASK.__eq(a, b) return a.o == b.o and a.b == b.b end

-- Sets -----------------------------------------------------------------------------------------
-- Those that the file makes are compiled once for all shards, and shared (`at` is their number);
-- what a function adds to one, or to one of its own making, is the shard's own.

local function strings(v, what, each)
  if type(v) == "table" and getmetatable(v) == nil then
    for _, one in ipairs(v) do each(one) end
  else
    each(v)
  end
end

-- Names of a set that are shown.
local NAMES_SHOWN = 20

-- What both kinds of sets of names can do. own: names of the shard's own; count: how many.
local function name_set(class, methods)
  class.__index = methods

  local function has(self, wire)
    return self.own[wire] == true or self.at ~= nil and core.has_name(self.at, wire)
  end

  function methods:add(v)
    if recording and self.at then return self end
    strings(v, "add", function(one)
      local wire = lower(wire_of(one, "add", 4))
      if not has(self, wire) then self.own[wire] = true; self.count = self.count + 1 end
    end)
    return self
  end

  function methods:remove(v)
    local removed = 0
    strings(v, "remove", function(one)
      local wire = lower(wire_of(one, "remove", 4))
      if self.own[wire] then
        self.own[wire] = nil
        self.count, removed = self.count - 1, removed + 1
      elseif not recording and has(self, wire) then
        error("remove: the names that the file put into a set cannot be taken out of it by a function", 4)
      end
    end)
    return removed
  end
  methods.delete = methods.remove

  function methods:addFile()
    if recording and self.at then return self end
    error("addFile can be called only while the configuration is evaluated", 2)
  end

  -- A function empties its own shard's set; that of rules stays.
  function methods:clear()
    if recording and self.at then return end
    self.own, self.count, self.at = {}, 0, nil
  end

  function methods:size() return self.count + (self.at and core.name_count(self.at) or 0) end
  methods.len = methods.size
  function methods:empty() return self:size() == 0 end

  function methods:memory()
    local bytes = self.at and core.name_bytes(self.at) or 0
    for wire in pairs(self.own) do bytes = bytes + #wire end
    return bytes
  end

  function methods:toString()
    local size = self:size()
    if size > NAMES_SHOWN then return size .. " names" end
    local all = self.at and core.name_list(self.at) or {}
    for wire in pairs(self.own) do all[#all + 1] = wire end
    table.sort(all)
    for at, wire in ipairs(all) do all[at] = core.text(wire) end
    return table.concat(all, ", ")
  end
  class.__tostring = methods.toString
end

local SUFFIXES, suffixes = {}, {}
local NAMESET, namesets = {}, {}
local names_made, networks_made = 0, 0
name_set(SUFFIXES, suffixes)
name_set(NAMESET, namesets)

-- Where the longest name of the set begins in a wire name.
local function suffix_in(set, wire)
  local found = set.at and core.suffix(set.at, wire)
  if set.count > 0 then
    local own, at, f = set.own, 0, lower(wire)
    while true do
      if found and found <= at then return found end
      if own[sub(f, at + 1)] then return at end
      local length = byte(f, at + 1)
      if not length or length == 0 then return found end
      at = at + length + 1
    end
  end
  return found
end

function suffixes:check(name) return suffix_in(self, wire_of(name, "check")) ~= nil end

function suffixes:getBestMatch(name)
  local wire = wire_of(name, "getBestMatch")
  local at = suffix_in(self, wire)
  return at and name_of(sub(wire, at + 1)) or nil
end

function namesets:check(name)
  local wire = wire_of(name, "check")
  return self.own[lower(wire)] == true or self.at ~= nil and core.has_name(self.at, wire)
end

-- As for suffixes: the longest name of it that a name is or is below of.
namesets.getBestMatch = suffixes.getBestMatch

local NETWORKS_SHOWN = 20
local NETWORKS, networks = {}, {}
NETWORKS.__index = networks

-- The last word on a network counts.
local function put_network(group, mask, inside)
  local key = mask.o .. mask.b
  local place = group.places[key] or #group.own + 1
  group.places[key] = place
  group.own[place] = { mask = mask, inside = inside }
end

local function put_written(group, one, what)
  local out = type(one) == "string" and sub(one, 1, 1) == "!"
  put_network(group, netmask_of(out and sub(one, 2) or one, what, 5), not out)
end

function networks:addMask(v)
  if recording and self.at then return self end
  strings(v, "addMask", function(one) put_written(self, one, "addMask") end)
  return self
end

-- A list, or a table with addresses as keys.
function networks:addMasks(v)
  if recording and self.at then return self end
  if type(v) == "table" and getmetatable(v) == nil and #v == 0 then
    for key in pairs(v) do put_written(self, key, "addMasks") end
  else
    strings(v, "addMasks", function(one) put_written(self, one, "addMasks") end)
  end
  return self
end

local function entries_of(group)
  local all = {}
  if group.at then
    core.network_each(group.at, function(bytes, bits, inside)
      all[#all + 1] = { mask = setmetatable({ o = bytes, b = bits }, NETMASK), inside = inside }
    end)
  end
  for _, entry in ipairs(group.own) do all[#all + 1] = entry end
  return all
end

function networks:addNMG(other)
  if getmetatable(other) ~= NETWORKS then wrong("addNMG", other, "a set of newNMG") end
  if recording and self.at then return self end
  for _, entry in ipairs(entries_of(other)) do put_network(self, entry.mask, entry.inside) end
  return self
end

-- The longest network that holds the address decides; of two alike, the shard's own.
function networks:match(address)
  local bytes = address_in(address, "match")
  local bits, inside = -1, false
  for _, entry in ipairs(self.own) do
    local mask = entry.mask
    if mask.b > bits and holds(mask, bytes) then bits, inside = mask.b, entry.inside end
  end
  if not self.at then return inside end
  if bits < 0 then return core.network_has(self.at, bytes) end
  local beyond = core.network_beyond(self.at, bytes, bits)
  if beyond ~= nil then return beyond end
  return inside
end

function networks:size() return #self.own + (self.at and core.network_count(self.at) or 0) end
networks.len = networks.size
function networks:empty() return self:size() == 0 end
-- A function empties its own shard's set; that of rules stays.
function networks:clear()
  if recording and self.at then return end
  self.own, self.places, self.at = {}, {}, nil
end
function networks:toString()
  local size = self:size()
  if size > NETWORKS_SHOWN then return size .. " networks" end
  local all = entries_of(self)
  for at, entry in ipairs(all) do all[at] = (entry.inside and "" or "!") .. entry.mask:toString() end
  return table.concat(all, ", ")
end
NETWORKS.__tostring = networks.toString

-- Limiters -------------------------------------------------------------------------------------
-- The control thread numbers what limiting rules remember in the order of their constructors' calls.

local limiters_made = 0
local function limiter()
  local number = limiters_made
  limiters_made = number + 1
  return number
end

-- A set of addresses, each with its end, in the shard's memory under the number `state`.
local TIMED, timed = {}, {}
TIMED.__index = timed

local function change_timed(set, what, ...)
  -- While the file is evaluated there is nothing to be put in yet.
  if recording then return end
  if not core.timed(set.state, ...) then
    error(what .. ": a timed set can be changed only by functions of rules and actions, not by policies or "
      .. "maintenance", 3)
  end
end

function timed:add(address, seconds)
  local bytes = address_in(address, "add")
  local span = tonumber(seconds)
  if not span or span < 0 then wrong("add", seconds, "a number of seconds, not below 0") end
  change_timed(self, "add", bytes, span)
end
function timed:clear() change_timed(self, "clear") end
-- What is over is never found, and makes room by itself.
function timed:cleanup() end

-- Header ---------------------------------------------------------------------------------------
-- q: the query whose header it is; a copy has the bytes [2] and [3] and the id instead.

local HEADER, headers = {}, {}
HEADER.__index = headers

local function byte(header, at)
  local q = header.q
  if not q then return header[at] end
  if q ~= live then stale() end
  return core.byte(at)
end

for name, place in pairs({ QR = { 2, 0x80 }, AA = { 2, 4 }, TC = { 2, 2 }, RD = { 2, 1 }, RA = { 3, 0x80 },
                           AD = { 3, 0x20 }, CD = { 3, 0x10 } }) do
  local at, mask = place[1], place[2]
  headers["get" .. name] = function(self) return band(byte(self, at), mask) ~= 0 end
  headers["set" .. name] = function(self, on)
    local there = byte(self, at)
    there = on and bor(there, mask) or band(there, bnot(mask))
    if self.q then core.set_byte(at, there) else self[at] = there end
  end
end

function headers:getID() return byte(self, 0) * 256 + byte(self, 1) end
function headers:getOpcode() return band(bit.rshift(byte(self, 2), 3), 15) end
function headers:getRCode() return band(byte(self, 3), 15) end
for name, at in pairs({ getQDCount = 4, getANCount = 6, getNSCount = 8, getARCount = 10 }) do
  headers[name] = function(self) return byte(self, at) * 256 + byte(self, at + 1) end
end

-- Server ---------------------------------------------------------------------------------------

local SERVER, servers = {}, {}
SERVER.__index = servers
-- By slot, of one configuration.
local known, known_generation = {}, -1

function servers:getName() return self.name end
function servers:getNameWithAddr()
  return self.name == self.address and self.address or self.name .. " (" .. self.address .. ")"
end
function servers:getOutstanding() return (core.load(self.slot)) end
function servers:getLatency() local _, latency = core.load(self.slot) return latency end
function servers:isUp() return true end
function servers:canAcceptQueries() return true end
SERVER.__tostring = servers.getName
for _, name in ipairs({ "addPool", "rmPool", "setUp", "setDown", "setAuto", "setActiveAuto", "setLazyAuto",
                        "setQPS", "setHealthCheckParams", "getHealthCheckMode", "getDrops", "setTCPBackup" }) do
  servers[name] = function() error(name .. " is not available to functions that are run per query", 2) end
end

local function server(slot)
  local generation = core.generation()
  if generation ~= known_generation then known, known_generation = {}, generation end
  local it = known[slot]
  if not it then
    local name, address, order, weight = core.server(slot)
    if not name then return nil end
    it = setmetatable({ slot = slot, name = name, address = address, order = order, weight = weight,
                        upStatus = true }, SERVER)
    known[slot] = it
  end
  return it
end

-- dq and dr ------------------------------------------------------------------------------------

local QUERY, RESPONSE = {}, {}
local methods, response_methods, reads, writes = {}, {}, {}, {}

function reads.qname()
  local name = live_name
  if not name then name = setmetatable({ live_wire, false, false }, NAME); live_name = name end
  return name
end
function reads.qtype() return live_qtype end
function reads.remoteaddr() return address_of(core.remote()) end
function reads.localaddr() return address_of(core.localaddr()) end
function reads.dh(q) return setmetatable({ q = q }, HEADER) end
function reads.pool() return core.pool() end
function reads.opcode() return band(bit.rshift(core.byte(2), 3), 15) end
function reads.rcode() return band(core.byte(3), 15) end
function reads.tempFailureTTL() return core.temporary_failure_ttl() end
for name, which in pairs({ qclass = 0, len = 1, ecsPrefixLength = 2 }) do
  reads[name] = function() return core.number(which) end
end
for name, which in pairs({ tcp = 0, skipCache = 1, useECS = 2, ecsOverride = 3 }) do
  reads[name] = function() return core.flag(which) end
end

local function whole(what, v, max)
  local n = tonumber(v)
  if not n or n < 0 or n > max or n ~= floor(n) then
    wrong(what, v, "a whole number from 0 to " .. max, 3)
  end
  return n
end

for name, which in pairs({ skipCache = 1, useECS = 2, ecsOverride = 3 }) do
  writes[name] = function(v)
    if type(v) ~= "boolean" then wrong(name, v, "true or false", 3) end
    core.set_flag(which, v)
  end
end
function writes.pool(v)
  if type(v) ~= "string" then wrong("pool", v, "the name of a pool", 3) end
  if not core.set_pool(v) then wrong("pool", v, "the name of a pool of this configuration", 3) end
end
function writes.rcode(v) core.set_byte(3, bor(band(core.byte(3), 0xf0), whole("rcode", v, 15))) end
function writes.ecsPrefixLength(v) core.set_ecs_prefix_length(whole("ecsPrefixLength", v, 128)) end
function writes.tempFailureTTL(v)
  core.set_temporary_failure_ttl(v ~= nil and whole("tempFailureTTL", v, 4294967295) or nil)
end
function writes.dh(v) methods.setHeader(live, v) end

local function index(methods_of)
  return function(q, key)
    local method = methods_of[key]
    if method then return method end
    if q ~= live then stale() end
    local read = reads[key]
    if read then return read(q) end
    error("there is no member " .. shown(key) .. " here", 2)
  end
end

local function newindex(q, key, v)
  if q ~= live then stale() end
  local write = writes[key]
  if not write then
    error("the member " .. shown(key) .. (reads[key] and " can only be read" or " is not there"), 2)
  end
  write(v)
end

QUERY.__index, QUERY.__newindex = index(methods), newindex
RESPONSE.__index, RESPONSE.__newindex = index(response_methods), newindex

-- Defines a method that needs the query to be that of the running call.
local function method(name, body)
  methods[name] = function(q, ...)
    if q ~= live then stale() end
    return body(...)
  end
end

local function reread() live_name, live_wire, live_qtype = nil, core.qname(), core.number(3) end

-- The two that are used most, without a detour.
function methods.setTag(q, name, value)
  if q ~= live then stale() end
  if not core.set_tag(name, value) then
    error("setTag: no more room; a query may have 64 tags with 4096 bytes in all", 2)
  end
end
function methods.getTag(q, name)
  if q ~= live then stale() end
  return core.tag(name)
end
method("unsetTag", core.unset_tag)
method("getTagArray", core.tags)
method("setTagArray", function(tags)
  if type(tags) ~= "table" then wrong("setTagArray", tags, "a table of names and values", 3) end
  for name, value in pairs(tags) do
    if not core.set_tag(name, value) then error("setTagArray: no more room", 3) end
  end
end)
method("getHeader", function()
  local copy = {}
  for at = 0, 11 do copy[at] = core.byte(at) end
  return setmetatable(copy, HEADER)
end)
method("setHeader", function(header)
  if getmetatable(header) ~= HEADER then wrong("setHeader", header, "a header", 3) end
  for at = 2, 3 do core.set_byte(at, byte(header, at)) end
end)
method("getDO", core.dnssec_ok)
method("getContent", core.content)
method("setContent", function(content)
  if type(content) ~= "string" then wrong("setContent", content, "a string", 3) end
  if not core.set_content(content) then
    error("setContent: " .. #content .. " bytes are no message, or more than there is room for", 3)
  end
  reread()
end)
method("getTrailingData", core.trailing)
method("setTrailingData", function(bytes)
  if type(bytes) ~= "string" then wrong("setTrailingData", bytes, "a string", 3) end
  return core.set_trailing(bytes)
end)
method("getProtocol", core.protocol)
method("getQueryTime", function()
  local s, ns = core.query_time()
  return { tv_sec = s, tv_nsec = ns }
end)
method("getElapsedUs", core.elapsed_us)
method("getIncomingInterface", core.interface)
-- No listener speaks TLS.
method("getServerNameIndication", core.server_name)
method("getRestartCount", function() return core.number(4) end)
method("setRestartable", core.set_restartable)
method("changeName", function(name)
  local done = core.change_name(wire_of(name, "changeName", 4))
  if done then reread() end
  return done
end)
method("setMaxReturnedTTL", function(max) core.set_ttl_max(whole("setMaxReturnedTTL", max, 4294967295)) end)
method("setExtendedDNSError", function(code, text)
  core.set_error(whole("setExtendedDNSError", code, 65535), text == nil and "" or tostring(text))
end)

local OPTION, options = {}, {}
OPTION.__index = options
function options:count() return #self end
function options:getValues()
  local copy = {}
  for at, v in ipairs(self) do copy[at] = v end
  return copy
end

method("getEDNSOptions", function()
  local by_code = {}
  core.options(function(code, data)
    local view = by_code[code]
    if not view then view = setmetatable({}, OPTION); by_code[code] = view end
    view[#view + 1] = data
  end)
  return by_code
end)

local function bad_spoof(v)
  wrong("spoof", v, "an address, a table of addresses, contents of a record, or a table of those", 4)
end

method("spoof", function(v)
  local list = v
  if type(v) ~= "table" or is_address(v) then list = { v } end
  local types, contents = {}, {}
  for at, one in ipairs(list) do
    if is_address(one) then
      types[at], contents[at] = one:isIPv4() and 1 or 28, one:getRaw()
    elseif type(one) == "string" then
      types[at], contents[at] = live_qtype, one
    else
      bad_spoof(one)
    end
  end
  if #contents == 0 then bad_spoof(v) end
  if not core.spoof(types, contents) then error("spoof: no question to answer, or no room for the answer", 3) end
  reread()
end)

for _, name in ipairs({ "getHTTPHeaders", "getHTTPHost", "getHTTPPath", "getHTTPQueryString", "getHTTPScheme",
                        "setHTTPResponse" }) do
  method(name, function() error(name .. " is not available: no listener speaks HTTP", 3) end)
end
local function add_proxy_value(name, kind, value)
  if type(kind) ~= "number" or kind < 0 or kind > 255 or kind % 1 ~= 0 then
    wrong(name, kind, "a type from 0 to 255", 4)
  end
  if type(value) ~= "string" then wrong(name, value, "a string", 4) end
  if not core.add_proxy_value(kind, value) then
    error(name .. ": no more room; a query may have 64 values with 4096 bytes in all", 4)
  end
end
method("getProxyProtocolValues", core.proxy_values)
method("addProxyProtocolValue", function(kind, value)
  add_proxy_value("addProxyProtocolValue", kind, value)
end)
method("setProxyProtocolValues", function(values)
  if type(values) ~= "table" then wrong("setProxyProtocolValues", values, "a table of types and values", 3) end
  local kinds = {}
  for kind in pairs(values) do
    if type(kind) ~= "number" then wrong("setProxyProtocolValues", kind, "a type from 0 to 255", 3) end
    kinds[#kinds + 1] = kind
  end
  table.sort(kinds)
  core.clear_proxy_values()
  for _, kind in ipairs(kinds) do add_proxy_value("setProxyProtocolValues", kind, values[kind]) end
end)
for _, name in ipairs({ "setMetaKey", "sendTrap", "setSpanAttribute", "getTraceID" }) do
  method(name, function() error(name .. " is not available: nothing exports it", 3) end)
end
for _, name in ipairs({ "suspend", "setEDNSOption" }) do
  method(name, function() error(name .. " is not available", 3) end)
end

for name, body in pairs(methods) do response_methods[name] = body end

local function response_method(name, body)
  response_methods[name] = function(q, ...)
    if q ~= live then stale() end
    return body(...)
  end
end

response_method("restart", core.restart)
response_method("getSelectedBackend", function()
  local slot = core.selected()
  return slot and server(slot) or nil
end)
-- There is no cache yet: no answer can be a stale one of it.
response_method("getStaleCacheHit", function() return false end)
response_method("editTTLs", function(change)
  if type(change) ~= "function" then wrong("editTTLs", change, "a function", 3) end
  core.edit_ttls(change)
end)

-- DNSPacketOverlay -----------------------------------------------------------------------------

local OVERLAY, overlays = {}, {}
OVERLAY.__index = overlays
function overlays:getRecordsCountInSection(section) return self.counts[section] or 0 end
function overlays:getRecord(at)
  local record = self.records[at + 1]
  if not record then wrong("getRecord", at, "the number of a record, from 0 to " .. #self.records - 1) end
  return record
end
overlays.getDNSRecord = overlays.getRecord

function newDNSPacketOverlay(packet)
  if type(packet) ~= "string" then wrong("newDNSPacketOverlay", packet, "a string") end
  local qname, qtype, qclass = core.question(packet)
  if not qname then error("newDNSPacketOverlay: the packet has no question that can be read", 2) end
  local copy = {}
  for at = 0, 11 do copy[at] = byte(packet, at + 1) end
  local overlay = { qname = name_of(qname), qtype = qtype, qclass = qclass, dh = setmetatable(copy, HEADER),
                    counts = { [0] = 1, 0, 0, 0 }, records = {} }
  core.records(packet, function(owner, rtype, class, ttl, place, length, offset)
    overlay.counts[place] = overlay.counts[place] + 1
    overlay.records[#overlay.records + 1] = { name = name_of(owner), type = rtype, class = class, ttl = ttl,
                                              place = place, contentLength = length, contentOffset = offset }
  end)
  return setmetatable(overlay, OVERLAY)
end

local function parse_address(packet, record, rtype, length)
  if record.type ~= rtype or record.contentLength ~= length then return nil end
  local bytes = sub(packet, record.contentOffset + 1, record.contentOffset + length)
  return address_of(length == 4 and MAPPED .. bytes or bytes, 0)
end
function parseARecord(packet, record) return parse_address(packet, record, 1, 4) end
function parseAAAARecord(packet, record) return parse_address(packet, record, 28, 16) end
function parseAddressRecord(packet, record)
  return parseARecord(packet, record) or parseAAAARecord(packet, record)
end

-- Functions of the configuration ---------------------------------------------------------------

-- Takes any use while the file is evaluated, and does nothing.
local INERT = {}
local inert = setmetatable({}, INERT)
function INERT.__index() return inert end
function INERT.__newindex() end
function INERT.__call() return inert end
function INERT.__concat() return "" end
function INERT.__tostring() return "" end
for _, event in ipairs({ "__add", "__sub", "__mul", "__div", "__mod", "__pow", "__unm" }) do
  INERT[event] = function() return 0 end
end
function INERT.__lt() return false end
function INERT.__le() return false end

local function configures(name, body)
  _G[name] = function(...)
    if not recording then
      error(name .. " can be called only while the configuration is evaluated, not by functions that are run "
        .. "per query", 2)
    end
    return body(...)
  end
end

-- Scripts that renew keys and certificates themselves need not.
for name, instead in pairs({
  getTLSContext = "keys rotate by ticketsKeysRotationDelay",
  getTLSFrontend = "SIGHUP reads certificates again",
  reloadAllCertificates = "SIGHUP reads certificates again",
}) do
  local said = false
  _G[name] = function()
    if not recording and not said then
      said = true
      core.warnlog(name .. " does nothing here: " .. instead)
    end
    return inert
  end
end
for _, name in ipairs(stand_ins) do
  -- What works at any time is there already.
  if rawget(_G, name) == nil then configures(name, function() return inert end) end
end
for _, name in ipairs({ "leastOutstanding", "firstAvailable", "roundrobin", "wrandom", "whashed", "chashed",
                        "orderedWrandUntag", "p2c", "concentrate" }) do
  _G[name] = inert
end

-- Servers, as far as a file asks for them again.
-- In order, with the removed ones until the next look at a number; those that stand; by what they
-- are called.
local given, standing, called, removed = {}, {}, {}, false
local function call(name, it)
  if type(name) ~= "string" then return end
  local list = called[name]
  if list then list[#list + 1] = it else called[name] = { it } end
end
local function in_order()
  if removed then
    local list = {}
    for _, one in ipairs(given) do
      if standing[one] then list[#list + 1] = one end
    end
    given, removed = list, false
  end
  return given
end
local function find_server(v)
  if type(v) == "string" then
    for _, one in ipairs(called[v] or {}) do
      if standing[one] then return one end
    end
  elseif type(v) == "number" then
    return in_order()[v + 1]
  elseif v ~= nil and standing[v] then
    return v
  end
end
configures("newServer", function(v)
  local it = { order = 1, weight = 1, address = v }
  if type(v) == "table" then
    it.address = v.address
    for _, key in ipairs({ "order", "weight", "name", "id" }) do it[key] = v[key] or it[key] end
  end
  it.name = it.name or it.address
  given[#given + 1] = setmetatable(it, { __index = function() return inert end, __tostring = function() return it.name end })
  standing[it] = true
  call(it.id, it)
  call(it.name, it)
  call(it.address, it)
  return it
end)
configures("rmServer", function(v)
  local it = find_server(v)
  if it then standing[it], removed = nil, true end
end)
configures("getServer", find_server)
configures("getServers", function()
  local list = {}
  for at, one in ipairs(in_order()) do list[at] = one end
  return list
end)

for _, name in ipairs({ "QPSAction", "QPSPoolAction", "MaxQPSRule", "MaxQPSIPRule" }) do
  configures(name, function()
    limiter()
    return inert
  end)
end
function timed:slice() return inert end
for _, name in ipairs({ "TimedIPSetRule", "newTimedIPSetRule" }) do
  configures(name, function() return setmetatable({ state = limiter() }, TIMED) end)
end

local function keep(kind, f)
  if type(f) == "function" then
    core.record(kind, f)
    functions[#functions + 1] = f
  end
  return inert
end
local function keep_code(kind, code)
  local f = type(code) == "string" and loadstring(code, "=(code of a thread)")
  f = f and f()
  if type(f) ~= "function" then
    error("the code of a function per thread does not return a function", 3)
  end
  core.record_code(kind, code)
  functions[#functions + 1] = f
  return inert
end
-- kinds: name, number, which argument has the function, whether it is given as code.
for _, entry in ipairs(kinds) do
  local name, kind, at, code = entry[1], entry[2], entry[3], entry[4]
  configures(name, function(...)
    local f = (select(at, ...))
    if code then return keep_code(kind, f) end
    return keep(kind, f)
  end)
end
configures("addMaintenanceCallback", function(f)
  if type(f) == "function" then callbacks[#callbacks + 1] = f end
end)

-- Files that the configuration includes; the control thread has read them.
configures("includeDirectory", function(path)
  for _, file in ipairs(core.included(path)) do
    local chunk, problem = loadstring(file[2], "@" .. file[1])
    if not chunk then error(problem, 0) end
    chunk()
  end
end)

-- Files that the file reads of its own accord: a configuration with the same text need not be the same.
local reads_files = false
local function reading(from, name, counts)
  local real = rawget(from, name)
  if type(real) ~= "function" then return end
  from[name] = function(...)
    if recording and (not counts or counts(...)) then reads_files = true end
    return real(...)
  end
end
for _, name in ipairs({ "dofile", "loadfile" }) do reading(_G, name) end
for _, name in ipairs({ "open", "lines", "popen" }) do reading(io, name) end
reading(_G, "require", function(name) return package.loaded[name] == nil and package.preload[name] == nil end)

-- What works at any time.
function newDNSName(v) return name_of(wire_of(v, "newDNSName")) end
function newDNSNameFromRaw(v)
  if type(v) ~= "string" or not core.is_wire(v) then wrong("newDNSNameFromRaw", v, "a name in wire format") end
  return name_of(v)
end
-- The control thread counts all sets of names together.
local function new_names(class)
  local at
  if recording then at = names_made; names_made = at + 1 end
  return setmetatable({ at = at, own = {}, count = 0 }, class)
end
function newSuffixMatchNode() return new_names(SUFFIXES) end
function newDNSNameSet() return new_names(NAMESET) end
function newNMG(v)
  local at
  if recording then at = networks_made; networks_made = at + 1 end
  local group = setmetatable({ at = at, own = {}, places = {} }, NETWORKS)
  if v ~= nil then group:addMask(v) end
  return group
end
function newCA(v)
  if is_address(v) then return v end
  local bytes, port
  if type(v) == "string" then bytes, port = core.address(v) end
  if not bytes then wrong("newCA", v, "an address, as \"192.0.2.1\" or \"[2001:db8::1]:53\"") end
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
function getCurrentTime()
  local s, ns = core.wall_clock()
  return { tv_sec = s, tv_nsec = ns }
end
-- A file would say everything once more in each shard.
core.print(function(line) if not recording then core.infolog(line) end end)
for _, name in ipairs({ "errlog", "warnlog", "infolog", "vinfolog" }) do
  local write = core[name]
  _G[name] = function(message) if not recording then write(tostring(message)) end end
end

DNSAction = core.actions
DNSResponseAction = core.actions
DNSSection = { Question = 0, Answer = 1, Authority = 2, Additional = 3 }
EDNSOptionCode = { NSID = 3, DAU = 5, DHU = 6, N3U = 7, ECS = 8, EXPIRE = 9, COOKIE = 10, TCPKEEPALIVE = 11,
                   PADDING = 12, CHAIN = 13, KEYTAG = 14, EXTENDEDERROR = 15 }

-- Calls ----------------------------------------------------------------------------------------

local function decided(said, argument)
  if type(said) ~= "number" then
    error("the function returned " .. shown(said) .. "; expected a DNSAction", 0)
  end
  if argument ~= nil and argument ~= "" then core.argue(argument) end
  return said
end

local calls = {}

-- Number of the function; of the query: name in wire format and type.
function calls.act(at, wire, qtype)
  local q = setmetatable({}, QUERY)
  live, live_name, live_wire, live_qtype = q, nil, wire, qtype
  return decided(functions[at](q))
end

function calls.act_response(at, wire, qtype)
  local q = setmetatable({}, RESPONSE)
  live, live_name, live_wire, live_qtype = q, nil, wire, qtype
  return decided(functions[at](q))
end

function calls.matches(at, wire, qtype)
  local q = setmetatable({}, QUERY)
  live, live_name, live_wire, live_qtype = q, nil, wire, qtype
  return functions[at](q) and true or false
end

function calls.act_ffi(at, token) return decided(functions[at](token)) end

function calls.matches_ffi(at, token) return functions[at](token) and true or false end

-- A place from 1 among the servers, 0 for none.
function calls.choose(at, wire, qtype, count)
  local q = setmetatable({}, QUERY)
  live, live_name, live_wire, live_qtype = q, nil, wire, qtype
  -- A table of its own: a function may sort it.
  local list, all = {}, {}
  for place = 1, count do
    local it = server(core.candidate(place))
    list[place], all[place] = it, it
  end
  local choice = functions[at](list, q)
  if type(choice) == "number" then return choice end
  for place = 1, count do
    if rawequal(all[place], choice) then return place end
  end
  if choice == nil then return 0 end
  error("the policy returned " .. shown(choice) .. "; expected a server, or its number from 1", 0)
end

-- Numbers from 0.
function calls.choose_ffi(at, token)
  local choice = functions[at](token, token)
  return (tonumber(choice) or error("the policy returned " .. shown(choice) .. "; expected a number from 0", 0)) + 1
end

function calls.maintain()
  live, live_name = nil, nil
  local maintenance = rawget(_G, "maintenance")
  if type(maintenance) == "function" then maintenance() end
  for at = 1, #callbacks do callbacks[at]() end
end

-- Whether there is maintenance; whether the file read others.
function calls.ready()
  recording = false
  return type(rawget(_G, "maintenance")) == "function" or #callbacks > 0, reads_files
end

return calls
