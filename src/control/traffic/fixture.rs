//! Records for this module's tests.

use std::net::{IpAddr, Ipv4Addr};

use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot, mapped};
use crate::base::time::Tick;
use crate::stats::traffic_ring::{End, Finished, Record, ShortName};
use crate::wire::name;

/// A query for this name that was answered in this second.
pub(in crate::control) fn record(qname: &str, second: u64) -> Record {
    let finished = Finished {
        at: Tick(second * 1_000_000_000),
        ip: mapped(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
        port: 4_000,
        id: 7,
        by_connection: false,
        listener: ListenerSlot(0),
        backend: Some(BackendSlot(0)),
        pool: PoolSlot(0),
        end: End::Response,
        qtype: 1,
        flags: [0x81, 0x80],
        latency_us: 1_000,
        answer_bytes: 100,
    };
    let qname = name::from_text(qname).map_or_else(|_| ShortName::UNKNOWN, |wire| ShortName::new(&wire));
    Record { finished, qname }
}
