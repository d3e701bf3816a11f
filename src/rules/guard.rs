//! The necessary condition of a rule, in a form that the index can look up.
//!
//! A guard is a necessary condition without effects: where it does not hold, the matcher would
//! return false *and* would change nothing. So a limit in front of a name in an `And` hides the
//! name from the index, because the limit counts each packet that reaches it. A probability is no
//! effect: nobody can observe that it was not drawn.

use std::sync::Arc;

use crate::rules::context::EvaluationContext;
use crate::rules::matcher;
use crate::rules::matcher::Matcher;
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::pattern::Pattern;
use crate::wire::header;

/// A necessary condition for a rule to match.
#[derive(Clone, Debug)]
pub enum Guard {
    /// Nothing that an index can look up: the rule is evaluated for every packet.
    Always,
    /// One of these; an empty list means that the rule never matches.
    AnyOf(Vec<Key>),
}

/// A key that a packet can be looked up by.
#[derive(Clone, Debug)]
pub enum Key {
    /// The requested name is this one (wire format).
    Name(Arc<[u8]>),
    /// The requested name is in the set.
    NameIn(Names),
    /// The requested name is in or below a name of the set.
    Below(Names),
    /// The longest network of the set that holds the client's address is not an exception.
    Client(Networks),
    /// The same for the local address.
    Local(Networks),
    /// A fact has this value.
    Fact(Fact, u32),
    /// The requested name matches an expression.
    Pattern(Pattern),
}

/// A fact with few values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// The requested type.
    QType,
    /// The requested class.
    QClass,
    /// The operation.
    Opcode,
    /// The response code without its extension.
    RCode,
    /// The local port.
    DstPort,
    /// The protocol of the query.
    Protocol,
    /// Over a connection: 0 or 1.
    Stream,
    /// RD: 0 or 1.
    Rd,
    /// CD or DO: 0 or 1.
    Dnssec,
}

impl Fact {
    /// All facts; the index of each is its number.
    pub(crate) const ALL: [Self; 9] = [
        Self::QType,
        Self::QClass,
        Self::Opcode,
        Self::RCode,
        Self::DstPort,
        Self::Protocol,
        Self::Stream,
        Self::Rd,
        Self::Dnssec,
    ];

    /// Returns its value in a packet; none for a message without a header, unless rules can ask for
    /// it there.
    pub(crate) fn value(self, context: &mut EvaluationContext<'_, '_>) -> u32 {
        let byte =
            |at: usize| context.packet.bytes().first_chunk::<{ header::LEN }>().map(|h| u32::from(h[at]));
        match self {
            Self::QType => context.facts.qtype.into(),
            Self::QClass => context.facts.qclass.into(),
            Self::Opcode => byte(2).map_or(u32::MAX, |o| (o >> 3) & 0x0f),
            Self::RCode => byte(3).map_or(u32::MAX, |o| o & 0x0f),
            Self::DstPort => context.local.port.into(),
            Self::Protocol => context.query_state.protocol as u32,
            Self::Stream => context.query_state.protocol.is_stream().into(),
            Self::Rd => byte(2).is_some_and(|o| o & u32::from(header::RD) != 0).into(),
            Self::Dnssec => matcher::wants_dnssec(context).into(),
        }
    }
}

impl Guard {
    /// Returns the guard of a matcher.
    #[must_use]
    pub fn of(matcher: &Matcher) -> Self {
        let fact = |fact, value: u32| Self::AnyOf(vec![Key::Fact(fact, value)]);
        let one = |key| Self::AnyOf(vec![key]);
        match matcher {
            Matcher::And(all) => {
                let until = all.iter().position(Matcher::has_effects).map_or(all.len(), |at| at + 1);
                all[..until].iter().map(Self::of).min_by_key(Self::rank).unwrap_or(Self::Always)
            }
            Matcher::Or(any) => {
                let mut keys = Vec::new();
                for guard in any.iter().map(Self::of) {
                    match guard {
                        Self::Always => return Self::Always,
                        Self::AnyOf(more) => keys.extend(more),
                    }
                }
                Self::AnyOf(keys)
            }
            Matcher::Not(not) => {
                if matches!(**not, Matcher::Rd) {
                    fact(Fact::Rd, 0)
                } else if matches!(**not, Matcher::Dnssec) {
                    fact(Fact::Dnssec, 0)
                } else if let Matcher::Tcp(stream) = **not {
                    fact(Fact::Stream, (!stream).into())
                } else {
                    Self::Always
                }
            }
            Matcher::QName(name) => one(Key::Name(Arc::clone(name))),
            // A set that is not filled yet matches nothing, but the index cannot know what it will
            // match.
            Matcher::QNameSet(names) if names.set().is_some() => one(Key::NameIn(names.clone())),
            Matcher::QNameSuffix(names) if names.set().is_some() => one(Key::Below(names.clone())),
            Matcher::Netmask { networks, source } if networks.set().is_some() => {
                let networks = networks.clone();
                one(if *source { Key::Client(networks) } else { Key::Local(networks) })
            }
            Matcher::Regex(pattern) => one(Key::Pattern(pattern.clone())),
            Matcher::QType(qtype) => fact(Fact::QType, (*qtype).into()),
            Matcher::QClass(qclass) => fact(Fact::QClass, (*qclass).into()),
            Matcher::Opcode(opcode) => fact(Fact::Opcode, (*opcode).into()),
            Matcher::RCode(rcode) => fact(Fact::RCode, (*rcode).into()),
            Matcher::ERCode(rcode) => fact(Fact::RCode, (*rcode & 0x0f).into()),
            Matcher::DstPort(port) => fact(Fact::DstPort, (*port).into()),
            Matcher::Protocol(protocol) => fact(Fact::Protocol, *protocol as u32),
            Matcher::Tcp(stream) => fact(Fact::Stream, (*stream).into()),
            Matcher::Rd => fact(Fact::Rd, 1),
            Matcher::Dnssec => fact(Fact::Dnssec, 1),
            Matcher::All
            | Matcher::QNameSet(_)
            | Matcher::QNameSuffix(_)
            | Matcher::Netmask { .. }
            | Matcher::EdnsVersion(_)
            | Matcher::EdnsOption(_)
            | Matcher::RecordsCount { .. }
            | Matcher::RecordsTypeCount { .. }
            | Matcher::TrailingData
            | Matcher::QNameLabels(..)
            | Matcher::QNameWireLength(..)
            | Matcher::PayloadSize(..)
            | Matcher::Tag(..)
            | Matcher::ProxyValue { .. }
            | Matcher::Sni(_)
            | Matcher::MaxQps(_)
            | Matcher::MaxQpsIp(_)
            | Matcher::Probability(_)
            | Matcher::PoolAvailable(_)
            | Matcher::PoolOutstanding(..)
            | Matcher::TimedSet(_)
            | Matcher::Lua(_) => Self::Always,
        }
    }

