//! `dnslob reflect` and `dnslob bench` against each other: every query is accounted for, and what the
//! server does wrong is what the client counts.

use std::fs;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::instance::binary;
use crate::pki::Authority;
use crate::place::{Directory, port, wait_for};
use crate::process::Program;

/// A running `dnslob reflect`.
pub(crate) struct Reflect {
    pub(crate) program: Program,
    pub(crate) address: String,
}

impl Reflect {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", port());
        let mut command = Command::new(binary());
        command.args(["reflect", "--listen", &address]).args(arguments);
        let mut program = Program::start(&mut command);
        wait_for(
            || "dnslob reflect".to_owned(),
            || {
                assert!(program.ended().is_none(), "{}", program.transcript());
                program.lines_with(0, "answers on").pop()
            },
        );
        Self { program, address }
    }

    /// Ends it, and returns what it says it has done under a name.
    pub(crate) fn end(mut self, name: &str) -> u64 {
        self.program.signal(Signal::SIGINT);
        assert!(self.program.wait().success(), "{}", self.program.transcript());
        let line = self.program.lines_with(0, name).pop();
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().replace(',', "").parse().unwrap())
    }
}

pub(crate) fn bench(address: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["bench", address]).args(arguments).stdin(Stdio::null());
    command.output().expect("dnslob bench runs")
}

