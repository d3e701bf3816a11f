//! The console: commands of our client and of dnsdist's change the running process, and no client
//! harms it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, binary, listen};
use crate::load::Load;
use crate::place::{Directory, wait_for};
use crate::process::{Program, run};
use crate::reload::{endless, let_pass, local};
use crate::servers::{Kind, Server};

const KEY: &str = "MXNeLFWHUe4363BBKrY06cAsH8NWNb+Se2eXU5+Bb74=";

pub(crate) fn console(at: SocketAddr) -> String {
    format!("controlSocket(\"{at}\")\nsetKey(\"{KEY}\")\n")
}

/// Runs our client; returns whether it succeeded, and its output.
pub(crate) fn ours(at: SocketAddr, command: &str) -> (bool, String) {
    with_key(at, KEY, command)
}

fn with_key(at: SocketAddr, key: &str, command: &str) -> (bool, String) {
    let program = binary();
    let (status, text) =
        run(program.to_str().expect("a path"), &["-c", &at.to_string(), "-k", key, "-e", command]);
    (status.success(), text)
}

/// Runs a command that must work.
pub(crate) fn works(at: SocketAddr, command: &str) -> String {
    let (fine, text) = ours(at, command);
    assert!(fine, "{command}: {text}");
    text
}

pub(crate) fn dig(at: SocketAddr, name: &str) -> String {
    let host = format!("@{}", at.ip());
    run("dig", &[&host, "-p", &at.port().to_string(), name, "+tries=1", "+timeout=2"]).1
}

#[test]
fn commands_change_the_running_configuration_and_a_reload_takes_it_back() {
    let server = Server::start(Kind::Nsd, 71);
    let (dns, at) = (local(), local());
    let lua = listen(dns) + &console(at) + &backend(server.address, ", name=\"nsd\"");
    let mut instance = Instance::start(&lua);
    assert!(dig(dns, "a.test").contains("192.0.2.71"));
    works(at, "addAction('a.test', RCodeAction(DNSRCode.REFUSED))");
    assert!(dig(dns, "a.test").contains("REFUSED"), "{}", instance.program.transcript());
    assert!(works(at, "showRules()").contains("a.test"), "{}", works(at, "showRules()"));
    works(at, "addAction('b.test', LuaAction(function(dq) return DNSAction.Nxdomain, '' end))");
    assert!(dig(dns, "b.test").contains("NXDOMAIN"));
    // What fails changes nothing.
    for (command, error) in [
        ("clearRules() newServer('nonsense')", "Error: command#4:1: newServer: address is"),
        ("clearRules() setBackendsMax(77)", "Error: needs a restart: backends-max"),
        ("clearRules() foo()", "attempt to call global 'foo'"),
    ] {
        let (fine, text) = ours(at, command);
        assert!(!fine && text.contains(error), "{command}: {text}");
    }
    assert!(dig(dns, "a.test").contains("REFUSED") && dig(dns, "b.test").contains("NXDOMAIN"));
    let servers = works(at, "showServers()");
    assert!(servers.starts_with('#') && servers.contains("nsd") && servers.contains("\nAll"), "{servers}");
    // The changes, put into the file, do the same.
    let delta = works(at, "delta()");
    instance.reload(&(lua.clone() + &delta));
    assert!(dig(dns, "a.test").contains("REFUSED") && dig(dns, "b.test").contains("NXDOMAIN"), "{delta}");
    assert_eq!(works(at, "delta()"), "");
    instance.rewrite(&lua);
    works(at, "reload()");
    assert!(dig(dns, "a.test").contains("192.0.2.71"));
    instance.rewrite("newServer(");
    let (fine, text) = ours(at, "reload()");
    assert!(!fine && text.contains("unexpected symbol"), "{text}");
    works(at, "shutdown()");
    assert!(instance.program.wait().success());
}

#[test]
fn packet_caches_are_shown_given_and_taken() {
    let server = Server::start(Kind::Nsd, 74);
    let (dns, at) = (local(), local());
    let lua = listen(dns)
        + &console(at)
        + &backend(server.address, "")
        + "cache = newPacketCache(100)\ngetPool(''):setCache(cache)\n";
    let instance = Instance::start(&lua);
    assert!(works(at, "showPools()").contains("/100"), "{}", instance.program.transcript());
    let figures = works(at, "cache:printStats()");
    assert!(figures.contains("Entries: 0/100\n") && figures.contains("Hits: 0\n"), "{figures}");
    assert_eq!(works(at, "getPool(''):getCache():expungeByName('b.test')").trim(), "0");
    assert_eq!(works(at, "delta()"), "", "entries are no configuration");
    works(at, "getPool('other'):setCache(newPacketCache(50, {maxTTL=10}))");
    assert_eq!(works(at, "getPool('other'):getCache()").trim(), "0/50");
    assert!(works(at, "showPools()").contains("0/50"));
    works(at, "getPool(''):unsetCache()");
    assert_eq!(works(at, "cache:toString()").trim(), "0/100", "no pool has it");
    assert!(!works(at, "showPools()").contains("/100"));
    works(at, "setStaleCacheEntriesTTL(3600)");
    assert!(works(at, "delta()").contains("setStaleCacheEntriesTTL(3600)"));
    assert!(dig(dns, "a.test").contains("192.0.2.74"));
}

