//! The web server with curl and promtool: metrics, credentials, hostile clients, drain, reload.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, listen};
use crate::load::{Load, Plan};
use crate::pki::Authority;
use crate::place::{port, wait_for};
use crate::process;

pub(crate) fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Returns Lua for a web server that asks for no password.
pub(crate) fn open_web(address: SocketAddr) -> String {
    format!(
        "webserver('{address}') setWebserverConfig({{statsRequireAuthentication=false, \
         apiRequiresAuthentication=false, dashboardRequiresAuthentication=false}})\n"
    )
}

/// Asks curl for a path: the status, 0 without an answer, and head and body.
pub(crate) fn fetch_with(web: SocketAddr, path: &str, arguments: &[&str]) -> (u16, String) {
    let url = format!("http://{web}{path}");
    let common = ["-s", "-i", "--max-time", "15", "-w", "\n%{http_code}", &url];
    let (_, text) = process::run("curl", &[&common[..], arguments].concat());
    let (text, status) = text.trim_end().rsplit_once('\n').unwrap_or_else(|| panic!("curl wrote {text}"));
    (status.parse().expect("a status"), text.to_owned())
}

pub(crate) fn fetch(web: SocketAddr, path: &str) -> (u16, String) {
    fetch_with(web, path, &[])
}

/// Returns the body of a page that is there.
pub(crate) fn page(web: SocketAddr, path: &str) -> String {
    let (status, text) = fetch(web, path);
    assert_eq!(status, 200, "{text}");
    text.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// Returns the value of a sample.
fn sample(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn metrics_are_those_of_prometheus_and_of_dnsdist() {
    let prompt = Backend::start(1, Behaviour::Prompt);
    let (at, web) = (local(), local());
    let lua = listen(at)
        + &backend(prompt.address, ", name='a \"server\"'")
        + &open_web(web)
        + "declareMetric('asked-by-type', 'counter', 'By type.', {withLabels=true})\n\
           addAction(AllRule(), LuaAction(function(dq)\n\
             incMetric('asked-by-type', {labels={qtype=tostring(dq.qtype)}}) return DNSAction.None end), {name='count'})\n";
    let mut instance = Instance::start(&lua);
    let load = Load::start(Plan { target: at, rate: 2_000, count: 500, patience: Duration::from_secs(4) });
    load.join().assert_nothing_lost(&|| instance.program.transcript());

    let text = page(web, "/metrics");
    let mut promtool = Command::new("promtool");
    let mut check = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("promtool cannot be started ({e}); scripts/test installs it"));
    check.stdin.take().expect("its input").write_all(text.as_bytes()).expect("written");
    let checked = check.wait_with_output().expect("its output");
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.success() && said.trim().is_empty(), "{said}");
    assert!((sample(&text, "dnslob_queries_total") - 500.0).abs() < 0.5, "{text}");
    assert!((sample(&text, "dnslob_latency_seconds_count") - 500.0).abs() < 0.5);
    let hits = sample(&text, "dnslob_rule_hits_total{chain=\"query\",rule=\"0\",name=\"count\"}");
    let counted: f64 = text
        .lines()
        .filter(|l| l.starts_with("dnslob_asked_by_type_total{qtype="))
        .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum();
    assert!((hits - 500.0).abs() < 0.5 && (counted - 500.0).abs() < 0.5, "{hits} {counted}");
    let up = format!("dnslob_backend_up{{server=\"a \\\"server\\\"\",address=\"{}\"}}", prompt.address);
    assert!((sample(&text, &up) - 1.0).abs() < 0.1);

    let protobuf =
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let accept = format!("Accept: {protobuf},text/plain;q=0.5,*/*;q=0.1");
    let head = || {
        process::run("curl", &["-s", "-I", "-X", "GET", "-H", &accept, &format!("http://{web}/metrics")]).1
    };
    let (binary, default) =
        (head().to_lowercase().replace("; ", ";"), fetch(web, "/metrics").1.to_lowercase());
    assert!(binary.contains(&format!("content-type: {}", protobuf.to_lowercase())), "{binary}");
    assert!(
        default.contains("\r\ncontent-type: text/plain; version=0.0.4")
            && default.contains("\r\nvary: accept")
    );

    instance.reload(&(lua + "setMetricsPrefix('dnsdist')\n"));
    assert!(head().contains("MetricFamily"));
    let text = page(web, "/metrics");
    assert!((sample(&text, "dnsdist_queries") - 500.0).abs() < 0.5, "{text}");
    let server = format!("{{server=\"a \\\"server\\\"\",address=\"{}\"}}", prompt.address);
    assert!((sample(&text, &format!("dnsdist_server_queries{server}")) - 500.0).abs() < 0.5);
    assert!((sample(&text, &format!("dnsdist_server_status{server}")) - 1.0).abs() < 0.1);
    assert!((sample(&text, "dnsdist_pool_active_servers{pool=\"_default_\"}") - 1.0).abs() < 0.1);
    let frontend = |protocol: &str| format!("{{frontend=\"{at}\",proto=\"{protocol}\",thread=\"0\"}}");
    for (name, count) in [
        (format!("dnsdist_frontend_queries{}", frontend("UDP")), 500.0),
        (format!("dnsdist_frontend_responses{}", frontend("UDP")), 500.0),
        (format!("dnsdist_frontend_queries{}", frontend("TCP")), 0.0),
        ("dnsdist_frontend_noerror".to_owned(), 500.0),
        ("dnsdist_responses".to_owned(), 500.0),
    ] {
        assert!((sample(&text, &name) - count).abs() < 0.5, "{name} {text}");
    }
    let average = sample(&text, "dnsdist_latency_avg100");
    assert!(average > 0.0 && average < 4e6, "{average}");
    assert!(sample(&text, "dnsdist_udp_noport_errors") >= 0.0);
    let statistics = page(web, "/jsonstat?command=stats");
    assert!(statistics.contains("\"queries\":500") && statistics.contains("\"acl-drops\":0"), "{statistics}");
    let all = page(web, "/api/v1/servers/localhost");
    assert!(all.contains("\"daemon_type\":\"dnsdist\"") && all.contains("\"state\":\"UP\""), "{all}");
    let pool = page(web, "/api/v1/servers/localhost/pool?name=");
    for part in [
        "\"activeServers\":1",
        "\"name\":\"\"",
        "\"serversCount\":1",
        "\"tcpDiedSendingQuery\":0",
        "\"pools\":[]",
    ] {
        assert!(pool.contains(part), "{part}\n{pool}");
    }
    assert!(page(web, "/api/v1/servers/localhost/config/allow-from").contains("\"127.0.0.0/8\""));
    let changed = fetch_with(web, "/api/v1/servers/localhost/config/allow-from", &["-X", "PUT", "-d", "{}"]);
    // Without a password nobody may change anything, whatever else is open.
    assert_eq!((changed.0, fetch(web, "/nothing").0), (401, 404));
}

