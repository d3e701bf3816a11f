//! What the tests and benches share: a farm to configure by hand and DNS messages as text.

// Each test uses its own part of this.
#![allow(dead_code)]

pub(crate) mod farm;
pub(crate) mod message;
