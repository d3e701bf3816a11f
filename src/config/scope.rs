//! The command line of `dnslob scope`: which traffic is looked at, and what is said of it.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::base::prefix::Prefix;
use crate::base::time::TickDelta;
use crate::config::bench::{self, ReportOptions};
use crate::config::criteria::Tool;
use crate::config::reflect::{option, parser};
use crate::config::value::{self, DNS_PORT};

/// Most rows of a list of the report.
pub const TOP_MAX: u16 = 1_000;
/// Longest wait for an answer.
const TIMEOUT_MAX: TickDelta = TickDelta::from_ms(60_000);
/// Longest look at an interface.
const DURATION_MAX: TickDelta = TickDelta::from_ms(7 * 86_400_000);

/// The options of `dnslob scope`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeOptions {
    /// Where the traffic is.
    pub from: From,
    /// The ports of servers.
    pub ports: Vec<u16>,
    /// How long an answer may take until the query counts as unanswered.
    pub timeout: TickDelta,
    /// Which of it is looked at.
    pub only: Only,
    /// Rows of each list.
    pub top: u16,
    /// What is said at the end.
    pub report: ReportOptions,
}

/// Where traffic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// In files, read one behind the other; `-` is standard input.
    Captures(Vec<PathBuf>),
    /// On an interface, or on `any`.
    Interface {
        /// Its name.
        name: String,
        /// How long it is looked at; without it, until a signal.
        duration: Option<TickDelta>,
    },
}

/// Conditions on messages that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Only {
    /// The client is in one of these networks, if there are any.
    pub clients: Vec<Prefix>,
    /// The name is one of these or below, if there are any: wire format in lower case.
    pub names: Vec<Vec<u8>>,
    /// The type is one of these, if there are any.
    pub types: Vec<u16>,
    /// Recursion is desired, or is not.
    pub rd: Option<bool>,
}

/// Parses a list of ports, as `53,5300-5310`.
///
/// # Errors
/// What was expected.
pub fn ports(text: &str) -> Result<Vec<u16>, &'static str> {
    let port = |text: &str| text.trim().parse().ok().filter(|port| *port > 0);
    let range = |text: &str| match text.split_once('-') {
        Some((from, to)) => port(from).zip(port(to)).filter(|(from, to)| from <= to),
        None => port(text).map(|port| (port, port)),
    };
    let all: Option<Vec<(u16, u16)>> = text.split(',').take(64).map(range).collect();
    all.map(|all| all.into_iter().flat_map(|(from, to)| from..=to).collect())
        .ok_or("ports, as 53 or 53,5300-5310")
}

/// Declares the option for the ports of servers.
#[must_use]
pub fn ports_argument() -> Arg {
    option("ports", "LIST", "The ports of servers, as 53,5300-5310 [default: 53]", parser(ports))
}

/// Declares the options that say which messages are looked at.
#[must_use]
pub fn only_arguments() -> [Arg; 4] {
    let several = |arg: Arg| arg.action(ArgAction::Append);
    [
        several(option(
            "client",
            "NETWORK",
            "Only messages from or to clients of this network; may be given several times",
            value_parser!(Prefix).into(),
        )),
        several(option(
            "name",
            "NAME",
            "Only messages about this name and names below it; may be given several times",
            parser(value::wire_name),
        )),
        several(option(
            "type",
            "TYPE",
            "Only messages about this type; may be given several times",
            parser(bench::qtype),
        )),
        option("rd", "yes|no", "Only messages with, or without, the bit RD", parser(yes)),
    ]
}

fn yes(text: &str) -> Result<bool, &'static str> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("yes or no"),
    }
}

/// Reads which messages are looked at.
#[must_use]
pub fn only(m: &ArgMatches) -> Only {
    let lower = |name: &Vec<u8>| name.to_ascii_lowercase();
    Only {
        clients: m.get_many::<Prefix>("client").unwrap_or_default().copied().collect(),
        names: m.get_many::<Vec<u8>>("name").unwrap_or_default().map(lower).collect(),
        types: m.get_many::<u16>("type").unwrap_or_default().copied().collect(),
        rd: m.get_one("rd").copied(),
    }
}

/// Reads the ports of servers.
#[must_use]
pub fn ports_of(m: &ArgMatches) -> Vec<u16> {
    m.get_one::<Vec<u16>>("ports").cloned().unwrap_or_else(|| vec![DNS_PORT])
}

