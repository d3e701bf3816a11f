-- Packet caches and pools, as functions that run later see them
local P = ...

local core, wrong, whole, wire_of, name_of = P.core, P.wrong, P.whole, P.wire_of, P.name_of
local address_in, address_of = P.address_in, P.address_of
local error, getmetatable, setmetatable, ipairs, tonumber, tostring, type, concat =
  error, getmetatable, setmetatable, ipairs, tonumber, tostring, type, table.concat

-- The control thread has done what the file does with them.
local MOST = 4294967295
local FIGURES = { "entries", "maxEntries", "hits", "misses", "deferredInserts", "deferredLookups",
                  "lookupCollisions", "insertCollisions", "ttlTooShorts", "cleanupCount" }
local TITLES = { "Entries", "Max Entries", "Hits", "Misses", "Deferred inserts", "Deferred lookups",
                 "Lookup Collisions", "Insert Collisions", "TTL Too Shorts", "Cleanup Count" }

-- Members that only the configuration has.
local function only_configure(methods, what, names)
  for _, name in ipairs(names) do
    methods[name] = function()
      if not P.recording then
        error(name .. " of " .. what .. " works only while the configuration is evaluated, and on the console", 2)
      end
    end
  end
end

-- which: the number of the cache in the file, or the name of the pool that has it.
local CACHE, caches = {}, {}
local caches_made = 0
local function cache(which, most) return setmetatable({ which = which, most = most }, CACHE) end

function P.new_cache(most)
  local number = caches_made
  caches_made = number + 1
  return cache(number, tonumber(most) or 0)
end

-- While the file is evaluated no cache runs, and nothing is looked at.
function caches:expunge(most)
  if P.recording then return 0 end
  return core.cache_expunge(self.which, whole("expunge", most, MOST))
end
function caches:purgeExpired(most)
  if P.recording then return 0 end
  return core.cache_purge(self.which, whole("purgeExpired", most, MOST))
end
function caches:expungeByName(name, qtype, suffix)
  if P.recording then return 0 end
  local wire = wire_of(name, "expungeByName")
  qtype = whole("expungeByName", qtype == nil and 255 or qtype, 65535)
  return core.cache_expunge_by_name(self.which, wire, qtype ~= 255 and qtype or nil, suffix == true)
end
function caches:isFull() return not P.recording and core.cache_is_full(self.which) end
function caches:getStats()
  local figures = not P.recording and core.cache_figures(self.which)
  if figures then return figures end
  figures = {}
  for _, name in ipairs(FIGURES) do figures[name] = name == "maxEntries" and self.most or 0 end
  return figures
end
function caches:toString()
  local figures = self:getStats()
  return figures.entries .. "/" .. figures.maxEntries
end
function caches:printStats()
  local figures, lines = self:getStats(), {}
  lines[1] = TITLES[1] .. ": " .. figures.entries .. "/" .. figures.maxEntries
  for at = 3, #FIGURES do lines[#lines + 1] = TITLES[at] .. ": " .. figures[FIGURES[at]] end
  print(concat(lines, "\n"))
end
function caches:getAddressListByDomain(name)
  if P.recording then return {} end
  local wire, list = wire_of(name, "getAddressListByDomain"), {}
  for at, bytes in ipairs(core.cache_addresses(self.which, wire)) do list[at] = address_of(bytes) end
  return list
end
function caches:getDomainListByAddress(address)
  if P.recording then return {} end
  local bytes, list = address_in(address, "getDomainListByAddress"), {}
  for at, wire in ipairs(core.cache_domains(self.which, bytes)) do list[at] = name_of(wire) end
  return list
end
CACHE.__index, CACHE.__tostring = caches, caches.toString

-- By name; held: the caches that the file gives them.
local POOL, pools, held = {}, {}, {}
function pools:getName() return self.name end
function pools:getCache()
  if P.recording then return held[self.name] end
  return core.cache_known(self.name) and cache(self.name, 0) or nil
end
POOL.__index = pools
function POOL.__tostring(it) return it.name end

function P.pool(name)
  if type(name) ~= "string" then wrong("getPool", name, "the name of a pool") end
  return setmetatable({ name = name }, POOL)
end

local function keys(of)
  local list = {}
  for name in pairs(of) do list[#list + 1] = name end
  return list
end
P.members.cache, P.members.pool = keys(caches), keys(pools)

only_configure(caches, "a packet cache", { "dump" })
only_configure(pools, "a pool", { "unsetCache", "setServerPolicy", "setDisableZeroScope", "setRetry",
  "setPanicThreshold", "setEjection", "setTCPToUDP", "setECS", "getECS" })
function pools:setCache(given)
  if not P.recording then
    error("setCache of a pool works only while the configuration is evaluated, and on the console", 2)
  end
  held[self.name] = getmetatable(given) == CACHE and given or nil
end
local forget = pools.unsetCache
function pools:unsetCache()
  forget(self)
  held[self.name] = nil
end
P.owners[#P.owners + 1], P.owners[#P.owners + 2] = caches, pools
function P.remove_pool(name) if name ~= nil then held[tostring(name)] = nil end end
