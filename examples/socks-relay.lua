-- A relay to several SOCKS servers. A client stays with one server as long as that is up, over TCP and over UDP.
setACL({"127.0.0.0/8", "192.0.2.0/24"})

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

-- The same targets in the same order: the same server for a client.
addUDPForward{
  listen = "127.0.0.1:1080",
  to = {"198.51.100.1:1080", "198.51.100.2:1080", "198.51.100.3:1080"},
  policy = "sourceHash",
  idleTimeout = 60,
}
