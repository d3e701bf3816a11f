use std::cell::RefCell;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::base::time::TickDelta;
use crate::control::fixture;
use crate::control::probe::*;
use crate::model::{BackendTls, Health};
use std::future::ready;

fn backend(address: SocketAddr, probe: Probe, timeout_ms: u64) -> Backend {
    let mut b = Backend { address, ..fixture::backend(0) };
    b.health = Health {
        probe,
        set_cd: true,
        must_resolve: true,
        timeout: TickDelta::from_ms(timeout_ms),
        ..b.health
    };
    b
}

/// Records the calls of the configuration's functions.
#[derive(Default)]
struct Recorder {
    judged: RefCell<Vec<Vec<u8>>>,
}

impl Script for Recorder {
    fn choose(
        &self,
        function: LuaFunction,
        _: &str,
        _: u16,
        qclass: u16,
        mut header: [u8; 12],
    ) -> Called<(Question, [u8; 12])> {
        if function.0 == 9 {
            return Box::pin(ready(Err(Failed::new(Failure::Invalid, "lua: no such thing"))));
        }
        header[2] = 0; // RD off
        Box::pin(ready(Ok((("chosen.example.".into(), 16, qclass), header))))
    }

    fn judge(&self, function: LuaFunction, _: &Backend, response: &[u8]) -> Called<bool> {
        self.judged.borrow_mut().push(response.to_vec());
        Box::pin(ready(Ok(function.0 == 1)))
    }
}

fn no_script() -> Rc<dyn Script> {
    Rc::new(Recorder::default())
}

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(f)
}

const ANY: &str = "127.0.0.1:0";

/// Runs a UDP server that answers one query with what `edit` makes of it.
async fn udp_once(
    probe: impl Fn(&mut Backend),
    edit: impl Fn(Vec<u8>) -> Vec<Vec<u8>>,
) -> Result<(), Failed> {
    let server = UdpSocket::bind(ANY).await.expect("a server");
    let mut b = backend(server.local_addr().expect("its address"), Probe::Udp, 300);
    probe(&mut b);
    let script = no_script();
    let serve = async {
        let mut buf = [0; 512];
        let (len, from) = server.recv_from(&mut buf).await.expect("a query");
        for answer in edit(buf[..len].to_vec()) {
            server.send_to(&answer, from).await.expect("an answer");
        }
    };
    tokio::join!(run(&b, 0x4242, &script, Runner::default()), serve).0
}

fn response(mut query: Vec<u8>, rcode: u8) -> Vec<u8> {
    query[2] |= 0x80;
    query[3] = query[3] & 0xf0 | rcode;
    query
}

#[test]
fn udp_answers_are_judged() {
    type Edit = fn(Vec<u8>) -> Vec<Vec<u8>>;
    let table: [(&str, Edit, Option<Failure>); 6] = [
        ("good", |q| vec![response(q, 0)], None),
        ("servfail", |q| vec![response(q, 2)], Some(Failure::Invalid)),
        ("silent", |_| vec![], Some(Failure::Timeout)),
        ("garbage", |_| vec![vec![7; 5]], Some(Failure::Parsing)),
        ("wrong id only", |q| vec![flipped(q)], Some(Failure::Mismatch)),
        ("wrong id, then the right one", |q| vec![flipped(q.clone()), response(q, 0)], None),
    ];
    for (what, edit, expected) in table {
        let outcome = block_on(udp_once(|_| (), edit));
        assert_eq!(outcome.err().map(|f| f.reason), expected, "{what}");
    }
}

fn flipped(query: Vec<u8>) -> Vec<u8> {
    let mut r = response(query, 0);
    r[0] ^= 1;
    r
}

#[test]
fn the_query_follows_the_settings() {
    let check = |q: Vec<u8>| {
        assert_eq!(&q[..4], b"\x42\x42\x01\x10", "id, RD, CD");
        vec![response(q, 0)]
    };
    assert_eq!(block_on(udp_once(|_| (), check)), Ok(()));
}

