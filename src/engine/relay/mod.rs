//! Sockets of relays: TCP connections and UDP flows between clients and targets, never parsed.
//!
//! The shard chooses the target and decides when a session ends; this module connects, moves bytes
//! and closes. Both kinds share the shard's epoll sets with DNS.

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

/// Builds the PROXY header that a target gets before the client's own bytes.
pub(crate) fn proxy_header(
    how: ClientAddress,
    transport: Transport,
    client: Endpoint,
    asked: impl FnOnce() -> Option<Endpoint>,
    out: &mut Vec<u8>,
) {
    let ClientAddress::Proxy { v1, .. } = how else { return };
    // If the destination cannot be determined, the client's address is what matters.
    let asked = asked().unwrap_or(Endpoint { port: 0, ..client });
    if v1 {
        proxy::write_v1(out, client, asked);
    } else {
        // Without TLVs it always fits.
        let _ = proxy::write_v2(out, transport, client, asked, std::iter::empty());
    }
}

/// Returns whether a call only has to be repeated later.
pub(crate) fn is_transient(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Classifies why a target could not be reached.
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
