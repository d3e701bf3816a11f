//! The table of process settings: the source of the flags, the Lua setters, `--help`, the man page,
//! the shell completions and the reference.
//!
//! A setting that is not in here does not exist. Options of one server, listener or pool are in
//! [`functions`](crate::config::functions).

use std::fmt;

use crate::base::time::TickDelta;
use crate::config::error::Sited;
use crate::config::value;

/// The settings; each number is an index into [`SETTINGS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is documented where it is defined, in the table.
pub enum Key {
    Shards,
    Cpus,
    Steer,
    BusyPoll,
    Batch,
    Drain,
    Stats,
    MetricsPrefix,
    LogFormat,
    LogTime,
    LogLevelName,
    LogClients,
    Verbose,
    VerboseHealth,
    User,
    Group,
    BackendsMax,
    Sockets,
    UdpTimeout,
    OutstandingMax,
    RepeatsMax,
    ReceiveBuffer,
    SendBuffer,
    Policy,
    BalancingFactor,
    ConsistentFactor,
    Perturbation,
    RoundRobinFail,
    Servfail,
    AllowEmpty,
    DropEmpty,
    SelfPayload,
    SelfEdns,
    TruncateTc,
    FixupCase,
    LuaErrorAction,
    EcsOverride,
    EcsV4,
    EcsV6,
    StaleCache,
    CacheCleaningDelay,
    CacheCleaningPercentage,
    TcpReceiveTimeout,
    TcpSendTimeout,
    TcpDuration,
    TcpQueries,
    TcpConnections,
    TcpConnectionsPerClient,
    TcpRate,
    TlsSessionRate,
    TlsResumptionRate,
    RateBan,
    TcpReads,
    ReadsBan,
    TcpOverload,
    TcpMaskV4,
    TcpMaskV6,
    TcpMaskV4Port,
    FastOpenKey,
    BackendConnectionsIdle,
    BackendConnectionsKept,
    ProxyBytes,
    ProxyAcl,
    Strict,
    ConsoleLog,
    ConsoleOutput,
    ConsoleConnections,
    ConsoleBindFatal,
    TrafficRing,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Which.
    pub key: Key,
    /// Its name, also of its long flag where it has one.
    pub name: &'static str,
    /// Whether it can be given on the command line.
    pub flag: bool,
    /// The short form of the flag.
    pub short: Option<char>,
    /// Its type.
    pub kind: Kind,
    /// Its default as written; empty when it is unset.
    pub default: &'static str,
    /// The Lua functions of one argument that set it.
    pub lua: &'static [Setter],
    /// Whether Lua's numbers out of range are taken as the nearest in range, with a warning: those
    /// of dnsdist's settings.
    pub lenient: bool,
    /// What 0 is taken as then, if it is out of range and not the smallest: what it means in dnsdist.
    pub zero: Option<u32>,
    /// Whether a reload changes it; otherwise a restart does.
    pub reload: bool,
    /// Its description: sentences for the reference, the first one also for `--help`.
    pub doc: &'static str,
}

/// A Lua function of one argument that sets a setting.
#[derive(Debug)]
pub struct Setter {
    /// The function's name.
    pub name: &'static str,
    /// The setting's value is the argument times this.
    pub scale: u32,
    /// Unit of the argument; empty when it has none.
    pub unit: &'static str,
}

