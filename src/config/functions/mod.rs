//! The tables of what a Lua configuration can call: functions, arguments of `newServer`, methods.
//! Rules have tables of their own, and so has what is missing.
//!
//! The Lua host refuses what is not in here, and the reference is made from here. Functions of
//! one argument that set a process setting are in [`options`](crate::config::options) instead.

mod chains;
pub(crate) mod enumerations;
mod missing;
pub(crate) mod policies;
pub mod relays;
mod rules;
mod tls;

pub use crate::config::functions::chains::{CHAIN_EXTRAS, CHAINS, ChainFunctions, RULE_METHODS};
pub use crate::config::functions::missing::FUNCTIONS_MISSING;
pub use crate::config::functions::relays::{
    FORWARD_ARGUMENTS, FORWARD_POLICIES, TCP_FORWARD_ARGUMENTS, UDP_FORWARD_ARGUMENTS,
};
pub use crate::config::functions::rules::{
    ACTIONS, NAME_SET_METHODS, NETWORK_SET_METHODS, RESPONSE_ACTIONS, SELECTORS, SETS,
};
pub use crate::config::functions::tls::{SERVER_TLS_ARGUMENTS, TLS_LOCAL_OPTIONS, TLS_METHODS};

/// A function, method or argument that works.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Its arguments as one would write them; for an argument of `newServer`: its value.
    pub arguments: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// dnsdist's functions, or arguments, of one capability that dnslob does not have yet.
#[derive(Debug)]
pub struct Missing {
    /// The capability.
    pub family: &'static str,
    /// What to do for now.
    pub meanwhile: &'static str,
    /// The names.
    pub names: &'static [&'static str],
}

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

/// What each of [`POLICIES`] does, in their order.
pub static POLICY_DOCS: [&str; 9] = [
    "the server with the fewest outstanding queries; among equals the lowest order, then the lowest latency",
    "the first server by order within its `qps`; with all exceeded, leastOutstanding",
    "the servers in turn",
    "a random server, by weight",
    "a hash of the query over the weights",
    "a consistent hash: the loss of a server moves only its own share; wants weights of 100 to 1000",
    "random by weight among the usable servers of the lowest order",
    "the better of two random servers, by outstanding queries and latency",
    "as few servers as can bear the load, the first ones by order, judged by the latency of their fast answers; \
     `concentrate{...}` sets its options",
];

