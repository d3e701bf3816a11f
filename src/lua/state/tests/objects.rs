//! Sets, limiters and files of a configuration as functions see them; and that a failed call has no
//! effect.

use std::sync::atomic::Ordering::Relaxed;

use crate::base::prefix::Prefix;
use crate::lua::state::tests::*;
use crate::rules::limits::{DEADLINES_BYTES_MAX, StateSpec};
use crate::rules::names::NameSet;
use crate::rules::networks::NetworkSet;
use crate::stats::live::State;

/// Names of the file's first set, and networks of its first: what the control thread filled them
/// with.
fn filled(text: &str) -> Fixture {
    let names: Names = ["\x03www\x07example\x03com\0", "\x03org\0"].into_iter().collect::<NameSet>().into();
    let networks = [("192.0.2.0/24", true), ("192.0.2.77", false), ("2001:db8::/32", true)];
    let networks = networks.map(|(n, is_in)| (n.parse::<Prefix>().expect("a network"), is_in));
    let networks: Networks = networks.into_iter().collect::<NetworkSet>().into();
    let files = Files::one("test.lua", text.as_bytes());
    let source = check(files, recorded(text), vec![names], vec![networks]).unwrap_or_else(|e| panic!("{e}"));
    let mut fixture = Fixture::action("return DNSAction.None");
    fixture.script = source.start(0).expect("a state");
    fixture
}

#[test]
fn sets_contain_what_the_file_added() {
    for (made, own) in [("newSuffixMatchNode()", "x.org"), ("newDNSNameSet()", "net")] {
        let mut fixture = filled(&format!(
            "local s = {made}\n\
             LuaAction(function(dq)\n\
               assert(s:size() == 2 and s:len() == 2 and not s:empty() and s:memory() > 0)\n\
               assert(s:toString() == 'org., www.example.com.', s:toString())\n\
               assert(s:check(dq.qname) and s:getBestMatch('a.org'):toString() == 'org.')\n\
               s:add('org') s:add('{own}') assert(s:size() == 3 and s:check('{own}'))\n\
               assert(s:remove('{own}') == 1 and s:size() == 2 and not pcall(s.delete, s, 'org'))\n\
               s:clear() assert(s:empty() and not s:check(dq.qname) and s:toString() == '') return DNSAction.Allow end)"
        ));
        assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow), "{made}");
    }
}

#[test]
fn longest_network_decides_whoever_added_it() {
    let mut fixture = filled(
        "local g = newNMG()\n\
         LuaAction(function(dq)\n\
           assert(g:size() == 3 and not g:empty() and tostring(g) == '192.0.2.0/24, !192.0.2.77/32, 2001:db8::/32', tostring(g))\n\
           assert(not g:match(dq.remoteaddr) and g:match('192.0.2.1') and not g:match('10.0.0.1'))\n\
           local copy = newNMG() copy:addNMG(g) assert(copy:size() == 3 and copy:match('192.0.2.1') and not copy:match('192.0.2.77'))\n\
           g:addMask('!192.0.0.0/16') assert(g:match('192.0.2.1') and not g:match('192.0.3.1'))\n\
           g:addMask('!192.0.2.0/25') assert(not g:match('192.0.2.1') and g:match('192.0.2.200'))\n\
           g:addMask('192.0.2.77') assert(g:match(dq.remoteaddr))\n\
           g:addMasks({['10.0.0.0/8'] = 5}) assert(g:match('10.0.0.1') and g:len() == 7)\n\
           local all = newNMG() all:addMask('::/0') assert(all:match('::1') and not all:match('10.0.0.1'))\n\
           g:clear() assert(g:empty() and not g:match('192.0.2.1')) return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    holds(
        "assert(newNetmask('192.0.2.9', 24) == newNetmask('192.0.2.0/24') and newNetmask(newCA('::1')):getBits() == 128)",
    );
    holds(
        "assert(not pcall(newNetmask, '192.0.2.9', 33) and newNetmask('2001:db8::1', 32):match('2001:db8::2'))",
    );
}

