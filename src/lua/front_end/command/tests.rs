use std::sync::Arc;

use super::*;
use crate::base::addr::{ListenerSlot, PoolSlot, mapped};
use crate::base::time::Tick;
use crate::cache::PacketCache;
use crate::config::draft::DraftServer;
use crate::config::ruleset::ChainKey;
use crate::config::tests::good;
use crate::lua::front_end::LuaHost;
use crate::lua::front_end::view::{RunningCache, ServerView, Table, View};
use crate::model::Callbacks;
use crate::rules::names::Names;
use crate::stats::drop_reason::DropReason;
use crate::stats::query_counts::Counted;
use crate::stats::top::{Filter, Found, FoundList, GrepRequest, TopList, TopRequest, TopRow};
use crate::stats::traffic_ring::{End, Finished, Record, ShortName};

mod caches;
mod delta;
mod families;
mod length;
mod metrics;
mod replay;

/// A process with one server and some hits.
#[derive(Debug, Default)]
struct Process {
    /// The cache of the default pool.
    cache: Option<Arc<PacketCache>>,
}

impl View for Process {
    fn table(&self, table: Table) -> String {
        format!("{table:?}\n")
    }

    fn counters(&self) -> Vec<(String, f64)> {
        vec![("queries".to_owned(), 3.0), ("drop-acl".to_owned(), 0.0)]
    }

    fn top(&self, request: TopRequest) -> Result<TopList, String> {
        if request.rows == 13 {
            return Err("nobody counts".to_owned());
        }
        let TopRequest { by, only, bytes, window_s, filter, rows } = request;
        let row = |label: String, count, error| TopRow { label, count, error };
        let asked = format!("{by:?} {only:?} {bytes} {window_s} {rows}");
        let rows = vec![row(asked, 60, 0), row(format!("{filter:?}"), 30, 2)];
        let window_s = window_s.into();
        Ok(TopList { rows, total: 100, unlisted_max: Some(5), window_s, share: 1.0, ..TopList::default() })
    }

    fn grep(&self, request: GrepRequest) -> Result<FoundList, String> {
        let finished = Finished {
            at: Tick(0),
            ip: mapped([192, 0, 2, 7].into()),
            port: 5_353,
            id: 4_711,
            by_connection: false,
            listener: ListenerSlot(0),
            backend: None,
            pool: PoolSlot(0),
            end: End::Response,
            qtype: 28,
            flags: [0x85, 0x83],
            latency_us: 175_640,
            answer_bytes: 99,
        };
        let record = Record { finished, qname: ShortName::new(b"\x03www\x07example\0") };
        let server = "192.0.2.1:53".to_owned();
        let shown = Found { record, ago_us: 11_900_000, protocol: "DoUDP", server, pool: String::new() };
        let timeout = Finished { end: End::Dropped(DropReason::Timeout), ..finished };
        let lost = Found { record: Record { finished: timeout, qname: ShortName::UNKNOWN }, ..shown.clone() };
        let found = if request.filter.is_empty() { vec![shown, lost] } else { vec![shown] };
        Ok(FoundList { found, share: 0.5, window_s: 60.0 })
    }

    fn servers(&self) -> HashMap<String, ServerView> {
        let view = ServerView { up: true, outstanding: 7, latency_ms: 1.5 };
        HashMap::from([("192.0.2.1:53".to_owned(), view)])
    }

    fn cache(&self, pool: &str) -> Option<RunningCache> {
        let cache = self.cache.clone().filter(|_| pool.is_empty())?;
        let figures =
            vec![("entries", cache.len() as u64), ("maxEntries", cache.capacity() as u64), ("hits", 7)];
        Some(RunningCache { cache, figures, now: Tick(10_000_000_000) })
    }

