-- A quarantine. Clients that flood, and names that cause work, get a small server of their own. Nobody is refused, and
-- all other clients keep servers that are not busy.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}
-- At most 100 queries per shard are outstanding there, each for 300 ms at most; further ones are dropped and counted as
-- outstanding-full.
newServer{address = "198.51.100.1", pool = "abuse", maxOutstanding = 100, udpTimeoutMs = 300}

-- All rules of a group are replaced as one: change the list, send SIGHUP, and no query sees half of it.
local abusers = newNMG()
abusers:addMask({"203.0.113.0/24", "2001:db8:bad::/48", "!203.0.113.53/32"}) -- this network without one of its hosts

setRuleGroup("abuse", {
  -- More than 1,000 queries per second from one address (IPv4) or /64 (IPv6) are dropped.
  newRuleAction(MaxQPSIPRule(1000, 32, 64), DropAction(), {name = "flood"}),
  newRuleAction(NetmaskGroupRule(abusers), PoolAction("abuse"), {name = "known"}),
  newRuleAction(QNameSuffixRule({"water-torture.example", "amplifier.example"}), PoolAction("abuse"), {name = "names"}),
  newRuleAction(QNameLabelsCountRule(0, 12), PoolAction("abuse"), {name = "deep"}),
  -- What a client sends above 50 queries per second goes there; below that it is served like all others.
  newRuleAction(MaxQPSIPRule(50, 32, 64, 100), PoolAction("abuse"), {name = "busy"}),
})
