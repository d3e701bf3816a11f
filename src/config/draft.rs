//! The configuration as written: what flags and Lua file contain, each value with its origin.
//!
//! Both front ends fill the same [`Draft`]. What each can check alone (types, ranges, names) is
//! checked there and recorded in [`Draft::errors`]; [`compile`](crate::config::compile()) finds
//! what takes the whole.

mod change;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::base::prefix::{DEFAULT_ACL, Prefix, PrefixSet};
use crate::base::time::TickDelta;
use crate::cache::CacheOptions;
use crate::config::error::{ConfigError, Errors, Fault, Origin, Sited};
use crate::config::functions::needs::Need;
use crate::config::functions::policies::kind as policy_kind;
use crate::config::lists::{PoolNames, ServerIndex};
use crate::config::options::{Key, Settings};
use crate::config::ruleset::{DraftState, Recorded, Ruleset};
use crate::config::web::WebSettings;
use crate::model::Source;
use crate::model::console::{Console, ConsoleKey};
use crate::model::policy::{Kind, Policy};
use crate::model::{
    Backend, BackendConnectionOptions, Callbacks, ClientAddress, ConnectionOptions, Eject, Health,
    HealthMode, Listener, ListenerTls, LuaFunction, ProxyHeader, Retry, Service, Snapshot,
};
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::script::FunctionId;
use crate::stats::custom_metrics::Declared;

/// Networks of a list, and exceptions (`false`).
pub type Listed = Vec<(Prefix, bool)>;

/// The configuration as written.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The settings that were given.
    pub settings: Settings,
    /// The listen addresses, as written.
    pub listeners: Vec<DraftListener>,
    /// Listeners whose TLS cannot be loaded and that may be omitted for that reason
    /// (`ignoreTLSConfigurationErrors`); they have no service yet.
    pub left_out: Vec<DraftListener>,
    /// The relays, as written.
    pub relays: Vec<DraftRelay>,
    /// The servers in the order of their `newServer`, removed ones included.
    pub servers: Vec<DraftServer>,
    /// Pools with settings of their own, besides their servers; created by [`Draft::pool`].
    pub pools: Vec<DraftPool>,
    /// The packet caches, in order of creation.
    pub caches: Vec<Sited<CacheOptions>>,
    /// The policy of every pool without one of its own.
    pub policy: Option<Sited<Policy>>,
    /// The networks that may query, and exceptions (`false`), besides the default ACL.
    pub acl: Listed,
    /// The default ACL applies too: neither the file nor the command line has replaced it.
    pub acl_default: bool,
    /// The web server.
    pub web: WebSettings,
    /// Where its address was written.
    pub web_origin: Option<Origin>,
    /// The networks that send PROXY headers, and exceptions.
    pub proxy_peers: Listed,
    /// The console.
    pub console: DraftConsole,
    /// Judges the health check answers of every server without its own function.
    pub judge: Option<LuaFunction>,
    /// Functions that are told of something.
    pub callbacks: Callbacks,
    /// Whether queries are counted by name, and by which function.
    pub query_count: (bool, Option<FunctionId>),
    /// The rules.
    pub rules: Ruleset,
    /// The functions given to rules and policies; a `FunctionId` is an index into it.
    pub functions: Vec<Recorded>,
    /// The sets of `newSuffixMatchNode` and `newDNSNameSet`, in order of creation.
    pub name_sets: Vec<Names>,
    /// The sets of `newNMG`, in order of creation.
    pub networks: Vec<Networks>,
    /// The state of limiting rules; the `state` of a limit is an index into it.
    pub states: Vec<DraftState>,
    /// The file is empty, or has white space only.
    pub is_blank: bool,
    /// The metrics that it declares.
    pub metrics: Declared,
    /// There is a global function `maintenance`.
    pub maintenance: bool,
    /// The file, for the shards' own Lua states; `None` when no function needs it.
    pub script: Option<Arc<dyn Source>>,
    /// Errors found while the draft was written.
    pub errors: Errors,
    /// Suspicious settings that work as written.
    pub warnings: Errors,
    /// The index of each pool in `pools`.
    pool_places: HashMap<String, usize>,
    /// Finds the servers that were added by [`Draft::add_server`].
    server_index: ServerIndex,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            listeners: Vec::new(),
            left_out: Vec::new(),
            relays: Vec::new(),
            servers: Vec::new(),
            pools: Vec::new(),
            caches: Vec::new(),
            policy: None,
            acl: Vec::new(),
            acl_default: true,
            web: WebSettings::default(),
            web_origin: None,
            proxy_peers: Vec::new(),
            console: DraftConsole::default(),
            judge: None,
            callbacks: Callbacks::default(),
            query_count: (false, None),
            rules: Ruleset::default(),
            functions: Vec::new(),
            name_sets: Vec::new(),
            networks: Vec::new(),
            states: Vec::new(),
            is_blank: false,
            metrics: Declared::default(),
            maintenance: false,
            script: None,
            errors: Errors::default(),
            warnings: Errors::default(),
            pool_places: HashMap::new(),
            server_index: ServerIndex::default(),
        }
    }
}

