//! Names that functions of a configuration use and nothing defines.

use super::*;

/// A function that shards run.
fn shard(body: &str) -> String {
    format!("addAction(AllRule(), LuaAction(function(dq) do {body} end return DNSAction.None end))")
}

/// Bodies of functions, each with its one error.
const REFUSED: &[(&str, &str)] = &[
    ("noSuch()", "unknown name \"noSuch\"; neither dnslob nor this configuration defines it"),
    ("newDNSNam('a')", "unknown name \"newDNSNam\"; did you mean \"newDNSName\"?"),
    ("local x = noSuch.member", "unknown name \"noSuch\""),
    ("noSuch.member = 1", "unknown name \"noSuch\""),
    ("return DNSActoin.Drop", "unknown name \"DNSActoin\""),
    ("dq:setTag('a', tostring(dq.tcp and noSuch(dq.qname and 1 or 2)))", "unknown name \"noSuch\""),
    ("for at = 1, 3 do if at == 2 then noSuch() end end", "unknown name \"noSuch\""),
    ("for _, it in ipairs({noSuch()}) do end", "unknown name \"noSuch\""),
    ("_G.noSuch()", "unknown name \"noSuch\""),
    ("local f = noSuch f()", "unknown name \"noSuch\""),
    ("if noSuch then return 1 end noSuch()", "unknown name \"noSuch\""),
    ("if not noSuch then noSuch() end", "unknown name \"noSuch\""),
    ("if dnslob then noSuch() end", "unknown name \"noSuch\""),
    ("return (function() return function() return noSuch() end end)()", "unknown name \"noSuch\""),
    (
        "newThread('')",
        "newThread: the function (threads and messages) is not implemented yet; use maintenance()",
    ),
    (
        "if dq.tcp then addDynBlocks({}, 'x', 5) end",
        "addDynBlocks: the function (limits and dynamic blocks) is not",
    ),
    ("newThread('') newThread('a')", "newThread: the function"),
    (
        "require('ffi').C.dnsdist_ffi_no_such(dq)",
        "unknown function of the LuaFFI family \"dnsdist_ffi_no_such\"",
    ),
    (
        "require('ffi').C.dnsdist_ffi_dnsquestion_set_http_response(dq, 200, '', 0, '')",
        "dnsdist_ffi_dnsquestion_set_http_response: the function (answers of DNS over HTTPS) is not implemented yet; \
         refuse the query",
    ),
    (
        "local C = require('ffi').C C.dnsdist_ffi_dnsquestion_get_qtyp(dq)",
        "unknown function of the LuaFFI family \"dnsdist_ffi_dnsquestion_get_qtyp\"; did you mean \
         \"dnsdist_ffi_dnsquestion_get_qtype\"?",
    ),
    (
        "local p = require('ffi').new('const dnsdist_ffi_no_such_t *[1]')",
        "unknown C type \"const dnsdist_ffi_no_such_t *[1]\"",
    ),
];

#[test]
fn a_name_that_a_function_uses_and_nothing_defines_is_an_error() {
    for (body, want) in REFUSED {
        let want = format!("FILE:2: {want}");
        let health = format!("newServer{{address='192.0.2.1', checkFunction=function(dq)\n{body} end}}");
        for text in [
            format!("function maintenance()\nlocal dq = {{}} {body} end"),
            format!("addMaintenanceCallback(function()\nlocal dq = {{}} {body} end)"),
            format!("local function helper(dq)\n{body} end {}", shard("return helper(dq)")),
            format!("local unused = function(dq)\n{body} end"),
            format!("addAction(LuaRule(function(dq)\n{body} end), DropAction())"),
            health,
        ] {
            let errors = broken(&text);
            assert!(
                errors.len() == 1 && errors[0].starts_with(&want),
                "{text}\ngave {errors:#?}\nnot  {want}"
            );
        }
    }
}

