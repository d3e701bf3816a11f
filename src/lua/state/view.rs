//! What scripts can read of the configuration, and of its servers while they run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot};
use crate::cache::PacketCache;
use crate::cache::figures::Counts;
use crate::model::{HealthMode, Service, Snapshot};
use crate::stats::live::{LiveState, ShardStats, State};
use crate::stats::not_cached::NotCached;

/// What scripts can read of the configuration, copied once per generation.
#[derive(Debug, Default)]
pub(crate) struct ConfigurationView {
    /// Generation of its configuration; 0 before the first.
    generation: u64,
    pools: Vec<String>,
    /// The servers of each.
    members: Vec<Vec<BackendSlot>>,
    /// By slot.
    servers: Vec<Option<Server>>,
    live_state: Option<Arc<LiveState>>,
    /// The packet caches of pools: the number of each in the file.
    caches: Vec<(PoolSlot, Option<usize>, Arc<PacketCache>)>,
    /// The interface of each, and whether it speaks TLS.
    listeners: Vec<(ListenerSlot, String, bool)>,
}

/// What scripts can read of a server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// What identifies it.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Its order.
    pub(crate) order: i32,
    /// Its weight.
    pub(crate) weight: u32,
    /// How its state is found out.
    pub(crate) mode: HealthMode,
}

impl ConfigurationView {
    /// Copies a configuration, unless it is that one; `live_state` is that of its servers.
    pub(crate) fn refresh(&mut self, snapshot: &Snapshot, live_state: &Arc<LiveState>) {
        self.live_state = Some(Arc::clone(live_state));
        if self.generation == snapshot.generation && !self.pools.is_empty() {
            return;
        }
        let server = |b: &crate::model::Backend| Server {
            id: b.id.clone(),
            mode: b.health.mode,
            name: b.name.clone(),
            address: b.address,
            order: b.order,
            weight: b.weight,
        };
        self.generation = snapshot.generation;
        self.pools = snapshot.pools.iter().map(|p| p.name.clone()).collect();
        self.members = snapshot.pools.iter().map(|p| p.members.to_vec()).collect();
        self.servers = snapshot.backends.iter().map(|b| b.as_deref().map(server)).collect();
        let pools = (0..).map(PoolSlot).zip(&snapshot.pools);
        let cached =
            pools.filter_map(|(slot, p)| Some((slot, p.cache_number, Arc::clone(p.cache.as_ref()?))));
        self.caches = cached.collect();
        let listeners = snapshot.listeners.iter();
        let is_tls = |service: &Service| matches!(service, Service::Dot(_));
        let seen = listeners.map(|l| (l.slot, l.interface.clone().unwrap_or_default(), is_tls(&l.service)));
        self.listeners = seen.collect();
    }

    /// Returns the generation of the configuration.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns a server.
    pub(crate) fn server(&self, slot: BackendSlot) -> Option<&Server> {
        self.servers.get(slot.index())?.as_ref()
    }

    /// Returns the slots of all servers.
    pub(crate) fn slots(&self) -> impl Iterator<Item = BackendSlot> {
        (0..)
            .map(BackendSlot)
            .zip(&self.servers)
            .filter_map(|(slot, server)| server.is_some().then_some(slot))
    }

    /// Returns the slot of the server that this identifies.
    pub(crate) fn slot_of(&self, id: &str) -> Option<BackendSlot> {
        let at = self.servers.iter().position(|s| s.as_ref().is_some_and(|s| s.id == id))?;
        u16::try_from(at).ok().map(BackendSlot)
    }

    /// Returns the servers of a pool, in their order.
    pub(crate) fn members(&self, pool: &[u8]) -> &[BackendSlot] {
        let slot = self.pool_named(pool);
        slot.and_then(|slot| self.members.get(slot.index())).map_or(&[], Vec::as_slice)
    }

    /// Returns the state of all servers, if a server has this slot.
    fn live(&self, slot: BackendSlot) -> Option<&LiveState> {
        self.server(slot)?;
        self.live_state.as_deref().filter(|live_state| slot.index() < live_state.backends_max())
    }

