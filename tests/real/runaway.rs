//! Lua that does not return, in rules and in the file: every query is answered, and every signal is
//! handled.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, binary, listen, run};
use crate::load::{Load, Plan};
use crate::place::{Directory, port, wait_for};
use crate::process::Program;
use crate::servers::ask_from;

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Function bodies with endless loops, endless recursion, or unbounded memory.
const RUNAWAYS: &[&str] = &[
    "while true do end",
    "while true do pcall(function() while true do end end) end",
    "xpcall(function() while true do end end, function() while true do end end)",
    "if jit then jit.on() end while true do end",
    "if debug.sethook then debug.sethook() end while true do end",
    "if newproxy then local p = newproxy(true) getmetatable(p).__gc = function() while true do end end
       p = nil collectgarbage() end error('no')",
    "dq.qname:toString():rep(30):find(('.-'):rep(6) .. '%z')",
    "dq.qname:toString():rep(30):gsub(('.-'):rep(6) .. '%z', '')",
    "for w in dq.qname:toString():rep(30):gmatch(('.-'):rep(6) .. '%z') do end error('no')",
    "return ('x'):rep(1e9)",
    "kept = kept or {} for i = 1, 1e9 do kept[#kept + 1] = ('x'):rep(1e6) .. #kept end",
    "error(setmetatable({}, {__tostring = function() while true do end end}))",
    "local f f = function(s) return (s:gsub('.', f)) end f('x')",
    "local f f = function() coroutine.wrap(f)() end f()",
    "f = function() load(f) return nil end f()",
    "os.exit(1)",
];

#[test]
fn runaway_functions_do_not_affect_other_queries() {
    let server = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let mut lua = listen(at) + &backend(server.address, "");
    for (n, body) in RUNAWAYS.iter().enumerate() {
        lua += &format!("addAction('k{n}.runaway.test', LuaAction(function(dq) {body} end))\n");
    }
    lua += "addAction(AllRule(), LuaAction(function(dq) dq:setTag('seen', '1') return DNSAction.None end))\n";
    let mut instance = Instance::start(&lua);
    let plan = Plan { target: at, rate: 500, count: u64::MAX, patience: Duration::from_secs(8) };
    let load = Load::start(plan);
    for round in 0..2 {
        for (n, body) in RUNAWAYS.iter().enumerate() {
            let name = format!("r{round}.k{n}.runaway.test");
            let answer = ask_from(Ipv4Addr::LOCALHOST.into(), at, &name, Duration::from_secs(8));
            let code = answer.map(|answer| answer[3] & 0x0f);
            assert_eq!(code, Some(2), "SERVFAIL: {name}: {body}; {}", instance.program.transcript());
        }
    }
    let report = load.finish();
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(server.queries(), report.sent, "queries at both ends");
    let asked = 2 * RUNAWAYS.len() as u64;
    let errors = instance.counted("script-errors");
    wait_for(
        || format!("{asked} errors, {errors} at first"),
        || (instance.counted("script-errors") == asked).then_some(()),
    );
    // One error of each function is logged per second and shard.
    let errors = instance.program.lines_with(0, "Lua: ").len();
    assert!(
        (RUNAWAYS.len()..=2 * RUNAWAYS.len()).contains(&errors),
        "{errors} lines; {}",
        instance.program.transcript()
    );
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}

/// A file that creates another file to show its evaluation, and then loops endlessly.
fn endless(directory: &Directory, how: &str) -> (String, std::path::PathBuf) {
    let mark = directory.path().join("mark");
    (format!("io.open('{}', 'w'):close()\n{how}\n", mark.display()), mark)
}

const ENDLESS: &[&str] = &[
    "while true do end",
    "while true do xpcall(function() while true do end end, function() while true do end end) end",
    "require('ffi').cdef('unsigned sleep(unsigned);') while true do require('ffi').C.sleep(1000) end",
];

fn is_there(mark: &Path) -> Option<()> {
    mark.exists().then_some(())
}

