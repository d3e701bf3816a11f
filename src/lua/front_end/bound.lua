-- Makes a function of the configuration that refuses more arguments than any of them takes.
local ARGUMENTS_MAX = 64
local select, error = select, error
return function(name, body)
  return function(...)
    local count = select("#", ...)
    if count > ARGUMENTS_MAX then
      error(name .. ": called with " .. count .. " arguments; expected at most " .. ARGUMENTS_MAX, 2)
    end
    return body(...)
  end
end
