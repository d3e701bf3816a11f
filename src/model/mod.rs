//! The immutable result of a configuration, which the shards read.
//!
//! Made by [`compile`](crate::config::compile()), published as a whole by `control::publisher`,
//! read by both planes. Everything is an index or a value; no name is looked up on the packet path.
//! What changes while a configuration stands (health, shares, counts) is in the
//! [`LiveState`](crate::stats::live::LiveState).

pub mod console;
pub mod listener;
pub mod policy;
mod pool;
mod ring;
mod script;

pub use crate::model::listener::Steer;
pub use crate::model::pool::{CacheCleaning, Eject, Pool, Retry};
pub use crate::model::ring::Ring;

pub use crate::model::listener::{
    ConnectionOptions, Listener, ListenerTls, ProxyHeader, ProxyLimits, RelaySettings, Service,
};

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot, RuleSlot};
use crate::base::prefix::PrefixSet;
use crate::base::time::TickDelta;
pub use crate::model::script::{ConfiguredScript, Source};
use crate::rules::Chains;
use crate::rules::context::RuleSettings;
use crate::rules::limits::StateSpec;
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::tls::{ClientSpec, ClientTls};

/// One whole configuration, immutable.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Number of the published configuration, from 1.
    pub generation: u64,
    /// The listen addresses, each with its stable slot.
    pub listeners: Vec<Arc<Listener>>,
    /// The backends by slot; an unused slot is empty.
    pub backends: Vec<Option<Arc<Backend>>>,
    /// The backends as they are numbered for people: servers by their order, and of the same order as
    /// written; what is none of them at the end. Empty where slots say it.
    pub listing: Vec<BackendSlot>,
    /// The pools; the first is the default pool, whose name is empty.
    pub pools: Vec<Pool>,
    /// Clients that may query.
    pub acl: PrefixSet,
    /// The rules.
    pub chains: Chains,
    /// Rules that no earlier configuration had: their counters are reset to 0.
    pub rules_fresh: Vec<RuleSlot>,
    /// The rules' limiters; a limiter's `state` is its index here.
    pub limits: Vec<StateSpec>,
    /// The source of the shards' scripts; none when no function is called per query.
    pub script: Option<Arc<dyn Source>>,
    /// Settings that apply to every query.
    pub globals: Globals,
    /// Settings of the control thread that its figures show.
    pub shown: Shown,
}

/// Settings of the control thread that are shown beside those of queries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The networks that may query as they are listed, exceptions with `!`.
    pub acl: Vec<String>,
    /// Where the console listens.
    pub console: Option<SocketAddr>,
    /// Where the web server listens with TLS, and its certificates.
    pub web_tls: Option<(SocketAddr, ListenerTls)>,
    /// Most outstanding queries of a server, per shard.
    pub outstanding_max: u32,
    /// The log is verbose.
    pub verbose: bool,
    /// Each failed health check is logged.
    pub verbose_checks: bool,
}

impl Default for Snapshot {
    /// No listener, no backend, an empty ACL; one pool, the default one.
    fn default() -> Self {
        Self {
            generation: 0,
            listeners: Vec::new(),
            backends: Vec::new(),
            listing: Vec::new(),
            pools: vec![Pool::default()],
            acl: PrefixSet::default(),
            chains: Chains::default(),
            rules_fresh: Vec::new(),
            limits: Vec::new(),
            script: None,
            globals: Globals::default(),
            shown: Shown::default(),
        }
    }
}

impl Snapshot {
    /// Returns the settings that concern rules.
    #[must_use]
    pub const fn rule_settings(&self) -> RuleSettings {
        let Globals { truncate_tc, lua_errors_fail, .. } = self.globals;
        RuleSettings { truncate_tc, lua_errors_fail }
    }