#[test]
fn a_member_that_a_table_of_fixed_members_lacks_is_an_error() {
    const USES: &[(&str, &str)] = &[
        (
            "return dq.qtype == DNSQType.AAA",
            "unknown constant \"DNSQType.AAA\"; did you mean \"DNSQType.AAAA\"?",
        ),
        ("if DNSQType.AAA ~= dq.qtype then return 1 end", "unknown constant \"DNSQType.AAA\""),
        (
            "dq.rcode = DNSRCode.NXDOMIAN",
            "unknown constant \"DNSRCode.NXDOMIAN\"; did you mean \"DNSRCode.NXDOMAIN\"?",
        ),
        ("return DNSRCode.NXDOMIAN", "unknown constant \"DNSRCode.NXDOMIAN\""),
        ("dq:setTag('a', DNSClass.INN)", "unknown constant \"DNSClass.INN\""),
        ("local t = {[DNSOpcode.Qery] = 1}", "unknown constant \"DNSOpcode.Qery\""),
        ("local t = {EDNSOptionCode.COKIE}", "unknown constant \"EDNSOptionCode.COKIE\""),
        ("local t = 'a' .. _G.DNSSection.Anser", "unknown constant \"DNSSection.Anser\""),
        ("local wanted = DNSQType.AAA return dq.qtype == wanted", "unknown constant \"DNSQType.AAA\""),
        ("if not DNSQType.AAA then return dq.qtype == DNSQType.AAA end", "unknown constant \"DNSQType.AAA\""),
        (
            "return string.fromat('%d', 1)",
            "unknown function \"string.fromat\"; did you mean \"string.format\"?",
        ),
        ("math.nope()", "unknown function \"math.nope\"; there is none of this name"),
        ("local f = bit.xor f(1)", "unknown function \"bit.xor\""),
        ("table.nope.x = 1", "unknown function \"table.nope\""),
        ("return os.tim()", "unknown function \"os.tim\""),
        ("return dq.qtype == DNSQType.AAA or dq.tcp", "unknown constant \"DNSQType.AAA\""),
        ("return dq.tcp and dq.qtype == DNSQType.AAA", "unknown constant \"DNSQType.AAA\""),
        ("local t = dq.tcp and DNSQType.AAA or DNSQType.A return t", "unknown constant \"DNSQType.AAA\""),
        ("return dq.tcp and DNSQType.AAA or DNSQType.A", "unknown constant \"DNSQType.AAA\""),
        ("return dq.tcp and DNSQType.AAA", "unknown constant \"DNSQType.AAA\""),
        ("local t = dq.tcp and DNSQType.AAA return dq.qtype == t", "unknown constant \"DNSQType.AAA\""),
        (
            "local t = 1 if dq.tcp then t = DNSQType.AAA end return dq.qtype == t",
            "unknown constant \"DNSQType.AAA\"",
        ),
        (
            "local t for at = 1, 3 do if dq.tcp then t = DNSQType.AAA end end return dq.qtype == t",
            "unknown constant \"DNSQType.AAA\"",
        ),
    ];
    for (body, want) in USES {
        let want = format!("FILE:2: {want}");
        for text in [
            format!("function maintenance()\nlocal dq = {{}} {body} end"),
            format!("local unused = function(dq)\n{body} end"),
            format!("addAction(LuaRule(function(dq)\n{body} end), DropAction())"),
            format!("newServer{{address='192.0.2.1', checkFunction=function(dq)\n{body} end}}"),
        ] {
            let errors = broken(&text);
            assert!(
                errors.len() == 1 && errors[0].starts_with(&want),
                "{text}\ngave {errors:#?}\nnot  {want}"
            );
        }
    }
}

