//! Compiles a draft into [`Boot`] for the start and [`Snapshot`] for the shards, or returns every
//! error.
//!
//! A pure function: no file, no socket, no clock.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::base::addr::{BackendSlot, ListenerSlot, PoolSlot};
use crate::base::prefix;
use crate::base::time::TickDelta;
use crate::config::draft::DraftRelay;
use crate::config::draft::{Draft, DraftListener, DraftServer};
use crate::config::error::{ConfigError, Errors, Fault, Origin};
use crate::config::log_style::LogStyle;
use crate::config::options::{Key, SETTINGS, Settings, Value};
use crate::config::slots::{Full, LISTENERS_MAX, Slots, too_many_pools};
use crate::config::value::DNS_PORT;
use crate::config::web::{MetricNames, WebSettings};
use crate::config::{caches, chains, globals, loops, relays, value};
use crate::model::Ring;
use crate::model::Steer;
use crate::model::console::Console;
use crate::model::policy::{Kind, Policy};
use crate::model::{
    Backend, BackendConnectionOptions, Callbacks, ConnectionOptions, Health, HealthMode, Listener, Pool,
    ProxyHeader, Service, Shown, Snapshot, SocketOptions,
};
use crate::rules::action::Tee;
use crate::stats::live::RULES_MAX;

/// A configuration ready to run.
#[derive(Debug)]
pub struct Compiled {
    /// The start-up settings.
    pub boot: Boot,
    /// The configuration of the shards.
    pub snapshot: Snapshot,
    /// The slots in use after this.
    pub slots: Slots,
}

/// The settings that the process starts with.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// The number of shards; `None` for one per usable CPU.
    pub shards: Option<u16>,
    /// CPUs to pin the shards to, in turn; empty for those that the process may use.
    pub cpus: Vec<u16>,
    /// How packets are steered to shards.
    pub steer: Steer,
    /// How long a shard polls before sleeping, microseconds.
    pub busy_poll_us: u32,
    /// Packets per system call.
    pub batch_packets: usize,
    /// The number of backend slots.
    pub backends_max: usize,
    /// Finished queries that are kept; 0 for none.
    pub traffic_ring: usize,
    /// User to run as.
    pub user: Option<String>,
    /// Group to run as.
    pub group: Option<String>,
    /// How long outstanding queries may take at the end. A reload changes it.
    pub drain: TickDelta,
    /// Interval of the statistics line. A reload changes it.
    pub stats: Option<TickDelta>,
    /// The format of log lines. A reload changes it.
    pub log: LogStyle,
    /// Log verbosely. A reload changes it.
    pub verbose: bool,
    /// Log every failed health check. A reload changes it.
    pub verbose_health: bool,
    /// The console. A reload changes it.
    pub console: Option<Console>,
    /// The web server. A reload changes it.
    pub web: WebSettings,
    /// Functions that are told of something. A reload changes them.
    pub callbacks: Callbacks,
    settings: Settings,
}

impl Boot {
    fn new(draft: &Draft) -> Self {
        let settings = &draft.settings;
        let text = |key| settings.text(key);
        let cpus = settings.cpus(Key::Cpus);
        let listed = u16::try_from(cpus.len()).ok().filter(|n| *n > 0);
        let written = settings.number(Key::Shards).and_then(|n| u16::try_from(n).ok());
        Self {
            shards: written.or(listed),
            cpus,
            steer: match text(Key::Steer).as_deref() {
                Some("cpu") => Steer::Cpu,
                Some("client") => Steer::Client,
                _ => Steer::Flow,
            },
            busy_poll_us: settings.number(Key::BusyPoll).unwrap_or(0),
            batch_packets: settings.number(Key::Batch).unwrap_or(64) as usize,
            backends_max: settings.number(Key::BackendsMax).unwrap_or(1024) as usize,
            traffic_ring: settings.number(Key::TrafficRing).unwrap_or(0) as usize,
            user: text(Key::User),
            group: text(Key::Group),
            drain: settings.span(Key::Drain).unwrap_or_default(),
            stats: settings.span(Key::Stats),
            log: LogStyle::of(settings),
            verbose: settings.switch(Key::Verbose),
            verbose_health: settings.switch(Key::VerboseHealth),
            console: draft.console.compile(settings),
            web: WebSettings { names: MetricNames::of(settings), ..draft.web.clone() },
            callbacks: draft.callbacks.clone(),
            settings: settings.clone(),
        }
    }

