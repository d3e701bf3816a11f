-- Clients that ask for DNSSEC records (DO) get servers of their own: signed answers are large, and validating costs CPU.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}
newServer{address = "198.51.100.1", pool = "dnssec"}
newServer{address = "198.51.100.2", pool = "dnssec"}

-- While no server of the pool is up, such queries go to the others rather than nowhere.
addAction(AndRule{DNSSECRule(), PoolAvailableRule("dnssec")}, PoolAction("dnssec"), {name = "dnssec"})

-- An answer that these servers fail to give, a broken signature perhaps, is asked for once more, of the plain servers.
addResponseAction(AndRule{DNSSECRule(), RCodeRule(DNSRCode.SERVFAIL)}, RestartResponseAction("", 1), {name = "second"})
