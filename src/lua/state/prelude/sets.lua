-- Sets of names, networks and addresses
local P = ...

local core, c, wrong = P.core, P.c, P.wrong
local wire_of, name_of = P.wire_of, P.name_of
local NETMASK, MAPPED, netmask_of, address_in, holds = P.NETMASK, P.MAPPED, P.netmask_of, P.address_in, P.holds
local byte, sub, lower = string.byte, string.sub, string.lower
local error, getmetatable, setmetatable, ipairs, pairs, tonumber, type =
  error, getmetatable, setmetatable, ipairs, pairs, tonumber, type
local suffix, has_name, network_has, running = c.suffix, c.has_name, c.network_has, c.running

-- Those that the file makes are compiled once for all shards, and shared (`at` is their number);
-- what a function adds to one, or to one that it made itself, is the shard's own.

local function strings(v, what, each)
  if type(v) == "table" and getmetatable(v) == nil then
    for _, one in ipairs(v) do each(one) end
  else
    each(v)
  end
end

-- Names of a set that are shown, at most.
local NAMES_SHOWN = 20

-- Methods of both kinds of sets of names. own: names of the shard's own; count: how many.
local function name_set(class, methods)
  class.__index = methods

  local function has(self, wire)
    return self.own[wire] == true or self.at ~= nil and has_name(running, self.at, wire, #wire) ~= 0
  end

  function methods:add(v)
    if P.recording and self.at then return self end
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
      elseif not P.recording and has(self, wire) then
        error("remove: the names that the file added to a set cannot be removed by a function", 4)
      end
    end)
    return removed
  end
  methods.delete = methods.remove

  function methods:addFile()
    if P.recording and self.at then return self end
    error("addFile can be called only while the configuration is evaluated", 2)
  end

  -- A function empties its own shard's set; that of rules stays.
  function methods:clear()
    if P.recording and self.at then return end
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
    for at, wire in ipairs(all) do all[at] = P.text(wire) end
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
  local found = set.at and suffix(running, set.at, wire, #wire)
  if found == -1 then found = nil end
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
  return self.own[lower(wire)] == true or self.at ~= nil and has_name(running, self.at, wire, #wire) ~= 0
end

-- As for suffixes: the longest name of the set that a name is equal to or below.
namesets.getBestMatch = suffixes.getBestMatch

local NETWORKS_SHOWN = 20
local NETWORKS, networks = {}, {}
NETWORKS.__index = networks

-- The last value for a network counts.
local function put_network(group, mask, inside)
  local key = mask.o .. mask.b
  local index = group.places[key] or #group.own + 1
  group.places[key] = index
  group.own[index] = { mask = mask, inside = inside }
end

local function put_written(group, one, what)
  local out = type(one) == "string" and sub(one, 1, 1) == "!"
  put_network(group, netmask_of(out and sub(one, 2) or one, what, 5), not out)
end

function networks:addMask(v)
  if P.recording and self.at then return self end
  strings(v, "addMask", function(one) put_written(self, one, "addMask") end)
  return self
end

-- A list, or a table with addresses as keys.
function networks:addMasks(v)
  if P.recording and self.at then return self end
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
  if P.recording and self.at then return self end
  for _, entry in ipairs(entries_of(other)) do put_network(self, entry.mask, entry.inside) end
  return self
end

-- The longest network that contains the address decides; of two equal ones, the shard's own.
function networks:match(address)
  local bytes = address_in(address, "match")
  local bits, inside = -1, false
  for _, entry in ipairs(self.own) do
    local mask = entry.mask
    if mask.b > bits and holds(mask, bytes) then bits, inside = mask.b, entry.inside end
  end
  if not self.at then return inside end
  if bits < 0 then return network_has(running, self.at, bytes, #bytes) ~= 0 end
  local beyond = core.network_beyond(self.at, bytes, bits)
  if beyond ~= nil then return beyond end
  return inside
end

function networks:size() return #self.own + (self.at and core.network_count(self.at) or 0) end
networks.len = networks.size
function networks:empty() return self:size() == 0 end
-- A function empties its own shard's set; that of rules stays.
function networks:clear()
  if P.recording and self.at then return end
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


-- The control thread numbers the state of limiting rules in the order of their constructors' calls.

local limiters_made = 0
local function limiter()
  local number = limiters_made
  limiters_made = number + 1
  return number
end

-- A set of addresses, each with an expiry, in the shard's memory under the number `state`.
local TIMED, timed = {}, {}
TIMED.__index = timed

local function change_timed(set, what, ...)
  if P.recording then return end
  if not core.timed(set.state, ...) then
    error(what .. ": a timed set can be changed only by functions of rules and actions, not by policies or "
      .. "maintenance", 3)
  end
end

function timed:add(address, seconds)
  -- While the file is evaluated there is nothing to add to yet.
  if P.recording then return end
  local bytes = address_in(address, "add")
  local span = tonumber(seconds)
  if not span or span < 0 then wrong("add", seconds, "a number of seconds, not below 0") end
  change_timed(self, "add", bytes, span)
end
function timed:clear() change_timed(self, "clear") end
-- Expired entries are never found, and are replaced automatically.
function timed:cleanup() end

P.TIMED, P.timed, P.limiter = TIMED, timed, limiter
for _, methods in ipairs({ suffixes, namesets, networks, timed }) do P.owners[#P.owners + 1] = methods end

-- What works at any time, for the check of a file.
P.name_set_methods, P.network_set_methods = {}, networks
for name, method in pairs(suffixes) do P.name_set_methods[name] = name ~= "addFile" and method or nil end

-- The control thread counts all sets of names together.
local function new_names(class)
  local at
  if P.recording then at = names_made; names_made = at + 1 end
  return setmetatable({ at = at, own = {}, count = 0 }, class)
end
function newSuffixMatchNode() return new_names(SUFFIXES) end
function newDNSNameSet() return new_names(NAMESET) end
function newNMG(v)
  local at
  if P.recording then at = networks_made; networks_made = at + 1 end
  local group = setmetatable({ at = at, own = {}, places = {} }, NETWORKS)
  if v ~= nil then group:addMask(v) end
  return group
end