/// Reads the options of the command line.
#[must_use]
pub fn options(m: &ArgMatches) -> ScopeOptions {
    let from = match m.get_one::<String>("interface") {
        Some(name) => From::Interface { name: name.clone(), duration: m.get_one("duration").copied() },
        None => From::Captures(m.get_many::<PathBuf>("capture").unwrap_or_default().cloned().collect()),
    };
    ScopeOptions {
        from,
        ports: ports_of(m),
        timeout: m.get_one("timeout").copied().unwrap_or(TickDelta::from_ms(2_000)),
        only: only(m),
        top: m.get_one("top").copied().unwrap_or(10),
        report: bench::report(m),
    }
}

/// Builds the subcommand.
#[must_use]
pub fn command() -> Command {
    let span = |text: &str, max: TickDelta, expected| {
        value::span(text).ok().filter(|span| (TickDelta::from_ms(1)..=max).contains(span)).ok_or(expected)
    };
    Command::new("scope")
        .about("Tell what a capture of DNS traffic, or an interface, shows: latency, rates, codes, names, clients")
        .after_help(
            "A capture is pcap, pcapng or dnstap, plain or compressed with gzip or zstd; - is standard input. \
             What is in TLS can only be read in dnstap. Exit codes: 0, 1 if something could not be read, 2 for a \
             wrong command line, 3 if a condition of --fail-if holds.",
        )
        .arg(
            Arg::new("capture")
                .value_name("CAPTURE")
                .num_args(1..)
                .required_unless_present("interface")
                .conflicts_with("interface")
                .value_parser(value_parser!(PathBuf))
                .help("The captures, read one behind the other"),
        )
        .arg(
            option(
                "interface",
                "INTERFACE",
                "Look at this interface, or at any of them (any), until a signal",
                parser(value::interface),
            )
            .short('i'),
        )
        .arg(
            option(
                "duration",
                "DURATION",
                "Look at the interface for so long",
                parser(move |t: &str| span(t, DURATION_MAX, "a duration from 1ms to 7d")),
            )
            // What is required beside it would be waived, as that excludes captures.
            .requires("interface")
            .conflicts_with("capture"),
        )
        .arg(ports_argument())
        .arg(option(
            "timeout",
            "DURATION",
            "How long an answer may take until the query counts as unanswered [default: 2s]",
            parser(move |t: &str| span(t, TIMEOUT_MAX, "a duration from 1ms to 60s")),
        ))
        .args(only_arguments())
        .arg(option(
            "top",
            "N",
            "Rows of each list, up to 1000 [default: 10]",
            value_parser!(u16).range(1..=i64::from(TOP_MAX)).into(),
        ))
        .args(bench::report_arguments(Tool::Scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<ScopeOptions, clap::Error> {
        let matches = command().try_get_matches_from(["scope"].iter().chain(arguments))?;
        Ok(options(&matches))
    }

    #[test]
    fn ports_are_read() {
        assert_eq!(ports("53"), Ok(vec![53]));
        assert_eq!(ports("53, 5300-5302"), Ok(vec![53, 5300, 5301, 5302]));
        assert!(["", "0", "65536", "5-4", "a", "53,"].iter().all(|t| ports(t).is_err()));
    }

    #[test]
    fn traffic_comes_from_captures_or_an_interface() {
        let of = |arguments: &[&str]| parsed(arguments).map(|o| o.from);
        let captures = ["a.pcap", "-"].map(PathBuf::from).to_vec();
        assert_eq!(of(&["a.pcap", "-"]).expect("captures"), From::Captures(captures));
        let live = From::Interface { name: "lo".to_owned(), duration: Some(TickDelta::from_ms(500)) };
        assert_eq!(of(&["-i", "lo", "--duration", "500ms"]).expect("an interface"), live);
        for wrong in [&[][..], &["a.pcap", "-i", "lo"], &["a.pcap", "--duration", "1s"]] {
            of(wrong).expect_err("refused");
        }
    }

    #[test]
    fn conditions_are_read() {
        let only = parsed(&[
            "-",
            "--client",
            "192.0.2.0/24",
            "--client",
            "2001:db8::/32",
            "--name",
            "Example.COM",
            "--type",
            "aaaa",
            "--rd",
            "no",
        ]);
        let only = only.expect("options").only;
        assert_eq!((only.clients.len(), only.types, only.rd), (2, vec![28], Some(false)));
        assert_eq!(only.names, [b"\x07example\x03com\0".to_vec()]);
        for wrong in
            [["--client", "nonsense"], ["--name", ".."], ["--rd", "1"], ["--top", "0"], ["--timeout", "61s"]]
        {
            parsed(&["-", wrong[0], wrong[1]]).expect_err("refused");
        }
    }
}
