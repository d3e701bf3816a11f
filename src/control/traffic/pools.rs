//! Names of pools: their slots are of one configuration, and records outlive it.

use std::sync::Arc;

use crate::base::addr::PoolSlot;
use crate::base::narrow::to_u16;
use crate::model::Snapshot;

/// Names that are kept, at most; those of further pools are not known.
const NAMES_MAX: usize = 10_000;

/// Every pool's name since the start, each under a slot for good.
#[derive(Debug, Default)]
pub(super) struct PoolNames {
    names: Vec<Arc<str>>,
    /// The lasting slot of each slot of the present configuration.
    lasting: Vec<PoolSlot>,
    generation: Option<u64>,
}

impl PoolNames {
    /// Adopts a configuration, unless it is that of the last call.
    pub(super) fn adopt(&mut self, snapshot: &Snapshot) {
        if self.generation == Some(snapshot.generation) {
            return;
        }
        self.generation = Some(snapshot.generation);
        self.lasting.clear();
        for pool in &snapshot.pools {
            let known = self.slot(&pool.name);
            self.lasting.push(known.unwrap_or_else(|| {
                if self.names.len() >= NAMES_MAX {
                    return PoolSlot::NONE;
                }
                self.names.push(pool.name.as_str().into());
                PoolSlot(to_u16(self.names.len() - 1))
            }));
        }
    }

    /// Returns the lasting slot of a pool of the configuration.
    pub(super) fn lasting(&self, slot: PoolSlot) -> PoolSlot {
        self.lasting.get(slot.index()).copied().unwrap_or(PoolSlot::NONE)
    }

    /// Returns the lasting slot of a pool's name.
    pub(super) fn slot(&self, name: &str) -> Option<PoolSlot> {
        self.names.iter().position(|n| **n == *name).map(|at| PoolSlot(to_u16(at)))
    }

    /// Returns the name of a lasting slot.
    pub(super) fn name(&self, slot: PoolSlot) -> &str {
        self.names.get(slot.index()).map_or("", |name| name)
    }
}