#[test]
fn such_tables_are_known_by_the_names_that_a_file_gives_them() {
    for (before, body, want) in [
        (
            "local types = DNSQType",
            "return dq.qtype == types.AAA",
            "unknown constant \"DNSQType.AAA\"; did you",
        ),
        (
            "local types = DNSQType",
            "return (function() return types.AAA end)()",
            "unknown constant \"DNSQType.AAA\"",
        ),
        (
            "local fmt = string",
            "return fmt.fromat('%d', 1)",
            "unknown function \"string.fromat\"; did you mean",
        ),
        ("local b = bit", "return b.xor(1, 2)", "unknown function \"bit.xor\"; "),
        ("local act = DNSAction", "return act.Nope", "unknown decision of a function \"Nope\""),
    ] {
        let want = format!("FILE:2: {want}");
        let errors = broken(&format!("{before} addAction(AllRule(), LuaAction(function(dq)\n{body} end))"));
        assert!(errors.len() == 1 && errors[0].starts_with(&want), "{before} {body}: {errors:#?}\n{want}");
    }
    for (before, body) in [
        ("local types = DNSQType", "return types.AAAA == dq.qtype"),
        ("local types = {AAA=1}", "return types.AAA == dq.qtype"),
        ("local types = DNSQType function other() types = {AAA=1} end", "return types.AAA == dq.qtype"),
        ("local string = {nope=print}", "return string.nope('a')"),
    ] {
        let text = format!("{before} addAction(AllRule(), LuaAction(function(dq)\n{body} end))");
        assert_eq!(broken(&text), [] as [String; 0], "{text}");
    }
}

#[test]
fn members_that_a_file_asks_for_or_adds_are_allowed() {
    for (before, body) in [
        ("", "return dq.qtype == DNSQType.HTTPS, string.format('%d', bit.band(1, 2)), math.huge, os.time()"),
        ("", "local unpack = table.unpack or unpack return unpack({1})"),
        ("", "return dq.qtype == (DNSQType.NEWTYPE or 65280)"),
        ("", "if dq.tcp then return dq.qtype == (DNSQType.NEWTYPE or 65280) end"),
        ("", "if dq.tcp then local t = DNSQType.NEWTYPE or 65280 return dq.qtype == t end return dq.tcp"),
        ("", "local t = dq.tcp if not t then t = DNSQType.NEWTYPE end if t then return dq.qtype == t end"),
        ("", "local t = DNSQType.NEWTYPE if dq.tcp then t = t or 5 end return t and dq.qtype == t"),
        ("", "local t = DNSQType.NEWTYPE while dq.tcp and t do return t end return t == nil"),
        (
            "",
            "local y if dq.tcp then y = DNSQType.NEWTYPE else y = 1 end if y == nil then y = 2 end return y == 2",
        ),
        (
            "",
            "local y = 1 if dq.tcp then y = DNSQType.NEWTYPE end if y ~= nil and dq.qtype == y then return y end",
        ),
        (
            "",
            "local y = 65 if dq.tcp then y = DNSQType.NEWTYPE end return type(y) == 'number' and dq.qtype == y",
        ),
        ("", "local b = require('bit') return b.band(dq.qtype, 1) == 1, require('bit').bxor(1, 2)"),
        ("local bit = require('bit') local band = bit.band", "return bit.tohex(band(dq.qtype, 1))"),
        ("", "if DNSQType.NEWTYPE and dq.qtype == DNSQType.NEWTYPE then return 1 end"),
        ("", "if string.buffer then string.buffer() end if type(bit.x) == 'function' then bit.x() end"),
        ("", "if DNSQType.NEWTYPE == nil then return 1 end return dq.qtype == DNSQType.NEWTYPE"),
        ("", "if not dnslob then return string.nope() end pcall(function() string.nope() end)"),
        ("DNSQType.NEWTYPE = 65280", "return dq.qtype == DNSQType.NEWTYPE"),
        ("function string.trim(s) return s end", "return string.trim('a')"),
        ("for _, name in ipairs({'trim'}) do string[name] = print end", "return string.trim('a')"),
        ("rawset(string, 'trim', print)", "return string.trim('a')"),
        ("setmetatable(math, {__index=function() return print end})", "return math.nope('a')"),
        ("math = {nope = print}", "return math.nope('a')"),
        ("_G['math'] = {nope = print}", "return math.nope('a')"),
        (
            "function later(name) math[name] = print rawset(bit, name, print) end",
            "return math.nope('a'), bit.x()",
        ),
        ("local string = {nope = print}", "return string.nope('a')"),
        ("", "local DNSQType = {X = 1} return dq.qtype == DNSQType.X"),
    ] {
        let text = format!("{before}\n{}", shard(body));
        assert_eq!(broken(&text), [] as [String; 0], "{text}");
    }
}

