//! TCP relays: bytes arrive unchanged, failover works, limits are enforced.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::target::{Behaviour, Target};
use super::{figure, local, logged, relay, until};
use crate::instance::Instance;
use crate::place::{PATIENCE, wait_for};

const TCP: &str = "addTCPForward";

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Returns bytes in which a missing, doubled or misplaced part is noticed.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut all = Vec::with_capacity(count + 8);
    while all.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(count);
    all
}

/// Sends everything, closes the sending side, and reads to the end.
fn exchange(at: SocketAddr, sent: &[u8]) -> Vec<u8> {
    let stream = connect(at);
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(sent).expect("written");
            stream.shutdown(Shutdown::Write).expect("closed");
        });
        (&stream).read_to_end(&mut received).expect("read to the end");
    });
    received
}

#[test]
fn bytes_arrive_unchanged_and_half_close_is_relayed() {
    let (echo, gather) = (Target::start(Behaviour::Echo), Target::start(Behaviour::Gather));
    let (one, two) = (local(), local());
    let lua = relay(TCP, one, &[echo.address], "") + &relay(TCP, two, &[gather.address], "");
    let instance = Instance::start(&lua);
    std::thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || {
                let sent = bytes(n, 3_000_001 + n as usize * 77_777);
                let at = if n % 2 == 0 { one } else { two };
                let received = exchange(at, &sent);
                assert!(received == sent, "connection {n}: {} of {}", received.len(), sent.len());
            });
        }
    });
    // A connection without data counts, too.
    assert!(exchange(two, b"").is_empty());
    let all: u64 = (0..8).map(|n| 3_000_001 + n * 77_777).sum();
    until(&instance, "relay-end-client", 9);
    assert_eq!(figure(&instance, "relay-bytes-to-targets"), all);
    assert_eq!(figure(&instance, "relay-bytes-to-clients"), all);
    assert_eq!(figure(&instance, "relay-open"), 0);
    logged(&instance, &[": 3000001 bytes there, 3000001 back", "ended by client"]);
}

#[test]
fn a_target_that_refuses_is_skipped_at_once() {
    let (dead, alive) = (local(), Target::start(Behaviour::Number(2)));
    let at = local();
    let instance = Instance::start(&relay(TCP, at, &[dead, alive.address], ""));
    let begun = Instant::now();
    for n in 0..20 {
        assert_eq!(call(at, n).as_deref(), Some(&*format!("2 {n}\n")));
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "no connection waits: {:?}", begun.elapsed());
    let line = logged(&instance, &[&format!("refused {dead}, to {}", alive.address)]);
    assert!(line.contains(&format!("-> {at}")), "{line}");
    assert_eq!(alive.taken(), 20);
}

