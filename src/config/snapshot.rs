//! What the shards obey: the immutable result of a configuration.
//!
//! Made by [`compile`](crate::config::compile()), published whole by `control::feed`, read by both planes.
//! Everything is an index or a value; no name is looked up on the packet path. What changes while
//! a configuration stands (health, shares, counts) lives in the [`Board`](crate::live::Board).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::addr::{BackendSlot, ListenerSlot, PoolSlot, RuleSlot};
use crate::config::prefix::PrefixSet;
use crate::shard::policy::{Kind, Policy, Ring};
use crate::shard::rules::Chains;
use crate::shard::rules::limits::StateSpec;
use crate::shard::script::Source;
use crate::time::TickDelta;
use crate::tls::{ClientTls, ServerTls};

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
    /// Takes over what the configuration that stands has gathered: what rates have counted, where
    /// this one has the same rules, and the keys and sessions of TLS. To be called before it is
    /// published.
    pub fn inherit(&mut self, before: &Self) {
        StateSpec::inherit(&mut self.limits, &before.limits);
        for listener in &mut self.listeners {
            let old = before.listeners.iter().find(|l| l.slot == listener.slot);
            if let (Service::Tls(tls), Some(Service::Tls(old))) = (&listener.service, old.map(|l| &l.service))
            {
                let service = Service::Tls(Arc::new(tls.succeeding(old)));
                *listener = Arc::new(Listener { service, ..Listener::clone(listener) });
            }
        }
        for backend in self.backends.iter_mut().flatten() {
            let old = before.backend(backend.slot).and_then(|b| b.lines.tls.as_ref());
            if let (Some(tls), Some(old)) = (&backend.lines.tls, old)
                && tls.trusts_as(old)
            {
                let lines = LineOptions { tls: Some(Arc::clone(old)), ..backend.lines.clone() };
                *backend = Arc::new(Backend { lines, ..Backend::clone(backend) });
            }
        }
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
    /// UDP payload size in the OPT of answers of our own, octets
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
    pub streams: StreamLimits,
    /// PROXY headers of clients.
    pub proxy: ProxyLimits,
}

/// Which PROXY headers are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Who must send one, on listeners that look for it (`setProxyProtocolACL`): without it, what
    /// they send is dropped. Nobody else may.
    pub peers: PrefixSet,
    /// The ACL is asked for the client that the header names, not for the peer that sent it
    /// (`setProxyProtocolApplyACLToProxiedClients`).
    pub acl_to_client: bool,
    /// The longest header, all of it, octets (`setProxyProtocolMaximumPayloadSize`).
    pub octets_max: u16,
}

impl Default for ProxyLimits {
    /// dnsdist's.
    fn default() -> Self {
        Self { peers: PrefixSet::default(), acl_to_client: false, octets_max: 512 }
    }
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
            streams: StreamLimits::default(),
            proxy: ProxyLimits::default(),
        }
    }
}

/// One listen address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its stable slot.
    pub slot: ListenerSlot,
    /// The address and port.
    pub address: SocketAddr,
    /// Bind to this network interface (`interface`).
    pub interface: Option<String>,
    /// Socket options.
    pub sockets: SocketOptions,
    /// DSCP of answers, 0 to 63.
    pub dscp: u8,
    /// What is served here.
    pub service: Service,
    /// How connections are taken.
    pub streams: StreamOptions,
    /// Where a PROXY header stands in what comes from [`ProxyLimits::peers`].
    pub proxy: ProxyHeader,
}

impl Listener {
    /// Whether `self` and `other` can share their sockets: what differs besides is read from the
    /// snapshot, for each query or connection.
    #[must_use]
    pub fn same_sockets(&self, other: &Self) -> bool {
        self.address == other.address
            && self.interface == other.interface
            && self.sockets == other.sockets
            && self.dscp == other.dscp
            && std::mem::discriminant(&self.service) == std::mem::discriminant(&other.service)
            && self.streams.backlog == other.streams.backlog
            && self.streams.fast_open == other.streams.fast_open
            && self.streams.fast_open_key == other.streams.fast_open_key
    }
}

