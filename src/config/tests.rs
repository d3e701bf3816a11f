//! Files through the whole front end: from text to draft to snapshot, or to errors.

mod arguments;
mod caches;
mod caught;
mod connections;
mod empty;
mod names;
mod relays;
mod rules;
mod scale;
mod tls;
mod warnings;
mod web;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use crate::base::addr::mapped;
use crate::base::time::TickDelta;
use crate::config::flags::{Flags, Invocation};
use crate::config::functions::{SERVER_ARGUMENTS, SERVER_ARGUMENTS_MISSING};
use crate::config::options::SETTINGS;
use crate::config::{Compiled, ConfigError, Slots, compile, diff, flags};
use crate::lua::front_end::Loaded;
use crate::lua::front_end::load;
use crate::model::Steer;
use crate::model::policy::{Concentrate, HashKey, Kind};
use crate::model::{Backend, HealthMode, Probe, Snapshot};

/// A temporary file with this text.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new(text: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dnslob-test-{}-{nth}.lua", std::process::id()));
        std::fs::write(&path, text).expect("a temporary file");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn run(flags: &Flags) -> Result<(Loaded, Compiled), Vec<ConfigError>> {
    let loaded = load(flags)?;
    let compiled = compile(&loaded.draft, &Slots::default(), 1)?;
    Ok((loaded, compiled))
}

pub(crate) fn good(text: &str) -> (Loaded, Compiled) {
    let file = File::new(text);
    let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
    run(&flags).unwrap_or_else(|errors| panic!("{text}\n{}", flags::lines(&errors)))
}

fn snapshot(text: &str) -> Snapshot {
    good(text).1.snapshot
}

/// Returns the messages for an invalid text, with `FILE` for the file's name.
fn broken(text: &str) -> Vec<String> {
    let file = File::new(text);
    let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
    let name = file.path().display().to_string();
    let errors = run(&flags).err().unwrap_or_default();
    errors.iter().map(|e| e.to_string().replace(&name, "FILE")).collect()
}

fn only(snapshot: &Snapshot) -> &Backend {
    assert_eq!(snapshot.backends.iter().flatten().count(), 1);
    snapshot.backends[0].as_ref().expect("a backend in slot 0")
}

fn server(arguments: &str) -> Arc<Backend> {
    let snapshot = snapshot(&format!("newServer{{address='192.0.2.1', {arguments}}}"));
    let _ = only(&snapshot);
    Arc::clone(snapshot.backends[0].as_ref().expect("a backend"))
}

#[test]
fn the_example_of_dnsdist_runs_as_written() {
    let text = r#"newServer {address="2001:4860:4860::8888", qps=1}
newServer {address="2001:4860:4860::8844", qps=1}
newServer {address="2620:0:ccc::2", qps=10}
newServer {address="2620:0:ccd::2", qps=10}
newServer("192.168.1.2")
setServerPolicy(firstAvailable) -- first server within its QPS limit
"#;
    let snapshot = snapshot(text);
    let servers: Vec<(String, u32)> =
        snapshot.backends.iter().flatten().map(|b| (b.address.to_string(), b.qps)).collect();
    let want = [
        ("[2001:4860:4860::8888]:53", 1),
        ("[2001:4860:4860::8844]:53", 1),
        ("[2620:0:ccc::2]:53", 10),
        ("[2620:0:ccd::2]:53", 10),
        ("192.168.1.2:53", 0),
    ];
    assert_eq!(servers, want.map(|(a, q)| (a.to_owned(), q)));
    assert_eq!(snapshot.pools[0].policy.kind, Kind::FirstAvailable);
    assert_eq!(snapshot.pools[0].members.len(), 5);
    assert_eq!(snapshot.listeners[0].address.to_string(), "127.0.0.1:53");
}

#[test]
fn every_example_compiles() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "lua") {
            let flags = Flags { file: Some(path.clone()), ..Flags::default() };
            let result = run(&flags);
            assert!(
                result.is_ok(),
                "{}: {}",
                path.display(),
                flags::lines(&result.err().unwrap_or_default())
            );
            count += 1;
        }
    }
    assert!(count >= 6, "{count} examples");
}

