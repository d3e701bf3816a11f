//! DNS over TLS as server and as client: kdig, openssl and dnsperf, with unbound, nsd and dnsdist.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use dnslob::tls::{CaStores, ClientSpec, ClientTls, Session};

use crate::instance::{Instance, listen};
use crate::message;
use crate::pki::{Authority, Pair, SecureServer};
use crate::place::{Directory, port, wait_for};
use crate::process::{Program, run};
use crate::servers::{Kind, Server};

pub(crate) fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Returns Lua for a listener with TLS.
pub(crate) fn listen_tls(at: SocketAddr, pairs: &[&Pair], options: &str) -> String {
    let list = |file: fn(&Pair) -> &Path| -> String {
        let files: Vec<String> = pairs.iter().map(|pair| format!("\"{}\"", file(pair).display())).collect();
        format!("{{{}}}", files.join(", "))
    };
    format!("addTLSLocal(\"{at}\", {}, {}, {{{options}}})\n", list(|p| &p.pem), list(|p| &p.key))
}

/// Returns Lua for a server that uses TLS.
pub(crate) fn secure(server: SocketAddr, authority: &Authority, more: &str) -> String {
    let store = authority.pem.display();
    format!(
        "newServer {{address=\"{server}\", tls=\"openssl\", caStore=\"{store}\", checkName=\"ready.test.\"{more}}}\n"
    )
}

/// Returns the output of kdig for one query.
pub(crate) fn kdig(at: SocketAddr, arguments: &str) -> String {
    let (host, port) = (format!("@{}", at.ip()), at.port().to_string());
    let mut all = vec![host.as_str(), "-p", &port, "+retry=0", "+timeout=5"];
    all.extend(arguments.split_whitespace());
    run("kdig", &all).1
}

/// Returns the output of `openssl s_client`, which exits at the end of its empty input.
pub(crate) fn s_client(at: SocketAddr, arguments: &str) -> String {
    let connect = at.to_string();
    let mut all = vec!["s_client", "-connect", connect.as_str()];
    all.extend(arguments.split_whitespace());
    run("openssl", &all).1
}

pub(crate) fn has(text: &str, part: &str, instance: &Instance) {
    assert!(text.contains(part), "no {part:?} in\n{text}\n{}", instance.program.transcript());
}

/// Waits until a line of the dump matches.
pub(crate) fn dumped(instance: &Instance, what: &str, fits: impl Fn(&str) -> bool) -> String {
    wait_for(
        || format!("{what} in a dump: {:#?}", instance.dump()),
        || instance.dump().into_iter().find(|line| fits(line)),
    )
}

/// Returns the number after a word.
pub(crate) fn count(line: &str, word: &str) -> u64 {
    let mut words = line.split_whitespace().skip_while(|w| *w != word).skip(1);
    words.next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Starts a TLS listener with a plain server.
fn setup(pairs: &[&Pair], more: &str) -> (SocketAddr, Instance, Server) {
    let server = Server::start(Kind::Nsd, 41);
    let at = local();
    let lua = listen(local())
        + &listen_tls(at, pairs, "")
        + &format!("newServer {{address=\"{}\", healthCheckMode=\"up\"}}\n", server.address)
        + more;
    (at, Instance::start(&lua), server)
}

#[test]
fn kdig_is_answered_and_accepts_the_certificate() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test", "127.0.0.1"]);
    let (at, instance, _server) = setup(&[&pair], "");
    has(&kdig(at, "+tls a.test +short"), "192.0.2.41", &instance);
    let good = format!("+tls +tls-ca={} +tls-hostname=dns.test a.test +short", authority.pem.display());
    has(&kdig(at, &good), "192.0.2.41", &instance);
    let wrong = good.replace("hostname=dns.test", "hostname=other.test");
    assert!(!kdig(at, &wrong).contains("192.0.2.41"), "another name was taken");
    let other = Authority::new();
    let stranger = format!("+tls +tls-ca={} +tls-hostname=dns.test a.test", other.pem.display());
    assert!(!kdig(at, &stranger).contains("192.0.2.41"), "another authority was taken");
    // Several queries over one connection.
    let text = kdig(at, "+tls +keepopen a.test b.test c.test +short");
    assert_eq!(text.matches("192.0.2.41").count(), 3, "{text}");
    let line = dumped(&instance, "handshakes", |l| l.starts_with(&format!("tls listener {at} ")));
    assert!(count(&line, "full") >= 3, "{line}");
    dumped(&instance, "the certificate", |l| {
        l.starts_with(&format!("certificate listener {at} dns.test expires"))
    });
}