#[test]
fn a_local_resource_shortage_is_not_a_failed_check() {
    for (number, reason) in [
        (libc::EMFILE, Failure::Local),
        (libc::ENFILE, Failure::Local),
        (libc::ENOBUFS, Failure::Local),
        (libc::ENOMEM, Failure::Local),
        (libc::EADDRNOTAVAIL, Failure::Local),
        (libc::EADDRINUSE, Failure::Local),
        (libc::EAGAIN, Failure::Local),
        (libc::ENOSPC, Failure::Local),
        (libc::ECONNREFUSED, Failure::Network),
        (libc::ECONNRESET, Failure::Network),
        (libc::ENETUNREACH, Failure::Network),
        (libc::EHOSTUNREACH, Failure::Network),
        (libc::ETIMEDOUT, Failure::Network),
    ] {
        assert_eq!(Failed::from(io::Error::from_raw_os_error(number)).reason, reason, "{number}");
    }
}

#[test]
fn a_lost_source_address_is_a_network_failure() {
    let mut b = backend("127.0.0.1:53".parse().expect("an address"), Probe::Udp, 300);
    b.source = Some([192, 0, 2, 99].into());
    for probe in [Probe::Udp, Probe::Tcp, Probe::Connect] {
        b.health.probe = probe;
        let failed = block_on(run(&b, 1, &no_script(), Runner::default())).expect_err("not ours");
        assert_eq!(failed.reason, Failure::Network, "{}", failed.detail);
    }
}

#[test]
fn functions_choose_and_judge() {
    let chosen = |q: Vec<u8>| {
        assert_eq!(q[2], 0, "the function's flags");
        assert!(q[12..].starts_with(b"\x06chosen\x07example\0\0\x10"));
        vec![response(q, 0)]
    };
    assert_eq!(block_on(udp_once(|b| b.health.choose = Some(LuaFunction(0)), chosen)), Ok(()));

    let servfail = |q| vec![response(q, 2)];
    assert_eq!(block_on(udp_once(|b| b.health.judge = Some(LuaFunction(1)), servfail)), Ok(()));
    let refused = block_on(udp_once(|b| b.health.judge = Some(LuaFunction(2)), servfail));
    assert_eq!(refused.expect_err("a negative verdict").reason, Failure::Invalid);
}

#[test]
fn a_function_that_raises_fails_the_probe_before_anything_is_sent() {
    let mut b = backend(ANY.parse().expect("an address"), Probe::Udp, 300);
    b.health.choose = Some(LuaFunction(9));
    let outcome = block_on(run(&b, 1, &no_script(), Runner::default()));
    assert_eq!(outcome, Err(Failed::new(Failure::Invalid, "lua: no such thing")));
}

#[test]
fn a_closed_port_is_a_network_failure_over_each_transport() {
    for probe in [Probe::Udp, Probe::Tcp, Probe::Connect] {
        let outcome = block_on(async {
            let server = TcpListener::bind(ANY).await.expect("a port");
            let b = backend(server.local_addr().expect("its address"), probe.clone(), 2000);
            drop(server);
            run(&b, 1, &no_script(), Runner::default()).await
        });
        assert_eq!(outcome.map_err(|f| f.reason), Err(Failure::Network), "{probe:?}");
    }
}

#[test]
fn tcp_is_framed_and_asks_from_the_source() {
    block_on(async {
        let server = TcpListener::bind(ANY).await.expect("a server");
        let address = server.local_addr().expect("its address");
        let mut b = backend(address, Probe::Tcp, 2000);
        b.source = Some("127.0.0.9".parse().expect("an address"));
        let serve = async {
            let (mut stream, from) = server.accept().await.expect("a connection");
            assert_eq!(from.ip().to_string(), "127.0.0.9");
            let len = stream.read_u16().await.expect("a length");
            let mut q = vec![0; usize::from(len)];
            stream.read_exact(&mut q).await.expect("a query");
            // In two pieces: a reader must not take the first for the whole.
            stream.write_all(&len.to_be_bytes()).await.expect("a length out");
            let r = response(q, 0);
            stream.write_all(&r[..5]).await.expect("a piece");
            stream.write_all(&r[5..]).await.expect("the rest");
        };
        let script = no_script();
        assert_eq!(tokio::join!(run(&b, 7, &script, Runner::default()), serve).0, Ok(()));
        let b = backend(address, Probe::Connect, 2000);
        assert_eq!(run(&b, 7, &script, Runner::default()).await, Ok(()));
        let b = backend(address, Probe::Tcp, 50);
        let silent = run(&b, 7, &script, Runner::default()).await;
        assert_eq!(silent, Err(Failed::timeout()), "accepted by the kernel, never answered");
    });
}

