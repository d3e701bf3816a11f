//! Cleans packet caches of expired entries: as often and as far as the configuration asks for, a part
//! of a table in each turn.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::cache::PacketCache;
use crate::model::Snapshot;

/// Sets of a table that are cleaned in one turn: some ten thousand entries, a few milliseconds.
const SETS: usize = 4_096;
/// The pause between two turns of a cleaning.
const PAUSE: TickDelta = TickDelta::from_ms(10);

/// The cleaning of all packet caches.
#[derive(Debug, Default)]
pub(super) struct CacheCleaner {
    /// When the last one began; none before the first look.
    begun: Option<Tick>,
    /// When the next part is due.
    next: Tick,
    /// What is left of this one.
    left: VecDeque<Part>,
}

/// The rest of a cache.
#[derive(Debug)]
struct Part {
    cache: Arc<PacketCache>,
    /// Set at which it begins.
    from: usize,
    /// Expired entries are removed as long as there are more than this.
    most: usize,
}

impl CacheCleaner {
    /// Returns when the next part is due; none while no pool has a cache.
    pub(super) fn at(&self, snapshot: &Snapshot) -> Option<Tick> {
        if !self.left.is_empty() || removing(snapshot).next().is_some() {
            return Some(self.next);
        }
        let is_needed = snapshot.pools.iter().any(|pool| pool.cache.is_some());
        is_needed.then(|| self.begun.map_or(Tick(0), |begun| begun + period(snapshot)))
    }

    /// Cleans what is due.
    pub(super) fn turn(&mut self, snapshot: &Snapshot, is_up: impl Fn(BackendSlot) -> bool, now: Tick) {
        report_warm_ups(snapshot);
        if now >= self.next
            && let Some(cache) = removing(snapshot).next()
        {
            cache.remove_waiting(SETS);
            self.next = now + PAUSE;
            return;
        }
        if self.left.is_empty() {
            let Some(begun) = self.begun else {
                // New entries have not expired.
                self.begun = Some(now);
                return;
            };
            if now < begun + period(snapshot) {
                return;
            }
            self.begun = Some(now);
            self.left = parts(snapshot, is_up);
        } else if now < self.next {
            return;
        }
        self.next = now + PAUSE;
        let Some(part) = self.left.front_mut() else { return };
        match part.cache.clean(part.from, SETS, part.most, snapshot.globals.stale_cache_seconds, now) {
            Some(next) => part.from = next,
            None => _ = self.left.pop_front(),
        }
    }
}

