-- A block list: the names of a file are answered with NXDOMAIN and a reason (EDE 15, "Blocked", RFC 8914).
-- A name takes its own bytes and 18 more. A look-up depends on the number of labels of the name, not on the list.
addLocal("127.0.0.1:5300")

newServer{address = "192.0.2.1"}
newServer{address = "192.0.2.2"}

-- The list is in the directory of this file. A wrong line is reported with its number, and nothing is loaded.
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local blocked = newSuffixMatchNode()
blocked:addFile(here .. "block-list.txt")
infolog(string.format("%d names blocked, in %d bytes", blocked:len(), blocked:memory()))

-- Exceptions: these names are forwarded, although the list has names above them.
local allowed = newSuffixMatchNode()
allowed:add({"needed.tracker.example"})

local isBlocked = AndRule{QNameSuffixRule(blocked), NotRule(QNameSuffixRule(allowed))}
addAction(isBlocked, SetExtendedDNSErrorAction(15, "on our block list"), {name = "reason"})
addAction(isBlocked, RCodeAction(DNSRCode.NXDOMAIN, {ra = true}), {name = "blocked"})
