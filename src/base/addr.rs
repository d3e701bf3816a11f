//! The indexes and addresses that cross modules: no bare `usize` travels between them.
//!
//! A *slot* is a stable index: a backend or a listener keeps its slot for as long as it lives,
//! over any number of reloads, so that per-slot state in the shards needs no translation.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

/// Stable index of a backend, process-wide; kept over reloads by the backend's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendSlot(pub u16);

/// Stable index of a listen address, process-wide; kept over reloads by the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerSlot(pub u16);

/// Index of a pool in one [`Snapshot`](crate::model::Snapshot); 0 is the default pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolSlot(pub u16);

/// Stable index of a rule, process-wide; kept over reloads by the rule's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleSlot(pub u32);

/// A pool that something refers to: by its name as written, by its slot once compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRef {
    /// The name; empty for the default pool.
    pub name: Arc<str>,
    /// The slot that `compile` found for it.
    pub slot: PoolSlot,
}

/// By which of a shard's sockets a backend is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketSlot {
    /// One of its UDP sockets (source ports).
    Datagram(u8),
    /// One of its connections over TCP or TLS, at most [`SocketSlot::CONNECTIONS_MAX`].
    Connection(u16),
}

/// A client's connection within a shard: its index, and which of the connections that have had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionSlot(pub u32);

/// A relay session, a connection or a flow, within a shard: as [`ConnectionSlot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionSlot(pub u32);

/// Index into the engine's table of local addresses that wildcard listeners were asked on.
/// The shard only carries it from the query to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalSlot(pub u16);

impl PoolSlot {
    /// No pool has it: a query for it has no server.
    pub const NONE: Self = Self(u16::MAX);
}

impl SocketSlot {
    /// Connections of one backend: with the UDP sockets their numbers fill 16 bits.
    pub const CONNECTIONS_MAX: u16 = u16::MAX - Self::FIRST_CONNECTION + 1;
    const FIRST_CONNECTION: u16 = 256;

    /// One number for both kinds, for tables and for what the kernel keeps for us.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Datagram(socket) => socket as u16,
            Self::Connection(connection) => Self::FIRST_CONNECTION + connection,
        }
    }

    /// The socket with this [`number`](Self::number).
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number.checked_sub(Self::FIRST_CONNECTION) {
            Some(connection) => Self::Connection(connection),
            None => Self::Datagram(number as u8),
        }
    }
}

impl Route {
    /// Whether it is a connection, not a UDP socket.
    #[must_use]
    pub const fn is_connection(self) -> bool {
        matches!(self.socket, SocketSlot::Connection(_))
    }
}

impl LocalSlot {
    /// The listener's own address: nothing to remember.
    pub const LISTENER: Self = Self(0);
}

macro_rules! index {
    ($($t:ty),*) => {$(impl $t {
        /// The slot as an index into a table.
        #[must_use]
        pub const fn index(self) -> usize { self.0 as usize }
    })*};
}
index!(BackendSlot, ListenerSlot, PoolSlot, LocalSlot, RuleSlot);

/// A slot that is given to one thing after another: what was meant by an old one is told from what
/// has its index at present.
pub trait Generational: Copy + Eq {
    /// Bits of the index: 16 million at a time. The others count who has had it.
    const INDEX_BITS: u32 = 24;

    /// The slot of these bits.
    fn from_bits(bits: u32) -> Self;

    /// Its bits.
    fn bits(self) -> u32;

    /// The slot with an index and a generation.
    #[must_use]
    fn new(index: u32, generation: u8) -> Self {
        Self::from_bits(u32::from(generation) << Self::INDEX_BITS | index)
    }

    /// The slot as an index into a table.
    fn index(self) -> usize {
        (self.bits() & ((1 << Self::INDEX_BITS) - 1)) as usize
    }

    /// Which of those that have had the index.
    fn generation(self) -> u8 {
        (self.bits() >> Self::INDEX_BITS) as u8
    }
}

macro_rules! generational {
    ($($t:ty),*) => {$(impl $t {
        /// The slot as an index into a table, whoever has it at present.
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

/// Where a query goes and its answer comes from: one connected socket of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The backend.
    pub backend: BackendSlot,
    /// Which of its sockets.
    pub socket: SocketSlot,
}

/// An IP address and port in 24 bytes; IPv4 is held as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2).
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
    /// The address alone, with IPv4-mapped addresses given back as IPv4.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        matches!(self.ip, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }
}

/// An address as 16 bytes, IPv4 mapped into IPv6.
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

/// Who asked, and through which door: all that is needed to send the answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The client's own address.
    pub peer: Endpoint,
    /// The listener that heard it, which must answer it.
    pub listener: ListenerSlot,
    /// The local address that was asked, when the listener is bound to a wildcard.
    pub local: LocalSlot,
    /// The connection that the query came by, and its answer leaves by; none for a datagram.
    pub connection: Option<ConnectionSlot>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_the_round_trip() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:5353"] {
            let a: SocketAddr = text.parse().expect("an address");
            let e = Endpoint::from(a);
            assert_eq!(SocketAddr::from(e), a);
            assert_eq!(e.to_string(), text);
            assert_eq!(e.is_ipv4(), a.is_ipv4());
        }
    }
}