/// The functions that work, besides those of the settings.
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
        "The server with this number, from 0 in order of creation, or this id or name; nil if there is none.",
    ),
    entry("getServers", "", "All servers, as a list."),
    entry(
        "addLocal",
        "address [, {...}]",
        "Listens on an address, for UDP and TCP; port 53 unless given. Its options are listed below.",
    ),
    entry(
        "addTLSLocal",
        "address, certificate | {...}, key | {...} [, {...}]",
        "Listens for DNS over TLS; port 853 unless given. Files are PEM; its options are listed below.",
    ),
    entry(
        "newTLSCertificate",
        "path [, {key=path}]",
        "A certificate with its key, for addTLSLocal; without `key` both are in one file.",
    ),
    entry(
        "getTLSFrontend",
        "number",
        "The listener with TLS with this number, from 0; nil if there is none. Its methods are listed below.",
    ),
    entry("getTLSContext", "number", "The same as getTLSFrontend."),
    entry("getTLSFrontendCount", "", "Listeners with TLS so far."),
    entry(
        "reloadAllCertificates",
        "",
        "Accepted, does nothing: SIGHUP reads certificates and keys again, and connections are not touched.",
    ),
    entry(
        "addTCPForward",
        "{listen=, to=, ...}",
        "Passes connections on to the first target that accepts, whatever they carry; its arguments are listed below.",
    ),
    entry(
        "addUDPForward",
        "{listen=, to=, ...}",
        "Passes datagrams that are not DNS on to a target, and its answers back; its arguments are listed below.",
    ),
    entry("setLocal", "address [, {...}]", "Listens on this address instead of those before."),
    entry("setACL", "network | {network, ...}", "Lets these networks ask, and no other."),
    entry("addACL", "network", "Lets this network ask, too."),
    entry(
        "setACLFromFile",
        "path",
        "Like setACL with the networks of a file, one a line; `#` begins a comment.",
    ),
    entry(
        "setProxyProtocolACL",
        "network | {network, ...}",
        "These send a PROXY header, and are dropped without one; nobody else may. At first: nobody.",
    ),
    entry("setServerPolicy", "policy", "The policy of every pool without one of its own."),
    entry("setPoolServerPolicy", "policy, pool", "The policy of a pool."),
    entry("getPool", "name", "The pool with this name, made if needed; the default pool's name is empty."),
    entry(
        "setRetry",
        "{after=, budget=}",
        "The default pool: a query unanswered `after` so many milliseconds goes to a second server, for at most `budget` percent (10) of all queries.",
    ),
    entry(
        "setPanicThreshold",
        "percent",
        "The default pool: with less than this part of its servers up, use all of them. 0, the default, switches it off.",
    ),
    entry(
        "setEjection",
        "{excess=, time=, share=, queries=}",
        "The default pool: passes over a server whose share of failed queries is `excess` percent (20) above its pool's, for `time` milliseconds (30000), never more than `share` percent (50) of the pool, not below `queries` (100) in ten seconds.",
    ),
    entry(
        "setTCPToUDP",
        "switch",
        "The default pool: queries that came by a connection are asked over UDP, and over TCP only if that answer is truncated; AXFR and IXFR always over TCP.",
    ),
    entry("ordered", "policy", "This policy among the usable servers of the lowest order that has one."),
    entry(
        "hashBy",
        "policy, key [, {labels=2, v4=24, v6=56}]",
        "A hashed policy with another key: \"qname\", \"zone\" (the last labels), \"client\" or \"clientPrefix\".",
    ),
    entry(
        "bounded",
        "policy, factor",
        "This policy, passing over a server with more than so many times its fair share of the outstanding queries.",
    ),
    entry(
        "setUDPSocketBufferSizes",
        "receive, send",
        "Buffers of every UDP socket, bytes; 0 leaves the kernel's default.",
    ),
    entry(
        "setHealthCheckResponseValidator",
        "function(name, response, content)",
        "Judges the answers to health checks: true is healthy. `response` has rcode, id, the flags and the counts; `content` is the message.",
    ),
    entry("newDNSName", "text", "A domain name, for check functions to return or compare."),
    entry(
        "includeDirectory",
        "path",
        "Evaluates the files of a directory that end in `.conf`, in the order of their names.",
    ),
    entry("errlog", "text", "Logs an error."),
    entry("warnlog", "text", "Logs a warning."),
    entry("infolog", "text", "Logs a line."),
    entry("vinfolog", "text", "Logs a line when verbose."),
    entry("setRandomizedOutgoingSockets", "true", "Accepted: each query takes a random socket anyhow."),
    entry("setRandomizedIdsOverUDP", "true", "Accepted: ids are random anyhow."),
    entry(
        "setMaxTCPClientThreads",
        "number",
        "Accepted, does nothing: the shards serve connections themselves.",
    ),
    entry(
        "setMaxTCPQueuedConnections",
        "number",
        "Accepted, does nothing: no connection waits for a thread.",
    ),
    entry("setTCPUseSinglePipe", "switch", "Accepted, does nothing: there is no pipe."),
    entry("setTCPInternalPipeBufferSize", "bytes", "Accepted, does nothing: there is no pipe."),
    entry(
        "setTCPDownstreamCleanupInterval",
        "seconds",
        "Accepted, does nothing: an idle connection to a server ends when its time is over.",
    ),
    entry(
        "setOutgoingTLSSessionsCacheCleanupDelay",
        "seconds",
        "Accepted, does nothing: sessions with servers are few, and replaced as they are used.",
    ),
    entry(
        "setOutgoingTLSSessionsCacheMaxTicketValidity",
        "seconds",
        "Accepted, does nothing: a ticket is good for as long as its server says.",
    ),
    entry(
        "setOutgoingTLSSessionsCacheMaxTicketsPerBackend",
        "number",
        "Accepted, does nothing: there are enough for every shard.",
    ),
    entry("setSecurityPollSuffix", "suffix", "Accepted, does nothing: dnslob asks nobody about itself."),
];

