//! Text of rules in dnsdist's style: for lists of rules, and for the identity of a rule without a
//! given one.
//!
//! The names of sets come from [`Sets`].

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::rules::action::{Action, Addresses, ExtendedError, ResponseAction, Tee};
use crate::rules::matcher::{Comparison, Matcher};
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::query_state::Protocol;
use crate::stats::log_queue::LogTarget;
use crate::wire::codes::{rcode_name, type_name};
use crate::wire::name::Text as Name;

/// Names of sets.
pub trait Sets {
    /// Returns the name of a set of names.
    fn names(&self, names: &Names) -> String;
    /// Returns the name of a set of networks.
    fn networks(&self, networks: &Networks) -> String;
}

/// Protocols and their names in configurations.
pub const PROTOCOLS: [(&str, Protocol); 8] = [
    ("DoUDP", Protocol::DoUdp),
    ("DoTCP", Protocol::DoTcp),
    ("DNSCryptUDP", Protocol::DnsCryptUdp),
    ("DNSCryptTCP", Protocol::DnsCryptTcp),
    ("DoT", Protocol::DoT),
    ("DoH", Protocol::DoH),
    ("DoQ", Protocol::DoQ),
    ("DoH3", Protocol::DoH3),
];

/// Comparisons, their names in configurations, and their signs.
pub const COMPARISONS: [(&str, Comparison, &str); 5] = [
    ("equal", Comparison::Equal, "=="),
    ("greater", Comparison::Greater, ">"),
    ("greaterOrEqual", Comparison::GreaterOrEqual, ">="),
    ("smaller", Comparison::Smaller, "<"),
    ("smallerOrEqual", Comparison::SmallerOrEqual, "<="),
];

/// Names of sections, as dnsdist shows them.
const SECTIONS: [&str; 4] = ["QD", "AN", "NS", "AR"];

/// Returns the text of a selector.
#[must_use]
pub fn matcher(m: &Matcher, sets: &dyn Sets) -> String {
    let all = |list: &[Matcher], sign: &str| {
        let texts: Vec<String> = list.iter().map(|m| format!("({})", matcher(m, sets))).collect();
        texts.join(sign)
    };
    let section = |n: u8| SECTIONS.get(usize::from(n)).copied().unwrap_or("?");
    match m {
        Matcher::All => "All".to_owned(),
        Matcher::And(list) => all(list, " && "),
        Matcher::Or(list) => all(list, " || "),
        Matcher::Not(not) => format!("!({})", matcher(not, sets)),
        Matcher::QName(wire) => format!("qname=={}", Name(wire)),
        Matcher::QNameSet(names) => format!("qname is in {}", sets.names(names)),
        Matcher::QNameSuffix(names) => format!("qname in {}", sets.names(names)),
        Matcher::Regex(pattern) => format!("Regex: {}", pattern.text()),
        Matcher::QType(t) => format!("qtype=={}", type_name(*t)),
        Matcher::QClass(c) => format!("qclass=={c}"),
        Matcher::Opcode(o) => format!("opcode=={o}"),
        Matcher::RCode(r) => format!("rcode=={}", rcode_name((*r).into())),
        Matcher::ERCode(r) => format!("ercode=={}", rcode_name(*r)),
        Matcher::Rd => "rd==1".to_owned(),
        Matcher::Dnssec => "DNSSEC".to_owned(),
        Matcher::EdnsVersion(v) => format!("ednsversion>{v}"),
        Matcher::EdnsOption(code) => format!("ednsoptcode=={code}"),
        Matcher::RecordsCount { section: s, min, max } => {
            format!("{min} <= records in {} <= {max}", section(*s))
        }
        Matcher::RecordsTypeCount { section: s, rtype, min, max } => {
            format!("{min} <= {} records in {} <= {max}", type_name(*rtype), section(*s))
        }
        Matcher::TrailingData => "trailing data".to_owned(),
        Matcher::QNameLabels(min, max) => format!("labels count < {min} || labels count > {max}"),
        Matcher::QNameWireLength(min, max) => format!("wire length < {min} || wire length > {max}"),
        Matcher::PayloadSize(comparison, size) => {
            let sign = COMPARISONS.iter().find(|(_, c, _)| c == comparison).map_or("", |(_, _, s)| s);
            format!("payload size{sign}{size}")
        }
        Matcher::Netmask { networks, source } => {
            format!("{}: {}", if *source { "Src" } else { "Dst" }, sets.networks(networks))
        }
        Matcher::DstPort(port) => format!("dst port=={port}"),
        Matcher::Protocol(protocol) => {
            let name = PROTOCOLS.iter().find(|(_, p)| p == protocol).map_or("", |(name, _)| name);
            format!("incoming protocol is {name}")
        }
        Matcher::Tcp(tcp) => if *tcp { "TCP" } else { "UDP" }.to_owned(),
        Matcher::Tag(name, None) => format!("tag '{name}' is set"),
        Matcher::Tag(name, Some(value)) => format!("tag '{name}' is set to '{value}'"),
        Matcher::ProxyValue { kind, value: None } => format!("proxy protocol value of type {kind} is set"),
        Matcher::ProxyValue { kind, value: Some(value) } => {
            format!("proxy protocol value of type {kind} matches '{}'", value.escape_ascii())
        }
        Matcher::Sni(name) => format!("SNI == {}", name.escape_ascii()),
        Matcher::MaxQps(limit) => format!("Max {} qps, burst {}", limit.qps, limit.burst),
        Matcher::MaxQpsIp(l) => {
            format!("IP (/{}, /{}) match for QPS over {} burst {}", l.v4, l.v6, l.qps, l.burst)
        }
        Matcher::Probability(None) => "match with prob. 1".to_owned(),
        Matcher::Probability(Some(parts)) => {
            format!("match with prob. {:.4}", f64::from(*parts) / 4_294_967_296.0)
        }
        Matcher::PoolAvailable(pool) => format!("pool '{}' is available", pool.name),
        Matcher::PoolOutstanding(pool, limit) => format!("pool '{}' outstanding > {limit}", pool.name),
        Matcher::TimedSet(set) => format!("Src: timed set {}", set.state),
        Matcher::Lua(function) => format!("Lua script {}", function.0),
    }
}

