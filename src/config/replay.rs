//! The command line of `dnslob replay`: which queries of a capture, when, to whom, and what of the
//! answers is compared.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};

use crate::base::prefix::{Prefix, PrefixSet};
use crate::base::time::TickDelta;
use crate::compare::Aspects;
use crate::config::bench::{self, BenchTls, RATE_MAX, ReportOptions, report_arguments, span};
use crate::config::criteria::Tool;
use crate::config::reflect::{flag, option, parser, threads};
use crate::config::value::{self, DNS_PORT, DOT_PORT};

/// Most UDP sockets, and most connections, of all threads.
pub const SOCKETS_MAX: u32 = 1_000_000;
/// UDP sockets where nothing is said.
const SOCKETS: u32 = 1_024;
/// The same for `--max`: batches by one system call are larger when they share a socket.
const SOCKETS_FAST: u32 = 16;
/// Longest wait for an answer.
const TIMEOUT_MAX: TickDelta = TickDelta::from_ms(60_000);
/// Longest idle time of a connection.
const IDLE_MAX: TickDelta = TickDelta::from_ms(3_600_000);

/// The options of `dnslob replay`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayOptions {
    /// The capture; `-` for standard input.
    pub capture: PathBuf,
    /// The ports of servers in it.
    pub ports: Vec<u16>,
    /// The server.
    pub target: SocketAddr,
    /// A second server, which is asked the same.
    pub second: Option<SocketAddr>,
    /// How they are asked.
    pub carrier: Carrier,
    /// TLS.
    pub tls: BenchTls,
    /// When they are asked.
    pub timing: Timing,
    /// The most queries.
    pub count: Option<u64>,
    /// Which queries.
    pub filter: Filter,
    /// Threads, each with its own clients.
    pub threads: u16,
    /// Their CPUs; empty for a choice of the tool's.
    pub cpus: Vec<u16>,
    /// Most UDP sockets towards a server, of all threads; clients have their own up to this.
    pub sockets: u32,
    /// Most connections at a time towards a server, of all threads; by default as many as there may be,
    /// up to 10,000.
    pub connections: Option<u32>,
    /// Whether datagrams come from the recorded addresses.
    pub spoof: bool,
    /// How long a connection stays open without a query whose end was not recorded.
    pub idle: TickDelta,
    /// The bits of the client's address in a client subnet option, IPv4 and IPv6.
    pub ecs: Option<(u8, u8)>,
    /// Whether a PROXY header has the client's address.
    pub proxy: bool,
    /// What of the answers is compared.
    pub aspects: Aspects,
    /// Whether the answers of the capture are left out of it.
    pub ignore_recorded: bool,
    /// How long an answer may take.
    pub timeout: TickDelta,
    /// What is said at the end.
    pub report: ReportOptions,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// As the query was: by a datagram or over TCP, which stands for TLS, HTTPS and QUIC, too.
    Recorded,
    /// UDP.
    Udp,
    /// TCP (RFC 7766).
    Tcp,
    /// TLS (RFC 7858).
    Tls,
}

/// When queries are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Timing {
    /// As recorded, so many times as fast.
    Speed(f64),
    /// In the recorded order, evenly, so many a second.
    Rate(u32),
    /// As fast as possible.
    Max,
}

/// Which queries are sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only those with RD, or without.
    pub rd: Option<bool>,
    /// Only those for these names and names below, in wire format and lower case.
    pub names: Vec<Vec<u8>>,
    /// Only those of these types.
    pub types: Vec<u16>,
    /// Only those of these clients.
    pub clients: Option<PrefixSet>,
}

