-- Answers of our own: blocked sites lead to a page that says why.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}

-- This site and all below it: our page's addresses, and the reason (EDE 17, "Filtered").
local site = QNameSuffixRule({"gambling.example"})
addAction(site, SetExtendedDNSErrorAction(17, "see https://why.landing.example/"), {name = "reason"})
addAction(site, SpoofAction({"203.0.113.80", "203.0.113.81", "2001:db8::80"}, {ttl = 30}), {name = "address"})
-- SpoofAction answers A, AAAA and ANY. Any other type does not exist (NODATA), rather than tell of the real site.
addAction(site,
  NegativeAndSOAAction(false, "gambling.example.", 30, "ns.landing.example.", "hostmaster.landing.example.",
    1, 3600, 600, 86400, 30),
  {name = "nodata"})

-- By name rather than by address: whoever runs the page may move it.
addAction("betting.example", SpoofCNAMEAction("why.landing.example.", {ttl = 60}), {name = "cname"})

-- A record of any type, by its bytes: here TXT "blocked".
addAction(AndRule{QNameRule("why.landing.example"), QTypeRule("TXT")}, SpoofRawAction("\007blocked"), {name = "text"})