/// Policies that are written in Lua.
pub static LUA_POLICIES: &[Entry] = &[
    entry(
        "newServerPolicy",
        "name, function(servers, dq)",
        "A policy in Lua, for setServerPolicy: returns the number of the chosen server, from 1. It runs in the \
         shard's own Lua state; without an answer leastOutstanding chooses.",
    ),
    entry(
        "setServerPolicyLua",
        "name, function(servers, dq)",
        "The same as setServerPolicy of such a policy.",
    ),
    entry(
        "setServerPolicyLuaFFI",
        "name, function(servers, dq)",
        "The same through LuaJIT's ffi; servers count from 0.",
    ),
    entry("setServerPolicyLuaFFIPerThread", "name, text", "The same, of a text that returns the function."),
    entry("setPoolServerPolicyLua", "name, function(servers, dq), pool", "Such a policy for one pool."),
    entry("setPoolServerPolicyLuaFFI", "name, function(servers, dq), pool", "Such a policy for one pool."),
    entry("setPoolServerPolicyLuaFFIPerThread", "name, text, pool", "Such a policy for one pool."),
];

/// Every function that works, besides those of the settings.
pub fn functions() -> impl Iterator<Item = &'static Entry> {
    let chains = CHAINS.iter().flat_map(|c| c.entries.iter());
    let rules = [CHAIN_EXTRAS, SELECTORS, ACTIONS, RESPONSE_ACTIONS, SETS, LUA_POLICIES];
    FUNCTIONS.iter().chain(chains).chain(rules.into_iter().flatten())
}

/// The methods of a server.
pub static SERVER_METHODS: &[Entry] = &[
    entry("setUp", "", "Up, without health checks."),
    entry("setDown", "", "Down, without health checks."),
    entry("setAuto", "[status]", "Health by checks, all the time, unless the server's mode was lazy."),
    entry("setActiveAuto", "[status]", "Health by checks, all the time."),
    entry("setLazyAuto", "[status]", "Health by checks, when live answers fail."),
    entry("drain", "", "No new queries; the outstanding ones finish."),
    entry("setQPS", "number", "Queries per second for firstAvailable; 0 is no limit."),
    entry("setOrder", "number", "Its order."),
    entry("setWeight", "number", "Its weight."),
    entry("addPool", "name", "Puts it into a pool."),
    entry("rmPool", "name", "Takes it out of a pool."),
    entry("getName", "", "Its name."),
    entry("getNameWithAddr", "", "Its name and address."),
    entry("isUp", "", "Whether it is up; before the start, whether it is not forced down."),
    entry("getOutstanding", "", "Its outstanding queries; 0 before the start."),
    entry("getLatency", "", "Its latency; 0 before the start."),
    entry("getHealthCheckMode", "", "\"auto\", \"up\", \"down\", \"lazy\" or \"drain\"."),
];

/// The options of `addLocal` and `setLocal`.
pub static LOCAL_OPTIONS: &[Entry] = &[
    entry("interface", "name", "Listen on this network interface alone."),
    entry("dscp", "0", "DSCP of answers, 0 to 63."),
    entry("doTCP", "true", "Whether TCP is served, too."),
    entry("tcpFastOpenQueueSize", "0", "Connections by TCP Fast Open that may wait; 0 switches it off."),
    entry("tcpListenQueueSize", "4096", "Connections that wait to be accepted, in each shard."),
    entry(
        "maxInFlight",
        "100",
        "Queries of one connection that are answered at a time, in any order; with 0 or 1 in the order in which \
         they came.",
    ),
    entry(
        "maxConcurrentTCPConnections",
        "0",
        "Connections at a time; 0 is no limit but `setMaxTCPConnections`.",
    ),
    entry("enableProxyProtocol", "true", "Whether those in `setProxyProtocolACL` begin with a PROXY header."),
    entry(
        "reusePort",
        "false",
        "Whether another process of the same user may have the address, too; otherwise a start, or a reload, is \
         refused where one has. The shards of one process share it anyhow.",
    ),
    entry(
        "cpus",
        "{number, ...}",
        "Accepted, does nothing: `--cpus` and `--steer` say which CPU serves what.",
    ),
];