/// Returns the outcome of a check over TLS of a server with a certificate for `has`, expected to be
/// `wants`.
async fn over_tls_once(has: &str, wants: &str, header: &[u8]) -> Result<(), Failed> {
    let directory = tls::fixture::Directory::new();
    let authority = tls::fixture::Authority::new("test");
    let spec = tls::ServerSpec {
        certificates: vec![directory.pair(&authority.issue(&[has]))],
        ..tls::ServerSpec::default()
    };
    let served = tls::ServerTls::load(&spec).expect("a good listener");
    let listener = TcpListener::bind(ANY).await.expect("a server");
    let mut b = backend(listener.local_addr().expect("its address"), Probe::Tls, 5000);
    let spec = tls::ClientSpec {
        subject_name: Some(wants.to_owned()),
        ca_store: Some(authority.file(&directory)),
        ..tls::ClientSpec::default()
    };
    let loaded = tls::ClientTls::load(&spec, b.address.ip(), &mut tls::CaStores::default());
    b.connections.tls = Some(BackendTls { spec, tls: loaded.expect("a good server").into() });
    if !header.is_empty() {
        b.client_address = ClientAddress::Proxy { v1: false, advertise_tls: false };
    }
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut session = tls::Session::server(&served).expect("a session");
        let (mut bytes, mut query, mut out) = (vec![0; 4096], Vec::new(), Vec::new());
        let mut answered = false;
        loop {
            let len = stream.read(&mut bytes).await.unwrap_or(0);
            if len == 0 || session.on_bytes(&bytes[..len], &mut query).is_err() {
                return;
            }
            if !answered
                && let Some(message) = query.strip_prefix(header).and_then(|q| q.get(2..))
                && message.len() > 12
            {
                let answer = response(message.to_vec(), 0);
                session.send(&(answer.len() as u16).to_be_bytes());
                session.send(&answer);
                answered = true;
            }
            while session.wants_write() {
                session.write_to(&mut out).expect("written");
            }
            stream.write_all(&out).await.expect("sent");
            out.clear();
        }
    };
    let script = no_script();
    let probe = run(&b, 1, &script, Runner::default());
    tokio::select! {
        outcome = probe => outcome,
        () = async { serve.await; std::future::pending().await } => unreachable!(),
    }
}

#[test]
fn over_tls_the_answer_counts_and_a_wrong_certificate_is_reported() {
    assert_eq!(block_on(over_tls_once("dns.example", "dns.example", b"")), Ok(()));
    let header = proxy_header(ClientAddress::Proxy { v1: false, advertise_tls: false });
    assert_eq!(block_on(over_tls_once("dns.example", "dns.example", header)), Ok(()));
    let wrong = block_on(over_tls_once("other.example", "dns.example", b"")).expect_err("another name");
    assert_eq!(wrong.reason, Failure::Network);
    assert!(wrong.detail.starts_with("TLS: ") && wrong.detail.contains("other.example"), "{}", wrong.detail);
    let outcome = block_on(async {
        let b = backend(ANY.parse().expect("an address"), Probe::Tls, 300);
        run(&b, 1, &no_script(), Runner::default()).await
    });
    assert_eq!(outcome, Err(Failed::new(Failure::Invalid, "the server has no TLS")));
}

fn exchange(datagram: bool, send: &[u8], expect: &[u8]) -> Probe {
    Probe::SendExpect(SendExpect { datagram, send: send.into(), expect: expect.into() })
}

/// Returns the outcome of a probe of a server that reads `received`, sends these pieces, and closes.
async fn conversation(probe: Probe, received: &[u8], pieces: &[&[u8]]) -> Result<(), Failed> {
    let server = TcpListener::bind(ANY).await.expect("a server");
    let b = backend(server.local_addr().expect("its address"), probe, 300);
    let serve = async {
        let (mut stream, _) = server.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let mut read = vec![0; received.len()];
        stream.read_exact(&mut read).await.expect("what the probe says");
        assert_eq!(read, received);
        for piece in pieces {
            // The probe may have read enough and closed.
            let _ = stream.write_all(piece).await;
            tokio::task::yield_now().await;
        }
    };
    let script = no_script();
    tokio::join!(run(&b, 1, &script, Runner::default()), serve).0
}

