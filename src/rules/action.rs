//! The actions of rules: dnsdist's actions as closed enumerations, one for queries, one for
//! responses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::base::addr::{BackendSlot, PoolRef};
use crate::base::time::TickDelta;
use crate::rules::limits::Limit;
use crate::rules::script::FunctionId;
use crate::stats::log_queue::LogTarget;
use crate::wire::answer::Flags;
use crate::wire::svc::SvcRecord;

/// What a rule does with a query that matched.
#[derive(Clone, Debug)]
pub enum Action {
    /// Goes to the pool selected so far; no further rule is evaluated.
    Allow,
    /// Drops the query.
    Drop,
    /// Goes to a pool; further rules are evaluated only where `continues`.
    Pool(PoolRef, Continues),
    /// Does nothing within the rate and drops the query above it.
    Qps(Limit),
    /// Goes to a pool within the rate and does nothing above it.
    QpsPool(Limit, PoolRef, Continues),
    /// Answers with a response code, which may have an extended part.
    RCode(u16, Flags),
    /// Answers NXDOMAIN or NODATA with a SOA.
    NegativeAndSoa(Arc<NegativeSoa>),
    /// Answers TC=1 over UDP and does nothing over a connection.
    Tc(Flags),
    /// Answers with addresses.
    Spoof(Arc<Addresses>, Flags),
    /// Answers with a CNAME to this name (wire format).
    SpoofCname(Arc<[u8]>, Flags),
    /// Answers with records of the requested type.
    SpoofRaw(Arc<RawRecords>, Flags),
    /// Answers queries for SVCB or HTTPS with such records.
    SpoofSvc(Arc<[SvcRecord]>, Flags),
    /// Answers with this message, under the query's id.
    SpoofPacket(Arc<[u8]>),
    /// Delays the answer by this span; UDP only.
    Delay(TickDelta),
    /// Sends a copy to a server and ignores its response.
    Tee(Arc<Tee>, BackendSlot),
    /// Sends a copy to a pool, and compares both answers.
    Shadow(PoolRef),
    /// Logs one line per query.
    Log(Arc<LogTarget>),
    /// Does nothing.
    None,
    /// Applies another action and continues with the next rule.
    Continue(Box<Self>),
    /// Sets a tag.
    SetTag(Arc<str>, Arc<str>),
    /// Removes a tag.
    UnsetTag(Arc<str>),
    /// Replaces the values of the PROXY header that the server gets: each with its type.
    SetProxyValues(Arc<[ProxyValue]>),
    /// Adds a value of a type to the PROXY header that the server gets.
    AddProxyValue(u8, Arc<[u8]>),
    /// Clears RD in what the server gets.
    SetNoRecurse,
    /// Sets CD in what the server gets.
    SetDisableValidation,
    /// Whether the client's subnet is added for servers that want it.
    SetEcs(bool),
    /// Whether a subnet that the query brings is replaced.
    SetEcsOverride(bool),
    /// Prefix lengths of the subnet, IPv4 and IPv6.
    SetEcsPrefixLength(u8, u8),
    /// Adds this subnet rather than the client's: of two, one for IPv4 clients and one for IPv6
    /// clients; one alone for all.
    SetEcsTo(Option<(Ipv4Addr, u8)>, Option<(Ipv6Addr, u8)>),
    /// Sets an EDNS option in what the server gets.
    SetEdnsOption(u16, Arc<[u8]>),
    /// Adds an Extended DNS Error to the answer.
    SetExtendedDnsError(Arc<ExtendedError>),
    /// Caps every TTL of the answer.
    SetMaxReturnedTtl(u32),
    /// Bypasses the cache: no look-up, no insertion.
    SetSkipCache,
    /// How long the cache keeps SERVFAIL and REFUSED, seconds.
    SetTempFailureCacheTtl(u32),
    /// Calls a Lua function, which decides.
    Lua(FunctionId),
}

impl Action {
    /// Returns the number of actions around the innermost one.
    #[must_use]
    pub fn depth(&self) -> usize {
        let mut at = self;
        let mut depth = 0;
        while let Self::Continue(inner) = at {
            (at, depth) = (inner, depth + 1);
        }
        depth
    }

