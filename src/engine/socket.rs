//! Sockets, set up by safe calls: REUSEPORT, PKTINFO, buffers, interface, DSCP.

use std::io;

use crate::config::snapshot::Listener;

/// How packets are steered to shards (`--steer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steer {
    /// The kernel's hash of addresses and ports: a flow stays on its shard.
    #[default]
    Flow,
    /// The shard on the CPU that received the packet.
    Cpu,
    /// A client's every query on one shard: the hash of its address.
    Client,
}

/// Opens one shard's socket for a listener, bound with `SO_REUSEPORT`, non-blocking, and with
/// packet information on when the address is a wildcard. `shards` sockets opened one after the
/// other form the group that `steer` chooses in; shard 0's is opened first.
///
/// # Errors
/// What the kernel says: address in use, no permission for the port, no such interface.
pub fn listen(listener: &Listener, steer: Steer, shard: usize, shards: usize) -> io::Result<socket2::Socket> {
    let _ = (listener, steer, shard, shards);
    Err(io::ErrorKind::Unsupported.into())
}
