//! A draft's relays: each becomes a listener, a pool of its own, and a hidden server per target, so
//! that health, policies and counters work as for every other server.

use std::sync::Arc;

use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot};
use crate::config::draft::{Draft, DraftRelay};
use crate::config::options::{Key, Settings};
use crate::model::Ring;
use crate::model::policy::Kind;
use crate::model::{
    Backend, BackendConnectionOptions, Listener, Pool, ProxyHeader, RelaySettings, Service, SocketOptions,
};

/// With every target down all are tried: one may be back since its last check.
const PANIC_PPM: u32 = 1;

/// Builds its listener, without a slot.
pub(crate) fn listener(relay: &DraftRelay, draft: &Draft, sockets: SocketOptions) -> Listener {
    Listener {
        slot: ListenerSlot(0),
        address: relay.listen,
        interface: relay.interface.clone(),
        reuse_port: relay.reuse_port,
        freebind: relay.freebind,
        sockets,
        dscp: 0,
        service: service(relay, draft, PoolSlot::NONE),
        connection_options: relay.connection_options,
        proxy: ProxyHeader::Ignored,
    }
}

/// Builds its listener's service, once its pool has a slot.
pub(crate) fn service(relay: &DraftRelay, draft: &Draft, pool: PoolSlot) -> Service {
    let made = Arc::new(RelaySettings {
        pool,
        acl: relay.acl.as_ref().map_or_else(|| draft.allowed(), |acl| acl.iter().copied().collect()),
        connect_timeout: relay.connect_timeout,
        greeting_timeout: relay.greeting_timeout,
        close_when_down: relay.close_when_down,
        idle_timeout: relay.idle_timeout,
        connections: relay.connections,
        connections_per_client: relay.connections_per_client,
        log: relay.log,
    });
    if relay.tcp { Service::TcpRelay(made) } else { Service::UdpRelay(made) }
}

/// Builds a server for each target, without slots, in the order of `to`.
pub(crate) fn targets(relay: &DraftRelay, sockets: SocketOptions) -> impl Iterator<Item = Backend> {
    let name = relay.name();
    relay.to.iter().zip(0..).map(move |(address, place)| {
        let plain = Backend::new(BackendSlot(0), *address);
        let id = format!("{name} -> {address}");
        Backend {
            name: id.clone(),
            id,
            order: place,
            timeout: relay.connect_timeout,
            sockets: 0,
            source: relay.source,
            socket_options: sockets,
            health: relay.health.clone(),
            target: true,
            connections: BackendConnectionOptions {
                connect_timeout: relay.connect_timeout,
                fast_open: relay.fast_open,
                ..plain.connections
            },
            client_address: relay.client_address,
            ..plain
        }
    })
}

/// Builds its pool, with the targets in their order.
pub(crate) fn pool(relay: &DraftRelay, targets: &[Backend], settings: &Settings) -> Pool {
    let mut policy = relay.policy.clone();
    policy.seed = settings.number(Key::Perturbation).unwrap_or(0);
    Pool {
        name: relay.name(),
        members: targets.iter().map(|b| b.slot).collect(),
        ring: (policy.kind == Kind::CHashed).then(|| Arc::new(ring(targets))),
        policy,
        panic_ppm: PANIC_PPM,
        ..Pool::default()
    }
}

/// Builds a ring of positions rather than of servers, so that two relays to the same machines, on
/// any ports, choose the same one for a client.
fn ring(targets: &[Backend]) -> Ring {
    let places: Vec<Backend> =
        targets.iter().map(|b| Backend { id: format!("place {}", b.order), ..b.clone() }).collect();
    let members: Vec<(BackendSlot, &Backend)> = places.iter().map(|b| (b.slot, b)).collect();
    Ring::build(&members)
}
