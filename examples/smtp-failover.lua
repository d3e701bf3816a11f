-- A relay for mail. A connection goes to the first mail server that accepts it; its content is not read. Clients see a
-- mail server that is always there. The servers can learn the client's address by a PROXY header (postfix:
-- smtpd_upstream_proxy_protocol=haproxy).
addTCPForward{
  listen = "127.0.0.1:2525",
  acl = {"0.0.0.0/0", "::/0"}, -- every client; without it those of the process's ACL
  to = {"192.0.2.25:25", "198.51.100.25:25"}, -- in this order; the next one at once when one refuses
  connectTimeout = 2,      -- and after two seconds when one does not accept
  greetingTimeout = 20,    -- or after this time when one accepts and does not greet; at once when it closes
  idleTimeout = 300,       -- the time-out of servers in RFC 5321, 4.5.3.2.7
  maxConnectionsPerClient = 20,
  checkExpect = "220 ",    -- a mail server speaks first; one that only accepts is down
  checkInterval = 2,
  useProxyProtocol = false, -- true where the servers are configured for it
  log = true,              -- one line per connection
}
