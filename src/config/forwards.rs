//! A draft's forwards: each becomes a listener, a pool of its own, and a hidden server for each
//! target, so that health, policies and counters are those of every other server.

use std::net::SocketAddr;
use std::sync::Arc;

use super::draft::{Draft, DraftServer};
use super::error::Origin;
use super::options::{Key, Settings};
use super::prefix::Prefix;
use super::snapshot::{
    Backend, ClientAddress, Forward, Health, LineOptions, Listener, Pool, ProxyHeader, Service,
    SocketOptions, StreamOptions,
};
use crate::addr::{BackendSlot, ListenerSlot, PoolSlot};
use crate::shard::policy::{Kind, Policy, Ring};
use crate::time::TickDelta;

/// With every target down all are tried: one of them may be back since its last check.
const PANIC_PPM: u32 = 1;

/// A forward as written.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftForward {
    /// Where it was written.
    pub origin: Origin,
    /// Over TCP, rather than UDP.
    pub tcp: bool,
    /// Where it listens.
    pub listen: SocketAddr,
    /// On this network interface alone.
    pub interface: Option<String>,
    /// Another process may have the address, too.
    pub reuse_port: bool,
    /// Its targets, each once.
    pub to: Vec<SocketAddr>,
    /// How one is chosen.
    pub policy: Policy,
    /// Who may use it; none for those whom the process's ACL lets ask.
    pub acl: Option<Vec<Prefix>>,
    /// How connections are taken.
    pub streams: StreamOptions,
    /// `connectTimeout`.
    pub connect_timeout: TickDelta,
    /// `idleTimeout`; zero is no limit.
    pub idle_timeout: TickDelta,
    /// `maxConnections`, `maxFlows`.
    pub connections: u32,
    /// `maxConnectionsPerClient`, `maxFlowsPerClient`.
    pub connections_per_client: u32,
    /// `log`.
    pub log: bool,
    /// `tcpFastOpen`.
    pub fast_open: bool,
    /// `source`.
    pub source: Option<std::net::IpAddr>,
    /// How its targets learn the client's address.
    pub client_address: ClientAddress,
    /// The health check of its targets.
    pub health: Health,
}

impl DraftForward {
    /// The Lua function that makes such a one.
    #[must_use]
    pub const fn function(&self) -> &'static str {
        if self.tcp { "addTCPForward" } else { "addUDPForward" }
    }

    /// What its pool is called; as listeners are told apart, so are forwards.
    #[must_use]
    pub fn name(&self) -> String {
        let interface = self.interface.iter().map(|name| format!("@{name}")).collect::<String>();
        format!("forward {}{interface}/{}", self.listen, if self.tcp { "tcp" } else { "udp" })
    }
}

/// Its listener, still without a slot.
pub(super) fn listener(forward: &DraftForward, draft: &Draft, sockets: SocketOptions) -> Listener {
    Listener {
        slot: ListenerSlot(0),
        address: forward.listen,
        interface: forward.interface.clone(),
        reuse_port: forward.reuse_port,
        sockets,
        dscp: 0,
        service: service(forward, draft, PoolSlot::NONE),
        streams: forward.streams,
        proxy: ProxyHeader::Ignored,
    }
}

/// What its listener is for, once its pool has a slot.
pub(super) fn service(forward: &DraftForward, draft: &Draft, pool: PoolSlot) -> Service {
    let made = Arc::new(Forward {
        pool,
        acl: forward.acl.as_ref().unwrap_or(&draft.acl).iter().copied().collect(),
        connect_timeout: forward.connect_timeout,
        idle_timeout: forward.idle_timeout,
        connections: forward.connections,
        connections_per_client: forward.connections_per_client,
        log: forward.log,
    });
    if forward.tcp { Service::TcpForward(made) } else { Service::UdpForward(made) }
}

/// A server for each target, still without slots, in the order of `to`.
pub(super) fn targets(forward: &DraftForward, sockets: SocketOptions) -> impl Iterator<Item = Backend> {
    let name = forward.name();
    let plain = |address| DraftServer::new(forward.origin.clone(), address);
    forward.to.iter().zip(0..).map(move |(address, place)| {
        let plain = plain(*address);
        let id = format!("{name} -> {address}");
        Backend {
            slot: BackendSlot(0),
            name: id.clone(),
            id,
            address: *address,
            order: place,
            weight: plain.weight,
            qps: 0,
            timeout: forward.connect_timeout,
            sockets: 0,
            outstanding_max: u16::MAX.into(),
            outstanding_soft_max: 0,
            source: forward.source,
            source_interface: None,
            dscp: 0,
            socket_options: sockets,
            health: forward.health.clone(),
            use_client_subnet: false,
            tee: false,
            target: true,
            lines: LineOptions {
                connect_timeout: forward.connect_timeout,
                fast_open: forward.fast_open,
                ..plain.lines
            },
            client_address: forward.client_address,
        }
    })
}

/// Its pool, of its targets in their order.
pub(super) fn pool(forward: &DraftForward, targets: &[Backend], settings: &Settings) -> Pool {
    let mut policy = forward.policy.clone();
    policy.seed = settings.number(Key::Perturbation).unwrap_or(0);
    Pool {
        name: forward.name(),
        members: targets.iter().map(|b| b.slot).collect(),
        ring: (policy.kind == Kind::CHashed).then(|| Arc::new(ring(targets))),
        policy,
        panic_ppm: PANIC_PPM,
        ..Pool::default()
    }
}

/// A ring of places rather than of servers, so that two forwards to the same machines, on whatever
/// ports, choose the same one for a client.
fn ring(targets: &[Backend]) -> Ring {
    let places: Vec<Backend> =
        targets.iter().map(|b| Backend { id: format!("place {}", b.order), ..b.clone() }).collect();
    let members: Vec<(BackendSlot, &Backend)> = places.iter().map(|b| (b.slot, b)).collect();
    Ring::build(&members)
}
