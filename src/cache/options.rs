//! What a packet cache is told.

use std::fmt;
use std::sync::Arc;

use crate::cache::warm_up::WarmUpList;

/// The options of a packet cache (`newPacketCache`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// The most entries.
    pub entries_max: usize,
    /// The most memory of its table, bytes; none: as much as so many average answers need
    /// (`memoryLimit`).
    pub memory_max: Option<usize>,
    /// Longest time that an entry is fresh, seconds (`maxTTL`).
    pub ttl_max: u32,
    /// A response with a lower TTL is not stored, seconds (`minTTL`).
    pub ttl_min: u32,
    /// Longest time that a negative answer is fresh, seconds (`maxNegativeTTL`).
    pub negative_ttl_max: u32,
    /// How long SERVFAIL and REFUSED are kept, seconds; 0: not at all (`temporaryFailureTTL`).
    pub failure_ttl: u32,
    /// How long truncated answers are kept, seconds; 0: not at all (`truncatedTTL`).
    pub truncated_ttl: u32,
    /// The TTLs of a stale answer, seconds (`staleTTL`).
    pub stale_ttl: u32,
    /// Expired entries are kept while no server of the pool is available (`keepStaleData`).
    pub keep_stale: bool,
    /// TTLs are given as they were stored (`dontAge`).
    pub dont_age: bool,
    /// The client subnet of a query is part of its key by its meaning, and answers that are valid
    /// for all clients are shared (`parseECS`).
    pub parse_ecs: bool,
    /// An EDNS cookie is part of the key, and answers with cookies are stored (`cookieHashing`).
    pub hash_cookies: bool,
    /// Codes of EDNS options that are not part of the key (`skipOptions`).
    pub skip_options: Vec<u16>,
    /// UDP payload sizes, ascending: those of queries count as the next lower one of them, so that
    /// queries with different sizes share answers. Empty: each size counts (`payloadRanks`).
    pub payload_ranks: Vec<u16>,
    /// The longest response that is stored, bytes (`maximumEntrySize`).
    pub entry_bytes_max: usize,
    /// The addresses of an answer are given in another order each time (`shuffle`).
    pub shuffle: bool,
    /// A stale answer is given also when the servers do not answer in time or with SERVFAIL
    /// (`staleOnFailure`); only with `setStaleCacheEntriesTTL`.
    pub stale_on_failure: bool,
    /// A query that is like an outstanding one waits for its answer (`coalesce`).
    pub coalesce: bool,
    /// In the last part of an entry's time, percent of it, a popular one is asked for anew; 0: never
    /// (`prefetch`).
    pub prefetch_percent: u8,
    /// How many hits on one shard in that part make an entry popular (`prefetchHits`).
    pub prefetch_hits: u32,
    /// Names that are resolved at start (`warmUp`).
    pub warm_up: Option<Arc<WarmUpList>>,
    /// The file that its entries are written to when it ends, and read from when it begins
    /// (`snapshot`).
    pub snapshot: Option<String>,
}

impl CacheOptions {
    /// The options by default, which are dnsdist's, with this many entries.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self {
            entries_max,
            memory_max: None,
            ttl_max: 86_400,
            ttl_min: 0,
            negative_ttl_max: 3_600,
            failure_ttl: 60,
            truncated_ttl: 0,
            stale_ttl: 60,
            keep_stale: false,
            dont_age: false,
            parse_ecs: false,
            hash_cookies: false,
            skip_options: vec![10, 12],
            payload_ranks: Vec::new(),
            entry_bytes_max: 4_096,
            shuffle: false,
            stale_on_failure: true,
            coalesce: true,
            prefetch_percent: 0,
            prefetch_hits: 2,
            warm_up: None,
            snapshot: None,
        }
    }

    /// Returns whether queries with different EDNS cookies have different keys.
    #[must_use]
    pub fn keys_have_cookies(&self) -> bool {
        self.hash_cookies || !self.skip_options.contains(&crate::cache::key::COOKIE)
    }

    /// Returns whether entries of a cache with the other options are entries of one with these: the
    /// table has the same size, and the same queries have the same key.
    #[must_use]
    pub fn has_store_of(&self, other: &Self) -> bool {
        let of = |options: &Self| {
            (
                options.entries_max,
                options.memory_max,
                options.parse_ecs,
                options.hash_cookies,
                options.skip_options.clone(),
                options.payload_ranks.clone(),
            )
        };
        of(self) == of(other)
    }
}

impl fmt::Display for CacheOptions {
    /// Writes the options that differ from their defaults, as a configuration says them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defaults = Self::new(self.entries_max);
        let list = |numbers: &[u16]| {
            let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
            format!("{{{}}}", numbers.join(", "))
        };
        let all = |o: &Self| {
            [
                ("memoryLimit", o.memory_max.unwrap_or(0).to_string()),
                ("maxTTL", o.ttl_max.to_string()),
                ("minTTL", o.ttl_min.to_string()),
                ("maxNegativeTTL", o.negative_ttl_max.to_string()),
                ("temporaryFailureTTL", o.failure_ttl.to_string()),
                ("truncatedTTL", o.truncated_ttl.to_string()),
                ("staleTTL", o.stale_ttl.to_string()),
                ("keepStaleData", o.keep_stale.to_string()),
                ("dontAge", o.dont_age.to_string()),
                ("parseECS", o.parse_ecs.to_string()),
                ("cookieHashing", o.hash_cookies.to_string()),
                ("skipOptions", list(&o.skip_options)),
                ("payloadRanks", list(&o.payload_ranks)),
                ("maximumEntrySize", o.entry_bytes_max.to_string()),
                ("shuffle", o.shuffle.to_string()),
                ("staleOnFailure", o.stale_on_failure.to_string()),
                ("coalesce", o.coalesce.to_string()),
                ("prefetch", o.prefetch_percent.to_string()),
                ("prefetchHits", o.prefetch_hits.to_string()),
                ("warmUp", o.warm_up.as_ref().map_or_else(String::new, |list| list.path.clone())),
                ("snapshot", o.snapshot.as_ref().map(|path| format!("{path:?}")).unwrap_or_default()),
            ]
        };
        write!(f, "maxEntries={}", self.entries_max)?;
        for ((name, value), (_, default)) in all(self).into_iter().zip(all(&defaults)) {
            if value != default {
                write!(f, ", {name}={value}")?;
            }
        }
        Ok(())
    }
}
