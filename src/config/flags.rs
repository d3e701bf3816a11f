//! The command line: flags from the table of settings, positional arguments as in dnsdist.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use crate::base::prefix::Prefix;
use crate::config::bench::{self, BenchOptions, Load};
use crate::config::criteria::Criteria;
use crate::config::draft::{Draft, DraftListener, DraftServer};
use crate::config::error::{ConfigError, Origin, Sited};
use crate::config::functions::console::CONSOLE_PORT;
use crate::config::older_options::explained;
use crate::config::options::{Key, Kind, SETTINGS, Settings, Value};
use crate::config::reflect::{self, ReflectOptions};
use crate::config::replay::{self, ReplayOptions, Timing};
use crate::config::scope::{self, ScopeOptions};
use crate::config::value;
use crate::model::console::ConsoleKey;
use crate::model::{ConnectionOptions, ProxyHeader, Service};

/// The usage in one line.
pub const USAGE: &str =
    "dnslob LISTEN BACKEND...  |  dnslob -C FILE  |  dnslob -l LISTEN BACKEND...  (see dnslob --help)";

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Serve, or check a configuration.
    Serve(Box<Flags>),
    /// Run the demonstration.
    Demo(DemoOptions),
    /// Print a generated document.
    Generate(Document),
    /// Connect to a console.
    Console(ConsoleOptions),
    /// Answer as a name server for measurements.
    Reflect(Box<ReflectOptions>),
    /// Measure a name server.
    Bench(Box<BenchOptions>),
    /// Send the queries of a capture.
    Replay(Box<ReplayOptions>),
    /// Tell what a capture shows.
    Scope(Box<ScopeOptions>),
}

/// The options of the console's client.
#[derive(Clone, Debug, Default)]
pub struct ConsoleOptions {
    /// The configuration that has what is not given here.
    pub file: Option<PathBuf>,
    /// The server's address.
    pub address: Option<SocketAddr>,
    /// The shared key.
    pub key: Option<ConsoleKey>,
    /// The commands; without any, they come from standard input.
    pub commands: Vec<String>,
}

/// How to serve. Kept for the life of the process: every reload starts from it.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Only check the configuration.
    pub check: bool,
    /// Listen addresses, replacing those of the file.
    pub locals: Vec<SocketAddr>,
    /// Networks that may query, besides those of the file: they replace the default ACL.
    pub acl: Vec<Prefix>,
    /// Servers added to those of the file.
    pub backends: Vec<SocketAddr>,
    /// Settings, overriding those of the file.
    pub settings: Settings,
}

/// The options of `dnslob demo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Duration, seconds.
    pub seconds: u32,
    /// Embedded backends.
    pub backends: u16,
    /// Offered load, queries per second.
    pub rate: u32,
    /// A packet cache is before them.
    pub cache: bool,
}

/// A document generated from the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// The manual page, roff.
    Man,
    /// Shell completions.
    Completions(Shell),
    /// The reference, Markdown.
    Reference,
    /// The statistics, Markdown.
    Metrics,
}

impl Flags {
    /// Applies the command line to the file's draft.
    pub fn apply(&self, draft: &mut Draft) {
        let origin = Origin::command_line();
        draft.settings.overlay(&self.settings);
        if !self.locals.is_empty() {
            // As in dnsdist, those of plain DNS.
            draft.listeners.retain(|l| l.service.tls().is_some());
            draft.listeners.extend(self.locals.iter().map(|a| DraftListener {
                origin: origin.clone(),
                address: *a,
                interface: None,
                reuse_port: false,
                freebind: false,
                dscp: 0,
                service: Service::Dns,
                connection_options: ConnectionOptions::default(),
                proxy: ProxyHeader::default(),
            }));
        }
        if !self.acl.is_empty() {
            draft.acl_default = false;
        }
        draft.acl.extend(self.acl.iter().map(|net| (*net, true)));
        draft.servers.extend(self.backends.iter().map(|a| DraftServer::new(origin.clone(), *a)));
    }
}

/// Parses the command line.
///
/// # Errors
/// Clap's, to be shown with [`clap::Error::exit`]; they include `--help` and `--version`.
pub fn parse<I>(arguments: I) -> Result<Invocation, clap::Error>
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    parse_with(arguments, Path::new(DEFAULT_FILE))
}

