//! Which server gets a query: the policies, and what a shard must know of the farm to apply them.
//!
//! A policy is a pure function of the pool, the query, the counts and the random source. What it
//! compares (outstanding queries, `qps`) is the whole process's: each shard publishes its own part
//! once per batch on its own page of the [`LiveState`](crate::stats::live::LiveState) and reads the others' parts
//! once per batch.
//!
//! ```text
//!  Snapshot + Board ──(generation or epoch moved)──► table   members, who is usable, warmth, shares
//!  other shards' pages ──(once per batch)──► tally            outstanding, sent, latency per slot
//!  query ─► hash ─► choose (policy over table and tally) ─► warmth ─► slot
//! ```
//!
//! Nothing here sends, knows a socket or asks for the time. A choice allocates nothing.
//! How `concentrate` finds its shares is not here but in `control::concentrate`.

mod choose;
mod hash;
mod pools;
mod selector;
mod table;
mod tally;

pub use crate::balance::pools::PoolView;
pub use crate::balance::selector::Selector;
pub use crate::balance::table::usable_members;

use crate::base::addr::Endpoint;

/// What of a query a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'q> {
    /// The name in wire format, uncompressed, with its root label, in the case it came in.
    pub qname: &'q [u8],
    /// Who asks.
    pub client: &'q Endpoint,
}

#[cfg(test)]
pub(crate) mod tests;
