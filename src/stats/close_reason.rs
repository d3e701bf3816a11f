//! Why connections end: each reason has a name and a counter.

use crate::base::reasons::reasons;

reasons! {
    /// Why a client connection ended.
    ClientCloseReason {
        /// The client closed it.
        Client = "client",
        /// It broke: a reset, or an error of the network.
        Broken = "broken",
        /// An address outside the ACL.
        Acl = "acl",
        /// The limit of connections was reached.
        Connections = "connections",
        /// The listener's limit of connections was reached.
        ListenerConnections = "listener-connections",
        /// The client's limit of connections was reached.
        PerClient = "per-client",
        /// The client's rate of new connections was exceeded.
        Rate = "rate",
        /// The client is banned for a while.
        Banned = "banned",
        /// No query within the idle time-out.
        Idle = "idle",
        /// A query was not completed in time.
        ReadTimeout = "read-timeout",
        /// Part of a query was held, all clients together held more than the shard has memory for, and
        /// this one was the slowest.
        ReadBacklog = "read-backlog",
        /// Answers were not read in time.
        WriteTimeout = "write-timeout",
        /// More unwritten answers than the shard has memory for.
        WriteBacklog = "write-backlog",
        /// The longest life of a connection was reached.
        Duration = "duration",
        /// The most queries of a connection were reached.
        Queries = "queries",
        /// Too many reads for a query: the client sends byte by byte.
        Reads = "reads",
        /// A frame that cannot contain a DNS message.
        BadFrame = "bad-frame",
        /// Too many connections: an idle one was closed.
        Overload = "overload",
        /// Evicted as the longest idle one when descriptors ran out.
        Evicted = "evicted",
        /// No descriptor was left for it, and no other connection was idle.
        Descriptors = "descriptors",
        /// A query of it was dropped or got no answer, and it was idle then.
        Unanswered = "unanswered",
        /// A zone transfer that its server did not complete, or that a rule dropped.
        Transfer = "transfer",
        /// A handshake that failed: not TLS, no common cipher or version, and the like.
        Handshake = "handshake",
        /// A handshake that was not completed in time.
        HandshakeTimeout = "handshake-timeout",
        /// The client's rate of new or resumed TLS sessions was exceeded.
        SessionRate = "session-rate",
        /// A PROXY header that is missing where required, malformed, or not allowed.
        Proxy = "proxy",
        /// Its listener was closed, or the process stops.
        Closing = "closing",
    }
}

impl ClientCloseReason {
    /// Returns whether the connection ends because no more queries are accepted, with all answers
    /// written, while the client may still be sending.
    #[must_use]
    pub const fn follows_answers(self) -> bool {
        matches!(self, Self::Duration | Self::Queries | Self::Overload | Self::Unanswered | Self::Closing)
    }
}

reasons! {
    /// Why a backend connection ended.
    BackendCloseReason {
        /// The server refused it.
        Refused = "refused",
        /// It was not established in time.
        ConnectTimeout = "connect-timeout",
        /// The server closed it.
        Closed = "closed",
        /// It broke: a reset, or an error of the network.
        Broken = "broken",
        /// Its server did not answer for too long, or several queries in a row timed out.
        Silent = "silent",
        /// Queries were not accepted in time.
        WriteTimeout = "write-timeout",
        /// A frame that cannot contain a DNS message.
        BadFrame = "bad-frame",
        /// The TLS handshake failed, or the certificate is invalid.
        Handshake = "handshake",
        /// No descriptor or memory was left for it.
        Local = "local",
        /// It waited for a descriptor in vain.
        Descriptors = "descriptors",
        /// It was idle, and enough others are open.
        Idle = "idle",
        /// The server left the configuration, or the connection was no longer needed.
        Done = "done",
    }
}

reasons! {
    /// Why a relay session, a connection or flow, ended.
    RelayCloseReason {
        /// The client closed it first, in an orderly way.
        Client = "client",
        /// The target closed it first, in an orderly way.
        Target = "target",
        /// The client's side broke: a reset, or an error of the network.
        ClientBroken = "client-broken",
        /// The target's side broke: a reset, or an error of the network.
        TargetBroken = "target-broken",
        /// Every target refused, timed out, could not be reached, or did not greet.
        NoTarget = "no-target",
        /// Its target went down.
        TargetDown = "target-down",
        /// No data either way within the idle time-out.
        Idle = "idle",
        /// An address outside the relay's ACL.
        Acl = "acl",
        /// The relay's limit of connections or flows was reached.
        Connections = "connections",
        /// The client's limit of connections or flows was reached.
        PerClient = "per-client",
        /// A flow that was evicted for a new one because the table was full.
        EvictedAtLimit = "evicted-at-limit",
        /// Evicted as the longest idle one when descriptors ran out.
        Evicted = "evicted",
        /// No descriptor or port was left for it.
        Local = "local",
        /// Its listener was closed, or the process stops.
        Closing = "closing",
    }
}

reasons! {
    /// Why a target was left.
    ConnectFailure {
        /// It refused.
        Refused = "refused",
        /// It did not accept in time.
        Timeout = "timeout",
        /// There is no route to it.
        Unreachable = "unreachable",
        /// No descriptor, port or address was left to connect from.
        Local = "local",
        /// It accepted, and sent nothing within the greeting time-out.
        Silent = "silent",
        /// It accepted, and closed or broke the connection before its first byte.
        Closed = "closed",
        /// It is known to be down; a flow, or a connection that waited for it, has moved.
        Down = "down",
    }
}

impl RelayCloseReason {
    /// Returns why a session ended whose client's or target's side broke, after one side may have
    /// closed in an orderly way. A client that resets what it does not want to read any more, or a
    /// side that resets what reaches it after its close, has ended nothing; a target that is still
    /// to answer has.
    #[must_use]
    pub fn of_broken(by_client: bool, closed_by: Option<Self>) -> Self {
        match (by_client, closed_by) {
            (_, Some(Self::Target)) => Self::Target,
            (true, Some(Self::Client)) => Self::Client,
            (true, _) => Self::ClientBroken,
            (false, _) => Self::TargetBroken,
        }
    }
}
