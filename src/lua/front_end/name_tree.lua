-- Builds the tree of the names of entries of the ring, and calls a function for each of its nodes: the
-- node, the figures of its own name, and those of it with all names below. A node comes before those
-- below it, which come in the order of their labels.
local ipairs, setmetatable, sort, find, sub, insert =
  ipairs, setmetatable, table.sort, string.find, string.sub, table.insert

local NODE = {}
NODE.__index = NODE
function NODE:numChildren() return #self.labels end

local function figures()
  return { queries = 0, noerrors = 0, nxdomains = 0, servfails = 0, drops = 0, bytes = 0, hits = 0 }
end

local function node(fullname, labelsCount)
  return setmetatable({ fullname = fullname, labelsCount = labelsCount, labels = {}, below = {},
                        own = figures(), all = figures() }, NODE)
end

-- The labels of a name, the last one first. A dot within a label has a backslash in front of it, as has
-- a backslash.
local function labels_of(name)
  local labels, from, at = {}, 1, 1
  while at <= #name do
    local byte = sub(name, at, at)
    if byte == "\\" then
      at = at + 2
    else
      if byte == "." then
        if at > from then insert(labels, 1, sub(name, from, at - 1)) end
        from = at + 1
      end
      at = at + 1
    end
  end
  return labels
end

local function count(to, entry)
  to.queries, to.bytes = to.queries + 1, to.bytes + entry.size
  if entry.rcode == nil then to.drops = to.drops + 1 end
  if entry.rcode == 0 then to.noerrors = to.noerrors + 1 end
  if entry.rcode == 2 then to.servfails = to.servfails + 1 end
  if entry.rcode == 3 then to.nxdomains = to.nxdomains + 1 end
  if find(entry.ended, "(cached)", 1, true) then to.hits = to.hits + 1 end
end

return function(visitor, entries)
  local root = node(".", 0)
  for _, entry in ipairs(entries) do
    local at = root
    count(at.all, entry)
    for _, label in ipairs(labels_of(entry.name)) do
      local below = at.below[label]
      if not below then
        local fullname = at == root and label .. "." or label .. "." .. at.fullname
        below = node(fullname, at.labelsCount + 1)
        at.below[label] = below
        at.labels[#at.labels + 1] = label
      end
      at = below
      count(at.all, entry)
    end
    count(at.own, entry)
  end
  local function visit(at)
    sort(at.labels)
    visitor(at, at.own, at.all)
    for _, label in ipairs(at.labels) do visit(at.below[label]) end
  end
  visit(root)
end