    /// Carries state over from the current configuration: the counts and sets of the same rules;
    /// the ticket keys and TLS sessions of listeners and backends. To be called before it is
    /// published.
    pub fn inherit(&mut self, before: &Self) {
        StateSpec::inherit(&mut self.limits, &before.limits);
        pool::inherit_caches(&mut self.pools, &before.pools);
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
                && new.tls.trusts_like(&old.tls)
            {
                Arc::make_mut(backend).connections.tls = Some(old.clone());
            }
        }
    }

    /// Returns the listener with this slot, if there is one.
    #[must_use]
    pub fn listener(&self, slot: ListenerSlot) -> Option<&Arc<Listener>> {
        // In most configurations a listener's slot is its index.
        let near = self.listeners.get(slot.index()).filter(|l| l.slot == slot);
        near.or_else(|| self.listeners.iter().find(|l| l.slot == slot))
    }

    /// Returns the backend in a slot, if this configuration has one there.
    #[must_use]
    pub fn backend(&self, slot: BackendSlot) -> Option<&Arc<Backend>> {
        self.backends.get(slot.index())?.as_ref()
    }

    /// Returns the backends as they are numbered for people.
    pub fn listed(&self) -> impl Iterator<Item = &Backend> {
        let unnumbered = self.backends.iter().filter(|_| self.listing.is_empty()).flatten();
        self.listing.iter().filter_map(|slot| self.backend(*slot)).chain(unnumbered).map(AsRef::as_ref)
    }

    /// Returns the pools that a configuration has: the default one, and those with names. Others are
    /// slots of pools that are gone.
    pub fn standing_pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().enumerate().filter(|(at, pool)| *at == 0 || !pool.name.is_empty()).map(|(_, p)| p)
    }

    /// Returns the pool in a slot; the default pool for an unknown slot.
    #[must_use]
    pub fn pool(&self, slot: PoolSlot) -> &Pool {
        self.pools.get(slot.index()).unwrap_or(&self.pools[0])
    }

    /// Returns the slot of the pool called `name`.
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
    /// With roundrobin and every server down, drop the query rather than send it all the same.
    pub round_robin_fail_on_no_server: bool,
    /// Pass on responses NOERROR and NXDOMAIN that are only a header (`setAllowEmptyResponse`).
    pub allow_empty_response: bool,
    /// Drop queries without a question, rather than answer NOTIMP (`setDropEmptyQueries`).
    pub drop_empty_queries: bool,
    /// Outstanding queries of a client with one question, per shard (`setMaxRepeatedQueries`).
    pub repeats_max: u16,
    /// UDP payload size in the OPT of self-generated answers, bytes
    /// (`setPayloadSizeOnSelfGeneratedAnswers`).
    pub self_answer_payload: u16,
    /// Add an OPT to self-generated answers when the query had one.
    pub self_answer_edns: bool,
    /// Remove the records of a response with TC=1, except its OPT (`truncateTC`).
    pub truncate_tc: bool,
    /// Restore the letter case of the query in the question of a response (`fixupCase`).
    pub fixup_case: bool,
    /// A message on which a Lua function fails becomes SERVFAIL (`setLuaErrorAction`).
    pub lua_errors_fail: bool,
    /// Replace the client subnet of a query (`setECSOverride`).
    pub ecs_override: bool,
    /// How long expired entries of packet caches are kept for the case that no server can answer,
    /// seconds; 0: not at all (`setStaleCacheEntriesTTL`).
    pub stale_cache_seconds: u32,
    /// How often and how far packet caches are cleaned of expired entries.
    pub cache_cleaning: CacheCleaning,
    /// Prefix length of the client subnet for IPv4 (`setECSSourcePrefixV4`).
    pub ecs_v4: u8,
    /// The same for IPv6 (`setECSSourcePrefixV6`).
    pub ecs_v6: u8,
    /// Limits of client connections.
    pub client_connections: ClientConnectionLimits,
    /// Limits of clients' PROXY headers.
    pub proxy: ProxyLimits,
}

impl Default for Globals {
    /// dnsdist's defaults.
    fn default() -> Self {
        Self {
            servfail_when_no_server: false,
            round_robin_fail_on_no_server: false,
            allow_empty_response: false,
            drop_empty_queries: false,
            repeats_max: u16::MAX,
            self_answer_payload: 1232,
            self_answer_edns: true,
            truncate_tc: false,
            fixup_case: false,
            lua_errors_fail: true,
            ecs_override: false,
            stale_cache_seconds: 0,
            cache_cleaning: CacheCleaning::default(),
            ecs_v4: 24,
            ecs_v6: 56,
            client_connections: ClientConnectionLimits::default(),
            proxy: ProxyLimits::default(),
        }
    }
}

/// Buffer sizes of a UDP socket, bytes; 0 keeps the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// `SO_RCVBUF`.
    pub receive_buffer: u32,
    /// `SO_SNDBUF`.
    pub send_buffer: u32,
}

