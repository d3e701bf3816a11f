//! Listeners: the addresses that clients use, and the limits of their connections.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::addr::{ListenerSlot, PoolSlot};
use crate::base::prefix::PrefixSet;
use crate::base::time::TickDelta;
use crate::model::SocketOptions;
use crate::rules::query_state::Protocol;
use crate::tls::ServerTls;

/// How packets are steered to shards (`--steer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steer {
    /// The kernel's hash of addresses and ports: a flow stays on its shard.
    #[default]
    Flow,
    /// The shard on the CPU that received the packet.
    Cpu,
    /// The hash of the client's address: all queries of a client on one shard.
    Client,
}

/// One listen address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its stable slot.
    pub slot: ListenerSlot,
    /// The address and port.
    pub address: SocketAddr,
    /// The network interface to bind to (`interface`).
    pub interface: Option<String>,
    /// Another process of the same user may bind to the address too (`reusePort`).
    pub reuse_port: bool,
    /// The machine need not have the address yet (`freebind`).
    pub freebind: bool,
    /// Socket options.
    pub sockets: SocketOptions,
    /// DSCP of outgoing packets, 0 to 63.
    pub dscp: u8,
    /// The service.
    pub service: Service,
    /// How connections are accepted.
    pub connection_options: ConnectionOptions,
    /// Where the PROXY header is in what [`ProxyLimits::peers`] send.
    pub proxy: ProxyHeader,
}

impl Listener {
    /// Returns whether the open sockets of `self` do for its successor `other`. Other differences are set on the
    /// sockets where [`Listener::same_options`] returns false, or read from the snapshot for each
    /// query or connection.
    #[must_use]
    pub fn same_sockets(&self, other: &Self) -> bool {
        self.address == other.address
            && self.interface == other.interface
            && std::mem::discriminant(&self.service) == std::mem::discriminant(&other.service)
    }

    /// Returns whether sockets that they share need no other options.
    #[must_use]
    pub fn same_options(&self, other: &Self) -> bool {
        self.sockets == other.sockets
            && self.dscp == other.dscp
            && self.connection_options.backlog == other.connection_options.backlog
            && self.connection_options.fast_open == other.connection_options.fast_open
            && self.connection_options.key_in_use() == other.connection_options.key_in_use()
    }

    /// Returns whether the kernel could deliver a packet for one to the sockets of the other: the
    /// same kind, the same port, and addresses and interfaces that are equal or include one
    /// another.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.address, other.address);
        let kinds = |l: &Self| (l.service.takes_datagrams(), l.service.takes_connections());
        let (ours, theirs) = (kinds(self), kinds(other));
        (ours.0 && theirs.0 || ours.1 && theirs.1)
            && a.port() == b.port()
            && a.is_ipv4() == b.is_ipv4()
            && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
            && (self.interface == other.interface || self.interface.is_none() || other.interface.is_none())
    }
}

/// The service of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// Plain DNS over UDP and TCP.
    #[default]
    Dns,
    /// Plain DNS over UDP only (`doTCP=false`).
    DnsUdp,
    /// DNS over TLS (`addTLSLocal`).
    Dot(ListenerTls),
    /// A layer-4 relay of any protocol over TCP: bytes in both directions, not parsed
    /// (`addTCPForward`).
    TcpRelay(Arc<RelaySettings>),
    /// A layer-4 relay of any protocol over UDP: a flow for each client address and port
    /// (`addUDPForward`).
    UdpRelay(Arc<RelaySettings>),
}

impl Service {
    /// Returns whether it accepts datagrams.
    #[must_use]
    pub const fn takes_datagrams(&self) -> bool {
        match self {
            Self::Dns | Self::DnsUdp | Self::UdpRelay(_) => true,
            Self::Dot(_) | Self::TcpRelay(_) => false,
        }
    }

    /// Returns whether it accepts connections.
    #[must_use]
    pub const fn takes_connections(&self) -> bool {
        match self {
            Self::Dns | Self::Dot(_) | Self::TcpRelay(_) => true,
            Self::DnsUdp | Self::UdpRelay(_) => false,
        }
    }

