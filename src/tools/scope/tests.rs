//! Figures of traffic that is made here, against exact ones.

use std::net::SocketAddr;

use serde_json::Value;

use crate::base::rng::ShardRng;
use crate::config::scope::{self, ScopeOptions};
use crate::tools::capture::fixture::{CLIENT, SERVER, address, dns, frames, udp};
use crate::tools::capture::{Capture, CaptureOptions, Event, Message, Protocol, Step};
use crate::tools::report::findings::{self, Findings};
use crate::tools::scope::analysis::Analysis;
use crate::tools::scope::summary::Run;

const MS: u64 = 1_000_000;
const AT: u64 = 1_700_000_000_000_000_000;

fn options(arguments: &[&str]) -> ScopeOptions {
    let command = scope::command().try_get_matches_from(["scope", "-"].iter().chain(arguments));
    scope::options(&command.expect("options"))
}

struct Traffic {
    options: ScopeOptions,
    analysis: Analysis,
}

impl Traffic {
    fn new(arguments: &[&str]) -> Self {
        let options = options(arguments);
        let analysis = Analysis::new(&options.only, options.timeout.0, 1, None);
        Self { options, analysis }
    }

    fn message(&mut self, at: u64, client: SocketAddr, payload: &[u8]) {
        self.message_of(at, None, client, address(SERVER), payload);
    }

    fn message_of(
        &mut self,
        at: u64,
        asked: Option<u64>,
        client: SocketAddr,
        server: SocketAddr,
        payload: &[u8],
    ) {
        self.analysis.event(&Event::Message(Message {
            at: AT + at,
            asked: asked.map(|asked| AT + asked),
            client,
            server,
            protocol: Protocol::Udp,
            connection: None,
            is_response: payload[2] & 0x80 != 0,
            payload,
        }));
    }

    fn query(&mut self, at: u64, id: u16, label: &str) {
        self.message(at, address(CLIENT), &dns(id, false, label));
    }

    fn response(&mut self, at: u64, id: u16, label: &str, rcode: u8) {
        let mut payload = dns(id, true, label);
        payload[3] |= rcode;
        self.message(at, address(CLIENT), &payload);
    }

    fn end(mut self) -> (Findings, Value) {
        self.analysis.end();
        let capture = Capture::from_bytes(Vec::new(), &CaptureOptions::default());
        let timeout = self.options.timeout;
        let run =
            Run { capture: &capture, analysis: self.analysis, errors: &[], interrupted: false, timeout };
        let findings = run.findings(&self.options).0;
        let document = serde_json::from_str(&findings::forms(&findings)[1]).expect("JSON");
        (findings, document)
    }
}

fn rows(document: &Value, table: &str) -> Vec<(String, u64)> {
    let rows = document["tables"][table]["rows"].as_array().expect("rows");
    let row = |row: &Value| {
        (row["label"].as_str().expect("a label").to_owned(), row["count"].as_u64().expect("a number"))
    };
    rows.iter().map(row).collect()
}

#[test]
fn what_is_overdue_at_the_end_of_a_look_is_unanswered() {
    let look = |until: Option<u64>| {
        let mut traffic = Traffic::new(&[]);
        traffic.query(0, 1, "a");
        traffic.response(10 * MS, 1, "a", 0);
        traffic.query(1_000 * MS, 2, "b");
        if let Some(until) = until {
            traffic.analysis.end_of_look(AT + until);
        }
        let (_, document) = traffic.end();
        ["unanswered", "sent"].map(|name| document["counts"][name].as_u64().expect("a number"))
    };
    assert_eq!(look(None), [0, 2], "a capture may have ended before");
    assert_eq!(look(Some(1_500 * MS)), [0, 2]);
    assert_eq!(look(Some(15_000 * MS)), [1, 2]);
    let mut silence = Traffic::new(&[]);
    silence.analysis.end_of_look(AT);
    assert!(!silence.analysis.seconds.have_begun());
}

