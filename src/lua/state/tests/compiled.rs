//! Compiled functions: what they see, that they end, and what scripts cannot access.

use crate::lua::limits::tests::in_lua_thread;
use crate::lua::state::tests::*;

/// Bodies that do not end, each in its way.
const ENDLESS: &[&str] = &[
    "while true do end",
    "for i = 1, math.huge do end",
    "while true do for i = 1, 100 do local x = i * 2 end end",
    "local function g(x) return x + 1 end local x = 0 repeat x = g(x) until x < 0",
    "::a:: goto a",
    "local function g() return g() end g()",
    "local a, b function a(n) return b(n + 1) end function b(n) return a(n) end a(1)",
    "local function r(n) return 1 + r(n + 1) end while true do pcall(r, 1) end",
    "local t = {1, 2, 3, x = 1} while true do for k, v in pairs(t) do end end",
    "local t = {1, 2, 3} while true do for k, v in ipairs(t) do end end",
    "for x in function() return 1 end do end",
    "while true do pcall(function() local x = 0 for i = 1, 1e9 do x = x + i end end) end",
    "while true do pcall(function() while true do end end) end",
    "local function p() pcall(function() while true do end end) return p() end p()",
    "while true do xpcall(function() while true do end end, function() while true do end end) end",
    "while true do local c = coroutine.wrap(function() while true do coroutine.yield(1) end end)
       for i = 1, 1000 do c() end end",
    "coroutine.wrap(function() while true do end end)()",
    "while true do local t = {} for i = 1, 50 do t[i] = {i} end end",
    "local s = '' while true do s = (s .. 'x'):sub(-20) end",
    "while true do (('x'):rep(100)):gsub('.', function(c) return c:upper() end) end",
    "while true do local t = {} for i = 1, 100 do t[i] = (i * 7919) % 101 end
       table.sort(t, function(a, b) return a < b end) end",
    "local ffi = require('ffi') pcall(ffi.cdef, 'int abs(int);') local abs = ffi.C.abs while true do abs(-1) end",
    "local function f(...) return select('#', ...) end while true do f(1, 2, 3) end",
    "local m = setmetatable({}, {__index = function(t, k) return k end}) while true do local x = m[1] end",
    "getmetatable('').__tostring = function() while true do end end error(setmetatable({}, getmetatable('')))",
    "while true do newDNSName('a.b.example'):isPartOf(newDNSName('example')) end",
];

/// Returns a file with a function of each kind that runs this body; the last one ends normally.
fn of_each_kind(body: &str) -> String {
    let body = body.replace('\n', " ");
    format!(
        "local function endless() {body} error('no') end\n\
         LuaAction(function(dq) while true do dq.rcode = 5 dq:setTag('a', 'b') if dq.qtype ~= 1 then endless() end endless() end end)\n\
         LuaResponseAction(function(dr) endless() end)\n\
         LuaRule(function(dq) endless() end)\n\
         LuaFFIAction(function(dq) endless() end)\n\
         LuaFFIRule(function(dq) endless() end)\n\
         setServerPolicyLua('p', function(servers, dq) endless() end)\n\
         setServerPolicyLuaFFI('q', function(servers, dq) endless() end)\n\
         LuaAction(function(dq) dq:editTTLs(endless) end)\n\
         LuaAction(function(dq) return DNSAction.Drop end)\n\
         function maintenance() endless() end"
    )
}

#[test]
fn endless_functions_of_every_kind_end() {
    in_lua_thread(|| {
        assert!(crate::lua::limits::is_compiled());
        for body in ENDLESS {
            let mut fixture = Fixture::new(&of_each_kind(body));
            let servers =
                [Candidate { slot: BackendSlot(0), outstanding: 0, latency_us: 0, within_qps: true }];
            for number in 0..8 {
                let function = FunctionId(number);
                // Later than the suspension that the previous one caused.
                fixture.now = fixture.now + TickDelta::from_ms(100_000);
                let before = (fixture.query_state.clone(), fixture.errors());
                let came = fixture.context(QUERY, 500, |script, context, env| match number {
                    2 | 4 => script.matches(function, context, env).is_some(),
                    5 | 6 => script.choose(function, &servers, context, env.now).is_some(),
                    _ => script.act(function, context, env).is_some(),
                });
                assert!(!came, "{number}: {body}");
                assert_eq!(fixture.errors(), before.1 + 1, "{number}: {body}");
                assert_eq!(
                    (&fixture.query_state, &fixture.message[..]),
                    (&before.0, QUERY),
                    "{number}: {body}"
                );
                assert_eq!(fixture.number(8), Some(ScriptAction::Drop), "after {number}: {body}");
            }
            let before = fixture.errors();
            fixture.script.maintain(fixture.now);
            assert_eq!(fixture.errors(), before + 1, "{body}");
            assert_eq!(fixture.number(8), Some(ScriptAction::Drop), "after maintenance: {body}");
        }
    });
}

