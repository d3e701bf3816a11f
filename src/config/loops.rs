//! Refuses what would send queries or connections to itself.
//!
//! ```text
//!  listener ─► servers, servers of copies ─► (relay ─► target)* ─► listener     a query never ends
//!  relay ─► target = relay ─► target = the first relay                         a connection never does
//! ```
//!
//! A loop over another program or machine is not seen here.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;

use crate::config::draft::{Draft, DraftServer};
use crate::config::error::{ConfigError, Errors, Fault, Origin};
use crate::model::{Listener, Service};

/// Refuses all of them.
pub(crate) fn refuse(draft: &Draft, standing: &[&DraftServer], listeners: &[Listener], errors: &mut Errors) {
    let relays = draft.relays.iter().map(|relay| relay.listen);
    let has_wildcard =
        listeners.iter().map(|l| l.address).chain(relays).any(|listen| listen.ip().is_unspecified());
    let machine = if has_wildcard { Machine::read() } else { Machine::default() };
    refuse_own_servers(draft, standing, listeners, &machine, errors);
    refuse_circles(draft, &machine, errors);
}

/// The addresses of this machine.
#[derive(Debug, Default)]
pub(crate) struct Machine(BTreeSet<IpAddr>);

impl Machine {
    /// Reads those of all interfaces; none where the kernel does not tell.
    fn read() -> Self {
        let all = getifaddrs().into_iter().flatten().filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        Self(all.collect())
    }

    fn has(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.0.contains(&ip)
    }
}

/// Refuses servers, of copies too, that are or lead to a listener of this process: each query would
/// come back until no id is left, each copy for ever.
fn refuse_own_servers(
    draft: &Draft,
    standing: &[&DraftServer],
    listeners: &[Listener],
    machine: &Machine,
    errors: &mut Errors,
) {
    for server in standing {
        let tls = server.connections.tls.is_some();
        let datagrams = !server.connections.only;
        if let Some(expected) = way_back(draft, listeners, machine, server.address, (tls, datagrams)) {
            let fault = Fault::value("address", format!("\"{}\"", server.address), expected);
            errors.push(ConfigError::new(&server.origin, "newServer", fault));
        }
    }
    for (_, rule) in draft.rules.iter() {
        let Some(tee) = rule.action.traits().tee else { continue };
        if let Some(expected) = way_back(draft, listeners, machine, tee.address, (false, true)) {
            let fault = Fault::value("the server", format!("\"{}\"", tee.address), expected);
            errors.push(ConfigError::new(&rule.origin, "TeeAction", fault));
        }
    }
}

/// Refuses relays whose targets lead back to them: already the check of a target would open
/// connections until no descriptor is left. Each such circle is an error of its last relay.
fn refuse_circles(draft: &Draft, machine: &Machine, errors: &mut Errors) {
    for (last, relay) in draft.relays.iter().enumerate() {
        let mut seen = vec![false; last];
        let mut waiting: Vec<(SocketAddr, SocketAddr)> = relay.to.iter().map(|to| (*to, *to)).collect();
        while let Some((to, first)) = waiting.pop() {
            if is_own(relay.listen, relay.interface.as_deref(), to, machine) {
                let expected = "targets that do not lead back to `listen` through other relays";
                let fault = Fault::value("to", format!("\"{first}\""), expected);
                errors.push(ConfigError::new(&relay.origin, relay.function(), fault));
                break;
            }
            for (at, other) in draft.relays[..last].iter().enumerate() {
                let arrives = other.tcp == relay.tcp && !seen[at];
                if arrives && is_own(other.listen, other.interface.as_deref(), to, machine) {
                    seen[at] = true;
                    waiting.extend(other.to.iter().map(|to| (*to, first)));
                }
            }
        }
    }
}

