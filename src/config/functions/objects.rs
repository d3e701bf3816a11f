//! The tables of objects that rules are made of, and of their methods: sets, networks, addresses,
//! names, selectors and actions.

use crate::config::functions::{Entry, entry};

/// Other objects that rules are made of.
pub static SETS: &[Entry] = &[
    entry("newSuffixMatchNode", "", "Returns a set of names that matches what is below them too."),
    entry("newDNSNameSet", "", "Returns a set of names."),
    entry("newNMG", "", "Returns a set of networks; the longest one that contains an address decides."),
    entry("newNetmask", "network | address, length", "Returns a network."),
    entry(
        "newQPSLimiter",
        "rate [, burst]",
        "Returns a rate for functions, of so many per second and `burst` (the rate) at once, which all shards share.",
    ),
    entry("newCA", "\"IP[:PORT]\"", "Returns an address."),
    entry(
        "newSVCRecordParameters",
        "priority, target [, {mandatory=, alpn=, noDefaultAlpn=, port=, ipv4hint=, ech=, ipv6hint=, keyN=}] or \
         priority, target, mandatory, alpns, noDefaultAlpn [, port [, ech [, ipv4hints [, ipv6hints [, {[N]=data}]]]]]",
        "Returns one SVCB or HTTPS record (RFC 9460).",
    ),
];

/// The methods of a set of names.
pub static NAME_SET_METHODS: &[Entry] = &[
    entry("add", "name | {name, ...}", "Adds names."),
    entry("remove", "name | {name, ...}", "Removes names, and returns how many there were."),
    entry("delete", "name | {name, ...}", "The same as remove."),
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
    entry("len", "", "Returns the number of names."),
    entry("size", "", "The same as len."),
    entry("memory", "", "Returns the memory of its names, bytes."),
    entry("empty", "", "Returns whether it is empty."),
    entry("clear", "", "Removes all names."),
    entry("toString", "", "Returns a short description."),
];

/// The methods of the objects that `newQPSLimiter` returns.
pub static LIMITER_METHODS: &[Entry] =
    &[entry("check", "", "Counts one, and returns whether it is within the rate.")];

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
    entry("size", "", "Returns the number of networks."),
    entry("len", "", "The same as size."),
    entry("empty", "", "Returns whether it is empty."),
    entry("clear", "", "Removes all networks."),
    entry("toString", "", "Returns a short description."),
];

/// The methods of a `TimedIPSetRule`.
pub static TIMED_SET_METHODS: &[Entry] = &[
    entry("slice", "", "Returns the rule: the client's address is in the set."),
    entry("add", "address, seconds", "Adds an address for this time; only functions of rules do."),
    entry("cleanup", "", "Accepted without effect: expired addresses are removed."),
    entry("clear", "", "Removes all addresses; only functions of rules do."),
];

/// The methods of a selector.
pub static SELECTOR_METHODS: &[Entry] = &[
    entry("getMatches", "", "Returns 0: only the shards count matches."),
    entry("toString", "", "Returns its text, as showRules shows it."),
];

/// The methods of an action.
pub static ACTION_METHODS: &[Entry] = &[
    entry("getStats", "", "Returns an empty table."),
    entry(
        "printStats",
        "",
        "Accepted without effect: the counters of rules and servers say how many there were.",
    ),
    entry("reload", "", "Accepted without effect: a reload opens log files again."),
    entry("toString", "", "Returns its text, as showRules shows it."),
];

/// The methods of a network, the result of `newNetmask`.
pub static NETMASK_METHODS: &[Entry] = &[
    entry("getBits", "", "Returns its prefix length."),
    entry("getNetwork", "", "Returns its address."),
    entry("getMaskedNetwork", "", "Returns its address without host bits."),
    entry("isIPv4", "", "Returns whether it is of IPv4."),
    entry("isIPv6", "", "Returns whether it is of IPv6."),
    entry("empty", "", "Returns false."),
    entry("match", "address", "Returns whether an address is in it."),
    entry("toString", "", "Returns its text."),
];

/// The methods of an address, the result of `newCA`.
pub static ADDRESS_METHODS: &[Entry] = &[
    entry("toString", "", "Returns its text without the port."),
    entry("tostring", "", "The same as toString."),
    entry("toStringWithPort", "", "Returns its text with the port."),
    entry("tostringWithPort", "", "The same as toStringWithPort."),
    entry("getPort", "", "Returns its port; 0 is none."),
    entry("getRaw", "", "Returns its bytes, 4 or 16."),
    entry("isIPv4", "", "Returns whether it is of IPv4."),
    entry("isIPv6", "", "Returns whether it is of IPv6."),
    entry("isMappedIPv4", "", "Returns whether it is an IPv6 address that stands for one of IPv4."),
    entry("mapToIPv4", "", "Returns that address of IPv4."),
    entry("truncate", "bits", "Clears the bits after this prefix length."),
];

/// The methods of a domain name, the result of `newDNSName`.
pub static NAME_METHODS: &[Entry] = &[
    entry("toString", "", "Returns its text."),
    entry("tostring", "", "The same as toString."),
    entry("toStringNoDot", "", "Returns its text without the final dot."),
    entry("toDNSString", "", "Returns its wire format, in lower case."),
    entry("wirelength", "", "Returns the length of its wire format, bytes."),
    entry("countLabels", "", "Returns the number of its labels."),
    entry("chopOff", "", "Removes its first label; returns whether there was one."),
    entry("isPartOf", "name", "Returns whether it is, or is below, this name."),
];

/// The methods of the header that a `checkFunction` is given.
pub static HEADER_METHODS: &[Entry] = &[
    entry("getID", "", "Returns the id."),
    entry("getQR", "", "Returns whether QR is set; the other flags have such methods too."),
    entry("setQR", "switch", "Sets or clears QR; the other flags have such methods too."),
    entry("getAA", "", "The same for AA."),
    entry("setAA", "switch", "The same for AA."),
    entry("getTC", "", "The same for TC."),
    entry("setTC", "switch", "The same for TC."),
    entry("getRD", "", "The same for RD."),
    entry("setRD", "switch", "The same for RD."),
    entry("getRA", "", "The same for RA."),
    entry("setRA", "switch", "The same for RA."),
    entry("getAD", "", "The same for AD."),
    entry("setAD", "switch", "The same for AD."),
    entry("getCD", "", "The same for CD."),
    entry("setCD", "switch", "The same for CD."),
];
