//! One shard's selector: keeps table and tally in step with the configuration, the live state and
//! the other shards, and applies the pool's policy.

use std::sync::Arc;

use crate::balance::choose::{Skipped, View};
use crate::balance::hash::{hash, rehash, scale};
use crate::balance::table::Table;
use crate::balance::tally::Tally;
use crate::balance::{Subject, choose, table};
use crate::base::addr::{BackendSlot, PoolSlot};
use crate::base::narrow::to_u16;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::model::Snapshot;
use crate::model::policy::Kind;
use crate::rules::script::Candidate;
use crate::stats::live::{LiveState, PPM};

/// One shard's view of the backends, and its selection among them.
#[derive(Debug)]
pub struct Balancer {
    live_state: Arc<LiveState>,
    shard: usize,
    tally: Tally,
    tables: Vec<Table>,
    skipped: Skipped,
    /// Owner of each slot, by backend id.
    owners: Vec<Option<String>>,
    generation: u64,
    epoch: u64,
}

impl Balancer {
    /// Creates the selector of shard number `shard`.
    #[must_use]
    pub fn new(live_state: Arc<LiveState>, shard: usize) -> Self {
        Self {
            tally: Tally::new(Arc::clone(&live_state), shard),
            tables: Vec::new(),
            skipped: Skipped::new(live_state.backends_max()),
            owners: Vec::new(),
            generation: 0,
            epoch: 0,
            live_state,
            shard,
        }
    }

    /// Reads the other shards' counts, and what the control thread changed.
    pub fn begin_batch(&mut self, now: Tick, snapshot: &Snapshot) {
        self.tally.begin_batch(now);
        self.refresh(snapshot);
        self.tally.read_others();
    }

    /// Selects a server of `pool` that is not in `avoid`; returns none if no member may get the
    /// query.
    pub fn select(
        &mut self,
        snapshot: &Snapshot,
        pool: PoolSlot,
        subject: &Subject<'_>,
        avoid: &[BackendSlot],
        rng: &mut ShardRng,
    ) -> Option<BackendSlot> {
        if self.generation != snapshot.generation {
            self.refresh(snapshot);
        }
        let policy = &snapshot.pool(pool).policy;
        // As in Snapshot::pool: the default pool for an unknown slot.
        let at = if pool.index() < self.tables.len() { pool.index() } else { 0 };
        let table = self.tables.get_mut(at)?;
        let hash = if choose::hashes(policy.kind) { hash(policy.hash_key, policy.seed, subject) } else { 0 };
        self.skipped.clear();
        let mut first = None;
        loop {
            let plain = avoid.is_empty() && !table.soft_limits && self.skipped.is_empty();
            let view = View { tally: &self.tally, avoid, skipped: &self.skipped, plain };
            let Some(member) = choose::choose(&view, table, policy, hash, rng) else {
                // There is no other: a cold server is better than none.
                if table.usable.is_empty()
                    && policy.kind == Kind::RoundRobin
                    && !snapshot.globals.round_robin_fail_on_no_server
                {
                    return choose::round_robin_down(&view, table).map(|m| m.slot);
                }
                return first;
            };
            // concentrate's shares warm a server up by themselves.
            if member.warmth_ppm >= PPM || policy.kind == Kind::Concentrate {
                return Some(member.slot);
            }
            let draw = if choose::hashes(policy.kind) {
                // By name, so that a warming server always gets the same names, and ever more of
                // them.
                scale(rehash(hash ^ u64::from(member.slot.0)), u64::from(PPM))
            } else {
                u64::from(rng.below(PPM))
            };
            if draw < u64::from(member.warmth_ppm) {
                return Some(member.slot);
            }
            first = first.or(Some(member.slot));
            self.skipped.insert(member.slot);
        }
    }

    /// Returns the number of servers of a pool that may get queries.
    #[must_use]
    pub fn usable(&self, pool: PoolSlot) -> usize {
        self.tables.get(pool.index()).map_or(0, |t| t.usable.len())
    }