#[test]
fn every_function_and_every_name_is_reported() {
    let text = format!("noSuchA = nil\n{}\n{}", shard("noSuchB()"), shard("noSuchC() noSuchD()"));
    let errors = broken(&text);
    let wants = [(2, "noSuchB"), (3, "noSuchC"), (3, "noSuchD")];
    assert_eq!(errors.len(), wants.len(), "{errors:#?}");
    for (error, (line, name)) in errors.iter().zip(wants) {
        assert!(error.starts_with(&format!("FILE:{line}: unknown name \"{name}\"")), "{error}");
    }
    // Beside errors of the file itself.
    let errors = broken(&format!("newServer('nonsense')\n{}", shard("noSuch()")));
    assert!(errors.len() == 2 && errors[1].starts_with("FILE:2: unknown name"), "{errors:#?}");
    // A text that is code.
    let text = "\naddAction(AllRule(), LuaFFIPerThreadAction('return function(dq) noSuch() return 0 end'))";
    let errors = broken(text);
    assert!(errors.len() == 1 && errors[0].starts_with("FILE:2: unknown name \"noSuch\""), "{errors:#?}");
}

#[test]
fn names_that_are_there_or_asked_for_are_allowed() {
    for body in [
        "newDNSName('a') newCA('192.0.2.1') newDNSPacketOverlay(dq:getContent()) getCurrentTime() infolog('x')",
        "string.rep('a', 3) local f = print f('x') table.sort({}) math.floor(1.5)",
        "later() _G.other() third()",
        "if newThing then newThing() end",
        "if newThing ~= nil then newThing() end",
        "if newThing == nil then return 0 end newThing()",
        "if not newThing then return 0 end newThing()",
        "if type(newThing) == 'function' then newThing() end",
        "local x = newThing and newThing('a') or 1",
        "local f = newThing or function() end f()",
        "while newThing do newThing() end",
        "if newThread then newThread('') end",
        "if not dnslob then newThread('') end",
        "if dnslob then return 0 else newThing() end",
        "if dnslob == nil then newThing() end",
        "coroutine.create(function() newThing() end) local co, f = coroutine, function() newThing() end co.wrap(f)",
        "pcall(newThing) pcall(function() newThing() end) local ok = pcall(function() return newThread('') end)",
        "local name = 'noSuch' local t = {noSuch = 1} return t.noSuch, t[name]",
        "local newThing = function() end newThing()",
        "for newThing in function() end do newThing() end",
        "return noSuch",
        "local C = require('ffi').C return C.dnsdist_ffi_dnsquestion_get_qtype(dq)",
    ] {
        let set = "function later() end function maintenance() function third() end end\n\
                   local function sets() _G.other = function() end end";
        for text in
            [format!("{} {set}", shard(body)), format!("{set} local unused = function(dq) {body} end")]
        {
            let errors = broken(&text);
            assert_eq!(errors, [] as [String; 0], "{text}");
        }
    }
    // What cannot be followed is not judged, but names of dnsdist are.
    for before in [
        "setmetatable(_G, {__index=function() return print end})",
        "setfenv(1, setmetatable({}, {__index=_G}))",
    ] {
        assert_eq!(broken(&format!("{before} {}", shard("noSuch()"))), [] as [String; 0], "{before}");
        assert_eq!(broken(&format!("{before} {}", shard("newThread()"))).len(), 1, "{before}");
    }
    // Code that does not run here.
    let text = format!("if not dnslob then webserver('x') {} end newServer('192.0.2.1')", shard("noSuch()"));
    assert_eq!(broken(&text), [] as [String; 0]);
}

