//! `dnslob replay` with captures that tcpdump makes around real programs, and with captures that are
//! made here: what the capture has is what is sent, and differences that were planted are found.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use dnslob::wire::{ecs, proxy};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bench::{Reflect, measured, number};
use crate::instance::binary;
use crate::message::{answer, query};
use crate::pki::Authority;
use crate::place::{Directory, port, wait_for};
use crate::process::Program;
use crate::servers::{Kind, command};

pub(crate) fn replay(capture: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("replay").arg(capture).args(arguments).stdin(Stdio::null());
    command.output().expect("dnslob replay runs")
}

/// Runs it and returns its document.
fn replayed(capture: &Path, arguments: &[&str]) -> Value {
    let output = replay(capture, &[&["--json"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{said}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

/// What tcpdump sees of a port while something is done.
fn captured(directory: &Directory, address: &str, work: impl FnOnce()) -> PathBuf {
    let path = directory.path().join("capture.pcap");
    let port = address.rsplit(':').next().expect("a port");
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-i", "lo", "-B", "16384", "--immediate-mode", "-U", "-s", "0", "-w"]).arg(&path);
    if nix::unistd::geteuid().is_root() {
        // It would give up the rights that its file needs.
        tcpdump.args(["-Z", "root"]);
    }
    let mut tcpdump = Program::start(tcpdump.args(["port", port]));
    wait_for(
        || "tcpdump".to_owned(),
        || {
            assert!(tcpdump.ended().is_none(), "{}", tcpdump.transcript());
            tcpdump.lines_with(0, "listening on").pop()
        },
    );
    work();
    // Packets reach it in order: when the last is there, all are.
    let marker = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    marker.send_to(b"_the_end_", address).expect("a packet");
    wait_for(
        || "the last packet in the capture".to_owned(),
        || fs::read(&path).ok().filter(|bytes| bytes.windows(9).any(|w| w == b"_the_end_")),
    );
    tcpdump.signal(Signal::SIGINT);
    assert!(tcpdump.wait().success(), "{}", tcpdump.transcript());
    let dropped = tcpdump.lines_with(0, "packets dropped by kernel").pop();
    assert!(dropped.is_some_and(|line| line.starts_with("0 ")), "{}", tcpdump.transcript());
    path
}

/// Writes a capture of UDP packets over IPv4: microseconds, sender, receiver, message.
pub(crate) fn written(directory: &Directory, packets: &[(u64, SocketAddr, SocketAddr, Vec<u8>)]) -> PathBuf {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        out.extend(word.to_le_bytes());
    }
    for (at, from, to, message) in packets {
        let (IpAddr::V4(source), IpAddr::V4(target)) = (from.ip(), to.ip()) else { panic!("IPv4") };
        let length = 28 + message.len() as u32;
        for word in [1_700_000_000 + (at / 1_000_000) as u32, (at % 1_000_000) as u32, length, length] {
            out.extend(word.to_le_bytes());
        }
        out.extend([0x45, 0]);
        out.extend((length as u16).to_be_bytes());
        out.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        out.extend(source.octets());
        out.extend(target.octets());
        out.extend(from.port().to_be_bytes());
        out.extend(to.port().to_be_bytes());
        out.extend((8 + message.len() as u16).to_be_bytes());
        out.extend([0, 0]);
        out.extend(message);
    }
    let path = directory.path().join("written.pcap");
    fs::write(&path, out).expect("a capture");
    path
}

pub(crate) fn client(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 9, 0, n], 4_000 + u16::from(n)))
}

pub(crate) const RECORDED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 53);

