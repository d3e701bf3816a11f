//! The tables of rules: selectors, actions, and the sets that selectors use.

use crate::config::functions::{Entry, entry};

/// The selectors.
pub static SELECTORS: &[Entry] = &[
    entry("AllRule", "", "Every packet."),
    entry("AndRule", "{rule, ...}", "All of these match; evaluated in order up to the first that does not."),
    entry("OrRule", "{rule, ...}", "Any of these matches; evaluated in order up to the first that does."),
    entry("NotRule", "rule", "This one does not match."),
    entry("QNameRule", "name", "The queried name is this one."),
    entry("QNameSetRule", "set", "The queried name is in a set of `newDNSNameSet`."),
    entry(
        "QNameSuffixRule",
        "set | name | {name, ...} [, quiet=false]",
        "The queried name is, or is below, one of these names or those of `newSuffixMatchNode`. A set \
         may be extended after the rule: its state at the end of the file counts. `quiet` omits the \
         names from showRules.",
    ),
    entry("SuffixMatchNodeRule", "set | name | {name, ...} [, quiet=false]", "The same as QNameSuffixRule."),
    entry("RegexRule", "expression", "A part of the name, without its final dot, matches; case is ignored."),
    entry("RE2Rule", "expression", "The whole name matches."),
    entry("QTypeRule", "type", "The queried type, by name or number."),
    entry("QClassRule", "class", "The queried class, by name or number."),
    entry("OpcodeRule", "code", "The operation, as `DNSOpcode.Update`."),
    entry("RCodeRule", "code", "The response code, without its extension."),
    entry("ERCodeRule", "code", "The response code with the extension of its OPT record."),
    entry("RDRule", "", "Recursion is desired."),
    entry("DNSSECRule", "", "DNSSEC records are requested (DO)."),
    entry("EDNSOptionRule", "code", "There is an EDNS option of this code."),
    entry("EDNSVersionRule", "version", "The EDNS version is above this."),
    entry("RecordsCountRule", "section, min, max", "Records in a section, as `DNSSection.Answer`."),
    entry("RecordsTypeCountRule", "section, type, min, max", "Records of a type in a section."),
    entry("TrailingDataRule", "", "There are bytes after the message."),
    entry("QNameLabelsCountRule", "min, max", "The name has fewer labels than `min`, or more than `max`."),
    entry("QNameWireLengthRule", "min, max", "The name has fewer bytes than `min`, or more than `max`."),
    entry(
        "PayloadSizeRule",
        "comparison, size",
        "The message's bytes; \"equal\", \"greater\", \"greaterOrEqual\", \"smaller\" or \"smallerOrEqual\".",
    ),
    entry(
        "NetmaskGroupRule",
        "networks | network | {network, ...} [, source=true [, quiet=false]]",
        "The client's address is in these networks; with `source` false, the destination address.",
    ),
    entry("DSTPortRule", "port", "The destination port."),
    entry(
        "IncomingProtocolRule",
        "protocol",
        "The protocol: \"DoUDP\", \"DoTCP\", \"DNSCryptUDP\", \"DNSCryptTCP\", \"DoT\", \"DoH\", \"DoQ\" or \"DoH3\".",
    ),
    entry("TCPRule", "tcp", "It came over TCP; with false, it did not."),
    entry(
        "ProxyProtocolValueRule",
        "type [, value]",
        "The query's PROXY header has a value of this type, with this content if one is given.",
    ),
    entry("SNIRule", "name", "The client's TLS handshake named this server."),
    entry("TagRule", "name [, value]", "A tag is set, to this value if one is given."),
    entry(
        "MaxQPSRule",
        "qps [, burst=qps]",
        "No more than this many queries per second reach the rule, over all shards.",
    ),
    entry(
        "MaxQPSIPRule",
        "qps [, v4=32 [, v6=64 [, burst=qps [, expiration=300 [, cleanupDelay, scanFraction, shards]]]]]",
        "A client, identified by these prefix lengths, sends more queries than this per second. A \
         client that is silent for `expiration` seconds is forgotten. The last three are accepted \
         without effect.",
    ),
    entry("ProbaRule", "probability", "With this probability; 1 is always."),
    entry("PoolAvailableRule", "pool", "A pool has a usable server."),
    entry(
        "PoolOutstandingRule",
        "pool, limit",
        "The servers of a pool have more outstanding queries than this.",
    ),
    entry(
        "TimedIPSetRule",
        "",
        "A set of addresses, each with its expiry, which functions of rules add to; `slice()` is the \
         rule.",
    ),
    entry("newTimedIPSetRule", "", "The same as TimedIPSetRule."),
    entry("LuaRule", "function(dq)", "A Lua function returns true, in the shard's own Lua state."),
    entry("LuaFFIRule", "function(dq)", "The same through LuaJIT's ffi."),
    entry("LuaFFIPerThreadRule", "text", "The same, with a text that returns the function."),
    entry(
        "makeRule",
        "name | network | {name, ...} | {network, ...}",
        "Returns the rule that a name or network stands for.",
    ),
];

