//! Forwards: connections and flows of any protocol, through the real program to targets of this
//! test's own and to real mail, SOCKS and web servers.

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

/// A forward in Lua, whose targets count as up without being asked.
fn forward(function: &str, listen: SocketAddr, to: &[SocketAddr], more: &str) -> String {
    let to: Vec<String> = to.iter().map(|a| format!("\"{a}\"")).collect();
    let to = to.join(", ");
    format!("{function}{{listen=\"{listen}\", to={{{to}}}, check=\"none\", log=true{more}}}\n")
}

/// A figure of the dump, which must be in it.
fn figure(instance: &Instance, name: &str) -> u64 {
    let dump = instance.dump();
    let found = dump.iter().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|w| *w != name);
        words.nth(1)?.parse().ok()
    });
    found.unwrap_or_else(|| panic!("no {name} in {dump:#?}"))
}

/// Waits until a figure is that.
fn until(instance: &Instance, name: &str, wanted: u64) {
    wait_for(
        || format!("{name} {wanted}; {:#?}", instance.dump()),
        || (figure(instance, name) == wanted).then_some(()),
    );
}

/// Waits for a line in the log that has all of `parts`.
fn logged(instance: &Instance, parts: &[&str]) -> String {
    wait_for(
        || format!("a line with {parts:?}; {}", instance.program.transcript()),
        || instance.program.output().into_iter().find(|line| parts.iter().all(|p| line.contains(p))),
    )
}