    /// Returns whether every pool that a backend is in has another usable one, and there is such a pool.
    #[must_use]
    pub fn has_other(&self, snapshot: &Snapshot, backend: BackendSlot) -> bool {
        let pools = snapshot.pools.iter().enumerate().filter(|(_, pool)| pool.members.contains(&backend));
        let mut others = pools.map(|(at, _)| self.usable(PoolSlot(to_u16(at))) > 1).peekable();
        others.peek().is_some() && others.all(|has_other| has_other)
    }

    /// Fills `to` with the servers of a pool that may get queries, by order.
    pub fn candidates(&self, pool: PoolSlot, to: &mut Vec<Candidate>) {
        to.clear();
        let Some(table) = self.tables.get(pool.index()) else { return };
        to.extend(table.usable.iter().map(|member| Candidate {
            slot: member.slot,
            outstanding: self.tally.outstanding(member.slot),
            latency_us: self.tally.latency_us(member.slot),
            within_qps: self.tally.within_qps(member.slot),
        }));
    }

    /// Returns the outstanding queries of a pool's servers, over all shards.
    #[must_use]
    pub fn outstanding(&self, snapshot: &Snapshot, pool: PoolSlot) -> u64 {
        let members = snapshot.pools.get(pool.index()).map_or(&[][..], |p| &p.members);
        members.iter().map(|slot| u64::from(self.live_state.outstanding(*slot))).sum()
    }

    /// Counts a query that was sent to `slot`, effective at once for the rest of this batch.
    pub fn claimed(&mut self, slot: BackendSlot) {
        self.tally.claimed(slot);
    }

    /// Removes a query to `slot` from the outstanding ones; `latency` if it was answered.
    pub fn settled(&mut self, slot: BackendSlot, latency: Option<TickDelta>) {
        self.tally.settled(slot, latency);
    }

    /// Publishes this shard's counts for the other shards; once per batch.
    pub fn publish(&mut self) {
        self.tally.publish();
    }

    /// Rebuilds the tables if the snapshot or the live state changed. The only place that
    /// allocates.
    fn refresh(&mut self, snapshot: &Snapshot) {
        let epoch = self.live_state.epoch();
        let reloaded = self.generation != snapshot.generation || self.tables.is_empty();
        if !reloaded && self.epoch == epoch {
            return;
        }
        if reloaded {
            self.adopt(snapshot);
        }
        self.tables.resize_with(snapshot.pools.len(), || Table {
            // Each shard begins at another server; otherwise all would send their first query to
            // the same one.
            turn: u32::try_from(self.shard).unwrap_or(0),
            ..Table::default()
        });
        for (table, pool) in self.tables.iter_mut().zip(&snapshot.pools) {
            table.rebuild(snapshot, pool, &self.live_state);
        }
        self.generation = snapshot.generation;
        self.epoch = epoch;
    }

    /// Adopts a new snapshot's backends: limits, compared slots, and new owners of slots.
    fn adopt(&mut self, snapshot: &Snapshot) {
        let backends = || snapshot.backends.iter().take(self.live_state.backends_max());
        for (at, backend) in backends().enumerate() {
            let Some(backend) = backend else { continue };
            if self.owners.len() <= at {
                self.owners.resize(at + 1, None);
            }
            let owner = &mut self.owners[at];
            if owner.as_ref() != Some(&backend.id) && owner.replace(backend.id.clone()).is_some() {
                self.tally.reset(backend.slot);
            }
            self.tally.limit(backend.slot, backend.qps);
        }
        let mut watched: Vec<BackendSlot> = Vec::new();
        for pool in &snapshot.pools {
            let members = table::backends_of(snapshot, pool, &self.live_state);
            if table::compares_counts(&pool.policy, &members) {
                watched.extend(members.iter().map(|b| b.slot));
            }
        }
        watched.sort_unstable();
        watched.dedup();
        self.tally.watch(watched);
    }
}
