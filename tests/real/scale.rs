//! Reloads of very large configurations: lists longer than the stack of referenced Lua values,
//! functions for thousands of servers, nested rules. Whether such a file is accepted or refused,
//! the running process continues to serve and loses no query.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{Load, Plan};
use crate::place::wait_for;
use crate::reload::{endless, let_pass, local};

/// More than the 8,000 slots of the stack for referenced Lua values.
const MANY: &str = "local n, names, networks, rules = 10000, {}, {}, {}\n\
    for i = 1, n do\n\
      names[i] = 'n' .. i .. '.example'\n\
      networks[i] = string.format('192.0.%d.%d', i / 256 % 256, i % 256)\n\
      rules[i] = QNameRule(names[i])\n\
    end\n";

const TAKEN: &[&str] = &[
    "local s = newSuffixMatchNode() s:add(names) addAction(QNameSuffixRule(s), DropAction())",
    "addAction(names, DropAction()) addAction(NetmaskGroupRule(networks), DropAction())",
    "local g = newNMG() g:addMask(networks) addAction(NetmaskGroupRule(g), DropAction())",
    "addAction(OrRule(rules), DropAction())",
    "local l = {} for i = 1, n do l[i] = newRuleAction(rules[i], DropAction()) end setRules(l) setRuleGroup('g', l)",
    "setBackendsMax(20000)\n\
     for i = 1, 4500 do newServer {address='127.9.' .. math.floor(i / 256) .. '.' .. i % 256 .. ':9', pool='away',\n\
       healthCheckMode='down', sockets=1, checkFunction=function(...) return ... end,\n\
       checkResponseFunction=function() return true end} end",
    "for i = 1, n / 4 do addAction(rules[i], LuaAction(function() return DNSAction.Drop end)) end",
];

const REFUSED: &[(&str, &str)] = &[
    ("addAction('x.example', SpoofAction(networks))", "bytes of records; expected at most 3500"),
    (
        "local r = AllRule() for i = 1, 16000 do r = NotRule(r) end addAction(r, DropAction())",
        "65 rules, each within the next one",
    ),
    (
        "local a = DropAction() for i = 1, 10000 do a = ContinueAction(a) end addAction('x', a)",
        "65 actions, each within the next one",
    ),
    ("for i = 1, n do newServer {address='nonsense'} end", "9900 more, which are not listed"),
    ("addAction(unpack(names, 1, 7995))", "called with 7995 arguments"),
];

#[test]
fn reloads_at_scale_lose_nothing() {
    let a = Backend::start(1, Behaviour::Prompt);
    let at = local();
    // Settings that need a restart are in the first configuration, too.
    let base = listen(at) + "setBackendsMax(20000)\n" + &backend(a.address, ", udpTimeout=30");
    let mut instance = Instance::start(&base);
    // A shard that evaluates a file or opens thousands of sockets does nothing else meanwhile,
    // which takes long on a busy machine.
    let load = Load::start(Plan { rate: 1_000, patience: Duration::from_secs(30), ..endless(at) });
    let_pass(&load, 500);
    for text in TAKEN {
        let before = instance.program.output().len();
        instance.reload(&format!("{base}{MANY}{text}\n"));
        wait_for(
            || format!("{text} to be taken; {}", instance.program.transcript()),
            || (!instance.program.lines_with(before, "serving").is_empty()).then_some(()),
        );
        let_pass(&load, 200);
    }
    for (text, reason) in REFUSED {
        let before = instance.program.output().len();
        instance.reload(&format!("{base}{MANY}{text}\n"));
        wait_for(
            || format!("\"{reason}\" about {text}; {}", instance.program.transcript()),
            || (!instance.program.lines_with(before, reason).is_empty()).then_some(()),
        );
        let_pass(&load, 200);
    }
    // One reload after the other, without waiting for the previous one.
    for _ in 0..20 {
        instance.program.signal(Signal::SIGHUP);
    }
    instance.reload(&base);
    let report = load.finish();
    println!("{} queries, the slowest answer after {:?}", report.sent, report.slowest);
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(a.queries(), report.sent, "queries at the backend and from the client");
    assert!(instance.stop().success());
}