    /// Returns the properties of the action; the action inside `Continue` counts.
    #[must_use]
    pub fn traits(&self) -> ActionTraits<'_> {
        let none = ActionTraits::default();
        match self {
            Self::Continue(inner) => inner.traits(),
            Self::Pool(pool, _) | Self::QpsPool(_, pool, _) => ActionTraits { pool: Some(pool), ..none },
            Self::Shadow(pool) => ActionTraits {
                needs: ActionNeeds { shadows: true, ..ActionNeeds::NONE },
                pool: Some(pool),
                ..none
            },
            Self::Delay(_) => ActionTraits { needs: ActionNeeds { delays: true, ..ActionNeeds::NONE }, ..none },
            Self::Tee(tee, _) => ActionTraits { tee: Some(tee), ..none },
            Self::Log(target) => ActionTraits { log: Some(target), ..none },
            Self::Allow
            | Self::Drop
            | Self::Qps(_)
            | Self::RCode(..)
            | Self::NegativeAndSoa(_)
            | Self::Tc(_)
            | Self::Spoof(..)
            | Self::SpoofCname(..)
            | Self::SpoofRaw(..)
            | Self::SpoofSvc(..)
            | Self::SpoofPacket(_)
            | Self::None
            | Self::SetTag(..)
            | Self::UnsetTag(_)
            | Self::SetProxyValues(_)
            | Self::AddProxyValue(..)
            | Self::SetNoRecurse
            | Self::SetDisableValidation
            | Self::SetEcs(_)
            | Self::SetEcsOverride(_)
            | Self::SetEcsPrefixLength(..)
            | Self::SetEcsTo(..)
            | Self::SetEdnsOption(..)
            | Self::SetExtendedDnsError(_)
            | Self::SetMaxReturnedTtl(_)
            | Self::SetSkipCache
            | Self::SetTempFailureCacheTtl(_)
            // What a function may do is a property of the configuration: it has a script.
            | Self::Lua(_) => none,
        }
    }
}

/// Properties of an action that other modules need.
#[derive(Clone, Copy, Debug, Default)]
pub struct ActionTraits<'a> {
    /// What the shard must be prepared for.
    pub needs: ActionNeeds,
    /// The pool that it names.
    pub pool: Option<&'a PoolRef>,
    /// The log that it writes to.
    pub log: Option<&'a Arc<LogTarget>>,
    /// Where it sends copies.
    pub tee: Option<&'a Tee>,
}

/// What a shard must be prepared for because of an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionNeeds {
    /// It delays answers.
    pub delays: bool,
    /// It may restart a query, whose bytes must be kept for that.
    pub restarts: bool,
    /// It may make a server's response longer than the client can take.
    pub grows: bool,
    /// It sends queries to a second pool.
    pub shadows: bool,
}

impl ActionNeeds {
    /// What an action needs that does none of these.
    pub const NONE: Self = Self { delays: false, restarts: false, grows: false, shadows: false };
}

impl std::ops::BitOr for ActionNeeds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            delays: self.delays || other.delays,
            restarts: self.restarts || other.restarts,
            grows: self.grows || other.grows,
            shadows: self.shadows || other.shadows,
        }
    }
}

/// Restarts of a query by rules, at most.
pub const RESTARTS_MAX: u8 = 10;
/// Longest delay of an answer by rules, milliseconds.
pub const DELAY_MS_MAX: u32 = 60_000;

/// A value of a PROXY header with its type.
pub type ProxyValue = (u8, Box<[u8]>);

/// Whether the rules after this one are evaluated.
pub type Continues = bool;

