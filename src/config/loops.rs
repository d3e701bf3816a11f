//! Refuses what would send queries to itself.

use std::net::SocketAddr;

use crate::config::draft::{Draft, DraftServer};
use crate::config::error::{ConfigError, Errors, Fault, Origin};
use crate::model::{Listener, Service};

/// Refuses servers that are a listener of this process: each query would come back until no id is
/// left. A loop over another path is not seen here.
pub(crate) fn refuse_own_servers(
    draft: &Draft,
    standing: &[&DraftServer],
    listeners: &[Listener],
    errors: &mut Errors,
) {
    for server in standing {
        let tls = server.connections.tls.is_some();
        let own = listeners.iter().find(|l| serves(l, tls) && is_own(l, server.address));
        if let Some(own) = own {
            let written = draft.listeners.iter().find(|l| l.address == own.address);
            let origin = written.map_or_else(Origin::command_line, |l| l.origin.clone());
            let place = if written.is_some() { format!(" at {origin}") } else { String::new() };
            let expected = format!(
                "another address than that of the listener {}{place}, or queries would come back for ever",
                own.address
            );
            let fault = Fault::value("address", format!("\"{}\"", server.address), expected);
            errors.push(ConfigError::new(&server.origin, "newServer", fault));
        }
    }
}

/// Returns whether a listener takes queries to a server with or without TLS.
fn serves(listener: &Listener, tls: bool) -> bool {
    match listener.service {
        Service::Dns | Service::DnsUdp => !tls,
        Service::Dot(_) => tls,
        Service::TcpRelay(_) | Service::UdpRelay(_) => false,
    }
}

/// Returns whether an address is that of a listener.
fn is_own(listener: &Listener, to: SocketAddr) -> bool {
    let listen = listener.address;
    // On a wildcard address, traffic to this machine comes back.
    let all = listen.ip().is_unspecified()
        && listener.interface.is_none()
        && to.ip().is_loopback()
        && listen.is_ipv4() == to.is_ipv4();
    to == listen || (all && to.port() == listen.port())
}
