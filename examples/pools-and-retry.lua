-- Two pools, each with a policy of its own; a slow query is sent to a second server.
addLocal("0.0.0.0:5300", {interface = "lo"})
addLocal("127.0.0.1:5301")

newServer{address = "192.0.2.1", order = 1}
newServer{address = "192.0.2.2", order = 1}
newServer{address = "198.51.100.1", order = 2} -- another site: used when both others are down

-- The better of two random servers, among those of the lowest order that is up.
setServerPolicy(ordered(p2c))
setRetry{after = 250, budget = 10}  -- after 250 ms, for at most 10 % of all queries
setPanicThreshold(30)               -- below 30 % up: use all, so that the last ones are not overloaded
setEjection{excess = 20, time = "30s", share = 50}

newServer{address = "192.0.2.9", pool = "abuse", maxOutstanding = 100, udpTimeoutMs = 300}
setPoolServerPolicy(roundrobin, "abuse")
getPool("abuse"):setRetry{after = "1s", budget = 1}

local old = newServer{address = "192.0.2.3", pool = {"", "abuse"}}
old:drain() -- no new queries; the outstanding ones finish
