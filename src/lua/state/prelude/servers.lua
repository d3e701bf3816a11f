-- Server, as policies and answers see it
local P = ...

local core, c, live = P.core, P.c, P.c.live
local error, setmetatable, ipairs = error, setmetatable, ipairs

local SERVER, servers = {}, {}
SERVER.__index = servers
-- By slot, of one configuration.
local known, known_generation = {}, -1

function servers:getName() return self.name end
function servers:getNameWithAddr()
  return self.name == self.address and self.address or self.name .. " (" .. self.address .. ")"
end
function servers:getOutstanding() return c.outstanding(c.running, self.slot) end
function servers:getLatency() return c.latency(c.running, self.slot) end
function servers:isUp() return true end
function servers:canAcceptQueries() return true end
SERVER.__tostring = servers.getName
for _, name in ipairs({ "addPool", "rmPool", "setUp", "setDown", "setAuto", "setActiveAuto", "setLazyAuto",
                        "setQPS", "setHealthCheckParams", "getHealthCheckMode", "getDrops", "setTCPBackup" }) do
  servers[name] = function() error(name .. " is not available to functions that are run per query", 2) end
end

local function server(slot)
  local generation = live.configuration
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

P.server = server
