//! Foundations: addresses, time, randomness, the packet buffer. Independent of DNS.

pub mod addr;
pub mod files;
pub mod narrow;
pub mod packet;
pub mod packet_queue;
pub mod panics;
pub mod prefix;
pub mod printable;
pub mod reasons;
pub mod rng;
pub mod time;
