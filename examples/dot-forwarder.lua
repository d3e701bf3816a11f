-- Queries in plain text are forwarded over TLS (DNS over TLS, RFC 7858). The server's certificate must be for
-- `subjectName`, and signed by an authority that this system trusts, or by one of the file `caStore`. If it is not, the
-- health check fails and says why.
addLocal("127.0.0.1:5300")
newServer({address="9.9.9.9", tls="openssl", subjectName="dns.quad9.net"})
