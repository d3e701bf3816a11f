//! A snapshot for tests that need several backends and no file.

use std::net::SocketAddr;
use std::sync::Arc;

use dnslob::base::addr::BackendSlot;
use dnslob::base::prefix::PrefixSet;
use dnslob::base::time::TickDelta;
use dnslob::model::policy::Policy;
use dnslob::model::{BackendConnectionOptions, ClientAddress, *};

/// Returns a configuration of one pool with `servers` servers, one per order.
pub(crate) fn snapshot(policy: Policy, servers: u16) -> Snapshot {
    let backend = |slot: u16| Backend {
        slot: BackendSlot(slot),
        id: format!("backend-{slot}"),
        name: format!("backend-{slot}"),
        address: SocketAddr::from(([127, 0, 0, 1], 5300 + slot)),
        order: i32::from(slot),
        weight: 1,
        qps: 0,
        timeout: TickDelta::from_ms(2_000),
        sockets: 4,
        outstanding_max: 65_536,
        outstanding_soft_max: 0,
        source: None,
        source_interface: None,
        dscp: 0,
        socket_options: SocketOptions::default(),
        use_client_subnet: false,
        tee: false,
        target: false,
        connections: BackendConnectionOptions::default(),
        client_address: ClientAddress::Hidden,
        health: Health {
            mode: HealthMode::Auto,
            probe: Probe::Udp,
            qname: String::from("a.root-servers.net."),
            qtype: 1,
            qclass: 1,
            set_cd: false,
            must_resolve: false,
            interval: TickDelta::from_ms(1_000),
            timeout: TickDelta::from_ms(1_000),
            rise: 1,
            fall: 1,
            choose: None,
            judge: None,
            slow_start: TickDelta(0),
            lazy: Lazy {
                threshold_percent: 20,
                sample: 100,
                sample_min: 1,
                failed_interval: TickDelta::from_ms(30_000),
                backoff_max: None,
                servfail_counts: true,
            },
        },
    };
    let members = (0..servers).map(BackendSlot).collect();
    Snapshot {
        generation: 1,
        listeners: Vec::new(),
        backends: (0..servers).map(|s| Some(Arc::new(backend(s)))).collect(),
        pools: vec![Pool {
            name: String::new(),
            members,
            policy,
            ring: None,
            retry: None,
            panic_ppm: 0,
            eject: None,
            tcp_to_udp: false,
        }],
        acl: PrefixSet::default(),
        ..Snapshot::default()
    }
}