#[test]
fn limiters_are_of_all_shards() {
    let text = "local first, second = newQPSLimiter(1, 2), newQPSLimiter(0)\n\
                LuaAction(function(dq)\n\
                  assert(first:check() and not second:check() and not pcall(newQPSLimiter, 1)) return DNSAction.Allow end)\n\
                LuaAction(function(dq) assert(not first:check()) return DNSAction.Allow end)";
    let source = check(Files::one("test.lua", text.as_bytes()), recorded(text), Vec::new(), Vec::new());
    let source = source.unwrap_or_else(|e| panic!("{e}"));
    let mut fixture = Fixture::action("return DNSAction.None");
    for _ in 0..2 {
        fixture.script = source.start(0).expect("a state");
        assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    }
    assert_eq!(fixture.number(1), Some(ScriptAction::Allow));
}

#[test]
fn functions_can_ask_the_machine() {
    let mut fixture = Fixture::new(
        "assert(#getListOfNetworkInterfaces() > 0)\n\
         LuaAction(function(dq)\n\
           assert(table.concat(getListOfAddressesOfNetworkInterface('lo'), ' '):find('127.0.0.1', 1, true))\n\
           assert(table.concat(getListOfRangesOfNetworkInterface('lo'), ' '):find('127.0.0.0/8', 1, true))\n\
           local ok, why = pcall(getResolvers, '/nowhere') assert(not ok and why:find('cannot read \"/nowhere\"', 1, true), why)\n\
           assert(getDOHFrontendCount() == 0 and next(getDynamicBlocks()) == nil) return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
}

#[test]
fn functions_change_timed_sets_under_their_numbers() {
    let mut fixture = Fixture::new(
        "MaxQPSRule(5) QPSAction(5) local t = TimedIPSetRule() MaxQPSIPRule(5) local u = newTimedIPSetRule() t:slice()\n\
         LuaAction(function(dq) t:add(dq.remoteaddr, 10) u:add('192.0.2.77', 5) u:cleanup() return DNSAction.Allow end)\n\
         LuaAction(function(dq) t:clear() return DNSAction.Allow end)\n\
         LuaAction(function(dq) t:add(dq.remoteaddr, 10) error('x') end)\n\
         LuaAction(function(dq) t:add(dq.remoteaddr, -1) return DNSAction.Allow end)\n\
         setServerPolicyLua('p', function(servers, dq) t:add(dq.remoteaddr, 10) return servers[1] end)\n\
         function maintenance() t:clear() end",
    );
    let timed = |identity| StateSpec::timed(identity, DEADLINES_BYTES_MAX);
    fixture.limits.adopt(&[
        StateSpec::rate(1, 5, 5),
        StateSpec::rate(2, 5, 5),
        timed(3),
        StateSpec::clients(4, DEADLINES_BYTES_MAX),
        timed(5),
    ]);
    let peer: SocketAddr = "192.0.2.77:4242".parse().expect("an address");
    let ip = Endpoint::from(peer).ip;
    let now = fixture.now;
    let after = |s: u64| now + TickDelta::from_ms(s * 1_000);
    let inside = |fixture: &Fixture, state, s| fixture.limits.timed_contains(state, &ip, after(s));
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert!(
        inside(&fixture, 2, 9)
            && !inside(&fixture, 2, 10)
            && inside(&fixture, 4, 4)
            && !inside(&fixture, 4, 5)
    );
    assert_eq!(fixture.number(1), Some(ScriptAction::Allow));
    assert!(!inside(&fixture, 2, 0) && inside(&fixture, 4, 4));
    assert_eq!((fixture.number(2), fixture.number(3), fixture.errors()), (None, None, 2));
    assert!(!inside(&fixture, 2, 0));
    let candidates = [Candidate { slot: BackendSlot(0), outstanding: 0, latency_us: 0, within_qps: true }];
    let chosen = fixture.context(QUERY, 0, |script, context, env| {
        script.choose(FunctionId(4), &candidates, context, env.now)
    });
    assert_eq!((chosen, fixture.errors()), (None, 3));
    fixture.script.maintain(now);
    assert_eq!(fixture.errors(), 4);
}

#[test]
fn failed_call_has_no_effect() {
    let changes = "dq.pool = 'abuse' dq.ecsOverride = true dq.tempFailureTTL = 7 dq:setTag('a', 'b') \
                   dq:setMaxReturnedTTL(9) dq:setExtendedDNSError(15, 'x') dq:changeName(newDNSName('n')) dq.rcode = 5";
    for end in
        ["error('x')", "return 'x'", "return 99", "return DNSAction.Delay, 'soon'", "while true do end"]
    {
        let mut fixture = Fixture::action(&format!("{changes} {end}"));
        fixture.query_state.tags.set(b"a", b"before");
        let before = fixture.query_state.clone();
        assert_eq!((fixture.run(QUERY), fixture.errors()), (None, 1), "{end}");
        assert_eq!((&fixture.query_state, &fixture.message[..]), (&before, QUERY), "{end}");
    }
}

#[test]
fn answers_have_the_requested_type_and_the_clients_flags() {
    let spoof = "dq:spoof({newCA('192.0.2.9'), newCA('2001:db8::9')}) return DNSAction.HeaderModify";
    for (qtype, types) in [(1, &[1][..]), (28, &[28]), (255, &[1, 28]), (15, &[])] {
        let mut query = QUERY.to_vec();
        query[30] = qtype;
        let mut fixture = Fixture::action(spoof);
        assert_eq!(fixture.run(&query), Some(ScriptAction::HeaderModify));
        let found: Vec<u16> = Records::of(&fixture.message).map(|r| r.rtype).filter(|t| *t != 41).collect();
        assert_eq!(found, types, "type {qtype}");
        assert_eq!(fixture.message[2..4], [0x81, 0x80], "an answer, with or without records");
    }
    let mut fixture = Fixture::action(&format!("dq.dh:setRD(false) dq.dh:setCD(true) {spoof}"));
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::HeaderModify));
    assert_eq!(fixture.message[2..4], [0x81, 0x80]);
}