    fn query_counts(&self, rows: usize) -> Counted {
        let row = |(name, count): (&str, u64)| (name.to_owned(), count);
        let all = [("www.example.", 7), ("a\nb", 2)];
        Counted { rows: all.into_iter().take(rows).map(row).collect(), names: 3, queries: 12, unnamed: 2 }
    }

    fn clear_query_counts(&self) {}

    fn tls_sessions(&self) -> usize {
        13
    }

    fn rules(&self, _: ChainKey) -> Vec<([u8; 16], u64)> {
        vec![([1; 16], 5), ([2; 16], 50)]
    }
}

const CONSOLE: &str = "controlSocket('127.0.0.1:5199') newServer{address='192.0.2.1', name='one'}\n";

struct Console {
    lua: LuaHost,
    /// The functions that are told of something.
    callbacks: Callbacks,
    cache: Option<Arc<PacketCache>>,
    strict: bool,
}

impl Console {
    fn new(lua: &str) -> Self {
        let loaded = good(&format!("{CONSOLE}{lua}")).0;
        let callbacks = loaded.draft.callbacks.clone();
        Self { lua: loaded.lua, callbacks, cache: None, strict: false }
    }

    fn run(&self, text: &str) -> Evaluated {
        self.run_marked(text, None)
    }

    fn run_marked(&self, text: &str, mark: Option<Mark>) -> Evaluated {
        self.run_within(text, mark, 1_000)
    }

    fn run_within(&self, text: &str, mark: Option<Mark>, output_max: usize) -> Evaluated {
        let command = Command {
            text: text.to_owned(),
            at: "then".to_owned(),
            view: Arc::new(Process { cache: self.cache.clone() }),
            output_max,
            mark,
            strict: self.strict,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.lua.run(command)).expect("a result")
    }

    /// The reply to a command that works and changes nothing.
    fn reply(&self, text: &str) -> String {
        let ran = self.run(text);
        assert!(ran.draft.is_none(), "{text} changes nothing");
        String::from_utf8(ran.reply.expect("no error")).expect("UTF-8")
    }

    /// All of `delta()`, which may be longer than other replies.
    fn delta(&self) -> String {
        let ran = self.run_within("delta()", None, 1_000_000);
        String::from_utf8(ran.reply.expect("no error")).expect("UTF-8")
    }

    /// The reply to a command that works, whether or not it changes something.
    fn says(&self, text: &str) -> String {
        let ran = self.run(text);
        self.lua.settle(true);
        String::from_utf8(ran.reply.expect("no error")).expect("UTF-8")
    }

    /// The draft after a command that works and changes something.
    fn change(&self, text: &str) -> Draft {
        let ran = self.run(text);
        assert!(ran.reply.is_ok(), "{text}: {:?}", ran.reply);
        let draft = ran.draft.unwrap_or_else(|| panic!("{text} changes something"));
        self.lua.settle(true);
        *draft
    }

    fn error(&self, text: &str) -> String {
        let ran = self.run(text);
        assert!(ran.draft.is_none(), "{text}");
        ran.reply.expect_err("an error")
    }
}

#[test]
fn replies_are_what_was_printed_and_returned() {
    let console = Console::new("x = 5\n");
    for (command, reply) in [
        ("", ""),
        ("1 + 1", "2\n"),
        ("x", "5\n"),
        ("'a' .. x -- a comment", "a5\n"),
        ("\"line\\n\"", "line\n"),
        ("print('a', 'b')", "a\tb\n"),
        ("print('a') return 'b'", "a\nb\n"),
        ("io.write('no end')", "no end\ntrue\n"),
        ("nil", ""),
        ("true", "true\n"),
        ("{'a', 'b'}", "a\nb\n"),
        ("{b=1.5, a=true}", "{\"a\": true, \"b\": 1.5}\n"),
        ("getServer(0)", "one\n"),
        ("getServer(0):getOutstanding()", "7\n"),
        ("getServer(0).name", "one\n"),
        ("showServers()", "Servers\n"),
        ("getStatisticsCounters()['queries']", "3\n"),
        ("getPoolNames()", "\n"),
        ("#getPoolServers('')", "1\n"),
    ] {
        assert_eq!(console.reply(command), reply, "{command}");
    }
    let long = console.reply("for n = 1, 1000 do print(n) end");
    assert!(long.len() <= 1_000 && long.ends_with("(cut after 1000 bytes: setConsoleOutputMaxMsgSize)\n"));
}

