-- The top names are always resolved: those of a list when the cache begins, popular ones again before they expire, and
-- what has expired is given, for a day at most, while no server can answer better (RFC 8767).
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1", checkInterval = 1, maxCheckFailures = 2}
newServer{address = "192.0.2.2", checkInterval = 1, maxCheckFailures = 2}

-- The list is in the directory of this file: a name in each line, and types if A and AAAA are not what is wanted.
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

getPool(""):setCache(newPacketCache(100000, {
  warmUp = here .. "popular-names.txt",
  -- An answer that two clients want in the last tenth of its time is asked for again.
  prefetch = 10,
  prefetchHits = 2,
  staleTTL = 30,
}))
setStaleCacheEntriesTTL(86400)
