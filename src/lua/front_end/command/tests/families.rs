//! Functions of dnsdist's families at the console: lists that are returned, binds, callbacks, and what
//! dnslob does not have.

use super::*;
use crate::lua::front_end::notice::Notice;
use crate::model::LuaFunction;

#[test]
fn lists_are_returned_as_they_are_printed() {
    let console = Console::new("");
    for (command, asked) in [
        ("getTopResponses(3, DNSRCode.SERVFAIL, 2)", "Name(2) Rcode(2) false 60 3"),
        ("getTopResponses()", "Name(0) Rcode(0) false 60 10"),
        ("getSlowResponses(4, 100)", "Name(0) SlowerThan(100) false 60 4"),
        ("getTopBandwidth(5)", "Client All true 60 5"),
    ] {
        let first = console.reply(&format!("return table.concat({command}[1], ' ')"));
        assert_eq!(first, format!("{asked} 60 60\n"), "{command}");
        assert_eq!(console.reply(&format!("table.concat({command}[3], ' ')")), "Rest 10 10\n", "{command}");
    }
    assert_eq!(console.reply("#getResponseRing() .. getResponseRing()[1].name"), "1www.example.\n");
    assert!(console.error("getTopResponses(1, 'x')").contains("a response code"));
}

#[test]
fn the_last_answers_are_a_tree_of_names() {
    let console = Console::new("");
    let visits = |seconds: &str| {
        console.reply(&format!(
            "local out = {{}}\n\
             statNodeRespRing(function(node, own, all)\n\
               print(node.fullname, node.labelsCount, node:numChildren(), own.queries, all.queries, all.nxdomains,\n\
                     all.drops, all.noerrors + all.servfails + all.hits, all.bytes) getPoolNames()\n\
             end{seconds})"
        ))
    };
    let lines = [
        ".\t0\t1\t1\t2\t1\t1\t0\t198",
        "example.\t1\t1\t0\t1\t1\t0\t0\t99",
        "www.example.\t2\t0\t1\t1\t1\t0\t0\t99",
    ];
    // The name of the other one is not known.
    assert_eq!(visits("").lines().collect::<Vec<_>>(), lines);
    assert_eq!(visits(", 12"), visits(""));
    assert_eq!(visits(", 5"), ".\t0\t0\t0\t0\t0\t0\t0\t0\n");
    assert!(console.error("statNodeRespRing(5)").contains("expected a function"));
    assert!(console.error("statNodeRespRing(function() error('stop') end)").contains("stop"));
}

#[test]
fn labels_with_dots_stay_whole() {
    let lua = mlua::Lua::new();
    let walk: mlua::Function = lua.load(include_str!("../../name_tree.lua")).eval().expect("a function");
    lua.globals().set("walk", walk).expect("set");
    let text = "local names = {}\n\
                local function entry(name) return { name = name, size = 1, ended = '', rcode = 0 } end\n\
                walk(function(node) names[#names + 1] = node.fullname end,\n\
                     { entry('a\\\\.b.test.'), entry('c\\\\\\\\.test.'), entry('.'), entry('...long.test.') })\n\
                return table.concat(names, ' ')";
    let names: String = lua.load(text).eval().expect("names");
    assert_eq!(names, ". test. a\\.b.test. c\\\\.test. long.test.");
}

#[test]
fn what_is_not_there_is_said_and_none_of_it_is_shown() {
    let console = Console::new("");
    for (command, part) in [
        ("showDynBlocks()", "there are no dynamic blocks"),
        ("showDOHFrontends()", "no DNS over HTTPS"),
        ("showDOH3Frontends()", "no DNS over HTTP/3"),
        ("showDOQFrontends()", "no DNS over QUIC"),
        ("showDOHResponseCodes()", "no DNS over HTTPS"),
        ("showDNSCryptBinds()", "no DNSCrypt"),
        ("showSecurityStatus()", "does not poll"),
    ] {
        let reply = console.reply(command);
        assert!(reply.contains(part) && reply.lines().count() <= 2, "{command}: {reply}");
    }
    let counts =
        "getDOHFrontendCount() + getDOH3FrontendCount() + getDOQFrontendCount() + getDNSCryptBindCount()";
    assert_eq!(console.reply(counts), "0\n");
    assert_eq!(
        console.reply("next(getDynamicBlocks()) == nil and next(getDynamicBlocksSMT()) == nil"),
        "true\n"
    );
    assert_eq!(console.reply("showTLSCertificates()"), "Certificates\n");
    assert_eq!(console.reply("requestTCPStatesDump()"), "", "it goes to the log");
}

#[test]
fn binds_are_numbered_as_they_are_shown() {
    let console = Console::new(
        "addLocal('127.0.0.1:5300') addLocal('127.0.0.1:5301', {doTCP=false})\n\
         addLocal('127.0.0.1:5302', {reusePort=true}) addLocal('127.0.0.1:5302', {reusePort=true})\n\
         addTCPForward{listen='127.0.0.1:5303', to='192.0.2.1:53'}\n",
    );
    let types = "local out = {} for n = 0, getBindCount() - 1 do local b = getBind(n)\n\
                 out[n + 1] = tostring(b) .. ' ' .. b:getType() .. b:getEffectiveTLSProvider() end\n\
                 return table.concat(out, '\\n')";
    let all = [
        "127.0.0.1:5300 UDP",
        "127.0.0.1:5300 TCP",
        "127.0.0.1:5301 UDP",
        "127.0.0.1:5302 UDP",
        "127.0.0.1:5302 TCP",
        "127.0.0.1:5303 TCP relay",
    ];
    assert_eq!(console.reply(types).lines().collect::<Vec<_>>(), all);
    assert_eq!(console.reply("getBind(6)"), "");
    assert_eq!(Console::new("").reply("getBind(1):toString() .. ' ' .. getBindCount()"), "127.0.0.1:53 2\n");
}