#[test]
fn types_and_functions_of_the_luaffi_family_are_there_at_the_level_of_the_file() {
    for text in [
        "local out = ffi.new('const dnsdist_ffi_tag_t*[1]')",
        "local options = ffi.new('const dnsdist_ffi_ednsoption_t*[1]')",
        "local kind = ffi.typeof('dnsdist_ffi_raw_value_t[?]')",
        "local get = ffi.C.dnsdist_ffi_dnsquestion_get_qtype assert(get(nil) == 0)",
        "local get, out = ffi.C.dnsdist_ffi_dnsquestion_get_tag_array, ffi.new('const dnsdist_ffi_tag_t*[1]')\n\
         addAction(AllRule(), LuaFFIAction(function(dq) local n = get(dq, out) return 0 end))",
        "ffi.cdef('int abs(int);') assert(ffi.C.abs(-2) == 2)",
    ] {
        let text = format!("newServer('192.0.2.1') local ffi = require('ffi')\n{text}");
        assert_eq!(broken(&text), [] as [String; 0], "{text}");
    }
}

#[test]
fn names_of_other_files_are_known() {
    let directory = std::env::temp_dir().join(format!("dnslob-names-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory of our own");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("a file of our own");
        path.display().to_string()
    };
    let included = write("1.conf", "function fromDirectory() end\n\nfunction bad() noSuch() end");
    let done = write("2.lua", "function fromFile() end\nfunction worse() noSuch() end");
    let text = format!(
        "{}\nincludeDirectory('{}') dofile('{done}')",
        shard("fromDirectory() fromFile()"),
        directory.display()
    );
    let errors = broken(&text);
    let unknown = "unknown name \"noSuch\"; neither dnslob nor this configuration defines it";
    let mut wants = [format!("{included}:3: {unknown}"), format!("{done}:2: {unknown}")];
    wants.sort();
    assert_eq!(errors, wants[..1], "of the file that is included");
    std::fs::write(directory.join("1.conf"), "function fromDirectory() end").expect("a file of our own");
    assert_eq!(broken(&text), [] as [String; 0]);
    std::fs::remove_dir_all(&directory).expect("a directory of our own");
}

#[test]
fn functions_that_only_configure_are_warned_of_where_shards_run_them() {
    let warned = |text: &str| -> Vec<String> {
        let warnings = good(text).0.draft.warnings.into_list();
        warnings.iter().map(|w| w.to_string().split_once(": ").expect("a place").1.to_owned()).collect()
    };
    let want =
        "newServer: works only while the configuration is evaluated, and a function that runs later calls it";
    for text in [
        "function maintenance() newServer('192.0.2.1') end",
        "addMaintenanceCallback(function() newServer('192.0.2.1') end)",
        &shard("newServer('192.0.2.1')"),
    ] {
        assert_eq!(warned(text), [want], "{text}");
        assert!(broken(&format!("setStrict(true) {text}"))[0].ends_with(want), "{text}");
    }
    // Of two functions that begin in one line, it cannot be told which one runs later.
    let helper = "local function add(a) newServer(a) end add('192.0.2.1')";
    assert_eq!(warned(&format!("{helper} {}", shard(""))), [] as [&str; 0]);
}