#[test]
fn compiled_function_can_be_ended() {
    in_lua_thread(|| {
        let mut fixture = Fixture::action(
            "local n = dq:getDO() and 200 or 1e15 local x = 0 for i = 1, n do x = x + i % 7 end
             if x < 0 then return DNSAction.Drop end return DNSAction.Allow",
        );
        for _ in 0..500 {
            assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
        }
        assert_eq!((fixture.run(&QUERY[..33]), fixture.errors()), (None, 1), "without an OPT");
        fixture.now = fixture.now + TickDelta::from_ms(10_000);
        assert_eq!((fixture.run(QUERY), fixture.errors()), (Some(ScriptAction::Allow), 1));
    });
}

#[test]
fn compiled_functions_see_each_query_as_it_is() {
    let mut fixture = Fixture::new(
        "local zone, seen = newDNSName('Example.com'), nil\n\
         LuaAction(function(dq) local n = dq.qname\n\
           dq:setTag('name', n:toString()) dq:setTag('type', dq.qtype) dq:setTag('in', tostring(n:isPartOf(zone)))\n\
           dq:setTag('port', dq.remoteaddr:getPort()) dq:setTag('rd', tostring(dq.dh:getRD())) dq:setTag('len', dq.len)\n\
           if seen then assert(not pcall(function() return seen.qtype end) and not pcall(seen.setTag, seen, 'a', 'b')) end\n\
           seen = dq if dq.qtype == 28 then return DNSAction.Pool, 'abuse' end return DNSAction.None end)\n\
         LuaAction(function(dq)\n\
           for i = 1, 200 do\n\
             dq.rcode = i % 16 assert(dq.rcode == i % 16) dq.dh:setAD(i % 2 == 0) assert(dq.dh:getAD() == (i % 2 == 0))\n\
             dq:setTag('t', i) assert(dq:getTag('t') == '' .. i) dq.skipCache = i % 3 == 0 assert(dq.skipCache == (i % 3 == 0))\n\
             dq.pool = i % 2 == 0 and 'abuse' or '' assert(#dq.pool == (i % 2 == 0 and 5 or 0))\n\
             assert(dq:changeName(newDNSName('n' .. i .. '.org')) and dq.qname == newDNSName('N' .. i .. '.org'))\n\
           end return DNSAction.Allow end)",
    );
    for number in 0..2_000_u32 {
        let mut query = QUERY.to_vec();
        let name = format!("{:03}", number % 1000);
        query[13..16].copy_from_slice(name.as_bytes());
        query[17] = if number % 3 == 0 { b'e' } else { b'E' };
        query[30] = if number % 5 == 0 { 28 } else { 1 };
        query[2] = u8::from(number % 7 != 0);
        query.extend(vec![0; number as usize % 4]);
        fixture.query_state.tags.clear();
        let action = fixture.run(&query);
        assert_eq!(action, Some(if number % 5 == 0 { ScriptAction::Pool } else { ScriptAction::None }));
        assert_eq!(fixture.script.argument(), if number % 5 == 0 { &b"abuse"[..] } else { b"" });
        let tag = |name: &str| {
            String::from_utf8_lossy(fixture.query_state.tags.value(name.as_bytes()).expect("a tag"))
                .into_owned()
        };
        let capital = if number % 3 == 0 { "example" } else { "Example" };
        assert_eq!(tag("name"), format!("{name}.{capital}.com."));
        assert_eq!((tag("type"), tag("in")), (query[30].to_string(), "true".to_owned()));
        assert_eq!((tag("port"), tag("len")), ("4242".to_owned(), query.len().to_string()));
        assert_eq!(tag("rd"), (number % 7 != 0).to_string());
    }
    for _ in 0..20 {
        fixture.query_state.original.clear();
        assert_eq!((fixture.number(1), fixture.errors()), (Some(ScriptAction::Allow), 0));
    }
}

#[test]
fn error_undoes_what_a_compiled_function_did() {
    let changes = [
        "dq:setTag('a', 'b') dq.pool = 'abuse' dq:setTag('c', 'd')",
        "dq.pool = 'abuse' dq:setTag('a', 'b') dq:unsetTag('kept')",
        "dq.rcode = 3 dq.dh:setQR(true) dq:changeName(newDNSName('other.org')) dq:setTrailingData('x')",
        "dq:setContent(dq:getContent() .. 'more') dq:setTag('kept', 'other') dq.skipCache = true",
        "dq:spoof(newCA('192.0.2.9')) dq.useECS = false dq:setMaxReturnedTTL(5)",
        "dq:editTTLs(function() return 1 end) dq.ecsPrefixLength = 7",
    ];
    for change in changes {
        let mut fixture =
            Fixture::action(&format!("{change} if dq.qtype == 1 then error('x') end return DNSAction.Allow"));
        fixture.query_state.tags.set(b"kept", b"value");
        let before = fixture.query_state.clone();
        for _ in 0..300 {
            assert_eq!(fixture.run(QUERY), None, "{change}");
            assert_eq!((&fixture.query_state, &fixture.message[..]), (&before, QUERY), "{change}");
        }
    }
    let mut fixture = Fixture::new(
        "local ffi = require('ffi') local C = ffi.C\n\
         LuaFFIAction(function(dq) ffi.cast('uint8_t*', C.dnsdist_ffi_dnsquestion_get_header(dq))[0] = 9\n\
           C.dnsdist_ffi_dnsquestion_set_tag(dq, 'a', 'b') C.dnsdist_ffi_dnsquestion_set_size(dq, 20) error('x') end)",
    );
    for _ in 0..300 {
        assert_eq!((fixture.run(QUERY), &fixture.message[..]), (None, QUERY));
        assert!(fixture.query_state.tags.is_empty());
    }
}

