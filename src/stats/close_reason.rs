//! Why connections end: each has a name, and is counted under it.

use crate::base::reasons::reasons;

reasons! {
    /// Why a client's connection ended.
    ClientCloseReason {
        /// The client closed it.
        Client = "client",
        /// It broke: a reset, or an error of the network.
        Broken = "broken",
        /// An address outside the ACL.
        Acl = "acl",
        /// More connections than there may be.
        Connections = "connections",
        /// More connections to a listener than it may have.
        ListenerConnections = "listener-connections",
        /// More connections of this client than it may have.
        PerClient = "per-client",
        /// More new connections of this client than it may open.
        Rate = "rate",
        /// A client that was turned away for a while.
        Banned = "banned",
        /// No query for as long as a connection may be idle.
        Idle = "idle",
        /// A query that was begun and not finished in time.
        ReadTimeout = "read-timeout",
        /// Answers that were not taken in time.
        WriteTimeout = "write-timeout",
        /// More answers waiting than the shard has memory for.
        WriteBacklog = "write-backlog",
        /// As long as a connection may last.
        Duration = "duration",
        /// As many queries as a connection may bring.
        Queries = "queries",
        /// More reads for a query than it may take: a client that sends by single bytes.
        Reads = "reads",
        /// A frame that no DNS message can be in.
        BadFrame = "bad-frame",
        /// Too many connections: idle ones go first.
        Overload = "overload",
        /// It had been idle for the longest when descriptors were used up, and made room for another.
        Evicted = "evicted",
        /// No descriptor was left for it, and no other connection was idle.
        Descriptors = "descriptors",
        /// A zone transfer that its server did not finish, or that a rule dropped.
        Transfer = "transfer",
        /// A handshake that failed: not TLS, no common cipher or version, and the like.
        Handshake = "handshake",
        /// A handshake that was not finished in time.
        HandshakeTimeout = "handshake-timeout",
        /// More new or resumed TLS sessions of this client than it may have.
        SessionRate = "session-rate",
        /// A PROXY header that is missing where one is due, malformed, or from a stranger.
        Proxy = "proxy",
        /// Its listener was closed, or the process stops.
        Closing = "closing",
    }
}

impl ClientCloseReason {
    /// Whether the connection ends because its client is to ask no more, with all answers written,
    /// while the client may still be sending.
    #[must_use]
    pub const fn follows_answers(self) -> bool {
        matches!(self, Self::Duration | Self::Queries | Self::Overload | Self::Closing)
    }
}

reasons! {
    /// Why a line, a connection to a server, ended.
    BackendCloseReason {
        /// It was not accepted.
        Refused = "refused",
        /// It did not come about in time.
        ConnectTimeout = "connect-timeout",
        /// The server closed it.
        Closed = "closed",
        /// It broke: a reset, or an error of the network.
        Broken = "broken",
        /// An answer was owed for too long.
        Silent = "silent",
        /// Queries were not taken in time.
        WriteTimeout = "write-timeout",
        /// A frame that no DNS message can be in.
        BadFrame = "bad-frame",
        /// The TLS handshake failed, or the certificate is not good.
        Handshake = "handshake",
        /// No descriptor or memory was left for it.
        Local = "local",
        /// It was idle, and enough others are kept.
        Idle = "idle",
        /// The server was taken out of the configuration, or its line has served its purpose.
        Done = "done",
    }
}

reasons! {
    /// Why a passage, a connection or flow of a forward, ended.
    RelayCloseReason {
        /// The client was the first to close it.
        Client = "client",
        /// The target was the first to close it.
        Target = "target",
        /// The client's side broke: a reset, or an error of the network.
        ClientBroken = "client-broken",
        /// The target's side broke: a reset, or an error of the network.
        TargetBroken = "target-broken",
        /// Every target refused, timed out, or could not be reached.
        NoTarget = "no-target",
        /// Nothing went either way for as long as it may be idle.
        Idle = "idle",
        /// An address outside the forward's ACL.
        Acl = "acl",
        /// More connections or flows than the forward may have.
        Connections = "connections",
        /// More connections or flows of this client than it may have.
        PerClient = "per-client",
        /// A flow that gave way to a new one, the table being full.
        EvictedAtLimit = "evicted-at-limit",
        /// It had been idle for the longest when descriptors were used up, and made room for another.
        Evicted = "evicted",
        /// No descriptor or port was left for it.
        Local = "local",
        /// Its listener was closed, or the process stops.
        Closing = "closing",
    }
}

reasons! {
    /// Why a target was not taken.
    ConnectFailure {
        /// It refused.
        Refused = "refused",
        /// It did not accept in time.
        Timeout = "timeout",
        /// There is no way to it.
        Unreachable = "unreachable",
        /// No descriptor, port or address was left to ask it from.
        Local = "local",
        /// It is known to be down; a flow that it had has moved.
        Down = "down",
    }
}