#[test]
fn percentiles_are_those_of_the_sorted_values() {
    let (mut traffic, mut rng) = (Traffic::new(&[]), ShardRng::from_seed(4));
    let mut exact = Vec::new();
    for n in 0..20_000_u64 {
        let (at, id) = (n * 500_000, n as u16);
        // From 20 us to 320 ms, as latencies are spread; each query is answered before the next one.
        let latency = (20_000_u64 << rng.below(14)) + u64::from(rng.below(10_000));
        let label = format!("n{n}");
        traffic.query(at, id, &label);
        traffic.response(at + latency, id, &label, 0);
        exact.push(latency);
    }
    exact.sort_unstable();
    let (findings, document) = traffic.end();
    for percentile in [0.0_f64, 1.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0] {
        let rank = (percentile / 100.0 * exact.len() as f64).ceil().max(1.0) as usize;
        let (exact, told) = (exact[rank - 1], findings.latency.value_at_quantile(percentile / 100.0));
        // Three digits: within a thousandth, or the least unit of the histogram.
        assert!(
            (exact - 512..=exact + exact / 1_000 + 512).contains(&told),
            "p{percentile}: {told}, not {exact}"
        );
    }
    // The steps of the distribution have all of them, each where it belongs.
    let steps = document["distribution"].as_array().expect("steps");
    let of = |step: &Value, member: &str| step[member].as_u64().expect("a number");
    assert_eq!(steps.iter().map(|step| of(step, "count")).sum::<u64>(), 20_000);
    for step in steps {
        let below = of(step, "below_ns");
        let true_total = exact.partition_point(|ns| *ns < below) as u64;
        // Those within a unit of the bound may be on either side.
        assert!(of(step, "total").abs_diff(true_total) <= 20, "{below}: {step} {true_total}");
    }
    assert_eq!(document["counts"]["answered"], 20_000);
    assert_eq!(document["rows"].as_array().map(Vec::len), Some(11));
}

