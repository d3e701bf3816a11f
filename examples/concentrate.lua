-- Use as few resolvers as can carry the load, so that their caches stay hot. The first one by order is filled until the
-- latency of its fast (cached) responses shows that it is full; then the next one is opened.
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
  fullFactor = 1.5,     -- full: the latency of fast responses is above this times the floor
  fullMargin = "1ms",   -- plus this
  standbyShare = 0.02,  -- 2 % of the queries keep the next server warm
  shrinkAfter = "60s",
})
