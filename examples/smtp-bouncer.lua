-- Mail comes in here and goes to whichever mail server takes it: the first one whenever it can.
-- Nothing of what is said is read. Clients see a mail server that is always there; the servers see
-- whom they talk to by a PROXY header (postfix: smtpd_upstream_proxy_protocol=haproxy).
setACL({"0.0.0.0/0", "::/0"})

addTCPForward{
  listen = "127.0.0.1:2525",
  to = {"192.0.2.25:25", "198.51.100.25:25"}, -- in this order, the next one at once when one refuses
  connectTimeout = 2,      -- and after two seconds when one does not accept
  idleTimeout = 300,       -- what RFC 5321 (4.5.3.2.7) has servers wait for
  maxConnectionsPerClient = 20,
  checkExpect = "220 ",    -- a mail server speaks first; one that only accepts is not well
  checkInterval = 2,
  useProxyProtocol = false, -- true, where the servers are set up for it
  log = true,              -- client, servers tried and taken, bytes, why it ended
}