#[test]
fn the_traffic_is_shown_in_columns() {
    let console = Console::new("");
    let all = Filter::default();
    for (command, asked) in [
        ("topClients()", "Client All false 60 10"),
        ("topClients(3, {window=900})", "Client All false 900 3"),
        ("topBandwidth(5)", "Client All true 60 5"),
        ("topQueries(20, 2)", "Name(2) All false 60 20"),
        ("topQueries(20, {window=1})", "Name(0) All false 1 20"),
        ("topQueries(20, nil, {window=1})", "Name(0) All false 1 20"),
        ("topResponses(10, 2)", "Name(0) Rcode(2) false 60 10"),
        ("topResponses(10, DNSRCode.NXDOMAIN, 2)", "Name(2) Rcode(3) false 60 10"),
        ("topResponses()", "Name(0) Rcode(0) false 60 10"),
        ("topSlow()", "Name(0) SlowerThan(2000) false 60 10"),
        ("topSlow(10, 100, 1)", "Name(1) SlowerThan(100) false 60 10"),
        ("topTimeouts(10)", "Name(0) Timeouts false 60 10"),
        ("top('servfail-clients', 4, {window=5})", "Client Rcode(2) false 5 4"),
        ("topClients(1000000)", "Client All false 60 1000"),
    ] {
        let reply = console.reply(command);
        let lines: Vec<&str> = reply.lines().collect();
        let width = format!("{all:?}").len();
        let first = format!("   1  {asked:<width$}   60 60.0%");
        let rest = format!("   3  {:<width$}   10 10.0%", "Rest");
        assert_eq!(lines[0], first.as_str(), "{command}");
        assert!(lines[3..].iter().all(|line| line.starts_with("Warning: ")), "{command}: {reply}");
        assert!(lines[1].ends_with("   30 30.0%  -2"), "{command}: {reply}");
        // One line without a name, as in dnsdist: its clients leave that out.
        let worth = lines[2].strip_prefix(&rest).unwrap_or_else(|| panic!("{command}: {reply}"));
        assert!(worth.starts_with("  # last ") && worth.ends_with("what is not listed has 5 at most"));
    }
    let narrowed = "topClients(1, {pool='p', server='s', client='192.0.2.0/24', name='Example.com', \
                    rcode='servfail', type='AAAA', slower='1.5ms'})";
    let reply = console.reply(narrowed);
    for part in [
        "pool: Some(\"p\")",
        "server: Some(\"s\")",
        "names: [[7, 101, 120,",
        "rcode: Some(2)",
        "qtype: Some(28)",
        "latency_us_min: Some(1500)",
    ] {
        assert!(reply.contains(part), "{part} in {reply}");
    }
    assert!(console.reply("getTopQueries(1)[3][1]").starts_with("Rest"));
    let found = console.reply("grepq({'192.0.2.0/24', 'example', '100ms'}, 5)");
    let lines: Vec<Vec<&str>> = found.lines().map(|line| line.split_whitespace().collect()).collect();
    let columns =
        ["Time", "Client", "Protocol", "Server", "ID", "Name", "Type", "Lat.", "TC", "RD", "AA", "Rcode"];
    assert_eq!(lines[0], columns);
    let values =
        ["-11.9", "192.0.2.7:5353", "DoUDP", "192.0.2.1:53", "4711", "www.example.", "AAAA", "175.6", "RD"];
    assert_eq!(lines[1][..9], values);
    assert_eq!(lines[1][9..], ["AA", "NXDOMAIN"]);
    assert_eq!(console.reply("#getRingEntries()"), "2\n");
    assert_eq!(console.reply("getRingEntries()[2].ended"), "T.O\n");
    assert_eq!(console.reply("getRespRing()[1].rcode .. ' ' .. #getRespRing()"), "3 1\n");
    assert!(console.error("topClients(13)").contains("nobody counts"));
    assert!(console.error("topClients(1, {window=901})").contains("a whole number from 1 to 900"));
    assert!(console.reply("topClients(1, {nam='x'})").contains("Warning: command"), "as in the file");
    assert!(console.error("top('x')").contains("one of clients, "));
    assert!(console.error("topResponses(1, 'x')").contains("a response code"));
    assert!(console.error("grepq('..')").contains("a network, a name"));
}

