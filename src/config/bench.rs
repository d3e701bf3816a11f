//! The command line of `dnslob bench`: what is asked, how often, and what is said of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};

use crate::base::prefix::Prefix;
use crate::base::time::TickDelta;
use crate::config::criteria::{Criteria, Tool};
use crate::config::reflect::{flag, option, parser, share, threads};
use crate::config::value::{self, DNS_PORT, DOT_PORT};
use crate::wire::codes;

/// Highest rate, queries per second.
pub const RATE_MAX: u32 = 20_000_000;
/// Most queries outstanding in a closed loop.
pub const OUTSTANDING_MAX: u32 = 1_000_000;
/// Most names of a Zipf distribution.
pub const ZIPF_MAX: u32 = 1_000_000_000;
/// Most connections.
pub const CONNECTIONS_MAX: u32 = 60_000;
/// Longest run.
const DURATION_MAX: TickDelta = TickDelta::from_ms(7 * 86_400_000);
/// Longest wait for an answer.
const TIMEOUT_MAX: TickDelta = TickDelta::from_ms(60_000);

/// Where the rates of a ramp end unless the command line says it.
const RAMP: &str = "p99>100ms,loss>1%";

/// The options of `dnslob bench`.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    /// The server.
    pub target: SocketAddr,
    /// How it is asked.
    pub transport: Transport,
    /// TLS.
    pub tls: BenchTls,
    /// Threads, each with its own sockets.
    pub threads: u16,
    /// Their CPUs; empty for a choice of the tool's.
    pub cpus: Vec<u16>,
    /// How often it is asked.
    pub load: Load,
    /// How long.
    pub duration: TickDelta,
    /// For what names.
    pub names: Names,
    /// The part of the queries for names that were asked before, 0 to 1; the others are for new ones.
    pub hit_rate: Option<f64>,
    /// The zone of generated names.
    pub zone: String,
    /// The type of generated queries.
    pub qtype: u16,
    /// The addresses that queries come from.
    pub clients: Option<Prefix>,
    /// Connections over TCP or TLS, of all threads.
    pub connections: u32,
    /// The EDNS payload size, bytes; without it, a query has no OPT record unless it needs one.
    pub edns: Option<u16>,
    /// Whether DNSSEC records are asked for (DO).
    pub dnssec: bool,
    /// Whether queries have a cookie (RFC 7873).
    pub cookie: bool,
    /// Whether queries are padded to blocks of 128 bytes (RFC 8467, 4.1).
    pub padding: bool,
    /// How long an answer may take.
    pub timeout: TickDelta,
    /// Whether the records of the answers must be those of `dnslob reflect`.
    pub verify: bool,
    /// Where randomness begins; by default in another place each time.
    pub seed: Option<u64>,
    /// Options that were given and do nothing beside the others.
    pub without_effect: Vec<&'static str>,
    /// What is said at the end.
    pub report: ReportOptions,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP (RFC 7766).
    Tcp,
    /// TLS (RFC 7858).
    Tls,
}

/// Whom TLS trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BenchTls {
    /// A PEM file of authorities; without it no certificate is verified.
    pub authorities: Option<PathBuf>,
    /// The name that the certificate must have; by default the server's address.
    pub name: Option<String>,
}

impl BenchTls {
    /// Returns what is read for it, and from where.
    #[must_use]
    pub fn read(&self) -> Option<(&'static str, &Path)> {
        self.authorities.as_deref().map(|path| ("the list of authorities", path))
    }
}

/// How often a server is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// So many queries per second, evenly, whether they are answered or not.
    Rate(u32),
    /// So many queries outstanding: each answer makes room for the next query.
    Outstanding(u32),
    /// Rising rates until one of these conditions holds.
    Ramp(Criteria),
}

/// The names that are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Those of a file, in its order: a name and a type a line.
    File(PathBuf),
    /// So many, by Zipf's law with the exponent 1.
    Zipf(u32),
    /// Each only once.
    Random,
}

/// What is said at the end of a run, by every tool that measures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportOptions {
    /// JSON on standard output rather than text.
    pub json: bool,
    /// A page of HTML.
    pub page: Option<PathBuf>,
    /// A log of HdrHistograms.
    pub hdr: Option<PathBuf>,
    /// What makes the run fail.
    pub fail_if: Criteria,
}