#[test]
fn sigterm_ends_an_endless_evaluation() {
    for how in ENDLESS {
        for flags in [&["--check-config"][..], &[]] {
            let directory = Directory::new();
            let (text, mark) = endless(&directory, how);
            let path = directory.write("dnslob.lua", &text);
            let mut program = Program::start(Command::new(binary()).args(flags).arg("-C").arg(path));
            wait_for(|| "the evaluation".into(), || is_there(&mark));
            assert!(program.ended().is_none(), "{how}: {}", program.transcript());
            program.signal(Signal::SIGTERM);
            program.wait();
        }
    }
}

#[test]
fn an_endless_reload_does_not_disturb_service_and_ends_with_the_process() {
    let server = Backend::start(1, Behaviour::Prompt);
    for how in ENDLESS {
        let at = local();
        let lua = listen(at) + &backend(server.address, "");
        let directory = Directory::new();
        let mut instance = Instance::start(&lua);
        let plan = Plan { target: at, rate: 500, count: u64::MAX, patience: Duration::from_secs(4) };
        let load = Load::start(plan);
        let (text, mark) = endless(&directory, how);
        instance.begin_reload(&(lua + &text));
        wait_for(|| "the evaluation".into(), || is_there(&mark));
        let goal = load.answered() + 200;
        wait_for(|| "answers meanwhile".into(), || (load.answered() >= goal).then_some(()));
        assert!(!instance.dump().is_empty(), "signals have their effect meanwhile");
        let report = load.finish();
        report.assert_nothing_lost(&|| instance.program.transcript());
        let asked = std::time::Instant::now();
        assert!(instance.stop().success(), "{how}: {}", instance.program.transcript());
        assert!(asked.elapsed() < Duration::from_secs(15), "{how}: it took {:?}", asked.elapsed());
    }
}

#[test]
fn a_file_ends_the_process_at_its_start_only() {
    let directory = Directory::new();
    let path = directory.write("exits.lua", "newServer('127.0.0.1')\nos.exit(3)\n");
    let path = path.to_str().expect("a path in UTF-8");
    for arguments in [&["--check-config", "-C", path][..], &["-C", path]] {
        let (status, output) = run(arguments);
        assert_eq!(status.code(), Some(3), "{arguments:?}: {output}");
    }
    let server = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let lua = listen(at) + &backend(server.address, "");
    let mut instance = Instance::start(&lua);
    instance.reload(&(lua + "os.exit(3)\n"));
    // The log has a thread of its own.
    let refused = "os.exit(3) ends the process only at its start";
    wait_for(
        || format!("the refusal: {}", instance.program.transcript()),
        || (instance.program.lines_with(0, refused).len() == 1).then_some(()),
    );
    assert!(ask_from(Ipv4Addr::LOCALHOST.into(), at, "q1.after.test", Duration::from_secs(4)).is_some());
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}

#[test]
fn a_check_function_that_sleeps_delays_no_other_check() {
    let (server, other) = (Backend::start(1, Behaviour::Prompt), Backend::start(2, Behaviour::Prompt));
    let at = local();
    let sleeps = "pool='other', checkInterval=1, checkFunction=function(name, qtype, qclass)\n\
                  os.execute('sleep 2') return name, qtype, qclass end";
    let checked = |server: &Backend, how: &str| format!("newServer{{address='{}', {how}}}\n", server.address);
    let lua = listen(at) + &checked(&server, "checkInterval=1") + &checked(&other, sleeps);
    let mut instance = Instance::start(&lua);
    let plan = Plan { target: at, rate: 200, count: 1_000, patience: Duration::from_secs(8) };
    Load::start(plan).join().assert_nothing_lost(&|| instance.program.transcript());
    let down = instance.program.lines_with(0, "server is down");
    assert!(down.is_empty(), "{down:?}; {}", instance.program.transcript());
    assert!(instance.stop().success(), "{}", instance.program.transcript());
}
