//! The tables of rules: what selects packets, what is done to them, and the sets that selectors
//! look into.

use crate::config::functions::{Entry, entry};

/// What selects packets.
pub static SELECTORS: &[Entry] = &[
    entry("AllRule", "", "Every packet."),
    entry("AndRule", "{rule, ...}", "Every one of these, asked in order up to the first that says no."),
    entry("OrRule", "{rule, ...}", "Any of these, asked in order up to the first that says yes."),
    entry("NotRule", "rule", "Not this one."),
    entry("QNameRule", "name", "The name asked for is this one."),
    entry("QNameSetRule", "set", "The name asked for is in a set of `newDNSNameSet`."),
    entry(
        "QNameSuffixRule",
        "set | name | {name, ...} [, quiet=false]",
        "The name asked for is, or is below, one of these names or those of `newSuffixMatchNode`. A set may be \
         added to behind the rule: it counts as it is at the end of the file. `quiet` keeps the names out of \
         showRules.",
    ),
    entry("SuffixMatchNodeRule", "set | name | {name, ...} [, quiet=false]", "The same as QNameSuffixRule."),
    entry("RegexRule", "expression", "A part of the name, without its last dot, matches; letter case aside."),
    entry("RE2Rule", "expression", "The whole name matches."),
    entry("QTypeRule", "type", "The type asked for, by name or number."),
    entry("QClassRule", "class", "The class asked for, by name or number."),
    entry("OpcodeRule", "code", "The operation, as `DNSOpcode.Update`."),
    entry("RCodeRule", "code", "The response code, without its extension."),
    entry("ERCodeRule", "code", "The response code with the extension of its OPT record."),
    entry("RDRule", "", "Recursion is desired."),
    entry("DNSSECRule", "", "DNSSEC records are wanted (DO)."),
    entry("EDNSOptionRule", "code", "There is an EDNS option of this code."),
    entry("EDNSVersionRule", "version", "The EDNS version is above this."),
    entry("RecordsCountRule", "section, min, max", "Records in a section, as `DNSSection.Answer`."),
    entry("RecordsTypeCountRule", "section, type, min, max", "Records of a type in a section."),
    entry("TrailingDataRule", "", "There are bytes behind the message."),
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
        "The client's address is in these networks; with `source` false, the address that was asked.",
    ),
    entry("DSTPortRule", "port", "The port that was asked."),
    entry(
        "IncomingProtocolRule",
        "protocol",
        "How it came: \"DoUDP\", \"DoTCP\", \"DNSCryptUDP\", \"DNSCryptTCP\", \"DoT\", \"DoH\", \"DoQ\" or \"DoH3\".",
    ),
    entry("TCPRule", "tcp", "It came over TCP, or with false: not."),
    entry(
        "ProxyProtocolValueRule",
        "type [, value]",
        "The PROXY header that the query came with has a value of this type, and with this content if one is given.",
    ),
    entry("SNIRule", "name", "The client's TLS handshake named this server."),
    entry("TagRule", "name [, value]", "A tag is set, to this value if one is given."),
    entry(
        "MaxQPSRule",
        "qps [, burst=qps]",
        "As long as no more queries than this reach it per second, over all shards.",
    ),
    entry(
        "MaxQPSIPRule",
        "qps [, v4=32 [, v6=64 [, burst=qps [, expiration=300 [, cleanupDelay, scanFraction, shards]]]]]",
        "A client, of these prefix lengths, sends more queries than this per second. A client that is silent for \
         `expiration` seconds is forgotten. The last three are accepted: nothing needs to be swept.",
    ),
    entry("ProbaRule", "probability", "By chance; 1 is always."),
    entry("PoolAvailableRule", "pool", "A pool has a usable server."),
    entry(
        "PoolOutstandingRule",
        "pool, limit",
        "The servers of a pool have more outstanding queries than this.",
    ),
    entry(
        "TimedIPSetRule",
        "",
        "A set of addresses, each with its end, that functions of rules add to; `slice()` is the rule.",
    ),
    entry("newTimedIPSetRule", "", "The same as TimedIPSetRule."),
    entry("LuaRule", "function(dq)", "A Lua function says so, in the shard's own Lua state."),
    entry("LuaFFIRule", "function(dq)", "The same through LuaJIT's ffi."),
    entry("LuaFFIPerThreadRule", "text", "The same, of a text that returns the function."),
    entry("makeRule", "name | network | {name, ...} | {network, ...}", "What a string stands for as a rule."),
];

