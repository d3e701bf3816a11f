-- As few resolvers as can bear the load, so that their caches stay hot. The first by order fills up until the
-- latency of its fast (cached) answers says that it is full; then the next one opens.
addLocal("0.0.0.0:5300")

for n = 1, 4 do
  newServer{
    address = "192.0.2." .. n,
    name = "resolver-" .. n,
    order = n,
    checkInterval = 0.5,
    maxCheckFailures = 2,
    slowStart = 30,
  }
end

setServerPolicy(concentrate{
  fullFactor = 1.5,     -- full: fast answers take this times the server's own floor ...
  fullMargin = "1ms",   -- ... plus this
  standbyShare = 0.02,  -- the next server is kept warm by 2 % of the queries
  shrinkAfter = "60s",
})
