//! The command line: flags from the one table of settings, positionals as dnsdist has them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{StyledStr, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::draft::{Draft, DraftListener, DraftServer};
use super::error::{ConfigError, Origin, Sited};
use super::options::{Kind, SETTINGS, Settings, Value};
use super::prefix::Prefix;
use super::value;
use std::net::SocketAddr;

/// The usage in one line.
pub const USAGE: &str =
    "dnslob LISTEN BACKEND...  |  dnslob -C FILE  |  dnslob -l LISTEN BACKEND...  (dnslob --help says more)";

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Serve, or check a configuration.
    Serve(Box<Flags>),
    /// Show what dnslob does.
    Demo(DemoOptions),
    /// Print a generated document.
    Generate(Document),
}

/// How to serve. Kept for the life of the process: every reload starts from it.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Only say whether the configuration is good.
    pub check: bool,
    /// Listen addresses, which replace those of the file.
    pub locals: Vec<SocketAddr>,
    /// Networks added to the ACL.
    pub acl: Vec<Prefix>,
    /// Servers added to those of the file.
    pub backends: Vec<SocketAddr>,
    /// Settings, which override those of the file.
    pub settings: Settings,
}

/// What `dnslob demo` was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// How long it runs, seconds.
    pub seconds: u32,
    /// Embedded backends.
    pub backends: u16,
    /// Offered load, queries per second.
    pub rate: u32,
}

/// A document made from the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// The manual page, roff.
    Man,
    /// Shell completions.
    Completions(Shell),
    /// The reference, Markdown.
    Reference,
}

impl Flags {
    /// Puts what the command line says over what the file said.
    pub fn apply(&self, draft: &mut Draft) {
        let origin = Origin::command_line();
        draft.settings.overlay(&self.settings);
        if !self.locals.is_empty() {
            draft.listeners = self
                .locals
                .iter()
                .map(|a| DraftListener { origin: origin.clone(), address: *a, interface: None, dscp: 0 })
                .collect();
        }
        draft.acl.extend(&self.acl);
        draft.servers.extend(self.backends.iter().map(|a| DraftServer::new(origin.clone(), *a)));
    }
}

/// Reads the command line.
///
/// # Errors
/// What clap says of it, to be shown with [`clap::Error::exit`]; that includes `--help` and
/// `--version`.
pub fn parse<I>(arguments: I) -> Result<Invocation, clap::Error>
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    match matches.subcommand() {
        Some(("demo", m)) => Ok(Invocation::Demo(DemoOptions {
            seconds: m.get_one("seconds").copied().unwrap_or(DEMO.seconds),
            backends: m.get_one("backends").copied().unwrap_or(DEMO.backends),
            rate: m.get_one("rate").copied().unwrap_or(DEMO.rate),
        })),
        Some(("generate", m)) => Ok(Invocation::Generate(match m.subcommand() {
            Some(("completions", m)) => {
                Document::Completions(m.get_one("shell").copied().unwrap_or(Shell::Bash))
            }
            Some(("man", _)) => Document::Man,
            _ => Document::Reference,
        })),
        _ => serve(&mut command, &matches).map(|f| Invocation::Serve(Box::new(f))),
    }
}

fn serve(command: &mut Command, matches: &ArgMatches) -> Result<Flags, clap::Error> {
    let many = |id: &str| matches.get_many::<SocketAddr>(id).unwrap_or_default().copied().collect::<Vec<_>>();
    let mut flags = Flags {
        file: matches.get_one::<PathBuf>("config").cloned(),
        check: matches.get_flag("check-config"),
        locals: many("local"),
        acl: matches.get_many::<Prefix>("acl").unwrap_or_default().copied().collect(),
        backends: many("address"),
        settings: Settings::default(),
    };
    for setting in SETTINGS.iter().filter(|s| s.flag) {
        let value = match setting.kind {
            Kind::Switch => matches.get_flag(setting.name).then_some(Value::Switch(true)),
            _ => matches.get_one::<Value>(setting.name).cloned(),
        };
        if let Some(value) = value {
            flags.settings.set(setting.key, Sited { value, origin: Origin::command_line() });
        }
    }
    if flags.file.is_none() && flags.locals.is_empty() && !flags.backends.is_empty() {
        flags.locals = vec![flags.backends.remove(0)];
    }
    if flags.file.is_none() && flags.backends.is_empty() {
        let message = format!("neither a configuration file nor a backend is given\n\nUsage: {USAGE}\n");
        return Err(command.error(clap::error::ErrorKind::MissingRequiredArgument, message));
    }
    Ok(flags)
}

const DEMO: DemoOptions = DemoOptions { seconds: 20, backends: 4, rate: 20_000 };

