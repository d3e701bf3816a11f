-- Configuration functions, which only record what is run later; and functions that work at any time
local P = ...

local core, called, raises = P.core, P.called, P.raises
local error, setmetatable, type, ipairs, pairs, select, tostring, rawget, loadstring =
  error, setmetatable, type, ipairs, pairs, select, tostring, rawget, loadstring

-- The functions to be run, in the order in which they were given; and those called every second.
local functions, callbacks = {}, {}
P.functions, P.callbacks = functions, callbacks

-- Accepts any use while the file is evaluated, and does nothing.
local INERT = {}
local inert = setmetatable({}, INERT)
P.inert = inert
local function over()
  if not P.recording then
    error("an object of the configuration can be used only while that is evaluated, and this runs later", 3)
  end
end
-- A method that has raised an error knows its name.
function P.member(name)
  return raises(name) and setmetatable({ name }, INERT) or inert
end
function INERT.__index(_, name) over() return P.member(name) end
function INERT.__newindex(_, name) over() called(name) end
function INERT.__call(it)
  over()
  -- A policy has it as its member.
  local name = rawget(it, 1) or rawget(it, "name")
  if name ~= nil then called(name) end
  return inert
end
function INERT.__concat() return "" end
function INERT.__tostring() return "" end
for _, event in ipairs({ "__add", "__sub", "__mul", "__div", "__mod", "__pow", "__unm" }) do
  INERT[event] = function() return 0 end
end
function INERT.__lt() return false end
function INERT.__le() return false end

-- Functions that only configure, by name.
P.configuring = {}
local function configures(name, body)
  local function configuring(...)
    if not P.recording then
      error(name .. " works only while the configuration is evaluated, and a function of a rule or policy "
        .. "runs later", 2)
    end
    called(name)
    return body(...)
  end
  _G[name], P.configuring[name], P.counting[configuring] = configuring, configuring, true
end

-- Functions that are missing: the control thread has refused the file that calls one.
local absent = {}
for name, meanwhile in pairs(P.missing) do
  -- Those of them that work here are defined before.
  if rawget(_G, name) == nil then
    local function missing()
      if not P.recording then error(name .. " is not implemented yet; " .. meanwhile, 2) end
      called(name)
      return inert
    end
    _G[name], absent[name], P.counting[missing] = missing, missing, true
  end
end
-- From when functions run, so that they can ask whether one is there.
function P.forget_missing()
  for name, missing in pairs(absent) do
    if rawget(_G, name) == missing then _G[name] = nil end
  end
end

-- Accepts any use at any time, and does nothing.
local IDLE = {}
local idle = setmetatable({}, IDLE)
function IDLE.__index() return idle end
function IDLE.__call() return idle end

-- Scripts that renew keys and certificates themselves need not.
for name, instead in pairs({
  getTLSContext = "keys rotate by ticketsKeysRotationDelay",
  getTLSFrontend = "SIGHUP reads certificates again",
  reloadAllCertificates = "SIGHUP reads certificates again",
}) do
  local logged = false
  _G[name] = function()
    if not P.recording and not logged then
      logged = true
      core.warnlog(name .. " does nothing here: " .. instead)
    end
    return idle
  end
end
-- As in the control thread: what they return decides how a file goes on.
function inClientStartup() end
inConfigCheck = inClientStartup
for _, name in ipairs(P.stand_ins) do
  -- Functions that work at any time are defined before.
  if rawget(_G, name) == nil then configures(name, function() return inert end) end
end
P.define_policies(INERT)

configures("newPacketCache", P.new_cache)
configures("rmPool", P.remove_pool)
-- As there is no pool that a function could make.
getPool = P.pool
configures("newServer", P.new_server)
configures("rmServer", P.remove_server)
-- Those that only read work at any time.
getServer, getServers = P.find_server, P.all_servers
function getPoolServers(name)
  if P.recording then return inert end
  return P.pool_servers(name)
end

for _, name in ipairs({ "QPSAction", "QPSPoolAction", "MaxQPSRule", "MaxQPSIPRule" }) do
  configures(name, function()
    P.limiter()
    return inert
  end)
