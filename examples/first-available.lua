-- The first server by order gets queries up to its qps, the next one gets the rest.
addLocal("0.0.0.0:5300")
addLocal("[::]:5300")
setACL({"127.0.0.0/8", "::1/128", "10.0.0.0/8"})

newServer{address="2001:db8::1", qps=1000, order=1}
newServer{address="2001:db8::2", qps=1000, order=2}
newServer{address="192.0.2.3", order=3} -- no limit: the last resort

setServerPolicy(firstAvailable)
setServFailWhenNoServer(true)