/// The actions on queries.
pub static ACTIONS: &[Entry] = &[
    entry("AllowAction", "", "Sends the query to the pool chosen so far; no further rule is evaluated."),
    entry("DropAction", "", "Drops it."),
    entry(
        "PoolAction",
        "pool [, stop=true]",
        "Chooses a pool. Later rules are evaluated only if `stop` is false.",
    ),
    entry("QPSAction", "qps", "Drops queries above this rate; below it, the next rule is evaluated."),
    entry(
        "QPSPoolAction",
        "qps, pool [, stop=true]",
        "Chooses a pool within this rate; above it, the next rule is evaluated.",
    ),
    entry("RCodeAction", "code [, {aa=, ad=, ra=}]", "Answers with this code."),
    entry("ERCodeAction", "code [, {aa=, ad=, ra=}]", "Answers with this code, including its extended part."),
    entry(
        "NegativeAndSOAAction",
        "nxd, zone, ttl, mname, rname, serial, refresh, retry, expire, minimum [, {aa=, ad=, ra=, \
         soaInAuthoritySection=false}]",
        "Answers NXDOMAIN, or NODATA, with a SOA.",
    ),
    entry("TCAction", "", "Answers TC=1 over UDP; no effect over TCP."),
    entry(
        "SpoofAction",
        "address | {address, ...} [, {aa=, ad=, ra=, ttl=60}]",
        "Answers A, AAAA and ANY with these addresses. The older form SpoofAction(v4, v6) is accepted.",
    ),
    entry("SpoofCNAMEAction", "name [, {aa=, ad=, ra=, ttl=60}]", "Answers with a CNAME."),
    entry(
        "SpoofRawAction",
        "data | {data, ...} [, {aa=, ad=, ra=, ttl=60, typeForAny=}]",
        "Answers with records of the queried type and these contents; ANY only with `typeForAny`.",
    ),
    entry(
        "SpoofSVCAction",
        "{parameters, ...} [, {aa=, ad=, ra=, ttl=60}]",
        "Answers with SVCB or HTTPS records of `newSVCRecordParameters`, their hints as additional records.",
    ),
    entry("SpoofPacketAction", "message [, length]", "Answers with this message and the query's id."),
    entry("DelayAction", "milliseconds", "Delays the answer; UDP only."),
    entry(
        "TeeAction",
        "\"IP[:PORT]\" [, addECS=false [, source]]",
        "Sends a copy to another server and ignores its answer.",
    ),
    entry(
        "LogAction",
        "[path [, binary=true [, append=false [, buffered=true [, verboseOnly=true [, includeTimestamp=false]]]]]]",
        "Logs each query to a file, or to the log without a path.",
    ),
    entry("NoneAction", "", "No effect; the next rule is evaluated."),
    entry("ContinueAction", "action", "Performs another action, then evaluates the next rule."),
    entry(
        "SetProxyProtocolValuesAction",
        "{[type]=value, ...}",
        "Sets the values of the PROXY header towards the server, replacing those of the query.",
    ),
    entry(
        "SetAdditionalProxyProtocolValueAction",
        "type, value",
        "Adds a value to the PROXY header towards the server.",
    ),
    entry("SetTagAction", "name, value", "Sets a tag, which the response has too."),
    entry("UnsetTagAction", "name", "Removes a tag."),
    entry("SetNoRecurseAction", "", "Clears RD towards the server."),
    entry("SetDisableValidationAction", "", "Sets CD towards the server."),
    entry("SetDisableECSAction", "", "Adds no client subnet."),
    entry("SetECSOverrideAction", "override", "Sets whether a query's own client subnet is replaced."),
    entry("SetECSPrefixLengthAction", "v4, v6", "Sets the prefix lengths of the client subnet."),
    entry(
        "SetECSAction",
        "network [, network]",
        "Adds this subnet rather than the client's; of two, one is for IPv4 clients and one for IPv6 \
         clients.",
    ),
    entry("SetEDNSOptionAction", "code, data", "Sets an EDNS option towards the server."),
    entry("SetExtendedDNSErrorAction", "code [, text]", "Adds an Extended DNS Error to the answer."),
    entry("SetMaxReturnedTTLAction", "seconds", "Limits the TTLs of the answer to this."),
    entry("SetSkipCacheAction", "", "Bypasses the cache."),
    entry("SetTempFailureCacheTTLAction", "seconds", "Sets how long a cache keeps SERVFAIL and REFUSED."),
    entry(
        "LuaAction",
        "function(dq)",
        "Performs what a Lua function returns, as `DNSAction.Pool, \"abuse\"`; it runs in the shard's \
         own Lua state, without a lock. An error is counted, and the next rule is evaluated.",
    ),
    entry("LuaFFIAction", "function(dq)", "The same through LuaJIT's ffi."),
    entry("LuaFFIPerThreadAction", "text", "The same, with a text that returns the function."),
];

