//! Empty lists and texts, which templates leave and dnsdist takes.

use super::*;

/// Texts, each with its one warning.
const WARNED: &[(&str, &str)] = &[
    ("addAction({}, DropAction())", "addAction: the rule is an empty list: it matches nothing"),
    (
        "addResponseAction({}, DropResponseAction())",
        "addResponseAction: the rule is an empty list: it matches",
    ),
    ("AndRule{{}}", "AndRule: rule 1 is an empty list: it matches nothing"),
    ("QNameSuffixRule({})", "QNameSuffixRule: the first argument is an empty list: it matches nothing"),
    (
        "SuffixMatchNodeRule({})",
        "SuffixMatchNodeRule: the first argument is an empty list: it matches nothing",
    ),
    ("NetmaskGroupRule({})", "NetmaskGroupRule: the first argument is an empty list: it matches nothing"),
    ("newSuffixMatchNode():add({})", "add: an empty list: nothing is added"),
    ("newNMG():addMask({})", "addMask: an empty list: nothing is added"),
    (
        "SpoofAction({})",
        "SpoofAction: the address is an empty list: nothing is answered by it, and queries go on to the next rule",
    ),
    ("SpoofAction({}, {ttl=5})", "SpoofAction: the address is an empty list: nothing is answered by it"),
    ("SpoofRawAction({})", "SpoofRawAction: the data is an empty list: nothing is answered by it"),
    (
        "SpoofSVCAction({})",
        "SpoofSVCAction: the list is an empty list: SVCB and HTTPS are answered without records",
    ),
    (
        "newSVCRecordParameters(1, 'a', {alpn={}})",
        "newSVCRecordParameters: alpn is an empty list: the record is without this key",
    ),
    ("newSVCRecordParameters(1, 'a', {mandatory={}})", "newSVCRecordParameters: mandatory is an empty list"),
    ("newSVCRecordParameters(1, 'a', {ipv4hint={}})", "newSVCRecordParameters: ipv4hint is an empty list"),
    (
        "ClearRecordTypesResponseAction({})",
        "ClearRecordTypesResponseAction: an empty list: nothing is removed",
    ),
    ("setKey('')", "setKey: an empty text: there is no key, and the console refuses every connection"),
    (
        "newServer{address='192.0.2.1', checkName=''}",
        "newServer: checkName is an empty text: the root (\".\") is asked",
    ),
    (
        "newServer{address='192.0.2.1', healthCheckMode=''}",
        "newServer: healthCheckMode is an empty text: it is taken as \"auto\"",
    ),
    (
        "setWebserverConfig{password=''}",
        "setWebserverConfig: password is an empty text: there is none, and nobody can use what needs it",
    ),
    ("setWebserverConfig{apiKey=''}", "setWebserverConfig: apiKey is an empty text: there is none"),
    ("setACL({})", "setACL: an empty list: no query is answered"),
    (
        "addTCPForward{listen='127.0.0.1:9', to='192.0.2.1:9', acl={}}",
        "addTCPForward: acl is an empty list: nobody may use it",
    ),
    ("AndRule{}", "AndRule: an empty list: it matches everything"),
    ("OrRule{}", "OrRule: an empty list: it matches nothing"),
    ("RegexRule('')", "RegexRule: an empty text: it matches everything"),
    ("RE2Rule('')", "RE2Rule: an empty text: it matches the root only"),
    (
        "webserver('127.0.0.1:8083') setWebserverConfig{apiKey='key'} setAPIWritable(true, '')",
        "setAPIWritable: the directory is an empty text: changes are not kept",
    ),
    ("setConsoleACL({})", "setConsoleACL: an empty list: the console refuses every connection"),
    (
        "newServer{address='192.0.2.1', source=''}",
        "newServer: source is an empty text: it is as if it were not given",
    ),
    ("newServer{address='192.0.2.1', interface=''}", "newServer: interface is an empty text: it is as if"),
    ("newServer{address='192.0.2.1', tls=''}", "newServer: tls is an empty text: it is as if"),
    (
        "newServer{address='192.0.2.1', tls=true, caStore=''}",
        "newServer: caStore is an empty text: it is as if",
    ),
    (
        "newServer{address='192.0.2.1', tls=true, keyLogFile=''}",
        "newServer: keyLogFile is an empty text: it is as if",
    ),
    (
        "newServer{address='192.0.2.1', tls=true, subjectName=''}",
        "newServer: subjectName is an empty text: it is as if",
    ),
    (
        "newServer{address='192.0.2.1', tls=true, subjectAddr=''}",
        "newServer: subjectAddr is an empty text: it is as if",
    ),
    (
        "newServer{address='192.0.2.1', tls=true, ciphers=''}",
        "newServer: ciphers is an empty text: it is as if",
    ),
    ("addLocal('127.0.0.1', {interface=''})", "addLocal: interface is an empty text: it is as if"),
    (
        "addUDPForward{listen='127.0.0.1:9', to='192.0.2.1:9', source=''}",
        "addUDPForward: source is an empty text: it is as if",
    ),
];

#[test]
fn what_is_empty_is_taken_with_a_warning_and_refused_where_that_is_asked_for() {
    for (text, want) in WARNED {
        let warned = good(text).0.draft.warnings.clone().into_list();
        let warned: Vec<String> = warned.iter().map(|w| format!("{}: {}", w.function, w.fault)).collect();
        assert!(warned.len() == 1 && warned[0].starts_with(want), "{text}\n{warned:#?}");
        assert_eq!(broken(&format!("setStrict(true) {text}")).len(), 1, "{text}");
    }
}

#[test]
fn what_is_empty_does_as_the_warning_says() {
    let chain =
        "addAction({}, DropAction()) addAction('a', SpoofAction({})) addAction('b', SpoofRawAction({}))";
    let rules = good(chain).1.snapshot.chains;
    let shown: Vec<String> = rules.query.rules().iter().map(|r| format!("{:?}", r.action)).collect();
    assert_eq!((shown.len(), &*shown[2]), (3, "None"), "{shown:?}");
    let console = |text: &str| good(text).0.draft.console.key.is_some();
    let key = "setKey('MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=')";
    assert!(console(key) && !console(&format!("{key} setKey('')")));
    assert_eq!(server("checkName=''").health.qname, ".");
    assert!(
        good("setWebserverConfig{password='x'} setWebserverConfig{password=''}")
            .0
            .draft
            .web
            .password
            .is_none()
    );
    // It would match everything.
    let not = broken("addAction(NotRule({}), DropAction())");
    assert!(not.iter().any(|error| error.contains("NotRule: an empty list")), "{not:?}");
    // Names that are no lists stay errors: each name would be below that of an empty line.
    for text in
        ["addAction('', DropAction())", "addAction({''}, DropAction())", "newSuffixMatchNode():add('')"]
    {
        assert_eq!(broken(text).len(), 1, "{text}");
    }
}
