//! The tables of what a Lua configuration can call: functions, arguments of `newServer`, methods.
//! Rules' chains, sets and missing functions have tables of their own; selectors and actions are
//! declared where they are made, in the Lua front end.
//!
//! The Lua front end refuses what is not in here, and the reference is generated from here.
//! Functions of one argument that set a process setting are in [`options`](crate::config::options).

mod absent;
mod cache;
mod callbacks;
mod chains;
pub mod console;
pub(crate) mod enumerations;
mod machine;
mod missing;
pub mod needs;
mod objects;
pub mod older;
pub(crate) mod policies;
pub mod relays;
pub mod signature;
mod tls;
mod traffic;
mod web;

use std::borrow::Cow;

pub use crate::config::functions::absent::ABSENT;
pub use crate::config::functions::cache::{CACHE_FUNCTIONS, CACHE_METHODS, CACHE_OPTIONS};
pub use crate::config::functions::callbacks::CALLBACKS;
pub use crate::config::functions::chains::{BENCH_RULE, CHAIN_EXTRAS, CHAINS, ChainFunctions, RULE_METHODS};
pub use crate::config::functions::console::{BIND_METHODS, CONSOLE, INSPECTION};
pub use crate::config::functions::machine::MACHINE;
pub use crate::config::functions::missing::{FFI_MISSING, FOR_FUNCTIONS, FUNCTIONS_MISSING, WITHOUT_EFFECT};
pub use crate::config::functions::objects::{
    ACTION_METHODS, ADDRESS_METHODS, HEADER_METHODS, LIMITER_METHODS, NAME_METHODS, NAME_SET_METHODS,
    NETMASK_METHODS, NETWORK_SET_METHODS, SELECTOR_METHODS, SETS, TIMED_SET_METHODS,
};
pub use crate::config::functions::relays::{
    RELAY_ARGUMENTS, RELAY_POLICIES, TCP_RELAY_ARGUMENTS, UDP_RELAY_ARGUMENTS,
};
use crate::config::functions::signature::Signature;
pub use crate::config::functions::tls::{SERVER_TLS_ARGUMENTS, TLS_LOCAL_OPTIONS, TLS_METHODS};
pub use crate::config::functions::traffic::TRAFFIC_FUNCTIONS;
pub use crate::config::functions::web::{METRIC_FUNCTIONS, WEB_FUNCTIONS, WEB_OPTIONS};

/// A function, method or argument.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Its arguments as written; for an argument of `newServer`, its value.
    pub arguments: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// dnsdist's functions or arguments of one capability that dnslob does not implement yet.
#[derive(Debug)]
pub struct Missing {
    /// The capability.
    pub family: &'static str,
    /// What to do meanwhile.
    pub meanwhile: &'static str,
    /// The names.
    pub names: &'static [&'static str],
}

impl Entry {
    /// Returns its arguments as a signature; only of a function or method.
    #[must_use]
    pub const fn signature(&self) -> Signature {
        Signature::new(self.arguments)
    }

    /// Returns its arguments for the message about more of them, with what to write instead of a form
    /// that dnsdist had.
    #[must_use]
    pub fn form(&self) -> Cow<'static, str> {
        let former = FORMER_ARGUMENTS.iter().find(|(name, _)| *name == self.name);
        match former {
            Some((_, instead)) => format!("{}; {instead}", self.arguments).into(),
            None => self.arguments.into(),
        }
    }
}

/// What to write instead of further arguments that dnsdist took.
const FORMER_ARGUMENTS: [(&str, &str); 1] =
    [("newServer", "a second argument of dnsdist is newServer{address=, qps=}")];

const fn entry(name: &'static str, arguments: &'static str, doc: &'static str) -> Entry {
    Entry { name, arguments, doc }
}

/// The policies.
pub static POLICIES: [&str; 9] = [
    "leastOutstanding",
    "firstAvailable",
    "roundrobin",
    "wrandom",
    "whashed",
    "chashed",
    "orderedWrandUntag",
    "p2c",
    "concentrate",
];

