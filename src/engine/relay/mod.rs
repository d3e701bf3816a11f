//! Sockets of forwards: connections and flows between clients and targets, unread.
//!
//! Which target, and when it is over, the shard decides; here is what connects, moves bytes and
//! closes. Both kinds share the shard's epoll set with all that is DNS.

mod pipe;
pub mod splice_pump;
pub(super) mod tcp;
pub(super) mod udp;

use std::io;

use crate::base::addr::Endpoint;
use crate::model::ClientAddress;
use crate::stats::close_reason::ConnectFailure;
use crate::wire::proxy;
use crate::wire::proxy::Transport;

/// What a target is told of the client before the client's own bytes.
fn greeting(
    how: ClientAddress,
    transport: Transport,
    client: Endpoint,
    asked: impl FnOnce() -> Option<Endpoint>,
    out: &mut Vec<u8>,
) {
    let ClientAddress::Proxy { v1, .. } = how else { return };
    // An address that cannot be found out leaves the client's, which is what matters.
    let asked = asked().unwrap_or(Endpoint { port: 0, ..client });
    if v1 {
        proxy::write_v1(out, client, asked);
    } else {
        // Without TLVs it always fits.
        let _ = proxy::write_v2(out, transport, client, asked, std::iter::empty());
    }
}

/// Whether a call only has to be made again later.
pub(crate) fn is_passing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Why a target could not be reached.
fn failure(e: &io::Error) -> ConnectFailure {
    use io::ErrorKind;
    let is = |kinds: &[ErrorKind]| kinds.contains(&e.kind());
    if is(&[ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset]) {
        ConnectFailure::Refused
    } else if is(&[ErrorKind::TimedOut]) {
        ConnectFailure::Timeout
    } else if is(&[
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
        ErrorKind::NetworkDown,
        ErrorKind::PermissionDenied,
    ]) {
        ConnectFailure::Unreachable
    } else {
        ConnectFailure::Local
    }
}