impl Draft {
    /// Returns the pool called `name`, created if needed.
    pub fn pool(&mut self, name: &str) -> &mut DraftPool {
        let at = self.pool_places.get(name).copied().unwrap_or_else(|| {
            self.pools.push(DraftPool { name: name.to_owned(), ..DraftPool::default() });
            self.pool_places.insert(name.to_owned(), self.pools.len() - 1);
            self.pools.len() - 1
        });
        &mut self.pools[at]
    }

    /// Forgets a pool that no server and no rule is for; returns whether it is gone. The default pool
    /// never is.
    pub fn remove_pool(&mut self, name: &str) -> bool {
        let has_server = self.servers.iter().any(|s| !s.removed && s.pools.iter().any(|pool| pool == name));
        if name.is_empty() || has_server || self.rules.iter().any(|(_, rule)| rule.names_pool(name)) {
            return false;
        }
        self.pools.retain(|pool| pool.name != name);
        let places = self.pools.iter().enumerate();
        self.pool_places = places.map(|(at, pool)| (pool.name.clone(), at)).collect();
        true
    }

    /// Returns the policy of pools without their own: the flag's, the file's, or dnsdist's default.
    #[must_use]
    pub fn default_policy(&self) -> Policy {
        let flag = self.settings.text(Key::Policy).and_then(|name| policy_kind(&name)).map(Policy::new);
        let file = || self.policy.as_ref().map(|p| p.value.clone());
        flag.or_else(file).unwrap_or_else(|| Policy::new(Kind::LeastOutstanding))
    }

    /// Adds a server, and returns its index in `servers`.
    pub fn add_server(&mut self, server: DraftServer) -> usize {
        let at = self.servers.len();
        if !server.removed {
            let is_last = self.servers.last().is_none_or(|last| last.order <= server.order);
            self.server_index.add(at, is_last, &server.identity(), server.name.as_deref());
        }
        self.servers.push(server);
        at
    }

    /// Returns the index of the first server with this id, or with this address if it has no id; or
    /// else with this name.
    pub fn server_called(&mut self, text: &str) -> Option<usize> {
        self.server_index.called(text, |at| self.servers[at].removed)
    }

    /// Returns the indexes of the servers as `showServers()` numbers them, from 0: by their order, and
    /// of the same order as they were written.
    pub fn servers_in_order(&mut self) -> &[usize] {
        let servers = &self.servers;
        self.server_index.in_order(|at| servers.get(at).filter(|s| !s.removed).map(|s| s.order))
    }

    /// Changes the order of a server.
    pub fn set_order(&mut self, at: usize, order: i32) {
        if let Some(server) = self.servers.get_mut(at) {
            server.order = order;
        }
        self.server_index.have_changed();
    }

    /// Removes the server with this index in `servers`.
    pub fn remove_server(&mut self, at: usize) {
        self.servers[at].removed = true;
        self.server_index.have_changed();
    }

