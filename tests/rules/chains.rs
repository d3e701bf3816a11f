//! Tests chains: order, editing, groups, and the chains of self-generated answers and timeouts.

use crate::bench::{Bench, Row, SERVERS, play_all};

const ROWS: &[Row] = &[
    (
        "queries are counted by name before any rule",
        r#"setQueryCount(true) addAction("b", DropAction())"#,
        "q 1 a.X/A
         > 1 * a.X/A
         q 1 A.x/TXT
         > 1 * A.x/TXT
         q 1 b/A
         ! rule
         counted a.x. 2 b. 1
         hits query 1",
    ),
    (
        "queries are counted by what a function makes of them, and one on which it fails is not",
        r#"setQueryCount(true) setQueryCountFilter(function(dq)
             if dq.qtype == DNSQType.TXT then return false, "x" end
             if dq.qtype == DNSQType.MX then error("stop") end
             return true, "of " .. dq.remoteaddr:toString()
           end)"#,
        "q 1 a/A
         > 1 * a/A
         q 1 a/TXT
         > 1 * a/TXT
         q 1 a/MX
         > 1 * a/MX
         counted of 127.0.0.1 1",
    ),
    (
        "what is switched off counts nothing",
        r#"setQueryCount(true) setQueryCountFilter(function(dq) return true, "x" end) setQueryCount(false)"#,
        "q 1 a/A
         > 1 * a/A
         counted",
    ),
    (
        "the first rule that ends the chain wins, with any kind of selector",
        r#"addAction(AndRule{QTypeRule("A"), QNameSuffixRule("x")}, PoolAction("two")) addAction("b.x", DropAction())
           addAction(RegexRule("^c"), RCodeAction(5)) addAction("127.0.0.0/8", TCAction())"#,
        "q 1 b.x/A
         > 2 * b.x/A
         q 1 b.x/TXT
         ! rule
         q 1 c.x/TXT
         < 0001 QR REFUSED c.x/TXT
         q 1 a/A
         < 0001 QR TC a/A
         hits query 1 1 1 1",
    ),
    (
        "addAction: a string is a name suffix, also in a list",
        r#"addAction("a.example", DropAction()) addAction({"b.example", "c.example."}, PoolAction("two"))"#,
        "q 1 x.A.example/A
         ! rule
         q 1 c.example/A
         > 2 * c.example/A
         q 1 x.b.example/A
         > 2 * x.b.example/A
         q 1 d.example/A
         > 1 * d.example/A",
    ),
    (
        "rmRule, mvRule and mvRuleToTop: by number, name and UUID",
        r#"addAction("a", DropAction(), {name="first"}) addAction("a", RCodeAction(5), {uuid="6a1b1f64-0b6c-4b6f-8a53-7f0b1b0b6d3c"})
           addAction("a", TCAction()) addAction("a", PoolAction("two"))
           rmRule("first") mvRuleToTop("6a1b1f64-0b6c-4b6f-8a53-7f0b1b0b6d3c") mvRule(2, 0) mvRuleToTop(1) rmRule(0)"#,
        "q 1 a/A
         > 2 * a/A
         hits query 1 0",
    ),
    (
        "mvRule: before another rule, or to the end",
        r#"addAction("a", DropAction()) addAction("a", RCodeAction(5)) addAction("a", TCAction()) mvRule(0, 3) mvRule(1, 0)"#,
        "q 1 a/A
         < 0001 QR TC a/A
         hits query 1 0 0",
    ),
    (
        "clearRules and setRules",
        r#"addAction(AllRule(), DropAction()) clearRules() addAction(AllRule(), DropAction())
           setRules{newRuleAction(QTypeRule("A"), PoolAction("two")), newRuleAction(AllRule(), TCAction(), {name="x"})}"#,
        "q 1 a/A
         > 2 * a/A
         q 1 a/TXT
         < 0001 QR TC a/TXT",
    ),
    (
        "a group is replaced as a whole, at its position",
        r#"addAction("a", RCodeAction(1), {group="g"}) addAction("b", PoolAction("two")) addAction("a", RCodeAction(2), {group="g"})
           setRuleGroup("g", {newRuleAction("a", RCodeAction(3)), newRuleAction("b", RCodeAction(4))})"#,
        "q 1 a/A
         < 0001 QR NXDOMAIN a/A
         q 1 b/A
         < 0001 QR NOTIMP b/A
         hits query 1 1 0",
    ),
    (
        "clearRuleGroup removes only rules of the group",
        r#"addAction("a", DropAction(), {group="g"}) addAction("a", TCAction(), {group="h"}) clearRuleGroup("g")"#,
        "q 1 a/A
         < 0001 QR TC a/A",
    ),
    (
        "a group of response rules",
        r#"addResponseAction("a", DropResponseAction(), {group="g"})
           setResponseRuleGroup("g", {newRuleAction("b", DropResponseAction())})"#,
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         < 0001 QR a/A
         q 1 b/A
         > 1 * b/A
         a * QR b/A
         ! response-rule",
    ),
    (
        "self-answered rules: self-generated answers only",
        r#"addAction("own", SpoofAction("192.0.2.1")) addAction("dropped", RCodeAction(5))
           addSelfAnsweredResponseAction("dropped", DropResponseAction()) addSelfAnsweredResponseAction(AllRule(), SetMaxTTLResponseAction(7))"#,
        "q 1 own/A
         < 0001 QR own/A A=192.0.2.1,7
         q 1 dropped/A
         ! response-rule
         q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1,60
         < 0001 QR a/A A=192.0.2.1,60
         hits self-answered 1 1",
    ),
    (
        "response rules: answers of servers only",
        r#"addAction("own", SpoofAction("192.0.2.1")) addResponseAction(AllRule(), DropResponseAction())"#,
        "q 1 own/A
         < 0001 QR own/A A=192.0.2.1
         q 1 a/A
         > 1 * a/A
         a * QR a/A
         ! response-rule",
    ),
    (
        "self-answered rules: tags of the query, delay, Extended DNS Error",
        r#"addAction("own", SetTagAction("t", "1")) addAction("own", RCodeAction(5)) addAction("other", RCodeAction(5))
           addSelfAnsweredResponseAction(TagRule("t"), DelayResponseAction(10))"#,
        "q 1 own/A
         hold
         q 1 other/A
         < 0001 QR REFUSED other/A
         wait 10
         < 0001 QR REFUSED own/A",
    ),
    (
        "timeout rules: retried in another pool",
        r#"addTimeoutResponseAction("a", RestartResponseAction("two"))"#,
        "q 1234 RD a/A OPT=512
         > 1 * RD a/A OPT=512
         wait 2010
         > 2 * RD a/A OPT=512
         a2 * QR RD a/A A=192.0.2.1
         < 1234 QR RD a/A A=192.0.2.1
         q 1 b/A
         > 1 * b/A
         wait 2010
         ! timeout
         hits timeout 1",
    ),
    (
        "timeout rules: the second timeout is the last",
        r#"addTimeoutResponseAction(AllRule(), RestartResponseAction("two"))"#,
        "q 1234 a/A
         > 1 * a/A
         wait 2010
         > 2 * a/A
         a1 * QR a/A
         ! response-late
         wait 2010
         ! timeout
         hits timeout 2",
    ),
    (
        "timeout rules: into a pool without a server",
        r#"setServFailWhenNoServer(true) addTimeoutResponseAction("a", RestartResponseAction("none"))
           addTimeoutResponseAction("b", DropResponseAction())"#,
        "q 1234 RD a/A
         > 1 * RD a/A
         wait 2010
         < 1234 QR RD SERVFAIL a/A
         q 1234 RD b/A
         > 1 * RD b/A
         wait 2010
         ! timeout",
    ),
];

