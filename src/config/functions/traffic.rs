//! The functions that show clients, names and the last queries, and what configures them.

use crate::config::functions::{Entry, entry};

/// The functions. `{...}`: `window`, seconds; and conditions.
pub static TRAFFIC_FUNCTIONS: &[Entry] = &[
    entry(
        "topClients",
        "[number=10 [, {...}]]",
        "Prints the clients with the most queries. Every list can be narrowed by a table, as \
         `{window=300, pool=\"\", server=\"a\", client=\"192.0.2.0/24\", name=\"example.com\", rcode=DNSRCode.SERVFAIL, \
         type=\"AAAA\", slower=\"100ms\"}`: `window` is the last seconds, 1 to 900, 60 by default.",
    ),
    entry(
        "topQueries",
        "[number=10 [, labels [, {...}]]]",
        "Prints the names that were queried most; by their last labels, if their number is given.",
    ),
    entry(
        "topResponses",
        "[number=10 [, rcode=0 [, labels [, {...}]]]]",
        "Prints the names that were answered most often with a response code.",
    ),
    entry(
        "topSlow",
        "[number=10 [, limit=2000 [, labels [, {...}]]]]",
        "Prints the names whose responses most often took `limit` milliseconds or longer.",
    ),
    entry(
        "topTimeouts",
        "[number=10 [, labels [, {...}]]]",
        "Prints the names that servers most often left unanswered.",
    ),
    entry("topBandwidth", "[number=10 [, {...}]]", "Prints the clients that got the most bytes of answers."),
    entry(
        "top",
        "list [, number=10 [, {...}]]",
        "Prints another list: \"clients\", \"networks\" (/24 and /48), \"bandwidth\", \"names\", \"domains\" (two \
         labels), \"tlds\", \"types\", \"rcodes\"; \"slow-names\", \"slow-domains\" (100 ms or longer); \
         \"timeout-\", \"servfail-\" and \"nxdomain-\", each with \"names\", \"domains\" and \"clients\".",
    ),
    entry(
        "getTopQueries",
        "[number=10 [, labels]]",
        "Returns what topQueries prints: a list of name, count and percentage, the rest last.",
    ),
    entry(
        "getTopResponses",
        "[number=10 [, rcode=0 [, labels]]]",
        "Returns what topResponses prints, in the same form.",
    ),
    entry(
        "getSlowResponses",
        "[number=10 [, limit=2000 [, labels]]]",
        "Returns what topSlow prints, in the same form.",
    ),
    entry("getTopBandwidth", "[number=10]", "Returns what topBandwidth prints, in the same form."),
    entry(
        "grepq",
        "condition | {condition, ...} [, number=10]",
        "Prints the last queries for which all conditions hold: a network, a name (it and those below it), \
         or a least latency, as \"100ms\".",
    ),
    entry(
        "getRingEntries",
        "[number=1000]",
        "Returns the last queries, as a list of tables: client, server, protocol, pool, name, type, id, \
         latency (ms), size, rcode, ended, ago (s).",
    ),
    entry("getResponseRing", "[number=1000]", "Returns those of getRingEntries that were answered."),
    entry(
        "statNodeRespRing",
        "function(node, own, all) [, seconds]",
        "Calls a function for each name of the last 10000 queries, and each name above them: `node` has fullname, \
         labelsCount and numChildren(); `own` are the figures of the name, `all` those of the name and all below it: \
         queries, noerrors, nxdomains, servfails, drops, hits, bytes. With `seconds`, of the last seconds only.",
    ),
    entry(
        "getRespRing",
        "[number=1000]",
        "Returns the last answered queries, as a list of {qname=, rcode=}.",
    ),
    entry(
        "setQueryCount",
        "switch",
        "Counts queries by name, before any rule; by default they are not counted. It takes about a \
         microsecond of each query, besides what the function of setQueryCountFilter takes.",
    ),
    entry(
        "setQueryCountFilter",
        "function(dq)",
        "What setQueryCount counts by: the function returns whether a query counts, and under which name. It runs in \
         the shard's own Lua state; a query on which it fails, or whose name is empty, is not counted.",
    ),
    entry(
        "getQueryCounters",
        "[number=10]",
        "Prints the names that setQueryCount has counted most often since clearQueryCounters. There is room for some \
         100000 names; what is beyond is counted without.",
    ),
    entry("clearQueryCounters", "", "Forgets what setQueryCount has counted."),
    entry(
        "setRingBuffersSize",
        "number [, shards]",
        "Sets `traffic-ring`, the finished queries that are kept; `shards` is accepted.",
    ),
    entry(
        "setRingBuffersOptions",
        "{recordQueries=, recordResponses=, lockRetries=, samplingRate=}",
        "With both `recordQueries` and `recordResponses` false, sets `traffic-ring` to 0. The others have no \
         effect: there are no locks, and every query is counted as long as that is possible.",
    ),
    entry("setRingBuffersLockRetries", "number", "Accepted without effect: there are no locks."),
    entry(
        "getRingBuffersSamplingRate",
        "",
        "Returns 0: lists say themselves what part of the queries they know.",
    ),
];
