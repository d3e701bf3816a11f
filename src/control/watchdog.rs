//! The watchdog of a service manager: a sign of life only while every shard turns.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::time::{Tick, TickDelta};
use crate::stats::live::LiveState;

/// Tells the service manager that we live, but only while every shard does.
#[derive(Debug)]
pub(super) struct Watchdog {
    period: TickDelta,
    pub(super) at: Tick,
    heartbeats: BTreeMap<usize, u64>,
    /// What the last look found.
    alive: bool,
}

impl Watchdog {
    pub(super) fn new(period: Duration, now: Tick) -> Self {
        let period = TickDelta::from(period);
        Self { period, at: now + period, heartbeats: BTreeMap::new(), alive: true }
    }

    /// Whether it is time to say so and every shard has turned since the last time.
    pub(super) fn is_alive(&mut self, live_state: &LiveState, now: Tick) -> bool {
        if now < self.at {
            return false;
        }
        self.at = now + self.period;
        let mut alive = true;
        for (shard, stats) in live_state.shards().iter().enumerate() {
            let beat = stats.heartbeat.load(Relaxed);
            if self.heartbeats.insert(shard, beat) == Some(beat) {
                tracing::error!(shard, "a shard hangs: the service manager is not told that we live");
                alive = false;
            }
        }
        self.alive = alive;
        alive
    }

    /// Whether every shard turned when it was last time to look; looks if it is time now. Between
    /// two times a shard without traffic may rest, which proves nothing.
    pub(super) fn was_alive(&mut self, live_state: &LiveState, now: Tick) -> bool {
        self.is_alive(live_state, now) || self.alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_barks_for_one_hanging_shard() {
        let live_state = LiveState::new(2, 1);
        let mut watchdog = Watchdog::new(Duration::from_secs(1), Tick(0));
        let second = |n: u64| Tick(n * 1_000_000_000);
        assert!(!watchdog.is_alive(&live_state, Tick(1)), "not yet due");
        assert!(watchdog.is_alive(&live_state, second(1)));
        live_state.shards()[0].heartbeat.store(1, Relaxed);
        live_state.shards()[1].heartbeat.store(1, Relaxed);
        assert!(watchdog.is_alive(&live_state, second(2)));
        live_state.shards()[0].heartbeat.store(2, Relaxed);
        assert!(!watchdog.is_alive(&live_state, second(3)), "shard 1 stands still");
    }

    #[test]
    fn out_of_turn_the_watchdog_knows_what_it_last_saw() {
        let live_state = LiveState::new(1, 1);
        let mut watchdog = Watchdog::new(Duration::from_secs(1), Tick(0));
        let ms = |n: u64| Tick(n * 1_000_000);
        assert!(watchdog.was_alive(&live_state, ms(1)), "nothing has been seen that speaks against it");
        assert!(watchdog.was_alive(&live_state, ms(1_000)), "the first look has nothing to compare with");
        assert!(watchdog.was_alive(&live_state, ms(1_500)), "too early for another");
        assert!(!watchdog.was_alive(&live_state, ms(2_000)), "time to look: it stands still");
        assert!(!watchdog.was_alive(&live_state, ms(2_500)), "and is remembered");
        live_state.shards()[0].heartbeat.store(1, Relaxed);
        assert!(watchdog.was_alive(&live_state, ms(3_000)));
    }
}