/// Returns the text of an action of query rules.
#[must_use]
pub fn action(a: &Action) -> String {
    match a {
        Action::Allow => "allow".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Pool(pool, continues) => format!("to pool {}{}", pool.name, on(*continues)),
        Action::Qps(limit) => format!("qps limit to {}", limit.qps),
        Action::QpsPool(limit, pool, continues) => {
            format!("max {} to pool {}{}", limit.qps, pool.name, on(*continues))
        }
        Action::RCode(code, _) => format!("set rcode {}", rcode_name(*code)),
        Action::NegativeAndSoa(soa) => {
            format!("{} with SOA of {}", if soa.nxdomain { "NXD" } else { "NODATA" }, Name(&soa.zone))
        }
        Action::Tc(_) => "tc=1 answer".to_owned(),
        Action::Spoof(addresses, _) => format!("spoof in {}", addresses_text(addresses)),
        Action::SpoofCname(wire, _) => format!("spoof in {}", Name(wire)),
        Action::SpoofRaw(raw, _) => {
            let texts: Vec<String> = raw.rdata.iter().map(|r| r.escape_ascii().to_string()).collect();
            format!("spoof in raw bytes {}", texts.join(" "))
        }
        Action::SpoofSvc(records, _) => {
            let texts: Vec<String> =
                records.iter().map(|r| format!("{} {}", r.priority, Name(&r.target))).collect();
            format!("spoof SVC record {}", texts.join(", "))
        }
        Action::SpoofPacket(message) => format!("spoof raw packet of {} bytes", message.len()),
        Action::Delay(span) => format!("delay by {} msec", span.0 / 1_000_000),
        Action::Tee(tee, _) => tee_text(tee),
        Action::Shadow(pool) => format!("also to pool {}, answers compared", pool.name),
        Action::Log(target) => log_text(target),
        Action::None => "no op".to_owned(),
        Action::Continue(inner) => format!("continue after: {}", action(inner)),
        Action::SetTag(name, value) => format!("set tag '{name}' to value '{value}'"),
        Action::UnsetTag(name) => format!("unset tag '{name}'"),
        Action::SetProxyValues(values) => {
            let texts: Vec<String> =
                values.iter().map(|(kind, value)| format!("{kind}: '{}'", value.escape_ascii())).collect();
            format!("set Proxy-Protocol values to {{{}}}", texts.join(", "))
        }
        Action::AddProxyValue(kind, value) => {
            format!("add a Proxy-Protocol value of type {kind}: '{}'", value.escape_ascii())
        }
        Action::SetNoRecurse => "set rd=0".to_owned(),
        Action::SetDisableValidation => "set cd=1".to_owned(),
        Action::SetEcs(true) => "enable ECS".to_owned(),
        Action::SetEcs(false) => "disable ECS".to_owned(),
        Action::SetEcsOverride(on) => format!("set ECS override to {}", u8::from(*on)),
        Action::SetEcsPrefixLength(v4, v6) => format!("set ECS prefix length to {v4}/{v6}"),
        Action::SetEcsTo(v4, v6) => {
            let v4 = v4.map(|(ip, length)| format!("{ip}/{length}"));
            let v6 = v6.map(|(ip, length)| format!("{ip}/{length}"));
            let texts: Vec<String> = v4.into_iter().chain(v6).collect();
            format!("set ECS to {}", texts.join(" / "))
        }
        Action::SetEdnsOption(code, data) => option_text(*code, data),
        Action::SetExtendedDnsError(error) => error_text(error),
        Action::SetMaxReturnedTtl(ttl) => format!("cap TTL to {ttl}"),
        Action::SetSkipCache => "skip cache".to_owned(),
        Action::SetTempFailureCacheTtl(ttl) => format!("set tempfailure cache ttl to {ttl}"),
        Action::Lua(function) => format!("Lua script {}", function.0),
    }
}

