//! What an epoll event is about, in the 64 bits that the kernel keeps with each descriptor.

use super::forward::tcp::Side;
use crate::addr::{BackendSlot, ListenerSlot, PassageSlot, Route, SocketSlot, StreamSlot};

/// What an epoll event is about, packed into its 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Mail,
    /// A listener's datagrams.
    Door(ListenerSlot),
    /// A server's datagrams, or its line.
    Link(Route),
    /// A listener's connections.
    Gate(ListenerSlot),
    /// A client's connection.
    Stream(StreamSlot),
    /// One side of a forward's connection.
    Passage(PassageSlot, Side),
    /// What a target says to a flow.
    Flow(PassageSlot),
}

impl Ready {
    pub(super) const fn pack(self) -> u64 {
        match self {
            Self::Mail => 0,
            Self::Door(slot) => 1 << 32 | slot.0 as u64,
            Self::Gate(slot) => 3 << 32 | slot.0 as u64,
            Self::Stream(stream) => 4 << 32 | stream.0 as u64,
            Self::Flow(passage) => 7 << 32 | passage.0 as u64,
            Self::Passage(passage, Side::Client) => 5 << 32 | passage.0 as u64,
            Self::Passage(passage, Side::Target) => 6 << 32 | passage.0 as u64,
            Self::Link(route) => 2 << 32 | (route.backend.0 as u64) << 16 | route.socket.0 as u64,
        }
    }

    pub(super) const fn unpack(data: u64) -> Self {
        match data >> 32 {
            0 => Self::Mail,
            1 => Self::Door(ListenerSlot(data as u16)),
            3 => Self::Gate(ListenerSlot(data as u16)),
            4 => Self::Stream(StreamSlot(data as u32)),
            5 => Self::Passage(PassageSlot(data as u32), Side::Client),
            7 => Self::Flow(PassageSlot(data as u32)),
            6 => Self::Passage(PassageSlot(data as u32), Side::Target),
            _ => Self::Link(Route {
                backend: BackendSlot((data >> 16) as u16),
                socket: SocketSlot(data as u16),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_being_packed() {
        let route = Route { backend: BackendSlot(7), socket: SocketSlot(300) };
        for ready in [
            Ready::Mail,
            Ready::Door(ListenerSlot(u16::MAX)),
            Ready::Gate(ListenerSlot(3)),
            Ready::Link(route),
            Ready::Stream(StreamSlot(u32::MAX)),
            Ready::Passage(PassageSlot(u32::MAX), Side::Client),
            Ready::Passage(PassageSlot(9), Side::Target),
            Ready::Flow(PassageSlot(0)),
        ] {
            assert_eq!(Ready::unpack(ready.pack()), ready);
        }
    }
}
