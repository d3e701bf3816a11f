//! DNS octets (RFC 1035): views and in-place edits. No allocation, no I/O, no clock; every
//! function takes whatever the network sent and never panics on it.

pub mod answer;
pub mod codes;
pub mod edit;
pub mod edns;
pub mod header;
pub mod name;
pub mod query;
