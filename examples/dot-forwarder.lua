-- Whatever asks this address in plain text is asked of the server over TLS (DNS over TLS, RFC 7858):
-- the second line is all that it takes. The server's certificate must be for `subjectName`, signed by
-- an authority that this system trusts, or one of the file `caStore`; a health check says why if not.
addLocal("127.0.0.1:5300")
newServer({address="9.9.9.9", tls="openssl", subjectName="dns.quad9.net"})
