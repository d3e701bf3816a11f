//! Rules as tables: a configuration, packets in, and what becomes of them. Every selector, every
//! action and every chain has its rows; see [`bench`] for how a row is written.

// Tests may stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod bench;

mod accounting;
mod actions;
mod answers;
mod behaviour;
mod chains;
mod edns;
mod limits;
mod proxy;
mod responses;
mod selectors;
