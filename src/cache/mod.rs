//! Answers kept for all shards.

pub mod table;
