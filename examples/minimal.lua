-- The smallest configuration: listen on 127.0.0.1:53, and use two servers by the policy leastOutstanding.
newServer("192.0.2.1")
newServer("192.0.2.2:5353")
