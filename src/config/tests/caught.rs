//! Tests errors of functions of the configuration within `pcall`.

use crate::config::draft::Draft;
use crate::config::ruleset::ChainKey;
use crate::config::tests::{broken, good};
use crate::lua::front_end::evaluated_here;

/// Calls that fail, with the function that the error names.
const FAILING: &[(&str, &str)] = &[
    ("pcall(function() s:add('bad..name') end)", "add"),
    ("pcall(s.add, s, {'good', 'bad..name'})", "add"),
    ("pcall(s.addFile, s, '/nowhere')", "addFile"),
    ("pcall(function() n:addMask('192.0.2.0/33') end)", "addMask"),
    ("pcall(newNMG, 'nonsense')", "newNMG"),
    ("pcall(addAction, 'bad..name', DropAction())", "addAction"),
    ("pcall(addAction, AllRule())", "addAction"),
    ("pcall(newServer, {address='nonsense'})", "newServer"),
    ("pcall(newServer, {address='192.0.2.9', weight='x'})", "newServer"),
    ("pcall(newPacketCache, 10, {minTTL='x'})", "newPacketCache"),
    ("pcall(addLocal, '192.0.2.1:x')", "addLocal"),
    ("pcall(addTCPForward, {listen='127.0.0.1:1', to={'x'}})", "addTCPForward"),
    ("pcall(setKey, 'x')", "setKey"),
    ("pcall(setStaleCacheEntriesTTL, {})", "setStaleCacheEntriesTTL"),
    ("pcall(MaxQPSRule, 'x')", "MaxQPSRule"),
    ("pcall(function() server.weight = {} end)", "weight"),
    ("pcall(server.addPool, server)", "addPool"),
    ("pcall(newDNSName, 'bad..name')", "newDNSName"),
    ("pcall(function() pcall(error, 'x') s:add('bad..name') end)", "add"),
    ("xpcall(function() s:add('bad..name') end, function(e) return e end)", "add"),
    ("coroutine.resume(coroutine.create(function() newDNSName('bad..name') end))", "newDNSName"),
    ("coroutine.resume(coroutine.create(function() s:add('bad..name') end))", "add"),
    ("pcall(coroutine.wrap(function() s:add('bad..name') end))", "add"),
    ("pcall(function() for _ in coroutine.wrap(function() s:add('bad..name') end) do end end)", "add"),
    ("pcall(coroutine.wrap(function() coroutine.wrap(function() s:add('bad..name') end)() end))", "add"),
    (
        "coroutine.resume(coroutine.create(function() coroutine.wrap(function() s:add('bad..name') end)() end))",
        "add",
    ),
    (
        "pcall(coroutine.wrap(function() pcall(coroutine.yield) s:add('bad..name') end)) \
         local w = coroutine.wrap(function() coroutine.yield() s:add('bad..name') end) w() ok, e = pcall(w)",
        "add",
    ),
    ("pcall(newCA, 'x')", "newCA"),
    ("pcall(newNetmask, '192.0.2.0/33')", "newNetmask"),
    ("pcall(setUDPSocketBufferSizes, 5000, 'x')", "setUDPSocketBufferSizes"),
];

#[test]
fn what_no_pcall_gets_is_an_error_of_the_file_also_in_a_coroutine() {
    for text in [
        "local w = coroutine.wrap(function() s:add('bad..name') end) w()",
        // The one that waits has returned when the error comes.
        "local w = coroutine.wrap(function() coroutine.yield() s:add('bad..name') end) pcall(w) w()",
        "local c = coroutine.wrap(function() pcall(coroutine.yield) end) c() s:add('bad..name') c()",
        "pcall(function() end) s:add('bad..name')",
    ] {
        let text = format!("newServer('192.0.2.1') local s = newSuffixMatchNode()\n{text}");
        let errors = broken(&text);
        assert!(errors.len() == 1 && errors[0].starts_with("FILE:2: add: "), "{text}\n{errors:#?}");
    }
}