/// Returns what is expected instead of the address of a server, with or without TLS and datagrams, by
/// which its queries come back.
fn way_back(
    draft: &Draft,
    listeners: &[Listener],
    machine: &Machine,
    server: SocketAddr,
    (tls, datagrams): (bool, bool),
) -> Option<String> {
    let mut seen = vec![false; draft.relays.len()];
    // With the relay that it leads through first, and whether connections or datagrams get there.
    let mut waiting = vec![(server, None, true, datagrams)];
    while let Some((to, relay, streams, datagrams)) = waiting.pop() {
        let own = listeners.iter().find(|l| {
            let arrives =
                streams && l.service.takes_connections() || datagrams && l.service.takes_datagrams();
            arrives && serves(l, tls) && is_own(l.address, l.interface.as_deref(), to, machine)
        });
        if let Some(own) = own {
            let written = draft.listeners.iter().find(|l| l.address == own.address);
            let place = written.map(|l| format!(" at {}", l.origin)).unwrap_or_default();
            let through = relay.map_or_else(String::new, |origin: &Origin| {
                format!("that of the relay at {origin}, which leads to ")
            });
            let that = if relay.is_some() { "" } else { "that of " };
            return Some(format!(
                "another address than {through}{that}the listener {}{place}, or queries would come back for \
                 ever",
                own.address
            ));
        }
        for (at, other) in draft.relays.iter().enumerate() {
            let arrives = if other.tcp { streams } else { datagrams };
            if arrives && !seen[at] && is_own(other.listen, other.interface.as_deref(), to, machine) {
                seen[at] = true;
                let relay = relay.or(Some(&other.origin));
                waiting.extend(other.to.iter().map(|to| (*to, relay, other.tcp, !other.tcp)));
            }
        }
    }
    None
}

/// Returns whether a listener takes queries to a server with or without TLS.
fn serves(listener: &Listener, tls: bool) -> bool {
    match listener.service {
        Service::Dns | Service::DnsUdp => !tls,
        Service::Dot(_) => tls,
        Service::TcpRelay(_) | Service::UdpRelay(_) => false,
    }
}

/// Returns whether what is sent to an address arrives at a listener of this machine.
pub(crate) fn is_own(listen: SocketAddr, interface: Option<&str>, to: SocketAddr, machine: &Machine) -> bool {
    let ip = match to.ip().to_canonical() {
        // The kernel takes these for the machine itself.
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    // On a wildcard address, traffic to this machine comes back.
    let all = listen.ip().is_unspecified()
        && interface.is_none()
        && machine.has(ip)
        && listen.is_ipv4() == ip.is_ipv4();
    let same = ip == listen.ip().to_canonical() && scope(to) == scope(listen);
    to == listen || ((all || same) && to.port() == listen.port())
}

/// Returns the zone of an address, 0 without one.
const fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_machine_leads_to_a_listener_on_all_of_them() {
        let machine = Machine(["192.0.2.7", "2001:db8::7"].map(|a| a.parse().expect("an address")).into());
        for (listen, interface, to, own) in [
            ("0.0.0.0:53", None, "192.0.2.7:53", true),
            ("0.0.0.0:53", None, "192.0.2.8:53", false),
            ("0.0.0.0:53", None, "192.0.2.7:54", false),
            ("0.0.0.0:53", Some("eth1"), "192.0.2.7:53", false),
            ("[::]:53", None, "[2001:db8::7]:53", true),
            ("[::]:53", None, "[2001:db8::8]:53", false),
            ("[::]:53", None, "192.0.2.7:53", false),
            ("0.0.0.0:53", None, "127.0.0.9:53", true),
            ("192.0.2.7:53", None, "192.0.2.7:53", true),
            ("192.0.2.9:53", None, "192.0.2.7:53", false),
        ] {
            let [from, there] = [listen, to].map(|text| text.parse().expect("an address"));
            assert_eq!(is_own(from, interface, there, &machine), own, "{listen} {interface:?} {to}");
        }
    }

    #[test]
    fn the_machine_has_what_its_interfaces_have() {
        let machine = Machine::read();
        assert!(machine.0.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{machine:?}");
    }
}
