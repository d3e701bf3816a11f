//! dnslob, the DNS delivery controller.

pub mod addr;
pub mod config;
pub mod control;
pub mod engine;
pub mod live;
pub mod packet;
pub mod rng;
pub mod shard;
pub mod time;
pub mod wire;