#[test]
fn openssl_gets_the_requested_certificate_and_resumes_its_session() {
    let authority = Authority::new();
    let first = authority.issue("first", &["first.test"]);
    let second = authority.issue("second", &["second.test", "*.wild.test"]);
    let (at, instance, _server) = setup(&[&first, &second], "");
    let names = |name: &str| {
        let text = s_client(at, &format!("-servername {name} -showcerts"));
        let directory = Directory::new();
        let file = directory.write("shown.pem", &text).display().to_string();
        run("openssl", &["x509", "-in", &file, "-noout", "-ext", "subjectAltName"]).1
    };
    for (asked, shown) in [
        ("first.test", "first.test"),
        ("second.test", "second.test"),
        ("x.wild.test", "second.test"),
        ("nobody.test", "first.test"),
    ] {
        has(&names(asked), shown, &instance);
    }
    has(&s_client(at, "-alpn dot"), "ALPN protocol: dot", &instance);
    let verified =
        format!("-servername second.test -verify_hostname second.test -CAfile {}", authority.pem.display());
    has(&s_client(at, &verified), "Verify return code: 0 (ok)", &instance);
    assert_eq!(s_client(at, "-tls1_2 -reconnect").matches("Reused, TLSv1.2").count(), 5);
    assert_eq!(s_client(at, "-tls1_2 -no_ticket -reconnect").matches("Reused, TLSv1.2").count(), 5);
    // With TLS 1.3 the ticket follows the handshake: the client must wait for it.
    let directory = Directory::new();
    let session = directory.path().join("session");
    let mut command = Command::new("sh");
    let script = format!("sleep 10 | openssl s_client -connect {at} -sess_out {}", session.display());
    command.args(["-c", &script]);
    let mut waiting = Program::start(&mut command);
    wait_for(|| format!("a ticket; {}", waiting.transcript()), || session.exists().then_some(()));
    let resumed = || s_client(at, &format!("-sess_in {}", session.display()));
    wait_for(
        || format!("a session to be resumed: {}", resumed()),
        || resumed().contains("Reused, TLSv1.3").then_some(()),
    );
    waiting.kill();
    let line = dumped(&instance, "handshakes", |l| l.starts_with(&format!("tls listener {at} ")));
    assert!(count(&line, "resumed") >= 11, "{line}");
}

#[test]
fn ocsp_responses_are_stapled() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let response = authority.ocsp(&pair);
    let at = local();
    let options = format!("ocspResponses={{\"{}\"}}", response.display());
    let lua = listen(local()) + &listen_tls(at, &[&pair], &options) + "newServer('127.0.0.1:9')\n";
    let mut instance = Instance::start(&lua);
    has(&s_client(at, "-status"), "OCSP Response Status: successful", &instance);
    assert!(instance.stop().success());
    // A session of another certificate is not resumed.
    let other = authority.ocsp(&authority.issue("b", &["other.test"]));
    let instance =
        Instance::start(&lua.replace(&response.display().to_string(), &other.display().to_string()));
    has(&s_client(at, "-status"), "OCSP response: no response sent", &instance);
    let warnings = instance.program.lines_with(0, "is about another certificate: it is not stapled");
    assert_eq!(warnings.len(), 1, "{}", instance.program.transcript());
}