/// One connection: a line, its answer, the close.
fn call(at: SocketAddr, number: u64) -> Option<String> {
    let stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    (&stream).write_all(format!("{number}\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).ok()?;
    (!line.is_empty()).then_some(line)
}

#[test]
fn a_target_that_never_accepts_is_skipped() {
    // With a full backlog the kernel drops further SYNs without an answer.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let hole = local();
    socket.bind(&hole.into()).expect("bound");
    socket.listen(0).expect("listening");
    let _fill: Vec<_> = (0..3)
        .map(|_| {
            let filler =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            filler.set_nonblocking(true).expect("set");
            let _ = filler.connect(&hole.into());
            filler
        })
        .collect();
    let alive = Target::start(Behaviour::Number(2));
    let at = local();
    let lua = relay(TCP, at, &[hole, alive.address], ", connectTimeoutMs=300");
    let instance = Instance::start_with(&lua, &["--shards", "1"]);
    let begun = Instant::now();
    assert_eq!(call(at, 1).as_deref(), Some("2 1\n"));
    assert!(begun.elapsed() >= Duration::from_millis(300), "the first had its time");
    let begun = Instant::now();
    assert_eq!(call(at, 2).as_deref(), Some("2 2\n"));
    assert!(begun.elapsed() < Duration::from_millis(300), "the next one does not wait for it");
    logged(&instance, &[&format!("timeout {hole}, to {}", alive.address)]);
}

#[test]
fn a_target_that_does_not_greet_is_left_for_the_next() {
    let all = [Behaviour::Close, Behaviour::Silent, Behaviour::Greet].map(Target::start);
    let [close, silent, greet] = &all;
    let at = local();
    // With the header, too: each target gets one.
    for proxy in ["", ", useProxyProtocol=\"v1\""] {
        let to = [close.address, silent.address, greet.address];
        let instance = Instance::start(&relay(TCP, at, &to, &format!(", greetingTimeoutMs=300{proxy}")));
        std::thread::scope(|scope| {
            for n in 0..4 {
                scope.spawn(move || {
                    let stream = connect(at);
                    let mut greeting = [0; 11];
                    (&stream).read_exact(&mut greeting).expect("a greeting");
                    assert_eq!(&greeting, b"220 hello\r\n");
                    let sent = bytes(n, 2_000_003);
                    let mut received = Vec::new();
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            (&stream).write_all(&sent).expect("written");
                            stream.shutdown(Shutdown::Write).expect("closed");
                        });
                        (&stream).read_to_end(&mut received).expect("read to the end");
                    });
                    if !proxy.is_empty() {
                        let end = received.iter().position(|b| *b == b'\n').expect("a header") + 1;
                        assert!(received.drain(..end).as_slice().starts_with(b"PROXY TCP4 127.0.0.1 "));
                    }
                    assert!(received == sent, "connection {n}: {} of {}", received.len(), sent.len());
                });
            }
        });
        until(&instance, "relay-end-client", 4);
        assert_eq!(figure(&instance, "relay-end-target"), 0);
        logged(
            &instance,
            &[&format!("closed {}, silent {}, to {}", close.address, silent.address, greet.address)],
        );
    }
}

#[test]
fn connections_end_with_a_target_that_goes_down() {
    let mut target = Target::start(Behaviour::Silent);
    let at = [local(), local()];
    let checked = |at, more| {
        let check = ", check=\"connect\", checkIntervalMs=50, maxCheckFailures=2";
        relay(TCP, at, &[target.address], &format!("{check}{more}")).replace(", check=\"none\"", "")
    };
    let instance = Instance::start(&(checked(at[0], "") + &checked(at[1], ", closeWhenDown=false")));
    let [closed, kept] = at.map(connect);
    // Both directions are in use, and the target does not answer.
    (&closed).write_all(b"a question").expect("written");
    until(&instance, "relay-bytes-to-targets", 10);
    until(&instance, "relay-open", 2);
    target.close_listener();
    let end = (&closed).read(&mut [0; 4]);
    assert_eq!(end.expect_err("it is no orderly end").kind(), ErrorKind::ConnectionReset);
    until(&instance, "relay-end-target-down", 1);
    logged(&instance, &[": 10 bytes there, 0 back", "ended by target-down"]);
    kept.set_read_timeout(Some(Duration::from_millis(1_500))).expect("set");
    let waits = (&kept).read(&mut [0; 4]).expect_err("nothing to read");
    assert_eq!(waits.kind(), ErrorKind::WouldBlock);
    assert_eq!(figure(&instance, "relay-open"), 1);
}

#[test]
fn no_connection_is_lost_while_another_target_accepts() {
    let (mut first, second) = (Target::start(Behaviour::Number(1)), Target::start(Behaviour::Number(2)));
    let at = local();
    let instance = Instance::start(&relay(TCP, at, &[first.address, second.address], ""));
    let (stop, by_first, by_second, broken) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    const CALLERS: u64 = 8;
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let mut number = 0;
                while !stop.load(SeqCst) {
                    number += 1;
                    match call(at, number) {
                        Some(line) if line == format!("1 {number}\n") => by_first.fetch_add(1, SeqCst),
                        Some(line) if line == format!("2 {number}\n") => by_second.fetch_add(1, SeqCst),
                        Some(line) => panic!("call {number} was answered {line:?}"),
                        None => broken.fetch_add(1, SeqCst),
                    };
                }
            });
        }
        wait_for(|| "calls at the first".into(), || (by_first.load(SeqCst) > 200).then_some(()));
        first.kill();
        let then = by_second.load(SeqCst);
        wait_for(|| "calls at the second".into(), || (by_second.load(SeqCst) > then + 200).then_some(()));
        stop.store(true, SeqCst);
    });
    let (one, two, lost) = (by_first.load(SeqCst), by_second.load(SeqCst), broken.load(SeqCst));
    assert!(lost <= CALLERS, "only what the first had taken when it died: {lost} of {}", one + two);
    until(&instance, "relay-open", 0);
    assert_eq!(figure(&instance, "relay-opened"), one + two + lost, "every call is counted");
    assert_eq!(figure(&instance, "relay-end-no-target"), 0);
}

