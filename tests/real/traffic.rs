//! What operators see of the traffic: the console's lists and the last queries, of a running program.

use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::console::{console, dig, works};
use crate::instance::{Instance, backend, listen};
use crate::load::Load;
use crate::place::wait_for;
use crate::reload::{endless, let_pass, local};

/// Waits until a command says something.
fn shows(at: SocketAddr, command: &str, expected: &str) -> String {
    let text = std::cell::RefCell::new(String::new());
    wait_for(
        || format!("{command}: no {expected:?} in {}", text.borrow()),
        || {
            text.replace(works(at, command));
            Some(text.borrow().clone()).filter(|text| text.contains(expected))
        },
    )
}

#[test]
fn planted_names_and_clients_are_in_the_lists() {
    let server = Backend::start(1, Behaviour::Prompt);
    let dead = Backend::start(2, Behaviour::Silent);
    let (dns, at) = (local(), local());
    let lua = listen(dns)
        + &console(at)
        + &backend(server.address, ", healthCheckMode=\"up\"")
        + &format!(
            "newServer{{address=\"{}\", pool=\"dead\", name=\"silent\", healthCheckMode=\"up\", udpTimeout=0.3}}\n\
             addAction(QNameSuffixRule(\"servfail.example\"), RCodeAction(DNSRCode.SERVFAIL))\n\
             addAction(QNameSuffixRule(\"late.example\"), PoolAction(\"dead\"))\n",
            dead.address
        );
    let mut instance = Instance::start(&lua);
    // The load's names are about as many as its queries.
    let load = Load::start(endless(dns));
    let_pass(&load, 1_000);
    for _ in 0..20 {
        dig(dns, "Planted.Example");
    }
    let names = shows(at, "topQueries(1000)", " planted.example. ");
    assert!(names.lines().last().is_some_and(|l| l.contains(" Rest ") && l.contains("  # last ")), "{names}");
    shows(at, "topQueries(20, 2)", " planted.example. ");
    shows(at, "topClients(3)", " 127.0.0.1 ");
    shows(at, "topBandwidth(3)", " 127.0.0.1 ");
    for condition in ["'example'", "'planted.example'", "{'planted.example', '127.0.0.0/8'}"] {
        let found = shows(at, &format!("grepq({condition}, 1000)"), " planted.example. ");
        assert!(
            found.lines().any(|l| l.contains("DoUDP") && l.contains(&server.address.to_string())),
            "{found}"
        );
    }
    // No query is that slow, however busy the machine is.
    assert!(works(at, "grepq({'planted.example', '4000000ms'})").contains("; 0 shown"));
    assert_eq!(works(at, "#getRingEntries(7)"), "7\n");
    let counted = || instance.figure("traffic-counted") + instance.figure("traffic-missed");
    wait_for(|| format!("{} counted or missed", counted()), || (counted() >= 1_000).then_some(()));
    // A question that is not answered has its name in a table with a place for each hash, where the
    // next one of the load may be in its place before the time-out.
    load.finish();
    // The silent server leaves numbered names unanswered.
    for _ in 0..2 {
        dig(dns, "a.servfail.example");
        dig(dns, "q7.late.example");
    }
    shows(at, "topResponses(10, 2)", " a.servfail.example. ");
    shows(at, "topResponses(10, DNSRCode.SERVFAIL, 2)", " servfail.example. ");
    shows(at, "top('servfail-clients')", " 127.0.0.1 ");
    shows(at, "topTimeouts(10)", " q7.late.example. ");
    shows(at, "topClients(10, {server='silent'})", " 127.0.0.1 ");
    shows(at, "topQueries(10, {pool='dead', window=60})", " q7.late.example. ");
    let lost = shows(at, "grepq('late.example', 1)", " q7.late.example. ");
    assert!(lost.contains(" T.O"), "{lost}");
    // A reload begins nothing anew.
    instance
        .reload(&(lua.clone() + "newServer{address=\"192.0.2.1\", pool=\"aaa\", healthCheckMode=\"up\"}\n"));
    shows(at, "topQueries(10, {pool='dead'})", " q7.late.example. ");
    shows(at, "topTimeouts(10)", " q7.late.example. ");
    assert!(instance.stop().success());
}

#[test]
fn slow_names_are_found_and_without_a_ring_there_are_no_lists() {
    let server = Backend::start(3, Behaviour::After(Duration::from_millis(150)));
    let (dns, at) = (local(), local());
    let lua = listen(dns) + &console(at) + &backend(server.address, ", healthCheckMode=\"up\"");
    let _instance = Instance::start(&lua);
    for _ in 0..3 {
        dig(dns, "q7.slow.example");
    }
    shows(at, "topSlow(10, 100)", " q7.slow.example. ");
    shows(at, "topSlow(10, 140)", " q7.slow.example. ");
    shows(at, "grepq('100ms')", " q7.slow.example. ");
    shows(at, "grepq({'1ms', 'example'})", " q7.slow.example. ");
    assert!(!works(at, "topSlow(10, 2000)").contains("slow.example"));
    let (dns, at) = (local(), local());
    let lua = listen(dns) + &console(at) + &backend(server.address, "") + "setRingBuffersSize(0, 10)\n";
    let _instance = Instance::start(&lua);
    for command in ["topQueries(10)", "grepq('example')", "getRingEntries()"] {
        let (fine, text) = crate::console::ours(at, command);
        assert!(!fine && text.contains("the setting traffic-ring is 0"), "{text}");
    }
}