/// Answers so many queries over UDP, each after its PROXY header if it has one; returns them with
/// their senders.
fn serve(socket: UdpSocket, count: usize) -> JoinHandle<Vec<(SocketAddr, Vec<u8>)>> {
    socket.set_read_timeout(Some(Duration::from_secs(15))).expect("a time-out");
    std::thread::spawn(move || {
        let mut buffer = [0; 4_096];
        let mut seen = Vec::new();
        while seen.len() < count {
            let (length, from) = socket.recv_from(&mut buffer).expect("a query");
            let bytes = buffer[..length].to_vec();
            let front = match proxy::parse(&bytes, 512) {
                proxy::Parsed::Header { len, .. } => len,
                proxy::Parsed::Incomplete | proxy::Parsed::Invalid(_) => 0,
            };
            let reply = answer(&bytes[front..], 1).expect("a query");
            socket.send_to(&reply, from).expect("an answer");
            seen.push((from, bytes));
        }
        seen
    })
}

#[test]
fn what_was_captured_around_a_real_program_is_sent_again() {
    let directory = Directory::new();
    let first = Reflect::start(&["--records", "1..4"]);
    let mut asked = 0;
    let capture = captured(&directory, &first.address, || {
        for arguments in [
            // One at a time: several would be one packet of many segments for tcpdump.
            &["--outstanding", "1", "--clients", "127.1.0.0/28", "--random"][..],
            &["--rate", "500", "--transport", "tcp", "--connections", "5", "--type", "AAAA", "--random"],
        ] {
            let document = measured(&first.address, &[&["--duration", "300ms"], arguments].concat());
            asked += number(&document, "/counts/sent");
        }
    });
    let port = first.address.rsplit(':').next().expect("a port");
    for arguments in [
        &["--speed", "4"][..],
        &["--max", "--sockets", "3", "--threads", "2"],
        &["--rate", "4000", "--transport", "tcp", "--connections", "40"],
        &["--rate", "4000", "--transport", "udp", "--threads", "2"],
    ] {
        let second = Reflect::start(&["--records", "1..4", "--ttl", "999"]);
        let document = replayed(&capture, &[&[second.address.as_str(), "--port", port], arguments].concat());
        let [sent, answered, queries, taken, compared, same] = [
            "/counts/sent",
            "/counts/answered",
            "/replay/capture/queries",
            "/replay/capture/taken",
            "/replay/compared/answers",
            "/replay/compared/classes/same",
        ]
        .map(|pointer| number(&document, pointer));
        assert_eq!(
            [sent, answered, queries, taken, compared, same],
            [asked; 6],
            "{arguments:?}: {document:#}"
        );
        assert_eq!(number(&document, "/wrong"), 0);
        if arguments == ["--speed", "4"] {
            assert_eq!(number(&document, "/counts/connections"), 5, "as many as there had been");
        }
        assert_eq!(second.end("answers NOERROR"), asked, "{arguments:?}: both ends count the same");
    }
    // Worse answers are told from the recorded ones, and decide on the exit code.
    let worse = Reflect::start(&["--records", "1..4", "--rcode", "servfail=0.2", "--seed", "3"]);
    let arguments = [worse.address.as_str(), "--port", port, "--max", "--fail-if", "worse>0,diff>99%"];
    let output = replay(&capture, &[&arguments[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(3));
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let failed = worse.end("answers SERVFAIL");
    assert!(failed > 0);
    assert_eq!(number(&document, "/replay/compared/verdicts/worse"), failed, "{document:#}");
    assert_eq!(number(&document, "/replay/compared/classes/rcode"), failed);
    assert_eq!(document["failed"].as_array().map(Vec::len), Some(1), "{document:#}");
}

/// Two unbound that differ in what they know of some names.
#[test]
fn planted_differences_of_two_servers_are_found_and_no_other() {
    let directory = Directory::new();
    let start = |name: &str, data: &str| {
        let home = Directory::new();
        let address = SocketAddr::from(([127, 0, 0, 1], port()));
        let mut plain = command(Kind::Unbound, &home, address, 1);
        let path = home.path().join("server.conf");
        let text = fs::read_to_string(&path).expect("a configuration");
        let (head, _) = text.split_once(" local-zone: \"test.\"").expect("the zone");
        let text =
            format!("{head} local-zone: \"test.\" static\n{data}remote-control:\n control-enable: no\n");
        fs::write(path, text).expect("a configuration");
        let program = Program::start(&mut plain);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        wait_for(
            || format!("{name}: {}", program.transcript()),
            || {
                socket.send_to(&query(1, "same.test"), address).ok()?;
                socket.recv(&mut [0; 512]).ok()
            },
        );
        (program, address.to_string(), home)
    };
    let data = |lines: &[(&str, u32, &str)]| {
        let line =
            |(name, ttl, data): &(&str, u32, &str)| format!(" local-data: \"{name}.test. {ttl} {data}\"\n");
        lines.iter().map(line).collect::<String>()
    };
    let common = [("same", 60, "A 192.0.2.1"), ("rcode", 60, "A 192.0.2.1"), ("missing", 60, "A 192.0.2.1")];
    let (_first, a, _home_a) = start(
        "the first",
        &data(
            &[
                &common[..],
                &[
                    ("missing", 60, "A 192.0.2.2"),
                    ("extra", 60, "A 192.0.2.1"),
                    ("data", 60, "A 192.0.2.1"),
                    ("ttl", 60, "A 192.0.2.1"),
                ],
            ]
            .concat(),
        ),
    );
    let (_second, b, _home_b) = start(
        "the second",
        &data(
            &[
                &[common[0], common[2]][..],
                &[
                    ("extra", 60, "A 192.0.2.1"),
                    ("extra", 60, "A 192.0.2.2"),
                    ("data", 60, "A 192.0.2.9"),
                    ("ttl", 61, "A 192.0.2.1"),
                ],
            ]
            .concat(),
        ),
    );
    let names = ["same", "rcode", "missing", "extra", "data", "ttl"];
    let packets: Vec<_> = (0..60_u16)
        .map(|n| {
            let name = format!("{}.test", names[usize::from(n) % names.len()]);
            (u64::from(n) * 2_000, client(n as u8 % 5), RECORDED, query(n, &name))
        })
        .collect();
    let capture = written(&directory, &packets);
    for (parts, same, ttl) in [("rcode,answer", 20, 0), ("rcode,answer,ttl", 10, 10)] {
        let document = replayed(&capture, &[&a, &b, "--compare", parts]);
        let of = |class: &str| number(&document, &format!("/replay/compared/classes/{class}"));
        assert_eq!(number(&document, "/replay/compared/answers"), 60, "{document:#}");
        let found = ["rcode", "missing", "extra", "data"].map(of);
        assert_eq!((found, of("same"), of("ttl")), ([10; 4], same, ttl), "{document:#}");
        assert_eq!(number(&document, "/replay/compared/verdicts/worse"), 0, "NXDOMAIN is an answer, too");
        assert_eq!(number(&document, "/replay/second/counts/answered"), 60);
        let examples = document["replay"]["compared"]["examples"].as_array().expect("examples");
        let is_said = |class: &str, words: &str| {
            examples
                .iter()
                .any(|e| e["class"] == class && e["difference"].as_str().is_some_and(|d| d.contains(words)))
        };
        assert!(is_said("data", "data.test. A 192.0.2.1, then data.test. A 192.0.2.9"), "{examples:?}");
        assert!(is_said("rcode", "NOERROR, then NXDOMAIN"), "{examples:?}");
    }
    let page = directory.path().join("report.html");
    let log = directory.path().join("report.hdr");
    let files = [&page, &log].map(|path| path.to_string_lossy());
    let arguments = [&a, &b, "--fail-if", "diff>0", "--report", &files[0], "--hdr", &files[1]];
    let output = replay(&capture, &arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("failed: diff>0: ") && text.contains(&format!("second      {b}")), "{text}");
    assert!(
        text.contains(&format!("target      {a} over udp and tcp as recorded, the first; {b} is judged")),
        "{text}"
    );
    for which in ["first", "second"] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("s  {which}: sent ")), "{said}");
        let log = fs::read_to_string(&log).expect("a log");
        assert!(log.contains(&format!("\nTag={which},0.000,1.000,")), "{log}");
    }
    let page = fs::read_to_string(page).expect("a page");
    assert!(page.contains("Examples of differences") && page.contains("Latency of both"));
}

