-- What no selector says, in Lua. It runs in the shard that has the query, without a lock: each shard has evaluated this
-- file for itself, so that a global variable is one in each shard, and what it counts is that shard's part.
-- A selector in front of a function costs far less than the function: let it keep away what it can.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "198.51.100.1", pool = "generated"}

local looked = 0 -- one in each shard

-- Names such as "0a1b2c3d4e5f.example", ten or more hexadecimal digits, look as if a program made them.
addAction("example", LuaAction(function(dq)
  looked = looked + 1
  local label = dq.qname:toString():match("^([^.]+)")
  if label and #label >= 10 and label:match("^%x+$") then
    dq:setTag("made-by", "program")
  end
  return DNSAction.None, "" -- the next rule is asked
end), {name = "look"})

-- The tag goes with the query, and with its answer.
addAction(TagRule("made-by", "program"), PoolAction("generated"), {name = "generated"})
addResponseAction(TagRule("made-by", "program"), SetMaxTTLResponseAction(5), {name = "short"})
