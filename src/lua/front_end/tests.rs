//! The functions of health checks, and that no script hangs the control thread.

use std::collections::HashSet;
use std::time::Duration;

use crate::config::functions::enumerations::ENUMERATIONS;
use crate::config::functions::older::OLDER;
use crate::config::functions::{FOR_FUNCTIONS, FUNCTIONS_MISSING, HEADER_METHODS, POLICIES, WITHOUT_EFFECT};
use crate::config::options::SETTINGS;
use crate::config::tests::{File, good};
use crate::lua::front_end::*;

fn host(text: &str) -> LuaHost {
    good(text).0.lua
}

fn check(functions: &str) -> LuaHost {
    host(&format!("newServer{{address='192.0.2.1', {functions}}}"))
}

const FIRST: LuaFunction = LuaFunction(0);

fn wait<R>(result: impl Future<Output = Result<R, NoResult>>) -> Result<R, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(result).map_err(|why| match why {
        NoResult::Busy => "busy".to_owned(),
        NoResult::Failed(why) => why,
    })
}

fn choose(lua: &LuaHost, header: &mut [u8; 12]) -> Result<Question, String> {
    let (question, bytes) = wait(lua.choose(FIRST, "a.root-servers.net.", 1, 1, *header))?;
    *header = bytes;
    Ok(question)
}

fn judge(lua: &LuaHost, function: LuaFunction, server: &str, response: &[u8]) -> Result<bool, String> {
    wait(lua.judge(function, server, response))
}

#[test]
fn every_name_of_the_tables_is_there() {
    let setters = SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name);
    let missing = FUNCTIONS_MISSING.iter().chain(WITHOUT_EFFECT).flat_map(|m| m.names.iter().copied());
    let missing = missing.chain(OLDER.iter().map(|o| o.name)).chain(FOR_FUNCTIONS.iter().copied());
    let names = every_function().map(|e| e.name).chain(setters).chain(missing).chain(POLICIES);
    host(&names.map(|name| format!("assert(rawget(_G, '{name}') ~= nil, '{name}')\n")).collect::<String>());
}

#[test]
fn every_name_is_listed_once() {
    let mut seen = HashSet::new();
    let setters = SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name);
    let functions = every_function().map(|e| e.name).chain(POLICIES).chain(setters);
    let missing = FUNCTIONS_MISSING.iter().chain(WITHOUT_EFFECT).flat_map(|m| m.names.iter().copied());
    let missing = missing.chain(OLDER.iter().map(|o| o.name)).chain(FOR_FUNCTIONS.iter().copied());
    for name in functions.chain(missing) {
        assert!(seen.insert(name), "{name} twice");
    }
}

#[test]
fn messages_about_missing_functions_name_functions_that_exist() {
    let known: HashSet<&str> = every_function()
        .map(|e| e.name)
        .chain(SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name))
        .chain(ENUMERATIONS.iter().map(|(name, _)| *name))
        .collect();
    let texts = FUNCTIONS_MISSING.iter().chain(WITHOUT_EFFECT).map(|m| m.meanwhile);
    let mut found = 0;
    for text in texts.chain(OLDER.iter().map(|o| o.today)) {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
            let camel =
                word.as_bytes().windows(2).any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase());
            if camel {
                assert!(known.contains(word), "{word} in \"{text}\"");
                found += 1;
            }
        }
    }
    assert!(found > 20, "only {found}");
}

#[test]
fn sets_have_the_methods_of_the_reference_in_every_state() {
    use crate::config::functions::{NAME_SET_METHODS, NETWORK_SET_METHODS};
    let names: Vec<_> = NAME_SET_METHODS.iter().map(|e| e.name).collect();
    let networks: Vec<_> = NETWORK_SET_METHODS.iter().map(|e| e.name).collect();
    let mut text = String::new();
    let kinds = [("newSuffixMatchNode()", &names), ("newDNSNameSet()", &names), ("newNMG()", &networks)];
    for (made, methods) in kinds {
        for name in methods {
            text += &format!("assert(type({made}.{name}) == 'function', '{made}.{name}')\n");
        }
    }
    text +=
        "for _, name in ipairs({'add', 'clear', 'cleanup', 'slice'}) do assert(TimedIPSetRule()[name]) end\n";
    // With a function the file is evaluated a second time, as the shards do.
    text += "addAction(AllRule(), LuaAction(function() return DNSAction.None end))";
    host(&text);
}