#[test]
fn a_failed_call_changes_nothing_of_the_draft() {
    const BEFORE: &str = "addLocal('127.0.0.1:5301') local s, n = newSuffixMatchNode(), newNMG() s:add('a') \
                          n:addMask('192.0.2.0/24') setACL({'192.0.2.0/24'}) setProxyProtocolACL({'192.0.2.1'}) \
                          controlSocket('127.0.0.1:5199') setConsoleACL({'127.0.0.1'}) webserver('127.0.0.1:8083') \
                          setWebserverConfig{password='x', acl='127.0.0.1'} addAction('a', DropAction()) \
                          local server, pool = newServer('192.0.2.1'), getPool('p') pool:setRetry{after=5} \
                          setRules({newRuleAction('b', DropAction())})";
    let names = std::env::temp_dir().join(format!("dnslob-half-{}", std::process::id()));
    std::fs::write(&names, "good.example\nbad..name\nbetter.example\n").expect("a file");
    let names = names.display().to_string();
    let file = format!("s.addFile, s, '{names}'");
    let path = std::env::temp_dir().join(format!("dnslob-half-{}.lua", std::process::id()));
    // Of one path: it is a part of the origins.
    let draft = |text: &str| {
        std::fs::write(&path, text).expect("written");
        evaluated_here(&path).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
    };
    let before = draft(&format!("{BEFORE}\n"));
    for call in [
        "setLocal, '127.0.0.1:5302', {interface='lo', dscp='x'}",
        "addLocal, '127.0.0.1:5302', {interface='lo', dscp='x'}",
        "setACL, {'198.51.100.0/24', 'x'}",
        "setProxyProtocolACL, {'198.51.100.0/24', 'x'}",
        "setConsoleACL, {'198.51.100.0/24', 'x'}",
        "addConsoleACL, 'x'",
        "setWebserverConfig, {acl='0.0.0.0/0', apiKey='y', statsRequireAuthentication=5}",
        "setWebserverConfig, {acl='0.0.0.0/0', tlsKey='/nowhere', password='y'}",
        "webserver, '127.0.0.1:8084', 'password', 'key', 5",
        "setRules, {newRuleAction('c', DropAction()), newRuleAction('d', DropResponseAction())}",
        "setRules, {newRuleAction('c', DropAction()), 5}",
        "setRuleGroup, 'g', {newRuleAction('c', DropAction()), 5}",
        "addAction, 'c', DropAction(), {name='n', uuid='x'}",
        "newServer, {address='192.0.2.2', pool='q', weigth=5, weight='x'}",
        "pool.setRetry, pool, {after=7, budget='x'}",
        "pool.setEjection, pool, {time=5, excess='x'}",
        "setUDPSocketBufferSizes, 50000, 'x'",
        "setStructuredLogging, true, {levelPrefix='a', timeFormat=5}",
        "s.add, s, {'b', 'bad..name'}",
        "s.remove, s, {'a', 'bad..name'}",
        "n.addMask, n, {'198.51.100.0/24', 'x'}",
        "n.addMasks, n, {'198.51.100.0/24', 'x'}",
        "newPacketCache, 10, {maxTTL=5, minTTL='x'}",
        "addTCPForward, {listen='127.0.0.1:25', to={'192.0.2.1:25'}, check=5}",
        "addUDPForward, {listen='127.0.0.1:25', to={'192.0.2.1:25'}, acl={'192.0.2.0/24', 'x', 'y'}}",
        "setServerPolicy, concentrate, 5",
        "concentrate, {fullFactor=3, goodFactor='x'}",
        "setAPIWritable, true, '/nowhere'",
        "setPoolServerPolicyLua, 'x', function() return 1 end",
        &file,
    ] {
        let text = format!(
            "{BEFORE}\nlocal ok = pcall({call}) assert(not ok) assert(s:size() == 1 and n:size() == 1)"
        );
        let after = draft(&text);
        assert!(after.errors.is_empty(), "{call}");
        let standing = |draft: &Draft| draft.servers.iter().filter(|server| !server.removed).count();
        assert_eq!(standing(&after), standing(&before), "{call}");
        let mut same = after.clone();
        same.servers.truncate(before.servers.len());
        assert!(same.says_the_same(&before), "{call}");
        assert_eq!(after.warnings.clone().into_list(), before.warnings.clone().into_list(), "{call}");
    }
    std::fs::remove_file(names).and_then(|()| std::fs::remove_file(&path)).expect("removed");
}