impl Carrier {
    /// Returns the word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Recorded => "udp and tcp as recorded",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Reads the options of the command line.
pub fn options(m: &ArgMatches) -> ReplayOptions {
    let carrier = match m.get_one::<String>("transport").map(String::as_str) {
        Some("udp") => Carrier::Udp,
        Some("tcp") => Carrier::Tcp,
        Some("tls") => Carrier::Tls,
        _ => Carrier::Recorded,
    };
    let port = if carrier == Carrier::Tls { DOT_PORT } else { DNS_PORT };
    let address = |id: &str| m.get_one::<String>(id).and_then(|t| value::address_of(t, port).ok());
    let timing = match (m.get_one::<u32>("rate"), m.get_one::<f64>("speed")) {
        (Some(rate), _) => Timing::Rate(*rate),
        (None, Some(speed)) => Timing::Speed(*speed),
        (None, None) if m.get_flag("max") => Timing::Max,
        (None, None) => Timing::Speed(1.0),
    };
    let sockets = if timing == Timing::Max { SOCKETS_FAST } else { SOCKETS };
    let clients: Vec<Prefix> = m.get_many("client").unwrap_or_default().copied().collect();
    ReplayOptions {
        capture: m.get_one::<PathBuf>("capture").cloned().unwrap_or_default(),
        ports: m.get_many("port").map_or_else(|| vec![DNS_PORT], |ports| ports.copied().collect()),
        target: address("target").unwrap_or(SocketAddr::from(([127, 0, 0, 1], port))),
        second: address("second"),
        carrier,
        tls: BenchTls {
            authorities: m.get_one::<PathBuf>("ca").cloned(),
            name: m.get_one::<String>("tls-name").cloned(),
        },
        timing,
        count: m.get_one("count").copied(),
        filter: Filter {
            rd: m.get_one::<String>("rd").map(|word| word == "yes"),
            names: m.get_many::<Vec<u8>>("name").unwrap_or_default().cloned().collect(),
            types: m.get_many("type").unwrap_or_default().copied().collect(),
            clients: (!clients.is_empty()).then(|| clients.into_iter().collect()),
        },
        threads: m.get_one("threads").copied().unwrap_or(1),
        cpus: m.get_one::<Vec<u16>>("cpus").cloned().unwrap_or_default(),
        sockets: m.get_one("sockets").copied().unwrap_or(sockets),
        connections: m.get_one("connections").copied(),
        spoof: m.get_flag("spoof-sources"),
        idle: m.get_one("idle").copied().unwrap_or(TickDelta::from_ms(10_000)),
        ecs: m.get_one::<(u8, u8)>("ecs-stamp").copied(),
        proxy: m.get_flag("proxy"),
        aspects: m.get_one::<Aspects>("compare").copied().unwrap_or_default(),
        ignore_recorded: m.get_flag("ignore-recorded"),
        timeout: m.get_one("timeout").copied().unwrap_or(TickDelta::from_ms(2_000)),
        report: bench::report(m),
    }
}

/// Reads how many times as fast a capture is replayed.
fn speed(text: &str) -> Result<f64, &'static str> {
    let digits = text.strip_suffix('x').unwrap_or(text);
    let number = digits.parse().ok().filter(|n| (0.1..=1_000.0).contains(n));
    number.ok_or("a number from 0.1 to 1000")
}

/// Reads the bits of an address that a client subnet option has.
fn bits(text: &str) -> Result<(u8, u8), &'static str> {
    let bits = text.split_once(',').and_then(|(v4, v6)| Some((v4.parse().ok()?, v6.parse().ok()?)));
    bits.filter(|(v4, v6)| *v4 <= 32 && *v6 <= 128).ok_or("bits of IPv4 and IPv6, as 24,56")
}

/// Reads a name.
fn name(text: &str) -> Result<Vec<u8>, &'static str> {
    value::wire_name(text).map_err(|_| "a name, as example.com")
}

fn target(id: &'static str, value_name: &'static str, help: &'static str) -> Arg {
    // The default port depends on the transport.
    let parser = |t: &str| value::address(t).map(|_| t.to_owned()).map_err(|e| format!("expected {e}"));
    Arg::new(id).value_name(value_name).value_parser(parser).help(help)
}

fn word(id: &'static str, words: &'static str, choices: &'static [&'static str], help: &'static str) -> Arg {
    Arg::new(id)
        .long(id)
        .value_name(words)
        .value_parser(choices.to_vec())
        .hide_possible_values(true)
        .help(help)
}

fn list(arg: Arg) -> Arg {
    arg.value_delimiter(',')
}

fn when() -> [Arg; 3] {
    [
        option("speed", "N", "Send as recorded, N times as fast: 0.1 to 1000 [default: 1]", parser(speed)),
        option(
            "rate",
            "QPS",
            "Send so many queries per second, evenly, in the recorded order",
            value_parser!(u32).range(1..=RATE_MAX.into()).into(),
        ),
        flag("max", "Send as fast as this machine can"),
    ]
}

fn which() -> [Arg; 6] {
    [
        list(option("port", "PORT,...", "The ports of servers in the capture [default: 53]", {
            value_parser!(u16).range(1..).into()
        })),
        option("count", "N", "Send the first N of the queries only", value_parser!(u64).range(1..).into()),
        word("rd", "yes|no", &["yes", "no"], "Only queries with RD, or only those without"),
        list(option("name", "NAME,...", "Only queries for these names and those below", parser(name))),
        list(option("type", "TYPE,...", "Only queries of these types", parser(bench::qtype))),
        list(option("client", "NET,...", "Only queries of clients in these networks", {
            value_parser!(Prefix).into()
        })),
    ]
}

