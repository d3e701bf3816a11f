//! The client address through proxies: dnsdist before and behind dnslob, kdig as a proxy, and
//! sources outside the PROXY ACL.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use dnslob::wire::proxy::{Transport, write_v2};

use crate::instance::{Instance, listen};
use crate::message;
use crate::place::{Directory, port, wait_for};
use crate::process::{Program, run};
use crate::servers::{Kind, Server};

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Arguments of dig.
fn dig(server: SocketAddr, arguments: &str) -> String {
    let (host, port) = (format!("@{}", server.ip()), server.port().to_string());
    let mut all = vec![host.as_str(), "-p", &port, "+short", "+tries=1", "+time=2"];
    all.extend(arguments.split_whitespace());
    run("dig", &all).1.trim().to_owned()
}

/// Waits until a server answers.
fn ready(server: SocketAddr, what: impl Fn() -> String) {
    wait_for(what, || (dig(server, "ready.test A +notcp") == "192.0.2.1").then_some(()));
}

/// A running dnsdist.
fn dnsdist(text: &str) -> (Program, Directory) {
    let directory = Directory::new();
    let path = directory.write("dnsdist.conf", text);
    let path = path.to_str().expect("a path in UTF-8");
    let (status, output) = run("dnsdist", &["--check-config", "-C", path]);
    assert!(status.success(), "{output}");
    let mut command = Command::new("dnsdist");
    (Program::start(command.args(["--supervised", "--disable-syslog", "-C", path])), directory)
}

/// Rules that answer one client, 127.0.7.1, with a different address; valid in both programs.
const BY_CLIENT: &str = "addAction('127.0.7.1/32', SpoofAction('192.0.2.77'))\n";

/// The transports, and the queries per connection.
const WAYS: [&str; 2] = ["+notcp", "+tcp +keepopen a.test A"];

#[test]
fn dnsdist_passes_the_client_address_to_dnslob() {
    let server = Server::start(Kind::Nsd, 1);
    let (front, back) = (local(), local());
    let instance = Instance::start(&format!(
        "{}setProxyProtocolACL({{'127.0.0.1'}})\nnewServer('{}')\n{BY_CLIENT}",
        listen(back),
        server.address
    ));
    let (dnsdist, _home) =
        dnsdist(&format!("setLocal('{front}')\nnewServer({{address='{back}', useProxyProtocol=true}})\n"));
    ready(front, || format!("{}; {}", dnsdist.transcript(), instance.program.transcript()));
    for way in WAYS {
        for _ in 0..3 {
            let output = dig(front, &format!("x.test A {way} -b 127.0.7.1"));
            assert!(output.starts_with("192.0.2.77"), "{way}: {output}");
            let output = dig(front, &format!("x.test A {way} -b 127.0.7.2"));
            assert!(output.starts_with("192.0.2.1"), "{way}: {output}");
        }
    }
    assert_eq!(instance.dropped("proxy-header"), 0);
    // A query without the expected header is not answered, and is counted.
    assert!(!dig(back, "x.test A +notcp").contains("192.0.2."));
    wait_for(|| instance.program.transcript(), || (instance.dropped("proxy-header") > 0).then_some(()));
    assert!(!dig(back, "x.test A +tcp").contains("192.0.2."));
}

#[test]
fn dnslob_passes_the_client_address_to_dnsdist() {
    let server = Server::start(Kind::Nsd, 1);
    let (front, back) = (local(), local());
    let (dnsdist, _home) = dnsdist(&format!(
        "setLocal('{back}')\nsetProxyProtocolACL({{'127.0.0.1/32'}})\nnewServer('{}')\n{BY_CLIENT}\
         addAction(AndRule({{ProxyProtocolValueRule(0xe0, 'guest'), QNameRule('guest.test')}}), SpoofAction('192.0.2.78'))\n",
        server.address
    ));
    let instance = Instance::start(&format!(
        "{}newServer{{address='{back}', useProxyProtocol=true, checkName='ready.test.', checkInterval=0.1}}\n\
         addAction(NetmaskGroupRule('127.0.8.1/32'), SetAdditionalProxyProtocolValueAction(0xe0, 'guest'))\n",
        listen(front)
    ));
    ready(front, || format!("{}; {}", dnsdist.transcript(), instance.program.transcript()));
    for way in WAYS {
        for _ in 0..3 {
            for (client, name, answer) in [
                ("127.0.7.1", "x.test", "192.0.2.77"),
                ("127.0.7.2", "x.test", "192.0.2.1"),
                ("127.0.8.1", "guest.test", "192.0.2.78"),
                ("127.0.7.2", "guest.test", "192.0.2.1"),
            ] {
                let output = dig(front, &format!("{name} A {way} -b {client}"));
                assert!(
                    output.starts_with(answer),
                    "{client} {name} {way}: {output}; {}",
                    dnsdist.transcript()
                );
            }
        }
    }
}

