//! What the shards obey: the immutable result of a configuration.
//!
//! Made by [`compile`](crate::config::compile()), published whole by `control::feed`, read by both planes.
//! Everything is an index or a value; no name is looked up on the packet path. What changes while
//! a configuration stands (health, shares, counts) lives in the [`LiveState`](crate::stats::live::LiveState).

pub mod listener;
pub mod policy;
mod ring;
mod script;

pub use crate::model::listener::Steer;
pub use crate::model::ring::Ring;

pub use crate::model::listener::{
    ConnectionOptions, Listener, ListenerTls, ProxyHeader, ProxyLimits, RelaySettings, Service,
};

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot, RuleSlot};
use crate::base::prefix::PrefixSet;
use crate::base::time::TickDelta;
use crate::model::policy::{Kind, Policy};
pub use crate::model::script::{ConfiguredScript, Source};
use crate::rules::Chains;
use crate::rules::context::RuleSettings;
use crate::rules::limits::StateSpec;
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::tls::{ClientSpec, ClientTls};

/// One whole configuration, immutable.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts published configurations, from 1.
    pub generation: u64,
    /// The listen addresses, each with its stable slot.
    pub listeners: Vec<Arc<Listener>>,
    /// The backends by slot; a hole is a slot that nobody has.
    pub backends: Vec<Option<Arc<Backend>>>,
    /// The pools; the first is the default pool, whose name is empty.
    pub pools: Vec<Pool>,
    /// Who may ask.
    pub acl: PrefixSet,
    /// The rules.
    pub chains: Chains,
    /// Rules that no earlier configuration had: their counters begin at 0.
    pub rules_fresh: Vec<RuleSlot>,
    /// What the rules' limiters are; a limiter's `state` is its place here.
    pub limits: Vec<StateSpec>,
    /// The file, for functions that shards run per query; none when there is no such function.
    pub script: Option<Arc<dyn Source>>,
    /// What holds for every query.
    pub globals: Globals,
}

impl Default for Snapshot {
    /// No listener, no backend, nobody may ask; one pool, the default one.
    fn default() -> Self {
        Self {
            generation: 0,
            listeners: Vec::new(),
            backends: Vec::new(),
            pools: vec![Pool::default()],
            acl: PrefixSet::default(),
            chains: Chains::default(),
            rules_fresh: Vec::new(),
            limits: Vec::new(),
            script: None,
            globals: Globals::default(),
        }
    }
}

impl Snapshot {
    /// Settings that concern rules.
    #[must_use]
    pub const fn rule_settings(&self) -> RuleSettings {
        RuleSettings { truncate_tc: self.globals.truncate_tc, clients_stay: self.globals.clients_stay }
    }

    /// Takes over what the rates of the configuration that stands have counted, where this one
    /// has the same rules, and of TLS the ticket keys and kept sessions of listeners and the
    /// sessions with servers. To be called before it is published.
    pub fn inherit(&mut self, before: &Self) {
        StateSpec::inherit(&mut self.limits, &before.limits);
        for listener in &mut self.listeners {
            let old = before.listeners.iter().find(|l| l.slot == listener.slot).and_then(|l| l.service.tls());
            if let (Some(old), Some(new)) = (old, listener.service.tls()) {
                let service = Service::Dot(ListenerTls(Arc::new(new.inherit(old))));
                Arc::make_mut(listener).service = service;
            }
        }
        for backend in self.backends.iter_mut().flatten() {
            let old = before.backend(backend.slot).and_then(|b| b.connections.tls.as_ref());
            if let (Some(old), Some(new)) = (old, &backend.connections.tls)
                && old == new
                && new.tls.trusts_as(&old.tls)
            {
                Arc::make_mut(backend).connections.tls = Some(old.clone());
            }
        }
    }

    /// The listener with this slot, if there is one.
    #[must_use]
    pub fn listener(&self, slot: ListenerSlot) -> Option<&Arc<Listener>> {
        // Most configurations have each listener at its slot's place.
        let near = self.listeners.get(slot.index()).filter(|l| l.slot == slot);
        near.or_else(|| self.listeners.iter().find(|l| l.slot == slot))
    }

    /// The backend in a slot, if this configuration has one there.
    #[must_use]
    pub fn backend(&self, slot: BackendSlot) -> Option<&Arc<Backend>> {
        self.backends.get(slot.index())?.as_ref()
    }

