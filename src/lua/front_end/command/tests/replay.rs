//! What the states of the shards run again of earlier commands.

use super::*;

const FUNCTION: &str = "addAction('f.test', LuaAction(function(dq) return DNSAction.Drop end))";

/// A file to which commands add a line each, removed with its test.
struct Trace(std::path::PathBuf);

impl Trace {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dnslob-replay-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn command(&self, rest: &str) -> String {
        format!("os.execute('echo >> {}') {rest}", self.0.display())
    }

    fn lines(&self) -> usize {
        std::fs::read_to_string(&self.0).map_or(0, |text| text.lines().count())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn what_no_function_needs_is_run_once() {
    let trace = Trace::new("once");
    let console = Console::new("");
    console.change(&trace.command("addACL('192.0.2.9')"));
    console.change(&trace.command("getServer(0):setDown()"));
    let script = console.change(FUNCTION).script.expect("a script");
    assert!(script.start(0).is_some());
    assert_eq!(trace.lines(), 2);
    // What functions may use is made in each state: a global, and a set, which has a number.
    let trace = Trace::new("again");
    let console = Console::new("");
    console.reply(&trace.command("limit = 5"));
    console.change(
        &trace
            .command("addAction(newSuffixMatchNode(), DropAction())")
            .replace("newSuffixMatchNode()", "SuffixMatchNodeRule(newSuffixMatchNode())"),
    );
    let script = console.change(FUNCTION).script.expect("a script");
    assert!(script.start(0).is_some());
    assert_eq!(trace.lines(), 2 * 3, "here, where the states are tried, and in one of them");
}

#[test]
fn what_took_long_is_not_run_again_while_queries_wait() {
    let console = Console::new("");
    let long = "os.execute('sleep 0.3')";
    console.change(&format!("{long} addACL('192.0.2.9')"));
    console.change(FUNCTION);
    let error = console.error(&format!("{long} {}", FUNCTION.replace("f.test", "g.test")));
    assert!(error.starts_with("the command took 0.") && error.contains("each shard"), "{error}");
    // A global that no function has needed yet.
    let console = Console::new("");
    console.reply(&format!("{long} limit = 5"));
    let error = console.error(FUNCTION);
    assert!(error.starts_with("the command of then took 0.") && error.contains("delta()"), "{error}");
    assert_eq!(console.reply("limit"), "5\n");
    console.change("addACL('192.0.2.9')");
}

#[test]
fn a_change_that_failed_is_told_from_a_mistake() {
    let console = Console::new("");
    for (command, is_refused) in [
        ("newServer('bad')", true),
        ("addAction('x', 5)", true),
        ("newServer('192.0.2.3') reload()", true),
        ("shwoServers()", false),
        ("error('x')", false),
        ("1 +", false),
        ("addACL('192.0.2.9')", false),
    ] {
        assert_eq!(console.run(command).is_refused, is_refused, "{command}");
    }
}