#[test]
fn two_dnslobs_keep_the_client_address_with_both_versions() {
    let server = Server::start(Kind::Nsd, 1);
    for version in ["true", "'v2'", "'v1'"] {
        let (front, back) = (local(), local());
        let _back = Instance::start(&format!(
            "{}setProxyProtocolACL({{'127.0.0.1'}})\nnewServer('{}')\n{BY_CLIENT}",
            listen(back),
            server.address
        ));
        let instance = Instance::start(&format!(
            "{}newServer{{address='{back}', useProxyProtocol={version}, healthCheckMode='up'}}\n",
            listen(front)
        ));
        for way in WAYS {
            let output = dig(front, &format!("x.test A {way} -b 127.0.7.1"));
            assert!(
                output.starts_with("192.0.2.77"),
                "{version} {way}: {output}; {}",
                instance.program.transcript()
            );
            let output = dig(front, &format!("x.test A {way} -b 127.0.7.2"));
            assert!(
                output.starts_with("192.0.2.1"),
                "{version} {way}: {output}; {}",
                instance.program.transcript()
            );
        }
    }
}

#[test]
fn kdig_is_a_proxy() {
    if !run("kdig", &["--help"]).1.contains("proxy=") {
        eprintln!("SKIPPED: this kdig sends no PROXY headers");
        return;
    }
    let (server, at) = (Server::start(Kind::Nsd, 1), local());
    let instance = Instance::start(&format!(
        "{}setProxyProtocolACL({{'127.0.0.1'}})\nnewServer('{}')\n{BY_CLIENT}",
        listen(at),
        server.address
    ));
    let (host, port) = (format!("@{}", at.ip()), at.port().to_string());
    for (way, client, answer) in [
        ("+notcp", "127.0.7.1", "192.0.2.77"),
        ("+notcp", "192.0.2.200", ""),
        ("+tcp", "127.0.7.1", "192.0.2.77"),
        ("+tcp", "127.0.7.2", "192.0.2.1"),
    ] {
        let proxy = format!("+proxy={client}@4000-192.0.2.53@53");
        let words = [&host[..], "-p", &port, "x.test", "A", "+short", "+retry=0", "+time=2", way, &proxy];
        let (_, output) = run("kdig", &words);
        // The ACL applies to the proxy.
        let answer = if answer.is_empty() { "192.0.2.1" } else { answer };
        assert!(output.contains(answer), "{way} {client}: {output}; {}", instance.program.transcript());
    }
}

#[test]
fn malformed_headers_and_those_from_other_sources_are_counted() {
    let (server, at) = (Server::start(Kind::Nsd, 1), local());
    let instance = Instance::start(&format!(
        "{}setProxyProtocolACL({{'127.0.9.1'}})\nnewServer{{address='{}', healthCheckMode='up'}}\n",
        listen(at),
        server.address
    ));
    let ask = |from: &str, bytes: &[u8]| {
        let socket = UdpSocket::bind((from, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
        socket.send_to(bytes, at).expect("sent");
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).ok()
    };
    let query = message::query(7, "x.test");
    let mut header = Vec::new();
    let [client, asked] = ["192.0.2.7:4000", "192.0.2.53:53"]
        .map(|text| text.parse::<SocketAddr>().expect("an address").into());
    assert!(write_v2(&mut header, Transport::Datagram, client, asked, std::iter::empty()));
    let whole = [&header[..], &query].concat();
    wait_for(|| instance.program.transcript(), || ask("127.0.9.1", &whole));
    assert!(ask("127.0.0.1", &query).is_some(), "who is no proxy needs no header");
    for (from, bytes) in [
        ("127.0.9.1", &query[..]),
        ("127.0.9.1", &header[..20]),
        ("127.0.9.1", &[&header[..12], &[0x41], &header[13..], &query].concat()),
        ("127.0.0.1", &whole),
    ] {
        let before = instance.dropped("proxy-header");
        assert_eq!(ask(from, bytes), None, "from {from}: {bytes:02x?}");
        assert_eq!(instance.dropped("proxy-header"), before + 1, "from {from}: {bytes:02x?}");
    }
}