    /// The pool in a slot; the default pool for one that this configuration does not have.
    #[must_use]
    pub fn pool(&self, slot: PoolSlot) -> &Pool {
        self.pools.get(slot.index()).unwrap_or(&self.pools[0])
    }

    /// The slot of the pool called `name`.
    #[must_use]
    pub fn pool_named(&self, name: &str) -> Option<PoolSlot> {
        let at = self.pools.iter().position(|p| p.name == name)?;
        u16::try_from(at).ok().map(PoolSlot)
    }
}

/// Settings of the data path that belong to no listener, backend or pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Globals {
    /// Answer SERVFAIL when a pool has no usable server (`setServFailWhenNoServer`).
    pub servfail_when_no_server: bool,
    /// With roundrobin and every server down: drop, rather than send all the same.
    pub round_robin_fail_on_no_server: bool,
    /// Pass on header-only NOERROR and NXDOMAIN answers (`setAllowEmptyResponse`).
    pub allow_empty_response: bool,
    /// Drop queries without a question, rather than answer NOTIMP (`setDropEmptyQueries`).
    pub drop_empty_queries: bool,
    /// UDP payload size in the OPT of answers of our own, bytes
    /// (`setPayloadSizeOnSelfGeneratedAnswers`).
    pub self_answer_payload: u16,
    /// Put an OPT into answers of our own when the query had one.
    pub self_answer_edns: bool,
    /// Take the records of an answer with TC=1 away, its OPT apart (`truncateTC`).
    pub truncate_tc: bool,
    /// Give the question of an answer the letter case of its query (`fixupCase`).
    pub fixup_case: bool,
    /// Replace a client subnet that a query brings (`setECSOverride`).
    pub ecs_override: bool,
    /// Prefix length of the client subnet for IPv4 (`setECSSourcePrefixV4`).
    pub ecs_v4: u8,
    /// For IPv6 (`setECSSourcePrefixV6`).
    pub ecs_v6: u8,
    /// All queries of a client come to one shard (`--steer client`): limits by client are exact.
    pub clients_stay: bool,
    /// What clients' connections may do.
    pub client_connections: ClientConnectionLimits,
    /// PROXY headers of clients.
    pub proxy: ProxyLimits,
}

impl Default for Globals {
    /// dnsdist's.
    fn default() -> Self {
        Self {
            servfail_when_no_server: false,
            round_robin_fail_on_no_server: false,
            allow_empty_response: false,
            drop_empty_queries: false,
            self_answer_payload: 1232,
            self_answer_edns: true,
            truncate_tc: false,
            fixup_case: false,
            ecs_override: false,
            ecs_v4: 24,
            ecs_v6: 56,
            clients_stay: false,
            client_connections: ClientConnectionLimits::default(),
            proxy: ProxyLimits::default(),
        }
    }
}

/// Buffer sizes of a UDP socket, bytes; 0 leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// `SO_RCVBUF`.
    pub receive_buffer: u32,
    /// `SO_SNDBUF`.
    pub send_buffer: u32,
}

/// One name server behind us.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its stable slot.
    pub slot: BackendSlot,
    /// Identity over reloads and, for chashed, over machines: `id=` or the address.
    pub id: String,
    /// Name for people; the address where none was given.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Lower is preferred by the ordered policies.
    pub order: i32,
    /// Share for the weighted policies, 1 or more.
    pub weight: u32,
    /// Queries per second for firstAvailable, over all shards; 0 is no limit.
    pub qps: u32,
    /// How long an answer is waited for.
    pub timeout: TickDelta,
    /// UDP sockets (source ports) per shard, 1 to 255; 0 for a forward's target.
    pub sockets: u8,
    /// Outstanding queries per shard, at most; a query above it is dropped and counted.
    pub outstanding_max: u32,
    /// Outstanding queries over all shards above which policies pass it over; 0 is no limit
    /// (`maxOutstandingQueries`).
    pub outstanding_soft_max: u32,
    /// Local address to ask from.
    pub source: Option<IpAddr>,
    /// Local interface to ask through.
    pub source_interface: Option<String>,
    /// DSCP of queries, 0 to 63.
    pub dscp: u8,
    /// Socket options.
    pub socket_options: SocketOptions,
    /// How its health is found out.
    pub health: Health,
    /// Its queries carry the client's subnet (`useClientSubnet`).
    pub use_client_subnet: bool,
    /// It is in no pool: it gets copies of queries (`TeeAction`), and its answers are forgotten.
    pub tee: bool,
    /// It is a forward's target: no query goes to it, and it has no UDP sockets (`sockets` is 0).
    pub target: bool,
    /// Its connections.
    pub connections: BackendConnectionOptions,
    /// How it learns the client's address.
    pub client_address: ClientAddress,
}