impl Transport {
    /// Returns the word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Reads the options of the command line.
pub fn options(m: &ArgMatches) -> BenchOptions {
    let transport = match m.get_one::<String>("transport").map(String::as_str) {
        Some("tcp") => Transport::Tcp,
        Some("tls") => Transport::Tls,
        _ => Transport::Udp,
    };
    let default_port = if transport == Transport::Tls { DOT_PORT } else { DNS_PORT };
    let target = m.get_one::<String>("target").and_then(|t| value::address_of(t, default_port).ok());
    let load = match (m.get_one::<u32>("rate"), m.get_one::<Criteria>("ramp")) {
        (Some(rate), _) => Load::Rate(*rate),
        (None, Some(limits)) => Load::Ramp(limits.clone()),
        (None, None) => Load::Outstanding(m.get_one("outstanding").copied().unwrap_or(100)),
    };
    // A ramp ends by itself.
    let default_ms = if matches!(load, Load::Ramp(_)) { 120_000 } else { 10_000 };
    let names = match (m.get_one::<PathBuf>("names"), m.get_one::<u32>("zipf")) {
        (Some(file), _) => Names::File(file.clone()),
        (None, Some(count)) => Names::Zipf(*count),
        (None, None) if m.get_flag("random") => Names::Random,
        (None, None) => Names::Zipf(1_000),
    };
    BenchOptions {
        target: target.unwrap_or(SocketAddr::from(([127, 0, 0, 1], default_port))),
        transport,
        tls: BenchTls {
            authorities: m.get_one::<PathBuf>("ca").cloned(),
            name: m.get_one::<String>("tls-name").cloned(),
        },
        threads: m.get_one("threads").copied().unwrap_or(1),
        cpus: m.get_one::<Vec<u16>>("cpus").cloned().unwrap_or_default(),
        load,
        duration: m.get_one("duration").copied().unwrap_or(TickDelta::from_ms(default_ms)),
        names,
        hit_rate: m.get_one("hit-rate").copied(),
        zone: m.get_one::<String>("zone").cloned().unwrap_or_else(|| "bench.test".to_owned()),
        qtype: m.get_one("type").copied().unwrap_or(1),
        clients: m.get_one::<Prefix>("clients").copied(),
        connections: m.get_one("connections").copied().unwrap_or(16),
        edns: m.get_one("edns").copied(),
        dnssec: m.get_flag("dnssec"),
        cookie: m.get_flag("cookie"),
        padding: m.get_flag("padding"),
        timeout: m.get_one("timeout").copied().unwrap_or(TickDelta::from_ms(2_000)),
        verify: m.get_flag("verify"),
        seed: m.get_one("seed").copied(),
        without_effect: without_effect(m, transport),
        report: report(m),
    }
}

/// Returns the options that were given and do nothing beside the others.
fn without_effect(m: &ArgMatches, transport: Transport) -> Vec<&'static str> {
    let only_new = m.get_flag("random");
    let only_known = m.contains_id("names") && !m.contains_id("hit-rate");
    [
        ("connections", "--connections", transport == Transport::Udp),
        ("ca", "--ca", transport != Transport::Tls),
        ("tls-name", "--tls-name", transport != Transport::Tls),
        ("zone", "--zone", only_known),
        ("hit-rate", "--hit-rate", only_new),
    ]
    .into_iter()
    .filter(|(id, _, is_idle)| *is_idle && m.contains_id(id))
    .map(|(_, name, _)| name)
    .collect()
}

/// Adds to an error how the conditions of `--ramp` are written. Since they may be left out, a word of its
/// own is not taken for them.
pub(crate) fn with_hint(mut error: clap::Error) -> clap::Error {
    let is_condition = |value: &ContextValue| matches!(value, ContextValue::String(text) if Criteria::parse(text, Tool::Bench).is_ok());
    if error.kind() == ErrorKind::UnknownArgument
        && error.get(ContextKind::InvalidArg).is_some_and(is_condition)
    {
        let hint = format!("conditions of --ramp are written with '=', as --ramp='{RAMP}'");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}

/// Makes a parser of whole numbers.
pub(crate) fn number(min: u32, max: u32, what: &'static str) -> ValueParser {
    ValueParser::new(move |text: &str| {
        let number = text.parse::<u32>().ok().filter(|n| (min..=max).contains(n));
        number.ok_or_else(|| format!("expected {what} from {min} to {max}, in digits only"))
    })
}

/// Reads what is said at the end.
pub fn report(m: &ArgMatches) -> ReportOptions {
    ReportOptions {
        json: m.get_flag("json"),
        page: m.get_one::<PathBuf>("report").cloned(),
        hdr: m.get_one::<PathBuf>("hdr").cloned(),
        fail_if: m.get_one::<Criteria>("fail-if").cloned().unwrap_or_default(),
    }
}

/// The arguments that say what is said at the end of a run of this tool.
#[must_use]
pub fn report_arguments(tool: Tool) -> [Arg; 4] {
    let file = || value_parser!(PathBuf);
    [
        flag("json", "Print the report as JSON"),
        option(
            "report",
            "FILE.html",
            "Write the report as a page with plots, of one file; FILE.svg or FILE.png is the plot of latencies alone",
            file(),
        ),
        option("hdr", "FILE", "Write a log of HdrHistograms, one a second, in nanoseconds", file()),
        option(
            "fail-if",
            "CONDITION,...",
            "Exit with 3 if one of these holds: 'p99>20ms,loss>0.1%,servfail>1%,rate<50000'",
            parser(move |text: &str| Criteria::parse(text, tool)),
        ),
    ]
}

/// Reads a span of time within bounds.
pub(crate) fn span(
    text: &str,
    min: TickDelta,
    max: TickDelta,
    expected: &'static str,
) -> Result<TickDelta, &'static str> {
    value::span(text).ok().filter(|span| (min..=max).contains(span)).ok_or(expected)
}