/// The descriptions of [`POLICIES`], in their order.
pub static POLICY_DOCS: [&str; 9] = [
    "the server with the fewest outstanding queries; among equals the lowest order, then the lowest latency",
    "the first server by order within its `qps`; with all exceeded, leastOutstanding",
    "the servers in turn",
    "a random server, by weight",
    "a hash of the query over the weights",
    "a consistent hash: the loss of a server moves only its own share; needs weights of 100 to \
         1000",
    "random by weight among the usable servers of the lowest order",
    "the better of two random servers, by outstanding queries and latency",
    "as few servers as can handle the load, by order, judged by the latency of their fast \
         answers; `concentrate{...}` sets its options",
];

/// The functions, besides those of the settings.
pub static FUNCTIONS: &[Entry] = &[
    entry(
        "newServer",
        "address | {address=, ...}",
        "Adds a server and returns it; its arguments are listed below.",
    ),
    entry("rmServer", "server | number | id", "Removes a server."),
    entry(
        "getServer",
        "number | id",
        "Returns a server by its number in `showServers()`, or by id or name; nil if there is none. They are \
         numbered from 0 by their order, and of the same order as they were written.",
    ),
    entry("getServers", "", "All servers, as a list in that order."),
    entry(
        "addLocal",
        "address [, {...}] or address, doTCP [, reusePort [, tcpFastOpenQueueSize]]",
        "Listens on an address, over UDP and TCP; the default port is 53. Its options are listed \
         below.",
    ),
    entry(
        "addTLSLocal",
        "address, certificate | {...}, key | {...} [, {...}]",
        "Listens for DNS over TLS; the default port is 853. Files are PEM; its options are listed \
         below.",
    ),
    entry(
        "newTLSCertificate",
        "path [, {key=path}]",
        "Returns a certificate with its key, for addTLSLocal; without `key` both are in one file.",
    ),
    entry(
        "getTLSFrontend",
        "number",
        "Returns a TLS listener by number, from 0; nil if there is none. Its methods are listed \
         below.",
    ),
    entry("getTLSContext", "number", "The same as getTLSFrontend."),
    entry("getTLSFrontendCount", "", "Returns the number of TLS listeners so far."),
    entry(
        "reloadAllCertificates",
        "",
        "On the console, reads the certificates and keys of all listeners with TLS again, without touching \
         connections, as SIGHUP does for the whole configuration.",
    ),
    entry(
        "addTCPForward",
        "{listen=, to=, ...}",
        "Relays TCP connections to the first target that accepts, whatever they carry; its arguments \
         are listed below.",
    ),
    entry(
        "addUDPForward",
        "{listen=, to=, ...}",
        "Relays UDP datagrams that are not DNS to a target, and its replies back; its arguments are \
         listed below.",
    ),
    entry(
        "setLocal",
        "address [, {...}] or address, doTCP [, reusePort [, tcpFastOpenQueueSize]]",
        "Listens on this address only.",
    ),
    entry("setACL", "network | {network, ...}", "Allows queries from these networks only."),
    entry("addACL", "network", "Allows queries from this network as well."),
    entry(
        "setACLFromFile",
        "path",
        "Like setACL with the networks of a file, one per line; `#` begins a comment.",
    ),
    entry(
        "setProxyProtocolACL",
        "network | {network, ...}",
        "Peers that send a PROXY header, and are dropped without one; others may not send one. By \
         default none.",
    ),
    entry("setServerPolicy", "policy", "Sets the policy of every pool without its own."),
    entry("setPoolServerPolicy", "policy, pool", "Sets the policy of a pool."),
    entry(
        "getPool",
        "name",
        "Returns the pool with this name, created if needed; the default pool's name is empty.",
    ),
    entry(
        "rmPool",
        "name",
        "Forgets a pool that no server and no rule is for, with its policy; returns whether it is gone. Not \
         in dnsdist.",
    ),
    entry(
        "setRetry",
        "{after=, budget=}",
        "In the default pool, sends a query that is unanswered `after` this many milliseconds to a \
         second server, for at most `budget` percent (10) of all queries.",
    ),
    entry(
        "setPanicThreshold",
        "percent",
        "In the default pool, uses all servers when less than this percentage is up. 0, the default, \
         disables it.",
    ),
    entry(
        "setEjection",
        "{excess=, time=, share=, queries=}",
        "In the default pool, ejects a server whose share of failed queries is `excess` percent (20) \
         above its pool's, for `time` milliseconds (30000), at most `share` percent (50) of the pool, \
         from `queries` (100) in ten seconds on.",
    ),
    entry(
        "setTCPToUDP",
        "switch",
        "In the default pool, sends queries that came over TCP or TLS over UDP, and over TCP only if \
         that answer is truncated; AXFR, IXFR and queries longer than 4096 bytes always go over TCP.",
    ),
    entry("ordered", "policy", "Returns this policy, restricted to the usable servers of the lowest order."),
    entry(
        "hashBy",
        "policy, key [, {labels=2, v4=24, v6=56}]",
        "Returns a hashed policy with another key: \"qname\", \"zone\" (the last labels), \"client\" \
         or \"clientPrefix\".",
    ),
    entry(
        "bounded",
        "policy, factor",
        "Returns this policy, skipping a server with more than this multiple of its fair share of the \
         outstanding queries.",
    ),
    entry(
        "setUDPSocketBufferSizes",
        "receive, send",
        "Sets the buffers of every UDP socket, bytes; 0 keeps the kernel's default.",
    ),
    entry(
        "setHealthCheckResponseValidator",
        "function(name, response, content)",
        "Judges the answers to health checks: true means healthy. `response` has rcode, id, flags and \
         counts; `content` is the message.",
    ),
    entry("newDNSName", "text", "Returns a domain name, for check functions to return or compare."),
    entry(
        "includeDirectory",
        "path",
        "Evaluates the files of a directory that end in `.conf`, in order of name; not hidden ones, whose \
         names begin with a dot, nor what is no regular file.",
    ),
    entry(
        "setStructuredLogging",
        "enable [, {levelPrefix=, timeFormat=, backend=}]",
        "Writes the log as logfmt lines, for programs to read: `levelPrefix` names the level (\"prio\"), \
         `timeFormat` is \"numeric\" or \"ISO8601\", and `backend=\"json\"` writes JSON instead.",
    ),
    entry("errlog", "text", "Logs an error."),
    entry("warnlog", "text", "Logs a warning."),
    entry("infolog", "text", "Logs a line."),
    entry("vinfolog", "text", "Logs a line when verbose."),
    entry(
        "setRandomizedOutgoingSockets",
        "true",
        "Without effect: each query takes a random socket in any case; false is warned of.",
    ),
    entry(
        "setRandomizedIdsOverUDP",
        "true",
        "Without effect: ids are random in any case; false is warned of.",
    ),
    entry("setSecurityPollSuffix", "suffix", "Accepted without effect: dnslob does not poll for advisories."),
];