    /// Returns the keys that it can be looked up by.
    pub(crate) fn keys(&self) -> std::slice::Iter<'_, Key> {
        match self {
            Self::Always => [].iter(),
            Self::AnyOf(keys) => keys.iter(),
        }
    }

    /// Returns how many packets it lets through, by kind: the fewer, the better the guard.
    fn rank(&self) -> u8 {
        match self {
            Self::Always => u8::MAX,
            Self::AnyOf(keys) => keys.iter().map(Key::rank).max().unwrap_or(0),
        }
    }
}

impl Key {
    fn rank(&self) -> u8 {
        const EVERYTHING: u8 = 90;
        let has_root = |names: &Names| names.set().is_some_and(|n| n.contains(&[0]));
        let has_all = |networks: &Networks| {
            networks.set().is_some_and(|n| n.iter().any(|(p, _)| matches!(p.bits(), 0 | 96)))
        };
        match self {
            Self::Name(_) => 1,
            Self::NameIn(_) => 2,
            Self::Below(names) if has_root(names) => EVERYTHING,
            Self::Below(_) => 3,
            Self::Client(networks) | Self::Local(networks) if has_all(networks) => EVERYTHING,
            Self::Client(_) => 4,
            Self::Fact(Fact::QType, _) => 10,
            Self::Fact(Fact::DstPort, _) => 11,
            Self::Local(_) => 12,
            Self::Fact(Fact::Opcode | Fact::RCode, 0) | Self::Fact(Fact::QClass, 1) => 80,
            Self::Fact(Fact::Opcode | Fact::RCode | Fact::QClass, _) => 15,
            // Slow to evaluate, but what remains lets more packets through.
            Self::Pattern(_) => 40,
            Self::Fact(Fact::Protocol | Fact::Stream, _) => 50,
            Self::Fact(Fact::Rd | Fact::Dnssec, _) => 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::limits::Limit;

    fn keys(matcher: &Matcher) -> Option<usize> {
        match Guard::of(matcher) {
            Guard::Always => None,
            Guard::AnyOf(keys) => Some(keys.len()),
        }
    }

    #[test]
    fn most_selective_condition_is_the_guard() {
        let name = Matcher::QName(Arc::from(&b"\x01a\0"[..]));
        let both = Matcher::And([Matcher::Rd, Matcher::QType(1), name.clone(), Matcher::All].into());
        assert!(matches!(&Guard::of(&both), Guard::AnyOf(k) if matches!(k[..], [Key::Name(_)])));
        assert_eq!(keys(&Matcher::Or([name.clone(), Matcher::QType(1)].into())), Some(2));
        assert_eq!(keys(&Matcher::Or([name.clone(), Matcher::All].into())), None);
        assert_eq!(keys(&Matcher::Not(Arc::new(name))), None);
        assert_eq!((keys(&Matcher::And([].into())), keys(&Matcher::Or([].into()))), (None, Some(0)));
        assert_eq!(keys(&Matcher::QNameSet(Names::default())), None, "not filled");
    }

    #[test]
    fn limit_hides_the_conditions_after_it() {
        let limit = Matcher::MaxQps(Limit { state: 0, qps: 1, burst: 1 });
        let hidden = Matcher::And([Matcher::Not(Arc::new(limit.clone())), Matcher::QType(1)].into());
        assert_eq!(keys(&hidden), None);
        assert_eq!(keys(&Matcher::And([Matcher::QType(1), limit].into())), Some(1));
    }
}