#[test]
fn members_that_an_object_does_not_have_are_errors() {
    let on_query = "unknown member of a query \"";
    for (made, body, want) in [
        ("addAction(AllRule(), LuaAction(function(dq)\n", "dq:getNoSuch()", format!("{on_query}getNoSuch\"")),
        (
            "addAction(AllRule(), LuaAction(function(dq)\n",
            "return dq.qtypo",
            format!("{on_query}qtypo\"; did you mean \"qtype\"?"),
        ),
        (
            "addAction(LuaRule(function(q)\n",
            "if q.tcp then return q:restart() end",
            format!("{on_query}restart\""),
        ),
        (
            "addAction(AllRule(), LuaAction(function(dq)\n",
            "local it = dq if it.tcp then it:editTTLs(print) end",
            format!("{on_query}editTTLs\""),
        ),
        (
            "setServerPolicyLua('p', function(servers, dq)\n",
            "return dq.noSuch",
            format!("{on_query}noSuch\""),
        ),
        (
            "addResponseAction(AllRule(), LuaResponseAction(function(dr)\n",
            "dr:getNoSuch()",
            "unknown member of an answer \"getNoSuch\"".to_owned(),
        ),
        (
            "addAction(AllRule(), LuaAction(function(dq)\n",
            "return dq.qname:toSting()",
            "unknown method of a name \"toSting\"; did you mean \"toString\"?".to_owned(),
        ),
        (
            "addAction(AllRule(), LuaAction(function(dq)\n",
            "local n = dq.qname return n:noSuch()",
            "unknown method of a name \"noSuch\"".to_owned(),
        ),
        (
            "addAction(AllRule(), LuaAction(function(dq)\n",
            "return dq.remoteaddr:getIP()",
            "unknown method of an address \"getIP\"".to_owned(),
        ),
        (
            "addAction(AllRule(), LuaAction(function(dq)\n",
            "dq.dh:getXX()",
            "unknown method of a header \"getXX\"".to_owned(),
        ),
        (
            "addAction(AllRule(), LuaAction(function(dq)\n",
            "dq.qname = newDNSName('a')",
            "unknown member that can be set \"qname\"".to_owned(),
        ),
        (
            "addAction(AllRule(), LuaAction(function(dq)\n",
            "return DNSAction.Refuse",
            "unknown decision of a function \"Refuse\"; did you mean \"Refused\"?".to_owned(),
        ),
    ] {
        let end = if made.contains("LuaRule") {
            " end), DropAction())"
        } else if made.starts_with("set") {
            " end)"
        } else {
            " end))"
        };
        let text = format!("{made}{body}{end}");
        let errors = broken(&text);
        let want = format!("FILE:2: {want}");
        assert!(errors.len() == 1 && errors[0].starts_with(&want), "{text}\ngave {errors:#?}\nnot  {want}");
    }
    for body in [
        "dq:setTag('a', dq:getTag('b')) dq.pool = 'x' dq.dh:setTC(true) return DNSAction.Refused",
        "local name, who = dq.qname, dq.remoteaddr return tostring(name) .. who:tostringWithPort()",
        "pcall(function() return dq.noSuch end)",
        "if not dnslob then dq:getNoSuch() end",
        "dq = {} return dq.noSuch",
        "local t = dq.tcp and {} or dq return t.noSuch",
        "local key = 'noSuch' return dq:getTagArray()[key]",
    ] {
        good(&shard(body));
    }
    // A helper for both may be for answers only; one for nothing of ours is not judged.
    good(
        "local function f(d) if d.rcode then d:restart() end end addAction(AllRule(), LuaAction(f))\n\
          addResponseAction(AllRule(), LuaResponseAction(f)) newServer{address='192.0.2.1', checkFunction=function(dq)\n return dq.noSuch end}",
    );
    good(
        "local DNSAction = {Own = 1} addAction(AllRule(), LuaAction(function(dq) return DNSAction.Own end))",
    );
}

#[test]
fn servers_are_read_by_functions_of_rules() {
    let made = good(&shard("return #getPoolServers(''), getServer(0), getServers()"));
    assert!(made.0.draft.warnings.is_empty(), "{:?}", made.0.draft.warnings);
}