/// A name server behind dnslob.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its stable slot.
    pub slot: BackendSlot,
    /// Identity across reloads and, for chashed, across machines: `id=` or the address.
    pub id: String,
    /// Display name; the address by default.
    pub name: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// Lower is preferred by the ordered policies.
    pub order: i32,
    /// Share for the weighted policies, 1 or more.
    pub weight: u32,
    /// Queries per second for firstAvailable, over all shards; 0 means no limit.
    pub qps: u32,
    /// How long to wait for a response.
    pub timeout: TickDelta,
    /// UDP sockets (source ports) per shard, 1 to 255; 0 for a relay's target.
    pub sockets: u8,
    /// Most outstanding queries per shard; one more is dropped and counted.
    pub outstanding_max: u32,
    /// Outstanding queries over all shards above which policies skip it; 0 means no limit
    /// (`maxOutstandingQueries`).
    pub outstanding_soft_max: u32,
    /// Local address to send from.
    pub source: Option<IpAddr>,
    /// Local interface to send through.
    pub source_interface: Option<String>,
    /// DSCP of queries, 0 to 63.
    pub dscp: u8,
    /// Socket options.
    pub socket_options: SocketOptions,
    /// How its health is determined.
    pub health: Health,
    /// Its queries carry the client's subnet (`useClientSubnet`).
    pub use_client_subnet: bool,
    /// It is in no pool: it gets copies of queries (`TeeAction`), and its responses are ignored.
    pub tee: bool,
    /// It is a relay's target: it gets no query, and has no UDP sockets (`sockets` is 0).
    pub target: bool,
    /// The options of its connections.
    pub connections: BackendConnectionOptions,
    /// How it learns the client's address.
    pub client_address: ClientAddress,
}

/// Options of the connections to a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendConnectionOptions {
    /// Queries that arrived as datagrams are sent over them too (`tcpOnly`; always with `tls`).
    pub only: bool,
    /// They are while somebody seems to guess answers (`tcpWhileSpoofed`).
    pub while_spoofed: bool,
    /// Closes a connection that is not established in this time (`tcpConnectTimeout`).
    pub connect_timeout: TickDelta,
    /// Closes one that does not accept data for this time (`tcpSendTimeout`).
    pub send_timeout: TickDelta,
    /// Closes one that owes a response for this time (`tcpRecvTimeout`).
    pub receive_timeout: TickDelta,
    /// Queries in flight on one connection, 1 or more (`maxInFlight`).
    pub in_flight: u16,
    /// Attempts of a query when connections fail, the first included, 1 to 5 (`retries`).
    pub tries: u8,
    /// Connect with TCP Fast Open (`tcpFastOpen`).
    pub fast_open: bool,
    /// Concurrent connections of a shard; queries above it do not wait but are dropped
    /// (`maxConcurrentTCPConnections`); 0 means no limit but [`BACKEND_CONNECTIONS_MAX`].
    pub connections: u32,
    /// Idle connections that are kept open (`setMaxCachedTCPConnectionsPerDownstream`).
    pub kept: u32,
    /// How long they are kept open (`setTCPDownstreamMaxIdleTime`).
    pub idle: TickDelta,
    /// Their TLS (`tls`), which implies `only`.
    pub tls: Option<BackendTls>,
}

/// A server's TLS, with its files as they were when the configuration was read. Two are equal when
/// their configuration is.
#[derive(Clone, Debug)]
pub struct BackendTls {
    /// The configuration that it was made from.
    pub spec: ClientSpec,
    /// The TLS client of each connection.
    pub tls: Arc<ClientTls>,
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

impl BackendConnectionOptions {
    /// Returns the generation of the trusted certificates that connections are opened with: see
    /// [`ClientTls::era`]. 0 without TLS.
    #[must_use]
    pub fn era(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.tls.era())
    }
}

/// Connections of a shard to a backend, at most.
pub const BACKEND_CONNECTIONS_MAX: u32 = 4096;

impl Default for BackendConnectionOptions {
    /// dnsdist's defaults, except `in_flight` (1 there).
    fn default() -> Self {
        Self {
            only: false,
            while_spoofed: false,
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

/// How a backend learns the client's address, apart from EDNS client subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// Not at all.
    #[default]
    Hidden,
    /// By a PROXY header: in front of each datagram, and at the start of each connection, which
    /// then serves one client only (`useProxyProtocol`).
    Proxy {
        /// Version 1, a line of text, which only connections can carry; otherwise version 2.
        v1: bool,
        /// Add a TLV that says that the client used TLS (`proxyProtocolAdvertiseTLS`).
        advertise_tls: bool,
    },
    /// By the source address of its queries, which is the client's own (`transparent`).
    Transparent,
}

/// How long a response is waited for, unless the configuration says otherwise.
pub const TIMEOUT: TickDelta = TickDelta::from_ms(2_000);
/// UDP sockets of a backend per shard, unless the configuration says otherwise.
pub const SOCKETS: u8 = 4;
/// Outstanding queries of a backend per shard, unless the configuration says otherwise.
pub const OUTSTANDING_MAX: u32 = 65_535;

impl Backend {
    /// Returns the backend of a slot with every option at its default; its address is its id and
    /// name.
    #[must_use]
    pub fn new(slot: BackendSlot, address: SocketAddr) -> Self {
        Self {
            slot,
            id: address.to_string(),
            name: address.to_string(),
            address,
            order: 1,
            weight: 1,
            qps: 0,
            timeout: TIMEOUT,
            sockets: SOCKETS,
            outstanding_max: OUTSTANDING_MAX,
            outstanding_soft_max: 0,
            source: None,
            source_interface: None,
            dscp: 0,
            socket_options: SocketOptions::default(),
            health: Health::default(),
            use_client_subnet: false,
            tee: false,
            target: false,
            connections: BackendConnectionOptions::default(),
            client_address: ClientAddress::default(),
        }
    }

    /// Returns whether `self` and `other` can share their sockets and outstanding queries.
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

/// The operator's setting of a backend's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthMode {
    /// Probe it continuously.
    Auto,
    /// Forced up, without probes.
    Up,
    /// Forced down, without probes.
    Down,
    /// No new queries; outstanding ones finish.
    Drain,
    /// Probe it only when live queries fail.
    Lazy,
}

/// The kind of a probe.
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
    /// A connection or a datagram that sends data and expects a response.
    SendExpect(SendExpect),
    /// A program: exit code 0 means healthy. Address and port are its last arguments.
    Script(Vec<String>),
}

/// A request and the expected response (`checkSend`, `checkExpect`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendExpect {
    /// Over UDP.
    pub datagram: bool,
    /// Data to send; may be empty over TCP, where many servers send first.
    pub send: Vec<u8>,
    /// What the response must contain, anywhere in its first 4096 bytes; empty for any response.
    pub expect: Vec<u8>,
}

