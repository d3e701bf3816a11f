-- pcall, in a chunk of its own: functions of the configuration look for it on the stack.
--
-- text: returns the text of an error that a function of ours has raised; other values as they are.
local text = ...

local pcall, type = pcall, type

-- Errors of functions of ours are objects, which scripts cannot add to a text.
local function told(ok, ...)
  if ok or type((...)) ~= "userdata" then return ok, ... end
  return false, text((...))
end

return function(...) return told(pcall(...)) end, told
