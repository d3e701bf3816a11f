-- The built-in policies as functions of servers and a query, for policies that are written in Lua
local P = ...

local c, wrong = P.c, P.wrong
local bxor, lshift, rshift, tobit = bit.bxor, bit.lshift, bit.rshift, bit.tobit
local random, log, byte = math.random, math.log, string.byte
local error, pairs, setmetatable, type = error, pairs, setmetatable, type

-- Jenkins' one at a time, in two parts: the text, and the end.
local function absorbed(hash, text)
  for at = 1, #text do
    hash = tobit(hash + byte(text, at))
    hash = tobit(hash + lshift(hash, 10))
    hash = bxor(hash, rshift(hash, 6))
  end
  return hash
end
local function finished(hash)
  hash = tobit(hash + lshift(hash, 3))
  hash = bxor(hash, rshift(hash, 11))
  return tobit(hash + lshift(hash, 15))
end
-- Above 0 and below 1.
local function part(hash) return (finished(hash) % 4294967296 + 0.5) / 4294967296 end
local function name_of(dq) return absorbed(0, dq.qname:toDNSStringLC()) end

local function least_outstanding(servers)
  local best, least
  for at = 1, #servers do
    local it = servers[at]
    local outstanding = it:getOutstanding()
    local is_better = not best or outstanding < least
    if not is_better and outstanding == least then
      is_better = it.order < best.order or it.order == best.order and it:getLatency() < best:getLatency()
    end
    if is_better then best, least = it, outstanding end
  end
  return best
end

-- The server at this part of the sum of the weights.
local function weighted(servers, at_part)
  local sum = 0
  for at = 1, #servers do sum = sum + servers[at].weight end
  local point = at_part * sum
  for at = 1, #servers do
    point = point - servers[at].weight
    if point < 0 then return servers[at] end
  end
  return servers[#servers]
end

local POLICIES, turn = { leastOutstanding = least_outstanding }, 0

function POLICIES.firstAvailable(servers)
  local first
  for at = 1, #servers do
    local it = servers[at]
    if (not first or it.order < first.order) and c.within_qps(c.running, it.slot) ~= 0 then first = it end
  end
  return first or least_outstanding(servers)
end

function POLICIES.roundrobin(servers)
  if #servers == 0 then return nil end
  turn = turn + 1
  return servers[turn % #servers + 1]
end

function POLICIES.wrandom(servers) return weighted(servers, random()) end

function POLICIES.whashed(servers, dq) return weighted(servers, part(name_of(dq))) end

-- By the highest of the servers' random weights (rendezvous): without one of them, only its own
-- names move.
function POLICIES.chashed(servers, dq)
  local name, best, most = name_of(dq), nil, -1
  for at = 1, #servers do
    local it = servers[at]
    local score = -it.weight / log(part(absorbed(name, it.address)))
    if score > most then best, most = it, score end
  end
  return best
end

function POLICIES.orderedWrandUntag(servers)
  local lowest, group
  for at = 1, #servers do
    local it = servers[at]
    if not lowest or it.order < lowest then lowest, group = it.order, {} end
    if it.order == lowest then group[#group + 1] = it end
  end
  return group and weighted(group, random())
end

function POLICIES.p2c(servers)
  local count = #servers
  if count < 2 then return servers[1] end
  local one, other = random(count), random(count - 1)
  if other >= one then other = other + 1 end
  return least_outstanding({ servers[one], servers[other] })
end

function POLICIES.concentrate()
  error("concentrate.policy: it shares the servers of its pool, and cannot be called", 3)
end

-- Those of the servers that are up: lists of other origin than a pool's own may have others.
local function available(servers)
  for at = 1, #servers do
    if not servers[at]:isUp() then
      local up = {}
      for number = 1, #servers do
        if servers[number]:isUp() then up[#up + 1] = servers[number] end
      end
      return up
    end
  end
  return servers
end

-- Defines them; each accepts any use of a policy while the file is evaluated.
function P.define_policies(meta)
  for name, choose in pairs(POLICIES) do
    local function policy(servers, dq)
      if P.recording then error(name .. ".policy can be called only by functions that are run per query", 0) end
      if type(servers) ~= "table" then wrong(name .. ".policy", servers, "a list of servers") end
      return (choose(available(servers), dq))
    end
    _G[name] = setmetatable({ name = name, isLua = false, policy = policy }, meta)
  end
end
