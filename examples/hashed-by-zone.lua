-- Names of one zone go to one server, so that only one server has to learn the delegation. With the consistent hash the
-- loss of a server moves only its own share; bounded() passes over a server with more than 1.25 times its fair share.
addLocal("0.0.0.0:5300")

for n = 1, 8 do
  newServer{address = "192.0.2." .. n, id = "resolver-" .. n, weight = 200}
end

setWHashedPerturbation(20260101) -- the same number on every dnslob that should choose alike
setServerPolicy(bounded(hashBy(chashed, "zone", {labels = 2}), 1.25))

-- To send the clients of one network to one server:
--   setServerPolicy(hashBy(whashed, "clientPrefix", {v4 = 24, v6 = 56}))
