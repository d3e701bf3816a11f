//! Tests errors of functions of the configuration within `pcall`.

use crate::config::ruleset::ChainKey;
use crate::config::tests::{broken, good};

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
];

#[test]
fn an_error_within_pcall_is_the_scripts_alone_and_a_text() {
    for (call, function) in FAILING {
        let text = format!(
            "local server = newServer('192.0.2.1')\nlocal s, n = newSuffixMatchNode(), newNMG()\n\
             local ok, e = {call}\nassert(ok == false and type(e) == 'string', type(e))\n\
             assert(('skip '..e):match('^skip .*%.lua:3: {function}: .') or e:match('^newDNSName: .'), e)\n\
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
