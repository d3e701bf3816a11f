//! The instruments themselves, without a balancer between: a count that cannot be wrong both ways.

use std::time::Duration;

use crate::backend::{Backend, Manner};
use crate::load::{self, Plan, Report};
use crate::servers::{Kind, Server};

const COUNT: u64 = 500;

fn ask(target: std::net::SocketAddr) -> Report {
    load::run(Plan { target, rate: 5_000, count: COUNT, patience: Duration::from_millis(500) })
}

#[test]
fn a_prompt_backend_loses_nothing_and_both_ends_agree() {
    let backend = Backend::start(7, Manner::Prompt);
    let report = ask(backend.address);
    report.assert_nothing_lost(&String::new);
    assert_eq!((report.sent, backend.queries(), backend.others()), (COUNT, COUNT, 0));
    assert_eq!(report.by_backend, [(7, COUNT)].into());
}

#[test]
fn every_kind_of_loss_is_seen() {
    for (manner, answered, duplicates, strange) in [
        (Manner::Silent, 0, 0, 0),
        (Manner::ForeignPort, 0, 0, 0),
        (Manner::OtherQuestion, 0, 0, COUNT),
        (Manner::Twice, COUNT, COUNT, 0),
        (Manner::Echo, 0, 0, COUNT),
        (Manner::Short, 0, 0, COUNT),
    ] {
        let backend = Backend::start(7, manner);
        let report = ask(backend.address);
        assert_eq!(
            (report.answered, report.duplicates, report.strange, report.lost.len() as u64),
            (answered, duplicates, strange, COUNT - answered),
            "{manner:?}"
        );
        assert_eq!(backend.queries(), COUNT, "{manner:?}");
    }
}

#[test]
fn a_late_answer_is_waited_for() {
    let backend = Backend::start(7, Manner::After(Duration::from_millis(100)));
    let report = ask(backend.address);
    report.assert_nothing_lost(&String::new);
    assert!(report.slowest >= Duration::from_millis(100));
}

#[test]
fn real_servers_answer_with_their_number_and_return_after_death() {
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
