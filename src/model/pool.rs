//! Pools: which servers, and how one of them is chosen.

use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::base::time::TickDelta;
use crate::cache::PacketCache;
use crate::model::policy::{Kind, Policy};
use crate::model::ring::Ring;

/// A set of backends with a policy.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Empty for the default pool.
    pub name: String,
    /// Its backends, by order and then as written.
    pub members: Vec<BackendSlot>,
    /// How one of them is selected.
    pub policy: Policy,
    /// chashed's ring over all members, built once.
    pub ring: Option<Arc<Ring>>,
    /// Query a second server when the first is slow.
    pub retry: Option<Retry>,
    /// When less than this share of members is up, parts per million, all are used; 0 disables it.
    pub panic_ppm: u32,
    /// Eject servers that perform worse than their peers.
    pub eject: Option<Eject>,
    /// Queries that arrived over a connection are sent over UDP, and again over TCP if the response
    /// is truncated (`tcpToUdp`).
    pub tcp_to_udp: bool,
    /// Its packet cache, which other pools may share.
    pub cache: Option<Arc<PacketCache>>,
    /// Which of the configuration's caches that is, from 0: functions name it so.
    pub cache_number: Option<usize>,
    /// Some of its servers get the client's subnet.
    pub sends_subnet: bool,
    /// An answer of a server that is valid for every subnet is given to clients of all
    /// (`disableZeroScope`).
    pub zero_scope: bool,
}

impl Default for Pool {
    /// The default pool without members: leastOutstanding.
    fn default() -> Self {
        Self {
            name: String::new(),
            members: Vec::new(),
            policy: Policy::new(Kind::LeastOutstanding),
            ring: None,
            retry: None,
            panic_ppm: 0,
            eject: None,
            tcp_to_udp: false,
            cache: None,
            cache_number: None,
            sends_subnet: false,
            zero_scope: true,
        }
    }
}

/// A second attempt, on another server, of a query without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How long the first server has.
    pub after: TickDelta,
    /// At most this share of the pool's queries, parts per million.
    pub budget_ppm: u32,
}

/// When a server counts as an outlier of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eject {
    /// The share of failures (timed out or SERVFAIL) exceeds the pool's own by this, parts per
    /// million.
    pub excess_ppm: u32,
    /// Duration of the ejection.
    pub span: TickDelta,
    /// Most ejected members of the pool, parts per million.
    pub share_max_ppm: u32,
    /// No decision with fewer queries than this in a window of ten seconds.
    pub queries_min: u32,
}

/// How packet caches are cleaned of expired entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheCleaning {
    /// Seconds between two cleanings (`setCacheCleaningDelay`).
    pub every_seconds: u32,
    /// Expired entries are removed as long as there are more than the rest of this percentage of
    /// the most entries; 100: all of them (`setCacheCleaningPercentage`).
    pub percent: u32,
}

impl Default for CacheCleaning {
    /// dnsdist's: every minute, and all.
    fn default() -> Self {
        Self { every_seconds: 60, percent: 100 }
    }
}

/// Carries over the entries of packet caches: a cache gets those of the cache that a pool which uses
/// it used before, if both have the same size and keys. Pools that share a cache still do.
pub(super) fn inherit_caches(pools: &mut [Pool], before: &[Pool]) {
    let mut done: Vec<(u64, Arc<PacketCache>)> = Vec::new();
    for at in 0..pools.len() {
        let Some(cache) = pools[at].cache.clone() else { continue };
        let made = cache.id();
        if let Some((_, inherited)) = done.iter().find(|(id, _)| *id == made) {
            pools[at].cache = Some(Arc::clone(inherited));
            continue;
        }
        // Another pool with this cache may be the one that had one before.
        let names: Vec<&str> = pools
            .iter()
            .filter(|p| p.cache.as_ref().is_some_and(|c| c.id() == made))
            .map(|p| &*p.name)
            .collect();
        let mut inherited = PacketCache::clone(&cache);
        let old = before.iter().filter(|p| names.contains(&&*p.name)).filter_map(|p| p.cache.as_ref());
        let is_free = |old: &&Arc<PacketCache>| !done.iter().any(|(_, taken)| taken.shares_entries(old));
        let _ = old.filter(is_free).any(|old| inherited.inherit(old));
        let inherited = Arc::new(inherited);
        pools[at].cache = Some(Arc::clone(&inherited));
        done.push((made, inherited));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheOptions;

    fn pool(name: &str, cache: Option<&Arc<PacketCache>>) -> Pool {
        Pool { name: name.to_owned(), cache: cache.cloned(), ..Pool::default() }
    }

    fn cache(entries: usize) -> Arc<PacketCache> {
        Arc::new(PacketCache::new(CacheOptions::new(entries), [1, 2, 3, 4]))
    }

    #[test]
    fn entries_of_the_same_cache_are_inherited() {
        let (a, b) = (cache(10), cache(10));
        let before = [pool("a", Some(&a)), pool("b", Some(&b)), pool("c", None)];
        let (c, d) = (cache(10), cache(10));
        // `c` is the cache of two pools, the second of which had one before.
        let mut after = [pool("c", Some(&c)), pool("a", Some(&c)), pool("b", Some(&d)), pool("x", Some(&d))];
        inherit_caches(&mut after, &before);
        let ids = |pools: &[Pool]| pools.iter().map(|p| p.cache.as_ref().map(|c| c.id())).collect::<Vec<_>>();
        assert_eq!(ids(&after), [Some(a.id()), Some(a.id()), Some(b.id()), Some(b.id())]);
    }

    #[test]
    fn two_caches_never_become_one() {
        let shared = cache(10);
        let before = [pool("a", Some(&shared)), pool("b", Some(&shared))];
        let mut after = [pool("a", Some(&cache(10))), pool("b", Some(&cache(10)))];
        inherit_caches(&mut after, &before);
        let caches = after.map(|p| p.cache.expect("a cache"));
        assert_eq!(caches[0].id(), shared.id());
        assert!(!caches[0].shares_entries(&caches[1]));
    }

    #[test]
    fn another_size_begins_empty_and_other_times_do_not() {
        let old = cache(10);
        let before = [pool("a", Some(&old))];
        let mut larger = [pool("a", Some(&cache(11)))];
        inherit_caches(&mut larger, &before);
        assert!(larger[0].cache.as_ref().is_some_and(|c| !c.shares_entries(&old)));
        let options = CacheOptions { ttl_max: 7, ..CacheOptions::new(10) };
        let mut shorter = [pool("a", Some(&Arc::new(PacketCache::new(options, [0; 4]))))];
        inherit_caches(&mut shorter, &before);
        let kept = shorter[0].cache.as_ref().expect("a cache");
        assert_eq!((kept.shares_entries(&old), kept.options().ttl_max), (true, 7));
    }
}