/// Policies written in Lua.
pub static LUA_POLICIES: &[Entry] = &[
    entry(
        "newServerPolicy",
        "name, function(servers, dq)",
        "Returns a policy in Lua, for setServerPolicy: the function returns the number of a server, \
         from 1. It runs in the shard's own Lua state; if it fails, leastOutstanding chooses.",
    ),
    entry(
        "setServerPolicyLua",
        "name, function(servers, dq)",
        "The same as setServerPolicy of such a policy.",
    ),
    entry(
        "setServerPolicyLuaFFI",
        "name, function(servers, dq)",
        "The same through LuaJIT's ffi; servers are numbered from 0.",
    ),
    entry("setServerPolicyLuaFFIPerThread", "name, text", "The same, with a text that returns the function."),
    entry("setPoolServerPolicyLua", "name, function(servers, dq), pool", "Such a policy for one pool."),
    entry("setPoolServerPolicyLuaFFI", "name, function(servers, dq), pool", "Such a policy for one pool."),
    entry("setPoolServerPolicyLuaFFIPerThread", "name, text, pool", "Such a policy for one pool."),
];

/// Returns every function, besides those of the settings, selectors and actions.
pub fn functions() -> impl Iterator<Item = &'static Entry> {
    let chains = CHAINS.iter().flat_map(|c| c.entries.iter());
    let others = [
        CHAIN_EXTRAS,
        SETS,
        LUA_POLICIES,
        CACHE_FUNCTIONS,
        CONSOLE,
        INSPECTION,
        TRAFFIC_FUNCTIONS,
        WEB_FUNCTIONS,
        METRIC_FUNCTIONS,
        CALLBACKS,
        ABSENT,
        MACHINE,
    ];
    FUNCTIONS.iter().chain(chains).chain(others.into_iter().flatten())
}

