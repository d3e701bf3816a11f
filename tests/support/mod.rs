//! Helpers shared by tests and benches: configurations built by hand, and DNS messages as text.

// Each test uses a different part of this module.
#![allow(dead_code)]

pub(crate) mod config;
pub(crate) mod message;
