//! Indexes and addresses as types of their own, so that no bare `usize` crosses a module.
//!
//! A *slot* is a stable index: a backend or a listener keeps its slot as long as it exists, over
//! any number of reloads, so that per-slot state in the shards needs no translation.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

/// Stable index of a backend in the process; kept across reloads by the backend's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendSlot(pub u16);

/// Stable index of a listener in the process; kept across reloads by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerSlot(pub u16);

/// Most listeners at a time, including removed ones that shards still serve.
pub const LISTENERS_MAX: usize = 1024;

/// Index of a pool in one [`Snapshot`](crate::model::Snapshot); 0 is the default pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolSlot(pub u16);

/// Stable index of a rule in the process; kept across reloads by the rule's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleSlot(pub u32);

/// A reference to a pool: by name as written, by slot once compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRef {
    /// The name; empty for the default pool.
    pub name: Arc<str>,
    /// The slot that `compile` assigned.
    pub slot: PoolSlot,
}

/// Which of a shard's sockets a query is sent to a backend from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketSlot {
    /// One of the backend's UDP sockets (source ports).
    Datagram(u8),
    /// One of the backend's connections over TCP or TLS, at most [`SocketSlot::CONNECTIONS_MAX`].
    Connection(u16),
}

/// A client connection within a shard: its index, and which of the connections that have had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionSlot(pub u32);

/// A relay session within a shard, like [`ConnectionSlot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionSlot(pub u32);

/// Index into the engine's table of local addresses of wildcard listeners. The shard only carries
/// it from the query to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalSlot(pub u16);

impl PoolSlot {
    /// No pool has it: queries for it have no server.
    pub const NONE: Self = Self(u16::MAX);
}

impl SocketSlot {
    /// Most connections of a backend: with the UDP sockets their numbers fill 16 bits.
    pub const CONNECTIONS_MAX: u16 = u16::MAX - Self::FIRST_CONNECTION + 1;
    /// A backend has at most 255 UDP sockets.
    const FIRST_CONNECTION: u16 = 256;

    /// Returns one number for both kinds, for tables and for what the kernel stores for us.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Datagram(socket) => socket as u16,
            Self::Connection(connection) => Self::FIRST_CONNECTION + connection,
        }
    }

    /// Returns the socket with this [`number`](Self::number).
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number.checked_sub(Self::FIRST_CONNECTION) {
            Some(connection) => Self::Connection(connection),
            None => Self::Datagram(number as u8),
        }
    }
}

impl Route {
    /// Returns whether it is a connection rather than a UDP socket.
    #[must_use]
    pub const fn is_connection(self) -> bool {
        matches!(self.socket, SocketSlot::Connection(_))
    }
}

impl LocalSlot {
    /// The listener's own address.
    pub const LISTENER: Self = Self(0);
}

macro_rules! index {
    ($($t:ty),*) => {$(impl $t {
        /// Returns the slot as an index into a table.
        #[must_use]
        pub const fn index(self) -> usize { self.0 as usize }
    })*};
}
index!(BackendSlot, ListenerSlot, PoolSlot, LocalSlot, RuleSlot);

/// A slot whose index is reused: its generation tells a stale slot from the one that has its index
/// at present.
pub trait Generational: Copy + Eq {
    /// Bits of the index: 16 million at a time. The others are the generation.
    const INDEX_BITS: u32 = 24;

    /// Makes a slot of its bits.
    fn from_bits(bits: u32) -> Self;

    /// Returns its bits.
    fn bits(self) -> u32;

    /// Makes a slot of an index and a generation.
    #[must_use]
    fn new(index: u32, generation: u8) -> Self {
        Self::from_bits(u32::from(generation) << Self::INDEX_BITS | index)
    }

    /// Returns the slot as an index into a table.
    fn index(self) -> usize {
        (self.bits() & ((1 << Self::INDEX_BITS) - 1)) as usize
    }

    /// Returns its generation.
    fn generation(self) -> u8 {
        (self.bits() >> Self::INDEX_BITS) as u8
    }
}

macro_rules! generational {
    ($($t:ty),*) => {$(impl $t {
        /// Returns the slot as an index into a table, whatever its generation.
        #[must_use]
        pub const fn index(self) -> usize {
            (self.0 & ((1 << <Self as Generational>::INDEX_BITS) - 1)) as usize
        }
    }

    impl Generational for $t {
        fn from_bits(bits: u32) -> Self {
            Self(bits)
        }

        fn bits(self) -> u32 {
            self.0
        }
    })*};
}
generational!(ConnectionSlot, SessionSlot);

/// Where a query goes and its response comes from: one socket or connection of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The backend.
    pub backend: BackendSlot,
    /// The socket or connection.
    pub socket: SocketSlot,
}

/// An IP address and port in 24 bytes; IPv4 is stored as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address, network order.
    pub ip: [u8; 16],
    /// Zone of a link-local address, 0 otherwise.
    pub scope: u32,
    /// The port, host order.
    pub port: u16,
}

impl Endpoint {
    /// Returns the address, with IPv4-mapped addresses as IPv4.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }

    /// Returns whether this is an IPv4 address.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        matches!(self.ip, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }
}

/// Returns an address as 16 bytes, with IPv4 mapped into IPv6.
#[must_use]
pub const fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(a: SocketAddr) -> Self {
        let scope = match a {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        Self { ip: mapped(a.ip()), scope, port: a.port() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(e: Endpoint) -> Self {
        match e.ip() {
            IpAddr::V4(v4) => (v4, e.port).into(),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, e.port, 0, e.scope).into(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

/// The client of a query, and the listener: all that is needed to send the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The client's own address.
    pub peer: Endpoint,
    /// The listener that received the query and sends the answer.
    pub listener: ListenerSlot,
    /// The destination address of the query, when the listener is bound to a wildcard.
    pub local: LocalSlot,
    /// The connection of query and answer; `None` for UDP.
    pub connection: Option<ConnectionSlot>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_round_trip() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:5353"] {
            let a: SocketAddr = text.parse().expect("an address");
            let e = Endpoint::from(a);
            assert_eq!(SocketAddr::from(e), a);
            assert_eq!(e.to_string(), text);
            assert_eq!(e.is_ipv4(), a.is_ipv4());
        }
    }
}
