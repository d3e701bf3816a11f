//! Tests rate limits: what they allow over time, and what they keep at a reload.

use crate::bench::{Bench, Row, SERVERS, play_all};

const ROWS: &[Row] = &[
    (
        "MaxQPSRule: matches up to the rate",
        r#"addAction(MaxQPSRule(2), PoolAction("two"))"#,
        "q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 1 * a/A
         hits query 2
         wait 500
         q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 1 * a/A",
    ),
    (
        "MaxQPSRule: a configured burst",
        r#"addAction(MaxQPSRule(1, 3), PoolAction("two"))"#,
        "q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 1 * a/A
         wait 1000
         q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 1 * a/A",
    ),
    (
        "MaxQPSRule counts only the queries that reach it",
        r#"addAction(AndRule{QNameRule("a"), MaxQPSRule(1)}, PoolAction("two"))"#,
        "q 1 b/A
         > 1 * b/A
         q 1 b/A
         > 1 * b/A
         q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 1 * a/A",
    ),
    (
        "the recipe: queries above the rate are dropped",
        r#"addAction(NotRule(MaxQPSRule(1)), DropAction())"#,
        "q 1 a/A
         > 1 * a/A
         q 1 a/A
         ! rule",
    ),
    (
        "MaxQPSIPRule: matches a client above its rate, and no other",
        r#"addAction(MaxQPSIPRule(2), DropAction())"#,
        "q 1 a/A
         > 1 * a/A
         q 1 a/A
         > 1 * a/A
         q 1 a/A
         ! rule
         from 127.0.0.1:9
         q 1 a/A
         ! rule
         from 127.0.0.2:9
         q 1 a/A
         > 1 * a/A
         from 127.0.0.1:9
         wait 500
         q 1 a/A
         > 1 * a/A
         q 1 a/A
         ! rule",
    ),
    (
        "MaxQPSIPRule: a prefix counts as one client; a configured burst",
        r#"setACL("0.0.0.0/0") addACL("::/0") addAction(MaxQPSIPRule(1, 24, 48, 2), DropAction())"#,
        "from 192.0.2.1:1
         q 1 a/A
         > 1 * a/A
         from 192.0.2.2:1
         q 1 a/A
         > 1 * a/A
         from 192.0.2.3:1
         q 1 a/A
         ! rule
         from 192.0.3.3:1
         q 1 a/A
         > 1 * a/A
         from [2001:db8:1:2::3]:1
         q 1 a/A
         > 1 * a/A
         from [2001:db8:1:3::3]:1
         q 1 a/A
         > 1 * a/A
         from [2001:db8:1:4::3]:1
         q 1 a/A
         ! rule
         from [2001:db8:2::3]:1
         q 1 a/A
         > 1 * a/A",
    ),
    (
        "QPSAction: drops queries above the rate, else continues",
        r#"addAction("a", QPSAction(1)) addAction(AllRule(), PoolAction("two"))"#,
        "q 1 a/A
         > 2 * a/A
         q 1 a/A
         ! rule
         q 1 b/A
         > 2 * b/A
         wait 1000
         q 1 a/A
         > 2 * a/A
         hits query 3 3",
    ),
    (
        "QPSPoolAction: to the pool within the rate, else continues",
        r#"addAction(AllRule(), QPSPoolAction(1, "two")) addAction("b", DropAction())"#,
        "q 1 b/A
         > 2 * b/A
         q 1 b/A
         ! rule
         q 1 a/A
         > 1 * a/A
         wait 1000
         q 1 b/A
         > 2 * b/A",
    ),
    (
        "QPSPoolAction that does not end the chain",
        r#"addAction(AllRule(), QPSPoolAction(1, "two", false)) addAction("b", DropAction())"#,
        "q 1 b/A
         ! rule
         wait 1000
         q 1 a/A
         > 2 * a/A
         q 1 a/A
         > 1 * a/A",
    ),
];

#[test]
fn rates() {
    play_all(ROWS);
}

#[test]
fn a_reload_keeps_counters_and_limiters_of_rules() {
    let rules = r#"addAction(QNameRule("x"), DropAction()) addAction(MaxQPSIPRule(1), DropAction())
        addAction(NotRule(MaxQPSRule(3)), RCodeAction(DNSRCode.REFUSED))"#;
    let mut bench = Bench::new(&format!("{SERVERS}{rules}"));
    bench.play("before", "q 1 x/A\n ! rule\n q 1 a/A\n > 1 * a/A\n q 1 a/A\n ! rule\n hits query 1 1 0");
    // The same rules after a new one: counters belong to rules, not to positions.
    bench.reload(&format!("{SERVERS} addAction(\"y\", DropAction()) {rules}"));
    bench.play(
        "after",
        "hits query 0 1 1 0
         q 1 a/A
         ! rule
         from 127.0.0.2:1
         q 1 a/A
         > 1 * a/A
         from 127.0.0.3:1
         q 1 a/A
         > 1 * a/A
         from 127.0.0.4:1
         q 1 a/A
         < 0001 QR REFUSED a/A
         hits query 0 1 2 1",
    );
}

#[test]
fn a_rule_added_again_starts_at_zero() {
    let mut bench = Bench::new(&format!("{SERVERS} addAction('x', DropAction())"));
    bench.play("before", "q 1 x/A\n ! rule\n hits query 1");
    bench.reload(&format!("{SERVERS} addAction('y', DropAction())"));
    bench.play("another rule", "q 1 x/A\n > 1 * x/A\n hits query 0");
    bench.reload(&format!("{SERVERS} addAction('x', DropAction())"));
    bench.play("the first again", "hits query 0\n q 1 x/A\n ! rule\n hits query 1");
}