#[test]
fn files_that_use_sets_have_functions_too() {
    let text = "local s = newSuffixMatchNode() s:add({'a.example', 'b.example'}) s:delete('b.example')\n\
                s:remove('x') s:clear() s:add('a.example')\n\
                assert(s:len() == 1 and s:size() == 1 and not s:empty() and s:memory() > 0 and s:toString() == tostring(s))\n\
                local d = newDNSNameSet() d:add('a') d:remove('b') d:clear() d:add('c')\n\
                assert(d:len() == 1 and d:memory() > 0 and d:getBestMatch('x.c') == newDNSName('c'))\n\
                local n = newNMG() n:addMask(newNetmask('192.0.2.0', 24)) n:addMask(newNetmask(newCA('::1')))\n\
                n:addMasks({['10.0.0.0/8'] = 1}) n:addMask(newCA('192.0.2.1')) n:clear() n:addMask('10.0.0.0/8')\n\
                local o = newNMG() o:addNMG(n) assert(n:len() == 1 and n:size() == 1 and not n:empty() and tostring(n) == n:toString())\n\
                addAction(AllRule(), LuaAction(function(dq)\n\
                  assert(s:size() == 1 and s:toString() == 'a.example.' and o:match('10.1.1.1')) return DNSAction.None end))";
    host(text);
}