/// A backend's connections: its *lines*.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendConnectionOptions {
    /// Queries that came as datagrams go by them, too (`tcpOnly`; always with `tls`).
    pub only: bool,
    /// A connection that does not come about in this time is given up (`tcpConnectTimeout`).
    pub connect_timeout: TickDelta,
    /// One that does not take queries for so long is given up (`tcpSendTimeout`).
    pub send_timeout: TickDelta,
    /// One that owes an answer for so long is given up (`tcpRecvTimeout`).
    pub receive_timeout: TickDelta,
    /// Queries on one at a time, 1 or more (`maxInFlight`).
    pub in_flight: u16,
    /// Servers that a query is tried on, this one included, when connections fail, 1 to 5
    /// (`retries`).
    pub tries: u8,
    /// Connect with TCP Fast Open (`tcpFastOpen`).
    pub fast_open: bool,
    /// Connections of a shard at a time; queries above it wait for nothing and are dropped
    /// (`maxConcurrentTCPConnections`); 0 is no limit but [`LINES_MAX`].
    pub connections: u32,
    /// Idle connections that are kept (`setMaxCachedTCPConnectionsPerDownstream`).
    pub kept: u32,
    /// How long they are kept (`setTCPDownstreamMaxIdleTime`).
    pub idle: TickDelta,
    /// Their TLS (`tls`), with which `only` holds, too.
    pub tls: Option<BackendTls>,
}

/// A server's TLS, as its files were when the configuration was read. Two are the same that were
/// asked for in the same words.
#[derive(Clone, Debug)]
pub struct BackendTls {
    /// What was asked for.
    pub spec: ClientSpec,
    /// What each connection is made by.
    pub tls: Arc<ClientTls>,
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

impl BackendConnectionOptions {
    /// Which trust connections are opened with: see [`ClientTls::era`]. 0 without TLS.
    #[must_use]
    pub fn era(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.tls.era())
    }
}

/// Lines of a backend in a shard, at most.
pub const LINES_MAX: u32 = 4096;

impl Default for BackendConnectionOptions {
    /// dnsdist's, apart from `in_flight` (1 there).
    fn default() -> Self {
        Self {
            only: false,
            connect_timeout: TickDelta::from_ms(5_000),
            send_timeout: TickDelta::from_ms(30_000),
            receive_timeout: TickDelta::from_ms(30_000),
            in_flight: 64,
            tries: 5,
            fast_open: false,
            connections: 0,
            kept: 10,
            idle: TickDelta::from_ms(300_000),
            tls: None,
        }
    }
}

/// How a backend learns the client's address, besides EDNS client subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// It does not.
    #[default]
    Hidden,
    /// By a PROXY header: in front of each datagram, and at the beginning of each connection, which
    /// then serves one client alone (`useProxyProtocol`).
    Proxy {
        /// Version 1, the line of text, which only connections can carry; otherwise version 2.
        v1: bool,
        /// Say by a TLV that the client came by TLS (`proxyProtocolAdvertiseTLS`).
        advertise_tls: bool,
    },
    /// By the source address of what it gets, which is the client's own (`transparent`).
    Transparent,
}

impl Backend {
    /// Whether `self` and `other` can share their sockets and outstanding queries.
    #[must_use]
    pub fn same_sockets(&self, other: &Self) -> bool {
        self.id == other.id
            && self.address == other.address
            && self.sockets == other.sockets
            && self.source == other.source
            && self.source_interface == other.source_interface
            && self.dscp == other.dscp
            && self.socket_options == other.socket_options
            && self.client_address == other.client_address
            && self.connections.tls == other.connections.tls
    }
}

/// What the operator wants a backend's state to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthMode {
    /// Probe it all the time.
    Auto,
    /// Up, without probes.
    Up,
    /// Down, without probes.
    Down,
    /// No new queries; the outstanding ones finish.
    Drain,
    /// Probe it only when live answers fail.
    Lazy,
}

