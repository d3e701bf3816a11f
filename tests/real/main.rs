//! Real programs on loopback: the built `dnslob` before unbound, nsd and knotd, asked by dig, kdig,
//! dnsperf and by a load client that accounts for every single query.
//!
//! Queries are counted at both ends: [`load`] knows each one it sent and what became of it, and
//! [`backend`] each one that arrived. Nothing waits for a fixed time: a test polls for what it
//! needs, with a deadline. Each test has ports and a directory of its own, and ends only the
//! processes that it started.
//!
//! `scripts/test` installs the programs. Without one of them a test fails and says which; the one
//! exception is the test in network namespaces, which says so when it may not make any.

// Tests may stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backend;
mod instance;
mod load;
mod message;
mod meter;
mod pki;
mod place;
mod process;
mod servers;
mod witness;

mod activation;
mod addresses;
mod clients;
mod death;
mod descriptors;
mod dnsdist;
mod fairness;
mod forward;
mod hostile;
mod log_targets;
mod mistakes;
mod namespaces;
mod overlap;
mod proxy;
mod recipes;
mod reload;
mod renewal;
mod rules;
mod runaway;
mod scale;
mod signals;
mod stop;
mod streams;
mod tls;