/// Runs it and returns its document.
pub(crate) fn measured(address: &str, arguments: &[&str]) -> serde_json::Value {
    let output = bench(address, &[&["--json"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{said}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

/// Returns a number of a document.
pub(crate) fn number(document: &serde_json::Value, pointer: &str) -> u64 {
    document.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{pointer}"))
}

/// Asserts that every query has one end, and that nothing came that nobody asked for.
fn assert_accounted(document: &serde_json::Value) {
    let [sent, answered, lost] = ["/counts/sent", "/counts/answered", "/lost"].map(|p| number(document, p));
    assert_eq!(sent, answered + lost, "{document:#}");
    assert_eq!(number(document, "/wrong"), 0, "{document:#}");
    let codes = document["rcodes"].as_object().expect("codes");
    assert_eq!(codes.values().filter_map(serde_json::Value::as_u64).sum::<u64>(), answered);
    let seconds = document["seconds"].as_array().expect("seconds");
    let of_seconds: u64 = seconds.iter().map(|s| number(s, "/sent")).sum();
    assert_eq!(of_seconds, sent, "the seconds are the whole");
}

#[test]
fn every_query_is_accounted_for_over_each_transport() {
    let authority = Authority::new();
    let pair = authority.issue("reflect", &["127.0.0.1"]);
    let tls = format!("127.0.0.1:{}", port());
    let [certificate, key] = [&pair.pem, &pair.key].map(|path| path.to_string_lossy().into_owned());
    let reflect = Reflect::start(&[
        "--tls",
        &tls,
        "--certificate",
        &certificate,
        "--key",
        &key,
        "--records",
        "1..4",
        "--ttl",
        "30..300",
    ]);
    let mut asked = 0;
    let authorities = authority.pem.to_string_lossy().into_owned();
    for (address, arguments) in [
        (&reflect.address, &["--rate", "2000"][..]),
        (&reflect.address, &["--outstanding", "20", "--random", "--clients", "127.1.0.0/29"]),
        (
            &reflect.address,
            &["--outstanding", "20", "--cookie", "--dnssec", "--padding", "--hit-rate", "0.5"],
        ),
        (&reflect.address, &["--rate", "1000", "--transport", "tcp", "--type", "AAAA"]),
        (
            &reflect.address,
            &["--outstanding", "50", "--transport", "tcp", "--connections", "3", "--threads", "2"],
        ),
        (&tls, &["--rate", "500", "--transport", "tls", "--ca", &authorities]),
    ] {
        let document = measured(address, &[&["--duration", "500ms", "--verify"], arguments].concat());
        assert_accounted(&document);
        // A loaded machine may be late, and says so.
        if let Some(rate) = document["rate_wanted"].as_u64() {
            let due = number(&document, "/counts/sent") + number(&document, "/counts/not_sent");
            assert!(due.abs_diff(rate / 2) <= 1, "{due} queries in half a second at {rate}");
        }
        asked += number(&document, "/counts/answered");
    }
    let other = Authority::new();
    let others = other.pem.to_string_lossy().into_owned();
    let refused = bench(&tls, &["--transport", "tls", "--ca", &others, "--duration", "200ms"]);
    assert_eq!(refused.status.code(), Some(1), "no certificate of that authority");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("no answer from") && said.contains("certificate"), "{said}");
    assert_eq!(reflect.end("answers NOERROR"), asked, "both ends count the same");
}

#[test]
fn what_the_server_does_wrong_is_counted() {
    let reflect = Reflect::start(&[
        "--loss",
        "10%",
        "--truncate",
        "0.1",
        "--rcode",
        "servfail=0.2,nxdomain=0.1",
        "--latency",
        "uniform 1ms..5ms",
        "--seed",
        "7",
    ]);
    let arguments = ["--rate", "4000", "--duration", "1s", "--timeout", "500ms", "--seed", "7"];
    let document = measured(&reflect.address, &arguments);
    assert_accounted(&document);
    let [sent, answered] = ["/counts/sent", "/counts/answered"].map(|p| number(&document, p) as f64);
    for (pointer, of, want) in [
        ("/lost", sent, 0.1),
        ("/counts/truncated", answered, 0.1),
        ("/rcodes/SERVFAIL", answered, 0.2),
        ("/rcodes/NXDOMAIN", answered, 0.1),
    ] {
        let share = number(&document, pointer) as f64 / of;
        assert!((share - want).abs() < 0.03, "{pointer}: {share}, not {want}");
    }
    assert!(number(&document, "/latency_ns/p50") >= 1_000_000, "none is faster than the delay");
    let dropped = number(&document, "/counts/timed_out");
    assert_eq!(reflect.end("left unanswered"), dropped, "no other query was lost");
}

#[test]
fn conditions_decide_on_the_exit_code_and_reports_are_files() {
    let reflect = Reflect::start(&["--latency", "fixed 2ms"]);
    let directory = Directory::new();
    let [page, log] = ["report.html", "run.hdr"].map(|name| directory.path().join(name));
    let [page_name, log_name] = [&page, &log].map(|path| path.to_string_lossy().into_owned());
    let common = ["--outstanding", "10", "--duration", "300ms", "--report", &page_name, "--hdr", &log_name];
    for (conditions, code) in [("p50<1ms,loss>50%", 0), ("p50>=2ms", 3), ("servfail>1%,rate<1000000000", 3)] {
        let output = bench(&reflect.address, &[&common[..], &["--fail-if", conditions]].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{conditions}: {said}");
        assert_eq!(said.contains("failed: "), code != 0, "{said}");
        assert!(said.contains("machine ") && said.contains("command     dnslob bench"), "{said}");
    }
    let page = fs::read_to_string(page).expect("a page");
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg") && !page.contains("<script"));
    let log = fs::read_to_string(log).expect("a log");
    assert!(log.contains("#[Histogram log format version 1.3]") && log.contains(",HISTFAAA"), "{log}");
    let nobody = bench(&format!("127.0.0.1:{}", port()), &["--duration", "200ms", "--timeout", "100ms"]);
    assert_eq!(nobody.status.code(), Some(1), "no answer at all");
}

#[test]
fn an_interrupted_run_reports_what_was_done() {
    let reflect = Reflect::start(&[]);
    // A session that ends sends the second, unless its programs are to outlive it.
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let hangs_up = u64::from_str_radix(ignored.trim(), 16).expect("a number") & 1 == 0;
    for signal in [Some(Signal::SIGINT), hangs_up.then_some(Signal::SIGHUP)].into_iter().flatten() {
        let mut command = Command::new(binary());
        command.args(["bench", &reflect.address, "--rate", "1000", "--duration", "1h"]);
        let mut program = Program::start(&mut command);
        wait_for(|| "a second of the run".to_owned(), || program.lines_with(0, "answered").pop());
        program.signal(signal);
        assert!(program.wait().success(), "{signal}: {}", program.transcript());
        let transcript = program.transcript();
        assert!(transcript.contains("interrupted: the report is of what was done"), "{signal}: {transcript}");
        assert!(transcript.contains("per second of 1,000 wanted"), "{signal}: {transcript}");
    }
}

/// A server that does nothing for a while: the latency from the intended time shows it.
#[test]
fn a_stalled_server_cannot_hide() {
    let reflect = Reflect::start(&[]);
    let mut command = Command::new(binary());
    command.args([
        "bench",
        &reflect.address,
        "--rate",
        "1000",
        "--duration",
        "3s",
        "--timeout",
        "10s",
        "--json",
    ]);
    command.args(["--transport", "tcp", "--connections", "1"]);
    let directory = Directory::new();
    let report = directory.path().join("report.json");
    let stdout = fs::File::create(&report).expect("a file").into();
    let mut program = Program::start_to(&mut command, stdout, Stdio::piped());
    wait_for(|| "a second of the run".to_owned(), || program.lines_with(0, "   1 s").pop());
    reflect.program.signal(Signal::SIGSTOP);
    wait_for(|| "a second of silence".to_owned(), || program.lines_with(0, "   2 s").pop());
    reflect.program.signal(Signal::SIGCONT);
    assert!(program.wait().success(), "{}", program.transcript());
    let document = serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    assert_accounted(&document);
    assert_eq!(number(&document, "/lost"), 0, "all were answered in the end");
    assert!(number(&document, "/latency_ns/p99") > 300_000_000, "{document:#}");
}