#[test]
fn a_directory_can_be_included_twice() {
    let directory = std::env::temp_dir().join(format!("dnslob-twice-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory of our own");
    let text = "addAction(AllRule(), LuaAction(function() return DNSAction.None end))";
    std::fs::write(directory.join("a.conf"), text).expect("a file of our own");
    // The two evaluations find as many functions, or the file would be refused.
    host(&format!("includeDirectory('{0}') includeDirectory('{0}')", directory.display()));
    std::fs::remove_dir_all(&directory).expect("a directory of our own");
}

#[test]
fn the_standard_library_is_complete() {
    host(
        "local ffi = require('ffi'); ffi.cdef('int getpid(void);'); assert(ffi.C.getpid() > 0)\n\
         assert(bit.band(6, 3) == 2 and DNSQType.AAAA == 28 and DNSClass.CHAOS == 3 and DNSRCode.REFUSED == 5)\n\
         assert(io and os.exit and debug and package and string and table and math and coroutine)\n\
         assert(DNSOpcode.Update == 5)",
    );
}

#[test]
fn a_check_function_chooses_the_query_and_its_header() {
    let lua = check(
        "checkFunction=function(qname, qtype, qclass, dh)\n\
           assert(tostring(qname) == 'a.root-servers.net.' and qtype == 1 and qclass == 1 and dh:getID() == 258)\n\
           assert(dh:getRD() and not dh:getCD()); dh:setCD(true); dh:setRD(false)\n\
           return newDNSName('example.net'), DNSQType.AAAA, DNSClass.IN end",
    );
    let mut header = [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(choose(&lua, &mut header), Ok(("example.net.".to_owned(), 28, 1)));
    assert_eq!(header, [1, 2, 0, 0x10, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn methods_of_the_header_refuse_surplus_arguments() {
    for method in HEADER_METHODS {
        let too_many = method.signature().most() + 1;
        let arguments = vec!["true"; too_many].join(", ");
        let lua = check(&format!("checkFunction=function(n, t, c, dh) dh:{}({arguments}) end", method.name));
        let error = choose(&lua, &mut [0; 12]).expect_err(method.name);
        assert!(error.contains(&format!("{}: called with {too_many} argument", method.name)), "{error}");
    }
}

#[test]
fn errors_of_check_functions_are_reported() {
    for (body, message) in [
        ("error('no')", "no"),
        ("return 1, 1, 1", "returned no name"),
        ("return 'a..b', 1, 1", "returned \"a..b\"; expected a domain name"),
        ("return 'a', 'x', 1", "returned \"x\" as qtype"),
        ("return 'a', 1, 65536", "returned 65536 as qclass"),
        ("newServer('192.0.2.1')", "newServer can be called only while the configuration is evaluated"),
    ] {
        let lua = check(&format!("checkFunction=function() {body} end"));
        let error = choose(&lua, &mut [0; 12]).expect_err(body);
        assert!(error.contains(message), "{body}: {error}");
    }
}

#[test]
fn an_answer_is_judged() {
    let lua = check(
        "checkResponseFunction=function(name, response, content)\n\
           return name == 'one' and response.rcode == DNSRCode.REFUSED and response.ra and not response.aa\n\
             and response.ancount == 3 and #content == 13 and content:byte(13) == 7 end",
    );
    let mut answer = vec![0, 1, 0x81, 0x85, 0, 1, 0, 3, 0, 0, 0, 0, 7];
    assert_eq!(judge(&lua, FIRST, "one", &answer), Ok(true));
    assert_eq!(judge(&lua, FIRST, "two", &answer), Ok(false));
    answer[3] = 0x80;
    assert_eq!(judge(&lua, FIRST, "one", &answer), Ok(false));
    // Hostile lengths only read as zeros.
    for length in 0..12 {
        assert_eq!(judge(&lua, FIRST, "one", &answer[..length]), Ok(false));
    }
    let vague = check("checkResponseFunction=function() return 1 end");
    assert_eq!(judge(&vague, FIRST, "", &[]), Err("returned 1; expected true or false".to_owned()));
}

#[test]
fn the_common_validator_is_for_servers_without_their_own() {
    let text = "setHealthCheckResponseValidator(function() return true end)\n\
                newServer('192.0.2.1')\n\
                newServer{address='192.0.2.2', checkResponseFunction=function() return false end}";
    let (loaded, compiled) = good(text);
    let judges: Vec<_> = compiled.snapshot.backends.iter().flatten().filter_map(|b| b.health.judge).collect();
    let verdicts: Vec<_> = judges.iter().map(|j| judge(&loaded.lua, *j, "", &[])).collect();
    assert_eq!(verdicts, [Ok(true), Ok(false)]);
}

#[test]
fn an_endless_check_function_is_ended_even_if_it_catches_errors() {
    for body in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "coroutine.wrap(function() while true do end end)()",
        "local function f() return f() end; f()",
        "xpcall(function() while true do end end, function() while true do end end)",
        "jit.on() while true do end",
        "(('a'):rep(3000)):find(('.-'):rep(5) .. 'b')",
    ] {
        let lua = check(&format!("checkFunction=function() {body} end"));
        for _ in 0..2 {
            let error = choose(&lua, &mut [0; 12]).expect_err(body);
            assert!(error.contains("ran too long"), "{body}: {error}");
        }
    }
}

#[test]
fn an_endless_file_can_be_interrupted() {
    let file = File::new("while true do end");
    let interrupt = Interrupt::default();
    let other = interrupt.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        other.interrupt();
    });
    let errors = evaluate(Some(file.path()), &interrupt).expect_err("interrupted");
    thread.join().expect("the interrupting thread");
    assert!(errors[0].to_string().ends_with(":1: interrupted"), "{}", errors[0]);
}

#[test]
fn evaluation_is_limited_in_time_even_in_c() {
    for text in [
        "\nwhile true do end",
        "\nxpcall(function() while true do end end, function() while true do end end)",
        "\nwhile true do pcall(function() while true do end end) end",
        "\n(('a'):rep(3000)):find(('.-'):rep(5) .. 'b')",
    ] {
        let file = File::new(text);
        let limit = Duration::from_millis(20);
        let errors = evaluate_within(Some(file.path()), &Interrupt::default(), limit, Watches::default())
            .expect_err(text);
        let message = errors.errors.last().expect("an error").to_string();
        assert!(message.contains("lua:2: ") || message.contains("lua:3: "), "{text}: {message}");
    }
    // Nothing can end this, and nothing waits for it. Other tests of the process continue
    // meanwhile.
    let file = File::new("require('ffi').cdef('unsigned sleep(unsigned);') require('ffi').C.sleep(2)");
    let limit = Duration::from_millis(20);
    let errors = evaluate_within(Some(file.path()), &Interrupt::default(), limit, Watches::default())
        .expect_err("too long");
    assert!(errors.errors[0].to_string().contains("not evaluated within"), "{errors:?}");
}

#[test]
fn a_file_can_end_the_process_and_a_check_function_cannot() {
    let file = File::new("newServer('nonsense')\nfor _ = 1, 10 do pcall(os.exit, 7) end");
    let errors = evaluate(Some(file.path()), &Interrupt::default()).expect_err("the end");
    assert_eq!(crate::config::exit_code(&errors), Some(7), "{errors:?}");
    assert!(
        errors.last().expect("an error").to_string().contains(".lua:2: os.exit(7) ends the process only")
    );
    let lua = check("checkFunction=function() os.exit(0) end");
    let error = choose(&lua, &mut [0; 12]).expect_err("no end");
    assert!(error.contains("only the evaluation of the configuration can end the process"), "{error}");
}

#[test]
fn warnings_of_the_lines_before_an_error_of_lua_are_told() {
    let broken = |text: &str| {
        let file = File::new(text);
        let limit = Duration::from_secs(20);
        let broken = evaluate_within(Some(file.path()), &Interrupt::default(), limit, Watches::default());
        let broken = broken.expect_err(text);
        let lines = |list: Vec<ConfigError>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        (lines(broken.errors), lines(broken.warnings))
    };
    let before = "newServer{address='192.0.2.1', nope=1}\nnewServer('nonsense')\n";
    for end in ["foo()", "error('end')"] {
        let (errors, warnings) = broken(&format!("{before}{end}"));
        assert!(errors.len() == 2 && errors[1].contains(":3: "), "{errors:?}");
        assert!(
            warnings.len() == 1 && warnings[0].contains(":1: newServer: unknown argument"),
            "{warnings:?}"
        );
        let (errors, warnings) = broken(&format!("{before}setStrict(true) {end}"));
        assert!(errors.len() == 3 && errors[0].contains("unknown argument") && errors[2].contains(":3: "));
        assert_eq!(warnings, [] as [String; 0]);
    }
}

#[test]
fn what_is_no_file_in_a_directory_is_skipped() {
    let directory = std::env::temp_dir().join(format!("dnslob-skipped-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("directory.conf")).expect("a directory of our own");
    std::fs::write(directory.join("a.conf"), "addLocal('127.0.0.1:5301')").expect("a file of our own");
    std::fs::write(directory.join("target"), "addLocal('127.0.0.1:5302')").expect("a file of our own");
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, directory.join(name)).expect("a link of our own");
    };
    link("target", "b.conf");
    link("nowhere", "dangling.conf");
    link("/dev/null", "device.conf");
    let file = File::new(&format!("includeDirectory('{}')", directory.display()));
    let evaluated = evaluate(Some(file.path()), &Interrupt::default());
    std::fs::remove_dir_all(&directory).expect("a directory of our own");
    let (draft, _) = evaluated.expect("a configuration");
    assert_eq!(draft.errors.into_list(), []);
    assert_eq!(draft.listeners.len(), 2);
    let warnings = draft.warnings.into_list();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].to_string().contains("dangling.conf\" is skipped: No such file"), "{warnings:?}");
}