/// What is done to queries.
pub static ACTIONS: &[Entry] = &[
    entry("AllowAction", "", "On to the pool chosen so far; no further rule is asked."),
    entry("DropAction", "", "Drops it."),
    entry("PoolAction", "pool [, stop=true]", "To a pool. Rules behind are asked only if `stop` is false."),
    entry("QPSAction", "qps", "Drops what is above this rate; below it, the next rule is asked."),
    entry(
        "QPSPoolAction",
        "qps, pool [, stop=true]",
        "To a pool within this rate; above it, the next rule is asked.",
    ),
    entry("RCodeAction", "code [, {aa=, ad=, ra=}]", "Answers with this code."),
    entry("ERCodeAction", "code [, {aa=, ad=, ra=}]", "Answers with this code, extended part and all."),
    entry(
        "NegativeAndSOAAction",
        "nxd, zone, ttl, mname, rname, serial, refresh, retry, expire, minimum [, {aa=, ad=, ra=, \
         soaInAuthoritySection=false}]",
        "Answers NXDOMAIN, or NODATA, with a SOA.",
    ),
    entry("TCAction", "", "Over UDP answers TC=1; over TCP nothing."),
    entry(
        "SpoofAction",
        "address | {address, ...} [, {aa=, ad=, ra=, ttl=60}]",
        "Answers A, AAAA and ANY with these addresses. The older form SpoofAction(v4, v6) is understood.",
    ),
    entry("SpoofCNAMEAction", "name [, {aa=, ad=, ra=, ttl=60}]", "Answers with a CNAME."),
    entry(
        "SpoofRawAction",
        "data | {data, ...} [, {aa=, ad=, ra=, ttl=60, typeForAny=}]",
        "Answers with records of the type asked for and these contents; ANY only with `typeForAny`.",
    ),
    entry(
        "SpoofSVCAction",
        "{parameters, ...} [, {aa=, ad=, ra=, ttl=60}]",
        "Answers with SVCB or HTTPS records of `newSVCRecordParameters`, their hints as additional records.",
    ),
    entry("SpoofPacketAction", "message [, length]", "Answers with this message, under the query's id."),
    entry("DelayAction", "milliseconds", "Holds the answer back; UDP only."),
    entry(
        "TeeAction",
        "\"IP[:PORT]\" [, addECS=false [, source]]",
        "Sends a copy to another server and forgets its answer.",
    ),
    entry(
        "LogAction",
        "[path [, binary=true [, append=false [, buffered=true [, verboseOnly=true [, includeTimestamp=false]]]]]]",
        "Logs each query to a file, or to the log without a path.",
    ),
    entry("NoneAction", "", "Nothing: the next rule is asked."),
    entry("ContinueAction", "action", "What another action does, and then on to the next rule."),
    entry(
        "SetProxyProtocolValuesAction",
        "{[type]=value, ...}",
        "Values of the PROXY header that the server gets, instead of those that the query came with.",
    ),
    entry(
        "SetAdditionalProxyProtocolValueAction",
        "type, value",
        "Adds a value to the PROXY header that the server gets.",
    ),
    entry("SetTagAction", "name, value", "Sets a tag, which the answer has too."),
    entry("UnsetTagAction", "name", "Takes a tag away."),
    entry("SetNoRecurseAction", "", "Takes RD away from what the server gets."),
    entry("SetDisableValidationAction", "", "Sets CD in what the server gets."),
    entry("SetDisableECSAction", "", "No client subnet is added."),
    entry("SetECSOverrideAction", "override", "Whether a client subnet that the query brings is replaced."),
    entry("SetECSPrefixLengthAction", "v4, v6", "Prefix lengths of the client subnet."),
    entry(
        "SetECSAction",
        "network [, network]",
        "Adds this subnet rather than the client's; of two, one for IPv4 clients and one for IPv6 clients.",
    ),
    entry("SetEDNSOptionAction", "code, data", "Sets an EDNS option in what the server gets."),
    entry("SetExtendedDNSErrorAction", "code [, text]", "Adds an Extended DNS Error to the answer."),
    entry("SetMaxReturnedTTLAction", "seconds", "TTLs of the answer are at most this."),
    entry("SetSkipCacheAction", "", "Neither looked for in a cache nor put there."),
    entry("SetTempFailureCacheTTLAction", "seconds", "How long a cache keeps SERVFAIL and REFUSED."),
    entry(
        "LuaAction",
        "function(dq)",
        "What a Lua function returns, as `DNSAction.Pool, \"abuse\"`; it runs in the shard's own Lua state, without \
         a lock. An error counts, and the query goes on.",
    ),
    entry("LuaFFIAction", "function(dq)", "The same through LuaJIT's ffi."),
    entry("LuaFFIPerThreadAction", "text", "The same, of a text that returns the function."),
];

