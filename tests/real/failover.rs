//! A backend fails and returns.

use std::net::SocketAddr;
use std::time::Duration;

use crate::instance::{Instance, listen};
use crate::load::{Load, Plan};
use crate::place::{port, wait_for};
use crate::servers::{Kind, Server};

const RATE: u32 = 2_000;

struct Setup {
    at: SocketAddr,
    mortal: Server,
    _steady: Server,
    instance: Instance,
}

/// Starts two real servers with round robin and checks every 100 ms; `more` is further Lua.
fn setup(more: &str) -> Setup {
    let (mortal, steady) = (Server::start(Kind::Nsd, 21), Server::start(Kind::Knot, 22));
    let at = SocketAddr::from(([127, 0, 0, 1], port()));
    let mut lua = listen(at) + "setServerPolicy(roundrobin)\n";
    for server in [&mortal, &steady] {
        lua += &format!(
            "newServer {{address=\"{}\", checkName=\"ready.test.\", checkInterval=0.1, checkTimeout=100, \
             maxCheckFailures=1, rise=1, slowStart=0}}\n",
            server.address
        );
    }
    let instance = Instance::start(&(lua + more));
    Setup { at, mortal, _steady: steady, instance }
}

fn load(setup: &Setup) -> Load {
    Load::start(Plan { target: setup.at, rate: RATE, count: u64::MAX, patience: Duration::from_secs(4) })
}

fn answered(load: &Load, more: u64) {
    let goal = load.answered() + more;
    wait_for(|| format!("{goal} answers"), || (load.answered() >= goal).then_some(()));
}

#[test]
fn only_the_queries_of_a_killed_server_are_lost_and_its_return_is_noticed() {
    let mut setup = setup("");
    let running = load(&setup);
    answered(&running, 1_000);
    let killed = std::time::Instant::now();
    setup.mortal.kill();
    answered(&running, 2_000);
    setup.mortal.begin();
    answered(&running, 2_000);
    let returned = running.sent();
    answered(&running, 2_000);
    let report = running.finish();
    // Until a check fails, half of all queries still go to the dead server: for one interval and
    // one timeout. The same time again is allowed for a machine that is busy with other tests.
    let noticed = Duration::from_millis(400);
    let late: Vec<_> = report.lost.values().filter(|sent| **sent > killed + noticed).collect();
    assert!(
        late.is_empty(),
        "{} lost after the death was noticed\n{}",
        late.len(),
        setup.instance.program.transcript()
    );
    let before: Vec<_> =
        report.lost.values().filter(|sent| **sent + Duration::from_millis(100) < killed).collect();
    assert!(before.is_empty(), "{} lost before the death", before.len());
    assert_eq!(report.duplicates + report.strange + report.failures, 0);
    // Each lost query was outstanding at the dead server, and is counted as such.
    let counted = setup.instance.dropped("timeout");
    assert_eq!(
        report.lost.len() as u64,
        counted,
        "lost and counted\n{}",
        setup.instance.program.transcript()
    );
    // It received queries before its failure and again afterwards.
    let part = report.by_backend.get(&21).copied().unwrap_or(0);
    assert!(
        part > 500 + 500,
        "the killed server answered {part} of {} (of {returned} until its return)",
        report.sent
    );
}

#[test]
fn with_retry_a_killed_server_costs_no_query() {
    let mut setup = setup("setRetry {after=50, budget=100}\n");
    let running = load(&setup);
    answered(&running, 1_000);
    setup.mortal.kill();
    answered(&running, 2_000);
    let report = running.finish();
    report.assert_nothing_lost(&|| setup.instance.program.transcript());
}

#[test]
fn with_retry_a_frozen_server_costs_no_query() {
    let setup = setup("setRetry {after=50, budget=100}\n");
    let running = load(&setup);
    answered(&running, 1_000);
    setup.mortal.freeze(true);
    answered(&running, 1_000);
    setup.mortal.freeze(false);
    answered(&running, 1_000);
    let report = running.finish();
    assert!(
        report.lost.is_empty(),
        "{} of {} lost\n{}",
        report.lost.len(),
        report.sent,
        setup.instance.program.transcript()
    );
}