/// The same with another file in the place of the default one.
fn parse_with<I>(arguments: I, default: &Path) -> Result<Invocation, clap::Error>
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let matches = command().try_get_matches_from(arguments).map_err(bench::with_hint).map_err(explained)?;
    match matches.subcommand() {
        Some(("demo", m)) => Ok(Invocation::Demo(DemoOptions {
            seconds: m.get_one("seconds").copied().unwrap_or(DEMO.seconds),
            backends: m.get_one("backends").copied().unwrap_or(DEMO.backends),
            rate: m.get_one("rate").copied().unwrap_or(DEMO.rate),
            cache: m.get_flag("cache"),
        })),
        Some(("generate", m)) => Ok(Invocation::Generate(match m.subcommand() {
            Some(("completions", m)) => {
                Document::Completions(m.get_one("shell").copied().unwrap_or(Shell::Bash))
            }
            Some(("man", _)) => Document::Man,
            Some(("metrics", _)) => Document::Metrics,
            _ => Document::Reference,
        })),
        Some(("console", m)) => Ok(Invocation::Console(console(m, "address"))),
        Some(("reflect", m)) => Ok(Invocation::Reflect(Box::new(reflect::options(m)))),
        Some(("bench", m)) => {
            let options = bench::options(m);
            let is_closed = matches!(options.load, Load::Outstanding(_));
            timed(&options.report.fail_if, is_closed, "without --rate or --ramp")?;
            Ok(Invocation::Bench(Box::new(options)))
        }
        Some(("replay", m)) => {
            let options = replay::options(m);
            timed(&options.report.fail_if, options.timing == Timing::Max, "with --max")?;
            Ok(Invocation::Replay(Box::new(options)))
        }
        Some(("scope", m)) => Ok(Invocation::Scope(Box::new(scope::options(m)))),
        _ if matches.contains_id("client") || matches.contains_id("execute") => {
            Ok(Invocation::Console(console(&matches, "client")))
        }
        _ => serve(&matches, default).map(|f| Invocation::Serve(Box::new(f))),
    }
}

/// Refuses conditions on the times of queries where these have none: they would never hold.
fn timed(conditions: &Criteria, has_none: bool, why: &str) -> Result<(), clap::Error> {
    if !has_none || !conditions.need_times() {
        return Ok(());
    }
    let said = format!("--fail-if '{conditions}': queries have no time to be sent at {why}, and no lag\n");
    Err(clap::Error::raw(ErrorKind::ArgumentConflict, said))
}

/// Reads the options of the console's client, whose address is the value of this argument.
fn console(matches: &ArgMatches, address: &str) -> ConsoleOptions {
    ConsoleOptions {
        file: matches.get_one::<PathBuf>("config").cloned(),
        address: matches.get_one::<SocketAddr>(address).copied(),
        key: matches.get_one::<ConsoleKey>("setkey").cloned(),
        commands: matches.get_many::<String>("execute").unwrap_or_default().cloned().collect(),
    }
}

/// The arguments that the console's client has as a command of its own, and as dnsdist's flags.
fn console_arguments() -> [Arg; 2] {
    [
        Arg::new("execute")
            .short('e')
            .long("execute")
            .value_name("COMMAND")
            .allow_hyphen_values(true)
            .action(ArgAction::Append)
            .help(
                "Run this command on the console of a running process; the exit code tells whether it worked",
            ),
        Arg::new("setkey")
            .short('k')
            .long("setkey")
            .value_name("KEY")
            .value_parser(ValueParser::new(|t: &str| {
                value::console_key(t).map_err(|e| format!("expected {e}"))
            }))
            .help("The console's key, rather than the configuration's"),
    ]
}

fn console_address() -> ValueParser {
    ValueParser::new(|t: &str| value::address_of(t, CONSOLE_PORT).map_err(|e| format!("expected {e}")))
}

