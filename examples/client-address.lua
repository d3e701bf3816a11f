-- Keep the client's address: take it from the proxy in front of dnslob, and tell it to the servers.
addLocal("127.0.0.1:5300")
setACL({"127.0.0.0/8", "192.0.2.0/24"})

-- These proxies, and nobody else, send a PROXY header: in front of each datagram, and at the beginning of each
-- connection. The ACL above then applies to the client that the header names.
setProxyProtocolACL({"203.0.113.53"})
setProxyProtocolApplyACLToProxiedClients(true)

-- A server that accepts PROXY headers gets the client's address and port.
newServer{address = "192.0.2.1", useProxyProtocol = true}
-- Another one may read the client's subnet (RFC 7871).
newServer{address = "198.51.100.1", pool = "subnet", useClientSubnet = true}
-- With {transparent=true} a server gets its queries from the client's own address, if the network brings its responses
-- back to dnslob: see docs/how-to/client-address.md.

-- A value in the PROXY header; the types 0xE0 to 0xEF are free for one's own use.
addAction("192.0.2.128/25", SetAdditionalProxyProtocolValueAction(0xE0, "guest"), {name = "guests"})
-- Rules see the client, not the proxy.
addAction("192.0.2.64/26", PoolAction("subnet"), {name = "subnets"})
