//! Rules under load and during reloads, and actions with effects outside the packet.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{Load, Plan};
use crate::place::{Directory, port, wait_for};
use crate::process::Program;
use crate::servers::{Kind, Server, ask, ask_from, command};

const RELOADS: usize = 30;
const RATE: u32 = 3_000;

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

#[test]
fn replacing_rules_under_load_loses_neither_queries_nor_hits() {
    let backends = [1, 2, 3].map(|who| Backend::start(who, Behaviour::Prompt));
    let at = local();
    let base = listen(at)
        + &backend(backends[0].address, "")
        + &backend(backends[1].address, ", pool=\"x\"")
        + &backend(backends[2].address, ", pool=\"y\"")
        + "addAction(AllRule(), NoneAction(), {name=\"all\"})\n\
           addResponseAction(AllRule(), SetTagResponseAction(\"seen\", \"1\"), {name=\"back\"})\n\
           addAction(\"nobody.test\", DropAction(), {name=\"nobody\"})\n";
    // A few thousand names, so that the index of the rules differs each time.
    let names = |n: usize| {
        format!(
            "local s = newSuffixMatchNode()\nfor i = 1, 5000 do s:add('n' .. i .. '.g{n}.test') end\n\
             addAction(QNameSuffixRule(s), DropAction(), {{name=\"names\"}})\n"
        )
    };
    let group = |rules: &str| format!("setRuleGroup(\"way\", {{{rules}}})\n");
    let configs = [
        base.clone() + &group("newRuleAction(QNameSuffixRule(\"test\"), PoolAction(\"x\"), {name=\"to-x\"})"),
        base.clone()
            + &names(1)
            + &group(
                "newRuleAction(RegexRule(\"^q[0-9]*[13579]\\\\.\"), PoolAction(\"y\"), {name=\"odd\"}), \
                 newRuleAction(QTypeRule(\"A\"), PoolAction(\"x\"), {name=\"type\"})",
            ),
        // The kept rules after others, so that their positions change.
        listen(at)
            + &names(2)
            + &group("newRuleAction(QTypeRule(\"A\"), NoneAction(), {name=\"first\"})")
            + base.trim_start_matches(listen(at).as_str()),
        base.clone() + &group(""),
    ];
    let mut instance = Instance::start(&configs[0]);
    let plan = Plan { target: at, rate: RATE, count: u64::MAX, patience: Duration::from_secs(4) };
    let load = Load::start(plan);
    for n in 0..RELOADS {
        let goal = load.sent() + u64::from(RATE) / 20;
        wait_for(|| format!("{goal} queries to be sent"), || (load.sent() >= goal).then_some(()));
        instance.reload(&configs[(n + 1) % configs.len()]);
    }
    let report = load.finish();
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert!(report.sent > RELOADS as u64 * u64::from(RATE) / 20);
    assert_eq!(backends.iter().map(Backend::queries).sum::<u64>(), report.sent, "queries at both ends");
    for who in 1..=3 {
        assert!(report.by_backend.contains_key(&who), "backend {who}: {:?}", report.by_backend);
    }
    // Rules that existed all the time have seen every query and every answer.
    assert_eq!(instance.hits("all"), report.sent);
    assert_eq!(instance.hits("back"), report.sent);
    assert_eq!(instance.hits("nobody"), 0);
    assert!(instance.stop().success());
}