#[test]
fn what_commands_leave_does_not_fill_the_memory() {
    let console = Console::new("");
    for n in 0..20 {
        assert_eq!(console.reply("return #string.rep('x', 20000000)"), "20000000\n", "{n}");
    }
}

#[test]
fn a_failed_command_leaves_everything_as_it_was() {
    let console = Console::new("");
    let before = console.change("newServer('192.0.2.2')");
    assert_eq!(before.servers.len(), 2);
    for (command, error) in [
        ("newServer('192.0.2.3') error('stop')", "command#2:1: stop"),
        ("newServer('192.0.2.3') newServer('nonsense')", "command#3:1: newServer: address is \"nonsense\""),
        ("newServer(", "unexpected symbol near '<eof>'"),
        ("foo()", "command#5:1: attempt to call global 'foo'"),
        ("addAction(AllRule(), LuaAction(function(dq) foo() end))", "\"foo\""),
        ("addAction(AllRule(), 5)", "expected an action"),
        ("getServer(9):setUp()", "attempt to index"),
        ("getCurrentTime()", "(a nil value); it works only in functions of rules and policies"),
    ] {
        let found = console.error(command);
        assert!(found.contains(error), "{command}: {found}");
    }
    let after = console.change("newServer('192.0.2.4')");
    let addresses: Vec<_> = after.servers.iter().map(|s| s.address.ip().to_string()).collect();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2", "192.0.2.4"]);
    assert!(
        after.functions.is_empty()
            && after.errors.is_empty()
            && after.rules.chain(ChainKey::Query).is_empty()
    );
}

#[test]
fn a_change_that_is_not_put_in_force_is_forgotten() {
    let console = Console::new("");
    assert!(console.run("newServer('192.0.2.2')").draft.is_some());
    // As when it cannot be compiled.
    console.lua.settle(false);
    assert!(console.run("newServer('192.0.2.3')").draft.is_some());
    // Nobody says anything.
    let draft = console.change("newServer('192.0.2.4')");
    assert_eq!(draft.servers.len(), 2);
    assert_eq!(console.reply("delta()"), "-- then\nnewServer('192.0.2.4')\n");
}

#[test]
fn globals_last_and_functions_reach_the_shards() {
    let console = Console::new("count = 1\n");
    assert_eq!(console.reply("names = {'a.test'}"), "");
    let draft = console
        .change("addAction(AllRule(), LuaAction(function(dq)\n  return DNSAction.Refused, names[1]\nend))");
    assert_eq!(draft.functions.len(), 1);
    let first = draft.script.expect("a script");
    // Its state has the global that an earlier command defined.
    assert!(first.start(0).is_some());
    let draft = console.change("addAction(AllRule(), DropAction())");
    assert_eq!(draft.script.expect("the same").identity(), first.identity(), "no new function");
    let draft = console.change("function maintenance() count = count + 1 end");
    assert!(draft.maintenance && draft.script.expect("another").identity() != first.identity());
}

