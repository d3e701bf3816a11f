//! Names of the numbers that configurations use: `DNSQType`, `DNSRCode` and others,
//! `EDNSOptionCode` (IANA's DNS parameters), `DNSAction` and `DNSResponseAction` (dnsdist's numbers).

use crate::wire::codes::{RCODES, TYPES};

const CLASSES: &[(&str, u16)] = &[("IN", 1), ("CHAOS", 3), ("CH", 3), ("HS", 4), ("NONE", 254), ("ANY", 255)];

const OPCODES: &[(&str, u16)] = &[("Query", 0), ("IQuery", 1), ("Status", 2), ("Notify", 4), ("Update", 5)];

const SECTIONS: &[(&str, u16)] = &[("Question", 0), ("Answer", 1), ("Authority", 2), ("Additional", 3)];

const EDNS_OPTIONS: &[(&str, u16)] = &[
    ("NSID", 3),
    ("DAU", 5),
    ("DHU", 6),
    ("N3U", 7),
    ("ECS", 8),
    ("EXPIRE", 9),
    ("COOKIE", 10),
    ("TCPKEEPALIVE", 11),
    ("PADDING", 12),
    ("CHAIN", 13),
    ("KEYTAG", 14),
    ("EXTENDEDERROR", 15),
];

const ACTIONS: &[(&str, u16)] = &[
    ("Drop", 0),
    ("Nxdomain", 1),
    ("Refused", 2),
    ("Spoof", 3),
    ("Allow", 4),
    ("HeaderModify", 5),
    ("Pool", 6),
    ("Delay", 7),
    ("Truncate", 8),
    ("ServFail", 9),
    ("None", 10),
    ("NoOp", 11),
    ("NoRecurse", 12),
    ("SpoofRaw", 13),
    ("SpoofPacket", 14),
];

const RESPONSE_ACTIONS: &[(&str, u16)] =
    &[("Allow", 0), ("Delay", 1), ("Drop", 2), ("HeaderModify", 3), ("ServFail", 4), ("None", 5)];

/// The enumerations by name.
pub(crate) const ENUMERATIONS: [(&str, &[(&str, u16)]); 8] = [
    ("DNSQType", TYPES),
    ("DNSClass", CLASSES),
    ("DNSRCode", RCODES),
    ("DNSOpcode", OPCODES),
    ("DNSSection", SECTIONS),
    ("EDNSOptionCode", EDNS_OPTIONS),
    ("DNSAction", ACTIONS),
    ("DNSResponseAction", RESPONSE_ACTIONS),
];

/// Returns the number of a type, by name in any case, or as `TYPE123` (RFC 3597).
pub(crate) fn qtype(name: &str) -> Option<u16> {
    let upper = name.to_ascii_uppercase();
    let known = TYPES.iter().find(|(n, _)| *n == upper).map(|(_, number)| *number);
    known.or_else(|| upper.strip_prefix("TYPE")?.parse().ok())
}

/// Returns the number of a response code, by name in any case.
pub(crate) fn rcode(name: &str) -> Option<u16> {
    let upper = name.to_ascii_uppercase();
    RCODES.iter().find(|(n, _)| *n == upper).map(|(_, number)| *number)
}

/// Returns the number of a class, by name in any case, or as `CLASS3`.
pub(crate) fn qclass(name: &str) -> Option<u16> {
    let upper = name.to_ascii_uppercase();
    let known = CLASSES.iter().find(|(n, _)| *n == upper).map(|(_, number)| *number);
    known.or_else(|| upper.strip_prefix("CLASS")?.parse().ok())
}