#[test]
fn queries_are_logged_to_a_file_that_may_be_moved_away() {
    let server = Server::start(Kind::Nsd, 1);
    let (at, directory) = (local(), Directory::new());
    let (path, moved) = (directory.path().join("queries.log"), directory.path().join("queries.log.1"));
    let lua = listen(at)
        + &backend(server.address, "")
        + &format!(
            "addAction(\"logged.test\", LogAction(\"{0}\", false, false, true, false, true))\n\
             addResponseAction(AllRule(), LogResponseAction(\"{0}.answers\", true, false))\n",
            path.display()
        );
    let mut instance = Instance::start(&lua);
    let lines = |file: &std::path::Path| -> Vec<String> {
        std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    let asked = |names: std::ops::Range<u32>| {
        for n in names {
            assert!(ask(at, &format!("n{n}.logged.test")).is_some());
            assert!(ask(at, &format!("n{n}.other.test")).is_some());
        }
    };
    asked(0..50);
    std::fs::rename(&path, &moved).unwrap_or_else(|_| {
        // The file is opened at its first line, by the control thread.
        wait_for(|| "the file".into(), || std::fs::rename(&path, &moved).ok());
    });
    instance.reload(&lua);
    asked(50..70);
    instance.reload(&lua);
    wait_for(
        || format!("20 lines in {path:?}: {:?}; {}", lines(&path), instance.program.transcript()),
        || (lines(&path).len() + lines(&moved).len() == 70).then_some(()),
    );
    let all: Vec<_> = lines(&moved).into_iter().chain(lines(&path)).collect();
    assert!(all.iter().all(|l| l.starts_with('[') && l.contains("Packet from 127.0.0.1:")), "{all:#?}");
    for n in 0..70 {
        // Each shard logs separately: lines are in order within a shard.
        let named = format!(" for n{n}.logged.test. A with id 4660");
        assert_eq!(all.iter().filter(|l| l.ends_with(&named)).count(), 1, "{named}: {all:#?}");
    }
    assert!(lines(&path).len() >= 20, "{} lines are in the moved file", lines(&moved).len());
    assert!(instance.stop().success());
    let answers = directory.path().join("queries.log.answers");
    assert_eq!(lines(&answers).len(), 140, "flushed at the end, not a line lost over reloads");
}

#[test]
fn a_delayed_answer_is_not_sent_early() {
    let server = Server::start(Kind::Nsd, 1);
    let at = local();
    let lua = listen(at)
        + &backend(server.address, "")
        + "addAction(\"slow.test\", DelayAction(150))\n\
           addResponseAction(\"late.test\", DelayResponseAction(200))\n\
           addAction(\"both.test\", DelayAction(120))\n\
           addAction(\"both.test\", SpoofAction(\"192.0.2.77\"))\n";
    let instance = Instance::start(&lua);
    let wait = |name: &str| {
        let began = Instant::now();
        let answer = ask_from([127, 0, 0, 1].into(), at, name, Duration::from_secs(5));
        let waited = began.elapsed();
        assert!(answer.is_some(), "{name}: {}", instance.program.transcript());
        waited
    };
    for (name, delay) in [("a.slow.test", 150), ("a.late.test", 200), ("both.test", 120)] {
        let least = (0..5).map(|_| wait(name)).min().expect("five");
        assert!(least >= Duration::from_millis(delay), "{name} after {least:?}");
        // A generous limit: other tests run at the same time.
        assert!(least < Duration::from_millis(delay + 100), "{name} after {least:?}");
    }
    let prompt = (0..5).map(|_| wait("prompt.test")).min().expect("five");
    assert!(prompt < Duration::from_millis(100), "{prompt:?}");
}

#[test]
fn a_copy_of_each_query_goes_to_a_second_server() {
    let server = Server::start(Kind::Nsd, 1);
    let (at, second, directory) = (local(), local(), Directory::new());
    // An unbound that logs every query.
    let mut unbound = command(Kind::Unbound, &directory, second, 2);
    let config = directory.path().join("server.conf");
    let text = std::fs::read_to_string(&config).expect("its configuration");
    directory.write("server.conf", &(text + "server:\n log-queries: yes\n"));
    let second_server = Program::start(&mut unbound);
    wait_for(|| second_server.transcript(), || ask(second, "ready.test"));
    let lua = listen(at)
        + &backend(server.address, "")
        + &format!("addAction(\"copied.test\", TeeAction(\"{second}\"), {{name=\"tee\"}})\n");
    let instance = Instance::start(&lua);
    for n in 0..20 {
        let answer = ask(at, &format!("n{n}.copied.test")).expect("an answer");
        assert_eq!(crate::message::answered_by(&answer), Some(1), "the second server's answer is not used");
        assert!(ask(at, &format!("n{n}.single.test")).is_some());
    }
    wait_for(
        || format!("20 copies; {}\n{}", second_server.transcript(), instance.program.transcript()),
        || (second_server.lines_with(0, ".copied.test. A IN").len() == 20).then_some(()),
    );
    assert!(second_server.lines_with(0, "single").is_empty());
    assert_eq!(instance.hits("tee"), 20);
    assert_eq!(instance.dropped("response-foreign"), 0);
}
