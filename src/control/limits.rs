//! The process's limit of open files, and how its descriptors are divided.
//!
//! Descriptors that service requires (listeners, UDP sockets towards servers, checks, logs) are the
//! reserve, twice that number so that a reload can open its own beside them; the rest is divided
//! among connections and flows. See [`Descriptors`](crate::stats::descriptors).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::base::time::{Tick, TickDelta};
use crate::model::{BACKEND_CONNECTIONS_MAX, Backend, HealthMode, Listener, Service, Snapshot};
use crate::stats::descriptors::{Descriptors, Division, Use};

/// Descriptors of the process: standard streams, the control loop and signals, the service manager,
/// a started program, configuration and certificate files.
const BASE: u32 = 24;
/// Descriptors of a shard: its three epoll sets, its timer, its wake-up descriptor, a connection
/// that is accepted but not admitted yet, files that its scripts read.
const PER_SHARD: u32 = 11;
/// Descriptors of a shard's pipes at most, and of its draining connections.
const PER_SHARD_MOST: u32 = 1_024;
/// Flows of a relay without a limit of its own, per shard.
const FLOWS_MAX: u32 = 65_536;
/// Ephemeral ports if the kernel does not report them.
const PORTS: u32 = 28_232;
/// Interval of the warning that connections or flows were evicted or refused.
const WARNING_INTERVAL: TickDelta = TickDelta::from_ms(10_000);

/// Raises the limit of open files from the soft to the hard limit and returns it: each server and
/// listener has sockets in every shard. On refusal the old limit stays and is logged.
pub fn raise_files() -> u32 {
    let limit = match raise(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            tracing::debug!(from = soft, to = hard, "limit of open files raised");
            hard
        }
        Err(e) => {
            tracing::debug!(error = %e, "cannot raise the limit of open files");
            getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft)
        }
    };
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// Returns the limit before and after.
fn raise(which: Resource) -> nix::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(which)?;
    if soft != hard {
        setrlimit(which, hard, hard)?;
    }
    Ok((soft, hard))
}

/// The resources of this machine and process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The process's descriptors.
    pub descriptors: u32,
    /// Ephemeral ports of the kernel.
    pub ports: u32,
    /// The number of shards.
    pub shards: u32,
    /// Descriptors of console and web server.
    pub operators: u32,
    /// Descriptors that earlier configurations still hold.
    pub stale: u32,
}

impl Resources {
    /// Returns the present resources.
    #[must_use]
    pub fn now(shards: usize) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX);
        Self { descriptors: raise_files(), ports: ports(), shards, operators: 0, stale: 0 }
    }

    /// Subtracts what earlier configurations still hold: their sockets stay open as long as answers
    /// may come. `used` are the descriptors of connections and flows.
    #[must_use]
    pub fn beside(mut self, running: &Snapshot, used: u32) -> Self {
        let open = open_files().map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX));
        self.stale = open.saturating_sub(used).saturating_sub(self.own(&Sockets::of(None, running)));
        self
    }

    /// Returns what the process needs besides connections and flows.
    fn own(&self, sockets: &Sockets<'_>) -> u32 {
        let fixed = BASE.saturating_add(self.shards.saturating_mul(PER_SHARD));
        fixed
            .saturating_add(sockets.count(self.shards))
            .saturating_add(self.operators)
            .saturating_add(self.stale)
    }

    /// Divides the descriptors for a configuration and its predecessor, whose sockets stay open for
    /// a while.
    ///
    /// # Errors
    /// Fails when there are too few for the sockets of both.
    pub fn divide(&self, old: Option<&Snapshot>, new: &Snapshot) -> Result<Divided, String> {
        let standing = Sockets::of(old, new);
        let own = self.own(&standing);
        let limit = self.descriptors;
        let Some(left) = limit.checked_sub(own).filter(|left| *left > 0) else {
            return Err(format!(
                "too few file descriptors: the configuration needs {own} for {} shards, {} listeners and {} \
                 servers{}, and the limit is {limit} (LimitNOFILE= in the unit, ulimit -Hn)",
                self.shards,
                standing.listeners.len(),
                standing.backends.len(),
                match (old, self.stale) {
                    (None, _) => String::new(),
                    (Some(_), 0) => ", those of the running one included".to_owned(),
                    (Some(_), stale) =>
                        format!(", those of the running one and {stale} sockets of earlier ones included"),
                },
            ));
        };
        // A reload opens its sockets beside these.
        let ahead = Sockets::of(None, new).count(self.shards).min(left / 2);
        let demand = standing.demand(self, &[old, Some(new)]);
        let mut pools = share(left - ahead, &demand);
        // Without a connection of its own to a server that takes nothing else, a shard loses queries
        // until another one gives its up.
        let only = new.backends.iter().flatten().filter(|b| !b.target && b.connections.only);
        let least = (only.count() as u32).saturating_mul(self.shards);
        let (clients, servers) = (Use::Clients.index(), Use::Servers.index());
        let more = least.saturating_sub(pools[servers]).min(pools[clients] / 2);
        pools[clients] -= more;
        pools[servers] += more;
        let is_starved = |usage: &Use| demand[usage.index()].most > 0 && pools[usage.index()] == 0;
        let starved = [Use::Clients, Use::Servers, Use::Relayed, Use::Flows].into_iter().filter(is_starved);
        let starved = starved.collect();
        Ok(Divided { division: Division { limit, reserve: own + ahead, pools }, own, starved })
    }
}

