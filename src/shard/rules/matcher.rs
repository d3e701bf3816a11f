//! Which packets a rule concerns: dnsdist's selectors as one closed enumeration.

use std::sync::Arc;

use super::index::Guard;
use super::limits::{ClientLimit, Limit, TimedSet};
use super::names::Names;
use super::networks::Networks;
use super::pattern::Pattern;
use super::scene::{Env, Scene};
use crate::addr::PoolRef;
use crate::shard::case::Protocol;
use crate::shard::script::FunctionId;

/// A condition on a packet. What it refers to (pools, buckets, functions) is resolved by
/// `compile`, so that nothing is looked up by name here.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// Every packet.
    All,
    /// Every one of these, asked in order up to the first that says no.
    And(Vec<Self>),
    /// Any of these, asked in order up to the first that says yes.
    Or(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// The name asked for is this one (wire format); letter case aside.
    QName(Arc<[u8]>),
    /// It is one of these.
    QNameSet(Names),
    /// It is in or below one of these.
    QNameSuffix(Names),
    /// It matches an expression.
    Regex(Pattern),
    /// The type asked for.
    QType(u16),
    /// The class asked for.
    QClass(u16),
    /// The operation.
    Opcode(u8),
    /// The response code without its extension.
    RCode(u8),
    /// The response code with the extension of the OPT record.
    ERCode(u16),
    /// Recursion is desired.
    Rd,
    /// DNSSEC records are wanted (DO).
    Dnssec,
    /// The EDNS version is above this; never without EDNS.
    EdnsVersion(u8),
    /// There is an EDNS option of this code.
    EdnsOption(u16),
    /// Records of a section (0 question to 3 additional), within these bounds.
    RecordsCount {
        /// The section.
        section: u8,
        /// At least.
        min: u16,
        /// At most.
        max: u16,
    },
    /// Records of a type in a section, within these bounds.
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
    /// There are octets behind the message.
    TrailingData,
    /// The name has fewer labels than the first, or more than the second.
    QNameLabels(u16, u16),
    /// The name in wire format is shorter than the first, or longer than the second.
    QNameWireLength(u16, u16),
    /// Octets of the message compared with a number.
    PayloadSize(Comparison, u16),
    /// The client's address (`source`), or the one that was asked, is in these networks.
    Netmask {
        /// The networks.
        networks: Networks,
        /// The client's address.
        source: bool,
    },
    /// The port that was asked.
    DstPort(u16),
    /// How the query came.
    Protocol(Protocol),
    /// Over TCP, or something on top of it.
    Tcp(bool),
    /// A tag is set, to this value if one is given.
    Tag(Arc<str>, Option<Arc<str>>),
    /// More queries than this reach it per second.
    MaxQps(Limit),
    /// A client network sends more queries than this per second.
    MaxQpsIp(ClientLimit),
    /// By chance, parts per 2^32; `None` always.
    Probability(Option<u32>),
    /// A pool has a usable server.
    PoolAvailable(PoolRef),
    /// The servers of a pool have more outstanding queries than this.
    PoolOutstanding(PoolRef, u64),
    /// The client's address is in a set that Lua adds to.
    TimedSet(TimedSet),
    /// A Lua function says so.
    Lua(FunctionId),
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

impl Matcher {
    /// Whether it concerns this packet.
    pub fn matches(&self, scene: &mut Scene<'_, '_>, env: &mut Env<'_>) -> bool {
        match self {
            Self::All => true,
            Self::And(all) => all.iter().all(|m| m.matches(scene, env)),
            Self::Or(any) => any.iter().any(|m| m.matches(scene, env)),
            Self::Not(not) => !not.matches(scene, env),
            _ => false,
        }
    }

    /// What must hold for it to match, as the index can ask it.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard::Always
    }
}
