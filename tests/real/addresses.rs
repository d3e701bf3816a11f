//! Listen addresses: IPv4, IPv6, several, and wildcards that answer from the queried address.

use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{self, Plan};
use crate::place::port;
use crate::process;

/// The sockets of the load are connected: an answer from another address is lost.
fn serves(instance: &Instance, target: SocketAddr) {
    let report = load::run(Plan { target, rate: 2_000, count: 200, patience: Duration::from_secs(4) });
    report.assert_nothing_lost(&|| format!("asked at {target}; {}", instance.program.transcript()));
}

#[test]
fn a_wildcard_listener_answers_from_the_queried_address() {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = port();
    let instance = Instance::start(&(listen(SocketAddr::from(([0, 0, 0, 0], at))) + &backend(a.address, "")));
    for address in [[127, 0, 0, 1], [127, 0, 0, 2], [127, 1, 2, 3]] {
        serves(&instance, (address, at).into());
    }
}

#[test]
fn an_ipv6_wildcard_listener_answers_from_the_queried_address() {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = port();
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, at));
    let instance = Instance::start(&(listen(any) + &backend(a.address, "")));
    serves(&instance, (std::net::Ipv6Addr::LOCALHOST, at).into());
}

#[test]
fn ipv4_and_ipv6_mix_on_both_sides() {
    let v4 = Backend::start(4, Behaviour::Prompt);
    let v6 = Backend::start_at((std::net::Ipv6Addr::LOCALHOST, port()).into(), 6, Behaviour::Prompt);
    let fronts: [SocketAddr; 2] =
        [([127, 0, 0, 1], port()).into(), (std::net::Ipv6Addr::LOCALHOST, port()).into()];
    let lua = fronts.map(listen).concat()
        + "setServerPolicy(roundrobin)\n"
        + &backend(v4.address, "")
        + &backend(v6.address, "");
    let instance = Instance::start(&lua);
    for front in fronts {
        serves(&instance, front);
    }
    assert_eq!(v4.queries() + v6.queries(), 400);
    assert!(v4.queries() > 100 && v6.queries() > 100, "{} and {}", v4.queries(), v6.queries());
}

#[test]
fn the_one_line_start_of_the_readme_works() {
    let (a, b) = (Backend::start(1, Behaviour::Prompt), Backend::start(2, Behaviour::Prompt));
    let at = SocketAddr::from(([127, 0, 0, 1], port()));
    let mut instance = Instance::start_plain(&[at.to_string(), a.address.to_string(), b.address.to_string()]);
    serves(&instance, at);
    assert!(a.others() > 0 && b.others() > 0, "both were probed before the listener opened");
    assert!(instance.stop().success());
}

#[test]
fn a_client_outside_the_acl_gets_no_answer() {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = SocketAddr::from(([127, 0, 0, 1], port()));
    let lua = listen(at) + "setACL({\"127.0.0.2/32\"})\n" + &backend(a.address, "");
    let instance = Instance::start(&lua);
    let report = load::run(Plan { target: at, rate: 2_000, count: 50, patience: Duration::from_millis(200) });
    assert_eq!((report.sent, report.answered), (50, 0));
    assert_eq!(instance.dropped("acl"), 50);
    assert_eq!(a.queries(), 0);
    let server = format!("@{}", at.ip());
    let port = at.port().to_string();
    let (_, text) =
        process::run("dig", &[&server, "-p", &port, "-b", "127.0.0.2", "+tries=1", "+short", "x.test"]);
    assert_eq!(text.trim(), "192.0.2.1");
}
