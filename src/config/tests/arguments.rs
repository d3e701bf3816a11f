//! The number of arguments: every function and method that is declared refuses one too many.

use crate::config::functions::{
    ACTION_METHODS, ADDRESS_METHODS, BIND_METHODS, CACHE_METHODS, Entry, LIMITER_METHODS, NAME_METHODS,
    NAME_SET_METHODS, NETMASK_METHODS, NETWORK_SET_METHODS, POOL_METHODS, RULE_METHODS, SELECTOR_METHODS,
    SERVER_METHODS, TIMED_SET_METHODS,
};
use crate::config::options::SETTINGS;
use crate::config::tests::{broken, snapshot};
use crate::lua::front_end::every_function;
use crate::model::Service;

/// Calls something with one argument too many; returns what is wrong with its message.
fn complaint(call: &str, name: &str, most: usize) -> Option<String> {
    let count = most + 1;
    let text = format!("{call}({})", vec!["1"; count].join(", "));
    let plural = if count == 1 { "" } else { "s" };
    let most = if most == 0 { "none".to_owned() } else { format!("at most {most}: ") };
    let want = format!("FILE:1: {name}: called with {count} argument{plural}; expected {most}");
    let messages = broken(&text);
    (messages.len() != 1 || !messages[0].starts_with(&want)).then(|| format!("{text}: {messages:?}\n"))
}

#[test]
fn every_function_refuses_surplus_arguments() {
    let setters = SETTINGS.iter().flat_map(|s| s.lua).map(|l| (l.name, 1));
    let functions = every_function().map(|e| (e.name, e.signature().most())).chain(setters);
    let complaints: String = functions.filter_map(|(name, most)| complaint(name, name, most)).collect();
    assert!(complaints.is_empty(), "{complaints}");
}

/// Objects, and the tables of their methods. Those of listeners with TLS and of headers have tests
/// where there are such objects.
const OBJECTS: &[(&str, &[Entry])] = &[
    ("newServer('192.0.2.1')", SERVER_METHODS),
    ("getPool('x')", POOL_METHODS),
    ("newRuleAction(AllRule(), DropAction())", RULE_METHODS),
    ("newPacketCache(10)", CACHE_METHODS),
    ("newSuffixMatchNode()", NAME_SET_METHODS),
    ("newDNSNameSet()", NAME_SET_METHODS),
    ("newNMG()", NETWORK_SET_METHODS),
    ("TimedIPSetRule()", TIMED_SET_METHODS),
    ("newQPSLimiter(1)", LIMITER_METHODS),
    ("getBind(0)", BIND_METHODS),
    ("AllRule()", SELECTOR_METHODS),
    ("DropAction()", ACTION_METHODS),
    ("newNetmask('192.0.2.0/24')", NETMASK_METHODS),
    ("newCA('192.0.2.1')", ADDRESS_METHODS),
    ("newDNSName('example')", NAME_METHODS),
];

#[test]
fn every_method_refuses_surplus_arguments() {
    let mut complaints = String::new();
    for (object, methods) in OBJECTS {
        for method in *methods {
            let call = format!("local o = {object} o:{}", method.name);
            complaints += &complaint(&call, method.name, method.signature().most()).unwrap_or_default();
        }
    }
    assert!(complaints.is_empty(), "{complaints}");
}

#[test]
fn surplus_arguments_of_one_form_are_refused() {
    for (text, want) in [
        (
            "newServer('192.0.2.1', 'a', 5)",
            "newServer: called with 3 arguments; expected at most 1: address | {",
        ),
        (
            "setServerPolicy(roundrobin, 'y')",
            "setServerPolicy: called with 2 arguments; expected at most 1: policy",
        ),
        (
            "addLocal('127.0.0.1', true, false, 5, 6)",
            "addLocal: called with 5 arguments; expected at most 4: ",
        ),
        (
            "addLocal('127.0.0.1', {}, true)",
            "addLocal: called with 3 arguments; expected at most 2 in this form: ",
        ),
        ("addLocal('127.0.0.1', 'tcp')", "addLocal: the second argument is \"tcp\"; expected a table"),
        ("addLocal('127.0.0.1', true, 1)", "addLocal: reusePort is 1; expected true or false"),
        (
            "SpoofAction('::1', {}, {})",
            "SpoofAction: called with 3 arguments; expected at most 2 in this form: ",
        ),
        ("newServer('192.0.2.1', 2)", "; a second argument of dnsdist is newServer{address=, qps=}"),
        (
            "webserver('127.0.0.1:8083', 'x', 'y', {}, '', 1)",
            "webserver: called with 6 arguments; expected at most 5: ",
        ),
        ("newCAFromRaw('abcd')", "newCAFromRaw: works only in functions of rules and policies"),
        ("concentrate({}, 5)", "concentrate: called with more than one argument; expected the options alone"),
    ] {
        let messages = broken(text);
        assert!(messages.len() == 1 && messages[0].contains(want), "{text}: {messages:#?}");
    }
}

#[test]
fn the_older_form_of_a_listener_is_accepted() {
    let snapshot = snapshot("addLocal('127.0.0.1', false) addLocal('127.0.0.2', true, true, 5)");
    let [udp, shared] = &snapshot.listeners[..] else { panic!("{:?}", snapshot.listeners) };
    assert!(matches!(udp.service, Service::DnsUdp) && !udp.reuse_port);
    assert!(matches!(shared.service, Service::Dns) && shared.reuse_port);
    assert_eq!(shared.connection_options.fast_open, 5);
}

#[test]
fn a_nil_at_the_end_is_no_argument() {
    snapshot(
        "addAction(AllRule(nil), DropAction(nil, nil), nil, nil) getPool('x', nil):setTCPToUDP(true, nil)",
    );
}
