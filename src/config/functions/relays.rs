//! The tables of what `addTCPForward` and `addUDPForward` take.

use crate::config::functions::{Entry, entry};

/// How a forward's target is chosen, each with what it does.
pub static FORWARD_POLICIES: [(&str, &str); 4] = [
    ("ordered", "the first one that accepts, in the order of `to`"),
    ("roundrobin", "in turn"),
    ("leastOutstanding", "the one with the fewest connections or flows"),
    (
        "sourceHash",
        "a hash of the client over the places in `to`: the same in every forward with as many targets, so that \
         what a client does over TCP and over UDP reaches the same one; the loss of a target moves its clients alone",
    ),
];

/// What both take.
pub static FORWARD_ARGUMENTS: &[Entry] = &[
    entry("listen", "\"IP:PORT\"", "Where clients connect, or send. Required."),
    entry("to", "\"IP:PORT\" | {\"IP:PORT\", ...}", "The targets, at most 64. Required."),
    entry("policy", "\"ordered\"", "How one is chosen; those that fail, or are known down, are passed over."),
    entry("key", "\"client\"", "What `sourceHash` hashes: \"client\", or \"clientPrefix\" for its network."),
    entry("v4", "24", "Prefix length of that network for IPv4."),
    entry("v6", "56", "Prefix length of that network for IPv6."),
    entry(
        "acl",
        "network | {network, ...}",
        "Who may use it; without it those whom the process's ACL lets ask.",
    ),
    entry("log", "false", "A line in the log at the end of each connection or flow."),
    entry("interface", "name", "Listen on this network interface alone."),
    entry(
        "reusePort",
        "false",
        "Whether another process of the same user may have the address, too; otherwise a start, or a reload, is \
         refused where one has. The shards of one process share it anyhow.",
    ),
    entry("source", "\"ADDRESS\"", "Connect, or send, to the targets from this address."),
    entry(
        "transparent",
        "false",
        "Connect, or send, from the client's own address, for which the network must be set up: see the tuning guide.",
    ),
    entry(
        "check",
        "\"connect\"",
        "What a check is: \"connect\", or \"none\", as for UDP unless told otherwise.",
    ),
    entry(
        "checkScript",
        "{\"/path\", \"argument\", ...}",
        "A program as the check: exit code 0 is healthy; it gets address and port as its last arguments.",
    ),
    entry("checkSend", "bytes", "The check sends this ..."),
    entry("checkExpect", "bytes", "... and is good when the answer's first 4096 bytes hold this."),
    entry("checkInterval", "5", "Between checks, seconds; fractions are allowed."),
    entry("checkIntervalMs", "5000", "The same, milliseconds."),
    entry("checkTimeout", "1000", "A check unanswered so long failed, milliseconds."),
    entry("rise", "1", "Good checks in a row that bring a target up."),
    entry("maxCheckFailures", "1", "Failed checks in a row that take it down."),
];

/// What `addTCPForward` takes besides.
pub static TCP_FORWARD_ARGUMENTS: &[Entry] = &[
    entry(
        "connectTimeout",
        "3",
        "A target that has not accepted in this time is given up, and the next one tried, seconds.",
    ),
    entry("connectTimeoutMs", "3000", "The same, milliseconds."),
    entry(
        "idleTimeout",
        "600",
        "Ends a connection over which nothing went for so long, seconds; 0 never does.",
    ),
    entry("idleTimeoutMs", "600000", "The same, milliseconds."),
    entry("maxConnections", "100000", "Connections at a time; 0 is no limit."),
    entry(
        "maxConnectionsPerClient",
        "0",
        "Of these, those of one client, told apart as in setTCPConnectionsMaskV4 and the like; 0 is no limit.",
    ),
    entry("tcpListenQueueSize", "4096", "Connections that wait to be accepted, in each shard."),
    entry("tcpFastOpenQueueSize", "0", "Connections by TCP Fast Open that may wait; 0 switches it off."),
    entry("tcpFastOpen", "false", "Connect to the targets with TCP Fast Open."),
    entry(
        "useProxyProtocol",
        "false",
        "The target learns the client's address by a PROXY header: true or \"v2\", or \"v1\" for the line of text.",
    ),
];

/// What `addUDPForward` takes besides.
pub static UDP_FORWARD_ARGUMENTS: &[Entry] = &[
    entry("idleTimeout", "30", "Ends a flow over which nothing went for so long, seconds."),
    entry("idleTimeoutMs", "30000", "The same, milliseconds."),
    entry("maxFlows", "65536", "Flows at a time, in each shard: a client's address and port has one each."),
    entry(
        "maxFlowsPerClient",
        "0",
        "Of these, those of one client, told apart as in setTCPConnectionsMaskV4 and the like; 0 is no limit.",
    ),
    entry(
        "useProxyProtocol",
        "false",
        "The target learns the client's address by a PROXY header, version 2, in front of each datagram.",
    ),
];
