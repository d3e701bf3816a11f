-- dq, dr and their header
local P = ...

local core, c, live, running = P.core, P.c, P.c.live, P.c.running
local shown, wrong, stale, answered, whole = P.shown, P.wrong, P.stale, P.answered, P.whole
local NAME, wire_of, address_of, is_address, server = P.NAME, P.wire_of, P.address_of, P.is_address, P.server
local bytes, tag, set_tag = require("ffi").string, c.tag, c.set_tag
local band, bor, bnot, rshift = bit.band, bit.bor, bit.bnot, bit.rshift
local error, getmetatable, setmetatable, ipairs, pairs, select, tostring, type =
  error, getmetatable, setmetatable, ipairs, pairs, select, tostring, type

-- Header ---------------------------------------------------------------------------------------
-- call: the number of the header's call; a copy has the bytes [0] to [11] instead.

local HEADER, headers = {}, {}
HEADER.__index = headers

-- A byte of the message, 0 after its end.
local function message_byte(at) return at < live.length and live.message[at] or 0 end

local function byte(header, at)
  local call = header.call
  if not call then return header[at] end
  if call ~= live.generation then stale() end
  return message_byte(at)
end

for name, bits in pairs({ QR = { 2, 0x80 }, AA = { 2, 4 }, TC = { 2, 2 }, RD = { 2, 1 }, RA = { 3, 0x80 },
                           AD = { 3, 0x20 }, CD = { 3, 0x10 } }) do
  local at, mask = bits[1], bits[2]
  headers["get" .. name] = function(self) return band(byte(self, at), mask) ~= 0 end
  headers["set" .. name] = function(self, on)
    local there = byte(self, at)
    there = on and bor(there, mask) or band(there, bnot(mask))
    if self.call then c.set_byte(running, at, there) else self[at] = there end
  end
end

function headers:getID() return byte(self, 0) * 256 + byte(self, 1) end
function headers:getOpcode() return band(rshift(byte(self, 2), 3), 15) end
function headers:getRCode() return band(byte(self, 3), 15) end
for name, at in pairs({ getQDCount = 4, getANCount = 6, getNSCount = 8, getARCount = 10 }) do
  headers[name] = function(self) return byte(self, at) * 256 + byte(self, at + 1) end
end

-- dq and dr ------------------------------------------------------------------------------------

local QUERY, RESPONSE = {}, {}
local methods, response_methods, reads, writes = {}, {}, {}, {}

-- The following members read the running call, which `index` has checked.

function reads.qname()
  local length = live.name_len
  local wire = length > 0 and bytes(live.message + 12, length) or "\0"
  return setmetatable({ wire, false, false }, NAME)
end
function reads.qtype() return live.qtype end
function reads.qclass() return live.qclass end
function reads.len() return live.length end
function reads.size() return live.length end
function reads.remoteaddr() return address_of(bytes(live.remote, 16), live.remote_port) end
function reads.localaddr() return address_of(bytes(live.localaddr, 16), live.local_port) end
function reads.dh() return setmetatable({ call = live.generation }, HEADER) end
function reads.pool() return answered(c.pool(running)) end
function reads.opcode() return band(rshift(message_byte(2), 3), 15) end
function reads.rcode() return band(message_byte(3), 15) end
function reads.ecsPrefixLength() return c.number(running, 0) end
function reads.tempFailureTTL() return core.temporary_failure_ttl() end
function reads.tcp() return c.number(running, 2) ~= 0 end
function reads.skipCache() return c.number(running, 3) ~= 0 end
function reads.useECS() return c.number(running, 4) ~= 0 end
function reads.ecsOverride() return c.number(running, 5) ~= 0 end

for name, which in pairs({ skipCache = 3, useECS = 4, ecsOverride = 5 }) do
  writes[name] = function(v)
    if type(v) ~= "boolean" then wrong(name, v, "true or false", 3) end
    c.set_number(running, which, v and 1 or 0)
  end
