//! Malformed and forged datagrams: each is counted under its reason and has no other effect.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{self, Load, Plan};
use crate::message;
use crate::place::{port, wait_for};
use crate::web::fetch_with;

const STORM: u64 = 500;

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

fn short(target: SocketAddr, count: u64) -> Plan {
    Plan { target, rate: 2_000, count, patience: Duration::from_secs(4) }
}

fn dropped_becomes(instance: &Instance, reason: &str, expected: u64) {
    wait_for(
        || format!("{reason} to become {expected}; {:#?}", instance.dump()),
        || (instance.dropped(reason) == expected).then_some(()),
    );
}

/// Names and patterns with line ends and escape sequences: one line each in the dump, in the log,
/// and in errors.
#[test]
fn texts_of_the_configuration_stay_within_their_lines() {
    let server = Backend::start(1, Behaviour::Prompt);
    let lua = |text: &str| {
        listen(local())
            + &backend(server.address, "")
            + &format!(
                "addAction(RegexRule('{text}'), SetTagAction('{text}', 'v'), {{name='{text}'}})\n\
                 addAction(TagRule('{text}', '{text}'), SetExtendedDNSErrorAction(15, '{text}'))\n\
                 addAction(AllRule(), LogAction('/tmp/{text}', false, true, false, false))\n\
                 infolog('{text}') showRules()\n"
            )
    };
    let mut instance = Instance::start(&lua("a\\nFORGED 1\\27c"));
    instance.reload(&lua("b\\nFORGED 1\\27c"));
    let dump = instance.dump();
    let table = dump.join("\n");
    assert!(table.contains(r"b\nFORGED 1\u{1b}c"), "{table}");
    instance.reload("newServer('c\\nFORGED 1\\27c')");
    wait_for(
        || format!("the error in the log; {}", instance.program.transcript()),
        || (!instance.program.lines_with(0, "reload refused").is_empty()).then_some(()),
    );
    let log = instance.program.transcript();
    assert!(log.contains(r"a\nFORGED 1\u{1b}c") && log.contains(r"c\nFORGED"), "{log}");
    for line in log.lines().chain(dump.iter().map(String::as_str)) {
        assert!(!line.trim_start().starts_with("FORGED") && !line.contains('\u{1b}'), "{line:?}");
    }
}

#[test]
fn bad_queries_are_counted_by_reason_and_service_goes_on() {
    let good = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let mut instance = Instance::start(&(listen(at) + &backend(good.address, "")));
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let whole = message::query(7, "bad.test");
    let with = |at: usize, byte: u8| {
        let mut m = whole.clone();
        m[at] |= byte;
        m
    };
    let cases: [(&str, Vec<u8>); 8] = [
        ("query-short", Vec::new()),
        ("query-short", vec![0]),
        ("query-short", whole[..message::HEADER - 1].to_vec()),
        ("query-malformed", whole[..message::HEADER].to_vec()), // QDCOUNT 1, no question
        ("query-malformed", whole[..whole.len() - 1].to_vec()),
        ("query-is-response", with(2, 0x80)),
        ("query-truncated", with(2, 0x02)),
        // The longest datagram over IPv4.
        ("oversized", [whole.clone(), vec![0xa5; 65_507 - whole.len()]].concat()),
    ];
    let load = Load::start(Plan { count: u64::MAX, ..short(at, 0) });
    for (reason, datagram) in &cases {
        let before = instance.dropped(reason);
        for n in 1..=20 {
            client.send_to(datagram, at).expect("it is sent");
            // The receive buffer holds few long datagrams, and drops in the kernel are not counted.
            if datagram.len() > 4096 || n == 20 {
                dropped_becomes(&instance, reason, before + n);
            }
        }
    }
    let report = load.finish();
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(good.queries(), report.sent, "no bad query went on to the backend");
    client.set_nonblocking(true).expect("a socket that does not block");
    assert!(client.recv(&mut [0; 512]).is_err(), "no bad query was answered");
    assert!(instance.stop().success());
}