fn serve(matches: &ArgMatches, default: &Path) -> Result<Flags, clap::Error> {
    let many = |id: &str| matches.get_many::<SocketAddr>(id).unwrap_or_default().copied().collect::<Vec<_>>();
    let mut flags = Flags {
        file: matches.get_one::<PathBuf>("config").cloned(),
        check: matches.contains_id("check-config"),
        locals: many("local"),
        acl: matches.get_many::<Prefix>("acl").unwrap_or_default().copied().collect(),
        backends: many("address"),
        settings: Settings::default(),
    };
    for setting in SETTINGS.iter().filter(|s| s.flag) {
        let value = match setting.kind {
            Kind::Switch => matches.get_flag(setting.name).then_some(Value::Switch(true)),
            Kind::Number { .. }
            | Kind::Span { .. }
            | Kind::Factor
            | Kind::Choice(_)
            | Kind::Cpus
            | Kind::FastOpenKey
            | Kind::Text(_) => matches.get_one::<Value>(setting.name).cloned(),
        };
        if let Some(value) = value {
            flags.settings.set(setting.key, Sited { value, origin: Origin::command_line() });
        }
    }
    if let Some(on) = matches.get_one::<bool>("structured-logging") {
        let value = Value::Text(if *on { "logfmt" } else { "text" }.to_owned());
        flags.settings.set(Key::LogFormat, Sited { value, origin: Origin::command_line() });
    }
    if matches.get_one::<String>("check-config").is_some_and(|how| how == "strict") {
        flags.settings.set(Key::Strict, Sited { value: Value::Switch(true), origin: Origin::command_line() });
    }
    if flags.file.is_none() && flags.backends.is_empty() && default.is_file() {
        flags.file = Some(default.to_owned());
    }
    if flags.file.is_none() && flags.locals.is_empty() && !flags.backends.is_empty() {
        flags.locals = vec![flags.backends.remove(0)];
    }
    if flags.file.is_none() && flags.backends.is_empty() {
        let default = default.display();
        let message = format!(
            "neither a configuration file nor a backend is given, and there is no {default}\n\n\
             Usage: {USAGE}\n"
        );
        return Err(clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message));
    }
    Ok(flags)
}

/// The configuration that is read where neither one nor a server is named.
pub const DEFAULT_FILE: &str = "/etc/dnslob/dnslob.lua";

const DEMO: DemoOptions = DemoOptions { seconds: 10, backends: 4, rate: 20_000, cache: false };