#[test]
fn each_client_has_a_socket_and_its_queries_keep_their_order() {
    let directory = Directory::new();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let target = socket.local_addr().expect("an address").to_string();
    let packets: Vec<_> = (0..90_u16)
        .map(|n| (u64::from(n) * 1_000, client((n * n % 3) as u8), RECORDED, query(7, &format!("q{n}.test"))))
        .collect();
    let capture = written(&directory, &packets);
    let server = serve(socket, 90);
    let document = replayed(&capture, &[&target, "--threads", "2", "--speed", "2"]);
    assert_eq!([number(&document, "/counts/answered"), number(&document, "/counts/sent")], [90; 2]);
    // 89 ms of the capture in half of it.
    assert_eq!(number(&document, "/rate_wanted"), 2_000);
    let seen = server.join().expect("a server");
    let mut by_peer = std::collections::BTreeMap::<SocketAddr, Vec<u64>>::new();
    for (peer, message) in seen {
        by_peer.entry(peer).or_default().push(crate::message::number_of(&message).expect("a number"));
    }
    let clients = packets.iter().map(|(_, from, ..)| from).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(by_peer.len(), clients.len(), "{by_peer:?}");
    for numbers in by_peer.values() {
        assert!(numbers.is_sorted(), "{numbers:?}");
        let owners: std::collections::BTreeSet<_> = numbers.iter().map(|n| n * n % 3).collect();
        assert_eq!(owners.len(), 1, "one client: {numbers:?}");
    }
}

