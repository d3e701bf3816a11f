-- Answers outlive their servers: what has expired is given, for a day at most, while no server can answer better
-- (RFC 8767). It has a TTL of 30 s, so that clients ask again soon.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1", checkInterval = 1, maxCheckFailures = 2}
newServer{address = "192.0.2.2", checkInterval = 1, maxCheckFailures = 2}

getPool(""):setCache(newPacketCache(100000, {staleTTL = 30}))
setStaleCacheEntriesTTL(86400)
