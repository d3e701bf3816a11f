//! A snapshot for tests that need several backends and no file.

use std::net::SocketAddr;
use std::sync::Arc;

use dnslob::base::addr::BackendSlot;
use dnslob::base::prefix::PrefixSet;
use dnslob::base::time::TickDelta;
use dnslob::model::policy::Policy;
use dnslob::model::*;

/// Returns a configuration of one pool with `servers` servers, one per order.
pub(crate) fn snapshot(policy: Policy, servers: u16) -> Snapshot {
    let backend = |slot: u16| Backend {
        id: format!("backend-{slot}"),
        name: format!("backend-{slot}"),
        order: i32::from(slot),
        health: Health { slow_start: TickDelta(0), ..Health::default() },
        ..Backend::new(BackendSlot(slot), SocketAddr::from(([127, 0, 0, 1], 5300 + slot)))
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
            ..Pool::default()
        }],
        acl: PrefixSet::default(),
        ..Snapshot::default()
    }
}