    /// Replaces the ACL, the default one too.
    pub fn set_acl(&mut self, acl: Listed) {
        self.acl = acl;
        self.acl_default = false;
    }

    /// Returns the networks that may query.
    #[must_use]
    pub fn allowed(&self) -> PrefixSet {
        self.acl_listed().into_iter().collect()
    }

    /// Returns them as they are listed, the default ones too, with exceptions.
    #[must_use]
    pub fn acl_listed(&self) -> Listed {
        let default = DEFAULT_ACL.iter().filter(|_| self.acl_default).filter_map(|n| n.parse().ok());
        default.map(|net| (net, true)).chain(self.acl.iter().copied()).collect()
    }

    /// Makes listeners of the same address one, with a warning, where each may share it: dnsdist
    /// serves an address by several threads that way.
    pub fn join_shared_listeners(&mut self) {
        let mut first: HashMap<(SocketAddr, Option<String>, bool), usize> = HashMap::new();
        let mut kept: Vec<DraftListener> = Vec::with_capacity(self.listeners.len());
        for listener in std::mem::take(&mut self.listeners) {
            let is_tls = listener.service.tls().is_some();
            let place = (listener.address, listener.interface.clone(), is_tls);
            let at = *first.entry(place).or_insert(kept.len());
            let Some(one) = kept.get_mut(at).filter(|one| one.is_shared_by(&listener)) else {
                kept.push(listener);
                continue;
            };
            if one.service == Service::DnsUdp {
                // Of several threads there one may take connections, too.
                *one = DraftListener { origin: one.origin.clone(), ..listener.clone() };
            }
            let text = format!(
                "the listener {} is the one at {}: every shard has sockets for it, see --shards",
                listener.address, kept[at].origin
            );
            let function = if is_tls { "addTLSLocal" } else { "addLocal" };
            self.warnings.push(ConfigError::new(&listener.origin, function, Fault::Note(text)));
        }
        self.listeners = kept;
    }

    /// Returns whether warnings are errors.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.settings.switch(Key::Strict)
    }

    /// Makes the warnings errors where the configuration asks for it.
    pub fn apply_strictness(&mut self) {
        if self.is_strict() {
            self.errors.append(std::mem::take(&mut self.warnings));
        }
    }

    /// Restores omitted listeners with the TLS of the running configuration; returns their
    /// addresses.
    pub fn keep_tls(&mut self, running: &Snapshot) -> Vec<SocketAddr> {
        let mut kept = Vec::new();
        self.left_out.retain(|left| {
            let same = |l: &Listener| l.address == left.address && l.interface == left.interface;
            let mut old = running.listeners.iter().filter(|l| same(l));
            let Some(tls) = old.find_map(|l| l.service.tls()) else { return true };
            let service = Service::Dot(ListenerTls(Arc::clone(tls)));
            self.listeners.push(DraftListener { service, ..left.clone() });
            kept.push(left.address);
            false
        });
        kept
    }
}

/// The console as written.
#[derive(Clone, Debug, Default)]
pub struct DraftConsole {
    /// Where it listens; `None` without a console.
    pub address: Option<SocketAddr>,
    /// Where that was written.
    pub origin: Option<Origin>,
    /// Its key.
    pub key: Option<ConsoleKey>,
    /// Who may connect, and exceptions (`false`); `None` for the machine itself.
    pub acl: Option<Listed>,
}

/// Who may use the console unless the configuration says otherwise.
pub const CONSOLE_ACL: [&str; 2] = ["127.0.0.1/32", "::1/128"];

impl DraftConsole {
    /// Returns the networks that may connect, and exceptions.
    #[must_use]
    pub fn allowed(&self) -> Listed {
        let local = || CONSOLE_ACL.iter().filter_map(|n| n.parse().ok()).map(|net| (net, true)).collect();
        self.acl.clone().unwrap_or_else(local)
    }

