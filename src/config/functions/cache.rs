//! The packet cache: what makes one, its options, and what can be asked of it.

use crate::config::functions::{Entry, entry};

/// What makes a packet cache.
pub static CACHE_FUNCTIONS: &[Entry] = &[entry(
    "newPacketCache",
    "entries [, {...}] or \
     entries, maxTTL [, minTTL [, temporaryFailureTTL [, staleTTL [, dontAge [, numberOfShards [, deferrableInsertLock \
     [, maxNegativeTTL [, parseECS]]]]]]]]",
    "Returns a packet cache of at most so many entries (1 to 100000000, all caches together), for `setCache` of one pool \
     or several. Its options are listed below.",
)];

/// The options of `newPacketCache`.
pub static CACHE_OPTIONS: &[Entry] = &[
    entry("maxTTL", "86400", "Longest time that an answer is kept, seconds."),
    entry("minTTL", "0", "An answer with a lower TTL is not kept, seconds."),
    entry(
        "maxNegativeTTL",
        "3600",
        "Longest time that NXDOMAIN, or NOERROR without a record, is kept, seconds.",
    ),
    entry(
        "temporaryFailureTTL",
        "60",
        "How long SERVFAIL and REFUSED are kept, seconds; 0: not at all. `SetTempFailureCacheTTLAction` sets it for \
         some queries.",
    ),
    entry("truncatedTTL", "0", "How long truncated answers are kept, seconds; 0: not at all."),
    entry("staleTTL", "60", "The TTLs of a stale answer, seconds. See `setStaleCacheEntriesTTL`."),
    entry(
        "staleOnFailure",
        "true",
        "Give a stale answer also when the servers do not answer in time, or with SERVFAIL, REFUSED or another failure \
         (RFC 8767) that is not explained by policy or DNSSEC, not only when none is up; with `setStaleCacheEntriesTTL` \
         alone. Not in dnsdist.",
    ),
    entry(
        "keepStaleData",
        "false",
        "Remove no expired entries while no server of the pools is up; they are given for `setStaleCacheEntriesTTL` at \
         most, also if it is raised meanwhile.",
    ),
    entry("dontAge", "false", "Give TTLs as they were stored, rather than what is left of them."),
    entry(
        "parseECS",
        "false",
        "An answer that is valid for every client subnet (scope 0) is given to clients of all.",
    ),
    entry(
        "cookieHashing",
        "false",
        "Queries with different EDNS cookies have entries of their own, and answers with cookies are kept.",
    ),
    entry(
        "skipOptions",
        "{}",
        "Codes of further EDNS options that make no difference; what is in cookies (10) and padding (12) makes none.",
    ),
    entry(
        "payloadRanks",
        "{}",
        "UDP payload sizes: those of queries count as the next lower one of these, so that queries with different sizes \
         share answers.",
    ),
    entry(
        "maximumEntrySize",
        "4096",
        "The longest answer that is kept, bytes; 65,535 include two more for each of its records.",
    ),
    entry("shuffle", "false", "Give the addresses of an answer in another order each time."),
    entry(
        "coalesce",
        "true",
        "A query that is like an outstanding one waits for its answer: one query to the servers, however many clients \
         ask. Not in dnsdist.",
    ),
    entry(
        "prefetch",
        "0",
        "In the last part of an answer's time, percent of it (0 to 90; 0: never), a popular one is asked for again, so \
         that no client waits for a server when it has expired. Not in dnsdist.",
    ),
    entry(
        "prefetchHits",
        "2",
        "How many hits on one shard in that part of its time make an answer popular, from 1. Not in dnsdist.",
    ),
    entry(
        "warmUp",
        "path",
        "A file of names that are resolved when the cache begins: one in each line, and the types that are asked for (A \
         and AAAA without any). Each is asked for without EDNS, and with EDNS and 1232 bytes. Not in dnsdist.",
    ),
    entry(
        "snapshot",
        "path",
        "The file that its entries are written to when dnslob stops, and read from when it starts; none by default. No \
         two caches can have the same. Not in dnsdist.",
    ),
    entry(
        "memoryLimit",
        "bytes",
        "The most memory of its table, from 1048576; by default what so many average answers need. Not in dnsdist.",
    ),
    entry("numberOfShards", "20", "Accepted without effect: no shard waits for another."),
    entry("deferrableInsertLock", "true", "Accepted without effect: no shard waits for another."),
];

/// The methods of a packet cache. They are about the running one: while the file is evaluated, there
/// is none.
pub static CACHE_METHODS: &[Entry] = &[
    entry(
        "dump",
        "path",
        "Writes its entries to a new file, one per line: name, remaining TTL, type, and what else is known. With \"-\" \
         the console shows them.",
    ),
    entry("expunge", "number", "Removes entries until no more than this number is left; returns how many."),
    entry(
        "expungeByName",
        "name [, type=255 [, suffixMatch=false]]",
        "Removes the entries of a name, of one type or of all (255); with `suffixMatch` those of all names below it too. \
         Returns how many.",
    ),
    entry("getAddressListByDomain", "name", "Returns the addresses in the answers about a name, as a list."),
    entry(
        "getDomainListByAddress",
        "address",
        "Returns the names whose answers have an address, as a list; 100,000 at most.",
    ),
    entry("getStats", "", "Returns its figures, as a table by name."),
    entry("isFull", "", "Returns whether a new entry replaces another one."),
    entry("printStats", "", "Prints its figures."),
    entry(
        "purgeExpired",
        "number",
        "Removes expired entries until no more than this number of entries is left; returns how many.",
    ),
    entry("toString", "", "Returns the number of its entries, and the most that there may be."),
];