/// How a backend's health is determined. Spans are measured on the control thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Probed, forced or lazy.
    pub mode: HealthMode,
    /// Kind of the probe.
    pub probe: Probe,
    /// Requested name, presentation format.
    pub qname: String,
    /// Requested type.
    pub qtype: u16,
    /// Requested class.
    pub qclass: u16,
    /// Set CD in the probe.
    pub set_cd: bool,
    /// NXDOMAIN and REFUSED are failures too.
    pub must_resolve: bool,
    /// A program's exit code is relayd's: 0 fails, others succeed (`checkScriptExit`).
    pub relayd_exit: bool,
    /// Interval of probes.
    pub interval: TickDelta,
    /// Timeout of a probe.
    pub timeout: TickDelta,
    /// Successes in a row that bring it up, 1 or more.
    pub rise: u32,
    /// Failures in a row that take it down, 1 or more (`maxCheckFailures`).
    pub fall: u32,
    /// A Lua function that chooses the probe's query (`checkFunction`); an index into the
    /// configuration's functions.
    pub choose: Option<LuaFunction>,
    /// A Lua function that judges the response.
    pub judge: Option<LuaFunction>,
    /// After its return its share grows from small to full over this span; 0 switches it off.
    pub slow_start: TickDelta,
    /// Settings of lazy checks.
    pub lazy: Lazy,
}

impl Default for Health {
    /// dnsdist's defaults, with a slow start of ten seconds.
    fn default() -> Self {
        Self {
            mode: HealthMode::Auto,
            probe: Probe::Udp,
            qname: "a.root-servers.net.".to_owned(),
            qtype: 1,
            qclass: 1,
            set_cd: false,
            must_resolve: false,
            relayd_exit: false,
            interval: TickDelta::from_ms(1_000),
            timeout: TickDelta::from_ms(1_000),
            rise: 1,
            fall: 1,
            choose: None,
            judge: None,
            slow_start: TickDelta::from_ms(10_000),
            lazy: Lazy::default(),
        }
    }
}

/// Index of a Lua function of the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuaFunction(pub u32);

/// Functions of the control thread that are told of something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// Of the end of the process.
    pub exit: Vec<LuaFunction>,
    /// Of servers that come up or go down.
    pub server_state: Vec<LuaFunction>,
    /// Of new keys of session tickets.
    pub tickets_key: Option<LuaFunction>,
}

/// When lazy health checks begin to probe (dnsdist's `lazyHealthCheck*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lazy {
    /// Percentage of failed live queries in the sample from which probes start.
    pub threshold_percent: u8,
    /// Size of the sample: the last live queries.
    pub sample: u16,
    /// No decision with fewer queries than this.
    pub sample_min: u16,
    /// Interval of probes of a failed server.
    pub failed_interval: TickDelta,
    /// Doubles that interval at each failure, up to this.
    pub backoff_max: Option<TickDelta>,
    /// SERVFAIL counts as a failure, not only timeouts.
    pub servfail_counts: bool,
}

impl Default for Lazy {
    /// dnsdist's defaults.
    fn default() -> Self {
        Self {
            threshold_percent: 20,
            sample: 100,
            sample_min: 1,
            failed_interval: TickDelta::from_ms(30_000),
            backoff_max: None,
            servfail_counts: true,
        }
    }
}
