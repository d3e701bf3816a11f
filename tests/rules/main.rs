//! Tests rules as tables: a configuration, packets in, and their outcome. Every selector, action
//! and chain has its rows; [`bench`] describes the notation.

// Tests may panic at the first failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod bench;

mod accounting;
mod actions;
mod answers;
mod behaviour;
mod cache;
mod cache_kept;
mod chains;
mod edns;
mod limits;
mod lua_errors;
mod padding;
mod proxy;
mod responses;
mod selectors;
mod signed;