    /// Returns whether a server is up.
    pub(crate) fn is_up(&self, slot: BackendSlot) -> bool {
        let is_forced =
            self.server(slot).is_none_or(|s| matches!(s.mode, HealthMode::Down | HealthMode::Drain));
        !is_forced && self.live(slot).is_some_and(|live| live.backend(slot).state() == State::Up)
    }

    /// Returns the outstanding queries of a server.
    pub(crate) fn outstanding(&self, slot: BackendSlot) -> u32 {
        self.live(slot).map_or(0, |live| live.outstanding(slot))
    }

    /// Returns the latency of a server, microseconds: the mean of the shards that have one.
    pub(crate) fn latency_us(&self, slot: BackendSlot) -> u32 {
        let shards = self.live(slot).map(LiveState::shards).unwrap_or_default();
        let measured = shards.iter().map(|shard| shard.latency_us[slot.index()].load(Relaxed));
        let (sum, count) =
            measured.filter(|us| *us > 0).fold((0_u64, 0_u64), |(sum, n), us| (sum + u64::from(us), n + 1));
        u32::try_from(sum / count.max(1)).unwrap_or(u32::MAX)
    }

    /// Returns a pool's name; empty for the default pool.
    pub(crate) fn pool(&self, slot: PoolSlot) -> &str {
        self.pools.get(slot.index()).map_or("", String::as_str)
    }

    /// Returns the pool with a name.
    pub(crate) fn pool_named(&self, name: &[u8]) -> Option<PoolSlot> {
        let at = self.pools.iter().position(|p| p.as_bytes() == name)?;
        u16::try_from(at).ok().map(PoolSlot)
    }

    /// Returns a packet cache that a pool has.
    pub(crate) fn cache(&self, which: WhichCache<'_>) -> Option<&Arc<PacketCache>> {
        let is_it = |slot: PoolSlot, number: Option<usize>| match which {
            WhichCache::Number(wanted) => number == Some(wanted),
            WhichCache::OfPool(name) => {
                self.pool(slot).as_bytes() == name && self.pool_named(name) == Some(slot)
            }
        };
        self.caches.iter().find(|(slot, number, _)| is_it(*slot, *number)).map(|(.., cache)| cache)
    }

    /// Returns what all pools with a packet cache have counted of it.
    pub(crate) fn cache_counts(&self, cache: &PacketCache) -> Counts {
        let mut counts = Counts::default();
        let Some(live_state) = &self.live_state else { return counts };
        for (slot, ..) in self.caches.iter().filter(|(.., other)| other.shares_entries(cache)) {
            let reading = live_state.pool(*slot);
            counts.hits += reading.cache_hits;
            counts.misses += reading.cache_misses;
            counts.busy += reading.cache_not_stored[NotCached::Busy];
            counts.ttl_too_short += reading.cache_not_stored[NotCached::TtlTooShort];
        }
        counts
    }

    /// Returns the pages of all shards.
    pub(crate) fn shards(&self) -> &[Arc<ShardStats>] {
        self.live_state.as_deref().map_or(&[], LiveState::shards)
    }

    /// Returns whether a listener speaks TLS.
    pub(crate) fn has_tls(&self, slot: ListenerSlot) -> bool {
        self.listeners.iter().any(|(of, _, is_tls)| *of == slot && *is_tls)
    }

    /// Returns the interface that a listener is bound to; empty without one.
    pub(crate) fn interface(&self, slot: ListenerSlot) -> &str {
        self.listeners.iter().find(|l| l.0 == slot).map_or("", |l| l.1.as_str())
    }
}

/// How functions name a packet cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhichCache<'n> {
    /// By its number in the file.
    Number(usize),
    /// By the name of a pool that has it.
    OfPool(&'n [u8]),
}

impl Server {
    /// Returns its name, with its address in brackets if that is different.
    pub(crate) fn name_with_address(&self) -> String {
        let address = self.address.to_string();
        if self.name == address { address } else { format!("{} ({address})", self.name) }
    }
}
