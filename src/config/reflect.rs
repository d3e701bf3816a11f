//! The command line of `dnslob reflect`: what a name server for measurements answers.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::base::time::TickDelta;
use crate::config::criteria::code;
use crate::config::value;

/// Most records of an answer: with a query's name, 32 addresses of IPv6 stay under 1232 bytes.
pub const RECORDS_MAX: u32 = 32;
/// Longest delay of an answer.
pub const LATENCY_MAX: TickDelta = TickDelta::from_ms(60_000);
/// Highest TTL (RFC 2181, section 8), seconds.
const TTL_MAX: u32 = 0x7fff_ffff;
/// Most threads of a tool.
pub const THREADS_MAX: i64 = 256;

/// The options of `dnslob reflect`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReflectOptions {
    /// The address for UDP and TCP.
    pub listen: SocketAddr,
    /// Threads, each with its own sockets.
    pub threads: u16,
    /// Their CPUs; empty for a choice of the tool's.
    pub cpus: Vec<u16>,
    /// The delay of answers.
    pub latency: Latency,
    /// The part of the queries over UDP that get no answer, 0 to 1.
    pub loss: f64,
    /// The part of the answers over UDP that are truncated, 0 to 1.
    pub truncate: f64,
    /// Response codes and their parts of the answers, together at most 1.
    pub codes: Vec<(u16, f64)>,
    /// TTLs of records, seconds.
    pub ttl: RangeInclusive<u32>,
    /// Records of an answer.
    pub records: RangeInclusive<u32>,
    /// TLS: its address, certificate and key.
    pub tls: Option<ReflectTls>,
    /// Whether other processes may answer on the same addresses.
    pub shared: bool,
    /// Where randomness begins; by default in another place each time.
    pub seed: Option<u64>,
}

/// TLS of `dnslob reflect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReflectTls {
    /// The address.
    pub listen: SocketAddr,
    /// PEM: the certificate, then its chain.
    pub certificate: PathBuf,
    /// PEM: the key.
    pub key: PathBuf,
}

/// A distribution of delays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    /// No delay.
    None,
    /// Always the same.
    Fixed(TickDelta),
    /// Evenly between two.
    Uniform(TickDelta, TickDelta),
    /// Log-normal: the median, and the standard deviation of the logarithm, 0 to 10.
    LogNormal(TickDelta, f64),
}

/// What is expected of a latency.
const LATENCY: &str = "'fixed 2ms', 'uniform 1ms..5ms' or 'lognormal 2ms 0.5' (median, and standard deviation of the \
                       logarithm), with times up to 60s";

impl Latency {
    /// Parses a distribution.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let span = |text: &str| value::span(text).ok().filter(|span| *span <= LATENCY_MAX);
        let words: Vec<&str> = text.split_whitespace().take(4).collect();
        let parsed = match words.as_slice() {
            ["none"] => Some(Self::None),
            ["fixed", at] => span(at).map(Self::Fixed),
            ["uniform", range] => range
                .split_once("..")
                .and_then(|(from, to)| Some((span(from)?, span(to)?)))
                .filter(|(from, to)| from <= to)
                .map(|(from, to)| Self::Uniform(from, to)),
            ["lognormal", median, sigma] => {
                let sigma = sigma.parse().ok().filter(|s| (0.0..=10.0).contains(s));
                span(median).zip(sigma).map(|(median, sigma)| Self::LogNormal(median, sigma))
            }
            _ => None,
        };
        parsed.ok_or(LATENCY)
    }
}

/// Parses an address whose port may be 0, for one of the kernel's choice.
///
/// # Errors
/// What was expected.
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().ok().filter(|a: &SocketAddr| a.port() == 0).map_or_else(|| value::address(text), Ok)
}

/// Parses a part of the whole: a number from 0 to 1, or a percentage.
///
/// # Errors
/// What was expected.
pub fn share(text: &str) -> Result<f64, &'static str> {
    let (digits, unit) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 100.0));
    let number: Option<f64> = digits.parse().ok();
    let number = number.map(|n| n / unit).filter(|n| (0.0..=1.0).contains(n));
    number.ok_or("a number from 0 to 1, or a percentage")
}

