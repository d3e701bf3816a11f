//! The packet caches that pools use, compiled and judged.

#![expect(clippy::disallowed_methods, reason = "keys of a cache decide nothing but where its entries are")]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::files;
use crate::cache::{CacheOptions, PacketCache};
use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Errors, Fault, Origin};
use crate::config::lists::PoolNames;
use crate::config::options::Key;

/// The most entries of all packet caches that are in use.
pub const ENTRIES_MAX: u32 = 100_000_000;
/// The most packet caches that are in use.
const CACHES_MAX: usize = 1024;

/// Builds the packet caches that pools use, by their places in the draft.
pub(crate) fn build(draft: &Draft, errors: &mut Errors) -> BTreeMap<usize, Arc<PacketCache>> {
    // Keys that nobody can guess; the standard library draws them from the system.
    let seed = |number: u64| RandomState::new().hash_one(number);
    let mut built = BTreeMap::new();
    let mut snapshots: BTreeMap<PathBuf, &Origin> = BTreeMap::new();
    let mut entries = 0_usize;
    for pool in &draft.pools {
        let Some((at, written)) = pool.cache.and_then(|at| Some((at, draft.caches.get(at)?))) else {
            continue;
        };
        if built.contains_key(&at) {
            continue;
        }
        entries = entries.saturating_add(written.value.entries_max);
        let is_too_much = entries > ENTRIES_MAX as usize;
        if is_too_much || built.len() == CACHES_MAX {
            let (what, limit) = if is_too_much {
                (format!("packet caches with {entries} entries in all"), ENTRIES_MAX.to_string())
            } else {
                (format!("{} packet caches", CACHES_MAX + 1), CACHES_MAX.to_string())
            };
            errors.push(ConfigError::new(&written.origin, "newPacketCache", Fault::Limit { what, limit }));
            return built;
        }
        if let Some(path) = &written.value.snapshot
            && let file = file_of(path)
            && let Some(other) = snapshots.insert(file.clone(), &written.origin)
        {
            let also = if file == Path::new(path) { String::new() } else { format!(", which is {file:?},") };
            let fault = Fault::Conflict {
                wrong: format!("the snapshot {path:?}{also} is that of the cache at {other} too"),
                expected: "a file for each cache".to_owned(),
            };
            errors.push(ConfigError::new(&written.origin, "newPacketCache", fault));
        }
        built.insert(at, Arc::new(PacketCache::new(written.value.clone(), [0, 1, 2, 3].map(seed))));
    }
    built
}

/// Returns the one path of a snapshot's file. In a directory that is missing it is as it was written.
fn file_of(path: &str) -> PathBuf {
    let path = Path::new(path);
    files::resolved(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// Returns whether servers of all pools with a cache get the client's subnet.
fn sends_subnet(draft: &Draft, cache: usize) -> bool {
    let mut pools = draft.pools.iter().filter(|pool| pool.cache == Some(cache));
    pools.all(|pool| {
        let is_member = |pools: &PoolNames| pools.iter().any(|name| name == pool.name);
        draft.servers.iter().any(|s| !s.removed && s.use_client_subnet && is_member(&s.pools))
    })
}

/// Returns an option that has no effect without another one, or a setting, and that.
fn idle_option(options: &CacheOptions, is_stale_given: bool) -> Option<(&'static str, &'static str)> {
    const STALE: &str = "setStaleCacheEntriesTTL";
    let default = CacheOptions::new(options.entries_max);
    let is_stale_idle = [
        ("keepStaleData", options.keep_stale),
        ("staleTTL", options.stale_ttl != default.stale_ttl),
        ("staleOnFailure", options.stale_on_failure != default.stale_on_failure),
    ];
    let stale = is_stale_idle.into_iter().find(|(_, is_set)| !is_stale_given && *is_set);
    let is_prefetch_idle = options.prefetch_percent == 0 && options.prefetch_hits != default.prefetch_hits;
    stale
        .map(|(option, _)| (option, STALE))
        .or_else(|| is_prefetch_idle.then_some(("prefetchHits", "prefetch")))
}

/// Warns of packet caches that no pool uses, and of options that have no effect by a setting.
pub(crate) fn warn(draft: &mut Draft) {
    let is_stale_given = draft.settings.number(Key::StaleCache).unwrap_or_default() > 0;
    for (at, written) in draft.caches.iter().enumerate() {
        let note = if !draft.pools.iter().any(|pool| pool.cache == Some(at)) {
            Fault::Note("no pool uses it: getPool(name):setCache(cache)".to_owned())
        } else if written.value.warm_up.is_some() && sends_subnet(draft, at) {
            Fault::Note(
                "warmUp has no effect beside useClientSubnet: no client without a subnet would ask"
                    .to_owned(),
            )
        } else if let Some((option, other)) = idle_option(&written.value, is_stale_given) {
            Fault::Conflict {
                wrong: format!("{option} has no effect without {other}"),
                expected: "both or neither".to_owned(),
            }
        } else {
            continue;
        };
        draft.warnings.push(ConfigError::new(&written.origin, "newPacketCache", note));
    }
}
