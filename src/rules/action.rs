//! What rules do: dnsdist's actions as closed enumerations, one for queries, one for answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::base::addr::{BackendSlot, PoolRef};
use crate::base::time::TickDelta;
use crate::rules::limits::Limit;
use crate::rules::script::FunctionId;
use crate::stats::log_queue::LogTarget;
use crate::wire::answer::Flags;
use crate::wire::svc::SvcRecord;

/// What becomes of a query that matched.
#[derive(Clone, Debug)]
pub enum Action {
    /// On to the pool chosen so far; no further rule is asked.
    Allow,
    /// Dropped.
    Drop,
    /// To a pool; further rules are asked only where `goes_on`.
    Pool(PoolRef, GoesOn),
    /// Within the rate: nothing. Above it: dropped.
    Qps(Limit),
    /// Within the rate: to a pool. Above it: nothing.
    QpsPool(Limit, PoolRef, GoesOn),
    /// Answered with a response code, which may have an extended part.
    RCode(u16, Flags),
    /// Answered NXDOMAIN or NODATA with a SOA.
    NegativeAndSoa(Arc<NegativeSoa>),
    /// Over UDP answered TC=1; over streams nothing.
    Tc(Flags),
    /// Answered with addresses.
    Spoof(Arc<Addresses>, Flags),
    /// Answered with a CNAME to this name (wire format).
    SpoofCname(Arc<[u8]>, Flags),
    /// Answered with records of the type asked for.
    SpoofRaw(Arc<RawRecords>, Flags),
    /// Answered with SVCB or HTTPS records.
    SpoofSvc(Arc<[SvcRecord]>, Flags),
    /// Answered with this message, under the query's id.
    SpoofPacket(Arc<[u8]>),
    /// The answer is held back for so long; UDP only.
    Delay(TickDelta),
    /// A copy goes to a server, whose answer is forgotten.
    Tee(Arc<Tee>, BackendSlot),
    /// One line a query.
    Log(Arc<LogTarget>),
    /// Nothing.
    None,
    /// What another action does, and then on to the next rule.
    Continue(Box<Self>),
    /// Sets a tag.
    SetTag(Arc<str>, Arc<str>),
    /// Takes a tag away.
    UnsetTag(Arc<str>),
    /// The values of the PROXY header that the server gets, instead of those that came: each with
    /// its type.
    SetProxyValues(Arc<[ProxyValue]>),
    /// Adds a value of a type to them.
    AddProxyValue(u8, Arc<[u8]>),
    /// Takes RD away from what the server gets.
    SetNoRecurse,
    /// Sets CD in what the server gets.
    SetDisableValidation,
    /// Whether the client's subnet is added for servers that want it.
    SetEcs(bool),
    /// Whether a subnet that the query brings is replaced.
    SetEcsOverride(bool),
    /// Prefix lengths of the subnet, IPv4 and IPv6.
    SetEcsPrefixLength(u8, u8),
    /// Adds this subnet rather than the client's: one for IPv4 clients, one for IPv6 clients.
    SetEcsTo(Option<(Ipv4Addr, u8)>, Option<(Ipv6Addr, u8)>),
    /// Sets an EDNS option in what the server gets.
    SetEdnsOption(u16, Arc<[u8]>),
    /// Adds an Extended DNS Error to the answer.
    SetExtendedDnsError(Arc<ExtendedError>),
    /// Caps every TTL of the answer.
    SetMaxReturnedTtl(u32),
    /// Neither looked for in the cache nor put there.
    SetSkipCache,
    /// How long the cache keeps SERVFAIL and REFUSED, seconds.
    SetTempFailureCacheTtl(u32),
    /// What a Lua function decides.
    Lua(FunctionId),
}

impl Action {
    /// How many actions stand around the innermost one.
    #[must_use]
    pub fn depth(&self) -> usize {
        let mut at = self;
        let mut depth = 0;
        while let Self::Continue(inner) = at {
            (at, depth) = (inner, depth + 1);
        }
        depth
    }