/// The methods of a server.
pub static SERVER_METHODS: &[Entry] = &[
    entry("setUp", "", "Forces it up, without health checks."),
    entry("setDown", "", "Forces it down, without health checks."),
    entry("setAuto", "[status]", "Enables health checks, active ones unless the server's mode was lazy."),
    entry("setActiveAuto", "[status]", "Enables active health checks."),
    entry("setLazyAuto", "[status]", "Enables lazy health checks, which start when live answers fail."),
    entry("drain", "", "Stops new queries; outstanding ones finish."),
    entry("setQPS", "number", "Sets the queries per second for firstAvailable; 0 is no limit."),
    entry("setOrder", "number", "Sets its order."),
    entry("setWeight", "number", "Sets its weight."),
    entry("addPool", "name", "Adds it to a pool."),
    entry("rmPool", "name", "Removes it from a pool."),
    entry("getName", "", "Returns its name."),
    entry("getNameWithAddr", "", "Returns its name and address."),
    entry("isUp", "", "Returns whether it is up; before the start, whether it is not forced down."),
    entry("canAcceptQueries", "", "The same as isUp."),
    entry("getOutstanding", "", "Returns its outstanding queries; 0 before the start."),
    entry("getLatency", "", "Returns its latency; 0 before the start."),
    entry("getHealthCheckMode", "", "\"auto\", \"up\", \"down\", \"lazy\" or \"drain\"."),
];

/// The options of `addLocal` and `setLocal`.
pub static LOCAL_OPTIONS: &[Entry] = &[
    entry("interface", "name", "Listen on this network interface only."),
    entry("dscp", "0", "DSCP of answers, 0 to 63."),
    entry("doTCP", "true", "Whether to serve TCP too."),
    entry("tcpFastOpenQueueSize", "0", "Most pending TCP Fast Open connections; 0 disables it."),
    entry("tcpListenQueueSize", "4096", "Most pending connections, per shard."),
    entry(
        "maxInFlight",
        "100",
        "Concurrent queries of one connection, answered in any order; with 0 or 1 in the order of \
         arrival.",
    ),
    entry(
        "maxConcurrentTCPConnections",
        "0",
        "Most concurrent connections; 0 leaves only `setMaxTCPConnections`.",
    ),
    entry("enableProxyProtocol", "true", "Whether peers in `setProxyProtocolACL` send a PROXY header."),
    entry(
        "reusePort",
        "false",
        "Whether another process of the same user may listen on the address too; otherwise a start or \
         reload fails if one does. The shards of one process always share it.",
    ),
    entry(
        "freebind",
        "false",
        "Listen also while the machine does not have the address: keepalived and the like may move it here later.",
    ),
    entry("cpus", "{number, ...}", "Accepted without effect: use `--cpus` and `--steer`."),
];

/// The methods of a pool.
pub static POOL_METHODS: &[Entry] = &[
    entry("setServerPolicy", "policy", "Sets its policy."),
    entry("setRetry", "{after=, budget=}", "See the function setRetry."),
    entry("setPanicThreshold", "percent", "See the function setPanicThreshold."),
    entry("setEjection", "{excess=, time=, share=, queries=}", "See the function setEjection."),
    entry("setTCPToUDP", "switch", "See the function setTCPToUDP."),
    entry("setCache", "cache", "Sets its packet cache, which other pools may have too."),
    entry("getCache", "", "Returns its packet cache; nil if it has none. Its methods are listed below."),
    entry("unsetCache", "", "Removes its packet cache."),
    entry(
        "setDisableZeroScope",
        "switch",
        "Looks only for answers to the client's own subnet, as `disableZeroScope` of its servers does.",
    ),
    entry("getName", "", "Returns its name."),
];