/// Invalid texts, each with its one message.
const BROKEN: &[(&str, &str)] = &[
    ("newServer('nonsense')", "FILE:1: newServer: address is \"nonsense\"; expected IP[:PORT]"),
    ("newServer('example.com:53')", "FILE:1: newServer: address is \"example.com:53\"; expected IP[:PORT]"),
    ("\nnewServer{qps=1}", "FILE:2: newServer: address is missing; expected IP[:PORT]"),
    ("newServer()", "FILE:1: newServer: the argument is nil; expected a table"),
    (
        "newServer{'192.0.2.1'}",
        "FILE:1: newServer: the table holds \"192.0.2.1\" without a name; expected name=value",
    ),
    (
        "newServer{address='192.0.2.1', name='a\\nb'}",
        "FILE:1: newServer: name is \"a\\nb\"; expected a name, without control characters",
    ),
    (
        "newServer{address='192.0.2.1', pool={'a', 'b\\nc'}}",
        "FILE:1: newServer: pool is \"b\\nc\"; expected the name of a pool, or a list of them, without control characters",
    ),
    (
        "getPool('b\\nc')",
        "FILE:1: getPool: \"b\\nc\" is not allowed; expected the name of a pool, without control characters",
    ),
    (
        "addAction('a', PoolAction('b\\nc'))",
        "FILE:1: PoolAction: pool is \"b\\nc\"; expected the name of a pool, without control characters",
    ),
    ("newServer('192.0.2.1'):addPool(('b'):rep(256))", "FILE:1: addPool: \"bbb"),
    (
        "newServer{address='192.0.2.1', qps=-1}",
        "FILE:1: newServer: qps is -1; expected a whole number from 0",
    ),
    (
        "newServer{address='192.0.2.1', qps='many'}",
        "FILE:1: newServer: qps is \"many\"; expected a whole number",
    ),
    (
        "newServer{address='192.0.2.1', order='x'}",
        "FILE:1: newServer: order is \"x\"; expected a whole number",
    ),
    (
        "newServer{address='192.0.2.1', dscp=64}",
        "FILE:1: newServer: dscp is 64; expected a whole number from 0 to 63",
    ),
    (
        "newServer{address='192.0.2.1', pool=7}",
        "FILE:1: newServer: pool is 7; expected the name of a pool, or a list of them",
    ),
    (
        "newServer{address='192.0.2.1', source='a/b'}",
        "FILE:1: newServer: source is \"a/b\"; expected \"ADDRESS\", \"INTERFACE\"",
    ),
    (
        "newServer{address='192.0.2.1', source='::1'}",
        "FILE:1: newServer: source is of another family than the address; expected both",
    ),
    (
        "newServer{address='192.0.2.1', udpTimeout=1, udpTimeoutMs=1}",
        "FILE:1: newServer: udpTimeout and udpTimeoutMs are both given; expected one of them",
    ),
    (
        "newServer{address='192.0.2.1', checkName='a..b'}",
        "FILE:1: newServer: checkName is \"a..b\"; expected a domain name",
    ),
    (
        "newServer{address='192.0.2.1', checkType='AAAAA'}",
        "FILE:1: newServer: checkType is \"AAAAA\"; expected a type, as \"AAAA\" or 28",
    ),
    (
        "newServer{address='192.0.2.1', checkFunction='f'}",
        "FILE:1: newServer: checkFunction is \"f\"; expected a function",
    ),
    (
        "newServer{address='192.0.2.1', checkScript={'check'}}",
        "FILE:1: newServer: checkScript is a table; expected an absolute path",
    ),
    (
        "newServer{address='192.0.2.1', check='http'}",
        "FILE:1: newServer: check is \"http\"; expected \"dns\" or \"connect\"",
    ),
    (
        "newServer{address='192.0.2.1', healthCheckMode='maybe'}",
        "FILE:1: newServer: healthCheckMode is \"maybe\"; expected \"auto\", \"up\", \"down\" or \"lazy\"",
    ),
    (
        "newServer{address='192.0.2.1', mustResolve=1}",
        "FILE:1: newServer: mustResolve is 1; expected true or false",
    ),
    (
        "newServer{address='192.0.2.1', lazyHealthCheckSampleSize=5, lazyHealthCheckMinSampleCount=6}",
        "FILE:1: newServer: lazyHealthCheckMinSampleCount is above lazyHealthCheckSampleSize; expected",
    ),
    (
        "newServer{address='192.0.2.1', dohPath='/dns-query'}",
        "FILE:1: newServer: argument \"dohPath\" (DNS over HTTPS towards servers, upgrades) is not implemented yet; remove it",
    ),
    (
        "newServer{\n  address='192.0.2.1', id='a'}\nnewServer{address='192.0.2.2', id='a'}",
        "FILE:3: newServer: id \"a\" is already defined at FILE:1; expected it once",
    ),
    ("newServer('192.0.2.1'):setQPS('x')", "FILE:1: setQPS: \"x\" is not allowed; expected a whole number"),
    (
        "newServer('192.0.2.1'):rmPool('x')",
        "FILE:1: rmPool: \"x\" is not allowed; expected the name of a pool that the server is in",
    ),
    ("rmServer('nobody')", "FILE:1: rmServer: \"nobody\" is not allowed; expected a server"),
    (
        "addLocal('127.0.0.1:0')",
        "FILE:1: addLocal: \"127.0.0.1:0\" is not allowed; expected a port from 1 to 65535 behind the address",
    ),
    (
        "newServer{address='[2001:db8::1]:70000'}",
        "FILE:1: newServer: address is \"[2001:db8::1]:70000\"; expected a port from 1 to 65535",
    ),
    (
        "webserver('127.0.0.1:0')",
        "FILE:1: webserver: \"127.0.0.1:0\" is not allowed; expected a port from 1 to 65535",
    ),
    (
        "carbonServer('127.0.0.1:0')",
        "FILE:1: carbonServer: \"127.0.0.1:0\" is not allowed; expected a port from",
    ),
    ("setKey('x')", "FILE:1: setKey: a text that is no key is not allowed; expected 32 bytes in base64"),
    ("addLocal('localhost')", "FILE:1: addLocal: \"localhost\" is not allowed; expected IP[:PORT]"),
    (
        "addLocal('127.0.0.1:53')\n\naddLocal('127.0.0.1')",
        "FILE:3: addLocal: the listener 127.0.0.1:53 is already defined at FILE:1; expected it once",
    ),
    (
        "setACL({'10.0.0.0/8', '10.0.0.0/99'})",
        "FILE:1: setACL: \"10.0.0.0/99\" is not allowed; expected ADDRESS or ADDRESS/LENGTH",
    ),
    ("addACL(5)", "FILE:1: addACL: 5 is not allowed; expected ADDRESS or ADDRESS/LENGTH"),
    (
        "setACLFromFile('/nonexistent/acl')",
        "FILE:1: setACLFromFile: cannot read \"/nonexistent/acl\": No such file",
    ),
    (
        "includeDirectory('/nonexistent')",
        "FILE:1: includeDirectory: cannot read \"/nonexistent\": No such file",
    ),
    (
        "setServerPolicy(firstAvailible)",
        "FILE:1: setServerPolicy: nil is not allowed; expected a policy (is its name misspelt?): leastOutstanding",
    ),
    (
        "setServerPolicy('wrandom')",
        "FILE:1: setServerPolicy: \"wrandom\" is not allowed; expected a policy by its name without quotes",
    ),
    (
        "setServerPolicy(function() return 1 end)",
        "FILE:1: setServerPolicy: a function is not allowed; expected a policy, as newServerPolicy(",
    ),
    ("setPoolServerPolicy(wrandom)", "FILE:1: setPoolServerPolicy: pool is nil; expected the name of a pool"),
    (
        "setServerPolicy(concentrate{joinShare=2})",
        "FILE:1: concentrate: joinShare is 2; expected a number from 0.001 to 1",
    ),
    (
        "setServerPolicy(concentrate{goodFactor=9})",
        "FILE:1: concentrate: goodFactor (9) is above fullFactor (1.5); expected",
    ),
    ("setServerPolicy(p2c{x=1})", "FILE:1: p2c: the policy takes no options; expected its name alone: p2c"),
    (
        "setServerPolicy(hashBy(p2c, 'zone'))",
        "FILE:1: hashBy: p2c does not take this; expected whashed, chashed or concentrate",
    ),
    (
        "setServerPolicy(hashBy(chashed, 'zones'))",
        "FILE:1: hashBy: key is \"zones\"; expected \"qname\", \"zone\", \"client\" or \"clientPrefix\"",
    ),
    (
        "setServerPolicy(bounded(chashed, 0.5))",
        "FILE:1: bounded: factor is 0.5; expected a number from 1 to 1000",
    ),
    ("setRetry{budget=10}", "FILE:1: setRetry: after is missing; expected a number of milliseconds"),
    (
        "getPool('x'):setRetry{after=0}",
        "FILE:1: setRetry: after is 0; expected a number of milliseconds from 1",
    ),
    (
        "setPanicThreshold(101)",
        "FILE:1: setPanicThreshold: 101 is not allowed; expected a number of percent from 0 to 100",
    ),
    ("setEjection{time=30}", "FILE:1: setEjection: time is 30; expected a number of milliseconds from 1000"),
    (
        "setUDPTimeout('soon')",
        "FILE:1: setUDPTimeout: \"soon\" is not allowed; expected a number of seconds from 0.001 to 300",
    ),
    (
        "setServFailWhenNoServer(1)",
        "FILE:1: setServFailWhenNoServer: 1 is not allowed; expected true or false",
    ),
    (
        "setUDPSocketBufferSizes(1)",
        "FILE:1: setUDPSocketBufferSizes: send is nil; expected a whole number from 0",
    ),
    (
        "setVerbose(true, false)",
        "FILE:1: setVerbose: called with 2 arguments; expected at most 1: true or false",
    ),
    (
        "newThread('x')",
        "FILE:1: newThread: the function (threads and messages) is not implemented yet; use maintenance(), or another",
    ),
    ("registerWebHandler('mine', function() end)", "FILE:1: registerWebHandler: path is \"mine\"; expected"),
    (
        "registerWebHandler('/mine', 5)",
        "FILE:1: registerWebHandler: the second argument is 5; expected a function",
    ),
    (
        "addDOHLocal('0.0.0.0', 'a', 'b')",
        "FILE:1: addDOHLocal: the function (encrypted DNS) is not implemented yet; remove it",
    ),
    (
        "setServerPolicy(concentrate)\nnewServer{address='192.0.2.1', pool={'', 'x'}}",
        "FILE:2: newServer: the server is in pools \"\" and \"x\", which both have the policy concentrate; expected one",
    ),
    ("newServer{address='192.0.2.1'", "FILE:1: '}' expected near '<eof>'"),
    ("x = = 1", "FILE:1: unexpected symbol near '='"),
    ("\nerror('stop here')", "FILE:2: stop here"),
    ("error('')", "FILE:1: an error without a message"),
    (
        "newSever('192.0.2.1')",
        "FILE:1: attempt to call global 'newSever' (a nil value); did you mean \"newServer\"?",
    ),
    (
        "\nRCodeAction(dnsdist.REFUSED)",
        "FILE:2: attempt to index global 'dnsdist' (a nil value); its constants are in DNSQType, DNSRCode,",
    ),
    (
        "print(DNSRcode.REFUSED)",
        "FILE:1: attempt to index global 'DNSRcode' (a nil value); did you mean \"DNSRCode\"?",
    ),
    ("\nreturn string.rep()", "FILE:2: bad argument #1 to '?' (string expected"),
    ("if true then\n  return error('stop')\nend", "FILE:2: stop"),
    ("\nload('local x = nil + 1', '=x')()", "FILE:2: x:1: attempt to perform arithmetic"),
    ("local t = nil\nprint(t.x)", "FILE:2: attempt to index local 't' (a nil value)"),
    ("newServer('192.0.2.1'):fly()", "FILE:1: attempt to call method 'fly'"),
    ("load('addLocal(5)')()", "(a string):1: addLocal: 5 is not allowed; expected IP[:PORT]"),
];