    /// Returns how queries come by its connections; none for a service without DNS connections.
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Dns => Some(Protocol::DoTcp),
            Self::Dot(_) => Some(Protocol::DoT),
            Self::DnsUdp | Self::TcpRelay(_) | Self::UdpRelay(_) => None,
        }
    }

    /// Returns the settings of a relay.
    #[must_use]
    pub const fn relay(&self) -> Option<&Arc<RelaySettings>> {
        match self {
            Self::TcpRelay(relay) | Self::UdpRelay(relay) => Some(relay),
            Self::Dns | Self::DnsUdp | Self::Dot(_) => None,
        }
    }

    /// Returns the TLS of its connections, if it has any.
    #[must_use]
    pub const fn tls(&self) -> Option<&Arc<ServerTls>> {
        match self {
            Self::Dot(tls) => Some(&tls.0),
            Self::Dns | Self::DnsUdp | Self::TcpRelay(_) | Self::UdpRelay(_) => None,
        }
    }
}

/// A listener's TLS, with its files as they were when the configuration was read. Two are equal
/// when their configuration is.
#[derive(Clone, Debug)]
pub struct ListenerTls(pub Arc<ServerTls>);

impl PartialEq for ListenerTls {
    fn eq(&self, other: &Self) -> bool {
        self.0.spec() == other.0.spec()
    }
}

impl Eq for ListenerTls {}

/// A layer-4 relay: its targets and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// Its targets, a pool of its own. Their order is that of `to`; the pool's policy selects among
    /// them, by the client alone; with every target down all are tried. How a target learns the
    /// client's address is its `client_address`.
    pub pool: PoolSlot,
    /// Clients that may connect or send: `acl`, or the process's.
    pub acl: PrefixSet,
    /// A target that has not accepted in this time is given up, and the next one is tried; TCP
    /// only.
    pub connect_timeout: TickDelta,
    /// A target that has accepted and then closes, or sends nothing for this time, is given up, and
    /// the next one is tried, as long as neither side has sent a byte; TCP only. Zero means that it
    /// need not speak first.
    pub greeting_timeout: TickDelta,
    /// Closes the connections of a target that goes down; TCP only. Flows move.
    pub close_when_down: bool,
    /// Closes a connection or a flow without traffic in either direction for this time; zero means
    /// no limit.
    pub idle_timeout: TickDelta,
    /// Concurrent connections of the process, or flows per shard; 0 means no limit. Flows always
    /// have one.
    pub connections: u32,
    /// Of these, per client; 0 means no limit.
    pub connections_per_client: u32,
    /// Whether each is logged at its end.
    pub log: bool,
}

/// Where a PROXY header is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Nowhere: a header is malformed input (`enableProxyProtocol=false`).
    Ignored,
    /// At the start of a datagram, or of the connection's data: within TLS, if there is TLS.
    #[default]
    Inside,
    /// Before TLS (`proxyProtocolOutsideTLS=true`).
    Outside,
}

/// How a listener accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// Backlog of connections that are not accepted yet, per shard (`tcpListenQueueSize`).
    pub backlog: u32,
    /// TCP Fast Open queue, part of the backlog; 0 switches it off (`tcpFastOpenQueueSize`).
    pub fast_open: u32,
    /// The key of its cookies, the same on machines that share an address (`setTCPFastOpenKey`);
    /// the kernel's by default.
    pub fast_open_key: Option<[u8; 16]>,
    /// Queries in flight per connection, 1 or more (`maxInFlight`).
    pub in_flight: u16,
    /// Concurrent connections; 0 means no limit (`maxConcurrentTCPConnections`).
    pub connections: u32,
}

impl ConnectionOptions {
    /// Returns the key of its cookies, if it gives any by a key of its own.
    #[must_use]
    pub fn key_in_use(&self) -> Option<[u8; 16]> {
        self.fast_open_key.filter(|_| self.fast_open > 0)
    }
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self { backlog: 4096, fast_open: 0, fast_open_key: None, in_flight: 100, connections: 0 }
    }
}

/// Which PROXY headers are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Peers that must send a header on listeners that expect one (`setProxyProtocolACL`): without
    /// it, their packets are dropped. Nobody else may send one.
    pub peers: PrefixSet,
    /// The ACL applies to the client in the header, not to the peer that sent it
    /// (`setProxyProtocolApplyACLToProxiedClients`).
    pub acl_to_client: bool,
    /// Longest header, including its values, bytes (`setProxyProtocolMaximumPayloadSize`).
    pub bytes_max: u16,
}

impl Default for ProxyLimits {
    /// dnsdist's defaults.
    fn default() -> Self {
        Self { peers: PrefixSet::default(), acl_to_client: false, bytes_max: 512 }
    }
}
