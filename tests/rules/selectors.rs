//! Tests selectors: what they match, and what they do not match.

use crate::bench::{Bench, Out, Row, SERVERS, play_all};
use crate::support::config::client;
use crate::support::message::message;

/// A selector, queries that it matches, and queries that it does not match.
type Selector = (&'static str, &'static [&'static str], &'static [&'static str]);

const A: &str = "1234 RD a.example/A";

const QUERIES: &[Selector] = &[
    ("AllRule()", &[A, "1 ./NS"], &[]),
    ("NotRule(AllRule())", &[], &[A]),
    (r#"AndRule{QTypeRule("A"), RDRule()}"#, &[A], &["1234 a.example/A", "1234 RD a.example/AAAA"]),
    ("AndRule{}", &[A], &[]),
    ("OrRule{}", &[], &[A]),
    (r#"OrRule{QTypeRule("AAAA"), QNameRule("b.example")}"#, &["1 a.example/AAAA", "1 b.example/A"], &[A]),
    (
        r#"AndRule{OrRule{QTypeRule("A"), QTypeRule("MX")}, NotRule(QNameSuffixRule("example"))}"#,
        &["1 a.org/A", "1 a.org/MX"],
        &["1 a.example/A", "1 a.org/TXT"],
    ),
    (r#"QNameRule("a.example")"#, &[A, "1 A.eXample/TXT"], &["1 b.a.example/A", "1 example/A", "1 ./A"]),
    (r#"QNameRule("a.example.")"#, &[A], &["1 example/A"]),
    (r#"QNameRule(newDNSName("."))"#, &["1 ./NS"], &[A]),
    (
        r#"(function() local s = newDNSNameSet() s:add("a.example") s:add(newDNSName("b.example")) return QNameSetRule(s) end)()"#,
        &[A, "1 B.example/A"],
        &["1 example/A", "1 x.a.example/A"],
    ),
    (
        r#"QNameSuffixRule("example")"#,
        &[A, "1 EXAMPLE/A", "1 x.y.Example/A"],
        &["1 anexample/A", "1 example.org/A", "1 ./A"],
    ),
    (r#"QNameSuffixRule{"example", "b.org"}"#, &[A, "1 x.b.org/A"], &["1 c.org/A"]),
    (r#"QNameSuffixRule(".")"#, &[A, "1 ./A"], &[]),
    (
        r#"(function() local s = newSuffixMatchNode() s:add("example") s:add({"b.org", "c.org"}) s:remove("c.org") return SuffixMatchNodeRule(s) end)()"#,
        &[A, "1 x.b.org/A"],
        &["1 c.org/A"],
    ),
    (
        "(function() local s = newSuffixMatchNode() local rule = SuffixMatchNodeRule(s, true) s:add('example') return rule end)()",
        &[A],
        &["1 a.org/A"],
    ),
    (r#"RegexRule("^a\\.ex.*")"#, &[A, "1 A.EXAMPLE/A"], &["1 b.example/A"]),
    (r#"RegexRule("xampl")"#, &[A], &["1 b.org/A"]),
    (
        r#"RE2Rule("[a-c]\\.example")"#,
        &[A, "1 c.example/A"],
        &["1 C.example/A", "1 d.example/A", "1 x.a.example/A"],
    ),
    (r#"QTypeRule("AAAA")"#, &["1 a.example/AAAA"], &[A]),
    ("QTypeRule(DNSQType.ANY)", &["1 a.example/ANY"], &[A]),
    ("QTypeRule(1234)", &["1 a.example/1234"], &[A]),
    ("QClassRule(DNSClass.CHAOS)", &["1 version.bind/TXT/CH"], &[A]),
    ("QClassRule(1)", &[A], &["1 version.bind/TXT/CH"]),
    ("OpcodeRule(DNSOpcode.Notify)", &["1 NOTIFY a.example/SOA"], &[A]),
    ("OpcodeRule(5)", &["1 UPDATE a.example/SOA"], &[A, "1 NOTIFY a.example/SOA"]),
    ("OpcodeRule(0)", &[A], &["1 NOTIFY a.example/SOA"]),
    ("RCodeRule(DNSRCode.NXDOMAIN)", &["1 NXDOMAIN a.example/A"], &[A]),
    ("ERCodeRule(DNSRCode.BADVERS)", &["1 a.example/A OPT=1232,x1"], &[A, "1 a.example/A OPT=1232"]),
    ("RDRule()", &[A], &["1 a.example/A"]),
    (
        "DNSSECRule()",
        &["1 a.example/A OPT=1232,DO", "1 CD a.example/A", "1 CD a.example/A OPT=1232"],
        &[A, "1 a.example/A OPT=1232", "1 AD a.example/A"],
    ),
    (
        "NotRule(DNSSECRule())",
        &[A, "1 AD a.example/A OPT=1232"],
        &["1 CD a.example/A", "1 a.example/A OPT=1232,DO"],
    ),
    ("EDNSVersionRule(0)", &["1 a.example/A OPT=1232,v1"], &["1 a.example/A OPT=1232", A]),
    (
        "EDNSOptionRule(EDNSOptionCode.ECS)",
        &[
            "1 a.example/A OPT=1232,8:00011800c00002",
            "1 a.example/A OPT=1232,10:0102030405060708,8:00011800c00002",
        ],
        &[A, "1 a.example/A OPT=1232", "1 a.example/A OPT=1232,10:0102030405060708"],
    ),
    (
        "RecordsCountRule(DNSSection.Additional, 1, 1)",
        &["1 a.example/A OPT=1232"],
        &[A, "1 a.example/A RR=3,a,A,1,01020304 OPT=1232"],
    ),
    ("RecordsCountRule(DNSSection.Question, 2, 9)", &["1 a.example/A b.example/A"], &[A]),
    ("RecordsCountRule(DNSSection.Answer, 0, 0)", &[A], &["1 a.example/A A=192.0.2.1"]),
    (
        "RecordsTypeCountRule(DNSSection.Authority, DNSQType.SOA, 1, 2)",
        &["1 a.example/A RR=2,example,SOA,1,00"],
        &[A, "1 a.example/A RR=2,example,NS,1,00", "1 a.example/A RR=3,example,SOA,1,00"],
    ),
    (
        "TrailingDataRule()",
        &["1 a.example/A TAIL=00", "1 a.example/A OPT=1232 TAIL=0102"],
        &[A, "1 a.example/A OPT=1232"],
    ),
    ("QNameLabelsCountRule(2, 3)", &["1 example/A", "1 a.b.c.example/A", "1 ./A"], &[A, "1 a.b.example/A"]),
    ("QNameWireLengthRule(4, 11)", &["1 ./A", "1 aa.example/A"], &[A, "1 a.b/A"]),
    (r#"PayloadSizeRule("equal", 27)"#, &[A], &["1 aa.example/A"]),
    (r#"PayloadSizeRule("greater", 27)"#, &["1 aa.example/A", "1 a.example/A TAIL=00"], &[A]),
    (r#"PayloadSizeRule("greaterOrEqual", 27)"#, &[A, "1 aa.example/A"], &["1 .example/A"]),
    (r#"PayloadSizeRule("smaller", 27)"#, &["1 example/A"], &[A]),
    (r#"PayloadSizeRule("smallerOrEqual", 27)"#, &[A, "1 example/A"], &["1 aa.example/A"]),
    (r#"NetmaskGroupRule("127.0.0.0/8")"#, &[A], &[]),
    (r#"NetmaskGroupRule({"192.0.2.0/24", "::/0"})"#, &[], &[A]),
    (r#"NetmaskGroupRule{"127.0.0.0/8", "!127.0.0.1/32"}"#, &[], &[A]),
    (
        r#"(function() local g = newNMG() g:addMask("127.0.0.1") return NetmaskGroupRule(g, true, true) end)()"#,
        &[A],
        &[],
    ),
    (r#"NetmaskGroupRule("127.0.0.1/32", false)"#, &[A], &[]),
    (r#"NetmaskGroupRule("127.0.0.2/32", false)"#, &[], &[A]),
    ("DSTPortRule(5300)", &[A], &[]),
    ("DSTPortRule(53)", &[], &[A]),
    (r#"IncomingProtocolRule("DoUDP")"#, &[A], &[]),
    (r#"IncomingProtocolRule("DoTCP")"#, &[], &[A]),
    ("TCPRule(false)", &[A], &[]),
    ("TCPRule(true)", &[], &[A]),
    (r#"TagRule("t")"#, &[], &[A]),
    ("ProbaRule(1)", &[A], &[]),
    ("ProbaRule(0)", &[], &[A]),
    (r#"PoolAvailableRule("two")"#, &[A], &[]),
    (r#"PoolAvailableRule("none")"#, &[], &[A]),
    (r#"PoolOutstandingRule("two", 0)"#, &[], &[A]),
    ("TimedIPSetRule():slice()", &[], &[A]),
    ("NotRule(newTimedIPSetRule():slice())", &[A], &[]),
    (r#"makeRule("example")"#, &[A], &["1 a.org/A"]),
    (r#"makeRule({"a.example", "b.example"})"#, &[A, "1 x.b.example/A"], &["1 c.example/A"]),
    (r#"makeRule("127.0.0.0/8")"#, &[A], &[]),
    (r#"makeRule({"192.0.2.0/24", "2001:db8::/32"})"#, &[], &[A]),
    (r#"makeRule(RDRule())"#, &[A], &["1 a.example/A"]),
];

/// Every selector in the reference that needs no Lua call per query.
fn names() -> Vec<&'static str> {
    dnslob::lua::front_end::selectors().map(|e| e.name).filter(|n| !n.starts_with("Lua")).collect()
}

fn went_to(bench: &mut Bench, query: &str) -> u16 {
    let out = bench.query(client("127.0.0.1:4000"), &message(query));
    let [Out::Forward(route, bytes)] = &out[..] else { panic!("{query} became {out:?}") };
    let mut sent = message(query);
    sent[..2].copy_from_slice(&bytes[..2]);
    assert_eq!(sent, *bytes, "{query} goes as it came");
    bench.number(*route)
}

#[test]
fn selectors_match() {
    let mut wrong = Vec::new();
    for (selector, hits, misses) in QUERIES {
        let config = format!("{SERVERS} addLocal('127.0.0.1:5300') addAction({selector}, PoolAction('two'))");
        let mut bench = Bench::new(&config);
        let rows = hits.iter().map(|q| (q, 2)).chain(misses.iter().map(|q| (q, 1)));
        for (query, server) in rows {
            if went_to(&mut bench, query) != server {
                wrong.push(format!(
                    "{selector}: {query} should {}",
                    if server == 2 { "match" } else { "not match" }
                ));
            }
        }
        assert_eq!(bench.hits("query"), [u64::try_from(hits.len()).unwrap()], "{selector}: hits");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_selector_is_tested() {
    // SNIRule needs a TLS client: see the tests with real programs.
    let elsewhere = [include_str!("limits.rs"), include_str!("proxy.rs"), "SNIRule"].concat();
    let all: String = QUERIES.iter().map(|row| row.0).collect::<Vec<_>>().join(" ") + &elsewhere;
    let forgotten: Vec<_> = names().into_iter().filter(|name| !all.contains(name)).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

/// The rules that a selector needs before it to match.
const ROWS: &[Row] = &[
    (
        "TagRule: a tag of an action, with and without its value",
        r#"addAction("a.example", SetTagAction("t", "1")) addAction("b.example", SetTagAction("t", "2"))
           addAction(TagRule("t", "1"), DropAction()) addAction(TagRule("t"), PoolAction("two"))"#,
        "q 1 a.example/A
         ! rule
         q 1 b.example/A
         > 2 * b.example/A
         q 1 c.example/A
         > 1 * c.example/A
         hits query 1 1 1 1",
    ),
    (
        "TagRule: another tag does not match",
        r#"addAction(AllRule(), SetTagAction("t", "")) addAction(TagRule("u"), DropAction())
           addAction(TagRule("t", "x"), DropAction()) addAction(TagRule("t", ""), PoolAction("two"))"#,
        "q 1 a/A
         > 2 * a/A",
    ),
    (
        "PoolOutstandingRule: more than the limit",
        r#"addAction("a", PoolAction("two")) addAction(PoolOutstandingRule("two", 1), DropAction())"#,
        "q 1 a/A
         > 2 * a/A
         wait 0
         q 1 b/A
         > 1 * b/A
         q 1 a/A
         > 2 * a/A
         wait 0
         q 1 b/A
         ! rule
         a2 * QR a/A
         < 0001 QR a/A
         wait 0
         q 1 b/A
         > 1 * b/A",
    ),
    (
        "the client network matters, not its port",
        r#"setACL("0.0.0.0/0") addACL("::/0") addAction("192.0.2.0/24", PoolAction("two"))
           addAction({"2001:db8::/32", "198.51.100.1"}, DropAction())"#,
        "from 192.0.2.255:1
         q 1 a/A
         > 2 * a/A
         from 192.0.3.0:1
         q 1 a/A
         > 1 * a/A
         from [2001:db8::77]:9
         q 1 a/A
         ! rule
         from 198.51.100.1:53
         q 1 a/A
         ! rule
         from [2001:db9::]:9
         q 1 a/A
         > 1 * a/A",
    ),
    (
        "the longest of nested networks matches",
        r#"setACL("0.0.0.0/0") addAction(NetmaskGroupRule{"10.0.0.0/8", "!10.1.0.0/16", "10.1.2.0/24"}, DropAction())"#,
        "from 10.2.3.4:1
         q 1 a/A
         ! rule
         from 10.1.3.4:1
         q 1 a/A
         > 1 * a/A
         from 10.1.2.4:1
         q 1 a/A
         ! rule",
    ),
    (
        "RCodeRule and ERCodeRule match answers, too",
        r#"addResponseAction(RCodeRule(DNSRCode.SERVFAIL), DropResponseAction())
           addResponseAction(ERCodeRule(DNSRCode.BADCOOKIE), DropResponseAction())"#,
        "q 1 a/A
         > 1 * a/A
         a * QR SERVFAIL a/A
         ! response-rule
         q 1 a/A
         > 1 * a/A
         a * QR RCODE=7 a/A OPT=1232,x1
         ! response-rule
         q 1 a/A
         > 1 * a/A
         a * QR RCODE=7 a/A
         < 0001 QR RCODE=7 a/A",
    ),
    (
        "selectors of the question match answers",
        r#"addResponseAction(AndRule{QNameSuffixRule("example"), QTypeRule("AAAA")}, DropResponseAction())"#,
        "q 1 a.example/AAAA
         > 1 * a.example/AAAA
         a * QR a.example/AAAA
         ! response-rule
         q 1 a.example/A
         > 1 * a.example/A
         a * QR a.example/A
         < 0001 QR a.example/A",
    ),
    (
        "records of an answer are counted by section and type",
        r#"addResponseAction(RecordsTypeCountRule(DNSSection.Answer, DNSQType.A, 2, 9), DropResponseAction())"#,
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1 A=192.0.2.2
         ! response-rule
         q 1 a/A
         > 1 * a/A
         a * QR a/A CNAME=b A=192.0.2.2
         < 0001 QR a/A CNAME=b A=192.0.2.2",
    ),
];

#[test]
fn selectors_with_context() {
    play_all(ROWS);
}

#[test]
fn the_destination_address_is_known_behind_a_wildcard_listener() {
    let mut bench = Bench::new(&format!(
        "{SERVERS} setLocal('0.0.0.0:5300') addAction(NetmaskGroupRule('127.0.0.9', false), PoolAction('two'))"
    ));
    let mut from = client("127.0.0.1:4000");
    for (slot, ip) in [(1, "127.0.0.9"), (2, "127.0.0.8")] {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        bench.shard.on_local(dnslob::base::addr::LocalSlot(slot), dnslob::base::addr::mapped(ip));
    }
    for (slot, server) in [(1, 2), (2, 1)] {
        from.local = dnslob::base::addr::LocalSlot(slot);
        let out = bench.query(from, &message(A));
        let [Out::Forward(route, _)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(bench.number(*route), server);
    }
}

#[test]
fn a_pool_without_a_usable_server_is_not_available() {
    let mut bench = Bench::new(&format!("{SERVERS} addAction(PoolAvailableRule('two'), PoolAction('two'))"));
    assert_eq!(went_to(&mut bench, A), 2);
    let second =
        bench.snapshot.pool_named("two").and_then(|p| bench.snapshot.pool(p).members.first().copied());
    bench.live_state.set_state(second.unwrap(), dnslob::stats::live::State::Down);
    bench.pass(1);
    assert_eq!(went_to(&mut bench, A), 1);
}

/// ProbaRule matches neither always nor never, but about as often as configured.
#[test]
fn proba_rule_matches_at_its_probability() {
    let mut bench = Bench::new(&format!("{SERVERS} addAction(ProbaRule(0.25), DropAction())"));
    for _ in 0..4_000 {
        bench.query(client("127.0.0.1:4000"), &message(A));
    }
    let hits = bench.hits("query")[0];
    assert!((850..1_150).contains(&hits), "{hits} of 4000, 1000 wanted");
}