/// Parses a number, or a range of numbers.
///
/// # Errors
/// What was expected.
pub fn range(text: &str, max: u32) -> Result<RangeInclusive<u32>, &'static str> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n <= max);
    let ends = match text.split_once("..") {
        Some((from, to)) => number(from).zip(number(to)),
        None => number(text).map(|n| (n, n)),
    };
    ends.filter(|(from, to)| from <= to)
        .map(|(from, to)| from..=to)
        .ok_or("a number, or a range such as 1..4")
}

/// Parses response codes and their shares, as `servfail=0.01,nxdomain=0.05`.
///
/// # Errors
/// What was expected.
pub fn codes(text: &str) -> Result<Vec<(u16, f64)>, &'static str> {
    const CODES: &str =
        "response codes and their shares, together at most 1, such as servfail=0.01,nxdomain=5%";
    let one = |text: &str| {
        let (name, part) = text.split_once('=')?;
        // Others need an OPT record, which not every client sends.
        let code = code(name.trim()).filter(|code| *code < 16)?;
        Some((code, share(part.trim()).ok()?))
    };
    let all: Option<Vec<(u16, f64)>> = text.split(',').take(64).map(one).collect();
    let is_possible = |all: &Vec<(u16, f64)>| all.iter().map(|(_, part)| part).sum::<f64>() <= 1.0 + 1e-9;
    all.filter(is_possible).ok_or(CODES)
}

/// Reads the options of the command line.
pub fn options(m: &ArgMatches) -> ReflectOptions {
    let certificate = m.get_one::<PathBuf>("certificate").cloned();
    let key = m.get_one::<PathBuf>("key").cloned();
    let tls = m.get_one::<SocketAddr>("tls").copied().zip(certificate.zip(key));
    let range =
        |id: &str, default: u32| m.get_one::<RangeInclusive<u32>>(id).cloned().unwrap_or(default..=default);
    ReflectOptions {
        listen: m
            .get_one::<SocketAddr>("listen")
            .copied()
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 5300))),
        threads: m.get_one("threads").copied().unwrap_or(1),
        cpus: m.get_one::<Vec<u16>>("cpus").cloned().unwrap_or_default(),
        latency: m.get_one::<Latency>("latency").copied().unwrap_or(Latency::None),
        loss: m.get_one("loss").copied().unwrap_or(0.0),
        truncate: m.get_one("truncate").copied().unwrap_or(0.0),
        codes: m.get_one::<Vec<(u16, f64)>>("rcode").cloned().unwrap_or_default(),
        ttl: range("ttl", 60),
        records: range("records", 1),
        tls: tls.map(|(listen, (certificate, key))| ReflectTls { listen, certificate, key }),
        shared: m.get_flag("shared"),
        seed: m.get_one("seed").copied(),
    }
}

/// Makes a parser of a function that says what it expects.
pub fn parser<T: Clone + Send + Sync + 'static, E: Display>(
    parse: impl Fn(&str) -> Result<T, E> + Clone + Send + Sync + 'static,
) -> ValueParser {
    ValueParser::new(move |text: &str| parse(text).map_err(|e| format!("expected {e}")))
}

/// Declares an option with a value.
pub fn option(name: &'static str, value_name: &'static str, help: &'static str, parser: ValueParser) -> Arg {
    Arg::new(name).long(name).value_name(value_name).help(help).value_parser(parser)
}

/// Declares an option without a value.
pub(crate) fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// The number of threads and their CPUs, as all tools take them.
#[must_use]
pub fn threads() -> [Arg; 2] {
    let number = value_parser!(u16).range(1..=THREADS_MAX);
    [
        option("threads", "N", "Threads, each on a CPU of its own [default: 1]", number.into()),
        option(
            "cpus",
            "LIST",
            "Pin the threads to these CPUs, as 0,2-5, rather than to the first or last ones",
            parser(value::cpus),
        ),
    ]
}

