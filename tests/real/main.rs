//! Tests with real programs on loopback: the built `dnslob` with unbound, nsd and knotd as servers,
//! and dig, kdig, dnsperf and a load client that accounts for every query.
//!
//! Queries are counted at both ends: [`load`] knows the outcome of each query it sent, and
//! [`backend`] counts each one that arrived. Tests do not sleep for fixed times: they poll for a
//! condition, with a deadline. Each test has its own ports and directory, and ends only the
//! processes that it started.
//!
//! `scripts/test` installs the programs. A test fails and names the program that is missing; the
//! only exception are the tests with network namespaces, which report that they cannot create any.

// Tests may panic at the first failure.
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
mod api;
mod api_document;
mod bench;
mod bench_faults;
mod browser;
mod cache_snapshot;
mod clients;
mod connections;
mod console;
mod dashboard;
mod descriptors;
mod dnsdist;
mod failover;
mod fairness;
mod hostile;
mod log_targets;
mod loops;
mod mistakes;
mod namespaces;
mod overlap;
mod prometheus;
mod proxy;
mod recipes;
mod relay;
mod reload;
mod renewal;
mod replay;
mod rules;
mod runaway;
mod scale;
mod scope;
mod signals;
mod silence;
mod stop;
mod tls;
mod traffic;
mod web;
