//! The decision on a packet.

use crate::base::addr::{Client, Route};
use crate::stats::drop_reason::DropReason;

/// The shard's decision on one packet; its bytes have been edited to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the packet, a self-generated answer, to the client.
    Answer(Client),
    /// Send the packet, a backend's response, to the client.
    Deliver(Client),
    /// Drop the packet; it is counted under the reason.
    Drop(DropReason),
    /// Send the packet to the backend.
    Forward(Route),
    /// Drop the packet: the shard keeps a copy, which it emits later.
    Hold,
}