#[test]
fn a_flood_of_unsolicited_answers_is_counted() {
    let good = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let instance = Instance::start(&(listen(at) + &backend(good.address, "")));
    let storm = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut reply = message::query(9, "storm.test");
    reply[2] |= 0x80;
    let load = Load::start(Plan { count: u64::MAX, ..short(at, 0) });
    for n in 0..STORM {
        storm.send_to(&reply, at).expect("it is sent");
        if n % 50 == 0 {
            // Never more than the receive buffer holds: drops in the kernel are not counted.
            dropped_becomes(&instance, "query-is-response", n + 1);
        }
    }
    dropped_becomes(&instance, "query-is-response", STORM);
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
}

/// With a single misbehaving backend, every query is lost and counted under the expected reason.
fn misbehaves(behaviour: Behaviour, expected: &[(&str, u64)], answered: u64) {
    const COUNT: u64 = 50;
    let bad = Backend::start(1, behaviour);
    let at = local();
    // A pool with only this server, and a timeout below the patience of the client.
    let mut instance = Instance::start(&(listen(at) + &backend(bad.address, ", udpTimeout=1")));
    let report = load::run(Plan { patience: Duration::from_millis(1_500), ..short(at, COUNT) });
    assert_eq!((report.answered, report.strange, report.duplicates), (answered, 0, 0), "{behaviour:?}");
    assert_eq!(bad.queries(), COUNT);
    for (reason, count) in expected {
        dropped_becomes(&instance, reason, *count);
    }
    assert!(instance.stop().success());
}

#[test]
fn an_answer_from_another_source_is_dropped() {
    // The kernel drops it before the connected socket, so the query times out.
    misbehaves(Behaviour::ForeignPort, &[("timeout", 50)], 0);
}

#[test]
fn an_answer_to_another_question_is_dropped() {
    misbehaves(Behaviour::OtherQuestion, &[("response-mismatch", 50)], 0);
}

#[test]
fn a_second_answer_is_dropped() {
    misbehaves(Behaviour::Twice, &[("response-duplicate", 50), ("timeout", 0)], 50);
}

#[test]
fn an_echoed_query_is_not_an_answer() {
    misbehaves(Behaviour::Echo, &[("response-not-response", 50)], 0);
}

#[test]
fn a_partial_header_is_not_an_answer() {
    misbehaves(Behaviour::Short, &[("response-short", 50)], 0);
}

#[test]
fn silence_is_a_timeout() {
    misbehaves(Behaviour::Silent, &[("timeout", 50)], 0);
}

/// Somebody who does not see the queries sends answers with every id to the port of one.
#[test]
fn guessed_answers_are_warned_of_and_the_queries_leave_by_other_ports() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    server.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let address = server.local_addr().expect("an address");
    let at = local();
    let mut instance = Instance::start(&(listen(at) + &backend(address, ", name='ns1', sockets=2")));
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let receive = || {
        let mut bytes = [0; 512];
        let (length, from) = server.recv_from(&mut bytes).expect("a query");
        (bytes[..length].to_vec(), from)
    };
    client.send_to(&message::query(7, "guess.test"), at).expect("it is sent");
    let (query, port) = receive();
    let true_answer = message::answer(&query, 1).expect("an answer");
    let id = u16::from_be_bytes([query[0], query[1]]);
    for n in 1..=400_u16 {
        let mut forged = true_answer.clone();
        forged[..2].copy_from_slice(&id.wrapping_add(n).to_be_bytes());
        server.send_to(&forged, port).expect("it is sent");
        if n % 50 == 0 {
            dropped_becomes(&instance, "response-foreign", n.into());
        }
    }
    let warned = || instance.program.lines_with(0, "somebody may be guessing").len();
    wait_for(|| instance.program.transcript(), || (warned() == 1).then_some(()));
    // More queries leave by the new ports, and the first one still has its answer.
    for n in 0..20 {
        client.send_to(&message::query(n, "next.test"), at).expect("it is sent");
        let (_, from) = receive();
        assert_ne!(from, port);
    }
    server.send_to(&true_answer, port).expect("it is sent");
    let mut bytes = [0; 512];
    let (length, _) = client.recv_from(&mut bytes).expect("an answer");
    assert_eq!(message::answered_by(&bytes[..length]), Some(1));
    let line = instance.program.lines_with(0, "somebody may be guessing").remove(0);
    assert!(line.contains("ns1") && line.contains("answers="), "{line}");
    assert_eq!(warned(), 1, "once");
    assert!(instance.stop().success());
}