/// What a rule does with a response that matched.
#[derive(Clone, Debug)]
pub enum ResponseAction {
    /// Delivers the answer to the client; no further rule is evaluated.
    Allow,
    /// Drops the response.
    Drop,
    /// Truncates the answer over UDP: TC=1 without records. Does nothing over a connection.
    Tc,
    /// Delays the answer by this span; UDP only.
    Delay(TickDelta),
    /// Does nothing.
    None,
    /// Logs one line per response.
    Log(Arc<LogTarget>),
    /// Raises every TTL to the first bound and caps it at the second, for these types; an empty
    /// list means all types.
    LimitTtl(u32, u32, Arc<[u16]>),
    /// Raises every TTL to at least this.
    SetMinTtl(u32),
    /// Caps every TTL at this.
    SetMaxTtl(u32),
    /// Reduces every TTL to this percentage.
    SetReducedTtl(u8),
    /// Caps the TTLs that the client gets; those in the cache stay.
    SetMaxReturnedTtl(u32),
    /// Removes records of these types.
    ClearRecordTypes(Arc<[u16]>),
    /// Keeps the response out of the cache.
    SetSkipCache,
    /// Sets a tag.
    SetTag(Arc<str>, Arc<str>),
    /// Removes a tag.
    UnsetTag(Arc<str>),
    /// Sets an EDNS option.
    SetEdnsOption(u16, Arc<[u8]>),
    /// Adds an Extended DNS Error.
    SetExtendedDnsError(Arc<ExtendedError>),
    /// Restarts the query in another pool, at most this many times per query.
    Restart(PoolRef, u8),
    /// Calls a Lua function, which decides.
    Lua(FunctionId),
}

impl ResponseAction {
    /// Returns the properties of the action.
    #[must_use]
    pub fn traits(&self) -> ActionTraits<'_> {
        let none = ActionTraits::default();
        let restarts = ActionNeeds { restarts: true, ..ActionNeeds::NONE };
        let grows = ActionNeeds { grows: true, ..ActionNeeds::NONE };
        match self {
            Self::Delay(_) => {
                ActionTraits { needs: ActionNeeds { delays: true, ..ActionNeeds::NONE }, ..none }
            }
            Self::Restart(pool, _) => ActionTraits { needs: restarts, pool: Some(pool), ..none },
            Self::Lua(_) => ActionTraits { needs: restarts | grows, ..none },
            Self::SetEdnsOption(..) | Self::SetExtendedDnsError(_) => ActionTraits { needs: grows, ..none },
            Self::Log(target) => ActionTraits { log: Some(target), ..none },
            Self::Allow
            | Self::Drop
            | Self::Tc
            | Self::None
            | Self::LimitTtl(..)
            | Self::SetMinTtl(_)
            | Self::SetMaxTtl(_)
            | Self::SetReducedTtl(_)
            | Self::SetMaxReturnedTtl(_)
            | Self::ClearRecordTypes(_)
            | Self::SetSkipCache
            | Self::SetTag(..)
            | Self::UnsetTag(_) => none,
        }
    }
}

/// A negative answer with its SOA (RFC 2308).
#[derive(Clone, Debug)]
pub struct NegativeSoa {
    /// NXDOMAIN rather than NODATA.
    pub nxdomain: bool,
    /// Owner of the SOA, wire format.
    pub zone: Vec<u8>,
    /// Primary server, wire format.
    pub mname: Vec<u8>,
    /// Mailbox, wire format.
    pub rname: Vec<u8>,
    /// Serial, refresh, retry, expire, minimum.
    pub numbers: [u32; 5],
    /// In the authority section, rather than the additional one.
    pub in_authority: bool,
    /// Flags and TTL.
    pub flags: Flags,
}

/// Addresses to answer with.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// IPv4.
    pub v4: Vec<[u8; 4]>,
    /// IPv6.
    pub v6: Vec<[u8; 16]>,
}

/// Contents of records to answer with.
#[derive(Clone, Debug)]
pub struct RawRecords {
    /// Each record's RDATA.
    pub rdata: Vec<Vec<u8>>,
    /// The type of the records when ANY is asked for.
    pub type_for_any: Option<u16>,
}

/// An Extended DNS Error (RFC 8914).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT.
    pub text: String,
}

/// Where copies of queries are sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tee {
    /// The server.
    pub address: SocketAddr,
    /// Whether to add the client's subnet.
    pub add_ecs: bool,
    /// Address to send from.
    pub source: Option<IpAddr>,
}
