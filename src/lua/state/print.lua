-- What scripts print goes to the log, line by line: standard output may be a pipe that nobody
-- reads, and service must not wait for that. `log` takes a line.
local log = ...

local concat, find, select, sub, tostring, type =
  table.concat, string.find, select, string.sub, tostring, type
local error, rawequal = error, rawequal
local real_output, real_type, setmetatable = io.output, io.type, setmetatable

-- Longest part of a line that is kept until its end arrives, bytes.
local LINE_MAX = 65536

function print(...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  local text = concat(words, "\t")
  local from = 1
  repeat
    local line_end = find(text, "\n", from, true) or #text + 1
    -- A long line is split: the log does not take it as one.
    while line_end - from > LINE_MAX do
      log(sub(text, from, from + LINE_MAX - 1))
      from = from + LINE_MAX
    end
    log(sub(text, from, line_end - 1))
    from = line_end + 1
  until from > #text
end

-- Stands for standard output, or standard error.
local STREAM = {}
STREAM.__index = STREAM
STREAM.__metatable = false
function STREAM.__tostring() return "file (log)" end

function STREAM:write(...)
  local text = self.rest
  for i = 1, select("#", ...) do
    local part = select(i, ...)
    if type(part) ~= "string" and type(part) ~= "number" then
      error("bad argument #" .. i .. " to 'write' (string expected, got " .. type(part) .. ")", 2)
    end
    text = text .. part
  end
  local from, line_end = 1, find(text, "\n", 1, true)
  while line_end do
    log(sub(text, from, line_end - 1))
    from = line_end + 1
    line_end = find(text, "\n", from, true)
  end
  self.rest = sub(text, from)
  if #self.rest > LINE_MAX then self:flush() end
  return true
end

function STREAM:flush()
  local rest = self.rest
  self.rest = ""
  if rest ~= "" then log(rest) end
  return true
end

function STREAM:setvbuf() return true end
function STREAM:close() return self:flush() end
function STREAM:seek() return nil, "Illegal seek", 29 end
function STREAM:read() return nil, "Bad file descriptor", 9 end
function STREAM:lines() error("Bad file descriptor", 2) end

local function stream()
  return setmetatable({ rest = "" }, STREAM)
end

local out, err = stream(), stream()
io.stdout, io.stderr = out, err
-- Where io.write goes: the log, until a script names a file.
local default = out

function io.write(...) return default:write(...) end
function io.flush() return default:flush() end

function io.output(file)
  if file == nil then return default end
  if rawequal(file, out) or rawequal(file, err) then
    default = file
  else
    default = real_output(file)
  end
  return default
end

function io.close(file)
  if file == nil then file = default end
  return file:close()
end

function io.type(value)
  if rawequal(value, out) or rawequal(value, err) then return "file" end
  return real_type(value)
end