#[test]
fn chains() {
    play_all(ROWS);
}

/// Without a cache there is nothing that its chains would see.
#[test]
fn cache_chains_never_run_without_a_cache() {
    let mut bench = Bench::new(&format!(
        "{SERVERS} addCacheMissAction(AllRule(), DropAction()) addCacheHitResponseAction(AllRule(), DropResponseAction())
         addCacheInsertedResponseAction(AllRule(), DropResponseAction())"
    ));
    let chains = &bench.snapshot.chains;
    assert_eq!(
        (
            chains.cache_miss.rules().len(),
            chains.cache_hit.rules().len(),
            chains.cache_inserted.rules().len()
        ),
        (1, 1, 1)
    );
    bench.play("no cache", "q 1 a/A\n > 1 * a/A\n a * QR a/A\n < 0001 QR a/A");
}

/// With a retry, the stored query has the id of the retry.
#[test]
fn a_restart_after_a_second_try_answers_under_the_clients_id() {
    let config = r#"newServer("127.0.1.1") newServer("127.0.1.2") setRetry{after=100, budget=100} setServFailWhenNoServer(true)
        addResponseAction(RCodeRule(5), RestartResponseAction("none"))"#;
    let mut bench = Bench::new(config);
    let out = bench.query(
        crate::support::config::client("127.0.0.1:4000"),
        &crate::support::message::message("1234 RD a/A"),
    );
    assert_eq!(out.len(), 1, "{out:?}");
    let again = bench.tick(101);
    let [crate::bench::Out::Forward(route, query)] = &again[..] else { panic!("{again:?}") };
    let mut answer = query.clone();
    answer[2] |= 0x80;
    answer[3] |= 5;
    let out = bench.response(*route, &answer);
    let [crate::bench::Out::ToClient(_, bytes)] = &out[..] else { panic!("{out:?}") };
    crate::support::message::same(bytes, "1234 QR RD SERVFAIL a/A").unwrap();
}