#[test]
fn sets_of_commands_are_filled_and_those_in_force_stay() {
    let console = Console::new(
        "smn = newSuffixMatchNode() smn:add('a.test') addAction(SuffixMatchNodeRule(smn), DropAction())\n",
    );
    let error = console.error("smn:add('b.test')");
    assert!(error.contains("a set that is in force"), "{error}");
    let draft = console.change(
        "more = newSuffixMatchNode() more:add('b.test') addAction(SuffixMatchNodeRule(more), DropAction())",
    );
    assert_eq!(draft.name_sets.iter().map(Names::len).collect::<Vec<_>>(), [1, 1]);
    let rules = console.reply("showRules()");
    assert!(rules.contains("a.test") && rules.contains("b.test"), "{rules}");
}

#[test]
fn rules_are_listed_with_their_matches() {
    let console = Console::new("addAction(AllRule(), DropAction()) addAction(TCPRule(true), DropAction())\n");
    let matches = |text: String| -> Vec<String> {
        text.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1).map(str::to_owned)).collect()
    };
    assert_eq!(matches(console.reply("showRules()")), ["5", "50"]);
    assert_eq!(matches(console.reply("topRules(1)")), ["50"]);
}

#[test]
fn a_command_that_loops_is_ended() {
    let console = Console::new("");
    let error = console.error("while true do end");
    assert!(error.contains("the function ran too long"), "{error}");
    assert_eq!(console.reply("1"), "1\n");
}

#[test]
fn the_acl_is_shown_and_changed() {
    let console = Console::new("setACL({'192.0.2.0/24', '2001:db8::/32'})\n");
    assert_eq!(console.reply("showACL()"), "192.0.2.0/24\n2001:db8::/32\n");
    let draft = console.change("rmACL('192.0.2.0/24') addACL('198.51.100.1')");
    assert_eq!(draft.acl.len(), 2);
    assert_eq!(console.reply("getACL()"), "2001:db8::/32\n198.51.100.1/32\n");
    assert!(console.error("rmACL('10.0.0.0/8')").contains("a network of those that may query"));
}

#[test]
fn a_global_with_another_value_reaches_the_functions_of_shards() {
    let console = Console::new(
        "n = 0\naddAction(AllRule(), LuaAction(function(dq) return DNSAction.Spoof, '9.9.9.' .. n end))\n",
    );
    let first = console.change("addAction('x.test', DropAction())").script.expect("a script");
    let second = console.change("n = 50").script.expect("a script");
    assert_ne!(first.identity(), second.identity());
    assert_eq!(console.reply("for i = 1, 3 do local m = i end"), "");
}

#[test]
fn a_rule_is_measured() {
    let console = Console::new("");
    for (rule, matches) in [
        ("AllRule()", "5000"),
        ("'powerdns.com'", "5000"),
        ("QTypeRule('AAAA')", "0"),
        ("AndRule({QNameSuffixRule('com'), QTypeRule('A')})", "5000"),
        ("RegexRule('^no')", "0"),
        ("'127.0.0.0/8'", "0"),
    ] {
        let line = console.reply(&format!("benchRule({rule}, 5000)"));
        let begins = format!("Had {matches} matches out of 5000, ");
        assert!(line.starts_with(&begins) && line.contains(" qps, in "), "{rule}: {line}");
    }
    assert!(console.reply("benchRule('a.test', 10, 'a.test')").starts_with("Had 10 matches out of 10, "));
    assert!(console.reply("benchRule('a.test')").starts_with("Had 0 matches out of 100000, "));
    // For two seconds at most.
    assert!(console.reply("benchRule(AllRule(), 4294967295)").starts_with("Had "));
    for (call, why) in [
        ("MaxQPSRule(5)", "depends on the query alone"),
        ("NotRule(LuaRule(function() return true end))", "depends on the query alone"),
        ("AndRule({PoolAvailableRule('')})", "depends on the query alone"),
        ("'a.test', 0", "a whole number from 1"),
        ("'a.test', 5, 'a..b'", "empty label"),
        (&format!("'a.test', 5, '{}'", "a.".repeat(125)), "room for a label"),
    ] {
        let error = console.error(&format!("benchRule({call})"));
        assert!(error.contains(why), "{call}: {error}");
    }
}

