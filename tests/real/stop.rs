//! SIGTERM: queries received before are answered, then the program exits with 0.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{Load, Plan};
use crate::place::{port, wait_for};

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

fn all_received_are_answered(signal: Signal) {
    let slow = Backend::start(1, Behaviour::After(Duration::from_millis(300)));
    let at = local();
    let mut instance = Instance::start(&(listen(at) + &backend(slow.address, "")));
    // All are sent within a tenth of a second: all are outstanding when the signal arrives.
    let load = Load::start(Plan { target: at, rate: 5_000, count: 500, patience: Duration::from_secs(4) });
    wait_for(|| "all queries at the backend".into(), || (slow.queries() == 500).then_some(()));
    instance.program.signal(signal);
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    let status = instance.program.wait();
    assert_eq!(status.code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn sigterm_waits_for_outstanding_queries() {
    all_received_are_answered(Signal::SIGTERM);
}

#[test]
fn sigint_waits_for_outstanding_queries() {
    all_received_are_answered(Signal::SIGINT);
}

#[test]
fn the_drain_has_a_time_limit() {
    let silent = Backend::start(1, Behaviour::Silent);
    let at = local();
    let lua = listen(at) + &backend(silent.address, ", udpTimeout=30");
    let mut instance = Instance::start_with(&lua, &["--shards", "1", "--drain", "300ms"]);
    let load = Load::start(Plan { target: at, rate: 1_000, count: 20, patience: Duration::from_millis(100) });
    wait_for(|| "all queries at the backend".into(), || (silent.queries() == 20).then_some(()));
    let asked = std::time::Instant::now();
    let status = instance.stop();
    assert_eq!(status.code(), Some(0), "{}", instance.program.transcript());
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    assert_eq!(load.join().answered, 0);
    let cut = instance.program.lines_with(0, "aborting what has not finished");
    assert!(
        cut.len() == 1 && cut[0].contains("queries=20") && cut[0].contains("relay_sessions=0"),
        "{cut:?}"
    );
}

#[test]
fn a_configuration_that_cannot_answer_is_warned_of() {
    let at = local();
    let mut instance = Instance::start(&listen(at));
    // The log is written by a thread of its own.
    let counted = |instance: &Instance, times: usize| {
        let serving = instance.program.lines_with(0, " serving generation=").len();
        let warnings = instance.program.lines_with(0, "no server, relay or rule").len();
        assert!(warnings <= times, "{}", instance.program.transcript());
        (warnings, serving)
    };
    let wait = |instance: &Instance, warnings, serving| {
        wait_for(
            || instance.program.transcript(),
            || (counted(instance, warnings) == (warnings, serving)).then_some(()),
        );
    };
    wait(&instance, 1, 1);
    instance.reload(&(listen(at) + "addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))\n"));
    wait(&instance, 1, 2);
    instance.reload(&listen(at));
    wait(&instance, 2, 3);
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn a_second_instance_on_the_same_port_takes_over() {
    let a = Backend::start(1, Behaviour::After(Duration::from_millis(20)));
    let at = local();
    let lua = format!("addLocal(\"{at}\", {{reusePort=true}})\n") + &backend(a.address, "");
    let mut old = Instance::start(&lua);
    let load =
        Load::start(Plan { target: at, rate: 2_000, count: u64::MAX, patience: Duration::from_secs(4) });
    wait_for(|| "some answers".into(), || (load.answered() > 500).then_some(()));
    let new = Instance::start(&lua);
    wait_for(|| "more answers".into(), || (load.answered() > 1_500).then_some(()));
    assert_eq!(old.stop().code(), Some(0), "{}", old.program.transcript());
    let goal = load.answered() + 1_000;
    wait_for(|| "answers by the new instance alone".into(), || (load.answered() > goal).then_some(()));
    let report = load.finish();
    report.assert_nothing_lost(&|| format!("{}\n{}", old.program.transcript(), new.program.transcript()));
    assert_eq!(a.queries(), report.sent);
}

#[test]
fn functions_are_told_of_servers_and_of_the_end() {
    let prompt = Backend::start(1, Behaviour::Prompt);
    let checked = "name='a', checkIntervalMs=100, checkTimeout=200, maxCheckFailures=1";
    let lua = listen(local())
        + &format!("newServer{{address='{}', {checked}}}\n", prompt.address)
        + "addServerStateChangeCallback(function(server, up) print('told ' .. server .. ' ' .. tostring(up)) end)\n\
           addExitCallback(function() print('told of the end') end)\n";
    let mut instance = Instance::start(&lua);
    let told = format!("told a ({}) false", prompt.address);
    drop(prompt);
    wait_for(
        || format!("{told:?} in {}", instance.program.transcript()),
        || (!instance.program.lines_with(0, &told).is_empty()).then_some(()),
    );
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
    let ends = instance.program.lines_with(0, "told of the end");
    assert_eq!(ends.len(), 1, "{}", instance.program.transcript());
}

#[test]
fn functions_of_the_end_have_a_time_of_their_own() {
    let lua = |busy: &str, end: &str| {
        listen(local())
            + &format!("newServer{{address='{}', checkIntervalMs=100, checkTimeout=200}}\n", local())
            + &format!(
                "addServerStateChangeCallback(function(server, up) infolog('begins') {busy} end)\n\
                 addExitCallback(function() infolog('told of the end') {end} end)\n"
            )
    };
    // One that is at work, which Lua ends; one that waits for the system; one of the end itself.
    let (endless, asleep) = ("while true do end", "os.execute('sleep 6')");
    for (busy, end, told, expected) in [
        (endless, "", 1, "a function of addServerStateChangeCallback: "),
        (asleep, "", 0, "functions of addExitCallback: none of 1 was called, as another function"),
        ("", endless, 1, "functions of addExitCallback: 0 of 1 have returned within 2 s"),
    ] {
        let mut instance = Instance::start(&lua(busy, end));
        wait_for(
            || format!("a call in {}", instance.program.transcript()),
            || (!instance.program.lines_with(0, "begins").is_empty()).then_some(()),
        );
        assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
        let transcript = instance.program.transcript();
        assert_eq!(instance.program.lines_with(0, "told of the end").len(), told, "{transcript}");
        let complaints = instance.program.lines_with(0, "Callback");
        assert!(complaints.len() == 1 && complaints[0].contains(expected), "{transcript}");
    }
}