#[test]
fn directories_that_include_each_other_are_an_error() {
    let directory = std::env::temp_dir().join(format!("dnslob-loop-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory of our own");
    for name in ["a.conf", "b.conf"] {
        let text = format!("-- once more\nincludeDirectory('{}')", directory.display());
        std::fs::write(directory.join(name), text).expect("a file of our own");
    }
    let file = File::new(&format!("includeDirectory('{}')", directory.display()));
    let errors = evaluate(Some(file.path()), &Interrupt::default()).expect_err("a loop");
    assert_eq!(errors.len(), 1, "{errors:?}");
    let message = errors[0].to_string();
    assert!(
        message.contains("a.conf:2: includeDirectory: more than 16 directories include each other"),
        "{message}"
    );
    std::fs::remove_dir_all(&directory).expect("a directory of our own");
}

#[test]
fn recursion_in_a_file_is_an_error() {
    let file = File::new("");
    for text in [
        format!("\ndofile('{}')", file.path().display()),
        "\nlocal function f(s) return (s:gsub('.', f)) end f('x')".to_owned(),
        "\nlocal f f = function() assert(load(f)) end f()".to_owned(),
        "\nlocal f f = function() coroutine.wrap(f)() end f()".to_owned(),
        "\nlocal mt = {} mt.__tostring = function(x) return ('%s'):format(x) end tostring(setmetatable({}, mt))"
            .to_owned(),
        "\naddAction(AllRule(), LuaAction(function() return 0 end)) local f f = function() loadstring(f()) end f()"
            .to_owned(),
    ] {
        std::fs::write(file.path(), &text).expect("a file of our own");
        let errors = evaluate(Some(file.path()), &Interrupt::default()).expect_err(&text);
        assert!(errors[0].to_string().contains("lua:2: "), "{text}: {errors:?}");
    }
}

#[test]
fn a_file_that_exhausts_memory_is_an_error() {
    let file = File::new("local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1e8) .. i end");
    let errors = evaluate(Some(file.path()), &Interrupt::default()).expect_err("no end of memory");
    assert!(errors[0].to_string().contains("not enough memory"), "{errors:?}");
}

#[test]
fn bytecode_is_refused_and_a_shell_line_skipped() {
    let bytecode = File::new("\u{1b}LJ\u{2}");
    assert!(evaluate(Some(bytecode.path()), &Interrupt::default()).is_err());
    let shell = File::new("#!/usr/bin/env -S dnslob -C\nx = = 1");
    let errors = evaluate(Some(shell.path()), &Interrupt::default()).expect_err("broken");
    assert!(errors[0].to_string().contains(":2: unexpected symbol"), "{}", errors[0]);
}
