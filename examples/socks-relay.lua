-- A relay to several SOCKS servers. A client stays with one server as long as that is up.
setACL({"127.0.0.0/8", "192.0.2.0/24"})

-- CONNECT and BIND. For UDP ASSOCIATE (RFC 1928, section 6) the server answers with the address to which the client
-- sends its datagrams: they go there and not through this relay, unless the servers name the relay's address and the
-- port of the forward below.
addTCPForward{
  listen = "127.0.0.1:1080",
  to = {"198.51.100.1:1080", "198.51.100.2:1080", "198.51.100.3:1080"},
  policy = "sourceHash",   -- by the client's address; the loss of a server moves only its clients
  connectTimeout = 1,
  idleTimeout = 3600,
  checkSend = "\5\1\0",    -- version 5, one method: none
  checkExpect = "\5\0",    -- accepted
  log = true,
}

-- For servers that are set up so, and that take datagrams on port 1080. The same targets in the same order, and the
-- same check (by a connection to that port, since SOCKS servers answer no datagram of a stranger): a client's datagrams
-- go to the server of its connection.
addUDPForward{
  listen = "127.0.0.1:1080",
  to = {"198.51.100.1:1080", "198.51.100.2:1080", "198.51.100.3:1080"},
  policy = "sourceHash",
  check = "connect",       -- by a connection what follows is sent and expected
  checkSend = "\5\1\0",
  checkExpect = "\5\0",
  idleTimeout = 60,
}
