//! Selects the server of a query: the policies, and what a shard must know of its backends to apply
//! them.
//!
//! A policy is a pure function of the pool, the query, the counts and the random source. What it
//! compares (outstanding queries, `qps`) is the whole process's: each shard publishes its own part
//! once per batch in its own statistics of the [`LiveState`](crate::stats::live::LiveState) and
//! reads the others' parts once per batch.
//!
//! ```text
//!  Snapshot + LiveState ─(generation or epoch changed)─► table   members, usable ones, warmth, shares
//!  other shards' statistics ──────(once per batch)──────► tally   outstanding, sent, latency per slot
//!  query ─► hash ─► choose (policy over table and tally) ─► warmth ─► slot
//! ```
//!
//! Nothing here sends, owns a socket or reads a clock. A selection allocates nothing. `concentrate`
//! only reads its shares here; `control::concentrate` computes them.

mod balancer;
mod choose;
mod hash;
mod pools;
mod table;
mod tally;

pub use crate::balance::balancer::Balancer;
pub use crate::balance::pools::PoolView;
pub use crate::balance::table::usable_members;

use crate::base::addr::Endpoint;

/// What a policy may read of a query.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'q> {
    /// The name in wire format, uncompressed, with its root label, in the letter case of the query.
    pub qname: &'q [u8],
    /// The client.
    pub client: &'q Endpoint,
}

#[cfg(test)]
pub(crate) mod tests;
