//! The process's file descriptors for connections and flows, counted over all shards.
//!
//! ```text
//!  limit (RLIMIT_NOFILE) = reserve: listeners, UDP sockets towards servers, checks, logs, control
//!                        + a pool for each use below, none of which can take from another
//!
//!  take ─► Some(Permit) ─► ... ─► dropped: returned
//!       └► None: the pool is used up. The oldest idle user of the own shard is evicted; where it
//!          has none, `want` asks the other shards to evict one of theirs.
//! ```
//!
//! A pool is used once per connection or flow, never per packet. The control plane computes the
//! sizes from the limit and the configuration.

use crate::base::reasons::reasons;
use crate::base::time::{Tick, TickDelta};

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Requests to other shards that are remembered: further ones are made again soon.
const WANTED_MAX: u32 = 64;
/// How long a request to other shards stands.
const REQUEST: TickDelta = TickDelta::from_ms(500);
/// A new user that waits has asked again within this time.
const AWAITED: TickDelta = TickDelta::from_ms(20);

reasons! {
    /// The uses of descriptors, besides the reserve.
    Use {
        /// Connections of DNS clients.
        Clients = "clients",
        /// Connections to servers.
        Servers = "servers",
        /// Relayed connections: two each.
        Relayed = "relayed",
        /// Relayed flows.
        Flows = "flows",
        /// Pipes of relayed connections, two each, and the few that are kept for the next ones.
        Pipes = "pipes",
        /// Connections that we have closed, but perhaps not yet their clients.
        DrainingCloses = "draining",
    }
}

/// The descriptors of the process.
#[derive(Debug)]
pub struct Descriptors {
    limit: AtomicU32,
    reserve: AtomicU32,
    pools: [Pool; Use::ALL.len()],
    evicted: AtomicU64,
    refused: AtomicU64,
}

/// The pool of one use. Aligned so that shards which use different pools share no cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Pool {
    max: AtomicU32,
    used: AtomicU32,
    /// Descriptors that a shard requested from other shards' idle users, and when, nanoseconds.
    wanted: AtomicU32,
    wanted_at: AtomicU64,
    /// When a new user that waits last asked, nanoseconds.
    awaited_at: AtomicU64,
}

/// The division of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Descriptors of the process.
    pub limit: u32,
    /// Those for anything but connections and flows.
    pub reserve: u32,
    /// Those of each use, in the order of [`Use::ALL`].
    pub pools: [u32; Use::ALL.len()],
}

/// The right to a number of descriptors; returned when dropped.
#[derive(Debug)]
pub struct Permit {
    descriptors: Arc<Descriptors>,
    usage: Use,
    count: u32,
}