#[test]
fn an_error_within_pcall_is_the_scripts_alone_and_a_text() {
    for (call, function) in FAILING {
        let text = format!(
            "local server = newServer('192.0.2.1')\nlocal s, n = newSuffixMatchNode(), newNMG()\n\
             local ok, e = {call}\nassert(ok == false and type(e) == 'string', type(e))\n\
             assert(('skip '..e):match('^skip .*%.lua:3: {function}: .'), e)\n\
             assert(not e:find('traceback') and not e:find('runtime error'), e)"
        );
        assert_eq!(broken(&text), [] as [String; 0], "{text}");
        let draft = good(&text).0.draft;
        assert_eq!(draft.servers.iter().filter(|s| !s.removed).count(), 1, "{text}");
        let added = (draft.listeners.len(), draft.relays.len(), draft.caches.len(), draft.states.len());
        assert_eq!(added, (0, 0, 0, 0), "{text}");
        assert_eq!(draft.rules.chain(ChainKey::Query).len(), 0, "{text}");
        assert_eq!((draft.name_sets.len(), draft.networks.len()), (1, 1), "{text}");
    }
}

#[test]
fn a_list_is_loaded_without_its_bad_lines() {
    let text = "newServer('192.0.2.1') local s, bad = newSuffixMatchNode(), {}\n\
                for _, line in ipairs({'good.example', 'bad..name', 'better.example'}) do\n\
                  local ok, e = pcall(function() s:add(line) end) if not ok then bad[#bad + 1] = e end\n\
                end\n\
                assert(#bad == 1 and s:size() == 2 and s:check(newDNSName('x.better.example')))\n\
                addAction(SuffixMatchNodeRule(s), DropAction())";
    assert_eq!(good(text).0.draft.rules.chain(ChainKey::Query).len(), 1);
}

#[test]
fn errors_outside_of_pcall_are_all_reported_as_before() {
    let text = "newServer('192.0.2.1') local s = newSuffixMatchNode()\n\
                pcall(function() s:add('a..b') end)\ns:add('c..d')\npcall(addAction, 'e..f', DropAction())\n\
                newServer('nonsense')";
    let errors = broken(text);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0].starts_with("FILE:3: add: ") && errors[1].starts_with("FILE:5: newServer: "),
        "{errors:?}"
    );
    // As many as are listed, and more.
    let many = "local s = newSuffixMatchNode()\nfor _ = 1, 150 do s:add('a..b') end\npcall(s.add, s, 'c..d')";
    let errors = broken(many);
    assert_eq!(errors.len(), 101, "{errors:?}");
    assert!(errors[100].contains("50 more"), "{}", errors[100]);
    // Thrown again, it is where it was.
    let again = "newServer('192.0.2.1')\nlocal ok, e = pcall(newServer, {address='x'})\nerror(e, 0)";
    let errors = broken(again);
    assert!(errors.len() == 1 && errors[0].starts_with("FILE:2: newServer: "), "{errors:?}");
}

#[test]
fn the_states_of_shards_see_the_same_errors() {
    let text = "local server = newServer('192.0.2.1') local s, n = newSuffixMatchNode(), newNMG()\n\
                local function f() return DNSAction.None end local failed = 0\n\
                local function try(what, ...)\n\
                  local ok, e = pcall(what, ...)\n\
                  if not ok then failed = failed + 1 addAction('a', LuaAction(function() return DNSAction.Drop end)) end\n\
                end\n\
                for _, name in ipairs({'good', 'bad..name', 'b', 'x..y'}) do\n\
                  try(addAction, name, LuaAction(f)) try(s.add, s, name) try(server.addPool, server, name)\n\
                end\n\
                try(n.addMask, n, 'x') try(n.addMask, n, '192.0.2.0/24') try(newServer, {address='x'})\n\
                try(server.rmPool, server, 'none') try(function() server.weight = {} end) try(newNMG, 'x')\n\
                try(function() server:setOrder('x') end) try(QPSAction, 'x') try(addDOHLocal, '127.0.0.1')\n\
                local m = newSuffixMatchNode() try(xpcall, s.add, f, s, 'x..y')\n\
                for _ = 1, failed do addAction('b', LuaAction(f)) end\n\
                pcall(function() m:add('x..y') addAction('c', LuaAction(f)) end)\n\
                addAction(QNameSetRule(newDNSNameSet()), LuaAction(f))";
    assert_eq!(broken(text), [] as [String; 0]);
    let draft = good(text).0.draft;
    // One for each failure, as many at the end, those of four calls, and one more.
    assert_eq!(draft.functions.len(), 12 + 12 + 4 + 1);
    assert_eq!(draft.rules.chain(ChainKey::Query).len(), 12 + 12 + 2 + 1);
}