#[test]
fn c_functions_answer_only_the_requested_type() {
    let mut fixture = Fixture::new(
        "local ffi = require('ffi') local s = ('x'):rep(16)\n\
         LuaFFIAction(function(dq) local v = ffi.new('dnsdist_ffi_raw_value_t[2]') v[0].value, v[0].size = s, 16 v[1].value, v[1].size = s, 5\n\
           ffi.C.dnsdist_ffi_dnsquestion_spoof_addrs(dq, v, 2) return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert_eq!(fixture.message[2..4], [0x81, 0x80], "an answer");
    assert!(Records::of(&fixture.message).all(|r| r.rtype == 41), "without records");
}

#[test]
fn header_pointer_stays_valid_while_the_message_grows() {
    let mut fixture = Fixture::new(
        "local ffi = require('ffi') local C = ffi.C\n\
         LuaFFIAction(function(dq) local h = ffi.cast('uint8_t*', C.dnsdist_ffi_dnsquestion_get_header(dq))\n\
           assert(C.dnsdist_ffi_dnsquestion_set_size(dq, 540) and C.dnsdist_ffi_dnsquestion_set_trailing_data(dq, ('x'):rep(450), 450))\n\
           h[0] = 0xab assert(C.dnsdist_ffi_dnsquestion_get_id(dq) == 0xab34) return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert_eq!(fixture.message[0], 0xab);
}

#[test]
fn delays_are_bounded() {
    let mut fixture = Fixture::action("return DNSAction.Delay, '4000000000'");
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Delay(60_000)));
}

