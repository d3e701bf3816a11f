//! Why the web server refuses connections and requests.

use crate::base::reasons::reasons;

reasons! {
    /// Why the web server closed a connection, or refused a request.
    WebRefusal {
        /// An address outside its ACL.
        Acl = "acl",
        /// Its limit of connections was reached.
        Connections = "connections",
        /// No password and no key, or wrong ones.
        Credentials = "credentials",
        /// A request was not completed, or an answer not read, in time.
        Slow = "slow",
        /// A body of more than 64 kB, or 256 kB for the API.
        Body = "body",
        /// A TLS handshake that failed, or HTTP where TLS is spoken.
        Handshake = "handshake",
        /// As many streams of events were open as there may be.
        Streams = "streams",
        /// A stream of events whose client read so slowly that it would have missed some.
        Behind = "behind",
        /// What came was not HTTP, or the connection broke.
        Broken = "broken",
    }
}