/// The type of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number within bounds.
    Number {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
        /// Unit; empty for a count.
        unit: &'static str,
    },
    /// A span of time within bounds, milliseconds.
    Span {
        /// Shortest.
        min_ms: u64,
        /// Longest.
        max_ms: u64,
    },
    /// 0 for off, or a factor from 1 to 1000.
    Factor,
    /// true or false; as a flag, present or absent.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of CPUs.
    Cpus,
    /// Any non-empty text, with a description of it.
    Text(&'static str),
    /// Sixteen bytes in the kernel's format of a TCP Fast Open key.
    FastOpenKey,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of [`Kind::Number`].
    Number(u32),
    /// Of [`Kind::Span`].
    Span(TickDelta),
    /// Of [`Kind::Factor`].
    Factor(f64),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Choice`], [`Kind::Text`] and [`Kind::FastOpenKey`].
    Text(String),
    /// Of [`Kind::Cpus`].
    Cpus(Vec<u16>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Span(s) => value::span_text(*s).fmt(f),
            Self::Factor(x) => x.fmt(f),
            Self::Switch(b) => b.fmt(f),
            Self::Text(t) => t.fmt(f),
            Self::Cpus(c) => value::cpus_text(c).fmt(f),
        }
    }
}

impl fmt::Display for Kind {
    /// Formats what is expected, for errors and the reference.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { min, max, unit: "" } => write!(f, "a whole number from {min} to {max}"),
            Self::Number { min, max, unit: "ms" } => {
                write!(f, "a whole number of ms from {min} to {max}, or a time as \"200ms\" or \"2s\"")
            }
            Self::Number { min, max, unit } => write!(f, "a whole number of {unit} from {min} to {max}"),
            Self::Span { min_ms, max_ms } => write!(
                f,
                "a duration from {} to {}, as \"200ms\", \"2s\" or \"1m\"",
                value::span_text(TickDelta::from_ms(*min_ms)),
                value::span_text(TickDelta::from_ms(*max_ms))
            ),
            Self::Factor => f.write_str("0 (off) or a number from 1 to 1000"),
            Self::Switch => f.write_str("true or false"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Self::Cpus => f.write_str(value::CPUS),
            Self::Text(what) => f.write_str(what),
            Self::FastOpenKey => f.write_str(value::FAST_OPEN_KEY),
        }
    }
}

impl Setting {
    /// Parses a value from the command line.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let value = match self.kind {
            Kind::Number { min, max, unit } => {
                let span = || value::span(text).ok().filter(|_| unit == "ms").and_then(whole_ms);
                let number = text.parse().ok().or_else(span);
                number.filter(|n| (min..=max).contains(n)).map(Value::Number)
            }
            Kind::Span { min_ms, max_ms } => value::span(text)
                .ok()
                .filter(|s| (TickDelta::from_ms(min_ms)..=TickDelta::from_ms(max_ms)).contains(s))
                .map(Value::Span),
            Kind::Factor => text.parse().ok().and_then(factor),
            Kind::Switch => text.parse().ok().map(Value::Switch),
            Kind::Choice(words) => words.contains(&text).then(|| Value::Text(text.to_owned())),
            Kind::Cpus => value::cpus(text).ok().map(Value::Cpus),
            Kind::Text(_) => (!text.is_empty()).then(|| Value::Text(text.to_owned())),
            Kind::FastOpenKey => value::fast_open_key(text).ok().map(|_| Value::Text(text.to_owned())),
        };
        value.ok_or_else(|| format!("expected {}", self.kind))
    }

    /// Converts a number given to a Lua function; `scale` is the setter's.
    ///
    /// # Errors
    /// What was expected.
    pub fn from_number(&self, number: f64, scale: u32) -> Result<Value, String> {
        let scaled = number * f64::from(scale);
        if let Kind::Number { min, max, unit } = self.kind {
            if scaled.fract() == 0.0 && (f64::from(min)..=f64::from(max)).contains(&scaled) {
                // The range bounds the cast.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                return Ok(Value::Number(scaled as u32));
            }
            if scale != 1 {
                let (min, max) = (f64::from(min) / f64::from(scale), f64::from(max) / f64::from(scale));
                return Err(format!("a number of seconds from {min} to {max}, in whole {unit}"));
            }
        } else if let (Kind::Factor, Some(value)) = (self.kind, factor(scaled)) {
            return Ok(value);
        }
        Err(self.kind.to_string())
    }
}

/// The largest of [`Kind::Factor`].
pub const FACTOR_MAX: f64 = 1000.0;

fn factor(x: f64) -> Option<Value> {
    (x == 0.0 || (1.0..=FACTOR_MAX).contains(&x)).then_some(Value::Factor(x))
}

/// The settings that were given, each with its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings([Option<Sited<Value>>; SETTINGS.len()]);

impl Default for Settings {
    /// Creates empty settings.
    fn default() -> Self {
        Self(std::array::from_fn(|_| None))
    }
}

impl Settings {
    /// Sets a value, replacing an earlier one.
    pub fn set(&mut self, key: Key, value: Sited<Value>) {
        self.0[key as usize] = Some(value);
    }

    /// Returns what was given.
    #[must_use]
    pub fn written(&self, key: Key) -> Option<&Sited<Value>> {
        self.0[key as usize].as_ref()
    }

    /// Takes every value that is set in `over`.
    pub fn overlay(&mut self, over: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&over.0) {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        }
    }

    /// Returns what was given, or the default; `None` if there is no default.
    #[must_use]
    pub fn value(&self, key: Key) -> Option<Value> {
        let setting = setting(key);
        self.written(key).map(|s| s.value.clone()).or_else(|| setting.parse(setting.default).ok())
    }

    /// Returns whether these have the same values, wherever they were written.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let value = |sited: &Option<Sited<Value>>| sited.as_ref().map(|s| s.value.clone());
        self.0.iter().zip(&other.0).all(|(own, other)| value(own) == value(other))
    }

    /// Returns a number.
    #[must_use]
    pub fn number(&self, key: Key) -> Option<u32> {
        if let Some(Value::Number(n)) = self.value(key) { Some(n) } else { None }
    }

    /// Returns a span.
    #[must_use]
    pub fn span(&self, key: Key) -> Option<TickDelta> {
        if let Some(Value::Span(s)) = self.value(key) { Some(s) } else { None }
    }

    /// Returns a factor; `None` for 0, off.
    #[must_use]
    pub fn factor(&self, key: Key) -> Option<f64> {
        if let Some(Value::Factor(x)) = self.value(key) { Some(x).filter(|x| *x > 0.0) } else { None }
    }

    /// Returns a switch.
    #[must_use]
    pub fn switch(&self, key: Key) -> bool {
        self.value(key) == Some(Value::Switch(true))
    }

    /// Returns a choice or text.
    #[must_use]
    pub fn text(&self, key: Key) -> Option<String> {
        if let Some(Value::Text(t)) = self.value(key) { Some(t) } else { None }
    }

    /// Returns a CPU list.
    #[must_use]
    pub fn cpus(&self, key: Key) -> Vec<u16> {
        if let Some(Value::Cpus(c)) = self.value(key) { c } else { Vec::new() }
    }
}

/// Returns the setting of a key.
#[must_use]
pub const fn setting(key: Key) -> &'static Setting {
    &SETTINGS[key as usize]
}

/// Returns a time as a whole number of milliseconds, if it is one.
fn whole_ms(span: TickDelta) -> Option<u32> {
    let ms = span.as_ms_ceil();
    (TickDelta::from_ms(ms) == span).then(|| u32::try_from(ms).ok()).flatten()
}

const fn set(name: &'static str) -> Setter {
    Setter { name, scale: 1, unit: "" }
}

const fn count(min: u32, max: u32) -> Kind {
    Kind::Number { min, max, unit: "" }
}

const fn bytes(max: u32) -> Kind {
    Kind::Number { min: 0, max, unit: "bytes" }
}

const fn times_ms(min: u32, max: u32) -> Kind {
    Kind::Number { min, max, unit: "ms" }
}

const fn seconds(name: &'static str) -> Setter {
    Setter { name, scale: 1000, unit: "s" }
}

const fn milliseconds(name: &'static str) -> Setter {
    Setter { name, scale: 1, unit: "ms" }
}

/// A day, milliseconds.
const DAY_MS: u32 = 86_400_000;

/// The usual values of an entry: a flag, no default, changed by a restart.
const BASE: Setting = Setting {
    key: Key::Shards,
    name: "",
    flag: true,
    short: None,
    kind: Kind::Switch,
    default: "",
    lua: &[],
    lenient: false,
    zero: None,
    reload: false,
    doc: "",
};

/// The usual values of a data path entry: no flag, a switch, off, changed by a reload.
const LIVE: Setting = Setting { flag: false, default: "false", lenient: true, reload: true, ..BASE };

/// Every setting, in the order of [`Key`].
pub static SETTINGS: [Setting; 69] = [
    Setting {
        key: Key::Shards,
        name: "shards",
        kind: count(1, 1024),
        lua: &[set("setShards")],
        doc: "Threads that serve queries, each with its own sockets for every listener and \
              server. By default one per CPU in `--cpus`, or per CPU that the process may use.",
        ..BASE
    },
    Setting {
        key: Key::Cpus,
        name: "cpus",
        kind: Kind::Cpus,
        lua: &[set("setCPUs")],
        doc: "CPUs to pin the shards to, in turn. By default those that the process may use.",
        ..BASE
    },
    Setting {
        key: Key::Steer,
        name: "steer",
        kind: Kind::Choice(&["flow", "cpu", "client"]),
        default: "flow",
        lua: &[set("setSteering")],
        doc: "How clients' packets are distributed to shards. `flow`: by the kernel's hash of \
              addresses and ports; `cpu`: to the shard on the CPU that received the packet; \
              `client`: all queries of a client to one shard.",
        ..BASE
    },
    Setting {
        key: Key::BusyPoll,
        name: "busy-poll",
        kind: Kind::Number { min: 0, max: 1_000_000, unit: "us" },
        default: "0",
        lua: &[set("setBusyPoll")],
        doc: "Poll for more packets this long before sleeping; 0 never polls. Trades CPU for latency.",
        ..BASE
    },
    Setting {
        key: Key::Batch,
        name: "batch",
        kind: count(1, 1024),
        default: "64",
        lua: &[set("setUDPMultipleMessagesVectorSize")],
        lenient: true,
        doc: "Most packets received or sent by one system call.",
        ..BASE
    },
    Setting {
        key: Key::Drain,
        name: "drain",
        kind: Kind::Span { min_ms: 0, max_ms: 3_600_000 },
        default: "2s",
        lua: &[set("setDrainTime")],
        reload: true,
        doc: "How long outstanding queries may take when the process stops.",
        ..BASE
    },
    Setting {
        key: Key::Stats,
        name: "stats",
        kind: Kind::Span { min_ms: 100, max_ms: 86_400_000 },
        lua: &[set("setStatsInterval")],
        reload: true,
        doc: "Print a line of statistics at this interval. By default none.",
        ..BASE
    },
    Setting {
        key: Key::MetricsPrefix,
        name: "metrics-prefix",
        kind: Kind::Choice(&["dnslob", "dnsdist"]),
        default: "dnslob",
        lua: &[set("setMetricsPrefix")],
        reload: true,
        doc: "Names of the metrics that the web server shows at /metrics. `dnsdist`: those of dnsdist with its \
              labels, for what both have, so that its dashboards and alerts keep working.",
        ..BASE
    },
    Setting {
        key: Key::LogFormat,
        name: "log-format",
        kind: Kind::Choice(&["text", "logfmt", "json"]),
        default: "text",
        reload: true,
        doc: "Format of log lines; `logfmt` is that of setStructuredLogging.",
        ..BASE
    },
    Setting {
        key: Key::LogTime,
        name: "log-time",
        kind: Kind::Choice(&["numeric", "iso8601"]),
        default: "numeric",
        reload: true,
        doc: "The time of logfmt lines: seconds since 1970, or as in ISO 8601. `timeFormat` of \
              setStructuredLogging.",
        ..BASE
    },
    Setting {
        key: Key::LogLevelName,
        name: "log-level-name",
        kind: Kind::Text("a name of letters"),
        default: "prio",
        reload: true,
        doc: "What the level is called in logfmt lines. `levelPrefix` of setStructuredLogging.",
        ..BASE
    },
    Setting {
        key: Key::LogClients,
        name: "log-clients",
        kind: Kind::Choice(&["whole", "network", "pseudonym"]),
        default: "whole",
        reload: true,
        lua: &[set("setLogClientPrivacy")],
        doc: "How query logs and the log show clients: `whole` addresses with ports, their `network` (/24 or \
              /48), or a `pseudonym`, which is the same in all logs until dnslob ends.",
        ..BASE
    },
    Setting {
        key: Key::Verbose,
        name: "verbose",
        short: Some('v'),
        default: "false",
        lua: &[set("setVerbose")],
        reload: true,
        doc: "Log verbosely.",
        ..BASE
    },
    Setting {
        key: Key::VerboseHealth,
        name: "verbose-health-checks",
        lua: &[set("setVerboseHealthChecks")],
        doc: "Log every failed health check rather than only changes of state.",
        ..LIVE
    },
    Setting {
        key: Key::User,
        name: "uid",
        short: Some('u'),
        kind: Kind::Text("the name or number of a user"),
        doc: "Run as this user once the sockets are open.",
        ..BASE
    },
    Setting {
        key: Key::Group,
        name: "gid",
        short: Some('g'),
        kind: Kind::Text("the name or number of a group"),
        doc: "Run as this group once the sockets are open.",
        ..BASE
    },
    Setting {
        key: Key::BackendsMax,
        name: "backends-max",
        kind: count(1, 65535),
        default: "1024",
        lua: &[set("setBackendsMax")],
        doc: "Most servers at a time, including removed ones that still have outstanding \
              queries. Sets the size of the counters.",
        ..BASE
    },
    Setting {
        key: Key::Sockets,
        name: "sockets",
        kind: count(1, 255),
        default: "4",
        lua: &[set("setSockets")],
        reload: true,
        doc: "Default number of UDP sockets, and so of source ports, per server and shard. Each \
              query takes a random one: more make answers harder to forge (RFC 5452) and cost a \
              little CPU.",
        ..BASE
    },
    Setting {
        key: Key::UdpTimeout,
        name: "udp-timeout",
        kind: Kind::Number { min: 1, max: 300_000, unit: "ms" },
        default: "2000",
        lua: &[
            Setter { name: "setUDPTimeout", scale: 1000, unit: "s" },
            Setter { name: "setUDPTimeoutMs", scale: 1, unit: "ms" },
        ],
        lenient: true,
        // dnsdist looks for queries that are too old once per second.
        zero: Some(1000),
        reload: true,
        doc: "Default time-out of queries to a server.",
        ..BASE
    },
    Setting {
        key: Key::OutstandingMax,
        name: "outstanding-max",
        kind: count(1, 65535),
        default: "65535",
        lua: &[set("setMaxUDPOutstanding")],
        lenient: true,
        zero: Some(65_535),
        reload: true,
        doc: "Default limit of outstanding queries per server and shard: over UDP, and as many \
              over TCP and TLS. One more is dropped and counted as `outstanding-full`.",
        ..BASE
    },
    Setting {
        key: Key::RepeatsMax,
        name: "repeated-queries-max",
        kind: count(1, 65535),
        default: "1000",
        lua: &[set("setMaxRepeatedQueries")],
        zero: Some(65_535),
        doc: "Limit of outstanding queries with the same question from the address of a server, per \
              shard; from any other address ten times as many. One more is dropped and counted as \
              `query-repeated`: a loop, in which a server sends its queries back to dnslob, ends \
              there. Each answer to that question allows a server one more, up to ten times as many.",
        ..LIVE
    },
    Setting {
        key: Key::ReceiveBuffer,
        name: "receive-buffer",
        kind: bytes(1 << 30),
        default: "4194304",
        reload: true,
        doc: "Receive buffer of every UDP socket, about 5,000 queries; 0 keeps the kernel's \
              default. In Lua: `setUDPSocketBufferSizes`. The kernel's limit is \
              `net.core.rmem_max`.",
        ..BASE
    },
    Setting {
        key: Key::SendBuffer,
        name: "send-buffer",
        kind: bytes(1 << 30),
        default: "1048576",
        reload: true,
        doc: "Send buffer of every UDP socket; 0 keeps the kernel's default. In Lua: `setUDPSocketBufferSizes`. \
              The kernel's limit is `net.core.wmem_max`.",
        ..BASE
    },
    Setting {
        key: Key::Policy,
        name: "policy",
        kind: Kind::Choice(&crate::config::functions::POLICIES),
        reload: true,
        doc: "Policy of every pool without its own. In Lua: `setServerPolicy`. By default \
              leastOutstanding.",
        ..BASE
    },
    Setting {
        key: Key::BalancingFactor,
        name: "weighted-balancing-factor",
        kind: Kind::Factor,
        default: "0",
        lua: &[set("setWeightedBalancingFactor")],
        doc: "wrandom, whashed and orderedWrandUntag skip a server with more than this multiple \
              of its fair share of the outstanding queries; 0 disables it.",
        ..LIVE
    },
    Setting {
        key: Key::ConsistentFactor,
        name: "consistent-hashing-balancing-factor",
        kind: Kind::Factor,
        default: "0",
        lua: &[set("setConsistentHashingBalancingFactor")],
        doc: "chashed skips a server with more than this multiple of its fair share of the \
              outstanding queries; 0 disables it.",
        ..LIVE
    },
    Setting {
        key: Key::Perturbation,
        name: "hash-perturbation",
        kind: count(0, u32::MAX),
        default: "0",
        lua: &[set("setWHashedPertubation"), set("setWHashedPerturbation")],
        doc: "Seed of the hashed policies. Set the same number on machines that should choose \
              the same servers.",
        ..LIVE
    },
    Setting {
        key: Key::RoundRobinFail,
        name: "round-robin-fail-on-no-server",
        lua: &[set("setRoundRobinFailOnNoServer")],
        doc: "With every server down, roundrobin chooses none rather than any.",
        ..LIVE
    },
    Setting {
        key: Key::Servfail,
        name: "servfail-when-no-server",
        lua: &[set("setServFailWhenNoServer")],
        doc: "Answer SERVFAIL when a pool has no usable server or connections to all fail, rather than drop the query.",
        ..LIVE
    },
    Setting {
        key: Key::AllowEmpty,
        name: "allow-empty-response",
        lua: &[set("setAllowEmptyResponse")],
        doc: "Accept NOERROR and NXDOMAIN answers without a question.",
        ..LIVE
    },
    Setting {
        key: Key::DropEmpty,
        name: "drop-empty-queries",
        lua: &[set("setDropEmptyQueries")],
        doc: "Drop queries without a question, rather than answer NOTIMP.",
        ..LIVE
    },
    Setting {
        key: Key::SelfPayload,
        name: "self-generated-payload-size",
        kind: Kind::Number { min: 512, max: 4096, unit: "bytes" },
        default: "1232",
        lua: &[set("setPayloadSizeOnSelfGeneratedAnswers")],
        doc: "UDP payload size in the OPT record of answers made by dnslob itself.",
        ..LIVE
    },
    Setting {
        key: Key::SelfEdns,
        name: "self-generated-edns",
        default: "true",
        lua: &[set("setAddEDNSToSelfGeneratedResponses")],
        doc: "Put an OPT record into answers made by dnslob itself when the query had one.",
        ..LIVE
    },
    Setting {
        key: Key::TruncateTc,
        name: "truncate-tc",
        lua: &[set("truncateTC")],
        doc: "Remove the records of an answer with TC=1, except its OPT record.",
        ..LIVE
    },
    Setting {
        key: Key::FixupCase,
        name: "fixup-case",
        lua: &[set("fixupCase")],
        doc: "Restore the query's letter case in the question of its answer.",
        ..LIVE
    },
    Setting {
        key: Key::LuaErrorAction,
        name: "lua-error-action",
        kind: Kind::Choice(&["servfail", "ignore"]),
        default: "servfail",
        lua: &[set("setLuaErrorAction")],
        doc: "What becomes of a query or an answer on which a rule's Lua function fails. `servfail`: \
              SERVFAIL; `ignore`: it goes on as if the rule had not matched.",
        ..LIVE
    },
    Setting {
        key: Key::EcsOverride,
        name: "ecs-override",
        lua: &[set("setECSOverride")],
        doc: "Replace a query's own client subnet, for servers with `useClientSubnet`.",
        ..LIVE
    },
    Setting {
        key: Key::EcsV4,
        name: "ecs-source-prefix-v4",
        kind: count(0, 32),
        default: "24",
        lua: &[set("setECSSourcePrefixV4")],
        doc: "Prefix length of the client subnet for IPv4 clients.",
        ..LIVE
    },
    Setting {
        key: Key::EcsV6,
        name: "ecs-source-prefix-v6",
        kind: count(0, 128),
        default: "56",
        lua: &[set("setECSSourcePrefixV6")],
        doc: "Prefix length of the client subnet for IPv6 clients.",
        ..LIVE
    },
    Setting {
        key: Key::StaleCache,
        name: "stale-cache-ttl",
        kind: Kind::Number { min: 0, max: 31_536_000, unit: "seconds" },
        default: "0",
        lua: &[set("setStaleCacheEntriesTTL")],
        doc: "How long expired entries of packet caches are kept for the case that no server can \
              answer. 0: not at all.",
        ..LIVE
    },
    Setting {
        key: Key::CacheCleaningDelay,
        name: "cache-cleaning-delay",
        kind: Kind::Number { min: 1, max: 86_400, unit: "seconds" },
        default: "60",
        lua: &[set("setCacheCleaningDelay")],
        doc: "How often expired entries are removed from packet caches. They are given to nobody \
              before that either.",
        ..LIVE
    },
    Setting {
        key: Key::CacheCleaningPercentage,
        name: "cache-cleaning-percentage",
        kind: Kind::Number { min: 0, max: 100, unit: "percent" },
        default: "100",
        lua: &[set("setCacheCleaningPercentage")],
        doc: "How much of a packet cache may be freed each time, of the most entries that it may have: \
              100 removes all that have expired, 0 none.",
        ..LIVE
    },
    Setting {
        key: Key::TcpReceiveTimeout,
        name: "tcp-recv-timeout",
        flag: true,
        kind: times_ms(1, 3_600_000),
        default: "10000",
        lua: &[seconds("setTCPRecvTimeout"), milliseconds("setTCPRecvTimeoutMs")],
        zero: Some(3_600_000),
        doc: "Close a client's connection that is idle this long, or that does not complete a \
              query or handshake in this time.",
        ..LIVE
    },
    Setting {
        key: Key::TcpSendTimeout,
        name: "tcp-send-timeout",
        flag: true,
        kind: times_ms(1, 3_600_000),
        default: "10000",
        lua: &[seconds("setTCPSendTimeout"), milliseconds("setTCPSendTimeoutMs")],
        zero: Some(3_600_000),
        doc: "Close a client's connection that does not read its answers this long.",
        ..LIVE
    },
    Setting {
        key: Key::TcpDuration,
        name: "tcp-connection-duration",
        kind: times_ms(0, DAY_MS),
        default: "0",
        lua: &[seconds("setMaxTCPConnectionDuration"), milliseconds("setMaxTCPConnectionDurationMs")],
        doc: "Longest life of a client's connection; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TcpQueries,
        name: "tcp-queries-per-connection",
        kind: count(0, u32::MAX),
        default: "0",
        lua: &[set("setMaxTCPQueriesPerConnection")],
        doc: "Most queries of a client's connection before it is closed; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TcpConnections,
        name: "tcp-connections",
        flag: true,
        kind: count(0, 10_000_000),
        default: "100000",
        lua: &[set("setMaxTCPConnections")],
        doc: "Most concurrent connections of all clients; further ones are closed at once. 0 is \
              no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TcpConnectionsPerClient,
        name: "tcp-connections-per-client",
        flag: true,
        kind: count(0, 10_000_000),
        default: "0",
        lua: &[set("setMaxTCPConnectionsPerClient")],
        doc: "Most concurrent connections of a client; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TcpRate,
        name: "tcp-connection-rate-per-client",
        kind: count(0, 1_000_000),
        default: "0",
        lua: &[set("setMaxTCPConnectionRatePerClient")],
        doc: "Most new connections of a client per second, averaged over five minutes; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TlsSessionRate,
        name: "tls-new-session-rate-per-client",
        kind: count(0, 1_000_000),
        default: "0",
        lua: &[set("setMaxTLSNewSessionRatePerClient")],
        doc: "Most new TLS sessions of a client per second, averaged over five minutes; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TlsResumptionRate,
        name: "tls-resumed-session-rate-per-client",
        kind: count(0, 1_000_000),
        default: "0",
        lua: &[set("setMaxTLSResumedSessionRatePerClient")],
        doc: "Most resumed TLS sessions of a client per second, averaged over five minutes; 0 is \
              no limit.",
        ..LIVE
    },
    Setting {
        key: Key::RateBan,
        name: "tcp-rate-ban",
        kind: times_ms(0, DAY_MS),
        default: "10000",
        lua: &[seconds("setBanDurationForExceedingTCPTLSRate")],
        doc: "How long connections of a client are refused after it exceeded a rate of \
              connections or sessions.",
        ..LIVE
    },
    Setting {
        key: Key::TcpReads,
        name: "tcp-reads-per-query",
        kind: count(0, 1_000_000),
        default: "50",
        lua: &[set("setMaxTCPReadIOsPerQuery")],
        doc: "Most reads for one query: a client that needs more is sending byte by byte, and \
              its connection is closed. 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::ReadsBan,
        name: "tcp-reads-ban",
        kind: times_ms(0, DAY_MS),
        default: "60000",
        lua: &[seconds("setBanDurationForExceedingMaxReadIOsPerQuery")],
        doc: "How long connections of such a client are refused.",
        ..LIVE
    },
    Setting {
        key: Key::TcpOverload,
        name: "tcp-connections-overload-threshold",
        kind: Kind::Number { min: 0, max: 100, unit: "percent" },
        default: "90",
        lua: &[set("setTCPConnectionsOverloadThreshold")],
        doc: "From this part of a connection limit on, clients' connections are closed after an \
              answer, and their idle time-out is a tenth; 0 disables it.",
        ..LIVE
    },
    Setting {
        key: Key::TcpMaskV4,
        name: "tcp-connections-mask-v4",
        kind: count(0, 32),
        default: "32",
        lua: &[set("setTCPConnectionsMaskV4")],
        doc: "Prefix length that identifies an IPv4 client for connection limits.",
        ..LIVE
    },
    Setting {
        key: Key::TcpMaskV6,
        name: "tcp-connections-mask-v6",
        kind: count(0, 128),
        default: "128",
        lua: &[set("setTCPConnectionsMaskV6")],
        doc: "The same for IPv6.",
        ..LIVE
    },
    Setting {
        key: Key::TcpMaskV4Port,
        name: "tcp-connections-mask-v4-port",
        kind: count(0, 16),
        default: "0",
        lua: &[set("setTCPConnectionsMaskV4Port")],
        doc: "Leading bits of the port that identify an IPv4 client as well: for clients that \
              share an address and have a port range each.",
        ..LIVE
    },
    Setting {
        key: Key::FastOpenKey,
        name: "tcp-fast-open-key",
        kind: Kind::FastOpenKey,
        default: "",
        lua: &[set("setTCPFastOpenKey")],
        doc: "Key of TCP Fast Open cookies, for listeners with `tcpFastOpenQueueSize`. Machines \
              that share an address need the same key. By default the kernel's; after a reload that takes a key \
              away, a random one.",
        ..LIVE
    },
    Setting {
        key: Key::BackendConnectionsIdle,
        name: "server-connections-idle",
        kind: times_ms(0, DAY_MS),
        default: "300000",
        lua: &[seconds("setTCPDownstreamMaxIdleTime")],
        doc: "How long an idle connection to a server is kept.",
        ..LIVE
    },
    Setting {
        key: Key::BackendConnectionsKept,
        name: "server-connections-kept",
        kind: count(0, 4096),
        default: "10",
        lua: &[set("setMaxCachedTCPConnectionsPerDownstream"), set("setMaxIdleTCPConnectionsPerDownstream")],
        doc: "Most idle connections kept to each server, per shard.",
        ..LIVE
    },
    Setting {
        key: Key::ProxyBytes,
        name: "proxy-protocol-payload-max",
        kind: Kind::Number { min: 16, max: 65535, unit: "bytes" },
        default: "512",
        lua: &[set("setProxyProtocolMaximumPayloadSize")],
        doc: "Longest accepted PROXY header, including its values.",
        ..LIVE
    },
    Setting {
        key: Key::ProxyAcl,
        name: "proxy-protocol-acl-to-client",
        lua: &[set("setProxyProtocolApplyACLToProxiedClients")],
        doc: "Apply the ACL to the client that a PROXY header names, rather than to the peer \
              that sent it.",
        ..LIVE
    },
    Setting {
        key: Key::Strict,
        name: "strict",
        flag: true,
        lua: &[set("setStrict")],
        doc: "Refuse a configuration with warnings: unknown options, names of older versions of dnsdist, \
              what has no effect. `--check-config=strict` does so for the check alone.",
        ..LIVE
    },
    Setting {
        key: Key::ConsoleLog,
        name: "console-connections-logging",
        kind: Kind::Switch,
        default: "true",
        lua: &[set("setConsoleConnectionsLogging")],
        doc: "Log connections to the console.",
        ..LIVE
    },
    Setting {
        key: Key::ConsoleOutput,
        name: "console-output",
        kind: Kind::Number { min: 1_000, max: 1_000_000_000, unit: "bytes" },
        default: "10000000",
        lua: &[set("setConsoleOutputMaxMsgSize")],
        doc: "Longest reply of the console; a longer one is cut, and says so.",
        ..LIVE
    },
    Setting {
        key: Key::ConsoleConnections,
        name: "console-connections",
        kind: count(0, 10_000),
        default: "100",
        lua: &[set("setConsoleMaximumConcurrentConnections")],
        doc: "Most concurrent connections to the console; further ones are closed at once. 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::ConsoleBindFatal,
        name: "console-bind-fatal",
        kind: Kind::Switch,
        default: "true",
        lua: &[set("setConsoleBindFatal")],
        doc: "End when the console cannot listen on its address at the start; otherwise a warning says so.",
        ..LIVE
    },
    Setting {
        key: Key::TrafficRing,
        name: "traffic-ring",
        kind: count(0, 1 << 20),
        default: "65536",
        lenient: true,
        doc: "Finished queries that are kept for `grepq` and for lists with conditions, in the whole \
              process, 120 bytes each; and a fourth of that again for those that failed or were slow. 0 \
              switches everything off that counts clients and names. In Lua: `setRingBuffersSize`.",
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_is_in_the_order_of_its_keys() {
        for (at, setting) in SETTINGS.iter().enumerate() {
            assert_eq!(setting.key as usize, at, "{}", setting.name);
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for s in SETTINGS.iter().filter(|s| !s.default.is_empty()) {
            assert_eq!(s.parse(s.default).map(|v| v.to_string()), Ok(s.default.to_owned()), "{}", s.name);
        }
    }

    #[test]
    fn names_and_short_forms_are_used_once() {
        for (at, s) in SETTINGS.iter().enumerate() {
            for other in &SETTINGS[..at] {
                assert_ne!(s.name, other.name);
                assert!(s.short.is_none() || s.short != other.short, "-{:?}", s.short);
            }
        }
    }

    #[test]
    fn both_parsers_check_the_bounds() {
        let batch = setting(Key::Batch);
        assert_eq!(batch.from_number(1024.0, 1), Ok(Value::Number(1024)));
        for n in [0.0, 1025.0, 1.5, -1.0, f64::NAN, f64::INFINITY] {
            assert!(batch.from_number(n, 1).is_err(), "{n}");
            assert!(batch.parse(&n.to_string()).is_err(), "{n}");
        }
        let timeout = setting(Key::UdpTimeout);
        assert_eq!(timeout.from_number(0.25, 1000), Ok(Value::Number(250)));
        assert!(timeout.from_number(0.0001, 1000).is_err());
    }

    proptest! {
        #[test]
        fn no_text_and_no_number_panics(text in "\\PC*", number in any::<f64>(), scale in 0_u32..2000) {
            for s in &SETTINGS {
                let _ = (s.parse(&text), s.from_number(number, scale));
            }
        }
    }
}
