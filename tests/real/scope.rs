//! `dnslob scope` on what tcpdump captures of `dnslob bench` and `dnslob reflect`: its counts are theirs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::instance::binary;
use crate::namespaces::Namespaces;
use crate::place::{Directory, port, wait_for};
use crate::process::Program;

/// Returns whether this process may capture; says so if not.
fn may_capture() -> bool {
    let may = nix::unistd::geteuid().is_root();
    if !may {
        eprintln!("NOT CHECKED: capturing needs root");
    }
    may
}

fn reflect(address: &str) -> Program {
    let mut command = Command::new(binary());
    command.args(["reflect", "--listen", address, "--latency", "uniform 1ms..3ms", "--loss", "5%"]);
    command.args(["--rcode", "servfail=0.2,nxdomain=0.1"]);
    let mut program = Program::start(&mut command);
    wait_for(
        || "dnslob reflect".to_owned(),
        || {
            assert!(program.ended().is_none(), "{}", program.transcript());
            program.lines_with(0, "answers on").pop()
        },
    );
    program
}

/// Asks over UDP and TCP, and returns the documents of both runs.
fn ask(address: &str) -> [Value; 2] {
    [&["--transport", "udp", "--clients", "127.1.0.0/29"][..], &["--transport", "tcp", "--connections", "3"]]
        .map(|arguments| {
            // IPv6 has one address on loopback.
            let arguments = if address.starts_with('[') { &arguments[..2] } else { arguments };
            let mut command = Command::new(binary());
            command.args([
                "bench",
                address,
                "--rate",
                "1000",
                "--duration",
                "500ms",
                "--timeout",
                "300ms",
                "--json",
            ]);
            let output = command.args(arguments).stdin(Stdio::null()).output().expect("dnslob bench runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice(&output.stdout).expect("JSON")
        })
}

/// A running tcpdump.
fn tcpdump(port: u16, file: &Path, arguments: &[&str]) -> Program {
    let mut command = Command::new("tcpdump");
    command.args(["-Z", "root", "-U", "--immediate-mode", "-B", "32768", "-w"]).arg(file).args(arguments);
    command.arg(format!("port {port}"));
    let mut program = Program::start(&mut command);
    wait_for(
        || "tcpdump".to_owned(),
        || {
            assert!(program.ended().is_none(), "{}", program.transcript());
            program.lines_with(0, "listening on").pop()
        },
    );
    program
}

fn end_tcpdump(mut program: Program) {
    program.signal(Signal::SIGINT);
    assert!(program.wait().success(), "{}", program.transcript());
    let dropped = program.lines_with(0, "dropped by kernel").pop().expect("its figures");
    assert!(dropped.starts_with("0 "), "{}", program.transcript());
}

pub(crate) fn scope(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("scope").args(arguments).stdin(Stdio::null());
    command.output().expect("dnslob scope runs")
}

fn document(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

fn number(document: &Value, pointer: &str) -> u64 {
    document.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} of {document:#}"))
}

/// Asserts that what was captured is what was asked and answered.
fn assert_same(captured: &Value, asked: &[Value; 2], both_ends: u64) {
    let sum = |pointer: &str| asked.iter().map(|document| number(document, pointer)).sum::<u64>();
    assert_eq!(number(captured, "/counts/sent"), sum("/counts/sent"), "{captured:#}");
    assert_eq!(number(captured, "/counts/answered"), sum("/counts/answered"), "{captured:#}");
    let lost = number(captured, "/counts/unanswered") + number(captured, "/counts/open");
    assert_eq!(lost, sum("/lost"), "{captured:#}");
    assert_eq!(number(captured, "/counts/connections"), sum("/counts/connections"));
    assert_eq!(
        number(captured, "/counts/udp") + number(captured, "/counts/tcp"),
        both_ends * sum("/counts/sent")
    );
    let codes = captured["tables"]["rcodes"]["rows"].as_array().expect("codes");
    for code in ["NOERROR", "SERVFAIL", "NXDOMAIN"] {
        let found = codes.iter().find(|row| row["label"] == code).map_or(0, |row| number(row, "/count"));
        let asked: u64 = asked.iter().filter_map(|document| document["rcodes"][code].as_u64()).sum();
        assert_eq!(found, both_ends * asked, "{code}: {captured:#}");
    }
    // Each CPU gives its packets their times: those of two may step back.
    for quiet in ["late", "unmatched", "backwards", "without_question"] {
        assert_eq!(number(captured, &format!("/counts/{quiet}")), 0, "{quiet}: {captured:#}");
    }
    assert!(number(captured, "/latency_ns/p50") >= 900_000, "none is faster than the server");
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn packed(program: &str, file: &Path, to: PathBuf) -> PathBuf {
    let output = Command::new(program).arg("-c").arg(file).output().expect("a compressor");
    assert!(output.status.success(), "{program}");
    fs::write(&to, output.stdout).expect("written");
    to
}

#[test]
fn counts_equal_those_of_what_was_captured() {
    if !may_capture() {
        return;
    }
    let directory = Directory::new();
    let server_port = port();
    let ports = server_port.to_string();
    for (address, arguments) in [
        (format!("127.0.0.1:{ports}"), &["-i", "lo"][..]),
        (format!("[::1]:{ports}"), &["-i", "lo", "--time-stamp-precision=nano"]),
        (format!("127.0.0.1:{ports}"), &["-i", "any", "-y", "LINUX_SLL"]),
        (format!("127.0.0.1:{ports}"), &["-i", "any", "-y", "LINUX_SLL2"]),
    ] {
        let mut server = reflect(&address);
        let file = directory.path().join("capture.pcap");
        let capturing = tcpdump(server_port, &file, arguments);
        let asked = ask(&address);
        end_tcpdump(capturing);
        server.kill();
        let plain = document(&scope(&[&text(&file), "--ports", &ports, "--json"]));
        assert_same(&plain, &asked, 1);
        if arguments.len() > 2 {
            continue;
        }
        for (program, name) in [("gzip", "capture.gz"), ("zstd", "capture.zst")] {
            let packed = packed(program, &file, directory.path().join(name));
            let same = document(&scope(&[&text(&packed), "--ports", &ports, "--json"]));
            assert_eq!(
                ["counts", "latency_ns", "rows"].map(|member| &same[member]),
                ["counts", "latency_ns", "rows"].map(|member| &plain[member])
            );
        }
        cut_captures_and_conditions(&directory, &file, &ports, &plain);
    }
}

/// What is there of a capture that is cut off is reported; conditions decide on the exit code.
fn cut_captures_and_conditions(directory: &Directory, file: &Path, ports: &str, whole: &Value) {
    let bytes = fs::read(file).expect("the capture");
    let cut = directory.path().join("cut.pcap");
    fs::write(&cut, &bytes[..bytes.len() - 7]).expect("written");
    let output = scope(&[&text(&cut), "--ports", ports, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("the file ends within a packet").count(), 1, "said once: {said}");
    assert!(said.contains("at byte ") && said.contains("the report is of what could be read"), "{said}");
    let packed = packed("zstd", file, directory.path().join("cut.zst"));
    let bytes = fs::read(&packed).expect("the capture");
    fs::write(&packed, &bytes[..bytes.len() - 20]).expect("written");
    let of_frame = scope(&[&text(&packed), "--ports", ports]);
    let said = String::from_utf8_lossy(&of_frame.stderr);
    assert_eq!(of_frame.status.code(), Some(1), "{said}");
    assert!(said.contains("the file ends within a frame of zstd"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report all the same");
    assert!(number(&report, "/counts/queries") + 2 >= number(whole, "/counts/queries"), "{report:#}");
    assert!(report["errors"][0].as_str().is_some_and(|e| e.contains("at byte ")));
    let page = directory.path().join("report.html");
    let log = directory.path().join("report.hdr");
    let output = scope(&[
        &text(file),
        "--ports",
        ports,
        "--report",
        &text(&page),
        "--hdr",
        &text(&log),
        "--fail-if",
        "servfail>1%",
    ]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("failed: servfail>1%") && said.contains("SERVFAIL: names"), "{said}");
    assert!(fs::read_to_string(page).expect("a page").contains("<svg"));
    assert!(fs::read_to_string(log).expect("a log").contains(",HISTFAAA"));
    let output = scope(&[&text(file)]);
    assert_eq!(output.status.code(), Some(1), "nothing on port 53");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no DNS message"));
}

#[test]
fn a_pipe_is_read_while_it_is_written_and_a_signal_ends_it() {
    if !may_capture() {
        return;
    }
    let directory = Directory::new();
    let server_port = port();
    let address = format!("127.0.0.1:{server_port}");
    let mut server = reflect(&address);
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let report = directory.path().join("report.json");
    let mut command = Command::new(binary());
    command.args(["scope", &text(&pipe), "--ports", &server_port.to_string(), "--json"]);
    let mut program =
        Program::start_to(&mut command, fs::File::create(&report).expect("a file").into(), Stdio::piped());
    let capturing = tcpdump(server_port, &pipe, &["-i", "lo"]);
    let asked = ask(&address);
    let sent: u64 = asked.iter().map(|document| number(document, "/counts/sent")).sum();
    let answered: u64 = asked.iter().map(|document| number(document, "/counts/answered")).sum();
    // It says how far it is once a second.
    wait_for(
        || program.transcript(),
        || {
            let line = program.output().pop()?;
            let messages = line.rsplit_once(" packets, ")?.1.strip_suffix(" messages")?.replace(',', "");
            (messages.parse::<u64>().ok()? >= sent + answered).then_some(())
        },
    );
    program.signal(Signal::SIGINT);
    assert!(program.wait().success(), "{}", program.transcript());
    end_writer(capturing);
    server.kill();
    let report: Value = serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    assert_eq!(report["interrupted"], true);
    assert_same(&report, &asked, 1);
}

/// Ends a tcpdump whose reader is gone.
fn end_writer(mut program: Program) {
    program.signal(Signal::SIGINT);
    let _ = program.wait();
}

/// A mirror port sends what is for others.
#[test]
fn an_interface_is_promiscuous_while_it_is_looked_at() {
    let spaces = match Namespaces::new(&["mirror"]) {
        Ok(spaces) => spaces,
        Err(why) => return eprintln!("SKIPPED: network namespaces cannot be made here: {why}"),
    };
    spaces.ip(0, "link set lo up");
    let promiscuity = || {
        let mut command = Command::new("ip");
        command.args(["-d", "link", "show", "lo"]);
        let output = spaces.command(0, &command).output().expect("ip runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split("promiscuity ").nth(1).and_then(|rest| rest.split(' ').next());
        number.and_then(|number| number.parse::<u32>().ok()).unwrap_or_else(|| panic!("{text}"))
    };
    let mut command = Command::new(binary());
    command.args(["scope", "-i", "lo"]);
    let mut program = Program::start(&mut spaces.command(0, &command));
    wait_for(|| program.transcript(), || program.lines_with(0, " packets, ").pop());
    assert_eq!(promiscuity(), 1);
    program.signal(Signal::SIGINT);
    assert!(program.wait().success(), "{}", program.transcript());
    assert_eq!(promiscuity(), 0);
}

#[test]
fn an_interface_is_looked_at() {
    if !may_capture() {
        return;
    }
    let directory = Directory::new();
    let server_port = port();
    let address = format!("127.0.0.1:{server_port}");
    for interface in ["lo", "any"] {
        let mut server = reflect(&address);
        let report = directory.path().join("report.json");
        let mut command = Command::new(binary());
        command.args(["scope", "-i", interface, "--ports", &server_port.to_string(), "--json"]);
        let mut program = Program::start_to(
            &mut command,
            fs::File::create(&report).expect("a file").into(),
            Stdio::piped(),
        );
        wait_for(|| program.transcript(), || program.lines_with(0, " packets, ").pop());
        let asked = ask(&address);
        program.signal(Signal::SIGINT);
        assert!(program.wait().success(), "{}", program.transcript());
        server.kill();
        let report: Value = serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON");
        assert_eq!(number(&report, "/counts/dropped"), 0);
        assert_same(&report, &asked, 1);
    }
    let output = scope(&["-i", "nonesuch", "--duration", "10ms"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("there is no such interface; there are: any, ") && said.contains("lo"), "{said}");
    let output = scope(&["-i", "lo", "--duration", "50ms"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
