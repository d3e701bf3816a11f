//! Why a server's response is not put into the packet cache.

use crate::base::reasons::reasons;

reasons! {
    /// Why a response was not put into the packet cache.
    NotCached {
        /// It cannot be parsed, has bytes behind its last record, or has not exactly one question.
        Malformed = "malformed",
        /// It is truncated, and truncatedTTL is 0.
        Truncated = "truncated",
        /// It is signed (TSIG, SIG(0)): it is for one client alone.
        Signed = "signed",
        /// A record has another class than the question.
        Class = "class",
        /// It has an EDNS cookie, and cookieHashing is off: it is for one client alone.
        Cookie = "cookie",
        /// No record has a TTL, or the response is FORMERR or has an extended code, which concern one client.
        NoTtl = "no-ttl",
        /// A record has a TTL above 2^31 - 1, which counts as 0 (RFC 2181, section 8).
        TtlInvalid = "ttl-invalid",
        /// Its lowest TTL is 0, or below minTTL; or a temporary failure, and those are not kept.
        TtlTooShort = "ttl-too-short",
        /// It is longer than maximumEntrySize, or with two bytes for each record than 65,535 bytes.
        TooLarge = "too-large",
        /// Another thread was changing the same part of the table; or the cache has room for a few entries only,
        /// and the place of none was to be had.
        Busy = "busy",
        /// No entry was free for its query in the table of outstanding queries.
        TableFull = "query-table-full",
        /// A rule keeps it out.
        Rule = "rule",
    }
}
