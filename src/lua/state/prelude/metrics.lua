-- Metrics that a configuration declares: one set for the whole process
local P = ...

local core, type, tostring = P.core, type, tostring
local declare, add, set, get = core.metric_declare, core.metric_add, core.metric_set, core.metric_get
local observe, failed = core.metric_observe, core.metric_failed

-- What is wrong is counted, and logged once each, and there is an end to that.
local told, left = {}, 100
local function answered(name, value, why)
  if value then return value end
  failed()
  local text = "metric " .. tostring(name) .. ": " .. why
  if not told[text] and left > 0 then
    told[text], left = true, left - 1
    core.errlog(text)
  end
  return 0
end

local function step_and_labels(options)
  if type(options) ~= "table" then return options or 1 end
  return options.step or 1, options.labels
end

-- What the file declares, it has declared when it was evaluated first: it may never be in force.
function declareMetric(name, kind, description, options)
  if P.recording then return true end
  local prometheus, labelled, buckets = options, false, nil
  if type(options) == "table" then
    prometheus, labelled, buckets = options.name, options.withLabels, options.buckets
  end
  local is_declared, why = declare(name, kind, description, prometheus, labelled or false, buckets)
  if not is_declared then answered(name, nil, why) end
  return is_declared
end
local function change(name, sign, options)
  local step, labels = step_and_labels(options)
  -- The file has changed it when it was evaluated first, and not in each shard again.
  if P.recording then return get(name, labels) or 0 end
  return answered(name, add(name, sign * step, labels))
end
function incMetric(name, options) return change(name, 1, options) end
function decMetric(name, options) return change(name, -1, options) end
function setMetric(name, value, options)
  local _, labels = step_and_labels(options)
  if P.recording then return get(name, labels) or 0 end
  return answered(name, set(name, value, labels))
end
function observeMetric(name, value, options)
  local _, labels = step_and_labels(options)
  if P.recording then return get(name, labels) or 0 end
  return answered(name, observe(name, value, labels))
end
function getMetric(name, options)
  local _, labels = step_and_labels(options)
  if P.recording then return get(name, labels) or 0 end
  return answered(name, get(name, labels))
end