#[test]
fn clients_are_stamped_on_their_queries() {
    let directory = Directory::new();
    let packets: Vec<_> =
        (1..=3_u8).map(|n| (0, client(n), RECORDED, query(7, &format!("q{n}.test")))).collect();
    let capture = written(&directory, &packets);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let target = socket.local_addr().expect("an address").to_string();
    let server = serve(socket, 3);
    let document = replayed(&capture, &[&target, "--proxy", "--ecs-stamp=32,128"]);
    assert_eq!(number(&document, "/counts/answered"), 3);
    for (_, bytes) in server.join().expect("a server") {
        let proxy::Parsed::Header { header, len } = proxy::parse(&bytes, 512) else { panic!("no header") };
        let message = &bytes[len..];
        let from =
            client(u8::try_from(crate::message::number_of(message).expect("a number")).expect("small"));
        assert_eq!((header.source, header.destination), (Some(from.into()), Some(RECORDED.into())));
        assert_eq!(header.transport, proxy::Transport::Datagram);
        let subnet = ecs::parse(message).expect("a client subnet");
        let IpAddr::V4(ip) = from.ip() else { panic!("IPv4") };
        assert_eq!((subnet.source, &message[subnet.address]), (32, &ip.octets()[..]));
    }
    // Over TCP it is in front of the connection.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let target = listener.local_addr().expect("an address").to_string();
    let server = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut front = [0; 28];
            stream.read_exact(&mut front).expect("a header");
            let proxy::Parsed::Header { header, len: 28 } = proxy::parse(&front, 512) else {
                panic!("{front:x?}")
            };
            assert_eq!(
                (header.transport, header.destination),
                (proxy::Transport::Stream, Some(RECORDED.into()))
            );
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message).expect("a query");
            let reply = answer(&message, 1).expect("a query");
            stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat()).expect("an answer");
        }
    });
    let document = replayed(&capture, &[&target, "--proxy", "--transport", "tcp"]);
    assert_eq!([number(&document, "/counts/answered"), number(&document, "/counts/connections")], [3; 2]);
    server.join().expect("a server");
}