fn how() -> [Arg; 10] {
    let sockets = || value_parser!(u32).range(1..=SOCKETS_MAX.into());
    [
        word(
            "transport",
            "udp|tcp|tls",
            &["udp", "tcp", "tls"],
            "How to ask [default: as recorded, UDP or TCP]",
        ),
        option(
            "sockets",
            "N",
            "A UDP socket for each client, N at most; then clients share them [default: 1024, or 16 for --max]",
            sockets().into(),
        ),
        option(
            "connections",
            "N",
            "Connections at a time at most; a client beyond that takes the one that has been idle for longest \
             [default: 10000, if there may be so many]",
            sockets().into(),
        ),
        flag(
            "spoof-sources",
            "Send datagrams from the recorded addresses, which needs CAP_NET_ADMIN (IP_TRANSPARENT)",
        ),
        option(
            "idle",
            "DURATION",
            "Close a connection after so long without a query, since its end may not be recorded [default: 10s]",
            parser(|t| span(t, TickDelta::from_ms(1), IDLE_MAX, "a duration from 1ms to 1h")),
        ),
        option(
            "ecs-stamp",
            "BITS4,BITS6",
            "Add a client subnet option with so many bits of the client's address [default: 32,128]",
            parser(bits),
        )
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("32,128"),
        flag("proxy", "Send a PROXY header (version 2) with the client's address"),
        option(
            "timeout",
            "DURATION",
            "How long an answer may take until the query is lost [default: 2s]",
            parser(|t| span(t, TickDelta::from_ms(1), TIMEOUT_MAX, "a duration from 1ms to 60s")),
        ),
        option(
            "ca",
            "FILE",
            "PEM: verify the server's certificate by these authorities",
            value_parser!(PathBuf),
        ),
        option("tls-name", "NAME", "The name to send over TLS, and to verify", value_parser!(String)),
    ]
}

/// Builds the subcommand.
#[must_use]
pub fn command() -> Command {
    Command::new("replay")
        .about("Send the queries of a capture to a name server, or to two and compare their answers")
        .after_help(
            "The capture is pcap, pcapng or dnstap, plain or compressed, a file, a pipe or - for standard input. \
             Latency counts from the time at which a query had to be sent, so that a server that stalls cannot hide \
             it. With two targets the second is judged, and conditions are on its figures; with one, its answers are \
             compared with those of the capture. Exit codes: 0, 1 if nothing could be measured, 2 for a wrong command \
             line, 3 if a condition of --fail-if holds.",
        )
        .arg(
            Arg::new("capture")
                .value_name("CAPTURE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The capture"),
        )
        .arg(
            target("target", "TARGET", "The server; the port is 53 unless given, or 853 for TLS").required(true),
        )
        .arg(target("second", "TARGET2", "A second server, whose answers are compared with those of the first"))
        .args(when())
        .group(ArgGroup::new("timing").args(["speed", "rate", "max"]))
        .args(which())
        .args(how())
        .args(threads())
        .arg(option(
            "compare",
            "PART,...",
            "What of the answers is compared: rcode,flags,answer,authority,additional,ttl,order,edns \
             [default: all but ttl, order and edns]",
            parser(Aspects::parse),
        ))
        .arg(flag("ignore-recorded", "Do not compare with the answers of the capture"))
        .args(report_arguments(Tool::Replay))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<ReplayOptions, clap::Error> {
        let matches =
            command().try_get_matches_from(["replay", "x.pcap", "127.0.0.1:5300"].iter().chain(arguments))?;
        Ok(options(&matches))
    }

    #[test]
    fn times_are_one_of_three() {
        let timing = |arguments: &[&str]| parsed(arguments).map(|o| (o.timing, o.sockets));
        assert_eq!(timing(&[]).expect("as recorded"), (Timing::Speed(1.0), 1_024));
        assert_eq!(timing(&["--speed", "0.5"]).expect("slower"), (Timing::Speed(0.5), 1_024));
        assert_eq!(timing(&["--rate", "7", "--sockets", "3"]).expect("a rate"), (Timing::Rate(7), 3));
        assert_eq!(timing(&["--max"]).expect("as fast as possible"), (Timing::Max, 16));
        timing(&["--max", "--rate", "1"]).expect_err("two");
        timing(&["--speed", "0.01"]).expect_err("too slow");
    }

    #[test]
    fn everything_is_read() {
        let all = parsed(&[
            "192.0.2.1",
            "--transport",
            "tls",
            "--rd",
            "no",
            "--name",
            "Example.com,org",
            "--type",
            "A,AAAA",
            "--client",
            "192.0.2.0/24",
            "--ecs-stamp",
            "--proxy",
            "--compare",
            "rcode",
            "--count",
            "9",
            "--port",
            "53,5300",
        ])
        .expect("options");
        assert_eq!(all.second.map(|a| a.to_string()).as_deref(), Some("192.0.2.1:853"));
        assert_eq!((all.carrier, all.ecs, all.proxy), (Carrier::Tls, Some((32, 128)), true));
        assert_eq!((all.filter.rd, all.filter.types.as_slice()), (Some(false), &[1, 28][..]));
        assert_eq!(all.filter.names, [b"\x07example\x03com\0".to_vec(), b"\x03org\0".to_vec()]);
        assert_eq!((all.aspects.to_string().as_str(), all.count), ("rcode", Some(9)));
        assert_eq!(all.ports, [53, 5_300]);
        assert_eq!(parsed(&["--ecs-stamp=24,56"]).expect("bits").ecs, Some((24, 56)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in [
            &["--ecs-stamp=33,1"][..],
            &["--compare", "all"],
            &["--rd", "maybe"],
            &["--count", "0"],
            &["--type", "X"],
            &["--sockets", "0"],
            &["--port", "0"],
            &["127.0.0.1", "127.0.0.2"],
        ] {
            parsed(arguments).expect_err("refused");
        }
    }
}