#[test]
fn an_error_without_a_question_is_an_answer() {
    let mut traffic = Traffic::new(&[]);
    traffic.query(0, 1, "refused");
    traffic.query(MS, 1, "the-last-one");
    traffic.message(2 * MS, address(CLIENT), &[0, 1, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    // Without an error it is nothing, nor is one with an id of nobody.
    traffic.message(3 * MS, address(CLIENT), &[0, 1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    traffic.message(4 * MS, address(CLIENT), &[0, 9, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (findings, document) = traffic.end();
    let counts = &document["counts"];
    assert_eq!(
        (&counts["answered"], &counts["unmatched"], &counts["open"]),
        (&1.into(), &2.into(), &1.into())
    );
    assert!(findings.latency.max() < 2 * MS, "it is the later query's");
}

#[test]
fn response_codes_have_their_high_bits() {
    let mut traffic = Traffic::new(&[]);
    traffic.query(0, 1, "version");
    let mut answer = dns(1, true, "version");
    answer[11] = 1;
    answer.extend(b"\0\0\x29\x04\xd0\x01\0\0\0\0\0");
    traffic.message(MS, address(CLIENT), &answer);
    let (_, document) = traffic.end();
    assert_eq!(rows(&document, "rcodes"), [("BADVERS".to_owned(), 1)]);
}

#[test]
fn every_query_has_one_end() {
    let mut traffic = Traffic::new(&["--timeout", "100ms"]);
    traffic.query(0, 1, "answered");
    traffic.response(5 * MS, 1, "answered", 0);
    traffic.response(6 * MS, 1, "answered", 0);
    traffic.query(10 * MS, 2, "again");
    traffic.query(40 * MS, 2, "AGAIN");
    traffic.response(50 * MS, 2, "Again", 2);
    traffic.query(60 * MS, 3, "late");
    traffic.response(190 * MS, 3, "late", 3);
    traffic.query(200 * MS, 4, "never");
    traffic.query(310 * MS, 5, "open");
    traffic.response(320 * MS, 6, "unknown", 2);
    traffic.response(321 * MS, 5, "another", 5);
    // A clock that steps back within the time-out.
    traffic.query(340 * MS, 7, "backwards");
    traffic.response(339 * MS, 7, "backwards", 0);
    traffic.message(350 * MS, address(CLIENT), &[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (findings, document) = traffic.end();
    let counts = &document["counts"];
    // Rows have the same under the same names.
    for name in ["queries", "sent", "answered", "unanswered"] {
        let rows = document["rows"].as_array().expect("rows");
        let sum: u64 = rows.iter().filter_map(|row| row[name].as_u64()).sum();
        assert_eq!(counts[name], sum, "{name}: {rows:#?}");
    }
    for (name, n) in [
        ("queries", 8),
        ("responses", 7),
        ("sent", 6),
        ("answered", 3),
        ("unanswered", 2),
        ("open", 1),
        ("retransmitted", 1),
        ("late", 1),
        ("duplicate", 1),
        ("unmatched", 2),
        ("backwards", 1),
        ("without_question", 1),
        ("udp", 8),
    ] {
        assert_eq!(counts[name], n, "{name}: {counts:#}");
    }
    assert_eq!(findings.latency.len(), 2);
    assert!((39_900_000..40_100_000).contains(&findings.latency.max()), "from the first of two queries");
    let codes = [("NOERROR", 3), ("SERVFAIL", 2), ("NXDOMAIN", 1), ("REFUSED", 1)];
    assert_eq!(rows(&document, "rcodes"), codes.map(|(name, n)| (name.to_owned(), n)));
    assert_eq!(rows(&document, "unanswered_names").len(), 2);
    assert_eq!(rows(&document, "servfail_names").len(), 2);
    assert_eq!(rows(&document, "nxdomain_names"), [("late.example".to_owned(), 1)]);
    assert_eq!(rows(&document, "clients"), [("192.0.2.7".to_owned(), 7)]);
    assert_eq!(rows(&document, "domains").len(), 6);
    assert_eq!(rows(&document, "retransmitting_clients"), [("192.0.2.7".to_owned(), 1)]);
}

#[test]
fn conditions_choose_messages() {
    let ends = |arguments: &[&str]| {
        let mut traffic = Traffic::new(arguments);
        for (n, client) in (0..).zip(["192.0.2.7:1", "192.0.2.7:2", "[2001:db8::7]:3"]) {
            let mut query = dns(n, false, &format!("n{n}"));
            query[2] = if n == 2 { 0 } else { 1 };
            traffic.message(u64::from(n) * MS, address(client), &query);
            query[2] |= 0x80;
            traffic.message(u64::from(n) * MS + MS, address(client), &query);
        }
        let (_, document) = traffic.end();
        (document["counts"]["answered"].as_u64(), document["counts"]["filtered"].as_u64())
    };
    for (arguments, answered) in [
        (&[][..], 3),
        (&["--client", "192.0.2.0/24"], 2),
        (&["--client", "192.0.2.0/24", "--client", "2001:db8::/32"], 3),
        (&["--name", "example"], 3),
        (&["--name", "N1.example."], 1),
        (&["--name", "1.example"], 0),
        (&["--name", "n1.example", "--name", "n2.example"], 2),
        (&["--type", "A"], 3),
        (&["--type", "AAAA"], 0),
        (&["--rd", "yes"], 2),
        (&["--rd", "no", "--client", "192.0.2.0/24"], 0),
    ] {
        assert_eq!(ends(arguments), (Some(answered), Some(6 - 2 * answered)), "{arguments:?}");
    }
}

#[test]
fn reports_say_the_same_in_each_form() {
    let mut traffic = Traffic::new(&["--fail-if", "servfail>=50%,loss>0,p99<1s"]);
    for n in 0..10 {
        traffic.query(u64::from(n) * 300 * MS, n, "<b>");
        traffic.response(u64::from(n) * 300 * MS + 2 * MS, n, "<b>", if n < 5 { 2 } else { 0 });
    }
    let (findings, document) = traffic.end();
    assert_eq!(findings.failed, ["servfail>=50%: 50.0000%", "p99<1s: 2.000ms"]);
    let [text, _, page] = findings::forms(&findings);
    for part in [
        "capture     standard input",
        "queries     10, 3.3 per second: udp 10",
        "answered    10 (100.000 %)",
        "SERVFAIL: names (5)",
        "<b>.example",
        "failed: servfail>=50%",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(page.contains("&lt;b&gt;.example") && !page.contains("<b>.example"), "escaped");
    assert!(page.contains("<svg") && page.contains("SERVFAIL: names (5)") && !page.contains("NaN"));
    for foreign in ["http://", "https://", "<script", "<img", "<link", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(
        (&document["target"], &document["rows"][2]["answered"]),
        (&"standard input".into(), &3.into())
    );
}

/// The tops of the page and its plot are of the same queries.
#[test]
fn queries_that_came_again_are_in_every_rate() {
    let mut traffic = Traffic::new(&[]);
    // 200 queries in 9.95 s, every second one a repetition 50 ms behind the first.
    for n in 0..200_u16 {
        traffic.query(u64::from(n) * 50 * MS, n / 2, &format!("n{}", n / 2));
    }
    let (findings, document) = traffic.end();
    assert_eq!((findings.cards[0].0.as_str(), findings.cards[0].1), ("20", "queries per second"));
    assert_eq!((&document["rows"][3]["queries"], &document["rows"][3]["sent"]), (&20.into(), &10.into()));
    let [_, _, page] = findings::forms(&findings);
    let plot = page.split("Queries per second over time</title>").nth(1).expect("a plot");
    assert!(plot.contains(">20</text>") && !plot.contains(">30</text>"), "its axis ends there");
}

#[test]
fn what_does_not_happen_has_the_rate_of_nothing() {
    let mut traffic = Traffic::new(&[]);
    (0..3).for_each(|n| traffic.query(u64::from(n) * 1_000 * MS, n, "www"));
    let (findings, _) = traffic.end();
    let [text, ..] = findings::forms(&findings);
    assert!(
        text.contains("queries     3, 1.0 per second")
            && text.contains("answered    0 (0.000 %), 0 per second")
    );
}

#[test]
fn one_query_has_no_rate() {
    let mut traffic = Traffic::new(&["--fail-if", "rate>1"]);
    traffic.query(0, 1, "www");
    traffic.response(20_000, 1, "www", 0);
    let (findings, _) = traffic.end();
    assert_eq!((findings.cards[0].0.as_str(), findings.failed.len()), ("-", 0));
}

/// Two servers are asked at once by one socket with one id; answers of either are its own.
#[test]
fn the_server_tells_queries_apart() {
    let mut traffic = Traffic::new(&[]);
    let (client, servers) = (address(CLIENT), ["198.51.100.1:53", "198.51.100.2:53"].map(address));
    for server in servers {
        traffic.message_of(0, None, client, server, &dns(5, false, "www"));
    }
    for (server, at) in servers.into_iter().zip([9, 2]) {
        traffic.message_of(at * MS, None, client, server, &dns(5, true, "www"));
    }
    // Who does not say the server is understood, too.
    let unknown = address("0.0.0.0:0");
    traffic.message_of(20 * MS, None, client, unknown, &dns(6, false, "www"));
    traffic.message_of(21 * MS, None, client, servers[0], &dns(6, true, "www"));
    let (findings, document) = traffic.end();
    let counts = &document["counts"];
    for (name, n) in [("sent", 3), ("answered", 3), ("retransmitted", 0), ("duplicate", 0), ("twice", 0)] {
        assert_eq!(counts[name], n, "{name}: {counts:#}");
    }
    assert!(findings.latency.max() >= 9 * MS - 10_000 && findings.latency.min() <= MS);
}

#[test]
fn answers_that_stand_before_their_queries_are_theirs() {
    let mut traffic = Traffic::new(&[]);
    traffic.query(0, 9, "first");
    traffic.response(3 * MS, 1, "www", 2);
    traffic.query(2 * MS, 1, "www");
    // Captured before it was asked for: it is of another one.
    traffic.response(10 * MS, 2, "other", 0);
    traffic.query(11 * MS, 2, "other");
    let (findings, document) = traffic.end();
    let counts = &document["counts"];
    for (name, n) in [("sent", 3), ("answered", 1), ("unmatched", 1), ("open", 2), ("backwards", 0)] {
        assert_eq!(counts[name], n, "{name}: {counts:#}");
    }
    assert_eq!((findings.latency.len(), findings.latency.max() / 100_000), (1, 10));
}

/// Name servers are often told to log answers alone: each has the time of its query.
#[test]
fn answers_of_dnstap_tell_of_their_queries() {
    let mut traffic = Traffic::new(&["--timeout", "100ms"]);
    let (client, server) = (address(CLIENT), address(SERVER));
    let mut answer = |at: u64, asked: u64, id: u16| {
        traffic.message_of(at * MS, Some(asked * MS), client, server, &dns(id, true, "www"));
    };
    answer(5, 3, 1);
    answer(6, 2, 2);
    answer(7, 2, 2);
    answer(500, 300, 3);
    // The query of one was written behind its answer.
    traffic.query(3 * MS, 1, "www");
    let (findings, document) = traffic.end();
    let counts = &document["counts"];
    for (name, n) in [
        ("queries", 2),
        ("sent", 2),
        ("answered", 2),
        ("told", 1),
        ("duplicate", 1),
        ("late", 1),
        ("unmatched", 0),
        ("udp", 2),
    ] {
        assert_eq!(counts[name], n, "{name}: {counts:#}");
    }
    assert_eq!(findings.latency.len(), 2);
    assert_eq!(rows(&document, "names"), [("www.example".to_owned(), 2)]);
    assert_eq!(rows(&document, "types"), [("A".to_owned(), 2)]);
    assert!(findings.facts.iter().any(|(name, text)| *name == "told" && text.starts_with("1 of them")));
}

#[test]
fn packets_that_are_captured_twice_are_noted() {
    for (copies, is_noted) in [(2, true), (1, false)] {
        let mut traffic = Traffic::new(&[]);
        for n in 0..10_u16 {
            for copy in 0..copies {
                traffic.query(u64::from(n) * 10 * MS + copy * 20_000, n, "www");
            }
        }
        let (findings, document) = traffic.end();
        assert_eq!(document["counts"]["twice"], (copies - 1) * 10);
        assert_eq!(findings.facts.iter().any(|(name, _)| *name == "twice"), is_noted);
    }
}

#[test]
fn a_capture_without_messages_has_a_report() {
    let (findings, _) = Traffic::new(&[]).end();
    let [text, _, page] = findings::forms(&findings);
    for part in ["queries     0, - per second", "begun       -\n"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(page.contains("No plot") && page.contains("<dt>begun</dt><dd>-</dd>"));
}

#[test]
fn more_queries_than_can_be_followed_are_said() {
    let mut traffic = Traffic::new(&[]);
    let query = dns(0, false, "www");
    for n in 0..600_000_u32 {
        let client = SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 1));
        traffic.message(u64::from(n), client, &query);
    }
    let (_, document) = traffic.end();
    let of = |name: &str| document["counts"][name].as_u64().expect("a number");
    assert_eq!(["sent", "forgotten", "open"].map(of), [600_000, 600_000 - (1 << 19), 1 << 19]);
}

#[test]
fn a_capture_is_followed_to_its_end() {
    let packets: Vec<_> = (0..3_u16)
        .flat_map(|n| {
            let at = AT + u64::from(n) * 10 * MS;
            let (query, response) = (dns(n, false, "www"), dns(n, true, "www"));
            [(at, udp(CLIENT, SERVER, &query)), (at + MS, udp(SERVER, CLIENT, &response))]
        })
        .collect();
    let mut capture = Capture::from_bytes(frames(&packets), &CaptureOptions::default());
    let mut traffic = Traffic::new(&[]);
    while capture.step(&mut |event| traffic.analysis.event(&event)).expect("good") != Step::End {}
    let (findings, document) = traffic.end();
    assert_eq!((document["counts"]["answered"].as_u64(), findings.seconds), (Some(3), 0.021));
}