#[test]
fn with_all_targets_down_the_client_is_closed() {
    let (one, two, at) = (local(), local(), local());
    let instance = Instance::start(&relay(TCP, at, &[one, two], ""));
    let mut stream = connect(at);
    let mut buffer = [0; 10];
    assert!(matches!(stream.read(&mut buffer), Ok(0) | Err(_)));
    logged(&instance, &[&format!("refused {one}, refused {two}: 0 bytes there"), "ended by no-target"]);
}

#[test]
fn limits_and_idle_timeouts_close_connections_with_their_reasons() {
    let echo = Target::start(Behaviour::Echo);
    let at = local();
    let lua =
        relay(TCP, at, &[echo.address], ", maxConnections=3, maxConnectionsPerClient=2, idleTimeoutMs=1000");
    let instance = Instance::start(&lua);
    let mut open: Vec<TcpStream> = (0..2).map(|_| connect(at)).collect();
    until(&instance, "relay-open", 2);
    let mut third = connect(at);
    assert!(matches!(third.read(&mut [0; 4]), Ok(0) | Err(_)), "a third one of the same client is closed");
    until(&instance, "relay-end-per-client", 1);
    // An active connection stays; an idle one is closed.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2_500) {
        open[0].write_all(b"x").expect("written");
        let mut answer = [0];
        open[0].read_exact(&mut answer).expect("it goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(open[1].read(&mut [0; 4]).expect("closed in order"), 0);
    until(&instance, "relay-end-idle", 1);
    until(&instance, "relay-open", 1);
    logged(&instance, &["0 bytes there, 0 back", "ended by idle"]);
}

#[test]
fn resets_are_relayed_in_both_directions() {
    let echo = Target::start(Behaviour::Echo);
    let at = local();
    let instance = Instance::start(&relay(TCP, at, &[echo.address], ""));
    let mut stream = connect(at);
    stream.write_all(b"x").expect("written");
    stream.read_exact(&mut [0]).expect("it stands");
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
    drop(stream);
    until(&instance, "relay-end-client-broken", 1);
    wait_for(|| "the target to notice it".into(), || (echo.broken() == 1).then_some(()));

    let listener = TcpListener::bind(local()).expect("a target");
    let at = local();
    let mut instance = instance;
    instance.reload(&relay(TCP, at, &[listener.local_addr().expect("an address")], ""));
    let mut stream = connect(at);
    let (mut target, _) = listener.accept().expect("accepted");
    stream.write_all(b"x").expect("written");
    target.read_exact(&mut [0]).expect("it stands");
    SockRef::from(&target).set_linger(Some(Duration::ZERO)).expect("set");
    drop(target);
    let e = stream.read(&mut [0; 4]).expect_err("broken, not closed");
    assert_eq!(e.kind(), ErrorKind::ConnectionReset);
    until(&instance, "relay-end-target-broken", 1);
}

#[test]
fn backpressure_reaches_the_sender() {
    let flood = Target::start(Behaviour::Flood);
    let echo = Target::start(Behaviour::Echo);
    let (at, other) = (local(), local());
    let lua = relay(TCP, at, &[flood.address], "") + &relay(TCP, other, &[echo.address], "");
    let instance = Instance::start_with(&lua, &["--shards", "1"]);
    let stream = connect(at);
    // Until the sender blocks: the buffers of four sockets and a pipe are full.
    let mut last = (0, Instant::now());
    wait_for(
        || "the flood to stand still".into(),
        || {
            let sent = flood.bytes();
            if sent != last.0 {
                last = (sent, Instant::now());
            }
            (sent > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(())
        },
    );
    assert!(flood.bytes() < 64 << 20, "{} bytes are somewhere", flood.bytes());
    // Other connections are served meanwhile, without a busy loop.
    let before = cpu_ticks(&instance);
    assert_eq!(exchange(other, b"beside").as_slice(), b"beside");
    std::thread::sleep(Duration::from_millis(500));
    let spent = cpu_ticks(&instance) - before;
    assert!(spent < 20, "{spent} ticks of 10 ms in half a second of waiting");
    // Reading resumes the transfer.
    let (mut reader, mut buffer) = (&stream, vec![0; 1 << 20]);
    let stood = flood.bytes();
    wait_for(
        || "the flood to go on".into(),
        || {
            let count = reader.read(&mut buffer).expect("bytes");
            assert!(buffer[..count].iter().all(|o| *o == 0));
            (flood.bytes() > stood + (8 << 20)).then_some(())
        },
    );
}

#[test]
fn urgent_data_keeps_its_position_and_blocks_nothing() {
    let (echo, gather) = (Target::start(Behaviour::Echo), Target::start(Behaviour::Gather));
    let (one, two) = (local(), local());
    let lua = relay(TCP, one, &[echo.address], "") + &relay(TCP, two, &[gather.address], "");
    let instance = Instance::start_with(&lua, &["--shards", "1"]);
    for at in [one, two] {
        let stream = connect(at);
        (&stream).write_all(b"abc").expect("written");
        SockRef::from(&stream).send_out_of_band(b"!").expect("sent");
        (&stream).write_all(b"defghij").expect("written");
        let mut got = Vec::new();
        if at == one {
            let mut answer = [0; 11];
            (&stream).read_exact(&mut answer).expect("all comes back");
            got.extend(answer);
            let before = cpu_ticks(&instance);
            std::thread::sleep(Duration::from_millis(500));
            let spent = cpu_ticks(&instance) - before;
            assert!(spent < 20, "{spent} ticks of 10 ms in half a second of nothing");
        } else {
            stream.shutdown(Shutdown::Write).expect("closed");
            (&stream).read_to_end(&mut got).expect("read to the end");
        }
        assert_eq!(got, b"abc!defghij");
    }
    // From the target, with nothing behind it.
    let (target, at) = (TcpListener::bind(local()).expect("a target"), local());
    let _instance = Instance::start(&relay(TCP, at, &[target.local_addr().expect("an address")], ""));
    let mut client = connect(at);
    let (speaker, _) = target.accept().expect("accepted");
    SockRef::from(&speaker).send_out_of_band(b"?").expect("sent");
    SockRef::from(&client).set_out_of_band_inline(true).expect("set");
    let mut answer = [0];
    client.read_exact(&mut answer).expect("it arrives");
    assert_eq!(&answer, b"?");
}

#[test]
fn data_sent_before_a_reset_is_relayed_before_it() {
    let target = TcpListener::bind(local()).expect("a target");
    let at = local();
    let instance = Instance::start(&relay(TCP, at, &[target.local_addr().expect("an address")], ""));
    // So few that they have left the sender before the reset.
    let words = bytes(7, 20_000);
    for client_breaks in [true, false] {
        let client = connect(at);
        let (taken, _) = target.accept().expect("accepted");
        taken.set_read_timeout(Some(PATIENCE)).expect("set");
        (&taken).write_all(b"hello").expect("written");
        (&client).read_exact(&mut [0; 5]).expect("it stands");
        let (breaks, mut hears) = if client_breaks { (client, taken) } else { (taken, client) };
        // The data and the reset arrive together.
        instance.program.signal(nix::sys::signal::Signal::SIGSTOP);
        (&breaks).write_all(&words).expect("written");
        SockRef::from(&breaks).set_linger(Some(Duration::ZERO)).expect("set");
        drop(breaks);
        instance.program.signal(nix::sys::signal::Signal::SIGCONT);
        let mut heard = Vec::new();
        let end = hears.read_to_end(&mut heard).expect_err("a reset is passed on as a reset");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        assert!(heard == words, "{} of {} bytes", heard.len(), words.len());
    }
    until(&instance, "relay-end-client-broken", 1);
    until(&instance, "relay-end-target-broken", 1);
}

#[test]
fn established_connections_continue_without_free_descriptors() {
    let (deaf, echo) = (TcpListener::bind(local()).expect("a target"), Target::start(Behaviour::Echo));
    let (one, two) = (local(), local());
    let lua = relay(TCP, one, &[deaf.local_addr().expect("an address")], "")
        + &relay(TCP, two, &[echo.address], "");
    let instance = Instance::start_with(&lua, &["--shards", "1"]);
    let (flood, mut talk) = (connect(one), connect(two));
    let (mut payload, mut back) = (bytes(3, 300_000), vec![0; 300_000]);
    talk.write_all(b"first").expect("written");
    talk.read_exact(&mut back[..5]).expect("answered");
    until(&instance, "relay-open", 2);
    // From here on it gets no descriptor; the flood already has the only pipe.
    let limited = std::process::Command::new("prlimit")
        .args(["--nofile=3:3", "--pid", &instance.program.pid().to_string()])
        .status()
        .expect("prlimit, of util-linux");
    assert!(limited.success());
    flood.set_nonblocking(true).expect("set");
    let (mut stuck, mut taken) = (0, 0);
    while stuck < 50 {
        match (&flood).write(&payload) {
            Ok(count) => (stuck, taken) = (0, taken + count),
            Err(_) => {
                stuck += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    assert!(taken > payload.len(), "the flood fills all buffers");
    for round in 0..5 {
        payload.rotate_left(round);
        std::thread::scope(|scope| {
            scope.spawn(|| (&talk).write_all(&payload).expect("written"));
            (&talk).read_exact(&mut back).expect("answered");
        });
        assert!(back == payload, "round {round}");
    }
    drop((flood, deaf));
}

#[test]
fn a_reload_that_reopens_listeners_refuses_no_connection() {
    let target = Target::start(Behaviour::Number(7));
    let at = local();
    let lua = |queue: u32| relay(TCP, at, &[target.address], &format!(", tcpListenQueueSize={queue}"));
    let mut instance = Instance::start_with(&lua(100), &["--shards", "2"]);
    let (stop, calls, broken) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut number = 0;
                while !stop.load(SeqCst) {
                    number += 1;
                    match call(at, number) {
                        Some(line) => assert_eq!(line, format!("7 {number}\n")),
                        None => drop(broken.fetch_add(1, SeqCst)),
                    }
                    calls.fetch_add(1, SeqCst);
                }
            });
        }
        for queue in 101..106 {
            let goal = calls.load(SeqCst) + 100;
            wait_for(|| "calls".into(), || (calls.load(SeqCst) >= goal).then_some(()));
            instance.reload(&lua(queue));
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(figure(&instance, "relay-end-closing"), 0);
    // The kernel resets connections in the middle of a handshake or just after it when the old
    // socket is closed: at most one per client in each of two shards.
    let (calls, broken) = (calls.load(SeqCst), broken.load(SeqCst));
    assert!(broken <= 5 * 2 * 3, "{broken} of {calls}");
}

/// Returns the CPU time of the program in kernel ticks: user and system.
fn cpu_ticks(instance: &Instance) -> u64 {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", instance.program.pid())).expect("its figures");
    let behind = stat.rsplit(") ").next().expect("fields");
    let fields: Vec<&str> = behind.split(' ').collect();
    fields[11..13].iter().map(|f| f.parse::<u64>().expect("a number")).sum()
}

#[test]
fn idle_connections_use_no_pipe() {
    let echo = Target::start(Behaviour::Echo);
    let at = local();
    let instance = Instance::start_with(&relay(TCP, at, &[echo.address], ""), &["--shards", "1"]);
    let streams: Vec<TcpStream> = (0..200)
        .map(|n: u8| {
            let mut stream = connect(at);
            stream.write_all(&[n]).expect("written");
            let mut answer = [0];
            stream.read_exact(&mut answer).expect("answered");
            assert_eq!(answer, [n]);
            stream
        })
        .collect();
    let descriptors =
        std::fs::read_dir(format!("/proc/{}/fd", instance.program.pid())).expect("its descriptors");
    let pipes = descriptors
        .filter_map(|d| std::fs::read_link(d.ok()?.path()).ok())
        .filter(|to| to.to_string_lossy().starts_with("pipe:"))
        .count();
    assert!(pipes < 20, "{pipes} ends of pipes for 200 idle connections");
    assert_eq!(figure(&instance, "relay-open"), 200);
    drop(streams);
    until(&instance, "relay-open", 0);
}

#[test]
fn a_reload_and_a_stop_let_connections_finish() {
    let (old, new) = (Target::start(Behaviour::Number(1)), Target::start(Behaviour::Number(2)));
    let (at, other) = (local(), local());
    let mut instance =
        Instance::start_with(&relay(TCP, at, &[old.address], ""), &["--shards", "2", "--drain", "10s"]);
    let stays = connect(at);
    let mut lines = BufReader::new(stays.try_clone().expect("a copy"));
    let mut say = |text: &str| {
        (&stays).write_all(text.as_bytes()).expect("written");
        let mut line = String::new();
        lines.read_line(&mut line).expect("read");
        line
    };
    assert_eq!(say("a\n"), "1 a\n");
    // Its target is removed: the connection continues, new ones go elsewhere.
    instance.reload(&relay(TCP, at, &[new.address], ""));
    assert_eq!(say("b\n"), "1 b\n");
    assert_eq!(call(at, 5).as_deref(), Some("2 5\n"));
    // Its listener is removed.
    instance.reload(&relay(TCP, other, &[new.address], ""));
    assert_eq!(say("c\n"), "1 c\n");
    wait_for(|| "the port to be closed".into(), || TcpStream::connect(at).is_err().then_some(()));
    // The program receives SIGTERM.
    instance.program.signal(nix::sys::signal::Signal::SIGTERM);
    wait_for(|| "the other port to be closed".into(), || TcpStream::connect(other).is_err().then_some(()));
    assert_eq!(say("d\n"), "1 d\n");
    stays.shutdown(Shutdown::Write).expect("closed");
    assert_eq!(say(""), "");
    assert_eq!(instance.program.wait().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn a_stop_says_that_it_cuts_an_idle_connection() {
    let target = Target::start(Behaviour::Number(1));
    let at = local();
    let mut instance =
        Instance::start_with(&relay(TCP, at, &[target.address], ""), &["--shards", "1", "--drain", "300ms"]);
    let idle = connect(at);
    until(&instance, "relay-open", 1);
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
    let cut = instance.program.lines_with(0, "aborting what has not finished");
    assert!(cut.len() == 1 && cut[0].contains("queries=0") && cut[0].contains("relay_sessions=1"), "{cut:?}");
    drop(idle);
}

#[test]
fn a_second_instance_on_the_same_port_takes_over() {
    let target = Target::start(Behaviour::Number(7));
    let at = local();
    let lua = relay(TCP, at, &[target.address], ", reusePort=true");
    let mut old = Instance::start(&lua);
    let calls = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let caller = std::thread::spawn({
        let (calls, stop) = (Arc::clone(&calls), Arc::clone(&stop));
        move || {
            let mut number = 0;
            while !stop.load(SeqCst) {
                number += 1;
                assert_eq!(call(at, number), Some(format!("7 {number}\n")), "no call is lost");
                calls.fetch_add(1, SeqCst);
            }
        }
    });
    let made = |more: u64| {
        let goal = calls.load(SeqCst) + more;
        wait_for(|| "calls".into(), || (calls.load(SeqCst) >= goal || caller.is_finished()).then_some(()));
    };
    made(100);
    let new = Instance::start(&lua);
    made(100);
    assert_eq!(old.stop().code(), Some(0), "{}", old.program.transcript());
    made(100);
    stop.store(true, SeqCst);
    caller.join().unwrap_or_else(|_| panic!("{}", new.program.transcript()));
}
