//! The figures of a cache as dnsdist's clients know them.

use crate::cache::PacketCache;

/// What pools count of their packet cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queries that it has answered.
    pub hits: u64,
    /// Queries that it has not.
    pub misses: u64,
    /// Not stored, as another thread was changing the same part of the table.
    pub busy: u64,
    /// Not stored for a TTL that is too short.
    pub ttl_too_short: u64,
}

impl PacketCache {
    /// Returns its figures by their names in Lua.
    #[must_use]
    pub fn figures(&self, counts: &Counts) -> [(&'static str, u64); 10] {
        [
            ("entries", self.len() as u64),
            ("maxEntries", self.capacity() as u64),
            ("hits", counts.hits),
            ("misses", counts.misses),
            ("deferredInserts", counts.busy),
            // No shard waits for another, and the whole key is compared.
            ("deferredLookups", 0),
            ("lookupCollisions", 0),
            ("insertCollisions", 0),
            ("ttlTooShorts", counts.ttl_too_short),
            ("cleanupCount", self.cleanups()),
        ]
    }
}