#[test]
fn every_invalid_file_gets_one_message_with_its_place() {
    let mut wrong = String::new();
    for (text, want) in BROKEN {
        let messages = broken(text);
        if messages.len() != 1 || !messages[0].starts_with(want) {
            wrong += &format!("{text}\n  gave {messages:#?}\n  not  {want}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn several_errors_of_a_file_are_reported_together() {
    let text = "newServer{address='bad', wieght=1, dohPath='x'}\n\
                addAction(HTTPPathRule('x'), TCAction())\n\
                local pc = newPacketCache(-1, {maxTTL=86400})\n\
                getPool(''):setCache(pc)\n\
                setACL('x')\n\
                addLocal('127.0.0.1')\n\
                addLocal('127.0.0.1')\n\
                undefined()\n\
                setACL('never reached')\n";
    let places: Vec<String> =
        broken(text).iter().map(|m| m.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        places,
        [
            "FILE:1: newServer",
            "FILE:1: newServer",
            "FILE:2: HTTPPathRule",
            "FILE:3: newPacketCache",
            "FILE:5: setACL",
            "FILE:8: attempt to call global 'undefined' (a nil value)",
        ]
    );
    // Errors of the whole come last, once Lua has reached the end.
    let whole = broken(&text.replace("undefined()", "").replace("never reached", "10.0.0.0/8"));
    assert_eq!(whole.len(), 6, "{whole:#?}");
    assert!(whole[5].starts_with("FILE:7: addLocal: the listener 127.0.0.1:53 is already defined at FILE:6"));
}

#[test]
fn an_unreadable_file_is_named() {
    let flags = Flags { file: Some("/nonexistent/dnslob.lua".into()), ..Flags::default() };
    let errors = run(&flags).expect_err("no such file");
    assert!(
        flags::lines(&errors)
            .starts_with("/nonexistent/dnslob.lua: cannot read \"/nonexistent/dnslob.lua\": No such")
    );
}

#[test]
fn a_long_path_is_not_truncated() {
    let directory = std::env::temp_dir().join(format!("dnslob-{}-{}", std::process::id(), "long".repeat(30)));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("x.lua");
    std::fs::write(&path, "\n\nx = = 1").expect("a file");
    let errors = run(&Flags { file: Some(path.clone()), ..Flags::default() }).expect_err("broken");
    std::fs::remove_dir_all(&directory).expect("removed");
    assert!(errors[0].to_string().starts_with(&format!("{}:3: unexpected", path.display())), "{}", errors[0]);
}

#[test]
fn every_argument_of_a_server_reaches_the_snapshot() {
    let b = server(
        "id='one', name='uno', order=-3, weight=200, qps=50, udpTimeout=0.25, sockets=9, source='192.0.2.9@eth0', \
         dscp=46, maxOutstandingQueries=77, maxOutstanding=1000",
    );
    assert_eq!((b.id.as_str(), b.name.as_str(), b.order, b.weight, b.qps), ("one", "uno", -3, 200, 50));
    assert_eq!((b.timeout, b.sockets, b.dscp), (TickDelta::from_ms(250), 9, 46));
    assert_eq!((b.source, b.source_interface.as_deref()), ("192.0.2.9".parse().ok(), Some("eth0")));
    assert_eq!((b.outstanding_soft_max, b.outstanding_max), (77, 1000));
    assert_eq!(server("udpTimeoutMs=15").timeout, TickDelta::from_ms(15));
    assert_eq!(server("udpTimeout='15ms'").timeout, TickDelta::from_ms(15));
    assert_eq!(server("interface='eth1'").source_interface.as_deref(), Some("eth1"));
    assert_eq!(server("id=7, weight='5'").weight, 5);

    let h = server(
        "healthCheckMode='lazy', checkName='example.net', checkType='AAAA', checkClass='CH', checkInterval=0.5, \
         checkTimeout=300, rise=2, maxCheckFailures=3, mustResolve=true, setCD=true, slowStart=0, \
         lazyHealthCheckThreshold=30, lazyHealthCheckSampleSize=50, lazyHealthCheckMinSampleCount=5, \
         lazyHealthCheckFailedInterval=3, lazyHealthCheckMode='TimeoutOnly', \
         lazyHealthCheckUseExponentialBackOff=true, lazyHealthCheckMaxBackOff=60",
    )
    .health
    .clone();
    assert_eq!((h.mode, h.qname.as_str(), h.qtype, h.qclass), (HealthMode::Lazy, "example.net.", 28, 3));
    assert_eq!((h.interval, h.timeout), (TickDelta::from_ms(500), TickDelta::from_ms(300)));
    assert_eq!((h.rise, h.fall, h.must_resolve, h.set_cd, h.slow_start), (2, 3, true, true, TickDelta(0)));
    assert_eq!((h.lazy.threshold_percent, h.lazy.sample, h.lazy.sample_min), (30, 50, 5));
    assert_eq!((h.lazy.failed_interval, h.lazy.servfail_counts), (TickDelta::from_ms(3000), false));
    assert_eq!(h.lazy.backoff_max, Some(TickDelta::from_ms(60_000)));
    assert_eq!(server("lazyHealthCheckMaxBackOff=60").health.lazy.backoff_max, None);

    assert_eq!(server("checkIntervalMs=50, checkType=15").health.interval, TickDelta::from_ms(50));
    assert_eq!(server("checkTCP=true").health.probe, Probe::Tcp);
    assert_eq!(server("check='connect', checkTCP=true").health.probe, Probe::Connect);
    let script = server("checkScript={'/bin/check', '-v'}").health.probe.clone();
    assert_eq!(script, Probe::Script(vec!["/bin/check".into(), "-v".into()]));
    assert_eq!(server("healthCheckMode='up', tls=false, reconnectOnUp=true").health.mode, HealthMode::Up);
}

#[test]
fn a_server_object_reads_and_changes_its_server() {
    let text = r#"
        local a = newServer{address='192.0.2.1', name='a', pool={'x', 'y'}, id='1'}
        local b = newServer('192.0.2.2')
        assert(getServer(0):getName() == 'a' and getServer('1').id == '1' and getServer('a').name == 'a')
        assert(getServer(42) == nil and #getServers() == 2)
        assert(a:getNameWithAddr() == 'a (192.0.2.1:53)' and b:getNameWithAddr() == '192.0.2.2:53')
        assert(a:isUp() and a:getOutstanding() == 0 and a:getLatency() == 0 and a.upStatus)
        assert(#a.pools == 2 and tostring(b) == '192.0.2.2:53')
        a:addPool('z'); a:rmPool('x'); a:setQPS(5); a:setOrder(4); a:setWeight(3)
        a:setDown(); assert(not a:isUp() and a:getHealthCheckMode() == 'down')
        a:setAuto(); a:setLazyAuto(); a:setActiveAuto(); a:setUp(); a:drain()
        b.order = 9; b.weight = 8; b.qps = 7
        assert(b.order == 9 and b.weight == 8 and b.qps == 7)
        newServer('192.0.2.3'); rmServer('192.0.2.3:53'); newServer('192.0.2.4'); rmServer(0)
        local c = newServer('192.0.2.5'); rmServer(c)
        assert(#getServers() == 2)
    "#;
    let snapshot = snapshot(text);
    let servers: Vec<&Arc<Backend>> = snapshot.backends.iter().flatten().collect();
    assert_eq!(servers.len(), 2);
    assert_eq!((servers[0].qps, servers[0].order, servers[0].weight), (5, 4, 3));
    assert_eq!(servers[0].health.mode, HealthMode::Drain);
    assert_eq!((servers[1].qps, servers[1].order, servers[1].weight), (7, 9, 8));
    let pools: Vec<(&str, usize)> =
        snapshot.pools.iter().map(|p| (p.name.as_str(), p.members.len())).collect();
    assert_eq!(pools, [("", 1), ("y", 1), ("z", 1)]);
}

/// As dnsdist: `showServers()` lists what `getServer()` numbers.
#[test]
fn servers_are_numbered_by_their_order() {
    let text = r#"
        newServer{address='192.0.2.1', name='a', order=3} newServer{address='192.0.2.2', name='b'}
        local c = newServer{address='192.0.2.3', name='c', order=3} newServer{address='192.0.2.4', name='d', order=2}
        local function numbered(names)
          local list = getServers()
          for at = 1, #names do
            local name = names:sub(at, at)
            assert(getServer(at - 1):getName() == name and list[at].name == name, names)
          end
          assert(getServer(#names) == nil and #list == #names)
        end
        numbered('bdac') c:setOrder(0) numbered('cbda') rmServer(1) numbered('cda')
        newServer{address='192.0.2.5', name='e', order=1} numbered('ceda')
        addAction('x', TeeAction('192.0.2.9'))
    "#;
    let snapshot = snapshot(text);
    let names: Vec<&str> = snapshot.listed().map(|b| b.name.as_str()).collect();
    assert_eq!(names[..4], ["c", "e", "d", "a"]);
    assert_eq!((names.len(), snapshot.listed().filter(|b| b.tee).count()), (5, 1));
}

#[test]
fn the_name_that_the_default_pool_has_elsewhere_is_no_pool() {
    for text in [
        "newServer{address='192.0.2.1', pool='_default_'}",
        "newServer('192.0.2.1'):addPool('_default_')",
        "getPool('_default_'):setServerPolicy(roundrobin)",
        "addAction('x.test', PoolAction('_default_'))",
        "addAction(PoolAvailableRule('_default_'), DropAction())",
    ] {
        let errors = broken(text);
        assert!(errors.len() == 1 && errors[0].contains("the default pool, or another name"), "{errors:?}");
    }
}

#[test]
fn pools_have_their_own_policy_and_members_by_order() {
    let text = r#"
        newServer{address='192.0.2.1', order=2, pool='p'}
        newServer{address='192.0.2.2', order=1, pool='p'}
        newServer{address='192.0.2.3', order=1, pool={'p', ''}}
        setServerPolicy(wrandom)
        setPoolServerPolicy(ordered(leastOutstanding), 'p')
        getPool('p'):setRetry{after=150, budget=5}
        getPool('p'):setPanicThreshold(30)
        getPool('empty'):setServerPolicy(roundrobin)
        setRetry{after='2s'}
        setEjection{excess=10, time='1m', share=25, queries=7}
    "#;
    let s = snapshot(text);
    let p = s.pool(s.pool_named("p").expect("pool p"));
    assert_eq!(p.members.iter().map(|m| m.0).collect::<Vec<_>>(), [1, 2, 0]);
    assert!(p.policy.ordered && p.policy.kind == Kind::LeastOutstanding);
    let retry = p.retry.expect("retry");
    assert_eq!((retry.after, retry.budget_ppm, p.panic_ppm), (TickDelta::from_ms(150), 50_000, 300_000));
    assert_eq!(s.pool(s.pool_named("empty").expect("pool")).policy.kind, Kind::RoundRobin);
    let d = &s.pools[0];
    assert_eq!((d.policy.kind, d.members.len()), (Kind::WRandom, 1));
    assert_eq!(d.retry.map(|r| (r.after, r.budget_ppm)), Some((TickDelta::from_ms(2000), 100_000)));
    let e = d.eject.expect("ejection");
    assert_eq!(
        (e.excess_ppm, e.span.0, e.share_max_ppm, e.queries_min),
        (100_000, 60_000_000_000, 250_000, 7)
    );
}

fn policy(text: &str) -> crate::model::policy::Policy {
    snapshot(&format!("setServerPolicy({text})")).pools[0].policy.clone()
}

#[test]
fn every_policy_and_its_options_reach_the_snapshot() {
    for (name, kind) in [
        ("leastOutstanding", Kind::LeastOutstanding),
        ("firstAvailable", Kind::FirstAvailable),
        ("roundrobin", Kind::RoundRobin),
        ("wrandom", Kind::WRandom),
        ("whashed", Kind::WHashed),
        ("chashed", Kind::CHashed),
        ("orderedWrandUntag", Kind::OrderedWRandUntag),
        ("p2c", Kind::P2c),
        ("concentrate", Kind::Concentrate),
    ] {
        assert_eq!(policy(name), crate::model::policy::Policy::new(kind), "{name}");
    }
    assert_eq!(policy("hashBy(chashed, 'zone', {labels=3})").hash_key, HashKey::Zone(3));
    assert_eq!(policy("hashBy(whashed, 'client')").hash_key, HashKey::Client);
    assert_eq!(policy("hashBy(whashed, 'clientPrefix')").hash_key, HashKey::ClientPrefix(24, 56));
    assert_eq!(policy("bounded(hashBy(chashed, 'qname'), 1.25)").bounded, Some(1.25));
    let all = policy(
        "concentrate{fullFactor=2, fullMargin='70us', fullTimeouts=2, capFactor=0.7, raiseFactor=1.1, \
         raiseInterval=5000, goodFactor=1.3, shrinkLoad=0.6, shrinkAfter='2m', joinShare=0.05, joinDouble=10000, \
         standbyShare=0.01, spreadAfterDeath=20000, window=100, floorSpan='5m'}",
    );
    let ms = TickDelta::from_ms;
    let want = Concentrate {
        full_factor: 2.0,
        full_margin: TickDelta::from_us(70),
        full_timeouts_ppm: 20_000,
        cap_factor: 0.7,
        raise_factor: 1.1,
        raise_interval: ms(5000),
        good_factor: 1.3,
        shrink_load: 0.6,
        shrink_after: ms(120_000),
        join_share: 0.05,
        join_double: ms(10_000),
        standby_share: 0.01,
        spread_after_death: ms(20_000),
        window: ms(100),
        floor_span: ms(300_000),
    };
    assert_eq!(all.concentrate, want);
    // A call with options does not change the shared object.
    assert_eq!(policy("concentrate{fullFactor=2} and concentrate").concentrate, Concentrate::default());
}

#[test]
fn settings_of_the_process_reach_boot_and_globals() {
    let text = r#"
        setShards(3) setCPUs('0,2-3') setSteering('client') setBusyPoll(25) setUDPMultipleMessagesVectorSize(128)
        setDrainTime('5s') setStatsInterval('1s') setVerbose(true) setVerboseHealthChecks(true) setBackendsMax(50)
        setSockets(7) setUDPTimeout(3) setMaxUDPOutstanding(500) setUDPSocketBufferSizes(100000, 200000)
        setWHashedPertubation(42) setConsistentHashingBalancingFactor(1.5) setWeightedBalancingFactor(2)
        setRoundRobinFailOnNoServer(true) setServFailWhenNoServer(true) setAllowEmptyResponse(true)
        setDropEmptyQueries(true) setPayloadSizeOnSelfGeneratedAnswers(1400)
        setAddEDNSToSelfGeneratedResponses(false) setSecurityPollSuffix('') setRandomizedIdsOverUDP(true)
        setRandomizedOutgoingSockets(true)
        addLocal('0.0.0.0', {interface='eth0', dscp=10, reusePort=true, tcpFastOpenQueueSize=5})
        addLocal('[::]:54', true)
        setServerPolicy(chashed) setPoolServerPolicy(whashed, 'w') setPoolServerPolicy(p2c, 'p')
        newServer('192.0.2.1')
    "#;
    let (_, Compiled { boot, snapshot, .. }) = good(text);
    assert_eq!((boot.shards, &boot.cpus[..], boot.steer), (Some(3), &[0, 2, 3][..], Steer::Client));
    assert_eq!((boot.busy_poll_us, boot.batch_packets, boot.backends_max), (25, 128, 50));
    assert_eq!((boot.drain, boot.stats), (TickDelta::from_ms(5000), Some(TickDelta::from_ms(1000))));
    assert!(
        boot.verbose && boot.verbose_health && boot.log.format == crate::config::log_style::LogFormat::Text
    );
    let b = only(&snapshot);
    assert_eq!((b.sockets, b.timeout, b.outstanding_max), (7, TickDelta::from_ms(3000), 500));
    assert_eq!((b.socket_options.receive_buffer, b.socket_options.send_buffer), (100_000, 200_000));
    let g = &snapshot.globals;
    assert!(g.servfail_when_no_server && g.round_robin_fail_on_no_server && g.allow_empty_response);
    assert!(g.drop_empty_queries && !g.self_answer_edns);
    assert_eq!(g.self_answer_payload, 1400);
    let factors: Vec<_> = snapshot.pools.iter().map(|p| (p.policy.seed, p.policy.bounded)).collect();
    assert_eq!(factors, [(42, Some(1.5)), (42, Some(2.0)), (42, None)]);
    let l = &snapshot.listeners;
    assert_eq!(
        (l[0].address.to_string(), l[0].interface.as_deref(), l[0].dscp),
        ("0.0.0.0:53".into(), Some("eth0"), 10)
    );
    assert_eq!((l[1].address.to_string(), l[1].sockets.receive_buffer), ("[::]:54".into(), 100_000));
}

#[test]
fn defaults_are_those_of_the_table() {
    let (_, Compiled { boot, snapshot, .. }) = good("newServer('192.0.2.1')");
    assert_eq!((boot.shards, boot.cpus.len(), boot.steer, boot.batch_packets), (None, 0, Steer::Flow, 64));
    assert_eq!((boot.backends_max, boot.drain, boot.stats), (1024, TickDelta::from_ms(2000), None));
    let b = only(&snapshot);
    assert_eq!((b.sockets, b.timeout, b.outstanding_max, b.qps), (4, TickDelta::from_ms(2000), 65535, 0));
    assert_eq!((b.id.as_str(), b.name.as_str()), ("192.0.2.1:53", "192.0.2.1:53"));
    assert!(snapshot.globals.self_answer_edns && !snapshot.globals.allow_empty_response);
    assert_eq!(snapshot.pools[0].policy.kind, Kind::LeastOutstanding);
    let listed = good("setCPUs('1,3')").1.boot;
    assert_eq!(listed.shards, Some(2));
}

#[test]
fn the_acl_can_be_replaced_extended_and_read_from_a_file() {
    let has = |s: &Snapshot, ip: &str| s.acl.contains(&mapped(ip.parse().expect("an address")));
    let added = snapshot("addACL('192.0.2.0/24')");
    assert!(has(&added, "192.0.2.1") && has(&added, "127.0.0.1") && !has(&added, "8.8.8.8"));
    let set = snapshot("setACL({'192.0.2.0/24', '2001:db8::/32'})");
    assert!(has(&set, "192.0.2.1") && has(&set, "2001:db8::1") && !has(&set, "127.0.0.1"));
    let excepted = snapshot("setACL({'192.0.2.0/24', '!192.0.2.7'}) addACL('198.51.100.1')");
    assert_eq!(excepted.shown.acl, ["192.0.2.0/24", "!192.0.2.7/32", "198.51.100.1/32"], "as it is written");
    assert!(has(&excepted, "192.0.2.6") && !has(&excepted, "192.0.2.7") && added.shown.acl.len() == 10);
    let list = File::new("# friends\n192.0.2.0/24 # office\n\n198.51.100.7\n");
    let read = snapshot(&format!("setACLFromFile('{}')", list.path().display()));
    assert!(has(&read, "198.51.100.7") && has(&read, "192.0.2.1") && !has(&read, "127.0.0.1"));
}

#[test]
fn the_command_line_overrides_the_file() {
    let file = File::new(
        "addLocal('127.0.0.1:1') addLocal('127.0.0.1:2') setACL('192.0.2.0/24') setUDPTimeout(1) \
         setServerPolicy(wrandom) newServer('192.0.2.1')",
    );
    let path = file.path().display().to_string();
    let arguments = [
        "dnslob",
        "-C",
        &path,
        "-l",
        "[::1]:3",
        "-a",
        "198.51.100.0/24",
        "--udp-timeout",
        "50",
        "--policy",
        "p2c",
        "192.0.2.9",
    ];
    let Ok(Invocation::Serve(flags)) = flags::parse(arguments) else { panic!("flags") };
    let (_, Compiled { snapshot, .. }) = run(&flags).expect("a good configuration");
    assert_eq!(snapshot.listeners.iter().map(|l| l.address.to_string()).collect::<Vec<_>>(), ["[::1]:3"]);
    assert!(snapshot.acl.contains(&mapped("198.51.100.1".parse().expect("an address"))));
    assert!(snapshot.acl.contains(&mapped("192.0.2.1".parse().expect("an address"))));
    for (text, loopback, added) in [
        ("", false, false),
        ("addACL('203.0.113.0/24')", false, true),
        ("setACL('127.0.0.0/8')", true, false),
    ] {
        let file = File::new(&format!("{text} newServer('192.0.2.1')"));
        let acl = vec!["198.51.100.0/24".parse().expect("a network")];
        let flags = Flags { file: Some(file.path().to_owned()), acl, ..Flags::default() };
        let acl = run(&flags).expect("a good configuration").1.snapshot.acl;
        let has = |ip: &str| acl.contains(&mapped(ip.parse().expect("an address")));
        assert!(has("198.51.100.1"), "{text}");
        assert_eq!((has("127.0.0.1"), has("203.0.113.1")), (loopback, added), "{text}");
    }
    let servers: Vec<_> =
        snapshot.backends.iter().flatten().map(|b| (b.address.to_string(), b.timeout)).collect();
    let timeout = TickDelta::from_ms(50);
    assert_eq!(servers, [("192.0.2.1:53".to_owned(), timeout), ("192.0.2.9:53".to_owned(), timeout)]);
    assert_eq!(snapshot.pools[0].policy.kind, Kind::P2c);
}

#[test]
fn included_files_are_evaluated_in_order_and_named_in_errors() {
    let directory = std::env::temp_dir().join(format!("dnslob-include-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    for (name, text) in [
        ("b.conf", "newServer('192.0.2.2')"),
        ("a.conf", "newServer('192.0.2.1')"),
        ("c.txt", "error('not read')"),
    ] {
        std::fs::write(directory.join(name), text).expect("a file");
    }
    let text = format!("includeDirectory('{}')", directory.display());
    let s = snapshot(&text);
    let addresses: Vec<String> = s.backends.iter().flatten().map(|b| b.id.clone()).collect();
    assert_eq!(addresses, ["192.0.2.1:53", "192.0.2.2:53"]);
    std::fs::write(directory.join("a.conf"), "\nnewServer('x')\nx = = 1").expect("a file");
    let syntax = broken(&text);
    std::fs::write(directory.join("a.conf"), "\nnewServer('x')").expect("a file");
    let value = broken(&text);
    std::fs::remove_dir_all(&directory).expect("removed");
    let place = |line: u32| format!("{}:{line}: ", directory.join("a.conf").display());
    assert!(syntax.len() == 1 && syntax[0].starts_with(&place(3)), "{syntax:#?}");
    assert!(value.len() == 1 && value[0].starts_with(&place(2)), "{value:#?}");
}

#[test]
fn too_many_servers_are_refused_and_retired_ones_mentioned() {
    let (loaded, first) = good("setBackendsMax(2) newServer('192.0.2.1') newServer('192.0.2.2')");
    assert!(compile(&loaded.draft, &first.slots, 2).is_ok(), "the same servers keep their slots");
    let messages = broken("setBackendsMax(1)\nnewServer('192.0.2.1')\nnewServer('192.0.2.2')");
    assert_eq!(messages, ["FILE:3: 2 servers; expected at most 1 (backends-max)"]);
    let file = File::new("setBackendsMax(2)\nnewServer('192.0.2.3')");
    let other = load(&Flags { file: Some(file.path().to_owned()), ..Flags::default() }).expect("loaded");
    let errors = compile(&other.draft, &first.slots, 2).expect_err("no slot is free");
    assert!(
        errors[0].to_string().contains("1 servers, with 2 removed ones that still finish"),
        "{}",
        errors[0]
    );
}

#[test]
fn servers_of_one_address_are_distinct_and_keep_their_slots() {
    let (loaded, first) =
        good("newServer('192.0.2.1') newServer('192.0.2.1') newServer{address='192.0.2.1', id='x'}");
    let ids: Vec<&str> = first.snapshot.backends.iter().flatten().map(|b| b.id.as_str()).collect();
    assert_eq!(ids, ["192.0.2.1:53", "192.0.2.1:53#2", "x"]);
    let again = compile(&loaded.draft, &first.slots, 2).expect("again");
    assert_eq!(again.snapshot.backends, first.snapshot.backends);
    assert!(diff(&first.snapshot, &again.snapshot).is_empty());
}

#[test]
fn a_reload_is_described_line_by_line() {
    let old = snapshot(
        "newServer{address='192.0.2.1', name='a'} newServer('192.0.2.2') addLocal('127.0.0.1:1') \
         getPool('x'):setRetry{after=100}",
    );
    let new = snapshot(
        "newServer{address='192.0.2.1', name='a', weight=5, checkInterval=2} newServer('192.0.2.3') \
         addLocal('127.0.0.1:2') addACL('192.0.2.0/24') setServerPolicy(hashBy(chashed, 'zone')) \
         setServFailWhenNoServer(true)",
    );
    assert_eq!(
        diff(&old, &new),
        [
            "listener 127.0.0.1:1 buffers 4194304/1048576 removed",
            "listener 127.0.0.1:2 buffers 4194304/1048576 added",
            "server 192.0.2.2:53 removed",
            "server 192.0.2.1:53 weight: 1 -> 5",
            "server 192.0.2.1:53 checkInterval: 1s -> 2s",
            "server 192.0.2.3:53 added",
            "pool \"x\" removed",
            "pool \"\" servers: 192.0.2.1:53, 192.0.2.2:53 -> 192.0.2.1:53, 192.0.2.3:53",
            "pool \"\" policy: leastOutstanding -> hashBy(chashed, \"zone\", {labels=2})",
            "acl changed: 9 -> 10 ranges",
            "setting setServFailWhenNoServer: false -> true",
        ]
    );
}

#[test]
fn settings_that_need_a_restart_are_named() {
    let boot = |text: &str| good(text).1.boot;
    let old = boot("setShards(2) setDrainTime('1s')");
    let new = boot("setShards(4) setDrainTime('9s') setSteering('cpu') setVerbose(true)");
    assert_eq!(old.differences(&new), ["shards: 2 -> 4", "steer: flow -> cpu"]);
    assert!(old.differences(&old).is_empty());
    assert_eq!(
        boot("").differences(&boot("setBatch = 1; setUDPMultipleMessagesVectorSize(64)")),
        Vec::<String>::new()
    );
}

/// Generates any Lua literal.
fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>().prop_map(|x| if x.is_finite() { format!("({x:e})") } else { "(1/0)".to_owned() }),
        any::<i64>().prop_map(|n| format!("({n}.0)")),
        (-2_i32..300).prop_map(|n| n.to_string()),
        "[ -!#-\\[\\]-~]{0,12}".prop_map(|t| format!("\"{t}\"")),
        prop::sample::select(vec![
            "nil",
            "true",
            "false",
            "{}",
            "{1, 2}",
            "{'a'}",
            "{x={}}",
            "print",
            "wrandom",
            "concentrate",
            "0/0",
            "''",
            "'192.0.2.1'",
            "'2s'",
            "newServer('192.0.2.9')",
            "getPool('x')",
            "newSuffixMatchNode()",
            "newNMG()",
            "AllRule()",
            "DropAction()",
            "TCResponseAction()",
            "newRuleAction(AllRule(), DropAction())",
            "function() end",
            "'\\0\\255'",
        ])
        .prop_map(str::to_owned),
    ]
}

#[test]
fn a_pool_goes_when_nothing_is_for_it() {
    let pools = |end: &str| {
        let text = format!(
            "newServer{{address='192.0.2.1', pool='served'}}\n\
             addAction('a.test', PoolAction('named'))\n\
             getPool('served'):setRetry{{after=150}}\n\
             getPool('named'):setServerPolicy(wrandom)\n\
             getPool('one'):setServerPolicy(wrandom)\n\
             getPool('two'):setServerPolicy(roundrobin)\n\
             {end}"
        );
        let pools = snapshot(&text).pools.into_iter();
        pools
            .filter(|pool| !pool.name.is_empty())
            .map(|pool| (pool.name, pool.policy.kind))
            .collect::<Vec<_>>()
    };
    let all = pools("");
    assert_eq!(all.len(), 4);
    assert_eq!(pools("assert(not rmPool('served') and not rmPool('named') and not rmPool(''))"), all);
    let left = pools("assert(rmPool('one') and rmPool('one') and rmPool('none'))");
    assert_eq!(left.len(), 3);
    assert!(left.contains(&("two".to_owned(), Kind::RoundRobin)), "its settings stay: {left:?}");
    // One that is named again begins anew.
    let again = pools("rmPool('one') getPool('one')");
    assert!(again.contains(&("one".to_owned(), Kind::LeastOutstanding)), "{again:?}");
    assert_eq!(pools("getServer('192.0.2.1:53'):rmPool('served') assert(rmPool('served'))").len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_value_panics_and_every_error_has_its_place(
        arguments in prop::collection::vec((any::<prop::sample::Index>(), literal()), 0..6),
        calls in prop::collection::vec((any::<prop::sample::Index>(), literal(), literal()), 0..6),
    ) {
        let names: Vec<&str> = SERVER_ARGUMENTS.iter().map(|e| e.name)
            .chain(SERVER_ARGUMENTS_MISSING.iter().flat_map(|m| m.names.iter().copied())).collect();
        let mut functions: Vec<&str> = SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name).collect();
        functions.extend(crate::lua::front_end::every_function().map(|e| e.name).filter(|n| *n != "setACLFromFile"));
        functions.extend(["newServer", "rmServer", "getServer", "addLocal", "setLocal", "setACL", "addACL",
            "setServerPolicy", "setPoolServerPolicy", "getPool", "setRetry", "setPanicThreshold", "setEjection",
            "ordered", "hashBy", "bounded", "concentrate", "setUDPSocketBufferSizes", "addAction", "includeDirectory",
            "setHealthCheckResponseValidator"]);
        let mut text = "newServer{address='192.0.2.1'".to_owned();
        for (name, value) in &arguments {
            text += &format!(", {}={value}", name.get(&names));
        }
        text += "}\n";
        for (function, a, b) in &calls {
            text += &format!("{}({a}, {b})\n", function.get(&functions));
        }
        for message in broken(&text) {
            prop_assert!(message.starts_with("FILE:"), "{message}\n{text}");
        }
    }
}
