//! Configurations for this module's tests, built without a file.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::addr::{BackendSlot, ListenerSlot};
use crate::base::prefix::PrefixSet;
use crate::base::time::{Tick, TickDelta};
use crate::cache::PacketCache;
use crate::cache::key::{About, Key};
use crate::model::policy::{Kind, Policy};
use crate::model::{
    Backend, ConnectionOptions, Health, HealthMode, Lazy, Listener, Pool, ProxyHeader, Service, Snapshot,
    SocketOptions,
};

/// Builds listeners and backends by slot, with plain settings, in one pool.
pub(crate) fn snapshot(generation: u64, listeners: &[u16], backends: &[u16]) -> Snapshot {
    let most = backends.iter().max().map_or(0, |s| usize::from(*s) + 1);
    let mut by_slot = vec![None; most];
    for slot in backends {
        by_slot[usize::from(*slot)] = Some(Arc::new(backend(*slot)));
    }
    Snapshot {
        generation,
        listeners: listeners.iter().map(|slot| Arc::new(listener(*slot))).collect(),
        backends: by_slot,
        pools: vec![Pool {
            members: backends.iter().map(|slot| BackendSlot(*slot)).collect(),
            policy: Policy::new(Kind::RoundRobin),
            ring: None,
            retry: None,
            panic_ppm: 0,
            eject: None,
            ..Pool::default()
        }],
        acl: PrefixSet::default(),
        ..Snapshot::default()
    }
}

/// Builds the listener of a slot, on port 5300 plus the slot.
pub(crate) fn listener(slot: u16) -> Listener {
    Listener {
        slot: ListenerSlot(slot),
        address: SocketAddr::from(([127, 0, 0, 1], 5300 + slot)),
        interface: None,
        reuse_port: false,
        freebind: false,
        sockets: SocketOptions::default(),
        dscp: 0,
        service: Service::Dns,
        connection_options: ConnectionOptions::default(),
        proxy: ProxyHeader::default(),
    }
}

/// Builds the backend of a slot: 192.0.2.SLOT, probed every second.
pub(crate) fn backend(slot: u16) -> Backend {
    let address = SocketAddr::from(([192, 0, 2, slot as u8], 53));
    Backend {
        name: format!("ns{slot}"),
        sockets: 1,
        outstanding_max: 100,
        health: health(HealthMode::Auto),
        ..Backend::new(BackendSlot(slot), address)
    }
}

/// Builds health settings: rise 2, fall 3, every second, no slow start.
pub(crate) fn health(mode: HealthMode) -> Health {
    Health {
        mode,
        timeout: TickDelta::from_ms(500),
        rise: 2,
        fall: 3,
        slow_start: TickDelta(0),
        lazy: Lazy {
            sample_min: 10,
            failed_interval: TickDelta::from_ms(4000),
            backoff_max: Some(TickDelta::from_ms(10_000)),
            ..Lazy::default()
        },
        ..Health::default()
    }
}

/// Stores the answer to a question about a name of its own, `nN.example` A, with this TTL: the address
/// 192.0.2.N.
pub(crate) fn store(cache: &PacketCache, n: u8, ttl: u32, now: Tick) {
    store_address(cache, &format!("n{n}.example"), n, ttl, now);
}

/// Stores the answer to a question about a name, A, with this TTL.
pub(crate) fn store_name(cache: &PacketCache, name: &str, ttl: u32, now: Tick) {
    store_address(cache, name, 1, ttl, now);
}

fn store_address(cache: &PacketCache, name: &str, n: u8, ttl: u32, now: Tick) {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(&crate::wire::name::from_text(name).expect("a name"));
    query.extend_from_slice(b"\0\x01\0\x01");
    let mut key = Key::default();
    assert!(key.read(&query, About::default(), cache), "a query with a key");
    let mut response = query;
    (response[2], response[3], response[7]) = (0x81, 0x80, 1);
    response.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1]);
    response.extend_from_slice(&ttl.to_be_bytes());
    response.extend_from_slice(&[0, 4, 192, 0, 2, n]);
    assert_eq!(cache.store(&key, &response, None, 0, now, &mut Vec::new()), Ok(true));
}
