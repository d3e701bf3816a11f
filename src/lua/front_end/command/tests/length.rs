//! How many commands there may be since the file was read.

use super::*;
use crate::model::HealthMode;

const KB: usize = 1 << 10;

/// A command with a comment of so many kilobytes.
fn padded(command: &str, kilobytes: usize) -> String {
    format!("{command} -- {}", "x".repeat(kilobytes * KB))
}

fn marked(console: &Console, text: &str, key: &str, act: Act) -> Result<(), String> {
    let mark = Mark { key: key.to_owned(), act, also: Vec::new() };
    let ran = console.run_marked(text, Some(mark));
    console.lua.settle(true);
    ran.reply.map(|_| ())
}

#[test]
fn a_full_list_takes_what_takes_away_and_nothing_more() {
    let console = Console::new("");
    for n in 0..2 {
        console.change(&padded(&format!("addAction('{n}.test', DropAction())"), 500));
    }
    let more = padded("addAction('x.test', DropAction())", 30);
    for _ in 0..2 {
        let error = console.error(&more);
        assert!(error.contains("exceed 1048576 bytes") && error.contains("delta()"), "{error}");
    }
    assert!(console.error(&padded("f = function() end", 30)).contains("exceed"), "nor globals");
    let draft = console.change(&padded("getServer('one'):setDown()", 30));
    assert_eq!(draft.servers[0].health.mode, HealthMode::Down);
    assert_eq!(console.change(&padded("rmRule(0)", 30)).rules.chain(ChainKey::Query).len(), 1);
    console.change(&padded("setVerbose(true)", 30));
    // The API has a limit of its own.
    marked(&console, &more, "rule query a", Act::Create).expect("room");
}

#[test]
fn what_is_long_and_only_sets_is_forgotten_some_time() {
    let console = Console::new("");
    console.change("addAction('x.test', DropAction())");
    for n in 0..5 {
        console.change(&padded(&format!("getServer('one'):setWeight({})", n + 2), 500));
    }
    let ran = console.run_within("delta()", None, 10 << 20);
    let delta = String::from_utf8(ran.reply.expect("no error")).expect("UTF-8");
    assert!(delta.starts_with("-- 2 earlier changes are in force"), "{}", &delta[..200]);
    assert!(!delta.contains("x.test") && !delta.contains("setWeight(2)"));
    assert!(delta.contains("setWeight(3)") && delta.contains("setWeight(6)"));
    assert_eq!(console.change("getServer('one'):setOrder(5)").servers[0].weight, 6);
}

#[test]
fn changes_by_the_api_are_long_only_by_what_still_matters() {
    let console = Console::new("");
    for n in 0..30 {
        let acl = padded(&format!("setACL({{'192.0.2.{n}', '127.0.0.0/8'}})"), 1_000);
        marked(&console, &acl, "acl", Act::Set).expect("it takes the place of the last one");
    }
    let add = |n: usize| {
        let text = padded(&format!("addAction('{n}.test', DropAction())"), 1_000);
        marked(&console, &text, &format!("rule query {n}"), Act::Create)
    };
    (0..7).for_each(|n| add(n).expect("room"));
    let error = add(7).expect_err("no room");
    assert!(error.contains("exceed 8388608 bytes") && error.contains("reload"), "{error}");
    assert!(!error.contains("delta()"), "they are in the directory already: {error}");
    marked(&console, &padded("rmRule(0)", 100), "rule query 0", Act::Remove).expect("it makes room");
    add(7).expect("room again");
    // At the console there is room all the time.
    console.change("addAction('console.test', DropAction())");
}