#[test]
fn no_text_of_a_client_makes_a_line_of_the_log_long() {
    const LONG: usize = 200_000;
    let web = local();
    let lua = listen(local())
        + &backend(local(), ", id='one'")
        + &format!("webserver('{web}') setWebserverConfig({{apiKey='key'}}) setAPIWritable(true)\n")
        + "registerWebHandler('/fails', function(req, resp) error(req.getvars.a) end)\n\
           registerWebHandler('/header', function(req, resp) resp.headers = {[req.getvars.a]='x'} end)\n";
    let mut instance = Instance::start(&lua);
    let directory = crate::place::Directory::new();
    let (long, path) = ("y".repeat(LONG), "m".repeat(12_000));
    let rule =
        |more: &str| format!(r#"{{"selector": "a.test", "action": {{"name": "DropAction"}}, {more}}}"#);
    for (method, path, body) in [
        ("PATCH", "/api/v2/servers/one".to_owned(), format!(r#"{{"{long}": 1}}"#)),
        ("POST", "/api/v2/servers".to_owned(), format!(r#"{{"{long}": 1, "address": "127.0.0.1"}}"#)),
        ("POST", "/api/v2/servers".to_owned(), format!(r#"{{"address": "{long}"}}"#)),
        ("POST", "/api/v2/servers".to_owned(), format!(r#"{{"address": "127.0.0.1:1", "name": "{long}"}}"#)),
        ("POST", "/api/v2/servers".to_owned(), format!(r#"{{"address": "127.0.0.1:1", "pool": "{long}"}}"#)),
        ("POST", "/api/v2/rules/query".to_owned(), rule(&format!(r#""{long}": 1"#))),
        ("POST", "/api/v2/rules/query".to_owned(), rule(&format!(r#""name": "{long}""#))),
        ("PUT", "/api/v2/pools/x".to_owned(), format!(r#"{{"{long}": 1}}"#)),
        ("PUT", format!("/api/v2/pools/{path}"), r#"{"policy": "wrandom"}"#.to_owned()),
        ("PUT", format!("/api/v2/acl/{path}"), String::new()),
        ("PATCH", format!("/api/v2/servers/{path}"), "{}".to_owned()),
        ("PATCH", format!("/api/v2/servers/one?{path}=1"), "{}".to_owned()),
        ("GET", format!("/fails?a={path}"), String::new()),
        ("GET", format!("/header?a={path}%20"), String::new()),
    ] {
        let data = format!("@{}", directory.write("body", &body).display());
        let mut arguments = vec!["-X", method, "-H", "X-API-Key: key", "-H", "If-Match: *"];
        arguments.extend(["-H", "Content-Type: application/json"]);
        if method != "GET" {
            arguments.extend(["--data-binary", &data]);
        }
        let (status, text) = fetch_with(web, &path, &arguments);
        assert!(status >= 200 && (status < 300 || text.len() < 10_000), "{status} {}", text.len());
    }
    assert_eq!(instance.stop().code(), Some(0));
    let transcript = instance.program.transcript();
    let longest = transcript.lines().max_by_key(|line| line.len()).expect("lines");
    assert!(
        longest.len() < 3_000 && transcript.contains("was refused"),
        "{}: {}",
        longest.len(),
        &longest[..200]
    );
}