    /// Returns the settings in which `other` differs and that need a restart, as `name: old ->
    /// new`.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let shown = |v: Option<Value>| v.map_or_else(|| "unset".to_owned(), |v| v.to_string());
        SETTINGS
            .iter()
            .filter(|s| !s.reload)
            .map(|s| (s.name, self.settings.value(s.key), other.settings.value(s.key)))
            .filter(|(_, old, new)| old != new)
            .map(|(name, old, new)| format!("{name}: {} -> {}", shown(old), shown(new)))
            .collect()
    }
}

/// Compiles a draft; `slots` are those of the running configuration, or empty ones.
///
/// # Errors
/// All errors, the draft's own first.
pub fn compile(draft: &Draft, slots: &Slots, generation: u64) -> Result<Compiled, Vec<ConfigError>> {
    let mut errors = draft.errors.clone();
    let boot = Boot::new(draft);
    let mut slots = slots.clone();
    let mut listeners = listeners(draft, &mut errors);
    let standing: Vec<&DraftServer> = draft.servers.iter().filter(|s| !s.removed).collect();
    loops::refuse(draft, &standing, &listeners, &mut errors);
    let mut backends = backends(draft, &standing, &mut errors);
    let copies = chains::copies(draft);
    backends.extend(copies.iter().map(|tee| hidden(tee, &draft.settings)));
    let before_targets = backends.len();
    let sockets = socket_options(&draft.settings);
    backends.extend(draft.relays.iter().flat_map(|f| relays::targets(f, sockets)));
    if let Err(full) = slots.assign_listeners(&mut listeners) {
        errors.push(too_many(
            draft.listeners.last().map(|l| &l.origin),
            full,
            "listeners",
            LISTENERS_MAX,
            "",
        ));
    }
    if let Err(full) = slots.assign_backends(&mut backends, boot.backends_max) {
        let origin = standing.last().map(|s| &s.origin);
        errors.push(too_many(origin, full, "servers", boot.backends_max, " (backends-max)"));
    }
    let pools = pools(draft, &standing, &backends, &backends[before_targets..], &mut slots, &mut errors);
    let identities = chains::identities(draft, &mut errors);
    if !errors.is_empty() {
        return Err(errors.into_list());
    }
    let (rule_slots, rules_fresh) =
        slots.assign_rules(&chains::slot_identities(&identities)).map_err(|full| {
            let last = draft.rules.last_origin();
            vec![too_many(last, full, "rules", RULES_MAX, "")]
        })?;
    // The relays' listeners come after all others.
    let own = listeners.len() - draft.relays.len();
    for (listener, relay) in listeners[own..].iter_mut().zip(&draft.relays) {
        let name = relay.name();
        let pool = pools.iter().position(|p| p.name == name).and_then(|at| u16::try_from(at).ok());
        listener.service = relays::service(relay, draft, pool.map_or(PoolSlot::NONE, PoolSlot));
    }
    // The targets of copies come after the configured servers.
    let hidden = backends[standing.len()..].iter().map(|b| b.slot);
    let targets = chains::Targets::new(&pools, copies.into_iter().zip(hidden));
    let chains = chains::compile(draft, &identities, &rule_slots, &targets);
    backends[..standing.len()].sort_by_key(|b| b.order);
    let snapshot = Snapshot {
        generation,
        listing: backends.iter().map(|b| b.slot).collect(),
        listeners: listeners.into_iter().map(Arc::new).collect(),
        backends: by_slot(backends),
        pools,
        acl: draft.allowed(),
        chains,
        rules_fresh,
        limits: chains::limits(draft),
        script: draft.script.clone(),
        globals: globals::globals(draft),
        shown: Shown {
            acl: prefix::listed(&draft.acl_listed()),
            console: draft.console.address,
            web_tls: draft.web.address.zip(draft.web.tls.clone()),
            outstanding_max: draft.settings.number(Key::OutstandingMax).unwrap_or_default(),
            verbose: boot.verbose,
            verbose_checks: boot.verbose_health,
        },
    };
    Ok(Compiled { boot, snapshot, slots })
}