/// What needs the query again works with queries of any length that is accepted.
#[test]
fn long_queries_are_kept_for_further_attempts() {
    for bytes in [460, 600, 3_900] {
        let opt = format!("OPT=4096,12:{}", "00".repeat(bytes));
        let play = |config: &str, transcript: &str| {
            let mut bench = Bench::new(&format!("{SERVERS}{config}"));
            bench.play(&format!("{bytes} bytes: {config}"), &transcript.replace("OPT", &opt));
        };
        play(
            "addResponseAction(AllRule(), RestartResponseAction('two', 1))",
            "q 1 a/A OPT\n > 1 * a/A OPT\n a * QR a/A A=192.0.2.1\n > 2 * a/A OPT\n a * QR a/A\n < 0001 QR a/A",
        );
        play(
            "addTimeoutResponseAction(AllRule(), RestartResponseAction('two', 1))",
            "q 1 a/A OPT\n > 1 * a/A OPT\n wait 2010\n > 2 * a/A OPT\n a * QR a/A\n < 0001 QR a/A",
        );
        play(
            "fixupCase(true)",
            "q 1 wWw.eXample/A OPT\n > 1 * wWw.eXample/A OPT\n a * QR www.example/A\n < 0001 QR wWw.eXample/A",
        );
        play(
            "newServer{address='127.0.1.9', order=9} setServerPolicy(firstAvailable) setRetry{after=100, budget=10}",
            "q 1 a/A OPT\n > 1 * a/A OPT\n wait 101\n > 9 * a/A OPT\n a * QR a/A\n < 0001 QR a/A",
        );
    }
}

/// Flags and tags of a query do not leak into another query in the same memory.
#[test]
fn a_query_that_is_only_kept_is_stored_separately() {
    for config in [
        "setRetry{after=100, budget=10}",
        "fixupCase(true)",
        "addTimeoutResponseAction(AllRule(), RestartResponseAction('two'))",
    ] {
        let mut bench = Bench::new(&format!("{SERVERS}{config}"));
        for bits in ["RD", "CD", "", "RD CD"] {
            bench.play(
                config,
                &format!(
                    "q 1 {bits} a/A\n > 1 * {bits} a/A\n a * QR RA {bits} a/A\n < 0001 QR RA {bits} a/A"
                ),
            );
        }
    }
}

#[test]
fn only_self_answered_rules_see_the_servfail_of_a_pool_without_a_server() {
    Bench::new("setServFailWhenNoServer(true) addSelfAnsweredResponseAction('a', DropResponseAction())")
        .play(
            "no server",
            "q 1 a/A\n ! response-rule\n q 1 b/A\n < 0001 QR SERVFAIL b/A\n q 1\n < 0001 QR NOTIMP",
        );
}

/// The first attempt, which is finished, must not be used in place of the restarted one.
#[test]
fn a_restart_after_a_second_try_that_times_out_is_counted() {
    let config = r#"newServer("127.0.1.1") newServer("127.0.1.2") newServer{address="127.0.1.3", pool="three"}
        setRetry{after=100, budget=100} addResponseAction(RCodeRule(2), RestartResponseAction("three"))"#;
    let mut bench = Bench::new(config);
    let mut asked = bench.query(
        crate::support::config::client("127.0.0.1:4000"),
        &crate::support::message::message("1234 a/A"),
    );
    asked.extend(bench.tick(110));
    let [_, crate::bench::Out::Forward(second, query)] = &asked[..] else { panic!("{asked:?}") };
    let mut answer = query.clone();
    answer[2] |= 0x80;
    answer[3] |= 2;
    let again = bench.response(*second, &answer);
    assert!(
        matches!(&again[..], [crate::bench::Out::Forward(route, _)] if bench.number(*route) == 3),
        "{again:?}"
    );
    bench.play("no server answers", "wait 1000\n wait 2000\n ! timeout");
    assert_eq!(bench.shard.outstanding(), 0);
}