#[test]
fn only_who_knows_the_password_or_the_key_sees_anything() {
    let (at, web) = (local(), local());
    let lua = listen(at)
        + &format!("webserver('{web}')\n")
        + "setWebserverConfig({password=hashPassword('secret'), apiKey='key', acl='127.0.0.1/32',\n\
           customHeaders={['X-Frame-Options']='', ['X-Custom']='yes'}})\n\
           addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))\n";
    let mut instance = Instance::start(&lua);
    for path in ["/metrics", "/jsonstat?command=stats", "/api/v1/servers/localhost", "/"] {
        let (status, text) = fetch(web, path);
        assert!(status == 401 && text.to_lowercase().contains("\r\nwww-authenticate: basic "), "{text}");
        assert_eq!(fetch_with(web, path, &["-u", "anybody:secret"]).0, 200, "{path}");
        assert_eq!(fetch_with(web, path, &["-H", "X-API-Key: key"]).0, 200, "{path}");
        assert_eq!(fetch_with(web, path, &["-u", "anybody:wrong"]).0, 401, "{path}");
    }
    let (status, text) = fetch(web, "/livez");
    let text = text.to_lowercase();
    assert!(status == 200 && text.contains("\r\nx-custom: yes") && text.contains("nosniff"), "{text}");
    assert!(!text.contains("x-frame-options"), "{text}");
    assert_eq!(instance.counted("web-refused-credentials"), 8);

    instance.reload(&lua.replace("127.0.0.1/32", "192.0.2.0/24"));
    assert_eq!(fetch(web, "/livez").0, 0, "closed at once");
    assert!(instance.counted("web-refused-acl") >= 1);
    let transcript = instance.program.transcript();
    assert!(!transcript.contains("secret"), "{transcript}");
}

