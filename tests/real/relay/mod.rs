//! TCP and UDP relays: connections and flows through the real program to targets in this process
//! and to real mail, SOCKS and web servers.

mod programs;
mod target;
mod tcp;
mod transparent;
mod udp;

use std::net::SocketAddr;

use crate::instance::Instance;
use crate::place::{port, wait_for};

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Returns Lua for a relay whose targets are always up.
fn relay(function: &str, listen: SocketAddr, to: &[SocketAddr], more: &str) -> String {
    let to: Vec<String> = to.iter().map(|a| format!("\"{a}\"")).collect();
    let to = to.join(", ");
    format!("{function}{{listen=\"{listen}\", to={{{to}}}, check=\"none\", log=true{more}}}\n")
}

/// Returns a statistic of the dump. Panics if it is missing.
fn figure(instance: &Instance, name: &str) -> u64 {
    let dump = instance.dump();
    let found = dump.iter().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|w| *w != name);
        words.nth(1)?.parse().ok()
    });
    found.unwrap_or_else(|| panic!("no {name} in {dump:#?}"))
}

/// Waits until a statistic has a value.
fn until(instance: &Instance, name: &str, wanted: u64) {
    wait_for(
        || format!("{name} {wanted}; {:#?}", instance.dump()),
        || (figure(instance, name) == wanted).then_some(()),
    );
}

/// Waits for a log line with all of `parts`.
fn logged(instance: &Instance, parts: &[&str]) -> String {
    wait_for(
        || format!("a line with {parts:?}; {}", instance.program.transcript()),
        || instance.program.output().into_iter().find(|line| parts.iter().all(|p| line.contains(p))),
    )
}
