-- Server, as functions that run later see it
local P = ...

local core, c, live = P.core, P.c, P.c.live
local error, getmetatable, setmetatable, ipairs, rawequal, tonumber, tostring, type, table_sort =
  error, getmetatable, setmetatable, ipairs, rawequal, tonumber, tostring, type, table.sort

local SERVER, servers = {}, {}
-- By slot, of one configuration.
local known, known_generation = {}, -1

function servers:getName() return self.name end
function servers:getNameWithAddr()
  return self.name == self.address and self.address or self.name .. " (" .. self.address .. ")"
end
function servers:getOutstanding() return c.outstanding(c.running, self.slot) end
function servers:getLatency() return c.latency(c.running, self.slot) end
function servers:isUp() return c.is_up(c.running, self.slot) ~= 0 end
function servers:canAcceptQueries() return c.is_up(c.running, self.slot) ~= 0 end
function servers:getHealthCheckMode() return core.health_mode(self.slot) end
P.server_methods = servers
local refused = {}
for _, name in ipairs({ "addPool", "rmPool", "setUp", "setDown", "setAuto", "setActiveAuto", "setLazyAuto", "drain",
                        "setQPS", "setOrder", "setWeight", "setHealthCheckParams", "getDrops", "setTCPBackup" }) do
  refused[name] = function() error(name .. " works only while the configuration is evaluated and on the console, not in functions of rules, "
      .. "policies or maintenance: each shard runs these by itself", 2) end
end
function SERVER.__index(it, key)
  local method = servers[key] or refused[key]
  if method then return method end
  if key == "upStatus" then return c.is_up(c.running, it.slot) ~= 0 end
end
SERVER.__tostring = servers.getName

local function server(slot)
  local generation = live.configuration
  if generation ~= known_generation then known, known_generation = {}, generation end
  local it = known[slot]
  if not it then
    local name, address, order, weight = core.server(slot)
    if not name then return nil end
    it = setmetatable({ slot = slot, name = name, address = address, order = order, weight = weight }, SERVER)
    known[slot] = it
  end
  return it
end

-- The servers of the file, as far as it accesses them again. In order, with the removed ones until the
-- next access by number; the current ones; by name; what the file says of each.
local given, standing, called, said, removed = {}, {}, {}, {}, false
-- The slot of each, of one configuration, and all servers of that as showServers() numbers them: those of the file, and
-- those that the console and the API have added.
local slots, slots_generation, running = {}, -1, {}

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

-- As showServers() numbers them: by their order, and of the same order as they were written.
local function by_order(all, order_of)
  local list, place = {}, {}
  for at, one in ipairs(all) do list[at], place[one] = one, at end
  table_sort(list, function(a, b)
    local first, second = order_of(a), order_of(b)
    if first ~= second then return first < second end
    return place[a] < place[b]
  end)
  return list
end

-- What identifies a server without an id is its address, with its number from the second one on.
local function find_slots()
  slots, slots_generation = {}, live.configuration
  local same = {}
  for _, one in ipairs(in_order()) do
    local it = said[one]
    local id = it.id
    if not id then
      local address = core.server_address(tostring(it.address), it.tls)
      if address then
        local nth = (same[address] or 0) + 1
        same[address] = nth
        id = nth == 1 and address or address .. "#" .. nth
      end
    end
    slots[one] = id and core.server_slot(tostring(id))
  end
  local all, filed = {}, {}
  for _, one in ipairs(in_order()) do
    if slots[one] then all[#all + 1], filed[slots[one]] = one, true end
  end
  for _, slot in ipairs(core.all_servers()) do
    if not filed[slot] then all[#all + 1] = server(slot) end
  end
  running = by_order(all, function(one) return server(slots[one] or one.slot).order end)
end

local function numbered()
  if P.recording then return by_order(in_order(), function(one) return tonumber(said[one].order) or 1 end) end
  if slots_generation ~= live.configuration then find_slots() end
  return running
end

-- A server of the file as it runs.
local function current(one)
  if slots_generation ~= live.configuration then find_slots() end
  local slot = slots[one]
  return slot and server(slot) or error("this server is not in the configuration that runs", 3)
end

local FILED = {}
function FILED.__index(one, key)
  if P.recording then
    if key == "setOrder" then
      return function(_, order)
        P.called(key)
        said[one].order = order
      end
    end
    local value = said[one][key]
    if value == nil then return P.member(key) end
    return value
  end
  return current(one)[key]
end
function FILED.__newindex(one, key, value)
  if not P.recording then error("a function that is run later cannot change a server", 2) end
  P.called(key)
  said[one][key] = value
end
function FILED.__tostring(one) return P.recording and tostring(said[one].name) or current(one).name end

local function call(name, it)
  if type(name) ~= "string" then return end
  local list = called[name]
  if list then list[#list + 1] = it else called[name] = { it } end
end

function P.new_server(v)
  local it = { order = 1, weight = 1, address = v, tls = false }
  if type(v) == "table" then
    it.address, it.tls = v.address, v.tls ~= nil and v.tls ~= false and v.tls ~= ""
    for _, key in ipairs({ "order", "weight", "name", "id" }) do it[key] = v[key] or it[key] end
  end
  it.name = it.name or it.address
  local one = setmetatable({}, FILED)
  given[#given + 1], said[one], standing[one] = one, it, true
  call(it.id, one)
  call(it.name, one)
  call(it.address, one)
  return one
end

function P.find_server(v)
  if type(v) == "string" then
    -- While the file is read, nothing is put in order for this.
    local all = P.recording and {} or numbered()
    for _, one in ipairs(called[v] or {}) do
      if standing[one] and (P.recording or slots[one]) then return one end
    end
    if P.recording then return end
    local slot = core.server_slot(v)
    for _, one in ipairs(all) do
      local its = slots[one] or one.slot
      local it = server(its)
      if its == slot or it.name == v or it.address == v then return one end
    end
  elseif type(v) == "number" then
    return numbered()[v + 1]
  elseif v ~= nil and standing[v] then
    return v
  end
end

function P.remove_server(v)
  local it = P.find_server(v)
  if it then standing[it], removed = nil, true end
end

function P.all_servers()
  local list = {}
  for at, one in ipairs(numbered()) do list[at] = one end
  return list
end

function P.pool_servers(name)
  if type(name) ~= "string" then P.wrong("getPoolServers", name, "the name of a pool") end
  local list = core.pool_servers(name)
  for at = 1, #list do list[at] = server(list[at]) end
  return list
end

-- The slot of either kind of object; nil of anything else.
function P.slot_of(v)
  local meta = getmetatable(v)
  if rawequal(meta, SERVER) then return v.slot end
  if rawequal(meta, FILED) then return current(v).slot end
end

P.server = server
