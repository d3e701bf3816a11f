-- How functions are called
local P = ...

local c, live, shown, server = P.c, P.c.live, P.shown, P.server
local error, loadstring, rawequal, rawget, setmetatable, tonumber, tostring, type =
  error, loadstring, rawequal, rawget, setmetatable, tonumber, tostring, type

local E = {}

function E.undecided(decision)
  error("the function returned " .. shown(decision) .. "; expected a DNSAction", 0)
end

-- The argument of a decision is text.
function E.text(argument)
  if argument == nil then return nil end
  if type(argument) == "number" then return tostring(argument) end
  error("the function returned " .. shown(argument) .. " as an argument; expected a string", 0)
end

E.none = P.core.actions.None
function E.counted(name)
  if name == nil then error("the function returned true without a name; expected true and a text", 0) end
  return tostring(name)
end

-- A policy's servers: a new table for each call, because a function may sort it.
function E.servers()
  local list, all = {}, {}
  for number = 1, live.candidates do
    local it = server(c.candidate(c.running, number))
    list[number], all[number] = it, it
  end
  return list, all
end

-- An index from 1 among the servers, 0 for none; of a server that is not among them, its slot, from -1
-- downwards.
function E.chosen(choice, all)
  if type(choice) == "number" then return choice < 0 and 0 or choice end
  for number = 1, #all do
    if rawequal(all[number], choice) then return number end
  end
  if choice == nil then return 0 end
  -- One that it was not given, as of another pool.
  local slot = P.slot_of(choice)
  if slot then return -1 - slot end
  error("the policy returned " .. shown(choice) .. "; expected a server, or its number from 1", 0)
end

function E.unchosen(choice)
  error("the policy returned " .. shown(choice) .. "; expected a number from 0", 0)
end

-- Each function has a wrapper with code of its own, and so is compiled by itself: with a common one
-- all of them would be side traces of the first.
local DECIDED = [[
  if type(decision) ~= "number" then E.undecided(decision) end
  if argument ~= nil and type(argument) ~= "string" then argument = E.text(argument) end
  return decision, argument
]]
local BODIES = {
  act = "local decision, argument = f(setmetatable({ live.generation }, QUERY))" .. DECIDED,
  act_response = "local decision, argument = f(setmetatable({ live.generation }, RESPONSE))" .. DECIDED,
  -- Whether a query is counted, and under which name: the text of no decision.
  count = [[
    local counts, name = f(setmetatable({ live.generation }, QUERY))
    if counts then return E.none, E.counted(name) end
    return E.none]],
  act_ffi = "local decision, argument = f(live.token)" .. DECIDED,
  matches = "return f(setmetatable({ live.generation }, QUERY)) and true or false",
  matches_ffi = "return f(live.token) and true or false",
  choose = [[
    local list, all = E.servers()
    return E.chosen(f(list, setmetatable({ live.generation }, QUERY)), all)]],
  -- Numbered from 0.
  choose_ffi = [[
    local token = live.token
    local choice = f(token, token)
    local number = tonumber(choice) or E.unchosen(choice)
    return number < 0 and 0 or number + 1]],
}

local function wrapper(f, how)
  local code = "local f, live, QUERY, RESPONSE, E, setmetatable, type, tonumber = ...\nreturn function()\n"
    .. BODIES[how] .. "\nend"
  return loadstring(code, "=call")(f, live, P.QUERY, P.RESPONSE, E, setmetatable, type, tonumber)
end

local function maintain()
  local maintenance = rawget(_G, "maintenance")
  if type(maintenance) == "function" then maintenance() end
end

-- How each function is called, in their order; maintenance and the callbacks; whether the file read
-- other files.
function P.ready()
  P.recording = false
  P.forget_missing()
  local calls = {}
  for at, entry in ipairs(P.functions) do calls[at] = wrapper(entry[1], entry[2]) end
  local upkeep = {}
  if type(rawget(_G, "maintenance")) == "function" then upkeep[1] = maintain end
  for at = 1, #P.callbacks do upkeep[#upkeep + 1] = P.callbacks[at] end
  return calls, upkeep, P.reads_files
end
