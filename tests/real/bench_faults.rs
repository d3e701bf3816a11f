//! `dnslob bench` and `dnslob reflect` where something is wrong: servers that die or talk nonsense,
//! reports that cannot be written, addresses that are taken.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;

use crate::bench::{Reflect, number};
use crate::instance::binary;
use crate::place::{Directory, port, wait_for};
use crate::process::Program;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("dnslob runs")
}

fn bench(address: &str, arguments: &[&str]) -> Output {
    run(&[&["bench", address], arguments].concat())
}

/// Returns the document of a run, whatever its exit code.
fn document(output: &Output) -> serde_json::Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Answers each connection of a port as `talk` says, until the test ends.
fn listener(talk: fn(TcpStream)) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", port())).expect("a listener");
    let address = listener.local_addr().expect("its address").to_string();
    let thread = std::thread::spawn(move || listener.incoming().flatten().for_each(talk));
    (address, thread)
}

#[test]
fn what_is_due_at_a_dead_server_is_lost() {
    let mut reflect = Reflect::start(&[]);
    let directory = Directory::new();
    let report = directory.path().join("report.json");
    let arguments = [
        "bench",
        &reflect.address,
        "--transport",
        "tcp",
        "--rate",
        "500",
        "--duration",
        "4s",
        "--timeout",
        "300ms",
        "--fail-if",
        "unsent>10%,loss>90%",
        "--json",
    ];
    let stdout = fs::File::create(&report).expect("a file").into();
    let mut program = Program::start_to(&mut command(&arguments), stdout, Stdio::piped());
    wait_for(|| "a second of the run".to_owned(), || program.lines_with(0, "   1 s").pop());
    reflect.program.kill();
    assert_eq!(program.wait().code(), Some(3), "{}", program.transcript());
    for second in ["   2 s", "   3 s", "   4 s"] {
        assert_eq!(program.lines_with(0, second).len(), 1, "{}", program.transcript());
    }
    let document: serde_json::Value =
        serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    let [sent, answered, unconnected, late] =
        ["sent", "answered", "unconnected", "not_sent"].map(|of| number(&document, &format!("/counts/{of}")));
    assert!((sent + unconnected + late).abs_diff(2_000) <= 1, "each query has its end: {document:#}");
    assert!(answered > 0 && unconnected > 500, "{document:#}");
    assert_eq!(number(&document, "/lost"), sent + unconnected - answered);
    assert!(number(&document, "/connect_failures/refused") > 0, "{document:#}");
    let notes = document["notes"].to_string();
    assert!(notes.contains("there was no connection for "), "{notes}");
    assert!(
        document["failed"][0].as_str().is_some_and(|text| text.starts_with("unsent>10%: ")),
        "{document:#}"
    );
}