#[test]
fn rules_and_lua_see_the_protocol_and_the_server_name() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let rules = "addAction(SNIRule('blocked.test'), RCodeAction(DNSRCode.REFUSED))\n\
                 addAction(IncomingProtocolRule('DoT'), LuaAction(function(dq)\n\
                 \x20 if dq:getServerNameIndication() == 'lua.test' and dq:getProtocol() == 'DNS over TLS' then\n\
                 \x20   return DNSAction.Nxdomain, ''\n\
                 \x20 end\n\
                 \x20 return DNSAction.None, ''\n\
                 end))\n";
    let (at, instance, _server) = setup(&[&pair], rules);
    has(&kdig(at, "+tls +tls-sni=blocked.test a.test"), "status: REFUSED", &instance);
    has(&kdig(at, "+tls +tls-sni=lua.test a.test"), "status: NXDOMAIN", &instance);
    has(&kdig(at, "+tls +tls-sni=dns.test a.test +short"), "192.0.2.41", &instance);
    has(&kdig(at, "+tls a.test +short"), "192.0.2.41", &instance);
}

/// Runs dnsperf over TLS for `seconds` seconds.
fn dnsperf(at: SocketAddr, seconds: &str, directory: &Directory) -> Program {
    let names: String = (0..1000).map(|n| format!("n{n}.test A\n")).collect();
    let file = directory.write("names", &names);
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    let mut command = Command::new("dnsperf");
    command.args([
        "-m", "tls", "-s", &host, "-p", &port, "-c", "8", "-T", "1", "-Q", "2000", "-l", seconds, "-d",
    ]);
    command.arg(file);
    Program::start(&mut command)
}

fn lost_nothing(load: &mut Program, instance: &Instance) {
    assert!(load.wait().success(), "{}", load.transcript());
    let lost = load.lines_with(0, "Queries lost:");
    assert!(
        lost.len() == 1 && lost[0].contains(" 0 (0.00%)"),
        "{}\n{}",
        load.transcript(),
        instance.program.transcript()
    );
    assert!(load.lines_with(0, "Reconnections:").iter().all(|l| l.ends_with(" 0")), "{}", load.transcript());
}

#[test]
fn sighup_loads_new_certificates_without_losing_queries_or_sessions() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["old.test"]);
    let server = Server::start(Kind::Nsd, 42);
    let at = local();
    let lua = listen(local())
        + &listen_tls(at, &[&pair], "")
        + &format!("newServer {{address=\"{}\", healthCheckMode=\"up\"}}\n", server.address);
    let mut instance = Instance::start(&lua);
    let directory = Directory::new();
    let mut load = dnsperf(at, "4", &directory);
    let shown = |name: &str| {
        let verified = format!("-verify_hostname {name} -CAfile {}", authority.pem.display());
        s_client(at, &verified).contains("Verify return code: 0 (ok)")
    };
    assert!(shown("old.test"));
    let session = directory.path().join("session");
    s_client(at, &format!("-tls1_2 -sess_out {}", session.display()));
    for round in 0..4 {
        let name = format!("new{round}.test");
        authority.issue("a", &[&name]);
        instance.reload(&lua);
        wait_for(|| format!("{name}; {}", instance.program.transcript()), || shown(&name).then_some(()));
    }
    let resumed = s_client(at, &format!("-tls1_2 -sess_in {}", session.display()));
    has(&resumed, "Reused, TLSv1.2", &instance);
    // The key of another certificate: the reload reports it, and service continues.
    let good = std::fs::read(&pair.key).expect("the key");
    std::fs::copy(authority.issue("b", &["b.test"]).key, &pair.key).expect("another's key");
    instance.program.signal(Signal::SIGHUP);
    wait_for(
        || format!("a refusal; {}", instance.program.transcript()),
        || {
            let refusals = instance.program.lines_with(0, "does not belong to the certificate in");
            refusals.iter().any(|l| l.contains("dnslob.lua:2") && l.contains("a.key")).then_some(())
        },
    );
    assert!(shown("new3.test"));
    std::fs::write(&pair.key, good).expect("the key");
    lost_nothing(&mut load, &instance);
    assert!(instance.stop().success());
}