/// What a listener is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// Plain DNS over UDP and TCP.
    #[default]
    Dns,
    /// Plain DNS over UDP alone (`doTCP=false`).
    DnsUdp,
    /// Any protocol over TCP: octets both ways, unread (`addTCPForward`).
    TcpForward(Arc<Forward>),
    /// Any protocol over UDP: a flow for each client's address and port (`addUDPForward`).
    UdpForward(Arc<Forward>),
    /// DNS over TLS (`addTLSLocal`).
    Tls(Arc<ServerTls>),
}

impl Service {
    /// Whether it takes datagrams.
    #[must_use]
    pub const fn takes_datagrams(&self) -> bool {
        matches!(self, Self::Dns | Self::DnsUdp | Self::UdpForward(_))
    }

    /// Whether it takes connections.
    #[must_use]
    pub const fn takes_streams(&self) -> bool {
        matches!(self, Self::Dns | Self::TcpForward(_) | Self::Tls(_))
    }

    /// The forward, where it is one.
    #[must_use]
    pub const fn forward(&self) -> Option<&Arc<Forward>> {
        match self {
            Self::TcpForward(forward) | Self::UdpForward(forward) => Some(forward),
            Self::Dns | Self::DnsUdp | Self::Tls(_) => None,
        }
    }

    /// The certificates and the rest of TLS, where it is that.
    #[must_use]
    pub const fn tls(&self) -> Option<&Arc<ServerTls>> {
        match self {
            Self::Tls(tls) => Some(tls),
            Self::Dns | Self::DnsUdp | Self::TcpForward(_) | Self::UdpForward(_) => None,
        }
    }
}

/// What is passed on unread: to which targets, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Its targets, a pool of its own. Their order is that of `to`; that pool's policy chooses
    /// among them, by the client alone; with every target down all are tried. What a target wants
    /// to know of the client is its [`Backend::client_address`].
    pub pool: PoolSlot,
    /// Who may connect or send: `acl`, or the process's.
    pub acl: PrefixSet,
    /// A target that has not accepted in this time is given up, and the next one tried; TCP only.
    pub connect_timeout: TickDelta,
    /// Ends a connection, or a flow, over which nothing went either way for so long; zero is no
    /// limit.
    pub idle_timeout: TickDelta,
    /// Connections, or flows, in each shard at a time; 0 is no limit. Flows always have one.
    pub connections: u32,
    /// Of these, a client's; 0 is no limit.
    pub connections_per_client: u32,
    /// A line in the log at the end of each.
    pub log: bool,
}

/// Where a PROXY header stands, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Nowhere: what looks like one is garbage (`enableProxyProtocol=false`).
    Ignored,
    /// In front of a datagram, or of what a connection carries: within TLS, if there is TLS.
    #[default]
    Inside,
    /// In front of TLS (`proxyProtocolOutsideTLS=true`).
    Outside,
}

/// How a listener takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Connections that wait to be accepted, in each shard (`tcpListenQueueSize`).
    pub backlog: u32,
    /// Of those, with TCP Fast Open; 0 switches it off (`tcpFastOpenQueueSize`).
    pub fast_open: u32,
    /// The key of its cookies, the same on machines that share an address (`setTCPFastOpenKey`);
    /// the kernel's without one.
    pub fast_open_key: Option<[u8; 16]>,
    /// Queries of one connection that are answered at a time, 1 or more (`maxInFlight`).
    pub in_flight: u16,
    /// Connections at a time, in all shards together; 0 is no limit
    /// (`maxConcurrentTCPConnections`).
    pub connections: u32,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { backlog: 4096, fast_open: 0, fast_open_key: None, in_flight: 100, connections: 0 }
    }
}