#[test]
fn the_clients_and_servers_of_dnsdist_understand_ours() {
    let server = Server::start(Kind::Nsd, 72);
    let (dns, at) = (local(), local());
    let _instance = Instance::start(&(listen(dns) + &console(at) + &backend(server.address, "")));
    let (status, text) = run("dnsdist", &["-c", &at.to_string(), "-k", KEY, "-e", "showServers()"]);
    assert!(status.success() && text.contains(&server.address.to_string()), "{text}");
    run("dnsdist", &["-c", &at.to_string(), "-k", KEY, "-e", "addAction('x.test', RCodeAction(5))"]);
    assert!(dig(dns, "x.test").contains("REFUSED"));
    // The other way round.
    let (dns, at, directory) = (local(), local(), Directory::new());
    let lua = format!("setLocal('{dns}')\n{}setSecurityPollSuffix('')\n", console(at));
    let config = directory.write("dnsdist.conf", &lua);
    let mut command = Command::new("dnsdist");
    command.args(["--supervised", "--disable-syslog", "-C"]).arg(&config);
    let dnsdist = Program::start(&mut command);
    let version = wait_for(
        || dnsdist.transcript(),
        || Some(ours(at, "showVersion()")).filter(|(fine, _)| *fine).map(|(_, text)| text),
    );
    assert!(version.starts_with("dnsdist "), "{version}");
    let (fine, text) = ours(at, "foo()");
    assert!(!fine && text.starts_with("Error: "), "{text}");
    // Its configuration says where it is, and commands may come from standard input.
    let mut client = Command::new(binary());
    client.args(["console", "-C"]).arg(&config).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().expect("a client");
    client.stdin.take().expect("its input").write_all(b"1 + 1\nshowVersion()\n").expect("written");
    let out = client.wait_with_output().expect("an end");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.starts_with("2\ndnsdist "), "{text}");
}

#[test]
fn changes_and_hostile_clients_lose_no_query() {
    let server = Backend::start(1, Behaviour::Prompt);
    let (dns, at) = (local(), local());
    let lua = listen(dns)
        + &console(at)
        + &backend(server.address, "")
        + "setConsoleMaximumConcurrentConnections(40)\n";
    let mut instance = Instance::start(&lua);
    let load = Load::start(endless(dns));
    // Half messages, wrong keys, and a client that does not read.
    let mut idle: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(at).expect("a connection")).collect();
    for (n, stream) in idle.iter_mut().enumerate() {
        stream.write_all(&vec![0; n]).expect("written");
    }
    let wrong = format!("A{}", &KEY[1..]);
    let (fine, text) = with_key(at, &wrong, "shutdown()");
    assert!(!fine && text.contains("another key"), "{text}");
    for round in 0..10 {
        works(at, &format!("addAction('n{round}.test', DropAction())"));
        works(
            at,
            &format!("newServer{{address='{}', pool='p{round}', healthCheckMode='up'}}", server.address),
        );
        let_pass(&load, 400);
    }
    let (fine, text) = ours(at, "for n = 1, 10000000 do print('xxxxxxxxxxxxxxxx', n) end");
    assert!(text.len() < 11_000_000, "{fine} {}", text.len());
    let (fine, text) = ours(at, "while true do end");
    assert!(!fine && text.contains("too long") || text.contains("in time"), "{text}");
    // The oldest of more connections than are allowed are closed, as none has proved the key.
    drop(idle);
    wait_for(|| "a connection".to_owned(), || ours(at, "1").0.then_some(()));
    let mut many: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(at).expect("a connection")).collect();
    let closed = wait_for(
        || "connections to be closed".to_owned(),
        || {
            let closed = many.iter_mut().filter_map(|stream| {
                stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
                matches!(stream.read(&mut [0]), Ok(0)).then_some(())
            });
            Some(closed.count()).filter(|count| *count >= 20)
        },
    );
    // The end of the connection before them may not have been noticed yet.
    assert!((20..=21).contains(&closed), "{closed}");
    assert_eq!(works(at, "1"), "1\n", "idle connections keep nobody out");
    drop(many);
    wait_for(|| "a connection".to_owned(), || ours(at, "1").0.then_some(()));
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    assert!(instance.stop().success());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let (dns, at) = (local(), local());
    let server = Backend::start(1, Behaviour::Prompt);
    let lua = listen(dns)
        + &console(at)
        + &backend(server.address, "")
        + "setConsoleMaximumConcurrentConnections(1)\n";
    let instance = Instance::start(&lua);
    let mut first = Command::new(binary());
    first.args(["console", &at.to_string(), "-k", KEY]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut first = first.spawn().expect("a client");
    let mut input = first.stdin.take().expect("its input");
    input.write_all(b"1 + 1\n").expect("written");
    let mut reply = [0; 2];
    first.stdout.take().expect("its output").read_exact(&mut reply).expect("a reply");
    assert_eq!(&reply, b"2\n");
    let (fine, text) = ours(at, "1");
    assert!(
        !fine && text.contains("as many connections as setConsoleMaximumConcurrentConnections"),
        "{text}"
    );
    drop(input);
    assert!(first.wait().expect("an end").success());
    wait_for(|| "a connection".to_owned(), || ours(at, "1").0.then_some(()));
    assert!(instance.figure("console-refused") >= 1);
}