end
function writes.pool(v)
  if type(v) ~= "string" then wrong("pool", v, "the name of a pool", 3) end
  if c.set_pool(running, v, #v) == 0 then wrong("pool", v, "the name of a pool of this configuration", 3) end
end
function writes.rcode(v) c.set_byte(running, 3, bor(band(message_byte(3), 0xf0), whole("rcode", v, 15))) end
function writes.ecsPrefixLength(v) c.set_number(running, 0, whole("ecsPrefixLength", v, 128)) end
function writes.tempFailureTTL(v)
  core.set_temporary_failure_ttl(v ~= nil and whole("tempFailureTTL", v, 4294967295) or nil)
end
function writes.dh(v) methods.setHeader({ live.generation }, v) end

-- They are for exports of queries, which do not exist here.
for _, name in ipairs({ "deviceID", "deviceName", "requestorID" }) do
  reads[name] = function() return "" end
  writes[name] = function(v) if type(v) ~= "string" then wrong(name, v, "a string", 3) end end
end

local function index(methods_of)
  return function(q, key)
    local method = methods_of[key]
    if method then return method end
    if q[1] ~= live.generation then stale() end
    local read = reads[key]
    if read then return read() end
    error("there is no member " .. shown(key) .. " here", 2)
  end
end

local function newindex(q, key, v)
  if q[1] ~= live.generation then stale() end
  local write = writes[key]
  if not write then
    error("the member " .. shown(key) .. (reads[key] and " can only be read" or " is not there"), 2)
  end
  write(v)
end

QUERY.__index, QUERY.__newindex = index(methods), newindex
RESPONSE.__index, RESPONSE.__newindex = index(response_methods), newindex

-- As in dnsdist, more arguments than a method takes are an error.
local function surplus(name, most)
  error(name .. ": called with more than " .. most .. " argument" .. (most == 1 and "" or "s"), 3)
end

-- Defines a method of at most so many arguments that requires the query of the running call. One
-- function for each number: one of any number of arguments takes longer.
local function define(to, name, most, body)
  if most == 0 then
    to[name] = function(q, more)
      if q[1] ~= live.generation then stale() end
      if more ~= nil then surplus(name, 0) end
      return body()
    end
  elseif most == 1 then
    to[name] = function(q, a, more)
      if q[1] ~= live.generation then stale() end
      if more ~= nil then surplus(name, 1) end
      return body(a)
    end
  else
    to[name] = function(q, a, b, c, more)
      if q[1] ~= live.generation then stale() end
      if more ~= nil or most == 2 and c ~= nil then surplus(name, most) end
      return body(a, b, c)
    end
  end
end
local function method(name, most, body) return define(methods, name, most, body) end

-- As everywhere in Lua, a number is text, too.
local function text(what, v)
  if type(v) == "string" then return v end
  if type(v) == "number" then return tostring(v) end
  wrong(what, v, "a string", 3)
end

function methods.setTag(q, name, value, more)
  if q[1] ~= live.generation then stale() end
  if more ~= nil then surplus("setTag", 2) end
  name, value = text("setTag", name), text("setTag", value)
  if set_tag(running, name, #name, value, #value) == 0 then
    error("setTag: the tags of a query are limited to 64 with 4096 bytes in all", 2)
  end
end
function methods.getTag(q, name, more)
  if q[1] ~= live.generation then stale() end
  if more ~= nil then surplus("getTag", 1) end
  name = text("getTag", name)
  return answered(tag(running, name, #name))
end
function methods.unsetTag(q, name, more)
  if q[1] ~= live.generation then stale() end
  if more ~= nil then surplus("unsetTag", 1) end
  name = text("unsetTag", name)
  c.unset_tag(running, name, #name)
end
method("getTagArray", 0, core.tags)
method("setTagArray", 1, function(tags)
  if type(tags) ~= "table" then wrong("setTagArray", tags, "a table of names and values", 3) end
  for name, value in pairs(tags) do
    name, value = text("setTagArray", name), text("setTagArray", value)
    if set_tag(running, name, #name, value, #value) == 0 then
      error("setTagArray: the tags of a query are limited to 64 with 4096 bytes in all", 3)
    end
  end
end)
method("getHeader", 0, function()
  local copy = {}
  for at = 0, 11 do copy[at] = message_byte(at) end
  return setmetatable(copy, HEADER)
end)
method("setHeader", 1, function(header)
  if getmetatable(header) ~= HEADER then wrong("setHeader", header, "a header", 3) end
  for at = 2, 3 do c.set_byte(running, at, byte(header, at)) end
end)
method("getDO", 0, function() return c.number(running, 6) ~= 0 end)
method("getContent", 0, core.content)
method("setContent", 1, function(content)
  if type(content) ~= "string" then wrong("setContent", content, "a string", 3) end
  if not core.set_content(content) then
    error("setContent: " .. #content .. " bytes are not a message, or do not fit the packet's buffer", 3)
  end
end)
method("getTrailingData", 0, core.trailing)
method("setTrailingData", 1, function(bytes)
  if type(bytes) ~= "string" then wrong("setTrailingData", bytes, "a string", 3) end
  return core.set_trailing(bytes)
end)
method("getProtocol", 0, core.protocol)
method("getQueryTime", 0, function()
  local s, ns = core.query_time()
  return { tv_sec = s, tv_nsec = ns }
end)
method("getElapsedUs", 0, core.elapsed_us)
method("getIncomingInterface", 0, core.interface)
method("getServerNameIndication", 0, core.server_name)
method("getRestartCount", 0, function() return c.number(running, 1) end)
method("setRestartable", 0, core.set_restartable)
method("changeName", 1, function(name)
  return core.change_name(wire_of(name, "changeName", 4))
end)
method("setMaxReturnedTTL", 1, function(max) core.set_ttl_max(whole("setMaxReturnedTTL", max, 4294967295)) end)
method("setExtendedDNSError", 2, function(code, text)
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

method("getEDNSOptions", 0, function()
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

method("spoof", 3, function(v, type_for_any, ttl)
  local raw_type = live.qtype
  if type_for_any ~= nil then
    type_for_any = whole("spoof", type_for_any, 65535)
    if raw_type == 255 then raw_type = type_for_any end
  end
  if ttl ~= nil then ttl = whole("spoof", ttl, 2147483647) end
  local list = v
  if type(v) ~= "table" or is_address(v) then list = { v } end
  local types, contents = {}, {}
  for at, one in ipairs(list) do
    if is_address(one) then
      types[at], contents[at] = one:isIPv4() and 1 or 28, one:getRaw()
    elseif type(one) == "string" then
      types[at], contents[at] = raw_type, one
    else
      bad_spoof(one)
    end
  end
  if #contents == 0 then bad_spoof(v) end
  if not core.spoof(types, contents, ttl) then error("spoof: no question to answer, or the answer does not fit", 3) end
end)

-- No listener speaks HTTP.
for _, name in ipairs({ "getHTTPHost", "getHTTPPath", "getHTTPQueryString", "getHTTPScheme" }) do
  method(name, 0, function() return "" end)
end
method("getHTTPHeaders", 0, function() return {} end)
method("setHTTPResponse", 3, function()
  error("setHTTPResponse is not available: no listener speaks HTTP; refuse the query with DNSAction.Refused, or answer "
    .. "it with dq:spoof()", 3)
end)
-- No agent of SNMP takes it.
method("sendTrap", 1, function() end)
method("setEDNSOption", 2, function(code, data)
  code, data = whole("setEDNSOption", code, 65535), text("setEDNSOption", data)
  if not core.set_option(code, data) then
    error("setEDNSOption: an option of " .. #data .. " bytes does not fit this message", 3)
  end
end)
local function add_proxy_value(name, kind, value)
  if type(kind) ~= "number" or kind < 0 or kind > 255 or kind % 1 ~= 0 then
    wrong(name, kind, "a type from 0 to 255", 4)
  end
  if type(value) ~= "string" then wrong(name, value, "a string", 4) end
  if not core.add_proxy_value(kind, value) then
    error(name .. ": the values of a query are limited to 64 with 4096 bytes in all", 4)
  end
end
method("getProxyProtocolValues", 0, core.proxy_values)
method("addProxyProtocolValue", 2, function(kind, value)
  add_proxy_value("addProxyProtocolValue", kind, value)
end)
method("setProxyProtocolValues", 1, function(values)
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
for _, name in ipairs({ "setMetaKey", "setSpanAttribute", "getTraceID" }) do
  method(name, 3, function() error(name .. " is not available: nothing exports it", 3) end)
end
method("suspend", 3, function() error("suspend is not available", 3) end)
function methods.setNegativeAndAdditionalSOA(q, nxdomain, zone, ttl, mname, rname, ...)
  if q[1] ~= live.generation then stale() end
  local what = "setNegativeAndAdditionalSOA"
  if select("#", ...) > 5 then surplus(what, 10) end
  local numbers = { ... }
  for at = 1, 5 do numbers[at] = whole(what, numbers[at], 4294967295) end
  local parts = { wire_of(zone, what), wire_of(mname, what), wire_of(rname, what) }
  if not core.negative(nxdomain and true or false, whole(what, ttl, 2147483647), parts, numbers) then
    error(what .. ": no question to answer, or the answer does not fit", 2)
  end
end

for name, body in pairs(methods) do response_methods[name] = body end

local function response_method(name, most, body) return define(response_methods, name, most, body) end

response_method("restart", 0, core.restart)
response_method("getSelectedBackend", 0, function()
  local slot = core.selected()
  return slot and server(slot) or nil
end)
response_method("getStaleCacheHit", 0, core.is_stale)
response_method("editTTLs", 1, function(change)
  if type(change) ~= "function" then wrong("editTTLs", change, "a function", 3) end
  core.edit_ttls(change)
end)

P.QUERY, P.RESPONSE, P.HEADER = QUERY, RESPONSE, HEADER

-- The members that exist, by the kind of object: for the check of a file.
local function keys(...)
  local list = {}
  for _, of in ipairs({ ... }) do
    for name in pairs(of) do list[#list + 1] = name end
  end
  return list
end
P.members = {
  query = keys(methods, reads), response = keys(response_methods, reads), header = keys(headers),
  name = keys(NAME.__index), address = keys(P.ADDRESS.__index), written = keys(writes),
  server = keys(P.server_methods, { upStatus = true, name = true, address = true, order = true, weight = true }), names = keys(P.name_set_methods),
  networks = keys(P.network_set_methods),
}
