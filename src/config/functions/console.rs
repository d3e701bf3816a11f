//! The tables of the console: the functions that configure it, and those that show the running
//! process.

use crate::config::functions::{Entry, entry};

/// Port of the console when none is given.
pub const CONSOLE_PORT: u16 = 5199;

/// The functions that configure the console, besides those of the settings.
pub static CONSOLE: &[Entry] = &[
    entry(
        "controlSocket",
        "address",
        "Listens for console connections on an address; the default port is 5199. setKey is needed, too.",
    ),
    entry(
        "setKey",
        "key",
        "Sets the console's key: 32 bytes in base64, as makeKey prints them. Without one every connection \
         is refused.",
    ),
    entry("makeKey", "", "Prints a new random key, as a line for the configuration."),
    entry(
        "setConsoleACL",
        "network | {network, ...}",
        "Allows console connections from these networks only; by default from the machine itself.",
    ),
    entry("addConsoleACL", "network", "Allows console connections from this network as well."),
    entry("showConsoleACL", "", "Prints the networks that may use the console."),
    entry(
        "testCrypto",
        "",
        "Seals a text with the key of setKey, or a random one, opens it again, and prints whether it is the same.",
    ),
    entry("clearConsoleHistory", "", "Makes delta() forget the commands so far, which stay in force."),
];

/// The methods of the objects that `getBind` returns.
pub static BIND_METHODS: &[Entry] = &[
    entry("toString", "", "Returns its address and port."),
    entry(
        "getType",
        "",
        "Returns its protocol: \"UDP\", \"TCP\" or \"TCP (DNS over TLS)\"; or \"TCP relay\", \"UDP relay\".",
    ),
    entry("getEffectiveTLSProvider", "", "Returns \"rustls\" with TLS, and else an empty text."),
    entry("getRequestedTLSProvider", "", "The same."),
];

/// The functions that show the running process, and direct it.
pub static INSPECTION: &[Entry] = &[
    entry(
        "showServers",
        "[{showUUIDs=}]",
        "Prints the servers with their state and figures, one in each line; `showUUIDs` is accepted.",
    ),
    entry("showPools", "", "Prints the pools with their policies and servers."),
    entry("showBinds", "", "Prints the listeners with their figures."),
    entry("showACL", "", "Prints the networks that may query."),
    entry("showServerPolicy", "", "Prints the policy of pools without one of their own."),
    entry("showPoolServerPolicy", "pool", "Prints the policy of a pool."),
    entry("showTCPStats", "", "Prints the figures of connections from clients and to servers."),
    entry("showTLSErrorCounters", "", "Prints the failed TLS handshakes by reason."),
    entry("showTLSFrontends", "", "Prints the listeners with TLS and their certificates."),
    entry("showTLSContexts", "", "The same as showTLSFrontends."),
    entry(
        "showTLSCertificates",
        "",
        "Prints the certificates of the listeners with TLS: file, names, validity, and the days that are left.",
    ),
    entry(
        "requestTCPStatesDump",
        "",
        "Writes the figures of connections, which showTCPStats prints, to the log.",
    ),
    entry(
        "getBind",
        "number",
        "Returns a listener by its number in showBinds(), from 0; nil if there is none. Its methods are listed below.",
    ),
    entry("getBindCount", "", "Returns the number of listeners in showBinds()."),
    entry("showResponseLatency", "", "Draws how many responses took how long."),
    entry(
        "showShadows",
        "",
        "Prints what was compared of queries that ShadowAction has sent to a second pool: differences by class, examples, latencies.",
    ),
    entry("showVersion", "", "Prints the version."),
    entry("dumpStats", "", "Prints every metric."),
    entry("getStatisticsCounters", "", "Returns the metrics of the whole process as a table, by name."),
    entry(
        "getOutgoingTLSSessionCacheSize",
        "",
        "Returns how many TLS sessions with servers are kept that the next connections may resume: at most 8 for each server.",
    ),
    entry("getPoolServers", "pool", "Returns the servers of a pool, as a list."),
    entry("getPoolNames", "", "Returns the names of the pools, as a list."),
    entry("getACL", "", "Returns the networks that may query, as a list of texts."),
    entry("rmACL", "network", "Removes a network from those that may query."),
    entry("getVerbose", "", "Returns whether messages of level debug are logged."),
    entry("delta", "", "Prints the commands that have changed the configuration since its file was read."),
    entry(
        "reload",
        "",
        "Reads the configuration file again, as SIGHUP does. What was changed since is gone.",
    ),
    entry("shutdown", "", "Stops the process as SIGTERM does: outstanding queries are answered first."),
    entry("help", "[text]", "Prints the functions with their arguments: all, or those with this text."),
];