/// What clients' connections may do. A limit of 0 is no limit, where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// A connection without a query for so long is closed, and one that has begun a query or a
    /// handshake and does not finish it (`setTCPRecvTimeout`).
    pub receive_timeout: TickDelta,
    /// A connection that does not take its answers for so long is closed (`setTCPSendTimeout`).
    pub send_timeout: TickDelta,
    /// A connection's life (`setMaxTCPConnectionDuration`); zero is no limit.
    pub duration: TickDelta,
    /// Queries of a connection (`setMaxTCPQueriesPerConnection`).
    pub queries: u32,
    /// Connections at a time, in a shard: those beyond are closed at once.
    pub connections: u32,
    /// Connections of a client at a time, in a shard (`setMaxTCPConnectionsPerClient`).
    pub connections_per_client: u32,
    /// New connections of a client in a second, over five minutes
    /// (`setMaxTCPConnectionRatePerClient`).
    pub rate_per_client: u32,
    /// New TLS sessions of a client in a second (`setMaxTLSNewSessionRatePerClient`).
    pub sessions_per_client: u32,
    /// Resumed TLS sessions of a client in a second (`setMaxTLSResumedSessionRatePerClient`).
    pub resumptions_per_client: u32,
    /// How long a client is turned away that exceeded one of these rates
    /// (`setBanDurationForExceedingTCPTLSRate`).
    pub rate_ban: TickDelta,
    /// Reads for one query (`setMaxTCPReadIOsPerQuery`): more are a client that sends by single
    /// octets.
    pub reads_per_query: u32,
    /// How long such a client is turned away (`setBanDurationForExceedingMaxReadIOsPerQuery`).
    pub reads_ban: TickDelta,
    /// From so many percent of `connections` on, connections are closed after each answer and
    /// wait a tenth of the time only (`setTCPConnectionsOverloadThreshold`); 0 switches it off.
    pub overload_percent: u8,
    /// Prefix length by which IPv4 clients are told apart (`setTCPConnectionsMaskV4`).
    pub mask_v4: u8,
    /// The same for IPv6 (`setTCPConnectionsMaskV6`).
    pub mask_v6: u8,
    /// The first so many bits of an IPv4 client's port tell it apart, too, 0 to 16
    /// (`setTCPConnectionsMaskV4Port`): clients behind one address that have a range of ports each.
    pub mask_v4_port: u8,
}

impl Default for StreamLimits {
    /// dnsdist's, apart from `receive_timeout` (2 s there), `duration`, `connections` and
    /// `connections_per_client`, which have no bound there.
    fn default() -> Self {
        Self {
            receive_timeout: TickDelta::from_ms(10_000),
            send_timeout: TickDelta::from_ms(10_000),
            duration: TickDelta(0),
            queries: 0,
            connections: 100_000,
            connections_per_client: 0,
            rate_per_client: 0,
            sessions_per_client: 0,
            resumptions_per_client: 0,
            rate_ban: TickDelta::from_ms(10_000),
            reads_per_query: 50,
            reads_ban: TickDelta::from_ms(60_000),
            overload_percent: 90,
            mask_v4: 32,
            mask_v6: 128,
            mask_v4_port: 0,
        }
    }
}

/// Buffer sizes of a UDP socket, octets; 0 leaves the kernel's default.
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
    pub lines: LineOptions,
    /// How it learns the client's address.
    pub client_address: ClientAddress,
}

/// A backend's connections: its *lines*.
#[derive(Clone, Debug, PartialEq)]
pub struct LineOptions {
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
    /// They are encrypted (`tls`); `only` is then set.
    pub tls: Option<Arc<ClientTls>>,
}

/// Lines of a backend in a shard, at most.
pub const LINES_MAX: u32 = 4096;

impl Default for LineOptions {
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
            && self.lines.tls == other.lines.tls
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
    /// What the answer must hold, anywhere in its first 4096 octets; empty for any answer.
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