/// Reads the type of a record by name or number.
///
/// # Errors
/// What was expected.
pub fn qtype(text: &str) -> Result<u16, &'static str> {
    let known = codes::TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, n)| *n);
    let number = || {
        let digits =
            text.get(..4).filter(|front| front.eq_ignore_ascii_case("TYPE")).and_then(|_| text.get(4..));
        digits.unwrap_or(text).parse().ok()
    };
    known.or_else(number).ok_or("a type, as A, AAAA or TYPE65")
}

/// Builds the subcommand.
#[must_use]
pub fn command() -> Command {
    let how_often = [
        option(
            "rate",
            "QPS",
            "Send so many queries per second, whether they are answered or not (open loop)",
            number(1, RATE_MAX, "queries per second"),
        ),
        option(
            "outstanding",
            "N",
            "Keep so many queries unanswered, and send as fast as answers come (closed loop) [default: 100]",
            number(1, OUTSTANDING_MAX, "a number of queries"),
        ),
        option(
            "ramp",
            "CONDITION,...",
            "Find the highest rate at which none of these holds, as --ramp='p99>20ms' [default: p99>100ms,loss>1%]",
            parser(|text| Criteria::parse(text, Tool::Bench)),
        )
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value(RAMP),
    ];
    let which_names = [
        option(
            "names",
            "FILE",
            "Ask for the names of this file: 'NAME [TYPE]' a line",
            value_parser!(PathBuf),
        ),
        option(
            "zipf",
            "N",
            "Ask for N names by Zipf's law: the k-th 1/k as often as the first [default: 1000]",
            number(1, ZIPF_MAX, "a number of names"),
        ),
        flag("random", "Ask for each name only once"),
    ];
    Command::new("bench")
        .about("Ask a name server as often as wanted or as it can, check the answers and measure them")
        .after_help(
            "With --rate, latency counts from the time at which a query had to be sent: a server that stalls \
             cannot hide it. Exit codes: 0, 1 if nothing could be measured, whatever --fail-if says, 2 for a wrong \
             command line, 3 if a condition of --fail-if holds.",
        )
        .arg(
            Arg::new("target")
                .value_name("ADDR[:PORT]")
                .required(true)
                // The default port depends on the transport.
                .value_parser(|t: &str| {
                    let address = value::address(t).map(|_| t.to_owned());
                    address.map_err(|e| format!("expected {e}; names are not looked up"))
                })
                .help("The server; the port is 53 unless given, or 853 for TLS"),
        )
        .arg(
            Arg::new("transport")
                .long("transport")
                .value_name("udp|tcp|tls")
                .value_parser(["udp", "tcp", "tls"])
                .hide_possible_values(true)
                .help("How to ask [default: udp]"),
        )
        .args(threads())
        .args(how_often)
        .group(ArgGroup::new("load").args(["rate", "outstanding", "ramp"]))
        .arg(option(
            "duration",
            "DURATION",
            "How long; for --ramp, how long at most [default: 10s, or 2m for --ramp]",
            parser(|t| span(t, TickDelta::from_ms(100), DURATION_MAX, "a duration from 100ms to 168h, as 10s or 5m")),
        ))
        .args(which_names)
        .group(ArgGroup::new("source").args(["names", "zipf", "random"]))
        .arg(option(
            "hit-rate",
            "SHARE",
            "Ask for new names in the other part of the queries, to miss caches: 0.8 or 80%",
            parser(share),
        ))
        .arg(option(
            "zone",
            "NAME",
            "The zone of the generated names [default: bench.test]",
            parser(|t| {
                let short = value::wire_name(t).is_ok_and(|name| name.len() <= 200);
                if short { Ok(t.to_owned()) } else { Err("a name of up to 200 bytes") }
            }),
        ))
        .arg(option("type", "TYPE", "The type of the queries, unless a file says it [default: A]", parser(qtype)))
        .arg(
            option(
                "clients",
                "NET",
                "Ask from the addresses of this network, as 127.1.0.0/24",
                value_parser!(Prefix).into(),
            ),
        )
        .arg(option(
            "connections",
            "N",
            "Connections over TCP or TLS, of all threads together [default: 16]",
            number(1, CONNECTIONS_MAX, "a number of connections"),
        ))
        .arg(flag("dnssec", "Ask for DNSSEC records (DO)"))
        .arg(option(
            "edns",
            "SIZE",
            "Send an OPT record with this payload size, bytes",
            value_parser!(u16).range(512..=65_535).into(),
        ))
        .arg(flag("cookie", "Send a cookie (RFC 7873), and check that it comes back"))
        .arg(flag("padding", "Pad queries to blocks of 128 bytes (RFC 8467)"))
        .arg(option(
            "timeout",
            "DURATION",
            "How long an answer may take until the query is lost [default: 2s]",
            parser(|t| span(t, TickDelta::from_ms(1), TIMEOUT_MAX, "a duration from 1ms to 60s")),
        ))
        .arg(option("ca", "FILE", "PEM: verify the server's certificate by these authorities", value_parser!(PathBuf)))
        .arg(option("tls-name", "NAME", "The name to send over TLS, and to verify", value_parser!(String)))
        .arg(flag("verify", "Check that the records are those that dnslob reflect makes of the query"))
        .arg(option("seed", "N", "Begin randomness here: the same names each time", value_parser!(u64).into()))
        .args(report_arguments(Tool::Bench))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<BenchOptions, clap::Error> {
        let matches = command().try_get_matches_from(["bench"].iter().chain(arguments))?;
        Ok(options(&matches))
    }

    #[test]
    fn the_load_is_one_of_three() {
        let load = |arguments: &[&str]| parsed(&[&["127.0.0.1:5300"], arguments].concat()).map(|o| o.load);
        assert_eq!(load(&[]).expect("a closed loop"), Load::Outstanding(100));
        assert_eq!(load(&["--rate", "50000"]).expect("an open loop"), Load::Rate(50_000));
        assert!(matches!(load(&["--ramp"]), Ok(Load::Ramp(c)) if c.to_string() == RAMP));
        assert!(matches!(load(&["--ramp=p99>5ms"]), Ok(Load::Ramp(c)) if c.to_string() == "p99>5ms"));
        load(&["--rate", "1", "--outstanding", "1"]).expect_err("two loads");
        load(&["--rate", "0"]).expect_err("no load");
    }

    #[test]
    fn the_default_port_is_that_of_the_transport() {
        for (arguments, want) in [
            (&["192.0.2.1"][..], "192.0.2.1:53"),
            (&["192.0.2.1", "--transport", "tcp"], "192.0.2.1:53"),
            (&["--transport", "tls", "2001:db8::1"], "[2001:db8::1]:853"),
            (&["--transport", "tls", "192.0.2.1:53"], "192.0.2.1:53"),
        ] {
            assert_eq!(parsed(arguments).expect("options").target.to_string(), want);
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for arguments in [
            &["--duration", "1ms"][..],
            &["--timeout", "61s"],
            &["--edns", "100"],
            &["--hit-rate", "1.5"],
            &["--type", "NONSENSE"],
            &["--threads", "0"],
            &["--zipf", "0"],
            &["--names", "x", "--random"],
            &["--fail-if", "p99>5"],
            &["--fail-if", "diff>0"],
            &["--ramp=worse>0"],
            &["--transport", "quic"],
            &["--rate", "1e6"],
            &["--connections", "60001"],
        ] {
            parsed(&[&["127.0.0.1"], arguments].concat()).expect_err("refused");
        }
        parsed(&[]).expect_err("no target");
        let said = parsed(&["127.0.0.1", "--rate", "1e6"]).expect_err("no digits").to_string();
        assert!(said.contains("queries per second from 1 to 20000000"), "{said}");
        let ramp = parsed(&["127.0.0.1", "--ramp", "p99>20ms"]).expect_err("a word of its own");
        let said = with_hint(ramp).to_string();
        assert!(said.contains("--ramp='p99>100ms,loss>1%'"), "{said}");
        let other = parsed(&["127.0.0.1", "--rate", "5", "word"]).expect_err("a word of its own");
        assert!(!with_hint(other).to_string().contains("--ramp="), "not meant for it");
        let said = parsed(&["localhost"]).expect_err("a name").to_string();
        assert!(said.contains("names are not looked up"), "{said}");
    }

    #[test]
    fn types_are_read_by_name_and_number() {
        assert_eq!([qtype("aaaa"), qtype("TYPE65"), qtype("257")], [Ok(28), Ok(65), Ok(257)]);
        assert!(["", "TYPE", "TYPE65536", "Ä", "TYPÄ1"].iter().all(|t| qtype(t).is_err()));
    }
}