#[test]
fn queries_to_servers_use_tls_and_resume_sessions() {
    let authority = Authority::new();
    let named = authority.issue("named", &["dns.test"]);
    let addressed = authority.issue("addressed", &["127.0.0.1"]);
    let unbound = SecureServer::start(Kind::Unbound, 43, &named);
    let nsd = SecureServer::start(Kind::Nsd, 44, &addressed);
    let knot = Server::start(Kind::Knot, 45);
    let dnsdist = SecureServer::dnsdist(knot.address, &named);
    let at = local();
    // No idle connection is kept, so that new ones must be opened.
    let lua = listen(at)
        + "setServerPolicy(roundrobin)\nsetMaxCachedTCPConnectionsPerDownstream(0)\n"
        + &secure(unbound.address, &authority, ", name=\"unbound\", subjectName=\"dns.test\"")
        + &secure(nsd.address, &authority, ", name=\"nsd\"")
        + &secure(dnsdist.address, &authority, ", name=\"dnsdist\", subjectName=\"dns.test\"");
    let instance = Instance::start(&lua);
    for n in 0..12 {
        for transport in ["+notcp", "+tcp"] {
            let text = kdig(at, &format!("{transport} n{n}.test +short"));
            assert!(
                text.contains("192.0.2.4"),
                "{text}\n{}\n{}",
                instance.program.transcript(),
                unbound.transcript()
            );
        }
    }
    for name in ["unbound", "nsd", "dnsdist"] {
        let line = wait_for(
            || format!("a resumed session with {name}: {:#?}", instance.dump()),
            || {
                kdig(at, "more.test +short");
                let start = format!("tls server \"{name}\" ");
                instance.dump().into_iter().find(|l| l.starts_with(&start) && count(l, "resumed") > 0)
            },
        );
        assert_eq!(line.split_whitespace().count(), 7, "no failure: {line}");
        dumped(&instance, "its certificate", |l| l.starts_with(&format!("certificate server \"{name}\" ")));
    }
}

/// Starts bad servers followed by a good one, in this order.
fn with_bad_servers(authority: &Authority, more: &str) -> (SocketAddr, Instance, Vec<SecureServer>) {
    let expired = authority.issue_until("expired", &["dns.test"], 2020);
    let alone = authority.self_signed("alone", &["dns.test"]);
    let other = authority.issue("other", &["other.test"]);
    let good = authority.issue("good", &["dns.test"]);
    let servers: Vec<_> = [expired, alone, other, good]
        .iter()
        .zip(51..)
        .map(|(pair, who)| SecureServer::start(Kind::Unbound, who, pair))
        .collect();
    let at = local();
    let mut lua = listen(at) + "setServerPolicy(firstAvailable)\n";
    for (order, (server, name)) in servers.iter().zip(["expired", "alone", "other", "good"]).enumerate() {
        let own = format!(", name=\"{name}\", order={order}, subjectName=\"dns.test\"{more}");
        lua += &secure(server.address, authority, &own);
    }
    (at, Instance::start(&lua), servers)
}

#[test]
fn a_health_check_reports_a_bad_certificate() {
    let authority = Authority::new();
    let (at, instance, _servers) = with_bad_servers(&authority, "");
    for (name, why) in [
        ("expired", "certificate has expired (on 2020-01-01)"),
        ("alone", "self-signed certificate"),
        ("other", "certificate is for other.test, not dns.test"),
    ] {
        wait_for(
            || format!("{name}: {why}; {}", instance.program.transcript()),
            || {
                let lines = instance.program.lines_with(0, "server is down");
                lines.iter().any(|l| l.contains(&format!("\"{name}\"")) && l.contains(why)).then_some(())
            },
        );
    }
    has(&kdig(at, "a.test +short"), "192.0.2.54", &instance);
}

