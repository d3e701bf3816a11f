//! Datagrams that are no proper query or answer: each is counted under its reason, and nothing else happens.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::backend::{Backend, Manner};
use crate::instance::{Instance, backend, listen};
use crate::load::{self, Load, Plan};
use crate::message;
use crate::place::{port, wait_for};

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

#[test]
fn bad_queries_are_counted_by_reason_and_service_goes_on() {
    let good = Backend::start(1, Manner::Prompt);
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
        // As long as UDP over IPv4 can be.
        ("oversized", [whole.clone(), vec![0xa5; 65_507 - whole.len()]].concat()),
    ];
    let load = Load::start(Plan { count: u64::MAX, ..short(at, 0) });
    for (reason, datagram) in &cases {
        let before = instance.dropped(reason);
        for n in 1..=20 {
            client.send_to(datagram, at).expect("it is sent");
            // The receive buffer holds few long ones: what the kernel drops nobody can count.
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
fn a_storm_of_answers_nobody_asked_for_is_counted() {
    let good = Backend::start(1, Manner::Prompt);
    let at = local();
    let instance = Instance::start(&(listen(at) + &backend(good.address, "")));
    let storm = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut reply = message::query(9, "storm.test");
    reply[2] |= 0x80;
    let load = Load::start(Plan { count: u64::MAX, ..short(at, 0) });
    for n in 0..STORM {
        storm.send_to(&reply, at).expect("it is sent");
        if n % 50 == 0 {
            // Never more than its receive buffer holds: what the kernel drops nobody can count.
            dropped_becomes(&instance, "query-is-response", n + 1);
        }
    }
    dropped_becomes(&instance, "query-is-response", STORM);
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
}

/// A backend with bad manners beside nothing else: every query is lost, and counted as expected.
fn misbehaves(manner: Manner, expected: &[(&str, u64)], answered: u64) {
    const COUNT: u64 = 50;
    let bad = Backend::start(1, manner);
    let at = local();
    // A pool with no other server, and a time-out within the client's patience.
    let mut instance = Instance::start(&(listen(at) + &backend(bad.address, ", udpTimeout=1")));
    let report = load::run(Plan { patience: Duration::from_millis(1_500), ..short(at, COUNT) });
    assert_eq!((report.answered, report.strange, report.duplicates), (answered, 0, 0), "{manner:?}");
    assert_eq!(bad.queries(), COUNT);
    for (reason, count) in expected {
        dropped_becomes(&instance, reason, *count);
    }
    assert!(instance.stop().success());
}

#[test]
fn an_answer_from_another_source_is_not_believed() {
    // A connected socket never sees it: the kernel drops it, and the query times out.
    misbehaves(Manner::ForeignPort, &[("timeout", 50)], 0);
}

#[test]
fn an_answer_to_another_question_is_not_believed() {
    misbehaves(Manner::OtherQuestion, &[("response-mismatch", 50)], 0);
}

#[test]
fn a_second_answer_is_dropped() {
    misbehaves(Manner::Twice, &[("response-duplicate", 50), ("timeout", 0)], 50);
}

#[test]
fn a_query_sent_back_is_not_an_answer() {
    misbehaves(Manner::Echo, &[("response-not-response", 50)], 0);
}

#[test]
fn half_a_header_is_not_an_answer() {
    misbehaves(Manner::Short, &[("response-short", 50)], 0);
}

#[test]
fn silence_is_a_timeout() {
    misbehaves(Manner::Silent, &[("timeout", 50)], 0);
}
