//! The rule chains, compiled: what moves, drops or answers a query before a policy sees it.

use crate::addr::PoolSlot;

/// The query rules of a configuration, in order.
#[derive(Clone, Debug, Default)]
pub struct Chain {}

/// What the chain says of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// On to a server of this pool.
    Pool(PoolSlot),
}

impl Chain {
    /// Asks every rule in order; the first that decides wins, the default pool if none does.
    #[must_use]
    pub const fn eval(&self) -> Decision {
        Decision::Pool(PoolSlot(0))
    }
}
