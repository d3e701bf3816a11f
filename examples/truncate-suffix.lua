-- Answer TC=1 to queries that are used to amplify attacks: a client whose address is real asks again over TCP, a forged
-- one does not.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}

-- This name and all names below it. TCAction leaves queries over TCP alone.
addAction("large.example", TCAction(), {name = "large"})
-- ANY of any name.
addAction(AndRule{QTypeRule("ANY"), TCPRule(false)}, TCAction(), {name = "any"})
-- TXT, unless a client of our own networks asks.
addAction(
  AndRule{QTypeRule(DNSQType.TXT), NotRule(NetmaskGroupRule({"10.0.0.0/8", "fd00::/8"}))},
  TCAction(), {name = "text"})
