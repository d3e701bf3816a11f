//! Listeners: where clients come, and what their connections may do.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::addr::{ListenerSlot, PoolSlot};
use crate::base::prefix::PrefixSet;
use crate::base::time::TickDelta;
use crate::model::SocketOptions;
use crate::tls::ServerTls;

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

/// One listen address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its stable slot.
    pub slot: ListenerSlot,
    /// The address and port.
    pub address: SocketAddr,
    /// Bind to this network interface (`interface`).
    pub interface: Option<String>,
    /// Another process of the same user may have the address, too (`reusePort`).
    pub reuse_port: bool,
    /// Socket options.
    pub sockets: SocketOptions,
    /// DSCP of answers, 0 to 63.
    pub dscp: u8,
    /// What is served here.
    pub service: Service,
    /// How connections are taken.
    pub connection_options: ConnectionOptions,
    /// Where a PROXY header stands in what comes from [`ProxyLimits::peers`].
    pub proxy: ProxyHeader,
}

impl Listener {
    /// Whether `self` and `other` can share their sockets: what differs besides is set on them
    /// where [`Listener::same_options`] says no, or read from the snapshot, for each query or
    /// connection.
    #[must_use]
    pub fn same_sockets(&self, other: &Self) -> bool {
        self.address == other.address
            && self.interface == other.interface
            && std::mem::discriminant(&self.service) == std::mem::discriminant(&other.service)
            // The kernel's own key cannot be given back to a socket.
            && self.connection_options.fast_open_key == other.connection_options.fast_open_key
    }

    /// Whether sockets that they share need no other options.
    #[must_use]
    pub fn same_options(&self, other: &Self) -> bool {
        self.sockets == other.sockets
            && self.dscp == other.dscp
            && self.connection_options.backlog == other.connection_options.backlog
            && self.connection_options.fast_open == other.connection_options.fast_open
    }

    /// Whether the kernel could give a packet for one to the sockets of the other: they take the
    /// same kind, on one port, and on addresses and interfaces that are the same or include one
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

/// What a listener is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// Plain DNS over UDP and TCP.
    #[default]
    Dns,
    /// Plain DNS over UDP alone (`doTCP=false`).
    DnsUdp,
    /// DNS over TLS (`addTLSLocal`).
    Dot(ListenerTls),
    /// Any protocol over TCP: bytes both ways, unread (`addTCPForward`).
    TcpRelay(Arc<RelaySettings>),
    /// Any protocol over UDP: a flow for each client's address and port (`addUDPForward`).
    UdpRelay(Arc<RelaySettings>),
}

impl Service {
    /// Whether it takes datagrams.
    #[must_use]
    pub const fn takes_datagrams(&self) -> bool {
        matches!(self, Self::Dns | Self::DnsUdp | Self::UdpRelay(_))
    }

    /// Whether it takes connections.
    #[must_use]
    pub const fn takes_connections(&self) -> bool {
        matches!(self, Self::Dns | Self::Dot(_) | Self::TcpRelay(_))
    }

    /// The forward, where it is one.
    #[must_use]
    pub const fn relay(&self) -> Option<&Arc<RelaySettings>> {
        match self {
            Self::TcpRelay(relay) | Self::UdpRelay(relay) => Some(relay),
            Self::Dns | Self::DnsUdp | Self::Dot(_) => None,
        }
    }

    /// The TLS of its connections, where they have it.
    #[must_use]
    pub const fn tls(&self) -> Option<&Arc<ServerTls>> {
        match self {
            Self::Dot(tls) => Some(&tls.0),
            Self::Dns | Self::DnsUdp | Self::TcpRelay(_) | Self::UdpRelay(_) => None,
        }
    }
}

/// A listener's TLS, as its files were when the configuration was read. Two are the same that were
/// asked for in the same words.
#[derive(Clone, Debug)]
pub struct ListenerTls(pub Arc<ServerTls>);

impl PartialEq for ListenerTls {
    fn eq(&self, other: &Self) -> bool {
        self.0.spec() == other.0.spec()
    }
}

impl Eq for ListenerTls {}

/// What is passed on unread: to which targets, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// Its targets, a pool of its own. Their order is that of `to`; that pool's policy chooses
    /// among them, by the client alone; with every target down all are tried. What a target wants
    /// to know of the client is its `client_address`.
    pub pool: PoolSlot,
    /// Who may connect or send: `acl`, or the process's.
    pub acl: PrefixSet,
    /// A target that has not accepted in this time is given up, and the next one tried; TCP only.
    pub connect_timeout: TickDelta,
    /// Ends a connection, or a flow, over which nothing went either way for so long; zero is no
    /// limit.
    pub idle_timeout: TickDelta,
    /// Connections, or flows in each shard, at a time; 0 is no limit. Flows always have one.
    pub connections: u32,
    /// Of these, a client's; 0 is no limit.
    pub connections_per_client: u32,
    /// A line in the log at the end of each.
    pub log: bool,
}

/// Where a PROXY header stands, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Nowhere: what looks like one is garbage (`enableProxyProtocol=false`).
    Ignored,
    /// In front of a datagram, or of what a connection carries: within TLS, if there is TLS.
    #[default]
    Inside,
    /// In front of TLS (`proxyProtocolOutsideTLS=true`).
    Outside,
}

/// How a listener takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// Connections that wait to be accepted, in each shard (`tcpListenQueueSize`).
    pub backlog: u32,
    /// Of those, with TCP Fast Open; 0 switches it off (`tcpFastOpenQueueSize`).
    pub fast_open: u32,
    /// The key of its cookies, the same on machines that share an address (`setTCPFastOpenKey`);
    /// the kernel's without one.
    pub fast_open_key: Option<[u8; 16]>,
    /// Queries of one connection that are answered at a time, 1 or more (`maxInFlight`).
    pub in_flight: u16,
    /// Connections at a time; 0 is no limit (`maxConcurrentTCPConnections`).
    pub connections: u32,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self { backlog: 4096, fast_open: 0, fast_open_key: None, in_flight: 100, connections: 0 }
    }
}

/// Which PROXY headers are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Who must send one, on listeners that look for it (`setProxyProtocolACL`): without it, what
    /// they send is dropped. Nobody else may.
    pub peers: PrefixSet,
    /// The ACL is asked for the client that the header names, not for the peer that sent it
    /// (`setProxyProtocolApplyACLToProxiedClients`).
    pub acl_to_client: bool,
    /// The longest header, all of it, bytes (`setProxyProtocolMaximumPayloadSize`).
    pub bytes_max: u16,
}

impl Default for ProxyLimits {
    /// dnsdist's.
    fn default() -> Self {
        Self { peers: PrefixSet::default(), acl_to_client: false, bytes_max: 512 }
    }
}
