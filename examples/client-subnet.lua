-- Tell a server where the client is (EDNS Client Subnet, RFC 7871), so that it can choose what is near.
addLocal("127.0.0.1:5300")

setECSSourcePrefixV4(24)  -- the defaults: no more of an address than this is told
setECSSourcePrefixV6(56)
setECSOverride(false)     -- a subnet that a query brings is left as it is

newServer{address = "192.0.2.1", useClientSubnet = true}          -- ours: is told
newServer{address = "198.51.100.1", pool = "outside"}             -- somebody else's: is not

-- Names that somebody else's server answers.
addAction("cdn.example", PoolAction("outside"), {name = "outside"})
-- Nothing is told of our own machines ...
addAction("10.0.0.0/8", SetDisableECSAction(), {name = "private"})
-- ... a network behind a tunnel is where its tunnel ends ...
addAction("192.168.7.0/24", SetECSAction("203.0.113.0/24"), {name = "tunnel"})
-- ... and what an open resolver's forwarder claims is replaced by where it is itself.
addAction("192.168.8.0/24", SetECSOverrideAction(true), {name = "claim"})