#[test]
fn recorded_addresses_are_sent_from_where_that_is_allowed() {
    let directory = Directory::new();
    let packets: Vec<_> =
        (0..20_u8).map(|n| (0, client(1 + n % 4), RECORDED, query(7, &format!("q{n}.test")))).collect();
    let capture = written(&directory, &packets);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let target = socket.local_addr().expect("an address").to_string();
    let probe = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let may = nix::sys::socket::setsockopt(&probe, nix::sys::socket::sockopt::IpTransparent, &true).is_ok();
    if !may {
        let output = replay(&capture, &[&target, "--spoof-sources"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("CAP_NET_ADMIN"), "{said}");
        return;
    }
    let server = serve(socket, 20);
    let document = replayed(&capture, &[&target, "--spoof-sources", "--max"]);
    assert_eq!([number(&document, "/counts/answered"), number(&document, "/wrong")], [20, 0], "{document:#}");
    for (from, message) in server.join().expect("a server") {
        let n = crate::message::number_of(&message).expect("a number");
        assert_eq!(from.ip(), client(1 + u8::try_from(n).expect("small") % 4).ip());
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let target = listener.local_addr().expect("an address").to_string();
    let server = std::thread::spawn(move || {
        let all = (0..4).map(|_| listener.accept().expect("a connection"));
        all.map(|(_, peer)| peer.ip()).collect::<std::collections::BTreeSet<_>>()
    });
    let output = replay(&capture, &[&target, "--spoof-sources", "--transport", "tcp", "--timeout", "200ms"]);
    assert_eq!(output.status.code(), Some(1), "nothing was answered");
    assert_eq!(server.join().expect("a server"), (1..=4).map(|n| client(n).ip()).collect());
}

#[test]
fn queries_go_over_tls() {
    let directory = Directory::new();
    let authority = Authority::new();
    let pair = authority.issue("reflect", &["127.0.0.1"]);
    let [certificate, key, authorities] =
        [&pair.pem, &pair.key, &authority.pem].map(|path| path.to_string_lossy().into_owned());
    let tls = format!("127.0.0.1:{}", port());
    let reflect = Reflect::start(&["--tls", &tls, "--certificate", &certificate, "--key", &key]);
    let packets: Vec<_> = (0..50_u8)
        .map(|n| (u64::from(n) * 1_000, client(n % 5), RECORDED, query(7, &format!("q{n}.test"))))
        .collect();
    let capture = written(&directory, &packets);
    let document = replayed(&capture, &[&tls, "--transport", "tls", "--ca", &authorities]);
    assert_eq!([number(&document, "/counts/answered"), number(&document, "/counts/connections")], [50, 5]);
    assert_eq!(reflect.end("answers NOERROR"), 50);
}

#[test]
fn captures_that_end_early_give_what_they_have() {
    let directory = Directory::new();
    let packets: Vec<_> = (0..10_u8).map(|n| (0, client(1), RECORDED, query(n.into(), "a.test"))).collect();
    let capture = written(&directory, &packets);
    let reflect = Reflect::start(&[]);
    let mut bytes = fs::read(&capture).expect("a capture");
    bytes.truncate(bytes.len() - 5);
    fs::write(&capture, &bytes).expect("a capture");
    // A condition is judged by what could be read.
    let output = replay(&capture, &[&reflect.address, "--fail-if", "noerror>0"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    // What could be read is reported, and the exit code says that it is not all.
    let output = replay(&capture, &["--json", &reflect.address]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    assert_eq!(number(&document, "/counts/answered"), 9);
    let notes = document["notes"].to_string();
    assert!(notes.contains("could not be read further") && notes.contains("at byte"), "{notes}");
    for (content, why) in [(&b""[..], "empty"), (b"no capture at all", "neither pcap nor")] {
        fs::write(&capture, content).expect("a file");
        let output = replay(&capture, &[&reflect.address]);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.code() == Some(1) && said.contains(why), "{said}");
    }
    let missing = replay(Path::new("/nonexistent/capture"), &[&reflect.address]);
    assert_eq!(missing.status.code(), Some(1));
}

/// A server that does nothing for a while: the latency from the intended time shows it.
#[test]
fn a_stalled_server_cannot_hide() {
    let directory = Directory::new();
    let reflect = Reflect::start(&[]);
    let packets: Vec<_> = (0..3_000_u16)
        .map(|n| (u64::from(n) * 1_000, client(1), RECORDED, query(n, &format!("q{n}.test"))))
        .collect();
    let capture = written(&directory, &packets);
    let report = directory.path().join("report.json");
    let mut command = Command::new(binary());
    command.arg("replay").arg(&capture).args([
        &reflect.address,
        "--transport",
        "tcp",
        "--timeout",
        "10s",
        "--json",
    ]);
    let stdout = fs::File::create(&report).expect("a file").into();
    let mut program = Program::start_to(&mut command, stdout, Stdio::piped());
    wait_for(|| "a second of the run".to_owned(), || program.lines_with(0, "   1 s").pop());
    reflect.program.signal(Signal::SIGSTOP);
    wait_for(|| "a second of silence".to_owned(), || program.lines_with(0, "   2 s").pop());
    reflect.program.signal(Signal::SIGCONT);
    assert!(program.wait().success(), "{}", program.transcript());
    let document: Value = serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    assert_eq!([number(&document, "/counts/answered"), number(&document, "/lost")], [3_000, 0]);
    assert!(number(&document, "/latency_ns/p99") > 300_000_000, "{document:#}");
}

#[test]
fn an_interrupted_replay_reports_what_was_done() {
    let directory = Directory::new();
    let reflect = Reflect::start(&[]);
    let packets: Vec<_> = (0..5_000_u32)
        .map(|n| (u64::from(n) * 5_000, client(1), RECORDED, query(n as u16, "a.test")))
        .collect();
    let capture = written(&directory, &packets);
    let mut command = Command::new(binary());
    command.arg("replay").arg(&capture).arg(&reflect.address);
    let mut program = Program::start(&mut command);
    wait_for(|| "a second of the run".to_owned(), || program.lines_with(0, "answered").pop());
    program.signal(Signal::SIGINT);
    assert!(program.wait().success(), "{}", program.transcript());
    assert!(
        program.transcript().contains("interrupted: the report is of what was done"),
        "{}",
        program.transcript()
    );
}

#[test]
fn what_cannot_work_is_said_before() {
    let directory = Directory::new();
    let capture = written(&directory, &[(0, client(1), RECORDED, query(1, "a.test"))]);
    let output = replay(&capture, &["127.0.0.1:1", "--sockets", "900000"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("use --sockets"), "{said}");
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 200 && exec \"$0\" \"$@\"", binary().to_str().expect("a path")]).arg("replay");
    few.arg(&capture)
        .args(["127.0.0.1:1", "--transport", "tcp", "--connections", "5000"])
        .stdin(Stdio::null());
    let output = few.output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--connections") && said.contains("LimitNOFILE="), "{said}");
    // Nobody listens: told as such, not as silence.
    let nobody = replay(&capture, &[&format!("127.0.0.1:{}", port()), "--json", "--timeout", "200ms"]);
    assert_eq!(nobody.status.code(), Some(1), "no answer at all");
    let document: Value = serde_json::from_slice(&nobody.stdout).expect("JSON");
    assert_eq!([number(&document, "/counts/refused"), number(&document, "/lost")], [1; 2], "{document:#}");
    let address = format!("127.0.0.1:{}", port());
    let nobody = replay(&capture, &[&address, "--transport", "tcp", "--timeout", "200ms"]);
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(said.contains(&format!("no answer from {address}: refused")), "{said}");
}

/// The kernel tells of one refusal of a socket at a time, whatever was sent before.
#[test]
fn every_query_to_a_port_that_refuses_is_refused() {
    let directory = Directory::new();
    let packets: Vec<_> =
        (0..3_000_u16).map(|n| (0, client(n as u8 % 7), RECORDED, query(n, "a.test"))).collect();
    let capture = written(&directory, &packets);
    let nobody = replay(&capture, &[&format!("127.0.0.1:{}", port()), "--json", "--max", "--sockets", "3"]);
    assert_eq!(nobody.status.code(), Some(1), "no answer at all");
    let document: Value = serde_json::from_slice(&nobody.stdout).expect("JSON");
    assert_eq!(
        ["sent", "refused"].map(|n| number(&document, &format!("/counts/{n}"))),
        [3_000; 2],
        "{document:#}"
    );
}

/// What has never left is not sent, and why it has not is said, of the server that it is about.
#[test]
fn connections_that_fail_are_told_with_their_reasons() {
    let directory = Directory::new();
    let authority = Authority::new();
    let pair = authority.issue("reflect", &["192.0.2.1"]);
    let [certificate, key, authorities] =
        [&pair.pem, &pair.key, &authority.pem].map(|path| path.to_string_lossy().into_owned());
    let tls = format!("127.0.0.1:{}", port());
    let reflect = Reflect::start(&["--tls", &tls, "--certificate", &certificate, "--key", &key]);
    let packets: Vec<_> =
        (0..6_u8).map(|n| (0, client(n), RECORDED, query(7, &format!("q{n}.test")))).collect();
    let capture = written(&directory, &packets);
    // It takes connections and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let silent = mute.local_addr().expect("an address").to_string();
    let over_tls = ["--transport", "tls", "--ca", authorities.as_str(), "--timeout", "300ms"];
    for (target, why) in [(&tls, "certificate"), (&silent, "timed out")] {
        let output = replay(&capture, &[&[target.as_str(), "--json"], &over_tls[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("no answer from {target}: TLS handshake: ")) && said.contains(why),
            "{said}"
        );
        let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let of = |name: &str| number(&document, &format!("/counts/{name}"));
        let counts = ["sent", "connections", "connect_errors", "unconnected", "timed_out", "closed"].map(of);
        assert_eq!((counts, number(&document, "/unsent")), ([0, 0, 6, 6, 0, 0], 6), "{document:#}");
    }
    // The other server is good: only the second has failed.
    let output = replay(
        &capture,
        &[
            &reflect.address,
            &silent,
            "--json",
            "--transport",
            "tcp",
            "--timeout",
            "300ms",
            "--fail-if",
            "loss>0",
        ],
    );
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["connect_failures"], Value::Object(serde_json::Map::new()), "{document:#}");
    assert_eq!(number(&document, "/replay/second/counts/timed_out"), 6, "it was asked, and does not answer");
    let nobody = format!("127.0.0.1:{}", port());
    let output = replay(&capture, &[&reflect.address, &nobody, "--json", "--transport", "tcp"]);
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["connect_failures"], Value::Object(serde_json::Map::new()), "{document:#}");
    assert!(number(&document, "/replay/second/connect_failures/refused") > 0, "{document:#}");
    assert_eq!(reflect.end("answers NOERROR"), 12);
}

#[test]
fn what_is_no_dns_is_malformed() {
    let directory = Directory::new();
    let packets: Vec<_> = (0..4_u8).map(|n| (0, client(n), RECORDED, query(7, "a.test"))).collect();
    let capture = written(&directory, &packets);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let target = listener.local_addr().expect("an address").to_string();
    let server = std::thread::spawn(move || {
        for _ in 0..4 {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a query");
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message).expect("a query");
            stream.write_all(b"HTTP/1.1 400 Bad Request").expect("nonsense");
        }
    });
    let output = replay(&capture, &[&target, "--json", "--transport", "tcp"]);
    assert_eq!(output.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!([number(&document, "/counts/malformed"), number(&document, "/wrong")], [4; 2], "{document:#}");
    server.join().expect("a server");
}
