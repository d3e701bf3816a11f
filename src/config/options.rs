//! The one table of process settings: from it come the flags, the Lua setters, `--help`, the man
//! page, the shell completions and the reference.
//!
//! A setting that is not in here does not exist. What belongs to one server, listener or pool is
//! not here but in [`functions`](crate::config::functions).

use std::fmt;

use crate::base::time::TickDelta;
use crate::config::error::Sited;
use crate::config::value;

/// Which setting; its number is its place in [`SETTINGS`].
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
    LogFormat,
    Verbose,
    VerboseHealth,
    User,
    Group,
    BackendsMax,
    Sockets,
    UdpTimeout,
    OutstandingMax,
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
    EcsOverride,
    EcsV4,
    EcsV6,
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
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Which.
    pub key: Key,
    /// Its name, which is that of its long flag where it has one.
    pub name: &'static str,
    /// Whether it can be given on the command line.
    pub flag: bool,
    /// The short form of the flag.
    pub short: Option<char>,
    /// What values it takes.
    pub kind: Kind,
    /// Its default as it would be written; empty when it is unset.
    pub default: &'static str,
    /// The Lua functions of one argument that set it.
    pub lua: &'static [Setter],
    /// Whether a reload changes it; otherwise it takes a restart.
    pub reload: bool,
    /// What it does: sentences for the reference, the first one also for `--help`.
    pub doc: &'static str,
}

/// A Lua function of one argument that sets a setting.
#[derive(Debug)]
pub struct Setter {
    /// The function's name.
    pub name: &'static str,
    /// The argument times this is the setting's value.
    pub scale: u32,
    /// Unit of the argument; empty when it has none.
    pub unit: &'static str,
}

/// What values a setting takes.
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
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A list of CPUs.
    Cpus,
    /// Any text that is not empty; what it names.
    Text(&'static str),
    /// Sixteen bytes as the kernel writes the key of TCP Fast Open.
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
    /// What is expected, for errors and the reference.
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
    /// Reads the setting's value as written on a command line.
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

    /// The setting's value from a number that a Lua function was given; `scale` is the setter's.
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

fn factor(x: f64) -> Option<Value> {
    (x == 0.0 || (1.0..=1000.0).contains(&x)).then_some(Value::Factor(x))
}

/// The values that were set, each with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings([Option<Sited<Value>>; SETTINGS.len()]);

impl Default for Settings {
    /// Nothing set.
    fn default() -> Self {
        Self(std::array::from_fn(|_| None))
    }
}

impl Settings {
    /// Sets a value; the last one holds.
    pub fn set(&mut self, key: Key, value: Sited<Value>) {
        self.0[key as usize] = Some(value);
    }

    /// What was set, if it was.
    #[must_use]
    pub fn written(&self, key: Key) -> Option<&Sited<Value>> {
        self.0[key as usize].as_ref()
    }

    /// Takes over every value that `over` sets.
    pub fn overlay(&mut self, over: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&over.0) {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        }
    }

    /// What was set, or the default; none if there is no default.
    #[must_use]
    pub fn value(&self, key: Key) -> Option<Value> {
        let setting = setting(key);
        self.written(key).map(|s| s.value.clone()).or_else(|| setting.parse(setting.default).ok())
    }

    /// The value of a number.
    #[must_use]
    pub fn number(&self, key: Key) -> Option<u32> {
        if let Some(Value::Number(n)) = self.value(key) { Some(n) } else { None }
    }

    /// The value of a span.
    #[must_use]
    pub fn span(&self, key: Key) -> Option<TickDelta> {
        if let Some(Value::Span(s)) = self.value(key) { Some(s) } else { None }
    }

    /// The value of a factor; none when it is 0, off.
    #[must_use]
    pub fn factor(&self, key: Key) -> Option<f64> {
        if let Some(Value::Factor(x)) = self.value(key) { Some(x).filter(|x| *x > 0.0) } else { None }
    }

    /// The value of a switch.
    #[must_use]
    pub fn switch(&self, key: Key) -> bool {
        self.value(key) == Some(Value::Switch(true))
    }

    /// The value of a choice or text.
    #[must_use]
    pub fn text(&self, key: Key) -> Option<String> {
        if let Some(Value::Text(t)) = self.value(key) { Some(t) } else { None }
    }

    /// The value of a CPU list.
    #[must_use]
    pub fn cpus(&self, key: Key) -> Vec<u16> {
        if let Some(Value::Cpus(c)) = self.value(key) { c } else { Vec::new() }
    }
}

/// The setting of a key.
#[must_use]
pub const fn setting(key: Key) -> &'static Setting {
    &SETTINGS[key as usize]
}

/// A time as a number of milliseconds, if it is one.
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

