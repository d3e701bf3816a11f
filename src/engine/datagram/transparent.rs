//! Queries to backends that carry their client's address as source (`IP_TRANSPARENT`).
//!
//! ```text
//!  connected socket:   the kernel chooses our address and accepts only the backend's datagrams
//!  transparent socket: bound to a port only; each datagram sent names its source and destination,
//!                      each one received its sender
//! ```
//!
//! The network must route the responses, which are addressed to the client, back to this machine,
//! and the machine must accept them (see tuning.md).

use std::os::fd::AsFd;

use socket2::Socket;

use crate::base::addr::{Endpoint, Route};
use crate::engine::sys;
use crate::engine::sys::{Local, OutgoingDatagram, ReceiveBuffers};
use crate::model::{Backend, ClientAddress};
use crate::shard::Shard;

/// Returns the destination to set on each datagram; `None` where the backend's sockets are
/// connected.
pub(crate) fn server(backend: &Backend) -> Option<Endpoint> {
    (backend.client_address == ClientAddress::Transparent).then(|| backend.address.into())
}

/// Sets source and destination on each outgoing datagram for a backend.
pub(crate) fn address(
    datagrams: &mut [OutgoingDatagram],
    server: Endpoint,
    route: Route,
    queries: &ReceiveBuffers,
    shard: &Shard,
) {
    for datagram in datagrams {
        datagram.to = Some(server);
        datagram.from =
            source(server, route, queries.bytes(datagram.at, datagram.start, datagram.len), shard);
    }
}

/// Sends one query; false when the kernel refused it.
pub(crate) fn send(socket: &Socket, server: Endpoint, route: Route, query: &[u8], shard: &Shard) -> bool {
    let from = source(server, route, query, shard);
    let send = || sys::send_from(socket.as_fd(), query, &server, from.as_ref());
    // The first call may only report an earlier packet's ICMP error.
    send().or_else(|_| send()).is_ok()
}

/// Returns the query's client as source address. `None`, which means our own address, when the
/// address families differ.
fn source(server: Endpoint, route: Route, query: &[u8], shard: &Shard) -> Option<Local> {
    let client = shard.source_of(route, query)?;
    (client.is_ipv4() == server.is_ipv4()).then_some(Local { ip: client.ip, interface: client.scope })
}
