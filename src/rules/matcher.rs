//! The selectors of rules: dnsdist's selectors as one closed enumeration.

use std::sync::Arc;

use crate::base::addr::PoolRef;
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::limits::{ClientLimit, Limit, TimedSet};
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::pattern::Pattern;
use crate::rules::query_state::Protocol;
use crate::rules::script::FunctionId;
use crate::wire::header::Header;
use crate::wire::{edns, header, name, records};

/// A condition on a packet. References (pools, buckets, functions) are resolved by `compile`, so
/// that nothing is looked up by name here. A clone shares its parts: a list of a hundred thousand
/// conditions may be in many rules.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// Every packet.
    All,
    /// All of these, evaluated in order up to the first that does not match.
    And(Arc<[Self]>),
    /// Any of these, evaluated in order up to the first that matches.
    Or(Arc<[Self]>),
    /// Not this.
    Not(Arc<Self>),
    /// The requested name is this one (wire format), ignoring letter case.
    QName(Arc<[u8]>),
    /// The requested name is one of these.
    QNameSet(Names),
    /// The requested name is in or below one of these.
    QNameSuffix(Names),
    /// The requested name matches an expression.
    Regex(Pattern),
    /// The requested type.
    QType(u16),
    /// The requested class.
    QClass(u16),
    /// The operation.
    Opcode(u8),
    /// The response code without its extension.
    RCode(u8),
    /// The response code with the extension of the OPT record.
    ERCode(u16),
    /// Recursion is desired.
    Rd,
    /// The client validates: CD is set, or DNSSEC records are requested (DO).
    Dnssec,
    /// The EDNS version is above this; never without EDNS.
    EdnsVersion(u8),
    /// There is an EDNS option of this code.
    EdnsOption(u16),
    /// The number of records of a section (0 question to 3 additional) is within these bounds.
    RecordsCount {
        /// The section.
        section: u8,
        /// At least.
        min: u16,
        /// At most.
        max: u16,
    },
    /// The number of records of a type in a section is within these bounds.
    RecordsTypeCount {
        /// The section.
        section: u8,
        /// The type.
        rtype: u16,
        /// At least.
        min: u16,
        /// At most.
        max: u16,
    },
    /// Bytes follow the message.
    TrailingData,
    /// The name has fewer labels than the first, or more than the second.
    QNameLabels(u16, u16),
    /// The name in wire format is shorter than the first, or longer than the second.
    QNameWireLength(u16, u16),
    /// The size of the message, bytes, compared with a number.
    PayloadSize(Comparison, u16),
    /// The client's address (`source`), or the local one, is in these networks.
    Netmask {
        /// The networks.
        networks: Networks,
        /// The client's address.
        source: bool,
    },
    /// The local port.
    DstPort(u16),
    /// The protocol of the query.
    Protocol(Protocol),
    /// Over TCP, or a protocol on top of it.
    Tcp(bool),
    /// A tag is set, to this value if one is given.
    Tag(Arc<str>, Option<Arc<str>>),
    /// The PROXY header has a value of this type, with this content if one is given.
    ProxyValue {
        /// The type.
        kind: u8,
        /// The content.
        value: Option<Arc<[u8]>>,
    },
    /// The server name (SNI) of the TLS handshake, ignoring letter case.
    Sni(Arc<[u8]>),
    /// At most this many queries per second have reached it: those above do not match.
    MaxQps(Limit),
    /// A client network sends more queries than this per second.
    MaxQpsIp(ClientLimit),
    /// With a probability, parts per 2^32; `None` always.
    Probability(Option<u32>),
    /// A pool has an available server.
    PoolAvailable(PoolRef),
    /// The servers of a pool have more outstanding queries than this.
    PoolOutstanding(PoolRef, u64),
    /// The client's address is in a set that Lua adds to.
    TimedSet(TimedSet),
    /// A Lua function returns true.
    Lua(FunctionId),
}

/// Properties of a selector that other modules need.
#[derive(Clone, Copy, Debug, Default)]
pub struct MatcherTraits<'m> {
    /// The selectors inside it.
    pub parts: &'m [Matcher],
    /// Evaluating it has a visible effect: it must not be evaluated twice, and not be skipped
    /// unless a selector before it decides.
    pub has_effects: bool,
    /// The pool that it names.
    pub pool: Option<&'m PoolRef>,
}

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `equal`
    Equal,
    /// `greater`
    Greater,
    /// `greaterOrEqual`
    GreaterOrEqual,
    /// `smaller`
    Smaller,
    /// `smallerOrEqual`
    SmallerOrEqual,
}