/// The whole command, for parsing, help, man page and completions.
#[must_use]
pub fn command() -> Command {
    let address = || ValueParser::new(|t: &str| value::address(t).map_err(|e| format!("expected {e}")));
    let text = |t: &'static str| StyledStr::from(t);
    let mut command = Command::new("dnslob")
        .version(env!("CARGO_PKG_VERSION"))
        .about("DNS load balancer: lobs queries to as few name servers as serve them well")
        .override_usage(
            "dnslob [OPTIONS] LISTEN BACKEND...\n       dnslob [OPTIONS] -C FILE [BACKEND...]\n       \
             dnslob [OPTIONS] -l LISTEN BACKEND...\n       dnslob demo [OPTIONS]\n       dnslob generate DOCUMENT",
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
                .action(ArgAction::SetTrue)
                .help("Report every error of the configuration and end"),
        )
        .arg(
            Arg::new("local")
                .short('l')
                .long("local")
                .value_name("ADDR:PORT")
                .action(ArgAction::Append)
                .value_parser(address())
                .help("Listen here, instead of where the file says; can be repeated"),
        )
        .arg(
            Arg::new("acl")
                .short('a')
                .long("acl")
                .value_name("NET")
                .action(ArgAction::Append)
                .value_parser(value_parser!(Prefix))
                .help("Let this network ask, too; can be repeated"),
        )
        .arg(
            Arg::new("supervised")
                .long("supervised")
                .action(ArgAction::SetTrue)
                .help("Accepted for dnsdist's sake: dnslob always stays in the foreground"),
        );
    for setting in SETTINGS.iter().filter(|s| s.flag) {
        let short_help = setting.doc.split_inclusive(['.', ';']).next().unwrap_or(setting.doc);
        let mut arg = Arg::new(setting.name)
            .long(setting.name)
            .help(text(short_help.trim_end_matches(['.', ';'])))
            .long_help(text(setting.doc));
        if let Some(short) = setting.short {
            arg = arg.short(short);
        }
        arg = match setting.kind {
            Kind::Switch => arg.action(ArgAction::SetTrue),
            Kind::Choice(words) => arg.value_name(words.join("|")).value_parser(
                // Typed by the table, listed for the completions.
                clap::builder::TypedValueParser::try_map(
                    clap::builder::PossibleValuesParser::new(words),
                    move |word: String| setting.parse(&word),
                ),
            ),
            _ => arg.value_name(value_name(&setting.kind)).value_parser(move |t: &str| setting.parse(t)),
        };
        if let (Kind::Choice(words), true) = (setting.kind, setting.default.is_empty()) {
            arg = arg.value_name("NAME").hide_possible_values(words.len() > 6);
        }
        command = command.arg(arg);
    }
    command.subcommand(demo()).subcommand(generate())
}

fn demo() -> Command {
    let number = |name: &'static str, value_name, help: &'static str, max: u32, default: u32| {
        let arg =
            Arg::new(name).long(name).value_name(value_name).help(help).default_value(default.to_string());
        (arg, i64::from(max))
    };
    let (seconds, seconds_max) = number("seconds", "N", "How long to run", 86_400, DEMO.seconds);
    let (backends, backends_max) = number("backends", "N", "Embedded backends", 64, DEMO.backends.into());
    let (rate, rate_max) = number("rate", "QPS", "Offered load, queries per second", 10_000_000, DEMO.rate);
    Command::new("demo")
        .about("Serve embedded backends on loopback under load, and show it")
        .arg(seconds.value_parser(value_parser!(u32).range(1..=seconds_max)))
        .arg(backends.value_parser(value_parser!(u16).range(2..=backends_max)))
        .arg(rate.value_parser(value_parser!(u32).range(1..=rate_max)))
}

fn generate() -> Command {
    let shell = Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell));
    Command::new("generate")
        .about("Print a document made from the tables of settings and functions")
        .subcommand_required(true)
        .subcommand(Command::new("man").about("The manual page"))
        .subcommand(Command::new("completions").about("Completions for a shell").arg(shell))
        .subcommand(Command::new("reference").about("The reference of the configuration, Markdown"))
}

fn value_name(kind: &Kind) -> String {
    match kind {
        Kind::Number { unit: "us", .. } => "US",
        Kind::Number { unit: "ms", .. } => "MS",
        Kind::Number { unit: "octets", .. } => "OCTETS",
        Kind::Number { .. } => "N",
        Kind::Span { .. } => "DURATION",
        Kind::Factor => "FACTOR",
        Kind::Cpus => "LIST",
        Kind::Switch | Kind::Choice(_) | Kind::Text(_) => "NAME",
    }
    .to_owned()
}

/// Errors as one text, a line each.
#[must_use]
pub fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(|e| format!("{e}\n")).collect()
}
