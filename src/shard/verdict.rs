//! What becomes of a packet, and why one was dropped.

use crate::base::addr::{Client, Route};
use crate::stats::drop_reason::DropReason;

/// The shard's decision on one packet; its bytes have been edited to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the packet, an answer of our own, to the client.
    Answer(Client),
    /// Send the packet, a backend's answer, to the client.
    Deliver(Client),
    /// Forget the packet; it is counted under the reason.
    Drop(DropReason),
    /// Send the packet to the backend.
    Forward(Route),
    /// Forget the packet: the shard has copied it, and hands it out when its time has come.
    Hold,
}
