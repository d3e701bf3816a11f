-- A packet cache in front of two resolvers: what was asked before is answered without them. A second cache keeps the
-- answers of an internal zone apart, with its own limits.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}
newServer{address = "198.51.100.1", pool = "internal"}

local cache = newPacketCache(100000, {
  maxTTL = 3600,            -- ask again after an hour, whatever the answer says
  maxNegativeTTL = 300,     -- names that do not exist today may exist tomorrow
  temporaryFailureTTL = 5,  -- SERVFAIL and REFUSED: long enough to take the weight of a failing zone
})
getPool(""):setCache(cache)

-- Names that change often are not worth a place.
addAction(QNameSuffixRule("dynamic.example"), SetSkipCacheAction(), {name = "uncached"})

-- Few names, asked often, whose servers answer each client network alike.
getPool("internal"):setCache(newPacketCache(1000))
addAction(QNameSuffixRule("internal.example"), PoolAction("internal"), {name = "internal"})