/// What every setting has unless its entry says otherwise: a flag, no default, a restart.
const BASE: Setting = Setting {
    key: Key::Shards,
    name: "",
    flag: true,
    short: None,
    kind: Kind::Switch,
    default: "",
    lua: &[],
    reload: false,
    doc: "",
};

/// What every setting of the data path has: no flag, a switch, off, changed by a reload.
const LIVE: Setting = Setting { flag: false, default: "false", reload: true, ..BASE };

/// Every setting, in the order of [`Key`].
pub static SETTINGS: [Setting; 54] = [
    Setting {
        key: Key::Shards,
        name: "shards",
        kind: count(1, 1024),
        lua: &[set("setShards")],
        doc: "Threads that serve queries. Without it: as many as `--cpus` lists, or as many as there are CPUs \
              that the process may run on. Each has sockets of its own for every listener and server.",
        ..BASE
    },
    Setting {
        key: Key::Cpus,
        name: "cpus",
        kind: Kind::Cpus,
        lua: &[set("setCPUs")],
        doc: "CPUs that the shards are pinned to, in turn. Without it: those that the process may run on.",
        ..BASE
    },
    Setting {
        key: Key::Steer,
        name: "steer",
        kind: Kind::Choice(&["flow", "cpu", "client"]),
        default: "flow",
        lua: &[set("setSteering")],
        doc: "How packets of clients are spread over the shards. `flow`: the kernel's hash of addresses and ports; \
              `cpu`: the shard on the CPU that received the packet; `client`: every query of a client on one shard.",
        ..BASE
    },
    Setting {
        key: Key::BusyPoll,
        name: "busy-poll",
        kind: Kind::Number { min: 0, max: 1_000_000, unit: "us" },
        default: "0",
        lua: &[set("setBusyPoll")],
        doc: "Spin so long for more packets before sleeping; 0 never spins. Buys latency with CPU.",
        ..BASE
    },
    Setting {
        key: Key::Batch,
        name: "batch",
        kind: count(1, 1024),
        default: "64",
        lua: &[set("setUDPMultipleMessagesVectorSize")],
        doc: "Packets read or sent by one system call, at most.",
        ..BASE
    },
    Setting {
        key: Key::Drain,
        name: "drain",
        kind: Kind::Span { min_ms: 0, max_ms: 3_600_000 },
        default: "2s",
        lua: &[set("setDrainTime")],
        reload: true,
        doc: "At the end of the process, how long outstanding queries may take to finish.",
        ..BASE
    },
    Setting {
        key: Key::Stats,
        name: "stats",
        kind: Kind::Span { min_ms: 100, max_ms: 86_400_000 },
        lua: &[set("setStatsInterval")],
        reload: true,
        doc: "Print a line of figures so often. Without it: none.",
        ..BASE
    },
    Setting {
        key: Key::LogFormat,
        name: "log-format",
        kind: Kind::Choice(&["text", "json"]),
        default: "text",
        doc: "How log lines are written.",
        ..BASE
    },
    Setting {
        key: Key::Verbose,
        name: "verbose",
        short: Some('v'),
        default: "false",
        lua: &[set("setVerbose")],
        reload: true,
        doc: "Log more.",
        ..BASE
    },
    Setting {
        key: Key::VerboseHealth,
        name: "verbose-health-checks",
        lua: &[set("setVerboseHealthChecks")],
        doc: "Log every failed health check, not only changes of state.",
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
        doc: "Servers there can be at a time, those counted that a reload removed and that still finish their \
              queries. Fixes the size of the counters.",
        ..BASE
    },
    Setting {
        key: Key::Sockets,
        name: "sockets",
        kind: count(1, 255),
        default: "4",
        lua: &[set("setSockets")],
        reload: true,
        doc: "UDP sockets, so source ports, per server and shard, where the server does not say. Each query takes \
              a random one: more make answers harder to forge (RFC 5452) and cost a little CPU.",
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
        reload: true,
        doc: "How long a server's answer is waited for, where the server does not say.",
        ..BASE
    },
    Setting {
        key: Key::OutstandingMax,
        name: "outstanding-max",
        kind: count(1, 65535),
        default: "65535",
        lua: &[set("setMaxUDPOutstanding")],
        reload: true,
        doc: "Queries outstanding at a server, per shard, where the server does not say: so many over UDP, and \
              as many by connections. One more is dropped and counted as `outstanding-full`.",
        ..BASE
    },
    Setting {
        key: Key::ReceiveBuffer,
        name: "receive-buffer",
        kind: bytes(1 << 30),
        default: "4194304",
        reload: true,
        doc: "Receive buffer of every UDP socket: what a shard may fall behind by, about 5,000 \
              queries. 0 leaves the kernel's default. In Lua: \
              `setUDPSocketBufferSizes`. The kernel's limit is `net.core.rmem_max`.",
        ..BASE
    },
    Setting {
        key: Key::SendBuffer,
        name: "send-buffer",
        kind: bytes(1 << 30),
        default: "1048576",
        reload: true,
        doc: "Send buffer of every UDP socket; 0 leaves the kernel's default. In Lua: `setUDPSocketBufferSizes`. \
              The kernel's limit is `net.core.wmem_max`.",
        ..BASE
    },
    Setting {
        key: Key::Policy,
        name: "policy",
        kind: Kind::Choice(&crate::config::functions::POLICIES),
        reload: true,
        doc: "How a server is chosen, in every pool without a policy of its own. In Lua: `setServerPolicy`. \
              Without either: leastOutstanding.",
        ..BASE
    },
    Setting {
        key: Key::BalancingFactor,
        name: "weighted-balancing-factor",
        kind: Kind::Factor,
        default: "0",
        lua: &[set("setWeightedBalancingFactor")],
        doc: "wrandom, whashed and orderedWrandUntag pass over a server that has more than this times its fair \
              share of the outstanding queries; 0 switches it off.",
        ..LIVE
    },
    Setting {
        key: Key::ConsistentFactor,
        name: "consistent-hashing-balancing-factor",
        kind: Kind::Factor,
        default: "0",
        lua: &[set("setConsistentHashingBalancingFactor")],
        doc: "chashed passes over a server that has more than this times its fair share of the outstanding \
              queries; 0 switches it off.",
        ..LIVE
    },
    Setting {
        key: Key::Perturbation,
        name: "hash-perturbation",
        kind: count(0, u32::MAX),
        default: "0",
        lua: &[set("setWHashedPertubation"), set("setWHashedPerturbation")],
        doc: "Mixed into every hash of the hashed policies. Set the same number on machines that shall choose alike.",
        ..LIVE
    },
    Setting {
        key: Key::RoundRobinFail,
        name: "round-robin-fail-on-no-server",
        lua: &[set("setRoundRobinFailOnNoServer")],
        doc: "roundrobin with every server down: choose none, rather than send all the same.",
        ..LIVE
    },
    Setting {
        key: Key::Servfail,
        name: "servfail-when-no-server",
        lua: &[set("setServFailWhenNoServer")],
        doc: "Answer SERVFAIL when a pool has no usable server, rather than nothing.",
        ..LIVE
    },
    Setting {
        key: Key::AllowEmpty,
        name: "allow-empty-response",
        lua: &[set("setAllowEmptyResponse")],
        doc: "Pass on answers without a question whose code is NOERROR or NXDOMAIN.",
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
        doc: "Take the records of an answer with TC=1 away, its OPT record apart.",
        ..LIVE
    },
    Setting {
        key: Key::FixupCase,
        name: "fixup-case",
        lua: &[set("fixupCase")],
        doc: "Give the question of an answer the letter case of its query.",
        ..LIVE
    },
    Setting {
        key: Key::EcsOverride,
        name: "ecs-override",
        lua: &[set("setECSOverride")],
        doc: "Replace the client subnet that a query brings, for servers with `useClientSubnet`.",
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
        key: Key::TcpReceiveTimeout,
        name: "tcp-recv-timeout",
        flag: true,
        kind: times_ms(1, 3_600_000),
        default: "10000",
        lua: &[seconds("setTCPRecvTimeout"), milliseconds("setTCPRecvTimeoutMs")],
        doc: "A client's connection is closed that stands idle for so long, or that begins a query or a handshake \
              and does not finish it in this time.",
        ..LIVE
    },
    Setting {
        key: Key::TcpSendTimeout,
        name: "tcp-send-timeout",
        flag: true,
        kind: times_ms(1, 3_600_000),
        default: "10000",
        lua: &[seconds("setTCPSendTimeout"), milliseconds("setTCPSendTimeoutMs")],
        doc: "A client's connection is closed that does not take its answers for so long.",
        ..LIVE
    },
    Setting {
        key: Key::TcpDuration,
        name: "tcp-connection-duration",
        kind: times_ms(0, DAY_MS),
        default: "0",
        lua: &[seconds("setMaxTCPConnectionDuration"), milliseconds("setMaxTCPConnectionDurationMs")],
        doc: "How long a client's connection may live; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TcpQueries,
        name: "tcp-queries-per-connection",
        kind: count(0, u32::MAX),
        default: "0",
        lua: &[set("setMaxTCPQueriesPerConnection")],
        doc: "Queries of a client's connection, after which it is closed; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TcpConnections,
        name: "tcp-connections",
        flag: true,
        kind: count(0, 10_000_000),
        default: "100000",
        lua: &[set("setMaxTCPConnections")],
        doc: "Connections of all clients together at a time: those beyond are closed at once. 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TcpConnectionsPerClient,
        name: "tcp-connections-per-client",
        flag: true,
        kind: count(0, 10_000_000),
        default: "0",
        lua: &[set("setMaxTCPConnectionsPerClient")],
        doc: "Connections of a client at a time; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TcpRate,
        name: "tcp-connection-rate-per-client",
        kind: count(0, 1_000_000),
        default: "0",
        lua: &[set("setMaxTCPConnectionRatePerClient")],
        doc: "New connections of a client in a second, over five minutes; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TlsSessionRate,
        name: "tls-new-session-rate-per-client",
        kind: count(0, 1_000_000),
        default: "0",
        lua: &[set("setMaxTLSNewSessionRatePerClient")],
        doc: "New TLS sessions of a client in a second, over five minutes; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::TlsResumptionRate,
        name: "tls-resumed-session-rate-per-client",
        kind: count(0, 1_000_000),
        default: "0",
        lua: &[set("setMaxTLSResumedSessionRatePerClient")],
        doc: "Resumed TLS sessions of a client in a second, over five minutes; 0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::RateBan,
        name: "tcp-rate-ban",
        kind: times_ms(0, DAY_MS),
        default: "10000",
        lua: &[seconds("setBanDurationForExceedingTCPTLSRate")],
        doc: "For how long the connections of a client are refused that exceeded a rate of connections or sessions.",
        ..LIVE
    },
    Setting {
        key: Key::TcpReads,
        name: "tcp-reads-per-query",
        kind: count(0, 1_000_000),
        default: "50",
        lua: &[set("setMaxTCPReadIOsPerQuery")],
        doc: "Reads for one query: a client that needs more sends by single bytes, and its connection is closed. \
              0 is no limit.",
        ..LIVE
    },
    Setting {
        key: Key::ReadsBan,
        name: "tcp-reads-ban",
        kind: times_ms(0, DAY_MS),
        default: "60000",
        lua: &[seconds("setBanDurationForExceedingMaxReadIOsPerQuery")],
        doc: "For how long the connections of such a client are refused.",
        ..LIVE
    },
    Setting {
        key: Key::TcpOverload,
        name: "tcp-connections-overload-threshold",
        kind: Kind::Number { min: 0, max: 100, unit: "percent" },
        default: "90",
        lua: &[set("setTCPConnectionsOverloadThreshold")],
        doc: "From this part of a limit of connections on, clients' connections are closed after an answer and wait \
              a tenth of the time only; 0 switches it off.",
        ..LIVE
    },
    Setting {
        key: Key::TcpMaskV4,
        name: "tcp-connections-mask-v4",
        kind: count(0, 32),
        default: "32",
        lua: &[set("setTCPConnectionsMaskV4")],
        doc: "Prefix length by which the limits of connections tell IPv4 clients apart.",
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
        doc: "The first so many bits of an IPv4 client's port tell it apart, too: for clients that share an address \
              and have a range of ports each.",
        ..LIVE
    },
    Setting {
        key: Key::FastOpenKey,
        name: "tcp-fast-open-key",
        kind: Kind::FastOpenKey,
        default: "",
        lua: &[set("setTCPFastOpenKey")],
        doc: "Key of the cookies of TCP Fast Open, for listeners with `tcpFastOpenQueueSize`. The same one on \
              machines that share an address lets each accept the others' clients. Without it: the kernel's.",
        ..LIVE
    },
    Setting {
        key: Key::BackendConnectionsIdle,
        name: "server-connections-idle",
        kind: times_ms(0, DAY_MS),
        default: "300000",
        lua: &[seconds("setTCPDownstreamMaxIdleTime")],
        doc: "How long a connection to a server is kept without a query.",
        ..LIVE
    },
    Setting {
        key: Key::BackendConnectionsKept,
        name: "server-connections-kept",
        kind: count(0, 4096),
        default: "10",
        lua: &[set("setMaxCachedTCPConnectionsPerDownstream"), set("setMaxIdleTCPConnectionsPerDownstream")],
        doc: "Connections to each server that are kept without a query, in each shard.",
        ..LIVE
    },
    Setting {
        key: Key::ProxyBytes,
        name: "proxy-protocol-payload-max",
        kind: Kind::Number { min: 16, max: 65535, unit: "bytes" },
        default: "512",
        lua: &[set("setProxyProtocolMaximumPayloadSize")],
        doc: "The longest PROXY header that is taken, with its values.",
        ..LIVE
    },
    Setting {
        key: Key::ProxyAcl,
        name: "proxy-protocol-acl-to-client",
        lua: &[set("setProxyProtocolApplyACLToProxiedClients")],
        doc: "Ask the ACL for the client that a PROXY header names, rather than for the peer that sent it.",
        ..LIVE
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
    fn bounds_are_kept_on_both_ways_in() {
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
