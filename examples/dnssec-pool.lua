-- Clients that ask for DNSSEC records (DO) or validate themselves (CD) get servers of their own: signed responses are
-- large, and validation costs CPU.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}
newServer{address = "198.51.100.1", pool = "dnssec"}
newServer{address = "198.51.100.2", pool = "dnssec"}

-- While no server of that pool is up, such queries go to the default pool.
addAction(AndRule{DNSSECRule(), PoolAvailableRule("dnssec")}, PoolAction("dnssec"), {name = "dnssec"})

-- A SERVFAIL, for example for a broken signature, is asked again once in the default pool.
addResponseAction(AndRule{DNSSECRule(), RCodeRule(DNSRCode.SERVFAIL)}, RestartResponseAction("", 1), {name = "second"})