#[test]
fn connections_that_fail_have_a_reason() {
    let nobody = format!("127.0.0.1:{}", port());
    let (silent, _thread) = listener(std::mem::forget);
    let (closing, _thread) = listener(drop);
    for (address, transport, want) in [
        (&nobody, "tcp", "refused"),
        (&closing, "tls", "TLS handshake: "),
        (&silent, "tls", "TLS handshake: timed out"),
    ] {
        let arguments =
            ["--transport", transport, "--rate", "50", "--duration", "200ms", "--timeout", "100ms"];
        let output = bench(address, &[&["--json"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(1), "{want}");
        let said = stderr(&output);
        assert!(said.contains("no answer from") && said.contains(want), "{want}: {said}");
        let document = document(&output);
        assert_eq!([number(&document, "/counts/sent"), number(&document, "/counts/connections")], [0, 0]);
        assert_eq!(number(&document, "/counts/unconnected"), 10, "{document:#}");
        assert!(document["latency_ns"]["p99"].is_null(), "{document:#}");
    }
}

#[test]
fn nonsense_over_tcp_is_counted() {
    let (address, _thread) = listener(|mut stream| {
        let mut query = [0; 64];
        if stream.read(&mut query).is_ok() {
            // A frame without a message, which ends the connection.
            let _ = stream.write_all(&[0, 0]);
        }
    });
    let arguments =
        ["--transport", "tcp", "--connections", "2", "--outstanding", "2", "--duration", "300ms", "--json"];
    let output = bench(&address, &arguments);
    assert_eq!(output.status.code(), Some(1), "no answer at all");
    let document = document(&output);
    assert!(number(&document, "/counts/malformed") > 0, "{document:#}");
    assert_eq!(number(&document, "/counts/sent"), number(&document, "/counts/closed"), "{document:#}");
}

#[test]
fn an_answer_of_another_protocol_is_counted() {
    let (address, _thread) = listener(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        std::mem::forget(stream);
    });
    let run = [
        "--transport",
        "tcp",
        "--connections",
        "2",
        "--rate",
        "50",
        "--duration",
        "1s",
        "--timeout",
        "100ms",
    ];
    let output = bench(&address, &[&["--json"], &run[..]].concat());
    assert_eq!(output.status.code(), Some(1), "no answer at all");
    let document = document(&output);
    // Read as a frame of 18,516 bytes, which never comes to its end.
    assert!(number(&document, "/counts/malformed") >= 2, "{document:#}");
    assert!(number(&document, "/counts/connections") > 2, "they are made again: {document:#}");
}

#[test]
fn what_is_prepared_is_not_measured() {
    let reflect = Reflect::start(&[]);
    for arguments in [
        &["--clients", "127.0.0.0/8"][..],
        &["--transport", "tcp", "--connections", "500", "--clients", "127.2.0.0/16"],
    ] {
        let common = ["--rate", "1000", "--duration", "300ms", "--json"];
        let document = document(&bench(&reflect.address, &[&common[..], arguments].concat()));
        let due = number(&document, "/counts/sent") + number(&document, "/counts/not_sent");
        assert_eq!(due, 300, "{document:#}");
        assert_eq!(number(&document, "/counts/answered"), number(&document, "/counts/sent"), "{document:#}");
        assert_eq!(number(&document, "/counts/connect_errors"), 0);
        let notes = document["notes"].to_string();
        assert!(notes.contains("--clients has ") && !notes.contains("were open"), "{notes}");
    }
}

#[test]
fn reports_are_checked_before_the_run_and_written_behind_it() {
    let reflect = Reflect::start(&[]);
    let directory = Directory::new();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    for (option, file) in [
        ("--report", path("none/x.html")),
        ("--report", directory.path().to_string_lossy().into_owned()),
        ("--hdr", path("none/x.hdr")),
    ] {
        let output = bench(&reflect.address, &["--duration", "1h", option, &file]);
        assert_eq!(output.status.code(), Some(1), "{option} {file}");
        assert!(stderr(&output).contains(&file) && output.stdout.is_empty(), "{}", stderr(&output));
    }
    for option in ["--report", "--hdr"] {
        let output =
            bench(&reflect.address, &["--duration", "300ms", "--rate", "100", "--json", option, "/dev/full"]);
        assert_eq!(output.status.code(), Some(1), "{option}");
        assert!(stderr(&output).contains("No space left"), "{}", stderr(&output));
        assert!(number(&document(&output), "/counts/answered") > 0, "the report is there");
    }
    let svg = path("plot.svg");
    let output = bench(&reflect.address, &["--duration", "200ms", "--rate", "100", "--report", &svg]);
    assert!(output.status.success(), "{}", stderr(&output));
    let picture = fs::read_to_string(&svg).expect("a picture");
    assert!(picture.starts_with("<svg xmlns=") && picture.contains("90 %"), "{picture}");
    let png = path("plot.png");
    let output = bench(&reflect.address, &["--duration", "200ms", "--rate", "100", "--report", &png]);
    assert!(output.status.success(), "{}", stderr(&output));
    let picture = fs::read(&png).expect("a picture");
    // Signature, header, width and height: twice the units of the SVG (PNG, 5.2 and 11.2.2).
    assert_eq!(picture.get(..24), Some(&b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x06\xb8\0\0\x03\0"[..]));
    let mut without = command(&["bench", &reflect.address, "--duration", "1h", "--report", &png]);
    let output = without.env("PATH", directory.path()).output().expect("dnslob bench starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("librsvg2-bin"), "{}", stderr(&output));
}

#[test]
fn exit_codes_survive_readers_that_are_gone() {
    let reflect = Reflect::start(&[]);
    let arguments =
        ["bench", &reflect.address, "--duration", "200ms", "--rate", "100", "--fail-if", "loss<1%"];
    let mut child = command(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dnslob bench starts");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().expect("its end").code(), Some(3));
    let nobody = format!("127.0.0.1:{}", port());
    let output = bench(&nobody, &["--duration", "200ms", "--timeout", "100ms", "--fail-if", "loss>1%"]);
    assert_eq!(output.status.code(), Some(1), "nothing was measured, whatever the conditions");
}

#[test]
fn a_closed_loop_is_never_late() {
    let reflect = Reflect::start(&[]);
    let document =
        document(&bench(&reflect.address, &["--outstanding", "2", "--duration", "200ms", "--json"]));
    assert!(number(&document, "/latency_ns/p50") > 0);
    assert!(["p50", "max", "mean"].iter().all(|of| document["lag_ns"][of].is_null()), "{document:#}");
}

#[test]
fn a_ramp_ends_with_its_time_and_at_a_dead_server() {
    let reflect = Reflect::start(&[]);
    let cut = document(&bench(&reflect.address, &["--ramp", "--duration", "3s", "--json"]));
    assert_eq!(
        cut["ramp"]["steps"].as_array().map(Vec::len),
        Some(1),
        "one whole second was judged: {cut:#}"
    );
    assert!(cut["ramp"]["end"].as_str().is_some_and(|end| end.ends_with("the time was over")), "{cut:#}");
    let output = bench(&format!("127.0.0.1:{}", port()), &["--ramp", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let dead = document(&output);
    assert_eq!(dead["ramp"]["steps"].as_array().map(Vec::len), Some(1), "{dead:#}");
    assert_eq!((&dead["ramp"]["rate"], number(&dead, "/counts/timed_out")), (&serde_json::Value::Null, 0));
}

#[test]
fn reading_names_can_be_interrupted() {
    let directory = Directory::new();
    let fifo = directory.path().join("names");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let names = fifo.to_string_lossy().into_owned();
    let mut program = Program::start(&mut command(&["bench", "127.0.0.1:9", "--names", &names]));
    // Once it is open for writing, the program reads it.
    let writer = fs::OpenOptions::new().write(true).open(&fifo).expect("a reader");
    program.signal(Signal::SIGINT);
    assert!(!program.wait().success(), "{}", program.transcript());
    drop(writer);
}

#[test]
fn an_address_has_one_server_unless_asked() {
    let reflect = Reflect::start(&["--shared"]);
    let second = run(&["reflect", "--listen", &reflect.address]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("something else answers there"), "{}", stderr(&second));
    let mut shared = Program::start(&mut command(&["reflect", "--shared", "--listen", &reflect.address]));
    wait_for(|| shared.transcript(), || shared.lines_with(0, "answers on").pop());
    shared.signal(Signal::SIGTERM);
    assert!(shared.wait().success(), "{}", shared.transcript());

    let authority = crate::pki::Authority::new();
    let pair = authority.issue("reflect", &["127.0.0.1"]);
    let [certificate, key] = [&pair.pem, &pair.key].map(|path| path.to_string_lossy().into_owned());
    let address = format!("127.0.0.1:{}", port());
    let twice =
        ["reflect", "--listen", &address, "--tls", &address, "--certificate", &certificate, "--key", &key];
    let output = run(&twice);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("TLS on {address}")), "{}", stderr(&output));
    let without = run(&["reflect", "--listen", &address, "--certificate", &certificate, "--key", &key]);
    assert_eq!(without.status.code(), Some(2), "a certificate for nothing: {}", stderr(&without));
    for tool in [&["reflect", "--cpus", "4000"][..], &["bench", "127.0.0.1:9", "--cpus", "4000"]] {
        let output = run(tool);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("CPU 4000"), "{}", stderr(&output));
    }
}

#[test]
fn a_client_that_asks_nothing_more_gets_its_answers() {
    const QUERY: &[u8] = b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
    for arguments in [&[][..], &["--latency", "fixed 50ms"]] {
        let reflect = Reflect::start(arguments);
        let mut client = TcpStream::connect(&reflect.address).expect("a connection");
        client.write_all(&QUERY.repeat(3)).expect("sent");
        client.shutdown(Shutdown::Write).expect("half closed");
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).expect("answers, and the end of the connection");
        // The question, and one record of 16 bytes.
        assert_eq!(answers.len(), 3 * (QUERY.len() + 16), "{arguments:?}");
        assert_eq!(reflect.end("answers NOERROR"), 3);
    }
}