    /// What must be known of it besides what it does; what `Continue` stands around counts.
    #[must_use]
    pub fn traits(&self) -> ActionTraits<'_> {
        let none = ActionTraits::default();
        match self {
            Self::Continue(inner) => inner.traits(),
            Self::Pool(pool, _) | Self::QpsPool(_, pool, _) => ActionTraits { pool: Some(pool), ..none },
            Self::Delay(_) => ActionTraits { needs: ActionNeeds { delays: true, restarts: false }, ..none },
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
            // What a function may do is known of the configuration: it has a script.
            | Self::Lua(_) => none,
        }
    }
}

/// What the rest of the program must know of an action besides what it does.
#[derive(Clone, Copy, Debug, Default)]
pub struct ActionTraits<'a> {
    /// What the shard must be ready for.
    pub needs: ActionNeeds,
    /// The pool that it names.
    pub pool: Option<&'a PoolRef>,
    /// The log that it writes to.
    pub log: Option<&'a LogTarget>,
    /// Where it sends copies.
    pub tee: Option<&'a Tee>,
}

/// What a shard must be ready for because of an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionNeeds {
    /// It holds answers back.
    pub delays: bool,
    /// It may have the query asked again, which must be kept for that.
    pub restarts: bool,
}

impl std::ops::BitOr for ActionNeeds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { delays: self.delays || other.delays, restarts: self.restarts || other.restarts }
    }
}

/// Times that a rule may have a query asked again.
pub const RESTARTS_MAX: u8 = 10;
/// How long rules may hold an answer back, milliseconds.
pub const DELAY_MS_MAX: u32 = 60_000;

/// A value of a PROXY header with its type.
pub type ProxyValue = (u8, Box<[u8]>);

/// Whether rules behind this one are asked.
pub type GoesOn = bool;

/// What becomes of an answer that matched.
#[derive(Clone, Debug)]
pub enum ResponseAction {
    /// To the client; no further rule is asked.
    Allow,
    /// Dropped.
    Drop,
    /// Becomes TC=1 without records.
    Tc,
    /// Held back for so long; UDP only.
    Delay(TickDelta),
    /// Nothing.
    None,
    /// One line an answer.
    Log(Arc<LogTarget>),
    /// Every TTL at least and at most this, of these types; none of them means all.
    LimitTtl(u32, u32, Arc<[u16]>),
    /// Every TTL at least this.
    SetMinTtl(u32),
    /// Every TTL at most this.
    SetMaxTtl(u32),
    /// Every TTL to so many percent.
    SetReducedTtl(u8),
    /// TTLs of what the client gets at most this; the cache's own stay.
    SetMaxReturnedTtl(u32),
    /// Takes records of these types away.
    ClearRecordTypes(Arc<[u16]>),
    /// Not put into the cache.
    SetSkipCache,
    /// Sets a tag.
    SetTag(Arc<str>, Arc<str>),
    /// Takes a tag away.
    UnsetTag(Arc<str>),
    /// Sets an EDNS option.
    SetEdnsOption(u16, Arc<[u8]>),
    /// Adds an Extended DNS Error.
    SetExtendedDnsError(Arc<ExtendedError>),
    /// Asks again, in another pool, at most so many times a query.
    Restart(PoolRef, u8),
    /// What a Lua function decides.
    Lua(FunctionId),
}

impl ResponseAction {
    /// What must be known of it besides what it does.
    #[must_use]
    pub fn traits(&self) -> ActionTraits<'_> {
        let none = ActionTraits::default();
        let restarts = ActionNeeds { delays: false, restarts: true };
        match self {
            Self::Delay(_) => ActionTraits { needs: ActionNeeds { delays: true, restarts: false }, ..none },
            Self::Restart(pool, _) => ActionTraits { needs: restarts, pool: Some(pool), ..none },
            Self::Lua(_) => ActionTraits { needs: restarts, ..none },
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
            | Self::UnsetTag(_)
            | Self::SetEdnsOption(..)
            | Self::SetExtendedDnsError(_) => none,
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

/// Where copies of queries go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tee {
    /// The server.
    pub address: SocketAddr,
    /// Add the client's subnet.
    pub add_ecs: bool,
    /// Address to send from.
    pub source: Option<IpAddr>,
}