/// Builds the command, for parsing, help, man page and completions.
#[must_use]
pub fn command() -> Command {
    let address = || ValueParser::new(|t: &str| value::address(t).map_err(|e| format!("expected {e}")));
    let mut command = Command::new("dnslob")
        .version(env!("CARGO_PKG_VERSION"))
        .about("DNS load balancer: sends queries to as few name servers as serve them well")
        .override_usage(
            "dnslob [OPTIONS] LISTEN BACKEND...\n       dnslob [OPTIONS] -C FILE [BACKEND...]\n       \
             dnslob [OPTIONS] -l LISTEN BACKEND...\n       dnslob console [OPTIONS] [ADDR:PORT]\n       dnslob demo [OPTIONS]\n       \
             dnslob bench [OPTIONS] ADDR:PORT\n       dnslob reflect [OPTIONS]\n       \
             dnslob replay [OPTIONS] CAPTURE TARGET [TARGET2]\n       dnslob scope [OPTIONS] CAPTURE...\n       dnslob generate DOCUMENT",
        )
        .args_conflicts_with_subcommands(true)
        .arg(
            Arg::new("address")
                .value_name("ADDRESS")
                .num_args(0..)
                .value_parser(address())
                .help("The listen address, then the backends; with -C or -l all are backends")
                .long_help(
                    "The listen address, then the backends; with -C or -l all are backends. Each is IP[:PORT], the \
                     port 53 unless given, IPv6 with a port in brackets: 192.0.2.1, 192.0.2.1:5353, 2001:db8::1, \
                     [2001:db8::1]:5353.",
                ),
        )
        .arg(
            Arg::new("config")
                .short('C')
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The configuration file, in Lua"),
        )
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .value_name("strict")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("lenient")
                .value_parser(["lenient", "strict"])
                .hide_possible_values(true)
                .help("Report every error of the configuration and exit; with =strict, warnings are errors"),
        )
        .arg(
            Arg::new("local")
                .short('l')
                .long("local")
                .value_name("ADDR:PORT")
                .action(ArgAction::Append)
                .value_parser(address())
                .help("Listen here rather than where the file says; can be repeated"),
        )
        .arg(
            Arg::new("acl")
                .short('a')
                .long("acl")
                .value_name("NET")
                .action(ArgAction::Append)
                .value_parser(value_parser!(Prefix))
                .help("Allow queries from this network, rather than from the default ACL; can be repeated"),
        )
        .arg(
            Arg::new("client")
                .short('c')
                .long("client")
                .value_name("ADDR:PORT")
                .num_args(0..=1)
                .value_parser(console_address())
                .help("Connect to the console of a running process, here or where the file says"),
        )
        .args(console_arguments())
        .arg(
            Arg::new("disable-syslog")
                .long("disable-syslog")
                .action(ArgAction::SetTrue)
                .help("Accepted as in dnsdist: nothing is sent to syslog"),
        )
        .arg(
            Arg::new("structured-logging")
                .long("structured-logging")
                .value_name("true|false")
                .value_parser(value_parser!(bool))
                .help("Write the log as logfmt lines, as setStructuredLogging does"),
        )
        .arg(
            Arg::new("supervised")
                .long("supervised")
                .action(ArgAction::SetTrue)
                .help("Accepted as in dnsdist: dnslob always stays in the foreground"),
        );
    for setting in SETTINGS.iter().filter(|s| s.flag) {
        let first = setting.doc.split_once(['.', ';']).map_or(setting.doc, |(first, _)| first);
        let default = match setting.default {
            "" | "false" => String::new(),
            default => format!(" [default: {default}]"),
        };
        let mut arg = Arg::new(setting.name)
            .long(setting.name)
            .help(format!("{first}{default}"))
            .long_help(format!("{}{default}", setting.doc));
        if let Some(short) = setting.short {
            arg = arg.short(short);
        }
        arg = match setting.kind {
            Kind::Switch => arg.action(ArgAction::SetTrue),
            Kind::Choice(words) => arg.value_name(words.join("|")).value_parser(
                // Parsed by the table, listed for the completions.
                clap::builder::TypedValueParser::try_map(
                    clap::builder::PossibleValuesParser::new(words),
                    move |word: String| setting.parse(&word),
                ),
            ),
            Kind::Number { .. }
            | Kind::Span { .. }
            | Kind::Factor
            | Kind::Cpus
            | Kind::Text(_)
            | Kind::FastOpenKey => {
                arg.value_name(value_name(&setting.kind)).value_parser(move |t: &str| setting.parse(t))
            }
        };
        if let (Kind::Choice(words), true) = (setting.kind, setting.default.is_empty()) {
            arg = arg.value_name("NAME").hide_possible_values(words.len() > 6);
        }
        command = command.arg(arg);
    }
    let measuring = [bench::command(), reflect::command(), replay::command(), scope::command()];
    command.subcommands(measuring).subcommand(demo()).subcommand(console_command()).subcommand(generate())
}

fn console_command() -> Command {
    Command::new("console")
        .about("Connects to the console of a running process")
        .arg(
            Arg::new("address")
                .value_name("ADDR:PORT")
                .value_parser(console_address())
                .help("Where the console listens, rather than where the configuration says"),
        )
        .arg(
            Arg::new("config")
                .short('C')
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The configuration of the running process [default: /etc/dnslob/dnslob.lua]"),
        )
        .args(console_arguments())
}

fn demo() -> Command {
    let number = |name: &'static str, value_name, help: &'static str, max: u32, default: u32| {
        let arg =
            Arg::new(name).long(name).value_name(value_name).help(help).default_value(default.to_string());
        (arg, i64::from(max))
    };
    let (seconds, seconds_max) = number("seconds", "N", "How long to run, 3 or more", 86_400, DEMO.seconds);
    let (backends, backends_max) = number("backends", "N", "Embedded backends", 64, DEMO.backends.into());
    let (rate, rate_max) = number("rate", "QPS", "Offered load, queries per second", 200_000, DEMO.rate);
    Command::new("demo")
        .about("Serve embedded backends on loopback under load, and show statistics")
        .arg(seconds.value_parser(value_parser!(u32).range(3..=seconds_max)))
        .arg(backends.value_parser(value_parser!(u16).range(2..=backends_max)))
        .arg(rate.value_parser(value_parser!(u32).range(1..=rate_max)))
        .arg(
            Arg::new("cache")
                .long("cache")
                .action(ArgAction::SetTrue)
                .help("Answer from a packet cache before the backends"),
        )
}