fn too_many(origin: Option<&Origin>, full: Full, things: &str, max: usize, setting: &str) -> ConfigError {
    let origin = origin.cloned().unwrap_or_else(Origin::command_line);
    let what = match full.retired {
        0 => format!("{} {things}", full.wanted),
        n => format!("{} {things}, with {n} removed ones that still finish", full.wanted),
    };
    ConfigError::new(&origin, "", Fault::Limit { what, limit: format!("{max}{setting}") })
}

fn socket_options(settings: &Settings) -> SocketOptions {
    SocketOptions {
        receive_buffer: settings.number(Key::ReceiveBuffer).unwrap_or(0),
        send_buffer: settings.number(Key::SendBuffer).unwrap_or(0),
    }
}

/// Returns the listeners as they are written, besides relays; without any that of dnsdist.
#[must_use]
pub fn written_listeners(draft: &Draft) -> Cow<'_, [DraftListener]> {
    // A configuration with nothing but relays serves no DNS.
    let only_forwards = !draft.relays.is_empty() && draft.servers.is_empty();
    // A listener with TLS is not replaced by a plain one.
    if !draft.listeners.is_empty() || only_forwards || !draft.left_out.is_empty() {
        return Cow::Borrowed(&draft.listeners);
    }
    Cow::Owned(vec![DraftListener {
        origin: Origin::command_line(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT)),
        interface: None,
        reuse_port: false,
        freebind: false,
        dscp: 0,
        service: Service::Dns,
        connection_options: ConnectionOptions::default(),
        proxy: ProxyHeader::default(),
    }])
}

/// Returns the listeners without slots; by default dnsdist's.
fn listeners(draft: &Draft, errors: &mut Errors) -> Vec<Listener> {
    let key = draft.settings.text(Key::FastOpenKey).and_then(|key| value::fast_open_key(&key).ok());
    let written = written_listeners(draft);
    let mut listeners = Vec::with_capacity(written.len() + draft.relays.len());
    for l in written.iter() {
        listeners.push(Listener {
            slot: ListenerSlot(0),
            address: l.address,
            interface: l.interface.clone(),
            reuse_port: l.reuse_port,
            freebind: l.freebind,
            sockets: socket_options(&draft.settings),
            dscp: l.dscp,
            service: l.service.clone(),
            connection_options: ConnectionOptions { fast_open_key: key, ..l.connection_options },
            proxy: l.proxy,
        });
    }
    let sockets = socket_options(&draft.settings);
    let connection_options = |l: Listener| ConnectionOptions { fast_open_key: key, ..l.connection_options };
    listeners.extend(draft.relays.iter().map(|f| {
        let listener = relays::listener(f, draft, sockets);
        Listener { connection_options: connection_options(listener.clone()), ..listener }
    }));
    let function = |l: &DraftListener| if l.service.tls().is_some() { "addTLSLocal" } else { "addLocal" };
    let origins = written.iter().map(|l| (&l.origin, function(l)));
    let origins = origins.chain(draft.relays.iter().map(|f| (&f.origin, f.function())));
    refuse_listeners_twice(&listeners, origins, errors);
    listeners
}

/// Refuses two listeners for the same datagrams or connections.
fn refuse_listeners_twice<'d>(
    listeners: &[Listener],
    origins: impl Iterator<Item = (&'d Origin, &'static str)>,
    errors: &mut Errors,
) {
    let mut seen: HashMap<(SocketAddr, Option<&str>, bool), &Origin> = HashMap::new();
    for (l, (origin, function)) in listeners.iter().zip(origins) {
        let place = |streams| (l.address, l.interface.as_deref(), streams);
        let datagrams = l.service.takes_datagrams().then(|| seen.insert(place(false), origin)).flatten();
        let streams = l.service.takes_connections().then(|| seen.insert(place(true), origin)).flatten();
        if let Some(first) = datagrams.or(streams) {
            let fault =
                Fault::Duplicate { what: format!("the listener {}", l.address), first: first.clone() };
            errors.push(ConfigError::new(origin, function, fault));
        }
    }
}