end
-- A rate for functions, which all shards share: they make the limiters in the same order.
local LIMITER, limiter, rates = {}, {}, 0
LIMITER.__index = limiter
function limiter:check() return core.within(self.number) end
configures("newQPSLimiter", function(qps, burst)
  local number = rates
  rates = rates + 1
  if not core.limiter(number, qps, burst or qps) then error("newQPSLimiter: too many limiters", 2) end
  return setmetatable({ number = number }, LIMITER)
end)
local timed = P.timed
function timed:slice() return inert end
for _, name in ipairs({ "TimedIPSetRule", "newTimedIPSetRule" }) do
  configures(name, function() return setmetatable({ state = P.limiter() }, P.TIMED) end)
end

-- How each is called, and with what.
local function keep(kind, f, how)
  if type(f) == "function" then
    core.record(kind, f)
    functions[#functions + 1] = { f, how }
  end
  return inert
end
local function keep_code(kind, code, how)
  local f = type(code) == "string" and loadstring(code, "=(code of a thread)")
  f = f and f()
  if type(f) ~= "function" then
    error("the code of a function per thread does not return a function", 3)
  end
  core.record_code(kind, code)
  functions[#functions + 1] = { f, how }
  return inert
end
-- kinds: name, number, index of the function's argument, whether it is given as code, how it is
-- called.
for _, entry in ipairs(P.kinds) do
  local name, kind, at, code, how = entry[1], entry[2], entry[3], entry[4], entry[5]
  configures(name, function(...)
    local f = (select(at, ...))
    if code then return keep_code(kind, f, how) end
    return keep(kind, f, how)
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

-- Files that the file itself reads: a configuration with the same text need not be the same.
P.reads_files = false
local function reading(from, name, counts)
  local real = rawget(from, name)
  if type(real) ~= "function" then return end
  from[name] = function(...)
    if P.recording and (not counts or counts(...)) then P.reads_files = true end
    return real(...)
  end
end
for _, name in ipairs({ "dofile", "loadfile" }) do reading(_G, name) end
for _, name in ipairs({ "open", "lines", "popen" }) do reading(io, name) end
reading(_G, "require", function(name) return package.loaded[name] == nil and package.preload[name] == nil end)

-- Functions that work at any time. --------------------------------------------------------------

for _, name in ipairs({ "getListOfNetworkInterfaces", "getListOfAddressesOfNetworkInterface",
                        "getListOfRangesOfNetworkInterface", "getResolvers" }) do
  local asks = core[name]
  _G[name] = function(about)
    local list, why = asks(about)
    if not list then error(name .. ": " .. why, 2) end
    return list
  end
end

-- Parts that dnslob does not have.
for _, name in ipairs({ "getDOHFrontendCount", "getDOH3FrontendCount", "getDOQFrontendCount",
                        "getDNSCryptBindCount" }) do
  _G[name] = function() return 0 end
end
for _, name in ipairs({ "getDynamicBlocks", "getDynamicBlocksSMT" }) do
  _G[name] = function() return {} end
end

function getCurrentTime()
  local s, ns = core.wall_clock()
  return { tv_sec = s, tv_nsec = ns }
end
-- A file would print everything again in each shard.
core.print(function(line) if not P.recording then core.infolog(line) end end)
for _, name in ipairs({ "errlog", "warnlog", "infolog", "vinfolog" }) do
  local write = core[name]
  _G[name] = function(message) if not P.recording then write(tostring(message)) end end
end

DNSAction = core.actions
DNSResponseAction = core.actions
DNSSection = { Question = 0, Answer = 1, Authority = 2, Additional = 3 }
EDNSOptionCode = { NSID = 3, DAU = 5, DHU = 6, N3U = 7, ECS = 8, EXPIRE = 9, COOKIE = 10, TCPKEEPALIVE = 11,
                   PADDING = 12, CHAIN = 13, KEYTAG = 14, EXTENDEDERROR = 15 }