#[test]
fn objects_of_the_configuration_that_functions_cannot_use_are_found() {
    /// What stands in front, the body of a function, and its error.
    const USES: &[(&str, &str, &str)] = &[
        ("local pc = newPacketCache(10)", "pc:dump('x')", "dump: of a packet cache, works only while"),
        ("pc = newPacketCache(10)", "pc:dump('x')", "dump: of a packet cache, works only while"),
        (
            "pc = newPacketCache(10)",
            "return (function() pc:dump('x') end)()",
            "dump: of a packet cache, works only",
        ),
        (
            "local pc = newPacketCache(10)",
            "return (function() pc:dump('x') end)()",
            "dump: of a packet cache",
        ),
        ("pc = newPacketCache(10)", "local c = pc c:dump('x')", "dump: of a packet cache, works only while"),
        (
            "pc = newPacketCache(10)",
            "pc:expungeByNam('x')",
            "unknown method of a packet cache \"expungeByNam\"; did you",
        ),
        ("", "getPool('x'):getCache():dump('x')", "dump: of a packet cache, works only while"),
        ("", "local c = getPool('x'):getCache() c:dump('x')", "dump: of a packet cache, works only while"),
        ("", "getPool('x'):setCache(nil)", "setCache: of a pool, works only while"),
        ("local p = getPool('x')", "p:setServerPolicy(roundrobin)", "setServerPolicy: of a pool, works only"),
        ("local s = newServer('192.0.2.1')", "s:setDown()", "setDown: of a server, works only while"),
        ("s = newServer('192.0.2.1')", "s.weight = 5", "weight: of a server, works only while"),
        ("local s = newServer('192.0.2.1')", "return s.pools", "pools: of a server, works only while"),
        ("", "getServer(0):setDown()", "setDown: of a server, works only while"),
        ("", "for _, s in ipairs(getServers()) do s:setDown() end", "setDown: of a server, works only while"),
        (
            "",
            "for _, s in pairs(getServers()) do if s:isUp() then s:setDown() end end",
            "setDown: of a server, works",
        ),
        (
            "",
            "local all = getServers() for _, s in ipairs(all) do s:setDown() end",
            "setDown: of a server, works",
        ),
        (
            "",
            "local all = getServers() for at = 1, #all do all[at]:setDown() end",
            "setDown: of a server, works only",
        ),
        ("", "getServers()[1]:setDown()", "setDown: of a server, works only while"),
        ("", "for _, s in ipairs(getPoolServers('')) do s.weight = 5 end", "weight: of a server, works only"),
        (
            "",
            "for _, s in ipairs(getServers()) do s:getNam() end",
            "unknown member of a server \"getNam\"; did",
        ),
        (
            "local set = newSuffixMatchNode()",
            "set:addFile('x')",
            "addFile: of a set of names, works only while",
        ),
        ("local r = QTypeRule(1)", "return r:getMatches()", "getMatches: of an object of the configuration"),
        ("local a = DropAction()", "return a:getStats()", "getStats: of an object of the configuration"),
    ];
    for (before, body, want) in USES {
        let want = format!("FILE:2: {want}");
        for text in [
            format!("{before} addAction(AllRule(), LuaAction(function(dq)\n{body} end))"),
            format!("{before} addAction(LuaRule(function(dq)\n{body} end), DropAction())"),
            format!("{before} function maintenance()\n{body} end"),
            format!("{before} setServerPolicyLua('p', function(servers, dq)\n{body} end)"),
        ] {
            let errors = broken(&text);
            assert!(
                errors.len() == 1 && errors[0].starts_with(&want),
                "{text}\ngave {errors:#?}\nnot  {want}"
            );
        }
        // A function that others call may have been called by the file, too.
        let text = format!(
            "{before} local function f()\n{body} end addAction(AllRule(), LuaAction(function(dq) f() end))"
        );
        if !want.contains("unknown") {
            let warnings = good(&text).0.draft.warnings.into_list();
            assert!(
                warnings.iter().any(|w| w.to_string().contains(&want["FILE".len()..])),
                "{text} gave {warnings:#?}"
            );
        }
    }
    for (before, body) in [
        (
            "local pc = newPacketCache(10)",
            "pc:expungeByName(dq.qname, DNSQType.ANY, true) pc:expunge(0) pc:purgeExpired(1)",
        ),
        (
            "pc = newPacketCache(10)",
            "local s = pc:getStats() pc:printStats() return tostring(pc) .. pc:toString(), pc:isFull()",
        ),
        ("", "getPool('x'):getCache():expungeByName(dq.qname)"),
        (
            "",
            "for _, s in ipairs(getServers()) do local it = s.name .. s.weight if s:isUp() then it = nil end end",
        ),
        ("", "for _, s in ipairs(getServers()) do s = {setDown = print} s:setDown() end"),
        (
            "local s = newServer{address='192.0.2.1', id='a'}",
            "return s:isUp() and s.name .. s.weight .. s.order, s.upStatus",
        ),
        (
            "local set = newDNSNameSet()",
            "set:add('a') return set:check(dq.qname), set:getBestMatch(dq.qname)",
        ),
        ("local set = newNMG()", "set:addMask('192.0.2.0/24') return set:match(dq.remoteaddr), set:size()"),
        ("local set = TimedIPSetRule()", "set:add(dq.remoteaddr, 5)"),
        // Another value may be there then, and what expects errors has them.
        (
            "local pc = newPacketCache(10) function set(c) pc = c end",
            "if pc then pc = nil end return pc:dump('x')",
        ),
        ("local pc = newPacketCache(10)", "pcall(function() pc:dump('x') end)"),
        ("local pc = newPacketCache(10)", "if not dnslob then pc:dump('x') end"),
    ] {
        let text = format!("{before} addAction(AllRule(), LuaAction(function(dq)\n{body} end))");
        assert_eq!(broken(&text), [] as [String; 0], "{text}");
    }
}