/// The arguments of `newServer`.
pub static SERVER_ARGUMENTS: &[Entry] = &[
    entry("address", "\"IP[:PORT]\"", "Its address; the default port is 53. Required."),
    entry("id", "text", "Identity across reloads and, for chashed, across machines; by default its address."),
    entry("name", "text", "Name in logs and tables; by default its address."),
    entry("pool", "name | {name, ...}", "Its pools; by default the default pool."),
    entry("order", "1", "Lower is preferred by policies that use the order."),
    entry("weight", "1", "Share for policies that use the weight."),
    entry("qps", "0", "Queries per second for firstAvailable, over all shards; 0 is no limit."),
    entry("udpTimeout", "2", "Time-out of queries, seconds; fractions are allowed."),
    entry("udpTimeoutMs", "2000", "The same, milliseconds."),
    entry("sockets", "4", "UDP sockets (source ports) per shard, 1 to 255."),
    entry("source", "\"ADDRESS\" | \"INTERFACE\" | \"ADDRESS@INTERFACE\"", "Source of queries to it."),
    entry("interface", "name", "Source interface of queries to it."),
    entry("dscp", "0", "DSCP of queries, 0 to 63."),
    entry(
        "maxOutstandingQueries",
        "0",
        "Outstanding queries over all shards above which policies skip it; 0 is no limit.",
    ),
    entry(
        "maxOutstanding",
        "65535",
        "Most outstanding queries per shard, over UDP, and as many over TCP and TLS; one more is \
         dropped and counted.",
    ),
    entry("healthCheckMode", "\"auto\"", "\"auto\", \"up\", \"down\" or \"lazy\"."),
    entry("check", "\"dns\"", "The kind of check: \"dns\", or \"connect\" for a TCP connection."),
    entry(
        "checkScript",
        "{\"/path\", \"argument\", ...}",
        "A program as the check: exit code 0 means healthy; address and port are its last arguments.",
    ),
    entry(
        "checkScriptExit",
        "\"monitoring\"",
        "What its exit codes mean: \"monitoring\", by which 0 is healthy, or \"relayd\", by which 0 is not and \
         others are.",
    ),
    entry("checkName", "\"a.root-servers.net.\"", "Queried name of a check."),
    entry("checkType", "\"A\"", "Queried type of a check, by name or number."),
    entry("checkClass", "1", "Queried class of a check."),
    entry("checkInterval", "1", "Interval of checks, seconds; fractions are allowed."),
    entry("checkIntervalMs", "1000", "The same, milliseconds."),
    entry("checkTimeout", "1000", "Time-out of a check, milliseconds."),
    entry("checkTCP", "false", "Check over TCP."),
    entry(
        "checkFunction",
        "function(qname, qtype, qclass, dh)",
        "Chooses the query of each check: returns qname, qtype, qclass.",
    ),
    entry(
        "checkResponseFunction",
        "function(name, response, content)",
        "Judges the answer of each check: true means healthy.",
    ),
    entry("rise", "1", "Successful checks in a row that bring it up."),
    entry("maxCheckFailures", "1", "Failed checks in a row that take it down."),
    entry("mustResolve", "false", "NXDOMAIN and REFUSED fail a check as well as SERVFAIL."),
    entry("setCD", "false", "Set CD in checks."),
    entry(
        "slowStart",
        "10",
        "Slow start: its share grows to the full one over this many seconds after its return; 0 \
         disables it.",
    ),
    entry(
        "lazyHealthCheckThreshold",
        "20",
        "Percentage of failed live queries from which lazy checks begin.",
    ),
    entry("lazyHealthCheckSampleSize", "100", "Number of recent live queries that lazy checks consider."),
    entry("lazyHealthCheckMinSampleCount", "1", "Least live queries for lazy checks to begin."),
    entry("lazyHealthCheckFailedInterval", "30", "Interval of lazy checks of a failed server, seconds."),
    entry(
        "lazyHealthCheckMode",
        "\"TimeoutOrServFail\"",
        "What counts as failed: \"TimeoutOrServFail\" or \"TimeoutOnly\".",
    ),
    entry(
        "lazyHealthCheckUseExponentialBackOff",
        "false",
        "Double the interval of lazy checks at each failure.",
    ),
    entry("lazyHealthCheckMaxBackOff", "3600", "Longest interval by doubling, seconds."),
    entry("useClientSubnet", "false", "Its queries carry the client's subnet (RFC 7871)."),
    entry("tcpOnly", "false", "Queries that came over UDP go to it over TCP as well."),
    entry(
        "tcpWhileSpoofed",
        "false",
        "Queries that came over UDP go to it over TCP as well, as long as somebody seems to guess its answers \
         and for 60 s more.",
    ),
    entry("tcpConnectTimeout", "5", "Time-out of connecting, seconds."),
    entry("tcpConnectTimeoutMs", "5000", "The same, milliseconds."),
    entry(
        "tcpSendTimeout",
        "30",
        "Time-out of sending, seconds: a connection that accepts no query this long is closed.",
    ),
    entry("tcpSendTimeoutMs", "30000", "The same, milliseconds."),
    entry(
        "tcpRecvTimeout",
        "30",
        "Time-out of receiving, seconds: a connection that answers no query this long is closed.",
    ),
    entry("tcpRecvTimeoutMs", "30000", "The same, milliseconds."),
    entry("tcpFastOpen", "false", "Connect with TCP Fast Open."),
    entry(
        "retries",
        "5",
        "Attempts when connections fail, at other servers first, 1 to 5; 0 means 1, more mean 5.",
    ),
    entry(
        "maxInFlight",
        "64",
        "Concurrent queries on one connection; with 1 or 0, the server gets the next one after its \
         answer.",
    ),
    entry(
        "maxConcurrentTCPConnections",
        "0",
        "Most concurrent connections to it, per shard; a query that finds none is dropped. 0 means \
         4096.",
    ),
    entry(
        "useProxyProtocol",
        "false",
        "Send the client's address in a PROXY header, version 2; each connection then serves one \
         client. \"v2\" means true; \"v1\" sends the text header of version 1, and queries over TCP \
         only.",
    ),
    entry("proxyProtocolAdvertiseTLS", "false", "Add a value to that header when the client used TLS."),
    entry(
        "transparent",
        "false",
        "Send queries from the client's own address, for which the network must be set up: see the \
         tuning guide.",
    ),
    entry(
        "disableZeroScope",
        "false",
        "Give no client of its pools an answer of their packet cache that is valid for every subnet; see `parseECS`.",
    ),
    entry("reconnectOnUp", "false", "Accepted: sockets are kept."),
    entry("ipBindAddrNoPort", "true", "Accepted: binding a source address never reserves a port."),
];

