//! File descriptors that connections and flows may have, counted over all shards.
//!
//! ```text
//!  limit (RLIMIT_NOFILE) = reserve: listeners, UDP sockets towards servers, checks, logs, control
//!                        + a pool for each use below, none of which can take from another
//!
//!  take ─► Some(Permit) ─► ... ─► dropped: given back
//!       └► None: the pool is used up. The oldest idle user of the own shard makes room; where it
//!          has none, `want` asks the other shards to end one of theirs.
//! ```
//!
//! A pool is asked once a connection or flow, never once a packet. How large each is, the control
//! plane computes from the limit and the configuration.

use crate::base::reasons::reasons;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Requests to other shards that are remembered: more are made again soon.
const WANTED_MAX: u32 = 64;

reasons! {
    /// What descriptors are used for, besides the reserve.
    Use {
        /// Connections of clients that ask DNS.
        Clients = "clients",
        /// Connections to servers.
        Servers = "servers",
        /// Relayed connections of forwards: two each.
        Relayed = "relayed",
        /// Flows of forwards.
        Flows = "flows",
        /// Pipes that relayed bytes pass through: two each.
        Pipes = "pipes",
        /// Connections that we have closed and their clients may not have.
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

/// Those of one use. Aligned so that shards which use different pools share no cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Pool {
    max: AtomicU32,
    used: AtomicU32,
    /// Descriptors that a shard could not find among its own idle users.
    wanted: AtomicU32,
}

/// How the limit is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Descriptors that the process may have.
    pub limit: u32,
    /// Of these, those for what is no connection and no flow.
    pub reserve: u32,
    /// Those of each use, in the order of [`Use::ALL`].
    pub pools: [u32; Use::ALL.len()],
}

/// The right to so many descriptors; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    descriptors: Arc<Descriptors>,
    usage: Use,
    count: u32,
}

impl Default for Descriptors {
    /// Without a limit.
    fn default() -> Self {
        let pool =
            |_| Pool { max: AtomicU32::new(u32::MAX), used: AtomicU32::new(0), wanted: AtomicU32::new(0) };
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
    /// Divides anew. Pools that have more than they may from then on shrink as their users end.
    pub fn divide(&self, division: &Division) {
        self.limit.store(division.limit, Relaxed);
        self.reserve.store(division.reserve, Relaxed);
        for (pool, max) in self.pools.iter().zip(division.pools) {
            pool.max.store(max, Relaxed);
        }
    }

    /// As they are divided at present.
    #[must_use]
    pub fn division(&self) -> Division {
        let (limit, reserve) = self.limit_and_reserve();
        Division { limit, reserve, pools: Use::ALL.map(|usage| self.max(usage)) }
    }

    /// Takes `count` descriptors; none when the pool has not as many left.
    pub fn take(self: &Arc<Self>, usage: Use, count: u32) -> Option<Permit> {
        let pool = self.pool(usage);
        let max = pool.max.load(Relaxed);
        let more = |used: u32| used.checked_add(count).filter(|sum| *sum <= max);
        pool.used.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Permit { descriptors: Arc::clone(self), usage, count })
    }

    /// A new user was refused, with none in its shard to make room: another shard is to end one.
    pub fn want(&self, usage: Use) {
        let more = |wanted: u32| (wanted < WANTED_MAX).then_some(wanted + 1);
        // More than that are asked for soon enough.
        let _ = self.pool(usage).wanted.fetch_update(Relaxed, Relaxed, more);
        self.refused.fetch_add(1, Relaxed);
    }

    /// How many descriptors are to be given up: those above what may be, and those wanted.
    #[must_use]
    pub fn excess(&self, usage: Use) -> u32 {
        let pool = self.pool(usage);
        let above = pool.used.load(Relaxed).saturating_sub(pool.max.load(Relaxed));
        above.saturating_add(pool.wanted.load(Relaxed))
    }

    /// One user has been told to end, so that there is room for another.
    pub fn evicted(&self) {
        self.evicted.fetch_add(1, Relaxed);
    }

    /// A user of the pool was ended because of [`Descriptors::excess`].
    pub fn met(&self, usage: Use) {
        // Where it was not wanted, it was above what may be.
        let _ = self.pool(usage).wanted.fetch_update(Relaxed, Relaxed, |wanted| wanted.checked_sub(1));
        self.evicted();
    }

    /// Whether no pool has more than it may.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.pools.iter().all(|pool| pool.used.load(Relaxed) <= pool.max.load(Relaxed))
    }

    /// Descriptors in use of a pool.
    #[must_use]
    pub fn used(&self, usage: Use) -> u32 {
        self.pool(usage).used.load(Relaxed)
    }

    /// Descriptors that a pool has.
    #[must_use]
    pub fn max(&self, usage: Use) -> u32 {
        self.pool(usage).max.load(Relaxed)
    }

    /// The limit, and how much of it is in reserve.
    #[must_use]
    pub fn limit_and_reserve(&self) -> (u32, u32) {
        (self.limit.load(Relaxed), self.reserve.load(Relaxed))
    }

    /// Users that made room for others, and users that were refused, since the start.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(max: u32) -> Arc<Descriptors> {
        let descriptors = Descriptors::default();
        descriptors.divide(&Division { limit: 100, reserve: 10, pools: [max; Use::ALL.len()] });
        Arc::new(descriptors)
    }

    #[test]
    fn a_pool_gives_what_it_has_and_takes_it_back() {
        let descriptors = of(3);
        let one = descriptors.take(Use::Flows, 1).expect("room");
        let two = descriptors.take(Use::Flows, 2).expect("room");
        assert!(descriptors.take(Use::Flows, 1).is_none());
        assert!(descriptors.take(Use::Clients, 3).is_some(), "a pool of its own");
        drop(two);
        assert_eq!((descriptors.used(Use::Flows), descriptors.used(Use::Clients)), (1, 0));
        assert!(descriptors.take(Use::Flows, 3).is_none(), "all or nothing");
        drop(one);
        assert_eq!(descriptors.used(Use::Flows), 0);
    }

    #[test]
    fn threads_together_never_have_more_than_there_are() {
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
    fn what_is_wanted_and_what_is_above_the_limit_is_excess() {
        let descriptors = of(2);
        let _kept = descriptors.take(Use::Clients, 2).expect("room");
        assert_eq!(descriptors.excess(Use::Clients), 0);
        descriptors.want(Use::Clients);
        assert_eq!((descriptors.excess(Use::Clients), descriptors.excess(Use::Flows)), (1, 0));
        descriptors.met(Use::Clients);
        assert_eq!((descriptors.excess(Use::Clients), descriptors.fits()), (0, true));
        descriptors.divide(&Division { limit: 100, reserve: 99, pools: [1; Use::ALL.len()] });
        assert_eq!((descriptors.excess(Use::Clients), descriptors.fits()), (1, false));
        (0..1_000).for_each(|_| descriptors.want(Use::Clients));
        assert_eq!(descriptors.excess(Use::Clients), 1 + WANTED_MAX, "bounded");
        assert_eq!(descriptors.evicted_and_refused(), (1, 1_001));
    }
}