/// The methods of a pool.
pub static POOL_METHODS: &[Entry] = &[
    entry("setServerPolicy", "policy", "Its policy."),
    entry("setRetry", "{after=, budget=}", "See the function setRetry."),
    entry("setPanicThreshold", "percent", "See the function setPanicThreshold."),
    entry("setEjection", "{excess=, time=, share=, queries=}", "See the function setEjection."),
    entry("setTCPToUDP", "switch", "See the function setTCPToUDP."),
];

/// The arguments of `newServer` that work.
pub static SERVER_ARGUMENTS: &[Entry] = &[
    entry("address", "\"IP[:PORT]\"", "Its address, port 53 unless given. Required."),
    entry("id", "text", "Identity over reloads and, for chashed, over machines; its address without one."),
    entry("name", "text", "Name for people."),
    entry("pool", "name | {name, ...}", "Its pools; the default pool without it."),
    entry("order", "1", "Lower is preferred by the policies that go by order."),
    entry("weight", "1", "Share for the policies that go by weight."),
    entry("qps", "0", "Queries per second for firstAvailable, over all shards; 0 is no limit."),
    entry("udpTimeout", "2", "How long its answer is waited for, seconds; fractions are allowed."),
    entry("udpTimeoutMs", "2000", "The same, milliseconds."),
    entry("sockets", "4", "UDP sockets (source ports) per shard, 1 to 255."),
    entry("source", "\"ADDRESS\" | \"INTERFACE\" | \"ADDRESS@INTERFACE\"", "Where to ask it from."),
    entry("interface", "name", "Local interface to ask it through."),
    entry("dscp", "0", "DSCP of queries, 0 to 63."),
    entry(
        "maxOutstandingQueries",
        "0",
        "Outstanding queries over all shards above which policies pass it over; 0 is no limit.",
    ),
    entry(
        "maxOutstanding",
        "65535",
        "Outstanding queries per shard, so many over UDP and as many by connections; one more is dropped and counted.",
    ),
    entry("healthCheckMode", "\"auto\"", "\"auto\", \"up\", \"down\" or \"lazy\"."),
    entry("check", "\"dns\"", "What a check is: \"dns\", or \"connect\" for a TCP connection."),
    entry(
        "checkScript",
        "{\"/path\", \"argument\", ...}",
        "A program as the check: exit code 0 is healthy; it gets address and port as its last arguments.",
    ),
    entry("checkName", "\"a.root-servers.net.\"", "Name that a check asks for."),
    entry("checkType", "\"A\"", "Type that a check asks for, its name or number."),
    entry("checkClass", "1", "Class that a check asks for."),
    entry("checkInterval", "1", "Between checks, seconds; fractions are allowed."),
    entry("checkIntervalMs", "1000", "The same, milliseconds."),
    entry("checkTimeout", "1000", "A check unanswered so long failed, milliseconds."),
    entry("checkTCP", "false", "Check over TCP."),
    entry(
        "checkFunction",
        "function(qname, qtype, qclass, dh)",
        "Chooses the query of each check: returns qname, qtype, qclass.",
    ),
    entry(
        "checkResponseFunction",
        "function(name, response, content)",
        "Judges the answer of each check: true is healthy.",
    ),
    entry("rise", "1", "Good checks in a row that bring it up."),
    entry("maxCheckFailures", "1", "Failed checks in a row that take it down."),
    entry("mustResolve", "false", "NXDOMAIN, REFUSED and SERVFAIL fail a check too."),
    entry("setCD", "false", "Set CD in checks."),
    entry(
        "slowStart",
        "10",
        "After its return its share grows to whole over so many seconds; 0 switches it off.",
    ),
    entry(
        "lazyHealthCheckThreshold",
        "20",
        "Failed part of live queries, percent, from which lazy checks begin.",
    ),
    entry("lazyHealthCheckSampleSize", "100", "Live queries that lazy checks look back on."),
    entry("lazyHealthCheckMinSampleCount", "1", "Live queries below which lazy checks do not begin."),
    entry("lazyHealthCheckFailedInterval", "30", "Between lazy checks of a failed server, seconds."),
    entry(
        "lazyHealthCheckMode",
        "\"TimeoutOrServFail\"",
        "What counts as failed: \"TimeoutOrServFail\" or \"TimeoutOnly\".",
    ),
    entry(
        "lazyHealthCheckUseExponentialBackOff",
        "false",
        "Double the time between lazy checks at each failure.",
    ),
    entry("lazyHealthCheckMaxBackOff", "3600", "The longest time that doubling leads to, seconds."),
    entry("useClientSubnet", "false", "Its queries carry the client's subnet (RFC 7871)."),
    entry("tcpOnly", "false", "Queries that came over UDP go to it by TCP, too."),
    entry(
        "tcpConnectTimeout",
        "5",
        "A connection that does not come about in this time is given up, seconds.",
    ),
    entry("tcpConnectTimeoutMs", "5000", "The same, milliseconds."),
    entry("tcpSendTimeout", "30", "A connection that takes no query for so long is given up, seconds."),
    entry("tcpSendTimeoutMs", "30000", "The same, milliseconds."),
    entry("tcpRecvTimeout", "30", "A connection that owes an answer for so long is given up, seconds."),
    entry("tcpRecvTimeoutMs", "30000", "The same, milliseconds."),
    entry("tcpFastOpen", "false", "Connect with TCP Fast Open."),
    entry(
        "retries",
        "5",
        "Servers that a query is tried on when connections fail, this one included, 1 to 5; 0 is 1, more are 5.",
    ),
    entry(
        "maxInFlight",
        "64",
        "Queries on one connection at a time; with 1, or 0, the server gets the next one after its answer.",
    ),
    entry(
        "maxConcurrentTCPConnections",
        "0",
        "Connections to it at a time, in each shard; a query for which there is none is dropped. 0 is no limit \
         but 4096.",
    ),
    entry(
        "useProxyProtocol",
        "false",
        "It learns the client's address by a PROXY header, version 2; each of its connections then serves one \
         client. \"v2\" is true; with \"v1\" the header is the line of text of version 1, and queries go to it \
         over TCP alone.",
    ),
    entry(
        "proxyProtocolAdvertiseTLS",
        "false",
        "A value in that header says so when the client came by TLS.",
    ),
    entry(
        "transparent",
        "false",
        "It gets queries from the client's own address, for which the network must be set up: see the tuning guide.",
    ),
    entry(
        "disableZeroScope",
        "false",
        "Accepted: there is no packet cache whose entries a zero scope would widen.",
    ),
    entry("reconnectOnUp", "false", "Accepted: sockets are kept."),
    entry("ipBindAddrNoPort", "true", "Accepted: no port is set apart by binding a source address."),
];

/// The arguments of `newServer` that dnsdist has and dnslob has not yet.
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
    fn every_name_stands_once() {
        let mut seen = HashSet::new();
        let setters = crate::config::options::SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name);
        let functions = functions().map(|e| e.name).chain(POLICIES).chain(setters);
        let missing = FUNCTIONS_MISSING.iter().flat_map(|m| m.names.iter().copied());
        for name in functions.chain(missing) {
            assert!(seen.insert(name), "{name} twice");
        }
        let mut seen = HashSet::new();
        let missing = SERVER_ARGUMENTS_MISSING.iter().flat_map(|m| m.names.iter().copied());
        for name in SERVER_ARGUMENTS.iter().chain(SERVER_TLS_ARGUMENTS).map(|e| e.name).chain(missing) {
            assert!(seen.insert(name), "newServer argument {name} twice");
        }
    }
}
