//! What `delta()` returns, which is read again.

use super::*;
use crate::model::HealthMode;

#[test]
fn delta_can_stand_in_the_file() {
    let console = Console::new("");
    console.reply("f = function(dq) return DNSAction.Drop end");
    console.change("addAction('f.test', LuaAction(f))");
    console.change("return addAction('g.test', DropAction())");
    console.change("newServer('192.0.2.2') return 'done'");
    let delta = console.reply("delta()");
    let (loaded, _) = good(&format!("{CONSOLE}{delta}"));
    assert_eq!(
        (loaded.draft.rules.chain(ChainKey::Query).len(), loaded.draft.servers.len()),
        (2, 2),
        "{delta}"
    );
}

#[test]
fn delta_is_read_as_the_commands_were() {
    let console = Console::new("");
    let commands = [
        "if getServer('one') then return addACL('192.0.2.13') end",
        "do return addACL('192.0.2.14') end",
        "do addACL('192.0.2.15') return end",
        "while true do addACL('192.0.2.16') return end",
        "local getServer = nil addACL('192.0.2.17')",
        "goto over ::over:: addACL('192.0.2.18')",
        "goto over ::over:: addACL('192.0.2.19')",
        "addACL(... or '192.0.2.20')",
        "if true then return addACL(... or '192.0.2.21') end",
        "addACL('192.0.2.22') -- return",
        "getServer('one'):setDown()",
    ];
    let mut draft = Draft::default();
    for command in commands {
        draft = console.change(command);
    }
    // More local variables than a function may have.
    for n in 0..210 {
        draft = console.change(&format!("local n = {n} addAction('n' .. n .. '.test', DropAction())"));
    }
    let whole = console.delta();
    let (loaded, _) = good(&format!("{CONSOLE}{whole}"));
    assert_eq!(loaded.draft.acl, draft.acl, "{whole}");
    assert_eq!(loaded.draft.rules.chain(ChainKey::Query).len(), 210);
    let modes = |draft: &Draft| draft.servers.iter().map(|s| s.health.mode).collect::<Vec<_>>();
    assert_eq!((modes(&loaded.draft), modes(&draft)), (vec![HealthMode::Down], vec![HealthMode::Down]));
    // What needs nothing around it stays as it was typed.
    assert!(
        whole.contains("\ngetServer('one'):setDown()\n")
            && whole.contains("\naddACL('192.0.2.22') -- return\n")
    );
    let function = "addAction('f.test', LuaAction(function(dq) return DNSAction.Drop end))";
    console.change(function);
    assert!(console.delta().ends_with(&format!("\n{function}\n")));
}

#[test]
fn delta_has_what_is_declared_and_can_be_read_whatever_it_begins_with() {
    let console = Console::new("");
    console.reply("declareMetric('of-the-console', 'counter', 'x')");
    console.reply("z = addACL");
    console.change("(addACL)('192.0.2.9')");
    console.change("-- a comment\n(addACL)('192.0.2.10')");
    let delta = console.reply("delta()");
    assert!(delta.contains("declareMetric"), "{delta}");
    let (loaded, _) = good(&format!("{CONSOLE}{delta}"));
    assert_eq!(loaded.draft.acl.len(), 2, "{delta}");
}
