//! UDP between the kernel and a shard: sockets, batches, local addresses.

pub mod deferred;
pub mod local_addresses;
pub mod send_batch;
pub mod sockets;
pub mod transparent;
