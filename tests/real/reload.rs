//! Reloads under load lose no query.

use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{Load, Plan};
use crate::place::{port, wait_for};
use crate::servers::{Kind, Server, ask};

const RELOADS: u64 = 20;
const RATE: u32 = 4_000;

pub(crate) fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

pub(crate) fn endless(target: SocketAddr) -> Plan {
    Plan { target, rate: RATE, count: u64::MAX, patience: Duration::from_secs(4) }
}

/// Waits until the load has sent `more` queries.
pub(crate) fn let_pass(load: &Load, more: u64) {
    let goal = load.sent() + more;
    wait_for(|| format!("{goal} queries to be sent"), || (load.sent() >= goal).then_some(()));
}

#[test]
fn twenty_reloads_lose_nothing_and_both_ends_count_the_same() {
    let (a, b) = (Backend::start(1, Behaviour::Prompt), Backend::start(2, Behaviour::Prompt));
    // A slow server, so that each reload happens with outstanding queries.
    let slow = Backend::start(3, Behaviour::After(Duration::from_millis(30)));
    let (first, second) = (local(), local());
    let configs = [
        // Weights.
        listen(first)
            + "setServerPolicy(wrandom)\n"
            + &backend(a.address, ", weight=1")
            + &backend(b.address, ", weight=5"),
        // One more backend, another policy.
        listen(first)
            + "setServerPolicy(roundrobin)\n"
            + &backend(a.address, "")
            + &backend(b.address, "")
            + &backend(slow.address, ""),
        // One more listener, one backend less.
        listen(first) + &listen(second) + &backend(b.address, "") + &backend(slow.address, ""),
        // Only the slow server: the next reload removes it with all its outstanding queries.
        listen(first) + &backend(slow.address, ""),
    ];
    let mut instance = Instance::start(&configs[0]);
    let load = Load::start(endless(first));
    for n in 0..RELOADS {
        let_pass(&load, u64::from(RATE) / 20);
        let which = (n as usize + 1) % configs.len();
        instance.reload(&configs[which]);
        if which == 2 {
            wait_for(|| "the new listener to answer".into(), || ask(second, "new.test"));
        }
    }
    let_pass(&load, u64::from(RATE) / 20);
    let report = load.finish();
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert!(report.sent > RELOADS * u64::from(RATE) / 20);
    let arrived = a.queries() + b.queries() + slow.queries();
    assert_eq!(arrived, report.sent, "queries at the backends and from the client");
    for who in 1..=3 {
        assert!(report.by_backend.contains_key(&who), "backend {who} had its turn: {:?}", report.by_backend);
    }
    assert!(instance.stop().success());
}

#[test]
fn reloads_with_real_servers_lose_nothing() {
    let unbound = Server::start(Kind::Unbound, 11);
    let nsd = Server::start(Kind::Nsd, 12);
    let knot = Server::start(Kind::Knot, 13);
    let at = local();
    let probed = |s: &Server, more: &str| {
        format!(
            "newServer {{address=\"{}\", checkName=\"ready.test.\", mustResolve=true{more}}}\n",
            s.address
        )
    };
    let all = listen(at)
        + "setServerPolicy(roundrobin)\n"
        + &probed(&unbound, "")
        + &probed(&nsd, "")
        + &probed(&knot, "");
    let two = listen(at) + "setServerPolicy(wrandom)\n" + &probed(&nsd, ", weight=3") + &probed(&knot, "");
    let mut instance = Instance::start(&all);
    let load = Load::start(endless(at));
    for n in 0..RELOADS {
        let_pass(&load, u64::from(RATE) / 20);
        instance.reload(if n % 2 == 0 { &two } else { &all });
    }
    let_pass(&load, u64::from(RATE) / 20);
    let report = load.finish();
    report.assert_nothing_lost(&|| instance.program.transcript());
    for who in [11, 12, 13] {
        assert!(report.by_backend.contains_key(&who), "server {who} had its turn: {:?}", report.by_backend);
    }
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let good = listen(at) + &backend(a.address, "");
    let mut instance = Instance::start(&good);
    let load = Load::start(endless(at));
    let_pass(&load, 200);
    let before = instance.program.output().len();
    instance.reload(&format!("{good}\nnoSuchFunction(1)\nnewServer {{address=\"nonsense\"}}\n"));
    wait_for(
        || format!("a message with file and line; {}", instance.program.transcript()),
        || (!instance.program.lines_with(before, "dnslob.lua:4").is_empty()).then_some(()),
    );
    let_pass(&load, 200);
    let before = instance.program.output().len();
    instance.reload("\n");
    wait_for(
        || format!("a message about an empty file; {}", instance.program.transcript()),
        || (!instance.program.lines_with(before, "dnslob.lua: is empty").is_empty()).then_some(()),
    );
    let_pass(&load, 200);
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    assert!(instance.program.ended().is_none());
}

#[test]
fn a_removed_listener_closes_and_can_be_added_again() {
    let a = Backend::start(1, Behaviour::Prompt);
    let (first, second) = (local(), local());
    let both = listen(first) + &listen(second) + &backend(a.address, "");
    let one = listen(first) + &backend(a.address, "");
    let mut instance = Instance::start(&both);
    assert!(ask(second, "x.test").is_some());
    instance.reload(&one);
    // The address is free for others.
    wait_for(
        || format!("{second} to be free; {}", instance.program.transcript()),
        || std::net::UdpSocket::bind(second).ok(),
    );
    assert!(ask(first, "x.test").is_some());
    instance.reload(&both);
    wait_for(|| format!("{second} to answer again"), || ask(second, "x.test"));
}

#[test]
fn an_unprivileged_user_reopens_its_listeners_without_loss() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can change to another user");
        return;
    }
    let a = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let with = |dscp: u64| format!("addLocal(\"{at}\", {{dscp={dscp}}})\n") + &backend(a.address, "");
    let mut instance = Instance::start_with(&with(0), &["--shards", "2", "-u", "nobody"]);
    let load = Load::start(endless(at));
    for n in 0..RELOADS {
        let_pass(&load, u64::from(RATE) / 20);
        let before = instance.program.output().len();
        // New sockets in addition to the old ones, on the same port.
        instance.reload(&with(n % 2 + 10));
        wait_for(
            || format!("the new configuration; {}", instance.program.transcript()),
            || (!instance.program.lines_with(before, "serving").is_empty()).then_some(()),
        );
    }
    let_pass(&load, u64::from(RATE) / 20);
    let report = load.finish();
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(a.queries(), report.sent, "queries at the backend and from the client");
    assert!(instance.stop().success());
}