    /// Returns the console that this asks for, with the limits of the settings.
    #[must_use]
    pub fn compile(&self, settings: &Settings) -> Option<Console> {
        let number = |key| settings.number(key).unwrap_or_default() as usize;
        Some(Console {
            address: self.address?,
            key: self.key.clone(),
            acl: self.allowed().into_iter().collect(),
            log_connections: settings.switch(Key::ConsoleLog),
            output_max: number(Key::ConsoleOutput),
            connections_max: number(Key::ConsoleConnections),
            bind_fatal: settings.switch(Key::ConsoleBindFatal),
        })
    }
}

/// A listen address as written.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftListener {
    /// Where it was written.
    pub origin: Origin,
    /// The address and port.
    pub address: SocketAddr,
    /// The network interface to bind to.
    pub interface: Option<String>,
    /// Another process may have the address too.
    pub reuse_port: bool,
    /// The machine need not have the address yet (`freebind`).
    pub freebind: bool,
    /// DSCP of answers.
    pub dscp: u8,
    /// The service.
    pub service: Service,
    /// The options of its connections.
    pub connection_options: ConnectionOptions,
    /// Where a PROXY header is expected.
    pub proxy: ProxyHeader,
}

impl DraftListener {
    /// Returns whether another one of its address is the same, which both may share. What only one of
    /// them has are connections.
    fn is_shared_by(&self, other: &Self) -> bool {
        let mut same = Self { origin: self.origin.clone(), ..other.clone() };
        if self.service == Service::DnsUdp || other.service == Service::DnsUdp {
            let is_plain = |one: &Self| matches!(one.service, Service::Dns | Service::DnsUdp);
            if !is_plain(self) || !is_plain(other) {
                return false;
            }
            (same.service, same.connection_options) = (self.service.clone(), self.connection_options);
        }
        self.reuse_port && same == *self
    }
}

/// Tells a server from one that later has its index: the command that made it may have been
/// refused.
#[derive(Clone, Debug, Default)]
pub struct Handle(Arc<()>);

impl Handle {
    /// Returns whether this is of the same server.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl PartialEq for Handle {
    /// It is no part of what a server says.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A server as written; `None` means the global setting.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftServer {
    /// Where it was written.
    pub origin: Origin,
    /// What its Lua objects know it by.
    pub handle: Handle,
    /// Removed by `rmServer`, or invalid and kept as a placeholder.
    pub removed: bool,
    /// Its address and port.
    pub address: SocketAddr,
    /// `id`.
    pub id: Option<String>,
    /// `name`.
    pub name: Option<String>,
    /// Its pools; the default pool's name is empty.
    pub pools: PoolNames,
    /// `order`.
    pub order: i32,
    /// `weight`.
    pub weight: u32,
    /// `qps`; 0 is no limit.
    pub qps: u32,
    /// `udpTimeout`, `udpTimeoutMs`.
    pub timeout: Option<TickDelta>,
    /// `sockets`.
    pub sockets: Option<u8>,
    /// `maxOutstanding`.
    pub outstanding_max: Option<u32>,
    /// `maxOutstandingQueries`; 0 is no limit.
    pub outstanding_soft_max: u32,
    /// `source`.
    pub source: Option<IpAddr>,
    /// `source`, `interface`.
    pub source_interface: Option<String>,
    /// `dscp`.
    pub dscp: u8,
    /// The health check.
    pub health: Health,
    /// `useClientSubnet`.
    pub use_client_subnet: bool,
    /// `disableZeroScope`.
    pub disable_zero_scope: bool,
    /// Its connections.
    pub connections: BackendConnectionOptions,
    /// How it learns the client's address.
    pub client_address: ClientAddress,
    /// Options that have an effect only by some `healthCheckMode`, which methods change.
    pub by_mode: Vec<(String, &'static Need)>,
}

impl DraftServer {
    /// Creates a server from its address alone.
    #[must_use]
    pub fn new(origin: Origin, address: SocketAddr) -> Self {
        let default = Backend::new(BackendSlot(0), address);
        Self {
            origin,
            handle: Handle::default(),
            removed: false,
            address,
            id: None,
            name: None,
            pools: std::iter::once(String::new()).collect(),
            order: default.order,
            weight: default.weight,
            qps: default.qps,
            timeout: None,
            sockets: None,
            outstanding_max: None,
            outstanding_soft_max: default.outstanding_soft_max,
            source: default.source,
            source_interface: default.source_interface,
            dscp: default.dscp,
            health: default.health,
            use_client_subnet: default.use_client_subnet,
            disable_zero_scope: false,
            connections: default.connections,
            client_address: default.client_address,
            by_mode: Vec::new(),
        }
    }