#[test]
fn file_read_by_a_function_changes_the_identity() {
    let file = |text: &str| (Files::one("test.lua", text.as_bytes()), recorded(text));
    let identity = |(files, recorded)| check(files, recorded, vec![], vec![]).expect("a source").identity();
    let text = "LuaAction(function(dq) return DNSAction.None end)";
    assert_eq!(identity(file(text)), identity(file(text)));
    // The text of a file that reads another does not identify it.
    let place = std::env::temp_dir().join(format!("dnslob-identity-{}", std::process::id()));
    std::fs::write(&place, "return 1").expect("a file of our own");
    let text = format!("dofile('{}')\nLuaAction(function(dq) return DNSAction.None end)", place.display());
    let (first, second) = (identity(file(&text)), identity(file(&text)));
    std::fs::remove_file(&place).expect("a file of our own");
    assert_ne!(first, second);
    let known = "local ffi = require('ffi')\nLuaAction(function(dq) return DNSAction.None end)";
    assert_eq!(identity(file(known)), identity(file(known)), "what is built in is no file");
}

#[test]
fn text_of_a_function_changes_the_identity() {
    let place = std::env::temp_dir().join(format!("dnslob-text-{}", std::process::id()));
    let codes = ["return function() return 1 end", "return function() return 2 end"];
    // Renaming a file to its own name tests whether it exists, and reads nothing.
    let text = format!(
        "LuaFFIPerThreadAction(os.rename('{0}', '{0}') and '{1}' or '{2}')",
        place.display(),
        codes[0],
        codes[1]
    );
    let identity = |code: &str| {
        let function = one((FunctionKind::Action, Interface::Text), code, 0);
        let files = Files::one("test.lua", text.as_bytes());
        check(files, vec![function], vec![], vec![]).expect("a source").identity()
    };
    std::fs::write(&place, "").expect("a file of our own");
    let first = identity(codes[0]);
    assert_eq!(first, identity(codes[0]));
    std::fs::remove_file(&place).expect("a file of our own");
    assert_ne!(first, identity(codes[1]));
}

#[test]
fn spoofed_answers_need_no_argument_after_spoof() {
    for decision in ["Spoof", "SpoofRaw", "SpoofPacket", "SpoofCNAME"] {
        let body = |argument| {
            format!(
                "dq:spoof({{newCA('192.0.2.1'), newCA('192.0.2.2')}}) return DNSAction.{decision}{argument}"
            )
        };
        for argument in ["", ", nil", ", ''"] {
            let mut fixture = Fixture::action(&body(argument));
            assert_eq!(fixture.run(QUERY), Some(ScriptAction::HeaderModify), "{decision}{argument}");
            assert_eq!(Records::of(&fixture.message).filter(|r| r.rtype == 1).count(), 2);
        }
        // Without an answer the argument makes it.
        let mut fixture = Fixture::action(&format!("return DNSAction.{decision}"));
        assert_eq!((fixture.run(QUERY), fixture.errors()), (None, 1), "{decision}");
        let mut fixture = Fixture::action(&format!(
            "if not done then done = true dq:spoof('abcd') error('x') end return DNSAction.{decision}"
        ));
        assert_eq!(
            [fixture.run(QUERY), fixture.run(QUERY)],
            [None, None],
            "an answer of another call is none"
        );
    }
    let mut fixture = Fixture::action("dq:spoof('abcd') return DNSAction.SpoofRaw, 'efgh'");
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::SpoofRaw));
}

#[test]
fn a_tag_that_a_c_function_cannot_set_is_an_error() {
    for set in [
        "dnsdist_ffi_dnsquestion_set_tag(dq, 't'..n, 'x')",
        "dnsdist_ffi_dnsquestion_set_tag_raw(dq, 't'..n, 'x', 1)",
    ] {
        let text = |most: u32| {
            format!(
                "LuaFFIAction(function(dq) for n = 1, {most} do require('ffi').C.{set} end return DNSAction.Allow end)"
            )
        };
        let mut fixture = Fixture::new(&text(64));
        assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
        let mut fixture = Fixture::new(&text(65));
        assert_eq!((fixture.run(QUERY), fixture.errors()), (None, 1));
        assert!(fixture.query_state.tags.is_empty(), "a failed call has no effect");
    }
}