impl Comparison {
    const fn holds(self, left: usize, right: usize) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
            Self::Smaller => left < right,
            Self::SmallerOrEqual => left <= right,
        }
    }
}

impl Matcher {
    /// Returns the properties of the selector itself; the parts inside it have their own.
    #[must_use]
    pub fn traits(&self) -> MatcherTraits<'_> {
        let none = MatcherTraits::default();
        match self {
            Self::And(parts) | Self::Or(parts) => MatcherTraits { parts, ..none },
            Self::Not(part) => MatcherTraits { parts: std::slice::from_ref(part), ..none },
            Self::MaxQps(_) | Self::MaxQpsIp(_) | Self::Lua(_) => MatcherTraits { has_effects: true, ..none },
            Self::PoolAvailable(pool) | Self::PoolOutstanding(pool, _) => {
                MatcherTraits { pool: Some(pool), ..none }
            }
            Self::All
            | Self::QName(_)
            | Self::QNameSet(_)
            | Self::QNameSuffix(_)
            | Self::Regex(_)
            | Self::QType(_)
            | Self::QClass(_)
            | Self::Opcode(_)
            | Self::RCode(_)
            | Self::ERCode(_)
            | Self::Rd
            | Self::Dnssec
            | Self::EdnsVersion(_)
            | Self::EdnsOption(_)
            | Self::RecordsCount { .. }
            | Self::RecordsTypeCount { .. }
            | Self::TrailingData
            | Self::QNameLabels(..)
            | Self::QNameWireLength(..)
            | Self::PayloadSize(..)
            | Self::Netmask { .. }
            | Self::DstPort(_)
            | Self::Protocol(_)
            | Self::Tcp(_)
            | Self::Tag(..)
            | Self::ProxyValue { .. }
            | Self::Sni(_)
            | Self::Probability(_)
            | Self::TimedSet(_) => none,
        }
    }

    /// Returns whether evaluating it, or a part of it, has a visible effect.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        let traits = self.traits();
        traits.has_effects || traits.parts.iter().any(Self::has_effects)
    }

    /// Calls `found` with every pool that it or a part of it names.
    pub fn pools<'m>(&'m self, found: &mut dyn FnMut(&'m PoolRef)) {
        let traits = self.traits();
        traits.pool.into_iter().for_each(&mut *found);
        traits.parts.iter().for_each(|part| part.pools(found));
    }

    /// Returns the number of conditions around the innermost one; the constructors bound it.
    #[must_use]
    pub fn depth(&self) -> u8 {
        let inner = |list: &[Self]| list.iter().map(Self::depth).max().unwrap_or(0);
        if let Self::And(list) | Self::Or(list) = self {
            inner(list).saturating_add(1)
        } else if let Self::Not(not) = self {
            not.depth().saturating_add(1)
        } else {
            0
        }
    }

    /// Returns whether it matches this packet. Limits count what they let pass, so a matcher is
    /// evaluated once per packet, and within `And` only after those before it matched.
    pub fn matches(&self, context: &mut EvaluationContext<'_, '_>, env: &mut Environment<'_>) -> bool {
        match self {
            Self::All => true,
            Self::And(all) => all.iter().all(|m| m.matches(context, env)),
            Self::Or(any) => any.iter().any(|m| m.matches(context, env)),
            Self::Not(not) => !not.matches(context, env),
            // Length bytes are below 'A', so a whole wire name may be compared as text.
            Self::QName(name) => context.qname().eq_ignore_ascii_case(name),
            Self::QNameSet(names) => names.set().is_some_and(|n| n.contains(context.qname())),
            Self::QNameSuffix(names) => names.set().is_some_and(|n| n.suffix_of(context.qname()).is_some()),
            Self::Regex(pattern) => pattern.matches(context.qname(), env.patterns),
            Self::QType(qtype) => context.facts.qtype == *qtype,
            Self::QClass(qclass) => context.facts.qclass == *qclass,
            Self::Opcode(opcode) => byte(context, 2).is_some_and(|o| (o >> 3) & 0x0f == *opcode),
            Self::RCode(rcode) => byte(context, 3).is_some_and(|o| o & 0x0f == *rcode),
            Self::ERCode(rcode) => extended_rcode(context) == Some(*rcode),
            Self::Rd => byte(context, 2).is_some_and(|o| o & header::RD != 0),
            Self::Dnssec => wants_dnssec(context),
            Self::EdnsVersion(version) => context.opt().is_some_and(|o| o.version > *version),
            Self::EdnsOption(code) => {
                let Some(opt) = context.opt() else { return false };
                edns::options(context.packet.bytes(), &opt).any(|(is, _)| is == *code)
            }
            Self::RecordsCount { section, min, max } => {
                count(context.packet.bytes(), *section).is_some_and(|n| (*min..=*max).contains(&n))
            }
            Self::RecordsTypeCount { section, rtype, min, max } => {
                (*min..=*max).contains(&records::count_types(context.packet.bytes(), *section, *rtype))
            }
            Self::TrailingData => {
                let message = context.packet.bytes();
                records::end(message).is_some_and(|end| end < message.len())
            }
            Self::QNameLabels(min, max) => {
                let labels = name::label_count(context.qname());
                labels < usize::from(*min) || labels > usize::from(*max)
            }
            Self::QNameWireLength(min, max) => {
                let bytes = context.qname().len();
                bytes < usize::from(*min) || bytes > usize::from(*max)
            }
            Self::PayloadSize(comparison, bytes) => {
                comparison.holds(context.packet.len(), usize::from(*bytes))
            }
            Self::Netmask { networks, source } => {
                let ip = if *source { &context.client.peer.ip } else { &context.local.ip };
                networks.set().is_some_and(|n| n.contains(ip))
            }
            Self::DstPort(port) => context.local.port == *port,
            Self::Protocol(protocol) => context.query_state.protocol == *protocol,
            Self::Tcp(stream) => context.query_state.protocol.is_stream() == *stream,
            Self::Tag(name, value) => match (context.query_state.tags.value(name.as_bytes()), value) {
                (Some(is), Some(wanted)) => is == wanted.as_bytes(),
                (is, None) => is.is_some(),
                (None, Some(_)) => false,
            },
            Self::ProxyValue { kind, value } => {
                let wanted = |is: &[u8]| value.as_ref().is_none_or(|value| **value == *is);
                context.query_state.proxy.iter().any(|(k, is)| k == *kind && wanted(is))
            }
            Self::Sni(name) => context.query_state.sni.eq_ignore_ascii_case(name),
            Self::MaxQps(limit) => !env.limits.exceeded(limit, env.now),
            Self::MaxQpsIp(limit) => env.limits.client_exceeded(limit, &context.client.peer.ip, env.now),
            Self::Probability(bound) => bound.is_none_or(|bound| env.rng.u32() < bound),
            Self::PoolAvailable(pool) => env.pools.is_available(pool.slot),
            Self::PoolOutstanding(pool, most) => env.pools.outstanding(pool.slot) > *most,
            Self::TimedSet(set) => env.limits.timed_contains(set.state, &context.client.peer.ip, env.now),
            Self::Lua(function) => {
                // Taken out while the function runs, so that it can borrow the rest of the
                // environment.
                let Some(script) = env.script.take() else { return context.fail_selector(env) };
                let said = script.matches(*function, context, env);
                env.script = Some(script);
                said.unwrap_or_else(|| context.fail_selector(env))
            }
        }
    }
}

/// Returns a byte of the header; none when the message is shorter than one.
fn byte(context: &EvaluationContext<'_, '_>, at: usize) -> Option<u8> {
    context.packet.bytes().first_chunk::<{ header::LEN }>()?.get(at).copied()
}

/// Returns whether CD is set, which needs no search for an OPT record, or DO.
pub(super) fn wants_dnssec(context: &mut EvaluationContext<'_, '_>) -> bool {
    byte(context, 3).is_some_and(|o| o & header::CD != 0) || context.opt().is_some_and(|o| o.dnssec_ok)
}

/// Returns the response code with the upper eight bits of the OPT record (RFC 6891, 6.1.3).
fn extended_rcode(context: &mut EvaluationContext<'_, '_>) -> Option<u16> {
    let low = u16::from(byte(context, 3)? & 0x0f);
    Some(context.opt().map_or(low, |opt| u16::from(opt.code_high) << 4 | low))
}

/// Returns the number of entries of a section according to the header.
fn count(message: &[u8], section: u8) -> Option<u16> {
    let header = Header::parse(message)?;
    match section {
        0 => Some(header.qdcount()),
        1 => Some(header.ancount()),
        2 => Some(header.nscount()),
        3 => Some(header.arcount()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