/// Builds the subcommand.
#[must_use]
pub fn command() -> Command {
    Command::new("reflect")
        .about("A fast name server for measurements: its answers are a function of the query")
        .after_help(
            "A and AAAA are answered with addresses, TXT with text, all made from the question; other types \
             with an answer without records. Runs until SIGINT or SIGTERM, and then prints what it did.",
        )
        .arg(option(
            "listen",
            "ADDR:PORT",
            "Where to answer over UDP and TCP; port 0 is any [default: 127.0.0.1:5300]",
            parser(address),
        ))
        .args(threads())
        .arg(option(
            "latency",
            "DISTRIBUTION",
            "Delay answers: 'fixed 2ms', 'uniform 1ms..5ms' or 'lognormal 2ms 0.5'",
            parser(Latency::parse),
        ))
        .arg(option(
            "loss",
            "SHARE",
            "Leave this part of the queries over UDP unanswered: 0.01 or 1%",
            parser(share),
        ))
        .arg(option("truncate", "SHARE", "Truncate this part of the answers over UDP", parser(share)))
        .arg(option(
            "rcode",
            "CODE=SHARE,...",
            "Answer these parts of the queries with response codes: servfail=0.01,nxdomain=5%",
            parser(codes),
        ))
        .arg(option("ttl", "N[..N]", "TTL of records, seconds [default: 60]", parser(|t| range(t, TTL_MAX))))
        .arg(option(
            "records",
            "N[..N]",
            "Records of an answer, up to 32 [default: 1]",
            parser(|t| range(t, RECORDS_MAX)),
        ))
        .arg(option("tls", "ADDR:PORT", "Answer over TLS too", parser(address)).requires("certificate"))
        .arg(
            option(
                "certificate",
                "FILE",
                "PEM: the certificate for TLS, and its chain",
                value_parser!(PathBuf),
            )
            .requires("key")
            .requires("tls"),
        )
        .arg(
            option("key", "FILE", "PEM: the key of the certificate", value_parser!(PathBuf))
                .requires("certificate"),
        )
        .arg(flag(
            "shared",
            "Share the addresses with other processes that do so, which get a part of the queries",
        ))
        .arg(option("seed", "N", "Begin randomness here: the same each time", value_parser!(u64).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_read() {
        let ms = TickDelta::from_ms;
        for (text, want) in [
            ("none", Latency::None),
            ("fixed 2ms", Latency::Fixed(ms(2))),
            ("uniform 1ms..5ms", Latency::Uniform(ms(1), ms(5))),
            ("  lognormal  2ms   0.5 ", Latency::LogNormal(ms(2), 0.5)),
        ] {
            assert_eq!(Latency::parse(text), Ok(want), "{text}");
        }
        for text in [
            "",
            "2ms",
            "fixed",
            "fixed 2",
            "fixed 61s",
            "uniform 5ms..1ms",
            "uniform 1ms",
            "lognormal 2ms",
            "lognormal 2ms -1",
            "lognormal 2ms nan",
            "fixed 1ms 2ms",
        ] {
            assert!(Latency::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_ranges_and_codes_are_read() {
        assert_eq!([share("0.01"), share("5%"), share("1")], [Ok(0.01), Ok(0.05), Ok(1.0)]);
        assert!(["", "-1", "1.1", "101%", "nan", "inf"].iter().all(|t| share(t).is_err()));
        assert_eq!([range("30..300", 999), range("7", 7)], [Ok(30..=300), Ok(7..=7)]);
        assert!(["", "5..1", "8", "-1", "1..", "..1"].iter().all(|t| range(t, 7).is_err()));
        assert_eq!(codes("servfail=0.01,NXDOMAIN=5%"), Ok(vec![(2, 0.01), (3, 0.05)]));
        assert!(
            ["", "servfail", "servfail=2", "nonsense=0.1", "servfail=60%,refused=50%", "badvers=1"]
                .iter()
                .all(|t| codes(t).is_err())
        );
    }
}