#[test]
fn clients_that_hold_connections_are_ended() {
    let (at, web) = (local(), local());
    let lua = listen(at)
        + &open_web(web)
        + "setWebserverConfig({maxConcurrentConnections=20})\naddAction(AllRule(), RCodeAction(DNSRCode.REFUSED))\n";
    let instance = Instance::start(&lua);
    let begun = Instant::now();
    let half_open = || {
        let mut stream = TcpStream::connect(web).expect("a connection");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ").expect("sent");
        stream
    };
    let mut held: Vec<TcpStream> = (0..20).map(|_| half_open()).collect();
    wait_for(|| "all of them".into(), || (instance.counted("web-open") == 20).then_some(()));
    assert_eq!(fetch(web, "/livez").0, 200, "the oldest that asks nothing makes room");
    assert_eq!(instance.counted("web-refused-connections"), 1);
    for stream in &mut held {
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a time-out");
        let mut rest = Vec::new();
        // Closed, perhaps with a word before, or reset.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 1_000);
    }
    assert!(begun.elapsed() > Duration::from_secs(8), "{:?}", begun.elapsed());
    wait_for(|| "an answer".into(), || (fetch(web, "/livez").0 == 200).then_some(()));
    assert_eq!(instance.counted("web-refused-slow"), 19);
    // Bodies have an end too.
    let body = "x".repeat(70_000);
    let (status, _) = fetch_with(web, "/metrics", &["-X", "POST", "-d", &body]);
    assert!(status == 413 || status == 0, "{status}");
    assert_eq!(fetch_with(web, "/metrics", &["-X", "POST", "-d", "x"]).0, 405);
}

#[test]
fn a_flood_of_wrong_passwords_does_not_keep_others_out() {
    let (at, web) = (local(), local());
    let lua = listen(at)
        + &format!("webserver('{web}') setWebserverConfig({{password=hashPassword('secret')}})\n")
        + "addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))\n";
    let instance = Instance::start(&lua);
    assert_eq!(fetch_with(web, "/metrics", &["-u", "x:secret"]).0, 200);
    let guess = || {
        let mut stream = TcpStream::connect(web).expect("a connection");
        // "x:wrong"
        let head = "GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eDp3cm9uZw==\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        stream
    };
    let guesses: Vec<TcpStream> = (0..50).map(|_| guess()).collect();
    let begun = Instant::now();
    assert_eq!(fetch_with(web, "/metrics", &["-u", "x:secret"]).0, 200, "{}", instance.program.transcript());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(guesses);
}

