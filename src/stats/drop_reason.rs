//! Why packets were dropped.

use crate::base::reasons::reasons;

reasons! {
    /// Why a packet was dropped. The label is the metric's name.
    DropReason {
        /// A query from an address outside the ACL.
        Acl = "acl",
        /// A PROXY header that is missing where required, malformed, or not allowed.
        ProxyHeader = "proxy-header",
        /// A query shorter than a DNS header.
        QueryShort = "query-short",
        /// A query with QR=1: an unsolicited response.
        QueryIsResponse = "query-is-response",
        /// A query with TC=1.
        QueryTruncated = "query-truncated",
        /// A query whose question cannot be parsed.
        QueryMalformed = "query-malformed",
        /// A query without a question, where the configuration drops them.
        QueryEmpty = "query-empty",
        /// A datagram longer than 4096 bytes; a server's response is truncated if its question can be read.
        Oversized = "oversized",
        /// Dropped by a rule.
        Rule = "rule",
        /// A response dropped by a rule.
        ResponseRule = "response-rule",
        /// A response that rules were to rewrite and that is malformed, or then exceeds its buffer.
        AnswerNotEdited = "answer-not-edited",
        /// An answer that exceeds its buffer, or a frame.
        AnswerTooLong = "answer-too-long",
        /// A query changed by rules, with the table of query states full.
        QueryTableFull = "query-state-full",
        /// A query to be sent again that was not kept, as too many long ones were, or is malformed.
        QueryNotKept = "query-not-kept",
        /// An answer to be delayed, with too many delayed already.
        DelayFull = "delay-full",
        /// A copy of a query for a second server that could not be sent.
        TeeFull = "tee-full",
        /// The response to such a copy.
        TeeResponse = "tee-response",
        /// A query to be copied, for a second server or a shadow pool, that is such a copy of our own: a loop.
        TeeLoop = "tee-loop",
        /// A copy of a query for a shadow pool that could not be sent: no server, or too many are under way.
        ShadowNotSent = "shadow-not-sent",
        /// A line of a query log that is not written fast enough.
        LogFull = "log-full",
        /// No usable server in the pool.
        NoServer = "no-server",
        /// The chosen server's table of outstanding queries is full, or it can have no more connections.
        OutstandingFull = "outstanding-full",
        /// A query like too many outstanding ones of its client: probably a loop over another program.
        QueryRepeated = "query-repeated",
        /// No file descriptor was left for a connection to a server, and the query could not go without one.
        Descriptors = "descriptors",
        /// The kernel refused to send a query to any server that could be tried.
        QuerySendError = "query-send-error",
        /// The kernel refused to send an answer to a client.
        AnswerSendError = "answer-send-error",
        /// The query's connection to its server failed, and no other server could be used.
        BackendConnectionFailed = "backend-connection-failed",
        /// The client's connection ended before its query had an answer.
        ClientGone = "client-gone",
        /// No server answered in time.
        Timeout = "timeout",
        /// A response shorter than a DNS header.
        ResponseShort = "response-short",
        /// A response with QR=0.
        ResponseNotResponse = "response-not-response",
        /// A response after its query's time-out.
        ResponseLate = "response-late",
        /// A second response to a query that was answered.
        ResponseDuplicate = "response-duplicate",
        /// A response that matches no query: wrong id or socket.
        ResponseForeign = "response-foreign",
        /// A response whose question or opcode differs from the query's.
        ResponseMismatch = "response-mismatch",
        /// A response without a question, NOERROR or NXDOMAIN, where the configuration drops them.
        ResponseEmpty = "response-empty",
        /// The client's listener has been closed.
        ListenerGone = "listener-gone",
        /// More distinct local addresses within a minute than the table of a wildcard listener holds.
        LocalTableFull = "local-table-full",
        /// A query that was lost when a shard restarted.
        ShardRestart = "shard-restart",
    }
}