#[test]
fn what_commands_show_does_not_depend_on_print_and_missing_functions_are_named() {
    let console = Console::new("");
    assert_eq!(console.reply("print = nil"), "");
    assert_eq!(console.reply("showServers()"), "Servers\n");
    let error = console.error("newThread('x')");
    assert!(error.contains("it is not implemented yet"), "{error}");
    let error = console.error("addAction(AllRule(), DropAction()) reload()");
    assert!(error.contains("one or the other"), "{error}");
    assert_eq!(console.run("reload()").wish, Some(Wish::Reload));
}

#[test]
fn a_change_of_the_same_takes_the_place_of_an_earlier_one() {
    let console = Console::new("");
    let marked = |text: &str, key: &str, act| {
        let mark = Some(Mark { key: key.to_owned(), act, also: Vec::new() });
        assert!(console.run_marked(text, mark).draft.is_some(), "{text}");
        console.lua.settle(true);
    };
    for weight in 1..50 {
        marked(&format!("getServer('one'):setWeight({weight})"), "server one/weight", Act::Set);
    }
    console.change("getServer('one'):setOrder(3)");
    for _ in 0..2 {
        marked("newServer({address='192.0.2.7', id='seven'})", "server seven", Act::Create);
        marked("rmServer('seven')", "server seven", Act::Remove);
    }
    let delta = console.reply("delta()");
    assert_eq!(delta.lines().filter(|l| !l.starts_with("--")).count(), 2, "{delta}");
    assert!(delta.contains("setWeight(49)") && delta.contains("setOrder(3)"), "{delta}");
    // One that defines a function stays, as later ones may use it.
    for _ in 0..2 {
        marked("addAction('x.test', LuaAction(function() return DNSAction.Drop end))", "rule", Act::Set);
    }
    assert_eq!(console.reply("delta()").matches("LuaAction").count(), 2);
}

#[test]
fn a_rule_is_found_by_the_uuid_that_follows_from_its_text() {
    let set = "names = newSuffixMatchNode() names:add('c.test') addAction(SuffixMatchNodeRule(names), DropAction())\n";
    let console =
        Console::new(&format!("addAction('a.test', DropAction())\naddAction('b.test', DropAction())\n{set}"));
    let draft = console.change("addAction('d.test', DropAction())");
    let uuids = crate::config::chains::uuids(&draft.rules, &draft.rules.texts.identities());
    let uuid = |at: usize| crate::config::ruleset::uuid_text(&uuids[at].1);
    let replace = format!("addAction('x.test', TCAction(), {{replace='{}'}})", uuid(1));
    console.change(&replace);
    let draft = console.change(&format!("rmRule('{}')", uuid(2)));
    let actions: Vec<String> = draft.rules.chain(ChainKey::Query).iter().map(|r| r.action.text()).collect();
    assert_eq!(actions, ["drop", "tc=1 answer", "drop"]);
    assert!(console.error(&replace).contains("replace is"), "{}", console.error(&replace));
    assert!(console.error("newRuleAction('a', DropAction(), {replace=5}) error('x')").contains('x'));
}

#[test]
fn what_was_said_before_is_no_change() {
    let console = Console::new("setVerbose(true) setServerPolicy(roundrobin) setACL({'192.0.2.0/24'})\n");
    for command in ["setVerbose(true)", "setServerPolicy(roundrobin)", "setACL({'192.0.2.0/24'})"] {
        console.reply(command);
    }
    assert_eq!(console.reply("delta()"), "");
    for command in [
        "setVerbose(false)",
        "setACL({'192.0.2.0/25'})",
        "getServer(0):setUp()",
        "addAction('a', DropAction())",
    ] {
        console.change(command);
    }
    assert_eq!(console.reply("delta()").lines().count(), 8);
}

