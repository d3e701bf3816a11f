-- A decision that no selector can make, in Lua. The function runs in the shard that has the query, without a lock. Each
-- shard has evaluated this file for itself: a variable exists once in each shard, and counts that shard's part.
-- A selector in front of a function costs far less than the function: let it keep away what it can.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "198.51.100.1", pool = "generated"}

local looked = 0 -- one per shard

-- Names with ten or more hexadecimal digits, such as "0a1b2c3d4e5f.example", look generated.
addAction("example", LuaAction(function(dq)
  looked = looked + 1
  local label = dq.qname:toString():match("^([^.]+)")
  if label and #label >= 10 and label:match("^%x+$") then
    dq:setTag("made-by", "program")
  end
  return DNSAction.None, "" -- go on with the next rule
end), {name = "look"})

-- The tag belongs to the query and to its response.
addAction(TagRule("made-by", "program"), PoolAction("generated"), {name = "generated"})
addResponseAction(TagRule("made-by", "program"), SetMaxTTLResponseAction(5), {name = "short"})