/// Returns the backends without slots, each with its own identity: servers of one address without
/// `id` are told apart by their number.
fn backends(draft: &Draft, standing: &[&DraftServer], errors: &mut Errors) -> Vec<Backend> {
    let mut explicit: HashMap<&str, &Origin> = HashMap::new();
    for s in standing {
        let Some(id) = s.id.as_deref() else { continue };
        if let Some(first) = explicit.get(id) {
            let fault = Fault::Duplicate { what: format!("id \"{id}\""), first: (*first).clone() };
            errors.push(ConfigError::new(&s.origin, "newServer", fault));
        } else {
            explicit.insert(id, &s.origin);
        }
    }
    let mut occurrences: HashMap<SocketAddr, u32> = HashMap::new();
    let settings = &draft.settings;
    let mut backends = Vec::with_capacity(standing.len());
    for s in standing {
        if s.source.is_some_and(|ip| ip.is_ipv4() != s.address.is_ipv4()) {
            errors.push(ConfigError::new(
                &s.origin,
                "newServer",
                Fault::value("source", "of another family than the address", "both IPv4 or both IPv6"),
            ));
        }
        let id = s.id.clone().unwrap_or_else(|| {
            let nth = occurrences.entry(s.address).and_modify(|n| *n += 1).or_insert(1);
            if *nth == 1 { s.address.to_string() } else { format!("{}#{nth}", s.address) }
        });
        let mut health = s.health.clone();
        health.judge = health.judge.or(draft.judge);
        let plain = plain(s.address, settings);
        backends.push(Backend {
            id,
            name: s.display_name(),
            order: s.order,
            weight: s.weight,
            qps: s.qps,
            timeout: s.timeout.unwrap_or(plain.timeout),
            sockets: s.sockets.unwrap_or(plain.sockets),
            outstanding_max: s.outstanding_max.unwrap_or(plain.outstanding_max),
            outstanding_soft_max: s.outstanding_soft_max,
            source: s.source,
            source_interface: s.source_interface.clone(),
            dscp: s.dscp,
            health,
            use_client_subnet: s.use_client_subnet,
            connections: backend_connections(&s.connections, settings),
            client_address: s.client_address,
            ..plain
        });
    }
    backends
}

/// Returns a server of which only the address is written, without a slot.
fn plain(address: SocketAddr, settings: &Settings) -> Backend {
    let default = Backend::new(BackendSlot(0), address);
    Backend {
        timeout: settings.number(Key::UdpTimeout).map_or(default.timeout, |ms| TickDelta::from_ms(ms.into())),
        sockets: settings.number(Key::Sockets).and_then(|n| u8::try_from(n).ok()).unwrap_or(default.sockets),
        outstanding_max: settings.number(Key::OutstandingMax).unwrap_or(default.outstanding_max),
        socket_options: socket_options(settings),
        connections: backend_connections(&default.connections, settings),
        ..default
    }
}

/// Merges a server's connection options with the global ones.
fn backend_connections(written: &BackendConnectionOptions, settings: &Settings) -> BackendConnectionOptions {
    let default = BackendConnectionOptions::default();
    BackendConnectionOptions {
        kept: settings.number(Key::BackendConnectionsKept).unwrap_or(default.kept),
        idle: settings
            .number(Key::BackendConnectionsIdle)
            .map_or(default.idle, |ms| TickDelta::from_ms(ms.into())),
        ..written.clone()
    }
}

/// Builds the server that copies of queries go to: in no pool, never checked.
fn hidden(tee: &Tee, settings: &Settings) -> Backend {
    let source = tee.source.map(|ip| format!(" from {ip}")).unwrap_or_default();
    let id = format!("tee {}{}{source}", tee.address, if tee.add_ecs { " with ECS" } else { "" });
    let plain = plain(tee.address, settings);
    Backend {
        name: id.clone(),
        id,
        source: tee.source,
        health: Health { mode: HealthMode::Up, ..plain.health },
        use_client_subnet: tee.add_ecs,
        tee: true,
        ..plain
    }
}

