-- Tell a server the client's subnet (EDNS Client Subnet, RFC 7871), so that it can answer with what is near.
addLocal("127.0.0.1:5300")

setECSSourcePrefixV4(24)  -- the defaults: no more bits of an address than this are told
setECSSourcePrefixV6(56)
setECSOverride(false)     -- a subnet that a query brings is left as it is

newServer{address = "192.0.2.1", useClientSubnet = true}          -- our own: it is told
newServer{address = "198.51.100.1", pool = "outside"}             -- somebody else's: it is not

-- Names that somebody else's server answers.
addAction("cdn.example", PoolAction("outside"), {name = "outside"})
-- No subnet is sent for our own machines.
addAction("10.0.0.0/8", SetDisableECSAction(), {name = "private"})
-- A network behind a tunnel has the subnet of the end of its tunnel.
addAction("192.168.7.0/24", SetECSAction("203.0.113.0/24"), {name = "tunnel"})
-- The subnet that these clients send is replaced by their own.
addAction("192.168.8.0/24", SetECSOverrideAction(true), {name = "claim"})