#[test]
fn a_function_of_a_rule_empties_the_packet_cache() {
    let server = Server::start(Kind::Nsd, 75);
    let (dns, at) = (local(), local());
    let lua = listen(dns)
        + &console(at)
        + &backend(server.address, "")
        + "cache = newPacketCache(100)\ngetPool(''):setCache(cache)\n\
           addAction('flush.test', LuaAction(function(dq)\n\
             cache:expungeByName(newDNSName('test'), DNSQType.ANY, true)\n\
             return DNSAction.Nxdomain, '' end))\n";
    let instance = Instance::start(&lua);
    assert!(dig(dns, "a.test").contains("192.0.2.75"), "{}", instance.program.transcript());
    assert_eq!(works(at, "cache:toString()").trim(), "1/100");
    assert!(dig(dns, "flush.test").contains("NXDOMAIN"));
    assert_eq!(works(at, "cache:toString()").trim(), "0/100");
}

#[test]
fn a_client_outside_the_acl_and_a_taken_address_are_refused() {
    let server = Backend::start(1, Behaviour::Prompt);
    let (dns, at) = (local(), local());
    let lua = listen(dns) + &console(at) + &backend(server.address, "") + "setConsoleACL('192.0.2.0/24')\n";
    let mut instance = Instance::start(&lua);
    let (fine, text) = ours(at, "1");
    assert!(!fine && text.contains("refused the connection"), "{text}");
    let (taken, free) = (std::net::TcpListener::bind(local()).expect("a listener"), local());
    let taken = taken.local_addr().expect("its address");
    let move_to = |address| listen(dns) + &console(address) + &backend(server.address, "");
    instance.begin_reload(&move_to(taken));
    wait_for(
        || instance.program.transcript(),
        || (!instance.program.lines_with(0, "controlSocket: cannot listen on").is_empty()).then_some(()),
    );
    instance.wait_ready();
    instance.reload(&move_to(free));
    assert_eq!(works(free, "1"), "1\n");
    assert!(TcpStream::connect(at).is_err(), "nothing listens there");
    assert!(instance.stop().success());
}

#[test]
fn a_command_whose_client_has_gone_is_not_run() {
    let server = Backend::start(1, Behaviour::Prompt);
    let (dns, at) = (local(), local());
    let mut instance = Instance::start(&(listen(dns) + &console(at) + &backend(server.address, "")));
    let directory = Directory::new();
    let (begun, go) = (directory.path().join("begun"), directory.path().join("go"));
    // Holds the console until the file is there.
    let held = format!(
        "os.execute('touch {}; until [ -e {} ]; do sleep 0.05; done')",
        begun.display(),
        go.display()
    );
    let start = |command: &str| {
        let mut client = Command::new(binary());
        Program::start(client.args(["-c", &at.to_string(), "-k", KEY, "-e", command]))
    };
    let mut holder = start(&held);
    wait_for(|| "the first command".to_owned(), || begun.exists().then_some(()));
    let mut gone = start("addAction('gone.test', DropAction())");
    wait_for(
        || instance.program.transcript(),
        || (instance.program.lines_with(0, "console connection opened").len() == 2).then_some(()),
    );
    gone.kill();
    wait_for(
        || instance.program.transcript(),
        || (!instance.program.lines_with(0, "console connection closed").is_empty()).then_some(()),
    );
    std::fs::write(&go, "").expect("a file");
    assert!(holder.wait().success());
    assert_eq!(works(at, "showRules()").lines().count(), 1, "{}", instance.program.transcript());
    assert!(instance.stop().success());
}

#[test]
fn a_web_server_whose_address_is_taken_is_an_error_to_who_asks_for_it() {
    let (at, web, other) = (local(), local(), local());
    let lua = listen(local()) + &console(at) + &backend(local(), "");
    let mut instance = Instance::start(&lua);
    let taken = std::net::TcpListener::bind(web).expect("an address");
    let (fine, text) = ours(at, &format!("webserver('{web}')"));
    assert!(!fine && text.contains(&format!("the web server cannot listen on {web}")), "{text}");
    works(at, &format!("webserver('{other}')"));
    // What is about something else succeeds, although the file's address is taken.
    instance.reload(&(lua.clone() + &format!("webserver('{web}')\n")));
    works(at, "addAction('a.test', DropAction())");
    drop(taken);
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}
