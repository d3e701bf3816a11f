//! Datagrams towards servers that carry their client's address as their source (`IP_TRANSPARENT`).
//!
//! ```text
//!  connected socket:   kernel knows the server, chooses our address, hears only the server
//!  transparent socket: bound to a port alone; each datagram says whence and whereto, and what
//!                      comes in says from whom it is
//! ```
//!
//! The network must bring the answers, which are to the client's address, back to this machine,
//! and this machine must take them in (see tuning.md).

use std::os::fd::AsFd;

use socket2::Socket;

use crate::base::addr::{Endpoint, Route};
use crate::engine::sys;
use crate::engine::sys::{Arrivals, Local, OutgoingDatagram};
use crate::model::{Backend, ClientAddress};
use crate::shard::Shard;

/// The address to write on each datagram for a backend; none where its sockets are connected.
pub(crate) fn server(backend: &Backend) -> Option<Endpoint> {
    (backend.client_address == ClientAddress::Transparent).then(|| backend.address.into())
}

/// Writes on each parcel for a server whence and whereto it goes.
pub(crate) fn address(
    datagrams: &mut [OutgoingDatagram],
    server: Endpoint,
    route: Route,
    queries: &Arrivals,
    shard: &Shard,
) {
    for datagram in datagrams {
        datagram.to = Some(server);
        datagram.from =
            source(server, route, queries.bytes(datagram.at, datagram.start, datagram.len), shard);
    }
}

/// Sends one query; false when the kernel would not.
pub(crate) fn send(socket: &Socket, server: Endpoint, route: Route, query: &[u8], shard: &Shard) -> bool {
    let from = source(server, route, query, shard);
    let send = || sys::send_from(socket.as_fd(), query, &server, from.as_ref());
    // The first call may only report an earlier packet's ICMP error.
    send().or_else(|_| send()).is_ok()
}

/// The client of a query, where a datagram of the server's family can come from it: if not, from
/// us.
fn source(server: Endpoint, route: Route, query: &[u8], shard: &Shard) -> Option<Local> {
    let client = shard.source_of(route, query)?;
    (client.is_ipv4() == server.is_ipv4()).then_some(Local { ip: client.ip, interface: client.scope })
}
