//! DNS over TCP with real servers: dig, kdig, dnsperf, complete zone transfers, servers that die or
//! misbehave, and clients that misbehave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::instance::{Instance, backend, listen};
use crate::message;
use crate::namespaces::Namespaces;
use crate::place::{Directory, port, wait_for};
use crate::process::{Program, run};
use crate::servers::{Kind, Server};

/// Names in the large zone, in addition to its own records.
const NAMES: usize = 100_000;

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

fn up(server: SocketAddr) -> String {
    backend(server, "")
}

/// Returns a query with its length prefix.
pub(crate) fn framed(id: u16, name: &str) -> Vec<u8> {
    let query = message::query(id, name);
    [&(query.len() as u16).to_be_bytes()[..], &query].concat()
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    stream
}

/// Reads one message of a stream; `None` at its end.
pub(crate) fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// Waits for a counter to appear in the statistics.
fn dumped(instance: &Instance, line: &str) {
    wait_for(
        || format!("{line:?} in {:#?}", instance.dump()),
        || instance.dump().iter().any(|l| l == line).then_some(()),
    );
}

/// A server that runs `serve` for each connection, in a separate thread.
fn serve(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

#[test]
fn dig_and_kdig_get_answers_over_tcp() {
    for (who, kind) in [(11, Kind::Unbound), (12, Kind::Nsd), (13, Kind::Knot)] {
        let server = Server::start(kind, who);
        let at = local();
        let instance = Instance::start(&(listen(at) + &up(server.address)));
        let port = at.port().to_string();
        let address = format!("192.0.2.{who}");
        let dig = ["@127.0.0.1", "-p", &port, "+tcp", "+short", "+keepopen", "a.test", "b.test"];
        let (_, text) = run("dig", &dig);
        assert_eq!(
            text.lines().filter(|l| *l == address).count(),
            2,
            "{text}\n{}",
            instance.program.transcript()
        );
        let (_, text) = run("kdig", &["@127.0.0.1", "-p", &port, "+tcp", "+keepopen", "+short", "c.test"]);
        assert_eq!(text.trim(), address, "{}", instance.program.transcript());
    }
}

#[test]
fn a_zone_of_a_hundred_thousand_names_is_transferred_completely() {
    let (directory, nsd_at, at) = (Directory::new(), local(), local());
    let home = directory.path().display();
    let mut zone =
        "$ORIGIN large.test.\n$TTL 60\n@ SOA ns host 7 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"
            .to_owned();
    for n in 0..NAMES {
        zone += &format!("n{n} A 10.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255);
    }
    directory.write("large.zone", &zone);
    let configuration = directory.write(
        "nsd.conf",
        &format!(
            "server:\n ip-address: {}@{}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{home}\"\n database: \"\"\n \
             pidfile: \"{home}/nsd.pid\"\n xfrdfile: \"{home}/x\"\n zonelistfile: \"{home}/z\"\n xfrdir: \"{home}\"\n \
             server-count: 1\nremote-control:\n control-enable: no\nkey:\n name: k.\n algorithm: hmac-sha256\n \
             secret: \"c2VjcmV0\"\nzone:\n name: large.test.\n zonefile: large.zone\n \
             provide-xfr: 127.0.0.1 NOKEY\n provide-xfr: 127.0.0.1 k.\n",
            nsd_at.ip(),
            nsd_at.port()
        ),
    );
    let mut command = std::process::Command::new("nsd");
    command.arg("-d").arg("-c").arg(configuration);
    let nsd = Program::start(&mut command);
    wait_for(|| nsd.transcript(), || crate::servers::ask(nsd_at, "ns.large.test"));
    let instance = Instance::start(&(listen(at) + &up(nsd_at)));
    let port = at.port().to_string();
    // nsd signs some messages of many, which cover those before them.
    for signed in [&[][..], &[], &["-y", "hmac-sha256:k.:c2VjcmV0"]] {
        let query = ["@127.0.0.1", "-p", &port, "+onesoa", "large.test", "AXFR"];
        let (_, text) = run("dig", &[signed, &query].concat());
        let names = text.lines().filter(|l| l.starts_with('n') && l.contains("\tA\t10.")).count();
        assert_eq!(names, NAMES, "{}", instance.program.transcript());
        let faults: Vec<_> = text.lines().filter(|l| l.to_lowercase().contains("tsig v")).collect();
        assert!(faults.is_empty() && !text.contains("verify"), "{faults:?}");
    }
    // A single SOA record: the zone has not changed.
    let (_, text) = run("dig", &["@127.0.0.1", "-p", &port, "+tcp", "large.test", "IXFR=7"]);
    assert!(text.contains("1 records"), "{text}");
}

#[test]
fn no_query_is_lost_when_servers_die_and_configurations_change_under_load() {
    let mut first = Server::start(Kind::Nsd, 21);
    let second = Server::start(Kind::Nsd, 22);
    let at = local();
    let lua = listen(at) + &up(first.address) + &up(second.address);
    let mut instance = Instance::start(&lua);
    let directory = Directory::new();
    let names: String = (0..50).map(|n| format!("n{n}.test A\n")).collect();
    let names = directory.write("names", &names);
    let arguments: Vec<String> = [
        "-m",
        "tcp",
        "-s",
        "127.0.0.1",
        "-p",
        &at.port().to_string(),
        "-d",
        &names.display().to_string(),
        "-l",
        "6",
        "-c",
        "8",
        "-q",
        "64",
        "-Q",
        "4000",
        "-t",
        "5",
    ]
    .map(str::to_owned)
    .into();
    let load = std::thread::spawn(move || run("dnsperf", &arguments).1);
    let answered = |instance: &Instance| {
        instance.dump().iter().find_map(|l| l.strip_prefix("responses ").and_then(|n| n.parse::<u64>().ok()))
    };
    wait_for(|| "answers".into(), || answered(&instance).filter(|n| *n > 2_000));
    first.kill();
    wait_for(|| "answers".into(), || answered(&instance).filter(|n| *n > 6_000));
    first.begin();
    instance.reload(&(lua.clone() + "setTCPRecvTimeout(30)\n"));
    wait_for(|| "answers".into(), || answered(&instance).filter(|n| *n > 12_000));
    instance.reload(&(listen(at) + &up(second.address)));
    let text = load.join().expect("dnsperf's output");
    assert!(text.contains("Queries lost:         0 ("), "{text}\n{}", instance.program.transcript());
    assert!(text.contains("(100.00%)"), "{text}");
}

#[test]
fn servers_that_only_accept_or_close_leave_no_query_unanswered() {
    // One server accepts and never answers; one closes after each answer.
    let silent = serve(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let hasty = serve(|mut stream| {
        if let Some(query) = read_message(&mut stream)
            && let Some(answer) = message::answer(&query, 33)
        {
            let frame = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            let _ = stream.write_all(&frame);
        }
    });
    let at = local();
    let lua = listen(at)
        + &backend(silent, ", order=1, tcpRecvTimeoutMs=300")
        + &backend(hasty, ", order=2")
        + "setServerPolicy(firstAvailable)\n";
    let instance = Instance::start(&lua);
    let mut stream = connect(at);
    let queries: Vec<u8> = (0..20).flat_map(|n| framed(n, &message::numbered(n.into(), "x"))).collect();
    stream.write_all(&queries).expect("sent");
    let mut numbers: Vec<u64> = (0..20)
        .map(|_| {
            let answer = read_message(&mut stream).unwrap_or_else(|| panic!("{:#?}", instance.dump()));
            assert_eq!(message::answered_by(&answer), Some(33));
            message::number_of(&answer).expect("its number")
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}

#[test]
fn bad_clients_are_closed_and_counted_by_reason() {
    let server = Server::start(Kind::Nsd, 41);
    let at = local();
    let instance = Instance::start(
        &(listen(at) + &up(server.address) + "setTCPRecvTimeout(1)\nsetMaxTCPReadIOsPerQuery(20)\n"),
    );
    // An invalid length.
    let mut stream = connect(at);
    stream.write_all(&[0, 3, 1, 2, 3]).expect("sent");
    assert!(read_message(&mut stream).is_none());
    dumped(&instance, "client-connection-end-bad-frame 1");
    // Half a query, then nothing.
    let mut stream = connect(at);
    stream.write_all(&framed(1, "a.test")[..9]).expect("sent");
    assert!(read_message(&mut stream).is_none());
    dumped(&instance, "client-connection-end-read-timeout 1");
    // No bytes at all.
    assert!(read_message(&mut connect(at)).is_none());
    dumped(&instance, "client-connection-end-idle 1");
    // Single bytes; the client is blocked for a while afterwards.
    let mut stream = connect(at);
    stream.set_nodelay(true).expect("set");
    for byte in framed(1, "a-name-that-is-long-enough-for-this.test") {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    dumped(&instance, "client-connection-end-reads 1");
    // At whichever shard it arrives.
    for _ in 0..8 {
        let mut again = connect(at);
        let _ = again.write_all(&framed(1, "a.test"));
        assert!(read_message(&mut again).is_none());
    }
    dumped(&instance, "client-connection-end-banned 8");
}

#[test]
fn a_stop_answers_pending_queries_and_closes_idle_connections() {
    let server = Server::start(Kind::Nsd, 51);
    let at = local();
    let mut instance = Instance::start(&(listen(at) + &up(server.address)));
    let (mut idle, mut busy) = (connect(at), connect(at));
    idle.write_all(&framed(1, "a.test")).expect("sent");
    assert!(read_message(&mut idle).is_some());
    let queries: Vec<u8> = (0..200).flat_map(|n| framed(n, "b.test")).collect();
    busy.write_all(&queries).expect("sent");
    assert!(read_message(&mut busy).is_some(), "the first of two hundred");
    instance.program.signal(Signal::SIGTERM);
    let mut answers = 1;
    while read_message(&mut busy).is_some() {
        answers += 1;
    }
    assert_eq!(answers, 200);
    assert!(instance.program.wait().success());
}

/// A server that answers every query.
fn answers(mut stream: TcpStream) {
    while let Some(answer) = read_message(&mut stream).and_then(|query| message::answer(&query, 33)) {
        let _ = stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat());
    }
}

#[test]
fn a_client_reads_all_its_answers_before_an_orderly_close() {
    let at = local();
    let instance =
        Instance::start(&(listen(at) + &up(serve(answers)) + "setMaxTCPQueriesPerConnection(20)\n"));
    for round in 1..=10 {
        let mut streams: Vec<TcpStream> = (0..10).map(|_| connect(at)).collect();
        let queries: Vec<u8> = (0..50).flat_map(|n| framed(n, &message::numbered(n.into(), "x"))).collect();
        for stream in &mut streams {
            stream.write_all(&queries).expect("sent");
        }
        // After the last answer, the balancer has closed its side while the client still sends.
        dumped(&instance, &format!("client-connection-end-queries {}", 10 * round));
        for n in 50..60 {
            for stream in &mut streams {
                let sent = stream.write_all(&framed(n, &message::numbered(n.into(), "x")));
                sent.unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
        }
        for stream in &mut streams {
            let mut bytes = Vec::new();
            let read = stream.read_to_end(&mut bytes);
            read.unwrap_or_else(|e| panic!("round {round}: {e}; {}", instance.program.transcript()));
            let mut rest = &bytes[..];
            let mut answers = 0;
            while let Some((length, message)) = rest.split_first_chunk() {
                rest = &message[usize::from(u16::from_be_bytes(*length))..];
                answers += 1;
            }
            assert_eq!(answers, 20, "round {round}");
        }
    }
}

#[test]
fn descriptor_exhaustion_is_logged_once_and_ends() {
    let at = local();
    let directory = Directory::new();
    let path = directory.write("dnslob.lua", &(listen(at) + &up(serve(answers))));
    let mut command = std::process::Command::new("sh");
    let binary = crate::instance::binary();
    let line = format!("ulimit -n 64; exec {} --shards 1 -C {}", binary.display(), path.display());
    command.arg("-c").arg(line);
    let instance = Instance::launch(command, directory);
    let streams: Vec<TcpStream> = (0..100).map(|_| connect(at)).collect();
    let warnings = || instance.program.lines_with(0, "out of file descriptors").len();
    wait_for(|| instance.program.transcript(), || (warnings() > 0).then_some(()));
    // The condition is checked five times per second.
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(warnings(), 1, "{}", instance.program.transcript());
    let mut last = connect(at);
    drop(streams);
    last.write_all(&framed(1, &message::numbered(1, "x"))).expect("sent");
    assert!(read_message(&mut last).is_some(), "{}", instance.program.transcript());
}

/// Returns how often a connection in a namespace sent data in its SYN (TCP Fast Open).
fn fast_opens(spaces: &Namespaces, which: usize) -> u64 {
    let mut netstat = std::process::Command::new("cat");
    netstat.arg("/proc/net/netstat");
    let out = spaces.command(which, &netstat).output().expect("netstat");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    let at = lines[0].iter().position(|word| *word == "TCPFastOpenActive").expect("the counter");
    lines[1][at].parse().expect("a number")
}

#[test]
fn a_dead_server_is_left_in_time_with_tcp_fast_open() {
    let spaces = match Namespaces::new(&["fastlob", "fastserver"]) {
        Ok(spaces) => spaces,
        Err(why) => return eprintln!("SKIPPED: network namespaces cannot be made here: {why}"),
    };
    spaces.connect(0, "be", 1);
    for (which, address) in [(0, "198.18.2.1/24"), (1, "198.18.2.2/24")] {
        spaces.ip(which, &format!("address add {address} dev be"));
        spaces.ip(which, "link set be up");
        spaces.ip(which, "link set lo up");
        let mut switch = std::process::Command::new("sh");
        switch.args(["-c", "echo 3 > /proc/sys/net/ipv4/tcp_fastopen"]);
        if !spaces.command(which, &switch).status().is_ok_and(|status| status.success()) {
            return eprintln!("SKIPPED: TCP Fast Open cannot be switched on here");
        }
    }
    let start = |which: usize, lua: &str| {
        let directory = Directory::new();
        let path = directory.write("dnslob.lua", lua);
        let mut plain = std::process::Command::new(crate::instance::binary());
        plain.arg("--shards").arg("1").arg("-C").arg(path);
        Instance::launch(spaces.command(which, &plain), directory)
    };
    let server = |at: &str, says: &str| {
        format!(
            "addLocal(\"{at}\", {{tcpFastOpenQueueSize=16}})\nsetACL({{\"0.0.0.0/0\"}})\nsetTCPRecvTimeout(1)\n\
             addAction(AllRule(), SpoofAction(\"{says}\"))\n"
        )
    };
    let first = start(1, &server("198.18.2.2:53", "192.0.2.1"));
    let _second = start(0, &server("127.0.0.1:5301", "192.0.2.2"));
    let lua = "addLocal(\"127.0.0.1:53\")\nsetServerPolicy(firstAvailable)\n\
               newServer {address=\"198.18.2.2:53\", order=1, healthCheckMode=\"up\", tcpFastOpen=true, tcpConnectTimeout=1}\n\
               newServer {address=\"127.0.0.1:5301\", order=2, healthCheckMode=\"up\"}\n";
    let instance = start(0, lua);
    let ask = || {
        let mut dig = std::process::Command::new("dig");
        dig.args(["@127.0.0.1", "x.test", "A", "+tcp", "+short", "+tries=1", "+timeout=10"]);
        let out = spaces.command(0, &dig).output().expect("dig; scripts/test installs it");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    // The first connection gets the cookie that the second one uses.
    for times in 1..=2 {
        assert_eq!(ask(), "192.0.2.1", "{}", instance.program.transcript());
        dumped(&first, &format!("client-connection-end-idle {times}"));
    }
    assert_eq!(fast_opens(&spaces, 0), 1, "the second one has begun with the query");
    // From here on nothing reaches the server, without any ICMP error.
    spaces.ip(0, "neighbour replace 198.18.2.2 lladdr 02:00:00:00:00:99 dev be nud permanent");
    let begun = std::time::Instant::now();
    assert_eq!(ask(), "192.0.2.2", "{}", instance.program.transcript());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}