#[test]
fn a_function_of_the_file_is_no_setter_whatever_its_name() {
    let uuid = "11111111-1111-4111-8111-111111111111";
    let rule = format!("{{name='m', uuid='{uuid}', replace=getRule('m') and 'm' or nil}}");
    let console = Console::new(&format!(
        "mode = DropAction()\nfunction setMode() addAction('x.test', mode, {rule}) end\nsetMode()\n"
    ));
    console.change("mode = TCAction()");
    let draft = console.change("setMode()");
    let actions = |draft: &Draft| draft.rules.chain(ChainKey::Query)[0].action.text();
    assert_eq!(actions(&draft), "tc=1 answer");
    console.change("mode = RCodeAction(5)");
    console.reply("setVerbose = setMode");
    let draft = console.change("setVerbose()");
    assert_eq!(actions(&draft), "set rcode REFUSED", "nor one that has the name of a setter");
}

#[test]
fn a_refused_command_leaves_the_globals_as_they_were() {
    let console = Console::new("function maintenance() kept = true end\nlists = {a = {1, 2}}\nx = 1\n");
    for refused in [
        "function maintenance() addDynBlocks() end",
        "x = 5 y = 6 error('no')",
        "lists.a[1] = 7 lists.a[3] = 8 lists.b = {} error('no')",
        "setmetatable(_G, {__index = function() return 9 end}) error('no')",
        "string.rep = nil print = nil error('no')",
        "p = getPool('newp') error('no')",
        "x = 5 newServer('nonsense')",
    ] {
        console.error(refused);
        assert_eq!(console.reply("tostring(x) .. tostring(y) .. tostring(p)"), "1nilnil\n", "{refused}");
        assert_eq!(console.reply("#lists.a .. lists.a[1] .. tostring(lists.b)"), "21nil\n", "{refused}");
        assert_eq!(console.reply("string.rep('a', 3)"), "aaa\n", "{refused}");
        console.change("getServer(0):setDown()");
    }
    // Nor does one that was not put in force.
    assert!(console.run("x = 5 newServer('192.0.2.9')").draft.is_some());
    console.lua.settle(false);
    assert_eq!(console.reply("x"), "1\n");
    let draft = console.change("x = 5 newServer('192.0.2.9')");
    assert!(draft.maintenance && draft.script.is_some());
    assert_eq!(console.reply("x"), "5\n");
    // The shards' states, which know accepted commands only, can still be made.
    console.change("addAction(AllRule(), LuaAction(function(dq) return DNSAction.Drop end))");
}

#[test]
fn a_handle_acts_on_its_own_server_or_on_none() {
    let console = Console::new("do local held; function hold(s) held = s or held return held end end\n");
    console.error("hold(newServer('192.0.2.8')) error('no')");
    for command in
        ["hold():setDown()", "hold():getName()", "tostring(hold())", "hold().weight = 5", "rmServer(hold())"]
    {
        let error = console.error(command);
        assert!(error.contains("the server does not exist: what made it was refused"), "{command}: {error}");
    }
    console.change("newServer({address='192.0.2.9', name='innocent'})");
    let error = console.error("hold():setDown()");
    assert!(error.contains("the server does not exist"), "{error}");
    let draft = console.change("hold(getServer('innocent')):setDown()");
    let mode = |draft: &Draft| draft.servers.iter().map(DraftServer::mode_name).collect::<Vec<_>>();
    assert_eq!(mode(&draft), ["auto", "down"]);
    console.change("rmServer('innocent')");
    let error = console.error("hold():setUp()");
    assert!(error.contains("the server does not exist: it was removed"), "{error}");
}