#[test]
fn a_cleared_history_is_not_shown_and_stays_in_force() {
    let console = Console::new("");
    console.reply("names = {'a.test'}");
    console.change("newServer('192.0.2.2')");
    assert!(console.reply("delta()").contains("newServer"));
    assert_eq!(console.reply("clearConsoleHistory()"), "");
    assert_eq!(console.reply("delta()"), "");
    // The shards' states still have what earlier commands defined.
    let draft =
        console.change("addAction(AllRule(), LuaAction(function() return DNSAction.Refused, names[1] end))");
    assert_eq!(draft.servers.len(), 2);
    let delta = console.reply("delta()");
    assert!(delta.contains("addAction") && !delta.contains("newServer"), "{delta}");
}

#[test]
fn the_crypto_of_the_console_is_tested() {
    assert_eq!(
        Console::new("").reply("testCrypto()"),
        "everything is ok, with a random key: there is no setKey\n"
    );
    let key = "setKey('OTgmgAR6zbrfrYlKgsAAJn+by4faMqI1bVCvzacXMW0=')\n";
    assert_eq!(Console::new(key).reply("testCrypto()"), "everything is ok, with the key of setKey\n");
}

#[test]
fn functions_are_told_what_happened() {
    let console = Console::new(
        "seen = {}\n\
         addServerStateChangeCallback(function(server, up) print('seen', server) seen[#seen + 1] = server .. tostring(up) end)\n\
         addExitCallback(function(...) seen[#seen + 1] = 'exit' .. select('#', ...) infolog('bye') end)\n\
         setTicketsKeyAddedHook(function(key, length) seen[#seen + 1] = key .. length end)\n\
         addExitCallback(function() newServer('192.0.2.9') end)\n\
         addExitCallback(function() error('stop') end)\n\
         addExitCallback(function() error(nil) end)\n",
    );
    let callbacks = &console.callbacks;
    assert_eq!((callbacks.exit.len(), callbacks.server_state.len()), (4, 1));
    let tell = |function: LuaFunction, notice: Notice| {
        let told = console.lua.notify(function, notice, Arc::new(Process::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(told).expect("a result")
    };
    let change = Notice::ServerState { server: "one (192.0.2.1:53)".to_owned(), up: false };
    assert_eq!(tell(callbacks.server_state[0], change), Ok(()));
    assert_eq!(tell(callbacks.tickets_key.expect("a hook"), Notice::TicketsKey(b"abc".to_vec())), Ok(()));
    assert_eq!(tell(callbacks.exit[0], Notice::Exit), Ok(()));
    assert_eq!(console.reply("table.concat(seen, ' ')"), "one (192.0.2.1:53)false abc3 exit0\n");
    for (at, why) in [(1, ":6: it changes the configuration"), (2, ":7: stop"), (3, ":8: nil")] {
        let error = tell(callbacks.exit[at], Notice::Exit).expect_err(why);
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(console.reply("#getServers()"), "1\n");
    let error = console.error("addExitCallback('x')");
    assert!(error.contains("expected a function"), "{error}");
}

#[test]
fn functions_that_are_told_see_the_servers_without_a_console() {
    let loaded = good(
        "newServer('192.0.2.1') newServer('192.0.2.2') addExitCallback(function()\n\
         assert(#getServers() == 2 and getServer(1).weight == 1, #getServers()) end)",
    )
    .0;
    let told = loaded.lua.notify(loaded.draft.callbacks.exit[0], Notice::Exit, Arc::new(Process::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    assert_eq!(runtime.block_on(told).expect("a result"), Ok(()));
}

#[test]
fn counted_queries_are_listed() {
    let console = Console::new("");
    let reply = console.reply("getQueryCounters()");
    let lines: Vec<&str> = reply.lines().collect();
    assert_eq!(lines[0], "# counting is off: setQueryCount(true); 12 queries, 3 names");
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["1", "www.example.", "7"]);
    assert!(lines[2].contains(r"a\nb") && lines[3].contains("2 queries of further names"), "{reply}");
    let filter = "setQueryCount(true) setQueryCountFilter(function(dq) return true, 'x' end)";
    let draft = console.change(filter);
    assert!(draft.query_count.0 && draft.query_count.1.is_some() && draft.script.is_some());
    assert!(console.reply("getQueryCounters(1)").starts_with("# counting is on; 12 queries"));
    assert_eq!(console.reply("clearQueryCounters()"), "");
    assert!(console.error("setQueryCountFilter('x')").contains("a function"));
}

#[test]
fn names_are_looked_up_for_commands() {
    let console = Console::new("");
    let draft = console.change(
        "getAddressInfo('192.0.2.77', function(name, ips) newServer{address=ips[1]:toString(), name=name} end)",
    );
    assert!(draft.servers.iter().any(|server| server.name.as_deref() == Some("192.0.2.77")));
    let error = console.error("getAddressInfo('192.0.2.78', function() error('refused') end)");
    assert!(error.contains("refused"), "{error}");
    assert_eq!(console.reply("getOutgoingTLSSessionCacheSize()"), "13\n");
}

#[test]
fn a_pool_that_is_called_as_the_default_one_is_an_error_of_its_command() {
    let console = Console::new("");
    console.change("newServer{address='192.0.2.79', name='b'}");
    let error = console.error("getServer('b'):addPool('_default_')");
    assert!(error.contains("addPool") && error.contains("\"\" for the default pool"), "{error}");
}
