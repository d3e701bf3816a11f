//! What every tool that asks or answers many queries is made of.
//!
//! ```text
//!  pace ─► query ─► outstanding ─► answer: settled, late, wrong, ... ─► tally ─► intervals ─► totals
//! ```
//! One thread owns all of that for its own sockets; it tells the others what it has measured once a
//! second, by a channel. Nothing here knows where the queries come from.

pub(crate) mod failures;
pub(crate) mod interrupt;
pub(crate) mod outstanding;
pub(crate) mod pace;
pub(crate) mod progress;
pub(crate) mod random;
pub(crate) mod sockets;
pub(crate) mod spans;
pub(crate) mod stream;
pub(crate) mod tally;
pub(crate) mod threads;
pub(crate) mod totals;
pub(crate) mod waiter;