#[test]
fn queries_continue_at_a_server_with_a_valid_certificate() {
    let authority = Authority::new();
    // Without checks: only queries detect the failure.
    let (at, instance, _servers) = with_bad_servers(&authority, ", healthCheckMode=\"up\"");
    for transport in ["+notcp", "+tcp"] {
        has(&kdig(at, &format!("{transport} a.test +short")), "192.0.2.54", &instance);
    }
    for name in ["expired", "alone", "other"] {
        let start = format!("tls server \"{name}\" ");
        let line = dumped(&instance, name, |l| l.starts_with(&start));
        assert!(count(&line, "bad-certificate") > 0, "{line}");
    }
}

#[test]
fn failed_handshakes_are_counted_by_reason() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let (at, instance, _server) = setup(&[&pair], "setTCPRecvTimeout(1)\n");
    let talk = |request: &[u8]| {
        let mut stream = TcpStream::connect(at).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        stream.write_all(request).expect("written");
        let mut heard = Vec::new();
        // A reset is accepted as an end, too.
        let _ = stream.read_to_end(&mut heard);
        heard
    };
    // A plain DNS query, and another protocol.
    talk(b"\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01");
    talk(b"GET / HTTP/1.1\r\nHost: dns.test\r\n\r\n");
    // The start of a handshake, and nothing more.
    assert!(talk(b"\x16\x03\x01\x02\x00\x01\x00").len() < 20);
    s_client(at, "-alpn h2");
    let stranger = Authority::new();
    s_client(at, &format!("-CAfile {} -verify_return_error", stranger.pem.display()));
    // A port scan: connect and close.
    drop(TcpStream::connect(at).expect("a connection"));
    let line = dumped(&instance, "failures", |l| {
        l.starts_with(&format!("tls listener {at} ")) && count(l, "certificate-refused") > 0
    });
    assert_eq!(count(&line, "not-tls"), 2, "{line}");
    assert_eq!(count(&line, "no-shared-alpn"), 1, "{line}");
    dumped(&instance, "the slow one", |l| l == "client-connection-end-handshake-timeout 1");
    dumped(&instance, "the others", |l| l == "client-connection-end-handshake 4");
    dumped(&instance, "the one that only looked", |l| {
        l.starts_with("client-connection-end-client ") && !l.ends_with(" 0")
    });
    // A correct client is served.
    has(&kdig(at, "+tls a.test +short"), "192.0.2.41", &instance);
}

/// A client in this process that accepts any certificate and resumes no session.
fn stranger() -> ClientTls {
    let spec = ClientSpec { validate: false, ..ClientSpec::default() };
    ClientTls::load(&spec, [127, 0, 0, 1].into(), &mut CaStores::default()).expect("a client")
}

/// Sends `outside` in plain text and `inside` over TLS. Returns what arrives over TLS until the
/// peer closes or a message is complete.
fn converse(at: SocketAddr, outside: &[u8], inside: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    stream.write_all(outside).expect("written");
    let mut session = Session::client(&stranger()).expect("a session");
    session.send(inside);
    let (mut bytes, mut plain) = (vec![0; 16_384], Vec::new());
    loop {
        while session.wants_write() {
            if session.write_to(&mut stream).is_err() {
                return plain;
            }
        }
        let whole = plain.first_chunk().map_or(usize::MAX, |l| 2 + usize::from(u16::from_be_bytes(*l)));
        if plain.len() >= whole {
            return plain.split_off(2);
        }
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return plain,
            Ok(count) if session.on_bytes(&bytes[..count], &mut plain).is_err() => return plain,
            Ok(_) => {}
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a short message");
    [&length.to_be_bytes()[..], message].concat()
}

#[test]
fn a_proxy_header_is_read_before_tls_or_inside_it() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let server = Server::start(Kind::Nsd, 48);
    let (within, outside) = (local(), local());
    let lua = listen(local())
        + &listen_tls(within, &[&pair], "")
        + &listen_tls(outside, &[&pair], "proxyProtocolOutsideTLS=true")
        + "setProxyProtocolACL('127.0.0.0/8')\n\
           addAction(NetmaskGroupRule('203.0.113.0/24'), PoolAction(''), {name='proxied'})\n"
        + &format!("newServer {{address=\"{}\", healthCheckMode=\"up\"}}\n", server.address);
    let instance = Instance::start(&lua);
    // Version 2, PROXY, TCP over IPv4, 12 bytes of addresses and ports.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([203, 0, 113, 7, 192, 0, 2, 53, 0x30, 0x39, 3, 0x55]);
    let query = framed(&message::query(7, "a.test"));
    let answer = converse(outside, &header, &query);
    assert_eq!(message::answered_by(&answer), Some(48), "{}", instance.program.transcript());
    let answer = converse(within, b"", &[&header[..], &query].concat());
    assert_eq!(message::answered_by(&answer), Some(48), "{}", instance.program.transcript());
    assert_eq!(instance.hits("proxied"), 2);
    // Each header in the wrong place, and no header.
    assert_eq!(converse(outside, b"", &query), b"");
    assert_eq!(converse(within, &header, &query), b"");
    assert_eq!(converse(within, b"", &query), b"");
    assert_eq!(instance.hits("proxied"), 2);
    dumped(&instance, "wrong headers", |l| l == "client-connection-end-proxy 2");
}