#[test]
fn pointers_of_c_functions_reach_no_packet_after_the_call() {
    let mut fixture = Fixture::new(
        "local ffi = require('ffi') local C = ffi.C local header, name, n\n\
         LuaFFIAction(function(dq)\n\
           if header then header[2] = 0xff assert(name[0][0] == 3) end\n\
           assert(C.dnsdist_ffi_dnsquestion_get_id(dq) == 0x1234)\n\
           header = ffi.cast('uint8_t*', C.dnsdist_ffi_dnsquestion_get_header(dq))\n\
           name, n = ffi.new('const char*[1]'), ffi.new('size_t[1]') C.dnsdist_ffi_dnsquestion_get_qname_raw(dq, name, n)\n\
           return DNSAction.Allow end)",
    );
    for _ in 0..300 {
        assert_eq!((fixture.run(QUERY), &fixture.message[..]), (Some(ScriptAction::Allow), QUERY));
    }
    assert_eq!(fixture.errors(), 0);
}

#[test]
fn compiler_and_debugger_are_not_accessible() {
    holds(
        "jit.on() jit.flush() jit.opt.start('maxmcode=1') assert(jit.status() and package.loaded.jit == jit)
         for _, name in ipairs({'jit.util', 'jit.v', 'jit.profile', 'jit.bc'}) do
           assert(package.loaded[name] == nil and package.preload[name] == nil and not pcall(require, name), name)
         end
         assert(require('jit.opt') == jit.opt and require('jit') == jit and require('debug') == debug)
         for _, name in ipairs({'sethook', 'getupvalue', 'setupvalue', 'getlocal', 'getregistry', 'setmetatable', 'getfenv'}) do
           assert(debug[name] == nil, name)
         end
         assert(newproxy == nil and not pcall(require('ffi').gc, require('ffi').new('int[1]'), function() end))",
    );
    // Required of functions that call a C function that calls back.
    holds(
        "local function f(x) return x end jit.off(f) jit.off(f, true) jit.off(true) jit.on(f) assert(f(1) == 1)",
    );
}

#[test]
fn c_function_may_call_back() {
    in_lua_thread(|| {
        // LuaJIT ends the process when compiled code reaches a callback.
        for made in ["", "calls == 200 and "] {
            let mut fixture = Fixture::new(&format!(
                "local ffi = require('ffi') ffi.cdef('void qsort(void *, size_t, size_t, int (*)(const int *, const int *));')\n\
                 local calls, compare = 0, nil local function order(a, b) return a[0] - b[0] end\n\
                 local kind = 'int (*)(const int *, const int *)' if {} then compare = ffi.cast(kind, order) end\n\
                 LuaAction(function(dq) calls = calls + 1 local n = calls <= 300 and 1 or 9 local list = ffi.new('int[9]')\n\
                   if {made} not compare then compare = ffi.cast(kind, order) end assert(compare == nil or not jit.status())\n\
                   for i = 0, n - 1 do list[i] = n - i end ffi.C.qsort(list, n, 4, compare) assert(list[0] == 1)\n\
                   return DNSAction.Allow end)",
                made.is_empty()
            ));
            for call in 1..=600 {
                assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow), "{call}");
            }
            assert_eq!(fixture.errors(), 0);
        }
    });
}

#[test]
fn calls_can_be_ended_at_any_moment() {
    in_lua_thread(|| {
        let mut fixture = Fixture::new(
            "local zone = newDNSName('example.com')\n\
             LuaAction(function(dq) local t = {} while true do for i = 1, 20 do t[i] = {i, dq.qname:toString()} end\n\
               if dq.qname:isPartOf(zone) then dq:setTag('a', t[3][2]) end end end)\n\
             LuaAction(function(dq) if dq.qname:isPartOf(zone) then dq:setTag('zone', 'example') end return DNSAction.None end)",
        );
        for round in 1..=40 {
            assert_eq!((fixture.run(QUERY), fixture.errors()), (None, round));
            assert!(fixture.query_state.tags.is_empty());
            for _ in 0..200 {
                fixture.query_state.tags.clear();
                assert_eq!(fixture.number(1), Some(ScriptAction::None));
                assert_eq!(fixture.query_state.tags.value(b"zone"), Some(&b"example"[..]));
            }
            fixture.query_state.tags.clear();
            fixture.now = fixture.now + TickDelta::from_ms(100_000);
        }
    });
}
