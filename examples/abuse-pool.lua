-- A quarantine: who floods, and names that make work, go to a small server of their own, where an abuser soils only his
-- own nest. Nobody is refused; everybody else keeps servers that are not busy.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}
-- It holds at most 100 queries a shard, each for 300 ms: what it cannot do is dropped and counted as outstanding-full.
newServer{address = "198.51.100.1", pool = "abuse", maxOutstanding = 100, udpTimeoutMs = 300}

-- All rules of the group are replaced as one: change the list, send SIGHUP, and no query sees half of it.
local abusers = newNMG()
abusers:addMask({"203.0.113.0/24", "2001:db8:bad::/48", "!203.0.113.53/32"}) -- this net but for one of its hosts

setRuleGroup("abuse", {
  -- More than 1,000 a second from one address (IPv4) or /64 (IPv6) are too many even there.
  newRuleAction(MaxQPSIPRule(1000, 32, 64), DropAction(), {name = "flood"}),
  newRuleAction(NetmaskGroupRule(abusers), PoolAction("abuse"), {name = "known"}),
  newRuleAction(QNameSuffixRule({"water-torture.example", "amplifier.example"}), PoolAction("abuse"), {name = "names"}),
  newRuleAction(QNameLabelsCountRule(0, 12), PoolAction("abuse"), {name = "deep"}),
  -- Above 50 a second a client's further queries go there; as soon as it calms down it is served like all others.
  newRuleAction(MaxQPSIPRule(50, 32, 64, 100), PoolAction("abuse"), {name = "busy"}),
})