#[test]
fn clients_that_open_sessions_too_fast_are_refused() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let server = Server::start(Kind::Nsd, 49);
    let at = local();
    let lua = listen(local())
        + &listen_tls(at, &[&pair], "")
        + "setMaxTLSNewSessionRatePerClient(1)\nsetBanDurationForExceedingTCPTLSRate(60)\n"
        + &format!("newServer {{address=\"{}\", healthCheckMode=\"up\"}}\n", server.address);
    let instance = Instance::start(&lua);
    let query = framed(&message::query(7, "a.test"));
    // A rate is an average over five minutes: the burst, then one more per second.
    let mut answered = 0;
    while message::answered_by(&converse(at, b"", &query)) == Some(49) {
        answered += 1;
        assert!(answered < 1_000, "no limit; {}", instance.program.transcript());
    }
    assert!(answered >= 300, "{answered} sessions");
    assert_eq!(converse(at, b"", &query), b"");
    dumped(&instance, "the one too many", |l| l == "client-connection-end-session-rate 1");
    dumped(&instance, "the ban", |l| l == "client-connection-end-banned 1");
}

#[test]
fn a_large_load_over_tls_both_ways_loses_nothing() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let server = SecureServer::start(Kind::Unbound, 46, &pair);
    let at = local();
    let lua = listen(local())
        + &listen_tls(at, &[&pair], "")
        + &secure(server.address, &authority, ", subjectName=\"dns.test\"");
    let mut instance = Instance::start(&lua);
    let directory = Directory::new();
    let mut load = dnsperf(at, "3", &directory);
    lost_nothing(&mut load, &instance);
    assert!(instance.stop().success());
}

#[test]
fn the_example_configuration_forwards_over_tls() {
    let authority = Authority::new();
    let pair = authority.issue("a", &["dns.test"]);
    let server = SecureServer::start(Kind::Unbound, 47, &pair);
    let at = local();
    let file = format!("{}/examples/dot-forwarder.lua", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(file).expect("the example");
    let store = authority.pem.display();
    let name = format!("subjectName=\"dns.test\", caStore=\"{store}\", checkName=\"ready.test.\"");
    for (old, new) in [
        ("\"127.0.0.1:5300\"", format!("\"{at}\"")),
        ("\"9.9.9.9\"", format!("\"{}\"", server.address)),
        ("subjectName=\"dns.quad9.net\"", name),
    ] {
        assert!(text.contains(old), "the example has no {old}");
        text = text.replace(old, &new);
    }
    let instance = Instance::start(&text);
    for transport in ["+notcp", "+tcp"] {
        has(&kdig(at, &format!("{transport} a.test +short")), "192.0.2.47", &instance);
    }
}