#[test]
fn metrics_that_functions_change_and_nothing_declares_are_told() {
    let told = |text: &str| {
        let file = File::new(text);
        let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
        let loaded = load(&flags).expect("a configuration");
        let name = file.path().display().to_string();
        let warnings = loaded.draft.warnings.clone().into_list();
        warnings.iter().map(|w| w.to_string().replace(&name, "FILE")).collect::<Vec<_>>()
    };
    let before = "newServer('192.0.2.1') declareMetric('told-hits', 'counter', 'Hits.')\n";
    for (body, want) in [
        ("incMetric('told-hits') decMetric('told-hits') return getMetric('told-hits')", None),
        ("incMetric('told-hit')", Some("FILE:2: unknown metric \"told-hit\"; did you mean \"told-hits\"?")),
        ("setMetric('other', 5)", Some("FILE:2: unknown metric \"other\"; declareMetric declares it")),
        ("observeMetric('other', dq.len, {labels={a='b'}})", Some("FILE:2: unknown metric \"other\"")),
        ("return incMetric('other', 2)", Some("FILE:2: unknown metric \"other\"")),
        // Names that are known only at work.
        ("incMetric('told-' .. tostring(dq.qname))", None),
        ("local name = dq.pool incMetric(name)", None),
        ("declareMetric('other', 'counter', 'Others.') incMetric('other')", None),
        ("declareMetric(dq.pool, 'counter', 'Others.') incMetric('other')", None),
        ("local incMetric = print incMetric('other')", None),
        ("pcall(function() incMetric('other') end)", None),
    ] {
        let warnings = told(&format!("{before}{}", shard(body)));
        match want {
            None => assert_eq!(warnings, [] as [String; 0], "{body}"),
            Some(want) => {
                assert_eq!(warnings.len(), 1, "{body}: {warnings:?}");
                assert!(warnings[0].starts_with(want), "{body}: {warnings:?}");
            }
        }
    }
    let own = format!("{before}function incMetric() end {}", shard("incMetric('other')"));
    assert_eq!(told(&own), [] as [String; 0], "it is the file's own");
}