#[test]
fn scraping_under_load_loses_no_query() {
    let prompt = Backend::start(1, Behaviour::Prompt);
    let (at, web) = (local(), local());
    let mut instance = Instance::start(&(listen(at) + &backend(prompt.address, "") + &open_web(web)));
    let load =
        Load::start(Plan { target: at, rate: 2_000, count: u64::MAX, patience: Duration::from_secs(4) });
    for _ in 0..20 {
        for path in ["/metrics", "/api/v1/servers/localhost", "/jsonstat?command=stats"] {
            page(web, path);
        }
    }
    load.finish().assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn a_drain_is_seen_before_the_end() {
    let slow = Backend::start(1, Behaviour::After(Duration::from_millis(1_500)));
    let (at, web) = (local(), local());
    let lua = listen(at) + &backend(slow.address, "") + &open_web(web);
    let mut instance = Instance::start_with(&lua, &["--shards", "1", "--drain", "10s"]);
    assert_eq!((fetch(web, "/readyz").0, fetch(web, "/livez").0), (200, 200));
    let load = Load::start(Plan { target: at, rate: 1_000, count: 20, patience: Duration::from_secs(4) });
    wait_for(|| "all queries at the backend".into(), || (slow.queries() == 20).then_some(()));
    instance.program.signal(Signal::SIGTERM);
    let text = wait_for(
        || "503".into(),
        || Some(fetch(web, "/readyz")).filter(|(status, _)| *status == 503).map(|(_, text)| text),
    );
    assert!(text.trim_end().ends_with("draining") && fetch(web, "/livez").0 == 200, "{text}");
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(instance.program.wait().code(), Some(0), "{}", instance.program.transcript());
    assert_eq!(fetch(web, "/livez").0, 0);
}

#[test]
fn a_reload_moves_it_and_an_address_that_is_taken_is_an_error() {
    let (at, first, second) = (local(), local(), local());
    let rules = listen(at) + "addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))\n";
    let mut instance = Instance::start(&rules);
    instance.reload(&(rules.clone() + &open_web(first)));
    assert_eq!(fetch(first, "/readyz").0, 200);
    instance.reload(&(rules.clone() + &open_web(second)));
    assert_eq!(fetch(second, "/readyz").0, 200);
    wait_for(|| "the former one closed".into(), || (fetch(first, "/readyz").0 == 0).then_some(()));

    let taken = std::net::TcpListener::bind(first).expect("free again");
    instance.reload(&(rules.clone() + &open_web(first) + "setWebserverBindFatal(true)\n"));
    let errors = || instance.program.lines_with(0, "the web server cannot listen on").len();
    wait_for(|| instance.program.transcript(), || (errors() == 1).then_some(()));
    assert!(page(second, "/metrics").contains("dnslob_generation 3"), "the configuration is kept");
    instance.reload(&(rules.clone() + &open_web(first)));
    assert!(
        page(second, "/metrics").contains("dnslob_generation 4"),
        "without its address it stays where it was"
    );
    drop(taken);
    instance.reload(&(rules.clone() + &open_web(first)));
    assert_eq!(fetch(first, "/readyz").0, 200);
    instance.reload(&rules);
    wait_for(|| "no web server".into(), || (fetch(first, "/readyz").0 == 0).then_some(()));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn the_alerts_hold() {
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
    let (status, said) =
        process::run("promtool", &["test", "rules", &format!("{place}/dnslob.rules.test.yml")]);
    assert!(status.success(), "{said}");
}

/// Returns what a Carbon server gets on its next connection, until that is closed.
fn carbon_report(server: &std::net::TcpListener) -> String {
    let (mut stream, _) = server.accept().expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a report");
    text
}

#[test]
fn carbon_servers_get_reports_and_a_bad_one_harms_nobody() {
    let prompt = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let good = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    // Its queue is full, so that it accepts nothing.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("an address");
    silent.listen(0).expect("a queue");
    let silent = std::net::TcpListener::from(silent);
    let _waiting = TcpStream::connect(silent.local_addr().expect("an address")).expect("a connection");
    let address = |server: &std::net::TcpListener| server.local_addr().expect("an address");
    // Nobody listens there.
    let away = local();
    let servers: String = [address(&silent), away, address(&good)]
        .iter()
        .map(|server| format!("carbonServer('{server}', 'lb1', 1, 'dns', 'west')\n"))
        .collect();
    let lua = listen(at) + &backend(prompt.address, ", name='one'") + &servers;
    let mut instance = Instance::start(&lua);
    let load = Load::start(Plan { target: at, rate: 2_000, count: 500, patience: Duration::from_secs(4) });
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    let reported = |report: &str| {
        let line = report.lines().find_map(|l| l.strip_prefix("dns.lb1.west.queries ")).expect("queries");
        line.split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a count")
    };
    let report =
        wait_for(|| "500 queries".into(), || Some(carbon_report(&good)).filter(|r| reported(r) == 500));
    assert!(report.contains("\ndns.lb1.west.servers.one.queries 500 "), "{report}");
    let frontend = format!("\ndns.lb1.west.frontends.127_0_0_1:{}_udp.responses 500 ", at.port());
    assert!(report.contains(&frontend) && report.ends_with('\n'), "{report}");
    assert!(
        wait_for(
            || "a refusal".into(),
            || {
                let lost = instance.counted("carbon-failed-connect");
                (lost >= 2).then_some(lost)
            }
        ) < 100
    );
    wait_for(|| "a time-out".into(), || (instance.counted("carbon-failed-timeout") >= 1).then_some(()));
    // It begins to listen, and gets the next report.
    let back = std::net::TcpListener::bind(away).expect("its socket");
    assert_eq!(reported(&carbon_report(&back)), 500);
    let says = |text: &str| instance.program.lines_with(0, text).len();
    assert!(says("Carbon does not take reports") >= 1 && says("Carbon takes reports") >= 1);
    // One that is removed gets no more; the others are none the worse for one that ends mid-report.
    let (stream, _) = good.accept().expect("a connection");
    drop(stream);
    let kept = lua.lines().filter(|l| !l.contains(&away.to_string())).collect::<Vec<_>>().join("\n");
    instance.reload(&(kept + "\n"));
    back.set_nonblocking(true).expect("not blocking");
    while back.accept().is_ok() {}
    for _ in 0..3 {
        assert_eq!(reported(&carbon_report(&good)), 500);
    }
    assert!(back.accept().is_err(), "no more reports");
    let load = Load::start(Plan { target: at, rate: 2_000, count: 500, patience: Duration::from_secs(4) });
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn a_carbon_server_that_never_reads_delays_nobody() {
    let at = local();
    let good = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    // It takes connections and reads nothing. Buffers are small, so that the report is not within them.
    let stuck = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    stuck.set_recv_buffer_size(4_096).expect("a buffer");
    stuck.set_tcp_mss(536).expect("short segments");
    stuck.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("an address");
    stuck.listen(100).expect("a queue");
    let stuck = std::net::TcpListener::from(stuck);
    let address = |server: &std::net::TcpListener| server.local_addr().expect("an address");
    let many: String = (0..200)
        .map(|n| {
            format!(
                "newServer{{address='127.0.0.1:{}', pool='p{n}', healthCheckMode='up', sockets=1}}\n",
                10_000 + n
            )
        })
        .collect();
    let lua = listen(at)
        + &many
        + "addAction(AllRule(), RCodeAction(5))\n"
        + &format!(
            "carbonServer('{}', 'a', 1)\ncarbonServer('{}', 'b', 1)\n",
            address(&stuck),
            address(&good)
        );
    let mut instance = Instance::start(&lua);
    let (held, _) = stuck.accept().expect("a connection");
    let mut reports = 0;
    wait_for(
        || format!("a time-out; {}", instance.program.transcript()),
        || {
            assert!(carbon_report(&good).len() > 100_000, "a long report");
            reports += 1;
            (instance.counted("carbon-failed-timeout") >= 1).then_some(())
        },
    );
    // One each second, while the other one waited for five.
    assert!(reports >= 4, "{reports}");
    assert!(
        process::run("dig", &["@127.0.0.1", "-p", &at.port().to_string(), "a.test"]).1.contains("REFUSED")
    );
    drop((held, stuck));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn over_tls_it_serves_https_alone_and_reads_its_certificate_again() {
    let (at, web, authority) = (local(), local(), Authority::new());
    let pair = authority.issue("web", &["127.0.0.1"]);
    let lua = listen(at)
        + &open_web(web)
        + &format!(
            "setWebserverConfig({{tlsCertificate='{}', tlsKey='{}'}})\naddAction(AllRule(), RCodeAction(5))\n",
            pair.pem.display(),
            pair.key.display()
        );
    let mut instance = Instance::start(&lua);
    let trust = |authority: &Authority| authority.pem.display().to_string();
    let secure = |path: &str, authority: &Authority| {
        let (url, trust) = (format!("https://{web}{path}"), trust(authority));
        let arguments = ["-s", "--max-time", "15", "--cacert", &trust, "-w", "\n%{http_code}", &url];
        process::run("curl", &arguments).1
    };
    assert!(secure("/readyz", &authority).ends_with("ready\n\n200"), "{}", instance.program.transcript());
    assert!(secure("/metrics", &authority).contains("dnslob_generation 1"));
    // HTTP is closed, as is what is neither.
    assert_eq!(fetch(web, "/readyz").0, 0);
    let mut nonsense = TcpStream::connect(web).expect("a connection");
    nonsense.write_all(&[0; 100]).expect("sent");
    nonsense.set_read_timeout(Some(Duration::from_secs(15))).expect("a time-out");
    let _ = nonsense.read_to_end(&mut Vec::new());
    // A client that says nothing holds up no other.
    let _silent = TcpStream::connect(web).expect("a connection");
    assert!(secure("/livez", &authority).ends_with("200"));
    wait_for(|| "two refusals".into(), || (instance.counted("web-refused-handshake") >= 2).then_some(()));
    // Another certificate in the same files.
    let other = Authority::new();
    let fresh = other.issue("web", &["127.0.0.1"]);
    std::fs::copy(&fresh.pem, &pair.pem).expect("a file");
    std::fs::copy(&fresh.key, &pair.key).expect("a file");
    instance.reload(&lua);
    wait_for(|| "the other one".into(), || secure("/livez", &other).ends_with("200").then_some(()));
    assert!(secure("/livez", &authority).ends_with("000"));
    // Without one, a reload is refused.
    std::fs::remove_file(&pair.key).expect("removed");
    instance.reload(&lua);
    let errors = || instance.program.lines_with(0, "reload refused").len();
    wait_for(|| instance.program.transcript(), || (errors() == 1).then_some(()));
    assert!(secure("/livez", &other).ends_with("200"));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}
