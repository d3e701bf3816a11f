//! The packet caches of pools, and what is counted of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::addr::PoolSlot;
use crate::cache::PacketCache;
use crate::cache::figures::Counts;
use crate::model::{Pool, Snapshot};
use crate::stats::live::LiveState;
use crate::stats::not_cached::NotCached;
use crate::stats::registry::CacheReading;

/// The packet cache of a pool, with what all pools that share it have counted.
#[derive(Clone, Debug)]
pub(in crate::control) struct CacheOfPool<'s> {
    pub(in crate::control) pool: &'s Pool,
    pub(in crate::control) cache: &'s Arc<PacketCache>,
    pub(in crate::control) reading: CacheReading,
    pub(in crate::control) counts: Counts,
}

/// Returns the pools that have a packet cache.
pub(in crate::control) fn of_pools<'s>(
    snapshot: &'s Snapshot,
    live_state: &LiveState,
) -> Vec<CacheOfPool<'s>> {
    let with_cache = || {
        let pools = snapshot.pools.iter().enumerate();
        pools.filter_map(|(at, pool)| Some((at, pool, pool.cache.as_ref()?)))
    };
    let mut counts: BTreeMap<u64, Counts> = BTreeMap::new();
    for (at, _, cache) in with_cache() {
        let reading = live_state.pool(PoolSlot(u16::try_from(at).unwrap_or(u16::MAX)));
        let sum = counts.entry(cache.id()).or_default();
        sum.hits += reading.cache_hits;
        sum.misses += reading.cache_misses;
        sum.busy += reading.cache_not_stored[NotCached::Busy];
        sum.ttl_too_short += reading.cache_not_stored[NotCached::TtlTooShort];
    }
    let of = |(_, pool, cache): (usize, &'s Pool, &'s Arc<PacketCache>)| CacheOfPool {
        pool,
        cache,
        reading: CacheReading {
            size: cache.capacity() as u64,
            entries: cache.len() as u64,
            memory: cache.memory() as u64,
            evicted: cache.evicted(),
            cleanups: cache.cleanups(),
        },
        counts: counts.get(&cache.id()).copied().unwrap_or_default(),
    };
    with_cache().map(of).collect()
}

impl CacheOfPool<'_> {
    /// Returns the pool's name; that of the default pool as dnsdist's labels have it.
    pub(in crate::control) fn label(&self) -> &str {
        if self.pool.name.is_empty() { "_default_" } else { &self.pool.name }
    }

    /// Returns its figures as dnsdist's clients know them, by their names in Lua.
    pub(in crate::control) fn figures(&self) -> [(&'static str, u64); 10] {
        self.cache.figures(&self.counts)
    }
}