#[test]
fn what_only_looks_leaves_nothing() {
    let console = Console::new("");
    console.reply("getPool('typo')");
    assert_eq!(console.reply("table.concat(getPoolNames(), ',')"), "");
    let draft = console.change("addACL('192.0.2.77')");
    assert!(draft.pools.iter().all(|pool| pool.name != "typo"));
    console.reply("p = getPool('new')");
    let draft = console.change("p:setServerPolicy(wrandom)");
    assert_eq!(draft.pools.iter().filter(|pool| pool.name == "new").count(), 1);
}

#[test]
fn warnings_of_a_strict_command_refuse_it() {
    let console = Console::new("");
    let command = "getServer(0):setWeight(2147483648)";
    let ran = console.run(command);
    assert!(ran.draft.is_some() && String::from_utf8_lossy(&ran.reply.expect("a reply")).contains("Warning"));
    let strict = Console { strict: true, ..Console::new("") };
    for (command, why) in [
        (command, "2147483648 is taken as 2147483647"),
        ("newServer({address='192.0.2.9', weight=-1})", "the server is left out"),
        (
            "newServer({address='192.0.2.9', healthCheckMode='up', checkName='a.b'})",
            "checkName has no effect",
        ),
        ("newServer({address='192.0.2.9', lazyHealthCheckThreshold=5})", "without healthCheckMode=\"lazy\""),
    ] {
        let error = strict.error(command);
        assert!(error.contains(why), "{error}");
    }
    let error = strict.error("getPool('a\\nb'):getCache()");
    assert!(error.contains("expected the name of a pool, without control characters"), "{error}");
    assert_eq!(strict.change("newServer({address='192.0.2.9', checkName='a.b'})").servers.len(), 2);
    // It may be set to be checked again.
    strict.change("getServer(1):setUp()");
    let by_file = Console::new("setStrict(true) setKey('MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=')\n");
    assert!(by_file.error(command).contains("is taken as"));
}

#[test]
fn a_rule_that_is_not_there_is_said_and_the_command_goes_on() {
    for (command, warning) in [
        ("rmRule(999)", "there is no rule 999"),
        ("rmRule('x')", "there is no rule \"x\""),
        ("mvRule(1, 0)", "a number below that of the rules"),
        ("mvRuleToTop(7)", "there is no rule 7"),
        ("for i = 0, 100 do rmResponseRule(0) end", "rmResponseRule: there is no rule 0"),
    ] {
        let console = Console::new("addAction(AllRule(), DropAction())\n");
        let reply = console.says(&format!("{command} addAction(AllRule(), RCodeAction(5))"));
        assert_eq!(reply.matches(warning).count(), 1, "{command}: {reply}");
        assert_eq!(console.says("showRules()").lines().count(), 3, "{command}");
        // A command that does nothing else has failed.
        let console = Console::new("addAction(AllRule(), DropAction())\n");
        assert!(console.error(command).contains(warning), "{command}");
        assert_eq!(console.says("showRules()").lines().count(), 2, "{command}");
        let strict = Console { strict: true, ..Console::new("addAction(AllRule(), DropAction())\n") };
        assert!(strict.error(command).contains(warning), "{command}");
    }
}

#[test]
fn tables_within_tables_are_json() {
    let console = Console::new("");
    for (command, reply) in [
        ("{{'a', 1, 2.5}, {n={x=true}}}", "[\"a\", 1, 2.5]\n{\"n\": {\"x\": true}}\n"),
        ("{a={1, {2}}, b='q\"'}", "{\"a\": [1, [2]], \"b\": \"q\\\"\"}\n"),
        ("{'x', 'y'}", "x\ny\n"),
        ("{}", "{}\n"),
    ] {
        assert_eq!(console.says(command), reply, "{command}");
    }
    let itself = console.says("(function() local t = {} t.t = t return t end)()");
    assert!(itself.contains("\"t\": {\"t\":") && itself.len() < 1_000, "{itself}");
}

#[test]
fn show_is_another_name_of_print() {
    assert_eq!(Console::new("").says("show('a') show('b')"), "a\nb\n");
}