fn by_slot(backends: Vec<Backend>) -> Vec<Option<Arc<Backend>>> {
    let slots = backends.iter().map(|b| b.slot.index() + 1).max().unwrap_or(0);
    let mut table = vec![None; slots];
    for backend in backends {
        let at = backend.slot.index();
        table[at] = Some(Arc::new(backend));
    }
    table
}

/// What the default pool, whose name is empty, is called where a name is needed.
pub(crate) const DEFAULT_POOL: &str = "_default_";

/// Returns the default pool, then the others in the order in which they were first named.
fn pools(
    draft: &Draft,
    standing: &[&DraftServer],
    backends: &[Backend],
    targets: &[Backend],
    slots: &mut Slots,
    errors: &mut Errors,
) -> Vec<Pool> {
    let mut names = vec![""];
    let mut members: HashMap<&str, Vec<&Backend>> = HashMap::new();
    for (server, backend) in standing.iter().zip(backends) {
        for pool in server.pools.iter() {
            let list = members.entry(pool).or_insert_with(|| {
                if !pool.is_empty() {
                    names.push(pool);
                }
                Vec::new()
            });
            list.push(backend);
        }
    }
    names.extend(
        draft.pools.iter().map(|p| p.name.as_str()).filter(|n| !n.is_empty() && !members.contains_key(n)),
    );
    // As in dnsdist, a pool that only a rule names exists without a server.
    let mut known: HashSet<&str> = names.iter().copied().collect();
    chains::pool_names(draft, &mut |name| {
        if known.insert(name) {
            names.push(name);
        }
    });
    if known.contains(DEFAULT_POOL) {
        let fault = Fault::Conflict {
            wrong: format!(
                "a pool is called \"{DEFAULT_POOL}\", as the API and metrics call the default pool"
            ),
            expected: "\"\" for the default pool, or another name".to_owned(),
        };
        let (origin, function) = pool_origin(draft, standing, DEFAULT_POOL);
        errors.push(ConfigError::new(&origin, function, fault));
    }
    let forwarding = relay_pools(draft, targets);
    for (name, (relay, _)) in &forwarding {
        if known.contains(name.as_str()) {
            let fault = Fault::Conflict {
                wrong: format!("a pool is called \"{name}\", like the pool of this relay"),
                expected: "another name for that pool".to_owned(),
            };
            errors.push(ConfigError::new(&relay.origin, relay.function(), fault));
        }
        names.push(name);
    }
    let by_slot = slots.order_pools(&names);
    // The last slot means no pool.
    if by_slot.len() >= usize::from(u16::MAX) {
        let fault = too_many_pools(&by_slot);
        let (origin, function) = pool_origin(draft, standing, names.last().copied().unwrap_or_default());
        errors.push(ConfigError::new(&origin, function, fault));
    }
    let fallback = draft.default_policy();
    let settings_of: HashMap<&str, _> = draft.pools.iter().map(|p| (p.name.as_str(), p)).collect();
    let policy_of =
        |name: &str| settings_of.get(name).and_then(|p| p.policy.as_ref()).map_or(&fallback, |p| &p.value);
    refuse_two_shares(standing, |pool| policy_of(pool).kind == Kind::Concentrate, errors);
    let disable_zero_scope: HashSet<&str> =
        standing.iter().filter(|s| s.disable_zero_scope).flat_map(|s| s.pools.iter()).collect();
    let caches = caches::build(draft, errors);
    by_slot
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let name = *name;
            if at > 0 && name.is_empty() {
                return Pool::default();
            }
            if let Some((relay, targets)) = forwarding.get(name) {
                return relays::pool(relay, targets, &draft.settings);
            }
            let mut servers = members.remove(name).unwrap_or_default();
            servers.sort_by_key(|b| b.order);
            let policy = with_globals(policy_of(name).clone(), &draft.settings);
            let settings = settings_of.get(name);
            Pool {
                name: name.to_owned(),
                members: servers.iter().map(|b| b.slot).collect(),
                ring: ring(&policy, &servers),
                policy,
                retry: settings.and_then(|p| p.retry),
                panic_ppm: settings.map_or(0, |p| p.panic_ppm),
                eject: settings.and_then(|p| p.eject),
                tcp_to_udp: settings.is_some_and(|p| p.tcp_to_udp),
                cache: settings.and_then(|p| caches.get(&p.cache?).cloned()),
                cache_number: settings.and_then(|p| p.cache),
                sends_subnet: servers.iter().any(|b| b.use_client_subnet),
                zero_scope: !settings.is_some_and(|p| p.disable_zero_scope)
                    && !disable_zero_scope.contains(name),
            }
        })
        .collect()
}

