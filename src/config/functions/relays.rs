//! The tables of arguments of `addTCPForward` and `addUDPForward`.

use crate::config::functions::{Entry, entry};

/// How a relay's target is chosen, with descriptions.
pub static RELAY_POLICIES: [(&str, &str); 4] = [
    ("ordered", "the first one that accepts, in the order of `to`"),
    ("roundrobin", "in turn"),
    ("leastOutstanding", "the one with the fewest connections or flows"),
    (
        "sourceHash",
        "a hash of the client over the positions in `to`, the same in every relay with as many \
         targets, so that a client's TCP and UDP traffic reaches the same one; the loss of a target \
         moves only its clients",
    ),
];

/// The arguments of both.
pub static RELAY_ARGUMENTS: &[Entry] = &[
    entry("listen", "\"IP:PORT\"", "The address to listen on. Required."),
    entry("to", "\"IP:PORT\" | {\"IP:PORT\", ...}", "The targets, at most 64. Required."),
    entry("policy", "\"ordered\"", "How a target is chosen; failing or down ones are skipped."),
    entry("key", "\"client\"", "The key of `sourceHash`: \"client\", or \"clientPrefix\" for its network."),
    entry("v4", "24", "Prefix length of that network for IPv4."),
    entry("v6", "56", "Prefix length of that network for IPv6."),
    entry("acl", "network | {network, ...}", "The networks that may use it; by default the process's ACL."),
    entry("log", "false", "Log each connection or flow when it ends."),
    entry("interface", "name", "Listen on this network interface only."),
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
    entry("source", "\"ADDRESS\"", "Connect, or send, to the targets from this address."),
    entry(
        "transparent",
        "false",
        "Connect, or send, from the client's own address, for which the network must be set up: see the tuning guide.",
    ),
    entry(
        "check",
        "\"connect\"",
        "The kind of check: \"connect\", or \"none\", the default for UDP. \"connect\" with `checkSend` and \
         `checkExpect` sends over a connection where datagrams are relayed.",
    ),
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
    entry("checkSend", "bytes", "What the check sends."),
    entry("checkExpect", "bytes", "What the answer's first 4096 bytes must contain."),
    entry("checkInterval", "5", "Interval of checks, seconds; fractions are allowed."),
    entry("checkIntervalMs", "5000", "The same, milliseconds."),
    entry("checkTimeout", "1000", "Time-out of a check, milliseconds."),
    entry("rise", "1", "Successful checks in a row that bring a target up."),
    entry("maxCheckFailures", "1", "Failed checks in a row that take it down."),
];

/// The other arguments of `addTCPForward`.
pub static TCP_RELAY_ARGUMENTS: &[Entry] = &[
    entry("connectTimeout", "3", "Time-out of connecting, seconds; then the next target is tried."),
    entry("connectTimeoutMs", "3000", "The same, milliseconds."),
    entry(
        "greetingTimeout",
        "seconds",
        "For protocols whose servers speak first: a target that accepts, and then closes or sends nothing for \
         this time, is left for the next one, as long as the client has sent nothing either.",
    ),
    entry("greetingTimeoutMs", "milliseconds", "The same, milliseconds."),
    entry(
        "closeWhenDown",
        "true",
        "Close the connections of a target that its check finds to be down, or keep them.",
    ),
    entry("idleTimeout", "600", "Idle time-out of a connection, seconds; 0 is none."),
    entry("idleTimeoutMs", "600000", "The same, milliseconds."),
    entry("maxConnections", "100000", "Most concurrent connections; 0 is no limit."),
    entry(
        "maxConnectionsPerClient",
        "0",
        "The same per client, identified as by setTCPConnectionsMaskV4 and the like; 0 is no limit.",
    ),
    entry("tcpListenQueueSize", "4096", "Most pending connections, per shard."),
    entry("tcpFastOpenQueueSize", "0", "Most pending TCP Fast Open connections; 0 disables it."),
    entry("tcpFastOpen", "false", "Connect to the targets with TCP Fast Open."),
    entry(
        "useProxyProtocol",
        "false",
        "Send the client's address in a PROXY header: true or \"v2\", or \"v1\" for the text header.",
    ),
];

/// The other arguments of `addUDPForward`.
pub static UDP_RELAY_ARGUMENTS: &[Entry] = &[
    entry("idleTimeout", "30", "Idle time-out of a flow, seconds."),
    entry("idleTimeoutMs", "30000", "The same, milliseconds."),
    entry("maxFlows", "65536", "Most concurrent flows, per shard; each client address and port has its own."),
    entry(
        "maxFlowsPerClient",
        "0",
        "The same per client, identified as by setTCPConnectionsMaskV4 and the like; 0 is no limit.",
    ),
    entry(
        "useProxyProtocol",
        "false",
        "Send the client's address in a PROXY header, version 2, in front of each datagram.",
    ),
];
