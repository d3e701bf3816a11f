//! The pools of a snapshot with the state of their servers in this shard, as rules see them.

use crate::balance::Balancer;
use crate::base::addr::PoolSlot;
use crate::model::Snapshot;
use crate::rules::context::Pools;

/// The pools of a snapshot, for rules.
#[derive(Debug)]
pub struct PoolView<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The state of its servers.
    pub balancer: &'a Balancer,
}

impl Pools for PoolView<'_> {
    fn named(&self, name: &str) -> Option<PoolSlot> {
        self.snapshot.pool_named(name)
    }

    fn is_available(&self, pool: PoolSlot) -> bool {
        self.balancer.usable(pool) > 0
    }

    fn outstanding(&self, pool: PoolSlot) -> u64 {
        self.balancer.outstanding(self.snapshot, pool)
    }
}
