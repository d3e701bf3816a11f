-- Every kind of health check.
addLocal("127.0.0.1:5300")

-- A chosen query, twice per second; down after 3 failures, up after 2 successes.
newServer{
  address = "192.0.2.1",
  checkName = "example.net", checkType = "AAAA", mustResolve = true,
  checkInterval = 0.5, checkTimeout = 300, maxCheckFailures = 3, rise = 2,
}

newServer{address = "192.0.2.2", checkTCP = true}     -- the query over TCP
newServer{address = "192.0.2.3", check = "connect"}   -- a TCP connection is enough
newServer{address = "192.0.2.4", checkScript = {"/usr/bin/env", "check-dns", "--quick"}}
newServer{address = "192.0.2.5", healthCheckMode = "up"}

-- No checks while live responses are good.
newServer{
  address = "192.0.2.6", healthCheckMode = "lazy",
  lazyHealthCheckThreshold = 30, lazyHealthCheckSampleSize = 100, lazyHealthCheckMinSampleCount = 10,
  lazyHealthCheckFailedInterval = 5, lazyHealthCheckUseExponentialBackOff = true, lazyHealthCheckMaxBackOff = 120,
}

-- A new name each time, so that the response does not come from a cache.
local count = 0
newServer{
  address = "192.0.2.7",
  checkFunction = function(qname, qtype, qclass, dh)
    count = count + 1
    dh:setCD(true)
    return newDNSName("check-" .. count .. ".example.net."), DNSQType.A, DNSClass.IN
  end,
}

-- What counts as a good response, for every server without a checkResponseFunction.
setHealthCheckResponseValidator(function(name, response, content)
  return response.rcode == DNSRCode.NOERROR and response.ra
end)
setVerboseHealthChecks(true)
