//! Reads the live state of every pool under `concentrate`, and writes the shares.

use std::collections::BTreeMap;

use crate::balance::usable_members;
use crate::base::addr::BackendSlot;
use crate::base::time::Tick;
use crate::control::concentrate::{Concentrator, WindowStats};
use crate::model::Snapshot;
use crate::model::policy::Kind;
use crate::stats::histogram::BUCKETS;
use crate::stats::live::LiveState;

/// The controllers of all pools under `concentrate`. A server in two such pools gets the shares of
/// the last one: the live state has one share per server.
#[derive(Debug, Default)]
pub struct ConcentrateDriver {
    pools: BTreeMap<String, (Option<Tick>, Concentrator)>,
    counts: BTreeMap<BackendSlot, Counts>,
}

/// A server's counters as last read, over all shards, and their growth in the last window.
#[derive(Debug)]
struct Counts {
    /// The server's identity.
    id: String,
    /// Read at least once, so that growth is known.
    primed: bool,
    queries: u64,
    responses: u64,
    timeouts: u64,
    latencies: Box<[u64]>,
    window: Box<[u32]>,
}

impl ConcentrateDriver {
    /// Creates a driver without controllers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs each pool's controller if its window is over; called at least every
    /// [`window`](crate::model::policy::Concentrate::window). Writes only changed shares.
    pub fn tick(&mut self, now: Tick, snapshot: &Snapshot, live_state: &LiveState) {
        let pools = || snapshot.pools.iter().filter(|p| p.policy.kind == Kind::Concentrate);
        self.pools.retain(|name, _| pools().any(|p| p.name == *name));
        self.drop_removed(snapshot);
        for pool in pools() {
            let settings = &pool.policy.concentrate;
            let (ticked, controller) = self
                .pools
                .entry(pool.name.clone())
                .or_insert_with(|| (None, Concentrator::new(settings.clone())));
            if ticked.is_some_and(|before| now.since(before) < settings.window) {
                continue;
            }
            *ticked = Some(now);
            if controller.settings() != settings {
                controller.set_settings(settings.clone());
            }
            let usable = usable_members(snapshot, pool, live_state);
            let deltas: Vec<_> = usable
                .iter()
                .map(|(slot, _, _)| {
                    let id = || snapshot.backend(*slot).map_or_else(String::new, |b| b.id.clone());
                    let counts = self.counts.entry(*slot).or_insert_with(|| Counts::of(id()));
                    counts.read(*slot, live_state)
                })
                .collect();
            let windows: Vec<_> = usable
                .iter()
                .zip(deltas)
                .map(|((slot, order, usable), (queries, responses, timeouts))| WindowStats {
                    slot: *slot,
                    order: *order,
                    usable: *usable,
                    queries,
                    responses,
                    timeouts,
                    latencies: self.counts.get(slot).map_or(&[], |c| &c.window),
                })
                .collect();
            for share in controller.tick(now, &windows) {
                let live = live_state.backend(share.slot);
                // Each write makes every shard rebuild its tables.
                if (live.share_ppm(), live.trickle_ppm()) != (share.share_ppm, share.trickle_ppm) {
                    live_state.set_share(share.slot, share.share_ppm, share.trickle_ppm);
                }
            }
        }
    }
}

impl ConcentrateDriver {
    /// Forgets servers that are gone, including those whose slot was reused.
    fn drop_removed(&mut self, snapshot: &Snapshot) {
        let same = |slot: BackendSlot, id: &str| snapshot.backend(slot).is_some_and(|b| b.id == id);
        let controllers = &mut self.pools;
        self.counts.retain(|slot, counts| {
            let stays = same(*slot, &counts.id);
            if !stays {
                controllers.values_mut().for_each(|(_, c)| c.forget(*slot));
            }
            stays
        });
    }
}

impl Counts {
    fn of(id: String) -> Self {
        let (latencies, window) = (vec![0; BUCKETS].into_boxed_slice(), vec![0; BUCKETS].into_boxed_slice());
        Self { id, primed: false, queries: 0, responses: 0, timeouts: 0, latencies, window }
    }

    /// Reads the counters and returns their growth: queries, responses, time-outs.
    fn read(&mut self, slot: BackendSlot, live_state: &LiveState) -> (u64, u64, u64) {
        let shards: Vec<_> =
            live_state.shards().iter().filter_map(|shard| shard.backend_if_used(slot)).collect();
        let grow = |old: &mut u64, new: u64| new.wrapping_sub(std::mem::replace(old, new));
        let deltas = (
            grow(&mut self.queries, shards.iter().map(|p| p.queries.get()).sum()),
            grow(&mut self.responses, shards.iter().map(|p| p.responses.get()).sum()),
            grow(&mut self.timeouts, shards.iter().map(|p| p.timeouts.get()).sum()),
        );
        for (at, (old, window)) in self.latencies.iter_mut().zip(&mut self.window).enumerate() {
            let new = shards.iter().map(|p| p.latency.count(at)).sum();
            *window = u32::try_from(grow(old, new)).unwrap_or(u32::MAX);
        }
        if std::mem::replace(&mut self.primed, true) {
            return deltas;
        }
        // The counters cover the slot's whole past, possibly of another server.
        self.window.fill(0);
        (0, 0, 0)
    }
}
