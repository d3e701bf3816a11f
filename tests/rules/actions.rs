//! Tests actions that forward a query: its destination, and what is sent with it.

use crate::bench::{Bench, Row, SERVERS, play_all};

const ROWS: &[Row] = &[
    (
        "AllowAction: forwards to the chosen pool, without further rules",
        r#"addAction("a", AllowAction()) addAction("b", PoolAction("two", false)) addAction("b", AllowAction())
           addAction(AllRule(), DropAction())"#,
        "q 1 a/A
         > 1 * a/A
         q 1 b/A
         > 2 * b/A
         q 1 c/A
         ! rule
         hits query 1 1 1 1",
    ),
    ("DropAction", r#"addAction(AllRule(), DropAction())"#, "q 1 a/A OPT=1232\n ! rule"),
    (
        "PoolAction: ends the chain by default",
        r#"addAction("a", PoolAction("two")) addAction("b", PoolAction("two", true))
           addAction("c", PoolAction("two", false)) addAction(AllRule(), DropAction())"#,
        "q 1 a/A
         > 2 * a/A
         q 1 b/A
         > 2 * b/A
         q 1 c/A
         ! rule
         hits query 1 1 1 1",
    ),
    (
        "PoolAction: the last pool counts",
        r#"addAction("a", PoolAction("two", false)) addAction("a", PoolAction(""))"#,
        "q 1 a/A
         > 1 * a/A",
    ),
    (
        "NoneAction: continues with the next rule",
        r#"addAction(AllRule(), NoneAction()) addAction(AllRule(), PoolAction("two"))"#,
        "q 1 a/A
         > 2 * a/A
         hits query 1 1",
    ),
    (
        "ContinueAction: runs another action and continues",
        r#"addAction(AllRule(), ContinueAction(PoolAction("two"))) addAction("b", DropAction())
           addAction("c", PoolAction(""))"#,
        "q 1 a/A
         > 2 * a/A
         q 1 b/A
         ! rule
         q 1 c/A
         > 1 * c/A",
    ),
    (
        "ContinueAction: the inner action does not end the chain",
        r#"addAction("a", ContinueAction(DropAction())) addAction("b", ContinueAction(AllowAction()))
           addAction("b", DropAction())"#,
        "q 1 a/A
         > 1 * a/A
         q 1 b/A
         ! rule",
    ),
    (
        "DelayAction: the answer of a server is delayed",
        "addAction(AllRule(), DelayAction(100))",
        "q 1234 RD a/A
         > 1 * RD a/A
         wait 50
         a * QR RD RA a/A A=192.0.2.1
         hold
         wait 99
         wait 1
         < 1234 QR RD RA a/A A=192.0.2.1
         wait 5000",
    ),
    (
        "DelayAction: a self-generated answer is delayed, too",
        r#"addAction(AllRule(), DelayAction(20)) addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))"#,
        "q 1234 RD a/A
         hold
         wait 19
         wait 1
         < 1234 QR RD RA REFUSED a/A",
    ),
    (
        "DelayAction: each answer has its own delay",
        r#"addAction("a", DelayAction(20)) addAction("b", DelayAction(10)) addAction(AllRule(), TCAction())"#,
        "q 1 a/A
         hold
         q 2 b/A
         hold
         q 3 c/A
         < 0003 QR TC c/A
         wait 100
         < 0002 QR TC b/A
         < 0001 QR TC a/A",
    ),
    (
        "SetTagAction and UnsetTagAction: visible to query and response rules",
        r#"addAction("a", SetTagAction("t", "x")) addAction("u.a", UnsetTagAction("t"))
           addAction(TagRule("t", "x"), PoolAction("two")) addResponseAction(TagRule("t"), DropResponseAction())"#,
        "q 1 a/A
         > 2 * a/A
         a * QR a/A
         ! response-rule
         q 1 u.a/A
         > 1 * u.a/A
         a * QR u.a/A
         < 0001 QR u.a/A",
    ),
    (
        "SetTagAction: the later value counts; numbers are texts",
        r#"addAction(AllRule(), SetTagAction("t", 1)) addAction(AllRule(), SetTagAction("t", "2"))
           addAction(TagRule("t", "1"), DropAction()) addAction(TagRule("t", 2), PoolAction("two"))"#,
        "q 1 a/A
         > 2 * a/A",
    ),
    (
        "SetNoRecurseAction: RD=0 at the server, restored for the client",
        "addAction(AllRule(), SetNoRecurseAction())",
        "q 1234 RD a/A
         > 1 * a/A
         a * QR RA a/A A=192.0.2.1
         < 1234 QR RD RA a/A A=192.0.2.1
         q 1234 a/A
         > 1 * a/A
         a * QR a/A
         < 1234 QR a/A",
    ),
    (
        "SetDisableValidationAction: CD=1 at the server, restored for the client",
        "addAction(AllRule(), SetDisableValidationAction())",
        "q 1234 RD a/A
         > 1 * RD CD a/A
         a * QR RD RA CD a/A A=192.0.2.1
         < 1234 QR RD RA a/A A=192.0.2.1
         q 1234 RD CD a/A
         > 1 * RD CD a/A
         a * QR RD RA CD a/A
         < 1234 QR RD RA CD a/A",
    ),
    (
        "later rules see the changes of an action",
        r#"addAction(AllRule(), SetNoRecurseAction()) addAction(RDRule(), DropAction())"#,
        "q 1234 RD a/A
         > 1 * a/A",
    ),
    (
        "SetMaxReturnedTTLAction: TTLs of the answer are at most this",
        "addAction(AllRule(), SetMaxReturnedTTLAction(30))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A CNAME=b,3600 RR=1,b,A,20,c0000201 RR=2,a,NS,86400,00 OPT=1232
         < 0001 QR a/A CNAME=b,30 RR=1,b,A,20,c0000201 RR=2,a,NS,30,00 OPT=1232",
    ),
    (
        "SetMaxReturnedTTLAction: applies to self-generated answers, too",
        r#"addAction(AllRule(), SetMaxReturnedTTLAction(30)) addAction(AllRule(), SpoofAction("192.0.2.1"))"#,
        "q 1 a/A
         < 0001 QR a/A A=192.0.2.1,30",
    ),
    (
        "SetSkipCacheAction and SetTempFailureCacheTTLAction: continue with the next rule",
        r#"addAction(AllRule(), SetSkipCacheAction()) addAction(AllRule(), SetTempFailureCacheTTLAction(9))
           addAction(AllRule(), PoolAction("two"))"#,
        "q 1 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR SERVFAIL a/A OPT=1232
         < 0001 QR SERVFAIL a/A OPT=1232
         hits query 1 1 1",
    ),
    (
        "TeeAction: a copy is sent, and its answer is dropped",
        r#"addAction("a", TeeAction("127.0.1.9:53")) addAction(AllRule(), PoolAction("two"))"#,
        "q 1234 RD a/A OPT=1232 TAIL=0102
         > 2 * RD a/A OPT=1232 TAIL=0102
         wait 0
         > 9 * RD a/A OPT=1232,65353:6d61726b6d61726b TAIL=0102
         a9 * QR RD a/A A=192.0.2.66
         ! tee-response
         a2 * QR RD a/A A=192.0.2.1
         < 1234 QR RD a/A A=192.0.2.1
         a9 * QR RD a/A
         ! response-duplicate
         q 1 b/A
         > 2 * b/A
         wait 0
         a2 * QR b/A
         < 0001 QR b/A
         wait 5000",
    ),
    (
        "ShadowAction: another pool gets the query too, and the client nothing of that",
        r#"addAction("a", ShadowAction("two"))"#,
        "q 1234 RD a/A OPT=1232
         > 1 * RD a/A OPT=1232
         wait 0
         > 2 * RD a/A OPT=1232,65353:6d61726b6d61726b
         a2 * QR RD SERVFAIL a/A
         hold
         a1 * QR RD a/A A=192.0.2.1
         < 1234 QR RD a/A A=192.0.2.1
         q 2 b/A
         > 1 * b/A
         wait 0
         a1 * QR b/A
         < 0002 QR b/A
         wait 5000",
    ),
    (
        "ShadowAction: a silent server affects no query; a late response is counted",
        r#"addAction(AllRule(), ShadowAction("two")) addAction("b", DropAction())"#,
        "q 1 a/A
         > 1 * a/A
         wait 0
         > 2 * a/A OPT=512,65353:6d61726b6d61726b
         a1 * QR a/A
         < 0001 QR a/A
         wait 2000
         wait 2000
         a2 * QR a/A
         ! response-late
         q 2 b/A
         ! rule
         wait 0",
    ),
    (
        "ShadowAction: no copy of our own, no signed query and no transfer goes to a shadow pool",
        r#"addAction(AllRule(), ShadowAction("two"))"#,
        "q 1 a/A OPT=1232,65353:6d61726b6d61726b
         > 1 * a/A OPT=1232,65353:6d61726b6d61726b
         ! tee-loop
         q 2 b/A RR=3,k,250,0,00
         > 1 * b/A RR=3,k,250,0,00
         ! shadow-not-sent
         q 3 c/252
         > 1 * c/252
         wait 0",
    ),
    (
        "ShadowAction: a cookie of the client's server is not shown to another one",
        r#"addAction(AllRule(), ShadowAction("two"))"#,
        "q 1 a/A OPT=1232,10:01020304050607081112131415161718
         > 1 * a/A OPT=1232,10:01020304050607081112131415161718
         wait 0
         > 2 * a/A OPT=1232,65353:6d61726b6d61726b
         q 2 b/A OPT=1232,10:0102030405060708
         > 1 * b/A OPT=1232,10:0102030405060708
         wait 0
         > 2 * b/A OPT=1232,10:0102030405060708,65353:6d61726b6d61726b",
    ),
    (
        "ShadowAction: a pool without a server",
        r#"addAction(AllRule(), ShadowAction("none"))"#,
        "q 1 a/A
         > 1 * a/A
         ! shadow-not-sent
         wait 0
         a1 * QR a/A
         < 0001 QR a/A",
    ),
    (
        "TeeAction: a silent server affects no query",
        r#"addAction(AllRule(), TeeAction("127.0.1.9:53")) addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))"#,
        "q 1 a/A
         < 0001 QR REFUSED a/A
         wait 0
         > 9 * a/A OPT=1232,65353:6d61726b6d61726b
         wait 2000
         wait 2000
         a9 * QR a/A
         ! response-late",
    ),
    (
        "TeeAction: with the client subnet",
        r#"addAction(AllRule(), TeeAction("127.0.1.9", true))"#,
        "q 1 a/A
         > 1 * a/A
         wait 0
         > 9 * a/A OPT=1232,8:000118007f0000,65353:6d61726b6d61726b
         q 1 b/A OPT=4096,DO
         > 1 * b/A OPT=4096,DO
         wait 0
         > 9 * b/A OPT=4096,DO,8:000118007f0000,65353:6d61726b6d61726b",
    ),
    (
        "TeeAction: a subnet in the query is kept, unless it is to be replaced",
        r#"addAction("b", SetECSOverrideAction(true)) addAction(AllRule(), TeeAction("127.0.1.9", true))"#,
        "q 1 a/A OPT=4096,8:00011800cb0071
         > 1 * a/A OPT=4096,8:00011800cb0071
         wait 0
         > 9 * a/A OPT=4096,8:00011800cb0071,65353:6d61726b6d61726b
         q 1 b/A OPT=4096,8:00011800cb0071
         > 1 * b/A OPT=4096,8:00011800cb0071
         wait 0
         > 9 * b/A OPT=4096,8:000118007f0000,65353:6d61726b6d61726b",
    ),
    (
        "TeeAction: the copy has the changes of earlier rules",
        r#"addAction(AllRule(), SetNoRecurseAction()) addAction(AllRule(), TeeAction("127.0.1.9"))
           addAction(AllRule(), SetDisableValidationAction())"#,
        "q 1 RD a/A
         > 1 * CD a/A
         wait 0
         > 9 * a/A OPT=1232,65353:6d61726b6d61726b",
    ),
    (
        "TeeAction: a copy of our own is not copied again; one of others is, with our mark behind theirs",
        r#"addAction(AllRule(), TeeAction("127.0.1.9"))"#,
        "q 1234 a/A OPT=1232,65353:6d61726b6d61726b
         > 1 * a/A OPT=1232,65353:6d61726b6d61726b
         ! tee-loop
         wait 0
         q 1234 b/A OPT=1232,65353:0102030405060708
         > 1 * b/A OPT=1232,65353:0102030405060708
         wait 0
         > 9 * b/A OPT=1232,65353:01020304050607086d61726b6d61726b
         q 1234 b/A OPT=1232,65353:01020304050607086d61726b6d61726b
         > 1 * b/A OPT=1232,65353:01020304050607086d61726b6d61726b
         ! tee-loop
         q 1234 b/A OPT=1232,65353:0102
         > 1 * b/A OPT=1232,65353:0102
         wait 0
         > 9 * b/A OPT=1232,65353:6d61726b6d61726b",
    ),
    (
        "a packet cache answers a copy as its query",
        "getPool(''):setCache(newPacketCache(10))",
        "q 1 a/A OPT=1232
         > 1 * a/A OPT=1232
         a * QR a/A A=192.0.2.1,60 OPT=1232
         < 0001 QR a/A A=192.0.2.1,60 OPT=1232
         q 1 a/A OPT=1232,65353:0102030405060708
         < 0001 QR a/A A=192.0.2.1,60 OPT=1232",
    ),
    (
        "TeeAction: a signed query is copied unchanged, once",
        r#"addAction(AllRule(), TeeAction("127.0.1.9", true))"#,
        "q 1234 a/A RR=3,k,250,0,6d6163
         > 1 * a/A RR=3,k,250,0,6d6163
         wait 0
         > 9 * a/A RR=3,k,250,0,6d6163
         q 4321 a/A RR=3,k,250,0,6d6163
         > 1 * a/A RR=3,k,250,0,6d6163
         ! tee-loop",
    ),
];

#[test]
fn actions() {
    play_all(ROWS);
}

/// Returns all rows of the tables in this file as one text.
fn tables() -> String {
    [
        include_str!("actions.rs"),
        include_str!("answers.rs"),
        include_str!("edns.rs"),
        include_str!("responses.rs"),
        include_str!("limits.rs"),
        include_str!("chains.rs"),
        include_str!("proxy.rs"),
    ]
    .join("\n")
}

#[test]
fn every_action_is_tested() {
    use dnslob::lua::front_end::{answers, query_actions, response_actions};
    let tables = tables();
    let names = query_actions()
        .chain(answers())
        .chain(response_actions())
        .map(|e| e.name)
        .filter(|n| !n.starts_with("Lua"));
    let forgotten: Vec<_> = names.filter(|name| !tables.contains(&format!("{name}("))).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[test]
fn a_tee_has_its_own_id_and_counters() {
    let mut bench = Bench::new(&format!("{SERVERS} addAction(AllRule(), TeeAction('127.0.1.9'))"));
    bench.play("out", "q 1234 a/A\n > 1 * a/A\n wait 0\n > 9 * a/A OPT=1232,65353:6d61726b6d61726b");
    assert_eq!(
        (bench.shard.outstanding(), bench.shard.totals()[0]),
        (1, 2),
        "one client waits, two were asked"
    );
    bench.play("back", "a9 * QR SERVFAIL a/A\n ! tee-response");
    assert_eq!(bench.stats().responses.get(), 0);
    assert_eq!(bench.reading().latency().count(), 0, "nobody has waited for it");
    bench.play("back", "a1 * QR a/A\n < 1234 QR a/A");
    assert_eq!((bench.shard.outstanding(), bench.stats().responses.get()), (0, 1));
    let reading = bench.reading();
    assert_eq!(reading.latency().count(), 1);
    let servers = reading.backends.values().filter(|b| b.queries > 0);
    let asked: Vec<_> = servers.map(|b| (b.queries, b.shared(), b.latency.count())).collect();
    assert_eq!(asked, [(1, 1, 1), (1, 0, 1)]);
}

#[test]
fn delayed_packets_are_outstanding_and_sent_at_shutdown() {
    let mut bench = Bench::new(&format!("{SERVERS} addAction(AllRule(), DelayAction(60000))"));
    bench.play("held", "q 1 a/A\n > 1 * a/A\n a * QR a/A\n hold");
    assert_eq!(bench.shard.outstanding(), 1, "a drain waits for it");
    assert_eq!(bench.shard.next_deadline(), Some(bench.now + dnslob::base::time::TickDelta::from_ms(60_000)));
    bench.play("out", "wait 60000\n < 0001 QR a/A");
    assert_eq!((bench.shard.outstanding(), bench.shard.next_deadline()), (0, None));
}

/// A packet beyond the limit is dropped, and does not count as answered, too.
#[test]
fn delayed_packets_beyond_the_limit_are_dropped_and_counted_once() {
    let config =
        "addAction('own', DelayAction(10)) addAction('own', TCAction()) addAction('server', DelayAction(10))";
    let mut bench = Bench::new(&format!("{SERVERS} {config}"));
    for _ in 0..8_192 {
        bench.play("one of many", "q 1 own/A\n hold");
    }
    bench.play(
        "one too many",
        "q 1 own/A\n ! delay-full\n q 1 server/A\n > 1 * server/A\n a * QR server/A\n ! delay-full",
    );
    let stats = bench.stats();
    assert_eq!((stats.queries.get(), stats.self_answered.get(), stats.responses.get()), (8_194, 0, 0));
    assert_eq!(bench.shard.outstanding(), 8_192, "and counted as answers when they leave");
}

#[test]
fn a_log_action_logs_queries_and_answers() {
    let config = "addAction('a', LogAction('/nowhere/queries.log', false, true, false)) \
        addAction(AllRule(), SetNoRecurseAction()) addResponseAction('a', LogResponseAction('', false, true, false, true))";
    let mut bench = Bench::new(&format!("{SERVERS} {config}"));
    bench.play("asked", "q 1234 RD x.a/TXT OPT=1232\n > 1 * x.a/TXT OPT=1232\n q 1 b/A\n > 1 * b/A");
    let lines: Vec<_> = bench.stats().log_queue.lines().collect();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((line.id, line.qtype, line.qclass, line.flags, line.size), (0x1234, 16, 1, [1, 0], 32));
    assert_eq!(line.qname.bytes(), b"\x01x\x01a\0");
    assert_eq!((line.client.port, line.latency, line.at), (4000, None, bench.now));
    let target = &line.target;
    assert_eq!(target.path, "/nowhere/queries.log");
    assert_eq!(
        (target.binary, target.append, target.buffered, target.verbose_only),
        (false, true, false, true)
    );
    bench.pass(7);
    bench.play("b answers", "a * QR b/A\n < 0001 QR b/A");
    assert_eq!(bench.stats().log_queue.lines().count(), 0, "another name");
    bench.play("a", "q 1234 RD x.a/TXT\n > 1 * x.a/TXT");
    bench.pass(7);
    bench.play("a answers", "a * QR RA x.a/TXT\n < 1234 QR RD RA x.a/TXT");
    let lines: Vec<_> = bench.stats().log_queue.lines().collect();
    let [_, line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((line.id, line.flags[0] & 0x80, line.size), (0x1234, 0x80, 21));
    assert_eq!(line.latency, Some(dnslob::base::time::TickDelta::from_ms(7)));
    assert_eq!(line.at, bench.now, "the answer's time");
    assert!(!line.target.verbose_only && line.target.timestamp);
}