    /// Returns its `healthCheckMode`.
    #[must_use]
    pub const fn mode_name(&self) -> &'static str {
        self.health.mode.name()
    }

    /// Returns what identifies it: its `id`, or its address.
    #[must_use]
    pub fn identity(&self) -> String {
        self.id.clone().unwrap_or_else(|| self.address.to_string())
    }

    /// Returns what messages call it: its `name`, or its address.
    #[must_use]
    pub fn display_name(&self) -> String {
        self.name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| self.address.to_string())
    }
}

impl HealthMode {
    /// Returns its name, as `healthCheckMode` says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Up => "up",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Lazy => "lazy",
        }
    }
}

/// The settings of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DraftPool {
    /// Its name; empty for the default pool.
    pub name: String,
    /// Where `getPool` names it.
    pub origin: Option<Origin>,
    /// Its policy.
    pub policy: Option<Sited<Policy>>,
    /// Its retries.
    pub retry: Option<Retry>,
    /// Its panic threshold, parts per million.
    pub panic_ppm: u32,
    /// Its ejection of outliers.
    pub eject: Option<Eject>,
    /// `tcpToUdp`.
    pub tcp_to_udp: bool,
    /// Its packet cache, by its place in [`Draft::caches`].
    pub cache: Option<usize>,
    /// `setDisableZeroScope`.
    pub disable_zero_scope: bool,
}

/// A relay as written.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftRelay {
    /// Where it was written.
    pub origin: Origin,
    /// TCP, or else UDP.
    pub tcp: bool,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The network interface to bind to.
    pub interface: Option<String>,
    /// Another process may have the address too.
    pub reuse_port: bool,
    /// The machine need not have the address yet (`freebind`).
    pub freebind: bool,
    /// Its targets, each once.
    pub to: Vec<SocketAddr>,
    /// How a target is chosen.
    pub policy: Policy,
    /// The networks that may use it; `None` for the process's ACL.
    pub acl: Option<Listed>,
    /// The options of its connections.
    pub connection_options: ConnectionOptions,
    /// `connectTimeout`.
    pub connect_timeout: TickDelta,
    /// `greetingTimeout`; zero when the targets need not speak first.
    pub greeting_timeout: TickDelta,
    /// `closeWhenDown`.
    pub close_when_down: bool,
    /// `idleTimeout`; zero is no limit.
    pub idle_timeout: TickDelta,
    /// `maxConnections`, `maxFlows`.
    pub connections: u32,
    /// `maxConnectionsPerClient`, `maxFlowsPerClient`.
    pub connections_per_client: u32,
    /// `log`.
    pub log: bool,
    /// `tcpFastOpen`.
    pub fast_open: bool,
    /// `source`.
    pub source: Option<IpAddr>,
    /// How its targets learn the client's address.
    pub client_address: ClientAddress,
    /// The health check of its targets.
    pub health: Health,
}

impl DraftRelay {
    /// Returns the Lua function that defines it.
    #[must_use]
    pub const fn function(&self) -> &'static str {
        if self.tcp { "addTCPForward" } else { "addUDPForward" }
    }

    /// Returns the name of its pool. Like listeners, relays are told apart by address, interface
    /// and protocol.
    #[must_use]
    pub fn name(&self) -> String {
        let interface = self.interface.iter().map(|name| format!("@{name}")).collect::<String>();
        format!("relay {}{interface}/{}", self.listen, if self.tcp { "tcp" } else { "udp" })
    }
}