fn generate() -> Command {
    let shell = Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell));
    Command::new("generate")
        .about("Print a document generated from the tables of settings, functions and metrics")
        .subcommand_required(true)
        .subcommand(Command::new("man").about("The manual page"))
        .subcommand(Command::new("completions").about("Completions for a shell").arg(shell))
        .subcommand(Command::new("reference").about("The reference of the configuration, Markdown"))
        .subcommand(Command::new("metrics").about("The statistics, Markdown"))
}

fn value_name(kind: &Kind) -> String {
    match kind {
        Kind::Number { unit: "us", .. } => "US",
        Kind::Number { unit: "ms", .. } => "MS",
        Kind::Number { unit: "bytes", .. } => "BYTES",
        Kind::Number { .. } => "N",
        Kind::Span { .. } => "DURATION",
        Kind::Factor => "FACTOR",
        Kind::Cpus => "LIST",
        Kind::Switch | Kind::Choice(_) | Kind::Text(_) | Kind::FastOpenKey => "NAME",
    }
    .to_owned()
}

/// Formats errors, a line each.
#[must_use]
pub fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(|e| format!("{e}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        match parse_with(["dnslob"].iter().chain(arguments), Path::new("/nowhere/dnslob.lua")) {
            Ok(Invocation::Serve(flags)) => *flags,
            other => panic!("{arguments:?} gave {other:?}"),
        }
    }

    fn refused(arguments: &[&str]) -> String {
        let parsed = parse_with(["dnslob"].iter().chain(arguments), Path::new("/nowhere/dnslob.lua"));
        parsed.expect_err("a refusal").to_string()
    }

    fn texts(addresses: &[SocketAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_lag_needs_times() {
        let lag = ["--fail-if", "loss>0,lag99>1ms"];
        let of = |arguments: &[&'static str]| [arguments, &lag].concat();
        for arguments in [&["bench", "127.0.0.1"][..], &["replay", "x", "127.0.0.1", "--max"]] {
            let said = refused(&of(arguments));
            assert!(said.contains("lag99>1ms") && said.contains("no lag"), "{said}");
        }
        for arguments in [
            &["bench", "127.0.0.1", "--rate", "5"][..],
            &["bench", "127.0.0.1", "--ramp"],
            &["replay", "x", "127.0.0.1"],
        ] {
            let all = ["dnslob"].into_iter().chain(of(arguments));
            assert!(parse_with(all, Path::new("/nowhere")).is_ok(), "{arguments:?}");
        }
    }

    #[test]
    fn the_first_positional_is_the_listener_unless_one_is_given() {
        let plain =
            flags(&["127.0.0.1:5300", "192.0.2.1", "192.0.2.2:5353", "2001:db8::1", "[2001:db8::2]:54"]);
        assert_eq!(texts(&plain.locals), ["127.0.0.1:5300"]);
        assert_eq!(
            texts(&plain.backends),
            ["192.0.2.1:53", "192.0.2.2:5353", "[2001:db8::1]:53", "[2001:db8::2]:54"]
        );
        let local = flags(&["-l", "[::1]:54", "--local", "127.0.0.1", "192.0.2.1"]);
        assert_eq!(texts(&local.locals), ["[::1]:54", "127.0.0.1:53"]);
        assert_eq!(texts(&local.backends), ["192.0.2.1:53"]);
        let file = flags(&["-C", "x.lua", "192.0.2.1"]);
        assert!(file.locals.is_empty());
        assert_eq!(texts(&file.backends), ["192.0.2.1:53"]);
    }

    #[test]
    fn the_default_file_is_read_where_nothing_else_is_said() {
        // Any file will do.
        let default = std::env::current_exe().expect("a path");
        let file = |arguments: &[&str]| match parse_with(["dnslob"].iter().chain(arguments), &default) {
            Ok(Invocation::Serve(flags)) => flags.file,
            other => panic!("{arguments:?} gave {other:?}"),
        };
        for arguments in [&[][..], &["--check-config"], &["--supervised", "--disable-syslog"], &["-l", "::1"]]
        {
            assert_eq!(file(arguments).as_deref(), Some(&*default), "{arguments:?}");
        }
        assert_eq!(file(&["127.0.0.1", "192.0.2.1"]), None);
        assert_eq!(file(&["-C", "x.lua"]).as_deref(), Some(Path::new("x.lua")));
    }

    #[test]
    fn nothing_to_serve_shows_the_usage() {
        for arguments in [&[][..], &["127.0.0.1"], &["-l", "127.0.0.1"], &["--check-config"]] {
            let message = refused(arguments);
            assert!(message.contains("neither a configuration file nor a backend"), "{message}");
            assert!(message.contains(USAGE), "{message}");
        }
    }

    #[test]
    fn every_flag_of_the_table_reaches_its_setting() {
        for (flag, value, key, want) in [
            ("--shards", "3", Key::Shards, Value::Number(3)),
            ("--cpus", "0,2-5", Key::Cpus, Value::Cpus(vec![0, 2, 3, 4, 5])),
            ("--steer", "client", Key::Steer, Value::Text("client".into())),
            ("--busy-poll", "20", Key::BusyPoll, Value::Number(20)),
            ("--batch", "32", Key::Batch, Value::Number(32)),
            ("--drain", "200ms", Key::Drain, Value::Span(crate::base::time::TickDelta::from_ms(200))),
            ("--stats", "1m", Key::Stats, Value::Span(crate::base::time::TickDelta::from_ms(60_000))),
            ("--log-format", "json", Key::LogFormat, Value::Text("json".into())),
            ("--uid", "nobody", Key::User, Value::Text("nobody".into())),
            ("-g", "nogroup", Key::Group, Value::Text("nogroup".into())),
            ("--backends-max", "7", Key::BackendsMax, Value::Number(7)),
            ("--sockets", "16", Key::Sockets, Value::Number(16)),
            ("--udp-timeout", "900", Key::UdpTimeout, Value::Number(900)),
            ("--outstanding-max", "9", Key::OutstandingMax, Value::Number(9)),
            ("--receive-buffer", "4096", Key::ReceiveBuffer, Value::Number(4096)),
            ("--send-buffer", "8192", Key::SendBuffer, Value::Number(8192)),
            ("--policy", "p2c", Key::Policy, Value::Text("p2c".into())),
        ] {
            let flags = flags(&[flag, value, "127.0.0.1", "192.0.2.1"]);
            assert_eq!(flags.settings.written(key).map(|s| &s.value), Some(&want), "{flag}");
        }
        let verbose = flags(&["-v", "--supervised", "127.0.0.1", "192.0.2.1"]);
        assert!(verbose.settings.switch(Key::Verbose));
        assert!(flags(&["127.0.0.1", "192.0.2.1"]).settings.written(Key::Verbose).is_none());
    }

    #[test]
    fn invalid_values_are_refused_with_the_expected_ones() {
        for (arguments, expected) in [
            (["--shards", "0"], "a whole number from 1 to 1024"),
            (["--cpus", "5-2"], "a list of CPU numbers"),
            (["--drain", "2"], "a duration"),
            (["--stats", "1ms"], "from 100ms to 24h"),
            (["--udp-timeout", "0"], "a whole number of ms from 1 to 300000"),
            (["-a", "10.0.0.0/33"], "is not a network"),
            (["-l", "localhost"], "IP[:PORT]"),
            (["--policy", "random"], "invalid value 'random'"),
        ] {
            let mut all = arguments.to_vec();
            all.extend(["127.0.0.1", "192.0.2.1"]);
            let message = refused(&all);
            assert!(message.contains(expected), "{arguments:?}: {message}");
            assert!(message.contains(arguments[1]), "{message}");
        }
    }

    #[test]
    fn subcommands_are_distinguished_from_addresses() {
        let demo = parse(["dnslob", "demo", "--seconds", "3"]);
        assert!(matches!(demo, Ok(Invocation::Demo(DemoOptions { seconds: 3, .. }))), "{demo:?}");
        let man = parse(["dnslob", "generate", "man"]);
        assert!(matches!(man, Ok(Invocation::Generate(Document::Man))), "{man:?}");
        let zsh = parse(["dnslob", "generate", "completions", "zsh"]);
        assert!(matches!(zsh, Ok(Invocation::Generate(Document::Completions(Shell::Zsh)))), "{zsh:?}");
    }
}
