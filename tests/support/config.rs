//! A configuration for tests: built by hand (backends, one pool, one listener) or compiled from
//! text.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dnslob::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot};
use dnslob::base::prefix::{DEFAULT_ACL, Prefix};
use dnslob::base::rng::ShardRng;
use dnslob::config;
use dnslob::config::{Compiled, Flags, Slots};
use dnslob::lua::front_end;
use dnslob::model::Ring;
use dnslob::model::policy::{Kind, Policy};
use dnslob::model::{
    Backend, ConnectionOptions, Globals, Health, HealthMode, Listener, Pool, ProxyHeader, Retry, Service,
    Snapshot, SocketOptions,
};
use dnslob::shard::Shard;
use dnslob::stats::live::{LiveState, State};

/// The parts of a snapshot that tests vary.
#[derive(Clone, Debug)]
pub(crate) struct TestConfig {
    pub(crate) generation: u64,
    /// Indexed by slot.
    pub(crate) backends: Vec<Option<Backend>>,
    pub(crate) policy: Policy,
    pub(crate) retry: Option<Retry>,
    pub(crate) globals: Globals,
    pub(crate) acl: Vec<Prefix>,
    pub(crate) listeners: Vec<Arc<Listener>>,
}

impl TestConfig {
    /// Creates `backends` backends on 127.0.1.x and a listener on 127.0.0.1:5300.
    pub(crate) fn new(backends: usize) -> Self {
        Self {
            generation: 1,
            backends: (0..backends).map(|at| Some(backend(at))).collect(),
            policy: Policy::new(Kind::LeastOutstanding),
            retry: None,
            globals: Globals::default(),
            acl: DEFAULT_ACL.iter().map(|n| n.parse().expect("a network")).collect(),
            listeners: vec![Arc::new(listener("127.0.0.1:5300"))],
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        let mut members: Vec<&Backend> = self.backends.iter().flatten().collect();
        members.sort_by_key(|b| b.order);
        let with_slots: Vec<(BackendSlot, &Backend)> = members.iter().map(|b| (b.slot, *b)).collect();
        let pool = Pool {
            name: String::new(),
            members: members.iter().map(|b| b.slot).collect(),
            policy: self.policy.clone(),
            ring: (self.policy.kind == Kind::CHashed).then(|| Arc::new(Ring::build(&with_slots))),
            retry: self.retry,
            panic_ppm: 0,
            eject: None,
            ..Pool::default()
        };
        Arc::new(Snapshot {
            generation: self.generation,
            listeners: self.listeners.clone(),
            backends: self.backends.iter().map(|b| b.clone().map(Arc::new)).collect(),
            pools: vec![pool],
            acl: self.acl.iter().copied().collect(),
            globals: self.globals.clone(),
            ..Snapshot::default()
        })
    }

    /// Returns a live state with every backend up.
    pub(crate) fn live_state(&self, shards: usize, backends_max: usize) -> Arc<LiveState> {
        let live_state = LiveState::new(shards, backends_max);
        for backend in self.backends.iter().flatten() {
            live_state.set_state(backend.slot, State::Up);
        }
        Arc::new(live_state)
    }

    /// Returns a single shard.
    pub(crate) fn shard(&self, seed: u64) -> (Shard, Arc<LiveState>, Arc<Snapshot>) {
        let live_state = self.live_state(1, self.backends.len().max(1));
        let snapshot = self.snapshot();
        let shard = Shard::new(0, live_state.clone(), snapshot.clone(), ShardRng::from_seed(seed));
        (shard, live_state, snapshot)
    }
}

/// Returns the backend of slot `at`.
pub(crate) fn backend(at: usize) -> Backend {
    let slot = u16::try_from(at).expect("a slot");
    let [high, low] = slot.to_be_bytes();
    let address = std::net::SocketAddr::from(([127, 0, high + 1, low], 53));
    Backend {
        health: Health { mode: HealthMode::Up, ..Health::default() },
        ..Backend::new(BackendSlot(slot), address)
    }
}

pub(crate) fn listener(address: &str) -> Listener {
    Listener {
        slot: ListenerSlot(0),
        address: address.parse().expect("an address"),
        interface: None,
        reuse_port: false,
        freebind: false,
        sockets: SocketOptions::default(),
        dscp: 0,
        service: Service::Dns,
        connection_options: ConnectionOptions::default(),
        proxy: ProxyHeader::default(),
    }
}

/// Returns a client of the first listener.
pub(crate) fn client(address: &str) -> Client {
    let peer: std::net::SocketAddr = address.parse().expect("an address");
    Client {
        peer: Endpoint::from(peer),
        listener: ListenerSlot(0),
        local: LocalSlot::LISTENER,
        connection: None,
    }
}

/// Compiles the configuration `text`, continuing from `slots`. Panics with every error.
pub(crate) fn configured(text: &str, slots: &Slots, generation: u64) -> Compiled {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Relaxed);
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{}-{number}.lua", std::process::id()));
    std::fs::write(&file, text).expect("a file for the configuration");
    let flags = Flags { file: Some(file.clone()), ..Flags::default() };
    let result = front_end::load(&flags).and_then(|loaded| config::compile(&loaded.draft, slots, generation));
    std::fs::remove_file(&file).expect("the file is still there");
    result.unwrap_or_else(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{text}\n{}", lines.join("\n"))
    })
}