/// Returns the caches of which functions have asked to remove entries.
fn removing(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<PacketCache>> {
    snapshot.pools.iter().filter_map(|pool| pool.cache.as_ref()).filter(|cache| cache.has_waiting())
}

/// Says what has come of lists of names that caches have begun with.
fn report_warm_ups(snapshot: &Snapshot) {
    for pool in &snapshot.pools {
        let Some((asked, failed)) = pool.cache.as_ref().and_then(|c| c.warm_up()).and_then(|w| w.report())
        else {
            continue;
        };
        let pool = &pool.name;
        if failed == 0 {
            tracing::info!(pool, queries = asked, "the packet cache is warmed up");
        } else {
            tracing::warn!(
                pool,
                queries = asked,
                failed,
                "the packet cache is warmed up, but for what has failed twice"
            );
        }
    }
}

fn period(snapshot: &Snapshot) -> TickDelta {
    TickDelta::from_ms(u64::from(snapshot.globals.cache_cleaning.every_seconds) * 1_000)
}

/// Returns the caches that are to be cleaned, each once.
fn parts(snapshot: &Snapshot, is_up: impl Fn(BackendSlot) -> bool) -> VecDeque<Part> {
    let spared = 100 - snapshot.globals.cache_cleaning.percent.min(100) as usize;
    let mut parts: VecDeque<Part> = VecDeque::new();
    for cache in snapshot.pools.iter().filter_map(|pool| pool.cache.as_ref()) {
        let mut pools = snapshot
            .pools
            .iter()
            .filter(|pool| pool.cache.as_ref().is_some_and(|other| other.shares_entries(cache)));
        // What is stale is all that there is, while no server answers.
        let is_kept =
            cache.options().keep_stale && !pools.any(|pool| pool.members.iter().any(|slot| is_up(*slot)));
        if is_kept || parts.iter().any(|part| part.cache.shares_entries(cache)) {
            continue;
        }
        let most =
            cache.options().entries_max / 100 * spared + cache.options().entries_max % 100 * spared / 100;
        parts.push_back(Part { cache: Arc::clone(cache), from: 0, most });
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheOptions;
    use crate::cache::removal::What;
    use crate::control::fixture;
    use crate::model::{CacheCleaning, Pool};

    const SECOND: u64 = 1_000_000_000;

    /// A pool with a cache of 10 entries, in which 8 have a TTL of 5 s and 2 one of 500 s.
    fn snapshot(percent: u32, keep_stale: bool) -> Snapshot {
        let mut snapshot = fixture::snapshot(1, &[], &[0]);
        let cache = PacketCache::new(CacheOptions { keep_stale, ..CacheOptions::new(10) }, [1, 2, 3, 4]);
        for n in 0..10_u8 {
            fixture::store(&cache, n, if n < 8 { 5 } else { 500 }, Tick(0));
        }
        assert_eq!(cache.len(), 10);
        let cache = Arc::new(cache);
        snapshot.pools[0].cache = Some(Arc::clone(&cache));
        snapshot.pools.push(Pool { name: "shared".to_owned(), cache: Some(cache), ..Pool::default() });
        snapshot.globals.cache_cleaning = CacheCleaning { every_seconds: 60, percent };
        snapshot
    }

    fn len(snapshot: &Snapshot) -> usize {
        snapshot.pools[0].cache.as_ref().map_or(0, |cache| cache.len())
    }

    /// Turns until nothing is left of the cleaning that is due at 60 s.
    fn clean(cleaner: &mut CacheCleaner, snapshot: &Snapshot, up: bool) {
        cleaner.turn(snapshot, |_| up, Tick(0));
        cleaner.turn(snapshot, |_| up, Tick(59 * SECOND));
        assert_eq!((len(snapshot), cleaner.at(snapshot)), (10, Some(Tick(60 * SECOND))), "not before");
        for turn in 0..100 {
            cleaner.turn(snapshot, |_| up, Tick(60 * SECOND) + TickDelta::from_ms(turn * 10));
        }
        assert_eq!(cleaner.at(snapshot), Some(Tick(120 * SECOND)), "once a minute");
    }

    #[test]
    fn expired_entries_go_and_others_stay() {
        let snapshot = snapshot(100, false);
        clean(&mut CacheCleaner::default(), &snapshot, false);
        assert_eq!(len(&snapshot), 2);
        assert_eq!(snapshot.pools[0].cache.as_ref().map(|cache| cache.cleanups()), Some(1), "it is shared");
    }

    #[test]
    fn a_percentage_bounds_what_goes() {
        for (percent, left) in [(50, 5), (0, 10), (10, 9)] {
            let snapshot = snapshot(percent, false);
            clean(&mut CacheCleaner::default(), &snapshot, true);
            assert_eq!(len(&snapshot), left, "{percent} %");
        }
    }

    #[test]
    fn stale_data_is_kept_while_no_server_is_up() {
        let snapshot = snapshot(100, true);
        clean(&mut CacheCleaner::default(), &snapshot, false);
        assert_eq!(len(&snapshot), 10);
        clean(&mut CacheCleaner::default(), &snapshot, true);
        assert_eq!(len(&snapshot), 2);
    }

    #[test]
    fn removals_of_functions_come_to_their_end() {
        let mut snapshot = snapshot(100, false);
        let cache = Arc::new(PacketCache::new(CacheOptions::new(200_000), [1, 2, 3, 4]));
        (0..30_000).for_each(|n| fixture::store_name(&cache, &format!("n{n}.test"), 500, Tick(0)));
        snapshot.pools[0].cache = Some(Arc::clone(&cache));
        let mut cleaner = CacheCleaner::default();
        cleaner.turn(&snapshot, |_| true, Tick(SECOND));
        cache.remove_soon(What::Any(0), Tick(SECOND)).expect("nothing waits");
        assert!(cleaner.at(&snapshot).is_some_and(|at| at <= Tick(SECOND)) && !cache.is_empty());
        for turn in 0..20 {
            cleaner.turn(&snapshot, |_| true, Tick(2 * SECOND) + TickDelta::from_ms(turn * 10));
        }
        assert_eq!((cache.len(), cleaner.at(&snapshot)), (0, Some(Tick(61 * SECOND))));
    }

    #[test]
    fn without_a_cache_nothing_is_due() {
        let snapshot = fixture::snapshot(1, &[], &[0]);
        assert_eq!(CacheCleaner::default().at(&snapshot), None);
    }
}
