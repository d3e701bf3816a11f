//! Tests of the test tools themselves, without a balancer: load client and backend must agree.

use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::load::{self, Plan, Report};
use crate::servers::{Kind, Server};

const COUNT: u64 = 500;

fn ask(target: std::net::SocketAddr) -> Report {
    load::run(Plan { target, rate: 5_000, count: COUNT, patience: Duration::from_millis(500) })
}

#[test]
fn a_prompt_backend_loses_nothing_and_both_ends_agree() {
    let backend = Backend::start(7, Behaviour::Prompt);
    let report = ask(backend.address);
    report.assert_nothing_lost(&String::new);
    assert_eq!((report.sent, backend.queries(), backend.others()), (COUNT, COUNT, 0));
    assert_eq!(report.by_backend, [(7, COUNT)].into());
}

#[test]
fn every_kind_of_loss_is_detected() {
    for (behaviour, answered, duplicates, strange) in [
        (Behaviour::Silent, 0, 0, 0),
        (Behaviour::ForeignPort, 0, 0, 0),
        (Behaviour::OtherQuestion, 0, 0, COUNT),
        (Behaviour::Twice, COUNT, COUNT, 0),
        (Behaviour::Echo, 0, 0, COUNT),
        (Behaviour::Short, 0, 0, COUNT),
    ] {
        let backend = Backend::start(7, behaviour);
        let report = ask(backend.address);
        assert_eq!(
            (report.answered, report.duplicates, report.strange, report.lost.len() as u64),
            (answered, duplicates, strange, COUNT - answered),
            "{behaviour:?}"
        );
        assert_eq!(backend.queries(), COUNT, "{behaviour:?}");
    }
}

#[test]
fn a_late_answer_is_waited_for() {
    let backend = Backend::start(7, Behaviour::After(Duration::from_millis(100)));
    let report = ask(backend.address);
    report.assert_nothing_lost(&String::new);
    assert!(report.slowest >= Duration::from_millis(100));
}

#[test]
fn real_servers_answer_with_their_number_and_return_after_a_kill() {
    for (kind, who) in [(Kind::Unbound, 51), (Kind::Nsd, 52), (Kind::Knot, 53)] {
        let mut server = Server::start(kind, who);
        let report = ask(server.address);
        report.assert_nothing_lost(&|| format!("{kind:?}"));
        assert_eq!(report.by_backend, [(who, COUNT)].into(), "{kind:?}");
        server.kill();
        assert_eq!(ask(server.address).answered, 0, "{kind:?} is dead");
        server.begin();
        ask(server.address).assert_nothing_lost(&|| format!("{kind:?}, once more"));
    }
}