#[test]
fn every_failing_call_fails_in_the_states_of_shards_too() {
    let before = "local server, s, n = newServer('192.0.2.1'), newSuffixMatchNode(), newNMG() local d = newDNSNameSet()\n\
                  local pool, cache, set = getPool('p'), newPacketCache(10), TimedIPSetRule() pool:setCache(cache)\n\
                  local policy = newServerPolicy('p', function(servers, dq) return 1 end)\n\
                  local function f() return DNSAction.None end\n";
    for call in [
        "getPool, 5",
        "getPool, 'a', 'b'",
        "getPool",
        "getServer, 0, 1, 2",
        "getServers, 1",
        "getPoolServers, 5",
        "rmServer, 'none'",
        "rmPool, 5",
        "concentrate, {fullFactor='x'}",
        "concentrate, {}, {}",
        "roundrobin, {}",
        "leastOutstanding.policy, {}, nil",
        "hashBy, roundrobin, 'zone'",
        "bounded, roundrobin, 2",
        "setServerPolicy, 'roundrobin'",
        "newServerPolicy, 'x', 5",
        "pool.setCache, pool, 5",
        "pool.getCache, pool, 5",
        "pool.setServerPolicy, pool, 5",
        "pool.setRetry, pool, 5",
        "pool.setECS, pool, true",
        "cache.expunge, cache, 'x'",
        "cache.expungeByName, cache, 'bad..name'",
        "cache.expungeByName, cache, 'a b'",
        "cache.dump, cache",
        "server.setQPS, server, 'x'",
        "server.setOrder, server, 'x'",
        "server.setHealthCheckParams, server, 5",
        "s.add, s, 'a b'",
        "s.delete, s, 'bad..name'",
        "d.remove, d, 'bad..name'",
        "s.check, s, 'bad..name'",
        "n.match, n, 'x'",
        "n.addNMG, n, s",
        "n.addMasks, n, {'x'}",
        "newDNSName, 'a b'",
        "newDNSName, 'bad..name'",
        "newDNSName, 'a', 'b'",
        "newDNSName, 5",
        "newCA, '192.0.2.1:70000'",
        "newCA, 'x'",
        "newNetmask, '192.0.2.1', 33",
        "newNetmask, '192.0.2.1/x'",
        "newNMG, 'a', 'b'",
        "newSuffixMatchNode, 'a'",
        "newDNSNameSet, 'a'",
        "newDNSNameFromRaw, '\\1a\\0'",
        "newCAFromRaw, '1234'",
        "newDNSPacketOverlay, 'x'",
        "incMetric, 'no-such-metric'",
        "setMetric, 'no-such-metric', 5",
        "declareMetric, 'X Y', 'counter', 'd'",
        "hashPassword, ''",
        "getResolvers, '/nowhere'",
        "getListOfAddressesOfNetworkInterface, 'nope0'",
        "set.add, set",
        "TimedIPSetRule, 5, 6, 7",
        "newQPSLimiter, 'x'",
        "setKey, 'x'",
        "includeDirectory, '/nowhere'",
        "addDOHLocal, '127.0.0.1'",
        "coroutine.wrap(function() getPool(5) end)",
    ] {
        // What is given to rules tells the states apart: so does the text, as the name of a chunk. Those of
        // methods that work at any time have no place in the shards.
        let has_text = !["s.check", "n.match"].iter().any(|method| call.starts_with(method));
        let named = if has_text { "e" } else { "'x'" };
        let text = format!(
            "{before}local done = 0 for _ = 1, 2 do set:cleanup() s:add('good') n:addMask('192.0.2.0/24') getPool('q') \n\
             if pcall({call}) then done = done + 1 else addAction('a', LuaAction(f)) end end\n\
             local ok, e = pcall({call}) if not ok then\n\
             loadstring('addAction(\"x\", LuaAction(function(dq) return 0 end))', '@' .. {named})() end\n\
             if done > 0 then addAction('b', LuaAction(f)) end"
        );
        assert_eq!(broken(&text), [] as [String; 0], "{call}");
    }
}
