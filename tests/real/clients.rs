//! The clients that operators use: dig, kdig and dnsperf, with unbound, nsd and knotd as servers.

use std::net::SocketAddr;

use crate::instance::{Instance, listen};
use crate::place::{Directory, port};
use crate::process::run;
use crate::servers::{Kind, Server};

/// Starts one `dnslob` with all three servers.
fn setup() -> (SocketAddr, Instance, [Server; 3]) {
    let servers =
        [Server::start(Kind::Unbound, 31), Server::start(Kind::Nsd, 32), Server::start(Kind::Knot, 33)];
    let at = SocketAddr::from(([127, 0, 0, 1], port()));
    let mut lua = listen(at) + "setServerPolicy(roundrobin)\n";
    for server in &servers {
        lua += &format!(
            "newServer {{address=\"{}\", checkName=\"ready.test.\", mustResolve=true}}\n",
            server.address
        );
    }
    (at, Instance::start(&lua), servers)
}

#[test]
fn dig_and_kdig_are_answered() {
    let (at, instance, _servers) = setup();
    let (host, port) = (format!("@{}", at.ip()), at.port().to_string());
    for n in 0..6 {
        let name = format!("n{n}.test");
        for program in ["dig", "kdig"] {
            for extra in ["+noedns", "+dnssec"] {
                let (status, text) =
                    run(program, &[host.as_str(), "-p", &port, &name, "A", extra, "+retry=0"]);
                assert!(
                    status.success() && text.contains("192.0.2.3"),
                    "{program}: {text}\n{}",
                    instance.program.transcript()
                );
                assert!(text.to_uppercase().contains("NOERROR"), "{program}: {text}");
            }
        }
    }
}

#[test]
fn dnsperf_loses_nothing() {
    let (at, instance, _servers) = setup();
    let directory = Directory::new();
    let names: String = (0..1000).map(|n| format!("n{n}.test A\n")).collect();
    let file = directory.write("names", &names);
    let (port, limit) = (at.port().to_string(), "10000");
    let host = at.ip().to_string();
    let (status, text) = run(
        "dnsperf",
        &[
            "-s",
            &host,
            "-p",
            &port,
            "-d",
            file.to_str().expect("a path in UTF-8"),
            "-n",
            "10",
            "-c",
            "8",
            "-Q",
            limit,
        ],
    );
    assert!(status.success(), "{text}");
    let of = |what: &str| number_after(&text, what);
    assert_eq!(of("Queries sent:"), Some(10_000), "{text}\n{}", instance.program.transcript());
    assert_eq!(of("Queries completed:"), Some(10_000), "{text}\n{}", instance.program.transcript());
    assert!(text.contains("NOERROR 10000 (100.00%)"), "{text}");
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let rest = &text[text.find(label)? + label.len()..];
    rest.split_whitespace().next()?.parse().ok()
}