/// Returns the text of an action of response rules.
#[must_use]
pub fn response_action(a: &ResponseAction) -> String {
    match a {
        ResponseAction::Allow => "allow".to_owned(),
        ResponseAction::Drop => "drop".to_owned(),
        ResponseAction::Tc => "tc=1 answer".to_owned(),
        ResponseAction::Delay(span) => format!("delay by {} msec", span.0 / 1_000_000),
        ResponseAction::None => "no op".to_owned(),
        ResponseAction::Log(target) => log_text(target),
        ResponseAction::LimitTtl(min, max, types) => {
            format!("limit ttl ({min} <= ttl <= {max}{})", of_types(types))
        }
        ResponseAction::SetMinTtl(ttl) => format!("limit ttl ({ttl} <= ttl)"),
        ResponseAction::SetMaxTtl(ttl) => format!("limit ttl (ttl <= {ttl})"),
        ResponseAction::SetReducedTtl(percent) => format!("reduce ttl to {percent} percent of its value"),
        ResponseAction::SetMaxReturnedTtl(ttl) => format!("cap TTL to {ttl}"),
        ResponseAction::ClearRecordTypes(types) => format!("clear records{}", of_types(types)),
        ResponseAction::SetSkipCache => "skip cache".to_owned(),
        ResponseAction::SetTag(name, value) => format!("set tag '{name}' to value '{value}'"),
        ResponseAction::UnsetTag(name) => format!("unset tag '{name}'"),
        ResponseAction::SetEdnsOption(code, data) => option_text(*code, data),
        ResponseAction::SetExtendedDnsError(error) => error_text(error),
        ResponseAction::Restart(pool, times) => format!("ask again in pool {}, {times} times", pool.name),
        ResponseAction::Lua(function) => format!("Lua response script {}", function.0),
    }
}

const fn on(continues: bool) -> &'static str {
    if continues { ", then go on" } else { "" }
}

fn addresses_text(addresses: &Addresses) -> String {
    let v4 = addresses.v4.iter().map(|a| Ipv4Addr::from(*a).to_string());
    let texts: Vec<String> = v4.chain(addresses.v6.iter().map(|a| Ipv6Addr::from(*a).to_string())).collect();
    texts.join(" ")
}

fn tee_text(tee: &Tee) -> String {
    let source = tee.source.map(|ip| format!(" from {ip}")).unwrap_or_default();
    format!("tee to {}{}{source}", tee.address, if tee.add_ecs { " with ECS" } else { "" })
}

fn log_text(target: &LogTarget) -> String {
    let part = if target.one_in > 1 { format!("one in {} ", target.one_in) } else { String::new() };
    if target.path.is_empty() {
        format!("log {part}").trim_end().to_owned()
    } else {
        format!("log {part}to {}", target.path)
    }
}

fn option_text(code: u16, data: &[u8]) -> String {
    format!("add EDNS Option (code={code}) {}", data.escape_ascii())
}

fn error_text(error: &ExtendedError) -> String {
    let text = if error.text.is_empty() { String::new() } else { format!(": {}", error.text) };
    format!("set Extended DNS Error {}{text}", error.code)
}

fn of_types(types: &[u16]) -> String {
    if types.is_empty() {
        return String::new();
    }
    let names: Vec<String> = types.iter().map(|t| type_name(*t)).collect();
    format!(" of {}", names.join(", "))
}