impl Default for Descriptors {
    /// No limit.
    fn default() -> Self {
        let pool = |_| Pool {
            max: AtomicU32::new(u32::MAX),
            used: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            wanted_at: AtomicU64::new(0),
            awaited_at: AtomicU64::new(0),
        };
        Self {
            limit: AtomicU32::new(u32::MAX),
            reserve: AtomicU32::new(0),
            pools: std::array::from_fn(pool),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

impl Descriptors {
    /// Changes the division. Pools above their new size shrink as their users end.
    pub fn divide(&self, division: &Division) {
        self.limit.store(division.limit, Relaxed);
        self.reserve.store(division.reserve, Relaxed);
        for (pool, max) in self.pools.iter().zip(division.pools) {
            pool.max.store(max, Relaxed);
        }
    }

    /// Returns the present division.
    #[must_use]
    pub fn division(&self) -> Division {
        let (limit, reserve) = self.limit_and_reserve();
        Division { limit, reserve, pools: Use::ALL.map(|usage| self.max(usage)) }
    }

    /// Takes `count` descriptors; `None` when the pool has fewer left.
    pub fn take(self: &Arc<Self>, usage: Use, count: u32) -> Option<Permit> {
        let pool = self.pool(usage);
        let max = pool.max.load(Relaxed);
        let more = |used: u32| used.checked_add(count).filter(|sum| *sum <= max);
        pool.used.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Permit { descriptors: Arc::clone(self), usage, count })
    }

    /// Requests that another shard ends a user: a new one was refused, and its shard has none to
    /// evict.
    pub fn want(&self, usage: Use, now: Tick) {
        let pool = self.renewed(usage, now);
        let more = |wanted: u32| (wanted < WANTED_MAX).then_some(wanted + 1);
        // Further requests follow soon enough.
        let _ = pool.wanted.fetch_update(Relaxed, Relaxed, more);
        self.refused.fetch_add(1, Relaxed);
    }

    /// Does the same for a new user that waits, however often it asks.
    pub fn await_one(&self, usage: Use, now: Tick) {
        let pool = self.renewed(usage, now);
        pool.wanted.fetch_max(1, Relaxed);
        pool.awaited_at.store(now.0, Relaxed);
    }

    /// Returns whether a new user waited for a descriptor a moment ago.
    #[must_use]
    pub fn is_awaited(&self, usage: Use, now: Tick) -> bool {
        let awaited_at = self.pool(usage).awaited_at.load(Relaxed);
        awaited_at > 0 && now.since(Tick(awaited_at)) <= AWAITED
    }

    /// Returns the pool, without requests that have expired, for one more at this time.
    fn renewed(&self, usage: Use, now: Tick) -> &Pool {
        let pool = self.pool(usage);
        if is_over(pool.wanted_at.swap(now.0, Relaxed), now) {
            pool.wanted.store(0, Relaxed);
        }
        pool
    }

    /// Returns how many descriptors to give up: those above the limit, and those requested a moment
    /// ago.
    #[must_use]
    pub fn excess(&self, usage: Use, now: Tick) -> u32 {
        let pool = self.pool(usage);
        let above = pool.used.load(Relaxed).saturating_sub(pool.max.load(Relaxed));
        let wanted = pool.wanted.load(Relaxed);
        if wanted == 0 || is_over(pool.wanted_at.load(Relaxed), now) {
            return above;
        }
        above.saturating_add(wanted)
    }

    /// Counts an evicted user.
    pub fn evicted(&self) {
        self.evicted.fetch_add(1, Relaxed);
    }

    /// Notes that a user was ended because of [`Descriptors::excess`].
    pub fn met(&self, usage: Use) {
        // Without a request, it was above the limit.
        let _ = self.pool(usage).wanted.fetch_update(Relaxed, Relaxed, |wanted| wanted.checked_sub(1));
        self.evicted();
    }

    /// Returns whether no pool is above its size.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.pools.iter().all(|pool| pool.used.load(Relaxed) <= pool.max.load(Relaxed))
    }

    /// Returns the used descriptors of a pool.
    #[must_use]
    pub fn used(&self, usage: Use) -> u32 {
        self.pool(usage).used.load(Relaxed)
    }

    /// Returns the size of a pool.
    #[must_use]
    pub fn max(&self, usage: Use) -> u32 {
        self.pool(usage).max.load(Relaxed)
    }

    /// Returns the limit, and the reserve in it.
    #[must_use]
    pub fn limit_and_reserve(&self) -> (u32, u32) {
        (self.limit.load(Relaxed), self.reserve.load(Relaxed))
    }

    /// Returns the evicted and the refused users since the start.
    #[must_use]
    pub fn evicted_and_refused(&self) -> (u64, u64) {
        (self.evicted.load(Relaxed), self.refused.load(Relaxed))
    }

    const fn pool(&self, usage: Use) -> &Pool {
        &self.pools[usage.index()]
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.descriptors.pool(self.usage).used.fetch_sub(self.count, Relaxed);
    }
}

/// Returns whether a request of `wanted_at` has expired: who made it has another descriptor by then,
/// or has given up.
fn is_over(wanted_at: u64, now: Tick) -> bool {
    now.since(Tick(wanted_at)) > REQUEST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(max: u32) -> Arc<Descriptors> {
        let descriptors = Descriptors::default();
        descriptors.divide(&Division { limit: 100, reserve: 10, pools: [max; Use::ALL.len()] });
        Arc::new(descriptors)
    }

    #[test]
    fn dropped_grants_return_to_the_pool() {
        let descriptors = of(3);
        let one = descriptors.take(Use::Flows, 1).expect("available");
        let two = descriptors.take(Use::Flows, 2).expect("available");
        assert!(descriptors.take(Use::Flows, 1).is_none());
        assert!(descriptors.take(Use::Clients, 3).is_some(), "another pool");
        drop(two);
        assert_eq!((descriptors.used(Use::Flows), descriptors.used(Use::Clients)), (1, 0));
        assert!(descriptors.take(Use::Flows, 3).is_none(), "all or nothing");
        drop(one);
        assert_eq!(descriptors.used(Use::Flows), 0);
    }

    #[test]
    fn threads_never_exceed_the_limit() {
        let descriptors = of(100);
        let taken: usize = std::thread::scope(|scope| {
            let all = || (0..1_000).filter_map(|_| descriptors.take(Use::Clients, 1)).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(all)).collect();
            let kept: Vec<_> = threads.into_iter().map(|t| t.join().expect("a thread")).collect();
            kept.iter().map(Vec::len).sum()
        });
        assert_eq!((taken, descriptors.used(Use::Clients)), (100, 0));
    }

    #[test]
    fn requests_and_overuse_are_excess() {
        let (descriptors, now) = (of(2), Tick(7_000_000_000));
        let _kept = descriptors.take(Use::Clients, 2).expect("available");
        assert_eq!(descriptors.excess(Use::Clients, now), 0);
        descriptors.want(Use::Clients, now);
        assert_eq!((descriptors.excess(Use::Clients, now), descriptors.excess(Use::Flows, now)), (1, 0));
        descriptors.met(Use::Clients);
        assert_eq!((descriptors.excess(Use::Clients, now), descriptors.fits()), (0, true));
        descriptors.divide(&Division { limit: 100, reserve: 99, pools: [1; Use::ALL.len()] });
        assert_eq!((descriptors.excess(Use::Clients, now), descriptors.fits()), (1, false));
        (0..1_000).for_each(|_| descriptors.want(Use::Clients, now));
        assert_eq!(descriptors.excess(Use::Clients, now), 1 + WANTED_MAX, "bounded");
        assert_eq!(descriptors.evicted_and_refused(), (1, 1_001));
        let later = now + REQUEST + TickDelta(1);
        assert_eq!(descriptors.excess(Use::Clients, later), 1, "requests expire");
        descriptors.await_one(Use::Clients, later);
        descriptors.await_one(Use::Clients, later);
        assert_eq!(descriptors.excess(Use::Clients, later), 2);
    }
}