/// The actions on responses.
pub static RESPONSE_ACTIONS: &[Entry] = &[
    entry("AllowResponseAction", "", "Sends the answer to the client; no further rule is evaluated."),
    entry("DropResponseAction", "", "Drops it."),
    entry("TCResponseAction", "", "Turns the answer into TC=1 without records."),
    entry("DelayResponseAction", "milliseconds", "Delays the answer; UDP only."),
    entry(
        "LogResponseAction",
        "[path [, append=false [, buffered=true [, verboseOnly=true [, includeTimestamp=false]]]]]",
        "Logs each answer to a file, or to the log without a path.",
    ),
    entry(
        "LimitTTLResponseAction",
        "min [, max [, {type, ...}]]",
        "Limits the TTLs of these types, or of all, to this range.",
    ),
    entry("SetMinTTLResponseAction", "seconds", "Raises TTLs to at least this."),
    entry("SetMaxTTLResponseAction", "seconds", "Limits TTLs to at most this."),
    entry("SetReducedTTLResponseAction", "percent", "Reduces TTLs to this percentage."),
    entry(
        "SetMaxReturnedTTLResponseAction",
        "seconds",
        "Limits TTLs towards the client; a cache keeps the original ones.",
    ),
    entry("ClearRecordTypesResponseAction", "type | {type, ...}", "Removes records of these types."),
    entry("SetSkipCacheResponseAction", "", "Keeps it out of the cache."),
    entry("SetTagResponseAction", "name, value", "Sets a tag."),
    entry("UnsetTagResponseAction", "name", "Removes a tag."),
    entry("SetEDNSOptionResponseAction", "code, data", "Sets an EDNS option."),
    entry("SetExtendedDNSErrorResponseAction", "code [, text]", "Adds an Extended DNS Error."),
    entry(
        "RestartResponseAction",
        "pool [, times=1]",
        "Sends the query again, to another pool, at most this many times per query (1 to 10). Not in \
         dnsdist.",
    ),
    entry(
        "LuaResponseAction",
        "function(dr)",
        "Performs what a Lua function returns, as `DNSResponseAction.Drop`.",
    ),
    entry("LuaFFIResponseAction", "function(dr)", "The same through LuaJIT's ffi."),
    entry("LuaFFIPerThreadResponseAction", "text", "The same, with a text that returns the function."),
];

/// Other objects that rules are made of.
pub static SETS: &[Entry] = &[
    entry("newSuffixMatchNode", "", "Returns a set of names that matches what is below them too."),
    entry("newDNSNameSet", "", "Returns a set of names."),
    entry("newNMG", "", "Returns a set of networks; the longest one that contains an address decides."),
    entry("newNetmask", "network | address, length", "Returns a network."),
    entry("newCA", "\"IP[:PORT]\"", "Returns an address."),
    entry(
        "newSVCRecordParameters",
        "priority, target [, {mandatory=, alpn=, noDefaultAlpn=, port=, ipv4hint=, ech=, ipv6hint=, keyN=}]",
        "Returns one SVCB or HTTPS record (RFC 9460). The longer form (priority, target, mandatory, \
         alpns, noDefaultAlpn, port, ech, ipv4hints, ipv6hints, {[N]=data}) is accepted too.",
    ),
];

/// The methods of a set of names.
pub static NAME_SET_METHODS: &[Entry] = &[
    entry("add", "name | {name, ...}", "Adds names."),
    entry("remove", "name | {name, ...}", "Removes names; `delete` is the same."),
    entry(
        "addFile",
        "path",
        "Adds the names of a file, one per line; `#` begins a comment. The first ten invalid lines \
         are reported. Not in dnsdist.",
    ),
    entry("check", "name", "Returns whether a name is in it, or for newSuffixMatchNode, below one that is."),
    entry(
        "getBestMatch",
        "name",
        "Returns its longest name that equals a name or is above it; nil if there is none.",
    ),
    entry("len", "", "Returns the number of names; `size` is the same."),
    entry("memory", "", "Returns the memory of its names, bytes."),
    entry("empty", "", "Returns whether it is empty."),
    entry("clear", "", "Removes all names."),
    entry("toString", "", "Returns a short description."),
];

/// The methods of a set of networks.
pub static NETWORK_SET_METHODS: &[Entry] = &[
    entry("addMask", "network | {network, ...}", "Adds networks; one after `!` is an exception."),
    entry(
        "addMasks",
        "{network, ...} | {[address]=number}",
        "Adds the networks of a list, or the keys of a table.",
    ),
    entry("addNMG", "networks", "Adds the networks of another set."),
    entry("match", "address", "Returns whether an address is in it."),
    entry("size", "", "Returns the number of networks; `len` is the same."),
    entry("clear", "", "Removes all networks."),
];