/// A division of the descriptors, and what it is not enough for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divided {
    /// The division.
    pub division: Division,
    /// Descriptors that the process needs besides connections and flows.
    pub own: u32,
    /// Uses that the configuration has and that get nothing.
    pub starved: Vec<Use>,
}

impl Divided {
    /// Warns of what it is not enough for. To be called when it takes effect.
    pub fn warn(&self) {
        let (limit, own) = (self.division.limit, self.own);
        for usage in &self.starved {
            let usage = usage.label();
            tracing::warn!(usage, limit, own, "too few file descriptors: none left for these connections");
        }
    }
}

/// What needs sockets in every shard, by slot, of one configuration or of two.
struct Sockets<'s> {
    listeners: BTreeMap<u16, &'s Listener>,
    backends: BTreeMap<u16, &'s Backend>,
    /// Files that rules write to.
    logs: u32,
}

impl<'s> Sockets<'s> {
    fn of(old: Option<&'s Snapshot>, new: &'s Snapshot) -> Self {
        let both = || old.into_iter().chain([new]);
        let listeners = both().flat_map(|s| &s.listeners).map(|l| (l.slot.0, &**l));
        let backends = both().flat_map(|s| s.backends.iter().flatten()).map(|b| (b.slot.0, &**b));
        let logs =
            both().flat_map(|s| s.chains.log_files().into_keys()).collect::<BTreeSet<_>>().len() as u32;
        Self { listeners: listeners.collect(), backends: backends.collect(), logs }
    }

    /// Returns the descriptors that are open as long as the configuration is.
    fn count(&self, shards: u32) -> u32 {
        let of_listener =
            |l: &&Listener| u32::from(l.service.takes_datagrams()) + u32::from(l.service.takes_connections());
        let of_backend = |b: &&Backend| if b.target { 0 } else { u32::from(b.sockets.max(1)) };
        let checks = self.backends.values().filter(|b| is_checked(b)).count() as u32;
        let each = self.listeners.values().map(of_listener).sum::<u32>()
            + self.backends.values().map(of_backend).sum::<u32>();
        each.saturating_mul(shards).saturating_add(checks).saturating_add(self.logs)
    }

