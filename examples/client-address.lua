-- Keep the client's address: from the proxy in front of us, and on to the servers behind us.
addLocal("127.0.0.1:5300")
setACL({"127.0.0.0/8", "192.0.2.0/24"})

-- These proxies, and nobody else, begin what they send with a PROXY header: each datagram, and each
-- connection. The ACL above is then asked for the client that the header names.
setProxyProtocolACL({"203.0.113.53"})
setProxyProtocolApplyACLToProxiedClients(true)

-- A server that reads PROXY headers, too, is told who asks ...
newServer{address = "192.0.2.1", useProxyProtocol = true}
-- ... one that does not may read the client's subnet (RFC 7871) ...
newServer{address = "198.51.100.1", pool = "subnet", useClientSubnet = true}
-- ... and with {transparent=true} a server gets all that it gets from the client's own address, where
-- the network brings its answers back to us: see tuning.md.

-- What the server shall know besides: a value of a type of our own (0xE0 to 0xEF are free).
addAction("192.0.2.128/25", SetAdditionalProxyProtocolValueAction(0xE0, "guest"), {name = "guests"})
-- Rules see the client, not the proxy.
addAction("192.0.2.64/26", PoolAction("subnet"), {name = "subnets"})