/// What is done to answers.
pub static RESPONSE_ACTIONS: &[Entry] = &[
    entry("AllowResponseAction", "", "To the client; no further rule is asked."),
    entry("DropResponseAction", "", "Drops it."),
    entry("TCResponseAction", "", "Becomes TC=1 without records."),
    entry("DelayResponseAction", "milliseconds", "Holds it back; UDP only."),
    entry(
        "LogResponseAction",
        "[path [, append=false [, buffered=true [, verboseOnly=true [, includeTimestamp=false]]]]]",
        "Logs each answer to a file, or to the log without a path.",
    ),
    entry(
        "LimitTTLResponseAction",
        "min [, max [, {type, ...}]]",
        "TTLs of these types, or of all, are at least and at most this.",
    ),
    entry("SetMinTTLResponseAction", "seconds", "TTLs are at least this."),
    entry("SetMaxTTLResponseAction", "seconds", "TTLs are at most this."),
    entry("SetReducedTTLResponseAction", "percent", "TTLs are this part of what they were."),
    entry(
        "SetMaxReturnedTTLResponseAction",
        "seconds",
        "TTLs of what the client gets are at most this; a cache keeps them as they came.",
    ),
    entry("ClearRecordTypesResponseAction", "type | {type, ...}", "Takes records of these types away."),
    entry("SetSkipCacheResponseAction", "", "Not put into a cache."),
    entry("SetTagResponseAction", "name, value", "Sets a tag."),
    entry("UnsetTagResponseAction", "name", "Takes a tag away."),
    entry("SetEDNSOptionResponseAction", "code, data", "Sets an EDNS option."),
    entry("SetExtendedDNSErrorResponseAction", "code [, text]", "Adds an Extended DNS Error."),
    entry(
        "RestartResponseAction",
        "pool [, times=1]",
        "Asks again, in another pool, at most so many times a query (1 to 10). dnslob's own.",
    ),
    entry("LuaResponseAction", "function(dr)", "What a Lua function returns, as `DNSResponseAction.Drop`."),
    entry("LuaFFIResponseAction", "function(dr)", "The same through LuaJIT's ffi."),
    entry("LuaFFIPerThreadResponseAction", "text", "The same, of a text that returns the function."),
];

/// What rules are made of besides.
pub static SETS: &[Entry] = &[
    entry("newSuffixMatchNode", "", "A set of names that matches what is below them too."),
    entry("newDNSNameSet", "", "A set of names."),
    entry("newNMG", "", "A set of networks; the longest that holds an address decides."),
    entry("newNetmask", "network | address, length", "A network."),
    entry("newCA", "\"IP[:PORT]\"", "An address."),
    entry(
        "newSVCRecordParameters",
        "priority, target [, {mandatory=, alpn=, noDefaultAlpn=, port=, ipv4hint=, ech=, ipv6hint=, keyN=}]",
        "One SVCB or HTTPS record (RFC 9460). The longer form (priority, target, mandatory, alpns, noDefaultAlpn, \
         port, ech, ipv4hints, ipv6hints, {[N]=data}) is understood too.",
    ),
];

/// The methods of a set of names.
pub static NAME_SET_METHODS: &[Entry] = &[
    entry("add", "name | {name, ...}", "Adds names."),
    entry("remove", "name | {name, ...}", "Takes names out again; `delete` is the same."),
    entry(
        "addFile",
        "path",
        "Adds the names of a file, one a line; `#` begins a comment. dnslob's own. Wrong lines are reported, the \
         first ten of them.",
    ),
    entry("check", "name", "Whether a name is in it, or for newSuffixMatchNode below one that is."),
    entry(
        "getBestMatch",
        "name",
        "The longest name of it that a name is or is below of; nil if there is none.",
    ),
    entry("len", "", "How many names are in it; `size` is the same."),
    entry("memory", "", "Bytes that its names take."),
    entry("empty", "", "Whether it has none."),
    entry("clear", "", "Takes all names out."),
    entry("toString", "", "What it is, in short."),
];

/// The methods of a set of networks.
pub static NETWORK_SET_METHODS: &[Entry] = &[
    entry("addMask", "network | {network, ...}", "Adds networks; one behind `!` is an exception."),
    entry(
        "addMasks",
        "{network, ...} | {[address]=number}",
        "Adds the networks of a list, or the keys of a table.",
    ),
    entry("addNMG", "networks", "Adds those of another set."),
    entry("match", "address", "Whether an address is in it."),
    entry("size", "", "How many networks are in it; `len` is the same."),
    entry("clear", "", "Takes all networks out."),
];