    /// Returns how many descriptors each use may want, and its weight.
    fn demand(&self, means: &Resources, snapshots: &[Option<&Snapshot>]) -> [Demand; Use::ALL.len()] {
        let shards = means.shards;
        let (mut streams, mut relayed, mut flows) = (false, Some(0_u32), Some(0_u32));
        for listener in self.listeners.values() {
            // 0 means no limit.
            let add =
                |sum: Option<u32>, most: u32| sum.filter(|_| most > 0).map(|sum| sum.saturating_add(most));
            match &listener.service {
                Service::Dns | Service::Dot(_) => streams = true,
                Service::DnsUdp => {}
                Service::TcpRelay(relay) => relayed = add(relayed, relay.connections.saturating_mul(2)),
                Service::UdpRelay(relay) => {
                    let most = if relay.connections > 0 { relay.connections } else { FLOWS_MAX };
                    flows = add(flows, most.saturating_mul(shards));
                }
            }
        }
        let limits = snapshots.iter().flatten().map(|s| s.globals.client_connections.connections);
        // Without a limit in one of them there is none.
        let clients = limits.map(|limit| if limit == 0 { u32::MAX } else { limit }).max();
        let of_backend = |b: &&Backend| match b.connections.connections {
            0 => BACKEND_CONNECTIONS_MAX,
            connections => connections.min(BACKEND_CONNECTIONS_MAX),
        };
        let servers = self.backends.values().filter(|b| !b.target).map(of_backend);
        let servers = servers.fold(0, u32::saturating_add).saturating_mul(shards);
        let side = shards.saturating_mul(PER_SHARD_MOST);
        let relayed = relayed.unwrap_or(u32::MAX);
        // Each flow takes a local port, as do checks and sockets towards servers.
        let others = self.count(shards).saturating_mul(2);
        let ports = (means.ports / 4 * 3).min(means.ports.saturating_sub(others));
        let flows = flows.unwrap_or(u32::MAX).min(ports);
        Use::ALL.map(|usage| match usage {
            Use::Clients => {
                Demand { most: if streams { clients.unwrap_or_default() } else { 0 }, weight: 12 }
            }
            Use::Servers => Demand { most: servers, weight: 3 },
            Use::Relayed => Demand { most: relayed, weight: 12 },
            Use::Flows => Demand { most: flows, weight: 12 },
            Use::Pipes => Demand { most: side.min(relayed), weight: 3 },
            Use::DrainingCloses => Demand { most: if streams { side } else { 0 }, weight: 1 },
        })
    }
}

fn is_checked(backend: &Backend) -> bool {
    matches!(backend.health.mode, HealthMode::Auto | HealthMode::Lazy)
}

/// The most that a use may want, and its weight.
#[derive(Clone, Copy, Debug)]
struct Demand {
    most: u32,
    weight: u32,
}

/// Divides `total` by weight; what one use does not want goes to the others.
fn share(total: u32, demand: &[Demand; Use::ALL.len()]) -> [u32; Use::ALL.len()] {
    let mut given = [0; Use::ALL.len()];
    let mut open = demand.map(|d| d.most > 0);
    let mut left = u64::from(total);
    loop {
        let weights: u64 =
            (0..open.len()).filter(|at| open[*at]).map(|at| u64::from(demand[at].weight)).sum();
        let part = |at: usize| left * u64::from(demand[at].weight) / weights.max(1);
        let content = (0..open.len()).find(|at| open[*at] && u64::from(demand[*at].most) <= part(*at));
        let Some(at) = content else {
            for at in (0..open.len()).filter(|at| open[*at]) {
                given[at] = part(at) as u32;
            }
            return given;
        };
        (given[at], open[at]) = (demand[at].most, false);
        left -= u64::from(demand[at].most);
    }
}

/// Returns the number of ephemeral ports.
fn ports() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(first), Some(last)) if first <= last => last - first + 1,
        _ => PORTS,
    }
}

/// Returns the number of open descriptors; `None` where the system does not report it.
#[must_use]
pub fn open_files() -> Option<u64> {
    let directory = "/proc/self/fd";
    // Since Linux 6.2 the directory's size is their number; before, they are counted.
    let known = std::fs::metadata(directory).map(|m| m.len()).ok().filter(|n| *n > 0);
    known.or_else(|| Some(std::fs::read_dir(directory).ok()?.count() as u64))
}

/// Warns when connections or flows were evicted or refused for lack of descriptors.
#[derive(Debug, Default)]
pub struct Shortage {
    seen: (u64, u64),
    last_warning: Option<Tick>,
}

