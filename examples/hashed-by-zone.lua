-- Names of one zone go to one server, so that it alone learns the delegation. The consistent hash moves only the
-- share of a server that is lost; bounded() passes over one with more than 1.25 times its fair share.
addLocal("0.0.0.0:5300")

for n = 1, 8 do
  newServer{address = "192.0.2." .. n, id = "resolver-" .. n, weight = 200}
end

setWHashedPerturbation(20260101) -- the same number on every dnslob that shall choose alike
setServerPolicy(bounded(hashBy(chashed, "zone", {labels = 2}), 1.25))

-- Clients of one network on one server:
--   setServerPolicy(hashBy(whashed, "clientPrefix", {v4 = 24, v6 = 56}))