#[test]
fn members_for_what_is_not_here_do_nothing() {
    holds(
        "assert(dq.size == dq.len and dq.qname:tostring() == dq.qname:toString() and dq.deviceID == '')
         dq.deviceID = 'a' dq.deviceName = 'b' dq.requestorID = 'c' dq:sendTrap('x') dq:sendTrap()
         assert(dq:getHTTPPath() == '' and dq:getHTTPHost() == '' and dq:getHTTPScheme() == '')
         assert(dq:getHTTPQueryString() == '' and next(dq:getHTTPHeaders()) == nil)
         assert(not pcall(function() dq.size = 1 end) and not pcall(function() return dq.noSuch end))",
    );
}

#[test]
fn functions_set_options_and_negative_answers() {
    holds(
        "dq:setEDNSOption(65001, 'abc') dq:setEDNSOption(10, 'x')
         local all = dq:getEDNSOptions() assert(all[65001]:getValues()[1] == 'abc' and all[10]:getValues()[1] == 'x')
         assert(not pcall(dq.setEDNSOption, dq, 65536, ''))",
    );
    // What does not fit is an error, and nothing is lost.
    holds(
        "dq:setEDNSOption(65001, 'abc') local before = dq:getContent()
         for _, length in ipairs({ 5000, 65536, 70000 }) do
           local done, why = pcall(dq.setEDNSOption, dq, 65002, ('x'):rep(length))
           assert(not done and why:find('an option of ' .. length .. ' bytes does not fit', 1, true), why)
           assert(dq:getContent() == before)
         end
         local done = pcall(dq.setEDNSOption, dq, 8, ('x'):rep(70000)) assert(not done and dq:getContent() == before)",
    );
    let mut fixture = Fixture::action("dq:setEDNSOption(65001, ('x'):rep(70000)) return DNSAction.Allow");
    assert_eq!((fixture.run(QUERY), fixture.errors()), (None, 1));
    // An answer without EDNS is for a client without it.
    let fixture = holds_for_answers("dr:setEDNSOption(65001, 'abc')");
    assert_eq!(fixture.message, ANSWER);
    let mut fixture = Fixture::action(
        "dq:setNegativeAndAdditionalSOA(true, 'Example.com', 9, 'ns.example.com.', 'h.example.com', 1, 2, 3, 4, 5)
         return DNSAction.HeaderModify",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::HeaderModify));
    assert_eq!(fixture.message[3] & 15, 3, "NXDOMAIN");
    let soa: Vec<_> = Records::of(&fixture.message).filter(|r| r.rtype == 6).map(|r| r.ttl).collect();
    assert_eq!(soa, [9]);
}

/// A configuration with servers a to d, of which b is down and c in the pool "abuse", and functions.
fn with_servers(functions: &str) -> Fixture {
    let mut fixture = Fixture::new(&format!(
        "newServer{{address='192.0.2.1', name='a'}} newServer{{address='192.0.2.1', name='b', order=7}} \
         local c = newServer{{address='192.0.2.3:54', id='third', name='c', pool='abuse', weight=5}} \
         local gone = newServer('192.0.2.9') rmServer(gone) local all = getServers()\n{functions}"
    ));
    let written = [
        ("192.0.2.1:53", "192.0.2.1:53", "a"),
        ("192.0.2.1:53#2", "192.0.2.1:53", "b"),
        ("third", "192.0.2.3:54", "c"),
    ];
    let slots = [2_u16, 0, 1];
    fixture.snapshot.backends = vec![None; 3];
    for (at, ((id, address, name), slot)) in written.into_iter().zip(slots).enumerate() {
        let mut server = crate::balance::tests::backend(slot);
        (server.id, server.name) = (id.to_owned(), name.to_owned());
        server.address = address.parse().expect("an address");
        (server.order, server.weight) = ([1, 7, 1][at], [1, 1, 5][at]);
        fixture.snapshot.backends[usize::from(slot)] = Some(Arc::new(server));
        let state = if name == "b" { State::Down } else { State::Up };
        fixture.live_state.set_state(BackendSlot(slot), state);
    }
    fixture.snapshot.pools[0].members = vec![BackendSlot(2), BackendSlot(0)];
    fixture.snapshot.pools[1].members = vec![BackendSlot(1)];
    let stats = &fixture.live_state.shards()[0];
    stats.outstanding[1].store(4, Relaxed);
    stats.latency_us[1].store(1_500, Relaxed);
    fixture
}

#[test]
fn functions_of_rules_read_servers() {
    let body = "
        local a, b = getServer(0), getServer('b')
        assert(a:getName() == 'a' and a.order == 1 and a:isUp() and a.upStatus == true)
        assert(b:getName() == 'b' and b.order == 7 and not b:isUp() and b.upStatus == false)
        assert(c.name == 'c' and c.weight == 5 and c:getOutstanding() == 4 and c:getLatency() == 1.5)
        assert(c:getNameWithAddr() == 'c (192.0.2.3:54)' and c:getHealthCheckMode() == 'auto' and tostring(c) == 'c')
        assert(#all == 3 and #getServers() == 3 and all[2]:getName() == 'c' and getServer('third') == c)
        assert(getServer(1) == c and getServer(2) == b and all[3] == b)
        assert(getServer(3) == nil and getServer('nobody') == nil)
        local ok, e = pcall(function() return gone:isUp() end)
        assert(not ok and e:find('not in the configuration that runs'), e)
        assert(not pcall(function() c.weight = 9 end) and not pcall(c.setDown, c))
        local pool = getPoolServers('abuse')
        assert(#pool == 1 and pool[1]:getName() == 'c' and #getPoolServers('') == 2 and #getPoolServers('none') == 0)";
    let mut fixture = with_servers(&format!(
        "LuaAction(function(dq) {} return DNSAction.Allow end)\nfunction maintenance() {} end",
        body.replace('\n', " "),
        body.replace('\n', " ")
    ));
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    fixture.script.maintain(fixture.now);
    assert_eq!(fixture.errors(), 0, "between calls, too");
    fixture.live_state.set_state(BackendSlot(2), State::Down);
    assert_eq!(fixture.run(QUERY), None, "the state is that of the moment");
}

#[test]
fn functions_of_rules_see_servers_that_come_and_go() {
    let body = "local names = {} for at, s in ipairs(getServers()) do names[at] = s.name .. tostring(s:isUp()) end
        local b, new = getServer('b'), getServer('new')
        names[#names + 1] = tostring(b and b:isUp()) .. tostring(new and new.name) .. getServer(2).name
        names, calls = table.concat(names, ' '), (calls or 0) + 1
        assert(names == (calls == 1 and 'atrue ctrue bfalse falsenilb' or 'atrue ctrue newtrue nilnewnew'), names)
        return DNSAction.Allow";
    let mut fixture = with_servers(&format!("LuaAction(function(dq) {} end)", body.replace('\n', " ")));
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    // The console or the API removes one and adds another in its slot.
    let mut new = crate::balance::tests::backend(0);
    (new.id, new.name, new.order) = ("192.0.2.9:53".to_owned(), "new".to_owned(), 5);
    new.address = "192.0.2.9:53".parse().expect("an address");
    fixture.snapshot.backends[0] = Some(Arc::new(new));
    fixture.snapshot.generation += 1;
    fixture.live_state.set_state(BackendSlot(0), State::Up);
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
}

#[test]
fn policies_choose_servers_of_other_pools() {
    for (choice, want) in [
        ("leastOutstanding.policy(getPoolServers('abuse'), dq)", Some(1)),
        ("getPoolServers('abuse')[1]", Some(1)),
        ("c", Some(1)),
        ("getServer('a')", Some(2)),
        ("servers[1]", Some(2)),
        ("leastOutstanding.policy({getServer('b')}, dq)", None),
        ("roundrobin.policy({getServer('b'), c}, dq)", Some(1)),
        ("gone", None),
    ] {
        let mut fixture =
            with_servers(&format!("setServerPolicyLua('p', function(servers, dq) return {choice} end)"));
        let servers = [Candidate { slot: BackendSlot(2), outstanding: 0, latency_us: 0, within_qps: true }];
        let chosen =
            fixture.context(QUERY, 0, |s, context, env| s.choose(FunctionId(0), &servers, context, env.now));
        assert_eq!(chosen, want.map(BackendSlot), "{choice}");
    }
}
