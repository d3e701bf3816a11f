//! The API that changes the configuration: what it changes, keeps and refuses, with curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::Load;
use crate::place::{Directory, wait_for};
use crate::process::run;
use crate::reload::{endless, let_pass};
use crate::web::{fetch_with, local};

const KEY: &str = "X-API-Key: key";
const ANY: &str = "If-Match: *";

/// Returns Lua for a web server whose API may write, and keep it in a directory.
fn writable(web: SocketAddr, directory: Option<&Path>) -> String {
    let directory = directory.map_or(String::new(), |path| format!(", '{}'", path.display()));
    format!("webserver('{web}') setWebserverConfig({{apiKey='key'}}) setAPIWritable(true{directory})\n")
}

/// Sends a request; returns its status, and head and body.
fn send(web: SocketAddr, method: &str, path: &str, condition: &str, body: Option<&str>) -> (u16, String) {
    let mut arguments =
        vec!["-X", method, "-H", KEY, "-H", condition, "-H", "Content-Type: application/json"];
    arguments.extend(body.iter().flat_map(|body| ["-d", body]));
    fetch_with(web, path, &arguments)
}

/// Makes a change that must succeed, whatever is in force; returns the answer.
fn change(web: SocketAddr, method: &str, path: &str, body: Option<&str>) -> String {
    let (status, text) = send(web, method, path, ANY, body);
    assert!(status == 200 || status == 201, "{method} {path} {body:?}: {text}");
    text
}

fn read(web: SocketAddr, path: &str) -> String {
    let (status, text) = fetch_with(web, path, &["-H", KEY]);
    assert_eq!(status, 200, "{path}: {text}");
    text
}

/// Returns the condition with which a change is meant for what was read.
fn tag(text: &str) -> String {
    let tag = text.lines().find_map(|line| line.strip_prefix("etag: "));
    format!("If-Match: {}", tag.unwrap_or_else(|| panic!("no ETag in {text}")))
}

/// Returns the UUID of a new rule.
fn uuid(text: &str) -> String {
    let path = text.lines().find_map(|line| line.strip_prefix("location: "));
    path.and_then(|path| path.rsplit_once('/')).unwrap_or_else(|| panic!("no rule in {text}")).1.to_owned()
}

fn dig(at: SocketAddr, name: &str) -> String {
    let host = format!("@{}", at.ip());
    run("dig", &[&host, "-p", &at.port().to_string(), name, "+tries=1", "+timeout=2"]).1
}

const REFUSE: &str = r#"{"selector": "a.test", "action": {"name": "RCodeAction", "args": [{"constant": "DNSRCode.REFUSED"}]}}"#;

