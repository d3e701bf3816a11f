-- Keeps the globals aside, and what is in their tables; returns what puts that back.
-- Tables beyond so many entries, and what only functions can reach, are left as they are.
local next, type, rawequal, rawget, rawset = next, type, rawequal, rawget, rawset
return function(globals, entries_max)
  local copies, tables, left = {}, { globals }, entries_max
  local known = { [globals] = true }
  local at = 1
  while tables[at] and left >= 0 do
    local copy = {}
    for key, value in next, tables[at] do
      left = left - 1
      if left < 0 then break end
      copy[key] = value
      if type(value) == "table" and not known[value] then
        known[value] = true
        tables[#tables + 1] = value
      end
    end
    if left >= 0 then copies[tables[at]] = copy end
    at = at + 1
  end
  return function()
    for original, copy in next, copies do
      for key in next, original do
        if rawget(copy, key) == nil then rawset(original, key, nil) end
      end
      for key, value in next, copy do
        if not rawequal(rawget(original, key), value) then rawset(original, key, value) end
      end
    end
  end
end