/// Returns the place that names a pool, and the function there.
fn pool_origin(draft: &Draft, standing: &[&DraftServer], name: &str) -> (Origin, &'static str) {
    let server = standing.iter().find(|s| s.pools.iter().any(|p| p == name));
    let relay = || draft.relays.iter().find(|relay| relay.name() == name);
    let settings = draft.pools.iter().find(|p| p.name == name);
    if let Some(server) = server {
        (server.origin.clone(), "newServer")
    } else if let Some(relay) = relay() {
        (relay.origin.clone(), relay.function())
    } else if let Some(policy) = settings.and_then(|p| p.policy.as_ref()) {
        (policy.origin.clone(), "setPoolServerPolicy")
    } else if let Some(origin) = settings.and_then(|p| p.origin.as_ref()) {
        (origin.clone(), "getPool")
    } else if let Some((origin, function)) = chains::pool_origin(draft, name) {
        (origin.clone(), function)
    } else {
        (Origin::command_line(), "")
    }
}

/// Returns the relays by the names of their pools, each with its targets.
fn relay_pools<'d>(
    draft: &'d Draft,
    targets: &'d [Backend],
) -> BTreeMap<String, (&'d DraftRelay, &'d [Backend])> {
    let mut rest = targets;
    let pools = draft.relays.iter().map(|relay| {
        let (own, behind) = rest.split_at(relay.to.len().min(rest.len()));
        rest = behind;
        (relay.name(), (relay, own))
    });
    pools.collect()
}

/// Refuses a server in two pools with `concentrate`, because the live state has one share per
/// server.
fn refuse_two_shares(standing: &[&DraftServer], concentrates: impl Fn(&str) -> bool, errors: &mut Errors) {
    for s in standing {
        let mut pools = s.pools.iter().filter(|p| concentrates(p));
        if let (Some(one), Some(other)) = (pools.next(), pools.next()) {
            let wrong = format!(
                "the server is in pools \"{one}\" and \"{other}\", which both have the policy concentrate"
            );
            let expected = "one such pool for a server, whose share it sets".to_owned();
            errors.push(ConfigError::new(&s.origin, "newServer", Fault::Conflict { wrong, expected }));
        }
    }
}

/// Applies dnsdist's global policy settings where the policy has none.
fn with_globals(mut policy: Policy, settings: &Settings) -> Policy {
    let factor = match policy.kind {
        Kind::WRandom | Kind::WHashed | Kind::OrderedWRandUntag => settings.factor(Key::BalancingFactor),
        Kind::CHashed => settings.factor(Key::ConsistentFactor),
        Kind::LeastOutstanding
        | Kind::FirstAvailable
        | Kind::RoundRobin
        | Kind::P2c
        | Kind::Concentrate
        | Kind::Lua(_) => None,
    };
    policy.bounded = policy.bounded.or(factor);
    policy.seed = settings.number(Key::Perturbation).unwrap_or(0);
    policy
}

/// Builds chashed's ring once, for all shards.
fn ring(policy: &Policy, members: &[&Backend]) -> Option<Arc<Ring>> {
    if policy.kind != Kind::CHashed {
        return None;
    }
    let members: Vec<(BackendSlot, &Backend)> = members.iter().map(|b| (b.slot, *b)).collect();
    Some(Arc::new(Ring::build(&members)))
}