#[test]
fn what_it_changes_is_served_and_outlives_reload_and_restart() {
    let (one, two) = (Backend::start(1, Behaviour::Prompt), Backend::start(2, Behaviour::Prompt));
    let (at, web, directory) = (local(), local(), Directory::new());
    let lua = listen(at)
        + &backend(one.address, ", id='one'")
        + "addAction('b.test', RCodeAction(DNSRCode.NXDOMAIN))\naddAction('c.test', TCAction())\n"
        + &writable(web, Some(directory.path()));
    let mut instance = Instance::start(&lua);
    let load = Load::start(endless(at));
    let_pass(&load, 500);
    // Servers.
    let second =
        format!(r#"{{"address": "{}", "id": "two", "pool": ["", "spare"], "weight": 7}}"#, two.address);
    let added = change(web, "POST", "/api/v2/servers", Some(&second));
    assert!(added.contains("location: /api/v2/servers/two") && added.contains("\"kept\":true"), "{added}");
    wait_for(|| "queries at the new server".into(), || (two.queries() > 0).then_some(()));
    let third = r#"{"address": "192.0.2.3", "tls": "openssl", "healthCheckMode": "down", "pool": "tls"}"#;
    let added = change(web, "POST", "/api/v2/servers", Some(third));
    assert!(added.contains("location: /api/v2/servers/192.0.2.3:853"), "{added}");
    change(web, "DELETE", "/api/v2/servers/192.0.2.3:853", None);
    change(
        web,
        "PATCH",
        "/api/v2/servers/one",
        Some(r#"{"mode": "drain", "weight": 9, "pools": ["", "x"]}"#),
    );
    for weight in 1..20 {
        change(web, "PATCH", "/api/v2/servers/two", Some(&format!("{{\"weight\": {weight}}}")));
    }
    change(
        web,
        "PUT",
        "/api/v2/pools/spare",
        Some(r#"{"policy": {"name": "ordered", "args": [{"constant": "whashed"}]}}"#),
    );
    // Rules: one of ours, one of the file replaced, one of the file removed.
    let ours = uuid(&change(web, "POST", "/api/v2/rules/query", Some(REFUSE)));
    let all = read(web, "/api/v2/rules/query");
    let uuids: Vec<&str> = all.split("\"uuid\":\"").skip(1).map(|rest| &rest[..36]).collect();
    assert_eq!((uuids.len(), uuids[2]), (3, ours.as_str()), "{all}");
    let replaced = r#"{"selector": "d.test", "action": {"name": "RCodeAction", "args": [5]}, "name": "d"}"#;
    change(web, "PUT", &format!("/api/v2/rules/query/{}", uuids[0]), Some(replaced));
    change(web, "DELETE", &format!("/api/v2/rules/query/{}", uuids[1]), None);
    change(web, "PUT", "/api/v2/acl", Some(r#"{"networks": ["127.0.0.0/8"]}"#));
    change(web, "PUT", "/api/v2/acl/192.0.2.0%2F24", None);
    change(web, "PUT", "/api/v2/acl/!192.0.2.7", None);
    assert!(
        read(web, "/api/v2/acl").ends_with("[\"127.0.0.0/8\",\"192.0.2.0/24\",\"!192.0.2.7/32\"]}"),
        "as it was written"
    );
    change(web, "DELETE", "/api/v2/acl/192.0.2.0%2F24", None);
    change(web, "PUT", "/api/v2/acl/192.0.2.0%2F24", None);
    change(web, "PUT", "/api/v2/acl/192.0.2.7", None);
    assert!(!read(web, "/api/v2/acl").contains('!'), "the network takes the place of the exception");
    change(web, "DELETE", "/api/v2/acl/127.0.0.0%2F8", None);
    assert!(dig(at, "a.test").contains("timed out"));
    let listed =
        r#"{"name": "allow-from", "type": "ConfigSetting", "value": ["127.0.0.0/8", "198.51.100.0/24"]}"#;
    let put = change(web, "PUT", "/api/v1/servers/localhost/config/allow-from", Some(listed));
    assert!(put.contains("198.51.100.0/24"), "{put}");

    let holds = |when: &str| {
        let servers = read(web, "/api/v2/servers");
        assert!(
            servers.contains("\"mode\":\"drain\"") && servers.contains("\"weight\":19"),
            "{when}: {servers}"
        );
        assert!(dig(at, "a.test").contains("REFUSED") && dig(at, "d.test").contains("REFUSED"), "{when}");
        assert!(
            !dig(at, "b.test").contains("NXDOMAIN") && !dig(at, "c.test").contains("Truncated"),
            "{when}"
        );
        assert!(
            read(web, "/api/v2/acl").ends_with("{\"networks\":[\"127.0.0.0/8\",\"198.51.100.0/24\"]}"),
            "{when}"
        );
        assert!(read(web, "/api/v2/pools/spare").contains("whashed"), "{when}");
        let rules = read(web, "/api/v2/rules/query");
        assert!(
            rules.contains(uuids[0]) && rules.contains(&ours) && rules.contains("\"total\":2"),
            "{when}: {rules}"
        );
    };
    holds("at once");
    instance.forget_notices();
    instance.reload(&lua);
    holds("after a reload");
    // The ACL was closed for a moment.
    load.finish();
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
    let kept = std::fs::read_to_string(directory.path().join("api.conf")).expect("a file");
    assert_eq!(kept.matches("setWeight").count(), 2, "{kept}");
    let mut instance = Instance::start(&lua);
    holds("after a restart");
    // What came by the API goes without a trace, and what the file had goes too.
    change(web, "DELETE", "/api/v2/servers/two", None);
    change(web, "DELETE", &format!("/api/v2/rules/query/{ours}"), None);
    change(web, "DELETE", "/api/v2/servers/one", None);
    let kept = std::fs::read_to_string(directory.path().join("api.conf")).expect("a file");
    assert!(!kept.contains("two") && !kept.contains(&ours) && kept.contains("rmServer(\"one\")"), "{kept}");
    // What a change was about may leave the file.
    let other = listen(at) + &backend(one.address, ", id='other'") + &writable(web, Some(directory.path()));
    instance.forget_notices();
    instance.reload(&other);
    assert!(read(web, "/api/v2/servers").contains("other"), "{}", instance.program.transcript());
    assert_eq!(instance.program.lines_with(0, "a change by the API has no effect").len(), 3);
}

#[test]
fn a_change_of_another_configuration_is_refused_and_of_two_writers_one_wins() {
    let (at, web) = (local(), local());
    let lua = listen(at) + &backend(local(), ", id='one'") + &writable(web, None);
    let mut instance = Instance::start(&lua);
    let first = tag(&read(web, "/api/v2/servers"));
    let patch = |condition: &str, weight: u32| {
        send(web, "PATCH", "/api/v2/servers/one", condition, Some(&format!("{{\"weight\": {weight}}}"))).0
    };
    let both: Vec<u16> = std::thread::scope(|scope| {
        let (patch, first) = (&patch, &first);
        let writers: Vec<_> = (2..6).map(|weight| scope.spawn(move || patch(first, weight))).collect();
        writers.into_iter().map(|writer| writer.join().expect("a status")).collect()
    });
    assert_eq!(both.iter().filter(|status| **status == 200).count(), 1, "{both:?}");
    assert_eq!(both.iter().filter(|status| **status == 412).count(), 3, "{both:?}");
    // For any generation, all win.
    let all: Vec<u16> = std::thread::scope(|scope| {
        let patch = &patch;
        let writers: Vec<_> = (2..8).map(|weight| scope.spawn(move || patch(ANY, weight))).collect();
        writers.into_iter().map(|writer| writer.join().expect("a status")).collect()
    });
    assert_eq!(all, [200; 6]);
    // Without a directory a reload takes it back, and is a change itself.
    let before = tag(&read(web, "/api/v2/servers"));
    instance.forget_notices();
    instance.reload(&lua);
    assert!(read(web, "/api/v2/servers").contains("\"weight\":1}"));
    assert_eq!(patch(&before, 5), 412);
    // While a reload is under way, a change waits for it.
    instance.forget_notices();
    instance.begin_reload(&(lua.clone() + "for i = 1, 3e6 do local _ = i .. '' end\n"));
    assert_eq!(patch(ANY, 3), 200);
    instance.wait_ready();
    assert!(matches!(tag(&read(web, "/api/v2/servers")), after if after != before));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn what_is_wrong_is_a_problem_and_changes_nothing() {
    let (at, web, directory) = (local(), local(), Directory::new());
    let lua = listen(at)
        + &backend(local(), ", id='one'")
        + &writable(web, Some(directory.path()))
        + "getPool('cached'):setCache(newPacketCache(100))\n";
    let mut instance = Instance::start(&lua);
    let before = tag(&read(web, "/api/v2"));
    let purged = send(web, "DELETE", "/api/v1/cache?pool=cached&name=a.test", "X: y", None);
    assert!(
        purged.0 == 200 && purged.1.contains("\"status\":\"purged\"") && purged.1.contains("\"count\":\"0\""),
        "{}",
        purged.1
    );
    assert_eq!(fetch_with(web, "/api/v1/cache?pool=cached&name=a.test", &["-X", "DELETE"]).0, 401);
    let long = "x".repeat(200_000);
    let rule =
        |selector: &str| format!("{{\"selector\": {selector}, \"action\": {{\"name\": \"DropAction\"}}}}");
    let deep = rule(&format!("{{\"name\": \"AndRule\", \"args\": {}{}}}", "[".repeat(100), "]".repeat(100)));
    let deeper = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let mut changes = 0;
    for (status, method, path, condition, body) in [
        (428, "PATCH", "/api/v2/servers/one", "X: y", r#"{"weight": 5}"#),
        (412, "PATCH", "/api/v2/servers/one", "If-Match: \"1\"", r#"{"weight": 5}"#),
        (412, "PATCH", "/api/v2/servers/one", "If-Match: W/\"1\"", r#"{"weight": 5}"#),
        (404, "PATCH", "/api/v2/servers/two", ANY, r#"{"weight": 5}"#),
        (400, "PATCH", "/api/v2/servers/one", ANY, r#"{"weight": "#),
        (400, "PATCH", "/api/v2/servers/one", ANY, ""),
        (400, "PATCH", "/api/v2/servers/one", ANY, &deeper),
        (422, "PATCH", "/api/v2/servers/one", ANY, "[]"),
        (422, "PATCH", "/api/v2/servers/one", ANY, "{}"),
        (422, "PATCH", "/api/v2/servers/one", ANY, r#"{"weight": "5"}"#),
        (422, "PATCH", "/api/v2/servers/one", ANY, r#"{"weight": 1.5}"#),
        (422, "PATCH", "/api/v2/servers/one", ANY, r#"{"colour": 5}"#),
        (422, "PATCH", "/api/v2/servers/one", ANY, r#"{"mode": "off"}"#),
        (405, "PUT", "/api/v2/servers/one", ANY, "{}"),
        (404, "PUT", "/api/v2/nothing", ANY, "{}"),
        (409, "POST", "/api/v2/servers", ANY, r#"{"address": "192.0.2.1", "id": "one"}"#),
        (422, "POST", "/api/v2/servers", ANY, r#"{"address": "nonsense"}"#),
        (422, "POST", "/api/v2/servers", ANY, r#"{"address": "nonsense", "id": "x"}"#),
        (422, "POST", "/api/v2/servers", ANY, r#"{"address": "192.0.2.1", "checkScript": ["/bin/true"]}"#),
        (422, "POST", "/api/v2/servers", ANY, r#"{"address": "192.0.2.1", "qps": -1.5}"#),
        (404, "POST", "/api/v2/rules/nothing", ANY, &rule("\"a.test\"")),
        (422, "POST", "/api/v2/rules/query", ANY, &rule("5")),
        (422, "POST", "/api/v2/rules/query", ANY, &rule(r#"{"name": "os.exit", "args": []}"#)),
        (422, "POST", "/api/v2/rules/query", ANY, &rule(r#"{"name": "LuaRule", "args": ["x"]}"#)),
        (422, "POST", "/api/v2/rules/query", ANY, &rule("\"a..b\"")),
        (422, "POST", "/api/v2/rules/response", ANY, &rule("\"a.test\"")),
        (422, "POST", "/api/v2/rules/query", ANY, &deep),
        (422, "POST", "/api/v2/rules/query", ANY, &rule(&format!("\"{long}\""))),
        (404, "DELETE", "/api/v2/rules/query/0a4bfe80-922e-4e2c-accb-ca92a4021f06", ANY, ""),
        (404, "DELETE", "/api/v2/rules/query/0", ANY, ""),
        (422, "PUT", "/api/v2/acl", ANY, r#"{"networks": "127.0.0.1"}"#),
        (422, "PUT", "/api/v2/acl", ANY, r#"{"networks": ["nonsense"]}"#),
        (422, "PUT", "/api/v2/acl", ANY, r#"{"networks": ["!192.0.2.1"]}"#),
        (422, "PUT", "/api/v2/acl/nonsense", ANY, ""),
        (404, "DELETE", "/api/v2/acl/192.0.2.1", ANY, ""),
        (400, "PUT", "/api/v1/servers/localhost/config/allow-from", ANY, r#"{"value": ["nonsense"]}"#),
        (400, "PUT", "/api/v1/servers/localhost/config/allow-from", ANY, r#"{"value": "127.0.0.1"}"#),
        (400, "GET", "/api/v2/rules/query?limit=x", ANY, ""),
        (400, "GET", "/api/v2/history?range=5", ANY, ""),
        (404, "DELETE", "/api/v1/cache?pool=&name=a.test", ANY, ""),
        (404, "DELETE", "/api/v1/cache?pool=none&name=a.test", ANY, ""),
        (400, "DELETE", "/api/v1/cache?pool=cached", ANY, ""),
        (400, "DELETE", "/api/v1/cache?pool=cached&name=a..b", ANY, ""),
        (400, "PATCH", "/api/v2/servers/one?dry-run=maybe", ANY, r#"{"weight": 5}"#),
        (400, "PATCH", "/api/v2/servers/one?dry-run=false&dry-run=true", ANY, r#"{"weight": 5}"#),
        (400, "PATCH", "/api/v2/servers/one?dryrun=true", ANY, r#"{"weight": 5}"#),
        (400, "GET", "/api/v2/top?what=clients&windows=5", ANY, ""),
        (422, "PATCH", "/api/v2/servers/one", ANY, r#"{"weight": 2147483648}"#),
        (422, "PATCH", "/api/v2/servers/one", ANY, r#"{"weight": 0}"#),
        (422, "POST", "/api/v2/servers", ANY, r#"{"address": "192.0.2.1", "weight": -1}"#),
        (422, "POST", "/api/v2/servers", ANY, r#"{"address": "192.0.2.1", "weight": 1e23}"#),
    ] {
        let file = directory.write("body", body);
        let data = format!("@{}", file.display());
        let mut arguments =
            vec!["-X", method, "-H", KEY, "-H", condition, "-H", "Content-Type: application/json"];
        if method != "GET" {
            arguments.extend(["--data-binary", &data]);
        }
        let (got, text) = fetch_with(web, path, &arguments);
        let shown = body.get(..200).unwrap_or(body);
        assert_eq!(got, status, "{method} {path} {shown}: {text}");
        let is_problem =
            text.contains("application/problem+json") && text.contains(&format!("\"status\":{status}"));
        assert!(is_problem && text.contains("\"detail\":\""), "{method} {path} {shown}: {text}");
        let is_change = method != "GET" && !path.starts_with("/api/v1/cache") && path != "/api/v2/nothing";
        changes += u64::from(is_change && status != 405);
    }
    let patch = r#"{"weight": 5}"#;
    let form = ["-X", "PATCH", "-H", KEY, "-H", ANY, "-d", patch];
    assert_eq!(fetch_with(web, "/api/v2/servers/one", &form).0, 415);
    assert_eq!(instance.counted("changes-refused"), changes + 1, "each is counted");
    let why = "(PATCH /api/v2/servers/one by 127.0.0.1";
    assert!(instance.program.lines_with(0, why).iter().any(|line| line.contains("is at generation")));
    let nobody = ["-X", "PATCH", "-H", ANY, "-H", "Content-Type: application/json", "-d", patch];
    let (status, text) = fetch_with(web, "/api/v2/servers/one", &nobody);
    assert!(status == 401 && text.contains("application/problem+json"), "{text}");
    let large = directory.write("body", &format!("{{\"networks\": [\"{}\"]}}", "1".repeat(1 << 20)));
    let large = format!("@{}", large.display());
    let much =
        ["-X", "PUT", "-H", KEY, "-H", ANY, "-H", "Content-Type: application/json", "--data-binary", &large];
    assert_eq!(fetch_with(web, "/api/v2/acl", &much).0, 413);
    // A connection that is cut within a request changes nothing.
    let mut cut = TcpStream::connect(web).expect("a connection");
    let head = format!(
        "PATCH /api/v2/servers/one HTTP/1.1\r\nhost: x\r\n{KEY}\r\n{ANY}\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n"
    );
    cut.write_all(head.as_bytes()).and_then(|()| cut.write_all(&patch.as_bytes()[..12])).expect("sent");
    cut.shutdown(std::net::Shutdown::Write).expect("closed");
    let _ = cut.read_to_end(&mut Vec::new());
    // A dry run says what it would change.
    let dry = send(web, "PATCH", "/api/v2/servers/one?dry-run=true", &before, Some(patch));
    assert!(dry.0 == 200 && dry.1.contains("weight: 1 -> 5"), "{}", dry.1);
    let dry = send(web, "PATCH", "/api/v2/servers/one?dry-run=true", &before, Some(r#"{"weight": 5}"#));
    assert_eq!(dry.0, 200, "{}", dry.1);
    assert_eq!(tag(&read(web, "/api/v2")), before, "{}", instance.program.transcript());
    let written = std::fs::read_dir(directory.path()).expect("a directory").filter_map(Result::ok);
    let written: Vec<String> = written.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(!written.iter().any(|name| name.contains(".conf")), "{written:?}");
    // What cannot be kept is not done.
    drop(directory);
    let (status, text) = send(web, "PATCH", "/api/v2/servers/one", ANY, Some(patch));
    assert!(status == 500 && text.contains("cannot be kept"), "{text}");
    assert_eq!(tag(&read(web, "/api/v2")), before);
    let mut held = TcpStream::connect(web).expect("a connection");
    let get = format!("GET /api/v2 HTTP/1.1\r\nHost: x\r\n{KEY}\r\n\r\n");
    held.write_all(get.as_bytes()).and_then(|()| held.read_exact(&mut [0; 100])).expect("an answer");
    instance.forget_notices();
    instance.reload(&(listen(at) + &backend(local(), "") + &writable(web, None).replace("true", "false")));
    let status = || send(web, "PUT", "/api/v2/acl/192.0.2.1", ANY, None).0;
    wait_for(|| "nothing may be written".into(), || (status() == 403).then_some(()));
    // Not by who was there before, either.
    held.write_all(head.replace("content-length: 13", "content-length: 0").as_bytes()).expect("sent");
    let mut rest = String::new();
    held.read_to_string(&mut rest).expect("an answer, and the end");
    assert!(rest.contains(" 503 ") && rest.contains("connect again"), "{rest}");
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn what_a_new_server_lacks_is_told_from_what_is_wrong_with_it() {
    let (at, web) = (local(), local());
    let lua = listen(at) + &backend(local(), ", id='one'") + &writable(web, None);
    let mut instance = Instance::start(&lua);
    for (body, why) in [
        ("{}", "address is missing; expected IP[:PORT]"),
        (r#"{"address": null}"#, "address is missing; expected"),
        (r#"{"address": 5}"#, "address is 5; expected"),
        (r#"{"address": ["127.0.0.1"]}"#, "address is a list; expected"),
        (r#"{"address": {"a": 1}}"#, "address is an object; expected"),
        (r#"{"address": true}"#, "address is true; expected"),
        (r#"{"address": ""}"#, r#"address is \"\"; expected"#),
        (r#"{"address": "127.0.0.1", "id": 7}"#, "id is 7; expected a text"),
        (r#"{"address": "127.0.0.1", "name": []}"#, "name is a list; expected a text"),
    ] {
        let (status, text) = send(web, "POST", "/api/v2/servers", ANY, Some(body));
        assert!(status == 422 && text.contains(why), "{body}: {text}");
    }
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn no_name_becomes_lua() {
    let (at, web, directory) = (local(), local(), Directory::new());
    let lua = listen(at) + &backend(local(), "") + &writable(web, Some(directory.path()));
    let mut instance = Instance::start(&lua);
    let names = [
        r#"\" os.exit(7) --"#,
        r#"]] os.exit(7) --[["#,
        r#"a\nos.exit(7)\n"#,
        r#"\\\" .. os.exit(7) .. \\\""#,
        r#"\u0000\u2028%s\r--= {}"#,
    ];
    for (at, name) in names.iter().enumerate() {
        // Servers and pools have no control characters in their names.
        let is_plain = !name.contains("\\n") && !name.contains("\\u");
        if is_plain {
            let server = format!(
                r#"{{"address": "192.0.2.{}", "id": "{name}", "name": "n{name}", "pool": "{name}"}}"#,
                at + 1
            );
            let added = change(web, "POST", "/api/v2/servers", Some(&server));
            let path = added.lines().find_map(|line| line.strip_prefix("location: ")).expect("its path");
            change(web, "PATCH", path, Some(&format!(r#"{{"pools": ["{name}", "more {name}"]}}"#)));
            let pool = path.replace("/servers/", "/pools/");
            change(web, "PUT", &pool, Some(r#"{"policy": "wrandom"}"#));
        }
        let rule = format!(
            r#"{{"selector": {{"name": "TagRule", "args": ["{name}", "{name}"]}}, "name": "{name}", "group": "{name}",
                "action": {{"name": "SetTagAction", "args": ["{name}", "{name}"]}}}}"#
        );
        change(web, "POST", "/api/v2/rules/query", Some(&rule));
    }
    let before = read(web, "/api/v2/servers");
    instance.forget_notices();
    instance.reload(&lua);
    let body = |text: &str| text.split_once("\r\n\r\n").expect("a body").1.replace("\"up\"", "\"down\"");
    assert_eq!(body(&read(web, "/api/v2/servers")), body(&before));
    assert!(read(web, "/api/v2/rules/query").contains("\"total\":5"));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn ten_thousand_rules_are_listed_and_changed() {
    let (at, web, directory) = (local(), local(), Directory::new());
    let (prompt, spare) = (Backend::start(1, Behaviour::Prompt), Backend::start(2, Behaviour::Prompt));
    let lua = listen(at)
        + &backend(prompt.address, "")
        + "for i = 1, 10000 do addAction('n' .. i .. '.test', DropAction()) end\n"
        + &writable(web, Some(directory.path()));
    let mut instance = Instance::start(&lua);
    let load = Load::start(endless(at));
    let_pass(&load, 100);
    let all = read(web, "/api/v2/rules/query?limit=10000");
    assert_eq!(all.matches("\"uuid\"").count(), 10_000);
    let last = &all[all.rfind("\"uuid\":\"").expect("a rule") + 8..][..36];
    let page = read(web, "/api/v2/rules/query?offset=9999&limit=5");
    assert!(page.matches("\"uuid\"").count() == 1 && page.contains(last), "{page}");
    change(web, "PUT", &format!("/api/v2/rules/query/{last}"), Some(REFUSE));
    assert!(dig(at, "a.test").contains("REFUSED"));
    for _ in 0..5 {
        let ours = uuid(&change(web, "POST", "/api/v2/rules/query", Some(REFUSE)));
        change(web, "DELETE", &format!("/api/v2/rules/query/{ours}"), None);
        // Two servers, of which one's name begins as the other's does.
        for id in ["x/y", "x"] {
            let server = format!(r#"{{"address": "{}", "id": "{id}"}}"#, spare.address);
            let added = change(web, "POST", "/api/v2/servers", Some(&server));
            let path = added.lines().find_map(|line| line.strip_prefix("location: ")).expect("its path");
            change(web, "PATCH", path, Some(r#"{"weight": 3}"#));
        }
        change(web, "DELETE", "/api/v2/servers/x", None);
        let kept = std::fs::read_to_string(directory.path().join("api.conf")).expect("a file");
        assert!(kept.contains("newServer") && kept.matches("setWeight").count() == 1, "{kept}");
        change(web, "DELETE", "/api/v2/servers/x%2Fy", None);
    }
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    instance.forget_notices();
    instance.reload(&lua);
    assert!(dig(at, "a.test").contains("REFUSED"), "{}", instance.program.transcript());
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

/// A stream of events that is read.
struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    fn open(web: SocketAddr, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(web).expect("a connection");
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let head = format!("GET /api/v2/events HTTP/1.1\r\nHost: x\r\n{KEY}\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
        Self { stream, text: String::new() }
    }

    /// Reads until a text has come; returns all that has come.
    fn until(&mut self, wanted: &str) -> String {
        let own = std::cell::RefCell::new(self);
        wait_for(
            || format!("{wanted} in {}", own.borrow().text),
            || {
                let mut own = own.borrow_mut();
                let mut bytes = [0; 4096];
                let read = own.stream.read(&mut bytes).unwrap_or(0);
                own.text += &String::from_utf8_lossy(&bytes[..read]);
                own.text.contains(wanted).then(|| own.text.clone())
            },
        )
    }
}

#[test]
fn events_are_told_and_resumed_and_their_streams_are_bounded() {
    let (at, web) = (local(), local());
    let lua = listen(at) + &backend(local(), ", id='one'") + &writable(web, None);
    let mut instance = Instance::start(&lua);
    let mut events = Events::open(web, None);
    events.until("text/event-stream");
    // The first look is what the stream begins after.
    wait_for(
        || "the first change".into(),
        || {
            change(web, "PATCH", "/api/v2/servers/one", Some(r#"{"mode": "up"}"#));
            change(web, "PATCH", "/api/v2/servers/one", Some(r#"{"mode": "down"}"#));
            let mut bytes = [0; 4096];
            let read = events.stream.read(&mut bytes).unwrap_or(0);
            events.text += &String::from_utf8_lossy(&bytes[..read]);
            events.text.contains("event: change").then_some(())
        },
    );
    let seen = events.until("event: generation");
    let id = seen.split("id: ").nth(1).and_then(|rest| rest.lines().next()).expect("an id").to_owned();
    drop(events);
    instance.rewrite("newServer(");
    instance.program.signal(nix::sys::signal::Signal::SIGHUP);
    // It goes on with the next one.
    let mut events = Events::open(web, Some(&id));
    let text = events.until("event: refused");
    assert!(!text.contains(&format!("id: {id}\n")), "{id}: {text}");
    assert!(text.contains("event: reload") && text.contains("event: generation"), "{text}");
    // One of another process gets what there is.
    assert!(Events::open(web, Some("1.5")).until("event: refused").contains(&format!("id: {id}\n")));
    // Those that never read hold no more than their places.
    let idle: Vec<Events> = (0..30).map(|_| Events::open(web, None)).collect();
    wait_for(
        || "a refusal".into(),
        || (fetch_with(web, "/api/v2/events", &["-H", KEY, "--max-time", "1"]).0 == 503).then_some(()),
    );
    assert!(instance.counted("web-refused-streams") > 0);
    drop(idle);
    wait_for(
        || "a place".into(),
        || {
            let (status, text) = fetch_with(web, "/api/v2/events", &["-H", KEY, "--max-time", "1"]);
            (status == 200 || text.contains("event-stream")).then_some(())
        },
    );
    // Others may no more see them once the password is another one.
    let mut events = Events::open(web, None);
    events.until("text/event-stream");
    instance.forget_notices();
    instance.reload(&lua.replace("apiKey='key'", "apiKey='other'"));
    let mut rest = Vec::new();
    events.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    events.stream.read_to_end(&mut rest).expect("its end");
    assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn a_stream_that_would_miss_an_event_is_ended() {
    let (at, web) = (local(), local());
    let lua = listen(at) + &backend(local(), ", id='one'") + &writable(web, None);
    let mut instance = Instance::start(&lua);
    let mut events = Events::open(web, None);
    events.until("text/event-stream");
    // Each change has eleven lines or more. A stream gets 20 events each second, and 100 are kept.
    let rule = r#"{"selector": "a.test", "action": {"name": "DropAction"}}"#;
    let rules = format!("{{\"rules\": [{}]}}", vec![rule; 20].join(", "));
    wait_for(
        || format!("too many events; {}", instance.program.transcript()),
        || {
            for _ in 0..10 {
                change(web, "PUT", "/api/v2/groups/query/g", Some(&rules));
            }
            (instance.counted("web-refused-behind") == 1).then_some(())
        },
    );
    let mut rest = Vec::new();
    events.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    events.stream.read_to_end(&mut rest).expect("its end");
    assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    // Who comes again gets what is left.
    Events::open(web, Some("1.5")).until("event: change");
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn pools_and_groups_come_and_go_and_the_difference_to_the_file_is_told() {
    let (at, web, directory) = (local(), local(), Directory::new());
    let lua = listen(at)
        + &backend(local(), ", id='one', pool='busy'")
        + "getPool('old'):setServerPolicy(wrandom)\n\
           addAction('c.test', PoolAction('named'))\n\
           addAction('b.test', RCodeAction(3), {group='g', name='of the file'})\n\
           addAction('d.test', RCodeAction(3))\n"
        + &writable(web, Some(directory.path()));
    let mut instance = Instance::start(&lua);
    let difference = || read(web, "/api/v2/difference").rsplit_once('\n').expect("a body").1.to_owned();
    assert_eq!(difference(), r#"{"changes":[],"file_generation":1,"generation":1}"#);
    // Pools.
    let remove = |pool: &str| send(web, "DELETE", &format!("/api/v2/pools/{pool}"), ANY, None);
    for (pool, status, why) in [
        ("busy", 409, "server one"),
        ("named", 409, "\"query rule "),
        ("_default_", 409, "always there"),
        ("none", 404, "no such pool"),
    ] {
        let (got, text) = remove(pool);
        assert!(got == status && text.contains(why), "{pool}: {text}");
    }
    assert_eq!(remove("old").0, 200);
    for _ in 0..3 {
        change(web, "PUT", "/api/v2/pools/mine", Some(r#"{"policy": "wrandom"}"#));
        change(web, "PUT", "/api/v2/pools/mine", Some(r#"{"policy": "roundrobin"}"#));
        assert_eq!(remove("mine").0, 200);
    }
    // Groups.
    let rule = |name: &str| {
        format!(
            r#"{{"selector": "{name}", "action": {{"name": "RCodeAction", "args": [5]}}, "name": "{name}"}}"#
        )
    };
    let two = format!("{{\"rules\": [{}, {}]}}", rule("a.test"), rule("e.test"));
    change(web, "PUT", "/api/v2/groups/query/g", Some(&two));
    for _ in 0..3 {
        change(
            web,
            "PUT",
            "/api/v2/groups/response/x%20y",
            Some(r#"{"rules": [{"selector": "a.test", "action": {"name": "DropResponseAction"}}]}"#),
        );
        change(web, "DELETE", "/api/v2/groups/response/x%20y", None);
    }
    let holds = |when: &str| {
        let all = read(web, "/api/v2/groups/query");
        assert!(all.ends_with(r#"{"chain":"query","groups":[{"group":"g","rules":2}]}"#), "{when}: {all}");
        let group = read(web, "/api/v2/groups/query/g");
        assert!(
            group.contains("\"number\":1,") && group.contains("\"number\":2,"),
            "{when}: in its place: {group}"
        );
        assert!(!read(web, "/api/v2/pools").contains("\"old\""), "{when}");
        assert!(dig(at, "a.test").contains("REFUSED") && dig(at, "d.test").contains("NXDOMAIN"), "{when}");
    };
    holds("at once");
    let text = difference();
    assert!(text.contains("pool removed: old") || text.contains("old"), "{text}");
    assert!(text.contains("a.test") && text.contains("of the file"), "{text}");
    instance.forget_notices();
    instance.reload(&lua);
    holds("after a reload");
    // What the directory has is read with the file.
    assert!(difference().starts_with(r#"{"changes":[],"#), "{}", difference());
    let kept = std::fs::read_to_string(directory.path().join("api.conf")).expect("a file");
    assert_eq!(kept.lines().filter(|line| !line.starts_with("--")).count(), 2, "{kept}");
    for (status, method, path, body) in [
        (404, "GET", "/api/v2/groups/query/none", None),
        (404, "DELETE", "/api/v2/groups/query/none", None),
        (404, "PUT", "/api/v2/groups/nothing/g", Some(two.as_str())),
        (422, "PUT", "/api/v2/groups/timeout/g", Some(two.as_str())),
        (422, "PUT", "/api/v2/groups/query/g", Some("{\"rules\": [5]}")),
        (422, "PUT", "/api/v2/groups/query/g", Some("{\"rules\": [{\"selector\": \"a.test\"}]}")),
    ] {
        let (got, text) = send(web, method, path, ANY, body);
        assert!(got == status && text.contains("application/problem+json"), "{method} {path}: {text}");
    }
    // A group may be empty for a while.
    change(web, "PUT", "/api/v2/groups/query/g", Some("{\"rules\": []}"));
    assert!(!dig(at, "a.test").contains("REFUSED"));
    change(web, "PUT", "/api/v2/groups/query/g", Some(&two));
    assert!(dig(at, "a.test").contains("REFUSED"));
    change(web, "DELETE", "/api/v2/groups/query/g", None);
    assert!(dig(at, "a.test").contains("SERVFAIL") || !dig(at, "a.test").contains("REFUSED"));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn functions_of_the_configuration_make_pages() {
    let (at, web) = (local(), local());
    let open = format!(
        "webserver('{web}') setWebserverConfig({{apiKey='key', dashboardRequiresAuthentication=false}})\n"
    );
    let lua = listen(at)
        + &backend(local(), ", id='one', name='first'")
        + &open
        + "hits = 0\n\
           registerWebHandler('/mine', function(req, resp)\n\
             hits = hits + 1\n\
             resp.status = 201\n\
             resp.headers = {['X-Mine']='yes', ['Content-Length']='1'}\n\
             resp.body = table.concat({req.method, req.path, req.version, req.getvars.a or '', req.postvars.b or '',\n\
               req.headers['x-asked'] or '', req.body, getServer('one'):getName(), tostring(hits)}, '|')\n\
           end)\n\
           registerWebHandler('/fails', function(req, resp) error('no') end)\n\
           registerWebHandler('/wrong', function(req, resp) resp.status = 7 end)\n\
           registerWebHandler('/header', function(req, resp) resp.headers = {['a b']='c'} end)\n\
           registerWebHandler('/changes', function(req, resp) getServer('one'):setWeight(9) end)\n\
           registerWebHandler('/endless', function(req, resp) while true do end end)\n\
           registerWebHandler('/metrics', function(req, resp) resp.body = 'mine' end)\n";
    let mut instance = Instance::start(&lua);
    let (status, text) = fetch_with(web, "/mine?a=1%202&c", &["-H", "X-Asked: x", "-d", "b=%33"]);
    assert_eq!(status, 201, "{text}");
    assert!(text.contains("x-mine: yes") && text.ends_with("POST|/mine|1.1|1 2|3|x|b=%33|first|1"), "{text}");
    assert!(fetch_with(web, "/mine", &[]).1.ends_with("GET|/mine|1.1|||||first|2"));
    for path in ["/fails", "/wrong", "/header", "/changes"] {
        assert_eq!(fetch_with(web, path, &[]).0, 500, "{path}");
    }
    let failed = || instance.program.lines_with(0, "the function of a page of the web server failed");
    wait_for(|| format!("{:?}", failed()), || (failed().len() == 4).then_some(()));
    let all = fetch_with(web, "/api/v2/servers", &["-H", KEY]).1;
    assert!(all.contains("\"weight\":1}"), "{all}");
    assert!(!fetch_with(web, "/metrics", &["-H", KEY]).1.ends_with("mine"));
    let load = Load::start(endless(at));
    assert_eq!(fetch_with(web, "/endless", &[]).0, 500);
    assert!(fetch_with(web, "/mine", &[]).1.ends_with("|3"));
    load.finish();
    instance.reload(&(listen(at) + &backend(local(), "") + &open));
    wait_for(|| "no page".into(), || (fetch_with(web, "/mine", &[]).0 == 404).then_some(()));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}