impl Shortage {
    /// Returns a warning if one is due.
    pub fn turn(&mut self, descriptors: &Arc<Descriptors>, now: Tick) -> Option<String> {
        let (evicted, refused) = descriptors.evicted_and_refused();
        if (evicted, refused) == self.seen
            || self.last_warning.is_some_and(|at| now.since(at) < WARNING_INTERVAL)
        {
            return None;
        }
        let (more, turned_away) = (evicted - self.seen.0, refused - self.seen.1);
        (self.seen, self.last_warning) = ((evicted, refused), Some(now));
        let full = |usage: &Use| {
            let (used, max) = (descriptors.used(*usage), descriptors.max(*usage));
            format!(", {} {used} of {max}", usage.label())
        };
        let pools = Use::ALL.iter().filter(|usage| descriptors.used(**usage) > 0).map(full);
        let (limit, reserve) = descriptors.limit_and_reserve();
        Some(format!(
            "out of file descriptors: {more} idle connections and flows were closed, {turned_away} new ones \
             refused; limit {limit}, reserve {reserve}{}",
            pools.collect::<String>()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        // The core size: no test depends on it.
        let which = Resource::RLIMIT_CORE;
        let (_, hard) = getrlimit(which).expect("limits");
        setrlimit(which, 0, hard).expect("less is always allowed");
        assert_eq!(raise(which), Ok((0, hard)));
        assert_eq!(getrlimit(which), Ok((hard, hard)));
    }

    #[test]
    fn open_descriptors_are_counted() {
        let before = open_files().expect("the system says so");
        let kept: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").expect("a file")).collect();
        // Other tests open and close files, too.
        assert!(open_files().expect("the system says so") >= before.max(100), "{} files", kept.len());
    }

    fn demand(most: [u32; 6], weight: [u32; 6]) -> [Demand; 6] {
        std::array::from_fn(|at| Demand { most: most[at], weight: weight[at] })
    }

    #[test]
    fn descriptors_are_shared_by_weight() {
        const ALL: u32 = u32::MAX;
        for (total, most, weight, given) in [
            (60, [ALL; 6], [1; 6], [10; 6]),
            (60, [ALL, 0, 0, 0, 0, 0], [1; 6], [60, 0, 0, 0, 0, 0]),
            (60, [ALL, ALL, 0, 0, 0, 0], [2, 1, 9, 9, 9, 9], [40, 20, 0, 0, 0, 0]),
            // The second's surplus goes to the others.
            (60, [ALL, 3, ALL, 0, 0, 0], [2, 1, 1, 1, 1, 1], [38, 3, 19, 0, 0, 0]),
            (60, [1, 2, 3, 4, 5, 6], [1; 6], [1, 2, 3, 4, 5, 6]),
            (0, [ALL; 6], [1; 6], [0; 6]),
            (5, [ALL; 6], [1; 6], [0; 6]),
            (
                ALL,
                [ALL; 6],
                [12, 3, 12, 12, 3, 1],
                [1_198_595_524, 299_648_881, 1_198_595_524, 1_198_595_524, 299_648_881, 99_882_960],
            ),
        ] {
            assert_eq!(share(total, &demand(most, weight)), given, "{total} {most:?} {weight:?}");
        }
    }

    const RESOURCES: Resources =
        Resources { descriptors: 1_000, ports: 1_000, shards: 2, operators: 0, stale: 0 };

    #[test]
    fn the_reserve_covers_the_sockets_of_two_configurations() {
        // Two sockets for each of two shards and three listeners; one for each of two shards and
        // five backends, and one for the check of each.
        let snapshot = fixture::snapshot(1, &[0, 1, 2], &[0, 1, 2, 3, 4]);
        let sockets = 2 * 2 * 3 + 2 * 5 + 5;
        let divided = RESOURCES.divide(None, &snapshot).expect("enough");
        let division = divided.division;
        assert_eq!((division.limit, division.reserve), (1_000, BASE + 2 * PER_SHARD + 2 * sockets));
        assert!(division.pools.iter().sum::<u32>() + division.reserve <= 1_000);
        assert!(division.pools.iter().sum::<u32>() + division.reserve > 990, "nothing is left idle");
        assert_eq!(
            [Use::Relayed, Use::Flows, Use::Pipes].map(|usage| division.pools[usage.index()]),
            [0; 3],
            "without a relay"
        );
        // A reload without changes needs nothing.
        assert_eq!(divided.starved, []);
        assert_eq!(RESOURCES.divide(Some(&snapshot), &snapshot), Ok(divided));
    }

    #[test]
    fn too_few_descriptors_for_the_sockets_is_an_error() {
        let snapshot = fixture::snapshot(1, &[0], &[0, 1]);
        let own = BASE + 2 * PER_SHARD + 4 + 4 + 2;
        for (descriptors, enough) in [(own - 1, false), (own, false), (own + 1, true), (own + 9, true)] {
            let division = Resources { descriptors, ..RESOURCES }.divide(None, &snapshot);
            assert_eq!(division.is_ok(), enough, "{descriptors}: {division:?}");
        }
        let error = Resources { descriptors: 55, ..RESOURCES }.divide(None, &snapshot).expect_err("too few");
        assert!(
            error.contains("too few file descriptors: the configuration needs 56 for 2 shards"),
            "{error}"
        );
        // Beside the current ones there is no space for as many others.
        let means = Resources { descriptors: own + 9, ..RESOURCES };
        means.divide(Some(&snapshot), &snapshot).expect("the same sockets");
        let mut next = fixture::snapshot(2, &[1], &[]);
        next.backends =
            vec![None, None, Some(Arc::new(fixture::backend(2))), Some(Arc::new(fixture::backend(3)))];
        let error = means.divide(Some(&snapshot), &next).expect_err("too few");
        assert!(error.contains("those of the running one included"), "{error}");
    }

    #[test]
    fn uses_that_get_nothing_are_named() {
        let snapshot = fixture::snapshot(1, &[0], &[0, 1]);
        let own = BASE + 2 * PER_SHARD + 4 + 4 + 2;
        let starved = |descriptors| {
            let divided = Resources { descriptors, ..RESOURCES }.divide(None, &snapshot).expect("enough");
            assert_eq!(divided.own, own);
            divided.starved
        };
        assert_eq!(starved(own + 1), [Use::Clients, Use::Servers]);
        assert_eq!(starved(own + 4), [Use::Servers], "clients have more weight");
        assert_eq!(starved(own + 100), []);
    }

    #[test]
    fn every_shard_may_connect_to_servers_that_only_take_connections() {
        let mut snapshot = fixture::snapshot(1, &[0], &[0]);
        let mut backend = fixture::backend(0);
        backend.connections.only = true;
        snapshot.backends[0] = Some(Arc::new(backend));
        let pools = |descriptors| {
            let divided = Resources { descriptors, shards: 4, ..RESOURCES }.divide(None, &snapshot);
            let division = divided.expect("enough").division;
            [Use::Clients, Use::Servers].map(|usage| division.pools[usage.index()])
        };
        let own = Resources { shards: 4, ..RESOURCES }.divide(None, &snapshot).expect("enough").own;
        for more in 0..200 {
            let [clients, servers] = pools(own + 20 + more);
            assert!(servers >= 4 && clients >= 4, "{more}: {clients} {servers}");
        }
    }

    #[test]
    fn configured_limits_are_not_exceeded() {
        let mut snapshot = fixture::snapshot(1, &[0], &[0]);
        snapshot.globals.client_connections.connections = 50;
        let mut backend = fixture::backend(0);
        backend.connections.connections = 10;
        snapshot.backends[0] = Some(Arc::new(backend));
        let division = Resources { descriptors: 1_000_000, ..RESOURCES }
            .divide(None, &snapshot)
            .expect("enough")
            .division;
        assert_eq!([Use::Clients, Use::Servers].map(|usage| division.pools[usage.index()]), [50, 20]);
        // During a reload the higher limit counts.
        let next = fixture::snapshot(2, &[0], &[0]);
        let division = Resources { descriptors: 1_000_000, ..RESOURCES }
            .divide(Some(&snapshot), &next)
            .expect("enough")
            .division;
        assert_eq!(division.pools[Use::Clients.index()], 100_000);
    }

    #[test]
    fn shortage_warnings_are_rare() {
        let descriptors = Arc::<Descriptors>::default();
        let mut shortage = Shortage::default();
        let at = |ms: u64| Tick(ms * 1_000_000);
        assert_eq!(shortage.turn(&descriptors, at(0)), None);
        descriptors.evicted();
        let last_warning = shortage.turn(&descriptors, at(100)).expect("something");
        assert!(
            last_warning.contains("1 idle connections and flows were closed, 0 new ones refused"),
            "{last_warning}"
        );
        descriptors.want(Use::Flows, at(100));
        assert_eq!(shortage.turn(&descriptors, at(200)), None, "too soon");
        let last_warning = shortage.turn(&descriptors, at(10_100)).expect("something");
        assert!(
            last_warning.contains("0 idle connections and flows were closed, 1 new ones refused"),
            "{last_warning}"
        );
        assert_eq!(shortage.turn(&descriptors, at(99_000)), None, "nothing has happened since");
    }
}
