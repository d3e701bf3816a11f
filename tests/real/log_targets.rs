//! Logs, statistics and query logs with blocked targets: service never waits for them, SIGTERM ends
//! the process in time, and lost lines are counted.

use std::fs::OpenOptions;
use std::io::{PipeReader, Read, pipe};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, binary, listen};
use crate::load::{Load, Plan};
use crate::place::{Directory, port, wait_for};

/// The lines of these queries exceed the queue of a single target.
const QUERIES: u64 = 800;
/// Few enough for the kernel buffers while others use the CPUs.
const RATE: u32 = 200;
/// A stop waits for no query here, and at most one second each for query logs and the log; the rest
/// is for a busy machine.
const STOP: Duration = Duration::from_secs(8);

/// The target of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// A pipe to this test.
    Read,
    /// A pipe with a closed reader.
    NoReader,
    /// A pipe that is not read.
    Unread,
    /// A full disk.
    Full,
}

impl Target {
    /// Returns the descriptor, and what must stay alive with the process.
    fn open(self) -> (Stdio, Option<PipeReader>) {
        match self {
            Self::Read => (Stdio::piped(), None),
            Self::NoReader => (pipe().expect("a pipe").1.into(), None),
            Self::Unread => {
                let (reader, writer) = pipe().expect("a pipe");
                (writer.into(), Some(reader))
            }
            Self::Full => (OpenOptions::new().write(true).open("/dev/full").expect("/dev/full").into(), None),
        }
    }
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Returns a configuration that logs much per query: to the log by an action, by print, io.write
/// and a Lua error, and to `files`.
fn talkative(at: SocketAddr, server: SocketAddr, files: &[&Path]) -> String {
    let mut lua = listen(at) + &backend(server, ", udpTimeout=8");
    lua += "setLuaErrorAction('ignore')\n\
            addAction(AllRule(), LogAction('', false, false, false, false))\n\
            print('from the file')\n\
            io.stdout:write('from ', 'the file\\n')\n\
            addAction(AllRule(), LuaAction(function(dq)\n\
              for n = 1, 16 do print('query', n, dq.qname:toString()) end\n\
              io.write('written\\n')\n\
              io.stderr:write('written, too\\n')\n\
              error('on purpose')\n\
            end))\n";
    // Twice, to exceed the queue of a file.
    for file in files.iter().chain(files) {
        lua += &format!("addAction(AllRule(), LogAction('{}', false, true, false, false))\n", file.display());
    }
    lua
}

fn command(directory: &Directory, lua: &str) -> Command {
    let config = directory.write("dnslob.lua", lua);
    let mut command = Command::new(binary());
    command.args(["-v", "--shards", "2", "--stats", "100ms", "-C"]).arg(config);
    command
}

/// Serves a load with these targets, checks the counters, and stops in time.
fn serves(stdout: Target, stderr: Target) {
    let server = Backend::start(1, Behaviour::Prompt);
    let (at, directory) = (local(), Directory::new());
    let (fifo, full) = (directory.path().join("fifo"), Path::new("/dev/full"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
    let vanishes = directory.path().join("a/directory/that/vanishes");
    std::fs::create_dir_all(&vanishes).expect("created");
    let missing = vanishes.join("log");
    let command = command(&directory, &talkative(at, server.address, &[&fifo, full, &missing]));
    let ((out, _out), (err, _err)) = (stdout.open(), stderr.open());
    let mut instance = Instance::launch_to(command, directory, out, err);
    // The log in it stays open; the reload has another configuration.
    std::fs::remove_dir_all(&vanishes).expect("removed");
    let load =
        Load::start(Plan { target: at, rate: RATE, count: QUERIES, patience: Duration::from_secs(12) });
    wait_for(|| "some answers".into(), || (load.answered() > 200).then_some(()));
    instance.reload(&talkative(at, server.address, &[&fifo, full]));
    let report = load.join();
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(server.queries(), report.sent);
    if stdout == Target::Read {
        let lost = |name: &str| instance.figure(&format!("{name}-lines-lost"));
        // A named pipe without a reader and a full disk each buffer 64 kB.
        assert!(lost("query-log") > 0, "{}", instance.program.transcript());
        assert_eq!(lost("log") > 0, stderr != Target::Read, "{}", instance.program.transcript());
        assert_eq!(lost("output"), 0);
    }
    if stderr == Target::Read {
        let lines = |text: &str| instance.program.lines_with(0, text).len();
        assert!(lines("from the file") >= 2, "{}", instance.program.transcript());
        assert!(lines("written, too") > 100 && lines("Lua: ") > 0, "{}", instance.program.transcript());
        let reported = lines("/dev/full\": ");
        assert!(
            (1..=2).contains(&reported),
            "once, and once after the reload: {}",
            instance.program.transcript()
        );
        if stdout != Target::Read && stdout != Target::Unread {
            assert_eq!(lines("standard output: "), 1, "{}", instance.program.transcript());
        }
    }
    let begin = Instant::now();
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
    assert!(begin.elapsed() < STOP, "the stop took {:?}", begin.elapsed());
}

#[test]
fn unwritable_query_logs_do_not_stop_service() {
    serves(Target::Read, Target::Read);
}

#[test]
fn a_log_pipe_with_a_closed_reader_does_not_stop_service() {
    serves(Target::Read, Target::NoReader);
}

#[test]
fn a_log_pipe_without_a_reader_does_not_stop_service() {
    serves(Target::Read, Target::Unread);
}

#[test]
fn a_log_on_a_full_disk_does_not_stop_service() {
    serves(Target::Read, Target::Full);
}

#[test]
fn statistics_with_a_closed_reader_do_not_stop_service() {
    serves(Target::NoReader, Target::Read);
}

#[test]
fn unread_statistics_do_not_stop_service() {
    serves(Target::Unread, Target::Read);
}

#[test]
fn all_broken_log_targets_together_do_not_stop_service() {
    serves(Target::Full, Target::NoReader);
    serves(Target::Unread, Target::Unread);
}

#[test]
fn closed_standard_descriptors_do_not_stop_service() {
    let server = Backend::start(1, Behaviour::Prompt);
    let (at, directory) = (local(), Directory::new());
    let config = directory.write("dnslob.lua", &talkative(at, server.address, &[]));
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-"]).arg(binary());
    command.args(["-v", "--shards", "2", "--stats", "100ms", "-C"]).arg(config);
    let mut instance = Instance::launch_to(command, directory, Stdio::null(), Stdio::null());
    let load =
        Load::start(Plan { target: at, rate: RATE, count: QUERIES, patience: Duration::from_secs(12) });
    load.join().assert_nothing_lost(&String::new);
    assert_eq!(instance.stop().code(), Some(0));
}

#[test]
fn a_returning_log_reader_sees_the_number_of_lost_lines() {
    let server = Backend::start(1, Behaviour::Prompt);
    let (at, directory) = (local(), Directory::new());
    let command = command(&directory, &talkative(at, server.address, &[]));
    let (mut reader, writer) = pipe().expect("a pipe");
    let mut instance = Instance::launch_to(command, directory, Stdio::piped(), writer.into());
    let load =
        Load::start(Plan { target: at, rate: RATE, count: QUERIES, patience: Duration::from_secs(12) });
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    assert!(instance.figure("log-lines-lost") > 0, "{}", instance.program.transcript());
    let text = Arc::<Mutex<Vec<u8>>>::default();
    let gathered = Arc::clone(&text);
    let reading = std::thread::spawn(move || {
        let mut part = [0; 65_536];
        while let Ok(len @ 1..) = reader.read(&mut part) {
            gathered.lock().expect("the log").extend_from_slice(&part[..len]);
        }
    });
    let text = || String::from_utf8_lossy(&text.lock().expect("the log")).into_owned();
    wait_for(
        || format!("the notice; {}", instance.program.transcript()),
        || {
            let notices = text();
            let lines = notices.split("lines of the log were lost lines=").skip(1);
            let reported: u64 = lines.filter_map(|l| l.split_whitespace().next()?.parse::<u64>().ok()).sum();
            (reported == instance.figure("log-lines-lost")).then_some(())
        },
    );
    assert_eq!(instance.stop().code(), Some(0));
    reading.join().expect("the reader");
    assert!(
        text().lines().last().is_some_and(|l| l.ends_with("stopped")),
        "what waits is written at the end"
    );
}

#[test]
fn every_log_line_is_written_before_the_exit() {
    let server = Backend::start(1, Behaviour::Prompt);
    let (at, directory) = (local(), Directory::new());
    let file = directory.path().join("queries");
    let lua = listen(at)
        + &backend(server.address, ", udpTimeout=8")
        + "addAction(AllRule(), LogAction('', false, false, false, false))\n"
        + &format!("addAction(AllRule(), LogAction('{}', false, true, true, false))\n", file.display());
    let command = command(&directory, &lua);
    let mut instance = Instance::launch(command, directory);
    let load =
        Load::start(Plan { target: at, rate: RATE, count: QUERIES, patience: Duration::from_secs(12) });
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
    wait_for(
        || instance.program.transcript(),
        || (!instance.program.lines_with(0, "stopped").is_empty()).then_some(()),
    );
    let logged = instance.program.lines_with(0, "Packet from ").len();
    let filed = std::fs::read_to_string(&file).expect("the query log").lines().count();
    assert_eq!((logged, filed), (QUERIES as usize, QUERIES as usize));
}

#[test]
fn a_query_log_hides_addresses_and_survives_rotation() {
    let server = Backend::start(1, Behaviour::Prompt);
    let (at, directory) = (local(), Directory::new());
    let (log, moved) = (directory.path().join("queries"), directory.path().join("queries.1"));
    let lua = |clients: &str| {
        listen(at)
            + &backend(server.address, "")
            + &format!("setLogClientPrivacy('{clients}')\n")
            + &format!("addAction(AllRule(), LogAction('{}', false, true, false, false))\n", log.display())
    };
    let mut instance = Instance::start(&lua("network"));
    let ask = |count: u64| {
        let load = Load::start(Plan { target: at, rate: 500, count, patience: Duration::from_secs(4) });
        load.join().assert_nothing_lost(&String::new);
    };
    let lines = |path: &Path| -> Vec<String> {
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    ask(50);
    wait_for(|| format!("{:?}", lines(&log)), || (lines(&log).len() == 50).then_some(()));
    assert!(lines(&log).iter().all(|l| l.starts_with("Packet from 127.0.0.0 for ")), "{:?}", lines(&log));
    std::fs::rename(&log, &moved).expect("moved");
    // Within a second the log is made anew, without a signal.
    let more = || {
        let load = Load::start(Plan { target: at, rate: 500, count: 10, patience: Duration::from_secs(4) });
        load.join().assert_nothing_lost(&String::new);
    };
    wait_for(
        || format!("{:?}", lines(&log)),
        || {
            more();
            (!lines(&log).is_empty()).then_some(())
        },
    );
    instance.reload(&lua("pseudonym"));
    let before = lines(&log).len();
    ask(20);
    wait_for(|| format!("{:?}", lines(&log)), || (lines(&log).len() == before + 20).then_some(()));
    let shown: std::collections::BTreeSet<String> =
        lines(&log)[before..].iter().filter_map(|l| Some(l.split(' ').nth(2)?.to_owned())).collect();
    assert!(shown.len() == 1 && shown.iter().all(|client| client.starts_with("client-")), "{shown:?}");
    assert_eq!(instance.figure("query-log-lines-lost"), 0);
}

#[test]
fn errors_are_structured_where_the_command_line_says_so() {
    let directory = Directory::new();
    let config = directory.write("bad.lua", "print('a line before')\nnewServer('nonsense')\naddLocal('x')\n");
    let run = |arguments: &[&str]| {
        let output = Command::new(binary()).args(arguments).arg("-C").arg(&config).output().expect("started");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for check in [&["--check-config"][..], &[]] {
        let text = run(&[&["--structured-logging", "true"], check].concat());
        assert!(text.lines().count() == 3 && text.lines().all(|l| l.starts_with("msg=\"")), "{text}");
        let errors = text.lines().filter(|l| l.contains(" prio=\"Error\" ") && l.contains("bad.lua:"));
        assert_eq!(errors.count(), 2, "{text}");
        let text = run(check);
        assert!(text.contains("newServer") && !text.contains("msg="), "{text}");
    }
}
