-- Answers of dnslob itself: blocked sites lead to a page that says why.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}

-- This site and all names below it: the addresses of the page, and the reason (EDE 17, "Filtered").
local site = QNameSuffixRule({"gambling.example"})
addAction(site, SetExtendedDNSErrorAction(17, "see https://why.landing.example/"), {name = "reason"})
addAction(site, SpoofAction({"203.0.113.80", "203.0.113.81", "2001:db8::80"}, {ttl = 30}), {name = "address"})
-- SpoofAction answers A, AAAA and ANY. Other types are answered with NODATA, so that nothing of the real site is told.
addAction(site,
  NegativeAndSOAAction(false, "gambling.example.", 30, "ns.landing.example.", "hostmaster.landing.example.",
    1, 3600, 600, 86400, 30),
  {name = "nodata"})

-- By name instead of address, so that the page can move.
addAction("betting.example", SpoofCNAMEAction("why.landing.example.", {ttl = 60}), {name = "cname"})

-- A record of any type, by its content in wire format: here TXT "blocked".
addAction(AndRule{QNameRule("why.landing.example"), QTypeRule("TXT")}, SpoofRawAction("\007blocked"), {name = "text"})