/// What a probe is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A DNS query over UDP.
    Udp,
    /// A DNS query over TCP.
    Tcp,
    /// A DNS query over TLS, by [`BackendConnectionOptions::tls`].
    Tls,
    /// A TCP connection, opened and closed.
    Connect,
    /// A connection, or a datagram, on which something is said and an answer expected.
    SendExpect(SendExpect),
    /// A program: exit code 0 is healthy. It gets the address and the port as its last arguments.
    Script(Vec<String>),
}

/// A conversation of two lines (`checkSend`, `checkExpect`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendExpect {
    /// Over UDP.
    pub datagram: bool,
    /// What is sent; may be empty over TCP, where many servers speak first.
    pub send: Vec<u8>,
    /// What the answer must hold, anywhere in its first 4096 bytes; empty for any answer.
    pub expect: Vec<u8>,
}

/// How a backend's health is found out. Spans are measured on the control thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Probed, forced or lazy.
    pub mode: HealthMode,
    /// What a probe is.
    pub probe: Probe,
    /// Name asked for, presentation format.
    pub qname: String,
    /// Type asked for.
    pub qtype: u16,
    /// Class asked for.
    pub qclass: u16,
    /// Set CD in the probe.
    pub set_cd: bool,
    /// NXDOMAIN and REFUSED count as failures too.
    pub must_resolve: bool,
    /// Between probes.
    pub interval: TickDelta,
    /// A probe unanswered after this failed.
    pub timeout: TickDelta,
    /// Successes in a row that bring it up, 1 or more.
    pub rise: u32,
    /// Failures in a row that take it down, 1 or more (`maxCheckFailures`).
    pub fall: u32,
    /// A Lua function that chooses the query (`checkFunction`); an index into the
    /// configuration's functions.
    pub choose: Option<LuaFunction>,
    /// A Lua function that judges the answer.
    pub judge: Option<LuaFunction>,
    /// After its return its share grows from small to whole over this span; 0 switches it off.
    pub slow_start: TickDelta,
    /// Lazy probing.
    pub lazy: Lazy,
}

/// Index of a Lua function kept by the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaFunction(pub u32);

/// When lazy health checking begins to probe (dnsdist's `lazyHealthCheck*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lazy {
    /// Failed live queries of the sample, percent, from which probes begin.
    pub threshold_percent: u8,
    /// The last so many live queries are the sample.
    pub sample: u16,
    /// No verdict below so many.
    pub sample_min: u16,
    /// Between probes of a failed server.
    pub failed_interval: TickDelta,
    /// Double that interval at each failure, up to this.
    pub backoff_max: Option<TickDelta>,
    /// SERVFAIL counts as a failure, not only time-outs.
    pub servfail_counts: bool,
}

/// A set of backends with a policy over them.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Empty for the default pool.
    pub name: String,
    /// Its backends, by order and then as written.
    pub members: Vec<BackendSlot>,
    /// How one of them is chosen.
    pub policy: Policy,
    /// chashed's ring over all members, built once here.
    pub ring: Option<Arc<Ring>>,
    /// Ask a second server when the first is slow.
    pub retry: Option<Retry>,
    /// Under this share of members up, parts per million, all are used; 0 switches it off.
    pub panic_ppm: u32,
    /// Take servers out that answer worse than their peers.
    pub eject: Option<Eject>,
    /// Queries that came by a connection go over UDP, and over TCP again if the answer is
    /// truncated (`tcpToUdp`).
    pub tcp_to_udp: bool,
}

impl Default for Pool {
    /// The default pool without members: leastOutstanding.
    fn default() -> Self {
        Self {
            name: String::new(),
            members: Vec::new(),
            policy: Policy::new(Kind::LeastOutstanding),
            ring: None,
            retry: None,
            panic_ppm: 0,
            eject: None,
            tcp_to_udp: false,
        }
    }
}

/// A second try, on another server, of a query without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How long the first server has.
    pub after: TickDelta,
    /// At most this share of the pool's queries, parts per million.
    pub budget_ppm: u32,
}

/// When a server counts as an outlier among its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eject {
    /// Failed (timed out or SERVFAIL) share above the pool's own by so much, parts per million.
    pub excess_ppm: u32,
    /// For how long.
    pub span: TickDelta,
    /// Never more than this share of the pool, parts per million.
    pub share_max_ppm: u32,
    /// No verdict below so many queries in a window of ten seconds.
    pub queries_min: u32,
}
