-- The least there is: listen on 127.0.0.1:53, spread over two servers by their outstanding queries.
newServer("192.0.2.1")
newServer("192.0.2.2:5353")