#[test]
fn a_conversation_is_judged_by_the_expected_text() {
    let long = [b'x'; SEARCHED_BYTES_MAX];
    type Row<'r> = (&'r str, &'r [u8], &'r [&'r [u8]], Result<(), Failure>);
    let table: [Row<'_>; 7] = [
        ("a server that speaks first", b"", &[b"220 mail ESMTP\r\n"], Ok(())),
        ("in pieces", b"HELO x\r\n", &[b"2", b"", b"20"], Ok(())),
        ("with more behind it", b"", &[b"banner\n220 ready", b"more"], Ok(())),
        ("something else", b"", &[b"554 no"], Err(Failure::Invalid)),
        ("the end at once", b"", &[], Err(Failure::Invalid)),
        ("half of it, then the end", b"", &[b"22"], Err(Failure::Invalid)),
        ("too late", b"", &[&long, b"220"], Err(Failure::Invalid)),
    ];
    for (what, payload, pieces, expected) in table {
        let outcome = block_on(conversation(exchange(false, payload, b"220"), payload, pieces));
        assert_eq!(outcome.map_err(|f| f.reason), expected, "{what}");
    }
    let outcome = block_on(conversation(exchange(false, b"", b"220"), b"", &[b"554 no\r\n"]));
    let detail = outcome.expect_err("a negative verdict").detail;
    assert_eq!(detail, r#"answered "554 no\r\n", which is not the expected text"#);
    let silent = block_on(async {
        let server = TcpListener::bind(ANY).await.expect("a server");
        let b = backend(server.local_addr().expect("its address"), exchange(false, b"", b"220"), 50);
        run(&b, 1, &no_script(), Runner::default()).await
    });
    assert_eq!(silent, Err(Failed::timeout()), "accepted by the kernel, never answered");
    let patient = block_on(async {
        let server = TcpListener::bind(ANY).await.expect("a server");
        let b = backend(server.local_addr().expect("its address"), exchange(false, b"", b"220"), 50);
        let serve = async {
            let (mut stream, _) = server.accept().await.expect("a connection");
            stream.write_all(b"421 busy\r\n").await.expect("written");
            stream
        };
        let script = no_script();
        // The server's socket stays open until the probe has ended.
        let (outcome, _open) = tokio::join!(run(&b, 1, &script, Runner::default()), serve);
        outcome
    });
    let detail = patient.expect_err("a negative verdict").detail;
    assert_eq!(detail, r#"answered "421 busy\r\n", which is not the expected text"#);
}

#[test]
fn a_conversation_over_udp_is_one_datagram_each() {
    for (answer, expected) in [(&b"a pong"[..], Ok(())), (b"ping", Err(Failure::Invalid))] {
        let outcome = block_on(async {
            let server = UdpSocket::bind(ANY).await.expect("a server");
            let b = backend(server.local_addr().expect("its address"), exchange(true, b"ping", b"pong"), 300);
            let serve = async {
                let mut buf = [0; 64];
                let (len, from) = server.recv_from(&mut buf).await.expect("a datagram");
                assert_eq!(&buf[..len], b"ping");
                server.send_to(answer, from).await.expect("an answer");
            };
            let script = no_script();
            tokio::join!(run(&b, 1, &script, Runner::default()), serve).0
        });
        assert_eq!(outcome.map_err(|f| f.reason), expected);
    }
}

#[test]
fn a_proxy_header_of_a_check_names_no_client() {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let proxy = |v1| ClientAddress::Proxy { v1, advertise_tls: false };
    let edit = |q: Vec<u8>| {
        let query = q.strip_prefix(V2).expect("a header");
        vec![response(query.to_vec(), 0)]
    };
    assert_eq!(block_on(udp_once(|b| b.client_address = proxy(false), edit)), Ok(()));
    for (v1, header) in [(false, V2), (true, &b"PROXY UNKNOWN\r\n"[..])] {
        for probe in [Probe::Tcp, Probe::Connect, exchange(false, b"hello", b"220")] {
            let outcome = block_on(async {
                let server = TcpListener::bind(ANY).await.expect("a server");
                let mut b = backend(server.local_addr().expect("its address"), probe.clone(), 300);
                b.client_address = proxy(v1);
                let serve = async {
                    let (mut stream, _) = server.accept().await.expect("a connection");
                    let mut read = vec![0; header.len()];
                    stream.read_exact(&mut read).await.expect("a header");
                    assert_eq!(read, header, "{probe:?}");
                };
                let script = no_script();
                tokio::join!(run(&b, 1, &script, Runner::default()), serve).0
            });
            // The server closes without an answer.
            assert_eq!(outcome.is_ok(), probe == Probe::Connect, "{probe:?}");
        }
    }
}

/// Runs programs as ourselves.
fn runner() -> Runner {
    Runner { launcher: Some(Launcher::start().expect("a thread")), ..Runner::default() }
}

#[test]
fn a_program_gets_the_address_and_its_exit_code_counts() {
    let words = |script: &str| Probe::Script(["sh", "-c", script, "check"].map(String::from).to_vec());
    let address: SocketAddr = "[::1]:5353".parse().expect("an address");
    for (script, expected) in [
        ("test \"$1\" = ::1 && test \"$2\" = 5353", Ok(())),
        ("exit 3", Err(Failure::Invalid)),
        ("read line && exit 0; exit 1", Err(Failure::Invalid)), // its input is empty
        ("sleep 60 & sleep 60", Err(Failure::Timeout)),
    ] {
        let limit = if expected == Err(Failure::Timeout) { 100 } else { 10_000 };
        let b = backend(address, words(script), limit);
        let outcome = block_on(run(&b, 1, &no_script(), runner()));
        assert_eq!(outcome.map_err(|f| f.reason), expected, "{script}");
    }
    let b = backend(address, Probe::Script(vec!["/nonexistent/check".into()]), 1000);
    let outcome = block_on(run(&b, 1, &no_script(), runner()));
    assert_eq!(outcome.map_err(|f| f.reason), Err(Failure::Network));
}

#[test]
fn a_program_inherits_no_variable_and_may_have_the_exit_codes_of_relayd() {
    let script = |text: &str, relayd| {
        let words = ["/bin/sh", "-c", text].map(String::from).to_vec();
        let mut b = backend("[::1]:5353".parse().expect("an address"), Probe::Script(words), 10_000);
        b.health.relayd_exit = relayd;
        block_on(run(&b, 1, &no_script(), runner())).is_ok()
    };
    // The variables of a test under cargo; a shell adds PWD and the like.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(script("test -z \"$CARGO_MANIFEST_DIR\" && test -n \"$PATH\"", false));
    for (text, monitoring, relayd) in [
        ("exit 0", true, false),
        ("exit 1", false, true),
        ("exit 255", false, true),
        ("kill -9 $$", false, false),
    ] {
        assert_eq!((script(text, false), script(text, true)), (monitoring, relayd), "{text}");
    }
}

#[test]
fn a_program_that_cannot_be_killed_delays_nothing() {
    // It leaves its process group, which is killed at the time-out, for that of its parent: ours.
    let words = ["perl", "-e", "setpgrp(0, getpgrp(getppid())); sleep 60"].map(String::from).to_vec();
    let b = backend("[::1]:5353".parse().expect("an address"), Probe::Script(words), 500);
    let outcome = block_on(async {
        let script = no_script();
        let probe = run(&b, 1, &script, runner());
        timeout(Duration::from_secs(20), probe).await.expect("an outcome before the program's own end")
    });
    assert_eq!(outcome.map_err(|f| f.reason), Err(Failure::Timeout));
}

#[test]
fn a_slow_probe_delays_no_other() {
    block_on(async {
        let silent = UdpSocket::bind(ANY).await.expect("a server");
        let quick = TcpListener::bind(ANY).await.expect("a server");
        let slow = backend(silent.local_addr().expect("its address"), Probe::Udp, 60_000);
        let fast = backend(quick.local_addr().expect("its address"), Probe::Connect, 60_000);
        let script = no_script();
        tokio::select! {
            outcome = run(&slow, 1, &script, Runner::default()) => panic!("the slow one ended first: {outcome:?}"),
            outcome = run(&fast, 1, &script, Runner::default()) => assert_eq!(outcome, Ok(())),
        }
    });
}