/// The arguments of `newServer` of dnsdist that dnslob does not implement yet.
pub static SERVER_ARGUMENTS_MISSING: &[Missing] = &[
    Missing {
        family: "curves of TLS",
        meanwhile: "remove it: X25519, P-256 and P-384 are offered",
        names: &["ecdheCurves"],
    },
    Missing {
        family: "DNS over HTTPS towards servers, upgrades",
        meanwhile: "remove it to reach the server over UDP and TCP, or give tls alone for DNS over TLS",
        names: &[
            "dohPath",
            "addXForwardedHeaders",
            "autoUpgrade",
            "autoUpgradeInterval",
            "autoUpgradeKeep",
            "autoUpgradePool",
            "autoUpgradeDoHKey",
            "lazyHealthCheckWhenUpgraded",
        ],
    },
    Missing {
        family: "AF_XDP",
        meanwhile: "remove it: ordinary UDP sockets are used",
        names: &["xskSockets", "MACAddr", "cpus"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_argument_is_listed_once() {
        let mut seen = HashSet::new();
        let missing = SERVER_ARGUMENTS_MISSING.iter().flat_map(|m| m.names.iter().copied());
        for name in SERVER_ARGUMENTS.iter().chain(SERVER_TLS_ARGUMENTS).map(|e| e.name).chain(missing) {
            assert!(seen.insert(name), "newServer argument {name} twice");
        }
    }
}
